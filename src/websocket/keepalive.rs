//! When to send a ping, and when to give the peer up.
//!
//! A peer is given up when nothing at all comes from it for as long as a pong may take. The pong itself
//! may be late: it cannot overtake what the peer had to send before it. (A peer that sends and does
//! not read is found by the write half's time-out.) Only time spent reading counts, so that a pause of
//! this side's own is not held against the peer.

use std::io;
use std::time::{Duration, Instant};

use crate::net::transport::ReadHalf;

/// How late an due may be: a read that is begun with this much less time left than the last one
/// keeps the time-out of that one, which saves a system call.
const MAX_LATE: Duration = Duration::from_millis(50);

pub(crate) struct Keepalive {
    interval: Option<Duration>,
    timeout: Option<Duration>,
    /// Reading time left until the next due.
    left: Option<Duration>,
    /// Whether a ping has not been answered.
    awaited: bool,
    sent: u64,
    /// The time-out that the read half has.
    armed: Option<Duration>,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Ping([u8; 8]),
    /// No answer came in this time.
    Dead(Duration),
}

impl Keepalive {
    pub(crate) fn new(interval: Option<Duration>, timeout: Option<Duration>) -> Self {
        Keepalive {
            interval,
            timeout,
            left: interval,
            awaited: false,
            sent: 0,
            armed: None,
        }
    }

    /// There will be no more alarms: from now on a read waits until the connection is cut.
    pub(crate) fn stop(&mut self, half: &mut dyn ReadHalf) -> io::Result<()> {
        *self = Keepalive::new(None, None);
        half.set_timeout(None)
    }

    /// Reads, for no longer than until the next due.
    pub(crate) fn watch(
        &mut self,
        half: &mut dyn ReadHalf,
        buffer: &mut [u8],
    ) -> io::Result<usize> {
        let Some(left) = self.left else {
            return half.read(buffer);
        };
        let late = (left / 8).min(MAX_LATE);
        let fits = |armed: Duration| armed >= left && armed - left <= late;
        if !self.armed.is_some_and(fits) {
            half.set_timeout(Some(left))?;
            self.armed = Some(left);
        }
        let before = Instant::now();
        let read = half.read(buffer);
        self.left = match (&read, self.timeout) {
            (Ok(1..), Some(timeout)) if self.awaited => Some(timeout),
            _ => Some(left.saturating_sub(before.elapsed())),
        };
        read
    }

    /// The ping has been answered.
    pub(crate) fn answered(&mut self) {
        self.awaited = false;
        self.left = self.interval;
    }

    /// What is to be done now, if anything. `written` tells for how long the last ping has been
    /// written; one that waits behind a long message has not.
    pub(crate) fn due(&mut self, written: impl FnOnce() -> Option<Duration>) -> Option<Due> {
        // A read may return a little before its time is over.
        if self.left? > Duration::from_micros(500) {
            return None;
        }
        if let (true, Some(timeout)) = (self.awaited, self.timeout) {
            let waited = written().unwrap_or_default();
            if waited >= timeout {
                return Some(Due::Dead(timeout));
            }
            self.left = Some(timeout - waited);
            return None;
        }
        self.sent += 1;
        self.awaited = true;
        self.left = self.timeout.or(self.interval);
        Some(Due::Ping(self.sent.to_be_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    /// A peer that says nothing, and a note of each time-out that was set.
    struct Silent(Option<Duration>, usize);

    impl Read for Silent {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            std::thread::park_timeout(self.0.unwrap());
            Err(io::ErrorKind::WouldBlock.into())
        }
    }

    impl ReadHalf for Silent {
        fn set_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
            self.0 = timeout;
            self.1 += 1;
            Ok(())
        }
    }

    const TICK: Duration = Duration::from_millis(5);

    fn next_alarm(keepalive: &mut Keepalive, half: &mut Silent) -> Due {
        loop {
            let _ = keepalive.watch(half, &mut []);
            if let Some(due) = keepalive.due(|| Some(TICK)) {
                return due;
            }
        }
    }

    #[test]
    fn a_silent_peer_is_pinged_once_and_then_dead() {
        let mut keepalive = Keepalive::new(Some(TICK), Some(TICK));
        let mut half = Silent(None, 0);
        let ping = next_alarm(&mut keepalive, &mut half);
        assert_eq!(ping, Due::Ping(1u64.to_be_bytes()));
        assert_eq!(next_alarm(&mut keepalive, &mut half), Due::Dead(TICK));
    }

    #[test]
    fn a_ping_that_is_not_written_yet_is_not_missed() {
        let mut keepalive = Keepalive::new(Some(TICK), Some(TICK));
        let mut half = Silent(None, 0);
        next_alarm(&mut keepalive, &mut half);
        for _ in 0..3 {
            let _ = keepalive.watch(&mut half, &mut []);
            assert_eq!(keepalive.due(|| None), None);
        }
        assert_eq!(next_alarm(&mut keepalive, &mut half), Due::Dead(TICK));
    }

    #[test]
    fn whatever_comes_is_a_sign_of_life() {
        struct Talking(Silent);
        impl Read for Talking {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                std::thread::park_timeout(TICK / 2);
                Ok(1)
            }
        }
        impl ReadHalf for Talking {
            fn set_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
                self.0.set_timeout(timeout)
            }
        }
        let mut keepalive = Keepalive::new(Some(TICK), Some(TICK));
        let mut half = Talking(Silent(None, 0));
        next_alarm(&mut keepalive, &mut half.0);
        for _ in 0..20 {
            keepalive.watch(&mut half, &mut []).unwrap();
            assert_eq!(keepalive.due(|| Some(TICK)), None);
        }
        assert_eq!(next_alarm(&mut keepalive, &mut half.0), Due::Dead(TICK));
    }

    #[test]
    fn an_answer_begins_the_next_interval() {
        let mut keepalive = Keepalive::new(Some(TICK), Some(TICK));
        let mut half = Silent(None, 0);
        next_alarm(&mut keepalive, &mut half);
        keepalive.answered();
        let second = next_alarm(&mut keepalive, &mut half);
        assert_eq!(second, Due::Ping(2u64.to_be_bytes()));
    }

    #[test]
    fn without_a_timeout_a_silent_peer_is_only_pinged() {
        let mut keepalive = Keepalive::new(Some(TICK), None);
        let mut half = Silent(None, 0);
        for n in 1u64..4 {
            let ping = next_alarm(&mut keepalive, &mut half);
            assert_eq!(ping, Due::Ping(n.to_be_bytes()));
        }
    }

    #[test]
    fn reads_in_quick_succession_share_one_time_out() {
        struct Quick(usize);
        impl Read for Quick {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Ok(1)
            }
        }
        impl ReadHalf for Quick {
            fn set_timeout(&mut self, _: Option<Duration>) -> io::Result<()> {
                self.0 += 1;
                Ok(())
            }
        }
        let hour = Some(Duration::from_secs(3600));
        let mut keepalive = Keepalive::new(hour, hour);
        let mut half = Quick(0);
        for _ in 0..100 {
            keepalive.watch(&mut half, &mut []).unwrap();
        }
        assert_eq!(half.0, 1);
    }
}
