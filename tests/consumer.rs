//! Consumers without a network: direct puts and a replaceable source, as one stream.

mod testkit;

use std::thread;
use std::time::Duration;

use crossbeam_channel::{bounded, unbounded};
use rtcbot_websocket::pubsub;
use rtcbot_websocket::{Error, PutError};
use testkit::{DEADLINE, eventually, within};

#[test]
fn direct_puts_come_before_a_source() {
    let (consumer, mut inbox) = pubsub::consumer(10);
    consumer.put_nowait(1).unwrap();
    let (sender, source) = unbounded();
    sender.send(2).unwrap();
    consumer.put_subscription(source).unwrap();
    assert_eq!(inbox.get().unwrap(), 1);
    assert_eq!(inbox.get().unwrap(), 2);
}

#[test]
fn a_put_without_room_returns_the_item() {
    let (consumer, mut inbox) = pubsub::consumer(2);
    consumer.put_nowait('a').unwrap();
    consumer.put_nowait('b').unwrap();
    assert_eq!(consumer.put_nowait('c'), Err(PutError::Full('c')));
    let moment = Duration::from_millis(1);
    assert_eq!(consumer.put_timeout('c', moment), Err(PutError::Full('c')));
    assert_eq!(inbox.get().unwrap(), 'a');
    consumer.put_nowait('c').unwrap();
}

#[test]
fn a_full_put_leaves_the_source_alone() {
    let (consumer, _inbox) = pubsub::consumer(1);
    consumer.put_nowait(1).unwrap();
    let (_sender, source) = unbounded();
    consumer.put_subscription(&source).unwrap();
    assert!(consumer.put_nowait(2).is_err());
    assert_eq!(consumer.subscription().unwrap(), source);
}

#[test]
fn the_inbox_waits_for_puts_sources_and_the_end() {
    let (consumer, mut inbox) = pubsub::consumer(1);
    let (sender, source) = bounded(0);
    let using = thread::spawn(move || {
        let mut used = Vec::new();
        while let Ok(n) = inbox.get() {
            used.push(n);
        }
        used
    });
    consumer.put(1).unwrap();
    consumer.put_subscription(source).unwrap();
    sender.send_timeout(2, DEADLINE).unwrap();
    sender.send_timeout(3, DEADLINE).unwrap();
    consumer.put_timeout(4, DEADLINE).unwrap();
    consumer.close();
    assert_eq!(
        within(DEADLINE, move || using.join().unwrap()),
        [1, 2, 3, 4]
    );
}

#[test]
fn an_inbox_without_items_returns_empty_or_timeout_or_ended() {
    let (consumer, mut inbox) = pubsub::consumer::<u8>(1);
    assert!(matches!(inbox.try_get(), Err(Error::Empty)));
    assert!(matches!(
        inbox.get_timeout(Duration::from_millis(1)),
        Err(Error::Timeout)
    ));
    consumer.put_nowait(1).unwrap();
    consumer.close();
    assert_eq!(inbox.get().unwrap(), 1);
    assert!(matches!(inbox.get(), Err(Error::Ended)));
    assert!(matches!(inbox.try_get(), Err(Error::Ended)));
}

#[test]
fn every_waiting_put_ends_when_the_consumer_closes_or_its_inbox_is_dropped() {
    for round in 0..500 {
        let (consumer, inbox) = pubsub::consumer(1);
        consumer.put_nowait(0).unwrap();
        let putting: Vec<_> = (1..5)
            .map(|n| {
                let consumer = consumer.clone();
                thread::spawn(move || consumer.put(n))
            })
            .collect();
        let kept = if round % 2 == 0 {
            consumer.close();
            Some(inbox)
        } else {
            drop(inbox);
            None
        };
        for (n, thread) in (1..).zip(putting) {
            let put = within(DEADLINE, move || thread.join().unwrap());
            assert_eq!(put, Err(PutError::Closed(n)));
        }
        drop(kept);
    }
}

#[test]
fn many_waiting_puts_all_get_their_turn() {
    for _ in 0..20 {
        let (consumer, mut inbox) = pubsub::consumer(1);
        let putting: Vec<_> = (0..8)
            .map(|who| {
                let consumer = consumer.clone();
                thread::spawn(move || {
                    for n in 0..50 {
                        // Some give up early. That must not make the others miss their turn.
                        let item = (who, n);
                        if n % 7 == 0 {
                            let _ = consumer.put_timeout(item, Duration::from_micros(1));
                        } else {
                            consumer.put(item).unwrap();
                        }
                    }
                })
            })
            .collect();
        let using = thread::spawn(move || {
            let mut count = 0;
            while inbox.get().is_ok() {
                count += 1;
            }
            count
        });
        for thread in putting {
            within(DEADLINE, move || thread.join().unwrap());
        }
        consumer.close();
        assert!(using.join().unwrap() >= 8 * 42);
    }
}

#[test]
fn a_source_is_read_no_faster_than_it_is_used() {
    let (consumer, mut inbox) = pubsub::consumer(1);
    let (sender, source) = bounded(1000);
    consumer.put_subscription(&source).unwrap();
    for n in 0..1000 {
        sender.send(n).unwrap();
    }
    assert_eq!(inbox.get().unwrap(), 0);
    assert!(source.len() >= 1000 - 128, "one batch at the most");
}

#[test]
fn stopping_a_source_while_it_is_read_loses_nothing() {
    let (consumer, mut inbox) = pubsub::consumer(1000);
    let (sender, source) = unbounded();
    const COUNT: u32 = 50_000;
    let using = thread::spawn(move || {
        for n in 0..COUNT {
            assert_eq!(inbox.get_timeout(DEADLINE).unwrap(), n);
        }
    });
    let mut next = 0;
    while next < COUNT {
        for _ in 0..5 {
            sender.send(next).unwrap();
            next += 1;
        }
        consumer.put_subscription(&source).unwrap();
        // A put stops the source. The messages left in it are put after it, in order.
        consumer.stop_subscription();
        for left in source.try_iter() {
            consumer.put(left).unwrap();
        }
    }
    within(DEADLINE, move || using.join().unwrap());
}

#[test]
fn a_replaced_source_is_dropped() {
    let (consumer, _inbox) = pubsub::consumer::<u8>(1);
    let (sender, source) = unbounded();
    consumer.put_subscription(source).unwrap();
    let (_other, other) = unbounded();
    consumer.put_subscription(other).unwrap();
    eventually("nobody receives any more", || sender.send(1).is_err());
}

#[test]
fn a_stopped_source_is_dropped_by_a_waiting_inbox() {
    for stop in [true, false] {
        let (consumer, mut inbox) = pubsub::consumer(10);
        let using = thread::spawn(move || while inbox.get().is_ok() {});
        let (sender, source) = bounded(1);
        consumer.put_subscription(source).unwrap();
        sender.send(1).unwrap();
        eventually("the source is read", || sender.is_empty());
        if stop {
            consumer.stop_subscription();
        } else {
            consumer.put(2).unwrap();
        }
        eventually("nobody receives any more", || {
            sender.try_send(3).is_err_and(|e| e.is_disconnected())
        });
        consumer.close();
        within(DEADLINE, move || using.join().unwrap());
    }
}
