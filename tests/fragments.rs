//! Long messages, which are sent in several frames.

mod testkit;

use std::io::{self, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use proptest::prelude::*;
use rtcbot_websocket::{Backoff, Bytes, Message, Options, State, Websocket};
use testkit::frames::{PONG, read_frame};
use testkit::wire::over_each;
use testkit::{DEADLINE, client_and_raw, end_reason, eventually, masked_frame};
use testkit::{server_and_bytes, was_lost};
use tungstenite::Message as Raw;

const LONG: usize = 4 << 20;

/// The maximum size of a server's frame with the default fragment size.
const FRAME: u64 = (64 << 10) + 10;

/// More than the system keeps in the buffers of a connection.
fn endless() -> Message {
    vec![0; 64 << 20].into()
}

fn numbers(count: usize) -> Bytes {
    (0..count).map(|n| ((n * 31) >> 3) as u8).collect()
}

/// Text in which every fragment may end within a character.
fn text(characters: usize) -> String {
    "aé€🤖".chars().cycle().take(characters).collect()
}

#[test]
fn long_messages_arrive_as_one_message_each() {
    over_each(|wire| {
        let (client, server) = wire.pair(|options| options.json(false).max_message_size(LONG));
        let bytes = numbers(LONG);
        let text = text(LONG / 3);
        for (from, to) in [(&client, &server), (&server, &client)] {
            from.put(bytes.clone()).unwrap();
            from.put(text.as_str()).unwrap();
            from.put("short").unwrap();
            let received = to.get_timeout(DEADLINE).unwrap();
            assert!(received.as_bytes() == Some(&bytes[..]));
            assert!(to.get_timeout(DEADLINE).unwrap() == text.as_str());
            assert_eq!(to.get_timeout(DEADLINE).unwrap(), "short");
        }
    });
}

#[test]
fn another_implementation_receives_the_fragments_as_one_message() {
    over_each(|wire| {
        for size in [1, 2, 3, 1000, 0] {
            let change = |options: Options| options.json(false).fragment_size(size);
            let (client, mut raw) = wire.client_and_raw(change);
            let text = text(3001);
            client.put(text.as_str()).unwrap();
            client.put(numbers(3001)).unwrap();
            client.put("").unwrap();
            client.put(Bytes::new()).unwrap();
            assert_eq!(raw.read().unwrap(), Raw::text(text));
            assert_eq!(raw.read().unwrap(), Raw::Binary(numbers(3001)));
            assert_eq!(raw.read().unwrap(), Raw::text(""));
            assert_eq!(raw.read().unwrap(), Raw::Binary(Bytes::new()));
        }
    });
}

#[test]
fn a_message_is_divided_only_if_it_is_longer_than_the_fragment_size() {
    let firsts = |size: usize, length: usize| {
        let options = Options::new().json(false).fragment_size(size);
        let (server, mut stream) = server_and_bytes(&options);
        server.put("x".repeat(length)).unwrap();
        server.put("end").unwrap();
        let mut firsts = Vec::new();
        loop {
            let (first, payload) = read_frame(&mut stream).unwrap();
            if payload == b"end" {
                return firsts;
            }
            firsts.push((first, payload.len()));
        }
    };
    assert_eq!(firsts(1000, 1000), [(0x81, 1000)]);
    assert_eq!(firsts(1000, 1001), [(0x01, 1000), (0x80, 1)]);
    assert_eq!(
        firsts(1000, 3000),
        [(0x01, 1000), (0x00, 1000), (0x80, 1000)]
    );
    assert_eq!(firsts(0, 200_000), [(0x81, 200_000)]);
    let default = Options::new().json(false);
    let (server, mut stream) = server_and_bytes(&default);
    server.put(vec![0; (64 << 10) + 1]).unwrap();
    assert_eq!(read_frame(&mut stream).unwrap().1.len(), 64 << 10);
}

/// Puts [`endless`], and reads its beginning. Returns a stream that reads all of it.
fn begin_to_send(ws: &Websocket, mut stream: TcpStream) -> impl Read {
    ws.put(endless()).unwrap();
    let mut beginning = vec![0; 1000];
    stream.read_exact(&mut beginning).unwrap();
    io::Cursor::new(beginning).chain(BufReader::new(stream))
}

#[test]
fn a_pong_is_sent_within_a_long_message() {
    let (server, mut stream) = server_and_bytes(&Options::new().json(false));
    let mut all = begin_to_send(&server, stream.try_clone().unwrap());
    stream.write_all(&masked_frame(0x89, b"ping")).unwrap();
    stream.write_all(&masked_frame(0x81, b"after it")).unwrap();
    // The ping has been handled before.
    assert_eq!(server.get_timeout(DEADLINE).unwrap(), "after it");
    let written = server.stats().bytes_out;
    let mut received = 0;
    loop {
        let (first, payload) = read_frame(&mut all).unwrap();
        if first == 0x80 | PONG {
            assert_eq!(payload, b"ping");
            break;
        }
        received += payload.len() as u64;
        // The frame that was being written is not counted before its end.
        assert!(
            received <= written + 2 * FRAME,
            "{received} bytes, and no pong"
        );
    }
}

#[test]
fn a_client_that_reconnects_answers_a_close_frame_within_a_long_message() {
    let options = Options::new()
        .json(false)
        .close_timeout(DEADLINE)
        .reconnect(Backoff::new().until_closed());
    let (client, raw) = client_and_raw(&options);
    let mut stream = raw.get_ref().try_clone().unwrap();
    let mut all = begin_to_send(&client, stream.try_clone().unwrap());
    stream.write_all(b"\x88\x02\x03\xe8").unwrap();
    eventually("the Close frame is handled", || {
        matches!(client.state(), State::Closing)
    });
    let mut received = 0;
    loop {
        let (first, payload) = read_frame(&mut all).unwrap();
        if first == 0x88 {
            assert_eq!(payload, b"\x03\xe8");
            break;
        }
        received += payload.len();
    }
    assert!(received < endless().len(), "{received} bytes");
    // Nothing follows, and the message is left for the next connection.
    assert_eq!(all.read(&mut [0]).unwrap(), 0);
    assert_eq!(client.stats().messages_out, 0);
    eventually("the message is queued", || client.stats().send_queue == 1);
}

#[test]
fn an_abort_and_a_close_end_within_a_long_message() {
    for aborts in [false, true] {
        let options = Options::new().close_timeout(Duration::from_millis(100));
        let (server, stream) = server_and_bytes(&options);
        server.put(endless()).unwrap();
        server.put("behind it").unwrap();
        match aborts {
            true => server.abort(),
            false => drop(server.close()),
        }
        let _ = server.wait_closed_timeout(DEADLINE);
        assert!(end_reason(&server).is_some(), "{server:?}");
        assert_eq!((server.stats().messages_out, server.stats().unsent), (0, 2));
        drop(stream);
    }
}

#[test]
fn a_message_that_a_lost_connection_has_cut_is_sent_again_over_the_next_one() {
    for size in [1000, 64 << 10] {
        let options = Options::new()
            .json(false)
            .fragment_size(size)
            .send_queue(1 << 30)
            .reconnect(Backoff::new());
        let listener = std::net::TcpListener::bind((testkit::own_address(), 0)).unwrap();
        let url = format!("ws://{}/", listener.local_addr().unwrap());
        let client = options.connect(url).unwrap();
        let accept = || {
            let (stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            tungstenite::accept(stream).unwrap()
        };
        let mut raw = accept();
        let cut = numbers(63 << 20);
        client.put("first").unwrap();
        client.put(cut.clone()).unwrap();
        client.put("last").unwrap();
        assert_eq!(raw.read().unwrap(), Raw::text("first"));
        raw.get_mut().read_exact(&mut vec![0; 1_000_000]).unwrap();
        drop(raw);
        eventually("the loss is noticed", || was_lost(&client));
        let mut config = tungstenite::protocol::WebSocketConfig::default();
        config.max_message_size = None;
        config.max_frame_size = None;
        let mut raw = accept();
        raw.set_config(|old| *old = config);
        let received = raw.read().unwrap();
        assert!(received == Raw::Binary(cut), "{} bytes", received.len());
        assert_eq!(raw.read().unwrap(), Raw::text("last"));
        eventually("all is counted", || client.stats().messages_out == 3);
    }
}

#[test]
fn fragments_are_counted_as_one_message() {
    let options = Options::new().json(false).fragment_size(10);
    let (client, mut raw) = client_and_raw(&options);
    client.put("x".repeat(35)).unwrap();
    raw.read().unwrap();
    // A client's frame of up to 125 bytes has 6 bytes more than its payload.
    eventually("it is counted", || client.stats().messages_out == 1);
    assert_eq!(client.stats().bytes_out, 35 + 4 * 6);
    raw.send(Raw::text("answer")).unwrap();
    assert_eq!(client.get_timeout(DEADLINE).unwrap(), "answer");
}

fn messages() -> impl Strategy<Value = Vec<Message>> {
    let message = prop_oneof![
        "\\PC{0,80}".prop_map(Message::from),
        prop::collection::vec(any::<u8>(), 0..300).prop_map(Message::from),
        (60_000usize..300_000).prop_map(|length| numbers(length).into()),
        (20_000usize..100_000).prop_map(|length| text(length).into()),
    ];
    prop::collection::vec(message, 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn messages_arrive_unchanged_with_every_fragment_size(
        messages in messages(),
        size in prop_oneof![Just(0usize), 1usize..100, 1000usize..100_000],
        json: bool,
        pings: bool,
    ) {
        let options = Options::new().json(json).fragment_size(size);
        let (robot, operator) = options.pair();
        for message in &messages {
            robot.put(message.clone()).unwrap();
            if pings {
                let _ = operator.ping("ping");
            }
        }
        for message in &messages {
            let received = operator.get_timeout(DEADLINE).unwrap();
            let same = received.as_str() == message.as_str()
                && received.as_bytes() == message.as_bytes();
            prop_assert!(same, "{received:?} is not {message:?}");
        }
    }
}
