//! Worker threads for callbacks that run several at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::dispatch::guarded;
use super::limit::{Limit, Weighing};
use super::sink::{Patience, Sink};
use crate::error::PutError;
use crate::thread::spawn;

/// Calls a function with each item, on up to `max` threads. A thread is started when an item finds
/// none free; all end when this is dropped and what is queued has been handled.
pub(crate) struct Workers<T> {
    items: Sender<T>,
    max: usize,
    started: AtomicUsize,
    team: Arc<Team<T>>,
}

struct Team<T> {
    items: Receiver<T>,
    call: Box<dyn Fn(T) + Send + Sync>,
    removed: Arc<AtomicBool>,
    /// Items whose call has not returned.
    unfinished: AtomicUsize,
    weigh: fn(&T) -> usize,
    /// What the items weigh that wait for a thread.
    waiting: AtomicUsize,
    limit: Arc<Limit>,
}

impl<T: Send + 'static> Workers<T> {
    pub(crate) fn new(
        max: usize,
        removed: Arc<AtomicBool>,
        weighing: Weighing<T>,
        call: impl Fn(T) + Send + Sync + 'static,
    ) -> Self {
        let (sender, items) = unbounded();
        Workers {
            items: sender,
            max: max.max(1),
            started: AtomicUsize::new(0),
            team: Arc::new(Team {
                items,
                call: Box::new(call),
                removed,
                unfinished: AtomicUsize::new(0),
                weigh: weighing.weigh,
                waiting: AtomicUsize::new(0),
                limit: Limit::new(weighing.limit),
            }),
        }
    }

    /// Where items wait for a thread.
    pub(crate) fn queue(&self) -> Receiver<T> {
        self.team.items.clone()
    }

    fn start_one_if_all_are_busy(&self) {
        let started = self.started.load(Ordering::Relaxed);
        if started >= self.max || self.team.unfinished.load(Ordering::SeqCst) <= started {
            return;
        }
        self.started.store(started + 1, Ordering::Relaxed);
        let team = self.team.clone();
        let spawned = spawn("ws-worker", move || work(&team));
        if let Err(error) = spawned {
            log::error!(
                "cannot start a callback's worker thread, the next message tries again: {error}"
            );
            self.started.store(started, Ordering::Relaxed);
        }
    }
}

fn work<T>(team: &Team<T>) {
    team.limit.serve();
    loop {
        // The queue's other end is dropped with the subscription.
        let Ok(item) = team.items.recv() else { return };
        let weight = (team.weigh)(&item);
        team.waiting.fetch_sub(weight, Ordering::SeqCst);
        team.limit.room.made();
        if !team.removed.load(Ordering::Acquire) {
            guarded(|| (team.call)(item));
        }
        team.unfinished.fetch_sub(1, Ordering::SeqCst);
    }
}

impl<T: Send + 'static> Sink<T> for Workers<T> {
    fn put_nowait(&self, item: T) -> Result<(), PutError<T>> {
        let weight = (self.team.weigh)(&item);
        let waiting = self.team.waiting.load(Ordering::SeqCst);
        // Only the publisher calls this, so nobody else fills the place.
        let limit = &self.team.limit;
        if limit.is_reached(self.items.len(), waiting + weight) {
            return Err(PutError::Full(item));
        }
        self.team.waiting.fetch_add(weight, Ordering::SeqCst);
        // Counted here and not by the workers, so that none is missed while one picks it up.
        self.team.unfinished.fetch_add(1, Ordering::SeqCst);
        self.start_one_if_all_are_busy();
        self.items.put_nowait(item)
    }

    fn put(&self, item: T, patience: &Patience<'_>) -> Result<(), PutError<T>> {
        let waiting = self.team.limit.room.join();
        let item = match self.put_nowait(item) {
            Err(PutError::Full(item)) => item,
            other => return other,
        };
        patience.wait_for(waiting.baton());
        self.put_nowait(item)
    }
}
