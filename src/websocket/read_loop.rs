//! The reader thread's work with one connection: it reads, decodes and publishes messages, and
//! finishes the closing.

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tungstenite::error::{CapacityError, ProtocolError};
use tungstenite::protocol::{Role as WireRole, WebSocketConfig, WebSocketContext};

use super::keepalive::{Due, Keepalive};
use super::session::{Input, LAST_WAIT, PeerClose, Phase};
use super::shared::{Received, Shared};
use crate::error::{CloseFrame, Error};
use crate::message::{MESSAGE_OVERHEAD, Message};
use crate::net::deflate::{InflateReader, InvalidData};
use crate::net::frame_reader::{FrameReader, StreamEnd};
use crate::net::transport::{ReadHalf, is_timeout};
use crate::pubsub::Publisher;

/// The maximum number of messages that are published at a time. Messages that arrive together are
/// published together: a subscriber that wakes up for the first finds the others, and processes
/// them while the next ones are decoded. If they were published one by one, the two threads would
/// contend for the same cache lines all the time.
const BATCH: usize = 64;

/// The length of the messages that are published at a time, in bytes. The message that exceeds it
/// is among them. One read of compressed messages may contain a thousand times as many bytes.
const BATCH_BYTES: usize = 64 << 10;

/// The read half of a connection, after its handshake.
pub(crate) struct ReadSide {
    pub(crate) half: Box<dyn ReadHalf>,
    /// The bytes that were read with the handshake and follow it.
    pub(crate) rest: Vec<u8>,
    pub(crate) role: WireRole,
    /// `None` if the peer's messages are not compressed.
    pub(crate) inflate: Option<InflateReader>,
}

/// Why the reader stopped reading messages.
enum StopReason {
    /// The peer's Close frame.
    Peer(Option<CloseFrame>),
    /// The peer violated the protocol, and is sent this close code.
    Violation(u16, Error),
    /// The stream ended.
    Lost(io::Error),
    /// The peer did not answer a ping, or sent no message in time.
    TimedOut(Error),
}

/// Reads and publishes messages until the connection is shut down.
pub(crate) fn read(shared: &Shared, opened: ReadSide, publisher: &mut Publisher<Message>) {
    let options = &shared.options;
    let config = WebSocketConfig::default()
        .read_buffer_size(options.read_buffer)
        .max_message_size(Some(options.longest_message()))
        // `FrameReader` checks that.
        .max_frame_size(None);
    // Not `from_partially_read`: its buffer grows by a few bytes at a time once messages that share
    // it are kept, and each time costs a system call.
    let mut codec = WebSocketContext::new(opened.role, Some(config));
    let mut stream = CodecStream {
        inflate: opened.inflate,
        frames: FrameReader::new(opened.role, options.longest_message()),
        source: ByteSource {
            rest: io::Cursor::new(opened.rest),
            may_wait: true,
            half: opened.half,
            keepalive: Keepalive::new(
                options.ping_interval,
                options.ping_timeout,
                options.receive_timeout,
            ),
            received: &shared.received,
            surplus: 0,
            read_buffer: options.read_buffer,
        },
    };
    // The messages of the last connection come first.
    publisher.drain_backlog();
    let mut batch = Vec::new();
    let reason = read_loop(shared, &mut codec, &mut stream, &mut batch, publisher);
    drop(codec);
    publish(shared, &mut batch, publisher);
    finish_closing(shared, stream.source.half, reason);
}

/// The main loop: reads a message, publishes if there are many or if no more can be read without
/// waiting, and handles the keepalive.
fn read_loop(
    shared: &Shared,
    codec: &mut WebSocketContext,
    stream: &mut CodecStream<'_>,
    batch: &mut Vec<Message>,
    publisher: &mut Publisher<Message>,
) -> StopReason {
    use tungstenite::Message as Wire;
    let json = shared.options.json;
    let mut batch_bytes = 0;
    loop {
        // Messages that have been decoded are published before the next wait.
        stream.source.may_wait = batch.is_empty();
        let mut all_read = false;
        match codec.read(stream) {
            Ok(Wire::Text(mut text)) => {
                batch_bytes += text.len();
                if stream.source.must_copy(text.len()) {
                    text = text.as_str().into();
                }
                batch.push(Message::from_wire_text(text, json));
            }
            Ok(Wire::Binary(mut bytes)) => {
                batch_bytes += bytes.len();
                if stream.source.must_copy(bytes.len()) {
                    bytes = Bytes::copy_from_slice(&bytes);
                }
                batch.push(bytes.into());
            }
            Ok(Wire::Ping(payload)) => {
                // The pong is a copy, because it may be queued for a while and would keep the
                // buffer. This thread writes it, or the writer thread if that is busy.
                shared.send_queue.pong(Bytes::copy_from_slice(&payload));
            }
            Ok(Wire::Pong(payload)) => {
                if shared.send_queue.answered(&payload) {
                    stream.source.keepalive.answered();
                }
            }
            // Never read: `FrameReader` parses Close frames, and raw frames are only written.
            Ok(Wire::Close(_) | Wire::Frame(_)) => {}
            Err(tungstenite::Error::Io(error)) if is_timeout(&error) => all_read = true,
            Err(error) => return stop_reason(error),
        }
        if !batch.is_empty() {
            stream.source.keepalive.message_arrived();
        }
        if all_read || batch.len() == BATCH || batch_bytes >= BATCH_BYTES {
            publish(shared, batch, publisher);
            batch_bytes = 0;
        }
        let ByteSource {
            keepalive, half, ..
        } = &mut stream.source;
        match keepalive.due(|| shared.send_queue.ping_written()) {
            None => {}
            // No ping follows a Close frame. The peer may be slow to answer that: the deadline of
            // the closing limits the wait.
            Some(_) if shared.lifecycle.phase() == Phase::Closing => {
                if let Err(error) = keepalive.stop(&mut **half) {
                    return StopReason::Lost(error);
                }
            }
            Some(Due::Ping(payload)) => shared.send_queue.ping(Bytes::copy_from_slice(&payload)),
            Some(Due::TimedOut(after)) => {
                return StopReason::TimedOut(Error::PingTimeout { after });
            }
            Some(Due::NoMessage(after)) => {
                return StopReason::TimedOut(Error::ReceiveTimeout { after });
            }
        }
    }
}

/// Publishes the decoded messages.
fn publish(shared: &Shared, batch: &mut Vec<Message>, publisher: &mut Publisher<Message>) {
    count(&shared.received.messages, batch.len());
    publisher.put_batch(batch);
}

fn stop_reason(error: tungstenite::Error) -> StopReason {
    use tungstenite::Error as Wire;
    let violation = |code, reason| StopReason::Violation(code, Error::Protocol { code, reason });
    let too_big = |size, limit| StopReason::Violation(1009, Error::MessageTooBig { size, limit });
    match error {
        Wire::Io(error) => match StreamEnd::of(error) {
            Ok(StreamEnd::Close(frame)) => StopReason::Peer(frame),
            Ok(StreamEnd::BadClose(code, reason)) => violation(code, reason),
            Ok(StreamEnd::TooLong(size, limit)) => {
                too_big(usize::try_from(size).unwrap_or(usize::MAX), limit)
            }
            Err(error) if error.get_ref().is_some_and(|it| it.is::<InvalidData>()) => {
                violation(1007, error.to_string())
            }
            Err(error) => StopReason::Lost(error),
        },
        Wire::Protocol(ProtocolError::ResetWithoutClosingHandshake)
        | Wire::ConnectionClosed
        | Wire::AlreadyClosed => StopReason::Lost(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the peer ended the stream without a Close frame",
        )),
        Wire::Capacity(CapacityError::MessageTooLong { size, max_size }) => too_big(size, max_size),
        Wire::Utf8(_) => violation(1007, "text that is not UTF-8".to_owned()),
        Wire::Protocol(error) => violation(1002, error.to_string()),
        other => violation(1002, other.to_string()),
    }
}

/// Reports why reading stopped. Then reads and ignores bytes until the peer ends the stream or the
/// connection is shut down.
fn finish_closing(shared: &Shared, mut half: Box<dyn ReadHalf>, reason: StopReason) {
    let end = match reason {
        StopReason::Peer(frame) => {
            match &frame {
                Some(frame) => {
                    crate::logging::debug!("{}: the peer is closing with {frame}", shared.name)
                }
                None => crate::logging::debug!("{}: the peer is closing", shared.name),
            }
            let after_all = shared.send_queue.has_begun_to_close();
            shared.step(Input::PeerClosed(PeerClose { frame, after_all }));
            discard(shared, &mut *half);
            Input::ReadEnded(None)
        }
        StopReason::Violation(code, error) => {
            crate::logging::debug!("{}: {error}", shared.name);
            let reason = match &error {
                Error::Protocol { reason, .. } => reason.clone(),
                Error::MessageTooBig { size, limit } => format!(
                    "a message of at least {size} bytes exceeds the receiver's limit of {limit} \
                     bytes"
                ),
                error => error.to_string(),
            };
            let reason = shortened(reason);
            shared.step(Input::Violation(CloseFrame { code, reason }, error));
            // Closing the socket while bytes are unread would reset the connection, and the peer
            // might not receive the reason.
            discard(shared, &mut *half);
            Input::ReadEnded(None)
        }
        StopReason::Lost(error) => Input::ReadEnded(Some(Error::lost(error))),
        StopReason::TimedOut(error) => Input::Failed(error),
    };
    shared.step(end);
    shared.wait_shut_down();
}

/// Reads and ignores everything until the peer ends the stream, or until the deadline of the
/// closing. The peer may not be able to end the stream before its bytes are read.
fn discard(shared: &Shared, half: &mut dyn ReadHalf) {
    let mut bytes = [0; 4096];
    loop {
        let (deadline, written) = shared
            .lifecycle
            .look(|session| (session.deadline(), session.has_written_close()));
        let Some(deadline) = deadline else {
            return;
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Some(left.min(LAST_WAIT));
        if left == Duration::ZERO || half.set_timeout(timeout).is_err() {
            return;
        }
        match half.read(&mut bytes) {
            Ok(1..) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The peer may be waiting for what this side still writes. (Or all has been written,
            // and the writer is about to report that.)
            Err(error) if is_timeout(&error) && !written => {}
            Ok(0) | Err(_) => return,
        }
    }
}

/// Shortens a reason to the 123 bytes that a Close frame allows (RFC 6455, section 5.5).
fn shortened(mut reason: String) -> String {
    let mut end = reason.len().min(123);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason.truncate(end);
    reason
}

/// The codec's stream, which only reads. What the codec writes is ignored, since the send queue
/// answers pings and Close frames.
struct CodecStream<'a> {
    frames: FrameReader,
    inflate: Option<InflateReader>,
    source: ByteSource<'a>,
}

/// The bytes of the connection.
struct ByteSource<'a> {
    /// The bytes that were read with the handshake. They come first.
    rest: io::Cursor<Vec<u8>>,
    /// Whether a read may wait for the peer. If not, a read that would wait returns `WouldBlock`.
    may_wait: bool,
    half: Box<dyn ReadHalf>,
    keepalive: Keepalive,
    received: &'a Received,
    /// The number of bytes that the codec has read and that no message accounts for.
    surplus: usize,
    /// The number of bytes that are read at a time.
    read_buffer: usize,
}

impl ByteSource<'_> {
    /// Accounts for a message of this length. Returns whether it has to be copied.
    ///
    /// A message keeps the buffer that it was read into. Pings, pongs and empty fragments may fill
    /// that buffer, and the limits on queued messages do not count them. So a short message is
    /// copied while messages do not account for more than a buffer's length of the bytes read.
    fn must_copy(&mut self, length: usize) -> bool {
        let copy = self.surplus > self.read_buffer && length < self.read_buffer;
        self.surplus = self.surplus.saturating_sub(length + MESSAGE_OVERHEAD);
        copy
    }

    fn count_read(&mut self, n: usize) -> usize {
        count(&self.received.bytes, n);
        n
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.rest.read(buffer)? {
            0 => {}
            n => return Ok(self.count_read(n)),
        }
        if !self.may_wait {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        loop {
            match self.keepalive.watch(&mut *self.half, buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(n) => return Ok(self.count_read(n)),
            }
        }
    }
}

impl Read for CodecStream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let CodecStream {
            frames,
            inflate,
            source,
        } = self;
        let n = frames.read(buffer, |buffer| match inflate {
            None => source.read(buffer),
            Some(inflate) => inflate.read(buffer, |buffer| source.read(buffer)),
        })?;
        source.surplus = source.surplus.saturating_add(n);
        Ok(n)
    }
}

impl Write for CodecStream<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Adds to a counter that only the reader writes.
fn count(counter: &AtomicU64, n: usize) {
    counter.store(
        counter.load(Ordering::Relaxed) + n as u64,
        Ordering::Relaxed,
    );
}
