//! Many silent clients at a server: a client that has sent no request does not count as a
//! connection, and the program keeps a share of threads, memory and descriptors for itself.

mod testkit;

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rtcbot_websocket::{Options, Server, Websocket, json};
use testkit::{DEADLINE, UPGRADE, eventually};

fn stream_to(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// Returns the status of the response, or 0 if the connection ends without one.
fn status(stream: &mut TcpStream) -> u16 {
    let mut line = [0; 12];
    match stream.read_exact(&mut line) {
        Ok(()) => String::from_utf8_lossy(&line[9..]).parse().unwrap(),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("no answer"),
        Err(_) => 0,
    }
}

/// Serves until it is dropped. Each connection is open for as long as its client keeps it, with all
/// its threads.
struct Serving(rtcbot_websocket::ServerHandle);

impl Serving {
    fn start(server: Server) -> Serving {
        let handle = server.handle();
        thread::spawn(move || {
            server.serve(|request| {
                let ws = Websocket::accept(request);
                let answers = ws.clone();
                ws.subscribe_callback(move |message| {
                    let _ = answers.put(message);
                });
                let _ = ws.wait_closed();
            });
        });
        Serving(handle)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.shutdown(Duration::from_secs(1));
    }
}

/// This many clients, one after the other, each of which is served.
#[track_caller]
fn assert_clients_are_served(url: &str, options: &Options, count: usize) {
    for n in 0..count {
        let client = options.connect(url).unwrap();
        let ready = client.wait_ready_timeout(DEADLINE);
        ready.unwrap_or_else(|error| panic!("client {n} of {count}: {error}"));
        client.put(n).unwrap();
        assert_eq!(client.get_timeout(DEADLINE).unwrap(), json!(n));
        client.close().unwrap();
    }
}

#[test]
fn clients_that_have_not_sent_a_head_do_not_count_as_connections() {
    for beginning in ["", "G", &UPGRADE[..UPGRADE.len() - 1]] {
        let server = Server::bind((testkit::own_address(), 0))
            .unwrap()
            .handshake_timeout(Duration::from_secs(3600))
            .max_connections(3);
        let (address, url) = (server.local_addr().unwrap(), testkit::url(&server));
        let _serving = Serving::start(server);
        let silent = strangers(&[address], 20, beginning.as_bytes());
        // Three at a time have a place, and keep it.
        let clients: Vec<_> = (0..3).map(|_| Websocket::connect(&url).unwrap()).collect();
        for client in &clients {
            client.wait_ready_timeout(DEADLINE).unwrap();
        }
        let mut fourth = stream_to(address);
        fourth.write_all(UPGRADE.as_bytes()).unwrap();
        assert_eq!(status(&mut fourth), 503);
        drop(silent);
    }
}

#[test]
#[cfg(feature = "native-tls")]
fn stalled_tls_handshakes_do_not_count_as_connections() {
    // Announces a record of 512 bytes with a ClientHello.
    for beginning in [&b""[..], b"\x16", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"] {
        let pki = testkit::tls::pki();
        let server = pki
            .server()
            .handshake_timeout(Duration::from_secs(3600))
            .max_connections(3);
        let (address, url) = (server.local_addr().unwrap(), testkit::url(&server));
        let _serving = Serving::start(server);
        let stalled = strangers(&[address], 20, beginning);
        let clients: Vec<_> = (0..3)
            .map(|_| pki.options().connect(&url).unwrap())
            .collect();
        for client in &clients {
            client.wait_ready_timeout(DEADLINE).unwrap();
        }
        drop(stalled);
    }
}

/// A program of its own, with a server in it, under a limit that the shell sets.
struct Program {
    child: Child,
    orders: ChildStdin,
    answers: mpsc::Receiver<String>,
}

impl Program {
    /// Its addresses: two servers with default limits, and one without a limit on connections.
    fn start(limit: &str) -> (Program, [SocketAddr; 3]) {
        let command = format!(
            "ulimit {limit} && exec \"$0\" --ignored --exact --nocapture server_under_a_limit"
        );
        let mut child = Command::new("sh")
            .arg("-c")
            .arg(command)
            .arg(std::env::current_exe().unwrap())
            // An arena of its own would use as much as 30 stacks for each thread.
            .env("MALLOC_ARENA_MAX", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (told, answers) = mpsc::channel();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        thread::spawn(move || {
            lines
                .map_while(Result::ok)
                .try_for_each(|line| told.send(line))
        });
        let orders = child.stdin.take().unwrap();
        let mut program = Program {
            child,
            orders,
            answers,
        };
        let addresses = program.ask("where");
        let addresses: Vec<SocketAddr> = addresses.split(' ').map(|a| a.parse().unwrap()).collect();
        (program, addresses.try_into().unwrap())
    }

    #[track_caller]
    fn ask(&mut self, question: &str) -> String {
        writeln!(self.orders, "{question}").unwrap();
        let answer = self.answers.recv_timeout(DEADLINE);
        answer.unwrap_or_else(|error| panic!("no answer to {question:?}: {error}"))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "run by the tests below, under a limit"]
fn server_under_a_limit() {
    let bind = || {
        Server::bind((testkit::own_address(), 0))
            .unwrap()
            .handshake_timeout(Duration::from_secs(3600))
    };
    let servers = [bind(), bind(), bind().max_connections(usize::MAX)];
    let addresses = servers
        .each_ref()
        .map(|server| server.local_addr().unwrap().to_string());
    let _serving = servers.map(Serving::start);
    let mut taken = Vec::new();
    for order in std::io::stdin().lines().map_while(Result::ok) {
        let answer = match &*order {
            "where" => addresses.join(" "),
            "threads?" => {
                let sleep = || thread::Builder::new().spawn(|| thread::sleep(DEADLINE));
                let threads: Result<Vec<_>, _> = (0..8).map(|_| sleep()).collect();
                threads.map_or_else(|error| error.to_string(), |_| "yes".to_owned())
            }
            "files?" => {
                let files: Result<Vec<_>, _> = (0..8).map(|_| File::open("/dev/null")).collect();
                files.map_or_else(|error| error.to_string(), |_| "yes".to_owned())
            }
            "take all files" => {
                taken.extend(std::iter::from_fn(|| File::open("/dev/null").ok()));
                "done".to_owned()
            }
            other => panic!("{other}"),
        };
        eprintln!("{answer}");
    }
}

/// This many clients, each of which sends the same.
fn strangers(addresses: &[SocketAddr], count: usize, words: &[u8]) -> Vec<TcpStream> {
    let addresses = addresses.iter().cycle().take(count);
    addresses
        .map(|address| {
            let mut stream = stream_to(*address);
            stream.write_all(words).unwrap();
            stream
        })
        .collect()
}

/// How clients that ask for a WebSocket are answered: how many get one, and how many are refused.
fn ask_for_many(addresses: &[SocketAddr], count: usize) -> (Vec<TcpStream>, usize) {
    let mut streams = strangers(addresses, count, UPGRADE.as_bytes());
    let mut refused = 0;
    streams.retain_mut(|stream| match status(stream) {
        101 => true,
        503 => {
            refused += 1;
            false
        }
        other => panic!("answered {other}"),
    });
    (streams, refused)
}

#[test]
#[cfg(target_os = "linux")]
fn silent_clients_use_none_of_the_programs_threads() {
    let (mut program, [one, two, _]) = Program::start("-v 400000");
    let (connected, refused) = ask_for_many(&[one, two], 120);
    assert!(connected.len() >= 10, "{} connected", connected.len());
    assert_eq!(connected.len() + refused, 120);
    assert_eq!(program.ask("threads?"), "yes");
    // A place that becomes free is given to the next client, at either server.
    drop(connected);
    eventually("places", || ask_for_many(&[one, two], 10).1 == 0);
}

#[test]
fn silent_clients_leave_descriptors_for_the_program() {
    let (mut program, [one, two, _]) = Program::start("-n 100");
    let (connected, refused) = ask_for_many(&[one, two], 120);
    assert!(connected.len() >= 30, "{} connected", connected.len());
    assert_eq!(connected.len() + refused, 120);
    // Whatever else they do.
    let _silent = strangers(&[one, two], 60, b"");
    assert_eq!(program.ask("files?"), "yes");
    let _asking = strangers(&[one, two], 60, UPGRADE.as_bytes());
    assert_eq!(program.ask("files?"), "yes");
    assert_eq!(program.ask("threads?"), "yes");
}

#[test]
fn clients_are_served_when_silent_clients_have_taken_all_descriptors() {
    let (_program, addresses) = Program::start("-n 100");
    let _silent = strangers(&addresses, 200, b"");
    for address in addresses {
        assert_clients_are_served(&format!("ws://{address}/"), &Options::new(), 20);
    }
}

#[test]
fn a_silent_client_is_disconnected_when_the_program_has_taken_the_last_descriptor() {
    let (mut program, [.., all]) = Program::start("-n 100");
    let mut silent = strangers(&[all], 10, b"");
    // They have been accepted by the time the next one is answered.
    assert_clients_are_served(&format!("ws://{all}/"), &Options::new(), 1);
    program.ask("take all files");
    assert_clients_are_served(&format!("ws://{all}/"), &Options::new(), 10);
    // The first one that came; the last one still has its place.
    assert_eq!(status(&mut silent[0]), 503);
    let last = silent.last_mut().unwrap();
    last.write_all(UPGRADE.as_bytes()).unwrap();
    assert_eq!(status(last), 101);
}

#[test]
fn the_oldest_of_too_many_silent_clients_is_disconnected_first() {
    let (_program, [one, ..]) = Program::start("-n 100");
    let mut silent = strangers(&[one], 60, b"");
    assert_eq!(status(&mut silent[0]), 503);
    let last = silent.last_mut().unwrap();
    last.write_all(UPGRADE.as_bytes()).unwrap();
    assert_eq!(status(last), 101);
}
