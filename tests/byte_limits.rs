//! Received and queued messages use no more memory than the settings allow.

mod testkit;

use std::io::Write;
use std::thread;
use std::time::Duration;

use crossbeam_channel::bounded;
use rtcbot_websocket::{Error, Message, Options, Queue, Websocket, json};
use serde_json::Value;
use testkit::{
    DEADLINE, alone, eventually, most_resident, pair_with, resident, server_and_bytes, within,
};

const MIB: usize = 1 << 20;
const KIB: usize = 1 << 10;

/// Messages of about this size, of which ten fit.
const SIZE: usize = 100 * KIB;
const FIT: usize = 10;

fn ten_fit() -> Options {
    Options::new().receive_queue_bytes(FIT * (SIZE + 64))
}

/// A client, and a server whose queues have room for ten messages.
fn ten_fit_pair() -> (Websocket, Websocket) {
    pair_with(&Options::new().send_queue(100 * MIB), &ten_fit())
}

fn numbered(n: usize) -> Message {
    let mut bytes = vec![0; SIZE];
    bytes[..8].copy_from_slice(&n.to_be_bytes());
    bytes.into()
}

fn number(message: &Message) -> usize {
    let bytes = message.as_bytes().unwrap();
    usize::from_be_bytes(bytes[..8].try_into().unwrap())
}

fn put_numbered(ws: &Websocket, count: usize) {
    (0..count).for_each(|n| ws.put(numbered(n)).unwrap());
}

#[test]
fn reading_pauses_at_the_byte_limit_of_a_subscription_and_loses_nothing() {
    let (client, server) = ten_fit_pair();
    let subscription = server.subscribe();
    put_numbered(&client, 60);
    eventually("the queue is full", || subscription.len() == FIT);
    for n in 0..60 {
        assert!(subscription.len() <= FIT);
        let message = match n % 3 {
            0 => subscription.get(),
            1 => subscription.get_timeout(DEADLINE),
            _ => {
                eventually("there is one", || !subscription.is_empty());
                subscription.try_get()
            }
        };
        assert_eq!(number(&message.unwrap()), n);
    }
    assert_eq!(server.stats().dropped, 0);
}

#[test]
fn a_channel_that_is_read_directly_has_the_byte_limit_too() {
    let (client, server) = ten_fit_pair();
    let subscription = server.subscribe();
    put_numbered(&client, 60);
    eventually("the queue is full", || subscription.len() == FIT);
    // It subscribes when the reader thread is already waiting.
    let channel = subscription.receiver();
    for n in 0..60 {
        assert!(channel.len() <= FIT);
        assert_eq!(number(&channel.recv_timeout(DEADLINE).unwrap()), n);
    }
}

#[test]
fn a_source_that_is_a_subscription_makes_room_as_it_is_read() {
    let (first, relay) = ten_fit_pair();
    let (onward, last) = pair_with(&Options::new(), &Options::new());
    // Before the messages, because early messages are kept beyond the limit.
    let subscription = relay.subscribe();
    put_numbered(&first, 60);
    eventually("the queue is full", || subscription.len() == FIT);
    onward.put_subscription(&subscription).unwrap();
    for n in 0..60 {
        assert_eq!(number(&last.get_timeout(DEADLINE).unwrap()), n);
    }
}

#[test]
fn reading_pauses_at_the_byte_limit_of_callbacks() {
    for concurrent in [false, true] {
        let (client, server) = ten_fit_pair();
        let (open, gate) = bounded::<()>(0);
        let (tell, told) = crossbeam_channel::unbounded();
        let call = move |message: Message| {
            let _ = gate.recv();
            tell.send(number(&message)).unwrap();
        };
        match concurrent {
            false => server.subscribe_callback(call),
            true => server.subscribe_concurrent(1, call),
        };
        put_numbered(&client, 60);
        eventually("the queue is full", || server.stats().receive_queue == FIT);
        for n in 0..60 {
            assert!(server.stats().receive_queue <= FIT);
            open.send_timeout((), DEADLINE).unwrap();
            assert_eq!(told.recv_timeout(DEADLINE), Ok(n));
        }
    }
}

#[test]
fn reading_pauses_at_the_byte_limit_of_a_sink_that_is_full_from_the_start() {
    let (client, server) = ten_fit_pair();
    put_numbered(&client, 2);
    eventually("they are kept", || server.stats().receive_queue == 2);
    let (sink, messages) = bounded(1);
    server.subscribe_to(sink);
    (2..60).for_each(|n| client.put(numbered(n)).unwrap());
    eventually("it is waited for", || server.stats().receive_queue > 0);
    for n in 0..60 {
        assert!(server.stats().receive_queue <= FIT);
        assert_eq!(number(&messages.recv_timeout(DEADLINE).unwrap()), n);
    }
}

#[test]
fn a_message_longer_than_the_byte_limit_is_delivered_when_nothing_else_waits() {
    for queue in [Queue::Block(1024), Queue::DropOldest(1024)] {
        let (client, server) = pair_with(&Options::new(), &Options::new().receive_queue_bytes(1));
        let subscription = server.subscribe_with(queue);
        for n in 0..5 {
            client.put(numbered(n)).unwrap();
            assert_eq!(number(&subscription.get_timeout(DEADLINE).unwrap()), n);
        }
        server.subscribe_callback({
            let server = server.downgrade();
            move |message| server.upgrade().unwrap().put(message).unwrap()
        });
        client.put(numbered(7)).unwrap();
        assert_eq!(number(&client.get_timeout(DEADLINE).unwrap()), 7);
    }
}

#[test]
fn a_queue_that_drops_drops_the_oldest_messages_over_the_byte_limit() {
    let (client, server) = ten_fit_pair();
    let newest = server.subscribe_with(Queue::DropOldest(1024));
    let all = server.subscribe_with(Queue::Unbounded);
    put_numbered(&client, 60);
    eventually("all have come", || all.len() == 60);
    eventually("the newest wait", || {
        server.stats().dropped == 60 - FIT as u64
    });
    let waiting: Vec<_> = std::iter::from_fn(|| newest.try_get().ok()).collect();
    assert!(waiting.iter().map(number).eq(60 - FIT..60));
}

#[test]
fn short_messages_fill_a_queue_up_to_its_capacity() {
    let (client, server) = pair_with(&Options::new(), &Options::new());
    let subscription = server.subscribe_with(Queue::Block(5000));
    (0..5000).for_each(|n| client.put(n).unwrap());
    eventually("all have come", || subscription.len() == 5000);
}

#[test]
fn a_wait_for_bytes_ends_with_unsubscribe_and_with_close() {
    for how in ["unsubscribe", "drop", "close", "the peer ends"] {
        for raw in [false, true] {
            let (client, server) = ten_fit_pair();
            let slow = server.subscribe();
            let all = server.subscribe_with(Queue::Unbounded);
            put_numbered(&client, 30);
            eventually("the queue is full", || slow.len() == FIT);
            let channel = raw.then(|| slow.receiver().clone());
            match how {
                "unsubscribe" => assert!(server.unsubscribe(&slow)),
                "drop" => drop(slow),
                "close" => {
                    let server = server.clone();
                    let _ = within(DEADLINE, move || server.close());
                }
                _ => {
                    let client = client.clone();
                    let closing = thread::spawn(move || client.close_with(4000, "enough"));
                    within(DEADLINE, move || while slow.get().is_ok() {});
                    within(DEADLINE, move || closing.join().unwrap()).unwrap();
                    assert_eq!(server.received_close().unwrap().code, 4000);
                }
            }
            if how != "close" {
                eventually("the other has all", || all.len() == 30);
            }
            drop(channel);
        }
    }
}

#[test]
fn early_messages_reach_a_callback_whatever_the_byte_limit() {
    const EARLY: usize = 30;
    for concurrent in [false, true] {
        let (client, server) = pair_with(&Options::new(), &ten_fit());
        put_numbered(&client, EARLY);
        eventually("all have come", || {
            server.stats().messages_in == EARLY as u64
        });
        let (sender, called) = bounded(EARLY);
        let call = move |message| sender.send(number(&message)).unwrap();
        match concurrent {
            false => server.subscribe_callback(call),
            true => server.subscribe_concurrent(1, call),
        };
        for n in 0..EARLY {
            assert_eq!(called.recv_timeout(DEADLINE), Ok(n));
        }
        assert_eq!(server.stats().dropped, 0);
    }
}

#[test]
fn short_messages_do_not_keep_large_buffers_alive() {
    alone("short_messages_do_not_keep_large_buffers_alive", || {
        const PIECES: usize = 1000;
        let (text, bytes) = (
            testkit::masked_frame(0x81, b"7"),
            testkit::masked_frame(0x82, &[7; 100]),
        );
        let pongs = testkit::masked_frame(0x8a, &[0; 125]).repeat(130);
        let pings = testkit::masked_frame(0x89, &[0; 125]).repeat(130);
        let fragments = [
            testkit::masked_frame(0x02, b""),
            testkit::masked_frame(0x00, b"").repeat(2700),
            testkit::masked_frame(0x80, b""),
        ]
        .concat();
        // Each is as long as what is read at a time, which may contain several messages.
        for (messages, filling) in [
            ([text.clone(), text.clone()].concat(), pongs.clone()),
            (bytes.clone(), pongs),
            ([bytes, text.clone()].concat(), pings),
            ([text.clone(), text].concat(), fragments),
        ] {
            let (ws, mut stream) = server_and_bytes(&Options::new().ping_interval(None));
            let subscription = ws.subscribe_with(Queue::Unbounded);
            let mut reading = stream.try_clone().unwrap();
            thread::spawn(move || std::io::copy(&mut reading, &mut std::io::sink()));
            let before = resident();
            let piece = [messages, filling].concat();
            for _ in 0..PIECES {
                stream.write_all(&piece).unwrap();
            }
            let sent = (PIECES * piece.len()) as u64;
            eventually("all has come", || ws.stats().bytes_in == sent);
            assert!(subscription.len() >= PIECES - 1);
            let grown = resident().saturating_sub(before);
            assert!(grown < 4 * MIB, "{grown} bytes");
        }
    });
}

#[test]
fn the_default_message_limit_is_one_mebibyte_for_servers_and_sixteen_for_clients() {
    let (client, server) = pair_with(&Options::new(), &Options::new());
    client.put(vec![0; MIB]).unwrap();
    assert_eq!(server.get_timeout(DEADLINE).unwrap().len(), MIB);
    server.put(vec![0; 16 * MIB]).unwrap();
    assert_eq!(client.get_timeout(DEADLINE).unwrap().len(), 16 * MIB);
    client.put(vec![0; MIB + 1]).unwrap();
    let error = client.get_timeout(DEADLINE).unwrap_err();
    // The documentation refers to this place.
    assert!(error.to_string().contains("1048576"), "{error}");
    let limit = MIB;
    let error = server.wait_closed_timeout(DEADLINE).unwrap_err();
    assert!(
        matches!(error, Error::MessageTooBig { limit: l, .. } if l == limit),
        "{error}"
    );

    let (client, server) = pair_with(&Options::new(), &Options::new().max_message_size(2 * MIB));
    client.put(vec![0; 2 * MIB]).unwrap();
    assert_eq!(server.get_timeout(DEADLINE).unwrap().len(), 2 * MIB);
}

#[test]
fn the_error_names_the_limit_whatever_the_size_of_the_message() {
    // A frame of more than 125 bytes cannot be a control frame, and is rejected after its head.
    for size in [11, 125, 126, 1000] {
        let (client, server) = pair_with(&Options::new(), &Options::new().max_message_size(10));
        client.put(vec![0; size]).unwrap();
        let error = server.get_timeout(DEADLINE).unwrap_err();
        let Error::MessageTooBig {
            size: announced,
            limit,
        } = error
        else {
            panic!("{error}");
        };
        assert_eq!((announced, limit), (size, 10));
    }
}

#[test]
fn a_frame_may_be_as_long_as_a_message() {
    let options = Options::new().max_message_size(20 * MIB);
    let (client, server) = pair_with(&options, &options);
    client.put(vec![0; 20 * MIB]).unwrap();
    assert_eq!(server.get_timeout(DEADLINE).unwrap().len(), 20 * MIB);
}

#[test]
fn both_sides_learn_whose_limit_a_message_exceeded() {
    let (client, server) = pair_with(&Options::new(), &Options::new().max_message_size(100));
    client.put(vec![0; 101]).unwrap();
    let error = server.get_timeout(DEADLINE).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the peer sent a message of at least 101 bytes, more than the 100 that this side's \
         `max_message_size` allows"
    );
    let error = client.get_timeout(DEADLINE).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the connection is closed: by the peer with 1009 \
         \"a message of at least 101 bytes exceeds the receiver's limit of 100 bytes\""
    );
}

/// The length of messages that are meant to use memory. (A build without optimisation takes seconds
/// for 16 MiB.)
const LONG: usize = 4 * MIB;

/// Sends a text message of this length, with only a piece of it in memory.
fn send_repeated(stream: &mut std::net::TcpStream, piece: &str, end: &str) {
    let pieces = (LONG - 1 - end.len()) / piece.len();
    let length = 1 + pieces * piece.len() + end.len();
    let mut head = vec![0x81, 0xff];
    head.extend((length as u64).to_be_bytes());
    head.extend([0; 4]);
    stream.write_all(&head).unwrap();
    stream.write_all(b"[").unwrap();
    let many = piece.repeat(1000);
    for _ in 0..pieces / 1000 {
        stream.write_all(many.as_bytes()).unwrap();
    }
    stream
        .write_all(piece.repeat(pieces % 1000).as_bytes())
        .unwrap();
    stream.write_all(end.as_bytes()).unwrap();
}

#[test]
#[cfg(target_os = "linux")]
fn a_json_message_uses_no_more_memory_than_its_text() {
    let test = "a_json_message_uses_no_more_memory_than_its_text";
    alone(test, || {
        let (server, mut stream) = server_and_bytes(&Options::new().max_message_size(LONG));
        let mut most = None;
        // The first is not JSON, so no value is made of it.
        for (piece, end, is_json) in [
            ("x", "", false),
            (r#"{"":0},"#, "0]", true),
            (r#"{"":{"":0}},"#, "0]", true),
            ("[],", "0]", true),
            ("0,", "0]", true),
            (r#""\ud800","#, "0]", true),
            (r#"{"":"#, "", false),
            (r#"[{"":"#, "", false),
            ("[", "", false),
            // It is copied once, for parsing.
            ("[],", "NaN]", true),
        ] {
            send_repeated(&mut stream, piece, end);
            let message = server.get_timeout(DEADLINE).unwrap();
            assert!(message.len() > LONG - 100);
            assert_eq!(matches!(message, Message::Json(_)), is_json, "{piece}");
            let most = *most.get_or_insert_with(most_resident);
            let copy = if end.contains("NaN") { 2 * LONG } else { 0 };
            let now = most_resident();
            assert!(
                now <= most + copy + 2 * MIB,
                "{now} after {most} for {piece}"
            );
        }
    });
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_send_queue_uses_little_more_memory_than_its_limit() {
    let test = "a_full_send_queue_uses_little_more_memory_than_its_limit";
    alone(test, || {
        let wide: Value = vec![json!({"": 0}); 2000].into();
        let mut deep = json!(0);
        (0..100).for_each(|_| deep = json!({"": [deep]}));
        let shapes = [
            json!(vec![0; 4000]),
            wide,
            deep,
            json!({"motor": 1, "speed": 0.5, "name": "left", "at": [1, 2, 3]}),
        ];
        for shape in shapes {
            let options = Options::new().send_queue(LONG).linger(Duration::ZERO);
            let (server, _stream) = server_and_bytes(&options);
            // Until the writer has taken a batch, and the kernel's buffers are full.
            let before = resident();
            while server.put_nowait(shape.clone()).is_ok() {}
            assert!(server.stats().send_queue_bytes > LONG - 100 * KIB);
            let taken = resident().saturating_sub(before);
            assert!(taken < 10 * MIB, "{} MiB", taken / MIB);
        }
    });
}
