//! Opens the queue of a subscription.

use std::collections::VecDeque;
use std::sync::Arc;

use crossbeam_channel::{Receiver, bounded, unbounded};

use super::ring::Ring;
use super::slow_consumer::Queue;
use super::subscriber::Output;
use super::weight_limit::{TakeNotifier, Weighing, WeightLimit};

/// A queue with room for this many items or more is unbounded instead, because a bounded channel
/// allocates all its places at once.
const NO_LIMIT: usize = 1 << 28;

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
