//! A client that loses its connection makes another, and loses no more than it says.

mod rig;

use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, unbounded};
use rig::{DEADLINE, eventually, own_address, read_head, within};
use rtcbot_websocket::{
    Backoff, Error, Message, Options, PutError, Queue, Server, Side, Websocket, json,
};
use tungstenite::protocol::CloseFrame;

const MS: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);

type Raw = tungstenite::WebSocket<TcpStream>;

/// Tries again almost at once.
fn soon() -> Backoff {
    Backoff {
        initial: MS,
        max: 20 * MS,
        ..Backoff::default()
    }
}

/// Tries again when the test is long over.
fn never() -> Backoff {
    Backoff {
        initial: HOUR,
        max: HOUR,
        jitter: 0.0,
        ..Backoff::default()
    }
}

fn options(backoff: Backoff) -> Options {
    Options::new()
        .json(false)
        .reconnect(backoff)
        .close_timeout(DEADLINE)
        .clone()
}

/// A server that does what the test says, connection by connection.
struct Host(TcpListener);

impl Host {
    fn new() -> Self {
        Host(TcpListener::bind((own_address(), 0)).unwrap())
    }

    fn url(&self) -> String {
        format!("ws://{}/", self.0.local_addr().unwrap())
    }

    fn stream(&self) -> TcpStream {
        self.0.set_nonblocking(true).unwrap();
        let mut accepted = None;
        eventually("another connection", || {
            accepted = self.0.accept().ok();
            accepted.is_some()
        });
        let (stream, _) = accepted.unwrap();
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    fn accept(&self) -> Raw {
        tungstenite::accept(self.stream()).unwrap()
    }

    /// Answers the next request so, and ends the connection.
    fn answer(&self, response: &str) {
        use std::io::Write;
        let mut stream = self.stream();
        read_head(&mut stream);
        stream.write_all(response.as_bytes()).unwrap();
    }
}

fn text(raw: &mut Raw) -> String {
    loop {
        if let tungstenite::Message::Text(text) = raw.read().unwrap() {
            return text.to_string();
        }
    }
}

fn close(raw: &mut Raw, code: u16) {
    let reason = "".into();
    let code = code.into();
    raw.close(Some(CloseFrame { code, reason })).unwrap();
    // Until the client has answered, and ended.
    while raw.read().is_ok() {}
}

fn events(ws: &Websocket) -> Receiver<String> {
    let (tell, events) = unbounded();
    let told = tell.clone();
    ws.on_ready(move || told.send("ready".to_owned()).unwrap());
    let told = tell.clone();
    ws.on_disconnect(move |_| told.send("lost".to_owned()).unwrap());
    let told = tell.clone();
    ws.on_error(move |_| told.send("failed".to_owned()).unwrap());
    ws.on_close(move || tell.send("closed".to_owned()).unwrap());
    events
}

/// How the next attempts end a client whose server does this.
fn ending(serve: impl FnOnce(Host) + Send + 'static) -> Error {
    let host = Host::new();
    let ws = options(soon()).connect(host.url()).unwrap();
    let serving = thread::spawn(move || serve(host));
    let error = ws.wait_error_timeout(DEADLINE).unwrap();
    serving.join().unwrap();
    error.unwrap_or_else(|| ws.end_reason().unwrap())
}

#[test]
fn a_server_that_is_not_there_yet_is_waited_for() {
    let address = Host::new().0.local_addr().unwrap();
    let ws = options(soon()).connect(format!("ws://{address}/")).unwrap();
    eventually("a failed attempt", || ws.last_error().is_some());
    assert!(matches!(ws.last_error(), Some(Error::Connect { .. })));
    assert!(!ws.is_ready() && !ws.is_closed() && ws.error().is_none());
    ws.put_nowait("early").unwrap();
    let host = Host(TcpListener::bind(address).unwrap());
    assert_eq!(text(&mut host.accept()), "early");
}

#[test]
fn what_is_put_while_there_is_no_connection_is_sent_on_the_next_in_order() {
    let host = Host::new();
    let ws = options(soon()).connect(host.url()).unwrap();
    drop(host.accept());
    // The next attempt waits for the host.
    eventually("the loss", || ws.last_error().is_some());
    for n in 0..1000 {
        ws.put_nowait(n.to_string()).unwrap();
    }
    let mut raw = host.accept();
    for n in 0..1000 {
        assert_eq!(text(&mut raw), n.to_string());
    }
    assert_eq!(ws.stats().unconfirmed, 0);
}

#[test]
fn subscriptions_callbacks_sinks_and_the_source_survive() {
    let host = Host::new();
    let ws = options(soon()).connect(host.url()).unwrap();
    let subscription = ws.subscribe();
    let (tell, called) = unbounded();
    ws.subscribe_callback(move |message| tell.send(message).unwrap());
    let (sink, sunk) = unbounded();
    ws.subscribe_to(sink);
    let (give, source) = unbounded::<Message>();
    ws.put_subscription(&source);
    assert!(matches!(ws.try_get(), Err(Error::Empty)));
    for n in 0..10 {
        let mut raw = host.accept();
        raw.send(n.to_string().into()).unwrap();
        for got in [
            subscription.get_timeout(DEADLINE).unwrap(),
            ws.get_timeout(DEADLINE).unwrap(),
            called.recv_timeout(DEADLINE).unwrap(),
            sunk.recv_timeout(DEADLINE).unwrap(),
        ] {
            assert_eq!(got, *n.to_string());
        }
        assert!(ws.subscription().is_some_and(|active| active == source));
        give.send(n.to_string().into()).unwrap();
        assert_eq!(text(&mut raw), n.to_string());
    }
}

#[test]
fn each_connection_is_told_and_why_it_was_lost() {
    let host = Host::new();
    let ws = options(soon()).connect(host.url()).unwrap();
    let (tell, reasons) = unbounded();
    ws.on_disconnect(move |reason| tell.send(reason).unwrap());
    let events = events(&ws);
    for _ in 0..3 {
        let raw = host.accept();
        assert_eq!(events.recv_timeout(DEADLINE).unwrap(), "ready");
        drop(raw);
        assert_eq!(events.recv_timeout(DEADLINE).unwrap(), "lost");
        let reason = reasons.recv_timeout(DEADLINE).unwrap();
        assert!(matches!(reason, Error::Lost(_)), "{reason}");
    }
    close(&mut host.accept(), 4000);
    let rest: Vec<String> = within(DEADLINE, move || events.iter().collect());
    assert_eq!(rest, ["ready", "closed"]);
    assert!(ws.error().is_none());
}

#[test]
fn who_waits_for_ready_waits_for_the_next_connection() {
    let host = Host::new();
    let ws = options(soon()).connect(host.url()).unwrap();
    let raw = host.accept();
    ws.wait_ready_timeout(DEADLINE).unwrap();
    drop(raw);
    eventually("the loss", || !ws.is_ready());
    let waiting = {
        let ws = ws.clone();
        thread::spawn(move || ws.wait_ready_timeout(DEADLINE))
    };
    let _raw = host.accept();
    waiting.join().unwrap().unwrap();
    assert!(ws.last_error().is_some());
}

#[test]
fn what_cannot_heal_ends_it() {
    for status in [401, 403, 404] {
        let error = ending(move |host| {
            drop(host.accept());
            host.answer("HTTP/1.1 503 Come Back\r\nContent-Length: 0\r\n\r\n");
            host.answer(&format!(
                "HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n"
            ));
        });
        match error {
            Error::Refused { response } => assert_eq!(response.status(), status),
            other => panic!("{other}"),
        }
    }
    let error = ending(|host| host.answer("SSH-2.0-OpenSSH\r\n\r\n"));
    assert!(matches!(error, Error::Handshake(_)), "{error}");
    let error = ending(|host| {
        use std::io::Write;
        // A frame with a reserved bit.
        host.accept().get_mut().write_all(&[0xf1, 0]).unwrap();
    });
    assert!(matches!(error, Error::Protocol { .. }), "{error}");
    for code in [1000, 1008, 4001] {
        let error = ending(move |host| close(&mut host.accept(), code));
        match error {
            Error::Closed(close) => {
                assert_eq!((close.by, close.frame.unwrap().code), (Side::Peer, code));
            }
            other => panic!("{other}"),
        }
    }
}

#[test]
fn what_may_heal_is_tried_again() {
    let host = Host::new();
    let ws = options(soon()).connect(host.url()).unwrap();
    for code in [1001, 1011, 1012, 1013] {
        close(&mut host.accept(), code);
        eventually("the reason", || {
            let last = ws.last_error();
            matches!(last, Some(Error::Closed(close)) if close.frame.as_ref().unwrap().code == code)
        });
    }
    for status in [429, 500, 502, 503] {
        host.answer(&format!(
            "HTTP/1.1 {status} Hm\r\nContent-Length: 0\r\n\r\n"
        ));
    }
    // A server that ends without an answer, before and within it.
    read_head(&mut host.stream());
    host.answer("HTTP/1.1 101 Swi");
    let _raw = host.accept();
    ws.wait_ready_timeout(DEADLINE).unwrap();
}

#[test]
#[cfg(feature = "native-tls")]
fn a_certificate_that_is_not_trusted_ends_it_and_a_tls_handshake_that_is_cut_off_does_not() {
    let pki = rig::tls::pki();
    let mut server = pki.server();
    let url = server.url().to_owned();
    let serving = thread::spawn(move || {
        // Nobody gets as far as a request.
        while server.next_timeout(10 * MS).is_none() {}
    });
    let stranger = options(soon()).connect(&url).unwrap();
    let error = stranger.wait_error_timeout(DEADLINE).unwrap().unwrap();
    assert!(matches!(error, Error::Tls { .. }), "{error}");
    let mut known = options(soon());
    known.root_certificate_pem(pki.ca.pem());
    let ws = known.connect(&url).unwrap();
    serving.join().unwrap();
    // Now there is nothing but a cut.
    let host = Host::new();
    let cut_off = known
        .connect(format!("wss://{}/", host.0.local_addr().unwrap()))
        .unwrap();
    for reset in [false, true] {
        use std::io::Read;
        let mut stream = host.stream();
        if !reset {
            // What was read does not make the end a reset.
            let _ = stream.read(&mut [0; 4096]).unwrap();
        }
        drop(stream);
    }
    drop(host.stream());
    let error = cut_off.last_error().unwrap();
    assert!(matches!(error, Error::Lost(_)), "{error}");
    assert!(!cut_off.is_closed());
    ws.close().unwrap();
}

#[test]
fn dropping_the_last_handle_between_two_attempts_ends_it_at_once() {
    let host = Host::new();
    let ws = options(never()).connect(host.url()).unwrap();
    drop(host.accept());
    eventually("the loss", || ws.last_error().is_some());
    let (subscription, closed) = (ws.subscribe(), ws.closed_signal().clone());
    drop(ws);
    within(DEADLINE, move || closed.recv().unwrap_err());
    assert!(matches!(subscription.get(), Err(Error::Closed(_))));
}

#[test]
fn closing_with_nothing_to_send_is_no_failure_at_any_moment_of_an_attempt() {
    // Nobody listens there.
    let url = format!("ws://{}:1/", own_address());
    let again_and_again = Backoff {
        initial: Duration::from_micros(1),
        max: Duration::from_micros(1),
        ..Backoff::default()
    };
    let options = options(again_and_again);
    for n in 0..5000 {
        let ws = options.connect(&url).unwrap();
        let moment = Instant::now() + Duration::from_micros(n % 500);
        while Instant::now() < moment {
            thread::yield_now();
        }
        ws.close().unwrap();
    }
}

#[test]
fn what_cannot_be_sent_any_more_is_told_by_close() {
    let host = Host::new();
    let ws = options(never()).connect(host.url()).unwrap();
    drop(host.accept());
    eventually("the loss", || ws.last_error().is_some());
    for n in 0..3 {
        ws.put_nowait(n.to_string()).unwrap();
    }
    let closing = ws.clone();
    let error = within(DEADLINE, move || closing.close().unwrap_err());
    assert!(matches!(error, Error::Lost(_)), "{error}");
    assert_eq!(ws.stats().unsent, 3);
    assert!(ws.put_nowait("late").unwrap_err().is_closed());
}

#[test]
fn closing_at_any_moment_of_a_connection_that_is_cut_again_and_again_ends_it() {
    let host = Host::new();
    let url = host.url();
    let accepting = thread::spawn(move || {
        let mut n = 0usize;
        loop {
            let stream = host.stream();
            n += 1;
            // Cut off before, in, or right after the handshake, or by an orderly close.
            match n % 4 {
                0 => drop(stream),
                1 => {
                    stream.set_read_timeout(Some(MS)).unwrap();
                    let _ = std::io::Read::read(&mut &stream, &mut [0; 10]);
                }
                2 => drop(tungstenite::accept(stream)),
                _ => {
                    let Ok(mut raw) = tungstenite::accept(stream) else {
                        continue;
                    };
                    if matches!(raw.read(), Ok(message) if message.is_text()) {
                        return;
                    }
                }
            }
        }
    });
    let backoff = Backoff {
        initial: MS / 10,
        max: MS,
        ..Backoff::default()
    };
    for n in 0..2000u32 {
        let ws = options(backoff).connect(&url).unwrap();
        let (tell, told) = unbounded();
        ws.on_close(move || tell.send(()).unwrap());
        let until = Instant::now() + n % 50 * (MS / 10);
        while Instant::now() < until {
            thread::yield_now();
        }
        let closing = ws.clone();
        let _ = within(DEADLINE, move || closing.close());
        assert!(ws.is_closed());
        told.recv_timeout(DEADLINE).unwrap();
        assert!(!ws.is_ready() && ws.get().is_err());
    }
    // Of the messages of such a client one arrives where that is asked for.
    let last = options(backoff).connect(&url).unwrap();
    while !accepting.is_finished() {
        let _ = last.put_timeout("the end", MS);
    }
    accepting.join().unwrap();
}

#[test]
fn what_is_missing_after_many_cuts_is_counted_and_nothing_comes_twice() {
    const COUNT: u32 = 20_000;
    let host = Host::new();
    let ws = options(soon()).connect(host.url()).unwrap();
    let putting = {
        let ws = ws.clone();
        // The last ones may be lost like any other, so there is no last one: it ends with the connection.
        thread::spawn(move || {
            for n in 0.. {
                let put = ws.put(format!("{n} {}", "x".repeat(n % 300)));
                if put.is_err() {
                    return;
                }
                if n % 100 == 0 {
                    thread::yield_now();
                }
            }
        })
    };
    let mut got = Vec::new();
    let mut connections = 0;
    while connections <= 5 || got.last().is_none_or(|last| *last < COUNT) {
        let mut raw = host.accept();
        connections += 1;
        // Each lasts for a while; then it is cut off with whatever is on its way.
        for _ in 0..connections * 37 % 500 {
            let n: u32 = text(&mut raw).split(' ').next().unwrap().parse().unwrap();
            got.push(n);
        }
    }
    assert!(got.is_sorted_by(|a, b| a < b), "out of order, or twice");
    let missing = u64::from(got.last().unwrap() + 1) - got.len() as u64;
    let unconfirmed = ws.stats().unconfirmed;
    assert!(
        missing <= unconfirmed,
        "{missing} missing, {unconfirmed} told"
    );
    let _ = ws.close();
    putting.join().unwrap();
}

#[test]
fn a_server_that_goes_away_leaves_the_queue_to_the_next() {
    let host = Host::new();
    let ws = options(soon()).connect(host.url()).unwrap();
    let mut raw = host.accept();
    ws.wait_ready_timeout(DEADLINE).unwrap();
    // More than the sockets take: the writer is in the midst of it.
    let big = "x".repeat(1 << 20);
    for _ in 0..12 {
        ws.put_nowait(big.clone()).unwrap();
    }
    ws.put_nowait("last").unwrap();
    raw.close(Some(CloseFrame {
        code: 1012.into(),
        reason: "".into(),
    }))
    .unwrap();
    raw.flush().unwrap();
    let mut got = 0;
    while let Ok(message) = raw.read() {
        got += usize::from(message.is_text());
    }
    drop(raw);
    let mut raw = host.accept();
    loop {
        match text(&mut raw) {
            end if end == "last" => break,
            other => {
                assert_eq!(other.len(), big.len());
                got += 1;
            }
        }
    }
    assert!(got as u64 + ws.stats().unconfirmed >= 12, "{got}");
    assert!(got <= 12);
}

#[test]
fn a_server_that_closes_for_good_is_not_come_back_to_whatever_was_queued() {
    for code in [1000, 1008, 4001] {
        let host = Host::new();
        let ws = options(soon()).connect(host.url()).unwrap();
        let mut raw = host.accept();
        ws.wait_ready_timeout(DEADLINE).unwrap();
        for _ in 0..12 {
            ws.put_nowait(vec![0; 1 << 20]).unwrap();
        }
        let (reason, code) = ("".into(), code.into());
        raw.close(Some(CloseFrame { code, reason })).unwrap();
        raw.flush().unwrap();
        eventually("the Close frame", || ws.received_close().is_some());
        // It takes nothing of what is queued.
        drop(raw);
        ws.wait_closed_timeout(DEADLINE).unwrap_err();
        let stats = ws.stats();
        assert_eq!(
            (stats.reconnects, stats.unsent + stats.unconfirmed),
            (0, 12)
        );
    }
}

#[test]
fn a_value_of_the_programs_that_is_dropped_may_use_the_websocket() {
    struct Nosy(rtcbot_websocket::WeakWebsocket);
    impl Drop for Nosy {
        fn drop(&mut self) {
            let _ = self.0.upgrade().map(|ws| ws.is_ready());
        }
    }
    impl std::fmt::Debug for Nosy {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("Nosy")
        }
    }
    impl std::fmt::Display for Nosy {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("no token")
        }
    }
    impl std::error::Error for Nosy {}

    let (give, take) = crossbeam_channel::bounded(1);
    let attempts = Arc::new(AtomicUsize::new(0));
    let mut options = options(soon());
    let counted = attempts.clone();
    options.header_with("X-Token", move || {
        counted.fetch_add(1, Ordering::SeqCst);
        let own: rtcbot_websocket::WeakWebsocket = take.recv_timeout(DEADLINE)?;
        Err(Nosy(own).into())
    });
    let ws = options.connect("ws://127.0.0.1:1/").unwrap();
    for n in 1..10 {
        give.send_timeout(ws.downgrade(), DEADLINE).unwrap();
        eventually("an attempt", || attempts.load(Ordering::SeqCst) >= n);
    }
    let asked = ws.clone();
    assert!(!within(DEADLINE, move || asked.is_ready()));
    drop(give);
}

#[test]
fn a_slow_consumer_gets_all_of_a_connection_that_is_lost_while_there_is_no_other() {
    let host = Host::new();
    let (ws, slow) = behind(&host, options(never()).close_timeout(20 * MS));
    // Nothing can be written either, which is found out by writing. Nor may that, in all the time that
    // closing may take, cost the consumer anything.
    for _ in 0..20 {
        ws.put("into the void").unwrap();
        let nothing = crossbeam_channel::never::<()>();
        let _ = nothing.recv_timeout(5 * MS);
    }
    for n in 0..10 {
        let got = slow.get_timeout(DEADLINE).unwrap();
        assert_eq!(got, *n.to_string());
    }
    assert_eq!(ws.stats().dropped, 0);
}

#[test]
fn a_peer_that_falls_silent_is_left_for_another() {
    let host = Host::new();
    let mut impatient = options(soon());
    impatient.ping_interval(20 * MS).ping_timeout(20 * MS);
    let ws = impatient.connect(host.url()).unwrap();
    let silent = host.accept();
    eventually("that it is given up", || {
        matches!(ws.last_error(), Some(Error::PingTimeout { .. }))
    });
    ws.put("there").unwrap();
    let mut raw = host.accept();
    assert_eq!(text(&mut raw), "there");
    drop(silent);
}

#[test]
fn headers_are_renewed_for_each_attempt() {
    let mut server = Server::bind((own_address(), 0)).unwrap();
    let count = AtomicUsize::new(0);
    let mut options = options(soon());
    options.header_with("X-Token", move || {
        match count.fetch_add(1, Ordering::SeqCst) {
            1 => Err("no token today".into()),
            n => Ok(format!("token {n}")),
        }
    });
    let ws = options.connect(server.url()).unwrap();
    for token in ["token 0", "token 2", "token 3"] {
        let request = server.next_timeout(DEADLINE).unwrap();
        assert_eq!(request.headers()["x-token"], token);
        if token == "token 2" {
            let last = ws.last_error().unwrap().to_string();
            assert!(last.contains("no token today"), "{last}");
        }
        request.respond(503, "come back").unwrap();
    }
}

#[test]
fn a_function_that_panics_or_says_nonsense_costs_an_attempt() {
    let mut server = Server::bind((own_address(), 0)).unwrap();
    let count = AtomicUsize::new(0);
    let mut options = options(soon());
    options
        .header("X-Token", "never seen")
        .header_with("x-token", move || {
            match count.fetch_add(1, Ordering::SeqCst) {
                0 => panic!("on purpose"),
                1 => Ok("two\r\nlines".into()),
                _ => Ok("fine".into()),
            }
        });
    let ws = options.connect(server.url()).unwrap();
    let request = server.next_timeout(DEADLINE).unwrap();
    let mut tokens = request.headers().get_all("x-token").iter();
    assert_eq!(tokens.next().unwrap(), "fine");
    assert!(tokens.next().is_none());
    assert!(matches!(ws.last_error(), Some(Error::Header { .. })));
}

#[test]
fn what_a_function_panics_with_may_panic_when_it_is_dropped() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("when dropped, on purpose");
        }
    }
    let mut server = Server::bind((own_address(), 0)).unwrap();
    let count = AtomicUsize::new(0);
    let mut options = options(soon());
    options.header_with("X-Token", move || {
        if count.fetch_add(1, Ordering::SeqCst) == 0 {
            std::panic::panic_any(Bomb);
        }
        Ok("fine".into())
    });
    let ws = options.connect(server.url()).unwrap();
    let request = server.next_timeout(DEADLINE).unwrap();
    assert_eq!(request.headers()["x-token"], "fine");
    assert!(matches!(ws.last_error(), Some(Error::Header { .. })));
}

#[test]
fn a_function_that_owns_its_websocket_is_let_go_of_at_the_end() {
    let mut server = Server::bind((own_address(), 0)).unwrap();
    let (give, take) = crossbeam_channel::bounded::<Websocket>(1);
    let alive = Arc::new(());
    let (held, own) = (alive.clone(), std::sync::OnceLock::new());
    let mut options = Options::new();
    options.header_with("X-Token", move || {
        let ws = own.get_or_init(|| take.recv().unwrap());
        Ok(format!("{} {}", ws.name().len(), Arc::strong_count(&held)))
    });
    let ws = options.connect(server.url()).unwrap();
    drop(options);
    give.send(ws.clone()).unwrap();
    let _peer = Websocket::accept(server.next_timeout(DEADLINE).unwrap());
    let weak = ws.downgrade();
    ws.close().unwrap();
    drop(ws);
    eventually("the function is dropped", || Arc::strong_count(&alive) == 1);
    assert!(weak.upgrade().is_none());
}

#[test]
fn waits_grow_however_long_a_server_takes_to_hang_up() {
    let host = Host::new();
    let growing = Backoff {
        initial: 240 * MS,
        max: DEADLINE,
        factor: 4.0,
        jitter: 0.0,
    };
    let _ws = options(growing).connect(host.url()).unwrap();
    let refuse = || {
        let mut raw = host.accept();
        let (reason, code) = ("".into(), 1013.into());
        let refused = Instant::now();
        raw.close(Some(CloseFrame { code, reason })).unwrap();
        (raw, refused)
    };
    // They stay open, so that the client waits a second for each to end.
    let _first = refuse();
    let (_second, refused) = refuse();
    let _third = host.accept();
    // That second, and 960 milliseconds.
    assert!(refused.elapsed() >= 1900 * MS, "{:?}", refused.elapsed());
}

#[test]
fn without_reconnect_a_failing_function_is_the_end() {
    let ws = Options::new()
        .header_with("Authorization", || Err("no token".into()))
        .connect("ws://127.0.0.1:1/")
        .unwrap();
    let error = ws.wait_error_timeout(DEADLINE).unwrap().unwrap();
    assert!(matches!(error, Error::Header { .. }), "{error}");
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let setting = |error: Error| match error {
        Error::InvalidOption { setting, .. } => setting,
        other => panic!("{other}"),
    };
    let hot = Backoff {
        initial: Duration::ZERO,
        ..Backoff::default()
    };
    let refused = options(hot).connect("ws://localhost/").unwrap_err();
    assert_eq!(setting(refused), "reconnect");
    let host = Host::new();
    let stream = TcpStream::connect(host.0.local_addr().unwrap()).unwrap();
    let refused = options(soon())
        .connect_over(stream, host.url())
        .unwrap_err();
    assert_eq!(setting(refused), "reconnect");
    for name in ["no name", "sec-websocket-key"] {
        let mut options = Options::new();
        options.header_with(name, || Ok(String::new()));
        let refused = options.connect("ws://localhost/").unwrap_err();
        assert_eq!(setting(refused), "header");
    }
    let mut twice = Options::new();
    twice.header_with("authorization", || Ok(String::new()));
    let refused = twice.connect("ws://me:secret@localhost/").unwrap_err();
    assert_eq!(setting(refused), "basic_auth");
    let refused = twice.basic_auth("me", "secret").connect("ws://localhost/");
    assert_eq!(setting(refused.unwrap_err()), "basic_auth");
}

#[test]
fn on_a_server_and_a_pair_it_means_nothing() {
    let mut server = Server::bind((own_address(), 0)).unwrap();
    let client = Websocket::connect(server.url()).unwrap();
    let accepted = options(soon()).accept(server.next_timeout(DEADLINE).unwrap());
    client.wait_ready_timeout(DEADLINE).unwrap();
    client.close_with(1001, "").unwrap();
    accepted.wait_closed_timeout(DEADLINE).unwrap();
    let (a, b) = options(soon()).pair();
    a.close_with(1001, "").unwrap();
    b.wait_closed_timeout(DEADLINE).unwrap();
}

#[test]
fn callbacks_may_put_close_and_drop_the_last_handle() {
    let host = Host::new();
    let ws = options(soon()).connect(host.url()).unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    {
        let (ws, connections) = (ws.clone(), connections.clone());
        let own = ws.downgrade();
        ws.on_ready(move || {
            let n = connections.fetch_add(1, Ordering::SeqCst);
            if let Some(ws) = own.upgrade() {
                ws.put(json!({"connection": n})).unwrap();
            }
        });
    }
    let mut raw = host.accept();
    for n in 0..3 {
        assert_eq!(text(&mut raw), format!("{{\"connection\":{n}}}"));
        drop(raw);
        raw = host.accept();
    }
    ws.wait_ready_timeout(DEADLINE).unwrap();
    let closed = ws.closed_signal().clone();
    // Owns a handle of its own connection, and is not called before all others are gone.
    let own = ws.clone();
    ws.on_disconnect(move |_| drop(own.close()));
    drop(ws);
    drop(raw);
    within(DEADLINE, move || closed.recv().unwrap_err());
}

#[test]
fn who_is_in_the_midst_of_a_put_goes_on_with_the_next_connection() {
    let host = Host::new();
    let mut small = options(soon());
    small.send_queue(1000);
    let ws = small.connect(host.url()).unwrap();
    drop(host.accept());
    eventually("the loss", || ws.last_error().is_some());
    let putting = {
        let ws = ws.clone();
        thread::spawn(move || {
            for n in 0..100u32 {
                ws.put(n.to_string().repeat(50)).unwrap();
            }
            ws.put("done").unwrap();
        })
    };
    let mut raw = host.accept();
    while text(&mut raw) != "done" {}
    putting.join().unwrap();
}

/// A message with a number, long enough to fill what is between two sockets with not too many of them.
fn numbered(n: u32) -> Message {
    let mut bytes = vec![0; 1024];
    bytes[..4].copy_from_slice(&n.to_be_bytes());
    bytes.into()
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[..4].try_into().unwrap())
}

/// Sends numbered messages and reads nothing, until nothing more can be sent.
fn flood(raw: &mut Raw) {
    raw.get_ref().set_write_timeout(Some(500 * MS)).unwrap();
    let mut n = 0;
    while let Message::Binary(bytes) = numbered(n) {
        if raw.send(tungstenite::Message::Binary(bytes)).is_err() {
            break;
        }
        n += 1;
    }
}

/// Who makes room for the reader waits for room in the send queue, which only the next connection makes.
#[track_caller]
fn what_waits_to_go_back_does_not_keep_a_client_from_the_next_connection(
    send_back: impl Fn(&Websocket),
) {
    let host = Host::new();
    let mut options = options(soon());
    options.send_queue(64 << 10).close_timeout(20 * MS);
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
    // All that came over the first connection and was not sent before, once and in order.
    let came = u32::try_from(ws.stats().messages_in).unwrap() - 1;
    let first = numbers[0];
    assert_eq!(ws.stats().dropped, 0);
    assert!(first < came);
    assert!(numbers.iter().copied().eq(first..came), "{first}..{came}");
    drop(raw);
    within(DEADLINE, move || drop(ws));
}

#[test]
fn a_pipe_back_does_not_keep_a_client_from_the_next_connection() {
    what_waits_to_go_back_does_not_keep_a_client_from_the_next_connection(|ws| {
        ws.subscribe_to(ws.clone());
    });
}

#[test]
fn a_pipe_back_does_not_keep_a_client_from_the_next_connection_when_the_peer_falls_silent() {
    let host = Host::new();
    let mut options = options(soon());
    options.send_queue(64 << 10);
    options.ping_interval(50 * MS).ping_timeout(50 * MS);
    let ws = options.connect(host.url()).unwrap();
    ws.subscribe_to(ws.clone());
    let mut raw = host.accept();
    let mut silent = Vec::new();
    let end = Instant::now() + 4 * DEADLINE;
    // A peer that is late may be left before it has sent enough, or read what was left over.
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
fn a_sink_that_sends_back_does_not_keep_a_client_from_the_next_connection() {
    struct Back(rtcbot_websocket::WeakWebsocket);
    impl rtcbot_websocket::Sink<Message> for Back {
        fn put_nowait(&self, message: Message) -> Result<(), PutError<Message>> {
            self.0.upgrade().unwrap().put(message)
        }
    }
    what_waits_to_go_back_does_not_keep_a_client_from_the_next_connection(|ws| {
        ws.subscribe_to(Back(ws.downgrade()));
    });
}

#[test]
fn a_thread_that_sends_back_does_not_keep_a_client_from_the_next_connection() {
    what_waits_to_go_back_does_not_keep_a_client_from_the_next_connection(|ws| {
        let ws = ws.clone();
        // Its queue is there before anything comes.
        assert!(matches!(ws.try_get(), Err(Error::Empty)));
        thread::spawn(move || while ws.get().is_ok_and(|message| ws.put(message).is_ok()) {});
    });
}

#[test]
fn a_callback_that_sends_back_does_not_keep_a_client_from_the_next_connection() {
    what_waits_to_go_back_does_not_keep_a_client_from_the_next_connection(|ws| {
        let back = ws.clone();
        ws.subscribe_callback(move |message| drop(back.put(message)));
    });
}

#[test]
fn what_a_slow_consumer_has_yet_to_take_comes_before_what_the_next_connection_brings() {
    let host = Host::new();
    let mut options = options(soon());
    // Not all is read at once: some is left in the socket.
    options.close_timeout(20 * MS).read_buffer(4096);
    let ws = options.connect(host.url()).unwrap();
    let slow = ws.subscribe_with(Queue::Block(1));
    let mut raw = host.accept();
    for n in 0..60 {
        let Message::Binary(bytes) = numbered(n) else {
            unreachable!()
        };
        raw.send(tungstenite::Message::Binary(bytes)).unwrap();
    }
    eventually("that reading pauses", || ws.stats().messages_in > 0);
    drop(raw);
    eventually("that what is written is refused", || {
        let _ = ws.put_nowait("into the void");
        ws.last_error().is_some()
    });
    let mut raw = host.accept();
    raw.send("next".into()).unwrap();
    eventually("another connection", || ws.stats().reconnects == 1);
    for n in 0..60 {
        let got = slow.get_timeout(DEADLINE).unwrap();
        assert_eq!(number(got.as_bytes().unwrap()), n);
    }
    assert_eq!(slow.get_timeout(DEADLINE).unwrap(), "next");
    assert_eq!(ws.stats().dropped, 0);
}

/// A client whose slow consumer has taken nothing of the 10 messages that came when its connection was lost.
fn behind(host: &Host, options: &Options) -> (Websocket, rtcbot_websocket::Subscription<Message>) {
    let ws = options.connect(host.url()).unwrap();
    let slow = ws.subscribe_with(Queue::Block(1));
    let mut raw = host.accept();
    // In one piece, which is read as one: from message to message, reading would wait for the consumer.
    for n in 0..10 {
        raw.write(n.to_string().into()).unwrap();
    }
    raw.flush().unwrap();
    eventually("that reading pauses", || ws.stats().messages_in == 10);
    drop(raw);
    (ws, slow)
}

#[test]
fn what_a_slow_consumer_has_yet_to_take_outlives_a_client_that_is_turned_away() {
    let host = Host::new();
    let (ws, slow) = behind(&host, options(soon()).close_timeout(Duration::from_secs(3)));
    let (answered, answer) = unbounded();
    let serving = thread::spawn(move || {
        host.answer("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n");
        answered.send(()).unwrap();
    });
    eventually("that the client is turned away", || {
        let _ = ws.put_nowait("into the void");
        answer.try_recv().is_ok()
    });
    // Who asks is told at once, and not when that has taken what there is.
    eventually("the end", || ws.is_closed());
    assert!(matches!(ws.error(), Some(Error::Refused { .. })));
    assert_eq!(ws.stats().receive_queue, 10);
    for n in 0..10 {
        assert_eq!(slow.get_timeout(DEADLINE).unwrap(), *n.to_string());
    }
    let error = slow.get_timeout(DEADLINE).unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    assert_eq!(ws.stats().dropped, 0);
    serving.join().unwrap();
}

#[test]
fn what_is_removed_before_the_next_connection_is_let_go_of_at_once() {
    type Old = (
        Websocket,
        rtcbot_websocket::Subscription<Message>,
        thread::JoinHandle<usize>,
    );
    let host = Host::new();
    let (give, take) = crossbeam_channel::bounded::<Old>(1);
    let (told, result) = unbounded();
    let (go, gate) = unbounded::<()>();
    let mut options = options(soon());
    // Each session has a consumer of its own, and the last one's is to be done before the next begins.
    options
        .close_timeout(20 * MS)
        .header_with("X-Session", move || {
            if let Ok((ws, slow, taking)) = take.try_recv() {
                assert!(ws.unsubscribe(&slow));
                drop(slow);
                go.send(())?;
                told.send(within(DEADLINE, move || taking.join().unwrap()))?;
            }
            Ok("session".to_owned())
        });
    let (ws, slow) = behind(&host, &options);
    let own = slow.clone();
    let taking = thread::spawn(move || {
        let _ = gate.recv_timeout(DEADLINE);
        own.iter().count()
    });
    give.send((ws.clone(), slow, taking)).unwrap();
    eventually("that it is lost", || {
        let _ = ws.put_nowait("into the void");
        ws.last_error().is_some()
    });
    assert_eq!(result.recv_timeout(2 * DEADLINE), Ok(1));
    let mut raw = host.accept();
    let next = ws.subscribe();
    raw.send("next".into()).unwrap();
    // Behind what the other has left.
    while next.get_timeout(DEADLINE).unwrap() != "next" {}
}

#[test]
fn a_pipe_that_is_removed_during_an_attempt_does_not_keep_the_client() {
    let host = Host::new();
    let mut options = options(soon());
    options.send_queue(64 << 10).close_timeout(20 * MS);
    options.connect_timeout(HOUR).linger(20 * MS);
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

#[test]
fn what_is_more_than_may_be_kept_for_a_slow_consumer_is_counted() {
    const ROUNDS: u32 = 360;
    const EACH: u32 = 12;
    const SIZE: usize = 4096;
    let host = Host::new();
    let mut options = options(Backoff {
        initial: MS,
        max: MS,
        ..Backoff::default()
    });
    options.close_timeout(2 * MS);
    let ws = options.connect(host.url()).unwrap();
    let slow = ws.subscribe_with(Queue::Block(1));
    let (stop, stopped) = unbounded::<()>();
    let void = ws.clone();
    let putting = thread::spawn(move || {
        // By which it finds that a connection is lost.
        while stopped.recv_timeout(MS) == Err(RecvTimeoutError::Timeout) {
            let _ = void.put_nowait("into the void");
        }
    });
    for round in 0..ROUNDS {
        let mut raw = host.accept();
        for n in 0..EACH {
            let mut bytes = vec![0; SIZE];
            bytes[..4].copy_from_slice(&round.to_be_bytes());
            bytes[4..8].copy_from_slice(&n.to_be_bytes());
            raw.write(tungstenite::Message::Binary(bytes.into()))
                .unwrap();
        }
        raw.flush().unwrap();
        let all = u64::from((round + 1) * EACH);
        if round == 0 {
            eventually("some", || ws.stats().messages_in > 0);
        }
        drop(raw);
        eventually("all", || ws.stats().messages_in == all);
    }
    let all = u64::from(ROUNDS * EACH);
    let kept = ws.stats().receive_queue as u64;
    assert!(kept < all && kept * SIZE as u64 <= 17 << 20, "{kept}");
    let mut raw = host.accept();
    raw.send("the last".into()).unwrap();
    let mut taken = 0;
    let mut last = None;
    loop {
        let message = slow.get_timeout(DEADLINE).unwrap();
        let Some(bytes) = message.as_bytes() else {
            break;
        };
        let number = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
        let (round, n) = (number(0), number(4));
        // Of each connection, all up to some point.
        match last {
            Some((before, m)) if before == round => assert_eq!(n, m + 1),
            Some((before, _)) => assert!(before < round && n == 0),
            None => assert_eq!((round, n), (0, 0)),
        }
        last = Some((round, n));
        taken += 1;
    }
    let stats = ws.stats();
    assert_eq!((stats.messages_in, stats.dropped), (all + 1, all - taken));
    assert_eq!(stats.receive_queue, 0);
    assert!(taken >= kept);
    stop.send(()).unwrap();
    putting.join().unwrap();
    let _ = within(DEADLINE, move || ws.close());
}

#[test]
fn a_close_between_two_connections_does_not_wait_for_a_slow_consumer() {
    let host = Host::new();
    let (ws, slow) = behind(&host, options(never()).close_timeout(20 * MS));
    eventually("that it is lost", || {
        let _ = ws.put_nowait("into the void");
        ws.last_error().is_some()
    });
    let closed = ws.clone();
    let _ = within(DEADLINE, move || closed.close());
    let taken = slow.iter().count() as u64;
    let stats = ws.stats();
    assert_eq!((stats.messages_in, stats.dropped), (10, 10 - taken));
}

#[test]
fn a_client_that_has_been_paused_is_connected_again() {
    let host = Host::new();
    let mut options = options(soon());
    options.paused(true).close_timeout(20 * MS);
    let ws = options.connect(host.url()).unwrap();
    let mut raw = host.accept();
    for n in 0..10 {
        raw.send(n.to_string().into()).unwrap();
    }
    eventually("that reading pauses", || ws.stats().messages_in > 0);
    drop(raw);
    eventually("that it is lost", || {
        let _ = ws.put_nowait("into the void");
        ws.last_error().is_some()
    });
    let mut raw = host.accept();
    raw.send("next".into()).unwrap();
    let got = ws.subscribe();
    ws.resume();
    for n in 0..10 {
        assert_eq!(got.get_timeout(DEADLINE).unwrap(), *n.to_string());
    }
    assert_eq!(got.get_timeout(DEADLINE).unwrap(), "next");
}

#[test]
fn a_put_in_the_function_for_a_header_does_not_wait_for_room() {
    let (give, take) = crossbeam_channel::bounded::<Websocket>(1);
    let (told, result) = unbounded();
    let mut options = options(soon());
    options.send_queue(100).header_with("X-Token", move || {
        let ws = take.recv_timeout(DEADLINE)?;
        told.send(ws.put(vec![0; 90]).is_err_and(|error| error.is_full()))?;
        Ok("token".to_owned())
    });
    let ws = options.connect("ws://127.0.0.1:1/").unwrap();
    ws.put_nowait(vec![0; 90]).unwrap();
    give.send(ws.clone()).unwrap();
    assert_eq!(result.recv_timeout(DEADLINE), Ok(true));
    drop(give);
    let _ = within(DEADLINE, move || ws.close());
}
