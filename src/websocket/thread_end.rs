//! The end of the reader thread, for `close`, which returns only after it.

use std::thread::JoinHandle;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

/// Joins a thread if someone waits for its end. A thread that is neither joined nor detached would
/// keep its stack after its end.
#[derive(Default)]
pub(crate) struct ThreadEnd {
    /// Held to read or to change the state. Nothing is called under it.
    state: Mutex<State>,
    /// Notified when the thread has ended. Each wait has a deadline.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    handle: Option<JoinHandle<()>>,
    has_ended: bool,
    waiting: usize,
}

impl ThreadEnd {
    /// Stores the handle of the thread, which may have ended already.
    pub(crate) fn started(&self, handle: JoinHandle<()>) {
        let mut state = self.state.lock();
        if !state.has_ended {
            state.handle = Some(handle);
        }
    }

    /// Reports the end of the thread, as its last action.
    pub(crate) fn ended(&self) {
        let detached = {
            let mut state = self.state.lock();
            state.has_ended = true;
            match state.waiting {
                0 => state.handle.take(),
                _ => None,
            }
        };
        self.changed.notify_all();
        drop(detached);
    }

    /// Waits until the thread has ended, or until the deadline.
    pub(crate) fn wait(&self, deadline: Instant) {
        let handle = {
            let mut state = self.state.lock();
            state.waiting += 1;
            let runs = |state: &mut State| !state.has_ended;
            self.changed.wait_while_until(&mut state, runs, deadline);
            state.waiting -= 1;
            match state.has_ended {
                true => state.handle.take(),
                false => None,
            }
        };
        // The thread has nothing left to do.
        if let Some(handle) = handle {
            let _ = handle.join();
        }
    }
}
