//! Opens a server's connection on the reader thread, or one end of a pair in memory.

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use http::header::{self, HeaderValue};
use http::{Request as HttpRequest, StatusCode};
use tungstenite::protocol::Role as WireRole;

use super::opened::{Opened, given_up, info};
use super::request::Request;
use super::shared::Shared;
use super::slot::Slot;
use crate::deadline::deadline_after;
use crate::error::{Error, Result};
use crate::net::handshake::server::{self, HandshakeConfig, Refusal, has_body};
use crate::net::http_response;
use crate::net::transport::{Transport, write_by};

/// Answers the request, and returns the connection if the request was accepted.
pub(crate) fn as_server(
    shared: &Shared,
    request: Request,
    slot: Option<Arc<dyn Slot>>,
) -> Result<Opened> {
    let Request {
        head,
        mut transport,
        rest,
        ..
    } = request;
    let options = &shared.options;
    let headers = match options.response_headers() {
        Ok(headers) => headers,
        Err(error) => {
            let response = server::plain(StatusCode::INTERNAL_SERVER_ERROR);
            refuse(response, String::new(), transport, &head, slot)?;
            return Err(error);
        }
    };
    let config = HandshakeConfig {
        subprotocols: &options.subprotocols.0,
        origins: &options.origins,
        encrypted: transport.is_encrypted(),
        headers,
    };
    let response = match server::answer(&head, config) {
        Ok(response) => response,
        Err(refusal) => {
            let Refusal { response, why } = *refusal;
            let text = format!("This is a WebSocket, and the request is refused: {why}.\n");
            refuse(response, text, transport, &head, slot)?;
            return Err(Error::Handshake(format!("the client's request: {why}")));
        }
    };
    let nodelay = transport.set_nodelay(shared.options.nodelay);
    nodelay.map_err(Error::lost)?;
    let addresses = (transport.peer_addr(), transport.local_addr());
    let mut halves = transport.split().map_err(Error::lost)?;
    if !shared.lifecycle.install(halves.shutdown.clone()) {
        return Err(given_up());
    }
    let bytes = server::acceptance(&head, &response);
    let deadline = deadline_after(shared.options.connect_timeout);
    let written = write_by(&mut *halves.write, &bytes, Duration::MAX, deadline);
    written.map_err(Error::lost)?;
    Ok(Opened {
        info: info(addresses, head, response),
        halves,
        rest,
        role: WireRole::Server,
    })
}

/// Refuses a request with this response.
fn refuse(
    response: http::Response<()>,
    text: String,
    transport: Box<dyn Transport>,
    head: &HttpRequest<()>,
    slot: Option<Arc<dyn Slot>>,
) -> Result<()> {
    let mut response = response.map(|()| text);
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    let bytes = http_response::to_bytes(response, head.method());
    http_response::send(transport, bytes, &[], has_body(head), slot)
}

/// Opens one end of a connection in memory. It has no handshake.
pub(crate) fn in_memory(shared: &Shared, end: UnixStream, role: WireRole) -> Result<Opened> {
    let halves = Box::new(end).split().map_err(Error::lost)?;
    if !shared.lifecycle.install(halves.shutdown.clone()) {
        return Err(given_up());
    }
    let mut response = http::Response::new(());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    Ok(Opened {
        info: info((None, None), HttpRequest::new(()), response),
        halves,
        rest: Vec::new(),
        role,
    })
}
