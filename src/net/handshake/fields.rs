//! Header fields, with values as RFC 9110, section 5, and RFC 9112, section 5, define them.

use std::borrow::Cow;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// Returns the headers of a head. Values that hold secrets are marked as sensitive.
pub(super) fn header_map(raw: &[httparse::Header<'_>]) -> Result<HeaderMap, http::Error> {
    let mut map = HeaderMap::with_capacity(raw.len());
    for header in raw {
        let name = HeaderName::from_bytes(header.name.as_bytes())?;
        map.append(name, HeaderValue::from_bytes(&unfolded(header.value))?);
    }
    mark_secrets(&mut map);
    Ok(map)
}

/// Returns a head in HTTP syntax: the first line, and the headers, whose names `name` writes.
pub(super) fn head(line: &str, headers: &HeaderMap, name: fn(&HeaderName) -> String) -> Vec<u8> {
    let mut head = format!("{line}\r\n").into_bytes();
    for (header, value) in headers {
        head.extend_from_slice(name(header).as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// Replaces each line break within a value, and the blanks around it, by one blank, as RFC 9112,
/// section 5.2, requires of a client. (The parser rejects requests with such values.)
fn unfolded(value: &[u8]) -> Cow<'_, [u8]> {
    if !value.contains(&b'\n') {
        return Cow::Borrowed(value);
    }
    let lines = value.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let lines: Vec<_> = lines.filter(|line| !line.is_empty()).collect();
    Cow::Owned(lines.join(&b' '))
}

/// Returns whether RFCs define that a header may hold a secret, such as a login or a session.
/// Subprotocols often carry a token, because browsers allow no other header.
fn is_secret(name: &HeaderName) -> bool {
    [
        header::AUTHORIZATION,
        header::COOKIE,
        header::PROXY_AUTHORIZATION,
        header::SEC_WEBSOCKET_PROTOCOL,
        header::SET_COOKIE,
    ]
    .contains(name)
}

/// Hides secrets from the headers' `Debug`.
pub(crate) fn mark_secrets(headers: &mut HeaderMap) {
    for (name, value) in headers {
        if is_secret(name) {
            value.set_sensitive(true);
        }
    }
}

/// Returns the elements of a list-valued header (RFC 9110, section 5.6.1). All lines of that name
/// form one list (section 5.2). Commas and optional blanks separate the elements, and empty
/// elements are skipped.
///
/// This is for lists of tokens, which contain no quoted commas.
pub(super) fn elements<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = &'a [u8]> {
    let values = headers.get_all(name).into_iter();
    values
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|element| !element.is_empty())
}

/// Returns whether a list contains this token. Case is ignored.
pub(super) fn has(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    elements(headers, name).any(|found| found.eq_ignore_ascii_case(token.as_bytes()))
}

/// Returns whether a list contains this token and no other. Case is ignored.
pub(super) fn has_only(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let mut all = elements(headers, name).peekable();
    all.peek().is_some() && all.all(|found| found.eq_ignore_ascii_case(token.as_bytes()))
}

/// The error for a `Content-Length` that is not a length.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Invalid;

/// Returns the length of a body. The same length may be repeated (RFC 9112, section 6.3). A length
/// beyond `u64` counts as `u64::MAX`.
pub(super) fn content_length(headers: &HeaderMap) -> Result<Option<u64>, Invalid> {
    let mut length = None;
    let values = headers.get_all(header::CONTENT_LENGTH).into_iter();
    for digits in values.flat_map(|value| value.as_bytes().split(|byte| *byte == b',')) {
        let digits = std::str::from_utf8(digits.trim_ascii()).map_err(|_| Invalid)?;
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(Invalid);
        }
        let found = digits.parse().unwrap_or(u64::MAX);
        if *length.get_or_insert(found) != found {
            return Err(Invalid);
        }
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: HeaderName, values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            headers.append(&name, value);
        }
        headers
    }

    #[test]
    fn a_list_may_have_several_lines_blanks_and_empty_elements() {
        for values in [
            &["a, b"][..],
            &["a", "b"],
            &["a,\tb"],
            &["\t a \t,\t b \t"],
            &[",,a", "", " , b,"],
        ] {
            let headers = headers(header::CONNECTION, values);
            let found: Vec<_> = elements(&headers, &header::CONNECTION).collect();
            assert_eq!(found, [b"a", b"b"], "{values:?}");
            assert!(has(&headers, &header::CONNECTION, "B"));
            assert!(!has(&headers, &header::CONNECTION, "c"));
            assert!(!has_only(&headers, &header::CONNECTION, "a"));
        }
        // A blank is not a separator.
        let one = headers(header::CONNECTION, &["keep-alive upgrade"]);
        assert!(!has(&one, &header::CONNECTION, "upgrade"));
        let twice = headers(header::UPGRADE, &["WebSocket,", "websocket"]);
        assert!(has_only(&twice, &header::UPGRADE, "websocket"));
        assert!(!has_only(&HeaderMap::new(), &header::UPGRADE, "websocket"));
    }

    #[test]
    fn a_length_has_only_digits_and_no_second_value() {
        for (values, length) in [
            (&[][..], Ok(None)),
            (&["0"], Ok(Some(0))),
            (&["007", "7", "7, 7"], Ok(Some(7))),
            (&["99999999999999999999"], Ok(Some(u64::MAX))),
            (&["7", "8"], Err(Invalid)),
            (&["7,"], Err(Invalid)),
            (&[""], Err(Invalid)),
            (&["+7"], Err(Invalid)),
            (&["-1"], Err(Invalid)),
            (&["7 7"], Err(Invalid)),
            (&["0x7"], Err(Invalid)),
            (&["\u{e9}"], Err(Invalid)),
        ] {
            let headers = headers(header::CONTENT_LENGTH, values);
            assert_eq!(content_length(&headers), length, "{values:?}");
        }
    }
}
