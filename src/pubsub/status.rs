//! The identity and the state of one subscription, sink or callback.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Names one subscription, sink or callback of a producer, for `unsubscribe`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SubscriptionId(u64);

impl SubscriptionId {
    /// Unique in the process, so that one producer's id means nothing to another.
    pub(crate) fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        SubscriptionId(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl AsRef<SubscriptionId> for SubscriptionId {
    fn as_ref(&self) -> &SubscriptionId {
        self
    }
}

/// The state of one subscription, sink or callback, shared by all that deal with it.
pub(super) struct Status {
    pub(super) id: SubscriptionId,
    /// It gets no more items, and its callback is not called for those that wait. Stored with
    /// Release after it was taken off the list, and loaded with Acquire: then its queue gets
    /// nothing more.
    removed: AtomicBool,
    /// It was full when nothing waited any longer. It gets nothing more, so that what it got has an
    /// end and no gaps. One thread at a time delivers to it, so no ordering is needed.
    pub(super) truncated: AtomicBool,
    /// It was logged that it is full, or that it loses items.
    pub(super) warned_full: AtomicBool,
    pub(super) warned_dropped: AtomicBool,
}

impl Status {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Status {
            id: SubscriptionId::next(),
            removed: AtomicBool::new(false),
            truncated: AtomicBool::new(false),
            warned_full: AtomicBool::new(false),
            warned_dropped: AtomicBool::new(false),
        })
    }

    pub(super) fn set_removed(&self) {
        self.removed.store(true, Ordering::Release);
    }

    pub(super) fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }

    pub(super) fn warn_full(&self) {
        if !self.warned_full.swap(true, Ordering::Relaxed) {
            crate::logging::warn!(
                "{:?} has been full for a second, and the stream waits for it; one that is no longer \
                 read (perhaps the default one, made by `get`) has to be unsubscribed",
                self.id
            );
        }
    }

    pub(super) fn warn_dropped(&self) {
        if !self.warned_dropped.swap(true, Ordering::Relaxed) {
            crate::logging::warn!(
                "{:?} is full and the stream goes on: messages for it are dropped",
                self.id
            );
        }
    }
}
