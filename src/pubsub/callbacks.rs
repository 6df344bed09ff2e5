//! The threads that callbacks run on.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::callback_limit::CallbackLimit;
use super::threads::{Lacking, Order, Start, Stay, Threads};
use crate::panics::log_panic;

/// Something that a pool runs.
pub(crate) trait Job: Send + 'static {
    /// Returns its weight; `None` for a job to which the limit does not apply.
    fn weight(&self) -> Option<usize>;

    fn run(self);
}

/// A queue of jobs, and up to `max` threads that run them.
///
/// Jobs start in the order in which they were put. A thread is started when a job finds none free.
/// The threads end when the pool has [ended](Self::end), no [`Feeder`] exists, and the queue is
/// empty. A job that is put after that starts a thread again.
pub(crate) struct CallbackPool<J> {
    shared: Arc<Shared<J>>,
}

struct Shared<J> {
    name: &'static str,
    order: Order,
    max: usize,
    /// Held to put or to take jobs. Nothing is run, weighed or dropped under it.
    state: Mutex<State<J>>,
    /// The threads wait here for jobs. `serve`, `end` and the drop of a feeder wake them.
    work: Condvar,
    limit: Arc<CallbackLimit>,
    threads: Arc<Threads>,
    lacking: Lacking,
}

struct State<J> {
    jobs: VecDeque<J>,
    /// The number of threads, including one that could not be started yet.
    started: usize,
    /// The number of threads that are running jobs.
    running: usize,
    feeders: usize,
    ended: bool,
}

/// Keeps a pool's threads waiting for jobs.
pub(crate) struct Feeder<J>(CallbackPool<J>);

impl<J> Clone for CallbackPool<J> {
    fn clone(&self) -> Self {
        CallbackPool {
            shared: self.shared.clone(),
        }
    }
}

impl<J> PartialEq for CallbackPool<J> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }
}

impl<J> CallbackPool<J> {
    pub(super) fn limit(&self) -> &Arc<CallbackLimit> {
        &self.shared.limit
    }

    /// Returns the flag that is set while the pool's first thread could not be started.
    pub(super) fn lacking(&self) -> &Lacking {
        &self.shared.lacking
    }

    /// Returns whether the caller is one of the pool's threads.
    pub(crate) fn is_current_thread(&self) -> bool {
        self.shared.limit.is_served_here()
    }

    pub(super) fn feeder(&self) -> Feeder<J> {
        self.shared.state.lock().feeders += 1;
        Feeder(self.clone())
    }

    /// Lets the threads end when nothing can put jobs any more.
    pub(super) fn end(&self) {
        self.shared.state.lock().ended = true;
        self.shared.work.notify_all();
    }
}

impl<J: Job> CallbackPool<J> {
    pub(super) fn new(
        (name, order): (&'static str, Order),
        max: usize,
        limit: Arc<CallbackLimit>,
        threads: Arc<Threads>,
    ) -> Self {
        CallbackPool {
            shared: Arc::new(Shared {
                name,
                order,
                max: max.max(1),
                state: Mutex::new(State {
                    jobs: VecDeque::new(),
                    started: 0,
                    running: 0,
                    feeders: 0,
                    ended: false,
                }),
                work: Condvar::new(),
                limit,
                threads,
                lacking: Lacking::default(),
            }),
        }
    }

    /// Takes jobs from the front of `jobs` as long as there is room, with one lock and one wake-up.
    pub(super) fn put_batch(&self, jobs: &mut VecDeque<J>) {
        let shared = &*self.shared;
        {
            let mut state = shared.state.lock();
            while let Some(job) = jobs.front() {
                if let Some(weight) = job.weight() {
                    if shared.limit.is_full_for(weight) {
                        break;
                    }
                    shared.limit.add(weight);
                }
                state.jobs.extend(jobs.pop_front());
            }
        }
        self.serve();
    }

    /// Puts a job, regardless of the limit.
    pub(super) fn put(&self, job: J) {
        self.extend([job]);
        self.serve();
    }

    /// Puts jobs, regardless of the limit. It calls nothing, so it may be called under a lock. Call
    /// [`serve`](Self::serve) after that.
    pub(super) fn extend(&self, jobs: impl IntoIterator<Item = J>) {
        let mut state = self.shared.state.lock();
        for job in jobs {
            if let Some(weight) = job.weight() {
                self.shared.limit.add(weight);
            }
            state.jobs.push_back(job);
        }
    }

    /// Wakes or starts threads for the jobs. Must not be called under a lock: after the producer's
    /// end, if there is no thread, the jobs run here.
    pub(super) fn serve(&self) {
        let shared = &*self.shared;
        let (before, wanted, many) = {
            let mut state = shared.state.lock();
            let before = state.started;
            let busy = state.running + state.jobs.len();
            state.started = before.max(busy.clamp(1, shared.max));
            (before, state.started, state.jobs.len() > 1)
        };
        match many {
            true => drop(shared.work.notify_all()),
            false => drop(shared.work.notify_one()),
        }
        for number in before..wanted {
            self.start(number);
        }
    }

    fn start(&self, number: usize) {
        let shared = self.shared.clone();
        let body = move |stay| shared.work(stay);
        let (name, order) = (self.shared.name, self.shared.order);
        let start = Start::new(name, order, &self.shared.lacking, body);
        self.shared.threads.start(match number {
            0 => start,
            // The other threads do without it, and the next job tries again.
            _ => {
                let shared = self.shared.clone();
                start.or_give_up(move || shared.state.lock().started -= 1)
            }
        });
    }
}

impl<J: Job> Shared<J> {
    /// The threads' main loop.
    fn work(&self, stay: Stay) {
        if stay == Stay::Yes {
            self.limit.serve();
        }
        let mut batch = VecDeque::new();
        let mut done = 0;
        while self.take(&mut batch, done, stay) {
            while let Some(job) = batch.pop_front() {
                if let Some(weight) = job.weight() {
                    self.limit.remove(weight);
                }
                log_panic(|| job.run());
            }
            done = 1;
        }
    }

    /// Waits for jobs, and takes all of them if the pool has one thread, or else one. Returns
    /// `false` when the thread has to end. `done` is 1 if the caller has run a batch since the last
    /// call, or else 0.
    fn take(&self, batch: &mut VecDeque<J>, done: usize, stay: Stay) -> bool {
        let mut state = self.state.lock();
        state.running -= done;
        while state.jobs.is_empty() {
            if stay == Stay::No || (state.ended && state.feeders == 0) {
                state.started -= 1;
                return false;
            }
            // A long burst is seldom followed by another.
            *batch = VecDeque::new();
            self.work.wait(&mut state);
        }
        match self.max {
            1 => std::mem::swap(batch, &mut state.jobs),
            _ => batch.extend(state.jobs.pop_front()),
        }
        state.running += 1;
        true
    }
}

impl<J> Feeder<J> {
    pub(super) fn pool(&self) -> &CallbackPool<J> {
        &self.0
    }
}

impl<J> Drop for Feeder<J> {
    fn drop(&mut self) {
        self.0.shared.state.lock().feeders -= 1;
        self.0.shared.work.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::unbounded;
    use std::thread;
    use std::time::{Duration, Instant};

    const DEADLINE: Duration = Duration::from_secs(20);

    struct Task(Option<usize>, Box<dyn FnOnce() + Send>);

    impl Job for Task {
        fn weight(&self) -> Option<usize> {
            self.0
        }

        fn run(self) {
            (self.1)();
        }
    }

    fn pool(max: usize) -> CallbackPool<Task> {
        let limit = CallbackLimit::new(10, Default::default());
        CallbackPool::new(("ws-test", Order::First), max, limit, Threads::new())
    }

    fn uncounted(f: impl FnOnce() + Send + 'static) -> Task {
        Task(None, Box::new(f))
    }

    #[test]
    fn what_is_put_after_the_end_still_runs() {
        let pool = pool(1);
        let (s, r) = unbounded();
        for i in 0..1000 {
            let s = s.clone();
            pool.put(uncounted(move || s.send(i).unwrap()));
            pool.end();
            assert_eq!(r.recv_timeout(DEADLINE), Ok(i));
        }
    }

    #[test]
    fn the_threads_end_with_the_last_feeder() {
        let pool = pool(2);
        let feeder = pool.feeder();
        pool.end();
        let (s, r) = unbounded();
        for i in 0..2 {
            let s = s.clone();
            pool.put(uncounted(move || s.send(i).unwrap()));
            assert_eq!(r.recv_timeout(DEADLINE), Ok(i));
        }
        assert!(pool.shared.state.lock().started > 0);
        drop(feeder);
        let deadline = Instant::now() + DEADLINE;
        while pool.shared.state.lock().started > 0 {
            assert!(Instant::now() < deadline, "the threads go on");
            thread::yield_now();
        }
    }

    #[test]
    fn a_batch_is_taken_as_far_as_there_is_room() {
        let pool = pool(1);
        let (go, gate) = unbounded::<()>();
        let (s, r) = unbounded();
        pool.put(uncounted(move || gate.recv().unwrap()));
        let mut batch = (0..5)
            .map(|i| {
                let s = s.clone();
                Task(Some(4), Box::new(move || s.send(i).unwrap()))
            })
            .collect();
        pool.put_batch(&mut batch);
        assert_eq!((batch.len(), pool.limit().items()), (3, 2));
        go.send(()).unwrap();
        while !batch.is_empty() {
            pool.put_batch(&mut batch);
            thread::yield_now();
        }
        let called = (0..5).map(|_| r.recv_timeout(DEADLINE).unwrap());
        assert!(called.eq(0..5));
    }
}
