//! A layer between the transport and the codec that inflates compressed messages (RFC 7692, section
//! 7.2.2).
//!
//! Bytes of other frames are passed on unchanged. A compressed message becomes a plain one, in as
//! many frames as its data fills buffers of the codec: so no more than one of these is inflated
//! ahead of the codec, which checks the size of the message with each frame.
//!
//! This layer rejects only data that cannot be inflated. Everything else that RFC 6455 and RFC 7692
//! forbid is passed on as it is, and the codec rejects it.

use std::io::{self, Cursor};

use flate2::{Decompress, FlushDecompress, Status};
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Data, OpCode};

use super::direction::{Direction, TAIL};
use super::spares::Spares;

/// Inflaters with their window, for messages without context takeover.
static SPARES: Spares<u8, Decompress> = Spares::new();

const CONTINUATION: OpCode = OpCode::Data(Data::Continue);

/// The error for compressed data that is not deflated data.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("a compressed message cannot be inflated")]
pub(crate) struct InvalidData;

/// Reads a peer's bytes for the codec.
#[derive(Debug)]
pub(crate) struct InflateReader {
    direction: Direction,
    /// `None` before the first message. Without context takeover, `None` between messages.
    inflater: Option<Decompress>,
    /// Bytes that were read and not processed.
    input: Input,
    state: State,
    /// The compressed message whose frames are being read.
    message: Option<Message>,
}

#[derive(Debug)]
enum State {
    /// This number of bytes is passed on. A head follows.
    PassOn(u64),
    /// The payload of a compressed message's frame.
    Payload(Payload),
    /// The message's last frame is complete, and this number of bytes of the [`TAIL`] is inflated.
    Tail(usize),
    Failed,
}

#[derive(Debug)]
struct Payload {
    /// The number of bytes that have not been inflated.
    left: u64,
    /// The mask of the next byte to unmask, and of those after it.
    mask: Option<[u8; 4]>,
    is_final: bool,
}

#[derive(Debug)]
struct Message {
    /// The opcode of the next frame for the codec.
    opcode: OpCode,
    is_masked: bool,
    /// Whether all data so far is a complete deflate stream (section 7.2.3.4).
    has_ended: bool,
    /// Whether the inflater may have data for which there was no space.
    has_more: bool,
}

impl InflateReader {
    pub(super) fn new(mut direction: Direction) -> Self {
        // zlib has no window of 8 bits. What was compressed with that can be inflated with 9.
        direction.window_bits = direction.window_bits.max(9);
        InflateReader {
            direction,
            inflater: None,
            input: Input::default(),
            state: State::PassOn(0),
            message: None,
        }
    }

    /// Reads for the codec. `source` reads from the connection.
    ///
    /// At the start of a frame, `buffer` must have space for a whole head. The codec ensures that
    /// before it reads.
    ///
    /// # Errors
    ///
    /// The errors of `source`, [`WouldBlock`](io::ErrorKind::WouldBlock) if more has to be read
    /// before bytes can be passed on, and [`InvalidData`] after the last byte before it.
    pub(crate) fn read(
        &mut self,
        buffer: &mut [u8],
        source: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        match self.process(buffer)? {
            0 => {}
            n => return Ok(n),
        }
        let n = source(buffer)?;
        if n == 0 {
            return Ok(0);
        }
        if let (State::PassOn(left), true) = (&mut self.state, self.input.is_empty()) {
            if *left >= n as u64 {
                *left -= n as u64;
                return Ok(n);
            }
        }
        self.input.add(&buffer[..n]);
        match self.process(buffer)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            n => Ok(n),
        }
    }

    /// Processes what has been read, as far as the buffer has space. Returns the number of bytes
    /// for the codec.
    fn process(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut out = Output::new(buffer);
        let invalid = loop {
            match self.step(&mut out) {
                Ok(true) => {}
                Ok(false) => break false,
                Err(InvalidData) => break true,
            }
        };
        if let Some(message) = &mut self.message {
            out.end_fragment(message, false);
        }
        if invalid {
            self.state = State::Failed;
        }
        match (out.len, &self.state) {
            (0, State::Failed) => Err(io::Error::new(io::ErrorKind::InvalidData, InvalidData)),
            (n, _) => Ok(n),
        }
    }

    /// Does one step. Returns whether another one is possible.
    fn step(&mut self, out: &mut Output<'_>) -> Result<bool, InvalidData> {
        match &mut self.state {
            State::PassOn(0) => Ok(self.read_head(out)),
            State::PassOn(left) => {
                let n = out.copy(self.input.next(*left));
                self.input.skip(n);
                *left -= n as u64;
                Ok(n > 0)
            }
            State::Payload(_) => self.inflate_payload(out),
            State::Tail(_) => self.inflate_tail(out),
            State::Failed => Ok(false),
        }
    }

    /// Reads a frame's head. Returns `false` if it is incomplete, or if there is no space.
    fn read_head(&mut self, out: &mut Output<'_>) -> bool {
        let mut cursor = Cursor::new(self.input.all());
        let head = match FrameHeader::parse(&mut cursor) {
            Ok(Some(head)) => Some(head),
            Ok(None) => return false,
            // The opcode is reserved.
            Err(_) => None,
        };
        let size = cursor.position();
        let kind = head
            .as_ref()
            .map_or(Kind::Invalid, |(head, _)| self.kind(head));
        match (kind, head) {
            (Kind::Compressed, Some((head, left))) => {
                if self.message.is_none() {
                    let is_masked = head.mask.is_some();
                    // The codec sees this frame before all that follow, even if it has no data.
                    if out.space_for_data(is_masked).is_none() {
                        return false;
                    }
                    self.message = Some(Message {
                        opcode: head.opcode,
                        is_masked,
                        has_ended: false,
                        has_more: false,
                    });
                }
                self.input.skip(size as usize);
                self.state = State::Payload(Payload {
                    left,
                    mask: head.mask,
                    is_final: head.is_final,
                });
            }
            (Kind::Plain, Some((_, length))) => {
                if let Some(message) = &mut self.message {
                    out.end_fragment(message, false);
                }
                self.state = State::PassOn(size.saturating_add(length));
            }
            (Kind::Invalid, _) | (_, None) => {
                if let Some(message) = &mut self.message {
                    out.end_fragment(message, false);
                }
                self.message = None;
                self.state = State::PassOn(u64::MAX);
            }
        }
        true
    }

    fn kind(&self, head: &FrameHeader) -> Kind {
        let OpCode::Data(data) = head.opcode else {
            return Kind::Plain;
        };
        let reserved = (head.rsv1, head.rsv2 || head.rsv3);
        match (&self.message, data, reserved) {
            (None, Data::Text | Data::Binary, (true, false)) => Kind::Compressed,
            (None, ..) => Kind::Plain,
            (Some(message), Data::Continue, (false, false)) => {
                match message.is_masked == head.mask.is_some() {
                    true => Kind::Compressed,
                    false => Kind::Invalid,
                }
            }
            (Some(_), ..) => Kind::Invalid,
        }
    }

    fn inflate_payload(&mut self, out: &mut Output<'_>) -> Result<bool, InvalidData> {
        let (State::Payload(payload), Some(message)) = (&mut self.state, &mut self.message) else {
            return Ok(false);
        };
        if !message.has_more {
            if payload.left == 0 {
                self.state = match (payload.is_final, message.has_ended) {
                    (false, _) => State::PassOn(0),
                    // If a stream has ended, there is no open block that the tail would end.
                    (true, true) => State::Tail(TAIL.len()),
                    (true, false) => State::Tail(0),
                };
                return Ok(true);
            }
            if self.input.is_empty() {
                return Ok(false);
            }
        }
        let Some(space) = out.space_for_data(message.is_masked) else {
            return Ok(false);
        };
        let available = space.len();
        let data = self.input.unmasked(payload.left, &mut payload.mask);
        let inflater = inflater(&mut self.inflater, self.direction);
        let inflated = inflate(inflater, data, space)?;
        self.input.skip(inflated.read);
        payload.left -= inflated.read as u64;
        message.has_ended = inflated.has_ended;
        message.has_more = inflated.written == available && !inflated.has_ended;
        out.add_data(inflated.written);
        Ok(true)
    }

    fn inflate_tail(&mut self, out: &mut Output<'_>) -> Result<bool, InvalidData> {
        let (State::Tail(done), Some(message)) = (&mut self.state, &mut self.message) else {
            return Ok(false);
        };
        let Some(space) = out.space_for_data(message.is_masked) else {
            return Ok(false);
        };
        let available = space.len();
        let inflater = inflater(&mut self.inflater, self.direction);
        let inflated = inflate(inflater, &TAIL[*done..], space)?;
        *done += inflated.read;
        out.add_data(inflated.written);
        if *done == TAIL.len() && inflated.written < available {
            out.end_fragment(message, true);
            let Direction {
                takeover,
                window_bits,
            } = self.direction;
            if let Some(mut inflater) = self.inflater.take_if(|_| !takeover) {
                inflater.reset(false);
                SPARES.keep(window_bits, inflater);
            }
            self.message = None;
            self.state = State::PassOn(0);
        }
        Ok(true)
    }
}

/// What a frame is for this layer.
enum Kind {
    /// A part of a compressed message.
    Compressed,
    /// A frame to pass on.
    Plain,
    /// A frame that the codec rejects.
    Invalid,
}

fn inflater(inflater: &mut Option<Decompress>, direction: Direction) -> &mut Decompress {
    let Direction {
        takeover,
        window_bits,
    } = direction;
    let spare = || match takeover {
        true => None,
        false => SPARES.take(&window_bits),
    };
    inflater.get_or_insert_with(|| {
        spare().unwrap_or_else(|| Decompress::new_with_window_bits(false, window_bits))
    })
}

struct Inflated {
    read: usize,
    written: usize,
    /// Whether the data was the end of a deflate stream.
    has_ended: bool,
}

fn inflate(
    inflater: &mut Decompress,
    data: &[u8],
    space: &mut [u8],
) -> Result<Inflated, InvalidData> {
    let (before_in, before_out) = (inflater.total_in(), inflater.total_out());
    let status = inflater
        .decompress(data, space, FlushDecompress::Sync)
        .map_err(|_| InvalidData)?;
    let inflated = Inflated {
        read: (inflater.total_in() - before_in) as usize,
        written: (inflater.total_out() - before_out) as usize,
        has_ended: status == Status::StreamEnd,
    };
    if inflated.has_ended {
        // The data after it is another stream.
        inflater.reset(false);
    } else if inflated.read == 0 && inflated.written == 0 && !data.is_empty() {
        return Err(InvalidData);
    }
    Ok(inflated)
}

/// Bytes that were read and not processed.
#[derive(Debug, Default)]
struct Input {
    bytes: Vec<u8>,
    /// The number of processed bytes.
    processed: usize,
    /// The number of unmasked bytes, counting the processed ones.
    unmasked: usize,
}

impl Input {
    fn is_empty(&self) -> bool {
        self.bytes.len() == self.processed
    }

    fn all(&self) -> &[u8] {
        &self.bytes[self.processed..]
    }

    /// Returns the next bytes, and at most this number.
    fn next(&self, limit: u64) -> &[u8] {
        let all = self.all();
        &all[..all.len().min(usize::try_from(limit).unwrap_or(usize::MAX))]
    }

    /// Returns the next bytes, and at most this number. Unmasks those that are masked.
    fn unmasked(&mut self, limit: u64, mask: &mut Option<[u8; 4]>) -> &[u8] {
        let length = self.next(limit).len();
        let end = self.processed + length;
        let begin = self.unmasked.clamp(self.processed, end);
        if let Some(mask) = mask {
            for (byte, mask) in self.bytes[begin..end].iter_mut().zip(mask.iter().cycle()) {
                *byte ^= mask;
            }
            mask.rotate_left((end - begin) % 4);
        }
        self.unmasked = end;
        &self.bytes[self.processed..end]
    }

    fn skip(&mut self, n: usize) {
        self.processed += n;
        if self.is_empty() {
            // Frees the memory, because the connection may be idle now.
            *self = Input::default();
        }
    }

    fn add(&mut self, bytes: &[u8]) {
        // What is left is a part of a head: few bytes.
        self.bytes.drain(..self.processed);
        self.unmasked = self.unmasked.saturating_sub(self.processed);
        self.processed = 0;
        self.bytes.extend_from_slice(bytes);
    }
}

/// The codec's buffer.
struct Output<'a> {
    buffer: &'a mut [u8],
    /// The number of bytes for the codec.
    len: usize,
    /// The frame after them that is being filled.
    fragment: Option<Fragment>,
}

struct Fragment {
    /// The size of the space for its head.
    head: usize,
    data: usize,
}

impl<'a> Output<'a> {
    fn new(buffer: &'a mut [u8]) -> Self {
        Output {
            buffer,
            len: 0,
            fragment: None,
        }
    }

    /// Copies as many bytes as there is space for. No frame is being filled.
    fn copy(&mut self, bytes: &[u8]) -> usize {
        let space = &mut self.buffer[self.len..];
        let n = bytes.len().min(space.len());
        space[..n].copy_from_slice(&bytes[..n]);
        self.len += n;
        n
    }

    /// Returns the space for data of a frame. Begins a frame if none is being filled. Returns
    /// `None` if there is no space.
    fn space_for_data(&mut self, is_masked: bool) -> Option<&mut [u8]> {
        let free = self.buffer.len() - self.len;
        let fragment = match &mut self.fragment {
            Some(fragment) => fragment,
            none => {
                let head = head_size(free, is_masked);
                if free <= head {
                    return None;
                }
                none.insert(Fragment { head, data: 0 })
            }
        };
        let space = &mut self.buffer[self.len + fragment.head + fragment.data..];
        (!space.is_empty()).then_some(space)
    }

    fn add_data(&mut self, n: usize) {
        if let Some(fragment) = &mut self.fragment {
            fragment.data += n;
        }
    }

    /// Completes the frame that is being filled, if there is one. An empty one is dropped, unless
    /// it is the first or the last of its message.
    fn end_fragment(&mut self, message: &mut Message, is_final: bool) {
        let Some(Fragment { head, data }) = self.fragment.take() else {
            return;
        };
        if data == 0 && !is_final && message.opcode == CONTINUATION {
            return;
        }
        let header = FrameHeader {
            is_final,
            opcode: std::mem::replace(&mut message.opcode, CONTINUATION),
            // The data is not masked, and this mask does not change it.
            mask: message.is_masked.then_some([0; 4]),
            ..FrameHeader::default()
        };
        let size = header.len(data as u64);
        let begin = self.len + head;
        // The head of less data than there was space for is shorter.
        self.buffer
            .copy_within(begin..begin + data, self.len + size);
        let mut space = &mut self.buffer[self.len..self.len + size];
        // Writing to a slice that is long enough cannot fail.
        let _ = header.format(data as u64, &mut space);
        self.len += size + data;
    }
}

/// Returns the size of the head of a frame that fills this many bytes, with its head.
fn head_size(frame: usize, is_masked: bool) -> usize {
    let mask = if is_masked { 4 } else { 0 };
    match frame {
        0..=127 => 2 + mask,
        128..=0x1_0000 => 4 + mask,
        _ => 10 + mask,
    }
}

#[cfg(test)]
impl InflateReader {
    pub(super) fn has_inflater(&self) -> bool {
        self.inflater.is_some()
    }
}

#[cfg(any(test, fuzzing))]
impl InflateReader {
    /// Returns the size of the memory for bytes that have not been processed.
    pub(crate) fn buffered(&self) -> usize {
        self.input.bytes.capacity()
    }
}
