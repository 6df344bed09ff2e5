//! The testkit's own parts behave as their users expect: the transport on which things go wrong,
//! the frame reader, the scripted peer and the source of decisions.

mod testkit;

use std::io::{self, Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use rtcbot_websocket::transport::{Halves, Transport};
use testkit::decisions::Decisions;
use testkit::faults::ConnectionFaults;
use testkit::script::{ACCEPT, Receives, Script, Then};
use testkit::transport::{self, FaultyTransport, Observer};

fn halves(faults: &ConnectionFaults) -> (Halves, Halves, Observer) {
    let (one, other, observer) = transport::pair(faults);
    let split = |end: FaultyTransport| Box::new(end).split().unwrap();
    (split(one), split(other), observer)
}

const MOMENT: Duration = Duration::from_millis(1);

#[test]
fn written_bytes_arrive_in_pieces_and_then_the_stream_ends() {
    let mut faults = ConnectionFaults::none();
    faults.directions[0].piece = 3;
    faults.directions[0].capacity = 10;
    faults.directions[0].late = (20, 2);
    let (mut one, mut other, _) = halves(&faults);
    let sent: Vec<u8> = (0..=255).collect();
    let expected = sent.clone();
    let writing = thread::spawn(move || {
        one.write.write_all(&sent).unwrap();
        one.write.shutdown_write().unwrap();
    });
    let mut received = Vec::new();
    loop {
        let mut buffer = [0; 100];
        match other.read.read(&mut buffer).unwrap() {
            0 => break,
            n => {
                assert!(n <= 3);
                received.extend_from_slice(&buffer[..n]);
            }
        }
    }
    writing.join().unwrap();
    assert_eq!(received, expected);
}

#[test]
fn a_late_piece_does_not_arrive_early() {
    let mut faults = ConnectionFaults::none();
    faults.directions[0].stall = Some((1, Some(20 * MOMENT)));
    let (mut one, mut other, _) = halves(&faults);
    let start = Instant::now();
    one.write.write_all(b"ab").unwrap();
    other.read.set_timeout(Some(MOMENT)).unwrap();
    assert_eq!(other.read.read(&mut [0; 9]).unwrap(), 1);
    let mut late = other.read.read(&mut [0; 9]);
    // Unless this thread did not run for all that time.
    if let Err(error) = late {
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        other.read.set_timeout(None).unwrap();
        late = other.read.read(&mut [0; 9]);
    }
    assert_eq!(late.unwrap(), 1);
    assert!(start.elapsed() >= 20 * MOMENT);
}

#[test]
fn a_full_direction_accepts_nothing_until_the_timeout() {
    let mut faults = ConnectionFaults::none();
    faults.directions[0].capacity = 2;
    let (mut one, _other, _) = halves(&faults);
    one.write.write_all(b"ab").unwrap();
    one.write.set_timeout(Some(MOMENT)).unwrap();
    let error = one.write.write(b"c").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    assert!(one.write.try_write(b"c").is_err());
}

#[test]
fn shutdown_ends_the_waits_of_both_sides() {
    let mut faults = ConnectionFaults::none();
    faults.directions[0].capacity = 1;
    let (mut one, mut other, observer) = halves(&faults);
    one.write.write_all(b"a").unwrap();
    let handle = one.shutdown.clone();
    let writing = thread::spawn(move || one.write.write(b"b"));
    let reading = thread::spawn(move || one.read.read(&mut [0]));
    handle.shutdown();
    assert!(writing.join().unwrap().is_err());
    assert_eq!(reading.join().unwrap().unwrap(), 0);
    assert_eq!(other.read.read(&mut [0; 9]).unwrap(), 1);
    assert_eq!(other.read.read(&mut [0; 9]).unwrap(), 0);
    assert!(other.write.write(b"c").is_err());
    drop((handle, one.shutdown, other));
    assert!(observer.wait_until_both_have_gone(Instant::now() + testkit::DEADLINE));
}

#[test]
fn a_reset_discards_the_bytes_on_their_way() {
    let mut faults = ConnectionFaults::none();
    faults.directions[0].reset = Some(3);
    let (mut one, mut other, _) = halves(&faults);
    let error = one.write.write_all(b"abcd").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    for end in [&mut one, &mut other] {
        let error = end.read.read(&mut [0; 9]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}

#[test]
fn a_stream_that_ends_early_ends_at_that_byte() {
    let mut faults = ConnectionFaults::none();
    faults.directions[1].end = Some((2, false));
    let (mut one, mut other, _) = halves(&faults);
    let error = other.write.write_all(b"abcd").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    let mut all = Vec::new();
    one.read.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"ab");
    // The other direction continues.
    one.write.write_all(b"x").unwrap();
    assert_eq!(other.read.read(&mut [0; 9]).unwrap(), 1);
}

#[test]
fn unflushed_bytes_do_not_arrive() {
    let mut faults = ConnectionFaults::none();
    faults.directions[0].buffer = 10;
    let (mut one, mut other, _) = halves(&faults);
    one.write.write_all(b"ab").unwrap();
    other.read.set_timeout(Some(MOMENT)).unwrap();
    assert!(other.read.read(&mut [0; 9]).is_err());
    one.write.flush().unwrap();
    assert_eq!(other.read.read(&mut [0; 9]).unwrap(), 2);
}

#[test]
fn frames_that_break_the_protocol_are_noticed() {
    let cases: [(&[u8], bool); 14] = [
        (b"\x81\x01a\x88\x00", true),
        (b"\x81\x01a\x88\x00\x88\x00", false),
        (b"\x81\x01a\x88\x00\x81\x01b", false),
        (b"\x81\x81aaaab", false),
        (b"\x81\x01abcd", false),
        (b"\x01\x01\xc3\x89\x00\x80\x01\xa9", true),
        (b"\x02\x01a\x00\x01b", true),
        (b"\x01\x01a\x81\x01b", false),
        (b"\x80\x01b", false),
        (b"\x01\x01a\x80\x00", false),
        (b"\x01\x01\xc3\x80\x01b", false),
        (b"\x09\x00", false),
        (b"\x81\x7e\x00\x01a", false),
        (b"\x81\x01\xff", false),
    ];
    for (frames, fine) in cases {
        let (_one, mut other, observer) = halves(&ConnectionFaults::none());
        other.write.write_all(b"HTTP/1.1 101 \r\n\r\n").unwrap();
        other.write.write_all(frames).unwrap();
        assert_eq!(observer.wrong_on_the_wire().is_empty(), fine, "{frames:?}");
    }
}

#[test]
fn bytes_after_shutdown_write_are_noticed() {
    let (mut one, _other, observer) = halves(&ConnectionFaults::none());
    one.write.write_all(b"a").unwrap();
    one.write.shutdown_write().unwrap();
    assert!(observer.wrong_on_the_wire().is_empty());
    assert!(one.write.write(b"b").is_err());
    assert!(!observer.wrong_on_the_wire().is_empty());
}

#[test]
fn a_scripted_server_answers_the_key_it_received() {
    let mut script = Script::server(format!("accept: {ACCEPT}").into_bytes());
    script.then = Then::Reset;
    let (end, _peer) = script.connect();
    let mut end = Box::new(end).split().unwrap();
    end.write.write_all(testkit::UPGRADE.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let error = end.read.read_to_end(&mut answer).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    // The key in that request is the one of RFC 6455, as is the sample.
    assert_eq!(answer, format!("accept: {ACCEPT}").into_bytes());
}

#[test]
fn a_scripted_peer_stops_receiving_where_the_script_says() {
    for (receives, kind) in [
        (Receives::NothingAfter(2), io::ErrorKind::WouldBlock),
        (Receives::GoneAfter(2), io::ErrorKind::BrokenPipe),
    ] {
        let mut script = Script::client(Vec::new());
        script.receives = receives;
        script.then = Then::Silence;
        let (end, _peer) = script.connect();
        let mut end = Box::new(end).split().unwrap();
        end.write.write_all(b"HTTP/1.1 101 \r\n\r\n").unwrap();
        end.write.write_all(b"ab").unwrap();
        end.write.set_timeout(Some(MOMENT)).unwrap();
        assert_eq!(end.write.write(b"c").unwrap_err().kind(), kind);
        assert_eq!(end.write.try_write(b"c").unwrap_err().kind(), kind);
    }
}

#[test]
fn decisions_of_a_seed_repeat_and_exhausted_bytes_decide_zero() {
    let draw = || {
        let mut decisions = Decisions::from_seed(7);
        (0..100).map(|_| decisions.u64()).collect::<Vec<_>>()
    };
    assert_eq!(draw(), draw());
    let mut decisions = Decisions::from_bytes(&[5, 1, 0]);
    assert_eq!(decisions.below(3), 2);
    assert_eq!(decisions.below(1000), 256);
    assert!(decisions.is_empty());
    assert_eq!(decisions.between(4, 9), 4);
    assert!(!decisions.one_in(2) && !decisions.chance(99));
}
