//! The server's side of the opening handshake: the check of the request, and the response (RFC
//! 6455, section 4.2).

use http::header::{self, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};
use tungstenite::handshake::derive_accept_key;

use super::fields::{content_length, elements, has_only, head, header_map, mark_secrets};
use super::{MAX_HEADERS, subprotocols, switches};
use crate::net::base64;
use crate::net::deflate::{Agreed, Deflate, Refused};
use crate::net::host::is_host_and_port;
use crate::net::origin::Origins;
use crate::shown::quoted;

/// Parses a request's head. Returns the head and its length, or `None` if it is incomplete.
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
    let version = match head.version {
        Some(0) => Version::HTTP_10,
        _ => Version::HTTP_11,
    };
    let mut request = Request::builder()
        .method(head.method.unwrap_or_default())
        .uri(head.path.unwrap_or_default())
        .version(version)
        .body(())
        .map_err(|_| StatusCode::BAD_REQUEST)?;
    *request.headers_mut() = header_map(head.headers).map_err(|_| StatusCode::BAD_REQUEST)?;
    Ok(Some((request, length)))
}

/// Returns the status for a head longer than [`MAX_HEAD`](super::MAX_HEAD), which depends on
/// whether the request line or the headers are too long.
pub(crate) fn too_long(bytes: &[u8]) -> StatusCode {
    match bytes.contains(&b'\n') {
        false => StatusCode::URI_TOO_LONG,
        true => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
    }
}

/// Returns whether a request is for a WebSocket, valid or not. [`answer`] rejects every other
/// request.
pub(crate) fn wants_websocket(request: &Request<()>) -> bool {
    check_upgrade(request).is_ok()
}

/// Checks whether a request switches to the WebSocket protocol (section 4.2.1, items 1, 3 and 4).
fn check_upgrade(request: &Request<()>) -> Result<(), Refusal> {
    // RFC 9110, section 7.8: an Upgrade in HTTP/1.0 is ignored.
    if request.version() < Version::HTTP_11 {
        return Err(bad("a WebSocket needs HTTP/1.1"));
    }
    switches(request.headers()).map_err(|missing| upgrade_required(format!("it needs {missing}")))
}

/// The response that rejects a request. Its body tells what is wrong with the request.
pub(crate) type Refusal = Box<Response<String>>;

fn refusal(status: StatusCode, why: impl Into<String>) -> Refusal {
    Box::new(plain(status).map(|()| why.into()))
}

fn bad(why: &str) -> Refusal {
    refusal(StatusCode::BAD_REQUEST, why)
}

/// Names the protocol to upgrade to (RFC 9110, section 15.5.22) and its version (RFC 6455, section
/// 4.4).
fn upgrade_required(why: impl Into<String>) -> Refusal {
    let mut refusal = refusal(StatusCode::UPGRADE_REQUIRED, why);
    let headers = refusal.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    let version = HeaderValue::from_static("13");
    headers.insert(header::SEC_WEBSOCKET_VERSION, version);
    refusal
}

/// The server's requirements for a request, and the headers it adds to the response.
pub(crate) struct HandshakeConfig<'a> {
    /// The subprotocols that the server supports, in order of preference.
    pub(crate) subprotocols: &'a [String],
    pub(crate) origins: &'a Origins,
    /// Whether the request came over TLS.
    pub(crate) encrypted: bool,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) deflate: Option<&'a Deflate>,
}

/// Returns the response that completes the handshake (section 4.2.2), with the first of the
/// server's subprotocols that the client offers, and the compression that both sides agree on.
/// Returns the rejection as the error.
pub(crate) fn answer(
    request: &Request<()>,
    config: HandshakeConfig<'_>,
) -> Result<(Response<()>, Option<Agreed>), Refusal> {
    check_method(request)?;
    check_upgrade(request)?;
    check_version(request)?;
    check_target(request)?;
    let accept = accept(request)?;
    check_body(request)?;
    check_expectation(request)?;
    config
        .origins
        .check(request, config.encrypted)
        .map_err(|origin| {
            let why = format!("pages from {} may not connect here", quoted(&origin, 100));
            refusal(StatusCode::FORBIDDEN, why)
        })?;

    let chosen = match config.deflate {
        Some(deflate) => {
            let offers = request.headers().get_all(header::SEC_WEBSOCKET_EXTENSIONS);
            let chosen = deflate.choose(offers.iter().map(HeaderValue::as_bytes));
            chosen.map_err(|Refused(why)| bad(&format!("it {why}")))?
        }
        None => None,
    };
    let (agreed, extension) = chosen.unzip();

    let mut response = plain(StatusCode::SWITCHING_PROTOCOLS);
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    let offered: Vec<_> = subprotocols(request.headers()).collect();
    let mut supported = config.subprotocols.iter();
    let chosen = supported.find(|name| offered.contains(&name.as_str()));
    if let Some(name) = chosen.and_then(|name| HeaderValue::from_str(name).ok()) {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, name);
    }
    if let Some(value) = extension.and_then(|value| HeaderValue::try_from(value).ok()) {
        headers.insert(header::SEC_WEBSOCKET_EXTENSIONS, value);
    }
    for (name, value) in config.headers {
        headers.append(name, value);
    }
    mark_secrets(headers);
    Ok((response, agreed))
}

/// Checks section 4.2.1, item 1.
fn check_method(request: &Request<()>) -> Result<(), Refusal> {
    if request.method() == Method::GET {
        return Ok(());
    }
    let mut refusal = refusal(
        StatusCode::METHOD_NOT_ALLOWED,
        "a WebSocket is requested with GET",
    );
    let get = HeaderValue::from_static("GET");
    refusal.headers_mut().insert(header::ALLOW, get);
    Err(refusal)
}

/// Checks section 4.2.1, item 6. In a request, the header is not a list (section 11.3.5).
fn check_version(request: &Request<()>) -> Result<(), Refusal> {
    match has_only(request.headers(), &header::SEC_WEBSOCKET_VERSION, "13") {
        true => Ok(()),
        false => Err(upgrade_required(
            "it needs the header \"Sec-WebSocket-Version: 13\"",
        )),
    }
}

/// Checks section 4.2.1, items 1 and 2.
fn check_target(request: &Request<()>) -> Result<(), Refusal> {
    // RFC 9112, section 3.2: a GET has a path, optionally with a scheme and a host before it. `*`
    // is for OPTIONS; a host and a port alone are for CONNECT.
    if !request.uri().path().starts_with('/') {
        return Err(bad("a request for a WebSocket needs a path"));
    }
    let mut hosts = request.headers().get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) if is_host_and_port(host.as_bytes()) => Ok(()),
        (Some(_), None) => Err(bad("its Host header is not a host")),
        _ => Err(bad("it needs one Host header")),
    }
}

/// Returns the value that proves that the key was read (section 4.2.1, item 5, and section 4.2.2,
/// item 5).
fn accept(request: &Request<()>) -> Result<HeaderValue, Refusal> {
    let refused = || bad("it needs one Sec-WebSocket-Key of 16 bytes in Base64");
    let keys = request.headers().get_all(header::SEC_WEBSOCKET_KEY);
    let mut keys = keys.iter().map(HeaderValue::as_bytes);
    let (Some(key), None) = (keys.next(), keys.next()) else {
        return Err(refused());
    };
    let key = key.trim_ascii();
    if base64::decode(key).is_none_or(|nonce| nonce.len() != 16) {
        return Err(refused());
    }
    HeaderValue::try_from(derive_accept_key(key)).map_err(|_| refused())
}

/// Rejects a body, because the bytes after the head belong to the WebSocket.
fn check_body(request: &Request<()>) -> Result<(), Refusal> {
    let chunked = request.headers().contains_key(header::TRANSFER_ENCODING);
    // RFC 9112, section 6.3, item 5.
    if !chunked && content_length(request.headers()).is_err() {
        return Err(bad("its Content-Length is not a length"));
    }
    match has_body(request) {
        true => Err(refusal(
            StatusCode::PAYLOAD_TOO_LARGE,
            "a request for a WebSocket must not have a body",
        )),
        false => Ok(()),
    }
}

/// Returns whether a body follows the head, or may follow.
pub(crate) fn has_body(request: &Request<()>) -> bool {
    let headers = request.headers();
    headers.contains_key(header::TRANSFER_ENCODING)
        || !matches!(content_length(headers), Ok(None | Some(0)))
}

/// Rejects unknown expectations with status 417 (RFC 9110, section 10.1.1), as aiohttp does.
fn check_expectation(request: &Request<()>) -> Result<(), Refusal> {
    let expected = elements(request.headers(), &header::EXPECT).next();
    match expected.is_none() || expects_continue(request) {
        true => Ok(()),
        false => Err(refusal(
            StatusCode::EXPECTATION_FAILED,
            "it expects something other than \"100-continue\"",
        )),
    }
}

fn expects_continue(request: &Request<()>) -> bool {
    has_only(request.headers(), &header::EXPECT, "100-continue")
}

/// Returns the bytes that accept a request. RFC 9110, section 7.8: if the client expects a 100, it
/// precedes the 101.
pub(crate) fn acceptance(request: &Request<()>, response: &Response<()>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if expects_continue(request) {
        bytes = response_head(&plain(StatusCode::CONTINUE));
    }
    bytes.extend(response_head(response));
    bytes
}

/// Returns a response that has only a status.
pub(crate) fn plain(status: StatusCode) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    response
}

/// Returns a response's head in HTTP syntax.
pub(crate) fn response_head<T>(response: &Response<T>) -> Vec<u8> {
    let status = response.status();
    let reason = status.canonical_reason().unwrap_or("");
    let line = format!("HTTP/1.1 {} {reason}", status.as_str());
    head(&line, response.headers(), HeaderName::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_truncated_request_is_incomplete_at_every_length() {
        let head = b"GET /a?b HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n\
                     Upgrade: WebSocket\r\n\r\n";
        for end in 0..head.len() {
            assert!(parse_request(&head[..end]).unwrap().is_none(), "{end}");
        }
        let (request, length) = parse_request(head).unwrap().unwrap();
        assert_eq!(length, head.len());
        assert_eq!(request.uri().query(), Some("b"));
        assert!(wants_websocket(&request));
    }

    #[test]
    fn a_request_that_is_not_http_is_rejected_with_400() {
        assert_eq!(parse_request(b"\x16\x03\x01\x02\x00").unwrap_err(), 400);
        let many = "X: y\r\n".repeat(MAX_HEADERS + 1);
        let head = format!("GET / HTTP/1.1\r\n{many}\r\n");
        assert_eq!(parse_request(head.as_bytes()).unwrap_err(), 431);
    }
}
