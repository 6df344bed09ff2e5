//! Compares a broadcast to 100 connections of this crate with a loop that writes one encoded frame
//! to 100 sockets. The time is that until all clients have received it.
//!
//! Run it with `cargo bench --bench broadcast`. Compare only the lines of one run with each other,
//! because machines differ and other programs use them too.

// The items that `criterion_group!` generates have no docs.
#![allow(missing_docs)]

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use crossbeam_channel::{Receiver, bounded};
use rtcbot_websocket::{Bytes, Options, Server, Websocket};
use rustix::event::{PollFd, PollFlags, poll};

const CLIENTS: usize = 100;

const UPGRADE: &str = "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\n\r\n";

/// The clients' ends of the connections, which one thread reads.
struct Clients {
    /// The number of bytes after which the thread reports.
    target: Arc<AtomicU64>,
    reached: Receiver<()>,
}

impl Clients {
    fn read(streams: Vec<TcpStream>) -> Clients {
        let target = Arc::new(AtomicU64::new(u64::MAX));
        let (report, reached) = bounded(1);
        let aim = target.clone();
        thread::spawn(move || {
            let mut buffer = vec![0; 256 << 10];
            let mut received = 0;
            for stream in &streams {
                stream.set_nonblocking(true).unwrap();
            }
            loop {
                let fds = streams.iter();
                let mut fds: Vec<_> = fds.map(|s| PollFd::new(s, PollFlags::IN)).collect();
                poll(&mut fds, None).unwrap();
                for (fd, mut stream) in fds.iter().zip(&streams) {
                    if fd.revents().is_empty() {
                        continue;
                    }
                    match stream.read(&mut buffer) {
                        Ok(0) => return,
                        Ok(n) => received += n as u64,
                        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                        Err(_) => return,
                    }
                }
                if received >= aim.load(Ordering::SeqCst) {
                    aim.store(u64::MAX, Ordering::SeqCst);
                    received = 0;
                    report.send(()).unwrap();
                }
            }
        });
        Clients { target, reached }
    }

    /// Calls `send`, and waits until all clients have received a frame of this length.
    fn time(&self, rounds: u64, frame: usize, mut send: impl FnMut()) -> Duration {
        let start = Instant::now();
        for _ in 0..rounds {
            let bytes = (CLIENTS * frame) as u64;
            self.target.store(bytes, Ordering::SeqCst);
            send();
            self.reached.recv().unwrap();
        }
        start.elapsed()
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

fn raw() -> (Vec<TcpStream>, Clients) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let pairs = (0..CLIENTS).map(|_| {
        let client = connect(address);
        let (server, _) = listener.accept().unwrap();
        server.set_nodelay(true).unwrap();
        (server, client)
    });
    let (servers, clients) = pairs.unzip();
    (servers, Clients::read(clients))
}

fn own() -> (Vec<Websocket>, Server, Clients) {
    let mut server = Server::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    let pairs = (0..CLIENTS).map(|_| {
        let mut client = connect(address);
        client.write_all(UPGRADE.as_bytes()).unwrap();
        let request = server.next().unwrap();
        let ws = Options::new().ping_interval(None).accept(request);
        ws.wait_ready().unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            client.read_exact(&mut byte).unwrap();
            head.extend(byte);
        }
        (ws, client)
    });
    let (servers, clients) = pairs.unzip();
    (servers, server, Clients::read(clients))
}

fn broadcasts(c: &mut Criterion) {
    let (sockets, raw_clients) = raw();
    let (_connections, server, own_clients) = own();
    let handle = server.handle();
    for (name, size) in [
        ("64B", 64),
        ("4KiB", 4 << 10),
        ("64KiB", 64 << 10),
        ("1MiB", 1 << 20),
    ] {
        let mut group = c.benchmark_group(format!("broadcast_to_100_{name}"));
        group.throughput(Throughput::Elements(1));
        let payload = Bytes::from(vec![b'x'; size]);
        let mut frame = match size {
            0..126 => vec![0x82, size as u8],
            126..=0xffff => vec![0x82, 126, (size >> 8) as u8, size as u8],
            _ => [&[0x82, 127], &(size as u64).to_be_bytes()[..]].concat(),
        };
        frame.extend_from_slice(&payload);
        group.bench_function("raw", |b| {
            b.iter_custom(|n| {
                raw_clients.time(n, frame.len(), || {
                    for mut socket in &sockets {
                        socket.write_all(&frame).unwrap();
                    }
                })
            });
        });
        group.bench_function("own", |b| {
            b.iter_custom(|n| {
                own_clients.time(n, frame.len(), || {
                    let missed = handle.broadcast(payload.clone());
                    assert!(missed.is_empty());
                })
            });
        });
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3));
    targets = broadcasts
}
criterion_main!(benches);
