//! Clients that have one connection after the other, on which both sides put messages.
//!
//! The messages of each connection arrive in order, once, without a gap, and all of them where the
//! connection was closed in order.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use rtcbot_websocket::{Options, Queue, Request, Websocket};

use crate::load::{Pace, put_numbered, read};
use crate::testkit::decisions::Decisions;
use crate::testkit::is_closed_by_peer;
use crate::{Client, World, add};

/// What was put and what arrived. Nothing is called under the locks.
#[derive(Default)]
pub struct Deliveries {
    connections: AtomicU64,
    /// What the servers received.
    arrived: Mutex<Vec<Arrived>>,
    /// Connections that the client closed in order: the client, its first message and its last.
    closed: Mutex<Vec<(usize, u64, u64)>>,
    /// How many messages the server of each connection has put.
    put: Mutex<HashMap<u64, u64>>,
    /// How many of them the client received, where it received all.
    got: Mutex<HashMap<u64, u64>>,
}

/// What one connection brought to its server.
struct Arrived {
    client: usize,
    first: u64,
    last: u64,
    /// Whether the client closed it in order: then nothing is missing.
    all: bool,
}

impl Deliveries {
    pub fn check(&self) {
        let mut arrived = self.arrived.lock();
        arrived.sort_by_key(|one| (one.client, one.first));
        for pair in arrived.windows(2) {
            let (one, next) = (&pair[0], &pair[1]);
            let apart = one.client != next.client || one.last < next.first;
            assert!(apart, "client {}: {} came twice", one.client, next.first);
        }
        for &(client, first, last) in self.closed.lock().iter() {
            let mut of_it = arrived.iter().filter(|one| one.client == client);
            if let Some(one) = of_it.find(|one| one.first == first && one.all) {
                assert_eq!(one.last, last, "client {client}, from {first} on");
            }
        }
        let put = self.put.lock();
        for (connection, got) in self.got.lock().iter() {
            assert_eq!(put[connection], *got, "connection {connection}");
        }
        assert!(!arrived.is_empty());
    }
}

fn change(options: &Options) -> Options {
    options
        .clone()
        .connect_timeout(Duration::from_secs(5))
        .close_timeout(Duration::from_secs(3))
        .linger(Duration::from_secs(1))
        .ping_interval(Duration::from_secs(1))
        .ping_timeout(Duration::from_secs(2))
        .send_queue(1 << 20)
        .receive_queue(Queue::Block(64))
}

/// The messages of a client are numbered across its connections.
pub fn call(world: &World, deliveries: &Deliveries, client: &Client) {
    let options = change(&client.options);
    let mut decisions = Decisions::from_seed(client.number as u64);
    let mut next = 0;
    while !world.is_over() {
        let ws = options.connect(&client.url).unwrap();
        add(&world.counters.connections, 1);
        talk(
            world,
            deliveries,
            client.number,
            &ws,
            &mut next,
            &mut decisions,
        );
        world.has_progressed(client.number);
    }
}

/// Puts and takes messages until the connection ends; this side closes it at some time.
fn talk(
    world: &World,
    deliveries: &Deliveries,
    client: usize,
    ws: &Websocket,
    next: &mut u64,
    decisions: &mut Decisions<'_>,
) {
    let enough = decisions.up_to(20_000);
    let (mut putting, mut taking) = (Pace::draw(decisions), Pace::draw(decisions));
    let incoming = ws.subscribe();
    let closes = AtomicBool::new(false);
    let first = *next;
    thread::scope(|scope| {
        scope.spawn(|| {
            put_numbered(ws, client as u64, next, enough, &mut putting, || {
                world.has_progressed(client);
            });
            closes.store(true, Ordering::SeqCst);
            if ws.close().is_ok() {
                add(&world.counters.clean, 1);
                if *next > first {
                    deliveries.closed.lock().push((client, first, *next - 1));
                }
            }
        });
        let mut last: Option<(u64, u64)> = None;
        let reason = loop {
            let message = match incoming.get() {
                Ok(message) => message,
                Err(reason) => break reason,
            };
            let (connection, n) = read(&message);
            let follows = match last {
                Some((same, last)) => same == connection && n == last + 1,
                None => n == 0,
            };
            assert!(follows, "{n} of {connection} after {last:?}");
            last = Some((connection, n));
            add(&world.counters.to_clients, 1);
            add(&world.counters.bytes, message.len() as u64);
            world.has_progressed(client);
            taking.pause();
        };
        world.has_ended("client", &reason);
        // A side that closes no longer waits for its own full queue.
        let is_all = is_closed_by_peer(&reason) && !closes.load(Ordering::SeqCst);
        if let Some((connection, n)) = last.filter(|_| is_all) {
            deliveries.got.lock().insert(connection, n + 1);
        }
    });
}

pub fn serve(world: &World, deliveries: &Deliveries, request: Request, options: &Options) {
    let connection = 1 + deliveries.connections.fetch_add(1, Ordering::Relaxed);
    let client: usize = request.path()[1..].parse().unwrap();
    let ws = change(options).accept(request);
    let mut decisions = Decisions::from_seed(connection << 20);
    let enough = decisions.up_to(40_000);
    let closes_first = decisions.chance(50);
    let (mut putting, mut taking) = (Pace::draw(&mut decisions), Pace::draw(&mut decisions));
    let incoming = ws.subscribe();
    let closes = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut next = 0;
            put_numbered(&ws, connection, &mut next, enough, &mut putting, || {});
            deliveries.put.lock().insert(connection, next);
            if closes_first {
                closes.store(true, Ordering::SeqCst);
                let _ = ws.close();
            }
        });
        let mut range: Option<(u64, u64)> = None;
        let reason = loop {
            let message = match incoming.get() {
                Ok(message) => message,
                Err(reason) => break reason,
            };
            let (stream, n) = read(&message);
            assert_eq!(stream, client as u64);
            let first = match range {
                None => n,
                Some((_, last)) if n != last + 1 => panic!("{n} of client {client} after {last}"),
                Some((first, _)) => first,
            };
            range = Some((first, n));
            add(&world.counters.to_servers, 1);
            add(&world.counters.bytes, message.len() as u64);
            taking.pause();
        };
        world.has_ended("server", &reason);
        if let Some((first, last)) = range {
            deliveries.arrived.lock().push(Arrived {
                client,
                first,
                last,
                all: is_closed_by_peer(&reason) && !closes.load(Ordering::SeqCst),
            });
        }
    });
}
