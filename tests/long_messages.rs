//! What a long message takes is given back. One test, for it looks at the memory of the whole process.
#![cfg(target_os = "linux")]

mod rig;

use std::io::Read;
use std::time::Duration;

use rig::{eventually, server_and_bytes};
use rtcbot_websocket::Options;

const LONG: usize = 16 << 20;

fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: usize = line
        .unwrap()
        .split_whitespace()
        .next()
        .unwrap()
        .parse()
        .unwrap();
    kib << 10
}

#[test]
fn a_connection_that_is_idle_again_keeps_no_buffer_as_long_as_what_it_sent() {
    let options = Options::new()
        .ping_interval(Duration::from_millis(50))
        .ping_timeout(None)
        .clone();
    let (ws, mut peer) = server_and_bytes(&options);
    let before = resident();
    ws.put(vec![0; LONG]).unwrap();
    let mut chunk = vec![0; 64 << 10];
    let mut left = LONG;
    while left > 0 {
        left = left.saturating_sub(peer.read(&mut chunk).unwrap());
    }
    eventually("that memory is given back", || {
        // The pings are not to wait for the peer.
        assert!(peer.read(&mut chunk).unwrap() > 0);
        resident() < before + LONG / 4
    });
}
