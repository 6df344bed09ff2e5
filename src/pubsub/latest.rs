//! The newest item of any number of producers, and its age.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::forwarder::Forwarder;
use super::producer::Producer;
use super::sink::{RoomWait, Sink};
use super::status::{Status, SubscriptionId};
use super::subscribers::Subscribers;
use crate::error::PutError;
use crate::panics::drop_caught;

/// The newest item of one or more producers, and its age: for control loops.
///
/// [`Websocket::subscribe_latest`](crate::Websocket::subscribe_latest) returns one that a single
/// connection feeds. Several connections and other producers can feed one `Latest`: make it with
/// [`new`](Self::new), and pass a clone to [`subscribe_to`](Producer::subscribe_to) of each. A
/// clone is a handle to the same item.
///
/// The age of an item counts from its delivery to the `Latest`, not from the time at which the peer
/// sent it. A message that was delayed on the way is new when it arrives. If an old one must not be
/// followed, put the time into the message.
///
/// When a producer ends, as a connection does, its last item stays here and becomes older. So
/// [`fresh`](Self::fresh) returns `None` from then on, whatever the reason for the silence is.
///
/// Every item replaces the one before. If other messages than orders arrive, a callback selects
/// them, and puts values of your own type:
///
/// ```
/// use rtcbot_websocket::{Latest, Sink, Websocket};
///
/// #[derive(Clone, serde::Deserialize)]
/// struct Order { speed: f64 }
///
/// let (robot, operator) = Websocket::pair();
/// let orders = Latest::<Order>::new();
/// let newest = orders.clone();
/// robot.subscribe_callback(move |message| {
///     if let Ok(order) = message.decode() {
///         let _ = newest.put_nowait(order);
///     }
/// });
/// operator.put("hello")?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Threads of different priority
///
/// No method waits for an item, or for room. A lock is held while one pointer is copied or
/// replaced. Items are cloned and dropped, and the clock is read, without the lock. A thread that
/// finds the lock taken sleeps until the other thread has released it, and does not spin. So a
/// control loop with a real-time priority that has preempted a producer lets that thread finish.
///
/// # Examples
///
/// A robot that any of several operators may drive, and that stops without orders:
///
/// ```
/// use rtcbot_websocket::{Latest, Message, Websocket};
/// use std::time::Duration;
///
/// let latest = Latest::<Message>::new();
/// let (robot, operator) = Websocket::pair();
/// robot.subscribe_to(latest.clone());
/// let (robot_too, _another_operator) = Websocket::pair();
/// robot_too.subscribe_to(latest.clone());
/// operator.put("forward")?;
/// # while latest.newest().is_none() {}
///
/// match latest.fresh(Duration::from_millis(300)) {
///     Some(order) => println!("to the motors: {order}"),
///     None => println!("motors off: no order for 300 ms"),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Latest<T> {
    inner: Arc<Inner<T>>,
}

struct Inner<T> {
    /// Held to copy or to replace the pointer. Nothing is called under it, and no item is dropped.
    newest: Mutex<Option<Arc<Arrived<T>>>>,
}

struct Arrived<T> {
    item: T,
    at: Instant,
}

impl<T> Latest<T> {
    /// Creates an empty `Latest` that no producer feeds. [`Latest`] has an example.
    pub fn new() -> Self {
        Latest {
            inner: Arc::new(Inner {
                newest: Mutex::new(None),
            }),
        }
    }
}

impl<T: Clone> Latest<T> {
    /// Returns the newest item and its age, or `None` if there has been no item. Does not wait.
    ///
    /// The item stays: the next call returns it again, with a greater age.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Latest, Sink};
    ///
    /// let latest = Latest::new();
    /// assert!(latest.newest().is_none());
    /// latest.put_nowait("forward")?;
    /// let (order, age) = latest.newest().unwrap();
    /// println!("{order}, {age:?} ago");
    /// # Ok::<(), rtcbot_websocket::PutError<&str>>(())
    /// ```
    pub fn newest(&self) -> Option<(T, Duration)> {
        let arrived = self.inner.newest.lock().clone()?;
        Some((arrived.item.clone(), arrived.at.elapsed()))
    }

    /// Returns the newest item if it is not older than `max_age`, or else `None`. Does not wait.
    ///
    /// Returns `None` also if there has been no item. The end of a producer makes no difference:
    /// its last item is returned until it is too old.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::Websocket;
    /// use std::time::Duration;
    ///
    /// let (robot, _operator) = Websocket::pair();
    /// let orders = robot.subscribe_latest();
    /// if orders.fresh(Duration::from_millis(300)).is_none() {
    ///     println!("motors off: no order for 300 ms");
    /// }
    /// ```
    pub fn fresh(&self, max_age: Duration) -> Option<T> {
        let arrived = self.inner.newest.lock().clone()?;
        (arrived.at.elapsed() <= max_age).then(|| arrived.item.clone())
    }
}

impl<T> Inner<T> {
    fn put(&self, item: T) {
        let at = Instant::now();
        let mut arrived = Some(Arc::new(Arrived { item, at }));
        let mut newest = self.newest.lock();
        // Another thread may have put a later item since this one looked at the clock.
        if newest.as_ref().is_none_or(|newest| newest.at <= at) {
            std::mem::swap(&mut *newest, &mut arrived);
        }
        drop(newest);
        drop_caught(arrived);
    }
}

impl<T: Clone + Send + Sync + 'static> Producer<T> {
    /// Returns the newest item and its age at any time, from now on.
    ///
    /// [`Websocket::subscribe_latest`](crate::Websocket::subscribe_latest) describes it.
    pub(crate) fn subscribe_latest(&self) -> Latest<T> {
        let latest = Latest::new();
        let status = Status::new();
        let feed = Feed {
            latest: Arc::downgrade(&latest.inner),
            subscribers: Arc::downgrade(&self.subscribers),
            id: status.id,
        };
        Forwarder::attach(&self.subscribers, status, feed);
        latest
    }
}

/// Never full: the item replaces the one before. The publisher does not wait, and calls it on its
/// own thread (for a [`Websocket`](crate::Websocket), on the reader thread).
impl<T: Send + Sync + 'static> Sink<T> for Latest<T> {
    fn put_nowait(&self, item: T) -> Result<(), PutError<T>> {
        self.inner.put(item);
        Ok(())
    }

    fn room_wait(&self) -> Option<RoomWait<'_, T>> {
        Some(RoomWait::none())
    }
}

/// Feeds a [`Latest`] until its last handle is dropped.
struct Feed<T> {
    latest: Weak<Inner<T>>,
    subscribers: Weak<Subscribers<T>>,
    id: SubscriptionId,
}

impl<T: Send + Sync + 'static> Sink<T> for Feed<T> {
    fn put_nowait(&self, item: T) -> Result<(), PutError<T>> {
        if let Some(latest) = self.latest.upgrade() {
            latest.put(item);
            // It may be the last reference, to an item with a destructor of the user's.
            drop_caught(latest);
            return Ok(());
        }
        // The program no longer wants the items, so this one is not counted as dropped.
        drop_caught(item);
        if let Some(subscribers) = self.subscribers.upgrade() {
            subscribers.detach(self.id);
        }
        Ok(())
    }

    fn room_wait(&self) -> Option<RoomWait<'_, T>> {
        Some(RoomWait::none())
    }
}

impl<T> Default for Latest<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Clone for Latest<T> {
    fn clone(&self) -> Self {
        Latest {
            inner: self.inner.clone(),
        }
    }
}

impl<T> fmt::Debug for Latest<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let age = self.inner.newest.lock().as_ref().map(|arrived| arrived.at);
        f.debug_struct("Latest")
            .field("age", &age.map(|at| at.elapsed()))
            .finish_non_exhaustive()
    }
}
