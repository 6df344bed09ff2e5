//! How the crate behaves in another program's process: each sentence of `docs/embedding.md`.
#![cfg(target_os = "linux")]

#[path = "../testkit/mod.rs"]
mod testkit;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::{CommandExt, parent_id};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rtcbot_websocket::{Error, Message, Options, Queue, Server, Source, Websocket};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use testkit::wire::{Wire, over_each};
use testkit::{DEADLINE, alone, eventually, failure, own_address, within};

const MS: Duration = Duration::from_millis(1);

/// Set where a test runs in a process of its own, after the prefix of its command.
const INSIDE: &str = "RTCBOT_WEBSOCKET_EMBEDDED";

/// Runs this test in a process of its own, started by `before`, with these variables. Returns
/// `None` in that process.
fn inside(test: &str, before: &[&str], variables: &[(&str, &str)]) -> Option<Output> {
    if std::env::var_os(INSIDE).is_some() {
        return None;
    }
    let this = std::env::current_exe().unwrap();
    let mut command = match before {
        [] => Command::new(this),
        [program, arguments @ ..] => {
            let mut command = Command::new(program);
            command.args(arguments).arg(this);
            command
        }
    };
    command
        .args([test, "--exact", "--nocapture"])
        .env(INSIDE, test)
        .envs(variables.iter().copied());
    Some(within(10 * DEADLINE, move || command.output().unwrap()))
}

/// As [`inside`], for a process that must succeed.
#[track_caller]
fn runs_inside(test: &str, before: &[&str], variables: &[(&str, &str)]) -> bool {
    let Some(output) = inside(test, before, variables) else {
        return true;
    };
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{}; it said:\n{told}",
        output.status
    );
    false
}

/// As [`inside`], with a helper that does this when it is asked for the parent's number.
#[track_caller]
fn with_helper(test: &str, does: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let Some(library) = testkit::preload::library("embedding/helper.c") else {
        return testkit::skip("there is no C compiler");
    };
    let preload = library.to_str().unwrap();
    runs_inside(
        test,
        &[],
        &[("LD_PRELOAD", preload), ("RTCBOT_WEBSOCKET_DOES", does)],
    );
}

/// The sockets of this process: descriptor and flags.
fn sockets() -> BTreeMap<u32, String> {
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap();
    let sockets = descriptors.filter_map(|entry| {
        let entry = entry.unwrap();
        let target = std::fs::read_link(entry.path()).ok()?;
        let number = entry.file_name().to_str()?.parse().ok()?;
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).ok()?;
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
        let is_socket = target.to_str()?.starts_with("socket:");
        is_socket.then(|| (number, flags.trim().to_owned()))
    });
    sockets.collect()
}

/// The threads of this crate in this process, and the file of that name of each.
fn threads(file: &str) -> Vec<(String, String)> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let tasks = tasks.filter_map(|task| {
        let task = task.unwrap().path();
        let name = std::fs::read_to_string(task.join("comm")).ok()?;
        let text = std::fs::read_to_string(task.join(file)).ok()?;
        Some((name.trim().to_owned(), text))
    });
    tasks.filter(|(name, _)| name.starts_with("ws-")).collect()
}

/// The file of this thread, which is not one of the crate's.
fn own(file: &str) -> String {
    std::fs::read_to_string(format!("/proc/thread-self/{file}")).unwrap()
}

/// O_CLOEXEC of open(2).
fn closed_by_exec(flags: impl AsRef<str>) -> bool {
    u32::from_str_radix(flags.as_ref(), 8).unwrap() & 0o2000000 != 0
}

#[test]
fn descriptors_are_few_and_closed_by_exec() {
    alone("descriptors_are_few_and_closed_by_exec", || {
        over_each(|wire| {
            let before = sockets().len();
            let more = move || sockets().len() - before;
            let mut server = wire.server();
            assert_eq!(more(), 3, "a server");
            let waiting = TcpStream::connect(server.local_addr().unwrap()).unwrap();
            assert!(server.next_timeout(10 * MS).is_err());
            assert_eq!(more(), 3 + 1 + 1, "a client without a request");
            drop(waiting);
            assert!(server.next_timeout(10 * MS).is_err());

            let (listener, url) = wire.listen();
            let connecting = wire.options().connect(url).unwrap();
            let (stream, _) = listener.accept().unwrap();
            // In addition to those of this test: the connection's own, and two to wake it up.
            assert!(more() <= 3 + 2 + 3, "a client that connects: {}", more());
            assert!(sockets().values().all(closed_by_exec));
            drop((listener, stream));
            let _ = connecting.wait_closed_timeout(DEADLINE);
            drop(connecting);
            eventually("they are closed", || more() == 3);

            let pair = testkit::pair_over(&mut server, &wire.options(), &Options::new());
            eventually("a connection has one descriptor at each end", || {
                more() == 5
            });
            assert!(sockets().values().all(closed_by_exec));
            pair.0.close().unwrap();
            drop((pair, server));
            eventually("all are closed", || more() == 0);
        });
    });
}

#[cfg(feature = "native-tls")]
#[test]
fn a_tls_stream_of_the_program_uses_four_descriptors() {
    alone("a_tls_stream_of_the_program_uses_four_descriptors", || {
        let pki = testkit::tls::pki();
        let mut server = pki.server();
        let url = server.url().to_owned();
        let serving = thread::spawn(move || {
            let ws = server.next_timeout(DEADLINE).map(Websocket::accept);
            (server, ws)
        });
        let before = sockets().len();
        let stream = TcpStream::connect(url.strip_prefix("wss://").unwrap()).unwrap();
        let stream = pki.raw_connector().connect("localhost", stream).unwrap();
        let client = Options::new().connect_over(stream, url).unwrap();
        client.wait_ready_timeout(DEADLINE).unwrap();
        let (_server, _peer) = serving.join().unwrap();
        // And one at the other end.
        assert_eq!(sockets().len() - before, 4 + 1);
        assert!(sockets().values().all(closed_by_exec));
    });
}

#[test]
fn a_program_that_is_started_while_a_client_connects_inherits_no_descriptor() {
    alone(
        "a_program_that_is_started_while_a_client_connects_inherits_no_descriptor",
        || {
            let refusing = TcpListener::bind((own_address(), 0)).unwrap();
            let url = format!("ws://{}/", refusing.local_addr().unwrap());
            drop(refusing);
            let over = Arc::new(AtomicBool::new(false));
            let connecting = thread::spawn({
                let over = over.clone();
                move || {
                    while !over.load(Ordering::Relaxed) {
                        let ws = Websocket::connect(&url).unwrap();
                        let _ = ws.wait_closed();
                    }
                }
            });
            for _ in 0..500 {
                let list = Command::new("ls")
                    .args(["-l", "/proc/self/fd"])
                    .output()
                    .unwrap();
                let list = String::from_utf8(list.stdout).unwrap();
                assert!(!list.contains("socket:"), "{list}");
            }
            over.store(true, Ordering::Relaxed);
            connecting.join().unwrap();
        },
    );
}

#[test]
fn threads_have_names_and_end_with_their_connection_or_server() {
    alone(
        "threads_have_names_and_end_with_their_connection_or_server",
        || {
            let names = || {
                let mut names: Vec<_> = threads("comm").into_iter().map(|(name, _)| name).collect();
                names.sort();
                names
            };
            let all = || std::fs::read_dir("/proc/self/task").unwrap().count();
            let before = all();
            let server = Server::bind((own_address(), 0)).unwrap();
            assert_eq!(all(), before, "a server needs none");
            let (client, peer) = testkit::pair();
            eventually("two for each end", || {
                names() == ["ws-read", "ws-read", "ws-write", "ws-write"]
            });
            peer.subscribe_callback(|_| {});
            client.put(1).unwrap();
            eventually("one for callbacks", || {
                names().contains(&"ws-dispatch".to_owned())
            });
            assert_eq!(all(), before + names().len(), "all have such a name");
            client.close().unwrap();
            drop((client, peer, server));
            eventually("all have ended", || all() == before);
        },
    );
}

#[test]
fn threads_inherit_the_signal_mask_and_no_handler_is_installed() {
    let test = "threads_inherit_the_signal_mask_and_no_handler_is_installed";
    let blocking = ["env", "--block-signal=USR1,HUP"];
    let able = Command::new(blocking[0])
        .args([blocking[1], "true"])
        .status();
    if !able.is_ok_and(|status| status.success()) {
        return testkit::skip("env does not block signals");
    }
    if !runs_inside(test, &blocking, &[]) {
        return;
    }
    let line = |status: &str, name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim().to_owned()
    };
    let handled = ["SigCgt:", "SigIgn:"].map(|name| line(&own("status"), name));
    let blocked = line(&own("status"), "SigBlk:");
    assert_ne!(blocked, "0".repeat(16));
    over_each(|wire| {
        let blocked = own("status");
        let (client, server) = wire.pair(|options| options);
        client.put(1).unwrap();
        server.get().unwrap();
        let line = |status: &str| {
            let line = status.lines().find(|line| line.starts_with("SigBlk:"));
            line.unwrap().to_owned()
        };
        assert!(threads("status").len() >= 4);
        // The C library blocks all signals for a moment while it starts or ends a thread.
        eventually("the mask of every thread", || {
            let all = threads("status");
            all.iter().all(|(_, status)| line(status) == line(&blocked))
        });
        client.close().unwrap();
    });
    let after = ["SigCgt:", "SigIgn:"].map(|name| line(&own("status"), name));
    assert_eq!(after, handled);
}

#[test]
fn a_write_to_a_closed_stream_raises_no_sigpipe() {
    with_helper(
        "a_write_to_a_closed_stream_raises_no_sigpipe",
        "let SIGPIPE kill",
        || {
            assert_eq!(parent_id(), 0);
            over_each(|wire| {
                for _ in 0..20 {
                    let (client, raw) = wire.client_and_raw(|options| options.send_queue(1 << 20));
                    let flooding = thread::spawn({
                        let client = client.clone();
                        move || while client.put(vec![0; 10_000]).is_ok() {}
                    });
                    // Something is unread, so it is a reset.
                    drop(raw);
                    flooding.join().unwrap();
                    client.wait_closed_timeout(DEADLINE).unwrap_err();
                    let _ = client.close();
                }
            });
        },
    );
}

#[test]
fn signals_interrupt_no_call_and_delay_no_timeout() {
    let test = "signals_interrupt_no_call_and_delay_no_timeout";
    // Each call begins or ends the connection.
    let interrupt = || assert_eq!(parent_id(), 0);
    with_helper(test, "interrupt", || {
        over_each(move |wire| {
            // Before the calls: the peers cannot be interrupted. They answer neither pings nor a
            // Close frame.
            let time = Duration::from_secs(1);
            let (pinging, _raw) =
                wire.client_and_raw(|options| options.ping_interval(time).ping_timeout(time));
            let (closing, _other_raw) = wire.client_and_raw(|options| options.close_timeout(time));
            interrupt();
            let begun = Instant::now();
            let (client, server) = wire.pair(|options| options.max_message_size(16 << 20));
            server.subscribe_to(server.clone());
            for n in 0..300 {
                client.put(n).unwrap();
                let back = client.get_timeout(DEADLINE).unwrap();
                assert_eq!(back.as_json().unwrap(), n);
            }
            let long = Message::from(vec![7; 5 << 20]);
            client.put(long.clone()).unwrap();
            assert_eq!(client.get_timeout(DEADLINE).unwrap(), long);
            let nothing = client.get_timeout(100 * MS);
            assert!(matches!(nothing, Err(Error::Timeout)), "{nothing:?}");
            client.close().unwrap();

            let error = failure(&pinging);
            assert!(
                matches!(error, Some(Error::PingTimeout { .. })),
                "{error:?}"
            );
            let error = closing.close();
            assert!(
                matches!(error, Err(Error::CloseTimeout { .. })),
                "{error:?}"
            );
            // Only the system accepts it; the program never does.
            let (_listener, url) = wire.listen();
            let silent = wire.options().connect_timeout(time).connect(url).unwrap();
            let error = silent.wait_ready_timeout(DEADLINE);
            assert!(
                matches!(error, Err(Error::ConnectTimeout { .. })),
                "{error:?}"
            );
            assert!(begun.elapsed() < DEADLINE);
            interrupt();
        });
    });
}

/// Runs this in a forked child, which has to end soon, and returns whether it succeeded.
#[track_caller]
fn in_a_child(f: impl FnOnce() -> bool) {
    match parent_id() {
        0 => child_ends(f()),
        child => sees_it_end_well(child),
    }
}

/// Ends a forked child without running anything of a normal exit.
fn child_ends(well: bool) -> ! {
    if well {
        let error = Command::new("true").exec();
        eprintln!("{error}");
    }
    std::process::abort();
}

#[track_caller]
fn sees_it_end_well(child: u32) {
    let child = Pid::from_raw(child.try_into().unwrap()).unwrap();
    let begun = Instant::now();
    loop {
        match waitpid(Some(child), WaitOptions::NOHANG).unwrap() {
            Some((_, status)) => return assert_eq!(status.exit_status(), Some(0), "{status:?}"),
            None if begun.elapsed() < DEADLINE => thread::sleep(MS),
            None => {
                kill_process(child, Signal::KILL).unwrap();
                panic!("the child hangs");
            }
        }
    }
}

/// A connection with all of its threads at work, and one handle to each end.
fn busy(wire: &Wire) -> (Websocket, Websocket) {
    let (client, server) = wire.pair(|options| options.linger(DEADLINE));
    for ws in [&client, &server] {
        let (sender, receiver) = rtcbot_websocket::crossbeam_channel::bounded(16);
        ws.put_subscription(receiver).unwrap();
        ws.subscribe_callback(|_| {});
        drop(ws.subscribe_with(Queue::Latest));
        thread::spawn(move || while sender.send(Message::from("x")).is_ok() {});
    }
    (client, server)
}

#[test]
fn a_forked_child_may_drop_its_copies_and_the_parent_notices_nothing() {
    let test = "a_forked_child_may_drop_its_copies_and_the_parent_notices_nothing";
    with_helper(test, "fork", || {
        over_each(|wire| {
            let idle = wire.pair(|options| options.linger(DEADLINE));
            let busy = busy(wire);
            let subscription = busy.0.subscribe_with(Queue::Latest);
            let latest = busy.0.subscribe_latest();
            let sources = [
                Source::every(MS / 50, || Message::from("x")).unwrap(),
                Source::iter(std::iter::repeat(Message::from("x"))).unwrap(),
            ];
            let mut server = wire.server();
            let waiting = TcpStream::connect(server.local_addr().unwrap()).unwrap();
            assert!(server.next_timeout(10 * MS).is_err());
            let asking = wire.options().connect(server.url()).unwrap();
            let request = server.next_timeout(DEADLINE).unwrap();
            let path = std::env::temp_dir().join(format!("forked-{wire}-{}", std::process::id()));
            let unix = Server::bind_unix(&path).unwrap();
            for _ in 0..100 {
                match parent_id() {
                    // The process in which this is moved does not continue.
                    0 => {
                        drop((idle, busy, subscription, latest, sources));
                        drop((request, server, unix));
                        child_ends(true);
                    }
                    child => sees_it_end_well(child),
                }
            }
            idle.0.put(1).unwrap();
            assert_eq!(idle.1.get_timeout(DEADLINE).unwrap().as_json().unwrap(), 1);
            assert!(busy.0.is_ready() && busy.1.is_ready());
            assert!(subscription.get_timeout(DEADLINE).is_ok());
            for source in sources {
                idle.0.put_subscription(source).unwrap();
                assert_eq!(idle.1.get_timeout(DEADLINE).unwrap(), "x");
            }
            let _asked = Websocket::accept(request);
            asking.wait_ready_timeout(DEADLINE).unwrap();
            let (client, _peer) = testkit::pair_over(&mut server, &wire.options(), &Options::new());
            client.close().unwrap();
            let client = Options::new().connect(unix.url()).unwrap();
            let unix = thread::spawn(move || {
                let mut unix = unix;
                unix.next_timeout(DEADLINE).map(Websocket::accept)
            });
            client.wait_ready_timeout(DEADLINE).unwrap();
            drop(waiting);
            let _ = unix.join().unwrap().unwrap();
        });
    });
}

#[test]
fn calls_that_wait_are_refused_in_a_forked_child() {
    with_helper(
        "calls_that_wait_are_refused_in_a_forked_child",
        "fork",
        || {
            let (client, server) = testkit::pair();
            let listener = Server::bind((own_address(), 0)).unwrap();
            in_a_child(|| {
                let forked = |result: Result<(), Error>| matches!(result, Err(Error::Forked));
                forked(client.close())
                    && forked(client.close_with(4001, "x"))
                    && forked(client.wait_ready())
                    && forked(client.wait_closed())
                    && forked(client.wait_closed())
                    && forked(listener.handle().shutdown(DEADLINE))
            });
            client.put(1).unwrap();
            server.get_timeout(DEADLINE).unwrap();
        },
    );
}

#[test]
fn the_peer_notices_the_end_while_a_forked_child_has_a_copy() {
    with_helper(
        "the_peer_notices_the_end_while_a_forked_child_has_a_copy",
        "fork",
        || {
            over_each(|wire| {
                let (closed, closed_raw) = wire.client_and_raw(|options| options);
                let (dropped, dropped_raw) = wire.client_and_raw(|options| options);
                let child = match parent_id() {
                    0 => loop {
                        thread::sleep(DEADLINE);
                    },
                    child => Pid::from_raw(child.try_into().unwrap()).unwrap(),
                };
                let noticing = thread::spawn(move || {
                    closed_raw.pump();
                    dropped_raw.pump();
                });
                let closing = within(DEADLINE, move || closed.close());
                drop(dropped);
                let noticed = within(DEADLINE, move || noticing.join());
                kill_process(child, Signal::KILL).unwrap();
                waitpid(Some(child), WaitOptions::empty()).unwrap();
                closing.unwrap();
                noticed.unwrap();
            });
        },
    );
}

#[test]
fn a_forked_child_may_make_connections_of_its_own() {
    with_helper(
        "a_forked_child_may_make_connections_of_its_own",
        "fork",
        || {
            let _others = testkit::pair();
            in_a_child(|| {
                let (client, server) = testkit::pair();
                client.put(1).unwrap();
                server.get_timeout(DEADLINE).is_ok() && client.close().is_ok()
            });
        },
    );
}

#[test]
fn threads_inherit_the_scheduling_of_their_creator() {
    let test = "threads_inherit_the_scheduling_of_their_creator";
    let chrt = Command::new("chrt")
        .args(["-f", "1", "true"])
        .stderr(Stdio::null())
        .status();
    if !chrt.is_ok_and(|status| status.success()) {
        return testkit::skip("no real-time priority is to be had");
    }
    if !runs_inside(test, &["chrt", "-f", "1"], &[]) {
        return;
    }
    // The policy, the 41st field (SCHED_FIFO is 1), follows the name, which may contain blanks.
    let policy = |stat: &str| {
        let (_, fields) = stat.rsplit_once(')').unwrap();
        fields.split_whitespace().nth(41 - 3).unwrap().to_owned()
    };
    assert_eq!(policy(&own("stat")), "1");
    let (client, server) = testkit::pair();
    client.put(1).unwrap();
    server.get().unwrap();
    let all = threads("stat");
    assert!(all.len() >= 4);
    for (name, stat) in all {
        assert_eq!(policy(&stat), "1", "{name}");
    }
    client.close().unwrap();
}

#[test]
fn the_crate_writes_nothing_to_standard_output_or_error() {
    let test = "the_crate_writes_nothing_to_standard_output_or_error";
    if let Some(output) = inside(test, &[], &[]) {
        assert!(output.status.success());
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        let said = String::from_utf8(output.stdout).unwrap();
        let said = said.lines().map(str::trim).filter(|line| !line.is_empty());
        // Lines of the test harness itself.
        let mut rest =
            said.filter(|line| !line.starts_with("running") && !line.starts_with("test "));
        assert_eq!(rest.next(), None);
        return;
    }
    // A connection that succeeds, one where nobody listens, one whose peer breaks the protocol, and
    // a request that is not a WebSocket.
    let (client, server) = testkit::pair();
    client.put(1).unwrap();
    server.get().unwrap();
    client.close().unwrap();
    let refusing = Websocket::connect("ws://127.0.0.1:1/").unwrap();
    refusing.wait_ready().unwrap_err();
    let (server, mut stream) = testkit::server_and_bytes(&Options::new());
    stream.write_all(&[0xff; 100]).unwrap();
    let _ = stream.read(&mut [0; 100]);
    server.wait_closed().unwrap_err();
    let mut listener = Server::bind((own_address(), 0)).unwrap();
    let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let ws = Websocket::accept(listener.next_timeout(DEADLINE).unwrap());
    ws.wait_ready().unwrap_err();
}

#[test]
fn the_crate_does_not_read_the_time_of_day() {
    let mut folders = vec![PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(!text.contains("SystemTime"), "{}", path.display());
            files += 1;
        }
    }
    assert!(files > 10);
}
