//! Direct puts and a replaceable source, as one stream: the giving side.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use super::channel::Channel;
use super::inbox::Inbox;
use super::sink::{RoomWait, Sink};
use super::subscription::Subscription;
use crate::error::PutError;

/// Takes items: puts, and one source at a time. Clones are handles to the same consumer.
///
/// The other side, which uses the items up, is the [`Inbox`].
///
/// Items that were put come before those of a source. As in RTCBot a put stops an active source;
/// what has not been taken from the source by then stays in it.
pub struct Consumer<T> {
    channel: Arc<Channel<T, (), ()>>,
}

/// What a [`Consumer`] reads from: a [`Subscription`], or a crossbeam [`Receiver`].
///
/// Made by `into()`; see [`Consumer::put_subscription`].
#[derive(Debug, Clone)]
pub struct Source<T>(Subscription<T>);

impl<T> Source<T> {
    pub(crate) fn into_subscription(self) -> Subscription<T> {
        self.0
    }
}

impl<T: Send + 'static> Consumer<T> {
    /// Creates a consumer with room for `capacity` items, and the end that uses them up.
    #[allow(clippy::new_ret_no_self)] // A pair of ends, like the channels' constructors.
    pub fn new(capacity: usize) -> (Consumer<T>, Inbox<T>) {
        Self::with_weight(capacity, |_| 1)
    }

    /// Creates a consumer whose items together may weigh `limit`. A heavier item is taken when
    /// nothing else is queued.
    ///
    /// `weigh` is called on the thread that puts, and on the inbox's for what comes from a source;
    /// it may take its time without holding up others.
    pub fn with_weight(limit: usize, weigh: fn(&T) -> usize) -> (Consumer<T>, Inbox<T>) {
        let channel = Arc::new(Channel::new(limit, weigh, ()));
        let inbox = Inbox::new(channel.clone());
        (Consumer { channel }, inbox)
    }

    /// Takes the item; never waits. Stops an active source.
    ///
    /// # Errors
    ///
    /// [`PutError::Full`] when there is no room, [`PutError::Closed`] when nothing is taken any
    /// more; both hand the item back.
    pub fn put_nowait(&self, item: T) -> Result<(), PutError<T>> {
        // The inbox's owner does all the work.
        self.channel.push(item).map(drop)
    }

    /// Takes the item, waiting for room. Stops an active source.
    ///
    /// # Errors
    ///
    /// [`PutError::Closed`] when nothing is taken any more, also when that happens during the wait.
    pub fn put(&self, item: T) -> Result<(), PutError<T>> {
        self.put_waiting(item, |room| room.recv().is_ok())
    }

    /// Takes the item, waiting for room for at most `timeout`. Stops an active source.
    ///
    /// # Errors
    ///
    /// [`PutError::Full`] when the time is over, else as [`put`](Self::put).
    pub fn put_timeout(&self, item: T, timeout: Duration) -> Result<(), PutError<T>> {
        match Instant::now().checked_add(timeout) {
            None => self.put(item),
            Some(deadline) => self.put_waiting(item, |room| room.recv_deadline(deadline).is_ok()),
        }
    }

    /// Takes the item, waiting for room as [`Channel::push_waiting`] does.
    fn put_waiting(
        &self,
        item: T,
        wait: impl FnMut(&Receiver<()>) -> bool,
    ) -> Result<(), PutError<T>> {
        self.channel.push_waiting(item, wait).map(drop)
    }

    /// Takes everything that `source` yields from now on, in place of the source so far.
    ///
    /// The source is read only as fast as the items are used up. When it ends, it is dropped.
    /// Returns whether it was taken: a closed consumer takes no source.
    pub fn put_subscription(&self, source: impl Into<Source<T>>) -> bool {
        self.channel
            .put_subscription(source.into().into_subscription())
    }

    /// Returns the active source: equal (`==`) to the one that was given.
    pub fn subscription(&self) -> Option<Subscription<T>> {
        self.channel.subscription()
    }

    /// Stops reading the active source, if there is one. What was taken from it is still used; what
    /// was not stays in it.
    pub fn stop_subscription(&self) {
        self.channel.stop_subscription();
    }

    /// Returns how many items wait in the queue. A source's items are not counted.
    pub fn len(&self) -> usize {
        self.channel.len()
    }

    /// Returns whether no item waits in the queue.
    pub fn is_empty(&self) -> bool {
        self.channel.is_empty()
    }

    /// Refuses further items: puts fail, waiting ones included, and the source is dropped. The
    /// queued items can still be used up.
    pub fn close(&self) {
        self.channel.close();
    }
}

/// Waits for room, so that a stream that is piped into a consumer pauses and loses nothing.
impl<T: Send + 'static> Sink<T> for Consumer<T> {
    fn put_nowait(&self, item: T) -> Result<(), PutError<T>> {
        Consumer::put_nowait(self, item)
    }

    fn room_wait(&self) -> Option<RoomWait<'_, T>> {
        Some(RoomWait::in_queue(self.channel.space()))
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
        f.debug_struct("Consumer")
            .field("len", &self.channel.len())
            .field("closed", &self.channel.is_closed())
            .finish_non_exhaustive()
    }
}
