//! TLS: a session that two threads share, full duplex.
//!
//! A TLS session cannot be divided: to read and to write, both need all of it. So both halves share it
//! behind a lock, and **no operation on it ever waits**: the session's socket gives what there is to read,
//! and takes all that is to be written, keeping what the system has no room for. The halves wait
//! with poll(2), without the lock.
//!
//! A TLS read may have to write: the answer to a renegotiation (TLS 1.2) or to a KeyUpdate (TLS 1.3). OpenSSL
//! fails there when it has a record half written, with an error that ends the connection. It never has one
//! here, since its writes always succeed; what is kept is sent by whichever half comes first.
//!
//! A TLS write may have to read, during a renegotiation. **Only reads read**: otherwise a writer might take
//! bytes that the reader waits for. Such a write waits for the reader to have made progress.

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

/// How much is read from the socket at a time: a TLS record at its longest, and its header. OpenSSL
/// by itself reads each record in two calls.
const READ_AHEAD: usize = 5 + (16 << 10) + 256;

/// How much is kept that the system has no room for: the record of a writer, who waits before the
/// next, and some answers.
const MAX_KEPT: usize = 64 << 10;

/// How long a half waits for the other to get on, or for what it can only guess, before it looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The socket below a session, as the session sees it: it never waits.
#[derive(Debug)]
pub(crate) struct Wire {
    socket: Socket,
    /// Either empty or of the full length; `unread` of it is what was received.
    ahead: Vec<u8>,
    unread: Range<usize>,
    /// The last look at the socket found all there was: there is no use in another before a wait.
    drained: bool,
    /// Whether the operation may read.
    may_read: bool,
    /// The handshake is done: from here on the peer may end the stream.
    is_up: bool,
    /// The operation would have had to read first, and might not.
    wants_reader: bool,
    /// What has been written and the system had no room for: a record or two.
    kept: Vec<u8>,
    /// Nothing can be sent any more: that is for the writer to find, whoever met with it.
    broken: Option<io::ErrorKind>,
    /// More would have had to be kept than is reasonable.
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

    /// Sends what there is room for, which may be nothing.
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

    /// For who polls the socket and then carries on, alone: what to wait for.
    pub(crate) fn events(&self) -> PollFlags {
        let mut events = PollFlags::IN;
        events.set(PollFlags::OUT, !self.kept.is_empty());
        events
    }

    /// For who polls the socket and then carries on, alone: a new operation begins.
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
            // A writer waits before it comes so far: these are answers that the peer asks for and does
            // not take. OpenSSL makes nothing of an error here.
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

/// What a session runs over.
trait Sock: Read + Write + Send + 'static {
    /// A new operation begins; `waited` says that it follows upon a wait for the socket.
    fn begin(&mut self, may_read: bool, waited: bool);

    /// Sends what was kept, as far as there is room. Returns how much is still kept.
    fn send_kept(&mut self) -> io::Result<usize>;

    /// Why an operation would have had to wait.
    fn blocked(&self) -> Blocked;

    /// Whether the peer wants more answers than it takes, which it is not to go on with.
    fn check(&self) -> io::Result<()>;

    /// The writer begins or ends to wait for room.
    fn writer_waits(&mut self, waits: bool);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blocked {
    /// There is nothing to read; to send, there may be something, which the reader is to see to.
    Read { unsent: bool },
    /// A write that has to read first.
    WantsReader,
    /// Nobody knows.
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

/// A session that was made elsewhere keeps its secrets, and nothing can be kept for it.
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

/// What the two halves share.
struct Session<S> {
    /// Held for one operation, which does not wait.
    stream: Mutex<TlsStream<S>>,
    /// Told when the reader has read something, and when there will be no more reading. Its waits
    /// are short ones.
    progress: Condvar,
    /// Nothing will be read any more.
    unread: AtomicBool,
    socket: Socket,
    /// For a session whose writes may read: wakes the reader, for whom that may have been.
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
        // When it is full, the reader has yet to notice.
        let _ = { &self.sender }.write(&[0]);
    }

    /// Waits for the socket, or to be woken.
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
    /// There will be no more reading: a write that waits for it would wait for ever.
    fn stop_reading(&self) {
        self.unread.store(true, Ordering::SeqCst);
        // Who looked before that, and holds the lock, is waiting by the time it can be had.
        drop(self.stream.lock());
        self.progress.notify_all();
    }
}

impl<S: Sock> Session<S> {
    fn halves(stream: TlsStream<S>, socket: Socket, waker: Option<Waker>) -> Halves {
        let session = Arc::new(Session {
            stream: Mutex::new(stream),
            progress: Condvar::new(),
            unread: AtomicBool::new(false),
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

    /// Waits until a read may get on.
    fn wait_to_read(
        &self,
        blocked: Blocked,
        waited: bool,
        mut deadline: Option<Instant>,
    ) -> io::Result<()> {
        let events = match blocked {
            Blocked::Read { unsent: false } => PollFlags::IN,
            Blocked::Read { unsent: true } => PollFlags::IN | PollFlags::OUT,
            // It may be room to write that it waits for.
            _ if !waited => PollFlags::IN | PollFlags::OUT,
            // There was some, and that was not it.
            _ if self.socket.is_writable()? => PollFlags::IN,
            // There is something to read, perhaps, which it does not take before it has written.
            _ => {
                deadline = Some(earlier(deadline, Instant::now() + LOOK_AGAIN));
                PollFlags::OUT
            }
        };
        match &self.waker {
            None => self.socket.wait(events, deadline),
            Some(waker) => waker.wait(&self.socket, events, deadline),
        }
    }

    /// Writes what there is room for. What that has read is the reader's.
    fn write(&self, stream: &mut TlsStream<S>, bytes: &[u8]) -> io::Result<usize> {
        let written = stream.write(bytes);
        if let Some(waker) = &self.waker {
            if stream.buffered_read_size().is_ok_and(|size| size > 0) {
                waker.wake();
            }
        }
        written
    }

    /// Sends `close_notify`, if there is room for it.
    fn say_the_end(&self) {
        let mut stream = self.stream.lock();
        stream.get_mut().begin(false, false);
        let _ = stream.shutdown();
    }
}

impl<S: Sock> ShutdownHandle for Session<S> {
    fn shutdown(&self) {
        self.say_the_end();
        self.socket.shutdown();
        self.stop_reading();
    }
}

struct TlsRead<S> {
    session: Arc<Session<S>>,
    timeout: Option<Duration>,
}

impl<S: Sock> TlsRead<S> {
    /// Reads what is there; or says what to wait for.
    fn read_now(&self, buffer: &mut [u8], waited: bool) -> Result<io::Result<usize>, Blocked> {
        let mut stream = self.session.stream.lock();
        let wire = stream.get_mut();
        wire.begin(true, waited);
        if let Err(error) = wire.send_kept() {
            // That is for the writer to find; the peer may have said something before.
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
        let mut patience = Patience::new(self.timeout);
        let mut waited = false;
        loop {
            let read = self.read_now(buffer, waited);
            self.session.progress.notify_all();
            let blocked = match read {
                Ok(read) => return read,
                Err(blocked) => blocked,
            };
            // A time-out of zero still is a look at the socket.
            let deadline = match waited {
                true => patience.left()?,
                false => patience.deadline(),
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
    /// Sends what was kept, waiting for room; hands over the lock with nothing kept. Fails with
    /// `Interrupted` when the peer has taken a part: the next call has a time of its own, and the caller
    /// may have a deadline.
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
            if self.session.unread.load(Ordering::SeqCst) {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            let until = stall.next_attempt()?;
            if stream.get_mut().blocked() == Blocked::Unknown
                && !self.session.socket.is_writable()?
            {
                drop(stream);
                self.session.socket.wait(PollFlags::OUT, until)?;
            } else {
                // There is room, so it has to read first.
                let until = earlier(until, Instant::now() + LOOK_AGAIN);
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
        // The reader decrypts under the lock: not long, but this is not to wait at all.
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
        self.session.say_the_end();
        self.session.socket.shutdown_write()
    }
}

/// A session over a socket of this crate's own.
pub(crate) struct Tls(pub(crate) TlsStream<Wire>);

impl Tls {
    /// Reads what is there, for who polls the socket and is alone with the session.
    pub(crate) fn read_now(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.get_mut().begin()?;
        let read = self.0.read(buffer);
        self.0.get_ref().check().and(read)
    }

    /// Writes the last bytes and `close_notify`, as far as there is room.
    pub(crate) fn say_goodbye(&mut self, bytes: &[u8]) -> io::Result<()> {
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

/// A session that was made elsewhere. With OpenSSL it ends with an error if the peer changes its keys
/// (a KeyUpdate or a renegotiation) just when a record is half written; those that a `wss` URL or a TLS
/// server makes do not.
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

/// Carries out a client's TLS handshake; `host` is whom the server's certificate must name.
pub(crate) fn connect(
    connector: &TlsConnector,
    host: &str,
    socket: Socket,
    deadline: Instant,
) -> Result<Tls, Failure> {
    let mut step = connector.connect(host, Wire::new(socket));
    loop {
        match step {
            Ok(stream) => return Ok(up(stream)),
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

/// Carries out a handshake with itself: a key that does not belong to its certificate is found by the
/// first handshake only, and that one is better not a client's.
pub(crate) fn try_out(acceptor: &TlsAcceptor) -> io::Result<()> {
    let connector = TlsConnector::builder()
        .danger_accept_invalid_certs(true)
        .danger_accept_invalid_hostnames(true)
        .build()
        .map_err(io::Error::other)?;
    let (client, server) = UnixStream::pair()?;
    let mut client = connector.connect("localhost", Wire::new(client.into()));
    let mut server = Accepting::start(acceptor, server.into());
    // Each side takes a few turns; to be sure, some more.
    for _ in 0..20 {
        server = match server {
            Accepting::Done(_) => return Ok(()),
            Accepting::Failed(error) => return Err(not_tried_out(&error)),
            Accepting::Under(handshake) => Accepting::go_on(handshake),
        };
        client = match client {
            Err(HandshakeError::WouldBlock(mut handshake)) => {
                handshake.get_mut().begin()?;
                handshake.handshake()
            }
            other => other,
        };
    }
    Err(not_tried_out(&"it comes to no end"))
}

fn not_tried_out(why: &dyn std::fmt::Display) -> io::Error {
    io::Error::other(format!(
        "no handshake comes about with this identity; does the key belong to the certificate? ({why}) \
         If they are for other clients than this TLS library's own, use Server::tls_acceptor"
    ))
}

fn up(mut stream: TlsStream<Wire>) -> Tls {
    stream.get_mut().is_up = true;
    Tls(stream)
}

fn failed(host: &str, error: native_tls::Error) -> Error {
    // A connection that broke says nothing about what the two sides would have agreed on.
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

/// A server's TLS handshake, which does not wait.
pub(crate) enum Accepting {
    Done(Tls),
    Under(MidHandshakeTlsStream<Wire>),
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
            Ok(stream) => Accepting::Done(up(stream)),
            Err(HandshakeError::WouldBlock(handshake)) => Accepting::Under(handshake),
            Err(HandshakeError::Failure(error)) => Accepting::Failed(failed("the client", error)),
        }
    }
}

/// How long one read may wait; what need not wait does not look at the clock.
struct Patience {
    timeout: Option<Duration>,
    deadline: Option<Option<Instant>>,
}

impl Patience {
    fn new(timeout: Option<Duration>) -> Self {
        Patience {
            timeout,
            deadline: None,
        }
    }

    /// When the time is over that began with the first call of this; `None` is never.
    fn deadline(&mut self) -> Option<Instant> {
        let after = || Instant::now().checked_add(self.timeout?);
        *self.deadline.get_or_insert_with(after)
    }

    /// As [`deadline`](Self::deadline); fails with `WouldBlock` when it has passed.
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
