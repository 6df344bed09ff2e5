//! A client that sends back what it receives still gets to its next connection.

use std::thread;
use std::time::Instant;

use crossbeam_channel::RecvTimeoutError;
use rtcbot_websocket::{Error, Message, PutError, Websocket};

use crate::testkit::{DEADLINE, within};
use crate::{HOUR, Host, MS, Raw, number, numbered, options, soon};

/// Sends numbered messages and reads nothing, until nothing more can be sent.
fn flood(raw: &mut Raw) {
    raw.get_ref().set_write_timeout(Some(500 * MS)).unwrap();
    let mut n = 0;
    while let Message::Binary(bytes) = numbered(n) {
        if raw.send(tungstenite::Message::binary(bytes)).is_err() {
            break;
        }
        n += 1;
    }
}

/// The thread that makes room for the reader waits for room in the send queue, which only the next
/// connection makes.
#[track_caller]
fn sending_back_does_not_delay_the_next_connection(send_back: impl Fn(&Websocket)) {
    let host = Host::new();
    let options = options(soon()).send_queue(64 << 10).close_timeout(20 * MS);
    let ws = options.connect(host.url()).unwrap();
    send_back(&ws);
    let mut raw = host.accept();
    flood(&mut raw);
    drop(raw);
    let mut raw = host.accept();
    raw.send("the last".into()).unwrap();
    let mut numbers = Vec::new();
    loop {
        match raw.read().unwrap() {
            tungstenite::Message::Binary(bytes) => numbers.push(number(&bytes)),
            tungstenite::Message::Text(text) if text == "the last" => break,
            _ => {}
        }
    }
    // Everything that arrived over the first connection and was not sent before, once and in order.
    let came = u32::try_from(ws.stats().messages_in).unwrap() - 1;
    let first = numbers[0];
    assert_eq!(ws.stats().dropped, 0);
    assert!(first < came);
    assert!(numbers.iter().copied().eq(first..came), "{first}..{came}");
    drop(raw);
    within(DEADLINE, move || drop(ws));
}

#[test]
fn a_pipe_back_does_not_delay_the_next_connection() {
    sending_back_does_not_delay_the_next_connection(|ws| {
        ws.subscribe_to(ws.clone());
    });
}

#[test]
fn a_pipe_back_does_not_delay_the_next_connection_when_the_peer_falls_silent() {
    let host = Host::new();
    let options = options(soon())
        .send_queue(64 << 10)
        .ping_interval(50 * MS)
        .ping_timeout(50 * MS);
    let ws = options.connect(host.url()).unwrap();
    ws.subscribe_to(ws.clone());
    let mut raw = host.accept();
    let mut silent = Vec::new();
    let end = Instant::now() + 4 * DEADLINE;
    // A peer that is late may be given up before it has sent enough or read the rest.
    let is_left_over = |raw: &mut Raw| {
        let _ = raw.send("the last".into());
        loop {
            assert!(Instant::now() < end, "nothing comes back");
            match raw.read() {
                Ok(tungstenite::Message::Binary(_)) => return true,
                Ok(tungstenite::Message::Text(_)) | Err(_) => return false,
                Ok(_) => {}
            }
        }
    };
    loop {
        flood(&mut raw);
        silent.push(raw);
        raw = host.accept();
        if is_left_over(&mut raw) {
            break;
        }
    }
    drop((raw, silent));
    within(DEADLINE, move || drop(ws));
}

#[test]
fn a_sink_that_sends_back_does_not_delay_the_next_connection() {
    struct Back(rtcbot_websocket::WeakWebsocket);
    impl rtcbot_websocket::Sink<Message> for Back {
        fn put_nowait(&self, message: Message) -> Result<(), PutError<Message>> {
            self.0.upgrade().unwrap().put(message)
        }
    }
    sending_back_does_not_delay_the_next_connection(|ws| {
        ws.subscribe_to(Back(ws.downgrade()));
    });
}

#[test]
fn a_thread_that_sends_back_does_not_delay_the_next_connection() {
    sending_back_does_not_delay_the_next_connection(|ws| {
        let ws = ws.clone();
        // Its queue exists before the first message arrives.
        assert!(matches!(ws.try_get(), Err(Error::Empty)));
        thread::spawn(move || while ws.get().is_ok_and(|message| ws.put(message).is_ok()) {});
    });
}

#[test]
fn a_callback_that_sends_back_does_not_delay_the_next_connection() {
    sending_back_does_not_delay_the_next_connection(|ws| {
        let back = ws.clone();
        ws.subscribe_callback(move |message| drop(back.put(message)));
    });
}

#[test]
fn a_pipe_that_is_removed_during_an_attempt_does_not_keep_the_client_alive() {
    let host = Host::new();
    let options = options(soon())
        .send_queue(64 << 10)
        .close_timeout(20 * MS)
        .connect_timeout(HOUR)
        .linger(20 * MS);
    let ws = options.connect(host.url()).unwrap();
    let pipe = ws.subscribe_to(ws.clone());
    let mut raw = host.accept();
    flood(&mut raw);
    drop(raw);
    let _never_answered = host.stream();
    assert!(ws.unsubscribe(pipe));
    let closed = ws.closed_signal().clone();
    drop(ws);
    let end = closed.recv_timeout(DEADLINE);
    assert_eq!(end, Err(RecvTimeoutError::Disconnected));
}
