//! The kinds of queue that a subscription may have.

use std::collections::VecDeque;
use std::sync::Arc;

use crossbeam_channel::{Receiver, bounded, unbounded};

use super::ring::Ring;
use super::subscriber::Output;
use super::weight_limit::{TakeNotifier, Weighing, WeightLimit};

/// A queue with room for more items than this is one without a limit: its places are not all made
/// at once.
const NO_LIMIT: usize = 1 << 28;

/// What a slow reader of a subscription means.
///
/// # Threads of different priority
///
/// A control loop that runs at a real-time priority (`SCHED_FIFO`) may preempt the thread that
/// fills its queue. `Latest` and `DropOldest` have a lock, for which
/// [`get`](super::Subscription::get), [`get_timeout`](super::Subscription::get_timeout) and
/// [`try_get`](super::Subscription::try_get) sleep until that thread has finished with the one
/// item. **Everything else spins until then**: these calls with the other queues, and
/// [`receiver`](super::Subscription::receiver) with all. If both threads share a processor, that
/// takes as long as the system keeps real-time threads from others: up to a second with Linux's
/// defaults, and for ever where `sched_rt_runtime_us` is -1. So a control loop takes its orders
/// from a `Latest`, with `try_get`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    /// When this many items wait, the producer pauses until one is taken. For a
    /// [`Websocket`](crate::Websocket) that means: reading pauses, TCP holds the peer back, nothing
    /// is lost. So it does when [`receive_queue_bytes`](crate::Options::receive_queue_bytes) wait.
    /// 0 counts as 1. The places of a queue are made at once, 48 bytes each for a `Websocket`'s;
    /// one of more than 2^28 has no limit instead.
    Block(usize),
    /// When this many items, or bytes, wait, the oldest is dropped for the newest. 0 counts as 1;
    /// places and bytes as above.
    DropOldest(usize),
    /// Only the newest item is kept: RTCBot's `MostRecentSubscription`, for control loops.
    Latest,
    /// Everything is kept, whatever memory it takes.
    Unbounded,
}

/// `Block(1024)`.
impl Default for Queue {
    fn default() -> Self {
        Queue::Block(1024)
    }
}

/// A channel for `queue` that holds what came early. Takes from that what is kept, and leaves the
/// rest.
pub(super) fn open_queue<T>(
    queue: Queue,
    weighing: Weighing<T>,
    early: &mut VecDeque<T>,
) -> (Output<T>, (Receiver<T>, Arc<TakeNotifier>)) {
    let (sender, receiver) = match queue {
        Queue::Block(NO_LIMIT..) | Queue::DropOldest(NO_LIMIT..) => unbounded(),
        // Early items are not dropped for the sake of a short queue: it starts out longer.
        // And never without capacity: then two sides that only look, as publisher and inbox do,
        // would not see each other.
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
        // There is room, and nobody else has the channel yet.
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
