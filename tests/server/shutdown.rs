//! Handlers, and the shutdown of a server.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{bounded, unbounded};
use rtcbot_websocket::{Error, Options, Queue, ServerHandle, Websocket, json};

use crate::testkit::{
    DEADLINE, UPGRADE, eventually, eventually_asleep, failure, pair_over, read_close_code,
    read_head, within,
};
use crate::{is_going_away, read_all, serve_until, server, serving, stream_to};

#[test]
fn serve_runs_a_handler_for_each_request_and_a_panic_ends_no_other() {
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
    bad.wait_closed_timeout(DEADLINE).unwrap_err();
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
fn next_timeout_returns_ended_only_when_the_shutdown_is_over() {
    let mut server = server();
    let mut stream = stream_to(&server);
    stream.write_all(UPGRADE.as_bytes()).unwrap();
    let _peer = Websocket::accept(server.next_timeout(DEADLINE).unwrap());
    read_head(&mut stream);
    let handle = server.handle();
    let closing = thread::spawn(move || handle.shutdown(20 * DEADLINE));
    // The shutdown has begun. It waits for the client's Close frame.
    assert_eq!(read_close_code(&mut stream), 1001);
    let request = server.next_timeout(Duration::from_millis(1));
    assert!(matches!(request, Err(Error::Timeout)), "{request:?}");
    drop(stream);
    let request = server.next_timeout(DEADLINE);
    assert!(matches!(request, Err(Error::Ended)), "{request:?}");
    closing.join().unwrap().unwrap();
}

#[test]
fn shutdown_sends_the_queued_messages_and_frees_the_port() {
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
    // A thread waits for requests all the time.
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
    // A second shutdown has no effect.
    handle.shutdown(DEADLINE).unwrap();
}

#[test]
fn shutdown_ends_within_its_timeout_when_a_client_does_not_answer() {
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
    // They are cut, all within the same time, and that is not an error of the shutdown.
    within(DEADLINE, move || {
        server
            .handle()
            .shutdown(Duration::from_millis(100))
            .unwrap();
    });
    for peer in peers {
        let error = peer.wait_closed_timeout(DEADLINE).unwrap_err();
        assert!(matches!(error, Error::CloseTimeout { .. }), "{error}");
    }
}

#[test]
fn a_connection_accepted_during_a_shutdown_ends_with_it() {
    let mut server = server();
    let patient = Options::new().close_timeout(Duration::from_secs(3600));
    let mut accept = || {
        let mut stream = stream_to(&server);
        stream.write_all(UPGRADE.as_bytes()).unwrap();
        (stream, server.next_timeout(DEADLINE).unwrap())
    };
    // Neither client answers the Close frame.
    let (mut first, request) = accept();
    let _first = patient.accept(request);
    let (_second, request) = accept();
    let handle = server.handle();
    let shutting_down = thread::spawn(move || handle.shutdown(Duration::from_millis(200)));
    assert!(read_head(&mut first).starts_with("HTTP/1.1 101 "));
    // The shutdown has begun.
    first.read_exact(&mut [0]).unwrap();
    let second = patient.accept(request);
    within(DEADLINE, move || shutting_down.join().unwrap()).unwrap();
    assert!(second.is_closed());
}

#[test]
fn a_shutdown_without_time_stops_a_server_that_has_nothing_to_end() {
    for _ in 0..200 {
        let (_, handle, serving) = serving(|_| {});
        // Until the server waits for requests. If it does not yet, the test cannot fail.
        thread::sleep(Duration::from_millis(1));
        handle.shutdown(Duration::ZERO).unwrap();
        serving.join().unwrap();
    }
}

#[test]
fn a_shutdown_waits_for_a_connection_that_a_handler_accepts_meanwhile() {
    let (begin, begun) = unbounded();
    let (go, gate) = bounded::<()>(0);
    let (keep, kept) = unbounded();
    let (url, handle, serving) = serving(move |request| {
        begin.send(()).unwrap();
        gate.recv().unwrap_err();
        keep.send(Websocket::accept(request)).unwrap();
    });
    let client = Websocket::connect(&url).unwrap();
    begun.recv_timeout(DEADLINE).unwrap();
    let name = "for a handler";
    let shutdown = move || handle.shutdown(DEADLINE);
    let thread = thread::Builder::new().name(name.into());
    let shutting_down = thread.spawn(shutdown).unwrap();
    // It has no connection to close, and waits for the handler.
    eventually_asleep(name, 1);
    drop(go);
    within(DEADLINE, move || shutting_down.join().unwrap()).unwrap();
    assert!(kept.recv_timeout(DEADLINE).unwrap().is_closed());
    serving.join().unwrap();
    client.wait_closed_timeout(DEADLINE).unwrap();
    assert!(is_going_away(&client));
}

#[test]
fn a_request_accepted_after_a_shutdown_has_its_own_time_to_close() {
    for timeout in [Duration::ZERO, Duration::from_secs(3600)] {
        let mut server = server();
        let mut stream = stream_to(&server);
        stream.write_all(UPGRADE.as_bytes()).unwrap();
        let request = server.next_timeout(DEADLINE).unwrap();
        server.handle().shutdown(timeout).unwrap();
        let close_timeout = Duration::from_millis(100);
        let ws = Options::new().close_timeout(close_timeout).accept(request);
        assert!(read_head(&mut stream).starts_with("HTTP/1.1 101 "));
        assert_eq!(read_close_code(&mut stream), 1001);
        // The client does not answer.
        ws.wait_closed_timeout(DEADLINE).unwrap_err();
    }
}

#[test]
fn a_request_accepted_after_the_shutdown_is_closed() {
    let mut server = server();
    let client = Websocket::connect(server.url()).unwrap();
    let request = server.next_timeout(DEADLINE).unwrap();
    server.handle().shutdown(DEADLINE).unwrap();
    assert!(server.next().is_none());
    let _peer = Websocket::accept(request);
    client.wait_closed_timeout(DEADLINE).unwrap();
    assert!(is_going_away(&client));
}

#[test]
fn a_client_with_an_incomplete_head_is_answered_at_shutdown() {
    let mut server = server();
    let mut stream = stream_to(&server);
    stream.write_all(b"GET / HT").unwrap();
    serve_until(&mut server, || true);
    server.handle().shutdown(DEADLINE).unwrap();
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
fn shutdown_waits_for_a_handler_no_longer_than_its_timeout() {
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
    let last = peer.clone();
    let iterating = thread::spawn(move || {
        assert!(server.next().is_none());
        // The client delays the end of its connection.
        assert!(last.is_closed());
        server
    });
    eventually("the shutdown", || !peer.is_ready());
    while taken.get_timeout(DEADLINE).is_ok() {}
    drop(within(DEADLINE, move || iterating.join()).unwrap());
    assert!(peer.is_closed());
    shutting_down.join().unwrap();
}

/// A connection that is being made races with a shutdown, many times.
#[test]
fn no_connection_survives_a_shutdown_at_any_moment() {
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
        // Closed, refused, or never accepted, but not left open.
        let _ = failure(&client);
        eventually("that all have gone", || handle.connections().is_empty());
    }
}

#[test]
fn connections_stay_open_when_the_server_is_dropped() {
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

/// A handler that waits until it is released, and how many of them run.
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
fn a_handler_counts_as_running_once_its_request_is_handed_out() {
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
        // Every handler that began has ended by then, and none begins afterwards.
        assert_eq!(at_shutdown, ended.load(Ordering::SeqCst));
        assert_eq!(begun.load(Ordering::SeqCst), at_shutdown);
        thread::spawn(move || drop(client));
    }
}

#[test]
fn shutdown_does_not_wait_for_a_refused_client() {
    let mut server = server();
    let mut stream = stream_to(&server);
    let request = UPGRADE.replace("Host: ", "Content-Length: 5\r\nHost: ");
    stream.write_all(request.as_bytes()).unwrap();
    let ws = Websocket::accept(server.next_timeout(DEADLINE).unwrap());
    ws.wait_closed_timeout(DEADLINE).unwrap_err();
    // Its refusal continues for a while, since its body may still come.
    eventually("its thread", || {
        crate::testkit::threads_named("ws-respond") > 0
    });
    server.handle().shutdown(DEADLINE).unwrap();
    assert!(
        crate::testkit::threads_named("ws-respond") > 0,
        "it was over by then"
    );
}

#[test]
fn the_iterator_ends_with_the_last_of_several_shutdowns() {
    let mut server = server();
    // Blocks the connection's own thread until it is released.
    let (go_on, waits) = mpsc::channel::<()>();
    let waits = parking_lot::Mutex::new(waits);
    let options = Options::new().allow_origin_if(move |_| waits.lock().recv().is_ok());
    let _client = Options::new()
        .header("Origin", "https://elsewhere.example")
        .connect(crate::testkit::url(&server))
        .unwrap();
    let peer = options.accept(server.next_timeout(DEADLINE).unwrap());
    let handle = server.handle();
    let short = thread::spawn(move || handle.shutdown(Duration::from_millis(200)));
    eventually("the shutdown", || {
        peer.put_nowait("too late")
            .is_err_and(|error| !error.is_full())
    });
    let handle = server.handle();
    let iterating = thread::Builder::new().name("iterating".to_owned());
    let iterating = iterating.spawn(move || server.next().is_none()).unwrap();
    // It waits for the first shutdown before the second one begins.
    eventually_asleep("iterating", 1);
    let long = thread::spawn(move || handle.shutdown(Duration::from_secs(3600)));
    let short = within(DEADLINE, move || short.join()).unwrap();
    assert!(matches!(short, Err(Error::Timeout)), "{short:?}");
    // The connection has been cut, but its own thread is still blocked.
    assert!(!long.is_finished() && !iterating.is_finished());
    go_on.send(()).unwrap();
    within(DEADLINE, move || long.join()).unwrap().unwrap();
    assert!(within(DEADLINE, move || iterating.join()).unwrap());
    assert!(peer.is_closed());
}

#[test]
fn handlers_that_have_shut_down_may_continue() {
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
        // Until the other has finished as well.
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

/// Sends the result of a shutdown that is called on a connection's own thread.
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
        let options = Options::new().allow_origin_if(move |_| {
            all_there.wait();
            let _ = done.send(handle.shutdown(Duration::from_secs(3600)));
            false
        });
        let client = Options::new()
            .header("Origin", "https://elsewhere.example")
            .connect(crate::testkit::url(&server))
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
        failure(peer);
    }
}
