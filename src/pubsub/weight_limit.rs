//! The limit on the weight of the items in a subscription's queue. Their number has a limit of its
//! own.
//!
//! The queue is a channel, and items are taken from its receiver without a notice. So the weight of
//! the queued items has to be calculated from the channel's length. Most items are light and are
//! not counted: if none is heavier than an equal share of the limit, the places run out first.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use parking_lot::Mutex;

use super::space::ChangeNotifier;

/// The first and the last interval at which the publisher checks whether an item was taken from a
/// channel that is read directly.
const FIRST_CHECK: Duration = Duration::from_micros(100);
const LAST_CHECK: Duration = Duration::from_millis(50);

/// The weight of items, and the limit on their weight in each queue. Weighing takes no time.
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

/// The limit of one queue. One thread at a time puts items into it.
pub(super) struct WeightLimit {
    limit: usize,
    /// The limit, divided by the number of the queue's places. An item that weighs less counts as
    /// this much.
    share: usize,
    /// Whether there may be queued items that weigh more than their share. A copy of the state,
    /// read without the lock.
    has_heavy: AtomicBool,
    /// Held to read or change the counts. Nothing is called under it.
    heavy_items: Mutex<HeavyItems>,
    notifier: Arc<TakeNotifier>,
}

/// The items that weigh more than their share.
struct HeavyItems {
    /// The number of items that were put. It is counted while there are heavy items.
    put: u64,
    /// The heavy items that may still be queued: the number of each, and the weight beyond its
    /// share.
    heavy: VecDeque<(u64, usize)>,
    /// The sum of the weights in `heavy`.
    excess: usize,
    next_check: Duration,
}

/// Notifies the publisher that an item was taken from the queue.
pub(super) struct TakeNotifier {
    space: ChangeNotifier,
    /// Whether items may be taken without a notice, because the channel itself is in use.
    unannounced: AtomicBool,
}

impl WeightLimit {
    /// Creates a limit for a queue with this many places. `None` is a queue without a limit on
    /// places.
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
                space: ChangeNotifier::new(),
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

    /// Returns whether an item of this weight may be put into the queue, which has this length. An
    /// item of any weight may be put into an empty queue.
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

    /// Counts an item of this weight, which has been put.
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

    /// Returns whether an item of this weight may be put without [`has_room`](Self::has_room) and
    /// [`count`](Self::count).
    #[inline]
    pub(super) fn is_light(&self, weight: usize) -> bool {
        weight <= self.share && !self.has_heavy.load(Ordering::Relaxed)
    }

    /// Returns a channel that is disconnected when an item is taken. Also returns when to check
    /// again, if items may be taken without a notice. Call it before checking for room.
    pub(super) fn next_take(&self) -> (Receiver<Infallible>, Option<Instant>) {
        let change = self.notifier.space.next_change();
        let check_at = self.notifier.unannounced.load(Ordering::SeqCst).then(|| {
            let mut heavy_items = self.heavy_items.lock();
            let next = heavy_items.next_check;
            heavy_items.next_check = LAST_CHECK.min(2 * next);
            Instant::now() + next
        });
        (change, check_at)
    }
}

impl HeavyItems {
    /// Removes the items that have been taken. The queue has the last `length` of those that were
    /// put.
    fn forget_taken(&mut self, length: usize) {
        let taken = self.put.saturating_sub(length as u64);
        while let Some((number, excess)) = self.heavy.front() {
            if *number > taken {
                return;
            }
            self.excess -= excess;
            self.heavy.pop_front();
        }
        // Frees the memory: a long burst is seldom followed by another.
        self.heavy = VecDeque::new();
    }
}

impl TakeNotifier {
    /// Reports that an item was taken.
    pub(super) fn notify(&self) {
        self.space.notify();
    }

    /// Sets that items may be taken without a notice from now on.
    pub(super) fn set_unannounced(&self) {
        if !self.unannounced.swap(true, Ordering::SeqCst) {
            // A thread that waits has to check at intervals from now on.
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

        /// The limit knows only the queue's length, as with a channel.
        #[test]
        fn the_queued_items_exceed_the_limit_only_if_there_is_one(
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
        fn every_item_is_weighed_in_a_queue_without_a_limit_on_places(
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
