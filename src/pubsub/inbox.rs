//! The end of a consumer that items are taken from.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::channel::{Channel, Take};
use crate::error::{Error, Result};
use crate::panics::drop_caught;

/// The number of items that are taken from the channel at a time.
const BATCH_ITEMS: usize = 128;

/// The end of a [`Consumer`](super::Consumer) that items are taken from.
///
/// A consumer has one inbox. Dropping the inbox closes the consumer and drops the queued items.
///
/// # Examples
///
/// ```
/// use rtcbot_websocket::pubsub;
///
/// let (motor, mut inbox) = pubsub::consumer(16);
/// motor.put(50)?;
/// assert_eq!(inbox.get().unwrap(), 50);
/// drop(inbox);
/// assert!(motor.put(60).is_err());
/// # Ok::<(), rtcbot_websocket::PutError<i32>>(())
/// ```
pub struct Inbox<T> {
    channel: Arc<Channel<T, (), ()>>,
    taken: VecDeque<T>,
}

impl<T: Send + 'static> Inbox<T> {
    pub(super) fn new(channel: Arc<Channel<T, (), ()>>) -> Self {
        Inbox {
            channel,
            taken: VecDeque::new(),
        }
    }

    /// Takes the next item.
    ///
    /// Waits until there is one or the consumer is closed; [`get_timeout`](Self::get_timeout)
    /// limits the wait.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Ended`] if the consumer is closed and all queued items have been taken.
    /// [`Consumer::close`](super::Consumer::close) has an example.
    #[doc(alias = "recv")]
    #[doc(alias = "read")]
    pub fn get(&mut self) -> Result<T> {
        self.get_deadline(None)
    }

    /// Takes the next item. Waits for at most `timeout`.
    ///
    /// # Errors
    ///
    /// - [`Error::Timeout`] if there is no item by then.
    /// - [`Error::Ended`] as [`get`](Self::get).
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Error, pubsub};
    /// use std::time::Duration;
    ///
    /// let (_motor, mut inbox) = pubsub::consumer::<i32>(16);
    /// let result = inbox.get_timeout(Duration::from_millis(10));
    /// assert!(matches!(result, Err(Error::Timeout)));
    /// ```
    #[doc(alias = "recv_timeout")]
    pub fn get_timeout(&mut self, timeout: Duration) -> Result<T> {
        self.get_deadline(Instant::now().checked_add(timeout))
    }

    /// Takes the next item, without waiting.
    ///
    /// # Errors
    ///
    /// - [`Error::Empty`] if there is no item.
    /// - [`Error::Ended`] as [`get`](Self::get).
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Error, pubsub};
    ///
    /// let (_motor, mut inbox) = pubsub::consumer::<i32>(16);
    /// assert!(matches!(inbox.try_get(), Err(Error::Empty)));
    /// ```
    #[doc(alias = "try_recv")]
    pub fn try_get(&mut self) -> Result<T> {
        let mut closed = false;
        if self.taken.is_empty() {
            // `closed` is read under the lock under which items are taken: a put that was accepted
            // before the close is in the queue.
            closed = self.channel.take(
                &mut VecDeque::new(),
                &mut self.taken,
                BATCH_ITEMS,
                |(), closed| (closed, Take::All),
            );
        }
        match self.taken.pop_front() {
            Some(item) => Ok(item),
            None if closed => Err(Error::Ended),
            None => Err(Error::Empty),
        }
    }

    fn get_deadline(&mut self, deadline: Option<Instant>) -> Result<T> {
        loop {
            match self.try_get() {
                Err(Error::Empty) => {}
                other => return other,
            }
            // The wait is ended by a put, the source, `close`, or the deadline.
            if self.channel.sleep((), deadline).is_err() {
                return Err(Error::Timeout);
            }
        }
    }
}

impl<T> Drop for Inbox<T> {
    fn drop(&mut self) {
        // One at a time, because each destructor may panic.
        for item in self.taken.drain(..) {
            drop_caught(item);
        }
        self.channel.clear();
    }
}

impl<T> fmt::Debug for Inbox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").finish_non_exhaustive()
    }
}
