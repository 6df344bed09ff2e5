//! The client's HTTP: what may come before, around and after the response to a request for a
//! WebSocket.

mod testkit;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use rtcbot_websocket::{Backoff, Error, Options, Websocket, json};
use testkit::answering::{After, answering};
use testkit::script::with_accept_key;
use testkit::wire::{Wire, over_each};
use testkit::{DEADLINE, own_address, read_head, within};

/// A complete response that accepts. The server puts the accept key that fits into it.
const ACCEPTED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// A text frame with the text 1.
const ONE: &str = "\u{1}1";

fn options() -> Options {
    // These servers do not answer a Close frame.
    Options::new()
        .connect_timeout(DEADLINE)
        .linger(Duration::ZERO)
}

/// Returns the error of a client whose server sends this response.
fn refusal(answer: impl AsRef<[u8]>, after: After) -> Error {
    let (url, serving) = answering([answer], after);
    let ws = options().connect(url).unwrap();
    let error = ws.wait_ready_timeout(DEADLINE).unwrap_err();
    drop(ws);
    within(DEADLINE, move || serving.join()).unwrap();
    error
}

/// Returns the status and the body of the refusal, for a client whose server sends this response.
fn refused(answer: impl AsRef<[u8]>, after: After) -> (u16, Vec<u8>) {
    match refusal(answer, after) {
        Error::Refused { response } => (response.status().as_u16(), response.body().to_vec()),
        error => panic!("{error}"),
    }
}

/// A client whose server sends this response is connected, and receives the frame that follows.
#[track_caller]
fn connects(answer: impl AsRef<[u8]>) -> Websocket {
    let answer = [answer.as_ref(), b"\x81", ONE.as_bytes()].concat();
    let (url, _serving) = answering(vec![answer.clone()], After::Stay);
    let ws = options().subprotocol("chat").connect(url).unwrap();
    if let Err(error) = ws.wait_ready_timeout(DEADLINE) {
        panic!("{error}: {}", answer.escape_ascii());
    }
    assert_eq!(ws.get_timeout(DEADLINE).unwrap(), json!(1));
    ws
}

#[test]
fn any_number_of_interim_responses_may_come_first() {
    for interim in [
        "HTTP/1.1 100 Continue\r\n\r\n".to_owned(),
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".to_owned(),
        "HTTP/1.1 102 Processing\r\nContent-Length: 5\r\n\r\n".to_owned(),
        "HTTP/1.0 199\nA: b\n\n".to_owned(),
        "\r\nHTTP/1.1 100 Continue\r\nTransfer-Encoding: chunked\r\n\r\n\r\n".to_owned(),
        "HTTP/1.1 102 Processing\r\n\r\n".repeat(500),
    ] {
        drop(connects(interim.clone() + ACCEPTED));
        let answer = interim + "HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\ngone";
        assert_eq!(refused(answer, After::Stay), (404, b"gone".to_vec()));
    }
}

#[test]
fn interim_responses_without_end_are_an_error() {
    let endless = "HTTP/1.1 102 Processing\r\n\r\n".repeat(5000);
    let error = refusal(endless, After::Stay);
    assert!(
        matches!(&error, Error::Handshake(why) if why.contains("interim")),
        "{error}"
    );
    // None of these counts as the response.
    let error = refusal("HTTP/1.1 103 Early Hints\r\n\r\n", After::End);
    assert!(matches!(error, Error::Lost(_)), "{error}");
}

#[test]
fn interim_responses_do_not_extend_the_deadline() {
    let listener = TcpListener::bind((own_address(), 0)).unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    let serving = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        read_head(&mut stream);
        // Fails when the client has given up.
        while stream.write_all(b"HTTP/1.1 102 Wait\r\n\r\n").is_ok() {
            thread::sleep(Duration::from_millis(5));
        }
    });
    let ws = Options::new()
        .connect_timeout(Duration::from_millis(200))
        .connect(url)
        .unwrap();
    let error = ws.wait_ready_timeout(DEADLINE).unwrap_err();
    assert!(matches!(error, Error::ConnectTimeout { .. }), "{error}");
    within(DEADLINE, move || serving.join()).unwrap();
}

#[test]
fn interim_responses_may_come_in_pieces_over_each_transport() {
    over_each(|wire: &Wire| {
        let (listener, url) = wire.listen();
        let ws = wire.options().connect(url).unwrap();
        let (mut stream, _) = wire.accept_bytes(&listener);
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            request.push(byte[0]);
        }
        let request = String::from_utf8(request).unwrap();
        let answer = format!("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n{ACCEPTED}\u{1}");
        let mut answer = answer.into_bytes();
        with_accept_key(&mut answer, request.as_bytes());
        for byte in answer {
            stream.write_all(&[byte]).unwrap();
            stream.flush().unwrap();
        }
        ws.wait_ready_timeout(DEADLINE).unwrap();
    });
}

#[test]
fn a_client_that_reconnects_does_not_end_with_an_interim_response() {
    let answers = [
        "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n".to_owned(),
        format!("HTTP/1.1 103 Early Hints\r\n\r\n{ACCEPTED}"),
    ];
    let answers = answers.map(String::into_bytes).to_vec();
    let (url, _serving) = answering(answers, After::Stay);
    let ws = options()
        .reconnect(Backoff::new().initial(Duration::from_millis(1)))
        .connect(url)
        .unwrap();
    ws.wait_ready_timeout(DEADLINE).unwrap();
}

#[test]
fn a_response_that_accepts_may_take_any_form_that_http_allows() {
    let instead_of = |old: &str, new: &str| {
        assert!(ACCEPTED.contains(old));
        ACCEPTED.replace(old, new)
    };
    for answer in [
        ACCEPTED.to_owned(),
        format!("\r\n{ACCEPTED}"),
        ACCEPTED.replace("\r\n", "\n"),
        instead_of("HTTP/1.1", "HTTP/1.0"),
        instead_of(" Switching Protocols", ""),
        instead_of(" Switching Protocols", " "),
        instead_of(" Switching Protocols", " Wechsel auf \u{fc}ber"),
        instead_of("Upgrade: websocket", "upgrade:WEBSOCKET"),
        instead_of("Upgrade: websocket", "Upgrade: \t websocket \t,"),
        instead_of(
            "Upgrade: websocket",
            "Upgrade: websocket\r\nUpgrade: websocket",
        ),
        instead_of("Connection: Upgrade", "Connection: keep-alive, upgrade"),
        instead_of("Connection: Upgrade", "Connection: keep-alive,\tUpgrade"),
        instead_of(
            "Connection: Upgrade",
            "Connection: keep-alive\r\nConnection: Upgrade",
        ),
        // Folded lines.
        instead_of("Upgrade: websocket", "Upgrade:\r\n websocket"),
        instead_of(
            "Connection: Upgrade",
            "Connection: keep-alive,\r\n\tUpgrade",
        ),
        instead_of(
            "Connection: Upgrade",
            "Connection: Upgrade\r\nX: a\r\n  b\r\n\t c",
        ),
        // A 101 has no body.
        instead_of(
            "Connection: Upgrade",
            "Connection: Upgrade\r\nContent-Length: 5",
        ),
        instead_of(
            "Connection: Upgrade",
            "Connection: Upgrade\r\nContent-Length: x",
        ),
        instead_of(
            "Connection: Upgrade",
            "Connection: Upgrade\r\nTransfer-Encoding: chunked",
        ),
        // An empty list chooses nothing.
        instead_of(
            "Connection: Upgrade",
            "Connection: Upgrade\r\nSec-WebSocket-Extensions:",
        ),
        instead_of(
            "Connection: Upgrade",
            "Connection: Upgrade\r\nSec-WebSocket-Protocol: ,",
        ),
    ] {
        let latin_1: Vec<u8> = answer.chars().map(|c| u8::try_from(c).unwrap()).collect();
        assert_eq!(connects(latin_1).subprotocol(), None);
    }
    let ws = connects(instead_of(
        "Connection: Upgrade",
        "Connection: Upgrade\r\nSec-WebSocket-Protocol:\r\nSec-WebSocket-Protocol: chat\t,",
    ));
    assert_eq!(ws.subprotocol().as_deref(), Some("chat"));
    let ws = connects(instead_of(
        "Connection: Upgrade",
        "Connection: Upgrade\r\nX: a\r\n  b",
    ));
    assert_eq!(ws.response().unwrap().headers()["x"], "a b");
}

#[test]
fn a_response_that_accepts_another_protocol_is_refused() {
    let instead_of = |old: &str, new: &str| {
        assert!(ACCEPTED.contains(old));
        ACCEPTED.replace(old, new)
    };
    for (answer, word) in [
        (
            instead_of("Upgrade: websocket\r\n", ""),
            "Upgrade: websocket",
        ),
        (
            instead_of("Upgrade: websocket", "Upgrade: websocket, h2c"),
            "Upgrade: websocket",
        ),
        (
            instead_of("Upgrade: websocket", "Upgrade: h2c\r\nUpgrade: websocket"),
            "Upgrade: w",
        ),
        (
            instead_of("Upgrade: websocket", "Upgrade: websocket/13"),
            "Upgrade: websocket",
        ),
        (
            instead_of("Connection: Upgrade\r\n", ""),
            "Connection: Upgrade",
        ),
        (
            instead_of("Connection: Upgrade", "Connection: close"),
            "Connection: Upgrade",
        ),
        (
            instead_of("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n", ""),
            "Sec-WebSocket-Accept",
        ),
        (
            instead_of(
                "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
                "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Accept: AAAA",
            ),
            "Sec-WebSocket-Accept",
        ),
        (
            instead_of(
                "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
                "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Extensions: x",
            ),
            "extension",
        ),
        (
            instead_of(
                "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
                "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: x",
            ),
            "not offered",
        ),
    ] {
        let error = refusal(&answer, After::Stay);
        assert!(
            matches!(&error, Error::Handshake(why) if why.contains(word)),
            "{answer}: {error}"
        );
    }
}

#[test]
fn the_body_of_a_refusal_is_read_up_to_its_end() {
    use After::{End, Stay};
    let chunked = "Transfer-Encoding: chunked\r\n\r\n";
    for (status, rest, then, body) in [
        (
            404,
            "Content-Length: 4\r\n\r\ngone and more".to_owned(),
            Stay,
            "gone",
        ),
        (
            404,
            "Content-Length: 4\r\nContent-Length: 4\r\n\r\ngone".into(),
            Stay,
            "gone",
        ),
        (
            404,
            "Content-Length: 4, 04\r\n\r\ngone".into(),
            Stay,
            "gone",
        ),
        (404, "Content-Length: 0\r\n\r\n".into(), Stay, ""),
        (404, "Content-Length: 9\r\n\r\ngone".into(), End, "gone"),
        (
            404,
            "Content-Length: 99999999999999999999\r\n\r\ngone".into(),
            End,
            "gone",
        ),
        // Without a length: until the end of the stream.
        (404, "\r\ngone".into(), End, "gone"),
        (200, "\r\n".into(), End, ""),
        (
            200,
            "Transfer-Encoding: gzip\r\n\r\ngone".into(),
            End,
            "gone",
        ),
        // These lengths are invalid.
        (
            404,
            "Content-Length: 4\r\nContent-Length: 5\r\n\r\ngone".into(),
            Stay,
            "",
        ),
        (404, "Content-Length: -4\r\n\r\ngone".into(), Stay, ""),
        (404, "Content-Length: four\r\n\r\ngone".into(), Stay, ""),
        (
            404,
            format!("{chunked}4\r\ngone\r\n0\r\n\r\n"),
            Stay,
            "gone",
        ),
        (
            404,
            format!("{chunked}2;a=b\r\ngo\r\n2\r\nne\r\n0\r\nTrailer: x"),
            Stay,
            "gone",
        ),
        (
            404,
            format!("Content-Length: 1\r\n{chunked}4\r\ngone\r\n0\r\n"),
            Stay,
            "gone",
        ),
        (
            404,
            format!("Transfer-Encoding: x\r\n{chunked}4\r\ngone\r\n0\r\n"),
            Stay,
            "gone",
        ),
        (404, format!("{chunked}9\r\ngone"), End, "gone"),
        (
            404,
            format!("{chunked}ffffffffffffffff\r\ngone"),
            End,
            "gone",
        ),
        (
            404,
            format!("{chunked}4\r\ngone\r\nnonsense\r\n"),
            Stay,
            "gone",
        ),
        (404, format!("{chunked}nonsense\r\n"), Stay, ""),
        // These have no body.
        (204, "\r\n".into(), Stay, ""),
        (204, "Content-Length: 9\r\n\r\n".into(), Stay, ""),
        (205, format!("{chunked}4\r\ngone"), Stay, ""),
        (304, "Content-Length: 9\r\n\r\n".into(), Stay, ""),
    ] {
        let answer = format!("HTTP/1.1 {status} Whatever\r\n{rest}");
        assert_eq!(refused(&answer, then), (status, body.into()), "{answer}");
    }
    // And of a long one, the beginning.
    let long = format!("HTTP/1.1 404 No\r\n\r\n{}", "x".repeat(1 << 20));
    assert_eq!(refused(long, After::Stay).1.len(), 64 << 10);
}

#[test]
fn a_status_line_that_http_allows_is_understood() {
    for (line, status) in [
        ("HTTP/1.1 404", 404),
        ("HTTP/1.1 404 ", 404),
        ("HTTP/1.0 404 Not Found", 404),
        ("\r\n\r\nHTTP/1.1 404 Not Found", 404),
        ("HTTP/1.1 404 Pas trouv\u{e9}", 404),
        ("HTTP/1.1 200 OK", 200),
        ("HTTP/1.1 999 What", 999),
    ] {
        let answer = format!("{line}\r\ncontent-length: 0\r\n\r\n");
        let latin_1: Vec<u8> = answer.chars().map(|c| u8::try_from(c).unwrap()).collect();
        assert_eq!(refused(latin_1, After::Stay).0, status, "{line}");
    }
    for line in [
        "HTTP/2 404",
        "HTTP/1.1 40",
        "HTTP/1.1 099 No",
        "ICY 200 OK",
        "404",
    ] {
        let error = refusal(format!("{line}\r\n\r\n"), After::End);
        assert!(
            matches!(&error, Error::Handshake(why) if why.contains("not HTTP")),
            "{line}: {error}"
        );
    }
}

#[test]
fn an_answer_in_tls_is_an_error_that_says_so() {
    // A fatal alert: "unexpected message". Some servers end the stream after it.
    for after in [After::Stay, After::End] {
        let error = refusal([21, 3, 3, 0, 2, 2, 10], after);
        assert!(
            matches!(&error, Error::Handshake(why) if why.ends_with("If so, use wss://")),
            "{error}"
        );
    }
}

#[test]
fn the_error_of_a_refusal_shows_the_servers_text() {
    let json = "{\r\n  \"error\": \"no such robot\"\r\n}\r\n";
    for (headers, body, shown) in [
        (
            "Content-Type: text/plain",
            "no such robot\r\nmore",
            "\"no such robot\"",
        ),
        (
            "Content-Type: Text/Plain; charset=utf-8",
            "\r\n no such robot ",
            "\"no such robot\"",
        ),
        (
            "Content-Type: application/json",
            json,
            r#"{ \"error\": \"no such robot\" }"#,
        ),
        (
            "Content-Type: application/problem+json",
            json,
            "no such robot",
        ),
        ("Server: x", "no such robot", "\"no such robot\""),
        (
            "Content-Type: text/html",
            "<h1>no such robot</h1>",
            "404 Not Found",
        ),
        ("Server: x", "<h1>no such robot</h1>", "404 Not Found"),
        (
            "Content-Encoding: gzip",
            "\u{1f}no such robot",
            "404 Not Found",
        ),
        ("Content-Type: image/png", "no such robot", "404 Not Found"),
        ("Server: x", "", "404 Not Found"),
    ] {
        let length = body.len();
        let answer = format!(
            "HTTP/1.1 404 Not Found\r\n{headers}\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        let error = refusal(answer, After::Stay).to_string();
        let says_nothing = shown.starts_with("404");
        assert!(error.contains(shown), "{headers}: {error}");
        assert_eq!(error.ends_with("404 Not Found"), says_nothing, "{error}");
        assert!(!error.chars().any(char::is_control), "{error}");
    }
}

fn redirect(headers: &str) -> Vec<u8> {
    format!("HTTP/1.1 302 Found\r\n{headers}\r\n").into_bytes()
}

#[test]
fn a_redirect_leads_where_its_location_says() {
    for location in [
        "/b?c=d",
        "/b?c=d#e",
        "./b?c=d",
        "../../b?c=d",
        "\r\n /b?c=d",
        "/b?c=d\r\nLocation: /b?c=d",
    ] {
        let first = redirect(&format!("Location: {location}\r\n"));
        let (url, serving) = answering(vec![first, ACCEPTED.into()], After::Stay);
        let ws = options().max_redirects(1).connect(url).unwrap();
        ws.wait_ready_timeout(DEADLINE).unwrap();
        drop(ws);
        let asked = within(DEADLINE, move || serving.join()).unwrap();
        assert!(asked[1].starts_with("GET /b?c=d HTTP/1.1\r\n"), "{asked:?}");
    }
}

#[test]
fn the_error_of_a_redirect_that_is_not_followed_shows_its_location() {
    let long = "x".repeat(1000);
    for (location, shown) in [
        ("https://robot.example/b", "\"https://robot.example/b\" "),
        ("/b?token=secret#secret", "\"/b?...\" "),
        ("wss://me:secret@robot.example/", "\"robot.example/\" "),
        ("/a\tb", "\"/a\\tb\" "),
        (&long, "xxx\"... "),
    ] {
        let answer = redirect(&format!("Location: {location}\r\nContent-Length: 0\r\n"));
        let error = refusal(answer, After::Stay);
        assert!(matches!(error, Error::Refused { .. }), "{error}");
        let error = error.to_string();
        assert!(
            error.contains(shown) && error.contains("`max_redirects`"),
            "{error}"
        );
        assert!(!error.contains("secret") && error.len() < 400, "{error}");
    }
}

#[test]
fn a_redirect_without_one_location_is_a_refusal() {
    for location in [
        "",
        "Location: /a\r\nLocation: /b\r\n",
        "Location: \u{e9}\r\n",
    ] {
        let mut answer = redirect(location);
        // Not UTF-8 either.
        answer.retain(|byte| *byte != 0xc3);
        let (url, serving) = answering(vec![answer], After::End);
        let ws = options().max_redirects(1).connect(url).unwrap();
        let error = ws.wait_ready_timeout(DEADLINE).unwrap_err();
        assert!(
            matches!(&error, Error::Refused { response } if response.status() == 302),
            "{location}: {error}"
        );
        within(DEADLINE, move || serving.join()).unwrap();
    }
}
