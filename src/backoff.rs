//! The waits between attempts to connect.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

use crate::error::{Error, Result};

/// How long a client waits between two attempts to connect.
///
/// [`Options::reconnect`](crate::Options::reconnect) takes it. The first wait takes
/// [`initial`](Self::initial), and each further wait takes [`factor`](Self::factor) times as long
/// as the previous one, up to [`max`](Self::max). A random part of each wait, up to
/// [`jitter`](Self::jitter), is left out, so that the clients of a restarting server do not all
/// reconnect at the same time. After a connection that lasted at least as long as the next wait,
/// the waits start with `initial` again.
///
/// [`Options::connect`](crate::Options::connect) checks the values. It returns
/// [`Error::InvalidOption`] for those that cannot work.
///
/// # Examples
///
/// ```
/// use rtcbot_websocket::{Backoff, Options};
/// use std::time::Duration;
///
/// let backoff = Backoff::new().max(Duration::from_secs(1));
/// let options = Options::new().reconnect(backoff);
/// ```
#[must_use = "the waits have no effect until `Options::reconnect` takes them"]
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
    factor: f64,
    jitter: f64,
    pub(crate) until_closed: bool,
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff {
            initial: Duration::from_millis(100),
            max: Duration::from_secs(10),
            factor: 2.0,
            jitter: 0.5,
            until_closed: false,
        }
    }
}

impl Backoff {
    /// Returns the default waits.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the first wait. It must not be zero.
    ///
    /// Defaults to 100 milliseconds.
    pub fn initial(mut self, wait: Duration) -> Self {
        self.initial = wait;
        self
    }

    /// Sets the longest wait. It must not be shorter than [`initial`](Self::initial).
    ///
    /// Defaults to 10 seconds.
    pub fn max(mut self, wait: Duration) -> Self {
        self.max = wait;
        self
    }

    /// Sets the ratio of each wait to the previous one. It must be at least 1, and finite.
    ///
    /// Defaults to 2.
    pub fn factor(mut self, factor: f64) -> Self {
        self.factor = factor;
        self
    }

    /// Sets the maximum part of a wait that is left out at random, from 0 to 1.
    ///
    /// Defaults to 0.5: a wait of 10 seconds takes 5 to 10 seconds.
    pub fn jitter(mut self, part: f64) -> Self {
        self.jitter = part;
        self
    }

    /// Makes the client connect again after every end of a connection, until this program closes.
    ///
    /// By default, it does so after [transient](crate::Error::is_transient) errors only.
    /// [`Options::reconnect_if`](crate::Options::reconnect_if) takes precedence.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use rtcbot_websocket::{Backoff, Options};
    ///
    /// let backoff = Backoff::new().until_closed();
    /// let ws = Options::new().reconnect(backoff).connect("ws://robot.local:8080/drive")?;
    /// # Ok::<(), rtcbot_websocket::Error>(())
    /// ```
    pub fn until_closed(mut self) -> Self {
        self.until_closed = true;
        self
    }

    pub(crate) fn check(&self) -> Result<()> {
        let wrong = if self.initial.is_zero() {
            "the initial wait is zero, so there would be no pause between attempts"
        } else if self.max < self.initial {
            "the longest wait is shorter than the first"
        } else if !(self.factor >= 1.0 && self.factor.is_finite()) {
            "the factor is less than 1, or not a finite number"
        } else if !(0.0..=1.0).contains(&self.jitter) {
            "the jitter is not between 0 and 1"
        } else {
            return Ok(());
        };
        Err(Error::invalid_option("reconnect", wrong))
    }
}

/// The next waits of one client.
#[derive(Debug, Clone)]
pub(crate) struct Schedule {
    backoff: Backoff,
    next: Duration,
}

impl Schedule {
    pub(crate) fn new(backoff: Backoff) -> Self {
        Schedule {
            backoff,
            next: backoff.initial,
        }
    }

    /// Notes the end of a connection that was ready for this time.
    pub(crate) fn lasted(&mut self, time: Duration) {
        if time >= self.next {
            self.next = self.backoff.initial;
        }
    }

    /// Returns how long to wait now. `chance` is a random number from 0 to 1.
    pub(crate) fn wait(&mut self, chance: f64) -> Duration {
        let wait = self.next;
        let longer = wait.as_secs_f64() * self.backoff.factor;
        // The wait may exceed the range of `Duration`.
        let longer = Duration::try_from_secs_f64(longer).unwrap_or(Duration::MAX);
        self.next = longer.min(self.backoff.max);
        let kept = wait.as_secs_f64() * (1.0 - self.backoff.jitter * chance);
        Duration::try_from_secs_f64(kept).unwrap_or(wait)
    }
}

/// Returns a random number from 0 to 1.
pub(crate) fn chance() -> f64 {
    // Each `RandomState` has its own random keys. std has no other source of randomness.
    let random = RandomState::new().build_hasher().finish();
    (random >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn backoff() -> Backoff {
        Backoff::new()
            .initial(100 * MS)
            .max(1000 * MS)
            .factor(3.0)
            .jitter(0.5)
    }

    #[test]
    fn waits_grow_up_to_the_longest() {
        let mut schedule = Schedule::new(backoff());
        let waits = [(); 5].map(|()| schedule.wait(0.0));
        assert_eq!(waits, [100, 300, 900, 1000, 1000].map(|n| n * MS));
    }

    #[test]
    fn chance_shortens_waits_by_up_to_the_jitter() {
        let mut schedule = Schedule::new(backoff());
        assert_eq!(schedule.wait(1.0), 50 * MS);
        assert_eq!(schedule.wait(0.5), 225 * MS);
        for _ in 0..1000 {
            assert!((0.0..1.0).contains(&chance()));
        }
        assert_ne!(chance(), chance());
    }

    #[test]
    fn only_a_connection_that_lasted_resets_the_waits() {
        let mut schedule = Schedule::new(backoff());
        schedule.wait(0.0);
        schedule.lasted(299 * MS);
        assert_eq!(schedule.wait(0.0), 300 * MS);
        schedule.lasted(900 * MS);
        assert_eq!(schedule.wait(0.0), 100 * MS);
    }

    #[test]
    fn a_wait_that_exceeds_the_range_of_a_duration_is_the_longest() {
        let mut schedule = Schedule::new(backoff().max(Duration::MAX).factor(f64::MAX));
        schedule.wait(0.0);
        assert_eq!(schedule.next, Duration::MAX);
        assert!(schedule.wait(1.0) > Duration::ZERO);
    }

    #[test]
    fn invalid_settings_are_rejected() {
        assert!(backoff().check().is_ok() && Backoff::default().check().is_ok());
        let zero = backoff().initial(Duration::ZERO);
        let short = backoff().max(99 * MS);
        let shrinking = [0.5, f64::NAN, f64::INFINITY].map(|factor| backoff().factor(factor));
        let jittery = [-0.1, 1.1, f64::NAN].map(|jitter| backoff().jitter(jitter));
        for wrong in [zero, short].into_iter().chain(shrinking).chain(jittery) {
            assert!(wrong.check().is_err(), "{wrong:?}");
        }
    }
}
