//! Sinks: everything that a producer can pass its items to.

use std::convert::Infallible;
use std::fmt;
use std::time::Instant;

use crossbeam_channel::{Receiver, Select, Sender, TrySendError};

use super::space::ChangeNotifier;
use crate::error::PutError;

/// Accepts items without waiting: RTCBot's "object which has the method `put_nowait`".
///
/// A crossbeam [`Sender`], a [`Consumer`](super::Consumer), a [`Latest`](super::Latest) and a
/// [`Websocket`](crate::Websocket) are sinks. The publisher calls these itself (for a `Websocket`,
/// its reader thread does). While one is full, the stream pauses, and nothing is lost.
///
/// Your own sink is called on the producer's dispatch thread, in order with the callbacks. The
/// rules for a [callback](super::Producer::subscribe_callback) apply to it as well:
///
/// - It may call any method, and may wait.
/// - A slow sink delays the callbacks. The stream pauses when 1024 items are queued.
/// - A panic is logged, and the sink stays subscribed.
///
/// # Examples
///
/// ```
/// use std::sync::Mutex;
/// use rtcbot_websocket::{PutError, Sink};
///
/// struct Log(Mutex<Vec<String>>);
///
/// impl<T: std::fmt::Debug + 'static> Sink<T> for Log {
///     fn put_nowait(&self, item: T) -> Result<(), PutError<T>> {
///         self.0.lock().unwrap().push(format!("{item:?}"));
///         Ok(())
///     }
/// }
/// ```
pub trait Sink<T>: Send + Sync + 'static {
    /// Accepts the item, or returns it in the error.
    ///
    /// # Errors
    ///
    /// - [`PutError::Full`] if there is no room at the moment. The item of your own sink is then
    ///   dropped and counted, and the first time this is logged.
    /// - [`PutError::Closed`] if the sink accepts no more items. This ends the subscription: the
    ///   item, and the items that are already queued for this sink, are dropped and counted.
    fn put_nowait(&self, item: T) -> Result<(), PutError<T>>;

    /// Begins a wait for room. Sinks of this crate implement this, so the publisher calls them
    /// itself. No other crate can make a `RoomWait`.
    #[doc(hidden)]
    fn room_wait(&self) -> Option<RoomWait<'_, T>> {
        None
    }
}

/// A wait for room in a sink or queue.
#[doc(hidden)]
pub struct RoomWait<'a, T>(Kind<'a, T>);

enum Kind<'a, T> {
    Channel(&'a Sender<T>),
    /// For room in a queue that is not a crossbeam channel. The wait also ends at this time.
    Queue(Receiver<Infallible>, Option<Instant>),
    /// Nothing reports room. Only a change of the policy or the time limit ends the wait.
    None,
}

impl<'a, T> RoomWait<'a, T> {
    pub(super) fn in_channel(channel: &'a Sender<T>) -> Self {
        RoomWait(Kind::Channel(channel))
    }

    /// Begins a wait. Call it before checking for room.
    pub(crate) fn in_queue(space: &ChangeNotifier) -> Self {
        RoomWait(Kind::Queue(space.next_change(), None))
    }

    pub(super) fn in_weight((take, check_at): (Receiver<Infallible>, Option<Instant>)) -> Self {
        RoomWait(Kind::Queue(take, check_at))
    }

    pub(super) fn none() -> Self {
        RoomWait(Kind::None)
    }

    /// Waits until there may be room, until `changed` is disconnected, or until `until`.
    pub(super) fn wait(&self, changed: &Receiver<Infallible>, until: Option<Instant>) {
        let mut select = Select::new();
        select.recv(changed);
        let mut until = until;
        match &self.0 {
            Kind::Channel(channel) => {
                select.send(channel);
            }
            Kind::Queue(change, check_at) => {
                select.recv(change);
                until = until.into_iter().chain(*check_at).min();
            }
            Kind::None => {}
        }
        match until {
            None => {
                select.ready();
            }
            Some(until) => {
                let _ = select.ready_deadline(until);
            }
        }
    }
}

impl<T> fmt::Debug for RoomWait<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RoomWait").finish_non_exhaustive()
    }
}

impl<T: Send + 'static> Sink<T> for Sender<T> {
    fn put_nowait(&self, item: T) -> Result<(), PutError<T>> {
        self.try_send(item).map_err(|error| match error {
            TrySendError::Full(item) => PutError::Full(item),
            TrySendError::Disconnected(item) => PutError::Closed(item),
        })
    }

    fn room_wait(&self) -> Option<RoomWait<'_, T>> {
        Some(RoomWait::in_channel(self))
    }
}
