//! A queue that a producer fills.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Select, TryRecvError};

use super::callback_limit::blocking;
use super::hold::EndReason;
use super::ring::{self, OperationLock};
use super::status::{Status, SubscriptionId};
use super::weight_limit::TakeNotifier;
use crate::error::{Error, Result};
use crate::process::OwnerProcess;

/// A queue that a producer fills: what `subscribe()` returns.
///
/// Clones are handles to the same queue: each item goes to one of them. Dropping the last one
/// unsubscribes.
///
/// ```
/// use rtcbot_websocket::pubsub::Producer;
///
/// let (mut publisher, producer) = Producer::new();
/// let subscription = producer.subscribe();
/// publisher.put("hello");
/// drop(publisher);
///
/// assert_eq!(subscription.get()?, "hello"); // first what is still queued,
/// assert!(subscription.get().is_err());     // then the reason it ended
/// # Ok::<(), rtcbot_websocket::Error>(())
/// ```
pub struct Subscription<T> {
    inner: Arc<Inner<T>>,
}

struct Inner<T> {
    status: Arc<Status>,
    items: Receiver<T>,
    operation_lock: Option<OperationLock>,
    /// Whom to tell that something was taken; nobody, where something else fills the channel.
    notifier: Option<Arc<TakeNotifier>>,
    end: EndReason,
    unsubscribe: Option<Unsubscribe>,
}

/// How to unsubscribe, and in which process.
type Unsubscribe = (OwnerProcess, Box<dyn Fn(SubscriptionId) + Send + Sync>);

impl<T> Drop for Inner<T> {
    fn drop(&mut self) {
        match &self.unsubscribe {
            Some((process, unsubscribe)) if process.is_current() => unsubscribe(self.status.id),
            // Its locks may be held by threads that are not here.
            Some(_) => std::mem::forget(self.items.clone()),
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

    /// Takes the next item, waiting for it. It waits for as long as the producer lives; use
    /// [`get_timeout`](Self::get_timeout) to bound it.
    ///
    /// # Errors
    ///
    /// When nothing is queued any more: the reason the producer ended, or [`Error::Unsubscribed`].
    pub fn get(&self) -> Result<T> {
        self.get_until(None)
    }

    /// Takes the next item, waiting for at most `timeout`.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] when the time is over, else as [`get`](Self::get).
    pub fn get_timeout(&self, timeout: Duration) -> Result<T> {
        self.get_until(Instant::now().checked_add(timeout))
    }

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
            // The lock is not held while it waits.
            let in_time = blocking(&self.inner.end, || {
                let mut select = Select::new();
                select.recv(items);
                match deadline {
                    None => Ok(select.ready()),
                    Some(deadline) => select.ready_deadline(deadline),
                }
            });
            // A handle to the same queue may have been faster.
            in_time.map_err(|_| Error::Timeout)?;
        }
    }

    /// Takes the next item if one is there; never waits for one.
    ///
    /// It may wait for the thread that is just putting one in: see [`Queue`](super::Queue) for what
    /// that means to a thread with a real-time priority.
    ///
    /// # Errors
    ///
    /// [`Error::Empty`] when none is there, else as [`get`](Self::get).
    pub fn try_get(&self) -> Result<T> {
        let item = self.take().map_err(|error| match error {
            TryRecvError::Empty => Error::Empty,
            TryRecvError::Disconnected => self.ended(),
        })?;
        self.notify_taken();
        Ok(item)
    }

    pub(super) fn take(&self) -> Result<T, TryRecvError> {
        ring::take(&self.inner.items, self.inner.operation_lock.as_ref())
    }

    /// Takes items until the producer ends, waiting for each. Why it ended, [`get`](Self::get)
    /// tells.
    pub fn iter(&self) -> Iter<'_, T> {
        Iter { subscription: self }
    }

    /// The channel itself, for [`crossbeam_channel::select!`]. It is disconnected at the end.
    ///
    /// What is received from it directly is not announced. A publisher that waits because [too many
    /// bytes](crate::Options::receive_queue_bytes) are queued then looks for room by itself, first
    /// after 0.1 ms and at last every 50 ms.
    ///
    /// ```
    /// # use rtcbot_websocket::pubsub::Producer;
    /// use crossbeam_channel::{select, tick};
    /// # let (mut publisher, sensor) = Producer::new();
    /// # publisher.put(1);
    /// let orders = sensor.subscribe();
    /// let clock = tick(std::time::Duration::from_millis(10));
    /// select! {
    ///     recv(orders.receiver()) -> order => println!("{order:?}"),
    ///     recv(clock) -> _ => println!("tick"),
    /// }
    /// ```
    pub fn receiver(&self) -> &Receiver<T> {
        if let Some(notifier) = &self.inner.notifier {
            notifier.set_unannounced();
        }
        &self.inner.items
    }

    /// As [`receiver`](Self::receiver), for who calls [`notify_taken`](Self::notify_taken).
    pub(super) fn items(&self) -> &Receiver<T> {
        &self.inner.items
    }

    /// To be called after something was taken, and where no lock is held.
    pub(super) fn notify_taken(&self) {
        if let Some(notifier) = &self.inner.notifier {
            notifier.notify();
        }
    }

    /// How many items wait in the queue.
    pub fn len(&self) -> usize {
        self.inner.items.len()
    }

    /// Whether no item waits in the queue.
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

/// A channel that something else fills, seen as a subscription.
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

/// Equal when both read the same channel.
impl<T> PartialEq for Subscription<T> {
    fn eq(&self, other: &Self) -> bool {
        self.inner.items.same_channel(&other.inner.items)
    }
}

impl<T> Eq for Subscription<T> {}

/// Equal when both read the same channel.
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

/// Takes a subscription's items until its producer ends.
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

/// Takes a subscription's items until its producer ends.
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
