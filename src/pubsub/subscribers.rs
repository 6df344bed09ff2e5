//! Who has subscribed to a producer, and what each of them is fed by.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use crossbeam_channel::{Receiver, Select, Sender, bounded, unbounded};
use parking_lot::Mutex;

use super::callback_limit::Weighing;
use super::dispatch::Dispatcher;
use super::ring::{Ring, Turn};
use super::sink::{Patience, Sink};
use super::subscription::{End, Queue, Subscription, SubscriptionId};
use super::threads::{Lacking, Threads};
use super::weight_limit::{Taken, WeightLimit};
use crate::error::PutError;
use crate::panics::{Guarded, drop_caught, log_panic};

/// How many items wait for a relay thread before the publisher pauses.
const FORWARDER_QUEUE: usize = 1024;

pub(super) type SubscriberList<T> = Arc<[Arc<Subscriber<T>>]>;

/// Who has subscribed; shared by producer, publisher and, weakly, the subscriptions.
pub(super) struct Subscribers<T> {
    /// Counts the changes of `State::list`, so that the publisher sees one without a lock.
    pub(super) version: AtomicU64,
    pub(super) paused: AtomicBool,
    /// Held to read or change the subscribers. No user code is called and nothing of the user's is
    /// dropped under it.
    pub(super) state: Mutex<State<T>>,
    /// Held while the default subscription is made, so that two threads' first `get`s share it.
    /// `state` may be locked under it, never the other way round.
    pub(super) default: Mutex<Option<Subscription<T>>>,
    /// Tells a waiting publisher to look again.
    pub(super) notify: (Sender<()>, Receiver<()>),
    pub(super) end: End,
    pub(super) threads: Arc<Threads>,
    pub(super) dispatcher: Dispatcher<T>,
    pub(super) queue: Queue,
    /// Takes no time, so that it may be called under a lock. The limit is that of each queue.
    pub(super) weighing: Weighing<T>,
    pub(super) dropped: AtomicU64,
    /// How many items the publisher keeps for those who were full when it was set aside.
    pub(super) kept: AtomicUsize,
}

pub(super) struct State<T> {
    pub(super) list: SubscriberList<T>,
    pub(super) early: VecDeque<T>,
    pub(super) early_weight: usize,
    /// Whether anything has ever subscribed: from then on, nothing is kept.
    pub(super) attached: bool,
    pub(super) ended: bool,
    /// The sinks that were there at the end, callbacks among them: what waits for these is still called,
    /// unless they are removed.
    pub(super) last: Vec<(SubscriptionId, Arc<AtomicBool>)>,
    /// Until when the publisher waits for full queues; `None` is for ever.
    pub(super) patience: Option<Instant>,
    /// The publisher has something else to do, and keeps what it would have to wait with.
    pub(super) aside: bool,
    /// The relay threads, which may outlive the publisher.
    pub(super) forwarders: Vec<Arc<Forwarder>>,
}

/// How a relay thread is told that something has changed.
pub(super) struct Forwarder {
    pub(super) id: SubscriptionId,
    pub(super) removed: Arc<AtomicBool>,
    pub(super) wake: (Sender<()>, Receiver<()>),
}

impl Forwarder {
    pub(super) fn new(id: SubscriptionId, removed: Arc<AtomicBool>) -> Arc<Self> {
        Arc::new(Forwarder {
            id,
            removed,
            wake: bounded(1),
        })
    }

    fn look(&self) {
        let _ = self.wake.0.try_send(());
    }
}

/// One subscription, sink or callback.
pub(super) struct Subscriber<T> {
    pub(super) id: SubscriptionId,
    pub(super) output: Output<T>,
    pub(super) removed: Arc<AtomicBool>,
    /// Whether the thread that takes from it is waited for.
    lacking: Option<Lacking>,
    /// Whether it was logged that it is full, or that it loses messages.
    pub(super) warned: AtomicBool,
    pub(super) dropped: AtomicBool,
}

pub(super) enum Output<T> {
    Queue(Sender<T>, WeightLimit),
    Ring(Ring<T>, WeightLimit),
    Sink(Attached<T>),
    /// As `Queue`; a thread takes from it for a sink that was full when it subscribed.
    Forwarder(Sender<T>, WeightLimit),
}

pub(super) struct Attached<T> {
    sink: Guarded<Box<dyn Sink<T>>>,
    /// Where its items wait, if that is known.
    queue: Option<Receiver<T>>,
}

impl<T> Output<T> {
    pub(super) fn sink(sink: impl Sink<T>, queue: Option<Receiver<T>>) -> Self {
        let sink: Box<dyn Sink<T>> = Box::new(sink);
        let sink = Guarded::new(sink);
        Output::Sink(Attached { sink, queue })
    }

    /// How many items wait in it; a user's sink does not say.
    pub(super) fn len(&self) -> usize {
        match self {
            Output::Queue(sender, _) | Output::Forwarder(sender, _) => sender.len(),
            Output::Ring(ring, _) => ring.len(),
            Output::Sink(attached) => attached.queue.as_ref().map_or(0, Receiver::len),
        }
    }

    /// What whoever takes from it has to hold.
    pub(super) fn turn(&self) -> Option<Turn> {
        match self {
            Output::Ring(ring, _) => Some(ring.turn()),
            Output::Queue(..) | Output::Sink(_) | Output::Forwarder(..) => None,
        }
    }

    pub(super) fn is_sink(&self) -> bool {
        matches!(self, Output::Sink(_))
    }
}

impl<T: Send + 'static> Subscribers<T> {
    /// The publisher has gone, and all that it called for. What waits for callbacks is called, here
    /// if the system starts no thread.
    pub(super) fn finish(&self) {
        self.dispatcher.end();
        self.threads.end();
    }

    pub(super) fn new(queue: Queue, weighing: Weighing<T>) -> Arc<Self> {
        let threads = Threads::new();
        Arc::new(Subscribers {
            version: AtomicU64::new(1),
            paused: AtomicBool::new(false),
            state: Mutex::new(State {
                list: Arc::new([]),
                early: VecDeque::new(),
                early_weight: 0,
                attached: false,
                ended: false,
                last: Vec::new(),
                patience: None,
                aside: false,
                forwarders: Vec::new(),
            }),
            default: Mutex::new(None),
            notify: bounded(1),
            end: End::default(),
            dispatcher: Dispatcher::new(weighing, threads.clone()),
            threads,
            queue,
            weighing,
            dropped: AtomicU64::new(0),
            kept: AtomicUsize::new(0),
        })
    }
}

impl<T> Subscribers<T> {
    /// Adds an subscriber, unless the producer has ended; returns what has to be dropped outside the lock.
    #[must_use]
    pub(super) fn insert(
        &self,
        state: &mut State<T>,
        subscriber: Subscriber<T>,
    ) -> (Option<Subscriber<T>>, SubscriberList<T>) {
        state.attached = true;
        if state.ended {
            return (Some(subscriber), state.list.clone());
        }
        let grown = state.list.iter().cloned().chain([Arc::new(subscriber)]);
        let grown = grown.collect();
        self.changed();
        (None, std::mem::replace(&mut state.list, grown))
    }

    pub(super) fn remove(&self, id: SubscriptionId) -> bool {
        let (subscriber, last, forwarder, _old) = {
            let mut state = self.state.lock();
            let last = state.last.iter().position(|(last, _)| *last == id);
            let last = last.map(|index| state.last.swap_remove(index));
            let forwarder = state
                .forwarders
                .iter()
                .position(|forwarder| forwarder.id == id);
            let forwarder = forwarder.map(|index| state.forwarders.swap_remove(index));
            let subscriber = state
                .list
                .iter()
                .find(|subscriber| subscriber.id == id)
                .cloned();
            let rest = state.list.iter().filter(|subscriber| subscriber.id != id);
            let rest = rest.cloned().collect();
            self.changed();
            let old = std::mem::replace(&mut state.list, rest);
            (subscriber, last, forwarder, old)
        };
        if let Some(subscriber) = &subscriber {
            subscriber.removed.store(true, Ordering::Release);
        }
        if let Some((_, removed)) = &last {
            removed.store(true, Ordering::Release);
        }
        if let Some(forwarder) = &forwarder {
            forwarder.removed.store(true, Ordering::Release);
            forwarder.look();
        }
        self.notify();
        subscriber.is_some() || last.is_some() || forwarder.is_some()
    }

    /// Removes everything.
    pub(super) fn clear(&self) {
        let (list, last, forwarders) = {
            let mut state = self.state.lock();
            self.changed();
            let list = std::mem::replace(&mut state.list, Arc::new([]));
            let last = std::mem::take(&mut state.last);
            (list, last, std::mem::take(&mut state.forwarders))
        };
        for subscriber in list.iter() {
            subscriber.removed.store(true, Ordering::Release);
        }
        for (_, removed) in &last {
            removed.store(true, Ordering::Release);
        }
        for forwarder in &forwarders {
            forwarder.removed.store(true, Ordering::Release);
            forwarder.look();
        }
        self.notify();
    }

    /// From now on full queues are waited for until `until` at the latest.
    pub(super) fn set_delivery_deadline(&self, until: Instant) {
        let forwarders = {
            let mut state = self.state.lock();
            let earlier = state.patience.map_or(until, |set| set.min(until));
            state.patience = Some(earlier);
            state.forwarders.clone()
        };
        for forwarder in forwarders {
            forwarder.look();
        }
        self.notify();
    }

    /// See [`Producer::spill`](super::Producer::spill).
    pub(super) fn spill(&self, aside: bool) {
        self.state.lock().aside = aside;
        self.notify();
    }

    /// Until when the publisher may wait, and whether it is set aside.
    pub(super) fn patience(&self) -> (Option<Instant>, bool) {
        let state = self.state.lock();
        (state.patience, state.aside)
    }

    /// Counts an item that all who have subscribed lose, since too much is kept for them already.
    pub(super) fn count_too_late(&self) {
        let list = self.state.lock().list.len();
        let before = self
            .dropped
            .fetch_add(list.max(1) as u64, Ordering::Relaxed);
        if before == 0 {
            crate::logging::warn!(
                "more than may be kept has come for consumers that are too slow: messages are dropped"
            );
        }
    }

    /// To be called with the lock held.
    pub(super) fn changed(&self) {
        self.version.fetch_add(1, Ordering::Release);
    }

    pub(super) fn notify(&self) {
        let _ = self.notify.0.try_send(());
    }
}

impl<T> State<T> {
    pub(super) fn take_early(&mut self) -> VecDeque<T> {
        self.early_weight = 0;
        std::mem::take(&mut self.early)
    }
}

impl<T> State<T> {
    /// For the next one. Hands them back if somebody has subscribed meanwhile.
    #[must_use]
    pub(super) fn put_back_early(
        &mut self,
        mut items: VecDeque<T>,
        weigh: fn(&T) -> usize,
    ) -> VecDeque<T> {
        if self.attached {
            return items;
        }
        items.append(&mut self.early);
        self.early_weight = items.iter().map(weigh).sum();
        std::mem::replace(&mut self.early, items)
    }
}

/// A queue with room for more items than this is one without a limit: their places are not all made at once.
const NO_LIMIT: usize = 1 << 28;

/// A channel for `queue` that holds what came early. Takes from that what is kept, and leaves the rest.
pub(super) fn open_queue<T>(
    queue: Queue,
    weighing: Weighing<T>,
    early: &mut VecDeque<T>,
) -> (Output<T>, (Receiver<T>, Arc<Taken>)) {
    let (sender, receiver) = match queue {
        Queue::Block(NO_LIMIT..) | Queue::DropOldest(NO_LIMIT..) => unbounded(),
        // Early items are not dropped for the sake of a short queue: it starts out longer.
        // And never without capacity: then two sides that only look, as publisher and inbox do, would
        // not see each other.
        Queue::Block(n) => bounded(n.max(early.len()).max(1)),
        Queue::DropOldest(n) => bounded(n.max(1)),
        Queue::Latest => bounded(1),
        Queue::Unbounded => unbounded(),
    };
    let ring = matches!(queue, Queue::DropOldest(_) | Queue::Latest);
    let skip = match sender.capacity() {
        Some(capacity) if ring => early.len().saturating_sub(capacity),
        _ => 0,
    };
    let limit = match queue {
        Queue::Block(_) | Queue::DropOldest(_) => {
            WeightLimit::new(weighing.limit, sender.capacity())
        }
        Queue::Latest | Queue::Unbounded => WeightLimit::none(),
    };
    for item in early.drain(skip..) {
        limit.count((weighing.weigh)(&item));
        // There is room, and nobody else has the channel yet.
        let _ = sender.try_send(item);
    }
    let taken = limit.taken();
    let output = if ring {
        Output::Ring(Ring::new(sender, receiver.clone()), limit)
    } else {
        Output::Queue(sender, limit)
    };
    (output, (receiver, taken))
}

/// A channel for the relay thread that holds what came early.
pub(super) fn open_forwarder<T>(
    weighing: Weighing<T>,
    early: VecDeque<T>,
) -> (Output<T>, (Receiver<T>, Arc<Taken>)) {
    let (sender, receiver) = bounded(early.len().max(FORWARDER_QUEUE));
    let limit = WeightLimit::new(weighing.limit, sender.capacity());
    for item in early {
        limit.count((weighing.weigh)(&item));
        let _ = sender.try_send(item);
    }
    let taken = limit.taken();
    (Output::Forwarder(sender, limit), (receiver, taken))
}

impl<T> Subscriber<T> {
    pub(super) fn new(id: SubscriptionId, output: Output<T>, removed: Arc<AtomicBool>) -> Self {
        Subscriber {
            id,
            output,
            removed,
            lacking: None,
            warned: AtomicBool::new(false),
            dropped: AtomicBool::new(false),
        }
    }

    /// It is taken from by a thread that may be waited for.
    pub(super) fn with_thread(mut self, lacking: Lacking) -> Self {
        self.lacking = Some(lacking);
        self
    }

    pub(super) fn lacks_a_thread(&self) -> bool {
        let lacking = self.lacking.as_ref();
        lacking.is_some_and(|lacking| lacking.load(Ordering::SeqCst))
    }

    pub(super) fn has_warned(&self) -> bool {
        self.warned.load(Ordering::Relaxed)
    }

    pub(super) fn warn_that_it_is_full(&self) {
        if !self.warned.swap(true, Ordering::Relaxed) {
            crate::logging::warn!(
                "{:?} has been full for a second, and the stream waits for it; one that is not read \
                 any more (perhaps the default one, made by `get`) has to be unsubscribed",
                self.id
            );
        }
    }

    pub(super) fn count_dropped(&self, total: &AtomicU64) {
        total.fetch_add(1, Ordering::Relaxed);
        if !self.dropped.swap(true, Ordering::Relaxed) {
            crate::logging::warn!(
                "{:?} is full and the stream goes on: messages for it are dropped",
                self.id
            );
        }
    }
}

impl<T: Send + 'static> Subscriber<T> {
    /// Puts an item that weighs so much.
    pub(super) fn put_nowait(
        &self,
        item: T,
        weight: usize,
        dropped: &AtomicU64,
    ) -> Result<(), PutError<T>> {
        match &self.output {
            Output::Queue(sender, limit) | Output::Forwarder(sender, limit) => {
                if limit.is_light(weight) {
                    return sender.put_nowait(item);
                }
                if !limit.has_room(weight, || sender.len()) {
                    return Err(PutError::Full(item));
                }
                sender.put_nowait(item)?;
                limit.count(weight);
                Ok(())
            }
            Output::Ring(ring, limit) => {
                let drop = |oldest: Option<T>| {
                    if oldest.is_some() {
                        dropped.fetch_add(1, Ordering::Relaxed);
                        drop_caught(oldest);
                    }
                };
                if !limit.is_light(weight) {
                    while !limit.has_room(weight, || ring.len()) {
                        drop(ring.take_oldest());
                    }
                    limit.count(weight);
                }
                drop(ring.put(item));
                Ok(())
            }
            Output::Sink(Attached { sink, .. }) => {
                let mut result = Ok(());
                log_panic(|| result = sink.put_nowait(item));
                result
            }
        }
    }

    /// As [`put_nowait`](Self::put_nowait), after waiting once. (`dropped` is for queues that do
    /// not wait.)
    pub(super) fn put(
        &self,
        item: T,
        weight: usize,
        patience: &Patience<'_>,
        dropped: &AtomicU64,
    ) -> Result<(), PutError<T>> {
        match &self.output {
            Output::Queue(sender, limit) | Output::Forwarder(sender, limit) => {
                if limit.has_room(weight, || sender.len()) {
                    let mut select = Select::new();
                    select.send(sender);
                    patience.wait(select);
                } else {
                    limit.wait(weight, || sender.len(), patience);
                }
                // Who has been told that it is removed does not find room for more than it had.
                if self.removed.load(Ordering::Acquire) {
                    return Err(PutError::Closed(item));
                }
                self.put_nowait(item, weight, dropped)
            }
            // Never full.
            Output::Ring(..) => Err(PutError::Full(item)),
            Output::Sink(Attached { sink, .. }) => {
                let mut result = Ok(());
                log_panic(|| result = sink.put(item, patience));
                result
            }
        }
    }
}

impl<T> Drop for Subscribers<T> {
    fn drop(&mut self) {
        for forwarder in self.state.get_mut().forwarders.drain(..) {
            forwarder.look();
        }
    }
}
