//! Fans one stream out to subscriptions, sinks and callbacks.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::dispatch::Dispatcher;
use super::limit::Weighing;
use super::publisher::{Publisher, is_over};
use super::relay::{self, Offered};
use super::roster::{Entry, Outlet, Relay, Roster, open_queue, open_relay};
use super::sink::{Patience, Sink};
use super::subscription::{Queue, Subscription, SubscriptionId};
use super::threads::{Bounded, Lacking, Order, Start, Threaded, Threads};
use super::workers::Workers;
use crate::error::Result;

/// What emits items: the side that others subscribe to. Clones are handles to the same producer.
///
/// The other side, the one that emits, is the [`Publisher`]. Items that are published before anything
/// has subscribed are kept (at most 1024, the oldest go first) and handed to whoever subscribes first.
pub struct Producer<T> {
    roster: Arc<Roster<T>>,
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
        let roster = Roster::new(queue, weighing);
        let publisher = Publisher::new(roster.clone());
        (publisher, Producer { roster })
    }

    /// A new, independent subscription: it gets every item from now on.
    #[doc(alias = "SubscriptionProducer")]
    pub fn subscribe(&self) -> Subscription<T> {
        self.subscribe_with(self.roster.queue)
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
            let mut state = self.roster.state.lock();
            let mut early = state.take_early();
            let (outlet, items) = open_queue(queue, self.roster.weighing, &mut early);
            let turn = outlet.turn();
            let entry = Entry::new(id, outlet, removed.clone());
            (items, turn, early, self.roster.insert(&mut state, entry))
        };
        if !left_out.is_empty() {
            let count = left_out.len() as u64;
            self.roster.dropped.fetch_add(count, Ordering::Relaxed);
        }
        let roster = Arc::downgrade(&self.roster);
        let subscription = Subscription::new(
            id,
            items,
            turn,
            self.roster.end.clone(),
            removed,
            move |id| {
                if let Some(roster) = roster.upgrade() {
                    roster.remove(id);
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
                let mut state = self.roster.state.lock();
                let early = state.take_early();
                if early.is_empty() {
                    let entry = Entry::new(id, Outlet::sink(sink, None), removed);
                    let drop_later = self.roster.insert(&mut state, entry);
                    drop(state);
                    drop(drop_later);
                    return id;
                }
                early
            };
            // Outside the lock, since this is the user's code. Meanwhile more may come early.
            match relay::offer_all(&sink, early) {
                Offered::All => {}
                Offered::Full(rest) => {
                    self.relay(id, removed, sink, rest);
                    return id;
                }
                Offered::Closed(rest) => {
                    let mut state = self.roster.state.lock();
                    let lost = state.put_back_early(rest, self.roster.weighing.weigh);
                    drop(state);
                    if !lost.is_empty() {
                        let count = lost.len() as u64;
                        self.roster.dropped.fetch_add(count, Ordering::Relaxed);
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
        let sink = self.roster.dispatcher.callback(id, removed.clone(), f);
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
        let (threads, weighing) = (self.roster.threads.clone(), self.roster.weighing);
        let sink = Workers::new(workers, removed.clone(), weighing, threads, f);
        self.attach(id, removed, sink)
    }

    /// Removes a subscription, sink or callback, so that it gets nothing more; an item that is being handed
    /// over at this moment may still come. What a subscription has in its queue can still be taken; then it
    /// says [`Error::Unsubscribed`](crate::Error::Unsubscribed).
    ///
    /// Returns whether it was there.
    pub fn unsubscribe(&self, which: impl AsRef<SubscriptionId>) -> bool {
        self.roster.remove(*which.as_ref())
    }

    /// Removes the default subscription that [`get`](Self::get) made, if there is one; the next
    /// `get` makes a new one.
    pub fn unsubscribe_default(&self) {
        let default = self.roster.default.lock().take();
        if let Some(default) = default {
            self.unsubscribe(&default);
        }
    }

    /// Removes all subscriptions, sinks and callbacks, the default subscription included.
    pub fn unsubscribe_all(&self) {
        let default = self.roster.default.lock().take();
        self.roster.clear();
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
        self.roster.dropped.load(Ordering::Relaxed)
    }

    fn default_subscription(&self) -> Subscription<T> {
        let mut default = self.roster.default.lock();
        if let Some(subscription) = &*default {
            return subscription.clone();
        }
        let (subscription, drop_later) = self.new_subscription(self.roster.queue);
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
        let mut state = self.roster.state.lock();
        let early = state.take_early();
        let count = early.len();
        if state.ended && count > 0 {
            // It is no entry, and is called all the same, unless it is removed.
            state.last.push((id, removed.clone()));
        }
        for item in early {
            // Taken, however much that is.
            let _ = sink.enqueue(item, Bounded::No);
        }
        let lacking = sink.lacking();
        let queue = sink.queue();
        let entry = Entry::new(id, Outlet::sink(sink, queue), removed).with_thread(lacking);
        let drop_later = self.roster.insert(&mut state, entry);
        drop(state);
        for _ in 0..count {
            start();
        }
        drop((start, drop_later));
        self.roster.threads.wait();
        id
    }

    /// Attaches a sink that is too full for what came early: a thread hands it over, and all that follows.
    fn relay(
        &self,
        id: SubscriptionId,
        removed: Arc<AtomicBool>,
        sink: impl Sink<T>,
        rest: VecDeque<T>,
    ) {
        let relay = Relay::new(id, removed.clone());
        let lacking = Lacking::default();
        let mut state = self.roster.state.lock();
        let early = rest.into_iter().chain(state.take_early()).collect();
        let (outlet, items) = open_relay(self.roster.weighing, early);
        state.relays.push(relay.clone());
        let entry = Entry::new(id, outlet, removed).with_thread(lacking.clone());
        let drop_later = self.roster.insert(&mut state, entry);
        drop(state);
        drop(drop_later);
        let roster = Arc::downgrade(&self.roster);
        let start = Start::new("ws-relay", Order::Last, &lacking, move |stay| {
            relay::hand_over_all(&roster, &relay, items, sink, stay);
        });
        self.roster.threads.start(start);
        self.roster.threads.wait();
    }

    // What a `Websocket` needs beyond the public part.

    /// How many items wait for the slowest: in the longest queue, for callbacks, or for the first to
    /// subscribe; and behind those.
    pub(crate) fn backlog(&self) -> usize {
        let queued = {
            let state = self.roster.state.lock();
            let queues = state.entries.iter().map(|entry| entry.outlet.len());
            queues.chain([state.early.len()]).max().unwrap_or_default()
        };
        let kept = self.roster.kept.load(Ordering::Relaxed);
        queued.max(self.roster.dispatcher.waiting()) + kept
    }

    pub(crate) fn dispatcher(&self) -> &Dispatcher<T> {
        &self.roster.dispatcher
    }

    /// Runs `f` on the dispatch thread, for others than the publisher: where there is no thread, it
    /// is waited for, for a second at most.
    pub(crate) fn run(&self, f: impl FnOnce() + Send + 'static) {
        self.roster.dispatcher.run(f);
        self.roster.threads.wait();
    }

    /// The threads of this producer.
    pub(crate) fn threads(&self) -> &Threads {
        &self.roster.threads
    }

    /// Nothing more is to be called; to be called after
    /// [`end_before_callbacks`](Publisher::end_before_callbacks). What waits for callbacks is
    /// called, here if the system starts no thread.
    pub(crate) fn finish(&self) {
        self.roster.finish();
    }

    /// Makes the publisher wait, before its next item, until [`resume`](Self::resume).
    pub(crate) fn pause(&self) {
        self.roster.paused.store(true, Ordering::SeqCst);
    }

    pub(crate) fn resume(&self) {
        self.roster.paused.store(false, Ordering::SeqCst);
        self.roster.nudge();
    }

    /// From now on the publisher waits for full queues until `until` at the latest. An earlier time
    /// that was set before stays.
    pub(crate) fn hurry(&self, until: Instant) {
        self.roster.hurry(until);
    }

    /// Ends the publisher's wait for full queues, and any other until `aside` is taken back: it keeps
    /// what it could not hand over, and all that follows, for its [`catch_up`](Publisher::catch_up).
    pub(crate) fn set_aside(&self, aside: bool) {
        self.roster.set_aside(aside);
    }

    /// Whether the publisher is to wait no longer.
    pub(crate) fn must_go_on(&self) -> bool {
        let (patience, aside) = self.roster.patience();
        aside || is_over(patience)
    }

    /// To wait with on the publisher's thread, until then or until the publisher has to look.
    pub(crate) fn patience(&self, until: Option<Instant>) -> Patience<'_> {
        let (patience, _) = self.roster.patience();
        let until = [patience, until].into_iter().flatten().min();
        Patience::new(&self.roster.nudge.1, until)
    }
}

impl<T> Clone for Producer<T> {
    fn clone(&self) -> Self {
        Producer {
            roster: self.roster.clone(),
        }
    }
}

impl<T> fmt::Debug for Producer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer")
            .field("subscribers", &self.roster.state.lock().entries.len())
            .finish_non_exhaustive()
    }
}
