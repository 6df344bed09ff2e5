//! Both ends of every connection end, no wait is left, and the messages that arrive were sent.
//!
//! Thousands of scenarios, each drawn from a number: two `Websocket`s over a connection in memory
//! on which things go wrong (`testkit/transport.rs`), and a program for each (`plan.rs`,
//! `play.rs`). A number decides the faults and the programs, but not how their threads interleave.
//!
//! | environment variable | |
//! | --- | --- |
//! | `RTCBOT_SEEDS` | how many scenarios; defaults to 2000 |
//! | `RTCBOT_SEED` | only this one, `RTCBOT_SEEDS` times (once by default) |
#![cfg(target_os = "linux")]
#![allow(unreachable_pub)] // `pub` stands for what the other files of the test use.

mod plan;
mod play;
#[path = "../testkit/mod.rs"]
mod testkit;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use parking_lot::Mutex;
use rtcbot_websocket::{Request, http};

use plan::{Kind, Plan};
use play::{Book, Fact};
use testkit::transport::FaultyTransport;

/// All timeouts of a scenario together are about two seconds. A machine under load may need more.
const DEADLINE: Duration = Duration::from_secs(40);

/// Most of a scenario's time is waiting.
const AT_ONCE: usize = 32;

fn number_in(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().expect("a number"))
}

#[test]
fn every_connection_ends_at_both_ends_and_delivers_what_was_sent() {
    let only = number_in("RTCBOT_SEED");
    let count = number_in("RTCBOT_SEEDS").unwrap_or(if only.is_some() { 1 } else { 2000 });
    let next = AtomicU64::new(0);
    let failure = Mutex::new(None);
    let sums = Mutex::new(Sums::default());
    let begun = Instant::now();
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while failure.lock().is_none() {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    let seed = only.unwrap_or(number);
                    let begun = Instant::now();
                    match scenario(seed) {
                        Ok(outcome) => sums.lock().add(seed, begun.elapsed(), &outcome),
                        Err(wrong) => drop(failure.lock().get_or_insert((seed, wrong))),
                    }
                }
            });
        }
    });
    println!("{:?}: {:?}", begun.elapsed(), sums.into_inner());
    if let Some((seed, wrong)) = failure.into_inner() {
        panic!(
            "scenario {seed}: {wrong}\n{:#?}\n\
            To repeat it: RTCBOT_SEED={seed} RTCBOT_SEEDS=1000 cargo test --test faults",
            Plan::draw(seed)
        );
    }
    testkit::eventually("no thread is left", || testkit::threads_named("ws-") == 0);
}

/// What the scenarios covered.
#[derive(Debug, Default)]
struct Sums {
    scenarios: u64,
    slowest: (Duration, u64),
    both_in_order: u64,
    one_in_order: u64,
    none_in_order: u64,
    never_ready: u64,
    calm: u64,
    messages: usize,
    /// Consumers that had to receive every message, and did.
    complete: usize,
    failures: BTreeMap<String, u64>,
}

impl Sums {
    fn add(&mut self, seed: u64, time: Duration, outcome: &Outcome) {
        self.slowest = self.slowest.max((time, seed));
        self.scenarios += 1;
        let in_order = outcome.sides.iter().filter(|side| side.in_order()).count();
        match in_order {
            2 => self.both_in_order += 1,
            1 => self.one_in_order += 1,
            _ => self.none_in_order += 1,
        }
        self.never_ready += u64::from(!outcome.sides.iter().all(|side| side.ready > 0));
        self.calm += u64::from(outcome.calm);
        self.messages += outcome.messages;
        self.complete += outcome.complete;
        for side in &outcome.sides {
            let reason = side.reasons.keys().next().and_then(Option::as_ref);
            if let Some(reason) = reason {
                let kind = reason.split(['(', ' ']).next().unwrap_or_default();
                *self.failures.entry(kind.to_owned()).or_default() += 1;
            }
        }
    }
}

/// What one side of a scenario observed.
#[derive(Debug, Default)]
struct Seen {
    accepted: BTreeMap<u8, u32>,
    /// For each consumer.
    got: BTreeMap<usize, Vec<(u8, u32)>>,
    left: BTreeSet<usize>,
    /// The reasons of the end, and which methods reported each.
    reasons: BTreeMap<Option<String>, BTreeSet<&'static str>>,
    ready: usize,
    failed: usize,
    closed: usize,
    closes: bool,
    /// Whether the peer's Close frame was received.
    answered: bool,
}

impl Seen {
    fn in_order(&self) -> bool {
        self.reasons.contains_key(&None)
    }
}

#[derive(Default)]
struct Outcome {
    sides: [Seen; 2],
    calm: bool,
    messages: usize,
    complete: usize,
}

/// Plays one scenario. Returns what was wrong.
fn scenario(seed: u64) -> Result<Outcome, String> {
    let plan = Plan::draw(seed);
    let until = Instant::now() + DEADLINE;
    let (client, server, observer) = testkit::transport::pair(&plan.faults);
    let (book, told) = Book::open(plan.json, observer.clone());
    let ws = plan.sides[0]
        .options(plan.json)
        .connect_over(client, "ws://robot/");
    play::start(ws.unwrap(), 0, &plan.sides[0], &book);
    // Where no request arrives, there is only a client.
    if let Ok(request) = request_over(server, plan.sides[0].connect_timeout) {
        let ws = plan.sides[1].options(plan.json).accept(request);
        play::start(ws, 1, &plan.sides[1], &book);
    }
    if let Some(time) = plan.breaks {
        thread::sleep(time);
        observer.reset();
    }
    let at_work = book.at_work();
    drop(book);
    let facts = facts_until(&told, until).map_err(|()| {
        format!(
            "still not done after {DEADLINE:?}, it hangs: {:?}",
            at_work.lock()
        )
    })?;
    if !observer.wait_until_both_have_gone(until) {
        return Err("somebody still has a part of the connection".to_owned());
    }
    let mut wrong = observer.wrong_on_the_wire();
    let outcome = check(&plan, facts, &mut wrong);
    match wrong.is_empty() {
        true => Ok(outcome),
        false => {
            let reasons = outcome.sides.map(|side| side.reasons);
            Err(format!("{}\nThey ended with {reasons:?}", wrong.join("\n")))
        }
    }
}

fn request_over(mut server: FaultyTransport, patience: Duration) -> io::Result<Request> {
    let until = Instant::now() + patience;
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        match server.read_until(&mut byte, until) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => text.push(byte[0]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let text = String::from_utf8(text).unwrap();
    let mut head = http::Request::builder().uri("/");
    for (name, value) in text.lines().filter_map(|line| line.split_once(": ")) {
        head = head.header(name, value);
    }
    Ok(Request::from_parts(head.body(()).unwrap(), server, []))
}

/// Returns all facts, once no thread is at work any more.
fn facts_until(told: &Receiver<Fact>, until: Instant) -> Result<Vec<Fact>, ()> {
    let mut facts = Vec::new();
    loop {
        match told.recv_deadline(until) {
            Ok(fact) => facts.push(fact),
            Err(RecvTimeoutError::Disconnected) => return Ok(facts),
            Err(RecvTimeoutError::Timeout) => return Err(()),
        }
    }
}

fn check(plan: &Plan, facts: Vec<Fact>, wrong: &mut Vec<String>) -> Outcome {
    let mut outcome = Outcome {
        calm: plan.calm,
        ..Outcome::default()
    };
    for fact in facts {
        see(plan, &mut outcome.sides, fact, wrong);
    }
    for (n, side) in outcome.sides.iter().enumerate() {
        let exists = !side.reasons.is_empty();
        if side.reasons.len() > 1 {
            let reasons = &side.reasons;
            wrong.push(format!(
                "side {n}: different reasons were given: {reasons:?}"
            ));
        }
        if side.closed != usize::from(exists) || side.ready > 1 {
            let Seen { ready, closed, .. } = side;
            wrong.push(format!(
                "side {n}: on_close {closed} times, on_ready {ready} times"
            ));
        }
        if exists && side.failed != usize::from(!side.in_order()) {
            let (failed, reasons) = (side.failed, &side.reasons);
            wrong.push(format!(
                "side {n}: on_error {failed} times, and {reasons:?}"
            ));
        }
    }
    // A client that is closed before it is ready looks lost to its server.
    if plan.calm && outcome.sides[0].ready > 0 && !outcome.sides.iter().all(Seen::in_order) {
        wrong.push("it failed, though nothing was wrong".to_owned());
    }
    for (n, side) in outcome.sides.iter().enumerate() {
        let accepted = &outcome.sides[1 - n].accepted;
        for (consumer, got) in &side.got {
            outcome.messages += got.len();
            let whose = format!("side {n}, consumer {consumer}");
            match check_consumer(plan, n, *consumer, side, got, accepted) {
                Ok(complete) => outcome.complete += usize::from(complete),
                Err(what) => wrong.push(format!("{whose}: {what}")),
            }
        }
        // A consumer that received nothing is not in the list.
        let silent = (0..plan.sides[n].consumers.len()).filter(|c| !side.got.contains_key(c));
        for consumer in silent {
            if let Err(what) = check_consumer(plan, n, consumer, side, &[], accepted) {
                wrong.push(format!("side {n}, consumer {consumer}: {what}"));
            }
        }
    }
    outcome
}

fn see(plan: &Plan, sides: &mut [Seen; 2], fact: Fact, wrong: &mut Vec<String>) {
    match fact {
        Fact::Accepted {
            side,
            stream,
            count,
        } => drop(sides[side].accepted.insert(stream, count)),
        Fact::Got {
            side,
            consumer,
            stream,
            number,
        } => {
            let called_back = matches!(
                plan.sides[side].consumers[consumer].kind,
                Kind::Callback | Kind::Echo
            );
            if called_back && sides[side].closed > 0 {
                wrong.push(format!(
                    "side {side}: on_close came before a callback's message"
                ));
            }
            let got = sides[side].got.entry(consumer).or_default();
            got.push((stream, number));
        }
        Fact::Left { side, consumer } => drop(sides[side].left.insert(consumer)),
        Fact::Ended { side, who, reason } => {
            let told = sides[side].reasons.entry(reason).or_default();
            told.insert(who);
        }
        Fact::Ready { side } => sides[side].ready += 1,
        Fact::Failed { side } => sides[side].failed += 1,
        Fact::Closed { side } => sides[side].closed += 1,
        Fact::Closes { side } => sides[side].closes = true,
        Fact::Answered { side } => sides[side].answered = true,
        Fact::Wrong(what) => wrong.push(what),
    }
}

/// Whether a consumer received what it had to, and whether that was everything.
fn check_consumer(
    plan: &Plan,
    side: usize,
    consumer: usize,
    seen: &Seen,
    got: &[(u8, u32)],
    accepted: &BTreeMap<u8, u32>,
) -> Result<bool, String> {
    let planned = &plan.sides[side].consumers[consumer];
    let mut streams: BTreeMap<u8, Vec<u32>> = BTreeMap::new();
    for &(stream, number) in got {
        streams.entry(stream).or_default().push(number);
    }
    // Messages before the first subscription go to the first one only.
    let from_the_first = plan.sides[side].paused || consumer == 0;
    for (stream, numbers) in &mut streams {
        if matches!(planned.kind, Kind::Concurrent(_)) {
            // Calls may end in any order.
            numbers.sort_unstable();
        }
        let accepted = accepted.get(stream).copied().unwrap_or(0);
        if numbers.last().is_some_and(|&last| last >= accepted) {
            return Err(format!(
                "{numbers:?} of stream {stream}, of which {accepted} were accepted"
            ));
        }
        if !numbers.is_sorted_by(|a, b| a < b) {
            return Err(format!("{numbers:?} of stream {stream}: not in order"));
        }
        let loses_nothing = planned.loses_nothing();
        let gap = numbers.windows(2).any(|pair| pair[0] + 1 != pair[1]);
        let first = !from_the_first || numbers[0] == 0;
        if loses_nothing && (gap || !first) {
            return Err(format!(
                "{numbers:?} of stream {stream}: something is missing"
            ));
        }
    }
    let covered = seen.in_order()
        && seen.ready > 0
        && from_the_first
        && planned.loses_nothing()
        // A side that closes waits for no consumer: messages that find a queue full, and all later
        // ones, are dropped.
        && (planned.is_never_full() || !seen.closes)
        // A peer may hang up after this side's Close frame, whatever it had sent before.
        && (seen.answered || !seen.closes)
        && !seen.left.contains(&consumer);
    let all = |(stream, count): (&u8, &u32)| {
        *count
            == streams
                .get(stream)
                .map_or(0, |numbers| numbers.len() as u32)
    };
    if covered && !accepted.iter().all(all) {
        return Err(format!(
            "the end was in order, but not all arrived of {accepted:?}: {streams:?}"
        ));
    }
    Ok(covered && !accepted.is_empty())
}
