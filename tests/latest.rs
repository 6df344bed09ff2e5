//! The newest message and its age, for control loops.

mod testkit;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rtcbot_websocket::{Latest, Message, Options, Queue, Sink, Websocket, json};
use testkit::{DEADLINE, eventually, pair, threads_named, within};

const AGE: Duration = Duration::from_millis(1);

fn number(latest: &Latest<Message>) -> Option<u64> {
    latest.newest()?.0.decode().ok()
}

#[test]
fn the_newest_message_is_returned_until_it_is_too_old() {
    let (operator, robot) = pair();
    let orders = robot.subscribe_latest();
    assert!(orders.newest().is_none());
    assert!(orders.fresh(Duration::MAX).is_none());
    operator.put("forward").unwrap();
    operator.put("left").unwrap();
    eventually("the newest", || {
        orders
            .fresh(Duration::MAX)
            .is_some_and(|order| order == "left")
    });
    let (_, age) = orders.newest().unwrap();
    eventually("it is older", || orders.newest().unwrap().1 > age + AGE);
    assert!(orders.fresh(AGE).is_none());
    assert_eq!(orders.fresh(DEADLINE).unwrap(), "left");
}

#[test]
fn the_last_message_of_an_ended_connection_becomes_too_old() {
    let (operator, robot) = pair();
    let orders = robot.subscribe_latest();
    operator.put("forward").unwrap();
    operator.close().unwrap();
    robot.wait_closed_timeout(DEADLINE).unwrap();
    assert_eq!(orders.fresh(DEADLINE).unwrap(), "forward");
    drop(robot);
    eventually("it is too old", || orders.fresh(AGE).is_none());
    assert_eq!(orders.newest().unwrap().0, "forward");
}

#[test]
fn many_connections_feed_one() {
    let latest = Latest::new();
    let pairs: Vec<_> = (0..3).map(|_| Options::new().pair()).collect();
    for (_, robot) in &pairs {
        robot.subscribe_to(latest.clone());
    }
    for (n, (operator, _)) in pairs.iter().enumerate() {
        operator.put(json!(n)).unwrap();
        eventually("the order", || number(&latest) == Some(n as u64));
    }
}

#[test]
fn messages_that_came_before_the_subscription_are_delivered() {
    let (operator, robot) = pair();
    operator.put(1).unwrap();
    operator.put(2).unwrap();
    eventually("both are kept", || robot.stats().receive_queue == 2);
    assert_eq!(number(&robot.subscribe_latest()), Some(2));
}

#[test]
fn it_needs_no_thread_and_does_not_wait_for_callbacks() {
    testkit::alone("it_needs_no_thread_and_does_not_wait_for_callbacks", || {
        let (operator, robot) = pair();
        let orders = robot.subscribe_latest();
        operator.put(1).unwrap();
        eventually("the first", || number(&orders) == Some(1));
        if cfg!(target_os = "linux") {
            assert_eq!(threads_named("ws-dispatch"), 0);
        }
        let (go_on, wait) = crossbeam_channel::bounded::<()>(0);
        robot.subscribe_callback(move |_| {
            let _ = wait.recv();
        });
        operator.put(2).unwrap();
        operator.put(3).unwrap();
        eventually("the newest", || number(&orders) == Some(3));
        drop(go_on);
    });
}

#[test]
fn dropping_the_last_handle_unsubscribes() {
    let (operator, robot) = pair();
    let orders = robot.subscribe_latest();
    let same = orders.clone();
    drop(orders);
    operator.put(1).unwrap();
    eventually("the message", || number(&same) == Some(1));
    drop(same);
    // Nobody misses this one.
    operator.put(2).unwrap();
    operator.put(3).unwrap();
    let next = robot.subscribe();
    operator.put(4).unwrap();
    while next.get_timeout(DEADLINE).unwrap() != json!(4) {}
    assert_eq!(robot.stats().dropped, 0);
}

#[test]
fn replaced_items_are_dropped_without_the_lock() {
    /// Uses the `Latest` in its destructor, and then panics.
    struct Uses(Option<Latest<Arc<Uses>>>);
    impl Drop for Uses {
        fn drop(&mut self) {
            if let Some(latest) = self.0.take() {
                assert!(latest.newest().is_some());
                panic!("on purpose");
            }
        }
    }
    within(DEADLINE, || {
        let latest = Latest::new();
        let uses = Arc::new(Uses(Some(latest.clone())));
        latest.put_nowait(uses).ok().unwrap();
        latest.put_nowait(Arc::new(Uses(None))).ok().unwrap();
        assert!(latest.newest().unwrap().0.0.is_none());
    });
}

#[test]
fn no_older_item_follows_a_newer_one_of_the_same_feeder() {
    const FEEDERS: usize = 4;
    const ROUNDS: usize = 20_000;
    let latest = Latest::<[usize; 2]>::new();
    let feeding = AtomicUsize::new(FEEDERS);
    thread::scope(|scope| {
        for feeder in 0..FEEDERS {
            let (latest, feeding) = (latest.clone(), &feeding);
            scope.spawn(move || {
                for n in 1..=ROUNDS {
                    latest.put_nowait([feeder, n]).unwrap();
                }
                feeding.fetch_sub(1, Ordering::SeqCst);
            });
        }
        let mut newest = [0; FEEDERS];
        while feeding.load(Ordering::SeqCst) > 0 {
            if let Some(([feeder, n], _)) = latest.newest() {
                assert!(n >= newest[feeder], "{n} after {}", newest[feeder]);
                newest[feeder] = n;
            }
        }
    });
    // The last item of all is the last of its feeder.
    assert_eq!(latest.newest().unwrap().0[1], ROUNDS);
}

#[test]
fn many_connections_feed_one_in_the_order_of_each() {
    const ROUNDS: u64 = 5000;
    let latest = Latest::new();
    let pairs: Vec<_> = (0..4).map(|_| Websocket::pair()).collect();
    let all: Vec<_> = pairs
        .iter()
        .map(|(_, robot)| {
            robot.subscribe_to(latest.clone());
            robot.subscribe_with(Queue::Latest)
        })
        .collect();
    thread::scope(|scope| {
        for (feeder, (operator, _)) in pairs.iter().enumerate() {
            scope.spawn(move || {
                for n in 1..=ROUNDS {
                    operator.put(json!([feeder, n])).unwrap();
                }
            });
        }
        let mut newest = [0; 4];
        let mut check = || {
            if let Some((message, _)) = latest.newest() {
                let (feeder, n): (usize, u64) = message.decode().unwrap();
                assert!(n >= newest[feeder], "{n} after {}", newest[feeder]);
                newest[feeder] = n;
            }
        };
        eventually("all have arrived", || {
            check();
            let mut sockets = pairs.iter();
            sockets.all(|(_, robot)| robot.stats().messages_in == ROUNDS)
        });
    });
    for last in all {
        eventually("the last one", || {
            let message = last.get_timeout(DEADLINE).unwrap();
            let (_, n): (usize, u64) = message.decode().unwrap();
            n == ROUNDS
        });
    }
    let (_, n): (usize, u64) = latest.newest().unwrap().0.decode().unwrap();
    assert_eq!(n, ROUNDS);
}
