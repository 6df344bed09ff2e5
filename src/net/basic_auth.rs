//! Basic authentication (RFC 7617) of clients and servers.

use http::header::HeaderValue;
use subtle::ConstantTimeEq;

use super::base64;
use crate::hidden::Hidden;

/// The user and password that a client sent.
///
/// [`Request::basic_auth`](crate::Request::basic_auth) returns it and has an example.
#[derive(Debug, Clone)]
pub struct BasicAuth {
    user: String,
    password: Hidden<String>,
}

impl BasicAuth {
    /// Returns the user's name as the client sent it. Check the password before you trust it.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Returns the password. Use [`matches`](Self::matches) to compare it.
    #[must_use]
    pub fn password(&self) -> &str {
        &self.password.0
    }

    /// Returns whether the client sent this user and this password.
    ///
    /// The time that this takes does not tell an attacker which part of a guess is right. It only
    /// depends on the lengths.
    #[must_use]
    pub fn matches(&self, user: &str, password: &str) -> bool {
        let user = self.user.as_bytes().ct_eq(user.as_bytes());
        let password = self.password.0.as_bytes().ct_eq(password.as_bytes());
        (user & password).into()
    }

    /// Parses the value of an `Authorization` header. Returns `None` for another scheme and for a
    /// malformed value.
    pub(crate) fn parse(value: &HeaderValue) -> Option<Self> {
        let (scheme, encoded) = value.to_str().ok()?.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let decoded = base64::decode(encoded.trim().as_bytes())?;
        let text = String::from_utf8(decoded).ok()?;
        let (user, password) = text.split_once(':')?;
        Some(BasicAuth {
            user: user.to_owned(),
            password: Hidden(password.to_owned()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::credentials::Credentials;
    use super::*;

    #[test]
    fn a_written_header_is_read_back() {
        let credentials = Credentials {
            user: "Aladdin".into(),
            password: "open: sesame".into(),
        };
        let value: HeaderValue = credentials.basic().unwrap().parse().unwrap();
        assert_eq!(value, "Basic QWxhZGRpbjpvcGVuOiBzZXNhbWU=");
        let read = BasicAuth::parse(&value).unwrap();
        assert_eq!((read.user(), read.password()), ("Aladdin", "open: sesame"));
        assert!(read.matches("Aladdin", "open: sesame"));
        for (user, password) in [("Aladdin", "open"), ("aladdin", "open: sesame"), ("", "")] {
            assert!(!read.matches(user, password));
        }
        assert!(!format!("{read:?}").contains("sesame"));
    }

    #[test]
    fn other_schemes_and_malformed_values_are_none() {
        for text in [
            "",
            "Basic",
            "Basic ?",
            "Basic YQ==",
            "Bearer QTpi",
            "Basic /zph",
            "Basic QTpiYw",
            "Basic QTpi Yw==",
            "Basic QTo=QTpi",
        ] {
            let value = HeaderValue::from_static(text);
            assert!(BasicAuth::parse(&value).is_none(), "{text}");
        }
        for (text, password) in [
            ("basic QTpi", "b"),
            ("BASIC   QTpi", "b"),
            ("Basic QTpiYw==", "bc"),
            // The last character has unused bits.
            ("Basic QTpiYx==", "bc"),
        ] {
            let value = HeaderValue::from_static(text);
            let auth = BasicAuth::parse(&value).unwrap();
            assert!(auth.matches("A", password), "{text}");
        }
    }
}
