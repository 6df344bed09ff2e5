//! When to try again.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

use crate::error::{Error, Result};

/// How long a client waits before it tries to connect again: see
/// [`Options::reconnect`](crate::Options::reconnect).
///
/// The first wait is `initial`, each further one `factor` times as long, up to `max`. Of each wait,
/// a random part of up to `jitter` is left out, so that the clients of a server that restarts do
/// not all come back at the same moment. After a connection that lasted longer than the wait that
/// would follow it, the waits begin with `initial` again.
///
/// ```
/// use rtcbot_websocket::Backoff;
/// use std::time::Duration;
///
/// let patient = Backoff { max: Duration::from_secs(60), ..Backoff::default() };
/// # let _ = patient;
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    /// The first wait. Defaults to 100 milliseconds; must not be zero.
    pub initial: Duration,
    /// The longest wait. Defaults to 10 seconds; not less than `initial`.
    pub max: Duration,
    /// How much longer each wait is than the one before. Defaults to 2; at least 1.
    pub factor: f64,
    /// Which part of a wait is left to chance, from 0 (none) to 1 (all). Defaults to 0.5: a wait of
    /// 10 s is one of 5 to 10 s.
    pub jitter: f64,
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff {
            initial: Duration::from_millis(100),
            max: Duration::from_secs(10),
            factor: 2.0,
            jitter: 0.5,
        }
    }
}

impl Backoff {
    pub(crate) fn check(&self) -> Result<()> {
        let wrong = if self.initial.is_zero() {
            "the initial wait is zero, so it would try again without a pause"
        } else if self.max < self.initial {
            "the longest wait is shorter than the first"
        } else if !(self.factor >= 1.0 && self.factor.is_finite()) {
            "the factor is less than 1, or no number"
        } else if !(0.0..=1.0).contains(&self.jitter) {
            "the jitter is not between 0 and 1"
        } else {
            return Ok(());
        };
        Err(Error::InvalidOption {
            setting: "reconnect",
            reason: wrong.to_owned(),
        })
    }
}

/// The waits between attempts to connect.
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

    /// A connection has ended that was ready for so long.
    pub(crate) fn lasted(&mut self, time: Duration) {
        if time >= self.next {
            self.next = self.backoff.initial;
        }
    }

    /// How long to wait now; `chance` is from 0 to 1.
    pub(crate) fn wait(&mut self, chance: f64) -> Duration {
        let wait = self.next;
        let longer = wait.as_secs_f64() * self.backoff.factor;
        // Compared as numbers: it may be more than a `Duration` can hold.
        self.next = match longer < self.backoff.max.as_secs_f64() {
            true => Duration::from_secs_f64(longer),
            false => self.backoff.max,
        };
        let kept = wait.as_secs_f64() * (1.0 - self.backoff.jitter * chance);
        Duration::try_from_secs_f64(kept).unwrap_or(wait)
    }
}

/// A number from 0 to 1, another one each time.
pub(crate) fn chance() -> f64 {
    // Each `RandomState` has keys of its own; it is what std has of randomness.
    let random = RandomState::new().build_hasher().finish();
    (random >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn backoff() -> Backoff {
        Backoff {
            initial: 100 * MS,
            max: 1000 * MS,
            factor: 3.0,
            jitter: 0.5,
        }
    }

    #[test]
    fn waits_grow_up_to_the_longest() {
        let mut schedule = Schedule::new(backoff());
        let waits = [(); 5].map(|()| schedule.wait(0.0));
        assert_eq!(waits, [100, 300, 900, 1000, 1000].map(|n| n * MS));
    }

    #[test]
    fn chance_makes_waits_shorter_by_up_to_the_jitter() {
        let mut schedule = Schedule::new(backoff());
        assert_eq!(schedule.wait(1.0), 50 * MS);
        assert_eq!(schedule.wait(0.5), 225 * MS);
        for _ in 0..1000 {
            assert!((0.0..1.0).contains(&chance()));
        }
        assert_ne!(chance(), chance());
    }

    #[test]
    fn only_a_connection_that_lasted_begins_the_waits_anew() {
        let mut schedule = Schedule::new(backoff());
        schedule.wait(0.0);
        schedule.lasted(299 * MS);
        assert_eq!(schedule.wait(0.0), 300 * MS);
        schedule.lasted(900 * MS);
        assert_eq!(schedule.wait(0.0), 100 * MS);
    }

    #[test]
    fn waits_beyond_what_a_duration_holds_are_the_longest() {
        let mut schedule = Schedule::new(Backoff {
            max: Duration::MAX,
            factor: f64::MAX,
            ..backoff()
        });
        schedule.wait(0.0);
        assert_eq!(schedule.next, Duration::MAX);
        assert!(schedule.wait(1.0) > Duration::ZERO);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        assert!(backoff().check().is_ok() && Backoff::default().check().is_ok());
        let zero = Backoff {
            initial: Duration::ZERO,
            ..backoff()
        };
        let short = Backoff {
            max: 99 * MS,
            ..backoff()
        };
        let shrinking = [0.5, f64::NAN, f64::INFINITY].map(|factor| Backoff {
            factor,
            ..backoff()
        });
        let jittery = [-0.1, 1.1, f64::NAN].map(|jitter| Backoff {
            jitter,
            ..backoff()
        });
        for wrong in [zero, short].into_iter().chain(shrinking).chain(jittery) {
            assert!(wrong.check().is_err(), "{wrong:?}");
        }
    }
}
