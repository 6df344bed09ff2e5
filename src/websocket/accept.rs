//! Opens a server's connection on the reader thread, or one end of a pair in memory.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use http::{Request as HttpRequest, StatusCode};
use tungstenite::protocol::Role as WireRole;

use super::opened::{Opened, info, split};
use super::request::Request;
use super::shared::Shared;
use crate::deadline::deadline_after;
use crate::error::{Error, Result};
use crate::net::handshake::server::{self, HandshakeConfig};
use crate::net::transport::write_by;

/// Answers the request, and returns the connection if the request was accepted.
pub(crate) fn as_server(shared: &Shared, request: Request) -> Result<Opened> {
    let options = &shared.options;
    let headers = match options.response_headers() {
        Ok(headers) => headers,
        Err(error) => {
            let response = server::plain(StatusCode::INTERNAL_SERVER_ERROR);
            request.respond_with(response.map(|()| ""))?;
            return Err(error);
        }
    };
    let config = HandshakeConfig {
        subprotocols: &options.subprotocols.0,
        origins: &options.origins,
        encrypted: request.is_encrypted(),
        headers,
    };
    let response =
        match server::answer(&request.head, config) {
            Ok(response) => response,
            Err(refusal) => {
                let error = Error::Handshake(format!("the client's request: {}", refusal.body()));
                request.respond_with(refusal.map(|why| {
                    format!("This is a WebSocket, and the request is refused: {why}.\n")
                }))?;
                return Err(error);
            }
        };
    let (mut halves, addresses) = split(shared, request.transport)?;
    let bytes = server::acceptance(&request.head, &response);
    let deadline = deadline_after(shared.options.connect_timeout);
    let written = write_by(&mut *halves.write, &bytes, Duration::MAX, deadline);
    written.map_err(Error::lost)?;
    Ok(Opened {
        info: info(addresses, request.head, response),
        halves,
        rest: request.rest,
        role: WireRole::Server,
    })
}

/// Opens one end of a connection in memory. It has no handshake.
pub(crate) fn in_memory(shared: &Shared, end: UnixStream, role: WireRole) -> Result<Opened> {
    let (halves, addresses) = split(shared, Box::new(end))?;
    let mut response = http::Response::new(());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    Ok(Opened {
        info: info(addresses, HttpRequest::new(()), response),
        halves,
        rest: Vec::new(),
        role,
    })
}
