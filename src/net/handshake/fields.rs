//! Header fields, as RFC 9110, section 5, and RFC 9112, section 5, define their values.

use std::borrow::Cow;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// A head's headers. The values of those that hold secrets are marked as such.
pub(super) fn header_map(raw: &[httparse::Header<'_>]) -> Result<HeaderMap, http::Error> {
    let mut map = HeaderMap::with_capacity(raw.len());
    for header in raw {
        let name = HeaderName::from_bytes(header.name.as_bytes())?;
        map.append(name, HeaderValue::from_bytes(&unfolded(header.value))?);
    }
    mark_secrets(&mut map);
    Ok(map)
}

/// RFC 9112, section 5.2: a user agent replaces each line break within a value, and the blanks
/// around it, with a blank. (A request with such a value is refused: the parser does not take it.)
fn unfolded(value: &[u8]) -> Cow<'_, [u8]> {
    if !value.contains(&b'\n') {
        return Cow::Borrowed(value);
    }
    let lines = value.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let lines: Vec<_> = lines.filter(|line| !line.is_empty()).collect();
    Cow::Owned(lines.join(&b' '))
}

/// Whether a header's value may be a secret by the meaning that RFCs give it: a login, a session.
/// Tokens are put into the subprotocols where there is no other place for them.
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

/// Keeps secrets out of the headers' `Debug`.
pub(crate) fn mark_secrets(headers: &mut HeaderMap) {
    for (name, value) in headers {
        if is_secret(name) {
            value.set_sensitive(true);
        }
    }
}

/// The elements of a list-valued header (RFC 9110, section 5.6.1): all lines of that name are one
/// list (section 5.2), commas and optional blanks separate its elements, and empty elements do not
/// count.
///
/// For lists of tokens, in which no comma can stand between quotes.
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

/// Whether a list has this token. Case does not matter.
pub(super) fn has(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    elements(headers, name).any(|found| found.eq_ignore_ascii_case(token.as_bytes()))
}

/// Whether a list has this token and no other. Case does not matter.
pub(super) fn has_only(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let mut all = elements(headers, name).peekable();
    all.peek().is_some() && all.all(|found| found.eq_ignore_ascii_case(token.as_bytes()))
}

/// A `Content-Length` that is no length.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Invalid;

/// How long a body is said to be. RFC 9112, section 6.3: the same length may be said several times.
/// One that is too large for a number is as large as a number can be.
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
    fn a_list_may_stand_on_several_lines_with_any_blanks_and_empty_elements() {
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
        // A blank separates nothing.
        let one = headers(header::CONNECTION, &["keep-alive upgrade"]);
        assert!(!has(&one, &header::CONNECTION, "upgrade"));
        let twice = headers(header::UPGRADE, &["WebSocket,", "websocket"]);
        assert!(has_only(&twice, &header::UPGRADE, "websocket"));
        assert!(!has_only(&HeaderMap::new(), &header::UPGRADE, "websocket"));
    }

    #[test]
    fn a_length_is_digits_and_always_the_same() {
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
