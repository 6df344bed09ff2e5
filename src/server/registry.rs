//! The connections of one server: their number, handles to them, and the end of the last one.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::capacity::{CONNECTIONS, Taken};
use crate::deadline::deadline_after;
use crate::error::CloseFrame;
use crate::message::Message;
use crate::process::OwnerProcess;
use crate::websocket::broadcast::put_to_all;
use crate::websocket::slot::Slot;
use crate::websocket::{Shared, WeakWebsocket, Websocket};

/// How much longer a shutdown waits at its deadline, for connections that have been shut down and
/// for threads to end.
pub(super) const GRACE_PERIOD: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct Registry {
    /// Held to read or to change the state. Nothing else is called under it.
    state: Mutex<State>,
    /// Notified when a connection has ended or is ignored. Each wait ends with the last connection,
    /// or at its deadline.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// One entry for each slot that is taken. It has a connection from the time when the program
    /// accepts the request until the connection has ended.
    slots: HashMap<u64, Option<Connection>>,
    /// Connections that no wait waits for, because one of their own threads is in such a wait.
    ignored: Vec<u64>,
    next: u64,
    /// Whether a shutdown has begun. From then on, a new connection is closed immediately.
    closing: bool,
    /// The deadlines of the shutdowns that wait.
    deadlines: Vec<Instant>,
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

impl Registry {
    /// Takes a slot for a request.
    pub(super) fn acquire(self: &Arc<Self>) -> Arc<dyn Slot> {
        let mut state = self.state.lock();
        let id = state.next;
        state.next += 1;
        state.slots.insert(id, None);
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
        self.collect(|_, connection| connection.handle.upgrade())
    }

    /// Puts a message to all connections. Returns those whose send queue is full.
    pub(super) fn broadcast(&self, message: Message) -> Vec<Websocket> {
        // The handles are weak, because dropping a connection's last handle waits until the
        // connection is closed.
        let connections = self.collect(|_, connection| {
            let shared = connection.shared.upgrade()?;
            Some((shared, connection.handle.clone()))
        });
        let missed = put_to_all(connections, |(shared, _)| shared, message);
        let handles = missed.iter().filter_map(|(_, handle)| handle.upgrade());
        handles.collect()
    }

    /// Begins to close all connections, including those that are accepted from now on. After the
    /// deadline, the caller ends the remaining ones with [`abort_all`](Self::abort_all).
    pub(super) fn close(&self, deadline: Instant) {
        {
            let mut state = self.state.lock();
            state.closing = true;
            state.deadlines.push(deadline);
        }
        for (_, shared) in self.all() {
            shared.begin_close(CloseFrame::GOING_AWAY, deadline);
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
        let waits = |state: &mut State| {
            let mut slots = state.slots.iter();
            slots.any(|(id, slot)| slot.is_some() && !state.ignored.contains(id))
        };
        // The last connection ends this wait, or the deadline.
        self.changed.wait_while_until(&mut state, waits, deadline);
        let all_done = !waits(&mut state);
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
            shared.end_closing(CloseFrame::GOING_AWAY, Instant::now());
        }
    }

    /// Reports that the shutdown with this deadline waits no longer.
    pub(super) fn stop_waiting(&self, deadline: Instant) {
        let deadlines = &mut self.state.lock().deadlines;
        if let Some(index) = deadlines.iter().position(|other| *other == deadline) {
            deadlines.swap_remove(index);
        }
    }

    /// Returns all connections.
    fn all(&self) -> Vec<(u64, Arc<Shared>)> {
        self.collect(|id, connection| Some((id, connection.shared.upgrade()?)))
    }

    /// Returns what `part` returns for each connection. The caller drops it without the lock,
    /// because a connection may own values of the program, whose destructors run then.
    fn collect<T>(&self, part: impl Fn(u64, &Connection) -> Option<T>) -> Vec<T> {
        let state = self.state.lock();
        let slots = state.slots.iter();
        let parts = slots.filter_map(|(id, slot)| part(*id, slot.as_ref()?));
        parts.collect()
    }
}

impl Slot for RegistrySlot {
    fn register(&self, connection: &Websocket) {
        let shared = connection.shared();
        let known = Connection {
            shared: Arc::downgrade(shared),
            handle: connection.downgrade(),
        };
        let mut deadline = deadline_after(shared.options.close_timeout);
        let closing = {
            let mut state = self.registry.state.lock();
            // The slot had no connection, so nothing is dropped under the lock.
            state.slots.insert(self.id, Some(known));
            if let Some(end) = state.deadlines.iter().max() {
                // If the shutdown is in its last second, there is time for the response.
                deadline = deadline.min((*end).max(Instant::now() + GRACE_PERIOD / 4));
            }
            state.closing
        };
        if closing {
            shared.begin_close(CloseFrame::GOING_AWAY, deadline);
            shared.spawn_close_watchdog();
        }
    }

    fn connection_ended(&self) {
        let connection = {
            let mut state = self.registry.state.lock();
            state.slots.insert(self.id, None)
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
