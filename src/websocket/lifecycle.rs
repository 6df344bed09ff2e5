//! From connecting to closed: where a connection is, why it ended, and who waits for it.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::{Condvar, Mutex};

use crate::error::{Close, CloseFrame, Error, Side};
use crate::net::closing::{Closing, Event, Role, Todo};
use crate::net::transport::Cut;

type OnEvent = Box<dyn FnMut() + Send>;
type OnError = Box<dyn FnMut(Error) + Send>;

/// The state of one connection. Reader, writer and users' threads all look here.
pub(crate) struct Lifecycle {
    /// Held to look and to change. Nothing else is called under it: no cut, no callback, no other lock.
    state: Mutex<State>,
    /// Told of every change. Its waits are ended by the change they wait for, all of which follow
    /// from the reader thread's end, or by their own deadline.
    changed: Condvar,
    /// Disconnected at the end.
    closed: Receiver<Infallible>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Connecting,
    Ready,
    Closing,
    Closed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writer {
    NotStarted,
    Running,
    Done,
}

struct State {
    phase: Phase,
    was_ready: bool,
    closing: Closing,
    /// Who sent the first Close frame.
    closed_by: Option<Side>,
    /// When closing was begun, and when it has to be over.
    deadline: Option<(Instant, Instant)>,
    /// Why it failed, if that is certain whatever else happens.
    failure: Option<Error>,
    /// What the operating system said first; a failure unless the closing handshake was complete.
    lost: Option<Error>,
    /// Why it ended; set once, with `Phase::Closed`.
    end: Option<End>,
    /// Whether those who wait may be told: everything else has ended, too.
    announced: bool,
    cut: Option<Arc<dyn Cut>>,
    was_cut: bool,
    writer: Writer,
    reader_done: bool,
    unsent: usize,
    alive: Option<Sender<Infallible>>,
    on_ready: Vec<OnEvent>,
    on_error: Vec<OnError>,
    on_close: Vec<OnEvent>,
}

/// How a connection ended.
#[derive(Debug, Clone)]
pub(crate) struct End {
    /// What whoever wants more of it is told.
    pub(crate) reason: Error,
    /// Whether that is a failure rather than an orderly end.
    pub(crate) failed: bool,
}

impl End {
    pub(crate) fn error(&self) -> Option<Error> {
        self.failed.then(|| self.reason.clone())
    }
}

/// Callbacks to be posted to the dispatch thread or dropped, outside of the lock.
pub(crate) struct Callbacks {
    pub(crate) never_ready: Vec<OnEvent>,
    pub(crate) on_error: Vec<OnError>,
    pub(crate) on_close: Vec<OnEvent>,
}

impl Lifecycle {
    pub(crate) fn new(role: Role) -> Self {
        let (alive, closed) = bounded(0);
        Lifecycle {
            state: Mutex::new(State {
                phase: Phase::Connecting,
                was_ready: false,
                closing: Closing::new(role),
                closed_by: None,
                deadline: None,
                failure: None,
                lost: None,
                end: None,
                announced: false,
                cut: None,
                was_cut: false,
                writer: Writer::NotStarted,
                reader_done: false,
                unsent: 0,
                alive: Some(alive),
                on_ready: Vec::new(),
                on_error: Vec::new(),
                on_close: Vec::new(),
            }),
            changed: Condvar::new(),
            closed,
        }
    }

    // Looking.

    pub(crate) fn phase(&self) -> Phase {
        self.state.lock().phase
    }

    pub(crate) fn end(&self) -> Option<End> {
        self.state.lock().end.clone()
    }

    pub(crate) fn closed_signal(&self) -> &Receiver<Infallible> {
        &self.closed
    }

    pub(crate) fn sent_close(&self) -> Option<CloseFrame> {
        self.state.lock().closing.sent().cloned().flatten()
    }

    /// Whether this side's Close frame is on its way.
    pub(crate) fn has_written_close(&self) -> bool {
        self.state.lock().closing.has_written()
    }

    pub(crate) fn received_close(&self) -> Option<CloseFrame> {
        self.state.lock().closing.received().cloned().flatten()
    }

    // Waiting. `None` when the deadline comes first.

    /// Until it has been ready, or closed without: then with the end.
    pub(crate) fn wait_ready(&self, deadline: Option<Instant>) -> Option<Result<(), End>> {
        self.wait(deadline, |state| match &state.end {
            _ if state.was_ready => Some(Ok(())),
            Some(end) => state.announced.then(|| Err(end.clone())),
            None => None,
        })
    }

    pub(crate) fn wait_closed(&self, deadline: Option<Instant>) -> Option<End> {
        self.wait(deadline, |state| {
            state.end.as_ref().filter(|_| state.announced).cloned()
        })
    }

    /// For the writer: until the reader has come to its end, or the closing's deadline, which may
    /// yet be set. Returns whether the reader has.
    pub(crate) fn wait_reader_done(&self) -> bool {
        self.wait_closing(|state| state.reader_done || state.was_cut)
    }

    /// For the reader: until the connection was cut, or the closing's deadline. Returns whether it was cut.
    pub(crate) fn wait_cut(&self) -> bool {
        self.wait_closing(|state| state.was_cut)
    }

    /// Until the end is announced, or the closing's deadline. Returns whether it was announced.
    pub(crate) fn wait_announced(&self) -> bool {
        self.wait_closing(|state| state.announced)
    }

    fn wait_closing(&self, done: impl Fn(&State) -> bool) -> bool {
        let mut state = self.state.lock();
        loop {
            if done(&state) {
                return true;
            }
            match state.deadline {
                None => self.changed.wait(&mut state),
                Some((_, deadline)) if Instant::now() >= deadline => return false,
                Some((_, deadline)) => drop(self.changed.wait_until(&mut state, deadline)),
            }
        }
    }

    /// For the reader, once the connection was cut: nothing keeps the writer then.
    pub(crate) fn wait_writer_done(&self) {
        let done = |state: &mut State| (state.writer != Writer::Running).then_some(());
        self.wait(None, done);
    }

    fn wait<R>(
        &self,
        deadline: Option<Instant>,
        mut look: impl FnMut(&mut State) -> Option<R>,
    ) -> Option<R> {
        let mut state = self.state.lock();
        loop {
            if let Some(found) = look(&mut state) {
                return Some(found);
            }
            match deadline {
                None => self.changed.wait(&mut state),
                Some(deadline) => {
                    if self.changed.wait_until(&mut state, deadline).timed_out() {
                        return look(&mut state);
                    }
                }
            }
        }
    }

    // Changing.

    fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let result = change(&mut self.state.lock());
        self.changed.notify_all();
        result
    }

    /// Says how to end what the reader is about to wait in. `false` when it has been ended already.
    #[must_use]
    pub(crate) fn install(&self, cut: Arc<dyn Cut>) -> bool {
        self.change(|state| {
            state.cut = Some(cut);
            !state.was_cut
        })
    }

    /// The handshake is done and the writer about to run. `None` when the connection was cut
    /// meanwhile, else the callbacks to call.
    pub(crate) fn set_ready(&self) -> Option<Vec<OnEvent>> {
        self.change(|state| {
            if state.was_cut {
                return None;
            }
            state.was_ready = true;
            state.writer = Writer::Running;
            state.phase = if state.closing.has_begun() {
                Phase::Closing
            } else {
                Phase::Ready
            };
            Some(std::mem::take(&mut state.on_ready))
        })
    }

    /// Tells the closing handshake; returns what is to be done, and how to cut.
    pub(crate) fn handle(&self, event: Event) -> (Todo, Option<Arc<dyn Cut>>) {
        self.change(|state| {
            let todo = state.closing.handle(event.clone());
            if state.closing.has_begun() {
                if state.phase == Phase::Ready {
                    state.phase = Phase::Closing;
                }
                let by = match event {
                    Event::Peer(_) => Side::Peer,
                    _ => Side::Local,
                };
                state.closed_by.get_or_insert(by);
            }
            let cut = if todo.cut { state.take_cut() } else { None };
            (todo, cut)
        })
    }

    /// Closing has to be over by then. An earlier time that was set before stays; returns what holds.
    pub(crate) fn set_deadline(&self, deadline: Instant) -> Instant {
        self.change(|state| {
            let (begun, deadline) = match state.deadline {
                Some((begun, set)) => (begun, set.min(deadline)),
                None => (Instant::now(), deadline),
            };
            state.deadline = Some((begun, deadline));
            deadline
        })
    }

    /// The connection has failed, for a reason that counts whatever else happens. The first one does.
    pub(crate) fn fail(&self, error: Error) {
        self.change(|state| {
            state.failure.get_or_insert(error);
        });
    }

    /// The operating system reported an error, or the end of the stream; which is no news once this
    /// side has cut the connection.
    pub(crate) fn lose(&self, error: io::Error) {
        self.change(|state| {
            if !state.was_cut {
                state.lost.get_or_insert(Error::lost(error));
            }
        });
    }

    /// Closing took too long: a failure, unless all that matters has been said or it has failed already.
    pub(crate) fn time_out(&self) {
        self.change(|state| {
            if !state.was_cut && state.lost.is_none() && !state.closing.is_clean() {
                let (begun, deadline) = state.deadline.unwrap_or((Instant::now(), Instant::now()));
                state.failure.get_or_insert(Error::CloseTimeout {
                    // The peer may have been given up before.
                    after: rounded(
                        deadline
                            .min(Instant::now())
                            .saturating_duration_since(begun),
                    ),
                    // Told by the writer at its end.
                    unsent: 0,
                });
            }
        });
    }

    /// Gives up a client's connection that is not ready yet. (A server's is about to be: all it
    /// takes is a response, and then the client is told why it is closed.)
    pub(crate) fn abandon(&self) -> Option<Arc<dyn Cut>> {
        self.change(|state| match (state.phase, state.closing.role()) {
            (Phase::Connecting, Role::Client) => state.take_cut(),
            _ => None,
        })
    }

    /// The connection did not come about: a failure, unless it was given up.
    pub(crate) fn fail_to_open(&self, error: Error, unsent: usize) {
        self.change(|state| {
            state.unsent = unsent;
            if !state.was_cut {
                state.failure.get_or_insert(error);
            }
        });
    }

    /// Cuts the connection, whatever its state.
    pub(crate) fn cut(&self) -> Option<Arc<dyn Cut>> {
        self.change(State::take_cut)
    }

    pub(crate) fn writer_done(&self, unsent: usize) {
        self.change(|state| {
            state.writer = Writer::Done;
            state.unsent = unsent;
        });
    }

    pub(crate) fn reader_done(&self) {
        self.change(|state| state.reader_done = true);
    }

    /// The end, for those who look; [`announce`](Self::announce) tells those who wait.
    pub(crate) fn set_closed(&self) -> End {
        let mut state = self.state.lock();
        let end = state.judge();
        state.end = Some(end.clone());
        state.phase = Phase::Closed;
        state.cut = None;
        end
    }

    /// Wakes all who wait for the end. Returns the callbacks to call.
    pub(crate) fn announce(&self) -> Callbacks {
        self.change(|state| {
            state.announced = true;
            state.alive = None;
            Callbacks {
                never_ready: std::mem::take(&mut state.on_ready),
                on_error: std::mem::take(&mut state.on_error),
                on_close: std::mem::take(&mut state.on_close),
            }
        })
    }

    /// Keeps a callback for later; hands it back when its time has come already.
    pub(crate) fn on_ready(&self, f: OnEvent) -> Option<OnEvent> {
        let mut state = self.state.lock();
        if state.was_ready {
            return Some(f);
        }
        if !state.announced {
            state.on_ready.push(f);
            return None;
        }
        drop(state);
        drop(f);
        None
    }

    /// As [`on_ready`](Self::on_ready).
    pub(crate) fn on_error(&self, f: OnError) -> Option<(OnError, Error)> {
        let mut state = self.state.lock();
        if !state.announced {
            state.on_error.push(f);
            return None;
        }
        if let Some(error) = state.end.as_ref().and_then(End::error) {
            return Some((f, error));
        }
        drop(state);
        drop(f);
        None
    }

    /// As [`on_ready`](Self::on_ready).
    pub(crate) fn on_close(&self, f: OnEvent) -> Option<OnEvent> {
        let mut state = self.state.lock();
        if state.announced {
            return Some(f);
        }
        state.on_close.push(f);
        None
    }
}

impl State {
    fn take_cut(&mut self) -> Option<Arc<dyn Cut>> {
        self.was_cut = true;
        self.cut.clone()
    }

    fn judge(&self) -> End {
        let failed = |reason| End {
            reason,
            failed: true,
        };
        match &self.failure {
            Some(Error::CloseTimeout { after, .. }) => {
                let (after, unsent) = (*after, self.unsent);
                return failed(Error::CloseTimeout { after, unsent });
            }
            Some(failure) => return failed(failure.clone()),
            None => {}
        }
        let received = self.closing.received();
        // An answer that could not be sent to a peer that has closed costs nobody anything.
        let orderly = self.closing.is_clean() || (received.is_some() && self.unsent == 0);
        let given_up = !self.was_ready && self.was_cut && self.unsent == 0;
        if !orderly && !given_up {
            let ended = || Error::lost(io::ErrorKind::UnexpectedEof.into());
            return failed(self.lost.clone().unwrap_or_else(ended));
        }
        let by = self.closed_by.unwrap_or(Side::Local);
        let frame = match by {
            _ if !orderly => None,
            Side::Local => self.closing.sent(),
            Side::Peer => received,
        };
        End {
            reason: Error::Closed(Close {
                by,
                frame: frame.cloned().flatten(),
            }),
            failed: false,
        }
    }
}

/// A time as it was set, and not a few microseconds less.
fn rounded(time: Duration) -> Duration {
    let millis = (time + Duration::from_micros(500)).as_millis();
    Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
}
