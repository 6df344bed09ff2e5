//! The end of a consumer that accepts items.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use super::channel::Channel;
use super::inbox::Inbox;
use super::sink::{RoomWait, Sink};
use super::subscription::Subscription;
use crate::error::PutError;

/// Accepts items: those that are put, and those of one source at a time.
///
/// [`consumer`](consumer()) creates one with its [`Inbox`], which is the other end and takes the
/// items out. Items that were put come before those of a source. As in RTCBot, a put stops an
/// active source. Items that have not been taken from the source by then stay in it.
///
/// Clones are handles to the same consumer. Dropping them does not close it:
/// [`close`](Self::close) does, and so does dropping the inbox.
///
/// # Examples
///
/// ```
/// use rtcbot_websocket::pubsub;
///
/// let (motor, mut inbox) = pubsub::consumer(16);
/// let driver = std::thread::spawn(move || {
///     while let Ok(speed) = inbox.get() {
///         println!("the motor runs at {speed}");
///     }
/// });
/// motor.put(50)?;
/// motor.close();
/// driver.join().unwrap();
/// # Ok::<(), rtcbot_websocket::PutError<i32>>(())
/// ```
pub struct Consumer<T> {
    channel: Arc<Channel<T, (), ()>>,
}

/// A source that a [`Consumer`] reads: a [`Subscription`], a crossbeam [`Receiver`], a function
/// that is [called at a steady rate](Source::every), or an [iterator](Source::iter).
///
/// `into()` makes one of the first two, or of a reference to them.
/// [`Consumer::put_subscription`] accepts both and calls `into()` itself. Clones are handles to the
/// same source.
///
/// # Examples
///
/// ```
/// use rtcbot_websocket::pubsub::{self, Source};
///
/// let (sender, receiver) = crossbeam_channel::unbounded();
/// let source = Source::from(receiver);
/// let (motor, mut inbox) = pubsub::consumer(16);
/// motor.put_subscription(source)?;
/// sender.send(50).unwrap();
/// assert_eq!(inbox.get()?, 50);
/// # Ok::<(), rtcbot_websocket::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Source<T>(Subscription<T>);

impl<T> Source<T> {
    pub(crate) fn into_subscription(self) -> Subscription<T> {
        self.0
    }
}

/// Creates a consumer whose queue has room for `capacity` items, and its inbox.
///
/// A capacity of 0 counts as 1. [`Consumer`] has an example.
#[must_use]
pub fn consumer<T: Send + 'static>(capacity: usize) -> (Consumer<T>, Inbox<T>) {
    consumer_with_weight(capacity, |_| 1)
}

/// Creates a consumer whose queued items together weigh at most `limit`, and its inbox.
///
/// An item that is heavier than the limit is accepted if nothing else is queued.
///
/// `weigh` is called on the thread that puts an item, or for a source's items on the thread that
/// takes them from the inbox. A slow `weigh` does not delay other threads.
///
/// # Examples
///
/// ```
/// use rtcbot_websocket::pubsub;
///
/// let weigh = |picture: &Vec<u8>| picture.len();
/// let (recorder, _inbox) = pubsub::consumer_with_weight(100, weigh);
/// recorder.put_nowait(vec![0; 60])?;
/// assert!(recorder.put_nowait(vec![0; 60]).unwrap_err().is_full());
/// # Ok::<(), rtcbot_websocket::Error>(())
/// ```
#[must_use]
pub fn consumer_with_weight<T: Send + 'static>(
    limit: usize,
    weigh: fn(&T) -> usize,
) -> (Consumer<T>, Inbox<T>) {
    let channel = Arc::new(Channel::new(limit, weigh, ()));
    let inbox = Inbox::new(channel.clone());
    (Consumer { channel }, inbox)
}

impl<T: Send + 'static> Consumer<T> {
    /// Queues an item, without waiting. Stops an active source.
    ///
    /// # Errors
    ///
    /// Each error contains the item.
    ///
    /// - [`PutError::Full`] if there is no room.
    /// - [`PutError::Closed`] if the consumer is closed.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{PutError, pubsub};
    ///
    /// let (motor, _inbox) = pubsub::consumer(1);
    /// motor.put_nowait(1)?;
    /// assert!(matches!(motor.put_nowait(2), Err(PutError::Full(2))));
    /// # Ok::<(), PutError<i32>>(())
    /// ```
    #[doc(alias = "try_send")]
    pub fn put_nowait(&self, item: T) -> Result<(), PutError<T>> {
        // The drop returns the worker to the thread that has the inbox.
        self.channel.push(item).map(drop)
    }

    /// Queues an item. Stops an active source.
    ///
    /// Waits for room until there is some or the consumer is closed;
    /// [`put_timeout`](Self::put_timeout) limits the wait.
    ///
    /// # Errors
    ///
    /// Returns [`PutError::Closed`] if the consumer is closed, also during the wait.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::pubsub;
    ///
    /// let (motor, mut inbox) = pubsub::consumer(1);
    /// motor.put(1)?;
    /// let driver = std::thread::spawn(move || [inbox.get(), inbox.get()]);
    /// motor.put(2)?; // waits until the first has been taken
    /// # driver.join().unwrap();
    /// # Ok::<(), rtcbot_websocket::PutError<i32>>(())
    /// ```
    #[doc(alias = "send")]
    pub fn put(&self, item: T) -> Result<(), PutError<T>> {
        self.put_deadline(item, None)
    }

    /// Queues an item. Waits for room for at most `timeout`. Stops an active source.
    ///
    /// # Errors
    ///
    /// Each error contains the item.
    ///
    /// - [`PutError::Full`] if there is no room by then.
    /// - [`PutError::Closed`] if the consumer is closed, also during the wait.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::pubsub;
    /// use std::time::Duration;
    ///
    /// let (motor, _inbox) = pubsub::consumer(1);
    /// motor.put(1)?;
    /// let error = motor.put_timeout(2, Duration::from_millis(10)).unwrap_err();
    /// assert!(error.is_full());
    /// # Ok::<(), rtcbot_websocket::PutError<i32>>(())
    /// ```
    #[doc(alias = "send_timeout")]
    pub fn put_timeout(&self, item: T, timeout: Duration) -> Result<(), PutError<T>> {
        self.put_deadline(item, Instant::now().checked_add(timeout))
    }

    fn put_deadline(&self, item: T, deadline: Option<Instant>) -> Result<(), PutError<T>> {
        self.channel.push_waiting(item, deadline).map(drop)
    }

    /// Reads all items from `source` from now on. Replaces the active source.
    ///
    /// The source is read only as fast as items are taken from the inbox. It is dropped when it
    /// ends.
    ///
    /// # Errors
    ///
    /// [`PutError::Closed`] if the consumer is closed. It contains the source.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::pubsub;
    ///
    /// let (mut publisher, joystick) = pubsub::producer();
    /// let (motor, mut inbox) = pubsub::consumer(16);
    /// motor.put_subscription(joystick.subscribe())?;
    /// publisher.put(50);
    /// assert_eq!(inbox.get()?, 50);
    /// # Ok::<(), rtcbot_websocket::Error>(())
    /// ```
    pub fn put_subscription(
        &self,
        source: impl Into<Source<T>>,
    ) -> Result<(), PutError<Subscription<T>>> {
        self.channel
            .put_subscription(source.into().into_subscription())
    }

    /// Returns the active source. It is equal (`==`) to the one that was given.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::pubsub;
    ///
    /// let (_publisher, joystick) = pubsub::producer::<i32>();
    /// let orders = joystick.subscribe();
    /// let (motor, _inbox) = pubsub::consumer(16);
    /// motor.put_subscription(&orders)?;
    /// assert_eq!(motor.subscription(), Some(orders));
    /// # Ok::<(), rtcbot_websocket::Error>(())
    /// ```
    #[must_use]
    pub fn subscription(&self) -> Option<Subscription<T>> {
        self.channel.subscription()
    }

    /// Stops reading the active source, if there is one.
    ///
    /// Items that were taken from it can still be taken from the inbox. The others stay in the
    /// source.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::pubsub;
    ///
    /// let (mut publisher, joystick) = pubsub::producer();
    /// let orders = joystick.subscribe();
    /// let (motor, _inbox) = pubsub::consumer(16);
    /// motor.put_subscription(&orders)?;
    /// motor.stop_subscription();
    /// publisher.put(50);
    /// assert_eq!(orders.get()?, 50);
    /// # Ok::<(), rtcbot_websocket::Error>(())
    /// ```
    pub fn stop_subscription(&self) {
        self.channel.stop_subscription();
    }

    /// Returns the number of queued items. A source's items are not counted.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::pubsub;
    ///
    /// let (motor, _inbox) = pubsub::consumer(16);
    /// assert!(motor.is_empty());
    /// motor.put(50)?;
    /// assert_eq!(motor.len(), 1);
    /// # Ok::<(), rtcbot_websocket::PutError<i32>>(())
    /// ```
    #[must_use]
    pub fn len(&self) -> usize {
        self.channel.len()
    }

    /// Returns whether no items are queued. A source's items are not counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.channel.is_empty()
    }

    /// Closes the consumer: puts fail, including those that wait, and the source is dropped.
    ///
    /// The queued items can still be taken from the inbox.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{PutError, pubsub};
    ///
    /// let (motor, mut inbox) = pubsub::consumer(16);
    /// motor.put(50)?;
    /// motor.close();
    /// assert!(matches!(motor.put(60), Err(PutError::Closed(60))));
    /// assert_eq!(inbox.get()?, 50);
    /// assert!(inbox.get().is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn close(&self) {
        self.channel.close();
    }
}

/// While the consumer is full, a producer that feeds it pauses, and nothing is lost.
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
