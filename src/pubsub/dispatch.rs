//! The dispatch thread: where callbacks run, one at a time and in order.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ThreadId};

use parking_lot::{Condvar, Mutex};

use super::limit::{Limit, Weighing};
use super::sink::{Patience, Sink};
use super::subscription::SubscriptionId;
use crate::error::PutError;
use crate::thread::spawn;

/// A thread that is started by the first callback and ends when the producer has ended, all that fed
/// callbacks is gone, and nothing is left to call. It owns the callbacks, so that none runs under a lock.
pub(crate) struct Dispatcher<T> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    /// Held for a push or a pop; nothing else is called under it.
    state: Mutex<State<T>>,
    /// The thread waits here for jobs; `post` and `end` wake it.
    work: Condvar,
    weigh: fn(&T) -> usize,
    limit: Arc<Limit>,
}

struct State<T> {
    jobs: VecDeque<Job<T>>,
    /// How many of the jobs are items for callbacks, and what those weigh.
    items: usize,
    weight: usize,
    running: bool,
    thread: Option<ThreadId>,
    ended: bool,
    /// How many sinks there are: as long as there is one, it may yet have items for its callback.
    sinks: usize,
}

enum Job<T> {
    Add(SubscriptionId, Callback<T>),
    Remove(SubscriptionId),
    /// With what the item weighs.
    Call(SubscriptionId, T, usize),
    Run(Box<dyn FnOnce() + Send>),
}

struct Callback<T> {
    call: Box<dyn FnMut(T) + Send>,
    removed: Arc<AtomicBool>,
}

impl<T> Clone for Dispatcher<T> {
    fn clone(&self) -> Self {
        Dispatcher {
            shared: self.shared.clone(),
        }
    }
}

impl<T: Send + 'static> Dispatcher<T> {
    pub(crate) fn new(weighing: Weighing<T>) -> Self {
        Dispatcher {
            shared: Arc::new(Shared {
                state: Mutex::new(State {
                    jobs: VecDeque::new(),
                    items: 0,
                    weight: 0,
                    running: false,
                    thread: None,
                    ended: false,
                    sinks: 0,
                }),
                work: Condvar::new(),
                weigh: weighing.weigh,
                limit: Limit::new(weighing.limit),
            }),
        }
    }

    /// Runs `f` on the dispatch thread, after all that was posted before.
    pub(crate) fn run(&self, f: impl FnOnce() + Send + 'static) {
        self.post(Job::Run(Box::new(f)));
    }

    /// Lets the thread end once no sink and nothing to call is left. What is posted later is still called.
    pub(crate) fn end(&self) {
        self.shared.state.lock().ended = true;
        self.shared.work.notify_one();
    }

    /// Whether the caller is the dispatch thread.
    pub(crate) fn is_current_thread(&self) -> bool {
        self.shared.state.lock().thread == Some(thread::current().id())
    }

    /// How many items wait for callbacks.
    pub(crate) fn waiting(&self) -> usize {
        self.shared.state.lock().items
    }

    /// A sink that calls `call` with each item, on the dispatch thread.
    pub(crate) fn callback(
        &self,
        id: SubscriptionId,
        removed: Arc<AtomicBool>,
        call: impl FnMut(T) + Send + 'static,
    ) -> CallbackSink<T> {
        self.shared.state.lock().sinks += 1;
        self.post(Job::Add(
            id,
            Callback {
                call: Box::new(call),
                removed,
            },
        ));
        CallbackSink {
            id,
            dispatcher: self.clone(),
        }
    }

    fn post(&self, job: Job<T>) {
        let start = {
            let mut state = self.shared.state.lock();
            if let Job::Call(_, _, weight) = job {
                state.items += 1;
                state.weight += weight;
            }
            state.jobs.push_back(job);
            !std::mem::replace(&mut state.running, true)
        };
        if start {
            self.start();
        } else {
            self.shared.work.notify_one();
        }
    }

    fn start(&self) {
        let shared = self.shared.clone();
        let spawned = spawn("ws-dispatch", move || dispatch(&shared));
        if let Err(error) = spawned {
            // The next job tries again; until then they wait.
            log::error!("cannot start the dispatch thread, callbacks are delayed: {error}");
            self.shared.state.lock().running = false;
        }
    }

    /// Puts an item in line for a callback, if there is room.
    fn call(&self, id: SubscriptionId, item: T) -> Result<(), PutError<T>> {
        let weight = (self.shared.weigh)(&item);
        let (items, waiting) = {
            let state = self.shared.state.lock();
            (state.items, state.weight)
        };
        if self.shared.limit.is_reached(items, waiting + weight) {
            return Err(PutError::Full(item));
        }
        // Only the publisher calls this, so nobody has filled the place since.
        self.post(Job::Call(id, item, weight));
        Ok(())
    }
}

/// The thread's main loop.
fn dispatch<T>(shared: &Shared<T>) {
    shared.state.lock().thread = Some(thread::current().id());
    shared.limit.serve();
    let mut callbacks = HashMap::new();
    while let Some(job) = next_job(shared, &mut callbacks) {
        match job {
            Job::Add(id, callback) => {
                callbacks.insert(id, callback);
            }
            Job::Remove(id) => {
                let removed = callbacks.remove(&id);
                guarded(|| drop(removed));
            }
            Job::Call(id, item, _) => {
                shared.limit.room.made();
                if let Some(callback) = callbacks.get_mut(&id) {
                    if !callback.removed.load(Ordering::Acquire) {
                        guarded(|| (callback.call)(item));
                    }
                }
            }
            Job::Run(f) => guarded(f),
        }
    }
}

/// Waits for the next job; `None` when the thread is to end.
fn next_job<T>(
    shared: &Shared<T>,
    callbacks: &mut HashMap<SubscriptionId, Callback<T>>,
) -> Option<Job<T>> {
    let mut state = shared.state.lock();
    loop {
        if let Some(job) = state.jobs.pop_front() {
            if let Job::Call(_, _, weight) = job {
                state.items -= 1;
                state.weight -= weight;
            }
            return Some(job);
        }
        if state.ended && state.sinks == 0 {
            if !callbacks.is_empty() {
                // What a callback owns may end up anywhere when it is dropped, in here even.
                drop(state);
                for (_, callback) in callbacks.drain() {
                    guarded(|| drop(callback));
                }
                state = shared.state.lock();
                continue;
            }
            state.running = false;
            state.thread = None;
            return None;
        }
        shared.work.wait(&mut state);
    }
}

/// Calls the user's code; a panic in it is logged and ends nothing.
pub(crate) fn guarded(f: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(f)) {
        let text = panic
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("(no text)");
        log::error!("a callback panicked: {text}");
        // Dropping the panic's payload is the user's code too.
        let _ = catch_unwind(AssertUnwindSafe(move || drop(panic)));
    }
}

/// Feeds one callback.
pub(crate) struct CallbackSink<T: Send + 'static> {
    id: SubscriptionId,
    dispatcher: Dispatcher<T>,
}

impl<T: Send + 'static> Sink<T> for CallbackSink<T> {
    fn put_nowait(&self, item: T) -> Result<(), PutError<T>> {
        self.dispatcher.call(self.id, item)
    }

    fn put(&self, item: T, patience: &Patience<'_>) -> Result<(), PutError<T>> {
        let waiting = self.dispatcher.shared.limit.room.join();
        let item = match self.put_nowait(item) {
            Err(PutError::Full(item)) => item,
            other => return other,
        };
        patience.wait_for(waiting.baton());
        self.put_nowait(item)
    }
}

impl<T: Send + 'static> Drop for CallbackSink<T> {
    fn drop(&mut self) {
        let mut state = self.dispatcher.shared.state.lock();
        state.sinks -= 1;
        // Where there is no thread, since none could be started, it is dropped when one ends.
        if state.running {
            state.jobs.push_back(Job::Remove(self.id));
            drop(state);
            self.dispatcher.shared.work.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::unbounded;
    use std::time::{Duration, Instant};

    const DEADLINE: Duration = Duration::from_secs(10);

    fn no_limit<T>() -> Weighing<T> {
        Weighing {
            weigh: |_| 0,
            limit: 0,
        }
    }

    #[test]
    fn what_is_posted_after_the_end_is_still_called() {
        let dispatcher = Dispatcher::<()>::new(no_limit());
        let (s, r) = unbounded();
        for i in 0..1000 {
            let s = s.clone();
            dispatcher.run(move || s.send(i).unwrap());
            dispatcher.end();
            assert_eq!(r.recv_timeout(DEADLINE), Ok(i));
        }
    }

    #[test]
    fn the_thread_ends_and_drops_its_callbacks_after_the_end() {
        let dispatcher = Dispatcher::<()>::new(no_limit());
        let (s, r) = unbounded::<()>();
        let sink = dispatcher.callback(SubscriptionId::next(), Arc::default(), move |()| {
            let _ = &s;
        });
        dispatcher.end();
        drop(sink);
        let closed = crossbeam_channel::RecvTimeoutError::Disconnected;
        assert_eq!(r.recv_timeout(DEADLINE), Err(closed));
        while dispatcher.shared.state.lock().running {
            thread::yield_now();
        }
    }

    #[test]
    fn a_callback_that_comes_after_the_end_is_there_as_long_as_its_sink() {
        let dispatcher = Dispatcher::new(no_limit());
        dispatcher.end();
        let (s, r) = unbounded();
        let id = SubscriptionId::next();
        let sink = dispatcher.callback(id, Arc::default(), move |n| s.send(n).unwrap());
        // The thread has nothing to do for a while.
        let pause = Instant::now() + Duration::from_millis(100);
        while dispatcher.shared.state.lock().running && Instant::now() < pause {
            thread::yield_now();
        }
        sink.put_nowait(1).unwrap();
        assert_eq!(r.recv_timeout(DEADLINE), Ok(1));
    }
}
