//! A JSON value and its text. Each is made from the other on demand.

use std::fmt;
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::compression::Compression;
use super::syntax;
use super::text::Text;

/// JSON, as a value, a text, or both. The first call that needs one makes it from the other.
///
/// A value takes much more memory than its text. So it belongs to the clone whose
/// [`value`](Self::value) was called, and is freed with that clone, however long other clones stay
/// in a queue. Clones that ask for the value while it exists share it.
///
/// # Examples
///
/// ```
/// use rtcbot_websocket::{Message, json};
///
/// let order: Message = json!({"motor": 1}).into();
/// let Message::Json(order) = order else { panic!() };
/// assert_eq!(order.text().as_str(), r#"{"motor":1}"#);
/// assert_eq!(order.value()["motor"], 1);
/// ```
#[derive(Clone)]
pub struct Json {
    shared: Arc<SharedText>,
    pub(super) value: OnceLock<Arc<Value>>,
    pub(super) compression: Compression,
}

/// The state that all clones share.
#[derive(Default)]
struct SharedText {
    /// Set from the start if there is no value.
    text: OnceLock<Text>,
    /// The value of one of the clones. The lock is held only while the reference is copied or
    /// replaced.
    latest: Mutex<Weak<Value>>,
}

impl Json {
    /// `text` must be JSON: either [`syntax::is_json`] accepted it, or serde_json wrote it.
    pub(super) fn from_text(text: Text) -> Self {
        Json {
            shared: Arc::new(SharedText {
                text: OnceLock::from(text),
                latest: Mutex::default(),
            }),
            value: OnceLock::new(),
            compression: Compression::default(),
        }
    }

    /// Returns the value.
    ///
    /// If the message arrived, or was made by [`Message::json`](super::Message::json), the first
    /// call reads the value from the text; [`Message`](super::Message) describes how. A text that
    /// [`Message::json`](super::Message::json) made, and that is nested deeper than the 127 levels
    /// that serde_json reads, becomes a string with that text.
    #[must_use]
    pub fn value(&self) -> &Value {
        self.value.get_or_init(|| {
            let latest = self.shared.latest.lock().upgrade();
            latest.unwrap_or_else(|| {
                let value = Arc::new(self.read_value());
                *self.shared.latest.lock() = Arc::downgrade(&value);
                value
            })
        })
    }

    pub(super) fn read_value(&self) -> Value {
        let text = self.text();
        decode(text).unwrap_or_else(|_| Value::from(text.as_str()))
    }

    /// Returns the text. A text from the wire is unchanged; any other is serialised by the first
    /// call.
    #[must_use]
    pub fn text(&self) -> &Text {
        self.shared.text.get_or_init(|| {
            let value = self.value.get().map_or(&Value::Null, |value| &**value);
            Text::from(value.to_string())
        })
    }

    /// Returns the string if the JSON is one. Makes no value of other JSON.
    pub(super) fn as_str(&self) -> Option<&str> {
        let known = self.value.get().is_some();
        if !known && !self.text().trim_ascii_start().starts_with('"') {
            return None;
        }
        self.value().as_str()
    }
}

/// Reads JSON, including what Python's `json` writes beyond RFC 8259.
pub(super) fn decode<T: DeserializeOwned>(text: &str) -> serde_json::Result<T> {
    serde_json::from_str(text).or_else(|error| match syntax::strict(text) {
        Some(text) => serde_json::from_str(&text),
        None => Err(error),
    })
}

impl From<Value> for Json {
    fn from(value: Value) -> Self {
        Json {
            shared: Arc::default(),
            value: OnceLock::from(Arc::new(value)),
            compression: Compression::default(),
        }
    }
}

/// Compares the values.
impl PartialEq for Json {
    fn eq(&self, other: &Self) -> bool {
        if Arc::ptr_eq(&self.shared, &other.shared) {
            return true;
        }
        // Equal texts have equal values. The exception is a text that is nested too deep: it may
        // belong to a value that cannot be read back from it.
        match (self.shared.text.get(), other.shared.text.get()) {
            (Some(ours), Some(theirs)) if ours == theirs && !syntax::is_too_deep(ours) => true,
            _ => self.value() == other.value(),
        }
    }
}

// A number is never NaN, so each value is equal to itself.
impl Eq for Json {}

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
