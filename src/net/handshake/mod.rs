//! The opening handshake (RFC 6455, section 4): the part that both roles share.
//!
//! The handshake is an HTTP exchange. RFC 9110 defines the meaning of a message, RFC 9112 its
//! syntax.

pub(crate) mod client;
pub(crate) mod fields;
pub(crate) mod response;
pub(crate) mod server;

use http::header::{self, HeaderMap};

use self::fields::{elements, has, has_only};
use crate::error::Error;

/// The maximum size of a head, in bytes.
pub(crate) const MAX_HEAD: usize = 16 << 10;
/// The maximum number of headers in a head.
pub(crate) const MAX_HEADERS: usize = 100;

/// Why a handshake failed.
pub(crate) enum Failure {
    /// The time is over. The text names the step that was not finished.
    TimedOut(&'static str),
    Failed(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Failed(error)
    }
}

/// Checks whether a message switches to the WebSocket protocol and to no other. Returns what is
/// missing as the error.
///
/// RFC 9110, section 7.8, lets `Upgrade` list several protocols. RFC 6455, section 4.1, requires
/// the client to fail if a response names another one beside `websocket`. Such a request is
/// rejected too, as aiohttp and Python's websockets do. `websocket/13` is another protocol, because
/// RFC 6455 defines no version for this header.
fn switches(headers: &HeaderMap) -> Result<(), &'static str> {
    if !has_only(headers, &header::UPGRADE, "websocket") {
        return Err("the header \"Upgrade: websocket\"");
    }
    if !has(headers, &header::CONNECTION, "upgrade") {
        return Err("the header \"Connection: Upgrade\"");
    }
    Ok(())
}

/// Returns the subprotocols of a message, in its order.
pub(crate) fn subprotocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    elements(headers, &header::SEC_WEBSOCKET_PROTOCOL)
        .filter_map(|name| std::str::from_utf8(name).ok())
}
