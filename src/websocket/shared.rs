//! What the handles and the two threads of a connection have in common.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, ThreadId};
use std::time::Instant;

use super::lifecycle::{Lifecycle, Phase};
use super::options::{Options, deadline_after};
use super::outbox::Outbox;
use crate::error::{CloseFrame, Error};
use crate::message::Message;
use crate::net::closing::{Event, Role};
use crate::pubsub::{Inbox, Producer, Publisher};

pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) producer: Producer<Message>,
    pub(crate) outbox: Outbox,
    pub(crate) lifecycle: Lifecycle,
    /// The URL, or the peer's address; for the log and for errors.
    pub(crate) name: String,
    pub(crate) facts: OnceLock<Facts>,
    pub(crate) reader_thread: OnceLock<ThreadId>,
    pub(crate) writer_thread: OnceLock<ThreadId>,
    /// Whether a thread sees to the closing's deadline.
    lingers: AtomicBool,
}

/// What the handshake told.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) peer_addr: Option<std::net::SocketAddr>,
    pub(crate) local_addr: Option<std::net::SocketAddr>,
    pub(crate) request: http::Request<()>,
    pub(crate) response: http::Response<()>,
}

/// The ends that the threads own.
pub(crate) struct Ends {
    pub(crate) publisher: Publisher<Message>,
    pub(crate) inbox: Inbox<Message>,
}

/// What a message counts for where memory is limited: its payload, and what it takes itself.
pub(crate) fn weight(message: &Message) -> usize {
    message.len() + 64
}

impl Shared {
    pub(crate) fn new(name: String, role: Role, options: Options) -> (Arc<Self>, Ends) {
        let (publisher, producer) = Producer::with_weight(options.receive_queue, weight);
        let (outbox, inbox) = Outbox::new(options.send_queue);
        if options.paused {
            producer.pause();
        }
        let shared = Arc::new(Shared {
            options,
            producer,
            outbox,
            lifecycle: Lifecycle::new(role),
            name,
            facts: OnceLock::new(),
            reader_thread: OnceLock::new(),
            writer_thread: OnceLock::new(),
            lingers: AtomicBool::new(false),
        });
        (shared, Ends { publisher, inbox })
    }

    /// Whether the caller is one of the two threads that a wait would wait for.
    pub(crate) fn is_own_thread(&self) -> bool {
        let current = thread::current().id();
        [&self.reader_thread, &self.writer_thread]
            .iter()
            .any(|own| own.get() == Some(&current))
    }

    /// Tells the closing handshake, and does what it asks for.
    pub(crate) fn on(&self, event: Event) {
        let (todo, cut) = self.lifecycle.handle(event);
        if let Some(send) = todo.send {
            self.outbox.close(send);
        }
        if let Some(cut) = cut {
            cut.cut();
        }
    }

    /// Begins to close, unless that has begun; it has to be over by `deadline`.
    pub(crate) fn begin_close(&self, frame: CloseFrame, deadline: Instant) -> Instant {
        let deadline = self.lifecycle.set_deadline(deadline);
        log::debug!("{}: closing with {frame}", self.name);
        // The program has had enough: nothing more waits for its full queues.
        self.producer.hurry(Instant::now());
        self.on(Event::Local(frame));
        // Nobody would miss a connection that has nothing to send.
        if self.outbox.consumer().is_empty() {
            if let Some(cut) = self.lifecycle.abandon() {
                cut.cut();
            }
        }
        deadline
    }

    /// Sees to it that closing is over by its deadline, on a thread of its own: for those who must
    /// not wait, since they are what it waits for. One such thread is enough.
    pub(crate) fn see_that_it_closes(self: &Arc<Self>) {
        if self.lingers.swap(true, Ordering::SeqCst) {
            return;
        }
        let shared = self.clone();
        let spawned = thread::Builder::new()
            .name("ws-linger".into())
            .spawn(move || {
                if !shared.lifecycle.wait_announced() {
                    shared.time_out();
                }
            });
        if spawned.is_err() {
            self.time_out();
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
        self.cut();
    }

    /// The peer takes nothing, not even a ping. The reader may not notice: it may itself be waiting for
    /// room in the queue that this keeps full.
    pub(crate) fn give_up_the_peer(&self) {
        if self.lifecycle.phase() == Phase::Closing {
            return self.time_out();
        }
        let after = self.options.ping_timeout.unwrap_or_default();
        self.lifecycle.fail(Error::PingTimeout { after });
        self.producer.hurry(Instant::now());
        self.on(Event::Timeout);
        self.cut();
    }

    /// Ends whatever the reader and the writer wait for.
    pub(crate) fn cut(&self) {
        if let Some(cut) = self.lifecycle.cut() {
            cut.cut();
        }
    }

    /// Nothing can be written any more. What the peer has sent is still read, for a while.
    pub(crate) fn write_failed(&self, error: tungstenite::Error) {
        let error = match error {
            tungstenite::Error::Io(error) => error,
            other => io::Error::other(other),
        };
        log::debug!("{}: cannot write: {error}", self.name);
        self.lifecycle.lose(error);
        let deadline = deadline_after(self.options.close_timeout);
        let deadline = self.lifecycle.set_deadline(deadline);
        self.producer.hurry(deadline);
        self.outbox.consumer().close();
        self.on(Event::WriteFailed);
    }
}
