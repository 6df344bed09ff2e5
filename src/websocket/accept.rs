//! Accepts a request: `Websocket::accept`, and the handshake on the reader thread.

use std::sync::Arc;
use std::time::Duration;

use http::header::{self, HeaderValue};
use http::{Request as HttpRequest, StatusCode};
use tungstenite::protocol::Role;

use super::handle::Websocket;
use super::opened::{Opened, given_up, info, once};
use super::reader_thread;
use super::request::Request;
use super::shared::Shared;
use super::slot::Slot;
use crate::deadline::deadline_after;
use crate::error::{Error, Result};
use crate::net::handshake::server::{self, HandshakeConfig, Refusal, has_body};
use crate::net::http_response;
use crate::net::transport::{Transport, write_by};
use crate::options::Options;

/// Constructors.
impl Websocket {
    /// Accepts a request as a WebSocket: RTCBot's `Websocket(request)`.
    ///
    /// Returns immediately; the reader thread sends the handshake's response. A request that is not
    /// a valid WebSocket upgrade is rejected with an HTTP status (see
    /// [`Server`](crate::Server#strangers)), and this `Websocket` ends with [`Error::Handshake`].
    /// [`Options`] has other settings than the defaults.
    ///
    /// To refuse a client, use [`Request::respond`]. Or accept the request and call
    /// [`close_with`](Self::close_with); that waits for the client's reply, so do it on another
    /// thread than that of the accept loop.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use rtcbot_websocket::{Server, Websocket};
    ///
    /// for request in Server::bind("127.0.0.1:8080")? {
    ///     let ws = Websocket::accept(request);
    ///     ws.subscribe_to(ws.clone()); // an echo
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn accept(request: Request) -> Websocket {
        Options::new().accept(request)
    }
}

impl Options {
    /// Accepts a request as a WebSocket with these settings.
    ///
    /// Returns immediately; see [`Websocket::accept`].
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use rtcbot_websocket::{Options, Server};
    ///
    /// for request in Server::bind("127.0.0.1:8080")? {
    ///     let ws = Options::new().max_message_size(16 << 10).accept(request);
    ///     ws.subscribe_to(ws.clone());
    /// }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn accept(&self, mut request: Request) -> Websocket {
        let name = match request.peer_addr() {
            Some(address) => format!("connection from {address}"),
            None => "connection from a Unix socket".to_owned(),
        };
        let (shared, ends) = Shared::new(name, Role::Server, self.for_server());
        let slot = request.slot.take();
        let ws = Websocket::new(shared.clone());
        // Before the client receives the response, because from then on it expects broadcasts.
        if let Some(slot) = &slot {
            slot.register(&ws);
        }
        let for_refusal = slot.clone();
        let open = once(move |shared: &Shared| as_server(shared, request, for_refusal));
        reader_thread::start(shared, ends, slot, open);
        ws
    }
}

/// Answers the request, and returns the connection if the request was accepted.
fn as_server(shared: &Shared, request: Request, slot: Option<Arc<dyn Slot>>) -> Result<Opened> {
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
        subprotocols: &options.subprotocols,
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
    let write = &mut *halves.write;
    let deadline = deadline_after(shared.options.connect_timeout);
    let written =
        write_by(write, &bytes, Duration::MAX, deadline).and_then(|()| write.set_timeout(None));
    written.map_err(Error::lost)?;
    Ok(Opened {
        info: info(addresses, head, response),
        halves,
        rest,
        role: Role::Server,
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
