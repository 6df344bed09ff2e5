//! What the handles and the two threads of a connection have in common.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::lifecycle::{Lifecycle, Phase};
use super::options::{Options, deadline_after};
use super::send_queue::SendQueue;
use crate::error::{Close, CloseFrame, Error, Side};
use crate::message::Message;
use crate::net::closing::{Event, Role};
use crate::process::OwnerProcess;
use crate::pubsub::{Hold, Inbox, Producer, Publisher, Weighing};
use crate::thread::spawn;

/// For how long a thread that sees to the end is tried to be started where nothing else does, and
/// how often.
const LINGER_PATIENCE: Duration = Duration::from_secs(1);
const LINGER_TRY_AGAIN: Duration = Duration::from_millis(5);

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
    /// Whether a thread sees to the closing's deadline.
    lingers: AtomicBool,
}

/// What the handshake told.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionInfo {
    pub(crate) peer_addr: Option<std::net::SocketAddr>,
    pub(crate) local_addr: Option<std::net::SocketAddr>,
    pub(crate) request: Arc<http::Request<()>>,
    pub(crate) response: Arc<http::Response<()>>,
}

/// How much was received, on all connections, and how many there were. Written by the reader alone.
#[derive(Default)]
pub(crate) struct Received {
    pub(crate) messages: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) connections: AtomicU64,
}

/// The ends that the threads own.
pub(crate) struct ThreadEnds {
    pub(crate) publisher: Publisher<Message>,
    pub(crate) inbox: Inbox<Message>,
}

/// What a message counts for beside its payload, in bytes.
pub(crate) const MESSAGE_OVERHEAD: usize = 64;

/// What a message counts for where memory is limited: its payload, and what it takes itself. Takes
/// no time where the message has its text, as those that arrived do, and those that wait to be
/// sent.
pub(crate) fn weight(message: &Message) -> usize {
    message.len() + MESSAGE_OVERHEAD
}

impl Shared {
    pub(crate) fn new(name: String, role: Role, options: Options) -> (Arc<Self>, ThreadEnds) {
        let weighing = Weighing {
            weigh: weight,
            limit: options.receive_queue_bytes,
        };
        let (publisher, producer) = Producer::with_weight(options.receive_queue, weighing);
        let (send_queue, inbox) = SendQueue::new(options.send_queue);
        if options.paused {
            producer.pause();
        }
        let shared = Arc::new(Shared {
            process: OwnerProcess::current(),
            lifecycle: Lifecycle::new(role, options.reconnect.is_some()),
            options,
            producer,
            send_queue,
            name,
            received: Received::default(),
            info: Mutex::default(),
            reader_thread: OnceLock::new(),
            writer_thread: Mutex::default(),
            lingers: AtomicBool::new(false),
        });
        let weak = Arc::downgrade(&shared);
        shared.producer.threads().tell(move |error| {
            if let Some(shared) = weak.upgrade() {
                shared.no_thread_for_callbacks(error);
            }
        });
        (shared, ThreadEnds { publisher, inbox })
    }

    /// Whether the caller is one of the two threads that a wait would wait for.
    pub(crate) fn is_own_thread(&self) -> bool {
        self.is_reader_thread() || *self.writer_thread.lock() == Some(thread::current().id())
    }

    /// Whether the caller is the thread that messages come from.
    pub(crate) fn is_reader_thread(&self) -> bool {
        self.reader_thread.get() == Some(&thread::current().id())
    }

    /// Whether a connection that ends for this reason is followed by another, unless this program closes.
    pub(crate) fn is_followed(&self, reason: &Error) -> bool {
        self.options.reconnect.is_some() && reason.is_transient()
    }

    /// Tells the closing handshake, and does what it asks for.
    pub(crate) fn on(&self, event: Event) {
        let peers = match &event {
            Event::Peer(frame) => Some(Error::Closed(Close {
                by: Side::Peer,
                frame: frame.clone(),
                unsent: 0,
            })),
            _ => None,
        };
        if peers.is_some() && self.send_queue.has_begun_to_close() {
            self.lifecycle.is_answered();
        }
        let (mut todo, shutdown) = self.lifecycle.handle(event);
        if let Some(mut send) = todo.send.take() {
            if peers.is_some_and(|reason| self.is_followed(&reason)) {
                // A peer that has closed need not look at what comes: the next connection gets it.
                send.after_the_queue = false;
                self.send_queue.close_connection(send);
            } else {
                self.send_queue.close(send);
            }
        }
        if let Some(handle) = shutdown {
            handle.shutdown();
        }
    }

    /// Begins to close, unless that has begun; it has to be over by `deadline`.
    pub(crate) fn begin_close(&self, frame: CloseFrame, deadline: Instant) -> Instant {
        crate::logging::debug!("{}: closing with {frame}", self.name);
        let (todo, shutdown, deadline) = self.lifecycle.begin_close(frame, deadline);
        // The program has had enough: nothing more waits for its full queues.
        self.producer.set_hold(Hold::Never);
        match todo.send {
            Some(send) => self.send_queue.close(send),
            None => self.send_queue.consumer().close(),
        }
        if let Some(handle) = shutdown {
            handle.shutdown();
        }
        // Nobody would miss a connection that has nothing to send.
        if self.send_queue.consumer().is_empty() {
            if let Some(handle) = self.lifecycle.abandon() {
                handle.shutdown();
            }
        }
        deadline
    }

    /// Sees to it that closing is over by its deadline, on a thread of its own: for those who must
    /// not wait, since they are what it waits for. One such thread is enough.
    pub(crate) fn spawn_close_watchdog(self: &Arc<Self>) {
        if self.lingers.swap(true, Ordering::SeqCst) {
            return;
        }
        let start = || {
            let shared = self.clone();
            spawn("ws-linger", move || {
                if !shared.lifecycle.wait_waiters_released() {
                    shared.time_out();
                }
            })
        };
        // Without one, the writer sees to it, unless the peer keeps it from that; then the pings'
        // time-out does.
        let pings = self.options.ping_interval.and(self.options.ping_timeout);
        let until = Instant::now() + LINGER_PATIENCE;
        while let Err(error) = start() {
            let next = Instant::now() + LINGER_TRY_AGAIN;
            if pings.is_some() || next >= until {
                crate::logging::error!("{}: cannot start a thread to close: {error}", self.name);
                self.lingers.store(false, Ordering::SeqCst);
                if pings.is_none() {
                    self.time_out();
                }
                return;
            }
            if self.lifecycle.wait_closed(Some(next)).is_some() {
                return;
            }
        }
    }

    /// Waits for the end; cuts the connection if it has not come by `deadline`.
    pub(crate) fn wait_until_closed(&self, deadline: Instant) {
        if self.lifecycle.wait_closed(Some(deadline)).is_none() {
            self.time_out();
        }
    }

    /// Closing took too long.
    pub(crate) fn time_out(&self) {
        self.lifecycle.time_out();
        self.on(Event::Timeout);
        // Not before: a Close frame that comes after something was dropped does not make an end in order.
        if self.options.reconnect.is_none() {
            self.producer.set_hold(Hold::Never);
        }
        self.shutdown();
        self.spill_deliveries();
    }

    /// Where another connection may follow, nothing is dropped for want of room until this program closes. But
    /// the reader must not wait for it between the two: who has to make room may itself be waiting for the
    /// send queue, which only the next connection makes shorter.
    fn spill_deliveries(&self) {
        if self.options.reconnect.is_some() {
            self.producer.set_hold(Hold::Spill);
        }
    }

    /// The peer takes nothing, not even a ping. The reader may not notice: it may itself be waiting for
    /// room in the queue that this keeps full.
    pub(crate) fn peer_stalled(&self) {
        if self.lifecycle.phase() == Phase::Closing {
            return self.time_out();
        }
        let after = self.options.ping_timeout.unwrap_or_default();
        self.give_up(Error::PingTimeout { after });
    }

    /// The callbacks have been without a thread for too long. A connection that ends anyway does so
    /// as it would: then they are called all the same.
    fn no_thread_for_callbacks(&self, error: Arc<io::Error>) {
        if self.lifecycle.phase() < Phase::Closing {
            self.give_up(Error::Thread(error));
        }
    }

    /// The connection has failed, whatever its threads are doing.
    fn give_up(&self, error: Error) {
        if !self.is_followed(&error) {
            self.producer.set_hold(Hold::Never);
        }
        self.lifecycle.fail(error);
        self.on(Event::Timeout);
        self.shutdown();
        self.spill_deliveries();
    }

    /// Ends whatever the reader and the writer wait for.
    pub(crate) fn shutdown(&self) {
        if let Some(handle) = self.lifecycle.shut_down() {
            handle.shutdown();
        }
    }

    /// Nothing can be written any more. What the peer has sent is still read, for a while.
    pub(crate) fn write_failed(&self, error: tungstenite::Error) {
        let error = match error {
            tungstenite::Error::Io(error) => error,
            other => io::Error::other(other),
        };
        crate::logging::debug!("{}: cannot write: {error}", self.name);
        let error = Error::lost(error);
        if matches!(error, Error::Internal(_)) {
            // Of a transport that panicked nothing more is read.
            self.lifecycle.fail(error);
            return self.time_out();
        }
        let followed = self.is_followed(&error);
        self.lifecycle.lose(error);
        // Who is to have what the peer has sent has until then to take it.
        let deadline = deadline_after(self.options.close_timeout);
        self.lifecycle.set_deadline(deadline);
        // Where another connection follows, it takes what is put now.
        if !followed {
            self.send_queue.consumer().close();
        }
        self.on(Event::WriteFailed);
    }
}
