//! The text of a message.

use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;
use std::str::Utf8Error;

use bytes::Bytes;
use tungstenite::Utf8Bytes;

use super::compression::Compression;

/// Text in UTF-8 that is cheap to clone.
///
/// It derefs to [`str`], so all methods of `str` can be called. A clone counts a reference and
/// copies nothing.
///
/// # Examples
///
/// ```
/// use rtcbot_websocket::{Bytes, Text};
///
/// let text = Text::from("forward 5");
/// assert_eq!(text, "forward 5");
/// assert!(text.starts_with("forward"));
///
/// let bytes = Bytes::from(text); // is not copied
/// assert_eq!(Text::try_from(bytes).unwrap(), "forward 5"); // is checked, and not copied
/// ```
// The codec's own type is inside, so that neither direction copies or checks the text again.
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Text {
    text: Utf8Bytes,
    pub(super) compression: Compression,
}

impl Text {
    /// Returns the text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.text.as_str()
    }

    pub(super) fn from_wire(text: Utf8Bytes) -> Self {
        Text {
            text,
            compression: Compression::default(),
        }
    }

    pub(super) fn into_wire(self) -> Utf8Bytes {
        self.text
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.as_str(), f)
    }
}

impl PartialEq<str> for Text {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for Text {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

impl PartialEq<String> for Text {
    fn eq(&self, other: &String) -> bool {
        self.as_str() == other
    }
}

impl AsRef<str> for Text {
    fn as_ref(&self) -> &str {
        self
    }
}

impl AsRef<[u8]> for Text {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl Borrow<str> for Text {
    fn borrow(&self) -> &str {
        self
    }
}

/// Copies the text.
impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Text::from_wire(text.into())
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Text::from_wire(text.into())
    }
}

impl From<Box<str>> for Text {
    fn from(text: Box<str>) -> Self {
        String::from(text).into()
    }
}

/// Checks that the bytes are UTF-8, and copies nothing.
impl TryFrom<Bytes> for Text {
    type Error = Utf8Error;

    fn try_from(bytes: Bytes) -> Result<Self, Utf8Error> {
        bytes.try_into().map(Text::from_wire)
    }
}

/// Copies nothing.
impl From<Text> for Bytes {
    fn from(text: Text) -> Self {
        text.text.into()
    }
}

/// Copies the text.
impl From<Text> for String {
    fn from(text: Text) -> Self {
        text.as_str().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn the_codec_and_bytes_share_the_memory_of_a_text() {
        let text = Text::from("x".repeat(100));
        let address = text.as_ptr();
        let wire = text.into_wire();
        assert_eq!(wire.as_ptr(), address);
        let bytes = Bytes::from(Text::from_wire(wire));
        assert_eq!(bytes.as_ptr(), address);
        let text = Text::try_from(bytes).unwrap();
        assert_eq!(text.clone().as_ptr(), address);
    }

    #[test]
    fn bytes_that_are_not_utf_8_are_not_text() {
        let error = Text::try_from(Bytes::from_static(b"ab\xff")).unwrap_err();
        assert_eq!(error.valid_up_to(), 2);
    }

    #[test]
    fn a_text_is_compared_hashed_and_shown_as_a_str() {
        let text = Text::from("say \"hi\"");
        assert_eq!(text, *"say \"hi\"");
        assert_eq!(text, String::from("say \"hi\""));
        assert_eq!(text, Text::from(Box::<str>::from("say \"hi\"")));
        assert!(HashSet::from([text.clone()]).contains("say \"hi\""));
        assert!(Text::default() < text);
        assert_eq!(format!("{text:?} {text:>9}"), r#""say \"hi\""  say "hi""#);
        assert_eq!(String::from(text), "say \"hi\"");
    }
}
