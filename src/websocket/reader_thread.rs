//! The reader thread: one connection after the other, from the first attempt to the end of the last.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tungstenite::protocol::Role as WireRole;

use super::backoff::{Schedule, chance};
use super::frame_writer::{FrameWriter, Unsent};
use super::lifecycle::EventCallbacks;
use super::options::deadline_after;
use super::read_loop::{self, ReadSide};
use super::registry::Permit;
use super::shared::{ConnectionInfo, Shared, ThreadEnds};
use super::writer_thread;
use crate::error::Error;
use crate::message::Message;
use crate::net::closing::Event;
use crate::net::transport::Halves;
use crate::panics::{catch_panic, drop_caught};
use crate::pubsub::{Hold, Inbox, Publisher};
use crate::thread::spawn;

/// A connection after its handshake.
pub(crate) struct Opened {
    pub(crate) halves: Halves,
    pub(crate) info: ConnectionInfo,
    /// What came right behind the handshake.
    pub(crate) rest: Vec<u8>,
    pub(crate) role: WireRole,
}

/// Makes a connection.
type Open = dyn FnMut(&Shared) -> Result<Opened, Error> + Send;

/// Starts the thread. `open` is run on it and makes a connection; again for each, where it reconnects.
pub(crate) fn start(
    shared: Arc<Shared>,
    ends: ThreadEnds,
    permit: Option<Arc<Permit>>,
    open: impl FnMut(&Shared) -> Result<Opened, Error> + Send + 'static,
) {
    let thread = ReaderThread {
        shared: shared.clone(),
        publisher: Some(ends.publisher),
        inbox: Some(ends.inbox),
        writer: None,
        lost: 0,
        permit,
    };
    let open: Box<Open> = Box::new(open);
    // Out here, so that it is still there when no thread takes it; and all that is on that thread's
    // stack from beginning to end is a pointer.
    let start = Arc::new(Mutex::new(Some((thread, open))));
    let taken = start.clone();
    let spawned = spawn("ws-read", move || {
        let start = taken.lock().take();
        drop(taken);
        if let Some((thread, open)) = start {
            thread.run(open);
        }
    });
    if let Err(error) = spawned {
        crate::logging::error!("{}: cannot start a thread: {error}", shared.name);
        shared.lifecycle.fail(Error::Thread(Arc::new(error)));
        // It is closed with its thread; not under the lock.
        let start = start.lock().take();
        drop(start);
    }
}

/// What the reader thread owns for as long as it lives. Its end is the `Websocket`'s end, however it comes.
struct ReaderThread {
    shared: Arc<Shared>,
    publisher: Option<Publisher<Message>>,
    /// `None` while a connection has it.
    inbox: Option<Inbox<Message>>,
    writer: Option<JoinHandle<Unsent>>,
    /// How many messages were neither sent nor kept.
    lost: usize,
    /// Given back to the server when all is over.
    permit: Option<Arc<Permit>>,
}

impl ReaderThread {
    /// The thread's main loop.
    fn run(mut self, mut open: Box<Open>) {
        if let Err(text) = catch_panic(|| self.connection_loop(&mut open)) {
            let text = format!("the reader thread panicked: {text}");
            self.shared.lifecycle.fail(Error::Internal(text));
        }
        // The user's code may be in it.
        drop_caught(open);
    }

    fn connection_loop(&mut self, open: &mut Open) {
        let shared = self.shared.clone();
        let _ = shared.reader_thread.set(thread::current().id());
        let mut schedule = shared.options.reconnect.map(Schedule::new);
        loop {
            match open(&shared) {
                Ok(opened) => {
                    let lasted = self.use_connection(opened).unwrap_or_default();
                    if let Some(schedule) = &mut schedule {
                        schedule.lasted(lasted);
                    }
                }
                Err(error) => shared.lifecycle.fail_to_open(error),
            }
            self.end_connection();
            let Some(schedule) = &mut schedule else {
                return;
            };
            if !self.reconnect(schedule) {
                return;
            }
        }
    }

    /// Returns for how long it could be used; `None` when it could not be.
    fn use_connection(&mut self, opened: Opened) -> Option<Duration> {
        let shared = &self.shared;
        let Opened {
            mut halves,
            info,
            rest,
            role,
        } = opened;
        let options = &shared.options;
        *shared.info.lock() = Some(info);
        if let (Some(interval), Some(timeout)) = (options.ping_interval, options.ping_timeout) {
            let time = interval.saturating_add(timeout);
            if let Err(error) = halves.write.set_timeout(Some(time)) {
                shared.lifecycle.fail(Error::lost(error));
                return None;
            }
        }
        // Before anybody can know that it is ready.
        let connections = &shared.received.connections;
        connections.store(connections.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        let Some(on_ready) = shared.lifecycle.set_ready() else {
            let others = connections.load(Ordering::Relaxed) - 1;
            connections.store(others, Ordering::Relaxed);
            return None;
        };
        let ready = Instant::now();
        let inbox = self.inbox.take()?;
        crate::logging::debug!("{}: ready", shared.name);
        for f in on_ready {
            shared.producer.dispatcher().run(move || f.call(()));
        }
        let keep = options.reconnect.is_some();
        let writer = FrameWriter::new(role, halves.write, inbox, options.json, keep);
        shared.send_queue.park(writer);
        match writer_thread::start(shared) {
            Ok(writer) => self.writer = Some(writer),
            Err(error) => {
                shared.lifecycle.fail(Error::Thread(Arc::new(error)));
                let writer = shared.send_queue.take_writer();
                self.take_back(writer.end(&self.shared.send_queue));
                return None;
            }
        }
        let read_side = ReadSide {
            half: halves.read,
            rest,
            role,
        };
        let ended = read_loop::read(shared, read_side, self.publisher.as_mut()?);
        Some(ended.saturating_duration_since(ready))
    }

    /// Ends the writer, and takes back what it has not sent.
    fn end_connection(&mut self) {
        let shared = &self.shared;
        shared.on(Event::Timeout);
        shared.send_queue.stop();
        shared.shutdown();
        shared.lifecycle.reader_done();
        // Nothing keeps it now: the connection has been cut.
        if let Some(left) = self.writer.take().map(JoinHandle::join) {
            match left {
                Ok(unsent) => self.take_back(unsent),
                // Its messages are lost with it.
                Err(panic) => {
                    drop_caught(panic);
                    let text = "the writer thread panicked".to_owned();
                    shared.lifecycle.fail(Error::Internal(text));
                }
            }
        }
    }

    fn take_back(&mut self, unsent: Unsent) {
        let all_confirmed = self.shared.lifecycle.confirms_all();
        let (inbox, lost) = self.shared.send_queue.take_back(unsent, all_confirmed);
        self.inbox = Some(inbox);
        self.lost += lost;
    }

    /// How many messages were accepted and have not been sent.
    fn unsent(&self) -> usize {
        self.shared.send_queue.consumer().len() + self.lost
    }

    /// Waits until it is time for another connection; `false` when there is to be none.
    fn reconnect(&mut self, schedule: &mut Schedule) -> bool {
        let shared = &self.shared;
        // Before it may be used for another: what a program has to say from then on is for that one.
        shared.send_queue.forget_connection();
        let is_followed = |reason: &Error| shared.is_followed(reason);
        let Some((reason, told)) = shared.lifecycle.reconnect(self.unsent(), is_followed) else {
            return false;
        };
        // The writer, which sets it aside, has ended.
        shared.producer.set_hold(Hold::Forever);
        let wait = schedule.wait(chance());
        crate::logging::info!("{}: {reason}; trying again in {wait:.1?}", shared.name);
        for f in told {
            let reason = reason.clone();
            shared.producer.dispatcher().run(move || f.call(reason));
        }
        let until = deadline_after(wait);
        if let Some(publisher) = &mut self.publisher {
            // Meanwhile; `close` cuts it short.
            publisher.drain_backlog_until(until);
        }
        if shared.lifecycle.wait_to_try_again(until) {
            return true;
        }
        // This program closes. Where nothing was to be sent, that is no failure.
        shared.send_queue.consumer().close();
        match self.unsent() {
            0 => shared.shutdown(),
            // That is no failure by itself: what was not sent is told.
            _ if reason.is_orderly() => {}
            _ => shared.lifecycle.fail_to_open(reason),
        }
        false
    }
}

impl Drop for ReaderThread {
    fn drop(&mut self) {
        let shared = self.shared.clone();
        self.end();
        if let Some(permit) = self.permit.take() {
            permit.is_over();
        }
        // Last: where there is no thread for them, callbacks are called here, and these may do
        // anything.
        shared.producer.finish();
    }
}

impl ReaderThread {
    /// Who has yet to take what an earlier connection brought has as long for it as closing may take.
    fn drain_backlog(&mut self) {
        let Some(publisher) = &mut self.publisher else {
            return;
        };
        if publisher.has_backlog() {
            let producer = &self.shared.producer;
            let until = deadline_after(self.shared.options.close_timeout);
            producer.set_hold(Hold::Until(until));
            publisher.drain_backlog();
        }
    }

    /// Ends everything.
    fn end(&mut self) {
        let shared = self.shared.clone();
        // From here on nothing is accepted, and so nothing that is accepted is missing from the count.
        shared.send_queue.consumer().close();
        self.end_connection();
        let unsent = self.unsent();
        let end = shared.lifecycle.set_closed(unsent);
        shared.send_queue.end(unsent);
        self.drain_backlog();
        let inbox = self.inbox.take();
        drop_caught(inbox);
        match &end {
            Error::Closed(close) => crate::logging::debug!("{}: closed {close}", shared.name),
            error => crate::logging::debug!("{}: {error}", shared.name),
        }
        if let Some(publisher) = self.publisher.take() {
            publisher.end_before_callbacks(end.clone());
        }
        let EventCallbacks {
            on_ready,
            on_disconnect,
            on_error,
            on_close,
        } = shared.lifecycle.notify_closed();
        let dispatcher = shared.producer.dispatcher();
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
}
