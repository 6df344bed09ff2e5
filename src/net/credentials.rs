//! The user and password in a URL.

use data_encoding::BASE64;
use percent_encoding::percent_decode_str;
use url::Url;

/// A decoded user and password. They are bytes, because no protocol requires text. The type has no
/// `Debug`, so that they appear in no log.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) user: Vec<u8>,
    pub(crate) password: Vec<u8>,
}

impl Credentials {
    pub(crate) fn of(url: &Url) -> Option<Self> {
        if url.username().is_empty() && url.password().is_none() {
            return None;
        }
        Some(Credentials {
            user: percent_decode_str(url.username()).collect(),
            password: percent_decode_str(url.password().unwrap_or_default()).collect(),
        })
    }

    /// Returns the value for HTTP's Basic authentication (RFC 7617, section 2). Returns `None` for
    /// a user with a colon, because the first colon ends the user.
    pub(crate) fn basic(&self) -> Option<String> {
        if self.user.contains(&b':') {
            return None;
        }
        let pair = [&self.user[..], b":", &self.password[..]].concat();
        Some(format!("Basic {}", BASE64.encode(&pair)))
    }
}
