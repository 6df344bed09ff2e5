//! Items of different weights, as those of a connection's send queue.

use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::*;
use crate::pubsub;

const DEADLINE: Duration = Duration::from_secs(20);

/// Runs `f` on a thread of its own. Panics if it does not return in time.
fn within<R: Send + 'static>(f: impl FnOnce() -> R + Send + 'static) -> R {
    let (done, result) = bounded(1);
    thread::spawn(move || done.send(f()));
    result.recv_timeout(DEADLINE).unwrap()
}

#[test]
fn an_item_heavier_than_the_limit_is_accepted_when_nothing_else_is_queued() {
    let (consumer, mut inbox) = consumer_with_weight(10, |s: &&str| s.len());
    consumer.put_nowait("much longer than ten").unwrap();
    assert!(consumer.put_nowait("x").unwrap_err().is_full());
    assert_eq!(inbox.get().unwrap(), "much longer than ten");
    consumer.put_nowait("x").unwrap();
}

/// Weighing it lasts until the gate opens.
struct Slow(Option<(Sender<()>, Receiver<()>)>);

fn weigh_slowly(item: &Slow) -> usize {
    if let Slow(Some((begin, gate))) = item {
        let _ = begin.try_send(());
        let _ = gate.recv();
    }
    1
}

#[test]
fn a_put_does_not_wait_while_an_item_of_a_source_is_weighed() {
    let (consumer, mut inbox) = consumer_with_weight(10, weigh_slowly);
    let ((begin, begun), (open, gate)) = (bounded(1), bounded(0));
    let (source, items) = bounded(10);
    source.send(Slow(Some((begin, gate)))).unwrap();
    consumer.put_subscription(&items).unwrap();
    let using = thread::spawn(move || inbox.get().map(|item| item.0.is_some()));
    begun.recv_timeout(DEADLINE).unwrap();
    let (other, len) = (consumer.clone(), consumer.clone());
    within(move || other.put_nowait(Slow(None))).unwrap();
    assert_eq!(within(move || len.channel.len()), 1);
    drop(open);
    assert!(within(move || using.join().unwrap()).unwrap());
}

#[test]
fn heavy_items_are_taken_from_a_source_one_at_a_time() {
    let (consumer, mut inbox) = consumer_with_weight(1 << 20, |_: &usize| 1 << 20);
    let (source, items) = bounded(10);
    (0..10).for_each(|n| source.send(n).unwrap());
    consumer.put_subscription(&items).unwrap();
    for n in 0..10 {
        assert_eq!(inbox.get().unwrap(), n);
        assert_eq!(items.len(), 9 - n);
    }
}

#[test]
fn a_put_that_finds_room_does_not_wait_behind_a_heavier_one() {
    // An inbox takes one item of this weight at a time.
    let (consumer, mut inbox) = consumer_with_weight(1 << 20, |n: &usize| *n << 17);
    (0..8).for_each(|_| consumer.put_nowait(1).unwrap());
    for _ in 0..100 {
        let heavy = consumer.clone();
        let waiting = thread::spawn(move || heavy.put(4).unwrap());
        let light = consumer.clone();
        let putting = thread::spawn(move || light.put(1).unwrap());
        // There is room for the light item only.
        thread::sleep(Duration::from_millis(1));
        assert_eq!(inbox.get_timeout(DEADLINE).unwrap(), 1);
        within(move || putting.join().unwrap());
        // There is room for the heavy item.
        while inbox.get_timeout(DEADLINE).unwrap() != 4 {}
        waiting.join().unwrap();
        while !consumer.channel.is_empty() {
            inbox.get_timeout(DEADLINE).unwrap();
        }
        (0..8).for_each(|_| consumer.put_nowait(1).unwrap());
    }
}

#[test]
fn a_sink_gets_what_is_published_while_it_takes_what_came_early_though_others_subscribe() {
    static ENTERED: std::sync::Barrier = std::sync::Barrier::new(2);
    static GO_ON: std::sync::Barrier = std::sync::Barrier::new(2);
    // The first item takes its time.
    let weigh = |item: &u32| {
        if *item == 0 {
            ENTERED.wait();
            GO_ON.wait();
        }
        1
    };
    let (mut publisher, producer) = pubsub::producer();
    publisher.put(0);
    let (consumer, mut inbox) = consumer_with_weight(100, weigh);
    let attaching = thread::spawn({
        let producer = producer.clone();
        move || producer.subscribe_to(consumer)
    });
    ENTERED.wait();
    let other = producer.subscribe();
    let publishing = thread::spawn(move || (1..4).for_each(|n| publisher.put(n)));
    assert_eq!(other.get_timeout(DEADLINE).unwrap(), 1);
    GO_ON.wait();
    attaching.join().unwrap();
    within(move || publishing.join().unwrap());
    for n in 0..4 {
        assert_eq!(inbox.get_timeout(DEADLINE).unwrap(), n);
    }
    assert!(other.iter().eq(2..4));
    assert_eq!(producer.dropped(), 0);
}

#[test]
fn an_item_whose_weigh_function_panics_is_counted() {
    let (mut publisher, producer) = pubsub::producer();
    let weigh = |n: &u32| match n {
        2 => panic!("in `weigh`, on purpose"),
        _ => 1,
    };
    let (consumer, mut inbox) = consumer_with_weight(10, weigh);
    producer.subscribe_to(consumer);
    (0..4).for_each(|n| publisher.put(n));
    for n in [0, 1, 3] {
        assert_eq!(inbox.get_timeout(DEADLINE).unwrap(), n);
    }
    assert_eq!(producer.dropped(), 1);
}
