//! The end of a producer that emits items: the fan-out of one item to every subscriber.

use std::collections::VecDeque;
use std::fmt;
use std::iter;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Instant;

use super::callbacks::CallbackPool;
use super::sink::RoomWait;
use super::slow_consumer::{Delivered, Waiter, WhenFull};
use super::status::Status;
use super::subscriber::{Call, Subscriber};
use super::subscribers::{Kept, SubscriberList, Subscribers};
use super::threads::Unstarted;
use crate::error::PutError;
use crate::panics::drop_caught;

/// The maximum weight of the backlog. Later items are dropped. It is more than a system leaves in
/// its buffers when it cuts one connection.
const BACKLOG_WEIGHT: usize = 16 << 20;

/// The end of a [`Producer`](super::Producer) that emits items.
///
/// A producer has one publisher. Dropping it ends the producer, with
/// [`Error::Ended`](crate::Error::Ended) as the reason.
///
/// If the operating system cannot start a thread for callbacks, [`put`](Self::put) waits for at
/// most a second and tries again. After that, items are queued for their callbacks as long as there
/// is room, and then dropped and [counted](super::Producer::dropped). Each `put` tries again to
/// start the thread. If there is none at the end either, the thread that drops the publisher makes
/// the remaining calls.
///
/// # Examples
///
/// ```
/// use rtcbot_websocket::pubsub;
///
/// let (mut publisher, sensor) = pubsub::producer();
/// let readings = sensor.subscribe();
/// publisher.put(7);
/// drop(publisher);
/// assert!(readings.into_iter().eq([7]));
/// ```
pub struct Publisher<T: Clone + Send + 'static> {
    pub(super) subscribers: Arc<Subscribers<T>>,
    /// The subscribers that receive the current batch. `None` during a wait, because a subscriber
    /// that is removed meanwhile has to be dropped, so that its queue is disconnected.
    list: Option<SubscriberList<T>>,
    /// The calls that the current batch makes, by pool.
    calls: Vec<Calls<T>>,
    /// Subscribers that were full, each with an item that it has not received yet.
    pub(super) blocked: VecDeque<Blocked<T>>,
    /// The items that all subscribers receive after that, and their weight.
    pub(super) backlog: VecDeque<T>,
    backlog_weight: usize,
    /// Whether the owner calls `finish` after the end.
    pub(super) leaves_callbacks: bool,
}

/// An item that a subscriber has not received, because it was full.
pub(super) struct Blocked<T> {
    pub(super) item: T,
    /// Weak, since it may stay here for long and be removed meanwhile.
    subscriber: Weak<Subscriber<T>>,
    pub(super) status: Arc<Status>,
    /// Whether the item was offered to no other subscriber.
    is_only: bool,
}

impl<T> Blocked<T> {
    fn new(subscriber: &Arc<Subscriber<T>>, item: T, is_only: bool) -> Self {
        Blocked {
            item,
            subscriber: Arc::downgrade(subscriber),
            status: subscriber.status.clone(),
            is_only,
        }
    }
}

/// The calls of one pool.
type Calls<T> = (CallbackPool<Call<T>>, VecDeque<Call<T>>);

impl<T: Clone + Send + 'static> Publisher<T> {
    pub(super) fn new(subscribers: Arc<Subscribers<T>>) -> Self {
        Publisher {
            subscribers,
            list: None,
            calls: Vec::new(),
            blocked: VecDeque::new(),
            backlog: VecDeque::new(),
            backlog_weight: 0,
            leaves_callbacks: false,
        }
    }

    /// Passes an item to all subscriptions, sinks and callbacks.
    ///
    /// Waits, without a time limit, until each of these has room: subscriptions with
    /// [`Queue::Block`](super::Queue::Block), sinks of this crate, and callbacks. The wait for a
    /// subscriber also ends when it is removed.
    ///
    /// If nothing has subscribed yet, the item is kept. If all subscribers have been removed, it is
    /// dropped.
    #[doc(alias = "send")]
    #[doc(alias = "broadcast")]
    pub fn put(&mut self, item: T) {
        self.publish(iter::once(item));
    }

    /// As [`put`](Self::put), for each of the items. Removes them from `items`.
    pub(crate) fn put_batch(&mut self, items: &mut Vec<T>) {
        self.publish(items.drain(..));
    }

    /// Returns whether there is a subscriber.
    pub(crate) fn has_subscribers(&self) -> bool {
        !self.subscribers.state.lock().list.is_empty()
    }

    /// Returns whether items are kept that have not been delivered to all subscribers: see
    /// [`Hold::Spill`](super::slow_consumer::Hold::Spill).
    pub(crate) fn has_backlog(&self) -> bool {
        !self.blocked.is_empty() || !self.backlog.is_empty()
    }

    /// Delivers the kept items, in order, and waits as for any item. Some may have to be kept
    /// again.
    pub(crate) fn drain_backlog(&mut self) {
        self.drain(None);
    }

    /// As [`drain_backlog`](Self::drain_backlog), but keeps what is left at the time `limit`.
    pub(crate) fn drain_backlog_until(&mut self, limit: Instant) {
        self.drain(Some(limit));
    }

    fn drain(&mut self, limit: Option<Instant>) {
        self.finish_batch(limit);
        while self.blocked.is_empty() && !self.backlog.is_empty() && !self.has_to_keep(limit) {
            let Some(item) = self.backlog.pop_front() else {
                break;
            };
            self.backlog_weight -= self.weigh(&item);
            self.offer_to_all(item, limit);
            // After each item, so that the calls of the whole backlog are not collected.
            self.finish_batch(limit);
            self.count_kept();
        }
        self.wait_for_threads(limit);
        self.count_kept();
    }

    fn publish(&mut self, items: impl Iterator<Item = T>) {
        for item in items {
            if self.has_backlog() || self.has_to_keep(None) {
                self.keep(item);
            } else {
                self.offer_to_all(item, None);
            }
        }
        self.finish_batch(None);
        self.wait_for_threads(None);
    }

    /// Offers an item to all subscribers, and waits for those that are full.
    #[inline]
    fn offer_to_all(&mut self, item: T, limit: Option<Instant>) {
        let list = self.list.take();
        let list = list.unwrap_or_else(|| self.subscribers.state.lock().list.clone());
        let Some((last, others)) = list.split_last() else {
            return match self.subscribers.keep_early(item) {
                Kept::Early => {}
                Kept::Subscribed(item) => self.offer_to_all(item, limit),
                Kept::Nowhere(item) => drop_caught(item),
            };
        };
        let weight = self.weigh(&item);
        let mut refusals = 0;
        for subscriber in others {
            if let Some(refused) = self.offer(subscriber, item.clone(), weight, false) {
                self.subscribers.discard_refused(refused);
                refusals += 1;
            }
        }
        if let Some(refused) = self.offer(last, item, weight, others.is_empty()) {
            if others.is_empty() {
                return self.offer_again(refused, limit);
            }
            self.subscribers.discard_refused(refused);
            refusals += 1;
        }
        // A closed sink is not on the list any more.
        if refusals == 0 {
            self.list = Some(list);
        }
        if !self.blocked.is_empty() {
            self.finish_batch(limit);
        }
    }

    /// Passes on an item that its only subscriber, a sink, has not accepted because it was closed:
    /// to those that have subscribed meanwhile, or to the first one if there has been none.
    fn offer_again(&mut self, item: T, limit: Option<Instant>) {
        // It is out of date.
        self.list = None;
        match self.subscribers.keep_early(item) {
            Kept::Early => {}
            Kept::Subscribed(item) => self.offer_to_all(item, limit),
            Kept::Nowhere(item) => self.subscribers.discard_refused(item),
        }
    }

    /// Offers an item to one subscriber. Returns it if that is a closed sink.
    #[inline]
    fn offer(
        &mut self,
        subscriber: &Arc<Subscriber<T>>,
        item: T,
        weight: usize,
        is_only: bool,
    ) -> Option<T> {
        let dropped = &self.subscribers.delivery.dropped;
        if subscriber.status.truncated.load(Ordering::Relaxed) {
            subscriber.status.discard(item, dropped);
            return None;
        }
        if let Some(pool) = subscriber.pool() {
            let call = Call::Item(subscriber.clone(), item, weight);
            match self.calls.iter_mut().find(|(other, _)| other == pool) {
                Some((_, calls)) => calls.push_back(call),
                None => self.calls.push((pool.clone(), VecDeque::from([call]))),
            }
            return None;
        }
        match subscriber.put_nowait(item, weight, dropped) {
            Ok(()) => None,
            Err(PutError::Full(item)) => {
                let blocked = Blocked::new(subscriber, item, is_only);
                self.blocked.push_back(blocked);
                None
            }
            Err(PutError::Closed(item)) => {
                self.subscribers.detach(subscriber.status.id);
                refused(&subscriber.status, item)
            }
        }
    }

    /// Delivers to callbacks, and to subscribers that were full. Waits for each as long as the
    /// producer's [`Hold`](super::slow_consumer::Hold) allows. After `limit`, keeps what is left.
    #[inline]
    fn finish_batch(&mut self, limit: Option<Instant>) {
        self.list = None;
        if !self.calls.is_empty() || !self.blocked.is_empty() {
            self.deliver_blocked(limit);
        }
    }

    fn deliver_blocked(&mut self, limit: Option<Instant>) {
        self.put_calls();
        while let Some(mut blocked) = self.blocked.pop_front() {
            let item = match blocked.subscriber.upgrade() {
                None => blocked.item,
                Some(subscriber) => {
                    let weight = self.weigh(&blocked.item);
                    let waiter = Waiter::Publisher(limit);
                    let delivery = &self.subscribers.delivery;
                    match subscriber.deliver(blocked.item, weight, waiter, delivery) {
                        Delivered::Taken | Delivered::Dropped => continue,
                        Delivered::Kept(item) => {
                            blocked.item = item;
                            self.blocked.push_front(blocked);
                            return;
                        }
                        Delivered::Gone(item) => item,
                    }
                }
            };
            self.subscribers.detach(blocked.status.id);
            match refused(&blocked.status, item) {
                None => {}
                Some(item) if blocked.is_only => {
                    self.offer_again(item, limit);
                    // The owner may wait for its own input next.
                    self.finish_batch(limit);
                }
                Some(item) => self.subscribers.discard_refused(item),
            }
        }
    }

    /// Puts the batch's calls, with one lock for each pool. The calls for which a pool has no room
    /// are added to `blocked`.
    fn put_calls(&mut self) {
        for (pool, calls) in &mut self.calls {
            if !calls.is_empty() {
                pool.put_batch(calls);
            }
            for call in calls.drain(..) {
                if let Call::Item(subscriber, item, _) = call {
                    self.blocked
                        .push_back(Blocked::new(&subscriber, item, false));
                }
            }
        }
        // Keeps the memory of one pool's calls for the next batch. The other pools may have ended.
        self.calls.truncate(1);
    }

    /// Waits while the producer is paused. Returns whether the next item has to be kept.
    fn has_to_keep(&mut self, limit: Option<Instant>) -> bool {
        if !self.subscribers.delivery.is_paused() {
            return false;
        }
        self.finish_batch(limit);
        let delivery = &self.subscribers.delivery;
        loop {
            let (when_full, changed) = delivery.when_full(Waiter::Publisher(limit));
            if !self.blocked.is_empty() {
                return true;
            }
            if !delivery.is_paused() {
                return false;
            }
            match when_full {
                WhenFull::Wait(until) => RoomWait::<T>::none().wait(&changed, until),
                WhenFull::Keep => return true,
                WhenFull::Drop => return false,
            }
        }
    }

    /// Waits until the callback threads have been started, or cannot be. It is called before the
    /// owner waits for its own input.
    fn wait_for_threads(&mut self, limit: Option<Instant>) {
        while let Unstarted::RetryAt(next) = self.subscribers.delivery.threads.retry() {
            let delivery = &self.subscribers.delivery;
            let (WhenFull::Wait(until), changed) = delivery.when_full(Waiter::Publisher(limit))
            else {
                return;
            };
            let until = until.map_or(next, |until| until.min(next));
            RoomWait::<T>::none().wait(&changed, Some(until));
        }
    }

    fn keep(&mut self, item: T) {
        if self.backlog_weight >= BACKLOG_WEIGHT {
            // The items that follow are dropped as well, until some of the backlog has been
            // delivered.
            return self.subscribers.count_overflow();
        }
        self.backlog_weight += self.weigh(&item);
        self.backlog.push_back(item);
        self.count_kept();
    }

    /// Counts the kept items for the statistics.
    pub(super) fn count_kept(&self) {
        let kept = self.backlog.len() + usize::from(!self.blocked.is_empty());
        self.subscribers.kept.store(kept, Ordering::Relaxed);
    }

    fn weigh(&self, item: &T) -> usize {
        (self.subscribers.weighing.weigh)(item)
    }
}

/// Returns an item that a subscriber has not accepted, unless the program has removed the
/// subscriber: then the item is for nobody, and is dropped.
fn refused<T>(status: &Status, item: T) -> Option<T> {
    if status.is_removed() {
        drop_caught(item);
        return None;
    }
    Some(item)
}

impl<T: Clone + Send + 'static> fmt::Debug for Publisher<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::pubsub::{self, Hold, Producer, Queue, Sink, Weighing};
    use crossbeam_channel::unbounded;

    #[test]
    fn a_subscriber_that_was_full_when_the_publisher_did_not_wait_receives_nothing_more() {
        let (mut publisher, producer) = pubsub::producer();
        let slow = producer.subscribe_with(Queue::Block(1));
        let fast = producer.subscribe_with(Queue::Block(3));
        publisher.put(0);
        producer.set_hold(Hold::Never);
        publisher.put(1);
        assert_eq!(slow.try_get().unwrap(), 0);
        publisher.put(2);
        drop(publisher);
        assert_eq!(slow.iter().count(), 0);
        assert!(fast.iter().eq([0, 1, 2]));
        assert_eq!(producer.dropped(), 2);
    }

    #[test]
    fn a_user_sink_receives_items_after_a_gap() {
        /// Has room for every other item.
        struct Lossy(crossbeam_channel::Sender<u8>);
        impl Sink<u8> for Lossy {
            fn put_nowait(&self, item: u8) -> Result<(), PutError<u8>> {
                match item % 2 {
                    0 => self.0.put_nowait(item),
                    _ => Err(PutError::Full(item)),
                }
            }
        }
        let (sender, receiver) = unbounded();
        let (mut publisher, producer) = pubsub::producer();
        producer.subscribe_to(Lossy(sender));
        producer.set_hold(Hold::Never);
        publisher.put_batch(&mut vec![0, 1, 2]);
        drop(publisher);
        assert!(receiver.iter().eq([0, 2]));
        assert_eq!(producer.dropped(), 1);
    }

    #[test]
    fn a_publisher_that_spills_keeps_items_without_room_and_delivers_them_in_order() {
        let (mut publisher, producer) = pubsub::producer();
        let slow = producer.subscribe_with(Queue::Block(1));
        let fast = producer.subscribe_with(Queue::Unbounded);
        producer.set_hold(Hold::Spill);
        (0..5).for_each(|n| publisher.put(n));
        assert!(publisher.has_backlog());
        publisher.drain_backlog();
        assert!(publisher.has_backlog());
        // A subscriber with room is ahead by at most the item that the other waits for.
        assert_eq!(fast.len(), 2);
        assert_eq!(slow.try_get().unwrap(), 0);
        producer.set_hold(Hold::Forever);
        publisher.drain_backlog_until(Instant::now() + Duration::from_millis(1));
        assert!(publisher.has_backlog());
        assert_eq!(slow.try_get().unwrap(), 1);
        let taking = std::thread::spawn(move || slow.iter().collect::<Vec<_>>());
        publisher.drain_backlog();
        assert!(!publisher.has_backlog());
        publisher.put(5);
        drop(publisher);
        assert_eq!(taking.join().unwrap(), [2, 3, 4, 5]);
        assert!(fast.iter().eq(0..6));
        assert_eq!(producer.dropped(), 0);
    }

    #[test]
    fn a_wait_for_weight_ends_when_the_publisher_must_not_wait() {
        let weighing = Weighing {
            weigh: |item: &usize| *item,
            limit: 100,
        };
        for spill in [false, true] {
            let (mut publisher, producer) = Producer::with_weight(Queue::Block(50), weighing);
            let slow = producer.subscribe();
            publisher.put(60);
            publisher.put(40);
            let (done, waited) = crossbeam_channel::bounded(1);
            std::thread::spawn(move || {
                publisher.put(1);
                done.send(publisher).unwrap();
            });
            match spill {
                true => producer.set_hold(Hold::Spill),
                false => producer.set_hold(Hold::Never),
            }
            let deadline = Duration::from_secs(20);
            let publisher = waited.recv_timeout(deadline).expect("the publisher waits");
            assert_eq!(publisher.has_backlog(), spill);
            assert_eq!(producer.dropped(), u64::from(!spill));
            assert_eq!(slow.len(), 2);
        }
    }

    #[test]
    fn spilling_ends_a_wait() {
        let (mut publisher, producer) = pubsub::producer();
        let slow = producer.subscribe_with(Queue::Block(1));
        publisher.put(0);
        let (done, waited) = crossbeam_channel::bounded(1);
        std::thread::spawn(move || {
            publisher.put(1);
            done.send(publisher).unwrap();
        });
        producer.set_hold(Hold::Spill);
        let deadline = Duration::from_secs(20);
        let publisher = waited.recv_timeout(deadline).expect("the publisher waits");
        assert!(publisher.has_backlog());
        drop(slow);
        let mut publisher = publisher;
        publisher.drain_backlog();
        assert!(!publisher.has_backlog());
    }
}
