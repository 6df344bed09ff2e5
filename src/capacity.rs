//! How many connections the servers of this process accept, unless the program sets a number.
//!
//! Connections cost threads, memory maps, address space and descriptors. What is left of each when
//! a server is made is divided: a part is for the program, and the rest is for connections.
//! Without that, strangers could take all of it, and the next `thread::spawn` of the program would
//! panic.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::os_limits::{self, Limit, Unit};

/// The threads of a connection: two of its own, one for callbacks, one for its handler.
const THREADS: u64 = 4;

/// What is left for the program at least: so many descriptors, and what so many threads take.
const SPARE: u64 = 16;

/// How many connections there may be where no limit on threads can be read: on systems other than
/// Linux.
const UNKNOWN: u64 = 500;

/// How many connections may wait for their request's head, whatever there is room for: poll(2)
/// looks at each of them every time.
const MAX_WAITING: u64 = 1024;

/// The connections that servers of this process have accepted as requests.
pub(crate) static CONNECTIONS: Count = Count(AtomicUsize::new(0));

/// The connections that have not sent a request's head, or are being told why they are refused.
pub(crate) static WAITING: Count = Count(AtomicUsize::new(0));

/// Counts something in this process.
pub(crate) struct Count(AtomicUsize);

/// One of what is counted, until it is dropped.
pub(crate) struct Taken(&'static Count);

impl Count {
    pub(crate) fn take(&'static self) -> Taken {
        self.0.fetch_add(1, Ordering::Relaxed);
        Taken(self)
    }

    pub(crate) fn now(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How many of each there may be in this process.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Capacity {
    pub(crate) connections: usize,
    pub(crate) waiting: usize,
    /// The limit that leaves no room for more connections.
    pub(crate) why: String,
}

impl Capacity {
    /// Reads the limits, which takes milliseconds.
    pub(crate) fn now() -> Capacity {
        let more = Capacity::beside(&os_limits::all());
        Capacity {
            // The limits count those that exist as used.
            connections: more.connections + CONNECTIONS.now(),
            waiting: more.waiting + WAITING.now(),
            why: more.why,
        }
    }

    /// Returns how many there may be in addition to those that there are.
    fn beside(limits: &[Limit]) -> Capacity {
        let (descriptors, of_threads): (Vec<&Limit>, Vec<&Limit>) = limits
            .iter()
            .partition(|limit| limit.unit == Unit::Descriptors);
        let waiting = descriptors.iter().map(|limit| share(limit) / 3).min();
        let waiting = waiting.unwrap_or(MAX_WAITING).clamp(1, MAX_WAITING);

        let mut rooms = Vec::new();
        for limit in descriptors {
            rooms.push((share(limit).saturating_sub(waiting), limit.to_string()));
        }
        for limit in &of_threads {
            let room = share(limit) / (THREADS * limit.unit.of_a_thread());
            rooms.push((room, limit.to_string()));
        }
        if of_threads.is_empty() {
            let why = "how many threads there may be is not known".to_owned();
            rooms.push((UNKNOWN, why));
        }
        let least = rooms.into_iter().min_by_key(|(room, _)| *room);
        let (connections, why) = least.unwrap_or_default();
        let number = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        Capacity {
            // A robot must be reachable, however little there is.
            connections: number(connections.max(1)),
            waiting: number(waiting),
            why,
        }
    }
}

/// Returns how much of what is left is for connections: the rest is for the program.
fn share(limit: &Limit) -> u64 {
    let left = limit.max.saturating_sub(limit.used);
    let spare = SPARE * limit.unit.of_a_thread().max(1);
    left.saturating_sub(spare.max(left / 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(unit: Unit, used: u64, max: u64) -> Limit {
        Limit {
            who: "this process".into(),
            unit,
            used,
            max,
            allowed_by: "it allows",
        }
    }

    fn room(limits: &[Limit]) -> (usize, usize) {
        let capacity = Capacity::beside(limits);
        (capacity.connections, capacity.waiting)
    }

    #[test]
    fn a_quarter_of_what_is_left_of_the_scarcest_is_for_the_program() {
        let threads = limit(Unit::Threads, 1000, 33_000);
        assert_eq!(room(std::slice::from_ref(&threads)), (6000, 1024));
        let maps = limit(Unit::Maps, 530, 64_530);
        assert_eq!(room(&[threads.clone(), maps.clone()]), (3000, 1024));
        let space = limit(Unit::Space, 100, 1700);
        assert_eq!(room(&[threads, maps.clone(), space]), (100, 1024));
        let why = Capacity::beside(&[maps]).why;
        assert!(why.contains("530 memory maps, of the 64530"), "{why}");
    }

    #[test]
    fn descriptors_are_for_connections_for_those_that_wait_and_for_the_program() {
        let threads = limit(Unit::Threads, 0, 1_000_000);
        let few = limit(Unit::Descriptors, 24, 1024);
        assert_eq!(room(&[threads.clone(), few]), (500, 250));
        let many = limit(Unit::Descriptors, 0, 100_000);
        assert_eq!(room(&[threads, many]), (75_000 - 1024, 1024));
    }

    #[test]
    fn where_there_is_little_the_program_has_the_most_of_it() {
        let threads = limit(Unit::Threads, 10, 50);
        assert_eq!(room(&[threads]).0, 6);
        let threads = limit(Unit::Threads, 30, 50);
        let descriptors = limit(Unit::Descriptors, 30, 50);
        assert_eq!(room(&[threads, descriptors]), (1, 1));
        // More than all is used where a limit was lowered.
        assert_eq!(room(&[limit(Unit::Threads, 60, 50)]).0, 1);
    }

    #[test]
    fn where_no_limit_on_threads_is_known_there_is_a_number() {
        assert_eq!(room(&[]), (500, 1024));
        assert_eq!(room(&[limit(Unit::Descriptors, 6, 256)]), (126, 62));
        assert_eq!(room(&[limit(Unit::Descriptors, 6, 100_000)]).0, 500);
    }
}
