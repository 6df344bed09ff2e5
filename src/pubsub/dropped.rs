//! Counts the items that a producer has dropped.

use std::sync::atomic::{AtomicU64, Ordering};

use super::status::Status;

/// The number of items that subscribers have not received. An item that two subscribers do not
/// receive counts twice.
#[derive(Default)]
pub(super) struct Dropped(AtomicU64);

impl Dropped {
    /// Counts dropped items. Returns the number of items that had been dropped before.
    pub(super) fn count(&self, items: usize) -> u64 {
        self.0.fetch_add(items as u64, Ordering::Relaxed)
    }

    pub(super) fn total(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Status {
    /// Counts an item that was dropped for this subscriber, and logs the first one.
    pub(super) fn count_dropped(&self, dropped: &Dropped) {
        dropped.count(1);
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
