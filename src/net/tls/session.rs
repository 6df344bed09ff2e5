//! A TLS session and its two halves.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use native_tls::TlsStream;
use parking_lot::{Condvar, Mutex, MutexGuard};
use rustix::event::{PollFd, PollFlags};

use super::wire::{Blocked, Sock, Wire};
use crate::net::socket::{Socket, wait_for};
use crate::net::transport::{Halves, ReadHalf, ShutdownHandle, Transport, WriteHalf};
use crate::net::write_stall::Stall;

/// The time after which a half checks again for a condition that poll(2) cannot report.
const RECHECK: Duration = Duration::from_millis(50);

/// The state that the two halves share.
struct TlsSession<S> {
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

impl<S> TlsSession<S> {
    /// Records the end of reading and releases a write that waits for the reader.
    fn stop_reading(&self) {
        self.reading_ended.store(true, Ordering::SeqCst);
        // A writer that read the flag before this store holds the lock until it waits. Taking the
        // lock here makes sure that the notification reaches it.
        drop(self.stream.lock());
        self.progress.notify_all();
    }
}

impl<S: Sock> TlsSession<S> {
    fn halves(stream: TlsStream<S>, socket: Socket, waker: Option<Waker>) -> Halves {
        let session = Arc::new(TlsSession {
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

impl<S: Sock> ShutdownHandle for TlsSession<S> {
    fn shutdown(&self) {
        self.send_close_notify();
        self.socket.shutdown();
        self.stop_reading();
    }
}

struct TlsRead<S> {
    session: Arc<TlsSession<S>>,
    timeout: Option<Duration>,
}

impl<S: Sock> TlsRead<S> {
    /// Reads without waiting. Returns what to wait for as the error.
    fn read_now(&self, buffer: &mut [u8], waited: bool) -> Result<io::Result<usize>, Blocked> {
        let mut stream = self.session.stream.lock();
        let wire = stream.get_mut();
        wire.begin(true, waited);
        // The writer reports an error. The peer may have sent bytes before it.
        let _ = wire.send_kept();
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
        // Set by the first wait: the clock is read only when the read has to wait.
        let mut deadline = None;
        loop {
            let waited = deadline.is_some();
            let read = self.read_now(buffer, waited);
            self.session.progress.notify_all();
            let blocked = match read {
                Ok(read) => return read,
                Err(blocked) => blocked,
            };
            let after = || Instant::now().checked_add(self.timeout?);
            let until = *deadline.get_or_insert_with(after);
            // Even a timeout of zero reads from the socket once.
            if waited && until.is_some_and(|until| Instant::now() >= until) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.session.wait_to_read(blocked, waited, until)?;
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
    session: Arc<TlsSession<S>>,
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

    /// Sends what was kept, without waiting. Returns the lock if nothing is kept any more.
    fn flushed_now(&self) -> io::Result<Locked<'_, S>> {
        // The reader decrypts under the lock. That is short, but this call must not wait at all.
        let stream = self.session.stream.try_lock();
        let mut stream = stream.ok_or(io::ErrorKind::WouldBlock)?;
        stream.get_mut().begin(false, false);
        match stream.get_mut().send_kept()? {
            0 => Ok(stream),
            _ => Err(io::ErrorKind::WouldBlock.into()),
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
        let mut stream = self.flushed_now()?;
        self.session.write(&mut stream, bytes)
    }

    fn try_flush(&mut self) -> io::Result<()> {
        self.flushed_now().map(drop)
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
        Ok(TlsSession::halves(self.0, socket, None))
    }

    fn peer_addr(&self) -> Option<SocketAddr> {
        self.0.get_ref().socket.peer_addr()
    }

    fn local_addr(&self) -> Option<SocketAddr> {
        self.0.get_ref().socket.local_addr()
    }

    fn is_encrypted(&self) -> bool {
        true
    }

    fn set_nodelay(&mut self, nodelay: bool) -> io::Result<()> {
        self.0.get_mut().socket.set_nodelay(nodelay)
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
        Ok(TlsSession::halves(*self, socket, Some(Waker::new()?)))
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

fn earlier(deadline: Option<Instant>, other: Instant) -> Instant {
    deadline.map_or(other, |deadline| deadline.min(other))
}
