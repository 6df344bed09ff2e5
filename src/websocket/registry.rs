//! The connections of one server: how many there are, which they are, and when the last has ended.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::shared::Shared;
use super::{WeakWebsocket, Websocket};
use crate::capacity::{CONNECTIONS, Taken};
use crate::error::CloseFrame;
use crate::message::Message;
use crate::process::OwnerProcess;

pub(crate) struct Registry {
    /// Held to look and to change. Nothing else is called under it.
    state: Mutex<State>,
    /// Told when a connection has ended, and when one is excused. Its waits end with the last one, or by
    /// their deadline.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// One for each permit.
    guests: HashMap<u64, Stay>,
    /// Connections on whose own thread somebody waits for all.
    excused: Vec<u64>,
    next: u64,
    /// No connection is to be made any more.
    closing: bool,
}

/// How far a guest has come.
enum Stay {
    /// A request.
    Expected,
    Here(Guest),
    /// The connection has ended, and something is left to do.
    Over,
}

impl Stay {
    fn guest(&self) -> Option<&Guest> {
        match self {
            Stay::Here(guest) => Some(guest),
            Stay::Expected | Stay::Over => None,
        }
    }
}

/// A connection; it is not kept open by this.
struct Guest {
    shared: Weak<Shared>,
    handle: WeakWebsocket,
}

/// A place among the connections of a server; given back when it is dropped.
pub(crate) struct Permit {
    registry: Arc<Registry>,
    id: u64,
    _of_this_process: Taken,
    process: OwnerProcess,
}

/// How a server that shuts down closes its connections: "going away" (RFC 6455, section 7.4.1).
fn going_away() -> CloseFrame {
    CloseFrame {
        code: 1001,
        reason: String::new(),
    }
}

impl Registry {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Registry {
            state: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    pub(crate) fn admit(self: &Arc<Self>) -> Permit {
        let mut state = self.state.lock();
        let id = state.next;
        state.next += 1;
        state.guests.insert(id, Stay::Expected);
        Permit {
            registry: self.clone(),
            id,
            _of_this_process: CONNECTIONS.take(),
            process: OwnerProcess::current(),
        }
    }

    /// How many permits are out.
    pub(crate) fn len(&self) -> usize {
        self.state.lock().guests.len()
    }

    /// Handles to all connections that somebody has a handle to.
    pub(crate) fn connections(&self) -> Vec<Websocket> {
        let state = self.state.lock();
        let guests = state.guests.values().filter_map(Stay::guest);
        // Made here, and dropped by the caller: not under the lock.
        guests.filter_map(|guest| guest.handle.upgrade()).collect()
    }

    /// Puts a message to all; returns those that had no room for it.
    pub(crate) fn broadcast(&self, message: &Message) -> Vec<Websocket> {
        let guests: Vec<(Arc<Shared>, WeakWebsocket)> = {
            let state = self.state.lock();
            let guests = state.guests.values().filter_map(Stay::guest);
            // Not the handles: to drop the last one of a connection takes as long as closing it.
            guests
                .filter_map(|guest| Some((guest.shared.upgrade()?, guest.handle.clone())))
                .collect()
        };
        // Once, and not for each.
        let (message, _value) = message.clone().without_value();
        let mut as_json = None;
        let mut missed = Vec::new();
        for (shared, handle) in guests {
            let message = match shared.options.json {
                true => as_json.get_or_insert_with(|| message.quoted()),
                false => &message,
            };
            let put = shared.send_queue.put_nowait(message.clone());
            if put.is_err_and(|error| error.is_full()) {
                missed.extend(handle.upgrade());
            }
        }
        missed
    }

    /// From now on, whatever is accepted is closed at once. The caller is to [`abort_all`](Self::abort_all) what has not
    /// ended by the deadline.
    pub(crate) fn close(&self, deadline: Instant) {
        self.state.lock().closing = true;
        // All begin before any is waited for.
        for (_, shared) in self.all() {
            shared.begin_close(going_away(), deadline);
            // The others are waited for.
            if shared.is_own_thread() {
                shared.spawn_close_watchdog();
            }
        }
    }

    /// Waits until all connections have ended, but for those on whose own thread somebody waits for
    /// this, the caller among them: they end after that. Returns whether they have.
    pub(crate) fn wait_for_all(&self, deadline: Instant) -> bool {
        let own: Vec<u64> = {
            let all = self.all();
            let own = all.iter().filter(|(_, shared)| shared.is_own_thread());
            own.map(|(id, _)| *id).collect()
        };
        let mut state = self.state.lock();
        state.excused.extend(&own);
        self.changed.notify_all();
        let done = |state: &State| {
            let mut guests = state.guests.iter();
            guests.all(|(id, stay)| stay.guest().is_none() || state.excused.contains(id))
        };
        let mut all_done = done(&state);
        while !all_done {
            let timed_out = self.changed.wait_until(&mut state, deadline).timed_out();
            all_done = done(&state);
            if timed_out {
                break;
            }
        }
        for id in own {
            let excused = &mut state.excused;
            if let Some(index) = excused.iter().position(|excused| *excused == id) {
                excused.swap_remove(index);
            }
        }
        all_done
    }

    /// Ends what has not ended by itself.
    pub(crate) fn abort_all(&self) {
        for (_, shared) in self.all() {
            shared.time_out();
        }
    }

    /// To be dropped when the lock is not held: who knows what a connection owns.
    fn all(&self) -> Vec<(u64, Arc<Shared>)> {
        let state = self.state.lock();
        let guests = state.guests.iter();
        guests
            .filter_map(|(id, stay)| Some((*id, stay.guest()?.shared.upgrade()?)))
            .collect()
    }
}

impl Permit {
    /// The connection has ended. Its place may be needed for a while, to answer who was refused.
    pub(crate) fn is_over(&self) {
        let stay = {
            let mut state = self.registry.state.lock();
            let stay = state.guests.get_mut(&self.id);
            stay.map(|stay| std::mem::replace(stay, Stay::Over))
        };
        drop(stay);
        self.registry.changed.notify_all();
    }

    /// What the connection's maker needs to make it known, while its threads have the permit.
    pub(crate) fn desk(&self) -> Desk {
        Desk {
            registry: self.registry.clone(),
            id: self.id,
        }
    }
}

/// Where a connection is made known.
pub(crate) struct Desk {
    registry: Arc<Registry>,
    id: u64,
}

impl Desk {
    /// Makes a connection known, unless it has ended already.
    pub(crate) fn make_known(self, shared: &Arc<Shared>, handle: WeakWebsocket) {
        let closing = {
            let mut state = self.registry.state.lock();
            let closing = state.closing;
            if let Some(stay @ Stay::Expected) = state.guests.get_mut(&self.id) {
                let shared = Arc::downgrade(shared);
                *stay = Stay::Here(Guest { shared, handle });
            }
            closing
        };
        if closing {
            let deadline = super::deadline_after(shared.options.close_timeout);
            shared.begin_close(going_away(), deadline);
            shared.spawn_close_watchdog();
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.process.is_current() {
            return std::mem::forget(self.registry.clone());
        }
        let stay = self.registry.state.lock().guests.remove(&self.id);
        drop(stay);
        self.registry.changed.notify_all();
    }
}
