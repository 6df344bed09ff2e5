//! Hours in minutes: clients that reconnect, over a network that cuts them off, stalls and is slow.
//!
//! Ignored unless asked for. For as many minutes as `RTCBOT_SOAK_MINUTES` says, 1 by default:
//!
//! ```sh
//! RTCBOT_SOAK_MINUTES=30 cargo test --release --test soak -- --ignored --nocapture
//! ```
//!
//! Each client sends numbered messages to a server that sends them back. No number may come twice or out of
//! order, and no more may be missing than both sides' `stats()` admit.
#![cfg(target_os = "linux")]

mod rig;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded, never};
use rig::{DEADLINE, eventually, threads_named};
use rtcbot_websocket::{Backoff, Error, Options, Server, ServerHandle, Stats, Websocket};

const CLIENTS: u64 = 24;
const MS: Duration = Duration::from_millis(1);

/// If nothing at all arrives for so long, something hangs.
const STANDSTILL: Duration = Duration::from_secs(60);

/// What everybody adds to.
#[derive(Default)]
struct Tally {
    over: AtomicBool,
    sent: AtomicU64,
    arrived: AtomicU64,
    missing: AtomicU64,
    /// What the connections' own statistics admit to have lost, or perhaps lost.
    admitted: AtomicU64,
    clients: AtomicU64,
    reconnects: AtomicU64,
    cuts: AtomicU64,
    stalls: AtomicU64,
}

impl Tally {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    fn admit(&self, stats: &Stats) {
        let lost = stats.unconfirmed + stats.unsent + stats.dropped;
        self.admitted.fetch_add(lost, Ordering::SeqCst);
    }
}

fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::SeqCst);
}

/// Chance that a seed repeats (xorshift64).
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// From 0 to `n` - 1.
    fn roll(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// Lets time pass, in which nothing is to happen here.
fn pause(time: Duration) {
    let _ = never::<()>().recv_timeout(time);
}

#[test]
#[ignore = "takes minutes: see the top of this file"]
fn nothing_hangs_leaks_or_is_lost_unsaid() {
    let minutes = std::env::var("RTCBOT_SOAK_MINUTES").map_or(1.0, |minutes| {
        minutes.parse::<f64>().expect("a number of minutes")
    });
    let before = descriptors();
    let tally = Arc::<Tally>::default();
    let mut ends = Vec::new();
    let mut roads = Vec::new();
    for (url, options, server) in servers() {
        let (handle, serving) = serve(server, &tally);
        let (road, proxy) = proxy(&url, &tally);
        roads.push((road, options));
        ends.push((handle, serving, proxy));
    }
    let clients: Vec<_> = (0..CLIENTS)
        .map(|n| {
            let (url, options) = roads[n as usize % roads.len()].clone();
            let tally = tally.clone();
            thread::spawn(move || client(n, &url, &options, &tally))
        })
        .collect();

    watch(&tally, Duration::from_secs_f64(minutes * 60.0));
    tally.over.store(true, Ordering::SeqCst);
    for client in clients {
        client.join().unwrap();
    }
    for (handle, serving, proxy) in ends {
        handle.shutdown(DEADLINE).unwrap();
        serving.join().unwrap();
        proxy.join().unwrap();
    }
    eventually("that no thread and no descriptor is left", || {
        threads_named("ws-") == 0 && descriptors() == before
    });
    report(&tally, minutes * 60.0);
    let (missing, admitted) = (&tally.missing, &tally.admitted);
    assert!(missing.load(Ordering::SeqCst) <= admitted.load(Ordering::SeqCst));
    assert!(
        tally.reconnects.load(Ordering::SeqCst) > 0,
        "that was too easy"
    );
}

fn servers() -> Vec<(String, Options, Server)> {
    let server = Server::bind("127.0.0.1:0").unwrap();
    let plain = (server.url().to_owned(), Options::new(), server);
    #[cfg(feature = "native-tls")]
    let tls = {
        let pki = rig::tls::pki();
        let server = pki.server();
        (server.url().to_owned(), pki.options(), server)
    };
    vec![
        plain,
        #[cfg(feature = "native-tls")]
        tls,
    ]
}

/// What both sides have in common.
fn impatient(options: &Options, dice: &mut Dice) -> Options {
    let mut options = options.clone();
    options
        .json(false)
        .send_queue(64 << dice.roll(10))
        .connect_timeout(2 * DEADLINE)
        .close_timeout(500 * MS)
        .ping_interval(200 * MS)
        .ping_timeout(Duration::from_millis(500 + dice.roll(1500)));
    options
}

fn serve(server: Server, tally: &Arc<Tally>) -> (ServerHandle, thread::JoinHandle<()>) {
    let handle = server.handle();
    let tally = tally.clone();
    let serving = thread::spawn(move || {
        let mut dice = Dice::new(7);
        for request in server {
            let mut options = impatient(&Options::new(), &mut dice);
            let ws = options.paused(true).accept(request);
            // Back it goes, and reading waits while it cannot.
            ws.subscribe_to(ws.clone());
            ws.resume();
            let (tally, own) = (tally.clone(), ws.clone());
            ws.on_close(move || tally.admit(&own.stats()));
            if dice.roll(20) == 0 {
                let leaving = ws.downgrade();
                thread::spawn(move || {
                    pause(700 * MS);
                    leaving.upgrade().map(|ws| ws.close_with(1012, "restart"))
                });
            }
        }
    });
    (handle, serving)
}

/// One client after the other, each with a life of its own.
fn client(n: u64, url: &str, options: &Options, tally: &Tally) {
    let mut dice = Dice::new(n + 100);
    while !tally.is_over() {
        add(&tally.clients, 1);
        let mut options = impatient(options, &mut dice);
        let backoff = Backoff {
            initial: 5 * MS,
            max: 200 * MS,
            ..Backoff::default()
        };
        let ws = options.reconnect(backoff).connect(url).unwrap();
        let echoes = ws.subscribe();
        let lasts = Duration::from_millis(500 + dice.roll(20_000));
        let (end, ended) = bounded::<()>(0);
        let putting = {
            let (ws, seed) = (ws.clone(), dice.roll(u64::MAX));
            thread::spawn(move || put_numbers(&ws, &mut Dice::new(seed), &ended))
        };
        let mut next = 0;
        let until = Instant::now() + lasts;
        let mut closing = None;
        loop {
            if closing.is_none() && (Instant::now() >= until || tally.is_over()) {
                closing = Some({
                    let ws = ws.clone();
                    thread::spawn(move || ws.close())
                });
            }
            match echoes.get_timeout(50 * MS) {
                Ok(message) => {
                    let number = message.as_bytes().unwrap()[..8].try_into().unwrap();
                    let number = u64::from_le_bytes(number);
                    assert!(number >= next, "client {n}: {number} comes after {next}");
                    add(&tally.missing, number - next);
                    add(&tally.arrived, 1);
                    next = number + 1;
                    if dice.roll(5000) == 0 {
                        // Its queue fills up.
                        pause(Duration::from_millis(dice.roll(1000)));
                    }
                }
                Err(Error::Timeout) => {}
                Err(_) => break,
            }
        }
        drop(end);
        let put = putting.join().unwrap();
        let _ = closing.map(|closing| closing.join().unwrap());
        assert!(ws.is_closed());
        let stats = ws.stats();
        // What is sent back after the client has closed is not waited for.
        add(&tally.sent, put);
        add(&tally.reconnects, stats.reconnects);
        tally.admit(&stats);
    }
}

/// Puts numbered messages in every way there is, until the connection is closed; returns how many.
fn put_numbers(ws: &Websocket, dice: &mut Dice, ended: &Receiver<()>) -> u64 {
    let mut next = 0u64;
    loop {
        let size = match dice.roll(100) {
            0 => dice.roll(200_000),
            1..10 => dice.roll(5_000),
            _ => dice.roll(200),
        };
        let mut message = next.to_le_bytes().to_vec();
        message.resize(8 + size as usize, next as u8);
        let put = match dice.roll(3) {
            0 => ws.put_nowait(message),
            1 => ws.put_timeout(message, 20 * MS),
            _ => ws.put(message),
        };
        match put {
            Ok(()) => next += 1,
            Err(error) if error.is_full() => {}
            Err(_) => return next,
        }
        if dice.roll(50) == 0 {
            let _ = ended.recv_timeout(Duration::from_millis(dice.roll(20)));
        }
        if dice.roll(1000) == 0 {
            let _ = ws.ping("");
        }
    }
}

/// What stands between the clients and a server.
fn proxy(url: &str, tally: &Arc<Tally>) -> (String, thread::JoinHandle<()>) {
    let (scheme, address) = url.split_once("://").unwrap();
    let address = address.trim_end_matches('/').to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let road = format!("{scheme}://{}/", listener.local_addr().unwrap());
    let tally = tally.clone();
    let proxying = thread::spawn(move || {
        let mut dice = Dice::new(3);
        let mut lines = Vec::new();
        while !tally.is_over()
            || lines
                .iter()
                .any(|line: &thread::JoinHandle<()>| !line.is_finished())
        {
            let Ok((client, _)) = listener.accept() else {
                pause(5 * MS);
                continue;
            };
            client.set_nonblocking(false).unwrap();
            if dice.roll(10) == 0 {
                continue;
            }
            let Ok(server) = TcpStream::connect(&address) else {
                continue;
            };
            lines.retain(|line| !line.is_finished());
            let both = Arc::new(Line {
                begun: Instant::now(),
                fate: Fate::by(&mut dice),
                told: AtomicBool::new(false),
            });
            for (from, to) in [(&client, &server), (&server, &client)] {
                let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                let (both, tally) = (both.clone(), tally.clone());
                lines.push(thread::spawn(move || both.carry(from, to, &tally)));
            }
        }
    });
    (road, proxying)
}

/// What becomes of a connection on its way.
enum Fate {
    Nothing,
    CutAfter(Duration),
    StallBetween(Duration, Duration),
    /// So many bytes at a time, and a moment between.
    Slow(usize),
}

impl Fate {
    fn by(dice: &mut Dice) -> Fate {
        let time = |dice: &mut Dice, most| Duration::from_millis(dice.roll(most));
        match dice.roll(8) {
            0 => Fate::Nothing,
            1 => Fate::Slow(1 + dice.roll(20_000) as usize),
            2 | 3 => {
                let from = time(dice, 2000);
                // Shorter or longer than the pings wait for.
                let to = from + time(dice, 5000);
                Fate::StallBetween(from, to)
            }
            _ => Fate::CutAfter(time(dice, 4000)),
        }
    }
}

struct Line {
    begun: Instant,
    fate: Fate,
    /// Whether it was counted.
    told: AtomicBool,
}

impl Line {
    /// One direction, until either side ends or fate has it.
    fn carry(&self, mut from: TcpStream, mut to: TcpStream, tally: &Tally) {
        from.set_read_timeout(Some(10 * MS)).unwrap();
        to.set_write_timeout(Some(DEADLINE)).unwrap();
        let mut bytes = [0; 20_000];
        let count = |counter| {
            if !self.told.swap(true, Ordering::SeqCst) {
                add(counter, 1);
            }
        };
        loop {
            let age = self.begun.elapsed();
            let mut room = bytes.len();
            match self.fate {
                Fate::Nothing => {}
                Fate::CutAfter(time) if age >= time => {
                    count(&tally.cuts);
                    break;
                }
                Fate::CutAfter(_) => {}
                Fate::StallBetween(since, until) if age >= since && age < until => {
                    count(&tally.stalls);
                    pause(10 * MS);
                    continue;
                }
                Fate::StallBetween(..) => {}
                Fate::Slow(step) => {
                    room = step.min(room);
                    pause(MS);
                }
            }
            match from.read(&mut bytes[..room]) {
                Ok(0) => break,
                Ok(n) => {
                    if to.write_all(&bytes[..n]).is_err() {
                        break;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }
}

/// Prints how it goes; panics when nothing goes on.
fn watch(tally: &Tally, time: Duration) {
    let start = Instant::now();
    let mut last = (0, Instant::now());
    let mut printed = Instant::now();
    while start.elapsed() < time {
        pause(100 * MS);
        let arrived = tally.arrived.load(Ordering::SeqCst);
        if arrived > last.0 {
            last = (arrived, Instant::now());
        }
        assert!(last.1.elapsed() < STANDSTILL, "nothing arrives any more");
        if printed.elapsed() >= Duration::from_secs(30) {
            printed = Instant::now();
            report(tally, start.elapsed().as_secs_f64());
        }
    }
}

fn report(tally: &Tally, seconds: f64) {
    let read = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
    println!(
        "{seconds:.0} s: {} clients, {} reconnects, {} cuts, {} stalls; {} messages came back, {} put by clients that \
         have ended; {} missing, {} admitted; {} KiB resident, {} threads, {} descriptors",
        read(&tally.clients),
        read(&tally.reconnects),
        read(&tally.cuts),
        read(&tally.stalls),
        read(&tally.arrived),
        read(&tally.sent),
        read(&tally.missing),
        read(&tally.admitted),
        resident(),
        threads_named(""),
        descriptors(),
    );
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// In KiB.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4
}
