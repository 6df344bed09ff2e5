//! A queue that drops the oldest item for the newest.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, TryRecvError, TrySendError};
use parking_lot::Mutex;

/// Held for one operation on a queue's channel that does not wait: no item is dropped under it.
///
/// A channel's operation **spins** while another thread is in the middle of one. A control loop at
/// a real-time priority that has preempted the sender would spin until the system lets the sender
/// go on after all, which takes a second (crossbeam 997). For a lock it sleeps, and the sender goes
/// on at once.
pub(super) type Turn = Arc<Mutex<()>>;

pub(super) struct Ring<T> {
    sender: Sender<T>,
    /// For making room.
    receiver: Receiver<T>,
    turn: Turn,
}

impl<T> Ring<T> {
    pub(super) fn new(sender: Sender<T>, receiver: Receiver<T>) -> Self {
        Ring {
            sender,
            receiver,
            turn: Turn::default(),
        }
    }

    /// What its readers hold, too.
    pub(super) fn turn(&self) -> Turn {
        self.turn.clone()
    }

    pub(super) fn len(&self) -> usize {
        self.sender.len()
    }

    /// Puts an item in, and returns the one that had to make room.
    #[inline]
    pub(super) fn put(&self, item: T) -> Option<T> {
        let _turn = self.turn.lock();
        let mut oldest = match self.sender.is_full() {
            true => self.receiver.try_recv().ok(),
            false => None,
        };
        let mut item = item;
        // Nobody else puts items in, so there is room now. Should the channel still say that it is
        // full, the next item makes room.
        while let Err(TrySendError::Full(back)) = self.sender.try_send(item) {
            item = back;
            oldest = self.receiver.try_recv().ok().or(oldest);
        }
        oldest
    }

    pub(super) fn take_oldest(&self) -> Option<T> {
        take(&self.receiver, Some(&self.turn)).ok()
    }
}

/// Takes an item if one is there; by turns, where the queue has them.
pub(super) fn take<T>(items: &Receiver<T>, turn: Option<&Turn>) -> Result<T, TryRecvError> {
    let _turn = turn.map(|turn| turn.lock());
    items.try_recv()
}
