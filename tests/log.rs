//! The logger belongs to the program: one that panics at every record ends no connection. Each
//! level has a process of its own.

mod testkit;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use log::LevelFilter;
use rtcbot_websocket::{
    Backoff, Error, Message, Options, PutError, Queue, Server, Sink, Websocket, json,
};
use testkit::{DEADLINE, eventually, failure, pair, pair_over, server_and_bytes};

struct Panics {
    /// The level and target at which it panics; at others it does nothing.
    target: &'static str,
    count: AtomicUsize,
}

impl log::Log for Panics {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if record.target().starts_with(self.target) {
            self.count.fetch_add(1, Ordering::SeqCst);
            // Formats the record here, and not in the panic, where a second panic would end the
            // process.
            let text = record.args().to_string();
            panic!("on purpose: {text}");
        }
    }

    fn flush(&self) {}
}

fn set(target: &'static str, level: LevelFilter) -> &'static Panics {
    let logger = Box::leak(Box::new(Panics {
        target,
        count: AtomicUsize::new(0),
    }));
    log::set_logger(logger).unwrap();
    log::set_max_level(level);
    logger
}

/// It is always full, and returns immediately.
struct Full;

impl Sink<Message> for Full {
    fn put_nowait(&self, item: Message) -> Result<(), PutError<Message>> {
        Err(PutError::Full(item))
    }
}

/// An error of the program that panics when it is shown.
#[derive(Debug)]
struct Unspeakable;

impl std::fmt::Display for Unspeakable {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        panic!("when shown, on purpose")
    }
}

impl std::error::Error for Unspeakable {}

impl Drop for Unspeakable {
    fn drop(&mut self) {
        panic!("when dropped, on purpose")
    }
}

/// Does everything that is logged in the course of a connection, or most of it.
fn everything() {
    let called = Arc::new(AtomicUsize::new(0));
    let (client, server) = pair();
    server.subscribe_to(Full);
    let newest = server.subscribe_with(Queue::Latest);
    let count = called.clone();
    server.subscribe_callback(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        panic!("in a callback, on purpose");
    });
    let count = called.clone();
    server.subscribe_concurrent(2, move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        panic!("in a worker, on purpose");
    });
    let count = called.clone();
    server.on_close(move || {
        count.fetch_add(1, Ordering::SeqCst);
        panic!("in on_close, on purpose");
    });
    for n in 0..100 {
        client.put(json!(n)).unwrap();
    }
    client.close().unwrap();
    server.wait_closed_timeout(DEADLINE).unwrap();
    eventually("all are called", || called.load(Ordering::SeqCst) == 201);
    assert_eq!(newest.get_timeout(DEADLINE).unwrap(), json!(99));
    assert!(server.stats().dropped >= 100);

    // Nobody subscribes.
    let (client, server) = pair();
    for n in 0..2000 {
        client.put(json!(n)).unwrap();
    }
    client.close_with(1001, "enough").unwrap();
    server.wait_closed_timeout(DEADLINE).unwrap();
    assert_eq!(server.stats().dropped, 2000 - 1024);

    // The peer breaks the protocol, or disconnects.
    for bytes in [&[0xff; 10][..], &[]] {
        let (server, mut peer) = server_and_bytes(&Options::new());
        std::io::Write::write_all(&mut peer, bytes).unwrap();
        drop(peer);
        let error = server.wait_closed_timeout(DEADLINE).unwrap_err();
        assert!(
            matches!(error, Error::Protocol { .. } | Error::Lost(_)),
            "{error}"
        );
    }

    // An invalid request, and one that is not for a WebSocket.
    let mut listener = Server::bind((testkit::own_address(), 0)).unwrap();
    for bytes in ["", "nonsense\r\n\r\n", "GET / HTTP/1.1\r\nHost: x\r\n\r\n"] {
        let mut peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        std::io::Write::write_all(&mut peer, bytes.as_bytes()).unwrap();
        drop(peer);
    }
    // A client that tries again, with an error of this program.
    let attempts = AtomicUsize::new(0);
    let token = move || match attempts.fetch_add(1, Ordering::SeqCst) {
        0..3 => Err(Unspeakable.into()),
        _ => Ok("a token".to_owned()),
    };
    let moment = std::time::Duration::from_millis(1);
    let client = Options::new()
        .header_with("X-Token", token)
        .reconnect(Backoff::new().initial(moment).max(moment))
        .connect(testkit::url(&listener))
        .unwrap();
    let server = loop {
        let request = listener.next_timeout(DEADLINE).unwrap();
        let wanted = request.is_websocket();
        let ws = Websocket::accept(request);
        if wanted {
            break ws;
        }
    };
    client.wait_ready_timeout(DEADLINE).unwrap();
    client.put(1).unwrap();
    assert_eq!(server.get_timeout(DEADLINE).unwrap(), json!(1));
    client.close().unwrap();
    // With the last error, which panics wherever it is dropped.
    let last = std::panic::AssertUnwindSafe(|| drop((client, server)));
    let _ = std::panic::catch_unwind(last);

    let options = Options::new();
    let (client, server) = pair_over(&mut listener, &options, &options);
    drop(client);
    server.wait_closed_timeout(DEADLINE).unwrap();
    drop(server);
    if cfg!(target_os = "linux") {
        eventually("all threads have ended", || {
            testkit::threads_named("ws-") == 0
        });
    }
}

fn works_at(level: LevelFilter) {
    let logger = set("rtcbot_websocket", level);
    everything();
    assert!(logger.count.load(Ordering::SeqCst) > 0);
}

#[test]
fn a_logger_that_panics_at_errors_ends_no_connection() {
    testkit::alone("a_logger_that_panics_at_errors_ends_no_connection", || {
        works_at(LevelFilter::Error)
    });
}

#[test]
fn a_logger_that_panics_at_warnings_ends_no_connection() {
    testkit::alone(
        "a_logger_that_panics_at_warnings_ends_no_connection",
        || works_at(LevelFilter::Warn),
    );
}

#[test]
fn a_logger_that_panics_at_information_ends_no_connection() {
    testkit::alone(
        "a_logger_that_panics_at_information_ends_no_connection",
        || works_at(LevelFilter::Info),
    );
}

#[test]
fn a_logger_that_panics_at_debug_records_ends_no_connection() {
    testkit::alone(
        "a_logger_that_panics_at_debug_records_ends_no_connection",
        || {
            works_at(LevelFilter::Debug);
        },
    );
}

#[test]
fn a_logger_that_panics_at_traces_ends_no_connection() {
    testkit::alone("a_logger_that_panics_at_traces_ends_no_connection", || {
        works_at(LevelFilter::Trace)
    });
}

/// The codec logs too, and cannot continue where its logger panics.
#[test]
fn a_logger_that_panics_in_the_codec_ends_the_connection_in_time() {
    testkit::alone(
        "a_logger_that_panics_in_the_codec_ends_the_connection_in_time",
        || {
            set("tungstenite", LevelFilter::Trace);
            for _ in 0..10 {
                let (client, server) = Websocket::pair();
                let put = std::panic::AssertUnwindSafe(|| client.put_nowait(1));
                let _ = std::panic::catch_unwind(put);
                let _ = failure(&server);
                let _ = failure(&client);
            }
            if cfg!(target_os = "linux") {
                eventually("all threads have ended", || {
                    testkit::threads_named("ws-") == 0
                });
            }
        },
    );
}
