//! Promised times, with a peer that is silent at that stage, or sends just enough not to be silent.
//! (`link_down.rs` has the links that go down.)

mod testkit;

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

#[cfg(feature = "native-tls")]
use rtcbot_websocket::native_tls::TlsAcceptor;
use rtcbot_websocket::transport::WriteHalf;
use rtcbot_websocket::{Error, Options, PutError, Queue, Server, Transport};
use testkit::wire::over_each;
use testkit::{DEADLINE, UPGRADE, eventually, masked_frame, own_address, pair, server_and_bytes};

const MS: Duration = Duration::from_millis(1);

/// The promised time where the peer has to reach the stage before it falls silent.
const TIME: Duration = Duration::from_millis(800);

/// And elsewhere.
const SHORT: Duration = Duration::from_millis(100);

/// How late a busy machine may be. A fault takes for ever, or much longer.
const ALLOWANCE: Duration = Duration::from_secs(5);

/// Runs it, and checks that it ends in the promised time.
#[track_caller]
fn in_time<R>(promised: Duration, f: impl FnOnce() -> R) -> R {
    let begun = Instant::now();
    let result = f();
    let after = begun.elapsed();
    assert!(
        after < promised + ALLOWANCE,
        "{after:?} instead of {promised:?}"
    );
    result
}

/// Connects with this timeout, and checks that it ends in time, at this stage.
#[track_caller]
fn times_out_at(stage: &str, options: Options, url: &str) {
    assert_eq!(times_out(options, url), stage);
}

/// As above; returns the stage.
#[track_caller]
fn times_out(options: Options, url: &str) -> &'static str {
    let options = options.connect_timeout(TIME);
    let result = in_time(TIME, || {
        let ws = options.connect(url).unwrap();
        ws.wait_ready_timeout(DEADLINE)
    });
    match result {
        Err(Error::ConnectTimeout { stage, after, .. }) => {
            assert_eq!(after, TIME);
            stage
        }
        other => panic!("{other:?}"),
    }
}

/// Sends a byte at a time until the other side has had enough; the same bytes again and again.
fn trickle(stream: &mut dyn Write, bytes: &[u8]) {
    for byte in bytes.iter().cycle() {
        if stream.write_all(&[*byte]).is_err() || stream.flush().is_err() {
            return;
        }
        thread::sleep(5 * MS);
    }
}

#[test]
fn a_response_that_trickles_does_not_extend_the_connect_timeout() {
    over_each(|wire| {
        let (listener, url) = wire.listen();
        thread::scope(|scope| {
            scope.spawn(|| {
                let (mut stream, _) = wire.accept_bytes(&listener);
                stream.write_all(b"HTTP/1.1 101 Switching").unwrap();
                trickle(&mut stream, b" ");
            });
            times_out_at("the server's handshake response", wire.options(), &url);
        });
    });
}

#[cfg(feature = "native-tls")]
#[test]
fn a_tls_handshake_that_trickles_does_not_extend_the_connect_timeout() {
    let listener = TcpListener::bind((own_address(), 0)).unwrap();
    let url = format!("wss://{}/", listener.local_addr().unwrap());
    thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            // The head of a record with a ServerHello of 16 000 bytes.
            stream
                .write_all(b"\x16\x03\x03\x3e\x84\x02\x00\x3e\x80")
                .unwrap();
            trickle(&mut stream, b"\x03");
        });
        times_out_at("the TLS handshake", Options::new(), &url);
    });
}

#[test]
fn a_request_that_is_read_slowly_or_not_at_all_does_not_extend_the_connect_timeout() {
    over_each(|wire| {
        for takes in [0, 10_000] {
            let (listener, url) = wire.listen();
            // More than the sockets take.
            let options = wire.options().header("X-Long", "x".repeat(16 << 20));
            let over = AtomicBool::new(false);
            thread::scope(|scope| {
                scope.spawn(|| {
                    let (mut stream, _) = wire.accept_bytes(&listener);
                    let mut taken = vec![0; takes];
                    while !over.load(Ordering::Relaxed) && stream.read_exact(&mut taken).is_ok() {
                        thread::sleep(5 * MS);
                    }
                });
                let stage = "the server to read the handshake request";
                times_out_at(stage, options, &url);
                over.store(true, Ordering::Relaxed);
            });
        }
    });
}

#[test]
fn redirects_share_one_connect_timeout() {
    let listener = TcpListener::bind((own_address(), 0)).unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    let redirect = format!(
        "HTTP/1.1 302 Found\r\nLocation: {url}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            testkit::read_head(&mut stream);
            // Less than the whole time, and more than a part of it.
            thread::sleep(TIME / 3);
            let _ = stream.write_all(redirect.as_bytes());
        }
    });
    let options = Options::new().max_redirects(1000);
    times_out(options, &url);
}

#[test]
fn a_missing_refusal_body_is_awaited_no_longer_than_the_connect_timeout() {
    let listener = TcpListener::bind((own_address(), 0)).unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        testkit::read_head(&mut stream);
        stream
            .write_all(b"HTTP/1.1 403 No\r\nContent-Length: 60000\r\n\r\n")
            .unwrap();
        trickle(&mut stream, b"x");
    });
    let result = in_time(TIME, || {
        let ws = Options::new().connect_timeout(TIME).connect(url).unwrap();
        ws.wait_ready_timeout(DEADLINE)
    });
    assert!(matches!(result, Err(Error::Refused { .. })), "{result:?}");
}

#[test]
fn a_unix_server_that_accepts_no_client_is_awaited_no_longer_than_the_connect_timeout() {
    let path = std::env::temp_dir().join(format!("accepts-nobody-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let _first = UnixStream::connect(&path).unwrap();
    let url = format!("ws+unix:{}", path.display());
    times_out_at("the Unix socket's server", Options::new(), &url);
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn a_locked_folder_is_awaited_for_one_second_at_most() {
    let folder = std::env::temp_dir().join(format!("locked-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let lock = std::fs::File::open(&folder).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let second = Duration::from_secs(1);
    let server = in_time(second, || Server::bind_unix(folder.join("socket")));
    drop(server.unwrap());
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_client_that_does_not_read_the_response_is_awaited_no_longer_than_the_connect_timeout() {
    let mut listener = Server::bind((own_address(), 0)).unwrap();
    let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    stream.write_all(UPGRADE.as_bytes()).unwrap();
    let request = listener.next_timeout(DEADLINE).unwrap();
    let options = Options::new()
        .connect_timeout(TIME)
        .header("X-Long", "x".repeat(16 << 20));
    let error = in_time(TIME, || {
        options.accept(request).wait_closed_timeout(DEADLINE)
    });
    assert!(matches!(error, Err(Error::Lost(_))), "{error:?}");
}

#[test]
fn a_peer_that_sends_a_trickle_does_not_extend_the_close_timeout() {
    over_each(|wire| {
        let ping = [0x89, 1, b'x'];
        let text = [0x81, 1, b'1'];
        for bytes in [ping, text] {
            let (client, mut raw) =
                wire.client_and_raw(|options| options.close_timeout(SHORT).linger(SHORT));
            let dropped =
                wire.client_and_raw(|options| options.close_timeout(DEADLINE).linger(SHORT));
            let mut dropped_raw = dropped.1;
            thread::scope(|scope| {
                scope.spawn(|| trickle(raw.get_mut(), &bytes));
                scope.spawn(|| trickle(dropped_raw.get_mut(), &bytes));
                let result = in_time(SHORT, || client.close());
                assert!(
                    matches!(result, Err(Error::CloseTimeout { .. })),
                    "{result:?}"
                );
                in_time(SHORT, || drop(dropped.0));
            });
        }
    });
}

#[test]
fn a_request_that_trickles_is_answered_408_after_the_handshake_timeout() {
    let mut server = Server::bind((own_address(), 0))
        .unwrap()
        .handshake_timeout(SHORT);
    let mut slow = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    let mut answer = slow.try_clone().unwrap();
    slow.write_all(b"GET / HTTP/1.1\r\nX-Long: ").unwrap();
    thread::spawn(move || trickle(&mut slow, b"x"));
    let serving = thread::spawn(move || server.next_timeout(DEADLINE).is_ok());
    let mut head = [0; 12];
    in_time(SHORT, || answer.read_exact(&mut head).unwrap());
    assert_eq!(&head, b"HTTP/1.1 408");
    drop(answer);
    assert!(!serving.join().unwrap());
}

#[cfg(feature = "native-tls")]
#[test]
fn a_client_whose_tls_handshake_trickles_is_disconnected_after_the_handshake_timeout() {
    let mut server = testkit::tls::pki().server().handshake_timeout(SHORT);
    let mut slow = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    slow.write_all(b"\x16\x03\x01\x3e\x84\x01\x00\x3e\x80")
        .unwrap();
    let serving = thread::spawn(move || server.next_timeout(2 * ALLOWANCE).is_ok());
    in_time(SHORT, || trickle(&mut slow, b"\x03"));
    assert!(!serving.join().unwrap());
}

#[test]
fn next_timeout_ends_in_time_however_many_invalid_requests_come() {
    let mut server = Server::bind((own_address(), 0)).unwrap();
    let address = server.local_addr().unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let pestering: Vec<_> = (0..4)
        .map(|_| {
            let over = over.clone();
            thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    if let Ok(mut stream) = TcpStream::connect(address) {
                        let _ = stream.write_all(b"no HTTP\r\n\r\n");
                    }
                }
            })
        })
        .collect();
    for _ in 0..5 {
        assert!(in_time(SHORT, || server.next_timeout(SHORT)).is_err());
    }
    over.store(true, Ordering::Relaxed);
    for pestering in pestering {
        pestering.join().unwrap();
    }
}

#[test]
fn every_wait_with_a_timeout_ends_in_time_whatever_the_peer_sends() {
    // One that is connecting, to a silent server; and one that is ready, with a peer that sends
    // pings.
    let listener = TcpListener::bind((own_address(), 0)).unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    let connecting = Options::new()
        .connect_timeout(DEADLINE)
        .connect(url)
        .unwrap();
    let (ready, mut stream) = server_and_bytes(&Options::new());
    thread::spawn(move || trickle(&mut stream, &masked_frame(0x89, b"x")));
    let is_timeout = |error: Option<Error>| matches!(error, Some(Error::Timeout));
    for ws in [&connecting, &ready] {
        assert!(is_timeout(in_time(SHORT, || ws.get_timeout(SHORT)).err()));
        let subscription = ws.subscribe_with(Queue::Latest);
        let got = in_time(SHORT, || subscription.get_timeout(SHORT));
        assert!(is_timeout(got.err()));
        let waited = in_time(SHORT, || ws.wait_closed_timeout(SHORT));
        assert!(is_timeout(waited.err()));
    }
    let waited = in_time(SHORT, || connecting.wait_ready_timeout(SHORT));
    assert!(is_timeout(waited.err()));
}

#[test]
fn get_timeout_ends_in_time_while_others_take_the_messages() {
    for queue in [Queue::default(), Queue::Latest, Queue::DropOldest(2)] {
        let (client, server) = pair();
        let subscription = server.subscribe_with(queue);
        let over = Arc::new(AtomicBool::new(false));
        let taking: Vec<_> = (0..3)
            .map(|_| {
                let (subscription, over) = (subscription.clone(), over.clone());
                thread::spawn(move || {
                    while !over.load(Ordering::Relaxed) {
                        let _ = subscription.get_timeout(MS);
                    }
                })
            })
            .collect();
        let flooding = thread::spawn({
            let client = client.clone();
            move || while client.put("x").is_ok() {}
        });
        for _ in 0..20 {
            let _ = in_time(10 * MS, || subscription.get_timeout(10 * MS));
        }
        over.store(true, Ordering::Relaxed);
        drop(subscription);
        client.close().unwrap();
        flooding.join().unwrap();
        for taking in taking {
            taking.join().unwrap();
        }
    }
}

#[test]
fn put_timeout_ends_in_time_while_others_take_the_room() {
    over_each(|wire| {
        let (client, mut raw) =
            wire.client_and_raw(|options| options.send_queue(10_000).close_timeout(10 * MS));
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut taken = [0; 10_000];
                while raw.get_mut().read_exact(&mut taken).is_ok() {
                    thread::sleep(5 * MS);
                }
            });
            for _ in 0..3 {
                scope.spawn(|| while client.put(vec![0; 5_000]).is_ok() {});
            }
            let (mut full, mut tries) = (0, 0);
            while full < 3 && tries < 1000 {
                let put = in_time(20 * MS, || client.put_timeout(vec![0; 5_000], 20 * MS));
                full += usize::from(matches!(put, Err(PutError::Full(_))));
                tries += 1;
            }
            assert!(full > 0, "there was always room");
            // Ends the other threads.
            let _ = client.close();
        });
    });
}

#[test]
#[cfg(target_os = "linux")]
fn a_client_that_does_not_read_its_response_is_disconnected_after_ten_seconds() {
    const PAGE: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    let respond = |mut server: Server| {
        let request = server.next_timeout(DEADLINE).unwrap();
        request.respond(200, vec![b'x'; 32 << 20]).unwrap();
    };
    let server = Server::bind((own_address(), 0)).unwrap();
    let mut plain = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    plain.write_all(PAGE).unwrap();
    respond(server);
    #[cfg(feature = "native-tls")]
    let _encrypted = {
        let pki = testkit::tls::pki();
        let server = pki.server();
        let address = server.local_addr().unwrap();
        let responding = thread::spawn(move || respond(server));
        let stream = TcpStream::connect(address).unwrap();
        let mut stream = pki.raw_connector().connect("localhost", stream).unwrap();
        stream.write_all(PAGE).unwrap();
        responding.join().unwrap();
        stream
    };
    assert!(testkit::threads_named("ws-respond") > 0);
    in_time(Duration::from_secs(10), || {
        eventually("they are given up", || {
            testkit::threads_named("ws-respond") == 0
        });
    });
}

/// Writes until the peer has taken nothing for this time. Returns how long that took.
fn write_until_given_up(half: &mut dyn WriteHalf, time: Duration) -> Duration {
    half.set_timeout(Some(time)).unwrap();
    let bytes = [0; 10_000];
    let begun = Instant::now();
    while begun.elapsed() < DEADLINE {
        match half.write(&bytes) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return begun.elapsed(),
            Err(error) => panic!("{error}"),
        }
    }
    panic!("it is never given up");
}

/// Takes this much at intervals, and then nothing more.
fn take(stream: &mut impl Read, bytes: usize, times: u32, pause: Duration) {
    let mut taken = vec![0; bytes];
    for _ in 0..times {
        thread::sleep(pause);
        stream.read_exact(&mut taken).unwrap();
    }
}

/// The second end's system takes no more than this, and so reports immediately when some of it is
/// read.
fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((own_address(), 0)).unwrap();
    rustix::net::sockopt::set_socket_recv_buffer_size(&listener, 64 << 10).unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (near, listener.accept().unwrap().0)
}

/// A transport whose other end takes this much several times after it has been filled, and then
/// nothing more. Returns how long it is written to after that; `None` when it is given up before.
fn given_up_after(
    transport: impl Transport,
    mut peer: impl Read + Send + 'static,
    bytes: usize,
    times: u32,
    pause: Duration,
    time: Duration,
) -> Option<Duration> {
    let mut halves = Box::new(transport).split().unwrap();
    halves.write.set_timeout(Some(300 * MS)).unwrap();
    while halves.write.write(&[0; 10_000]).is_ok() {}
    let taking = thread::spawn(move || {
        take(&mut peer, bytes, times, pause);
        (Instant::now(), peer)
    });
    write_until_given_up(&mut *halves.write, time);
    let over = Instant::now();
    let (last, _peer) = taking.join().unwrap();
    over.checked_duration_since(last)
}

// libwebsockets 1223. poll(2) reports room only when much of the buffer is free. The little that is
// taken must neither be counted late nor be missed.
#[test]
fn a_peer_that_stops_reading_is_noticed_one_timeout_after_its_last_read() {
    const TIME: Duration = Duration::from_secs(1);
    // A busy machine may be late, but not every time.
    let in_time = |found_after: &dyn Fn() -> Option<Duration>| {
        let mut times = Vec::new();
        while times.len() < 3 {
            match found_after() {
                Some(after) if (TIME / 2..TIME * 3 / 2).contains(&after) => return,
                other => times.push(other),
            }
        }
        panic!("{times:?}");
    };
    thread::scope(|scope| {
        // Taken soon after the wait began, or a little at a time for longer than the timeout.
        for (times, pause) in [(1, 50 * MS), (4, TIME * 2 / 3)] {
            scope.spawn(move || {
                in_time(&|| {
                    let (near, far) = tcp_pair();
                    given_up_after(near, far, 200_000, times, pause, TIME)
                });
            });
            scope.spawn(move || {
                in_time(&|| {
                    let (near, far) = UnixStream::pair().unwrap();
                    given_up_after(near, far, 30_000, times, pause, TIME)
                });
            });
            #[cfg(feature = "native-tls")]
            scope.spawn(move || {
                in_time(&|| {
                    let pki = testkit::tls::pki();
                    let (near, far) = tcp_pair();
                    let raw = far.try_clone().unwrap();
                    let acceptor = TlsAcceptor::new(pki.identity.clone()).unwrap();
                    let accepting = thread::spawn(move || acceptor.accept(far).unwrap());
                    let near = pki.raw_connector().connect("localhost", near).unwrap();
                    let _far = accepting.join().unwrap();
                    // Below the session, it only matters that the bytes are taken.
                    given_up_after(near, raw, 200_000, times, pause, TIME)
                });
            });
        }
    });
}
