//! The socket below a session, which never waits.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::ops::Range;

use rustix::event::PollFlags;

use crate::net::socket::Socket;
use crate::net::transport::is_timeout;

/// How much is read from the socket at a time: the longest TLS record and its header. OpenSSL alone
/// reads each record in two calls.
const READ_AHEAD: usize = 5 + (16 << 10) + 256;

/// How much is kept that the system has no room for: one record, after which a writer waits, and
/// some answers.
const MAX_KEPT: usize = 64 << 10;

/// The socket below a session, as the session sees it: it never waits.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(super) socket: Socket,
    /// Empty or of the full length. `unread` of it was received and not yet read.
    ahead: Vec<u8>,
    unread: Range<usize>,
    /// The last read took everything that had arrived: the next one is useless before a wait.
    drained: bool,
    /// Whether the operation may read.
    may_read: bool,
    /// The handshake is done: from here on the peer may end the stream.
    pub(super) is_up: bool,
    /// The operation had to read first, which it may not.
    wants_reader: bool,
    /// What was written and the system had no room for: a record or two.
    kept: Vec<u8>,
    /// Nothing can be sent any more. The writer reports it, whichever half finds it.
    broken: Option<io::ErrorKind>,
    /// More than `MAX_KEPT` would have had to be kept.
    overflowed: bool,
    /// Whether the writer waits for room for what is kept.
    writer_waits: bool,
}

impl Wire {
    pub(crate) fn new(socket: Socket) -> Self {
        Wire {
            socket,
            ahead: Vec::new(),
            unread: 0..0,
            drained: false,
            may_read: true,
            is_up: false,
            wants_reader: false,
            kept: Vec::new(),
            broken: None,
            overflowed: false,
            writer_waits: false,
        }
    }

    /// Sends as much as there is room for, which may be nothing.
    fn send_now(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(kind) = self.broken {
            return Err(kind.into());
        }
        match self.socket.send_now(bytes) {
            Err(error) if is_timeout(&error) || error.kind() == io::ErrorKind::Interrupted => Ok(0),
            Err(error) => {
                self.broken = Some(error.kind());
                Err(error)
            }
            sent => sent,
        }
    }

    /// Returns what to wait for, for a caller that polls the socket and is alone with the session.
    pub(crate) fn events(&self) -> PollFlags {
        let mut events = PollFlags::IN;
        events.set(PollFlags::OUT, !self.kept.is_empty());
        events
    }

    /// Begins an operation, for a caller that polls the socket and is alone with the session.
    pub(crate) fn begin(&mut self) -> io::Result<()> {
        Sock::begin(self, true, true);
        self.send_kept().map(drop)
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.may_read {
            self.wants_reader = true;
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if self.unread.is_empty() {
            if self.drained {
                // An idle connection keeps no buffer.
                self.ahead = Vec::new();
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.ahead.resize(READ_AHEAD, 0);
            let received = self.socket.recv_now(&mut self.ahead)?;
            if received == 0 && !self.is_up {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.unread = 0..received;
            self.drained = received < READ_AHEAD;
        }
        let bytes = &self.ahead[self.unread.clone()];
        let n = buffer.len().min(bytes.len());
        buffer[..n].copy_from_slice(&bytes[..n]);
        self.unread.start += n;
        Ok(n)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = match self.kept.is_empty() {
            true => self.send_now(bytes)?,
            false => 0,
        };
        let rest = &bytes[sent..];
        if self.kept.len() + rest.len() > MAX_KEPT {
            // A writer waits earlier than this: these are answers that the peer asks for and does
            // not take. OpenSSL does not pass on an error from here.
            self.overflowed = true;
            self.broken = Some(io::ErrorKind::Other);
            return Err(io::ErrorKind::Other.into());
        }
        self.kept.extend_from_slice(rest);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a session runs over. The defaults are for a session that was made elsewhere, which keeps
/// its state to itself and for which nothing can be kept.
pub(super) trait Sock: Read + Write + Send + 'static {
    /// Begins an operation. `waited` says whether it follows a wait for the socket.
    fn begin(&mut self, _may_read: bool, _waited: bool) {}

    /// Sends what was kept, as far as there is room. Returns how much is still kept.
    fn send_kept(&mut self) -> io::Result<usize> {
        Ok(0)
    }

    /// Returns why an operation would have had to wait.
    fn blocked(&self) -> Blocked {
        Blocked::Unknown
    }

    /// Fails when the peer asks for more answers than it takes: then the operation must not go on.
    fn check(&self) -> io::Result<()> {
        Ok(())
    }

    /// Notes whether the writer waits for room.
    fn writer_waits(&mut self, _waits: bool) {}
}

impl Sock for TcpStream {}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blocked {
    /// Nothing has arrived. Something may be left to send, which the reader sends.
    Read { unsent: bool },
    /// A write has to read first.
    WantsReader,
    /// The reason is not known.
    Unknown,
}

impl Sock for Wire {
    fn begin(&mut self, may_read: bool, waited: bool) {
        self.may_read = may_read;
        self.drained &= !waited;
        self.wants_reader = false;
    }

    fn send_kept(&mut self) -> io::Result<usize> {
        if !self.kept.is_empty() {
            let mut kept = std::mem::take(&mut self.kept);
            let sent = self.send_now(&kept);
            kept.drain(..*sent.as_ref().unwrap_or(&0));
            if !kept.is_empty() {
                self.kept = kept;
            }
            sent?;
        }
        Ok(self.kept.len())
    }

    fn blocked(&self) -> Blocked {
        match self.wants_reader {
            true => Blocked::WantsReader,
            false => Blocked::Read {
                unsent: !self.kept.is_empty() && !self.writer_waits && self.broken.is_none(),
            },
        }
    }

    fn check(&self) -> io::Result<()> {
        match self.overflowed {
            true => Err(io::Error::other("the peer takes no answers in TLS")),
            false => Ok(()),
        }
    }

    fn writer_waits(&mut self, waits: bool) {
        self.writer_waits = waits;
    }
}
