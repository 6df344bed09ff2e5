//! Carries a channel's worker to its owner, and wakes the owner.

use std::time::Instant;

use crossbeam_channel::{Receiver, Select, Sender, bounded};

use super::ring::{self, OperationLock};
use super::subscription::Subscription;

/// Holds at most the one worker that a channel has, so sending never waits.
///
/// It is a crossbeam channel, so that the owner can wait for the worker and for a source at the
/// same time. Its operations that do not wait have a lock, for the reason that [`OperationLock`] gives: a
/// thread of a higher priority sleeps for the other side instead of spinning.
pub(super) struct WorkerReturn<W> {
    give: Sender<W>,
    given: Receiver<W>,
    operation_lock: OperationLock,
}

/// What ended a wait.
pub(super) enum Woken<W> {
    /// The worker was handed over.
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

    /// Hands the worker to the owner.
    pub(super) fn send(&self, worker: W) {
        let _guard = self.operation_lock.lock();
        // There is one worker, so there is room; the receiver is a field, so it is not
        // disconnected.
        let _ = self.give.try_send(worker);
    }

    /// Waits for the worker. Whoever took it from the channel ends this wait: it hands the worker
    /// over as soon as it is done.
    pub(super) fn receive(&self) -> W {
        loop {
            if let Woken::Worker(worker) = self.wait::<()>(None, None) {
                return worker;
            }
        }
    }

    /// Waits for the worker, or until there is something to take from `source`.
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
                // A wake-up without a worker is possible: then it waits again.
                Ok(_) => {
                    if let Ok(worker) = ring::take(&self.given, Some(&self.operation_lock)) {
                        return Woken::Worker(worker);
                    }
                }
            }
        }
    }
}
