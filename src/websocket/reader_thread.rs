//! The reader thread: makes and reads one connection after the other, from the first attempt to the
//! end of the last connection.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use parking_lot::Mutex;

use super::frame_writer::{FrameWriter, Unsent};
use super::opened::Opened;
use super::read_loop::{self, ReadSide};
use super::session::{Input, Session};
use super::shared::{Shared, ThreadEnds, mark_reader_thread};
use super::slot::Slot;
use super::writer_thread;
use crate::backoff::chance;
use crate::error::Error;
use crate::hooks::Hooks;
use crate::message::Message;
use crate::panics::{catch_panic, drop_caught};
use crate::pubsub::Publisher;
use crate::thread::spawn_with;

/// Makes a connection.
type Open = dyn FnMut(&Shared) -> Result<Opened, Error> + Send;

/// Starts the thread. It calls `open` to make a connection, and again for each further one if the
/// client reconnects.
pub(crate) fn start(
    shared: Arc<Shared>,
    ends: ThreadEnds,
    slot: Option<Arc<dyn Slot>>,
    open: impl FnMut(&Shared) -> Result<Opened, Error> + Send + 'static,
) {
    let thread = ReaderThread {
        shared: shared.clone(),
        publisher: Some(ends.publisher),
        hooks: ends.hooks,
        writer: None,
        lost: 0,
        slot,
    };
    let open: Box<Open> = Box::new(open);
    // Not moved into the thread's function, so that it still exists if no thread can be started.
    // This also keeps only a pointer on the thread's stack for its whole life.
    let start = Arc::new(Mutex::new(Some((thread, open))));
    let taken = start.clone();
    let stack_size = shared.options.thread_stack_size;
    let end = shared.reader_end.clone();
    let spawned = spawn_with("ws-read", stack_size, move || {
        let start = taken.lock().take();
        drop(taken);
        if let Some((thread, open)) = start {
            thread.run(open);
        }
        end.ended();
    });
    match spawned {
        Ok(handle) => shared.reader_end.started(handle),
        Err(error) => {
            crate::logging::error!("{}: cannot start a thread: {error}", shared.name);
            shared.step(Input::Failed(Error::Thread(Arc::new(error))));
            // The drop ends the `Websocket`, and must not happen under the lock.
            let start = start.lock().take();
            drop(start);
            shared.reader_end.ended();
        }
    }
}

/// The values that the reader thread owns. Their drop ends the `Websocket`, for whatever reason the
/// thread ends.
struct ReaderThread {
    shared: Arc<Shared>,
    publisher: Option<Publisher<Message>>,
    hooks: Hooks,
    writer: Option<JoinHandle<Unsent>>,
    /// The number of messages that were neither sent nor kept.
    lost: usize,
    /// Returned to the server at the end.
    slot: Option<Arc<dyn Slot>>,
}

impl ReaderThread {
    /// The thread's main loop.
    fn run(mut self, mut open: Box<Open>) {
        if let Err(text) = catch_panic(|| self.connection_loop(&mut open)) {
            let text = format!("the reader thread panicked: {text}");
            self.shared.step(Input::Failed(Error::Internal(text)));
        }
        // Its destructor may be the user's code.
        drop_caught(open);
    }

    /// Makes connections until none follows.
    fn connection_loop(&mut self, open: &mut Open) {
        let shared = self.shared.clone();
        let _ = shared.reader_thread.set(thread::current().id());
        mark_reader_thread();
        loop {
            match open(&shared) {
                Ok(opened) => self.use_connection(opened),
                Err(error) => shared.step(Input::Failed(error)),
            }
            self.end_connection();
            if !self.wait_to_reconnect() {
                return;
            }
        }
    }

    /// Starts the writer thread for a connection, and reads until the connection is shut down.
    fn use_connection(&mut self, opened: Opened) {
        let shared = &self.shared;
        let Opened {
            mut halves,
            info,
            rest,
            role,
            agreed,
        } = opened;
        let options = &shared.options;
        *shared.info.lock() = Some(info);
        if let (Some(interval), Some(timeout)) = (options.ping_interval, options.ping_timeout) {
            let time = interval.saturating_add(timeout);
            if let Err(error) = halves.write.set_timeout(Some(time)) {
                return shared.step(Input::Failed(Error::lost(error)));
            }
        }
        let greeting = match self.hooks.greeting() {
            Ok(greeting) => greeting,
            Err(error) => return shared.step(Input::Failed(error)),
        };
        shared.step(Input::Opened);
        if !shared.lifecycle.look(Session::has_opened) {
            // The connection was shut down meanwhile.
            return;
        }
        crate::logging::debug!("{}: ready", shared.name);
        let mut writer = FrameWriter::new(role, halves.write, options);
        writer.compress_with(agreed.and_then(|agreed| agreed.deflater(role)));
        writer.greet(greeting);
        match writer_thread::start(shared, writer) {
            Ok(thread) => self.writer = Some(thread),
            Err(error) => return shared.step(Input::Failed(Error::Thread(Arc::new(error)))),
        }
        let read_side = ReadSide {
            half: halves.read,
            rest,
            role,
            inflate: agreed.map(|agreed| agreed.reader(role)),
        };
        if let Some(publisher) = &mut self.publisher {
            read_loop::read(shared, read_side, publisher);
        }
    }

    /// Ends the writer thread, takes back the messages that it has not sent, and drops the last
    /// handle to the transport.
    fn end_connection(&mut self) {
        let shared = &self.shared;
        shared.step(Input::ReadStopped);
        shared.send_queue.stop();
        // The join ends soon: the transport is shut down, so the writer waits for nothing.
        if let Some(left) = self.writer.take().map(JoinHandle::join) {
            match left {
                Ok(unsent) => self.take_back(unsent),
                // The frame writer was dropped during the panic, with its messages.
                Err(panic) => {
                    drop_caught(panic);
                    let text = "the writer thread panicked".to_owned();
                    shared.step(Input::Failed(Error::Internal(text)));
                }
            }
        }
        drop_caught(self.shared.lifecycle.take_shutdown_handle());
    }

    fn take_back(&mut self, unsent: Unsent) {
        let all_confirmed = self.shared.lifecycle.look(Session::confirms_all);
        self.lost += self.shared.send_queue.take_back(unsent, all_confirmed);
    }

    /// Returns the number of messages that were accepted and have not been sent.
    fn unsent(&self) -> usize {
        self.shared.send_queue.consumer().len() + self.lost
    }

    /// Waits until another connection is due. Returns `false` if none follows.
    fn wait_to_reconnect(&mut self) -> bool {
        let shared = &self.shared;
        // Before the loss is reported: what a program sends after that is for the next connection.
        shared.send_queue.forget_connection();
        loop {
            let undecided = shared.lifecycle.look(Session::undecided);
            let retry = undecided.is_some_and(|reason| {
                let retry = self.hooks.wants_to_reconnect(&reason);
                drop_caught(reason);
                retry
            });
            shared.step(Input::ThreadsEnded {
                unsent: self.unsent(),
                chance: chance(),
                retry,
            });
            let waiting = shared.lifecycle.look(|session| {
                let (until, reason) = session.waiting()?;
                Some((until, reason.clone()))
            });
            let Some((until, reason)) = waiting else {
                return shared.lifecycle.look(Session::is_connecting);
            };
            let wait = until.saturating_duration_since(Instant::now());
            crate::logging::info!("{}: {reason}; trying again in {wait:.1?}", shared.name);
            drop_caught(reason);
            if let Some(publisher) = &mut self.publisher {
                // `close` ends this early, and so does a long outage of callback threads.
                publisher.drain_backlog_until(until);
            }
            shared.wait(None, |session| session.waiting().is_none().then_some(()));
        }
    }
}

impl Drop for ReaderThread {
    fn drop(&mut self) {
        let shared = self.shared.clone();
        self.end();
        if let Some(slot) = self.slot.take() {
            slot.connection_ended();
        }
        // Last: if the system starts no thread, callbacks are called here, and these may do
        // anything.
        shared.producer.finish();
    }
}

impl ReaderThread {
    /// Ends the `Websocket`.
    fn end(&mut self) {
        let shared = self.shared.clone();
        // First, so that no accepted message is missing from the count.
        shared.send_queue.refuse_puts();
        self.end_connection();
        let unsent = self.unsent();
        let backlog = self.publisher.as_ref().is_some_and(Publisher::has_backlog);
        shared.step(Input::Finished { unsent, backlog });
        shared.send_queue.end(unsent);
        if let Some(end) = shared.lifecycle.end() {
            match &end {
                Error::Closed(close) => crate::logging::debug!("{}: closed {close}", shared.name),
                error => crate::logging::debug!("{}: {error}", shared.name),
            }
            if let Some(mut publisher) = self.publisher.take() {
                if backlog {
                    publisher.drain_backlog();
                }
                publisher.end_before_callbacks(end);
            }
        }
        shared.step(Input::Drained);
    }
}
