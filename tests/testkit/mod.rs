//! What the tests share: connected pairs, raw peers, faulty transports, and deadlines in place of
//! hangs.
#![allow(dead_code)] // Each test file uses its own part.
#![allow(unreachable_pub)] // `pub` stands for what the test files use.

#[cfg(feature = "native-tls")]
pub mod tls;
pub mod wire;

pub mod answering;
pub mod decisions;
mod direction;
pub mod faults;
pub mod frames;
pub mod preload;
#[cfg(target_os = "linux")]
pub mod proxy;
pub mod records;
pub mod script;
pub mod transport;

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rtcbot_websocket::{Error, Options, Server, State, Websocket};

/// Long enough for a loaded machine, short enough for a person.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Runs `f` on a thread of its own. Panics if `f` panics or does not return in time.
#[track_caller]
pub fn within<R: Send + 'static>(limit: Duration, f: impl FnOnce() -> R + Send + 'static) -> R {
    let (done, result) = mpsc::channel();
    let thread = thread::spawn(move || {
        let _ = done.send(f());
    });
    match result.recv_timeout(limit) {
        Ok(result) => result,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("still not done after {limit:?}: it hangs"),
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            std::panic::resume_unwind(thread.join().unwrap_err())
        }
    }
}

/// Reports that a test cannot run here, and why. With `RTCBOT_NO_SKIP`, as in the project's gate
/// run by root, that fails the test: a skipped test has not passed.
#[track_caller]
pub fn skip(why: &str) {
    assert!(std::env::var_os("RTCBOT_NO_SKIP").is_none(), "{why}");
    eprintln!("skipped: {why}");
}

/// Waits for a condition that no event announces.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(
            start.elapsed() < DEADLINE,
            "not within {DEADLINE:?}: {what}"
        );
        thread::yield_now();
    }
}

/// Waits for the end, and returns why the connection failed.
#[track_caller]
pub fn failure(ws: &Websocket) -> Option<Error> {
    match ws.wait_closed_timeout(DEADLINE) {
        Ok(()) => None,
        Err(Error::Timeout) => panic!("{ws:?} has not ended within {DEADLINE:?}"),
        Err(error) => Some(error),
    }
}

/// Returns why the connection has ended, orderly or by an error.
pub fn end_reason(ws: &Websocket) -> Option<Error> {
    match ws.state() {
        State::Closed { reason, .. } => Some(reason),
        _ => None,
    }
}

/// Returns why there is no connection: the last one was lost, the last attempt failed, or it has
/// ended.
pub fn last_error(ws: &Websocket) -> Option<Error> {
    match ws.state() {
        State::Reconnecting { reason, .. } | State::Closed { reason, .. } => Some(reason),
        State::Connecting { last_error, .. } => last_error,
        _ => None,
    }
}

/// Returns whether a connection has been lost, even if there is another one since.
pub fn was_lost(ws: &Websocket) -> bool {
    ws.stats().reconnects > 0 || last_error(ws).is_some()
}

/// Calls `f` each time a connection is lost and another one follows.
pub fn on_loss(ws: &Websocket, mut f: impl FnMut(Error) + Send + 'static) {
    ws.on_event(move |state| {
        if let State::Reconnecting {
            attempt: 1, reason, ..
        } = state
        {
            f(reason);
        }
    });
}

/// A client and the server's end of the same connection, both ready.
pub fn pair() -> (Websocket, Websocket) {
    // A loaded machine may need longer than a user would wait.
    let options = Options::new().close_timeout(DEADLINE);
    pair_with(&options, &options)
}

pub fn pair_with(client: &Options, server: &Options) -> (Websocket, Websocket) {
    pair_over(
        &mut Server::bind((own_address(), 0)).unwrap(),
        client,
        server,
    )
}

pub fn pair_over(
    listener: &mut Server,
    client: &Options,
    server: &Options,
) -> (Websocket, Websocket) {
    let client = client.connect(url(listener)).unwrap();
    let request = listener.next_timeout(DEADLINE).expect("no request came");
    let server = server.accept(request);
    client.wait_ready_timeout(DEADLINE).unwrap();
    server.wait_ready_timeout(DEADLINE).unwrap();
    (client, server)
}

pub fn url(server: &Server) -> String {
    match server.local_addr() {
        Some(_) => format!("{}/", server.url()),
        None => server.url().to_owned(),
    }
}

/// An address for servers, of this process alone. A client that reconnects to a server that has
/// ended does not find another test there, to which the system has given the port.
pub fn own_address() -> IpAddr {
    if cfg!(target_os = "linux") {
        let [.., a, b, c] = std::process::id().to_be_bytes();
        return IpAddr::from([127, 64 | a, b, c]);
    }
    IpAddr::from([127, 0, 0, 1])
}

/// A client of this crate and a raw tungstenite server.
pub fn client_and_raw(options: &Options) -> (Websocket, tungstenite::WebSocket<TcpStream>) {
    let listener = TcpListener::bind((own_address(), 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let client = options.connect(format!("ws://{address}/")).unwrap();
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let raw = tungstenite::accept(stream).unwrap();
    client.wait_ready_timeout(DEADLINE).unwrap();
    (client, raw)
}

/// A server's end of this crate and a TCP stream on which the client's handshake is done.
pub fn server_and_bytes(options: &Options) -> (Websocket, TcpStream) {
    let mut listener = Server::bind((own_address(), 0)).unwrap();
    let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(UPGRADE.as_bytes()).unwrap();
    let server = options.accept(listener.next_timeout(DEADLINE).unwrap());
    let head = read_head(&mut stream);
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    server.wait_ready_timeout(DEADLINE).unwrap();
    (server, stream)
}

/// The handshake request of RFC 6455's own example.
pub const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\n\r\n";

/// Options by which a silent peer is a ping timeout after two ticks.
pub fn pinging(tick: Duration) -> Options {
    Options::new().ping_interval(tick).ping_timeout(tick)
}

/// Sends messages on a thread until nothing more can be sent. Reads nothing.
pub fn flood(mut stream: TcpStream) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let frames = masked_frame(0x82, &[0; 125]).repeat(1000);
        while stream.write_all(&frames).is_ok() {}
    })
}

/// Reads until the end; answers pings and a Close frame.
pub fn pump<S: Read + Write>(raw: &mut tungstenite::WebSocket<S>) {
    while raw.read().is_ok() {}
}

/// Reads up to the empty line, byte by byte.
pub fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            other => panic!("{other:?} after {:?}", String::from_utf8_lossy(&head)),
        }
    }
    String::from_utf8(head).unwrap()
}

/// A frame as a client sends it, masked with zeros.
pub fn masked_frame(first_byte: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    frames::push_frame(&mut frame, first_byte, payload, Some([0; 4]));
    frame
}

/// Returns the code of the next Close frame, and skips other frames.
pub fn read_close_code(stream: &mut TcpStream) -> u16 {
    loop {
        let (first, payload) = frames::read_frame(stream).unwrap();
        if first == 0x88 {
            return u16::from_be_bytes([payload[0], payload[1]]);
        }
    }
}

/// How many threads of this process have a name with this prefix. Linux only.
pub fn threads_named(prefix: &str) -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    tasks
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .filter(|name| name.starts_with(prefix))
        .count()
}

/// Waits until `count` threads of this process with this name are asleep. Only Linux reports that;
/// elsewhere they may still be about to sleep.
#[track_caller]
pub fn eventually_asleep(name: &str, count: usize) {
    if cfg!(target_os = "linux") {
        eventually("all are asleep", || {
            let tasks = std::fs::read_dir("/proc/self/task").unwrap();
            let asleep = tasks.filter(|task| {
                let stat = task.as_ref().unwrap().path().join("stat");
                let stat = std::fs::read_to_string(stat).unwrap_or_default();
                stat.contains(&format!(" ({name}) S "))
            });
            asleep.count() == count
        });
    }
}

/// How many bytes of memory this process uses. Linux only.
pub fn resident() -> usize {
    status("VmRSS:")
}

/// How many bytes of address space this process uses. Linux only.
pub fn reserved() -> usize {
    status("VmSize:")
}

/// The most memory that it has used so far. Linux only.
pub fn most_resident() -> usize {
    status("VmHWM:")
}

fn status(line: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix(line)).unwrap();
    let kib = line.trim().strip_suffix(" kB").unwrap();
    kib.parse::<usize>().unwrap() << 10
}

/// Names the test that runs alone in this process.
const ALONE: &str = "RTCBOT_WEBSOCKET_ALONE";

/// Runs `body` in a process of its own, through the test of this name, which calls this. For tests
/// that count resources of the process.
#[track_caller]
pub fn alone(test: &str, body: impl FnOnce()) {
    if std::env::var_os(ALONE).is_some_and(|name| name == test) {
        return body();
    }
    again(test, (ALONE, test), 12 * DEADLINE);
}

/// As [`alone`], under a limit on the resources of the process, as arguments of the shell's
/// `ulimit`.
#[track_caller]
pub fn alone_under(limit: &str, test: &str, body: impl FnOnce()) {
    if std::env::var_os(ALONE).is_some_and(|name| name == test) {
        return body();
    }
    let mut command = Command::new("sh");
    let script = format!("ulimit {limit} && exec \"$0\" \"$@\"");
    command
        .args(["-c", &script])
        .arg(std::env::current_exe().unwrap());
    run(command, test, &[(ALONE, test)], 12 * DEADLINE);
}

/// Runs the test of this name in a process of its own with this variable. Panics unless it succeeds
/// in time.
#[track_caller]
pub fn again(test: &str, variable: (&str, &str), limit: Duration) {
    again_with(test, &[variable], limit);
}

/// As [`again`], with several variables.
#[track_caller]
pub fn again_with(test: &str, environment: &[(&str, &str)], limit: Duration) {
    let command = Command::new(std::env::current_exe().unwrap());
    run(command, test, environment, limit);
}

#[track_caller]
fn run(mut command: Command, test: &str, environment: &[(&str, &str)], limit: Duration) {
    let mut child = command
        .args([test, "--exact", "--nocapture"])
        .envs(environment.iter().copied())
        // For glibc: memory that one thread has freed is there for the others.
        .env("MALLOC_ARENA_MAX", "1")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = read_on_a_thread(child.stdout.take().unwrap());
    let stderr = read_on_a_thread(child.stderr.take().unwrap());
    let start = Instant::now();
    let ended = loop {
        match child.try_wait().unwrap() {
            None if start.elapsed() < limit => thread::sleep(Duration::from_millis(10)),
            ended => break ended,
        }
    };
    if ended.is_none() {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let (stdout, stderr) = (stdout.join().unwrap(), stderr.join().unwrap());
    match ended {
        None => panic!("the process does not end; it wrote:\n{stderr}"),
        Some(status) => assert!(status.success(), "{status}; it wrote:\n{stderr}"),
    }
    assert!(
        stdout.contains("running 1 test\n"),
        "no test is called {test}"
    );
}

fn read_on_a_thread(mut from: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

pub fn is_closed_by_peer(error: &Error) -> bool {
    matches!(error, Error::Closed(close) if close.by == rtcbot_websocket::Side::Peer)
}
