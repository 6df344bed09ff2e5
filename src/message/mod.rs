//! What travels over a connection.

mod json;
mod syntax;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tungstenite::Utf8Bytes;

use crate::error::Result;

pub use json::Json;

/// What a message counts for in addition to its payload, in bytes.
pub(crate) const MESSAGE_OVERHEAD: usize = 64;

/// A message: JSON, text or bytes.
///
/// Cloning counts a reference; the contents are shared by all subscribers and sockets that a
/// message reaches.
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
/// # Which kind arrives
///
/// In JSON mode (the default, as in RTCBot) a text message that is JSON arrives as
/// [`Json`](Message::Json), and one that is not arrives as [`Text`](Message::Text). With
/// `Options::json(false)` every text message arrives as `Text`. Binary messages are
/// [`Binary`](Message::Binary) in both modes.
///
/// # How each kind is sent
///
/// | | JSON mode | `json(false)` |
/// | --- | --- | --- |
/// | `Json` | text message with the JSON | text message with the JSON |
/// | `Text` | text message with the text **as a JSON string**, in quotes | text message with the text |
/// | `Binary` | binary message | binary message |
///
/// # How JSON is read
///
/// A text that arrives is checked, and kept as it came: that is what [`Json::text`] and `Display`
/// give, and what is sent when the message is put elsewhere, to the byte. The value is read by the
/// first call of [`as_json`](Self::as_json) or [`Json::value`]; [`decode`](Self::decode) reads the
/// text into a type of yours, without making a value. JSON is what RFC 8259 says, and what Python's
/// `json`, which RTCBot uses, writes beyond that:
///
/// | in the text | arrives as | the value | `decode` |
/// | --- | --- | --- | --- |
/// | a number with a fraction or an exponent | `Json` | the nearest `f64` | as the value |
/// | an integer beyond `i64` and `u64` | `Json` | the nearest `f64`, as in JavaScript | exact, for `i128` and `u128` |
/// | `-0` | `Json` | the `f64` `-0.0`, as in JavaScript | as the value: no integer |
/// | a number that no `f64` reaches, such as `1e400` | `Json` | `null` | as `null`: `None` of an `Option<f64>` |
/// | `NaN`, `Infinity`, `-Infinity` | `Json` | `null` | as `null` |
/// | half of a surrogate pair, such as `"\ud800"` | `Json` | U+FFFD in its place | as the value |
/// | the same name twice in an object | `Json` | the last one counts | a map: the last; a struct: an error |
/// | arrays and objects nested deeper than 127 | `Text` | | an error |
/// | a byte order mark, a comment, a comma too many, a control character in a string, anything behind the value | `Text` | | an error |
///
/// NaN and infinities are written as `null`, as JavaScript's `JSON.stringify` writes them, since
/// browsers do not read `NaN`.
#[derive(Clone)]
pub enum Message {
    /// A JSON value.
    Json(Json),
    /// Text that is not JSON, or is not to be read as JSON.
    Text(Utf8Bytes),
    /// Bytes.
    Binary(Bytes),
}

impl Message {
    /// Any serialisable value as a JSON message; the typed way in.
    ///
    /// ```
    /// # use rtcbot_websocket::Message;
    /// #[derive(serde::Serialize, serde::Deserialize, PartialEq, Debug)]
    /// struct Order { motor: u8, speed: f32 }
    ///
    /// let message = Message::json(&Order { motor: 1, speed: 0.5 })?;
    /// assert_eq!(message.decode::<Order>()?, Order { motor: 1, speed: 0.5 });
    /// # Ok::<(), rtcbot_websocket::Error>(())
    /// ```
    ///
    /// What is decoded equals what was put in, numbers to the last digit; but NaN and infinities
    /// are written as `null`.
    ///
    /// # Errors
    ///
    /// [`Error::Json`](crate::Error::Json) when the value's own `Serialize` fails, or when a map's
    /// keys are not strings.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Message> {
        let text = serde_json::to_string(value)?;
        Ok(Message::Json(Json::from_text(text.into())))
    }

    /// The message as a value of your own type; the typed way out.
    ///
    /// Reads the message's text, also of a `Text` or `Binary` one, each time that it is called:
    /// integers up to `u128` and numbers keep their digits. [How JSON is
    /// read](Self#how-json-is-read) says what else counts.
    ///
    /// # Errors
    ///
    /// [`Error::Json`](crate::Error::Json) when it is not JSON, or does not fit `T`.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T> {
        Ok(match self {
            Message::Json(json) => json::decode(json.text())?,
            Message::Text(text) => json::decode(text)?,
            Message::Binary(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => json::decode(text)?,
                // What it passes over may be anything; else it says where the fault is.
                Err(_) => serde_json::from_slice(bytes)?,
            },
        })
    }

    /// The JSON value; `None` for `Text` and `Binary`.
    ///
    /// Of a message that arrived, the first call reads it from the text: a value takes up to 130
    /// times as much memory as its text, for as long as this message, or a clone of it that is made
    /// afterwards, is kept.
    pub fn as_json(&self) -> Option<&Value> {
        match self {
            Message::Json(json) => Some(json.value()),
            _ => None,
        }
    }

    /// The text of a `Text` message, or the string of a `Json` message that is one.
    ///
    /// A peer in JSON mode sends the text `hello` as the JSON string `"hello"`; this reads both
    /// alike.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Message::Json(json) => json.as_str(),
            Message::Text(text) => Some(text.as_str()),
            Message::Binary(_) => None,
        }
    }

    /// The bytes of a `Binary` message.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Message::Binary(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The payload's length in bytes as it is sent with `json(false)`. Serialises a `Json` message,
    /// once.
    #[allow(clippy::len_without_is_empty)] // An empty payload is a message like any other.
    pub fn len(&self) -> usize {
        match self {
            Message::Json(json) => json.text().len(),
            Message::Text(text) => text.len(),
            Message::Binary(bytes) => bytes.len(),
        }
    }

    /// Returns what the message counts for where memory is limited: its payload, and what it takes
    /// itself. Takes no time for a message that has its text, as those have that arrived or that wait
    /// to be sent.
    pub(crate) fn weight(&self) -> usize {
        self.len() + MESSAGE_OVERHEAD
    }

    /// A text message as it came from the wire.
    pub(crate) fn from_wire_text(text: Utf8Bytes, json: bool) -> Message {
        match json && syntax::is_json(&text) {
            true => Message::Json(Json::from_text(text)),
            false => Message::Text(text),
        }
    }

    /// The message as it waits to be sent, JSON as text alone: then it holds no more than
    /// [`len`](Self::len) says. And what it was made without.
    pub(crate) fn without_value(mut self) -> (Message, Option<Arc<Value>>) {
        let value = match &mut self {
            Message::Json(json) => json.take_value(),
            _ => None,
        };
        (self, value)
    }

    pub(crate) fn with_value(mut self, value: Option<Arc<Value>>) -> Message {
        if let (Message::Json(json), Some(value)) = (&mut self, value) {
            json.give_back(value);
        }
        self
    }

    /// The message as it is sent in JSON mode, serialised once for all who send it.
    pub(crate) fn quoted(&self) -> Message {
        match self {
            Message::Text(text) => Message::Json(Value::from(text.as_str()).into()),
            other => other.clone(),
        }
    }

    /// The message as the wire carries it.
    pub(crate) fn to_wire(&self, json: bool) -> tungstenite::Message {
        match self {
            Message::Json(value) => tungstenite::Message::Text(value.text().clone()),
            Message::Text(text) if json => {
                tungstenite::Message::Text(Value::from(text.as_str()).to_string().into())
            }
            Message::Text(text) => tungstenite::Message::Text(text.clone()),
            Message::Binary(bytes) => tungstenite::Message::Binary(bytes.clone()),
        }
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Message::Json(json) => f.debug_tuple("Json").field(json).finish(),
            Message::Text(text) => f.debug_tuple("Text").field(&text.as_str()).finish(),
            Message::Binary(bytes) => f.debug_tuple("Binary").field(bytes).finish(),
        }
    }
}

/// JSON and text as they are; of bytes, how many.
impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Message::Json(json) => json.fmt(f),
            Message::Text(text) => f.write_str(text),
            Message::Binary(bytes) => write!(f, "<{} bytes>", bytes.len()),
        }
    }
}

impl PartialEq for Message {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Message::Json(a), Message::Json(b)) => a == b,
            (Message::Text(a), Message::Text(b)) => a == b,
            (Message::Binary(a), Message::Binary(b)) => a == b,
            _ => false,
        }
    }
}

/// As [`Message::as_str`] reads it.
impl PartialEq<str> for Message {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == Some(other)
    }
}

/// As [`Message::as_str`] reads it.
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
        /// As JSON; NaN and infinities as `null`.
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

impl From<Utf8Bytes> for Message {
    fn from(text: Utf8Bytes) -> Self {
        Message::Text(text)
    }
}

impl From<Bytes> for Message {
    fn from(bytes: Bytes) -> Self {
        Message::Binary(bytes)
    }
}

impl From<Vec<u8>> for Message {
    fn from(bytes: Vec<u8>) -> Self {
        Message::Binary(bytes.into())
    }
}

impl From<&[u8]> for Message {
    fn from(bytes: &[u8]) -> Self {
        Message::Binary(Bytes::copy_from_slice(bytes))
    }
}

impl<const N: usize> From<&[u8; N]> for Message {
    fn from(bytes: &[u8; N]) -> Self {
        Message::Binary(Bytes::copy_from_slice(bytes))
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
    fn numbers_and_truth_values_are_json() {
        assert_eq!(Message::from(1), json!(1));
        assert_eq!(Message::from(0.5), json!(0.5));
        assert_eq!(Message::from(true), json!(true));
    }

    #[test]
    fn text_goes_out_as_a_json_string_in_json_mode_only() {
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
    fn json_that_arrived_is_passed_on_to_the_letter() {
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
    fn a_value_ends_with_those_that_were_asked_for_it() {
        let json = Json::from_text("[1]".into());
        let waits = Message::from(json.clone());
        let value = Arc::downgrade(&json.value.get_or_init(|| json.read_value().into()).clone());
        assert!(value.upgrade().is_some());
        drop(json);
        assert!(value.upgrade().is_none());
        assert_eq!(waits, json!([1]));
    }

    #[test]
    fn what_waits_to_be_sent_holds_no_value_and_is_handed_back_with_it() {
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
    fn a_text_is_asked_for_its_string_without_reading_what_is_none() {
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
    fn decode_reports_what_does_not_fit() {
        assert!(Message::from(json!({"a": 1})).decode::<Vec<u8>>().is_err());
        assert!(Message::from("nope").decode::<Value>().is_err());
        assert_eq!(Message::from("[1,2]").decode::<Vec<u8>>().unwrap(), [1, 2]);
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
