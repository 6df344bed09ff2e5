//! The header `Sec-WebSocket-Extensions` (RFC 6455, section 9.1).

use std::borrow::Cow;

/// An extension that a client offers or a server has chosen.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Extension<'a> {
    pub(super) name: &'a str,
    pub(super) parameters: Vec<(&'a str, Option<Cow<'a, str>>)>,
}

/// Returns the extensions in the value of a header, in their order. Returns `None` if the value is
/// malformed.
pub(super) fn parse(value: &[u8]) -> Option<Vec<Extension<'_>>> {
    let mut rest = Rest(value);
    let mut extensions = Vec::new();
    loop {
        // RFC 9110, section 5.6.1: a list may have empty elements.
        while rest.skip(b',') {}
        if rest.0.is_empty() {
            return Some(extensions);
        }
        extensions.push(rest.extension()?);
        if !rest.0.is_empty() && !rest.skip(b',') {
            return None;
        }
    }
}

/// The part of a value that has not been parsed.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn extension(&mut self) -> Option<Extension<'a>> {
        let name = self.token()?;
        let mut parameters = Vec::new();
        while self.skip(b';') {
            let name = self.token()?;
            let value = match self.skip(b'=') {
                true => Some(self.value()?),
                false => None,
            };
            parameters.push((name, value));
        }
        Some(Extension { name, parameters })
    }

    /// Parses a token or a quoted token.
    fn value(&mut self) -> Option<Cow<'a, str>> {
        if self.0.first() != Some(&b'"') {
            return self.token().map(Cow::Borrowed);
        }
        let mut unquoted = String::new();
        let mut bytes = self.0[1..].iter();
        loop {
            let byte = match bytes.next()? {
                b'"' => break,
                b'\\' => bytes.next()?,
                byte => byte,
            };
            // The value, without the quotes, must be a token.
            unquoted.push(char::from(*byte));
            if !is_token(*byte) {
                return None;
            }
        }
        self.0 = bytes.as_slice();
        self.skip_blanks();
        (!unquoted.is_empty()).then_some(Cow::Owned(unquoted))
    }

    fn token(&mut self) -> Option<&'a str> {
        let end = self.0.iter().position(|byte| !is_token(*byte));
        let (token, rest) = self.0.split_at(end.unwrap_or(self.0.len()));
        self.0 = rest;
        self.skip_blanks();
        let token = std::str::from_utf8(token).ok()?;
        (!token.is_empty()).then_some(token)
    }

    /// Skips this separator, and the blanks around it. Returns whether it was there.
    fn skip(&mut self, separator: u8) -> bool {
        self.skip_blanks();
        let Some((_, rest)) = self
            .0
            .split_first()
            .filter(|(first, _)| **first == separator)
        else {
            return false;
        };
        self.0 = rest;
        self.skip_blanks();
        true
    }

    fn skip_blanks(&mut self) {
        while let [b' ' | b'\t', rest @ ..] = self.0 {
            self.0 = rest;
        }
    }
}

/// Returns whether a token may contain this byte (RFC 9110, section 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_have_parameters_with_and_without_values() {
        let parsed = parse(b" a ,, b;x ; y=1;z = \"2\\3\"\t,c;d=\"e\",").unwrap();
        let names: Vec<_> = parsed.iter().map(|it| it.name).collect();
        assert_eq!(names, ["a", "b", "c"]);
        let expected = [
            ("x", None),
            ("y", Some("1".into())),
            ("z", Some("23".into())),
        ];
        assert_eq!(parsed[1].parameters, expected);
        assert_eq!(parsed[2].parameters, [("d", Some("e".into()))]);
        assert_eq!(parse(b"").unwrap(), []);
        assert_eq!(parse(b" , ").unwrap(), []);
    }

    #[test]
    fn a_malformed_value_is_none() {
        for value in [
            &b"a b"[..],
            b"a;",
            b"a;;b",
            b"a;b=",
            b"a;b=;c",
            b"a;b=\"\"",
            b"a;b=\"x",
            b"a;b=\"x\\",
            b"a;b=\"x y\"",
            b"a;b=\"x\"y",
            b"=a",
            b";a",
            b"\"a\"",
            b"a/b",
            b"a;b=\xff",
            b"\xff",
        ] {
            assert_eq!(parse(value), None, "{}", value.escape_ascii());
        }
    }
}
