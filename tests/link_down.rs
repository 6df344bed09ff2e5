//! A network link that goes down: two network namespaces, a pair of virtual devices between them,
//! and one of these is set down. The system reports it to neither side.
//!
//! Needs Linux, root and `ip` (iproute2). Where these are missing, each test reports that it is
//! skipped.
#![cfg(target_os = "linux")]

mod testkit;

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rtcbot_websocket::{Backoff, Error, Message, Options, Queue, Request, Server, Websocket};
use testkit::{DEADLINE, eventually, failure, within};

const MS: Duration = Duration::from_millis(1);

/// What a process of these tests does in its namespace.
const ROLE: &str = "RTCBOT_WEBSOCKET_ROLE";

/// Two namespaces and a link between them; removed when this is dropped.
struct Link {
    names: [String; 2],
}

const NEAR: &str = "10.77.0.1";
const FAR: &str = "10.77.0.2";

/// For the near end: there is a name server at the far one.
const RESOLV_CONF: &str = "nameserver 10.77.0.2\noptions timeout:30 attempts:1\n";

impl Link {
    /// Returns `None` where no link can be made.
    fn make() -> Option<Link> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let process = std::process::id();
        let names = ["near", "far"].map(|end| format!("rtcbot-{process}-{number}-{end}"));
        // Removed also if only the first half succeeds.
        let link = Link { names };
        let [near, far] = &link.names;
        let made = ip(&["netns", "add", near])
            && ip(&["netns", "add", far])
            && ip(&[
                "-n", near, "link", "add", "cable", "type", "veth", "peer", "cable", "netns", far,
            ])
            && [(near, NEAR), (far, FAR)].iter().all(|(name, address)| {
                ip(&[
                    "-n",
                    name,
                    "address",
                    "add",
                    &format!("{address}/24"),
                    "dev",
                    "cable",
                ]) && ip(&["-n", name, "link", "set", "cable", "up"])
                    && ip(&["-n", name, "link", "set", "lo", "up"])
            });
        let made = made
            && fs::create_dir_all(Link::etc(near)).is_ok()
            && fs::write(Link::etc(near).join("resolv.conf"), RESOLV_CONF).is_ok();
        if !made {
            // Printed where tests print their output.
            testkit::skip("there are no network namespaces to be had (needs root and iproute2)");
        }
        made.then_some(link)
    }

    /// Where `ip netns exec` finds the files that replace those in `/etc`.
    fn etc(name: &str) -> PathBuf {
        PathBuf::from("/etc/netns").join(name)
    }

    /// Runs the test of this name at one end, in this role.
    fn start(&self, end: usize, test: &str, role: &str) -> Process {
        let mut child = Command::new("ip")
            .args(["netns", "exec", &self.names[end]])
            .arg(std::env::current_exe().unwrap())
            .args([test, "--exact", "--nocapture"])
            .env(ROLE, role)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Process { child, output }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = fs::remove_dir_all(Link::etc(name));
            ip(&["netns", "delete", name]);
        }
    }
}

fn ip(arguments: &[&str]) -> bool {
    let ip = Command::new("ip")
        .args(arguments)
        .stderr(Stdio::null())
        .status();
    ip.is_ok_and(|status| status.success())
}

/// Sets down the link of the namespace that this process is in.
fn set_link_down() {
    assert!(ip(&["link", "set", "cable", "down"]));
}

/// A process at one end of the link.
struct Process {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Process {
    /// Returns the line that it prints after this word.
    fn read_after(&mut self, word: &str) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            let n = self.output.read_line(&mut line).unwrap();
            assert!(n > 0, "it ended without {word:?}");
            if let Some((_, rest)) = line.split_once(word) {
                return rest.trim().to_owned();
            }
        }
    }

    fn succeeds(mut self) {
        let status = within(5 * DEADLINE, move || self.child.wait().unwrap());
        assert!(status.success(), "{status}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the two ends of a link do in a test, each in a process of its own.
struct Scenario {
    /// Prints where it listens, and serves.
    server: fn(),
    /// Receives what the server printed.
    client: fn(&str),
    /// Which end the server is at. The other one sets the link down, and decides the outcome.
    server_end: usize,
    deciding: usize,
}

impl Scenario {
    /// A server at the far end, and a client at the near one that sets the link down.
    fn link_down_at_client(client: fn(&str)) -> Self {
        Scenario {
            server: serve_all,
            client,
            server_end: FAR_END,
            deciding: NEAR_END,
        }
    }

    /// Runs the test of this name, which calls this, in each process.
    fn run(self, test: &str) {
        match std::env::var(ROLE) {
            Ok(role) if role == SERVER => (self.server)(),
            Ok(output) => (self.client)(&output),
            Err(_) => {
                let Some(link) = Link::make() else { return };
                let mut server = link.start(self.server_end, test, SERVER);
                let output = server.read_after("listening on ");
                let client = link.start(1 - self.server_end, test, &output);
                match self.deciding == self.server_end {
                    true => server.succeeds(),
                    false => client.succeeds(),
                }
            }
        }
    }
}

const NEAR_END: usize = 0;
const FAR_END: usize = 1;
const SERVER: &str = "server";

/// Serves over all transports until it is killed.
fn serve_all() {
    // Receives questions for names, and answers none.
    let _silent = UdpSocket::bind((FAR, 53)).unwrap();
    let servers = servers(FAR);
    println!("listening on {}", urls(&servers));
    let serving = servers
        .into_iter()
        .map(|server| thread::spawn(|| server.serve(peer)));
    for serving in serving.collect::<Vec<_>>() {
        serving.join().unwrap();
    }
}

fn servers(address: &str) -> Vec<Server> {
    vec![
        Server::bind((address, 0)).unwrap(),
        #[cfg(feature = "native-tls")]
        Server::bind((address, 0))
            .unwrap()
            .tls(testkit::tls::pki().identity)
            .unwrap(),
    ]
}

fn urls(servers: &[Server]) -> String {
    let urls: Vec<_> = servers.iter().map(Server::url).collect();
    urls.join(" ")
}

/// The path says what the far end does.
fn peer(request: Request) {
    let path = request.path().to_owned();
    let ws = Options::new()
        .receive_queue(Queue::Block(1))
        .accept(request);
    match path.as_str() {
        "/quiet" => while ws.get().is_ok() {},
        "/slow" => {
            let _ = ws.put("hello");
            while ws.get().is_ok() {
                thread::sleep(20 * MS);
            }
        }
        "/flood" => while ws.put(vec![0; 20_000]).is_ok() {},
        other => panic!("{other}"),
    }
}

/// Half of the time that is promised for a peer that disappears.
const TIME: Duration = Duration::from_secs(1);

fn options() -> Options {
    let options = Options::new()
        .json(false)
        .ping_interval(TIME)
        .ping_timeout(TIME)
        .close_timeout(TIME)
        .linger(TIME)
        .send_queue(64 << 10);
    #[cfg(feature = "native-tls")]
    let options = options.danger_accept_invalid_certs(true);
    options
}

/// Several connections to each server, all ready.
fn connections(urls: &str, path: &str, each: usize, options: &Options) -> Vec<Websocket> {
    let urls = urls
        .split(' ')
        .flat_map(|url| std::iter::repeat_n(url, each));
    let all: Vec<_> = urls
        .map(|url| options.connect(format!("{url}{path}")).unwrap())
        .collect();
    for ws in &all {
        ws.wait_ready_timeout(DEADLINE).unwrap();
    }
    all
}

/// Connections to peers that read slowly, with full buffers.
fn full_connections(urls: &str, each: usize) -> Vec<Websocket> {
    // The reader holds a message that no consumer takes, so the writer has to notice the end.
    let options = options().paused(true);
    let all = connections(urls, "/slow", each, &options);
    let message = Message::from(vec![0; 20_000]);
    for ws in &all {
        eventually("it is held back", || {
            let full = (0..4).any(|_| ws.put_timeout(message.clone(), 10 * MS).is_err());
            full && ws.stats().messages_in == 1
        });
    }
    all
}

/// Does this to each on a thread of its own, and returns how long it took each.
fn times<R: Send + 'static>(
    all: Vec<Websocket>,
    f: impl Fn(Websocket) -> R + Copy + Send + 'static,
) -> Vec<(Duration, R)> {
    let begun = Instant::now();
    let threads = all.into_iter().map(|ws| {
        thread::spawn(move || {
            let result = f(ws);
            (begun.elapsed(), result)
        })
    });
    let threads: Vec<_> = threads.collect();
    let times = threads.into_iter().map(|thread| thread.join().unwrap());
    times.collect()
}

/// All fail because the peer does not answer, within the promised time. A busy machine may be late
/// by half of it.
#[track_caller]
fn notice_in_time(all: Vec<Websocket>) {
    let noticed = times(all, |ws| failure(&ws));
    let mut fine = noticed.iter().map(|(after, error)| {
        matches!(error, Some(Error::PingTimeout { .. })) && *after < 3 * TIME
    });
    assert!(fine.all(|fine| fine), "{noticed:?}");
}

#[test]
fn a_link_that_goes_down_during_a_write_is_noticed_within_the_ping_times() {
    Scenario::link_down_at_client(|urls| {
        let all = full_connections(urls, 8);
        for ws in &all {
            let ws = ws.clone();
            thread::spawn(move || while ws.put(vec![0; 20_000]).is_ok() {});
        }
        // Some room has been made, though not enough for poll(2) to report.
        thread::sleep(TIME);
        set_link_down();
        notice_in_time(all);
    })
    .run("a_link_that_goes_down_during_a_write_is_noticed_within_the_ping_times");
}

#[test]
fn a_link_that_goes_down_during_a_read_is_noticed_within_the_ping_times() {
    Scenario::link_down_at_client(|urls| {
        let all = connections(urls, "/flood", 4, &options());
        for ws in &all {
            ws.subscribe_callback(|_| {});
        }
        eventually("much has come", || {
            let stats = all.iter().map(Websocket::stats);
            stats.into_iter().all(|stats| stats.bytes_in > 10 << 20)
        });
        set_link_down();
        notice_in_time(all);
    })
    .run("a_link_that_goes_down_during_a_read_is_noticed_within_the_ping_times");
}

#[test]
fn a_link_that_goes_down_under_an_idle_connection_is_noticed_within_the_ping_times() {
    Scenario::link_down_at_client(|urls| {
        let all = connections(urls, "/quiet", 4, &options());
        // Some have a ping on its way then, and some do not.
        thread::sleep(TIME + TIME / 2);
        set_link_down();
        notice_in_time(all);
    })
    .run("a_link_that_goes_down_under_an_idle_connection_is_noticed_within_the_ping_times");
}

/// Connections in all states, at the moment when the link goes down.
fn pulled(urls: &str) -> Vec<Websocket> {
    let mut all = full_connections(urls, 2);
    all.extend(connections(urls, "/quiet", 2, &options()));
    all.extend(connections(urls, "/flood", 2, &options()));
    set_link_down();
    all
}

#[test]
fn close_over_a_link_that_is_down_ends_within_the_close_timeout() {
    Scenario::link_down_at_client(|urls| {
        let closed = times(pulled(urls), |ws| ws.close());
        let mut fine = closed.iter().map(|(after, result)| {
            matches!(result, Err(Error::CloseTimeout { .. })) && *after < 2 * TIME
        });
        assert!(fine.all(|fine| fine), "{closed:?}");
    })
    .run("close_over_a_link_that_is_down_ends_within_the_close_timeout");
}

#[test]
fn a_link_that_goes_down_during_the_closing_handshake_does_not_delay_its_end() {
    Scenario::link_down_at_client(|urls| {
        // Their answers would come after everything that they have yet to read.
        let all = full_connections(urls, 4);
        thread::spawn(|| {
            thread::sleep(20 * MS);
            set_link_down();
        });
        let closed = times(all, |ws| ws.close());
        let mut fine = closed.iter().map(|(after, result)| {
            // One may have ended before.
            matches!(result, Ok(()) | Err(Error::CloseTimeout { .. })) && *after < 2 * TIME
        });
        assert!(fine.all(|fine| fine), "{closed:?}");
    })
    .run("a_link_that_goes_down_during_the_closing_handshake_does_not_delay_its_end");
}

#[test]
fn dropping_the_last_handle_over_a_link_that_is_down_ends_within_linger() {
    Scenario::link_down_at_client(|urls| {
        let dropped = times(pulled(urls), drop);
        assert!(
            dropped.iter().all(|(after, ())| *after < 2 * TIME),
            "{dropped:?}"
        );
    })
    .run("dropping_the_last_handle_over_a_link_that_is_down_ends_within_linger");
}

#[test]
fn a_server_shutdown_over_a_link_that_is_down_ends_within_its_timeout() {
    Scenario {
        server: || {
            let servers = servers(NEAR);
            println!("listening on {}", urls(&servers));
            let handles: Vec<_> = servers.iter().map(Server::handle).collect();
            for server in servers {
                thread::spawn(move || {
                    server.serve(|request| {
                        let options = options()
                            .ping_interval(None)
                            .close_timeout(DEADLINE)
                            .linger(DEADLINE);
                        let ws = options.accept(request);
                        while ws.put(vec![0; 20_000]).is_ok() {}
                    });
                });
            }
            for handle in &handles {
                eventually("clients", || {
                    let stats = handle.connections().into_iter().map(|ws| ws.stats());
                    stats.filter(|stats| stats.bytes_out > 1 << 20).count() == 4
                });
            }
            set_link_down();
            for handle in handles {
                let begun = Instant::now();
                handle.shutdown(TIME).unwrap();
                // The second that cutting may take is added.
                let after = begun.elapsed();
                assert!(after < 3 * TIME, "{after:?}");
            }
        },
        client: |urls| {
            let all = connections(urls, "/", 4, &options());
            for ws in all {
                while ws.get().is_ok() {
                    thread::sleep(20 * MS);
                }
            }
        },
        server_end: NEAR_END,
        deciding: NEAR_END,
    }
    .run("a_server_shutdown_over_a_link_that_is_down_ends_within_its_timeout");
}

#[test]
fn a_client_reconnects_within_one_attempt_and_one_wait_of_the_link_coming_up() {
    Scenario::link_down_at_client(|urls| {
        let options = options().connect_timeout(TIME).reconnect(
            Backoff::new()
                .initial(10 * MS)
                .max(TIME / 2)
                // Without the maximum wait, the fourth one would be ten seconds.
                .factor(10.0),
        );
        let all = connections(urls, "/quiet", 2, &options);
        set_link_down();
        eventually("all have noticed", || !all.iter().any(Websocket::is_ready));
        // Some attempts fail.
        thread::sleep(3 * TIME);
        assert!(ip(&["link", "set", "cable", "up"]));
        let back = times(all, |ws| ws.wait_ready_timeout(DEADLINE));
        let mut fine = back
            .iter()
            .map(|(after, result)| result.is_ok() && *after < 3 * TIME);
        assert!(fine.all(|fine| fine), "{back:?}");
    })
    .run("a_client_reconnects_within_one_attempt_and_one_wait_of_the_link_coming_up");
}

/// Tries to connect where nothing answers. The attempt ends in time, at this stage.
fn try_to_connect(url: &str, awaited: &str) {
    let begun = Instant::now();
    let ws = options().connect_timeout(TIME).connect(url).unwrap();
    match ws.wait_ready_timeout(DEADLINE) {
        Err(Error::ConnectTimeout { stage, .. }) => assert_eq!(stage, awaited),
        other => panic!("{other:?}"),
    }
    let after = begun.elapsed();
    assert!(after < 2 * TIME, "{after:?}");
}

#[test]
fn an_address_that_does_not_answer_is_tried_no_longer_than_the_connect_timeout() {
    Scenario::link_down_at_client(|_| try_to_connect("ws://10.77.0.99/", "a TCP connection"))
        .run("an_address_that_does_not_answer_is_tried_no_longer_than_the_connect_timeout");
}

#[test]
fn a_name_server_that_does_not_answer_is_waited_for_no_longer_than_the_connect_timeout() {
    Scenario::link_down_at_client(|_| {
        let asked = fs::read_to_string("/etc/resolv.conf").unwrap();
        assert_eq!(asked, RESOLV_CONF);
        try_to_connect("ws://robot.example/", "the look-up of the host's name");
    })
    .run("a_name_server_that_does_not_answer_is_waited_for_no_longer_than_the_connect_timeout");
}
