//! The socket below a TLS session. Its reads and writes do not wait.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::ops::Range;

use rustix::event::PollFlags;

use crate::net::socket::Socket;
use crate::net::transport::is_timeout;

/// The size of a read from the socket: the longest TLS record with its header. OpenSSL alone reads
/// each record in two calls.
const READ_AHEAD: usize = 5 + (16 << 10) + 256;

/// The maximum number of kept bytes: one record of a writer, which waits before the next one, and
/// some replies.
const MAX_KEPT: usize = 64 << 10;

/// The error of a stream that does not begin with a TLS record.
pub(super) const NOT_TLS: &str = "the first bytes that it sent are not TLS";

/// The socket below a session. Its reads and writes do not wait.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(super) socket: Socket,
    /// The read buffer: empty or of full length. Its part `unread` has been received and not read.
    ahead: Vec<u8>,
    unread: Range<usize>,
    /// Whether a byte has been received.
    has_received: bool,
    /// The last read took all bytes, so that another one is useless before a wait.
    drained: bool,
    /// Whether the current operation may read.
    may_read: bool,
    /// The handshake is complete. From now on, the peer may end the stream.
    pub(super) is_established: bool,
    /// The current operation had to read but was not allowed to.
    must_read: bool,
    /// Written bytes that the system has not accepted: a record or two.
    kept: Vec<u8>,
    /// Sending has failed. The writer reports it, whichever half met the error.
    broken: Option<io::ErrorKind>,
    /// More than `MAX_KEPT` bytes would have had to be kept.
    overflowed: bool,
    /// Whether the writer waits until the kept bytes can be sent.
    writer_waits: bool,
}

impl Wire {
    pub(crate) fn new(socket: Socket) -> Self {
        Wire {
            socket,
            ahead: Vec::new(),
            unread: 0..0,
            has_received: false,
            drained: false,
            may_read: true,
            is_established: false,
            must_read: false,
            kept: Vec::new(),
            broken: None,
            overflowed: false,
            writer_waits: false,
        }
    }

    /// Sends without waiting. Returns the number of bytes sent, possibly 0.
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

    /// Returns the events to poll for. For a caller that is alone with the session.
    pub(crate) fn events(&self) -> PollFlags {
        let mut events = PollFlags::IN;
        events.set(PollFlags::OUT, !self.kept.is_empty());
        events
    }

    /// Starts a new operation after a poll. For a caller that is alone with the session.
    pub(crate) fn begin(&mut self) -> io::Result<()> {
        Sock::begin(self, true, true);
        self.send_kept().map(drop)
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.may_read {
            self.must_read = true;
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
            if received == 0 && !self.is_established {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            // RFC 8446, section 5.1: the types of records.
            if !self.has_received && received > 0 && !matches!(self.ahead[0], 20..=23) {
                return Err(io::Error::new(io::ErrorKind::InvalidData, NOT_TLS));
            }
            self.has_received = true;
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
            // A writer waits before it reaches this limit, so these are replies that the peer
            // requests and does not read. OpenSSL ignores this error.
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

/// The stream that a session runs over. The defaults are for the stream of a session made
/// elsewhere: nothing can be kept for it, and nothing is known about its operations.
pub(super) trait Sock: Read + Write + Send + 'static {
    /// Starts an operation. `waited` tells whether a wait for the socket preceded it.
    fn begin(&mut self, _may_read: bool, _waited: bool) {}

    /// Sends kept bytes without waiting. Returns the number of bytes still kept.
    fn send_kept(&mut self) -> io::Result<usize> {
        Ok(0)
    }

    /// Returns why an operation would have had to wait.
    fn blocked(&self) -> Blocked {
        Blocked::Unknown
    }

    /// Fails if the peer requests more replies than it reads: then the operation must not go on.
    fn check(&self) -> io::Result<()> {
        Ok(())
    }

    /// Sets whether the writer waits until kept bytes can be sent.
    fn writer_waits(&mut self, _waits: bool) {}
}

impl Sock for TcpStream {}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blocked {
    /// There is nothing to read. With `unsent`, the reader has to send kept bytes as well.
    Read { unsent: bool },
    /// A write has to read first.
    MustRead,
    /// The reason is not known.
    Unknown,
}

impl Sock for Wire {
    fn begin(&mut self, may_read: bool, waited: bool) {
        self.may_read = may_read;
        self.drained &= !waited;
        self.must_read = false;
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
        match self.must_read {
            true => Blocked::MustRead,
            false => Blocked::Read {
                unsent: !self.kept.is_empty() && !self.writer_waits && self.broken.is_none(),
            },
        }
    }

    fn check(&self) -> io::Result<()> {
        match self.overflowed {
            true => Err(io::Error::other(
                "the peer does not read the replies of TLS",
            )),
            false => Ok(()),
        }
    }

    fn writer_waits(&mut self, waits: bool) {
        self.writer_waits = waits;
    }
}
