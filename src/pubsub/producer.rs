//! The subscribing side of a producer.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::callback_limit::blocking;
use super::callbacks::CallbackPool;
use super::fan_out::Publisher;
use super::forwarder::Forwarder;
use super::hold::Hold;
use super::queue::{Queue, open_queue};
use super::sink::Sink;
use super::status::{Status, SubscriptionId};
use super::subscriber::{Call, Callback, CallbackOutput, Output, Subscriber};
use super::subscribers::Subscribers;
use super::subscription::Subscription;
use super::threads::Threads;
use super::weight_limit::Weighing;
use crate::error::{PutError, Result};
use crate::panics::log_panic;

/// What emits items: the side that others subscribe to. Clones are handles to the same producer.
///
/// The other side, the one that emits, is the [`Publisher`]. Items that are published before
/// anything has subscribed are kept (at most 1024, the oldest go first) and handed to whoever
/// subscribes first.
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
        let subscribers = &self.subscribers;
        let status = Status::new();
        let mut state = subscribers.state.lock();
        let mut early = state.take_early();
        let (output, items) = open_queue(queue, subscribers.weighing, &mut early);
        let subscriber = Subscriber::new(status.clone(), output);
        let operation_lock = subscriber.operation_lock();
        let drop_later = subscribers.insert(&mut state, Arc::new(subscriber));
        drop(state);
        subscribers.delivery.count_dropped(early.len());
        let weak = Arc::downgrade(subscribers);
        let unsubscribe = move |id| {
            if let Some(subscribers) = weak.upgrade() {
                subscribers.remove(id);
            }
        };
        let end = subscribers.end.clone();
        let subscription = Subscription::new(status, items, operation_lock, end, unsubscribe);
        (subscription, (early, drop_later))
    }

    /// Feeds `sink` every item from now on, until [`unsubscribe`](Self::unsubscribe) or until it
    /// says that it is closed. See [`Sink`] for what happens when it is full, and where it is
    /// called.
    pub fn subscribe_to(&self, sink: impl Sink<T>) -> SubscriptionId {
        let status = Status::new();
        let id = status.id;
        if sink.room_wait().is_some() {
            Forwarder::attach(&self.subscribers, status, sink);
            return id;
        }
        let subscribers = Arc::downgrade(&self.subscribers);
        let delivery = self.subscribers.delivery.clone();
        // Items that still wait for it then are dropped and counted.
        let closed = AtomicBool::new(false);
        let call = {
            let status = status.clone();
            move |item| {
                let result = match closed.load(Ordering::Relaxed) {
                    true => Err(PutError::Closed(item)),
                    false => sink.put_nowait(item),
                };
                let Err(error) = result else {
                    return;
                };
                delivery.count_dropped(1);
                if error.is_full() {
                    return status.warn_dropped();
                }
                closed.store(true, Ordering::Relaxed);
                if let Some(subscribers) = subscribers.upgrade() {
                    subscribers.detach(id);
                }
            }
        };
        self.attach(status, self.dispatcher(), Box::new(call))
    }

    /// Calls `f` with every item from now on, in order, on the producer's dispatch thread.
    ///
    /// A panic in `f` is logged and ends nothing. When 1024 items wait for callbacks, the publisher
    /// pauses until half of them have been called.
    ///
    /// Where the operating system starts no thread, this waits for at most a second, and returns;
    /// for what happens then, see [`Publisher`]. On a producer that has ended, `f` is then called
    /// on the calling thread, with what was kept.
    pub fn subscribe_callback(&self, f: impl FnMut(T) + Send + 'static) -> SubscriptionId {
        // Taken out for a call: nothing is called under the lock. One thread calls it.
        let place = Mutex::new(Some(f));
        let call = move |item| {
            let f = place.lock().take();
            if let Some(mut f) = f {
                log_panic(|| f(item));
                *place.lock() = Some(f);
            }
        };
        self.attach(Status::new(), self.dispatcher(), Box::new(call))
    }

    /// Calls `f` with every item from now on, on up to `workers` threads at once, so that a slow
    /// call does not hold back the next item: RTCBot's coroutine callbacks.
    ///
    /// A thread is started when an item finds none free. Calls start in the items' order and may
    /// end in any. When 1024 items wait for a free thread, the publisher pauses until half of them
    /// have been called.
    pub fn subscribe_concurrent(
        &self,
        workers: usize,
        f: impl Fn(T) + Send + Sync + 'static,
    ) -> SubscriptionId {
        let pool = self.subscribers.workers(workers);
        self.attach(Status::new(), &pool, Box::new(f))
    }

    /// Removes a subscription, sink or callback, so that it gets nothing more; an item that is
    /// being handed over at this moment may still come. What a subscription has in its queue can
    /// still be taken; then it says [`Error::Unsubscribed`](crate::Error::Unsubscribed).
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
    /// [`Error::Unsubscribed`](crate::Error::Unsubscribed) when another thread removed the default
    /// subscription meanwhile.
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
        self.subscribers.delivery.dropped.load(Ordering::Relaxed)
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

    /// Has `call` called on a thread of the pool. What came early is taken, however much that is.
    fn attach(
        &self,
        status: Arc<Status>,
        pool: &CallbackPool<Call<T>>,
        call: Callback<T>,
    ) -> SubscriptionId {
        let subscribers = &self.subscribers;
        let id = status.id;
        let output = Output::Callback(CallbackOutput::new(call, pool.feeder()));
        let subscriber = Arc::new(Subscriber::new(status, output));
        let mut state = subscribers.state.lock();
        let early = state.take_early();
        let is_needed = !early.is_empty() || pool == self.dispatcher();
        pool.extend(early.into_iter().map(|item| {
            let weight = (subscribers.weighing.weigh)(&item);
            Call::Item(subscriber.clone(), item, weight)
        }));
        let drop_later = subscribers.insert(&mut state, subscriber);
        drop(state);
        if is_needed {
            pool.wake_threads();
        }
        drop(drop_later);
        subscribers.delivery.threads.wait();
        id
    }

    // What a `Websocket` needs beyond the public part.

    /// How many items wait for the slowest: in the longest queue, for callbacks, or for the first
    /// to subscribe; and behind those.
    pub(crate) fn backlog(&self) -> usize {
        let queued = {
            let state = self.subscribers.state.lock();
            let queues = state.list.iter().map(|subscriber| subscriber.len());
            queues.chain([state.early.len()]).max().unwrap_or_default()
        };
        let kept = self.subscribers.kept.load(Ordering::Relaxed);
        queued.max(self.dispatcher().limit().items()) + kept
    }

    /// Where callbacks run that are called one at a time.
    pub(crate) fn dispatcher(&self) -> &CallbackPool<Call<T>> {
        &self.subscribers.dispatcher
    }

    /// Runs `f` on the dispatch thread, for others than the publisher: where there is no thread, it
    /// is waited for, for a second at most.
    pub(crate) fn run(&self, f: impl FnOnce() + Send + 'static) {
        self.dispatcher().run(f);
        self.subscribers.delivery.threads.wait();
    }

    /// The threads of this producer.
    pub(crate) fn threads(&self) -> &Threads {
        &self.subscribers.delivery.threads
    }

    /// Nothing more is to be called; to be called after
    /// [`end_before_callbacks`](Publisher::end_before_callbacks). What waits for callbacks is
    /// called, here if the system starts no thread.
    pub(crate) fn finish(&self) {
        self.subscribers.finish();
    }

    /// Waits in `wait` for something that this producer brings, perhaps in one of its callbacks.
    pub(crate) fn blocking<R>(&self, wait: impl FnOnce() -> R) -> R {
        blocking(&self.subscribers.end, wait)
    }

    /// Makes the publisher wait, before its next item, until [`resume`](Self::resume).
    pub(crate) fn pause(&self) {
        self.subscribers.delivery.pause();
    }

    pub(crate) fn resume(&self) {
        self.subscribers.delivery.resume();
    }

    /// Sets how long the publisher waits for full subscribers from now on; a wait that it is in is
    /// no exception. [`Hold::Never`] is final, and of two times the earlier stays.
    pub(crate) fn set_hold(&self, hold: Hold) {
        self.subscribers.delivery.set_hold(hold);
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
