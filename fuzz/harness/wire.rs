//! RFC 6455's frames, read a second time: what a peer's bytes mean, in the plainest code there is.

use super::frames::Limits;
use crate::CloseFrame;
use crate::fuzzing::Role;

pub(super) const CONTINUATION: u8 = 0;
pub(super) const TEXT: u8 = 1;
pub(super) const BINARY: u8 = 2;
pub(super) const CLOSE: u8 = 8;
pub(super) const PING: u8 = 9;
pub(super) const PONG: u8 = 10;

/// The longest payload of a control frame.
pub(super) const MAX_CONTROL: usize = 125;

/// The length of the parts that a long frame is looked at in.
const PART: usize = 65_536;

#[derive(Debug, Clone, Copy)]
struct Head {
    first: u8,
    masked: bool,
    length: u64,
    mask: [u8; 4],
    /// Of the head itself.
    size: usize,
}

impl Head {
    /// `None` when it is not all there.
    fn read(bytes: &[u8]) -> Option<Head> {
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

    fn is_final(&self) -> bool {
        self.first & 0x80 != 0
    }

    fn opcode(&self) -> u8 {
        self.first & 0x0f
    }

    fn payload(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        self.part(bytes, 0, usize::try_from(self.length).ok()?)
    }

    /// So many bytes of the payload, from this position on.
    fn part(&self, bytes: &[u8], position: usize, length: usize) -> Option<Vec<u8>> {
        let part = bytes.get(self.size + position..)?.get(..length)?;
        let unmasked = part.iter().zip(position..);
        Some(unmasked.map(|(b, i)| b ^ self.mask[i % 4]).collect())
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Data {
    Text(String),
    Binary(Vec<u8>),
}

/// How what a peer says ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ending {
    /// By a Close frame.
    Close(Option<CloseFrame>),
    /// By breaking the protocol; the code is what it deserves.
    Violation(u16),
    TooBig,
    /// In the middle.
    Lost,
}

/// What a peer's bytes mean.
pub(super) struct Meaning {
    pub(super) messages: Vec<Data>,
    pub(super) pings: Vec<Vec<u8>>,
    pub(super) ending: Ending,
}

/// What the bytes mean to an endpoint in this role.
pub(super) fn read(mut bytes: &[u8], role: Role, limits: Limits) -> Meaning {
    let mut reading = Reading {
        role,
        limits,
        messages: Vec::new(),
        pings: Vec::new(),
        partial: None,
    };
    let ending = loop {
        match reading.frame(bytes) {
            Ok(size) => bytes = &bytes[size..],
            Err(ending) => break ending,
        }
    };
    Meaning {
        messages: reading.messages,
        pings: reading.pings,
        ending,
    }
}

struct Reading {
    role: Role,
    limits: Limits,
    messages: Vec<Data>,
    pings: Vec<Vec<u8>>,
    /// The opcode and the payload so far of a message in fragments.
    partial: Option<(u8, Vec<u8>)>,
}

const BROKEN: Ending = Ending::Violation(1002);
const NOT_UTF_8: Ending = Ending::Violation(1007);

impl Reading {
    /// Reads a frame; returns its size.
    fn frame(&mut self, bytes: &[u8]) -> Result<usize, Ending> {
        let head = Head::read(bytes).ok_or(Ending::Lost)?;
        let opcode = head.opcode();
        if !matches!(opcode, CONTINUATION | TEXT | BINARY | CLOSE | PING | PONG) {
            return Err(BROKEN);
        }
        // One that fits no message is of no use.
        let longest = self.limits.frame.min(self.limits.message.max(MAX_CONTROL));
        if head.length > longest as u64 {
            return Err(Ending::TooBig);
        }
        let length = usize::try_from(head.length).map_err(|_| Ending::TooBig)?;
        if opcode == CLOSE {
            // Its head is enough to refuse it.
            self.check(&head, length)?;
        }
        // A long frame is looked at in parts, as if it were a message in fragments.
        let mut position = 0;
        let mut first = head.first;
        loop {
            let part = PART.min(length - position);
            let payload = head.part(bytes, position, part).ok_or(Ending::Lost)?;
            position += part;
            let is_last = position == length;
            let is_final = is_last && head.is_final();
            first = first & 0x7f | if is_final { 0x80 } else { 0 };
            self.whole(&Head { first, ..head }, payload)?;
            if is_last {
                return Ok(head.size + length);
            }
            first = CONTINUATION;
        }
    }

    /// Sections 5.1 (clients mask, servers do not), 5.2 (no extension, no reserved bits) and 5.5.
    fn check(&self, head: &Head, length: usize) -> Result<(), Ending> {
        let wrong = head.masked != (self.role == Role::Server) || head.first & 0x70 != 0;
        let is_control = head.opcode() >= CLOSE;
        match wrong || is_control && (!head.is_final() || length > MAX_CONTROL) {
            true => Err(BROKEN),
            false => Ok(()),
        }
    }

    fn whole(&mut self, head: &Head, payload: Vec<u8>) -> Result<(), Ending> {
        self.check(head, payload.len())?;
        match head.opcode() {
            CLOSE => return Err(close(&payload)),
            PING => self.pings.push(payload),
            PONG => {}
            opcode => self.data(opcode, payload, head.is_final())?,
        }
        Ok(())
    }

    fn data(&mut self, opcode: u8, payload: Vec<u8>, is_final: bool) -> Result<(), Ending> {
        let (kind, mut whole) = match (opcode, self.partial.take()) {
            (CONTINUATION, Some(partial)) => partial,
            (CONTINUATION, None) | (_, Some(_)) => return Err(BROKEN),
            (kind, None) => (kind, Vec::new()),
        };
        if whole.len() + payload.len() > self.limits.message {
            return Err(Ending::TooBig);
        }
        whole.extend(payload);
        if kind == TEXT {
            if let Err(error) = std::str::from_utf8(&whole) {
                // Cut off in the middle of a character, more may come.
                if is_final || error.error_len().is_some() {
                    return Err(NOT_UTF_8);
                }
            }
        }
        if !is_final {
            self.partial = Some((kind, whole));
            return Ok(());
        }
        self.messages.push(match kind {
            TEXT => Data::Text(String::from_utf8(whole).map_err(|_| NOT_UTF_8)?),
            _ => Data::Binary(whole),
        });
        Ok(())
    }
}

/// Sections 5.5.1 and 7.4.
fn close(payload: &[u8]) -> Ending {
    let (code, reason) = match payload {
        [] => return Ending::Close(None),
        [_] => return BROKEN,
        [high, low, reason @ ..] => (u16::from_be_bytes([*high, *low]), reason),
    };
    let Ok(reason) = String::from_utf8(reason.to_vec()) else {
        return NOT_UTF_8;
    };
    match code {
        1000..=1003 | 1007..=1014 | 3000..=4999 => Ending::Close(Some(CloseFrame { code, reason })),
        _ => BROKEN,
    }
}

/// What this crate wrote.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) messages: Vec<Data>,
    pub(super) pongs: Vec<Vec<u8>>,
    pub(super) close: Option<Option<u16>>,
    /// Whether the last frame is all there.
    pub(super) is_whole: bool,
}

/// Reads what an endpoint in this role wrote, and insists on the rules.
pub(super) fn read_own(mut bytes: &[u8], role: Role) -> Written {
    let mut written = Written::default();
    while let Some((head, payload)) =
        Head::read(bytes).and_then(|head| Some((head, head.payload(bytes)?)))
    {
        bytes = &bytes[head.size + payload.len()..];
        assert_eq!(head.masked, role == Role::Client, "who masks");
        assert_eq!(head.first & 0xf0, 0x80, "whole frames, no reserved bits");
        assert!(written.close.is_none(), "nothing follows a Close frame");
        let shortest = match payload.len() {
            0..126 => 2,
            126..65536 => 4,
            _ => 10,
        };
        let mask = if head.masked { 4 } else { 0 };
        assert_eq!(head.size, shortest + mask, "the shortest head");
        if head.opcode() >= CLOSE {
            assert!(payload.len() <= MAX_CONTROL, "control frames are short");
        }
        match head.opcode() {
            TEXT => {
                let text = String::from_utf8(payload).expect("text is UTF-8");
                written.messages.push(Data::Text(text));
            }
            BINARY => written.messages.push(Data::Binary(payload)),
            CLOSE => {
                let code = payload
                    .get(..2)
                    .map(|code| u16::from_be_bytes([code[0], code[1]]));
                assert!(code.is_some() || payload.is_empty());
                assert!(std::str::from_utf8(payload.get(2..).unwrap_or_default()).is_ok());
                written.close = Some(code);
            }
            PING => {}
            PONG => written.pongs.push(payload),
            other => panic!("opcode {other}"),
        }
    }
    written.is_whole = bytes.is_empty();
    written
}

/// A frame; a sender that masks has a mask.
pub(super) fn push_frame(out: &mut Vec<u8>, first: u8, payload: &[u8], mask: Option<[u8; 4]>) {
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
