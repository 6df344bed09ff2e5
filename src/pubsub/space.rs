//! Waiting for room in a queue that is not a crossbeam channel.

use std::sync::atomic::Ordering;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::sync::AtomicUsize;

/// Passes a permit from a thread that makes room to one of the threads that wait for room.
///
/// The permit is sent through a crossbeam channel, so that a thread can wait for room and for
/// something else in one `Select`. There is at most one permit. A thread that has received it
/// passes it on when its own wait is over, if others still wait.
pub(crate) struct SpaceNotifier {
    waiting: AtomicUsize,
    give: Sender<()>,
    permit: Receiver<()>,
}

impl SpaceNotifier {
    pub(crate) fn new() -> Self {
        let (give, permit) = bounded(1);
        SpaceNotifier {
            waiting: AtomicUsize::new(0),
            give,
            permit,
        }
    }

    /// Reports that there is room. Call it after the queue's lock has been released.
    pub(crate) fn notify(&self) {
        // A thread counts itself before it checks for room, and the queue's lock orders its check
        // before this load. So no thread that found the queue full is missed.
        if self.waiting.load(Ordering::SeqCst) > 0 {
            let _ = self.give.try_send(());
        }
    }

    /// Counts the caller among the waiting threads. Call it before checking for room.
    pub(crate) fn register(&self) -> SpaceWaiter<'_> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        SpaceWaiter { notifier: self }
    }
}

/// Counts one thread as waiting for room, until it is dropped.
pub(crate) struct SpaceWaiter<'a> {
    notifier: &'a SpaceNotifier,
}

impl SpaceWaiter<'_> {
    /// Returns a channel that is ready when there may be room. Receive from it, and check again.
    pub(crate) fn permit(&self) -> &Receiver<()> {
        &self.notifier.permit
    }

    /// Ends this wait, which goes on in another one of the same thread. If this thread has received
    /// the permit, there was no room for it, so no other thread has to check: passing the permit on
    /// would wake one waiter after the other without end.
    pub(crate) fn renew(self) {
        self.notifier.waiting.fetch_sub(1, Ordering::SeqCst);
        std::mem::forget(self);
    }
}

impl Drop for SpaceWaiter<'_> {
    fn drop(&mut self) {
        // This thread may have received the permit, and left some room or not used any.
        if self.notifier.waiting.fetch_sub(1, Ordering::SeqCst) > 1 {
            let _ = self.notifier.give.try_send(());
        }
    }
}
