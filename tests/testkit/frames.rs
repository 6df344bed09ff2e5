//! WebSocket frames (RFC 6455, section 5.2), written and read by other code than the crate's.
#![allow(dead_code)] // Each test file uses its own part.

use std::io::{self, Read};

pub const CONTINUATION: u8 = 0;
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// The longest payload of a control frame.
pub const MAX_CONTROL: usize = 125;

/// What comes before a frame's payload.
#[derive(Debug, Clone, Copy)]
pub struct Head {
    /// The first byte: the final bit, three reserved bits, the opcode.
    pub first: u8,
    pub masked: bool,
    /// Of the payload.
    pub length: u64,
    pub mask: [u8; 4],
    /// Of the head itself.
    pub size: usize,
}

impl Head {
    /// Returns `None` when `bytes` end within the head.
    pub fn read(bytes: &[u8]) -> Option<Head> {
        let (first, second) = (*bytes.first()?, *bytes.get(1)?);
        let extra = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let length = match extra {
            0 => u64::from(second & 0x7f),
            _ => {
                let digits = bytes.get(2..2 + extra)?.iter();
                digits.fold(0, |length, digit| length << 8 | u64::from(*digit))
            }
        };
        let masked = second & 0x80 != 0;
        let mut mask = [0; 4];
        let mut size = 2 + extra;
        if masked {
            mask.copy_from_slice(bytes.get(size..size + 4)?);
            size += 4;
        }
        Some(Head {
            first,
            masked,
            length,
            mask,
            size,
        })
    }

    pub fn is_final(&self) -> bool {
        self.first & 0x80 != 0
    }

    pub fn opcode(&self) -> u8 {
        self.first & 0x0f
    }

    /// Returns the payload of the frame that `bytes` begin with, or `None` when they end within it.
    pub fn payload(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        self.part(bytes, 0, usize::try_from(self.length).ok()?)
    }

    /// As [`payload`](Self::payload), for `length` bytes of the payload from `position` on.
    pub fn part(&self, bytes: &[u8], position: usize, length: usize) -> Option<Vec<u8>> {
        let part = bytes.get(self.size + position..)?.get(..length)?;
        let unmasked = part.iter().zip(position..);
        Some(unmasked.map(|(b, i)| b ^ self.mask[i % 4]).collect())
    }
}

/// Reads one frame of a stream: its first byte and its payload.
pub fn read_frame(stream: &mut impl Read) -> io::Result<(u8, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    loop {
        if let Some(head) = Head::read(&bytes) {
            if let Some(payload) = head.payload(&bytes) {
                return Ok((head.first, payload));
            }
        }
        stream.read_exact(&mut byte)?;
        bytes.push(byte[0]);
    }
}

/// Appends a frame to `out`; a client's frames have a mask.
pub fn push_frame(out: &mut Vec<u8>, first: u8, payload: &[u8], mask: Option<[u8; 4]>) {
    let bit = if mask.is_some() { 0x80 } else { 0 };
    out.push(first);
    match payload.len() {
        length @ 0..126 => out.push(bit | length as u8),
        length @ 126..65536 => {
            out.push(bit | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(bit | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    let mask = mask
        .inspect(|mask| out.extend_from_slice(mask))
        .unwrap_or_default();
    let masked = payload.iter().enumerate().map(|(i, b)| b ^ mask[i % 4]);
    out.extend(masked);
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    Text(String),
    Binary(Vec<u8>),
}

/// Reads what an endpoint of this crate writes, in any pieces: the head of the handshake, then
/// frames. Notes the first thing that breaks RFC 6455, or that this crate never does.
#[derive(Debug)]
pub struct FrameReader {
    from_client: bool,
    /// The head of the handshake, once all of it has come.
    pub head: Option<Vec<u8>>,
    /// The beginning of the head or of a frame.
    partial: Vec<u8>,
    /// The opcode and the payload of a message whose last frame has not come.
    fragments: Option<(u8, Vec<u8>)>,
    pub messages: Vec<Data>,
    pub pongs: Vec<Vec<u8>>,
    /// The Close frame, and the code in it if there is one.
    pub close: Option<Option<u16>>,
    pub wrong: Option<String>,
}

impl FrameReader {
    pub fn new(from_client: bool) -> Self {
        FrameReader {
            from_client,
            head: None,
            partial: Vec::new(),
            fragments: None,
            messages: Vec::new(),
            pongs: Vec::new(),
            close: None,
            wrong: None,
        }
    }

    /// Whether the last frame has come to its end.
    pub fn is_whole(&self) -> bool {
        self.partial.is_empty()
    }

    pub fn read(&mut self, bytes: &[u8]) {
        self.partial.extend_from_slice(bytes);
        if self.head.is_none() {
            let Some(end) = self.partial.windows(4).position(|end| end == b"\r\n\r\n") else {
                return;
            };
            let frames = self.partial.split_off(end + 4);
            self.head = Some(std::mem::replace(&mut self.partial, frames));
        }
        let mut partial = std::mem::take(&mut self.partial);
        let mut at = 0;
        while let Some(head) = Head::read(&partial[at..]).filter(|_| self.wrong.is_none()) {
            if let Err(wrong) = self.check(&head) {
                self.fail(&format!("{wrong}: {head:02x?}"));
                break;
            }
            let Some(payload) = head.payload(&partial[at..]) else {
                break;
            };
            at += head.size + payload.len();
            if let Err(wrong) = self.frame(&head, payload) {
                self.fail(&format!("{wrong}: {head:02x?}"));
            }
        }
        partial.drain(..at);
        self.partial = partial;
    }

    pub fn fail(&mut self, wrong: &str) {
        let side = if self.from_client { "client" } else { "server" };
        self.wrong
            .get_or_insert_with(|| format!("from the {side}: {wrong}"));
    }

    fn check(&self, head: &Head) -> Result<(), &'static str> {
        let shortest = match head.length {
            0..126 => 2,
            126..65536 => 4,
            _ => 10,
        };
        let mask = if head.masked { 4 } else { 0 };
        if head.masked != self.from_client {
            return Err("clients mask, servers do not");
        }
        if head.first & 0x70 != 0 {
            return Err("a reserved bit");
        }
        let is_control = head.opcode() >= CLOSE;
        if is_control && !head.is_final() {
            return Err("a control frame is a fragment");
        }
        if !is_control && self.fragments.is_some() != (head.opcode() == CONTINUATION) {
            return Err("a message begins within another, or a fragment follows none");
        }
        if self.close.is_some() {
            return Err("a frame follows a Close frame");
        }
        if head.size != shortest + mask {
            return Err("the head is longer than it has to be");
        }
        if is_control && head.length > MAX_CONTROL as u64 {
            return Err("a control frame is too long");
        }
        if !is_control && head.length == 0 && (self.fragments.is_some() || !head.is_final()) {
            return Err("an empty fragment");
        }
        Ok(())
    }

    fn frame(&mut self, head: &Head, payload: Vec<u8>) -> Result<(), &'static str> {
        if head.opcode() >= CLOSE {
            return self.whole(head.opcode(), payload);
        }
        let (opcode, mut message) = self.fragments.take().unwrap_or((head.opcode(), Vec::new()));
        message.extend(payload);
        if head.is_final() {
            return self.whole(opcode, message);
        }
        self.fragments = Some((opcode, message));
        Ok(())
    }

    /// Notes a message or a control frame.
    fn whole(&mut self, opcode: u8, payload: Vec<u8>) -> Result<(), &'static str> {
        match opcode {
            TEXT => {
                let text = String::from_utf8(payload).map_err(|_| "text is not UTF-8")?;
                self.messages.push(Data::Text(text));
            }
            BINARY => self.messages.push(Data::Binary(payload)),
            CLOSE => {
                let (code, reason) = match payload[..] {
                    [] => (None, &[][..]),
                    [_] => return Err("half a code in a Close frame"),
                    [high, low, ref reason @ ..] => (Some(u16::from_be_bytes([high, low])), reason),
                };
                std::str::from_utf8(reason).map_err(|_| "a reason is not UTF-8")?;
                self.close = Some(code);
            }
            PING => {}
            PONG => self.pongs.push(payload),
            _ => return Err("an unknown opcode"),
        }
        Ok(())
    }
}
