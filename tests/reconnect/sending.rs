//! Queued messages and subscriptions outlive a connection.

use std::thread;

use crossbeam_channel::unbounded;
use rtcbot_websocket::{Error, Message};
use tungstenite::protocol::CloseFrame;

use crate::testkit::{DEADLINE, eventually, was_lost};
use crate::{Host, options, soon, text};

#[test]
fn messages_put_between_connections_are_sent_on_the_next_in_order() {
    let host = Host::new();
    let ws = options(soon()).connect(host.url()).unwrap();
    drop(host.accept());
    // The next attempt waits for the host.
    eventually("the loss", || was_lost(&ws));
    for n in 0..1000 {
        ws.put_nowait(n.to_string()).unwrap();
    }
    let mut raw = host.accept();
    for n in 0..1000 {
        assert_eq!(text(&mut raw), n.to_string());
    }
    assert_eq!(ws.stats().unconfirmed, 0);
}

#[test]
fn subscriptions_callbacks_sinks_and_the_source_outlive_a_connection() {
    let host = Host::new();
    let ws = options(soon()).connect(host.url()).unwrap();
    let subscription = ws.subscribe();
    let (tell, called) = unbounded();
    ws.subscribe_callback(move |message| tell.send(message).unwrap());
    let (sink, sunk) = unbounded();
    ws.subscribe_to(sink);
    let (give, source) = unbounded::<Message>();
    ws.put_subscription(&source).unwrap();
    assert!(matches!(ws.try_get(), Err(Error::Empty)));
    for n in 0..10 {
        let mut raw = host.accept();
        raw.send(n.to_string().into()).unwrap();
        for got in [
            subscription.get_timeout(DEADLINE).unwrap(),
            ws.get_timeout(DEADLINE).unwrap(),
            called.recv_timeout(DEADLINE).unwrap(),
            sunk.recv_timeout(DEADLINE).unwrap(),
        ] {
            assert_eq!(got, *n.to_string());
        }
        assert!(ws.subscription().is_some_and(|active| active == source));
        give.send(n.to_string().into()).unwrap();
        assert_eq!(text(&mut raw), n.to_string());
    }
}

#[test]
fn messages_lost_by_many_cuts_are_counted_and_none_comes_twice() {
    const COUNT: u32 = 20_000;
    let host = Host::new();
    let ws = options(soon()).connect(host.url()).unwrap();
    let putting = {
        let ws = ws.clone();
        // The last messages may be lost like others, so this continues until the end of the
        // connection.
        thread::spawn(move || {
            for n in 0.. {
                let put = ws.put(format!("{n} {}", "x".repeat(n % 300)));
                if put.is_err() {
                    return;
                }
                if n % 100 == 0 {
                    thread::yield_now();
                }
            }
        })
    };
    let mut got = Vec::new();
    let mut connections = 0;
    while connections <= 5 || got.last().is_none_or(|last| *last < COUNT) {
        let mut raw = host.accept();
        connections += 1;
        // Each connection lasts for a while, and is then cut with everything that is on its way.
        for _ in 0..connections * 37 % 500 {
            let n: u32 = text(&mut raw).split(' ').next().unwrap().parse().unwrap();
            got.push(n);
        }
    }
    assert!(got.is_sorted_by(|a, b| a < b), "out of order, or twice");
    let missing = u64::from(got.last().unwrap() + 1) - got.len() as u64;
    let unconfirmed = ws.stats().unconfirmed;
    assert!(
        missing <= unconfirmed,
        "{missing} missing, {unconfirmed} told"
    );
    let _ = ws.close();
    putting.join().unwrap();
}

#[test]
fn queued_messages_go_to_the_next_connection_when_a_server_goes_away() {
    let host = Host::new();
    let ws = options(soon()).connect(host.url()).unwrap();
    let mut raw = host.accept();
    ws.wait_ready_timeout(DEADLINE).unwrap();
    // More than the sockets take, so that the writer is in the middle of it.
    let big = "x".repeat(1 << 20);
    for _ in 0..12 {
        ws.put_nowait(big.clone()).unwrap();
    }
    ws.put_nowait("last").unwrap();
    raw.close(Some(CloseFrame {
        code: 1012.into(),
        reason: "".into(),
    }))
    .unwrap();
    raw.flush().unwrap();
    // Nothing is read before, so the sockets cannot take the whole queue.
    eventually("the peer's Close frame", || ws.received_close().is_some());
    let mut got = 0;
    while let Ok(message) = raw.read() {
        got += usize::from(message.is_text());
    }
    drop(raw);
    let mut raw = host.accept();
    loop {
        match text(&mut raw) {
            end if end == "last" => break,
            other => {
                assert_eq!(other.len(), big.len());
                got += 1;
            }
        }
    }
    assert!(got as u64 + ws.stats().unconfirmed >= 12, "{got}");
    assert!(got <= 12);
}

#[test]
fn a_waiting_put_continues_on_the_next_connection() {
    let host = Host::new();
    let small = options(soon()).send_queue(1000);
    let ws = small.connect(host.url()).unwrap();
    drop(host.accept());
    eventually("the loss", || was_lost(&ws));
    let putting = {
        let ws = ws.clone();
        thread::spawn(move || {
            for n in 0..100u32 {
                ws.put(n.to_string().repeat(50)).unwrap();
            }
            ws.put("done").unwrap();
        })
    };
    let mut raw = host.accept();
    while text(&mut raw) != "done" {}
    putting.join().unwrap();
}
