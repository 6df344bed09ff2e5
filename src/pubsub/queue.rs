//! The kinds of queue that a subscription can have.

use std::collections::VecDeque;
use std::sync::Arc;

use crossbeam_channel::{Receiver, bounded, unbounded};

use super::ring::Ring;
use super::subscriber::Output;
use super::weight_limit::{TakeNotifier, Weighing, WeightLimit};

/// A queue with room for this many items or more is unbounded instead, because a bounded channel
/// allocates all its places at once.
const NO_LIMIT: usize = 1 << 28;

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
/// defaults, and for ever if `sched_rt_runtime_us` is -1. So a control loop should take its orders
/// from `Latest`, with `try_get`.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

/// Creates a queue with the early items. Takes those from `early` that are kept, and leaves the
/// others there.
pub(super) fn open_queue<T>(
    queue: Queue,
    weighing: Weighing<T>,
    early: &mut VecDeque<T>,
) -> (Output<T>, (Receiver<T>, Arc<TakeNotifier>)) {
    let (sender, receiver) = match queue {
        Queue::Block(NO_LIMIT..) | Queue::DropOldest(NO_LIMIT..) => unbounded(),
        // The early items are not dropped because a queue is short: the queue is longer instead.
        // A channel without capacity would not work: it passes an item only while one side waits in
        // `send` or `recv`, and the publisher and an inbox only try.
        Queue::Block(n) => bounded(n.max(early.len()).max(1)),
        Queue::DropOldest(n) => bounded(n.max(1)),
        Queue::Latest => bounded(1),
        Queue::Unbounded => unbounded(),
    };
    let ring = matches!(queue, Queue::DropOldest(_) | Queue::Latest);
    let skip = match sender.capacity() {
        Some(capacity) if ring => early.len().saturating_sub(capacity),
        _ => 0,
    };
    let limit = match queue {
        Queue::Block(_) | Queue::DropOldest(_) => {
            WeightLimit::new(weighing.limit, sender.capacity())
        }
        Queue::Latest | Queue::Unbounded => WeightLimit::none(),
    };
    for item in early.drain(skip..) {
        limit.count((weighing.weigh)(&item));
        // Cannot fail: there is room, and no other thread has the channel yet.
        let _ = sender.try_send(item);
    }
    let notifier = limit.notifier();
    let output = if ring {
        Output::Ring(Ring::new(sender, receiver.clone()), limit)
    } else {
        Output::Queue(sender, limit)
    };
    (output, (receiver, notifier))
}
