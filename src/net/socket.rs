//! TCP and Unix sockets. The system calls on them are the same.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::sockopt::{Timeout, set_socket_timeout, set_tcp_nodelay};
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};

use super::transport::{Halves, ReadHalf, ShutdownHandle, Transport, WriteHalf};
use super::write_stall::Stall;

/// A connected stream socket. Clones share the descriptor; the last one closes it.
#[derive(Debug, Clone)]
pub(crate) struct Socket {
    fd: Arc<OwnedFd>,
    peer_addr: Option<SocketAddr>,
    /// `None` for a Unix socket.
    local_addr: Option<SocketAddr>,
}

impl From<TcpStream> for Socket {
    fn from(stream: TcpStream) -> Self {
        Socket {
            peer_addr: stream.peer_addr().ok(),
            local_addr: stream.local_addr().ok(),
            fd: Arc::new(stream.into()),
        }
    }
}

impl From<UnixStream> for Socket {
    fn from(stream: UnixStream) -> Self {
        Socket {
            peer_addr: None,
            local_addr: None,
            fd: Arc::new(stream.into()),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Socket {
    /// Reads without waiting.
    pub(crate) fn recv_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let flags = RecvFlags::DONTWAIT;
        Ok(retry_on_intr(|| recv(self, &mut *buffer, flags))?.1)
    }

    /// Reads without waiting, and leaves the bytes in the socket's buffer.
    pub(crate) fn peek_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let flags = RecvFlags::DONTWAIT | RecvFlags::PEEK;
        Ok(retry_on_intr(|| recv(self, &mut *buffer, flags))?.1)
    }

    /// Writes without waiting.
    pub(crate) fn send_now(&self, bytes: &[u8]) -> io::Result<usize> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        Ok(retry_on_intr(|| send(self, bytes, flags))?)
    }

    /// Ends the write direction. The peer reads the end of the stream.
    pub(crate) fn shutdown_write(&self) -> io::Result<()> {
        Ok(shutdown(self, Shutdown::Write)?)
    }

    /// Returns whether a write would not block: there is space, or writing fails.
    #[cfg(feature = "native-tls")]
    pub(crate) fn is_writable(&self) -> io::Result<bool> {
        let mut fds = [PollFd::new(self, PollFlags::OUT)];
        wait_for(&mut fds, Some(Instant::now()))?;
        Ok(!fds[0].revents().is_empty())
    }

    /// Waits until the socket is ready for one of `events`, or until `deadline`; without a
    /// deadline, for ever. May return early.
    pub(crate) fn wait(&self, events: PollFlags, deadline: Option<Instant>) -> io::Result<()> {
        wait_for(&mut [PollFd::new(self, events)], deadline)
    }
}

/// Waits for an event on one of the descriptors, or until `deadline`; without a deadline, for ever.
/// May return early.
pub(crate) fn wait_for(fds: &mut [PollFd<'_>], deadline: Option<Instant>) -> io::Result<()> {
    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    // A time too long for a timespec is the same as no deadline.
    let left = left.and_then(|left| Timespec::try_from(left).ok());
    match poll(fds, left.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

impl Transport for Socket {
    fn split(self: Box<Self>) -> io::Result<Halves> {
        rustix::io::ioctl_fionbio(&*self, false)?;
        Ok(Halves {
            read: Box::new(SocketRead((*self).clone())),
            write: Box::new(SocketWrite {
                socket: (*self).clone(),
                timeout: None,
            }),
            shutdown: Arc::new(*self),
        })
    }

    fn peer_addr(&self) -> Option<SocketAddr> {
        self.peer_addr
    }

    fn local_addr(&self) -> Option<SocketAddr> {
        self.local_addr
    }

    fn set_nodelay(&mut self, nodelay: bool) -> io::Result<()> {
        match self.local_addr {
            Some(_) => Ok(set_tcp_nodelay(self, nodelay)?),
            None => Ok(()),
        }
    }
}

impl ShutdownHandle for Socket {
    fn shutdown(&self) {
        // This fails if the peer has ended the connection. Then no call is blocked on it.
        let _ = shutdown(self, Shutdown::Both);
    }
}

impl Transport for TcpStream {
    fn split(self: Box<Self>) -> io::Result<Halves> {
        Box::new(Socket::from(*self)).split()
    }

    fn peer_addr(&self) -> Option<SocketAddr> {
        TcpStream::peer_addr(self).ok()
    }

    fn local_addr(&self) -> Option<SocketAddr> {
        TcpStream::local_addr(self).ok()
    }

    fn set_nodelay(&mut self, nodelay: bool) -> io::Result<()> {
        TcpStream::set_nodelay(self, nodelay)
    }
}

impl Transport for UnixStream {
    fn split(self: Box<Self>) -> io::Result<Halves> {
        Box::new(Socket::from(*self)).split()
    }
}

struct SocketRead(Socket);

impl Read for SocketRead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(recv(&self.0, buffer, RecvFlags::empty())?.1)
    }
}

impl ReadHalf for SocketRead {
    fn set_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        // The operating system takes a zero for no timeout.
        let timeout = timeout.map(|timeout| timeout.max(Duration::from_millis(1)));
        Ok(set_socket_timeout(&self.0, Timeout::Recv, timeout)?)
    }
}

struct SocketWrite {
    socket: Socket,
    timeout: Option<Duration>,
}

impl Write for SocketWrite {
    /// Waits only while the socket accepts no byte. (The socket's own time-out would be waited for
    /// twice: a call that has sent a part of its bytes waits too, and then the next call waits
    /// again.)
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut stall = Stall::new(self.timeout);
        loop {
            match self.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
            let until = stall.next_attempt()?;
            self.socket.wait(PollFlags::OUT, until)?;
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl WriteHalf for SocketWrite {
    fn set_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.timeout = timeout;
        Ok(())
    }

    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.send_now(bytes)
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        self.socket.shutdown_write()
    }
}
