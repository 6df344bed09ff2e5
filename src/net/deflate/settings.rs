//! The settings of the compression.

use std::ops::RangeInclusive;

use super::direction::Direction;

/// The smallest and the largest window, as base-2 logarithms. RFC 7692 allows 8 as well, but zlib
/// cannot compress with it.
const WINDOW_BITS: RangeInclusive<u8> = 9..=15;

/// Settings for the compression of messages: permessage-deflate ([RFC 7692]).
///
/// [`Options::deflate`](crate::Options::deflate) turns it on. A connection compresses only if both
/// sides have turned it on. Then each side decides for each message. A received message is inflated
/// before anything else sees it, and must not be longer than
/// [`max_message_size`](crate::Options::max_message_size) when it is.
///
/// With the default settings, a message can refer to the last 32 KiB that were sent before it on
/// the connection. Small messages that resemble each other, such as a robot's state, become very
/// short this way. But each connection keeps memory for it: `docs/scaling.md` has the figures.
///
/// A message whose data is compressed already, such as a JPEG, gets no shorter, and at level 1
/// about 6 % longer: send it with [`Message::uncompressed`](crate::Message::uncompressed).
///
/// Compressing a secret together with text that an attacker chose can reveal the secret by its
/// length, even over TLS. If a connection carries both, leave it uncompressed.
///
/// Needs the feature `deflate`.
///
/// # Broadcasts
///
/// With context takeover, each connection compresses a [`broadcast`](crate::broadcast()) by itself,
/// since the result depends on what it has sent before. Set
/// [`server_no_context_takeover`](Self::server_no_context_takeover) on the server to compress
/// each message once for all connections with the same settings. (If clients broadcast, set
/// [`client_no_context_takeover`](Self::client_no_context_takeover) on them.) This takes much less
/// time, but messages become longer, since they do not refer to earlier ones: six times as long for
/// a robot's state. A message of more than 1 MiB is compressed by each connection.
///
/// The compressed form is kept in memory until the last connection has sent the message, beside the
/// message itself. The limit of the send queue counts only the message.
///
/// [RFC 7692]: https://www.rfc-editor.org/rfc/rfc7692
///
/// # Examples
///
/// ```
/// use rtcbot_websocket::{Deflate, Options, Server, Websocket, json};
///
/// let options = Options::new().deflate(Deflate::new());
/// let mut server = Server::bind("127.0.0.1:0")?;
/// let robot = options.connect(server.url())?;
/// let operator = options.accept(server.next().unwrap());
///
/// let samples = vec![0.25; 1000];
/// robot.put_nowait(json!(samples))?;
/// assert_eq!(operator.get()?, json!(samples));
/// assert!(operator.stats().bytes_in < 100); // instead of 5001
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "settings have no effect until they are passed to Options::deflate"]
pub struct Deflate {
    pub(super) level: u8,
    pub(super) threshold: usize,
    pub(super) client: Direction,
    pub(super) server: Direction,
}

impl Default for Deflate {
    fn default() -> Self {
        let direction = Direction {
            takeover: true,
            window_bits: *WINDOW_BITS.end(),
        };
        Deflate {
            level: 1,
            threshold: 64,
            client: direction,
            server: direction,
        }
    }
}

impl Deflate {
    /// Returns the default settings.
    pub fn new() -> Self {
        Deflate::default()
    }

    /// Sets how much time is spent to make messages shorter: from 1, the fastest, to 9.
    ///
    /// Level 1 is much faster than all others: it takes a ninth of the time of level 6 for messages
    /// of 100 bytes, and a quarter for long ones. Level 6, zlib's default, makes them 20 to 35 %
    /// shorter than level 1. Higher levels hardly gain more.
    ///
    /// Default: 1. Another number than 1 to 9 is an
    /// [`Error::InvalidOption`](crate::Error::InvalidOption) when connecting.
    pub fn level(mut self, level: u8) -> Self {
        self.level = level;
        self
    }

    /// Sets the minimum length of a message to be compressed, in bytes.
    ///
    /// Shorter messages are sent as they are, because little can be saved. Default: 64. An empty
    /// message is never compressed.
    pub fn threshold(mut self, bytes: usize) -> Self {
        self.threshold = bytes;
        self
    }

    /// Sets whether the client compresses each message by itself (section 7.1.1.2).
    ///
    /// Messages become longer, since they do not refer to earlier ones, and neither side has to
    /// keep memory for the client's messages while the connection is idle. A client does what it is
    /// set to; a server demands it in its answer. Default: `false`.
    pub fn client_no_context_takeover(mut self, on: bool) -> Self {
        self.client.takeover = !on;
        self
    }

    /// Sets whether the server compresses each message by itself (section 7.1.1.1).
    ///
    /// As [`client_no_context_takeover`](Self::client_no_context_takeover), but for the server's
    /// messages. A client demands it in its offer; a server that cannot do it does not compress.
    /// [Broadcasts](Self#broadcasts) are compressed once for all. Default: `false`.
    pub fn server_no_context_takeover(mut self, on: bool) -> Self {
        self.server.takeover = !on;
        self
    }

    /// Sets how far back the client's messages may refer (section 7.1.2.2): 2 to the power of
    /// `bits`, in bytes, from 9 to 15.
    ///
    /// With a short window, compressing takes less memory, and messages become longer. Inflating
    /// takes as much memory with any window, in this crate. A server can limit only those clients
    /// that offer this; all browsers do. Default: 15, that is 32 KiB. Another number is an
    /// [`Error::InvalidOption`](crate::Error::InvalidOption) when connecting.
    pub fn client_max_window_bits(mut self, bits: u8) -> Self {
        self.client.window_bits = bits;
        self
    }

    /// Sets how far back the server's messages may refer (section 7.1.2.1).
    ///
    /// As [`client_max_window_bits`](Self::client_max_window_bits), but for the server's messages.
    /// A server that cannot do what a client demands does not compress. Default: 15.
    pub fn server_max_window_bits(mut self, bits: u8) -> Self {
        self.server.window_bits = bits;
        self
    }

    /// Returns why these settings cannot work.
    pub(crate) fn check(&self) -> Result<(), String> {
        if !(1..=9).contains(&self.level) {
            return Err(format!("the level must be from 1 to 9, not {}", self.level));
        }
        for bits in [self.client.window_bits, self.server.window_bits] {
            if !WINDOW_BITS.contains(&bits) {
                return Err(format!("max_window_bits must be from 9 to 15, not {bits}"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_out_of_range_are_rejected() {
        let new = Deflate::new;
        assert_eq!(new().check(), Ok(()));
        for bad in [
            new().level(0),
            new().level(10),
            new().client_max_window_bits(8),
            new().client_max_window_bits(16),
            new().server_max_window_bits(8),
            new().server_max_window_bits(0),
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }
}
