//! A connection in memory: two transports that are each other's peer.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::transport::{Halves, ReadHalf, ShutdownHandle, WriteHalf};

/// How many bytes one direction holds, as a socket's buffers would.
const CAPACITY: usize = 64 << 10;

/// One direction.
#[derive(Default)]
struct Pipe {
    /// Held to copy bytes in or out; nothing is called under it.
    state: Mutex<State>,
    /// Told of every change. Its waits end with bytes or room, with either end of the pipe, with
    /// `cut`, or by their own deadline.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    bytes: VecDeque<u8>,
    /// Nothing more will be written: what is there can be read, then the stream has ended.
    finished: bool,
    /// Nobody will read: writing is no use.
    abandoned: bool,
}

/// Two ends of one connection.
pub(crate) fn pair() -> (Halves, Halves) {
    let (there, back) = (Arc::<Pipe>::default(), Arc::<Pipe>::default());
    (end(&there, &back), end(&back, &there))
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
    /// Waits until `ready` says what to return; `WouldBlock` when the time is over.
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
            let room = CAPACITY - state.bytes.len();
            let fits = room.min(bytes.len());
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
    fn bytes_arrive_and_the_end_comes_after_them() {
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
    fn a_full_pipe_takes_no_more_until_it_is_read() {
        let (mut a, mut b) = pair();
        while a.write.try_write(&[0; 1000]).is_ok() {}
        a.write.set_timeout(MOMENT).unwrap();
        let error = a.write.write(&[0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        assert!(b.read.read(&mut [0; 10]).unwrap() > 0);
        assert!(a.write.try_write(&[0; 1000]).unwrap() > 0);
    }

    #[test]
    fn a_read_waits_no_longer_than_its_time_out() {
        let (mut a, _b) = pair();
        a.read.set_timeout(MOMENT).unwrap();
        let error = a.read.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_cut_ends_what_both_sides_wait_for() {
        let (mut a, mut b) = pair();
        while a.write.try_write(&[0; 1000]).is_ok() {}
        let handle = a.shutdown.clone();
        let writing = thread::spawn(move || a.write.write(&[0]));
        let reading = thread::spawn(move || a.read.read(&mut [0]));
        handle.shutdown();
        assert!(writing.join().unwrap().is_err());
        assert_eq!(reading.join().unwrap().unwrap(), 0);
        // What was written before can still be read there.
        assert!(b.read.read(&mut [0; 10]).unwrap() > 0);
        assert!(b.write.write(&[0]).is_err());
    }
}
