//! Direct puts and a replaceable source, as one stream: the giving side.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use super::channel::Channel;
use super::inbox::Inbox;
use super::sink::{Room, Sink};
use super::space::SpaceNotifier;
use super::subscription::Subscription;
use crate::error::PutError;
use crate::panics::drop_caught;

/// What takes items: puts, and one source at a time. Clones are handles to the same consumer.
///
/// The other side, the one that uses up the items, is the [`Inbox`].
///
/// Items that were put come before those of a source. As in RTCBot a put stops an active source;
/// what has not been taken from the source by then stays in it.
pub struct Consumer<T> {
    channel: Arc<Channel<T>>,
}

/// What a [`Consumer`] reads from: a [`Subscription`], or a crossbeam [`Receiver`].
///
/// Made by `into()`; see [`Consumer::put_subscription`].
#[derive(Debug, Clone)]
pub struct Source<T>(Subscription<T>);

/// What a push has left to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// The inbox's owner is at work and will find the item.
    Noticed,
    /// The inbox's owner has to be woken.
    Unnoticed,
}

impl<T: Send + 'static> Consumer<T> {
    /// A consumer with room for `capacity` items, and the end that uses them up.
    #[allow(clippy::new_ret_no_self)] // A pair of ends, like the channels' constructors.
    pub fn new(capacity: usize) -> (Consumer<T>, Inbox<T>) {
        Self::with_weight(capacity, |_| 1)
    }

    /// A consumer whose items together may weigh `limit`. One that is heavier is taken when nothing
    /// else is queued.
    ///
    /// `weigh` is called on the thread that puts, and on the inbox's for what comes from a source;
    /// it may take its time without holding up others.
    pub fn with_weight(limit: usize, weigh: fn(&T) -> usize) -> (Consumer<T>, Inbox<T>) {
        let channel = Channel::new(limit, weigh);
        let inbox = Inbox::new(channel.clone());
        (Consumer { channel }, inbox)
    }

    /// Takes the item; never waits. Stops an active source.
    ///
    /// # Errors
    ///
    /// [`PutError::Full`] when there is no room, [`PutError::Closed`] when nothing is taken any more;
    /// both hand the item back.
    pub fn put_nowait(&self, item: T) -> Result<(), PutError<T>> {
        if self.push(item)? == Pushed::Unnoticed {
            self.wake();
        }
        Ok(())
    }

    /// Takes the item, waiting for room. Stops an active source.
    ///
    /// # Errors
    ///
    /// [`PutError::Closed`] when nothing is taken any more, also when that happens during the wait.
    pub fn put(&self, item: T) -> Result<(), PutError<T>> {
        self.put_deadline(item, None, |consumer| consumer.wake())
    }

    /// Takes the item, waiting for room for at most `timeout`. Stops an active source.
    ///
    /// # Errors
    ///
    /// [`PutError::Full`] when the time is over, else as [`put`](Self::put).
    pub fn put_timeout(&self, item: T, timeout: Duration) -> Result<(), PutError<T>> {
        self.put_deadline(item, Instant::now().checked_add(timeout), |consumer| {
            consumer.wake()
        })
    }

    /// Takes everything that `source` yields from now on, in place of the source so far.
    ///
    /// The source is read only as fast as the items are used up. When it ends, it is let go of.
    /// Returns whether it was taken: a closed consumer takes no source.
    pub fn put_subscription(&self, source: impl Into<Source<T>>) -> bool {
        let Source(source) = source.into();
        let (taken, old) = {
            let mut state = self.channel.state.lock();
            if state.closed {
                (false, Some(source))
            } else {
                (true, state.source.replace(source))
            }
        };
        // The owner may be waiting for the old source.
        self.wake();
        drop_caught(old);
        taken
    }

    /// The active source: equal (`==`) to the one that was given.
    pub fn subscription(&self) -> Option<Subscription<T>> {
        self.channel.state.lock().source.clone()
    }

    /// Stops reading the active source, if there is one. What was taken from it is still used; what
    /// was not stays in it.
    pub fn stop_subscription(&self) {
        let source = self.channel.state.lock().source.take();
        if source.is_some() {
            // The owner may be waiting for it, with a handle of its own.
            self.wake();
            drop_caught(source);
        }
    }

    /// How many items wait in the queue. A source's items are not counted.
    pub fn len(&self) -> usize {
        self.channel.state.lock().queue.len()
    }

    /// Whether no item waits in the queue.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes nothing more: puts fail, waiting ones included, and the source is let go of. What is
    /// queued can still be used up.
    pub fn close(&self) {
        let source = {
            let mut state = self.channel.state.lock();
            state.closed = true;
            state.source.take()
        };
        self.channel.space.notify();
        self.wake();
        drop_caught(source);
    }

    // What a `Websocket` needs beyond the public part.

    /// How many items wait, those that the inbox has taken included (up to 128, of which some may have
    /// been given out), and what those in the queue weigh.
    pub(crate) fn backlog(&self) -> (usize, usize) {
        let state = self.channel.state.lock();
        let in_flight = self.channel.in_flight.load(Ordering::Relaxed);
        (state.queue.len() + in_flight, state.weight)
    }

    /// As [`put_nowait`](Self::put_nowait), leaving the waking to the caller.
    pub(crate) fn push(&self, item: T) -> Result<Pushed, PutError<T>> {
        let weight = (self.channel.weigh)(&item);
        let (pushed, source) = {
            let mut state = self.channel.state.lock();
            if state.closed {
                return Err(PutError::Closed(item));
            }
            if state.weight > 0 && state.weight + weight > self.channel.limit {
                return Err(PutError::Full(item));
            }
            state.weight += weight;
            state.queue.push_back((item, weight));
            let pushed = if state.waiting {
                Pushed::Unnoticed
            } else {
                Pushed::Noticed
            };
            (pushed, state.source.take())
        };
        if source.is_some() {
            // As in `stop_subscription`; whoever else may see to the item.
            self.wake();
            drop_caught(source);
        }
        Ok(pushed)
    }

    /// As [`put`](Self::put), calling `wake` when the inbox's owner has to be woken.
    pub(crate) fn put_deadline(
        &self,
        item: T,
        deadline: Option<Instant>,
        wake: impl Fn(&Self),
    ) -> Result<(), PutError<T>> {
        let mut item = match self.push(item) {
            Ok(pushed) => {
                if pushed == Pushed::Unnoticed {
                    wake(self);
                }
                return Ok(());
            }
            Err(PutError::Full(item)) => item,
            Err(closed) => return Err(closed),
        };
        let waiting = self.channel.space.register();
        loop {
            match self.push(item) {
                Ok(pushed) => {
                    if pushed == Pushed::Unnoticed {
                        wake(self);
                    }
                    return Ok(());
                }
                Err(PutError::Full(back)) => item = back,
                Err(closed) => return Err(closed),
            }
            // Ended by the inbox making room, by `close`, or by the deadline.
            let permit = match deadline {
                None => waiting.permit().recv().is_ok(),
                Some(deadline) => waiting.permit().recv_deadline(deadline).is_ok(),
            };
            if !permit {
                return Err(PutError::Full(item));
            }
        }
    }

    /// Makes the inbox's owner look again.
    pub(crate) fn wake(&self) {
        self.channel.wake.call();
    }

    /// Waits until there is something for the inbox, [`wake`](Self::wake) is called, or the consumer is closed.
    pub(crate) fn wait(&self) {
        self.channel.wait(None);
    }

    /// Waits for [`wake`](Self::wake) alone.
    pub(crate) fn wait_for_wake(&self) {
        self.channel.wake.wait(None);
    }
}

/// Waits for room, so that a stream that is piped into a consumer pauses and loses nothing.
impl<T: Send + 'static> Sink<T> for Consumer<T> {
    fn put_nowait(&self, item: T) -> Result<(), PutError<T>> {
        Consumer::put_nowait(self, item)
    }

    fn room(&self) -> Option<Room<'_, T>> {
        Some(Room::in_queue(self.space()))
    }
}

impl<T> Consumer<T> {
    /// Tells when there is room.
    pub(crate) fn space(&self) -> &SpaceNotifier {
        &self.channel.space
    }
}

impl<T> From<Subscription<T>> for Source<T> {
    fn from(subscription: Subscription<T>) -> Self {
        Source(subscription)
    }
}

impl<T> From<&Subscription<T>> for Source<T> {
    fn from(subscription: &Subscription<T>) -> Self {
        Source(subscription.clone())
    }
}

impl<T> From<Receiver<T>> for Source<T> {
    fn from(receiver: Receiver<T>) -> Self {
        Source(receiver.into())
    }
}

impl<T> From<&Receiver<T>> for Source<T> {
    fn from(receiver: &Receiver<T>) -> Self {
        Source(receiver.clone().into())
    }
}

impl<T> Clone for Consumer<T> {
    fn clone(&self) -> Self {
        Consumer {
            channel: self.channel.clone(),
        }
    }
}

impl<T> fmt::Debug for Consumer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.channel.state.lock();
        f.debug_struct("Consumer")
            .field("len", &state.queue.len())
            .field("closed", &state.closed)
            .finish_non_exhaustive()
    }
}
