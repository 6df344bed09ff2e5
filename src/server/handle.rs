//! What any thread may ask of a server while another waits for its requests.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::listener::Listener;
use crate::error::{Error, Result};
use crate::message::Message;
use crate::websocket::registry::Registry;
use crate::websocket::{Websocket, deadline_after};

/// A handle to a [`Server`](super::Server), for any thread: see [`Server::handle`](super::Server::handle).
#[derive(Clone)]
pub struct ServerHandle {
    pub(super) control: Arc<Control>,
}

/// What a server and its handles share.
pub(super) struct Control {
    pub(super) registry: Arc<Registry>,
    /// Held to look and to change; nothing is called under it.
    state: Mutex<State>,
    /// Told of every change. Its waits have a deadline.
    changed: Condvar,
    /// Shut down to make `woken` readable.
    waker: UnixStream,
    pub(super) woken: UnixStream,
}

struct State {
    listener: Option<Arc<Listener>>,
    /// Whether somebody waits for requests, and so has the listener.
    waiting: bool,
    /// It is shutting down; by then everything is to be over.
    stop: Option<Instant>,
    /// How many handlers run on which thread; a handler may serve another server.
    handlers: HashMap<ThreadId, usize>,
}

impl Control {
    pub(super) fn new(listener: Listener) -> io::Result<Arc<Self>> {
        let (waker, woken) = UnixStream::pair()?;
        Ok(Arc::new(Control {
            registry: Registry::new(),
            state: Mutex::new(State {
                listener: Some(Arc::new(listener)),
                waiting: false,
                stop: None,
                handlers: HashMap::new(),
            }),
            changed: Condvar::new(),
            waker,
            woken,
        }))
    }

    /// The listener, to wait with; `None` once the server has been shut down.
    pub(super) fn borrow_listener(&self) -> Option<Borrowed<'_>> {
        let mut state = self.state.lock();
        let listener = state.listener.clone()?;
        state.waiting = true;
        Some(Borrowed {
            listener,
            _waiting: Waiting(self),
        })
    }

    /// Stops listening. What is accepted already is not affected.
    pub(super) fn stop_listening(&self) {
        let listener = self.state.lock().listener.take();
        drop(listener);
    }

    pub(super) fn handler(self: &Arc<Self>) -> Handler {
        let thread = thread::current().id();
        *self.state.lock().handlers.entry(thread).or_default() += 1;
        Handler {
            control: self.clone(),
            thread,
        }
    }

    /// Waits for the handlers to return, for as long as `shutdown` allows. The caller's own cannot be
    /// waited for. Returns whether all others have.
    pub(super) fn wait_for_handlers(&self) -> bool {
        let own = thread::current().id();
        self.wait(|state| state.handlers.keys().all(|thread| *thread == own))
    }

    fn wait(&self, done: impl Fn(&State) -> bool) -> bool {
        let mut state = self.state.lock();
        while !done(&state) {
            let Some(deadline) = state.stop else {
                return false;
            };
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                return done(&state);
            }
        }
        true
    }
}

/// The listener, lent to who waits for connections.
pub(super) struct Borrowed<'a> {
    listener: Arc<Listener>,
    /// Dropped last: the listener may be the last of it, and then the port is free.
    _waiting: Waiting<'a>,
}

impl Borrowed<'_> {
    pub(super) fn listener(&self) -> &Listener {
        &self.listener
    }
}

struct Waiting<'a>(&'a Control);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.state.lock().waiting = false;
        self.0.changed.notify_all();
    }
}

/// A handler that runs.
pub(super) struct Handler {
    control: Arc<Control>,
    thread: ThreadId,
}

impl Drop for Handler {
    fn drop(&mut self) {
        let mut state = self.control.state.lock();
        if let Some(count) = state.handlers.get_mut(&self.thread) {
            *count -= 1;
            if *count == 0 {
                state.handlers.remove(&self.thread);
            }
        }
        drop(state);
        self.control.changed.notify_all();
    }
}

impl ServerHandle {
    /// The connections that were accepted from this server and have not ended, in no order.
    pub fn connections(&self) -> Vec<Websocket> {
        self.control.registry.connections()
    }

    /// Puts a message to all connections, as [`put_nowait`](Websocket::put_nowait) does; it is
    /// serialised once. Never waits, so a slow client delays no other.
    ///
    /// Returns the connections that had no room for it in their send queue and so miss it: skip it
    /// for them, or close them. Those that are closing are not counted.
    pub fn broadcast(&self, message: impl Into<Message>) -> Vec<Websocket> {
        self.control.registry.broadcast(&message.into())
    }

    /// Shuts the server down: stops listening, closes all connections with code 1001 ("going
    /// away"), all at once, and waits until they have ended and the handlers of
    /// [`serve`](super::Server::serve) have returned. The server's iterator ends; a request that is
    /// accepted from now on is closed in the same way.
    ///
    /// Returns at the latest after `timeout` (and at most a second more, for cutting what is left).
    /// A handler that calls this does not wait for itself.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] when a handler, or a [`Sink`](crate::Sink) of a connection, has not
    /// returned by then. Connections that did not close in time have been cut all the same.
    pub fn shutdown(&self, timeout: Duration) -> Result<()> {
        let deadline = deadline_after(timeout);
        let control = &self.control;
        let listener = {
            let mut state = control.state.lock();
            state.stop.get_or_insert(deadline);
            state.listener.take()
        };
        drop(listener);
        let _ = control.waker.shutdown(Shutdown::Both);

        control.registry.close(deadline);
        if !control.registry.wait_for_all(deadline) {
            control.registry.cut();
            let soon = Instant::now() + Duration::from_secs(1);
            if !control.registry.wait_for_all(soon) {
                return Err(Error::Timeout);
            }
        }
        match control.wait(|state| !state.waiting) && control.wait_for_handlers() {
            true => Ok(()),
            false => Err(Error::Timeout),
        }
    }
}

impl fmt::Debug for ServerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerHandle").finish_non_exhaustive()
    }
}
