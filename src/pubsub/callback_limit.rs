//! How much may wait for callbacks, and when that does not count.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::space::SpaceNotifier;

/// How many items may wait for callbacks before the publisher pauses.
const LIMIT: usize = 1024;

/// What `T`s weigh, and how much they may weigh together where they wait. Weighing takes no time.
pub(crate) struct Weighing<T> {
    pub(crate) weigh: fn(&T) -> usize,
    pub(crate) limit: usize,
}

impl<T> Clone for Weighing<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Weighing<T> {}

/// The limit of one callback thread's queue.
///
/// It does not count while a callback itself waits for an item: the publisher would wait for the
/// callback, and the callback for the publisher (nv-websocket-client 99).
pub(crate) struct CallbackLimit {
    waiting: AtomicUsize,
    /// How much what waits may weigh.
    weight: usize,
    pub(crate) space: SpaceNotifier,
}

thread_local! {
    /// The limit of the queue that this thread calls callbacks from.
    static OWN: RefCell<Option<Arc<CallbackLimit>>> = const { RefCell::new(None) };
}

impl CallbackLimit {
    pub(crate) fn new(weight: usize) -> Arc<Self> {
        Arc::new(CallbackLimit {
            waiting: AtomicUsize::new(0),
            weight,
            space: SpaceNotifier::new(),
        })
    }

    /// Whether a queue of this length is full, for an item with which what waits would weigh so
    /// much.
    pub(crate) fn is_reached(&self, len: usize, weight: usize) -> bool {
        let full = len >= LIMIT || (len > 0 && weight > self.weight);
        full && self.waiting.load(Ordering::SeqCst) == 0
    }

    /// From now on the current thread is one that calls callbacks.
    pub(crate) fn serve(self: &Arc<Self>) {
        OWN.set(Some(self.clone()));
    }
}

/// Waits in `wait`, perhaps within a callback.
pub(crate) fn blocking<R>(wait: impl FnOnce() -> R) -> R {
    struct Back(Arc<CallbackLimit>);
    impl Drop for Back {
        fn drop(&mut self) {
            self.0.waiting.fetch_sub(1, Ordering::SeqCst);
        }
    }
    // Taken out first: what waits may drop anything.
    let own = OWN.try_with(|own| own.borrow().clone()).ok().flatten();
    let _back = own.map(|limit| {
        limit.waiting.fetch_add(1, Ordering::SeqCst);
        limit.space.notify();
        Back(limit)
    });
    wait()
}
