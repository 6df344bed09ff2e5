//! The opening handshake (RFC 6455, section 4): what both roles share.
//!
//! It is an HTTP exchange: RFC 9110 says what a message means, RFC 9112 how it is written.

pub(crate) mod client;
pub(crate) mod fields;
pub(crate) mod response;
pub(crate) mod server;

use http::header::{self, HeaderMap};

use self::fields::{elements, has, has_only};
use crate::error::Error;

/// The longest head that is read, in bytes.
pub(crate) const MAX_HEAD: usize = 16 << 10;
/// The most headers it may have.
pub(crate) const MAX_HEADERS: usize = 100;

/// Why a handshake failed.
pub(crate) enum Failure {
    /// The time is over; what was still being waited for.
    TimedOut(&'static str),
    Failed(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Failed(error)
    }
}

/// Whether a message switches to the WebSocket protocol and to nothing else: what is missing, if
/// not.
///
/// RFC 9110, section 7.8, lets `Upgrade` list several protocols. RFC 6455, section 4.1, has the
/// client fail when a response names another one beside `websocket`. A request that does is refused
/// as well, as aiohttp and Python's websockets refuse it. `websocket/13` is another protocol: RFC
/// 6455 defines no version here.
fn switches(headers: &HeaderMap) -> Result<(), &'static str> {
    if !has_only(headers, &header::UPGRADE, "websocket") {
        return Err("the header \"Upgrade: websocket\"");
    }
    if !has(headers, &header::CONNECTION, "upgrade") {
        return Err("the header \"Connection: Upgrade\"");
    }
    Ok(())
}

/// The subprotocols that a message names, in its order.
pub(crate) fn subprotocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    elements(headers, &header::SEC_WEBSOCKET_PROTOCOL)
        .filter_map(|name| std::str::from_utf8(name).ok())
}
