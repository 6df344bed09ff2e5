//! The states of a connection, and who is told of them.

mod testkit;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_channel::unbounded;
use rtcbot_websocket::{
    Backoff, Error, Options, Server, Side, State, Subscription, Websocket, json,
};
use testkit::{
    DEADLINE, UPGRADE, end_reason, eventually, masked_frame, own_address, pair, read_head, within,
};

const MS: Duration = Duration::from_millis(1);

/// Tries again almost immediately.
fn soon() -> Backoff {
    Backoff::new().initial(MS).max(20 * MS)
}

/// A short name of a state, with the attempt.
fn name(state: &State) -> String {
    match state {
        State::Connecting { attempt, .. } => format!("connecting {attempt}"),
        State::Ready => "ready".to_owned(),
        State::Reconnecting { attempt, .. } => format!("reconnecting {attempt}"),
        State::Closing => "closing".to_owned(),
        State::Closed { .. } => "closed".to_owned(),
        other => panic!("{other:?}"),
    }
}

fn next(events: &Subscription<State>) -> String {
    name(&events.get_timeout(DEADLINE).unwrap())
}

fn server() -> Server {
    Server::bind((own_address(), 0)).unwrap()
}

#[test]
fn events_begin_with_the_present_state_and_end_with_the_end() {
    let (client, server) = pair();
    let events = client.events();
    assert_eq!(next(&events), "ready");
    server.close().unwrap();
    client.wait_closed_timeout(DEADLINE).unwrap();
    assert_eq!(next(&events), "closing");
    match events.get_timeout(DEADLINE).unwrap() {
        State::Closed { reason, .. } => assert!(reason.is_orderly()),
        other => panic!("{other:?}"),
    }
    assert!(matches!(events.get(), Err(Error::Closed(_))));
    // Who asks after the end is told the same.
    let late = client.events();
    assert_eq!(next(&late), "closed");
    assert!(matches!(late.get(), Err(Error::Closed(_))));
    let (told, states) = unbounded();
    client.on_event(move |state| told.send(name(&state)).unwrap());
    assert_eq!(states.recv_timeout(DEADLINE).unwrap(), "closed");
}

#[test]
fn every_attempt_that_fails_is_an_event_with_its_reason() {
    let listener = TcpListener::bind((own_address(), 0)).unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let ws = Options::new()
        .reconnect(soon())
        .connect(format!("ws://{address}/"))
        .unwrap();
    let events = ws.events();
    let mut failed = 1;
    let mut connecting = 1;
    while failed < 6 {
        match events.get_timeout(DEADLINE).unwrap() {
            State::Connecting { attempt, .. } => connecting = attempt,
            State::Reconnecting {
                attempt, reason, ..
            } => {
                assert!(matches!(reason, Error::Connect { .. }), "{reason}");
                // The first ones may have been before the subscription.
                assert!(failed == 1 || attempt == failed + 1);
                failed = attempt;
            }
            other => panic!("{other:?}"),
        }
        assert!(connecting <= failed);
    }
}

#[test]
fn a_lost_connection_and_the_next_one_are_events_in_their_order() {
    let mut server = server();
    let ws = Options::new()
        .reconnect(soon())
        .connect(testkit::url(&server))
        .unwrap();
    let events = ws.events();
    assert_eq!(next(&events), "connecting 1");
    for round in 0..20 {
        let robot = Websocket::accept(server.next_timeout(DEADLINE).unwrap());
        robot.wait_ready_timeout(DEADLINE).unwrap();
        assert_eq!(next(&events), "ready", "{round}");
        robot.abort();
        for expected in ["closing", "reconnecting 1", "connecting 1"] {
            assert_eq!(next(&events), expected, "{round}");
        }
    }
}

// A thread that closes reports `Closing` while the reader thread reports `Ready`.
#[test]
fn states_of_several_threads_arrive_in_their_order() {
    let mut server = server();
    for round in 0..2000 {
        let ws = Websocket::connect(testkit::url(&server)).unwrap();
        // Without it, the attempt would be given up.
        ws.put_nowait(round).unwrap();
        let events = ws.events();
        assert!(!events.is_empty(), "it has the present state");
        let (told, states) = unbounded();
        ws.on_event(move |state| told.send(name(&state)).unwrap());
        let closing = thread::spawn({
            let ws = ws.clone();
            move || ws.close()
        });
        let robot = Websocket::accept(server.next_timeout(DEADLINE).unwrap());
        within(DEADLINE, move || closing.join().unwrap()).unwrap();
        robot.wait_closed_timeout(DEADLINE).unwrap();
        let all: Vec<String> = within(DEADLINE, move || {
            events.iter().map(|it| name(&it)).collect()
        });
        // The connection is closing as soon as it is ready, or after that.
        let order = ["connecting 1", "ready", "closing", "closed"];
        let mut position = 0;
        for state in &all {
            let found = order[position..].iter().position(|it| it == state);
            position += found.unwrap_or_else(|| panic!("{round}: {all:?}")) + 1;
        }
        assert_eq!(all.last().unwrap(), "closed", "{round}");
        let called: Vec<String> = within(DEADLINE, move || states.iter().collect());
        assert_eq!(called.last().unwrap(), "closed", "{round}");
    }
}

#[test]
fn an_event_subscription_that_nobody_reads_keeps_the_newest_states_and_delays_nothing() {
    let mut server = server();
    let ws = Options::new()
        .reconnect(soon())
        .connect(testkit::url(&server))
        .unwrap();
    let unread = ws.events();
    for _ in 0..40 {
        let robot = Websocket::accept(server.next_timeout(DEADLINE).unwrap());
        robot.wait_ready_timeout(DEADLINE).unwrap();
        robot.abort();
    }
    // The last connection may be lost at this moment.
    let _ = ws.close();
    assert_eq!(unread.len(), 64);
    let all: Vec<State> = unread.iter().collect();
    assert_eq!(name(all.last().unwrap()), "closed");
}

#[test]
fn a_dropped_event_subscription_is_forgotten() {
    let (client, server) = pair();
    for _ in 0..10_000 {
        drop(client.events());
    }
    let events = client.events();
    server.close().unwrap();
    assert_eq!(next(&events), "ready");
    client.wait_closed_timeout(DEADLINE).unwrap();
}

#[test]
fn on_event_is_dropped_at_the_end_on_the_dispatch_thread() {
    struct Tells(crossbeam_channel::Sender<Option<String>>);
    impl Drop for Tells {
        fn drop(&mut self) {
            let name = thread::current().name().map(str::to_owned);
            self.0.send(name).unwrap();
        }
    }
    let (client, server) = pair();
    let (told, dropped) = unbounded();
    let tells = Tells(told);
    client.on_event(move |_| {
        let _ = &tells;
    });
    server.close().unwrap();
    let name = dropped.recv_timeout(DEADLINE).unwrap();
    assert_eq!(name.as_deref(), Some("ws-dispatch"));
}

// Which connections a client makes.

#[test]
fn reconnect_if_decides_by_the_reason() {
    // The status that a proxy gives as long as the robot behind it starts.
    let listener = TcpListener::bind((own_address(), 0)).unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let ws = Options::new()
        .reconnect(soon())
        .reconnect_if(move |reason| {
            count.fetch_add(1, Ordering::SeqCst);
            matches!(reason, Error::Refused { response } if response.status() == 404)
        })
        .connect(url)
        .unwrap();
    for status in ["404 Not Found", "404 Not Found", "503 Busy"] {
        let (mut stream, _) = listener.accept().unwrap();
        read_head(&mut stream);
        let response = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(response.as_bytes()).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    }
    // 503 is transient, but the program decides.
    match ws.wait_closed_timeout(DEADLINE).unwrap_err() {
        Error::Refused { response } => assert_eq!(response.status(), 503),
        other => panic!("{other}"),
    }
    assert_eq!(asked.load(Ordering::SeqCst), 3);
}

#[test]
fn reconnect_if_decides_after_a_close_frame_and_is_not_asked_after_this_programs() {
    for reconnects in [false, true] {
        let mut server = server();
        let ws = Options::new()
            .reconnect(soon())
            .reconnect_if(move |reason| {
                assert!(matches!(reason, Error::Closed(close) if close.by == Side::Peer));
                reconnects
            })
            .connect(testkit::url(&server))
            .unwrap();
        let first = Websocket::accept(server.next_timeout(DEADLINE).unwrap());
        ws.wait_ready_timeout(DEADLINE).unwrap();
        first.close().unwrap();
        if reconnects {
            let second = Websocket::accept(server.next_timeout(DEADLINE).unwrap());
            ws.put("for the next connection").unwrap();
            assert_eq!(
                second.get_timeout(DEADLINE).unwrap(),
                "for the next connection"
            );
        } else {
            ws.wait_closed_timeout(DEADLINE).unwrap();
        }
    }
    // The peer's answer is no reason to ask.
    let mut server = server();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let ws = Options::new()
        .reconnect(soon())
        .reconnect_if(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            true
        })
        .connect(testkit::url(&server))
        .unwrap();
    let _robot = Websocket::accept(server.next_timeout(DEADLINE).unwrap());
    ws.wait_ready_timeout(DEADLINE).unwrap();
    ws.close().unwrap();
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}

#[test]
fn a_close_that_meets_a_failed_attempt_is_orderly_also_if_the_program_decides() {
    let listener = TcpListener::bind((own_address(), 0)).unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    drop(listener);
    for n in 0..1000 {
        let ws = Options::new()
            .reconnect(soon())
            .reconnect_if(|_| true)
            .connect(&url)
            .unwrap();
        let begun = std::time::Instant::now();
        while begun.elapsed() < n % 10 * MS / 10 {
            thread::yield_now();
        }
        ws.close().unwrap();
    }
}

#[test]
fn reconnect_now_and_close_end_in_order() {
    let server = server();
    let (url, handle) = (testkit::url(&server), server.handle());
    let serving = thread::spawn(|| {
        server.serve(|request| drop(Websocket::accept(request).wait_closed()));
    });
    for _ in 0..300 {
        let ws = Options::new().reconnect(soon()).connect(&url).unwrap();
        ws.wait_ready_timeout(DEADLINE).unwrap();
        ws.reconnect_now().unwrap();
        ws.close().unwrap();
    }
    handle.shutdown(DEADLINE).unwrap();
    within(DEADLINE, move || serving.join().unwrap());
}

#[test]
fn reconnect_now_does_not_wait_for_a_full_subscription() {
    let mut server = server();
    let address = server.local_addr().unwrap();
    let hour = Duration::from_secs(3600);
    let ws = Options::new()
        .reconnect(Backoff::new().initial(hour).max(hour))
        .receive_queue(rtcbot_websocket::Queue::Block(1))
        .connect(testkit::url(&server))
        .unwrap();
    let full = ws.subscribe();
    let robot = Websocket::accept(server.next_timeout(DEADLINE).unwrap());
    for n in 0..100 {
        robot.put(n).unwrap();
    }
    eventually("messages wait", || ws.stats().messages_in > 1);
    let events = ws.events();
    drop(server);
    // The messages are kept, and the next attempt fails.
    ws.reconnect_now().unwrap();
    let failed = |state| matches!(state, State::Reconnecting { attempt: 2.., .. });
    while !failed(events.get_timeout(DEADLINE).unwrap()) {}
    let mut server = Server::bind(address).unwrap();
    ws.reconnect_now().unwrap();
    let robot = Websocket::accept(server.next_timeout(DEADLINE).unwrap());
    robot.wait_ready_timeout(DEADLINE).unwrap();
    assert_eq!(full.get_timeout(DEADLINE).unwrap(), json!(0));
}

#[test]
fn the_end_is_an_event_after_all_messages() {
    // The only attempt after the first connection fails, while messages are kept for a callback.
    let mut server = server();
    let ws = Options::new()
        .reconnect(soon())
        .reconnect_if(|reason| !matches!(reason, Error::Refused { .. }))
        .connect(testkit::url(&server))
        .unwrap();
    let (told, log) = unbounded();
    let (open, gate) = crossbeam_channel::bounded::<()>(0);
    let tell = told.clone();
    ws.subscribe_callback(move |_| {
        let _ = gate.recv();
        let _ = tell.send("message".to_owned());
    });
    let robot = Websocket::accept(server.next_timeout(DEADLINE).unwrap());
    for n in 0..3000 {
        robot.put(n).unwrap();
    }
    eventually("messages wait", || ws.stats().receive_queue >= 1024);
    ws.on_event(move |state| told.send(name(&state)).unwrap());
    ws.reconnect_now().unwrap();
    let request = server.next_timeout(DEADLINE).unwrap();
    request.respond(404, "gone").unwrap();
    eventually("it has ended", || ws.is_closed());
    drop(open);
    let log: Vec<String> = within(DEADLINE, move || log.iter().collect());
    assert_eq!(log.last().unwrap(), "closed");
}

#[test]
fn a_reconnect_if_that_panics_leaves_the_default() {
    let mut server = server();
    let ws = Options::new()
        .reconnect(soon())
        .reconnect_if(|_| panic!("on purpose"))
        .connect(testkit::url(&server))
        .unwrap();
    let robot = Websocket::accept(server.next_timeout(DEADLINE).unwrap());
    robot.wait_ready_timeout(DEADLINE).unwrap();
    robot.abort();
    let robot = Websocket::accept(server.next_timeout(DEADLINE).unwrap());
    robot.wait_ready_timeout(DEADLINE).unwrap();
    robot.close().unwrap();
    ws.wait_closed_timeout(DEADLINE).unwrap();
}

#[test]
fn until_closed_reconnects_after_every_end_but_this_programs() {
    let mut server = server();
    let ws = Options::new()
        .reconnect(soon().until_closed())
        .connect(testkit::url(&server))
        .unwrap();
    for code in [1000, 1001, 1008, 4000] {
        let robot = Websocket::accept(server.next_timeout(DEADLINE).unwrap());
        robot.wait_ready_timeout(DEADLINE).unwrap();
        robot.close_with(code, "").unwrap();
    }
    let refused = server.next_timeout(DEADLINE).unwrap();
    refused.respond(401, "no").unwrap();
    let robot = Websocket::accept(server.next_timeout(DEADLINE).unwrap());
    ws.put("still here").unwrap();
    assert_eq!(robot.get_timeout(DEADLINE).unwrap(), "still here");
    ws.close().unwrap();
    assert!(matches!(end_reason(&ws), Some(Error::Closed(close)) if close.by == Side::Local));
}

#[test]
fn reconnect_now_replaces_the_connection_and_keeps_what_is_queued() {
    let mut server = server();
    let ws = Options::new()
        .reconnect(
            Backoff::new()
                .initial(Duration::from_secs(3600))
                .max(Duration::from_secs(3600)),
        )
        .connect(testkit::url(&server))
        .unwrap();
    for n in 0..200 {
        let robot = Websocket::accept(server.next_timeout(DEADLINE).unwrap());
        robot.wait_ready_timeout(DEADLINE).unwrap();
        ws.wait_ready_timeout(DEADLINE).unwrap();
        ws.put(n).unwrap();
        assert_eq!(
            robot.get_timeout(DEADLINE).unwrap(),
            rtcbot_websocket::json!(n)
        );
        match n % 2 {
            // The connection is open.
            0 => ws.reconnect_now().unwrap(),
            // It is lost, and the next attempt is an hour away.
            _ => {
                let events = ws.events();
                robot.abort();
                while !matches!(events.get_timeout(DEADLINE), Ok(State::Reconnecting { .. })) {}
                ws.reconnect_now().unwrap();
            }
        }
    }
    ws.close().unwrap();
    assert!(matches!(ws.reconnect_now(), Err(Error::Closed(_))));
    let (once, _peer) = pair();
    assert!(matches!(
        once.reconnect_now(),
        Err(Error::InvalidOption { .. })
    ));
}

#[test]
fn a_greeting_is_sent_first_on_every_connection_and_not_again_on_the_next() {
    let mut server = server();
    let count = AtomicUsize::new(0);
    let ws = Options::new()
        .reconnect(soon())
        .greeting(move || {
            let n = count.fetch_add(1, Ordering::SeqCst);
            [format!("login {n}"), format!("topics {n}")]
        })
        .connect(testkit::url(&server))
        .unwrap();
    ws.put("queued before the first connection").unwrap();
    let mut first = true;
    for n in 0..50 {
        let robot = Websocket::accept(server.next_timeout(DEADLINE).unwrap());
        assert_eq!(robot.get_timeout(DEADLINE).unwrap(), &*format!("login {n}"));
        assert_eq!(
            robot.get_timeout(DEADLINE).unwrap(),
            &*format!("topics {n}")
        );
        if std::mem::take(&mut first) {
            let queued = "queued before the first connection";
            assert_eq!(robot.get_timeout(DEADLINE).unwrap(), queued);
        }
        robot.abort();
    }
    drop(ws);
}

#[test]
fn a_greeting_of_a_connection_that_breaks_is_neither_counted_nor_sent_later() {
    // The peer reads nothing, so that the greeting is not written.
    let listener = TcpListener::bind((own_address(), 0)).unwrap();
    let ws = Options::new()
        .reconnect(soon())
        .greeting(|| [vec![7u8; 32 << 20]])
        .connect(format!("ws://{}/", listener.local_addr().unwrap()))
        .unwrap();
    let accept = || {
        let (stream, _) = listener.accept().unwrap();
        tungstenite::accept(stream).unwrap()
    };
    drop(accept());
    let mut raw = accept();
    raw.set_config(|config| {
        config.max_message_size = None;
        config.max_frame_size = None;
    });
    assert_eq!(raw.read().unwrap().len(), 32 << 20);
    ws.put("next").unwrap();
    assert_eq!(raw.read().unwrap().to_text().unwrap(), "\"next\"");
    ws.abort();
    assert!(matches!(end_reason_soon(&ws), Error::Aborted { unsent: 0 }));
}

fn end_reason_soon(ws: &Websocket) -> Error {
    let _ = ws.wait_closed_timeout(DEADLINE);
    end_reason(ws).expect("it has ended")
}

#[test]
fn a_greeting_that_panics_fails_the_connection() {
    let mut server = server();
    let ws = Options::new()
        .greeting(|| -> [&str; 1] { panic!("on purpose") })
        .connect(testkit::url(&server))
        .unwrap();
    let _robot = Websocket::accept(server.next_timeout(DEADLINE).unwrap());
    let error = ws.wait_closed_timeout(DEADLINE).unwrap_err();
    assert!(
        matches!(&error, Error::Internal(text) if text.contains("on purpose")),
        "{error}"
    );
}

#[test]
fn a_feed_that_answers_pings_and_sends_nothing_is_left() {
    let mut server = server();
    let ws = Options::new()
        .reconnect(soon())
        .ping_interval(5 * MS)
        .ping_timeout(DEADLINE)
        .receive_timeout(200 * MS)
        .connect(testkit::url(&server))
        .unwrap();
    let events = ws.events();
    let messages = ws.subscribe();
    let first = Websocket::accept(server.next_timeout(DEADLINE).unwrap());
    first.put("alive").unwrap();
    assert_eq!(messages.get_timeout(DEADLINE).unwrap(), "alive");
    let reason = loop {
        if let State::Reconnecting { reason, .. } = events.get_timeout(DEADLINE).unwrap() {
            break reason;
        }
    };
    assert!(matches!(reason, Error::ReceiveTimeout { .. }), "{reason}");
    let second = Websocket::accept(server.next_timeout(DEADLINE).unwrap());
    second.put("alive again").unwrap();
    assert_eq!(messages.get_timeout(DEADLINE).unwrap(), "alive again");
}

#[test]
fn the_time_in_which_reading_pauses_does_not_count_as_silence() {
    let mut server = server();
    let mut stream = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    // The message arrives with the request, so that it is not late.
    let bytes = [UPGRADE.as_bytes(), &masked_frame(0x81, b"1")].concat();
    stream.write_all(&bytes).unwrap();
    let ws = Options::new()
        .receive_timeout(50 * MS)
        .paused(true)
        .accept(server.next_timeout(DEADLINE).unwrap());
    ws.wait_ready_timeout(DEADLINE).unwrap();
    let over = ws.wait_closed_timeout(300 * MS);
    assert!(matches!(over, Err(Error::Timeout)), "{over:?}");
    let messages = ws.subscribe();
    ws.resume();
    assert_eq!(messages.get_timeout(DEADLINE).unwrap(), json!(1));
    let error = ws.wait_closed_timeout(DEADLINE).unwrap_err();
    assert!(matches!(error, Error::ReceiveTimeout { .. }), "{error}");
}
