//! What a hostile peer sends: conversations that are valid at first.

use super::blocks::deflated;
use crate::fuzzing::Role;
use crate::fuzzing::testkit::decisions::Decisions;
use crate::fuzzing::testkit::frames::{
    BINARY, CLOSE, CONTINUATION, MAX_CONTROL, PING, PONG, TEXT, push_frame,
};

/// The maximum number of bytes of a conversation, so that one run is short.
const ENOUGH: usize = 256 << 10;

pub(super) struct Peer<'a, 'b> {
    decisions: &'a mut Decisions<'b>,
    masks: bool,
    max_message: usize,
    /// Whether messages may be compressed.
    deflates: bool,
    said: Vec<u8>,
}

/// Returns a conversation with an endpoint in this role.
pub(super) fn talk(
    decisions: &mut Decisions<'_>,
    role: Role,
    max_message: usize,
    deflates: bool,
) -> Vec<u8> {
    let mut peer = Peer {
        decisions,
        masks: role == Role::Server,
        max_message,
        deflates,
        said: Vec::new(),
    };
    while !peer.decisions.is_empty() && peer.said.len() < ENOUGH {
        peer.say_something();
    }
    peer.said
}

impl Peer<'_, '_> {
    fn say_something(&mut self) {
        match self.decisions.byte() % 16 {
            0..=2 | 5 | 6 if self.deflates => self.compressed(),
            0..=4 => {
                let (kind, payload) = self.message();
                self.frame(0x80 | kind, &payload);
            }
            5..=8 => self.fragments(),
            9..=11 => self.control(),
            12 => self.close(),
            13 => self.broken_frame(),
            14 => {
                let first = self.decisions.byte();
                let payload = self.payload();
                self.frame(first, &payload);
            }
            _ => self.said.extend(self.decisions.bytes()),
        }
    }

    fn frame(&mut self, first: u8, payload: &[u8]) {
        let mask = self.masks.then(|| [0, 0xa5, 0xff, self.decisions.byte()]);
        push_frame(&mut self.said, first, payload, mask);
    }

    fn message(&mut self) -> (u8, Vec<u8>) {
        match self.decisions.flag() {
            true => (TEXT, self.text()),
            false => (BINARY, self.payload()),
        }
    }

    fn fragments(&mut self) {
        let (kind, payload) = self.message();
        self.split(kind, &payload);
    }

    /// A message with the bit RSV1 (RFC 7692, section 6).
    fn compressed(&mut self) {
        let kind = self.decisions.pick(&[TEXT, BINARY]);
        // How much history there is depends on the messages before, and on context takeover.
        let history = self.decisions.pick(&[0, 0, 3, 300, 40_000]);
        let payload = deflated(self.decisions, history);
        self.split(0x40 | kind, &payload);
    }

    fn split(&mut self, first: u8, payload: &[u8]) {
        let mut rest = payload;
        let mut opcode = first;
        for _ in 0..self.decisions.below(5) {
            let (part, more) = rest.split_at(self.decisions.below(rest.len() + 1));
            rest = more;
            self.frame(opcode, part);
            opcode = CONTINUATION;
            if self.decisions.one_in(3) {
                self.control();
            }
        }
        if !self.decisions.one_in(8) {
            self.frame(0x80 | opcode, rest);
        }
    }

    fn control(&mut self) {
        let opcode = self.decisions.pick(&[PING, PONG]);
        let mut payload = self.payload();
        payload.truncate(MAX_CONTROL);
        self.frame(0x80 | opcode, &payload);
    }

    fn close(&mut self) {
        const CODES: [u16; 12] = [
            1000, 1001, 1002, 1005, 1006, 1011, 1015, 2999, 3000, 4999, 5000, 0,
        ];
        let code = match self.decisions.one_in(4) {
            true => self.decisions.u16(),
            false => self.decisions.pick(&CODES),
        };
        let mut payload = code.to_be_bytes().to_vec();
        match self.decisions.byte() % 8 {
            0 => payload.clear(),
            1 => payload.truncate(1),
            2..=4 => {}
            _ => payload.extend(self.text()),
        }
        if !self.decisions.one_in(8) {
            payload.truncate(MAX_CONTROL);
        }
        self.frame(0x80 | CLOSE, &payload);
    }

    /// A frame whose head has one fault.
    fn broken_frame(&mut self) {
        let (kind, payload) = self.message();
        let mut frame = Vec::new();
        let mask = self.masks.then_some([1, 2, 3, 4]);
        push_frame(&mut frame, 0x80 | kind, &payload, mask);
        match self.decisions.byte() % 6 {
            0 => frame[0] ^= 1 << (4 + self.decisions.byte() % 4),
            1 => frame[0] = frame[0] & 0xf0 | self.decisions.byte() & 0x0f,
            2 => frame[1] ^= 0x80,
            3 => frame[1] = frame[1] & 0x80 | self.decisions.byte() & 0x7f,
            4 => {
                let length =
                    self.decisions
                        .pick(&[0, 126, 1 << 16, 1 << 24, 1 << 40, 1 << 62, u64::MAX]);
                frame.truncate(1);
                frame.push(127 | if self.masks { 0x80 } else { 0 });
                frame.extend_from_slice(&length.to_be_bytes());
            }
            _ => frame.truncate(self.decisions.below(frame.len())),
        }
        self.said.extend(frame);
    }

    fn payload(&mut self) -> Vec<u8> {
        match self.decisions.byte() % 4 {
            0 => Vec::new(),
            1 | 2 => self.decisions.bytes(),
            _ => vec![self.decisions.byte(); self.length()],
        }
    }

    /// A length at which something changes.
    fn length(&mut self) -> usize {
        let edges = [
            1,
            125,
            126,
            1 << 10,
            4 << 10,
            16 << 10,
            1 << 16,
            self.max_message,
        ];
        let edge = self.decisions.pick(&edges).min(1 << 17);
        (edge + 1).saturating_sub(self.decisions.below(3))
    }

    fn text(&mut self) -> Vec<u8> {
        const TEXTS: [&[u8]; 16] = [
            b"",
            b"{}",
            b"{\"motor\":1,\"speed\":[0.5,-1e3,null]}",
            b"\"hello\"",
            b"hello",
            b" 1 ",
            b"1e999",
            b"[[[[[[[[[[[[]]]]]]]]]]]]",
            b"{\"a\":\"\\ud83d\\ude00\"}",
            b"\"\\ud800\"",
            "κόσμε 😀".as_bytes(),
            b"\xf0\x9f\x98",
            b"\xed\xa0\x80",
            b"\xc0\xaf",
            b"\xf4\x90\x80\x80",
            b"\0",
        ];
        let mut text = self.decisions.pick(&TEXTS).to_vec();
        if self.decisions.one_in(3) {
            text.extend(self.decisions.bytes());
        }
        text
    }
}
