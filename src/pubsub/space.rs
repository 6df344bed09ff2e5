//! Waits for room in a queue that is not a channel.

use std::sync::atomic::Ordering;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::sync::AtomicUsize;

/// Passes a permit from a thread that makes room to one of the threads that wait for it.
///
/// The permit comes through a crossbeam channel, so that a thread can wait for room and for
/// something else in one `Select`. There is at most one permit; a thread that has received it
/// passes it on when it has finished, if others still wait.
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

    /// Passes the permit on: there is room. To be called after the queue's lock is released.
    pub(crate) fn notify(&self) {
        // A thread that found the queue full had counted itself before it looked, and the queue's
        // lock orders that look before this load: no thread is missed.
        if self.waiting.load(Ordering::SeqCst) > 0 {
            let _ = self.give.try_send(());
        }
    }

    /// Counts the caller among the waiting threads. To be called before looking for room.
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
    /// Ready when there may be room: then receive from it, and look.
    pub(crate) fn permit(&self) -> &Receiver<()> {
        &self.notifier.permit
    }
}

impl Drop for SpaceWaiter<'_> {
    fn drop(&mut self) {
        // This thread may have received the permit and left room, or left without using it.
        if self.notifier.waiting.fetch_sub(1, Ordering::SeqCst) > 1 {
            let _ = self.notifier.give.try_send(());
        }
    }
}
