//! Messages that a slow consumer has not taken when the connection is lost.

use std::thread;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, unbounded};
use rtcbot_websocket::{Backoff, Error, Message, Queue, Websocket};

use crate::testkit::{DEADLINE, eventually, was_lost, within};
use crate::{Host, MS, behind, never, number, numbered, options, soon};

#[test]
fn a_slow_consumer_receives_all_of_a_lost_connection_while_there_is_no_other() {
    let host = Host::new();
    let (ws, slow) = behind(&host, &options(never()).close_timeout(20 * MS));
    // Nothing can be written either, which only a write discovers. During the whole close timeout,
    // that must cost the consumer no message.
    for _ in 0..20 {
        ws.put("into the void").unwrap();
        let nothing = crossbeam_channel::never::<()>();
        let _ = nothing.recv_timeout(5 * MS);
    }
    for n in 0..10 {
        let got = slow.get_timeout(DEADLINE).unwrap();
        assert_eq!(got, *n.to_string());
    }
    assert_eq!(ws.stats().dropped, 0);
}

#[test]
fn messages_waiting_for_a_slow_consumer_come_before_those_of_the_next_connection() {
    let host = Host::new();
    // Not everything is read at once, 16 KiB: some is left in the socket.
    let options = options(soon()).close_timeout(20 * MS);
    let ws = options.connect(host.url()).unwrap();
    let slow = ws.subscribe_with(Queue::Block(1));
    let mut raw = host.accept();
    for n in 0..60 {
        let Message::Binary(bytes) = numbered(n) else {
            unreachable!()
        };
        raw.send(tungstenite::Message::binary(bytes)).unwrap();
    }
    eventually("that reading pauses", || ws.stats().messages_in > 0);
    drop(raw);
    eventually("that what is written is refused", || {
        let _ = ws.put_nowait("into the void");
        was_lost(&ws)
    });
    let mut raw = host.accept();
    raw.send("next".into()).unwrap();
    eventually("another connection", || ws.stats().reconnects == 1);
    for n in 0..60 {
        let got = slow.get_timeout(DEADLINE).unwrap();
        assert_eq!(number(got.as_bytes().unwrap()), n);
    }
    assert_eq!(slow.get_timeout(DEADLINE).unwrap(), "next");
    assert_eq!(ws.stats().dropped, 0);
}

#[test]
fn messages_waiting_for_a_slow_consumer_outlive_a_client_that_is_refused() {
    let host = Host::new();
    let (ws, slow) = behind(
        &host,
        &options(soon()).close_timeout(Duration::from_secs(3)),
    );
    let (answered, answer) = unbounded();
    let serving = thread::spawn(move || {
        host.answer("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n");
        answered.send(()).unwrap();
    });
    eventually("that the client is turned away", || {
        let _ = ws.put_nowait("into the void");
        answer.try_recv().is_ok()
    });
    // A wait ends immediately, and not when the consumer has taken the messages.
    eventually("the end", || ws.is_closed());
    assert!(matches!(ws.error(), Some(Error::Refused { .. })));
    assert_eq!(ws.stats().receive_queue, 10);
    for n in 0..10 {
        assert_eq!(slow.get_timeout(DEADLINE).unwrap(), *n.to_string());
    }
    let error = slow.get_timeout(DEADLINE).unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    assert_eq!(ws.stats().dropped, 0);
    serving.join().unwrap();
}

#[test]
fn a_subscriber_removed_before_the_next_connection_is_dropped_immediately() {
    type Old = (
        Websocket,
        rtcbot_websocket::Subscription<Message>,
        thread::JoinHandle<usize>,
    );
    let host = Host::new();
    let (give, take) = crossbeam_channel::bounded::<Old>(1);
    let (told, result) = unbounded();
    let (go, gate) = unbounded::<()>();
    // Each session has a consumer of its own. The last one has to finish before the next one
    // begins.
    let options = options(soon())
        .close_timeout(20 * MS)
        .header_with("X-Session", move || {
            if let Ok((ws, slow, taking)) = take.try_recv() {
                assert!(ws.unsubscribe(&slow));
                drop(slow);
                go.send(())?;
                told.send(within(DEADLINE, move || taking.join().unwrap()))?;
            }
            Ok("session".to_owned())
        });
    let (ws, slow) = behind(&host, &options);
    let own = slow.clone();
    let taking = thread::spawn(move || {
        let _ = gate.recv_timeout(DEADLINE);
        own.iter().count()
    });
    give.send((ws.clone(), slow, taking)).unwrap();
    eventually("that it is lost", || {
        let _ = ws.put_nowait("into the void");
        was_lost(&ws)
    });
    assert_eq!(result.recv_timeout(2 * DEADLINE), Ok(1));
    let mut raw = host.accept();
    let next = ws.subscribe();
    raw.send("next".into()).unwrap();
    // After what the other consumer has left.
    while next.get_timeout(DEADLINE).unwrap() != "next" {}
}

#[test]
fn messages_beyond_the_limit_kept_for_a_slow_consumer_are_counted() {
    const ROUNDS: u32 = 360;
    const EACH: u32 = 12;
    const SIZE: usize = 4096;
    let host = Host::new();
    let options = options(Backoff::new().initial(MS).max(MS)).close_timeout(2 * MS);
    let ws = options.connect(host.url()).unwrap();
    let slow = ws.subscribe_with(Queue::Block(1));
    let (stop, stopped) = unbounded::<()>();
    let void = ws.clone();
    let putting = thread::spawn(move || {
        // This discovers that a connection is lost.
        while stopped.recv_timeout(MS) == Err(RecvTimeoutError::Timeout) {
            let _ = void.put_nowait("into the void");
        }
    });
    for round in 0..ROUNDS {
        let mut raw = host.accept();
        for n in 0..EACH {
            let mut bytes = vec![0; SIZE];
            bytes[..4].copy_from_slice(&round.to_be_bytes());
            bytes[4..8].copy_from_slice(&n.to_be_bytes());
            raw.write(tungstenite::Message::Binary(bytes.into()))
                .unwrap();
        }
        raw.flush().unwrap();
        let all = u64::from((round + 1) * EACH);
        if round == 0 {
            eventually("some", || ws.stats().messages_in > 0);
        }
        drop(raw);
        eventually("all", || ws.stats().messages_in == all);
    }
    let all = u64::from(ROUNDS * EACH);
    let kept = ws.stats().receive_queue as u64;
    assert!(kept < all && kept * SIZE as u64 <= 17 << 20, "{kept}");
    let mut raw = host.accept();
    raw.send("the last".into()).unwrap();
    let mut taken = 0;
    let mut last = None;
    loop {
        let message = slow.get_timeout(DEADLINE).unwrap();
        let Some(bytes) = message.as_bytes() else {
            break;
        };
        let number = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
        let (round, n) = (number(0), number(4));
        // Of each connection, all messages up to some point.
        match last {
            Some((before, m)) if before == round => assert_eq!(n, m + 1),
            Some((before, _)) => assert!(before < round && n == 0),
            None => assert_eq!((round, n), (0, 0)),
        }
        last = Some((round, n));
        taken += 1;
    }
    let stats = ws.stats();
    assert_eq!((stats.messages_in, stats.dropped), (all + 1, all - taken));
    assert_eq!(stats.receive_queue, 0);
    assert!(taken >= kept);
    stop.send(()).unwrap();
    putting.join().unwrap();
    let _ = within(DEADLINE, move || ws.close());
}
