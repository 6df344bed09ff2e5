//! The bytes of a message.

use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;

use bytes::Bytes;

use super::compression::Compression;

/// Bytes that are cheap to clone.
///
/// It derefs to `[u8]`, so all methods of slices can be called. A clone counts a reference and
/// copies nothing.
///
/// # Examples
///
/// ```
/// use rtcbot_websocket::{Binary, Bytes};
///
/// let image = Binary::from(vec![0xff, 0xd8, 0xff]);
/// assert_eq!(image, [0xff, 0xd8, 0xff]);
/// assert!(image.starts_with(&[0xff]));
///
/// let bytes = Bytes::from(image); // is not copied
/// assert_eq!(Binary::from(bytes).len(), 3);
/// ```
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Binary {
    bytes: Bytes,
    pub(super) compression: Compression,
}

impl Binary {
    /// Returns the bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes
    }
}

impl Deref for Binary {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for Binary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.bytes, f)
    }
}

impl AsRef<[u8]> for Binary {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Borrow<[u8]> for Binary {
    fn borrow(&self) -> &[u8] {
        self
    }
}

impl PartialEq<[u8]> for Binary {
    fn eq(&self, other: &[u8]) -> bool {
        self.as_slice() == other
    }
}

impl<const N: usize> PartialEq<[u8; N]> for Binary {
    fn eq(&self, other: &[u8; N]) -> bool {
        self.as_slice() == other
    }
}

/// Copies nothing.
impl From<Bytes> for Binary {
    fn from(bytes: Bytes) -> Self {
        Binary {
            bytes,
            compression: Compression::default(),
        }
    }
}

/// Copies nothing.
impl From<Vec<u8>> for Binary {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

/// Copies the bytes.
impl From<&[u8]> for Binary {
    fn from(bytes: &[u8]) -> Self {
        Bytes::copy_from_slice(bytes).into()
    }
}

/// Copies nothing.
impl From<Binary> for Bytes {
    fn from(binary: Binary) -> Self {
        binary.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn bytes_share_the_memory() {
        let binary = Binary::from(vec![7; 100]);
        let address = binary.as_ptr();
        assert_eq!(binary.clone().as_ptr(), address);
        assert_eq!(Bytes::from(binary).as_ptr(), address);
    }

    #[test]
    fn they_are_compared_and_hashed_as_a_slice() {
        let binary = Binary::from(&b"ab"[..]);
        assert_eq!(binary, *b"ab");
        assert_eq!(binary, b"ab"[..]);
        assert!(HashSet::from([binary.clone()]).contains(&b"ab"[..]));
        assert!(Binary::default() < binary);
        assert_eq!(format!("{binary:?}"), "b\"ab\"");
    }
}
