//! What goes wrong on a connection in memory, drawn from a seed or chosen by hand.
#![allow(dead_code)] // Each test file uses its own part.

use std::io;
use std::time::Duration;

use super::decisions::Decisions;

/// What goes wrong in one direction. Positions count bytes from the beginning of the stream.
#[derive(Debug, Clone)]
pub struct Faults {
    /// The maximum length of a piece: what one call writes or reads.
    pub piece: u64,
    /// How many bytes the direction holds that have not been read.
    pub capacity: usize,
    /// How many pieces in a hundred are late, and by how many milliseconds at most.
    pub late: (u64, u64),
    /// From this position on nothing arrives for this time; `None` is for ever.
    pub stall: Option<(u64, Option<Duration>)>,
    /// At this position the connection is reset, in both directions.
    pub reset: Option<u64>,
    /// At this position the stream ends. The flag says whether later writes succeed, without
    /// effect.
    pub end: Option<(u64, bool)>,
    /// How many pieces in a hundred are refused to a writer that does not wait.
    pub refused: u64,
    /// How many pieces in a hundred are preceded by a signal, for the writer and for the reader.
    pub signals: u64,
    /// How many bytes the write half holds back until it is flushed.
    pub buffer: usize,
}

/// How an end of the connection behaves.
#[derive(Debug, Clone)]
pub struct EndOptions {
    /// Ending the connection with unread bytes resets it, as for TCP: the peer may lose what was
    /// sent before.
    pub resets: bool,
    /// A half that is dropped ends its direction, as for pipes. Otherwise a direction ends when
    /// all parts of the end have been dropped.
    pub by_halves: bool,
    /// After a shutdown, what has arrived can still be read.
    pub reads_on: bool,
    /// The error of a call whose timeout has passed.
    pub timeout: io::ErrorKind,
}

/// All that goes wrong on one connection.
#[derive(Debug, Clone)]
pub struct ConnectionFaults {
    /// From the first end to the second, and back.
    pub directions: [Faults; 2],
    pub ends: [EndOptions; 2],
    pub seed: u64,
}

impl Faults {
    pub fn none() -> Self {
        Faults {
            piece: 1 << 20,
            capacity: 64 << 10,
            late: (0, 0),
            stall: None,
            reset: None,
            end: None,
            refused: 0,
            signals: 0,
            buffer: 0,
        }
    }

    fn draw(decisions: &mut Decisions<'_>) -> Self {
        let piece = decisions.pick(&[1, 8, 200, 5000, 1 << 20]);
        let late = match decisions.between(0, 3) {
            // Short pieces are many: few of them are late, or all would take too long.
            0 if piece <= 8 => (1, decisions.pick(&[2, 20])),
            0 => (decisions.pick(&[1, 20]), decisions.pick(&[2, 20])),
            _ => (0, 0),
        };
        // The handshake takes the first few hundred bytes.
        let reach = match piece {
            1 | 8 => 2_000,
            _ => 50_000,
        };
        let mut at = |percent| {
            let early = decisions.chance(20);
            decisions.chance(percent).then(|| match early {
                true => decisions.between(0, 300),
                false => 200 + decisions.up_to(reach),
            })
        };
        let (stall, reset, end) = (at(25), at(15), at(15));
        Faults {
            piece,
            capacity: decisions.pick(&[1, 50, 1000, 64 << 10, 64 << 10, 1 << 20]),
            late,
            stall: stall.map(|at| (at, decisions.chance(60).then(|| decisions.millis(5, 300)))),
            reset,
            end: end.map(|at| (at, decisions.chance(50))),
            refused: decisions.pick(&[0, 0, 30, 100]),
            signals: decisions.pick(&[0, 0, 10]),
            buffer: decisions.pick(&[0, 0, 1, 100, 10_000]),
        }
    }
}

impl EndOptions {
    pub fn simple() -> Self {
        EndOptions {
            resets: false,
            by_halves: false,
            reads_on: false,
            timeout: io::ErrorKind::WouldBlock,
        }
    }

    fn draw(decisions: &mut Decisions<'_>) -> Self {
        EndOptions {
            resets: decisions.chance(50),
            by_halves: decisions.chance(50),
            reads_on: decisions.chance(50),
            timeout: decisions.pick(&[io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut]),
        }
    }
}

impl ConnectionFaults {
    pub fn none() -> Self {
        ConnectionFaults {
            directions: [Faults::none(), Faults::none()],
            ends: [EndOptions::simple(), EndOptions::simple()],
            seed: 0,
        }
    }

    pub fn draw(seed: u64) -> Self {
        let mut decisions = Decisions::from_seed(seed);
        let mut directions = [Faults::draw(&mut decisions), Faults::draw(&mut decisions)];
        // Connections that lose nothing show that a clean close delivers everything.
        if decisions.chance(40) {
            for direction in &mut directions {
                (direction.reset, direction.end) = (None, None);
                direction.stall = direction.stall.filter(|(_, time)| time.is_some());
            }
        }
        ConnectionFaults {
            directions,
            ends: [
                EndOptions::draw(&mut decisions),
                EndOptions::draw(&mut decisions),
            ],
            seed: decisions.u64(),
        }
    }

    /// Whether one side may stop hearing the other, even the other's end.
    pub fn may_fall_silent(&self) -> bool {
        let silent = |direction: &Faults| matches!(direction.stall, Some((_, None)));
        self.directions.iter().any(silent)
    }

    /// Whether everything arrives, however late and in whatever pieces.
    pub fn lose_nothing(&self) -> bool {
        let whole = |direction: &Faults| direction.reset.is_none() && direction.end.is_none();
        self.directions.iter().all(whole) && !self.may_fall_silent()
    }
}
