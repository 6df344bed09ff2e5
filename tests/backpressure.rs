//! A slow receiver holds back a fast sender: memory stays within the settings, and accepted
//! messages arrive. Each test measures its own process.
#![cfg(target_os = "linux")]

mod testkit;

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{bounded, unbounded};
use rtcbot_websocket::{Message, PutError, Queue, Subscription, SubscriptionId, Websocket};
use testkit::wire::{Raw, Wire, over_each};
use testkit::{DEADLINE, alone, eventually, failure, most_resident, records, resident, within};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// What the threads, the codecs, TLS and the allocator use in addition to the settings.
const ALLOWANCE: usize = 8 * MIB;

/// The length of most messages here, and a number of them that would be too many.
const LENGTH: usize = 32 * KIB;
const MOST: u32 = 8000;

/// A message that contains its number.
fn numbered(n: u32) -> Vec<u8> {
    n.to_be_bytes().repeat(LENGTH / 4)
}

fn number(message: &Message) -> u32 {
    let bytes = message.as_bytes().unwrap();
    u32::from_be_bytes(bytes[..4].try_into().unwrap())
}

/// Waits until a count stands still. On a busy machine it may only seem to; that breaks no test.
fn eventually_still(count: impl Fn() -> u32) -> u32 {
    let mut last = None;
    eventually("nothing moves any more", || {
        let before = last.replace(count());
        thread::sleep(Duration::from_millis(100));
        before == last
    });
    last.unwrap_or_default()
}

/// A limit for the memory that this process uses since its first limit was made.
struct Limit {
    before: usize,
    bytes: usize,
}

impl Limit {
    fn of(bytes: usize) -> Self {
        static BEFORE: OnceLock<usize> = OnceLock::new();
        Limit {
            before: *BEFORE.get_or_init(resident),
            // A waiting message keeps the buffer that it was read into.
            bytes: bytes + bytes / 2 + ALLOWANCE,
        }
    }

    #[track_caller]
    fn check(&self) {
        let taken = most_resident().saturating_sub(self.before);
        assert!(
            taken < self.bytes,
            "{} KiB, not {}",
            taken / KIB,
            self.bytes / KIB
        );
    }
}

/// The number of the last message of a flood.
const END: u32 = u32::MAX;

/// A thread that sends as fast as possible until it is stopped.
struct Flood<P> {
    sent: Arc<AtomicU32>,
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<P>,
}

impl<P: Send + 'static> Flood<P> {
    fn start(mut peer: P, send: fn(&mut P, Vec<u8>)) -> Self {
        let (sent, stop) = (Arc::<AtomicU32>::default(), Arc::<AtomicBool>::default());
        let (counter, stopped) = (sent.clone(), stop.clone());
        let thread = thread::spawn(move || {
            for n in 0..MOST {
                if stopped.load(Ordering::SeqCst) {
                    break;
                }
                send(&mut peer, numbered(n));
                counter.store(n + 1, Ordering::SeqCst);
            }
            send(&mut peer, numbered(END));
            peer
        });
        Flood { sent, stop, thread }
    }

    fn sent(&self) -> u32 {
        self.sent.load(Ordering::SeqCst)
    }

    /// Waits until the flood is blocked.
    #[track_caller]
    fn is_held_back(&self) {
        let sent = eventually_still(|| self.sent());
        assert!(sent < MOST, "nothing holds it back");
    }

    /// Checks that the flood is not blocked.
    #[track_caller]
    fn goes_on(&self) {
        eventually("much has been sent", || self.sent() > MOST / 8);
    }

    /// Stops after the message that is being sent.
    fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    /// How many messages came before the last one.
    fn over(self) -> (u32, P) {
        self.stop();
        let peer = within(2 * DEADLINE, move || self.thread.join().unwrap());
        (self.sent.load(Ordering::SeqCst), peer)
    }
}

/// Every message up to the last one, in order.
#[track_caller]
fn count_to_the_end(mut next: impl FnMut() -> u32) -> u32 {
    for n in 0.. {
        match next() {
            END => return n,
            number => assert_eq!(number, n),
        }
    }
    unreachable!()
}

#[track_caller]
fn take_all(messages: &Subscription<Message>) -> u32 {
    let count = count_to_the_end(|| number(&messages.get_timeout(DEADLINE).unwrap()));
    assert!(messages.is_empty());
    count
}

fn read_all(raw: &mut Raw) -> u32 {
    count_to_the_end(|| number(&raw.read().unwrap().into_data().into()))
}

fn flood(raw: Raw) -> Flood<Raw> {
    Flood::start(raw, |raw, bytes| raw.send(bytes.into()).unwrap())
}

/// Runs the test of this name over each kind of connection, in a process of its own.
fn alone_over_each(test: &str, body: fn(&Wire)) {
    alone(test, || over_each(body));
}

#[test]
fn a_full_queue_that_blocks_holds_the_peer_back_and_loses_nothing() {
    let test = "a_full_queue_that_blocks_holds_the_peer_back_and_loses_nothing";
    alone_over_each(test, |wire| {
        let (client, raw) = wire.client_and_raw(|options| options);
        let messages = client.subscribe_with(Queue::Block(64));
        let limit = Limit::of(64 * LENGTH);
        let flood = flood(raw);
        flood.is_held_back();
        eventually("it is full", || messages.len() == 64);
        flood.stop();
        let count = take_all(&messages);
        assert_eq!(flood.over().0, count);
        limit.check();
    });
}

#[test]
fn a_queue_that_drops_stays_within_its_capacity_and_keeps_the_newest_messages() {
    let test = "a_queue_that_drops_stays_within_its_capacity_and_keeps_the_newest_messages";
    alone_over_each(test, |wire| {
        for (queue, kept) in [(Queue::DropOldest(64), 64), (Queue::Latest, 1)] {
            let (client, raw) = wire.client_and_raw(|options| options);
            let messages = client.subscribe_with(queue);
            let limit = Limit::of(64 * LENGTH);
            let flood = flood(raw);
            flood.goes_on();
            let (count, raw) = flood.over();
            drop(raw);
            failure(&client);
            let rest: Vec<_> = messages.iter().map(|message| number(&message)).collect();
            assert!(rest.into_iter().eq((count - kept + 1..count).chain([END])));
            limit.check();
        }
    });
}

#[test]
fn a_queue_without_limit_keeps_everything() {
    let test = "a_queue_without_limit_keeps_everything";
    alone_over_each(test, |wire| {
        let (client, raw) = wire.client_and_raw(|options| options);
        let messages = client.subscribe_with(Queue::Unbounded);
        let flood = flood(raw);
        flood.goes_on();
        let (count, raw) = flood.over();
        drop(raw);
        failure(&client);
        assert_eq!(take_all(&messages), count);
    });
}

#[test]
fn messages_that_arrive_before_the_first_subscription_are_kept_up_to_the_limit() {
    let test = "messages_that_arrive_before_the_first_subscription_are_kept_up_to_the_limit";
    alone_over_each(test, |wire| {
        let (client, raw) = wire.client_and_raw(|options| options);
        let limit = Limit::of(4 * MIB);
        let flood = flood(raw);
        flood.goes_on();
        let (count, raw) = flood.over();
        drop(raw);
        failure(&client);
        let rest: Vec<_> = client.subscribe().iter().map(|m| number(&m)).collect();
        assert!(rest.len() * LENGTH > 3 * MIB);
        let first = count + 1 - rest.len() as u32;
        assert!(rest.into_iter().eq((first..count).chain([END])));
        limit.check();
    });
}

#[test]
fn a_paused_connection_holds_the_peer_back_and_loses_nothing() {
    let test = "a_paused_connection_holds_the_peer_back_and_loses_nothing";
    alone_over_each(test, |wire| {
        let (client, raw) = wire.client_and_raw(|options| options.paused(true));
        let messages = client.subscribe_with(Queue::Block(64));
        let limit = Limit::of(64 * LENGTH);
        let flood = flood(raw);
        flood.is_held_back();
        assert!(messages.is_empty());
        flood.stop();
        client.resume();
        let count = take_all(&messages);
        assert_eq!(flood.over().0, count);
        limit.check();
    });
}

#[test]
fn a_slow_callback_holds_the_peer_back_and_receives_every_message() {
    let test = "a_slow_callback_holds_the_peer_back_and_receives_every_message";
    alone_over_each(test, |wire| {
        for workers in [0, 4] {
            let (client, raw) = wire.client_and_raw(|options| options);
            let (called, calls) = unbounded();
            let (go, gate) = bounded::<()>(0);
            let call = move |message| {
                let _ = gate.recv();
                let _ = called.send(number(&message));
            };
            // This many may wait.
            let limit = Limit::of(1024 * LENGTH);
            match workers {
                0 => client.subscribe_callback(call),
                workers => client.subscribe_concurrent(workers, call),
            };
            let flood = flood(raw);
            flood.is_held_back();
            drop(go);
            let (count, _raw) = flood.over();
            let mut calls = calls.iter().take(count as usize + 1).collect::<Vec<_>>();
            if workers > 0 {
                // Calls end in any order.
                calls.sort_unstable();
            }
            assert!(calls.into_iter().eq((0..count).chain([END])));
            limit.check();
        }
    });
}

#[test]
fn a_full_channel_holds_the_peer_back_and_receives_every_message() {
    let test = "a_full_channel_holds_the_peer_back_and_receives_every_message";
    alone_over_each(test, |wire| {
        let (client, raw) = wire.client_and_raw(|options| options);
        let (sender, messages) = bounded(64);
        client.subscribe_to(sender);
        let limit = Limit::of(64 * LENGTH);
        let flood = flood(raw);
        flood.is_held_back();
        eventually("it is full", || messages.len() == 64);
        flood.stop();
        let count = take_all(&messages.into());
        assert_eq!(flood.over().0, count);
        limit.check();
    });
}

#[test]
fn a_pipe_into_a_stalled_connection_holds_its_sender_back_and_loses_nothing() {
    let test = "a_pipe_into_a_stalled_connection_holds_its_sender_back_and_loses_nothing";
    alone_over_each(test, |wire| {
        for as_source in [false, true] {
            let (from, flooding) = wire.client_and_raw(|options| options);
            let (to, mut stalled) = wire.client_and_raw(|options| options.send_queue(MIB));
            let limit = Limit::of(MIB + 64 * LENGTH);
            if as_source {
                to.put_subscription(from.subscribe_with(Queue::Block(64)))
                    .unwrap();
            } else {
                from.subscribe_to(to.clone());
            }
            let flood = flood(flooding);
            flood.is_held_back();
            flood.stop();
            let count = read_all(&mut stalled);
            assert_eq!(flood.over().0, count);
            limit.check();
        }
    });
}

#[test]
fn pings_from_a_peer_that_reads_no_pong_use_no_memory() {
    const COUNT: u32 = 60_000;
    let test = "pings_from_a_peer_that_reads_no_pong_use_no_memory";
    alone_over_each(test, |wire| {
        let (client, mut raw) = wire.client_and_raw(|options| options.send_queue(MIB));
        let moment = Duration::from_millis(100);
        // No pong can be sent.
        while client.put_timeout(vec![0; MIB], moment).is_ok() {}
        let limit = Limit::of(MIB);
        for n in 0..COUNT {
            let payload = n.to_be_bytes().repeat(30);
            raw.write(tungstenite::Message::Ping(payload.into()))
                .unwrap();
        }
        raw.send("the end of the pings".into()).unwrap();
        client.get_timeout(DEADLINE).unwrap();
        limit.check();
        // The newest pings are still answered, in order.
        let reading = thread::spawn(move || {
            let mut pongs = Vec::new();
            while let Ok(message) = raw.read() {
                if let tungstenite::Message::Pong(payload) = message {
                    pongs.push(number(&payload.into()));
                }
            }
            pongs
        });
        client.close().unwrap();
        let pongs = reading.join().unwrap();
        assert_eq!(pongs.last(), Some(&(COUNT - 1)));
        assert!(pongs.is_sorted());
    });
}

#[test]
fn put_nowait_returns_full_when_the_peer_stops_reading_and_every_accepted_message_arrives() {
    let test =
        "put_nowait_returns_full_when_the_peer_stops_reading_and_every_accepted_message_arrives";
    alone_over_each(test, |wire| {
        let (client, mut raw) = wire.client_and_raw(|options| options.send_queue(4 * MIB));
        let limit = Limit::of(4 * MIB);
        let accepted = Cell::new(0);
        eventually_still(|| {
            while accepted.get() < MOST {
                let message = Message::from(numbered(accepted.get()));
                if let Err(refused) = client.put_nowait(message.clone()) {
                    assert_eq!(refused, PutError::Full(message));
                    break;
                }
                accepted.set(accepted.get() + 1);
            }
            accepted.get()
        });
        let accepted = accepted.get();
        assert!(accepted < MOST, "it never said that it is full");
        assert!(accepted as usize * LENGTH > 4 * MIB - 2 * LENGTH);
        limit.check();
        let reading = thread::spawn(move || {
            for n in 0..accepted {
                assert_eq!(number(&raw.read().unwrap().into_data().into()), n);
            }
            assert!(raw.read().unwrap().is_close());
            raw.pump();
        });
        client.close().unwrap();
        reading.join().unwrap();
        limit.check();
    });
}

#[test]
fn puts_that_wait_for_a_peer_that_stops_reading_are_sent_once_and_in_order() {
    let test = "puts_that_wait_for_a_peer_that_stops_reading_are_sent_once_and_in_order";
    alone_over_each(test, |wire| {
        let (client, mut raw) = wire.client_and_raw(|options| options.send_queue(MIB));
        let limit = Limit::of(MIB);
        let floods: [_; 4] = std::array::from_fn(|who| {
            Flood::start((client.clone(), who as u8), |(client, who), mut bytes| {
                bytes[4] = *who;
                client.put(bytes).unwrap();
            })
        });
        for flood in &floods {
            flood.is_held_back();
            flood.stop();
        }
        let mut counts = [0; 4];
        let mut ended = 0;
        while ended < 4 {
            let message = raw.read().unwrap().into_data();
            let count = &mut counts[message[4] as usize];
            match number(&message.into()) {
                END => ended += 1,
                n => {
                    assert_eq!(n, *count);
                    *count += 1;
                }
            }
        }
        assert_eq!(floods.map(|flood| flood.over().0), counts);
        limit.check();
    });
}

#[test]
fn a_source_is_not_read_while_the_peer_reads_nothing_and_loses_nothing() {
    let test = "a_source_is_not_read_while_the_peer_reads_nothing_and_loses_nothing";
    alone_over_each(test, |wire| {
        let (client, mut raw) = wire.client_and_raw(|options| options);
        let (sender, source) = bounded::<Message>(64);
        client.put_subscription(source).unwrap();
        let limit = Limit::of(64 * LENGTH);
        let flood = Flood::start(sender, |sender, bytes| sender.send(bytes.into()).unwrap());
        flood.is_held_back();
        flood.stop();
        let count = read_all(&mut raw);
        assert_eq!(flood.over().0, count);
        limit.check();
    });
}

#[test]
fn all_kinds_of_consumers_together_stay_within_their_limits_and_receive_their_messages() {
    let test =
        "all_kinds_of_consumers_together_stay_within_their_limits_and_receive_their_messages";
    alone_over_each(test, |wire| {
        // A peer that floods and does not read, whose messages are all sent back. In addition, a
        // queue of each kind, and slow callbacks of both kinds.
        let (client, server) =
            wire.pair(|options| options.send_queue(MIB).receive_queue(Queue::Block(64)));
        let limit = Limit::of(2 * MIB + (1024 + 3 * 64) * LENGTH);
        let (go, gate) = bounded::<()>(0);
        let (called, calls) = unbounded();
        let call = |concurrent: bool| {
            let (gate, called) = (gate.clone(), called.clone());
            move |message| {
                let _ = gate.recv();
                let _ = called.send((concurrent, number(&message)));
            }
        };
        client.subscribe_callback(call(false));
        client.subscribe_concurrent(1, call(true));
        drop(called);
        client.subscribe_to(client.clone());
        let block = client.subscribe();
        let oldest = client.subscribe_with(Queue::DropOldest(64));
        let latest = client.subscribe_with(Queue::Latest);
        let echoes = server.subscribe();

        let flood = Flood::start(server, |server, bytes| server.put(bytes).unwrap());
        flood.is_held_back();
        let taking = thread::spawn(move || take_all(&block));
        flood.is_held_back();
        drop(go);
        flood.is_held_back();
        flood.stop();
        let count = take_all(&echoes);
        assert_eq!(within(DEADLINE, move || taking.join().unwrap()), count);
        let (sent, server) = flood.over();
        assert_eq!(sent, count);
        client.close().unwrap();
        drop(server);
        let numbers = |messages: Subscription<Message>| messages.into_iter().map(|m| number(&m));
        assert!(numbers(oldest).eq((count - 63..count).chain([END])));
        assert!(numbers(latest).eq([END]));
        let (concurrent, in_order): (Vec<_>, Vec<_>) = calls.iter().partition(|call| call.0);
        for calls in [concurrent, in_order] {
            let numbers = calls.into_iter().map(|call| call.1);
            assert!(numbers.eq((0..count).chain([END])));
        }
        limit.check();
    });
}

#[test]
fn a_consumer_that_stays_full_for_a_second_is_logged_once() {
    alone(
        "a_consumer_that_stays_full_for_a_second_is_logged_once",
        || {
            records::keep(log::LevelFilter::Warn);
            let about =
                |id: SubscriptionId| records::count(&format!("{id:?} has been full for a second"));
            let (go, gate) = bounded::<()>(0);
            let forgotten: Vec<(Websocket, Websocket, SubscriptionId)> = (0..4)
                .map(|kind| {
                    let (client, server) = testkit::pair();
                    let gate = gate.clone();
                    let id = match kind {
                        0 => {
                            let unread = client.subscribe();
                            let id = *unread.as_ref();
                            std::mem::forget(unread);
                            id
                        }
                        1 => {
                            let (sender, untaken) = bounded(1);
                            std::mem::forget(untaken);
                            client.subscribe_to(sender)
                        }
                        2 => client.subscribe_callback(move |_| gate.recv().unwrap_or_default()),
                        _ => {
                            client.subscribe_concurrent(1, move |_| gate.recv().unwrap_or_default())
                        }
                    };
                    for n in 0..1100 {
                        server.put(n).unwrap();
                    }
                    (client, server, id)
                })
                .collect();
            for (_, _, id) in &forgotten {
                eventually("a warning", || about(*id) > 0);
            }
            // They stay full for longer than the interval between two warnings.
            thread::sleep(Duration::from_millis(1500));
            for (_, _, id) in &forgotten {
                assert_eq!(about(*id), 1);
            }
            drop(go);
        },
    );
}
