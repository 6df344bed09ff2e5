//! Numbered messages, and how fast they are put and taken.

use std::thread;
use std::time::Duration;

use rtcbot_websocket::{Message, PutError, Websocket};

use crate::testkit::decisions::Decisions;

/// Message `number` of a stream.
fn message(stream: u64, number: u64, size: u64) -> Message {
    let mut bytes = [stream.to_be_bytes(), number.to_be_bytes()].concat();
    bytes.resize(16 + size as usize, number as u8);
    bytes.into()
}

/// Returns a message's stream and number; panics if it is not as it was sent.
pub fn read(message: &Message) -> (u64, u64) {
    let bytes = message.as_bytes().expect("only bytes are sent");
    let number = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
    let (stream, number) = (number(0), number(8));
    assert!(bytes[16..].iter().all(|&byte| byte == number as u8));
    (stream, number)
}

/// How large messages are and how often somebody pauses.
#[derive(Clone)]
pub struct Pace {
    pub decisions: Decisions<'static>,
    largest: u64,
    /// How many times in a hundred, and for how many milliseconds at most.
    pauses: (u64, u64),
}

impl Pace {
    pub fn draw(decisions: &mut Decisions<'_>) -> Self {
        Pace {
            largest: decisions.pick(&[10, 100, 1000, 60_000, 200_000]),
            pauses: decisions.pick(&[(0, 1), (1, 5), (50, 2), (1, 200)]),
            decisions: Decisions::from_seed(decisions.u64()),
        }
    }

    pub fn pause(&mut self) {
        if self.decisions.chance(self.pauses.0) {
            thread::sleep(self.decisions.millis(1, self.pauses.1));
        }
    }
}

/// Puts messages from `next` on, in each way there is, until the connection ends or `enough` have
/// been put. `next` is then the first that was not accepted.
pub fn put_numbered(
    ws: &Websocket,
    stream: u64,
    next: &mut u64,
    enough: u64,
    pace: &mut Pace,
    has_put: impl Fn(),
) {
    for _ in 0..enough {
        let mut item = message(stream, *next, pace.decisions.up_to(pace.largest));
        loop {
            let put = match pace.decisions.between(0, 2) {
                0 => ws.put(item),
                1 => ws.put_timeout(item, pace.decisions.millis(0, 50)),
                _ => ws.put_nowait(item),
            };
            match put {
                Ok(()) => break,
                Err(PutError::Full(back)) => item = back,
                Err(PutError::Closed(_)) => return,
            }
            thread::sleep(Duration::from_millis(1));
        }
        *next += 1;
        has_put();
        pace.pause();
        if pace.decisions.one_in(1000) {
            let _ = ws.ping("");
        }
    }
}
