//! Compressors and inflaters that wait for the next message of any connection.
//!
//! Without context takeover, a connection needs them only during a message. If each message had
//! new ones, idle connections would take more memory than with takeover, under glibc before 2.38:
//! zlib-rs allocates memory that is aligned to 64 bytes, and each thread keeps the small pieces
//! that glibc splits off (its `tcache`). They prevent that the memory around them is joined and
//! used again. A thread that compressed came to hold 2 to 5 MiB.

use parking_lot::Mutex;

/// Spare parts of one kind, for all connections of the process.
pub(super) struct Spares<K, T> {
    /// Each with its settings. Nothing is done under this lock but to add one or to take one out.
    kept: Mutex<Vec<(K, T)>>,
}

impl<K: PartialEq, T> Spares<K, T> {
    /// The maximum number of spares. There are as many as were in use at the same time, and a
    /// processor uses few at a time. This many compressors take 40 MiB.
    const LIMIT: usize = 128;

    pub(super) const fn new() -> Self {
        Spares {
            kept: Mutex::new(Vec::new()),
        }
    }

    /// Returns one with these settings, if one is kept.
    pub(super) fn take(&self, settings: &K) -> Option<T> {
        let mut kept = self.kept.lock();
        let index = kept.iter().rposition(|(of, _)| of == settings)?;
        Some(kept.swap_remove(index).1)
    }

    /// Keeps this one for the next message, unless enough are kept.
    pub(super) fn keep(&self, settings: K, spare: T) {
        let mut kept = self.kept.lock();
        if kept.len() < Self::LIMIT {
            kept.push((settings, spare));
        } else {
            drop(kept);
            drop(spare);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_with_equal_settings_is_used_again() {
        let spares = Spares::new();
        assert_eq!(spares.take(&(1, 15)), None::<&str>);
        spares.keep((1, 15), "a");
        spares.keep((6, 15), "b");
        assert_eq!(spares.take(&(1, 9)), None);
        assert_eq!(spares.take(&(1, 15)), Some("a"));
        assert_eq!(spares.take(&(1, 15)), None);
        assert_eq!(spares.take(&(6, 15)), Some("b"));
    }

    #[test]
    fn the_number_of_spares_is_limited() {
        let spares = Spares::new();
        let limit = Spares::<u8, usize>::LIMIT;
        (0..2 * limit).for_each(|n| spares.keep(0_u8, n));
        assert_eq!((0..).map_while(|_: u8| spares.take(&0)).count(), limit);
    }
}
