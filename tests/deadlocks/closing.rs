//! Closing takes effect immediately and ends in time.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use rtcbot_websocket::{Error, Options, Queue};

use crate::testkit::wire::{over_each, over_each_at_once};
use crate::testkit::{DEADLINE, eventually, within};
use crate::{HOUR, median};

// websockets 1336: `close()` with unread messages never returns.
#[test]
fn close_returns_within_its_timeout_with_every_queue_full() {
    over_each(|wire| {
        let timeout = Duration::from_millis(100);
        let (client, mut raw) = wire.client_and_raw(|options| {
            options
                .close_timeout(timeout)
                .send_queue(1 << 20)
                .ping_interval(None)
        });
        // Every queue has room for 1024.
        let unread = client.subscribe();
        let (channel, untaken) = bounded(1024);
        client.subscribe_to(channel);
        let (go, gate) = bounded::<()>(0);
        let slow = gate.clone();
        client.subscribe_callback(move |_| slow.recv().unwrap_or_default());
        client.subscribe_concurrent(1, move |_| gate.recv().unwrap_or_default());
        for n in 0..3000 {
            raw.write(tungstenite::Message::text(n.to_string()))
                .unwrap();
        }
        raw.flush().unwrap();
        eventually("what was received is held up", || {
            unread.len() == 1024 && untaken.len() == 1024
        });
        eventually("what is sent is held up", || {
            let put = client.put_timeout(vec![0; 1 << 19], timeout);
            put.is_err_and(|error| error.is_full())
        });

        let closing = client.clone();
        let error = within(DEADLINE, move || closing.close()).unwrap_err();
        // The time comes from the timeout, and not from a thread that never returns.
        assert!(
            matches!(error, Error::CloseTimeout { after, .. } if after == timeout),
            "{error}"
        );
        assert!(client.is_closed());
        assert_eq!(unread.iter().count(), 1024);
        drop(go);
    });
}

// As above, with a peer that would have answered.
#[test]
fn close_is_orderly_while_received_messages_are_unread() {
    over_each(|wire| {
        let (client, mut raw) =
            wire.client_and_raw(|options| options.receive_queue(Queue::Block(1)));
        let unread = client.subscribe();
        for _ in 0..100 {
            raw.send(tungstenite::Message::text("1")).unwrap();
        }
        eventually("the queue is full", || unread.len() == 1);
        let pumping = thread::spawn(move || raw.pump());
        within(2 * DEADLINE, move || client.close()).unwrap();
        pumping.join().unwrap();
    });
}

// websockets 1596: a race delays the end of the closing handshake by a timeout.
#[test]
fn a_clean_close_takes_under_100_ms_a_thousand_times_in_a_row() {
    over_each_at_once(|wire| {
        // The shortest timeout that is involved. (After other timeouts, close fails.)
        let time_out = Duration::from_millis(900);
        let pauses = Pauses::watch();
        let mut server = wire.server();
        let options = wire.options();
        let mut times = Vec::new();
        let mut slow = 0;
        for n in 0..1000 {
            let (client, peer) = crate::testkit::pair_over(&mut server, &options, &options);
            let (closer, other) = if n % 2 == 0 {
                (client, peer)
            } else {
                (peer, client)
            };
            pauses.forget();
            let start = Instant::now();
            within(2 * DEADLINE, move || closer.close()).unwrap();
            other.wait_closed_timeout(DEADLINE).unwrap();
            let time = start.elapsed();
            times.push(time);
            // A busy machine delays this thread too, so its own delay is subtracted.
            slow += usize::from(time > time_out && pauses.longest() < time_out / 10);
            assert!(slow < 3, "{slow} of {} took a time-out", n + 1);
        }
        let median = median(times);
        assert!(median < Duration::from_millis(100), "{median:?}");
    });
}

/// How long a thread of this machine waits until it runs.
struct Pauses {
    longest: Arc<AtomicU64>,
}

impl Pauses {
    const TICK: Duration = Duration::from_millis(10);

    /// Watches until it is dropped.
    fn watch() -> Self {
        let longest = Arc::new(AtomicU64::new(0));
        let noted = Arc::downgrade(&longest);
        thread::spawn(move || {
            loop {
                let start = Instant::now();
                thread::sleep(Self::TICK);
                let late = start.elapsed() - Self::TICK;
                let Some(longest) = noted.upgrade() else {
                    return;
                };
                longest.fetch_max(late.as_micros() as u64, Ordering::Relaxed);
            }
        });
        Pauses { longest }
    }

    fn forget(&self) {
        self.longest.store(0, Ordering::Relaxed);
    }

    fn longest(&self) -> Duration {
        Duration::from_micros(self.longest.load(Ordering::Relaxed))
    }
}

// The answer may arrive before the writer has noted that the Close frame is written.
#[test]
fn close_waits_only_briefly_for_a_server_that_answers_and_keeps_the_stream_open() {
    over_each(|wire| {
        let closing: Vec<_> = (0..30)
            .map(|_| {
                let (client, mut raw) = wire.client_and_raw(|options| options.close_timeout(HOUR));
                let closing = thread::spawn(move || client.close());
                assert!(raw.read().unwrap().is_close());
                let _ = raw.flush();
                (closing, raw)
            })
            .collect();
        for (thread, _open) in closing {
            within(DEADLINE, move || thread.join().unwrap()).unwrap();
        }
    });
}

// websockets 1455: a live connection keeps the process from exiting.
#[test]
fn returning_from_main_ends_the_process() {
    const TEST: &str = "closing::returning_from_main_ends_the_process";
    const URL: &str = "RTCBOT_WEBSOCKET_URL";
    match std::env::var(URL) {
        Ok(url) => main_that_returns(&url),
        Err(_) => over_each(|wire| {
            let (listener, url) = wire.listen();
            thread::scope(|scope| {
                scope.spawn(|| {
                    // They read nothing and answer nothing.
                    let raws = [wire.accept(&listener), wire.accept(&listener)];
                    for mut raw in raws {
                        // Until the process has ended.
                        while matches!(raw.socket.read(&mut [0; 1 << 16]), Ok(1..)) {}
                    }
                });
                crate::testkit::again(TEST, (URL, &url), 3 * DEADLINE);
            });
        }),
    }
}

fn main_that_returns(url: &str) {
    let options = Options::new().ping_interval(None);
    #[cfg(feature = "native-tls")]
    let options = options.danger_accept_invalid_certs(true);
    let connect = || {
        let ws = options.connect(url).unwrap();
        ws.wait_ready_timeout(DEADLINE).unwrap();
        ws
    };
    // One is in use on threads that are never joined.
    let used = connect();
    let getter = used.clone();
    thread::spawn(move || getter.get());
    thread::spawn(move || while used.put(vec![0; 1 << 20]).is_ok() {});
    // One is dropped here, with a callback that never returns and many messages to send.
    let ws = connect();
    ws.on_ready(|| thread::sleep(HOUR));
    ws.subscribe_concurrent(1, |_| thread::sleep(HOUR));
    while ws.put_nowait(vec![0; 1 << 20]).is_ok() {}
}

// websocket-client 798 and 131: a close takes effect only when the next message arrives.
#[test]
fn close_takes_effect_while_no_message_arrives() {
    over_each(|wire| {
        let (client, mut raw) =
            wire.client_and_raw(|options| options.close_timeout(HOUR).ping_interval(None));
        let closing = thread::spawn(move || client.close());
        // The end is reported immediately, before it has sent anything.
        assert!(raw.read().unwrap().is_close());
        raw.pump();
        within(DEADLINE, move || closing.join().unwrap()).unwrap();
    });
}

#[test]
fn close_takes_effect_when_the_peer_never_sends_anything() {
    over_each(|wire| {
        let timeout = Duration::from_millis(50);
        let (client, _raw) =
            wire.client_and_raw(|options| options.close_timeout(timeout).ping_interval(None));
        let error = within(DEADLINE, move || client.close()).unwrap_err();
        assert!(
            matches!(error, Error::CloseTimeout { unsent: 0, after } if after == timeout),
            "{error}"
        );
    });
}
