//! A connection whose request head has been read.

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use http::Response;
use http::header::{self, HeaderValue};
use url::form_urlencoded;

use super::slot::Slot;
use crate::error::{Error, Result};
use crate::net::basic_auth::BasicAuth;
use crate::net::handshake::fields::mark_secrets;
use crate::net::handshake::server::{has_body, wants_websocket};
use crate::net::handshake::subprotocols;
use crate::net::http_response;
use crate::net::panic_guard::guard;
use crate::net::transport::Transport;

/// A request to a [`Server`](crate::Server), or one [from another source](Self::from_parts).
///
/// Pass it to [`Websocket::accept`](crate::Websocket::accept) for a WebSocket, or answer it with
/// [`respond`](Self::respond). Dropping it ends the connection without a response.
///
/// # Examples
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
///             .body("login required")?;
///         // An error concerns this client only: it has disconnected.
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
    /// The bytes that the client sent after the head.
    pub(crate) rest: Vec<u8>,
    /// The slot in the registry of its server, if a server received it.
    pub(crate) slot: Option<Arc<dyn Slot>>,
}

impl Request {
    /// Returns a request whose head was read elsewhere, for example by an HTTP server that hands
    /// over its connection.
    ///
    /// The parameters are the head, the connection, and the bytes that were read after the head.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Request, http};
    /// use std::os::unix::net::UnixStream;
    ///
    /// let (_client, server) = UnixStream::pair()?;
    /// let head = http::Request::get("/drive").body(())?;
    /// let request = Request::from_parts(head, server, Vec::new());
    /// assert_eq!(request.path(), "/drive");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
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

    /// Returns the head: the method, the URI, the HTTP version and all headers.
    ///
    /// Its `Debug` hides the values of headers that may be a secret: `Authorization`,
    /// `Proxy-Authorization`, `Cookie` and `Sec-WebSocket-Protocol`. It shows the URI with its
    /// query, which may contain a token.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use rtcbot_websocket::{Server, Websocket};
    ///
    /// for request in Server::bind("127.0.0.1:8080")? {
    ///     if request.is_websocket() {
    ///         Websocket::accept(request).detach();
    ///     } else if request.head().method() == "GET" {
    ///         let _ = request.respond_html("<h1>Robot</h1>");
    ///     } else {
    ///         let _ = request.respond(405, "only GET");
    ///     }
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "method")]
    #[doc(alias = "headers")]
    #[doc(alias = "version")]
    #[must_use]
    pub fn head(&self) -> &http::Request<()> {
        &self.head
    }

    /// Returns the path without decoding it, for example `/ws`.
    #[must_use]
    pub fn path(&self) -> &str {
        self.head.uri().path()
    }

    /// Returns the part after the `?`, without decoding it.
    ///
    /// The request's `Debug` leaves the query out, because it may contain a token.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.head.uri().query()
    }

    /// Returns the value of the first parameter with this name in the query, decoded as the fields
    /// of a form are: `+` is a space, and `%20` is the byte 32.
    ///
    /// A parameter without `=` has an empty value. Bytes that are not UTF-8 become U+FFFD.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Request, http};
    /// use std::os::unix::net::UnixStream;
    ///
    /// let (_client, server) = UnixStream::pair()?;
    /// let head = http::Request::get("/drive?robot=number+7&token=a%2Bb").body(())?;
    /// let request = Request::from_parts(head, server, Vec::new());
    /// assert_eq!(request.query_param("robot").as_deref(), Some("number 7"));
    /// assert_eq!(request.query_param("token").as_deref(), Some("a+b"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn query_param(&self, name: &str) -> Option<Cow<'_, str>> {
        let mut pairs = form_urlencoded::parse(self.query()?.as_bytes());
        pairs.find_map(|(found, value)| (found == name).then_some(value))
    }

    /// Returns the value of the first header with this name, if it is visible ASCII. The name's
    /// case is ignored.
    ///
    /// A browser sends the site of the page that connects as `Origin`, for example
    /// `https://robot.example`. [`Options::allow_origin`](crate::Options::allow_origin) sets which
    /// pages may connect.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.headers().get(name)?.to_str().ok()
    }

    /// Returns the subprotocols that the client offers, in order of preference.
    pub fn subprotocols(&self) -> impl Iterator<Item = &str> {
        subprotocols(self.head.headers())
    }

    /// Returns the user and password of an `Authorization: Basic` header (RFC 7617).
    ///
    /// Returns `None` if the header is missing or malformed. Its Base64 must be padded; unused bits
    /// at its end are ignored. To request a login, respond with status 401 and a `WWW-Authenticate`
    /// header, as in the [example](Self) above.
    #[must_use]
    pub fn basic_auth(&self) -> Option<BasicAuth> {
        BasicAuth::parse(self.head.headers().get(header::AUTHORIZATION)?)
    }

    /// Returns the client's address, or `None` for a Unix socket.
    #[must_use]
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.transport.peer_addr()
    }

    /// Returns whether the request came over TLS.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.transport.is_encrypted()
    }

    /// Returns whether the client requests a WebSocket.
    ///
    /// This is the case if the request is HTTP/1.1, its `Upgrade` header has `websocket` and no
    /// other protocol, and `Connection` contains `Upgrade`. Each header may have several lines.
    /// `Upgrade: websocket, h2c` and `Upgrade: websocket/13` do not request a WebSocket, as in
    /// aiohttp and Python's websockets.
    ///
    /// [`accept`](crate::Websocket::accept) rejects every request for which this is `false`: answer
    /// it with [`respond`](Self::respond) instead. If another part of the request is invalid,
    /// `accept` informs the client.
    ///
    /// The example of [`Server`](crate::Server#examples) uses it.
    #[must_use]
    pub fn is_websocket(&self) -> bool {
        wants_websocket(&self.head)
    }

    /// Answers with a status and a plain text, and ends the connection.
    ///
    /// Does not wait. [`respond_with`](Self::respond_with) sends other content.
    ///
    /// # Errors
    ///
    /// The errors of [`respond_with`](Self::respond_with).
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Error, Server, Websocket};
    ///
    /// let mut server = Server::bind("127.0.0.1:0")?;
    /// let ws = Websocket::connect(server.url())?;
    /// server.next().unwrap().respond(404, "the WebSocket is at /drive")?;
    /// assert!(matches!(ws.wait_ready(), Err(Error::Refused { .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
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

    /// Answers with a page of HTML, and ends the connection.
    ///
    /// The status is 200, and the `Content-Type` is `text/html; charset=utf-8`.
    ///
    /// Does not wait. [`respond_with`](Self::respond_with) describes how it is sent.
    ///
    /// # Errors
    ///
    /// The errors of [`respond_with`](Self::respond_with).
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use rtcbot_websocket::Server;
    ///
    /// for request in Server::bind("127.0.0.1:8080")? {
    ///     let _ = request.respond_html("<h1>Robot</h1>");
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn respond_html(self, body: impl AsRef<[u8]>) -> Result<()> {
        let mut response = Response::new(body);
        let html = HeaderValue::from_static("text/html; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, html);
        self.respond_with(response)
    }

    /// Answers with an HTTP response, and ends the connection (`Connection: close`).
    ///
    /// It sets `Content-Length`, and `Content-Type` to `text/plain; charset=utf-8` if there is
    /// none. A `HEAD` request is answered with the head only. The body of the request is not read,
    /// so this method is for pages.
    ///
    /// Does not wait. Sockets accept some hundred kilobytes immediately; the rest is copied and
    /// sent by a thread. That thread stops if the client accepts nothing for 10 seconds, or less
    /// than 16 KiB per second on average. To serve large files, use another server in front of this
    /// one.
    ///
    /// # Errors
    ///
    /// - [`Error::InvalidOption`] for a status below 200.
    /// - [`Error::Lost`] if the client has disconnected. The error concerns this client only, so a
    ///   loop over all requests should continue.
    /// - [`Error::Thread`] if no thread could be started.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use rtcbot_websocket::{Server, http};
    ///
    /// for request in Server::bind("127.0.0.1:8080")? {
    ///     let state = http::Response::builder()
    ///         .header("Content-Type", "application/json")
    ///         .body("{\"battery\":0.8}")?;
    ///     let _ = request.respond_with(state);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn respond_with(self, mut response: Response<impl AsRef<[u8]>>) -> Result<()> {
        if response.status().is_informational() {
            return Err(Error::InvalidOption {
                setting: "status",
                reason: format!("{} is not a final HTTP status", response.status()),
            });
        }
        let more_to_read = has_body(&self.head);
        if !response.body().as_ref().is_empty() {
            let text = HeaderValue::from_static("text/plain; charset=utf-8");
            let headers = response.headers_mut();
            headers.entry(header::CONTENT_TYPE).or_insert(text);
        }
        let (head, body) = http_response::to_parts(response, self.head.method());
        let body = body.as_ref().map_or(&[][..], AsRef::as_ref);
        http_response::send(self.transport, head, body, more_to_read, self.slot)
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("method", self.head.method())
            // Without the query, which may contain a token.
            .field("path", &self.path())
            .field("peer_addr", &self.peer_addr())
            .finish_non_exhaustive()
    }
}
