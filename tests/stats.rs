//! The statistics of a connection.

mod testkit;

use std::thread;
use std::time::Duration;

use crossbeam_channel::unbounded;
use rtcbot_websocket::{Error, Options, Queue, Websocket, json};
use testkit::{DEADLINE, client_and_raw, eventually, pair_with, within};

fn options() -> Options {
    Options::new().json(false).ping_interval(None)
}

#[test]
fn both_sides_count_the_same_messages() {
    let (client, server) = pair_with(&options(), &options());
    for n in 0..100 {
        client.put("x".repeat(n * 10)).unwrap();
        server.put("y").unwrap();
    }
    for _ in 0..100 {
        server.get_timeout(DEADLINE).unwrap();
        client.get_timeout(DEADLINE).unwrap();
    }
    // They are counted once they are written, which may be after they have arrived.
    eventually("the count", || client.stats().messages_out == 100);
    eventually("the count", || server.stats().messages_out == 100);
    let (c, s) = (client.stats(), server.stats());
    assert_eq!((c.messages_in, s.messages_in), (100, 100));
    // A server's short frames have two bytes more than their payload.
    assert_eq!((s.bytes_out, c.bytes_in), (300, 300));
    assert_eq!(c.bytes_out, s.bytes_in);
    assert_eq!((c.dropped, c.reconnects, c.unsent), (0, 0, 0));
}

#[test]
fn queue_lengths_are_reported() {
    let (client, raw) = client_and_raw(&options());
    assert_eq!(client.stats().send_queue, 0);
    let mut put = 0;
    while client.put_nowait(vec![0; 100_000]).is_ok() {
        put += 1;
    }
    let stats = client.stats();
    assert!(
        stats.send_queue > 100 && stats.send_queue <= put + 2,
        "{stats:?}"
    );
    assert!(stats.send_queue_bytes > 15 << 20 && stats.send_queue_bytes <= 16 << 20);
    drop(raw);
    client.wait_closed_timeout(DEADLINE).unwrap_err();
    let stats = client.stats();
    // What was written may have arrived; the rest was not sent.
    assert_eq!(stats.unsent + stats.messages_out, put as u64);
    assert_eq!(stats.unconfirmed, stats.messages_out);
    assert_eq!((stats.send_queue, stats.send_queue_bytes), (0, 0));
}

#[test]
fn the_slowest_consumer_is_reported() {
    let (client, server) = Options::new().pair();
    let send = |count: u64| {
        let before = server.stats().messages_in;
        for n in 0..count {
            client.put(n).unwrap();
        }
        eventually("the messages", || {
            server.stats().messages_in == before + count
        });
    };
    // No consumer yet.
    send(7);
    eventually("what is kept", || server.stats().receive_queue == 7);
    let quick = server.subscribe();
    let slow = server.subscribe();
    for _ in 0..7 {
        quick.get_timeout(DEADLINE).unwrap();
    }
    send(5);
    for _ in 0..5 {
        quick.get_timeout(DEADLINE).unwrap();
    }
    eventually("the slow one", || server.stats().receive_queue == 5);
    slow.get_timeout(DEADLINE).unwrap();
    assert_eq!(server.stats().receive_queue, 4);
    drop(slow);
    let (go_on, wait) = crossbeam_channel::bounded::<()>(0);
    server.subscribe_callback(move |_| {
        let _ = wait.recv();
    });
    send(10);
    // One is being handled.
    eventually("the callbacks", || {
        server.stats().receive_queue == 10 || server.stats().receive_queue == 9
    });
    drop(go_on);
    for _ in 0..10 {
        quick.get_timeout(DEADLINE).unwrap();
    }
    eventually("the end of it", || server.stats().receive_queue == 0);
}

#[test]
fn messages_that_a_policy_drops_are_counted() {
    let (client, server) = Options::new().pair();
    let latest = server.subscribe_with(Queue::Latest);
    for n in 0..100 {
        client.put(n).unwrap();
    }
    eventually("the last", || server.stats().messages_in == 100);
    eventually("the count", || server.stats().dropped == 99);
    drop(latest);
}

#[test]
fn messages_that_the_peer_has_confirmed_are_not_unconfirmed() {
    let (client, server) = pair_with(&options(), &options());
    server.subscribe_callback(|_| {});
    for n in 0..10 {
        client.put(vec![n]).unwrap();
    }
    // The answer comes after everything that was read before it.
    eventually("that all is written", || client.stats().messages_out == 10);
    let answer = client.ping("").unwrap();
    within(DEADLINE, move || answer.recv().unwrap());
    client.put("not confirmed").unwrap();
    eventually("that it is written", || client.stats().messages_out == 11);
    server.close_with(1001, "").unwrap();
    client.wait_closed_timeout(DEADLINE).unwrap();
    assert_eq!(client.stats().unconfirmed, 1);
    // The client closed after everything had arrived.
    assert_eq!(server.stats().unconfirmed, 0);
}

#[test]
fn a_clean_close_by_this_side_confirms_all_messages() {
    let (client, server) = pair_with(&options(), &options());
    server.subscribe_callback(|_| {});
    for n in 0..10 {
        client.put(vec![n]).unwrap();
    }
    client.close().unwrap();
    let stats = client.stats();
    assert_eq!(
        (stats.messages_out, stats.unconfirmed, stats.unsent),
        (10, 0, 0)
    );
}

#[test]
fn a_close_that_crosses_the_peers_confirms_no_message() {
    let (client, mut raw) = client_and_raw(&options());
    // Delayed, so that it sees the peer's Close frame late, as on a slow network.
    let full = client.subscribe_with(Queue::Block(1));
    for _ in 0..5 {
        raw.send("x".into()).unwrap();
    }
    let frame = tungstenite::protocol::CloseFrame {
        code: 1001.into(),
        reason: "".into(),
    };
    raw.close(Some(frame)).unwrap();
    eventually("that it is held up", || client.stats().receive_queue == 1);
    for n in 0..100 {
        client.put(n.to_string()).unwrap();
    }
    let closing = client.clone();
    let closing = thread::spawn(move || closing.close());
    eventually("what it says to the end", || !client.is_ready());
    // The peer has read none of them.
    drop(raw);
    let _ = closing.join().unwrap();
    let stats = client.stats();
    assert_eq!(stats.unsent + stats.unconfirmed, 100, "{stats:?}");
    drop(full);
}

#[test]
fn messages_that_a_full_sink_misses_after_a_close_are_counted() {
    let (a, b) = options().pair();
    for early in [10, 0] {
        let (a, b) = match early {
            0 => options().pair(),
            _ => (a.clone(), b.clone()),
        };
        for n in 0..early {
            b.put(n.to_string()).unwrap();
        }
        eventually("them", || a.stats().messages_in == early);
        let (full, _kept) = crossbeam_channel::bounded(1);
        a.subscribe_to(full);
        for n in early..20 {
            b.put(n.to_string()).unwrap();
        }
        eventually("all", || b.stats().messages_out == 20);
        let _ = a.close();
        eventually("the count", || {
            a.stats().dropped == a.stats().messages_in - 1
        });
    }
}

#[test]
fn messages_that_a_close_could_not_send_are_counted() {
    let options = options().close_timeout(Duration::from_millis(100));
    let (client, _raw) = client_and_raw(&options);
    let mut put = 0;
    while client.put_nowait(vec![0; 100_000]).is_ok() {
        put += 1;
    }
    let Err(Error::CloseTimeout { unsent, .. }) = client.close() else {
        panic!("it closed in order");
    };
    let stats = client.stats();
    assert_eq!(stats.unsent, unsent as u64);
    assert_eq!(stats.unsent + stats.messages_out, put);
}

#[test]
fn statistics_can_be_read_while_messages_go_both_ways() {
    const COUNT: u64 = 50_000;
    let (a, b) = Websocket::pair();
    let threads = [(&a, &b), (&b, &a)].map(|(from, to)| {
        let (from, to) = (from.clone(), to.subscribe());
        let putting = thread::spawn(move || {
            for n in 0..COUNT {
                from.put(n).unwrap();
            }
        });
        let getting = thread::spawn(move || {
            for _ in 0..COUNT {
                to.get_timeout(DEADLINE).unwrap();
            }
        });
        [putting, getting]
    });
    let mut before = a.stats();
    while threads.iter().flatten().any(|thread| !thread.is_finished()) {
        let now = a.stats();
        assert!(now.messages_in >= before.messages_in && now.bytes_out >= before.bytes_out);
        assert!(now.messages_in <= COUNT && now.messages_out <= COUNT);
        before = now;
    }
    for thread in threads.into_iter().flatten() {
        thread.join().unwrap();
    }
    assert_eq!(a.stats().messages_in, COUNT);
}

#[test]
fn early_messages_that_a_short_queue_drops_are_counted() {
    let (a, b) = Options::new().pair();
    for n in 0..10 {
        a.put(n).unwrap();
    }
    eventually("that all has come", || b.stats().receive_queue == 10);
    let newest = b.subscribe_with(Queue::Latest);
    assert_eq!(
        newest.get_timeout(DEADLINE).unwrap(),
        rtcbot_websocket::json!(9)
    );
    assert_eq!(b.stats().dropped, 9);
}

#[test]
fn messages_that_wait_for_a_concurrent_callback_are_reported() {
    let (a, b) = Options::new().pair();
    let (go, gate) = crossbeam_channel::unbounded::<()>();
    b.subscribe_concurrent(1, move |_| {
        let _ = gate.recv();
    });
    for n in 0..10 {
        a.put(n).unwrap();
    }
    eventually("that nine wait", || b.stats().receive_queue == 9);
    drop(go);
    eventually("that none waits", || b.stats().receive_queue == 0);
}

#[test]
fn a_closed_sink_loses_one_item_wherever_it_is_on_the_list() {
    for is_first in [true, false] {
        let (operator, robot) = pair_with(&Options::new(), &Options::new());
        let (sender, closed) = unbounded();
        let early = is_first.then(|| robot.subscribe_to(sender.clone()));
        let others = robot.subscribe_with(Queue::Unbounded);
        early.unwrap_or_else(|| robot.subscribe_to(sender));
        // Holds the reader back, so that the messages after the first ones arrive together.
        let gate = robot.subscribe_with(Queue::Block(1));
        (0..100).for_each(|n| operator.put(n).unwrap());
        eventually("the reader waits", || others.len() == 2);
        drop(closed);
        robot.unsubscribe(&gate);
        for n in 0..100 {
            assert_eq!(others.get_timeout(DEADLINE).unwrap(), json!(n));
        }
        assert_eq!(robot.stats().dropped, 1);
    }
}
