//! Accepts a request: `Websocket::accept`, and the handshake on the reader thread.

use std::time::Duration;

use http::StatusCode;
use tungstenite::protocol::Role;

use super::handle::Websocket;
use super::opened::{Opened, info, once, split};
use super::reader_thread;
use super::request::Request;
use super::shared::Shared;
use crate::deadline::deadline_after;
use crate::error::{Error, Result};
use crate::net::handshake::server::{self, HandshakeConfig};
use crate::net::transport::write_by;
use crate::options::Options;

/// Accepting a request, as a server.
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
    pub fn accept(&self, request: Request) -> Websocket {
        let name = match request.peer_addr() {
            Some(address) => format!("connection from {address}"),
            None => "connection from a Unix socket".to_owned(),
        };
        let (shared, ends) = Shared::new(name, Role::Server, self.for_server());
        let slot = request.slot.clone();
        let ws = Websocket::new(shared.clone());
        // Before the client receives the response, because from then on it expects broadcasts.
        if let Some(slot) = &slot {
            slot.register(&ws);
        }
        let open = once(move |shared: &Shared| as_server(shared, request));
        reader_thread::start(shared, ends, slot, open);
        ws
    }
}

/// Answers the request, and returns the connection if the request was accepted.
fn as_server(shared: &Shared, request: Request) -> Result<Opened> {
    let options = &shared.options;
    let checked = options.response_headers();
    let headers = match checked.and_then(|headers| options.check_deflate().map(|()| headers)) {
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
        deflate: options.deflate.as_ref(),
    };
    let (response, agreed) =
        match server::answer(&request.head, config) {
            Ok(answer) => answer,
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
        role: Role::Server,
        agreed,
    })
}
