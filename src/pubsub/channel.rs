//! Where a consumer's items wait: between those who put and the one who uses up.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use crossbeam_channel::Select;
use parking_lot::Mutex;

use super::space::SpaceNotifier;
use super::subscription::Subscription;
use super::wake::Wake;
use crate::panics::drop_caught;

pub(super) struct Channel<T> {
    /// Held to change the queue or the source, or to take from them without waiting. No user code
    /// is called, `weigh` included, nothing is sent and no source is dropped under it.
    pub(super) state: Mutex<State<T>>,
    pub(super) space: SpaceNotifier,
    /// Wakes the inbox's owner.
    pub(super) wake: Wake,
    /// How many items the inbox has taken and not given out, as of when it last took some.
    pub(super) in_flight: AtomicUsize,
    pub(super) limit: usize,
    pub(super) weigh: fn(&T) -> usize,
}

pub(super) struct State<T> {
    /// Each with its weight: nothing is weighed under the lock.
    pub(super) queue: VecDeque<(T, usize)>,
    pub(super) weight: usize,
    pub(super) source: Option<Subscription<T>>,
    /// The inbox's owner waits, or is about to, and has to be woken.
    pub(super) waiting: bool,
    pub(super) closed: bool,
}

impl<T> Channel<T> {
    pub(super) fn new(limit: usize, weigh: fn(&T) -> usize) -> Arc<Self> {
        Arc::new(Channel {
            state: Mutex::new(State {
                queue: VecDeque::new(),
                weight: 0,
                source: None,
                waiting: false,
                closed: false,
            }),
            space: SpaceNotifier::new(),
            wake: Wake::new(),
            in_flight: AtomicUsize::new(0),
            limit,
            weigh,
        })
    }

    /// Waits until there is something to take, or somebody wakes the owner; `false` at the deadline.
    pub(super) fn wait(&self, deadline: Option<Instant>) -> bool {
        let source = {
            let mut state = self.state.lock();
            // `close` need not be looked for: it wakes, and a wake-up is kept until it is noticed.
            if !state.queue.is_empty() {
                return true;
            }
            state.waiting = true;
            state.source.clone()
        };
        let in_time = match &source {
            None => self.wake.wait(deadline),
            Some(source) => {
                let mut select = Select::new();
                let wake = select.recv(self.wake.called());
                select.recv(source.items());
                let ready = match deadline {
                    None => Some(select.ready()),
                    Some(deadline) => select.ready_deadline(deadline).ok(),
                };
                if ready == Some(wake) {
                    self.wake.notice();
                }
                ready.is_some()
            }
        };
        self.state.lock().waiting = false;
        // It may be the last handle, with items of the user's in it.
        drop_caught(source);
        in_time
    }
}
