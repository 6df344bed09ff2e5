//! Reads a peer's frames for the codec (RFC 6455, section 5.2).
//!
//! Two kinds of frames do not reach the codec as they are:
//!
//! * Long frames. The codec reserves memory for a whole frame as soon as the head has arrived, and
//!   keeps that memory. So a long frame reaches it in parts, each as a frame. Then memory grows
//!   only with the bytes that have arrived, and the codec's buffer stays short. The codec joins the
//!   parts like the fragments of any message (section 5.4).
//! * Close frames. The codec replaces a Close frame with an invalid code by one of its own. So this
//!   reader parses Close frames itself.
//!
//! All other bytes are read directly into the codec's buffer and not changed.

use std::io;

use tungstenite::protocol::Role;

use crate::error::CloseFrame;

/// The maximum length of a frame that the codec receives in one piece, and the length of the parts
/// of longer frames. A multiple of 4, so that each part of a masked frame begins with the first
/// byte of the mask.
pub(crate) const PART: u64 = 64 << 10;

/// The maximum size of a head: two bytes, eight of length, four of mask.
const MAX_HEAD: usize = 14;

/// The maximum payload of a control frame (section 5.5).
const MAX_CONTROL: u64 = 125;

const CONTINUATION: u8 = 0;
const CLOSE: u8 = 8;

/// Why reading ended. [`FrameReader::read`] returns it inside an [`io::Error`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{self:?}")]
pub(crate) enum StreamEnd {
    /// The peer's Close frame.
    Close(Option<CloseFrame>),
    /// An invalid Close frame, with the code to reply with and the reason.
    BadClose(u16, String),
    /// A frame over the limit, with its size and the limit in bytes.
    TooLong(u64, usize),
}

impl StreamEnd {
    /// Returns the end inside an error, or the error itself.
    pub(crate) fn of(error: io::Error) -> Result<StreamEnd, io::Error> {
        let end = error.get_ref().and_then(|inner| inner.downcast_ref());
        end.cloned().ok_or(error)
    }
}

/// Passes a peer's bytes to the codec.
pub(crate) struct FrameReader {
    /// The role of this side. A client masks its frames, and a server does not.
    role: Role,
    /// The maximum size of a message, and of a frame of one, in bytes.
    limit: usize,
    state: State,
    /// The bytes of a head that is incomplete.
    partial: Vec<u8>,
    /// Bytes that were read with the head of a long frame and belong after it, or a Close frame.
    unread: Vec<u8>,
}

enum State {
    /// This number of bytes of the current frame is missing. A head follows.
    Frame(u64),
    Long(Long),
    /// These bytes of a Close frame have arrived.
    Close(Vec<u8>),
    Ended(StreamEnd),
}

/// A frame that is passed on in parts.
struct Long {
    /// The bytes of the current part's head that have not been passed on.
    head: Vec<u8>,
    /// The number of missing bytes of the current part.
    part: u64,
    /// The number of bytes after the current part.
    rest: u64,
    is_final: bool,
    mask: Option<[u8; 4]>,
}

impl FrameReader {
    pub(crate) fn new(role: Role, limit: usize) -> Self {
        FrameReader {
            role,
            limit,
            state: State::Frame(0),
            partial: Vec::new(),
            unread: Vec::new(),
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
    /// before bytes can be passed on, and a [`StreamEnd`] after the last byte before it.
    pub(crate) fn read(
        &mut self,
        buffer: &mut [u8],
        source: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        match &mut self.state {
            State::Frame(_) => self.read_frames(buffer, source),
            State::Long(long) => {
                if !long.head.is_empty() {
                    return Ok(long.pass_on_head(buffer));
                }
                let space = buffer.len().min(long.part as usize);
                let n = unread_or(&mut self.unread, source, &mut buffer[..space])?;
                if long.advance(n as u64) {
                    self.state = State::Frame(0);
                }
                Ok(n)
            }
            State::Close(frame) => {
                let mut chunk = [0; MAX_HEAD + MAX_CONTROL as usize];
                let n = unread_or(&mut self.unread, source, &mut chunk)?;
                frame.extend_from_slice(&chunk[..n]);
                if let Some(end) = close(frame, self.role) {
                    self.state = State::Ended(end);
                }
                match n {
                    0 => Ok(0),
                    _ => self.nothing_to_pass_on(),
                }
            }
            State::Ended(_) => self.nothing_to_pass_on(),
        }
    }

    fn read_frames(
        &mut self,
        buffer: &mut [u8],
        source: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let before = self.partial.len();
        buffer[..before].copy_from_slice(&self.partial);
        let n = unread_or(&mut self.unread, source, &mut buffer[before..])?;
        if n == 0 {
            return Ok(0);
        }
        self.partial.clear();
        match self.parse_frames(&buffer[..before + n]) {
            0 => self.nothing_to_pass_on(),
            n => Ok(n),
        }
    }

    fn nothing_to_pass_on(&self) -> io::Result<usize> {
        match &self.state {
            State::Ended(end) => Err(io::Error::other(end.clone())),
            _ => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Parses frames. The first may have begun in an earlier call. Returns the number of bytes for
    /// the codec; the others are kept.
    fn parse_frames(&mut self, bytes: &[u8]) -> usize {
        let State::Frame(left) = &mut self.state else {
            return 0;
        };
        let mut at = 0;
        loop {
            let here = (bytes.len() - at).min(usize::try_from(*left).unwrap_or(usize::MAX));
            at += here;
            *left -= here as u64;
            if at == bytes.len() {
                return at;
            }
            let Some(head) = FrameHead::read(&bytes[at..]) else {
                self.partial.extend_from_slice(&bytes[at..]);
                return at;
            };
            if !head.is_known() {
                // The codec rejects it because of its head.
                self.state = State::Frame(u64::MAX);
                return bytes.len();
            }
            // A frame that can be part of no message is rejected after its head, and not only when
            // all of it is in memory. Control frames are not messages (RFC 6455, section 5.5).
            if head.length > (self.limit as u64).max(MAX_CONTROL) {
                self.state = State::Ended(StreamEnd::TooLong(head.length, self.limit));
                return at;
            }
            if head.opcode() == CLOSE {
                self.unread.splice(..0, bytes[at..].iter().copied());
                self.state = State::Close(Vec::new());
                return at;
            }
            if head.length > PART {
                let rest = &bytes[at + head.size..];
                self.unread.splice(..0, rest.iter().copied());
                self.state = State::Long(Long::new(&head));
                return at;
            }
            at += head.size;
            *left = head.length;
        }
    }
}

/// Reads from the unread bytes, or else from the source.
fn unread_or(
    unread: &mut Vec<u8>,
    source: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    buffer: &mut [u8],
) -> io::Result<usize> {
    if unread.is_empty() {
        return source(buffer);
    }
    let n = unread.len().min(buffer.len());
    buffer[..n].copy_from_slice(&unread[..n]);
    unread.drain(..n);
    if unread.is_empty() {
        *unread = Vec::new();
    }
    Ok(n)
}

impl Long {
    fn new(head: &FrameHead) -> Self {
        let mut long = Long {
            head: Vec::new(),
            part: 0,
            rest: head.length,
            is_final: head.is_final(),
            mask: head.mask,
        };
        // The reserved bits are kept, so that the codec rejects the frame.
        long.begin_part(head.first & 0x7f);
        long
    }

    fn begin_part(&mut self, first: u8) {
        self.part = self.rest.min(PART);
        self.rest -= self.part;
        let last = self.rest == 0 && self.is_final;
        let masked = if self.mask.is_some() { 0x80 } else { 0 };
        self.head = vec![first | if last { 0x80 } else { 0 }, masked | 127];
        self.head.extend_from_slice(&self.part.to_be_bytes());
        self.head.extend(self.mask.iter().flatten());
    }

    fn pass_on_head(&mut self, buffer: &mut [u8]) -> usize {
        let n = self.head.len().min(buffer.len());
        buffer[..n].copy_from_slice(&self.head[..n]);
        self.head.drain(..n);
        n
    }

    /// Counts bytes as passed on. Returns whether the frame is complete.
    fn advance(&mut self, n: u64) -> bool {
        self.part -= n;
        if self.part == 0 && self.rest > 0 {
            self.begin_part(CONTINUATION);
        }
        self.part == 0
    }
}

/// A frame's head (section 5.2).
struct FrameHead {
    first: u8,
    length: u64,
    mask: Option<[u8; 4]>,
    /// The size of the head itself.
    size: usize,
}

impl FrameHead {
    /// Parses a head. Returns `None` if it is incomplete.
    fn read(bytes: &[u8]) -> Option<FrameHead> {
        let (first, second) = (*bytes.first()?, *bytes.get(1)?);
        let (length, size) = match second & 0x7f {
            126 => {
                let length = bytes.get(2..4)?.try_into().ok()?;
                (u64::from(u16::from_be_bytes(length)), 4)
            }
            127 => {
                let length = bytes.get(2..10)?.try_into().ok()?;
                (u64::from_be_bytes(length), 10)
            }
            length => (u64::from(length), 2),
        };
        let mask = match second & 0x80 {
            0 => None,
            _ => Some(bytes.get(size..size + 4)?.try_into().ok()?),
        };
        Some(FrameHead {
            first,
            length,
            mask,
            size: size + if mask.is_some() { 4 } else { 0 },
        })
    }

    /// Returns whether the opcode is defined.
    fn is_known(&self) -> bool {
        matches!(self.opcode(), 0..=2 | 8..=10)
    }

    fn opcode(&self) -> u8 {
        self.first & 0x0f
    }

    fn is_final(&self) -> bool {
        self.first & 0x80 != 0
    }
}

/// Parses a Close frame (sections 5.5.1 and 7.4). Returns `None` if it is incomplete.
fn close(frame: &[u8], role: Role) -> Option<StreamEnd> {
    let bad = |code, what: &str| Some(StreamEnd::BadClose(code, what.to_owned()));
    let head = FrameHead::read(frame)?;
    if head.first & 0x70 != 0 {
        return bad(1002, "a Close frame has reserved bits set");
    }
    match (role, head.mask) {
        (Role::Server, None) => return bad(1002, "a client's Close frame is not masked"),
        (Role::Client, Some(_)) => return bad(1002, "a server's Close frame is masked"),
        _ => {}
    }
    if !head.is_final() {
        return bad(1002, "a Close frame is fragmented");
    }
    if head.length > MAX_CONTROL {
        return bad(1002, "a Close frame is longer than 125 bytes");
    }
    let payload = frame.get(head.size..)?.get(..head.length as usize)?;
    let mask = head.mask.unwrap_or_default();
    let payload = payload.iter().zip(mask.iter().cycle());
    let payload: Vec<u8> = payload.map(|(byte, mask)| byte ^ mask).collect();
    let (code, reason) = match &payload[..] {
        [] => return Some(StreamEnd::Close(None)),
        [_] => return bad(1002, "a Close frame has half a code"),
        [high, low, reason @ ..] => (u16::from_be_bytes([*high, *low]), reason),
    };
    let Ok(reason) = String::from_utf8(reason.to_vec()) else {
        return bad(1007, "a Close frame's reason is not UTF-8");
    };
    if !CloseFrame::may_be_sent(code) {
        let what = format!("a Close frame has code {code}, which must not be sent");
        return bad(1002, &what);
    }
    Some(StreamEnd::Close(Some(CloseFrame { code, reason })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::{Read, Write};
    use tungstenite::Message;
    use tungstenite::protocol::{WebSocketConfig, WebSocketContext};

    const MASK: [u8; 4] = [1, 2, 3, 4];

    /// Returns a frame as a client sends it.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first];
        match payload.len() {
            n @ 0..126 => frame.push(0x80 | n as u8),
            n @ 126..65536 => {
                frame.push(0x80 | 126);
                frame.extend((n as u16).to_be_bytes());
            }
            n => frame.extend(head_of_long(first, n as u64).split_off(1)),
        }
        if frame.len() < 14 {
            frame.extend(MASK);
        }
        let masked = payload.iter().zip(MASK.iter().cycle());
        frame.extend(masked.map(|(byte, mask)| byte ^ mask));
        frame
    }

    fn head_of_long(first: u8, length: u64) -> Vec<u8> {
        let mut head = vec![first, 0xff];
        head.extend(length.to_be_bytes());
        head.extend(MASK);
        head
    }

    /// A stream that arrives in pieces of one read each and has no end.
    struct Pieces<'a> {
        bytes: &'a [u8],
        piece: usize,
        frames: FrameReader,
    }

    impl<'a> Pieces<'a> {
        fn new(bytes: &'a [u8], piece: usize) -> Self {
            Pieces {
                bytes,
                piece,
                frames: FrameReader::new(Role::Server, 16 << 20),
            }
        }
    }

    impl Read for Pieces<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let Pieces {
                bytes,
                piece,
                frames,
            } = self;
            frames.read(buffer, |buffer| {
                let n = buffer.len().min(*piece).min(bytes.len());
                buffer[..n].copy_from_slice(&bytes[..n]);
                *bytes = &bytes[n..];
                Ok(n)
            })
        }
    }

    impl Write for Pieces<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Returns all messages and the error after them.
    fn read_all(mut stream: Pieces<'_>) -> (Vec<Message>, tungstenite::Error) {
        let config = WebSocketConfig::default().read_buffer_size(1024);
        let mut codec = WebSocketContext::new(Role::Server, Some(config));
        let mut messages = Vec::new();
        loop {
            match codec.read(&mut stream) {
                Ok(message) => messages.push(message),
                Err(tungstenite::Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                }
                Err(error) => return (messages, error),
            }
        }
    }

    fn end(bytes: &[u8]) -> StreamEnd {
        match read_all(Pieces::new(bytes, usize::MAX)) {
            (_, tungstenite::Error::Io(error)) => StreamEnd::of(error).unwrap(),
            (messages, error) => panic!("{error} after {messages:?}"),
        }
    }

    #[test]
    fn a_head_reserves_one_part_and_not_the_whole_frame() {
        for first in [0x81, 0x82, 0x02] {
            let bytes = head_of_long(first, 16 << 20);
            let mut stream = Pieces::new(&bytes, usize::MAX);
            let mut buffer = [0; 1024];
            let error = stream.read(&mut buffer).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
            let n = stream.read(&mut buffer).unwrap();
            let head = FrameHead::read(&buffer[..n]).unwrap();
            assert_eq!((head.length, head.size), (PART, n));
            assert!(!head.is_final());
            assert_eq!(head.opcode(), first & 0x0f);
        }
    }

    #[test]
    fn a_frame_over_the_limit_is_rejected_after_its_head() {
        let hello = frame(0x81, b"hello");
        for length in [(16 << 20) + 1, u64::MAX] {
            let bytes = [hello.clone(), head_of_long(0x82, length)].concat();
            assert_eq!(end(&bytes), StreamEnd::TooLong(length, 16 << 20));
        }
    }

    #[test]
    fn a_close_frame_is_parsed_in_any_pieces() {
        for (payload, expected) in [
            (&b""[..], None),
            (b"\x03\xe8", Some((1000, ""))),
            (b"\x03\xf6gateway", Some((1014, "gateway"))),
            (b"\x0f\xa1battery low", Some((4001, "battery low"))),
        ] {
            let bytes = [frame(0x81, b"hello"), frame(0x88, payload)].concat();
            let expected = expected.map(|(code, reason)| CloseFrame {
                code,
                reason: reason.to_owned(),
            });
            for piece in 1..bytes.len() {
                let (messages, error) = read_all(Pieces::new(&bytes, piece));
                assert_eq!(messages, [Message::text("hello")]);
                let tungstenite::Error::Io(error) = error else {
                    panic!("{error}");
                };
                assert_eq!(
                    StreamEnd::of(error).unwrap(),
                    StreamEnd::Close(expected.clone())
                );
            }
        }
    }

    #[test]
    fn an_invalid_close_frame_is_rejected() {
        let long = [&b"\x03\xe8"[..], &[b'x'; 124]].concat();
        for (bytes, code, word) in [
            (frame(0x88, b"\x03"), 1002, "half a code"),
            (frame(0x88, &long), 1002, "125"),
            (frame(0x08, b"\x03\xe8"), 1002, "fragmented"),
            (frame(0xc8, b"\x03\xe8"), 1002, "reserved"),
            (frame(0x88, b"\x03\xe8\xff"), 1007, "UTF-8"),
            (b"\x88\x02\x03\xe8".to_vec(), 1002, "not masked"),
        ] {
            match end(&bytes) {
                StreamEnd::BadClose(found, what) => {
                    assert_eq!(found, code, "{what}");
                    assert!(what.contains(word), "{what}");
                }
                other => panic!("{other:?}"),
            }
        }
        for code in [0u16, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535] {
            let bytes = frame(0x88, &code.to_be_bytes());
            assert!(
                matches!(end(&bytes), StreamEnd::BadClose(1002, _)),
                "{code}"
            );
        }
    }

    fn payload() -> impl Strategy<Value = Vec<u8>> {
        let edges = prop_oneof![
            0usize..200,
            65_530usize..65_540,
            131_070usize..131_080,
            Just(200_000usize),
        ];
        (edges, any::<u8>()).prop_map(|(length, seed)| {
            let bytes = (0..length).map(|i| (i as u8).wrapping_mul(31) ^ seed);
            bytes.collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn messages_do_not_depend_on_parts_and_pieces(
            payloads in prop::collection::vec((payload(), any::<bool>()), 1..6),
            piece in prop_oneof![Just(usize::MAX), 1usize..40, 1000usize..70_000],
        ) {
            let mut bytes = Vec::new();
            for (payload, fragmented) in &payloads {
                if *fragmented {
                    let (a, b) = payload.split_at(payload.len() / 3);
                    bytes.extend(frame(0x02, a));
                    bytes.extend(frame(0x89, b"ping"));
                    bytes.extend(frame(0x80, b));
                } else {
                    bytes.extend(frame(0x82, payload));
                }
            }
            bytes.extend(frame(0x88, b"\x03\xe8"));
            let (messages, error) = read_all(Pieces::new(&bytes, piece));
            let messages: Vec<_> = messages.into_iter().filter(Message::is_binary).collect();
            let expected = payloads.into_iter().map(|(payload, _)| Message::binary(payload));
            prop_assert!(messages.into_iter().eq(expected));
            let end = match error {
                tungstenite::Error::Io(error) => StreamEnd::of(error).ok(),
                _ => None,
            };
            prop_assert!(matches!(end, Some(StreamEnd::Close(_))));
        }
    }
}
