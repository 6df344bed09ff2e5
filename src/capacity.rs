//! The default number of connections of all servers of this process.
//!
//! Connections need threads, memory maps, address space and descriptors. What is left of each when
//! a server is made is divided between the program and the connections. Otherwise strangers could
//! use all of it, and the next `thread::spawn` of the program would panic.

use std::sync::{Arc, LazyLock};

use crate::os_limits::{self, Limit, Unit};

/// The threads of a connection: two of its own, one for callbacks, and one for its handler.
const THREADS: u64 = 4;

/// The minimum reserve of the program: this many descriptors, and the needs of this many threads.
const SPARE: u64 = 16;

/// The number of connections if no limit on threads can be read, as on systems other than Linux.
const UNKNOWN: u64 = 500;

/// The maximum number of connections that wait for their request's head, because poll(2) checks
/// each of them every time.
const MAX_WAITING: u64 = 1024;

/// The connections that servers of this process have accepted, with a complete head.
pub(crate) static CONNECTIONS: Count = Count::new();

/// The connections without a complete head, and the rejected ones that have not ended.
pub(crate) static WAITING: Count = Count::new();

/// A number of objects in this process: the references beyond the first.
pub(crate) struct Count(LazyLock<Arc<()>>);

/// One counted object. Dropping it decrements the number.
pub(crate) type Taken = Arc<()>;

impl Count {
    const fn new() -> Self {
        Count(LazyLock::new(Arc::default))
    }

    pub(crate) fn take(&self) -> Taken {
        Arc::clone(&self.0)
    }

    pub(crate) fn now(&self) -> usize {
        Arc::strong_count(&self.0) - 1
    }
}

/// The numbers of connections that this process can have.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Capacity {
    pub(crate) connections: usize,
    pub(crate) waiting: usize,
    /// The limit that determines the number of connections.
    pub(crate) why: String,
}

impl Capacity {
    /// Reads the limits. This takes milliseconds.
    pub(crate) fn now() -> Capacity {
        let more = Capacity::beside(&os_limits::all());
        Capacity {
            // The limits count existing connections as used.
            connections: more.connections + CONNECTIONS.now(),
            waiting: more.waiting + WAITING.now(),
            why: more.why,
        }
    }

    /// Returns the numbers of additional connections.
    fn beside(limits: &[Limit]) -> Capacity {
        let (descriptors, of_threads): (Vec<&Limit>, Vec<&Limit>) = limits
            .iter()
            .partition(|limit| limit.unit == Unit::Descriptors);
        let waiting = descriptors.iter().map(|limit| share(limit) / 3).min();
        let waiting = waiting.unwrap_or(MAX_WAITING).clamp(1, MAX_WAITING);

        // The number of connections that each limit allows, with a text about the limit.
        let mut allowed = Vec::new();
        for limit in descriptors {
            allowed.push((share(limit).saturating_sub(waiting), limit.to_string()));
        }
        for limit in &of_threads {
            let connections = share(limit) / (THREADS * limit.unit.per_thread());
            allowed.push((connections, limit.to_string()));
        }
        if of_threads.is_empty() {
            let why = "the limit on threads is not known".to_owned();
            allowed.push((UNKNOWN, why));
        }
        let least = allowed.into_iter().min_by_key(|(number, _)| *number);
        let (connections, why) = least.unwrap_or_default();
        let number = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        Capacity {
            // A robot must be reachable even if nothing is left.
            connections: number(connections.max(1)),
            waiting: number(waiting),
            why,
        }
    }
}

/// Returns the part of a limited resource that connections may use. The rest of what is left is
/// reserved for the program.
fn share(limit: &Limit) -> u64 {
    let left = limit.max.saturating_sub(limit.used);
    let spare = SPARE * limit.unit.per_thread().max(1);
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

    fn capacity(limits: &[Limit]) -> (usize, usize) {
        let capacity = Capacity::beside(limits);
        (capacity.connections, capacity.waiting)
    }

    #[test]
    fn a_quarter_of_the_scarcest_resource_is_for_the_program() {
        let threads = limit(Unit::Threads, 1000, 33_000);
        assert_eq!(capacity(std::slice::from_ref(&threads)), (6000, 1024));
        let maps = limit(Unit::Maps, 530, 64_530);
        assert_eq!(capacity(&[threads.clone(), maps.clone()]), (3000, 1024));
        let space = limit(Unit::Space, 100, 1700);
        assert_eq!(capacity(&[threads, maps.clone(), space]), (100, 1024));
        let why = Capacity::beside(&[maps]).why;
        assert!(why.contains("530 memory maps, of the 64530"), "{why}");
    }

    #[test]
    fn descriptors_are_shared_by_connections_waiting_clients_and_the_program() {
        let threads = limit(Unit::Threads, 0, 1_000_000);
        let few = limit(Unit::Descriptors, 24, 1024);
        assert_eq!(capacity(&[threads.clone(), few]), (500, 250));
        let many = limit(Unit::Descriptors, 0, 100_000);
        assert_eq!(capacity(&[threads, many]), (75_000 - 1024, 1024));
    }

    #[test]
    fn the_program_gets_most_of_a_scarce_resource() {
        let threads = limit(Unit::Threads, 10, 50);
        assert_eq!(capacity(&[threads]).0, 6);
        let threads = limit(Unit::Threads, 30, 50);
        let descriptors = limit(Unit::Descriptors, 30, 50);
        assert_eq!(capacity(&[threads, descriptors]), (1, 1));
        // A limit that was lowered may be exceeded.
        assert_eq!(capacity(&[limit(Unit::Threads, 60, 50)]).0, 1);
    }

    #[test]
    fn without_a_known_limit_on_threads_the_number_is_a_default() {
        assert_eq!(capacity(&[]), (500, 1024));
        assert_eq!(capacity(&[limit(Unit::Descriptors, 6, 256)]), (126, 62));
        assert_eq!(capacity(&[limit(Unit::Descriptors, 6, 100_000)]).0, 500);
    }
}
