//! Compressed messages: what both sides agree on, what is inflated, and what is compressed.

use std::io::{self, Read, Write};

use tungstenite::error::{CapacityError, ProtocolError};
use tungstenite::protocol::{WebSocketConfig, WebSocketContext};

use super::extensions::{self, Extension};
use super::inflate::Inflater;
use super::meaning::{self, Ending};
use super::peer::talk;
use crate::Deflate;
use crate::fuzzing::testkit::decisions::Decisions;
use crate::fuzzing::testkit::frames::{BINARY, Data, push_frame};
use crate::fuzzing::{Agreed, Deflater, FrameReader, InflateReader, InvalidData, Role, StreamEnd};

/// Headers of the handshake, frames of a peer, and messages to send.
pub fn deflate(input: &[u8]) {
    let mut decisions = Decisions::from_bytes(input);
    match decisions.byte() % 8 {
        0 => check_choice(&mut decisions),
        1 => check_answers(&mut decisions),
        2 => check_conversation(&mut decisions),
        3 => check_compressing(&mut decisions),
        _ => check_reading(decisions),
    }
}

fn settings(decisions: &mut Decisions<'_>) -> Deflate {
    let bits = [15, 15, 9, 10, 11, 12, 13, 14];
    Deflate::new()
        .level(1 + decisions.byte() % 9)
        .threshold(0)
        .client_no_context_takeover(decisions.one_in(3))
        .server_no_context_takeover(decisions.one_in(3))
        .client_max_window_bits(decisions.pick(&bits))
        .server_max_window_bits(decisions.pick(&bits))
}

/// Returns the values of the headers of one handshake.
fn headers(decisions: &mut Decisions<'_>) -> Vec<Vec<u8>> {
    const WORDS: [&str; 24] = [
        "permessage-deflate",
        "; client_max_window_bits",
        "; server_max_window_bits=",
        "; client_max_window_bits=",
        "; server_no_context_takeover",
        "; client_no_context_takeover",
        "9",
        "10",
        "15",
        ", ",
        ", permessage-deflate",
        "8",
        "12",
        "\"11\"",
        "\"1\\2\"",
        "16",
        "7",
        "08",
        "x-webkit-deflate-frame",
        "=",
        " ",
        "\t;",
        "\"",
        "unknown",
    ];
    let count = 1 + decisions.byte() % 3;
    (0..count)
        .map(|_| {
            let mut value = Vec::new();
            if !decisions.one_in(8) {
                value.extend_from_slice(b"permessage-deflate");
            }
            for _ in 0..decisions.byte() % 12 {
                value.extend_from_slice(decisions.pick(&WORDS).as_bytes());
            }
            if decisions.one_in(4) {
                value.extend(decisions.bytes());
            }
            value
        })
        .collect()
}

fn slices(headers: &[Vec<u8>]) -> impl Iterator<Item = &[u8]> {
    headers.iter().map(Vec::as_slice)
}

/// A server answers any offer as RFC 7692 demands.
fn check_choice(decisions: &mut Decisions<'_>) {
    let (server, headers) = (settings(decisions), headers(decisions));
    let chosen = server.choose(slices(&headers));
    let Some(offers) = extensions::parse(&headers) else {
        assert!(chosen.is_err(), "{headers:?}");
        return;
    };
    let chosen = chosen.expect("well-formed headers");
    // The first offer that zlib can satisfy.
    let offer = offers
        .iter()
        .find(|offer| offer.is_valid_offer() && offer.server_bits().is_none_or(|bits| bits > 8));
    let Some((agreed, header)) = chosen else {
        assert_eq!(offer, None, "declined");
        return;
    };
    let answer = only(&header);
    let offer = offer.expect("an offer");
    assert!(answer.is_answer_to(offer), "{header} to {offer:?}");
    assert!(
        offer
            .client_bits()
            .is_none_or(|most| answer.client_bits().is_some_and(|bits| bits <= most) || most == 15)
    );
    assert!(agreed.deflater(Role::Server).is_some());
    check_agreement(agreed, Role::Server, &answer, decisions);
}

/// A client accepts nothing that it has not offered, and all else.
fn check_answers(decisions: &mut Decisions<'_>) {
    let (client, headers) = (settings(decisions), headers(decisions));
    let offer = only(&client.offer());
    let result = client.check_answer(slices(&headers));
    match extensions::parse(&headers).as_deref() {
        Some([]) => assert_eq!(result, Ok(None)),
        Some([answer]) if answer.is_answer_to(&offer) => {
            let agreed = result.expect("what was offered").expect("an extension");
            check_agreement(agreed, Role::Client, answer, decisions);
        }
        _ => assert!(result.is_err(), "{headers:?} for {offer:?}"),
    }
}

/// Every client and every server of this crate agree, and understand each other.
fn check_conversation(decisions: &mut Decisions<'_>) {
    let (client, server) = (settings(decisions), settings(decisions));
    let offer = client.offer();
    assert!(only(&offer).is_valid_offer(), "{offer}");
    let chosen = server.choose([offer.as_bytes()]).expect("well-formed");
    let (by_server, header) = chosen.expect("an agreement");
    let answer = only(&header);
    assert!(answer.is_answer_to(&only(&offer)), "{header} to {offer}");
    let accepted = client.check_answer([header.as_bytes()]);
    let by_client = accepted.expect("what was offered").expect("an extension");
    for (sender, role, receiver) in [
        (by_client, Role::Client, by_server),
        (by_server, Role::Server, by_client),
    ] {
        let mut deflater = sender.deflater(role).expect("a window of 9 bits or more");
        let reading = match role {
            Role::Client => Role::Server,
            Role::Server => Role::Client,
        };
        let mut bytes = Vec::new();
        let messages = messages(decisions);
        for message in &messages {
            if deflater.is_worthwhile(message.len()) {
                let payload = compressed(&mut deflater, message, decisions);
                let mask = (role == Role::Client).then_some([1, 2, 3, 4]);
                push_frame(&mut bytes, 0xc0 | BINARY, &payload, mask);
            }
        }
        let mut stream = Stream::new(&bytes, reading, receiver.reader(reading), 1 << 20);
        stream.piece = 1 + decisions.below(5000);
        let read = read(stream, reading, 1 << 20, 4096);
        let sent = messages.into_iter().filter(|message| !message.is_empty());
        assert!(read.messages.into_iter().eq(sent.map(Data::Binary)));
        assert_eq!(read.ending, Ending::Lost);
    }
}

/// What this side sends after this answer obeys it.
fn check_agreement(agreed: Agreed, role: Role, answer: &Extension, decisions: &mut Decisions<'_>) {
    let (takeover, bits) = answer.direction(role);
    let Some(mut deflater) = agreed.deflater(role) else {
        assert!(bits < 9, "zlib can compress");
        return;
    };
    check_deflater(&mut deflater, takeover, bits, decisions);
}

/// Whatever the level, the window and the parts of a message are, the peer can inflate it.
fn check_compressing(decisions: &mut Decisions<'_>) {
    let (takeover, bits) = (!decisions.flag(), 9 + decisions.byte() % 7);
    let mut deflater = deflater(takeover, bits, 1 + decisions.byte() % 9);
    check_deflater(&mut deflater, takeover, bits, decisions);
}

/// Returns a client's compressor with these settings.
fn deflater(takeover: bool, bits: u8, level: u8) -> Deflater {
    let settings = Deflate::new()
        .level(level)
        .threshold(0)
        .client_no_context_takeover(!takeover)
        .client_max_window_bits(bits);
    let answer = settings.check_answer([&b"permessage-deflate"[..]]);
    let agreed = answer.expect("what was offered").expect("an extension");
    agreed.deflater(Role::Client).expect("9 bits or more")
}

fn check_deflater(
    deflater: &mut Deflater,
    takeover: bool,
    bits: u8,
    decisions: &mut Decisions<'_>,
) {
    let mut inflater = Inflater::new(takeover, bits);
    for message in messages(decisions) {
        if !deflater.is_worthwhile(message.len()) {
            assert!(message.is_empty());
            continue;
        }
        let payload = compressed(deflater, &message, decisions);
        // RFC 7692, section 7.2.3.6: one byte at least.
        assert!(!payload.is_empty());
        inflater.begin_message();
        assert!(inflater.add(&payload, usize::MAX - 1), "invalid");
        assert!(inflater.add_tail(usize::MAX - 1), "an invalid end");
        assert!(inflater.is_between_blocks(), "the end of a block");
        assert!(inflater.message() == message, "another message");
        assert!(!inflater.exceeds_window, "a distance beyond {bits} bits");
    }
}

/// Compresses a message in parts of any size.
fn compressed(deflater: &mut Deflater, mut rest: &[u8], decisions: &mut Decisions<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..decisions.byte() % 4 {
        let (part, more) = rest.split_at(decisions.below(rest.len() + 1));
        rest = more;
        let written = deflater.compress(part, false, &mut out);
        written.expect("intact memory");
    }
    let written = deflater.compress(rest, true, &mut out);
    written.expect("intact memory");
    out
}

/// Returns messages that resemble each other and themselves, near and far.
fn messages(decisions: &mut Decisions<'_>) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let mut messages = Vec::new();
    let mut noise = Decisions::from_seed(u64::from(decisions.byte()));
    for _ in 0..1 + decisions.byte() % 4 {
        let begin = all.len();
        for _ in 0..decisions.byte() % 8 {
            match decisions.byte() % 4 {
                0 => all.extend(decisions.bytes()),
                1 => {
                    let length = decisions.pick(&[1, 100, 255, 500, 1000, 5000]);
                    all.extend((0..length).map(|_| noise.byte()));
                }
                2 => all.extend(std::iter::repeat_n(
                    decisions.byte(),
                    decisions.pick(&[3, 300, 5000, 40_000]),
                )),
                _ => {
                    // Around the sizes of windows.
                    let far = (1 << (8 + decisions.byte() % 8)) + decisions.below(600);
                    let from = all.len().saturating_sub(far.saturating_sub(300));
                    let end = (from + decisions.below(600)).min(all.len());
                    all.extend_from_within(from..end);
                }
            }
        }
        messages.push(all[begin..].to_vec());
    }
    messages
}

/// The reader does what the simple one does, whatever the pieces and the buffers are.
fn check_reading(mut decisions: Decisions<'_>) {
    let bits = decisions.byte();
    let role = match bits & 1 {
        0 => Role::Client,
        _ => Role::Server,
    };
    let takeover = bits & 2 == 0;
    let window_bits = decisions.pick(&[15, 15, 15, 9, 10, 12, 8]);
    let limit = decisions.pick(&[1 << 18, 1 << 18, 1 << 18, 0, 1, 100, 125, 126, 1000, 70_000]);
    let buffer = decisions.pick(&[16 << 10, 1024, 0, 15, 16, 20, 64, 130, 300, 70_000]);
    let piece = decisions.pick(&[usize::MAX, 1, 2, 3, 7, 14, 100, 5000, 0]);
    let stalls = bits & 4 != 0;
    let bytes = match bits & 8 {
        0 => talk(&mut decisions, role, limit, true),
        _ => decisions.rest().to_vec(),
    };
    let mut stream = Stream::new(&bytes, role, reader(role, takeover, window_bits), limit);
    (stream.piece, stream.stalls) = (piece, stalls);
    let read = read(stream, role, limit, buffer);

    // zlib has no window of 8 bits, and inflates with 9 instead.
    let inflater = Inflater::new(takeover, window_bits.max(9));
    let meaning = meaning::read(&bytes, role, limit, Some(inflater));
    match meaning.messages_within_window {
        // zlib rejects a distance beyond the window, unless the data happens to be in a buffer.
        Some(messages) if read.ending == Ending::NotDeflated => {
            assert!(read.messages.len() >= messages);
            assert!(meaning.messages.starts_with(&read.messages));
            assert!(meaning.pings.starts_with(&read.pings));
            return;
        }
        _ => {}
    }
    assert!(
        read.messages == meaning.messages,
        "{:?} for {:?}, {:?} for {:?}",
        read.messages,
        meaning.messages,
        read.ending,
        meaning.ending
    );
    assert_eq!(read.pings, meaning.pings);
    assert_eq!(read.messages_before, meaning.messages_before);
    assert!(
        meaning.may_end_with(&read.ending),
        "{:?} for {:?} or {:?}",
        read.ending,
        meaning.ending,
        meaning.others
    );
}

/// Returns this side's reader after a handshake with this result.
fn reader(role: Role, takeover: bool, window_bits: u8) -> InflateReader {
    let (sender, settings) = match role {
        Role::Client => ("server", Deflate::new()),
        Role::Server => ("client", Deflate::new()),
    };
    let takeover = match takeover {
        true => String::new(),
        false => format!("; {sender}_no_context_takeover"),
    };
    let header = format!("permessage-deflate{takeover}; {sender}_max_window_bits={window_bits}");
    let header = [header.as_bytes()];
    let agreed = match role {
        Role::Client => settings.check_answer(header).expect("a valid answer"),
        Role::Server => {
            let chosen = settings.choose(header).expect("a valid offer");
            chosen.map(|(agreed, _)| agreed)
        }
    };
    agreed.expect("an agreement").reader(role)
}

/// A connection as the reader thread has it, whose bytes arrive in pieces.
struct Stream<'a> {
    bytes: &'a [u8],
    /// The maximum number of bytes that arrive at a time; 0 for all numbers in turn.
    piece: usize,
    /// Whether every second read returns nothing.
    stalls: bool,
    inflate: InflateReader,
    frames: FrameReader,
    reads: usize,
    largest_buffer: usize,
}

impl<'a> Stream<'a> {
    fn new(bytes: &'a [u8], role: Role, inflate: InflateReader, limit: usize) -> Self {
        Stream {
            bytes,
            piece: usize::MAX,
            stalls: false,
            inflate,
            frames: FrameReader::new(role, limit),
            reads: 0,
            largest_buffer: 0,
        }
    }
}

impl Read for Stream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Stream {
            bytes,
            piece,
            stalls,
            inflate,
            frames,
            reads,
            largest_buffer,
        } = self;
        *largest_buffer = buffer.len().max(*largest_buffer);
        let n = frames.read(buffer, |buffer| {
            *largest_buffer = buffer.len().max(*largest_buffer);
            let n = inflate.read(buffer, |buffer| {
                *reads += 1;
                if *stalls && *reads % 2 == 0 {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                let piece = match *piece {
                    0 => *reads,
                    piece => piece,
                };
                let n = buffer.len().min(piece).min(bytes.len());
                buffer[..n].copy_from_slice(&bytes[..n]);
                *bytes = &bytes[n..];
                Ok(n)
            })?;
            assert!(n <= buffer.len());
            Ok(n)
        });
        // A head may be incomplete before a buffer of bytes. A vector may be twice as large as its
        // contents.
        assert!(self.inflate.buffered() <= 2 * (self.largest_buffer + 14));
        n
    }
}

impl Write for Stream<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What has been read.
struct Received {
    messages: Vec<Data>,
    pings: Vec<Vec<u8>>,
    messages_before: Vec<usize>,
    ending: Ending,
}

/// Reads everything as the reader thread does.
fn read(mut stream: Stream<'_>, role: Role, limit: usize, buffer: usize) -> Received {
    use tungstenite::{Error, Message};
    let config = WebSocketConfig::default()
        .read_buffer_size(buffer)
        .max_message_size(Some(limit))
        .max_frame_size(None);
    let mut codec = WebSocketContext::new(role, Some(config));
    let (mut messages, mut pings, mut messages_before) = (Vec::new(), Vec::new(), Vec::new());
    // Each byte may need a read of its own, and each read may do nothing once.
    let mut patience = 4 * stream.bytes.len() + 100;
    let ending = loop {
        match codec.read(&mut stream) {
            Ok(Message::Text(text)) => messages.push(Data::Text(text.as_str().to_owned())),
            Ok(Message::Binary(bytes)) => messages.push(Data::Binary(bytes.to_vec())),
            Ok(Message::Ping(payload)) => {
                pings.push(payload.to_vec());
                messages_before.push(messages.len());
            }
            Ok(Message::Pong(_)) => {}
            Ok(other) => panic!("{other:?}"),
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                patience = patience.checked_sub(1).expect("progress");
            }
            Err(Error::Io(error)) => break ending(error),
            Err(Error::Capacity(CapacityError::MessageTooLong { size, max_size })) => {
                assert_eq!(max_size, limit);
                // A part of a plain frame, or what a buffer has space for.
                let ahead = stream.largest_buffer.max(limit.clamp(125, 64 << 10));
                assert!(size <= limit + ahead, "{size} bytes are too far");
                break Ending::TooBig;
            }
            Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => {
                break Ending::Lost;
            }
            Err(Error::Utf8(_)) => break Ending::Violation(1007),
            Err(Error::Protocol(_)) => break Ending::Violation(1002),
            Err(other) => panic!("{other:?}"),
        }
    };
    Received {
        messages,
        pings,
        messages_before,
        ending,
    }
}

fn ending(error: io::Error) -> Ending {
    match StreamEnd::of(error) {
        Ok(StreamEnd::Close(frame)) => Ending::Close(frame),
        Ok(StreamEnd::BadClose(code, _)) => Ending::Violation(code),
        Ok(StreamEnd::TooLong(..)) => Ending::TooBig,
        Err(error) if error.get_ref().is_some_and(|it| it.is::<InvalidData>()) => {
            Ending::NotDeflated
        }
        Err(error) => panic!("{error:?}"),
    }
}

/// Inflates and compresses for `fuzz/differential.py`, which compares this crate with zlib. Reads a
/// task in each line of the standard input, and answers it in a line:
///
/// * `inflate TAKEOVER BITS PAYLOAD...`: what each message's payload inflates to. If one cannot be
///   inflated, nothing follows.
/// * `deflate TAKEOVER BITS LEVEL MESSAGE...`: the payload of each message.
///
/// Data is hexadecimal, and `-` if it is empty.
#[cfg(test)]
#[test]
#[ignore = "a program starts it: see fuzz/README.md"]
fn differential() {
    use data_encoding::HEXLOWER;
    for line in io::stdin().lines() {
        let line = line.expect("a line");
        let mut words = line.split(' ');
        let mut word = || words.next().expect("a word");
        let (task, takeover, bits) = (word(), word() == "1", word().parse().expect("bits"));
        let level = match task {
            "deflate" => word().parse().expect("a level"),
            _ => 1,
        };
        let data = words.map(|word| match word {
            "-" => Vec::new(),
            word => HEXLOWER.decode(word.as_bytes()).expect("digits"),
        });
        let answers = match task {
            "deflate" => deflate_all(takeover, bits, level, data),
            _ => inflate_all(takeover, bits, data),
        };
        print!("=");
        for answer in answers {
            match &answer[..] {
                [] => print!(" -"),
                _ => print!(" {}", HEXLOWER.encode(&answer)),
            }
        }
        println!();
    }
}

#[cfg(test)]
fn inflate_all(takeover: bool, bits: u8, payloads: impl Iterator<Item = Vec<u8>>) -> Vec<Vec<u8>> {
    let mut bytes = Vec::new();
    for payload in payloads {
        push_frame(&mut bytes, 0xc0 | BINARY, &payload, None);
    }
    let limit = 1 << 24;
    let reader = reader(Role::Client, takeover, bits);
    let stream = Stream::new(&bytes, Role::Client, reader, limit);
    let messages = read(stream, Role::Client, limit, 16 << 10).messages;
    let messages = messages.into_iter().map(|message| match message {
        Data::Binary(bytes) => bytes,
        Data::Text(text) => panic!("{text}"),
    });
    messages.collect()
}

#[cfg(test)]
fn deflate_all(
    takeover: bool,
    bits: u8,
    level: u8,
    messages: impl Iterator<Item = Vec<u8>>,
) -> Vec<Vec<u8>> {
    let mut deflater = deflater(takeover, bits, level);
    let mut parts = Decisions::from_seed(u64::from(level));
    messages
        .map(|message| compressed(&mut deflater, &message, &mut parts))
        .collect()
}

/// Returns the extension in a header of this crate.
fn only(header: &str) -> Extension {
    let parsed = extensions::parse(&[header.as_bytes().to_vec()]);
    let mut parsed = parsed.expect("a well-formed header");
    assert_eq!(parsed.len(), 1, "{header}");
    parsed.remove(0)
}
