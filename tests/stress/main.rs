//! Clients and servers under random load, over TCP and TLS, through proxies that refuse, cut,
//! reset, stall and slow down connections.
//!
//! Ignored unless asked for. Each test takes `RTCBOT_STRESS_MINUTES`, 1 by default:
//!
//! ```text
//! RTCBOT_STRESS_MINUTES=30 cargo test --release --test stress -- --ignored --nocapture
//! ```
//!
//! The heaps that glibc has for each thread grow for a while. With `MALLOC_ARENA_MAX=1` the memory
//! that is printed is the memory in use.
#![cfg(target_os = "linux")]
#![allow(unreachable_pub)] // `pub` stands for what the other files of the test use.

mod load;
mod reconnecting;
mod short_lived;
#[path = "../testkit/mod.rs"]
mod testkit;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, bounded};
use parking_lot::Mutex;
use rtcbot_websocket::{Error, Options, Request, Server};
use testkit::proxy::{self, Proxy};
use testkit::{DEADLINE, threads_named};

/// A client that has made no progress for this long hangs: no fault of the proxies lasts as long.
const HANG: Duration = Duration::from_secs(60);

/// The tests run one after the other: each looks at the threads and descriptors of the process.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
#[ignore = "takes RTCBOT_STRESS_MINUTES, 1 by default"]
fn reconnecting_clients_miss_no_more_than_statistics_admit() {
    let _alone = ALONE.lock();
    let losses = Arc::new(reconnecting::Losses::default());
    let (serving, calling) = (losses.clone(), losses.clone());
    stress(Load {
        clients: 12,
        serve: Box::new(move |_, request, _| reconnecting::serve(&serving, request)),
        call: Box::new(move |world, client| reconnecting::call(world, &calling, client)),
    });
    losses.check();
}

#[test]
#[ignore = "takes RTCBOT_STRESS_MINUTES, 1 by default"]
fn messages_arrive_in_order_and_all_of_them_when_the_connection_is_closed() {
    let _alone = ALONE.lock();
    let deliveries = Arc::new(short_lived::Deliveries::default());
    let (serving, calling) = (deliveries.clone(), deliveries.clone());
    stress(Load {
        clients: 4,
        serve: Box::new(move |world, request, options| {
            short_lived::serve(world, &serving, request, options);
        }),
        call: Box::new(move |world, client| short_lived::call(world, &calling, client)),
    });
    deliveries.check();
}

/// What the clients and the servers do.
struct Load {
    /// How many clients there are for each server.
    clients: usize,
    serve: Serve,
    /// Runs one client until the world is over.
    call: Call,
}

type Serve = Box<dyn Fn(&World, Request, &Options) + Send + Sync>;
type Call = Box<dyn Fn(&World, &Client) + Send + Sync>;

struct Client {
    /// Unique among all clients.
    number: usize,
    url: String,
    /// How to reach its server.
    options: Options,
}

/// What all threads of a test share.
#[derive(Default)]
struct World {
    over: AtomicBool,
    failed: AtomicBool,
    /// For each client, a number that grows with all that it does.
    progress: Vec<AtomicU64>,
    counters: Counters,
    network: Arc<proxy::Counters>,
    /// How often connections ended for which reason.
    ends: Mutex<BTreeMap<String, u64>>,
}

#[derive(Default)]
struct Counters {
    connections: AtomicU64,
    reconnects: AtomicU64,
    to_servers: AtomicU64,
    to_clients: AtomicU64,
    bytes: AtomicU64,
    clean: AtomicU64,
}

fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl World {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn has_progressed(&self, client: usize) {
        add(&self.progress[client], 1);
    }

    fn has_ended(&self, side: &str, reason: &Error) {
        let reason = format!("{reason:?}");
        let kind = reason.split(['(', ' ']).next().unwrap_or_default();
        *self
            .ends
            .lock()
            .entry(format!("{side} {kind}"))
            .or_default() += 1;
    }

    fn report(&self, since: Instant) {
        let Counters {
            connections,
            reconnects,
            to_servers,
            to_clients,
            bytes,
            clean,
        } = &self.counters;
        println!(
            "{:4} s: {} connections, {} reconnects, {} messages to servers, {} to clients, \
            {} MiB; {} closed in order; {}; {} KiB resident, {} threads ({} of the crate), \
            {} descriptors",
            since.elapsed().as_secs(),
            get(connections),
            get(reconnects),
            get(to_servers),
            get(to_clients),
            get(bytes) >> 20,
            get(clean),
            self.network,
            testkit::resident() >> 10,
            threads_named(""),
            threads_named("ws-"),
            descriptors(),
        );
    }
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Marks the test as failed when its thread panics.
struct Watched(Arc<World>);

impl Drop for Watched {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.failed.store(true, Ordering::Relaxed);
        }
    }
}

fn servers() -> Vec<(Server, Options, &'static str)> {
    let plain = Server::bind("127.0.0.1:0").unwrap();
    #[cfg(feature = "native-tls")]
    let tls = {
        let pki = testkit::tls::pki();
        (pki.server(), pki.options(), "wss")
    };
    vec![
        (plain, Options::new(), "ws"),
        #[cfg(feature = "native-tls")]
        tls,
    ]
}

/// Runs `load` for as long as the environment says. Panics if a client hangs, a thread panics, or
/// a thread or a descriptor is left in the end.
fn stress(load: Load) {
    let minutes = std::env::var("RTCBOT_STRESS_MINUTES").map_or(1.0, |text| text.parse().unwrap());
    let time = Duration::from_secs_f64(60.0 * minutes);
    let before = (descriptors(), threads_named("ws-"));
    let begun = Instant::now();
    let servers = servers();
    let world = Arc::new(World {
        progress: (0..servers.len() * load.clients)
            .map(|_| AtomicU64::new(0))
            .collect(),
        ..World::default()
    });
    let load = Arc::new(load);

    // Each thread has a clone; the channel is disconnected when all have returned.
    let (running, all_returned) = bounded::<()>(0);
    let mut handles = Vec::new();
    let mut proxies = Vec::new();
    for (n, (server, options, scheme)) in servers.into_iter().enumerate() {
        handles.push(server.handle());
        let to = server.local_addr().unwrap();
        let proxy = Proxy::start(to, n as u64, world.network.clone());
        let port = proxy.address.port();
        proxies.push(proxy);
        let (own_world, own_load, own_running) = (world.clone(), load.clone(), running.clone());
        let own_options = options.clone();
        thread::spawn(move || {
            server.serve(move |request| {
                let watched = Watched(own_world.clone());
                (own_load.serve)(&watched.0, request, &own_options);
            });
            drop(own_running);
        });
        for i in 0..load.clients {
            let number = n * load.clients + i;
            let client = Client {
                number,
                url: format!("{scheme}://localhost:{port}/{number}"),
                options: options.clone(),
            };
            let (world, load, running) = (world.clone(), load.clone(), running.clone());
            thread::spawn(move || {
                let watched = Watched(world);
                (load.call)(&watched.0, &client);
                drop(running);
            });
        }
    }
    drop((running, load));

    let mut moved: Vec<(u64, Instant)> = vec![(0, begun); world.progress.len()];
    let mut reported = begun;
    while let Err(RecvTimeoutError::Timeout) = all_returned.recv_timeout(Duration::from_secs(1)) {
        assert!(!world.failed.load(Ordering::Relaxed), "see above");
        if !world.is_over() {
            for (client, (seen, when)) in moved.iter_mut().enumerate() {
                let now = get(&world.progress[client]);
                if now != *seen {
                    (*seen, *when) = (now, Instant::now());
                }
                let hangs = when.elapsed() > HANG;
                assert!(!hangs, "client {client} has made no progress in {HANG:?}");
            }
        }
        if reported.elapsed() >= Duration::from_secs(30) {
            reported = Instant::now();
            world.report(begun);
        }
        if begun.elapsed() > time && !world.over.swap(true, Ordering::Relaxed) {
            for handle in &handles {
                let _ = handle.shutdown(Duration::from_secs(5));
            }
        }
        assert!(begun.elapsed() < time + HANG, "it does not come to an end");
    }
    drop((handles, proxies));
    world.report(begun);
    println!("{:#?}", world.ends.lock());
    assert!(!world.failed.load(Ordering::Relaxed), "see above");
    assert!(get(&world.counters.to_servers) + get(&world.counters.to_clients) > 0);
    let left = Instant::now();
    while descriptors() > before.0 || threads_named("ws-") > before.1 {
        if left.elapsed() > DEADLINE {
            panic!(
                "before: {before:?} descriptors and threads, now:\n{}",
                open_now()
            );
        }
        thread::yield_now();
    }
}

/// Lists the threads, the descriptors and the TCP connections of this process.
fn open_now() -> String {
    let names = |folder: &str| {
        std::fs::read_dir(folder)
            .unwrap()
            .flatten()
            .map(|it| it.path())
    };
    let threads = names("/proc/self/task").map(|task| {
        let name = std::fs::read_to_string(task.join("comm")).unwrap_or_default();
        format!("thread {}", name.trim())
    });
    let descriptors =
        names("/proc/self/fd").map(|it| format!("{} {:?}", it.display(), std::fs::read_link(&it)));
    let tcp = std::fs::read_to_string("/proc/self/net/tcp").unwrap_or_default();
    let lines: Vec<_> = threads.chain(descriptors).chain([tcp]).collect();
    lines.join("\n")
}
