//! The opening handshake (RFC 6455, section 4), both sides.

use std::io;
use std::time::{Duration, Instant};

use bytes::Bytes;
use data_encoding::BASE64;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode};
use tungstenite::error::ProtocolError;
use tungstenite::handshake::client::generate_request;
use tungstenite::handshake::derive_accept_key;
use tungstenite::handshake::server::create_response;

use super::origin::Origins;
use super::transport::{Halves, ReadHalf, WriteHalf, is_timeout};
use crate::error::{Error, Result};

/// The longest head that is read.
pub(crate) const MAX_HEAD: usize = 16 << 10;
/// The most headers it may have.
pub(crate) const MAX_HEADERS: usize = 100;
/// How much of a refusal's body is kept.
const MAX_BODY: usize = 64 << 10;

/// Why a handshake did not come about.
pub(crate) enum Failure {
    /// The time is over; what was still being waited for.
    TimedOut(&'static str),
    Failed(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Failed(error)
    }
}

/// Asks the server for a WebSocket. Returns its response and what it sent right behind that.
pub(crate) fn ask(
    halves: &mut Halves,
    request: Request<()>,
    deadline: Instant,
) -> Result<(Response<()>, Vec<u8>), Failure> {
    let offered = request.headers().get_all(header::SEC_WEBSOCKET_PROTOCOL);
    let offered = tokens(offered.iter())
        .map(str::to_owned)
        .collect::<Vec<_>>();
    let (head, key) =
        generate_request(request).map_err(|error| Error::Handshake(error.to_string()))?;
    write_in_time(&mut *halves.write, &head, deadline)?;

    let read = &mut *halves.read;
    let (response, rest) = read_response(read, deadline)?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let body = read_body(read, response.headers(), rest, deadline);
        let response = response.map(|()| Bytes::from(body));
        return Err(Failure::Failed(Error::Refused {
            response: response.into(),
        }));
    }
    verify(response.headers(), &key, &offered).map_err(|why| Error::Handshake(why.to_owned()))?;
    read.set_timeout(None).map_err(Error::lost)?;
    Ok((response, rest))
}

fn write_in_time(
    write: &mut dyn WriteHalf,
    bytes: &[u8],
    deadline: Instant,
) -> Result<(), Failure> {
    let left = deadline.saturating_duration_since(Instant::now());
    let written = write
        .set_timeout(Some(left))
        .and_then(|()| write.write_all(bytes))
        .and_then(|()| write.flush())
        .and_then(|()| write.set_timeout(None));
    written.map_err(|error| match is_timeout(&error) {
        true => Failure::TimedOut("the server to take the handshake request"),
        false => Error::lost(error).into(),
    })
}

/// What section 4.1 asks of a response with status 101.
fn verify(headers: &HeaderMap, key: &str, offered: &[String]) -> Result<(), &'static str> {
    if !has_token(headers, &header::UPGRADE, "websocket") {
        return Err("the server's response has no header \"Upgrade: websocket\"");
    }
    if !has_token(headers, &header::CONNECTION, "upgrade") {
        return Err("the server's response has no header \"Connection: Upgrade\"");
    }
    let accept = headers.get(header::SEC_WEBSOCKET_ACCEPT);
    if accept.map(HeaderValue::as_bytes) != Some(derive_accept_key(key.as_bytes()).as_bytes()) {
        return Err("the server's Sec-WebSocket-Accept does not fit the key it was sent");
    }
    if headers.contains_key(header::SEC_WEBSOCKET_EXTENSIONS) {
        return Err("the server chose an extension; none was offered");
    }
    let mut chosen = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
    let first = chosen.next();
    if chosen.next().is_some() {
        return Err("the server chose more than one subprotocol");
    }
    match first {
        Some(chosen)
            if !offered
                .iter()
                .any(|name| name.as_bytes() == chosen.as_bytes()) =>
        {
            Err("the server chose a subprotocol that was not offered")
        }
        _ => Ok(()),
    }
}

/// Reads on until the time is over.
fn read_more(
    read: &mut dyn ReadHalf,
    buffer: &mut Vec<u8>,
    deadline: Instant,
) -> io::Result<usize> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left == Duration::ZERO {
        return Err(io::ErrorKind::TimedOut.into());
    }
    read.set_timeout(Some(left))?;
    let mut chunk = [0; 4096];
    loop {
        match read.read(&mut chunk) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
            Ok(n) => {
                buffer.extend_from_slice(&chunk[..n]);
                return Ok(n);
            }
        }
    }
}

fn read_response(
    read: &mut dyn ReadHalf,
    deadline: Instant,
) -> Result<(Response<()>, Vec<u8>), Failure> {
    let mut buffer = Vec::new();
    loop {
        match read_more(read, &mut buffer, deadline) {
            Ok(0) => {
                let text = match buffer.len() {
                    0 => "the server ended the connection without a response",
                    _ => "the server ended the connection within its response",
                };
                let error = io::Error::new(io::ErrorKind::UnexpectedEof, text);
                return Err(Error::lost(error).into());
            }
            Ok(_) => {}
            Err(error) if is_timeout(&error) => {
                return Err(Failure::TimedOut("the server's handshake response"));
            }
            Err(error) => return Err(Error::lost(error).into()),
        }
        match parse_response(&buffer)? {
            Some((response, length)) if length <= MAX_HEAD => {
                buffer.drain(..length);
                return Ok((response, buffer));
            }
            None if buffer.len() <= MAX_HEAD => {}
            _ => {
                let text =
                    format!("the head of the server's response is longer than {MAX_HEAD} bytes");
                return Err(Error::Handshake(text).into());
            }
        }
    }
}

/// A response's head and its length; `None` when there is more to come.
fn parse_response(bytes: &[u8]) -> Result<Option<(Response<()>, usize)>> {
    let not_http = |why: &dyn std::fmt::Display| {
        Error::Handshake(format!("the server's response is not HTTP: {why}"))
    };
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Response::new(&mut headers);
    let length = match head.parse(bytes).map_err(|error| not_http(&error))? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial => return Ok(None),
    };
    let mut response = Response::new(());
    let status = head.code.unwrap_or_default();
    *response.status_mut() = StatusCode::from_u16(status).map_err(|error| not_http(&error))?;
    *response.headers_mut() = header_map(head.headers).map_err(|error| not_http(&error))?;
    Ok(Some((response, length)))
}

/// As much of a refusal's body as there is, at most [`MAX_BODY`]; the refusal counts without it, too.
fn read_body(
    read: &mut dyn ReadHalf,
    headers: &HeaderMap,
    mut body: Vec<u8>,
    deadline: Instant,
) -> Vec<u8> {
    let deadline = deadline.min(Instant::now() + Duration::from_secs(1));
    let length = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .unwrap_or(MAX_BODY)
        .min(MAX_BODY);
    while body.len() < length {
        match read_more(read, &mut body, deadline) {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    body.truncate(length);
    body
}

/// A request's head and its length; `None` when there is more to come.
pub(crate) fn parse_request(bytes: &[u8]) -> Result<Option<(Request<()>, usize)>, StatusCode> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Request::new(&mut headers);
    let length = match head.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
        }
        Err(_) => return Err(StatusCode::BAD_REQUEST),
    };
    let bad = |_| StatusCode::BAD_REQUEST;
    let mut request = Request::new(());
    *request.method_mut() = head
        .method
        .unwrap_or_default()
        .parse()
        .map_err(|_| StatusCode::BAD_REQUEST)?;
    *request.uri_mut() = head
        .path
        .unwrap_or_default()
        .parse()
        .map_err(|_| StatusCode::BAD_REQUEST)?;
    *request.version_mut() = match head.version {
        Some(0) => http::Version::HTTP_10,
        _ => http::Version::HTTP_11,
    };
    *request.headers_mut() = header_map(head.headers).map_err(bad)?;
    Ok(Some((request, length)))
}

fn header_map(raw: &[httparse::Header<'_>]) -> Result<HeaderMap, http::Error> {
    let mut map = HeaderMap::with_capacity(raw.len());
    for header in raw {
        let name = HeaderName::from_bytes(header.name.as_bytes())?;
        map.append(name, HeaderValue::from_bytes(header.value)?);
    }
    Ok(map)
}

/// The status for a head that is longer than [`MAX_HEAD`]: it is the request line that is too long, or
/// the headers.
pub(crate) fn too_long(bytes: &[u8]) -> StatusCode {
    match bytes.contains(&b'\n') {
        false => StatusCode::URI_TOO_LONG,
        true => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
    }
}

/// Whether a request asks for a WebSocket at all, well or badly.
pub(crate) fn wants_websocket(request: &Request<()>) -> bool {
    has_token(request.headers(), &header::UPGRADE, "websocket")
}

/// A request that is refused, and what its sender is told.
pub(crate) struct Refusal {
    pub(crate) response: Response<()>,
    /// What is wrong with the request.
    pub(crate) why: String,
}

/// What a server asks of a request, and adds to its response.
pub(crate) struct Terms<'a> {
    /// The subprotocols it speaks, most wanted first.
    pub(crate) subprotocols: &'a [String],
    pub(crate) origins: &'a Origins,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
}

/// The response that completes the handshake (section 4.2.2), with the first of the subprotocols that
/// the client offered; or the refusal.
pub(crate) fn answer(
    request: &Request<()>,
    terms: Terms<'_>,
) -> Result<Response<()>, Box<Refusal>> {
    let refused = |status, why: String| {
        Box::new(Refusal {
            response: plain(status),
            why,
        })
    };
    let mut response = create_response(request).map_err(|error| {
        let response = refusal_of(&error);
        let why = match error {
            tungstenite::Error::Protocol(error) => error.to_string(),
            error => error.to_string(),
        };
        Box::new(Refusal { response, why })
    })?;
    if request.headers().get_all(header::HOST).iter().count() != 1 {
        let why = "it needs one Host header";
        return Err(refused(StatusCode::BAD_REQUEST, why.into()));
    }
    let mut keys = request.headers().get_all(header::SEC_WEBSOCKET_KEY).iter();
    let nonce = keys
        .next()
        .and_then(|key| BASE64.decode(key.as_bytes()).ok());
    if nonce.is_none_or(|nonce| nonce.len() != 16) || keys.next().is_some() {
        let why = "it needs one Sec-WebSocket-Key of 16 bytes in Base64";
        return Err(refused(StatusCode::BAD_REQUEST, why.into()));
    }
    if has_body(request) {
        let why = "a request for a WebSocket has no body";
        return Err(refused(StatusCode::PAYLOAD_TOO_LARGE, why.into()));
    }
    if let Err(origin) = terms.origins.check(request.headers()) {
        let why = format!("pages from {origin:?} may not connect here");
        return Err(refused(StatusCode::FORBIDDEN, why));
    }
    let offered = request.headers().get_all(header::SEC_WEBSOCKET_PROTOCOL);
    let offered = tokens(offered.iter()).collect::<Vec<_>>();
    let mut supported = terms.subprotocols.iter();
    let chosen = supported.find(|name| offered.contains(&name.as_str()));
    let headers = response.headers_mut();
    if let Some(name) = chosen.and_then(|name| HeaderValue::from_str(name).ok()) {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, name);
    }
    for (name, value) in terms.headers {
        headers.append(name, value);
    }
    Ok(response)
}

/// Whether a body follows upon the head, or is said to.
pub(crate) fn has_body(request: &Request<()>) -> bool {
    let headers = request.headers();
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    headers.contains_key(header::TRANSFER_ENCODING) || lengths.any(|length| length != "0")
}

/// The subprotocols that a request offers, most wanted first.
pub(crate) fn subprotocols(request: &Request<()>) -> impl Iterator<Item = &str> {
    tokens(
        request
            .headers()
            .get_all(header::SEC_WEBSOCKET_PROTOCOL)
            .iter(),
    )
}

/// A response of which nothing is known but its status.
pub(crate) fn plain(status: StatusCode) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    response
}

/// 405 for another method, 426 for what is no request for version 13, 400 for a malformed one.
fn refusal_of(error: &tungstenite::Error) -> Response<()> {
    match error {
        tungstenite::Error::Protocol(ProtocolError::WrongHttpMethod) => {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED);
            let get = HeaderValue::from_static("GET");
            response.headers_mut().insert(header::ALLOW, get);
            response
        }
        tungstenite::Error::Protocol(
            ProtocolError::MissingConnectionUpgradeHeader
            | ProtocolError::MissingUpgradeWebSocketHeader
            | ProtocolError::MissingSecWebSocketVersionHeader,
        ) => {
            let mut response = plain(StatusCode::UPGRADE_REQUIRED);
            let headers = response.headers_mut();
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            let version = HeaderValue::from_static("13");
            headers.insert(header::SEC_WEBSOCKET_VERSION, version);
            response
        }
        _ => plain(StatusCode::BAD_REQUEST),
    }
}

/// A response's head as HTTP writes it.
pub(crate) fn response_head<T>(response: &Response<T>) -> Vec<u8> {
    let status = response.status();
    let reason = status.canonical_reason().unwrap_or("");
    let mut head = format!("HTTP/1.1 {} {reason}\r\n", status.as_str()).into_bytes();
    for (name, value) in response.headers() {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// The comma-separated tokens of a header that may stand on several lines.
fn tokens<'a>(values: impl Iterator<Item = &'a HeaderValue>) -> impl Iterator<Item = &'a str> {
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|token| !token.is_empty())
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    tokens(headers.get_all(name).iter()).any(|found| found.eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    fn response(lines: &str) -> HeaderMap {
        let head = format!("HTTP/1.1 101 Switching Protocols\r\n{lines}\r\n");
        let (response, length) = parse_response(head.as_bytes()).unwrap().unwrap();
        assert_eq!(length, head.len());
        response.headers().clone()
    }

    #[test]
    fn the_rfcs_own_example_is_accepted() {
        let headers = response(
            "Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n",
        );
        assert_eq!(verify(&headers, KEY, &[]), Ok(()));
        assert!(verify(&headers, "AAAAAAAAAAAAAAAAAAAAAA==", &[]).is_err());
    }

    #[test]
    fn a_subprotocol_must_have_been_offered() {
        let headers = response(
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Protocol: chat\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n",
        );
        assert!(verify(&headers, KEY, &[]).is_err());
        assert!(verify(&headers, KEY, &["superchat".into()]).is_err());
        assert_eq!(verify(&headers, KEY, &["chat".into()]), Ok(()));
    }

    #[test]
    fn a_request_that_is_cut_off_is_incomplete_at_every_byte() {
        let head = b"GET /a?b HTTP/1.1\r\nHost: x\r\nUpgrade: WebSocket\r\n\r\n";
        for end in 0..head.len() {
            assert!(parse_request(&head[..end]).unwrap().is_none(), "{end}");
        }
        let (request, length) = parse_request(head).unwrap().unwrap();
        assert_eq!(length, head.len());
        assert_eq!(request.uri().query(), Some("b"));
        assert!(wants_websocket(&request));
    }

    #[test]
    fn what_is_no_http_is_a_bad_request() {
        assert_eq!(parse_request(b"\x16\x03\x01\x02\x00").unwrap_err(), 400);
        let many = "X: y\r\n".repeat(MAX_HEADERS + 1);
        let head = format!("GET / HTTP/1.1\r\n{many}\r\n");
        assert_eq!(parse_request(head.as_bytes()).unwrap_err(), 431);
    }
}
