//! A process that gets no thread, for it has little address space: that limits threads everywhere.
#![cfg(target_os = "linux")]

mod testkit;

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};

use rtcbot_websocket::{Error, Message, Options, Server, Source, Websocket, json};
use testkit::{DEADLINE, UPGRADE, alone_under, eventually, pair_over, threads_named};

#[test]
fn a_connection_without_a_thread_reports_why_and_loses_nothing() {
    let test = "a_connection_without_a_thread_reports_why_and_loses_nothing";
    alone_under("-v 400000", test, run_out_of_threads);
}

/// Address space that nothing else can use.
struct Taken {
    _blocks: Vec<Vec<u8>>,
}

impl Taken {
    /// Takes all address space but about this many MiB.
    fn all_but(mib: usize) -> Taken {
        let mut taken = Vec::new();
        for size in [32 << 20, 1 << 20, 256 << 10] {
            let mut block = Vec::new();
            while block.try_reserve_exact(size).is_ok() {
                taken.push(std::mem::take(&mut block));
            }
        }
        let mut left = 0;
        while left < mib << 20 {
            left += taken.pop().unwrap().capacity();
        }
        Taken { _blocks: taken }
    }
}

/// Checks that there was no thread for it, and that the error says why.
#[track_caller]
fn assert_no_thread(ws: &Websocket) {
    let error = ws.wait_closed_timeout(DEADLINE).unwrap_err();
    assert!(matches!(error, Error::Thread(_)), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("RLIMIT_AS") && text.contains("ulimit -v"),
        "{text}"
    );
    // Everything else reports it too.
    assert!(matches!(ws.get(), Err(Error::Thread(_))));
    assert!(ws.put(1).is_err());
    assert!(matches!(ws.close(), Err(Error::Thread(_))));
}

/// A request that needs no thread on this side, and its response.
fn accept_one(server: &mut Server) -> (Websocket, TcpStream) {
    // The place of the previous one is free when its thread has ended.
    eventually("its end", || threads_named("ws-") == 0);
    let mut stream = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(UPGRADE.as_bytes()).unwrap();
    let request = server.next_timeout(DEADLINE).unwrap();
    (Websocket::accept(request), stream)
}

fn assert_ended(mut stream: impl Read) {
    match stream.read_to_end(&mut Vec::new()) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
}

fn run_out_of_threads() {
    let mut server = Server::bind((testkit::own_address(), 0))
        .unwrap()
        .max_connections(1);
    let listener = TcpListener::bind((testkit::own_address(), 0)).unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());

    // There is no room for a stack, which takes 2 MiB.
    let taken = Taken::all_but(1);
    assert_no_thread(&Websocket::connect(&url).unwrap());
    let (a, b) = Websocket::pair();
    assert_no_thread(&a);
    assert_no_thread(&b);
    let sources = [
        Source::every(DEADLINE, || json!(1).into()),
        Source::iter([Message::from(1)]),
    ];
    for source in sources {
        assert!(matches!(source, Err(Error::Thread(_))), "{source:?}");
    }
    // More often than there are permits.
    for _ in 0..3 {
        let (ws, stream) = accept_one(&mut server);
        assert_no_thread(&ws);
        assert_ended(stream);
    }
    assert!(server.handle().connections().is_empty());
    drop(taken);

    // There is room for the reader's thread only.
    let taken = Taken::all_but(3);
    let client = Websocket::connect(&url).unwrap();
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let raw = tungstenite::accept(stream).unwrap();
    assert_no_thread(&client);
    assert_ended(raw.get_ref());
    // Names are looked up on a thread of their own.
    assert_no_thread(&Websocket::connect("ws://localhost:1/").unwrap());
    for _ in 0..3 {
        let (ws, stream) = accept_one(&mut server);
        assert_no_thread(&ws);
        assert_ended(stream);
    }
    drop(taken);

    // Everything works as before.
    eventually("that nothing is left", || threads_named("ws-") == 0);
    let options = Options::new();
    let (client, peer) = pair_over(&mut server, &options, &options);
    client.put(1).unwrap();
    assert_eq!(peer.get_timeout(DEADLINE).unwrap(), json!(1));
    client.close().unwrap();
}
