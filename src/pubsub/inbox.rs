//! Direct puts and a replaceable source, as one stream: the using side.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::channel::Channel;
use crate::error::{Error, Result};
use crate::panics::drop_caught;

/// How many items are taken from the channel at a time.
const BATCH_ITEMS: usize = 128;

/// The using side of a [`Consumer`](super::Consumer); there is one. Dropping it closes the
/// consumer.
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

    /// Takes the next item, waiting for it.
    ///
    /// # Errors
    ///
    /// [`Error::Ended`] when the consumer was closed and nothing is queued any more.
    pub fn get(&mut self) -> Result<T> {
        self.get_deadline(None)
    }

    /// Takes the next item, waiting for at most `timeout`.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] when the time is over, else as [`get`](Self::get).
    pub fn get_timeout(&mut self, timeout: Duration) -> Result<T> {
        self.get_deadline(Instant::now().checked_add(timeout))
    }

    /// Takes the next item if one is there; never waits.
    ///
    /// # Errors
    ///
    /// [`Error::Empty`] when none is there, else as [`get`](Self::get).
    pub fn try_get(&mut self) -> Result<T> {
        let mut closed = false;
        if self.taken.is_empty() {
            // Under one lock: a put that was accepted before it was closed is in the queue.
            closed = self
                .channel
                .take(&mut self.taken, BATCH_ITEMS, |(), closed| (closed, true));
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
            // Ended by a put, the source, `close`, or the deadline.
            if self.channel.sleep((), deadline).is_err() {
                return Err(Error::Timeout);
            }
        }
    }
}

impl<T> Drop for Inbox<T> {
    fn drop(&mut self) {
        // Each by itself: the destructor of one may panic, and that of the next.
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
