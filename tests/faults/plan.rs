//! What the two sides of a connection do, drawn from a seed.

use std::time::Duration;

use rtcbot_websocket::{Options, Queue};

use crate::testkit::decisions::Decisions;
use crate::testkit::faults::ConnectionFaults;

#[derive(Debug, Clone)]
pub struct Plan {
    pub faults: ConnectionFaults,
    /// The client's and the server's.
    pub sides: [Side; 2],
    /// When the connection breaks, if neither side ends it.
    pub breaks: Option<Duration>,
    /// Whether nothing fails and no timeout is short.
    pub calm: bool,
    pub json: bool,
}

#[derive(Debug, Clone)]
pub struct Side {
    pub connect_timeout: Duration,
    pub close_timeout: Duration,
    pub linger: Duration,
    /// Interval and timeout.
    pub pings: Option<(Duration, Duration)>,
    pub send_queue: usize,
    /// Whether all consumers exist before the first message is delivered.
    pub paused: bool,
    pub putters: Vec<Putter>,
    pub source: Option<Feeder>,
    pub consumers: Vec<Consumer>,
    pub waiters: Vec<Waiter>,
    pub ending: Ending,
}

/// A thread that puts.
#[derive(Debug, Clone)]
pub struct Putter {
    pub seed: u64,
    pub messages: u32,
    pub largest: u64,
    pub ways: Ways,
    pub naps: Naps,
}

#[derive(Debug, Clone, Copy)]
pub enum Ways {
    Put,
    PutNowait,
    PutTimeout,
    Mixed,
}

/// How many times in a hundred, and for how many milliseconds at most.
#[derive(Debug, Clone, Copy)]
pub struct Naps(pub u64, pub u64);

/// A thread that fills a channel, which is the source.
#[derive(Debug, Clone)]
pub struct Feeder {
    pub seed: u64,
    pub messages: u32,
    pub largest: u64,
    /// `None` is unbounded.
    pub capacity: Option<usize>,
    pub naps: Naps,
}

#[derive(Debug, Clone)]
pub struct Consumer {
    pub seed: u64,
    pub kind: Kind,
    pub naps: Naps,
    /// Once, after this many messages, for this long.
    pub stop: Option<(u32, Duration)>,
    /// Leaves after this many messages.
    pub leaves: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// The default subscription, with a `Block` queue of this capacity.
    Get(usize),
    GetTimeout(usize),
    Subscription(Queue),
    /// A subscription that is never read.
    Forgotten,
    Callback,
    /// A callback that answers.
    Echo,
    Concurrent(usize),
    /// A channel of this capacity.
    Channel(usize),
}

impl Consumer {
    /// Whether it receives every message for as long as this side does not close.
    pub fn loses_nothing(&self) -> bool {
        !matches!(
            self.kind,
            Kind::Subscription(Queue::Latest | Queue::DropOldest(_)) | Kind::Forgotten
        )
    }

    /// Whether it never waits for room.
    pub fn is_never_full(&self) -> bool {
        self.kind == Kind::Subscription(Queue::Unbounded)
    }
}

#[derive(Debug, Clone, Copy)]
pub enum Waiter {
    Ready,
    Event,
    Closed,
    ClosedTimeout,
    Signal,
}

#[derive(Debug, Clone, Copy)]
pub enum Ending {
    /// This many threads close after this time.
    Close(Duration, usize),
    /// In a callback, for the message of this number; if it does not arrive, after this time.
    CloseInCallback(u32, Duration),
    /// In `on_ready`; if that is not called, after this time.
    CloseOnReady(Duration),
    /// When all putters have finished.
    CloseWhenDone,
    /// No handle is left once all threads have finished.
    Drop,
    /// As `Drop`, but `on_ready` has a handle too, and drops it.
    DropOnReady,
    /// Something else ends the connection.
    Leave,
}

impl Ending {
    pub fn drops(&self) -> bool {
        matches!(self, Ending::Drop | Ending::DropOnReady)
    }
}

impl Plan {
    pub fn draw(seed: u64) -> Self {
        let mut decisions = Decisions::from_seed(seed);
        let faults = ConnectionFaults::draw(decisions.u64());
        let mut sides = [0, 1].map(|n| Side::draw(&mut decisions, &faults, n));
        let silent = faults.may_fall_silent();
        for side in &mut sides {
            let certain = side.ends_for_certain();
            // Without pings, a client waits for a silent peer without limit.
            if silent && !certain {
                side.pings.get_or_insert_with(|| pings(&mut decisions));
            }
            // Nothing is read while a queue that is never read is full.
            if !certain {
                side.consumers
                    .retain(|consumer| consumer.kind != Kind::Forgotten);
            }
        }
        let ends = |side: &Side| !matches!(side.ending, Ending::Leave);
        let breaks = (!sides.iter().any(ends)).then(|| decisions.millis(20, 600));
        let calm = faults.lose_nothing() && breaks.is_none() && decisions.chance(60);
        if calm {
            sides.iter_mut().for_each(Side::calm_down);
        }
        Plan {
            faults,
            sides,
            breaks,
            calm,
            json: decisions.chance(50),
        }
    }
}

fn pings(decisions: &mut Decisions<'_>) -> (Duration, Duration) {
    (decisions.millis(20, 100), decisions.millis(50, 200))
}

/// Longer than anything takes on a busy machine.
const LONG: Duration = Duration::from_secs(30);

impl Side {
    /// Whether it ends whatever the connection does.
    fn ends_for_certain(&self) -> bool {
        // A putter may wait, and has a handle meanwhile.
        let waits = |consumer: &Consumer| consumer.kind == Kind::Echo;
        let waits = self.consumers.iter().any(waits);
        let may_wait = waits || self.source.is_some() || !self.putters.is_empty();
        match self.ending {
            Ending::Close(..) | Ending::CloseInCallback(..) | Ending::CloseOnReady(_) => true,
            Ending::Drop | Ending::DropOnReady => !may_wait,
            Ending::CloseWhenDone | Ending::Leave => false,
        }
    }

    fn calm_down(&mut self) {
        (self.connect_timeout, self.close_timeout, self.linger) = (LONG, LONG, LONG);
        self.pings = self.pings.map(|(interval, _)| (interval, LONG));
        self.consumers
            .retain(|consumer| consumer.kind != Kind::Forgotten);
    }

    fn draw(decisions: &mut Decisions<'_>, faults: &ConnectionFaults, n: usize) -> Self {
        // Limits what a scenario transfers, so that it is short.
        let direction = &faults.directions[n];
        let (messages, largest) = match direction.piece.min(direction.capacity as u64) {
            0..=100 => (20, 60),
            101..=1000 => (60, 2_000),
            _ => (150, 30_000),
        };
        let ending = match decisions.between(0, 9) {
            0..=1 => Ending::Close(decisions.millis(1, 200), decisions.pick(&[1, 1, 2, 3])),
            2..=3 => {
                Ending::CloseInCallback(decisions.up_to(messages) as u32, decisions.millis(50, 300))
            }
            4 => Ending::CloseOnReady(decisions.millis(50, 300)),
            5..=6 => Ending::CloseWhenDone,
            7 => decisions.pick(&[Ending::Drop, Ending::DropOnReady]),
            _ => Ending::Leave,
        };
        let keeps_handles = !ending.drops();
        let naps = |decisions: &mut Decisions<'_>| match decisions.between(0, 3) {
            0 => Naps(10, 2),
            1 => Naps(2, 10),
            _ => Naps(0, 1),
        };
        let putters = (0..decisions.pick(&[0, 1, 1, 2, 3])).map(|_| Putter {
            seed: decisions.u64(),
            messages: decisions.between(1, messages) as u32,
            largest: decisions.up_to(largest).max(8),
            ways: decisions.pick(&[Ways::Put, Ways::PutNowait, Ways::PutTimeout, Ways::Mixed]),
            naps: naps(decisions),
        });
        let putters = putters.collect();
        let source = decisions.chance(30).then(|| Feeder {
            seed: decisions.u64(),
            messages: decisions.up_to(messages) as u32,
            largest: decisions.up_to(largest).max(8),
            capacity: decisions.pick(&[None, Some(1), Some(10)]),
            naps: naps(decisions),
        });
        let paused = decisions.chance(70);
        let room = |decisions: &mut Decisions<'_>| decisions.pick(&[1, 2, 16, 1024]);
        let mut default_is_taken = false;
        let consumers = (0..decisions.pick(&[1, 1, 2, 3])).map(|_| {
            let kind = match decisions.between(0, 11) {
                0..=1 if keeps_handles && !std::mem::replace(&mut default_is_taken, true) => {
                    let room = room(decisions);
                    decisions.pick(&[Kind::Get(room), Kind::GetTimeout(room)])
                }
                0..=4 => Kind::Subscription(Queue::Block(room(decisions))),
                5 => Kind::Subscription(Queue::Unbounded),
                6 => Kind::Subscription(Queue::DropOldest(room(decisions))),
                7 => Kind::Callback,
                8 => Kind::Echo,
                9 => Kind::Concurrent(decisions.pick(&[1, 2, 4])),
                10 => Kind::Channel(room(decisions)),
                _ => Kind::Forgotten,
            };
            let stop = decisions.chance(20);
            Consumer {
                seed: decisions.u64(),
                kind,
                naps: naps(decisions),
                stop: stop.then(|| {
                    (
                        decisions.up_to(20) as u32,
                        Duration::from_millis(decisions.up_to(900)),
                    )
                }),
                leaves: decisions.chance(10).then(|| decisions.up_to(50) as u32),
            }
        });
        let consumers = consumers.collect();
        let waiters = (0..decisions.between(0, 2)).map(|_| match keeps_handles {
            true => decisions.pick(&[
                Waiter::Ready,
                Waiter::Event,
                Waiter::Closed,
                Waiter::ClosedTimeout,
            ]),
            false => Waiter::Signal,
        });
        Side {
            waiters: waiters.collect(),
            connect_timeout: decisions.millis(200, 600),
            close_timeout: decisions.millis(100, 500),
            linger: decisions.millis(20, 300),
            pings: decisions.chance(60).then(|| pings(decisions)),
            send_queue: decisions.pick(&[1, 1000, 50_000, 16 << 20]),
            paused,
            putters,
            source,
            consumers,
            ending,
        }
    }

    pub fn options(&self, json: bool) -> Options {
        let mut options = Options::new()
            .json(json)
            .connect_timeout(self.connect_timeout)
            .close_timeout(self.close_timeout)
            .linger(self.linger)
            .ping_interval(self.pings.map(|(interval, _)| interval))
            .ping_timeout(self.pings.map(|(_, timeout)| timeout))
            .send_queue(self.send_queue)
            .paused(self.paused);
        for consumer in &self.consumers {
            if let Kind::Get(room) | Kind::GetTimeout(room) = consumer.kind {
                options = options.receive_queue(Queue::Block(room));
            }
        }
        options
    }
}
