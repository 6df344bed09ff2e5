//! Compares this crate with raw blocking tungstenite: round trips, and one-way messages per second.
//!
//! Run it with `cargo bench --bench throughput`. Compare only the lines of one run with each other,
//! because machines differ and other programs use them too.

// The items that `criterion_group!` generates have no docs.
#![allow(missing_docs)]

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rtcbot_websocket::transport::{Halves, ReadHalf, ShutdownHandle, Transport, WriteHalf};
use rtcbot_websocket::{Bytes, Message, Options, Queue, Server, Websocket};
use tungstenite::Message as Wire;
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{Data, OpCode};

/// The commands of the raw peer.
#[derive(Clone, Copy)]
enum Peer {
    /// Sends every message back.
    Echo,
    /// Reads the number of messages in the text, then sends one back.
    Sink,
    /// Sends the number of messages in the text.
    Flood(usize),
    /// Sends the text after the number that many times.
    Repeat,
}

/// Starts a server on raw blocking tungstenite, for any number of connections.
fn raw_server(peer: Peer) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            stream.set_nodelay(true).unwrap();
            thread::spawn(move || serve(peer, stream));
        }
    });
    url
}

fn serve(peer: Peer, stream: TcpStream) -> Option<()> {
    let mut ws = tungstenite::accept(stream).ok()?;
    loop {
        let message = ws.read().ok()?;
        if !message.is_text() && !message.is_binary() {
            continue;
        }
        match peer {
            Peer::Echo => ws.send(message).ok()?,
            Peer::Sink => {
                let count: u64 = message.to_text().ok()?.parse().ok()?;
                for _ in 0..count {
                    ws.read().ok()?;
                }
                ws.send(Wire::text("done")).ok()?;
            }
            Peer::Flood(size) => {
                let count: u64 = message.to_text().ok()?.parse().ok()?;
                let payload = Bytes::from(vec![b'x'; size]);
                for _ in 0..count {
                    ws.write(Wire::Binary(payload.clone())).ok()?;
                }
                ws.flush().ok()?;
            }
            Peer::Repeat => {
                let order = message.to_text().ok()?.to_owned();
                let (count, payload) = order.split_once(' ')?;
                let payload = tungstenite::Utf8Bytes::from(payload);
                for _ in 0..count.parse().ok()? {
                    ws.write(Wire::Text(payload.clone())).ok()?;
                }
                ws.flush().ok()?;
            }
        }
    }
}

type Raw = tungstenite::WebSocket<TcpStream>;

fn raw_client(url: &str) -> Raw {
    let stream = TcpStream::connect(url.trim_start_matches("ws://")).unwrap();
    stream.set_nodelay(true).unwrap();
    tungstenite::client(url, stream).unwrap().0
}

fn client(url: &str) -> Websocket {
    let ws = Options::new().json(false).connect(url).unwrap();
    ws.wait_ready().unwrap();
    ws
}

/// Starts an echo server on this crate: one thread per connection, `get` and `put`.
fn server() -> String {
    let server = Server::bind("127.0.0.1:0").unwrap();
    let url = server.url().to_owned();
    thread::spawn(move || {
        for request in server {
            let ws = Options::new().json(false).accept(request);
            thread::spawn(move || {
                while let Ok(message) = ws.get() {
                    if ws.put(message).is_err() {
                        return;
                    }
                }
            });
        }
    });
    url
}

fn text(size: usize) -> Message {
    "x".repeat(size).into()
}

fn round_trip(c: &mut Criterion) {
    let mut group = c.benchmark_group("round_trip_64B");
    let raw_url = raw_server(Peer::Echo);
    let own_url = server();

    let mut raw = raw_client(&raw_url);
    let payload = Wire::text("x".repeat(64));
    group.bench_function("raw client, raw server", |b| {
        b.iter(|| {
            raw.send(payload.clone()).unwrap();
            raw.read().unwrap()
        });
    });

    let message = text(64);
    for (name, url) in [("raw", &raw_url), ("own", &own_url)] {
        let ws = client(url);
        let subscription = ws.subscribe();
        group.bench_function(format!("own client, {name} server"), |b| {
            b.iter(|| {
                ws.put_nowait(message.clone()).unwrap();
                subscription.get().unwrap()
            });
        });
    }
    group.finish();
}

/// A TCP connection that, once `discards` is set, accepts what is written without a system call.
struct Discards {
    stream: TcpStream,
    discards: Arc<AtomicBool>,
}

impl Transport for Discards {
    fn split(self: Box<Self>) -> io::Result<Halves> {
        let read = Discards {
            stream: self.stream.try_clone()?,
            discards: self.discards.clone(),
        };
        let shutdown = self.stream.try_clone()?;
        Ok(Halves {
            read: Box::new(read),
            shutdown: Arc::new(Shutdown(shutdown)),
            write: self,
        })
    }
}

impl Read for Discards {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buffer)
    }
}

impl ReadHalf for Discards {
    fn set_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.stream.set_read_timeout(timeout)
    }
}

impl Write for Discards {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.discards.load(Ordering::Relaxed) {
            true => Ok(bytes.len()),
            false => self.stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl WriteHalf for Discards {
    fn set_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.stream.set_write_timeout(timeout)
    }

    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write(bytes)
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        self.stream.shutdown(std::net::Shutdown::Write)
    }
}

struct Shutdown(TcpStream);

impl ShutdownHandle for Shutdown {
    fn shutdown(&self) {
        let _ = self.0.shutdown(std::net::Shutdown::Both);
    }
}

/// What a put costs its caller, apart from the socket, while nothing else is sent.
fn puts_without_a_socket(c: &mut Criterion) {
    let url = raw_server(Peer::Echo);
    let stream = TcpStream::connect(url.trim_start_matches("ws://")).unwrap();
    let discards = Arc::new(AtomicBool::new(false));
    let transport = Discards {
        stream,
        discards: discards.clone(),
    };
    let ws = Options::new()
        .json(false)
        .ping_interval(None)
        .linger(Duration::ZERO)
        .connect_over(transport, &url)
        .unwrap();
    ws.wait_ready().unwrap();
    discards.store(true, Ordering::Relaxed);
    let message = text(64);
    c.bench_function("put_when_idle_64B/no socket", |b| {
        b.iter_custom(|n| {
            let mut spent = Duration::ZERO;
            for _ in 0..n {
                let message = message.clone();
                // Longer than the writer thread counts as busy.
                let pause = Instant::now() + Duration::from_micros(30);
                while Instant::now() < pause {}
                let start = Instant::now();
                ws.put_nowait(message).unwrap();
                spent += start.elapsed();
            }
            spent
        });
    });
}

/// What a put costs its caller while nothing else is sent. The answer is awaited, and not measured.
/// Each put comes a while after it, so that the writer thread sleeps even on a busy machine.
fn puts_when_idle(c: &mut Criterion) {
    let mut group = c.benchmark_group("put_when_idle_64B");
    let raw_url = raw_server(Peer::Echo);
    let (near, far) = Options::new().json(false).pair();
    let echo = thread::spawn(move || {
        while let Ok(message) = far.get() {
            far.put(message).unwrap();
        }
    });
    let message = text(64);
    for (name, ws) in [("tcp", client(&raw_url)), ("memory", near)] {
        let subscription = ws.subscribe();
        group.bench_function(name, |b| {
            b.iter_custom(|n| {
                let mut spent = Duration::ZERO;
                for _ in 0..n {
                    let message = message.clone();
                    let start = Instant::now();
                    ws.put_nowait(message).unwrap();
                    spent += start.elapsed();
                    subscription.get().unwrap();
                    thread::sleep(Duration::from_micros(200));
                }
                spent
            });
        });
    }
    echo.join().unwrap();
    group.finish();
}

/// The default of `Options::fragment_size`.
const FRAGMENT: usize = 64 << 10;

/// Divides a text message into frames, as this crate does.
fn fragments(message: &Wire) -> Vec<Wire> {
    let payload = message.clone().into_data();
    let parts = payload.chunks(FRAGMENT).enumerate();
    let frames = parts.map(|(n, part)| {
        let kind = if n == 0 { Data::Text } else { Data::Continue };
        let is_final = (n + 1) * FRAGMENT >= payload.len();
        Frame::message(payload.slice_ref(part), OpCode::Data(kind), is_final)
    });
    frames.map(Wire::Frame).collect()
}

/// One-way messages. A peer that joins the frames of a message takes longer to receive it: compare
/// with a raw client that sends such frames.
fn sends(c: &mut Criterion) {
    let cases = [
        ("sends_64B", 64),
        ("sends_1KiB", 1 << 10),
        ("sends_16KiB", 16 << 10),
        ("sends_64KiB", 64 << 10),
        ("sends_1MiB", 1 << 20),
        ("sends_16MiB", 16 << 20),
    ];
    for (name, size) in cases {
        let mut group = c.benchmark_group(name);
        group.throughput(Throughput::Elements(1));
        let url = raw_server(Peer::Sink);

        let mut raw = raw_client(&url);
        let payload = Wire::text("x".repeat(size));
        group.bench_function("raw", |b| {
            b.iter_custom(|n| {
                let start = Instant::now();
                raw.write(Wire::text(n.to_string())).unwrap();
                for _ in 0..n {
                    raw.write(payload.clone()).unwrap();
                }
                raw.flush().unwrap();
                raw.read().unwrap();
                start.elapsed()
            });
        });

        if size > FRAGMENT {
            group.bench_function("raw, in frames of 64 KiB", |b| {
                b.iter_custom(|n| {
                    let start = Instant::now();
                    raw.write(Wire::text(n.to_string())).unwrap();
                    for _ in 0..n {
                        for frame in fragments(&payload) {
                            raw.write(frame).unwrap();
                        }
                    }
                    raw.flush().unwrap();
                    raw.read().unwrap();
                    start.elapsed()
                });
            });
        }

        let ws = client(&url);
        let message = text(size);
        group.bench_function("own", |b| {
            b.iter_custom(|n| {
                let start = Instant::now();
                ws.put(n.to_string()).unwrap();
                for _ in 0..n {
                    ws.put(message.clone()).unwrap();
                }
                ws.get().unwrap();
                start.elapsed()
            });
        });
        group.finish();
    }
}

fn receives(c: &mut Criterion) {
    for (name, size) in [("receives_64B", 64), ("receives_64KiB", 64 << 10)] {
        let mut group = c.benchmark_group(name);
        group.throughput(Throughput::Elements(1));
        let url = raw_server(Peer::Flood(size));

        let mut raw = raw_client(&url);
        group.bench_function("raw", |b| {
            b.iter_custom(|n| {
                let start = Instant::now();
                raw.send(Wire::text(n.to_string())).unwrap();
                for _ in 0..n {
                    raw.read().unwrap();
                }
                start.elapsed()
            });
        });

        let ws = client(&url);
        let subscription = ws.subscribe();
        group.bench_function("own", |b| {
            b.iter_custom(|n| {
                let start = Instant::now();
                ws.put(n.to_string()).unwrap();
                for _ in 0..n {
                    subscription.get().unwrap();
                }
                start.elapsed()
            });
        });
        group.finish();
    }
}

/// Like `receives`, with text messages, which JSON mode checks on arrival.
fn receives_text(c: &mut Criterion) {
    let object = r#"{"motor": 1, "speed": 0.25, "name": "left", "on": true, "at": 12345}"#;
    let cases = [
        ("text_64B, not JSON mode", false, "x".repeat(64)),
        ("json_string_64B", true, format!("\"{}\"", "x".repeat(62))),
        ("json_object_68B", true, object.to_owned()),
    ];
    let mut group = c.benchmark_group("receives_text");
    group.throughput(Throughput::Elements(1));
    for (name, json, payload) in cases {
        let url = raw_server(Peer::Repeat);
        let ws = Options::new().json(json).connect(&url).unwrap();
        ws.wait_ready().unwrap();
        let order = |n: u64| format!("{n} {payload}").into_bytes();
        let subscription = ws.subscribe();
        group.bench_function(name, |b| {
            b.iter_custom(|n| {
                let start = Instant::now();
                ws.put(order(n)).unwrap();
                for _ in 0..n {
                    subscription.get().unwrap();
                }
                start.elapsed()
            });
        });
        drop(subscription);
        let (called, calls) = crossbeam_channel::unbounded();
        let mut left = 0;
        let (set, next) = crossbeam_channel::unbounded();
        ws.subscribe_callback(move |_| {
            if left == 0 {
                left = next.recv().unwrap();
            }
            left -= 1;
            if left == 0 {
                called.send(()).unwrap();
            }
        });
        group.bench_function(format!("{name}, by a callback"), |b| {
            b.iter_custom(|n| {
                let start = Instant::now();
                set.send(n).unwrap();
                ws.put(order(n)).unwrap();
                calls.recv().unwrap();
                start.elapsed()
            });
        });
    }
    group.finish();
}

/// Measures the cost of another subscription: the publisher alone, with queues that never fill.
fn fan_out(c: &mut Criterion) {
    let mut group = c.benchmark_group("fan_out");
    group.throughput(Throughput::Elements(1));
    for count in [1, 4, 16] {
        group.bench_function(BenchmarkId::from_parameter(count), |b| {
            let (mut publisher, producer) = rtcbot_websocket::pubsub::producer();
            let subscriptions: Vec<_> = (0..count)
                .map(|_| producer.subscribe_with(Queue::DropOldest(64)))
                .collect();
            let message = text(64);
            b.iter(|| publisher.put(message.clone()));
            drop(subscriptions);
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3));
    targets =
        round_trip, puts_when_idle, puts_without_a_socket, sends, receives, receives_text, fan_out
}
criterion_main!(benches);
