//! Waiting for room in a queue that is not a channel.

use std::sync::atomic::Ordering;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::sync::AtomicUsize;

/// A permit that whoever makes room hands to one of those who wait for it.
///
/// It is a channel, so that one can wait for room and for something else at the same time. At most
/// one permit is on its way; the one who gets it passes it on when done, if others still wait.
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
        // Whoever found the queue full counted itself before it looked, and the queue's lock orders
        // that look before this load: nobody is missed.
        if self.waiting.load(Ordering::SeqCst) > 0 {
            let _ = self.give.try_send(());
        }
    }

    /// Joins those who wait. To be called before looking for room.
    pub(crate) fn register(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        Waiting { notifier: self }
    }
}

/// One who waits for room, for as long as this lives.
pub(crate) struct Waiting<'a> {
    notifier: &'a SpaceNotifier,
}

impl Waiting<'_> {
    /// Ready when there may be room: then receive from it, and look.
    pub(crate) fn permit(&self) -> &Receiver<()> {
        &self.notifier.permit
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        // This one may have taken the permit and left room, or left without using it.
        if self.notifier.waiting.fetch_sub(1, Ordering::SeqCst) > 1 {
            let _ = self.notifier.give.try_send(());
        }
    }
}
