//! An incoming connection whose request head has been read.

use std::fmt;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Response, StatusCode};

use super::handshake::{response_head, wants_websocket};
use crate::error::{Error, Result};

/// How long an HTTP response may take to be written.
const RESPOND_TIMEOUT: Duration = Duration::from_secs(10);

/// How much that nobody asked for is read before a connection is ended.
const MAX_UNREAD: usize = 64 << 10;

/// A request that came in on a [`Server`](crate::Server).
///
/// Hand it to [`Websocket::accept`](crate::Websocket::accept) to have a WebSocket, or answer it with
/// [`respond`](Self::respond). Dropping it ends the connection without an answer.
#[must_use = "a request that is dropped is not answered"]
pub struct Request {
    pub(crate) head: http::Request<()>,
    pub(crate) stream: TcpStream,
    /// What the client sent right behind the head.
    pub(crate) rest: Vec<u8>,
    pub(crate) peer_addr: SocketAddr,
}

impl Request {
    /// The method; a WebSocket is asked for with `GET`.
    pub fn method(&self) -> &Method {
        self.head.method()
    }

    /// The path, for example `/ws`.
    pub fn path(&self) -> &str {
        self.head.uri().path()
    }

    /// What stands behind the `?`, undecoded.
    pub fn query(&self) -> Option<&str> {
        self.head.uri().query()
    }

    /// All headers.
    pub fn headers(&self) -> &HeaderMap {
        self.head.headers()
    }

    /// The first header of this name, where it is visible ASCII. Case does not matter.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers().get(name)?.to_str().ok()
    }

    /// Where the connection comes from.
    pub fn peer_addr(&self) -> SocketAddr {
        self.peer_addr
    }

    /// Whether the client asks for a WebSocket (an `Upgrade: websocket` header). If not, answer it
    /// with [`respond`](Self::respond).
    pub fn is_websocket(&self) -> bool {
        wants_websocket(&self.head)
    }

    /// Answers with an HTTP response and ends the connection. Blocks until the response is with the
    /// operating system, at most 10 seconds.
    ///
    /// The body is sent as `text/plain; charset=utf-8`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] for a status that is none of 200 to 999,
    /// [`Error::Lost`] when the client is gone.
    pub fn respond(self, status: u16, body: impl AsRef<[u8]>) -> Result<()> {
        let status = StatusCode::from_u16(status)
            .ok()
            .filter(|s| s.as_u16() >= 200);
        let status = status.ok_or_else(|| Error::InvalidOption {
            setting: "status",
            reason: "a final HTTP status is a number from 200 to 999".into(),
        })?;
        let mut response = Response::new(());
        *response.status_mut() = status;
        let text = HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, text);
        let body = body.as_ref();
        response
            .headers_mut()
            .insert(header::CONTENT_LENGTH, body.len().into());
        let body = match *self.method() {
            Method::HEAD => &[],
            _ => body,
        };
        respond(&self.stream, response, body)
    }
}

/// Writes a response and ends the connection.
pub(crate) fn respond(stream: &TcpStream, mut response: Response<()>, body: &[u8]) -> Result<()> {
    let headers = response.headers_mut();
    headers
        .entry(header::CONTENT_LENGTH)
        .or_insert_with(|| body.len().into());
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    let bytes = [&response_head(&response), body].concat();
    let write = || {
        stream.set_nonblocking(false)?;
        stream.set_write_timeout(Some(RESPOND_TIMEOUT))?;
        { stream }.write_all(&bytes)?;
        stream.shutdown(Shutdown::Write)?;
        // Closing with bytes unread would reset the connection, and the response might be lost. Who
        // sends without end has no claim to it.
        stream.set_nonblocking(true)?;
        let mut unread = [0; 4096];
        let mut reads = 0..MAX_UNREAD / unread.len();
        while reads.next().is_some() && matches!({ stream }.read(&mut unread), Ok(1..)) {}
        Ok(())
    };
    write().map_err(Error::lost)
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("method", self.method())
            .field("uri", self.head.uri())
            .field("peer_addr", &self.peer_addr)
            .finish_non_exhaustive()
    }
}
