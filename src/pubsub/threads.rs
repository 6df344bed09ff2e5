//! Starts the threads that a producer's callbacks run on, and retries if the system refuses.
//!
//! A limit on threads may be reached for a moment, and a stranger may reach it on purpose. So a
//! refused start is retried: with every put, and by the publisher before it waits for its own
//! input. After a second without threads, the producer's owner is notified, and may end the
//! producer. At the end, functions without a thread run on the thread that ends the producer.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::thread::spawn_with;

/// The time between a refusal and the next attempt.
const RETRY_INTERVAL: Duration = Duration::from_millis(5);

/// The maximum time to wait for a thread. After that, the outage is reported.
const MAX_WAIT: Duration = Duration::from_secs(1);

pub(crate) struct Threads {
    /// Whether anything waits for a thread. A copy of the state, read without the lock. It is
    /// changed under the lock.
    has_unstarted: AtomicBool,
    /// Held to read or change the state. No thread is started and nothing is called under it.
    state: Mutex<State>,
    /// Notified when a thread was started, and at the end. Each wait ends at the time of the next
    /// attempt at the latest.
    changed: Condvar,
    /// Called when there has been no thread for [`MAX_WAIT`].
    owner: OnceLock<Box<dyn Fn(Arc<io::Error>) + Send + Sync>>,
    /// In bytes. Not set for std's stack size.
    stack_size: OnceLock<usize>,
}

#[derive(Default)]
struct State {
    /// The starts that wait for the next attempt.
    waiting: VecDeque<Start>,
    /// The number of starts that have not succeeded: those in `waiting`, and those that another
    /// thread is trying at this moment.
    unstarted: usize,
    /// Since when `unstarted` has not been 0.
    since: Option<Instant>,
    outage: Option<Outage>,
    /// Whether the producer has ended. From then on, a start without a thread runs on the calling
    /// thread.
    ended: bool,
}

/// A time in which the system starts no threads.
struct Outage {
    since: Instant,
    /// The time of the next attempt.
    next: Instant,
    error: Arc<io::Error>,
}

/// A thread to start.
pub(crate) struct Start {
    name: &'static str,
    order: EndOrder,
    needs_thread: NeedsThread,
    /// Called if the thread is given up. `None` if the thread is necessary.
    give_up: Option<Box<dyn FnOnce() + Send>>,
    /// Shared with the thread, so that it still exists if there is no thread. The lock is held to
    /// take it out.
    body: Arc<Mutex<Option<Body>>>,
}

type Body = Box<dyn FnOnce(MayWait) + Send>;

/// Whether a pool or sink waits for its first thread.
pub(crate) type NeedsThread = Arc<AtomicBool>;

/// The order in which starts without a thread run at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum EndOrder {
    /// Before the others, which may wait for it.
    First,
    Last,
}

/// Whether the function of a [`Start`] may wait: for jobs, or for room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MayWait {
    /// It runs on a thread of its own.
    Yes,
    /// It runs on the thread that ends the producer, which has more to run.
    No,
}

/// The threads that have not been started, after [`Threads::retry`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unstarted {
    /// All have been started.
    None,
    /// There are some, and the next attempt is due at this time.
    RetryAt(Instant),
    /// There have been some for longer than [`MAX_WAIT`].
    Overdue,
}

impl Start {
    pub(crate) fn new(
        name: &'static str,
        order: EndOrder,
        needs_thread: &NeedsThread,
        body: impl FnOnce(MayWait) + Send + 'static,
    ) -> Self {
        Start {
            name,
            order,
            needs_thread: needs_thread.clone(),
            give_up: None,
            body: Arc::new(Mutex::new(Some(Box::new(body)))),
        }
    }

    /// Makes the thread optional: after a second without threads, it is given up and `f` is called.
    pub(crate) fn or_give_up(mut self, f: impl FnOnce() + Send + 'static) -> Self {
        self.give_up = Some(Box::new(f));
        self
    }

    fn spawn(&self, stack_size: Option<usize>) -> io::Result<()> {
        let (needs_thread, body) = (self.needs_thread.clone(), self.body.clone());
        let run = move || run(&needs_thread, &body, MayWait::Yes);
        spawn_with(self.name, stack_size, run).map(drop)
    }
}

fn run(needs_thread: &NeedsThread, body: &Mutex<Option<Body>>, may_wait: MayWait) {
    needs_thread.store(false, Ordering::SeqCst);
    let body = body.lock().take();
    if let Some(body) = body {
        body(may_wait);
    }
}

impl Threads {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Threads {
            has_unstarted: AtomicBool::new(false),
            state: Mutex::default(),
            changed: Condvar::new(),
            owner: OnceLock::new(),
            stack_size: OnceLock::new(),
        })
    }

    /// Sets the function that is called when there has been no thread for a second. It may be
    /// called repeatedly during an outage.
    pub(crate) fn on_outage(&self, owner: impl Fn(Arc<io::Error>) + Send + Sync + 'static) {
        let _ = self.owner.set(Box::new(owner));
    }

    /// Sets the stack size of the threads that start from now on, in bytes.
    pub(crate) fn set_stack_size(&self, bytes: usize) {
        let _ = self.stack_size.set(bytes);
    }

    /// Starts a thread, now or as soon as the system allows it.
    pub(crate) fn start(&self, start: Start) {
        if let Err(start) = self.try_start(start) {
            self.change(|state| {
                if start.give_up.is_none() {
                    start.needs_thread.store(true, Ordering::SeqCst);
                }
                state.unstarted += 1;
            });
            self.keep(start);
        }
    }

    fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state.lock();
        let result = change(&mut state);
        let has_unstarted = state.unstarted > 0;
        if has_unstarted {
            state.since.get_or_insert_with(Instant::now);
        } else {
            state.since = None;
        }
        self.has_unstarted.store(has_unstarted, Ordering::SeqCst);
        result
    }

    /// Starts a thread, or returns `start` if that fails.
    fn try_start(&self, start: Start) -> Result<(), Start> {
        let next = self.state.lock().outage.as_ref().map(|outage| outage.next);
        if next.is_some_and(|next| Instant::now() < next) {
            return Err(start);
        }
        let Err(error) = start.spawn(self.stack_size.get().copied()) else {
            let outage = self.state.lock().outage.take();
            self.changed.notify_all();
            if let Some(Outage { since, .. }) = outage {
                let time = since.elapsed();
                crate::logging::info!(
                    "threads for callbacks can be started again after {time:.1?}"
                );
            }
            return Ok(());
        };
        let error = Arc::new(error);
        let is_news = {
            let mut state = self.state.lock();
            let now = Instant::now();
            let since = state.outage.as_ref().map(|outage| outage.since);
            state.outage = Some(Outage {
                since: since.unwrap_or(now),
                next: now + RETRY_INTERVAL,
                error: error.clone(),
            });
            since.is_none()
        };
        if is_news {
            crate::logging::error!(
                "cannot start a thread for callbacks, which are delayed: {error}"
            );
        }
        Err(start)
    }

    /// Keeps a start for the next attempt. After the end there is none: the start runs on the
    /// calling thread. After a second without threads, an optional start is given up.
    fn keep(&self, mut start: Start) {
        let over = self.change(|state| {
            let is_long = |outage: &Outage| outage.since.elapsed() >= MAX_WAIT;
            let is_over = start.give_up.is_some() && state.outage.as_ref().is_some_and(is_long);
            if state.ended || is_over {
                state.unstarted -= 1;
                return Some(start);
            }
            state.waiting.push_back(start);
            None
        });
        start = match over {
            Some(start) => start,
            None => return,
        };
        match start.give_up.take() {
            Some(give_up) => give_up(),
            None => run(&start.needs_thread, &start.body, MayWait::No),
        }
    }

    /// Tries again to start the threads that have not been started, if an attempt is due. Calls the
    /// owner's function if there have been some for too long.
    pub(crate) fn retry(&self) -> Unstarted {
        if !self.has_unstarted.load(Ordering::SeqCst) {
            return Unstarted::None;
        }
        let waiting = std::mem::take(&mut self.state.lock().waiting);
        for start in waiting {
            match self.try_start(start) {
                Ok(()) => self.change(|state| state.unstarted -= 1),
                Err(start) => self.keep(start),
            }
        }
        let error = {
            let state = self.state.lock();
            let Some(since) = state.since else {
                return Unstarted::None;
            };
            let (now, until) = (Instant::now(), since + MAX_WAIT);
            match &state.outage {
                Some(outage) if now >= until => outage.error.clone(),
                Some(outage) => return Unstarted::RetryAt(outage.next.min(until)),
                // Another thread is starting them at this moment.
                None => return Unstarted::RetryAt(now + RETRY_INTERVAL),
            }
        };
        if let Some(owner) = self.owner.get() {
            owner(error);
        }
        Unstarted::Overdue
    }

    /// Waits until all threads have been started, or for a second at most. The publisher does not
    /// call it: it calls [`retry`](Self::retry) when it has to wait.
    pub(crate) fn wait(&self) {
        while let Unstarted::RetryAt(next) = self.retry() {
            let mut state = self.state.lock();
            if state.ended {
                return;
            }
            self.changed.wait_until(&mut state, next);
        }
    }

    /// Ends all waits for threads. The starts that have no thread yet run here. Later ones that get
    /// none run on the thread that starts them.
    pub(crate) fn end(&self) {
        let mut waiting = self.change(|state| {
            state.ended = true;
            state.unstarted -= state.waiting.len();
            std::mem::take(&mut state.waiting)
        });
        self.changed.notify_all();
        waiting.make_contiguous().sort_by_key(|start| start.order);
        for start in waiting {
            self.start(start);
        }
    }
}
