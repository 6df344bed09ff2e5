//! Guards a user's own transport. If it panics, its connection fails and nothing else does.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::transport::{Halves, ReadHalf, ShutdownHandle, Transport, WriteHalf};
use crate::panics::{Guarded, Panicked, catch_panic};

/// Wraps a transport so that its callers need not expect a panic.
pub(crate) fn guard(transport: impl Transport) -> Box<dyn Transport> {
    let transport: Box<dyn Transport> = Box::new(transport);
    Box::new(Guard::default().of(transport))
}

/// The first panic in any part of a transport. After it, no part is called.
#[derive(Clone, Default)]
struct Guard {
    panic: Arc<OnceLock<String>>,
}

impl Guard {
    fn call<R>(&self, f: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
        match self.panic.get() {
            Some(text) => Err(panicked(text)),
            None => self.call_always(f),
        }
    }

    fn call_always<R>(&self, f: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
        catch_panic(f).unwrap_or_else(|text| {
            let text = self.panic.get_or_init(|| text);
            Err(panicked(text))
        })
    }

    fn of<P>(self, part: P) -> Foreign<P> {
        Foreign {
            guard: self,
            part: Guarded::new(part),
        }
    }

    fn call_or<R>(&self, f: impl FnOnce() -> R, default: R) -> R {
        self.call(|| Ok(f())).unwrap_or(default)
    }
}

/// A transport, or a part of one.
struct Foreign<P> {
    guard: Guard,
    part: Guarded<P>,
}

impl<P> Foreign<P> {
    fn call<R>(&mut self, f: impl FnOnce(&mut P) -> io::Result<R>) -> io::Result<R> {
        let part = &mut *self.part;
        self.guard.call(|| f(part))
    }
}

impl Transport for Foreign<Box<dyn Transport>> {
    fn split(self: Box<Self>) -> io::Result<Halves> {
        let Foreign { guard, part } = *self;
        let Halves {
            read,
            write,
            shutdown,
        } = guard.call(|| part.into_inner().split())?;
        Ok(Halves {
            read: Box::new(guard.clone().of(read)),
            write: Box::new(guard.clone().of(write)),
            shutdown: Arc::new(guard.of(shutdown)),
        })
    }

    fn peer_addr(&self) -> Option<SocketAddr> {
        self.guard.call_or(|| self.part.peer_addr(), None)
    }

    fn local_addr(&self) -> Option<SocketAddr> {
        self.guard.call_or(|| self.part.local_addr(), None)
    }

    fn is_encrypted(&self) -> bool {
        self.guard.call_or(|| self.part.is_encrypted(), false)
    }

    fn set_nodelay(&mut self, nodelay: bool) -> io::Result<()> {
        self.call(|transport| transport.set_nodelay(nodelay))
    }
}

impl Read for Foreign<Box<dyn ReadHalf>> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.call(|half| half.read(buffer))
    }
}

impl ReadHalf for Foreign<Box<dyn ReadHalf>> {
    fn set_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.call(|half| half.set_timeout(timeout))
    }
}

impl Write for Foreign<Box<dyn WriteHalf>> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.call(|half| half.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.call(|half| half.flush())
    }
}

impl WriteHalf for Foreign<Box<dyn WriteHalf>> {
    fn set_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.call(|half| half.set_timeout(timeout))
    }

    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.call(|half| half.try_write(bytes))
    }

    fn try_flush(&mut self) -> io::Result<()> {
        self.call(|half| half.try_flush())
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        self.call(|half| half.shutdown_write())
    }
}

impl ShutdownHandle for Foreign<Arc<dyn ShutdownHandle>> {
    /// Is called even after another part has panicked, because a thread may still be blocked in a
    /// half.
    fn shutdown(&self) {
        let shutdown = || {
            self.part.shutdown();
            Ok(())
        };
        if let Err(error) = self.guard.call_always(shutdown) {
            crate::logging::error!("a connection cannot be shut down: {error}");
        }
    }
}

fn panicked(text: &str) -> io::Error {
    io::Error::other(Panicked(format!("the transport panicked: {text}")))
}
