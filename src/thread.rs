//! Starting threads, with an error that says why not.
//!
//! Where memory maps run out, std does not return an error but **ends the process**: a new thread that
//! gets no stack for its signals panics where nothing can catch it (rust-lang/rust 78497). So whether there are maps left is
//! looked at before. To count them takes time, so there is a number of threads that may be started before
//! they are counted again: half of those that there is room for.

use std::io;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::os_limits::{self, Limit};

/// For how long there is none to be had once there was none.
const REFUSED: Duration = Duration::from_millis(100);

/// How many threads may be started before maps are counted again, where they cannot be.
const UNKNOWN: i64 = 1000;

static BUDGET: ThreadBudget = ThreadBudget::new(REFUSED);

/// Starts a thread of that name.
///
/// # Errors
///
/// What the system says, with the limit that is reached.
pub(crate) fn spawn(name: &str, f: impl FnOnce() + Send + 'static) -> io::Result<()> {
    spawn_to_join(name, f).map(drop)
}

/// As [`spawn`], for who waits for what the thread leaves.
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

/// How many threads may be started before memory maps are counted again.
struct ThreadBudget {
    left: AtomicI64,
    /// Why there was none, and when. Held while maps are counted, so that one thread does.
    refused: Mutex<Option<(Instant, String)>>,
    /// For how long that holds.
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

    /// Takes the room for one thread. `maps` counts those there are.
    fn take(&self, maps: impl FnOnce() -> Option<Limit>) -> io::Result<()> {
        if self.left.fetch_sub(1, Ordering::Relaxed) > 0 {
            return Ok(());
        }
        let mut refused = self.refused.lock();
        if self.left.fetch_sub(1, Ordering::Relaxed) > 0 {
            // Another thread has counted meanwhile.
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
        // Others need some, too: the program's own threads, and what allocates memory.
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
    fn maps_are_counted_anew_when_half_of_those_left_may_be_used_up() {
        let budget = ThreadBudget::new(REFUSED);
        // Of the 6400, 100 are for others: that leaves room for 1000 threads.
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
    fn without_maps_there_is_no_thread_and_a_reason() {
        let budget = ThreadBudget::new(Duration::from_secs(3600));
        let error = budget.take(maps(6298)).unwrap_err().to_string();
        assert!(
            error.starts_with("this process has 6298 memory maps"),
            "{error}"
        );
        // They are not counted for each of those that follow.
        assert_eq!(budget.take(not_counted).unwrap_err().to_string(), error);
    }

    #[test]
    fn when_there_are_maps_again_there_are_threads_again() {
        let budget = ThreadBudget::new(Duration::ZERO);
        budget.take(maps(6298)).unwrap_err();
        budget.take(maps(100)).unwrap();
        budget.take(not_counted).unwrap();
    }

    #[test]
    fn where_maps_cannot_be_counted_threads_are_started() {
        let budget = ThreadBudget::new(REFUSED);
        budget.take(|| None).unwrap();
        budget.take(not_counted).unwrap();
    }
}
