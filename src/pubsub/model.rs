//! Checks in many of the orders in which threads can run that the worker of a
//! [`channel`](super::channel) is passed on, and that waits for [`space`](super::space) end.
//!
//! The two files are compiled a second time here, with locks, threads and wake-ups that `shuttle`
//! schedules. `shuttle` reports a wait that does not end as a deadlock, with the schedule.
//!
//! A panic of a thread with a borrowed worker is modelled by a worker that is marked as broken and
//! dropped, since unwinding drops it as well.

use std::collections::VecDeque;
use std::sync::Arc;

use shuttle::sync::{Condvar, Mutex as ShuttleMutex};
use shuttle::thread;

use super::keys;
use channel::{Channel, ExtraWork, IdleWorker, Take};
use subscription::Subscription;

// Compiled a second time on purpose.
#[allow(clippy::duplicate_mod, dead_code)]
#[path = "channel.rs"]
mod channel;
#[allow(clippy::duplicate_mod, dead_code)]
#[path = "space.rs"]
mod space;

mod sync {
    use std::cell::Cell;
    use std::convert::Infallible;
    use std::time::Instant;

    use crossbeam_channel::{Receiver, TryRecvError};

    pub(super) use shuttle::sync::MutexGuard;
    pub(super) use shuttle::sync::atomic::AtomicBool;

    thread_local! {
        /// The number of times that a channel was locked. All threads of a model run on one thread
        /// of the operating system.
        pub(super) static LOCKED: Cell<usize> = const { Cell::new(0) };
    }

    /// Waits by polling, because `shuttle` cannot wait for a crossbeam channel.
    pub(super) fn wait_until_disconnected(
        channel: &Receiver<Infallible>,
        _deadline: Option<Instant>,
    ) -> bool {
        while channel.try_recv() != Err(TryRecvError::Disconnected) {
            shuttle::thread::yield_now();
        }
        true
    }

    /// A mutex with the interface of `parking_lot`'s.
    pub(super) struct Mutex<T>(shuttle::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(super) fn new(value: T) -> Self {
            Mutex(shuttle::sync::Mutex::new(value))
        }

        pub(super) fn lock(&self) -> MutexGuard<'_, T> {
            LOCKED.set(LOCKED.get() + 1);
            self.0.lock().unwrap()
        }
    }
}

/// A signal that stays set until a thread has waited for it.
#[derive(Clone, Default)]
struct Signal(Arc<(ShuttleMutex<bool>, Condvar)>);

impl Signal {
    fn set(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    fn wait(&self) {
        let mut is_set = self.0.0.lock().unwrap();
        while !*is_set {
            is_set = self.0.1.wait(is_set).unwrap();
        }
        *is_set = false;
    }
}

mod worker_return {
    use super::*;
    use std::time::Instant;

    pub(super) struct WorkerReturn<W> {
        given: ShuttleMutex<Option<W>>,
        signal: Signal,
    }

    pub(super) enum Woken<W> {
        Worker(W),
        Source,
        Deadline,
    }

    impl<W> WorkerReturn<W> {
        pub(super) fn new() -> Self {
            WorkerReturn {
                given: ShuttleMutex::new(None),
                signal: Signal::default(),
            }
        }

        pub(super) fn send(&self, worker: W) {
            let before = self.given.lock().unwrap().replace(worker);
            assert!(before.is_none(), "there are two workers");
            self.signal.set();
        }

        pub(super) fn receive(&self) -> W {
            loop {
                if let Woken::Worker(worker) = self.wait::<()>(None, None) {
                    return worker;
                }
            }
        }

        /// A deadline may pass at any time or never.
        pub(super) fn wait<T>(
            &self,
            source: Option<&Subscription<T>>,
            deadline: Option<Instant>,
        ) -> Woken<W> {
            use shuttle::rand::Rng;
            if let Some(source) = source {
                source.watch(&self.signal);
            }
            loop {
                if let Some(worker) = self.given.lock().unwrap().take() {
                    return Woken::Worker(worker);
                }
                if source.is_some_and(Subscription::is_ready) {
                    return Woken::Source;
                }
                if deadline.is_some() && shuttle::rand::thread_rng().gen_range(0..2) == 0 {
                    return Woken::Deadline;
                }
                self.signal.wait();
            }
        }
    }
}

mod subscription {
    use super::*;
    use crossbeam_channel::TryRecvError;

    /// A source that a test fills. A test can wait until all other handles have been dropped.
    pub(super) struct Subscription<T>(Arc<Source<T>>);

    pub(super) struct Source<T> {
        state: ShuttleMutex<State<T>>,
        dropped: Condvar,
    }

    struct State<T> {
        items: VecDeque<T>,
        watcher: Option<Signal>,
        handles: usize,
    }

    impl<T> Subscription<T> {
        pub(super) fn new() -> (Self, Arc<Source<T>>) {
            let source = Arc::new(Source {
                state: ShuttleMutex::new(State {
                    items: VecDeque::new(),
                    watcher: None,
                    handles: 1,
                }),
                dropped: Condvar::new(),
            });
            (Subscription(source.clone()), source)
        }

        pub(super) fn take(&self) -> Result<T, TryRecvError> {
            let item = self.0.state.lock().unwrap().items.pop_front();
            item.ok_or(TryRecvError::Empty)
        }

        pub(super) fn notify_taken(&self) {}

        pub(super) fn watch(&self, signal: &Signal) {
            self.0.state.lock().unwrap().watcher = Some(signal.clone());
        }

        pub(super) fn is_ready(&self) -> bool {
            !self.0.state.lock().unwrap().items.is_empty()
        }
    }

    impl<T> Source<T> {
        pub(super) fn send(&self, item: T) {
            let mut state = self.state.lock().unwrap();
            state.items.push_back(item);
            let watcher = state.watcher.clone();
            drop(state);
            if let Some(watcher) = watcher {
                watcher.set();
            }
        }

        /// Waits until all handles have been dropped. Returns the items that have not been taken.
        pub(super) fn wait_dropped(&self) -> VecDeque<T> {
            let mut state = self.state.lock().unwrap();
            while state.handles > 0 {
                state = self.dropped.wait(state).unwrap();
            }
            std::mem::take(&mut state.items)
        }
    }

    impl<T> Clone for Subscription<T> {
        fn clone(&self) -> Self {
            self.0.state.lock().unwrap().handles += 1;
            Subscription(self.0.clone())
        }
    }

    impl<T> Drop for Subscription<T> {
        fn drop(&mut self) {
            self.0.state.lock().unwrap().handles -= 1;
            self.0.dropped.notify_all();
        }
    }
}

/// The worker's extra work, as a connection's control frames.
#[derive(Default)]
struct Control {
    pongs: usize,
    close: bool,
}

impl ExtraWork for Control {
    fn is_pending(&self, _closed: bool) -> bool {
        self.pongs > 0 || self.close
    }
}

/// The worker, as a connection's frame writer.
#[derive(Default)]
struct Writer {
    taken: VecDeque<u32>,
    is_broken: bool,
}

/// A connection with its writer thread, as in `websocket::send_queue`.
#[derive(Clone)]
struct Connection(Arc<Inner>);

struct Inner {
    channel: Channel<u32, Control, Writer>,
    /// The items that were written, and the number of pongs.
    written: ShuttleMutex<(Vec<u32>, usize)>,
    progress: Condvar,
}

impl Connection {
    fn start(limit: usize) -> (Connection, thread::JoinHandle<Writer>) {
        let connection = Connection(Arc::new(Inner {
            channel: Channel::new(limit, |_| 1, Control::default()),
            written: ShuttleMutex::default(),
            progress: Condvar::new(),
        }));
        let owner = connection.clone();
        let thread = thread::spawn(move || owner.write_loop(Writer::default()));
        (connection, thread)
    }

    fn channel(&self) -> &Channel<u32, Control, Writer> {
        &self.0.channel
    }

    /// The writer thread.
    fn write_loop(&self, mut writer: Writer) -> Writer {
        loop {
            let (wrote, close) = self.write_turn(&mut writer);
            if writer.is_broken || (close && !wrote) {
                return writer;
            }
            if !wrote {
                writer = self.channel().sleep(writer, None).unwrap_or_else(|w| w);
            }
        }
    }

    /// Writes one turn, of one item. Returns whether there was anything to write, and whether to
    /// close.
    fn write_turn(&self, writer: &mut Writer) -> (bool, bool) {
        let none = &mut VecDeque::new();
        let (pongs, close) = self
            .channel()
            .take(none, &mut writer.taken, 1, |control, _| {
                let pongs = std::mem::take(&mut control.pongs);
                ((pongs, control.close), Take::All)
            });
        // In place of I/O.
        thread::yield_now();
        let wrote = pongs > 0 || !writer.taken.is_empty();
        if wrote && !writer.is_broken {
            let mut written = self.0.written.lock().unwrap();
            written.0.extend(writer.taken.drain(..));
            written.1 += pongs;
            self.0.progress.notify_all();
        }
        (wrote, close)
    }

    /// Writes with the idle writer, as a thread that puts an item does.
    fn use_idle(&self, writer: IdleWorker<'_, u32, Control, Writer>) {
        if let Some(writer) = writer {
            writer.work(|writer| !self.write_turn(writer).1);
        }
    }

    fn put(&self, item: u32) -> bool {
        let pushed = self.channel().push(item);
        pushed.map(|writer| self.use_idle(writer)).is_ok()
    }

    fn pong(&self) {
        let ((), writer) = self.channel().change(|control| control.pongs += 1);
        self.use_idle(writer);
    }

    /// Waits until this many items and pongs have been written.
    fn wait_written(&self, items: usize, pongs: usize) {
        let mut written = self.0.written.lock().unwrap();
        while written.0.len() < items || written.1 < pongs {
            written = self.0.progress.wait(written).unwrap();
        }
    }

    fn close(&self) {
        self.channel().close_with(|control| control.close = true);
    }

    fn written(&self) -> Vec<u32> {
        self.0.written.lock().unwrap().0.clone()
    }
}

/// The number of orders in which each model is run. All models together take a few seconds.
const RUNS: usize = 1000;

/// Runs the model in random orders, and in orders with few but unlikely thread switches.
fn check(model: impl Fn() + Send + Sync + Copy + 'static) {
    shuttle::check_random(model, RUNS);
    shuttle::check_pct(model, RUNS, 3);
}

#[test]
fn all_items_and_pongs_are_written() {
    check(|| {
        let (connection, owner) = Connection::start(100);
        let putters = [10, 20].map(|first| {
            let connection = connection.clone();
            thread::spawn(move || {
                assert!(connection.put(first));
                assert!(connection.put(first + 1));
            })
        });
        connection.pong();
        // No other event is needed.
        connection.wait_written(4, 1);
        connection.close();
        owner.join().unwrap();
        for putter in putters {
            putter.join().unwrap();
        }
        let mut written = connection.written();
        for first in [10, 20] {
            let own = written.iter().filter(|n| **n / 10 == first / 10);
            assert!(own.is_sorted());
        }
        written.sort_unstable();
        assert_eq!(written, [10, 11, 20, 21]);
    });
}

#[test]
fn the_last_item_of_each_key_is_written_and_every_other_is_written_or_replaced() {
    check(|| {
        let (connection, owner) = Connection::start(100);
        let putters = [("a", 10), ("b", 20)].map(|(key, first)| {
            let connection = connection.clone();
            thread::spawn(move || {
                for item in first..first + 3 {
                    let pushed = connection.channel().push_latest(key, item);
                    connection.use_idle(pushed.ok().unwrap());
                }
            })
        });
        for putter in putters {
            putter.join().unwrap();
        }
        connection.close();
        owner.join().unwrap();
        let written = connection.written();
        for first in [10, 20] {
            let mut own = written.iter().filter(|n| **n / 10 == first / 10);
            assert!(own.clone().is_sorted());
            assert_eq!(own.next_back(), Some(&(first + 2)));
        }
        assert_eq!(written.len() as u64 + connection.channel().replaced(), 6);
    });
}

#[test]
fn a_close_is_written_after_all_accepted_items_and_ends_the_owner() {
    check(|| {
        let (connection, owner) = Connection::start(100);
        let putters = [1, 2].map(|item| {
            let connection = connection.clone();
            thread::spawn(move || connection.put(item).then_some(item))
        });
        connection.close();
        let writer = owner.join().unwrap();
        assert!(writer.taken.is_empty());
        let accepted = putters.map(|putter| putter.join().unwrap());
        let mut written = connection.written();
        written.sort_unstable();
        assert_eq!(written, accepted.into_iter().flatten().collect::<Vec<_>>());
    });
}

#[test]
fn a_borrowed_worker_that_breaks_is_returned_to_its_owner() {
    check(|| {
        let (connection, owner) = Connection::start(100);
        let other = connection.clone();
        let putter = thread::spawn(move || other.put(1));
        let other = connection.clone();
        let breaking = thread::spawn(move || {
            // The owner may have the worker each time.
            for item in 2..5 {
                if let Some(writer) = other.channel().push(item).ok().unwrap() {
                    writer.work(|writer| {
                        writer.is_broken = true;
                        false
                    });
                    return true;
                }
            }
            other.close();
            false
        });
        let writer = owner.join().unwrap();
        assert_eq!(writer.is_broken, breaking.join().unwrap());
        putter.join().unwrap();
    });
}

#[test]
fn a_source_is_read_and_dropped_when_it_is_replaced() {
    check(|| {
        let (connection, owner) = Connection::start(100);
        let (first, first_items) = Subscription::new();
        let (second, second_items) = Subscription::new();
        first_items.send(10);
        let other = connection.clone();
        let ponging = thread::spawn(move || other.pong());
        let other = connection.clone();
        let piping = thread::spawn(move || {
            assert!(other.channel().put_subscription(first).is_ok());
            first_items.send(11);
            assert!(other.channel().put_subscription(second).is_ok());
            // The owner does not keep the first source while it waits for the second.
            let mut left = first_items.wait_dropped();
            second_items.send(20);
            // The second source is read without another event, whichever thread has the worker.
            other.wait_written(3 - left.len(), 1);
            assert!(other.put(30));
            // A put stops the source.
            left.extend(second_items.wait_dropped());
            left
        });
        let left = piping.join().unwrap();
        ponging.join().unwrap();
        connection.wait_written(4 - left.len(), 1);
        connection.close();
        owner.join().unwrap();
        let mut all = connection.written();
        assert!(all.is_sorted());
        all.extend(left);
        all.sort_unstable();
        assert_eq!(all, [10, 11, 20, 30]);
    });
}

#[test]
fn every_put_that_waits_for_room_gets_it() {
    check(|| {
        let (connection, owner) = Connection::start(1);
        let putters = [1, 2, 3].map(|item| {
            let connection = connection.clone();
            thread::spawn(move || {
                let pushed = connection.channel().push_waiting(item, None);
                connection.use_idle(pushed.ok().unwrap());
            })
        });
        connection.wait_written(3, 0);
        connection.close();
        owner.join().unwrap();
        for putter in putters {
            putter.join().unwrap();
        }
    });
}

#[test]
fn every_put_that_waits_for_room_ends_when_the_channel_closes() {
    check(|| {
        let channel = Arc::new(Channel::<u32, (), ()>::new(1, |_| 1, ()));
        assert!(channel.push(0).is_ok());
        let putters = [1, 2, 3].map(|item| {
            let channel = channel.clone();
            thread::spawn(move || channel.push_waiting(item, None).is_ok())
        });
        channel.close();
        for putter in putters {
            assert!(!putter.join().unwrap());
        }
    });
}

#[test]
fn an_inbox_receives_all_items_and_the_end_although_deadlines_pass() {
    check(|| {
        let channel = Arc::new(Channel::<u32, (), ()>::new(100, |_| 1, ()));
        let inbox = channel.clone();
        let using = thread::spawn(move || {
            let mut used = VecDeque::new();
            let soon = std::time::Instant::now();
            let mut turn = 0;
            loop {
                let before = used.len();
                let none = &mut VecDeque::new();
                let all = |(): &mut (), closed| (closed, Take::All);
                let closed = inbox.take(none, &mut used, before + 1, all);
                if used.len() > before {
                    continue;
                }
                if closed {
                    return used;
                }
                turn += 1;
                let deadline = (turn % 2 == 0).then_some(soon);
                let _ = inbox.sleep((), deadline);
            }
        });
        let putters = [1, 2].map(|item| {
            let channel = channel.clone();
            thread::spawn(move || channel.push(item).map(drop).is_ok())
        });
        for putter in putters {
            assert!(putter.join().unwrap());
        }
        channel.close();
        assert_eq!(using.join().unwrap().len(), 2);
    });
}

#[test]
fn a_put_locks_an_idle_channel_three_times_and_a_busy_one_once() {
    shuttle::check_random(
        || {
            let (connection, owner) = Connection::start(100);
            while !connection.channel().has_idle_worker() {
                thread::yield_now();
            }
            sync::LOCKED.set(0);
            connection.put(1);
            assert_eq!(sync::LOCKED.get(), 3);
            let writer = connection.channel().push(2).ok().unwrap();
            assert!(writer.is_some());
            sync::LOCKED.set(0);
            connection.put(3);
            assert_eq!(sync::LOCKED.get(), 1);
            drop(writer);
            connection.close();
            owner.join().unwrap();
        },
        100,
    );
}
