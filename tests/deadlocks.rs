//! How libraries of this kind have hung, leaked and lost. Above each test is the report that it comes from,
//! and each was seen to fail with that report's fault put in.

mod rig;

use std::collections::BTreeMap;
use std::io::Read;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvError, bounded, unbounded};
use rig::wire::{Raw, Wire, over_each, over_each_at_once};
use rig::{DEADLINE, alone, eventually, eventually_asleep, is_closed_by_peer, within};
use rtcbot_websocket::{
    Backoff, Error, Message, Options, PutError, Queue, Side, Sink, Subscription, Websocket, json,
};

/// What waits for so long waits for ever, as far as a test can tell.
const HOUR: Duration = Duration::from_secs(3600);

// tungstenite 178: with one lock around the socket, a flood of incoming messages starves what is sent.
#[test]
fn under_a_flood_a_put_reaches_the_wire_within_50_ms() {
    /// Slower than the flood, so that there is always something to read, whatever else the machine does.
    struct Slow;
    impl Sink<Message> for Slow {
        fn put_nowait(&self, _: Message) -> Result<(), PutError<Message>> {
            thread::sleep(Duration::from_millis(1));
            Ok(())
        }
    }
    over_each(|wire| {
        let (client, server) = wire.pair(|options| {
            options.send_queue(1 << 20);
        });
        let slow = client.subscribe_to(Slow);
        let flooding = thread::spawn({
            let server = server.clone();
            move || while server.put(vec![0; 1000]).is_ok() {}
        });
        eventually("everything on the way is full", || {
            let put = server.put_timeout(vec![0; 1 << 19], Duration::from_millis(50));
            put.is_err_and(|error| error.is_full())
        });
        let puts = server.subscribe();
        let took = (0..51).map(|n| {
            let start = Instant::now();
            client.put_nowait(json!(n)).unwrap();
            assert_eq!(puts.get_timeout(DEADLINE).unwrap(), json!(n));
            start.elapsed()
        });
        // Of a busy machine one pause, however long, makes one of them slow.
        let median = median(took.collect());
        assert!(median < Duration::from_millis(50), "{median:?}");
        client.unsubscribe(slow);
        client.close().unwrap();
        flooding.join().unwrap();
    });
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

// tungstenite 171, 311 and 388, native-tls 206 and 276: a read that waits blocks every write.
#[test]
fn a_put_goes_out_while_nothing_comes_in() {
    over_each(|wire| {
        let (client, server) = wire.pair(|options| {
            options.ping_interval(None);
        });
        for (from, to) in [(&client, &server), (&server, &client)] {
            let received = to.subscribe();
            for n in 0..100 {
                // Each side's reader waits for something to read all the while; and what is too long to be
                // sent by the thread that puts it is the writer's.
                let length = [10, 100_000][n % 2];
                from.put_nowait(vec![n as u8; length]).unwrap();
                assert_eq!(received.get_timeout(DEADLINE).unwrap().len(), length);
            }
        }
    });
}

// ewebsock, as its options say themselves: what is sent waits for a read's time-out of 10 ms.
#[test]
#[cfg(target_os = "linux")]
fn an_idle_connection_makes_no_system_call_between_pings() {
    alone(
        "an_idle_connection_makes_no_system_call_between_pings",
        || {
            over_each(|wire| {
                let (client, server) = wire.pair(|_| {});
                let (_nothing, source) = unbounded::<Message>();
                client.put_subscription(source);
                client.subscribe_callback(|_| {});
                client.subscribe_concurrent(1, |_| {});
                // With callbacks there, what comes before the first `get` is theirs alone.
                assert!(matches!(client.try_get(), Err(Error::Empty)));
                server.subscribe_to(server.clone());
                client.put_nowait(json!("all is running")).unwrap();
                client.put_subscription(unbounded::<Message>().1);
                client.get_timeout(DEADLINE).unwrap();
                let getter = client.clone();
                let getting = thread::Builder::new().name("ws-user".into());
                let getting = getting.spawn(move || getter.get()).unwrap();

                eventually("two seconds in which no thread has run", || {
                    let before = processor_times();
                    thread::sleep(Duration::from_secs(2));
                    before.len() == 7 && before == processor_times()
                });
                client.close().unwrap();
                getting.join().unwrap().unwrap_err();
                eventually("its threads have ended", || processor_times().is_empty());
            });
        },
    );
}

/// For how many nanoseconds each thread of a connection has run, and how often it has waited.
#[cfg(target_os = "linux")]
fn processor_times() -> BTreeMap<String, (String, String)> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let times = tasks.filter_map(|task| {
        let task = task.ok()?;
        let read = |file| std::fs::read_to_string(task.path().join(file)).ok();
        let name = read("comm")?;
        let status = read("status")?;
        let waits = status
            .lines()
            .find(|line| line.starts_with("voluntary_ctxt_switches"))?;
        // Some kernels keep no account of the time.
        let time = read("schedstat").unwrap_or_default();
        let time = time.split(' ').next().unwrap_or_default().to_owned();
        let id = format!("{:?} {}", task.file_name(), name.trim());
        name.starts_with("ws-")
            .then(|| (id, (time, waits.to_owned())))
    });
    times.collect()
}

// tokio-rs/tls 40: a TLS read that has to write, or a write that has to read, waits for the wrong one.
#[test]
fn both_directions_flooded_at_once_all_arrives_though_a_peer_stops_reading_for_a_while() {
    const COUNT: u32 = 30_000;
    fn message(n: u32) -> Message {
        n.to_be_bytes().repeat(250).into()
    }
    fn expect(messages: &Subscription<Message>, numbers: Range<u32>) {
        for n in numbers {
            assert_eq!(messages.get_timeout(DEADLINE).unwrap(), message(n));
        }
    }
    over_each(|wire| {
        for client_stops in [true, false] {
            let (client, server) = wire.pair(|options| {
                options.send_queue(1 << 20).ping_interval(None);
            });
            let (one, other) = match client_stops {
                true => (client, server),
                false => (server, client),
            };
            let (to_one, to_other) = (one.subscribe(), other.subscribe());
            let is_held_up = AtomicBool::new(false);
            let (go_on, may_go_on) = bounded(1);
            let (got_all, has_got_all) = bounded(1);
            thread::scope(|scope| {
                scope.spawn(|| {
                    (0..COUNT / 2).for_each(|n| one.put(message(n)).unwrap());
                    may_go_on.recv_timeout(DEADLINE).unwrap();
                    (COUNT / 2..COUNT).for_each(|n| one.put(message(n)).unwrap());
                });
                scope.spawn(|| {
                    // As much as it takes, however much the system's buffers hold.
                    for n in (0..).take_while(|n| *n < COUNT || has_got_all.is_empty()) {
                        if let Err(PutError::Full(message)) = other.put_nowait(message(n)) {
                            is_held_up.store(true, Ordering::SeqCst);
                            other.put(message).unwrap();
                            is_held_up.store(false, Ordering::SeqCst);
                        }
                    }
                    other.close().unwrap();
                });
                scope.spawn(|| {
                    expect(&to_other, 0..COUNT);
                    got_all.send(()).unwrap();
                });
                expect(&to_one, 0..COUNT / 5);
                // Till the other can send nothing, and has all the same received everything.
                let mut since = (0, Instant::now());
                eventually("that the other is held up for good", || {
                    let sent = other.stats().messages_out;
                    if !is_held_up.load(Ordering::SeqCst) || sent != since.0 {
                        since = (sent, Instant::now());
                    }
                    since.1.elapsed() > Duration::from_millis(100)
                });
                go_on.send(()).unwrap();
                eventually("the other has got all", || !has_got_all.is_empty());
                let mut rest = COUNT / 5..;
                assert!(
                    to_one
                        .iter()
                        .all(|got| got == message(rest.next().unwrap()))
                );
                assert!(rest.start >= COUNT);
            });
            one.wait_closed_timeout(DEADLINE).unwrap();
        }
    });
}

// websockets 1336: `close()` with unread messages never returns.
#[test]
fn close_returns_within_its_time_out_with_every_queue_full() {
    over_each(|wire| {
        let timeout = Duration::from_millis(100);
        let (client, mut raw) = wire.client_and_raw(|options| {
            options
                .close_timeout(timeout)
                .send_queue(1 << 20)
                .ping_interval(None);
        });
        // All of these take 1024.
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
        // That is the time-out's doing, and not that of a thread that does not come back.
        assert!(
            matches!(error, Error::CloseTimeout { after, .. } if after == timeout),
            "{error}"
        );
        assert!(client.is_closed());
        assert_eq!(unread.iter().count(), 1024);
        drop(go);
    });
}

// As before, with a peer that would have answered.
#[test]
fn close_is_in_order_though_nobody_reads_what_has_arrived() {
    over_each(|wire| {
        let (client, mut raw) = wire.client_and_raw(|options| {
            options.receive_queue(Queue::Block(1));
        });
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

/// How a connection ends.
#[derive(Debug, Clone, Copy)]
enum End {
    Close,
    PeerCloses,
    Cut,
    /// The peer answers no ping.
    Silence,
}

const ENDS: [End; 4] = [End::Close, End::PeerCloses, End::Cut, End::Silence];

impl End {
    fn options(self, options: &mut Options) {
        let tick = match self {
            End::Silence => Some(Duration::from_millis(50)),
            _ => None,
        };
        options.ping_interval(tick).ping_timeout(tick);
    }

    /// Comes, while the peer reads as long as it is to.
    fn come(self, client: &Websocket, mut raw: Raw) {
        match self {
            End::Close => {
                let client = client.clone();
                let closing = thread::spawn(move || client.close());
                raw.pump();
                closing.join().unwrap().unwrap();
            }
            End::PeerCloses => {
                raw.close(None).unwrap();
                raw.pump();
            }
            End::Cut => raw.socket.shutdown(Shutdown::Both).unwrap(),
            End::Silence => drop(client.wait_closed_timeout(DEADLINE)),
        }
    }

    fn is(self, reason: &Error) -> bool {
        match (self, reason) {
            (End::Close, Error::Closed(close)) => close.by == Side::Local,
            (End::PeerCloses, Error::Closed(close)) => close.by == Side::Peer,
            (End::Cut, Error::Lost(_)) | (End::Silence, Error::PingTimeout { .. }) => true,
            _ => false,
        }
    }

    #[track_caller]
    fn check(self, reason: &Error) {
        assert!(self.is(reason), "{self:?}: {reason:?}");
    }

    /// For those who are told of failures alone.
    #[track_caller]
    fn check_failure(self, failure: Option<Error>) {
        match (self, failure) {
            (End::Close | End::PeerCloses, None) => {}
            (_, Some(failure)) => self.check(&failure),
            (_, None) => panic!("{self:?}: no failure"),
        }
    }
}

// websockets 1449: `close()` on another thread leaves `recv` stuck.
#[test]
fn every_blocked_get_and_wait_wakes_when_the_connection_ends_and_says_why() {
    type Call = fn(&Websocket, &Subscription<Message>, End);
    const CALLS: [Call; 13] = [
        |ws, _, end| end.check(&ws.get().unwrap_err()),
        |ws, _, end| end.check(&ws.get_timeout(HOUR).unwrap_err()),
        |_, own, end| end.check(&own.get().unwrap_err()),
        |_, own, end| end.check(&own.get_timeout(HOUR).unwrap_err()),
        |_, own, end| {
            assert_eq!(own.iter().count(), 0);
            end.check(&own.try_get().unwrap_err());
        },
        |ws, own, end| {
            own.receiver().recv().unwrap_err();
            end.check(&ws.end_reason().unwrap());
        },
        |ws, _, end| {
            assert_eq!(ws.closed_signal().recv(), Err(RecvError));
            end.check(&ws.end_reason().unwrap());
        },
        |ws, _, end| end.check_failure(ws.wait_closed().err()),
        |ws, _, end| end.check_failure(ws.wait_closed_timeout(HOUR).err()),
        |ws, _, end| end.check_failure(ws.wait_error().unwrap()),
        |ws, _, end| end.check_failure(ws.wait_error_timeout(HOUR).unwrap()),
        |ws, _, end| {
            let (sender, told) = bounded(1);
            ws.on_close(move || sender.send(()).unwrap());
            told.recv().unwrap();
            end.check(&ws.end_reason().unwrap());
        },
        |ws, _, end| {
            let (sender, told) = bounded(1);
            ws.on_error(move |error| sender.send(error).unwrap());
            end.check_failure(told.recv().ok());
        },
    ];
    over_each(|wire| {
        for end in ENDS {
            let (client, raw) = wire.client_and_raw(|options| end.options(options));
            let waiting: Vec<_> = CALLS
                .into_iter()
                .map(|call| {
                    let (client, own) = (client.clone(), client.subscribe());
                    let thread = thread::Builder::new().name("waits-1449".into());
                    thread.spawn(move || call(&client, &own, end)).unwrap()
                })
                .collect();
            if !matches!(end, End::Silence) {
                eventually_asleep("waits-1449", CALLS.len());
            }
            end.come(&client, raw);
            for thread in waiting {
                within(DEADLINE, move || thread.join()).unwrap();
            }
        }
    });
}

#[test]
fn every_blocked_put_wakes_when_the_connection_ends_and_hands_its_message_back() {
    type Put = fn(&Websocket, Message) -> Result<(), PutError<Message>>;
    const PUTS: [Put; 2] = [
        |ws, message| ws.put(message),
        |ws, message| ws.put_timeout(message, HOUR),
    ];
    over_each(|wire| {
        for end in ENDS {
            let (client, mut raw) = wire.client_and_raw(|options| {
                end.options(options);
                options
                    .send_queue(1)
                    .close_timeout(Duration::from_millis(100));
            });
            let message = || Message::from(vec![1; 1 << 20]);
            let putting: Vec<_> = PUTS
                .into_iter()
                .map(|put| {
                    let client = client.clone();
                    let thread = thread::Builder::new().name("puts-1449".into());
                    let put = move || loop {
                        if let Err(error) = put(&client, message()) {
                            return error;
                        }
                    };
                    thread.spawn(put).unwrap()
                })
                .collect();
            if !matches!(end, End::Silence) {
                // The peer reads nothing.
                eventually_asleep("puts-1449", PUTS.len());
            }
            match end {
                End::Close => drop(client.close()),
                End::PeerCloses => raw.close(None).unwrap(),
                End::Cut => raw.socket.shutdown(Shutdown::Both).unwrap(),
                End::Silence => {}
            }
            for thread in putting {
                let error = within(DEADLINE, move || thread.join()).unwrap();
                assert_eq!(error, PutError::Closed(message()), "{end:?}");
            }
            let _ = client.wait_closed_timeout(DEADLINE);
            match client.end_reason().unwrap() {
                // What was accepted may not have been taken.
                Error::CloseTimeout { .. } if matches!(end, End::Close | End::PeerCloses) => {}
                reason => end.check(&reason),
            }
        }
    });
}

// websockets 1596: a race delays the end of the closing handshake by a time-out.
#[test]
fn a_clean_close_takes_under_100_ms_a_thousand_times_in_a_row() {
    over_each_at_once(|wire| {
        // The shortest of the time-outs that have a part in it. (After others, closing fails.)
        let time_out = Duration::from_millis(900);
        let pauses = Pauses::watch();
        let mut server = wire.server();
        let options = wire.options();
        let mut times = Vec::new();
        let mut slow = 0;
        for n in 0..1000 {
            let (client, peer) = rig::pair_over(&mut server, &options, &options);
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
            // A busy machine takes its time; but then it does so with whoever else is to run.
            slow += usize::from(time > time_out && pauses.longest() < time_out / 10);
            assert!(slow < 3, "{slow} of {} took a time-out", n + 1);
        }
        let median = median(times);
        assert!(median < Duration::from_millis(100), "{median:?}");
    });
}

/// How long a thread has to wait on this machine until it runs.
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

// The answer may arrive before the writer has noted that what it answers is written.
#[test]
fn a_server_that_answers_and_keeps_the_stream_open_is_waited_for_a_moment_only() {
    over_each(|wire| {
        let closing: Vec<_> = (0..30)
            .map(|_| {
                let (client, mut raw) = wire.client_and_raw(|options| {
                    options.close_timeout(HOUR);
                });
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
    const TEST: &str = "returning_from_main_ends_the_process";
    const URL: &str = "RTCBOT_WEBSOCKET_URL";
    match std::env::var(URL) {
        Ok(url) => main_that_returns(&url),
        Err(_) => over_each(|wire| {
            let (listener, url) = wire.listen();
            thread::scope(|scope| {
                scope.spawn(|| {
                    // They read nothing, and answer nothing.
                    let raws = [wire.accept(&listener), wire.accept(&listener)];
                    for mut raw in raws {
                        // Until the process has ended.
                        while matches!(raw.socket.read(&mut [0; 1 << 16]), Ok(1..)) {}
                    }
                });
                rig::again(TEST, (URL, &url), 3 * DEADLINE);
            });
        }),
    }
}

fn main_that_returns(url: &str) {
    let mut options = Options::new();
    #[cfg(feature = "native-tls")]
    options.danger_accept_invalid_certs(true);
    options.ping_interval(None);
    let connect = || {
        let ws = options.connect(url).unwrap();
        ws.wait_ready_timeout(DEADLINE).unwrap();
        ws
    };
    // One is in use on threads that nobody waits for.
    let used = connect();
    let getter = used.clone();
    thread::spawn(move || getter.get());
    thread::spawn(move || while used.put(vec![0; 1 << 20]).is_ok() {});
    // One is dropped here, with a callback that never returns and much to send.
    let ws = connect();
    ws.on_ready(|| thread::sleep(HOUR));
    ws.subscribe_concurrent(1, |_| thread::sleep(HOUR));
    while ws.put_nowait(vec![0; 1 << 20]).is_ok() {}
}

// daydreamlive/DEMON 295: the peer stops reading, sending holds the lock, the ping waits for it, and nobody
// notices for 13 minutes.
#[test]
fn a_peer_that_accepts_no_bytes_is_reported_within_ping_interval_and_ping_timeout() {
    over_each(|wire| {
        // Time enough to fill all buffers before a ping is due, which would be in front of what fills them.
        let (interval, timeout) = (Duration::from_millis(300), Duration::from_millis(100));
        let bound = interval + timeout + Duration::from_millis(200);
        let found_after = |_| {
            let (client, _raw) = wire.client_and_raw(|options| {
                options
                    .ping_interval(interval)
                    .ping_timeout(timeout)
                    .send_queue(1 << 20);
            });
            let putting = thread::spawn({
                let client = client.clone();
                move || {
                    let mut last = Instant::now();
                    while client.put(vec![0; 100_000]).is_ok() {
                        last = Instant::now();
                    }
                    last
                }
            });
            let error = client.wait_error_timeout(DEADLINE).unwrap().unwrap();
            let found = Instant::now();
            assert!(matches!(error, Error::PingTimeout { .. }), "{error}");
            found - putting.join().unwrap()
        };
        // A busy machine may be late, but not each time.
        let in_time = (0..10).map(found_after).any(|time| time < bound);
        assert!(in_time, "not once in {bound:?}");
    });
}

/// Closes what is connecting and has come as far as `reached` says, which would take an hour more.
fn close_while_connecting(wire: &Wire, url: &str, reached: impl FnOnce()) {
    let ws = wire
        .options()
        .connect_timeout(HOUR)
        .close_timeout(HOUR)
        .connect(url)
        .unwrap();
    let waiting = thread::spawn({
        let ws = ws.clone();
        move || ws.wait_ready()
    });
    reached();
    let closing = ws.clone();
    within(DEADLINE, move || closing.close()).unwrap();
    assert!(ws.is_closed() && ws.error().is_none());
    let error = within(DEADLINE, move || waiting.join().unwrap()).unwrap_err();
    assert!(error.is_orderly(), "{error}");
}

// IXWebSocket 151: `stop()` waits for what is under way. (No look-up can be made slow here: a test beside it, in
// `src/net/connect.rs`, sees to that it can be given up.)
#[test]
#[cfg(target_os = "linux")]
fn close_during_the_tcp_connection_returns_at_once() {
    let listener = TcpListener::bind((rig::own_address(), 0)).unwrap();
    let address = listener.local_addr().unwrap();
    // The smallest backlog: one is taken, and the others' SYN goes unanswered.
    rustix::net::listen(&listener, 0).unwrap();
    let _first = TcpStream::connect(address).unwrap();
    // As in proc_net_tcp(5): the remote port, and the state SYN_SENT.
    let connecting = format!(":{:04X} 02 ", address.port());
    close_while_connecting(&Wire::Ws, &format!("ws://{address}/"), || {
        eventually("a SYN was sent", || {
            let sockets = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
            sockets.contains(&connecting)
        });
    });
}

#[test]
fn close_during_the_tls_handshake_returns_at_once() {
    // Over `ws` it is the only one.
    over_each(|wire| {
        let (listener, url) = wire.listen();
        let mut silent = None;
        close_while_connecting(wire, &url, || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_exact(&mut [0]).unwrap();
            silent = Some(stream);
        });
    });
}

#[test]
fn close_during_the_websocket_handshake_returns_at_once() {
    over_each(|wire| {
        let (listener, url) = wire.listen();
        let mut silent = None;
        close_while_connecting(wire, &url, || {
            let (mut stream, _) = wire.accept_bytes(&listener);
            stream.read_exact(&mut [0]).unwrap();
            silent = Some(stream);
        });
    });
}

#[test]
fn close_at_once_after_connect_ends_whatever_connecting_was_doing() {
    for n in 0..300 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let host = if n % 2 == 0 { "localhost" } else { "127.0.0.1" };
        let client = Options::new()
            .connect_timeout(HOUR)
            .close_timeout(HOUR)
            .connect(format!("ws://{host}:{port}"))
            .unwrap();
        for _ in 0..n {
            std::hint::spin_loop();
        }
        within(DEADLINE, move || client.close()).unwrap();
    }
}

// IXWebSocket 151: `stop()` waits for the next attempt to connect.
#[test]
fn close_between_two_attempts_returns_at_once_and_wakes_who_waits() {
    over_each(|wire| {
        for n in 0..100 {
            let (listener, url) = wire.listen();
            let hour = Backoff {
                initial: HOUR,
                max: HOUR,
                jitter: 0.0,
                ..Backoff::default()
            };
            let ws = wire.options().reconnect(hour).connect(url).unwrap();
            drop(wire.accept(&listener));
            eventually("the loss", || ws.last_error().is_some());
            let getting = thread::spawn({
                let ws = ws.clone();
                move || ws.get()
            });
            match n % 2 {
                0 => within(DEADLINE, move || ws.close()).unwrap(),
                _ => {
                    // By another thread, while this one has no handle left.
                    let closed = ws.closed_signal().clone();
                    thread::spawn(move || ws.close());
                    within(DEADLINE, move || closed.recv()).unwrap_err();
                }
            }
            let end = within(DEADLINE, move || getting.join().unwrap());
            assert!(matches!(end, Err(Error::Closed(_))), "{end:?}");
        }
    });
}

// websocket-client 974: it reconnects only once.
#[test]
fn it_reconnects_as_often_as_it_is_cut_off() {
    over_each(|wire| {
        let (listener, url) = wire.listen();
        let soon = Backoff {
            initial: Duration::from_millis(1),
            max: Duration::from_millis(20),
            ..Backoff::default()
        };
        let mut options = wire.options();
        let ws = options.json(false).reconnect(soon).connect(url).unwrap();
        for n in 0..100u32 {
            let mut raw = wire.accept(&listener);
            ws.put(n.to_string()).unwrap();
            assert_eq!(raw.read().unwrap().to_text().unwrap(), n.to_string());
            raw.send(n.to_string().into()).unwrap();
            assert_eq!(ws.get_timeout(DEADLINE).unwrap(), *n.to_string());
        }
        let _last = wire.accept(&listener);
        eventually("the last", || ws.stats().reconnects == 100);
        ws.wait_ready_timeout(DEADLINE).unwrap();
    });
}

/// What may be called back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Callback {
    OnReady,
    OnError,
    OnClose,
    Message,
    Concurrent,
    /// A sink of the program's own, which is called where callbacks are.
    Sink,
    /// For a client that reconnects.
    OnDisconnect,
    /// The function of `header_with`, which is called on the reader thread.
    Header,
}

/// Those that any client may have.
const CALLBACKS: [Callback; 6] = [
    Callback::OnReady,
    Callback::OnError,
    Callback::OnClose,
    Callback::Message,
    Callback::Concurrent,
    Callback::Sink,
];

impl Callback {
    /// Has `f` called once, with the handle that it takes.
    fn register(self, ws: Websocket, f: impl FnOnce(Websocket) + Send + 'static) {
        struct Calls<F>(F);
        impl<F: Fn() + Send + Sync + 'static> Sink<Message> for Calls<F> {
            fn put_nowait(&self, _: Message) -> Result<(), PutError<Message>> {
                (self.0)();
                Ok(())
            }
        }
        let handle = ws.downgrade();
        let once = std::sync::Mutex::new(Some(move || f(ws)));
        let call = move || {
            let f = once.lock().unwrap().take();
            if let Some(f) = f {
                f();
            }
        };
        let ws = handle.upgrade().unwrap();
        match self {
            Callback::OnReady => ws.on_ready(call),
            Callback::OnError => ws.on_error(move |_| call()),
            Callback::OnClose => ws.on_close(call),
            Callback::Message => drop(ws.subscribe_callback(move |_| call())),
            Callback::Concurrent => drop(ws.subscribe_concurrent(2, move |_| call())),
            Callback::Sink => drop(ws.subscribe_to(Calls(call))),
            Callback::OnDisconnect => ws.on_disconnect(move |_| call()),
            Callback::Header => panic!("is not registered but a setting"),
        }
    }

    /// Makes it be called, and reads for as long as there is something.
    fn provoke(self, mut raw: Raw) {
        match self {
            Callback::OnReady | Callback::Header => {}
            Callback::OnError | Callback::OnDisconnect => {
                drop(raw.socket.shutdown(Shutdown::Both));
            }
            Callback::OnClose => raw.close(None).unwrap(),
            Callback::Message | Callback::Concurrent | Callback::Sink => {
                raw.send(tungstenite::Message::text("1")).unwrap();
            }
        }
        raw.pump();
    }
}

/// A client for whom each wait that has to be ended by its time-out is a hang, and its server.
fn patient_client(wire: &Wire) -> (Websocket, TcpListener) {
    let (listener, url) = wire.listen();
    let mut options = wire.options();
    options.close_timeout(HOUR).linger(HOUR);
    (options.connect(url).unwrap(), listener)
}

// IXWebSocket 223: the callback for the end joins a thread that is sending, and neither gets on.
#[test]
fn any_method_may_be_called_from_any_callback() {
    over_each(|wire| {
        for callback in CALLBACKS {
            eprintln!("{callback:?}");
            let (client, listener) = patient_client(wire);
            let (sender, done) = bounded(1);
            callback.register(client, move |ws| {
                call_everything(&ws, callback);
                sender.send(()).unwrap();
            });
            callback.provoke(wire.accept(&listener));
            done.recv_timeout(DEADLINE)
                .unwrap_or_else(|_| panic!("{callback:?}"));
        }
    });
}

fn call_everything(ws: &Websocket, callback: Callback) {
    let moment = Duration::from_millis(1);
    let _ = ws.put(json!(1));
    let _ = ws.put_nowait(json!(1));
    let _ = ws.put_timeout(json!(1), HOUR);
    ws.put_subscription(unbounded::<Message>().1);
    drop(ws.subscription());
    ws.stop_subscription();
    let _ = (ws.try_get(), ws.get_timeout(moment));
    ws.unsubscribe_default();
    ws.unsubscribe(ws.subscribe());
    ws.unsubscribe(ws.subscribe_with(Queue::Latest));
    ws.unsubscribe(ws.subscribe_to(unbounded().0));
    ws.unsubscribe(ws.subscribe_callback(|_| {}));
    ws.unsubscribe(ws.subscribe_concurrent(1, |_| {}));
    ws.resume();
    ws.on_ready(|| {});
    ws.on_error(|_| {});
    ws.on_close(|| {});
    ws.on_disconnect(|_| {});
    let _ = (ws.is_ready(), ws.is_closed(), ws.error(), ws.end_reason());
    let _ = (ws.last_error(), ws.latency(), ws.stats(), ws.ping("ping"));
    let _ = (ws.name(), ws.peer_addr(), ws.local_addr(), ws.subprotocol());
    let _ = (ws.request(), ws.response(), format!("{ws:?}"));
    if callback != Callback::OnDisconnect {
        // It is not ready, and is not to be for an hour.
        let _ = (ws.wait_ready(), ws.wait_ready_timeout(HOUR));
    }
    let _ = ws.closed_signal().recv_timeout(moment);
    let _ = (
        ws.wait_closed_timeout(moment),
        ws.wait_error_timeout(moment),
    );
    let closed = [
        ws.close_with(4000, "from a callback"),
        ws.close(),
        ws.wait_closed(),
        ws.wait_error().map(drop),
    ];
    let _ = (ws.sent_close(), ws.received_close());
    if callback == Callback::Header {
        // It cannot wait for the thread that it is called on, and so for the end, or for a message.
        while ws.try_get().is_ok() {}
        assert!(matches!(ws.get(), Err(Error::OwnThread)));
        assert!(matches!(ws.get_timeout(HOUR), Err(Error::OwnThread)));
        for closed in closed {
            assert!(matches!(closed, Err(Error::OwnThread)), "{closed:?}");
        }
    } else {
        assert!(ws.is_closed());
        while ws.get().is_ok() {}
    }
    ws.unsubscribe_all();
}

#[test]
fn the_last_handle_may_be_dropped_in_any_callback() {
    over_each(|wire| {
        for callback in CALLBACKS {
            eprintln!("{callback:?}");
            let (client, listener) = patient_client(wire);
            let (sender, done) = bounded(1);
            // It has the only one.
            callback.register(client, move |ws| {
                let weak = ws.downgrade();
                drop(ws);
                sender.send(weak.upgrade().is_none()).unwrap();
            });
            callback.provoke(wire.accept(&listener));
            assert_eq!(done.recv_timeout(DEADLINE), Ok(true), "{callback:?}");
        }
    });
}

#[test]
fn any_method_may_be_called_when_a_connection_is_lost() {
    over_each(|wire| {
        let callback = Callback::OnDisconnect;
        for calls in [true, false] {
            let (listener, url) = wire.listen();
            let later = Backoff {
                initial: HOUR,
                max: HOUR,
                ..Backoff::default()
            };
            let mut options = wire.options();
            options.close_timeout(HOUR).linger(HOUR).reconnect(later);
            let client = options.connect(url).unwrap();
            let end = client.closed_signal().clone();
            let (sender, done) = bounded(1);
            callback.register(client, move |ws| {
                if calls {
                    call_everything(&ws, callback);
                }
                // It is the last one.
                drop(ws);
                sender.send(()).unwrap();
            });
            callback.provoke(wire.accept(&listener));
            assert_eq!(done.recv_timeout(DEADLINE), Ok(()));
            assert_eq!(end.recv_timeout(DEADLINE), disconnected());
        }
    });
}

#[test]
fn any_method_may_be_called_from_the_function_for_a_header() {
    over_each(|wire| {
        for calls in [true, false] {
            let (listener, url) = wire.listen();
            let (give, given) = bounded::<Websocket>(1);
            let (sender, done) = bounded(1);
            let mut options = wire.options();
            options.close_timeout(HOUR).linger(HOUR);
            options.header_with("X-Test", move || {
                let ws = given.recv_timeout(DEADLINE)?;
                if calls {
                    call_everything(&ws, Callback::Header);
                }
                drop(ws);
                sender.send(()).unwrap();
                Ok("test".to_owned())
            });
            let client = options.connect(url).unwrap();
            let end = client.closed_signal().clone();
            give.send(client).unwrap();
            assert_eq!(done.recv_timeout(DEADLINE), Ok(()));
            if calls {
                // There was something to be sent; without, it is given up.
                Callback::Header.provoke(wire.accept(&listener));
            }
            assert_eq!(end.recv_timeout(DEADLINE), disconnected());
        }
    });
}

#[test]
fn a_callback_for_the_end_may_join_a_thread_that_is_sending() {
    over_each(|wire| {
        for callback in [Callback::OnClose, Callback::OnError] {
            let (client, raw) = wire.client_and_raw(|options| {
                options.send_queue(1).close_timeout(HOUR);
            });
            let sending = {
                let client = client.clone();
                let thread = thread::Builder::new().name("sends-223".into());
                let send = move || while client.put(vec![0; 1 << 20]).is_ok() {};
                thread.spawn(send).unwrap()
            };
            let (sender, done) = bounded(1);
            callback.register(client, move |_| {
                sender.send(sending.join().is_ok()).unwrap();
            });
            eventually_asleep("sends-223", 1);
            // Who writes to it notices nothing.
            raw.socket.shutdown(Shutdown::Write).unwrap();
            assert_eq!(done.recv_timeout(DEADLINE), Ok(true), "{callback:?}");
        }
    });
}

// IXWebSocket's new server API, as its README says: a callback that owns its socket leaks it.
#[test]
#[cfg(target_os = "linux")]
fn a_callback_that_holds_its_own_websocket_leaks_neither_memory_nor_threads() {
    const MIB: usize = 1 << 20;
    let test = "a_callback_that_holds_its_own_websocket_leaks_neither_memory_nor_threads";
    alone(test, || {
        over_each(|wire| {
            let mut before = 0;
            for n in 0..100 {
                let alive = Arc::new(());
                let end = [End::Close, End::PeerCloses, End::Cut][n % 3];
                let (client, raw) = wire.client_and_raw(|options| end.options(options));
                for callback in CALLBACKS {
                    let held = (alive.clone(), vec![1u8; MIB]);
                    // Most are never called.
                    callback.register(client.clone(), move |_| drop(held));
                }
                end.come(&client, raw);
                let weak = client.downgrade();
                drop(client);
                eventually("all callbacks are dropped", || {
                    Arc::strong_count(&alive) == 1
                });
                eventually("the last handle is dropped", || weak.upgrade().is_none());
                eventually("no thread is left", || rig::threads_named("ws-") == 0);
                if n == 20 {
                    before = rig::resident();
                }
            }
            // What the 79 had since was 6 MiB each.
            let grown = rig::resident().saturating_sub(before);
            assert!(grown < 79 * MIB, "{grown} bytes");
        });
    });
}

// nv-websocket-client 99: a callback on the writer thread fills the queue that this thread is to empty.
#[test]
fn a_callback_that_puts_more_than_the_queue_holds_makes_progress() {
    const COUNT: usize = 2000;
    over_each(|wire| {
        for callback in CALLBACKS {
            let (listener, url) = wire.listen();
            let mut options = wire.options();
            // Room for some ten.
            let client = options.send_queue(1000).connect(url).unwrap();
            let (sender, done) = bounded(1);
            callback.register(client.clone(), move |ws| {
                let put = (0..COUNT).take_while(|n| ws.put(json!(n)).is_ok());
                sender.send(put.count()).unwrap();
            });
            let raw = wire.accept(&listener);
            let pumping = thread::spawn(move || callback.provoke(raw));
            // Once it has ended, nothing is taken.
            let expected = match callback {
                Callback::OnError | Callback::OnClose => 0,
                _ => COUNT,
            };
            assert_eq!(done.recv_timeout(DEADLINE), Ok(expected), "{callback:?}");
            drop(client);
            pumping.join().unwrap();
        }
    });
}

// The same the other way round: the queue of callbacks is full, and the callback waits for what would come after.
#[test]
fn a_callback_may_wait_for_messages_and_for_the_end_whatever_comes_meanwhile() {
    // More than may wait for a callback.
    const COUNT: u32 = 5000;
    for workers in [0, 1, 3] {
        let (client, server) = rig::pair();
        let (own, orders) = (client.clone(), client.subscribe_with(Queue::Unbounded));
        let (sender, told) = unbounded();
        let wait = move |first: bool| {
            if first {
                let got = (0..COUNT).filter(|_| orders.get().is_ok()).count();
                own.wait_closed().unwrap();
                sender.send((got, own.is_closed())).unwrap();
            }
        };
        let first = AtomicBool::new(true);
        let call = move |_| wait(first.swap(false, Ordering::SeqCst));
        match workers {
            0 => client.subscribe_callback(call),
            workers => client.subscribe_concurrent(workers, call),
        };
        let putting = thread::spawn(move || {
            for n in 0..COUNT {
                server.put(json!(n)).unwrap();
            }
            server.close()
        });
        let told = told.recv_timeout(DEADLINE).unwrap();
        assert_eq!(told, (COUNT as usize, true));
        putting.join().unwrap().unwrap();
    }
}

// jetty 4781 and 272: a write that blocks hangs for ever.
#[test]
fn a_write_that_the_peer_does_not_take_ends_with_the_connection() {
    over_each(|wire| {
        for dropped in [false, true] {
            let timeout = Duration::from_millis(100);
            // Without pings nothing but the end of the connection ends it.
            let (client, _raw) = wire.client_and_raw(|options| {
                options
                    .ping_interval(None)
                    .send_queue(1)
                    .close_timeout(timeout)
                    .linger(timeout);
            });
            let messages = client.subscribe();
            let closed = client.closed_signal().clone();
            // The first is taken by the writer, the second finds room then, and the third does not.
            let message = vec![0; 15 << 20];
            client.put(message.clone()).unwrap();
            client.put_timeout(message.clone(), DEADLINE).unwrap();
            let full = client.put_timeout(message, Duration::from_millis(10));
            assert!(full.unwrap_err().is_full());
            if dropped {
                within(DEADLINE, move || drop(client));
            } else {
                let error = within(DEADLINE, move || client.close()).unwrap_err();
                assert!(matches!(error, Error::CloseTimeout { .. }), "{error}");
            }
            // Told when both threads have ended, the one that writes included.
            assert_eq!(closed.recv_timeout(DEADLINE), disconnected());
            let error = messages.get().unwrap_err();
            assert!(
                matches!(error, Error::CloseTimeout { unsent: 2, .. }),
                "{error}"
            );
        }
    });
}

fn disconnected<T>() -> Result<T, crossbeam_channel::RecvTimeoutError> {
    Err(crossbeam_channel::RecvTimeoutError::Disconnected)
}

// websocket-client 798 and 131: a close takes effect when the next message comes, and not before.
#[test]
fn close_takes_effect_though_no_message_comes() {
    over_each(|wire| {
        let (client, mut raw) = wire.client_and_raw(|options| {
            options.close_timeout(HOUR).ping_interval(None);
        });
        let closing = thread::spawn(move || client.close());
        // It is told at once, and has said nothing by then.
        assert!(raw.read().unwrap().is_close());
        raw.pump();
        within(DEADLINE, move || closing.join().unwrap()).unwrap();
    });
}

#[test]
fn close_takes_effect_though_the_peer_never_says_anything() {
    over_each(|wire| {
        let timeout = Duration::from_millis(50);
        let (client, _raw) = wire.client_and_raw(|options| {
            options.close_timeout(timeout).ping_interval(None);
        });
        let error = within(DEADLINE, move || client.close()).unwrap_err();
        assert!(
            matches!(error, Error::CloseTimeout { unsent: 0, after } if after == timeout),
            "{error}"
        );
    });
}

// RTCBot's `websocket.py`: `get()` after the end waits for ever.
#[test]
fn get_after_the_end_gives_what_is_queued_and_then_the_reason() {
    over_each(|wire| {
        let (client, server) = wire.pair(|_| {});
        assert!(matches!(client.try_get(), Err(Error::Empty)));
        server.put_nowait(json!("last words")).unwrap();
        server.close().unwrap();
        client.wait_closed_timeout(DEADLINE).unwrap();
        within(DEADLINE, move || {
            assert_eq!(client.get().unwrap(), "last words");
            for _ in 0..2 {
                assert!(is_closed_by_peer(&client.get().unwrap_err()));
            }
            // One that begins only now, too.
            client.unsubscribe_default();
            assert!(is_closed_by_peer(&client.get().unwrap_err()));
        });
    });
}

// Binary messages vanish there.
#[test]
fn binary_messages_arrive() {
    over_each(|wire| {
        let (client, server) = wire.pair(|_| {});
        let echoed = client.subscribe();
        server.subscribe_to(server.clone());
        let bytes: Vec<u8> = (0..=255).collect();
        client.put_nowait(bytes.clone()).unwrap();
        let message = echoed.get_timeout(DEADLINE).unwrap();
        assert_eq!(message.as_bytes(), Some(&bytes[..]));
    });
}

// `onError()` cannot be awaited there.
#[test]
fn an_error_can_be_waited_for_and_an_orderly_end_is_none() {
    over_each(|wire| {
        for end in ENDS {
            let (client, raw) = wire.client_and_raw(|options| end.options(options));
            let waiting = thread::spawn({
                let client = client.clone();
                move || client.wait_error().unwrap()
            });
            end.come(&client, raw);
            end.check_failure(within(DEADLINE, move || waiting.join()).unwrap());
        }
    });
}
