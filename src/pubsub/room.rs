//! Waiting for room in a queue that is not a channel.

use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};

/// A baton that whoever makes room hands to one of those who wait for it.
///
/// It is a channel, so that one can wait for room and for something else at the same time. At most
/// one baton is on its way; the one who gets it passes it on when done, if others still wait.
pub(crate) struct Room {
    waiting: AtomicUsize,
    give: Sender<()>,
    baton: Receiver<()>,
}

impl Room {
    pub(crate) fn new() -> Self {
        let (give, baton) = bounded(1);
        Room {
            waiting: AtomicUsize::new(0),
            give,
            baton,
        }
    }

    /// Room has been made. To be called after the queue's lock is released.
    pub(crate) fn made(&self) {
        // Whoever found the queue full counted itself before it looked, and the queue's lock orders
        // that look before this load: nobody is missed.
        if self.waiting.load(Ordering::SeqCst) > 0 {
            let _ = self.give.try_send(());
        }
    }

    /// Joins those who wait. To be called before looking for room.
    pub(crate) fn join(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        Waiting { room: self }
    }
}

/// One who waits for room, for as long as this lives.
pub(crate) struct Waiting<'a> {
    room: &'a Room,
}

impl Waiting<'_> {
    /// Ready when there may be room: then receive from it, and look.
    pub(crate) fn baton(&self) -> &Receiver<()> {
        &self.room.baton
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        // This one may have taken the baton and left room, or left without using it.
        if self.room.waiting.fetch_sub(1, Ordering::SeqCst) > 1 {
            let _ = self.room.give.try_send(());
        }
    }
}
