//! Compressed messages: permessage-deflate (RFC 7692), from program to program.
#![cfg(feature = "deflate")]

mod testkit;

use std::io::Write;
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use flate2::{Compress, Compression, FlushCompress};
use rtcbot_websocket::{
    Backoff, Deflate, Error, Message, Options, Queue, Server, Value, Websocket, broadcast, json,
};
use testkit::answering::{After, answering};
use testkit::decisions::Decisions;
use testkit::frames::{push_frame, read_frame};
use testkit::script::ACCEPT;
use testkit::{
    DEADLINE, alone, eventually, most_resident, pair_with, read_close_code, read_head, resident,
    within,
};

fn with(deflate: Deflate) -> Options {
    Options::new().deflate(deflate).close_timeout(DEADLINE)
}

fn default() -> Options {
    with(Deflate::new())
}

/// All settings that change what is on the wire.
fn all_settings() -> Vec<Deflate> {
    let mut all = Vec::new();
    for bits in [9, 12, 15] {
        for on in 0..4 {
            all.push(
                Deflate::new()
                    .client_no_context_takeover(on & 1 != 0)
                    .server_no_context_takeover(on & 2 != 0)
                    .client_max_window_bits(bits)
                    .server_max_window_bits(24 - bits),
            );
        }
    }
    all.extend((2..=9).map(|level| Deflate::new().level(level).threshold(0)));
    all
}

fn extensions(ws: &Websocket) -> Option<String> {
    let response = ws.response().unwrap();
    let value = response.headers().get("Sec-WebSocket-Extensions")?;
    Some(value.to_str().unwrap().to_owned())
}

fn get(ws: &Websocket) -> Message {
    ws.get_timeout(DEADLINE).unwrap()
}

#[test]
fn messages_are_compressed_in_both_directions() {
    let (client, server) = pair_with(&default(), &default());
    assert_eq!(extensions(&client).unwrap(), "permessage-deflate");
    assert_eq!(extensions(&server), extensions(&client));
    let message = json!(vec![0.25; 1000]);
    for (from, to) in [(&client, &server), (&server, &client)] {
        let before = to.stats().bytes_in;
        for _ in 0..10 {
            from.put_nowait(message.clone()).unwrap();
            assert_eq!(get(to), message);
        }
        let received = to.stats().bytes_in - before;
        assert!(received < 1000, "{received} bytes");
        assert_eq!(from.stats().bytes_out, to.stats().bytes_in);
    }
}

#[test]
fn a_message_is_sent_as_it_is_if_that_is_chosen_or_it_is_short() {
    let options = with(Deflate::new().threshold(100));
    let (client, server) = pair_with(&options, &options);
    let mut sizes = Vec::new();
    for message in [
        Message::from(vec![0; 5000]).uncompressed(),
        Message::from("x".repeat(5000)).uncompressed(),
        Message::from(json!("x".repeat(5000))).uncompressed(),
        Message::from(vec![0; 99]),
        Message::from(vec![0; 100]),
        Message::from(vec![]),
    ] {
        let before = server.stats().bytes_in;
        client.put_nowait(message.clone()).unwrap();
        assert!(content(&get(&server)) == content(&message));
        sizes.push(server.stats().bytes_in - before);
    }
    let (short, head) = (6, 8);
    let quotes = 2;
    assert_eq!(sizes[0], 5000 + head);
    assert_eq!(sizes[1..3], [5000 + quotes + head; 2]);
    assert_eq!(sizes[3], 99 + short);
    assert!(sizes[4] < 30, "{sizes:?}");
    assert_eq!(sizes[5], short);
}

#[test]
fn nothing_is_compressed_unless_both_sides_want_it() {
    for (client, server) in [(default(), Options::new()), (Options::new(), default())] {
        let (client, server) = pair_with(&client, &server);
        assert_eq!(extensions(&client), None);
        let message = Message::from(vec![0; 5000]);
        for (from, to) in [(&client, &server), (&server, &client)] {
            from.put_nowait(message.clone()).unwrap();
            assert_eq!(get(to), message);
            assert!(to.stats().bytes_in > 5000);
        }
    }
}

fn any_message(decisions: &mut Decisions<'_>) -> Message {
    let length = match decisions.below(10) {
        0 => decisions.below(200_000),
        1..4 => decisions.below(5000),
        _ => decisions.below(200),
    };
    let message = match decisions.below(4) {
        0 => Message::from("ab ".repeat(length / 3)),
        1 => Message::from(vec![decisions.byte(); length]),
        2 => Message::from((0..length).map(|_| decisions.byte()).collect::<Vec<_>>()),
        _ => Message::from(json!({"t": decisions.u64(), "v": vec![decisions.byte(); length / 4]})),
    };
    match decisions.one_in(5) {
        true => message.uncompressed(),
        false => message,
    }
}

#[test]
fn messages_of_all_kinds_arrive_with_all_settings_in_both_directions_at_once() {
    for (index, deflate) in all_settings().into_iter().enumerate() {
        let fragment_size = [64 << 10, 1000, usize::MAX][index % 3];
        let client = with(deflate.clone()).fragment_size(fragment_size);
        let server = with(deflate).max_message_size(16 << 20);
        let (client, server) = pair_with(&client, &server);
        assert!(extensions(&client).is_some());
        within(DEADLINE, move || {
            thread::scope(|scope| {
                for (seed, from, to) in [(1, &client, &server), (2, &server, &client)] {
                    let messages = move || {
                        let mut decisions = Decisions::from_seed(seed + 2 * index as u64);
                        (0..60).map(move |_| any_message(&mut decisions))
                    };
                    scope.spawn(move || messages().for_each(|it| from.put(it).unwrap()));
                    scope.spawn(move || {
                        messages().for_each(|it| assert!(content(&get(to)) == content(&it)))
                    });
                }
            });
        });
    }
}

/// What a message says, in JSON mode and without it.
fn content(message: &Message) -> Vec<u8> {
    match (message.as_bytes(), message.as_str()) {
        (Some(bytes), _) => bytes.to_vec(),
        (None, Some(text)) => text.into(),
        (None, None) => message.to_string().into(),
    }
}

#[test]
fn a_broadcast_reaches_viewers_with_all_settings() {
    let plain = |deflate: Deflate| with(deflate).json(false);
    let no_context = || Deflate::new().server_no_context_takeover(true);
    let settings = [
        Options::new(),
        default(),
        with(no_context()),
        with(no_context()),
        plain(no_context()),
        with(no_context().server_max_window_bits(9)),
        with(no_context().level(9)),
        plain(Deflate::new()),
    ];
    let viewers: Vec<_> = settings.iter().map(|it| pair_with(it, it)).collect();
    let mut decisions = Decisions::from_seed(7);
    for _ in 0..50 {
        let message = any_message(&mut decisions);
        let all = viewers.iter().map(|(_, server)| server);
        assert!(broadcast(all, message.clone()).is_empty());
        for (viewer, _) in &viewers {
            assert_eq!(content(&get(viewer)), content(&message));
        }
    }
}

#[test]
fn settings_that_cannot_work_are_reported() {
    let bad = || with(Deflate::new().level(0));
    let error = bad().connect("ws://127.0.0.1:1/").unwrap_err();
    assert!(
        matches!(
            &error,
            Error::InvalidOption {
                setting: "deflate",
                ..
            }
        ),
        "{error}"
    );
    let mut listener = Server::bind("127.0.0.1:0").unwrap();
    let client = Options::new().connect(testkit::url(&listener)).unwrap();
    let server = bad().accept(listener.next_timeout(DEADLINE).unwrap());
    let error = client.wait_ready_timeout(DEADLINE).unwrap_err();
    assert!(error.to_string().contains("500"), "{error}");
    let error = server.wait_ready_timeout(DEADLINE).unwrap_err();
    assert!(matches!(error, Error::InvalidOption { .. }), "{error}");
}

#[test]
fn a_client_fails_if_the_answer_does_not_fit_its_offer() {
    let answers = [
        ("permessage-deflate; server_no_context_takeover", true),
        ("permessage-deflate", false),
        ("permessage-deflate; server_no_context_takeover; x=1", false),
        (
            "permessage-deflate; server_no_context_takeover; server_max_window_bits=7",
            false,
        ),
        ("permessage-deflate; server_no_context_takeover, x", false),
        ("x-webkit-deflate-frame", false),
        ("permessage-deflate; server_no_context_takeover;", false),
    ];
    let responses = answers.map(|(answer, _)| {
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {ACCEPT}\r\nSec-WebSocket-Extensions: {answer}\r\n\r\n"
        )
    });
    let (url, serving) = answering(responses, After::Leave);
    for (answer, is_good) in answers {
        let options = with(Deflate::new().server_no_context_takeover(true));
        let client = options.connect(&url).unwrap();
        match client.wait_ready_timeout(DEADLINE) {
            Ok(()) => assert!(is_good, "{answer}"),
            Err(error) => {
                assert!(!is_good, "{answer}: {error}");
                assert!(matches!(error, Error::Handshake(_)), "{error}");
            }
        }
    }
    for request in serving.join().unwrap() {
        let offer = "\r\nSec-WebSocket-Extensions: permessage-deflate; \
                     server_no_context_takeover; client_max_window_bits\r\n";
        assert!(request.contains(offer), "{request}");
    }
}

/// Connects to a server with these settings, with this header. Returns the response's head.
fn raw(options: &Options, header: &str) -> (Websocket, TcpStream, String) {
    let mut listener = Server::bind("127.0.0.1:0").unwrap();
    let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let request = testkit::UPGRADE.replacen("\r\n\r\n", &format!("\r\n{header}\r\n\r\n"), 1);
    stream.write_all(request.as_bytes()).unwrap();
    let server = options.accept(listener.next_timeout(DEADLINE).unwrap());
    let head = read_head(&mut stream);
    (server, stream, head)
}

const OFFER: &str = "Sec-WebSocket-Extensions: permessage-deflate";

#[test]
fn a_server_chooses_from_the_offers_of_all_lines() {
    for (offers, answer) in [
        (OFFER, Some("permessage-deflate")),
        (
            "Sec-WebSocket-Extensions: bogus;a=\"b\", permessage-deflate;x\r\n\
             Sec-WebSocket-Extensions: permessage-deflate ; server_max_window_bits = \"1\\0\"",
            Some("permessage-deflate; server_max_window_bits=10"),
        ),
        (
            "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=8",
            None,
        ),
        ("Sec-WebSocket-Extensions: x", None),
    ] {
        let (_server, _stream, head) = raw(&default(), offers);
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let line = head
            .lines()
            .find_map(|line| line.strip_prefix("sec-websocket-extensions: "));
        assert_eq!(line, answer, "{offers}");
    }
    let (server, _stream, head) = raw(&default(), "Sec-WebSocket-Extensions: a b");
    assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
    let error = server.wait_ready_timeout(DEADLINE).unwrap_err();
    assert!(
        error.to_string().contains("Sec-WebSocket-Extensions"),
        "{error}"
    );
}

/// Returns a client's frame with compressed data.
fn compressed(payload: &[u8]) -> Vec<u8> {
    let mut data = Vec::with_capacity(payload.len() + 100);
    Compress::new(Compression::new(9), false)
        .compress_vec(payload, &mut data, FlushCompress::Sync)
        .unwrap();
    data.truncate(data.len() - 4);
    let mut frame = Vec::new();
    push_frame(&mut frame, 0xc2, &data, Some([7, 0, 200, 9]));
    frame
}

#[test]
fn a_bomb_is_rejected_while_it_is_inflated() {
    alone("a_bomb_is_rejected_while_it_is_inflated", || {
        const LIMIT: usize = 1 << 20;
        let bomb = compressed(&vec![0; 64 << 20]);
        let options = default().max_message_size(LIMIT);
        let before = resident();
        for _ in 0..10 {
            let (server, mut stream, _) = raw(&options, OFFER);
            stream.write_all(&compressed(&vec![1; LIMIT])).unwrap();
            assert_eq!(get(&server).as_bytes().unwrap().len(), LIMIT);
            // The server may end the connection before it has read everything.
            let _ = stream.write_all(&bomb);
            assert_eq!(read_close_code(&mut stream), 1009);
            match server.get_timeout(DEADLINE) {
                Err(Error::MessageTooBig { size, limit: LIMIT }) => {
                    assert!(size <= LIMIT + (32 << 10), "{size} bytes were inflated");
                }
                other => panic!("{other:?}"),
            }
        }
        if cfg!(target_os = "linux") {
            // A message of the limit, and a vector that grows to it, twice its size at most.
            let more = most_resident().saturating_sub(before);
            assert!(more < 16 * LIMIT, "{more} bytes more for {LIMIT} at most");
        }
    });
}

#[test]
fn messages_of_one_read_are_not_all_inflated_before_the_queue_is_full() {
    let options = default().paused(true);
    let (server, mut stream, _) = raw(&options, OFFER);
    let _unread = server.subscribe_with(Queue::Block(1));
    let one = compressed(&vec![0; 100_000]);
    stream.write_all(&one.repeat(16_000 / one.len())).unwrap();
    server.resume();
    eventually("a message arrives", || server.stats().messages_in > 0);
    // One is in the queue, one is held, and one may be waiting.
    let inflated = server.stats().messages_in;
    assert!((1..=3).contains(&inflated), "{inflated} messages");
    server.abort();
}

#[test]
fn data_that_cannot_be_inflated_ends_the_connection_after_the_messages_before_it() {
    let (server, mut stream, _) = raw(&default(), OFFER);
    let mut bytes = compressed(b"before");
    push_frame(&mut bytes, 0xc1, b"\xff\xff\xff", Some([0; 4]));
    stream.write_all(&bytes).unwrap();
    assert_eq!(get(&server), Message::from(b"before"));
    match server.get_timeout(DEADLINE) {
        Err(Error::Protocol { code: 1007, reason }) => assert!(reason.contains("inflate")),
        other => panic!("{other:?}"),
    }
    assert_eq!(read_close_code(&mut stream), 1007);
}

#[test]
fn a_compressed_frame_is_an_error_if_compression_was_not_agreed_on() {
    let (server, mut stream, _) = raw(&Options::new(), OFFER);
    stream.write_all(&compressed(b"x")).unwrap();
    let error = server.get_timeout(DEADLINE).unwrap_err();
    assert!(
        matches!(error, Error::Protocol { code: 1002, .. }),
        "{error}"
    );
    assert_eq!(read_close_code(&mut stream), 1002);
}

#[test]
fn a_long_message_is_compressed_in_several_frames() {
    let options = default().fragment_size(1000);
    let (server, mut stream, _) = raw(&options, OFFER);
    let mut decisions = Decisions::from_seed(3);
    let noise: Vec<u8> = (0..10_000).map(|_| decisions.byte()).collect();
    server.put_nowait(noise).unwrap();
    let mut firsts = Vec::new();
    let mut total = 0;
    loop {
        let (first, payload) = read_frame(&mut stream).unwrap();
        assert!((1..=1000).contains(&payload.len()), "{}", payload.len());
        firsts.push(first);
        total += payload.len();
        if first & 0x80 != 0 {
            break;
        }
    }
    assert!(total > 10_000);
    assert_eq!(firsts[0], 0x42, "the first is compressed and binary");
    assert!(firsts[1..firsts.len() - 1].iter().all(|first| *first == 0));
    assert_eq!(firsts[firsts.len() - 1], 0x80);
}

#[test]
fn each_connection_begins_without_context() {
    let listener = std::net::TcpListener::bind((testkit::own_address(), 0)).unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    let client = default()
        .reconnect(Backoff::new().initial(Duration::from_millis(1)))
        .connect(url)
        .unwrap();
    let state = json!({"pose": [1.5, 2.5], "battery": 12.6, "name": "a robot with a long name"});
    for round in 0..20 {
        let (mut stream, _) = listener.accept().unwrap();
        let request = {
            let head = read_head(&mut stream);
            let mut request = rtcbot_websocket::http::Request::get("/");
            for line in head.lines().skip(1).filter(|line| !line.is_empty()) {
                let (name, value) = line.split_once(": ").unwrap();
                request = request.header(name, value);
            }
            rtcbot_websocket::Request::from_parts(request.body(()).unwrap(), stream, [])
        };
        let server = default().accept(request);
        for n in 0..5 {
            let message: Value = json!({"round": round, "n": n, "state": state});
            client.put(message.clone()).unwrap();
            assert_eq!(get(&server), message);
        }
        // Both sides have a context now. The next connection must not refer to it.
        server.abort();
    }
}
