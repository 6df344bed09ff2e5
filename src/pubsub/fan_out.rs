//! The emitting side of a producer.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::sink::Patience;
use super::subscribers::{Subscriber, SubscriberList, Subscribers};
use super::subscription::SubscriptionId;
use super::threads::Found;
use crate::error::{Error, PutError};

/// How many items are kept for the first consumer.
const EARLY_ITEMS: usize = 1024;
/// How much they may weigh together (for a `Websocket`: bytes of payload).
const EARLY_WEIGHT: usize = 4 << 20;

/// How much may be kept for those who were full when the publisher had to go on; what comes then is dropped.
/// More than a system leaves in its buffers when it cuts one connection.
const LAG_WEIGHT: usize = 16 << 20;

/// How long a subscription may be full before that is logged.
const LONG: Duration = Duration::from_secs(1);

/// The emitting side of a [`Producer`](super::Producer); there is one. Dropping it ends the producer.
///
/// Where the operating system starts no thread for callbacks, a [`put`](Self::put) waits for one,
/// for at most a second. After that, items wait for their callbacks as long as there is room, and
/// then they are dropped and [counted](super::Producer::dropped); each `put` tries again to start
/// the thread. If there is none at the end either, the thread that drops the publisher makes the
/// calls that are left.
pub struct Publisher<T: Clone + Send + 'static> {
    subscribers: Arc<Subscribers<T>>,
    /// The list as of version `seen`. Not held while the owner waits for its own input (see
    /// [`rest`](Publisher::rest)): an subscriber that was removed has to be dropped, for its queue to disconnect.
    snapshot: Option<SubscriberList<T>>,
    seen: u64,
    /// Those that were full, with the item they have yet to get. It may be long before the owner catches up:
    /// like the snapshot, this must not keep alive what is removed.
    blocked: VecDeque<(Weak<Subscriber<T>>, T)>,
    /// Behind those: what came while there was no time to wait for them, and what it weighs.
    backlog: VecDeque<T>,
    later_weight: usize,
    /// When to stop catching up, whoever is still full.
    limit: Option<Instant>,
    /// Those that were full when there was no patience left: they get nothing more, so that what they got
    /// has an end and no gaps.
    truncated: Vec<SubscriptionId>,
    gone: Vec<SubscriptionId>,
    /// Whether its owner sees to the callbacks at the end.
    leaves_callbacks: bool,
}

impl<T: Clone + Send + 'static> Publisher<T> {
    pub(super) fn new(subscribers: Arc<Subscribers<T>>) -> Self {
        Publisher {
            subscribers,
            snapshot: None,
            seen: 0,
            blocked: VecDeque::new(),
            backlog: VecDeque::new(),
            later_weight: 0,
            limit: None,
            truncated: Vec::new(),
            gone: Vec::new(),
            leaves_callbacks: false,
        }
    }

    /// Gives the item to all who have subscribed, waiting for those whose queue blocks.
    pub fn put(&mut self, item: T) {
        self.put_in_batch(item);
        self.rest();
    }

    /// Ends the producer: who has taken all that is queued is told `reason`.
    pub fn end(self, reason: Error) {
        let _ = self.subscribers.end.set(reason);
        // The rest is done by drop.
    }

    /// As [`end`](Self::end), for an owner that has more to be called, and then
    /// [finishes](super::Producer::finish) the producer.
    pub(crate) fn end_before_callbacks(mut self, reason: Error) {
        self.leaves_callbacks = true;
        self.end(reason);
    }

    /// As [`put`](Self::put), for a publisher that calls [`rest`](Self::rest) before it waits for its own input.
    pub(crate) fn put_in_batch(&mut self, item: T) {
        if self.has_backlog() {
            return self.keep_for_later(item);
        }
        if self.subscribers.paused.load(Ordering::Relaxed) && !self.wait_until_resumed() {
            return self.keep_for_later(item);
        }
        self.hand_out(item);
    }

    fn hand_out(&mut self, item: T) {
        if !self.truncated.is_empty() && !is_over(self.subscribers.state.lock().patience) {
            self.truncated.clear();
        }
        let Some(list) = self.refresh() else {
            return self.keep(item);
        };
        let weight = self.weight(&item);
        let last = list.len() - 1;
        for subscriber in &list[..last] {
            self.offer(subscriber, item.clone(), weight);
        }
        self.offer(&list[last], item, weight);
        self.snapshot = Some(list);
        if !self.blocked.is_empty() {
            self.wait_for_the_full();
        }
        self.remove_the_gone();
    }

    fn remove_the_gone(&mut self) {
        for id in self.gone.drain(..) {
            self.subscribers.remove(id);
        }
    }

    /// Lets go of the subscribers, so that who is removed meanwhile is dropped at once; and waits
    /// for a thread that callbacks wait for.
    pub(crate) fn rest(&mut self) {
        self.drop_caught();
        while let Found::NotYet(next) = self.subscribers.threads.look() {
            let look = self.look();
            if look.over || look.aside {
                return;
            }
            let until = look.until.map_or(next, |until| until.min(next));
            let _ = self.subscribers.notify.1.recv_deadline(until);
        }
    }

    /// The first half of [`rest`](Self::rest), for who does not go on.
    pub(crate) fn drop_caught(&mut self) {
        self.snapshot = None;
    }

    /// Whether something has been put that not all have got, since the publisher was
    /// [set aside](super::Producer::spill).
    pub(crate) fn has_backlog(&self) -> bool {
        !self.blocked.is_empty() || !self.backlog.is_empty()
    }

    /// Hands out what has been kept, in order, waiting as for any item; `false` when the publisher was set
    /// aside again before that was all.
    pub(crate) fn drain_backlog(&mut self) -> bool {
        self.wait_for_the_full();
        self.remove_the_gone();
        while self.blocked.is_empty() && !self.backlog.is_empty() {
            if self.subscribers.paused.load(Ordering::Relaxed) && !self.wait_until_resumed() {
                break;
            }
            let Some(item) = self.backlog.pop_front() else {
                break;
            };
            self.later_weight -= self.weight(&item);
            self.hand_out(item);
            self.tell_what_is_kept();
        }
        self.rest();
        self.tell_what_is_kept();
        !self.has_backlog()
    }

    /// As [`drain_backlog`](Self::drain_backlog), for no longer than until then.
    pub(crate) fn drain_backlog_until(&mut self, limit: Instant) {
        self.limit = Some(limit);
        self.drain_backlog();
        self.limit = None;
    }

    fn look(&self) -> Look {
        let (patience, aside) = self.subscribers.patience();
        let over = is_over(patience);
        Look {
            over,
            aside: !over && (aside || is_over(self.limit)),
            until: [patience, self.limit].into_iter().flatten().min(),
        }
    }

    fn keep_for_later(&mut self, item: T) {
        if self.later_weight >= LAG_WEIGHT {
            // And so is all that follows until some of it has been handed out.
            return self.subscribers.count_too_late();
        }
        self.later_weight += self.weight(&item);
        self.backlog.push_back(item);
        self.tell_what_is_kept();
    }

    fn tell_what_is_kept(&self) {
        let kept = self.backlog.len() + usize::from(!self.blocked.is_empty());
        self.subscribers.kept.store(kept, Ordering::Relaxed);
    }

    /// The list as they are now, taken out of `self.snapshot`; `None` when there are none.
    fn refresh(&mut self) -> Option<SubscriberList<T>> {
        let version = self.subscribers.version.load(Ordering::Acquire);
        let list = match self.snapshot.take() {
            Some(list) if self.seen == version => list,
            _ => {
                let state = self.subscribers.state.lock();
                // Under the lock the version cannot change.
                self.seen = self.subscribers.version.load(Ordering::Acquire);
                state.list.clone()
            }
        };
        (!list.is_empty()).then_some(list)
    }

    fn weight(&self, item: &T) -> usize {
        (self.subscribers.weighing.weigh)(item)
    }

    fn offer(&mut self, subscriber: &Arc<Subscriber<T>>, item: T, weight: usize) {
        if self.truncated.contains(&subscriber.id) {
            return subscriber.count_dropped(&self.subscribers.dropped);
        }
        match subscriber.put_nowait(item, weight, &self.subscribers.dropped) {
            Ok(()) => {}
            Err(PutError::Full(item)) => {
                self.blocked.push_back((Arc::downgrade(subscriber), item));
            }
            Err(PutError::Closed(_)) => self.gone.push(subscriber.id),
        }
    }

    /// Keeps an item for the first consumer, if there has been none.
    fn keep(&mut self, item: T) {
        let weigh = self.subscribers.weighing.weigh;
        let mut old = Vec::new();
        let mut state = self.subscribers.state.lock();
        if !state.list.is_empty() {
            // Somebody has just subscribed.
            drop(state);
            return self.hand_out(item);
        }
        if state.attached {
            return;
        }
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
        drop(state);
        if !old.is_empty() {
            let before = self
                .subscribers
                .dropped
                .fetch_add(old.len() as u64, Ordering::Relaxed);
            if before == 0 {
                crate::logging::warn!(
                    "nothing has subscribed: the oldest of the kept messages are dropped"
                );
            }
        }
    }

    /// Returns whether to go on with the item: not when the publisher is set aside.
    fn wait_until_resumed(&mut self) -> bool {
        self.drop_caught();
        while self.subscribers.paused.load(Ordering::SeqCst) {
            let look = self.look();
            if look.over || look.aside {
                return look.over;
            }
            let notify = &self.subscribers.notify.1;
            match look.until {
                None => drop(notify.recv()),
                Some(until) => drop(notify.recv_deadline(until)),
            }
        }
        true
    }

    /// Hands the item over to those who were full, waiting for each as long as there is patience, and the
    /// publisher is not set aside.
    fn wait_for_the_full(&mut self) {
        self.drop_caught();
        while let Some((full, mut item)) = self.blocked.pop_front() {
            let Some(subscriber) = full.upgrade() else {
                continue;
            };
            let start = Instant::now();
            let weight = self.weight(&item);
            loop {
                if subscriber.removed.load(Ordering::Acquire) {
                    break;
                }
                // Nobody makes room without a thread.
                let thread = match subscriber.lacks_a_thread() {
                    true => self.subscribers.threads.look(),
                    false => Found::All,
                };
                let Look { over, aside, until } = self.look();
                if aside {
                    self.blocked.push_front((full, item));
                    return;
                }
                let try_again = match thread {
                    Found::All => None,
                    Found::NotYet(next) => Some(next),
                    Found::None => {
                        subscriber.count_dropped(&self.subscribers.dropped);
                        self.truncated.push(subscriber.id);
                        break;
                    }
                };
                // A forgotten subscription is found more easily by who is told of it.
                let warn_at = (!subscriber.has_warned()).then(|| start + LONG);
                let wait_until = [until, warn_at, try_again].into_iter().flatten().min();
                let patience = Patience::new(&self.subscribers.notify.1, wait_until);
                item = match subscriber.put(item, weight, &patience, &self.subscribers.dropped) {
                    Ok(()) => break,
                    Err(PutError::Full(item)) if patience.used() && !over => {
                        if start.elapsed() >= LONG {
                            subscriber.warn_that_it_is_full();
                        }
                        item
                    }
                    Err(PutError::Full(_)) => {
                        subscriber.count_dropped(&self.subscribers.dropped);
                        // Who does not wait is used to gaps.
                        if patience.used() {
                            self.truncated.push(subscriber.id);
                        }
                        break;
                    }
                    Err(PutError::Closed(_)) => {
                        self.gone.push(subscriber.id);
                        break;
                    }
                };
            }
        }
    }
}

/// What a publisher that waits finds when it looks up.
struct Look {
    /// There is no patience left.
    over: bool,
    /// It has something else to do.
    aside: bool,
    until: Option<Instant>,
}

/// Whether there is no patience left.
pub(super) fn is_over(patience: Option<Instant>) -> bool {
    patience.is_some_and(|until| Instant::now() >= until)
}

impl<T: Clone + Send + 'static> Drop for Publisher<T> {
    fn drop(&mut self) {
        self.snapshot = None;
        // Nothing, unless the owner ends without having caught up.
        for (full, _) in self.blocked.drain(..) {
            if let Some(subscriber) = full.upgrade() {
                subscriber.count_dropped(&self.subscribers.dropped);
            }
        }
        for _ in self.backlog.drain(..) {
            self.subscribers.count_too_late();
        }
        self.tell_what_is_kept();
        let _ = self.subscribers.end.set(Error::Ended);
        let list = {
            let mut state = self.subscribers.state.lock();
            state.ended = true;
            self.subscribers.changed();
            let list = std::mem::replace(&mut state.list, Arc::new([]));
            let sinks = list.iter().filter(|subscriber| subscriber.output.is_sink());
            state.last = sinks
                .map(|subscriber| (subscriber.id, subscriber.removed.clone()))
                .collect();
            list
        };
        drop(list);
        if !self.leaves_callbacks {
            self.subscribers.finish();
        }
    }
}

impl<T: Clone + Send + 'static> fmt::Debug for Publisher<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Producer, Queue, Weighing};
    use super::*;

    #[test]
    fn who_was_full_when_there_was_no_patience_left_gets_no_more_and_so_has_no_gap() {
        let (mut publisher, producer) = Producer::new();
        let slow = producer.subscribe_with(Queue::Block(1));
        let fast = producer.subscribe_with(Queue::Block(3));
        publisher.put(0);
        producer.set_delivery_deadline(Instant::now());
        publisher.put(1);
        assert_eq!(slow.try_get().unwrap(), 0);
        publisher.put(2);
        drop(publisher);
        assert_eq!(slow.iter().count(), 0);
        assert!(fast.iter().eq([0, 1, 2]));
        assert_eq!(producer.dropped(), 2);
    }

    #[test]
    fn a_sink_that_does_not_wait_goes_on_after_a_gap() {
        use crate::pubsub::Sink;
        use crossbeam_channel::bounded;
        struct Lossy(crossbeam_channel::Sender<u8>);
        impl Sink<u8> for Lossy {
            fn put_nowait(&self, item: u8) -> Result<(), PutError<u8>> {
                self.0.put_nowait(item)
            }
        }
        let (sender, receiver) = bounded(1);
        let (mut publisher, producer) = Producer::new();
        producer.subscribe_to(Lossy(sender));
        producer.set_delivery_deadline(Instant::now());
        publisher.put(0);
        publisher.put(1);
        assert_eq!(receiver.try_recv(), Ok(0));
        publisher.put(2);
        assert_eq!(receiver.try_recv(), Ok(2));
    }

    #[test]
    fn a_publisher_that_is_set_aside_keeps_what_is_full_and_hands_it_out_in_order() {
        let (mut publisher, producer) = Producer::new();
        let slow = producer.subscribe_with(Queue::Block(1));
        let fast = producer.subscribe_with(Queue::Unbounded);
        producer.spill(true);
        (0..5).for_each(|n| publisher.put_in_batch(n));
        assert!(publisher.has_backlog());
        assert!(!publisher.drain_backlog());
        // Who has room is not ahead by more than the item that the other waits for.
        assert_eq!(fast.len(), 2);
        assert_eq!(slow.try_get().unwrap(), 0);
        producer.spill(false);
        publisher.drain_backlog_until(Instant::now() + Duration::from_millis(1));
        assert!(publisher.has_backlog());
        assert_eq!(slow.try_get().unwrap(), 1);
        let taking = std::thread::spawn(move || slow.iter().collect::<Vec<_>>());
        assert!(publisher.drain_backlog());
        assert!(!publisher.has_backlog());
        publisher.put(5);
        drop(publisher);
        assert_eq!(taking.join().unwrap(), [2, 3, 4, 5]);
        assert!(fast.iter().eq(0..6));
        assert_eq!(producer.dropped(), 0);
    }

    #[test]
    fn a_wait_for_weight_ends_when_the_publisher_has_to_go_on() {
        let weighing = Weighing {
            weigh: |item: &usize| *item,
            limit: 100,
        };
        for aside in [false, true] {
            let (mut publisher, producer) = Producer::with_weight(Queue::Block(50), weighing);
            let slow = producer.subscribe();
            publisher.put(60);
            publisher.put(40);
            let (done, waited) = crossbeam_channel::bounded(1);
            std::thread::spawn(move || {
                publisher.put(1);
                done.send(publisher).unwrap();
            });
            match aside {
                true => producer.spill(true),
                false => producer.set_delivery_deadline(Instant::now()),
            }
            let deadline = Duration::from_secs(20);
            let publisher = waited.recv_timeout(deadline).expect("the publisher waits");
            assert_eq!(publisher.has_backlog(), aside);
            assert_eq!(producer.dropped(), u64::from(!aside));
            assert_eq!(slow.len(), 2);
        }
    }

    #[test]
    fn setting_a_publisher_aside_ends_its_wait() {
        let (mut publisher, producer) = Producer::new();
        let slow = producer.subscribe_with(Queue::Block(1));
        publisher.put(0);
        let (done, waited) = crossbeam_channel::bounded(1);
        std::thread::spawn(move || {
            publisher.put(1);
            done.send(publisher).unwrap();
        });
        producer.spill(true);
        let deadline = Duration::from_secs(20);
        let publisher = waited.recv_timeout(deadline).expect("the publisher waits");
        assert!(publisher.has_backlog());
        drop(slow);
        let mut publisher = publisher;
        assert!(publisher.drain_backlog());
    }
}
