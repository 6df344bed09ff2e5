//! An attempt to connect, and the wait before the next one, can be given up.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use rtcbot_websocket::{Backoff, Error, Options};

use crate::HOUR;
use crate::testkit::wire::{Wire, over_each};
use crate::testkit::{DEADLINE, eventually, was_lost, within};

/// Closes a client that has reached the stage that `reached` waits for, where it would stay for an
/// hour.
fn close_while_connecting(wire: &Wire, url: &str, reached: impl FnOnce()) {
    let ws = wire
        .options()
        .connect_timeout(HOUR)
        .close_timeout(HOUR)
        .connect(url)
        .unwrap();
    let waiting = thread::spawn({
        let ws = ws.clone();
        move || ws.wait_ready()
    });
    reached();
    let closing = ws.clone();
    within(DEADLINE, move || closing.close()).unwrap();
    assert!(ws.is_closed() && ws.error().is_none());
    let error = within(DEADLINE, move || waiting.join().unwrap()).unwrap_err();
    assert!(error.is_orderly(), "{error}");
}

// IXWebSocket 151: `stop()` waits for the current operation. (A look-up cannot be made slow here. A
// unit test in `src/net/dial.rs` shows that it can be given up.)
#[test]
#[cfg(target_os = "linux")]
fn close_during_the_tcp_handshake_returns_immediately() {
    let listener = TcpListener::bind((crate::testkit::own_address(), 0)).unwrap();
    let address = listener.local_addr().unwrap();
    // The smallest backlog: one client is accepted, and the SYNs of the others are not answered.
    rustix::net::listen(&listener, 0).unwrap();
    let _first = TcpStream::connect(address).unwrap();
    // From proc_net_tcp(5): the remote port, and the state SYN_SENT.
    let connecting = format!(":{:04X} 02 ", address.port());
    close_while_connecting(&Wire::Ws, &format!("ws://{address}/"), || {
        eventually("a SYN was sent", || {
            let sockets = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
            sockets.contains(&connecting)
        });
    });
}

#[test]
fn close_during_the_tls_handshake_returns_immediately() {
    // Over `ws` it is the only stage.
    over_each(|wire| {
        let (listener, url) = wire.listen();
        let mut silent = None;
        close_while_connecting(wire, &url, || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_exact(&mut [0]).unwrap();
            silent = Some(stream);
        });
    });
}

#[test]
fn close_during_the_websocket_handshake_returns_immediately() {
    over_each(|wire| {
        let (listener, url) = wire.listen();
        let mut silent = None;
        close_while_connecting(wire, &url, || {
            let (mut stream, _) = wire.accept_bytes(&listener);
            stream.read_exact(&mut [0]).unwrap();
            silent = Some(stream);
        });
    });
}

#[test]
fn close_immediately_after_connect_ends_every_stage_of_connecting() {
    for n in 0..300 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let host = if n % 2 == 0 { "localhost" } else { "127.0.0.1" };
        let client = Options::new()
            .connect_timeout(HOUR)
            .close_timeout(HOUR)
            .connect(format!("ws://{host}:{port}"))
            .unwrap();
        for _ in 0..n {
            std::hint::spin_loop();
        }
        within(DEADLINE, move || client.close()).unwrap();
    }
}

// IXWebSocket 151: `stop()` waits for the next attempt to connect.
#[test]
fn close_between_two_attempts_returns_immediately_and_wakes_all_waits() {
    over_each(|wire| {
        for n in 0..100 {
            let (listener, url) = wire.listen();
            let hour = Backoff::new().initial(HOUR).max(HOUR).jitter(0.0);
            let ws = wire.options().reconnect(hour).connect(url).unwrap();
            drop(wire.accept(&listener));
            eventually("the loss", || was_lost(&ws));
            let getting = thread::spawn({
                let ws = ws.clone();
                move || ws.get()
            });
            match n % 2 {
                0 => within(DEADLINE, move || ws.close()).unwrap(),
                _ => {
                    // Another thread waits while this one has no handle left.
                    let closed = ws.closed_signal().clone();
                    thread::spawn(move || ws.close());
                    within(DEADLINE, move || closed.recv()).unwrap_err();
                }
            }
            let end = within(DEADLINE, move || getting.join().unwrap());
            assert!(matches!(end, Err(Error::Closed(_))), "{end:?}");
        }
    });
}

// websocket-client 974: it reconnects only once.
#[test]
fn a_client_reconnects_each_time_that_its_connection_is_cut() {
    over_each(|wire| {
        let (listener, url) = wire.listen();
        let soon = Backoff::new()
            .initial(Duration::from_millis(1))
            .max(Duration::from_millis(20));
        let options = wire.options();
        let ws = options.json(false).reconnect(soon).connect(url).unwrap();
        for n in 0..100u32 {
            let mut raw = wire.accept(&listener);
            ws.put(n.to_string()).unwrap();
            assert_eq!(raw.read().unwrap().to_text().unwrap(), n.to_string());
            raw.send(n.to_string().into()).unwrap();
            assert_eq!(ws.get_timeout(DEADLINE).unwrap(), *n.to_string());
        }
        let _last = wire.accept(&listener);
        eventually("the last", || ws.stats().reconnects == 100);
        ws.wait_ready_timeout(DEADLINE).unwrap();
    });
}
