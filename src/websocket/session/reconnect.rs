//! Whether and when another connection follows one that has ended.
//!
//! `backoff.rs` computes the time until then. The reader thread waits, and makes the connection, in
//! `connection_loop` (`reader_thread.rs`).

use std::time::Instant;

use super::ending::Stage;
use super::policy::{Reconnect, ReconnectPolicy};
use super::{Session, State};
use crate::deadline::after;
use crate::error::Error;

impl Session {
    pub(super) fn threads_ended(&mut self, now: Instant, unsent: usize, chance: f64, retry: bool) {
        let (State::Ending(ending), Some(reconnect)) = (&mut self.state, &mut self.reconnect)
        else {
            return;
        };
        if !matches!(ending.stage, Stage::ShutDown) {
            return;
        }
        // The next connection sends the unsent messages.
        let reason = ending.end(0);
        let retry = match reconnect.policy {
            _ if ending.replaced => true,
            ReconnectPolicy::Transient => reason.is_transient(),
            ReconnectPolicy::Always => true,
            ReconnectPolicy::Ask => retry,
        };
        if ending.requested {
            let may_retry = retry || reconnect.policy == ReconnectPolicy::Ask;
            let is_aborted = matches!(ending.failure, Some(Error::Aborted { .. }));
            if ending.opened.is_none() && unsent == 0 && may_retry && !is_aborted {
                // This program has closed just before the attempt failed. It counts as given up, as
                // if the program had closed a moment earlier.
                ending.failure = None;
            }
            return;
        }
        if !retry {
            return;
        }
        let schedule = &mut reconnect.schedule;
        schedule.lasted(ending.opened.unwrap_or_default());
        let until = match ending.replaced {
            true => now,
            false => after(now, schedule.wait(chance)),
        };
        self.last_error = Some(reason.clone());
        self.attempt = match ending.opened {
            Some(_) => 1,
            None => self.attempt.saturating_add(1),
        };
        self.state = State::Waiting { until, reason };
    }

    /// Returns the reason for the end of the connection if the program has to decide whether
    /// another one follows.
    pub(crate) fn undecided(&self) -> Option<Error> {
        let ending = self.ending()?;
        let asks = self.reconnect.as_ref()?.policy == ReconnectPolicy::Ask;
        let is_open = !ending.requested && !ending.replaced;
        (asks && is_open).then(|| ending.end(0))
    }

    /// Returns whether another connection follows one that ends for this reason. If the program has
    /// yet to decide, one may follow.
    pub(super) fn is_followed(&self, reason: &Error) -> bool {
        let requested = self.ending().is_some_and(|ending| ending.requested);
        let retries = |reconnect: &Reconnect| match reconnect.policy {
            ReconnectPolicy::Transient => reason.is_transient(),
            ReconnectPolicy::Always | ReconnectPolicy::Ask => true,
        };
        !requested && self.reconnect.as_ref().is_some_and(retries)
    }

    /// Replaces a connection, or ends the wait for the next attempt. Has no effect while an attempt
    /// is under way, and on a connection that is ending for good.
    pub(super) fn reconnect_requested(&mut self, now: Instant) {
        if self.reconnect.is_none() {
            return;
        }
        match &self.state {
            State::Waiting { .. } => self.connect_again(),
            State::Open { .. } => {
                self.failed(now, &Error::Aborted { unsent: 0 });
                if let State::Ending(ending) = &mut self.state {
                    ending.replaced = true;
                }
            }
            State::Ending(ending) if !ending.requested && self.is_followed(&ending.end(0)) => {
                if let State::Ending(ending) = &mut self.state {
                    ending.replaced = true;
                    ending.shut_down();
                }
            }
            State::Connecting | State::Ending(_) => {}
        }
    }

    /// Returns the reason for the end if no other connection follows this one, as far as is known.
    pub(crate) fn ends_for_good(&self) -> Option<Error> {
        let ending = self.ending()?;
        let reason = ending.end(0);
        (!ending.replaced && !self.is_followed(&reason)).then_some(reason)
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
