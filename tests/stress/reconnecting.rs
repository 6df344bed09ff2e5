//! Clients that reconnect, to servers that send every message back.
//!
//! No message comes back twice or out of order, and no more are missing than the statistics of both
//! sides admit.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread;
use std::time::{Duration, Instant};

use rtcbot_websocket::{Backoff, Error, Options, Request, Stats};

use crate::load::{Pace, put_numbered, read};
use crate::testkit::DEADLINE;
use crate::testkit::decisions::Decisions;
use crate::{Client, World, add, get};

const MS: Duration = Duration::from_millis(1);

#[derive(Default)]
pub struct Losses {
    missing: AtomicU64,
    /// What the statistics of the connections say was lost, or perhaps lost.
    admitted: AtomicU64,
    reconnects: AtomicU64,
    served: AtomicU64,
}

impl Losses {
    fn admit(&self, stats: &Stats) {
        add(
            &self.admitted,
            stats.unconfirmed + stats.unsent + stats.dropped,
        );
    }

    pub fn check(&self) {
        let (missing, admitted) = (get(&self.missing), get(&self.admitted));
        println!("{missing} messages are missing, {admitted} may be");
        assert!(missing <= admitted);
        assert!(get(&self.reconnects) > 0, "no connection was lost");
    }
}

/// What both sides have in common: they soon give up a connection that stalls.
fn impatient(options: &Options, decisions: &mut Decisions<'_>) -> Options {
    options
        .clone()
        .json(false)
        .send_queue(64 << decisions.below(10))
        .connect_timeout(2 * DEADLINE)
        .close_timeout(500 * MS)
        .ping_interval(200 * MS)
        .ping_timeout(decisions.millis(500, 2000))
}

pub fn serve(losses: &Arc<Losses>, request: Request) {
    add(&losses.served, 1);
    let mut decisions = Decisions::from_seed(get(&losses.served) << 20);
    let options = impatient(&Options::new(), &mut decisions);
    let ws = options.paused(true).accept(request);
    // Reading waits while the message cannot be sent back.
    ws.subscribe_to(ws.clone());
    ws.resume();
    let (losses, own) = (losses.clone(), ws.clone());
    ws.on_close(move || losses.admit(&own.stats()));
    if decisions.one_in(20) {
        let leaving = ws.downgrade();
        drop(ws);
        thread::sleep(700 * MS);
        leaving.upgrade().map(|ws| ws.close_with(1012, "restart"));
    }
}

/// One connection after the other, each of which reconnects until it is closed.
pub fn call(world: &World, losses: &Losses, client: &Client) {
    let number = client.number as u64;
    let mut decisions = Decisions::from_seed(number + 100);
    while !world.is_over() {
        add(&world.counters.connections, 1);
        let options = impatient(&client.options, &mut decisions);
        let backoff = Backoff::new().initial(5 * MS).max(200 * MS);
        let ws = options.reconnect(backoff).connect(&client.url).unwrap();
        let echoes = ws.subscribe();
        let (mut putting, mut taking) = (Pace::draw(&mut decisions), decisions.clone());
        let until = Instant::now() + decisions.millis(500, 20_000);
        thread::scope(|scope| {
            let put = || put_numbered(&ws, number, &mut 0, u64::MAX, &mut putting, || {});
            scope.spawn(put);
            let mut next = 0;
            let mut closing = None;
            let reason = loop {
                if closing.is_none() && (Instant::now() >= until || world.is_over()) {
                    // Messages are put and taken meanwhile.
                    closing = Some(scope.spawn(|| ws.close()));
                }
                match echoes.get_timeout(50 * MS) {
                    Ok(message) => {
                        let (stream, n) = read(&message);
                        assert_eq!(stream, number);
                        assert!(n >= next, "client {number}: {n} comes after {next}");
                        add(&losses.missing, n - next);
                        next = n + 1;
                        add(&world.counters.to_clients, 1);
                        add(&world.counters.bytes, message.len() as u64);
                        world.has_progressed(client.number);
                        if taking.one_in(5000) {
                            // The queues on the way fill up.
                            thread::sleep(taking.millis(0, 1000));
                        }
                    }
                    Err(Error::Timeout) => {}
                    Err(reason) => break reason,
                }
            };
            world.has_ended("client", &reason);
        });
        assert!(ws.is_closed());
        let stats = ws.stats();
        add(&losses.reconnects, stats.reconnects);
        add(&world.counters.reconnects, stats.reconnects);
        losses.admit(&stats);
        world.has_progressed(client.number);
    }
}
