//! A peer that sends what it was given, whatever it receives.
#![allow(dead_code)] // Only the fuzz harness uses it.

use tungstenite::handshake::derive_accept_key;

use super::faults::{ConnectionFaults, EndOptions, Faults};
use super::transport::{self, FaultyTransport, Observer, State};

/// The `Sec-WebSocket-Accept` of RFC 6455's example. A scripted server that sends it sends the one
/// that fits the client's key in its place, which no input can know.
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

#[derive(Debug, Clone)]
pub struct Script {
    pub is_client: bool,
    pub sends: Vec<u8>,
    /// The maximum number of bytes that one read gets.
    pub piece: usize,
    /// Whether a signal precedes every read, and every piece that is written.
    pub interrupted: bool,
    /// What comes after what is sent.
    pub then: Then,
    /// The maximum number of bytes that one write hands over.
    pub accepts: usize,
    /// Whether writes that do not wait are refused.
    pub refuses: bool,
    pub receives: Receives,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    End,
    Reset,
    Silence,
}

/// How much the peer receives of what follows the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receives {
    All,
    /// After this many bytes, writes wait for ever.
    NothingAfter(usize),
    /// After this many bytes, writes fail.
    GoneAfter(usize),
}

/// The end that follows a script.
pub struct Peer {
    pub observer: Observer,
    _end: FaultyTransport,
}

impl Script {
    pub fn client(sends: Vec<u8>) -> Self {
        Script {
            is_client: true,
            sends,
            piece: usize::MAX,
            interrupted: false,
            then: Then::End,
            accepts: usize::MAX,
            refuses: false,
            receives: Receives::All,
        }
    }

    pub fn server(sends: Vec<u8>) -> Self {
        Script {
            is_client: false,
            ..Script::client(sends)
        }
    }

    /// Returns an end of a connection whose other end follows this script.
    pub fn connect(self) -> (FaultyTransport, Peer) {
        let mut faults = ConnectionFaults::none();
        faults.directions[0] = Faults {
            // Many pieces, where each is preceded by a signal.
            piece: self
                .accepts
                .min(if self.interrupted { 50 } else { usize::MAX }) as u64,
            capacity: usize::MAX,
            refused: if self.refuses { 100 } else { 0 },
            signals: if self.interrupted { 100 } else { 0 },
            ..Faults::none()
        };
        faults.ends[0] = EndOptions {
            reads_on: true,
            ..EndOptions::simple()
        };
        let first_is_client = !self.is_client;
        let (end, own, observer) = transport::connection(&faults, first_is_client, Some(self));
        (
            end,
            Peer {
                observer,
                _end: own,
            },
        )
    }

    /// A client sends before it has received anything.
    pub(super) fn begin(state: &mut State) {
        if let Some(script) = state.script.as_ref().filter(|script| script.is_client) {
            let sends = script.sends.clone();
            Script::send(state, &sends);
        }
    }

    /// Does what is due once the head of the handshake has been received.
    pub(super) fn answer(state: &mut State) {
        let from_product = &mut state.directions[0];
        let Some(head) = &from_product.frames.head else {
            return;
        };
        let Some(script) = state.script.take() else {
            return;
        };
        match script.receives {
            Receives::All => {}
            Receives::NothingAfter(limit) => {
                from_product.faults.capacity = from_product.bytes.len() + limit;
            }
            Receives::GoneAfter(limit) => {
                from_product.faults.end = Some((from_product.written + limit as u64, false));
            }
        }
        if !script.is_client {
            let mut sends = script.sends.clone();
            with_accept_key(&mut sends, head);
            state.script = Some(script);
            Script::send(state, &sends);
        }
        state.script = None;
    }

    fn send(state: &mut State, sends: &[u8]) {
        let Some(script) = &state.script else {
            return;
        };
        let to_product = &mut state.directions[1];
        for piece in sends.chunks(script.piece) {
            to_product.push(piece, script.interrupted);
        }
        to_product.finished = script.then != Then::Silence;
        to_product.resets_at_the_end = script.then == Then::Reset;
    }
}

/// Puts the accept key that fits a request's head in place of each [`ACCEPT`] in `response`.
pub fn with_accept_key(response: &mut [u8], head: &[u8]) {
    let name = b"Sec-WebSocket-Key: ";
    let Some(at) = head.windows(name.len()).position(|part| part == name) else {
        return;
    };
    let key = head[at + name.len()..].split(|byte| *byte == b'\r').next();
    let accept = derive_accept_key(key.unwrap_or_default());
    let sample = ACCEPT.as_bytes();
    for at in 0..response.len().saturating_sub(sample.len() - 1) {
        if response[at..].starts_with(sample) {
            response[at..at + sample.len()].copy_from_slice(accept.as_bytes());
        }
    }
}
