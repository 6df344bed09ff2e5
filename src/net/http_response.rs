//! An HTTP response that ends a connection.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{self, HeaderValue};
use http::{Method, Response, StatusCode};

use super::handshake::server::response_head;
use super::transport::{Halves, ReadHalf, Transport, WriteHalf, is_timeout, read_by, write_by};
use crate::error::{Error, Result};
use crate::thread::spawn;

/// The time for which a client may accept no bytes of a response.
const STALLED: Duration = Duration::from_secs(10);

/// The lowest speed, in bytes per second, at which a response is still sent completely.
const SLOWEST: usize = 16 << 10;

/// The limits for the unwanted bytes that are read before a connection is closed.
const MAX_UNREAD: usize = 64 << 10;
const UNREAD_WAIT: Duration = Duration::from_secs(2);

/// The maximum length, in bytes, of the part of a body that is sent together with its head.
const WITH_HEAD: usize = 16 << 10;

/// Returns the head of the last response on a connection, and the body to send after it, if the
/// response to a request with this method has one.
pub(crate) fn to_parts<B: AsRef<[u8]>>(
    mut response: Response<B>,
    method: &Method,
) -> (Vec<u8>, Option<B>) {
    let without_body = [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED];
    let has_body = !without_body.contains(&response.status());
    let length = response.body().as_ref().len();
    let headers = response.headers_mut();
    headers.remove(header::TRANSFER_ENCODING);
    headers.remove(header::CONTENT_LENGTH);
    if has_body {
        headers.insert(header::CONTENT_LENGTH, length.into());
    }
    // RFC 9110, section 7.8: an `Upgrade` header must be listed in `Connection`.
    let connection = match headers.contains_key(header::UPGRADE) {
        true => "close, Upgrade",
        false => "close",
    };
    headers.insert(header::CONNECTION, HeaderValue::from_static(connection));
    let head = response_head(&response);
    let has_body = has_body && *method != Method::HEAD;
    (head, has_body.then(|| response.into_body()))
}

/// Returns the same bytes as [`to_parts`], in one piece.
pub(crate) fn to_bytes(response: Response<impl AsRef<[u8]>>, method: &Method) -> Vec<u8> {
    let (mut bytes, body) = to_parts(response, method);
    if let Some(body) = body {
        bytes.extend_from_slice(body.as_ref());
    }
    bytes
}

/// Sends a response and ends the connection.
///
/// Bytes that the socket does not accept immediately are copied and sent by a thread. The thread is
/// also needed if the client has sent more bytes: closing a socket with unread bytes would reset
/// the connection, and the response might be lost. `ticket` is dropped at the end.
///
/// # Errors
///
/// [`Error::Lost`] if the client has disconnected.
pub(crate) fn send(
    transport: Box<dyn Transport>,
    mut bytes: Vec<u8>,
    body: &[u8],
    more_to_read: bool,
    slot: impl Send + 'static,
) -> Result<()> {
    let mut halves = transport.split().map_err(Error::lost)?;
    let (first, body) = body.split_at(body.len().min(WITH_HEAD));
    bytes.extend_from_slice(first);
    let sent = send_now(&mut *halves.write, &bytes).map_err(Error::lost)?;
    bytes.drain(..sent);
    let sent = match bytes.is_empty() {
        true => send_now(&mut *halves.write, body).map_err(Error::lost)?,
        false => 0,
    };
    bytes.extend_from_slice(&body[sent..]);
    if bytes.is_empty() && !more_to_read && halves.write.try_flush().is_ok() {
        // A client that has the whole response may have disconnected already.
        let _ = halves.write.shutdown_write();
        return Ok(());
    }
    spawn("ws-respond", move || {
        if let Err(error) = send_rest(&mut halves, &bytes) {
            crate::logging::debug!("a response was not sent completely: {error}");
        }
        drop(slot);
    })
    .map_err(|error| Error::Thread(Arc::new(error)))
}

/// Sends as much as possible without waiting. Returns the number of bytes sent.
fn send_now(write: &mut dyn WriteHalf, bytes: &[u8]) -> io::Result<usize> {
    let mut sent = 0;
    while sent < bytes.len() {
        match write.try_write(&bytes[sent..]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => sent += n,
            Err(error) if is_timeout(&error) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
}

fn send_rest(halves: &mut Halves, bytes: &[u8]) -> io::Result<()> {
    let size = u64::try_from(bytes.len() / SLOWEST).unwrap_or(u64::MAX);
    let deadline = Instant::now() + STALLED + Duration::from_secs(size);
    write_by(&mut *halves.write, bytes, STALLED, deadline)?;
    let _ = halves.write.shutdown_write();
    discard(&mut *halves.read);
    Ok(())
}

/// Reads and discards bytes until the end of the stream or until a limit is reached.
fn discard(read: &mut dyn ReadHalf) {
    let deadline = Instant::now() + UNREAD_WAIT;
    let mut chunk = [0; 4096];
    for _ in 0..MAX_UNREAD / chunk.len() {
        if !matches!(read_by(read, &mut chunk, deadline), Ok(1..)) {
            return;
        }
    }
}
