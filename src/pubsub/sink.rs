//! What a subscription can feed: anything with a `put_nowait`.

use std::convert::Infallible;
use std::fmt;
use std::time::Instant;

use crossbeam_channel::{Receiver, Select, Sender, TrySendError};

use super::space::{SpaceNotifier, Waiting};
use crate::error::PutError;

/// Anything that takes items without making the giver wait: RTCBot's "object which has the method
/// `put_nowait`".
///
/// A crossbeam [`Sender`], a [`Consumer`](super::Consumer) and a
/// [`Websocket`](crate::Websocket) are sinks. The publisher feeds these itself (for a `Websocket`:
/// its reader thread). While one is full, the stream pauses, and nothing is lost.
///
/// Write your own to feed something else:
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
///
/// Your own sink is called where callbacks are called, on the producer's dispatch thread, and in
/// order with them. What holds for a
/// [callback](super::Producer::subscribe_callback) holds for the sink: it may call any method, a
/// slow one delays the callbacks, and the stream pauses when 1024 items wait. If it panics, that is
/// logged, and it keeps its subscription.
pub trait Sink<T>: Send + Sync + 'static {
    /// Takes the item, or hands it back immediately.
    ///
    /// # Errors
    ///
    /// [`PutError::Full`] when there is no room now: the item is dropped, counted and logged.
    /// [`PutError::Closed`] ends the subscription; the item, and those that already wait for this
    /// sink, are dropped and counted.
    fn put_nowait(&self, item: T) -> Result<(), PutError<T>>;

    /// What tells when there is room. A sink of this crate has one, and so is fed by the publisher
    /// itself. Nothing outside of this crate can make one.
    #[doc(hidden)]
    fn room(&self) -> Option<Room<'_, T>> {
        None
    }
}

/// A wait for room.
#[doc(hidden)]
pub struct Room<'a, T>(Kind<'a, T>);

enum Kind<'a, T> {
    Channel(&'a Sender<T>),
    /// In a queue that is not a channel; also looked for at this time.
    Queue(Waiting<'a>, Option<Instant>),
    /// There is none to be waited for.
    None,
}

impl<'a, T> Room<'a, T> {
    pub(super) fn in_channel(channel: &'a Sender<T>) -> Self {
        Room(Kind::Channel(channel))
    }

    /// To be called before looking for room.
    pub(crate) fn in_queue(space: &'a SpaceNotifier) -> Self {
        Room(Kind::Queue(space.register(), None))
    }

    pub(super) fn in_weight((waiting, look_at): (Waiting<'a>, Option<Instant>)) -> Self {
        Room(Kind::Queue(waiting, look_at))
    }

    pub(super) fn none() -> Self {
        Room(Kind::None)
    }

    /// Waits until there may be room, `changed` is disconnected, or it is `until`.
    pub(super) fn wait(&self, changed: &Receiver<Infallible>, until: Option<Instant>) {
        let mut select = Select::new();
        select.recv(changed);
        let mut until = until;
        match &self.0 {
            Kind::Channel(channel) => {
                select.send(channel);
            }
            Kind::Queue(waiting, look_at) => {
                select.recv(waiting.permit());
                until = until.into_iter().chain(*look_at).min();
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
        if let Kind::Queue(waiting, _) = &self.0 {
            // It is passed on when this wait is over.
            let _ = waiting.permit().try_recv();
        }
    }
}

impl<T> fmt::Debug for Room<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Room").finish_non_exhaustive()
    }
}

impl<T: Send + 'static> Sink<T> for Sender<T> {
    fn put_nowait(&self, item: T) -> Result<(), PutError<T>> {
        self.try_send(item).map_err(|error| match error {
            TrySendError::Full(item) => PutError::Full(item),
            TrySendError::Disconnected(item) => PutError::Closed(item),
        })
    }

    fn room(&self) -> Option<Room<'_, T>> {
        Some(Room::in_channel(self))
    }
}
