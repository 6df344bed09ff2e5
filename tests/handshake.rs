//! What a client's request says, where redirects lead it, and what a server makes of a request.

mod rig;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

#[cfg(feature = "native-tls")]
use rig::url;
use rig::{DEADLINE, UPGRADE, read_head, server_and_bytes};
use rtcbot_websocket::{Error, Options, Request, Server, Websocket};

/// What the server is asked by a client with these options.
fn request_of(options: &Options) -> Request {
    let mut server = Server::bind((rig::own_address(), 0)).unwrap();
    let ws = options.connect(server.url()).unwrap();
    let request = server.next_timeout(DEADLINE).unwrap();
    // It is not answered, so there is nothing to wait for.
    thread::spawn(move || drop(ws));
    request
}

#[test]
fn a_client_says_what_it_is_unless_told_otherwise() {
    let default = request_of(&Options::new());
    let expected = concat!("rtcbot-websocket/", env!("CARGO_PKG_VERSION"));
    assert_eq!(default.header("user-agent"), Some(expected));
    assert_eq!(default.origin(), None);
    assert!(default.basic_auth().is_none());

    let told = request_of(
        Options::new()
            .user_agent("robot/2")
            .origin("https://robot.example"),
    );
    assert_eq!(told.header("user-agent"), Some("robot/2"));
    assert_eq!(told.origin(), Some("https://robot.example"));

    let none = request_of(Options::new().user_agent(""));
    assert_eq!(none.header("user-agent"), None);

    // A header that is given by name goes first.
    let twice = request_of(Options::new().header("User-Agent", "mine").user_agent("x"));
    let all = twice.headers().get_all("user-agent");
    assert_eq!(all.iter().collect::<Vec<_>>(), ["mine"]);
}

#[test]
fn settings_that_http_has_no_words_for_are_refused() {
    for options in [
        Options::new().user_agent("a\nb"),
        Options::new().origin("a\rb"),
    ] {
        let error = options.connect("ws://localhost").unwrap_err();
        assert!(matches!(error, Error::InvalidOption { .. }), "{error}");
    }
}

#[test]
fn user_and_password_of_the_url_are_sent_and_checked() {
    let mut server = Server::bind((rig::own_address(), 0)).unwrap();
    let address = server.local_addr().unwrap();
    let client = Websocket::connect(format!("ws://op:a%40b%3Ac@{address}/x")).unwrap();
    let request = server.next_timeout(DEADLINE).unwrap();
    let auth = request.basic_auth().unwrap();
    assert_eq!((auth.user(), auth.password()), ("op", "a@b:c"));
    assert!(auth.matches("op", "a@b:c"));
    assert!(!auth.matches("op", "a@b:d") && !auth.matches("oq", "a@b:c"));
    let peer = Websocket::accept(request);
    client.wait_ready_timeout(DEADLINE).unwrap();
    // Neither the log nor an error is to show it.
    assert_eq!(client.name(), format!("ws://{address}/x"));
    client.close().unwrap();
    peer.wait_closed_timeout(DEADLINE).unwrap();
}

#[test]
fn user_and_password_may_be_a_setting_as_well() {
    let request = request_of(Options::new().basic_auth("op", "a:b"));
    assert!(request.basic_auth().unwrap().matches("op", "a:b"));
}

#[test]
fn two_ways_to_say_who_one_is_are_one_too_many() {
    for options in [
        Options::new().header("Authorization", "Bearer x"),
        Options::new().basic_auth("me", "x"),
    ] {
        let error = options.connect("ws://me:secret@localhost/").unwrap_err();
        assert!(matches!(error, Error::InvalidOption { .. }), "{error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
    for options in [
        Options::new().basic_auth("a:b", "c"),
        Options::new()
            .basic_auth("a", "c")
            .header("Authorization", "x"),
    ] {
        let error = options.connect("ws://x/");
        assert!(matches!(error, Err(Error::InvalidOption { .. })));
    }
}

#[test]
fn secrets_are_not_shown() {
    let mut options = Options::new();
    options
        .proxy("http://me:hunter2@proxy")
        .header("Authorization", "Bearer hunter2");
    let shown = format!("{options:?}");
    assert!(shown.contains("Authorization"), "{shown}");
    assert!(!shown.contains("hunter2"), "{shown}");

    let (url, asked) = answering(vec![redirect(302, "ftp://me:hunter2@x/")]);
    let mut options = Options::new();
    options.max_redirects(1).header("Authorization", "hunter2");
    let ws = options.connect(url).unwrap();
    let error = ws.wait_ready_timeout(DEADLINE).unwrap_err();
    assert!(error.to_string().contains("ftp"), "{error}");
    assert!(!error.to_string().contains("hunter2"), "{error}");
    asked.join().unwrap();

    let mut server = Server::bind((rig::own_address(), 0)).unwrap();
    let ws = options.connect(server.url()).unwrap();
    let _peer = Websocket::accept(server.next_timeout(DEADLINE).unwrap());
    ws.wait_ready_timeout(DEADLINE).unwrap();
    let request = ws.request().unwrap();
    assert_eq!(request.headers()["authorization"], "hunter2");
    assert!(!format!("{request:?}").contains("hunter2"));
}

/// Answers one request after the other; hands out what was asked.
fn answering(answers: Vec<String>) -> (String, thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind((rig::own_address(), 0)).unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    let asked = thread::spawn(move || {
        let mut asked = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            asked.push(read_head(&mut stream).to_lowercase());
            stream.write_all(answer.as_bytes()).unwrap();
        }
        asked
    });
    (url, asked)
}

fn redirect(status: u16, location: &str) -> String {
    format!("HTTP/1.1 {status} Go\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n")
}

#[test]
fn a_redirect_is_refused_unless_redirects_are_allowed() {
    let (url, asked) = answering(vec![redirect(302, "/elsewhere")]);
    let ws = Websocket::connect(url).unwrap();
    let error = ws.wait_ready_timeout(DEADLINE).unwrap_err();
    let Error::Refused { response } = &error else {
        panic!("{error}");
    };
    assert_eq!(response.status(), 302);
    assert_eq!(response.headers()["location"], "/elsewhere");
    asked.join().unwrap();
}

#[test]
fn redirects_are_followed_as_far_as_allowed_and_secrets_stay_with_their_host() {
    let mut server = Server::bind((rig::own_address(), 0)).unwrap();
    let last = redirect(307, &format!("{}/end", server.url().replace("ws", "http")));
    let first = answering(vec![redirect(301, "/second?x=y"), last]);
    let url = first.0.replace("ws://", "ws://me:secret@");
    let mut options = Options::new();
    options
        .header("Cookie", "session=1")
        .header("X-Token", "kept")
        .subprotocol("v1")
        .max_redirects(2);
    let client = options.connect(url).unwrap();
    let request = server.next_timeout(DEADLINE).unwrap();
    let asked = first.1.join().unwrap();
    assert!(asked[0].starts_with("get / "), "{}", asked[0]);
    assert!(asked[1].starts_with("get /second?x=y "), "{}", asked[1]);
    for head in &asked {
        assert!(head.contains("authorization: basic"), "{head}");
        assert!(head.contains("cookie: session=1"), "{head}");
    }
    // Another port is another server.
    assert_eq!(request.path(), "/end");
    assert_eq!(request.header("authorization"), None);
    assert_eq!(request.header("cookie"), None);
    assert_eq!(request.header("x-token"), Some("kept"));
    assert_eq!(request.subprotocols().collect::<Vec<_>>(), ["v1"]);
    let _peer = Websocket::accept(request);
    client.wait_ready_timeout(DEADLINE).unwrap();
}

#[test]
fn one_redirect_more_than_allowed_is_refused() {
    let (url, asked) = answering(vec![redirect(302, "/a"), redirect(302, "/b")]);
    let ws = Options::new().max_redirects(1).connect(url).unwrap();
    let error = ws.wait_ready_timeout(DEADLINE).unwrap_err();
    assert!(
        matches!(&error, Error::Refused { response } if response.headers()["location"] == "/b"),
        "{error}"
    );
    assert_eq!(asked.join().unwrap().len(), 2);
}

#[test]
fn a_redirect_that_leads_nowhere_is_an_error_that_says_where() {
    for location in ["ftp://x/", "ws+unix:/run/docker.sock", "http://"] {
        let (url, asked) = answering(vec![redirect(302, location)]);
        let ws = Options::new().max_redirects(9).connect(url).unwrap();
        let error = ws.wait_ready_timeout(DEADLINE).unwrap_err();
        assert!(matches!(error, Error::Handshake(_)), "{error}");
        assert!(error.to_string().contains(location), "{error}");
        asked.join().unwrap();
    }
}

#[test]
#[cfg(feature = "native-tls")]
fn a_redirect_never_leaves_encryption() {
    let pki = rig::tls::pki();
    let mut server = pki.server();
    let plain = TcpListener::bind((rig::own_address(), 0)).unwrap();
    let to = format!("ws://{}/", plain.local_addr().unwrap());
    let ws = pki
        .options()
        .max_redirects(1)
        .connect(url(&server))
        .unwrap();
    let response = rtcbot_websocket::http::Response::builder()
        .status(302)
        .header("Location", &to)
        .body("")
        .unwrap();
    let request = server.next_timeout(DEADLINE).unwrap();
    request.respond_with(response).unwrap();
    let error = ws.wait_ready_timeout(DEADLINE).unwrap_err();
    assert!(error.to_string().contains("encrypted"), "{error}");
    plain.set_nonblocking(true).unwrap();
    assert!(plain.accept().is_err(), "nobody is to come");
}

/// What a server with these options answers to a request.
fn answer_to(request: &str, options: &Options) -> String {
    let mut server = Server::bind((rig::own_address(), 0)).unwrap();
    let mut stream = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let ws = options.accept(server.next_timeout(DEADLINE).unwrap());
    let head = read_head(&mut stream);
    if !head.starts_with("HTTP/1.1 101 ") {
        let error = ws.wait_error_timeout(DEADLINE).unwrap().unwrap();
        assert!(matches!(error, Error::Handshake(_)), "{error}");
        let mut body = String::new();
        stream.read_to_string(&mut body).unwrap();
        assert!(!body.is_empty(), "{head}");
    }
    drop(stream);
    head
}

#[test]
fn each_fault_of_a_request_has_its_status() {
    let instead_of = |old: &str, new: &str| {
        assert!(UPGRADE.contains(old));
        UPGRADE.replace(old, new)
    };
    for (request, status, header) in [
        (instead_of("GET", "POST"), 405, "allow: GET"),
        (
            instead_of("Upgrade: websocket\r\n", ""),
            426,
            "upgrade: websocket",
        ),
        (
            instead_of("Connection: Upgrade\r\n", ""),
            426,
            "upgrade: websocket",
        ),
        (
            instead_of("Version: 13", "Version: 8"),
            426,
            "sec-websocket-version: 13",
        ),
        (instead_of("HTTP/1.1", "HTTP/1.0"), 400, "connection: close"),
        (
            instead_of("Host: localhost\r\n", ""),
            400,
            "connection: close",
        ),
        (
            instead_of("Host: ", "Host: x\r\nHost: "),
            400,
            "connection: close",
        ),
        (
            instead_of("dGhlIHNhbXBsZSBub25jZQ==", "dGhl"),
            400,
            "connection: close",
        ),
        (
            instead_of("dGhlIHNhbXBsZSBub25jZQ==", "?"),
            400,
            "connection: close",
        ),
        (
            instead_of("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""),
            400,
            "close",
        ),
        (
            instead_of("Host: ", "Content-Length: 3\r\nHost: "),
            413,
            "connection: close",
        ),
        (
            instead_of("Host: ", "Transfer-Encoding: chunked\r\nHost: "),
            413,
            "close",
        ),
        (
            instead_of("Host: ", "Origin: http://evil\r\nHost: "),
            403,
            "connection: close",
        ),
        (
            instead_of("Host: ", "Content-Length: 0\r\nHost: "),
            101,
            "upgrade: websocket",
        ),
    ] {
        let head = answer_to(&request, &Options::new());
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status} ")),
            "{request}{head}"
        );
        assert!(head.contains(header), "{request}{head}");
    }
}

#[test]
fn only_pages_of_the_server_itself_may_connect_unless_others_are_allowed() {
    let from = |origin: &str| UPGRADE.replace("Host: ", &format!("Origin: {origin}\r\nHost: "));
    for (options, origin, status) in [
        (&Options::new(), "http://localhost", 101),
        (&Options::new(), "https://localhost:80", 403),
        (&Options::new(), "http://elsewhere", 403),
        (&Options::new(), "null", 403),
        (
            Options::new().allow_origin("http://elsewhere"),
            "http://elsewhere",
            101,
        ),
        (
            Options::new().allow_origin("http://elsewhere"),
            "http://localhost",
            101,
        ),
        (
            Options::new().allow_origin("http://elsewhere"),
            "http://other",
            403,
        ),
        (
            Options::new().allow_origin_if(|origin| origin == "null"),
            "null",
            101,
        ),
        (
            Options::new().allow_origin_if(|_| false),
            "http://localhost",
            403,
        ),
    ] {
        let head = answer_to(&from(origin), options);
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status} ")),
            "{origin}: {head}"
        );
    }
}

#[test]
fn a_servers_headers_are_in_its_response() {
    let mut options = Options::new();
    options
        .header("Set-Cookie", "a=1")
        .header("Set-Cookie", "b=2");
    let head = answer_to(UPGRADE, &options);
    assert!(head.contains("set-cookie: a=1\r\n"), "{head}");
    assert!(head.contains("set-cookie: b=2\r\n"), "{head}");
}

#[test]
fn a_header_that_a_server_cannot_send_is_its_own_fault() {
    let mut server = Server::bind((rig::own_address(), 0)).unwrap();
    let mut stream = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    stream.write_all(UPGRADE.as_bytes()).unwrap();
    let request = server.next_timeout(DEADLINE).unwrap();
    let ws = Options::new().header("a b", "c").accept(request);
    let error = ws.wait_error_timeout(DEADLINE).unwrap().unwrap();
    assert!(matches!(error, Error::InvalidOption { .. }), "{error}");
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let head = read_head(&mut stream);
    assert!(head.starts_with("HTTP/1.1 500 "), "{head}");
}

#[test]
fn a_server_that_chooses_a_subprotocol_says_which() {
    let mut options = Options::new();
    options.subprotocol("b").subprotocol("a");
    let offer = |names: &str| {
        UPGRADE.replace(
            "Host: ",
            &format!("Sec-WebSocket-Protocol: {names}\r\nHost: "),
        )
    };
    let head = answer_to(&offer("a, b"), &options);
    assert!(head.contains("sec-websocket-protocol: b\r\n"), "{head}");
    let head = answer_to(&offer("c"), &options);
    assert!(!head.contains("sec-websocket-protocol"), "{head}");
    let (ws, _stream) = server_and_bytes(&options);
    assert_eq!(ws.subprotocol(), None);
}
