//! Worker threads for callbacks that run several at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::callback_limit::{CallbackLimit, Weighing};
use super::sink::{Patience, Sink};
use super::threads::{Bounded, Lacking, Order, Start, Stay, Threaded, Threads};
use crate::error::PutError;
use crate::panics::{Guarded, drop_caught, log_panic};

/// Calls a function with each item, on up to `max` threads. A thread is started when an item finds
/// none free; all end when this is dropped and what is queued has been handled.
pub(crate) struct Workers<T> {
    items: Sender<T>,
    team: Arc<Team<T>>,
}

struct Team<T> {
    items: Receiver<T>,
    call: Guarded<Box<dyn Fn(T) + Send + Sync>>,
    removed: Arc<AtomicBool>,
    max: usize,
    /// How many threads there are; the first may yet be waited for.
    started: AtomicUsize,
    /// Items whose call has not returned.
    unfinished: AtomicUsize,
    weigh: fn(&T) -> usize,
    /// What the items weigh that wait for a thread.
    waiting: AtomicUsize,
    limit: Arc<CallbackLimit>,
    threads: Arc<Threads>,
    lacking: Lacking,
}

impl<T: Send + 'static> Workers<T> {
    pub(crate) fn new(
        max: usize,
        removed: Arc<AtomicBool>,
        weighing: Weighing<T>,
        threads: Arc<Threads>,
        call: impl Fn(T) + Send + Sync + 'static,
    ) -> Self {
        let (sender, items) = unbounded();
        Workers {
            items: sender,
            team: Arc::new(Team {
                items,
                call: Guarded::new(Box::new(call)),
                removed,
                max: max.max(1),
                started: AtomicUsize::new(0),
                unfinished: AtomicUsize::new(0),
                weigh: weighing.weigh,
                waiting: AtomicUsize::new(0),
                limit: CallbackLimit::new(weighing.limit),
                threads,
                lacking: Lacking::default(),
            }),
        }
    }
}

impl<T: Send + 'static> Team<T> {
    fn start_one_if_all_are_busy(self: &Arc<Self>) {
        let started = self.started.load(Ordering::SeqCst);
        if started >= self.max || self.unfinished.load(Ordering::SeqCst) <= started {
            return;
        }
        self.started.fetch_add(1, Ordering::SeqCst);
        let team = self.clone();
        let body = move |stay| work(&team, stay);
        let start = Start::new("ws-worker", Order::Last, &self.lacking, body);
        self.threads.start(match started {
            0 => start,
            // The others go on, and the next item tries again.
            _ => {
                let team = self.clone();
                start.or_give_up(move || {
                    team.started.fetch_sub(1, Ordering::SeqCst);
                })
            }
        });
    }
}

fn work<T>(team: &Team<T>, stay: Stay) {
    if stay == Stay::Yes {
        team.limit.serve();
    }
    while let Some(item) = team.next(stay) {
        let weight = (team.weigh)(&item);
        team.waiting.fetch_sub(weight, Ordering::SeqCst);
        team.limit.space.notify();
        if team.removed.load(Ordering::Acquire) {
            drop_caught(item);
        } else {
            log_panic(|| (team.call)(item));
        }
        team.unfinished.fetch_sub(1, Ordering::SeqCst);
    }
    team.started.fetch_sub(1, Ordering::SeqCst);
}

impl<T> Team<T> {
    /// `None` when the thread is to end: the queue's other end is dropped with the subscription.
    fn next(&self, stay: Stay) -> Option<T> {
        match stay {
            Stay::Yes => self.items.recv().ok(),
            Stay::No => self.items.try_recv().ok(),
        }
    }
}

impl<T: Send + 'static> Threaded<T> for Workers<T> {
    fn enqueue(&self, item: T, bounded: Bounded) -> Result<(), PutError<T>> {
        let weight = (self.team.weigh)(&item);
        let waiting = self.team.waiting.load(Ordering::SeqCst);
        // Only the publisher calls this, so nobody else fills the place.
        let limit = &self.team.limit;
        let full = limit.is_reached(self.items.len(), waiting + weight);
        if full && bounded == Bounded::Yes {
            return Err(PutError::Full(item));
        }
        self.team.waiting.fetch_add(weight, Ordering::SeqCst);
        // Counted here and not by the workers, so that none is missed while one picks it up.
        self.team.unfinished.fetch_add(1, Ordering::SeqCst);
        self.items.put_nowait(item)
    }

    fn starter(&self) -> impl Fn() + use<T> {
        let team = self.team.clone();
        move || team.start_one_if_all_are_busy()
    }

    fn queue(&self) -> Option<Receiver<T>> {
        Some(self.team.items.clone())
    }

    fn lacking(&self) -> Lacking {
        self.team.lacking.clone()
    }
}

impl<T: Send + 'static> Sink<T> for Workers<T> {
    fn put_nowait(&self, item: T) -> Result<(), PutError<T>> {
        self.enqueue(item, Bounded::Yes)?;
        self.team.start_one_if_all_are_busy();
        Ok(())
    }

    fn put(&self, item: T, patience: &Patience<'_>) -> Result<(), PutError<T>> {
        let waiting = self.team.limit.space.register();
        let item = match self.put_nowait(item) {
            Err(PutError::Full(item)) => item,
            other => return other,
        };
        patience.wait_for(waiting.permit());
        self.put_nowait(item)
    }
}
