//! TLS: a session that two threads share, full duplex.
//!
//! Reading and writing both need the whole of a TLS session, so both halves share it behind a lock.
//! **No operation on the session waits**: its socket returns the bytes that have arrived, and
//! accepts all bytes that are written, keeping those that the system does not accept. The halves
//! wait with poll(2), without the lock.
//!
//! A TLS read may have to write: the reply to a renegotiation (TLS 1.2) or to a KeyUpdate (TLS
//! 1.3). If OpenSSL has written half a record at that time, it fails with an error that ends the
//! connection. Here it never has, because its writes always succeed. The next half that runs sends
//! the bytes that were kept.
//!
//! A TLS write may have to read, during a renegotiation. **Only the reader reads**: otherwise a
//! writer could take bytes that the reader waits for. Such a write waits until the reader has made
//! progress.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use native_tls::{HandshakeError, MidHandshakeTlsStream, TlsAcceptor, TlsConnector, TlsStream};
use parking_lot::{Condvar, Mutex, MutexGuard};
use rustix::event::{PollFd, PollFlags};

use super::handshake::Failure;
use super::socket::{Socket, wait_for};
use super::transport::{Halves, ReadHalf, ShutdownHandle, Transport, WriteHalf, is_timeout};
use super::write_stall::Stall;
use crate::error::Error;

/// The size of a read from the socket: the longest TLS record with its header. OpenSSL alone reads
/// each record in two calls.
const READ_AHEAD: usize = 5 + (16 << 10) + 256;

/// The maximum number of kept bytes: one record of a writer, which waits before the next one, and
/// some replies.
const MAX_KEPT: usize = 64 << 10;

/// The time after which a half checks again for a condition that poll(2) cannot report.
const RECHECK: Duration = Duration::from_millis(50);

/// The socket below a session. Its reads and writes do not wait.
#[derive(Debug)]
pub(crate) struct Wire {
    socket: Socket,
    /// The read buffer: empty or of full length. Its part `unread` has been received and not read.
    ahead: Vec<u8>,
    unread: Range<usize>,
    /// The last read took all bytes, so that another one is useless before a wait.
    drained: bool,
    /// Whether the current operation may read.
    may_read: bool,
    /// The handshake is complete. From now on, the peer may end the stream.
    is_established: bool,
    /// The current operation had to read but was not allowed to.
    must_read: bool,
    /// Written bytes that the system has not accepted: a record or two.
    kept: Vec<u8>,
    /// Sending has failed. The writer reports it, whichever half met the error.
    broken: Option<io::ErrorKind>,
    /// The limit for kept bytes was exceeded.
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

/// The stream that a session runs over.
trait Sock: Read + Write + Send + 'static {
    /// Starts an operation. `waited` tells whether a wait for the socket preceded it.
    fn begin(&mut self, may_read: bool, waited: bool);

    /// Sends kept bytes without waiting. Returns the number of bytes still kept.
    fn send_kept(&mut self) -> io::Result<usize>;

    /// Returns why an operation would have had to wait.
    fn blocked(&self) -> Blocked;

    /// Fails if the peer requests more replies than it reads.
    fn check(&self) -> io::Result<()>;

    /// Sets whether the writer waits until kept bytes can be sent.
    fn writer_waits(&mut self, waits: bool);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blocked {
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

/// The stream of a session made elsewhere. Nothing can be kept for it, and nothing is known about
/// its operations.
impl Sock for TcpStream {
    fn begin(&mut self, _: bool, _: bool) {}

    fn send_kept(&mut self) -> io::Result<usize> {
        Ok(0)
    }

    fn blocked(&self) -> Blocked {
        Blocked::Unknown
    }

    fn check(&self) -> io::Result<()> {
        Ok(())
    }

    fn writer_waits(&mut self, _: bool) {}
}

/// The state that the two halves share.
struct Session<S> {
    /// Locked for one operation, which does not wait. No user code runs under the lock.
    stream: Mutex<TlsStream<S>>,
    /// Notified when the reader has read, and when reading ends. Each wait also ends after
    /// [`RECHECK`] at the latest.
    progress: Condvar,
    /// Reading has ended.
    reading_ended: AtomicBool,
    socket: Socket,
    /// Wakes the reader after a write that may have read the reader's bytes. `None` if writes never
    /// read.
    waker: Option<Waker>,
}

struct Waker {
    sender: UnixStream,
    receiver: UnixStream,
}

impl Waker {
    fn new() -> io::Result<Self> {
        let (sender, receiver) = UnixStream::pair()?;
        sender.set_nonblocking(true)?;
        receiver.set_nonblocking(true)?;
        Ok(Waker { sender, receiver })
    }

    fn wake(&self) {
        // If the buffer is full, the reader has not read the earlier bytes yet, so it wakes anyway.
        let _ = { &self.sender }.write(&[0]);
    }

    /// Waits for the socket or for a wake-up.
    fn wait(
        &self,
        socket: &Socket,
        events: PollFlags,
        deadline: Option<Instant>,
    ) -> io::Result<()> {
        let mut fds = [
            PollFd::new(socket, events),
            PollFd::new(&self.receiver, PollFlags::IN),
        ];
        wait_for(&mut fds, deadline)?;
        if !fds[1].revents().is_empty() {
            let _ = { &self.receiver }.read(&mut [0; 64]);
        }
        Ok(())
    }
}

impl<S> Session<S> {
    /// Records the end of reading and releases a write that waits for the reader.
    fn stop_reading(&self) {
        self.reading_ended.store(true, Ordering::SeqCst);
        // A writer that read the flag before this store holds the lock until it waits. Taking the
        // lock here makes sure that the notification reaches it.
        drop(self.stream.lock());
        self.progress.notify_all();
    }
}

impl<S: Sock> Session<S> {
    fn halves(stream: TlsStream<S>, socket: Socket, waker: Option<Waker>) -> Halves {
        let session = Arc::new(Session {
            stream: Mutex::new(stream),
            progress: Condvar::new(),
            reading_ended: AtomicBool::new(false),
            socket,
            waker,
        });
        Halves {
            read: Box::new(TlsRead {
                session: session.clone(),
                timeout: None,
            }),
            write: Box::new(TlsWrite {
                session: session.clone(),
                timeout: None,
            }),
            shutdown: session,
        }
    }

    /// Waits until a read may make progress.
    fn wait_to_read(
        &self,
        blocked: Blocked,
        waited: bool,
        mut deadline: Option<Instant>,
    ) -> io::Result<()> {
        let events = match blocked {
            Blocked::Read { unsent: false } => PollFlags::IN,
            Blocked::Read { unsent: true } => PollFlags::IN | PollFlags::OUT,
            // The read may wait for space to write.
            _ if !waited => PollFlags::IN | PollFlags::OUT,
            // There was space, so it does not wait for that.
            _ if self.socket.is_writable()? => PollFlags::IN,
            // Bytes may have arrived that it does not read before it has written.
            _ => {
                deadline = Some(earlier(deadline, Instant::now() + RECHECK));
                PollFlags::OUT
            }
        };
        match &self.waker {
            None => self.socket.wait(events, deadline),
            Some(waker) => waker.wait(&self.socket, events, deadline),
        }
    }

    /// Writes without waiting. Wakes the reader if the write has read bytes.
    fn write(&self, stream: &mut TlsStream<S>, bytes: &[u8]) -> io::Result<usize> {
        let written = stream.write(bytes);
        if let Some(waker) = &self.waker {
            if stream.buffered_read_size().is_ok_and(|size| size > 0) {
                waker.wake();
            }
        }
        written
    }

    /// Sends `close_notify` if the system accepts it immediately.
    fn send_close_notify(&self) {
        let mut stream = self.stream.lock();
        stream.get_mut().begin(false, false);
        let _ = stream.shutdown();
    }
}

impl<S: Sock> ShutdownHandle for Session<S> {
    fn shutdown(&self) {
        self.send_close_notify();
        self.socket.shutdown();
        self.stop_reading();
    }
}

struct TlsRead<S> {
    session: Arc<Session<S>>,
    timeout: Option<Duration>,
}

impl<S: Sock> TlsRead<S> {
    /// Reads without waiting. Returns what to wait for as the error.
    fn read_now(&self, buffer: &mut [u8], waited: bool) -> Result<io::Result<usize>, Blocked> {
        let mut stream = self.session.stream.lock();
        let wire = stream.get_mut();
        wire.begin(true, waited);
        if let Err(error) = wire.send_kept() {
            // The writer reports this error. The peer may have sent bytes before it.
            crate::logging::trace!("cannot write: {error}");
        }
        let read = stream.read(buffer);
        let wire = stream.get_mut();
        match wire.check().and(read) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(wire.blocked()),
            other => Ok(other),
        }
    }
}

impl<S: Sock> Read for TlsRead<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut limit = ReadDeadline::new(self.timeout);
        let mut waited = false;
        loop {
            let read = self.read_now(buffer, waited);
            self.session.progress.notify_all();
            let blocked = match read {
                Ok(read) => return read,
                Err(blocked) => blocked,
            };
            // Even a timeout of zero reads from the socket once.
            let deadline = match waited {
                true => limit.left()?,
                false => limit.deadline(),
            };
            self.session.wait_to_read(blocked, waited, deadline)?;
            waited = true;
        }
    }
}

impl<S> Drop for TlsRead<S> {
    fn drop(&mut self) {
        self.session.stop_reading();
    }
}

impl<S: Sock> ReadHalf for TlsRead<S> {
    fn set_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.timeout = timeout;
        Ok(())
    }
}

struct TlsWrite<S> {
    session: Arc<Session<S>>,
    timeout: Option<Duration>,
}

type Locked<'a, S> = MutexGuard<'a, TlsStream<S>>;

impl<S: Sock> TlsWrite<S> {
    /// Sends the kept bytes, waiting if necessary. Returns the lock with nothing kept. Fails with
    /// `Interrupted` if the peer accepted a part, because the timeout starts again for the next
    /// call, and the caller may have a deadline.
    fn flushed(&self, stall: &mut Stall) -> io::Result<Locked<'_, S>> {
        let mut before = None;
        loop {
            let mut stream = self.session.stream.lock();
            let wire = stream.get_mut();
            wire.begin(false, false);
            wire.writer_waits(false);
            let kept = wire.send_kept()?;
            if kept == 0 {
                return Ok(stream);
            }
            if before.is_some_and(|before| kept < before) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            before = Some(kept);
            let until = stall.next_attempt()?;
            wire.writer_waits(true);
            drop(stream);
            self.session.socket.wait(PollFlags::OUT, until)?;
        }
    }
}

impl<S: Sock> Write for TlsWrite<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut stall = Stall::new(self.timeout);
        loop {
            let mut stream = self.flushed(&mut stall)?;
            match self.session.write(&mut stream, bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
            if self.session.reading_ended.load(Ordering::SeqCst) {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            let until = stall.next_attempt()?;
            if stream.get_mut().blocked() == Blocked::Unknown
                && !self.session.socket.is_writable()?
            {
                drop(stream);
                self.session.socket.wait(PollFlags::OUT, until)?;
            } else {
                // There is space, so the write has to read first.
                let until = earlier(until, Instant::now() + RECHECK);
                self.session.progress.wait_until(&mut stream, until);
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.flushed(&mut Stall::new(self.timeout)).map(drop)
    }
}

impl<S: Sock> WriteHalf for TlsWrite<S> {
    fn set_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.timeout = timeout;
        Ok(())
    }

    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // The reader decrypts under the lock. That is short, but this call must not wait at all.
        let stream = self.session.stream.try_lock();
        let mut stream = stream.ok_or(io::ErrorKind::WouldBlock)?;
        stream.get_mut().begin(false, false);
        match stream.get_mut().send_kept()? {
            0 => self.session.write(&mut stream, bytes),
            _ => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn try_flush(&mut self) -> io::Result<()> {
        let stream = self.session.stream.try_lock();
        let mut stream = stream.ok_or(io::ErrorKind::WouldBlock)?;
        match stream.get_mut().send_kept()? {
            0 => Ok(()),
            _ => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        self.session.send_close_notify();
        self.session.socket.shutdown_write()
    }
}

/// A session over a socket of this crate's own.
pub(crate) struct Tls(pub(crate) TlsStream<Wire>);

impl Tls {
    /// Reads without waiting. For a caller that polls the socket and is alone with the session.
    pub(crate) fn read_now(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.get_mut().begin()?;
        let read = self.0.read(buffer);
        self.0.get_ref().check().and(read)
    }

    /// Writes the last bytes and `close_notify`, as far as the system accepts them immediately.
    pub(crate) fn send_last(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.get_mut().begin()?;
        self.0.write_all(bytes)?;
        self.0.shutdown()?;
        self.0.get_ref().socket.shutdown_write()
    }
}

impl Transport for Tls {
    fn split(self: Box<Self>) -> io::Result<Halves> {
        let socket = self.0.get_ref().socket.clone();
        Ok(Session::halves(self.0, socket, None))
    }

    fn peer_addr(&self) -> Option<SocketAddr> {
        self.0.get_ref().socket.peer_addr()
    }

    fn local_addr(&self) -> Option<SocketAddr> {
        Transport::local_addr(&self.0.get_ref().socket)
    }

    fn is_encrypted(&self) -> bool {
        true
    }

    fn set_nodelay(&mut self, nodelay: bool) -> io::Result<()> {
        self.0.get_ref().socket.set_nodelay(nodelay)
    }
}

/// A session made elsewhere. With OpenSSL, it fails if the peer changes its keys (by a KeyUpdate or
/// a renegotiation) while a record is half written. Sessions that this crate makes, for a `wss` URL
/// or a TLS server, do not.
impl Transport for TlsStream<TcpStream> {
    fn split(self: Box<Self>) -> io::Result<Halves> {
        let stream = self.get_ref();
        stream.set_nonblocking(true)?;
        let socket = Socket::from(stream.try_clone()?);
        Ok(Session::halves(*self, socket, Some(Waker::new()?)))
    }

    fn peer_addr(&self) -> Option<SocketAddr> {
        self.get_ref().peer_addr().ok()
    }

    fn local_addr(&self) -> Option<SocketAddr> {
        self.get_ref().local_addr().ok()
    }

    fn is_encrypted(&self) -> bool {
        true
    }

    fn set_nodelay(&mut self, nodelay: bool) -> io::Result<()> {
        self.get_ref().set_nodelay(nodelay)
    }
}

/// Performs a client's TLS handshake. The server's certificate must be valid for `host`.
pub(crate) fn connect(
    connector: &TlsConnector,
    host: &str,
    socket: Socket,
    deadline: Instant,
) -> Result<Tls, Failure> {
    let mut step = connector.connect(host, Wire::new(socket));
    loop {
        match step {
            Ok(stream) => return Ok(established(stream)),
            Err(HandshakeError::Failure(error)) => return Err(failed(host, error).into()),
            Err(HandshakeError::WouldBlock(mut handshake)) => {
                if Instant::now() >= deadline {
                    return Err(Failure::TimedOut("the TLS handshake"));
                }
                let wire = handshake.get_mut();
                let waited = wire.socket.wait(wire.events(), Some(deadline));
                waited.and_then(|()| wire.begin()).map_err(Error::lost)?;
                step = handshake.handshake();
            }
        }
    }
}

/// Performs a handshake between the acceptor and a local client. Only a handshake finds out that a
/// key does not belong to its certificate, and that must not happen to the first client.
pub(crate) fn try_out(acceptor: &TlsAcceptor) -> io::Result<()> {
    let connector = TlsConnector::builder()
        .danger_accept_invalid_certs(true)
        .danger_accept_invalid_hostnames(true)
        .build()
        .map_err(io::Error::other)?;
    let (client, server) = UnixStream::pair()?;
    let mut client = connector.connect("localhost", Wire::new(client.into()));
    let mut server = Accepting::start(acceptor, server.into());
    // Each side needs a few turns. The limit is a safety margin.
    for _ in 0..20 {
        server = match server {
            Accepting::Done(_) => return Ok(()),
            Accepting::Failed(error) => return Err(try_out_failed(&error)),
            Accepting::InProgress(handshake) => Accepting::go_on(handshake),
        };
        client = match client {
            Err(HandshakeError::WouldBlock(mut handshake)) => {
                handshake.get_mut().begin()?;
                handshake.handshake()
            }
            other => other,
        };
    }
    Err(try_out_failed(&"the handshake does not end"))
}

fn try_out_failed(why: &dyn std::fmt::Display) -> io::Error {
    io::Error::other(format!(
        "a TLS handshake with this identity fails; does the key belong to the certificate? \
         ({why}) If they are for other clients than this TLS library's own, \
         use Server::tls_acceptor"
    ))
}

fn established(mut stream: TlsStream<Wire>) -> Tls {
    stream.get_mut().is_established = true;
    Tls(stream)
}

fn failed(host: &str, error: native_tls::Error) -> Error {
    // A broken connection is not a failure to agree on TLS.
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            let text = format!("in the TLS handshake with {host}: {error}");
            return Error::lost(io::Error::new(error.kind(), text));
        }
        cause = error.source();
    }
    Error::Tls {
        peer: host.to_owned(),
        error: Arc::new(error),
    }
}

/// A server's TLS handshake. It does not wait.
pub(crate) enum Accepting {
    Done(Tls),
    InProgress(MidHandshakeTlsStream<Wire>),
    Failed(Error),
}

impl Accepting {
    pub(crate) fn start(acceptor: &TlsAcceptor, socket: Socket) -> Self {
        Self::step(acceptor.accept(Wire::new(socket)))
    }

    pub(crate) fn go_on(mut handshake: MidHandshakeTlsStream<Wire>) -> Self {
        match handshake.get_mut().begin() {
            Ok(()) => Self::step(handshake.handshake()),
            Err(error) => Accepting::Failed(Error::lost(error)),
        }
    }

    fn step(result: Result<TlsStream<Wire>, HandshakeError<Wire>>) -> Self {
        match result {
            Ok(stream) => Accepting::Done(established(stream)),
            Err(HandshakeError::WouldBlock(handshake)) => Accepting::InProgress(handshake),
            Err(HandshakeError::Failure(error)) => Accepting::Failed(failed("the client", error)),
        }
    }
}

/// The timeout of one read. The clock is read only when the read has to wait.
struct ReadDeadline {
    timeout: Option<Duration>,
    deadline: Option<Option<Instant>>,
}

impl ReadDeadline {
    fn new(timeout: Option<Duration>) -> Self {
        ReadDeadline {
            timeout,
            deadline: None,
        }
    }

    /// Returns the end of the time that began with the first call. `None` is never.
    fn deadline(&mut self) -> Option<Instant> {
        let after = || Instant::now().checked_add(self.timeout?);
        *self.deadline.get_or_insert_with(after)
    }

    /// Like [`deadline`](Self::deadline), but fails with `WouldBlock` if it has passed.
    fn left(&mut self) -> io::Result<Option<Instant>> {
        match self.deadline() {
            Some(deadline) if Instant::now() >= deadline => Err(io::ErrorKind::WouldBlock.into()),
            deadline => Ok(deadline),
        }
    }
}

fn earlier(deadline: Option<Instant>, other: Instant) -> Instant {
    deadline.map_or(other, |deadline| deadline.min(other))
}
