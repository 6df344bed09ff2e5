//! What happens while the operating system starts no thread. A library that is loaded before the
//! others makes `pthread_create` fail when a test asks for it. Each test runs in a process of its
//! own.
//!
//! The environment variables `RTCBOT_SEED` and `RTCBOT_CONNECTIONS` set which threads are refused
//! at random, and for how many connections.
#![cfg(target_os = "linux")]

mod testkit;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::bounded;
use rtcbot_websocket::pubsub;
use rtcbot_websocket::{
    Backoff, Error, Message, Options, Queue, Server, WeakWebsocket, Websocket, json,
};
use testkit::{
    DEADLINE, UPGRADE, eventually, failure, last_error, masked_frame, on_loss, read_close_code,
    read_head, records, server_and_bytes, threads_named,
};

/// How many items may wait for callbacks.
const ROOM: usize = 1024;

/// Which threads of this process are refused: see `testkit/refuse_threads.c`.
#[derive(Clone)]
struct Threads(Arc<File>);

impl Threads {
    fn tell(&self, pass: i32, refuse: i32, permille: i32, seed: i32) {
        let words = [pass, refuse, permille, seed];
        let bytes: Vec<u8> = words.into_iter().flat_map(i32::to_ne_bytes).collect();
        self.0.write_all_at(&bytes, 0).unwrap();
    }

    /// Refuses all threads from now on.
    fn refuse_all(&self) {
        self.tell(0, -1, 1000, 0);
    }

    /// Refuses the next `n` threads.
    fn refuse(&self, count: i32) {
        self.tell(0, count, 1000, 0);
    }

    /// Refuses all threads but the next `n`.
    fn refuse_all_after(&self, pass: i32) {
        self.tell(pass, -1, 1000, 0);
    }

    fn refuse_by_chance(&self, permille: i32, seed: i32) {
        self.tell(0, -1, permille, seed);
    }

    fn allow(&self) {
        self.tell(0, 0, 0, 0);
    }

    /// How many have been refused so far.
    fn refused(&self) -> i32 {
        let mut word = [0; 4];
        self.0.read_exact_at(&mut word, 16).unwrap();
        i32::from_ne_bytes(word)
    }
}

/// Runs `body` in a process of its own, through the test of this name, which calls this.
#[track_caller]
fn among_refusals(test: &str, body: impl FnOnce(&Threads)) {
    const NAME: &str = "RTCBOT_REFUSALS";
    const FILE: &str = "REFUSE_THREADS";
    if std::env::var_os(NAME).is_some_and(|name| name == test) {
        let path = std::env::var_os(FILE).unwrap();
        let file = File::options().read(true).write(true).open(path).unwrap();
        return body(&Threads(Arc::new(file)));
    }
    let Some(library) = testkit::preload::library("testkit/refuse_threads.c") else {
        return testkit::skip("there is no C compiler (cc)");
    };
    let control = library.with_file_name(format!("{test}-{}", std::process::id()));
    fs::write(&control, [0; 20]).unwrap();
    let environment = [
        (NAME, test),
        (FILE, control.to_str().unwrap()),
        ("LD_PRELOAD", library.to_str().unwrap()),
    ];
    testkit::again_with(test, &environment, 12 * DEADLINE);
    fs::remove_file(control).unwrap();
}

#[track_caller]
fn assert_one_complaint() {
    assert_eq!(records::count("cannot start"), 1, "{}", records::all());
}

/// What happened to callbacks, and to what they own.
#[derive(Clone, Default)]
struct Fate {
    called: Arc<AtomicUsize>,
    closed: Arc<AtomicUsize>,
    failed: Arc<AtomicUsize>,
    /// Held by all callbacks.
    owned: Arc<()>,
}

/// The kind of callbacks.
#[derive(Clone, Copy, Debug)]
enum Kind {
    InOrder,
    Concurrent,
}

impl Fate {
    fn called(&self) -> usize {
        self.called.load(Ordering::SeqCst)
    }

    // A closure that calls one of these owns all of it.

    fn count_call(&self) {
        self.called.fetch_add(1, Ordering::SeqCst);
    }

    fn count_close(&self) {
        self.closed.fetch_add(1, Ordering::SeqCst);
    }

    fn count_failure(&self) {
        self.failed.fetch_add(1, Ordering::SeqCst);
    }

    /// The robot of the README, whose callback keeps its connection open.
    fn robot(&self, ws: &Websocket, kind: Kind) {
        let (fate, own) = (self.clone(), ws.clone());
        ws.on_close(move || {
            let _ = &own;
            fate.count_close();
        });
        let fate = self.clone();
        ws.on_error(move |_| fate.count_failure());
        let (fate, answers) = (self.clone(), ws.clone());
        let answer = move |order: Message| {
            let _ = answers.put_nowait(order);
            fate.count_call();
        };
        match kind {
            Kind::InOrder => ws.subscribe_callback(answer),
            Kind::Concurrent => ws.subscribe_concurrent(2, answer),
        };
    }

    /// As [`robot`](Self::robot), when the sender is used, on a thread that exists before any is
    /// refused.
    fn robot_later(&self, ws: &Websocket, kind: Kind) -> (mpsc::Sender<()>, JoinHandle<()>) {
        let (go, gone) = mpsc::channel();
        let (fate, ws) = (self.clone(), ws.clone());
        let thread = thread::spawn(move || {
            let _ = gone.recv();
            fate.robot(&ws, kind);
        });
        (go, thread)
    }

    /// Checks that all has ended, and that everything the callbacks owned has been dropped.
    #[track_caller]
    fn assert_over(&self, connections: usize) {
        eventually("what the callbacks own is dropped", || {
            Arc::strong_count(&self.owned) == 1
        });
        assert_eq!(self.closed.load(Ordering::SeqCst), connections);
        eventually("all threads have ended", || threads_named("ws-") == 0);
    }
}

/// Every message was given to the callback, or is counted.
#[track_caller]
fn assert_nothing_is_lost(ws: &Websocket, fate: &Fate) {
    let all = || {
        (
            ws.stats().messages_in,
            fate.called() as u64 + ws.stats().dropped,
        )
    };
    eventually("the last call", || all().0 == all().1);
}

/// A ready connection with all its threads, and the client's end of it.
fn with_its_threads(options: &Options) -> (Websocket, TcpStream) {
    let pair = server_and_bytes(options);
    eventually("its writer", || threads_named("ws-write") == 1);
    pair
}

fn flood(stream: &mut TcpStream, count: usize) {
    let frames = (0..count).flat_map(|n| masked_frame(0x81, n.to_string().as_bytes()));
    stream.write_all(&frames.collect::<Vec<_>>()).unwrap();
}

/// Waits until the callback is registered, with or without its thread. Concurrent callbacks get
/// theirs with the first message.
fn registered(threads: &Threads, kind: Kind, registering: JoinHandle<()>) {
    let before = threads.refused();
    match kind {
        Kind::InOrder => eventually("a refusal", || threads.refused() > before),
        Kind::Concurrent => registering.join().unwrap(),
    }
}

fn callbacks_get_a_thread_in_the_end(threads: &Threads, kind: Kind) {
    let (ws, mut peer) = with_its_threads(&Options::new());
    let fate = Fate::default();
    let (go, registering) = fate.robot_later(&ws, kind);
    threads.refuse_all();
    go.send(()).unwrap();
    registered(threads, kind, registering);
    flood(&mut peer, 2 * ROOM);
    eventually("that many wait", || {
        ws.stats().receive_queue >= ROOM || ws.is_closed()
    });
    threads.allow();
    let all = || fate.called() == 2 * ROOM;
    eventually("the calls, or the end", || all() || ws.is_closed());
    if !all() {
        // The machine was too slow.
        assert!(matches!(ws.error(), Some(Error::Thread(_))));
    }
    drop(peer);
    let _ = ws.wait_closed_timeout(DEADLINE);
    assert_nothing_is_lost(&ws, &fate);
    drop(ws);
    fate.assert_over(1);
}

#[test]
fn callbacks_without_a_thread_for_a_moment_are_still_called() {
    among_refusals(
        "callbacks_without_a_thread_for_a_moment_are_still_called",
        |threads| callbacks_get_a_thread_in_the_end(threads, Kind::InOrder),
    );
}

#[test]
fn concurrent_callbacks_without_a_thread_for_a_moment_are_still_called() {
    among_refusals(
        "concurrent_callbacks_without_a_thread_for_a_moment_are_still_called",
        |threads| callbacks_get_a_thread_in_the_end(threads, Kind::Concurrent),
    );
}

fn callbacks_get_no_thread(threads: &Threads, kind: Kind) {
    records::keep(log::LevelFilter::Error);
    let (ws, mut peer) = with_its_threads(&Options::new());
    let fate = Fate::default();
    let (go, registering) = fate.robot_later(&ws, kind);
    threads.refuse_all();
    go.send(()).unwrap();
    flood(&mut peer, 2 * ROOM);
    let error = ws.wait_closed_timeout(DEADLINE).unwrap_err();
    assert!(matches!(error, Error::Thread(_)), "{error}");
    registering.join().unwrap();
    assert_nothing_is_lost(&ws, &fate);
    drop(ws);
    fate.assert_over(1);
    assert_eq!(fate.failed.load(Ordering::SeqCst), 1);
    assert_one_complaint();
    // The connection to the peer is ended.
    let _ = peer.read_to_end(&mut Vec::new());
}

#[test]
fn a_connection_whose_callbacks_get_no_thread_fails_and_calls_them() {
    among_refusals(
        "a_connection_whose_callbacks_get_no_thread_fails_and_calls_them",
        |threads| callbacks_get_no_thread(threads, Kind::InOrder),
    );
}

#[test]
fn a_connection_whose_concurrent_callbacks_get_no_thread_fails_and_calls_them() {
    among_refusals(
        "a_connection_whose_concurrent_callbacks_get_no_thread_fails_and_calls_them",
        |threads| callbacks_get_no_thread(threads, Kind::Concurrent),
    );
}

#[test]
fn a_second_worker_without_a_thread_for_a_moment_is_started_later() {
    among_refusals(
        "a_second_worker_without_a_thread_for_a_moment_is_started_later",
        |threads| {
            let (ws, mut stream) = with_its_threads(&Options::new());
            let (told, begun) = bounded(1);
            let (answer, answered) = bounded(1);
            let (done, first_is_done) = bounded(1);
            ws.subscribe_concurrent(2, move |message| {
                if message == "first" {
                    told.send(()).unwrap();
                    // It waits for what another worker does.
                    done.send(answered.recv_timeout(DEADLINE).is_ok()).unwrap();
                } else {
                    answer.send(()).unwrap();
                }
            });
            stream.write_all(&masked_frame(0x81, b"first")).unwrap();
            begun.recv_timeout(DEADLINE).unwrap();
            threads.refuse_all();
            stream.write_all(&masked_frame(0x81, b"second")).unwrap();
            eventually("a refusal", || threads.refused() > 0);
            threads.allow();
            assert_eq!(first_is_done.recv_timeout(2 * DEADLINE), Ok(true));
            assert!(ws.is_ready());
        },
    );
}

#[test]
fn callbacks_run_with_fewer_workers_where_threads_run_out() {
    among_refusals(
        "callbacks_run_with_fewer_workers_where_threads_run_out",
        |threads| {
            const MESSAGES: usize = 200;
            let (ws, mut stream) = with_its_threads(&Options::new());
            let calls = Arc::new(AtomicUsize::new(0));
            let counted = calls.clone();
            ws.subscribe_concurrent(8, move |_| {
                thread::sleep(Duration::from_millis(1));
                counted.fetch_add(1, Ordering::SeqCst);
            });
            // The first worker.
            threads.refuse_all_after(1);
            flood(&mut stream, MESSAGES);
            eventually("all calls", || calls.load(Ordering::SeqCst) == MESSAGES);
            assert!(threads.refused() > 0);
            assert!(ws.is_ready());
        },
    );
}

#[test]
fn a_connection_that_ends_without_a_thread_for_callbacks_calls_them() {
    among_refusals(
        "a_connection_that_ends_without_a_thread_for_callbacks_calls_them",
        |threads| {
            for kind in [Kind::InOrder, Kind::Concurrent] {
                threads.allow();
                let (ws, mut peer) = with_its_threads(&Options::new());
                let fate = Fate::default();
                let (go, registering) = fate.robot_later(&ws, kind);
                threads.refuse_all();
                go.send(()).unwrap();
                registered(threads, kind, registering);
                flood(&mut peer, 3);
                peer.write_all(&masked_frame(0x88, &1000u16.to_be_bytes()))
                    .unwrap();
                let _ = peer.read_to_end(&mut Vec::new());
                let end = failure(&ws);
                if let Some(error) = end {
                    // On a machine this slow, the second worker is missing.
                    assert!(matches!(error, Error::Thread(_)), "{error}");
                }
                assert_nothing_is_lost(&ws, &fate);
                assert_eq!(ws.stats().dropped, 0);
                drop(ws);
                fate.assert_over(1);
            }
        },
    );
}

#[test]
fn a_callback_on_a_connection_that_has_ended_is_called_without_a_thread() {
    among_refusals(
        "a_callback_on_a_connection_that_has_ended_is_called_without_a_thread",
        |threads| {
            let (ws, mut peer) = with_its_threads(&Options::new());
            flood(&mut peer, 3);
            drop(peer);
            let _ = ws.wait_closed_timeout(DEADLINE);
            eventually("all threads have ended", || threads_named("ws-") == 0);
            threads.refuse_all();
            let fate = Fate::default();
            fate.robot(&ws, Kind::InOrder);
            assert_eq!(fate.called(), 3);
            assert_eq!(fate.failed.load(Ordering::SeqCst), 1);
            drop(ws);
            fate.assert_over(1);
        },
    );
}

#[test]
fn a_connection_without_its_first_thread_calls_on_close() {
    among_refusals(
        "a_connection_without_its_first_thread_calls_on_close",
        |threads| {
            for pass in [0, 1] {
                let mut server = Server::bind((testkit::own_address(), 0)).unwrap();
                let mut peer = TcpStream::connect(server.local_addr().unwrap()).unwrap();
                peer.write_all(UPGRADE.as_bytes()).unwrap();
                let request = server.next_timeout(DEADLINE).unwrap();
                threads.refuse_all_after(pass);
                let ws = Websocket::accept(request);
                let fate = Fate::default();
                fate.robot(&ws, Kind::InOrder);
                let error = ws.wait_closed_timeout(DEADLINE).unwrap_err();
                assert!(matches!(error, Error::Thread(_)), "{error}");
                drop(ws);
                fate.assert_over(1);
                threads.allow();
                drop(server);
            }
        },
    );
}

#[test]
fn a_client_that_reconnects_keeps_messages_that_arrived_while_there_was_no_thread() {
    among_refusals(
        "a_client_that_reconnects_keeps_messages_that_arrived_while_there_was_no_thread",
        |threads| {
            const COUNT: usize = 4 * ROOM;
            let mut server = Server::bind((testkit::own_address(), 0)).unwrap();
            let quick = quick();
            let client = Options::new()
                .reconnect(quick)
                .connect(testkit::url(&server))
                .unwrap();
            let peer = Websocket::accept(server.next_timeout(DEADLINE).unwrap());
            client.wait_ready_timeout(DEADLINE).unwrap();
            eventually("both writers", || threads_named("ws-write") == 2);
            let (seen, lost) = (
                Arc::new(Mutex::new(Vec::new())),
                Arc::new(AtomicBool::new(false)),
            );
            let (go, gone) = mpsc::channel::<()>();
            let registering = thread::spawn({
                let (client, seen, lost) = (client.downgrade(), seen.clone(), lost.clone());
                move || {
                    let client = WeakWebsocket::upgrade(&client).unwrap();
                    let _ = gone.recv();
                    on_loss(&client, move |why| {
                        assert!(matches!(why, Error::Thread(_) | Error::Lost(_)), "{why}");
                        lost.store(true, Ordering::SeqCst);
                    });
                    client.subscribe_callback(move |n| {
                        seen.lock()
                            .unwrap()
                            .push(n.as_json().unwrap().as_u64().unwrap());
                    });
                }
            });
            threads.refuse_all();
            go.send(()).unwrap();
            eventually("a refusal", || threads.refused() > 0);
            for n in 0..COUNT {
                // On a slow machine, the second worker is missing by then.
                if peer.put(json!(n)).is_err() {
                    break;
                }
            }
            eventually("its end", || {
                matches!(last_error(&client), Some(Error::Thread(_)))
            });
            threads.allow();
            registering.join().unwrap();
            let peer = Websocket::accept(server.next_timeout(DEADLINE).unwrap());
            client.wait_ready_timeout(DEADLINE).unwrap();
            eventually("the loss is told", || lost.load(Ordering::SeqCst));
            let all = || {
                let stats = client.stats();
                (
                    stats.messages_in,
                    seen.lock().unwrap().len() as u64 + stats.dropped,
                )
            };
            eventually("all that came", || all().0 == all().1);
            assert_eq!(client.stats().dropped, 0);
            assert!(
                seen.lock()
                    .unwrap()
                    .iter()
                    .copied()
                    .eq(0..client.stats().messages_in)
            );
            client.close().unwrap();
            drop((client, peer));
            eventually("all threads have ended", || threads_named("ws-") == 0);
        },
    );
}

#[test]
fn a_producer_whose_callbacks_get_no_thread_drops_counts_and_calls_at_the_end() {
    among_refusals(
        "a_producer_whose_callbacks_get_no_thread_drops_counts_and_calls_at_the_end",
        |threads| {
            records::keep(log::LevelFilter::Error);
            threads.refuse_all();
            let called = Arc::new(AtomicUsize::new(0));
            for concurrent in [false, true] {
                records::clear();
                called.store(0, Ordering::SeqCst);
                let (mut publisher, producer) = pubsub::producer();
                let other = producer.subscribe_with(Queue::Unbounded);
                let count = called.clone();
                let call = move |_: usize| {
                    count.fetch_add(1, Ordering::SeqCst);
                };
                match concurrent {
                    false => producer.subscribe_callback(call),
                    true => producer.subscribe_concurrent(4, call),
                };
                for n in 0..3 * ROOM {
                    publisher.put(n);
                }
                assert_eq!(producer.dropped(), 2 * ROOM as u64);
                assert!(other.iter().take(3 * ROOM).eq(0..3 * ROOM));
                assert_eq!(called.load(Ordering::SeqCst), 0);
                drop(publisher);
                assert_eq!(called.load(Ordering::SeqCst), ROOM);
                assert_eq!(Arc::strong_count(&called), 1);
                assert_one_complaint();
            }
        },
    );
}

#[test]
fn a_producer_whose_callbacks_get_a_thread_again_continues() {
    among_refusals(
        "a_producer_whose_callbacks_get_a_thread_again_continues",
        |threads| {
            let called = Arc::new(AtomicUsize::new(0));
            let (mut publisher, producer) = pubsub::producer();
            threads.refuse(10);
            let count = called.clone();
            producer.subscribe_callback(move |_: usize| {
                count.fetch_add(1, Ordering::SeqCst);
            });
            for n in 0..3 * ROOM {
                publisher.put(n);
            }
            let all = || called.load(Ordering::SeqCst) as u64 + producer.dropped();
            eventually("the calls", || all() == 3 * ROOM as u64);
            drop(publisher);
            eventually("the callback is dropped", || {
                Arc::strong_count(&called) == 1
            });
            eventually("all threads have ended", || threads_named("ws-") == 0);
        },
    );
}

#[test]
fn a_full_sink_without_a_thread_is_dropped_and_its_items_are_counted() {
    among_refusals(
        "a_full_sink_without_a_thread_is_dropped_and_its_items_are_counted",
        |threads| {
            threads.refuse_all();
            let (mut publisher, producer) = pubsub::producer();
            for n in 0..10 {
                publisher.put(n);
            }
            let (sender, receiver) = bounded(2);
            // It has no room for the ten, so that a thread would have to wait for it.
            producer.subscribe_to(sender);
            for n in 10..3 * ROOM {
                publisher.put(n);
            }
            drop(publisher);
            let taken: Vec<usize> = receiver.iter().collect();
            assert_eq!(taken, [0, 1]);
            assert_eq!(producer.dropped(), 3 * ROOM as u64 - 2);
        },
    );
}

#[test]
fn a_full_sink_whose_thread_starts_late_loses_nothing() {
    among_refusals(
        "a_full_sink_whose_thread_starts_late_loses_nothing",
        |threads| {
            let (mut publisher, producer) = pubsub::producer();
            for n in 0..10 {
                publisher.put(n);
            }
            let (sender, receiver) = bounded(2);
            threads.refuse(5);
            producer.subscribe_to(sender);
            let asked = producer.clone();
            let publishing = thread::spawn(move || {
                for n in 10..100 {
                    publisher.put(n);
                }
            });
            assert!(receiver.iter().eq(0..100));
            publishing.join().unwrap();
            assert_eq!(asked.dropped(), 0);
        },
    );
}

#[test]
fn a_connection_that_is_dropped_by_its_callback_closes_in_order_without_another_thread() {
    among_refusals(
        "a_connection_that_is_dropped_by_its_callback_closes_in_order_without_another_thread",
        |threads| {
            let (ws, mut peer) = with_its_threads(&Options::new().ping_interval(None));
            let own = Arc::new(Mutex::new(Some(ws.clone())));
            let (refusing, last) = (threads.clone(), own.clone());
            ws.subscribe_callback(move |_| {
                if let Some(ws) = last.lock().unwrap().take() {
                    ws.put_nowait("the last").unwrap();
                    refusing.refuse(3);
                    drop(ws);
                }
            });
            drop(ws);
            flood(&mut peer, 1);
            assert_eq!(read_close_code(&mut peer), 1000);
            assert!(threads.refused() > 0);
            drop(peer);
            eventually("all threads have ended", || threads_named("ws-") == 0);
        },
    );
}

#[test]
fn a_connection_that_is_dropped_by_its_callback_ends_without_any_thread() {
    among_refusals(
        "a_connection_that_is_dropped_by_its_callback_ends_without_any_thread",
        |threads| {
            let (ws, mut peer) = with_its_threads(&Options::new().ping_interval(None));
            let own = Arc::new(Mutex::new(Some(ws.clone())));
            let (refusing, last) = (threads.clone(), own.clone());
            ws.subscribe_callback(move |_| {
                if let Some(ws) = last.lock().unwrap().take() {
                    refusing.refuse_all();
                    drop(ws);
                }
            });
            drop(ws);
            flood(&mut peer, 1);
            // The peer does not answer the Close frame, and never ends the stream.
            eventually("all threads have ended", || threads_named("ws-") == 0);
            drop(peer);
        },
    );
}

#[test]
fn a_server_without_a_thread_for_its_handlers_logs_it_once_and_continues() {
    among_refusals(
        "a_server_without_a_thread_for_its_handlers_logs_it_once_and_continues",
        |threads| {
            records::keep(log::LevelFilter::Error);
            let server = Server::bind((testkit::own_address(), 0)).unwrap();
            let (address, handle) = (server.local_addr().unwrap(), server.handle());
            let serving = thread::spawn(move || {
                server.serve(|request| {
                    let _ = request.respond(200, "here");
                });
            });
            let status = || {
                let mut client = TcpStream::connect(address).unwrap();
                client.set_read_timeout(Some(DEADLINE)).unwrap();
                client.write_all(UPGRADE.as_bytes()).unwrap();
                read_head(&mut client)[9..12].to_owned()
            };
            assert_eq!(status(), "200");
            threads.refuse_all();
            for _ in 0..100 {
                assert_eq!(status(), "503");
            }
            threads.allow();
            assert_eq!(status(), "200");
            assert_one_complaint();
            handle.shutdown(DEADLINE).unwrap();
            serving.join().unwrap();
        },
    );
}

#[test]
fn a_response_that_gets_no_thread_is_an_error_of_the_call() {
    among_refusals(
        "a_response_that_gets_no_thread_is_an_error_of_the_call",
        |threads| {
            let mut server = Server::bind((testkit::own_address(), 0)).unwrap();
            let mut client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
            client.set_read_timeout(Some(DEADLINE)).unwrap();
            client.write_all(UPGRADE.as_bytes()).unwrap();
            let request = server.next_timeout(DEADLINE).unwrap();
            threads.refuse_all();
            // More than the sockets take at once.
            let error = request.respond(200, vec![0; 64 << 20]).unwrap_err();
            assert!(matches!(error, Error::Thread(_)), "{error}");
            // The client is not left waiting for the rest.
            let _ = client.read_to_end(&mut Vec::new());
            assert!(server.handle().connections().is_empty());
        },
    );
}

#[test]
fn a_client_without_a_thread_for_the_look_up_tries_again() {
    among_refusals(
        "a_client_without_a_thread_for_the_look_up_tries_again",
        |threads| {
            let mut server = Server::bind("127.0.0.1:0").unwrap();
            let port = server.local_addr().unwrap().port();
            let url = format!("ws://localhost:{port}/");
            // The reader's own thread, and then none.
            threads.refuse_all_after(1);
            let fails = Websocket::connect(&url).unwrap();
            let error = fails.wait_ready_timeout(DEADLINE).unwrap_err();
            assert!(matches!(error, Error::Thread(_)), "{error}");
            threads.refuse_all_after(1);
            let client = Options::new().reconnect(quick()).connect(&url).unwrap();
            eventually("a failure", || {
                matches!(last_error(&client), Some(Error::Thread(_)))
            });
            threads.allow();
            let peer = Websocket::accept(server.next_timeout(DEADLINE).unwrap());
            client.wait_ready_timeout(DEADLINE).unwrap();
            client.close().unwrap();
            drop(peer);
        },
    );
}

/// A server with the robot of the README for each client, until shutdown; on a thread that exists
/// before any is refused.
fn robots(server: Server, fate: &Fate) -> JoinHandle<Vec<(Websocket, Fate)>> {
    let all = fate.clone();
    thread::spawn(move || {
        let mut robots = Vec::new();
        for (n, request) in server.enumerate() {
            let ws = Websocket::accept(request);
            let kind = match n % 4 {
                0 => Kind::Concurrent,
                _ => Kind::InOrder,
            };
            // Its own count of calls, and what all have in common.
            let fate = Fate {
                called: Arc::default(),
                ..all.clone()
            };
            fate.robot(&ws, kind);
            robots.push((ws, fate));
        }
        robots
    })
}

#[test]
fn many_clients_leave_nothing_behind_where_threads_run_out() {
    among_refusals(
        "many_clients_leave_nothing_behind_where_threads_run_out",
        |threads| {
            const WAVES: usize = 15;
            const CLIENTS: usize = 8;
            let fate = Fate::default();
            let server = Server::bind((testkit::own_address(), 0)).unwrap();
            let (address, handle) = (server.local_addr().unwrap(), server.handle());
            let serving = robots(server, &fate);
            for wave in 0..WAVES {
                let mut clients: Vec<_> = (0..CLIENTS)
                    .map(|_| {
                        let mut client = TcpStream::connect(address).unwrap();
                        client.set_read_timeout(Some(DEADLINE)).unwrap();
                        client.write_all(UPGRADE.as_bytes()).unwrap();
                        client
                    })
                    .collect();
                // Before, between, and after the threads of one connection.
                threads.refuse_all_after((wave % 8) as i32);
                for client in &mut clients {
                    let frames = (0..2000).flat_map(|n: u32| masked_frame(0x81, &n.to_be_bytes()));
                    // A server without a thread for it has disconnected.
                    let _ = client.write_all(&frames.collect::<Vec<_>>());
                }
                thread::sleep(Duration::from_millis(500));
                threads.allow();
            }
            let _ = handle.shutdown(Duration::from_secs(5));
            let robots = serving.join().unwrap();
            // On a slow machine, some of the last clients may have met the shutdown.
            let connections = robots.len();
            assert!(connections > (WAVES - 1) * CLIENTS, "{connections}");
            for (ws, fate) in robots {
                failure(&ws);
                assert_nothing_is_lost(&ws, &fate);
            }
            fate.assert_over(connections);
        },
    );
}

/// Tries again immediately.
fn quick() -> Backoff {
    Backoff::new()
        .initial(Duration::from_millis(10))
        .max(Duration::from_millis(10))
}

fn from_environment(name: &str, default: usize) -> usize {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap(),
        Err(_) => default,
    }
}

#[test]
fn connections_end_and_leave_nothing_behind_whichever_thread_is_refused() {
    among_refusals(
        "connections_end_and_leave_nothing_behind_whichever_thread_is_refused",
        |threads| {
            let seed = from_environment("RTCBOT_SEED", 1);
            let connections = from_environment("RTCBOT_CONNECTIONS", 2000);
            let fate = Fate::default();
            let server = Server::bind((testkit::own_address(), 0)).unwrap();
            let (url, handle) = (testkit::url(&server), server.handle());
            let serving = robots(server, &fate);
            let clients = Fate::default();
            let (begin, begun) = bounded::<()>(0);
            let work: Vec<_> = (0..4)
                .map(|_| {
                    let (url, clients, begun) = (url.clone(), clients.clone(), begun.clone());
                    thread::spawn(move || {
                        let _ = begun.recv();
                        for n in 0..connections / 4 {
                            client(&url, &clients, n);
                        }
                    })
                })
                .collect();
            threads.refuse_by_chance(50, seed as i32);
            drop(begin);
            for work in work {
                work.join().unwrap();
            }
            let refused = threads.refused();
            assert!(refused as usize > connections / 20, "{refused}");
            let _ = handle.shutdown(DEADLINE);
            for (ws, fate) in serving.join().unwrap() {
                failure(&ws);
                assert_nothing_is_lost(&ws, &fate);
            }
            eventually("the robots are dropped", || {
                Arc::strong_count(&fate.owned) == 1
            });
            clients.assert_over(4 * (connections / 4));
        },
    );
}

/// One connection of a client, with callbacks, and one of several ends.
fn client(url: &str, fate: &Fate, n: usize) {
    let fate = Fate {
        called: Arc::default(),
        ..fate.clone()
    };
    let ws = Websocket::connect(url).unwrap();
    let own = fate.clone();
    let socket = ws.downgrade();
    ws.on_close(move || {
        let _ = &socket;
        own.count_close();
    });
    let own = fate.clone();
    let call = move |_: Message| own.count_call();
    match n % 3 {
        0 => ws.subscribe_concurrent(2, call),
        _ => ws.subscribe_callback(call),
    };
    for n in 0..5 {
        if ws.put(n).is_err() {
            break;
        }
    }
    // Other handles are dropped.
    if n % 2 == 0 {
        let _ = ws.close();
        failure(&ws);
        assert_nothing_is_lost(&ws, &fate);
    }
}
