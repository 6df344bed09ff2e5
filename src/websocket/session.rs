//! The state machine of one `Websocket`, over one or more connections. It has no lock, no thread,
//! no I/O and no clock.
//!
//! The threads report an [`Input`] with the time, and the session returns the [`Action`]s to carry
//! out. It decides whether and when this side sends its Close frame (RFC 6455, section 7), when the
//! connection is shut down and at what deadline, whether another connection follows, and what the
//! reason for the end is.

use std::io;
use std::time::{Duration, Instant};

use tungstenite::protocol::Role;

use super::control::SendClose;
use crate::backoff::Schedule;
use crate::deadline::after;
use crate::error::{Close, CloseFrame, Error, Side};
use crate::pubsub::Hold;

/// The time in which the peer has to end the stream once nothing more is to be sent.
pub(super) const LAST_WAIT: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
pub(crate) struct Session {
    role: Role,
    close_timeout: Duration,
    /// `None` if the first connection is the only one.
    reconnect: Option<Schedule>,
    state: State,
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

/// The end of one connection.
#[derive(Debug, Clone)]
struct Ending {
    stage: Stage,
    /// How long the connection was open before. `None` if its handshake is not complete.
    opened: Option<Duration>,
    /// Whether this program closes. Then no other connection follows.
    requested: bool,
    /// The side whose Close frame came first.
    by: Option<Side>,
    /// The Close frame that the writer has been given. The inner `None` is a frame without a body.
    sent: Option<Option<CloseFrame>>,
    received: Option<PeerClose>,
    write: WriteState,
    read: ReadState,
    /// An error that is the reason for the end, whatever happens after it.
    failure: Option<Error>,
    /// The first error of the transport. It is the reason for the end unless a Close frame was
    /// received.
    lost: Option<Error>,
    begun: Instant,
    /// The deadline of the closing.
    deadline: Instant,
    /// The time until which the backlog is delivered. `None` if there is no backlog.
    drain_until: Option<Instant>,
}

#[derive(Debug, Clone)]
enum Stage {
    /// The closing handshake, or the rest of it.
    Closing,
    /// The transport is shut down, and the connection's threads are ending.
    ShutDown,
    /// The reason for the end is known, and received messages are still being delivered.
    Draining(Error),
    /// The `Websocket` has ended.
    Closed(Error),
}

/// The peer's Close frame.
#[derive(Debug, Clone)]
pub(crate) struct PeerClose {
    pub(crate) frame: Option<CloseFrame>,
    /// Whether it was received after this side had written everything but its own Close frame.
    pub(crate) after_all: bool,
}

/// The state of the writing side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WriteState {
    Open,
    /// The Close frame, and everything before it, has been written.
    Done,
    Failed,
}

/// The state of the reading side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReadState {
    Messages,
    /// Bytes are read and ignored until the end of the stream.
    Discard,
    Ended,
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
        /// Whether no messages are queued for sending.
        idle: bool,
    },
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
    /// A connection that was ready was lost, and another one follows.
    NotifyLost(Error),
    /// The `Websocket` has ended. Exactly once, and the last action.
    NotifyClosed(Error),
}

impl Session {
    pub(crate) fn new(role: Role, close_timeout: Duration, reconnect: Option<Schedule>) -> Self {
        Session {
            role,
            close_timeout,
            reconnect,
            state: State::Connecting,
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
            Input::CloseRequested {
                frame,
                deadline,
                idle,
            } => self.close_requested(now, frame, *deadline, *idle),
            Input::PeerClosed(received) => self.peer_closed(now, received),
            Input::Violation(frame, error) => self.violation(now, frame, error),
            Input::CloseWritten => self.close_written(),
            Input::WriteFailed(error) => self.write_failed(now, error),
            Input::ReadEnded(error) => self.read_ended(now, error.as_ref()),
            Input::Failed(error) => self.failed(now, error),
            Input::DeadlinePassed => self.deadline_passed(now),
            Input::ReadStopped => self.read_stopped(now),
            Input::ThreadsEnded { unsent, chance } => self.threads_ended(now, *unsent, *chance),
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

    fn close_requested(&mut self, now: Instant, frame: &CloseFrame, deadline: Instant, idle: bool) {
        if let State::Waiting { reason, .. } = &self.state {
            // There is no peer to send a Close frame to. If messages are unsent, the loss of the
            // last connection is the reason for the end.
            let mut ending = Ending::new(now, now, None);
            ending.lost = reason.failure();
            ending.shut_down();
            self.state = State::Ending(Box::new(ending));
        }
        let close = self
            .closing(now, deadline)
            .and_then(|ending| ending.send(Some(frame.clone()), true));
        self.actions.extend(close);
        let State::Ending(ending) = &mut self.state else {
            return;
        };
        ending.requested = true;
        // A client's attempt can be given up. A server's connection only lacks a response: it is
        // made, and then the client receives the Close frame.
        if ending.is_closing() && ending.opened.is_none() && self.role == Role::Client && idle {
            ending.shut_down();
        }
    }

    fn peer_closed(&mut self, now: Instant, received: &PeerClose) {
        let frame = received.frame.clone();
        let reason = Error::Closed(Close {
            by: Side::Peer,
            frame: frame.clone(),
            unsent: 0,
        });
        let followed = self.is_followed(&reason);
        // Once both Close frames are exchanged, nothing more is sent.
        let wait = match self.has_written_close() {
            true => self.close_timeout.min(LAST_WAIT),
            false => self.close_timeout,
        };
        let Some(ending) = self.closing(now, after(now, wait)) else {
            return;
        };
        if ending.failure.is_some() || ending.received.is_some() {
            return;
        }
        ending.by.get_or_insert(Side::Peer);
        ending.read = ReadState::Discard;
        ending.received = Some(received.clone());
        // The answer to a Close frame has the same code (section 5.5.1). If another connection
        // follows, that sends the queued messages, since a peer that has closed may ignore them.
        let answer = frame.map(|frame| CloseFrame {
            code: frame.code,
            reason: String::new(),
        });
        let close = ending.send(answer, !followed);
        self.refuse_puts_unless(followed);
        self.actions.extend(close);
    }

    fn violation(&mut self, now: Instant, frame: &CloseFrame, error: &Error) {
        let wait = after(now, self.close_timeout.min(LAST_WAIT));
        let Some(ending) = self.closing(now, wait) else {
            return;
        };
        ending.fail(error);
        ending.read = ReadState::Discard;
        let close = ending.send(Some(frame.clone()), false);
        self.refuse_puts_unless(self.is_followed(error));
        self.actions.extend(close);
    }

    fn close_written(&mut self) {
        if let Some(ending) = self.closing_now() {
            if ending.sent.is_some() && ending.write == WriteState::Open {
                ending.write = WriteState::Done;
            }
        }
    }

    /// The peer's messages are still read, until the deadline.
    fn write_failed(&mut self, now: Instant, error: &Error) {
        if matches!(error, Error::Internal(_)) {
            // Nothing more is read from a transport that has panicked.
            return self.failed(now, error);
        }
        let Some(ending) = self.closing(now, after(now, self.close_timeout)) else {
            return;
        };
        keep_first(&mut ending.lost, Some(error));
        if ending.write == WriteState::Open {
            ending.write = WriteState::Failed;
        }
        self.refuse_puts_unless(self.is_followed(error));
    }

    fn read_ended(&mut self, now: Instant, error: Option<&Error>) {
        if let Some(ending) = self.closing(now, after(now, self.close_timeout)) {
            ending.read = ReadState::Ended;
            keep_first(&mut ending.lost, error);
        }
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

    fn deadline_passed(&mut self, now: Instant) {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return;
        }
        match self.closing_now() {
            Some(ending) => {
                ending.time_out(now);
                ending.shut_down();
            }
            None => self.state = State::Connecting,
        }
    }

    fn threads_ended(&mut self, now: Instant, unsent: usize, chance: f64) {
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

    /// Refuses further messages, unless another connection follows, which sends them.
    fn refuse_puts_unless(&mut self, followed: bool) {
        if !followed {
            self.actions.push(Action::RefusePuts);
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

    /// Returns whether another connection follows one that ends for this reason.
    fn is_followed(&self, reason: &Error) -> bool {
        let requested = self.ending().is_some_and(|ending| ending.requested);
        self.reconnect.is_some() && !requested && reason.is_transient()
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
            return Hold::Forever;
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

    pub(crate) fn connections(&self) -> u64 {
        self.connections
    }

    pub(crate) fn reconnects(&self) -> bool {
        self.reconnect.is_some()
    }

    /// Returns the Close frame that this side has sent or would have sent.
    pub(crate) fn sent_close(&self) -> Option<CloseFrame> {
        self.ending()?.sent.clone().flatten()
    }

    pub(crate) fn received_close(&self) -> Option<CloseFrame> {
        self.ending()?.received.as_ref()?.frame.clone()
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

impl Ending {
    fn new(now: Instant, deadline: Instant, opened: Option<Duration>) -> Self {
        Ending {
            stage: Stage::Closing,
            opened,
            requested: false,
            by: None,
            sent: None,
            received: None,
            write: WriteState::Open,
            read: ReadState::Messages,
            failure: None,
            lost: None,
            begun: now,
            deadline,
            drain_until: None,
        }
    }

    fn is_closing(&self) -> bool {
        matches!(self.stage, Stage::Closing)
    }

    fn shut_down(&mut self) {
        if self.is_closing() {
            self.stage = Stage::ShutDown;
        }
    }

    /// Records that the closing took too long. This is a failure unless both Close frames were
    /// exchanged or the connection has already failed.
    fn time_out(&mut self, now: Instant) {
        if self.is_closing() && self.lost.is_none() && !self.is_clean() {
            // The ping timeout of a peer that takes nothing may pass before the deadline.
            let over = self.deadline.min(now);
            self.fail(&Error::CloseTimeout {
                after: rounded(over.saturating_duration_since(self.begun)),
                unsent: 0,
            });
        }
    }

    /// Returns whether there is nothing more to wait for.
    fn has_nothing_left(&self, role: Role) -> bool {
        let writing = self.sent.is_some() && self.write == WriteState::Open;
        // The server ends the TCP connection, and the client waits for that (section 7.1.1).
        let server_is_done =
            role == Role::Server && self.received.is_some() && self.write != WriteState::Open;
        server_is_done || (self.read == ReadState::Ended && !writing)
    }

    /// Sends a Close frame, unless one was sent or nothing can be written.
    fn send(&mut self, frame: Option<CloseFrame>, after_queue: bool) -> Option<Action> {
        if self.sent.is_some() || self.write == WriteState::Failed {
            return None;
        }
        self.by.get_or_insert(Side::Local);
        self.sent = Some(frame.clone());
        Some(Action::SendClose(SendClose { frame, after_queue }))
    }

    /// Keeps the first failure. After the peer's Close frame, failures are ignored: that frame is
    /// the reason for the end (section 7.1.5).
    fn fail(&mut self, error: &Error) {
        if self.received.is_none() {
            keep_first(&mut self.failure, Some(error));
        }
    }

    /// Returns whether either side has sent a Close frame.
    fn has_begun(&self) -> bool {
        self.sent.is_some() || self.received.is_some()
    }

    /// Returns whether both Close frames were exchanged.
    fn is_clean(&self) -> bool {
        self.received.is_some() && self.write == WriteState::Done
    }

    fn confirms_all(&self) -> bool {
        let (Some(received), Some(sent)) = (&self.received, &self.sent) else {
            return false;
        };
        // If the frames have crossed, the peer's usually has a code of its own.
        let code = |frame: &Option<CloseFrame>| frame.as_ref().map(|frame| frame.code);
        let echoed = code(sent) == code(&received.frame);
        self.by == Some(Side::Local) && received.after_all && echoed && self.is_clean()
    }

    /// Returns the reason for the end if that is a Close frame from either side.
    fn close(&self, unsent: usize) -> Close {
        let received = self.received.as_ref();
        let by = match self.by {
            // The peer has not seen a frame that was not written, so it has closed by itself.
            _ if received.is_some() && self.write != WriteState::Done => Side::Peer,
            by => by.unwrap_or(Side::Local),
        };
        let frame = match by {
            Side::Local => self.sent.clone().flatten(),
            Side::Peer => received.and_then(|received| received.frame.clone()),
        };
        Close { by, frame, unsent }
    }

    /// Returns the reason for the end, with this many messages that were accepted and not written.
    /// All subscriptions, waits and callbacks receive this value.
    fn end(&self, unsent: usize) -> Error {
        match &self.failure {
            Some(Error::CloseTimeout { after, .. }) => {
                let after = *after;
                return Error::CloseTimeout { after, unsent };
            }
            Some(failure) => return failure.clone(),
            None => {}
        }
        if self.received.is_some() {
            return Error::Closed(self.close(unsent));
        }
        if self.requested && self.opened.is_none() && unsent == 0 {
            // The attempt was given up.
            return Error::Closed(Close {
                by: Side::Local,
                frame: None,
                unsent,
            });
        }
        self.lost.clone().unwrap_or_else(|| {
            let text = match unsent {
                0 => "it was shut down".to_owned(),
                _ => format!("it ended before {unsent} messages were sent"),
            };
            Error::lost(io::Error::new(io::ErrorKind::UnexpectedEof, text))
        })
    }
}

fn keep_first(kept: &mut Option<Error>, error: Option<&Error>) {
    if kept.is_none() {
        *kept = error.cloned();
    }
}

/// Rounds a time to milliseconds, so that a timeout is reported as it was set and not a few
/// microseconds less.
fn rounded(time: Duration) -> Duration {
    let millis = (time + Duration::from_micros(500)).as_millis();
    Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backoff::Backoff;
    use proptest::prelude::*;

    const TIMEOUT: Duration = Duration::from_secs(10);

    struct Driver {
        session: Session,
        now: Instant,
    }

    impl Driver {
        fn new(role: Role, reconnect: Option<Backoff>) -> Self {
            Driver {
                session: Session::new(role, TIMEOUT, reconnect.map(Schedule::new)),
                now: Instant::now(),
            }
        }

        fn open(role: Role, reconnect: Option<Backoff>) -> Self {
            let mut driver = Driver::new(role, reconnect);
            driver.step(Input::Opened);
            driver
        }

        /// Returns the Close frame to send, and whether to shut down.
        fn step(&mut self, input: Input) -> (Option<SendClose>, bool) {
            let actions = self.session.handle(self.now, &input);
            let close = actions.iter().find_map(|action| match action {
                Action::SendClose(close) => Some(close.clone()),
                _ => None,
            });
            let shut_down = actions
                .iter()
                .any(|action| matches!(action, Action::ShutDown));
            (close, shut_down)
        }

        fn close(&mut self) -> (Option<SendClose>, bool) {
            self.step(Input::CloseRequested {
                frame: frame(1000),
                deadline: self.now + TIMEOUT,
                idle: true,
            })
        }

        fn peer_closes(&mut self, code: u16, after_all: bool) -> (Option<SendClose>, bool) {
            let frame = Some(frame(code));
            self.step(Input::PeerClosed(PeerClose { frame, after_all }))
        }

        fn finish(&mut self, unsent: usize) -> Error {
            self.step(Input::ReadStopped);
            self.step(Input::ThreadsEnded {
                unsent,
                chance: 0.0,
            });
            let backlog = false;
            self.step(Input::Finished { unsent, backlog });
            self.step(Input::Drained);
            self.session.closed().cloned().expect("it is closed")
        }
    }

    fn frame(code: u16) -> CloseFrame {
        CloseFrame {
            code,
            reason: String::new(),
        }
    }

    fn send(code: u16, after_queue: bool) -> Option<SendClose> {
        let frame = Some(frame(code));
        Some(SendClose { frame, after_queue })
    }

    fn lost() -> Error {
        Error::lost(io::ErrorKind::ConnectionReset.into())
    }

    #[test]
    fn a_server_shuts_down_once_both_close_frames_are_exchanged() {
        let mut driver = Driver::open(Role::Server, None);
        assert_eq!(driver.peer_closes(1001, false), (send(1001, true), false));
        assert_eq!(driver.step(Input::CloseWritten), (None, true));
        assert!(driver.finish(0).is_orderly());
    }

    #[test]
    fn a_client_waits_for_the_server_to_end_the_stream() {
        let mut driver = Driver::open(Role::Client, None);
        assert_eq!(driver.close(), (send(1000, true), false));
        assert_eq!(driver.step(Input::CloseWritten), (None, false));
        assert_eq!(driver.peer_closes(1000, true), (None, false));
        assert_eq!(driver.step(Input::ReadEnded(None)), (None, true));
        assert!(driver.session.confirms_all());
        assert!(driver.finish(0).is_orderly());
    }

    #[test]
    fn close_frames_that_cross_confirm_nothing() {
        for (code, after_all) in [(1000, false), (1001, true)] {
            let mut driver = Driver::open(Role::Client, None);
            driver.close();
            driver.step(Input::CloseWritten);
            driver.peer_closes(code, after_all);
            assert!(!driver.session.confirms_all());
        }
    }

    #[test]
    fn a_violation_is_reported_before_queued_messages() {
        let mut driver = Driver::open(Role::Server, None);
        let reason = "a reserved bit".to_owned();
        let error = Error::Protocol { code: 1002, reason };
        let violation = Input::Violation(frame(1002), error);
        assert_eq!(driver.step(violation), (send(1002, false), false));
        assert_eq!(driver.peer_closes(1000, false), (None, false));
        assert!(matches!(driver.finish(0), Error::Protocol { .. }));
    }

    #[test]
    fn the_close_frame_is_answered_although_the_peer_has_ended_its_stream() {
        let mut driver = Driver::open(Role::Client, None);
        assert!(driver.peer_closes(1000, false).0.is_some());
        assert_eq!(driver.step(Input::ReadEnded(None)), (None, false));
        assert_eq!(driver.step(Input::CloseWritten), (None, true));
        assert!(driver.finish(0).is_orderly());
    }

    #[test]
    fn a_stream_that_ends_without_a_close_frame_is_a_loss() {
        let mut driver = Driver::open(Role::Client, None);
        driver.close();
        driver.step(Input::CloseWritten);
        assert!(driver.step(Input::ReadEnded(Some(lost()))).1);
        assert!(matches!(driver.finish(0), Error::Lost(_)));
    }

    #[test]
    fn closing_that_takes_too_long_is_a_failure_that_counts_unsent_messages() {
        let mut driver = Driver::open(Role::Client, None);
        driver.close();
        driver.now += TIMEOUT;
        assert!(driver.step(Input::DeadlinePassed).1);
        let end = driver.finish(3);
        let expected = Error::CloseTimeout {
            after: TIMEOUT,
            unsent: 3,
        };
        assert_eq!(end.to_string(), expected.to_string());
    }

    #[test]
    fn a_peer_that_does_not_end_the_stream_after_both_frames_is_no_failure() {
        let mut driver = Driver::open(Role::Client, None);
        driver.close();
        driver.step(Input::CloseWritten);
        driver.peer_closes(1000, true);
        driver.now += LAST_WAIT;
        assert!(driver.step(Input::DeadlinePassed).1);
        assert!(driver.finish(0).is_orderly());
    }

    #[test]
    fn closing_while_connecting_shuts_down_a_client_and_not_a_server() {
        let mut client = Driver::new(Role::Client, None);
        assert!(client.close().1);
        assert!(client.step(Input::Failed(lost())).0.is_none());
        assert!(client.finish(0).is_orderly());

        let mut server = Driver::new(Role::Server, None);
        assert_eq!(server.close(), (send(1000, true), false));
        server.step(Input::Opened);
        assert_eq!(server.session.phase(), Phase::Closing);
    }

    #[test]
    fn a_client_that_reconnects_waits_and_connects_again_until_this_program_closes() {
        let mut driver = Driver::open(Role::Client, Some(Backoff::default()));
        driver.step(Input::ReadEnded(Some(lost())));
        driver.step(Input::ThreadsEnded {
            unsent: 1,
            chance: 0.0,
        });
        let (until, reason) = driver.session.waiting().expect("it waits");
        assert!(matches!(reason, Error::Lost(_)));
        driver.now = until;
        driver.step(Input::DeadlinePassed);
        assert!(driver.session.is_connecting());
        driver.step(Input::Opened);
        assert_eq!(driver.session.connections(), 2);
        driver.close();
        driver.step(Input::ReadEnded(Some(lost())));
        assert!(matches!(driver.finish(0), Error::Lost(_)));
    }

    #[test]
    fn closing_while_waiting_to_reconnect_is_a_failure_only_if_messages_are_unsent() {
        for unsent in [0, 2] {
            let mut driver = Driver::open(Role::Client, Some(Backoff::default()));
            driver.step(Input::ReadEnded(Some(lost())));
            driver.step(Input::ThreadsEnded {
                unsent,
                chance: 0.0,
            });
            assert_eq!(driver.close(), (None, false));
            assert_eq!(driver.finish(unsent).is_orderly(), unsent == 0);
        }
    }

    #[test]
    fn an_attempt_that_fails_when_this_program_closes_is_no_failure() {
        let mut driver = Driver::new(Role::Client, Some(Backoff::default()));
        driver.step(Input::Failed(lost()));
        driver.close();
        assert!(driver.finish(0).is_orderly());
    }

    #[test]
    fn delivery_waits_until_this_program_closes_or_the_connection_must_end() {
        let mut driver = Driver::open(Role::Client, None);
        assert_eq!(driver.session.hold(), Hold::Forever);
        driver.peer_closes(1000, false);
        assert_eq!(driver.session.hold(), Hold::Forever);
        driver.close();
        assert_eq!(driver.session.hold(), Hold::Never);

        let mut driver = Driver::open(Role::Client, None);
        driver.step(Input::Failed(lost()));
        assert_eq!(driver.session.hold(), Hold::Never);

        let mut driver = Driver::open(Role::Client, Some(Backoff::default()));
        driver.step(Input::Failed(lost()));
        assert_eq!(driver.session.hold(), Hold::Spill);
        driver.step(Input::ThreadsEnded {
            unsent: 0,
            chance: 0.0,
        });
        assert_eq!(driver.session.hold(), Hold::Forever);
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 4096,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn the_rules_hold_for_every_order_of_inputs(
            input in prop::collection::vec(any::<u8>(), 2..120),
        ) {
            crate::fuzzing::session(&input);
        }
    }
}
