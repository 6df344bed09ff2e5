//! Messages: JSON, almost JSON, and the way back.

use std::collections::HashMap;

use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;
use tungstenite::Message as Wire;

use crate::fuzzing::testkit::decisions::Decisions;
use crate::{Error, Message};

/// Text and bytes that arrive, and the messages they become.
pub fn json(input: &[u8]) {
    let mut decisions = Decisions::from_bytes(input);
    let bits = decisions.byte();
    let bytes = match bits & 1 {
        0 => decisions.rest().to_vec(),
        _ => written(&mut decisions),
    };
    // The bytes as they are, whether or not they are text.
    let binary = Message::from(bytes.clone());
    assert_eq!(binary.as_bytes(), Some(&bytes[..]));
    assert_eq!(binary.to_wire(true), Wire::Binary(bytes.clone().into()));
    let read = binary.decode::<Value>();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    match std::str::from_utf8(&bytes) {
        Ok(text) => decode_alike::<Value>(text, &binary),
        Err(_) => assert!(read.is_err()),
    }
    check_plain(&text);
    check_json_mode(&text);
    if let Ok(value) = serde_json::from_str::<Value>(&text) {
        check_value(value);
    }
}

/// With `json(false)`, text is text.
fn check_plain(text: &str) {
    let message = Message::from_wire_text(text.into(), false);
    assert!(message.as_json().is_none());
    assert_eq!(message.as_str(), Some(text));
    assert_eq!(sent(&message, false), text);
    assert_eq!(message.len(), text.len());
    assert_eq!(message.to_string(), text);
    assert!(message == text && message == message.clone());
}

/// In JSON mode, text that is JSON has a value and is sent on unchanged.
fn check_json_mode(text: &str) {
    let arrived = Message::from_wire_text(text.into(), true);
    match serde_json::from_str::<Value>(text) {
        Ok(value) => {
            assert_eq!(arrived.as_str(), value.as_str());
            assert_eq!(arrived.as_json(), Some(&value));
            assert_eq!(arrived, value);
        }
        Err(_) if is_json_beyond_serde(text) => check_odd(&arrived),
        Err(_) => {
            assert!(arrived.as_json().is_none());
            assert_eq!(arrived.as_str(), Some(text));
        }
    }
    if arrived.as_json().is_some() {
        assert_eq!(sent(&arrived, true), text);
    }
    assert_eq!(sent(&arrived, false), text);
    assert_eq!(arrived.len(), text.len());
    assert_eq!(arrived.to_string(), text);
    assert_eq!(arrived, arrived.clone());
    let (waits, _) = arrived.clone().without_value();
    assert_eq!(waits, arrived);

    // A program's own text is sent in quotes and is the same text for a peer in JSON mode.
    let own = Message::from(text);
    let quoted = own.quoted();
    assert_eq!(sent(&quoted, true), sent(&own, true));
    assert_eq!(quoted.as_str(), Some(text));
    let there = Message::from_wire_text(sent(&own, true).as_str().into(), true);
    assert!(there.as_json().is_some());
    assert_eq!(there.as_str(), Some(text));
    assert_eq!(there, quoted);

    decode_alike::<Value>(text, &arrived);
    decode_alike::<()>(text, &arrived);
    decode_alike::<Option<bool>>(text, &arrived);
    decode_alike::<i64>(text, &arrived);
    decode_alike::<u128>(text, &arrived);
    decode_alike::<Option<f64>>(text, &arrived);
    decode_alike::<String>(text, &arrived);
    decode_alike::<Vec<String>>(text, &arrived);
    decode_alike::<(u8, i64)>(text, &arrived);
    decode_alike::<HashMap<String, i64>>(text, &arrived);
}

/// Whether the text is JSON for this crate, though not for serde_json: with tokens that Python
/// writes, half surrogate pairs, numbers beyond `f64`. Decided in another way than the crate does:
/// by reading bytes, for which serde_json allows such escapes, and with each token in turn as a
/// string.
fn is_json_beyond_serde(text: &str) -> bool {
    let depth = |text: &str| {
        let (mut depth, mut deepest, mut in_string, mut escaped) = (0_i32, 0, false, false);
        for c in text.chars() {
            match c {
                _ if escaped => escaped = false,
                '\\' if in_string => escaped = true,
                '"' => in_string = !in_string,
                _ if in_string => {}
                '[' | '{' => depth += 1,
                ']' | '}' => depth -= 1,
                _ => {}
            }
            deepest = deepest.max(depth);
        }
        deepest
    };
    let strings_out = |text: &str| {
        let mut out = String::new();
        let mut parts = text.chars();
        while let Some(c) = parts.next() {
            if c != '"' {
                out.push(c);
                continue;
            }
            let mut inner = String::from(c);
            while let Some(c) = parts.next() {
                inner.push(c);
                match c {
                    '"' => break,
                    '\\' => inner.extend(parts.next()),
                    _ => {}
                }
            }
            let is_string = serde_json::from_str::<IgnoredAny>(&inner).is_ok();
            // A control character, an invalid escape, or no end.
            out.push_str(if is_string { "\"\"" } else { "?" });
        }
        out
    };
    let bare = strings_out(text).replace("-Infinity", "true");
    let bare = bare.replace("Infinity", "true").replace("NaN", "true");
    depth(text) <= 127 && serde_json::from_str::<IgnoredAny>(&bare).is_ok()
}

/// Text that serde_json does not read may still be JSON for this crate.
fn check_odd(arrived: &Message) {
    let value = arrived.as_json().expect("it is JSON");
    assert_eq!(arrived.as_str(), value.as_str());
    // It is not a copy of a text that could not be read.
    assert_eq!(&arrived.decode::<Value>().expect("it can be read"), value);
    let again = Message::from(value.clone());
    assert_eq!(again.decode::<Value>().ok().as_ref(), Some(value));
}

/// A text frame and a binary frame with the same text make the same value.
fn decode_alike<T: DeserializeOwned + PartialEq + std::fmt::Debug>(text: &str, arrived: &Message) {
    let now = Message::from(text).decode::<T>();
    match (now, arrived.decode::<T>()) {
        (Ok(now), Ok(then)) => assert_eq!(now, then),
        (Err(Error::Json { .. }), Err(Error::Json { .. })) => {}
        (now, then) => panic!("{now:?} and {then:?} for {text:?}"),
    }
}

/// A value survives being sent.
fn check_value(value: Value) {
    let message = Message::from(value.clone());
    let typed = Message::json(&value).expect("a value is JSON");
    assert_eq!(sent(&message, true), sent(&typed, true));
    assert_eq!(message.len(), sent(&message, false).len());
    let there = Message::from_wire_text(sent(&message, true).as_str().into(), true);
    assert_eq!(there.as_json(), Some(&value));
    assert_eq!(typed.decode::<Value>().ok(), Some(value));
}

fn sent(message: &Message, json: bool) -> String {
    match message.to_wire(json) {
        Wire::Text(text) => text.as_str().to_owned(),
        other => panic!("{other:?}"),
    }
}

/// JSON with something unusual in it.
fn written(decisions: &mut Decisions<'_>) -> Vec<u8> {
    let mut text = String::new();
    write_value(&mut text, decisions, 0);
    let mut bytes = text.into_bytes();
    decisions.edit(&mut bytes);
    bytes
}

fn write_value(text: &mut String, decisions: &mut Decisions<'_>, depth: usize) {
    const NUMBERS: [&str; 16] = [
        "0",
        "-0",
        "1",
        "-1",
        "0.1",
        "1e5",
        "1E-400",
        "1e400",
        "255",
        "256",
        "9223372036854775807",
        "9223372036854775808",
        "18446744073709551616",
        "-9223372036854775809",
        "01",
        "2.2250738585072011e-308",
    ];
    const STRINGS: [&str; 12] = [
        "\"\"",
        "\"a\"",
        "\"\\u0000\"",
        "\"\\ud83d\\ude00\"",
        "\"\\ud83d\"",
        "\"\\ude00\\ud83d\"",
        "\"\u{1F916}\"",
        "\"\\x\"",
        "\"\t\"",
        "\"\\/\\\"\"",
        "\"\u{2028}\"",
        "\"",
    ];
    const OTHERS: [&str; 10] = [
        "null",
        "true",
        "false",
        "NaN",
        "nul",
        "//",
        "",
        "Infinity",
        "-Infinity",
        "-NaN",
    ];
    let few = decisions.byte() % 4;
    match decisions.byte() % 8 {
        0 | 1 => text.push_str(decisions.pick(&NUMBERS)),
        2 | 3 => text.push_str(decisions.pick(&STRINGS)),
        4 => text.push_str(decisions.pick(&OTHERS)),
        5 if depth < 8 => {
            text.push('[');
            for i in 0..few {
                text.push_str(if i > 0 { "," } else { "" });
                write_value(text, decisions, depth + 1);
            }
            text.push(']');
        }
        6 if depth < 8 => {
            text.push('{');
            for i in 0..few {
                text.push_str(if i > 0 { " , " } else { "\n" });
                text.push_str(decisions.pick(&STRINGS));
                text.push(':');
                write_value(text, decisions, depth + 1);
            }
            text.push('}');
        }
        _ => {
            // As deep as serde_json reads, or a little deeper.
            let depth = if decisions.one_in(4) {
                120 + decisions.below(16)
            } else {
                1
            };
            text.push_str(&"[".repeat(depth));
            text.push_str(&"]".repeat(depth));
        }
    }
}
