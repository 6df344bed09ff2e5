//! What is to be sent, and the frame writer to write it with.
//!
//! The sending half of a connection, its codec and the queue's inbox are one value, the [`FrameWriter`]: there
//! is one for each connection, and the inbox goes from one to the next.
//! Whoever holds it writes; nobody holds a lock meanwhile. The writer thread holds it while it is at
//! work, and lays it down here when it goes to sleep. Then a thread that has put one message may
//! pick it up, write what fits without waiting, and lay it down again: that saves the message two
//! switches of threads. Anything that does not go at once is left to the writer.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::Sender;
use parking_lot::Mutex;

use super::control::{Latency, Pings};
use super::frame_writer::{FrameWriter, Progress, Unsent, Wait};
use super::shared::weight;
use crate::error::PutError;
use crate::message::Message;
use crate::net::closing;
use crate::pubsub::{Consumer, Inbox, Pushed};

/// How many pongs wait to be sent at the most. A peer that sends pings faster than it takes the
/// answers gets those to the latest, as RFC 6455, section 5.5.3 allows.
const MAX_PONGS: usize = 16;

/// Up to this size a message is worth writing on the thread that puts it.
const SMALL: usize = 16 << 10;

pub(crate) struct SendQueue {
    consumer: Consumer<Message>,
    /// Held to add or to take; nothing is called under it.
    control: Mutex<Control>,
    /// Whether `control` may hold something to be written; saves the lock.
    pending: AtomicBool,
    /// Held to park or to take the frame writer; nothing is called under it.
    parked: Mutex<Parked>,
    sent: Sent,
}

/// What one connection has to say beside messages.
#[derive(Default)]
struct Control {
    pongs: VecDeque<Bytes>,
    pings: Pings,
    close: Option<closing::Send>,
    /// The Close frame is about to be written, and all before it has been.
    begun_to_close: bool,
    stop: bool,
}

/// Taken out of [`Control`], to be written.
pub(super) struct Work {
    pub(super) pongs: VecDeque<Bytes>,
    pub(super) pings: Vec<Bytes>,
    pub(super) close: Option<closing::Send>,
    pub(super) stop: bool,
}

/// How much was sent, on all connections. Written by who has the frame writer, or by the reader between two.
#[derive(Default)]
pub(crate) struct Sent {
    pub(crate) messages: AtomicU64,
    pub(crate) bytes: AtomicU64,
    /// Encoded on the present connection, and not written.
    pub(crate) encoded: AtomicU64,
    pub(crate) unconfirmed: AtomicU64,
    pub(crate) unsent: AtomicU64,
}

#[derive(Default)]
struct Parked {
    writer: Option<Box<FrameWriter>>,
    /// The writer thread came for the frame writer while somebody else had it.
    wanted: bool,
}

impl SendQueue {
    pub(crate) fn new(limit: usize) -> (Self, Inbox<Message>) {
        let (consumer, inbox) = Consumer::with_weight(limit, weight);
        let send_queue = SendQueue {
            consumer,
            control: Mutex::default(),
            pending: AtomicBool::new(false),
            parked: Mutex::default(),
            sent: Sent::default(),
        };
        (send_queue, inbox)
    }

    pub(crate) fn consumer(&self) -> &Consumer<Message> {
        &self.consumer
    }

    pub(crate) fn put_nowait(&self, message: Message) -> Result<(), PutError<Message>> {
        let small = message.len() <= SMALL;
        let pushed = as_text(message, |message| self.consumer.push(message))?;
        if pushed == Pushed::Unnoticed {
            self.wake_writer(small);
        }
        Ok(())
    }

    pub(crate) fn put_deadline(
        &self,
        message: Message,
        deadline: Option<Instant>,
    ) -> Result<(), PutError<Message>> {
        let small = message.len() <= SMALL;
        as_text(message, |message| {
            self.consumer
                .put_deadline(message, deadline, |_| self.wake_writer(small))
        })
    }

    /// Answers a ping.
    pub(crate) fn pong(&self, payload: Bytes) {
        self.control(|control| {
            if control.pongs.len() == MAX_PONGS {
                control.pongs.pop_front();
            }
            control.pongs.push_back(payload);
        });
        self.wake_writer(true);
    }

    /// Sends the keepalive's own ping.
    pub(crate) fn ping(&self, payload: Bytes) {
        self.control(|control| control.pings.ask(payload));
        self.wake_writer(true);
    }

    /// Sends a program's ping, unless too many are without an answer; returns whether.
    pub(crate) fn ping_for(&self, payload: Bytes, asker: Sender<Duration>) -> bool {
        // The program's own, which is not dropped under the lock.
        let asked = self.control(|control| control.pings.ask_for(payload.clone(), asker));
        self.wake_writer(true);
        asked
    }

    /// A pong has come. Returns whether it answers the keepalive's own ping.
    pub(crate) fn answered(&self, payload: &[u8]) -> bool {
        let answered = self.control.lock().pings.answered(payload);
        let own = answered.own;
        answered.tell();
        own
    }

    /// For how long the keepalive's last ping has been written.
    pub(crate) fn ping_written(&self) -> Option<Duration> {
        self.control.lock().pings.since_written()
    }

    pub(crate) fn latency(&self) -> Option<Latency> {
        self.control.lock().pings.latency()
    }

    pub(crate) fn sent(&self) -> &Sent {
        &self.sent
    }

    /// Sends a Close frame, and takes nothing more.
    pub(crate) fn close(&self, send: closing::Send) {
        // In this order: what was accepted is in the queue by the time the writer sees the Close.
        self.consumer.close();
        self.close_connection(send);
    }

    /// Sends a Close frame. What is put from now on is for another connection.
    pub(crate) fn close_connection(&self, send: closing::Send) {
        self.control(|control| control.close = Some(send));
        self.consumer.wake();
    }

    /// Whether this side's Close frame may have reached the peer.
    pub(crate) fn has_begun_to_close(&self) -> bool {
        self.control.lock().begun_to_close
    }

    /// Lets the writer end without another word.
    pub(crate) fn stop(&self) {
        self.control(|control| control.stop = true);
        self.consumer.wake();
    }

    /// The connection's writer has ended and left this; `all_confirmed` if the peer is known to have
    /// taken all that was written. Returns the inbox, with what was kept put back, and how many
    /// messages were neither written nor kept.
    pub(crate) fn take_back(&self, unsent: Unsent, all_confirmed: bool) -> (Inbox<Message>, usize) {
        if !all_confirmed {
            let confirmed = self.control.lock().pings.confirmed();
            // A peer may have answered what was not written yet, if it guessed it.
            let unconfirmed = unsent.written().saturating_sub(confirmed);
            add(&self.sent.unconfirmed, unconfirmed);
        }
        let back = unsent.put_back();
        // Not before: they wait all the while.
        self.count_encoded(0);
        back
    }

    /// Forgets what was for the connection that has ended alone.
    pub(crate) fn forget_connection(&self) {
        // What is dropped wakes those who wait for the answer to a ping: not under the lock.
        let control = std::mem::take(&mut *self.control.lock());
        drop(control);
    }

    /// There is no other connection: so many messages are never sent.
    pub(crate) fn end(&self, unsent: usize) {
        self.forget_connection();
        self.count_encoded(0);
        add(&self.sent.unsent, unsent as u64);
    }

    fn control<R>(&self, change: impl FnOnce(&mut Control) -> R) -> R {
        let result = change(&mut self.control.lock());
        self.pending.store(true, Ordering::SeqCst);
        result
    }

    // For the frame writer.

    /// What there is to write beside messages, of which so many have been encoded.
    pub(super) fn take_control(&self, messages: u64) -> Option<Work> {
        if !self.pending.swap(false, Ordering::SeqCst) {
            return None;
        }
        let mut control = self.control.lock();
        Some(Work {
            pongs: std::mem::take(&mut control.pongs),
            pings: control.pings.start(messages),
            close: control.close.take(),
            stop: control.stop,
        })
    }

    pub(super) fn has_control(&self) -> bool {
        self.pending.load(Ordering::SeqCst)
    }

    pub(super) fn begins_to_close(&self) {
        self.control.lock().begun_to_close = true;
    }

    pub(super) fn pings_are_written(&self) {
        self.control.lock().pings.written();
    }

    /// How many messages are encoded and not written.
    pub(super) fn count_encoded(&self, messages: usize) {
        self.sent.encoded.store(messages as u64, Ordering::Relaxed);
    }

    pub(super) fn count_written(&self, messages: u64, bytes: u64) {
        if bytes > 0 {
            add(&self.sent.messages, messages);
            add(&self.sent.bytes, bytes);
        }
    }

    // For who has the frame writer.

    /// Makes sure that somebody writes: this thread, if the frame writer is there and `here` is set, or the writer.
    fn wake_writer(&self, here: bool) {
        let writer = if here {
            self.parked.lock().writer.take()
        } else {
            None
        };
        let Some(writer) = writer else {
            return self.consumer.wake();
        };
        let mut borrowed = BorrowedWriter {
            send_queue: self,
            writer: Some(writer),
        };
        let done = borrowed.writer.as_mut().is_some_and(|writer| {
            !writer.wrote_recently()
                && matches!(writer.write(self, Wait::No), Ok(Progress::Drained))
        });
        let wanted = borrowed.park();
        // Who put something while the frame writer was here has left it to this thread.
        if wanted || !done || !self.consumer.is_empty() || self.has_control() {
            self.consumer.wake();
        }
    }

    /// Leaves the frame writer to whoever puts something next. Returns whether the writer waits for it.
    pub(crate) fn park(&self, writer: Box<FrameWriter>) -> bool {
        let mut parked = self.parked.lock();
        parked.writer = Some(writer);
        std::mem::take(&mut parked.wanted)
    }

    /// For the writer thread: parks the frame writer, sleeps until there is something to write, and picks it up.
    ///
    /// The sleep is ended by a put, a source, a pong, a ping, `close` or `stop`.
    pub(crate) fn sleep(&self, writer: Box<FrameWriter>) -> Box<FrameWriter> {
        self.park(writer);
        self.consumer.wait();
        self.take_writer()
    }

    /// For the writer thread: takes the frame writer, waiting for whoever has it.
    pub(crate) fn take_writer(&self) -> Box<FrameWriter> {
        loop {
            {
                let mut parked = self.parked.lock();
                if let Some(writer) = parked.writer.take() {
                    return writer;
                }
                parked.wanted = true;
            }
            // Who has it wakes us when it is laid down.
            self.consumer.wait_for_wake();
        }
    }
}

/// The frame writer in the hands of a thread that has put something. It is laid down even if the transport panics:
/// the writer cannot end without it.
struct BorrowedWriter<'a> {
    send_queue: &'a SendQueue,
    writer: Option<Box<FrameWriter>>,
}

impl BorrowedWriter<'_> {
    fn park(&mut self) -> bool {
        let writer = self.writer.take();
        writer.is_some_and(|writer| self.send_queue.park(writer))
    }
}

impl Drop for BorrowedWriter<'_> {
    fn drop(&mut self) {
        if self.writer.is_some() {
            self.park();
            self.send_queue.consumer.wake();
        }
    }
}

/// Queues a message without the value that it may have beside its text: that is not weighed, and
/// takes many times as much. One that is not taken is handed back as it was.
fn as_text<R>(
    message: Message,
    put: impl FnOnce(Message) -> Result<R, PutError<Message>>,
) -> Result<R, PutError<Message>> {
    let (message, value) = message.without_value();
    put(message).map_err(|error| match error {
        PutError::Full(message) => PutError::Full(message.with_value(value)),
        PutError::Closed(message) => PutError::Closed(message.with_value(value)),
    })
}

/// Adds to a counter that one thread at a time writes.
fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Ordering::Relaxed) + n, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::transport::WriteHalf;
    use std::io::{self, Write};
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::thread;
    use tungstenite::protocol::Role;

    struct Panics;

    impl Write for Panics {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            panic!("on purpose")
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl WriteHalf for Panics {
        fn set_timeout(&mut self, _: Option<Duration>) -> io::Result<()> {
            Ok(())
        }

        fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.write(bytes)
        }

        fn shutdown_write(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_transport_that_panics_under_a_put_does_not_keep_the_pen_from_the_writer() {
        let (send_queue, inbox) = SendQueue::new(1 << 20);
        send_queue.park(FrameWriter::new(
            Role::Client,
            Box::new(Panics),
            inbox,
            false,
            false,
        ));
        catch_unwind(AssertUnwindSafe(|| send_queue.pong("x".into()))).unwrap_err();
        let (written, result) = crossbeam_channel::bounded(1);
        thread::spawn(move || {
            send_queue.consumer.wait_for_wake();
            let mut writer = send_queue.take_writer();
            written.send(writer.write(&send_queue, Wait::Yes)).unwrap();
        });
        let result = result.recv_timeout(Duration::from_secs(20));
        let error = result
            .expect("the writer waits for the writer")
            .unwrap_err();
        assert!(error.to_string().contains("panicked"), "{error}");
    }
}
