//! Writes one connection's frames. It has the codec, the write half of the transport, and the
//! messages that have not been written yet.
//!
//! It does not know the send queue. The thread that has it adds to [`FrameWriter::queues`], and
//! afterwards takes [what was written](FrameWriter::take_done). See
//! [`send_queue`](super::send_queue).
//!
//! A long message is encoded in several frames. After each write to the transport, control frames
//! can be sent before the next frame.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use tungstenite::protocol::frame::CloseFrame as WireCloseFrame;
use tungstenite::protocol::{Role as WireRole, WebSocketConfig, WebSocketContext};

use super::control_frames::{Frames, SendClose, SendFirst};
use super::fragments::{Fragments, WireForm};
use crate::message::Message;
use crate::net::deflate::Deflater;
use crate::net::transport::{WriteHalf, is_timeout};
use crate::options::Options;
use crate::panics::{drop_caught, drop_each};

/// If a thread puts messages at shorter intervals than this, the writer thread writes them, since
/// it can send many at a time.
const RECENTLY: Duration = Duration::from_micros(20);

/// The maximum number of encoded bytes that are collected before they are written. Fewer are
/// written if the queue is empty, and with a smaller [`Options::fragment_size`].
const WRITE_BUFFER: usize = 64 << 10;

/// The maximum size of a message that is written on the thread that puts it, in bytes. Compressing
/// takes longer than writing.
const QUICK: usize = 16 << 10;
const QUICK_TO_COMPRESS: usize = 1 << 10;

/// Whether a write may wait for the transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    Yes,
    No,
}

/// Writes frames. Each connection has one.
///
/// If a write returns an error for which [`is_timeout`] is true, the transport has taken a part,
/// and the rest is in the codec's buffer, in `partial`, in `urgent` or in `messages`. Any other
/// error is final, because the stream may have ended within a frame.
pub(crate) struct FrameWriter {
    codec: WebSocketContext,
    role: WireRole,
    out: Out,
    /// `None` if messages are not compressed.
    deflater: Option<Deflater>,
    json: bool,
    /// The maximum payload of a message's frame.
    fragment_size: usize,
    /// The message of which some frames have been encoded. The other messages follow its last one
    /// (RFC 6455, section 5.4).
    partial: Option<Partial>,
    /// The messages to encode next, after the greeting and before `messages`.
    urgent: VecDeque<Message>,
    /// The messages to encode next.
    messages: VecDeque<Message>,
    last_flush: Option<Instant>,
    /// Whether a write has begun and not returned. If it is set when another write begins, the
    /// transport has panicked.
    writing: bool,
    /// Whether a ping was encoded and has not been written yet.
    ping_encoded: bool,
    /// Whether a long message has made the codec's buffer longer than usual.
    has_grown: bool,
    /// The numbers of completely encoded messages and of encoded bytes, including frame headers.
    encoded_messages: u64,
    encoded_bytes: u64,
    unwritten: Unwritten,
    /// The number of messages that the connection begins with, and that no other one may send.
    greeting: usize,
    /// The numbers that `take_done` has reported so far.
    reported: Reported,
    /// Whether a ping has been written since then.
    ping_written: bool,
}

/// A message that is sent in several frames, or compressed.
struct Partial {
    /// The message itself, which another connection may send.
    message: Message,
    is_urgent: bool,
    fragments: Fragments,
}

/// The messages that were encoded completely and have not been written completely.
struct Unwritten {
    /// The position in the connection's bytes at which each of them ends.
    ends: VecDeque<u64>,
    /// The messages themselves and whether they are urgent, if another connection may send them.
    messages: Option<VecDeque<(Message, bool)>>,
}

#[derive(Default)]
struct Reported {
    messages: u64,
    bytes: u64,
}

/// What was written to the transport since the last report.
pub(crate) struct Done {
    /// The number of messages that were written completely.
    pub(super) messages: u64,
    pub(super) bytes: u64,
    /// Whether pings were encoded and all of them have been written.
    pub(super) pings: bool,
}

/// The messages that a connection has not sent, at its end.
pub(crate) struct Unsent {
    /// The messages that were not written completely, in order: the urgent ones, and the others.
    /// Encoded ones are among them only if they were kept.
    pub(super) urgent: VecDeque<Message>,
    pub(super) messages: VecDeque<Message>,
    /// The number of messages that were encoded, and neither written nor kept.
    pub(super) lost: usize,
    /// The number of messages that were written completely.
    pub(super) written: u64,
}

impl FrameWriter {
    /// Creates the frame writer of a connection. If another connection may follow, messages are
    /// kept until they have been written.
    pub(crate) fn new(role: WireRole, half: Box<dyn WriteHalf>, options: &Options) -> Box<Self> {
        let fragment_size = options.fragment_size;
        let keep = options.reconnect.is_some();
        Box::new(FrameWriter {
            codec: writing_codec(role, fragment_size),
            role,
            out: Out {
                half,
                wait: Wait::Yes,
                written: 0,
            },
            deflater: None,
            json: options.json,
            fragment_size,
            partial: None,
            urgent: VecDeque::new(),
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
            greeting: 0,
            reported: Reported::default(),
            ping_written: false,
        })
    }

    /// Sets how messages are compressed.
    pub(super) fn compress_with(&mut self, deflater: Option<Deflater>) {
        self.deflater = deflater;
    }

    /// Adds the messages that this connection begins with.
    pub(super) fn greet(&mut self, messages: Vec<Message>) {
        self.greeting = messages.len();
        // A queued message has no value: see `Message::weight`.
        let messages = messages.into_iter().map(|it| it.without_value().0);
        self.messages.extend(messages);
    }

    /// Returns the messages to encode next: the urgent ones, and the others. The caller adds to
    /// them.
    pub(super) fn queues(&mut self) -> (&mut VecDeque<Message>, &mut VecDeque<Message>) {
        (&mut self.urgent, &mut self.messages)
    }

    /// Returns whether there is something to encode.
    pub(super) fn has_messages(&self) -> bool {
        self.partial.is_some() || !self.urgent.is_empty() || !self.messages.is_empty()
    }

    /// Returns whether an urgent message would be encoded next. Others stay in the queue, where the
    /// limit counts them.
    pub(super) fn takes_urgent(&self) -> bool {
        self.partial.is_none() && self.urgent.is_empty() && self.has_greeted()
    }

    /// Returns whether the messages that the connection begins with have been encoded.
    fn has_greeted(&self) -> bool {
        self.encoded_messages >= self.greeting as u64
    }

    /// Returns the number of completely encoded messages.
    pub(super) fn encoded(&self) -> u64 {
        self.encoded_messages
    }

    /// Returns the number of messages that have not been encoded, or not been written completely.
    pub(super) fn in_writer(&self) -> usize {
        let partial = usize::from(self.partial.is_some());
        partial + self.urgent.len() + self.messages.len() + self.unwritten.ends.len()
    }

    /// Returns whether the last write was so short a time ago that more messages are likely to
    /// follow.
    pub(super) fn wrote_recently(&self) -> bool {
        self.last_flush
            .is_some_and(|then| then.elapsed() < RECENTLY)
    }

    /// Returns the maximum length of a message that may be written on the thread that puts it.
    pub(super) fn longest_quick(&self) -> usize {
        match self.deflater {
            Some(_) => QUICK_TO_COMPRESS,
            None => QUICK,
        }
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
                    // The frame has been encoded nevertheless. The others must be as well.
                    Err(tungstenite::Error::Io(error)) if is_timeout(&error) => {
                        blocked = Err(error.into());
                    }
                    other => other?,
                }
            }
            blocked
        })
    }

    /// Encodes messages, until there are no more, the transport has taken something, or a part of a
    /// long message was compressed: so control frames that are requested meanwhile follow it.
    pub(super) fn write_messages(&mut self, wait: Wait) -> tungstenite::Result<()> {
        self.attempt(wait, |writer| {
            let before = writer.out.written;
            while writer.has_messages() && writer.out.written == before {
                if !writer.encode_next()? {
                    break;
                }
            }
            Ok(())
        })
    }

    /// Writes everything that has been encoded.
    pub(super) fn flush(&mut self, wait: Wait) -> tungstenite::Result<()> {
        let flushed = self.attempt(wait, Self::flush_codec);
        self.last_flush = Some(Instant::now());
        flushed
    }

    /// Writes the Close frame. Everything before it has been flushed, and nothing is written after
    /// it.
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
            if close.first != SendFirst::Queue {
                // Nothing more is expected from the peer. It need not wait for this side to end the
                // stream.
                let _ = writer.out.half.shutdown_write();
            }
            Ok(())
        })
    }

    /// Calls `write`, and returns an error if an earlier call has panicked.
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

    /// Encodes the next frame, or prepares the next message for it. Returns `false` if there is no
    /// frame yet, because more of a message has to be compressed first.
    fn encode_next(&mut self) -> tungstenite::Result<bool> {
        let Some(partial) = &mut self.partial else {
            self.begin_message()?;
            return Ok(true);
        };
        let Some(frame) = partial.fragments.next_frame(&mut self.deflater)? else {
            // Control frames do not wait until a long message is compressed.
            self.flush_codec()?;
            return Ok(false);
        };
        let is_last = frame.header().is_final;
        let frame = tungstenite::Message::Frame(frame);
        match self.partial.take_if(|_| is_last) {
            Some(Partial {
                message, is_urgent, ..
            }) => self.encode_last(message, is_urgent, frame)?,
            None => {
                self.has_grown = true;
                self.encode(frame)?;
            }
        }
        Ok(true)
    }

    /// Takes the next message. Encodes it if it is one frame without compression.
    fn begin_message(&mut self) -> tungstenite::Result<()> {
        let is_urgent = self.has_greeted() && !self.urgent.is_empty();
        let queue = match is_urgent {
            true => &mut self.urgent,
            false => &mut self.messages,
        };
        let Some(message) = queue.pop_front() else {
            return Ok(());
        };
        let (json, size) = (self.json, self.fragment_size);
        match Fragments::of(&message, json, size, &mut self.deflater) {
            Ok(WireForm::Fragments(fragments)) => {
                // A message of a source may still have a JSON value.
                let message = message.without_value().0;
                self.partial = Some(Partial {
                    message,
                    is_urgent,
                    fragments,
                });
                Ok(())
            }
            Ok(WireForm::Whole(frame)) => self.encode_last(message, is_urgent, frame),
            Err(error) => {
                queue.push_front(message);
                Err(error.into())
            }
        }
    }

    /// Encodes the last frame of a message, or its only one.
    fn encode_last(
        &mut self,
        message: Message,
        is_urgent: bool,
        frame: tungstenite::Message,
    ) -> tungstenite::Result<()> {
        self.encoded_messages += 1;
        let end = self.encoded_bytes + frame_length(payload_length(&frame), self.role);
        self.unwritten.ends.push_back(end);
        // A message may own a user's value, with a destructor that panics. A copy is kept during
        // the encoding, so that the codec does not drop the last one.
        let sent = match &mut self.unwritten.messages {
            Some(messages) => {
                messages.push_back((message.without_value().0, is_urgent));
                None
            }
            None => Some(message),
        };
        let encoded = self.encode(frame);
        drop_caught(sent);
        encoded
    }

    /// Encodes a frame, and writes the encoded bytes if there are many. The frame is encoded even
    /// if the transport returns an error.
    fn encode(&mut self, message: tungstenite::Message) -> tungstenite::Result<()> {
        let payload = payload_length(&message);
        self.encoded_bytes += frame_length(payload, self.role);
        self.has_grown |= payload > WRITE_BUFFER;
        self.codec.write(&mut self.out, message)
    }

    fn flush_codec(&mut self) -> tungstenite::Result<()> {
        self.codec.flush(&mut self.out)?;
        debug_assert_eq!(self.encoded_bytes, self.out.written);
        if std::mem::take(&mut self.has_grown) {
            // A new codec frees the buffer, which is as long as the longest frame.
            self.codec = writing_codec(self.role, self.fragment_size);
        }
        if std::mem::take(&mut self.ping_encoded) {
            self.ping_written = true;
            // Frees the memory of the longest burst of messages. It is seldom needed again soon,
            // and pings are rare enough for this.
            self.forget_written();
            self.unwritten.ends.shrink_to_fit();
            if let Some(messages) = &mut self.unwritten.messages {
                messages.shrink_to_fit();
            }
        }
        Ok(())
    }

    /// Removes the messages that have been written completely from `unwritten`.
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

    /// Returns the number of messages that have been written completely.
    fn written(&self) -> u64 {
        self.encoded_messages - self.unwritten.ends.len() as u64
    }

    /// Returns the messages that have not been sent.
    pub(crate) fn end(mut self) -> Unsent {
        self.forget_written();
        let written = self.written();
        let kept = self.unwritten.messages.unwrap_or_default();
        let mut lost = self.unwritten.ends.len() - kept.len();
        let partial = self.partial.map(|it| (it.message, it.is_urgent));
        let (mut urgent, mut messages) = (VecDeque::new(), VecDeque::new());
        for (message, is_urgent) in kept.into_iter().chain(partial) {
            match is_urgent {
                true => urgent.push_back(message),
                false => messages.push_back(message),
            }
        }
        urgent.append(&mut self.urgent);
        messages.append(&mut self.messages);
        // The next connection has its own greeting.
        let mut greeting = self.greeting.saturating_sub(written as usize);
        let unkept = greeting.min(lost);
        lost -= unkept;
        greeting -= unkept;
        drop_each(messages.drain(..greeting));
        Unsent {
            urgent,
            messages,
            lost,
            written,
        }
    }
}

/// Creates a codec that only writes.
fn writing_codec(role: WireRole, fragment_size: usize) -> WebSocketContext {
    let config = WebSocketConfig::default()
        .read_buffer_size(0)
        .write_buffer_size(fragment_size.min(WRITE_BUFFER));
    WebSocketContext::new(role, Some(config))
}

/// Returns the length of a frame's payload in bytes.
fn payload_length(frame: &tungstenite::Message) -> usize {
    match frame {
        tungstenite::Message::Frame(frame) => frame.payload().len(),
        other => other.len(),
    }
}

/// Returns the length of a frame in bytes (RFC 6455, section 5.2).
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

/// The codec's stream, which only writes.
struct Out {
    half: Box<dyn WriteHalf>,
    wait: Wait,
    /// The number of bytes that the transport has taken.
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
mod tests;
