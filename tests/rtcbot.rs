//! RTCBot's documentation of `Websocket`, sample by sample, and RTCBot's own test scenario.

mod testkit;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;

use crossbeam_channel::unbounded;
use rtcbot_websocket::{Error, Message, Options, Server, Websocket, json};
use testkit::{DEADLINE, eventually, pair, pair_with, within};

#[test]
fn get_takes_one_message_after_the_other() {
    let (client, server) = pair();
    server.put_nowait(json!(1)).unwrap();
    server.put_nowait(json!(2)).unwrap();
    assert_eq!(client.get_timeout(DEADLINE).unwrap(), json!(1));
    assert_eq!(client.get_timeout(DEADLINE).unwrap(), json!(2));
}

#[test]
fn each_subscription_gets_identical_data() {
    let (client, server) = pair();
    let (s1, s2) = (client.subscribe(), client.subscribe());
    for i in 0..100 {
        server.put_nowait(json!({ "n": i })).unwrap();
    }
    for i in 0..100 {
        let message = s1.get_timeout(DEADLINE).unwrap();
        assert_eq!(message, json!({ "n": i }));
        assert_eq!(message, s2.get_timeout(DEADLINE).unwrap());
    }
}

#[test]
fn after_unsubscribe_default_the_next_get_makes_a_new_subscription() {
    let (client, server) = pair();
    server.put_nowait(json!(1)).unwrap();
    assert_eq!(client.get_timeout(DEADLINE).unwrap(), json!(1));

    // Arrives in the default subscription, which is removed with it.
    let witness = client.subscribe();
    server.put_nowait(json!(2)).unwrap();
    witness.get_timeout(DEADLINE).unwrap();
    client.unsubscribe_default();

    // `get` has not subscribed yet, so this message must not be kept for it.
    assert!(matches!(client.try_get(), Err(Error::Empty)));
    server.put_nowait(json!(3)).unwrap();
    assert_eq!(client.get_timeout(DEADLINE).unwrap(), json!(3));
}

#[test]
fn unsubscribe_default_does_nothing_when_there_is_none() {
    let (client, _server) = pair();
    client.unsubscribe_default();
}

#[test]
fn a_removed_subscription_gets_nothing_more() {
    let (client, server) = pair();
    let (stays, goes) = (client.subscribe(), client.subscribe());
    assert!(client.unsubscribe(&goes));
    assert!(!client.unsubscribe(&goes));
    server.put_nowait(json!(1)).unwrap();
    stays.get_timeout(DEADLINE).unwrap();
    assert!(matches!(goes.try_get(), Err(Error::Unsubscribed)));
}

#[test]
fn unsubscribe_all_removes_queues_callbacks_and_the_default() {
    let (client, server) = pair();
    let subscription = client.subscribe();
    let called = Arc::new(AtomicUsize::new(0));
    let count = called.clone();
    client.subscribe_callback(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
    });
    assert!(matches!(client.try_get(), Err(Error::Empty)));
    client.unsubscribe_all();

    let witness = client.subscribe();
    server.put_nowait(json!(1)).unwrap();
    witness.get_timeout(DEADLINE).unwrap();
    assert!(matches!(subscription.get(), Err(Error::Unsubscribed)));
    assert!(matches!(client.try_get(), Err(Error::Empty)));
    server.close().unwrap();
    eventually("the client is closed", || client.is_closed());
    assert_eq!(called.load(Ordering::SeqCst), 0);
}

#[test]
fn subscribe_to_fills_a_channel() {
    let (client, server) = pair();
    let (sender, receiver) = unbounded();
    let id = client.subscribe_to(sender);
    server.put_nowait(json!(1)).unwrap();
    assert_eq!(receiver.recv_timeout(DEADLINE).unwrap(), json!(1));
    assert!(client.unsubscribe(id));
    assert!(
        receiver.recv_timeout(DEADLINE).is_err(),
        "the sender is dropped"
    );
}

#[test]
fn a_callback_is_called_with_each_message_in_order() {
    let (client, server) = pair();
    let (sender, called) = unbounded();
    client.subscribe_callback(move |message| sender.send(message).unwrap());
    for i in 0..1000 {
        server.put_nowait(json!(i)).unwrap();
    }
    for i in 0..1000 {
        assert_eq!(called.recv_timeout(DEADLINE).unwrap(), json!(i));
    }
}

#[test]
fn concurrent_callbacks_do_not_wait_for_each_other() {
    let (client, server) = pair();
    // Passes only when ten calls run at the same time, twice.
    let ten = Arc::new(Barrier::new(10));
    let (sender, handled) = unbounded();
    client.subscribe_concurrent(10, move |message: Message| {
        ten.wait();
        sender.send(message.decode::<u32>().unwrap()).unwrap();
    });
    for i in 0..20 {
        server.put_nowait(json!(i)).unwrap();
    }
    let mut all: Vec<_> = (0..20)
        .map(|_| handled.recv_timeout(DEADLINE).unwrap())
        .collect();
    all.sort_unstable();
    assert_eq!(all, (0..20).collect::<Vec<_>>());
}

#[test]
fn later_messages_do_not_wait_for_a_slow_concurrent_callback() {
    let (client, server) = pair();
    let (release, held) = unbounded::<()>();
    let (sender, handled) = unbounded();
    client.subscribe_concurrent(2, move |message: Message| {
        let n = message.decode::<u32>().unwrap();
        if n == 0 {
            held.recv().unwrap();
        }
        sender.send(n).unwrap();
    });
    for i in 0..20 {
        server.put_nowait(json!(i)).unwrap();
    }
    for i in 1..20 {
        assert_eq!(handled.recv_timeout(DEADLINE), Ok(i));
    }
    release.send(()).unwrap();
    assert_eq!(handled.recv_timeout(DEADLINE), Ok(0));
}

#[test]
fn a_source_is_sent_and_can_be_replaced_at_any_time() {
    let (client, server) = pair();
    let (s1, q1) = unbounded();
    client.put_subscription(&q1).unwrap();
    assert_eq!(client.subscription().unwrap(), q1);
    s1.send(Message::from(json!("first"))).unwrap();
    assert_eq!(server.get_timeout(DEADLINE).unwrap(), "first");

    let (s2, q2) = unbounded();
    client.put_subscription(&q2).unwrap();
    assert_eq!(client.subscription().unwrap(), q2);
    assert!(client.subscription().unwrap() != q1);
    s1.send(json!("not sent").into()).unwrap();
    s2.send(json!("second").into()).unwrap();
    assert_eq!(server.get_timeout(DEADLINE).unwrap(), "second");
    assert_eq!(q1.len(), 1, "what was not taken stays in the source");
}

#[test]
fn a_subscription_can_be_a_source() {
    let (client, server) = pair();
    let echo = server.subscribe();
    server.put_subscription(&echo).unwrap();
    assert_eq!(server.subscription().unwrap(), echo);
    client.put_nowait(json!({"foo": "bar"})).unwrap();
    assert_eq!(client.get_timeout(DEADLINE).unwrap(), json!({"foo": "bar"}));
}

#[test]
fn put_nowait_stops_the_source() {
    let (client, server) = pair();
    let (sender, source) = unbounded();
    client.put_subscription(&source).unwrap();
    client.put_nowait(json!("direct")).unwrap();
    assert!(client.subscription().is_none());
    sender.send(Message::from("left alone")).unwrap();
    assert_eq!(server.get_timeout(DEADLINE).unwrap(), "direct");
    assert_eq!(source.len(), 1);
}

#[test]
fn stop_subscription_stops_it_and_it_can_be_put_again() {
    let (client, server) = pair();
    let (sender, source) = unbounded();
    client.put_subscription(&source).unwrap();
    client.stop_subscription();
    assert!(client.subscription().is_none());
    sender.send(Message::from(json!(1))).unwrap();
    client.put_nowait(json!(0)).unwrap();
    assert!(client.subscription().is_none());
    client.put_subscription(&source).unwrap();
    assert_eq!(client.subscription().unwrap(), source);
    assert_eq!(server.get_timeout(DEADLINE).unwrap(), json!(0));
    assert_eq!(server.get_timeout(DEADLINE).unwrap(), json!(1));
}

#[test]
fn a_source_that_ends_is_dropped() {
    let (client, server) = pair();
    let (sender, source) = unbounded();
    client.put_subscription(&source).unwrap();
    sender.send(Message::from(json!(1))).unwrap();
    drop(sender);
    server.get_timeout(DEADLINE).unwrap();
    eventually("the source is gone", || client.subscription().is_none());
}

#[test]
fn ready_closed_and_error_report_the_state_of_the_connection() {
    let mut server = Server::bind((testkit::own_address(), 0)).unwrap();
    let client = Websocket::connect(testkit::url(&server)).unwrap();
    assert!(!client.is_ready() && !client.is_closed() && client.error().is_none());
    let peer = Websocket::accept(server.next_timeout(DEADLINE).unwrap());
    client.wait_ready_timeout(DEADLINE).unwrap();
    assert!(client.is_ready() && !client.is_closed());
    client.close().unwrap();
    assert!(!client.is_ready() && client.is_closed() && client.error().is_none());
    peer.wait_closed_timeout(DEADLINE).unwrap();
}

#[test]
fn callbacks_for_events_are_called_whether_added_before_or_after() {
    let mut server = Server::bind((testkit::own_address(), 0)).unwrap();
    let client = Websocket::connect(testkit::url(&server)).unwrap();
    let (sender, events) = unbounded();
    let tell = |what: &'static str| {
        let sender = sender.clone();
        move || sender.send(what).unwrap()
    };
    client.on_ready(tell("ready"));
    client.on_close(tell("close"));
    let never = tell("error");
    client.on_error(move |_| never());
    let _peer = Websocket::accept(server.next_timeout(DEADLINE).unwrap());
    assert_eq!(events.recv_timeout(DEADLINE), Ok("ready"));
    client.on_ready(tell("ready, late"));
    assert_eq!(events.recv_timeout(DEADLINE), Ok("ready, late"));
    client.close().unwrap();
    assert_eq!(events.recv_timeout(DEADLINE), Ok("close"));
    client.on_close(tell("close, late"));
    assert_eq!(events.recv_timeout(DEADLINE), Ok("close, late"));
    drop(sender);
    assert_eq!(events.iter().next(), None, "there was no error");
}

#[test]
fn on_error_is_called_whether_added_before_or_after() {
    // Bound and dropped: nobody listens there.
    let url = testkit::url(&Server::bind((testkit::own_address(), 0)).unwrap());
    let client = Websocket::connect(url).unwrap();
    let (sender, events) = unbounded();
    let (before, closed) = (sender.clone(), sender.clone());
    client.on_error(move |error| before.send(error.to_string()).unwrap());
    client.on_close(move || closed.send("closed".into()).unwrap());
    let told = events.recv_timeout(DEADLINE).unwrap();
    assert!(told.contains("cannot connect"), "{told}");
    assert_eq!(events.recv_timeout(DEADLINE).unwrap(), "closed");
    client.on_error(move |error| sender.send(error.to_string()).unwrap());
    assert_eq!(events.recv_timeout(DEADLINE).unwrap(), told);
    assert!(client.is_closed() && !client.is_ready());
    assert_eq!(client.error().unwrap().to_string(), told);
    let waited = client.wait_closed_timeout(DEADLINE).unwrap_err();
    assert_eq!(waited.to_string(), told);
    assert!(client.wait_ready().is_err() && client.wait_closed().is_err());
}

#[test]
fn json_can_be_turned_off() {
    let options = Options::new().json(false);
    let (client, server) = pair_with(&options, &options);
    client.put_nowait("{\"a\": 1}").unwrap();
    assert!(
        matches!(server.get_timeout(DEADLINE), Ok(Message::Text(text)) if text == "{\"a\": 1}")
    );
    client.put_nowait(json!({"a": 1})).unwrap();
    assert!(matches!(server.get_timeout(DEADLINE), Ok(Message::Text(text)) if text == "{\"a\":1}"));
}

/// RTCBot's `tests/test_websocket.py`.
#[test]
fn the_scenario_of_rtcbots_own_test_works() {
    let mut server = Server::bind((testkit::own_address(), 0)).unwrap();
    let url = testkit::url(&server);
    let (closed, closes) = unbounded();

    let server_closed = closed.clone();
    let echo = thread::spawn(move || {
        let ws = Websocket::accept(server.next_timeout(DEADLINE).unwrap());
        ws.on_close(move || server_closed.send("server").unwrap());
        ws.wait_ready_timeout(DEADLINE).unwrap();
        while ws.is_ready() {
            let Ok(message) = ws.get() else { break };
            ws.put_nowait(message).unwrap();
        }
        ws.wait_closed_timeout(DEADLINE).unwrap();
    });

    let ws = Websocket::connect(url).unwrap();
    ws.on_close(move || closed.send("client").unwrap());
    ws.put_nowait("Hello").unwrap();
    ws.put_nowait(json!({"foo": "bar"})).unwrap();
    assert_eq!(ws.get_timeout(DEADLINE).unwrap(), "Hello");
    assert_eq!(ws.get_timeout(DEADLINE).unwrap(), json!({"foo": "bar"}));
    ws.close().unwrap();

    let mut who = [
        closes.recv_timeout(DEADLINE).unwrap(),
        closes.recv_timeout(DEADLINE).unwrap(),
    ];
    who.sort_unstable();
    assert_eq!(who, ["client", "server"]);
    within(DEADLINE, move || echo.join().unwrap());
}
