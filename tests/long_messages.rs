//! How much memory a long message uses, and when it is freed. Each test measures a process of its
//! own.
#![cfg(target_os = "linux")]

mod testkit;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use rtcbot_websocket::{Options, Websocket};
use testkit::{DEADLINE, alone, eventually, reserved, resident, server_and_bytes};

const LONG: usize = 16 << 20;

/// Nothing is sent and nothing is waited for unless a test asks for it.
fn quiet() -> Options {
    Options::new()
        .ping_interval(None)
        .linger(Duration::ZERO)
        .max_message_size(LONG)
}

/// The head of a client's binary frame of this length.
fn head(length: usize) -> Vec<u8> {
    let mut head = vec![0x82, 0xff];
    head.extend((length as u64).to_be_bytes());
    head.extend([0; 4]);
    head
}

fn send_long_message(stream: &mut TcpStream, ws: &Websocket) {
    stream.write_all(&head(LONG)).unwrap();
    let chunk = vec![0; 64 << 10];
    for _ in 0..LONG / chunk.len() {
        stream.write_all(&chunk).unwrap();
    }
    assert_eq!(ws.get_timeout(DEADLINE).unwrap().len(), LONG);
}

#[test]
fn a_frames_head_reserves_no_memory_for_what_it_announces() {
    alone(
        "a_frames_head_reserves_no_memory_for_what_it_announces",
        || {
            const CONNECTIONS: usize = 50;
            let mut all: Vec<_> = (0..CONNECTIONS)
                .map(|_| server_and_bytes(&quiet()))
                .collect();
            let before = reserved();
            let bytes = [head(LONG), vec![0; 1000]].concat();
            for (_, stream) in &mut all {
                stream.write_all(&bytes).unwrap();
            }
            for (ws, _) in &all {
                eventually("what came has been read", || {
                    ws.stats().bytes_in == bytes.len() as u64
                });
            }
            let grown = reserved().saturating_sub(before);
            assert!(grown < CONNECTIONS << 20, "{grown} bytes");
        },
    );
}

#[test]
fn a_connection_that_is_idle_again_keeps_no_buffer_as_long_as_what_it_received() {
    alone(
        "a_connection_that_is_idle_again_keeps_no_buffer_as_long_as_what_it_received",
        || {
            let (ws, mut stream) = server_and_bytes(&quiet());
            let before = resident();
            send_long_message(&mut stream, &ws);
            eventually("that memory is given back", || {
                resident() < before + LONG / 4
            });
        },
    );
}

#[test]
fn a_connection_that_is_idle_again_keeps_no_buffer_as_long_as_what_it_sent() {
    alone(
        "a_connection_that_is_idle_again_keeps_no_buffer_as_long_as_what_it_sent",
        || {
            let (ws, mut peer) = server_and_bytes(&quiet());
            let before = resident();
            ws.put(vec![0; LONG]).unwrap();
            let mut chunk = vec![0; 64 << 10];
            // Each frame of 64 KiB has a head of 10 bytes.
            let mut left = LONG + LONG.div_ceil(64 << 10) * 10;
            while left > 0 {
                left -= peer.read(&mut chunk).unwrap();
            }
            eventually("that memory is given back", || {
                resident() < before + LONG / 4
            });
        },
    );
}
