//! Connections that have ended leave nothing behind. One test, for it counts what the whole process has.
#![cfg(target_os = "linux")]

mod rig;

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use rig::{DEADLINE, UPGRADE, eventually, pair_over, threads_named};
use rtcbot_websocket::{Options, Server, Websocket, json};

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn connections_in_sequence(server: &mut Server, options: &Options, count: usize) {
    for n in 0..count {
        let (client, peer) = pair_over(server, options, options);
        client.put_nowait(n).unwrap();
        assert_eq!(peer.get_timeout(DEADLINE).unwrap(), json!(n));
        match n % 4 {
            0 => client.close().unwrap(),
            1 => peer.close().unwrap(),
            2 => drop(client),
            // Nobody has a handle but the connection itself.
            _ => {
                peer.subscribe_to(peer.clone());
                drop(peer);
                client.close().unwrap();
            }
        }
    }
}

#[test]
fn a_thousand_connections_in_sequence_leave_no_thread_and_no_descriptor() {
    let mut server = Server::bind("127.0.0.1:0").unwrap();
    #[cfg(feature = "native-tls")]
    let (mut tls_server, tls_options) = {
        let pki = rig::tls::pki();
        (pki.server(), pki.options())
    };
    let before = (descriptors(), threads_named("ws-"));
    assert_eq!(before.1, 0);
    let all_gone = || {
        eventually("that nothing is left", || {
            (descriptors(), threads_named("ws-")) == before
        })
    };

    connections_in_sequence(&mut server, &Options::new(), 1000);
    all_gone();
    #[cfg(feature = "native-tls")]
    {
        connections_in_sequence(&mut tls_server, &tls_options, 1000);
        all_gone();
        // TLS that does not come about.
        for _ in 0..50 {
            let client = Websocket::connect(tls_server.url()).unwrap();
            let waiting = std::thread::spawn(move || client.wait_ready_timeout(DEADLINE));
            eventually("the refusal", || {
                assert!(tls_server.next_timeout(Duration::from_millis(1)).is_none());
                waiting.is_finished()
            });
            waiting.join().unwrap().unwrap_err();
        }
        all_gone();
    }
    // Requests that are answered, dropped, or never complete.
    for n in 0..300 {
        let mut stream = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        if n % 3 == 0 {
            drop(stream);
            assert!(server.next_timeout(Duration::from_millis(1)).is_none());
            continue;
        }
        stream.write_all(UPGRADE.as_bytes()).unwrap();
        let request = server.next_timeout(DEADLINE).unwrap();
        match n % 3 {
            1 => request.respond(404, vec![b'x'; 100_000]).unwrap(),
            _ => drop(request),
        }
    }
    eventually("the last", || {
        assert!(server.next_timeout(Duration::from_millis(1)).is_none());
        (descriptors(), threads_named("ws-")) == before
    });
    // Attempts that fail or are given up.
    for n in 0..200 {
        let ws = match n % 2 {
            0 => Websocket::connect("ws://127.0.0.1:1/").unwrap(),
            _ => Websocket::connect(server.url()).unwrap(),
        };
        drop(ws);
    }
    eventually("the very last", || {
        drop(server.next_timeout(Duration::from_millis(1)));
        (descriptors(), threads_named("ws-")) == before
    });
}
