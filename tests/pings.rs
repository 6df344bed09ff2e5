//! Pings that a program sends, and the latency they measure.

mod testkit;

use std::io::{Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError};
use rtcbot_websocket::{Error, Options, Server, Websocket};
use testkit::{
    DEADLINE, client_and_raw, eventually, failure, masked_frame, pair, pair_with, server_and_bytes,
    within,
};
use tungstenite::Message as Wire;

const MS: Duration = Duration::from_millis(1);

/// Options without keepalive pings.
fn quiet() -> Options {
    Options::new().ping_interval(None).close_timeout(DEADLINE)
}

fn time_of(answer: &Receiver<Duration>) -> Duration {
    answer.recv_timeout(DEADLINE).expect("no answer")
}

#[test]
fn a_ping_is_answered_and_sets_the_latency() {
    let (client, server) = pair();
    assert_eq!(client.stats().latency, None);
    let before = Instant::now();
    let first = time_of(&client.ping("one").unwrap());
    assert!(first > Duration::ZERO && first <= before.elapsed());
    eventually("the latency", || client.stats().latency.is_some());
    let latency = client.stats().latency.unwrap();
    assert_eq!((latency.last, latency.smoothed), (first, first));

    let second = time_of(&client.ping("two").unwrap());
    let latency = client.stats().latency.unwrap();
    assert_eq!(latency.last, second);
    assert_eq!(latency.smoothed, (first * 7 + second) / 8);
    // Only the client has this latency.
    assert_eq!(server.stats().latency, None);
    time_of(&server.ping(vec![0; 125]).unwrap());
}

#[test]
fn a_ping_that_is_sent_early_waits_for_the_connection() {
    let mut server = Server::bind((testkit::own_address(), 0)).unwrap();
    let client = Websocket::connect(server.url()).unwrap();
    let answer = client.ping("").unwrap();
    let _peer = Websocket::accept(server.next_timeout(DEADLINE).unwrap());
    time_of(&answer);
}

#[test]
fn a_ping_overtakes_queued_messages() {
    let (client, mut raw) = client_and_raw(&quiet());
    // More than the sockets take.
    let big = vec![0; 1 << 20];
    for _ in 0..12 {
        client.put_nowait(big.clone()).unwrap();
    }
    let _answer = client.ping("quick").unwrap();
    let mut before = 0;
    loop {
        match raw.read().unwrap() {
            Wire::Ping(payload) => break assert_eq!(payload, "quick"),
            _ => before += 1,
        }
    }
    assert!(before < 12, "it came last");
}

#[test]
fn one_pong_answers_all_earlier_pings_and_no_later_one() {
    let (server, mut stream) = server_and_bytes(&quiet());
    let answers = ["a", "b", "c"].map(|payload| server.ping(payload).unwrap());
    let mut pings = [0; 9];
    stream.read_exact(&mut pings).unwrap();
    assert_eq!(&pings, b"\x89\x01a\x89\x01b\x89\x01c");
    stream.write_all(&masked_frame(0x8a, b"unasked")).unwrap();
    stream.write_all(&masked_frame(0x8a, b"b")).unwrap();
    time_of(&answers[0]);
    time_of(&answers[1]);
    assert_eq!(answers[2].try_recv(), Err(TryRecvError::Empty));
    stream.write_all(&masked_frame(0x8a, b"c")).unwrap();
    time_of(&answers[2]);
}

#[test]
fn a_wait_for_a_pong_ends_when_no_pong_can_come() {
    let (client, raw) = client_and_raw(&quiet());
    let answer = client.ping("").unwrap();
    drop(raw);
    let none = within(DEADLINE, move || answer.recv_timeout(DEADLINE));
    assert_eq!(none, Err(RecvTimeoutError::Disconnected));
    assert!(matches!(client.ping(""), Err(Error::Lost(_))));
}

#[test]
fn every_wait_for_a_pong_ends_with_the_connection() {
    for _ in 0..200 {
        let (client, server) = quiet().pair();
        let pinging: Vec<_> = (0..3)
            .map(|_| {
                let client = client.clone();
                thread::spawn(move || {
                    let mut last = None;
                    loop {
                        match client.ping("") {
                            Ok(answer) => last = Some(answer),
                            Err(Error::TooManyPings { .. }) => {}
                            Err(_) => return last,
                        }
                    }
                })
            })
            .collect();
        server.close().unwrap();
        client.wait_closed_timeout(DEADLINE).unwrap();
        for pinging in pinging {
            if let Some(answer) = pinging.join().unwrap() {
                let answer = answer.recv_timeout(DEADLINE);
                assert_ne!(answer, Err(RecvTimeoutError::Timeout));
            }
        }
    }
}

#[test]
fn a_ping_payload_that_is_too_long_is_refused() {
    let (client, _raw) = client_and_raw(&quiet());
    let refused = client.ping(vec![0; 126]).unwrap_err();
    assert!(matches!(
        refused,
        Error::InvalidOption {
            setting: "ping payload",
            ..
        }
    ));
    let _answers: Vec<_> = (0..64).map(|_| client.ping("").unwrap()).collect();
    let refused = client.ping("").unwrap_err();
    assert!(matches!(refused, Error::TooManyPings { unanswered: 64 }));
    // Refused pings do not harm the connection.
    client.put("x").unwrap();
    assert!(client.is_ready());
}

#[test]
fn a_ping_on_a_closed_connection_is_refused() {
    let (client, _server) = pair();
    client.close_with(4001, "enough").unwrap();
    match client.ping("") {
        Err(Error::Closed(close)) => assert_eq!(close.frame.unwrap().code, 4001),
        other => panic!("{other:?}"),
    }
}

#[test]
fn keepalive_pings_set_the_latency() {
    let often = Options::new().ping_interval(5 * MS);
    let (client, server) = pair_with(&often, &quiet());
    eventually("the latency", || client.stats().latency.is_some());
    // Also while messages are sent all the time.
    let first = client.stats().latency;
    eventually("another", || {
        client.put("busy").unwrap();
        server.get_timeout(DEADLINE).unwrap();
        client.stats().latency != first
    });
}

#[test]
fn pings_of_the_program_and_of_the_keepalive_do_not_disturb_each_other() {
    let often = Options::new().ping_interval(MS).ping_timeout(DEADLINE);
    let (client, server) = pair_with(&often, &often);
    let until = Instant::now() + 500 * MS;
    while Instant::now() < until {
        time_of(&client.ping("").unwrap());
        time_of(&server.ping("").unwrap());
    }
    assert!(client.is_ready() && server.is_ready());
}

/// A payload that uses its connection when it is dropped.
struct Looks(Websocket);

impl AsRef<[u8]> for Looks {
    fn as_ref(&self) -> &[u8] {
        b"looks"
    }
}

impl Drop for Looks {
    fn drop(&mut self) {
        // Each of these takes a lock.
        let _ = (self.0.stats().latency, self.0.is_closed(), self.0.stats());
    }
}

#[test]
fn a_ping_payload_may_call_its_connection_when_it_is_dropped() {
    within(DEADLINE, || {
        let ping = |ws: &Websocket| ws.ping(Bytes::from_owner(Looks(ws.clone())));
        // One that is answered, one too many, and some that are never answered.
        let (client, server) = pair_with(&quiet(), &quiet());
        time_of(&ping(&client).unwrap());
        server.close().unwrap();
        assert!(ping(&client).is_err());

        let (client, raw) = client_and_raw(&quiet());
        let answers: Vec<_> = (0..64).map(|_| ping(&client).unwrap()).collect();
        assert!(matches!(ping(&client), Err(Error::TooManyPings { .. })));
        drop(raw);
        failure(&client);
        for answer in answers {
            let end = answer.recv_timeout(DEADLINE).unwrap_err();
            assert_eq!(end, RecvTimeoutError::Disconnected);
        }
    });
}
