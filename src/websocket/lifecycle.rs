//! The [`Session`] behind its lock, the threads that wait for it, and the callbacks for its events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::{Condvar, Mutex};

use super::control_frames::SendClose;
use super::event_callback::EventCallback;
use super::session::{Action, Input, Phase, Session};
use super::state::{Delivery, Observers, State as PublicState};
use crate::error::Error;
use crate::net::transport::ShutdownHandle;
use crate::panics::drop_caught;

/// The state of one `Websocket`, for the reader, the writer and the user's threads.
pub(crate) struct Lifecycle {
    /// Held to read or to change the state. Nothing is called under it: no shutdown, no callback,
    /// no user's destructor, no other lock. Only `closed` is disconnected under it, so that no
    /// thread sees the end before that.
    state: Mutex<State>,
    /// Notified of every change. Each wait ends with the change that it waits for, with the
    /// session's deadline, or with its own. A session without a deadline changes when its reader
    /// thread ends, and nothing prevents that thread from ending.
    changed: Condvar,
    /// Disconnected at the end of the session.
    closed: Receiver<Infallible>,
}

struct State {
    session: Session,
    /// Ends the waits of the reader and the writer. `None` while there is no connection.
    shutdown: Option<Arc<dyn ShutdownHandle>>,
    callbacks: EventCallbacks,
    observers: Observers,
    /// The other end of `closed`. `None` after the end of the session.
    alive: Option<Sender<Infallible>>,
}

/// Callbacks for events. They are called and dropped without the lock.
#[derive(Default)]
pub(crate) struct EventCallbacks {
    pub(crate) on_ready: Vec<Arc<EventCallback<()>>>,
    pub(crate) on_error: Vec<Arc<EventCallback<Error>>>,
    pub(crate) on_close: Vec<Arc<EventCallback<()>>>,
}

/// An action of the session, with what it applies to.
pub(crate) enum Effect {
    RefusePuts,
    SendClose(SendClose),
    /// Shut down the connection with this handle.
    ShutDown(Option<Arc<dyn ShutdownHandle>>),
    /// Apply the session's `Hold`.
    Hold,
    NotifyReady(Vec<Arc<EventCallback<()>>>),
    NotifyClosed(Error, EventCallbacks),
    /// Deliver the states that are queued for observers.
    NotifyObservers,
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
                observers: Observers::default(),
                alive: Some(alive),
            }),
            changed: Condvar::new(),
            closed,
        }
    }

    /// Returns the result of a function of the session.
    pub(crate) fn look<R>(&self, look: impl FnOnce(&Session) -> R) -> R {
        look(&self.state.lock().session)
    }

    pub(crate) fn phase(&self) -> Phase {
        self.look(Session::phase)
    }

    /// Returns why the session has ended, or `None` while it has not.
    pub(crate) fn end(&self) -> Option<Error> {
        self.look(|session| session.end().cloned())
    }

    pub(crate) fn closed_signal(&self) -> &Receiver<Infallible> {
        &self.closed
    }

    /// Waits until `look` returns a value, until the session's deadline, or until `until`.
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

    /// Passes an input to the session, and returns the effects that have to be performed.
    pub(crate) fn step(&self, input: &Input) -> Vec<Effect> {
        let (effects, before) = {
            let mut state = self.state.lock();
            // Errors may contain values of the user, which have destructors. This copy makes sure
            // that the step drops no last copy of an error under the lock.
            let before = state.session.clone();
            let actions = state.session.handle(Instant::now(), input);
            if state.session.closed().is_some() {
                state.alive = None;
            }
            let mut effects: Vec<_> = actions.into_iter().map(|it| state.effect(it)).collect();
            if PublicState::has_changed(&before, &state.session) {
                let State {
                    session, observers, ..
                } = &mut *state;
                observers.queue(|| PublicState::for_observers(session));
                effects.push(Effect::NotifyObservers);
            }
            (effects, before)
        };
        self.changed.notify_all();
        drop_caught(before);
        effects
    }

    /// Stores the handle that ends the next wait of the reader. Returns `false` if the connection
    /// is already shut down.
    #[must_use]
    pub(crate) fn install(&self, shutdown: Arc<dyn ShutdownHandle>) -> bool {
        let (installed, _old) = {
            let mut state = self.state.lock();
            let old = state.shutdown.replace(shutdown);
            (!state.session.is_shut_down(), old)
        };
        installed
    }

    /// Takes the handle at the end of a connection. The caller drops it without the lock.
    pub(crate) fn take_shutdown_handle(&self) -> Option<Arc<dyn ShutdownHandle>> {
        self.state.lock().shutdown.take()
    }

    // Callbacks. Each is stored as long as its event may occur. `true`, or an error, means that the
    // event has already occurred, so that the caller has to call it now.

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

    /// Adds an observer of the state, and passes it the present state.
    pub(crate) fn observe(
        &self,
        deliver: impl FnMut(Option<PublicState>) -> bool + Send + 'static,
    ) {
        let deliver = Box::new(deliver);
        let first = {
            let mut state = self.state.lock();
            let now = PublicState::for_observers(&state.session);
            state.observers.add(deliver, now)
        };
        self.deliver(first);
        self.deliver_states();
    }

    /// Delivers the states that are queued for observers and that no other thread delivers.
    pub(crate) fn deliver_states(&self) {
        let next = || self.state.lock().observers.take();
        while let Some(delivery) = next() {
            self.deliver(delivery);
        }
    }

    fn deliver(&self, delivery: Delivery) {
        let (index, deliver) = delivery.run();
        let left = self.state.lock().observers.put_back(index, deliver);
        drop_caught(left);
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
}

impl State {
    /// Adds to an action what it applies to now: another connection may follow before the action is
    /// performed, and further callbacks may be registered.
    fn effect(&mut self, action: Action) -> Effect {
        match action {
            Action::RefusePuts => Effect::RefusePuts,
            Action::SendClose(close) => Effect::SendClose(close),
            Action::ShutDown => Effect::ShutDown(self.shutdown.clone()),
            Action::Hold => Effect::Hold,
            Action::NotifyReady => Effect::NotifyReady(match self.session.reconnects() {
                true => self.callbacks.on_ready.clone(),
                false => std::mem::take(&mut self.callbacks.on_ready),
            }),
            Action::NotifyClosed(end) => {
                Effect::NotifyClosed(end, std::mem::take(&mut self.callbacks))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use tungstenite::protocol::Role;

    use super::super::session::ReconnectPolicy;
    use super::*;
    use crate::backoff::{Backoff, Schedule};

    #[derive(Default)]
    struct Flag(AtomicBool);

    impl ShutdownHandle for Flag {
        fn shutdown(&self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_shutdown_is_for_the_connection_that_was_open_when_it_was_decided() {
        let backoff = Backoff::new().initial(Duration::ZERO);
        let schedule = Some((Schedule::new(backoff), ReconnectPolicy::Transient));
        let lifecycle = Lifecycle::new(Session::new(Role::Client, Duration::MAX, schedule));
        let [first, second] = [(); 2].map(|()| Arc::new(Flag::default()));
        assert!(lifecycle.install(first.clone()));
        lifecycle.step(&Input::Opened);
        let decided = lifecycle.step(&Input::Failed(Error::lost(std::io::Error::other("x"))));
        // The reader thread goes on to the next connection before the effects are performed.
        lifecycle.step(&Input::ReadStopped);
        lifecycle.step(&Input::ThreadsEnded {
            unsent: 0,
            chance: 0.0,
            retry: false,
        });
        lifecycle.step(&Input::DeadlinePassed);
        assert!(lifecycle.install(second.clone()));
        for effect in decided {
            if let Effect::ShutDown(Some(handle)) = effect {
                handle.shutdown();
            }
        }
        assert!(first.0.load(Ordering::SeqCst));
        assert!(!second.0.load(Ordering::SeqCst));
    }

    #[test]
    fn a_callback_that_is_registered_after_its_event_is_called_by_its_caller_only() {
        let session = Session::new(Role::Server, Duration::MAX, None);
        let lifecycle = Lifecycle::new(session);
        let decided = lifecycle.step(&Input::Opened);
        let f = Arc::new(EventCallback::new(|()| {}));
        assert!(lifecycle.on_ready(&f), "it has occurred");
        for effect in decided {
            if let Effect::NotifyReady(callbacks) = effect {
                assert!(callbacks.is_empty());
            }
        }
    }
}
