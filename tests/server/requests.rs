//! What a request contains, how it is answered, and that no client delays the next.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::thread;

use rtcbot_websocket::{Options, Server, Websocket, json};

use crate::testkit::{DEADLINE, UPGRADE, read_head, url};
use crate::{read_all, server, stream_to};

#[test]
fn a_request_has_method_path_query_headers_and_address() {
    let mut server = server();
    let mut stream = stream_to(&server);
    stream
        .write_all(b"HEAD /a/b?c=d HTTP/1.1\r\nHost: here\r\nX-Two: 1\r\nx-two: 2\r\n\r\n")
        .unwrap();
    let request = server.next_timeout(DEADLINE).unwrap();
    assert_eq!(request.head().method(), "HEAD");
    assert_eq!(request.path(), "/a/b");
    assert_eq!(request.query(), Some("c=d"));
    assert_eq!(request.header("HOST"), Some("here"));
    assert_eq!(request.head().headers().get_all("x-two").iter().count(), 2);
    assert_eq!(request.peer_addr(), stream.local_addr().ok());
    assert!(!request.is_websocket());
    request.respond(200, "not sent to HEAD").unwrap();
    let answer = read_all(stream);
    assert!(answer.contains("content-length: 16\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
}

#[test]
fn a_request_that_is_not_a_websocket_can_be_answered() {
    let mut server = server();
    let mut stream = stream_to(&server);
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    server
        .next_timeout(DEADLINE)
        .unwrap()
        .respond(404, "nothing here")
        .unwrap();
    let answer = read_all(stream);
    assert!(answer.starts_with("HTTP/1.1 404 Not Found\r\n"), "{answer}");
    assert!(answer.contains("connection: close\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nnothing here"), "{answer}");
}

#[test]
fn an_invalid_status_is_refused() {
    let mut server = server();
    for status in [0, 101, 199, 1000] {
        let mut stream = stream_to(&server);
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        assert!(
            server
                .next_timeout(DEADLINE)
                .unwrap()
                .respond(status, "")
                .is_err()
        );
    }
}

#[test]
fn a_client_that_reads_slowly_receives_the_whole_response() {
    let mut server = server();
    let mut stream = stream_to(&server);
    // A body that is never read: closing must not reset the connection because of it.
    stream
        .write_all(b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello")
        .unwrap();
    let body = "x".repeat(5_000_000);
    let request = server.next_timeout(DEADLINE).unwrap();
    let sent = body.clone();
    let responding = thread::spawn(move || request.respond(200, sent));
    let answer = read_all(stream);
    responding.join().unwrap().unwrap();
    assert!(answer.ends_with(&body));
}

#[test]
fn silent_and_slow_clients_do_not_delay_the_next() {
    let mut server = server();
    let silent: Vec<_> = (0..50).map(|_| stream_to(&server)).collect();
    let mut slow = stream_to(&server);
    let (last, rest) = UPGRADE.as_bytes().split_last().unwrap();
    slow.write_all(rest).unwrap();

    let client = Websocket::connect(url(&server)).unwrap();
    let peer = Websocket::accept(server.next_timeout(DEADLINE).unwrap());
    client.put_nowait(json!(1)).unwrap();
    assert_eq!(peer.get_timeout(DEADLINE).unwrap(), json!(1));

    slow.write_all(&[*last]).unwrap();
    let request = server.next_timeout(DEADLINE).unwrap();
    assert_eq!(request.path(), "/chat");
    drop(silent);
}

#[test]
fn heads_that_come_byte_by_byte_are_read() {
    let mut server = server();
    let mut stream = stream_to(&server);
    stream.set_nodelay(true).unwrap();
    let writing = thread::spawn(move || {
        for byte in UPGRADE.as_bytes() {
            stream.write_all(&[*byte]).unwrap();
            thread::yield_now();
        }
        stream
    });
    let request = server.next_timeout(DEADLINE).unwrap();
    assert!(request.is_websocket());
    let _ws = Websocket::accept(request);
    let head = read_head(&mut writing.join().unwrap());
    assert!(
        head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"),
        "{head}"
    );
    assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
}

#[test]
fn frames_that_follow_the_request_immediately_are_read() {
    let mut server = server();
    let mut stream = stream_to(&server);
    let frames: Vec<u8> = (0..100u8)
        .flat_map(|n| crate::testkit::masked_frame(0x82, &[n]))
        .collect();
    stream
        .write_all(&[UPGRADE.as_bytes(), &frames].concat())
        .unwrap();
    let ws = Websocket::accept(server.next_timeout(DEADLINE).unwrap());
    for n in 0..100u8 {
        assert_eq!(ws.get_timeout(DEADLINE).unwrap().as_bytes(), Some(&[n][..]));
    }
}

#[test]
fn a_request_that_is_not_http_is_answered_400_and_the_server_continues() {
    let mut server = server();
    let mut garbage = stream_to(&server);
    garbage.write_all(b"\x16\x03\x01 hello?\r\n\r\n").unwrap();
    let endless = |begin: &str| {
        let mut stream = stream_to(&server);
        stream
            .write_all(&[begin.as_bytes(), &[b'a'; 17 << 10][..]].concat())
            .unwrap();
        stream
    };
    let complete = |begin: &str, end: &str| {
        let mut stream = stream_to(&server);
        let long = "a".repeat(17 << 10);
        stream
            .write_all([begin, &long, end].concat().as_bytes())
            .unwrap();
        stream
    };
    let endless = [
        (endless("GET /"), "HTTP/1.1 414"),
        (endless("GET / HTTP/1.1\r\nX: "), "HTTP/1.1 431"),
        (
            complete("GET /?", " HTTP/1.1\r\nHost: x\r\n\r\n"),
            "HTTP/1.1 414",
        ),
        (
            complete("GET / HTTP/1.1\r\nX: ", "\r\n\r\n"),
            "HTTP/1.1 431",
        ),
    ];
    let gone = stream_to(&server);
    gone.shutdown(Shutdown::Both).unwrap();
    let mut good = stream_to(&server);
    good.write_all(UPGRADE.as_bytes()).unwrap();
    let request = server.next_timeout(DEADLINE).unwrap();
    assert_eq!(request.path(), "/chat");
    // The server continues, so that the refusals are written in any order.
    assert!(
        server
            .next_timeout(std::time::Duration::from_millis(50))
            .is_err()
    );
    assert!(read_all(garbage).starts_with("HTTP/1.1 400 "));
    for (mut stream, expected) in endless {
        let mut status = [0; 12];
        stream.read_exact(&mut status).unwrap();
        assert_eq!(String::from_utf8_lossy(&status), expected);
    }
}

#[test]
fn the_error_for_an_address_in_use_names_it() {
    let server = server();
    let address = server.local_addr().unwrap();
    let second = (address.ip(), address.port());
    let errors = [
        Server::bind(address).unwrap_err(),
        Server::bind(&[address, address][..]).unwrap_err(),
        Server::bind(second).unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }
    // A look-up that fails, and one that finds nothing.
    assert!(Server::bind("no port").is_err());
    let error = Server::bind(&[][..]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
}

#[test]
fn a_query_parameter_is_decoded_as_a_form_is() {
    let mut server = server();
    let mut stream = stream_to(&server);
    let query = "a=1+2&a=3&%62=%C3%BC%20%26&c=%ff&d&=e";
    let head = format!("GET /?{query} HTTP/1.1\r\nHost: x\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let request = server.next_timeout(DEADLINE).unwrap();
    for (name, value) in [
        ("a", Some("1 2")),
        ("b", Some("\u{fc} &")),
        ("c", Some("\u{fffd}")),
        ("d", Some("")),
        ("", Some("e")),
        ("A", None),
        ("%62", None),
    ] {
        assert_eq!(request.query_param(name).as_deref(), value, "{name}");
    }
    let without = stream_to(&server);
    { &without }.write_all(UPGRADE.as_bytes()).unwrap();
    let request = server.next_timeout(DEADLINE).unwrap();
    assert_eq!(request.query_param("a"), None);
}

#[test]
fn next_timeout_returns_without_a_request() {
    let mut server = server();
    assert!(
        server
            .next_timeout(std::time::Duration::from_millis(1))
            .is_err()
    );
}

#[test]
fn a_server_listens_on_ipv6() {
    let Ok(mut server) = Server::bind("[::1]:0") else {
        // A machine without IPv6 cannot run this.
        return eprintln!("skipped: no IPv6 here");
    };
    let client = Websocket::connect(url(&server)).unwrap();
    let peer = Websocket::accept(server.next_timeout(DEADLINE).unwrap());
    client.wait_ready_timeout(DEADLINE).unwrap();
    assert!(client.peer_addr().unwrap().is_ipv6());
    peer.close().unwrap();
}

#[test]
fn a_client_finds_localhost_on_either_address_family() {
    let mut server = Server::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let client = Websocket::connect(format!("ws://localhost:{port}/")).unwrap();
    let _peer = Websocket::accept(server.next_timeout(DEADLINE).unwrap());
    client.wait_ready_timeout(DEADLINE).unwrap();
}

#[test]
fn both_sides_report_addresses_heads_and_the_subprotocol() {
    let mut server = server();
    let client = Options::new()
        .header("X-Token", "secret")
        .subprotocol("v2.robot")
        .subprotocol("v1.robot")
        .connect(format!("{}drive?fast", url(&server)))
        .unwrap();
    assert!(client.peer_addr().is_none() && client.response().is_none());
    let request = server.next_timeout(DEADLINE).unwrap();
    assert_eq!(request.header("x-token"), Some("secret"));
    let peer = Options::new().subprotocol("v1.robot").accept(request);
    client.wait_ready_timeout(DEADLINE).unwrap();
    peer.wait_ready_timeout(DEADLINE).unwrap();

    assert_eq!(client.name(), format!("{}/drive?...", server.url()));
    assert_eq!(client.peer_addr(), server.local_addr());
    assert_eq!(client.local_addr(), peer.peer_addr());
    assert_eq!(client.response().unwrap().status(), 101);
    assert_eq!(peer.request().unwrap().uri().query(), Some("fast"));
    assert_eq!(client.subprotocol().as_deref(), Some("v1.robot"));
    assert_eq!(peer.subprotocol().as_deref(), Some("v1.robot"));
}

#[test]
fn a_subprotocol_that_the_server_does_not_speak_is_not_chosen() {
    let mut server = server();
    let client = Options::new()
        .subprotocol("mine")
        .connect(url(&server))
        .unwrap();
    let _peer = Websocket::accept(server.next_timeout(DEADLINE).unwrap());
    client.wait_ready_timeout(DEADLINE).unwrap();
    assert_eq!(client.subprotocol(), None);
}

#[test]
fn a_paused_connection_holds_messages_back_until_resume() {
    let mut server = server();
    let client = Options::new().paused(true).connect(url(&server)).unwrap();
    let peer = Websocket::accept(server.next_timeout(DEADLINE).unwrap());
    peer.put_nowait(json!("first")).unwrap();
    client.wait_ready_timeout(DEADLINE).unwrap();
    let subscriptions: Vec<_> = (0..5).map(|_| client.subscribe()).collect();
    assert!(
        subscriptions
            .iter()
            .all(|subscription| subscription.is_empty())
    );
    client.resume();
    for subscription in subscriptions {
        assert_eq!(subscription.get_timeout(DEADLINE).unwrap(), "first");
    }
}

#[test]
fn a_paused_connection_that_is_never_resumed_can_be_closed() {
    let mut server = server();
    let client = Options::new().paused(true).connect(url(&server)).unwrap();
    let peer = Websocket::accept(server.next_timeout(DEADLINE).unwrap());
    client.wait_ready_timeout(DEADLINE).unwrap();
    peer.put_nowait(json!(1)).unwrap();
    crate::testkit::within(DEADLINE, move || client.close()).unwrap();
    peer.wait_closed_timeout(DEADLINE).unwrap();
}

#[test]
fn next_timeout_of_zero_returns_a_request_that_is_there() {
    let mut server = server();
    let _client = Websocket::connect(url(&server)).unwrap();
    crate::testkit::eventually("a request is found", || {
        server.next_timeout(std::time::Duration::ZERO).is_ok()
    });
}
