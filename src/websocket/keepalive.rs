//! When to send a ping, and when the connection fails because the peer does not answer, or sends no
//! message.
//!
//! The connection fails if the peer sends nothing at all for `ping_timeout` after a ping. The pong
//! itself may be later, because it cannot overtake what the peer sent before it. (The timeout of
//! the write half detects a peer that sends but does not read.) Only time spent reading counts, so
//! that the peer is not blamed for a pause of this side.

use std::io;
use std::time::{Duration, Instant};

use crate::net::transport::ReadHalf;

/// The maximum delay of a [`Due`]. A read keeps the timeout of the previous read if this delays it
/// by no more, which saves a system call.
const MAX_LATE: Duration = Duration::from_millis(50);

pub(crate) struct Keepalive {
    interval: Option<Duration>,
    timeout: Option<Duration>,
    receive_timeout: Option<Duration>,
    /// The reading time that is left until the next ping, or until a ping times out.
    left: Option<Duration>,
    /// The reading time that is left until the next message has to have arrived.
    message_left: Option<Duration>,
    /// Whether a ping is unanswered.
    awaited: bool,
    /// The number of pings sent.
    sent: u64,
    /// The timeout that is set on the read half.
    half_timeout: Option<Duration>,
}

/// What has to be done now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// A ping with this payload has to be sent.
    Ping([u8; 8]),
    /// The peer has sent nothing for this long after a ping.
    TimedOut(Duration),
    /// No message has arrived for this long.
    NoMessage(Duration),
}

impl Keepalive {
    pub(crate) fn new(
        interval: Option<Duration>,
        timeout: Option<Duration>,
        receive_timeout: Option<Duration>,
    ) -> Self {
        Keepalive {
            interval,
            timeout,
            receive_timeout,
            left: interval,
            message_left: receive_timeout,
            awaited: false,
            sent: 0,
            half_timeout: None,
        }
    }

    /// Ends all timeouts. From now on, a read waits until the connection is shut down.
    pub(crate) fn stop(&mut self, half: &mut dyn ReadHalf) -> io::Result<()> {
        *self = Keepalive::new(None, None, None);
        half.set_timeout(None)
    }

    /// Reads, and waits until the next [`Due`] at the latest.
    pub(crate) fn watch(
        &mut self,
        half: &mut dyn ReadHalf,
        buffer: &mut [u8],
    ) -> io::Result<usize> {
        let Some(left) = self.left.into_iter().chain(self.message_left).min() else {
            return half.read(buffer);
        };
        let late = (left / 8).min(MAX_LATE);
        let fits = |timeout: Duration| timeout >= left && timeout - left <= late;
        if !self.half_timeout.is_some_and(fits) {
            half.set_timeout(Some(left))?;
            self.half_timeout = Some(left);
        }
        let before = Instant::now();
        let read = half.read(buffer);
        let elapsed = before.elapsed();
        let reduce = |left: Option<Duration>| left.map(|left| left.saturating_sub(elapsed));
        self.left = match (&read, self.timeout) {
            (Ok(1..), Some(timeout)) if self.awaited => Some(timeout),
            _ => reduce(self.left),
        };
        self.message_left = reduce(self.message_left);
        read
    }

    /// Notes that a message has arrived.
    pub(crate) fn message_arrived(&mut self) {
        self.message_left = self.receive_timeout;
    }

    /// Notes that the ping has been answered.
    pub(crate) fn answered(&mut self) {
        self.awaited = false;
        self.left = self.interval;
    }

    /// Returns what has to be done now, if anything. `written` returns the time since the last ping
    /// was written, or `None` if it still waits behind a long message.
    pub(crate) fn due(&mut self, written: impl FnOnce() -> Option<Duration>) -> Option<Due> {
        // A read may return shortly before its timeout.
        let is_over = |left: Duration| left <= Duration::from_micros(500);
        if self.message_left.is_some_and(is_over) {
            return self.receive_timeout.map(Due::NoMessage);
        }
        if !is_over(self.left?) {
            return None;
        }
        if let (true, Some(timeout)) = (self.awaited, self.timeout) {
            let waited = written().unwrap_or_default();
            if waited >= timeout {
                return Some(Due::TimedOut(timeout));
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

    /// A peer that sends nothing. Stores the timeout, and counts how often it was set.
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

    fn next_due(keepalive: &mut Keepalive, half: &mut Silent) -> Due {
        loop {
            let _ = keepalive.watch(half, &mut []);
            if let Some(due) = keepalive.due(|| Some(TICK)) {
                return due;
            }
        }
    }

    #[test]
    fn a_silent_peer_is_pinged_once_and_then_dead() {
        let mut keepalive = Keepalive::new(Some(TICK), Some(TICK), None);
        let mut half = Silent(None, 0);
        let ping = next_due(&mut keepalive, &mut half);
        assert_eq!(ping, Due::Ping(1u64.to_be_bytes()));
        assert_eq!(next_due(&mut keepalive, &mut half), Due::TimedOut(TICK));
    }

    #[test]
    fn the_timeout_of_a_ping_starts_when_it_is_written() {
        let mut keepalive = Keepalive::new(Some(TICK), Some(TICK), None);
        let mut half = Silent(None, 0);
        next_due(&mut keepalive, &mut half);
        for _ in 0..3 {
            let _ = keepalive.watch(&mut half, &mut []);
            assert_eq!(keepalive.due(|| None), None);
        }
        assert_eq!(next_due(&mut keepalive, &mut half), Due::TimedOut(TICK));
    }

    #[test]
    fn any_received_byte_restarts_the_timeout() {
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
        let mut keepalive = Keepalive::new(Some(TICK), Some(TICK), None);
        let mut half = Talking(Silent(None, 0));
        next_due(&mut keepalive, &mut half.0);
        for _ in 0..20 {
            keepalive.watch(&mut half, &mut []).unwrap();
            assert_eq!(keepalive.due(|| Some(TICK)), None);
        }
        assert_eq!(next_due(&mut keepalive, &mut half.0), Due::TimedOut(TICK));
    }

    #[test]
    fn a_pong_starts_the_next_interval() {
        let mut keepalive = Keepalive::new(Some(TICK), Some(TICK), None);
        let mut half = Silent(None, 0);
        next_due(&mut keepalive, &mut half);
        keepalive.answered();
        let second = next_due(&mut keepalive, &mut half);
        assert_eq!(second, Due::Ping(2u64.to_be_bytes()));
    }

    #[test]
    fn without_a_timeout_a_silent_peer_is_only_pinged() {
        let mut keepalive = Keepalive::new(Some(TICK), None, None);
        let mut half = Silent(None, 0);
        for n in 1u64..4 {
            let ping = next_due(&mut keepalive, &mut half);
            assert_eq!(ping, Due::Ping(n.to_be_bytes()));
        }
    }

    #[test]
    fn a_peer_that_sends_no_message_is_noticed_although_it_answers_pings() {
        let mut keepalive = Keepalive::new(Some(TICK), Some(TICK), Some(4 * TICK));
        let mut half = Silent(None, 0);
        loop {
            match next_due(&mut keepalive, &mut half) {
                Due::Ping(_) => keepalive.answered(),
                other => return assert_eq!(other, Due::NoMessage(4 * TICK)),
            }
        }
    }

    #[test]
    fn a_message_restarts_the_receive_timeout() {
        let mut keepalive = Keepalive::new(None, None, Some(TICK));
        let mut half = Silent(None, 0);
        let _ = keepalive.watch(&mut half, &mut []);
        assert!(keepalive.message_left < Some(TICK));
        keepalive.message_arrived();
        assert_eq!(keepalive.message_left, Some(TICK));
        assert_eq!(keepalive.due(|| None), None);
        assert_eq!(next_due(&mut keepalive, &mut half), Due::NoMessage(TICK));
    }

    #[test]
    fn reads_in_quick_succession_share_one_timeout() {
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
        let mut keepalive = Keepalive::new(hour, hour, None);
        let mut half = Quick(0);
        for _ in 0..100 {
            keepalive.watch(&mut half, &mut []).unwrap();
        }
        assert_eq!(half.0, 1);
    }
}
