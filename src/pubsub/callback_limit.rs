//! The limit on what waits for callbacks.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::hold::EndReason;
use super::space::SpaceNotifier;

/// The maximum number of items that wait for callbacks before the publisher pauses.
const MAX_ITEMS: usize = 1024;

/// The limit of one pool's queue.
///
/// It is lifted while one of the pool's callbacks waits for an item of the same producer. Otherwise
/// the publisher would wait for the callback, and the callback for the publisher
/// (nv-websocket-client 99).
pub(crate) struct CallbackLimit {
    /// The producer's: it tells one producer from another.
    end: EndReason,
    /// How many callbacks wait for the producer.
    blocked: AtomicUsize,
    /// How many items wait, and their weight. SeqCst, as `blocked`: a publisher that has registered
    /// with `space` and then finds the queue full is seen by whatever makes room after that.
    items: AtomicUsize,
    weight: AtomicUsize,
    max_weight: usize,
    space: SpaceNotifier,
}

thread_local! {
    /// The limit of the pool whose callbacks this thread calls.
    static CURRENT: RefCell<Option<Arc<CallbackLimit>>> = const { RefCell::new(None) };
}

impl CallbackLimit {
    pub(super) fn new(max_weight: usize, end: EndReason) -> Arc<Self> {
        Arc::new(CallbackLimit {
            end,
            blocked: AtomicUsize::new(0),
            items: AtomicUsize::new(0),
            weight: AtomicUsize::new(0),
            max_weight,
            space: SpaceNotifier::new(),
        })
    }

    pub(super) fn items(&self) -> usize {
        self.items.load(Ordering::SeqCst)
    }

    pub(super) fn space(&self) -> &SpaceNotifier {
        &self.space
    }

    /// Returns whether an item of this weight has to wait for room.
    pub(super) fn is_full_for(&self, weight: usize) -> bool {
        let (items, waiting) = (self.items(), self.weight.load(Ordering::SeqCst));
        let full = items >= MAX_ITEMS || (items > 0 && waiting + weight > self.max_weight);
        full && self.blocked.load(Ordering::SeqCst) == 0
    }

    /// Counts an item that begins to wait.
    pub(super) fn add(&self, weight: usize) {
        self.items.fetch_add(1, Ordering::SeqCst);
        self.weight.fetch_add(weight, Ordering::SeqCst);
    }

    /// Counts an item that is about to be called. A publisher that waits is woken when half of the
    /// queue is free, so that it does not wake for each item.
    pub(super) fn remove(&self, weight: usize) {
        let items = self.items.fetch_sub(1, Ordering::SeqCst) - 1;
        let waiting = self.weight.fetch_sub(weight, Ordering::SeqCst) - weight;
        if items == 0 || (items <= MAX_ITEMS / 2 && waiting <= self.max_weight / 2) {
            self.space.notify();
        }
    }

    /// Marks the current thread as one that calls callbacks of this pool.
    pub(super) fn mark_current_thread(self: &Arc<Self>) {
        CURRENT.set(Some(self.clone()));
    }

    /// Returns whether the current thread calls callbacks of this pool.
    pub(super) fn is_current_thread(self: &Arc<Self>) -> bool {
        current().is_some_and(|own| Arc::ptr_eq(&own, self))
    }
}

/// Returns this thread's limit. It is cloned, since the wait that follows may drop anything.
fn current() -> Option<Arc<CallbackLimit>> {
    CURRENT.try_with(|own| own.borrow().clone()).ok().flatten()
}

/// Waits in `wait` for the producer with this end, perhaps in one of its callbacks.
pub(crate) fn blocking<R>(end: &EndReason, wait: impl FnOnce() -> R) -> R {
    struct Back(Arc<CallbackLimit>);
    impl Drop for Back {
        fn drop(&mut self) {
            self.0.blocked.fetch_sub(1, Ordering::SeqCst);
        }
    }
    let own = current().filter(|own| Arc::ptr_eq(&own.end, end));
    let _back = own.map(|limit| {
        limit.blocked.fetch_add(1, Ordering::SeqCst);
        limit.space.notify();
        Back(limit)
    });
    wait()
}
