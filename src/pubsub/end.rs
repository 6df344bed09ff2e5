//! The end of a producer. Dropping the publisher drops the list of subscribers, and with it the
//! senders of their queues: that wakes every `get` that waits, and each reads the reason.

use std::sync::Arc;

use super::fan_out::Publisher;
use super::subscribers::{SubscriberList, Subscribers};
use crate::error::Error;
use crate::panics::drop_caught;

impl<T: Clone + Send + 'static> Publisher<T> {
    /// Ends the producer.
    ///
    /// Subscriptions return `reason` once all their queued items have been taken.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Error, pubsub};
    ///
    /// let (publisher, sensor) = pubsub::producer::<u32>();
    /// publisher.end(Error::Lost(std::sync::Arc::new(std::io::Error::other("no power"))));
    /// let reason = sensor.subscribe().get().unwrap_err();
    /// assert_eq!(reason.to_string(), "connection lost: no power");
    /// ```
    pub fn end(self, reason: Error) {
        let _ = self.subscribers.end.set(reason);
        // The drop does the rest.
    }

    /// As [`end`](Self::end), but more jobs may follow on the dispatch thread. The owner then calls
    /// [`Producer::finish`](super::Producer::finish).
    pub(crate) fn end_before_callbacks(mut self, reason: Error) {
        self.leaves_callbacks = true;
        self.end(reason);
    }
}

impl<T: Clone + Send + 'static> Drop for Publisher<T> {
    fn drop(&mut self) {
        // Empty, unless the owner has not drained the backlog.
        for blocked in self.blocked.drain(..) {
            if blocked.status.is_removed() {
                drop_caught(blocked.item);
            } else {
                let dropped = &self.subscribers.delivery.dropped;
                blocked.status.discard(blocked.item, dropped);
            }
        }
        for item in self.backlog.drain(..) {
            self.subscribers.count_overflow();
            drop_caught(item);
        }
        self.count_kept();
        let _ = self.subscribers.end.set(Error::Ended);
        let list = self.subscribers.end();
        drop(list);
        if !self.leaves_callbacks {
            self.subscribers.finish();
        }
    }
}

impl<T> Subscribers<T> {
    /// Ends the producer. Returns the list of subscribers, to be dropped outside the lock.
    pub(super) fn end(&self) -> SubscriberList<T> {
        let mut state = self.state.lock();
        state.ended = true;
        let list = std::mem::replace(&mut state.list, Arc::new([]));
        let last = list.iter().filter(|other| other.outlives_the_end());
        state.last = last.map(|other| other.status.clone()).collect();
        list
    }
}

impl<T: Send + 'static> Subscribers<T> {
    /// Lets the callback threads end after the queued jobs. If the system starts no thread, these
    /// run on the calling thread.
    pub(super) fn finish(&self) {
        self.dispatcher.end();
        self.delivery.threads.end();
    }
}
