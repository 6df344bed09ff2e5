//! What a peer's bytes mean by RFC 6455 and RFC 7692, in the simplest code possible.

use super::inflate::Inflater;
use crate::CloseFrame;
use crate::fuzzing::Role;
use crate::fuzzing::testkit::frames::{
    BINARY, CLOSE, CONTINUATION, Data, Head, MAX_CONTROL, PING, PONG, TEXT,
};

/// The length of the parts in which a long frame is checked.
const PART: usize = 65_536;

/// How much further than the limit a message is inflated. What is wrong there may be found first.
pub(super) const AHEAD: usize = 128 << 10;

/// How a peer's bytes end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ending {
    /// With a Close frame.
    Close(Option<CloseFrame>),
    /// With a protocol violation; the code that answers it.
    Violation(u16),
    TooBig,
    /// With compressed data that cannot be inflated.
    NotDeflated,
    /// In the middle of a frame, or without a Close frame.
    Lost,
}

/// What a peer's bytes mean.
#[cfg_attr(not(feature = "deflate"), allow(dead_code))] // The target `deflate` reads all of it.
pub(super) struct Meaning {
    pub(super) messages: Vec<Data>,
    pub(super) pings: Vec<Vec<u8>>,
    /// For each ping, how many messages come before it.
    pub(super) messages_before: Vec<usize>,
    pub(super) ending: Ending,
    /// Other endings that are just as right: the last message has several faults, and the size of
    /// the buffers decides which one is found first.
    pub(super) others: Vec<Ending>,
    /// How many messages come before the first one with a distance beyond the window. From there
    /// on, the data may be [`NotDeflated`](Ending::NotDeflated).
    pub(super) messages_within_window: Option<usize>,
}

#[cfg(feature = "deflate")]
impl Meaning {
    pub(super) fn may_end_with(&self, ending: &Ending) -> bool {
        self.ending == *ending || self.others.contains(ending)
    }
}

/// Returns what the bytes mean to an endpoint in this role. `inflater` is for compressed messages,
/// if these are agreed on.
pub(super) fn read(
    mut bytes: &[u8],
    role: Role,
    max_message: usize,
    inflater: Option<Inflater>,
) -> Meaning {
    let mut reading = Reading {
        role,
        max_message,
        messages: Vec::new(),
        pings: Vec::new(),
        messages_before: Vec::new(),
        partial: None,
        inflater,
        compressed: None,
        others: Vec::new(),
        messages_within_window: None,
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
        messages_before: reading.messages_before,
        ending,
        others: reading.others,
        messages_within_window: reading.messages_within_window,
    }
}

struct Reading {
    role: Role,
    max_message: usize,
    messages: Vec<Data>,
    pings: Vec<Vec<u8>>,
    messages_before: Vec<usize>,
    /// The opcode and the payload so far of a fragmented message.
    partial: Option<(u8, Vec<u8>)>,
    inflater: Option<Inflater>,
    /// Whether the frames of a compressed message are masked, if one has begun.
    compressed: Option<bool>,
    others: Vec<Ending>,
    messages_within_window: Option<usize>,
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
        if self.is_compressed(&head) {
            return self.compressed_frame(&head, bytes);
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

    /// RFC 7692, section 6: only the first frame of a message has the bit RSV1.
    fn is_compressed(&self, head: &Head) -> bool {
        match (head.opcode(), self.compressed) {
            (TEXT | BINARY, None) => self.inflater.is_some() && head.first & 0x70 == 0x40,
            // If the mask is wrong now, it was right before.
            (CONTINUATION, Some(masked)) => head.first & 0x70 == 0 && head.masked == masked,
            _ => false,
        }
    }

    /// Reads a frame of a compressed message; returns its size. What has arrived of it counts.
    fn compressed_frame(&mut self, head: &Head, bytes: &[u8]) -> Result<usize, Ending> {
        let Some(mut inflater) = self.inflater.take() else {
            return Err(BROKEN);
        };
        let payload = bytes[head.size..].iter().zip(0..head.length);
        let payload: Vec<u8> = payload
            .map(|(byte, index)| byte ^ head.mask[index as usize % 4])
            .collect();
        let is_whole = payload.len() as u64 == head.length;
        let is_message = is_whole && head.is_final();
        let begins = self.compressed.is_none();
        if begins {
            inflater.begin_message();
            self.compressed = Some(head.masked);
        }
        let furthest = self.max_message + AHEAD;
        let can_be_inflated =
            inflater.add(&payload, furthest) && (!is_message || inflater.add_tail(furthest));
        if inflater.exceeds_window && self.messages_within_window.is_none() {
            self.messages_within_window = Some(self.messages.len());
        }
        let message = inflater.message().to_vec();
        self.inflater = Some(inflater);
        let mut faults = Vec::new();
        if begins && (self.partial.is_some() || head.masked != (self.role == Role::Server)) {
            faults.push(BROKEN);
        }
        if message.len() > self.max_message {
            faults.push(Ending::TooBig);
        }
        let (kind, _) = (self.partial.take()).unwrap_or((head.opcode(), Vec::new()));
        if kind == TEXT && is_not_utf_8(&message, is_message && can_be_inflated) {
            faults.push(NOT_UTF_8);
        }
        if !can_be_inflated {
            faults.push(Ending::NotDeflated);
        }
        if let Some(first) = faults.pop() {
            self.others = faults;
            return Err(first);
        }
        match is_message {
            true => {
                self.compressed = None;
                self.push(kind, message)?;
            }
            false => self.partial = Some((kind, message)),
        }
        match is_whole {
            true => Ok(head.size + payload.len()),
            false => Err(Ending::Lost),
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
            PING => {
                self.pings.push(payload);
                self.messages_before.push(self.messages.len());
            }
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
        if kind == TEXT && is_not_utf_8(&whole, is_final) {
            return Err(NOT_UTF_8);
        }
        match is_final {
            true => self.push(kind, whole)?,
            false => self.partial = Some((kind, whole)),
        }
        Ok(())
    }

    fn push(&mut self, kind: u8, whole: Vec<u8>) -> Result<(), Ending> {
        self.messages.push(match kind {
            TEXT => Data::Text(String::from_utf8(whole).map_err(|_| NOT_UTF_8)?),
            _ => Data::Binary(whole),
        });
        Ok(())
    }
}

fn is_not_utf_8(text: &[u8], is_whole: bool) -> bool {
    // The rest of a character that is cut off may follow.
    std::str::from_utf8(text).is_err_and(|error| is_whole || error.error_len().is_some())
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
