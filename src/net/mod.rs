//! The network: transports, opening and closing handshakes, HTTP heads. Knows no subscriptions.

pub(crate) mod base64;
pub(crate) mod basic_auth;
pub(crate) mod connect_request;
pub(crate) mod credentials;
#[cfg(feature = "deflate")]
pub(crate) mod deflate;
#[cfg(not(feature = "deflate"))]
#[path = "no_deflate.rs"]
pub(crate) mod deflate;
pub(crate) mod dial;
pub(crate) mod frame_reader;
pub(crate) mod handshake;
pub(crate) mod host;
pub(crate) mod http_response;
pub(crate) mod origin;
pub(crate) mod panic_guard;
pub(crate) mod pending;
pub(crate) mod proxy;
pub(crate) mod socket;
pub(crate) mod target;
#[cfg(feature = "native-tls")]
pub(crate) mod tls;
#[cfg(feature = "native-tls")]
pub(crate) mod tls_settings;
pub mod transport;
mod write_stall;
