//! Deadlines that any timeout leads to.

use std::time::{Duration, Instant};

/// A timeout of more than a century is as good as none, and `Instant` may not reach further.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Returns the moment when a timeout that begins now is over, however long it is.
pub(crate) fn deadline_after(timeout: Duration) -> Instant {
    after(Instant::now(), timeout)
}

/// Returns the moment when a timeout that begins at `start` is over, however long it is.
pub(crate) fn after(start: Instant, timeout: Duration) -> Instant {
    start + timeout.min(LONGEST)
}
