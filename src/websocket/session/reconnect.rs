//! Whether and when another connection follows one that has ended.
//!
//! `backoff.rs` computes the time until then. The reader thread waits, and makes the connection, in
//! `connection_loop` (`reader_thread.rs`).

use std::time::Instant;

use super::ending::Stage;
use super::{Action, Session, State};
use crate::deadline::after;
use crate::error::Error;

impl Session {
    pub(super) fn threads_ended(&mut self, now: Instant, unsent: usize, chance: f64) {
        let (State::Ending(ending), Some(schedule)) = (&mut self.state, &mut self.reconnect) else {
            return;
        };
        if !matches!(ending.stage, Stage::ShutDown) {
            return;
        }
        let mut reason = ending.end(unsent);
        if let Error::Closed(close) = &mut reason {
            // The next connection sends these.
            close.unsent = 0;
        }
        if !reason.is_transient() {
            return;
        }
        if ending.requested {
            if ending.opened.is_none() && unsent == 0 {
                // This program has closed just before the attempt failed. It counts as given up, as
                // if the program had closed a moment earlier.
                ending.failure = None;
            }
            return;
        }
        schedule.lasted(ending.opened.unwrap_or_default());
        let until = after(now, schedule.wait(chance));
        self.last_error = Some(reason.clone());
        if ending.opened.is_some() {
            self.actions.push(Action::NotifyLost(reason.clone()));
        }
        self.state = State::Waiting { until, reason };
    }

    /// Returns whether another connection follows one that ends for this reason.
    pub(super) fn is_followed(&self, reason: &Error) -> bool {
        let requested = self.ending().is_some_and(|ending| ending.requested);
        self.reconnect.is_some() && !requested && reason.is_transient()
    }

    /// Returns the time until which the client waits to connect again, and the reason.
    pub(crate) fn waiting(&self) -> Option<(Instant, &Error)> {
        match &self.state {
            State::Waiting { until, reason } => Some((*until, reason)),
            _ => None,
        }
    }

    /// Returns whether a connection may be made.
    pub(crate) fn is_connecting(&self) -> bool {
        matches!(self.state, State::Connecting)
    }

    /// The wait is over.
    pub(super) fn connect_again(&mut self) {
        self.state = State::Connecting;
    }
}
