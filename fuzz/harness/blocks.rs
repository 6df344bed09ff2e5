//! Compressed data that no compressor writes: blocks of all kinds (RFC 1951, section 3.2.3).

use crate::fuzzing::testkit::decisions::Decisions;

/// Returns the payload of a compressed message. It is valid, unless a decision spoils it.
///
/// `history` is the number of bytes that its distances may reach back before the message.
pub(super) fn deflated(decisions: &mut Decisions<'_>, mut history: usize) -> Vec<u8> {
    let mut bits = Bits::default();
    for _ in 0..=decisions.byte() % 4 {
        let is_last = decisions.one_in(6);
        bits.push(usize::from(is_last), 1);
        match decisions.byte() % 8 {
            0 | 1 => history += stored(decisions, &mut bits),
            2..=4 => {
                bits.push(1, 2);
                let literals = (0..288).map(|symbol| match symbol {
                    144..256 => 9,
                    256..280 => 7,
                    _ => 8,
                });
                let codes = (Code::new(literals.collect()), Code::new(vec![5; 32]));
                history += symbols(decisions, &mut bits, &codes, history);
            }
            5 | 6 => {
                bits.push(2, 2);
                let codes = codes(decisions, &mut bits);
                history += symbols(decisions, &mut bits, &codes, history);
            }
            // Random bits, after the reserved type or after any other.
            _ => {
                bits.push(decisions.below(4), 2);
                bits.bytes.extend(decisions.bytes());
                bits.align();
            }
        }
        if is_last {
            bits.align();
            history = 0;
        }
    }
    // The first byte of the empty block whose other bytes are not sent.
    if !decisions.one_in(8) {
        bits.push(0, 3);
    }
    bits.align();
    if decisions.one_in(8) {
        decisions.edit(&mut bits.bytes);
    }
    bits.bytes
}

/// Writes a stored block, without its first bit. Returns how many bytes it stands for.
fn stored(decisions: &mut Decisions<'_>, bits: &mut Bits) -> usize {
    bits.push(0, 2);
    bits.align();
    let data = decisions.bytes();
    let length = match decisions.one_in(16) {
        true => decisions.u16().into(),
        false => data.len(),
    };
    bits.push(length, 16);
    bits.push(!length & 0xffff, 16);
    bits.bytes.extend(&data);
    data.len()
}

/// Writes the head of a block with its own codes, after its type. Returns the codes.
fn codes(decisions: &mut Decisions<'_>, bits: &mut Bits) -> (Code, Code) {
    let mut literals = vec![0; 257 + decisions.below(30)];
    let mut distances = vec![0; 1 + decisions.below(30)];
    match decisions.byte() % 4 {
        0 => {
            (literals[97], literals[98], literals[256]) = (1, 2, 3);
            *literals.last_mut().expect("one") = 3;
        }
        // Codes of all lengths.
        1 => {
            for length in 1..16 {
                literals[90 + length] = length;
            }
            literals[256] = 15;
        }
        2 => {
            literals[..254].fill(8);
            literals[256] = 8;
            *literals.last_mut().expect("one") = 8;
        }
        _ => literals[256] = 1,
    }
    match decisions.byte() % 4 {
        0 => distances[0] = 1,
        1 if distances.len() > 1 => {
            distances[0] = 1;
            *distances.last_mut().expect("one") = 1;
        }
        2 if distances.len() >= 16 => distances[..16].fill(4),
        _ => {}
    }
    for lengths in [&mut literals, &mut distances] {
        if decisions.one_in(8) {
            let at = decisions.below(lengths.len());
            lengths[at] = decisions.below(16);
        }
    }
    bits.push(literals.len() - 257, 5);
    bits.push(distances.len() - 1, 5);
    // Each of the lengths 0 to 15 has a code of 4 bits, and repetitions have none.
    bits.push(19 - 4, 4);
    for symbol in [
        16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15,
    ] {
        bits.push(if symbol < 16 { 4 } else { 0 }, 3);
    }
    for length in literals.iter().chain(&distances) {
        bits.push_code(*length, 4);
    }
    (Code::new(literals), Code::new(distances))
}

/// Writes the symbols of a block. Returns how many bytes they stand for.
fn symbols(
    decisions: &mut Decisions<'_>,
    bits: &mut Bits,
    (literals, distances): &(Code, Code),
    history: usize,
) -> usize {
    let mut length = 0;
    for _ in 0..decisions.byte() % 32 {
        if !decisions.flag() || history + length == 0 {
            literals.push_any(decisions, bits, 0..256);
            length += 1;
            continue;
        }
        // The same match again and again, as in a bomb.
        let times = match decisions.one_in(4) {
            true => decisions.up_to(600),
            false => 1,
        };
        let mut again = decisions.clone();
        for _ in 0..times {
            again = decisions.clone();
            length += matched(&mut again, bits, literals, distances, history + length);
        }
        *decisions = again;
    }
    if !decisions.one_in(16) {
        literals.push(bits, 256);
    }
    length
}

/// Writes a length with a distance. Returns the length.
fn matched(
    decisions: &mut Decisions<'_>,
    bits: &mut Bits,
    literals: &Code,
    distances: &Code,
    history: usize,
) -> usize {
    let Some(symbol) = literals.push_any(decisions, bits, 257..288) else {
        return 0;
    };
    let length = match symbol {
        257..265 => symbol - 254,
        265..285 => {
            let extra = (symbol - 261) / 4;
            let more = decisions.below(1 << extra);
            bits.push(more, extra);
            ((4 + (symbol - 257) % 4) << extra) + more + 3
        }
        _ => 258,
    };
    let reaches = |symbol: usize| match symbol {
        0..4 => symbol < history,
        _ => (2 + symbol % 2) << (symbol / 2 - 1) < history,
    };
    let end = match decisions.one_in(32) {
        true => 32,
        false => (0..30).find(|symbol| !reaches(*symbol)).unwrap_or(30),
    };
    if let Some(symbol @ 4..) = distances.push_any(decisions, bits, 0..end.max(1)) {
        let extra = symbol / 2 - 1;
        // The last bit of the farthest ones may be one too much.
        bits.push(decisions.below(1 << extra) / 2, extra);
    }
    length
}

/// A Huffman code, by the lengths of its symbols' codes (section 3.2.2).
struct Code(Vec<(usize, usize)>);

impl Code {
    fn new(lengths: Vec<usize>) -> Code {
        let mut codes = vec![(0, 0); lengths.len()];
        let mut next = 0;
        for length in 1..16 {
            for (symbol, _) in lengths.iter().enumerate().filter(|(_, it)| **it == length) {
                codes[symbol] = (next, length);
                next += 1;
            }
            next <<= 1;
        }
        Code(codes)
    }

    fn push(&self, bits: &mut Bits, symbol: usize) {
        let (code, length) = self.0[symbol];
        bits.push_code(code, length);
    }

    /// Writes one of these symbols, if one has a code.
    fn push_any(
        &self,
        decisions: &mut Decisions<'_>,
        bits: &mut Bits,
        symbols: std::ops::Range<usize>,
    ) -> Option<usize> {
        let known = symbols.filter(|symbol| self.0.get(*symbol).is_some_and(|code| code.1 > 0));
        let known: Vec<_> = known.collect();
        if known.is_empty() {
            return None;
        }
        let symbol = decisions.pick(&known);
        self.push(bits, symbol);
        Some(symbol)
    }
}

#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    /// The number of bits of the last byte that are not used.
    left: usize,
}

impl Bits {
    fn push(&mut self, value: usize, count: usize) {
        for bit in 0..count {
            if self.left == 0 {
                self.bytes.push(0);
                self.left = 8;
            }
            let last = self.bytes.last_mut().expect("a byte with space");
            *last |= ((value >> bit & 1) as u8) << (8 - self.left);
            self.left -= 1;
        }
    }

    /// Codes begin with their highest bit.
    fn push_code(&mut self, code: usize, length: usize) {
        for bit in (0..length).rev() {
            self.push(code >> bit & 1, 1);
        }
    }

    fn align(&mut self) {
        self.left = 0;
    }
}
