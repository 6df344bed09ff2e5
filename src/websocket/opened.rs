//! The result of opening a connection.

use std::net::SocketAddr;
use std::sync::Arc;

use http::{Request, Response};
use tungstenite::protocol::Role as WireRole;

use super::shared::{ConnectionInfo, Shared};
use crate::error::{Error, Result};
use crate::net::deflate::Agreed;
use crate::net::transport::{Halves, ShutdownHandle, Transport};

/// A connection after its opening handshake.
pub(crate) struct Opened {
    pub(crate) halves: Halves,
    pub(crate) info: ConnectionInfo,
    /// The bytes that the peer sent directly after its handshake.
    pub(crate) rest: Vec<u8>,
    pub(crate) role: WireRole,
    /// The compression that both sides have agreed on.
    pub(crate) agreed: Option<Agreed>,
}

pub(crate) fn info(
    (peer_addr, local_addr): Addresses,
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

type Addresses = (Option<SocketAddr>, Option<SocketAddr>);

/// Lets `handle` shut down what the connection consists of now.
///
/// # Errors
///
/// That the connection was closed meanwhile.
pub(crate) fn install(shared: &Shared, handle: Arc<dyn ShutdownHandle>) -> Result<()> {
    match shared.lifecycle.install(handle) {
        true => Ok(()),
        false => Err(given_up()),
    }
}

/// Splits a transport, and returns its addresses too.
pub(crate) fn split(
    shared: &Shared,
    mut transport: Box<dyn Transport>,
) -> Result<(Halves, Addresses)> {
    transport.set_nodelay(true).map_err(Error::lost)?;
    let addresses = (transport.peer_addr(), transport.local_addr());
    let halves = transport.split().map_err(Error::lost)?;
    install(shared, halves.shutdown.clone())?;
    Ok((halves, addresses))
}

/// Returns the error of a connection that was closed before it was open. No program sees it.
pub(crate) fn given_up() -> Error {
    Error::lost(std::io::ErrorKind::Interrupted.into())
}

/// Returns an opening function that opens one connection. It is called once, because only clients
/// that have a URL reconnect.
pub(super) fn once<T>(open: impl FnOnce(&Shared) -> Result<T>) -> impl FnMut(&Shared) -> Result<T> {
    let mut open = Some(open);
    move |shared| match open.take() {
        Some(open) => open(shared),
        None => Err(given_up()),
    }
}
