//! Clients and servers under random load for as long as one likes, over TCP and TLS, through proxies that cut,
//! reset, stall and slow down what goes through them.
//!
//! ```text
//! RTCBOT_SOAK_MINUTES=30 cargo test --release --test weather -- --ignored --nocapture
//! ```
//!
//! Each connection's messages arrive in order, once, without a gap, and all of them where it was closed in
//! order; no client stands still for a minute; nothing is left at the end. glibc's heaps for each thread grow
//! for a while: with `MALLOC_ARENA_MAX=1` the memory that is printed is what is in use. (`soak` is about clients
//! that reconnect.)
#![cfg(target_os = "linux")]

#[path = "rig/dice.rs"]
mod dice;
mod rig;

use std::collections::{BTreeMap, HashMap};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, bounded};
use dice::Dice;
use parking_lot::Mutex;
use rig::{eventually, is_closed_by_peer, threads_named};
use rtcbot_websocket::{Error, Message, Options, PutError, Queue, Request, Server, Websocket};

/// How many clients there are of each kind.
const CLIENTS: usize = 4;

/// When nothing has moved for so long, it hangs: no fault of the proxies lasts as long.
const HANG: Duration = Duration::from_secs(60);

/// What everybody knows.
#[derive(Default)]
struct World {
    over: AtomicBool,
    sums: Sums,
    /// How far each client has come: counts whatever it does.
    steps: Vec<AtomicU64>,
    /// What the servers' ends got.
    arrived: Mutex<Vec<Arrived>>,
    /// Clients' connections that were closed in order: the client, its first message and its last.
    closed: Mutex<Vec<(usize, u64, u64)>>,
    /// How many messages each connection's server has put.
    put: Mutex<HashMap<u64, u64>>,
    /// How many of them its client got, where that is all.
    got: Mutex<HashMap<u64, u64>>,
    ends: Mutex<BTreeMap<String, u64>>,
    failed: AtomicBool,
}

/// What one connection brought to its server.
struct Arrived {
    client: usize,
    first: u64,
    last: u64,
    /// Whether the client has closed it in order: then that is all.
    all: bool,
}

/// Fails the test when its thread panics.
struct AtWork(Arc<World>);

impl Drop for AtWork {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.failed.store(true, Ordering::Relaxed);
        }
    }
}

#[derive(Default)]
struct Sums {
    connections: AtomicU64,
    to_server: AtomicU64,
    to_client: AtomicU64,
    bytes: AtomicU64,
    clean: AtomicU64,
    cuts: AtomicU64,
    resets: AtomicU64,
    stalls: AtomicU64,
}

fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

impl World {
    fn goes_on(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }

    fn step(&self, client: usize) {
        add(&self.steps[client], 1);
    }

    fn ended(&self, whose: &str, reason: &Error) {
        let reason = format!("{reason:?}");
        let kind = reason.split(['(', ' ']).next().unwrap_or_default();
        let name = format!("{whose} {kind}");
        *self.ends.lock().entry(name).or_default() += 1;
    }

    fn report(&self, since: Instant) {
        let sums = &self.sums;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        println!(
            "{:4} s: {} connections, {} messages to the servers, {} to the clients, {} MiB; {} closed in \
            order; {} cuts, {} resets, {} stalls; {} KiB resident, {} threads ({} of the crate), {} descriptors",
            since.elapsed().as_secs(),
            get(&sums.connections),
            get(&sums.to_server),
            get(&sums.to_client),
            get(&sums.bytes) >> 20,
            get(&sums.clean),
            get(&sums.cuts),
            get(&sums.resets),
            get(&sums.stalls),
            resident(),
            threads_named(""),
            threads_named("ws-"),
            descriptors(),
        );
    }
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// In KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let mut lines = status.lines();
    let line = lines.find(|line| line.starts_with("RssAnon:")).unwrap();
    let number = line.split_whitespace().nth(1).unwrap();
    number.parse().unwrap()
}

/// Message `number` of a stream: a client's only one, or one of the server's for each connection.
fn message(stream: u64, number: u64, size: u64) -> Message {
    let mut bytes = [stream.to_be_bytes(), number.to_be_bytes()].concat();
    bytes.resize(16 + size as usize, number as u8);
    bytes.into()
}

fn read(message: &Message) -> (u64, u64) {
    let bytes = message.as_bytes().expect("only bytes are sent");
    let number = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
    let (stream, number) = (number(0), number(8));
    assert!(bytes[16..].iter().all(|&byte| byte == number as u8));
    (stream, number)
}

fn options() -> Options {
    let mut options = Options::new();
    options
        .connect_timeout(Duration::from_secs(5))
        .close_timeout(Duration::from_secs(3))
        .linger(Duration::from_secs(1))
        .ping_interval(Duration::from_secs(1))
        .ping_timeout(Duration::from_secs(2))
        .send_queue(1 << 20)
        .receive_queue(Queue::Block(64));
    options
}

/// How busy somebody is for a while.
#[derive(Clone)]
struct Mood {
    dice: Dice,
    largest: u64,
    nap: (u64, u64),
}

impl Mood {
    fn draw(dice: &mut Dice) -> Self {
        Mood {
            largest: dice.pick(&[10, 100, 1000, 60_000]),
            nap: dice.pick(&[(0, 1), (1, 5), (50, 2), (1, 200)]),
            dice: Dice::new(dice.roll()),
        }
    }

    fn nap(&mut self) {
        if self.dice.chance(self.nap.0) {
            thread::sleep(self.dice.millis(1, self.nap.1));
        }
    }

    fn size(&mut self) -> u64 {
        self.dice.about(self.largest)
    }
}

/// Puts messages from `next` on until the connection ends or there have been enough; `next` is then the
/// first that was not accepted.
fn put_on(
    ws: &Websocket,
    stream: u64,
    next: &mut u64,
    enough: u64,
    mood: &mut Mood,
    step: impl Fn(),
) {
    for _ in 0..enough {
        let mut item = message(stream, *next, mood.size());
        loop {
            let put = match mood.dice.between(0, 2) {
                0 => ws.put(item),
                1 => ws.put_timeout(item, mood.dice.millis(0, 50)),
                _ => ws.put_nowait(item),
            };
            match put {
                Ok(()) => break,
                Err(PutError::Full(back)) => item = back,
                Err(PutError::Closed(_)) => return,
            }
            thread::sleep(Duration::from_millis(1));
        }
        *next += 1;
        step();
        mood.nap();
    }
}

/// One client, which has one connection after the other. Its messages are numbered through.
fn client(world: &World, number: usize, url: &str, options: &Options) {
    let mut dice = Dice::new(number as u64);
    let mut next = 0;
    // With a connection that is made anew by itself, this loop has a single turn, and `talk` goes on.
    while world.goes_on() {
        let ws = options.connect(format!("{url}/{number}")).unwrap();
        add(&world.sums.connections, 1);
        talk(world, number, &ws, &mut next, &mut dice);
        world.step(number);
    }
}

/// Until the connection ends; at some time this side closes it.
fn talk(world: &World, number: usize, ws: &Websocket, next: &mut u64, dice: &mut Dice) {
    let enough = dice.about(20_000);
    let (mut putting, mut getting) = (Mood::draw(dice), Mood::draw(dice));
    let incoming = ws.subscribe();
    let closes = AtomicBool::new(false);
    let first = *next;
    thread::scope(|scope| {
        scope.spawn(|| {
            put_on(ws, number as u64, next, enough, &mut putting, || {
                world.step(number);
            });
            closes.store(true, Ordering::SeqCst);
            if ws.close().is_ok() {
                add(&world.sums.clean, 1);
                if *next > first {
                    world.closed.lock().push((number, first, *next - 1));
                }
            }
        });
        let mut last: Option<(u64, u64)> = None;
        let reason = loop {
            let message = match incoming.get() {
                Ok(message) => message,
                Err(reason) => break reason,
            };
            let (connection, n) = read(&message);
            let follows = match last {
                Some((same, last)) if same == connection => n == last + 1,
                Some((before, _)) => connection > before && n == 0,
                None => n == 0,
            };
            assert!(follows, "{n} of {connection} after {last:?}");
            last = Some((connection, n));
            add(&world.sums.to_client, 1);
            add(&world.sums.bytes, message.len() as u64);
            world.step(number);
            getting.nap();
        };
        world.ended("client", &reason);
        // Who closes does not wait for its own full queue any more.
        if let (true, false, Some((connection, n))) = (
            is_closed_by_peer(&reason),
            closes.load(Ordering::SeqCst),
            last,
        ) {
            world.got.lock().insert(connection, n + 1);
        }
    });
}

/// One connection on the server's side.
fn serve(world: &World, request: Request, options: &Options) {
    static CONNECTIONS: AtomicU64 = AtomicU64::new(1);
    let connection = CONNECTIONS.fetch_add(1, Ordering::Relaxed);
    let client: usize = request.path()[1..].parse().unwrap();
    let ws = options.accept(request);
    let mut dice = Dice::new(connection << 20);
    let enough = dice.about(40_000);
    let wants_to_close = dice.chance(50);
    let (mut putting, mut getting) = (Mood::draw(&mut dice), Mood::draw(&mut dice));
    let incoming = ws.subscribe();
    let closes = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut next = 0;
            put_on(&ws, connection, &mut next, enough, &mut putting, || {});
            world.put.lock().insert(connection, next);
            if wants_to_close {
                closes.store(true, Ordering::SeqCst);
                let _ = ws.close();
            }
        });
        let mut range: Option<(u64, u64)> = None;
        let reason = loop {
            let message = match incoming.get() {
                Ok(message) => message,
                Err(reason) => break reason,
            };
            let (stream, n) = read(&message);
            assert_eq!(stream, client as u64);
            let first = match range {
                None => n,
                Some((_, last)) if n != last + 1 => panic!("{n} of client {client} after {last}"),
                Some((first, _)) => first,
            };
            range = Some((first, n));
            add(&world.sums.to_server, 1);
            add(&world.sums.bytes, message.len() as u64);
            getting.nap();
        };
        world.ended("server", &reason);
        if let Some((first, last)) = range {
            world.arrived.lock().push(Arrived {
                client,
                first,
                last,
                all: is_closed_by_peer(&reason) && !closes.load(Ordering::SeqCst),
            });
        }
    });
}

/// Whether all has arrived that had to, and nothing twice.
fn check(world: &World) {
    let mut arrived = world.arrived.lock();
    arrived.sort_by_key(|one| (one.client, one.first));
    for pair in arrived.windows(2) {
        let (one, next) = (&pair[0], &pair[1]);
        let apart = one.client != next.client || one.last < next.first;
        assert!(apart, "client {}: {} came twice", one.client, next.first);
    }
    for &(client, first, last) in world.closed.lock().iter() {
        let mut of_it = arrived.iter().filter(|one| one.client == client);
        if let Some(one) = of_it.find(|one| one.first == first && one.all) {
            assert_eq!(one.last, last, "client {client}, from {first} on");
        }
    }
    let put = world.put.lock();
    for (connection, got) in world.got.lock().iter() {
        assert_eq!(put[connection], *got, "connection {connection}");
    }
}

/// What a proxy does to one connection.
struct Weather {
    /// How long it lasts, and whether it is then reset.
    ends: Option<(Duration, bool)>,
    /// For each direction: when nothing goes through, for how long.
    stalls: [Option<(Duration, Duration)>; 2],
    /// For each direction: how much goes through at a time, and how long that takes.
    pace: [(usize, Duration); 2],
}

impl Weather {
    fn draw(dice: &mut Dice) -> Self {
        let ends = dice.chance(60).then(|| {
            let millis = dice.about(20_000);
            (Duration::from_millis(millis), dice.chance(50))
        });
        // The longer ones are more than a peer that is awaited may take.
        let stalls = [(); 2].map(|()| {
            let stall = dice.chance(20);
            stall.then(|| (dice.millis(0, 5000), dice.millis(1, 6000)))
        });
        let pace = [(); 2].map(|()| match dice.between(0, 3) {
            0 => (dice.pick(&[1, 100, 1000]), Duration::from_micros(200)),
            _ => (64 << 10, Duration::ZERO),
        });
        Weather { ends, stalls, pace }
    }
}

/// Passes connections on to `to`, through weather. Returns where it listens.
fn proxy(world: &Arc<World>, to: SocketAddr, seed: u64) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let world = world.clone();
    thread::spawn(move || {
        let mut dice = Dice::new(seed);
        for client in listener.incoming().flatten() {
            if !world.goes_on() {
                return;
            }
            let Ok(server) = TcpStream::connect(to) else {
                continue;
            };
            pass_on(&world, client, server, Weather::draw(&mut dice));
        }
    });
    address
}

fn pass_on(world: &Arc<World>, client: TcpStream, server: TcpStream, weather: Weather) {
    let begun = Instant::now();
    let over = Arc::new(AtomicBool::new(false));
    let ways = [
        (client.try_clone().unwrap(), server.try_clone().unwrap()),
        (server, client),
    ];
    for (way, (from, to)) in ways.into_iter().enumerate() {
        let (stall, pace) = (weather.stalls[way], weather.pace[way]);
        let (world, over, ends) = (world.clone(), over.clone(), weather.ends);
        thread::spawn(move || {
            let cut = pump(&world, from, to, begun, &over, ends, stall, pace);
            // Both ways see that the time is over.
            if cut && !over.swap(true, Ordering::Relaxed) {
                let (_, reset) = ends.unwrap_or_default();
                let sums = &world.sums;
                add(if reset { &sums.resets } else { &sums.cuts }, 1);
            }
        });
    }
}

/// Passes one direction on. Returns whether it was cut.
#[allow(clippy::too_many_arguments)]
fn pump(
    world: &World,
    from: TcpStream,
    mut to: TcpStream,
    begun: Instant,
    over: &AtomicBool,
    ends: Option<(Duration, bool)>,
    mut stall: Option<(Duration, Duration)>,
    (most, time): (usize, Duration),
) -> bool {
    const MOMENT: Option<Duration> = Some(Duration::from_millis(20));
    from.set_read_timeout(MOMENT).unwrap();
    to.set_write_timeout(MOMENT).unwrap();
    let is_over = || {
        let end = ends.filter(|(after, _)| begun.elapsed() >= *after);
        end.is_some() || over.load(Ordering::Relaxed)
    };
    let cut = || {
        if let Some((_, true)) = ends {
            let _ = rustix::net::sockopt::set_socket_linger(&from, Some(Duration::ZERO));
        } else {
            let _ = from.shutdown(Shutdown::Both);
        }
        true
    };
    let mut buffer = vec![0; most];
    loop {
        let read = loop {
            if is_over() {
                return cut();
            }
            match (&from).read(&mut buffer) {
                Ok(n) => break n,
                Err(error) if is_late(error.kind()) => {}
                Err(_) => break 0,
            }
        };
        if read == 0 {
            let _ = to.shutdown(Shutdown::Write);
            return false;
        }
        if let Some((_, long)) = stall.filter(|(after, _)| begun.elapsed() >= *after) {
            stall = None;
            add(&world.sums.stalls, 1);
            let until = Instant::now() + long;
            while Instant::now() < until && !is_over() {
                thread::sleep(Duration::from_millis(20));
            }
        }
        let mut left = &buffer[..read];
        while !left.is_empty() {
            if is_over() {
                return cut();
            }
            match to.write(left) {
                Ok(n) => left = &left[n..],
                Err(error) if is_late(error.kind()) => {}
                Err(_) => {
                    let _ = from.shutdown(Shutdown::Both);
                    return false;
                }
            }
        }
        thread::sleep(time);
    }
}

fn is_late(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

#[test]
#[ignore = "takes RTCBOT_SOAK_MINUTES, one by default"]
fn it_goes_on_and_on() {
    let minutes = std::env::var("RTCBOT_SOAK_MINUTES").map_or(1.0, |text| text.parse().unwrap());
    let long = Duration::from_secs_f64(60.0 * minutes);
    let before = (descriptors(), threads_named("ws-"));
    let begun = Instant::now();

    #[cfg(not(feature = "native-tls"))]
    let servers = [(Server::bind("127.0.0.1:0").unwrap(), options(), "ws")];
    #[cfg(feature = "native-tls")]
    let servers = {
        let pki = rig::tls::pki();
        let mut tls = options();
        tls.root_certificate_pem(pki.ca.pem());
        let plain = Server::bind("127.0.0.1:0").unwrap();
        [(plain, options(), "ws"), (pki.server(), tls, "wss")]
    };
    let world = Arc::new(World {
        steps: (0..servers.len() * CLIENTS)
            .map(|_| AtomicU64::new(0))
            .collect(),
        ..World::default()
    });

    // Each thread has one; they are disconnected when all have returned.
    let (at_work, all_done) = bounded::<()>(0);
    let mut handles = Vec::new();
    let mut proxies = Vec::new();
    for (kind, (server, options, scheme)) in servers.into_iter().enumerate() {
        handles.push(server.handle());
        let address = proxy(&world, server.local_addr().unwrap(), kind as u64);
        proxies.push(address);
        let (own, settings, working) = (world.clone(), options.clone(), at_work.clone());
        thread::spawn(move || {
            server.serve(move |request| {
                let at_work = AtWork(own.clone());
                serve(&at_work.0, request, &settings);
            });
            drop(working);
        });
        for n in 0..CLIENTS {
            let url = format!("{scheme}://localhost:{}", address.port());
            let number = kind * CLIENTS + n;
            let (world, options, working) = (world.clone(), options.clone(), at_work.clone());
            thread::spawn(move || {
                let at_work = AtWork(world);
                client(&at_work.0, number, &url, &options);
                drop(working);
            });
        }
    }
    drop(at_work);

    let mut moved: Vec<(u64, Instant)> = vec![(0, begun); world.steps.len()];
    let mut reported = begun;
    let mut closing = false;
    while let Err(RecvTimeoutError::Timeout) = all_done.recv_timeout(Duration::from_secs(1)) {
        for (client, (steps, when)) in moved.iter_mut().enumerate() {
            let now = world.steps[client].load(Ordering::Relaxed);
            if now != *steps || closing {
                (*steps, *when) = (now, Instant::now());
            }
            let hangs = when.elapsed() > HANG;
            assert!(!hangs, "nothing has moved for client {client} in {HANG:?}");
        }
        if reported.elapsed() >= Duration::from_secs(30) {
            reported = Instant::now();
            world.report(begun);
        }
        if begun.elapsed() > long && !closing {
            closing = true;
            world.over.store(true, Ordering::Relaxed);
            for handle in &handles {
                let _ = handle.shutdown(Duration::from_secs(5));
            }
        }
        assert!(!world.failed.load(Ordering::Relaxed), "see above");
        assert!(begun.elapsed() < long + HANG, "it does not come to an end");
    }
    for address in proxies {
        // Wakes it, to find that all is over.
        let _ = TcpStream::connect(address);
    }
    drop(handles);
    world.report(begun);
    println!("{:#?}", world.ends.lock());
    assert!(!world.failed.load(Ordering::Relaxed), "see above");
    assert!(world.sums.to_server.load(Ordering::Relaxed) > 0);
    eventually("that nothing is left", || {
        (descriptors(), threads_named("ws-")) == before
    });
    // Not before: the servers' ends may take a little longer.
    check(&world);
}
