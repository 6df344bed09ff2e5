//! A server among strangers: limits, refusals, broadcasts, handlers and shutting down.

mod rig;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rig::{DEADLINE, UPGRADE, eventually, pair_over, read_head, within};
use rtcbot_websocket::{Error, Options, Queue, Server, ServerHandle, Side, Websocket, http, json};

fn server() -> Server {
    Server::bind((rig::own_address(), 0)).unwrap()
}

fn stream_to(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

fn read_all(mut stream: TcpStream) -> String {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Lets the server work until `done`.
fn serve_until(server: &mut Server, mut done: impl FnMut() -> bool) {
    eventually("what the server is to do", || {
        assert!(server.next_timeout(Duration::from_millis(1)).is_none());
        done()
    });
}

fn is_going_away(ws: &Websocket) -> bool {
    match ws.end_reason() {
        Some(Error::Closed(close)) => {
            close.by == Side::Peer && close.frame.is_some_and(|frame| frame.code == 1001)
        }
        _ => false,
    }
}

#[test]
fn a_client_that_is_silent_for_too_long_is_answered_408() {
    let mut server = server().handshake_timeout(Duration::from_millis(20));
    let stream = stream_to(&server);
    let answer = thread::spawn(move || read_all(stream));
    serve_until(&mut server, || answer.is_finished());
    let answer = answer.join().unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
}

#[test]
fn a_head_that_came_in_time_is_not_refused_because_nobody_asked_for_it() {
    let mut server = server().handshake_timeout(Duration::from_millis(200));
    let mut stream = stream_to(&server);
    serve_until(&mut server, || true);
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    // Longer than it would have had.
    thread::sleep(Duration::from_millis(300));
    let request = server.next_timeout(Duration::ZERO);
    assert!(request.is_some());
}

#[test]
fn a_thousand_silent_clients_do_not_hold_up_the_next() {
    let mut server = server().handshake_timeout(Duration::from_secs(3600));
    let address = server.local_addr().unwrap();
    let connect = move || TcpStream::connect(address).unwrap();
    let connecting = thread::spawn(move || (0..1000).map(|_| connect()).collect::<Vec<_>>());
    // They are accepted meanwhile: a backlog holds only so many.
    serve_until(&mut server, || connecting.is_finished());
    let silent = connecting.join().unwrap();
    let options = Options::new();
    for _ in 0..20 {
        let (client, peer) = pair_over(&mut server, &options, &options);
        client.put_nowait(1).unwrap();
        assert_eq!(peer.get_timeout(DEADLINE).unwrap(), json!(1));
    }
    drop(silent);
}

#[test]
fn one_connection_more_than_allowed_is_answered_503_until_one_has_ended() {
    let mut server = server().max_connections(2);
    let options = Options::new();
    let (one, its_peer) = pair_over(&mut server, &options, &options);
    // A request that is not answered yet counts as well.
    let mut asking = stream_to(&server);
    asking.write_all(UPGRADE.as_bytes()).unwrap();
    let asked = server.next_timeout(DEADLINE).unwrap();

    let mut surplus = stream_to(&server);
    surplus.write_all(UPGRADE.as_bytes()).unwrap();
    let answer = thread::spawn(move || read_all(surplus));
    serve_until(&mut server, || answer.is_finished());
    let answer = answer.join().unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("retry-after: "), "{answer}");

    let refused = options.connect(server.url()).unwrap();
    let waiting = thread::spawn(move || refused.wait_ready_timeout(DEADLINE).unwrap_err());
    serve_until(&mut server, || waiting.is_finished());
    let error = waiting.join().unwrap();
    assert!(
        matches!(&error, Error::Refused { response } if response.status() == 503),
        "{error}"
    );

    one.close().unwrap();
    its_peer.wait_closed_timeout(DEADLINE).unwrap();
    // Its place is given back when its threads have ended.
    eventually("a place", || {
        let client = options.connect(server.url()).unwrap();
        match server.next_timeout(Duration::from_millis(200)) {
            Some(request) => {
                let peer = Websocket::accept(request);
                client.wait_ready_timeout(DEADLINE).unwrap();
                drop(peer);
                true
            }
            None => false,
        }
    });
    drop(asked);
}

#[test]
fn a_place_is_given_back_by_whatever_ends() {
    let mut server = server().max_connections(1);
    for round in 0..50 {
        let mut found = None;
        // The place of the round before may be taken for a moment longer.
        eventually("a place", || {
            let mut stream = stream_to(&server);
            stream.write_all(UPGRADE.as_bytes()).unwrap();
            let request = server.next_timeout(Duration::from_millis(50));
            found = request.map(|request| (request, stream));
            found.is_some()
        });
        let (request, mut stream) = found.unwrap();
        match round % 5 {
            0 => drop(request),
            1 => request.respond(404, "").unwrap(),
            2 => {
                let ws = Websocket::accept(request);
                read_head(&mut stream);
                drop(stream);
                ws.wait_error_timeout(DEADLINE).unwrap().unwrap();
            }
            3 => drop(Options::new().linger(Duration::ZERO).accept(request)),
            _ => {
                let ws = Options::new().allow_origin_if(|_| false).accept(request);
                drop(stream);
                let _ = ws.wait_closed_timeout(DEADLINE);
            }
        }
    }
}

#[test]
fn a_broadcast_reaches_all_in_their_own_mode_and_names_those_that_have_no_room() {
    let mut server = server();
    let (json_mode, text_mode) = (Options::new(), Options::new().json(false).clone());
    let (json_client, _json_peer) = pair_over(&mut server, &json_mode, &json_mode);
    let (text_client, _text_peer) = pair_over(&mut server, &text_mode, &text_mode);
    // It takes nothing, and there is room for one message.
    let mut stalled = stream_to(&server);
    stalled.write_all(UPGRADE.as_bytes()).unwrap();
    let stalled_peer = Options::new()
        .send_queue(1)
        .accept(server.next_timeout(DEADLINE).unwrap());
    read_head(&mut stalled);
    stalled_peer.wait_ready_timeout(DEADLINE).unwrap();
    // Until what is on the way takes no more, either.
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
    let options = Options::new().receive_queue(Queue::Unbounded).clone();
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

/// A server that runs a handler, and what becomes of it.
fn serving(
    handler: impl Fn(rtcbot_websocket::Request) + Send + Sync + 'static,
) -> (String, ServerHandle, thread::JoinHandle<()>) {
    let server = server();
    let (url, handle) = (server.url().to_owned(), server.handle());
    (url, handle, thread::spawn(move || server.serve(handler)))
}

#[test]
fn a_client_that_is_ready_gets_what_is_broadcast() {
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

#[test]
fn serve_runs_a_handler_for_each_and_a_panic_ends_nothing_else() {
    let (url, handle, serving) = serving(|request| {
        let panics = request.path() == "/panic";
        let ws = Websocket::accept(request);
        ws.wait_ready().unwrap();
        assert!(!panics, "as it is meant to");
        while let Ok(message) = ws.get() {
            let _ = ws.put(message);
        }
    });
    let bad = Websocket::connect(format!("{url}/panic")).unwrap();
    bad.wait_closed_timeout(DEADLINE).unwrap();
    assert_eq!(bad.received_close().unwrap().code, 1011);
    let clients: Vec<_> = (0..10).map(|_| Websocket::connect(&url).unwrap()).collect();
    for (n, client) in clients.iter().enumerate() {
        client.put_nowait(n).unwrap();
    }
    for (n, client) in clients.iter().enumerate() {
        assert_eq!(client.get_timeout(DEADLINE).unwrap(), json!(n));
    }
    assert_eq!(handle.connections().len(), 10);
    handle.shutdown(DEADLINE).unwrap();
    serving.join().unwrap();
    for client in clients {
        client.wait_closed_timeout(DEADLINE).unwrap();
        assert!(is_going_away(&client));
    }
    assert!(handle.connections().is_empty());
}

#[test]
fn shutting_down_sends_what_is_queued_and_frees_the_port() {
    let mut server = server();
    let address = server.local_addr().unwrap();
    let options = Options::new();
    let pairs: Vec<_> = (0..20)
        .map(|_| pair_over(&mut server, &options, &options))
        .collect();
    for (_, peer) in &pairs {
        for n in 0..100 {
            peer.put_nowait(n).unwrap();
        }
    }
    // Somebody waits for requests all the while.
    let handle = server.handle();
    let waiting = thread::spawn(move || server.next().is_none());
    handle.shutdown(DEADLINE).unwrap();
    drop(TcpListener::bind(address).unwrap());
    assert!(waiting.join().unwrap());
    for (client, peer) in pairs {
        for n in 0..100 {
            assert_eq!(client.get_timeout(DEADLINE).unwrap(), json!(n));
        }
        client.get_timeout(DEADLINE).unwrap_err();
        client.wait_closed_timeout(DEADLINE).unwrap();
        assert!(is_going_away(&client));
        assert!(peer.is_closed());
    }
    // Again does nothing.
    handle.shutdown(DEADLINE).unwrap();
}

#[test]
fn shutting_down_takes_no_longer_than_allowed_whoever_does_not_answer() {
    let mut server = server();
    let mut silent = Vec::new();
    let peers: Vec<_> = (0..10)
        .map(|_| {
            let mut stream = stream_to(&server);
            stream.write_all(UPGRADE.as_bytes()).unwrap();
            let request = server.next_timeout(DEADLINE).unwrap();
            silent.push(stream);
            Options::new()
                .close_timeout(Duration::from_secs(3600))
                .accept(request)
        })
        .collect();
    for peer in &peers {
        peer.wait_ready_timeout(DEADLINE).unwrap();
    }
    // They are cut, all within the same time, and that is no error of the shutdown.
    within(DEADLINE, move || {
        server.shutdown(Duration::from_millis(100)).unwrap();
    });
    for peer in peers {
        let error = peer.wait_error_timeout(DEADLINE).unwrap().unwrap();
        assert!(matches!(error, Error::CloseTimeout { .. }), "{error}");
    }
}

#[test]
fn what_is_accepted_from_a_server_that_was_shut_down_is_closed() {
    let mut server = server();
    let client = Websocket::connect(server.url()).unwrap();
    let request = server.next_timeout(DEADLINE).unwrap();
    server.shutdown(DEADLINE).unwrap();
    assert!(server.next().is_none());
    let _peer = Websocket::accept(request);
    client.wait_closed_timeout(DEADLINE).unwrap();
    assert!(is_going_away(&client));
}

#[test]
fn a_client_whose_head_is_not_complete_is_told_of_the_shutdown() {
    let mut server = server();
    let mut stream = stream_to(&server);
    stream.write_all(b"GET / HT").unwrap();
    serve_until(&mut server, || true);
    server.shutdown(DEADLINE).unwrap();
    assert!(server.next().is_none());
    let answer = read_all(stream);
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
}

#[test]
fn a_handler_may_shut_its_own_server_down() {
    let (sender, receiver) = mpsc::channel::<ServerHandle>();
    let receiver = parking_lot::Mutex::new(receiver);
    let (url, handle, serving) = serving(move |request| {
        let ws = Websocket::accept(request);
        ws.wait_ready().unwrap();
        let handle = receiver.lock().recv().unwrap();
        handle.shutdown(DEADLINE).unwrap();
        assert!(ws.is_closed());
    });
    let client = Websocket::connect(url).unwrap();
    sender.send(handle).unwrap();
    within(DEADLINE, move || serving.join()).unwrap();
    client.wait_closed_timeout(DEADLINE).unwrap();
    assert!(is_going_away(&client));
}

#[test]
fn a_callback_may_shut_its_own_server_down() {
    let mut server = server();
    let options = Options::new();
    let (client, peer) = pair_over(&mut server, &options, &options);
    let (handle, (done, result)) = (server.handle(), mpsc::channel());
    peer.subscribe_callback(move |_| done.send(handle.shutdown(DEADLINE)).unwrap());
    client.put_nowait("stop").unwrap();
    result.recv_timeout(DEADLINE).unwrap().unwrap();
    client.wait_closed_timeout(DEADLINE).unwrap();
    assert!(is_going_away(&client));
}

#[test]
fn a_sink_may_shut_its_own_server_down() {
    let mut server = server();
    let options = Options::new();
    let (client, peer) = pair_over(&mut server, &options, &options);
    let (done, result) = mpsc::channel();
    peer.subscribe_to(Stop(server.handle(), done));
    client.put_nowait("stop").unwrap();
    result.recv_timeout(DEADLINE).unwrap().unwrap();
    client.wait_closed_timeout(DEADLINE).unwrap();
}

#[test]
fn a_handler_that_does_not_return_is_waited_for_no_longer_than_allowed() {
    let started = Arc::new(AtomicUsize::new(0));
    let (go_on, waits) = mpsc::channel::<()>();
    let waits = parking_lot::Mutex::new(waits);
    let counted = started.clone();
    let (url, handle, serving) = serving(move |request| {
        let _ws = Websocket::accept(request);
        counted.fetch_add(1, Ordering::SeqCst);
        let _ = waits.lock().recv();
    });
    let _client = Websocket::connect(url).unwrap();
    eventually("a handler", || started.load(Ordering::SeqCst) == 1);
    let result = within(DEADLINE, move || handle.shutdown(Duration::from_millis(50)));
    assert!(matches!(result, Err(Error::Timeout)), "{result:?}");
    within(DEADLINE, move || serving.join()).unwrap();
    drop(go_on);
}

#[test]
fn the_iterator_ends_when_the_shutdown_does() {
    let mut server = server();
    let options = Options::new();
    let (client, peer) = pair_over(&mut server, &options, &options);
    // Far more than is sent at once, and the client does not take it yet.
    for _ in 0..16 {
        peer.put(vec![0u8; 1 << 20]).unwrap();
    }
    let taken = client.subscribe_with(Queue::Block(1));
    let handle = server.handle();
    let shutting_down = thread::spawn(move || handle.shutdown(DEADLINE).unwrap());
    let iterating = thread::spawn(move || {
        assert!(server.next().is_none());
        server
    });
    eventually("the shutdown", || peer.sent_close().is_some());
    thread::sleep(Duration::from_millis(50));
    assert!(!iterating.is_finished());
    while taken.get_timeout(DEADLINE).is_ok() {}
    within(DEADLINE, move || iterating.join()).unwrap();
    assert!(peer.is_closed());
    shutting_down.join().unwrap();
}

/// The race between a connection that is being made and a shutdown, many times.
#[test]
fn no_connection_survives_a_shutdown_whenever_it_comes() {
    for round in 0..300 {
        let (url, handle, serving) = serving(|request| {
            let ws = Websocket::accept(request);
            ws.subscribe_to(ws.clone());
        });
        let client = Websocket::connect(url).unwrap();
        if round % 3 == 0 {
            client.wait_ready_timeout(DEADLINE).unwrap();
        }
        for _ in 0..round % 7 {
            thread::yield_now();
        }
        handle.shutdown(DEADLINE).unwrap();
        within(DEADLINE, move || serving.join()).unwrap();
        // Closed, refused, or never let in; but not left.
        let _ = client.wait_error_timeout(DEADLINE).unwrap();
        eventually("that all have gone", || handle.connections().is_empty());
    }
}

#[test]
fn dropping_the_server_leaves_its_connections_alone() {
    let mut server = server();
    let address = server.local_addr().unwrap();
    let options = Options::new();
    let (client, peer) = pair_over(&mut server, &options, &options);
    let handle = server.handle();
    drop(server);
    assert!(TcpStream::connect(address).is_err());
    client.put_nowait(1).unwrap();
    assert_eq!(peer.get_timeout(DEADLINE).unwrap(), json!(1));
    handle.broadcast(2);
    assert_eq!(client.get_timeout(DEADLINE).unwrap(), json!(2));
    handle.shutdown(DEADLINE).unwrap();
    client.wait_closed_timeout(DEADLINE).unwrap();
}

#[test]
fn a_response_of_the_users_own_is_sent_as_it_is() {
    let mut server = server();
    let ask = |request: &str| {
        let mut stream = stream_to(&server);
        stream.write_all(request.as_bytes()).unwrap();
        stream
    };
    let streams = [
        ask("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
        ask("HEAD / HTTP/1.1\r\nHost: x\r\n\r\n"),
        ask("GET /none HTTP/1.1\r\nHost: x\r\n\r\n"),
    ];
    for _ in &streams {
        let request = server.next_timeout(DEADLINE).unwrap();
        let status = if request.path() == "/none" { 204 } else { 200 };
        let response = http::Response::builder()
            .status(status)
            .header("Content-Type", "text/html")
            .header("Transfer-Encoding", "chunked")
            .header("Connection", "keep-alive")
            .header("Content-Length", "5")
            .body("<h1>hello</h1>")
            .unwrap();
        request.respond_with(response).unwrap();
    }
    let [get, head, none] = streams.map(read_all);
    assert!(get.starts_with("HTTP/1.1 200 OK\r\n"), "{get}");
    assert!(get.contains("content-type: text/html\r\n"), "{get}");
    assert!(get.contains("content-length: 14\r\n"), "{get}");
    assert!(get.contains("connection: close\r\n"), "{get}");
    assert!(
        !get.contains("chunked") && !get.contains("keep-alive"),
        "{get}"
    );
    assert!(get.ends_with("\r\n\r\n<h1>hello</h1>"), "{get}");
    assert!(head.contains("content-length: 14\r\n"), "{head}");
    assert!(head.ends_with("\r\n\r\n"), "{head}");
    assert!(none.starts_with("HTTP/1.1 204 "), "{none}");
    assert!(!none.contains("content-length"), "{none}");
    assert!(none.ends_with("\r\n\r\n"), "{none}");
}

#[test]
fn a_client_that_does_not_take_its_page_holds_up_nobody() {
    let mut server = server();
    let page = vec![b'x'; 50_000_000];
    let mut slow = stream_to(&server);
    slow.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    let request = server.next_timeout(DEADLINE).unwrap();
    within(DEADLINE, {
        let page = page.clone();
        move || request.respond(200, page)
    })
    .unwrap();
    let options = Options::new();
    let (client, _peer) = pair_over(&mut server, &options, &options);
    client.close().unwrap();
    // And when it wants it at last, it gets all of it.
    let answer = read_all(slow);
    assert!(answer.as_bytes().ends_with(&page));
}

#[test]
fn a_client_that_sends_a_body_gets_its_answer() {
    let mut server = server();
    let mut stream = stream_to(&server);
    stream
        .write_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 50000\r\n\r\n")
        .unwrap();
    let request = server.next_timeout(DEADLINE).unwrap();
    request.respond(404, "nothing here").unwrap();
    // The body comes late. If the socket were closed by now, this would reset the connection.
    thread::sleep(Duration::from_millis(50));
    stream.write_all(&[b'x'; 50_000]).unwrap();
    let start = Instant::now();
    let answer = read_all(stream);
    assert!(answer.ends_with("nothing here"), "{answer}");
    assert!(start.elapsed() < DEADLINE);
}

/// A handler that waits to be let go, and how many of them run.
fn stuck_handlers() -> (
    impl Fn(rtcbot_websocket::Request) + Send + Sync + 'static,
    Arc<AtomicUsize>,
    mpsc::Sender<()>,
) {
    let (go_on, waits) = mpsc::channel::<()>();
    let waits = parking_lot::Mutex::new(waits);
    let running = Arc::new(AtomicUsize::new(0));
    let count = running.clone();
    let handler = move |request| {
        count.fetch_add(1, Ordering::SeqCst);
        let _ = waits.lock().recv();
        drop(request);
        count.fetch_sub(1, Ordering::SeqCst);
    };
    (handler, running, go_on)
}

#[test]
fn each_shutdown_has_its_own_time() {
    let (handler, running, go_on) = stuck_handlers();
    let (url, handle, serving) = serving(handler);
    let client = Websocket::connect(url).unwrap();
    eventually("a handler", || running.load(Ordering::SeqCst) == 1);
    let patient = {
        let handle = handle.clone();
        thread::spawn(move || handle.shutdown(Duration::from_secs(3600)))
    };
    let hasty = {
        let handle = handle.clone();
        within(DEADLINE, move || handle.shutdown(Duration::from_millis(20)))
    };
    assert!(matches!(hasty, Err(Error::Timeout)), "{hasty:?}");
    assert!(!patient.is_finished());
    go_on.send(()).unwrap();
    within(DEADLINE, move || patient.join()).unwrap().unwrap();
    handle.shutdown(DEADLINE).unwrap();
    serving.join().unwrap();
    assert_eq!(running.load(Ordering::SeqCst), 0);
    drop(client);
}

#[test]
fn handlers_that_shut_down_do_not_wait_for_each_other() {
    const COUNT: usize = 3;
    let all_there = std::sync::Barrier::new(COUNT);
    let handle = Arc::new(std::sync::OnceLock::<ServerHandle>::new());
    let given = handle.clone();
    let (url, its_handle, serving) = serving(move |request| {
        drop(request);
        all_there.wait();
        let handle = given.get().unwrap();
        // Far longer than the test has.
        handle.shutdown(Duration::from_secs(3600)).unwrap();
    });
    handle.set(its_handle).unwrap();
    let clients: Vec<_> = (0..COUNT)
        .map(|_| Websocket::connect(&url).unwrap())
        .collect();
    within(DEADLINE, move || serving.join()).unwrap();
    drop(clients);
}

#[test]
fn a_handler_is_waited_for_from_the_moment_its_request_is_handed_out() {
    for round in 0..1000 {
        let (begun, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (counts_begun, counts_ended) = (begun.clone(), ended.clone());
        let (url, handle, serving) = serving(move |request| {
            counts_begun.fetch_add(1, Ordering::SeqCst);
            thread::yield_now();
            drop(request);
            counts_ended.fetch_add(1, Ordering::SeqCst);
        });
        let client = Websocket::connect(url).unwrap();
        let start = Instant::now();
        while start.elapsed() < Duration::from_micros(round % 300) {
            std::hint::spin_loop();
        }
        handle.shutdown(DEADLINE).unwrap();
        let at_shutdown = ended.load(Ordering::SeqCst);
        serving.join().unwrap();
        // Whatever begins has ended by then, and nothing begins any more.
        assert_eq!(at_shutdown, ended.load(Ordering::SeqCst));
        assert_eq!(begun.load(Ordering::SeqCst), at_shutdown);
        thread::spawn(move || drop(client));
    }
}

#[test]
fn who_is_refused_keeps_its_place_as_long_as_it_is_answered() {
    let mut server = server().max_connections(1);
    let request = UPGRADE.replace("Host: ", "Content-Length: 5\r\nHost: ");
    let mut refused = stream_to(&server);
    refused.write_all(request.as_bytes()).unwrap();
    let ws = Websocket::accept(server.next_timeout(DEADLINE).unwrap());
    ws.wait_error_timeout(DEADLINE).unwrap().unwrap();
    // Its body may yet come.
    for _ in 0..5 {
        thread::sleep(Duration::from_millis(10));
        let mut next = stream_to(&server);
        next.write_all(UPGRADE.as_bytes()).unwrap();
        let answer = thread::spawn(move || read_all(next));
        serve_until(&mut server, || answer.is_finished());
        assert!(answer.join().unwrap().starts_with("HTTP/1.1 503 "));
    }
    drop(refused);
    eventually("a place", || {
        let mut stream = stream_to(&server);
        stream.write_all(UPGRADE.as_bytes()).unwrap();
        server.next_timeout(Duration::from_millis(50)).is_some()
    });
}

#[test]
fn who_is_refused_is_not_waited_for_by_a_shutdown() {
    let mut server = server();
    let mut stream = stream_to(&server);
    let request = UPGRADE.replace("Host: ", "Content-Length: 5\r\nHost: ");
    stream.write_all(request.as_bytes()).unwrap();
    let ws = Websocket::accept(server.next_timeout(DEADLINE).unwrap());
    ws.wait_error_timeout(DEADLINE).unwrap().unwrap();
    // Its answer goes on for a while, for its body may yet come.
    eventually("its thread", || rig::threads_named("ws-respond") > 0);
    server.shutdown(DEADLINE).unwrap();
    assert!(rig::threads_named("ws-respond") > 0, "it was over by then");
}

#[test]
fn the_iterator_ends_with_the_last_of_several_shutdowns() {
    let mut server = server();
    // Its own thread is held up until it may go on.
    let (go_on, waits) = mpsc::channel::<()>();
    let waits = parking_lot::Mutex::new(waits);
    let mut options = Options::new();
    options.allow_origin_if(move |_| waits.lock().recv().is_ok());
    let _client = Options::new()
        .header("Origin", "https://elsewhere.example")
        .connect(rig::url(&server))
        .unwrap();
    let peer = options.accept(server.next_timeout(DEADLINE).unwrap());
    let handle = server.handle();
    let short = thread::spawn(move || handle.shutdown(Duration::from_millis(200)));
    eventually("the shutdown", || {
        peer.put_nowait("too late")
            .is_err_and(|error| error.is_closed())
    });
    let handle = server.handle();
    let iterating = thread::spawn(move || server.next().is_none());
    // It waits for the first by the time that there is a second.
    thread::sleep(Duration::from_millis(50));
    let long = thread::spawn(move || handle.shutdown(Duration::from_secs(3600)));
    let short = within(DEADLINE, move || short.join()).unwrap();
    assert!(matches!(short, Err(Error::Timeout)), "{short:?}");
    // The connection has been cut, but its own thread is not free.
    assert!(!long.is_finished() && !iterating.is_finished());
    go_on.send(()).unwrap();
    within(DEADLINE, move || long.join()).unwrap().unwrap();
    assert!(within(DEADLINE, move || iterating.join()).unwrap());
    assert!(peer.is_closed());
}

#[test]
fn handlers_that_have_shut_down_may_go_on_working() {
    const COUNT: usize = 2;
    let all_there = std::sync::Barrier::new(COUNT);
    let done = Arc::new(AtomicUsize::new(0));
    let handle = Arc::new(std::sync::OnceLock::<ServerHandle>::new());
    let (given, counted) = (handle.clone(), done.clone());
    let (url, its_handle, serving) = serving(move |request| {
        drop(request);
        all_there.wait();
        let handle = given.get().unwrap();
        handle.shutdown(Duration::from_secs(3600)).unwrap();
        counted.fetch_add(1, Ordering::SeqCst);
        // Until the other is done as well.
        eventually("the other's shutdown", || {
            counted.load(Ordering::SeqCst) == COUNT
        });
    });
    handle.set(its_handle).unwrap();
    let clients: Vec<_> = (0..COUNT)
        .map(|_| Websocket::connect(&url).unwrap())
        .collect();
    eventually("both", || done.load(Ordering::SeqCst) == COUNT);
    within(DEADLINE, move || serving.join()).unwrap();
    drop(clients);
}

/// Tells what becomes of a shutdown that a connection's own thread asks for.
struct Stop(ServerHandle, mpsc::Sender<Result<(), Error>>);

impl rtcbot_websocket::Sink<rtcbot_websocket::Message> for Stop {
    fn put_nowait(
        &self,
        _: rtcbot_websocket::Message,
    ) -> Result<(), rtcbot_websocket::PutError<rtcbot_websocket::Message>> {
        let _ = self.1.send(self.0.shutdown(Duration::from_secs(3600)));
        Ok(())
    }
}

#[test]
fn sinks_that_shut_down_do_not_wait_for_each_other() {
    let mut server = server();
    let options = Options::new();
    let (done, result) = mpsc::channel();
    let pairs: Vec<_> = (0..3)
        .map(|_| {
            let (client, peer) = pair_over(&mut server, &options, &options);
            peer.subscribe_to(Stop(server.handle(), done.clone()));
            (client, peer)
        })
        .collect();
    for (client, _) in &pairs {
        let _ = client.put_nowait("stop");
    }
    result.recv_timeout(DEADLINE).unwrap().unwrap();
    for (client, _) in &pairs {
        client.wait_closed_timeout(DEADLINE).unwrap();
    }
}

#[test]
fn functions_of_options_that_shut_down_do_not_wait_for_each_other() {
    let mut server = server();
    let all_there = Arc::new(std::sync::Barrier::new(2));
    let (done, result) = mpsc::channel();
    let pairs = [(); 2].map(|()| {
        let (handle, done, all_there) = (server.handle(), done.clone(), all_there.clone());
        let mut options = Options::new();
        options.allow_origin_if(move |_| {
            all_there.wait();
            let _ = done.send(handle.shutdown(Duration::from_secs(3600)));
            false
        });
        let client = Options::new()
            .header("Origin", "https://elsewhere.example")
            .connect(rig::url(&server))
            .unwrap();
        (
            client,
            options.accept(server.next_timeout(DEADLINE).unwrap()),
        )
    });
    for _ in &pairs {
        result.recv_timeout(DEADLINE).unwrap().unwrap();
    }
    for (_, peer) in &pairs {
        peer.wait_error_timeout(DEADLINE).unwrap();
    }
}
