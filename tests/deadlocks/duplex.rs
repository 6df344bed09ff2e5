//! Sending and receiving do not wait for each other.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{bounded, unbounded};
use rtcbot_websocket::{Error, Message, PutError, Sink, Subscription, json};

use crate::median;
use crate::testkit::wire::over_each;
use crate::testkit::{DEADLINE, alone, eventually};

// tungstenite 178: with one lock around the socket, a flood of incoming messages starves the
// sender.
#[test]
fn under_a_flood_a_put_reaches_the_wire_within_50_ms() {
    /// Slower than the flood, so that there is always something to read on any machine.
    struct Slow;
    impl Sink<Message> for Slow {
        fn put_nowait(&self, _: Message) -> Result<(), PutError<Message>> {
            thread::sleep(Duration::from_millis(1));
            Ok(())
        }
    }
    over_each(|wire| {
        let (client, server) = wire.pair(|options| options.send_queue(1 << 20));
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
        // One pause of a busy machine, however long, delays only one of them.
        let median = median(took.collect());
        assert!(median < Duration::from_millis(50), "{median:?}");
        client.unsubscribe(slow);
        client.close().unwrap();
        flooding.join().unwrap();
    });
}

// tungstenite 171, 311 and 388, native-tls 206 and 276: a read that waits blocks every write.
#[test]
fn a_put_is_sent_while_nothing_arrives() {
    over_each(|wire| {
        let (client, server) = wire.pair(|options| options.ping_interval(None));
        for (from, to) in [(&client, &server), (&server, &client)] {
            let received = to.subscribe();
            for n in 0..100 {
                // Each side's reader waits for something to read all the time. A message too long
                // to be sent by the thread that puts it is sent by the writer thread.
                let length = [10, 100_000][n % 2];
                from.put_nowait(vec![n as u8; length]).unwrap();
                assert_eq!(received.get_timeout(DEADLINE).unwrap().len(), length);
            }
        }
    });
}

// ewebsock, as its own options say: a message waits for a read's timeout of 10 ms.
#[test]
#[cfg(target_os = "linux")]
fn an_idle_connection_makes_no_system_call_between_pings() {
    alone(
        "duplex::an_idle_connection_makes_no_system_call_between_pings",
        || {
            over_each(|wire| {
                let (client, server) = wire.pair(|options| options);
                let (_nothing, source) = unbounded::<Message>();
                client.put_subscription(source).unwrap();
                client.subscribe_callback(|_| {});
                client.subscribe_concurrent(1, |_| {});
                // Where there are callbacks, messages before the first `get` go only to them.
                assert!(matches!(client.try_get(), Err(Error::Empty)));
                server.subscribe_to(server.clone());
                client.put_nowait(json!("all is running")).unwrap();
                client.put_subscription(unbounded::<Message>().1).unwrap();
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

/// For each thread of a connection, how many nanoseconds it has run and how often it has waited.
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
        // Some kernels do not record the time.
        let time = read("schedstat").unwrap_or_default();
        let time = time.split(' ').next().unwrap_or_default().to_owned();
        let id = format!("{:?} {}", task.file_name(), name.trim());
        name.starts_with("ws-")
            .then(|| (id, (time, waits.to_owned())))
    });
    times.collect()
}

// tokio-rs/tls 40: a TLS read that has to write, or a write that has to read, waits for the wrong
// direction.
#[test]
fn all_messages_of_two_flooded_directions_arrive_though_a_peer_stops_reading_for_a_while() {
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
            let (client, server) =
                wire.pair(|options| options.send_queue(1 << 20).ping_interval(None));
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
                    // As many as it takes to fill the system's buffers.
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
                // Until the other can send nothing. It must still have received everything.
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

// RTCBot's `websocket.py`: binary messages disappear.
#[test]
fn binary_messages_arrive() {
    over_each(|wire| {
        let (client, server) = wire.pair(|options| options);
        let echoed = client.subscribe();
        server.subscribe_to(server.clone());
        let bytes: Vec<u8> = (0..=255).collect();
        client.put_nowait(bytes.clone()).unwrap();
        let message = echoed.get_timeout(DEADLINE).unwrap();
        assert_eq!(message.as_bytes(), Some(&bytes[..]));
    });
}
