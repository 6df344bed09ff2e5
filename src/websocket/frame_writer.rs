//! All that it takes to write: the codec, the socket's half, the queue's end. See [`send_queue`](super::send_queue).

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use tungstenite::protocol::frame::CloseFrame as WireCloseFrame;
use tungstenite::protocol::{Role as WireRole, WebSocketConfig, WebSocketContext};

use super::control::SendClose;
use super::send_queue::SendQueue;
use crate::message::Message;
use crate::net::transport::{WriteHalf, is_timeout};
use crate::panics::drop_caught;
use crate::pubsub::Inbox;

/// Who puts messages faster than this is better served by the writer, which sends many at once.
const RECENTLY: Duration = Duration::from_micros(20);

/// How much is collected before it is written, unless the queue is empty first.
const WRITE_BUFFER: usize = 64 << 10;

/// After this many messages, pongs and pings have their turn.
const MESSAGES_PER_TURN: usize = 64;

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

/// What can write: there is one for each connection.
pub(crate) struct FrameWriter {
    codec: WebSocketContext,
    role: WireRole,
    out: Out,
    inbox: Inbox<Message>,
    json: bool,
    last_write: Option<Instant>,
    close: Option<SendClose>,
    close_encoded: bool,
    /// Nothing was sent before the Close frame that was asked for before it.
    last_word: bool,
    stopped: bool,
    /// A write has begun and not returned: if another begins, the transport has panicked in it.
    writing: bool,
    /// There is a ping among what is encoded and not written.
    ping_encoded: bool,
    /// A message has made the codec's buffer longer than it is otherwise.
    has_grown: bool,
    /// How many messages, and how many bytes of frames, were encoded.
    messages: u64,
    bytes: u64,
    unwritten: Unwritten,
    /// How much of it has been told to the send_queue.
    told: (u64, u64),
}

/// The messages that were encoded and have not been written to the last byte.
struct Unwritten {
    /// Where each of them ends among all bytes of the connection.
    ends: VecDeque<u64>,
    /// The messages themselves, where another connection may send them.
    messages: Option<VecDeque<Message>>,
}

/// What a connection leaves to the next.
pub(crate) struct Unsent {
    inbox: Inbox<Message>,
    /// Messages that were encoded and not written, as far as they were kept.
    unwritten: VecDeque<Message>,
    /// How many were not kept.
    gone: usize,
    /// How many messages were written.
    written: u64,
}

impl Unsent {
    /// How many messages were written to the connection.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Puts back what was kept. Returns the inbox, and how many messages were neither written nor kept.
    pub(crate) fn put_back(self) -> (Inbox<Message>, usize) {
        let mut inbox = self.inbox;
        inbox.put_back(self.unwritten);
        (inbox, self.gone)
    }
}

impl FrameWriter {
    /// With `keep`, messages are kept until they have been written.
    pub(crate) fn new(
        role: WireRole,
        half: Box<dyn WriteHalf>,
        inbox: Inbox<Message>,
        json: bool,
        keep: bool,
    ) -> Box<Self> {
        Box::new(FrameWriter {
            codec: writing_codec(role),
            role,
            out: Out {
                half,
                wait: Wait::Yes,
                written: 0,
            },
            inbox,
            json,
            last_write: None,
            close: None,
            close_encoded: false,
            last_word: false,
            stopped: false,
            writing: false,
            ping_encoded: false,
            has_grown: false,
            messages: 0,
            bytes: 0,
            unwritten: Unwritten {
                ends: VecDeque::new(),
                messages: keep.then(VecDeque::new),
            },
            told: (0, 0),
        })
    }

    /// Whether something was written so lately that more is likely to come.
    pub(super) fn wrote_recently(&self) -> bool {
        self.last_write
            .is_some_and(|then| then.elapsed() < RECENTLY)
    }

    /// Writes all there is; with [`Wait::No`], as much as the socket takes.
    ///
    /// An error is final: the stream may have ended within a frame.
    pub(crate) fn write(
        &mut self,
        send_queue: &SendQueue,
        wait: Wait,
    ) -> tungstenite::Result<Progress> {
        if std::mem::replace(&mut self.writing, true) {
            return Err(io::Error::other("the transport panicked").into());
        }
        self.out.wait = wait;
        let progress = match self.write_all(send_queue) {
            // What did not fit is in the codec's buffer.
            Err(tungstenite::Error::Io(error)) if is_timeout(&error) => Ok(Progress::Blocked),
            other => other,
        };
        self.last_write = Some(Instant::now());
        self.note_what_is_written(send_queue);
        self.writing = false;
        progress
    }

    fn write_all(&mut self, send_queue: &SendQueue) -> tungstenite::Result<Progress> {
        loop {
            self.write_control(send_queue)?;
            if self.stopped {
                return Ok(Progress::Stopped);
            }
            let at_once = self.close.as_ref().is_some_and(|close| !close.after_queue);
            if self.close_encoded || at_once || !self.write_messages(send_queue)? {
                break;
            }
            if self.out.wait == Wait::No {
                // Enough for a thread that came to put one message.
                self.flush(send_queue)?;
                return Ok(Progress::Blocked);
            }
        }
        if self.close_encoded || self.close.is_some() {
            self.write_close(send_queue)?;
            return Ok(Progress::Closed);
        }
        self.flush(send_queue)?;
        Ok(Progress::Drained)
    }

    fn write_control(&mut self, send_queue: &SendQueue) -> tungstenite::Result<()> {
        let Some(work) = send_queue.take_control(self.messages) else {
            return Ok(());
        };
        self.stopped |= work.stop;
        self.close = self.close.take().or(work.close);
        if self.close_encoded {
            return Ok(());
        }
        self.ping_encoded |= !work.pings.is_empty();
        let pongs = work.pongs.into_iter().map(tungstenite::Message::Pong);
        let pings = work.pings.into_iter().map(tungstenite::Message::Ping);
        let mut blocked = None;
        for frame in pongs.chain(pings) {
            match self.encode(frame) {
                // It is encoded all the same, and so must the others be.
                Err(tungstenite::Error::Io(error)) if is_timeout(&error) => blocked = Some(error),
                other => other?,
            }
        }
        blocked.map_or(Ok(()), |error| Err(error.into()))
    }

    /// A stretch of messages; `false` when there are no more.
    fn write_messages(&mut self, send_queue: &SendQueue) -> tungstenite::Result<bool> {
        for _ in 0..MESSAGES_PER_TURN {
            if send_queue.has_control() {
                return Ok(true);
            }
            let Some(message) = self.inbox.take() else {
                // What came meanwhile came with a wake-up; but a pong need not wait for that.
                return Ok(send_queue.has_control());
            };
            let wire = message.to_wire(self.json);
            self.messages += 1;
            let end = self.bytes + frame_length(wire.len(), self.role);
            self.unwritten.ends.push_back(end);
            // What it holds may be the user's, with a destructor of its own: that of the codec is
            // not the last.
            let sent = match &mut self.unwritten.messages {
                Some(messages) => {
                    // One of a source may have a value yet.
                    messages.push_back(message.without_value().0);
                    None
                }
                None => Some(message),
            };
            let encoded = self.encode(wire);
            drop_caught(sent);
            encoded?;
        }
        self.note_what_is_written(send_queue);
        Ok(true)
    }

    /// Encodes a frame, and writes it if much has come together. An error of the socket leaves it encoded.
    fn encode(&mut self, message: tungstenite::Message) -> tungstenite::Result<()> {
        self.bytes += frame_length(message.len(), self.role);
        self.has_grown |= message.len() > WRITE_BUFFER;
        self.codec.write(&mut self.out, message)
    }

    /// Forgets the messages that have been written to the last byte, and tells how much that is.
    fn note_what_is_written(&mut self, send_queue: &SendQueue) {
        while self
            .unwritten
            .ends
            .front()
            .is_some_and(|end| *end <= self.out.written)
        {
            self.unwritten.ends.pop_front();
            if let Some(messages) = &mut self.unwritten.messages {
                drop_caught(messages.pop_front());
            }
        }
        send_queue.count_encoded(self.unwritten.ends.len());
        let written = (self.written(), self.out.written);
        send_queue.count_written(written.0 - self.told.0, written.1 - self.told.1);
        self.told = written;
    }

    /// How many messages have been written to the last byte.
    fn written(&self) -> u64 {
        self.messages - self.unwritten.ends.len() as u64
    }

    fn write_close(&mut self, send_queue: &SendQueue) -> tungstenite::Result<()> {
        if self.close.is_some() {
            // First all before it, so that an answer to it is known from a frame that crosses it.
            self.flush(send_queue)?;
            send_queue.begins_to_close();
        }
        if let Some(close) = self.close.take() {
            self.close_encoded = true;
            let frame = close.frame.map(|frame| WireCloseFrame {
                code: frame.code.into(),
                reason: frame.reason.into(),
            });
            self.last_word = !close.after_queue;
            let body = frame.as_ref().map_or(0, |frame| 2 + frame.reason.len());
            self.bytes += frame_length(body, self.role);
            self.codec.close(&mut self.out, frame)?;
        }
        self.flush(send_queue)?;
        if self.last_word {
            // Nothing more is expected from the peer, so it must not wait for this side to end the
            // stream in return.
            let _ = self.out.half.shutdown_write();
        }
        Ok(())
    }

    fn flush(&mut self, send_queue: &SendQueue) -> tungstenite::Result<()> {
        self.codec.flush(&mut self.out)?;
        debug_assert_eq!(self.bytes, self.out.written);
        if std::mem::take(&mut self.has_grown) {
            // Its buffer is as long as the longest message was.
            self.codec = writing_codec(self.role);
        }
        if std::mem::take(&mut self.ping_encoded) {
            send_queue.pings_are_written();
            // These are as long as the longest burst was. That is seldom needed again soon, and pings are
            // seldom enough to give it back.
            self.note_what_is_written(send_queue);
            self.unwritten.ends.shrink_to_fit();
            if let Some(messages) = &mut self.unwritten.messages {
                messages.shrink_to_fit();
            }
        }
        Ok(())
    }

    /// The connection has ended.
    pub(crate) fn end(mut self, send_queue: &SendQueue) -> Unsent {
        self.note_what_is_written(send_queue);
        let written = self.written();
        let unwritten = self.unwritten.messages.unwrap_or_default();
        Unsent {
            inbox: self.inbox,
            gone: self.unwritten.ends.len() - unwritten.len(),
            unwritten,
            written,
        }
    }
}

/// A codec that has nothing to write yet. It is not told what is read.
fn writing_codec(role: WireRole) -> WebSocketContext {
    let config = WebSocketConfig::default()
        .read_buffer_size(0)
        .write_buffer_size(WRITE_BUFFER);
    WebSocketContext::new(role, Some(config))
}

/// How long a frame is (RFC 6455, section 5.2).
fn frame_length(payload: usize, sender: WireRole) -> u64 {
    let extended = match payload {
        0..126 => 0,
        126..=0xffff => 2,
        _ => 8,
    };
    let mask = match sender {
        WireRole::Client => 4,
        WireRole::Server => 0,
    };
    2 + extended + mask + payload as u64
}

/// The codec's stream: writes, waiting or not, and has nothing to read.
struct Out {
    half: Box<dyn WriteHalf>,
    wait: Wait,
    /// How many bytes the connection has taken.
    written: u64,
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
                Ok(n) => {
                    self.written += n as u64;
                    return Ok(n);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        loop {
            let flushed = match self.wait {
                Wait::Yes => self.half.flush(),
                Wait::No => self.half.try_flush(),
            };
            match flushed {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
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
    use parking_lot::Mutex;
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

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

        fn shutdown_write(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn pings_and_pongs_that_find_the_socket_full_are_sent_later() {
        let (send_queue, inbox) = SendQueue::new(1 << 20);
        let wire = Arc::new(Mutex::new(Vec::new()));
        let mut writer = FrameWriter::new(
            WireRole::Server,
            Box::new(Full(wire.clone())),
            inbox,
            false,
            false,
        );
        for _ in 0..10 {
            send_queue.put_nowait(vec![0; 16_000].into()).unwrap();
        }
        // More than is collected before it is written.
        assert_eq!(
            writer.write(&send_queue, Wait::No).unwrap(),
            Progress::Blocked
        );
        let words = ["pong one", "pong two", "the ping"];
        send_queue.pong(words[0].into());
        send_queue.pong(words[1].into());
        send_queue.ping(words[2].into());
        assert_eq!(
            writer.write(&send_queue, Wait::No).unwrap(),
            Progress::Blocked
        );
        assert_eq!(send_queue.ping_written(), None);
        assert_eq!(
            writer.write(&send_queue, Wait::Yes).unwrap(),
            Progress::Drained
        );
        assert!(send_queue.ping_written().is_some());
        let wire = wire.lock();
        for word in words {
            let found = wire.windows(word.len()).any(|part| part == word.as_bytes());
            assert!(found, "{word}");
        }
    }

    #[test]
    fn who_puts_one_message_does_not_write_for_all_the_others() {
        let (send_queue, inbox) = SendQueue::new(1 << 20);
        let mut writer = FrameWriter::new(
            WireRole::Server,
            Box::new(Full(Arc::default())),
            inbox,
            false,
            false,
        );
        for _ in 0..10 * MESSAGES_PER_TURN {
            send_queue.put_nowait("x".into()).unwrap();
        }
        assert_eq!(
            writer.write(&send_queue, Wait::No).unwrap(),
            Progress::Blocked
        );
        assert_eq!(writer.messages, MESSAGES_PER_TURN as u64);
        assert_eq!(
            writer.write(&send_queue, Wait::Yes).unwrap(),
            Progress::Drained
        );
        assert_eq!(writer.written(), 10 * MESSAGES_PER_TURN as u64);
    }

    /// A socket that takes so many bytes and then fails.
    struct Breaks(usize);

    impl Write for Breaks {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = bytes.len().min(self.0);
            self.0 -= taken;
            match taken {
                0 => Err(io::ErrorKind::ConnectionReset.into()),
                _ => Ok(taken),
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl WriteHalf for Breaks {
        fn set_timeout(&mut self, _: Option<Duration>) -> io::Result<()> {
            Ok(())
        }

        fn shutdown_write(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_was_not_written_to_the_last_byte_is_left_for_the_next_connection() {
        const COUNT: usize = 200;
        // A client's frames of 100, 200 and 70 000 bytes.
        let sizes = |n: usize| [100, 200, 70_000][n % 3];
        let ends: Vec<usize> = (0..COUNT)
            .scan(0, |end, n| {
                *end += frame_length(sizes(n), WireRole::Client) as usize;
                Some(*end)
            })
            .collect();
        for broken_after in [0, 1, 105, 106, 107, 313, 314, 70_000, 70_328, 1_000_000] {
            let (send_queue, inbox) = SendQueue::new(1 << 30);
            let half = Box::new(Breaks(broken_after));
            let mut writer = FrameWriter::new(WireRole::Client, half, inbox, false, true);
            for n in 0..COUNT {
                let payload = vec![n as u8; sizes(n)];
                send_queue.put_nowait(payload.into()).unwrap();
            }
            writer.write(&send_queue, Wait::Yes).unwrap_err();
            let (mut inbox, gone) = send_queue.take_back(writer.end(&send_queue), false);
            assert_eq!(gone, 0);
            let written = ends.iter().filter(|end| **end <= broken_after).count();
            for n in written..COUNT {
                let message = inbox.try_get().unwrap();
                assert_eq!(message.as_bytes().unwrap()[0], n as u8);
            }
            assert_eq!(
                send_queue.sent().unconfirmed.load(Ordering::Relaxed),
                written as u64
            );
        }
    }
}
