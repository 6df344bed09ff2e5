//! Producers without a network: who receives what, and what happens when a reader is slow.

mod testkit;

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded, unbounded};
use rtcbot_websocket::pubsub::{self, Producer, Publisher};
use rtcbot_websocket::{Error, PutError, Queue, Sink, Subscription};
use testkit::{DEADLINE, eventually, eventually_asleep, within};

#[test]
fn early_items_go_to_the_first_subscription() {
    let (mut publisher, producer) = pubsub::producer();
    (0..10).for_each(|n| publisher.put(n));
    let (first, second) = (producer.subscribe(), producer.subscribe());
    publisher.put(10);
    drop(publisher);
    assert!(first.iter().eq(0..11));
    assert!(second.iter().eq(10..11));
}

#[test]
fn early_items_go_to_the_first_consumer_of_any_kind() {
    let early = || {
        let (mut publisher, producer) = pubsub::producer();
        (0..3).for_each(|n| publisher.put(n));
        (publisher, producer)
    };
    let (_publisher, producer) = early();
    assert_eq!(producer.subscribe().get().unwrap(), 0);

    let (_publisher, producer) = early();
    let (sender, receiver) = unbounded();
    producer.subscribe_to(sender);
    assert!(receiver.try_iter().eq(0..3));

    let (publisher, producer) = early();
    let (sender, receiver) = unbounded();
    producer.subscribe_callback(move |n| sender.send(n).unwrap());
    drop(publisher);
    assert!(receiver.iter().eq(0..3));

    let (publisher, producer) = early();
    let (sender, receiver) = unbounded();
    producer.subscribe_concurrent(1, move |n| sender.send(n).unwrap());
    drop(publisher);
    assert!(receiver.iter().eq(0..3));
}

#[test]
fn early_items_outlive_the_producer() {
    let (mut publisher, producer) = pubsub::producer();
    publisher.put(1);
    publisher.end(Error::Empty);
    let items = producer.subscribe();
    assert_eq!(items.get().unwrap(), 1);
    assert!(matches!(items.get(), Err(Error::Empty)));
}

#[test]
fn the_oldest_of_too_many_early_items_are_dropped() {
    let (mut publisher, producer) = pubsub::producer();
    (0..2000).for_each(|n| publisher.put(n));
    drop(publisher);
    assert!(producer.subscribe().iter().eq(2000 - 1024..2000));
    assert_eq!(producer.dropped(), 2000 - 1024);
}

#[test]
fn a_short_queue_still_gets_all_early_items() {
    let (mut publisher, producer) = pubsub::producer();
    (0..100).for_each(|n| publisher.put(n));
    let subscription = producer.subscribe_with(Queue::Block(1));
    assert!((0..100).all(|n| subscription.try_get().unwrap() == n));
}

#[test]
fn early_items_wait_for_a_sink_that_is_full() {
    let (mut publisher, producer) = pubsub::producer();
    (0..100).for_each(|n| publisher.put(n));
    let (sender, receiver) = bounded(0);
    producer.subscribe_to(sender);
    for n in 0..100 {
        assert_eq!(receiver.recv_timeout(DEADLINE), Ok(n));
    }
    let publishing = thread::spawn(move || (100..3000).for_each(|n| publisher.put(n)));
    for n in 100..3000 {
        assert_eq!(receiver.recv_timeout(DEADLINE), Ok(n));
    }
    publishing.join().unwrap();
    assert_eq!(
        receiver.recv_timeout(DEADLINE),
        Err(RecvTimeoutError::Disconnected)
    );
}

#[test]
fn a_sink_that_stays_full_keeps_no_thread_once_it_is_removed() {
    let (mut publisher, producer) = pubsub::producer();
    publisher.put(1);
    let (sender, receiver) = bounded(0);
    let id = producer.subscribe_to(sender);
    assert!(producer.unsubscribe(id));
    // The thread that would have delivered it drops the sender.
    let gone = receiver.recv_timeout(DEADLINE);
    assert!(
        gone == Ok(1) || gone == Err(RecvTimeoutError::Disconnected),
        "{gone:?}"
    );
    assert_eq!(
        receiver.recv_timeout(DEADLINE),
        Err(RecvTimeoutError::Disconnected)
    );
}

#[test]
fn no_item_is_kept_after_the_first_subscription() {
    let (mut publisher, producer) = pubsub::producer();
    drop(producer.subscribe());
    publisher.put(1);
    let subscription = producer.subscribe();
    publisher.put(2);
    assert_eq!(subscription.try_get().unwrap(), 2);
}

#[test]
fn block_pauses_the_publisher_until_there_is_room() {
    let (mut publisher, producer) = pubsub::producer();
    let subscription = producer.subscribe_with(Queue::Block(3));
    let count = Arc::new(AtomicUsize::new(0));
    let counter = count.clone();
    let publishing = thread::spawn(move || {
        for n in 0..1000 {
            publisher.put(n);
            counter.fetch_add(1, Ordering::SeqCst);
        }
    });
    eventually("it is full", || count.load(Ordering::SeqCst) == 3);
    for n in 0..1000 {
        assert!(count.load(Ordering::SeqCst) <= n + 4);
        assert_eq!(subscription.get_timeout(DEADLINE).unwrap(), n);
    }
    publishing.join().unwrap();
}

#[test]
fn drop_oldest_and_latest_keep_the_newest() {
    let (mut publisher, producer) = pubsub::producer();
    let three = producer.subscribe_with(Queue::DropOldest(3));
    let latest = producer.subscribe_with(Queue::Latest);
    let all = producer.subscribe_with(Queue::Unbounded);
    (0..5000).for_each(|n| publisher.put(n));
    drop(publisher);
    assert!(three.iter().eq(4997..5000));
    assert!(latest.iter().eq(4999..5000));
    assert!(all.iter().eq(0..5000));
    assert_eq!(producer.dropped(), 4997 + 4999);
}

#[test]
fn a_waiting_publisher_continues_when_the_full_subscription_is_removed() {
    let (mut publisher, producer) = pubsub::producer();
    for round in 0..2000 {
        let full = producer.subscribe_with(Queue::Block(1));
        let other = producer.subscribe();
        publisher.put(0);
        let publishing = thread::spawn(move || {
            publisher.put(1);
            publisher
        });
        match round % 3 {
            0 => drop(full),
            1 => assert!(producer.unsubscribe(&full)),
            _ => producer.unsubscribe_all(),
        }
        publisher = within(DEADLINE, move || publishing.join().unwrap());
        drop(other);
    }
}

#[test]
fn a_removed_subscription_wakes_its_reader() {
    let (mut publisher, producer) = pubsub::producer();
    for _ in 0..2000 {
        let subscription = producer.subscribe();
        publisher.put(1);
        let getter = subscription.clone();
        let getting = thread::spawn(move || {
            assert_eq!(getter.get().unwrap(), 1);
            getter.get()
        });
        producer.unsubscribe(&subscription);
        let got = within(DEADLINE, move || getting.join().unwrap());
        assert!(matches!(got, Err(Error::Unsubscribed)));
    }
}

#[test]
fn a_removed_subscription_wakes_its_reader_even_while_the_publisher_waits_for_another() {
    let (mut publisher, producer) = pubsub::producer();
    let full = producer.subscribe_with(Queue::Block(1));
    let removed = producer.subscribe();
    publisher.put(1);
    let publishing = thread::spawn(move || publisher.put(2));
    eventually("the second is published", || removed.len() == 2);
    producer.unsubscribe(&removed);
    let got = within(DEADLINE, move || removed.into_iter().count());
    assert_eq!(got, 2);
    drop(full);
    within(DEADLINE, move || publishing.join().unwrap());
}

#[test]
fn a_subscription_made_while_items_are_published_misses_and_repeats_none() {
    for _ in 0..2000 {
        let (mut publisher, producer) = pubsub::producer();
        let publishing = thread::spawn(move || (0..50).for_each(|n| publisher.put(n)));
        // The first subscription receives all items, the second one all from some point on.
        let (first, second) = (producer.subscribe(), producer.subscribe());
        publishing.join().unwrap();
        assert!(first.iter().eq(0..50));
        let second: Vec<_> = second.iter().collect();
        assert!(second.iter().copied().eq(50 - second.len()..50));
    }
}

#[test]
fn callbacks_that_subscribe_and_unsubscribe_do_not_deadlock() {
    let (mut publisher, producer) = pubsub::producer();
    let (sender, called) = unbounded();
    let inner = producer.clone();
    producer.subscribe_callback(move |n: u32| {
        let again = sender.clone();
        let id = inner.subscribe_callback(move |n| {
            again.send(n).ok();
        });
        if n % 2 == 0 {
            inner.unsubscribe(id);
        }
        sender.send(1000).unwrap();
    });
    within(DEADLINE, move || (0..100).for_each(|n| publisher.put(n)));
    assert!(called.iter().filter(|n| *n == 1000).count() == 100);
}

#[test]
fn a_removed_callback_is_not_called_again() {
    let (mut publisher, producer) = pubsub::producer();
    let removed = Arc::new(AtomicBool::new(false));
    let (enter, entered) = bounded(0);
    let (leave, left) = bounded::<()>(0);
    let seen = removed.clone();
    let id = producer.subscribe_callback(move |_| {
        assert!(!seen.load(Ordering::SeqCst), "called after unsubscribe");
        enter.send(()).unwrap();
        left.recv().unwrap();
    });
    let (done, over) = unbounded();
    producer.subscribe_callback(move |n| done.send(n).unwrap());
    (0..10).for_each(|n| publisher.put(n));
    entered.recv_timeout(DEADLINE).unwrap();
    producer.unsubscribe(id);
    removed.store(true, Ordering::SeqCst);
    leave.send(()).unwrap();
    assert!(over.iter().take(10).eq(0..10));
}

#[test]
fn a_callback_that_is_removed_after_the_end_is_not_called_for_waiting_items() {
    type Remove = fn(&Producer<u32>, rtcbot_websocket::SubscriptionId) -> bool;
    let one_by_one: Remove = |producer, id| producer.unsubscribe(id);
    let all: Remove = |producer, _| {
        producer.unsubscribe_all();
        true
    };
    for (concurrent, remove) in [(false, one_by_one), (true, one_by_one), (false, all)] {
        let (mut publisher, producer) = pubsub::producer();
        let (called, calls) = unbounded();
        let (go_on, going_on) = bounded::<()>(0);
        let call = move |n| {
            called.send(n).unwrap();
            let _ = going_on.recv();
        };
        let id = match concurrent {
            true => producer.subscribe_concurrent(1, call),
            false => producer.subscribe_callback(call),
        };
        (0..3).for_each(|n| publisher.put(n));
        assert_eq!(calls.recv_timeout(DEADLINE), Ok(0));
        drop(publisher);
        assert!(remove(&producer, id));
        drop(go_on);
        let over = Err(RecvTimeoutError::Disconnected);
        assert_eq!(calls.recv_timeout(DEADLINE), over);
    }
}

#[test]
fn a_slow_callback_pauses_the_publisher_and_receives_every_item() {
    let (mut publisher, producer) = pubsub::producer();
    let sum = Arc::new(Mutex::new(0u64));
    let (count, total) = (Arc::new(AtomicUsize::new(0)), sum.clone());
    let counter = count.clone();
    let (go, gate) = bounded::<()>(0);
    let mut waited = false;
    producer.subscribe_callback(move |n| {
        if !std::mem::replace(&mut waited, true) {
            gate.recv().unwrap();
        }
        *total.lock().unwrap() += n;
    });
    let publishing = thread::spawn(move || {
        for n in 0..10_000 {
            publisher.put(n);
            counter.fetch_add(1, Ordering::SeqCst);
        }
    });
    eventually("it pauses", || count.load(Ordering::SeqCst) >= 1024);
    assert!(count.load(Ordering::SeqCst) <= 1026);
    go.send(()).unwrap();
    within(DEADLINE, move || publishing.join().unwrap());
    eventually("all are called", || {
        *sum.lock().unwrap() == (0..10_000).sum::<u64>()
    });
}

#[test]
fn a_sink_that_cannot_wait_loses_items_without_room_and_they_are_counted() {
    struct Picky;
    impl Sink<u32> for Picky {
        fn put_nowait(&self, n: u32) -> Result<(), PutError<u32>> {
            if n % 2 == 0 {
                Ok(())
            } else {
                Err(PutError::Full(n))
            }
        }
    }
    let (mut publisher, producer) = pubsub::producer();
    producer.subscribe_to(Picky);
    (0..10).for_each(|n| publisher.put(n));
    eventually("all are dropped", || producer.dropped() == 5);
}

#[test]
fn a_closed_sink_is_removed() {
    let (mut publisher, producer) = pubsub::producer();
    let (sender, receiver) = bounded(1);
    let id = producer.subscribe_to(sender);
    drop(receiver);
    publisher.put(1);
    assert!(!producer.unsubscribe(id));
}

#[test]
fn a_consumer_can_be_subscribed_to_a_producer() {
    let (mut publisher, producer) = pubsub::producer();
    let (consumer, mut inbox) = pubsub::consumer(2);
    producer.subscribe_to(consumer);
    let publishing = thread::spawn(move || (0..1000).for_each(|n| publisher.put(n)));
    for n in 0..1000 {
        assert_eq!(inbox.get_timeout(DEADLINE).unwrap(), n);
    }
    within(DEADLINE, move || publishing.join().unwrap());
}

#[test]
fn a_subscription_to_an_ended_producer_ends_immediately() {
    let (publisher, producer): (Publisher<u8>, _) = pubsub::producer();
    publisher.end(Error::Timeout);
    assert!(matches!(producer.subscribe().get(), Err(Error::Timeout)));
    let (sender, receiver) = bounded(1);
    producer.subscribe_to(sender);
    assert_eq!(
        receiver.recv_timeout(DEADLINE),
        Err(RecvTimeoutError::Disconnected)
    );
}

#[test]
fn items_published_while_a_sink_takes_early_items_are_not_lost() {
    struct Slow(
        crossbeam_channel::Sender<i32>,
        crossbeam_channel::Receiver<()>,
    );
    impl Sink<i32> for Slow {
        fn put_nowait(&self, n: i32) -> Result<(), PutError<i32>> {
            self.0.send(n).unwrap();
            let _ = self.1.recv();
            Ok(())
        }
    }
    let (mut publisher, producer) = pubsub::producer();
    publisher.put(1);
    let (sender, received) = unbounded();
    let (go, gate) = bounded(0);
    let attaching = thread::spawn(move || producer.subscribe_to(Slow(sender, gate)));
    assert_eq!(received.recv_timeout(DEADLINE), Ok(1));
    publisher.put(2);
    drop(go);
    attaching.join().unwrap();
    publisher.put(3);
    for n in 2..4 {
        assert_eq!(received.recv_timeout(DEADLINE), Ok(n));
    }
}

#[test]
fn a_queue_without_capacity_works_as_a_source() {
    let (mut publisher, producer) = pubsub::producer();
    let (motor, mut inbox) = pubsub::consumer(16);
    motor
        .put_subscription(producer.subscribe_with(Queue::Block(0)))
        .unwrap();
    let publishing = thread::spawn(move || (0..100).for_each(|n| publisher.put(n)));
    for n in 0..100 {
        assert_eq!(inbox.get_timeout(DEADLINE).unwrap(), n);
    }
    publishing.join().unwrap();
}

#[test]
fn a_concurrent_callback_never_waits_behind_a_blocked_one_while_a_worker_is_free() {
    for round in 0..3000 {
        let (mut publisher, producer) = pubsub::producer();
        let (sender, handled) = unbounded();
        let (go, gate) = bounded::<()>(1);
        producer.subscribe_concurrent(4, move |n| {
            match n {
                // Ended by the call for the next item alone.
                1 => gate
                    .recv_timeout(DEADLINE)
                    .expect("held back behind a blocked call"),
                2 => go.send(()).unwrap(),
                _ => {}
            }
            sender.send(n).unwrap();
        });
        publisher.put(0);
        handled.recv_timeout(DEADLINE).unwrap();
        for _ in 0..round % 500 {
            std::hint::spin_loop();
        }
        publisher.put(1);
        for _ in 0..(round * 7) % 5000 {
            std::hint::spin_loop();
        }
        publisher.put(2);
        assert_eq!(handled.iter().take(2).sum::<i32>(), 3);
    }
}

#[test]
fn a_panic_in_the_destructor_of_a_callback_does_not_end_other_callbacks() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("when dropped, on purpose");
        }
    }
    let (mut publisher, producer) = pubsub::producer();
    let bomb = Bomb;
    let id = producer.subscribe_callback(move |_: u8| {
        let _ = &bomb;
    });
    let (sender, called) = unbounded();
    producer.subscribe_callback(move |n| sender.send(n).unwrap());
    producer.unsubscribe(id);
    publisher.put(1);
    assert_eq!(called.recv_timeout(DEADLINE), Ok(1));
}

/// Panics wherever it is dropped.
#[derive(Clone)]
struct Touchy;

impl Drop for Touchy {
    fn drop(&mut self) {
        panic!("when dropped, on purpose");
    }
}

#[test]
fn items_that_panic_when_they_are_dropped_do_not_end_the_callbacks() {
    for concurrent in [false, true] {
        let (mut publisher, producer) = pubsub::producer();
        let (entered, inside) = bounded(10);
        let (go, gone) = bounded::<()>(0);
        let first = move |item: Touchy| {
            std::mem::forget(item);
            let _ = entered.send(());
            let _ = gone.recv();
        };
        let id = match concurrent {
            false => producer.subscribe_callback(first),
            true => producer.subscribe_concurrent(1, first),
        };
        (0..3).for_each(|_| publisher.put(Touchy));
        inside.recv_timeout(DEADLINE).unwrap();
        // The other two are not taken.
        producer.unsubscribe(id);
        drop(go);
        let (sender, called) = bounded(10);
        producer.subscribe_callback(move |item| {
            std::mem::forget(item);
            sender.send(()).unwrap();
        });
        publisher.put(Touchy);
        assert_eq!(called.recv_timeout(DEADLINE), Ok(()));
        drop(publisher);
        // The worker ends as well.
        within(DEADLINE, move || while inside.recv().is_ok() {});
    }
}

#[test]
fn a_sink_that_stays_full_keeps_no_thread_once_all_handles_are_gone() {
    let (mut publisher, producer) = pubsub::producer();
    (0..3).for_each(|n| publisher.put(n));
    let (sender, receiver) = bounded(1);
    let id = producer.subscribe_to(sender);
    drop(publisher);
    let other = producer.clone();
    drop(producer);
    // It still waits for the receiver, on behalf of the handles of the producer.
    assert_eq!(receiver.recv_timeout(DEADLINE), Ok(0));
    assert_eq!(receiver.recv_timeout(DEADLINE), Ok(1));
    assert!(other.unsubscribe(id) || receiver.len() == 1);
    drop(other);
    let rest = within(DEADLINE, move || receiver.into_iter().count());
    assert!(rest <= 1);
}

#[test]
fn a_closed_sink_leaves_the_early_items_to_the_next_subscriber() {
    let (mut publisher, producer) = pubsub::producer();
    (0..3).for_each(|n| publisher.put(n));
    let (sender, receiver) = unbounded();
    drop(receiver);
    producer.subscribe_to(sender);
    publisher.put(3);
    drop(publisher);
    assert!(producer.subscribe().iter().eq(0..4));
}

#[test]
fn early_items_that_no_subscriber_takes_after_a_closed_sink_are_counted() {
    // Another subscription is made while the sink is offered the early items.
    struct Late(Producer<u8>, Mutex<Vec<rtcbot_websocket::Subscription<u8>>>);
    impl Sink<u8> for Late {
        fn put_nowait(&self, n: u8) -> Result<(), PutError<u8>> {
            self.1.lock().unwrap().push(self.0.subscribe());
            Err(PutError::Closed(n))
        }
    }
    let (mut publisher, producer) = pubsub::producer();
    publisher.put(1);
    publisher.put(2);
    producer.subscribe_to(Late(producer.clone(), Mutex::default()));
    eventually("they are counted", || producer.dropped() == 2);
}

#[test]
fn a_callback_that_is_added_after_the_end_receives_the_kept_items_until_it_is_removed() {
    for round in 0..2000 {
        let workers = round % 2;
        let (mut publisher, producer) = pubsub::producer();
        (0..10).for_each(|n| publisher.put(n));
        drop(publisher);
        let (called, calls) = unbounded();
        let (go_on, gate) = bounded::<()>(0);
        let call = move |n| {
            called.send(n).unwrap();
            let _ = gate.recv();
        };
        let id = match workers {
            0 => producer.subscribe_callback(call),
            workers => producer.subscribe_concurrent(workers, call),
        };
        assert_eq!(calls.recv_timeout(DEADLINE), Ok(0));
        assert!(producer.unsubscribe(id));
        drop(go_on);
        // The callback is dropped with its sender.
        let end = calls.recv_timeout(DEADLINE);
        assert_eq!(end, Err(RecvTimeoutError::Disconnected));
    }
}

#[test]
fn a_queue_may_have_the_maximum_capacity() {
    for queue in [Queue::Block(usize::MAX), Queue::DropOldest(usize::MAX)] {
        let (mut publisher, producer) = pubsub::producer();
        publisher.put(0);
        let all = producer.subscribe_with(queue);
        publisher.put(1);
        drop(publisher);
        assert!(all.iter().eq([0, 1]));
        assert_eq!(producer.dropped(), 0);
    }
}

#[test]
fn early_items_that_are_dropped_may_use_the_producer_in_their_destructor() {
    #[derive(Clone)]
    struct Item(Producer<Item>);
    impl Drop for Item {
        fn drop(&mut self) {
            self.0.unsubscribe_all();
        }
    }
    let (mut publisher, producer) = pubsub::producer();
    publisher.put(Item(producer.clone()));
    publisher.put(Item(producer.clone()));
    within(DEADLINE, move || {
        drop(producer.subscribe_with(Queue::Latest));
        drop(publisher);
    });
}

#[test]
fn a_subscription_that_was_removed_while_full_receives_no_more() {
    for _ in 0..300 {
        let (mut publisher, producer) = pubsub::producer();
        let full = producer.subscribe_with(Queue::Block(1));
        let other = producer.subscribe();
        let publishing = thread::spawn(move || (0..3).for_each(|n| publisher.put(n)));
        // The publisher waits for it, or is about to: the other subscription has its second item.
        eventually("that it is full", || other.len() == 2);
        assert!(producer.unsubscribe(&full));
        assert_eq!(full.iter().count(), 1);
        within(DEADLINE, move || publishing.join().unwrap());
        assert!(other.iter().eq(0..3));
    }
}

/// An item that takes from its queue when it is dropped.
#[derive(Clone)]
struct Takes(Option<Subscription<Takes>>);

impl Drop for Takes {
    fn drop(&mut self) {
        if let Some(items) = &self.0 {
            let _ = items.try_get();
        }
    }
}

#[test]
fn an_item_that_is_dropped_to_make_room_may_use_its_queue() {
    within(DEADLINE, || {
        for queue in [Queue::Latest, Queue::DropOldest(2)] {
            let (mut publisher, producer) = pubsub::producer();
            let items = producer.subscribe_with(queue);
            for _ in 0..10 {
                publisher.put(Takes(Some(items.clone())));
            }
            producer.unsubscribe_all();
            while items.try_get().is_ok() {}
        }
    });
}

#[test]
fn the_publisher_pauses_while_a_callback_waits_for_something_else() {
    let (mut publisher, producer) = pubsub::producer();
    let (_other_publisher, other) = pubsub::producer::<()>();
    let waited_for = other.subscribe();
    let count = Arc::new(AtomicUsize::new(0));
    let (counter, counted) = (count.clone(), count);
    let (called, calls) = unbounded();
    producer.subscribe_callback(move |n| {
        if n == 0 {
            let _ = waited_for.get_timeout(std::time::Duration::from_millis(100));
        }
        called.send((n, counted.load(Ordering::SeqCst))).unwrap();
    });
    let publishing = thread::spawn(move || {
        for n in 0..5000 {
            publisher.put(n);
            counter.fetch_add(1, Ordering::SeqCst);
        }
    });
    let (_, count) = calls.recv_timeout(DEADLINE).unwrap();
    assert!(count <= 1026, "{count}");
    within(DEADLINE, move || publishing.join().unwrap());
    assert!(calls.iter().map(|(n, _)| n).eq(1..5000));
}

#[test]
fn what_a_callback_or_a_sink_owns_is_dropped_where_it_is_called() {
    /// Tells the name of the thread that drops it.
    struct Owned(crossbeam_channel::Sender<Option<String>>);
    impl Drop for Owned {
        fn drop(&mut self) {
            let name = thread::current().name().map(str::to_owned);
            self.0.send(name).unwrap();
        }
    }
    impl Sink<u8> for Owned {
        fn put_nowait(&self, _: u8) -> Result<(), PutError<u8>> {
            Ok(())
        }
    }
    let (tell, told) = unbounded();
    let (mut publisher, producer) = pubsub::producer();
    let callback = Owned(tell.clone());
    let concurrent = Owned(tell.clone());
    let ids = [
        producer.subscribe_callback(move |_| drop_nothing(&callback)),
        producer.subscribe_concurrent(2, move |_| drop_nothing(&concurrent)),
        producer.subscribe_to(Owned(tell)),
    ];
    publisher.put(1);
    for (id, name) in ids.iter().zip(["ws-dispatch", "ws-worker", "ws-dispatch"]) {
        assert!(producer.unsubscribe(id));
        assert_eq!(told.recv_timeout(DEADLINE).unwrap().as_deref(), Some(name));
    }
}

/// So that a closure owns it.
fn drop_nothing<T>(_: &T) {}

/// A sink takes the first of three early items, and has no room for the others. The items are being
/// put behind them. Returns the sink's receiver, too.
fn put_behind_early_items(
    items: Range<u32>,
) -> (
    Producer<u32>,
    Receiver<u32>,
    thread::JoinHandle<Publisher<u32>>,
) {
    let (mut publisher, producer) = pubsub::producer();
    (0..3).for_each(|n| publisher.put(n));
    let (sender, receiver) = bounded(1);
    producer.subscribe_to(sender);
    let (begin, begun) = bounded(1);
    let putting = thread::spawn(move || {
        begin.send(()).unwrap();
        items.for_each(|n| publisher.put(n));
        publisher
    });
    begun.recv_timeout(DEADLINE).unwrap();
    (producer, receiver, putting)
}

#[test]
fn the_subscriber_after_a_closed_sink_receives_every_item_from_the_early_ones_on() {
    for _ in 0..500 {
        let (producer, receiver, putting) = put_behind_early_items(3..10);
        drop(receiver);
        eventually("the sink's end", || {
            format!("{producer:?}").contains("subscribers: 0")
        });
        let next = producer.subscribe_with(Queue::Unbounded);
        drop(putting.join().unwrap());
        let received: Vec<u32> = next.iter().collect();
        assert_eq!(
            received.len() as u64 + producer.dropped(),
            9,
            "{received:?}"
        );
    }
}

#[test]
fn a_callback_after_a_closed_sink_receives_the_item_that_the_publisher_waits_with() {
    for run in 0..2000 {
        let (producer, receiver, putting) = put_behind_early_items(3..4);
        // At different moments of the put: before it, and while it waits.
        let then = Instant::now() + Duration::from_micros(run % 100);
        while Instant::now() < then {
            thread::yield_now();
        }
        drop(receiver);
        while !format!("{producer:?}").contains("subscribers: 0") {
            thread::yield_now();
        }
        let (called, calls) = unbounded();
        producer.subscribe_callback(move |n: u32| called.send(n).unwrap());
        // The publisher puts nothing more, and does not end.
        let _publisher = putting.join().unwrap();
        let received: Vec<_> = (0..3 - producer.dropped())
            .map(|_| calls.recv_timeout(DEADLINE).unwrap())
            .collect();
        assert!(received.is_sorted(), "{received:?}");
    }
}

#[test]
fn an_item_that_a_closed_sink_does_not_accept_is_counted() {
    let (mut publisher, producer) = pubsub::producer();
    let (sender, receiver) = bounded(1);
    producer.subscribe_to(sender);
    let other = producer.subscribe();
    drop(receiver);
    publisher.put(1);
    assert_eq!(producer.dropped(), 1);
    assert_eq!(other.try_get().unwrap(), 1);
    // No subscriber but a closed sink.
    assert!(producer.unsubscribe(&other));
    let (sender, receiver) = bounded(1);
    producer.subscribe_to(sender);
    publisher.put(2);
    let waiting = named("puts 3", move || publisher.put(3));
    eventually_asleep("puts 3", 1);
    drop(receiver);
    within(DEADLINE, move || waiting.join().unwrap());
    assert_eq!(producer.dropped(), 2);
}

/// An item that waits for a sink goes to a subscriber that came later, if the sink is closed.
#[test]
fn the_item_that_waited_for_a_closed_sink_goes_to_a_later_subscriber() {
    let (mut publisher, producer) = pubsub::producer();
    (0..3).for_each(|n| publisher.put(n));
    let (sender, receiver) = bounded(1);
    // The sink takes 0.
    producer.subscribe_to(sender);
    let putting = named("puts 3 to 5", move || (3..6).for_each(|n| publisher.put(n)));
    eventually_asleep("puts 3 to 5", 1);
    let later = producer.subscribe_with(Queue::Unbounded);
    drop(receiver);
    within(DEADLINE, move || putting.join().unwrap());
    assert_eq!(later.iter().collect::<Vec<_>>(), [3, 4, 5]);
    // These are 1 and 2, which the sink had been given before.
    assert_eq!(producer.dropped(), 2);
}

#[test]
fn every_item_is_kept_or_counted_while_closed_sinks_subscribe() {
    const ITEMS: u32 = 20_000;
    for _ in 0..5 {
        let (mut publisher, producer) = pubsub::producer();
        (0..3).for_each(|n| publisher.put(n));
        let putting = thread::spawn(move || {
            for n in 3..ITEMS {
                publisher.put(n);
                if n % 64 == 0 {
                    thread::yield_now();
                }
            }
        });
        while !putting.is_finished() {
            let (sender, receiver) = bounded(1);
            drop(receiver);
            producer.subscribe_to(sender);
        }
        putting.join().unwrap();
        let kept: Vec<u32> = producer.subscribe_with(Queue::Unbounded).iter().collect();
        assert!(kept.is_sorted());
        assert_eq!(kept.len() as u64 + producer.dropped(), u64::from(ITEMS));
    }
}

/// The item 1 panics when it is dropped on one of the producer's threads.
#[derive(Debug, Clone, PartialEq)]
struct Fragile(u32);

impl Drop for Fragile {
    fn drop(&mut self) {
        let thread = thread::current();
        let is_ours = thread.name().is_some_and(|name| name.starts_with("ws-"));
        assert!(self.0 != 1 || !is_ours || thread::panicking(), "on purpose");
    }
}

fn publishing(mut publisher: Publisher<Fragile>, items: Range<u32>) -> thread::JoinHandle<()> {
    named("ws-publisher", move || {
        items.for_each(|n| publisher.put(Fragile(n)));
    })
}

fn named(name: &str, f: impl FnOnce() + Send + 'static) -> thread::JoinHandle<()> {
    let thread = thread::Builder::new().name(name.into());
    thread.spawn(f).unwrap()
}

#[test]
fn a_panicking_destructor_of_an_item_for_a_removed_subscriber_stops_no_other() {
    let (publisher, producer) = pubsub::producer();
    let removed = producer.subscribe_with(Queue::Block(1));
    let other = producer.subscribe_with(Queue::Unbounded);
    let publishing = publishing(publisher, 0..5);
    for n in 0..2 {
        assert_eq!(other.get_timeout(DEADLINE).unwrap(), Fragile(n));
    }
    // The publisher waits for this one with the item 1.
    producer.unsubscribe(&removed);
    within(DEADLINE, move || publishing.join().unwrap());
    assert_eq!(other.iter().count(), 3);
    assert_eq!(producer.dropped(), 0);
}

#[test]
fn a_panicking_destructor_of_an_early_item_does_not_stop_the_publisher() {
    let (mut publisher, producer) = pubsub::producer();
    (0..3).for_each(|n| publisher.put(Fragile(n)));
    let (sender, receiver) = bounded(1);
    // The sink takes 0.
    producer.subscribe_to(sender);
    let other = producer.subscribe_with(Queue::Unbounded);
    let publishing = publishing(publisher, 3..6);
    assert_eq!(other.get_timeout(DEADLINE).unwrap(), Fragile(3));
    drop(receiver);
    within(DEADLINE, move || publishing.join().unwrap());
    assert_eq!(other.iter().count(), 2);
    // 1, 2, and 3, for the sink.
    assert_eq!(producer.dropped(), 3);
}
