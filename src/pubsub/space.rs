//! Wakes the threads that wait for room in a queue that is not a crossbeam channel.

use std::convert::Infallible;
use std::sync::atomic::Ordering;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::sync::{AtomicBool, Mutex};

/// Wakes all threads that wait for a change, for example for room.
///
/// They wait for a channel, so that a thread can wait for room and for something else in one
/// `Select`.
pub(crate) struct ChangeNotifier {
    /// Whether there is a channel. A copy of the state, read without the lock. It is changed under
    /// the lock.
    is_awaited: AtomicBool,
    /// A channel that waiting threads receive from. The first of them creates it. Nothing is ever
    /// sent: it is disconnected when they have to check again. Nothing is called under the lock.
    channel: Mutex<Option<(Sender<Infallible>, Receiver<Infallible>)>>,
}

impl ChangeNotifier {
    pub(crate) fn new() -> Self {
        ChangeNotifier {
            is_awaited: AtomicBool::new(false),
            channel: Mutex::new(None),
        }
    }

    /// Returns a channel that the next change disconnects. Get it before checking for room: then no
    /// change is missed.
    pub(crate) fn next_change(&self) -> Receiver<Infallible> {
        let mut channel = self.channel.lock();
        self.is_awaited.store(true, Ordering::SeqCst);
        let (_, receiver) = channel.get_or_insert_with(|| bounded(0));
        receiver.clone()
    }

    /// Reports a change. Call it after the lock of what has changed has been released.
    pub(crate) fn notify(&self) {
        // A thread gets the channel before it checks, and the lock of what it checks orders that
        // check before this load. So no thread that found the queue full is missed.
        if self.is_awaited.load(Ordering::SeqCst) {
            let mut channel = self.channel.lock();
            self.is_awaited.store(false, Ordering::SeqCst);
            let disconnected = channel.take();
            drop(channel);
            drop(disconnected);
        }
    }
}
