//! Messages go through [`Deflater`], frames, [`InflateReader`] and the codec.

use std::io::{self, Read, Write};

use proptest::prelude::*;
use tungstenite::error::{CapacityError, ProtocolError};
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};
use tungstenite::protocol::frame::{Frame, FrameHeader};
use tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};
use tungstenite::{Error, Message};

use super::direction::Direction;
use super::{Deflater, InflateReader, InvalidData};

const LIMIT: usize = 1 << 20;

/// A stream that arrives in pieces of one read each and has no end.
struct Pieces<'a> {
    bytes: &'a [u8],
    piece: usize,
    inflate: InflateReader,
    /// The most bytes that one read has returned.
    most: usize,
}

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Pieces { bytes, piece, .. } = self;
        let n = self.inflate.read(buffer, |buffer| {
            let n = buffer.len().min(*piece).min(bytes.len());
            if n == 0 {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let (first, rest) = bytes.split_at(n);
            buffer[..n].copy_from_slice(first);
            *bytes = rest;
            Ok(n)
        })?;
        self.most = self.most.max(n);
        Ok(n)
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

const DEFAULT: Direction = Direction {
    takeover: true,
    window_bits: 15,
};

/// Reads all messages, and why no more can be read.
fn read(bytes: &[u8], role: Role, direction: Direction, piece: usize) -> (Vec<Message>, Error) {
    let config = WebSocketConfig::default()
        .read_buffer_size(if piece > 1000 { 16 << 10 } else { 300 })
        .max_message_size(Some(LIMIT))
        .max_frame_size(Some(LIMIT));
    let mut codec = WebSocketContext::new(role, Some(config));
    let mut stream = Pieces {
        bytes,
        piece,
        inflate: InflateReader::new(direction),
        most: 0,
    };
    let mut messages = Vec::new();
    loop {
        match codec.read(&mut stream) {
            Ok(message) => messages.push(message),
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                assert!(stream.most <= 32 << 10, "{} bytes at a time", stream.most);
                return (messages, error);
            }
        }
    }
}

fn is_end(error: &Error) -> bool {
    matches!(error, Error::Io(error) if error.kind() == io::ErrorKind::TimedOut)
}

fn is_invalid_data(error: &Error) -> bool {
    matches!(error, Error::Io(error) if error.get_ref().is_some_and(|it| it.is::<InvalidData>()))
}

fn header(opcode: OpCode, is_final: bool, rsv1: bool, mask: Option<[u8; 4]>) -> FrameHeader {
    FrameHeader {
        is_final,
        rsv1,
        opcode,
        mask,
        ..FrameHeader::default()
    }
}

fn frame(header: FrameHeader, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let frame = Frame::from_payload(header, payload.to_vec().into());
    frame.format(&mut bytes).unwrap();
    bytes
}

const TEXT: OpCode = OpCode::Data(Data::Text);
const BINARY: OpCode = OpCode::Data(Data::Binary);
const CONTINUE: OpCode = OpCode::Data(Data::Continue);
const PING: OpCode = OpCode::Control(Control::Ping);

fn deflated(deflater: &mut Deflater, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    deflater.compress(payload, true, &mut out).unwrap();
    out
}

fn one_frame(opcode: OpCode, payload: &[u8]) -> Vec<u8> {
    let deflated = deflated(&mut Deflater::new(6, 0, DEFAULT), payload);
    frame(header(opcode, true, true, None), &deflated)
}

#[test]
fn the_examples_of_the_rfc_are_inflated() {
    let examples: &[&[u8]] = &[
        b"\xc1\x07\xf2\x48\xcd\xc9\xc9\x07\x00",
        b"\x41\x03\xf2\x48\xcd\x80\x04\xc9\xc9\x07\x00",
        b"\xc1\x0b\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00",
        b"\xc1\x08\xf3\x48\xcd\xc9\xc9\x07\x00\x00",
        b"\xc1\x0d\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00",
        // Beyond the RFC: the stream ends, and no empty block follows.
        b"\xc1\x07\xf3\x48\xcd\xc9\xc9\x07\x00",
    ];
    let repeated = b"\xc1\x05\xf2\x00\x11\x00\x00";
    for first in examples {
        for piece in 1..20 {
            let (messages, end) = read(first, Role::Client, DEFAULT, piece);
            assert_eq!(messages, [Message::text("Hello")], "{first:x?}");
            assert!(is_end(&end), "{end}");
        }
    }
    let twice = [examples[0], repeated].concat();
    let (messages, end) = read(&twice, Role::Client, DEFAULT, 4096);
    assert_eq!(messages, [Message::text("Hello"), Message::text("Hello")]);
    assert!(is_end(&end));
    // Without context takeover, the second message refers to nothing.
    let alone = Direction {
        takeover: false,
        ..DEFAULT
    };
    let (messages, end) = read(&twice, Role::Client, alone, 4096);
    assert_eq!(messages, [Message::text("Hello")]);
    assert!(is_invalid_data(&end), "{end}");
}

/// Returns a complete deflate stream.
fn ended_stream(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + 100);
    let mut compress = flate2::Compress::new(flate2::Compression::new(6), false);
    let status = compress.compress_vec(payload, &mut out, flate2::FlushCompress::Finish);
    assert_eq!(status.unwrap(), flate2::Status::StreamEnd);
    out
}

#[test]
fn a_stream_may_end_where_the_buffer_is_full() {
    for length in 1..1000 {
        let payload = vec![b'x'; length];
        let first = frame(header(TEXT, true, true, None), &ended_stream(&payload));
        let bytes = [first, one_frame(TEXT, b"Hello")].concat();
        for piece in [1, 4, 1000] {
            let (messages, end) = read(&bytes, Role::Client, DEFAULT, piece);
            let expected = String::from_utf8(payload.clone()).unwrap();
            let expected = [Message::text(expected), Message::text("Hello")];
            assert_eq!(messages, expected, "{length} in pieces of {piece}: {end}");
            assert!(is_end(&end), "{end}");
        }
    }
}

#[test]
fn data_that_cannot_be_inflated_is_reported_after_the_messages_before_it() {
    let mut bytes = [one_frame(TEXT, b"before"), one_frame(BINARY, b"")].concat();
    // A block of the reserved type.
    bytes.extend(frame(header(TEXT, true, true, None), b"\xff\xff"));
    bytes.extend(one_frame(TEXT, b"after"));
    for piece in [1, 2, 7, 4096] {
        let (messages, end) = read(&bytes, Role::Client, DEFAULT, piece);
        assert_eq!(messages.len(), 2);
        assert!(is_invalid_data(&end), "{end}");
    }
}

#[test]
fn what_the_protocol_forbids_reaches_the_codec() {
    let compressed = deflated(&mut Deflater::new(6, 0, DEFAULT), &[b'x'; 100]);
    let half = compressed.len() / 2;
    let first = frame(header(TEXT, false, true, None), &compressed[..half]);
    let with = |opcode, rsv1, mask| frame(header(opcode, true, rsv1, mask), &compressed[half..]);
    let reserved = |opcode| {
        let header = FrameHeader {
            rsv2: true,
            ..header(opcode, true, true, None)
        };
        frame(header, b"x")
    };
    for (bytes, is_right) in [
        (with(CONTINUE, true, None), "reserved"),
        (reserved(CONTINUE), "reserved"),
        (with(TEXT, false, None), "fragment"),
        (with(BINARY, true, None), "reserved"),
        (with(PING, true, None), "reserved"),
        (with(CONTINUE, false, Some([1, 2, 3, 4])), "mask"),
        (vec![0x83, 0], "opcode"),
        (vec![0x8b, 0], "opcode"),
    ] {
        for piece in [1, 3, 4096] {
            let bytes = [&first[..], &bytes].concat();
            let (messages, end) = read(&bytes, Role::Client, DEFAULT, piece);
            let end = end.to_string().to_lowercase();
            assert!(end.contains(is_right), "{bytes:x?}: {end}");
            assert_eq!(messages, []);
        }
    }
    for (bytes, is_right) in [
        (reserved(TEXT), "reserved"),
        (with(CONTINUE, true, None), "reserved"),
        (with(CONTINUE, false, None), "continue"),
        (one_frame(TEXT, b"x"), "unmasked"),
        (
            frame(header(TEXT, false, true, None), &compressed),
            "unmasked",
        ),
    ] {
        let role = match is_right {
            "unmasked" => Role::Server,
            _ => Role::Client,
        };
        let (messages, end) = read(&bytes, role, DEFAULT, 4096);
        let end = end.to_string().to_lowercase();
        assert!(end.contains(is_right), "{bytes:x?}: {end}");
        assert_eq!(messages, []);
    }
    // A frame without data, and more frames after it.
    let close = |mask| {
        frame(
            header(OpCode::Control(Control::Close), true, false, mask),
            b"",
        )
    };
    let empty = frame(header(TEXT, false, true, None), b"");
    let begin = frame(header(TEXT, false, false, None), b"x");
    for (bytes, role, is_right) in [
        (
            [&empty[..], &close(Some([1, 2, 3, 4]))].concat(),
            Role::Server,
            "unmasked",
        ),
        (
            [&begin[..], &empty, &close(None)].concat(),
            Role::Client,
            "fragment",
        ),
    ] {
        for piece in [1, 4096] {
            let (messages, end) = read(&bytes, role, DEFAULT, piece);
            let end = end.to_string().to_lowercase();
            assert!(end.contains(is_right), "{bytes:x?}: {end}");
            assert_eq!(messages, []);
        }
    }
    // A compressed message within a plain one.
    let plain = frame(header(TEXT, false, false, None), b"x");
    let bytes = [plain, one_frame(TEXT, b"x")].concat();
    let (_, end) = read(&bytes, Role::Client, DEFAULT, 4096);
    let expected = ProtocolError::ExpectedFragment(Data::Text);
    assert!(matches!(end, Error::Protocol(error) if error == expected));
    // Text that is not UTF-8.
    let (_, end) = read(&one_frame(TEXT, b"\xc3"), Role::Client, DEFAULT, 4096);
    assert!(matches!(end, Error::Utf8(_)), "{end}");
}

#[test]
fn a_message_is_inflated_no_further_than_the_limit() {
    let fits = vec![0; LIMIT];
    let (messages, end) = read(&one_frame(BINARY, &fits), Role::Client, DEFAULT, 4096);
    assert_eq!(messages, [Message::binary(fits)]);
    assert!(is_end(&end));
    // 64 MiB in 64 KiB. The frame is not complete: it is rejected before.
    let mut bomb = one_frame(BINARY, &vec![0; 64 * LIMIT]);
    bomb.truncate(60_000);
    let config = WebSocketConfig::default()
        .read_buffer_size(16 << 10)
        .max_message_size(Some(LIMIT))
        .max_frame_size(Some(LIMIT));
    let mut codec = WebSocketContext::new(Role::Client, Some(config));
    let mut stream = Pieces {
        bytes: &bomb,
        piece: 60_000,
        inflate: InflateReader::new(DEFAULT),
        most: 0,
    };
    let end = loop {
        match codec.read(&mut stream) {
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
            other => break other.unwrap_err(),
        }
    };
    let Error::Capacity(CapacityError::MessageTooLong { size, max_size }) = end else {
        panic!("{end}");
    };
    assert_eq!(max_size, LIMIT);
    assert!(size <= LIMIT + (32 << 10), "{size} bytes were inflated");
    // One read of the connection was enough.
    assert!(bomb.len() - stream.bytes.len() <= 16 << 10);
}

#[test]
fn memory_is_freed_between_messages_that_stand_alone() {
    for takeover in [true, false] {
        let direction = Direction {
            takeover,
            ..DEFAULT
        };
        let mut reader = InflateReader::new(direction);
        let bytes = one_frame(TEXT, b"hello");
        let mut buffer = [0; 100];
        for (part, inside) in [(&bytes[..4], true), (&bytes[4..], false)] {
            let read = reader.read(&mut buffer, |buffer| {
                buffer[..part.len()].copy_from_slice(part);
                Ok(part.len())
            });
            assert!(read.is_ok(), "{read:?}");
            assert_eq!(reader.has_inflater(), takeover || inside);
            assert_eq!(reader.buffered(), 0);
        }
        let mut deflater = Deflater::new(6, 0, direction);
        deflated(&mut deflater, b"hello");
        assert_eq!(deflater.has_compressor(), takeover);
    }
}

#[test]
fn processed_bytes_are_freed_even_if_each_piece_ends_in_a_head() {
    let empty = frame(header(BINARY, true, false, None), b"");
    let compressed = frame(header(BINARY, true, true, None), &[0]);
    for (first, second) in [
        (&empty[..1], &empty[1..]),
        (&compressed[..1], &compressed[1..]),
    ] {
        let mut reader = InflateReader::new(DEFAULT);
        let mut buffer = [0; 100];
        for _ in 0..1000 {
            let piece = [second, first].concat();
            let piece = if reader.buffered() == 0 {
                first
            } else {
                &piece
            };
            let read = reader.read(&mut buffer, |buffer| {
                buffer[..piece.len()].copy_from_slice(piece);
                Ok(piece.len())
            });
            assert!(read.is_ok_and(|n| n > 0) || piece.len() == 1);
            assert!(reader.buffered() <= 100, "{} bytes", reader.buffered());
        }
    }
}

/// A message to send.
#[derive(Debug, Clone)]
struct Sent {
    payload: Vec<u8>,
    is_text: bool,
    is_compressed: bool,
    /// Where the payload is split into frames.
    cuts: Vec<prop::sample::Index>,
    /// Whether a ping follows each frame but the last.
    has_pings: bool,
    mask: [u8; 4],
}

fn any_message() -> impl Strategy<Value = Sent> {
    let payload = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..300),
        prop::collection::vec(prop::sample::select(b"ab".to_vec()), 0..5000),
        (any::<u8>(), 0..100_000_usize).prop_map(|(byte, length)| vec![byte % 128; length]),
        prop::collection::vec(any::<u8>(), 0..40_000),
    ];
    let cuts = prop::collection::vec(any::<prop::sample::Index>(), 0..4);
    (payload, any::<(bool, bool, bool, [u8; 4])>(), cuts).prop_map(
        |(payload, (is_text, is_compressed, has_pings, mask), cuts)| Sent {
            is_text: is_text && std::str::from_utf8(&payload).is_ok(),
            payload,
            is_compressed,
            cuts,
            has_pings,
            mask,
        },
    )
}

/// Returns the frames of a message as they are sent.
fn on_the_wire(sent: &Sent, deflater: &mut Deflater, mask: Option<[u8; 4]>) -> Vec<u8> {
    let is_compressed = sent.is_compressed && deflater.is_worthwhile(sent.payload.len());
    let payload = match is_compressed {
        false => sent.payload.clone(),
        true => {
            // In two parts, as a long message is compressed.
            let (first, second) = sent.payload.split_at(sent.payload.len() / 2);
            let mut out = Vec::new();
            deflater.compress(first, false, &mut out).unwrap();
            deflater.compress(second, true, &mut out).unwrap();
            out
        }
    };
    let cuts = sent.cuts.iter().map(|cut| cut.index(payload.len() + 1));
    let mut cuts: Vec<_> = cuts.chain([payload.len()]).collect();
    cuts.sort_unstable();
    let mut bytes = Vec::new();
    let mut begin = 0;
    for (index, end) in cuts.iter().enumerate() {
        let opcode = match (index, sent.is_text) {
            (0, true) => TEXT,
            (0, false) => BINARY,
            _ => CONTINUE,
        };
        let is_final = index + 1 == cuts.len();
        let header = header(opcode, is_final, is_compressed && index == 0, mask);
        bytes.extend(frame(header, &payload[begin..*end]));
        if sent.has_pings && !is_final {
            bytes.extend(frame(self::header(PING, true, false, mask), b"ping"));
        }
        begin = *end;
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn what_was_compressed_is_inflated(
        messages in prop::collection::vec(any_message(), 1..8),
        takeover: bool,
        window_bits in 9..=15_u8,
        level in 1..=9_u8,
        is_masked: bool,
        piece in prop_oneof![1..10_usize, 10..20_000_usize],
    ) {
        let direction = Direction { takeover, window_bits };
        let mut deflater = Deflater::new(level, 0, direction);
        let mut bytes = Vec::new();
        for message in &messages {
            let mask = is_masked.then_some(message.mask);
            bytes.extend(on_the_wire(message, &mut deflater, mask));
        }
        let role = if is_masked { Role::Server } else { Role::Client };
        let (read, end) = read(&bytes, role, direction, piece);
        prop_assert!(is_end(&end), "{}", end);
        let read = read.into_iter().filter(|message| !message.is_ping());
        let read: Vec<_> = read.map(|it| (it.is_text(), it.into_data().to_vec())).collect();
        let sent: Vec<_> = messages.into_iter().map(|it| (it.is_text, it.payload)).collect();
        prop_assert!(read == sent);
    }

    #[test]
    fn bytes_of_a_stranger_cannot_make_it_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..500),
        begins_compressed: bool,
        piece in 1..600_usize,
    ) {
        let mut all = Vec::new();
        if begins_compressed {
            all.extend([0xc2, 0x7e, 0x01, 0x00]);
        }
        all.extend(bytes);
        let (_, _) = read(&all, Role::Client, DEFAULT, piece);
    }
}
