//! An HTTP response that ends a connection.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{self, HeaderValue};
use http::{Method, Response, StatusCode};

use super::handshake::server::response_head;
use super::transport::{Halves, ReadHalf, Transport, WriteHalf, is_timeout, write_by};
use crate::error::{Error, Result};
use crate::thread::spawn;

/// How long a client may take nothing of a response.
const STALLED: Duration = Duration::from_secs(10);

/// The slowest client that is served to the end, in bytes a second.
const SLOWEST: usize = 16 << 10;

/// How much that nobody asked for is read before a connection is ended, and for how long.
const MAX_UNREAD: usize = 64 << 10;
const UNREAD_WAIT: Duration = Duration::from_secs(2);

/// How much of a body is sent in one piece with its head.
const WITH_HEAD: usize = 16 << 10;

/// The head of a response to a request with this method, the last on its connection, and the body
/// that follows.
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
    // RFC 9110, section 7.8: who names a protocol to upgrade to says so here, too.
    let connection = match headers.contains_key(header::UPGRADE) {
        true => "close, Upgrade",
        false => "close",
    };
    headers.insert(header::CONNECTION, HeaderValue::from_static(connection));
    let head = response_head(&response);
    let has_body = has_body && *method != Method::HEAD;
    (head, has_body.then(|| response.into_body()))
}

/// As [`to_parts`], in one piece.
pub(crate) fn to_bytes(response: Response<impl AsRef<[u8]>>, method: &Method) -> Vec<u8> {
    let (mut bytes, body) = to_parts(response, method);
    if let Some(body) = body {
        bytes.extend_from_slice(body.as_ref());
    }
    bytes
}

/// Sends a response and ends the connection. What does not go at once is copied and sent by a
/// thread, which is also needed when there is more to be read: to close a socket with bytes unread
/// would reset the connection, and the response might be lost. `slot` is dropped at the end.
///
/// # Errors
///
/// [`Error::Lost`] when the client is gone.
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
        // A client that has what it wanted may have gone already.
        let _ = halves.write.shutdown_write();
        return Ok(());
    }
    spawn("ws-respond", move || {
        if let Err(error) = send_rest(&mut halves, &bytes) {
            crate::logging::debug!("a response was not sent to its end: {error}");
        }
        drop(slot);
    })
    .map_err(|error| Error::Thread(Arc::new(error)))
}

/// What can be sent without waiting.
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
    read_out(&mut *halves.read)
}

/// Reads what nobody wants, up to the end. Who sends more than that has no claim to an answer.
fn read_out(read: &mut dyn ReadHalf) -> io::Result<()> {
    let deadline = Instant::now() + UNREAD_WAIT;
    let mut chunk = [0; 4096];
    for _ in 0..MAX_UNREAD / chunk.len() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        read.set_timeout(Some(left))?;
        match read.read(&mut chunk) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
