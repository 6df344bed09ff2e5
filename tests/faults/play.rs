//! One side of a connection at work: a thread for each part of the plan, and a record of what
//! happened.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, unbounded};
use parking_lot::Mutex;
use rtcbot_websocket::{
    Error, Message, PutError, Queue, State, Subscription, WeakWebsocket, Websocket, json,
};

use crate::plan::{Consumer, Ending, Feeder, Kind, Naps, Putter, Side, Waiter, Ways};
use crate::testkit::decisions::Decisions;
use crate::testkit::end_reason;
use crate::testkit::transport::Observer;

/// What happened, reported by the thread that observed it.
#[derive(Debug, Clone)]
pub enum Fact {
    /// This many messages of a stream were accepted for sending.
    Accepted {
        side: usize,
        stream: u8,
        count: u32,
    },
    /// A consumer received a message.
    Got {
        side: usize,
        consumer: usize,
        stream: u8,
        number: u32,
    },
    /// A consumer leaves.
    Left {
        side: usize,
        consumer: usize,
    },
    /// A method reported how the connection ended; `None` is an orderly end.
    Ended {
        side: usize,
        who: &'static str,
        reason: Option<String>,
    },
    Ready {
        side: usize,
    },
    /// Reported by `on_error`.
    Failed {
        side: usize,
    },
    /// Reported by `on_close`.
    Closed {
        side: usize,
    },
    /// This side has received the peer's Close frame.
    Answered {
        side: usize,
    },
    /// This side begins to close.
    Closes {
        side: usize,
    },
    Wrong(String),
}

/// The numbers of a side's streams: its putters have the first ones.
pub const SOURCE: u8 = 100;
/// Each consumer that answers has a further stream.
pub const ECHO: u8 = 101;

/// Records which threads are at work, and what they have observed.
#[derive(Clone)]
pub struct Book {
    facts: Sender<Fact>,
    observer: Observer,
    at_work: Arc<Mutex<BTreeSet<(usize, String)>>>,
    json: bool,
}

impl Book {
    /// The facts end when no thread is at work any more.
    pub fn open(json: bool, observer: Observer) -> (Self, Receiver<Fact>) {
        let (facts, told) = unbounded();
        let at_work = Arc::default();
        let book = Book {
            facts,
            observer,
            at_work,
            json,
        };
        (book, told)
    }

    pub fn at_work(&self) -> Arc<Mutex<BTreeSet<(usize, String)>>> {
        self.at_work.clone()
    }

    pub fn note(&self, fact: Fact) {
        let _ = self.facts.send(fact);
    }

    fn actor(&self, side: usize, name: impl Into<String>) -> Actor {
        let name = (side, name.into());
        self.at_work.lock().insert(name.clone());
        Actor {
            book: self.clone(),
            side,
            name,
        }
    }
}

/// A thread or callback; it is at work for as long as this lives.
pub struct Actor {
    book: Book,
    side: usize,
    name: (usize, String),
}

impl Drop for Actor {
    fn drop(&mut self) {
        if thread::panicking() {
            self.wrong("panicked");
        }
        self.book.at_work.lock().remove(&self.name);
    }
}

impl Actor {
    fn note(&self, fact: Fact) {
        self.book.note(fact);
    }

    fn wrong(&self, what: impl std::fmt::Display) {
        let (side, name) = &self.name;
        self.note(Fact::Wrong(format!("side {side}, {name}: {what}")));
    }

    fn ended(&self, who: &'static str, reason: Option<&Error>) {
        let side = self.side;
        let reason = reason.filter(|error| !error.is_orderly());
        let reason = reason.map(|error| format!("{error:?}"));
        self.note(Fact::Ended { side, who, reason });
    }

    fn closes(&self) {
        self.note(Fact::Closes { side: self.side });
    }

    fn close(&self, ws: &Websocket, how: u64) {
        self.closes();
        let closed = match how % 2 {
            0 => ws.close(),
            _ => ws.close_with(1001, "as planned"),
        };
        if ws.received_close().is_some() {
            self.note(Fact::Answered { side: self.side });
        }
        match closed {
            Ok(()) => self.ended("close", None),
            // On a machine under load, threads may not have run for a second after the shutdown.
            Err(Error::Timeout) => {}
            Err(error) if error.is_orderly() => self.wrong(format!("close: {error}")),
            Err(error) => self.ended("close", Some(&error)),
        }
    }
}

/// The largest message is shorter.
const LARGEST: usize = 64 << 10;

/// The bytes that fill messages.
fn filler(number: u32, size: u64) -> &'static str {
    static LETTERS: OnceLock<String> = OnceLock::new();
    let letters = LETTERS.get_or_init(|| ('a'..='z').cycle().take(26 + LARGEST).collect());
    &letters[number as usize % 26..][..size as usize]
}

/// Message `number` of `stream`: bytes, JSON and text in turn.
fn message(json: bool, stream: u8, number: u32, size: u64) -> Message {
    let filler = filler(number, size);
    match number % 3 {
        0 => [&[stream], &number.to_be_bytes()[..], filler.as_bytes()]
            .concat()
            .into(),
        1 if json => json!({"stream": stream, "number": number, "filler": filler}).into(),
        _ => format!("{stream} {number} {filler}").into(),
    }
}

/// Returns the stream and the number, if the message is as it was made.
fn read(json: bool, message: &Message) -> Option<(u8, u32)> {
    let (stream, number, size) = if let Message::Binary(bytes) = message {
        let (head, filler) = bytes.split_at_checked(5)?;
        let number = u32::from_be_bytes(head[1..].try_into().unwrap());
        (head[0], number, filler.len())
    } else if let Some(text) = message.as_str() {
        let mut words = text.splitn(3, ' ');
        let stream = words.next()?.parse().ok()?;
        let number = words.next()?.parse().ok()?;
        (stream, number, words.next()?.len())
    } else {
        let value = message.as_json()?;
        let stream = value["stream"].as_u64()? as u8;
        let number = value["number"].as_u64()? as u32;
        (stream, number, value["filler"].as_str()?.len())
    };
    if size > LARGEST {
        return None;
    }
    let expected = self::message(json, stream, number, size as u64);
    // In JSON mode text arrives as a JSON string.
    let as_text = message.as_str().is_some() && message.as_str() == expected.as_str();
    (*message == expected || as_text).then_some((stream, number))
}

fn nap(decisions: &mut Decisions<'_>, naps: Naps) {
    if decisions.chance(naps.0) {
        thread::sleep(decisions.millis(1, naps.1));
    }
}

/// Starts everything in the plan.
pub fn start(ws: Websocket, side: usize, plan: &Side, book: &Book) {
    for (number, consumer) in plan.consumers.iter().enumerate() {
        let name = format!("consumer {number}, {:?}", consumer.kind);
        let taker = Taker {
            actor: book.actor(side, name),
            number,
            decisions: Decisions::from_seed(consumer.seed),
            plan: consumer.clone(),
            count: 0,
        };
        attach(&ws, taker);
    }
    // After the consumers: it may have ended by now, and early messages belong to the first
    // consumer.
    lifecycle(&ws, side, book);
    let end = ws.subscribe_with(Queue::Latest);
    let actor = book.actor(side, "subscription for the end");
    thread::spawn(move || {
        let reason = loop {
            if let Err(reason) = end.get() {
                break reason;
            }
        };
        actor.ended("subscription", Some(&reason));
    });
    // Disconnected when they have finished.
    let (putting, done) = bounded::<()>(0);
    close_as_planned(&ws, &plan.ending, done, book.actor(side, "closer"), book);
    ws.resume();
    for (stream, putter) in plan.putters.iter().enumerate() {
        let actor = book.actor(side, format!("putter {stream}, {:?}", putter.ways));
        let (ws, putter, putting) = (ws.clone(), putter.clone(), putting.clone());
        thread::spawn(move || {
            put(&ws, stream as u8, &putter, &actor);
            drop((putting, ws));
        });
    }
    if let Some(feeder) = plan.source.clone() {
        let actor = book.actor(side, "feeder");
        let ws = ws.clone();
        thread::spawn(move || feed(ws, &feeder, &actor));
    }
    for &waiter in &plan.waiters {
        let actor = book.actor(side, format!("waiter, {waiter:?}"));
        wait(&ws, waiter, actor);
    }
    if plan.ending.drops() {
        book.note(Fact::Closes { side });
        // This may be the last handle, whose drop waits.
        let actor = book.actor(side, "last handle");
        thread::spawn(move || drop((ws, actor)));
    }
}

fn lifecycle(ws: &Websocket, side: usize, book: &Book) {
    let actor = book.actor(side, "on_ready");
    ws.on_ready(move || actor.note(Fact::Ready { side }));
    let actor = book.actor(side, "on_error");
    ws.on_error(move |error| {
        actor.note(Fact::Failed { side });
        actor.ended("on_error", Some(&error));
    });
    let actor = book.actor(side, "on_close");
    ws.on_close(move || actor.note(Fact::Closed { side }));
}

fn close_as_planned(
    ws: &Websocket,
    ending: &Ending,
    done: Receiver<()>,
    actor: Actor,
    book: &Book,
) {
    let side = actor.side;
    let close_after = |after: Duration, actor: Actor| {
        let ws = ws.clone();
        thread::spawn(move || {
            thread::sleep(after);
            actor.close(&ws, after.as_millis() as u64);
        });
    };
    match *ending {
        Ending::Close(after, threads) => {
            for n in 1..threads {
                close_after(after, book.actor(side, format!("closer {n}")));
            }
            close_after(after, actor);
        }
        Ending::CloseInCallback(message, at_latest) => {
            let (own, in_callback) = (ws.clone(), book.actor(side, "closing callback"));
            let mut count = 0;
            ws.subscribe_callback(move |_| {
                if count == message {
                    in_callback.close(&own, 0);
                }
                count += 1;
            });
            close_after(at_latest, actor);
        }
        Ending::CloseOnReady(at_latest) => {
            let (own, in_callback) = (ws.clone(), book.actor(side, "closing on_ready"));
            ws.on_ready(move || in_callback.close(&own, 1));
            close_after(at_latest, actor);
        }
        Ending::CloseWhenDone => {
            let ws = ws.clone();
            thread::spawn(move || {
                let _ = done.recv();
                actor.close(&ws, 0);
            });
        }
        Ending::DropOnReady => {
            let mut own = Some(ws.clone());
            ws.on_ready(move || drop((own.take(), &actor)));
        }
        Ending::Drop => {}
        // A handle must be left.
        Ending::Leave => wait(ws, Waiter::Event, actor),
    }
}

/// Takes messages for one consumer.
struct Taker {
    actor: Actor,
    number: usize,
    decisions: Decisions<'static>,
    plan: Consumer,
    count: u32,
}

impl Taker {
    fn take(&mut self, message: &Message) {
        let Taker { actor, number, .. } = self;
        note_message(actor, *number, message);
        if let Some((_, time)) = self.plan.stop.filter(|(after, _)| *after == self.count) {
            thread::sleep(time);
        }
        nap(&mut self.decisions, self.plan.naps);
        self.count += 1;
    }

    fn leaves(&self) -> bool {
        let leaves = self.plan.leaves == Some(self.count);
        if leaves {
            self.has_left();
        }
        leaves
    }

    fn has_left(&self) {
        let (side, consumer) = (self.actor.side, self.number);
        self.actor.note(Fact::Left { side, consumer });
    }

    /// Takes messages until the consumer leaves or the connection ends.
    fn take_all(mut self, mut next: impl FnMut() -> Result<Message, Error>) {
        while !self.leaves() {
            match next() {
                Ok(message) => self.take(&message),
                Err(Error::Timeout) => {}
                Err(reason) => return self.actor.ended("consumer", Some(&reason)),
            }
        }
    }
}

fn note_message(actor: &Actor, consumer: usize, message: &Message) -> Option<(u8, u32)> {
    let read = read(actor.book.json, message);
    match read {
        None => actor.wrong(format!("got {message:?}")),
        Some((stream, number)) => actor.note(Fact::Got {
            side: actor.side,
            consumer,
            stream,
            number,
        }),
    }
    read
}

fn attach(ws: &Websocket, mut taker: Taker) {
    match taker.plan.kind {
        Kind::Get(_) | Kind::GetTimeout(_) => {
            // Makes the default subscription at the beginning.
            if let Ok(message) = ws.try_get() {
                taker.take(&message);
            }
            let ws = ws.clone();
            let time = matches!(taker.plan.kind, Kind::GetTimeout(_))
                .then(|| taker.decisions.millis(1, 20));
            thread::spawn(move || {
                taker.take_all(|| match time {
                    None => ws.get(),
                    Some(time) => ws.get_timeout(time),
                });
                ws.unsubscribe_default();
            });
        }
        Kind::Subscription(queue) => {
            let subscription = ws.subscribe_with(queue);
            thread::spawn(move || taker.take_all(|| subscription.get()));
        }
        Kind::Forgotten => {
            let subscription = ws.subscribe_with(Queue::Block(1));
            let signal = ws.closed_signal().clone();
            thread::spawn(move || {
                let _ = (signal.recv(), subscription);
                drop(taker);
            });
        }
        Kind::Channel(room) => {
            let (sender, receiver) = bounded(room);
            ws.subscribe_to(sender);
            thread::spawn(move || {
                while !taker.leaves() {
                    match receiver.recv() {
                        Ok(message) => taker.take(&message),
                        Err(_) => return,
                    }
                }
            });
        }
        Kind::Callback => call_back(ws, taker, |_, _, _| {}),
        Kind::Echo => {
            let mut answers = Answers {
                stream: ECHO + taker.number as u8,
                count: 0,
            };
            call_back(ws, taker, move |weak, actor, stream| {
                if stream.is_some_and(|stream| stream < ECHO) {
                    answers.answer(weak, actor);
                }
            });
        }
        Kind::Concurrent(workers) => {
            let taker = Mutex::new(taker);
            ws.subscribe_concurrent(workers, move |message| {
                let (seed, naps) = {
                    let mut taker = taker.lock();
                    note_message(&taker.actor, taker.number, &message);
                    (taker.decisions.u64(), taker.plan.naps)
                };
                nap(&mut Decisions::from_seed(seed), naps);
            });
        }
    }
}

fn call_back(
    ws: &Websocket,
    mut taker: Taker,
    mut then: impl FnMut(&WeakWebsocket, &Actor, Option<u8>) + Send + 'static,
) {
    let weak = ws.downgrade();
    let id = Arc::new(OnceLock::new());
    let own = id.clone();
    let mut left = false;
    let subscribed = ws.subscribe_callback(move |message| {
        if left {
            return taker.actor.wrong("called after it was unsubscribed");
        }
        taker.take(&message);
        let stream = read(taker.actor.book.json, &message).map(|(stream, _)| stream);
        then(&weak, &taker.actor, stream);
        if let (true, Some(id), Some(ws)) = (
            taker.plan.leaves == Some(taker.count),
            own.get(),
            weak.upgrade(),
        ) {
            taker.has_left();
            ws.unsubscribe(id);
            left = true;
        }
    });
    let _ = id.set(subscribed);
}

/// What a callback has answered so far.
struct Answers {
    stream: u8,
    count: u32,
}

impl Answers {
    fn answer(&mut self, weak: &WeakWebsocket, actor: &Actor) {
        let Some(ws) = weak.upgrade() else { return };
        let answer = message(actor.book.json, self.stream, self.count, 20);
        if ws.put(answer).is_ok() {
            self.count += 1;
            // Reported each time, since no answer is known to be the last.
            actor.note(Fact::Accepted {
                side: actor.side,
                stream: self.stream,
                count: self.count,
            });
        }
    }
}

fn put(ws: &Websocket, stream: u8, plan: &Putter, actor: &Actor) {
    let json = actor.book.json;
    let mut decisions = Decisions::from_seed(plan.seed);
    let mut count = 0;
    let mut next = message(json, stream, 0, decisions.up_to(plan.largest));
    while count < plan.messages {
        let way = match plan.ways {
            Ways::Mixed => decisions.pick(&[Ways::Put, Ways::PutNowait, Ways::PutTimeout]),
            way => way,
        };
        let put = match way {
            Ways::Put | Ways::Mixed => ws.put(next.clone()),
            Ways::PutNowait => ws.put_nowait(next.clone()),
            Ways::PutTimeout => ws.put_timeout(next.clone(), decisions.millis(0, 20)),
        };
        match put {
            Ok(()) => {
                count += 1;
                next = message(json, stream, count, decisions.up_to(plan.largest));
            }
            Err(PutError::Full(_)) if matches!(way, Ways::Put) => actor.wrong("put found it full"),
            Err(error) if *error_message(&error) != next => actor.wrong("another was handed back"),
            Err(PutError::Full(_)) => thread::sleep(Duration::from_millis(1)),
            Err(PutError::Closed(_)) => break,
        }
        nap(&mut decisions, plan.naps);
    }
    actor.note(Fact::Accepted {
        side: actor.side,
        stream,
        count,
    });
}

fn error_message(error: &PutError<Message>) -> &Message {
    match error {
        PutError::Full(message) | PutError::Closed(message) => message,
    }
}

fn feed(ws: Websocket, plan: &Feeder, actor: &Actor) {
    let (sender, receiver) = match plan.capacity {
        None => unbounded(),
        Some(capacity) => bounded(capacity),
    };
    let source = Subscription::from(receiver.clone());
    let signal = ws.closed_signal().clone();
    let mut decisions = Decisions::from_seed(plan.seed);
    let mut sent = 0;
    let mut closing = false;
    while sent < plan.messages && !closing {
        let next = message(actor.book.json, SOURCE, sent, decisions.up_to(plan.largest));
        let mut next = Some(next);
        while let (Some(message), false) = (next.take(), closing) {
            match sender.try_send(message) {
                Ok(()) => sent += 1,
                Err(TrySendError::Full(message)) => {
                    next = Some(message);
                    thread::sleep(Duration::from_millis(1));
                }
                Err(TrySendError::Disconnected(_)) => unreachable!("this thread has it, too"),
            }
            // A put stops the source.
            if ws.subscription().is_none() {
                closing = ws.put_subscription(&source).is_err();
            }
            if ws.subscription().is_some_and(|active| active != source) {
                actor.wrong("another source is active");
            }
        }
        nap(&mut decisions, plan.naps);
    }
    drop(ws);
    let _ = signal.recv();
    let left = receiver.len() as u32;
    actor.note(Fact::Accepted {
        side: actor.side,
        stream: SOURCE,
        count: sent - left,
    });
}

/// Returns the failure of the last state.
fn last_failure(state: State) -> Result<(), Error> {
    match state {
        State::Closed { reason, .. } if !reason.is_orderly() => Err(reason),
        _ => Ok(()),
    }
}

fn wait(ws: &Websocket, waiter: Waiter, actor: Actor) {
    let signal = ws.closed_signal().clone();
    if let Waiter::Signal = waiter {
        thread::spawn(move || {
            let _ = signal.recv();
            if actor.book.observer.halves(actor.side) > 0 {
                actor.wrong("told before both threads were done");
            }
        });
        return;
    }
    let ws = ws.clone();
    thread::spawn(move || {
        let ended = match waiter {
            Waiter::Ready => return drop((ws.wait_ready(), actor)),
            Waiter::Event => ws.events().iter().last().map_or(Ok(()), last_failure),
            Waiter::Closed => ws.wait_closed(),
            Waiter::ClosedTimeout | Waiter::Signal => loop {
                let begun = Instant::now();
                let time = Duration::from_millis(7);
                match ws.wait_closed_timeout(time) {
                    Err(Error::Timeout) if begun.elapsed() < time => actor.wrong("too early"),
                    Err(Error::Timeout) => {}
                    ended => break ended,
                }
            },
        };
        actor.ended("waiter", ended.err().as_ref());
        if actor.book.observer.halves(actor.side) > 0 {
            actor.wrong("told before both threads were done");
        }
        let same = |reason: Error| reason.is_orderly() == ws.error().is_none();
        if !ws.is_closed() || ws.is_ready() || !end_reason(&ws).is_some_and(same) {
            actor.wrong(format!("told too early: {ws:?}, {:?}", end_reason(&ws)));
        }
    });
}
