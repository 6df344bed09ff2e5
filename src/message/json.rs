//! A JSON value and its text, each made from the other when somebody asks.

use std::fmt;
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tungstenite::Utf8Bytes;

use super::syntax;

/// JSON: a value, a text, or both. The one is made from the other by the first call that asks for
/// it.
///
/// A value takes much more memory than its text. So it belongs to the clone that was asked for it,
/// and ends with that one, however long others wait in a queue. Clones that are asked while there
/// is one share it.
pub struct Json {
    shared: Arc<Shared>,
    pub(super) value: OnceLock<Arc<Value>>,
}

/// What clones have in common.
struct Shared {
    /// Set from the start where there is no value.
    text: OnceLock<Utf8Bytes>,
    /// The value that one of the clones has. Held to copy or to replace it.
    latest: Mutex<Weak<Value>>,
}

impl Json {
    /// `text` is JSON: [`syntax::is_json`] says so, or serde_json has written it.
    pub(super) fn from_text(text: Utf8Bytes) -> Self {
        Json {
            shared: Arc::new(Shared {
                text: OnceLock::from(text),
                latest: Mutex::default(),
            }),
            value: OnceLock::new(),
        }
    }

    /// The value. Of one that arrived, or that [`Message::json`](super::Message::json) made, it is
    /// read from the text by the first call; see [`Message`](super::Message) for how.
    ///
    /// What [`Message::json`](super::Message::json) made of a value of yours that is nested deeper
    /// than serde_json reads (127 levels) reads as a string of its own text.
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

    /// The text: as it came, if it came from the wire, else serialised by the first call.
    pub fn text(&self) -> &Utf8Bytes {
        self.shared.text.get_or_init(|| {
            let value = self.value.get().map_or(&Value::Null, |value| &**value);
            Utf8Bytes::from(value.to_string())
        })
    }

    /// Makes the text, so that the value need not be kept, and hands that over.
    pub(super) fn take_value(&mut self) -> Option<Arc<Value>> {
        self.text();
        self.value.take()
    }

    pub(super) fn give_back(&mut self, value: Arc<Value>) {
        self.value = OnceLock::from(value);
    }

    /// As [`value`](Self::value) reads a string; makes no value of anything else.
    pub(super) fn as_str(&self) -> Option<&str> {
        let known = self.value.get().is_some();
        let blank = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
        if !known && self.text().as_bytes().iter().find(|byte| !blank(byte)) != Some(&b'"') {
            return None;
        }
        self.value().as_str()
    }
}

/// Reads JSON, and what Python's json writes beyond that.
pub(super) fn decode<T: DeserializeOwned>(text: &str) -> serde_json::Result<T> {
    serde_json::from_str(text).or_else(|error| match syntax::strict(text) {
        Some(text) => serde_json::from_str(&text),
        None => Err(error),
    })
}

impl Clone for Json {
    fn clone(&self) -> Self {
        Json {
            shared: self.shared.clone(),
            value: self.value.clone(),
        }
    }
}

impl From<Value> for Json {
    fn from(value: Value) -> Self {
        Json {
            shared: Arc::new(Shared {
                text: OnceLock::new(),
                latest: Mutex::default(),
            }),
            value: OnceLock::from(Arc::new(value)),
        }
    }
}

impl PartialEq for Json {
    fn eq(&self, other: &Self) -> bool {
        let (ours, theirs) = (self.shared.text.get(), other.shared.text.get());
        Arc::ptr_eq(&self.shared, &other.shared)
            || (ours.is_some() && ours == theirs)
            || self.value() == other.value()
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
