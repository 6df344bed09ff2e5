//! Answers pings, and sends pings and takes their answers (RFC 6455, sections 5.5.2 and 5.5.3).
//!
//! The reader calls these. The thread that holds the frame writer writes the frames: if the writer
//! thread sleeps, that is the reader itself.

use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::Sender;

use super::control_frames::{Control, Latency};
use super::send_queue::SendQueue;

impl SendQueue {
    /// Answers a ping.
    pub(crate) fn pong(&self, payload: Bytes) {
        self.send_control(|control| control.pong(payload));
    }

    /// Sends the keepalive's ping.
    pub(crate) fn ping(&self, payload: Bytes) {
        self.send_control(|control| control.pings.queue_keepalive(payload));
    }

    /// Sends a program's ping. Returns `false` if too many pings are unanswered.
    pub(crate) fn ping_for(&self, payload: Bytes, reply_to: Sender<Duration>) -> bool {
        // A clone, because the program's payload must not be dropped under the lock.
        self.send_control(|control| control.pings.queue_for(payload.clone(), reply_to))
    }

    fn send_control<R>(&self, change: impl FnOnce(&mut Control) -> R) -> R {
        let (result, writer) = self.messages.change(change);
        self.use_idle(writer, 0);
        result
    }

    /// Handles a pong. Returns whether it answers the keepalive's ping.
    pub(crate) fn answered(&self, payload: &[u8]) -> bool {
        let answered = self
            .messages
            .with_extra(|control| control.pings.answered(payload));
        let keepalive = answered.keepalive;
        answered.notify();
        keepalive
    }

    /// Returns the time since the keepalive's ping was written. `None` if it is not written or has
    /// been answered.
    pub(crate) fn ping_written(&self) -> Option<Duration> {
        self.messages
            .with_extra(|control| control.pings.since_written())
    }

    pub(crate) fn latency(&self) -> Option<Latency> {
        self.messages.with_extra(|control| control.pings.latency())
    }
}
