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

use crate::os_limits::{self, Limit};

/// The time for which starts are refused after the maps ran out.
const REFUSED: Duration = Duration::from_millis(100);

/// The number of threads between two counts, if maps cannot be counted.
const UNKNOWN: i64 = 1000;

static BUDGET: ThreadBudget = ThreadBudget::new(REFUSED);

/// Starts a thread with this name.
///
/// # Errors
///
/// The system's error, with the limit that was reached.
pub(crate) fn spawn(name: &str, f: impl FnOnce() + Send + 'static) -> io::Result<()> {
    spawn_to_join(name, f).map(drop)
}

/// Like [`spawn`], for a caller that waits for the thread's result.
pub(crate) fn spawn_to_join<R: Send + 'static>(
    name: &str,
    f: impl FnOnce() -> R + Send + 'static,
) -> io::Result<JoinHandle<R>> {
    BUDGET.take(os_limits::maps)?;
    thread::Builder::new()
        .name(name.into())
        .spawn(f)
        .map_err(os_limits::of_threads)
}

/// The number of threads that may be started before memory maps are counted again.
struct ThreadBudget {
    left: AtomicI64,
    /// When and why a start was refused. Locked while maps are counted, so that only one thread
    /// counts them.
    refused: Mutex<Option<(Instant, String)>>,
    /// The time for which a refusal is repeated without counting.
    holds: Duration,
}

impl ThreadBudget {
    const fn new(holds: Duration) -> Self {
        ThreadBudget {
            left: AtomicI64::new(0),
            refused: Mutex::new(None),
            holds,
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
            if when.elapsed() < self.holds {
                return Err(io::Error::new(io::ErrorKind::OutOfMemory, why.clone()));
            }
        }
        let Some(maps) = maps() else {
            self.left.store(UNKNOWN, Ordering::Relaxed);
            return Ok(());
        };
        // A reserve for the program's own threads and for allocations.
        let spare = maps.max.saturating_sub(maps.used + maps.max / 64);
        let threads = i64::try_from(spare / maps.what.of_a_thread()).unwrap_or(i64::MAX);
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
                what: Unit::Maps,
                used,
                max: 6400,
                name: "vm.max_map_count",
                set_with: "sysctl",
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
}
