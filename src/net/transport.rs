//! The bytes of one connection: a half to read, a half to write, and a handle to shut both down.
//!
//! A [`Websocket`](crate::Websocket) runs over any [`Transport`]. There are implementations for
//! [`TcpStream`](std::net::TcpStream), [`UnixStream`](std::os::unix::net::UnixStream) and, with the
//! feature `native-tls`, `native_tls::TlsStream<TcpStream>`. For anything else, such as a serial
//! line or a tunnel, implement the trait yourself.
//!
//! An implementation must do three things:
//!
//! - A read waits until there is something to read.
//! - [`set_timeout`](ReadHalf::set_timeout) limits how long reads and writes wait.
//! - [`ShutdownHandle::shutdown`] ends reads and writes from another thread.
//!
//! The timeouts for connecting, closing and pings rely on these. Without them, this crate waits for
//! a silent peer as long as it is silent. Every other method has a default. A transport that wraps
//! another one must forward all methods: otherwise `wss` URLs do not work, and small messages are
//! not written on the calling thread.
//!
//! If a part panics, it is not called again, and its connection fails with
//! [`Error::Internal`](crate::Error::Internal). If [`ShutdownHandle::shutdown`] panics, a thread
//! that is blocked in a half stays blocked until a timeout.
//!
//! # Examples
//!
//!
//! ```
//! use rtcbot_websocket::transport::{ShutdownHandle, Halves, ReadHalf, Transport, WriteHalf};
//! use std::io::{self, Read, Write};
//! use std::net::{Shutdown, TcpStream};
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! /// A TCP connection, as an example of your own transport.
//! struct MyTransport(TcpStream);
//!
//! struct MyReadHalf(TcpStream);
//! struct MyWriteHalf(TcpStream);
//! struct MyShutdownHandle(TcpStream);
//!
//! impl Transport for MyTransport {
//!     fn split(self: Box<Self>) -> io::Result<Halves> {
//!         Ok(Halves {
//!             read: Box::new(MyReadHalf(self.0.try_clone()?)),
//!             write: Box::new(MyWriteHalf(self.0.try_clone()?)),
//!             shutdown: Arc::new(MyShutdownHandle(self.0)),
//!         })
//!     }
//! }
//!
//! impl Read for MyReadHalf {
//!     fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
//!         self.0.read(buffer)
//!     }
//! }
//!
//! impl ReadHalf for MyReadHalf {
//!     fn set_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
//!         // The operating system takes a zero for no timeout.
//!         self.0.set_read_timeout(timeout.map(|time| time.max(Duration::from_millis(1))))
//!     }
//! }
//!
//! impl Write for MyWriteHalf {
//!     fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
//!         self.0.write(bytes)
//!     }
//!
//!     fn flush(&mut self) -> io::Result<()> {
//!         Ok(())
//!     }
//! }
//!
//! impl WriteHalf for MyWriteHalf {
//!     fn set_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
//!         self.0.set_write_timeout(timeout.map(|time| time.max(Duration::from_millis(1))))
//!     }
//!
//!     fn shutdown_write(&mut self) -> io::Result<()> {
//!         self.0.shutdown(Shutdown::Write)
//!     }
//! }
//!
//! impl ShutdownHandle for MyShutdownHandle {
//!     fn shutdown(&self) {
//!         let _ = self.0.shutdown(Shutdown::Both);
//!     }
//! }
//! # use rtcbot_websocket::{Options, Server, Websocket};
//! # let mut server = Server::bind("127.0.0.1:0")?;
//! # let stream = TcpStream::connect(server.local_addr().unwrap())?;
//! # let ws = Options::new().connect_over(MyTransport(stream), "ws://robot/")?;
//! # let robot = Websocket::accept(server.next().unwrap());
//! # ws.put(1)?;
//! # assert_eq!(robot.get()?.as_json().unwrap(), 1);
//! # ws.close()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::fmt;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A connection that a [`Websocket`](crate::Websocket) can run over.
///
/// [`Options::connect_over`](crate::Options::connect_over) and
/// [`Request::from_parts`](crate::Request::from_parts) take one. The [module](self) has an example.
pub trait Transport: Send + 'static {
    /// Splits the connection into parts that different threads own.
    ///
    /// # Errors
    ///
    /// The operating system's error.
    fn split(self: Box<Self>) -> io::Result<Halves>;

    /// Returns the address of the peer, if the transport has addresses.
    ///
    /// Defaults to `None`.
    fn peer_addr(&self) -> Option<SocketAddr> {
        None
    }

    /// Returns the address of this side, if the transport has addresses.
    ///
    /// Defaults to `None`.
    fn local_addr(&self) -> Option<SocketAddr> {
        None
    }

    /// Returns whether the bytes are protected against being read or changed on the way, which a
    /// `wss` URL requires.
    ///
    /// Defaults to `false`.
    fn is_encrypted(&self) -> bool {
        false
    }

    /// Sets `TCP_NODELAY`, if the transport has such an option.
    ///
    /// Defaults to doing nothing.
    ///
    /// # Errors
    ///
    /// The operating system's error.
    fn set_nodelay(&mut self, _nodelay: bool) -> io::Result<()> {
        Ok(())
    }
}

/// The parts of a connection.
pub struct Halves {
    /// The receiving half, used by the reader thread.
    pub read: Box<dyn ReadHalf>,
    /// The sending half, used by the writer thread, or by a thread that puts a message while the
    /// writer thread is idle.
    pub write: Box<dyn WriteHalf>,
    /// The handle to shut both halves down, used by any thread.
    pub shutdown: Arc<dyn ShutdownHandle>,
}

impl fmt::Debug for Halves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Halves").finish_non_exhaustive()
    }
}

/// The receiving half of a connection.
///
/// A read returns the bytes that have arrived. If there are none, it waits. At the end of the
/// stream it returns 0.
pub trait ReadHalf: Read + Send {
    /// Sets how long a read may wait before it fails with [`WouldBlock`](io::ErrorKind::WouldBlock)
    /// or [`TimedOut`](io::ErrorKind::TimedOut).
    ///
    /// `None`, the initial state, is without limit.
    ///
    /// # Errors
    ///
    /// The operating system's error.
    fn set_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()>;
}

/// The sending half of a connection.
///
/// Bytes that a write has accepted may stay in the half's own buffer until it is flushed.
pub trait WriteHalf: Write + Send {
    /// Sets how long a write may wait for the peer to accept bytes before it fails with
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) or [`TimedOut`](io::ErrorKind::TimedOut).
    ///
    /// `None`, the initial state, is without limit.
    ///
    /// # Errors
    ///
    /// The operating system's error.
    fn set_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()>;

    /// Writes as many bytes as possible without waiting. The caller writes the others later, in
    /// order.
    ///
    /// Defaults to writing nothing, so that the writer thread writes everything.
    ///
    /// # Errors
    ///
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) if no byte can be written.
    fn try_write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// Flushes as much as possible without waiting.
    ///
    /// Defaults to doing nothing, which is right for a half without a buffer.
    ///
    /// # Errors
    ///
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) if some bytes could not be flushed.
    fn try_flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Ends the write direction: the peer reads the end of the stream. The peer can still send.
    ///
    /// # Errors
    ///
    /// The operating system's error.
    fn shutdown_write(&mut self) -> io::Result<()>;
}

/// A handle that shuts a connection down.
pub trait ShutdownHandle: Send + Sync {
    /// Shuts both halves down. A thread that is blocked in a half returns, and later calls do not
    /// block.
    ///
    /// This may be called more than once and on any thread, and must not wait.
    fn shutdown(&self);
}

/// Writes all bytes before `deadline`. Every `max_stall`, the peer must accept some. Leaves the
/// half without a timeout.
///
/// # Errors
///
/// `TimedOut` or `WouldBlock` if a limit is exceeded.
pub(crate) fn write_by(
    half: &mut dyn WriteHalf,
    mut bytes: &[u8],
    max_stall: Duration,
    deadline: Instant,
) -> io::Result<()> {
    loop {
        // Computed again each time: a peer that accepts a byte now and then must not extend the
        // deadline.
        let left = deadline.saturating_duration_since(Instant::now());
        half.set_timeout(Some(left.min(max_stall)))?;
        let written = match bytes.is_empty() {
            false => half.write(bytes),
            true => half.flush().map(|()| 0),
        };
        match written {
            Ok(0) if bytes.is_empty() => return half.set_timeout(None),
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                bytes = &bytes[n..];
                if bytes.is_empty() {
                    continue;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}

/// Reads before `deadline`.
///
/// # Errors
///
/// `TimedOut` or `WouldBlock` if the time is over.
pub(crate) fn read_by(
    half: &mut dyn ReadHalf,
    buffer: &mut [u8],
    deadline: Instant,
) -> io::Result<usize> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        half.set_timeout(Some(left))?;
        match half.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Returns whether a read or write failed because it would have waited, so that it may be repeated.
pub(crate) fn is_timeout(error: &io::Error) -> bool {
    match error.kind() {
        io::ErrorKind::WouldBlock => true,
        // With an OS error code it is `ETIMEDOUT`: the peer acknowledged no segment, and the
        // connection is lost. A socket's own timeout is `EAGAIN`.
        io::ErrorKind::TimedOut => error.raw_os_error().is_none(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_the_system_gave_up_is_lost() {
        let lost: io::Error = rustix::io::Errno::TIMEDOUT.into();
        assert_eq!(lost.kind(), io::ErrorKind::TimedOut);
        assert!(!is_timeout(&lost));
        let slow: io::Error = rustix::io::Errno::AGAIN.into();
        assert!(is_timeout(&slow));
        assert!(is_timeout(&io::ErrorKind::TimedOut.into()));
    }
    /// Accepts one byte per write, and waits before each as long as its timeout lets it.
    struct Trickle(Option<Duration>);

    impl Write for Trickle {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            self.flush()?;
            Ok(1)
        }

        fn flush(&mut self) -> io::Result<()> {
            std::thread::sleep(Duration::from_millis(5).min(self.0.unwrap()));
            Ok(())
        }
    }

    impl WriteHalf for Trickle {
        fn set_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
            self.0 = timeout;
            Ok(())
        }

        fn shutdown_write(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_slow_peer_does_not_extend_the_deadline() {
        let minute = Duration::from_secs(60);
        let start = Instant::now();
        let deadline = start + Duration::from_millis(100);
        let written = write_by(&mut Trickle(None), &[0; 100_000], minute, deadline);
        assert!(is_timeout(&written.unwrap_err()));
        assert!(start.elapsed() < minute);
    }

    #[test]
    fn bytes_accepted_without_waiting_are_written_after_the_deadline() {
        write_by(&mut Trickle(None), b"x", Duration::ZERO, Instant::now()).unwrap();
    }
}
