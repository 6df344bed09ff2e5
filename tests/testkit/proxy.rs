//! A TCP proxy on which things go wrong: it refuses, cuts, resets, stalls and slows down.
#![allow(dead_code)] // Only the stress tests use it.

use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::decisions::Decisions;

/// What the proxies have done so far.
#[derive(Debug, Default)]
pub struct Counters {
    refusals: AtomicU64,
    cuts: AtomicU64,
    resets: AtomicU64,
    stalls: AtomicU64,
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        write!(
            f,
            "{} refusals, {} cuts, {} resets, {} stalls",
            get(&self.refusals),
            get(&self.cuts),
            get(&self.resets),
            get(&self.stalls),
        )
    }
}

/// Listens until it is dropped, and then cuts its connections.
pub struct Proxy {
    pub address: SocketAddr,
    stopped: Arc<AtomicBool>,
}

impl Proxy {
    /// Passes connections on to `to`. The seed decides what goes wrong on each.
    pub fn start(to: SocketAddr, seed: u64, counters: Arc<Counters>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stopped = Arc::new(AtomicBool::new(false));
        let is_stopped = stopped.clone();
        thread::spawn(move || {
            let mut decisions = Decisions::from_seed(seed);
            for client in listener.incoming().flatten() {
                if is_stopped.load(Ordering::SeqCst) {
                    return;
                }
                if decisions.one_in(10) {
                    counters.refusals.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                if let Ok(server) = TcpStream::connect(to) {
                    let (stopped, counters) = (is_stopped.clone(), counters.clone());
                    let line = Line::draw(&mut decisions, stopped, counters);
                    line.start(client, server);
                }
            }
        });
        Proxy { address, stopped }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        // Wakes its thread.
        let _ = TcpStream::connect(self.address);
    }
}

/// One connection through a proxy, and what goes wrong on it.
struct Line {
    begun: Instant,
    /// When it ends, and whether it is then reset.
    end: Option<(Duration, bool)>,
    /// For each direction: when nothing is passed on, and for how long.
    stalls: [Option<(Duration, Duration)>; 2],
    /// For each direction: how many bytes are passed on at a time, and how long that takes.
    pace: [(usize, Duration); 2],
    over: AtomicBool,
    /// Whether the proxy was dropped.
    stopped: Arc<AtomicBool>,
    counters: Arc<Counters>,
}

impl Line {
    fn draw(
        decisions: &mut Decisions<'_>,
        stopped: Arc<AtomicBool>,
        counters: Arc<Counters>,
    ) -> Self {
        let end = decisions.chance(60).then(|| {
            let after = Duration::from_millis(decisions.up_to(20_000));
            (after, decisions.chance(50))
        });
        // Some are longer than a ping or a close waits for an answer.
        let mut stall = || (decisions.millis(0, 5000), decisions.millis(1, 6000));
        let (both, one, other) = (stall(), stall(), stall());
        let stalls = match decisions.between(0, 7) {
            0 => [Some(both); 2],
            1 => [Some(one), None],
            2 => [None, Some(other)],
            3 => [Some(one), Some(other)],
            _ => [None; 2],
        };
        let pace = [(); 2].map(|()| match decisions.between(0, 3) {
            0 => (decisions.pick(&[1, 100, 1000]), Duration::from_micros(200)),
            _ => (64 << 10, Duration::ZERO),
        });
        Line {
            begun: Instant::now(),
            end,
            stalls,
            pace,
            over: AtomicBool::new(false),
            stopped,
            counters,
        }
    }

    fn start(self, client: TcpStream, server: TcpStream) {
        let line = Arc::new(self);
        let ways = [
            (client.try_clone().unwrap(), server.try_clone().unwrap()),
            (server, client),
        ];
        for (way, (from, to)) in ways.into_iter().enumerate() {
            let line = line.clone();
            thread::spawn(move || line.pass_on(way, from, to));
        }
    }

    fn is_over(&self) -> bool {
        let end = self.end.filter(|(after, _)| self.begun.elapsed() >= *after);
        end.is_some() || self.over.load(Ordering::Relaxed) || self.stopped.load(Ordering::Relaxed)
    }

    /// Ends the connection. Both directions see that its time has come; one of them counts it.
    fn cut(&self, from: &TcpStream) {
        let resets = matches!(self.end, Some((_, true)));
        let counter = match resets {
            true => {
                let _ = rustix::net::sockopt::set_socket_linger(from, Some(Duration::ZERO));
                &self.counters.resets
            }
            false => {
                let _ = from.shutdown(Shutdown::Both);
                &self.counters.cuts
            }
        };
        if !self.over.swap(true, Ordering::Relaxed) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Passes one direction on until either side ends it, or its time has come.
    fn pass_on(&self, way: usize, from: TcpStream, mut to: TcpStream) {
        const MOMENT: Option<Duration> = Some(Duration::from_millis(20));
        from.set_read_timeout(MOMENT).unwrap();
        to.set_write_timeout(MOMENT).unwrap();
        let (most, time) = self.pace[way];
        let mut stall = self.stalls[way];
        let mut buffer = vec![0; most];
        loop {
            if self.is_over() {
                return self.cut(&from);
            }
            let read = match (&from).read(&mut buffer) {
                Ok(n) => n,
                Err(error) if is_late(error.kind()) => continue,
                Err(_) => 0,
            };
            if read == 0 {
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
            if let Some((_, long)) = stall.take_if(|(after, _)| self.begun.elapsed() >= *after) {
                self.counters.stalls.fetch_add(1, Ordering::Relaxed);
                let until = Instant::now() + long;
                while Instant::now() < until && !self.is_over() {
                    thread::sleep(Duration::from_millis(20));
                }
            }
            let mut left = &buffer[..read];
            while !left.is_empty() {
                if self.is_over() {
                    return self.cut(&from);
                }
                match to.write(left) {
                    Ok(n) => left = &left[n..],
                    Err(error) if is_late(error.kind()) => {}
                    Err(_) => {
                        let _ = from.shutdown(Shutdown::Both);
                        return;
                    }
                }
            }
            thread::sleep(time);
        }
    }
}

fn is_late(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
