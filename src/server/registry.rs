//! The connections of one server: their number, handles to them, and the end of the last one.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use crate::capacity::{CONNECTIONS, Taken};
use crate::deadline::deadline_after;
use crate::error::CloseFrame;
use crate::message::Message;
use crate::process::OwnerProcess;
use crate::websocket::session::Input;
use crate::websocket::slot::Slot;
use crate::websocket::{Shared, WeakWebsocket, Websocket};

pub(super) struct Registry {
    /// Held to read or to change the state. Nothing else is called under it.
    state: Mutex<State>,
    /// Notified when a connection has ended or is ignored. Each wait ends with the last connection,
    /// or at its deadline.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// One entry for each slot that is taken.
    slots: HashMap<u64, SlotState>,
    /// Connections that no wait waits for, because one of their own threads is in such a wait.
    ignored: Vec<u64>,
    next: u64,
    /// Whether the server is shutting down: then a new connection is closed immediately.
    closing: bool,
}

/// The state of the request that holds a slot.
enum SlotState {
    /// The program has not accepted the request.
    Requested,
    Connected(Connection),
    /// The connection has ended. A response to a refused client may still be sent.
    Ended,
}

impl SlotState {
    fn connection(&self) -> Option<&Connection> {
        match self {
            SlotState::Connected(connection) => Some(connection),
            SlotState::Requested | SlotState::Ended => None,
        }
    }
}

/// A connection. This does not keep it open.
struct Connection {
    shared: Weak<Shared>,
    handle: WeakWebsocket,
}

/// A slot in the registry. Dropping it frees the slot.
struct RegistrySlot {
    registry: Arc<Registry>,
    id: u64,
    /// Counts the connection among those of all servers of this process.
    _of_this_process: Taken,
    process: OwnerProcess,
}

/// The Close frame of a server that shuts down: "going away" (RFC 6455, section 7.4.1).
fn going_away() -> CloseFrame {
    CloseFrame {
        code: 1001,
        reason: String::new(),
    }
}

impl Registry {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Registry {
            state: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    /// Takes a slot for a request.
    pub(super) fn acquire(self: &Arc<Self>) -> Arc<dyn Slot> {
        let mut state = self.state.lock();
        let id = state.next;
        state.next += 1;
        state.slots.insert(id, SlotState::Requested);
        Arc::new(RegistrySlot {
            registry: self.clone(),
            id,
            _of_this_process: CONNECTIONS.take(),
            process: OwnerProcess::current(),
        })
    }

    /// Returns the number of slots that are taken.
    pub(super) fn len(&self) -> usize {
        self.state.lock().slots.len()
    }

    /// Returns handles to all connections that the program has a handle to.
    pub(super) fn connections(&self) -> Vec<Websocket> {
        let state = self.state.lock();
        let connections = state.slots.values().filter_map(SlotState::connection);
        // The caller drops the handles, without the lock.
        connections
            .filter_map(|connection| connection.handle.upgrade())
            .collect()
    }

    /// Puts a message to all connections. Returns those whose send queue is full.
    pub(super) fn broadcast(&self, message: &Message) -> Vec<Websocket> {
        let connections: Vec<(Arc<Shared>, WeakWebsocket)> = {
            let state = self.state.lock();
            let connections = state.slots.values().filter_map(SlotState::connection);
            // The handles are weak, because dropping a connection's last handle waits until the
            // connection is closed.
            connections
                .filter_map(|connection| {
                    Some((connection.shared.upgrade()?, connection.handle.clone()))
                })
                .collect()
        };
        // The message is serialised once for all connections.
        let (message, _value) = message.clone().without_value();
        let mut as_json = None;
        let mut missed = Vec::new();
        for (shared, handle) in connections {
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

    /// Begins to close all connections, including those that are accepted from now on. After the
    /// deadline, the caller ends the remaining ones with [`abort_all`](Self::abort_all).
    pub(super) fn close(&self, deadline: Instant) {
        self.state.lock().closing = true;
        for (_, shared) in self.all() {
            shared.begin_close(going_away(), deadline);
            // `wait_for_all` does not wait for a connection whose own thread calls this.
            if shared.is_own_thread() {
                shared.spawn_close_watchdog();
            }
        }
    }

    /// Waits until all connections have ended, or until the deadline. Returns whether they have.
    ///
    /// The wait ignores connections whose own threads are in such a wait, including the caller's,
    /// because they end only after the wait.
    pub(super) fn wait_for_all(&self, deadline: Instant) -> bool {
        let own: Vec<u64> = {
            let all = self.all();
            let own = all.iter().filter(|(_, shared)| shared.is_own_thread());
            own.map(|(id, _)| *id).collect()
        };
        let mut state = self.state.lock();
        state.ignored.extend(&own);
        self.changed.notify_all();
        let done = |state: &State| {
            let mut slots = state.slots.iter();
            slots.all(|(id, slot)| slot.connection().is_none() || state.ignored.contains(id))
        };
        let mut all_done = done(&state);
        while !all_done {
            // The last connection ends this wait, or the deadline.
            let timed_out = self.changed.wait_until(&mut state, deadline).timed_out();
            all_done = done(&state);
            if timed_out {
                break;
            }
        }
        for id in own {
            let ignored = &mut state.ignored;
            if let Some(index) = ignored.iter().position(|ignored| *ignored == id) {
                ignored.swap_remove(index);
            }
        }
        all_done
    }

    /// Ends the connections that have not ended.
    pub(super) fn abort_all(&self) {
        for (_, shared) in self.all() {
            shared.step(Input::DeadlinePassed);
        }
    }

    /// Returns all connections. The caller drops them without the lock, because a connection may
    /// own values of the program, whose destructors run then.
    fn all(&self) -> Vec<(u64, Arc<Shared>)> {
        let state = self.state.lock();
        let slots = state.slots.iter();
        slots
            .filter_map(|(id, slot)| Some((*id, slot.connection()?.shared.upgrade()?)))
            .collect()
    }
}

impl Slot for RegistrySlot {
    fn register(&self, connection: &Websocket) {
        let shared = connection.shared();
        let known = Connection {
            shared: Arc::downgrade(shared),
            handle: connection.downgrade(),
        };
        let closing = {
            let mut state = self.registry.state.lock();
            // The previous state is `Requested`, which has no destructor.
            state.slots.insert(self.id, SlotState::Connected(known));
            state.closing
        };
        if closing {
            let deadline = deadline_after(shared.options.close_timeout);
            shared.begin_close(going_away(), deadline);
            shared.spawn_close_watchdog();
        }
    }

    fn connection_ended(&self) {
        let connection = {
            let mut state = self.registry.state.lock();
            state.slots.insert(self.id, SlotState::Ended)
        };
        drop(connection);
        self.registry.changed.notify_all();
    }
}

impl Drop for RegistrySlot {
    fn drop(&mut self) {
        if !self.process.is_current() {
            // The registry belongs to the parent: a thread that does not exist here may hold its
            // lock.
            return std::mem::forget(self.registry.clone());
        }
        let slot = self.registry.state.lock().slots.remove(&self.id);
        drop(slot);
        self.registry.changed.notify_all();
    }
}
