//! Drops and counts items that subscribers do not receive.
//!
//! Items are dropped if a ring is full (`subscriber.rs`), if delivery may not wait any longer
//! (`slow_consumer.rs`, `fan_out.rs`), if too many are kept before the first subscription or for
//! slow subscribers, or if a sink is closed before its early items are delivered
//! (`subscribers.rs`), if a new queue has no place for all early items or a program's own sink is
//! full (`producer.rs`), and at the end (`end.rs`).
//!
//! Messages that a connection does not send are counted by its send queue.

use std::sync::atomic::{AtomicU64, Ordering};

use super::status::Status;
use crate::panics::drop_caught;

/// The number of items that subscribers have not received. An item that two subscribers do not
/// receive counts twice.
#[derive(Default)]
pub(super) struct Dropped(AtomicU64);

impl Dropped {
    /// Drops an item, and counts it.
    #[inline]
    pub(super) fn discard<T>(&self, item: T) {
        self.count(1);
        drop_caught(item);
    }

    /// Counts dropped items. Returns the number of items that had been dropped before.
    pub(super) fn count(&self, items: usize) -> u64 {
        self.0.fetch_add(items as u64, Ordering::Relaxed)
    }

    pub(super) fn total(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Status {
    /// Drops an item that this subscriber does not receive, counts it, and logs the first one.
    pub(super) fn discard<T>(&self, item: T, dropped: &Dropped) {
        dropped.discard(item);
        self.warn_dropped();
    }

    pub(super) fn warn_dropped(&self) {
        if !self.warned_dropped.swap(true, Ordering::Relaxed) {
            crate::logging::warn!(
                "{:?} is full, and the stream does not wait for it: its messages are dropped",
                self.id
            );
        }
    }
}
