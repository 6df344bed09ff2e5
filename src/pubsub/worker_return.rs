//! Returns a channel's worker to its owner, and wakes the owner.

use std::time::Instant;

use crossbeam_channel::{Receiver, Select, Sender, bounded};

use super::ring::{self, OperationLock};
use super::subscription::Subscription;

/// A place for the one worker that a channel has, so `send` never waits.
///
/// It is a crossbeam channel, so that the owner can wait for the worker and for a source at the
/// same time. A lock is held for each operation that does not wait: see [`OperationLock`].
pub(super) struct WorkerReturn<W> {
    give: Sender<W>,
    given: Receiver<W>,
    operation_lock: OperationLock,
}

/// The event that ended a wait.
pub(super) enum Woken<W> {
    /// The worker was returned.
    Worker(W),
    /// The source has an item, or has ended.
    Source,
    Deadline,
}

impl<W> WorkerReturn<W> {
    pub(super) fn new() -> Self {
        let (give, given) = bounded(1);
        WorkerReturn {
            give,
            given,
            operation_lock: OperationLock::default(),
        }
    }

    /// Returns the worker to the owner.
    pub(super) fn send(&self, worker: W) {
        let _guard = self.operation_lock.lock();
        // Cannot fail: there is one worker, so there is room, and the receiver is a field.
        let _ = self.give.try_send(worker);
    }

    /// Waits for the worker. The wait is ended by the thread that has borrowed it, as soon as that
    /// has finished.
    pub(super) fn receive(&self) -> W {
        loop {
            if let Woken::Worker(worker) = self.wait::<()>(None, None) {
                return worker;
            }
        }
    }

    /// Waits for the worker, for something to take from `source`, or until the deadline.
    pub(super) fn wait<T>(
        &self,
        source: Option<&Subscription<T>>,
        deadline: Option<Instant>,
    ) -> Woken<W> {
        let mut select = Select::new();
        let given = select.recv(&self.given);
        if let Some(source) = source {
            select.recv(source.items());
        }
        loop {
            let ready = match deadline {
                None => Ok(select.ready()),
                Some(deadline) => select.ready_deadline(deadline),
            };
            match ready {
                Err(_) => return Woken::Deadline,
                Ok(ready) if ready != given => return Woken::Source,
                // If it was woken without a worker, it waits again.
                Ok(_) => {
                    if let Ok(worker) = ring::take(&self.given, Some(&self.operation_lock)) {
                        return Woken::Worker(worker);
                    }
                }
            }
        }
    }
}
