//! The transports of a connection: Unix sockets, connected streams, proxies.

mod testkit;

use std::io::{self, BufWriter, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use rtcbot_websocket::transport::{Halves, ReadHalf, ShutdownHandle, WriteHalf};
use rtcbot_websocket::{
    Error, Message, Options, Queue, Request, Server, Transport, Websocket, http, json,
};
use testkit::{DEADLINE, UPGRADE, end_reason, eventually, failure, pair_over, read_head, within};

/// A path in a directory of this test, short enough for a socket.
fn socket_path() -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("rtcbot-{}-{number}", std::process::id());
    let folder = std::env::temp_dir().join(name);
    // An earlier process with the same number may have left one.
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder.join("a socket: x")
}

fn goes_both_ways(client: &Websocket, server: &Websocket) {
    client.put_nowait(json!({"to": "server"})).unwrap();
    let message = server.get_timeout(DEADLINE).unwrap();
    assert_eq!(message, json!({"to": "server"}));
    server.put_nowait(vec![1u8; 200_000]).unwrap();
    assert_eq!(client.get_timeout(DEADLINE).unwrap().len(), 200_000);
}

#[test]
fn a_unix_socket_is_served_and_connected_to() {
    let path = socket_path();
    let mut server = Server::bind_unix(&path).unwrap();
    assert_eq!(server.local_addr(), None);
    let written = path
        .to_str()
        .unwrap()
        .replace(':', "%3A")
        .replace(' ', "%20");
    assert_eq!(server.url(), format!("ws+unix:{written}"));
    let url = format!("{}:/chat?a=b", server.url());
    let client = Websocket::connect(&url).unwrap();
    let request = server.next_timeout(DEADLINE).unwrap();
    assert_eq!(request.path(), "/chat");
    assert_eq!(request.query(), Some("a=b"));
    assert_eq!(request.header("host"), Some("localhost"));
    assert_eq!(request.peer_addr(), None);
    let peer = Websocket::accept(request);
    goes_both_ways(&client, &peer);
    // The query may be a secret.
    assert_eq!(client.name(), url.replace("?a=b", "?..."));
    assert_eq!(client.peer_addr(), None);
    client.close().unwrap();
    peer.wait_closed_timeout(DEADLINE).unwrap();
}

#[test]
fn a_server_removes_its_unix_socket_file_and_replaces_a_stale_one() {
    let path = socket_path();
    let server = Server::bind_unix(&path).unwrap();
    let taken = Server::bind_unix(&path).unwrap_err();
    assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
    assert!(
        taken.to_string().contains(path.to_str().unwrap()),
        "{taken}"
    );
    drop(server);
    assert!(!path.exists());

    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "std leaves it there");
    let server = Server::bind_unix(&path).unwrap();
    // Another program's file is not removed.
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "a file").unwrap();
    drop(server);
    assert!(path.exists());
    assert!(Server::bind_unix(&path).is_err());
    assert!(path.exists());
}

#[test]
fn a_unix_socket_whose_backlog_is_full_is_not_replaced() {
    let path = socket_path();
    let listener = UnixListener::bind(&path).unwrap();
    rustix::net::listen(&listener, 1).unwrap();
    let _waiting = [(); 2].map(|()| UnixStream::connect(&path).unwrap());
    let error = within(DEADLINE, move || Server::bind_unix(&path)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
}

#[test]
fn a_server_that_takes_over_a_path_keeps_it() {
    let path = socket_path();
    for _ in 0..3000 {
        let old = Server::bind_unix(&path).unwrap();
        let taking_over = thread::spawn({
            let path = path.clone();
            move || {
                loop {
                    if let Ok(server) = Server::bind_unix(&path) {
                        return server;
                    }
                }
            }
        });
        drop(old);
        let new = taking_over.join().unwrap();
        assert!(path.exists());
        drop(new);
    }
}

#[test]
fn one_of_two_servers_that_find_a_stale_socket_replaces_it() {
    let path = socket_path();
    for _ in 0..1000 {
        drop(UnixListener::bind(&path).unwrap());
        let together = Arc::new(Barrier::new(2));
        let starting = [(); 2].map(|()| {
            let (path, together) = (path.clone(), together.clone());
            thread::spawn(move || {
                together.wait();
                Server::bind_unix(path)
            })
        });
        let [one, other] = starting.map(|thread| thread.join().unwrap());
        assert!(one.is_ok() != other.is_ok(), "{one:?} and {other:?}");
        drop((one, other));
        assert!(!path.exists());
    }
}

#[test]
fn a_unix_listener_of_the_program_is_served() {
    let path = socket_path();
    let listener = UnixListener::bind(&path).unwrap();
    let mut server = Server::from_unix_listener(listener).unwrap();
    let options = Options::new();
    let (client, peer) = pair_over(&mut server, &options, &options);
    goes_both_ways(&client, &peer);
    drop(server);
    assert!(path.exists());
}

#[test]
fn a_missing_unix_socket_is_an_error() {
    let ws = Websocket::connect("ws+unix:/does/not/exist").unwrap();
    let error = ws.wait_ready_timeout(DEADLINE).unwrap_err();
    assert!(
        matches!(&error, Error::Connect { address, .. } if address == "/does/not/exist"),
        "{error}"
    );
}

#[test]
fn a_client_waits_for_a_unix_server_whose_backlog_is_full() {
    let path = socket_path();
    let listener = UnixListener::bind(&path).unwrap();
    rustix_listen(&listener);
    let mut filling = Vec::new();
    // Nobody accepts, so at some point there is no room.
    let url = format!("ws+unix:{}", path.to_str().unwrap().replace(':', "%3A"));
    let waiting: Vec<_> = (0..8)
        .map(|_| {
            Options::new()
                .connect_timeout(DEADLINE)
                .close_timeout(Duration::from_secs(3600))
                .connect(&url)
                .unwrap()
        })
        .collect();
    for _ in 0..8 {
        // When these are accepted, there is room for the others.
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut [0]).unwrap();
        filling.push(stream);
    }
    within(DEADLINE, move || {
        for ws in waiting {
            ws.close().unwrap();
        }
    });
}

/// The smallest backlog.
fn rustix_listen(listener: &UnixListener) {
    rustix::net::listen(listener, 1).unwrap();
}

#[test]
#[cfg(feature = "native-tls")]
fn tls_works_over_a_unix_socket() {
    let pki = testkit::tls::pki();
    let server = Server::bind_unix(socket_path()).unwrap();
    let mut server = server.tls(pki.identity.clone()).unwrap();
    assert!(server.url().starts_with("wss+unix:/"), "{}", server.url());
    let options = pki.options();
    let (client, peer) = pair_over(&mut server, &options, &options);
    goes_both_ways(&client, &peer);
    client.close().unwrap();
}

/// Reads the head of the request on a stream, byte by byte.
fn head_of(stream: &mut (impl Read + ?Sized)) -> http::Request<()> {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        text.push(byte[0]);
    }
    let text = String::from_utf8(text).unwrap();
    let mut lines = text.lines();
    let path = lines.next().unwrap().split(' ').nth(1).unwrap();
    let mut request = http::Request::builder().uri(path);
    for line in lines.take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(": ").unwrap();
        request = request.header(name, value);
    }
    request.body(()).unwrap()
}

#[test]
fn connected_tcp_streams_work_as_transports() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    // As other libraries pass them on.
    stream.set_nonblocking(true).unwrap();
    let client = Options::new()
        .connect_over(stream, "ws://robot.example:123/drive")
        .unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    let head = head_of(&mut stream);
    assert_eq!(head.headers()["host"], "robot.example:123");
    assert_eq!(head.uri().path(), "/drive");
    let server = Websocket::accept(Request::from_parts(head, stream, []));
    goes_both_ways(&client, &server);
    assert_eq!(client.name(), "ws://robot.example:123/drive");
    assert_eq!(client.peer_addr(), listener.local_addr().ok());
}

#[test]
fn connected_unix_streams_work_as_transports() {
    let (one, mut other) = UnixStream::pair().unwrap();
    let client = Options::new().connect_over(one, "ws://x/").unwrap();
    let head = head_of(&mut other);
    let server = Websocket::accept(Request::from_parts(head, other, []));
    goes_both_ways(&client, &server);
    client.close().unwrap();
    server.wait_closed_timeout(DEADLINE).unwrap();
}

#[test]
fn bytes_read_beyond_the_head_are_used() {
    let (mut one, other) = UnixStream::pair().unwrap();
    let mut head = UPGRADE.as_bytes();
    let head = head_of(&mut head);
    // Half of a frame was read with the head, and the other half follows.
    let frame = testkit::masked_frame(0x81, b"\"hello\"");
    let (first, second) = frame.split_at(5);
    let server = Websocket::accept(Request::from_parts(head, other, first));
    one.write_all(second).unwrap();
    assert_eq!(server.get_timeout(DEADLINE).unwrap(), "hello");
}

#[test]
fn a_request_of_another_http_server_can_be_answered() {
    let (mut one, other) = UnixStream::pair().unwrap();
    let mut head = UPGRADE.as_bytes();
    let request = Request::from_parts(head_of(&mut head), other, []);
    request.respond(404, "not here").unwrap();
    let mut answer = String::new();
    one.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("\r\n\r\nnot here"), "{answer}");
}

/// A transport of the program: a stream for each direction, and only the required methods.
struct Pipes(UnixStream, UnixStream);
struct In(UnixStream);
struct Out(UnixStream);
struct Hook(UnixStream);

fn pipes() -> (Pipes, Pipes) {
    let (a_in, b_out) = UnixStream::pair().unwrap();
    let (b_in, a_out) = UnixStream::pair().unwrap();
    (Pipes(a_in, a_out), Pipes(b_in, b_out))
}

impl Transport for Pipes {
    fn split(self: Box<Self>) -> io::Result<Halves> {
        let shutdown = Arc::new(Hook(self.0.try_clone()?));
        Ok(Halves {
            read: Box::new(In(self.0)),
            write: Box::new(Out(self.1)),
            shutdown,
        })
    }
}

impl Read for In {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl ReadHalf for In {
    fn set_timeout(&mut self, _: Option<Duration>) -> io::Result<()> {
        Ok(())
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl WriteHalf for Out {
    fn set_timeout(&mut self, _: Option<Duration>) -> io::Result<()> {
        Ok(())
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        self.0.shutdown(Shutdown::Both)
    }
}

impl ShutdownHandle for Hook {
    fn shutdown(&self) {
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

#[test]
fn a_transport_of_the_program_works_on_both_sides() {
    let (one, mut other) = pipes();
    let client = Options::new().connect_over(one, "ws://x/").unwrap();
    let head = head_of(&mut other.0);
    let server = Websocket::accept(Request::from_parts(head, other, []));
    goes_both_ways(&client, &server);
    client.close().unwrap();
    server.wait_closed_timeout(DEADLINE).unwrap();
}

#[test]
fn a_transport_that_panics_on_the_writer_thread_ends_the_connection() {
    let (one, mut other) = UnixStream::pair().unwrap();
    let fuse = Fuse::new(&[Part::Write]);
    // The peer does not end the stream.
    let kept = one.try_clone().unwrap();
    let faulty = Faulty(one, fuse.clone());
    let client = Options::new().connect_over(faulty, "ws://x/").unwrap();
    let head = head_of(&mut other);
    let server = Websocket::accept(Request::from_parts(head, other, []));
    goes_both_ways(&client, &server);
    fuse.light();
    client.put(1).unwrap();
    let error = client.wait_closed_timeout(DEADLINE).unwrap_err();
    assert!(matches!(error, Error::Internal(_)), "{error}");
    drop((kept, server));
}

/// The part of a transport that panics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    PeerAddr,
    Encrypted,
    Nodelay,
    Split,
    Read,
    ReadTimeout,
    Write,
    TryWrite,
    Flush,
    WriteTimeout,
    Finish,
    Cut,
    /// The destructor of each of its parts, and of itself.
    Drop,
}

const PARTS: [Part; 13] = [
    Part::PeerAddr,
    Part::Encrypted,
    Part::Nodelay,
    Part::Split,
    Part::Read,
    Part::ReadTimeout,
    Part::Write,
    Part::TryWrite,
    Part::Flush,
    Part::WriteTimeout,
    Part::Finish,
    Part::Cut,
    Part::Drop,
];

/// Which parts panic, and from when on.
#[derive(Clone)]
struct Fuse {
    parts: Vec<Part>,
    lit: Arc<AtomicBool>,
}

impl Fuse {
    fn new(parts: &[Part]) -> Fuse {
        Fuse {
            parts: parts.to_vec(),
            lit: Arc::default(),
        }
    }

    fn light(&self) {
        self.lit.store(true, Ordering::SeqCst);
    }

    fn pass(&self, part: Part) {
        let lit = self.lit.load(Ordering::SeqCst);
        assert!(!lit || !self.parts.contains(&part), "on purpose: {part:?}");
    }
}

/// A transport of the program, or a part of one, with a fault.
struct Faulty<P>(P, Fuse);

impl<P> Drop for Faulty<P> {
    fn drop(&mut self) {
        self.1.pass(Part::Drop);
    }
}

impl Transport for Faulty<UnixStream> {
    fn split(self: Box<Self>) -> io::Result<Halves> {
        self.1.pass(Part::Split);
        Ok(Halves {
            read: Box::new(Faulty(self.0.try_clone()?, self.1.clone())),
            write: Box::new(Faulty(BufWriter::new(self.0.try_clone()?), self.1.clone())),
            shutdown: Arc::new(Faulty(Hook(self.0.try_clone()?), self.1.clone())),
        })
    }

    fn peer_addr(&self) -> Option<std::net::SocketAddr> {
        self.1.pass(Part::PeerAddr);
        None
    }

    fn is_encrypted(&self) -> bool {
        self.1.pass(Part::Encrypted);
        true
    }

    fn set_nodelay(&mut self, _: bool) -> io::Result<()> {
        self.1.pass(Part::Nodelay);
        Ok(())
    }
}

impl Read for Faulty<UnixStream> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.1.pass(Part::Read);
        self.0.read(buffer)
    }
}

impl ReadHalf for Faulty<UnixStream> {
    fn set_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.1.pass(Part::ReadTimeout);
        let timeout = timeout.map(|time| time.max(Duration::from_millis(1)));
        self.0.set_read_timeout(timeout)
    }
}

impl Write for Faulty<BufWriter<UnixStream>> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.1.pass(Part::Write);
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.1.pass(Part::Flush);
        self.0.flush()
    }
}

impl WriteHalf for Faulty<BufWriter<UnixStream>> {
    fn set_timeout(&mut self, _: Option<Duration>) -> io::Result<()> {
        self.1.pass(Part::WriteTimeout);
        Ok(())
    }

    fn try_write(&mut self, _: &[u8]) -> io::Result<usize> {
        self.1.pass(Part::TryWrite);
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        self.1.pass(Part::Finish);
        self.0.get_ref().shutdown(Shutdown::Write)
    }
}

impl ShutdownHandle for Faulty<Hook> {
    fn shutdown(&self) {
        self.1.pass(Part::Cut);
        self.0.shutdown();
    }
}

/// Options that notice a blocked half where the shutdown does not work.
fn impatient() -> Options {
    Options::new()
        .ping_interval(Duration::from_millis(50))
        .ping_timeout(DEADLINE)
        .connect_timeout(Duration::from_millis(200))
        .close_timeout(Duration::from_secs(1))
}

#[track_caller]
fn assert_internal_if(needed: &[Part], parts: &[Part], reason: Option<Error>) {
    if parts.iter().any(|part| needed.contains(part)) {
        let told = matches!(reason, Some(Error::Internal(_)));
        assert!(told, "{parts:?}: {reason:?}");
    }
}

/// Of those, the handshake needs these. It calls the others only for information, or never.
const FOR_A_HANDSHAKE: [Part; 4] = [Part::Nodelay, Part::Split, Part::Write, Part::Flush];

/// These parts of a client's transport panic from the beginning.
fn a_client_ends(parts: &[Part]) {
    let (one, _other) = UnixStream::pair().unwrap();
    let fuse = Fuse::new(parts);
    fuse.light();
    let client = impatient()
        .connect_over(Faulty(one, fuse), "ws://x/")
        .unwrap();
    let reason = failure(&client);
    assert_internal_if(&FOR_A_HANDSHAKE, parts, reason);
}

/// As above, for a server.
fn a_server_ends(parts: &[Part]) {
    let (one, other) = UnixStream::pair().unwrap();
    let fuse = Fuse::new(parts);
    fuse.light();
    let mut head = UPGRADE.as_bytes();
    let request = Request::from_parts(head_of(&mut head), Faulty(one, fuse), []);
    let _ = (request.peer_addr(), request.is_encrypted());
    let server = impatient().accept(request);
    let _ = server.wait_ready_timeout(DEADLINE);
    drop(other);
    let reason = failure(&server);
    assert_internal_if(&FOR_A_HANDSHAKE, parts, reason);
}

/// These parts of a transport panic once the connection is ready.
fn both_sides_end(parts: &[Part]) {
    let (one, mut other) = UnixStream::pair().unwrap();
    let fuse = Fuse::new(parts);
    let faulty = Faulty(one, fuse.clone());
    let faulty = impatient()
        .connect_timeout(DEADLINE)
        .connect_over(faulty, "ws://x/");
    let faulty = faulty.unwrap();
    let head = head_of(&mut other);
    let peer = impatient().accept(Request::from_parts(head, other, []));
    goes_both_ways(&faulty, &peer);
    fuse.light();
    let _ = faulty.put_nowait(1);
    let _ = faulty.put_nowait(2);
    let _ = faulty.close();
    if !parts.contains(&Part::Cut) {
        failure(&faulty);
    }
    // A thread that is blocked in a half without a working shutdown stays there until the peer ends
    // the stream.
    let _ = peer.close();
    failure(&faulty);
    assert_internal_if(&[Part::Write, Part::Flush], parts, end_reason(&faulty));
    drop(faulty);
    failure(&peer);
}

#[test]
fn a_transport_that_panics_ends_only_its_connection() {
    testkit::alone("a_transport_that_panics_ends_only_its_connection", || {
        let mut server = Server::bind((testkit::own_address(), 0)).unwrap();
        let options = Options::new();
        let (bystander, other) = pair_over(&mut server, &options, &options);
        let each = PARTS.iter().map(|part| vec![*part]);
        // The worst case: everything, and a panic while another panic is handled.
        let all = PARTS[4..].to_vec();
        let during = vec![Part::Write, Part::Cut, Part::Drop];
        for parts in [during, all].into_iter().chain(each) {
            within(2 * DEADLINE, move || {
                a_client_ends(&parts);
                both_sides_end(&parts);
            });
        }
        goes_both_ways(&bystander, &other);
        bystander.close().unwrap();
    });
}

#[test]
fn a_transport_that_panics_under_a_request_ends_only_that_request() {
    testkit::alone(
        "a_transport_that_panics_under_a_request_ends_only_that_request",
        || {
            let each = PARTS.iter().map(|part| vec![*part]);
            for parts in each.chain([PARTS.to_vec()]) {
                let again = parts.clone();
                within(DEADLINE, move || a_server_ends(&again));
                // Answered, and dropped.
                for answered in [true, false] {
                    let (one, other) = UnixStream::pair().unwrap();
                    let fuse = Fuse::new(&parts);
                    fuse.light();
                    let mut head = UPGRADE.as_bytes();
                    let request = Request::from_parts(head_of(&mut head), Faulty(one, fuse), []);
                    within(DEADLINE, move || {
                        let _ = (request.peer_addr(), request.is_encrypted());
                        if answered {
                            let _ = request.respond(404, "not here");
                        }
                    });
                    drop(other);
                }
            }
        },
    );
}

/// A payload that panics when its last owner is dropped.
struct Bomb(&'static [u8]);

impl AsRef<[u8]> for Bomb {
    fn as_ref(&self) -> &[u8] {
        self.0
    }
}

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("when dropped, on purpose");
    }
}

#[test]
fn a_source_whose_items_destructors_panic_does_not_keep_a_connection_from_ending() {
    testkit::alone(
        "a_source_whose_items_destructors_panic_does_not_keep_a_connection_from_ending",
        || {
            // Full of items that are never taken, with no handle left but the Websocket's.
            let source = || {
                let (sender, source) = crossbeam_channel::bounded(100);
                while sender
                    .try_send(bytes::Bytes::from_owner(Bomb(b"x")).into())
                    .map_err(std::mem::forget)
                    .is_ok()
                {}
                source
            };
            let unaffected = |f: &mut dyn FnMut()| {
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).unwrap();
            };
            for n in 0..40 {
                let (client, mut server) = testkit::client_and_raw(
                    &Options::new()
                        .close_timeout(Duration::from_millis(50))
                        .linger(Duration::ZERO),
                );
                let (told, closed) = crossbeam_channel::bounded(1);
                client.on_close(move || told.send(()).unwrap());
                // The peer takes nothing, so most of it stays queued.
                client.put(vec![0; 12 << 20]).unwrap();
                client.put_subscription(source()).unwrap();
                match n % 4 {
                    0 => unaffected(&mut || drop(client.close())),
                    1 => {
                        unaffected(&mut || drop(client.put_subscription(source())));
                        unaffected(&mut || client.stop_subscription());
                        unaffected(&mut || drop(client.close()));
                    }
                    2 => {
                        unaffected(&mut || drop(client.put_nowait("stops it")));
                        unaffected(&mut || drop(client.close()));
                    }
                    _ => server.close(None).unwrap(),
                }
                closed.recv_timeout(DEADLINE).expect("it does not end");
                let end = end_reason(&client).unwrap();
                assert!(!matches!(end, Error::Internal(_)), "{n}: {end}");
            }
        },
    );
}

#[test]
fn payloads_whose_destructors_panic_are_sent() {
    testkit::alone("payloads_whose_destructors_panic_are_sent", || {
        static LONG: [u8; 100_000] = [0; 100_000];
        let bytes = |payload| bytes::Bytes::from_owner(Bomb(payload));
        let short = || Message::from(bytes(b"a payload"));
        let (client, server) = Websocket::pair();
        for _ in 0..10 {
            // One by one, and several at a time.
            for count in [1, 100] {
                for _ in 0..count {
                    client.put(short()).unwrap();
                }
                for _ in 0..count {
                    let message = server.get_timeout(DEADLINE).unwrap();
                    assert_eq!(message.as_bytes().unwrap(), b"a payload");
                }
            }
            let payload = bytes(b"a ping");
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let answer = client.ping(payload);
                drop(answer);
            }));
        }
        client.close().unwrap();

        // These are never taken.
        let (client, server) = testkit::pair_with(
            &Options::new().close_timeout(Duration::from_millis(100)),
            &Options::new().receive_queue(Queue::Block(1)),
        );
        let _one_that_is_full = server.subscribe();
        let mut put = 0;
        // A message that is not accepted is returned, and belongs to this program.
        while let Ok(()) = client
            .put_nowait(Message::from(bytes(&LONG)))
            .map_err(std::mem::forget)
        {
            put += 1;
        }
        assert!(put > 1);
        client.close().unwrap_err();
        drop((client, server));
        eventually("the threads have ended", || {
            testkit::threads_named("ws-") == 0
        });
    });
}

/// Every write accepts no bytes, which is easily mistaken for progress.
struct Nothing;

impl Transport for Nothing {
    fn split(self: Box<Self>) -> io::Result<Halves> {
        Ok(Halves {
            read: Box::new(In(UnixStream::pair()?.0)),
            write: Box::new(Nothing),
            shutdown: Arc::new(Hook(UnixStream::pair()?.0)),
        })
    }
}

impl Write for Nothing {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Ok(0)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl WriteHalf for Nothing {
    fn set_timeout(&mut self, _: Option<Duration>) -> io::Result<()> {
        Ok(())
    }

    fn try_write(&mut self, _: &[u8]) -> io::Result<usize> {
        Ok(0)
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_transport_that_writes_zero_bytes_is_an_error() {
    let mut head = UPGRADE.as_bytes();
    let request = Request::from_parts(head_of(&mut head), Nothing, []);
    let error = within(DEADLINE, move || request.respond(200, "x")).unwrap_err();
    assert!(matches!(error, Error::Lost(_)), "{error}");
}

/// A proxy for one connection, which passes everything on to `to`, whatever target it was asked
/// for. Returns its address and the request.
fn proxy(to: &Server) -> (String, thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let to = to.local_addr().unwrap();
    let asked = thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        let head = read_head(&mut client);
        let mut server = TcpStream::connect(to).unwrap();
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        client.set_read_timeout(None).unwrap();
        let mut back = (server.try_clone().unwrap(), client.try_clone().unwrap());
        thread::spawn(move || io::copy(&mut back.0, &mut back.1));
        thread::spawn(move || io::copy(&mut client, &mut server));
        head
    });
    (address.to_string(), asked)
}

#[test]
fn a_proxy_is_asked_for_the_server_by_name() {
    let mut server = Server::bind("127.0.0.1:0").unwrap();
    let (address, asked) = proxy(&server);
    let client = Options::new()
        .proxy(format!("http://me:secret@{address}"))
        .connect("ws://robot.invalid/drive")
        .unwrap();
    let peer = Websocket::accept(server.next_timeout(DEADLINE).unwrap());
    goes_both_ways(&client, &peer);
    let asked = asked.join().unwrap();
    assert!(
        asked.starts_with("CONNECT robot.invalid:80 HTTP/1.1\r\n"),
        "{asked}"
    );
    assert!(asked.contains("Basic bWU6c2VjcmV0\r\n"), "{asked}");
    client.close().unwrap();
}

#[test]
#[cfg(feature = "native-tls")]
fn tls_works_through_a_proxy() {
    let pki = testkit::tls::pki();
    let mut server = pki.server();
    let (address, asked) = proxy(&server);
    let client = pki
        .options()
        .proxy(format!("http://{address}"))
        .connect("wss://localhost/")
        .unwrap();
    let peer = Websocket::accept(server.next_timeout(DEADLINE).unwrap());
    goes_both_ways(&client, &peer);
    assert!(asked.join().unwrap().starts_with("CONNECT localhost:443 "));
}

#[test]
#[cfg(feature = "native-tls")]
fn every_form_of_a_host_matches_its_certificate() {
    let pki = testkit::tls::pki_for(&["robot.example", "xn--bcher-kva.example", "192.0.2.1"]);
    let mut server = pki.server();
    for (host, named) in [
        ("robot.example", "robot.example"),
        ("ROBOT.Example", "robot.example"),
        ("r%6Fbot.example", "robot.example"),
        // A dot at the end marks a complete name, and is not a part of it.
        ("robot.example.", "robot.example."),
        ("b\u{fc}cher.example", "xn--bcher-kva.example"),
        ("0xc0.0.513", "192.0.2.1"),
    ] {
        let (address, asked) = proxy(&server);
        let client = pki
            .options()
            .proxy(format!("http://{address}"))
            .connect(format!("wss://{host}/"))
            .unwrap();
        let Ok(request) = server.next_timeout(DEADLINE) else {
            panic!("{host}: {:?}", client.error());
        };
        assert_eq!(request.header("host"), Some(named));
        let _peer = Websocket::accept(request);
        client.wait_ready_timeout(DEADLINE).unwrap();
        let asked = asked.join().unwrap();
        assert!(
            asked.starts_with(&format!("CONNECT {named}:443 ")),
            "{asked}"
        );
    }
}

#[test]
fn a_proxy_that_refuses_or_is_missing_is_an_error_without_the_password() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let options = Options::new().proxy(format!("http://me:secret@{address}"));
    let ws = options.connect("ws://robot.invalid/").unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    read_head(&mut stream);
    stream.write_all(b"HTTP/1.1 403 No\r\n\r\n").unwrap();
    let error = ws.wait_ready_timeout(DEADLINE).unwrap_err();
    assert!(matches!(error, Error::Proxy { .. }), "{error}");
    assert!(error.to_string().contains("403"), "{error}");

    drop((listener, stream));
    let ws = options.connect("ws://robot.invalid/").unwrap();
    let error = ws.wait_ready_timeout(DEADLINE).unwrap_err();
    assert!(matches!(error, Error::Proxy { .. }), "{error}");
    assert!(!error.to_string().contains("secret"), "{error}");
}

#[test]
fn close_while_a_proxy_is_silent_returns_immediately() {
    for scheme in ["http", "socks5h"] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let ws = Options::new()
            .proxy(format!("{scheme}://{address}"))
            .connect_timeout(Duration::from_secs(3600))
            .close_timeout(Duration::from_secs(3600))
            .connect("ws://robot.invalid/")
            .unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut [0]).unwrap();
        within(DEADLINE, move || ws.close()).unwrap();
        eventually("the end", || !matches!(stream.read(&mut [0; 100]), Ok(1..)));
    }
}

#[test]
fn an_unusable_proxy_is_refused_immediately() {
    for proxy in ["", "ftp://x", "https://x", "http://"] {
        let error = Options::new().proxy(proxy).connect("ws://x/").unwrap_err();
        assert!(
            matches!(
                error,
                Error::InvalidOption {
                    setting: "proxy",
                    ..
                }
            ),
            "{proxy}: {error}"
        );
    }
}
