//! The result of opening a connection.

use std::net::SocketAddr;

use http::{Request, Response};
use tungstenite::protocol::Role as WireRole;

use super::shared::ConnectionInfo;
use crate::error::Error;
use crate::net::transport::Halves;

/// A connection after its opening handshake.
pub(crate) struct Opened {
    pub(crate) halves: Halves,
    pub(crate) info: ConnectionInfo,
    /// The bytes that the peer sent directly after its handshake.
    pub(crate) rest: Vec<u8>,
    pub(crate) role: WireRole,
}

pub(crate) fn info(
    (peer_addr, local_addr): (Option<SocketAddr>, Option<SocketAddr>),
    request: Request<()>,
    response: Response<()>,
) -> ConnectionInfo {
    ConnectionInfo {
        peer_addr,
        local_addr,
        request: request.into(),
        response: response.into(),
    }
}

/// Returns the error of a connection that was closed before it was open. No program sees it.
pub(crate) fn given_up() -> Error {
    Error::lost(std::io::ErrorKind::Interrupted.into())
}
