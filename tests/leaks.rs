//! Connections that have ended leave nothing behind. Each part runs in a process of its own, and
//! everything in that process is counted.
//!
//! The environment variable `RTCBOT_CONNECTIONS` sets how many connections there are; 5000 by
//! default.
#![cfg(target_os = "linux")]

mod testkit;

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rtcbot_websocket::{Error, Options, Server, Websocket, json};
use testkit::{DEADLINE, UPGRADE, eventually, pair_over, read_head, threads_named};

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// How much anonymous memory is in use, in KiB.
fn resident() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let mut lines = status.lines();
    let line = lines.find(|line| line.starts_with("RssAnon:")).unwrap();
    let number = line.split_whitespace().nth(1).unwrap();
    number.parse().unwrap()
}

/// The place where the connections are made.
struct Place {
    server: Server,
    options: Options,
}

impl Place {
    /// A client and the server's end, over which a message has gone.
    fn pair(&mut self) -> (Websocket, Websocket) {
        let (client, peer) = pair_over(&mut self.server, &self.options, &self.options);
        client.put_nowait(1).unwrap();
        assert_eq!(peer.get_timeout(DEADLINE).unwrap(), json!(1));
        (client, peer)
    }

    fn request_is_answered(&mut self, client: &Websocket) {
        let request = self.server.next_timeout(DEADLINE).unwrap();
        request.respond(404, vec![b'x'; 1000]).unwrap();
        let error = client.wait_ready_timeout(DEADLINE).unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{error}");
    }
}

/// One connection, from the beginning to the end.
type Life = fn(&mut Place);

fn closed_by_the_client(place: &mut Place) {
    place.pair().0.close().unwrap();
}

fn closed_by_the_server(place: &mut Place) {
    place.pair().1.close().unwrap();
}

fn dropped(place: &mut Place) {
    let (client, peer) = place.pair();
    drop(client);
    peer.wait_closed_timeout(DEADLINE).unwrap();
}

/// In a callback that owns the last handle.
fn dropped_in_a_callback(place: &mut Place) {
    let (client, peer) = place.pair();
    let mut last = Some(peer.clone());
    peer.subscribe_callback(move |_| drop(last.take()));
    drop(peer);
    client.put_nowait(2).unwrap();
    client.wait_closed_timeout(DEADLINE).unwrap();
}

/// Only the connection itself has a handle.
fn its_own_echo(place: &mut Place) {
    let (client, peer) = place.pair();
    peer.subscribe_to(peer.clone());
    drop(peer);
    client.close().unwrap();
}

/// By a callback that owns a handle.
fn closed_in_a_callback(place: &mut Place) {
    let (client, peer) = place.pair();
    let own = peer.clone();
    peer.subscribe_callback(move |_| own.close().unwrap());
    client.put_nowait(2).unwrap();
    client.wait_closed_timeout(DEADLINE).unwrap();
}

fn reset_by_the_client(place: &mut Place) {
    let mut stream = TcpStream::connect(place.server.local_addr().unwrap()).unwrap();
    stream.write_all(UPGRADE.as_bytes()).unwrap();
    let peer = place
        .options
        .accept(place.server.next_timeout(DEADLINE).unwrap());
    read_head(&mut stream);
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    drop(stream);
    let error = peer.wait_closed_timeout(DEADLINE).unwrap_err();
    assert!(matches!(error, Error::Lost(_)), "{error}");
}

/// By a server that ends the connection with unread bytes.
fn reset_by_the_server(place: &mut Place) {
    let listener = TcpListener::bind((testkit::own_address(), 0)).unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    let client = place.options.connect(url).unwrap();
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let raw = tungstenite::accept(stream).unwrap();
    client.put(vec![0; 1000]).unwrap();
    raw.get_ref().peek(&mut [0]).unwrap();
    drop(raw);
    let error = client.wait_closed_timeout(DEADLINE).unwrap_err();
    assert!(matches!(error, Error::Lost(_)), "{error}");
}

/// Nobody listens.
fn not_reached(_: &mut Place) {
    let client = Websocket::connect("ws://127.0.0.1:1/").unwrap();
    // It may have failed by now.
    let _ = client.put_nowait(1);
    client.wait_ready_timeout(DEADLINE).unwrap_err();
}

fn refused(place: &mut Place) {
    let client = place.options.connect(place.server.url()).unwrap();
    place.request_is_answered(&client);
}

fn given_up(place: &mut Place) {
    drop(place.options.connect(place.server.url()).unwrap());
    drop(place.server.next_timeout(Duration::from_millis(1)));
}

/// The server receives no request.
fn silent(place: &mut Place) {
    drop(TcpStream::connect(place.server.local_addr().unwrap()).unwrap());
    drop(place.server.next_timeout(Duration::from_millis(1)));
}

const LIVES: [(&str, Life); 12] = [
    ("closed by the client", closed_by_the_client),
    ("closed by the server", closed_by_the_server),
    ("dropped", dropped),
    ("dropped in a callback", dropped_in_a_callback),
    ("closed in a callback", closed_in_a_callback),
    ("its own echo", its_own_echo),
    ("reset by the client", reset_by_the_client),
    ("reset by the server", reset_by_the_server),
    ("not reached", not_reached),
    ("refused", refused),
    ("given up", given_up),
    ("silent", silent),
];

/// A TLS handshake that fails: the client does not trust the authority.
#[cfg(feature = "native-tls")]
fn not_trusted(place: &mut Place) {
    let client = Websocket::connect(place.server.url()).unwrap();
    let waiting = thread::spawn(move || client.wait_ready_timeout(DEADLINE));
    eventually("the refusal", || {
        let request = place.server.next_timeout(Duration::from_millis(1));
        assert!(request.is_err());
        waiting.is_finished()
    });
    waiting.join().unwrap().unwrap_err();
}

/// The kinds of `LIVES` that involve TLS.
#[cfg(feature = "native-tls")]
const TLS_LIVES: [(&str, Life); 9] = [
    ("TLS, closed by the client", closed_by_the_client),
    ("TLS, closed by the server", closed_by_the_server),
    ("TLS, dropped", dropped),
    ("TLS, dropped in a callback", dropped_in_a_callback),
    ("TLS, closed in a callback", closed_in_a_callback),
    ("TLS, not trusted", not_trusted),
    ("TLS, refused", refused),
    ("TLS, given up", given_up),
    ("TLS, silent", silent),
];

/// All kinds, and which of them use TLS.
fn lives() -> Vec<(&'static str, Life, bool)> {
    let lives = LIVES.map(|(name, life)| (name, life, false));
    #[cfg(feature = "native-tls")]
    let lives = lives
        .into_iter()
        .chain(TLS_LIVES.map(|(name, life)| (name, life, true)));
    lives.into_iter().collect()
}

fn place(encrypted: bool) -> Place {
    let (server, options) = match encrypted {
        #[cfg(feature = "native-tls")]
        true => {
            let pki = testkit::tls::pki();
            (pki.server(), pki.options())
        }
        _ => (
            Server::bind((testkit::own_address(), 0)).unwrap(),
            Options::new(),
        ),
    };
    // A loaded machine may need longer than a user would wait.
    let options = options.close_timeout(DEADLINE).linger(DEADLINE);
    Place { server, options }
}

/// Two rounds that allocate memory which is used again, and the rounds that count.
const ROUNDS: usize = WARM_UP + 3;
const WARM_UP: usize = 2;

const TEST: &str = "five_thousand_connections_leave_no_thread_descriptor_or_memory_behind";

/// Names the kind of connections in a process that has one.
const KIND: &str = "RTCBOT_KIND";

/// How many connections a round has.
fn round() -> usize {
    let count = std::env::var("RTCBOT_CONNECTIONS").map_or(5000, |count| count.parse().unwrap());
    count / lives().len() / ROUNDS + 1
}

#[test]
fn five_thousand_connections_leave_no_thread_descriptor_or_memory_behind() {
    if let Ok(kind) = std::env::var(KIND) {
        return make_connections(&kind);
    }
    // Most of a connection's time is waiting for threads to start and to end.
    let kinds = Mutex::new(lives());
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let Some((name, ..)) = kinds.lock().pop() else {
                        break;
                    };
                    leave_nothing(name);
                }
            });
        }
    });
}

/// Runs one kind in a process of its own, through this test.
fn leave_nothing(name: &str) {
    let begun = Instant::now();
    // glibc keeps freed memory, which hides how much is in use.
    let environment = [
        (KIND, name),
        ("MALLOC_TRIM_THRESHOLD_", "0"),
        ("MALLOC_TOP_PAD_", "0"),
    ];
    testkit::again_with(TEST, &environment, 30 * DEADLINE);
    println!("{name}: {:?}", begun.elapsed());
}

/// Memory that was used once and is free now could hide a leak for a while.
fn take_up_what_is_free() {
    for size in [4096, 1024, 256, 64] {
        (0..(1 << 20) / size).for_each(|_| std::mem::forget(vec![1u8; size]));
    }
}

/// Makes the connections of one kind. Each kind has a process, since memory that another kind has
/// freed would hide a leak.
fn make_connections(kind: &str) {
    let lives = lives();
    let (_, life, encrypted) = lives.iter().find(|(name, ..)| *name == kind).unwrap();
    let mut place = place(*encrypted);
    let before = (descriptors(), threads_named("ws-"));
    assert_eq!(before.1, 0);
    let nothing_is_left = |place: &mut Place| {
        eventually("that nothing is left", || {
            // Connections that were given up, or that sent nothing, may yet have to be noticed.
            drop(place.server.next_timeout(Duration::from_millis(1)));
            (descriptors(), threads_named("ws-")) == before
        });
    };
    let mut play_a_round = |one_by_one: bool| {
        let start = resident();
        for _ in 0..round() {
            life(&mut place);
            if one_by_one {
                nothing_is_left(&mut place);
            }
        }
        nothing_is_left(&mut place);
        resident() - start
    };
    let mut play_all_rounds = |one_by_one: bool| {
        play_a_round(one_by_one);
        take_up_what_is_free();
        play_a_round(one_by_one);
        let grown = [(); ROUNDS - WARM_UP].map(|()| play_a_round(one_by_one));
        println!("{grown:?} KiB in rounds of {}", round());
        grown.iter().sum::<i64>()
    };
    // A leak of 1 KiB per connection is twice this in every round. A heap that is divided
    // differently is not.
    let most = (round() * (ROUNDS - WARM_UP)) as i64 / 2;
    // On a busy machine, the threads of many connections may end at the same time, and never
    // equally many. Then each connection ends before the next one is made.
    assert!((0..6).any(|n| play_all_rounds(n > 1) < most));
}
