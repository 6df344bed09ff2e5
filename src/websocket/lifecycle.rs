//! The [`Session`] behind its lock: who waits for it to change, and who is told.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::{Condvar, Mutex};

use super::event_callback::EventCallback;
use super::session::{Action, Input, Phase, Session};
use crate::error::Error;
use crate::net::transport::ShutdownHandle;
use crate::panics::drop_caught;

/// The state of one `Websocket`, for the reader, the writer and the user's threads.
pub(crate) struct Lifecycle {
    /// Held to look and to change. Nothing is called under it: no shutdown, no callback, no
    /// destructor of the user's, no other lock.
    state: Mutex<State>,
    /// Told of every change. Its waits end with the change they wait for, with the session's
    /// deadline, or with their own. A session that has no deadline changes when its reader thread
    /// ends, and nothing keeps that from ending.
    changed: Condvar,
    /// Disconnected at the end.
    closed: Receiver<Infallible>,
}

struct State {
    session: Session,
    /// Ends what the reader and the writer wait in.
    shutdown: Option<Arc<dyn ShutdownHandle>>,
    callbacks: EventCallbacks,
    /// `None` once everything is over.
    alive: Option<Sender<Infallible>>,
}

/// Callbacks for events; called and dropped outside of the lock.
#[derive(Default)]
pub(crate) struct EventCallbacks {
    pub(crate) on_ready: Vec<Arc<EventCallback<()>>>,
    pub(crate) on_disconnect: Vec<Arc<EventCallback<Error>>>,
    pub(crate) on_error: Vec<Arc<EventCallback<Error>>>,
    pub(crate) on_close: Vec<Arc<EventCallback<()>>>,
}

/// How a wait ended.
pub(crate) enum Waited<R> {
    Found(R),
    /// The session's deadline has passed: [`Input::DeadlinePassed`] is due.
    Due,
    TimedOut,
}

impl Lifecycle {
    pub(crate) fn new(session: Session) -> Self {
        let (alive, closed) = bounded(0);
        Lifecycle {
            state: Mutex::new(State {
                session,
                shutdown: None,
                callbacks: EventCallbacks::default(),
                alive: Some(alive),
            }),
            changed: Condvar::new(),
            closed,
        }
    }

    /// Looks at the session.
    pub(crate) fn look<R>(&self, look: impl FnOnce(&Session) -> R) -> R {
        look(&self.state.lock().session)
    }

    pub(crate) fn phase(&self) -> Phase {
        self.look(Session::phase)
    }

    /// How it ended.
    pub(crate) fn end(&self) -> Option<Error> {
        self.look(|session| session.end().cloned())
    }

    pub(crate) fn closed_signal(&self) -> &Receiver<Infallible> {
        &self.closed
    }

    /// Waits until `look` finds something, until the session's deadline, or until `until`.
    pub(crate) fn wait<R>(
        &self,
        until: Option<Instant>,
        mut look: impl FnMut(&Session) -> Option<R>,
    ) -> Waited<R> {
        let mut state = self.state.lock();
        loop {
            if let Some(found) = look(&state.session) {
                return Waited::Found(found);
            }
            let now = Instant::now();
            let deadline = state.session.deadline();
            if deadline.is_some_and(|deadline| now >= deadline) {
                return Waited::Due;
            }
            if until.is_some_and(|until| now >= until) {
                return Waited::TimedOut;
            }
            match [deadline, until].into_iter().flatten().min() {
                None => self.changed.wait(&mut state),
                Some(next) => drop(self.changed.wait_until(&mut state, next)),
            }
        }
    }

    /// Reports what happened, and returns what is to be done.
    pub(crate) fn step(&self, input: &Input) -> Vec<Action> {
        let (actions, before) = {
            let mut state = self.state.lock();
            // Errors may be the user's, with destructors. The step drops no last copy of one under
            // the lock, since this keeps a copy.
            let before = state.session.clone();
            let actions = state.session.handle(Instant::now(), input);
            if state.session.closed().is_some() {
                state.alive = None;
            }
            (actions, before)
        };
        self.changed.notify_all();
        drop_caught(before);
        actions
    }

    /// Keeps what ends the wait that the reader is about to begin. `false` when the connection is
    /// shut down already.
    #[must_use]
    pub(crate) fn install(&self, shutdown: Arc<dyn ShutdownHandle>) -> bool {
        let (installed, _old) = {
            let mut state = self.state.lock();
            let old = state.shutdown.replace(shutdown);
            (!state.session.is_shut_down(), old)
        };
        installed
    }

    pub(crate) fn shutdown_handle(&self) -> Option<Arc<dyn ShutdownHandle>> {
        self.state.lock().shutdown.clone()
    }

    /// Returns what is no longer needed at the end, to be dropped by the caller.
    pub(crate) fn take_shutdown_handle(&self) -> Option<Arc<dyn ShutdownHandle>> {
        self.state.lock().shutdown.take()
    }

    // Callbacks. Each is kept for as long as its event may come. `true`, or an error, says that it is
    // to be called now, since the event has come already.

    pub(crate) fn on_ready(&self, f: &Arc<EventCallback<()>>) -> bool {
        let mut state = self.state.lock();
        let was_ever_ready = state.session.connections() > 0;
        if state.session.closed().is_some() {
            return was_ever_ready;
        }
        if state.session.reconnects() || !was_ever_ready {
            state.callbacks.on_ready.push(f.clone());
        }
        state.session.has_opened()
    }

    pub(crate) fn on_disconnect(&self, f: &Arc<EventCallback<Error>>) {
        let mut state = self.state.lock();
        if state.session.closed().is_none() {
            state.callbacks.on_disconnect.push(f.clone());
        }
    }

    pub(crate) fn on_error(&self, f: &Arc<EventCallback<Error>>) -> Option<Error> {
        let mut state = self.state.lock();
        if let Some(end) = state.session.closed() {
            return end.failure();
        }
        state.callbacks.on_error.push(f.clone());
        None
    }

    pub(crate) fn on_close(&self, f: &Arc<EventCallback<()>>) -> bool {
        let mut state = self.state.lock();
        let closed = state.session.closed().is_some();
        if !closed {
            state.callbacks.on_close.push(f.clone());
        }
        closed
    }

    /// The callbacks to call when a connection is ready.
    pub(crate) fn ready_callbacks(&self) -> Vec<Arc<EventCallback<()>>> {
        let mut state = self.state.lock();
        match state.session.reconnects() {
            true => state.callbacks.on_ready.clone(),
            false => std::mem::take(&mut state.callbacks.on_ready),
        }
    }

    /// The callbacks to call when a connection is lost.
    pub(crate) fn disconnect_callbacks(&self) -> Vec<Arc<EventCallback<Error>>> {
        self.state.lock().callbacks.on_disconnect.clone()
    }

    /// All callbacks, at the end.
    pub(crate) fn take_callbacks(&self) -> EventCallbacks {
        std::mem::take(&mut self.state.lock().callbacks)
    }
}
