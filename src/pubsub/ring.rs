//! A queue that drops the oldest item for the newest.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, TryRecvError, TrySendError};
use parking_lot::Mutex;

/// A lock for operations on a crossbeam channel. It is held for one operation that does not wait.
/// No item is dropped under it.
///
/// An operation on a crossbeam channel **spins** while another thread is in the middle of one. A
/// control loop with a real-time priority that has preempted the sender would spin until the system
/// runs the sender after all, which takes a second (crossbeam 997). For a lock the control loop
/// sleeps, and the sender continues immediately.
pub(super) type OperationLock = Arc<Mutex<()>>;

pub(super) struct Ring<T> {
    sender: Sender<T>,
    /// Takes the oldest item to make room.
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

    /// Returns the lock, which the readers hold as well.
    pub(super) fn operation_lock(&self) -> OperationLock {
        self.operation_lock.clone()
    }

    pub(super) fn len(&self) -> usize {
        self.sender.len()
    }

    /// Puts an item, and returns the oldest one if that had to be removed.
    #[inline]
    pub(super) fn put(&self, item: T) -> Option<T> {
        let _guard = self.operation_lock.lock();
        let mut oldest = match self.sender.is_full() {
            true => self.receiver.try_recv().ok(),
            false => None,
        };
        let mut item = item;
        // No other thread puts items, so there is room now. If the channel still reports that it is
        // full, another item is removed.
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

/// Takes an item if one is queued, holding the lock if the queue has one.
pub(super) fn take<T>(
    items: &Receiver<T>,
    operation_lock: Option<&OperationLock>,
) -> Result<T, TryRecvError> {
    let _guard = operation_lock.map(|lock| lock.lock());
    items.try_recv()
}
