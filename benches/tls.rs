//! Compares this crate with raw blocking tungstenite, both over TLS: round trips, and messages in
//! both directions at once.
//!
//! Run it with `cargo bench --bench tls`. Compare only the lines of one run with each other,
//! because machines differ and other programs use them too.

// The items that `criterion_group!` generates have no docs.
#![allow(missing_docs)]

use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rtcbot_websocket::native_tls::{Certificate, Identity, TlsAcceptor, TlsConnector, TlsStream};
use rtcbot_websocket::{Message, Options, Server, Subscription, Websocket};
use tungstenite::Message as Wire;

/// The certificate, generated at the start.
struct Pki {
    certificate: String,
    identity: Identity,
}

impl Pki {
    fn new() -> Self {
        let names = ["localhost", "127.0.0.1"].map(str::to_owned);
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(names).unwrap();
        let (certificate, key) = (cert.pem(), signing_key.serialize_pem());
        Pki {
            identity: Identity::from_pkcs8(certificate.as_bytes(), key.as_bytes()).unwrap(),
            certificate,
        }
    }

    fn connector(&self) -> TlsConnector {
        let root = Certificate::from_pem(self.certificate.as_bytes()).unwrap();
        let mut builder = TlsConnector::builder();
        builder.add_root_certificate(root).build().unwrap()
    }

    fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::new(self.identity.clone()).unwrap()
    }
}

type Raw = tungstenite::WebSocket<TlsStream<TcpStream>>;

fn raw_accept(acceptor: &TlsAcceptor, stream: TcpStream) -> Raw {
    stream.set_nodelay(true).unwrap();
    tungstenite::accept(acceptor.accept(stream).unwrap()).unwrap()
}

fn raw_client(pki: &Pki, url: &str) -> Raw {
    let stream = TcpStream::connect(url.trim_start_matches("wss://")).unwrap();
    stream.set_nodelay(true).unwrap();
    let stream = pki.connector().connect("127.0.0.1", stream).unwrap();
    tungstenite::client(url, stream).unwrap().0
}

/// Starts an echo server on raw blocking tungstenite: one thread per connection.
fn raw_server(pki: &Pki) -> String {
    let acceptor = pki.acceptor();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("wss://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (acceptor, stream) = (acceptor.clone(), stream.unwrap());
            thread::spawn(move || {
                let mut ws = raw_accept(&acceptor, stream);
                while let Ok(message) = ws.read() {
                    let echo = message.is_text() || message.is_binary();
                    if echo && ws.send(message).is_err() {
                        return;
                    }
                }
            });
        }
    });
    url
}

/// Returns a client and the server's end of the same connection.
fn raw_pair(pki: &Pki) -> (Raw, Raw) {
    let acceptor = pki.acceptor();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("wss://{}", listener.local_addr().unwrap());
    let accepted = thread::spawn(move || raw_accept(&acceptor, listener.accept().unwrap().0));
    (raw_client(pki, &url), accepted.join().unwrap())
}

fn client(pki: &Pki, url: &str) -> Websocket {
    let options = Options::new()
        .json(false)
        .root_certificate_pem(&*pki.certificate);
    let ws = options.connect(url).unwrap();
    ws.wait_ready().unwrap();
    ws
}

/// Starts an echo server on this crate: one thread per connection, `get` and `put`.
fn server(pki: &Pki) -> String {
    let server = Server::bind("127.0.0.1:0")
        .unwrap()
        .tls(pki.identity.clone())
        .unwrap();
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

/// One end of a connection, and its received messages.
type End = (Websocket, Subscription<Message>);

/// Returns a client and the server's end of the same connection.
fn pair(pki: &Pki) -> (End, End) {
    let mut server = Server::bind("127.0.0.1:0")
        .unwrap()
        .tls(pki.identity.clone())
        .unwrap();
    let url = server.url().to_owned();
    let accepted = thread::spawn(move || {
        let ws = Options::new().json(false).accept(server.next().unwrap());
        ws.wait_ready().unwrap();
        ws
    });
    let near = client(pki, &url);
    let far = accepted.join().unwrap();
    let [near_incoming, far_incoming] = [&near, &far].map(Websocket::subscribe);
    ((near, near_incoming), (far, far_incoming))
}

fn round_trip(c: &mut Criterion) {
    let pki = Pki::new();
    let mut group = c.benchmark_group("tls_round_trip_64B");
    let raw_url = raw_server(&pki);
    let own_url = server(&pki);

    let mut raw = raw_client(&pki, &raw_url);
    let payload = Wire::text("x".repeat(64));
    group.bench_function("raw client, raw server", |b| {
        b.iter(|| {
            raw.send(payload.clone()).unwrap();
            raw.read().unwrap()
        });
    });

    let message = Message::from("x".repeat(64));
    for (name, url) in [("raw", &raw_url), ("own", &own_url)] {
        let ws = client(&pki, url);
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

fn raw_send(ws: &mut Raw, payload: &Wire, n: u64) {
    for _ in 0..n {
        ws.write(payload.clone()).unwrap();
    }
    ws.flush().unwrap();
}

fn raw_receive(ws: &mut Raw, n: u64) {
    for _ in 0..n {
        ws.read().unwrap();
    }
}

fn own_send(ws: &Websocket, message: &Message, n: u64) {
    for _ in 0..n {
        ws.put(message.clone()).unwrap();
    }
}

fn own_receive(subscription: &Subscription<Message>, n: u64) {
    for _ in 0..n {
        subscription.get().unwrap();
    }
}

/// One element is one message in each direction. The time ends when the last message has arrived on
/// both sides.
fn both_directions(c: &mut Criterion) {
    let pki = Pki::new();
    let mut group = c.benchmark_group("tls_both_directions_256B");
    group.throughput(Throughput::Elements(1));
    let payload = Wire::binary(vec![b'x'; 256]);
    let message = Message::from(vec![b'x'; 256]);

    let (mut up_from, mut up_to) = raw_pair(&pki);
    let (mut down_to, mut down_from) = raw_pair(&pki);
    group.bench_function("two raw connections, one way each", |b| {
        b.iter_custom(|n| {
            let start = Instant::now();
            thread::scope(|scope| {
                scope.spawn(|| raw_send(&mut up_from, &payload, n));
                scope.spawn(|| raw_receive(&mut up_to, n));
                scope.spawn(|| raw_send(&mut down_from, &payload, n));
                scope.spawn(|| raw_receive(&mut down_to, n));
            });
            start.elapsed()
        });
    });

    let ((near, near_incoming), (far, far_incoming)) = pair(&pki);
    group.bench_function("one own connection, both ways", |b| {
        b.iter_custom(|n| {
            let start = Instant::now();
            thread::scope(|scope| {
                scope.spawn(|| own_send(&near, &message, n));
                scope.spawn(|| own_receive(&far_incoming, n));
                scope.spawn(|| own_send(&far, &message, n));
                scope.spawn(|| own_receive(&near_incoming, n));
            });
            start.elapsed()
        });
    });
    group.finish();
}

/// The same in one direction, to separate the effect of the shared TLS session.
fn one_direction(c: &mut Criterion) {
    let pki = Pki::new();
    let mut group = c.benchmark_group("tls_one_direction_256B");
    group.throughput(Throughput::Elements(1));

    let (mut from, mut to) = raw_pair(&pki);
    let payload = Wire::binary(vec![b'x'; 256]);
    group.bench_function("raw", |b| {
        b.iter_custom(|n| {
            let start = Instant::now();
            thread::scope(|scope| {
                scope.spawn(|| raw_send(&mut from, &payload, n));
                scope.spawn(|| raw_receive(&mut to, n));
            });
            start.elapsed()
        });
    });

    let ((near, _near_incoming), (_far, far_incoming)) = pair(&pki);
    let message = Message::from(vec![b'x'; 256]);
    group.bench_function("own", |b| {
        b.iter_custom(|n| {
            let start = Instant::now();
            thread::scope(|scope| {
                scope.spawn(|| own_send(&near, &message, n));
                scope.spawn(|| own_receive(&far_incoming, n));
            });
            start.elapsed()
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3));
    targets = round_trip, both_directions, one_direction
}
criterion_main!(benches);
