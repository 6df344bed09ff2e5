//! How long the peer may take nothing.
//!
//! poll(2) says that there is room when about a third of a socket's buffer is free. A slow peer may take
//! for long before that, so only an attempt to write tells it from one that is gone. An attempt at the end
//! of the time alone would find room that the peer made at its beginning, and count it as a sign of life
//! at its end: a cable that is pulled was noticed after twice the time (libwebsockets 1223). So there is
//! an attempt after each part of the time, and what it finds is no older than that part.

use std::io;
use std::time::{Duration, Instant};

/// In how many parts the time is waited for. A peer that is gone is noticed at most one part late.
const PARTS: u32 = 16;

/// The time for which one call may wait for the peer to take something. The clock is not looked at before the
/// first wait.
pub(crate) struct Stall {
    timeout: Option<Duration>,
    /// When the time is over that began with the first wait; `Some(None)` is never.
    over: Option<Option<Instant>>,
}

impl Stall {
    /// `None` is for ever.
    pub(crate) fn new(timeout: Option<Duration>) -> Self {
        Stall {
            timeout,
            over: None,
        }
    }

    /// The peer took nothing: until when to wait before the next attempt. `None` is until there is room.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when the time is over.
    pub(crate) fn next_attempt(&mut self) -> io::Result<Option<Instant>> {
        let Some(timeout) = self.timeout else {
            return Ok(None);
        };
        let now = Instant::now();
        match *self.over.get_or_insert_with(|| now.checked_add(timeout)) {
            Some(over) if now >= over => Err(io::ErrorKind::WouldBlock.into()),
            Some(over) => Ok(Some(over.min(now + timeout / PARTS))),
            None => Ok(None),
        }
    }
}
