//! A handle to a server, for any thread, while another thread waits for the server's requests.

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
use super::registry::{GRACE_PERIOD, Registry};
use crate::deadline::deadline_after;
use crate::descriptors::with_descriptor_limit;
use crate::error::{Error, Result};
use crate::message::Message;
use crate::process::OwnerProcess;
use crate::websocket::Websocket;

/// A handle to a [`Server`](super::Server), for any thread.
///
/// [`Server::handle`](super::Server::handle) returns it, and has an example.
#[derive(Clone)]
pub struct ServerHandle {
    pub(super) control: Arc<ServerState>,
}

/// The state that a server and its handles share.
pub(super) struct ServerState {
    pub(super) registry: Arc<Registry>,
    pub(super) process: OwnerProcess,
    /// Held to read or to change the state. Nothing else is called under it.
    state: Mutex<State>,
    /// Notified of every change. Each wait has a deadline or ends with the shutdowns, which have
    /// deadlines.
    changed: Condvar,
    /// Shut down to make `woken` readable.
    waker: UnixStream,
    pub(super) woken: UnixStream,
}

#[derive(Default)]
struct State {
    listener: Option<Arc<Listener>>,
    /// Whether a thread waits for requests, and therefore holds the listener.
    waiting: bool,
    /// Handlers that run or are about to run, and `serve` itself.
    handlers: HashMap<u64, RunningHandler>,
    next: u64,
    /// Threads that wait for a shutdown.
    shutting_down: Vec<ThreadId>,
}

/// A handler that a shutdown waits for.
#[derive(Default)]
struct RunningHandler {
    /// The handler's thread, once it has started.
    thread: Option<ThreadId>,
    /// Whether the handler has called `shutdown`. What it does afterwards is not known.
    shuts_down: bool,
}

impl ServerState {
    pub(super) fn new(listener: Listener) -> io::Result<Arc<Self>> {
        let (waker, woken) = UnixStream::pair().map_err(with_descriptor_limit)?;
        Ok(Arc::new(ServerState {
            registry: Arc::default(),
            process: OwnerProcess::current(),
            state: Mutex::new(State {
                listener: Some(Arc::new(listener)),
                ..State::default()
            }),
            changed: Condvar::new(),
            waker,
            woken,
        }))
    }

    /// Returns the listener for a wait, or `None` once the server has been shut down.
    pub(super) fn borrow_listener(&self) -> Option<Borrowed<'_>> {
        let mut state = self.state.lock();
        let listener = state.listener.clone()?;
        state.waiting = true;
        Some(Borrowed {
            listener,
            _waiting: Waiting(self),
        })
    }

    /// Stops listening. Connections that were accepted are not affected.
    pub(super) fn stop_listening(&self) {
        let listener = self.state.lock().listener.take();
        drop(listener);
    }

    /// Registers a handler. A shutdown waits for it from now on.
    pub(super) fn handler(self: &Arc<Self>) -> Handler {
        let mut state = self.state.lock();
        let id = state.next;
        state.next += 1;
        state.handlers.insert(id, RunningHandler::default());
        Handler {
            control: self.clone(),
            id,
        }
    }

    /// Waits until all handlers have returned or no shutdown waits for them any more.
    pub(super) fn wait_for_handlers(&self) {
        self.wait(None, |state| {
            state.handlers.is_empty() || state.shutting_down.is_empty()
        });
    }

    /// Waits until all handlers have returned. A caller that is a handler itself waits neither for
    /// itself nor for others that have called `shutdown`.
    fn handlers_have_returned(&self, deadline: Instant) -> bool {
        let own = Some(thread::current().id());
        self.wait(Some(deadline), |state| {
            let mut handlers = state.handlers.values();
            match handlers.any(|running| running.thread == own) {
                false => state.handlers.is_empty(),
                true => state.handlers.values().all(|running| running.shuts_down),
            }
        })
    }

    /// Waits until no other thread is in a shutdown, or until the deadline. Returns whether the
    /// server has been shut down by then.
    pub(super) fn has_shut_down(&self, deadline: Option<Instant>) -> bool {
        let own = thread::current().id();
        let no_other = |state: &State| state.shutting_down.iter().all(|thread| *thread == own);
        self.wait(deadline, no_other) && self.state.lock().listener.is_none()
    }

    /// Waits until `done` returns `true`, or until the deadline. Returns the result of `done`. A
    /// wait without a deadline is for a shutdown, which has one and notifies of its end.
    fn wait(&self, deadline: Option<Instant>, done: impl Fn(&State) -> bool) -> bool {
        let mut state = self.state.lock();
        let waits = |state: &mut State| !done(state);
        match deadline {
            None => self.changed.wait_while(&mut state, waits),
            Some(deadline) => drop(self.changed.wait_while_until(&mut state, waits, deadline)),
        }
        done(&state)
    }

    /// Stops listening, wakes the thread that waits for requests, and begins to close all
    /// connections.
    fn begin_shutdown(&self, deadline: Instant) -> ShuttingDown<'_> {
        let thread = thread::current().id();
        let mut state = self.state.lock();
        state.shutting_down.push(thread);
        for running in state.handlers.values_mut() {
            running.shuts_down |= running.thread == Some(thread);
        }
        drop(state);
        self.stop_listening();
        self.changed.notify_all();
        let _ = self.waker.shutdown(Shutdown::Both);
        self.registry.close(deadline);
        ShuttingDown {
            server: self,
            thread,
            deadline,
        }
    }
}

/// A thread that waits for a shutdown.
struct ShuttingDown<'a> {
    server: &'a ServerState,
    thread: ThreadId,
    deadline: Instant,
}

impl Drop for ShuttingDown<'_> {
    fn drop(&mut self) {
        self.server.registry.stop_waiting(self.deadline);
        let mut state = self.server.state.lock();
        let mut threads = state.shutting_down.iter();
        if let Some(index) = threads.position(|thread| *thread == self.thread) {
            state.shutting_down.swap_remove(index);
        }
        drop(state);
        self.server.changed.notify_all();
    }
}

/// The listener, for a thread that waits for connections.
pub(super) struct Borrowed<'a> {
    listener: Arc<Listener>,
    /// Dropped after the listener. A shutdown then knows that the port is free.
    _waiting: Waiting<'a>,
}

impl Borrowed<'_> {
    pub(super) fn listener(&self) -> &Listener {
        &self.listener
    }
}

/// Ends `State::waiting` when it is dropped.
struct Waiting<'a>(&'a ServerState);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.state.lock().waiting = false;
        self.0.changed.notify_all();
    }
}

/// A handler that runs or is about to run.
pub(super) struct Handler {
    control: Arc<ServerState>,
    id: u64,
}

impl Handler {
    /// Notes that the handler runs on this thread.
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
    /// Returns the connections that were accepted from this server and have not ended, in any
    /// order.
    ///
    /// Each is a handle that keeps its connection open, like any other.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Server, Websocket};
    ///
    /// let mut server = Server::bind("127.0.0.1:0")?;
    /// let handle = server.handle();
    /// let ws = Websocket::connect(server.url())?;
    /// let robot = Websocket::accept(server.next().unwrap());
    /// assert_eq!(handle.connections(), [robot]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn connections(&self) -> Vec<Websocket> {
        self.control.registry.connections()
    }

    /// Puts a message to all connections, as [`put_nowait`](Websocket::put_nowait) does. Never
    /// waits, so a slow client does not delay others.
    ///
    /// The message is serialised once. If connections compress without [context
    /// takeover](crate::Deflate#broadcasts), it is compressed once as well.
    ///
    /// Returns the connections that miss it because their send queue is full: ignore this, or close
    /// them. Connections that are closing are not included.
    ///
    /// The function [`broadcast`](crate::broadcast()) reaches connections that you choose.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Server, Websocket, json};
    ///
    /// let mut server = Server::bind("127.0.0.1:0")?;
    /// let handle = server.handle();
    /// let ws = Websocket::connect(server.url())?;
    /// let _robot = Websocket::accept(server.next().unwrap());
    /// ws.wait_ready()?;
    /// for slow in handle.broadcast(json!({"battery": 0.8})) {
    ///     println!("{} misses the state", slow.name());
    /// }
    /// assert_eq!(ws.get()?, json!({"battery": 0.8}));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "send_all")]
    pub fn broadcast(&self, message: impl Into<Message>) -> Vec<Websocket> {
        self.control.registry.broadcast(message.into())
    }

    /// Shuts the server down: stops listening, closes all connections with code 1001 ("going away")
    /// at the same time, and waits until they have ended and the handlers of
    /// [`serve`](super::Server::serve) have returned.
    ///
    /// Then the server's iterator ends. A request that is accepted from now on is closed in the
    /// same way.
    ///
    /// Returns after `timeout` at the latest, or up to a second later if connections have to be
    /// shut down, or if threads need that time to end. A handler that calls this method does not
    /// wait for itself, nor for another handler that calls it.
    ///
    /// # Errors
    ///
    /// - [`Error::Timeout`] if a handler, or a function given to a connection's
    ///   [`Options`](crate::Options), has not returned by then.
    /// - [`Error::Forked`] in a forked child of the server's process.
    ///
    /// Connections that did not close in time have been shut down. This is not an error of this
    /// method: to find them, call [`connections`](Self::connections) before, and
    /// [`error`](Websocket::error) of each connection afterwards.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Server, Websocket};
    /// use std::time::Duration;
    ///
    /// let mut server = Server::bind("127.0.0.1:0")?;
    /// let handle = server.handle();
    /// let ws = Websocket::connect(server.url())?;
    /// let _robot = Websocket::accept(server.next().unwrap());
    /// ws.wait_ready()?;
    /// handle.shutdown(Duration::from_secs(5))?;
    /// ws.wait_closed()?;
    /// assert_eq!(ws.received_close().unwrap().code, 1001);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "stop")]
    pub fn shutdown(&self, timeout: Duration) -> Result<()> {
        let deadline = deadline_after(timeout);
        let control = &self.control;
        if !control.process.is_current() {
            return Err(Error::Forked);
        }
        let _shutting_down = control.begin_shutdown(deadline);
        let have_all_ended = |until| {
            control.registry.wait_for_all(until)
                && control.wait(Some(until), |state| !state.waiting)
                && control.handlers_have_returned(until)
                // A handler may have accepted a request meanwhile.
                && control.registry.wait_for_all(until)
        };
        if have_all_ended(deadline) {
            return Ok(());
        }
        control.registry.abort_all();
        // Threads need a moment to end, however short the time is.
        match have_all_ended(deadline.max(Instant::now()) + GRACE_PERIOD) {
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
