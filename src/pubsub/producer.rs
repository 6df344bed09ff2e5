//! The end of a producer that others subscribe to.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::callback_limit::blocking;
use super::callbacks::CallbackPool;
use super::fan_out::Publisher;
use super::forwarder::Forwarder;
use super::queue::open_queue;
use super::sink::Sink;
use super::slow_consumer::Hold;
use super::slow_consumer::Queue;
use super::status::{Status, SubscriptionId};
use super::subscriber::{Call, Callback, CallbackOutput, Output, Subscriber};
use super::subscribers::Subscribers;
use super::subscription::Subscription;
use super::threads::Threads;
use super::weight_limit::Weighing;
use crate::error::{PutError, Result};
use crate::panics::log_panic;

/// Passes one stream of items to all its subscriptions, sinks and callbacks.
///
/// [`producer`](producer()) creates one with its [`Publisher`], which is the other end and emits
/// the items. Items that are published before the first subscription are kept for it: at most 1024,
/// of which the oldest are dropped first.
///
/// Clones are handles to the same producer.
///
/// # Examples
///
/// ```
/// use rtcbot_websocket::pubsub;
///
/// let (mut publisher, sensor) = pubsub::producer();
/// publisher.put(7); // kept for the first subscription
/// let readings = sensor.subscribe();
/// publisher.put(8);
/// assert_eq!(readings.get()?, 7);
/// assert_eq!(readings.get()?, 8);
/// # Ok::<(), rtcbot_websocket::Error>(())
/// ```
pub struct Producer<T> {
    pub(super) subscribers: Arc<Subscribers<T>>,
}

/// Creates a producer and its publisher. Subscriptions have a queue of the default kind.
///
/// [`Producer`] has an example.
#[must_use]
pub fn producer<T: Clone + Send + 'static>() -> (Publisher<T>, Producer<T>) {
    producer_with(Queue::default())
}

/// Creates a producer and its publisher. [`subscribe`](Producer::subscribe) and
/// [`get`](Producer::get) use `queue`.
///
/// # Examples
///
/// ```
/// use rtcbot_websocket::pubsub::{self, Queue};
///
/// let (mut publisher, sensor) = pubsub::producer_with(Queue::Latest);
/// let readings = sensor.subscribe();
/// publisher.put(7);
/// publisher.put(8);
/// assert_eq!(readings.get()?, 8);
/// # Ok::<(), rtcbot_websocket::Error>(())
/// ```
#[must_use]
pub fn producer_with<T: Clone + Send + 'static>(queue: Queue) -> (Publisher<T>, Producer<T>) {
    let weightless = Weighing {
        weigh: |_| 0,
        limit: usize::MAX,
    };
    Producer::with_weight(queue, weightless)
}

impl<T: Clone + Send + 'static> Producer<T> {
    pub(crate) fn with_weight(queue: Queue, weighing: Weighing<T>) -> (Publisher<T>, Producer<T>) {
        let subscribers = Subscribers::new(queue, weighing);
        let publisher = Publisher::new(subscribers.clone());
        (publisher, Producer { subscribers })
    }

    /// Returns a new subscription, which receives every item from now on, independently of the
    /// others.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::pubsub;
    ///
    /// let (mut publisher, sensor) = pubsub::producer();
    /// let display = sensor.subscribe();
    /// let recorder = sensor.subscribe();
    /// publisher.put(7);
    /// assert_eq!(display.get()?, 7);
    /// assert_eq!(recorder.get()?, 7);
    /// # Ok::<(), rtcbot_websocket::Error>(())
    /// ```
    #[doc(alias = "SubscriptionProducer")]
    pub fn subscribe(&self) -> Subscription<T> {
        self.subscribe_with(self.subscribers.queue)
    }

    /// Returns a new subscription with a queue of this kind, which decides what happens when the
    /// reader of the subscription falls behind.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::pubsub::{self, Queue};
    ///
    /// let (mut publisher, sensor) = pubsub::producer();
    /// let newest = sensor.subscribe_with(Queue::Latest);
    /// let last_two = sensor.subscribe_with(Queue::DropOldest(2));
    /// (1..=3).for_each(|reading| publisher.put(reading));
    /// assert_eq!(newest.get()?, 3);
    /// assert_eq!(last_two.get()?, 2);
    /// # Ok::<(), rtcbot_websocket::Error>(())
    /// ```
    pub fn subscribe_with(&self, queue: Queue) -> Subscription<T> {
        let (subscription, _drop_later) = self.new_subscription(queue);
        subscription
    }

    /// Returns a new subscription, and values that have to be dropped where no lock is held.
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
        subscribers.delivery.dropped.count(early.len());
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

    /// Passes every item from now on to `sink`, until [`unsubscribe`](Self::unsubscribe) or until
    /// the sink is closed.
    ///
    /// [`Sink`] describes on which thread the sink is called, and what happens when it is full.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::pubsub;
    ///
    /// let (mut publisher, joystick) = pubsub::producer();
    /// let (motor, mut inbox) = pubsub::consumer(16);
    /// joystick.subscribe_to(motor);
    /// publisher.put(50);
    /// assert_eq!(inbox.get()?, 50);
    /// # Ok::<(), rtcbot_websocket::Error>(())
    /// ```
    #[doc(alias = "pipe")]
    #[doc(alias = "forward")]
    pub fn subscribe_to(&self, sink: impl Sink<T>) -> SubscriptionId {
        let status = Status::new();
        let id = status.id;
        if sink.room_wait().is_some() {
            Forwarder::attach(&self.subscribers, status, sink);
            return id;
        }
        let subscribers = Arc::downgrade(&self.subscribers);
        let delivery = self.subscribers.delivery.clone();
        // Once the sink is closed, the items that are queued for it are dropped and counted.
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
                let is_full = error.is_full();
                delivery.dropped.discard(error.into_inner());
                if is_full {
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
    /// All callbacks share that thread, so a slow one delays the others. A panic in `f` is logged,
    /// and `f` stays subscribed.
    ///
    /// When 1024 items are queued for callbacks, the publisher pauses until half of them have been
    /// passed to their callbacks. It does not pause while a callback waits in [`get`](Self::get),
    /// [`get_timeout`](Self::get_timeout), or the same methods of one of this producer's
    /// subscriptions.
    ///
    /// If the operating system cannot start the dispatch thread, this waits for at most a second
    /// and returns. [`Publisher`] describes what happens then. If the producer has already ended,
    /// `f` is then called on the calling thread, with the items that were kept.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::pubsub;
    ///
    /// let (mut publisher, sensor) = pubsub::producer();
    /// let (log, lines) = crossbeam_channel::unbounded();
    /// sensor.subscribe_callback(move |reading| log.send(format!("read {reading}")).unwrap());
    /// publisher.put(7);
    /// assert_eq!(lines.recv()?, "read 7");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "on_message")]
    pub fn subscribe_callback(&self, f: impl FnMut(T) + Send + 'static) -> SubscriptionId {
        // `f` is taken out for a call, so that it is not called under the lock. One thread calls
        // it.
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

    /// Calls `f` with every item from now on, on up to `workers` threads at the same time: RTCBot's
    /// coroutine callbacks.
    ///
    /// A slow call does not delay the next item. Calls start in the order of the items, and may end
    /// in any order. A thread is started if none is free when an item is published. `workers` of 0
    /// counts as 1.
    ///
    /// When 1024 items are queued for these threads, the publisher pauses until half of them have
    /// been passed to `f`.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::pubsub;
    ///
    /// let (mut publisher, camera) = pubsub::producer();
    /// let (done, results) = crossbeam_channel::unbounded();
    /// camera.subscribe_concurrent(4, move |picture: u32| done.send(picture + 1).unwrap());
    /// publisher.put(1);
    /// assert_eq!(results.recv()?, 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn subscribe_concurrent(
        &self,
        workers: usize,
        f: impl Fn(T) + Send + Sync + 'static,
    ) -> SubscriptionId {
        let pool = self.subscribers.workers(workers);
        self.attach(Status::new(), &pool, Box::new(f))
    }

    /// Removes a subscription, sink or callback, so that it receives no more items.
    ///
    /// An item that is being delivered at this moment may still arrive. The queued items of a
    /// subscription can still be taken. After that, it returns
    /// [`Error::Unsubscribed`](crate::Error::Unsubscribed).
    ///
    /// Returns whether it was subscribed.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Error, pubsub};
    ///
    /// let (mut publisher, sensor) = pubsub::producer();
    /// let readings = sensor.subscribe();
    /// publisher.put(7);
    /// assert!(sensor.unsubscribe(&readings));
    /// publisher.put(8);
    /// assert_eq!(readings.get()?, 7);
    /// assert!(matches!(readings.get(), Err(Error::Unsubscribed)));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn unsubscribe(&self, which: impl AsRef<SubscriptionId>) -> bool {
        self.subscribers.remove(*which.as_ref())
    }

    /// Removes the default subscription, which [`get`](Self::get) makes, if there is one.
    ///
    /// Call it if the program stops calling `get`: a full default subscription pauses the
    /// publisher. The next `get` makes a new one.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Error, pubsub};
    ///
    /// let (mut publisher, sensor) = pubsub::producer();
    /// publisher.put(7);
    /// assert_eq!(sensor.get()?, 7);
    /// sensor.unsubscribe_default();
    /// publisher.put(8);
    /// assert!(matches!(sensor.try_get(), Err(Error::Empty)));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn unsubscribe_default(&self) {
        let default = self.subscribers.default.lock().take();
        if let Some(default) = default {
            self.unsubscribe(&default);
        }
    }

    /// Removes all subscriptions, sinks and callbacks, including the default subscription.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Error, pubsub};
    ///
    /// let (_publisher, sensor) = pubsub::producer::<u32>();
    /// let readings = sensor.subscribe();
    /// sensor.unsubscribe_all();
    /// assert!(matches!(readings.get(), Err(Error::Unsubscribed)));
    /// ```
    pub fn unsubscribe_all(&self) {
        let default = self.subscribers.default.lock().take();
        self.subscribers.clear();
        drop(default);
    }

    /// Takes the next item of the default subscription. The first call makes that subscription.
    ///
    /// Waits until an item is published or the producer ends;
    /// [`get_timeout`](Self::get_timeout) limits the wait.
    ///
    /// # Errors
    ///
    /// - After the end, once all queued items have been taken: the reason for the end. This is
    ///   [`Error::Ended`](crate::Error::Ended) unless [`Publisher::end`] sets another one.
    /// - [`Error::Unsubscribed`](crate::Error::Unsubscribed) if another thread calls
    ///   [`unsubscribe_default`](Self::unsubscribe_default) meanwhile.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Error, pubsub};
    ///
    /// let (mut publisher, sensor) = pubsub::producer();
    /// publisher.put(7);
    /// drop(publisher);
    /// assert_eq!(sensor.get()?, 7);
    /// assert!(matches!(sensor.get(), Err(Error::Ended)));
    /// # Ok::<(), Error>(())
    /// ```
    #[doc(alias = "recv")]
    #[doc(alias = "read")]
    pub fn get(&self) -> Result<T> {
        self.default_subscription().get()
    }

    /// Takes the next item of the default subscription. Waits for at most `timeout`.
    ///
    /// # Errors
    ///
    /// - [`Error::Timeout`](crate::Error::Timeout) if no item is published by then.
    /// - The errors of [`get`](Self::get).
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Error, pubsub};
    /// use std::time::Duration;
    ///
    /// let (_publisher, sensor) = pubsub::producer::<u32>();
    /// let result = sensor.get_timeout(Duration::from_millis(10));
    /// assert!(matches!(result, Err(Error::Timeout)));
    /// ```
    #[doc(alias = "recv_timeout")]
    pub fn get_timeout(&self, timeout: Duration) -> Result<T> {
        self.default_subscription().get_timeout(timeout)
    }

    /// Takes the next item of the default subscription, without waiting.
    ///
    /// # Errors
    ///
    /// - [`Error::Empty`](crate::Error::Empty) if no item is queued.
    /// - The errors of [`get`](Self::get).
    ///
    /// [`unsubscribe_default`](Self::unsubscribe_default) has an example.
    #[doc(alias = "try_recv")]
    pub fn try_get(&self) -> Result<T> {
        self.default_subscription().try_get()
    }

    /// Returns the number of items that were dropped.
    ///
    /// An item counts once for each subscriber that does not receive it. The reasons are:
    ///
    /// - A queue of the kind [`Queue::Latest`] or [`Queue::DropOldest`] replaced it.
    /// - A sink was closed before it accepted an item that was for it. If no other subscriber has
    ///   been offered the item, it goes to those that subscribed meanwhile.
    /// - A sink of your own was full.
    /// - The operating system could not start a thread for callbacks.
    /// - Too many items were published before the first subscription.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::pubsub::{self, Queue};
    ///
    /// let (mut publisher, sensor) = pubsub::producer();
    /// let _newest = sensor.subscribe_with(Queue::Latest);
    /// publisher.put(7);
    /// publisher.put(8);
    /// assert_eq!(sensor.dropped(), 1);
    /// ```
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.subscribers.delivery.dropped.total()
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

    /// Subscribes `call`, which a thread of the pool calls. The early items are queued for it
    /// regardless of the limit.
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

    // For a `Websocket`.

    /// Returns the number of items that wait for the slowest subscriber: in the longest queue, for
    /// callbacks, or for the first subscriber. Adds the publisher's backlog.
    pub(crate) fn backlog(&self) -> usize {
        let queued = {
            let state = self.subscribers.state.lock();
            let queues = state.list.iter().map(|subscriber| subscriber.len());
            queues.chain([state.early.len()]).max().unwrap_or_default()
        };
        let kept = self.subscribers.kept.load(Ordering::Relaxed);
        queued.max(self.dispatcher().limit().items()) + kept
    }

    /// Returns whether a sink or a callback is subscribed.
    pub(crate) fn has_callbacks(&self) -> bool {
        let state = self.subscribers.state.lock();
        state.list.iter().any(|subscriber| subscriber.is_fed())
    }

    /// Returns the pool whose one thread runs callbacks and user sinks.
    pub(crate) fn dispatcher(&self) -> &CallbackPool<Call<T>> {
        &self.subscribers.dispatcher
    }

    /// Runs `f` on the dispatch thread. If that cannot be started, waits for it for at most a
    /// second. The publisher must not call this.
    pub(crate) fn run(&self, f: impl FnOnce() + Send + 'static) {
        self.dispatcher().run(f);
        self.subscribers.delivery.threads.wait();
    }

    /// Returns the threads of this producer.
    pub(crate) fn threads(&self) -> &Threads {
        &self.subscribers.delivery.threads
    }

    /// Lets the callback threads end after the queued calls. If the system starts no thread, makes
    /// these calls on the calling thread. Call it after
    /// [`end_before_callbacks`](Publisher::end_before_callbacks).
    pub(crate) fn finish(&self) {
        self.subscribers.finish();
    }

    /// Calls `wait`, which waits for an event of this producer. If the calling thread is in one of
    /// its callbacks, the publisher does not wait for callbacks meanwhile.
    pub(crate) fn blocking<R>(&self, wait: impl FnOnce() -> R) -> R {
        blocking(&self.subscribers.end, wait)
    }

    /// Makes the publisher wait before its next item, until [`resume`](Self::resume).
    pub(crate) fn pause(&self) {
        self.subscribers.delivery.pause();
    }

    pub(crate) fn resume(&self) {
        self.subscribers.delivery.resume();
    }

    /// Sets how long the publisher waits for full subscribers from now on. This includes a wait
    /// that has begun.
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
