//! The keys of queued items, so that a newer item can replace the one with the same key.

use std::collections::BTreeMap;

/// The number of keys up to which those of taken items are kept, for items that are put back.
const KEPT: usize = 64;

/// The positions of the items of a queue that were put with a key.
///
/// A position counts all items of the queue from its beginning, so it stays the same while items
/// are taken and put back.
#[derive(Default)]
pub(super) struct Keys {
    /// The position of the front of the queue.
    front: u64,
    /// The position of the last item with each key. It may have been taken.
    positions: BTreeMap<Box<str>, u64>,
}

impl Keys {
    /// Records that this many items were taken, from the queue or, while it was empty, past it.
    pub(super) fn taken(&mut self, items: usize) {
        self.front = self.front.wrapping_add(items as u64);
    }

    /// Records that this many items, the last ones that were taken, have been put back in front.
    pub(super) fn put_back(&mut self, items: usize) {
        self.front = self.front.wrapping_sub(items as u64);
    }

    /// Returns the index of the last item with this key, if it is one of the `queued` items.
    pub(super) fn find(&self, key: &str, queued: usize) -> Option<usize> {
        index(self.front, *self.positions.get(key)?, queued)
    }

    /// Records that the item behind the `queued` items has this key.
    pub(super) fn pushed(&mut self, key: &str, queued: usize) {
        let position = self.front.wrapping_add(queued as u64);
        if let Some(last) = self.positions.get_mut(key) {
            *last = position;
            return;
        }
        if self.positions.len() >= KEPT.max(2 * queued) {
            let front = self.front;
            self.positions
                .retain(|_, position| index(front, *position, queued).is_some());
        }
        self.positions.insert(key.into(), position);
    }
}

/// Returns the index in a queue with this front, or `None` if the item at the position is not one
/// of the `queued` items.
fn index(front: u64, position: u64, queued: usize) -> Option<usize> {
    let index = usize::try_from(position.wrapping_sub(front)).ok()?;
    (index < queued).then_some(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_is_found_until_it_is_taken_and_after_it_is_put_back() {
        let mut keys = Keys::default();
        keys.pushed("a", 0);
        keys.pushed("b", 1);
        assert_eq!((keys.find("a", 2), keys.find("b", 2)), (Some(0), Some(1)));
        keys.taken(1);
        assert_eq!((keys.find("a", 1), keys.find("b", 1)), (None, Some(0)));
        keys.taken(1);
        // An item of a source.
        keys.taken(1);
        keys.pushed("c", 0);
        assert_eq!((keys.find("b", 1), keys.find("c", 1)), (None, Some(0)));
        keys.put_back(2);
        assert_eq!((keys.find("a", 3), keys.find("b", 3)), (None, Some(0)));
        assert_eq!(keys.find("c", 3), Some(2));
    }

    #[test]
    fn the_last_of_several_items_with_a_key_is_found() {
        let mut keys = Keys::default();
        keys.pushed("a", 0);
        keys.taken(1);
        keys.pushed("a", 0);
        keys.put_back(1);
        assert_eq!(keys.find("a", 2), Some(1));
    }

    #[test]
    fn keys_of_taken_items_are_forgotten_when_there_are_many() {
        let mut keys = Keys::default();
        for n in 0..10_000 {
            keys.pushed(&n.to_string(), 0);
            keys.taken(1);
            assert!(keys.positions.len() <= KEPT);
        }
        for n in 0..1000 {
            keys.pushed(&n.to_string(), n);
        }
        for n in 0..1000 {
            assert_eq!(keys.find(&n.to_string(), 1000), Some(n));
        }
        assert!(keys.positions.len() <= 2000);
    }
}
