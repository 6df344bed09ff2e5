//! The limit for the time in which the peer accepts no bytes.
//!
//! poll(2) reports a socket as writable when about a third of its buffer is free. A slow peer may
//! read for a long time before that, so only an attempt to write tells a slow peer from one that is
//! gone. A single attempt at the end of the time is not enough: it finds the space that the peer
//! made at the beginning and takes it for activity at the end, so that an unplugged cable is
//! noticed after twice the time (libwebsockets 1223). Therefore a write is attempted after each
//! part of the time. What it finds is no older than one part.

use std::io;
use std::time::{Duration, Instant};

use crate::deadline::after;

/// The number of parts. A peer that is gone is noticed at most one part late.
const PARTS: u32 = 16;

/// The time for which one call may wait for the peer to accept bytes. The clock is first read at
/// the first wait.
pub(crate) struct Stall {
    timeout: Option<Duration>,
    /// The end of the time that began with the first wait.
    deadline: Option<Instant>,
}

impl Stall {
    /// Starts a new limit. `None` is no limit.
    pub(crate) fn new(timeout: Option<Duration>) -> Self {
        Stall {
            timeout,
            deadline: None,
        }
    }

    /// Returns when to attempt the next write, after the peer accepted nothing. `None` is when the
    /// socket becomes writable.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if the time is over.
    pub(crate) fn next_attempt(&mut self) -> io::Result<Option<Instant>> {
        let Some(timeout) = self.timeout else {
            return Ok(None);
        };
        let now = Instant::now();
        let deadline = *self.deadline.get_or_insert_with(|| after(now, timeout));
        match now < deadline {
            true => Ok(Some(deadline.min(after(now, timeout / PARTS)))),
            false => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}
