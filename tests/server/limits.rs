//! How long a client may take for its request, and how many connections there may be.

use std::io::Write;
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use rtcbot_websocket::{Error, Options, Websocket, json};

use crate::testkit::{DEADLINE, UPGRADE, eventually, pair_over, read_head};
use crate::{read_all, serve_until, server, stream_to};

#[test]
fn a_client_that_is_silent_for_too_long_is_answered_408() {
    let mut server = server().handshake_timeout(Duration::from_millis(20));
    let stream = stream_to(&server);
    let answer = thread::spawn(move || read_all(stream));
    serve_until(&mut server, || answer.is_finished());
    let answer = answer.join().unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
}

#[test]
fn a_head_that_came_in_time_is_accepted_though_the_server_asks_late() {
    let mut server = server().handshake_timeout(Duration::from_millis(200));
    let mut stream = stream_to(&server);
    serve_until(&mut server, || true);
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    // Longer than the handshake timeout.
    thread::sleep(Duration::from_millis(300));
    assert!(server.next_timeout(Duration::ZERO).is_ok());
}

#[test]
fn a_thousand_silent_clients_do_not_delay_the_next() {
    let mut server = server().handshake_timeout(Duration::from_secs(3600));
    let address = server.local_addr().unwrap();
    let connect = move || TcpStream::connect(address).unwrap();
    let connecting = thread::spawn(move || (0..1000).map(|_| connect()).collect::<Vec<_>>());
    // They are accepted meanwhile, since a backlog holds only a few.
    serve_until(&mut server, || connecting.is_finished());
    let silent = connecting.join().unwrap();
    let options = Options::new();
    for _ in 0..20 {
        let (client, peer) = pair_over(&mut server, &options, &options);
        client.put_nowait(1).unwrap();
        assert_eq!(peer.get_timeout(DEADLINE).unwrap(), json!(1));
    }
    drop(silent);
}

#[test]
fn a_connection_beyond_the_limit_is_answered_503_until_one_has_ended() {
    let mut server = server().max_connections(2);
    let options = Options::new();
    let (one, its_peer) = pair_over(&mut server, &options, &options);
    // A request that is not answered yet counts as well.
    let mut asking = stream_to(&server);
    asking.write_all(UPGRADE.as_bytes()).unwrap();
    let asked = server.next_timeout(DEADLINE).unwrap();

    let mut surplus = stream_to(&server);
    surplus.write_all(UPGRADE.as_bytes()).unwrap();
    let answer = thread::spawn(move || read_all(surplus));
    serve_until(&mut server, || answer.is_finished());
    let answer = answer.join().unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("retry-after: "), "{answer}");

    let refused = options.connect(server.url()).unwrap();
    let waiting = thread::spawn(move || refused.wait_ready_timeout(DEADLINE).unwrap_err());
    serve_until(&mut server, || waiting.is_finished());
    let error = waiting.join().unwrap();
    assert!(
        matches!(&error, Error::Refused { response } if response.status() == 503),
        "{error}"
    );

    one.close().unwrap();
    its_peer.wait_closed_timeout(DEADLINE).unwrap();
    // Its place is free when its threads have ended.
    eventually("a place", || {
        let client = options.connect(server.url()).unwrap();
        match server.next_timeout(Duration::from_millis(200)) {
            Ok(request) => {
                let peer = Websocket::accept(request);
                client.wait_ready_timeout(DEADLINE).unwrap();
                drop(peer);
                true
            }
            Err(_) => false,
        }
    });
    drop(asked);
}

#[test]
fn every_kind_of_end_frees_a_place_for_a_connection() {
    let mut server = server().max_connections(1);
    for round in 0..50 {
        let mut found = None;
        // The place of the previous round may still be taken for a moment.
        eventually("a place", || {
            let mut stream = stream_to(&server);
            stream.write_all(UPGRADE.as_bytes()).unwrap();
            let request = server.next_timeout(Duration::from_millis(50));
            found = request.ok().map(|request| (request, stream));
            found.is_some()
        });
        let (request, mut stream) = found.unwrap();
        match round % 5 {
            0 => drop(request),
            1 => request.respond(404, "").unwrap(),
            2 => {
                let ws = Websocket::accept(request);
                read_head(&mut stream);
                drop(stream);
                ws.wait_closed_timeout(DEADLINE).unwrap_err();
            }
            3 => drop(Options::new().linger(Duration::ZERO).accept(request)),
            _ => {
                let ws = Options::new().allow_origin_if(|_| false).accept(request);
                drop(stream);
                let _ = ws.wait_closed_timeout(DEADLINE);
            }
        }
    }
}

#[test]
fn a_refused_client_keeps_its_place_while_it_is_answered() {
    let mut server = server().max_connections(1);
    let request = UPGRADE.replace("Host: ", "Content-Length: 5\r\nHost: ");
    let mut refused = stream_to(&server);
    refused.write_all(request.as_bytes()).unwrap();
    let ws = Websocket::accept(server.next_timeout(DEADLINE).unwrap());
    ws.wait_closed_timeout(DEADLINE).unwrap_err();
    // Its body may still come.
    for _ in 0..5 {
        thread::sleep(Duration::from_millis(10));
        let mut next = stream_to(&server);
        next.write_all(UPGRADE.as_bytes()).unwrap();
        let answer = thread::spawn(move || read_all(next));
        serve_until(&mut server, || answer.is_finished());
        assert!(answer.join().unwrap().starts_with("HTTP/1.1 503 "));
    }
    drop(refused);
    eventually("a place", || {
        let mut stream = stream_to(&server);
        stream.write_all(UPGRADE.as_bytes()).unwrap();
        server.next_timeout(Duration::from_millis(50)).is_ok()
    });
}
