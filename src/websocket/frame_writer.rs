//! Writes one connection's frames: the codec, the transport's half, and the messages that are not
//! written yet.
//!
//! It knows no queue: whoever holds it fills [`FrameWriter::messages`] and asks afterwards
//! [what was done](FrameWriter::take_done). See [`send_queue`](super::send_queue).

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use tungstenite::protocol::frame::CloseFrame as WireCloseFrame;
use tungstenite::protocol::{Role as WireRole, WebSocketConfig, WebSocketContext};

use super::control::{Frames, SendClose};
use crate::message::Message;
use crate::net::transport::{WriteHalf, is_timeout};
use crate::panics::drop_caught;

/// A thread that puts messages faster than this is better served by the writer thread, which sends
/// many at once.
const RECENTLY: Duration = Duration::from_micros(20);

/// How much is collected before it is written, unless the queue is empty first.
const WRITE_BUFFER: usize = 64 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    Yes,
    No,
}

/// Writes frames; each connection has one.
///
/// A write that returns an error of [`is_timeout`]'s kind has written what the transport took: the
/// rest waits in the codec's buffer, or in `messages`. Any other error is final, because the stream
/// may have ended within a frame.
pub(crate) struct FrameWriter {
    codec: WebSocketContext,
    role: WireRole,
    out: Out,
    json: bool,
    /// To be encoded next.
    messages: VecDeque<Message>,
    last_flush: Option<Instant>,
    /// A write has begun and not returned. If another begins, the transport has panicked in it.
    writing: bool,
    /// A ping was encoded and is not written yet.
    ping_encoded: bool,
    /// A message has made the codec's buffer longer than it is otherwise.
    has_grown: bool,
    /// How many messages, and how many bytes of frames, were encoded.
    encoded_messages: u64,
    encoded_bytes: u64,
    unwritten: Unwritten,
    /// Up to where `take_done` has reported.
    reported: Reported,
    /// There was a ping among what was written since then.
    ping_written: bool,
}

/// The messages that were encoded and have not been written to the last byte.
struct Unwritten {
    /// Where each of them ends among all bytes of the connection.
    ends: VecDeque<u64>,
    /// The messages themselves, where another connection may send them.
    messages: Option<VecDeque<Message>>,
}

#[derive(Default)]
struct Reported {
    messages: u64,
    bytes: u64,
}

/// What was written to the transport since the last report.
pub(crate) struct Done {
    /// Messages, to the last byte.
    pub(super) messages: u64,
    pub(super) bytes: u64,
    /// Every ping that was encoded has been written.
    pub(super) pings: bool,
}

/// What a connection leaves to the next.
pub(crate) struct Unsent {
    /// Messages that were not written, in order; those that were encoded only where they are kept.
    pub(super) messages: VecDeque<Message>,
    /// How many messages were encoded, and neither written nor kept.
    pub(super) lost: usize,
    /// How many messages were written.
    pub(super) written: u64,
}

impl FrameWriter {
    /// Creates the frame writer of a connection. With `keep`, messages are kept until they have
    /// been written.
    pub(crate) fn new(
        role: WireRole,
        half: Box<dyn WriteHalf>,
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
            json,
            messages: VecDeque::new(),
            last_flush: None,
            writing: false,
            ping_encoded: false,
            has_grown: false,
            encoded_messages: 0,
            encoded_bytes: 0,
            unwritten: Unwritten {
                ends: VecDeque::new(),
                messages: keep.then(VecDeque::new),
            },
            reported: Reported::default(),
            ping_written: false,
        })
    }

    /// Returns the messages to be encoded next, to add to them.
    pub(super) fn messages(&mut self) -> &mut VecDeque<Message> {
        &mut self.messages
    }

    /// Returns how many messages were encoded.
    pub(super) fn encoded(&self) -> u64 {
        self.encoded_messages
    }

    /// Returns how many messages wait here: to be encoded, or to be written to the last byte.
    pub(super) fn in_writer(&self) -> usize {
        self.messages.len() + self.unwritten.ends.len()
    }

    /// Returns whether something was written so lately that more is likely to come.
    pub(super) fn wrote_recently(&self) -> bool {
        self.last_flush
            .is_some_and(|then| then.elapsed() < RECENTLY)
    }

    /// Returns what was written since the last call.
    pub(super) fn take_done(&mut self) -> Done {
        let written = Reported {
            messages: self.written(),
            bytes: self.out.written,
        };
        let before = std::mem::replace(&mut self.reported, written);
        Done {
            messages: self.reported.messages - before.messages,
            bytes: self.reported.bytes - before.bytes,
            pings: std::mem::take(&mut self.ping_written),
        }
    }

    /// Encodes control frames.
    pub(super) fn write_control(&mut self, frames: Frames, wait: Wait) -> tungstenite::Result<()> {
        if frames.pongs.is_empty() && frames.pings.is_empty() {
            return Ok(());
        }
        self.attempt(wait, |writer| {
            writer.ping_encoded |= !frames.pings.is_empty();
            let pongs = frames.pongs.into_iter().map(tungstenite::Message::Pong);
            let pings = frames.pings.into_iter().map(tungstenite::Message::Ping);
            let mut blocked = Ok(());
            for frame in pongs.chain(pings) {
                match writer.encode(frame) {
                    // It is encoded all the same, and so must the others be.
                    Err(tungstenite::Error::Io(error)) if is_timeout(&error) => {
                        blocked = Err(error.into());
                    }
                    other => other?,
                }
            }
            blocked
        })
    }

    /// Encodes the messages.
    pub(super) fn write_messages(&mut self, wait: Wait) -> tungstenite::Result<()> {
        self.attempt(wait, |writer| {
            while let Some(message) = writer.messages.pop_front() {
                writer.encode_message(message)?;
            }
            Ok(())
        })
    }

    /// Writes all that is encoded.
    pub(super) fn flush(&mut self, wait: Wait) -> tungstenite::Result<()> {
        let flushed = self.attempt(wait, Self::flush_codec);
        self.last_flush = Some(Instant::now());
        flushed
    }

    /// Writes the Close frame, after which nothing is written. All before it has been flushed.
    pub(super) fn write_close(&mut self, close: SendClose) -> tungstenite::Result<()> {
        let frame = close.frame.map(|frame| WireCloseFrame {
            code: frame.code.into(),
            reason: frame.reason.into(),
        });
        self.attempt(Wait::Yes, |writer| {
            let body = frame.as_ref().map_or(0, |frame| 2 + frame.reason.len());
            writer.encoded_bytes += frame_length(body, writer.role);
            writer.codec.close(&mut writer.out, frame)?;
            writer.flush_codec()?;
            if !close.after_queue {
                // Nothing more is expected from the peer, so it must not wait for this side to end
                // the stream in return.
                let _ = writer.out.half.shutdown_write();
            }
            Ok(())
        })
    }

    fn attempt(
        &mut self,
        wait: Wait,
        write: impl FnOnce(&mut Self) -> tungstenite::Result<()>,
    ) -> tungstenite::Result<()> {
        if std::mem::replace(&mut self.writing, true) {
            return Err(io::Error::other("the transport panicked").into());
        }
        self.out.wait = wait;
        let result = write(self);
        self.forget_written();
        self.writing = false;
        result
    }

    fn encode_message(&mut self, message: Message) -> tungstenite::Result<()> {
        let wire = message.to_wire(self.json);
        self.encoded_messages += 1;
        let end = self.encoded_bytes + frame_length(wire.len(), self.role);
        self.unwritten.ends.push_back(end);
        // What it holds may be the user's, with a destructor of its own: that of the codec is not
        // the last.
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
        encoded
    }

    /// Encodes a frame, and writes it if much has come together. After an error of the transport it
    /// is encoded.
    fn encode(&mut self, message: tungstenite::Message) -> tungstenite::Result<()> {
        self.encoded_bytes += frame_length(message.len(), self.role);
        self.has_grown |= message.len() > WRITE_BUFFER;
        self.codec.write(&mut self.out, message)
    }

    fn flush_codec(&mut self) -> tungstenite::Result<()> {
        self.codec.flush(&mut self.out)?;
        debug_assert_eq!(self.encoded_bytes, self.out.written);
        if std::mem::take(&mut self.has_grown) {
            // Its buffer is as long as the longest message was.
            self.codec = writing_codec(self.role);
        }
        if std::mem::take(&mut self.ping_encoded) {
            self.ping_written = true;
            // These are as long as the longest burst was. That is seldom needed again soon, and
            // pings are seldom enough to give it back.
            self.forget_written();
            self.unwritten.ends.shrink_to_fit();
            if let Some(messages) = &mut self.unwritten.messages {
                messages.shrink_to_fit();
            }
        }
        Ok(())
    }

    /// Forgets the messages that have been written to the last byte.
    fn forget_written(&mut self) {
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
    }

    /// Returns how many messages have been written to the last byte.
    fn written(&self) -> u64 {
        self.encoded_messages - self.unwritten.ends.len() as u64
    }

    /// Ends the connection's writing.
    pub(crate) fn end(mut self) -> Unsent {
        self.forget_written();
        let written = self.written();
        let mut messages = self.unwritten.messages.unwrap_or_default();
        let lost = self.unwritten.ends.len() - messages.len();
        messages.append(&mut self.messages);
        Unsent {
            messages,
            lost,
            written,
        }
    }
}

/// Creates a codec that has nothing to write yet. It learns nothing of what is read.
fn writing_codec(role: WireRole) -> WebSocketContext {
    let config = WebSocketConfig::default()
        .read_buffer_size(0)
        .write_buffer_size(WRITE_BUFFER);
    WebSocketContext::new(role, Some(config))
}

/// Returns how long a frame is (RFC 6455, section 5.2).
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
    use super::super::control::Control;
    use super::super::send_queue::{MESSAGES_PER_TURN, Progress, SendQueue};
    use super::*;
    use parking_lot::Mutex;
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    /// A socket that takes nothing without waiting.
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
        let send_queue = SendQueue::new(1 << 20);
        let wire = Arc::new(Mutex::new(Vec::new()));
        let half = Box::new(Full(wire.clone()));
        let mut writer = FrameWriter::new(WireRole::Server, half, false, false);
        for _ in 0..10 {
            send_queue.put_nowait(vec![0; 16_000].into()).unwrap();
        }
        // More than is collected before it is written.
        assert!(!send_queue.write_now(&mut writer));
        let words = ["pong one", "pong two", "the ping"];
        send_queue.pong(words[0].into());
        send_queue.pong(words[1].into());
        send_queue.ping(words[2].into());
        assert!(!send_queue.write_now(&mut writer));
        assert_eq!(send_queue.ping_written(), None);
        assert_eq!(send_queue.write(&mut writer).unwrap(), Progress::Drained);
        assert!(send_queue.ping_written().is_some());
        let wire = wire.lock();
        for word in words {
            let found = wire.windows(word.len()).any(|part| part == word.as_bytes());
            assert!(found, "{word}");
        }
    }

    #[test]
    fn a_thread_that_puts_one_message_does_not_write_for_all_the_others() {
        let send_queue = SendQueue::new(1 << 20);
        let half = Box::new(Full(Arc::default()));
        let mut writer = FrameWriter::new(WireRole::Server, half, false, false);
        for _ in 0..10 * MESSAGES_PER_TURN {
            send_queue.put_nowait("x".into()).unwrap();
        }
        assert!(!send_queue.write_now(&mut writer));
        assert_eq!(writer.encoded(), MESSAGES_PER_TURN as u64);
        assert_eq!(send_queue.write(&mut writer).unwrap(), Progress::Drained);
        assert_eq!(writer.written(), 10 * MESSAGES_PER_TURN as u64);
    }

    /// A socket that takes this many bytes and then fails.
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
            let send_queue = SendQueue::new(1 << 30);
            let half = Box::new(Breaks(broken_after));
            let mut writer = FrameWriter::new(WireRole::Client, half, false, true);
            for n in 0..COUNT {
                let payload = vec![n as u8; sizes(n)];
                send_queue.put_nowait(payload.into()).unwrap();
            }
            send_queue.write(&mut writer).unwrap_err();
            assert_eq!(send_queue.take_back(writer.end(), false), 0);
            let written = ends.iter().filter(|end| **end <= broken_after).count();
            let mut left = VecDeque::new();
            let all = |_: &mut Control, _| ((), true);
            for n in written..COUNT {
                send_queue.consumer().take(&mut left, 1, all);
                let message = left.pop_front().unwrap();
                assert_eq!(message.as_bytes().unwrap()[0], n as u8);
            }
            assert_eq!(
                send_queue.sent().unconfirmed.load(Ordering::Relaxed),
                written as u64
            );
        }
    }
}
