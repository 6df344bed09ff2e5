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
    /// Whether a thread is joining it.
    joining: bool,
}

/// A wait for the end. While there is one, the thread is not detached.
pub(crate) struct EndWait<'a>(&'a ThreadEnd);

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

    /// Begins a wait for the end. Call it before the event that lets the thread end.
    pub(crate) fn wait(&self) -> EndWait<'_> {
        self.state.lock().waiting += 1;
        EndWait(self)
    }
}

impl EndWait<'_> {
    /// Waits until the thread has ended, or until the deadline.
    pub(crate) fn until(self, deadline: Instant) {
        let ThreadEnd { state, changed } = self.0;
        let handle = {
            let mut state = state.lock();
            let runs = |state: &mut State| !state.has_ended || state.joining;
            changed.wait_while_until(&mut state, runs, deadline);
            if !state.has_ended {
                return;
            }
            state.joining = state.handle.is_some();
            state.handle.take()
        };
        // The thread has nothing left to do.
        if let Some(handle) = handle {
            let _ = handle.join();
            state.lock().joining = false;
            changed.notify_all();
        }
    }
}

impl Drop for EndWait<'_> {
    fn drop(&mut self) {
        let detached = {
            let mut state = self.0.state.lock();
            state.waiting -= 1;
            match (state.waiting, state.has_ended) {
                (0, true) => state.handle.take(),
                _ => None,
            }
        };
        drop(detached);
    }
}
