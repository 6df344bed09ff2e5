//! A process that runs out of descriptors. One test, in a process of its own with few of them.
#![cfg(target_os = "linux")]

mod rig;

use std::net::TcpStream;
use std::process::Command;
use std::thread;
use std::time::Duration;

use rig::{DEADLINE, eventually};
use rtcbot_websocket::{Server, Websocket, json};

#[test]
fn a_server_that_runs_out_of_descriptors_pauses_and_recovers() {
    // Set in the process that the shell becomes.
    const FEW: &str = "ulimit -n 50 && exec \"$0\" --ignored --exact among_few_descriptors";
    let this = std::env::current_exe().unwrap();
    let output = Command::new("sh")
        .arg("-c")
        .arg(FEW)
        .arg(this)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("1 passed"), "{text}");
}

#[test]
#[ignore = "run by the test above, with few descriptors"]
fn among_few_descriptors() {
    let server = Server::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    let url = server.url().to_owned();
    let client = Websocket::connect(&url).unwrap();
    let mut server = server;
    let peer = Websocket::accept(server.next_timeout(DEADLINE).unwrap());

    // All that there are; each takes one here, and would take one more to be accepted.
    let mut taken = Vec::new();
    while let Ok(stream) = TcpStream::connect(address) {
        taken.push(stream);
    }
    assert!(taken.len() > 5);
    assert!(server.next_timeout(Duration::from_millis(300)).is_none());
    // What is there works on.
    client.put_nowait(1).unwrap();
    assert_eq!(peer.get_timeout(DEADLINE).unwrap(), json!(1));

    // The iterator has not ended, and goes on when there are some again.
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
