//! A wake-up for one thread, which is kept until that notices it.

use std::time::Instant;

use crossbeam_channel::{Receiver, Select, Sender, bounded};

use super::ring::{self, Turn};

/// It is a channel, so that one can wait for it and for something else at the same time; and it has a lock, so
/// that whoever calls sleeps for a thread that is just noticing, as for a [`Ring`](super::ring::Ring).
pub(super) struct Wake {
    calls: Sender<()>,
    called: Receiver<()>,
    turn: Turn,
}

impl Wake {
    pub(super) fn new() -> Self {
        let (calls, called) = bounded(1);
        Wake {
            calls,
            called,
            turn: Turn::default(),
        }
    }

    /// Wakes the thread that waits, or is about to.
    pub(super) fn call(&self) {
        let _turn = self.turn.lock();
        // When it is full, there is one already.
        let _ = self.calls.try_send(());
    }

    /// Ready when it was called: then it is to be [noticed](Self::notice).
    pub(super) fn called(&self) -> &Receiver<()> {
        &self.called
    }

    /// Takes the wake-up; `false` when there is none.
    pub(super) fn notice(&self) -> bool {
        ring::take(&self.called, Some(&self.turn)).is_ok()
    }

    /// Waits for a call; `false` at the deadline.
    pub(super) fn wait(&self, deadline: Option<Instant>) -> bool {
        let mut select = Select::new();
        select.recv(&self.called);
        loop {
            let ready = match deadline {
                None => Ok(select.ready()),
                Some(deadline) => select.ready_deadline(deadline),
            };
            if ready.is_err() || self.notice() {
                return ready.is_ok();
            }
        }
    }
}
