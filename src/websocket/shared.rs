//! What the handles and the two threads of a connection have in common.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tungstenite::protocol::Role;

use super::lifecycle::{EventCallbacks, Lifecycle, Waited};
use super::send_queue::SendQueue;
use super::session::{Action, Input, Phase, Session};
use crate::backoff::Schedule;
use crate::error::{CloseFrame, Error};
use crate::message::Message;
use crate::options::Options;
use crate::panics::drop_caught;
use crate::process::OwnerProcess;
use crate::pubsub::{Producer, Publisher, Weighing};
use crate::thread::spawn;

/// How long, and how often, starting the close watchdog is tried where nothing else enforces the
/// deadline.
const WATCHDOG_MAX_WAIT: Duration = Duration::from_secs(1);
const WATCHDOG_RETRY_INTERVAL: Duration = Duration::from_millis(5);

pub(crate) struct Shared {
    /// A copy in another process does nothing.
    pub(crate) process: OwnerProcess,
    pub(crate) options: Options,
    pub(crate) producer: Producer<Message>,
    pub(crate) send_queue: SendQueue,
    pub(crate) lifecycle: Lifecycle,
    /// The URL, or the peer's address; for the log and for errors.
    pub(crate) name: String,
    pub(crate) received: Received,
    /// Of the connection that was made last. Held to copy or to replace it.
    pub(crate) info: Mutex<Option<ConnectionInfo>>,
    pub(crate) reader_thread: OnceLock<ThreadId>,
    /// The present one. Held to look, or to replace it.
    pub(crate) writer_thread: Mutex<Option<ThreadId>>,
    /// Whether a thread enforces the closing's deadline.
    has_watchdog: AtomicBool,
}

/// What the handshake told.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionInfo {
    pub(crate) peer_addr: Option<std::net::SocketAddr>,
    pub(crate) local_addr: Option<std::net::SocketAddr>,
    pub(crate) request: Arc<http::Request<()>>,
    pub(crate) response: Arc<http::Response<()>>,
}

/// How much was received, on all connections. Written by the reader alone.
#[derive(Default)]
pub(crate) struct Received {
    pub(crate) messages: AtomicU64,
    pub(crate) bytes: AtomicU64,
}

/// The ends that the threads own.
pub(crate) struct ThreadEnds {
    pub(crate) publisher: Publisher<Message>,
}

impl Shared {
    pub(crate) fn new(name: String, role: Role, options: Options) -> (Arc<Self>, ThreadEnds) {
        let weighing = Weighing {
            weigh: Message::weight,
            limit: options.receive_queue_bytes,
        };
        let (publisher, producer) = Producer::with_weight(options.receive_queue, weighing);
        let send_queue = SendQueue::new(options.send_queue);
        if options.paused {
            producer.pause();
        }
        let schedule = options.reconnect.map(Schedule::new);
        let session = Session::new(role, options.close_timeout, schedule);
        let shared = Arc::new(Shared {
            process: OwnerProcess::current(),
            lifecycle: Lifecycle::new(session),
            options,
            producer,
            send_queue,
            name,
            received: Received::default(),
            info: Mutex::default(),
            reader_thread: OnceLock::new(),
            writer_thread: Mutex::default(),
            has_watchdog: AtomicBool::new(false),
        });
        let weak = Arc::downgrade(&shared);
        shared.producer.threads().on_outage(move |error| {
            if let Some(shared) = weak.upgrade() {
                shared.no_thread_for_callbacks(error);
            }
        });
        (shared, ThreadEnds { publisher })
    }

    /// Whether the caller is one of the two threads that a wait would wait for.
    pub(crate) fn is_own_thread(&self) -> bool {
        self.is_reader_thread() || *self.writer_thread.lock() == Some(thread::current().id())
    }

    /// Whether the caller is the thread that messages come from.
    pub(crate) fn is_reader_thread(&self) -> bool {
        self.reader_thread.get() == Some(&thread::current().id())
    }

    /// Reports what happened to the session, and carries out what it answers.
    ///
    /// Must be called without a lock: what it carries out may wait for other threads' locks, and
    /// calls the transport.
    pub(crate) fn step(&self, input: Input) {
        for action in self.lifecycle.step(&input) {
            self.perform(&action);
            drop_caught(action);
        }
        drop_caught(input);
    }

    /// The one place where the session's decisions take effect.
    fn perform(&self, action: &Action) {
        match action {
            Action::RefusePuts => self.send_queue.refuse_puts(),
            Action::SendClose(close) => self.send_queue.send_close(close.clone()),
            Action::ShutDown => {
                if let Some(handle) = self.lifecycle.shutdown_handle() {
                    handle.shutdown();
                }
            }
            Action::Hold => self.apply_hold(),
            Action::NotifyReady => {
                for f in self.lifecycle.ready_callbacks() {
                    self.producer.dispatcher().run(move || f.call(()));
                }
            }
            Action::NotifyLost(reason) => {
                for f in self.lifecycle.disconnect_callbacks() {
                    let reason = reason.clone();
                    self.producer.dispatcher().run(move || f.call(reason));
                }
            }
            Action::NotifyClosed(end) => self.notify_closed(end),
        }
    }

    fn apply_hold(&self) {
        loop {
            let hold = self.lifecycle.look(Session::hold);
            self.producer.set_hold(hold);
            // Another thread may have applied a newer one before this one.
            if self.lifecycle.look(Session::hold) == hold {
                return;
            }
        }
    }

    fn notify_closed(&self, end: &Error) {
        let EventCallbacks {
            on_ready,
            on_disconnect,
            on_error,
            on_close,
        } = self.lifecycle.take_callbacks();
        let dispatcher = self.producer.dispatcher();
        // Those that are not called are dropped there, too: that is the user's code as well.
        for f in on_error {
            match end.failure() {
                Some(error) => dispatcher.run(move || f.call(error)),
                None => dispatcher.run(move || drop(f)),
            }
        }
        for f in on_close {
            dispatcher.run(move || f.call(()));
        }
        for f in on_ready {
            dispatcher.run(move || drop(f));
        }
        for f in on_disconnect {
            dispatcher.run(move || drop(f));
        }
    }

    /// Waits until `look` finds something, or until `until`.
    ///
    /// This is the one place that enforces the session's deadline. A thread that gives the session
    /// a deadline waits here afterwards, or leaves that to a thread of its own: `close` and the
    /// drop of the last handle, the reader and the writer at their ends, and the close watchdog.
    /// There is no timer thread, which would have to be shared by all connections of the process.
    pub(crate) fn wait<R>(
        &self,
        until: Option<Instant>,
        mut look: impl FnMut(&Session) -> Option<R>,
    ) -> Option<R> {
        loop {
            match self.lifecycle.wait(until, &mut look) {
                Waited::Found(found) => return Some(found),
                Waited::Due => self.step(Input::DeadlinePassed),
                Waited::TimedOut => return None,
            }
        }
    }

    /// Waits until the connection's transport is shut down.
    pub(crate) fn wait_shut_down(&self) {
        self.wait(None, |session| session.is_shut_down().then_some(()));
    }

    /// Waits until everything is over, and returns how it ended.
    pub(crate) fn wait_closed(&self, until: Option<Instant>) -> Option<Error> {
        self.wait(until, |session| session.closed().cloned())
    }

    /// Begins to close, unless that has begun. Returns when it has to be over.
    pub(crate) fn begin_close(&self, frame: CloseFrame, deadline: Instant) -> Instant {
        // First: nothing is accepted after the Close frame, and nothing is missing from the count.
        self.send_queue.refuse_puts();
        let idle = self.send_queue.consumer().is_empty();
        crate::logging::debug!("{}: closing with {frame}", self.name);
        self.step(Input::CloseRequested {
            frame,
            deadline,
            idle,
        });
        self.lifecycle
            .look(Session::deadline)
            .map_or(deadline, |earlier| earlier.min(deadline))
    }

    /// Starts a thread that enforces the closing's deadline, for callers that must not wait, since
    /// the closing waits for them. One such thread is enough.
    pub(crate) fn spawn_close_watchdog(self: &Arc<Self>) {
        if self.has_watchdog.swap(true, Ordering::SeqCst) {
            return;
        }
        let start = || {
            let shared = self.clone();
            spawn("ws-linger", move || drop(shared.wait_closed(None)))
        };
        // Without one, the writer enforces the deadline, unless the peer keeps it from that; then the
        // pings' time-out does.
        let pings = self.options.ping_interval.and(self.options.ping_timeout);
        let until = Instant::now() + WATCHDOG_MAX_WAIT;
        while let Err(error) = start() {
            let next = Instant::now() + WATCHDOG_RETRY_INTERVAL;
            if pings.is_some() || next >= until {
                crate::logging::error!("{}: cannot start a thread to close: {error}", self.name);
                self.has_watchdog.store(false, Ordering::SeqCst);
                if pings.is_none() {
                    self.step(Input::Failed(Error::Thread(Arc::new(error))));
                }
                return;
            }
            if self.wait_closed(Some(next)).is_some() {
                return;
            }
        }
    }

    /// The peer takes nothing, not even a ping. The reader may not notice: it may itself be waiting
    /// for room in the queue that this keeps full.
    pub(crate) fn peer_stalled(&self) {
        let after = self.options.ping_timeout.unwrap_or_default();
        self.step(Input::Failed(Error::PingTimeout { after }));
    }

    /// The callbacks have been without a thread for too long. A connection that ends anyway does so
    /// as it would: its callbacks are called all the same.
    fn no_thread_for_callbacks(&self, error: Arc<io::Error>) {
        if self.lifecycle.phase() < Phase::Closing {
            self.step(Input::Failed(Error::Thread(error)));
        }
    }

    /// Nothing can be written any more.
    pub(crate) fn write_failed(&self, error: tungstenite::Error) {
        let error = match error {
            tungstenite::Error::Io(error) => error,
            other => io::Error::other(other),
        };
        crate::logging::debug!("{}: cannot write: {error}", self.name);
        self.step(Input::WriteFailed(Error::lost(error)));
    }
}
