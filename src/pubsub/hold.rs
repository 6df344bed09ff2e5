//! How long delivery may wait for a subscriber that is full.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

use super::threads::Threads;
use crate::error::Error;

/// The reason why a producer has ended. It is set once, before the queues are disconnected.
pub(crate) type EndReason = Arc<OnceLock<Error>>;

/// What happens to an item for which a subscriber has no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hold {
    /// The publisher waits for room.
    Forever,
    /// The publisher waits for room until this time, and then drops the item.
    Until(Instant),
    /// The publisher drops the item immediately.
    Never,
    /// The publisher keeps the item, and all that follow, until it [drains its
    /// backlog](super::Publisher::drain_backlog). It does not wait.
    Spill,
}

/// The policy that applies to all deliveries of one producer, and the count of dropped items.
pub(super) struct Delivery {
    /// Held to read or to change it. Nothing is called under it.
    state: Mutex<State>,
    /// Whether the publisher waits before its next item. Not under the lock, since it is read for
    /// each item.
    paused: AtomicBool,
    pub(super) dropped: AtomicU64,
    pub(super) threads: Arc<Threads>,
}

struct State {
    hold: Hold,
    /// A channel that waiting threads receive from. The first of them creates it. Nothing is ever
    /// sent: it is disconnected when they have to check again.
    changed: Option<(Sender<Infallible>, Receiver<Infallible>)>,
}

/// The kind of thread that waits for room.
#[derive(Debug, Clone, Copy)]
pub(super) enum Waiter {
    /// The publisher. From this time on it keeps items as with [`Hold::Spill`].
    Publisher(Option<Instant>),
    /// A thread that only delivers. [`Hold::Spill`] does not apply to it.
    Thread,
    /// No thread waits: this applies.
    Nobody(WhenFull),
}

/// What to do with an item for which there is no room.
#[derive(Debug, Clone, Copy)]
pub(super) enum WhenFull {
    /// Wait for room, until this time at most, and check again.
    Wait(Option<Instant>),
    /// Keep it for later.
    Keep,
    /// Drop and count it.
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

    /// Sets the policy.
    pub(super) fn set_hold(&self, hold: Hold) {
        self.state.lock().hold = hold;
        self.wake_waiters();
    }

    pub(super) fn pause(&self) {
        self.paused.store(true, Ordering::SeqCst);
    }

    pub(super) fn resume(&self) {
        self.paused.store(false, Ordering::SeqCst);
        self.wake_waiters();
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::SeqCst)
    }

    /// Wakes all threads that wait for room. Call it after a change to a state that they check.
    pub(super) fn wake_waiters(&self) {
        let changed = self.state.lock().changed.take();
        drop(changed);
    }

    /// Returns what `waiter` has to do with an item for which there is no room, and a channel that
    /// is disconnected when it has to check again. Get the channel before checking anything else:
    /// then no change is missed.
    pub(super) fn when_full(&self, waiter: Waiter) -> (WhenFull, Receiver<Infallible>) {
        let mut state = self.state.lock();
        let when_full = state.hold.when_full(waiter);
        let (_, changed) = state.changed.get_or_insert_with(|| bounded(0));
        (when_full, changed.clone())
    }

    /// Counts dropped items. Returns the number of items that had been dropped before.
    pub(super) fn count_dropped(&self, count: usize) -> u64 {
        self.dropped.fetch_add(count as u64, Ordering::Relaxed)
    }
}

impl Hold {
    fn when_full(self, waiter: Waiter) -> WhenFull {
        let is_over = |until: Instant| Instant::now() >= until;
        match (self, waiter) {
            (_, Waiter::Nobody(when_full)) => when_full,
            (Hold::Never, _) => WhenFull::Drop,
            (Hold::Until(until), _) if is_over(until) => WhenFull::Drop,
            (Hold::Spill, Waiter::Publisher(_)) => WhenFull::Keep,
            (_, Waiter::Publisher(Some(limit))) if is_over(limit) => WhenFull::Keep,
            (Hold::Until(until), Waiter::Publisher(Some(limit))) => {
                WhenFull::Wait(Some(until.min(limit)))
            }
            (Hold::Until(until), _) => WhenFull::Wait(Some(until)),
            (_, Waiter::Publisher(limit)) => WhenFull::Wait(limit),
            (_, Waiter::Thread) => WhenFull::Wait(None),
        }
    }
}
