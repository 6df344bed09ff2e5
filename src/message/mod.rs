//! The messages that a connection carries.

mod binary;
mod compression;
mod json;
mod syntax;
mod text;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::shown::quoted;

pub use binary::Binary;
pub(crate) use compression::Compression;
pub use json::Json;
pub use text::Text;

/// What a message counts for in addition to its payload, in bytes.
pub(crate) const MESSAGE_OVERHEAD: usize = 64;

/// A message: JSON, text or bytes.
///
/// A clone counts a reference. All subscribers and sockets that a message reaches share its
/// content.
///
/// # Examples
///
/// ```
/// use rtcbot_websocket::{Message, json};
///
/// let order: Message = json!({"motor": 1, "speed": 0.5}).into();
/// let text: Message = "hello".into();
/// let bytes: Message = vec![1u8, 2, 3].into();
///
/// assert_eq!(order.as_json().unwrap()["motor"], 1);
/// assert_eq!(text.as_str(), Some("hello"));
/// assert_eq!(bytes.as_bytes(), Some(&[1u8, 2, 3][..]));
/// ```
///
/// # Receiving
///
/// In JSON mode, the default as in RTCBot, a text message that is JSON arrives as
/// [`Json`](Message::Json), and any other as [`Text`](Message::Text). With `Options::json(false)`,
/// every text message arrives as `Text`. Binary messages arrive as [`Binary`](Message::Binary) in
/// both modes.
///
/// # Sending
///
/// | | JSON mode | `json(false)` |
/// | --- | --- | --- |
/// | `Json` | text message with the JSON | text message with the JSON |
/// | `Text` | text message with a **JSON string**, in quotes | text message with the text |
/// | `Binary` | binary message | binary message |
///
/// # How JSON is read
///
/// A text that arrives is checked and kept unchanged. [`Json::text`] and `Display` return it to the
/// byte, and it is sent to the byte if the message is put elsewhere. The first call of
/// [`as_json`](Self::as_json) or [`Json::value`] reads the value. [`decode`](Self::decode) reads
/// the text into a type of yours without making a value.
///
/// The syntax is that of RFC 8259, and what Python's `json`, which RTCBot uses, writes beyond it:
///
/// | in the text | the value | `decode` |
/// | --- | --- | --- |
/// | a fraction or an exponent | nearest `f64` | the same |
/// | an integer beyond `i64` and `u64` | nearest `f64` (as JavaScript) | exact (`i128`, `u128`) |
/// | `-0` | the `f64` `-0.0` (as JavaScript) | the same; not an integer |
/// | a number beyond `f64`, as `1e400` | `null` | `null`: `None` of an `Option<f64>` |
/// | `NaN`, `Infinity`, `-Infinity` | `null` | `null` |
/// | half a surrogate pair, as `"\ud800"` | U+FFFD in its place | the same |
/// | a name twice in an object | the last one | map: the last; struct: error |
///
/// Any other text arrives as `Text`, and `decode` returns an error for it. Examples are
/// arrays and objects nested deeper than 127 levels, a byte order mark, a comment, a trailing
/// comma, a control character in a string, and anything after the value.
///
/// NaN and infinities are written as `null`, as JavaScript's `JSON.stringify` does, because
/// browsers do not read `NaN`.
#[derive(Clone, PartialEq, Eq)]
pub enum Message {
    /// A JSON value.
    Json(Json),
    /// Text that is not JSON, or that is not read as JSON.
    Text(Text),
    /// Bytes.
    Binary(Binary),
}

impl Message {
    /// Returns a JSON message of any serialisable value.
    ///
    /// [`decode`](Self::decode) returns a value that is equal, numbers to the last digit. NaN and
    /// infinities are written as `null`.
    ///
    /// # Errors
    ///
    /// [`Error::Json`] if the value's own `Serialize` fails, or if the keys of
    /// a map are not strings.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::Message;
    ///
    /// #[derive(serde::Serialize, serde::Deserialize, PartialEq, Debug)]
    /// struct Order { motor: u8, speed: f32 }
    ///
    /// let message = Message::json(&Order { motor: 1, speed: 0.5 })?;
    /// assert_eq!(message.decode::<Order>()?, Order { motor: 1, speed: 0.5 });
    /// # Ok::<(), rtcbot_websocket::Error>(())
    /// ```
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Message> {
        let text = serde_json::to_string(value)?;
        Ok(Message::Json(Json::from_text(text.into())))
    }

    /// Reads the message as a value of type `T`.
    ///
    /// Every call reads the text again, also that of a `Text` or `Binary` message. Integers up to
    /// `u128` and other numbers keep their digits; see [How JSON is read](Self#how-json-is-read).
    /// [`Message::json`] has an example.
    ///
    /// # Errors
    ///
    /// [`Error::Json`] if the message is not JSON, or does not fit `T`. It shows
    /// the beginning of the text.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T> {
        let decoded = match self {
            Message::Json(json) => json::decode(json.text()),
            Message::Text(text) => json::decode(text),
            Message::Binary(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => json::decode(text),
                // `from_slice` does not check the UTF-8 of values that `T` ignores. In others, it
                // reports where the fault is.
                Err(_) => serde_json::from_slice(bytes),
            },
        };
        decoded.map_err(|error| Error::Json {
            error: Arc::new(error),
            excerpt: self.excerpt(),
        })
    }

    /// Returns the first 100 characters of the payload, in quotes.
    fn excerpt(&self) -> String {
        let text = match self {
            Message::Json(json) => json.text().as_str().into(),
            Message::Text(text) => text.as_str().into(),
            // A character has at most 4 bytes.
            Message::Binary(bytes) => String::from_utf8_lossy(&bytes[..bytes.len().min(4 * 101)]),
        };
        quoted(&text, 100)
    }

    /// Returns the JSON value, or `None` for `Text` and `Binary`.
    ///
    /// For a message that arrived, the first call reads the value from the text. The value takes up
    /// to 130 times as much memory as the text. It is kept as long as this message, or a clone that
    /// is made afterwards.
    #[must_use]
    pub fn as_json(&self) -> Option<&Value> {
        match self {
            Message::Json(json) => Some(json.value()),
            _ => None,
        }
    }

    /// Returns the text of a `Text` message, or the string of a `Json` message that is a string.
    ///
    /// A peer in JSON mode sends the text `hello` as the JSON string `"hello"`. This method returns
    /// `hello` for both.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Message::Json(json) => json.as_str(),
            Message::Text(text) => Some(text.as_str()),
            Message::Binary(_) => None,
        }
    }

    /// Returns the bytes of a `Binary` message.
    #[must_use]
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Message::Binary(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// Returns the length in bytes of the payload that is sent with `json(false)`. The first call
    /// serialises a `Json` message.
    #[allow(clippy::len_without_is_empty)] // An empty payload is a message like any other.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Message::Json(json) => json.text().len(),
            Message::Text(text) => text.len(),
            Message::Binary(bytes) => bytes.len(),
        }
    }

    /// Returns the memory that the message counts for in queues: its payload and its own size.
    ///
    /// This takes no time for a message that was received or waits to be sent: it has its text.
    pub(crate) fn weight(&self) -> usize {
        self.len() + MESSAGE_OVERHEAD
    }

    /// Returns the message with the choice that it is not compressed when it is sent, whatever
    /// [`Options::deflate`](crate::Options::deflate) says.
    ///
    /// This is for data that is compressed already, such as an image. Compressing it again takes
    /// time and saves nothing. The receiver does not see the difference.
    ///
    /// Needs the feature `deflate`.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Message, Websocket};
    ///
    /// let (robot, operator) = Websocket::pair();
    /// let jpeg = vec![0xff, 0xd8, 0xff];
    /// robot.put_nowait(Message::from(jpeg.clone()).uncompressed())?;
    /// assert_eq!(operator.get()?, Message::from(jpeg));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(feature = "deflate")]
    #[must_use]
    pub fn uncompressed(mut self) -> Message {
        *self.compression_mut() = Compression::Off;
        self
    }

    /// Returns the message with the choice that it is compressed once for all connections.
    #[cfg(feature = "deflate")]
    pub(crate) fn compressed_once(mut self) -> Message {
        let compression = self.compression_mut();
        if matches!(compression, Compression::AsSet) {
            *compression = Compression::Shared(Default::default());
        }
        self
    }

    #[cfg(not(feature = "deflate"))]
    pub(crate) fn compressed_once(self) -> Message {
        self
    }

    #[cfg(feature = "deflate")]
    fn compression_mut(&mut self) -> &mut Compression {
        match self {
            Message::Json(json) => &mut json.compression,
            Message::Text(text) => &mut text.compression,
            Message::Binary(bytes) => &mut bytes.compression,
        }
    }

    /// Returns how the message is compressed when it is sent.
    pub(crate) fn compression(&self) -> &Compression {
        match self {
            Message::Json(json) => &json.compression,
            Message::Text(text) => &text.compression,
            Message::Binary(bytes) => &bytes.compression,
        }
    }

    /// Makes a message of a text from the wire.
    pub(crate) fn from_wire_text(text: tungstenite::Utf8Bytes, json: bool) -> Message {
        let text = Text::from_wire(text);
        match json && syntax::is_json(&text) {
            true => Message::Json(Json::from_text(text)),
            false => Message::Text(text),
        }
    }

    /// Returns the message without the value of its JSON, and that value. The text alone takes no
    /// more memory than [`len`](Self::len) says, so this is the form that is queued.
    pub(crate) fn without_value(mut self) -> (Message, Option<Arc<Value>>) {
        let value = match &mut self {
            Message::Json(json) => {
                // Makes the text from the value.
                let _ = json.text();
                json.value.take()
            }
            _ => None,
        };
        (self, value)
    }

    pub(crate) fn with_value(mut self, value: Option<Arc<Value>>) -> Message {
        if let (Message::Json(json), Some(value)) = (&mut self, value) {
            json.value = value.into();
        }
        self
    }

    /// Returns the message as JSON mode sends it. It is serialised once for all connections.
    pub(crate) fn quoted(&self) -> Message {
        match self {
            Message::Text(text) => {
                let mut json = Json::from(Value::from(text.as_str()));
                json.compression = text.compression.clone();
                Message::Json(json)
            }
            other => other.clone(),
        }
    }

    /// Returns the message as the codec sends it.
    pub(crate) fn to_wire(&self, json: bool) -> tungstenite::Message {
        match self {
            Message::Json(value) => tungstenite::Message::Text(value.text().clone().into_wire()),
            Message::Text(_) if json => self.quoted().to_wire(json),
            Message::Text(text) => tungstenite::Message::Text(text.clone().into_wire()),
            Message::Binary(bytes) => tungstenite::Message::Binary(bytes.clone().into()),
        }
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Message::Json(json) => f.debug_tuple("Json").field(json).finish(),
            Message::Text(text) => f.debug_tuple("Text").field(text).finish(),
            Message::Binary(bytes) => f.debug_tuple("Binary").field(bytes).finish(),
        }
    }
}

/// Writes JSON and text unchanged, and the number of bytes of a binary message.
impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Message::Json(json) => json.fmt(f),
            Message::Text(text) => f.write_str(text),
            Message::Binary(bytes) => write!(f, "<{} bytes>", bytes.len()),
        }
    }
}

/// Compares with the result of [`Message::as_str`].
impl PartialEq<str> for Message {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == Some(other)
    }
}

/// Compares with the result of [`Message::as_str`].
impl PartialEq<&str> for Message {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == Some(*other)
    }
}

impl PartialEq<Value> for Message {
    fn eq(&self, other: &Value) -> bool {
        self.as_json() == Some(other)
    }
}

impl From<Value> for Message {
    fn from(value: Value) -> Self {
        Message::Json(value.into())
    }
}

macro_rules! from_json_scalars {
    ($($scalar:ty)*) => {$(
        /// Makes a JSON message. NaN and infinities become `null`.
        impl From<$scalar> for Message {
            fn from(value: $scalar) -> Self {
                Value::from(value).into()
            }
        }
    )*};
}

from_json_scalars!(bool i8 i16 i32 i64 isize u8 u16 u32 u64 usize f32 f64);

impl From<Json> for Message {
    fn from(json: Json) -> Self {
        Message::Json(json)
    }
}

impl From<&str> for Message {
    fn from(text: &str) -> Self {
        Message::Text(text.into())
    }
}

impl From<String> for Message {
    fn from(text: String) -> Self {
        Message::Text(text.into())
    }
}

impl From<Text> for Message {
    fn from(text: Text) -> Self {
        Message::Text(text)
    }
}

impl From<Binary> for Message {
    fn from(bytes: Binary) -> Self {
        Message::Binary(bytes)
    }
}

impl From<Bytes> for Message {
    fn from(bytes: Bytes) -> Self {
        Message::Binary(bytes.into())
    }
}

impl From<Vec<u8>> for Message {
    fn from(bytes: Vec<u8>) -> Self {
        Message::Binary(bytes.into())
    }
}

impl From<&[u8]> for Message {
    fn from(bytes: &[u8]) -> Self {
        Message::Binary(bytes.into())
    }
}

impl<const N: usize> From<&[u8; N]> for Message {
    fn from(bytes: &[u8; N]) -> Self {
        Message::Binary(bytes[..].into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn wire_text(message: &Message, json: bool) -> String {
        match message.to_wire(json) {
            tungstenite::Message::Text(text) => text.as_str().to_owned(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn numbers_and_booleans_are_json() {
        assert_eq!(Message::from(1), json!(1));
        assert_eq!(Message::from(0.5), json!(0.5));
        assert_eq!(Message::from(true), json!(true));
    }

    #[test]
    fn text_is_sent_as_a_json_string_in_json_mode_only() {
        let hello = Message::from("say \"hi\"");
        assert_eq!(wire_text(&hello, true), r#""say \"hi\"""#);
        assert_eq!(wire_text(&hello, false), r#"say "hi""#);
    }

    #[test]
    fn text_that_is_not_json_arrives_as_text() {
        assert!(matches!(
            Message::from_wire_text("{oops".into(), true),
            Message::Text(_)
        ));
        assert!(matches!(
            Message::from_wire_text("{}".into(), true),
            Message::Json(_)
        ));
        assert!(matches!(
            Message::from_wire_text("{}".into(), false),
            Message::Text(_)
        ));
    }

    #[test]
    fn json_that_arrived_is_sent_on_unchanged() {
        let spaced = Message::from_wire_text("{ \"b\" : 1.0,\"a\":[ ] }".into(), true);
        assert_eq!(wire_text(&spaced, true), "{ \"b\" : 1.0,\"a\":[ ] }");
        assert_eq!(spaced, json!({"a": [], "b": 1.0}));
    }

    #[test]
    fn clones_share_one_value_and_one_text() {
        let made = Json::from(json!({"a": 1}));
        let arrived = Json::from_text(r#"{"a": 1}"#.into());
        for json in [made, arrived] {
            let clone = json.clone();
            assert!(std::ptr::eq(json.text().as_str(), clone.text().as_str()));
            assert!(std::ptr::eq(json.value(), clone.value()));
        }
    }

    #[test]
    fn a_value_is_freed_with_the_clones_that_read_it() {
        let json = Json::from_text("[1]".into());
        let waits = Message::from(json.clone());
        let value = Arc::downgrade(&json.value.get_or_init(|| json.read_value().into()).clone());
        assert!(value.upgrade().is_some());
        drop(json);
        assert!(value.upgrade().is_none());
        assert_eq!(waits, json!([1]));
    }

    #[test]
    fn a_queued_message_holds_no_value_and_is_returned_with_it() {
        let message = Message::from(json!([1]));
        let (waits, value) = message.clone().without_value();
        drop(message);
        let value = value.unwrap();
        assert_eq!(Arc::strong_count(&value), 1);
        assert_eq!(wire_text(&waits, true), "[1]");
        let back = waits.with_value(Some(value.clone()));
        assert!(std::ptr::eq(back.as_json().unwrap(), &*value));
    }

    #[test]
    fn as_str_reads_no_value_that_is_not_a_string() {
        for text in ["[\"x\"]", " 1", "{}"] {
            let json = Json::from_text(text.into());
            assert_eq!(json.as_str(), None);
            assert!(json.value.get().is_none());
        }
        assert_eq!(Json::from_text(" \"x\"".into()).as_str(), Some("x"));
    }

    #[test]
    fn as_str_reads_text_and_json_strings_alike() {
        assert_eq!(Message::from("x"), "x");
        assert_eq!(Message::from(json!("x")), "x");
        assert_eq!(Message::from(json!(1)).as_str(), None);
        assert_eq!(Message::from(b"x").as_str(), None);
    }

    #[test]
    fn decode_rejects_a_message_that_does_not_fit() {
        assert!(Message::from(json!({"a": 1})).decode::<Vec<u8>>().is_err());
        assert!(Message::from("nope").decode::<Value>().is_err());
        assert_eq!(Message::from("[1,2]").decode::<Vec<u8>>().unwrap(), [1, 2]);
    }

    #[test]
    fn whether_two_values_are_equal_does_not_depend_on_the_calls_before() {
        let mut deep = Value::from(0);
        for _ in 0..200 {
            deep = vec![deep].into();
        }
        let made = Json::from(deep.clone());
        let Message::Json(typed) = Message::json(&deep).unwrap() else {
            unreachable!("json makes JSON");
        };
        // The value of `typed` is a string, because the text is nested too deep to be read.
        assert_ne!(made, typed);
        assert_eq!(made.text(), typed.text());
        assert_ne!(made, typed);
    }

    #[test]
    fn a_typed_value_nested_too_deep_to_read_back_does_not_panic() {
        let mut deep = String::from("0");
        for _ in 0..200 {
            deep = format!("[{deep}]");
        }
        let json = Json::from_text(deep.into());
        assert!(json.value().is_string());
    }
}
