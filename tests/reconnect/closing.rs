//! Closing a client between two connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::unbounded;
use rtcbot_websocket::{Backoff, Error, json};

use crate::testkit::{DEADLINE, eventually, on_loss, own_address, was_lost, within};
use crate::{Host, MS, behind, never, options, soon, text};

#[test]
fn dropping_the_last_handle_between_two_attempts_ends_the_client_immediately() {
    let host = Host::new();
    let ws = options(never()).connect(host.url()).unwrap();
    drop(host.accept());
    eventually("the loss", || was_lost(&ws));
    let (subscription, closed) = (ws.subscribe(), ws.closed_signal().clone());
    drop(ws);
    within(DEADLINE, move || closed.recv().unwrap_err());
    assert!(matches!(subscription.get(), Err(Error::Closed(_))));
}

#[test]
fn close_without_queued_messages_succeeds_at_any_moment_of_an_attempt() {
    // Nobody listens there.
    let url = format!("ws://{}:1/", own_address());
    let again_and_again = Backoff::new()
        .initial(Duration::from_micros(1))
        .max(Duration::from_micros(1));
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
fn close_reports_messages_that_could_not_be_sent() {
    let host = Host::new();
    let ws = options(never()).connect(host.url()).unwrap();
    drop(host.accept());
    eventually("the loss", || was_lost(&ws));
    for n in 0..3 {
        ws.put_nowait(n.to_string()).unwrap();
    }
    let closing = ws.clone();
    let error = within(DEADLINE, move || closing.close().unwrap_err());
    assert!(matches!(error, Error::Lost(_)), "{error}");
    assert_eq!(ws.stats().unsent, 3);
    assert!(!ws.put_nowait("late").unwrap_err().is_full());
}

#[test]
fn close_ends_a_client_that_is_cut_repeatedly_at_any_moment() {
    let host = Host::new();
    let url = host.url();
    let accepting = thread::spawn(move || {
        let mut n = 0usize;
        loop {
            let stream = host.stream();
            n += 1;
            // Cut before, during, or immediately after the handshake, or closed in order.
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
    let backoff = Backoff::new().initial(MS / 10).max(MS);
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
    // Where it is requested, a message of such a client arrives.
    let last = options(backoff).connect(&url).unwrap();
    while !accepting.is_finished() {
        let _ = last.put_timeout("the end", MS);
    }
    accepting.join().unwrap();
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
    // Owns a handle of its own connection, and is not called before all others have been dropped.
    let own = ws.clone();
    on_loss(&ws, move |_| drop(own.close()));
    drop(ws);
    drop(raw);
    within(DEADLINE, move || closed.recv().unwrap_err());
}

#[test]
fn a_close_between_two_connections_does_not_wait_for_a_slow_consumer() {
    let host = Host::new();
    let (ws, slow) = behind(&host, &options(never()).close_timeout(20 * MS));
    eventually("that it is lost", || {
        let _ = ws.put_nowait("into the void");
        was_lost(&ws)
    });
    let closed = ws.clone();
    let _ = within(DEADLINE, move || closed.close());
    let taken = slow.iter().count() as u64;
    let stats = ws.stats();
    assert_eq!((stats.messages_in, stats.dropped), (10, 10 - taken));
}
