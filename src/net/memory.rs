//! A connection in memory: two transports, each the peer of the other.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::transport::{Halves, ReadHalf, ShutdownHandle, WriteHalf};

/// The capacity of one direction, in bytes. It stands for a socket's buffers.
const CAPACITY: usize = 64 << 10;

/// One direction of the connection.
#[derive(Default)]
struct Pipe {
    /// Locked only while bytes are copied in or out. Nothing is called under the lock.
    state: Mutex<State>,
    /// Notified of every change. A wait ends when there are bytes or space, when either end is
    /// dropped, on shutdown, or at its own deadline.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    bytes: VecDeque<u8>,
    /// Nothing more will be written. The reader reads the rest and then the end of the stream.
    finished: bool,
    /// The reader is gone, so writing fails.
    abandoned: bool,
}

/// Returns the two ends of a connection.
pub(crate) fn pair() -> (Halves, Halves) {
    let (forth, back) = (Arc::<Pipe>::default(), Arc::<Pipe>::default());
    (end(&forth, &back), end(&back, &forth))
}

fn end(out: &Arc<Pipe>, incoming: &Arc<Pipe>) -> Halves {
    Halves {
        read: Box::new(MemoryRead {
            pipe: incoming.clone(),
            timeout: None,
        }),
        write: Box::new(MemoryWrite {
            pipe: out.clone(),
            timeout: None,
        }),
        shutdown: Arc::new(MemoryShutdown([out.clone(), incoming.clone()])),
    }
}

impl Pipe {
    /// Waits until `ready` returns a value. Returns `WouldBlock` at the deadline.
    fn wait<R>(
        &self,
        timeout: Option<Duration>,
        mut ready: impl FnMut(&mut State) -> Option<R>,
    ) -> io::Result<R> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut state = self.state.lock();
        loop {
            if let Some(result) = ready(&mut state) {
                drop(state);
                self.changed.notify_all();
                return Ok(result);
            }
            match deadline {
                None => self.changed.wait(&mut state),
                Some(deadline) if Instant::now() >= deadline => {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Some(deadline) => drop(self.changed.wait_until(&mut state, deadline)),
            }
        }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock());
        self.changed.notify_all();
    }

    fn write(&self, bytes: &[u8], timeout: Option<Duration>) -> io::Result<usize> {
        self.wait(timeout, |state| {
            if state.finished || state.abandoned {
                return Some(Err(io::ErrorKind::BrokenPipe.into()));
            }
            let space = CAPACITY - state.bytes.len();
            let fits = space.min(bytes.len());
            state.bytes.extend(&bytes[..fits]);
            (fits > 0 || bytes.is_empty()).then_some(Ok(fits))
        })?
    }
}

struct MemoryRead {
    pipe: Arc<Pipe>,
    timeout: Option<Duration>,
}

impl Read for MemoryRead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.pipe.wait(self.timeout, |state| {
            if state.bytes.is_empty() {
                return (state.finished || state.abandoned).then_some(0);
            }
            let (front, _) = state.bytes.as_slices();
            let n = front.len().min(buffer.len());
            buffer[..n].copy_from_slice(&front[..n]);
            state.bytes.drain(..n);
            Some(n)
        })
    }
}

impl ReadHalf for MemoryRead {
    fn set_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.timeout = timeout;
        Ok(())
    }
}

impl Drop for MemoryRead {
    fn drop(&mut self) {
        self.pipe.change(|state| state.abandoned = true);
    }
}

struct MemoryWrite {
    pipe: Arc<Pipe>,
    timeout: Option<Duration>,
}

impl Write for MemoryWrite {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.pipe.write(bytes, self.timeout)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl WriteHalf for MemoryWrite {
    fn set_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.timeout = timeout;
        Ok(())
    }

    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.pipe.write(bytes, Some(Duration::ZERO))
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        self.pipe.change(|state| state.finished = true);
        Ok(())
    }
}

impl Drop for MemoryWrite {
    fn drop(&mut self) {
        self.pipe.change(|state| state.finished = true);
    }
}

struct MemoryShutdown([Arc<Pipe>; 2]);

impl ShutdownHandle for MemoryShutdown {
    fn shutdown(&self) {
        for pipe in &self.0 {
            pipe.change(|state| state.finished = true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    const MOMENT: Option<Duration> = Some(Duration::from_millis(1));

    #[test]
    fn the_end_of_the_stream_follows_the_bytes() {
        let (a, mut b) = pair();
        let Halves { mut write, .. } = a;
        write.write_all(b"hello").unwrap();
        write.shutdown_write().unwrap();
        let mut read = String::new();
        b.read.read_to_string(&mut read).unwrap();
        assert_eq!(read, "hello");
        assert!(write.write(b"more").is_err());
    }

    #[test]
    fn a_full_pipe_accepts_bytes_again_after_a_read() {
        let (mut a, mut b) = pair();
        while a.write.try_write(&[0; 1000]).is_ok() {}
        a.write.set_timeout(MOMENT).unwrap();
        let error = a.write.write(&[0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        assert!(b.read.read(&mut [0; 10]).unwrap() > 0);
        assert!(a.write.try_write(&[0; 1000]).unwrap() > 0);
    }

    #[test]
    fn a_read_ends_at_its_timeout() {
        let (mut a, _b) = pair();
        a.read.set_timeout(MOMENT).unwrap();
        let error = a.read.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_shutdown_ends_the_waits_of_both_sides() {
        let (mut a, mut b) = pair();
        while a.write.try_write(&[0; 1000]).is_ok() {}
        let handle = a.shutdown.clone();
        let writing = thread::spawn(move || a.write.write(&[0]));
        let reading = thread::spawn(move || a.read.read(&mut [0]));
        handle.shutdown();
        assert!(writing.join().unwrap().is_err());
        assert_eq!(reading.join().unwrap().unwrap(), 0);
        // The peer can still read what was written before.
        assert!(b.read.read(&mut [0; 10]).unwrap() > 0);
        assert!(b.write.write(&[0]).is_err());
    }
}
