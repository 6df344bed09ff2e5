//! A cable that is pulled: two network namespaces, a pair of virtual devices between them, and one of them
//! goes down. The system tells neither side.
//!
//! Needs Linux, root and `ip` (iproute2); where they are missing, each test says that it skips.
#![cfg(target_os = "linux")]

mod rig;

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rig::{DEADLINE, eventually, within};
use rtcbot_websocket::{Error, Message, Options, Queue, Server, Websocket};

const MS: Duration = Duration::from_millis(1);

/// What a process of these tests is to do in its namespace.
const ROLE: &str = "RTCBOT_WEBSOCKET_CABLE";

/// Two namespaces and a cable between them; removed when this is dropped.
struct Cable {
    names: [String; 2],
}

const NEAR: &str = "10.77.0.1";
const FAR: &str = "10.77.0.2";

impl Cable {
    /// `None` where a cable cannot be laid.
    fn lay() -> Option<Cable> {
        static LAID: AtomicU32 = AtomicU32::new(0);
        let number = LAID.fetch_add(1, Ordering::Relaxed);
        let process = std::process::id();
        let names = ["near", "far"].map(|end| format!("rtcbot-{process}-{number}-{end}"));
        // Removed also where only the first half comes about.
        let cable = Cable { names };
        let [near, far] = &cable.names;
        let laid = ip(&["netns", "add", near])
            && ip(&["netns", "add", far])
            && ip(&["-n", near, "link", "add", "cable", "type", "veth", "peer", "cable", "netns", far])
            && [(near, NEAR), (far, FAR)].iter().all(|(name, address)| {
                ip(&["-n", name, "address", "add", &format!("{address}/24"), "dev", "cable"])
                    && ip(&["-n", name, "link", "set", "cable", "up"])
                    && ip(&["-n", name, "link", "set", "lo", "up"])
            });
        if !laid {
            eprintln!("skipped: there are no network namespaces to be had (needs root and iproute2)");
        }
        laid.then_some(cable)
    }

    /// Runs the test of this name at one end, to play this role.
    fn run(&self, end: usize, test: &str, role: &str) -> Player {
        let mut child = Command::new("ip")
            .args(["netns", "exec", &self.names[end]])
            .arg(std::env::current_exe().unwrap())
            .args([test, "--exact", "--nocapture"])
            .env(ROLE, role)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        Player { child, said }
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for name in &self.names {
            ip(&["netns", "delete", name]);
        }
    }
}

fn ip(arguments: &[&str]) -> bool {
    let ip = Command::new("ip").args(arguments).stderr(Stdio::null()).status();
    ip.is_ok_and(|status| status.success())
}

/// Pulls the cable of the namespace that this process is in.
fn pull() {
    assert!(ip(&["link", "set", "cable", "down"]));
}

/// A process at one end of the cable.
struct Player {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Player {
    /// What it says behind this word.
    fn hear(&mut self, word: &str) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            let n = self.said.read_line(&mut line).unwrap();
            assert!(n > 0, "it ended without {word:?}");
            if let Some((_, rest)) = line.split_once(word) {
                return rest.trim().to_owned();
            }
        }
    }

    fn ends_well(mut self) {
        let status = within(5 * DEADLINE, move || self.child.wait().unwrap());
        assert!(status.success(), "{status}");
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Lets both ends of a cable play their roles: `far` says the URL that it listens on, `near` is given it.
fn play(test: &str, far: fn(), near: fn(&str)) {
    match std::env::var(ROLE) {
        Ok(role) if role == "far" => far(),
        Ok(url) => near(&url),
        Err(_) => {
            let Some(cable) = Cable::lay() else { return };
            let mut far = cable.run(1, test, "far");
            let url = far.hear("listening on ");
            cable.run(0, test, &url).ends_well();
        }
    }
}

/// A server whose every connection reads a little now and then.
fn slow_readers(server: Server) {
    println!("listening on {}", server.url());
    server.serve(|request| {
        let ws = Options::new().receive_queue(Queue::Block(1)).accept(request);
        let _ = ws.put("hello");
        while ws.get().is_ok() {
            thread::sleep(20 * MS);
        }
    });
}

const TIME: Duration = Duration::from_millis(1000);

/// Floods the server over several connections, pulls the cable, and looks at when each of them notices.
fn flood_until_the_cable_is_pulled(options: &mut Options, url: &str) {
    options.json(false).ping_interval(TIME).ping_timeout(TIME).send_queue(64 << 10);
    // The reader has something to hand out that nobody takes, so that it is for the writer to notice.
    options.paused(true);
    let flooding: Vec<Websocket> = (0..10).map(|_| options.connect(url).unwrap()).collect();
    for ws in &flooding {
        ws.wait_ready_timeout(DEADLINE).unwrap();
        let ws = ws.clone();
        let message = Message::from(vec![0; 20_000]);
        thread::spawn(move || while ws.put(message.clone()).is_ok() {});
    }
    eventually("all are held back", || {
        let stats = flooding.iter().map(Websocket::stats);
        stats.into_iter().all(|stats| stats.bytes_out > 1 << 20 && stats.messages_in == 1)
    });
    thread::sleep(TIME);
    pull();
    let pulled = Instant::now();
    let noticing: Vec<_> = flooding
        .into_iter()
        .map(|ws| {
            thread::spawn(move || {
                let error = ws.wait_error_timeout(DEADLINE).unwrap();
                (pulled.elapsed(), error)
            })
        })
        .collect();
    let noticed: Vec<_> = noticing.into_iter().map(|thread| thread.join().unwrap()).collect();
    eprintln!("{noticed:?}");
    for (after, error) in noticed {
        assert!(matches!(error, Some(Error::PingTimeout { .. })), "{error:?}");
        assert!(after < 3 * TIME, "noticed after {after:?}");
    }
}

#[test]
fn a_cable_that_is_pulled_in_mid_write_is_noticed_in_the_promised_time() {
    play(
        "a_cable_that_is_pulled_in_mid_write_is_noticed_in_the_promised_time",
        || slow_readers(Server::bind((FAR, 0)).unwrap()),
        |url| flood_until_the_cable_is_pulled(&mut Options::new(), url),
    );
}

#[cfg(feature = "native-tls")]
#[test]
fn a_cable_that_is_pulled_in_mid_write_is_noticed_in_the_promised_time_over_tls() {
    play(
        "a_cable_that_is_pulled_in_mid_write_is_noticed_in_the_promised_time_over_tls",
        || slow_readers(Server::bind_tls((FAR, 0), rig::tls::pki().identity.clone()).unwrap()),
        |url| {
            flood_until_the_cable_is_pulled(Options::new().danger_accept_invalid_certs(true), url);
        },
    );
}
