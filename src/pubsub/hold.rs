//! How long delivery waits for a subscriber that is full.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

use super::threads::Threads;
use crate::error::Error;

/// Why a producer has ended. It is set once, before the producer's queues are disconnected.
pub(crate) type End = Arc<OnceLock<Error>>;

/// What delivery does with an item that a full subscriber has no room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hold {
    /// It waits for room.
    Forever,
    /// It waits for room until then, and drops the item after that.
    Until(Instant),
    /// It drops the item.
    Never,
    /// It keeps the item, and all that follow, until the publisher [drains its
    /// backlog](super::Publisher::drain_backlog). Nothing is dropped, and nothing waits.
    Spill,
}

/// What governs every delivery of one producer, and counts what was not delivered.
pub(super) struct Delivery {
    /// Held to look and to change; nothing is called under it.
    state: Mutex<State>,
    /// Whether the publisher waits before its next item. It is read without the lock for each item.
    paused: AtomicBool,
    pub(super) dropped: AtomicU64,
    pub(super) threads: Arc<Threads>,
}

struct State {
    hold: Hold,
    /// The channel that those who wait receive from; it is made by the first of them. Nothing is
    /// ever sent: it is disconnected when they have to look again.
    changed: Option<(Sender<Infallible>, Receiver<Infallible>)>,
}

/// Who waits for room.
#[derive(Debug, Clone, Copy)]
pub(super) enum Waiter {
    /// The publisher. From the given time on it keeps what it could not deliver.
    Publisher(Option<Instant>),
    /// A thread that has nothing else to do, and so has no use for [`Hold::Spill`].
    Thread,
    /// Nobody: this is done with an item that finds no room.
    Nobody(Verdict),
}

/// What to do with an item that finds no room.
#[derive(Debug, Clone, Copy)]
pub(super) enum Verdict {
    /// Wait for room until then, and look again.
    Wait(Option<Instant>),
    Keep,
    Drop,
}

impl Delivery {
    pub(super) fn new(threads: Arc<Threads>) -> Arc<Self> {
        Arc::new(Delivery {
            state: Mutex::new(State {
                hold: Hold::Forever,
                changed: None,
            }),
            paused: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
            threads,
        })
    }

    /// Sets what is done from now on. A limit of time stays, unless an earlier one replaces it.
    pub(super) fn set_hold(&self, new: Hold) {
        {
            let hold = &mut self.state.lock().hold;
            *hold = match (*hold, new) {
                (Hold::Never, _) | (_, Hold::Never) => Hold::Never,
                (Hold::Until(set), Hold::Until(new)) => Hold::Until(set.min(new)),
                (Hold::Until(set), Hold::Forever | Hold::Spill) => Hold::Until(set),
                (Hold::Forever | Hold::Spill, new) => new,
            };
        }
        self.look_again();
    }

    pub(super) fn pause(&self) {
        self.paused.store(true, Ordering::SeqCst);
    }

    pub(super) fn resume(&self) {
        self.paused.store(false, Ordering::SeqCst);
        self.look_again();
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::SeqCst)
    }

    /// Wakes all who wait. To be called after a change of what they look at.
    pub(super) fn look_again(&self) {
        let changed = self.state.lock().changed.take();
        drop(changed);
    }

    /// Says what `waiter` has to do now. The channel is disconnected when it has to look again: get
    /// it before looking at anything else, then no change is missed.
    pub(super) fn look(&self, waiter: Waiter) -> (Verdict, Receiver<Infallible>) {
        let mut state = self.state.lock();
        let verdict = state.hold.verdict(waiter);
        let (_, changed) = state.changed.get_or_insert_with(|| bounded(0));
        (verdict, changed.clone())
    }

    pub(super) fn count_dropped(&self, count: usize) -> u64 {
        self.dropped.fetch_add(count as u64, Ordering::Relaxed)
    }
}

impl Hold {
    fn verdict(self, waiter: Waiter) -> Verdict {
        let is_over = |until: Instant| Instant::now() >= until;
        match (self, waiter) {
            (_, Waiter::Nobody(verdict)) => verdict,
            (Hold::Never, _) => Verdict::Drop,
            (Hold::Until(until), _) if is_over(until) => Verdict::Drop,
            (Hold::Spill, Waiter::Publisher(_)) => Verdict::Keep,
            (_, Waiter::Publisher(Some(limit))) if is_over(limit) => Verdict::Keep,
            (Hold::Until(until), Waiter::Publisher(Some(limit))) => {
                Verdict::Wait(Some(until.min(limit)))
            }
            (Hold::Until(until), _) => Verdict::Wait(Some(until)),
            (_, Waiter::Publisher(limit)) => Verdict::Wait(limit),
            (_, Waiter::Thread) => Verdict::Wait(None),
        }
    }
}
