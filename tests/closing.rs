//! How a connection ends, and what is reported to those who wait for it.

mod testkit;

use std::io::{Read, Write};
use std::thread;
use std::time::{Duration, Instant};
use testkit::wire::{Raw, over_each};

use crossbeam_channel::{bounded, unbounded};
use rtcbot_websocket::{
    CloseFrame, Error, Message, Options, PutError, Queue, Server, Side, SubscriptionId, Websocket,
    json,
};
use testkit::{
    DEADLINE, client_and_raw, end_reason, eventually, flood, is_closed_by_peer, masked_frame,
    on_loss, pair, pair_with, pinging, pump, read_close_code, server_and_bytes, within,
};

const HOUR: Duration = Duration::from_secs(3600);

fn frame(code: u16, reason: &str) -> Option<CloseFrame> {
    let reason = reason.to_owned();
    Some(CloseFrame { code, reason })
}

#[test]
fn a_second_close_has_no_effect() {
    let (client, server) = pair();
    client.close_with(4001, "first").unwrap();
    client.close_with(4002, "second").unwrap();
    client.close().unwrap();
    server.wait_closed_timeout(DEADLINE).unwrap_err();
    assert_eq!(server.received_close(), frame(4001, "first"));
}

#[test]
fn many_threads_may_close_at_once() {
    for _ in 0..100 {
        let (client, server) = pair();
        let closing: Vec<_> = [client.clone(), client, server.clone(), server]
            .into_iter()
            .map(|ws| thread::spawn(move || ws.close()))
            .collect();
        for thread in closing {
            within(DEADLINE, move || thread.join().unwrap()).unwrap();
        }
    }
}

#[test]
fn the_peer_sees_code_and_reason_and_this_side_sees_the_peers() {
    let (client, server) = pair();
    client.close_with(4001, "reason").unwrap();
    server.wait_closed_timeout(DEADLINE).unwrap_err();
    assert_eq!(server.received_close(), frame(4001, "reason"));
    assert_eq!(client.received_close(), frame(4001, ""));
    assert!(is_closed_by_peer(&server.get().unwrap_err()));
    // The code is this side's own on one side, and reports an error on the other.
    assert!(is_closed_by_peer(&server.error().unwrap()));
    assert!(client.error().is_none());
}

#[test]
fn a_raw_peers_code_and_reason_are_seen() {
    let (client, mut raw) = client_and_raw(&Options::new());
    raw.close(Some(tungstenite::protocol::CloseFrame {
        code: 4321.into(),
        reason: "enough".into(),
    }))
    .unwrap();
    let pumping = thread::spawn(move || pump(&mut raw));
    match client.get_timeout(DEADLINE).unwrap_err() {
        Error::Closed(close) => {
            assert_eq!(close.by, Side::Peer);
            assert_eq!(close.frame, frame(4321, "enough"));
        }
        other => panic!("{other}"),
    }
    pumping.join().unwrap();
}

#[test]
fn put_after_the_end_returns_the_message_or_the_source() {
    let (client, _server) = pair();
    client.close().unwrap();
    let put = client.put_nowait(json!({"a": 1}));
    assert!(matches!(put, Err(PutError::Closed(message)) if message == json!({"a": 1})));
    assert!(!client.put(json!(1)).unwrap_err().is_full());
    let put = client.put_timeout(json!(1), DEADLINE);
    assert!(!put.unwrap_err().is_full());
    let (sender, source) = unbounded();
    sender.send(Message::from(1)).unwrap();
    let Err(PutError::Closed(source)) = client.put_subscription(source) else {
        panic!("the source was accepted");
    };
    assert_eq!(source.try_get().unwrap(), json!(1));
}

#[test]
fn close_sends_the_queued_messages() {
    let (client, server) = pair();
    let subscription = server.subscribe_with(Queue::Unbounded);
    for n in 0..10_000 {
        client.put_nowait(json!(n)).unwrap();
    }
    client.close().unwrap();
    let received: Vec<u32> = subscription.iter().map(|m| m.decode().unwrap()).collect();
    assert_eq!(received, (0..10_000).collect::<Vec<_>>());
}

#[test]
fn messages_put_before_the_connection_is_ready_are_sent_even_if_it_is_closed_meanwhile() {
    let mut server = Server::bind((testkit::own_address(), 0)).unwrap();
    let client = Websocket::connect(testkit::url(&server)).unwrap();
    client.put_nowait(json!("early")).unwrap();
    let closing = {
        let client = client.clone();
        thread::spawn(move || client.close())
    };
    eventually("closing has begun", || client.put_nowait(json!(0)).is_err());
    let peer = Websocket::accept(server.next_timeout(DEADLINE).unwrap());
    let mut received: Vec<_> = peer.subscribe().into_iter().collect();
    assert_eq!(received.remove(0), "early");
    within(DEADLINE, move || closing.join().unwrap()).unwrap();
}

#[test]
fn the_peers_close_frame_is_answered_after_the_queued_messages() {
    let (client, server) = pair();
    let subscription = client.subscribe_with(Queue::Unbounded);
    for n in 0..1000 {
        server.put(json!(n)).unwrap();
    }
    client.close().unwrap();
    assert_eq!(subscription.iter().count(), 1000);
    assert!(server.wait_closed_timeout(DEADLINE).is_ok());
}

#[test]
fn an_answer_to_the_close_frame_ends_a_client_in_order() {
    let (client, mut raw) = client_and_raw(&Options::new());
    let subscription = client.subscribe();
    let closing = thread::spawn(move || client.close());
    loop {
        if raw.read().unwrap().is_close() {
            break;
        }
    }
    // tungstenite answers a Close frame when it reads it, so nothing can be sent before that
    // answer.
    pump(&mut raw);
    closing.join().unwrap().unwrap();
    assert!(subscription.get().unwrap_err().is_orderly());
}

#[test]
fn messages_that_arrive_while_closing_are_delivered() {
    let (server, mut stream) = server_and_bytes(&Options::new());
    let subscription = server.subscribe();
    let closing = thread::spawn(move || server.close());
    assert_eq!(read_close_code(&mut stream), 1000);
    stream.write_all(&masked_frame(0x81, b"1")).unwrap();
    stream.write_all(&masked_frame(0x88, b"\x03\xe8")).unwrap();
    assert_eq!(
        stream.read(&mut [0]).unwrap(),
        0,
        "the server ends the stream"
    );
    closing.join().unwrap().unwrap();
    assert_eq!(subscription.get().unwrap(), json!(1));
    assert!(subscription.get().unwrap_err().is_orderly());
}

#[test]
fn dropping_the_last_handle_sends_the_queued_messages_and_closes() {
    let (client, server) = pair();
    let subscription = server.subscribe();
    for n in 0..1000 {
        client.put_nowait(json!(n)).unwrap();
    }
    let clone = client.clone();
    drop(client);
    assert!(clone.is_ready(), "a handle is left");
    within(DEADLINE, move || drop(clone));
    assert_eq!(subscription.iter().count(), 1000);
    server.wait_closed_timeout(DEADLINE).unwrap();
    assert_eq!(server.received_close(), frame(1000, ""));
}

#[test]
fn dropping_the_last_handle_waits_no_longer_than_linger() {
    let options = Options::new().linger(Duration::from_millis(50));
    // Never answers.
    let (client, mut raw) = client_and_raw(&options);
    within(DEADLINE, move || drop(client));
    pump(&mut raw);
}

#[test]
fn a_panic_in_a_callback_or_sink_leaves_the_connection_open() {
    struct Bomb;
    impl rtcbot_websocket::Sink<Message> for Bomb {
        fn put_nowait(&self, _: Message) -> Result<(), PutError<Message>> {
            panic!("in a sink, on purpose")
        }
    }
    let (client, server) = pair();
    let subscription = client.subscribe();
    client.subscribe_to(Bomb);
    client.subscribe_callback(|_| panic!("in a callback, on purpose"));
    client.subscribe_concurrent(2, |_| panic!("in a worker, on purpose"));
    client.on_close(|| panic!("in on_close, on purpose"));
    let (sender, called) = unbounded();
    client.subscribe_callback(move |message| sender.send(message).unwrap());
    for n in 0..10 {
        server.put_nowait(json!(n)).unwrap();
        assert_eq!(called.recv_timeout(DEADLINE).unwrap(), json!(n));
        assert_eq!(subscription.get_timeout(DEADLINE).unwrap(), json!(n));
    }
    client.close().unwrap();
}

#[test]
fn on_close_is_called_after_the_callbacks_for_all_messages() {
    let (client, server) = pair();
    let (sender, events) = unbounded();
    let on_close = sender.clone();
    client.on_close(move || on_close.send(None).unwrap());
    client.subscribe_callback(move |message| sender.send(Some(message)).unwrap());
    for n in 0..500 {
        server.put_nowait(json!(n)).unwrap();
    }
    server.close().unwrap();
    for n in 0..500 {
        assert_eq!(events.recv_timeout(DEADLINE).unwrap().unwrap(), json!(n));
    }
    assert_eq!(events.recv_timeout(DEADLINE).unwrap(), None);
}

#[test]
fn a_peer_that_answers_no_ping_is_a_ping_timeout() {
    let tick = Duration::from_millis(50);
    let options = pinging(tick);
    // Never reads, so never answers.
    let (client, _raw) = client_and_raw(&options);
    let start = Instant::now();
    let error = client.wait_closed_timeout(DEADLINE).unwrap_err();
    assert!(
        matches!(error, Error::PingTimeout { after } if after == tick),
        "{error}"
    );
    assert!(start.elapsed() >= 2 * tick - Duration::from_millis(5));
}

#[test]
fn a_peer_that_never_reads_is_a_ping_timeout_while_its_messages_are_piped_back() {
    let tick = Duration::from_millis(50);
    let options = pinging(tick);
    let (server, stream) = server_and_bytes(&options);
    // The reader waits for room in the send queue, and the writer for the peer.
    server.subscribe_to(server.clone());
    let flooding = flood(stream);
    let error = server.wait_closed_timeout(DEADLINE).unwrap_err();
    assert!(matches!(error, Error::PingTimeout { .. }), "{error}");
    within(DEADLINE, move || flooding.join().unwrap());
}

#[test]
fn a_peer_that_never_reads_is_a_ping_timeout_while_a_sink_waits_for_room() {
    struct Back(rtcbot_websocket::WeakWebsocket);
    impl rtcbot_websocket::Sink<Message> for Back {
        fn put_nowait(&self, message: Message) -> Result<(), rtcbot_websocket::PutError<Message>> {
            self.0.upgrade().unwrap().put(message)
        }
    }
    let tick = Duration::from_millis(50);
    let options = pinging(tick).send_queue(64 << 10).clone();
    let (server, stream) = server_and_bytes(&options);
    server.subscribe_to(Back(server.downgrade()));
    let flooding = flood(stream);
    let error = server.wait_closed_timeout(DEADLINE).unwrap_err();
    assert!(matches!(error, Error::PingTimeout { .. }), "{error}");
    within(DEADLINE, move || flooding.join().unwrap());
}

#[test]
fn no_pong_is_required_while_the_peer_is_slow_to_answer_the_close_frame() {
    let tick = Duration::from_millis(20);
    let options = pinging(tick);
    let (client, mut raw) = client_and_raw(&options);
    let (go, gate) = unbounded::<()>();
    let answering = thread::spawn(move || {
        // It sends nothing for many ping timeouts.
        let _ = gate.recv_timeout(20 * tick);
        pump(&mut raw);
    });
    within(DEADLINE, move || client.close()).unwrap();
    drop(go);
    answering.join().unwrap();
}

#[test]
fn every_timeout_may_be_the_maximum_duration() {
    let longest = Duration::MAX;
    let options = Options::new()
        .connect_timeout(longest)
        .close_timeout(longest)
        .linger(longest)
        .ping_interval(longest)
        .ping_timeout(longest);
    let (client, server) = pair_with(&options, &options);
    client.wait_ready_timeout(longest).unwrap();
    client.put_timeout(json!(1), longest).unwrap();
    assert_eq!(server.get_timeout(longest).unwrap(), json!(1));
    server.close().unwrap();
    assert!(client.get_timeout(longest).unwrap_err().is_orderly());
    client.wait_closed_timeout(longest).unwrap();
}

#[test]
fn wait_ready_succeeds_for_a_connection_that_was_ready_and_has_ended() {
    let (client, server) = pair();
    server.put_nowait(json!("one thing")).unwrap();
    server.close().unwrap();
    client.wait_closed_timeout(DEADLINE).unwrap();
    client.wait_ready().unwrap();
    assert_eq!(client.get().unwrap(), "one thing");
}

#[test]
fn pings_are_answered_both_ways_on_an_idle_connection() {
    let tick = Duration::from_millis(5);
    let options = Options::new().ping_interval(tick).ping_timeout(DEADLINE);
    let (client, mut raw) = client_and_raw(&options);
    let mut pings = 0;
    while pings < 10 {
        pings += u32::from(raw.read().unwrap().is_ping());
        raw.flush().unwrap();
    }
    raw.send(tungstenite::Message::Ping("hi".into())).unwrap();
    loop {
        if let tungstenite::Message::Pong(payload) = raw.read().unwrap() {
            assert_eq!(&payload[..], b"hi");
            break;
        }
    }
    assert!(client.is_ready());
}

#[test]
fn a_full_subscription_is_not_a_ping_timeout() {
    let tick = Duration::from_millis(20);
    let options = pinging(tick).receive_queue(Queue::Block(1)).clone();
    let (client, mut raw) = client_and_raw(&options);
    let subscription = client.subscribe();
    for n in 0..10 {
        raw.send(tungstenite::Message::text(n.to_string())).unwrap();
    }
    let echo = thread::spawn(move || pump(&mut raw));
    eventually("the queue is full", || !subscription.is_empty());
    // Reading is paused for many ping timeouts.
    let error = client.wait_closed_timeout(20 * tick).unwrap_err();
    assert!(matches!(error, Error::Timeout), "{error}");
    for n in 0..10 {
        assert_eq!(subscription.get_timeout(DEADLINE).unwrap(), json!(n));
    }
    drop(client);
    drop(subscription);
    echo.join().unwrap();
}

#[test]
fn close_reports_its_duration_and_how_many_messages_were_not_sent() {
    let options = Options::new().close_timeout(Duration::from_millis(200));
    let (client, _raw) = client_and_raw(&options);
    client.put(vec![0; 15 << 20]).unwrap();
    eventually("the writer has taken it", || {
        client.put_nowait(vec![0; 15 << 20]).is_ok()
    });
    let error = client.close().unwrap_err();
    let Error::CloseTimeout { after, unsent } = error else {
        panic!("{error}")
    };
    assert_eq!((after.as_millis(), unsent), (200, 2));
}

#[test]
fn a_dropped_websocket_reports_its_linger_and_how_many_messages_were_not_sent() {
    let options = Options::new().linger(Duration::from_millis(100));
    let (client, _raw) = client_and_raw(&options);
    let subscription = client.subscribe();
    client.put(vec![0; 15 << 20]).unwrap();
    drop(client);
    let error = subscription.get().unwrap_err();
    let Error::CloseTimeout { after, unsent } = error else {
        panic!("{error}")
    };
    assert_eq!((after.as_millis(), unsent), (100, 1));
}

#[test]
fn a_peer_that_closes_and_does_not_read_costs_one_timeout_and_its_close_is_reported() {
    let options = Options::new().close_timeout(Duration::from_millis(300));
    let (server, mut stream) = server_and_bytes(&options);
    server.put(vec![0; 15 << 20]).unwrap();
    stream.write_all(&masked_frame(0x88, b"\x03\xe8")).unwrap();
    let error = server.wait_closed_timeout(DEADLINE).unwrap_err();
    let Error::Closed(close) = error else {
        panic!("{error}")
    };
    assert_eq!((close.by, close.unsent), (Side::Peer, 1));
    assert_eq!(close.frame, frame(1000, ""));
}

#[test]
fn a_server_may_accept_and_close_at_once_and_the_client_sees_why() {
    let mut server = Server::bind((testkit::own_address(), 0)).unwrap();
    for _ in 0..200 {
        let client = Websocket::connect(testkit::url(&server)).unwrap();
        let peer = Websocket::accept(server.next_timeout(DEADLINE).unwrap());
        within(DEADLINE, move || peer.close_with(4003, "the room is full")).unwrap();
        let error = client.wait_closed_timeout(DEADLINE).unwrap_err();
        assert!(is_closed_by_peer(&error), "{error}");
        assert_eq!(client.received_close(), frame(4003, "the room is full"));
    }
}

#[test]
fn a_long_message_that_is_arriving_prevents_a_ping_timeout() {
    let tick = Duration::from_millis(300);
    let options = pinging(tick);
    let (server, mut stream) = server_and_bytes(&options);
    let subscription = server.subscribe();
    let payload = vec![0; 600_000];
    let mut bytes = [&[0x82, 0xff][..], &600_000u64.to_be_bytes(), &[0; 4]].concat();
    bytes.extend(&payload);
    let (_never, pace) = bounded::<()>(0);
    let writing = thread::spawn(move || {
        // Sixty pieces, over six ping timeouts.
        for piece in bytes.chunks(10_000) {
            stream.write_all(piece).unwrap();
            let _ = pace.recv_timeout(Duration::from_millis(30));
        }
        stream
    });
    let message = subscription.get_timeout(DEADLINE).unwrap();
    assert_eq!(message.as_bytes().unwrap().len(), payload.len());
    writing.join().unwrap();
}

#[test]
fn empty_messages_use_room_in_the_send_queue() {
    let options = Options::new().send_queue(1000).linger(Duration::ZERO);
    let (client, _raw) = client_and_raw(&options);
    client.put(vec![0; 15 << 20]).unwrap();
    let taken = (0..1_000_000).take_while(|_| client.put_nowait(Vec::new()).is_ok());
    assert!(taken.count() < 1000);
}

#[test]
fn connections_have_different_names() {
    let (client, server) = pair();
    assert_eq!(client, client.clone());
    assert_ne!(client, server);
    let mut all = vec![client.clone(), server.clone()];
    all.retain(|ws| *ws != client);
    assert_eq!(all, [server]);
}

#[test]
fn a_weak_handle_does_not_keep_a_connection_open() {
    let (client, server) = pair();
    let weak = client.downgrade();
    let (sender, called) = unbounded();
    client.subscribe_callback(move |_| sender.send(weak.upgrade().is_some()).unwrap());
    server.put_nowait(json!(1)).unwrap();
    assert_eq!(called.recv_timeout(DEADLINE), Ok(true));
    drop(client);
    server.wait_closed_timeout(DEADLINE).unwrap();
}

#[test]
fn the_reason_of_the_end_is_reported_by_every_method() {
    let (client, server) = pair();
    assert!(end_reason(&client).is_none());
    server.close_with(1001, "enough").unwrap();
    client.wait_closed_timeout(DEADLINE).unwrap();
    assert!(is_closed_by_peer(&end_reason(&client).unwrap()));
    assert!(client.error().is_none());
}

#[test]
fn close_in_a_sink_ends_in_time_when_the_peer_reads_nothing() {
    struct Closer(rtcbot_websocket::WeakWebsocket);
    impl rtcbot_websocket::Sink<Message> for Closer {
        fn put_nowait(&self, _: Message) -> Result<(), PutError<Message>> {
            let closed = self.0.upgrade().unwrap().close();
            assert!(matches!(closed, Err(Error::CloseTimeout { .. })));
            Ok(())
        }
    }
    let options = Options::new()
        .close_timeout(Duration::from_millis(100))
        .ping_interval(None);
    let (server, mut stream) = server_and_bytes(&options);
    server.subscribe_to(Closer(server.downgrade()));
    while server.put_nowait(vec![0; 1 << 20]).is_ok() {}
    stream.write_all(&masked_frame(0x82, b"x")).unwrap();
    let error = server.wait_closed_timeout(DEADLINE).unwrap_err();
    assert!(matches!(error, Error::CloseTimeout { .. }), "{error}");
}

#[test]
fn a_pong_that_is_late_behind_other_messages_is_not_a_ping_timeout() {
    // A busy machine pauses for less than twice that between two messages.
    let tick = Duration::from_millis(300);
    let options = Options::new()
        .ping_interval(tick)
        .ping_timeout(2 * tick)
        .receive_queue(Queue::Latest);
    let (server, mut stream) = server_and_bytes(&options);
    let _subscription = server.subscribe();
    let (_never, pace) = bounded::<()>(0);
    for _ in 0..20 {
        stream.write_all(&masked_frame(0x82, b"data")).unwrap();
        let _ = pace.recv_timeout(tick / 2);
    }
    assert!(server.is_ready(), "{:?}", end_reason(&server));
}

#[test]
fn ping_times_of_zero_turn_pings_off() {
    for options in [
        Options::new().ping_interval(Duration::ZERO),
        Options::new()
            .ping_interval(Duration::from_millis(10))
            .ping_timeout(Duration::ZERO),
    ] {
        let (client, _server) = options.pair();
        let error = client
            .wait_closed_timeout(Duration::from_millis(100))
            .unwrap_err();
        assert!(matches!(error, Error::Timeout), "{error}");
    }
}

#[test]
fn an_unused_callback_may_panic_when_it_is_dropped() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("when dropped, on purpose");
        }
    }
    let (client, server) = pair();
    let (sender, closed) = bounded(1);
    let (one, two, three) = (Bomb, Bomb, Bomb);
    client.on_error(move |_| drop_nothing(&one));
    on_loss(&client, move |_| drop_nothing(&two));
    client.on_close(move || {
        drop_nothing(&three);
        sender.send(()).unwrap();
    });
    server.close().unwrap();
    assert_eq!(closed.recv_timeout(DEADLINE), Ok(()));
    client.wait_closed_timeout(DEADLINE).unwrap();
}

#[test]
fn a_sink_may_panic_when_it_is_dropped() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("when dropped, on purpose");
        }
    }
    impl rtcbot_websocket::Sink<Message> for Bomb {
        fn put_nowait(&self, _: Message) -> Result<(), rtcbot_websocket::PutError<Message>> {
            Ok(())
        }
    }
    let (client, server) = pair();
    client.subscribe_to(Bomb);
    client.subscribe_to(Bomb);
    let bomb = Bomb;
    client.subscribe_concurrent(1, move |_| drop_nothing(&bomb));
    let (sender, closed) = bounded(1);
    client.on_close(move || sender.send(()).unwrap());
    server.close().unwrap();
    client.wait_closed_timeout(DEADLINE).unwrap();
    assert_eq!(closed.recv_timeout(DEADLINE), Ok(()));
}

#[test]
fn a_value_that_the_options_own_may_panic_when_it_is_dropped() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("when dropped, on purpose");
        }
    }
    let (one, two) = (Bomb, Bomb);
    let options = Options::new()
        .allow_origin_if(move |_| {
            drop_nothing(&one);
            true
        })
        .header_with("X-Token", move || {
            drop_nothing(&two);
            Ok("a token".to_owned())
        });
    let (client, server) = pair_with(&options, &options);
    client.close().unwrap();
    server.wait_closed_timeout(DEADLINE).unwrap();
    drop((client, server));
    // Drops both last handles, wherever the threads are by now.
    drop(options);
}

/// Makes a closure own it.
fn drop_nothing<T>(_: &T) {}

#[test]
fn close_for_every_message_uses_one_thread_in_all() {
    struct Closer(
        rtcbot_websocket::WeakWebsocket,
        crossbeam_channel::Sender<usize>,
    );
    impl rtcbot_websocket::Sink<Message> for Closer {
        fn put_nowait(&self, _: Message) -> Result<(), PutError<Message>> {
            let _ = self.0.upgrade().unwrap().close();
            self.1.send(testkit::threads_named("ws-linger")).unwrap();
            Ok(())
        }
    }
    let options = Options::new().close_timeout(Duration::from_millis(100));
    let (server, mut stream) = server_and_bytes(&options);
    let (sender, counts) = unbounded();
    server.subscribe_to(Closer(server.downgrade(), sender));
    for _ in 0..300 {
        stream.write_all(&masked_frame(0x81, b"1")).unwrap();
    }
    let most = counts.iter().take(300).max().unwrap();
    // Other tests in this process have a few of their own.
    assert!(most < 50, "{most} threads");
}

#[test]
fn a_close_that_fails_before_its_timeout_reports_when() {
    let tick = Duration::from_millis(100);
    let options = pinging(tick).close_timeout(DEADLINE).clone();
    let (client, _raw) = client_and_raw(&options);
    client.put(vec![0; 12 << 20]).unwrap();
    match client.close().unwrap_err() {
        Error::CloseTimeout { after, .. } => assert!(after < DEADLINE, "{after:?}"),
        Error::PingTimeout { .. } => {}
        other => panic!("{other}"),
    }
}

#[test]
fn an_orderly_end_is_reported_only_to_subscriptions_that_received_every_message() {
    // A side that cannot write any more continues to read for as long as closing may take, and then
    // drops messages for which a slow consumer has no room. The peer's Close frame comes after
    // those messages, so it must not count as an orderly end.
    const MESSAGES: u8 = 20;
    let options = Options::new()
        .close_timeout(Duration::from_millis(20))
        .receive_queue(Queue::Block(1));
    // Two threads reach the end of that time together. Either may be first, so this is repeated.
    let trying = [(); 8].map(|()| {
        let options = options.clone();
        thread::spawn(move || {
            for _ in 0..20 {
                let (server, mut stream) = server_and_bytes(&options);
                let slow = server.subscribe();
                let mut bytes = Vec::new();
                for n in 0..MESSAGES {
                    bytes.extend(masked_frame(0x82, &[n]));
                    // Its pong fails once the stream has ended.
                    bytes.extend(masked_frame(0x89, b"ping"));
                }
                bytes.extend(masked_frame(0x88, &1000u16.to_be_bytes()));
                stream.write_all(&bytes).unwrap();
                drop(stream);
                let mut got = 0;
                let reason = loop {
                    match slow.get_timeout(DEADLINE) {
                        Ok(_) => got += 1,
                        Err(reason) => break reason,
                    }
                    thread::sleep(Duration::from_millis(7));
                };
                assert!(got == MESSAGES || !reason.is_orderly(), "{got}: {reason}");
            }
        })
    });
    for thread in trying {
        within(DEADLINE, move || thread.join().unwrap());
    }
}

#[test]
fn a_subscription_that_is_removed_while_the_connection_closes_ends_immediately() {
    let options = Options::new().close_timeout(20 * DEADLINE);
    let (client, mut raw) = client_and_raw(&options);
    let (subscription, kept) = (client.subscribe(), client.subscribe());
    // The peer reads nothing, so this is more than can be written: the Close frame has to wait.
    client.put(vec![0; 15 << 20]).unwrap();
    raw.write("last".into()).unwrap();
    raw.close(None).unwrap();
    eventually("the peer's Close frame", || {
        client.received_close().is_some() || !client.is_ready()
    });
    assert_eq!(kept.get_timeout(DEADLINE).unwrap(), "last");
    assert!(client.unsubscribe(&subscription));
    assert_eq!(subscription.get_timeout(DEADLINE).unwrap(), "last");
    let gone = subscription.get_timeout(DEADLINE).unwrap_err();
    assert!(matches!(gone, Error::Unsubscribed), "{gone}");
    assert!(!client.is_closed());
    drop(raw);
}

/// How a peer disconnects without reading what this side has sent.
#[derive(Debug, Clone, Copy)]
enum HangUp {
    /// It resets the connection.
    Reset,
    /// It ends its stream, and never reads.
    End,
}

impl HangUp {
    /// Sends "battery low" first.
    fn after_close(self, mut raw: Raw, code: u16) -> Option<Raw> {
        let reason = "battery low".into();
        let code = code.into();
        raw.close(Some(tungstenite::protocol::CloseFrame { code, reason }))
            .unwrap();
        match self {
            HangUp::Reset => None,
            HangUp::End => {
                raw.socket.shutdown(std::net::Shutdown::Write).unwrap();
                Some(raw)
            }
        }
    }
}

// websockets 877, ws 1172, WebSocket-Node 137
#[test]
fn the_peers_close_frame_is_the_reason_of_the_end_even_if_messages_were_not_sent() {
    over_each(|wire| {
        for hang_up in [HangUp::Reset, HangUp::End].repeat(10) {
            for reconnect in [false, true] {
                let (client, raw) = wire.client_and_raw(|options| {
                    options
                        .close_timeout(Duration::from_millis(50))
                        .reconnect(reconnect.then(rtcbot_websocket::Backoff::new))
                });
                let (told, errors) = bounded(1);
                client.on_error(move |error| told.send(error).unwrap());
                while client.put_nowait(vec![0; 100_000]).is_ok() {}
                let _raw = hang_up.after_close(raw, 4001);
                let check = |error: Error| {
                    let Error::Closed(close) = &error else {
                        panic!("{hang_up:?}: {error}")
                    };
                    assert_eq!(close.by, Side::Peer);
                    assert_eq!(close.frame, frame(4001, "battery low"));
                    assert_eq!(close.unsent as u64, client.stats().unsent);
                    assert!(close.unsent > 0);
                    assert!(!error.is_orderly() && !error.is_transient());
                    let text = format!(
                        "the connection is closed: by the peer with 4001 \"battery low\"; \
                         {} messages were not sent",
                        close.unsent
                    );
                    assert_eq!(error.to_string(), text);
                };
                check(client.wait_closed_timeout(DEADLINE).unwrap_err());
                check(client.close().unwrap_err());
                check(client.get().unwrap_err());
                check(client.error().unwrap());
                check(end_reason(&client).unwrap());
                check(errors.recv_timeout(DEADLINE).unwrap());
                assert_eq!(client.received_close(), frame(4001, "battery low"));
                assert_eq!(client.stats().reconnects, 0);
            }
        }
    });
}

#[test]
fn a_reconnecting_client_obeys_the_peers_close_frame_even_if_messages_were_not_sent() {
    over_each(|wire| {
        for hang_up in [HangUp::Reset, HangUp::End].repeat(3) {
            let options = wire
                .options()
                .close_timeout(Duration::from_millis(50))
                .linger(Duration::ZERO)
                .reconnect(rtcbot_websocket::Backoff::new());
            let (listener, url) = wire.listen();
            let client = options.connect(url).unwrap();
            let raw = wire.accept(&listener);
            client.wait_ready_timeout(DEADLINE).unwrap();
            let (told, reasons) = unbounded();
            on_loss(&client, move |reason| told.send(reason).unwrap());
            while client.put_nowait(vec![0; 100_000]).is_ok() {}
            let _old = hang_up.after_close(raw, 1012);
            let mut raw = wire.accept(&listener);
            match reasons.recv_timeout(DEADLINE).unwrap() {
                Error::Closed(close) => {
                    assert_eq!(close.frame, frame(1012, "battery low"));
                    // They are sent on this connection.
                    assert_eq!(close.unsent, 0);
                }
                other => panic!("{hang_up:?}: {other}"),
            }
            assert_eq!(raw.read().unwrap().len(), 100_000);
        }
    });
}

/// The reader thread drops the sinks at the end. One of them may be the last handle of another
/// connection.
#[test]
fn the_end_does_not_wait_until_a_sink_has_closed() {
    let hour = Duration::from_secs(3600);
    let patient = Options::new()
        .linger(hour)
        .close_timeout(hour)
        .ping_interval(None);
    let (sink, mut silent) = server_and_bytes(&patient);
    let (ws, peer) = pair();
    ws.subscribe_to(sink);
    peer.close_with(1001, "bye").unwrap();
    ws.wait_closed_timeout(DEADLINE).unwrap();
    // The sink's peer receives the Close frame, and does not answer it.
    assert_eq!(read_close_code(&mut silent), 1000);
}

#[test]
fn close_nowait_returns_before_the_peer_answers_and_sends_the_queue() {
    over_each(|wire| {
        let (client, mut raw) = wire.client_and_raw(|options| options.close_timeout(DEADLINE));
        client.put("queued").unwrap();
        // The peer has read nothing yet.
        client.close_nowait(4001, "later").unwrap();
        assert!(client.put("too late").is_err());
        assert_eq!(raw.read().unwrap().to_text().unwrap(), "\"queued\"");
        raw.pump();
        client.wait_closed_timeout(DEADLINE).unwrap();
        // It has no effect on a connection that has ended.
        client.close_nowait(1000, "").unwrap();
        assert!(client.close_nowait(1005, "").is_err());
    });
}

#[test]
fn a_peer_that_does_not_answer_a_close_nowait_is_shut_down_at_the_close_timeout() {
    over_each(|wire| {
        let time = Duration::from_millis(20);
        let (client, _raw) = wire.client_and_raw(|options| options.close_timeout(time));
        client.close_nowait(1000, "").unwrap();
        let error = client.wait_closed_timeout(DEADLINE).unwrap_err();
        assert!(matches!(error, Error::CloseTimeout { .. }), "{error}");
    });
}

// A second Ctrl-C.
#[test]
fn a_second_close_with_an_earlier_deadline_shortens_the_first() {
    over_each(|wire| {
        let (client, _raw) = wire.client_and_raw(|options| options.close_timeout(HOUR));
        let first = thread::spawn({
            let client = client.clone();
            move || client.close()
        });
        eventually("the first close", || !client.is_ready());
        let error = client.close_timeout(Duration::from_millis(1)).unwrap_err();
        assert!(matches!(error, Error::CloseTimeout { .. }), "{error}");
        let error = within(DEADLINE, move || first.join().unwrap()).unwrap_err();
        assert!(matches!(error, Error::CloseTimeout { .. }), "{error}");
    });
}

#[test]
fn abort_ends_a_connection_in_every_state_and_counts_what_was_not_sent() {
    over_each(|wire| {
        // The peer reads nothing, so that messages are queued.
        let (client, raw) = wire.client_and_raw(|options| options.close_timeout(HOUR));
        while client.put_nowait(vec![0; 1 << 20]).is_ok() {}
        client.abort();
        match client.wait_closed_timeout(DEADLINE).unwrap_err() {
            Error::Aborted { unsent } => assert!(unsent > 0),
            other => panic!("{other}"),
        }
        drop(raw);
        // While it closes.
        let (client, _raw) = wire.client_and_raw(|options| options.close_timeout(HOUR));
        client.close_nowait(1000, "").unwrap();
        client.abort();
        client.abort();
        let error = client.wait_closed_timeout(DEADLINE).unwrap_err();
        assert!(matches!(error, Error::Aborted { .. }), "{error}");
        // While it connects.
        let (_listener, url) = wire.listen();
        let client = wire.options().connect(url).unwrap();
        client.abort();
        let error = client.wait_closed_timeout(DEADLINE).unwrap_err();
        assert!(matches!(error, Error::Aborted { .. }), "{error}");
    });
}

// An accept loop or a UI thread must not be held up by a client that does not answer.
#[test]
fn the_last_drop_waits_until_messages_are_written_and_not_for_the_peers_answer() {
    over_each(|wire| {
        let (client, mut raw) =
            wire.client_and_raw(|options| options.linger(HOUR).close_timeout(HOUR));
        for n in 0..100 {
            client.put(n).unwrap();
        }
        let closed = client.closed_signal().clone();
        // The peer does not answer before this returns.
        within(DEADLINE, move || drop(client));
        for n in 0..100 {
            assert_eq!(raw.read().unwrap().to_text().unwrap(), n.to_string());
        }
        assert!(closed.try_recv().is_err_and(|error| error.is_empty()));
        raw.pump();
        within(DEADLINE, move || closed.recv().unwrap_err());
    });
}

// Foxglove's SDK server ends the stream without a Close frame.
#[test]
fn a_peer_that_hangs_up_after_this_sides_close_frame_is_no_failure() {
    over_each(|wire| {
        let (client, mut raw) = wire.client_and_raw(|options| options);
        client.put("last").unwrap();
        client.close_nowait(1000, "").unwrap();
        assert_eq!(raw.read().unwrap().to_text().unwrap(), "\"last\"");
        // The next call would write the answer.
        assert!(raw.read().unwrap().is_close());
        drop(raw.socket.shutdown(std::net::Shutdown::Both));
        drop(raw);
        client.wait_closed_timeout(DEADLINE).unwrap();
        assert!(client.error().is_none());
    });
}

#[test]
fn detach_keeps_a_connection_open_for_its_callbacks() {
    over_each(|wire| {
        let (client, server) = wire.pair(|options| options);
        let answers = server.downgrade();
        server.subscribe_callback(move |message| {
            if let Some(server) = answers.upgrade() {
                server.put(message).unwrap();
            }
        });
        let signal = server.closed_signal().clone();
        server.detach();
        for n in 0..100 {
            client.put(n).unwrap();
            assert_eq!(client.get_timeout(DEADLINE).unwrap(), json!(n));
        }
        client.close().unwrap();
        within(DEADLINE, move || signal.recv().unwrap_err());
    });
}

// A plugin host unloads the library afterwards.
#[test]
fn close_returns_after_everything_that_the_threads_own_has_been_dropped() {
    use std::sync::Arc;
    over_each(|wire| {
        for n in 0..200 {
            let owned = Arc::new(());
            let by_options = owned.clone();
            let (listener, url) = wire.listen();
            let options = wire.options().close_timeout(DEADLINE);
            let options = options.greeting(move || {
                let _ = &by_options;
                ["hello"]
            });
            let client = options.connect(url).unwrap();
            drop(options);
            let raw = wire.accept(&listener);
            let reading = thread::spawn(|| raw.pump());
            client.wait_ready_timeout(DEADLINE).unwrap();
            client.close().unwrap();
            assert_eq!(Arc::strong_count(&owned), 1, "{n}");
            reading.join().unwrap();
        }
    });
}

#[test]
fn many_threads_may_wait_for_the_end_of_the_same_threads() {
    for _ in 0..500 {
        let (client, server) = pair();
        let closing: Vec<_> = (0..4)
            .map(|_| {
                let client = client.clone();
                thread::spawn(move || client.close())
            })
            .collect();
        for thread in closing {
            within(DEADLINE, move || thread.join().unwrap()).unwrap();
        }
        drop(server);
    }
}

#[test]
fn the_last_drop_warns_once_if_callbacks_or_sinks_are_attached() {
    testkit::alone(
        "the_last_drop_warns_once_if_callbacks_or_sinks_are_attached",
        || {
            testkit::records::keep(log::LevelFilter::Warn);
            let warnings = || testkit::records::count("the last handle is dropped");
            // Nothing is attached, or it has been removed, or the connection is closing.
            let (client, server) = pair();
            let _own = client.subscribe();
            client.unsubscribe(client.subscribe_callback(|_| {}));
            drop(client);
            server.subscribe_callback(|_| {});
            server.close().unwrap();
            drop(server);
            assert_eq!(warnings(), 0, "{}", testkit::records::all());

            let attach: [fn(&Websocket) -> SubscriptionId; 3] = [
                |ws| ws.subscribe_callback(|_| {}),
                |ws| ws.subscribe_concurrent(1, |_| {}),
                |ws| ws.subscribe_to(unbounded().0),
            ];
            for (n, attach) in attach.into_iter().enumerate() {
                let (client, _server) = pair();
                attach(&client);
                drop(client.clone());
                assert_eq!(warnings(), n, "it is not the last handle");
                drop(client);
                assert_eq!(warnings(), n + 1);
            }
            // A detached connection is not dropped.
            let (client, server) = pair();
            client.subscribe_callback(|_| {});
            client.detach();
            server.close().unwrap();
            assert_eq!(warnings(), 3);
        },
    );
}

#[test]
fn a_drop_after_close_nowait_does_not_shorten_the_closing() {
    over_each(|wire| {
        let (client, mut raw) =
            wire.client_and_raw(|options| options.linger(Duration::ZERO).close_timeout(HOUR));
        for _ in 0..300 {
            client.put_nowait(vec![0; 50_000]).unwrap();
        }
        client.close_nowait(1000, "").unwrap();
        drop(client);
        for n in 0..300 {
            assert_eq!(raw.read().unwrap().len(), 50_000, "{n}");
        }
        assert!(raw.read().unwrap().is_close());
    });
}
