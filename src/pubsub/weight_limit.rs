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

use super::space::{SpaceNotifier, SpaceWaiter};

/// When to look first whether something was taken from a channel that is read directly, and how
/// seldom at last.
const FIRST_CHECK: Duration = Duration::from_micros(100);
const LAST_CHECK: Duration = Duration::from_millis(50);

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
    has_heavy: AtomicBool,
    /// Held to look or to count; nothing is called under it.
    heavy_items: Mutex<HeavyItems>,
    notifier: Arc<TakeNotifier>,
}

struct HeavyItems {
    /// How many items were put, counted while there are heavy ones.
    put: u64,
    /// The heavy ones that may wait: the number of each, and how much more than its share it
    /// weighs.
    heavy: VecDeque<(u64, usize)>,
    excess: usize,
    next_check: Duration,
}

/// How those who read a queue tell that they have taken something.
pub(super) struct TakeNotifier {
    space: SpaceNotifier,
    /// Whether somebody has the channel itself, and takes from it without telling.
    unannounced: AtomicBool,
}

impl WeightLimit {
    /// For a queue with this many places; `None` for any number.
    pub(super) fn new(limit: usize, places: Option<usize>) -> Self {
        WeightLimit {
            limit,
            share: places.map_or(0, |places| limit / places.max(1)),
            has_heavy: AtomicBool::new(false),
            heavy_items: Mutex::new(HeavyItems {
                put: 0,
                heavy: VecDeque::new(),
                excess: 0,
                next_check: FIRST_CHECK,
            }),
            notifier: Arc::new(TakeNotifier {
                space: SpaceNotifier::new(),
                unannounced: AtomicBool::new(false),
            }),
        }
    }

    pub(super) fn none() -> Self {
        Self::new(usize::MAX, Some(1))
    }

    pub(super) fn notifier(&self) -> Arc<TakeNotifier> {
        self.notifier.clone()
    }

    /// Whether an item that weighs so much may be put into the queue, which has this length. Where
    /// nothing else waits, any may.
    pub(super) fn has_room(&self, weight: usize, length: impl FnOnce() -> usize) -> bool {
        if self.is_light(weight) {
            return true;
        }
        let length = length();
        let mut heavy_items = self.heavy_items.lock();
        heavy_items.forget_taken(length);
        let all = length.saturating_mul(self.share);
        let all = all.saturating_add(heavy_items.excess);
        length == 0 || all.saturating_add(weight.max(self.share)) <= self.limit
    }

    /// An item that weighs so much has been put.
    pub(super) fn count(&self, weight: usize) {
        if self.is_light(weight) {
            return;
        }
        let mut heavy_items = self.heavy_items.lock();
        heavy_items.next_check = FIRST_CHECK;
        heavy_items.put += 1;
        if weight > self.share {
            let item = (heavy_items.put, weight - self.share);
            heavy_items.heavy.push_back(item);
            heavy_items.excess += item.1;
        }
        self.has_heavy
            .store(!heavy_items.heavy.is_empty(), Ordering::Relaxed);
    }

    /// Whether an item that weighs so much may be put without asking, and need not be counted.
    #[inline]
    pub(super) fn is_light(&self, weight: usize) -> bool {
        weight <= self.share && !self.has_heavy.load(Ordering::Relaxed)
    }

    /// Joins those who wait until something is taken. Also returns when to look again where that is
    /// not announced. To be called before looking for room.
    pub(super) fn register(&self) -> (SpaceWaiter<'_>, Option<Instant>) {
        let waiter = self.notifier.space.register();
        let check_at = self.notifier.unannounced.load(Ordering::SeqCst).then(|| {
            let mut heavy_items = self.heavy_items.lock();
            let next = heavy_items.next_check;
            heavy_items.next_check = LAST_CHECK.min(2 * next);
            Instant::now() + next
        });
        (waiter, check_at)
    }
}

impl HeavyItems {
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

impl TakeNotifier {
    /// Something was taken, or nobody will take any more.
    pub(super) fn notify(&self) {
        self.space.notify();
    }

    /// From now on, something may be taken without being told.
    pub(super) fn set_unannounced(&self) {
        if !self.unannounced.swap(true, Ordering::SeqCst) {
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
