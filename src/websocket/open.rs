//! Makes the connection, on the reader thread: as a client or as a server.

use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

use http::Request as HttpRequest;
use http::header::{HeaderName, HeaderValue};
use tungstenite::client::IntoClientRequest;
use tungstenite::protocol::Role as WireRole;
use url::Url;

use super::options::deadline_after;
use super::reader::Opened;
use super::shared::{Facts, Shared};
use crate::error::{Error, Result};
use crate::net::connect::{Cancel, connect};
use crate::net::handshake::{self, Failure};
use crate::net::request::{Request, respond};
use crate::net::transport::Transport;

/// The handshake request for a URL.
pub(crate) fn client_request(
    url: &Url,
    headers: Vec<(HeaderName, HeaderValue)>,
) -> Result<HttpRequest<()>> {
    let mut request = url
        .as_str()
        .into_client_request()
        .map_err(|error| Error::InvalidUrl {
            url: url.to_string(),
            reason: error.to_string(),
        })?;
    for (name, value) in headers {
        request.headers_mut().append(name, value);
    }
    Ok(request)
}

pub(crate) fn as_client(shared: &Shared, url: &Url, request: HttpRequest<()>) -> Result<Opened> {
    let deadline = deadline_after(shared.options.connect_timeout);
    dial(shared, url, request, deadline).map_err(|failure| match failure {
        Failure::Failed(error) => error,
        Failure::TimedOut(stage) => Error::ConnectTimeout {
            target: shared.name.clone(),
            after: shared.options.connect_timeout,
            stage,
        },
    })
}

fn dial(
    shared: &Shared,
    url: &Url,
    request: HttpRequest<()>,
    deadline: Instant,
) -> Result<Opened, Failure> {
    let cancel = Cancel::new().map_err(|error| Error::Connect {
        address: shared.name.clone(),
        error: Arc::new(error),
    })?;
    if !shared.lifecycle.install(cancel.clone()) {
        return Err(given_up().into());
    }
    let stream = connect(url, deadline, &cancel)?;
    let transport = Transport::tcp(stream, shared.options.nodelay);
    let mut transport = transport.map_err(Error::lost)?;
    if !shared.lifecycle.install(transport.cut.clone()) {
        return Err(given_up().into());
    }
    let (response, rest) = handshake::ask(&mut transport, request.clone(), deadline)?;
    Ok(Opened {
        facts: facts(&transport, request, response),
        transport,
        rest,
        role: WireRole::Client,
    })
}

pub(crate) fn as_server(shared: &Shared, request: Request) -> Result<Opened> {
    let Request {
        head, stream, rest, ..
    } = request;
    let response = match handshake::answer(&head, &shared.options.subprotocols) {
        Ok(response) => response,
        Err(refusal) => {
            let text = refusal.error.to_string();
            respond(&stream, refusal.response, text.as_bytes())?;
            return Err(refusal.error);
        }
    };
    let transport = Transport::tcp(stream, shared.options.nodelay);
    let mut transport = transport.map_err(Error::lost)?;
    if !shared.lifecycle.install(transport.cut.clone()) {
        return Err(given_up());
    }
    let bytes = handshake::response_head(&response);
    transport.write.write_all(&bytes).map_err(Error::lost)?;
    transport.write.flush().map_err(Error::lost)?;
    Ok(Opened {
        facts: facts(&transport, head, response),
        transport,
        rest,
        role: WireRole::Server,
    })
}

/// One end of a connection in memory, which needs no handshake.
pub(crate) fn in_memory(shared: &Shared, transport: Transport, role: WireRole) -> Result<Opened> {
    if !shared.lifecycle.install(transport.cut.clone()) {
        return Err(given_up());
    }
    let mut response = http::Response::new(());
    *response.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
    Ok(Opened {
        facts: facts(&transport, HttpRequest::new(()), response),
        transport,
        rest: Vec::new(),
        role,
    })
}

fn facts(transport: &Transport, request: HttpRequest<()>, response: http::Response<()>) -> Facts {
    Facts {
        peer_addr: transport.peer_addr,
        local_addr: transport.local_addr,
        request,
        response,
    }
}

/// Not seen by anyone: the connection was closed before it came about.
fn given_up() -> Error {
    Error::lost(std::io::ErrorKind::Interrupted.into())
}
