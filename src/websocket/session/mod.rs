//! The state machine of one `Websocket`, over one or more connections. It has no lock, no thread,
//! no I/O and no clock.
//!
//! The threads report an [`Input`] with the time, and the session returns the [`Action`]s to carry
//! out. It decides whether and when this side sends its Close frame (RFC 6455, section 7), when the
//! connection is shut down and at what deadline, whether another connection follows, and what the
//! reason for the end is.

mod closing_handshake;
mod ending;
mod policy;
mod reconnect;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use tungstenite::protocol::Role;

use self::ending::{Ending, ReadState, Stage, WriteState};
pub(crate) use self::ending::{LAST_WAIT, PeerClose};
use self::policy::Reconnect;
pub(crate) use self::policy::ReconnectPolicy;
use super::control_frames::SendClose;
use crate::backoff::Schedule;
use crate::deadline::after;
use crate::error::{CloseFrame, Error};
use crate::pubsub::Hold;

#[derive(Debug, Clone)]
pub(crate) struct Session {
    role: Role,
    close_timeout: Duration,
    /// `None` if the first connection is the only one.
    reconnect: Option<Reconnect>,
    state: State,
    /// The number of the current or next attempt since the last connection that was ready, from 1.
    attempt: u32,
    /// The reason why the last connection was lost, or the last attempt failed.
    last_error: Option<Error>,
    /// The number of connections that have completed their handshake.
    connections: u64,
    /// The actions for the current input.
    actions: Vec<Action>,
}

#[derive(Debug, Clone)]
enum State {
    /// A connection is being made.
    Connecting,
    /// The handshake is complete, and nothing has ended the connection yet.
    Open { since: Instant },
    /// The connection is ending, or will end as soon as it is made.
    Ending(Box<Ending>),
    /// The client waits until this time to connect again.
    Waiting { until: Instant, reason: Error },
}

/// The state of a `Websocket` as its users see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// A connection is being made, or the client waits to connect again.
    Connecting,
    Ready,
    Closing,
    Closed,
}

/// An event.
#[derive(Debug, Clone)]
pub(crate) enum Input {
    /// The opening handshake is complete.
    Opened,
    /// This program closes.
    CloseRequested {
        frame: CloseFrame,
        deadline: Instant,
    },
    /// After a close was requested, no message is queued.
    NothingQueued,
    /// The peer's Close frame was received.
    PeerClosed(PeerClose),
    /// The peer violated the protocol. It is sent this Close frame, and its further bytes are
    /// ignored.
    Violation(CloseFrame, Error),
    /// The Close frame, and everything before it, has been written.
    CloseWritten,
    /// Nothing more can be written.
    WriteFailed(Error),
    /// The peer's stream has ended. With an error if that was unexpected.
    ReadEnded(Option<Error>),
    /// A connection could not be made, or has failed. Its threads may still be waiting.
    Failed(Error),
    /// This program shuts the connection down, without a closing handshake.
    Aborted,
    /// This program replaces the connection by a new one.
    ReconnectRequested,
    /// The [deadline](Session::deadline) has passed.
    DeadlinePassed,
    /// The reader thread no longer uses the connection.
    ReadStopped,
    /// Neither thread uses the connection any more.
    ThreadsEnded {
        /// The number of messages that were accepted and not written.
        unsent: usize,
        /// A number from 0 to 1, for the jitter of the [`Backoff`](crate::Backoff).
        chance: f64,
        /// Whether the program wants another connection, if it decides that.
        retry: bool,
    },
    /// No other connection follows, and no more messages are accepted.
    Finished {
        /// The number of messages that were accepted and not written.
        unsent: usize,
        /// Whether received messages have not been delivered to all subscribers.
        backlog: bool,
    },
    /// The backlog has been delivered, or its time is over.
    Drained,
}

/// An action that the caller has to carry out.
#[derive(Debug, Clone)]
pub(crate) enum Action {
    /// Refuse further messages.
    RefusePuts,
    /// Send a Close frame. At most one for each connection.
    SendClose(SendClose),
    /// Shut down the transport. Exactly once for each connection.
    ShutDown,
    /// [`Session::hold`] has changed.
    Hold,
    /// The connection is ready.
    NotifyReady,
    /// The `Websocket` has ended. Exactly once, and the last action.
    NotifyClosed(Error),
}

impl Session {
    pub(crate) fn new(
        role: Role,
        close_timeout: Duration,
        reconnect: Option<(Schedule, ReconnectPolicy)>,
    ) -> Self {
        Session {
            role,
            close_timeout,
            reconnect: reconnect.map(|(schedule, policy)| Reconnect { schedule, policy }),
            state: State::Connecting,
            attempt: 1,
            last_error: None,
            connections: 0,
            actions: Vec::new(),
        }
    }

    /// Handles an input. Returns the actions to carry out, in this order.
    pub(crate) fn handle(&mut self, now: Instant, input: &Input) -> Vec<Action> {
        let (hold, was_shut_down) = (self.hold(), self.is_shut_down());
        match input {
            Input::Opened => self.opened(now),
            Input::CloseRequested { frame, deadline } => {
                self.close_requested(now, frame, *deadline);
            }
            Input::NothingQueued => self.nothing_queued(),
            Input::PeerClosed(received) => self.peer_closed(now, received),
            Input::Violation(frame, error) => self.violation(now, frame, error),
            Input::CloseWritten => self.close_written(),
            Input::WriteFailed(error) => self.write_failed(now, error),
            Input::ReadEnded(error) => self.read_ended(now, error.as_ref()),
            Input::Failed(error) => self.failed(now, error),
            Input::Aborted => self.aborted(now),
            Input::ReconnectRequested => self.reconnect_requested(now),
            Input::DeadlinePassed => self.deadline_passed(now),
            Input::ReadStopped => self.read_stopped(now),
            Input::ThreadsEnded {
                unsent,
                chance,
                retry,
            } => self.threads_ended(now, *unsent, *chance, *retry),
            Input::Finished { unsent, backlog } => self.finished(now, *unsent, *backlog),
            Input::Drained => self.drained(),
        }
        let role = self.role;
        if let Some(ending) = self.closing_now() {
            if ending.has_nothing_left(role) {
                ending.shut_down();
            }
        }
        if self.is_shut_down() && !was_shut_down {
            self.actions.push(Action::ShutDown);
        }
        if self.hold() != hold {
            self.actions.push(Action::Hold);
        }
        std::mem::take(&mut self.actions)
    }

    fn opened(&mut self, now: Instant) {
        match &mut self.state {
            State::Connecting => self.state = State::Open { since: now },
            State::Ending(ending) if ending.is_closing() && ending.opened.is_none() => {
                ending.opened = Some(Duration::ZERO);
            }
            _ => return,
        }
        self.connections += 1;
        self.actions.push(Action::NotifyReady);
    }

    fn failed(&mut self, now: Instant, error: &Error) {
        if let State::Waiting { .. } = &self.state {
            // There is no connection. Whether another attempt follows is decided again.
            let mut ending = Ending::new(now, now, None);
            ending.shut_down();
            self.state = State::Ending(Box::new(ending));
        }
        self.closing(now, after(now, self.close_timeout));
        let State::Ending(ending) = &mut self.state else {
            return;
        };
        match error {
            // During the closing handshake, a peer that does not answer makes the closing time out.
            Error::PingTimeout { .. } if ending.has_begun() => ending.time_out(now),
            // An attempt that was given up is expected to fail.
            _ if ending.requested && ending.opened.is_none() && !ending.is_closing() => {}
            _ => ending.fail(error),
        }
        ending.shut_down();
    }

    fn aborted(&mut self, now: Instant) {
        self.failed(now, &Error::Aborted { unsent: 0 });
        if let State::Ending(ending) = &mut self.state {
            ending.requested = true;
        }
    }

    fn deadline_passed(&mut self, now: Instant) {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return;
        }
        match self.closing_now() {
            Some(ending) => {
                ending.time_out(now);
                ending.shut_down();
            }
            None => self.connect_again(),
        }
    }

    fn finished(&mut self, now: Instant, unsent: usize, backlog: bool) {
        let until = after(now, self.close_timeout);
        let waits_for = self.waiting().map(|(_, reason)| reason.clone());
        match waits_for {
            Some(reason) => self.failed(now, &reason),
            None => self.read_stopped(now),
        }
        let State::Ending(ending) = &mut self.state else {
            return;
        };
        if !matches!(ending.stage, Stage::ShutDown) {
            return;
        }
        ending.drain_until = backlog.then_some(until);
        let end = ending.end(unsent);
        if let Some(failure) = end.failure() {
            self.last_error = Some(failure);
        }
        ending.stage = Stage::Draining(end);
    }

    fn drained(&mut self) {
        let State::Ending(ending) = &mut self.state else {
            return;
        };
        if let Stage::Draining(end) = &ending.stage {
            let end = end.clone();
            ending.stage = Stage::Closed(end.clone());
            self.actions.push(Action::NotifyClosed(end));
        }
    }

    fn read_stopped(&mut self, now: Instant) {
        if let Some(ending) = self.closing(now, now) {
            ending.shut_down();
        }
    }

    /// Begins to end the connection, unless that has begun, with this deadline at the latest.
    /// Returns `None` if there is no connection, or if it is shut down.
    fn closing(&mut self, now: Instant, deadline: Instant) -> Option<&mut Ending> {
        let opened = match &self.state {
            State::Connecting => Some(None),
            State::Open { since } => Some(Some(now.saturating_duration_since(*since))),
            _ => None,
        };
        if let Some(opened) = opened {
            self.state = State::Ending(Box::new(Ending::new(now, deadline, opened)));
        }
        let ending = self.closing_now()?;
        ending.deadline = ending.deadline.min(deadline);
        Some(ending)
    }

    /// Returns the end of a connection that is closing already.
    fn closing_now(&mut self) -> Option<&mut Ending> {
        match &mut self.state {
            State::Ending(ending) if ending.is_closing() => Some(ending),
            _ => None,
        }
    }

    // Queries.

    pub(crate) fn phase(&self) -> Phase {
        match &self.state {
            State::Connecting | State::Waiting { .. } => Phase::Connecting,
            State::Open { .. } => Phase::Ready,
            State::Ending(ending) => match ending.stage {
                Stage::Draining(_) | Stage::Closed(_) => Phase::Closed,
                _ if ending.opened.is_none() => Phase::Connecting,
                _ => Phase::Closing,
            },
        }
    }

    /// Returns the time at which [`Input::DeadlinePassed`] is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Ending(ending) if ending.is_closing() => Some(ending.deadline),
            State::Waiting { until, .. } => Some(*until),
            _ => None,
        }
    }

    /// Returns how long the delivery of messages may wait for a subscriber.
    pub(crate) fn hold(&self) -> Hold {
        let Some(ending) = self.ending() else {
            return match self.state {
                // The backlog waits for the next connection. This ends its delivery if the attempt
                // begins early.
                State::Connecting if self.reconnects() => Hold::Spill,
                _ => Hold::Forever,
            };
        };
        if ending.requested {
            // This program has closed, so it may not take the messages.
            return Hold::Never;
        }
        if let Some(until) = ending.drain_until {
            return Hold::Until(until);
        }
        // If the connection is shut down and reading has not stopped, the reader may be waiting for
        // a subscriber.
        match ending.read == ReadState::Messages && self.is_shut_down() {
            false => Hold::Forever,
            // The subscriber may itself be waiting for room in the send queue, which only the next
            // connection makes.
            true if self.reconnects() => Hold::Spill,
            true => Hold::Never,
        }
    }

    /// Returns whether the handshake of the current connection is complete.
    pub(crate) fn has_opened(&self) -> bool {
        match self.ending() {
            Some(ending) => ending.opened.is_some(),
            None => matches!(self.state, State::Open { .. }),
        }
    }

    /// Returns `Ok` if the current connection is or was ready, or the reason for the end if the
    /// `Websocket` has ended before.
    pub(crate) fn has_been_ready(&self) -> Option<Result<(), Error>> {
        match self.has_opened() {
            true => Some(Ok(())),
            false => self.closed().map(|end| Err(end.clone())),
        }
    }

    /// Returns whether there is no connection, or its transport is shut down.
    pub(crate) fn is_shut_down(&self) -> bool {
        match &self.state {
            State::Connecting | State::Open { .. } => false,
            State::Ending(ending) => !ending.is_closing(),
            State::Waiting { .. } => true,
        }
    }

    /// Returns the reason for the end.
    pub(crate) fn end(&self) -> Option<&Error> {
        match &self.ending()?.stage {
            Stage::Draining(end) | Stage::Closed(end) => Some(end),
            Stage::Closing | Stage::ShutDown => None,
        }
    }

    /// Returns the reason for the end once the `Websocket` has ended and its messages have been
    /// delivered.
    pub(crate) fn closed(&self) -> Option<&Error> {
        match &self.ending()?.stage {
            Stage::Closed(end) => Some(end),
            _ => None,
        }
    }

    /// Returns the reason why nothing more is sent. `None` if messages may still be sent.
    pub(crate) fn why_closed(&self) -> Option<Error> {
        if let Some(end) = self.end() {
            return Some(end.clone());
        }
        let ending = self.ending()?;
        let closes = ending.requested || (ending.has_begun() && self.reconnect.is_none());
        closes.then(|| Error::Closed(ending.close(0)))
    }

    pub(crate) fn last_error(&self) -> Option<&Error> {
        self.last_error.as_ref()
    }

    /// Returns the number of the current or next attempt to connect since the last connection that
    /// was ready, from 1.
    pub(crate) fn attempt(&self) -> u32 {
        self.attempt
    }

    pub(crate) fn connections(&self) -> u64 {
        self.connections
    }

    pub(crate) fn reconnects(&self) -> bool {
        self.reconnect.is_some()
    }

    pub(crate) fn received_close(&self) -> Option<CloseFrame> {
        self.ending()?.received.as_ref()?.frame.clone()
    }

    /// Returns whether this program closes.
    pub(crate) fn is_close_requested(&self) -> bool {
        self.ending().is_some_and(|ending| ending.requested)
    }

    /// Returns whether nothing more will be written: this side's Close frame, and everything before
    /// it, has been written, or nothing can be.
    pub(crate) fn has_written_all(&self) -> bool {
        let ending = self.ending();
        ending.is_some_and(|ending| !ending.is_closing() || ending.write != WriteState::Open)
    }

    /// Returns whether this side's Close frame has been written.
    pub(crate) fn has_written_close(&self) -> bool {
        self.ending()
            .is_some_and(|ending| ending.write == WriteState::Done)
    }

    /// Returns whether the peer is known to have received everything that was written before this
    /// side's Close frame, because its own Close frame answers that one.
    pub(crate) fn confirms_all(&self) -> bool {
        self.ending().is_some_and(Ending::confirms_all)
    }

    fn ending(&self) -> Option<&Ending> {
        match &self.state {
            State::Ending(ending) => Some(ending),
            _ => None,
        }
    }
}
