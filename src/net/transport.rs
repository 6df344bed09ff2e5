//! One connection's bytes: a half to read, a half to write, and a way to cut both.
//!
//! A [`Websocket`](crate::Websocket) runs over any [`Transport`]. There are implementations for
//! [`TcpStream`](std::net::TcpStream), [`UnixStream`](std::os::unix::net::UnixStream) and, with the
//! feature `native-tls`, `native_tls::TlsStream<TcpStream>`; for anything else, such as a serial line
//! or a tunnel, implement it yourself.
//!
//! What has to work is: a read waits for something to read, [`set_timeout`](ReadHalf::set_timeout) limits
//! how long reads and writes wait, and [`ShutdownHandle::cut`] ends them from another thread. On these rest the
//! time-outs for connecting, closing and pings: without them a silent peer is waited for as long as it is
//! silent. Everything else has a default; what wraps another transport passes it all on, or `wss` URLs and
//! the short way for small messages are lost.
//!
//! A part that panics is not called again: its connection fails with
//! [`Error::Internal`](crate::Error::Internal). (Where that is [`ShutdownHandle::cut`], whoever is blocked in
//! a half stays there until a time-out.)
//!
//! ```
//! use rtcbot_websocket::transport::{ShutdownHandle, Halves, ReadHalf, Transport, WriteHalf};
//! use std::io::{self, Read, Write};
//! use std::net::{Shutdown, TcpStream};
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! /// A TCP connection, as if it were something of one's own.
//! struct Mine(TcpStream);
//!
//! struct Incoming(TcpStream);
//! struct Outgoing(TcpStream);
//! struct End(TcpStream);
//!
//! impl Transport for Mine {
//!     fn split(self: Box<Self>) -> io::Result<Halves> {
//!         Ok(Halves {
//!             read: Box::new(Incoming(self.0.try_clone()?)),
//!             write: Box::new(Outgoing(self.0.try_clone()?)),
//!             shutdown: Arc::new(End(self.0)),
//!         })
//!     }
//! }
//!
//! impl Read for Incoming {
//!     fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
//!         self.0.read(buffer)
//!     }
//! }
//!
//! impl ReadHalf for Incoming {
//!     fn set_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
//!         // The operating system takes zero for ever.
//!         self.0.set_read_timeout(timeout.map(|time| time.max(Duration::from_millis(1))))
//!     }
//! }
//!
//! impl Write for Outgoing {
//!     fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
//!         self.0.write(bytes)
//!     }
//!
//!     fn flush(&mut self) -> io::Result<()> {
//!         Ok(())
//!     }
//! }
//!
//! impl WriteHalf for Outgoing {
//!     fn set_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
//!         self.0.set_write_timeout(timeout.map(|time| time.max(Duration::from_millis(1))))
//!     }
//!
//!     fn shutdown_write(&mut self) -> io::Result<()> {
//!         self.0.shutdown(Shutdown::Write)
//!     }
//! }
//!
//! impl ShutdownHandle for End {
//!     fn shutdown(&self) {
//!         let _ = self.0.shutdown(Shutdown::Both);
//!     }
//! }
//! # use rtcbot_websocket::{Options, Server, Websocket};
//! # let mut server = Server::bind("127.0.0.1:0")?;
//! # let stream = TcpStream::connect(server.local_addr().unwrap())?;
//! # let ws = Options::new().connect_over(Mine(stream), "ws://robot/")?;
//! # let robot = Websocket::accept(server.next().unwrap());
//! # ws.put(1)?;
//! # assert_eq!(robot.get()?.as_json().unwrap(), 1);
//! # ws.close()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A connection that a [`Websocket`](crate::Websocket) can run over: see
/// [`Options::connect_over`](crate::Options::connect_over) and
/// [`Request::from_parts`](crate::Request::from_parts).
pub trait Transport: Send + 'static {
    /// Takes the connection apart, into parts that different threads own.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    fn split(self: Box<Self>) -> io::Result<Halves>;

    /// The address at the other end, where there is such a thing. Defaults to `None`.
    fn peer_addr(&self) -> Option<SocketAddr> {
        None
    }

    /// The address at this end, where there is such a thing. Defaults to `None`.
    fn local_addr(&self) -> Option<SocketAddr> {
        None
    }

    /// Whether nobody on the way can read or change what is sent: a `wss` URL asks for that.
    /// Defaults to `false`.
    fn is_encrypted(&self) -> bool {
        false
    }

    /// `TCP_NODELAY`, where there is such a thing. Defaults to doing nothing.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    fn set_nodelay(&mut self, _nodelay: bool) -> io::Result<()> {
        Ok(())
    }
}

/// A connection in its parts.
pub struct Halves {
    /// Belongs to the reader thread.
    pub read: Box<dyn ReadHalf>,
    /// Belongs to the writer thread, or to a thread that puts a message while that sleeps.
    pub write: Box<dyn WriteHalf>,
    /// Used by any thread.
    pub shutdown: Arc<dyn ShutdownHandle>,
}

/// The receiving half of a connection. A read returns what is there, waits if nothing is, and
/// returns 0 at the end of the stream.
pub trait ReadHalf: Read + Send {
    /// How long a read may wait before it fails with [`WouldBlock`](io::ErrorKind::WouldBlock) or
    /// [`TimedOut`](io::ErrorKind::TimedOut); `None` is for ever, and how it begins.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    fn set_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()>;
}

/// The sending half of a connection. What a write has taken may wait in a buffer of its own until it
/// is flushed.
pub trait WriteHalf: Write + Send {
    /// How long a write may wait for the peer to take anything before it fails with
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) or [`TimedOut`](io::ErrorKind::TimedOut); `None` is
    /// for ever, and how it begins.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    fn set_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()>;

    /// Writes what can be written without waiting. What is not taken is written later, from its
    /// first byte on. By default nothing can, and all is written by the writer thread.
    ///
    /// # Errors
    ///
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) when that is nothing.
    fn try_write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// Flushes what can be flushed without waiting. Defaults to doing nothing, which is right where
    /// nothing is buffered.
    ///
    /// # Errors
    ///
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) when that is not all.
    fn try_flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Tells the peer that nothing more will be sent. What it sends can still be read.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    fn shutdown_write(&mut self) -> io::Result<()>;
}

/// Ends something that other threads wait for.
pub trait ShutdownHandle: Send + Sync {
    /// Ends it now: whoever is blocked in either half returns, and nobody will block in it again. It
    /// may be called more than once, on any thread, and does not wait.
    fn shutdown(&self);
}

/// Writes it all by `deadline`, as long as the peer takes something at least every `patience`.
///
/// # Errors
///
/// `TimedOut` or `WouldBlock` when the time is over.
pub(crate) fn write_by(
    half: &mut dyn WriteHalf,
    mut bytes: &[u8],
    patience: Duration,
    deadline: Instant,
) -> io::Result<()> {
    loop {
        // Anew each time: a peer that takes a byte now and then does not put the deadline off.
        let left = deadline.saturating_duration_since(Instant::now());
        half.set_timeout(Some(left.min(patience)))?;
        let written = match bytes.is_empty() {
            false => half.write(bytes),
            true => match half.flush() {
                Ok(()) => return Ok(()),
                Err(error) => Err(error),
            },
        };
        match written {
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

/// Whether a read or write failed for lack of time or room, and may be tried again.
pub(crate) fn is_timeout(error: &io::Error) -> bool {
    match error.kind() {
        io::ErrorKind::WouldBlock => true,
        // `ETIMEDOUT` is what becomes of a connection whose peer answers no segment: a socket's own time-out is
        // `EAGAIN`.
        io::ErrorKind::TimedOut => error.raw_os_error().is_none(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_the_system_has_given_up_is_not_tried_again() {
        let lost: io::Error = rustix::io::Errno::TIMEDOUT.into();
        assert_eq!(lost.kind(), io::ErrorKind::TimedOut);
        assert!(!is_timeout(&lost));
        let slow: io::Error = rustix::io::Errno::AGAIN.into();
        assert!(is_timeout(&slow));
        assert!(is_timeout(&io::ErrorKind::TimedOut.into()));
    }
    /// Takes a byte each time, until its patience is over.
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
    fn a_peer_that_takes_a_byte_now_and_then_does_not_put_the_deadline_off() {
        let minute = Duration::from_secs(60);
        let begun = Instant::now();
        let deadline = begun + Duration::from_millis(100);
        let written = write_by(&mut Trickle(None), &[0; 100_000], minute, deadline);
        assert!(is_timeout(&written.unwrap_err()));
        assert!(begun.elapsed() < minute);
    }

    #[test]
    fn what_is_taken_without_waiting_is_written_when_the_time_is_over_already() {
        write_by(&mut Trickle(None), b"x", Duration::ZERO, Instant::now()).unwrap();
    }
}
