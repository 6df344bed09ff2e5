//! Races, run thousands of times.

mod testkit;

use std::thread;
use std::time::Duration;

use crossbeam_channel::unbounded;
use rtcbot_websocket::{Queue, Server, Websocket, json};
use testkit::{DEADLINE, pair, within};

#[test]
fn both_sides_close_at_the_same_time() {
    for n in 0..1000 {
        let (client, server) = pair();
        let closing = [client, server].map(|ws| {
            thread::spawn(move || {
                for _ in 0..n % 50 {
                    std::hint::spin_loop();
                }
                ws.close()
            })
        });
        for thread in closing {
            within(DEADLINE, move || thread.join().unwrap()).unwrap();
        }
    }
}

#[test]
fn messages_accepted_before_a_close_arrive_whoever_wins_the_race() {
    for _ in 0..1000 {
        let (client, server) = pair();
        let subscription = server.subscribe_with(Queue::Unbounded);
        let putter = client.clone();
        let putting = thread::spawn(move || {
            (0u32..)
                .take_while(|n| putter.put_nowait(json!(n)).is_ok())
                .count()
        });
        thread::yield_now();
        within(DEADLINE, move || client.close()).unwrap();
        let accepted = within(DEADLINE, move || putting.join().unwrap());
        let received: Vec<u32> = subscription.iter().map(|m| m.decode().unwrap()).collect();
        assert!(received.iter().copied().eq(0..accepted as u32));
    }
}

#[test]
fn a_long_exchange_of_messages_loses_no_wake_up() {
    let (client, server) = pair();
    let echo = server.clone();
    thread::spawn(move || {
        while let Ok(message) = echo.get() {
            if echo.put_nowait(message).is_err() {
                break;
            }
        }
    });
    let subscription = client.subscribe();
    for n in 0..5_000u32 {
        client.put_nowait(json!(n)).unwrap();
        assert_eq!(subscription.get_timeout(DEADLINE).unwrap(), json!(n));
    }
}

#[test]
fn two_threads_that_put_occasionally_lose_no_wake_up() {
    // Each put may find the frame writer idle, used by the other thread, or used by the writer
    // thread.
    let (client, server) = pair();
    let subscription = server.subscribe();
    let (go, going) = unbounded();
    let putting: Vec<_> = (0..2)
        .map(|_| {
            let (client, going) = (client.clone(), going.clone());
            thread::spawn(move || {
                while let Ok(n) = going.recv() {
                    for _ in 0..n {
                        client.put_nowait(json!(1)).unwrap();
                    }
                }
            })
        })
        .collect();
    for round in 0..10_000 {
        let n = 1 + round % 3;
        go.send(n).unwrap();
        go.send(n).unwrap();
        for _ in 0..2 * n {
            subscription
                .get_timeout(DEADLINE)
                .expect("a message was left lying");
        }
    }
    drop(go);
    for thread in putting {
        thread.join().unwrap();
    }
}

#[test]
fn pongs_are_sent_while_messages_are_put() {
    let tick = Duration::from_micros(200);
    let options = rtcbot_websocket::Options::new()
        .ping_interval(tick)
        .ping_timeout(DEADLINE);
    let (client, server) = testkit::pair_with(&options, &options);
    let subscription = server.subscribe();
    for round in 0..200 {
        for n in 0..100 {
            client.put(json!(100 * round + n)).unwrap();
        }
        for n in 0..100 {
            let message = subscription.get_timeout(DEADLINE).unwrap();
            assert_eq!(message, json!(100 * round + n));
        }
    }
    client.close().unwrap();
    assert!(client.error().is_none() && server.wait_closed().is_ok());
}

#[test]
fn on_ready_is_called_exactly_once_however_late_it_is_registered() {
    let mut server = Server::bind((testkit::own_address(), 0)).unwrap();
    for n in 0..500 {
        let client = Websocket::connect(testkit::url(&server)).unwrap();
        let peer = Websocket::accept(server.next_timeout(DEADLINE).unwrap());
        for _ in 0..n {
            std::hint::spin_loop();
        }
        let (sender, called) = unbounded();
        let close = sender.clone();
        client.on_ready(move || sender.send("ready").unwrap());
        client.on_close(move || close.send("close").unwrap());
        assert_eq!(called.recv_timeout(DEADLINE), Ok("ready"));
        within(DEADLINE, move || peer.close()).unwrap();
        assert_eq!(called.recv_timeout(DEADLINE), Ok("close"));
        assert_eq!(called.iter().count(), 0);
    }
}
