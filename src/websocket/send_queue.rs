//! The send queue, and the rule that decides which thread writes.
//!
//! A connection's [`FrameWriter`] is the worker of a [`Channel`]. The thread that has it writes,
//! and holds no lock meanwhile. The writer thread owns it, and leaves it in the channel while there
//! is nothing to send. A thread that puts a small message then receives it under the same lock,
//! writes what the transport takes without waiting, and leaves it in the channel again. This saves
//! two thread switches for the message. The writer thread writes the rest.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::control_frames::{Control, Frames, SendClose, SendPlan};
use super::frame_writer::{FrameWriter, Unsent, Wait};
use crate::error::PutError;
use crate::message::Message;
use crate::net::transport::is_timeout;
use crate::pubsub::{Channel, IdleWorker, Take};

/// The maximum number of messages that are taken from the queue and written in one turn. A turn
/// also ends after a write to the transport. Pongs and pings are written before each turn. The lock
/// is contended while another thread puts as fast as it can: with half of this number, sending
/// takes 6 % more processor time.
pub(super) const MESSAGES_PER_TURN: usize = 128;

type Messages = Channel<Message, Control, Box<FrameWriter>>;

/// The frame writer if it was idle when something was added, or else `None`.
type IdleWriter<'a> = IdleWorker<'a, Message, Control, Box<FrameWriter>>;

pub(crate) struct SendQueue {
    pub(super) messages: Messages,
    sent: Sent,
}

/// The numbers of sent messages and bytes, on all connections. They are changed by the thread that
/// has the frame writer, or by the reader thread between two connections.
#[derive(Default)]
pub(crate) struct Sent {
    pub(crate) messages: AtomicU64,
    pub(crate) bytes: AtomicU64,
    /// Messages that the frame writer has taken from the queue and not written yet.
    pub(crate) in_writer: AtomicU64,
    pub(crate) unconfirmed: AtomicU64,
    pub(crate) unsent: AtomicU64,
}

/// Why [`SendQueue::write`] returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Everything has been written.
    Drained,
    /// The transport has taken nothing within its timeout.
    Stalled,
    /// The Close frame has been written. Nothing follows it.
    Closed,
    /// `stop` was called.
    Stopped,
}

/// What is written after the control frames of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Messages,
    Nothing,
    Close,
    Stop,
}

impl SendQueue {
    /// Creates a queue for messages that together weigh at most `limit`. It has no frame writer:
    /// the writer thread of each connection brings one. [`Channel::push`] enforces the limit.
    pub(crate) fn new(limit: usize) -> Self {
        SendQueue {
            messages: Channel::new(limit, Message::weight, Control::default()),
            sent: Sent::default(),
        }
    }

    /// Returns the underlying channel, with the queue and the source.
    pub(crate) fn consumer(&self) -> &Messages {
        &self.messages
    }

    pub(crate) fn put_nowait(&self, message: Message) -> Result<(), PutError<Message>> {
        self.put_with(message, |message| self.messages.push(message))
    }

    pub(crate) fn put_latest(&self, key: &str, message: Message) -> Result<(), PutError<Message>> {
        self.put_with(message, |message| self.messages.push_latest(key, message))
    }

    pub(crate) fn put_urgent(&self, message: Message) -> Result<(), PutError<Message>> {
        self.put_with(message, |message| self.messages.push_urgent(message))
    }

    pub(crate) fn put_deadline(
        &self,
        message: Message,
        deadline: Option<Instant>,
    ) -> Result<(), PutError<Message>> {
        self.put_with(message, |message| {
            self.messages.push_waiting(message, deadline)
        })
    }

    fn put_with<'a>(
        &'a self,
        message: Message,
        push: impl FnOnce(Message) -> Result<IdleWriter<'a>, PutError<Message>>,
    ) -> Result<(), PutError<Message>> {
        let length = message.len();
        // A JSON message may have a value beside its text. It is not queued, because it is not
        // weighed and takes many times as much memory. If the put fails, the message is returned
        // with its value.
        let (message, value) = message.without_value();
        let writer = push(message).map_err(|error| match error {
            PutError::Full(message) => PutError::Full(message.with_value(value)),
            PutError::Closed(message) => PutError::Closed(message.with_value(value)),
        })?;
        self.use_idle(writer, length);
        Ok(())
    }

    pub(crate) fn sent(&self) -> &Sent {
        &self.sent
    }

    /// Refuses further messages.
    pub(crate) fn refuse_puts(&self) {
        self.messages.close();
    }

    /// Sends a Close frame on the current connection.
    ///
    /// If further messages are to be refused, call [`refuse_puts`](Self::refuse_puts) first: then
    /// all accepted messages are in the queue when the writer finds the Close frame.
    pub(crate) fn send_close(&self, close: SendClose) {
        // The drop returns the frame writer to its thread, which sends the Close frame.
        let ((), writer) = self.messages.change(|control| control.close(close));
        drop(writer);
    }

    /// Returns whether this side's Close frame may have reached the peer.
    pub(crate) fn has_begun_to_close(&self) -> bool {
        self.messages
            .with_extra(|control| control.has_begun_to_close())
    }

    /// Makes the writer thread end without sending anything more.
    pub(crate) fn stop(&self) {
        let ((), writer) = self.messages.change(Control::stop);
        drop(writer);
    }

    /// Takes back the messages that a connection has not sent, after its writer thread has ended.
    /// `all_confirmed` is whether the peer has received all written messages. Returns the number of
    /// messages that were neither written nor kept.
    pub(crate) fn take_back(&self, unsent: Unsent, all_confirmed: bool) -> usize {
        if !all_confirmed {
            let confirmed = self
                .messages
                .with_extra(|control| control.pings.confirmed());
            // Saturating, since a peer that guesses a payload can answer a ping before it has been
            // written.
            let unconfirmed = unsent.written.saturating_sub(confirmed);
            add(&self.sent.unconfirmed, unconfirmed);
        }
        self.messages.put_back(unsent.urgent, unsent.messages);
        // Afterwards, so that the statistics count these messages all the time.
        self.count_in_writer(0);
        unsent.lost
    }

    /// Drops the control frames of the connection that has ended.
    pub(crate) fn forget_connection(&self) {
        // Not dropped under the lock, because the drop of a ping's sender wakes the thread that
        // waits for the pong.
        let control = self.messages.with_extra(std::mem::take);
        drop(control);
    }

    /// Drops the queued messages at the end of the last connection, and counts the `unsent` ones.
    pub(crate) fn end(&self, unsent: usize) {
        self.forget_connection();
        self.count_in_writer(0);
        add(&self.sent.unsent, unsent as u64);
        self.messages.clear();
    }

    // For the thread that has the frame writer.

    /// Writes everything that there is to write. Only the writer thread calls this. An error is
    /// final, because the stream may have ended within a frame.
    pub(crate) fn write(&self, writer: &mut FrameWriter) -> tungstenite::Result<Progress> {
        let progress = self.write_all(writer);
        self.note(writer);
        match progress {
            Err(tungstenite::Error::Io(error)) if is_timeout(&error) => Ok(Progress::Stalled),
            other => other,
        }
    }

    fn write_all(&self, writer: &mut FrameWriter) -> tungstenite::Result<Progress> {
        loop {
            let (frames, next) = self.next(writer);
            if next == Next::Stop {
                return Ok(Progress::Stopped);
            }
            writer.write_control(frames, Wait::Yes)?;
            match next {
                Next::Messages => writer.write_messages(Wait::Yes)?,
                Next::Nothing => {
                    writer.flush(Wait::Yes)?;
                    return Ok(Progress::Drained);
                }
                Next::Close => {
                    // Everything before it is written first. If the peer's Close frame is received
                    // after that, it comes after all that this side has sent; if it is received
                    // before, the two Close frames have crossed.
                    writer.flush(Wait::Yes)?;
                    if let Some(close) = self.messages.with_extra(Control::begin_to_close) {
                        writer.write_close(close)?;
                        return Ok(Progress::Closed);
                    }
                }
                Next::Stop => {}
            }
        }
    }

    /// Sleeps until there is something to write. Only the writer thread calls this.
    ///
    /// The sleep is ended by a put, a source, a pong, a ping, `send_close` or `stop`.
    pub(crate) fn sleep(&self, writer: Box<FrameWriter>) -> Box<FrameWriter> {
        match self.messages.sleep(writer, None) {
            Ok(writer) | Err(writer) => writer,
        }
    }

    /// Writes on a thread that has added something, if it has received the frame writer and the
    /// message is small. Otherwise the writer thread writes.
    pub(super) fn use_idle(&self, writer: IdleWriter<'_>, length: usize) {
        let Some(writer) = writer else {
            // The thread that has the frame writer finds what was added.
            return;
        };
        writer.work(|writer| {
            let is_quick = length <= writer.longest_quick() && !writer.wrote_recently();
            is_quick && self.write_now(writer)
        });
    }

    /// Writes one turn, as far as the transport takes it without waiting. Returns whether
    /// everything has been written.
    pub(super) fn write_now(&self, writer: &mut FrameWriter) -> bool {
        let (frames, next) = self.next(writer);
        let written = writer
            .write_control(frames, Wait::No)
            .and_then(|()| match next {
                Next::Messages => writer.write_messages(Wait::No),
                Next::Nothing | Next::Close | Next::Stop => Ok(()),
            })
            .and_then(|()| writer.flush(Wait::No));
        self.note(writer);
        // The writer thread finds an error again and ends the connection.
        let is_done = matches!(next, Next::Messages | Next::Nothing) && !writer.has_messages();
        written.is_ok() && is_done
    }

    /// Takes the next control frames, the urgent messages, and, unless the frame writer has
    /// messages, a turn of the others. Takes one lock.
    fn next(&self, writer: &mut FrameWriter) -> (Frames, Next) {
        self.note(writer);
        let encoded = writer.encoded();
        let has_messages = writer.has_messages();
        let takes_urgent = writer.takes_urgent();
        let (urgent, messages) = writer.queues();
        let (frames, plan) =
            self.messages
                .take(urgent, messages, MESSAGES_PER_TURN, |control, _| {
                    let plan = control.plan();
                    let which = match plan {
                        SendPlan::Stop | SendPlan::Close => Take::Nothing,
                        _ if has_messages && takes_urgent => Take::Urgent,
                        _ if has_messages => Take::Nothing,
                        SendPlan::Messages | SendPlan::MessagesThenClose => Take::All,
                    };
                    ((control.frames(encoded), plan), which)
                });
        let next = match plan {
            SendPlan::Stop => Next::Stop,
            SendPlan::Close => Next::Close,
            _ if writer.has_messages() => Next::Messages,
            SendPlan::MessagesThenClose => Next::Close,
            SendPlan::Messages => Next::Nothing,
        };
        self.count_in_writer(writer.in_writer());
        (frames, next)
    }

    /// Counts what the frame writer has written since the last call.
    fn note(&self, writer: &mut FrameWriter) {
        let done = writer.take_done();
        self.count_in_writer(writer.in_writer());
        if done.bytes > 0 {
            add(&self.sent.messages, done.messages);
            add(&self.sent.bytes, done.bytes);
        }
        if done.pings {
            self.messages.with_extra(|control| control.pings.written());
        }
    }

    fn count_in_writer(&self, messages: usize) {
        self.sent
            .in_writer
            .store(messages as u64, Ordering::Relaxed);
    }
}

/// Adds to a counter that one thread at a time changes.
fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Ordering::Relaxed) + n, Ordering::Relaxed);
}
#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::transport::WriteHalf;
    use crate::options::Options;
    use std::io::{self, Write};
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Arc;
    use std::thread;
    use std::time::Duration;
    use tungstenite::protocol::Role;

    const DEADLINE: Duration = Duration::from_secs(20);

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
    fn a_transport_that_panics_in_a_put_returns_the_frame_writer_to_its_thread() {
        let send_queue = Arc::new(SendQueue::new(1 << 20));
        let writer = FrameWriter::new(Role::Client, Box::new(Panics), &Options::new());
        let (written, result) = crossbeam_channel::bounded(1);
        let owner = send_queue.clone();
        thread::spawn(move || {
            let mut writer = owner.sleep(writer);
            written.send(owner.write(&mut writer)).unwrap();
        });
        let deadline = Instant::now() + DEADLINE;
        while !send_queue.messages.has_idle_worker() {
            assert!(Instant::now() < deadline, "the frame writer is never idle");
            thread::yield_now();
        }
        catch_unwind(AssertUnwindSafe(|| send_queue.pong("x".into()))).unwrap_err();
        let error = result.recv_timeout(DEADLINE).unwrap().unwrap_err();
        assert!(error.to_string().contains("panicked"), "{error}");
    }
}
