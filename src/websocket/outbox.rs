//! What is to be sent, and the pen to write it with.
//!
//! The sending half of a connection, its codec and the queue's inbox are one value, the [`Pen`].
//! Whoever holds it writes; nobody holds a lock meanwhile. The writer thread holds it while it is at
//! work, and lays it down here when it goes to sleep. Then a thread that has put one message may
//! pick it up, write what fits without waiting, and lay it down again: that saves the message two
//! switches of threads. Anything that does not go at once is left to the writer.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use tungstenite::protocol::frame::CloseFrame as WireCloseFrame;
use tungstenite::protocol::{Role as WireRole, WebSocketConfig, WebSocketContext};

use crate::error::PutError;
use crate::message::Message;
use crate::net::closing;
use crate::net::transport::{WriteHalf, is_timeout};
use crate::pubsub::{Consumer, Inbox, Patience, Pushed};

use super::shared::weight;

/// How many pongs wait to be sent at the most. A peer that sends pings faster than it takes the
/// answers gets those to the latest, as RFC 6455, section 5.5.3 allows.
const MAX_PONGS: usize = 16;

/// Up to this size a message is worth writing on the thread that puts it.
const SMALL: usize = 16 << 10;

/// Who puts messages faster than this is better served by the writer, which sends many at once.
const BURST: Duration = Duration::from_micros(20);

/// How much is collected before it is written, unless the queue is empty first.
const WRITE_BUFFER: usize = 64 << 10;

/// After this many messages, pongs and pings have their turn.
const STRETCH: usize = 64;

pub(crate) struct Outbox {
    consumer: Consumer<Message>,
    /// Held to add or to take; nothing is called under it.
    control: Mutex<Control>,
    /// Whether `control` may hold something; saves the lock.
    pending: AtomicBool,
    /// Held to lay down or to pick up the pen; nothing is called under it.
    desk: Mutex<Desk>,
}

#[derive(Default)]
struct Control {
    pongs: VecDeque<Bytes>,
    ping: Option<Bytes>,
    close: Option<closing::Send>,
    stop: bool,
    /// When the last ping was written.
    ping_written: Option<Instant>,
}

#[derive(Default)]
struct Desk {
    pen: Option<Box<Pen>>,
    /// The writer came for the pen while somebody else had it.
    wanted: bool,
}

impl Outbox {
    pub(crate) fn new(limit: usize) -> (Self, Inbox<Message>) {
        let (consumer, inbox) = Consumer::with_weight(limit, weight);
        let outbox = Outbox {
            consumer,
            control: Mutex::default(),
            pending: AtomicBool::new(false),
            desk: Mutex::default(),
        };
        (outbox, inbox)
    }

    pub(crate) fn consumer(&self) -> &Consumer<Message> {
        &self.consumer
    }

    pub(crate) fn put_nowait(&self, message: Message) -> Result<(), PutError<Message>> {
        let small = message.len() <= SMALL;
        if self.consumer.push(message)? == Pushed::Unnoticed {
            self.kick(small);
        }
        Ok(())
    }

    pub(crate) fn put_deadline(
        &self,
        message: Message,
        deadline: Option<Instant>,
    ) -> Result<(), PutError<Message>> {
        let small = message.len() <= SMALL;
        self.consumer
            .put_deadline(message, deadline, |_| self.kick(small))
    }

    pub(crate) fn put_patiently(
        &self,
        message: Message,
        patience: &Patience<'_>,
    ) -> Result<(), PutError<Message>> {
        self.consumer
            .put_patiently(message, patience, |consumer| consumer.wake())
    }

    /// Answers a ping.
    pub(crate) fn pong(&self, payload: Bytes) {
        self.control(|control| {
            if control.pongs.len() == MAX_PONGS {
                control.pongs.pop_front();
            }
            control.pongs.push_back(payload);
        });
        self.kick(true);
    }

    pub(crate) fn ping(&self, payload: Bytes) {
        self.control(|control| {
            control.ping = Some(payload);
            control.ping_written = None;
        });
        self.kick(true);
    }

    /// For how long the last ping has been written.
    pub(crate) fn ping_written(&self) -> Option<Duration> {
        Some(self.control.lock().ping_written?.elapsed())
    }

    /// Sends a Close frame, and takes nothing more.
    pub(crate) fn close(&self, send: closing::Send) {
        // In this order: what was accepted is in the queue by the time the writer sees the Close.
        self.consumer.close();
        self.control(|control| control.close = Some(send));
        self.consumer.wake();
    }

    /// Lets the writer end without another word.
    pub(crate) fn stop(&self) {
        self.consumer.close();
        self.control(|control| control.stop = true);
        self.consumer.wake();
    }

    fn control(&self, change: impl FnOnce(&mut Control)) {
        change(&mut self.control.lock());
        self.pending.store(true, Ordering::SeqCst);
    }

    /// Makes sure that somebody writes: this thread, if the pen is there and `here` is set, or the writer.
    fn kick(&self, here: bool) {
        let pen = if here {
            self.desk.lock().pen.take()
        } else {
            None
        };
        let Some(mut pen) = pen else {
            return self.consumer.wake();
        };
        let done = !pen.is_warm() && matches!(pen.write(self, Wait::No), Ok(Progress::Drained));
        let wanted = self.lay_down(pen);
        // Who put something while the pen was here has left it to this thread.
        if wanted || !done || !self.consumer.is_empty() || self.pending.load(Ordering::SeqCst) {
            self.consumer.wake();
        }
    }

    fn lay_down(&self, pen: Box<Pen>) -> bool {
        let mut desk = self.desk.lock();
        desk.pen = Some(pen);
        std::mem::take(&mut desk.wanted)
    }

    /// For the writer: lays down the pen, sleeps until there is something to write, and picks it up.
    ///
    /// The sleep is ended by a put, a source, a pong, a ping, `close` or `stop`.
    pub(crate) fn sleep(&self, pen: Box<Pen>) -> Box<Pen> {
        self.lay_down(pen);
        self.consumer.wait();
        loop {
            {
                let mut desk = self.desk.lock();
                if let Some(pen) = desk.pen.take() {
                    return pen;
                }
                desk.wanted = true;
            }
            // Who has it wakes us when it is laid down.
            self.consumer.wait_for_wake();
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    Yes,
    No,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// All there was has been written.
    Drained,
    /// There is more, and the socket takes no more just now, or it is for the writer; with [`Wait::Yes`], it has taken nothing for as long as it
    /// may.
    Blocked,
    /// The Close frame has been written: there is nothing more to do.
    Closed,
    /// `stop` was called.
    Stopped,
}

/// All that it takes to write: see the module's page.
pub(crate) struct Pen {
    codec: WebSocketContext,
    out: Out,
    inbox: Inbox<Message>,
    json: bool,
    last_write: Option<Instant>,
    close: Option<closing::Send>,
    close_encoded: bool,
    /// The Close frame is sent because the peer broke the protocol.
    last_word: bool,
    stopped: bool,
    /// There is a ping among what is encoded and not written.
    ping_encoded: bool,
    /// How many messages were encoded since all that was encoded had been written.
    unflushed: usize,
}

impl Pen {
    pub(crate) fn new(
        role: WireRole,
        half: Box<dyn WriteHalf>,
        inbox: Inbox<Message>,
        json: bool,
    ) -> Box<Self> {
        let config = WebSocketConfig::default()
            .read_buffer_size(0)
            .write_buffer_size(WRITE_BUFFER);
        Box::new(Pen {
            codec: WebSocketContext::new(role, Some(config)),
            out: Out {
                half,
                wait: Wait::Yes,
            },
            inbox,
            json,
            last_write: None,
            close: None,
            close_encoded: false,
            last_word: false,
            stopped: false,
            ping_encoded: false,
            unflushed: 0,
        })
    }

    /// Whether something was written so lately that more is likely to come.
    fn is_warm(&self) -> bool {
        self.last_write.is_some_and(|then| then.elapsed() < BURST)
    }

    /// Writes all there is; with [`Wait::No`], as much as the socket takes.
    ///
    /// An error is final: the stream may have ended within a frame.
    pub(crate) fn write(&mut self, outbox: &Outbox, wait: Wait) -> tungstenite::Result<Progress> {
        self.out.wait = wait;
        let progress = match self.write_all(outbox) {
            // What did not fit is in the codec's buffer.
            Err(tungstenite::Error::Io(error)) if is_timeout(&error) => Ok(Progress::Blocked),
            other => other,
        };
        self.last_write = Some(Instant::now());
        progress
    }

    fn write_all(&mut self, outbox: &Outbox) -> tungstenite::Result<Progress> {
        loop {
            self.write_control(outbox)?;
            if self.stopped {
                return Ok(Progress::Stopped);
            }
            let at_once = self
                .close
                .as_ref()
                .is_some_and(|close| !close.after_the_queue);
            if self.close_encoded || at_once || !self.write_messages(outbox)? {
                break;
            }
            if self.out.wait == Wait::No {
                // Enough for a thread that came to put one message.
                self.flush(outbox)?;
                return Ok(Progress::Blocked);
            }
        }
        if self.close_encoded || self.close.is_some() {
            self.write_close(outbox)?;
            return Ok(Progress::Closed);
        }
        self.flush(outbox)?;
        Ok(Progress::Drained)
    }

    fn write_control(&mut self, outbox: &Outbox) -> tungstenite::Result<()> {
        if !outbox.pending.swap(false, Ordering::SeqCst) {
            return Ok(());
        }
        let (pongs, ping) = {
            let mut control = outbox.control.lock();
            self.stopped |= control.stop;
            self.close = self.close.take().or(control.close.take());
            (std::mem::take(&mut control.pongs), control.ping.take())
        };
        if self.close_encoded {
            return Ok(());
        }
        self.ping_encoded |= ping.is_some();
        let pongs = pongs.into_iter().map(tungstenite::Message::Pong);
        let mut blocked = None;
        for frame in pongs.chain(ping.map(tungstenite::Message::Ping)) {
            match self.encode(frame) {
                // It is encoded all the same, and so must the others be.
                Err(tungstenite::Error::Io(error)) if is_timeout(&error) => blocked = Some(error),
                other => other?,
            }
        }
        blocked.map_or(Ok(()), |error| Err(error.into()))
    }

    /// A stretch of messages; `false` when there are no more.
    fn write_messages(&mut self, outbox: &Outbox) -> tungstenite::Result<bool> {
        for _ in 0..STRETCH {
            let Some(message) = self.inbox.take() else {
                // What came meanwhile came with a wake-up; but a pong need not wait for that.
                return Ok(outbox.pending.load(Ordering::SeqCst));
            };
            self.unflushed += 1;
            self.encode(message.to_wire(self.json))?;
        }
        Ok(true)
    }

    /// Encodes a frame, and writes it if much has come together. An error of the socket leaves it encoded.
    fn encode(&mut self, message: tungstenite::Message) -> tungstenite::Result<()> {
        self.codec.write(&mut self.out, message)
    }

    fn write_close(&mut self, outbox: &Outbox) -> tungstenite::Result<()> {
        if let Some(close) = self.close.take() {
            self.close_encoded = true;
            let frame = close.frame.map(|frame| WireCloseFrame {
                code: frame.code.into(),
                reason: frame.reason.into(),
            });
            self.last_word = !close.after_the_queue;
            self.codec.close(&mut self.out, frame)?;
        }
        self.flush(outbox)?;
        if self.last_word {
            // What the peer answers is not looked at, so it must not wait for this side to end the
            // stream in return.
            let _ = self.out.half.finish();
        }
        Ok(())
    }

    fn flush(&mut self, outbox: &Outbox) -> tungstenite::Result<()> {
        self.codec.flush(&mut self.out)?;
        self.unflushed = 0;
        if std::mem::take(&mut self.ping_encoded) {
            outbox.control.lock().ping_written = Some(Instant::now());
        }
        Ok(())
    }

    /// How many messages are left that were put and are not known to have been written.
    pub(crate) fn unsent(&self, outbox: &Outbox) -> usize {
        self.unflushed + self.inbox.in_hand() + outbox.consumer.len()
    }
}

/// The codec's stream: writes, waiting or not, and has nothing to read.
struct Out {
    half: Box<dyn WriteHalf>,
    wait: Wait,
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            let written = match self.wait {
                Wait::Yes => self.half.write(bytes),
                Wait::No => self.half.try_write(bytes),
            };
            match written {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.wait {
            Wait::Yes => self.half.flush(),
            Wait::No => self.half.try_flush(),
        }
    }
}

impl Read for Out {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    /// A socket that takes something only from who waits.
    struct Full(Arc<Mutex<Vec<u8>>>);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl WriteHalf for Full {
        fn try_write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::WouldBlock.into())
        }

        fn set_timeout(&mut self, _: Option<Duration>) -> io::Result<()> {
            Ok(())
        }

        fn finish(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn pings_and_pongs_that_find_the_socket_full_are_sent_later() {
        let (outbox, inbox) = Outbox::new(1 << 20);
        let wire = Arc::new(Mutex::new(Vec::new()));
        let mut pen = Pen::new(WireRole::Server, Box::new(Full(wire.clone())), inbox, false);
        for _ in 0..10 {
            outbox.put_nowait(vec![0; 16_000].into()).unwrap();
        }
        // More than is collected before it is written.
        assert_eq!(pen.write(&outbox, Wait::No).unwrap(), Progress::Blocked);
        let words = ["pong one", "pong two", "the ping"];
        outbox.pong(words[0].into());
        outbox.pong(words[1].into());
        outbox.ping(words[2].into());
        assert_eq!(pen.write(&outbox, Wait::No).unwrap(), Progress::Blocked);
        assert_eq!(outbox.ping_written(), None);
        assert_eq!(pen.write(&outbox, Wait::Yes).unwrap(), Progress::Drained);
        assert!(outbox.ping_written().is_some());
        let wire = wire.lock();
        for word in words {
            let found = wire.windows(word.len()).any(|part| part == word.as_bytes());
            assert!(found, "{word}");
        }
    }

    #[test]
    fn who_puts_one_message_does_not_write_for_all_the_others() {
        let (outbox, inbox) = Outbox::new(1 << 20);
        let mut pen = Pen::new(
            WireRole::Server,
            Box::new(Full(Arc::default())),
            inbox,
            false,
        );
        for _ in 0..10 * STRETCH {
            outbox.put_nowait("x".into()).unwrap();
        }
        assert_eq!(pen.write(&outbox, Wait::No).unwrap(), Progress::Blocked);
        assert!(pen.unsent(&outbox) >= 9 * STRETCH);
        assert_eq!(pen.write(&outbox, Wait::Yes).unwrap(), Progress::Drained);
        assert_eq!(pen.unsent(&outbox), 0);
    }
}
