//! TLS: a session that two threads share, full duplex.
//!
//! A TLS session cannot be divided: to read and to write, both need all of it. So both halves share it
//! behind a lock, and **no operation on it ever waits**: the session's socket takes and gives what it can
//! at once. When an operation would have to wait, the lock is let go of, and then the half waits for
//! the socket with poll(2).
//!
//! A TLS read may have to write (the answer to a renegotiation, an alert), and a write to read. What
//! an operation is waiting for, the session's socket knows, since it was asked. To keep the halves
//! from taking bytes that the other waits for, **only reads read**: a write that must read first waits for
//! the reader to have made progress, and the reader, which always reads, makes it.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use native_tls::{HandshakeError, MidHandshakeTlsStream, TlsAcceptor, TlsConnector, TlsStream};
use parking_lot::{Condvar, Mutex};
use rustix::event::PollFlags;

use super::handshake::Failure;
use super::socket::Socket;
use super::transport::{Cut, Halves, ReadHalf, Transport, WriteHalf};
use crate::error::Error;

/// How much is read from the socket at a time: a TLS record at its longest, and its header. OpenSSL
/// by itself reads each record in two calls.
const READ_AHEAD: usize = 5 + (16 << 10) + 256;

/// How long a half waits for the other half to get on, or for a reason it can only guess, before it
/// looks again. Such waits are rare, but for who brings a session of their own.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The socket below a session, as the session sees it: it never waits, and remembers what it would
/// have had to wait for.
#[derive(Debug)]
pub(crate) struct Wire {
    socket: Socket,
    ahead: Vec<u8>,
    taken: usize,
    /// The last look at the socket found all there was: there is no use in another before a wait.
    drained: bool,
    /// Whether the operation may read.
    may_read: bool,
    blocked: Blocked,
}

/// What an operation would have had to wait for.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Blocked {
    /// Something to read.
    read: bool,
    /// Room to write.
    write: bool,
    /// Something to read, which is for the reader to read.
    reader: bool,
}

impl Blocked {
    fn events(self) -> PollFlags {
        let mut events = PollFlags::empty();
        events.set(PollFlags::IN, self.read);
        events.set(PollFlags::OUT, self.write);
        events
    }
}

impl Wire {
    pub(crate) fn new(socket: Socket) -> Self {
        Wire {
            socket,
            ahead: Vec::new(),
            taken: 0,
            drained: false,
            may_read: true,
            blocked: Blocked::default(),
        }
    }

    /// What the last operation on the session would have had to wait for.
    pub(crate) fn events(&self) -> PollFlags {
        self.blocked.events()
    }

    /// For who polls the socket and then carries on, alone: a new operation begins.
    pub(crate) fn begin(&mut self) {
        Sock::begin(self, true, true);
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.may_read {
            self.blocked.reader = true;
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if self.taken == self.ahead.len() {
            if self.drained {
                // An idle connection keeps no buffer.
                self.ahead = Vec::new();
                self.taken = 0;
                self.blocked.read = true;
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.ahead.resize(READ_AHEAD, 0);
            self.taken = 0;
            let read = self.socket.recv_now(&mut self.ahead);
            self.ahead.truncate(*read.as_ref().unwrap_or(&0));
            if let Err(error) = &read {
                self.blocked.read = error.kind() == io::ErrorKind::WouldBlock;
            }
            self.drained = read? < READ_AHEAD;
        }
        let n = buffer.len().min(self.ahead.len() - self.taken);
        buffer[..n].copy_from_slice(&self.ahead[self.taken..][..n]);
        self.taken += n;
        Ok(n)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.socket.send_now(bytes);
        if let Err(error) = &written {
            self.blocked.write = error.kind() == io::ErrorKind::WouldBlock;
        }
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a session runs over.
trait Sock: Read + Write + Send + 'static {
    /// A new operation begins; `waited` says that it follows upon a wait for the socket.
    fn begin(&mut self, may_read: bool, waited: bool);

    /// What it would have had to wait for, if that is known.
    fn blocked(&self) -> Option<Blocked>;
}

impl Sock for Wire {
    fn begin(&mut self, may_read: bool, waited: bool) {
        self.may_read = may_read;
        self.drained &= !waited;
        self.blocked = Blocked::default();
    }

    fn blocked(&self) -> Option<Blocked> {
        Some(self.blocked)
    }
}

/// A session that was made elsewhere keeps its secrets.
impl Sock for TcpStream {
    fn begin(&mut self, _: bool, _: bool) {}

    fn blocked(&self) -> Option<Blocked> {
        None
    }
}

/// What the two halves share.
struct Session<S> {
    /// Held for one operation, which does not wait.
    stream: Mutex<TlsStream<S>>,
    /// Told when the reader has read something. Its waits are short ones.
    progress: Condvar,
    socket: Socket,
}

impl<S: Sock> Session<S> {
    fn halves(stream: TlsStream<S>, socket: Socket) -> Halves {
        let session = Arc::new(Session {
            stream: Mutex::new(stream),
            progress: Condvar::new(),
            socket,
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
            cut: session,
        }
    }

    /// Sends `close_notify`, if there is room for it and no record is half written.
    fn say_the_end(&self) {
        let mut stream = self.stream.lock();
        stream.get_mut().begin(false, false);
        let _ = stream.shutdown();
    }
}

impl<S: Sock> Cut for Session<S> {
    fn cut(&self) {
        self.say_the_end();
        self.socket.cut();
    }
}

struct TlsRead<S> {
    session: Arc<Session<S>>,
    timeout: Option<Duration>,
}

impl<S: Sock> Read for TlsRead<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut deadline = None;
        let mut waited = false;
        loop {
            let blocked = {
                let mut stream = self.session.stream.lock();
                stream.get_mut().begin(true, waited);
                match stream.read(buffer) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        stream.get_mut().blocked()
                    }
                    other => {
                        drop(stream);
                        self.session.progress.notify_all();
                        return other;
                    }
                }
            };
            self.session.progress.notify_all();

            let timeout = self.timeout;
            let deadline = *deadline.get_or_insert_with(|| deadline_of(timeout));
            let now = Instant::now();
            if waited && deadline.is_some_and(|deadline| now >= deadline) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            // While only the peer can help, the wait is the caller's. Else the other half may, too.
            let (events, look_again) = match blocked {
                Some(blocked) if !blocked.events().is_empty() => (blocked.events(), blocked.write),
                _ => (PollFlags::IN, true),
            };
            let until = match look_again {
                true => earlier(deadline, now + LOOK_AGAIN),
                false => deadline,
            };
            self.session.socket.wait(events, until)?;
            waited = true;
        }
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

impl<S: Sock> Write for TlsWrite<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut deadline = None;
        let mut waited_for_room = false;
        loop {
            let mut stream = self.session.stream.lock();
            stream.get_mut().begin(false, false);
            let blocked = match stream.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    stream.get_mut().blocked()
                }
                other => return other,
            };

            let timeout = self.timeout;
            let deadline = *deadline.get_or_insert_with(|| deadline_of(timeout));
            let now = Instant::now();
            if deadline.is_some_and(|deadline| now >= deadline) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let for_reader = match blocked {
                Some(blocked) => !blocked.write,
                // There is room, so it must be that something has to be read first.
                None => waited_for_room,
            };
            let until = earlier(deadline, now + LOOK_AGAIN);
            if for_reader {
                let until = until.unwrap_or(now + LOOK_AGAIN);
                self.session.progress.wait_until(&mut stream, until);
                waited_for_room = false;
            } else {
                drop(stream);
                let until = if blocked.is_some() { deadline } else { until };
                self.session.socket.wait(PollFlags::OUT, until)?;
                waited_for_room = true;
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<S: Sock> WriteHalf for TlsWrite<S> {
    fn set_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.timeout = timeout;
        Ok(())
    }

    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // The reader decrypts under the lock: not long, but this is not to wait at all.
        let Some(mut stream) = self.session.stream.try_lock() else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        stream.get_mut().begin(false, false);
        stream.write(bytes)
    }

    fn finish(&mut self) -> io::Result<()> {
        self.session.say_the_end();
        self.session.socket.finish()
    }
}

/// A session over a socket of this crate's own.
pub(crate) struct Tls(pub(crate) TlsStream<Wire>);

impl Tls {
    /// Reads what is there, for who polls the socket and is alone with the session.
    pub(crate) fn read_now(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.get_mut().begin();
        self.0.read(buffer)
    }

    /// Writes the last bytes and `close_notify`, as far as there is room.
    pub(crate) fn say_goodbye(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.get_mut().begin();
        self.0.write_all(bytes)?;
        self.0.shutdown()?;
        self.0.get_ref().socket.finish()
    }
}

impl Transport for Tls {
    fn split(self: Box<Self>) -> io::Result<Halves> {
        let socket = self.0.get_ref().socket.clone();
        Ok(Session::halves(self.0, socket))
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

/// A session that was made elsewhere. What its operations wait for can only be guessed, so an idle
/// one looks at its socket twenty times a second.
impl Transport for TlsStream<TcpStream> {
    fn split(self: Box<Self>) -> io::Result<Halves> {
        let stream = self.get_ref();
        stream.set_nonblocking(true)?;
        let socket = Socket::from(stream.try_clone()?);
        Ok(Session::halves(*self, socket))
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
            Ok(stream) => return Ok(Tls(stream)),
            Err(HandshakeError::Failure(error)) => return Err(failed(host, error).into()),
            Err(HandshakeError::WouldBlock(mut handshake)) => {
                if Instant::now() >= deadline {
                    return Err(Failure::TimedOut("the TLS handshake"));
                }
                let wire = handshake.get_mut();
                let waited = wire.socket.wait(wire.events(), Some(deadline));
                waited.map_err(Error::lost)?;
                wire.begin();
                step = handshake.handshake();
            }
        }
    }
}

fn failed(host: &str, error: native_tls::Error) -> Error {
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
        handshake.get_mut().begin();
        Self::step(handshake.handshake())
    }

    fn step(result: Result<TlsStream<Wire>, HandshakeError<Wire>>) -> Self {
        match result {
            Ok(stream) => Accepting::Done(Tls(stream)),
            Err(HandshakeError::WouldBlock(handshake)) => Accepting::Under(handshake),
            Err(HandshakeError::Failure(error)) => Accepting::Failed(failed("the client", error)),
        }
    }
}

fn deadline_of(timeout: Option<Duration>) -> Option<Instant> {
    Instant::now().checked_add(timeout?)
}

fn earlier(deadline: Option<Instant>, other: Instant) -> Option<Instant> {
    Some(deadline.map_or(other, |deadline| deadline.min(other)))
}
