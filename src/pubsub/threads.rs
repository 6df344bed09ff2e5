//! The threads that a producer's callbacks run on, and what becomes of them while the system starts
//! none.
//!
//! A limit on threads may be reached for a moment, and a stranger may reach it on purpose. So a
//! thread that was refused is tried again: with every put, and by the publisher before it waits for
//! its own input. When there has been none for a second, the producer's owner is told, who may end
//! it. At the end, what still has no thread runs on the one that ends the producer.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::thread::spawn;

/// How long after a refusal the next attempt is made.
const RETRY_INTERVAL: Duration = Duration::from_millis(5);

/// For how long a thread is waited for.
const MAX_WAIT: Duration = Duration::from_secs(1);

pub(crate) struct Threads {
    /// Whether anything waits for a thread; saves the lock. Changed under it.
    has_unstarted: AtomicBool,
    /// Held to look and to change. No thread is started and nothing else is called under it.
    state: Mutex<State>,
    /// Told when a thread was started, and at the end. Its waits end with the next attempt at the
    /// latest.
    changed: Condvar,
    /// Told when there has been no thread for [`MAX_WAIT`].
    owner: OnceLock<Box<dyn Fn(Arc<io::Error>) + Send + Sync>>,
}

#[derive(Default)]
struct State {
    /// What waits for a thread, unless somebody is trying to start it.
    waiting: VecDeque<Start>,
    /// How many wait for a thread, those included, and since when there have been any.
    unstarted: usize,
    since: Option<Instant>,
    outage: Option<Outage>,
    /// From now on, what gets no thread runs on the one that starts it.
    ended: bool,
}

/// The system starts no threads.
struct Outage {
    since: Instant,
    /// When to try again.
    next: Instant,
    error: Arc<io::Error>,
}

/// A thread that is to be started.
pub(crate) struct Start {
    name: &'static str,
    order: EndOrder,
    needs_thread: NeedsThread,
    /// What to do when it is given up, if others can do without it.
    give_up: Option<Box<dyn FnOnce() + Send>>,
    /// Shared with the thread, so that it is still here when there is none. Held to take it out.
    body: Arc<Mutex<Option<Body>>>,
}

type Body = Box<dyn FnOnce(MayWait) + Send>;

/// Whether something waits for a thread.
pub(crate) type NeedsThread = Arc<AtomicBool>;

/// Which of those that get no thread run first at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum EndOrder {
    /// Others may wait for what this does.
    First,
    Last,
}

/// Whether to wait for more work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MayWait {
    /// Until all is over.
    Yes,
    /// Only for what is there: there are others to be run on this thread.
    No,
}

/// What [`Threads::retry`] finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unstarted {
    /// Nothing waits for a thread.
    None,
    /// Something does, for which the next attempt is made then.
    RetryAt(Instant),
    /// Something has waited for too long.
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

    /// One that others can do without: where there is no thread for a second, it is given up, and
    /// `f` called.
    pub(crate) fn or_give_up(mut self, f: impl FnOnce() + Send + 'static) -> Self {
        self.give_up = Some(Box::new(f));
        self
    }

    fn spawn(&self) -> io::Result<()> {
        let (needs_thread, body) = (self.needs_thread.clone(), self.body.clone());
        spawn(self.name, move || run(&needs_thread, &body, MayWait::Yes))
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
        })
    }

    /// Has `owner` told when there has been no thread for a second; more than once, while that
    /// lasts.
    pub(crate) fn on_outage(&self, owner: impl Fn(Arc<io::Error>) + Send + Sync + 'static) {
        let _ = self.owner.set(Box::new(owner));
    }

    /// Starts a thread, now or when there is one again.
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

    /// Starts a thread, or hands back what it was to do.
    fn try_start(&self, start: Start) -> Result<(), Start> {
        let next = self.state.lock().outage.as_ref().map(|outage| outage.next);
        if next.is_some_and(|next| Instant::now() < next) {
            return Err(start);
        }
        let Err(error) = start.spawn() else {
            let outage = self.state.lock().outage.take();
            self.changed.notify_all();
            if let Some(Outage { since, .. }) = outage {
                let time = since.elapsed();
                crate::logging::info!("there are threads for callbacks again, after {time:.1?}");
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
                "cannot start a thread for callbacks, they are delayed: {error}"
            );
        }
        Err(start)
    }

    /// Keeps what waits for a thread for the next attempt. There is none after the end, nor for
    /// what others can do without, once there has been no thread for a second.
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

    /// Tries again to start what waits for a thread, if it is time to. Tells the owner when it has
    /// waited for too long.
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
                // Another thread is about to start the others.
                None => return Unstarted::RetryAt(now + RETRY_INTERVAL),
            }
        };
        if let Some(owner) = self.owner.get() {
            owner(error);
        }
        Unstarted::Overdue
    }

    /// Waits until nothing waits for a thread, for a second at most. For others than the publisher,
    /// which looks when it has to wait.
    pub(crate) fn wait(&self) {
        while let Unstarted::RetryAt(next) = self.retry() {
            let mut state = self.state.lock();
            if state.ended {
                return;
            }
            self.changed.wait_until(&mut state, next);
        }
    }

    /// From now on nothing waits for a thread: what gets none runs on the thread that starts it,
    /// and what has none yet on this one.
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
