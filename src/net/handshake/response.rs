//! Reads an HTTP response: interim responses, head and body.

use std::io;
use std::ops::Range;
use std::time::{Duration, Instant};

use http::header;
use http::{Response, StatusCode, Version};
use httparse::{ParserConfig, Status, parse_chunk_size};

use super::fields::{content_length, elements, header_map};
use super::{Failure, MAX_HEAD, MAX_HEADERS};
use crate::error::Error;
use crate::net::transport::{ReadHalf, is_timeout, read_by};

/// The maximum size of all interim responses together, in bytes.
pub(crate) const MAX_INTERIM: usize = 64 << 10;
/// The maximum number of bytes of a body that are read.
const MAX_BODY: usize = 64 << 10;
/// The time for which the next part of a body is awaited.
const BODY_SILENCE: Duration = Duration::from_secs(1);

/// The head of a response.
pub(crate) struct Head {
    pub(crate) response: Response<()>,
    /// The reason phrase. Empty if there is none, or if it is not ASCII.
    pub(crate) reason: String,
    pub(crate) length: usize,
}

impl Head {
    /// Returns whether another response follows. RFC 9110, section 15.2: any number of interim
    /// responses may precede the final one. Status 101 is the last response in HTTP.
    pub(crate) fn is_interim(&self) -> bool {
        let status = self.response.status();
        status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS
    }
}

/// Parses a response's head. Returns `None` if the head is incomplete.
///
/// # Errors
///
/// Why the bytes are not HTTP.
pub(crate) fn parse_head(bytes: &[u8]) -> Result<Option<Head>, String> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Response::new(&mut headers);
    let mut config = ParserConfig::default();
    // RFC 9112, section 5.2.
    config.allow_obsolete_multiline_headers_in_responses(true);
    let length = match config.parse_response(&mut head, bytes) {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let mut response = Response::new(());
    let status = StatusCode::from_u16(head.code.unwrap_or_default());
    *response.status_mut() = status.map_err(|error| error.to_string())?;
    if head.version == Some(0) {
        *response.version_mut() = Version::HTTP_10;
    }
    *response.headers_mut() = header_map(head.headers).map_err(|error| error.to_string())?;
    Ok(Some(Head {
        response,
        reason: head.reason.unwrap_or_default().to_owned(),
        length,
    }))
}

/// Reads up to the final response's head. Returns the head and the bytes after it.
pub(super) fn read_head(
    read: &mut dyn ReadHalf,
    deadline: Instant,
) -> Result<(Response<()>, Vec<u8>), Failure> {
    let mut buffer = Vec::new();
    let mut interim = 0;
    loop {
        // A TLS alert (RFC 8446, sections 5.1 and 6), which no HTTP response begins with.
        if buffer.starts_with(&[21, 3]) {
            let text = "the server's response is TLS and not HTTP; \
                        does the server expect TLS? If so, use wss://";
            return Err(Error::Handshake(text.into()).into());
        }
        let head = parse_head(&buffer)
            .map_err(|why| Error::Handshake(format!("the server's response is not HTTP: {why}")))?;
        match head {
            Some(head) if head.length <= MAX_HEAD => {
                buffer.drain(..head.length);
                if !head.is_interim() {
                    return Ok((head.response, buffer));
                }
                interim += head.length;
                if interim > MAX_INTERIM {
                    let text = format!(
                        "the server sends more than {MAX_INTERIM} bytes of interim responses"
                    );
                    return Err(Error::Handshake(text).into());
                }
            }
            None if buffer.len() <= MAX_HEAD => read_on(read, &mut buffer, deadline)?,
            _ => {
                let text =
                    format!("the head of the server's response is longer than {MAX_HEAD} bytes");
                return Err(Error::Handshake(text).into());
            }
        }
    }
}

/// Waits for more bytes of a head.
fn read_on(
    read: &mut dyn ReadHalf,
    buffer: &mut Vec<u8>,
    deadline: Instant,
) -> Result<(), Failure> {
    match read_more(read, buffer, deadline) {
        Ok(0) => {
            let text = match buffer.len() {
                0 => "the server ended the connection without a response",
                _ => "the server ended the connection within its response",
            };
            let error = io::Error::new(io::ErrorKind::UnexpectedEof, text);
            Err(Error::lost(error).into())
        }
        Ok(_) => Ok(()),
        Err(error) if is_timeout(&error) => {
            Err(Failure::TimedOut("the server's handshake response"))
        }
        Err(error) => Err(Error::lost(error).into()),
    }
}

/// Reads the next bytes, unless the deadline has passed.
fn read_more(
    read: &mut dyn ReadHalf,
    buffer: &mut Vec<u8>,
    deadline: Instant,
) -> io::Result<usize> {
    let mut chunk = [0; 4096];
    let n = read_by(read, &mut chunk, deadline)?;
    buffer.extend_from_slice(&chunk[..n]);
    Ok(n)
}

/// The end of a body (RFC 9112, section 6.3).
#[derive(Debug, PartialEq, Eq)]
enum BodyEnd {
    /// After this number of bytes.
    Length(usize),
    LastChunk,
    /// At the end of the stream.
    Stream,
}

impl BodyEnd {
    fn of(response: &Response<()>) -> Self {
        let headers = response.headers();
        // RFC 9110, sections 15.3.5, 15.3.6 and 15.4.5: no body, whatever the headers say.
        if matches!(response.status().as_u16(), 204 | 205 | 304) {
            return BodyEnd::Length(0);
        }
        // RFC 9112, section 6.1: Transfer-Encoding overrides Content-Length.
        if headers.contains_key(header::TRANSFER_ENCODING) {
            let last = elements(headers, &header::TRANSFER_ENCODING).last();
            return match last.is_some_and(|last| last.eq_ignore_ascii_case(b"chunked")) {
                true => BodyEnd::LastChunk,
                false => BodyEnd::Stream,
            };
        }
        match content_length(headers) {
            Ok(Some(length)) => BodyEnd::Length(usize::try_from(length).unwrap_or(usize::MAX)),
            Ok(None) => BodyEnd::Stream,
            // Section 6.3, item 5: the bytes that follow must not be read as the body.
            Err(_) => BodyEnd::Length(0),
        }
    }
}

/// Reads a response's body, of which `bytes` have arrived. Stops after [`MAX_BODY`] bytes, and when
/// the next part is late. An incomplete body is not an error, because the status is the important
/// part.
pub(super) fn read_body(
    read: &mut dyn ReadHalf,
    response: &Response<()>,
    mut bytes: Vec<u8>,
    deadline: Instant,
) -> Vec<u8> {
    let end = BodyEnd::of(response);
    let mut chunk = 0;
    let mut is_over = |bytes: &[u8]| match end {
        _ if bytes.len() >= MAX_BODY => true,
        BodyEnd::Length(length) => bytes.len() >= length,
        BodyEnd::LastChunk => skip_chunks(bytes, &mut chunk),
        BodyEnd::Stream => false,
    };
    while !is_over(&bytes) {
        let deadline = deadline.min(Instant::now() + BODY_SILENCE);
        match read_more(read, &mut bytes, deadline) {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    bytes.truncate(MAX_BODY);
    match end {
        BodyEnd::Length(length) => bytes.truncate(length),
        BodyEnd::LastChunk => bytes = without_chunks(&bytes),
        BodyEnd::Stream => {}
    }
    bytes
}

/// Returns the place of the data of the chunk that begins at `start` (RFC 9112, section 7.1). It
/// ends beyond the bytes if the chunk is incomplete. Returns `None` for the last chunk, and for
/// bytes that are not a chunk.
fn chunk(bytes: &[u8], start: usize) -> Option<Range<usize>> {
    match parse_chunk_size(bytes.get(start..).unwrap_or_default()) {
        Ok(Status::Complete((_, 0))) | Err(_) => None,
        Ok(Status::Complete((line, size))) => {
            let data = start + line;
            let size = usize::try_from(size).unwrap_or(usize::MAX);
            Some(data..data.saturating_add(size))
        }
        // The chunk's first line is incomplete.
        Ok(Status::Partial) => Some(bytes.len()..usize::MAX),
    }
}

/// Moves `start` to the first incomplete chunk. Returns whether that is the last chunk. The
/// trailers after it are not awaited.
fn skip_chunks(bytes: &[u8], start: &mut usize) -> bool {
    while let Some(data) = chunk(bytes, *start) {
        // A line break follows the data.
        let next = data.end.saturating_add(2);
        if next > bytes.len() {
            return false;
        }
        *start = next;
    }
    true
}

/// Returns the data of the chunks.
fn without_chunks(bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    let mut start = 0;
    while let Some(data) = chunk(bytes, start) {
        let end = data.end.min(bytes.len());
        body.extend_from_slice(&bytes[data.start..end]);
        start = end + 2;
        if start >= bytes.len() {
            break;
        }
    }
    body
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    /// A peer that sends nothing more. Records whether it was read from.
    struct Silent(bool);

    impl Read for Silent {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            self.0 = true;
            Err(io::ErrorKind::WouldBlock.into())
        }
    }

    impl ReadHalf for Silent {
        fn set_timeout(&mut self, _: Option<Duration>) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn reading_stops_at_the_end_of_the_body() {
        let long = "x".repeat(MAX_BODY);
        for (status, headers, arrived, waits) in [
            (404, "", "gone", true),
            (404, "", long.as_str(), false),
            (404, "Content-Length: 5\r\n", "gone", true),
            (404, "Content-Length: 4\r\n", "gone", false),
            (404, "Content-Length: 0\r\n", "", false),
            (
                404,
                "Content-Length: 99999999999999999999\r\n",
                &long,
                false,
            ),
            (404, "Content-Length: x\r\n", "gone", false),
            (404, "Transfer-Encoding: chunked\r\n", "4\r\ngone", true),
            (404, "Transfer-Encoding: chunked\r\n", "4\r\ngone\r\n", true),
            (
                404,
                "Transfer-Encoding: chunked\r\n",
                "4\r\ngone\r\n0\r\n",
                false,
            ),
            (404, "Transfer-Encoding: chunked\r\n", "x", false),
            (204, "", "", false),
            (205, "", "", false),
            (304, "Content-Length: 5\r\n", "", false),
        ] {
            let head = format!("HTTP/1.1 {status} Whatever\r\n{headers}\r\n");
            let head = parse_head(head.as_bytes()).unwrap().unwrap();
            let mut read = Silent(false);
            let deadline = Instant::now() + Duration::from_secs(3600);
            read_body(&mut read, &head.response, arrived.into(), deadline);
            assert_eq!(read.0, waits, "{status} {headers}{}", arrived.len());
        }
    }

    #[test]
    fn a_folded_value_becomes_one_line() {
        let head = "HTTP/1.1 200 OK\r\nA: b \r\n \t c\n d\r\nE:\r\n f\r\n\r\n";
        let head = parse_head(head.as_bytes()).unwrap().unwrap();
        assert_eq!(head.response.headers()["a"], "b c d");
        assert_eq!(head.response.headers()["e"], "f");
    }
}
