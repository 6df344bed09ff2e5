//! Every accepted message arrives, in order, once.

mod testkit;

use std::ops::Range;
use std::thread;

use crossbeam_channel::{bounded, unbounded};
use rtcbot_websocket::{Message, Options, Queue, Subscription, Websocket, json};
use testkit::{DEADLINE, eventually, pair, pair_with, within};

const COUNT: u32 = 100_000;

/// Where each message needs a switch of threads.
const FEW: u32 = COUNT / 10;

fn numbered(n: u32) -> Message {
    json!(n).into()
}

fn number(message: &Message) -> u32 {
    message.decode().unwrap()
}

/// Checks that 0 to `COUNT` arrive in order, and nothing else.
fn expect_all(subscription: Subscription<Message>, sender: Websocket) {
    expect(0..COUNT, subscription, sender);
}

fn expect(numbers: Range<u32>, subscription: Subscription<Message>, sender: Websocket) {
    for n in numbers {
        assert_eq!(number(&subscription.get_timeout(DEADLINE).unwrap()), n);
    }
    sender.close().unwrap();
    assert!(subscription.get_timeout(DEADLINE).unwrap_err().is_orderly());
}

#[test]
fn messages_keep_their_order_through_put() {
    let (client, server) = pair();
    let subscription = server.subscribe();
    let putter = client.clone();
    let putting = thread::spawn(move || (0..COUNT).for_each(|n| putter.put(numbered(n)).unwrap()));
    within(4 * DEADLINE, move || expect_all(subscription, client));
    putting.join().unwrap();
}

#[test]
fn messages_keep_their_order_through_a_full_send_queue() {
    let options = Options::new().send_queue(64);
    let (client, server) = pair_with(&options, &options);
    let subscription = server.subscribe();
    let putter = client.clone();
    let putting = thread::spawn(move || (0..FEW).for_each(|n| putter.put(numbered(n)).unwrap()));
    within(4 * DEADLINE, move || expect(0..FEW, subscription, client));
    putting.join().unwrap();
}

#[test]
fn messages_keep_their_order_through_a_source() {
    let (client, server) = pair();
    let subscription = server.subscribe();
    let (sender, source) = bounded(100);
    client.put_subscription(source).unwrap();
    let sending = thread::spawn(move || (0..COUNT).for_each(|n| sender.send(numbered(n)).unwrap()));
    within(4 * DEADLINE, move || expect_all(subscription, client));
    sending.join().unwrap();
}

#[test]
fn messages_keep_their_order_through_puts_and_a_source_in_turn() {
    let (client, server) = pair();
    let subscription = server.subscribe();
    let (sender, source) = unbounded();
    let mixer = client.clone();
    let mixing = thread::spawn(move || {
        let mut n = 0;
        let mut next = || {
            n += 1;
            numbered(n - 1)
        };
        // In each round, a direct put stops the source. What is left in it goes into the next
        // source, before the messages that follow.
        for round in 0..COUNT / 10 {
            for _ in 0..3 {
                sender.send(next()).unwrap();
            }
            mixer.put_subscription(&source).unwrap();
            if round % 3 == 0 {
                thread::yield_now();
            }
            mixer.stop_subscription();
            for left in source.try_iter().collect::<Vec<_>>() {
                mixer.put(left).unwrap();
            }
            for _ in 0..7 {
                mixer.put(next()).unwrap();
            }
        }
    });
    within(4 * DEADLINE, move || expect_all(subscription, client));
    mixing.join().unwrap();
}

#[test]
fn messages_keep_their_order_through_sources_that_replace_each_other() {
    const SOURCES: u32 = 3000;
    const EACH: u32 = 20;
    let (client, server) = pair();
    let subscription = server.subscribe_with(Queue::Unbounded);
    let mut sources = Vec::new();
    for who in 0..SOURCES {
        let (sender, source) = unbounded::<Message>();
        for n in 0..EACH {
            sender.send(json!([who, n]).into()).unwrap();
        }
        client.put_subscription(&source).unwrap();
        // Replaced while it is being read. The sender is kept, so the source does not end by
        // itself.
        eventually("the source is read", || source.len() < EACH as usize);
        sources.push((sender, source));
    }
    client.close().unwrap();

    let mut received = subscription
        .into_iter()
        .map(|m| m.decode::<(u32, u32)>().unwrap());
    for (who, (_sender, source)) in (0..).zip(sources) {
        let left: Vec<_> = source
            .try_iter()
            .map(|m| m.decode::<(u32, u32)>().unwrap())
            .collect();
        let taken = EACH - left.len() as u32;
        for n in 0..taken {
            assert_eq!(
                received.next(),
                Some((who, n)),
                "what was taken is sent, in order"
            );
        }
        assert!(left.into_iter().eq((taken..EACH).map(|n| (who, n))));
    }
    assert_eq!(received.next(), None);
}

#[test]
fn each_of_eight_threads_keeps_its_order() {
    const EACH: u32 = 20_000;
    let (client, server) = pair();
    let subscription = server.subscribe();
    let putting: Vec<_> = (0..8u32)
        .map(|who| {
            let client = client.clone();
            thread::spawn(move || {
                for n in 0..EACH {
                    client.put(json!([who, n])).unwrap();
                }
            })
        })
        .collect();
    within(4 * DEADLINE, move || {
        let mut next = [0; 8];
        for _ in 0..8 * EACH {
            let message = subscription.get_timeout(DEADLINE).unwrap();
            let (who, n): (usize, u32) = message.decode().unwrap();
            assert_eq!(n, next[who], "thread {who}");
            next[who] += 1;
        }
        assert_eq!(next, [EACH; 8]);
    });
    for thread in putting {
        thread.join().unwrap();
    }
}

#[test]
fn messages_keep_their_order_in_both_directions_at_once() {
    let (client, server) = pair();
    let (from_server, from_client) = (client.subscribe(), server.subscribe());
    let putting = [client.clone(), server.clone()]
        .map(|ws| thread::spawn(move || (0..COUNT).for_each(|n| ws.put(numbered(n)).unwrap())));
    within(4 * DEADLINE, move || {
        let reading = [from_server, from_client].map(|subscription| {
            thread::spawn(move || {
                for n in 0..COUNT {
                    assert_eq!(number(&subscription.get_timeout(DEADLINE).unwrap()), n);
                }
            })
        });
        for thread in reading {
            thread.join().unwrap();
        }
    });
    for thread in putting {
        thread.join().unwrap();
    }
}

#[test]
fn a_slow_subscription_holds_the_peer_back_and_loses_nothing() {
    let options = Options::new()
        .receive_queue(Queue::Block(1))
        .close_timeout(4 * DEADLINE);
    let (client, server) = pair_with(&options, &options);
    let (slow, fast) = (server.subscribe(), server.subscribe_with(Queue::Unbounded));
    let putting = thread::spawn(move || {
        (0..FEW).for_each(|n| client.put(numbered(n)).unwrap());
        client.close().unwrap();
    });
    within(4 * DEADLINE, move || {
        assert!(slow.iter().map(|m| number(&m)).eq(0..FEW));
        assert!(fast.iter().map(|m| number(&m)).eq(0..FEW));
    });
    within(DEADLINE, move || putting.join().unwrap());
}

#[test]
fn messages_keep_their_order_when_piped_through_a_second_connection() {
    let (a, b) = pair();
    let (c, d) = pair();
    b.subscribe_to(c.clone());
    let subscription = d.subscribe();
    let putter = a.clone();
    let putting = thread::spawn(move || (0..COUNT).for_each(|n| putter.put(numbered(n)).unwrap()));
    within(4 * DEADLINE, move || {
        for n in 0..COUNT {
            assert_eq!(number(&subscription.get_timeout(DEADLINE).unwrap()), n);
        }
    });
    putting.join().unwrap();
}
