//! TCP and Unix sockets: the operating system's calls on them are the same.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout, set_tcp_nodelay};
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};

use super::transport::{Halves, ReadHalf, ShutdownHandle, Transport, WriteHalf};
use super::write_stall::Stall;

/// A connected stream socket. Clones share the descriptor, which is closed with the last.
#[derive(Debug, Clone)]
pub(crate) struct Socket {
    fd: Arc<OwnedFd>,
    family: Family,
    peer_addr: Option<SocketAddr>,
    local_addr: Option<SocketAddr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Tcp,
    Unix,
}

impl From<TcpStream> for Socket {
    fn from(stream: TcpStream) -> Self {
        Socket {
            family: Family::Tcp,
            peer_addr: stream.peer_addr().ok(),
            local_addr: stream.local_addr().ok(),
            fd: Arc::new(stream.into()),
        }
    }
}

impl From<UnixStream> for Socket {
    fn from(stream: UnixStream) -> Self {
        Socket {
            family: Family::Unix,
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
    pub(crate) fn peer_addr(&self) -> Option<SocketAddr> {
        self.peer_addr
    }

    pub(crate) fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        match self.family {
            Family::Tcp => Ok(set_tcp_nodelay(self, nodelay)?),
            Family::Unix => Ok(()),
        }
    }

    /// Reads what is there.
    pub(crate) fn recv_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(recv(self, buffer, RecvFlags::DONTWAIT)?.1)
    }

    /// Looks at what is there, which stays there.
    #[cfg(feature = "native-tls")]
    pub(crate) fn peek_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(recv(self, buffer, RecvFlags::DONTWAIT | RecvFlags::PEEK)?.1)
    }

    /// Writes what fits.
    pub(crate) fn send_now(&self, bytes: &[u8]) -> io::Result<usize> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        Ok(send(self, bytes, flags)?)
    }

    /// Tells the peer that nothing more will be sent.
    pub(crate) fn shutdown_write(&self) -> io::Result<()> {
        Ok(shutdown(self, Shutdown::Write)?)
    }

    /// Ends it in both directions, and with that whatever anybody waits for.
    pub(crate) fn shutdown(&self) {
        // It fails when the peer has ended the connection already; then nobody is blocked in it.
        let _ = shutdown(self, Shutdown::Both);
    }

    /// Whether there is room to write, or nothing can be written any more.
    #[cfg(feature = "native-tls")]
    pub(crate) fn is_writable(&self) -> io::Result<bool> {
        let mut fds = [PollFd::new(self, PollFlags::OUT)];
        wait_for(&mut fds, Some(Instant::now()))?;
        Ok(!fds[0].revents().is_empty())
    }

    /// Waits until the socket is ready for one of `events`, or until `deadline`; for ever, without
    /// one. It may return early.
    #[cfg(feature = "native-tls")]
    pub(crate) fn wait(&self, events: PollFlags, deadline: Option<Instant>) -> io::Result<()> {
        wait_for(&mut [PollFd::new(self, events)], deadline)
    }
}

/// Waits until something happens to one of the descriptors, or until `deadline`; for ever, without
/// one. It may return early.
pub(crate) fn wait_for(fds: &mut [PollFd<'_>], deadline: Option<Instant>) -> io::Result<()> {
    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    // A time that has no timespec is as good as for ever.
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
            read: Box::new(SocketRead(self.fd.clone())),
            write: Box::new(SocketWrite {
                fd: self.fd.clone(),
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
        Socket::set_nodelay(self, nodelay)
    }
}

impl ShutdownHandle for Socket {
    fn shutdown(&self) {
        Socket::shutdown(self);
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

struct SocketRead(Arc<OwnedFd>);

impl Read for SocketRead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(recv(&self.0, buffer, RecvFlags::empty())?.1)
    }
}

impl ReadHalf for SocketRead {
    fn set_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let timeout = timeout.map(at_least_a_moment);
        Ok(set_socket_timeout(&self.0, Timeout::Recv, timeout)?)
    }
}

struct SocketWrite {
    fd: Arc<OwnedFd>,
    timeout: Option<Duration>,
}

impl Write for SocketWrite {
    /// Waits only while nothing at all is taken. (The system's own time-out would be waited for twice: by a
    /// call that has sent a part of its bytes, too, and then once more by the next one.)
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut stall = Stall::new(self.timeout);
        loop {
            match self.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
            let until = stall.next_attempt()?;
            wait_for(&mut [PollFd::new(&self.fd, PollFlags::OUT)], until)?;
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
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        Ok(send(&self.fd, bytes, flags)?)
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        Ok(shutdown(&self.fd, Shutdown::Write)?)
    }
}

/// The operating system takes a time-out of zero for ever.
fn at_least_a_moment(timeout: Duration) -> Duration {
    timeout.max(Duration::from_millis(1))
}
