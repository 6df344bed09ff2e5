//! All settings, with their units and defaults.

use std::sync::Arc;
use std::time::Duration;

use http::header::{self, HeaderName, HeaderValue};

use crate::backoff::Backoff;
use crate::error::{Error, Result};
use crate::hidden::Hidden;
use crate::hooks::Hooks;
use crate::message::Message;
use crate::net::connect_request::{ConnectRequest, HeaderSource};
use crate::net::credentials::Credentials;
use crate::net::deflate::Deflate;
use crate::net::origin::Origins;
use crate::net::proxy::Proxy;
use crate::net::target::Target;
#[cfg(feature = "native-tls")]
use crate::net::tls_settings::TlsSettings;
use crate::panics::Guarded;
use crate::pubsub::Queue;

/// The default maximum size of a received message: for a client, and for a server.
const LONGEST_MESSAGE: usize = 16 << 20;
const SERVERS_MESSAGE: usize = 1 << 20;

/// The `User-Agent` header of a client that has no other.
const USER_AGENT: &str = concat!("rtcbot-websocket/", env!("CARGO_PKG_VERSION"));

/// The minimum size of a stack. A peer decides how deep its JSON is nested, up to the 127 levels
/// that serde_json reads. Without optimisation, these take more than 128 KiB.
const SMALLEST_STACK: usize = 256 << 10;

/// The settings of a [`Websocket`](crate::Websocket).
///
/// Chain the settings, then call [`connect`](Self::connect) or [`accept`](Self::accept), any number
/// of times.
///
/// # Examples
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
///
/// let plain = Options::new().json(false); // to use several times
/// let other = plain.connect("ws://other.local:8080/ws")?;
/// # Ok::<(), rtcbot_websocket::Error>(())
/// ```
#[must_use = "settings have no effect until a connection is made with them"]
#[derive(Debug, Clone)]
pub struct Options {
    pub(crate) json: bool,
    pub(crate) connect_timeout: Duration,
    pub(crate) close_timeout: Duration,
    pub(crate) linger: Duration,
    pub(crate) ping_interval: Option<Duration>,
    pub(crate) ping_timeout: Option<Duration>,
    max_message_size: Option<usize>,
    pub(crate) send_queue: usize,
    /// The maximum payload of a frame, at least 1.
    pub(crate) fragment_size: usize,
    pub(crate) receive_queue: Queue,
    pub(crate) receive_queue_bytes: usize,
    /// How many bytes are read from the socket at a time. Fuzz targets set a smaller number.
    pub(crate) read_buffer: usize,
    pub(crate) thread_stack_size: Option<usize>,
    pub(crate) paused: bool,
    pub(crate) reconnect: Option<Backoff>,
    pub(crate) receive_timeout: Option<Duration>,
    pub(crate) hooks: Hooks,
    headers: Vec<(String, Hidden<String>)>,
    renewed_headers: Vec<(String, Hidden<HeaderSource>)>,
    /// A subprotocol may be a token, because browsers can send no other header.
    pub(crate) subprotocols: Hidden<Vec<String>>,
    basic_auth: Option<Hidden<Credentials>>,
    pub(crate) max_redirects: usize,
    proxy: Option<Hidden<String>>,
    proxy_from_env: bool,
    pub(crate) origins: Origins,
    pub(crate) deflate: Option<Deflate>,
    #[cfg(feature = "native-tls")]
    pub(crate) tls: TlsSettings,
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
            max_message_size: None,
            send_queue: 16 << 20,
            fragment_size: 64 << 10,
            receive_queue: Queue::default(),
            receive_queue_bytes: 16 << 20,
            read_buffer: 16 << 10,
            thread_stack_size: None,
            paused: false,
            reconnect: None,
            receive_timeout: None,
            hooks: Hooks::default(),
            headers: Vec::new(),
            renewed_headers: Vec::new(),
            subprotocols: Hidden::default(),
            basic_auth: None,
            max_redirects: 0,
            proxy: None,
            proxy_from_env: false,
            origins: Origins::default(),
            deflate: None,
            #[cfg(feature = "native-tls")]
            tls: TlsSettings::default(),
        }
    }
}

impl Options {
    /// Returns the default settings.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns what a client keeps of its settings: all but the functions that compute headers.
    /// These belong to its [`ConnectRequest`], since one may own the `Websocket` that keeps the
    /// settings.
    pub(crate) fn for_client(&self) -> Options {
        Options {
            renewed_headers: Vec::new(),
            ..self.clone()
        }
    }

    /// Returns what a connection that was accepted keeps of its settings.
    pub(crate) fn for_server(&self) -> Options {
        Options {
            max_message_size: Some(self.max_message_size.unwrap_or(SERVERS_MESSAGE)),
            ..self.for_pair()
        }
    }

    /// Returns what a connection in memory keeps of its settings.
    pub(crate) fn for_pair(&self) -> Options {
        Options {
            reconnect: None,
            ..self.for_client()
        }
    }

    /// Checks the settings of a client.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    pub(crate) fn connect_request(&self, url: &str) -> Result<ConnectRequest> {
        let target = Target::parse(url)?;
        #[cfg(feature = "native-tls")]
        self.tls.certificates()?;
        self.check_deflate()?;
        let proxy = self.proxy.as_ref().map(|Hidden(url)| Proxy::parse(url));
        match &self.reconnect {
            Some(backoff) => backoff.check()?,
            None if self.hooks.decides_to_reconnect() => {
                return Err(Error::invalid_option(
                    "reconnect_if",
                    "`reconnect` is not set",
                ));
            }
            None => {}
        }
        let request = ConnectRequest {
            target,
            headers: self.request_headers()?,
            renewed: self.renewed_headers()?,
            proxy: proxy.transpose()?,
            proxy_from_env: self.proxy_from_env,
        };
        let basic_auth = self.basic_auth.as_ref();
        request.checked(basic_auth.map(|Hidden(credentials)| credentials.clone()))
    }

    /// Sets whether messages are JSON, as RTCBot's parameter `json` does.
    ///
    /// [`Message`](crate::Message) describes both modes. [`pair`](Self::pair) has an example.
    ///
    /// Defaults to `true`.
    pub fn json(mut self, json: bool) -> Self {
        self.json = json;
        self
    }

    /// Sets the time limit for connecting.
    ///
    /// It covers name resolution, the TCP connection, the proxy, TLS and the handshake together. At
    /// the limit, the attempt fails with [`Error::ConnectTimeout`].
    ///
    /// Defaults to 10 seconds.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Error, Options};
    /// use std::time::Duration;
    ///
    /// let silent = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// let url = format!("ws://{}/", silent.local_addr()?);
    /// let ws = Options::new().connect_timeout(Duration::from_millis(50)).connect(url)?;
    /// assert!(matches!(ws.wait_ready(), Err(Error::ConnectTimeout { .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "handshake_timeout")]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets the time limit for closing.
    ///
    /// It covers sending the queued messages and the closing handshake. At the limit, the
    /// connection is shut down.
    ///
    /// Defaults to 5 seconds.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::Options;
    /// use std::time::Duration;
    ///
    /// let (robot, operator) = Options::new().close_timeout(Duration::from_secs(20)).pair();
    /// robot.put_nowait("sent before the connection closes")?;
    /// robot.close()?;
    /// assert!(operator.get().is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn close_timeout(mut self, timeout: Duration) -> Self {
        self.close_timeout = timeout;
        self
    }

    /// Sets how long dropping the last handle waits until the queued messages are written.
    ///
    /// At the limit, the connection is shut down, unless it was closed before, as by
    /// [`close_nowait`](crate::Websocket::close_nowait). The rest of the closing handshake is not
    /// waited for: it takes at most [`close_timeout`](Self::close_timeout).
    ///
    /// Defaults to 1 second.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::Options;
    /// use std::time::Duration;
    ///
    /// let (robot, operator) = Options::new().linger(Duration::from_secs(20)).pair();
    /// robot.put_nowait("sent before the connection closes")?;
    /// drop(robot);
    /// assert!(operator.get().is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }

    /// Sets how often the peer is sent a ping, whatever else is sent.
    ///
    /// `None` and zero disable pings. A ping keeps network devices from dropping an idle
    /// connection. Its pong shows that the peer is alive and has received the bytes before the ping
    /// ([`Stats::unconfirmed`](crate::Stats::unconfirmed)), and measures the round trip
    /// ([`Stats::latency`](crate::Stats::latency)).
    ///
    /// Defaults to 20 seconds.
    ///
    /// # Examples
    ///
    /// For a robot that is being driven, detect a lost connection within two seconds:
    ///
    /// ```
    /// use rtcbot_websocket::Options;
    /// use std::time::Duration;
    ///
    /// let (robot, operator) = Options::new()
    ///     .ping_interval(Duration::from_millis(500))
    ///     .ping_timeout(Duration::from_millis(1500))
    ///     .pair();
    /// # drop((robot, operator));
    /// ```
    #[doc(alias = "heartbeat")]
    #[doc(alias = "keepalive")]
    pub fn ping_interval(mut self, interval: impl Into<Option<Duration>>) -> Self {
        self.ping_interval = interval.into().filter(|interval| !interval.is_zero());
        self
    }

    /// Sets how long a peer may be silent after a ping, or accept no bytes, before the connection
    /// fails with [`Error::PingTimeout`].
    ///
    /// `None` and zero disable the limit. Any byte from the peer ends its silence, because the pong
    /// may follow other messages. Only time spent reading counts: if a full subscription pauses
    /// reading, the peer is not blamed. (This side answers no pings meanwhile, and the peer may
    /// blame it.)
    ///
    /// A peer that vanishes is detected after `ping_interval` and `ping_timeout` together: 40
    /// seconds by default. If it vanishes while it accepts no bytes, this takes up to a sixteenth
    /// of that time longer. Without pings, it is not detected as long as nothing is sent.
    ///
    /// A peer that accepts a few bytes now and then is not disconnected, however slowly it reads.
    /// [`send_queue`](Self::send_queue) limits its cost.
    ///
    /// Defaults to 20 seconds. [`ping_interval`](Self::ping_interval) has an example.
    pub fn ping_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.ping_timeout = timeout.into().filter(|timeout| !timeout.is_zero());
        self
    }

    /// Sets the maximum size of a received message, in bytes.
    ///
    /// A longer message ends the connection with [`Error::MessageTooBig`]. The peer receives close
    /// code 1009, with the limit in the reason, and the size that the message has so far. A message
    /// takes memory as it arrives, not by the length in the head of its frame. It is delivered when
    /// all of it has arrived; no part is delivered before.
    ///
    /// Defaults to 16 MiB for clients and for [`pair`](Self::pair), and to **1 MiB for servers**
    /// ([`accept`](Self::accept)), because strangers may connect to a server.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Error, Options};
    ///
    /// let (robot, operator) = Options::new().max_message_size(10).pair();
    /// operator.put_nowait("more than ten bytes")?;
    /// assert!(matches!(robot.get(), Err(Error::MessageTooBig { limit: 10, .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "max_payload")]
    #[doc(alias = "max_frame_size")]
    pub fn max_message_size(mut self, bytes: usize) -> Self {
        self.max_message_size = Some(bytes);
        self
    }

    /// Returns the maximum size of a received message.
    pub(crate) fn longest_message(&self) -> usize {
        self.max_message_size.unwrap_or(LONGEST_MESSAGE)
    }

    /// Sets the maximum number of bytes that are queued for sending.
    ///
    /// Each message counts with its payload (JSON as text) and 64 bytes more. At the limit,
    /// `put_nowait` returns [`Full`](crate::PutError::Full), and `put` waits. A single message may
    /// be larger if nothing else is queued.
    ///
    /// A slow peer can hold that much for as long as it likes: that may be hours of short messages,
    /// and it receives all of them later. If only the newest message of a kind matters, use
    /// [`put_latest`](crate::Websocket::put_latest). If that is too slow for your
    /// program, close the connection when [`put_timeout`](crate::Websocket::put_timeout) fails,
    /// when [`broadcast`](crate::ServerHandle::broadcast) returns it, or when
    /// [`stats().send_queue_bytes`](crate::Stats::send_queue_bytes) stays high.
    ///
    /// Defaults to 16 MiB.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::Options;
    ///
    /// // With `paused`, the peer reads nothing.
    /// let (robot, _operator) = Options::new().send_queue(1000).paused(true).pair();
    /// let error = loop {
    ///     if let Err(error) = robot.put_nowait(vec![0u8; 900]) {
    ///         break error;
    ///     }
    /// };
    /// assert!(error.is_full());
    /// ```
    #[doc(alias = "max_write_buffer_size")]
    pub fn send_queue(mut self, bytes: usize) -> Self {
        self.send_queue = bytes;
        self
    }

    /// Sets the maximum payload of a frame, in bytes. A longer message is sent in several frames.
    ///
    /// The peer receives it as one message (RFC 6455, section 5.4), and so does this crate. Between
    /// two of its frames, pings, pongs and the Close frame are sent. So the answer to a ping does
    /// not wait until a message of 16 MiB has been sent, and a peer with a short ping timeout does
    /// not give up. No other message is sent between the frames, because the RFC forbids that.
    ///
    /// About this number of bytes is also passed to the system at a time, if several messages are
    /// queued. A smaller size shortens the wait on a slow link: at 1 MB/s, 64 KiB take 66 ms. It
    /// takes more system calls. What the system has accepted and not sent yet is ahead of a ping
    /// with every size. On Linux, `sysctl net.ipv4.tcp_notsent_lowat=131072` limits that for all
    /// programs: at 1 MB/s, a pong arrived after 0.24 s instead of 0.86 s.
    ///
    /// A peer limits the size of the whole message. See
    /// [`max_message_size`](Self::max_message_size), which is 1 MiB for servers by default.
    ///
    /// 0 sends every message in one frame, for a peer that does not accept several.
    ///
    /// Defaults to 64 KiB.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::Options;
    ///
    /// let (robot, operator) = Options::new().fragment_size(1 << 10).pair();
    /// let image = vec![0u8; 100_000];
    /// robot.put_nowait(image.clone())?; // is sent in 98 frames
    /// assert_eq!(operator.get()?.as_bytes(), Some(&image[..]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn fragment_size(mut self, bytes: usize) -> Self {
        self.fragment_size = if bytes == 0 { usize::MAX } else { bytes };
        self
    }

    /// Sets the kind of queue for the subscriptions of `subscribe` and `get`.
    ///
    /// Defaults to `Queue::Block(1024)`.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Options, Queue};
    ///
    /// let (robot, operator) = Options::new().receive_queue(Queue::Latest).pair();
    /// let orders = robot.subscribe(); // keeps only the newest order
    /// operator.put_nowait("forward")?;
    /// assert_eq!(orders.get()?, "forward");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn receive_queue(mut self, queue: Queue) -> Self {
        self.receive_queue = queue;
        self
    }

    /// Sets the maximum number of bytes in one queue of received messages.
    ///
    /// Each message counts with its payload and 64 bytes more. The limit applies to each
    /// subscription of kind [`Queue::Block`] or [`Queue::DropOldest`], to all callbacks together,
    /// and to each [`subscribe_concurrent`](crate::Websocket::subscribe_concurrent), in addition to
    /// their limit of messages. At the limit, a `DropOldest` queue drops its oldest messages; for
    /// the others, reading pauses until a message is taken. A single message may be larger if the
    /// queue is empty.
    ///
    /// While a subscription holds a message that is longer than an equal share (16 KiB with the
    /// default of 1024 messages), shorter messages in the same queue count as that share.
    ///
    /// The limits of callbacks do not apply while a callback waits for its own connection, in
    /// `get`, `wait_closed` or a similar method, because what it waits for may come after the
    /// limit. So a callback that waits long lets a peer use any amount of memory. Pass a short
    /// timeout.
    ///
    /// Defaults to 16 MiB.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::Options;
    ///
    /// // For a server with many clients that send short messages.
    /// let options = Options::new().receive_queue_bytes(64 << 10).max_message_size(1 << 10);
    /// ```
    pub fn receive_queue_bytes(mut self, bytes: usize) -> Self {
        self.receive_queue_bytes = bytes;
        self
    }

    /// Sets the stack size of the connection's threads, in bytes, at least 256 KiB.
    ///
    /// These are `ws-read`, `ws-write`, `ws-dispatch`, `ws-worker` and `ws-forward`; see the [list
    /// of threads](crate#threads). A callback that recurses deeply needs more than the default. A
    /// smaller stack saves address space and page tables. **A thread that needs more than its stack
    /// ends the process**, so test your callbacks with a smaller one. With 256 KiB, the JSON that
    /// serde_json nests deepest can still be read. If the system has no space for the stack, the
    /// connection fails with [`Error::Thread`].
    ///
    /// Defaults to the size that [`std::thread`] uses: 2 MiB, or the value of the environment
    /// variable `RUST_MIN_STACK`.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::Options;
    ///
    /// let (robot, operator) = Options::new().thread_stack_size(8 << 20).pair();
    /// robot.subscribe_callback(|order| println!("received {order}")); // has 8 MiB of stack
    /// # drop(operator);
    /// ```
    pub fn thread_stack_size(mut self, bytes: usize) -> Self {
        self.thread_stack_size = Some(bytes.max(SMALLEST_STACK));
        self
    }

    /// Sets whether messages are held back until [`Websocket::resume`](crate::Websocket::resume).
    ///
    /// Reading pauses meanwhile, so that several consumers can be set up that must all receive the
    /// first message.
    ///
    /// Defaults to `false`.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::Options;
    ///
    /// let (robot, operator) = Options::new().paused(true).pair();
    /// operator.put_nowait("forward")?;
    /// let motors = robot.subscribe();
    /// let recorder = robot.subscribe();
    /// robot.resume();
    /// assert_eq!(motors.get()?, recorder.get()?);
    /// # operator.resume();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn paused(mut self, paused: bool) -> Self {
        self.paused = paused;
        self
    }

    /// Adds a header to the handshake: to the request of a client, or to the response of a server.
    ///
    /// A name that is added twice is sent twice. The value appears in no `Debug` output. Except for
    /// `Origin` and `User-Agent`, it is not sent to [another host after a
    /// redirect](Self::max_redirects).
    ///
    /// Defaults to no additional headers. A client sends the `User-Agent` `rtcbot-websocket/` and
    /// its version unless another one is added. With an empty one, it sends none.
    ///
    /// # Errors
    ///
    /// If HTTP does not allow the header, or the handshake itself sets it,
    /// [`connect`](Self::connect) returns [`Error::InvalidOption`]. A server responds with status
    /// 500, and the `Websocket` ends with that error.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Error, Options, Server};
    ///
    /// let mut server = Server::bind("127.0.0.1:0")?;
    /// let options = Options::new().header("User-Agent", "robot/7");
    /// let ws = options.connect(server.url())?;
    /// assert_eq!(server.next().unwrap().header("User-Agent"), Some("robot/7"));
    ///
    /// let options = options.header("Upgrade", "websocket"); // belongs to the handshake
    /// let result = options.connect(server.url());
    /// assert!(matches!(result, Err(Error::InvalidOption { setting: "header", .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "origin")]
    #[doc(alias = "user_agent")]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), Hidden(value.into())));
        self
    }

    /// Adds a header to a client's handshake whose value a function returns for each attempt to
    /// connect, for example a token that expires.
    ///
    /// It replaces a header of the same name. As with [`header`](Self::header), the value is sent
    /// to the URL's host only. If the function returns an error, the attempt fails with
    /// [`Error::Header`]. By default, a server that answers 401 or 403 ends the `Websocket`, also
    /// with [`reconnect`](Self::reconnect): return a token that stays valid for a while.
    ///
    /// The function is called on the reader thread, before
    /// [`connect_timeout`](Self::connect_timeout) starts. The function cannot be interrupted; if it
    /// blocks, `close` returns [`Error::Timeout`] a second after
    /// [`close_timeout`](Self::close_timeout) without waiting for it. If it captures its own
    /// `Websocket`, the connection stays open until a side closes it; capture a
    /// [`WeakWebsocket`](crate::WeakWebsocket) instead.
    ///
    /// Defaults to none.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use rtcbot_websocket::{Backoff, Options};
    ///
    /// fn token() -> std::io::Result<String> {
    ///     std::fs::read_to_string("/run/token")
    /// }
    ///
    /// let ws = Options::new()
    ///     .header_with("Authorization", || Ok(format!("Bearer {}", token()?.trim())))
    ///     .reconnect(Backoff::new())
    ///     .connect("wss://robot.local/drive")?;
    /// # Ok::<(), rtcbot_websocket::Error>(())
    /// ```
    pub fn header_with(
        mut self,
        name: impl Into<String>,
        value: impl Fn() -> Result<String, Box<dyn std::error::Error + Send + Sync>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        let value = Arc::new(Guarded::new(Box::new(value) as Box<_>));
        self.renewed_headers.push((name.into(), Hidden(value)));
        self
    }

    /// Sets which ends of a connection a client connects again after, in place of the [transient
    /// errors](Error::is_transient). Needs [`reconnect`](Self::reconnect), and takes precedence
    /// over [`Backoff::until_closed`].
    ///
    /// `f` is called with the reason each time a connection ends or an attempt fails, unless this
    /// program has closed. It is called on the reader thread, and the next attempt waits for it. If
    /// it panics, transient errors count.
    ///
    /// Until `f` has decided, messages are accepted and queued, also after the peer's Close frame.
    /// If there is no other connection, they are not sent, and counted in
    /// [`stats().unsent`](crate::Stats::unsent).
    ///
    /// To connect again after every end, use [`Backoff::until_closed`].
    ///
    /// # Examples
    ///
    /// A proxy answers 404 as long as the robot behind it starts:
    ///
    /// ```no_run
    /// use rtcbot_websocket::{Backoff, Error, Options};
    ///
    /// let ws = Options::new()
    ///     .reconnect(Backoff::new())
    ///     .reconnect_if(|reason| match reason {
    ///         Error::Refused { response } => response.status() == 404,
    ///         other => other.is_transient(),
    ///     })
    ///     .connect("wss://proxy.example/robot")?;
    /// # Ok::<(), Error>(())
    /// ```
    pub fn reconnect_if(mut self, f: impl Fn(&Error) -> bool + Send + Sync + 'static) -> Self {
        self.hooks.set_reconnect_if(f);
        self
    }

    /// Sets the messages that every connection begins with: a login, or the topics to subscribe to.
    ///
    /// `f` is called on the reader thread when the handshake is complete. What it yields is sent
    /// before all queued messages. With [`reconnect`](Self::reconnect), each connection begins with
    /// a new greeting, and one that a lost connection has not sent is dropped. If `f` panics, the
    /// connection fails with [`Error::Internal`].
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Options, Server, Websocket, json};
    ///
    /// let mut server = Server::bind("127.0.0.1:0")?;
    /// let ws = Options::new().greeting(|| [json!({"subscribe": "poses"})]).connect(server.url())?;
    /// ws.put_nowait("queued")?;
    /// let robot = Websocket::accept(server.next().unwrap());
    /// assert_eq!(robot.get()?, json!({"subscribe": "poses"}));
    /// assert_eq!(robot.get()?, "queued");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn greeting<I>(mut self, f: impl Fn() -> I + Send + Sync + 'static) -> Self
    where
        I: IntoIterator<Item: Into<Message>>,
    {
        self.hooks
            .set_greeting(move || f().into_iter().map(Into::into).collect());
        self
    }

    /// Sets the time in which a message has to arrive, after the last one or after the connection
    /// is ready. At the limit, the connection fails with [`Error::ReceiveTimeout`].
    ///
    /// `None` and zero disable the limit. It is for a peer that answers pings and has stopped
    /// sending; with [`reconnect`](Self::reconnect), the client connects again. Only whole messages
    /// count, and only the time spent reading: not that in which a full subscription pauses
    /// reading.
    ///
    /// Defaults to `None`.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Error, Options, Server, Websocket};
    /// use std::time::Duration;
    ///
    /// let mut server = Server::bind("127.0.0.1:0")?;
    /// let options = Options::new().receive_timeout(Duration::from_millis(10));
    /// let feed = options.connect(server.url())?;
    /// let _silent = Websocket::accept(server.next().unwrap());
    /// assert!(matches!(feed.get(), Err(Error::ReceiveTimeout { .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn receive_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.receive_timeout = timeout.into().filter(|timeout| !timeout.is_zero());
        self
    }

    /// Sets whether and when a client connects again after a transient error.
    ///
    /// `None` disables it. This applies to URLs only; on servers it has no effect.
    ///
    /// * [`Error::is_transient`] lists the transient errors: the server cannot be reached, the
    ///   connection is lost, the server is going away. Any other error ends the `Websocket`, for
    ///   example a status 401, an untrusted certificate, or close code 1000.
    ///   [`Backoff::until_closed`] and [`reconnect_if`](Self::reconnect_if) decide otherwise.
    /// * The client tries again without limit; call [`close`](crate::Websocket::close) to give up.
    ///   The waits grow up to [`Backoff::max`], 10 seconds; for a robot on a bad link, one second
    ///   is better.
    /// * Subscriptions, callbacks, the source and queued messages stay, and all methods work
    ///   meanwhile; `get` waits. [`on_ready`](crate::Websocket::on_ready) is called for each
    ///   connection, and [`events`](crate::Websocket::events) and
    ///   [`on_event`](crate::Websocket::on_event) report every lost connection and every attempt
    ///   that fails, with the reason.
    /// * **Messages queued while disconnected are sent after reconnecting**, before any that
    ///   `on_ready` puts. A robot may receive a minute's worth of stale orders at once. If only the
    ///   latest order matters, send it with [`put_latest`](crate::Websocket::put_latest).
    /// * **Messages written to a lost connection may be lost.** It is not known whether the peer
    ///   received them, and no message is sent twice.
    ///   [`stats().unconfirmed`](crate::Stats::unconfirmed) counts them. Messages that were not
    ///   written are sent over the next connection.
    /// * Messages that the peer sends while disconnected are up to the peer. A slow consumer
    ///   receives the rest of a lost connection's messages before those of the next one, up to 16
    ///   MiB; more are dropped and [counted](crate::Stats::dropped).
    ///
    /// Defaults to `None`.
    ///
    /// # Errors
    ///
    /// [`connect`](Self::connect) returns [`Error::InvalidOption`] for a [`Backoff`] that cannot
    /// work.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use rtcbot_websocket::{Backoff, Options, State};
    ///
    /// let ws = Options::new()
    ///     .reconnect(Backoff::new())
    ///     .connect("ws://robot.local:8080/drive")?;
    /// ws.on_event(|state| match state {
    ///     State::Ready => println!("the robot is connected"),
    ///     State::Reconnecting { reason, .. } => println!("no robot: {reason}"),
    ///     _ => {}
    /// });
    /// # Ok::<(), rtcbot_websocket::Error>(())
    /// ```
    #[doc(alias = "retry")]
    pub fn reconnect(mut self, backoff: impl Into<Option<Backoff>>) -> Self {
        self.reconnect = backoff.into();
        self
    }

    /// Sets whether messages are compressed: permessage-deflate (RFC 7692).
    ///
    /// It is used if both sides have turned it on. [`Deflate`] describes what it costs, and its
    /// settings for each side. The response, which
    /// [`Websocket::response`](crate::Websocket::response) returns, has a header
    /// `Sec-WebSocket-Extensions` if a connection compresses. A [`pair`](Self::pair) never does.
    ///
    /// Needs the feature `deflate`. Defaults to `None`.
    ///
    /// # Errors
    ///
    /// [`connect`](Self::connect) returns [`Error::InvalidOption`] for settings that cannot work. A
    /// server whose settings cannot work answers with status 500, and its `Websocket` ends with
    /// that error. If a server's answer does not fit the client's offer, the client ends with
    /// [`Error::Handshake`].
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use rtcbot_websocket::{Deflate, Options};
    ///
    /// let ws = Options::new()
    ///     .deflate(Deflate::new().level(9))
    ///     .connect("ws://robot.local:8080/drive")?;
    /// # Ok::<(), rtcbot_websocket::Error>(())
    /// ```
    #[cfg(feature = "deflate")]
    #[doc(alias = "compression")]
    #[doc(alias = "permessage-deflate")]
    pub fn deflate(mut self, deflate: impl Into<Option<Deflate>>) -> Self {
        self.deflate = deflate.into();
        self
    }

    /// Adds a subprotocol (RFC 6455, section 1.9), in order of preference.
    ///
    /// A client offers its subprotocols. A server chooses the first of its own that the client
    /// offers, or none. [`Websocket::subprotocol`](crate::Websocket::subprotocol) returns the
    /// chosen one. A program that requires one must check it when the connection is ready.
    ///
    /// Defaults to none.
    ///
    /// # Errors
    ///
    /// [`connect`](Self::connect) returns [`Error::InvalidOption`] for a name that is not an HTTP
    /// token.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Options, Server};
    ///
    /// let mut server = Server::bind("127.0.0.1:0")?;
    /// let ws =
    /// Options::new().subprotocol("drive.v2").subprotocol("drive.v1").connect(server.url())?;
    /// let robot = Options::new().subprotocol("drive.v1").accept(server.next().unwrap());
    /// ws.wait_ready()?;
    /// assert_eq!(ws.subprotocol().as_deref(), Some("drive.v1"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn subprotocol(mut self, name: impl Into<String>) -> Self {
        self.subprotocols.0.push(name.into());
        self
    }

    /// Sets the user and password that a client sends as Basic authentication (RFC 7617).
    ///
    /// A URL may contain them instead, as in `ws://user:password@host`.
    ///
    /// Defaults to none.
    ///
    /// # Errors
    ///
    /// [`connect`](Self::connect) returns [`Error::InvalidOption`] for a user with a colon, and if
    /// there is an `Authorization` header as well.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Options, Server};
    ///
    /// let mut server = Server::bind("127.0.0.1:0")?;
    /// let ws = Options::new().basic_auth("operator", "secret").connect(server.url())?;
    /// let request = server.next().unwrap();
    /// assert!(request.basic_auth().unwrap().matches("operator", "secret"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "authorization")]
    pub fn basic_auth(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.basic_auth = Some(Hidden(Credentials {
            user: user.into().into(),
            password: password.into().into(),
        }));
        self
    }

    /// Sets how many redirects (status 301, 302, 303, 307, 308) a client follows.
    ///
    /// One more redirect is [`Error::Refused`], whose text shows the target. A redirect without a
    /// `Location`, or with several different ones, is [`Error::Refused`] as well. A redirect from
    /// `wss` to `ws` is not followed.
    ///
    /// Another host or port receives only the headers `Origin`, `User-Agent` and those of
    /// [`subprotocol`](Self::subprotocol). All other headers and the URL's user and password are
    /// left out. (A token among the subprotocols is sent.)
    ///
    /// Defaults to 0.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Options, Server, http};
    ///
    /// let mut server = Server::bind("127.0.0.1:0")?;
    /// let ws = Options::new().max_redirects(1).connect(format!("{}/old", server.url()))?;
    /// let redirect = http::Response::builder().status(307).header("Location", "/new").body("")?;
    /// server.next().unwrap().respond_with(redirect)?;
    /// assert_eq!(server.next().unwrap().path(), "/new");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn max_redirects(mut self, redirects: usize) -> Self {
        self.max_redirects = redirects;
        self
    }

    /// Sets the proxy for a client.
    ///
    /// The URL is `http://[user:password@]host:port` (method `CONNECT`), `socks5://…` (this side
    /// resolves the server's name) or `socks5h://…` (the proxy resolves it). Unix sockets are
    /// connected without a proxy.
    ///
    /// Defaults to none.
    ///
    /// # Errors
    ///
    /// [`connect`](Self::connect) returns [`Error::InvalidOption`] for any other URL.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use rtcbot_websocket::Options;
    ///
    /// let ws = Options::new()
    ///     .proxy("socks5h://proxy.local:1080")
    ///     .connect("wss://robot.example/drive")?;
    /// # Ok::<(), rtcbot_websocket::Error>(())
    /// ```
    pub fn proxy(mut self, url: impl Into<String>) -> Self {
        self.proxy = Some(Hidden(url.into()));
        self
    }

    /// Sets whether a client uses the proxy that the environment names, if [`proxy`](Self::proxy)
    /// is not set.
    ///
    /// The variables are `http_proxy` for `ws` URLs, `https_proxy` and `HTTPS_PROXY` for `wss`
    /// URLs, and `all_proxy` and `ALL_PROXY` for both. `no_proxy` or `NO_PROXY` lists the servers
    /// that are connected directly. (`HTTP_PROXY` is not read: in a CGI program, a request's header
    /// sets it.) A [link-local address](crate::Websocket::connect) is connected directly if
    /// `no_proxy` lists it, with or without its network interface, and never through a proxy.
    ///
    /// Defaults to `false`.
    pub fn proxy_from_env(mut self, look: bool) -> Self {
        self.proxy_from_env = look;
        self
    }

    /// Adds a site whose pages may connect to this server, for example `https://robot.example` or
    /// `https://robot.example:8443`.
    ///
    /// Browsers let every page connect to every WebSocket, with the user's cookies, so the server
    /// must check the `Origin` header. By default only the server's own pages may connect: the
    /// origin's host and port must be those of the request's `Host` header. On a server with TLS,
    /// the origin must also be `https`; a server without TLS accepts both, because a proxy in front
    /// of it may have TLS. Other pages receive status 403. Clients other than browsers need not
    /// send an origin; without one, there is no check.
    ///
    /// The default does not detect DNS rebinding: an attacker can make a name lead to any address,
    /// including one that only the user's browser reaches, and the page then counts as the server's
    /// own. A server on `localhost` or in a private network should name its origins here, and
    /// reject all others with `allow_origin_if(|_| false)`.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::Options;
    ///
    /// let options = Options::new()
    ///     .allow_origin("https://robot.example")
    ///     .allow_origin_if(|_| false);
    /// ```
    pub fn allow_origin(mut self, origin: impl Into<String>) -> Self {
        self.origins.allow(origin.into());
        self
    }

    /// Sets a function that decides which origins may connect.
    ///
    /// It is called on the reader thread, for origins that [`allow_origin`](Self::allow_origin)
    /// does not name, including the server's own. With `|_| true`, every page may connect:
    /// authenticate clients in another way then.
    ///
    /// Defaults to allowing the server's own pages. [`allow_origin`](Self::allow_origin) has an
    /// example.
    pub fn allow_origin_if(mut self, f: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        self.origins.allow_if(f);
        self
    }

    /// Returns the headers of a client's request, without those of the handshake itself.
    fn request_headers(&self) -> Result<Vec<(HeaderName, HeaderValue)>> {
        let mut headers = self.response_headers()?;
        if headers.iter().all(|(name, _)| name != header::USER_AGENT) {
            headers.push((header::USER_AGENT, HeaderValue::from_static(USER_AGENT)));
        }
        headers.retain(|(name, value)| name != header::USER_AGENT || !value.is_empty());
        for (index, name) in self.subprotocols.0.iter().enumerate() {
            // HTTP tokens have the syntax of header names. The error shows the name's number and
            // not its text, which may be a secret.
            HeaderName::from_bytes(name.as_bytes()).map_err(|_| {
                let reason = format!("number {} is not an HTTP token", index + 1);
                Error::invalid_option("subprotocol", reason)
            })?;
        }
        let offered = HeaderValue::try_from(self.subprotocols.0.join(", "));
        let offered =
            offered.map_err(|error| Error::invalid_option("subprotocol", error.to_string()))?;
        if !offered.is_empty() {
            headers.push((header::SEC_WEBSOCKET_PROTOCOL, offered));
        }
        if let Some(deflate) = &self.deflate {
            let offer = HeaderValue::try_from(deflate.offer());
            let offer =
                offer.map_err(|error| Error::invalid_option("deflate", error.to_string()))?;
            headers.push((header::SEC_WEBSOCKET_EXTENSIONS, offer));
        }
        Ok(headers)
    }

    /// Checks the settings of the compression.
    pub(crate) fn check_deflate(&self) -> Result<()> {
        let checked = self.deflate.as_ref().map_or(Ok(()), Deflate::check);
        checked.map_err(|reason| Error::invalid_option("deflate", reason))
    }

    fn renewed_headers(&self) -> Result<Vec<(HeaderName, HeaderSource)>> {
        let headers = self.renewed_headers.iter();
        headers
            .map(|(name, Hidden(source))| Ok((checked_name(name)?, source.clone())))
            .collect()
    }

    /// Returns the program's own headers, which are those that it adds to a server's response.
    pub(crate) fn response_headers(&self) -> Result<Vec<(HeaderName, HeaderValue)>> {
        let mut headers = Vec::new();
        for (name, Hidden(value)) in &self.headers {
            let parsed = checked_name(name)?;
            let value = HeaderValue::from_str(value);
            let mut value = value.map_err(|error| bad_header(name, error.to_string()))?;
            // Any of the program's headers may be a secret.
            value.set_sensitive(true);
            headers.push((parsed, value));
        }
        Ok(headers)
    }
}

/// TLS for clients, with the feature `native-tls`. [`Server::tls`](crate::Server::tls) sets that of
/// a server.
///
/// By default, the server's certificate must be valid for the URL's host, and signed by an
/// authority that the system trusts. The host must be among its alternative names. A certificate
/// without alternative names is accepted if the TLS library compares the common name instead, as
/// OpenSSL does.
#[cfg(feature = "native-tls")]
impl Options {
    /// Adds trusted root certificates, in PEM.
    ///
    /// They are trusted in addition to the system's. The text may contain several certificates.
    ///
    /// # Errors
    ///
    /// [`connect`](Self::connect) returns [`Error::InvalidOption`] if the text contains no valid
    /// certificate.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use rtcbot_websocket::Options;
    ///
    /// let ws = Options::new()
    ///     .root_certificate_pem(std::fs::read("workshop-ca.pem")?)
    ///     .connect("wss://robot.local/drive")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn root_certificate_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.tls.add_pem(&pem.into());
        self
    }

    /// Sets the certificate and key of this client, for servers that request them.
    ///
    /// `native_tls::Identity::from_pkcs8` reads PEM, and `from_pkcs12` reads PKCS#12.
    ///
    /// Defaults to none.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use rtcbot_websocket::{Options, native_tls::Identity};
    ///
    /// let identity = Identity::from_pkcs8(&std::fs::read("cert.pem")?,
    /// &std::fs::read("key.pem")?)?;
    /// let ws = Options::new().client_identity(identity).connect("wss://robot.local/drive")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn client_identity(mut self, identity: native_tls::Identity) -> Self {
        self.tls.change().identity = Some(Hidden(identity));
        self
    }

    /// Sets whether the server's certificate is **not checked**.
    ///
    /// With `true`, anyone who can answer in the server's place can read and change everything.
    ///
    /// Defaults to `false`.
    #[doc(alias = "insecure")]
    pub fn danger_accept_invalid_certs(mut self, accept: bool) -> Self {
        self.tls.change().accept_invalid_certs = accept;
        self
    }

    /// Sets a ready-made connector, for settings that are missing here. The other TLS settings have
    /// no effect then.
    ///
    /// Such settings are root certificates in DER and the minimum version of TLS. Without a
    /// ready-made connector, the minimum is TLS 1.2. That of a `native_tls::TlsConnector` is TLS
    /// 1.0 unless its builder sets another one.
    ///
    /// Defaults to none.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use rtcbot_websocket::{Options, native_tls::{Certificate, Protocol, TlsConnector}};
    ///
    /// let connector = TlsConnector::builder()
    ///     .add_root_certificate(Certificate::from_der(&std::fs::read("workshop-ca.der")?)?)
    ///     .min_protocol_version(Some(Protocol::Tlsv13))
    ///     .build()?;
    /// let ws = Options::new().tls_connector(connector).connect("wss://robot.local/drive")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "min_tls_version")]
    #[doc(alias = "root_certificate_der")]
    pub fn tls_connector(mut self, connector: native_tls::TlsConnector) -> Self {
        self.tls.ready_made = Some(connector);
        self
    }
}

fn checked_name(name: &str) -> Result<HeaderName> {
    let parsed = HeaderName::from_bytes(name.as_bytes());
    let parsed = parsed.map_err(|error| bad_header(name, error.to_string()))?;
    if is_of_the_handshake(&parsed) {
        return Err(bad_header(name, "the handshake itself sets it".into()));
    }
    Ok(parsed)
}

fn bad_header(name: &str, why: String) -> Error {
    Error::invalid_option("header", format!("{name:?}: {why}"))
}

fn is_of_the_handshake(name: &HeaderName) -> bool {
    [header::HOST, header::CONNECTION, header::UPGRADE].contains(name)
        || name.as_str().starts_with("sec-websocket-")
}
