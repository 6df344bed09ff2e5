//! Compares settings of the compression: one-way messages per second between two connections of
//! this crate, for data of three kinds. Prints the bytes sent per byte of payload, too.
//!
//! Run it with `cargo bench --features deflate --bench deflate`. Compare only the lines of one run
//! with each other, because machines differ and other programs use them too.

// The items that `criterion_group!` generates have no docs.
#![allow(missing_docs)]

use std::thread;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rtcbot_websocket::{Deflate, Message, Options, Server, Websocket, json};

/// Pages of this crate: prose, with tables and some code.
const PROSE: [&str; 4] = [
    include_str!("../docs/design.md"),
    include_str!("../docs/scaling.md"),
    include_str!("../docs/from-rtcbot.md"),
    include_str!("../docs/embedding.md"),
];

/// Pseudorandom numbers (xorshift64), the same ones in each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Returns a number from 0 to `limit`, with four digits after the point.
    fn up_to(&mut self, limit: f64) -> f64 {
        let number = self.next() as f64 / u64::MAX as f64 * limit;
        (number * 1e4).round() / 1e4
    }
}

/// A robot's state as JSON: about 150 bytes.
fn telemetry() -> Vec<Message> {
    let random = &mut Random(1);
    let state = |number: u64| {
        Message::from(json!({
            "number": number,
            "milliseconds": number * 50,
            "x": random.up_to(20.0),
            "y": random.up_to(20.0),
            "theta": random.up_to(6.0),
            "speed": random.up_to(2.0),
            "battery": 20.0 + random.up_to(5.0),
            "left": random.next() % 4096,
            "right": random.next() % 4096,
            "driving": true,
        }))
    };
    (0..4096).map(state).collect()
}

/// Prose in messages of about 4 KiB. Together they are longer than a window, so no message finds
/// itself in it.
fn prose() -> Vec<Message> {
    let all = PROSE.concat();
    let parts = all.as_bytes().chunks_exact(4 << 10);
    parts
        .map(|part| Message::from(String::from_utf8_lossy(part).into_owned()))
        .collect()
}

/// Data that cannot be compressed, in messages of 64 KiB.
fn noise() -> Vec<Message> {
    let random = &mut Random(2);
    let mut message = || {
        (0..64 << 10)
            .map(|_| random.next() as u8)
            .collect::<Vec<u8>>()
    };
    (0..16).map(|_| Message::from(message())).collect()
}

/// Starts a server that reads the number of messages in a text, then receives that many, and
/// answers the last one.
fn sink(options: &Options) -> String {
    let server = Server::bind("127.0.0.1:0").unwrap();
    let (url, options) = (server.url().to_owned(), options.clone());
    thread::spawn(move || {
        for request in server {
            let ws = options.accept(request);
            thread::spawn(move || receive(&ws));
        }
    });
    url
}

fn receive(ws: &Websocket) -> Option<()> {
    let messages = ws.subscribe();
    loop {
        let count: u64 = messages.get().ok()?.as_str()?.parse().ok()?;
        for _ in 0..count {
            messages.get().ok()?;
        }
        ws.put("done").ok()?;
    }
}

fn sends(c: &mut Criterion) {
    let new = Deflate::new;
    let alone = |deflate: Deflate| {
        deflate
            .client_no_context_takeover(true)
            .server_no_context_takeover(true)
    };
    let settings = [
        ("off", None),
        ("level 1", Some(new())),
        ("level 1, without takeover", Some(alone(new()))),
        ("level 6", Some(new().level(6))),
        ("level 6, without takeover", Some(alone(new().level(6)))),
    ];
    let data = [
        ("json_150B", telemetry()),
        ("prose_4KiB", prose()),
        ("noise_64KiB", noise()),
    ];
    for (kind, messages) in data {
        let mut group = c.benchmark_group(kind);
        group.throughput(Throughput::Elements(1));
        for (name, deflate) in &settings {
            let options = Options::new().json(false).deflate(deflate.clone());
            let ws = options.connect(sink(&options)).unwrap();
            ws.wait_ready().unwrap();
            let mut endless = messages.iter().cycle();
            let mut payload = 0;
            group.bench_function(*name, |b| {
                b.iter_custom(|n| {
                    let start = Instant::now();
                    ws.put(n.to_string()).unwrap();
                    for message in endless.by_ref().take(n as usize) {
                        payload += message.len();
                        ws.put(message.clone()).unwrap();
                    }
                    ws.get().unwrap();
                    start.elapsed()
                });
            });
            let ratio = ws.stats().bytes_out as f64 / payload as f64;
            eprintln!("{kind}/{name}: {ratio:.3} bytes sent per byte");
        }
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3));
    targets = sends
}
criterion_main!(benches);
