//! The compressed messages of one side.

/// The end of each compressed message, which is not sent (section 7.2.1): an empty block without
/// compression, after its first byte.
pub(super) const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];

/// How one side compresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Direction {
    /// Whether each message may refer to the data of earlier ones (section 7.1.1).
    pub(super) takeover: bool,
    /// The base-2 logarithm of the distance to which a message may refer (section 7.1.2): 8 to 15.
    pub(super) window_bits: u8,
}
