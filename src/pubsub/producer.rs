//! Fans one stream out to subscriptions, sinks and callbacks.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::callback_limit::Weighing;
use super::dispatch::Dispatcher;
use super::fan_out::{Publisher, is_over};
use super::forwarder::{self, Offered};
use super::sink::{Patience, Sink};
use super::subscribers::{Forwarder, Output, Subscriber, Subscribers, open_forwarder, open_queue};
use super::subscription::{Queue, Subscription, SubscriptionId};
use super::threads::{Bounded, Lacking, Order, Start, Threaded, Threads};
use super::workers::Workers;
use crate::error::Result;

/// What emits items: the side that others subscribe to. Clones are handles to the same producer.
///
/// The other side, the one that emits, is the [`Publisher`]. Items that are published before anything
/// has subscribed are kept (at most 1024, the oldest go first) and handed to whoever subscribes first.
pub struct Producer<T> {
    subscribers: Arc<Subscribers<T>>,
}

impl<T: Clone + Send + 'static> Producer<T> {
    /// A producer whose subscriptions are queues of the default kind, and the end that feeds it.
    #[allow(clippy::new_ret_no_self)] // A pair of ends, like the channels' constructors.
    pub fn new() -> (Publisher<T>, Producer<T>) {
        Self::with_queue(Queue::default())
    }

    /// A producer whose [`subscribe`](Self::subscribe) and [`get`](Self::get) use `queue`.
    pub fn with_queue(queue: Queue) -> (Publisher<T>, Producer<T>) {
        let weightless = Weighing {
            weigh: |_| 0,
            limit: usize::MAX,
        };
        Self::with_weight(queue, weightless)
    }

    pub(crate) fn with_weight(queue: Queue, weighing: Weighing<T>) -> (Publisher<T>, Producer<T>) {
        let subscribers = Subscribers::new(queue, weighing);
        let publisher = Publisher::new(subscribers.clone());
        (publisher, Producer { subscribers })
    }

    /// A new, independent subscription: it gets every item from now on.
    #[doc(alias = "SubscriptionProducer")]
    pub fn subscribe(&self) -> Subscription<T> {
        self.subscribe_with(self.subscribers.queue)
    }

    /// A new subscription with a queue of your choice.
    pub fn subscribe_with(&self, queue: Queue) -> Subscription<T> {
        let (subscription, _drop_later) = self.new_subscription(queue);
        subscription
    }

    /// Also returns what has to be dropped where no lock is held.
    fn new_subscription(&self, queue: Queue) -> (Subscription<T>, impl Sized + use<T>) {
        let id = SubscriptionId::next();
        let removed = Arc::<AtomicBool>::default();
        let (items, turn, left_out, drop_later) = {
            let mut state = self.subscribers.state.lock();
            let mut early = state.take_early();
            let (output, items) = open_queue(queue, self.subscribers.weighing, &mut early);
            let turn = output.turn();
            let subscriber = Subscriber::new(id, output, removed.clone());
            (
                items,
                turn,
                early,
                self.subscribers.insert(&mut state, subscriber),
            )
        };
        if !left_out.is_empty() {
            let count = left_out.len() as u64;
            self.subscribers.dropped.fetch_add(count, Ordering::Relaxed);
        }
        let subscribers = Arc::downgrade(&self.subscribers);
        let subscription = Subscription::new(
            id,
            items,
            turn,
            self.subscribers.end.clone(),
            removed,
            move |id| {
                if let Some(subscribers) = subscribers.upgrade() {
                    subscribers.remove(id);
                }
            },
        );
        (subscription, (left_out, drop_later))
    }

    /// Feeds `sink` every item from now on, until [`unsubscribe`](Self::unsubscribe) or until it
    /// says that it is closed. See [`Sink`] for what happens when it is full.
    pub fn subscribe_to(&self, sink: impl Sink<T>) -> SubscriptionId {
        let id = SubscriptionId::next();
        let removed = Arc::<AtomicBool>::default();
        loop {
            let early = {
                let mut state = self.subscribers.state.lock();
                let early = state.take_early();
                if early.is_empty() {
                    let subscriber = Subscriber::new(id, Output::sink(sink, None), removed);
                    let drop_later = self.subscribers.insert(&mut state, subscriber);
                    drop(state);
                    drop(drop_later);
                    return id;
                }
                early
            };
            // Outside the lock, since this is the user's code. Meanwhile more may come early.
            match forwarder::offer_all(&sink, early) {
                Offered::All => {}
                Offered::Full(rest) => {
                    self.forwarder(id, removed, sink, rest);
                    return id;
                }
                Offered::Closed(rest) => {
                    let mut state = self.subscribers.state.lock();
                    let lost = state.put_back_early(rest, self.subscribers.weighing.weigh);
                    drop(state);
                    if !lost.is_empty() {
                        let count = lost.len() as u64;
                        self.subscribers.dropped.fetch_add(count, Ordering::Relaxed);
                        crate::logging::warn!(
                            "{count} early messages are dropped: their sink was closed"
                        );
                    }
                    return id;
                }
            }
        }
    }

    /// Calls `f` with every item from now on, in order, on the producer's dispatch thread.
    ///
    /// A panic in `f` is logged and ends nothing. When 1024 items wait for callbacks, the publisher
    /// pauses.
    ///
    /// Where the operating system starts no thread, this waits for at most a second, and returns;
    /// for what happens then, see [`Publisher`]. On a producer that has ended, `f` is then called
    /// on the calling thread, with what was kept.
    pub fn subscribe_callback(&self, f: impl FnMut(T) + Send + 'static) -> SubscriptionId {
        let id = SubscriptionId::next();
        let removed = Arc::<AtomicBool>::default();
        let sink = self.subscribers.dispatcher.callback(id, removed.clone(), f);
        self.attach(id, removed, sink)
    }

    /// Calls `f` with every item from now on, on up to `workers` threads at once, so that a slow
    /// call does not hold back the next item: RTCBot's coroutine callbacks.
    ///
    /// A thread is started when an item finds none free. Calls start in the items' order and may
    /// end in any. When 1024 items wait for a free thread, the publisher pauses.
    pub fn subscribe_concurrent(
        &self,
        workers: usize,
        f: impl Fn(T) + Send + Sync + 'static,
    ) -> SubscriptionId {
        let id = SubscriptionId::next();
        let removed = Arc::<AtomicBool>::default();
        let (threads, weighing) = (self.subscribers.threads.clone(), self.subscribers.weighing);
        let sink = Workers::new(workers, removed.clone(), weighing, threads, f);
        self.attach(id, removed, sink)
    }

    /// Removes a subscription, sink or callback, so that it gets nothing more; an item that is being handed
    /// over at this moment may still come. What a subscription has in its queue can still be taken; then it
    /// says [`Error::Unsubscribed`](crate::Error::Unsubscribed).
    ///
    /// Returns whether it was there.
    pub fn unsubscribe(&self, which: impl AsRef<SubscriptionId>) -> bool {
        self.subscribers.remove(*which.as_ref())
    }

    /// Removes the default subscription that [`get`](Self::get) made, if there is one; the next
    /// `get` makes a new one.
    pub fn unsubscribe_default(&self) {
        let default = self.subscribers.default.lock().take();
        if let Some(default) = default {
            self.unsubscribe(&default);
        }
    }

    /// Removes all subscriptions, sinks and callbacks, the default subscription included.
    pub fn unsubscribe_all(&self) {
        let default = self.subscribers.default.lock().take();
        self.subscribers.clear();
        drop(default);
    }

    /// Takes the next item of the default subscription, which the first call makes. Waits for as
    /// long as the producer lives.
    ///
    /// # Errors
    ///
    /// When nothing is queued any more: the reason the producer ended, or
    /// [`Error::Unsubscribed`](crate::Error::Unsubscribed) when another thread removed the default subscription meanwhile.
    pub fn get(&self) -> Result<T> {
        self.default_subscription().get()
    }

    /// As [`get`](Self::get), waiting for at most `timeout`.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`](crate::Error::Timeout) when the time is over, else as [`get`](Self::get).
    pub fn get_timeout(&self, timeout: Duration) -> Result<T> {
        self.default_subscription().get_timeout(timeout)
    }

    /// As [`get`](Self::get), never waiting.
    ///
    /// # Errors
    ///
    /// [`Error::Empty`](crate::Error::Empty) when no item is there, else as [`get`](Self::get).
    pub fn try_get(&self) -> Result<T> {
        self.default_subscription().try_get()
    }

    /// How many items were dropped: by the policy of a queue, because a sink was full and could
    /// not wait, or because the operating system started no thread for callbacks.
    pub fn dropped(&self) -> u64 {
        self.subscribers.dropped.load(Ordering::Relaxed)
    }

    fn default_subscription(&self) -> Subscription<T> {
        let mut default = self.subscribers.default.lock();
        if let Some(subscription) = &*default {
            return subscription.clone();
        }
        let (subscription, drop_later) = self.new_subscription(self.subscribers.queue);
        *default = Some(subscription.clone());
        drop(default);
        drop(drop_later);
        subscription
    }

    /// Attaches a sink of this crate's own, which takes all that came early without waiting.
    fn attach(
        &self,
        id: SubscriptionId,
        removed: Arc<AtomicBool>,
        sink: impl Threaded<T>,
    ) -> SubscriptionId {
        let start = sink.starter();
        let mut state = self.subscribers.state.lock();
        let early = state.take_early();
        let count = early.len();
        if state.ended && count > 0 {
            // It is no subscriber, and is called all the same, unless it is removed.
            state.last.push((id, removed.clone()));
        }
        for item in early {
            // Taken, however much that is.
            let _ = sink.enqueue(item, Bounded::No);
        }
        let lacking = sink.lacking();
        let queue = sink.queue();
        let subscriber =
            Subscriber::new(id, Output::sink(sink, queue), removed).with_thread(lacking);
        let drop_later = self.subscribers.insert(&mut state, subscriber);
        drop(state);
        for _ in 0..count {
            start();
        }
        drop((start, drop_later));
        self.subscribers.threads.wait();
        id
    }

    /// Attaches a sink that is too full for what came early: a thread hands it over, and all that follows.
    fn forwarder(
        &self,
        id: SubscriptionId,
        removed: Arc<AtomicBool>,
        sink: impl Sink<T>,
        rest: VecDeque<T>,
    ) {
        let forwarder = Forwarder::new(id, removed.clone());
        let lacking = Lacking::default();
        let mut state = self.subscribers.state.lock();
        let early = rest.into_iter().chain(state.take_early()).collect();
        let (output, items) = open_forwarder(self.subscribers.weighing, early);
        state.forwarders.push(forwarder.clone());
        let subscriber = Subscriber::new(id, output, removed).with_thread(lacking.clone());
        let drop_later = self.subscribers.insert(&mut state, subscriber);
        drop(state);
        drop(drop_later);
        let subscribers = Arc::downgrade(&self.subscribers);
        let start = Start::new("ws-forwarder", Order::Last, &lacking, move |stay| {
            forwarder::hand_over_all(&subscribers, &forwarder, items, sink, stay);
        });
        self.subscribers.threads.start(start);
        self.subscribers.threads.wait();
    }

    // What a `Websocket` needs beyond the public part.

    /// How many items wait for the slowest: in the longest queue, for callbacks, or for the first to
    /// subscribe; and behind those.
    pub(crate) fn backlog(&self) -> usize {
        let queued = {
            let state = self.subscribers.state.lock();
            let queues = state.list.iter().map(|subscriber| subscriber.output.len());
            queues.chain([state.early.len()]).max().unwrap_or_default()
        };
        let kept = self.subscribers.kept.load(Ordering::Relaxed);
        queued.max(self.subscribers.dispatcher.waiting()) + kept
    }

    pub(crate) fn dispatcher(&self) -> &Dispatcher<T> {
        &self.subscribers.dispatcher
    }

    /// Runs `f` on the dispatch thread, for others than the publisher: where there is no thread, it
    /// is waited for, for a second at most.
    pub(crate) fn run(&self, f: impl FnOnce() + Send + 'static) {
        self.subscribers.dispatcher.run(f);
        self.subscribers.threads.wait();
    }

    /// The threads of this producer.
    pub(crate) fn threads(&self) -> &Threads {
        &self.subscribers.threads
    }

    /// Nothing more is to be called; to be called after
    /// [`end_before_callbacks`](Publisher::end_before_callbacks). What waits for callbacks is
    /// called, here if the system starts no thread.
    pub(crate) fn finish(&self) {
        self.subscribers.finish();
    }

    /// Makes the publisher wait, before its next item, until [`resume`](Self::resume).
    pub(crate) fn pause(&self) {
        self.subscribers.paused.store(true, Ordering::SeqCst);
    }

    pub(crate) fn resume(&self) {
        self.subscribers.paused.store(false, Ordering::SeqCst);
        self.subscribers.notify();
    }

    /// From now on the publisher waits for full queues until `until` at the latest. An earlier time
    /// that was set before stays.
    pub(crate) fn set_delivery_deadline(&self, until: Instant) {
        self.subscribers.set_delivery_deadline(until);
    }

    /// Ends the publisher's wait for full queues, and any other until `aside` is taken back: it keeps
    /// what it could not hand over, and all that follows, for its [`drain_backlog`](Publisher::drain_backlog).
    pub(crate) fn spill(&self, aside: bool) {
        self.subscribers.spill(aside);
    }

    /// Whether the publisher is to wait no longer.
    pub(crate) fn must_go_on(&self) -> bool {
        let (patience, aside) = self.subscribers.patience();
        aside || is_over(patience)
    }

    /// To wait with on the publisher's thread, until then or until the publisher has to look.
    pub(crate) fn patience(&self, until: Option<Instant>) -> Patience<'_> {
        let (patience, _) = self.subscribers.patience();
        let until = [patience, until].into_iter().flatten().min();
        Patience::new(&self.subscribers.notify.1, until)
    }
}

impl<T> Clone for Producer<T> {
    fn clone(&self) -> Self {
        Producer {
            subscribers: self.subscribers.clone(),
        }
    }
}

impl<T> fmt::Debug for Producer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer")
            .field("subscribers", &self.subscribers.state.lock().list.len())
            .finish_non_exhaustive()
    }
}
