//! Starts threads. The error of a failed start names the limit that was reached.
//!
//! If a process runs out of memory maps, std does not return an error but **ends the process**: a
//! new thread that gets no signal stack panics where nothing can catch it (rust-lang/rust 78497).
//! So this module checks the memory maps first. Counting them takes time. Therefore half of the
//! possible threads may be started before the maps are counted again.

use std::io;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::io::Errno;

use crate::os_limits::{self, Limit};

/// The time for which starts are refused after the maps ran out.
const REFUSED: Duration = Duration::from_millis(100);

/// The number of threads between two counts, if maps cannot be counted.
const UNKNOWN: i64 = 1000;

/// The time for which the limits that were read are used. Reading them takes milliseconds, and if
/// one thread cannot be started, many others cannot either.
const KEPT: Duration = Duration::from_secs(1);

static BUDGET: ThreadBudget = ThreadBudget::new(REFUSED);

/// Starts a thread with this name, and with std's stack size.
///
/// # Errors
///
/// The system's error, with the limit that was reached.
pub(crate) fn spawn(name: &str, f: impl FnOnce() + Send + 'static) -> io::Result<()> {
    spawn_with(name, None, f).map(drop)
}

/// Like [`spawn`], with another stack size in bytes if there is one, and for a caller that waits
/// for the thread's result.
pub(crate) fn spawn_with<R: Send + 'static>(
    name: &str,
    stack_size: Option<usize>,
    f: impl FnOnce() -> R + Send + 'static,
) -> io::Result<JoinHandle<R>> {
    BUDGET.take(os_limits::maps)?;
    let mut builder = thread::Builder::new().name(name.into());
    if let Some(bytes) = stack_size {
        builder = builder.stack_size(bytes);
    }
    builder.spawn(f).map_err(with_reached_limit)
}

/// Adds the limit that was reached to the error of a thread that could not be started.
fn with_reached_limit(error: io::Error) -> io::Error {
    /// Held while the limits are read, so that one thread reads them for all others. Reading /proc
    /// does not wait.
    static LATEST: Mutex<Option<(Instant, String)>> = Mutex::new(None);

    let errno = Errno::from_io_error(&error);
    if !matches!(errno, Some(Errno::AGAIN | Errno::NOMEM)) {
        return error;
    }
    let mut latest = LATEST.lock();
    let (_, text) = match latest.take() {
        Some(found) if found.0.elapsed() < KEPT => latest.insert(found),
        _ => latest.insert((Instant::now(), describe(&os_limits::all()))),
    };
    io::Error::new(error.kind(), format!("{error}: {text}"))
}

/// Lists the limits on threads that are reached, or all of them if none seems to be.
fn describe(limits: &[Limit]) -> String {
    let of_threads = limits.iter().filter(|limit| limit.unit.per_thread() > 0);
    let (reached, others): (Vec<_>, Vec<_>) = of_threads.partition(|limit| is_reached(limit));
    let list = |limits: Vec<&Limit>| {
        let limits: Vec<_> = limits.iter().map(ToString::to_string).collect();
        limits.join("; ")
    };
    match (reached.is_empty(), others.is_empty()) {
        (false, _) => list(reached),
        (true, false) => format!("no limit seems to be reached: {}", list(others)),
        (true, true) => "a limit on threads or memory is reached (ulimit -u, ulimit -v)".to_owned(),
    }
}

/// Returns whether a limit allows no further thread. Some threads may have ended since the failure,
/// so a limit also counts as reached if a 32nd part of it or less is left.
fn is_reached(limit: &Limit) -> bool {
    limit.used + limit.unit.per_thread() + limit.max / 32 > limit.max
}

/// The number of threads that may be started before memory maps are counted again: half of those
/// that were possible at the last count.
struct ThreadBudget {
    left: AtomicI64,
    /// The time of the last refusal, and the limit. Held while maps are counted, so that one thread
    /// counts for all others. Counting reads /proc, which does not wait.
    refused: Mutex<Option<(Instant, String)>>,
    /// How long a refusal applies to further threads.
    refusal_time: Duration,
}

impl ThreadBudget {
    const fn new(refusal_time: Duration) -> Self {
        ThreadBudget {
            left: AtomicI64::new(0),
            refused: Mutex::new(None),
            refusal_time,
        }
    }

    /// Reserves the maps of one thread. `maps` counts the maps.
    fn take(&self, maps: impl FnOnce() -> Option<Limit>) -> io::Result<()> {
        if self.left.fetch_sub(1, Ordering::Relaxed) > 0 {
            return Ok(());
        }
        let mut refused = self.refused.lock();
        if self.left.fetch_sub(1, Ordering::Relaxed) > 0 {
            // Another thread has counted in the meantime.
            return Ok(());
        }
        if let Some((when, why)) = &*refused {
            if when.elapsed() < self.refusal_time {
                return Err(io::Error::new(io::ErrorKind::OutOfMemory, why.clone()));
            }
        }
        let Some(maps) = maps() else {
            self.left.store(UNKNOWN, Ordering::Relaxed);
            return Ok(());
        };
        // A reserve for the program's own threads and for allocations.
        let spare = maps.max.saturating_sub(maps.used + maps.max / 64);
        let threads = i64::try_from(spare / maps.unit.per_thread()).unwrap_or(i64::MAX);
        if threads == 0 {
            let why = maps.to_string();
            *refused = Some((Instant::now(), why.clone()));
            return Err(io::Error::new(io::ErrorKind::OutOfMemory, why));
        }
        self.left.store(threads / 2, Ordering::Relaxed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os_limits::Unit;

    fn maps(used: u64) -> impl FnOnce() -> Option<Limit> {
        move || {
            Some(Limit {
                who: "this process".into(),
                unit: Unit::Maps,
                used,
                max: 6400,
                allowed_by: "vm.max_map_count allows (sysctl)",
            })
        }
    }

    fn not_counted() -> Option<Limit> {
        panic!("maps are counted")
    }

    #[test]
    fn maps_are_counted_again_after_half_of_the_possible_threads() {
        let budget = ThreadBudget::new(REFUSED);
        // Of the 6400 maps, 100 are the reserve: that leaves enough for 1000 threads.
        budget.take(maps(2300)).unwrap();
        for _ in 0..500 {
            budget.take(not_counted).unwrap();
        }
        budget.take(maps(4300)).unwrap();
        for _ in 0..250 {
            budget.take(not_counted).unwrap();
        }
        budget.take(maps(6296)).unwrap();
    }

    #[test]
    fn without_maps_the_error_names_the_limit() {
        let budget = ThreadBudget::new(Duration::from_secs(3600));
        let error = budget.take(maps(6298)).unwrap_err().to_string();
        assert!(
            error.starts_with("this process has 6298 memory maps"),
            "{error}"
        );
        // The maps are not counted again for each later start.
        assert_eq!(budget.take(not_counted).unwrap_err().to_string(), error);
    }

    #[test]
    fn threads_are_started_again_when_there_are_maps() {
        let budget = ThreadBudget::new(Duration::ZERO);
        budget.take(maps(6298)).unwrap_err();
        budget.take(maps(100)).unwrap();
        budget.take(not_counted).unwrap();
    }

    #[test]
    fn threads_are_started_if_maps_cannot_be_counted() {
        let budget = ThreadBudget::new(REFUSED);
        budget.take(|| None).unwrap();
        budget.take(not_counted).unwrap();
    }

    fn limit(used: u64, max: u64, name: &'static str) -> Limit {
        Limit {
            who: "this system".into(),
            unit: Unit::Threads,
            used,
            max,
            allowed_by: name,
        }
    }

    #[test]
    fn only_reached_limits_are_listed() {
        let limits = [
            limit(32_700, 32_768, "kernel.pid_max allows"),
            limit(32_700, 192_729, "kernel.threads-max allows"),
            limit(50, 50, "its pids.max allows"),
        ];
        assert_eq!(
            describe(&limits),
            "this system has 32700 threads, of the 32768 that kernel.pid_max allows; \
             this system has 50 threads, of the 50 that its pids.max allows"
        );
    }

    #[test]
    fn all_limits_are_listed_if_none_seems_to_be_reached() {
        let text = describe(&[limit(10, 50, "a allows"), limit(10, 60, "b allows")]);
        assert!(text.starts_with("no limit seems to be reached: "), "{text}");
        assert!(text.contains("50 that a allows") && text.contains("60 that b allows"));
        assert!(describe(&[]).contains("ulimit -u"));
    }

    #[test]
    fn other_errors_are_unchanged() {
        let invalid = with_reached_limit(Errno::INVAL.into());
        assert_eq!(Errno::from_io_error(&invalid), Some(Errno::INVAL));
    }
}
