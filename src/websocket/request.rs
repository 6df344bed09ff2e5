//! An incoming connection whose request head has been read.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Response};

use super::slot::Slot;
use crate::error::{Error, Result};
use crate::net::basic_auth::BasicAuth;
use crate::net::handshake::fields::mark_secrets;
use crate::net::handshake::server::{has_body, wants_websocket};
use crate::net::handshake::subprotocols;
use crate::net::http_response;
use crate::net::panic_guard::guard;
use crate::net::transport::Transport;

/// A request that came in on a [`Server`](crate::Server), or [elsewhere](Self::from_parts).
///
/// Hand it to [`Websocket::accept`](crate::Websocket::accept) to have a WebSocket, or answer it with
/// [`respond`](Self::respond). Dropping it ends the connection without an answer.
///
/// ```no_run
/// use rtcbot_websocket::{Server, Websocket, http};
///
/// for request in Server::bind("127.0.0.1:8080")? {
///     let known = |auth: rtcbot_websocket::BasicAuth| auth.matches("operator", "secret");
///     if !request.basic_auth().is_some_and(known) {
///         let response = http::Response::builder()
///             .status(401)
///             .header("WWW-Authenticate", "Basic realm=\"robot\"")
///             .body("who are you?")?;
///         // An error here is that one client's: it has gone.
///         let _ = request.respond_with(response);
///     } else if request.path() == "/ws" {
///         let ws = Websocket::accept(request);
///         ws.subscribe_to(ws.clone());
///     } else {
///         let _ = request.respond(404, "the WebSocket is at /ws");
///     }
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a request that is dropped is not answered"]
pub struct Request {
    pub(crate) head: http::Request<()>,
    pub(crate) transport: Box<dyn Transport>,
    /// What the client sent right behind the head.
    pub(crate) rest: Vec<u8>,
    /// Its place among the connections of its server, if it came in on one.
    pub(crate) slot: Option<Arc<dyn Slot>>,
}

impl Request {
    /// A request whose head was read elsewhere, for example by an HTTP server that hands over its
    /// connection: the head, the connection, and what was read of it beyond the head.
    pub fn from_parts(
        mut head: http::Request<()>,
        transport: impl Transport,
        rest: impl Into<Vec<u8>>,
    ) -> Self {
        mark_secrets(head.headers_mut());
        Request {
            head,
            transport: guard(transport),
            rest: rest.into(),
            slot: None,
        }
    }

    /// The method; a WebSocket is asked for with `GET`.
    pub fn method(&self) -> &Method {
        self.head.method()
    }

    /// The path, for example `/ws`, undecoded.
    pub fn path(&self) -> &str {
        self.head.uri().path()
    }

    /// What stands behind the `?`, undecoded. The request's `Debug` leaves it out, since tokens are
    /// put there.
    pub fn query(&self) -> Option<&str> {
        self.head.uri().query()
    }

    /// All headers. The values of those that may hold a secret (`Authorization`,
    /// `Proxy-Authorization`, `Cookie`,
    /// `Sec-WebSocket-Protocol`) are left out of their `Debug`.
    pub fn headers(&self) -> &HeaderMap {
        self.head.headers()
    }

    /// The first header of this name, where it is visible ASCII. Case does not matter.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers().get(name)?.to_str().ok()
    }

    /// The page that a browser says it connects for, such as `https://robot.example`. Which pages
    /// may connect, [`Options::allow_origin`](crate::Options::allow_origin) says.
    pub fn origin(&self) -> Option<&str> {
        self.header(header::ORIGIN.as_str())
    }

    /// The subprotocols that the client offers, most wanted first.
    pub fn subprotocols(&self) -> impl Iterator<Item = &str> {
        subprotocols(self.headers())
    }

    /// The user and password of an `Authorization: Basic` header (RFC 7617); `None` if there is
    /// none or it is malformed. Its Base64 is padded, and may end in bits that mean nothing. To ask
    /// for one, answer 401 with a `WWW-Authenticate` header.
    pub fn basic_auth(&self) -> Option<BasicAuth> {
        BasicAuth::parse(self.headers().get(header::AUTHORIZATION)?)
    }

    /// Where the connection comes from; `None` for a Unix socket.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.transport.peer_addr()
    }

    /// Whether it came over TLS.
    pub fn is_encrypted(&self) -> bool {
        self.transport.is_encrypted()
    }

    /// Whether the client asks for a WebSocket: the request is HTTP/1.1, its `Upgrade` header names
    /// `websocket` and no other protocol, and `Connection` has `Upgrade` among its elements. Each may
    /// stand on several lines. If not, answer it with [`respond`](Self::respond):
    /// [`accept`](crate::Websocket::accept) refuses every request for which this is `false`. What
    /// else is wrong with a request, `accept` tells the client.
    ///
    /// `Upgrade: websocket, h2c` and `Upgrade: websocket/13` are not for a WebSocket, as in aiohttp
    /// and in Python's websockets.
    pub fn is_websocket(&self) -> bool {
        wants_websocket(&self.head)
    }

    /// Answers with an HTTP status and a text, and ends the connection. Does not wait; for anything
    /// else than plain text, see [`respond_with`](Self::respond_with).
    ///
    /// # Errors
    ///
    /// As [`respond_with`](Self::respond_with).
    pub fn respond(self, status: u16, body: impl AsRef<[u8]>) -> Result<()> {
        let invalid = |reason: String| Error::InvalidOption {
            setting: "status",
            reason,
        };
        let response = Response::builder()
            .status(status)
            .body(body)
            .map_err(|error| invalid(error.to_string()))?;
        self.respond_with(response)
    }

    /// Answers with an HTTP response, and ends the connection (`Connection: close`). `Content-Length`
    /// is set, and `Content-Type` to `text/plain; charset=utf-8` if there is none; to a `HEAD` request,
    /// only the head is sent. (What a request has in its body is not read: this is for pages.)
    ///
    /// Does not wait: what the client does not take at once is copied and sent by a thread, for as
    /// long as the client takes something at least every 10 seconds and is not slower than 16 KiB a
    /// second. Sockets take some hundred kilobytes at once; a server of large files belongs in
    /// front of this one.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] for a status below 200, [`Error::Lost`] when the client is gone (which
    /// is its own affair: do not end a loop over all requests for it),
    /// [`Error::Thread`] when there is none to be had.
    pub fn respond_with(self, mut response: Response<impl AsRef<[u8]>>) -> Result<()> {
        if response.status().is_informational() {
            return Err(Error::InvalidOption {
                setting: "status",
                reason: format!("{} is no final HTTP status", response.status()),
            });
        }
        let more_to_read = has_body(&self.head);
        if !response.body().as_ref().is_empty() {
            let text = HeaderValue::from_static("text/plain; charset=utf-8");
            let headers = response.headers_mut();
            headers.entry(header::CONTENT_TYPE).or_insert(text);
        }
        let (head, body) = http_response::to_parts(response, self.method());
        let body = body.as_ref().map_or(&[][..], AsRef::as_ref);
        http_response::send(self.transport, head, body, more_to_read, self.slot)
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("method", self.method())
            // Without the query, in which there may be a token.
            .field("path", &self.path())
            .field("peer_addr", &self.peer_addr())
            .finish_non_exhaustive()
    }
}
