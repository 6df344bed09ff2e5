//! Fans one stream out to subscriptions, sinks and callbacks.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError, TrySendError, bounded, never, unbounded};
use parking_lot::Mutex;

use super::dispatch::{Dispatcher, guarded};
use super::sink::{Patience, Sink};
use super::subscription::{End, Queue, Subscription, SubscriptionId};
use super::workers::Workers;
use crate::error::{Error, PutError, Result};

/// How many items are kept for the first consumer.
const EARLY_ITEMS: usize = 1024;
/// How much they may weigh together (for a `Websocket`: bytes of payload).
const EARLY_WEIGHT: usize = 4 << 20;

/// What emits items: the side that others subscribe to. Clones are handles to the same producer.
///
/// The other side, the one that emits, is the [`Publisher`]. Items that are published before anything
/// has subscribed are kept (at most 1024, the oldest go first) and handed to whoever subscribes first.
pub struct Producer<T> {
    roster: Arc<Roster<T>>,
}

/// The emitting side of a [`Producer`]; there is one. Dropping it ends the producer.
pub struct Publisher<T: Clone + Send + 'static> {
    roster: Arc<Roster<T>>,
    /// The entries as of version `seen`. Not held while the owner waits for its own input (see
    /// [`rest`](Publisher::rest)): an entry that was removed has to be dropped, for its queue to disconnect.
    snapshot: Option<Entries<T>>,
    seen: u64,
    /// Those that were full, with the item they have yet to get.
    blocked: VecDeque<(Arc<Entry<T>>, T)>,
    gone: Vec<SubscriptionId>,
}

type Entries<T> = Arc<[Arc<Entry<T>>]>;

/// Who has subscribed; shared by producer, publisher and, weakly, the subscriptions.
struct Roster<T> {
    /// Counts the changes of `State::entries`, so that the publisher sees one without a lock.
    version: AtomicU64,
    paused: AtomicBool,
    /// Held to read or change the roster. No user code is called and nothing of the user's is
    /// dropped under it.
    state: Mutex<State<T>>,
    /// Held while the default subscription is made, so that two threads' first `get`s share it.
    /// `state` may be locked under it, never the other way round.
    default: Mutex<Option<Subscription<T>>>,
    /// Tells a waiting publisher to look again.
    nudge: (Sender<()>, Receiver<()>),
    end: End,
    dispatcher: Dispatcher<T>,
    queue: Queue,
    weigh: fn(&T) -> usize,
    dropped: AtomicU64,
}

struct State<T> {
    entries: Entries<T>,
    early: VecDeque<T>,
    early_weight: usize,
    /// Whether anything has ever subscribed: from then on, nothing is kept.
    attached: bool,
    ended: bool,
    /// Until when the publisher waits for full queues; `None` is for ever.
    patience: Option<Instant>,
}

/// One subscription, sink or callback.
struct Entry<T> {
    id: SubscriptionId,
    outlet: Outlet<T>,
    removed: Arc<AtomicBool>,
    dropped: AtomicBool,
}

enum Outlet<T> {
    Queue(Sender<T>),
    /// The receiver is for making room.
    Ring(Sender<T>, Receiver<T>),
    Sink(Box<dyn Sink<T>>),
    /// As `Queue`; a thread takes from it for a sink that was full when it subscribed.
    Relay(Sender<T>, #[allow(dead_code)] Sender<()>),
}

impl<T: Clone + Send + 'static> Producer<T> {
    /// A producer whose subscriptions are queues of the default kind, and the end that feeds it.
    #[allow(clippy::new_ret_no_self)] // A pair of ends, like the channels' constructors.
    pub fn new() -> (Publisher<T>, Producer<T>) {
        Self::with_queue(Queue::default())
    }

    /// A producer whose [`subscribe`](Self::subscribe) and [`get`](Self::get) use `queue`.
    pub fn with_queue(queue: Queue) -> (Publisher<T>, Producer<T>) {
        Self::with_weight(queue, |_| 0)
    }

    pub(crate) fn with_weight(queue: Queue, weigh: fn(&T) -> usize) -> (Publisher<T>, Producer<T>) {
        let roster = Arc::new(Roster {
            version: AtomicU64::new(1),
            paused: AtomicBool::new(false),
            state: Mutex::new(State {
                entries: Arc::new([]),
                early: VecDeque::new(),
                early_weight: 0,
                attached: false,
                ended: false,
                patience: None,
            }),
            default: Mutex::new(None),
            nudge: bounded(1),
            end: End::default(),
            dispatcher: Dispatcher::new(),
            queue,
            weigh,
            dropped: AtomicU64::new(0),
        });
        let publisher = Publisher {
            roster: roster.clone(),
            snapshot: None,
            seen: 0,
            blocked: VecDeque::new(),
            gone: Vec::new(),
        };
        (publisher, Producer { roster })
    }

    /// A new, independent subscription: it gets every item from now on.
    #[doc(alias = "SubscriptionProducer")]
    pub fn subscribe(&self) -> Subscription<T> {
        self.subscribe_with(self.roster.queue)
    }

    /// A new subscription with a queue of your choice.
    pub fn subscribe_with(&self, queue: Queue) -> Subscription<T> {
        let id = SubscriptionId::next();
        let removed = Arc::<AtomicBool>::default();
        let (items, drop_later) = {
            let mut state = self.roster.state.lock();
            let early = state.take_early();
            let (outlet, items) = open_queue(queue, early);
            let entry = Entry::new(id, outlet, removed.clone());
            (items, self.roster.insert(&mut state, entry))
        };
        drop(drop_later);
        let roster = Arc::downgrade(&self.roster);
        Subscription::new(id, items, self.roster.end.clone(), removed, move |id| {
            if let Some(roster) = roster.upgrade() {
                roster.remove(id);
            }
        })
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
                    let entry = Entry::new(id, Outlet::Sink(Box::new(sink)), removed);
                    let drop_later = self.roster.insert(&mut state, entry);
                    drop(state);
                    drop(drop_later);
                    return id;
                }
                early
            };
            // Outside the lock, since this is the user's code. Meanwhile more may come early.
            let rest = offer_all(&sink, early);
            if !rest.is_empty() {
                self.relay(id, removed, sink, rest);
                return id;
            }
        }
    }

    /// Calls `f` with every item from now on, in order, on the producer's dispatch thread.
    ///
    /// A panic in `f` is logged and ends nothing. When 1024 items wait for callbacks, the publisher
    /// pauses.
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
        let sink = Workers::new(workers, removed.clone(), f);
        self.attach(id, removed, sink)
    }

    /// Removes a subscription, sink or callback, so that it gets nothing more. What a subscription
    /// has in its queue can still be taken; then it says [`Error::Unsubscribed`].
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
        let entries = {
            let mut state = self.roster.state.lock();
            self.roster.changed();
            std::mem::replace(&mut state.entries, Arc::new([]))
        };
        for entry in entries.iter() {
            entry.removed.store(true, Ordering::Release);
        }
        drop((default, entries));
        self.roster.nudge();
    }

    /// Takes the next item of the default subscription, which the first call makes. Waits for as
    /// long as the producer lives.
    ///
    /// # Errors
    ///
    /// When nothing is queued any more: the reason the producer ended, or
    /// [`Error::Unsubscribed`] when another thread removed the default subscription meanwhile.
    pub fn get(&self) -> Result<T> {
        self.default_subscription().get()
    }

    /// As [`get`](Self::get), waiting for at most `timeout`.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] when the time is over, else as [`get`](Self::get).
    pub fn get_timeout(&self, timeout: Duration) -> Result<T> {
        self.default_subscription().get_timeout(timeout)
    }

    /// As [`get`](Self::get), never waiting.
    ///
    /// # Errors
    ///
    /// [`Error::Empty`] when no item is there, else as [`get`](Self::get).
    pub fn try_get(&self) -> Result<T> {
        self.default_subscription().try_get()
    }

    /// How many items were dropped: by the policy of a queue, or because a sink was full and could
    /// not wait.
    pub fn dropped(&self) -> u64 {
        self.roster.dropped.load(Ordering::Relaxed)
    }

    fn default_subscription(&self) -> Subscription<T> {
        let mut default = self.roster.default.lock();
        default.get_or_insert_with(|| self.subscribe()).clone()
    }

    fn attach(
        &self,
        id: SubscriptionId,
        removed: Arc<AtomicBool>,
        sink: impl Sink<T>,
    ) -> SubscriptionId {
        self.attach_boxed(id, removed, Box::new(sink))
    }

    /// Attaches a sink of this crate's own, which takes all that came early without waiting.
    fn attach_boxed(
        &self,
        id: SubscriptionId,
        removed: Arc<AtomicBool>,
        sink: Box<dyn Sink<T>>,
    ) -> SubscriptionId {
        let mut state = self.roster.state.lock();
        for item in state.take_early() {
            if sink.put_nowait(item).is_err() {
                self.roster.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
        let entry = Entry::new(id, Outlet::Sink(sink), removed);
        let drop_later = self.roster.insert(&mut state, entry);
        drop(state);
        drop(drop_later);
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
        let (wake_up, wake) = bounded(1);
        let mut state = self.roster.state.lock();
        let early = rest.into_iter().chain(state.take_early()).collect();
        let (outlet, items) = open_queue(Queue::default(), early);
        let Outlet::Queue(items_in) = outlet else {
            unreachable!("the default queue blocks")
        };
        let entry = Entry::new(id, Outlet::Relay(items_in, wake_up), removed.clone());
        let drop_later = self.roster.insert(&mut state, entry);
        drop(state);
        drop(drop_later);
        let spawned = thread::Builder::new()
            .name("ws-relay".into())
            .spawn(move || relay(&items, &sink, &wake, &removed));
        if let Err(error) = spawned {
            log::error!(
                "cannot start the thread that feeds a full sink, its subscription ends: {error}"
            );
            self.unsubscribe(id);
        }
    }

    // What a `Websocket` needs beyond the public part.

    pub(crate) fn dispatcher(&self) -> &Dispatcher<T> {
        &self.roster.dispatcher
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
        {
            let mut state = self.roster.state.lock();
            let earlier = state.patience.map_or(until, |set| set.min(until));
            state.patience = Some(earlier);
        }
        self.roster.nudge();
    }
}

impl<T> Roster<T> {
    /// Adds an entry, unless the producer has ended; returns what has to be dropped outside the lock.
    #[must_use]
    fn insert(&self, state: &mut State<T>, entry: Entry<T>) -> (Option<Entry<T>>, Entries<T>) {
        state.attached = true;
        if state.ended {
            return (Some(entry), state.entries.clone());
        }
        let grown = state.entries.iter().cloned().chain([Arc::new(entry)]);
        let grown = grown.collect();
        self.changed();
        (None, std::mem::replace(&mut state.entries, grown))
    }

    fn remove(&self, id: SubscriptionId) -> bool {
        let (entry, _old) = {
            let mut state = self.state.lock();
            let Some(entry) = state.entries.iter().find(|entry| entry.id == id).cloned() else {
                return false;
            };
            let rest = state.entries.iter().filter(|entry| entry.id != id);
            let rest = rest.cloned().collect();
            self.changed();
            (entry, std::mem::replace(&mut state.entries, rest))
        };
        entry.removed.store(true, Ordering::Release);
        self.nudge();
        true
    }

    /// To be called with the lock held.
    fn changed(&self) {
        self.version.fetch_add(1, Ordering::Release);
    }

    fn nudge(&self) {
        let _ = self.nudge.0.try_send(());
    }
}

impl<T> State<T> {
    fn take_early(&mut self) -> VecDeque<T> {
        self.attached = true;
        self.early_weight = 0;
        std::mem::take(&mut self.early)
    }
}

/// A channel for `queue` that holds what came early.
fn open_queue<T>(queue: Queue, early: VecDeque<T>) -> (Outlet<T>, Receiver<T>) {
    let (sender, receiver) = match queue {
        // Early items are not dropped for the sake of a short queue: it starts out longer.
        Queue::Block(n) => bounded(n.max(early.len())),
        Queue::DropOldest(n) => bounded(n.max(1)),
        Queue::Latest => bounded(1),
        Queue::Unbounded => unbounded(),
    };
    let ring = matches!(queue, Queue::DropOldest(_) | Queue::Latest);
    let skip = match sender.capacity() {
        Some(capacity) if ring => early.len().saturating_sub(capacity),
        _ => 0,
    };
    for item in early.into_iter().skip(skip) {
        // There is room, and nobody else has the channel yet.
        let _ = sender.try_send(item);
    }
    let outlet = if ring {
        Outlet::Ring(sender, receiver.clone())
    } else {
        Outlet::Queue(sender)
    };
    (outlet, receiver)
}

/// Puts what fits; returns the rest.
fn offer_all<T>(sink: &impl Sink<T>, mut items: VecDeque<T>) -> VecDeque<T> {
    while let Some(item) = items.pop_front() {
        let mut back = None;
        guarded(|| back = sink.put_nowait(item).err());
        match back {
            None => {}
            Some(PutError::Full(item)) => {
                items.push_front(item);
                return items;
            }
            Some(PutError::Closed(_)) => return VecDeque::new(),
        }
    }
    items
}

/// The relay thread. Like a publisher it waits for the sink: until there is room, the subscription is
/// removed, or the sink is closed. When the producer ends, what is left is still handed over.
fn relay<T: 'static>(
    items: &Receiver<T>,
    sink: &impl Sink<T>,
    wake: &Receiver<()>,
    removed: &AtomicBool,
) {
    let never = never();
    let mut wake = wake;
    for mut item in items {
        loop {
            if removed.load(Ordering::Acquire) {
                return;
            }
            if wake.try_recv() == Err(TryRecvError::Disconnected) {
                // The producer has ended: nobody will remove the subscription any more.
                wake = &never;
            }
            let patience = Patience::new(wake, None);
            let mut back = None;
            guarded(|| {
                back = match sink.put_nowait(item) {
                    Err(PutError::Full(item)) => sink.put(item, &patience).err(),
                    other => other.err(),
                }
            });
            item = match back {
                None => break,
                Some(PutError::Full(item)) if patience.used() => item,
                Some(PutError::Full(_)) => {
                    log::warn!("a sink was full and does not wait: a message for it is dropped");
                    break;
                }
                Some(PutError::Closed(_)) => return,
            };
        }
    }
}

impl<T: Clone + Send + 'static> Publisher<T> {
    /// Gives the item to all who have subscribed, waiting for those whose queue blocks.
    pub fn put(&mut self, item: T) {
        self.put_in_batch(item);
        self.rest();
    }

    /// Ends the producer: who has taken all that is queued is told `reason`.
    pub fn end(self, reason: Error) {
        let _ = self.roster.end.set(reason);
        // The rest is done by drop.
    }

    /// As [`put`](Self::put), for a publisher that calls [`rest`](Self::rest) before it waits for its own input.
    pub(crate) fn put_in_batch(&mut self, item: T) {
        if self.roster.paused.load(Ordering::Relaxed) {
            self.wait_until_resumed();
        }
        let Some(entries) = self.refresh() else {
            return self.keep(item);
        };
        let last = entries.len() - 1;
        for entry in &entries[..last] {
            self.offer(entry, item.clone());
        }
        self.offer(&entries[last], item);
        self.snapshot = Some(entries);
        if !self.blocked.is_empty() {
            self.wait_for_the_full();
        }
        for id in self.gone.drain(..) {
            self.roster.remove(id);
        }
    }

    /// Lets go of the subscribers, so that who is removed meanwhile is dropped at once.
    pub(crate) fn rest(&mut self) {
        self.snapshot = None;
    }

    /// The entries as they are now, taken out of `self.snapshot`; `None` when there are none.
    fn refresh(&mut self) -> Option<Entries<T>> {
        let version = self.roster.version.load(Ordering::Acquire);
        let entries = match self.snapshot.take() {
            Some(entries) if self.seen == version => entries,
            _ => {
                let state = self.roster.state.lock();
                // Under the lock the version cannot change.
                self.seen = self.roster.version.load(Ordering::Acquire);
                state.entries.clone()
            }
        };
        (!entries.is_empty()).then_some(entries)
    }

    fn offer(&mut self, entry: &Arc<Entry<T>>, item: T) {
        match entry.put_nowait(item, &self.roster.dropped) {
            Ok(()) => {}
            Err(PutError::Full(item)) => self.blocked.push_back((entry.clone(), item)),
            Err(PutError::Closed(_)) => self.gone.push(entry.id),
        }
    }

    /// Keeps an item for the first consumer, if there has been none.
    fn keep(&mut self, item: T) {
        let weigh = self.roster.weigh;
        let mut old = Vec::new();
        let mut state = self.roster.state.lock();
        if !state.entries.is_empty() {
            // Somebody has just subscribed.
            drop(state);
            return self.put_in_batch(item);
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
                .roster
                .dropped
                .fetch_add(old.len() as u64, Ordering::Relaxed);
            if before == 0 {
                log::warn!("nothing has subscribed: the oldest of the kept messages are dropped");
            }
        }
    }

    fn wait_until_resumed(&mut self) {
        self.rest();
        while self.roster.paused.load(Ordering::SeqCst) {
            let until = self.roster.state.lock().patience;
            let nudge = &self.roster.nudge.1;
            match until {
                None => drop(nudge.recv()),
                Some(until) if Instant::now() >= until => return,
                Some(until) => drop(nudge.recv_deadline(until)),
            }
        }
    }

    /// Hands the item over to those who were full, waiting for each as long as there is patience.
    fn wait_for_the_full(&mut self) {
        self.rest();
        while let Some((entry, mut item)) = self.blocked.pop_front() {
            loop {
                if entry.removed.load(Ordering::Acquire) {
                    break;
                }
                let until = self.roster.state.lock().patience;
                let over = until.is_some_and(|until| Instant::now() >= until);
                let patience = Patience::new(&self.roster.nudge.1, until);
                let put = if over {
                    entry.put_nowait(item, &self.roster.dropped)
                } else {
                    entry.put(item, &patience)
                };
                item = match put {
                    Ok(()) => break,
                    Err(PutError::Full(item)) if patience.used() => item,
                    Err(PutError::Full(_)) => {
                        entry.count_dropped(&self.roster.dropped);
                        break;
                    }
                    Err(PutError::Closed(_)) => {
                        self.gone.push(entry.id);
                        break;
                    }
                };
                // Who was removed during the wait must not be kept alive by the next.
                self.blocked
                    .retain(|(entry, _)| !entry.removed.load(Ordering::Acquire));
            }
        }
    }
}

impl<T: Clone + Send + 'static> Drop for Publisher<T> {
    fn drop(&mut self) {
        self.snapshot = None;
        self.blocked.clear();
        let _ = self.roster.end.set(Error::Ended);
        let entries = {
            let mut state = self.roster.state.lock();
            state.ended = true;
            self.roster.changed();
            std::mem::replace(&mut state.entries, Arc::new([]))
        };
        drop(entries);
        self.roster.dispatcher.end();
    }
}

impl<T> Entry<T> {
    fn new(id: SubscriptionId, outlet: Outlet<T>, removed: Arc<AtomicBool>) -> Self {
        Entry {
            id,
            outlet,
            removed,
            dropped: AtomicBool::new(false),
        }
    }

    fn count_dropped(&self, total: &AtomicU64) {
        total.fetch_add(1, Ordering::Relaxed);
        if !self.dropped.swap(true, Ordering::Relaxed) {
            log::warn!(
                "{:?} is full and the stream goes on: messages for it are dropped",
                self.id
            );
        }
    }
}

impl<T: Send + 'static> Entry<T> {
    fn put_nowait(&self, item: T, dropped: &AtomicU64) -> Result<(), PutError<T>> {
        match &self.outlet {
            Outlet::Queue(sender) | Outlet::Relay(sender, _) => sender.put_nowait(item),
            Outlet::Ring(sender, receiver) => {
                let mut item = item;
                while let Err(TrySendError::Full(back)) = sender.try_send(item) {
                    item = back;
                    if receiver.try_recv().is_ok() {
                        dropped.fetch_add(1, Ordering::Relaxed);
                    }
                }
                Ok(())
            }
            Outlet::Sink(sink) => {
                let mut result = Ok(());
                guarded(|| result = sink.put_nowait(item));
                result
            }
        }
    }

    fn put(&self, item: T, patience: &Patience<'_>) -> Result<(), PutError<T>> {
        match &self.outlet {
            Outlet::Queue(sender) | Outlet::Relay(sender, _) => sender.put(item, patience),
            // Never full.
            Outlet::Ring(..) => Err(PutError::Full(item)),
            Outlet::Sink(sink) => {
                let mut result = Ok(());
                guarded(|| result = sink.put(item, patience));
                result
            }
        }
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

impl<T: Clone + Send + 'static> fmt::Debug for Publisher<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").finish_non_exhaustive()
    }
}
