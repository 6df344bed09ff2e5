//! Bytes: connections, handshakes, HTTP heads and the closing handshake. Knows no subscriptions.

pub(crate) mod base64;
pub(crate) mod basic_auth;
pub(crate) mod closing;
pub(crate) mod connect;
pub(crate) mod credentials;
pub(crate) mod frames;
pub(crate) mod guard;
pub(crate) mod handshake;
pub(crate) mod host;
pub(crate) mod incoming;
pub(crate) mod memory;
pub(crate) mod origin;
pub(crate) mod proxy;
pub(crate) mod request;
pub(crate) mod response;
pub(crate) mod socket;
mod stall;
pub(crate) mod target;
#[cfg(feature = "native-tls")]
pub(crate) mod tls;
pub mod transport;
#[cfg(feature = "native-tls")]
pub(crate) mod trust;
