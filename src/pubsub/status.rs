//! The identity and state of one subscription, sink or callback.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::error::Error;

/// The reason why a producer has ended. It is set once, before the queues are disconnected.
pub(crate) type EndReason = Arc<OnceLock<Error>>;

/// Identifies one subscription, sink or callback of a producer, for `unsubscribe`.
///
/// # Examples
///
/// ```
/// use rtcbot_websocket::pubsub;
///
/// let (_publisher, sensor) = pubsub::producer::<u32>();
/// let id = sensor.subscribe_callback(|reading| println!("{reading}"));
/// assert!(sensor.unsubscribe(id));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SubscriptionId(u64);

impl SubscriptionId {
    /// Returns an id that is unique in the process, so that one producer's id means nothing to
    /// another.
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

/// The state of one subscription, sink or callback. The subscriber and its reader share it.
pub(super) struct Status {
    pub(super) id: SubscriptionId,
    /// Whether it receives no more items, and its callback is not called for queued ones. It is
    /// stored with Release after the removal from the list, and loaded with Acquire: a thread that
    /// reads `true` knows that nothing more is put into the queue.
    removed: AtomicBool,
    /// Whether it was full when the publisher did not wait. From then on it receives nothing, so
    /// that its items have an end and no gaps. One thread at a time delivers to it, so no ordering
    /// is needed.
    pub(super) truncated: AtomicBool,
    /// Whether the warning that it is full has been logged, and the one that it loses items.
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
                "{:?} has been full for a second, and the stream waits for it; unsubscribe it if \
                 it is no longer read (it may be the default subscription, which `get` makes)",
                self.id
            );
        }
    }
}
