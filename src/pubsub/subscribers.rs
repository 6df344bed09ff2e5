//! The subscribers of a producer.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use parking_lot::Mutex;

use super::callback_limit::CallbackLimit;
use super::callbacks::CallbackPool;
use super::slow_consumer::Queue;
use super::slow_consumer::{Delivery, Hold};
use super::status::EndReason;
use super::status::{Status, SubscriptionId};
use super::subscriber::{Call, Subscriber};
use super::subscription::Subscription;
use super::threads::{EndOrder, Threads};
use super::weight_limit::Weighing;
use crate::panics::drop_each;

/// The maximum number of items that are kept for the first subscriber.
const EARLY_ITEMS: usize = 1024;
/// The maximum weight of these items (for a `Websocket`: bytes).
const EARLY_WEIGHT: usize = 4 << 20;

pub(super) type SubscriberList<T> = Arc<[Arc<Subscriber<T>>]>;

/// The state of a producer. The producer and the publisher share it, and the subscriptions have
/// weak references to it.
pub(super) struct Subscribers<T> {
    /// Held to read or change the subscribers. No user code is called and no user's value is
    /// dropped under it. The locks of a callback pool and of a queue may be taken under it.
    pub(super) state: Mutex<State<T>>,
    /// Held while the default subscription is made, so that the first `get`s of two threads share
    /// it. `state` may be locked under it, never the other way round.
    pub(super) default: Mutex<Option<Subscription<T>>>,
    pub(super) end: EndReason,
    pub(super) delivery: Arc<Delivery>,
    /// Runs callbacks that are called one at a time, and user sinks.
    pub(super) dispatcher: CallbackPool<Call<T>>,
    pub(super) queue: Queue,
    /// The limit applies to each queue. Weighing takes no time, so it may be done under a lock.
    pub(super) weighing: Weighing<T>,
    /// The number of items in the publisher's backlog.
    pub(super) kept: AtomicUsize,
}

pub(super) struct State<T> {
    pub(super) list: SubscriberList<T>,
    pub(super) early: VecDeque<T>,
    early_weight: usize,
    /// The number of subscribers so far. After the first, no early items are kept.
    attached: u64,
    pub(super) ended: bool,
    /// The sinks and callbacks at the producer's end. Items that are queued for them are still
    /// delivered, unless they are removed.
    pub(super) last: Vec<Arc<Status>>,
}

/// What [`Subscribers::keep_early`] has done with an item.
pub(super) enum Kept<T> {
    /// It is kept for the first subscriber.
    Early,
    /// It is not kept, because there are subscribers.
    Subscribed(T),
    /// It is not kept, because all subscribers have been removed.
    Nowhere(T),
}

impl<T: Send + 'static> Subscribers<T> {
    pub(super) fn new(queue: Queue, weighing: Weighing<T>) -> Arc<Self> {
        let threads = Threads::new();
        let end = EndReason::default();
        let limit = CallbackLimit::new(weighing.limit, end.clone());
        let name = ("ws-dispatch", EndOrder::First);
        Arc::new(Subscribers {
            state: Mutex::new(State {
                list: Arc::new([]),
                early: VecDeque::new(),
                early_weight: 0,
                attached: 0,
                ended: false,
                last: Vec::new(),
            }),
            default: Mutex::new(None),
            end,
            dispatcher: CallbackPool::new(name, 1, limit, threads.clone()),
            delivery: Delivery::new(threads),
            queue,
            weighing,
            kept: AtomicUsize::new(0),
        })
    }

    /// Creates a pool for one callback, with up to `max` threads.
    pub(super) fn workers(&self, max: usize) -> CallbackPool<Call<T>> {
        let limit = CallbackLimit::new(self.weighing.limit, self.end.clone());
        let name = ("ws-worker", EndOrder::Last);
        let threads = self.delivery.threads.clone();
        let pool = CallbackPool::new(name, max, limit, threads);
        pool.end();
        pool
    }
}

impl<T> Subscribers<T> {
    /// Adds a subscriber, unless the producer has ended. Returns values that have to be dropped
    /// outside the lock.
    #[must_use]
    pub(super) fn insert(
        &self,
        state: &mut State<T>,
        subscriber: Arc<Subscriber<T>>,
    ) -> (Option<Arc<Subscriber<T>>>, SubscriberList<T>) {
        state.attached += 1;
        if state.ended {
            if subscriber.outlives_the_end() {
                state.last.push(subscriber.status.clone());
            }
            return (Some(subscriber), state.list.clone());
        }
        let grown = state.list.iter().cloned().chain([subscriber]).collect();
        (None, std::mem::replace(&mut state.list, grown))
    }

    /// Removes a subscriber. Returns whether it was subscribed.
    pub(super) fn remove(&self, id: SubscriptionId) -> bool {
        let found = self.state.lock().detach(id);
        if let Some((status, _old)) = &found {
            // Before the drop of `_old` disconnects its queue, which wakes its readers.
            status.set_removed();
            self.delivery.wake_waiters();
        }
        found.is_some()
    }

    /// Removes a subscriber that is closed from the list.
    pub(super) fn detach(&self, id: SubscriptionId) {
        // `found` is dropped after the lock has been released.
        let found = self.state.lock().detach(id);
        drop(found);
    }

    /// Removes all subscribers.
    pub(super) fn clear(&self) {
        let (list, last) = {
            let mut state = self.state.lock();
            let list = std::mem::replace(&mut state.list, Arc::new([]));
            (list, std::mem::take(&mut state.last))
        };
        let listed = list.iter().map(|subscriber| &subscriber.status);
        for status in listed.chain(&last) {
            status.set_removed();
        }
        self.delivery.wake_waiters();
    }

    /// Keeps an item for the first subscriber, if there has been none.
    pub(super) fn keep_early(&self, item: T) -> Kept<T> {
        let mut old = Vec::new();
        {
            let mut state = self.state.lock();
            if !state.list.is_empty() {
                return Kept::Subscribed(item);
            }
            if state.attached > 0 {
                return Kept::Nowhere(item);
            }
            let weigh = self.weighing.weigh;
            state.early_weight += weigh(&item);
            state.early.push_back(item);
            while state.early.len() > EARLY_ITEMS
                || (state.early_weight > EARLY_WEIGHT && state.early.len() > 1)
            {
                let Some(item) = state.early.pop_front() else {
                    break;
                };
                state.early_weight -= weigh(&item);
                old.push(item);
            }
        }
        if !old.is_empty() && self.delivery.dropped.count(old.len()) == 0 {
            crate::logging::warn!(
                "too many messages are kept for the first subscription: the oldest are dropped"
            );
        }
        drop_each(old);
        Kept::Early
    }

    /// Drops and counts an item that a closed sink has not accepted.
    pub(super) fn discard_refused(&self, item: T) {
        self.delivery.dropped.discard(item);
        crate::logging::debug!("a message is dropped: the sink that it was for is closed");
    }

    /// Takes back the early items of a subscriber that is closed. If there has been no other
    /// subscriber, they are kept for the next one; otherwise they are dropped and counted.
    pub(super) fn give_back_early(&self, id: SubscriptionId, mut items: VecDeque<T>) {
        let count = items.len();
        let found = {
            let mut state = self.state.lock();
            if state.attached == 1 {
                state.attached = 0;
                state.early_weight = items.iter().map(self.weighing.weigh).sum();
                std::mem::swap(&mut state.early, &mut items);
            }
            state.detach(id)
        };
        drop(found);
        if !items.is_empty() {
            self.delivery.dropped.count(count);
            crate::logging::warn!("{count} early messages are dropped: their sink was closed");
        }
        drop_each(items);
    }

    /// Counts an item that no subscriber receives, because the backlog is full.
    pub(super) fn count_overflow(&self) {
        let list = self.state.lock().list.len();
        if self.delivery.dropped.count(list.max(1)) == 0 {
            crate::logging::warn!(
                "too many messages are kept for slow subscribers: messages are dropped"
            );
        }
    }
}

impl<T> State<T> {
    pub(super) fn take_early(&mut self) -> VecDeque<T> {
        self.early_weight = 0;
        std::mem::take(&mut self.early)
    }

    /// Removes a subscriber from the list. The caller drops the old list outside the lock.
    fn detach(&mut self, id: SubscriptionId) -> Option<(Arc<Status>, SubscriberList<T>)> {
        if let Some(index) = self.last.iter().position(|status| status.id == id) {
            return Some((self.last.swap_remove(index), self.list.clone()));
        }
        let found = self.list.iter().find(|other| other.status.id == id)?;
        let status = found.status.clone();
        let others = self.list.iter().filter(|other| other.status.id != id);
        let others = others.cloned().collect();
        Some((status, std::mem::replace(&mut self.list, others)))
    }
}

/// Ends the wait of a thread that delivers early items.
impl<T> Drop for Subscribers<T> {
    fn drop(&mut self) {
        self.delivery.set_hold(Hold::Never);
    }
}
