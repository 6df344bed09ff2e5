//! How a connection came to its end: what both sides said, what failed, and the one reason that
//! follows from it.

use std::io;
use std::time::{Duration, Instant};

use crate::error::{Close, CloseFrame, Error, Side};

/// The time in which the peer has to end the stream once nothing more is to be sent.
pub(crate) const LAST_WAIT: Duration = Duration::from_secs(1);

/// The end of one connection.
#[derive(Debug, Clone)]
pub(super) struct Ending {
    pub(super) stage: Stage,
    /// How long the connection was open before. `None` if its handshake is not complete.
    pub(super) opened: Option<Duration>,
    /// Whether this program closes. Then no other connection follows.
    pub(super) requested: bool,
    /// Whether this program replaces the connection: another one follows immediately.
    pub(super) replaced: bool,
    /// The side whose Close frame came first.
    pub(super) by: Option<Side>,
    /// The Close frame that the writer has been given. The inner `None` is a frame without a body.
    pub(super) sent: Option<Option<CloseFrame>>,
    pub(super) received: Option<PeerClose>,
    pub(super) write: WriteState,
    pub(super) read: ReadState,
    /// An error that is the reason for the end, whatever happens after it.
    pub(super) failure: Option<Error>,
    /// The first error of the transport. It is the reason for the end unless a Close frame was
    /// received.
    pub(super) lost: Option<Error>,
    pub(super) begun: Instant,
    /// The deadline of the closing.
    pub(super) deadline: Instant,
    /// The time until which the backlog is delivered. `None` if there is no backlog.
    pub(super) drain_until: Option<Instant>,
}

#[derive(Debug, Clone)]
pub(super) enum Stage {
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
pub(super) enum WriteState {
    Open,
    /// The Close frame, and everything before it, has been written.
    Done,
    Failed,
}

/// The state of the reading side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadState {
    Messages,
    /// Bytes are read and ignored until the end of the stream.
    Discard,
    Ended,
}

impl Ending {
    pub(super) fn new(now: Instant, deadline: Instant, opened: Option<Duration>) -> Self {
        Ending {
            stage: Stage::Closing,
            opened,
            requested: false,
            replaced: false,
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

    pub(super) fn is_closing(&self) -> bool {
        matches!(self.stage, Stage::Closing)
    }

    pub(super) fn shut_down(&mut self) {
        if self.is_closing() {
            self.stage = Stage::ShutDown;
        }
    }

    /// Records that the closing took too long. This is a failure unless both Close frames were
    /// exchanged or the connection has already failed.
    pub(super) fn time_out(&mut self, now: Instant) {
        if self.is_closing() && self.lost.is_none() && !self.is_clean() {
            // The ping timeout of a peer that takes nothing may pass before the deadline.
            let over = self.deadline.min(now);
            self.fail(&Error::CloseTimeout {
                after: rounded(over.saturating_duration_since(self.begun)),
                unsent: 0,
            });
        }
    }

    /// Keeps the first failure. After the peer's Close frame, failures are ignored: that frame is
    /// the reason for the end (section 7.1.5).
    pub(super) fn fail(&mut self, error: &Error) {
        if self.received.is_none() {
            keep_first(&mut self.failure, Some(error));
        }
    }

    /// Returns the reason for the end if that is a Close frame from either side.
    pub(super) fn close(&self, unsent: usize) -> Close {
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
    pub(super) fn end(&self, unsent: usize) -> Error {
        let mut end = self.reason(unsent);
        match &mut end {
            Error::CloseTimeout { unsent: count, .. } | Error::Aborted { unsent: count } => {
                *count = unsent;
            }
            Error::Closed(close) => close.unsent = unsent,
            _ => {}
        }
        end
    }

    fn reason(&self, unsent: usize) -> Error {
        if let Some(failure) = &self.failure {
            return failure.clone();
        }
        // A peer that ends the stream after this side's Close frame has nothing more to say.
        let was_told = self.requested && self.write == WriteState::Done;
        if self.received.is_some() || was_told {
            return Error::Closed(self.close(unsent));
        }
        if self.requested && (self.opened.is_none() || self.replaced) && unsent == 0 {
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

pub(super) fn keep_first(kept: &mut Option<Error>, error: Option<&Error>) {
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
