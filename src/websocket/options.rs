//! Every setting, its unit and its default.

use std::time::{Duration, Instant};

use http::header::{self, HeaderName, HeaderValue};

use super::Websocket;
use crate::error::{Error, Result};
use crate::net::connect::parse_url;
use crate::net::request::Request;
use crate::pubsub::Queue;

/// The one place for every setting, used as [`std::fs::OpenOptions`] is: set, then
/// [`connect`](Self::connect) or [`accept`](Self::accept), as often as you like.
///
/// ```no_run
/// use std::time::Duration;
/// use rtcbot_websocket::{Options, Queue};
///
/// let ws = Options::new()
///     .json(false)
///     .connect_timeout(Duration::from_secs(3))
///     .receive_queue(Queue::Latest)
///     .connect("ws://robot.local:8080/ws")?;
/// # Ok::<(), rtcbot_websocket::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Options {
    pub(crate) json: bool,
    pub(crate) connect_timeout: Duration,
    pub(crate) close_timeout: Duration,
    pub(crate) linger: Duration,
    pub(crate) ping_interval: Option<Duration>,
    pub(crate) ping_timeout: Option<Duration>,
    pub(crate) max_message_size: usize,
    pub(crate) max_frame_size: usize,
    pub(crate) send_queue: usize,
    pub(crate) receive_queue: Queue,
    pub(crate) read_buffer: usize,
    pub(crate) nodelay: bool,
    pub(crate) paused: bool,
    headers: Vec<(String, String)>,
    pub(crate) subprotocols: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            json: true,
            connect_timeout: Duration::from_secs(10),
            close_timeout: Duration::from_secs(5),
            linger: Duration::from_secs(1),
            ping_interval: Some(Duration::from_secs(20)),
            ping_timeout: Some(Duration::from_secs(20)),
            max_message_size: 16 << 20,
            max_frame_size: 16 << 20,
            send_queue: 16 << 20,
            receive_queue: Queue::default(),
            read_buffer: 16 << 10,
            nodelay: true,
            paused: false,
            headers: Vec::new(),
            subprotocols: Vec::new(),
        }
    }
}

impl Options {
    /// All settings at their defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Connects to a server with these settings. Returns at once; see [`Websocket::connect`].
    ///
    /// # Errors
    ///
    /// [`Error::InvalidUrl`] for a URL, and [`Error::InvalidOption`] for a header or subprotocol,
    /// that cannot work. Whatever the network says comes later, to `wait_ready`, `get`, `error` and
    /// the like.
    pub fn connect(&self, url: impl AsRef<str>) -> Result<Websocket> {
        let url = parse_url(url.as_ref())?;
        let headers = self.checked_headers()?;
        Websocket::start_client(url, headers, self.clone())
    }

    /// Completes an incoming connection with these settings. Returns at once; see [`Websocket::accept`].
    pub fn accept(&self, request: Request) -> Websocket {
        Websocket::start_server(request, self.clone())
    }

    /// Two connected `Websocket`s in memory, both with these settings; see [`Websocket::pair`].
    pub fn pair(&self) -> (Websocket, Websocket) {
        Websocket::start_pair(self)
    }

    /// Whether messages are JSON, as RTCBot's `json` parameter says: see [`Message`](crate::Message).
    /// Defaults to `true`.
    pub fn json(&mut self, json: bool) -> &mut Self {
        self.json = json;
        self
    }

    /// How long name look-up, TCP connection and handshakes may take together. Defaults to 10 seconds.
    pub fn connect_timeout(&mut self, timeout: Duration) -> &mut Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long closing may take: sending what is queued, and the closing handshake. After that the
    /// connection is cut. Defaults to 5 seconds.
    pub fn close_timeout(&mut self, timeout: Duration) -> &mut Self {
        self.close_timeout = timeout;
        self
    }

    /// How long dropping the last handle waits for what is queued to leave and for the closing
    /// handshake. After that the connection is cut. Defaults to 1 second.
    pub fn linger(&mut self, linger: Duration) -> &mut Self {
        self.linger = linger;
        self
    }

    /// How often the peer is sent a ping; `None` or zero for never. Defaults to 20 seconds.
    pub fn ping_interval(&mut self, interval: impl Into<Option<Duration>>) -> &mut Self {
        self.ping_interval = interval.into().filter(|interval| !interval.is_zero());
        self
    }

    /// How long a peer may be silent after a ping, or take nothing of what is sent, before the
    /// connection fails with [`Error::PingTimeout`]; `None` or zero to wait for ever. Anything that
    /// comes is a sign of life; the pong may be behind it. Only time that is spent reading counts: a
    /// subscription that is full, and so pauses reading, is not held against the peer. (A peer may
    /// hold it against this side: no ping is answered meanwhile.) Defaults to 20 seconds.
    pub fn ping_timeout(&mut self, timeout: impl Into<Option<Duration>>) -> &mut Self {
        self.ping_timeout = timeout.into().filter(|timeout| !timeout.is_zero());
        self
    }

    /// The longest message that is received, in bytes; a longer one ends the connection with
    /// [`Error::MessageTooBig`] here and close code 1009 there. Defaults to 16 MiB.
    pub fn max_message_size(&mut self, bytes: usize) -> &mut Self {
        self.max_message_size = bytes;
        self
    }

    /// The longest frame that is received, in bytes; as `max_message_size`, for a message's parts.
    /// Defaults to 16 MiB.
    pub fn max_frame_size(&mut self, bytes: usize) -> &mut Self {
        self.max_frame_size = bytes;
        self
    }

    /// How many bytes may be queued for sending, counting each message's payload and 64 bytes more; past it `put_nowait` says
    /// [`Full`](crate::PutError::Full) and `put` waits. A single message may be larger, when nothing
    /// else is queued. Defaults to 16 MiB.
    pub fn send_queue(&mut self, bytes: usize) -> &mut Self {
        self.send_queue = bytes;
        self
    }

    /// The queue of subscriptions made by `subscribe` and `get`. Defaults to `Queue::Block(1024)`.
    pub fn receive_queue(&mut self, queue: Queue) -> &mut Self {
        self.receive_queue = queue;
        self
    }

    /// How many bytes are read from the socket at a time. Defaults to 16 KiB; at least 1 KiB.
    pub fn read_buffer(&mut self, bytes: usize) -> &mut Self {
        self.read_buffer = bytes.max(1 << 10);
        self
    }

    /// `TCP_NODELAY`: whether small messages are sent without waiting for more. Defaults to `true`.
    pub fn nodelay(&mut self, nodelay: bool) -> &mut Self {
        self.nodelay = nodelay;
        self
    }

    /// Whether messages are held back until [`Websocket::resume`], so that several consumers can be
    /// set up that must all see the first one. Reading pauses meanwhile. Defaults to `false`.
    pub fn paused(&mut self, paused: bool) -> &mut Self {
        self.paused = paused;
        self
    }

    /// A header for the client's handshake request, beside those of the handshake itself. Given twice,
    /// a name is sent twice. Defaults to none.
    pub fn header(&mut self, name: impl Into<String>, value: impl Into<String>) -> &mut Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// A subprotocol (RFC 6455, section 1.9), most wanted first. A client offers them; a server
    /// takes the first of its own that the client offers, or none. Which one it is,
    /// [`Websocket::subprotocol`] tells. Defaults to none.
    pub fn subprotocol(&mut self, name: impl Into<String>) -> &mut Self {
        self.subprotocols.push(name.into());
        self
    }

    /// The client's headers beyond those of the handshake itself.
    fn checked_headers(&self) -> Result<Vec<(HeaderName, HeaderValue)>> {
        let invalid = |setting, reason: String| Error::InvalidOption { setting, reason };
        let mut headers = Vec::new();
        for (name, value) in &self.headers {
            let bad = |why: String| invalid("header", format!("{name:?}: {why}"));
            let parsed = HeaderName::from_bytes(name.as_bytes()).map_err(|e| bad(e.to_string()))?;
            if is_of_the_handshake(&parsed) {
                return Err(bad("the handshake itself sets it".into()));
            }
            let value = HeaderValue::from_str(value).map_err(|e| bad(e.to_string()))?;
            headers.push((parsed, value));
        }
        if !self.subprotocols.is_empty() {
            for name in &self.subprotocols {
                // The tokens of HTTP, which header names are made of too.
                HeaderName::from_bytes(name.as_bytes()).map_err(|_| {
                    invalid("subprotocol", format!("{name:?} is not an HTTP token"))
                })?;
            }
            let all = HeaderValue::from_str(&self.subprotocols.join(", "))
                .map_err(|e| invalid("subprotocol", e.to_string()))?;
            headers.push((header::SEC_WEBSOCKET_PROTOCOL, all));
        }
        Ok(headers)
    }
}

/// The moment when a time that begins now is over, however long it is.
pub(crate) fn deadline_after(timeout: Duration) -> Instant {
    const AN_AGE: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    Instant::now() + timeout.min(AN_AGE)
}

fn is_of_the_handshake(name: &HeaderName) -> bool {
    [header::HOST, header::CONNECTION, header::UPGRADE].contains(name)
        || name.as_str().starts_with("sec-websocket-")
}
