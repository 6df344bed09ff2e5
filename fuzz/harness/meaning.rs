//! What a peer's bytes mean by RFC 6455, in the simplest code possible.

use crate::CloseFrame;
use crate::fuzzing::Role;
use crate::fuzzing::testkit::frames::{
    BINARY, CLOSE, CONTINUATION, Data, Head, MAX_CONTROL, PING, PONG, TEXT,
};

/// The length of the parts in which a long frame is checked.
const PART: usize = 65_536;

/// How a peer's bytes end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ending {
    /// With a Close frame.
    Close(Option<CloseFrame>),
    /// With a protocol violation; the code that answers it.
    Violation(u16),
    TooBig,
    /// In the middle of a frame, or without a Close frame.
    Lost,
}

/// What a peer's bytes mean.
pub(super) struct Meaning {
    pub(super) messages: Vec<Data>,
    pub(super) pings: Vec<Vec<u8>>,
    pub(super) ending: Ending,
}

/// Returns what the bytes mean to an endpoint in this role.
pub(super) fn read(mut bytes: &[u8], role: Role, max_message: usize) -> Meaning {
    let mut reading = Reading {
        role,
        max_message,
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
    max_message: usize,
    messages: Vec<Data>,
    pings: Vec<Vec<u8>>,
    /// The opcode and the payload so far of a fragmented message.
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
        // A frame that fits no message is refused.
        let longest = self.max_message.max(MAX_CONTROL);
        if head.length > longest as u64 {
            return Err(Ending::TooBig);
        }
        let length = usize::try_from(head.length).map_err(|_| Ending::TooBig)?;
        if opcode == CLOSE {
            // The head alone is enough to refuse it.
            self.check(&head, length)?;
        }
        // A long frame is checked in parts, as if it were a fragmented message.
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
        if whole.len() + payload.len() > self.max_message {
            return Err(Ending::TooBig);
        }
        whole.extend(payload);
        if kind == TEXT {
            if let Err(error) = std::str::from_utf8(&whole) {
                // The rest of a character that is cut off may follow.
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
