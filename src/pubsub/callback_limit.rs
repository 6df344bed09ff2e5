//! The limit on the items that are queued for callbacks.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::space::ChangeNotifier;
use super::status::EndReason;

/// The publisher pauses while this many items are queued for the callbacks of one pool.
const MAX_ITEMS: usize = 1024;

/// The limit of one pool's queue.
///
/// The limit does not apply while one of the pool's callbacks waits for an item of the same
/// producer. Otherwise the publisher would wait for the callback, and the callback for the
/// publisher (nv-websocket-client 99).
pub(crate) struct CallbackLimit {
    /// The producer's. It identifies the producer.
    end: EndReason,
    /// The number of callbacks that wait for the producer.
    blocked: AtomicUsize,
    /// The number of queued items, and their weight. SeqCst, as `blocked`: if a publisher gets a
    /// channel of `space` and then finds the queue full, each thread that makes room after that
    /// notifies it.
    items: AtomicUsize,
    weight: AtomicUsize,
    max_weight: usize,
    space: ChangeNotifier,
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
            space: ChangeNotifier::new(),
        })
    }

    pub(super) fn items(&self) -> usize {
        self.items.load(Ordering::SeqCst)
    }

    pub(super) fn space(&self) -> &ChangeNotifier {
        &self.space
    }

    /// Returns whether there is no room for an item of this weight.
    pub(super) fn is_full_for(&self, weight: usize) -> bool {
        let (items, waiting) = (self.items(), self.weight.load(Ordering::SeqCst));
        let full = items >= MAX_ITEMS || (items > 0 && waiting + weight > self.max_weight);
        full && self.blocked.load(Ordering::SeqCst) == 0
    }

    /// Counts an item that is being queued.
    pub(super) fn add(&self, weight: usize) {
        self.items.fetch_add(1, Ordering::SeqCst);
        self.weight.fetch_add(weight, Ordering::SeqCst);
    }

    /// Removes an item from the count: its callback is about to be called. A waiting publisher is
    /// notified only when half of the queue is free, so that it does not wake for each item.
    pub(super) fn remove(&self, weight: usize) {
        let items = self.items.fetch_sub(1, Ordering::SeqCst) - 1;
        let waiting = self.weight.fetch_sub(weight, Ordering::SeqCst) - weight;
        if items == 0 || (items <= MAX_ITEMS / 2 && waiting <= self.max_weight / 2) {
            self.space.notify();
        }
    }

    /// Marks the current thread as one of this pool.
    pub(super) fn mark_current_thread(self: &Arc<Self>) {
        CURRENT.set(Some(self.clone()));
    }

    /// Returns whether the current thread is one of this pool.
    pub(super) fn is_current_thread(self: &Arc<Self>) -> bool {
        current().is_some_and(|own| Arc::ptr_eq(&own, self))
    }
}

/// Returns the limit of the current thread's pool. It is cloned, since the wait that follows may
/// run destructors that borrow it as well.
fn current() -> Option<Arc<CallbackLimit>> {
    CURRENT.try_with(|own| own.borrow().clone()).ok().flatten()
}

/// Calls `wait`, which waits for an event of the producer with this end. If the current thread is
/// in one of the producer's callbacks, the limit of its pool does not apply meanwhile.
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
