//! A peer that says what it was told to, whatever it hears.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tungstenite::handshake::derive_accept_key;

use crate::transport::{Halves, ReadHalf, ShutdownHandle, Transport, WriteHalf};

/// The `Sec-WebSocket-Accept` of RFC 6455's example. A server that says it means the one that fits the key it
/// was sent, which no input can know.
pub(super) const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

pub(super) struct Script {
    pub(super) says: Vec<u8>,
    /// How much of that a read gets at the most.
    pub(super) piece: usize,
    /// Whether a signal interrupts every other read and write.
    pub(super) interrupted: bool,
    /// What comes after what is said.
    pub(super) then: Then,
    /// How much a write is taken of at the most.
    pub(super) gulp: usize,
    /// Whether nothing is taken from who does not wait.
    pub(super) shy: bool,
    pub(super) hears: Hears,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    End,
    Reset,
    Silence,
}

/// How much is heard of what follows the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hears {
    All,
    /// After so many bytes nothing is taken any more.
    DeafAfter(usize),
    /// After so many bytes it is gone.
    GoneAfter(usize),
}

impl Script {
    pub(super) fn plain(says: Vec<u8>) -> Self {
        Script {
            says,
            piece: usize::MAX,
            interrupted: false,
            then: Then::End,
            gulp: usize::MAX,
            shy: false,
            hears: Hears::All,
        }
    }
}

/// The connection to such a peer.
pub(super) struct Replay {
    script: Script,
    peer: Arc<Peer>,
}

/// What can be asked of the peer.
pub(super) struct Peer {
    /// Held to look and to change; nothing is called under it.
    state: Mutex<State>,
    /// Told when the connection is cut and when all has been said.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    heard: Vec<u8>,
    /// Where the frames begin in that.
    head: Option<usize>,
    has_said_all: bool,
    was_cut: bool,
    was_finished: bool,
    written_after_the_end: bool,
}

impl Replay {
    pub(super) fn new(script: Script) -> (Self, Arc<Peer>) {
        let peer = Arc::new(Peer {
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        (
            Replay {
                script,
                peer: peer.clone(),
            },
            peer,
        )
    }

    pub(super) fn halves(self) -> Halves {
        let Replay { script, peer } = self;
        Halves {
            read: Box::new(Mouth {
                says: script.says,
                at: 0,
                piece: script.piece,
                then: script.then,
                interruption: Interruption::new(script.interrupted),
                timeout: None,
                peer: peer.clone(),
            }),
            write: Box::new(Ear {
                gulp: script.gulp,
                shy: script.shy,
                hears: script.hears,
                interruption: Interruption::new(script.interrupted),
                timeout: None,
                peer: peer.clone(),
            }),
            shutdown: peer,
        }
    }
}

impl Transport for Replay {
    fn split(self: Box<Self>) -> io::Result<Halves> {
        Ok(self.halves())
    }
}

impl Peer {
    /// The head of the handshake that was heard, and what came behind it.
    pub(super) fn heard(&self) -> (Vec<u8>, Vec<u8>) {
        let state = self.state.lock();
        let (head, frames) = state
            .heard
            .split_at(state.head.unwrap_or(state.heard.len()));
        (head.to_vec(), frames.to_vec())
    }

    pub(super) fn was_written_to_after_the_end(&self) -> bool {
        self.state.lock().written_after_the_end
    }

    pub(super) fn wait_until_all_is_said(&self, deadline: Instant) -> bool {
        let mut state = self.state.lock();
        while !state.has_said_all && !state.was_cut {
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                return false;
            }
        }
        true
    }

    /// Waits for the cut; `WouldBlock` when the time is over.
    fn wait_for_the_cut(&self, timeout: Option<Duration>) -> io::Result<()> {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        let mut state = self.state.lock();
        while !state.was_cut {
            match deadline {
                None => self.changed.wait(&mut state),
                Some(deadline) if Instant::now() >= deadline => {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Some(deadline) => drop(self.changed.wait_until(&mut state, deadline)),
            }
        }
        Ok(())
    }

    /// The accept key that fits what was heard.
    fn accept_key(&self) -> Option<String> {
        let name = b"Sec-WebSocket-Key: ";
        let heard = &self.state.lock().heard;
        let start = heard.windows(name.len()).position(|at| at == name)? + name.len();
        let length = heard[start..].iter().position(|byte| *byte == b'\r')?;
        Some(derive_accept_key(&heard[start..start + length]))
    }
}

impl ShutdownHandle for Peer {
    fn shutdown(&self) {
        self.state.lock().was_cut = true;
        self.changed.notify_all();
    }
}

struct Interruption {
    wanted: bool,
    next: bool,
}

impl Interruption {
    fn new(wanted: bool) -> Self {
        Interruption {
            wanted,
            next: wanted,
        }
    }

    fn now(&mut self) -> io::Result<()> {
        if !self.wanted {
            return Ok(());
        }
        self.next = !self.next;
        match self.next {
            true => Ok(()),
            false => Err(io::ErrorKind::Interrupted.into()),
        }
    }
}

struct Mouth {
    says: Vec<u8>,
    at: usize,
    piece: usize,
    then: Then,
    interruption: Interruption,
    timeout: Option<Duration>,
    peer: Arc<Peer>,
}

impl Mouth {
    fn fit_the_accept_key(&mut self) {
        let Some(key) = self.peer.accept_key() else {
            return;
        };
        let sample = ACCEPT.as_bytes();
        for at in 0..self.says.len().saturating_sub(sample.len() - 1) {
            if self.says[at..].starts_with(sample) {
                self.says[at..at + sample.len()].copy_from_slice(key.as_bytes());
            }
        }
    }
}

impl Read for Mouth {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.interruption.now()?;
        if self.at == 0 {
            self.fit_the_accept_key();
        }
        let left = &self.says[self.at..];
        let n = left.len().min(self.piece).min(buffer.len());
        if n > 0 || buffer.is_empty() {
            buffer[..n].copy_from_slice(&left[..n]);
            self.at += n;
            return Ok(n);
        }
        self.peer.state.lock().has_said_all = true;
        self.peer.changed.notify_all();
        match self.then {
            Then::End => Ok(0),
            Then::Reset => Err(io::ErrorKind::ConnectionReset.into()),
            Then::Silence => self.peer.wait_for_the_cut(self.timeout).map(|()| 0),
        }
    }
}

impl ReadHalf for Mouth {
    fn set_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.timeout = timeout;
        Ok(())
    }
}

struct Ear {
    gulp: usize,
    shy: bool,
    hears: Hears,
    interruption: Interruption,
    timeout: Option<Duration>,
    peer: Arc<Peer>,
}

impl Ear {
    /// Takes what it takes; `WouldBlock` when that is nothing.
    fn hear(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.peer.state.lock();
        if state.was_cut {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        state.written_after_the_end |= state.was_finished;
        let Some(head) = state.head else {
            state.heard.extend_from_slice(bytes);
            if state.heard.ends_with(b"\r\n\r\n") {
                state.head = Some(state.heard.len());
            }
            return Ok(bytes.len());
        };
        let room = match self.hears {
            Hears::All => usize::MAX,
            Hears::DeafAfter(limit) | Hears::GoneAfter(limit) => {
                limit.saturating_sub(state.heard.len() - head)
            }
        };
        let n = bytes.len().min(self.gulp).min(room);
        if n == 0 && !bytes.is_empty() {
            return match self.hears {
                Hears::GoneAfter(_) => Err(io::ErrorKind::BrokenPipe.into()),
                _ => Err(io::ErrorKind::WouldBlock.into()),
            };
        }
        state.heard.extend_from_slice(&bytes[..n]);
        Ok(n)
    }
}

impl Write for Ear {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.interruption.now()?;
        match self.hear(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.peer.wait_for_the_cut(self.timeout)?;
                Err(io::ErrorKind::BrokenPipe.into())
            }
            other => other,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl WriteHalf for Ear {
    fn set_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.timeout = timeout;
        Ok(())
    }

    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.shy {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.interruption.now()?;
        self.hear(bytes)
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        self.peer.state.lock().was_finished = true;
        Ok(())
    }
}
