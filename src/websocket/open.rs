//! Makes a server's connection, on the reader thread; or one end of a pair in memory.

use std::net::SocketAddr;

use http::Request as HttpRequest;
use http::StatusCode;
use tungstenite::protocol::Role as WireRole;

use super::reader::Opened;
use super::shared::{Facts, Shared};
use crate::error::{Error, Result};
use crate::net::handshake::{self, Refusal, Terms, has_body};
use crate::net::request::Request;
use crate::net::response;
use crate::net::transport::{Halves, Transport};

pub(crate) fn as_server(shared: &Shared, request: Request) -> Result<Opened> {
    let Request {
        head,
        mut transport,
        rest,
        ..
    } = request;
    let response = match answer(shared, &head) {
        Ok(response) => response,
        Err(refusal) => return Err(refuse(*refusal, transport, &head)),
    };
    let nodelay = transport.set_nodelay(shared.options.nodelay);
    nodelay.map_err(Error::lost)?;
    let addresses = (transport.peer_addr(), transport.local_addr());
    let mut halves = transport.split().map_err(Error::lost)?;
    if !shared.lifecycle.install(halves.cut.clone()) {
        return Err(given_up());
    }
    let bytes = handshake::response_head(&response);
    let write = &mut *halves.write;
    let timeout = Some(shared.options.connect_timeout);
    let written = write
        .set_timeout(timeout)
        .and_then(|()| write.write_all(&bytes))
        .and_then(|()| write.flush())
        .and_then(|()| write.set_timeout(None));
    written.map_err(Error::lost)?;
    Ok(Opened {
        facts: facts(addresses, head, response),
        halves,
        rest,
        role: WireRole::Server,
    })
}

fn answer(shared: &Shared, head: &HttpRequest<()>) -> Result<http::Response<()>, Box<Refusal>> {
    let options = &shared.options;
    let headers = options.response_headers().map_err(|error| {
        Box::new(Refusal {
            response: handshake::plain(StatusCode::INTERNAL_SERVER_ERROR),
            error,
        })
    })?;
    let terms = Terms {
        subprotocols: &options.subprotocols,
        origins: &options.origins,
        headers,
    };
    handshake::answer(head, terms)
}

/// Tells the client why not. It is no news to it what this side's own mistakes are.
fn refuse(refusal: Refusal, transport: Box<dyn Transport>, head: &HttpRequest<()>) -> Error {
    let Refusal { response, error } = refusal;
    let text = match response.status().is_server_error() {
        true => String::new(),
        false => error.to_string(),
    };
    let mut response = response.map(|()| text);
    let kind = http::HeaderValue::from_static("text/plain; charset=utf-8");
    let headers = response.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, kind);
    let bytes = response::to_bytes(response, head.method());
    match response::send(transport, bytes, has_body(head), ()) {
        Ok(()) => error,
        Err(gone) => gone,
    }
}

/// One end of a connection in memory, which needs no handshake.
pub(crate) fn in_memory(shared: &Shared, halves: Halves, role: WireRole) -> Result<Opened> {
    if !shared.lifecycle.install(halves.cut.clone()) {
        return Err(given_up());
    }
    let mut response = http::Response::new(());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    Ok(Opened {
        facts: facts((None, None), HttpRequest::new(()), response),
        halves,
        rest: Vec::new(),
        role,
    })
}

pub(crate) fn facts(
    (peer_addr, local_addr): (Option<SocketAddr>, Option<SocketAddr>),
    request: HttpRequest<()>,
    response: http::Response<()>,
) -> Facts {
    Facts {
        peer_addr,
        local_addr,
        request,
        response,
    }
}

/// Not seen by anyone: the connection was closed before it came about.
pub(crate) fn given_up() -> Error {
    Error::lost(std::io::ErrorKind::Interrupted.into())
}
