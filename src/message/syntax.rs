//! Checks whether a text is JSON, and rewrites JSON that serde_json cannot read.
//!
//! A text that arrives is checked but not read. A value takes up to 130 times as much memory as its
//! text, and the sender must not decide whether the receiver spends that memory.

use serde::de::IgnoredAny;

/// The nesting depth of arrays and objects that serde_json reads.
const MAX_DEPTH: usize = 127;

/// Returns whether the text is JSON that can be read: RFC 8259, and what Python's `json` writes
/// beyond it.
pub(super) fn is_json(text: &str) -> bool {
    // The depth is checked first, because serde_json's check needs a byte for each level.
    !is_too_deep(text)
        && (is_strict(text)
            || (has_token(text) && strict(text).is_some_and(|text| is_strict(&text))))
}

/// Returns whether the text has JSON's syntax (RFC 8259). Numbers of any size pass, and so do
/// escapes of half a surrogate pair: serde_json rejects them only when it makes a value.
fn is_strict(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

fn has_token(text: &str) -> bool {
    text.contains("NaN") || text.contains("Infinity")
}

/// Returns whether arrays and objects are nested deeper than serde_json reads them. The text need
/// not be JSON.
pub(super) fn is_too_deep(text: &str) -> bool {
    let bytes = text.as_bytes();
    let opening = |byte: &&u8| matches!(byte, b'[' | b'{');
    if bytes.len() <= MAX_DEPTH || bytes.iter().filter(opening).count() <= MAX_DEPTH {
        return false;
    }
    let mut depth = 0_usize;
    let mut rest = bytes.iter();
    while let Some(byte) = rest.next() {
        match byte {
            b'[' | b'{' if depth == MAX_DEPTH => return true,
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'"' => skip_string(&mut rest),
            _ => {}
        }
    }
    false
}

/// Skips to the end of a string, past the closing quote.
fn skip_string(rest: &mut std::slice::Iter<'_, u8>) {
    while let Some(byte) = rest.next() {
        match byte {
            b'"' => return,
            b'\\' => drop(rest.next()),
            _ => {}
        }
    }
}

/// Returns the text in a form that serde_json reads, or `None` if nothing has to be replaced.
/// `null` replaces numbers that are not finite, and U+FFFD replaces half a surrogate pair. A text
/// that is not JSON does not become JSON by this.
pub(super) fn strict(text: &str) -> Option<String> {
    let mut written = String::new();
    let mut copied = 0;
    let mut at = 0;
    let mut in_string = false;
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        let (length, instead) = match in_string {
            true => part_of_string(rest),
            false => part_outside(rest),
        };
        if let Some(instead) = instead {
            written.push_str(&text[copied..at]);
            written.push_str(instead);
            copied = at + length;
        }
        in_string ^= rest[0] == b'"';
        at += length;
    }
    if copied == 0 {
        return None;
    }
    written.push_str(&text[copied..]);
    Some(written)
}

/// Returns the length of the next part of a string, and what replaces it, if serde_json does not
/// read it. A quote that is not escaped is a part of its own.
fn part_of_string(rest: &[u8]) -> (usize, Option<&'static str>) {
    match (code_unit(rest), rest) {
        (Some(0xd800..0xdc00), _) => match rest.get(6..).and_then(code_unit) {
            Some(0xdc00..0xe000) => (12, None),
            _ => (6, Some("\\ufffd")),
        },
        (Some(0xdc00..0xe000), _) => (6, Some("\\ufffd")),
        (_, [b'\\', _, ..]) => (2, None),
        _ => (1, None),
    }
}

/// As [`part_of_string`], for the next part outside of a string.
fn part_outside(rest: &[u8]) -> (usize, Option<&'static str>) {
    for token in ["NaN", "Infinity", "-Infinity"] {
        if rest.starts_with(token.as_bytes()) {
            // The neighbours need no check: where the token is not allowed, neither is `null`.
            return (token.len(), Some("null"));
        }
    }
    if !matches!(rest[0], b'-' | b'0'..=b'9') {
        return (1, None);
    }
    let of_a_number = |byte: &u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
    let length = rest.iter().take_while(|byte| of_a_number(byte)).count();
    (length, is_infinite(&rest[..length]).then_some("null"))
}

/// Returns the code unit of a `\u` escape at the start of the text.
fn code_unit(text: &[u8]) -> Option<u16> {
    let digits = text.strip_prefix(b"\\u")?.get(..4)?;
    digits.iter().try_fold(0, |unit, digit| {
        Some(unit << 4 | u16::try_from(char::from(*digit).to_digit(16)?).ok()?)
    })
}

/// Returns whether the number is beyond the range of `f64`.
fn is_infinite(number: &[u8]) -> bool {
    let number = std::str::from_utf8(number).unwrap_or_default();
    number.parse::<f64>().is_ok_and(f64::is_infinite) && is_strict(number)
}
