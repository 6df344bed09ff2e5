//! What a subscription can feed: anything with a `put_nowait`.

use std::convert::Infallible;
use std::time::Instant;

use crossbeam_channel::{Receiver, Select, Sender, TrySendError};

use super::space::{SpaceNotifier, SpaceWaiter};
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
    fn room_wait(&self) -> Option<RoomWait<'_, T>> {
        None
    }
}

/// A wait for room.
#[doc(hidden)]
pub struct RoomWait<'a, T>(Kind<'a, T>);

enum Kind<'a, T> {
    Channel(&'a Sender<T>),
    /// In a queue that is not a channel; also looked for at this time.
    Queue(SpaceWaiter<'a>, Option<Instant>),
    /// There is none to be waited for.
    None,
}

impl<'a, T> RoomWait<'a, T> {
    pub(super) fn in_channel(channel: &'a Sender<T>) -> Self {
        RoomWait(Kind::Channel(channel))
    }

    /// To be called before looking for room.
    pub(crate) fn in_queue(space: &'a SpaceNotifier) -> Self {
        RoomWait(Kind::Queue(space.register(), None))
    }

    pub(super) fn in_weight((waiting, check_at): (SpaceWaiter<'a>, Option<Instant>)) -> Self {
        RoomWait(Kind::Queue(waiting, check_at))
    }

    pub(super) fn none() -> Self {
        RoomWait(Kind::None)
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
            Kind::Queue(waiting, check_at) => {
                select.recv(waiting.permit());
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
        if let Kind::Queue(waiting, _) = &self.0 {
            // It is passed on when this wait is over.
            let _ = waiting.permit().try_recv();
        }
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
