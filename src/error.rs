//! The errors of this crate, and the Close frame as one of the reasons for an end.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::panics::Panicked;
use crate::shown::{MAX_LOCATION, one_line, quoted, shortened, shown_url};

/// The result of this crate's calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed, or why a connection ended.
///
/// An `Error` is [`Clone`], because every waiter, subscription and callback of a connection
/// receives the same reason. `Debug` writes the variant and the text, so a `main` that returns the
/// error prints `Error: Resolve(cannot resolve "robot.local": ...)`.
///
/// The text contains that of the cause, so [`source`](std::error::Error::source) returns `None`: a
/// program that prints the whole chain would print the cause twice. The fields `error` have the
/// cause itself.
///
/// # Examples
///
/// ```
/// use rtcbot_websocket::{Error, Websocket};
///
/// match Websocket::connect("htp://robot.local/") {
///     Err(Error::InvalidUrl { url, reason }) => println!("correct {url}: {reason}"),
///     Err(error) => println!("{error}"),
///     Ok(_) => unreachable!("`htp` is not a scheme for WebSockets"),
/// }
/// ```
#[derive(Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The URL cannot work on any network. Its host is missing, its port is out of range, or its
    /// scheme is not one of `ws`, `wss`, `http`, `https`, `ws+unix` and `wss+unix`. `connect`
    /// itself returns this error. Correct the URL.
    #[error("invalid URL {url:?}: {reason}")]
    InvalidUrl {
        /// The URL as it was given, without the part that may be a user and a password, without
        /// its query, and without what exceeds 100 characters.
        url: String,
        /// What is wrong with the URL.
        reason: String,
    },

    /// A setting has a value that cannot work, for example a header that HTTP does not allow or a
    /// close code that RFC 6455 reserves. Correct the setting.
    #[error("invalid {setting}: {reason}")]
    InvalidOption {
        /// The name of the setting.
        setting: &'static str,
        /// What is wrong with its value.
        reason: String,
    },

    /// The host name could not be resolved to an address, or the network interface in a link-local
    /// address does not exist.
    #[error("cannot resolve {host:?}: {error}")]
    Resolve {
        /// The host name, or the address with its interface.
        host: String,
        /// The resolver's error.
        error: Arc<io::Error>,
    },

    /// None of the host's addresses accepted the connection.
    #[error("cannot connect to {address}: {error}")]
    Connect {
        /// The address, or all addresses, separated by commas.
        address: String,
        /// The operating system's error for the last address.
        error: Arc<io::Error>,
    },

    /// The proxy could not connect to the server, or refused to.
    #[error("proxy {proxy}: {reason}")]
    Proxy {
        /// The proxy's URL, without user and password.
        proxy: String,
        /// What the proxy answered, or why it could not be used.
        reason: String,
        /// Whether a later attempt may succeed: the proxy could not be reached, or could not reach
        /// the server.
        transient: bool,
    },

    /// The TLS handshake failed.
    ///
    /// Either the server's certificate is not trusted ("unable to get local issuer certificate",
    /// "self-signed certificate"): see `Options::root_certificate_pem`. Or the certificate is for
    /// another host ("hostname mismatch", "IP address mismatch"). Or the two sides have no TLS
    /// version or cipher in common. Or the server does not speak TLS: use `ws://`.
    #[error("TLS with {peer}: {}", tls_reason(&**.error))]
    Tls {
        /// The host that this side connected to.
        peer: String,
        /// The TLS library's error.
        error: Arc<dyn std::error::Error + Send + Sync>,
    },

    /// The connection was not ready within `connect_timeout`.
    #[error("{target} was not ready within {after:?}: still waiting for {stage}")]
    ConnectTimeout {
        /// The URL or the address.
        target: String,
        /// The time allowed.
        after: Duration,
        /// The step that was not finished, for example "the server's handshake response".
        stage: &'static str,
    },

    /// The server answered the handshake with an HTTP status other than 101. The error's text
    /// quotes the target of a redirect, without its query. It quotes the beginning of another
    /// response's body if that is plain text, JSON, or has no content type.
    #[error(
        "the server refused the WebSocket: it answered {}{}",
        .response.status(),
        redirect_target(.response).unwrap_or_else(|| body_excerpt(.response))
    )]
    Refused {
        /// The response: status, headers and body. The body is at most 64 KiB long and ends where
        /// the server sent nothing for a second. A chunked body is decoded. The body of a redirect
        /// that is followed is not read.
        response: Arc<http::Response<Bytes>>,
    },

    /// The peer answered with something that is not a WebSocket handshake (RFC 6455, section 4). If
    /// it answered with TLS, use `wss://`.
    #[error("WebSocket handshake failed: {0}")]
    Handshake(String),

    /// The function given to [`Options::header_with`](crate::Options::header_with) failed.
    #[error("no value for the header {name:?}: {error}")]
    Header {
        /// The header's name.
        name: String,
        /// The error that the function returned.
        error: Arc<dyn std::error::Error + Send + Sync>,
    },

    /// The stream ended without a closing handshake, or the operating system reported an error. RFC
    /// 6455 calls this close code 1006.
    #[error("connection lost: {0}")]
    Lost(Arc<io::Error>),

    /// The peer violated the WebSocket protocol. This side closed the connection with code 1002, or
    /// with 1007 for text that is not UTF-8.
    ///
    /// Messages that were queued for sending before that are sent before the Close frame, as far as
    /// the peer takes them within half a second. If the client reconnects after this error, they
    /// are sent on the next connection.
    #[error("the peer broke the protocol: {reason} (closed with {code})")]
    Protocol {
        /// The close code that was sent to the peer.
        code: u16,
        /// What the peer did.
        reason: String,
    },

    /// The peer sent more than [`max_message_size`](crate::Options::max_message_size) allows. On a
    /// server, that is 1 MiB by default. This side closed the connection with code 1009 and named
    /// both sizes in the reason. The peer's error is [`Closed`](Self::Closed). Queued messages are
    /// sent as for [`Protocol`](Self::Protocol).
    #[error(
        "the peer sent a message of at least {size} bytes, more than the {limit} that this side's \
         `max_message_size` allows"
    )]
    MessageTooBig {
        /// The size in bytes that the peer announced, or that had arrived so far.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },

    /// The peer did not answer a ping within `ping_timeout`.
    #[error("the peer did not answer a ping within {after:?}")]
    PingTimeout {
        /// The time allowed.
        after: Duration,
    },

    /// No message arrived within [`receive_timeout`](crate::Options::receive_timeout).
    #[error("no message arrived within {after:?}")]
    ReceiveTimeout {
        /// The time allowed.
        after: Duration,
    },

    /// This program shut the connection down without a closing handshake, by
    /// [`abort`](crate::Websocket::abort) or
    /// [`reconnect_now`](crate::Websocket::reconnect_now).
    #[error("the connection was aborted by this side{}", not_sent(*.unsent))]
    Aborted {
        /// The number of accepted messages that were not sent.
        unsent: usize,
    },

    /// The closing handshake did not complete within `close_timeout`, and the peer had sent no
    /// Close frame by then. The connection was shut down.
    #[error(
        "the connection was shut down: closing took longer than {after:?}{}",
        not_sent(*.unsent)
    )]
    CloseTimeout {
        /// The time allowed.
        after: Duration,
        /// The number of accepted messages that were not sent.
        unsent: usize,
    },

    /// The connection was closed with a Close frame; no more messages will arrive.
    ///
    /// This is an [orderly](Self::is_orderly) end unless the peer's code reports an error, or
    /// messages of this side were not sent: see [`Close::unsent`].
    #[error("the connection is closed: {0}")]
    Closed(Close),

    /// Nothing more is sent or received.
    ///
    /// - From `get` and its variants: the producer has ended without another reason, or the
    ///   consumer was closed.
    /// - From [`Server::next_timeout`](crate::Server::next_timeout): the server was shut down.
    /// - From [`PutError::Closed`]: the receiver is closing or has ended.
    ///   [`Websocket::state`](crate::Websocket::state) returns why.
    #[error("it has ended: nothing more is sent or received")]
    Ended,

    /// The subscription was removed by `unsubscribe`.
    #[error("unsubscribed")]
    Unsubscribed,

    /// Too many pings are unanswered, so `ping` sent none. The connection is not affected.
    #[error("{unanswered} pings have not been answered yet")]
    TooManyPings {
        /// The number of unanswered pings.
        unanswered: usize,
    },

    /// The time limit of a `…_timeout` call has passed. The connection is not affected.
    #[error("timed out")]
    Timeout,

    /// `try_get` found no message. The connection is not affected.
    #[error("no message is waiting")]
    Empty,

    /// The queue is full: [`PutError::Full`], without the item. The connection is not affected.
    #[error("the queue is full")]
    Full,

    /// The call would wait for a message or for the connection's end on the thread that has to
    /// bring it about: in a function given to [`Options`](crate::Options). The requested operation
    /// has been started; only the wait was left out.
    #[error("this call cannot wait on the connection's own thread")]
    OwnThread,

    /// This process was forked from the one that made the connection, and has none of its threads.
    /// Use the connection in the parent, or make one in the child.
    #[error("the connection belongs to the parent of this forked process")]
    Forked,

    /// A value could not be serialised to JSON, or a text could not be read as the requested type.
    #[error("JSON: {}{}", json_reason(.error), in_excerpt(.excerpt))]
    Json {
        /// The reason, with its position in the text.
        error: Arc<serde_json::Error>,
        /// The first 100 characters of the text, in quotes and escaped. Empty if a value could not
        /// be serialised.
        excerpt: String,
    },

    /// The operating system refused to start a thread: one of the connection's own, or the first
    /// callback thread. As far as it can be found out, the text names the limit that was reached
    /// and how much of it is in use.
    #[error("cannot start a thread: {0}")]
    Thread(Arc<io::Error>),

    /// A thread of this crate panicked, or a [`Transport`](crate::Transport) did. This is a fault
    /// in this crate or in the transport.
    #[error("internal error: {0}")]
    Internal(String),
}

/// The error's text. OpenSSL puts the reason why a certificate is not valid in brackets at the end;
/// of such a text, only the reason is kept.
fn tls_reason(error: &(dyn std::error::Error + Send + Sync)) -> String {
    let text = error.to_string();
    let is_invalid = text.contains("certificate verify failed");
    match text
        .strip_suffix(')')
        .and_then(|text| text.rsplit_once('('))
    {
        Some((_, reason)) if is_invalid => format!("certificate verify failed: {reason}"),
        _ => text,
    }
}

/// The target of a redirect, and why it was not followed.
fn redirect_target(response: &http::Response<Bytes>) -> Option<String> {
    let location = response.headers().get(http::header::LOCATION)?;
    let location = String::from_utf8_lossy(location.as_bytes());
    let target = quoted(&shown_url(&location), MAX_LOCATION);
    response.status().is_redirection().then(|| {
        format!(" and redirects to {target} (`max_redirects` sets how many redirects are followed)")
    })
}

/// The first line of a plain-text body, or the whole of a JSON body: it often gives the reason. An
/// HTML page is left out.
fn body_excerpt(response: &http::Response<Bytes>) -> String {
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
    let excerpt = match kind {
        Some("text/plain") => first_line(&text),
        Some(kind) if kind == "application/json" || kind.ends_with("+json") => {
            text.split_whitespace().collect::<Vec<_>>().join(" ")
        }
        None if !text.trim_start().starts_with('<') => first_line(&text),
        _ => String::new(),
    };
    match excerpt.is_empty() {
        true => excerpt,
        false => format!(" ({})", quoted(&excerpt, 200)),
    }
}

fn first_line(text: &str) -> String {
    let line = text.trim().lines().next().unwrap_or_default();
    line.trim_end().to_owned()
}

/// The reason, shortened, and the position. The reason quotes values and names of the text, however
/// long they are.
fn json_reason(error: &serde_json::Error) -> String {
    let reason = one_line(&error.to_string());
    let position = format!(" at line {} column {}", error.line(), error.column());
    match reason.strip_suffix(&position) {
        Some(reason) => shortened(reason, 200) + &position,
        None => shortened(&reason, 200),
    }
}

fn in_excerpt(excerpt: &str) -> String {
    match excerpt {
        "" => String::new(),
        _ => format!(" in {excerpt}"),
    }
}

/// Writes the name of the variant and, in parentheses, the text of `Display` on one line.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.variant(), one_line(&self.to_string()))
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        let (error, excerpt) = (Arc::new(error), String::new());
        Error::Json { error, excerpt }
    }
}

/// Drops the item, so that `?` works in functions that return [`Result`]. `Full` becomes
/// [`Error::Full`], and `Closed` becomes [`Error::Ended`].
impl<T> From<PutError<T>> for Error {
    fn from(error: PutError<T>) -> Self {
        match error {
            PutError::Full(_) => Error::Full,
            PutError::Closed(_) => Error::Ended,
        }
    }
}

/// Returns the part of an error's text that counts messages.
fn not_sent(messages: usize) -> String {
    match messages {
        0 => String::new(),
        1 => "; 1 message was not sent".to_owned(),
        _ => format!("; {messages} messages were not sent"),
    }
}

impl Error {
    pub(crate) fn invalid_option(setting: &'static str, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Error::InvalidOption { setting, reason }
    }

    pub(crate) fn invalid_url(url: &str, reason: impl Into<String>) -> Self {
        Error::InvalidUrl {
            url: url.to_owned(),
            reason: reason.into(),
        }
    }

    pub(crate) fn lost(error: io::Error) -> Self {
        match Panicked::is_cause_of(&error) {
            true => Error::Internal(error.to_string()),
            false => Error::Lost(Arc::new(error)),
        }
    }

    fn variant(&self) -> &'static str {
        match self {
            Error::InvalidUrl { .. } => "InvalidUrl",
            Error::InvalidOption { .. } => "InvalidOption",
            Error::Resolve { .. } => "Resolve",
            Error::Connect { .. } => "Connect",
            Error::Proxy { .. } => "Proxy",
            Error::Tls { .. } => "Tls",
            Error::ConnectTimeout { .. } => "ConnectTimeout",
            Error::Refused { .. } => "Refused",
            Error::Handshake(_) => "Handshake",
            Error::Header { .. } => "Header",
            Error::Lost(_) => "Lost",
            Error::Protocol { .. } => "Protocol",
            Error::MessageTooBig { .. } => "MessageTooBig",
            Error::PingTimeout { .. } => "PingTimeout",
            Error::ReceiveTimeout { .. } => "ReceiveTimeout",
            Error::Aborted { .. } => "Aborted",
            Error::CloseTimeout { .. } => "CloseTimeout",
            Error::Closed(_) => "Closed",
            Error::Ended => "Ended",
            Error::Unsubscribed => "Unsubscribed",
            Error::TooManyPings { .. } => "TooManyPings",
            Error::Timeout => "Timeout",
            Error::Empty => "Empty",
            Error::Full => "Full",
            Error::OwnThread => "OwnThread",
            Error::Forked => "Forked",
            Error::Json { .. } => "Json",
            Error::Thread(_) => "Thread",
            Error::Internal(_) => "Internal",
        }
    }

    /// Returns whether another attempt to connect may succeed.
    ///
    /// A client that [reconnects](crate::Options::reconnect) tries again after a transient error
    /// and ends after any other.
    ///
    /// Transient are:
    ///
    /// - The server cannot be reached, or its name cannot be resolved.
    /// - Connecting, a ping or closing timed out, or no message arrived in time.
    /// - The connection was lost without a closing handshake.
    /// - The server answered with status 408, 425, 429, or any 5xx but 501 and 505.
    /// - The peer closed with code 1001 (going away), 1011 (internal error), 1012 (service
    ///   restart), 1013 (try again later) or 1014 (bad gateway).
    /// - The proxy cannot be reached, or cannot reach the server.
    /// - The function of `header_with` failed.
    /// - The system could not start a thread.
    ///
    /// All other errors are permanent, among them:
    ///
    /// - The URL or a setting is invalid.
    /// - The certificate is not trusted, or TLS failed otherwise.
    /// - The peer violated HTTP or the WebSocket protocol.
    /// - The server answered with another status, such as 401, 403 or 404.
    /// - The peer closed with another code or with none, or this side closed.
    /// - The proxy refused.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::Error;
    ///
    /// assert!(Error::PingTimeout { after: std::time::Duration::from_secs(20) }.is_transient());
    /// assert!(!Error::Handshake("no Upgrade header".into()).is_transient());
    /// ```
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Resolve { .. }
            | Error::Connect { .. }
            | Error::ConnectTimeout { .. }
            | Error::Header { .. }
            | Error::Lost(_)
            | Error::PingTimeout { .. }
            | Error::ReceiveTimeout { .. }
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

    /// Returns whether this is the orderly end of a connection and not a failure.
    ///
    /// It is [`Closed`](Self::Closed) with every accepted message sent, and if the peer closed, its
    /// code was 1000 (normal closure) or 1001 (going away), or it sent none.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::Websocket;
    ///
    /// let (robot, operator) = Websocket::pair();
    /// robot.close()?;
    /// assert!(operator.get().unwrap_err().is_orderly());
    /// # Ok::<(), rtcbot_websocket::Error>(())
    /// ```
    #[must_use]
    pub fn is_orderly(&self) -> bool {
        matches!(self, Error::Closed(close) if close.unsent == 0 && close.is_normal())
    }

    /// Returns the error, unless it is an orderly end.
    pub(crate) fn failure(&self) -> Option<Error> {
        (!self.is_orderly()).then(|| self.clone())
    }
}

/// One side of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// This program.
    Local,
    /// The program at the other end.
    Peer,
}

/// How a connection was closed: by which side, and with which code and reason.
///
/// # Examples
///
/// ```
/// use rtcbot_websocket::{Error, Side, Websocket};
///
/// let (robot, operator) = Websocket::pair();
/// robot.close_with(4001, "battery empty")?;
/// let Error::Closed(close) = operator.get().unwrap_err() else { panic!() };
/// assert_eq!(close.by, Side::Peer);
/// assert_eq!(close.frame.unwrap().code, 4001);
/// # Ok::<(), rtcbot_websocket::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Close {
    /// The side that sent the first Close frame.
    pub by: Side,
    /// The content of that frame. `None` if the frame had no code, or if the connection was closed
    /// before it was ready.
    pub frame: Option<CloseFrame>,
    /// The number of accepted messages that were not sent, because the peer had closed the
    /// connection and no longer read.
    pub unsent: usize,
}

impl Close {
    /// Returns the close of a peer that has sent this frame.
    pub(crate) fn by_peer(frame: Option<CloseFrame>) -> Self {
        Close {
            by: Side::Peer,
            frame,
            unsent: 0,
        }
    }

    /// Returns whether the connection was closed without an error: by this side, or by the peer
    /// with code 1000 or 1001, or without a code.
    fn is_normal(&self) -> bool {
        let code = self.frame.as_ref().map(|frame| frame.code);
        self.by == Side::Local || matches!(code, None | Some(1000 | 1001))
    }
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
        f.write_str(&not_sent(self.unsent))
    }
}

/// The code and the reason of a Close frame (RFC 6455, section 5.5.1).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CloseFrame {
    /// The close code (RFC 6455, section 7.4). 1000 is a normal closure, 1001 is going away, and
    /// 4000 to 4999 are for applications.
    pub code: u16,
    /// The reason: at most 123 bytes of UTF-8, possibly empty.
    pub reason: String,
}

impl CloseFrame {
    pub(crate) const NORMAL: Self = Self::without_reason(1000);
    /// The server shuts down (RFC 6455, section 7.4.1).
    pub(crate) const GOING_AWAY: Self = Self::without_reason(1001);
    /// The program that used the connection has failed (RFC 6455, section 7.4.1).
    pub(crate) const INTERNAL_ERROR: Self = Self::without_reason(1011);

    const fn without_reason(code: u16) -> Self {
        let reason = String::new();
        CloseFrame { code, reason }
    }

    /// Returns whether an endpoint may send this code (RFC 6455, section 7.4, and the codes
    /// registered since).
    pub(crate) fn may_be_sent(code: u16) -> bool {
        matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
    }

    /// Returns a frame that this side may send.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] if RFC 6455 does not let an endpoint send the code (below 1000,
    /// 1004 to 1006, 1015 to 2999, 5000 and above), or if the reason is longer than 123 bytes.
    pub(crate) fn checked(code: u16, reason: &str) -> Result<Self> {
        let length = reason.len();
        let wrong = if !Self::may_be_sent(code) {
            format!("RFC 6455 does not let an endpoint send code {code}")
        } else if length > 123 {
            format!("a reason has at most 123 bytes, this one has {length}")
        } else {
            let reason = reason.to_owned();
            return Ok(CloseFrame { code, reason });
        };
        Err(Error::invalid_option("close frame", wrong))
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

/// Why an item was not accepted. It holds the item, so that nothing is lost.
///
/// A put with a timeout also returns `Full` when its time is over, as Python's `queue.Queue` does.
///
/// In functions that return [`Result`], `?` converts it to an [`Error`] and drops the item.
///
/// # Examples
///
/// ```
/// use rtcbot_websocket::{PutError, Websocket};
///
/// let (robot, _operator) = Websocket::pair();
/// match robot.put_nowait("forward") {
///     Ok(()) => {}
///     Err(PutError::Full(order)) => println!("try {order} again later"),
///     Err(PutError::Closed(order)) => println!("{order} cannot be sent any more"),
/// }
/// # Ok::<(), rtcbot_websocket::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PutError<T> {
    /// The queue is full.
    #[error("not accepted: the queue is full")]
    Full(T),
    /// No more items are accepted: the connection is closing or has ended.
    #[error(
        "not accepted: the receiver is closing or has ended \
         (`Websocket::state` tells why)"
    )]
    Closed(T),
}

impl<T> PutError<T> {
    /// Returns the item that was not accepted.
    #[must_use]
    pub fn into_inner(self) -> T {
        match self {
            PutError::Full(item) | PutError::Closed(item) => item,
        }
    }

    /// Returns whether the queue was full, and not closed.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, PutError::Full(_))
    }
}

/// Writes the name of the variant and, in parentheses, the text of `Display`. The item is not
/// written.
impl<T> fmt::Debug for PutError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let variant = match self {
            PutError::Full(_) => "Full",
            PutError::Closed(_) => "Closed",
        };
        write!(f, "{variant}({self})")
    }
}

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
    fn a_status_is_transient_if_it_describes_a_temporary_condition() {
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
    fn a_close_code_is_transient_if_the_server_may_return() {
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

    /// Returns an error of each variant. Their texts have line breaks where a text comes from
    /// elsewhere.
    fn of_each_variant() -> Vec<Error> {
        let io = || Arc::new(io::Error::other("no\nroute"));
        let foreign = || Arc::from(Box::<dyn std::error::Error + Send + Sync>::from("a\r\nb"));
        let (name, reason) = ("ws://x/".to_owned(), "wrong\nline".to_owned());
        let after = Duration::from_secs(5);
        let response = http::Response::builder().header("Set-Cookie", "secret");
        let response = response.status(404).body("gone\nsecret".into()).unwrap();
        let frame = CloseFrame {
            code: 4001,
            reason: "low\nbattery".into(),
        };
        vec![
            Error::invalid_url(&name, &*reason),
            Error::invalid_option("header", &*reason),
            Error::Resolve {
                host: "x\ny".into(),
                error: io(),
            },
            Error::Connect {
                address: "127.0.0.1:1".into(),
                error: io(),
            },
            Error::Proxy {
                proxy: name.clone(),
                reason: reason.clone(),
                transient: true,
            },
            Error::Tls {
                peer: "x".into(),
                error: foreign(),
            },
            Error::ConnectTimeout {
                target: name,
                after,
                stage: "the TLS handshake",
            },
            Error::Refused {
                response: response.into(),
            },
            Error::Handshake(reason.clone()),
            Error::Header {
                name: "X-Token".into(),
                error: foreign(),
            },
            Error::Lost(io()),
            Error::Protocol {
                code: 1002,
                reason: reason.clone(),
            },
            Error::MessageTooBig {
                size: 2000,
                limit: 1000,
            },
            Error::PingTimeout { after },
            Error::ReceiveTimeout { after },
            Error::Aborted { unsent: 7 },
            Error::CloseTimeout { after, unsent: 7 },
            Error::Closed(Close {
                by: Side::Peer,
                frame: Some(frame),
                unsent: 1,
            }),
            Error::Ended,
            Error::Unsubscribed,
            Error::TooManyPings { unanswered: 64 },
            Error::Timeout,
            Error::Empty,
            Error::Full,
            Error::OwnThread,
            Error::Forked,
            serde_json::from_str::<u8>("true").unwrap_err().into(),
            Error::Thread(io()),
            Error::Internal(reason),
        ]
    }

    #[test]
    fn debug_writes_the_variant_and_the_text_of_display_on_one_line() {
        let mut names = std::collections::HashSet::new();
        for error in of_each_variant() {
            let debug = format!("{error:?}");
            assert_eq!(format!("{error:#?}"), debug);
            assert!(!debug.contains(char::is_control), "{debug}");
            assert!(!debug.contains("secret"), "{debug}");
            let (name, text) = debug.split_once('(').unwrap();
            assert!(names.insert(name.to_owned()), "{name}");
            assert_eq!(text, one_line(&error.to_string()) + ")");
        }
        let error = io::Error::from_raw_os_error(111);
        let address = "127.0.0.1:80".to_owned();
        let error = Error::Connect {
            address,
            error: Arc::new(error),
        };
        assert_eq!(format!("{error:?}"), format!("Connect({error})"));
    }

    #[test]
    fn debug_of_a_put_error_shows_no_item() {
        let texts = [PutError::Full("secret"), PutError::Closed("secret")]
            .map(|error| (format!("{error:?}"), error.to_string()));
        assert_eq!(texts[0].0, format!("Full({})", texts[0].1));
        assert_eq!(texts[1].0, format!("Closed({})", texts[1].1));
        assert!(!texts[0].0.contains("secret") && !texts[1].0.contains("secret"));
    }

    #[test]
    fn the_text_has_the_cause_and_the_chain_does_not_repeat_it() {
        let lost = Error::lost(io::Error::other("the cable broke"));
        let json: Error = serde_json::from_str::<u8>("x").unwrap_err().into();
        assert!(lost.to_string().contains("the cable broke"));
        for error in [lost, json] {
            assert!(std::error::Error::source(&error).is_none(), "{error}");
        }
    }

    #[test]
    fn put_errors_become_errors() {
        fn put(error: PutError<i32>) -> Result<()> {
            Err(error)?
        }
        assert!(matches!(put(PutError::Full(7)), Err(Error::Full)));
        assert!(matches!(put(PutError::Closed(7)), Err(Error::Ended)));
    }

    #[test]
    fn put_errors_return_the_item() {
        assert_eq!(PutError::Full(7).into_inner(), 7);
        assert_eq!(PutError::Closed(7).into_inner(), 7);
        assert!(PutError::Full(7).is_full() && !PutError::Closed(7).is_full());
    }
}
