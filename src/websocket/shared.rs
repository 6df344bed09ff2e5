//! The state that the handles and the two threads of a `Websocket` share.

use std::cell::Cell;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tungstenite::protocol::Role;

use super::lifecycle::{Effect, EventCallbacks, Lifecycle, Waited};
use super::send_queue::SendQueue;
use super::session::{Input, Phase, ReconnectPolicy, Session};
use super::thread_end::ThreadEnd;
use crate::backoff::Schedule;
use crate::error::{CloseFrame, Error};
use crate::hooks::Hooks;
use crate::message::Message;
use crate::options::Options;
use crate::panics::drop_caught;
use crate::process::OwnerProcess;
use crate::pubsub::{Producer, Publisher, Weighing};
use crate::thread::spawn;

/// How long, and how often, the start of the close watchdog is tried if nothing else enforces the
/// deadline.
const WATCHDOG_MAX_WAIT: Duration = Duration::from_secs(1);
const WATCHDOG_RETRY_INTERVAL: Duration = Duration::from_millis(5);

pub(crate) struct Shared {
    /// The process that made the `Websocket`. The handles do nothing in a forked process.
    pub(crate) process: OwnerProcess,
    pub(crate) options: Options,
    pub(crate) producer: Producer<Message>,
    pub(crate) send_queue: SendQueue,
    pub(crate) lifecycle: Lifecycle,
    /// The URL or the peer's address, for the log and for errors.
    pub(crate) name: String,
    pub(crate) received: Received,
    /// The facts about the last connection. The lock is held to copy or replace them.
    pub(crate) info: Mutex<Option<ConnectionInfo>>,
    pub(crate) reader_thread: OnceLock<ThreadId>,
    pub(crate) reader_end: Arc<ThreadEnd>,
    /// The writer thread of the last connection. The lock is held to read or replace it.
    pub(crate) writer_thread: Mutex<Option<ThreadId>>,
    /// Whether a watchdog enforces the deadline of the closing.
    has_watchdog: AtomicBool,
}

/// The facts about one connection, which are known after its handshake.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionInfo {
    pub(crate) peer_addr: Option<std::net::SocketAddr>,
    pub(crate) local_addr: Option<std::net::SocketAddr>,
    pub(crate) request: Arc<http::Request<()>>,
    pub(crate) response: Arc<http::Response<()>>,
}

/// The numbers of received messages and bytes, on all connections. Only the reader thread changes
/// them.
#[derive(Default)]
pub(crate) struct Received {
    pub(crate) messages: AtomicU64,
    pub(crate) bytes: AtomicU64,
}

/// The parts of a `Websocket` that its threads own.
pub(crate) struct ThreadEnds {
    pub(crate) publisher: Publisher<Message>,
    pub(crate) hooks: Hooks,
}

thread_local! {
    static IS_READER: Cell<bool> = const { Cell::new(false) };
}

/// Returns whether the caller is the reader thread of any connection. Such a thread must not wait
/// for another connection to close: its own would end late.
pub(crate) fn is_any_reader_thread() -> bool {
    IS_READER.get()
}

/// Makes the caller known as a reader thread.
pub(crate) fn mark_reader_thread() {
    IS_READER.set(true);
}

impl Shared {
    pub(crate) fn new(name: String, role: Role, mut options: Options) -> (Arc<Self>, ThreadEnds) {
        let hooks = std::mem::take(&mut options.hooks);
        let weighing = Weighing {
            weigh: Message::weight,
            limit: options.receive_queue_bytes,
        };
        let (publisher, producer) = Producer::with_weight(options.receive_queue, weighing);
        let send_queue = SendQueue::new(options.send_queue);
        if options.paused {
            producer.pause();
        }
        let reconnect = options.reconnect.map(|backoff| {
            let policy = match hooks.decides_to_reconnect() {
                true => ReconnectPolicy::Ask,
                false if backoff.until_closed => ReconnectPolicy::Always,
                false => ReconnectPolicy::Transient,
            };
            (Schedule::new(backoff), policy)
        });
        let session = Session::new(role, options.close_timeout, reconnect);
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
            reader_end: Arc::default(),
            writer_thread: Mutex::default(),
            has_watchdog: AtomicBool::new(false),
        });
        let weak = Arc::downgrade(&shared);
        shared.producer.threads().on_outage(move |error| {
            if let Some(shared) = weak.upgrade() {
                shared.no_thread_for_callbacks(error);
            }
        });
        if let Some(bytes) = shared.options.thread_stack_size {
            shared.producer.threads().set_stack_size(bytes);
        }
        (shared, ThreadEnds { publisher, hooks })
    }

    /// Returns whether the caller is the reader or the writer thread. A wait for the connection
    /// would wait for these.
    pub(crate) fn is_own_thread(&self) -> bool {
        self.is_reader_thread() || *self.writer_thread.lock() == Some(thread::current().id())
    }

    /// Returns whether the caller is the reader thread, which delivers messages.
    pub(crate) fn is_reader_thread(&self) -> bool {
        self.reader_thread.get() == Some(&thread::current().id())
    }

    /// Reports an input to the session, and performs the effects.
    ///
    /// Must be called without a lock: the effects take locks and call the transport.
    pub(crate) fn step(&self, input: Input) {
        for effect in self.lifecycle.step(&input) {
            self.perform(effect);
        }
        drop_caught(input);
    }

    /// Performs an effect. This is the one place where the session's decisions take effect.
    fn perform(&self, effect: Effect) {
        match effect {
            Effect::RefusePuts => self.send_queue.refuse_puts(),
            Effect::SendClose(close) => self.send_queue.send_close(close),
            Effect::ShutDown(handle) => {
                if let Some(handle) = &handle {
                    handle.shutdown();
                }
                drop_caught(handle);
            }
            Effect::Hold => self.apply_hold(),
            Effect::NotifyReady(callbacks) => {
                for f in callbacks {
                    self.producer.dispatcher().run(move || f.call(()));
                }
            }
            Effect::NotifyClosed(end, callbacks) => {
                self.notify_closed(&end, callbacks);
                drop_caught(end);
            }
            Effect::NotifyObservers => self.lifecycle.deliver_states(),
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

    fn notify_closed(&self, end: &Error, callbacks: EventCallbacks) {
        let EventCallbacks {
            on_ready,
            on_error,
            on_close,
        } = callbacks;
        let dispatcher = self.producer.dispatcher();
        // Callbacks that are not called are dropped on the dispatch thread as well, since their
        // destructors are the user's code.
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
    }

    /// Waits until `find` returns a value, or until `until`.
    ///
    /// This is the one place that enforces the session's deadline. A thread that gives the session
    /// a deadline waits here afterwards, or starts a watchdog that does. So `close`, the drop of
    /// the last handle, the reader and the writer at their ends, and the close watchdog wait here.
    /// There is no timer thread, because all connections of the process would have to share it.
    pub(crate) fn wait<R>(
        &self,
        until: Option<Instant>,
        mut find: impl FnMut(&Session) -> Option<R>,
    ) -> Option<R> {
        loop {
            match self.lifecycle.wait(until, &mut find) {
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

    /// Waits until the `Websocket` has ended, or until `until`. Returns the reason for the end.
    pub(crate) fn wait_closed(&self, until: Option<Instant>) -> Option<Error> {
        self.wait(until, |session| session.closed().cloned())
    }

    /// Shuts the connection down, without a closing handshake. Does not wait.
    pub(crate) fn abort(&self) {
        // First, so that no accepted message is missing from the count.
        self.send_queue.refuse_puts();
        self.step(Input::Aborted);
    }

    /// Ends a closing that should have been done by `deadline`, which has passed.
    pub(crate) fn end_closing(&self, frame: CloseFrame, deadline: Instant) {
        // The closing may have a later deadline.
        self.begin_close(frame, deadline);
        self.step(Input::DeadlinePassed);
    }

    /// Begins to close, unless that has begun. Returns the deadline of the closing.
    pub(crate) fn begin_close(&self, frame: CloseFrame, deadline: Instant) -> Instant {
        // First, so that no message is accepted after the Close frame, and none is missing from the
        // count.
        self.send_queue.refuse_puts();
        crate::logging::debug!("{}: closing with {frame}", self.name);
        self.step(Input::CloseRequested { frame, deadline });
        // From here on no other attempt begins, so no message can come back for it.
        if self.send_queue.consumer().is_empty() {
            self.step(Input::NothingQueued);
        }
        self.lifecycle
            .look(Session::deadline)
            .map_or(deadline, |earlier| earlier.min(deadline))
    }

    /// Starts the close watchdog, a thread that enforces the deadline of the closing. It is for
    /// callers that must not wait, since the closing waits for them. There is at most one.
    pub(crate) fn spawn_close_watchdog(self: &Arc<Self>) {
        if self.has_watchdog.swap(true, Ordering::SeqCst) {
            return;
        }
        let start = || {
            let shared = self.clone();
            spawn("ws-linger", move || drop(shared.wait_closed(None)))
        };
        // Without a watchdog, the writer enforces the deadline once it has ended. If the peer takes
        // nothing, so that the writer does not end, the ping timeout ends the connection.
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

    /// Reports that the peer takes nothing, not even a ping. The reader may not notice this: it may
    /// be waiting for room in the send queue, which stays full for that reason.
    pub(crate) fn peer_stalled(&self) {
        let after = self.options.ping_timeout.unwrap_or_default();
        self.step(Input::Failed(Error::PingTimeout { after }));
    }

    /// Reports that the callbacks have been without a thread for too long. A connection that is
    /// already ending is not affected: its callbacks are still called.
    fn no_thread_for_callbacks(&self, error: Arc<io::Error>) {
        if self.lifecycle.phase() < Phase::Closing {
            self.step(Input::Failed(Error::Thread(error)));
        }
    }

    /// Reports that nothing more can be written.
    pub(crate) fn write_failed(&self, error: tungstenite::Error) {
        let error = match error {
            tungstenite::Error::Io(error) => error,
            other => io::Error::other(other),
        };
        crate::logging::debug!("{}: cannot write: {error}", self.name);
        self.step(Input::WriteFailed(Error::lost(error)));
    }
}
