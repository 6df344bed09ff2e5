//! What travels over a connection.

use std::fmt;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tungstenite::Utf8Bytes;

use crate::error::Result;

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
    /// # Errors
    ///
    /// [`Error::Json`](crate::Error::Json) when the value's own `Serialize` fails, or when a map's keys are not strings.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Message> {
        let text = serde_json::to_string(value)?;
        Ok(Message::Json(Json::from_text(text.into())))
    }

    /// The message as a value of your own type; the typed way out.
    ///
    /// A `Json` message is read from the value that was parsed when it arrived; `Text` and `Binary`
    /// are parsed as JSON by this call.
    ///
    /// # Errors
    ///
    /// [`Error::Json`](crate::Error::Json) when it is not JSON, or does not fit `T`.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T> {
        Ok(match self {
            Message::Json(json) => T::deserialize(json.value())?,
            Message::Text(text) => serde_json::from_str(text)?,
            Message::Binary(bytes) => serde_json::from_slice(bytes)?,
        })
    }

    /// The JSON value; `None` for `Text` and `Binary`.
    pub fn as_json(&self) -> Option<&Value> {
        match self {
            Message::Json(json) => Some(json.value()),
            _ => None,
        }
    }

    /// The text of a `Text` message, or the string of a `Json` message that is one.
    ///
    /// A peer in JSON mode sends the text `hello` as the JSON string `"hello"`; this reads both alike.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Message::Json(json) => json.value().as_str(),
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

    /// The payload's length in bytes as it is sent with `json(false)`. Serialises a `Json` message, once.
    #[allow(clippy::len_without_is_empty)] // An empty payload is a message like any other.
    pub fn len(&self) -> usize {
        match self {
            Message::Json(json) => json.text().len(),
            Message::Text(text) => text.len(),
            Message::Binary(bytes) => bytes.len(),
        }
    }

    /// A text message as it came from the wire.
    pub(crate) fn from_wire_text(text: Utf8Bytes, json: bool) -> Message {
        if json {
            if let Ok(value) = serde_json::from_str(text.as_str()) {
                return Message::Json(Json::parsed(value, text));
            }
        }
        Message::Text(text)
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

/// A JSON value that is parsed at most once and serialised at most once, whoever asks.
#[derive(Clone)]
pub struct Json(Arc<Forms>);

/// At least one of the two is set from the start.
struct Forms {
    value: OnceLock<Value>,
    text: OnceLock<Utf8Bytes>,
}

impl Json {
    /// `text` comes from serde_json.
    fn from_text(text: Utf8Bytes) -> Self {
        Json(Arc::new(Forms {
            value: OnceLock::new(),
            text: OnceLock::from(text),
        }))
    }

    fn parsed(value: Value, text: Utf8Bytes) -> Self {
        Json(Arc::new(Forms {
            value: OnceLock::from(value),
            text: OnceLock::from(text),
        }))
    }

    /// The value, parsed by the first call where it was made by [`Message::json`].
    ///
    /// What is nested deeper than serde_json reads (128 levels) reads as a string of its own text.
    pub fn value(&self) -> &Value {
        self.0.value.get_or_init(|| {
            let text = self.text();
            serde_json::from_str(text).unwrap_or_else(|_| Value::from(text.as_str()))
        })
    }

    /// The text: as it came, if it came from the wire, else serialised by the first call.
    pub fn text(&self) -> &Utf8Bytes {
        self.0.text.get_or_init(|| {
            let value = self.0.value.get().unwrap_or(&Value::Null);
            Utf8Bytes::from(value.to_string())
        })
    }
}

impl From<Value> for Json {
    fn from(value: Value) -> Self {
        Json(Arc::new(Forms {
            value: OnceLock::from(value),
            text: OnceLock::new(),
        }))
    }
}

impl PartialEq for Json {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.value() == other.value()
    }
}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
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
        /// As JSON.
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
    fn clones_share_one_parse_and_one_serialisation() {
        let message = Message::from(json!({"a": 1}));
        let clone = message.clone();
        let (Message::Json(a), Message::Json(b)) = (&message, &clone) else {
            panic!()
        };
        assert!(std::ptr::eq(a.text().as_str(), b.text().as_str()));
        assert!(std::ptr::eq(a.value(), b.value()));
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
