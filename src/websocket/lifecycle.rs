//! From connecting to closed: where a `Websocket` is, why it ended, and who waits for it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::{Condvar, Mutex};

use super::connection::{Connection, frame};
use super::event_callback::EventCallback;
use crate::error::{CloseFrame, Error};
use crate::net::closing::{Event, Role, Todo};
use crate::net::transport::ShutdownHandle;
use crate::panics::drop_caught;

/// The state of one `Websocket`. Reader, writer and users' threads all look here.
pub(crate) struct Lifecycle {
    /// Held to look and to change. Nothing else is called under it: no cut, no callback, no other lock.
    state: Mutex<State>,
    /// Told of every change. Its waits are ended by the change they wait for, all of which follow
    /// from the reader thread's end, or by their own deadline.
    changed: Condvar,
    /// Disconnected at the end.
    closed: Receiver<Infallible>,
    /// Whether there may be more than one connection.
    reconnects: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Or waiting to try again.
    Connecting,
    Ready,
    Closing,
    Closed,
}

struct State {
    phase: Phase,
    /// The one that there is, or that is to come about.
    connection: Connection,
    /// This program has closed: there will be no other connection.
    closed_locally: bool,
    ever_ready: bool,
    /// Why the last connection was lost, or the last attempt failed.
    last_error: Option<Error>,
    /// Why it ended; set once, with `Phase::Closed`.
    end: Option<Error>,
    /// Whether those who wait may be told: everything else has ended, too.
    waiters_released: bool,
    alive: Option<Sender<Infallible>>,
    listeners: EventCallbacks,
}

/// Callbacks for what happens to a `Websocket`; to be called and dropped outside of the lock.
#[derive(Default)]
pub(crate) struct EventCallbacks {
    pub(crate) on_ready: Vec<Arc<EventCallback<()>>>,
    pub(crate) on_disconnect: Vec<Arc<EventCallback<Error>>>,
    pub(crate) on_error: Vec<Arc<EventCallback<Error>>>,
    pub(crate) on_close: Vec<Arc<EventCallback<()>>>,
}

impl Lifecycle {
    pub(crate) fn new(role: Role, reconnects: bool) -> Self {
        let (alive, closed) = bounded(0);
        Lifecycle {
            state: Mutex::new(State {
                phase: Phase::Connecting,
                connection: Connection::new(role),
                closed_locally: false,
                ever_ready: false,
                last_error: None,
                end: None,
                waiters_released: false,
                alive: Some(alive),
                listeners: EventCallbacks::default(),
            }),
            changed: Condvar::new(),
            closed,
            reconnects,
        }
    }

    // Looking.

    pub(crate) fn phase(&self) -> Phase {
        self.state.lock().phase
    }

    pub(crate) fn end(&self) -> Option<Error> {
        self.state.lock().end.clone()
    }

    pub(crate) fn last_error(&self) -> Option<Error> {
        self.state.lock().last_error.clone()
    }

    pub(crate) fn closed_signal(&self) -> &Receiver<Infallible> {
        &self.closed
    }

    pub(crate) fn sent_close(&self) -> Option<CloseFrame> {
        frame(self.state.lock().connection.closing().sent())
    }

    /// Whether this side's Close frame is on its way.
    pub(crate) fn has_written_close(&self) -> bool {
        self.state.lock().connection.closing().has_written()
    }

    pub(crate) fn received_close(&self) -> Option<CloseFrame> {
        frame(self.state.lock().connection.closing().received())
    }

    /// Why nothing more is sent, once that is so.
    pub(crate) fn why_closed(&self) -> Option<Error> {
        let state = self.state.lock();
        match &state.end {
            Some(end) => Some(end.clone()),
            None if state.closed_locally || (state.phase == Phase::Closing && !self.reconnects) => {
                Some(Error::Closed(state.connection.closed()))
            }
            None => None,
        }
    }

    // Waiting. `None` when the deadline comes first.

    /// Until it is ready, or has been, or closed without: then with the end.
    pub(crate) fn wait_ready(&self, deadline: Option<Instant>) -> Option<Result<(), Error>> {
        self.wait(deadline, |state| match &state.end {
            _ if state.connection.was_ready => Some(Ok(())),
            Some(end) => state.waiters_released.then(|| Err(end.clone())),
            None => None,
        })
    }

    pub(crate) fn wait_closed(&self, deadline: Option<Instant>) -> Option<Error> {
        self.wait(deadline, |state| {
            state
                .end
                .as_ref()
                .filter(|_| state.waiters_released)
                .cloned()
        })
    }

    /// For the writer: until the reader has come to its end, or the closing's deadline, which may
    /// yet be set. Returns whether the reader has.
    pub(crate) fn wait_reader_done(&self) -> bool {
        self.wait_closing(|state| state.connection.reader_done || state.connection.was_cut)
    }

    /// For the reader: until the connection was cut, or the closing's deadline. Returns whether it was cut.
    pub(crate) fn wait_cut(&self) -> bool {
        self.wait_closing(|state| state.connection.was_cut)
    }

    /// Until the end is waiters_released, or the closing's deadline. Returns whether it was waiters_released.
    pub(crate) fn wait_waiters_released(&self) -> bool {
        self.wait_closing(|state| state.waiters_released)
    }

    fn wait_closing(&self, done: impl Fn(&State) -> bool) -> bool {
        let mut state = self.state.lock();
        loop {
            if done(&state) {
                return true;
            }
            match state.connection.deadline {
                None => self.changed.wait(&mut state),
                Some((_, deadline)) if Instant::now() >= deadline => return false,
                Some((_, deadline)) => drop(self.changed.wait_until(&mut state, deadline)),
            }
        }
    }

    /// For the reader, before it tries again: until then, or this program closes. Returns whether
    /// to try again.
    pub(crate) fn wait_to_try_again(&self, until: Instant) -> bool {
        let closed = self.wait(Some(until), |state| state.closed_locally.then_some(()));
        closed.is_none()
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
    pub(crate) fn install(&self, shutdown: Arc<dyn ShutdownHandle>) -> bool {
        let (installed, _old) = self.change(|state| state.connection.install(shutdown));
        installed
    }

    /// The handshake is done and the writer about to run. `None` when the connection was cut
    /// meanwhile, else the callbacks to call.
    pub(crate) fn set_ready(&self) -> Option<Vec<Arc<EventCallback<()>>>> {
        self.change(|state| {
            if state.connection.was_cut {
                return None;
            }
            state.connection.was_ready = true;
            state.ever_ready = true;
            state.phase = match state.connection.closing().has_begun() {
                true => Phase::Closing,
                false => Phase::Ready,
            };
            Some(match self.reconnects {
                true => state.listeners.on_ready.clone(),
                false => std::mem::take(&mut state.listeners.on_ready),
            })
        })
    }

    /// The peer's Close frame comes after all messages were written.
    pub(crate) fn is_answered(&self) {
        self.change(|state| state.connection.is_answered());
    }

    /// Tells the closing handshake; returns what is to be done, and how to cut.
    pub(crate) fn handle(&self, event: Event) -> (Todo, Option<Arc<dyn ShutdownHandle>>) {
        self.change(|state| state.handle(event))
    }

    /// This program closes, by `deadline`: from now on there will be no other connection. Returns
    /// what is to be done, how to cut, and the deadline that holds.
    pub(crate) fn begin_close(
        &self,
        frame: CloseFrame,
        deadline: Instant,
    ) -> (Todo, Option<Arc<dyn ShutdownHandle>>, Instant) {
        self.change(|state| {
            state.closed_locally = true;
            let deadline = state.connection.set_deadline(deadline);
            let (todo, cut) = state.handle(Event::Local(frame));
            (todo, cut, deadline)
        })
    }

    /// The connection's closing has to be over by then. An earlier time that was set before stays;
    /// returns what holds.
    pub(crate) fn set_deadline(&self, deadline: Instant) -> Instant {
        self.change(|state| state.connection.set_deadline(deadline))
    }

    /// The connection has failed, for a reason that counts whatever else happens. The first one does.
    pub(crate) fn fail(&self, error: Error) {
        drop_caught(self.change(|state| state.connection.fail(error)));
    }

    /// The operating system reported an error, or the end of the stream; which is no news once this
    /// side has cut the connection.
    pub(crate) fn lose(&self, error: Error) {
        drop_caught(self.change(|state| state.connection.lose(error)));
    }

    /// Closing took too long: a failure, unless all that matters has been said or it has failed already.
    pub(crate) fn time_out(&self) {
        self.change(|state| state.connection.time_out());
    }

    /// Gives up a client's connection that is not ready yet. (A server's is about to be: all it
    /// takes is a response, and then the client is told why it is closed.)
    pub(crate) fn abandon(&self) -> Option<Arc<dyn ShutdownHandle>> {
        self.change(
            |state| match (state.phase, state.connection.closing().role()) {
                (Phase::Connecting, Role::Client) => state.connection.take_shutdown(),
                _ => None,
            },
        )
    }

    /// The connection did not come about: a failure, unless it was given up.
    pub(crate) fn fail_to_open(&self, error: Error) {
        drop_caught(self.change(|state| state.connection.fail_to_open(error)));
    }

    /// Cuts the connection, whatever its state.
    pub(crate) fn shut_down(&self) -> Option<Arc<dyn ShutdownHandle>> {
        self.change(|state| state.connection.take_shutdown())
    }

    pub(crate) fn reader_done(&self) {
        self.change(|state| state.connection.reader_done = true);
    }

    /// Whether the peer is known to have taken all that was written.
    pub(crate) fn confirms_all(&self) -> bool {
        self.state.lock().connection.confirms_all()
    }

    /// Makes room for another connection if the one that has ended, with `unsent` messages not sent,
    /// ended for a reason that `heals`; unless this program has closed. Returns the reason, and
    /// whom to tell that the connection was lost.
    pub(crate) fn reconnect(
        &self,
        unsent: usize,
        heals: impl Fn(&Error) -> bool,
    ) -> Option<(Error, Vec<Arc<EventCallback<Error>>>)> {
        let (anew, old) = self.change(|state| {
            let mut reason = state.connection.end(unsent);
            if let Error::Closed(close) = &mut reason {
                // They are for the next connection.
                close.unsent = 0;
            }
            if !heals(&reason) {
                return (None, None);
            }
            if state.closed_locally {
                // An attempt that fails when this program has just closed is one that it gives up, as
                // it is a moment before and a moment after.
                return (None, Some((None, state.connection.give_up(unsent))));
            }
            let was_ready = state.connection.was_ready;
            state.phase = Phase::Connecting;
            let next = Connection::new(state.connection.role());
            let old = std::mem::replace(&mut state.connection, next);
            let error = state.last_error.replace(reason.clone());
            let told = match was_ready {
                true => state.listeners.on_disconnect.clone(),
                false => Vec::new(),
            };
            (Some((reason, told)), Some((Some(old), error)))
        });
        // There may be the user's errors in it: not under the lock.
        drop_caught(old);
        anew
    }

    /// The end, for those who look; [`notify_closed`](Self::notify_closed) tells those who wait.
    pub(crate) fn set_closed(&self, unsent: usize) -> Error {
        let (end, old) = {
            let mut state = self.state.lock();
            let end = state.connection.end(unsent);
            state.end = Some(end.clone());
            state.phase = Phase::Closed;
            let old = end
                .failure()
                .and_then(|error| state.last_error.replace(error));
            (end, (state.connection.forget_shutdown(), old))
        };
        // As above.
        drop_caught(old);
        end
    }

    /// Wakes all who wait for the end. Returns the callbacks, of which some are to be called.
    pub(crate) fn notify_closed(&self) -> EventCallbacks {
        self.change(|state| {
            state.waiters_released = true;
            state.alive = None;
            std::mem::take(&mut state.listeners)
        })
    }

    // Listening. Each keeps the callback for as long as its time may come, and tells whether it is to be
    // called now, since that has come already.

    pub(crate) fn on_ready(&self, f: &Arc<EventCallback<()>>) -> bool {
        let mut state = self.state.lock();
        if state.waiters_released {
            return state.ever_ready;
        }
        if self.reconnects || !state.ever_ready {
            state.listeners.on_ready.push(f.clone());
        }
        state.connection.was_ready
    }

    pub(crate) fn on_disconnect(&self, f: &Arc<EventCallback<Error>>) {
        let mut state = self.state.lock();
        if !state.waiters_released {
            state.listeners.on_disconnect.push(f.clone());
        }
    }

    pub(crate) fn on_error(&self, f: &Arc<EventCallback<Error>>) -> Option<Error> {
        let mut state = self.state.lock();
        if !state.waiters_released {
            state.listeners.on_error.push(f.clone());
            return None;
        }
        state.end.as_ref()?.failure()
    }

    pub(crate) fn on_close(&self, f: &Arc<EventCallback<()>>) -> bool {
        let mut state = self.state.lock();
        if !state.waiters_released {
            state.listeners.on_close.push(f.clone());
        }
        state.waiters_released
    }
}

impl State {
    fn handle(&mut self, event: Event) -> (Todo, Option<Arc<dyn ShutdownHandle>>) {
        let done = self.connection.handle(event);
        if self.connection.closing().has_begun() && self.phase == Phase::Ready {
            self.phase = Phase::Closing;
        }
        done
    }
}
