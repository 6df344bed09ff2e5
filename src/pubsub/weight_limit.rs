//! How much the items in a subscription's queue may weigh, beside how many they may be.
//!
//! The queue is a channel, and whoever has the receiver takes from it without saying so: what waits
//! has to be found out from the channel's length. Most items weigh little, and are not looked at:
//! where none is heavier than an equal share of the limit, the places run out first.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::space::{SpaceNotifier, Waiting as Waits};

/// When to look first whether something was taken from a channel that is read directly, and how
/// seldom at last.
const FIRST_LOOK: Duration = Duration::from_micros(100);
const LAST_LOOK: Duration = Duration::from_millis(50);

/// What items weigh, and how much they may weigh together where they wait. Weighing takes no time.
pub(crate) struct Weighing<T> {
    pub(crate) weigh: fn(&T) -> usize,
    pub(crate) limit: usize,
}

impl<T> Clone for Weighing<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Weighing<T> {}

/// The limit of one queue. One thread at a time puts into it.
pub(super) struct WeightLimit {
    limit: usize,
    /// The limit, divided by the queue's places. What weighs no more counts for this much.
    share: usize,
    /// Whether items may wait that weigh more than their share; saves the lock.
    heavy: AtomicBool,
    /// Held to look or to count; nothing is called under it.
    waiting: Mutex<Waiting>,
    taken: Arc<Taken>,
}

struct Waiting {
    /// How many items were put, counted while there are heavy ones.
    put: u64,
    /// The heavy ones that may wait: the number of each, and how much more than its share it
    /// weighs.
    heavy: VecDeque<(u64, usize)>,
    excess: usize,
    next_look: Duration,
}

/// How those who read a queue tell that they have taken something.
pub(super) struct Taken {
    space: SpaceNotifier,
    /// Whether somebody has the channel itself, and takes from it without telling.
    untold: AtomicBool,
}

impl WeightLimit {
    /// For a queue with this many places; `None` for any number.
    pub(super) fn new(limit: usize, places: Option<usize>) -> Self {
        WeightLimit {
            limit,
            share: places.map_or(0, |places| limit / places.max(1)),
            heavy: AtomicBool::new(false),
            waiting: Mutex::new(Waiting {
                put: 0,
                heavy: VecDeque::new(),
                excess: 0,
                next_look: FIRST_LOOK,
            }),
            taken: Arc::new(Taken {
                space: SpaceNotifier::new(),
                untold: AtomicBool::new(false),
            }),
        }
    }

    pub(super) fn none() -> Self {
        Self::new(usize::MAX, Some(1))
    }

    pub(super) fn taken(&self) -> Arc<Taken> {
        self.taken.clone()
    }

    /// Whether an item that weighs so much may be put into the queue, which has this length. Where
    /// nothing else waits, any may.
    pub(super) fn has_room(&self, weight: usize, length: impl FnOnce() -> usize) -> bool {
        if self.is_light(weight) {
            return true;
        }
        let length = length();
        let mut waiting = self.waiting.lock();
        waiting.forget_taken(length);
        let all = length.saturating_mul(self.share);
        let all = all.saturating_add(waiting.excess);
        length == 0 || all.saturating_add(weight.max(self.share)) <= self.limit
    }

    /// An item that weighs so much has been put.
    pub(super) fn count(&self, weight: usize) {
        if self.is_light(weight) {
            return;
        }
        let mut waiting = self.waiting.lock();
        waiting.next_look = FIRST_LOOK;
        waiting.put += 1;
        if weight > self.share {
            let item = (waiting.put, weight - self.share);
            waiting.heavy.push_back(item);
            waiting.excess += item.1;
        }
        self.heavy
            .store(!waiting.heavy.is_empty(), Ordering::Relaxed);
    }

    /// Whether an item that weighs so much may be put without asking, and need not be counted.
    #[inline]
    pub(super) fn is_light(&self, weight: usize) -> bool {
        weight <= self.share && !self.heavy.load(Ordering::Relaxed)
    }

    /// Joins those who wait until something is taken. Also returns when to look again where that is
    /// not announced. To be called before looking for room.
    pub(super) fn register(&self) -> (Waits<'_>, Option<Instant>) {
        let waits = self.taken.space.register();
        let look_at = self.taken.untold.load(Ordering::SeqCst).then(|| {
            let mut waiting = self.waiting.lock();
            let next = waiting.next_look;
            waiting.next_look = LAST_LOOK.min(2 * next);
            Instant::now() + next
        });
        (waits, look_at)
    }
}

impl Waiting {
    /// The queue holds the last `length` of the items that were put.
    fn forget_taken(&mut self, length: usize) {
        let taken = self.put.saturating_sub(length as u64);
        while let Some((number, excess)) = self.heavy.front() {
            if *number > taken {
                return;
            }
            self.excess -= excess;
            self.heavy.pop_front();
        }
        // A long burst is seldom followed by another.
        self.heavy = VecDeque::new();
    }
}

impl Taken {
    /// Something was taken, or nobody will take any more.
    pub(super) fn tell(&self) {
        self.space.notify();
    }

    /// From now on, something may be taken without being told.
    pub(super) fn is_untold(&self) {
        if !self.untold.swap(true, Ordering::SeqCst) {
            // Who waits is to look by itself.
            self.space.notify();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        /// Beside a queue whose length alone is told, as channels have it.
        #[test]
        fn what_waits_weighs_no_more_than_the_limit_unless_it_is_one(
            limit in 0..2000_usize,
            places in prop_oneof![Just(None), (1..20_usize).prop_map(Some)],
            steps in prop::collection::vec(prop_oneof![
                3 => (0..60_usize).prop_map(Some),
                1 => (0..2500_usize).prop_map(Some),
                3 => Just(None),
            ], 0..300),
        ) {
            let weights = WeightLimit::new(limit, places);
            let mut queue = VecDeque::new();
            for step in steps {
                let Some(weight) = step else {
                    queue.pop_front();
                    continue;
                };
                if places.is_some_and(|places| queue.len() >= places) {
                    continue;
                }
                let alone = queue.is_empty();
                let share = places.map_or(0, |places| limit / places);
                let light = weight <= share && queue.iter().all(|other| *other <= share);
                if weights.has_room(weight, || queue.len()) {
                    weights.count(weight);
                    queue.push_back(weight);
                } else {
                    prop_assert!(!alone && !light);
                }
                let all = queue.iter().sum::<usize>();
                prop_assert!(queue.len() <= 1 || all <= limit.max(queue[0]), "{all} of {limit}");
            }
        }

        #[test]
        fn of_a_queue_without_places_every_item_is_weighed(
            weights in prop::collection::vec(1..100_usize, 0..100),
        ) {
            let limited = WeightLimit::new(1000, None);
            let (mut all, mut length) = (0, 0);
            for weight in weights {
                let room = limited.has_room(weight, || length);
                prop_assert_eq!(room, all + weight <= 1000);
                if room {
                    limited.count(weight);
                    all += weight;
                    length += 1;
                }
            }
        }
    }
}
