//! One subscription, sink or callback, and the delivery of an item to it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::Sender;

use super::callbacks::{CallbackPool, Feeder, Job};
use super::dropped::Dropped;
use super::ring::{OperationLock, Ring};
use super::sink::{RoomWait, Sink};
use super::status::Status;
use super::threads::NeedsThread;
use super::weight_limit::WeightLimit;
use crate::error::PutError;
use crate::panics::{Guarded, log_panic};

pub(crate) struct Subscriber<T> {
    pub(super) status: Arc<Status>,
    pub(super) output: Output<T>,
}

pub(super) enum Output<T> {
    Queue(Sender<T>, WeightLimit),
    Ring(Ring<T>, WeightLimit),
    /// A sink of this crate. The publisher treats it as full until it has its early items.
    Sink(Arc<SinkOutput<T>>),
    /// The same sink, for the delivery of its early items.
    EarlySink(Arc<SinkOutput<T>>),
    Callback(CallbackOutput<T>),
}

pub(super) struct SinkOutput<T> {
    sink: Guarded<Box<dyn Sink<T>>>,
    /// The number of early items that it has not received yet.
    pub(super) early: AtomicUsize,
    /// Whether the thread that delivers those could not be started yet.
    pub(super) needs_thread: NeedsThread,
}

/// A function that is called with each item.
pub(super) type Callback<T> = Box<dyn Fn(T) + Send + Sync>;

pub(super) struct CallbackOutput<T> {
    /// `None` once it is being dropped.
    call: Option<Callback<T>>,
    feeder: Feeder<Call<T>>,
    /// Drops the callback on the thread that calls it, since it owns values of the user's.
    dispose: fn(&CallbackPool<Call<T>>, Callback<T>),
}

/// A job of a producer's callback threads.
pub(crate) enum Call<T> {
    /// Calls the subscriber's callback with an item of this weight.
    Item(Arc<Subscriber<T>>, T, usize),
    /// Calls a function.
    Run(Box<dyn FnOnce() + Send>),
}

impl<T: Send + 'static> Subscriber<T> {
    pub(super) fn new(status: Arc<Status>, output: Output<T>) -> Self {
        Subscriber { status, output }
    }

    /// Puts an item of this weight.
    #[inline]
    pub(super) fn put_nowait(
        self: &Arc<Self>,
        item: T,
        weight: usize,
        dropped: &Dropped,
    ) -> Result<(), PutError<T>> {
        match &self.output {
            Output::Queue(sender, limit) => {
                if limit.is_light(weight) {
                    return sender.put_nowait(item);
                }
                if !limit.has_room(weight, || sender.len()) {
                    return Err(PutError::Full(item));
                }
                sender.put_nowait(item)?;
                limit.count(weight);
                Ok(())
            }
            Output::Ring(ring, limit) => {
                if !limit.is_light(weight) {
                    while !limit.has_room(weight, || ring.len()) {
                        if let Some(oldest) = ring.take_oldest() {
                            dropped.discard(oldest);
                        }
                    }
                    limit.count(weight);
                }
                if let Some(oldest) = ring.put(item) {
                    dropped.discard(oldest);
                }
                Ok(())
            }
            // Acquire: with 0, the early items are in the sink.
            Output::Sink(output) if output.early.load(Ordering::Acquire) > 0 => {
                Err(PutError::Full(item))
            }
            Output::Sink(output) | Output::EarlySink(output) => {
                let mut result = None;
                // A consumer's `weigh` function may panic. Then the item has been dropped.
                log_panic(|| result = Some(output.sink.put_nowait(item)));
                result.unwrap_or_else(|| {
                    dropped.count(1);
                    Ok(())
                })
            }
            Output::Callback(output) => {
                let mut calls = VecDeque::from([Call::Item(self.clone(), item, weight)]);
                output.feeder.pool().put_batch(&mut calls);
                match calls.pop_front() {
                    Some(Call::Item(_, item, _)) => Err(PutError::Full(item)),
                    Some(Call::Run(_)) | None => Ok(()),
                }
            }
        }
    }

    /// Begins a wait for room. Call it before checking for room.
    pub(super) fn room_wait(&self, weight: usize) -> RoomWait<'_, T> {
        match &self.output {
            Output::Queue(sender, limit) => match limit.has_room(weight, || sender.len()) {
                true => RoomWait::in_channel(sender),
                false => RoomWait::in_weight(limit.next_take()),
            },
            Output::EarlySink(output) => output.sink.room_wait().unwrap_or(RoomWait::none()),
            // The wait ends when its early items have been delivered.
            Output::Sink(output) if output.early.load(Ordering::Acquire) > 0 => RoomWait::none(),
            Output::Sink(output) => output.sink.room_wait().unwrap_or(RoomWait::none()),
            Output::Callback(output) => RoomWait::in_queue(output.feeder.pool().limit().space()),
            Output::Ring(..) => RoomWait::none(),
        }
    }

    /// Returns whether the thread that makes room could not be started.
    pub(super) fn needs_thread(&self) -> bool {
        let needs_thread = match &self.output {
            Output::Callback(output) => output.feeder.pool().needs_thread(),
            Output::Sink(output) => &output.needs_thread,
            Output::Queue(..) | Output::Ring(..) | Output::EarlySink(_) => return false,
        };
        needs_thread.load(Ordering::SeqCst)
    }
}

impl<T> Subscriber<T> {
    /// Returns the number of queued items, as far as it is known.
    pub(super) fn len(&self) -> usize {
        match &self.output {
            Output::Queue(sender, _) => sender.len(),
            Output::Ring(ring, _) => ring.len(),
            Output::Sink(output) | Output::EarlySink(output) => {
                output.early.load(Ordering::Relaxed)
            }
            Output::Callback(output) => output.feeder.pool().limit().items(),
        }
    }

    /// Returns the lock that a reader of its queue has to hold.
    pub(super) fn operation_lock(&self) -> Option<OperationLock> {
        match &self.output {
            Output::Ring(ring, _) => Some(ring.operation_lock()),
            _ => None,
        }
    }

    /// Returns whether it is a sink or a callback, and not a queue that the program reads.
    pub(super) fn is_fed(&self) -> bool {
        !matches!(&self.output, Output::Queue(..) | Output::Ring(..))
    }

    /// Returns whether items that were put may be delivered after the producer's end.
    pub(super) fn outlives_the_end(&self) -> bool {
        matches!(&self.output, Output::Sink(_) | Output::Callback(_))
    }

    pub(super) fn pool(&self) -> Option<&CallbackPool<Call<T>>> {
        match &self.output {
            Output::Callback(output) => Some(output.feeder.pool()),
            _ => None,
        }
    }
}

impl<T> SinkOutput<T> {
    /// Creates the output for a sink that has to receive this many early items.
    pub(super) fn new(sink: impl Sink<T>, early: usize) -> Arc<Self> {
        let sink: Box<dyn Sink<T>> = Box::new(sink);
        Arc::new(SinkOutput {
            sink: Guarded::new(sink),
            early: AtomicUsize::new(early),
            needs_thread: NeedsThread::default(),
        })
    }
}

impl<T: Send + 'static> CallbackOutput<T> {
    pub(super) fn new(call: Callback<T>, feeder: Feeder<Call<T>>) -> Self {
        CallbackOutput {
            call: Some(call),
            feeder,
            dispose: |pool, call| pool.run(move || drop(call)),
        }
    }
}

impl<T> Drop for CallbackOutput<T> {
    fn drop(&mut self) {
        if let Some(call) = self.call.take() {
            (self.dispose)(self.feeder.pool(), call);
        }
    }
}

impl<T: Send + 'static> Job for Call<T> {
    fn weight(&self) -> Option<usize> {
        match self {
            Call::Item(_, _, weight) => Some(*weight),
            Call::Run(_) => None,
        }
    }

    fn run(self) {
        match self {
            Call::Item(subscriber, item, _) => match &subscriber.output {
                Output::Callback(CallbackOutput {
                    call: Some(call), ..
                }) if !subscriber.status.is_removed() => call(item),
                _ => drop(item),
            },
            Call::Run(f) => f(),
        }
    }
}

impl<T: Send + 'static> CallbackPool<Call<T>> {
    /// Runs `f` on one of the threads, after all earlier jobs have begun. Does not wait if no
    /// thread can be started: `f` is kept until one can, or after the producer's end runs here.
    pub(crate) fn run(&self, f: impl FnOnce() + Send + 'static) {
        self.put(Call::Run(Box::new(f)));
    }
}
