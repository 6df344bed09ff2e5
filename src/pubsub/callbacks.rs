//! The threads that callbacks run on.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::callback_limit::CallbackLimit;
use super::threads::{EndOrder, MayWait, NeedsThread, Start, Threads};
use crate::panics::log_panic;

/// A job of a pool.
pub(crate) trait Job: Send + 'static {
    /// Returns its weight, or `None` if the limit does not apply to it.
    fn weight(&self) -> Option<usize>;

    /// Runs the job. A panic is logged.
    fn run(self);
}

/// A queue of jobs, and up to `max` threads that run them.
///
/// Jobs start in the order in which they were put. A thread is started if none is free when a job
/// is put. The threads end when the pool has [ended](Self::end), no [`Feeder`] exists, and the
/// queue is empty. A job that is put after that starts a thread again.
pub(crate) struct CallbackPool<J> {
    inner: Arc<Inner<J>>,
}

struct Inner<J> {
    name: &'static str,
    order: EndOrder,
    max: usize,
    /// Held to put or take jobs. No job is run or dropped under it.
    state: Mutex<State<J>>,
    /// The threads wait here for jobs. `wake_threads`, `end` and the drop of a feeder wake them.
    work: Condvar,
    limit: Arc<CallbackLimit>,
    threads: Arc<Threads>,
    needs_thread: NeedsThread,
}

struct State<J> {
    jobs: VecDeque<J>,
    /// The number of threads, including those that could not be started yet.
    started: usize,
    /// The number of threads that are running jobs.
    running: usize,
    feeders: usize,
    ended: bool,
}

/// Keeps a pool's threads alive while they have no jobs.
pub(crate) struct Feeder<J>(CallbackPool<J>);

impl<J> Clone for CallbackPool<J> {
    fn clone(&self) -> Self {
        CallbackPool {
            inner: self.inner.clone(),
        }
    }
}

impl<J> PartialEq for CallbackPool<J> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }
}

impl<J> CallbackPool<J> {
    pub(super) fn limit(&self) -> &Arc<CallbackLimit> {
        &self.inner.limit
    }

    /// Returns the flag that is set while the pool's first thread could not be started.
    pub(super) fn needs_thread(&self) -> &NeedsThread {
        &self.inner.needs_thread
    }

    /// Returns whether the caller is one of the pool's threads.
    pub(crate) fn is_current_thread(&self) -> bool {
        self.inner.limit.is_current_thread()
    }

    pub(super) fn feeder(&self) -> Feeder<J> {
        self.inner.state.lock().feeders += 1;
        Feeder(self.clone())
    }

    /// Lets the threads end when nothing can put jobs any more.
    pub(super) fn end(&self) {
        self.inner.state.lock().ended = true;
        self.inner.work.notify_all();
    }
}

impl<J: Job> CallbackPool<J> {
    pub(super) fn new(
        (name, order): (&'static str, EndOrder),
        max: usize,
        limit: Arc<CallbackLimit>,
        threads: Arc<Threads>,
    ) -> Self {
        CallbackPool {
            inner: Arc::new(Inner {
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
                needs_thread: NeedsThread::default(),
            }),
        }
    }

    /// Puts jobs from the front of `jobs` as long as there is room, with one lock and one wake-up.
    /// Leaves the others in `jobs`.
    pub(super) fn put_batch(&self, jobs: &mut VecDeque<J>) {
        let inner = &*self.inner;
        {
            let mut state = inner.state.lock();
            while let Some(job) = jobs.front() {
                if let Some(weight) = job.weight() {
                    if inner.limit.is_full_for(weight) {
                        break;
                    }
                    inner.limit.add(weight);
                }
                state.jobs.extend(jobs.pop_front());
            }
        }
        self.wake_threads();
    }

    /// Puts a job, regardless of the limit.
    pub(super) fn put(&self, job: J) {
        self.extend([job]);
        self.wake_threads();
    }

    /// Puts jobs, regardless of the limit. It calls no user code, so it may be called under a lock.
    /// Call [`wake_threads`](Self::wake_threads) afterwards.
    pub(super) fn extend(&self, jobs: impl IntoIterator<Item = J>) {
        let mut state = self.inner.state.lock();
        for job in jobs {
            if let Some(weight) = job.weight() {
                self.inner.limit.add(weight);
            }
            state.jobs.push_back(job);
        }
    }

    /// Wakes or starts threads for the jobs. Must not be called under a lock: if no thread can be
    /// started after the producer's end, the jobs run here.
    pub(super) fn wake_threads(&self) {
        let inner = &*self.inner;
        let (before, wanted, many) = {
            let mut state = inner.state.lock();
            let before = state.started;
            let busy = state.running + state.jobs.len();
            state.started = before.max(busy.clamp(1, inner.max));
            (before, state.started, state.jobs.len() > 1)
        };
        match many {
            true => drop(inner.work.notify_all()),
            false => drop(inner.work.notify_one()),
        }
        for number in before..wanted {
            self.start(number);
        }
    }

    fn start(&self, number: usize) {
        let inner = self.inner.clone();
        let body = move |may_wait| inner.work(may_wait);
        let (name, order) = (self.inner.name, self.inner.order);
        let start = Start::new(name, order, &self.inner.needs_thread, body);
        self.inner.threads.start(match number {
            0 => start,
            // The other threads suffice, and the next job tries again.
            _ => {
                let inner = self.inner.clone();
                start.or_give_up(move || inner.state.lock().started -= 1)
            }
        });
    }
}

impl<J: Job> Inner<J> {
    /// The threads' main loop.
    fn work(&self, may_wait: MayWait) {
        if may_wait == MayWait::Yes {
            self.limit.mark_current_thread();
        }
        let mut batch = VecDeque::new();
        let mut done = 0;
        while self.take(&mut batch, done, may_wait) {
            while let Some(job) = batch.pop_front() {
                if let Some(weight) = job.weight() {
                    self.limit.remove(weight);
                }
                log_panic(|| job.run());
            }
            done = 1;
        }
    }

    /// Waits for jobs. Takes all of them if the pool has one thread, or else one. Returns `false`
    /// if the thread has to end. `done` is 1 if the caller has run a batch since the last call, or
    /// else 0.
    fn take(&self, batch: &mut VecDeque<J>, done: usize, may_wait: MayWait) -> bool {
        let mut state = self.state.lock();
        state.running -= done;
        while state.jobs.is_empty() {
            if may_wait == MayWait::No || (state.ended && state.feeders == 0) {
                state.started -= 1;
                return false;
            }
            // Frees the memory: a long burst is seldom followed by another.
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
        self.0.inner.state.lock().feeders -= 1;
        self.0.inner.work.notify_all();
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
        CallbackPool::new(("ws-test", EndOrder::First), max, limit, Threads::new())
    }

    fn uncounted(f: impl FnOnce() + Send + 'static) -> Task {
        Task(None, Box::new(f))
    }

    #[test]
    fn a_job_that_is_put_after_the_end_still_runs() {
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
        assert!(pool.inner.state.lock().started > 0);
        drop(feeder);
        let deadline = Instant::now() + DEADLINE;
        while pool.inner.state.lock().started > 0 {
            assert!(Instant::now() < deadline, "the threads do not end");
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
