//! One connection's bytes: a half to read, a half to write, and a way to cut both.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{SendFlags, send};

/// The receiving half. It belongs to the reader thread.
pub(crate) trait ReadHalf: Read + Send {
    /// How long a read may wait before it fails with `WouldBlock` or `TimedOut`; `None` is for ever.
    fn set_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()>;
}

/// The sending half. It belongs to whoever has the pen (see `websocket::outbox`).
pub(crate) trait WriteHalf: Write + Send {
    /// How long a write may wait for the peer to take anything before it fails with `WouldBlock` or
    /// `TimedOut`; `None` is for ever.
    fn set_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()>;

    /// Writes what fits now; fails with `WouldBlock` when nothing does.
    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Tells the peer that nothing more will be sent. What it sends can still be read.
    fn finish(&mut self) -> io::Result<()>;
}

/// Ends something that other threads wait for.
pub(crate) trait Cut: Send + Sync {
    /// Ends it now: whoever is blocked in it returns, and nobody will block in it again.
    fn cut(&self);
}

/// A connection in its parts, which different threads own.
pub(crate) struct Transport {
    pub(crate) read: Box<dyn ReadHalf>,
    pub(crate) write: Box<dyn WriteHalf>,
    pub(crate) cut: Arc<dyn Cut>,
    pub(crate) peer_addr: Option<SocketAddr>,
    pub(crate) local_addr: Option<SocketAddr>,
}

impl Transport {
    /// A TCP connection. The three parts share the one descriptor; it is closed with the last.
    pub(crate) fn tcp(stream: TcpStream, nodelay: bool) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        stream.set_nodelay(nodelay)?;
        let peer_addr = stream.peer_addr().ok();
        let local_addr = stream.local_addr().ok();
        let stream = Arc::new(stream);
        Ok(Transport {
            read: Box::new(TcpRead(stream.clone())),
            write: Box::new(TcpWrite(stream.clone())),
            cut: Arc::new(TcpCut(stream)),
            peer_addr,
            local_addr,
        })
    }
}

struct TcpRead(Arc<TcpStream>);
struct TcpWrite(Arc<TcpStream>);
struct TcpCut(Arc<TcpStream>);

impl Read for TcpRead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self.0).read(buffer)
    }
}

impl ReadHalf for TcpRead {
    fn set_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.0.set_read_timeout(timeout.map(at_least_a_moment))
    }
}

impl Write for TcpWrite {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self.0).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl WriteHalf for TcpWrite {
    fn set_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.0.set_write_timeout(timeout.map(at_least_a_moment))
    }

    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(send(
            &*self.0,
            bytes,
            SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
        )?)
    }

    fn finish(&mut self) -> io::Result<()> {
        self.0.shutdown(Shutdown::Write)
    }
}

impl Cut for TcpCut {
    fn cut(&self) {
        // It fails when the peer has ended the connection already; then nobody is blocked in it.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

/// The operating system takes zero for ever.
fn at_least_a_moment(timeout: Duration) -> Duration {
    timeout.max(Duration::from_millis(1))
}

/// Whether a read or write failed for lack of time or room, and may be tried again.
pub(crate) fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}
