//! Direct puts and a replaceable source, as one stream: the using side.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::TryRecvError;

use super::channel::Channel;
use super::subscription::Subscription;
use crate::error::{Error, Result};
use crate::panics::drop_caught;

/// How many items, and how much weight, is taken from the queue at a time.
const BATCH_ITEMS: usize = 128;
const BATCH_WEIGHT: usize = 128 << 10;

/// The using side of a [`Consumer`](super::Consumer); there is one. Dropping it closes the consumer.
pub struct Inbox<T> {
    channel: Arc<Channel<T>>,
    taken: VecDeque<T>,
}

impl<T: Send + 'static> Inbox<T> {
    pub(super) fn new(channel: Arc<Channel<T>>) -> Self {
        Inbox {
            channel,
            taken: VecDeque::new(),
        }
    }

    /// Takes the next item, waiting for it.
    ///
    /// # Errors
    ///
    /// [`Error::Ended`] when the consumer was closed and nothing is queued any more.
    pub fn get(&mut self) -> Result<T> {
        self.get_deadline(None)
    }

    /// Takes the next item, waiting for at most `timeout`.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] when the time is over, else as [`get`](Self::get).
    pub fn get_timeout(&mut self, timeout: Duration) -> Result<T> {
        self.get_deadline(Instant::now().checked_add(timeout))
    }

    /// Takes the next item if one is there; never waits.
    ///
    /// # Errors
    ///
    /// [`Error::Empty`] when none is there, else as [`get`](Self::get).
    pub fn try_get(&mut self) -> Result<T> {
        if let Some(item) = self.take() {
            return Ok(item);
        }
        // Closed, and nothing is left: a put that was accepted before is in the queue by now.
        let closed = self.channel.state.lock().closed;
        match self.take() {
            Some(item) => Ok(item),
            None if closed => Err(Error::Ended),
            None => Err(Error::Empty),
        }
    }

    fn get_deadline(&mut self, deadline: Option<Instant>) -> Result<T> {
        loop {
            match self.try_get() {
                Err(Error::Empty) => {}
                other => return other,
            }
            if !self.channel.wait(deadline) {
                return Err(Error::Timeout);
            }
        }
    }

    /// The next item that can be had without waiting: of those that were put, else of the source.
    pub(crate) fn take(&mut self) -> Option<T> {
        if self.taken.is_empty() {
            self.fill();
        }
        self.taken.pop_front()
    }

    /// Puts items back that were taken, and those that are still in here behind them: they are the
    /// queue's first.
    pub(crate) fn put_back(&mut self, items: impl IntoIterator<Item = T>) {
        let weigh = self.channel.weigh;
        let back = items.into_iter().chain(self.taken.drain(..));
        let mut back: VecDeque<_> = back
            .map(|item| {
                let weight = weigh(&item);
                (item, weight)
            })
            .collect();
        let weight = back.iter().map(|(_, weight)| weight).sum::<usize>();
        let mut state = self.channel.state.lock();
        state.weight += weight;
        back.append(&mut state.queue);
        state.queue = back;
        self.channel.in_flight.store(0, Ordering::Relaxed);
    }

    fn fill(&mut self) {
        let mut weight = 0;
        // What comes from a source is weighed after it was taken. So few are taken at first, in
        // case they are heavy.
        let mut few = 1;
        while self.taken.len() < BATCH_ITEMS && weight < BATCH_WEIGHT {
            let from_source = self.take_some(few, &mut weight);
            let new = self.taken.len() - from_source;
            weight += self
                .taken
                .range(new..)
                .map(self.channel.weigh)
                .sum::<usize>();
            if from_source < few {
                break;
            }
            few *= 2;
        }
        self.channel
            .in_flight
            .store(self.taken.len(), Ordering::Relaxed);
    }

    /// Takes from the queue what fits into a batch that weighs so much already, and then a few of
    /// the source's items. Returns how many those are.
    fn take_some(&mut self, few: usize, weight: &mut usize) -> usize {
        let channel = &*self.channel;
        let mut over = None;
        let mut read = None;
        let mut from_source = 0;
        let mut made_room = false;
        {
            let mut state = channel.state.lock();
            while self.taken.len() < BATCH_ITEMS && *weight < BATCH_WEIGHT {
                let Some((item, heavy)) = state.queue.pop_front() else {
                    break;
                };
                *weight += heavy;
                state.weight -= heavy;
                self.taken.push_back(item);
                made_room = true;
            }
            // Under the lock, so that nothing more is taken from a source that was stopped.
            while from_source < few && self.taken.len() < BATCH_ITEMS && *weight < BATCH_WEIGHT {
                match state.source.as_ref().map(Subscription::take) {
                    Some(Ok(item)) => {
                        self.taken.push_back(item);
                        from_source += 1;
                    }
                    Some(Err(TryRecvError::Disconnected)) => over = state.source.take(),
                    Some(Err(TryRecvError::Empty)) | None => break,
                }
            }
            if from_source > 0 {
                read = state.source.clone();
            }
        }
        // Where the source is over, nobody waits for it.
        if let Some(source) = read {
            source.tell_taken();
            drop_caught(source);
        }
        drop_caught(over);
        if made_room {
            channel.space.notify();
        }
        from_source
    }
}

impl<T> Drop for Inbox<T> {
    fn drop(&mut self) {
        let (queue, source) = {
            let mut state = self.channel.state.lock();
            state.closed = true;
            state.weight = 0;
            (std::mem::take(&mut state.queue), state.source.take())
        };
        self.channel.in_flight.store(0, Ordering::Relaxed);
        self.channel.space.notify();
        // Each by itself: the destructor of one may panic, and that of the next.
        let queue = queue.into_iter().map(|(item, _)| item);
        for item in self.taken.drain(..).chain(queue) {
            drop_caught(item);
        }
        drop_caught(source);
    }
}

impl<T> fmt::Debug for Inbox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").finish_non_exhaustive()
    }
}
