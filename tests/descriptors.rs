//! A process that runs out of descriptors.
#![cfg(target_os = "linux")]

mod testkit;

use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use rtcbot_websocket::{Backoff, Options, Server, Websocket, json};
use testkit::{DEADLINE, alone, alone_under, eventually, records};

#[test]
fn a_server_that_runs_out_of_descriptors_pauses_and_recovers() {
    let test = "a_server_that_runs_out_of_descriptors_pauses_and_recovers";
    alone_under("-n 50", test, run_out_of_descriptors);
}

fn run_out_of_descriptors() {
    records::keep(log::LevelFilter::Error);
    let server = Server::bind((testkit::own_address(), 0)).unwrap();
    let address = server.local_addr().unwrap();
    let url = server.url().to_owned();
    let client = Websocket::connect(&url).unwrap();
    let mut server = server;
    let peer = Websocket::accept(server.next_timeout(DEADLINE).unwrap());

    // As many as there are: each client takes one here, and needs another one to be accepted.
    let mut taken = Vec::new();
    while let Ok(stream) = TcpStream::connect(address) {
        taken.push(stream);
    }
    assert!(taken.len() > 5);
    assert!(server.next_timeout(Duration::from_millis(300)).is_err());
    // Both sides report what is missing.
    let why = "this process has all 50 descriptors that RLIMIT_NOFILE allows (ulimit -n)";
    let logged = records::all();
    assert!(
        logged.contains("no connections are accepted") && logged.contains(why),
        "{logged}"
    );
    let refused = Websocket::connect(&url).unwrap();
    let error = refused.wait_closed_timeout(DEADLINE).unwrap_err();
    assert!(error.to_string().ends_with(why), "{error}");
    // Existing connections continue.
    client.put_nowait(1).unwrap();
    assert_eq!(peer.get_timeout(DEADLINE).unwrap(), json!(1));

    // The iterator has not ended, and continues when descriptors are free.
    drop(taken);
    let serving = thread::spawn(move || server.next_timeout(DEADLINE).map(Websocket::accept));
    let mut again = Websocket::connect(&url).unwrap();
    eventually("a connection", || {
        match again.wait_ready_timeout(DEADLINE) {
            Ok(()) => true,
            Err(_) => {
                again = Websocket::connect(&url).unwrap();
                false
            }
        }
    });
    let again_peer = serving.join().unwrap().unwrap();
    again.put_nowait(2).unwrap();
    assert_eq!(again_peer.get_timeout(DEADLINE).unwrap(), json!(2));
}

#[test]
fn a_client_that_waits_to_reconnect_has_no_descriptor() {
    alone("a_client_that_waits_to_reconnect_has_no_descriptor", || {
        let count = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let hour = Duration::from_secs(3600);
        let backoff = Backoff::new().initial(hour).max(hour);
        let options = Options::new().reconnect(backoff);
        let before = count();
        // One client loses its connection, and another one's attempt is refused.
        let mut server = Server::bind((testkit::own_address(), 0)).unwrap();
        let url = server.url().to_owned();
        let lost = options.connect(&url).unwrap();
        let peer = Websocket::accept(server.next_timeout(DEADLINE).unwrap());
        lost.wait_ready_timeout(DEADLINE).unwrap();
        peer.close_with(1012, "restart").unwrap();
        drop((peer, server));
        let refused = options.connect(&url).unwrap();
        eventually("only the clients are left, and wait", || count() == before);
        drop((lost, refused));
    });
}
