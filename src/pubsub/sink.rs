//! What a subscription can feed: anything with a `put_nowait`.

use std::cell::Cell;
use std::time::Instant;

use crossbeam_channel::{Receiver, Select, Sender, TrySendError};

use crate::error::PutError;

/// Anything that takes items without making the giver wait: RTCBot's "object which has the method
/// `put_nowait`".
///
/// A crossbeam [`Sender`], a [`Consumer`](super::Consumer) and a
/// [`Websocket`](crate::Websocket) are sinks. Write your own to feed something else:
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
/// Both methods are called on the publisher's thread (for a `Websocket`: its reader thread): what
/// they take, the stream takes. They must not wait for that same connection; work that takes long
/// belongs into a callback. A sink that panics is logged, and keeps its subscription.
pub trait Sink<T>: Send + Sync + 'static {
    /// Takes the item, or hands it back at once.
    ///
    /// # Errors
    ///
    /// [`PutError::Full`] when there is no room now; what then happens is up to [`put`](Sink::put).
    /// [`PutError::Closed`] ends the subscription.
    fn put_nowait(&self, item: T) -> Result<(), PutError<T>>;

    /// Called with the item that found the sink full: waits for room **once**, with the help of
    /// `patience`, and tries again.
    ///
    /// The default does not wait: the item is dropped, counted and logged. The sinks of this crate
    /// wait, so that the stream pauses and nothing is lost.
    ///
    /// # Errors
    ///
    /// As [`put_nowait`](Sink::put_nowait). After [`PutError::Full`] it is called again, unless it
    /// did not use `patience` or there is no patience left; then the item is dropped.
    fn put(&self, item: T, patience: &Patience<'_>) -> Result<(), PutError<T>> {
        let _ = patience;
        Err(PutError::Full(item))
    }
}

/// For how long a publisher waits for a full sink: until there is room, the subscription is
/// removed, or the publisher has to go on.
#[derive(Debug)]
pub struct Patience<'a> {
    wake: &'a Receiver<()>,
    until: Option<Instant>,
    used: Cell<bool>,
}

impl<'a> Patience<'a> {
    pub(crate) fn new(wake: &'a Receiver<()>, until: Option<Instant>) -> Self {
        Patience {
            wake,
            until,
            used: Cell::new(false),
        }
    }

    /// Whether the sink waited at all.
    pub(crate) fn used(&self) -> bool {
        self.used.get()
    }

    /// Waits until an operation of `select` is ready, or it is time to look again.
    ///
    /// Returns in both cases without having carried out any operation: try yours, without waiting.
    pub fn wait(&self, mut select: Select<'a>) {
        self.used.set(true);
        let wake = select.recv(self.wake);
        let ready = match self.until {
            None => Some(select.ready()),
            Some(until) => select.ready_deadline(until).ok(),
        };
        if ready == Some(wake) {
            let _ = self.wake.try_recv();
        }
    }
}

impl Patience<'_> {
    /// It is time to look again without having waited.
    pub(crate) fn look_again(&self) {
        self.used.set(true);
    }

    /// Waits until something can be received from `ready`, and receives it, or it is time to look again.
    pub(crate) fn wait_for(&self, ready: &Receiver<()>) {
        self.wait_for_until(ready, None);
    }

    /// As [`wait_for`](Self::wait_for); looks again at `latest`, too.
    pub(crate) fn wait_for_until(&self, ready: &Receiver<()>, latest: Option<Instant>) {
        let mut select = Select::new();
        select.recv(ready);
        let wake = select.recv(self.wake);
        self.used.set(true);
        let until = [self.until, latest].into_iter().flatten().min();
        let which = match until {
            None => Some(select.ready()),
            Some(until) => select.ready_deadline(until).ok(),
        };
        match which {
            Some(index) if index == wake => drop(self.wake.try_recv()),
            Some(_) => drop(ready.try_recv()),
            None => {}
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

    fn put(&self, item: T, patience: &Patience<'_>) -> Result<(), PutError<T>> {
        let mut select = Select::new();
        select.send(self);
        patience.wait(select);
        self.put_nowait(item)
    }
}
