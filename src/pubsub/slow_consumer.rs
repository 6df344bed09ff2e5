//! What happens to an item for which a subscriber has no room.
//!
//! A ring ([`Queue::DropOldest`], [`Queue::Latest`]) drops an older item (`ring.rs`), and an
//! unbounded queue has room. For all others, delivery waits, keeps the item, or drops it. The
//! producer's [`Hold`] decides. A connection sets it by its state (`Session::hold`).

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use parking_lot::Mutex;

use super::dropped::Dropped;
use super::space::ChangeNotifier;
use super::subscriber::Subscriber;
use super::threads::{Threads, Unstarted};
use crate::error::PutError;

/// How long a subscription may be full before a warning is logged.
const LONG: Duration = Duration::from_secs(1);

/// Decides what happens when the reader of a subscription falls behind.
///
/// Defaults to `Block(1024)`.
///
/// # Threads of different priority
///
/// A control loop with a real-time priority (`SCHED_FIFO`) may preempt the thread that fills its
/// queue. `Latest` and `DropOldest` have a lock: [`get`](super::Subscription::get),
/// [`get_timeout`](super::Subscription::get_timeout) and
/// [`try_get`](super::Subscription::try_get) sleep until that thread has put its one item.
/// **All other calls spin until then**: the same methods with the other kinds, and
/// [`receiver`](super::Subscription::receiver) with every kind. If both threads share a processor,
/// they spin for as long as the system runs only real-time threads: up to a second with Linux's
/// defaults, and for ever if `sched_rt_runtime_us` is -1. So such a control loop should take
/// its orders from a [`Latest`](super::Latest), which never spins.
///
/// # Examples
///
/// ```
/// use rtcbot_websocket::{Queue, Websocket};
///
/// let (operator, robot) = Websocket::pair();
/// let orders = robot.subscribe_with(Queue::Latest);
/// let log = robot.subscribe_with(Queue::DropOldest(100));
/// operator.put("forward")?;
/// assert_eq!(log.get()?, "forward");
/// assert_eq!(orders.get()?, "forward");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Queue {
    /// The producer pauses while this many items are queued.
    ///
    /// For a [`Websocket`](crate::Websocket), reading pauses, so that TCP slows the peer down and
    /// nothing is lost. Reading also pauses while
    /// [`receive_queue_bytes`](crate::Options::receive_queue_bytes) are queued.
    ///
    /// 0 counts as 1. The memory for the queue's places is allocated at once: 48 bytes each for a
    /// `Websocket`. A queue of 2^28 items or more has no limit instead.
    Block(usize),
    /// The oldest item is dropped when a new one exceeds this many items, or
    /// [`receive_queue_bytes`](crate::Options::receive_queue_bytes).
    ///
    /// 0 counts as 1. Memory is allocated as for `Block`.
    DropOldest(usize),
    /// Only the newest item is kept: RTCBot's `MostRecentSubscription`, for control loops.
    #[doc(alias = "MostRecentSubscription")]
    Latest,
    /// All items are kept, however much memory they take.
    Unbounded,
}

/// Returns `Block(1024)`.
impl Default for Queue {
    fn default() -> Self {
        Queue::Block(1024)
    }
}

/// What the publisher does with an item for which a subscriber has no room.
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
    hold: Mutex<Hold>,
    /// Notified when the threads that wait for room have to check again.
    changed: ChangeNotifier,
    /// Whether the publisher waits before its next item. Not under the lock, since it is read for
    /// each item.
    paused: AtomicBool,
    pub(super) dropped: Dropped,
    pub(super) threads: Arc<Threads>,
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
            hold: Mutex::new(Hold::Forever),
            changed: ChangeNotifier::new(),
            paused: AtomicBool::new(false),
            dropped: Dropped::default(),
            threads,
        })
    }

    /// Sets the policy.
    pub(super) fn set_hold(&self, hold: Hold) {
        *self.hold.lock() = hold;
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
        self.changed.notify();
    }

    /// Returns what `waiter` has to do with an item for which there is no room, and a channel that
    /// is disconnected when it has to check again. Get the channel before checking anything else:
    /// then no change is missed.
    pub(super) fn when_full(&self, waiter: Waiter) -> (WhenFull, Receiver<Infallible>) {
        let changed = self.changed.next_change();
        (self.hold.lock().when_full(waiter), changed)
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

/// The outcome of a delivery.
pub(super) enum Delivered<T> {
    Taken,
    Kept(T),
    /// The item was dropped and counted.
    Dropped,
    /// The subscriber has been removed, or is closed.
    Gone(T),
}

impl<T: Send + 'static> Subscriber<T> {
    /// Delivers an item of this weight. If there is no room, `waiter` and the producer's
    /// [`Hold`](Hold) decide what happens. A wait is ended by room, by
    /// [`Delivery::wake_waiters`], or by its time limit.
    pub(super) fn deliver(
        self: &Arc<Self>,
        mut item: T,
        weight: usize,
        waiter: Waiter,
        delivery: &Delivery,
    ) -> Delivered<T> {
        let mut start = None;
        loop {
            // Without a thread, nothing makes room. This comes before the policy is read, since the
            // owner, which is notified of a long outage, may change it.
            let thread = match self.needs_thread() {
                true => delivery.threads.retry(),
                false => Unstarted::None,
            };
            let (when_full, changed) = delivery.when_full(waiter);
            let room = self.room_wait(weight);
            if self.status.truncated.load(Ordering::Relaxed) {
                return self.drop_item(item, delivery);
            }
            if self.status.is_removed() {
                return Delivered::Gone(item);
            }
            item = match self.put_nowait(item, weight, &delivery.dropped) {
                Ok(()) => return Delivered::Taken,
                Err(PutError::Full(item)) => item,
                Err(PutError::Closed(item)) => return Delivered::Gone(item),
            };
            let until = match when_full {
                WhenFull::Wait(until) => until,
                WhenFull::Keep => return Delivered::Kept(item),
                WhenFull::Drop => {
                    self.status.truncated.store(true, Ordering::Relaxed);
                    return self.drop_item(item, delivery);
                }
            };
            let next_attempt = match thread {
                Unstarted::None => None,
                Unstarted::RetryAt(next) => Some(next),
                Unstarted::Overdue => return self.drop_item(item, delivery),
            };
            // The warning helps to find a subscription that the program does not read any more.
            let warn_at = *start.get_or_insert_with(Instant::now) + LONG;
            if Instant::now() >= warn_at {
                self.status.warn_full();
            }
            let warn_at = (!self.status.warned_full.load(Ordering::Relaxed)).then_some(warn_at);
            let until = [until, next_attempt, warn_at].into_iter().flatten().min();
            room.wait(&changed, until);
        }
    }

    fn drop_item(&self, item: T, delivery: &Delivery) -> Delivered<T> {
        self.status.discard(item, &delivery.dropped);
        Delivered::Dropped
    }
}
