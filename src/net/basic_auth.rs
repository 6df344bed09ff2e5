//! Basic authentication (RFC 7617), both sides.

use std::fmt;

use http::header::HeaderValue;
use subtle::ConstantTimeEq;

use super::base64;
use super::credentials::Credentials;

/// The user and password that a client sent: see [`Request::basic_auth`](crate::Request::basic_auth).
#[derive(Clone)]
pub struct BasicAuth {
    user: String,
    password: String,
}

impl BasicAuth {
    /// The user's name, as the client says. Check the password before believing it.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The password. To compare it, use [`matches`](Self::matches).
    pub fn password(&self) -> &str {
        &self.password
    }

    /// Whether it is this user with this password. How long that takes does not tell an attacker how
    /// much of it is right (only how long the right ones are).
    pub fn matches(&self, user: &str, password: &str) -> bool {
        let user = self.user.as_bytes().ct_eq(user.as_bytes());
        let password = self.password.as_bytes().ct_eq(password.as_bytes());
        (user & password).into()
    }

    /// What an `Authorization` header says, if it is of this kind and well-formed.
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
            password: password.to_owned(),
        })
    }
}

/// Never shows the password.
impl fmt::Debug for BasicAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BasicAuth")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// The `Authorization` header for a URL's user and password.
pub(crate) fn authorization(credentials: &Credentials) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(&credentials.basic()?).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_side_writes_the_other_reads() {
        let credentials = Credentials {
            user: "Aladdin".into(),
            password: "open: sesame".into(),
        };
        let value = authorization(&credentials).unwrap();
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
    fn what_is_not_basic_is_none() {
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
            // The last character has bits to spare.
            ("Basic QTpiYx==", "bc"),
        ] {
            let value = HeaderValue::from_static(text);
            let auth = BasicAuth::parse(&value).unwrap();
            assert!(auth.matches("A", password), "{text}");
        }
    }
}
