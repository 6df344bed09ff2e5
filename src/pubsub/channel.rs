//! A queue and a replaceable source, between the threads that put items and the thread that
//! processes them.
//!
//! # The worker
//!
//! A thread needs the channel's *worker* to process items. The worker is a value of a type that the
//! user of the channel chooses, `()` for an [`Inbox`](super::Inbox). There is one worker. It is in
//! one of these places:
//!
//! - The *owner* has it. The owner is the thread that processes items by default.
//! - The channel has it, and it is *idle*: there is nothing to do, and the owner sleeps.
//! - A thread that added something while the worker was idle has it, as a [`BorrowedWorker`].
//! - `returned` has it: it is being returned to the owner, which wakes up.
//!
//! A thread that adds something while the worker is not idle has nothing else to do: the worker
//! becomes idle only under the lock, and only if there is nothing to do. So the thread that has the
//! worker finds what was added.
//!
//! The owner sleeps with a copy of the source. So while there is a source, a thread that takes the
//! idle worker returns it to the owner: the owner does the work, and drops a copy that is out of
//! date.
//!
//! `model` checks these rules in many of the orders in which threads can run.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Instant;

use crossbeam_channel::TryRecvError;

use super::keys::Keys;
use super::space::ChangeNotifier;
use super::subscription::Subscription;
use super::sync::{Mutex, MutexGuard, wait_until_disconnected};
use super::worker_return::{Woken, WorkerReturn};
use crate::error::PutError;
use crate::panics::{drop_caught, drop_each};

/// The weight that is taken at a time. The item that exceeds it is still taken.
const BATCH_WEIGHT: usize = 128 << 10;

/// The number of queued urgent items up to which the limit does not apply to another.
const MAX_URGENT: usize = 16;

/// The work that a worker has besides the items.
pub(crate) trait ExtraWork {
    /// Returns whether there is something to do besides the items. Called under the lock.
    fn is_pending(&self, closed: bool) -> bool;
}

/// An [`Inbox`](super::Inbox) has to report that its consumer was closed.
impl ExtraWork for () {
    fn is_pending(&self, closed: bool) -> bool {
        closed
    }
}

/// Which items a worker takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Take {
    Nothing,
    /// Those that were put ahead of the others.
    Urgent,
    All,
}

pub(crate) struct Channel<T, X, W> {
    /// Held to read or change the state, and to take from the source without waiting. Neither
    /// `weigh` nor a user's destructor is called under it, and nothing is sent. The only other
    /// locks taken under it are those of the source's queue.
    state: Mutex<State<T, X, W>>,
    /// Notified when there is more room, and by `close`.
    space: ChangeNotifier,
    returned: WorkerReturn<W>,
    limit: usize,
    weigh: fn(&T) -> usize,
}

struct State<T, X, W> {
    /// Each item with its weight, because nothing is weighed under the lock.
    queue: VecDeque<(T, usize)>,
    /// The items that are taken before those of `queue`. They have no keys.
    urgent: VecDeque<(T, usize)>,
    keys: Keys,
    /// The number of items that `push_latest` has replaced.
    replaced: u64,
    weight: usize,
    source: Option<Subscription<T>>,
    closed: bool,
    extra: X,
    /// The worker, while there is nothing to do.
    idle: Option<W>,
}

impl<T, X: ExtraWork, W> State<T, X, W> {
    fn is_pending(&self) -> bool {
        !self.queue.is_empty() || !self.urgent.is_empty() || self.extra.is_pending(self.closed)
    }
}

impl<T, X: ExtraWork, W> Channel<T, X, W> {
    /// Creates a channel whose queued items together weigh at most `limit`. The owner has the
    /// worker at first.
    pub(crate) fn new(limit: usize, weigh: fn(&T) -> usize, extra: X) -> Self {
        Channel {
            state: Mutex::new(State {
                queue: VecDeque::new(),
                urgent: VecDeque::new(),
                keys: Keys::default(),
                replaced: 0,
                weight: 0,
                source: None,
                closed: false,
                extra,
                idle: None,
            }),
            space: ChangeNotifier::new(),
            returned: WorkerReturn::new(),
            limit,
            weigh,
        }
    }

    // For threads that put items.

    /// Adds an item and stops an active source. Returns the worker if it was idle. An item heavier
    /// than the limit is accepted if the queue is empty.
    ///
    /// # Errors
    ///
    /// - [`PutError::Full`] if there is no room.
    /// - [`PutError::Closed`] after `close`.
    #[inline]
    pub(crate) fn push(&self, item: T) -> Result<IdleWorker<'_, T, X, W>, PutError<T>> {
        let weight = (self.weigh)(&item);
        let (source, worker) = self.add(|state| {
            if state.closed {
                return Err(PutError::Closed(item));
            }
            if state.weight > 0 && state.weight + weight > self.limit {
                return Err(PutError::Full(item));
            }
            state.weight += weight;
            state.queue.push_back((item, weight));
            Ok(state.source.take())
        })?;
        if source.is_some() {
            drop_caught(source);
        }
        Ok(worker)
    }

    /// As [`push`](Self::push), but the item is taken before those of the queue. The limit does not
    /// apply while fewer than [`MAX_URGENT`] such items are queued.
    pub(crate) fn push_urgent(&self, item: T) -> Result<IdleWorker<'_, T, X, W>, PutError<T>> {
        let weight = (self.weigh)(&item);
        let (source, worker) = self.add(|state| {
            if state.closed {
                return Err(PutError::Closed(item));
            }
            let has_room = state.weight == 0 || state.weight + weight <= self.limit;
            if !has_room && state.urgent.len() >= MAX_URGENT {
                return Err(PutError::Full(item));
            }
            state.weight += weight;
            state.urgent.push_back((item, weight));
            Ok(state.source.take())
        })?;
        drop_caught(source);
        Ok(worker)
    }

    /// As [`push`](Self::push), but replaces the last item with the same key if that is queued. The
    /// item before is dropped and counted.
    pub(crate) fn push_latest(
        &self,
        key: &str,
        item: T,
    ) -> Result<IdleWorker<'_, T, X, W>, PutError<T>> {
        let weight = (self.weigh)(&item);
        let ((source, old), worker) = self.add(|state| {
            if state.closed {
                return Err(PutError::Closed(item));
            }
            let queued = state.queue.len();
            let place = state.keys.find(key, queued);
            let old = place.and_then(|index| state.queue.get_mut(index));
            let others = state.weight - old.as_ref().map_or(0, |(_, weight)| *weight);
            if others > 0 && others + weight > self.limit {
                return Err(PutError::Full(item));
            }
            state.weight = others + weight;
            let new = (item, weight);
            let old = match old {
                Some(old) => {
                    state.replaced += 1;
                    Some(std::mem::replace(old, new))
                }
                None => {
                    state.queue.push_back(new);
                    state.keys.pushed(key, queued);
                    None
                }
            };
            Ok((state.source.take(), old))
        })?;
        if old.is_some() {
            // There may be more room than before.
            self.space.notify();
        }
        drop_caught(old);
        drop_caught(source);
        Ok(worker)
    }

    /// As [`push`](Self::push), but waits for room until the deadline. Every thread that makes room
    /// ends the wait, and so does `close`.
    pub(crate) fn push_waiting(
        &self,
        item: T,
        deadline: Option<Instant>,
    ) -> Result<IdleWorker<'_, T, X, W>, PutError<T>> {
        let mut item = match self.push(item) {
            Err(PutError::Full(item)) => item,
            other => return other,
        };
        loop {
            let change = self.space.next_change();
            item = match self.push(item) {
                Err(PutError::Full(item)) => item,
                other => return other,
            };
            if !wait_until_disconnected(&change, deadline) {
                return Err(PutError::Full(item));
            }
        }
    }

    /// Replaces the source.
    ///
    /// # Errors
    ///
    /// [`PutError::Closed`] after `close`.
    pub(crate) fn put_subscription(
        &self,
        source: Subscription<T>,
    ) -> Result<(), PutError<Subscription<T>>> {
        let (replaced, worker) = self.add(|state| match state.closed {
            true => Err(PutError::Closed(source)),
            false => Ok(state.source.replace(source)),
        })?;
        // Returns the worker to the owner, which now waits for this source.
        drop(worker);
        drop_caught(replaced);
        Ok(())
    }

    /// Returns the active source.
    pub(crate) fn subscription(&self) -> Option<Subscription<T>> {
        self.state.lock().source.clone()
    }

    /// Stops reading the active source.
    pub(crate) fn stop_subscription(&self) {
        let stopped = self.add(|state| state.source.take().ok_or(()));
        if let Ok((source, worker)) = stopped {
            drop(worker);
            drop_caught(source);
        }
    }

    /// Refuses further items and sources. The queued items can still be taken.
    pub(crate) fn close(&self) {
        self.close_with(|_| ());
    }

    /// As [`close`](Self::close), and changes the extra state in the same step.
    pub(crate) fn close_with(&self, change: impl FnOnce(&mut X)) {
        let Ok((source, worker)) = self.add(|state| {
            state.closed = true;
            change(&mut state.extra);
            Ok::<_, Infallible>(state.source.take())
        });
        self.space.notify();
        // Returns the worker to the owner, which may have to end.
        drop(worker);
        drop_caught(source);
    }

    /// Changes the extra state so that there may be something to do. Returns the worker if it was
    /// idle.
    pub(crate) fn change<R>(
        &self,
        change: impl FnOnce(&mut X) -> R,
    ) -> (R, IdleWorker<'_, T, X, W>) {
        let Ok(changed) = self.add(|state| Ok::<_, Infallible>(change(&mut state.extra)));
        changed
    }

    /// Reads the extra state, or changes it so that there is not more to do than before.
    pub(crate) fn with_extra<R>(&self, f: impl FnOnce(&mut X) -> R) -> R {
        f(&mut self.state.lock().extra)
    }

    /// Returns the notifier of threads that wait for room.
    pub(crate) fn space(&self) -> &ChangeNotifier {
        &self.space
    }

    /// Returns the number of queued items.
    pub(crate) fn len(&self) -> usize {
        self.backlog().0
    }

    /// Returns whether no item is queued.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the number of queued items and their weight.
    pub(crate) fn backlog(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.urgent.len() + state.queue.len(), state.weight)
    }

    /// Returns the number of items that `push_latest` has replaced.
    pub(crate) fn replaced(&self) -> u64 {
        self.state.lock().replaced
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    /// Changes the state. If that succeeds, takes the idle worker under the same lock.
    #[inline]
    fn add<R, E>(
        &self,
        change: impl FnOnce(&mut State<T, X, W>) -> Result<R, E>,
    ) -> Result<(R, IdleWorker<'_, T, X, W>), E> {
        let mut state = self.state.lock();
        let is_watched = state.source.is_some();
        let changed = change(&mut state)?;
        let idle = state.idle.take();
        drop(state);
        let mut worker = idle.map(|worker| BorrowedWorker {
            channel: self,
            worker: Some(worker),
        });
        if is_watched {
            // The drop returns it to the owner.
            worker = None;
        }
        Ok((changed, worker))
    }

    // For the thread that has the worker.

    /// Takes the next urgent items. If there are none, takes the next others, until there are
    /// `max_items` in `items`: first those that were put, then the source's.
    ///
    /// Calls `before` under the same lock, with the extra state and whether the channel is closed.
    /// It returns which items are taken beside its result.
    pub(crate) fn take<R>(
        &self,
        urgent: &mut VecDeque<T>,
        items: &mut VecDeque<T>,
        max_items: usize,
        before: impl FnOnce(&mut X, bool) -> (R, Take),
    ) -> R {
        let mut state = self.state.lock();
        let closed = state.closed;
        let (result, which) = before(&mut state.extra, closed);
        if which == Take::Nothing {
            return result;
        }
        if !state.urgent.is_empty() {
            let mut taken = 0;
            while taken < BATCH_WEIGHT {
                let Some((item, weight)) = state.urgent.pop_front() else {
                    break;
                };
                taken += weight;
                urgent.push_back(item);
            }
            state.weight -= taken;
            drop(state);
            self.space.notify();
            // They come first, and the others are taken in the next call.
            return result;
        }
        if which == Take::Urgent {
            return result;
        }
        // A source's items are weighed after they were taken, so the first attempts take only a
        // few, in case they are heavy.
        let mut max_from_source = 1;
        let mut weight = 0;
        let mut from_source = self.take_some(state, items, max_items, max_from_source, &mut weight);
        while from_source == max_from_source {
            let new = items.len() - max_from_source;
            weight += items.range(new..).map(self.weigh).sum::<usize>();
            max_from_source *= 2;
            from_source = self.take_some(
                self.state.lock(),
                items,
                max_items,
                max_from_source,
                &mut weight,
            );
        }
        result
    }

    /// Takes the items that fit into a batch that weighs `weight` already. Among them are at most
    /// `max_from_source` items of the source. Returns the number of these. Releases the lock.
    fn take_some(
        &self,
        mut state: MutexGuard<'_, State<T, X, W>>,
        items: &mut VecDeque<T>,
        max_items: usize,
        max_from_source: usize,
        weight: &mut usize,
    ) -> usize {
        let before = items.len();
        while items.len() < max_items && *weight < BATCH_WEIGHT {
            let Some((item, heavy)) = state.queue.pop_front() else {
                break;
            };
            *weight += heavy;
            state.weight -= heavy;
            items.push_back(item);
        }
        let made_room = items.len() > before;
        // Under the lock, so that nothing is taken from a source that has been stopped.
        let mut from_source = 0;
        let mut ended = None;
        while from_source < max_from_source && items.len() < max_items && *weight < BATCH_WEIGHT {
            match state.source.as_ref().map(Subscription::take) {
                Some(Ok(item)) => {
                    items.push_back(item);
                    from_source += 1;
                }
                Some(Err(TryRecvError::Disconnected)) => ended = state.source.take(),
                Some(Err(TryRecvError::Empty)) | None => break,
            }
        }
        state.keys.taken(items.len() - before);
        // A source that has ended has no publisher to notify.
        let read = match from_source {
            0 => None,
            _ => state.source.clone(),
        };
        drop(state);
        if let Some(source) = read {
            source.notify_taken();
            drop_caught(source);
        }
        if ended.is_some() {
            drop_caught(ended);
        }
        if made_room {
            self.space.notify();
        }
        from_source
    }

    /// Puts back items that were taken, before the queued urgent items and the others.
    pub(crate) fn put_back(&self, urgent: VecDeque<T>, items: VecDeque<T>) {
        let mut weight = 0;
        let mut weighed = |items: VecDeque<T>| -> VecDeque<(T, usize)> {
            let weighed = items.into_iter().map(|item| {
                let own = (self.weigh)(&item);
                weight += own;
                (item, own)
            });
            weighed.collect()
        };
        let (mut urgent, mut back) = (weighed(urgent), weighed(items));
        let mut state = self.state.lock();
        state.weight += weight;
        state.keys.put_back(back.len());
        urgent.append(&mut state.urgent);
        state.urgent = urgent;
        back.append(&mut state.queue);
        state.queue = back;
    }

    /// Closes the channel and drops the queued items.
    pub(crate) fn clear(&self) {
        self.close();
        let (urgent, queue) = {
            let mut state = self.state.lock();
            state.weight = 0;
            let urgent = std::mem::take(&mut state.urgent);
            (urgent, std::mem::take(&mut state.queue))
        };
        drop_each(urgent);
        drop_each(queue);
    }

    /// Leaves the worker idle until there is something to do, and takes it back. Only the owner
    /// calls this. Returns the worker in `Err` at the deadline.
    ///
    /// The wait is ended by the source, by the deadline, and by a thread that adds something. That
    /// thread takes the idle worker and returns it to the owner, immediately or if it leaves
    /// something to do. (With a deadline, no thread may borrow the worker and park it again: the
    /// owner would miss its deadline.)
    pub(crate) fn sleep(&self, worker: W, deadline: Option<Instant>) -> Result<W, W> {
        let source = {
            let mut state = self.state.lock();
            if state.is_pending() {
                return Ok(worker);
            }
            state.idle = Some(worker);
            state.source.clone()
        };
        let woken = match self.returned.wait(source.as_ref(), deadline) {
            Woken::Worker(worker) => Ok(worker),
            Woken::Source => Ok(self.take_worker()),
            Woken::Deadline => Err(self.take_worker()),
        };
        // It may be the last handle, and then drops the user's items.
        drop_caught(source);
        woken
    }

    /// Takes the idle worker, or waits for it. The wait is ended by the thread that has borrowed
    /// the worker.
    fn take_worker(&self) -> W {
        let idle = self.state.lock().idle.take();
        idle.unwrap_or_else(|| self.returned.receive())
    }

    #[cfg(test)]
    pub(crate) fn has_idle_worker(&self) -> bool {
        self.state.lock().idle.is_some()
    }

    /// Makes the worker idle. Returns it in `Err` if the owner has something to do.
    fn park(&self, worker: W) -> Result<(), W> {
        let mut state = self.state.lock();
        if state.is_pending() || state.source.is_some() {
            return Err(worker);
        }
        state.idle = Some(worker);
        Ok(())
    }
}

/// The worker, on a thread that has added something. The drop returns it to the owner, also during
/// a panic.
#[must_use]
pub(crate) struct BorrowedWorker<'a, T, X: ExtraWork, W> {
    channel: &'a Channel<T, X, W>,
    /// `None` once it has been parked.
    worker: Option<W>,
}

/// The worker if it was idle when something was added, or else `None`.
pub(crate) type IdleWorker<'a, T, X, W> = Option<BorrowedWorker<'a, T, X, W>>;

impl<T, X: ExtraWork, W> BorrowedWorker<'_, T, X, W> {
    /// Works on this thread. `work` returns whether it has done everything that it found. If so,
    /// the worker becomes idle unless something was added meanwhile; otherwise the owner continues.
    pub(crate) fn work(mut self, work: impl FnOnce(&mut W) -> bool) {
        let is_done = self.worker.as_mut().is_some_and(work);
        if is_done {
            self.worker = match self.worker.take().map(|worker| self.channel.park(worker)) {
                Some(Err(worker)) => Some(worker),
                Some(Ok(())) | None => None,
            };
        }
    }
}

impl<T, X: ExtraWork, W> Drop for BorrowedWorker<'_, T, X, W> {
    fn drop(&mut self) {
        if let Some(worker) = self.worker.take() {
            self.channel.returned.send(worker);
        }
    }
}
