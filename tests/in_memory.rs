//! Pairs in memory behave as connections do.

mod testkit;

use std::thread;
use std::time::Duration;

use rtcbot_websocket::{CloseFrame, Error, Options, Queue, Websocket, json};
use testkit::{DEADLINE, pinging, within};

#[test]
fn messages_go_both_ways() {
    let (operator, robot) = Websocket::pair();
    operator.put_nowait(json!({"speed": 1})).unwrap();
    robot.put_nowait(vec![1, 2, 3]).unwrap();
    assert_eq!(robot.get_timeout(DEADLINE).unwrap(), json!({"speed": 1}));
    let answer = operator.get_timeout(DEADLINE).unwrap();
    assert_eq!(answer.as_bytes(), Some(&[1, 2, 3][..]));
    assert!(operator.peer_addr().is_none());
}

#[test]
fn a_pair_is_ready_immediately() {
    let (operator, robot) = Websocket::pair();
    assert!(operator.is_ready() && robot.is_ready());
    operator.close().unwrap();
    robot.wait_closed_timeout(DEADLINE).unwrap();
}

#[test]
fn close_is_orderly_a_thousand_times_from_either_end() {
    for n in 0..1000 {
        let (operator, robot) = Websocket::pair();
        operator.put_nowait(json!(n)).unwrap();
        let (closer, other) = match n % 2 {
            0 => (operator, robot),
            _ => (robot, operator),
        };
        let closing = thread::spawn(move || closer.close_with(1001, "done"));
        within(DEADLINE, move || closing.join().unwrap()).unwrap();
        other.wait_closed_timeout(DEADLINE).unwrap();
        let reason = "done".to_owned();
        assert_eq!(
            other.received_close(),
            Some(CloseFrame { code: 1001, reason })
        );
    }
}

#[test]
fn a_hundred_thousand_messages_each_way_arrive_in_order() {
    const COUNT: u32 = 100_000;
    let (a, b) = Options::new().receive_queue(Queue::Block(100)).pair();
    let ends = [(a.subscribe(), a.clone()), (b.subscribe(), b.clone())];
    let threads = ends.map(|(subscription, ws)| {
        let putting = thread::spawn(move || (0..COUNT).for_each(|n| ws.put(json!(n)).unwrap()));
        thread::spawn(move || {
            for n in 0..COUNT {
                assert_eq!(subscription.get_timeout(DEADLINE).unwrap(), json!(n));
            }
            putting.join().unwrap();
        })
    });
    for thread in threads {
        within(4 * DEADLINE, move || thread.join().unwrap());
    }
}

#[test]
fn dropping_one_end_ends_the_other() {
    let (operator, robot) = Websocket::pair();
    operator.put_nowait(json!("last words")).unwrap();
    drop(operator);
    assert_eq!(robot.get_timeout(DEADLINE).unwrap(), "last words");
    assert!(robot.get_timeout(DEADLINE).unwrap_err().is_orderly());
}

#[test]
fn a_peer_that_reads_nothing_is_a_ping_timeout() {
    let tick = Duration::from_millis(50);
    let (operator, robot) = pinging(tick).receive_queue(Queue::Block(1)).pair();
    // It is never read, so the robot stops reading.
    let _unread = robot.subscribe();
    let flooding = thread::spawn({
        let operator = operator.clone();
        move || while operator.put(vec![0; 10_000]).is_ok() {}
    });
    let error = operator.wait_closed_timeout(DEADLINE).unwrap_err();
    assert!(matches!(error, Error::PingTimeout { .. }), "{error}");
    within(DEADLINE, move || flooding.join().unwrap());
}

#[test]
fn a_loop_over_the_messages_ends_with_the_connection() {
    within(DEADLINE, || {
        let (robot, operator) = Websocket::pair();
        for order in 1..=3 {
            operator.put(order).unwrap();
        }
        operator.close().unwrap();
        let mut orders = Vec::new();
        for order in &robot {
            orders.push(order.decode::<u8>().unwrap());
        }
        assert_eq!(orders, [1, 2, 3]);
    });
}
