//! Bytes as a list of decisions, so that what a fuzzer changes is what is done.

use std::ops::RangeInclusive;

/// A tape that has run out goes on with zeros: what these decide is the plainest thing to do.
pub(super) struct Tape<'a>(&'a [u8]);

impl<'a> Tape<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Tape(bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            None => 0,
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
        }
    }

    pub(super) fn u16(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    pub(super) fn flag(&mut self) -> bool {
        self.byte() % 2 == 1
    }

    /// Whether something that is rare is to happen; never when the tape has run out.
    pub(super) fn one_in(&mut self, n: u8) -> bool {
        self.byte() % n == n - 1
    }

    /// Less than `n`, which is not zero.
    pub(super) fn below(&mut self, n: usize) -> usize {
        match n {
            0..=256 => usize::from(self.byte()) % n,
            _ => usize::from(self.u16()) % n,
        }
    }

    pub(super) fn within(&mut self, range: RangeInclusive<usize>) -> usize {
        range.start() + self.below(range.end() - range.start() + 1)
    }

    pub(super) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// So many bytes, or as many as there are.
    pub(super) fn take(&mut self, n: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Bytes whose number the tape says.
    pub(super) fn bytes(&mut self) -> &'a [u8] {
        let length = usize::from(self.byte() % 64);
        self.take(length)
    }

    pub(super) fn text(&mut self) -> String {
        String::from_utf8_lossy(self.bytes()).into_owned()
    }

    pub(super) fn rest(self) -> &'a [u8] {
        self.0
    }
}

/// A few changes, as they happen to bytes on a bad day.
pub(super) fn edit(bytes: &mut Vec<u8>, tape: &mut Tape<'_>) {
    for _ in 0..tape.byte() % 4 {
        let at = tape.below(bytes.len() + 1);
        let end = (at + 1 + tape.below(16)).min(bytes.len());
        match tape.byte() % 6 {
            0 if at < end => bytes[at] ^= 1 << (tape.byte() % 8),
            1 if at < end => bytes[at] = tape.byte(),
            2 => drop(bytes.drain(at..end)),
            3 => bytes.insert(at, tape.byte()),
            4 => drop(bytes.splice(at..at, bytes[at..end].to_vec())),
            _ => bytes.truncate(at),
        }
    }
}
