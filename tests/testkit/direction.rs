//! One direction of a faulty connection: the bytes that are on their way, and what happens to them.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::decisions::Decisions;
use super::faults::Faults;
use super::frames::FrameReader;

/// What the faults have in store for the next bytes that are written.
#[derive(Debug, Default)]
pub(super) struct Piece {
    /// How many of its bytes have not been written.
    pub(super) left: u64,
    late: Option<Duration>,
    pub(super) refused: bool,
    pub(super) signal_writing: bool,
    signal_reading: bool,
}

/// What one call wrote, and one or more calls read.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) len: usize,
    /// `None` is never.
    pub(super) arrives: Option<Instant>,
    pub(super) signal: bool,
}

pub(super) struct Direction {
    pub(super) faults: Faults,
    decisions: Decisions<'static>,
    pub(super) piece: Piece,
    pub(super) bytes: VecDeque<u8>,
    pub(super) chunks: VecDeque<Chunk>,
    pub(super) written: u64,
    /// When the last chunk arrives: none overtakes another. `None` is never.
    pub(super) arrival: Option<Instant>,
    /// Nothing more will be written.
    pub(super) finished: bool,
    /// The writer itself has ended the stream.
    pub(super) was_shut_down: bool,
    /// Nobody will read.
    pub(super) abandoned: bool,
    /// Writes succeed and have no effect.
    pub(super) swallows: bool,
    /// At its end, the reader finds the connection reset.
    pub(super) resets_at_the_end: bool,
    /// The reader has found nothing to read at least once.
    pub(super) has_run_dry: bool,
    pub(super) frames: FrameReader,
}

impl Direction {
    pub(super) fn new(faults: &Faults, seed: u64, from_client: bool) -> Self {
        Direction {
            faults: faults.clone(),
            decisions: Decisions::from_seed(seed),
            piece: Piece::default(),
            bytes: VecDeque::new(),
            chunks: VecDeque::new(),
            written: 0,
            arrival: Some(Instant::now()),
            finished: false,
            was_shut_down: false,
            abandoned: false,
            swallows: false,
            resets_at_the_end: false,
            has_run_dry: false,
            frames: FrameReader::new(from_client),
        }
    }

    pub(super) fn next_piece(&mut self) {
        let (faults, decisions) = (&self.faults, &mut self.decisions);
        let late = decisions.chance(faults.late.0);
        self.piece = Piece {
            left: decisions.between(1, faults.piece),
            late: late.then(|| decisions.millis(1, faults.late.1)),
            refused: decisions.chance(faults.refused),
            signal_writing: decisions.chance(faults.signals),
            signal_reading: decisions.chance(faults.signals),
        };
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() >= self.faults.capacity
    }

    /// How many bytes lie before the next fault that has a position.
    fn distance(&self) -> u64 {
        let Faults {
            stall, reset, end, ..
        } = &self.faults;
        let positions = [stall.map(|(at, _)| at), *reset, end.map(|(at, _)| at)];
        let ahead = positions.into_iter().flatten();
        ahead
            .filter_map(|at| at.checked_sub(self.written))
            .filter(|&distance| distance > 0)
            .min()
            .unwrap_or(u64::MAX)
    }

    /// Takes as many bytes as there is room for in this piece.
    pub(super) fn take(&mut self, bytes: &[u8]) -> usize {
        let room = self.faults.capacity - self.bytes.len();
        let most = self.piece.left.min(self.distance());
        let len = room.min(bytes.len()).min(most as usize);
        let late = self.piece.late.take().unwrap_or_default();
        self.arrival = self.arrival.map(|last| last.max(Instant::now() + late));
        let signal = std::mem::take(&mut self.piece.signal_reading);
        self.frames.read(&bytes[..len]);
        self.push(&bytes[..len], signal);
        self.piece.left -= len as u64;
        self.written += len as u64;
        len
    }

    pub(super) fn push(&mut self, bytes: &[u8], signal: bool) {
        self.chunks.push_back(Chunk {
            len: bytes.len(),
            arrives: self.arrival,
            signal,
        });
        self.bytes.extend(bytes);
    }

    /// The chunk that can be read now.
    pub(super) fn arrived(&mut self) -> Option<&mut Chunk> {
        let chunk = self.chunks.front_mut()?;
        chunk.arrives.filter(|at| *at <= Instant::now())?;
        Some(chunk)
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.chunks.clear();
    }
}
