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
use crate::os_limits::of_descriptors;
use crate::process::OwnerProcess;
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
    pub(super) process: OwnerProcess,
    /// Held to look and to change; nothing is called under it.
    state: Mutex<State>,
    /// Told of every change. Its waits have a deadline, or end with the shutdowns, which have one each.
    changed: Condvar,
    /// Shut down to make `woken` readable.
    waker: UnixStream,
    pub(super) woken: UnixStream,
}

struct State {
    listener: Option<Arc<Listener>>,
    /// Whether somebody waits for requests, and so has the listener.
    waiting: bool,
    /// Handlers that run, or are about to, and `serve` itself.
    handlers: HashMap<u64, Running>,
    next: u64,
    /// Threads that wait for a shutdown.
    shutting_down: Vec<ThreadId>,
}

/// What is known of a handler.
#[derive(Default)]
struct Running {
    /// Its thread, once it has one.
    thread: Option<ThreadId>,
    /// It has called `shutdown`, and nobody knows what it does after that.
    shuts_down: bool,
}

impl Control {
    pub(super) fn new(listener: Listener) -> io::Result<Arc<Self>> {
        let (waker, woken) = UnixStream::pair().map_err(of_descriptors)?;
        Ok(Arc::new(Control {
            registry: Registry::new(),
            process: OwnerProcess::current(),
            state: Mutex::new(State {
                listener: Some(Arc::new(listener)),
                waiting: false,
                handlers: HashMap::new(),
                next: 0,
                shutting_down: Vec::new(),
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

    /// Something that a shutdown waits for, from now on.
    pub(super) fn handler(self: &Arc<Self>) -> Handler {
        let mut state = self.state.lock();
        let id = state.next;
        state.next += 1;
        state.handlers.insert(id, Running::default());
        Handler {
            control: self.clone(),
            id,
        }
    }

    /// For `serve`: waits for its handlers, for as long as a shutdown does.
    pub(super) fn wait_for_handlers(&self) {
        let mut state = self.state.lock();
        while !state.handlers.is_empty() && !state.shutting_down.is_empty() {
            // Each shutdown has its own deadline, and tells of its end.
            self.changed.wait(&mut state);
        }
    }

    /// Waits for all handlers to return. If the caller is one itself, neither it nor others that have
    /// called `shutdown` can be waited for.
    fn handlers_have_returned(&self, deadline: Instant) -> bool {
        let own = Some(thread::current().id());
        self.wait(deadline, |state| {
            let mut handlers = state.handlers.values();
            match handlers.any(|running| running.thread == own) {
                false => state.handlers.is_empty(),
                true => state.handlers.values().all(|running| running.shuts_down),
            }
        })
    }

    /// Waits until no shutdown is under way, or until `deadline`.
    pub(super) fn wait_for_shutdown(&self, deadline: Option<Instant>) {
        let own = thread::current().id();
        let mut state = self.state.lock();
        while state.shutting_down.iter().any(|thread| *thread != own) {
            match deadline {
                // Each shutdown has its own deadline, and tells of its end.
                None => self.changed.wait(&mut state),
                Some(deadline) => {
                    if self.changed.wait_until(&mut state, deadline).timed_out() {
                        return;
                    }
                }
            }
        }
    }

    fn wait(&self, deadline: Instant, done: impl Fn(&State) -> bool) -> bool {
        let mut state = self.state.lock();
        while !done(&state) {
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                return done(&state);
            }
        }
        true
    }

    fn begin_shutdown(&self) -> ShuttingDown<'_> {
        let thread = thread::current().id();
        let listener = {
            let mut state = self.state.lock();
            state.shutting_down.push(thread);
            for running in state.handlers.values_mut() {
                running.shuts_down |= running.thread == Some(thread);
            }
            state.listener.take()
        };
        drop(listener);
        self.changed.notify_all();
        let _ = self.waker.shutdown(Shutdown::Both);
        ShuttingDown(self, thread)
    }
}

/// A thread that waits for a shutdown.
struct ShuttingDown<'a>(&'a Control, ThreadId);

impl Drop for ShuttingDown<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        let mut threads = state.shutting_down.iter();
        if let Some(index) = threads.position(|thread| *thread == self.1) {
            state.shutting_down.swap_remove(index);
        }
        drop(state);
        self.0.changed.notify_all();
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

/// A handler that runs, or is about to.
pub(super) struct Handler {
    control: Arc<Control>,
    id: u64,
}

impl Handler {
    /// It runs on this thread.
    pub(super) fn is_here(&self) {
        let thread = thread::current().id();
        let mut state = self.control.state.lock();
        if let Some(running) = state.handlers.get_mut(&self.id) {
            running.thread = Some(thread);
        }
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        self.control.state.lock().handlers.remove(&self.id);
        self.control.changed.notify_all();
    }
}

impl ServerHandle {
    /// The connections that were accepted from this server and have not ended, in no order. Each is a
    /// handle like others, which keeps its connection open.
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
    /// [`serve`](super::Server::serve) have returned. Then the server's iterator ends. A request that
    /// is accepted from now on is closed in the same way.
    ///
    /// Returns at the latest after `timeout` (and at most a second more, for cutting what is left).
    /// A handler that calls this does not wait for itself, nor for another that does.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] when a handler, or a function of a connection's [`Options`](crate::Options), has not
    /// returned by then; [`Error::Forked`] in a child of the server's process. Connections that did not close in time have been cut, also where this is `Ok`: each one's
    /// [`error`](Websocket::error) tells, for which [`connections`](Self::connections) is asked before.
    pub fn shutdown(&self, timeout: Duration) -> Result<()> {
        let mut deadline = deadline_after(timeout);
        let control = &self.control;
        if !control.process.is_current() {
            return Err(Error::Forked);
        }
        let _shutting_down = control.begin_shutdown();
        control.registry.close(deadline);
        if !control.registry.wait_for_all(deadline) {
            control.registry.abort_all();
            // The end of the connections is what handlers wait for, too.
            deadline = Instant::now() + Duration::from_secs(1);
            if !control.registry.wait_for_all(deadline) {
                return Err(Error::Timeout);
            }
        }
        let stopped = control.wait(deadline, |state| !state.waiting);
        match stopped && control.handlers_have_returned(deadline) {
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
