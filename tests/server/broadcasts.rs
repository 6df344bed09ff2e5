//! Messages to all clients of a server.

use std::io::Write;
use std::thread;
use std::time::Duration;

use rtcbot_websocket::{Options, Queue, Websocket, json};

use crate::testkit::{DEADLINE, UPGRADE, eventually, pair_over, read_head};
use crate::{server, serving, stream_to};

#[test]
fn a_broadcast_reaches_all_in_their_own_mode_and_returns_those_without_room() {
    let mut server = server();
    let (json_mode, text_mode) = (Options::new(), Options::new().json(false));
    let (json_client, _json_peer) = pair_over(&mut server, &json_mode, &json_mode);
    let (text_client, _text_peer) = pair_over(&mut server, &text_mode, &text_mode);
    // It takes nothing, and has room for one message.
    let mut stalled = stream_to(&server);
    stalled.write_all(UPGRADE.as_bytes()).unwrap();
    let stalled_peer = Options::new()
        .send_queue(1)
        .accept(server.next_timeout(DEADLINE).unwrap());
    read_head(&mut stalled);
    stalled_peer.wait_ready_timeout(DEADLINE).unwrap();
    // Until the buffers on the way are full, too.
    let patience = Duration::from_millis(300);
    while stalled_peer
        .put_timeout(vec![0u8; 1 << 20], patience)
        .is_ok()
    {}
    assert_eq!(server.connections().len(), 3);

    let missed = server.broadcast("hello");
    assert_eq!(missed, std::slice::from_ref(&stalled_peer));
    assert_eq!(json_client.get_timeout(DEADLINE).unwrap(), json!("hello"));
    assert_eq!(text_client.get_timeout(DEADLINE).unwrap(), "hello");
    server.broadcast(json!({"a": 1}));
    assert_eq!(json_client.get_timeout(DEADLINE).unwrap(), json!({"a": 1}));
    assert_eq!(text_client.get_timeout(DEADLINE).unwrap(), "{\"a\":1}");

    drop(stalled);
    let _ = stalled_peer.wait_closed_timeout(DEADLINE);
    json_client.close().unwrap();
    eventually("that two have gone", || server.connections().len() == 1);
    assert!(server.broadcast(1).is_empty());
}

#[test]
fn broadcasts_from_many_threads_arrive_everywhere_in_the_order_of_each() {
    const EACH: usize = 2000;
    let mut server = server();
    let options = Options::new().receive_queue(Queue::Unbounded);
    let pairs: Vec<_> = (0..5)
        .map(|_| pair_over(&mut server, &options, &options))
        .collect();
    let subscriptions: Vec<_> = pairs.iter().map(|(client, _)| client.subscribe()).collect();
    thread::scope(|scope| {
        for who in 0..3 {
            let handle = server.handle();
            scope.spawn(move || {
                for n in 0..EACH {
                    assert!(handle.broadcast(json!([who, n])).is_empty());
                }
            });
        }
    });
    for subscription in subscriptions {
        let mut next = [0; 3];
        for _ in 0..3 * EACH {
            let message = subscription.get_timeout(DEADLINE).unwrap();
            let [who, n]: [usize; 2] = message.decode().unwrap();
            assert_eq!(n, next[who]);
            next[who] += 1;
        }
    }
}

#[test]
fn a_ready_client_receives_broadcasts() {
    let (url, handle, serving) = serving(|request| {
        let _ = Websocket::accept(request).wait_closed();
    });
    for _ in 0..200 {
        let client = Websocket::connect(&url).unwrap();
        client.wait_ready_timeout(DEADLINE).unwrap();
        handle.broadcast("hello");
        assert_eq!(client.get_timeout(DEADLINE).unwrap(), "hello");
    }
    handle.shutdown(DEADLINE).unwrap();
    serving.join().unwrap();
}
