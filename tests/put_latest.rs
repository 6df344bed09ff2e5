//! Messages that replace the queued one with the same key.

mod testkit;

use std::net::{TcpListener, TcpStream};
use std::thread;

use rtcbot_websocket::{Backoff, Options, PutError, Server, Websocket, json};
use testkit::{DEADLINE, eventually, own_address};

const FILL: usize = 100_000;

/// A client whose handshake is not answered yet, so that messages stay in the queue.
fn connecting() -> (Websocket, TcpListener) {
    let listener = TcpListener::bind((own_address(), 0)).unwrap();
    let client = Options::new()
        .json(false)
        .send_queue(8 << 20)
        .connect_timeout(DEADLINE)
        .connect(format!("ws://{}/", listener.local_addr().unwrap()))
        .unwrap();
    (client, listener)
}

/// Answers the handshake.
fn accept(listener: &TcpListener) -> tungstenite::WebSocket<TcpStream> {
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    tungstenite::accept(stream).unwrap()
}

/// Reads all text messages until one of them is `last`.
fn texts_until(last: &str, raw: &mut tungstenite::WebSocket<TcpStream>) -> Vec<String> {
    let mut texts = Vec::new();
    while texts.last().is_none_or(|text| text != last) {
        if let tungstenite::Message::Text(text) = raw.read().unwrap() {
            texts.push(text.as_str().to_owned());
        }
    }
    texts
}

#[test]
fn the_newest_message_takes_the_place_of_the_queued_one_with_its_key() {
    let (client, listener) = connecting();
    let bytes = client.stats().send_queue_bytes;
    client.put_latest("a", "a 1").unwrap();
    client.put_nowait("other").unwrap();
    client.put_latest("b", "b 1").unwrap();
    client.put_latest("a", "a 2 is longer").unwrap();
    client.put_latest("a", "a 3").unwrap();
    client.put_latest("c", "c 1").unwrap();
    let stats = client.stats();
    assert_eq!(stats.replaced, 2);
    // Each counts its payload and 64 bytes.
    assert_eq!(stats.send_queue_bytes - bytes, 4 * 64 + 3 + 5 + 3 + 3);
    let mut raw = accept(&listener);
    let texts = texts_until("c 1", &mut raw);
    assert_eq!(texts, ["a 3", "other", "b 1", "c 1"]);
    // They have been taken from the queue.
    client.put_latest("a", "a 4").unwrap();
    client.put_latest("end", "end").unwrap();
    assert_eq!(texts_until("end", &mut raw), ["a 4", "end"]);
    assert_eq!(client.stats().replaced, 2);
}

#[test]
fn a_message_that_is_replaced_need_not_fit_beside_the_new_one() {
    let (client, listener) = connecting();
    client.put_latest("a", "first").unwrap();
    while client.put_nowait(vec![0; FILL]).is_ok() {}
    // Less than a message of this size fits in.
    while client.put_nowait(vec![0; 1000]).is_ok() {}
    let long = "x".repeat(2000);
    match client.put_latest("a", long.as_str()) {
        Err(PutError::Full(message)) => assert_eq!(message, long.as_str()),
        other => panic!("{other:?}"),
    }
    assert!(client.put_latest("b", long.as_str()).unwrap_err().is_full());
    assert_eq!(client.stats().replaced, 0);
    client.put_latest("a", "again").unwrap();
    assert_eq!(client.stats().replaced, 1);
    let mut raw = accept(&listener);
    assert_eq!(texts_until("again", &mut raw), ["again"]);
}

#[test]
fn a_closed_connection_returns_the_message_and_a_source_is_stopped() {
    let (client, server) = Websocket::pair();
    let (_sender, source) = crossbeam_channel::unbounded();
    client.put_subscription(source).unwrap();
    client.put_latest("a", json!([1])).unwrap();
    assert!(client.subscription().is_none());
    assert_eq!(server.get_timeout(DEADLINE).unwrap(), json!([1]));
    client.close().unwrap();
    let error = client.put_latest("a", json!([2])).unwrap_err();
    assert!(matches!(error, PutError::Closed(message) if message == json!([2])));
}

#[test]
fn smaller_messages_make_room_for_a_put_that_waits() {
    let (client, _listener) = connecting();
    client.put_latest("a", vec![0; FILL]).unwrap();
    while client.put_nowait(vec![0; FILL]).is_ok() {}
    thread::scope(|scope| {
        let waiting = scope.spawn(|| client.put_timeout(vec![0; FILL], DEADLINE));
        eventually("it has room", || {
            client.put_latest("a", "small").unwrap();
            waiting.is_finished()
        });
        waiting.join().unwrap().unwrap();
    });
}

#[test]
fn the_newest_message_is_sent_after_reconnecting() {
    let mut listener = Server::bind((own_address(), 0)).unwrap();
    let client = Options::new()
        .reconnect(Backoff::default())
        .connect(listener.url())
        .unwrap();
    let server = Websocket::accept(listener.next_timeout(DEADLINE).unwrap());
    client.wait_ready_timeout(DEADLINE).unwrap();
    server.close_with(1012, "restarting").unwrap();
    for n in 1..=1000 {
        client.put_latest("position", n).unwrap();
        client.put_latest("battery", -n).unwrap();
    }
    let server = Websocket::accept(listener.next_timeout(DEADLINE).unwrap());
    let mut newest = [0i64; 2];
    while newest != [1000, -1000] {
        let n: i64 = server.get_timeout(DEADLINE).unwrap().decode().unwrap();
        let of_key = &mut newest[usize::from(n < 0)];
        assert!(n.abs() > of_key.abs(), "{n} after {of_key}");
        *of_key = n;
    }
    assert!(client.stats().replaced > 0);
}

/// Puts numbers with keys from two threads, and others without a key from a third. Checks that each
/// message is received, replaced, or refused, and that the newest is received.
fn race(puts: u64, send_queue: usize) {
    let (client, server) = Options::new().send_queue(send_queue).pair();
    let orders = server.subscribe();
    // Puts the numbers. Returns the number of attempts, and of those that were refused.
    let put_all = |who: u64| {
        let (mut attempts, mut refused) = (0, 0);
        for n in 1..=puts {
            loop {
                let put = match who {
                    0 => client.put_latest("a", json!([who, n])),
                    1 => client.put_latest("b", json!([who, n])),
                    _ => client.put_nowait(json!([who, n])),
                };
                attempts += 1;
                let Err(error) = put else { break };
                assert!(error.is_full());
                refused += 1;
                // The last one must be accepted.
                if n < puts {
                    break;
                }
                thread::yield_now();
            }
        }
        (attempts, refused)
    };
    let (mut attempts, mut refused) = (0, 0);
    thread::scope(|scope| {
        let putting = [0, 1, 2].map(|who| {
            let put_all = &put_all;
            scope.spawn(move || put_all(who))
        });
        // On this thread, because a full queue of the subscription pauses the stream.
        let mut newest = [0; 3];
        let mut received = 0;
        while newest != [puts; 3] {
            let message = orders.get_timeout(DEADLINE).unwrap();
            let [who, n]: [u64; 2] = message.decode().unwrap();
            let last = &mut newest[usize::try_from(who).unwrap()];
            assert!(n > *last, "{n} after {last}");
            *last = n;
            received += 1;
        }
        for thread in putting {
            let (own_attempts, own_refused) = thread.join().unwrap();
            attempts += own_attempts;
            refused += own_refused;
        }
        assert_eq!(received + client.stats().replaced + refused, attempts);
    });
    client.close().unwrap();
    assert_eq!(orders.iter().count(), 0);
}

#[test]
fn the_last_value_that_is_put_is_the_last_that_is_received() {
    for round in 0..1500 {
        race(20, [1, 300, 16 << 20][round % 3]);
    }
    race(30_000, 1000);
    race(30_000, 16 << 20);
}
