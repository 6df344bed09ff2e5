//! Computes deadlines. Any timeout is valid, however long.

use std::time::{Duration, Instant};

/// The longest timeout: a century. A later `Instant` may not exist.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Returns the end of a timeout that begins now.
pub(crate) fn deadline_after(timeout: Duration) -> Instant {
    after(Instant::now(), timeout)
}

/// Returns the end of a timeout that begins at `start`.
pub(crate) fn after(start: Instant, timeout: Duration) -> Instant {
    start + timeout.min(LONGEST)
}
