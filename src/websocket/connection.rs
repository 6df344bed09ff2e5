//! One connection's state, from the first attempt to make it to its end: no lock, no threads, no I/O.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Close, CloseFrame, Error, Side};
use crate::net::closing::{Closing, Event, Role, Todo};
use crate::net::transport::ShutdownHandle;

/// A `Websocket` has one at a time; where it reconnects, one after the other.
pub(super) struct Connection {
    pub(super) was_ready: bool,
    pub(super) was_cut: bool,
    pub(super) reader_done: bool,
    /// When closing was begun, and when it has to be over.
    pub(super) deadline: Option<(Instant, Instant)>,
    closing: Closing,
    /// Who sent the first Close frame.
    closed_by: Option<Side>,
    /// When the peer's Close frame came, this side's was the only thing left to be written.
    answered: bool,
    /// Why it failed, if that is certain whatever else happens.
    failure: Option<Error>,
    /// What the operating system said first; a failure unless the closing handshake was complete.
    lost: Option<Error>,
    shutdown: Option<Arc<dyn ShutdownHandle>>,
}

impl Connection {
    pub(super) fn new(role: Role) -> Self {
        Connection {
            was_ready: false,
            was_cut: false,
            reader_done: false,
            deadline: None,
            closing: Closing::new(role),
            closed_by: None,
            answered: false,
            failure: None,
            lost: None,
            shutdown: None,
        }
    }

    pub(super) fn role(&self) -> Role {
        self.closing.role()
    }

    pub(super) fn closing(&self) -> &Closing {
        &self.closing
    }

    /// How a Close frame from either side would be reported.
    pub(super) fn closed(&self) -> Close {
        let (sent, received) = (self.closing.sent(), self.closing.received());
        let by = match self.closed_by {
            // The peer has not seen a frame that was not written, and closed by itself.
            _ if received.is_some() && !self.closing.has_written() => Side::Peer,
            by => by.unwrap_or(Side::Local),
        };
        let frame = match by {
            Side::Local => sent,
            Side::Peer => received,
        };
        Close {
            by,
            frame: frame.cloned().flatten(),
            unsent: 0,
        }
    }

    /// Says how to end what the reader is about to wait in. `false` when it has been ended already.
    /// Also returns the one before.
    pub(super) fn install(
        &mut self,
        shutdown: Arc<dyn ShutdownHandle>,
    ) -> (bool, Option<Arc<dyn ShutdownHandle>>) {
        let old = self.shutdown.replace(shutdown);
        (!self.was_cut, old)
    }

    /// Tells the closing handshake; returns what is to be done, and how to cut.
    pub(super) fn handle(&mut self, event: Event) -> (Todo, Option<Arc<dyn ShutdownHandle>>) {
        let by = match event {
            Event::Peer(_) => Side::Peer,
            _ => Side::Local,
        };
        let todo = self.closing.handle(event);
        if self.closing.has_begun() {
            self.closed_by.get_or_insert(by);
        }
        let cut = if todo.cut { self.take_shutdown() } else { None };
        (todo, cut)
    }

    pub(super) fn take_shutdown(&mut self) -> Option<Arc<dyn ShutdownHandle>> {
        self.was_cut = true;
        self.shutdown.clone()
    }

    /// Nothing is left to be cut.
    pub(super) fn forget_shutdown(&mut self) -> Option<Arc<dyn ShutdownHandle>> {
        self.shutdown.take()
    }

    /// Closing has to be over by then. An earlier time that was set before stays; returns what holds.
    pub(super) fn set_deadline(&mut self, deadline: Instant) -> Instant {
        let (begun, deadline) = match self.deadline {
            Some((begun, set)) => (begun, set.min(deadline)),
            None => (Instant::now(), deadline),
        };
        self.deadline = Some((begun, deadline));
        deadline
    }

    /// It has failed. The first reason counts; another is handed back, as by the following two. So
    /// is one that comes after the peer's Close frame, which says how the connection was closed
    /// (RFC 6455, section 7.1.5).
    pub(super) fn fail(&mut self, error: Error) -> Option<Error> {
        match self.closing.received() {
            Some(_) => Some(error),
            None => keep_first(&mut self.failure, error),
        }
    }

    /// The operating system reported an error, or the end of the stream; which is no news once this
    /// side has cut the connection.
    pub(super) fn lose(&mut self, error: Error) -> Option<Error> {
        match self.was_cut {
            true => Some(error),
            false => keep_first(&mut self.lost, error),
        }
    }

    /// It did not come about: a failure, unless it was given up.
    pub(super) fn fail_to_open(&mut self, error: Error) -> Option<Error> {
        match self.was_cut {
            true => Some(error),
            false => self.fail(error),
        }
    }

    /// It has failed, and nobody wants it any more: then, if it did not even come about, that is no
    /// failure; unless `unsent` messages wait for it. Returns the error that is forgotten.
    pub(super) fn give_up(&mut self, unsent: usize) -> Option<Error> {
        match self.was_ready || unsent > 0 {
            true => None,
            false => self.failure.take(),
        }
    }

    /// Closing took too long: a failure, unless all that matters has been said or it has failed already.
    pub(super) fn time_out(&mut self) {
        if self.was_cut || self.lost.is_some() || self.closing.is_clean() {
            return;
        }
        let (begun, deadline) = self.deadline.unwrap_or((Instant::now(), Instant::now()));
        // The peer may have been given up before.
        let over = deadline.min(Instant::now());
        self.fail(Error::CloseTimeout {
            after: rounded(over.saturating_duration_since(begun)),
            // Told by `end`.
            unsent: 0,
        });
    }

    /// Whether the peer has taken all that was written before this side's Close frame: its own came
    /// after that one.
    pub(super) fn confirms_all(&self) -> bool {
        // Frames may have crossed: then the peer's has a code of its own, as a rule.
        let code = |frame: Option<&Option<CloseFrame>>| Some(frame?.as_ref()?.code);
        let echoed = code(self.closing.sent()) == code(self.closing.received());
        let local = self.closed_by == Some(Side::Local);
        local && self.answered && echoed && self.closing.is_clean()
    }

    /// The peer's Close frame may be an answer.
    pub(super) fn is_answered(&mut self) {
        self.answered = true;
    }

    /// How it ended, with `unsent` messages that were accepted and not written: the one value that
    /// everybody is told.
    pub(super) fn end(&self, unsent: usize) -> Error {
        match &self.failure {
            Some(Error::CloseTimeout { after, .. }) => {
                let after = *after;
                return Error::CloseTimeout { after, unsent };
            }
            Some(failure) => return failure.clone(),
            None => {}
        }
        if self.closing.received().is_some() {
            return Error::Closed(Close {
                unsent,
                ..self.closed()
            });
        }
        if !self.was_ready && self.was_cut && unsent == 0 {
            // It was given up.
            return Error::Closed(Close {
                by: self.closed_by.unwrap_or(Side::Local),
                frame: None,
                unsent,
            });
        }
        self.lost.clone().unwrap_or_else(|| {
            let text = match unsent {
                0 => "it was cut".to_owned(),
                _ => format!("it ended before {unsent} messages were sent"),
            };
            Error::lost(io::Error::new(io::ErrorKind::UnexpectedEof, text))
        })
    }
}

fn keep_first(kept: &mut Option<Error>, error: Error) -> Option<Error> {
    match kept {
        Some(_) => Some(error),
        None => {
            *kept = Some(error);
            None
        }
    }
}

/// The Close frame that one side sent, or means to send.
pub(super) fn frame(frame: Option<&Option<CloseFrame>>) -> Option<CloseFrame> {
    frame.cloned().flatten()
}

/// A time as it was set, and not a few microseconds less.
fn rounded(time: Duration) -> Duration {
    let millis = (time + Duration::from_micros(500)).as_millis();
    Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
}
