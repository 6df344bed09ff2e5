//! What a client's request contains, where redirects lead it, and how a server answers a request.

mod testkit;

use std::io::{Read, Write};
#[cfg(feature = "native-tls")]
use std::net::TcpListener;
use std::net::TcpStream;
use std::thread;

use rtcbot_websocket::{Backoff, Error, Options, Request, Server, Websocket};
use testkit::answering::{After, answering};
#[cfg(feature = "native-tls")]
use testkit::url;
use testkit::{DEADLINE, UPGRADE, read_head, server_and_bytes};

/// Returns the request of a client with these options.
fn request_of(options: &Options) -> Request {
    let mut server = Server::bind((testkit::own_address(), 0)).unwrap();
    let ws = options.connect(server.url()).unwrap();
    let request = server.next_timeout(DEADLINE).unwrap();
    // It is not answered, so closing does not wait.
    thread::spawn(move || drop(ws));
    request
}

#[test]
fn a_client_sends_a_user_agent_unless_one_is_set() {
    let default = request_of(&Options::new());
    let expected = concat!("rtcbot-websocket/", env!("CARGO_PKG_VERSION"));
    assert_eq!(default.header("user-agent"), Some(expected));
    assert_eq!(default.header("origin"), None);
    assert!(default.basic_auth().is_none());

    let told = request_of(
        &Options::new()
            .header("User-Agent", "robot/2")
            .header("Origin", "https://robot.example"),
    );
    assert_eq!(told.header("user-agent"), Some("robot/2"));
    assert_eq!(told.header("origin"), Some("https://robot.example"));

    let none = request_of(&Options::new().header("User-Agent", ""));
    assert_eq!(none.header("user-agent"), None);

    // The one that is set is the only one.
    let all = told.head().headers().get_all("user-agent").iter();
    assert_eq!(all.collect::<Vec<_>>(), ["robot/2"]);
}

#[test]
fn settings_that_http_cannot_express_are_refused() {
    for options in [
        Options::new().header("User-Agent", "a\nb"),
        Options::new().header("Origin", "a\rb"),
    ] {
        let error = options.connect("ws://localhost").unwrap_err();
        assert!(matches!(error, Error::InvalidOption { .. }), "{error}");
    }
}

#[test]
fn user_and_password_of_the_url_are_sent_and_checked() {
    let mut server = Server::bind((testkit::own_address(), 0)).unwrap();
    let address = server.local_addr().unwrap();
    let client = Websocket::connect(format!("ws://op:a%40b%3Ac@{address}/x")).unwrap();
    let request = server.next_timeout(DEADLINE).unwrap();
    let auth = request.basic_auth().unwrap();
    assert_eq!((auth.user(), auth.password()), ("op", "a@b:c"));
    assert!(auth.matches("op", "a@b:c"));
    assert!(!auth.matches("op", "a@b:d") && !auth.matches("oq", "a@b:c"));
    let peer = Websocket::accept(request);
    client.wait_ready_timeout(DEADLINE).unwrap();
    // Neither the log nor an error shows it.
    assert_eq!(client.name(), format!("ws://{address}/x"));
    client.close().unwrap();
    peer.wait_closed_timeout(DEADLINE).unwrap();
}

#[test]
fn user_and_password_may_be_options() {
    let request = request_of(&Options::new().basic_auth("op", "a:b"));
    assert!(request.basic_auth().unwrap().matches("op", "a:b"));
}

#[test]
fn two_logins_are_refused() {
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
    let options = Options::new()
        .proxy("http://me:hunter2@proxy")
        .header("Authorization", "Bearer hunter2");
    let shown = format!("{options:?}");
    assert!(shown.contains("Authorization"), "{shown}");
    assert!(!shown.contains("hunter2"), "{shown}");

    let (url, asked) = redirecting(vec![redirect(302, "ftp://me:hunter2@x/")]);
    let options = Options::new()
        .max_redirects(1)
        .header("Authorization", "hunter2");
    let ws = options.connect(url).unwrap();
    let error = ws.wait_ready_timeout(DEADLINE).unwrap_err();
    assert!(error.to_string().contains("ftp"), "{error}");
    assert!(!error.to_string().contains("hunter2"), "{error}");
    asked.join().unwrap();

    let mut server = Server::bind((testkit::own_address(), 0)).unwrap();
    let ws = options.connect(server.url()).unwrap();
    let _peer = Websocket::accept(server.next_timeout(DEADLINE).unwrap());
    ws.wait_ready_timeout(DEADLINE).unwrap();
    let request = ws.request().unwrap();
    assert_eq!(request.headers()["authorization"], "hunter2");
    assert!(!format!("{request:?}").contains("hunter2"));
}

#[test]
fn a_query_is_not_shown() {
    let secret = "t0k3n";
    let mut server = Server::bind((testkit::own_address(), 0)).unwrap();
    let url = format!("{}/drive?token={secret}#{secret}", server.url());
    let client = Websocket::connect(&url).unwrap();
    let request = server.next_timeout(DEADLINE).unwrap();
    assert_eq!(request.query(), Some("token=t0k3n"));
    let mut shown = vec![format!("{request:?}")];
    let peer = Websocket::accept(request);
    client.wait_ready_timeout(DEADLINE).unwrap();
    assert_eq!(client.name(), format!("{}/drive?...", server.url()));
    assert_eq!(client.request().unwrap().uri().query(), Some("token=t0k3n"));
    shown.push(format!("{client:?} {peer:?}"));
    client.close().unwrap();
    drop(server);

    for bad in [
        format!("ws://robot:x/?{secret}"),
        format!("ws://robot:0/?{secret}"),
        format!("ws://robot:0/?{secret}@x"),
        format!("ftp://robot/#{secret}"),
        format!("robot/?{secret}"),
        format!("ws+unix:robot:/?{secret}"),
    ] {
        let error = Websocket::connect(&bad).unwrap_err();
        shown.push(format!("{error} {error:?}"));
    }
    for answer in [
        redirect(302, &format!("ftp://x/?{secret}")),
        redirect(302, &format!("ws://x:0/?{secret}")),
        "HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n".to_owned(),
        "HTTP/1.1 101 No\r\n\r\n".to_owned(),
        "no".to_owned(),
    ] {
        let (url, asked) = redirecting(vec![answer]);
        let ws = Options::new()
            .max_redirects(1)
            .connect(format!("{url}/?{secret}"))
            .unwrap();
        let error = ws.wait_ready_timeout(DEADLINE).unwrap_err();
        shown.push(format!("{error} {error:?} {ws:?}"));
        asked.join().unwrap();
    }
    // Nobody listens any more.
    let ws = Options::new()
        .connect_timeout(std::time::Duration::ZERO)
        .connect(&url)
        .unwrap();
    let error = ws.wait_ready_timeout(DEADLINE).unwrap_err();
    shown.push(format!("{error} {error:?}"));
    for text in shown {
        assert!(!text.contains(secret), "{text}");
    }
}

#[test]
fn no_secret_is_logged() {
    // Other tests in this process would log too.
    testkit::alone("no_secret_is_logged", || {
        testkit::records::keep(log::LevelFilter::Trace);
        let mut server = Server::bind((testkit::own_address(), 0)).unwrap();
        let url = format!("{}/drive?token=t0k3n", server.url());
        let client = Options::new()
            .basic_auth("me", "t0k3n")
            .header("X-Api-Key", "t0k3n")
            .subprotocol("t0k3n")
            .max_redirects(1)
            .reconnect(Backoff::new())
            .connect(&url)
            .unwrap();
        let request = server.next_timeout(DEADLINE).unwrap();
        request.respond(503, "later").unwrap();
        let request = server.next_timeout(DEADLINE).unwrap();
        let response = rtcbot_websocket::http::Response::builder()
            .status(302)
            .header("Location", &url)
            .body("")
            .unwrap();
        request.respond_with(response).unwrap();
        let request = server.next_timeout(DEADLINE).unwrap();
        let peer = Websocket::accept(request);
        client.wait_ready_timeout(DEADLINE).unwrap();
        client.close().unwrap();
        peer.wait_closed_timeout(DEADLINE).unwrap();
        let logged = testkit::records::all();
        assert!(logged.contains("trying again"), "{logged}");
        assert!(logged.contains("redirected to"), "{logged}");
        assert!(!logged.contains("t0k3n"), "{logged}");
    });
}

#[test]
fn the_debug_output_of_a_head_shows_no_secret() {
    let headers = [
        "Authorization: Basic t0k3n",
        "Proxy-Authorization: Basic t0k3n",
        "Cookie: session=t0k3n",
        "Sec-WebSocket-Protocol: robot, t0k3n",
    ];
    let mut server = Server::bind((testkit::own_address(), 0)).unwrap();
    let mut stream = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    let request = with_header(&headers.join("\r\n"));
    stream.write_all(request.as_bytes()).unwrap();
    let request = server.next_timeout(DEADLINE).unwrap();
    assert_eq!(request.header("authorization"), Some("Basic t0k3n"));
    let mut shown = vec![format!("{request:?} {:?}", request.head().headers())];
    let ws = Options::new()
        .header("Set-Cookie", "session=t0k3n")
        .header("X-Api-Key", "t0k3n")
        .subprotocol("t0k3n")
        .accept(request);
    ws.wait_ready_timeout(DEADLINE).unwrap();
    shown.push(format!("{:?} {:?}", ws.request(), ws.response()));
    drop(stream);

    // A head that another library has read.
    let head = rtcbot_websocket::http::Request::builder()
        .header("Authorization", "t0k3n")
        .body(())
        .unwrap();
    let stream = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    let request = Request::from_parts(head, stream, []);
    shown.push(format!("{request:?} {:?}", request.head().headers()));

    let (url, asked) = redirecting(vec![
        "HTTP/1.1 401 No\r\nSet-Cookie: a=t0k3n\r\nContent-Length: 0\r\n\r\n".to_owned(),
    ]);
    let ws = Options::new().connect(url).unwrap();
    let error = ws.wait_ready_timeout(DEADLINE).unwrap_err();
    let Error::Refused { response } = &error else {
        panic!("{error}");
    };
    assert_eq!(response.headers()["set-cookie"], "a=t0k3n");
    shown.push(format!("{error} {error:?}"));
    asked.join().unwrap();

    let client = Options::new()
        .header("X-Api-Key", "t0k3n")
        .header_with("X-Renewed", || Ok("t0k3n".to_owned()))
        .subprotocol("t0k3n")
        .connect(server.url())
        .unwrap();
    let _peer = Websocket::accept(server.next_timeout(DEADLINE).unwrap());
    client.wait_ready_timeout(DEADLINE).unwrap();
    shown.push(format!("{:?}", client.request()));

    for error in [
        Options::new()
            .subprotocol("a")
            .subprotocol("t0k3n, b")
            .connect("ws://x"),
        Options::new().header("X", "t0k3n\n").connect("ws://x"),
    ] {
        let error = error.unwrap_err();
        assert!(matches!(error, Error::InvalidOption { .. }), "{error}");
        shown.push(format!("{error} {error:?}"));
    }
    for text in shown {
        assert!(!text.contains("t0k3n"), "{text}");
    }
}

/// Answers one request after the other. Returns the requests in lower case.
fn redirecting(responses: Vec<String>) -> (String, thread::JoinHandle<Vec<String>>) {
    let (url, serving) = answering(responses, After::Leave);
    let requests = thread::spawn(move || {
        let requests = serving.join().unwrap().into_iter();
        requests.map(|request| request.to_lowercase()).collect()
    });
    (url, requests)
}

fn redirect(status: u16, location: &str) -> String {
    format!("HTTP/1.1 {status} Go\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n")
}

#[test]
fn a_redirect_is_refused_unless_redirects_are_allowed() {
    let (url, asked) = redirecting(vec![redirect(302, "/elsewhere")]);
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
    let mut server = Server::bind((testkit::own_address(), 0)).unwrap();
    let last = redirect(307, &format!("{}/end", server.url().replace("ws", "http")));
    let first = redirecting(vec![redirect(301, "/second?x=y"), last]);
    let url = first.0.replace("ws://", "ws://me:secret@");
    let options = Options::new()
        .header("Cookie", "session=1")
        .header("X-Token", "secret")
        .header_with("X-Renewed", || Ok("secret".to_owned()))
        .header("User-Agent", "robot/2")
        .header("Origin", "https://robot.example")
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
        assert!(head.contains("x-token: secret"), "{head}");
        assert!(head.contains("x-renewed: secret"), "{head}");
    }
    // Another port is another server.
    assert_eq!(request.path(), "/end");
    assert_eq!(request.header("authorization"), None);
    assert_eq!(request.header("cookie"), None);
    assert_eq!(request.header("x-token"), None);
    assert_eq!(request.header("x-renewed"), None);
    // Options about the client itself and its subprotocols are kept.
    assert_eq!(request.header("user-agent"), Some("robot/2"));
    assert_eq!(request.header("origin"), Some("https://robot.example"));
    assert_eq!(request.subprotocols().collect::<Vec<_>>(), ["v1"]);
    let peer = Options::new()
        .allow_origin("https://robot.example")
        .accept(request);
    client.wait_ready_timeout(DEADLINE).unwrap();
    drop(peer);
}

#[test]
fn a_redirect_beyond_the_allowed_number_is_refused() {
    let (url, asked) = redirecting(vec![redirect(302, "/a"), redirect(302, "/b")]);
    let ws = Options::new().max_redirects(1).connect(url).unwrap();
    let error = ws.wait_ready_timeout(DEADLINE).unwrap_err();
    assert!(
        matches!(&error, Error::Refused { response } if response.headers()["location"] == "/b"),
        "{error}"
    );
    assert_eq!(asked.join().unwrap().len(), 2);
}

#[test]
fn a_redirect_to_an_invalid_location_is_an_error_that_shows_it() {
    for location in ["ftp://x/", "ws+unix:/run/docker.sock", "http://"] {
        let (url, asked) = redirecting(vec![redirect(302, location)]);
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
    let pki = testkit::tls::pki();
    let mut server = pki.server();
    let plain = TcpListener::bind((testkit::own_address(), 0)).unwrap();
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

/// Returns how a server with these options answers a request.
fn answer_to(request: &str, options: &Options) -> String {
    let mut server = Server::bind((testkit::own_address(), 0)).unwrap();
    let mut stream = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let ws = options.accept(server.next_timeout(DEADLINE).unwrap());
    let head = read_head(&mut stream);
    if !head.starts_with("HTTP/1.1 101 ") {
        let error = ws.wait_closed_timeout(DEADLINE).unwrap_err();
        assert!(matches!(error, Error::Handshake(_)), "{error}");
        let mut body = String::new();
        stream.read_to_string(&mut body).unwrap();
        assert!(!body.is_empty(), "{head}");
    }
    drop(stream);
    head
}

#[test]
fn each_invalid_request_is_answered_with_its_status() {
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
            instead_of("Upgrade: websocket\r\n", ""),
            426,
            "connection: close, Upgrade\r\n",
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

/// Returns whether a server of this crate takes a request for a WebSocket, and the status with
/// which `accept` answers.
fn made_of(request: &str) -> (bool, u16) {
    let latin_1: Vec<u8> = request.chars().map(|c| u8::try_from(c).unwrap()).collect();
    let mut server = Server::bind((testkit::own_address(), 0)).unwrap();
    let mut stream = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(&latin_1).unwrap();
    let Ok(request) = server.next_timeout(DEADLINE) else {
        panic!("no request: {request}");
    };
    let is_websocket = request.is_websocket();
    let _ws = Websocket::accept(request);
    let head = read_head(&mut stream);
    drop(stream);
    let status = head.strip_prefix("HTTP/1.1 ").unwrap()[..3].parse();
    (is_websocket, status.unwrap())
}

fn with(old: &str, new: &str) -> String {
    assert!(UPGRADE.contains(old));
    UPGRADE.replace(old, new)
}

fn with_header(header: &str) -> String {
    with("Host: ", &format!("{header}\r\nHost: "))
}

const CONNECTION: &str = "Connection: Upgrade";
const WEBSOCKET: &str = "Upgrade: websocket";
const VERSION: &str = "Sec-WebSocket-Version: 13";

// RFC 9110, sections 5.2, 5.3 and 5.6.1.
#[test]
fn a_list_may_span_several_header_lines_with_any_blanks_between_elements() {
    for request in [
        with(CONNECTION, "Connection: keep-alive\r\nConnection: Upgrade"),
        with(CONNECTION, "Connection: Upgrade\r\nConnection: keep-alive"),
        with(CONNECTION, "Connection: keep-alive,\tUpgrade"),
        with(CONNECTION, "Connection: keep-alive\t,Upgrade"),
        with(CONNECTION, "connection:upgrade\t"),
        with(CONNECTION, "Connection: ,, Upgrade ,"),
        with(CONNECTION, "Connection:\r\nConnection: Upgrade"),
        with(CONNECTION, "Connection: \u{e9}, Upgrade"),
        with(WEBSOCKET, "Upgrade: , WebSocket\t,"),
        with(WEBSOCKET, "Upgrade:\r\nUpgrade: websocket"),
        with(WEBSOCKET, "Upgrade: websocket\r\nUpgrade: websocket"),
        with(VERSION, "Sec-WebSocket-Version:\t13\t,"),
        with(
            VERSION,
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Version: 13",
        ),
        with_header("Sec-WebSocket-Extensions: a\r\nSec-WebSocket-Extensions:\tb; c=\"d,\""),
    ] {
        assert_eq!(made_of(&request), (true, 101), "{request}");
    }
    let options = Options::new().subprotocol("c");
    for offers in [
        "Sec-WebSocket-Protocol: a\r\nSec-WebSocket-Protocol: b,\tc",
        "Sec-WebSocket-Protocol: \u{e9},c",
    ] {
        let head = answer_to(&with_header(offers), &options);
        assert!(head.contains("sec-websocket-protocol: c\r\n"), "{head}");
    }
}

#[test]
fn accept_refuses_a_request_that_is_websocket_denies() {
    for (request, made) in [
        (UPGRADE.to_owned(), (true, 101)),
        // As in aiohttp and in Python's websockets, it is one protocol or the other.
        (with(WEBSOCKET, "Upgrade: websocket, h2c"), (false, 426)),
        (
            with(WEBSOCKET, "Upgrade: h2c\r\nUpgrade: websocket"),
            (false, 426),
        ),
        (with(WEBSOCKET, "Upgrade: websocket/13"), (false, 426)),
        (with(WEBSOCKET, "Upgrade: h2c"), (false, 426)),
        (with(WEBSOCKET, "Upgrade: web socket"), (false, 426)),
        (with(WEBSOCKET, "Upgrade:"), (false, 426)),
        (with("Upgrade: websocket\r\n", ""), (false, 426)),
        (with("Connection: Upgrade\r\n", ""), (false, 426)),
        (with(CONNECTION, "Connection: close"), (false, 426)),
        (
            with(CONNECTION, "Connection: keep-alive Upgrade"),
            (false, 426),
        ),
        (with(CONNECTION, "Connection: \"Upgrade\""), (false, 426)),
        (with("HTTP/1.1", "HTTP/1.0"), (false, 400)),
        // These ask for a WebSocket, with an error.
        (with("GET", "POST"), (true, 405)),
        (with(VERSION, "Sec-WebSocket-Version: 8"), (true, 426)),
        (with(VERSION, "Sec-WebSocket-Version: 8, 13"), (true, 426)),
        (with(VERSION, "Sec-WebSocket-Version: 013"), (true, 426)),
        (with("Sec-WebSocket-Key", "X"), (true, 400)),
    ] {
        assert_eq!(made_of(&request), made, "{request}");
    }
}

// 16 bytes leave four unused bits in Base64. RFC 6455, section 4.1, has an example that sets some.
#[test]
fn a_key_may_have_unused_trailing_bits() {
    let key = "dGhlIHNhbXBsZSBub25jZQ==";
    for last in "QRSTUVWXYZabcdef".chars() {
        let other = format!("dGhlIHNhbXBsZSBub25jZ{last}==");
        assert_eq!(made_of(&with(key, &other)), (true, 101), "{other}");
    }
    let rfc = with(key, "AQIDBAUGBwgJCgsMDQ4PEC==");
    let head = answer_to(&rfc, &Options::new());
    // The accept key is made of the text as it was sent, not of the bytes that it encodes.
    let accept = tungstenite::handshake::derive_accept_key(b"AQIDBAUGBwgJCgsMDQ4PEC==");
    assert!(head.contains(&accept), "{head}");
    for other in [
        "",
        "dGhlIHNhbXBsZSBub25jZQ",
        "dGhlIHNhbXBsZSBub25jZQ=",
        "dGhlIHNhbXBsZSBub25jZQ===",
        "dGhlIHNhbXBs ZSBub25jZQ==",
        "____________________-w==",
        "QUE=QUE=QUE=QUE=QUE=QUE=QUE=QUE=",
        "AQIDBAUGBwgJCgsMDQ4P",
        "AQIDBAUGBwgJCgsMDQ4PEBE=",
        "dGhlIHNhbXBsZSBub25jZQ==, AQIDBAUGBwgJCgsMDQ4PEC==",
        "dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ] {
        assert_eq!(made_of(&with(key, other)), (true, 400), "{other:?}");
    }
    let blanks = with(key, "\t dGhlIHNhbXBsZSBub25jZQ== \t");
    assert_eq!(made_of(&blanks), (true, 101));
}

#[test]
fn a_login_may_have_unused_trailing_bits() {
    let mut server = Server::bind((testkit::own_address(), 0)).unwrap();
    let mut auth = |value: &str| {
        let mut stream = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        let request = with_header(&format!("Authorization: {value}"));
        stream.write_all(request.as_bytes()).unwrap();
        server.next_timeout(DEADLINE).unwrap().basic_auth()
    };
    assert!(auth("Basic QTpiYw==").unwrap().matches("A", "bc"));
    assert!(auth("basic  QTpiYx==").unwrap().matches("A", "bc"));
    assert!(auth("Basic QTpiYw").is_none());
}

// RFC 9110, sections 7.8 and 10.1.1.
#[test]
fn a_client_that_expects_100_is_sent_it_before_the_101() {
    let (mut server, mut stream) = server_and_stream();
    stream
        .write_all(with_header("Expect: 100-Continue").as_bytes())
        .unwrap();
    let ws = Websocket::accept(server.next_timeout(DEADLINE).unwrap());
    assert_eq!(read_head(&mut stream), "HTTP/1.1 100 Continue\r\n\r\n");
    assert!(read_head(&mut stream).starts_with("HTTP/1.1 101 "));
    ws.wait_ready_timeout(DEADLINE).unwrap();
    drop(stream);
    for (header, made) in [
        ("Expect:", (true, 101)),
        ("Expect: tea", (true, 417)),
        ("Expect: 100-continue, tea", (true, 417)),
        // It is refused before its body is requested.
        ("Expect: 100-continue\r\nContent-Length: 5", (true, 413)),
    ] {
        assert_eq!(made_of(&with_header(header)), made, "{header}");
    }
}

fn server_and_stream() -> (Server, TcpStream) {
    let server = Server::bind((testkit::own_address(), 0)).unwrap();
    let stream = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    (server, stream)
}

// RFC 9112, section 3.2.
#[test]
fn a_request_target_must_be_a_path_on_one_host() {
    let at = |target: &str| with("GET /chat", &format!("GET {target}"));
    let host = |host: &str| with("Host: localhost", host);
    for (request, status) in [
        (at("/"), 101),
        (at("//a?b"), 101),
        (at("http://localhost/chat"), 101),
        (at("ws://localhost"), 101),
        (at("*"), 400),
        (at("localhost:80"), 400),
        (at("chat"), 400),
        (host("Host:"), 101),
        (host("Host: LOCALHOST.:80"), 101),
        (host("Host: [::1]:80"), 101),
        // Python's aiohttp and websockets send this.
        (host("Host: [fe80::1%eth0]:80"), 101),
        (host("Host: [fe80::1%25eth0]:80"), 101),
        (host("Host: a_b:"), 101),
        (host("Host: a b"), 400),
        (host("Host: user@localhost"), 400),
        (host("Host: localhost/chat"), 400),
        (host("Host: localhost, other"), 400),
        (host("Host: localhost:http"), 400),
        (host("Host: [::1"), 400),
        (host("Host: ::1"), 400),
        (host("Host: b\u{fc}cher"), 400),
        (host("Host: localhost\r\nHost: localhost"), 400),
    ] {
        assert_eq!(made_of(&request), (true, status), "{request}");
    }
}

// RFC 9112, section 6.3.
#[test]
fn a_request_without_a_length_has_no_body_and_an_invalid_length_is_refused() {
    for (header, status) in [
        ("Content-Length: 0", 101),
        ("Content-Length: 00, 0\r\nContent-Length: 0", 101),
        ("Content-Length: 1", 413),
        ("Content-Length: 99999999999999999999", 413),
        ("Content-Length: 0\r\nTransfer-Encoding: chunked", 413),
        ("Content-Length: 0\r\nContent-Length: 1", 400),
        ("Content-Length: +0", 400),
        ("Content-Length: -1", 400),
        ("Content-Length:", 400),
        ("Content-Length: 0x0", 400),
    ] {
        assert_eq!(made_of(&with_header(header)), (true, status), "{header}");
    }
}

// RFC 9112, sections 2.2, 2.3, 5.1 and 5.2.
#[test]
fn an_ambiguous_head_is_refused() {
    for request in [
        with_header("X: a\r\n b"),
        with_header(" X: a"),
        with_header("X : a"),
        with_header("X\t: a"),
        with_header(": a"),
        with_header("X"),
        with_header("X: a\rY: b"),
        with_header("X: a\0"),
        with(" HTTP/1.1", ""),
        with(" HTTP/1.1", " HTTP/1.1 x"),
        with(" HTTP/1.1", " HTTP/2.0"),
        with("GET /chat", "GET  /chat"),
        with("GET /chat", "GET /ch at"),
        with("GET /chat", "G(T /chat"),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
    ] {
        let (mut server, mut stream) = server_and_stream();
        stream.write_all(request.as_bytes()).unwrap();
        let reading = thread::spawn(move || read_head(&mut stream));
        while !reading.is_finished() {
            let request = server.next_timeout(std::time::Duration::from_millis(5));
            assert!(request.is_err(), "{request:?}");
        }
        let head = reading.join().unwrap();
        assert!(head.starts_with("HTTP/1.1 400 "), "{request}{head}");
    }
    // Empty lines may come first, and lines may end without CR.
    for request in [format!("\r\n\r\n{UPGRADE}"), UPGRADE.replace('\r', "")] {
        assert_eq!(made_of(&request), (true, 101), "{request}");
    }
}

#[test]
#[cfg(feature = "native-tls")]
fn a_server_with_tls_accepts_only_its_own_pages_over_tls() {
    let pki = testkit::tls::pki();
    let mut server = pki.server();
    let address = server.local_addr().unwrap();
    let mut from = |origin: &str, server_options: &Options| {
        let client = pki
            .options()
            .header("Origin", origin)
            .connect(url(&server))
            .unwrap();
        let _peer = server_options.accept(server.next_timeout(DEADLINE).unwrap());
        client.wait_ready_timeout(DEADLINE).map(drop)
    };
    let default = Options::new();
    from(&format!("https://{address}"), &default).unwrap();
    let plain = format!("http://{address}");
    let error = from(&plain, &default).unwrap_err();
    assert!(
        matches!(&error, Error::Refused { response } if response.status() == 403),
        "{error}"
    );
    from(&plain, &Options::new().allow_origin(&plain)).unwrap();
}

// RFC 9112, section 3.2.2.
#[test]
fn the_host_in_the_target_decides_which_origin_is_allowed() {
    for (target, status) in [("http://robot/chat", "101"), ("http://other/chat", "403")] {
        let request = with("GET /chat", &format!("GET {target}"));
        let request = request.replace("Host: localhost", "Host: robot\r\nOrigin: http://robot");
        let head = answer_to(&request, &Options::new());
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
    }
}

#[test]
fn only_pages_of_the_server_itself_may_connect_by_default() {
    let from = |origin: &str| UPGRADE.replace("Host: ", &format!("Origin: {origin}\r\nHost: "));
    for (options, origin, status) in [
        (Options::new(), "http://localhost", 101),
        (Options::new(), "https://localhost:80", 403),
        (Options::new(), "http://elsewhere", 403),
        (Options::new(), "null", 403),
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
        let head = answer_to(&from(origin), &options);
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status} ")),
            "{origin}: {head}"
        );
    }
}

#[test]
fn an_origin_that_may_not_connect_is_shown_shortened() {
    let (mut server, mut stream) = server_and_stream();
    let origin = format!("http://{}", "x".repeat(10_000));
    let request = UPGRADE.replace("Host: ", &format!("Origin: {origin}\r\nHost: "));
    stream.write_all(request.as_bytes()).unwrap();
    let ws = Websocket::accept(server.next_timeout(DEADLINE).unwrap());
    let error = ws.wait_closed_timeout(DEADLINE).unwrap_err().to_string();
    assert!(
        error.contains("\"http://xxx") && error.len() < 300,
        "{error}"
    );
}

#[test]
fn a_servers_headers_are_in_its_response() {
    let options = Options::new()
        .header("Set-Cookie", "a=1")
        .header("Set-Cookie", "b=2");
    let head = answer_to(UPGRADE, &options);
    assert!(head.contains("set-cookie: a=1\r\n"), "{head}");
    assert!(head.contains("set-cookie: b=2\r\n"), "{head}");
}

#[test]
fn a_response_header_that_http_does_not_allow_is_an_error_of_the_server() {
    let mut server = Server::bind((testkit::own_address(), 0)).unwrap();
    let mut stream = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    stream.write_all(UPGRADE.as_bytes()).unwrap();
    let request = server.next_timeout(DEADLINE).unwrap();
    let ws = Options::new().header("a b", "c").accept(request);
    let error = ws.wait_closed_timeout(DEADLINE).unwrap_err();
    assert!(matches!(error, Error::InvalidOption { .. }), "{error}");
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let head = read_head(&mut stream);
    assert!(head.starts_with("HTTP/1.1 500 "), "{head}");
}

#[test]
fn the_chosen_subprotocol_is_in_the_response() {
    let options = Options::new().subprotocol("b").subprotocol("a");
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
