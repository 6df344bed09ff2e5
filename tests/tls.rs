//! TLS in both roles: whom it trusts, that it is full duplex, and how it ends.
#![cfg(feature = "native-tls")]

mod testkit;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use rtcbot_websocket::native_tls::{Certificate, Identity, Protocol, TlsAcceptor, TlsConnector};
use rtcbot_websocket::{Error, Options, Queue, Request, Server, Websocket, http, json};
use testkit::tls::{pki, pki_for};
use testkit::{DEADLINE, UPGRADE, eventually, url};

/// Returns the reason why a connection never became ready.
#[track_caller]
fn refusal(options: &Options, url: &str) -> Error {
    let ws = options.connect(url).unwrap();
    // The server's end is not waited for.
    ws.wait_ready_timeout(DEADLINE).unwrap_err()
}

/// Serves in the background until the end of the test.
fn serving(server: Server) -> String {
    let url = url(&server);
    thread::spawn(move || {
        for request in server {
            let ws = Websocket::accept(request);
            ws.subscribe_to(ws.clone());
        }
    });
    url
}

#[test]
fn messages_go_both_ways_and_the_request_says_that_it_is_encrypted() {
    let pki = pki();
    let mut server = pki.server();
    assert!(server.url().starts_with("wss://127."));
    let client = pki.options().connect(server.url()).unwrap();
    client.put_nowait(json!({"a": 1})).unwrap();
    let request = server.next_timeout(DEADLINE).unwrap();
    assert!(request.is_encrypted());
    let peer = Websocket::accept(request);
    assert_eq!(peer.get_timeout(DEADLINE).unwrap(), json!({"a": 1}));
    peer.put_nowait(vec![7u8; 100_000]).unwrap();
    assert_eq!(client.get_timeout(DEADLINE).unwrap().len(), 100_000);
    assert_eq!(client.peer_addr(), server.local_addr());
    assert_eq!(client.local_addr(), peer.peer_addr());
    client.close().unwrap();
    peer.wait_closed_timeout(DEADLINE).unwrap();
}

#[test]
fn a_host_name_is_verified_as_well_as_an_address() {
    let pki = pki_for(&["localhost"]);
    let server = Server::bind("127.0.0.1:0")
        .unwrap()
        .tls(pki.identity.clone())
        .unwrap();
    let port = server.local_addr().unwrap().port();
    let _ = serving(server);
    let ws = pki
        .options()
        .connect(format!("https://localhost:{port}/"))
        .unwrap();
    ws.wait_ready_timeout(DEADLINE).unwrap();

    let error = refusal(&pki.options(), &format!("wss://127.0.0.1:{port}/"));
    assert!(
        matches!(&error, Error::Tls { peer, .. } if peer == "127.0.0.1"),
        "{error}"
    );
    assert!(error.to_string().contains("mismatch"), "{error}");
}

#[test]
fn an_untrusted_certificate_is_refused_and_the_server_continues() {
    let pki = pki();
    let url = serving(pki.server());
    let error = refusal(&Options::new(), &url);
    assert!(matches!(error, Error::Tls { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.ends_with("certificate verify failed: unable to get local issuer certificate"),
        "{text}"
    );
    let other = pki_for(&["localhost"]);
    assert!(matches!(refusal(&other.options(), &url), Error::Tls { .. }));

    let ws = pki.options().connect(&url).unwrap();
    ws.wait_ready_timeout(DEADLINE).unwrap();
}

#[test]
fn wss_to_a_port_without_tls_is_an_error_that_says_so() {
    let own = Server::bind((testkit::own_address(), 0)).unwrap();
    let mut urls = vec![serving(own)];
    for first in ["HTTP/1.1 400 Bad Request\r\n\r\n", "SSH-2.0-OpenSSH\r\n"] {
        let listener = TcpListener::bind((testkit::own_address(), 0)).unwrap();
        urls.push(format!("ws://{}/", listener.local_addr().unwrap()));
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(first.as_bytes()).unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
        });
    }
    for url in urls {
        let error = refusal(&Options::new(), &url.replace("ws:", "wss:"));
        assert!(matches!(error, Error::Tls { .. }), "{error}");
        let hint = "does the server speak TLS? If not, use ws://";
        assert!(error.to_string().ends_with(hint), "{error}");
    }
}

#[test]
fn ws_to_a_tls_port_is_an_error_that_says_so() {
    // A server of this crate answers with HTTP, one of rustls with an alert.
    let pki = pki();
    let error = refusal(
        &Options::new(),
        &serving(pki.server()).replace("wss:", "ws:"),
    );
    assert!(
        error
            .to_string()
            .contains("this port speaks TLS: use wss://"),
        "{error}"
    );

    let listener = TcpListener::bind((testkit::own_address(), 0)).unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut tls = pki.rustls();
        let error = tls.complete_io(&mut stream).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData, "{error}");
        let _ = stream.shutdown(Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let error = refusal(&Options::new(), &url);
    assert!(matches!(error, Error::Handshake(_)), "{error}");
    let hint = "does the server expect TLS? If so, use wss://";
    assert!(error.to_string().ends_with(hint), "{error}");
}

#[test]
fn invalid_certificates_are_accepted_with_the_danger_option() {
    let url = serving(pki_for(&["elsewhere"]).server());
    let ws = Options::new()
        .danger_accept_invalid_certs(true)
        .connect(url)
        .unwrap();
    ws.wait_ready_timeout(DEADLINE).unwrap();
}

#[test]
fn root_certificates_may_be_pem_der_or_a_bundle() {
    let (pki, other) = (pki(), pki());
    let url = serving(pki.server());
    let bundle = other.ca.pem() + &pki.ca.pem();
    let der = TlsConnector::builder()
        .add_root_certificate(Certificate::from_der(pki.ca.der()).unwrap())
        .build()
        .unwrap();
    for options in [
        Options::new().tls_connector(der),
        Options::new().root_certificate_pem(bundle),
        Options::new()
            .root_certificate_pem(pki.ca.pem())
            .root_certificate_pem(other.ca.pem()),
    ] {
        let ws = options.connect(&url).unwrap();
        ws.wait_ready_timeout(DEADLINE).unwrap();
    }
}

#[test]
fn an_invalid_certificate_is_refused_immediately() {
    for options in [
        Options::new().root_certificate_pem("-----BEGIN CERTIFICATE-----\nx"),
        Options::new().root_certificate_pem(""),
    ] {
        let error = options.connect("wss://localhost/").unwrap_err();
        assert!(matches!(error, Error::InvalidOption { .. }), "{error}");
        assert!(error.to_string().contains("root certificate"), "{error}");
    }
}

#[test]
fn a_ready_made_connector_is_used() {
    let pki = pki();
    let url = serving(pki.server());
    let connector = pki.raw_connector();
    let ws = Options::new()
        .tls_connector(connector)
        .connect(&url)
        .unwrap();
    ws.wait_ready_timeout(DEADLINE).unwrap();
    let distrustful = TlsConnector::new().unwrap();
    let options = pki.options();
    let error = refusal(&options.tls_connector(distrustful), &url);
    assert!(matches!(error, Error::Tls { .. }), "{error}");
}

#[test]
fn a_client_sends_its_certificate_to_a_server_that_asks() {
    let pki = pki();
    let listener = TcpListener::bind((testkit::own_address(), 0)).unwrap();
    let url = format!("wss://{}/", listener.local_addr().unwrap());
    let sessions = [
        pki.rustls_for_known_clients(),
        pki.rustls_for_known_clients(),
    ];
    let server = thread::spawn(move || {
        sessions.map(|session| {
            let (stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            let stream = rustls::StreamOwned::new(session, stream);
            let mut raw = tungstenite::accept(stream).map_err(|_| ())?;
            let known = raw.get_ref().conn.peer_certificates().is_some();
            testkit::pump(&mut raw);
            Ok::<_, ()>(known)
        })
    });
    let ws = pki
        .options()
        .client_identity(pki.identity.clone())
        .connect(&url)
        .unwrap();
    ws.wait_ready_timeout(DEADLINE).unwrap();
    ws.close().unwrap();
    let error = refusal(&pki.options(), &url);
    assert!(error.to_string().contains("certificate"), "{error}");
    assert_eq!(server.join().unwrap(), [Ok(true), Err(())]);
}

#[test]
fn a_key_that_does_not_match_the_certificate_is_refused_immediately() {
    let (one, other) = (pki(), pki());
    let identity = Identity::from_pkcs8(
        one.certificate.pem().as_bytes(),
        other.key.serialize_pem().as_bytes(),
    );
    // Some TLS libraries notice it here, others in the handshake.
    let bound = identity
        .map_err(std::io::Error::other)
        .and_then(|identity| Server::bind((testkit::own_address(), 0))?.tls(identity));
    assert!(bound.is_err());
}

#[test]
fn an_old_protocol_is_refused() {
    let pki = pki();
    let acceptor = TlsAcceptor::builder(pki.identity.clone())
        .min_protocol_version(Some(Protocol::Tlsv12))
        .max_protocol_version(Some(Protocol::Tlsv12))
        .build()
        .unwrap();
    let server = Server::bind((testkit::own_address(), 0))
        .unwrap()
        .tls_acceptor(acceptor);
    let url = serving(server);
    let newer = TlsConnector::builder()
        .add_root_certificate(Certificate::from_der(pki.ca.der()).unwrap())
        .min_protocol_version(Some(Protocol::Tlsv13))
        .build()
        .unwrap();
    let error = refusal(&Options::new().tls_connector(newer), &url);
    assert!(matches!(error, Error::Tls { .. }), "{error}");
    // By default, TLS 1.2 is enough.
    let ws = pki.options().connect(&url).unwrap();
    ws.wait_ready_timeout(DEADLINE).unwrap();
}

#[test]
fn a_server_that_speaks_no_tls_is_an_error() {
    let server = Server::bind((testkit::own_address(), 0)).unwrap();
    let url = serving(server).replace("ws:", "wss:");
    let error = refusal(&Options::new(), &url);
    assert!(matches!(error, Error::Tls { .. }), "{error}");
}

#[test]
fn a_server_that_is_silent_in_the_tls_handshake_is_a_connect_timeout() {
    let listener = TcpListener::bind((testkit::own_address(), 0)).unwrap();
    let url = format!("wss://{}/", listener.local_addr().unwrap());
    let limit = Duration::from_millis(50);
    let error = refusal(&Options::new().connect_timeout(limit), &url);
    assert!(
        matches!(
            error,
            Error::ConnectTimeout { stage: "the TLS handshake", after, .. } if after == limit
        ),
        "{error}"
    );
}

/// Passes bytes on in small pieces, so that no TLS record arrives in one piece.
fn crumble(mut from: TcpStream, mut to: TcpStream, mut seed: u64) {
    let mut piece = [0; 700];
    loop {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1);
        let size = 1 + (seed >> 33) as usize % piece.len();
        match from.read(&mut piece[..size]) {
            Ok(n @ 1..) if to.write_all(&piece[..n]).is_ok() => {}
            _ => {
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
        }
    }
}

#[test]
fn records_that_arrive_in_pieces_are_put_together() {
    let pki = pki();
    let mut server = pki.server();
    let relay = TcpListener::bind((testkit::own_address(), 0)).unwrap();
    let url = format!("wss://{}/", relay.local_addr().unwrap());
    let to = server.local_addr().unwrap();
    thread::spawn(move || {
        let (client, _) = relay.accept().unwrap();
        let server = TcpStream::connect(to).unwrap();
        client.set_nodelay(true).unwrap();
        server.set_nodelay(true).unwrap();
        let back = (server.try_clone().unwrap(), client.try_clone().unwrap());
        thread::spawn(move || crumble(back.0, back.1, 1));
        crumble(client, server, 2);
    });
    let client = pki.options().json(false).connect(url).unwrap();
    let echo = Websocket::accept(server.next_timeout(DEADLINE).unwrap());
    echo.subscribe_to(echo.clone());
    let answers = client.subscribe_with(Queue::Unbounded);
    for size in (0..60_000).step_by(997) {
        client.put(vec![size as u8; size]).unwrap();
    }
    for size in (0..60_000).step_by(997) {
        let answer = answers.get_timeout(DEADLINE).unwrap();
        assert_eq!(answer.as_bytes(), Some(&vec![size as u8; size][..]));
    }
    client.close().unwrap();
}

/// The server has to wait for requests during the TLS handshake.
fn raw_client(
    pki: &testkit::tls::Pki,
    server: &mut Server,
    bytes: &[u8],
) -> (rtcbot_websocket::native_tls::TlsStream<TcpStream>, Request) {
    thread::scope(|scope| {
        let address = server.local_addr().unwrap();
        let connector = pki.raw_connector();
        let client = scope.spawn(move || {
            let stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            let mut stream = connector.connect("localhost", stream).unwrap();
            stream.write_all(bytes).unwrap();
            stream
        });
        let request = server.next_timeout(DEADLINE).unwrap();
        (client.join().unwrap(), request)
    })
}

#[test]
fn close_notify_is_sent_at_the_end() {
    let pki = pki();
    let mut server = pki.server();
    let (mut stream, request) = raw_client(&pki, &mut server, UPGRADE.as_bytes());
    let ws = Websocket::accept(request);
    // A masked Close frame without a body.
    stream.write_all(&[0x88, 0x80, 0, 0, 0, 0]).unwrap();
    // Without close_notify, OpenSSL reports the end of the stream as an error.
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    assert!(all.ends_with(&[0x88, 0]), "{all:?}");
    ws.wait_closed_timeout(DEADLINE).unwrap();
}

#[test]
fn a_page_is_served_from_the_same_port() {
    let pki = pki();
    let mut server = pki.server();
    let get = b"GET /page HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let (mut stream, request) = raw_client(&pki, &mut server, get);
    assert!(!request.is_websocket());
    let page = "x".repeat(3_000_000);
    let response = http::Response::builder()
        .header("Content-Type", "text/html")
        .body(page.clone())
        .unwrap();
    // More than the socket takes at once: a thread sends the rest.
    request.respond_with(response).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("content-type: text/html\r\n"));
    assert!(answer.ends_with(&page));
}

#[test]
fn http_on_a_tls_port_is_answered_in_http() {
    let pki = pki();
    let mut server = pki.server();
    let mut stream = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(UPGRADE.as_bytes()).unwrap();
    let client = thread::spawn(move || {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    });
    eventually("an answer", || {
        assert!(server.next_timeout(Duration::from_millis(1)).is_err());
        client.is_finished()
    });
    let answer = client.join().unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(answer.contains("wss://"), "{answer}");
}

#[test]
fn silent_clients_and_invalid_handshakes_do_not_delay_the_next() {
    let pki = pki();
    let mut server = pki.server();
    let address = server.local_addr().unwrap();
    let strangers: Vec<_> = (0..50)
        .map(|n| {
            let mut stream = TcpStream::connect(address).unwrap();
            let words: &[&[u8]] = &[b"", b"\x16", b"\x16\x03\x01\x02\x00\x01\x00", b"\x80\xff"];
            stream.write_all(words[n % words.len()]).unwrap();
            stream
        })
        .collect();
    let options = pki.options();
    let (client, peer) = testkit::pair_over(&mut server, &options, &options);
    client.put_nowait(1).unwrap();
    assert_eq!(peer.get_timeout(DEADLINE).unwrap(), json!(1));
    drop(strangers);
}

#[test]
fn a_client_that_is_slow_in_the_tls_handshake_is_disconnected() {
    let pki = pki();
    let mut server = pki.server().handshake_timeout(Duration::from_millis(50));
    let mut silent = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    silent.set_read_timeout(Some(DEADLINE)).unwrap();
    silent.write_all(b"\x16\x03").unwrap();
    let ended = thread::spawn(move || silent.read(&mut [0]));
    eventually("its end", || {
        assert!(server.next_timeout(Duration::from_millis(1)).is_err());
        ended.is_finished()
    });
    assert!(!matches!(ended.join().unwrap(), Ok(1)));
}

#[test]
fn a_blocking_server_on_native_tls_works_as_a_peer() {
    let pki = pki();
    let listener = TcpListener::bind((testkit::own_address(), 0)).unwrap();
    let url = format!("wss://{}/", listener.local_addr().unwrap());
    let acceptor = TlsAcceptor::new(pki.identity.clone()).unwrap();
    let server = thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let stream = acceptor.accept(stream).unwrap();
        let mut raw = tungstenite::accept(stream).unwrap();
        while let Ok(message) = raw.read() {
            if message.is_text() || message.is_binary() {
                raw.send(message).unwrap();
            }
        }
    });
    let ws = pki.options().connect(url).unwrap();
    for n in 0..1000 {
        ws.put_nowait(n).unwrap();
        assert_eq!(ws.get_timeout(DEADLINE).unwrap(), json!(n));
    }
    ws.close().unwrap();
    server.join().unwrap();
}

/// A TLS read then has to write, possibly during the write of a long message.
#[test]
fn key_updates_under_load_lose_nothing() {
    const COUNT: u32 = 30_000;
    let pki = pki();
    let listener = TcpListener::bind((testkit::own_address(), 0)).unwrap();
    let url = format!("wss://{}/", listener.local_addr().unwrap());
    let session = pki.rustls();
    let server = thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut raw = tungstenite::accept(rustls::StreamOwned::new(session, stream)).unwrap();
        assert_eq!(
            raw.get_ref().conn.protocol_version(),
            Some(rustls::ProtocolVersion::TLSv1_3)
        );
        for n in 0..COUNT {
            let message = raw.read().unwrap();
            // More is sent back than arrives, so that at times neither side has room.
            raw.write(message.clone()).unwrap();
            raw.send(message).unwrap();
            // At most 32 times: rustls accepts no more answers in succession, which is how they
            // come while the client has nothing else to send.
            if n % 1000 == 0 {
                raw.get_mut().conn.refresh_traffic_keys().unwrap();
            }
        }
        loop {
            if let Err(end) = raw.read() {
                return end;
            }
        }
    });
    let ws = pki.options().json(false).connect(url).unwrap();
    let answers = ws.subscribe();
    let putting = thread::spawn({
        let ws = ws.clone();
        move || {
            for n in 0..COUNT {
                ws.put(n.to_be_bytes().repeat(128)).unwrap();
            }
        }
    });
    for n in 0..2 * COUNT {
        let answer = answers.get_timeout(DEADLINE).unwrap();
        assert_eq!(answer.as_bytes().unwrap()[..4], (n / 2).to_be_bytes());
    }
    putting.join().unwrap();
    let closed = ws.close();
    let end = server.join().unwrap();
    closed.unwrap_or_else(|error| panic!("{error}; and the server's side: {end:?}"));
}

#[test]
fn tls_streams_of_the_program_work_on_both_sides() {
    let pki = pki();
    let listener = TcpListener::bind((testkit::own_address(), 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::new(pki.identity.clone()).unwrap();
    let accepting = thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut stream = acceptor.accept(stream).unwrap();
        let mut head = vec![0; UPGRADE.len()];
        let mut length = 0;
        while !head[..length].ends_with(b"\r\n\r\n") {
            head.resize(length + 1, 0);
            length += stream.read(&mut head[length..]).unwrap();
        }
        let key = String::from_utf8(head).unwrap();
        let key = key.lines().find_map(|line| {
            line.strip_prefix("sec-websocket-key: ")
                .or(line.strip_prefix("Sec-WebSocket-Key: "))
        });
        let head = http::Request::builder()
            .uri("/made/elsewhere")
            .header("Host", "localhost")
            .header("Connection", "Upgrade")
            .header("Upgrade", "websocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", key.unwrap())
            .body(())
            .unwrap();
        Websocket::accept(Request::from_parts(head, stream, []))
    });
    let stream = TcpStream::connect(address).unwrap();
    let stream = pki.raw_connector().connect("localhost", stream).unwrap();
    let client = Options::new()
        .connect_over(stream, "wss://localhost/")
        .unwrap();
    let server = accepting.join().unwrap();
    client.wait_ready_timeout(DEADLINE).unwrap();
    server.wait_ready_timeout(DEADLINE).unwrap();
    assert_eq!(client.peer_addr(), Some(address));
    assert_eq!(server.request().unwrap().uri().path(), "/made/elsewhere");

    let received = server.subscribe();
    let sending = {
        let client = client.clone();
        thread::spawn(move || {
            for n in 0..50_000 {
                client.put(n).unwrap();
            }
        })
    };
    for n in 0..50_000 {
        server.put(n).unwrap();
        assert_eq!(received.get_timeout(DEADLINE).unwrap(), json!(n));
    }
    sending.join().unwrap();
    let received = client.subscribe();
    drop(received);
    client.close().unwrap();
    server.wait_closed_timeout(DEADLINE).unwrap();
}

#[test]
fn a_wss_url_over_a_stream_that_is_not_encrypted_is_refused() {
    let listener = TcpListener::bind((testkit::own_address(), 0)).unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let error = Options::new().connect_over(stream, "wss://localhost/");
    let error = error.unwrap_err();
    assert!(matches!(error, Error::InvalidUrl { .. }), "{error}");
    assert!(error.to_string().contains("not encrypted"), "{error}");
}
