//! The closing handshake (RFC 6455, section 7): which side sends the one Close frame, and when
//! there is nothing more to wait for.

use std::time::Instant;

use tungstenite::protocol::Role;

use super::ending::{Ending, LAST_WAIT, PeerClose, ReadState, WriteState, keep_first};
use super::{Action, Session, State};
use crate::deadline::after;
use crate::error::{Close, CloseFrame, Error, Side};
use crate::websocket::control_frames::{SendClose, SendFirst};

impl Session {
    pub(super) fn close_requested(&mut self, now: Instant, frame: &CloseFrame, deadline: Instant) {
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
            .and_then(|ending| ending.send(Some(frame.clone()), SendFirst::Queue));
        self.actions.extend(close);
        if let State::Ending(ending) = &mut self.state {
            ending.requested = true;
            if ending.replaced {
                // The replacement is given up, like an attempt to connect.
                ending.lost = ending.failure.take();
            }
        }
    }

    /// A client's attempt to connect is given up if no message waits for it. A server's connection
    /// is completed: it only takes a response, and then the client receives the Close frame.
    pub(super) fn nothing_queued(&mut self) {
        let role = self.role;
        if let Some(ending) = self.closing_now() {
            if ending.requested && ending.opened.is_none() && role == Role::Client {
                ending.shut_down();
            }
        }
    }

    pub(super) fn peer_closed(&mut self, now: Instant, received: &PeerClose) {
        let frame = received.frame.clone();
        let reason = Error::Closed(Close::by_peer(frame.clone()));
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
        let first = match followed {
            true => SendFirst::Nothing,
            false => SendFirst::Queue,
        };
        let close = ending.send(answer, first);
        self.refuse_puts_unless(followed);
        self.actions.extend(close);
    }

    pub(super) fn violation(&mut self, now: Instant, frame: &CloseFrame, error: &Error) {
        let wait = self.close_timeout.min(LAST_WAIT);
        let followed = self.is_followed(error);
        let Some(ending) = self.closing(now, after(now, wait)) else {
            return;
        };
        ending.fail(error);
        ending.read = ReadState::Discard;
        // What was accepted before, such as the answers to earlier messages, is still sent. The
        // Close frame has the other half of the time, since the peer may read slowly.
        let first = match followed {
            true => SendFirst::Nothing,
            false => SendFirst::QueueUntil(after(now, wait / 2)),
        };
        let close = ending.send(Some(frame.clone()), first);
        self.refuse_puts_unless(followed);
        self.actions.extend(close);
    }

    pub(super) fn close_written(&mut self) {
        if let Some(ending) = self.closing_now() {
            if ending.sent.is_some() && ending.write == WriteState::Open {
                ending.write = WriteState::Done;
            }
        }
    }

    /// The peer's messages are still read, until the deadline.
    pub(super) fn write_failed(&mut self, now: Instant, error: &Error) {
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

    pub(super) fn read_ended(&mut self, now: Instant, error: Option<&Error>) {
        if let Some(ending) = self.closing(now, after(now, self.close_timeout)) {
            ending.read = ReadState::Ended;
            keep_first(&mut ending.lost, error);
        }
    }

    /// Refuses further messages, unless another connection follows, which sends them.
    pub(super) fn refuse_puts_unless(&mut self, followed: bool) {
        if !followed {
            self.actions.push(Action::RefusePuts);
        }
    }
}

impl Ending {
    /// Returns whether there is nothing more to wait for.
    pub(super) fn has_nothing_left(&self, role: Role) -> bool {
        let writing = self.sent.is_some() && self.write == WriteState::Open;
        // The server ends the TCP connection, and the client waits for that (section 7.1.1).
        let server_is_done =
            role == Role::Server && self.received.is_some() && self.write != WriteState::Open;
        server_is_done || (self.read == ReadState::Ended && !writing)
    }

    /// Sends a Close frame, unless one was sent or nothing can be written.
    pub(super) fn send(&mut self, frame: Option<CloseFrame>, first: SendFirst) -> Option<Action> {
        if self.sent.is_some() || self.write == WriteState::Failed {
            return None;
        }
        self.by.get_or_insert(Side::Local);
        self.sent = Some(frame.clone());
        Some(Action::SendClose(SendClose { frame, first }))
    }

    /// Returns whether either side has sent a Close frame.
    pub(super) fn has_begun(&self) -> bool {
        self.sent.is_some() || self.received.is_some()
    }

    /// Returns whether both Close frames were exchanged.
    pub(super) fn is_clean(&self) -> bool {
        self.received.is_some() && self.write == WriteState::Done
    }

    pub(super) fn confirms_all(&self) -> bool {
        let (Some(received), Some(sent)) = (&self.received, &self.sent) else {
            return false;
        };
        // If the frames have crossed, the peer's usually has a code of its own.
        let code = |frame: &Option<CloseFrame>| frame.as_ref().map(|frame| frame.code);
        let echoed = code(sent) == code(&received.frame);
        self.by == Some(Side::Local) && received.after_all && echoed && self.is_clean()
    }
}
