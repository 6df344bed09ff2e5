//! Messages that are sent ahead of the queued ones.

mod testkit;

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use rtcbot_websocket::{Options, PutError, Websocket};
use testkit::{DEADLINE, client_and_raw, own_address};

/// A client whose handshake is not answered yet, so that messages stay in the queue.
fn connecting(options: &Options) -> (Websocket, TcpListener) {
    let listener = TcpListener::bind((own_address(), 0)).unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    let options = options.clone().json(false).connect_timeout(DEADLINE);
    (options.connect(url).unwrap(), listener)
}

/// Answers the handshake, and reads this many messages.
fn receive(
    listener: &TcpListener,
    count: usize,
) -> (Vec<String>, tungstenite::WebSocket<TcpStream>) {
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut raw = tungstenite::accept(stream).unwrap();
    let texts = (0..count).map(|_| raw.read().unwrap().into_text().unwrap().to_string());
    (texts.collect(), raw)
}

#[test]
fn urgent_messages_are_sent_first_and_in_their_order() {
    let (client, listener) = connecting(&Options::new());
    let bytes = client.stats().send_queue_bytes;
    client.put_nowait("a").unwrap();
    client.put_latest("key", "b 1").unwrap();
    client.put_urgent("stop 1").unwrap();
    client.put_latest("key", "b 2").unwrap();
    client.put_urgent("stop 2").unwrap();
    client.put_nowait("c").unwrap();
    let stats = client.stats();
    assert_eq!((stats.send_queue, stats.replaced), (5, 1));
    assert_eq!(stats.send_queue_bytes - bytes, 5 * 64 + 1 + 3 + 6 + 6 + 1);
    let (texts, _raw) = receive(&listener, 5);
    assert_eq!(texts, ["stop 1", "stop 2", "a", "b 2", "c"]);
    testkit::eventually("they are taken", || {
        client.stats().send_queue_bytes == bytes
    });
}

#[test]
fn a_full_queue_refuses_an_urgent_message_only_after_sixteen_others() {
    let (client, listener) = connecting(&Options::new().send_queue(1000));
    let mut queued = 0;
    while client.put_nowait("order").is_ok() {
        queued += 1;
    }
    for n in 0..16 {
        client.put_urgent(format!("stop {n}")).unwrap();
    }
    match client.put_urgent("one more") {
        Err(PutError::Full(message)) => assert_eq!(message, "one more"),
        other => panic!("{other:?}"),
    }
    let (texts, _raw) = receive(&listener, queued + 16);
    let stops = (0..16).map(|n| format!("stop {n}"));
    let expected: Vec<_> = stops.chain(vec!["order".to_owned(); queued]).collect();
    assert_eq!(texts, expected);
    // There is room again.
    client.put_timeout("order", DEADLINE).unwrap();
}

#[test]
fn the_limit_holds_while_a_long_message_is_sent() {
    const LONG: usize = 64 << 20;
    let (client, raw) = client_and_raw(&Options::new().send_queue(1 << 20));
    client.put_nowait(vec![0; LONG]).unwrap();
    testkit::eventually("it is being sent", || client.stats().bytes_out > 0);
    let urgent = || client.put_urgent(vec![0; 60_000]);
    let accepted = std::iter::from_fn(|| urgent().ok()).count();
    assert!((16..40).contains(&accepted), "{accepted}");
    // The long message goes on. The urgent ones wait for its end, and so there is no room.
    raw.get_ref().read_exact(&mut vec![0; LONG / 4]).unwrap();
    assert!(matches!(urgent(), Err(PutError::Full(_))));
    client.abort();
}

#[test]
fn an_urgent_message_that_fits_is_accepted_whatever_else_is_urgent() {
    let (client, _listener) = connecting(&Options::new());
    for _ in 0..100 {
        client.put_urgent("stop").unwrap();
    }
    client.abort();
}

#[test]
fn a_close_sends_urgent_messages_first_and_refuses_others() {
    let (client, listener) = connecting(&Options::new().close_timeout(DEADLINE));
    client.put_nowait("order").unwrap();
    client.put_urgent("stop").unwrap();
    client.close_nowait(1000, "").unwrap();
    match client.put_urgent("late") {
        Err(PutError::Closed(message)) => assert_eq!(message, "late"),
        other => panic!("{other:?}"),
    }
    let (texts, mut raw) = receive(&listener, 2);
    assert_eq!(texts, ["stop", "order"]);
    assert!(raw.read().unwrap().is_close());
}

#[test]
fn urgent_messages_that_are_not_sent_are_counted() {
    let (client, _listener) = connecting(&Options::new().close_timeout(Duration::from_millis(50)));
    client.put_nowait("order").unwrap();
    client.put_urgent("stop").unwrap();
    client.close().unwrap_err();
    assert_eq!(client.stats().unsent, 2);
}
