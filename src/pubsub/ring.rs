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
pub(super) type OperationLock = Arc<Mutex<()>>;

pub(super) struct Ring<T> {
    sender: Sender<T>,
    /// For making room.
    receiver: Receiver<T>,
    operation_lock: OperationLock,
}

impl<T> Ring<T> {
    pub(super) fn new(sender: Sender<T>, receiver: Receiver<T>) -> Self {
        Ring {
            sender,
            receiver,
            operation_lock: OperationLock::default(),
        }
    }

    /// What its readers hold, too.
    pub(super) fn operation_lock(&self) -> OperationLock {
        self.operation_lock.clone()
    }

    pub(super) fn len(&self) -> usize {
        self.sender.len()
    }

    /// Puts an item in, and returns the one that had to make room.
    #[inline]
    pub(super) fn put(&self, item: T) -> Option<T> {
        let _guard = self.operation_lock.lock();
        let mut item = item;
        let mut oldest = None;
        // Only once: nobody else puts anything in. It may be that somebody has just taken one.
        while let Err(TrySendError::Full(back)) = self.sender.try_send(item) {
            item = back;
            oldest = self.receiver.try_recv().ok().or(oldest);
        }
        oldest
    }

    pub(super) fn take_oldest(&self) -> Option<T> {
        take(&self.receiver, Some(&self.operation_lock)).ok()
    }
}

/// Takes an item if one is there; by turns, where the queue has them.
pub(super) fn take<T>(
    items: &Receiver<T>,
    operation_lock: Option<&OperationLock>,
) -> Result<T, TryRecvError> {
    let _guard = operation_lock.map(|lock| lock.lock());
    items.try_recv()
}
