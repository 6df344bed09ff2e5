//! Bytes: connections, handshakes, HTTP heads and the closing handshake. Knows no subscriptions.

pub(crate) mod closing;
pub(crate) mod connect;
pub(crate) mod handshake;
pub(crate) mod memory;
pub(crate) mod request;
pub(crate) mod transport;
