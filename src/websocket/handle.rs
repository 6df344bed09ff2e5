//! The handle to a connection, which closes it when the last clone is dropped.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Weak};
use std::thread;

use super::connection_id::ConnectionId;
use super::session::Phase;
use super::shared::{Shared, is_any_reader_thread};
use crate::deadline::deadline_after;
use crate::error::CloseFrame;

/// A WebSocket connection: RTCBot's `Websocket`, on two threads.
///
/// Every method may be called on any thread, at any time, and from any callback. Clones are handles
/// to the same connection and compare equal.
///
/// # The methods that nearly every program needs
///
/// | method | what it does |
/// | --- | --- |
/// | [`connect`](Self::connect), [`accept`](Self::accept) | begins a connection |
/// | [`put_nowait`](Self::put_nowait) | sends a message, without waiting |
/// | [`get`](Self::get), [`get_timeout`](Self::get_timeout) | waits for the next message |
/// | [`subscribe`](Self::subscribe) | returns a further queue that receives every message |
/// | [`subscribe_callback`](Self::subscribe_callback) | calls a function with every message |
/// | [`wait_ready`](Self::wait_ready) | waits until the connection is ready or has failed |
/// | [`state`](Self::state) | returns whether the connection is ready, and why not |
/// | [`on_close`](Self::on_close) | calls a function when the connection has ended |
/// | [`close`](Self::close) | sends the queued messages, and closes the connection |
/// | [`stats`](Self::stats) | returns the numbers of messages and bytes, and the latency |
///
/// [`Options`](crate::Options) has the settings, and [`pair`](Self::pair) returns two connected
/// `Websocket`s for a test.
///
/// # Dropping the last handle
///
/// Dropping the last handle closes the connection. It waits until the queued messages are written,
/// for at most [`linger`](crate::Options::linger) (1 second by default), and not for the peer's
/// answer: [`close`](Self::close) does that, and returns errors. The close code is 1000, or 1011
/// during a panic. In a forked child, dropping a handle does nothing.
///
/// **A program that returns from `main` calls [`close`](Self::close) before.** If the process ends
/// while received bytes are unread, the system resets the connection, and written messages that the
/// peer has not received yet are lost.
///
/// A callback that captures a handle to its own connection keeps that connection open until either
/// side closes it, and so does a list of connections. Use a [`downgrade`](Self::downgrade)d handle
/// there. To keep a connection open for its callbacks alone, [`detach`](Self::detach) it.
///
/// # Examples
///
/// ```no_run
/// use rtcbot_websocket::{Websocket, json};
///
/// let ws = Websocket::connect("ws://robot.local:8080/ws")?;
/// ws.put_nowait(json!({"motor": 1, "speed": 0.5}))?;
/// let answer = ws.get()?;
/// println!("{answer}");
/// ws.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Receiving
///
/// [`get`](Self::get) takes from a default subscription, [`subscribe`](Self::subscribe) returns
/// further subscriptions, [`subscribe_to`](Self::subscribe_to) fills a channel or a sink, and
/// [`subscribe_callback`](Self::subscribe_callback) calls a function. Each of them receives every
/// message.
///
/// A peer's first messages may arrive before the program has subscribed. They are kept for the
/// first subscriber: at most 1024 messages and 4 MiB; beyond that, the oldest are dropped. If
/// several subscribers must receive the same first message, use
/// [`Options::paused`](crate::Options::paused).
///
/// # Sending
///
/// [`put_nowait`](Self::put_nowait) never waits, [`put`](Self::put) waits until the queue has
/// space, and [`put_subscription`](Self::put_subscription) sends everything from a source. All of
/// them work before the connection is ready: the messages are sent as soon as it is.
#[doc(alias = "split")]
#[must_use = "the connection is closed when the last handle is dropped"]
#[derive(Clone)]
pub struct Websocket {
    handle: Arc<Handle>,
}

/// Closes the connection when the last clone is dropped.
struct Handle {
    id: ConnectionId,
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        let shared = &self.shared;
        if !shared.process.is_current() {
            // The connection belongs to the parent. A thread that does not exist here may hold one
            // of its locks, so nothing of it is dropped.
            std::mem::forget(shared.clone());
            return;
        }
        let (phase, was_requested) = shared
            .lifecycle
            .look(|session| (session.phase(), session.is_close_requested()));
        if phase < Phase::Closing && shared.producer.has_callbacks() {
            crate::logging::warn!(
                "{}: closing, because the last handle is dropped; callbacks or sinks are attached \
                 (keep a handle, or call `detach`)",
                shared.name
            );
        }
        let frame = match thread::panicking() {
            true => CloseFrame::INTERNAL_ERROR,
            false => CloseFrame::NORMAL,
        };
        let limit = deadline_after(shared.options.linger);
        shared.begin_close(frame.clone(), deadline_after(shared.options.close_timeout));
        if phase == Phase::Closed {
            return;
        }
        // The connection's own threads must not wait for themselves. The reader of another one
        // drops the sinks of that at its end, which must not be late.
        if is_any_reader_thread()
            || shared.is_own_thread()
            || shared.producer.dispatcher().is_current_thread()
        {
            shared.spawn_close_watchdog();
            return;
        }
        // The writer thread enforces the deadline once it has written everything.
        let written = shared.wait(Some(limit), |session| {
            session.has_written_all().then_some(())
        });
        // A closing that has begun before, as by `close_nowait`, has its own deadline.
        if written.is_none() && !was_requested {
            shared.end_closing(frame, limit);
        }
    }
}

/// Handles, and the identity of the connection.
impl Websocket {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Websocket {
            handle: Arc::new(Handle {
                id: ConnectionId::next(),
                shared,
            }),
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }

    /// Drops this handle and keeps the connection open until either side closes it, for its
    /// callbacks and sinks.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Server, Websocket};
    ///
    /// let mut server = Server::bind("127.0.0.1:0")?;
    /// let ws = Websocket::connect(server.url())?;
    /// let echo = Websocket::accept(server.next().unwrap());
    /// let answers = echo.downgrade();
    /// echo.subscribe_callback(move |message| {
    ///     if let Some(echo) = answers.upgrade() {
    ///         let _ = echo.put_nowait(message);
    ///     }
    /// });
    /// echo.detach();
    /// ws.put_nowait("hello")?;
    /// assert_eq!(ws.get()?, "hello");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn detach(self) {
        let handle = self.clone();
        // The end drops the callback, and with it the handle.
        self.on_close(move || {
            let _ = &handle;
        });
    }

    /// Returns the identity of this `Websocket`, which all clones have in common.
    ///
    /// [`ConnectionId`] has an example.
    #[must_use]
    pub fn id(&self) -> ConnectionId {
        self.handle.id
    }

    /// Returns a handle that does not keep the connection open, for values that the connection
    /// itself owns, such as its callbacks.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Websocket, json};
    ///
    /// let (robot, operator) = Websocket::pair();
    /// let socket = robot.downgrade();
    /// robot.subscribe_callback(move |_order| {
    ///     if let Some(robot) = socket.upgrade() {
    ///         let _ = robot.put_nowait(json!({"battery": 0.8}));
    ///     }
    /// });
    /// operator.put_nowait("report")?;
    /// assert_eq!(operator.get()?, json!({"battery": 0.8}));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn downgrade(&self) -> WeakWebsocket {
        WeakWebsocket {
            id: self.id(),
            handle: Arc::downgrade(&self.handle),
        }
    }
}

/// A handle to a [`Websocket`] that does not keep the connection open.
///
/// [`Websocket::downgrade`] returns it, and has an example. Handles to the same connection compare
/// equal, also after it has been dropped.
#[derive(Debug, Clone)]
pub struct WeakWebsocket {
    id: ConnectionId,
    handle: Weak<Handle>,
}

impl WeakWebsocket {
    /// Returns the `Websocket`, or `None` if no other handle to it is left.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::Websocket;
    ///
    /// let (robot, _operator) = Websocket::pair();
    /// let weak = robot.downgrade();
    /// assert_eq!(weak.upgrade(), Some(robot.clone()));
    /// drop(robot);
    /// assert!(weak.upgrade().is_none());
    /// ```
    #[must_use]
    pub fn upgrade(&self) -> Option<Websocket> {
        let handle = self.handle.upgrade()?;
        Some(Websocket { handle })
    }
}

/// Returns whether both are handles to the same connection.
impl PartialEq for Websocket {
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id()
    }
}

impl Eq for Websocket {}

impl Hash for Websocket {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id().hash(state);
    }
}

/// Returns whether both are handles to the same connection.
impl PartialEq for WeakWebsocket {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for WeakWebsocket {}

impl Hash for WeakWebsocket {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}

impl fmt::Debug for Websocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Websocket")
            .field("name", &self.shared().name)
            .field("phase", &self.shared().lifecycle.phase())
            .finish_non_exhaustive()
    }
}
