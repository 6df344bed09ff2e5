//! A peer's frames on their way to the codec (RFC 6455, section 5.2).
//!
//! Two things are kept from the codec:
//!
//! * It reserves memory for a whole frame as soon as the head has arrived, and keeps it. So a long
//!   frame reaches it in parts, each a frame of its own: memory then follows what has arrived, and the
//!   codec's buffer stays short. The codec joins the parts as it joins the fragments of any message
//!   (section 5.4).
//! * It replaces a Close frame whose code nobody may send with one of its own making. So Close
//!   frames are read here, and never reach it.
//!
//! Everything else is read straight into the codec's buffer and stays there, untouched.

use std::error::Error;
use std::fmt;
use std::io;

use tungstenite::protocol::Role;

use crate::error::CloseFrame;

/// The longest frame that the codec gets in one piece, and the length of the parts of longer ones.
/// A multiple of 4, so that each part of a masked frame begins with the first byte of the mask.
pub(crate) const PART: u64 = 64 << 10;

/// The longest head: two bytes, eight of length, four of mask.
const MAX_HEAD: usize = 14;

/// The longest payload of a control frame (section 5.5).
const MAX_CONTROL: u64 = 125;

const CONTINUATION: u8 = 0;
const CLOSE: u8 = 8;

/// Why no more bytes are handed on. [`FrameReader::read`] returns it in an [`io::Error`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// The peer's Close frame.
    Close(Option<CloseFrame>),
    /// A Close frame that breaks the protocol: the code to answer with, and what is wrong.
    BadClose(u16, String),
    /// A frame that is longer than any that is accepted; its size and the limit in bytes.
    TooLong(u64, usize),
}

impl End {
    /// The end that an error carries, or else the error.
    pub(crate) fn of(error: io::Error) -> Result<End, io::Error> {
        let end = error.get_ref().and_then(|inner| inner.downcast_ref());
        end.cloned().ok_or(error)
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl Error for End {}

/// Hands a peer's bytes on to the codec.
pub(crate) struct FrameReader {
    /// This side's role. A server's peer masks its frames, a client's does not.
    role: Role,
    /// The longest frame that is accepted, in bytes.
    limit: usize,
    state: State,
    /// The beginning of a head that has not all arrived.
    partial: Partial,
    /// Bytes that were read behind the head of a long frame.
    unread: Vec<u8>,
}

enum State {
    /// So many bytes of the present frame are still to come. A head follows.
    Frame(u64),
    Long(Long),
    /// So much of a Close frame has arrived.
    Close(Vec<u8>),
    Ended(End),
}

/// A frame that is handed on in parts.
struct Long {
    /// The head of the present part, until it has been handed on.
    head: Vec<u8>,
    /// How many bytes of the present part are still to come.
    part: u64,
    /// How many bytes follow the present part.
    rest: u64,
    is_final: bool,
    mask: Option<[u8; 4]>,
}

/// At most one byte less than the longest head.
#[derive(Default)]
struct Partial {
    bytes: [u8; MAX_HEAD - 1],
    len: usize,
}

impl FrameReader {
    pub(crate) fn new(role: Role, limit: usize) -> Self {
        FrameReader {
            role,
            limit,
            state: State::Frame(0),
            partial: Partial::default(),
            unread: Vec::new(),
        }
    }

    /// Reads for the codec. `source` reads from the connection.
    ///
    /// The codec has room for a whole head when a head is next: it makes that room before it reads.
    ///
    /// # Errors
    ///
    /// What `source` returns. [`WouldBlock`](io::ErrorKind::WouldBlock) when nothing can be handed on
    /// before more has been read. An [`End`], once all before it has been handed on.
    pub(crate) fn read(
        &mut self,
        buffer: &mut [u8],
        source: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        match &mut self.state {
            State::Frame(_) => self.read_frames(buffer, source),
            State::Long(long) => {
                if !long.head.is_empty() {
                    return Ok(long.hand_on_head(buffer));
                }
                let room = buffer.len().min(long.part as usize);
                let n = unread_or(&mut self.unread, source, &mut buffer[..room])?;
                if long.advance(n as u64) {
                    self.state = State::Frame(0);
                }
                Ok(n)
            }
            State::Close(frame) => {
                let mut chunk = [0; MAX_HEAD + MAX_CONTROL as usize];
                let n = unread_or(&mut self.unread, source, &mut chunk)?;
                frame.extend_from_slice(&chunk[..n]);
                self.read_close();
                match n {
                    0 => Ok(0),
                    _ => self.nothing_to_hand_on(),
                }
            }
            State::Ended(_) => self.nothing_to_hand_on(),
        }
    }

    fn read_frames(
        &mut self,
        buffer: &mut [u8],
        source: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let before = self.partial.len;
        buffer[..before].copy_from_slice(self.partial.get());
        let n = unread_or(&mut self.unread, source, &mut buffer[before..])?;
        if n == 0 {
            return Ok(0);
        }
        self.partial.len = 0;
        match self.look_at(&buffer[..before + n]) {
            0 => self.nothing_to_hand_on(),
            n => Ok(n),
        }
    }

    fn nothing_to_hand_on(&self) -> io::Result<usize> {
        match &self.state {
            State::Ended(end) => Err(io::Error::other(end.clone())),
            _ => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Goes through frames, the first of which may have begun before. Returns how many of the bytes
    /// the codec may have; the others are kept.
    fn look_at(&mut self, bytes: &[u8]) -> usize {
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
            let Some(head) = Head::read(&bytes[at..]) else {
                self.partial.set(&bytes[at..]);
                return at;
            };
            if !head.is_known() {
                // The codec refuses it by its head.
                self.state = State::Frame(u64::MAX);
                return bytes.len();
            }
            if head.length > self.limit as u64 {
                self.state = State::Ended(End::TooLong(head.length, self.limit));
                return at;
            }
            if head.opcode() == CLOSE {
                self.state = State::Close(bytes[at..].to_vec());
                self.read_close();
                return at;
            }
            if head.length > PART {
                let behind = &bytes[at + head.size..];
                self.unread.splice(..0, behind.iter().copied());
                self.state = State::Long(Long::new(&head));
                return at;
            }
            at += head.size;
            *left = head.length;
        }
    }

    /// Ends with the Close frame if all of it has arrived, or so much that it cannot be right.
    fn read_close(&mut self) {
        if let State::Close(frame) = &self.state {
            if let Some(end) = close(frame, self.role) {
                self.state = State::Ended(end);
            }
        }
    }
}

/// Reads what was read before, or else from the source.
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

impl Partial {
    fn get(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn set(&mut self, bytes: &[u8]) {
        self.bytes[..bytes.len()].copy_from_slice(bytes);
        self.len = bytes.len();
    }
}

impl Long {
    fn new(head: &Head) -> Self {
        let mut long = Long {
            head: Vec::new(),
            part: 0,
            rest: head.length,
            is_final: head.is_final(),
            mask: head.mask,
        };
        // The reserved bits stay, for the codec to refuse.
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

    fn hand_on_head(&mut self, buffer: &mut [u8]) -> usize {
        let n = self.head.len().min(buffer.len());
        buffer[..n].copy_from_slice(&self.head[..n]);
        self.head.drain(..n);
        n
    }

    /// So many bytes have been handed on. Returns whether the frame is over.
    fn advance(&mut self, n: u64) -> bool {
        self.part -= n;
        if self.part == 0 && self.rest > 0 {
            self.begin_part(CONTINUATION);
        }
        self.part == 0
    }
}

/// A frame's head (section 5.2).
struct Head {
    first: u8,
    length: u64,
    mask: Option<[u8; 4]>,
    /// Its own size.
    size: usize,
}

impl Head {
    /// `None` when it has not all arrived.
    fn read(bytes: &[u8]) -> Option<Head> {
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
        Some(Head {
            first,
            length,
            mask,
            size: size + if mask.is_some() { 4 } else { 0 },
        })
    }

    /// Whether the opcode has a meaning.
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

/// What a Close frame says (sections 5.5.1 and 7.4); `None` when it has not all arrived.
fn close(frame: &[u8], role: Role) -> Option<End> {
    let bad = |code, what: &str| Some(End::BadClose(code, what.to_owned()));
    let head = Head::read(frame)?;
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
        [] => return Some(End::Close(None)),
        [_] => return bad(1002, "a Close frame has half a code"),
        [high, low, reason @ ..] => (u16::from_be_bytes([*high, *low]), reason),
    };
    let Ok(reason) = String::from_utf8(reason.to_vec()) else {
        return bad(1007, "a Close frame's reason is not UTF-8");
    };
    if !CloseFrame::may_be_sent(code) {
        let what = format!("a Close frame has the code {code}, which nobody may send");
        return bad(1002, &what);
    }
    Some(End::Close(Some(CloseFrame { code, reason })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::{Read, Write};
    use tungstenite::Message;
    use tungstenite::protocol::{WebSocketConfig, WebSocketContext};

    const MASK: [u8; 4] = [1, 2, 3, 4];

    /// A frame as a client sends it.
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

    /// A stream that arrives in pieces, each of which is one read, and waits at its end.
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

    /// All messages, and how it ends.
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

    fn end(bytes: &[u8]) -> End {
        match read_all(Pieces::new(bytes, usize::MAX)) {
            (_, tungstenite::Error::Io(error)) => End::of(error).unwrap(),
            (messages, error) => panic!("{error} after {messages:?}"),
        }
    }

    #[test]
    fn a_head_reserves_a_part_and_not_what_it_announces() {
        for first in [0x81, 0x82, 0x02] {
            let bytes = head_of_long(first, 16 << 20);
            let mut stream = Pieces::new(&bytes, usize::MAX);
            let mut buffer = [0; 1024];
            let error = stream.read(&mut buffer).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
            let n = stream.read(&mut buffer).unwrap();
            let head = Head::read(&buffer[..n]).unwrap();
            assert_eq!((head.length, head.size), (PART, n));
            assert!(!head.is_final());
            assert_eq!(head.opcode(), first & 0x0f);
        }
    }

    #[test]
    fn a_frame_over_the_limit_is_refused_by_its_head() {
        let hello = frame(0x81, b"hello");
        for length in [(16 << 20) + 1, u64::MAX] {
            let bytes = [hello.clone(), head_of_long(0x82, length)].concat();
            assert_eq!(end(&bytes), End::TooLong(length, 16 << 20));
        }
    }

    #[test]
    fn a_close_frame_is_read_in_any_pieces() {
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
                assert_eq!(End::of(error).unwrap(), End::Close(expected.clone()));
            }
        }
    }

    #[test]
    fn a_close_frame_that_breaks_the_rules_is_refused() {
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
                End::BadClose(found, what) => {
                    assert_eq!(found, code, "{what}");
                    assert!(what.contains(word), "{what}");
                }
                other => panic!("{other:?}"),
            }
        }
        for code in [0u16, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535] {
            let bytes = frame(0x88, &code.to_be_bytes());
            assert!(matches!(end(&bytes), End::BadClose(1002, _)), "{code}");
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
        fn messages_are_the_same_in_parts_and_in_any_pieces(
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
                tungstenite::Error::Io(error) => End::of(error).ok(),
                _ => None,
            };
            prop_assert!(matches!(end, Some(End::Close(_))));
        }
    }
}
