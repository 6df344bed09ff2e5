//! Messages to all clients of a server.

use std::io::Write;
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use rtcbot_websocket::{Options, Queue, Websocket, broadcast, json};

use crate::testkit::{DEADLINE, UPGRADE, eventually, own_address, pair_over, read_head};
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
fn a_broadcast_to_chosen_connections_reaches_them_and_returns_those_without_room() {
    let mut server = server();
    let options = Options::new();
    let pairs: Vec<_> = (0..3)
        .map(|_| pair_over(&mut server, &options, &options))
        .collect();
    // The peer of this one does not answer the handshake, so the one message stays in the queue.
    let listener = TcpListener::bind((own_address(), 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let full = Options::new()
        .send_queue(1)
        .linger(Duration::ZERO)
        .connect(format!("ws://{address}/"))
        .unwrap();
    full.put_nowait("first").unwrap();
    // Clients and servers.
    let (chosen, others) = (&pairs[..2], &pairs[2]);
    let sides = chosen.iter().flat_map(|(client, peer)| [client, peer]);
    let missed = broadcast([&full].into_iter().chain(sides), json!({"a": 1}));
    assert_eq!(missed, [full]);
    for side in chosen.iter().flat_map(|(client, peer)| [client, peer]) {
        assert_eq!(side.get_timeout(DEADLINE).unwrap(), json!({"a": 1}));
    }
    assert_eq!(others.0.stats().messages_in, 0);
    assert_eq!(others.0.stats().messages_out, 0);

    // Closed ones are not returned.
    chosen[0].0.close().unwrap();
    let clients: Vec<Websocket> = pairs.iter().map(|(client, _)| client.clone()).collect();
    assert!(broadcast(&clients, "hello").is_empty());
    assert_eq!(others.1.get_timeout(DEADLINE).unwrap(), "hello");
    assert!(broadcast(Vec::<Websocket>::new(), "nobody").is_empty());
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
