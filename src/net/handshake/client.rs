//! The client's side of the opening handshake: the request, and the check of the response (RFC
//! 6455, section 4.1).

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode, Uri};
use tungstenite::handshake::client::generate_key;
use tungstenite::handshake::derive_accept_key;
use url::{Position, Url};

use super::fields::{elements, head};
use super::response::{read_body, read_head};
use super::{Failure, subprotocols, switches};
use crate::error::{Error, Result};
use crate::net::deflate::{Agreed, Deflate, Refused};
use crate::net::transport::{Halves, is_timeout, write_by};

/// Returns the request for the WebSocket at a `ws` or `wss` URL, with a new key.
///
/// # Errors
///
/// Why HTTP cannot express the request.
pub(crate) fn request(url: &Url) -> Result<Request<()>, String> {
    let uri: Uri = url.as_str().parse().map_err(|error| format!("{error}"))?;
    // RFC 9110, section 7.2: `Host` is the first header. It has the URL's host, and the port unless
    // that is the default one.
    let host = &url[Position::BeforeHost..Position::AfterPort];
    Request::get(uri)
        .header(header::HOST, host)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_VERSION, "13")
        .header(header::SEC_WEBSOCKET_KEY, generate_key())
        .body(())
        .map_err(|error| error.to_string())
}

/// Returns a request's head in HTTP syntax.
pub(crate) fn request_head(request: &Request<()>) -> Vec<u8> {
    let target = request.uri().path_and_query();
    let target = target.map_or("/", |target| target.as_str());
    let line = format!("{} {target} HTTP/1.1", request.method());
    head(&line, request.headers(), capitalised)
}

/// Returns a header's name in its usual notation. HTTP ignores case, but some servers do not.
fn capitalised(name: &HeaderName) -> String {
    let words = name.as_str().split('-').map(|word| match word {
        "websocket" => "WebSocket".to_owned(),
        _ => {
            let (first, rest) = word.split_at(word.len().min(1));
            first.to_ascii_uppercase() + rest
        }
    });
    words.collect::<Vec<_>>().join("-")
}

/// A server's response that completes the handshake.
pub(crate) struct Answer {
    pub(crate) response: Response<()>,
    /// The bytes after it.
    pub(crate) rest: Vec<u8>,
    pub(crate) agreed: Option<Agreed>,
}

/// Requests a WebSocket. `deflate` is what the request offers. Reads the body of a response that
/// does not complete the handshake, unless it is a redirect that will be followed.
pub(crate) fn ask(
    halves: &mut Halves,
    request: &Request<()>,
    deflate: Option<&Deflate>,
    follows_redirects: bool,
    deadline: Instant,
) -> Result<Answer, Failure> {
    let written = write_by(
        &mut *halves.write,
        &request_head(request),
        Duration::MAX,
        deadline,
    );
    written.map_err(|error| match is_timeout(&error) {
        true => Failure::TimedOut("the server to read the handshake request"),
        false => Error::lost(error).into(),
    })?;
    let read = &mut *halves.read;
    let (response, rest) = read_head(read, deadline)?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let body = match follows_redirects && redirects_to(&response).is_some() {
            true => Vec::new(),
            false => read_body(read, &response, rest, deadline),
        };
        let response = response.map(|()| Bytes::from(body));
        return Err(Failure::Failed(Error::Refused {
            response: response.into(),
        }));
    }
    let agreed = verify(response.headers(), request.headers(), deflate)
        .map_err(|why| Error::Handshake(format!("the server's response {why}")))?;
    read.set_timeout(None).map_err(Error::lost)?;
    // RFC 9112, section 6.3: a 101 ends with its head, whatever Content-Length says.
    Ok(Answer {
        response,
        rest,
        agreed,
    })
}

/// Checks a response with status 101 (section 4.1). Returns what is wrong with it as the error.
fn verify(
    response: &HeaderMap,
    request: &HeaderMap,
    deflate: Option<&Deflate>,
) -> Result<Option<Agreed>, String> {
    // Items 2 and 3.
    switches(response).map_err(|missing| format!("is without {missing}"))?;
    // Item 4. The header may be repeated if all values are right.
    let key = request.get(header::SEC_WEBSOCKET_KEY);
    let expected = derive_accept_key(key.map_or(b"", HeaderValue::as_bytes));
    let accepts = response.get_all(header::SEC_WEBSOCKET_ACCEPT);
    if accepts.iter().next().is_none() || accepts.iter().any(|accept| accept != &expected) {
        return Err("has no Sec-WebSocket-Accept that fits the key it was sent".into());
    }
    // Item 5.
    let agreed = match deflate {
        Some(deflate) => {
            let extensions = response.get_all(header::SEC_WEBSOCKET_EXTENSIONS);
            let agreed = deflate.check_answer(extensions.iter().map(HeaderValue::as_bytes));
            agreed.map_err(|Refused(why)| why)?
        }
        None => {
            let mut extensions = elements(response, &header::SEC_WEBSOCKET_EXTENSIONS);
            if extensions.next().is_some() {
                return Err("chooses an extension that was not offered".into());
            }
            None
        }
    };
    // Item 6, and section 4.2.2, item 5: at most one.
    let mut chosen = elements(response, &header::SEC_WEBSOCKET_PROTOCOL);
    let is_offered = |name| subprotocols(request).any(|offered| offered.as_bytes() == name);
    match (chosen.next(), chosen.next()) {
        (None, _) => Ok(agreed),
        (Some(_), Some(_)) => Err("chooses more than one subprotocol".into()),
        (Some(name), None) if is_offered(name) => Ok(agreed),
        (Some(_), None) => Err("chooses a subprotocol that was not offered".into()),
    }
}

/// Returns the target of a redirect response (RFC 9110, sections 10.2.2 and 15.4).
pub(crate) fn redirects_to<T>(response: &Response<T>) -> Option<&str> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let mut locations = response.headers().get_all(header::LOCATION).iter();
    let location = locations.next()?;
    // Different locations are ambiguous.
    if locations.any(|other| other != location) {
        return None;
    }
    std::str::from_utf8(location.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::super::response::parse_head;
    use super::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    fn verified(lines: &str, key: &'static str, offered: &'static str) -> Result<(), String> {
        let head = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
             Connection: keep-alive, Upgrade\r\n{lines}\r\n"
        );
        let parsed = parse_head(head.as_bytes()).unwrap().unwrap();
        assert_eq!(parsed.length, head.len());
        let mut request = HeaderMap::new();
        request.insert(header::SEC_WEBSOCKET_KEY, HeaderValue::from_static(key));
        let offered = HeaderValue::from_static(offered);
        request.insert(header::SEC_WEBSOCKET_PROTOCOL, offered);
        verify(parsed.response.headers(), &request, None).map(|_| ())
    }

    #[test]
    fn the_example_of_the_rfc_is_accepted() {
        let accept = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
        assert_eq!(verified(accept, KEY, ""), Ok(()));
        assert!(verified(accept, "AAAAAAAAAAAAAAAAAAAAAA==", "").is_err());
        assert!(verified("", KEY, "").is_err());
    }

    #[test]
    fn a_subprotocol_must_have_been_offered() {
        let chosen = "Sec-WebSocket-Protocol: chat\r\n\
                      Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
        assert!(verified(chosen, KEY, "").is_err());
        assert!(verified(chosen, KEY, "superchat").is_err());
        assert_eq!(verified(chosen, KEY, "superchat, chat"), Ok(()));
    }

    #[test]
    fn header_names_have_their_usual_notation() {
        for (name, written) in [
            ("host", "Host"),
            ("sec-websocket-key", "Sec-WebSocket-Key"),
            ("x-api-key", "X-Api-Key"),
            ("x--1", "X--1"),
        ] {
            assert_eq!(capitalised(&HeaderName::from_static(name)), written);
        }
    }
}
