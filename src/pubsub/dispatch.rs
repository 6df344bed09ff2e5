//! The dispatch thread: where callbacks run, one at a time and in order.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ThreadId};

use crossbeam_channel::Receiver;
use parking_lot::{Condvar, Mutex};

use super::callback_limit::{CallbackLimit, Weighing};
use super::sink::{Patience, Sink};
use super::subscription::SubscriptionId;
use super::threads::{Bounded, Lacking, Order, Start, Stay, Threaded, Threads};
use crate::error::PutError;
use crate::panics::{drop_caught, log_panic};

/// A thread that is started by the first callback and ends when the producer has ended, all that fed
/// callbacks is gone, and nothing is left to call. It owns the callbacks, so that none runs under a lock.
pub(crate) struct Dispatcher<T> {
    shared: Arc<Shared<T>>,
    threads: Arc<Threads>,
}

struct Shared<T> {
    /// Held for a push or a pop; nothing else is called under it.
    state: Mutex<State<T>>,
    /// The thread waits here for jobs; `post` and `end` wake it.
    work: Condvar,
    weigh: fn(&T) -> usize,
    limit: Arc<CallbackLimit>,
    lacking: Lacking,
}

struct State<T> {
    jobs: VecDeque<Job<T>>,
    /// How many of the jobs are items for callbacks, and what those weigh.
    items: usize,
    weight: usize,
    /// Whether there is a thread for them, or one is waited for.
    served: bool,
    thread: Option<ThreadId>,
    /// Those of which a thread knew that has left.
    callbacks: Callbacks<T>,
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

type Callbacks<T> = HashMap<SubscriptionId, Callback<T>>;

struct Callback<T> {
    call: Box<dyn FnMut(T) + Send>,
    removed: Arc<AtomicBool>,
}

impl<T> Clone for Dispatcher<T> {
    fn clone(&self) -> Self {
        Dispatcher {
            shared: self.shared.clone(),
            threads: self.threads.clone(),
        }
    }
}

impl<T: Send + 'static> Dispatcher<T> {
    pub(crate) fn new(weighing: Weighing<T>, threads: Arc<Threads>) -> Self {
        Dispatcher {
            threads,
            shared: Arc::new(Shared {
                state: Mutex::new(State {
                    jobs: VecDeque::new(),
                    items: 0,
                    weight: 0,
                    served: false,
                    thread: None,
                    callbacks: HashMap::new(),
                    ended: false,
                    sinks: 0,
                }),
                work: Condvar::new(),
                weigh: weighing.weigh,
                limit: CallbackLimit::new(weighing.limit),
                lacking: Lacking::default(),
            }),
        }
    }

    /// Runs `f` on the dispatch thread, after all that was posted before. Where there is no thread,
    /// it waits for one without holding up the caller.
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

    /// To be called without a lock: at the end, where there is no thread, the job is done here.
    fn post(&self, job: Job<T>) {
        {
            let mut state = self.shared.state.lock();
            match &job {
                Job::Add(..) => state.sinks += 1,
                Job::Remove(_) => state.sinks -= 1,
                Job::Call(..) | Job::Run(_) => {}
            }
            state.jobs.push_back(job);
        }
        self.start();
    }

    /// Puts an item in line for a callback, if there is room. Then [`start`](Self::start) is to be
    /// called.
    fn enqueue(&self, id: SubscriptionId, item: T, bounded: Bounded) -> Result<(), PutError<T>> {
        let weight = (self.shared.weigh)(&item);
        let mut state = self.shared.state.lock();
        let limit = &self.shared.limit;
        let full = limit.is_reached(state.items, state.weight + weight);
        if full && bounded == Bounded::Yes {
            return Err(PutError::Full(item));
        }
        state.items += 1;
        state.weight += weight;
        state.jobs.push_back(Job::Call(id, item, weight));
        Ok(())
    }

    /// Has the thread look for jobs, and starts it if there is none.
    fn start(&self) {
        {
            let mut state = self.shared.state.lock();
            if state.jobs.is_empty() {
                return;
            }
            if std::mem::replace(&mut state.served, true) {
                drop(state);
                self.shared.work.notify_one();
                return;
            }
        }
        let (shared, lacking) = (self.shared.clone(), &self.shared.lacking);
        let body = move |stay| dispatch(&shared, stay);
        let start = Start::new("ws-dispatch", Order::First, lacking, body);
        self.threads.start(start);
    }
}

/// The thread's main loop.
fn dispatch<T>(shared: &Shared<T>, stay: Stay) {
    let mut callbacks = {
        let mut state = shared.state.lock();
        state.thread = Some(thread::current().id());
        std::mem::take(&mut state.callbacks)
    };
    if stay == Stay::Yes {
        shared.limit.serve();
    }
    while let Some(job) = next_job(shared, &mut callbacks, stay) {
        match job {
            Job::Add(id, callback) => {
                callbacks.insert(id, callback);
            }
            Job::Remove(id) => {
                let removed = callbacks.remove(&id);
                drop_caught(removed);
            }
            Job::Call(id, item, _) => {
                shared.limit.space.notify();
                let callback = callbacks.get_mut(&id);
                let wanted = callback.filter(|callback| !callback.removed.load(Ordering::Acquire));
                match wanted {
                    Some(callback) => log_panic(|| (callback.call)(item)),
                    None => drop_caught(item),
                }
            }
            Job::Run(f) => log_panic(f),
        }
    }
}

/// Waits for the next job; `None` when the thread is to end.
fn next_job<T>(shared: &Shared<T>, callbacks: &mut Callbacks<T>, stay: Stay) -> Option<Job<T>> {
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
                    drop_caught(callback);
                }
                state = shared.state.lock();
                continue;
            }
            state.served = false;
            state.thread = None;
            return None;
        }
        if stay == Stay::No {
            state.served = false;
            state.thread = None;
            state.callbacks = std::mem::take(callbacks);
            return None;
        }
        shared.work.wait(&mut state);
    }
}

/// Feeds one callback.
pub(crate) struct CallbackSink<T: Send + 'static> {
    id: SubscriptionId,
    dispatcher: Dispatcher<T>,
}

impl<T: Send + 'static> Threaded<T> for CallbackSink<T> {
    fn enqueue(&self, item: T, bounded: Bounded) -> Result<(), PutError<T>> {
        self.dispatcher.enqueue(self.id, item, bounded)
    }

    fn starter(&self) -> impl Fn() + use<T> {
        let dispatcher = self.dispatcher.clone();
        move || dispatcher.start()
    }

    fn queue(&self) -> Option<Receiver<T>> {
        None
    }

    fn lacking(&self) -> Lacking {
        self.dispatcher.shared.lacking.clone()
    }
}

impl<T: Send + 'static> Sink<T> for CallbackSink<T> {
    fn put_nowait(&self, item: T) -> Result<(), PutError<T>> {
        self.enqueue(item, Bounded::Yes)?;
        self.dispatcher.start();
        Ok(())
    }

    fn put(&self, item: T, patience: &Patience<'_>) -> Result<(), PutError<T>> {
        let waiting = self.dispatcher.shared.limit.space.register();
        let item = match self.put_nowait(item) {
            Err(PutError::Full(item)) => item,
            other => return other,
        };
        patience.wait_for(waiting.permit());
        self.put_nowait(item)
    }
}

impl<T: Send + 'static> Drop for CallbackSink<T> {
    fn drop(&mut self) {
        self.dispatcher.post(Job::Remove(self.id));
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
        let dispatcher = Dispatcher::<()>::new(no_limit(), Threads::new());
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
        let dispatcher = Dispatcher::<()>::new(no_limit(), Threads::new());
        let (s, r) = unbounded::<()>();
        let sink = dispatcher.callback(SubscriptionId::next(), Arc::default(), move |()| {
            let _ = &s;
        });
        dispatcher.end();
        drop(sink);
        let closed = crossbeam_channel::RecvTimeoutError::Disconnected;
        assert_eq!(r.recv_timeout(DEADLINE), Err(closed));
        while dispatcher.shared.state.lock().served {
            thread::yield_now();
        }
    }

    #[test]
    fn a_callback_that_comes_after_the_end_is_there_as_long_as_its_sink() {
        let dispatcher = Dispatcher::new(no_limit(), Threads::new());
        dispatcher.end();
        let (s, r) = unbounded();
        let id = SubscriptionId::next();
        let sink = dispatcher.callback(id, Arc::default(), move |n| s.send(n).unwrap());
        // The thread has nothing to do for a while.
        let pause = Instant::now() + Duration::from_millis(100);
        while dispatcher.shared.state.lock().served && Instant::now() < pause {
            thread::yield_now();
        }
        sink.put_nowait(1).unwrap();
        assert_eq!(r.recv_timeout(DEADLINE), Ok(1));
    }
}
