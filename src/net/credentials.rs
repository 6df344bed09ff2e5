//! The user and password that a URL carries.

use data_encoding::BASE64;
use percent_encoding::percent_decode_str;
use url::Url;

/// Decoded. Bytes, since no protocol says that they are text. No `Debug`: not to be found in a log.
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

    /// As HTTP's Basic authentication has it (RFC 7617, section 2), in which the first colon ends the
    /// user; `None` for a user with a colon.
    pub(crate) fn basic(&self) -> Option<String> {
        if self.user.contains(&b':') {
            return None;
        }
        let pair = [&self.user[..], b":", &self.password[..]].concat();
        Some(format!("Basic {}", BASE64.encode(&pair)))
    }
}
