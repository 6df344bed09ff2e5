//! Random decisions that can be repeated: from a seed, or from the bytes of a fuzzer.
#![allow(dead_code)] // Each test file uses its own part.

use std::time::Duration;

/// A source of decisions.
///
/// A fuzzer's bytes decide directly, so that a small change of the bytes is a small change of what
/// happens. When they have run out, every decision is zero, which stands for the simplest choice.
#[derive(Debug, Clone)]
pub struct Decisions<'a>(Source<'a>);

#[derive(Debug, Clone)]
enum Source<'a> {
    Bytes(&'a [u8]),
    /// The state of splitmix64.
    Seed(u64),
}

impl Decisions<'static> {
    pub fn from_seed(seed: u64) -> Self {
        Decisions(Source::Seed(seed))
    }
}

impl<'a> Decisions<'a> {
    pub fn from_bytes(bytes: &'a [u8]) -> Self {
        Decisions(Source::Bytes(bytes))
    }

    /// Whether the bytes have run out; a seed never does.
    pub fn is_empty(&self) -> bool {
        matches!(self.0, Source::Bytes([]))
    }

    pub fn u64(&mut self) -> u64 {
        match &mut self.0 {
            Source::Bytes(_) => (0..8).fold(0, |n, _| n << 8 | u64::from(self.byte())),
            Source::Seed(state) => {
                *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                z ^ (z >> 31)
            }
        }
    }

    pub fn u16(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    pub fn byte(&mut self) -> u8 {
        match &mut self.0 {
            Source::Bytes([]) => 0,
            Source::Bytes([first, rest @ ..]) => {
                let byte = *first;
                self.0 = Source::Bytes(rest);
                byte
            }
            Source::Seed(_) => self.u64() as u8,
        }
    }

    pub fn flag(&mut self) -> bool {
        self.byte() % 2 == 1
    }

    fn less_than(&mut self, n: u64) -> u64 {
        match (&self.0, n) {
            (Source::Bytes(_), 0..=256) => u64::from(self.byte()) % n,
            (Source::Bytes(_), 257..=65_536) => u64::from(self.u16()) % n,
            _ => self.u64() % n,
        }
    }

    /// Less than `n`, which is not zero.
    pub fn below(&mut self, n: usize) -> usize {
        self.less_than(n as u64) as usize
    }

    /// From `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.less_than(high - low + 1)
    }

    /// `true` once in `n` times; never when the bytes have run out.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.less_than(n) == n - 1
    }

    /// `true` in this many cases of a hundred; never when the bytes have run out.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.less_than(100) >= 100 - percent
    }

    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// Up to `high`, small numbers as often as large ones.
    pub fn up_to(&mut self, high: u64) -> u64 {
        let bits = self.between(0, u64::from(high.ilog2()));
        self.between(0, (2 << bits) - 1).min(high)
    }

    pub fn millis(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_millis(self.between(low, high))
    }

    /// At most 63 bytes, and no more than are left.
    pub fn bytes(&mut self) -> Vec<u8> {
        let length = self.byte() % 64;
        (0..length)
            .map_while(|_| (!self.is_empty()).then(|| self.byte()))
            .collect()
    }

    pub fn text(&mut self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }

    /// The bytes that are left; none of a seed.
    pub fn rest(self) -> &'a [u8] {
        match self.0 {
            Source::Bytes(rest) => rest,
            Source::Seed(_) => &[],
        }
    }

    /// Makes up to three changes to `bytes`: flips, replaces, removes, inserts, repeats, cuts off.
    pub fn edit(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..self.byte() % 4 {
            let at = self.below(bytes.len() + 1);
            let end = (at + 1 + self.below(16)).min(bytes.len());
            match self.byte() % 6 {
                0 if at < end => bytes[at] ^= 1 << (self.byte() % 8),
                1 if at < end => bytes[at] = self.byte(),
                2 => drop(bytes.drain(at..end)),
                3 => bytes.insert(at, self.byte()),
                4 => drop(bytes.splice(at..at, bytes[at..end].to_vec())),
                _ => bytes.truncate(at),
            }
        }
    }
}
