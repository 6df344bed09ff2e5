//! Why a call failed or a connection ended.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::panics::Panicked;

/// What this crate's calls return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed, or why a connection ended.
///
/// It is [`Clone`], because every waiter, every subscription and every callback of a connection is
/// told the same reason. Its text is complete: [`source`](std::error::Error::source) has nothing to add.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The URL cannot work, whatever the network does: no host, a port out of range, a scheme that
    /// is none of `ws`, `wss`, `http`, `https`. Returned by `connect` itself; correct the URL.
    #[error("invalid URL {url:?}: {reason}")]
    InvalidUrl {
        /// The URL as it was given, without what may be a user and a password, and without the text
        /// of its query.
        url: String,
        /// What is wrong with it.
        reason: String,
    },

    /// A setting cannot work: a header that HTTP does not allow, a close code that RFC 6455 reserves.
    #[error("invalid {setting}: {reason}")]
    InvalidOption {
        /// Which setting.
        setting: &'static str,
        /// What is wrong with it.
        reason: String,
    },

    /// The host's name could not be resolved to an address; or the network interface that a
    /// link-local address is written with does not exist.
    #[error("cannot resolve {host:?}: {error}")]
    Resolve {
        /// The name that was looked up, or the address with the interface.
        host: String,
        /// What the resolver said.
        error: Arc<io::Error>,
    },

    /// None of the host's addresses took the connection.
    #[error("cannot connect to {address}: {error}")]
    Connect {
        /// The address, or all of them, separated by commas.
        address: String,
        /// What the operating system said of the last one.
        error: Arc<io::Error>,
    },

    /// The proxy could not or would not connect to the server.
    #[error("proxy {proxy}: {reason}")]
    Proxy {
        /// The proxy, without user and password.
        proxy: String,
        /// What it said, or did.
        reason: String,
        /// Whether it may do so another time: it could not be reached, or could not reach the server.
        transient: bool,
    },

    /// The TLS handshake failed: the server's certificate is not trusted ("unable to get local issuer
    /// certificate", "self-signed certificate": see `Options::root_certificate_pem`) or is for another host
    /// ("hostname mismatch", "IP address mismatch"), or one side does not do what the other insists on.
    #[error("TLS with {peer}: {}", tls_reason(&**.error))]
    Tls {
        /// The host that was to be reached.
        peer: String,
        /// What the TLS library said.
        error: Arc<dyn std::error::Error + Send + Sync>,
    },

    /// The connection was not ready within `connect_timeout`.
    #[error("{target} was not ready within {after:?}: still waiting for {stage}")]
    ConnectTimeout {
        /// The URL or address.
        target: String,
        /// The time allowed.
        after: Duration,
        /// What had not happened yet, for example "the server's handshake response".
        stage: &'static str,
    },

    /// The server answered the handshake with an HTTP status other than 101. The text shows what a
    /// body says that is plain text, JSON or of no type.
    #[error("the server refused the WebSocket: it answered {}{}", .response.status(), said(.response))]
    Refused {
        /// The status, the headers and the body: at most 64 KiB, and what came of it before the
        /// server was silent for a second. A chunked body is put together. (The body of a redirect
        /// that is followed is not read.)
        response: Arc<http::Response<Bytes>>,
    },

    /// What the peer sent in place of a handshake is not one (RFC 6455, section 4).
    #[error("WebSocket handshake failed: {0}")]
    Handshake(String),

    /// The function given to [`Options::header_with`](crate::Options::header_with) failed.
    #[error("no value for the header {name:?}: {error}")]
    Header {
        /// The header's name.
        name: String,
        /// What the function returned.
        error: Arc<dyn std::error::Error + Send + Sync>,
    },

    /// The stream ended, or the operating system reported an error, without a closing handshake
    /// (the close code that RFC 6455 calls 1006).
    #[error("connection lost: {0}")]
    Lost(Arc<io::Error>),

    /// The peer broke the protocol; it was told so with close code 1002 (or 1007, for text that is
    /// not UTF-8).
    #[error("the peer broke the protocol: {reason} (closed with {code})")]
    Protocol {
        /// The close code the peer was sent.
        code: u16,
        /// What it did.
        reason: String,
    },

    /// The peer sent more than [`max_message_size`](crate::Options::max_message_size), which is 1
    /// MiB on servers by default, or `max_frame_size`; it was told so, with the limit, with close
    /// code 1009.
    #[error("the peer sent a message of {size} bytes, more than the {limit} allowed")]
    MessageTooBig {
        /// The size it announced, or that had come together so far; in bytes.
        size: usize,
        /// The limit; in bytes.
        limit: usize,
    },

    /// The peer did not answer a ping within `ping_timeout`.
    #[error("the peer did not answer a ping within {after:?}")]
    PingTimeout {
        /// The time allowed.
        after: Duration,
    },

    /// The closing handshake was not over within `close_timeout`, and no Close frame of the peer had
    /// come by then; the connection was cut.
    #[error(
        "the connection was cut: closing took longer than {after:?}, {unsent} messages were not sent"
    )]
    CloseTimeout {
        /// The time allowed.
        after: Duration,
        /// How many messages that had been put were still waiting to be sent.
        unsent: usize,
    },

    /// The connection was closed with a Close frame. Nothing more will come. This is an
    /// [orderly](Self::is_orderly) end unless messages of this side were not sent: see
    /// [`Close::unsent`].
    #[error("the connection is closed: {0}")]
    Closed(Close),

    /// The producer of this subscription has ended, and gave no other reason.
    #[error("the producer has ended")]
    Ended,

    /// This subscription was removed by `unsubscribe`.
    #[error("unsubscribed")]
    Unsubscribed,

    /// `ping` was called too often: this many pings have no answer yet. The connection is not affected.
    #[error("{unanswered} pings are waiting for their answer")]
    TooManyPings {
        /// How many.
        unanswered: usize,
    },

    /// The time given to a `…_timeout` call is over. The connection is not affected.
    #[error("timed out")]
    Timeout,

    /// `try_get` found no message. The connection is not affected.
    #[error("no message is waiting")]
    Empty,

    /// The call waits for the connection's end, or for a message, and was made on the very thread that has to
    /// bring it (from within a function that the [`Options`](crate::Options) were given). What it asked for
    /// has been started.
    #[error("this call cannot wait on the connection's own thread")]
    OwnThread,

    /// This process was forked from the one that made the connection, and has none of its threads. Let the parent
    /// use it, or make one in the child.
    #[error("the connection belongs to the process that this one was forked from")]
    Forked,

    /// A value could not be turned into JSON, or JSON not into the type asked for.
    #[error("JSON: {0}")]
    Json(Arc<serde_json::Error>),

    /// The operating system refused to start a thread: one of the connection's own, or for a
    /// second, one for its callbacks. The text says which limit is reached, as far as that can be
    /// known, and how much is used of it.
    #[error("cannot start a thread: {0}")]
    Thread(Arc<io::Error>),

    /// A thread of this crate panicked, or a [`Transport`](crate::Transport) given to it. That is a
    /// fault in this crate, or in what was given to it.
    #[error("internal error: {0}")]
    Internal(String),
}

/// Where a certificate was found wanting, OpenSSL puts in brackets at the end in what.
fn tls_reason(error: &(dyn std::error::Error + Send + Sync)) -> String {
    let text = error.to_string();
    let wanting = text.contains("certificate verify failed");
    match text
        .strip_suffix(')')
        .and_then(|text| text.rsplit_once('('))
    {
        Some((_, what)) if wanting => format!("certificate verify failed: {what}"),
        _ => text,
    }
}

/// What a body says first, which is often the reason. A page says it somewhere in its middle.
fn said(response: &http::Response<Bytes>) -> String {
    let headers = response.headers();
    if headers.contains_key(http::header::CONTENT_ENCODING) {
        return String::new();
    }
    let text = String::from_utf8_lossy(response.body());
    let kind = headers.get(http::header::CONTENT_TYPE);
    let kind = kind.map(|kind| String::from_utf8_lossy(kind.as_bytes()).to_ascii_lowercase());
    let kind = kind
        .as_deref()
        .map(|kind| kind.split(';').next().unwrap_or_default().trim());
    let said = match kind {
        Some("text/plain") => first_line(&text),
        Some(kind) if kind == "application/json" || kind.ends_with("+json") => {
            text.split_whitespace().collect::<Vec<_>>().join(" ")
        }
        None if !text.trim_start().starts_with('<') => first_line(&text),
        _ => String::new(),
    };
    match said.is_empty() {
        true => said,
        false => format!(" ({:?})", said.chars().take(200).collect::<String>()),
    }
}

fn first_line(text: &str) -> String {
    let mut lines = text.lines().map(str::trim);
    let line = lines.find(|line| !line.is_empty());
    line.unwrap_or_default().to_owned()
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Error::Json(Arc::new(error))
    }
}

impl Error {
    pub(crate) fn lost(error: io::Error) -> Self {
        match Panicked::is_cause_of(&error) {
            true => Error::Internal(error.to_string()),
            false => Error::Lost(Arc::new(error)),
        }
    }

    /// Whether another attempt to connect may succeed where this happened: what a client that
    /// [reconnects](crate::Options::reconnect) tries again after, and what ends it otherwise.
    ///
    /// | it heals | it does not |
    /// | --- | --- |
    /// | the server cannot be reached, or is not found | the URL or a setting is wrong |
    /// | a time-out: of connecting, of a ping, of closing | the certificate is not trusted, or TLS is not agreed on |
    /// | the connection is lost without a closing handshake | what comes is not HTTP, not a handshake, or breaks the protocol |
    /// | the server answers 408, 425, 429, or any 5xx but 501 and 505 | it answers anything else, such as 401, 403, 404 |
    /// | the peer closes with 1001 (going away), 1011 (internal error), 1012 (restart), 1013 (try again later) or 1014 (bad gateway) | it closes with any other code, or without one; or this side does |
    /// | the proxy cannot be reached, or cannot reach the server | it refuses |
    /// | `header_with`'s function fails; the system starts no thread | |
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Resolve { .. }
            | Error::Connect { .. }
            | Error::ConnectTimeout { .. }
            | Error::Header { .. }
            | Error::Lost(_)
            | Error::PingTimeout { .. }
            | Error::CloseTimeout { .. }
            | Error::Thread(_) => true,
            Error::Proxy { transient, .. } => *transient,
            Error::Refused { response } => match response.status().as_u16() {
                501 | 505 => false,
                status => matches!(status, 408 | 425 | 429 | 500..=599),
            },
            Error::Closed(Close {
                by: Side::Peer,
                frame: Some(frame),
                ..
            }) => matches!(frame.code, 1001 | 1011..=1014),
            _ => false,
        }
    }

    /// Whether this is the orderly end of a connection rather than a failure:
    /// [`Closed`](Self::Closed), with every accepted message sent.
    pub fn is_orderly(&self) -> bool {
        matches!(self, Error::Closed(close) if close.unsent == 0)
    }

    /// The error, unless it is an orderly end.
    pub(crate) fn failure(&self) -> Option<Error> {
        (!self.is_orderly()).then(|| self.clone())
    }
}

/// Which side of a connection did something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// This program.
    Local,
    /// The program at the other end.
    Peer,
}

/// How a connection was closed: who began, and the code and reason that side gave.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Close {
    /// Who sent the first Close frame.
    pub by: Side,
    /// What that frame said; `None` when no code was given, or when the connection was closed
    /// before it was ready.
    pub frame: Option<CloseFrame>,
    /// How many messages of this side had been accepted and were not sent, since the peer had closed
    /// and did not take them.
    pub unsent: usize,
}

impl fmt::Display for Close {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.by {
            Side::Local => "by this side",
            Side::Peer => "by the peer",
        })?;
        if let Some(frame) = &self.frame {
            write!(f, " with {frame}")?;
        }
        match self.unsent {
            0 => Ok(()),
            unsent => write!(f, "; {unsent} messages were not sent"),
        }
    }
}

/// The code and the reason of a Close frame (RFC 6455, section 5.5.1).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CloseFrame {
    /// RFC 6455, section 7.4: 1000 is a normal closure, 1001 going away, 4000 to 4999 are for applications.
    pub code: u16,
    /// At most 123 bytes of UTF-8; may be empty.
    pub reason: String,
}

impl CloseFrame {
    /// What had the connection has failed (RFC 6455, section 7.4.1).
    pub(crate) fn internal_error() -> Self {
        CloseFrame {
            code: 1011,
            reason: String::new(),
        }
    }

    pub(crate) fn normal() -> Self {
        CloseFrame {
            code: 1000,
            reason: String::new(),
        }
    }

    /// Whether an endpoint may send this code (section 7.4, and the codes registered since).
    pub(crate) fn may_be_sent(code: u16) -> bool {
        matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
    }

    /// A frame that this side may send.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] for a code that RFC 6455 does not let an endpoint send (below 1000,
    /// 1004 to 1006, 1015 to 2999, 5000 and up), or a reason longer than 123 bytes.
    pub(crate) fn checked(code: u16, reason: &str) -> Result<Self> {
        let invalid = |reason: String| Error::InvalidOption {
            setting: "close frame",
            reason,
        };
        if !Self::may_be_sent(code) {
            return Err(invalid(format!(
                "RFC 6455 does not let an endpoint send code {code}"
            )));
        }
        if reason.len() > 123 {
            return Err(invalid(format!(
                "a reason has at most 123 bytes, this one has {}",
                reason.len()
            )));
        }
        Ok(CloseFrame {
            code,
            reason: reason.to_owned(),
        })
    }
}

impl fmt::Display for CloseFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.reason.is_empty() {
            write!(f, "{}", self.code)
        } else {
            write!(f, "{} {:?}", self.code, self.reason)
        }
    }
}

/// Why something was not taken, with the thing itself, so that nothing is lost.
///
/// `Full` is also what a put with a timeout returns when its time is over, as in Python's `queue.Queue`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum PutError<T> {
    /// There is no room now.
    Full(T),
    /// Nothing will be taken any more: the connection is closing or has ended.
    Closed(T),
}

impl<T> PutError<T> {
    /// The thing that was not taken.
    pub fn into_inner(self) -> T {
        match self {
            PutError::Full(item) | PutError::Closed(item) => item,
        }
    }

    /// Whether the reason was a lack of room.
    pub fn is_full(&self) -> bool {
        matches!(self, PutError::Full(_))
    }

    /// Whether nothing will be taken any more.
    pub fn is_closed(&self) -> bool {
        matches!(self, PutError::Closed(_))
    }
}

impl<T> fmt::Debug for PutError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PutError::Full(_) => "Full(..)",
            PutError::Closed(_) => "Closed(..)",
        })
    }
}

impl<T> fmt::Display for PutError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PutError::Full(_) => "not taken: the queue is full",
            PutError::Closed(_) => {
                "not taken: it is closing or has ended (`end_reason` of a Websocket says why)"
            }
        })
    }
}

impl<T> std::error::Error for PutError<T> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_codes_that_an_endpoint_may_not_send_are_refused() {
        for code in [0, 999, 1004, 1005, 1006, 1015, 2999, 5000, u16::MAX] {
            assert!(CloseFrame::checked(code, "").is_err(), "{code}");
        }
        for code in [1000, 1001, 1011, 3000, 4001, 4999] {
            assert!(CloseFrame::checked(code, "").is_ok(), "{code}");
        }
        assert!(CloseFrame::checked(1000, &"x".repeat(123)).is_ok());
        assert!(CloseFrame::checked(1000, &"x".repeat(124)).is_err());
    }

    #[test]
    fn a_status_heals_if_it_speaks_of_the_moment() {
        let refused = |status: u16| {
            let mut response = http::Response::new(Bytes::new());
            *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
            let response = response.into();
            Error::Refused { response }.is_transient()
        };
        for status in [408, 425, 429, 500, 502, 503, 504, 599] {
            assert!(refused(status), "{status}");
        }
        for status in [200, 301, 400, 401, 403, 404, 410, 426, 501, 505] {
            assert!(!refused(status), "{status}");
        }
    }

    #[test]
    fn a_close_code_heals_if_the_server_is_to_come_back() {
        let closed = |by, code: Option<u16>| {
            let reason = String::new();
            let frame = code.map(|code| CloseFrame { code, reason });
            let unsent = 0;
            Error::Closed(Close { by, frame, unsent }).is_transient()
        };
        for code in [1001, 1011, 1012, 1013, 1014] {
            assert!(closed(Side::Peer, Some(code)), "{code}");
            assert!(!closed(Side::Local, Some(code)), "{code}");
        }
        for code in [1000, 1002, 1003, 1007, 1008, 1009, 1010, 3000, 4001] {
            assert!(!closed(Side::Peer, Some(code)), "{code}");
        }
        assert!(!closed(Side::Peer, None));
    }

    #[test]
    fn put_errors_hand_the_item_back() {
        assert_eq!(PutError::Full(7).into_inner(), 7);
        assert_eq!(PutError::Closed(7).into_inner(), 7);
        assert!(PutError::Full(7).is_full() && !PutError::Full(7).is_closed());
    }
}
