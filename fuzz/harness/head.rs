//! HTTP heads: the request of a client and the response of a server.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode, Version};
use tungstenite::handshake::derive_accept_key;

use crate::fuzzing::testkit::decisions::Decisions;
use crate::fuzzing::testkit::script::{ACCEPT, Script, Then};
use crate::fuzzing::{
    Acceptor, Failure, HandshakeConfig, MAX_HEAD, MAX_HEADERS, Origins, PendingRequest, Socket,
    Step, Target, client, http_response, parse_request, redirects_to, server, subprotocols,
    too_long,
};
use crate::{Error, Request, Transport};

const FAR_AWAY: Duration = Duration::from_secs(3600);

/// A client's request to this crate's server.
pub fn request_head(input: &[u8]) {
    let mut decisions = Decisions::from_bytes(input);
    let bits = decisions.byte();
    let bytes = match bits & 1 {
        0 => decisions.rest().to_vec(),
        _ => written_request(&mut decisions),
    };
    let parsed = parse_request(&bytes);
    check_prefixes(&bytes, &parsed);
    check_arrival(&bytes, bits, &parsed);
    if let Ok(Some((head, length))) = parsed {
        check_answer(&head, bits);
        look_at(head, &bytes[length..]);
    }
}

/// What a request's head is, and its length.
type Parsed = Result<Option<(http::Request<()>, usize)>, StatusCode>;

/// A head is complete with its last byte, and neither complete nor invalid before.
fn check_prefixes(bytes: &[u8], parsed: &Parsed) {
    match parsed {
        Ok(Some((head, length))) => {
            assert!(head.headers().len() <= MAX_HEADERS);
            for end in [length / 2, length - 1] {
                let part = parse_request(&bytes[..end]);
                assert!(matches!(part, Ok(None)), "{end} of {length}: {part:?}");
            }
            let alone = parse_request(&bytes[..*length]);
            assert_eq!(alone.unwrap().unwrap().1, *length);
        }
        Ok(None) => {
            let part = parse_request(&bytes[..bytes.len() / 2]);
            assert!(matches!(part, Ok(None)), "{part:?}");
        }
        Err(status) => {
            assert!(status.is_client_error());
            let more = parse_request(&[bytes, b"x"].concat());
            assert!(more.is_err(), "{more:?}");
        }
    }
}

/// The same bytes, on a socket, in pieces.
fn check_arrival(bytes: &[u8], bits: u8, parsed: &Parsed) {
    let pieces = match bits >> 1 & 3 {
        0 => 1,
        1 => 2,
        2 => 7,
        _ => 40,
    };
    let full = bits & 0xf8 == 0xf8;
    let (here, mut there) = UnixStream::pair().expect("descriptors");
    let mut pending = PendingRequest::new(
        Socket::from(here),
        &Acceptor::default(),
        Instant::now() + FAR_AWAY,
    );
    let mut sent = 0;
    for piece in bytes.chunks(bytes.len() / pieces + 1) {
        // Nobody reads at the other end once the request has arrived.
        there.write_all(piece).expect("room");
        sent += piece.len();
        pending = match pending.go_on() {
            Step::Wait(pending) => pending,
            Step::Complete(complete) if full => {
                let Step::Wait(refused) = complete.refuse(StatusCode::SERVICE_UNAVAILABLE) else {
                    panic!("the client is still there")
                };
                refused
            }
            Step::Complete(complete) => {
                let (_, _, rest) = complete.into_parts();
                let (_, length) = parsed
                    .as_ref()
                    .ok()
                    .and_then(Option::as_ref)
                    .expect("a head");
                assert!(*length <= MAX_HEAD);
                assert!(bytes[*length..sent].starts_with(&rest));
                return;
            }
            Step::Gone => panic!("the client is still there"),
        };
    }
    if matches!(parsed, Ok(None)) && bytes.len() <= MAX_HEAD {
        assert!(!pending.is_refused());
        // A request that comes too late is answered.
        let Step::Wait(refused) = pending.refuse(StatusCode::REQUEST_TIMEOUT) else {
            panic!("the client is still there")
        };
        pending = refused;
    }
    assert!(pending.is_refused());
    drop(pending);
    let mut answer = Vec::new();
    // A socket that is closed with unread bytes is reset, after the answer.
    let _ = there.read_to_end(&mut answer);
    let status = refusal_in(&answer);
    let expected = match parsed {
        Ok(Some((_, length))) if full && *length <= MAX_HEAD => StatusCode::SERVICE_UNAVAILABLE,
        Ok(None) if bytes.len() <= MAX_HEAD => StatusCode::REQUEST_TIMEOUT,
        // Where a head is both invalid and too long, the pieces decide which is noticed first.
        Err(expected) if bytes.len() <= MAX_HEAD => *expected,
        _ => match status {
            StatusCode::BAD_REQUEST => status,
            _ => too_long(&bytes[..MAX_HEAD]),
        },
    };
    assert_eq!(status, expected);
}

/// The status of a response that ends the connection.
fn refusal_in(answer: &[u8]) -> StatusCode {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Response::new(&mut headers);
    let parsed = head.parse(answer);
    let Ok(httparse::Status::Complete(length)) = parsed else {
        panic!("{parsed:?}: {:?}", answer.escape_ascii().to_string())
    };
    let header = |name: &str| {
        let mut found = head.headers.iter().filter(|header| header.name == name);
        let value = found.next().map(|header| header.value.to_vec());
        assert!(found.next().is_none(), "{name} twice");
        value
    };
    let connection = match header("upgrade") {
        Some(_) => &b"close, Upgrade"[..],
        None => b"close",
    };
    assert_eq!(header("connection").as_deref(), Some(connection));
    let body = (answer.len() - length).to_string();
    assert_eq!(header("content-length"), Some(body.into_bytes()));
    let status = StatusCode::from_u16(head.code.unwrap_or_default()).expect("a status");
    assert!(status.is_client_error() || status.is_server_error());
    status
}

/// What a server makes of a request: a client that is accepted has asked as section 4.2.1 says.
fn check_answer(head: &http::Request<()>, bits: u8) {
    let mut origins = Origins::default();
    if bits & 0x10 != 0 {
        origins.allow("https://robot.example".to_owned());
    }
    let supported = ["chat".to_owned(), "superchat".to_owned()];
    let own = (
        HeaderName::from_static("x-robot"),
        HeaderValue::from_static("1"),
    );
    let terms = HandshakeConfig {
        subprotocols: &supported,
        origins: &origins,
        encrypted: bits & 0x40 != 0,
        headers: vec![own],
        deflate: None,
    };
    let wanted = server::wants_websocket(head);
    match server::answer(head, terms) {
        Ok((response, _)) => {
            assert_eq!(response.status(), 101);
            assert!(wanted);
            check_valid(head, bits & 0x40 != 0);
            let key = &head.headers()[header::SEC_WEBSOCKET_KEY];
            let accept = &response.headers()[header::SEC_WEBSOCKET_ACCEPT];
            assert_eq!(
                accept.as_bytes(),
                derive_accept_key(key.as_bytes()).as_bytes()
            );
            let chosen = response.headers().get(header::SEC_WEBSOCKET_PROTOCOL);
            let offered: Vec<_> = subprotocols(head.headers()).collect();
            let expected = supported
                .iter()
                .find(|name| offered.contains(&name.as_str()));
            assert_eq!(
                chosen.map(HeaderValue::as_bytes),
                expected.map(|name| name.as_bytes())
            );
            let bytes = server::acceptance(head, &response);
            let continues = bytes.starts_with(b"HTTP/1.1 100 Continue\r\n\r\n");
            let expects = list(head.headers(), header::EXPECT);
            assert_eq!(continues, !expects.is_empty());
            assert!(expects.iter().all(|what| what == "100-continue"));
            let heads = 1 + usize::from(continues);
            assert_eq!(lines(&bytes), 2 * heads + response.headers().len());
            // This crate's own client accepts the response, except that the key is not its own.
            check_response(Script::server(bytes));
        }
        Err(refusal) => {
            let why = refusal.body();
            let asked_for = [StatusCode::METHOD_NOT_ALLOWED, StatusCode::BAD_REQUEST];
            let status = refusal.status();
            // A request that does not ask for a WebSocket is answered 426, unless it is not even a
            // GET in HTTP/1.1.
            assert!(
                wanted || status == 426 || asked_for.contains(&status),
                "{status}"
            );
            assert!(
                !why.is_empty() && !why.chars().any(char::is_control),
                "{why:?}"
            );
            let bytes = http_response::to_bytes(*refusal, &Method::GET);
            refusal_in(&bytes);
        }
    }
}

fn lines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte == b'\n').count()
}

/// The elements of a list, in lower case.
fn list(headers: &HeaderMap, name: HeaderName) -> Vec<String> {
    let lines = headers.get_all(name).iter();
    let lines: Vec<_> = lines
        .map(|value| String::from_utf8_lossy(value.as_bytes()).to_lowercase())
        .collect();
    let all = lines.join(",");
    let all = all
        .split(',')
        .map(|element| element.trim_matches([' ', '\t']));
    all.filter(|element| !element.is_empty())
        .map(str::to_owned)
        .collect()
}

fn check_valid(head: &http::Request<()>, encrypted: bool) {
    let headers = head.headers();
    let all = |name: HeaderName| headers.get_all(name).iter().map(HeaderValue::as_bytes);
    let only = |name: HeaderName, token: &str| {
        let found = list(headers, name);
        !found.is_empty() && found.iter().all(|found| found == token)
    };
    assert_eq!(head.method(), Method::GET);
    assert_eq!(head.version(), Version::HTTP_11);
    assert_eq!(all(header::HOST).count(), 1);
    let host = String::from_utf8_lossy(headers[header::HOST].as_bytes());
    assert!(
        !host.contains([' ', '\t', '/', '?', '#', '@', '\\', '"']),
        "{host}"
    );
    assert!(head.uri().path().starts_with('/'));
    assert!(only(header::UPGRADE, "websocket"));
    assert!(list(headers, header::CONNECTION).contains(&"upgrade".to_owned()));
    assert!(only(header::SEC_WEBSOCKET_VERSION, "13"));
    let keys: Vec<_> = all(header::SEC_WEBSOCKET_KEY).collect();
    assert_eq!(keys.len(), 1);
    // 16 bytes are 22 characters and two of padding; four bits of the last character do not count.
    let (characters, end) = keys[0].split_at(22);
    let is_character = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/".contains(byte);
    assert!(characters.iter().all(is_character) && end == b"==");
    assert_eq!(all(header::TRANSFER_ENCODING).count(), 0);
    let lengths = list(headers, header::CONTENT_LENGTH);
    assert!(
        lengths
            .iter()
            .all(|length| length.trim_matches('0').is_empty())
    );
    assert!(all(header::ORIGIN).count() <= 1);
    if let (true, Some(origin)) = (encrypted, headers.get(header::ORIGIN)) {
        assert!(
            origin
                .as_bytes()
                .to_ascii_lowercase()
                .starts_with(b"https:")
        );
    }
}

/// What a program asks a request. None of it may fail.
fn look_at(head: http::Request<()>, rest: &[u8]) {
    let (transport, _peer) = Script::client(Vec::new()).connect();
    let request = Request::from_parts(head, transport, rest);
    let offered = request.subprotocols().collect::<Vec<_>>();
    assert!(
        offered
            .iter()
            .all(|name| !name.is_empty() && !name.contains(','))
    );
    if let Some(auth) = request.basic_auth() {
        assert!(!auth.user().contains(':'));
        assert!(auth.matches(auth.user(), auth.password()));
    }
    for text in [
        request.header("origin"),
        request.header("host"),
        Some(request.path()),
        request.query(),
    ] {
        assert!(!text.unwrap_or_default().contains(['\r', '\n']));
    }
    let _ = (request.is_websocket(), format!("{request:?}"));
}

/// A server's response to this crate's client.
pub fn response_head(input: &[u8]) {
    let mut decisions = Decisions::from_bytes(input);
    let bits = decisions.byte();
    let says = match bits & 1 {
        0 => decisions.rest().to_vec(),
        _ => written_response(&mut decisions),
    };
    let pieces = match bits >> 1 & 3 {
        0 => 1,
        1 => 2,
        2 => 7,
        _ => 40,
    };
    check_response(Script {
        piece: says.len() / pieces + 1,
        interrupted: bits & 8 != 0,
        then: match bits >> 4 & 3 {
            0 | 1 => Then::End,
            2 => Then::Reset,
            // The deadline passes immediately.
            _ => Then::Silence,
        },
        ..Script::server(says)
    });
}

fn check_response(script: Script) {
    let (says, then) = (script.sends.clone(), script.then);
    let silent = then == Then::Silence;
    let (transport, peer) = script.connect();
    let mut halves = Box::new(transport).split().expect("two halves");
    let request = asked();
    let follows = says.len() % 2 == 1;
    let deadline = Instant::now()
        + if silent {
            Duration::from_millis(2)
        } else {
            FAR_AWAY
        };
    let offered = ["chat", "superchat"];
    match client::ask(&mut halves, &request, None, follows, deadline) {
        Ok(client::Answer { response, rest, .. }) => {
            let headers = response.headers();
            assert_eq!(response.status(), 101);
            assert!(headers.len() <= MAX_HEADERS);
            assert!(rest.len() < says.len());
            // The response has the key that fits, in place of the sample.
            assert!(
                says.windows(ACCEPT.len())
                    .any(|part| part == ACCEPT.as_bytes())
            );
            let upgrades = list(headers, header::UPGRADE);
            assert!(!upgrades.is_empty() && upgrades.iter().all(|name| name == "websocket"));
            assert!(list(headers, header::CONNECTION).contains(&"upgrade".to_owned()));
            let chosen = list(headers, header::SEC_WEBSOCKET_PROTOCOL);
            assert!(chosen.len() <= 1);
            assert!(chosen.iter().all(|name| offered.contains(&name.as_str())));
            assert!(list(headers, header::SEC_WEBSOCKET_EXTENSIONS).is_empty());
        }
        Err(Failure::TimedOut(stage)) => {
            assert!(silent, "{stage}");
            if stage.ends_with("to read the handshake request") {
                // On a busy machine the deadline may pass before the request has been written.
                return;
            }
        }
        Err(Failure::Failed(error)) => {
            let text = error.to_string();
            assert!(!text.chars().any(char::is_control), "{text:?}");
            match error {
                Error::Refused { response } => {
                    let status = response.status().as_u16();
                    assert!(status >= 200);
                    let body = response.body();
                    assert!(body.len() <= says.len());
                    assert!(body.is_empty() || !matches!(status, 204 | 205 | 304));
                    if let Some(location) = redirects_to(&response) {
                        assert!(body.is_empty() || !follows);
                        check_redirect(location);
                    }
                }
                Error::Handshake(_) => {}
                // The stream ended before or within the response.
                Error::Lost(_) => assert!(!silent, "it is waited for"),
                other => panic!("{other:?}"),
            }
        }
    }
    let written = peer.observer.take_written();
    assert!(written.head.is_some() && written.is_whole(), "one request");
}

fn asked() -> http::Request<()> {
    let request = http::Request::builder()
        .uri("ws://robot.example/drive")
        .header(header::HOST, "robot.example")
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_VERSION, "13")
        .header(header::SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ==")
        .header(header::SEC_WEBSOCKET_PROTOCOL, "chat, superchat");
    request.body(()).expect("a request")
}

fn check_redirect(location: &str) {
    for from in ["ws://robot.example/drive", "ws+unix:/run/robot"] {
        let from = Target::parse(from).expect("a good URL");
        match from.redirect(location) {
            Ok(target) => super::settings::check_target(&target),
            Err(error) => {
                let text = error.to_string();
                assert!(!text.chars().any(char::is_control), "{text:?}");
            }
        }
    }
}

/// A request with something unusual in it.
fn written_request(decisions: &mut Decisions<'_>) -> Vec<u8> {
    const METHODS: [&str; 6] = ["GET", "GET", "GET", "POST", "HEAD", "get"];
    const TARGETS: [&str; 12] = [
        "/",
        "/chat?a=b",
        "*",
        "http://robot.example/x",
        "//",
        "/%zz?",
        "/\u{e9}",
        "",
        "/a b",
        "robot.example:80",
        "x",
        "ws://other.example",
    ];
    const VERSIONS: [&str; 6] = [
        "HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP",
    ];
    const USUAL: [&str; 5] = [
        "Host: robot.example",
        "Upgrade: websocket",
        "Connection: keep-alive, Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
    ];
    const ODD: [&str; 44] = [
        "Host: robot.example:80",
        "Host:",
        "Upgrade: WebSocket, h2c",
        "Upgrade: h2c",
        "upgrade:\twebsocket \t",
        "Connection: close",
        "Connection: UPGRADE",
        "Sec-WebSocket-Key: AAAA",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZR==",
        "Sec-WebSocket-Version: 8",
        "Sec-WebSocket-Version: 13, 8",
        "Sec-WebSocket-Protocol: superchat, chat",
        "Sec-WebSocket-Protocol: ,, chat ,\u{e9}",
        "Sec-WebSocket-Extensions: permessage-deflate",
        "Origin: https://robot.example",
        "Origin: http://robot.example",
        "Origin: null",
        "Origin: http://x@robot.example:80/",
        "Origin: \u{1F916}",
        "Authorization: Basic QTpi",
        "Authorization: basic  QTpi",
        "Authorization: Basic ?",
        "Content-Length: 0",
        "Content-Length: 5",
        "Transfer-Encoding: chunked",
        "Cookie: a=b; c=\"d\"",
        ": nothing",
        " folded",
        "no colon",
        "X\0: y",
        "X: \x01",
        "",
        "Host: a b",
        "Host: x@robot.example/",
        "Host: [fe80::1%25eth0]:80",
        "Expect: 100-continue",
        "Expect: tea",
        "Upgrade: ,websocket,",
        "Upgrade: websocket/13",
        "Connection: keep-alive,\tUpgrade",
        "Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEC==",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ",
        "Content-Length: 0, 00",
        "Content-Length: +0",
    ];
    let mut head = format!(
        "{} {} {}",
        decisions.pick(&METHODS),
        decisions.pick(&TARGETS),
        decisions.pick(&VERSIONS)
    );
    write_headers(&mut head, decisions, &USUAL, &ODD);
    finish(head, decisions)
}

/// A response with something unusual in it.
fn written_response(decisions: &mut Decisions<'_>) -> Vec<u8> {
    const STATUS: [&str; 14] = [
        "HTTP/1.1 101 Switching Protocols",
        "HTTP/1.1 101 Switching Protocols",
        "HTTP/1.1 101",
        "HTTP/1.0 101 \u{e9}",
        "HTTP/1.1 301 Moved",
        "HTTP/1.1 404 Not Found",
        "HTTP/1.1 100 Continue",
        "HTTP/1.1 204 No Content",
        "HTTP/1.1 099 ?",
        "HTTP/1.1 999 ?",
        "HTTP/2 101",
        "ICY 200",
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 101 Switching Protocols",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Wait\r\n\r\nHTTP/1.1 302 Found",
    ];
    let accept = format!("Sec-WebSocket-Accept: {ACCEPT}");
    let usual = ["Upgrade: websocket", "Connection: Upgrade", &accept];
    const ODD: [&str; 27] = [
        "Upgrade: WEBSOCKET, x",
        "Upgrade: h2c",
        "Connection: keep-alive",
        "Sec-WebSocket-Accept: AAAA",
        "Sec-WebSocket-Protocol: chat",
        "Sec-WebSocket-Protocol: other",
        "Sec-WebSocket-Protocol: chat, superchat",
        "Sec-WebSocket-Extensions: permessage-deflate",
        "Content-Length: 4",
        "Content-Length: 99999999999999999999",
        "Content-Length: -1",
        "Content-Type: text/plain; charset=utf-8",
        "Location: /elsewhere",
        "Location: http://user:password@other.example:0/",
        "Location: ws+unix:/run/docker.sock",
        "Location: \u{e9}://",
        "Set-Cookie: a",
        " folded",
        "no colon",
        "",
        "Upgrade:\r\n websocket",
        "Connection: keep-alive\r\nConnection: upgrade",
        "Sec-WebSocket-Extensions:",
        "Sec-WebSocket-Protocol: ,",
        "Transfer-Encoding: gzip, chunked",
        "Content-Length: 4\r\nContent-Length: 5",
        "Transfer-Encoding: chunked\r\n\r\n4;x\r\ngone\r\n0\r\n",
    ];
    let mut head = decisions.pick(&STATUS).to_owned();
    write_headers(&mut head, decisions, &usual, &ODD);
    finish(head, decisions)
}

fn write_headers(head: &mut String, decisions: &mut Decisions<'_>, usual: &[&str], odd: &[&str]) {
    let mut line = |text: &str, end: &str| {
        head.push_str(end);
        head.push_str(text);
    };
    let newline = if decisions.one_in(8) { "\n" } else { "\r\n" };
    for text in usual {
        match decisions.byte() % 16 {
            0..12 => line(text, newline),
            12 => {}
            13 => {
                line(text, newline);
                line(text, newline);
            }
            14 => line(&text.to_uppercase(), newline),
            _ => line(decisions.pick(odd), newline),
        }
    }
    for _ in 0..decisions.byte() % 4 {
        line(decisions.pick(odd), newline);
    }
    match decisions.byte() {
        0..245 => {}
        245..248 => line(&format!("X: {}", "x".repeat(MAX_HEAD)), newline),
        248..251 => {
            for _ in 0..MAX_HEADERS - decisions.below(8) {
                line("X: y", newline);
            }
        }
        _ => line(&format!("X: {}", decisions.text()), newline),
    }
    line("", newline);
    line("", newline);
}

fn finish(head: String, decisions: &mut Decisions<'_>) -> Vec<u8> {
    let mut bytes = head.into_bytes();
    // A reason phrase in Latin-1, which HTTP allows, and not in UTF-8.
    if decisions.one_in(16) {
        bytes.retain(|byte| *byte != 0xc3);
    }
    decisions.edit(&mut bytes);
    bytes.extend(decisions.bytes());
    bytes
}
