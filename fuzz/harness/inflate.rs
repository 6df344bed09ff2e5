//! Inflates (RFC 1951) in the simplest code possible: bit by bit, with all output as the history.
//!
//! It rejects what zlib rejects, as soon as the bits have arrived that show it.

/// The end of each message, which is not sent (RFC 7692, section 7.2.1).
const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];

/// The inflated messages of a connection.
pub(super) struct Inflater {
    takeover: bool,
    window: usize,
    input: Vec<u8>,
    /// The position in the input, in bits.
    at: usize,
    /// What all messages so far inflate to.
    output: Vec<u8>,
    /// Where in the output the current message begins.
    message: usize,
    /// Where in the output the current deflate stream begins.
    stream: usize,
    block: Block,
    /// Whether the current block is the last of its stream.
    is_last: bool,
    /// Whether all of this message's data so far is a complete deflate stream.
    has_ended: bool,
    /// Whether a distance was longer than the window.
    pub(super) exceeds_window: bool,
}

enum Block {
    /// A block begins.
    None,
    /// This number of bytes of a stored block is missing.
    Stored(usize),
    Codes(Box<Code>, Box<Code>),
}

/// Why inflating stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// There is no more input.
    Starved,
    Invalid,
}

/// The order of the lengths of the codes for lengths (section 3.2.7).
const ORDER: [usize; 19] = [
    16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15,
];

impl Inflater {
    pub(super) fn new(takeover: bool, window_bits: u8) -> Self {
        Inflater {
            takeover,
            window: 1 << window_bits,
            input: Vec::new(),
            at: 0,
            output: Vec::new(),
            message: 0,
            stream: 0,
            block: Block::None,
            is_last: false,
            has_ended: false,
            exceeds_window: false,
        }
    }

    /// Inflates a part of a message. Stops a little after `limit` bytes of the message. Returns
    /// whether the data can be inflated.
    pub(super) fn add(&mut self, payload: &[u8], limit: usize) -> bool {
        self.input.drain(..self.at / 8);
        self.at %= 8;
        self.input.extend_from_slice(payload);
        self.has_ended &= payload.is_empty();
        while self.message().len() <= limit {
            let begin = self.at;
            match self.step() {
                Ok(()) => {}
                Err(Stop::Starved) => {
                    self.at = begin;
                    return true;
                }
                Err(Stop::Invalid) => return false,
            }
        }
        true
    }

    /// Ends a message (RFC 7692, section 7.2.2). Returns whether its data can be inflated.
    pub(super) fn add_tail(&mut self, limit: usize) -> bool {
        self.has_ended || self.add(&TAIL, limit)
    }

    /// Returns what the current message inflates to so far.
    pub(super) fn message(&self) -> &[u8] {
        &self.output[self.message..]
    }

    #[cfg(feature = "deflate")]
    pub(super) fn is_between_blocks(&self) -> bool {
        matches!(self.block, Block::None) && self.at == self.input.len() * 8
    }

    pub(super) fn begin_message(&mut self) {
        if self.takeover {
            self.message = self.output.len();
            self.has_ended = false;
        } else {
            let exceeds_window = self.exceeds_window;
            let bits = self.window.ilog2() as u8;
            *self = Inflater::new(false, bits);
            self.exceeds_window = exceeds_window;
        }
    }

    /// Does a step for which all bits must be there.
    fn step(&mut self) -> Result<(), Stop> {
        match &mut self.block {
            Block::None => {
                let is_last = self.take(1)? == 1;
                let block = self.begin_block()?;
                self.is_last = is_last;
                self.block = block;
                if let Block::Stored(0) = self.block {
                    self.end_block();
                }
            }
            Block::Stored(left) => {
                let from = self.at / 8;
                let n = (*left).min(self.input.len() - from);
                if n == 0 {
                    return Err(Stop::Starved);
                }
                *left -= n;
                let is_over = *left == 0;
                self.output.extend_from_slice(&self.input[from..from + n]);
                self.at += n * 8;
                if is_over {
                    self.end_block();
                }
            }
            Block::Codes(..) => self.symbol()?,
        }
        Ok(())
    }

    fn end_block(&mut self) {
        self.block = Block::None;
        if self.is_last {
            self.at = self.at.next_multiple_of(8);
            self.stream = self.output.len();
            self.has_ended = self.at == self.input.len() * 8;
        }
    }

    fn take(&mut self, count: usize) -> Result<usize, Stop> {
        let mut value = 0;
        for bit in 0..count {
            let byte = self.input.get(self.at / 8).ok_or(Stop::Starved)?;
            value |= usize::from(byte >> (self.at % 8) & 1) << bit;
            self.at += 1;
        }
        Ok(value)
    }

    fn begin_block(&mut self) -> Result<Block, Stop> {
        match self.take(2)? {
            0 => {
                self.at = self.at.next_multiple_of(8);
                let (length, complement) = (self.take(16)?, self.take(16)?);
                match length ^ complement {
                    0xffff => Ok(Block::Stored(length)),
                    _ => Err(Stop::Invalid),
                }
            }
            1 => {
                let lengths = (0..288).map(|symbol| match symbol {
                    0..144 => 8,
                    144..256 => 9,
                    256..280 => 7,
                    _ => 8,
                });
                let codes = (Code::new(lengths), Code::new([5; 32]));
                Ok(Block::Codes(Box::new(codes.0), Box::new(codes.1)))
            }
            2 => self.begin_dynamic(),
            _ => Err(Stop::Invalid),
        }
    }

    fn begin_dynamic(&mut self) -> Result<Block, Stop> {
        let counts = self.take(14)?;
        let (literals, distances) = ((counts & 31) + 257, (counts >> 5 & 31) + 1);
        if literals > 286 || distances > 30 {
            return Err(Stop::Invalid);
        }
        let mut lengths = [0; 19];
        for index in &ORDER[..(counts >> 10) + 4] {
            lengths[*index] = self.take(3)?;
        }
        let code = Code::new(lengths);
        if !(code.is_complete() || code.longest == 0) {
            return Err(Stop::Invalid);
        }
        let mut lengths = Vec::new();
        while lengths.len() < literals + distances {
            // zlib takes a code without symbols for the length 0, and rejects the block below.
            let symbol = match code.longest {
                0 => self.take(1).map(|_| 0)?,
                _ => self.decode(&code)?,
            };
            let (length, times) = match symbol {
                16 => {
                    let times = 3 + self.take(2)?;
                    (*lengths.last().ok_or(Stop::Invalid)?, times)
                }
                17 => (0, 3 + self.take(3)?),
                18 => (0, 11 + self.take(7)?),
                length => (length, 1),
            };
            lengths.extend(std::iter::repeat_n(length, times));
        }
        if lengths.len() > literals + distances || lengths[256] == 0 {
            return Err(Stop::Invalid);
        }
        let distances = Code::new(lengths.split_off(literals));
        let literals = Code::new(lengths);
        for code in [&literals, &distances] {
            // One code, or none, may leave bits unused.
            if !code.is_complete() && code.longest > 1 || code.is_excessive() {
                return Err(Stop::Invalid);
            }
        }
        Ok(Block::Codes(Box::new(literals), Box::new(distances)))
    }

    /// Inflates a literal, or a length with a distance, or ends the block.
    fn symbol(&mut self) -> Result<(), Stop> {
        let Block::Codes(literals, distances) = std::mem::replace(&mut self.block, Block::None)
        else {
            return Ok(());
        };
        let result = self.symbol_of(&literals, &distances);
        match result {
            Ok(true) => self.end_block(),
            _ => self.block = Block::Codes(literals, distances),
        }
        result.map(|_| ())
    }

    fn symbol_of(&mut self, literals: &Code, distances: &Code) -> Result<bool, Stop> {
        let length = match self.decode(literals)? {
            literal @ 0..256 => {
                self.output.push(literal as u8);
                return Ok(false);
            }
            256 => return Ok(true),
            symbol @ 257..265 => symbol - 254,
            symbol @ 265..285 => self.in_steps(symbol - 257, 4)? + 3,
            285 => 258,
            _ => return Err(Stop::Invalid),
        };
        let distance = match self.decode(distances)? {
            symbol @ 0..4 => symbol + 1,
            symbol @ 4..30 => self.in_steps(symbol, 2)? + 1,
            _ => return Err(Stop::Invalid),
        };
        if distance > self.output.len() - self.stream {
            return Err(Stop::Invalid);
        }
        self.exceeds_window |= distance > self.window;
        for _ in 0..length {
            self.output.push(self.output[self.output.len() - distance]);
        }
        Ok(false)
    }

    /// Returns a number that grows exponentially, in `steps` linear steps, with the symbol, and has
    /// extra bits (section 3.2.5).
    fn in_steps(&mut self, symbol: usize, steps: usize) -> Result<usize, Stop> {
        let extra = symbol / steps - 1;
        Ok(((steps + symbol % steps) << extra) + self.take(extra)?)
    }

    fn decode(&mut self, code: &Code) -> Result<usize, Stop> {
        let mut value = 0;
        for length in 1..=code.longest.max(1) {
            value = value << 1 | self.take(1)?;
            if let Some(symbol) = code.symbol(length, value) {
                return Ok(symbol);
            }
        }
        Err(Stop::Invalid)
    }
}

/// A Huffman code (section 3.2.2).
struct Code {
    /// For each length: its first code, and the symbols of its codes.
    lengths: [(usize, Vec<usize>); 16],
    longest: usize,
    /// How many codes of 15 bits are not used.
    unused: isize,
}

impl Code {
    fn new(of_symbols: impl IntoIterator<Item = usize>) -> Self {
        let mut code = Code {
            lengths: Default::default(),
            longest: 0,
            unused: 1 << 15,
        };
        for (symbol, length) in of_symbols.into_iter().enumerate() {
            if length > 0 {
                code.lengths[length].1.push(symbol);
                code.longest = code.longest.max(length);
                code.unused -= 1 << (15 - length);
            }
        }
        let mut first = 0;
        for (begin, symbols) in &mut code.lengths[1..] {
            *begin = first;
            first = (first + symbols.len()) << 1;
        }
        code
    }

    fn is_complete(&self) -> bool {
        self.unused == 0
    }

    fn is_excessive(&self) -> bool {
        self.unused < 0
    }

    fn symbol(&self, length: usize, value: usize) -> Option<usize> {
        let (first, symbols) = &self.lengths[length];
        symbols.get(value.checked_sub(*first)?).copied()
    }
}
