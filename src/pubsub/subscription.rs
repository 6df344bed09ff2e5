//! A subscriber's queue, from the reader's side.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Select, TryRecvError};

use super::callback_limit::blocking;
use super::ring::{self, OperationLock};
use super::status::EndReason;
use super::status::{Status, SubscriptionId};
use super::weight_limit::TakeNotifier;
use crate::error::{Error, Result};
use crate::process::OwnerProcess;

/// A queue that a producer fills. [`subscribe`](super::Producer::subscribe) returns one.
///
/// Clones are handles to the same queue: each item goes to one of them. Dropping the last handle
/// unsubscribes. Drop a subscription that the program no longer reads: it may pause the stream.
///
/// # Examples
///
/// ```
/// use rtcbot_websocket::pubsub;
///
/// let (mut publisher, producer) = pubsub::producer();
/// let subscription = producer.subscribe();
/// publisher.put("hello");
/// drop(publisher);
///
/// assert_eq!(subscription.get()?, "hello"); // first the queued items,
/// assert!(subscription.get().is_err());     // then the reason for the end
/// # Ok::<(), rtcbot_websocket::Error>(())
/// ```
#[must_use = "a subscription unsubscribes when it is dropped"]
pub struct Subscription<T> {
    inner: Arc<Inner<T>>,
}

struct Inner<T> {
    status: Arc<Status>,
    items: Receiver<T>,
    operation_lock: Option<OperationLock>,
    /// Notifies the publisher after an item was taken. `None` if the channel is not a producer's.
    notifier: Option<Arc<TakeNotifier>>,
    end: EndReason,
    unsubscribe: Option<Unsubscribe>,
}

/// The function that unsubscribes, and the process in which it may be called.
type Unsubscribe = (OwnerProcess, Box<dyn Fn(SubscriptionId) + Send + Sync>);

impl<T> Drop for Inner<T> {
    fn drop(&mut self) {
        match self.unsubscribe.take() {
            Some((process, unsubscribe)) if process.is_current() => unsubscribe(self.status.id),
            // In a forked process, the channel's locks may be held by threads that do not exist
            // there. So the receiver is leaked, and what the function owns as well.
            Some(unsubscribe) => std::mem::forget((self.items.clone(), unsubscribe)),
            None => {}
        }
    }
}

impl<T> Subscription<T> {
    pub(super) fn new(
        status: Arc<Status>,
        (items, notifier): (Receiver<T>, Arc<TakeNotifier>),
        operation_lock: Option<OperationLock>,
        end: EndReason,
        unsubscribe: impl Fn(SubscriptionId) + Send + Sync + 'static,
    ) -> Self {
        Subscription {
            inner: Arc::new(Inner {
                status,
                items,
                operation_lock,
                notifier: Some(notifier),
                end,
                unsubscribe: Some((OwnerProcess::current(), Box::new(unsubscribe))),
            }),
        }
    }

    /// Makes a subscription of a channel that a thread of this crate fills. `handle` is dropped
    /// with the subscription's last handle.
    pub(super) fn of_thread(
        items: Receiver<T>,
        operation_lock: Option<OperationLock>,
        handle: impl Send + Sync + 'static,
    ) -> Self {
        let owns_handle = move |_| {
            let _ = &handle;
        };
        Subscription {
            inner: Arc::new(Inner {
                status: Status::new(),
                items,
                operation_lock,
                notifier: None,
                end: EndReason::default(),
                unsubscribe: Some((OwnerProcess::current(), Box::new(owns_handle))),
            }),
        }
    }

    /// Takes the next item.
    ///
    /// Waits until there is one or the producer ends; [`get_timeout`](Self::get_timeout) limits the
    /// wait.
    ///
    /// # Errors
    ///
    /// Once all queued items have been taken:
    ///
    /// - [`Error::Unsubscribed`] if the subscription was removed.
    /// - After the producer's end: the reason for the end.
    ///
    /// [`Subscription`] has an example.
    #[doc(alias = "recv")]
    #[doc(alias = "read")]
    pub fn get(&self) -> Result<T> {
        self.get_until(None)
    }

    /// Takes the next item. Waits for at most `timeout`.
    ///
    /// # Errors
    ///
    /// - [`Error::Timeout`] if there is no item by then.
    /// - The errors of [`get`](Self::get).
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Error, pubsub};
    /// use std::time::Duration;
    ///
    /// let (_publisher, sensor) = pubsub::producer::<u32>();
    /// let result = sensor.subscribe().get_timeout(Duration::from_millis(10));
    /// assert!(matches!(result, Err(Error::Timeout)));
    /// ```
    #[doc(alias = "recv_timeout")]
    pub fn get_timeout(&self, timeout: Duration) -> Result<T> {
        self.get_until(Instant::now().checked_add(timeout))
    }

    /// The wait ends with an item, at the deadline, or when the publisher is dropped (`end.rs`).
    fn get_until(&self, deadline: Option<Instant>) -> Result<T> {
        loop {
            match self.try_get() {
                Err(Error::Empty) => {}
                other => return other,
            }
            let items = &self.inner.items;
            if self.inner.operation_lock.is_none() {
                let received = blocking(&self.inner.end, || match deadline {
                    None => items.recv().map_err(RecvTimeoutError::from),
                    Some(deadline) => items.recv_deadline(deadline),
                });
                let item = received.map_err(|error| match error {
                    RecvTimeoutError::Timeout => Error::Timeout,
                    RecvTimeoutError::Disconnected => self.ended(),
                })?;
                self.notify_taken();
                return Ok(item);
            }
            // The lock is not held during the wait.
            let in_time = blocking(&self.inner.end, || {
                let mut select = Select::new();
                select.recv(items);
                match deadline {
                    None => Ok(select.ready()),
                    Some(deadline) => select.ready_deadline(deadline),
                }
            });
            // It tries again, because another handle may have taken the item.
            in_time.map_err(|_| Error::Timeout)?;
        }
    }

    /// Takes the next item, without waiting for one.
    ///
    /// It may wait for a thread that is putting an item at this moment:
    /// [`Queue`](super::Queue#threads-of-different-priority) describes the effect on threads with a
    /// real-time priority.
    ///
    /// # Errors
    ///
    /// - [`Error::Empty`] if no item is queued.
    /// - The errors of [`get`](Self::get).
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Error, pubsub};
    ///
    /// let (_publisher, sensor) = pubsub::producer::<u32>();
    /// assert!(matches!(sensor.subscribe().try_get(), Err(Error::Empty)));
    /// ```
    #[doc(alias = "try_recv")]
    pub fn try_get(&self) -> Result<T> {
        let item = self.take().map_err(|error| match error {
            TryRecvError::Empty => Error::Empty,
            TryRecvError::Disconnected => self.ended(),
        })?;
        self.notify_taken();
        Ok(item)
    }

    /// Takes the next item, but does not notify the publisher.
    pub(super) fn take(&self) -> Result<T, TryRecvError> {
        ring::take(&self.inner.items, self.inner.operation_lock.as_ref())
    }

    /// Returns an iterator over the items, which waits for each and ends when the producer ends.
    ///
    /// [`get`](Self::get) then returns the reason for the end.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::pubsub;
    ///
    /// let (mut publisher, sensor) = pubsub::producer();
    /// let readings = sensor.subscribe();
    /// (1..=3).for_each(|reading| publisher.put(reading));
    /// drop(publisher);
    /// assert_eq!(readings.iter().sum::<i32>(), 6);
    /// ```
    pub fn iter(&self) -> Iter<'_, T> {
        Iter { subscription: self }
    }

    /// Returns the channel itself, for [`crossbeam_channel::select!`]. It is disconnected at the
    /// end; then [`get`](Self::get) returns the reason.
    ///
    /// The publisher is not notified of items that are received from it directly. If the publisher
    /// waits because [too many bytes](crate::Options::receive_queue_bytes) are queued, it therefore
    /// checks for room at intervals, which grow from 0.1 ms to 50 ms.
    ///
    /// # Examples
    ///
    /// ```
    /// # use rtcbot_websocket::pubsub;
    /// use crossbeam_channel::{select, tick};
    /// # let (mut publisher, sensor) = pubsub::producer();
    /// # publisher.put(1);
    /// let orders = sensor.subscribe();
    /// let clock = tick(std::time::Duration::from_millis(10));
    /// select! {
    ///     recv(orders.receiver()) -> order => println!("{order:?}"),
    ///     recv(clock) -> _ => println!("tick"),
    /// }
    /// ```
    #[doc(alias = "select")]
    #[must_use]
    pub fn receiver(&self) -> &Receiver<T> {
        if let Some(notifier) = &self.inner.notifier {
            notifier.set_unannounced();
        }
        &self.inner.items
    }

    /// As [`receiver`](Self::receiver), for callers that call
    /// [`notify_taken`](Self::notify_taken).
    pub(super) fn items(&self) -> &Receiver<T> {
        &self.inner.items
    }

    /// Notifies the publisher. Call it after an item was taken, and where no lock is held.
    pub(super) fn notify_taken(&self) {
        if let Some(notifier) = &self.inner.notifier {
            notifier.notify();
        }
    }

    /// Returns the number of queued items.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::pubsub;
    ///
    /// let (mut publisher, sensor) = pubsub::producer();
    /// let readings = sensor.subscribe();
    /// assert!(readings.is_empty());
    /// publisher.put(7);
    /// assert_eq!(readings.len(), 1);
    /// ```
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.items.len()
    }

    /// Returns whether no items are queued.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.inner.items.is_empty()
    }

    fn ended(&self) -> Error {
        if self.inner.status.is_removed() {
            return Error::Unsubscribed;
        }
        self.inner.end.get().cloned().unwrap_or(Error::Ended)
    }
}

/// Makes a subscription of a channel that is not a producer's.
impl<T> From<Receiver<T>> for Subscription<T> {
    fn from(items: Receiver<T>) -> Self {
        Subscription {
            inner: Arc::new(Inner {
                status: Status::new(),
                items,
                operation_lock: None,
                notifier: None,
                end: EndReason::default(),
                unsubscribe: None,
            }),
        }
    }
}

impl<T> AsRef<SubscriptionId> for Subscription<T> {
    fn as_ref(&self) -> &SubscriptionId {
        &self.inner.status.id
    }
}

impl<T> Clone for Subscription<T> {
    fn clone(&self) -> Self {
        Subscription {
            inner: self.inner.clone(),
        }
    }
}

/// Two subscriptions are equal if they read the same channel.
impl<T> PartialEq for Subscription<T> {
    fn eq(&self, other: &Self) -> bool {
        self.inner.items.same_channel(&other.inner.items)
    }
}

impl<T> Eq for Subscription<T> {}

/// A subscription is equal to a receiver if they read the same channel.
impl<T> PartialEq<Receiver<T>> for Subscription<T> {
    fn eq(&self, other: &Receiver<T>) -> bool {
        self.inner.items.same_channel(other)
    }
}

impl<T> fmt::Debug for Subscription<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("id", &self.inner.status.id)
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

/// An iterator over a subscription's items. It waits for each item, and ends when the producer
/// ends.
#[must_use = "iterators are lazy and do nothing unless consumed"]
#[derive(Debug)]
pub struct Iter<'a, T> {
    subscription: &'a Subscription<T>,
}

impl<T> Iterator for Iter<'_, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.subscription.get().ok()
    }
}

impl<'a, T> IntoIterator for &'a Subscription<T> {
    type Item = T;
    type IntoIter = Iter<'a, T>;

    fn into_iter(self) -> Iter<'a, T> {
        self.iter()
    }
}

/// An iterator that owns a subscription. It waits for each item, and ends when the producer ends.
#[must_use = "iterators are lazy and do nothing unless consumed"]
#[derive(Debug)]
pub struct IntoIter<T> {
    subscription: Subscription<T>,
}

impl<T> Iterator for IntoIter<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.subscription.get().ok()
    }
}

impl<T> IntoIterator for Subscription<T> {
    type Item = T;
    type IntoIter = IntoIter<T>;

    fn into_iter(self) -> IntoIter<T> {
        IntoIter { subscription: self }
    }
}
