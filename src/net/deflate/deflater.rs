//! Compresses messages (RFC 7692, section 7.2.1).

use std::io;

use flate2::{Compress, Compression, FlushCompress};

use super::direction::{Direction, TAIL};
use super::spares::Spares;

/// Compressors with their level and window, for messages without context takeover.
static SPARES: Spares<(u8, u8), Compress> = Spares::new();

/// The compressor of one connection's messages.
#[derive(Debug)]
pub(crate) struct Deflater {
    level: u8,
    threshold: usize,
    direction: Direction,
    /// `None` before the first message. Without context takeover, `None` between messages: an idle
    /// connection keeps no memory.
    compress: Option<Compress>,
}

impl Deflater {
    pub(super) fn new(level: u8, threshold: usize, direction: Direction) -> Self {
        Deflater {
            level,
            threshold,
            direction,
            compress: None,
        }
    }

    /// Returns whether a message of this length is compressed.
    pub(crate) fn is_worthwhile(&self, length: usize) -> bool {
        // zlib does not compress nothing at all.
        length >= self.threshold.max(1)
    }

    /// Returns how a message can be compressed that several connections send: each gets the same
    /// bytes from equal settings. Returns `None` if the bytes depend on the messages before.
    pub(crate) fn shared_settings(&self) -> Option<(u8, u8)> {
        (!self.direction.takeover).then_some((self.level, self.direction.window_bits))
    }

    /// Compresses the next part of a message, and appends the result to `out`. All parts together
    /// are the payload of the message's frames. `is_last` ends the message, which is not empty.
    ///
    /// # Errors
    ///
    /// zlib finds its own state corrupt.
    pub(crate) fn compress(
        &mut self,
        mut part: &[u8],
        is_last: bool,
        out: &mut Vec<u8>,
    ) -> io::Result<()> {
        let Direction {
            takeover,
            window_bits,
        } = self.direction;
        let settings = (self.level, window_bits);
        let spare = || match takeover {
            true => None,
            false => SPARES.take(&settings),
        };
        let compress = self.compress.get_or_insert_with(|| {
            spare().unwrap_or_else(|| {
                let level = Compression::new(self.level.into());
                Compress::new_with_window_bits(level, false, window_bits)
            })
        });
        let flush = match is_last {
            true => FlushCompress::Sync,
            false => FlushCompress::None,
        };
        loop {
            out.reserve(part.len() / 2 + 64);
            let before = compress.total_in();
            compress
                .compress_vec(part, out, flush)
                .map_err(io::Error::other)?;
            part = &part[(compress.total_in() - before) as usize..];
            // If there is space left, nothing is left to write.
            if part.is_empty() && (!is_last || out.len() < out.capacity()) {
                break;
            }
        }
        if is_last {
            debug_assert!(out.ends_with(&TAIL));
            out.truncate(out.len() - TAIL.len());
            if let Some(mut compress) = self.compress.take_if(|_| !takeover) {
                compress.reset();
                SPARES.keep(settings, compress);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
impl Deflater {
    pub(super) fn has_compressor(&self) -> bool {
        self.compress.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_takeover_a_compressor_is_kept_for_the_next_message() {
        // No connection has this level, so no other test uses the spare.
        let settings = (0, 10);
        for takeover in [true, false] {
            let direction = Direction {
                takeover,
                window_bits: settings.1,
            };
            let mut deflater = Deflater::new(settings.0, 0, direction);
            deflater.compress(b"hello", true, &mut Vec::new()).unwrap();
            assert_eq!(SPARES.take(&settings).is_some(), !takeover);
        }
    }
}
