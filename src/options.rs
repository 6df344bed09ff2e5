//! Every setting of a connection, with its unit and its default, and checks of these.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::header::{self, HeaderName, HeaderValue};

use crate::backoff::Backoff;
use crate::error::{Error, Result};
use crate::net::basic_auth::authorization;
use crate::net::connect_request::{ConnectRequest, HeaderSource, ProxyChoice};
use crate::net::credentials::Credentials;
use crate::net::origin::Origins;
use crate::net::proxy::Proxy;
use crate::net::target::Target;
#[cfg(feature = "native-tls")]
use crate::net::tls_settings::TlsSettings;
use crate::panics::Guarded;
use crate::pubsub::Queue;

/// The default maximum size of a received message: of clients, and of servers.
const LONGEST_MESSAGE: usize = 16 << 20;
const SERVERS_MESSAGE: usize = 1 << 20;

/// All settings of a connection. Used like [`std::fs::OpenOptions`]: set them, then call
/// [`connect`](Self::connect) or [`accept`](Self::accept), as often as needed.
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
/// let mut plain = Options::new(); // to keep
/// plain.json(false);
/// let other = plain.connect("ws://other.local:8080/ws")?;
/// # Ok::<(), rtcbot_websocket::Error>(())
/// ```
#[derive(Clone)]
pub struct Options {
    pub(crate) json: bool,
    pub(crate) connect_timeout: Duration,
    pub(crate) close_timeout: Duration,
    pub(crate) linger: Duration,
    pub(crate) ping_interval: Option<Duration>,
    pub(crate) ping_timeout: Option<Duration>,
    max_message_size: Option<usize>,
    pub(crate) max_frame_size: usize,
    pub(crate) send_queue: usize,
    pub(crate) receive_queue: Queue,
    pub(crate) receive_queue_bytes: usize,
    pub(crate) read_buffer: usize,
    pub(crate) nodelay: bool,
    pub(crate) paused: bool,
    pub(crate) reconnect: Option<Backoff>,
    headers: Vec<(String, String)>,
    renewed_headers: Vec<(String, HeaderSource)>,
    pub(crate) subprotocols: Vec<String>,
    basic_auth: Option<Credentials>,
    origin: Option<String>,
    user_agent: String,
    pub(crate) max_redirects: usize,
    proxy: Option<String>,
    proxy_from_env: bool,
    pub(crate) origins: Origins,
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
            max_frame_size: 16 << 20,
            send_queue: 16 << 20,
            receive_queue: Queue::default(),
            receive_queue_bytes: 16 << 20,
            read_buffer: 16 << 10,
            nodelay: true,
            paused: false,
            reconnect: None,
            headers: Vec::new(),
            renewed_headers: Vec::new(),
            subprotocols: Vec::new(),
            basic_auth: None,
            origin: None,
            user_agent: concat!("rtcbot-websocket/", env!("CARGO_PKG_VERSION")).to_owned(),
            max_redirects: 0,
            proxy: None,
            proxy_from_env: false,
            origins: Origins::default(),
            #[cfg(feature = "native-tls")]
            tls: TlsSettings::default(),
        }
    }
}

impl Options {
    /// Returns all settings at their defaults.
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
        self.tls.check()?;
        let proxy = match &self.proxy {
            Some(proxy) => ProxyChoice::Through(Proxy::parse(proxy)?),
            None if self.proxy_from_env => ProxyChoice::Environment,
            None => ProxyChoice::Direct,
        };
        if let Some(backoff) = &self.reconnect {
            backoff.check()?;
        }
        let renewed = self.renewed_headers()?;
        ConnectRequest::new(target, self.request_headers()?, renewed, proxy)
    }

    /// Returns the request that a client with these settings sends.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn request(&self, url: &str) -> Result<http::Request<()>> {
        self.connect_request(url)?.request()
    }

    /// Sets whether messages are JSON, as RTCBot's `json` parameter does: see
    /// [`Message`](crate::Message). Defaults to `true`.
    pub fn json(&mut self, json: bool) -> &mut Self {
        self.json = json;
        self
    }

    /// Sets how long name look-up, TCP connection, proxy, TLS and handshake may take together.
    /// Defaults to 10 seconds.
    pub fn connect_timeout(&mut self, timeout: Duration) -> &mut Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets how long closing may take: sending what is queued, and the closing handshake. After
    /// that, the connection is shut down. Defaults to 5 seconds.
    pub fn close_timeout(&mut self, timeout: Duration) -> &mut Self {
        self.close_timeout = timeout;
        self
    }

    /// Sets how long dropping the last handle waits: until what is queued is sent and the closing
    /// handshake is done. After that, the connection is shut down. Defaults to 1 second.
    pub fn linger(&mut self, linger: Duration) -> &mut Self {
        self.linger = linger;
        self
    }

    /// Sets how often a ping is sent to the peer, whatever else is sent; `None` or zero for never.
    /// Defaults to 20 seconds.
    ///
    /// A ping keeps routers from dropping an idle connection. Its answer shows that the peer is
    /// there, that it has taken what was sent before
    /// ([`Stats::unconfirmed`](crate::Stats::unconfirmed)), and how long a round trip takes
    /// ([`Websocket::latency`](crate::Websocket::latency)).
    pub fn ping_interval(&mut self, interval: impl Into<Option<Duration>>) -> &mut Self {
        self.ping_interval = interval.into().filter(|interval| !interval.is_zero());
        self
    }

    /// Sets how long a peer may be silent after a ping, or take nothing of what is sent, before the
    /// connection fails with [`Error::PingTimeout`]; `None` or zero to wait for ever. Defaults to
    /// 20 seconds.
    ///
    /// Any received byte counts as a sign of life, since the pong may be behind it. Only time that
    /// is spent reading counts: a full subscription, which pauses reading, is not held against the
    /// peer. (The peer may hold it against this side: no ping is answered meanwhile.)
    ///
    /// A peer that vanishes is noticed after `ping_interval` plus `ping_timeout` at the latest: 40
    /// seconds by default. If it vanishes while it takes nothing of what is sent, it is noticed up
    /// to a sixteenth of that time later. Half a second and one and a half are better for a robot
    /// that is being driven. Without pings, it is not noticed as long as nothing is sent.
    ///
    /// A peer that takes a little now and then does not fail, however slowly it reads. See
    /// [`send_queue`](Self::send_queue) for what it can hold.
    pub fn ping_timeout(&mut self, timeout: impl Into<Option<Duration>>) -> &mut Self {
        self.ping_timeout = timeout.into().filter(|timeout| !timeout.is_zero());
        self
    }

    /// Sets the maximum size of a received message, in bytes. A longer message ends the connection,
    /// with [`Error::MessageTooBig`] on this side and close code 1009 on the other; the Close
    /// frame's reason contains the limit. Defaults to 16 MiB for clients and for
    /// [`pair`](Self::pair), and to **1 MiB for servers** ([`accept`](Self::accept)), since anybody
    /// may connect to those.
    pub fn max_message_size(&mut self, bytes: usize) -> &mut Self {
        self.max_message_size = Some(bytes);
        self
    }

    /// Returns the maximum size of a received message.
    pub(crate) fn longest_message(&self) -> usize {
        self.max_message_size.unwrap_or(LONGEST_MESSAGE)
    }

    /// Sets the maximum size of a received frame, in bytes: as `max_message_size`, for the parts of
    /// a message. A frame takes memory as it arrives, whatever length it announces. Defaults to 16
    /// MiB.
    pub fn max_frame_size(&mut self, bytes: usize) -> &mut Self {
        self.max_frame_size = bytes;
        self
    }

    /// Returns the maximum size of a frame that can be of use. A frame that fits no message is
    /// refused when its head has arrived, before it takes memory.
    pub(crate) fn longest_frame(&self) -> usize {
        // Control frames are not messages, and have up to 125 bytes (RFC 6455, section 5.5).
        self.max_frame_size.min(self.longest_message().max(125))
    }

    /// Sets how many bytes may be queued for sending. Each message counts with its payload, JSON as
    /// text, and 64 bytes more. When they are reached, `put_nowait` returns
    /// [`Full`](crate::PutError::Full) and `put` waits. A single message may be larger if nothing
    /// else is queued. Defaults to 16 MiB.
    ///
    /// A peer that reads slowly can hold that much for as long as it likes. A program for which
    /// that is too slow closes the connection when [`put_timeout`](crate::Websocket::put_timeout)
    /// fails, when [`broadcast`](crate::ServerHandle::broadcast) returns it, or when
    /// [`stats().send_queue_bytes`](crate::Stats::send_queue_bytes) stays high.
    pub fn send_queue(&mut self, bytes: usize) -> &mut Self {
        self.send_queue = bytes;
        self
    }

    /// Sets the queue of subscriptions that `subscribe` and `get` make. Defaults to
    /// `Queue::Block(1024)`.
    pub fn receive_queue(&mut self, queue: Queue) -> &mut Self {
        self.receive_queue = queue;
        self
    }

    /// Sets how many bytes may wait in one queue of received messages. Each message counts with its
    /// payload and 64 bytes more. Defaults to 16 MiB.
    ///
    /// The limit holds for each subscription of kind [`Queue::Block`] or [`Queue::DropOldest`], for
    /// all callbacks together, and for each
    /// [`subscribe_concurrent`](crate::Websocket::subscribe_concurrent), in addition to the limit
    /// of messages that each of these has. When it is reached, a `DropOldest` queue drops its
    /// oldest messages; for the others, reading pauses until something is taken. A single message
    /// may be longer if nothing else waits in that queue.
    ///
    /// While a subscription contains a message that is longer than an equal share (with the default
    /// of 1024 messages: 16 KiB), shorter messages in it count as much as that share.
    ///
    /// The limits of callbacks do not count while a callback waits in `get` and the like, on any
    /// connection: the message that it waits for may come later than theirs. So a callback that
    /// waits for long without a timeout lets a peer that sends much use as much memory as it likes.
    pub fn receive_queue_bytes(&mut self, bytes: usize) -> &mut Self {
        self.receive_queue_bytes = bytes;
        self
    }

    /// Sets how many bytes are read from the socket at a time. Defaults to 16 KiB; at least 1 KiB.
    pub fn read_buffer(&mut self, bytes: usize) -> &mut Self {
        self.read_buffer = bytes.max(1 << 10);
        self
    }

    /// Sets `TCP_NODELAY`: whether small messages are sent without waiting for more. Defaults to
    /// `true`.
    pub fn nodelay(&mut self, nodelay: bool) -> &mut Self {
        self.nodelay = nodelay;
        self
    }

    /// Sets whether messages are held back until [`Websocket::resume`](crate::Websocket::resume),
    /// so that several consumers can be set up that must all see the first one. Reading pauses
    /// meanwhile. Defaults to `false`.
    pub fn paused(&mut self, paused: bool) -> &mut Self {
        self.paused = paused;
        self
    }

    /// Adds a header to the handshake: on a client to the request, on a server to the response. A
    /// name that is added twice is sent twice. The value is left out of every `Debug`, and is not
    /// sent to [another host after a redirect](Self::max_redirects). Defaults to none.
    pub fn header(&mut self, name: impl Into<String>, value: impl Into<String>) -> &mut Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Adds a header to a client's handshake whose value a function computes, anew for each attempt
    /// to connect: for tokens that expire. It replaces one of the same name. As with
    /// [`header`](Self::header), its value is sent only to the URL's host.
    ///
    /// The function is called on the reader thread, before
    /// [`connect_timeout`](Self::connect_timeout) begins. It cannot be interrupted: while it runs,
    /// `close` may have to return before the connection has ended. When it fails, the attempt fails
    /// with [`Error::Header`]. A server that answers 401 or 403 ends the `Websocket`, also with
    /// [`reconnect`](Self::reconnect): return a token that stays valid for a while.
    ///
    /// The function is an `Fn`: use an atomic to count in it. If it owns its own `Websocket`, it
    /// keeps that open until either side closes it. Give it a
    /// [`downgrade`](crate::Websocket::downgrade)d handle.
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
    ///     .reconnect(Backoff::default())
    ///     .connect("wss://robot.local/drive")?;
    /// # Ok::<(), rtcbot_websocket::Error>(())
    /// ```
    pub fn header_with(
        &mut self,
        name: impl Into<String>,
        value: impl Fn() -> Result<String, Box<dyn std::error::Error + Send + Sync>>
        + Send
        + Sync
        + 'static,
    ) -> &mut Self {
        let value = Arc::new(Guarded::new(Box::new(value) as Box<_>));
        self.renewed_headers.push((name.into(), value));
        self
    }

    /// Sets whether a client connects again when its connection has ended, or could not be made,
    /// for a transient reason, and how long it waits before each attempt; `None` for never.
    /// Defaults to never.
    ///
    /// * [`Error::is_transient`] lists the transient reasons: a server that cannot be reached, a
    ///   connection that is lost, a server that is going away. Any other reason ends the
    ///   `Websocket`, with that error: a 401, a certificate that is not trusted, a close with 1000.
    /// * There is no limit on attempts. To give up after a time, call
    ///   [`close`](crate::Websocket::close). The waits grow up to [`Backoff::max`], 10 seconds; one
    ///   second is better for a robot on a bad link.
    /// * Subscriptions, callbacks, the source and what is queued for sending are kept, and all can
    ///   be used meanwhile; `get` waits. [`on_ready`](crate::Websocket::on_ready) is called for
    ///   each connection, [`on_disconnect`](crate::Websocket::on_disconnect) with the reason when
    ///   one is lost. [`last_error`](crate::Websocket::last_error) returns why there is none now.
    /// * **What is queued meanwhile is sent when there is a connection**, before anything that
    ///   `on_ready` puts. A robot would get all the orders of the last minute at once: if only the
    ///   newest counts, let the `Websocket` read them from a [`Queue::Latest`], as the [front
    ///   page](crate#staying-connected) does.
    /// * **What was written to a connection that is lost may be lost with it.** This side cannot
    ///   know whether the peer took it, and nothing is sent twice.
    ///   [`stats().unconfirmed`](crate::Stats::unconfirmed) counts it. What was not written is sent
    ///   on the next connection.
    /// * What a slow consumer has not taken yet of a lost connection, it gets before the messages
    ///   of the next one, up to 16 MiB. The rest is dropped, and [counted](crate::Stats::dropped).
    ///
    /// Has no effect on servers.
    ///
    /// ```no_run
    /// use rtcbot_websocket::{Backoff, Options};
    ///
    /// let ws = Options::new()
    ///     .reconnect(Backoff::default())
    ///     .connect("ws://robot.local:8080/drive")?;
    /// ws.on_disconnect(|why| println!("lost the robot: {why}"));
    /// ws.on_ready(|| println!("the robot is there"));
    /// # Ok::<(), rtcbot_websocket::Error>(())
    /// ```
    pub fn reconnect(&mut self, backoff: impl Into<Option<Backoff>>) -> &mut Self {
        self.reconnect = backoff.into();
        self
    }

    /// Adds a subprotocol (RFC 6455, section 1.9); the preferred one comes first. A client offers
    /// all of them. A server chooses the first of its own that the client offers, or none.
    /// [`Websocket::subprotocol`](crate::Websocket::subprotocol) returns the chosen one; a program
    /// that needs one checks it when the connection is ready. Defaults to none.
    pub fn subprotocol(&mut self, name: impl Into<String>) -> &mut Self {
        self.subprotocols.push(name.into());
        self
    }

    /// Sets the user and password that a client sends as Basic authentication (RFC 7617), if they
    /// are not in the URL, as in `ws://user:password@host`. Defaults to none.
    pub fn basic_auth(
        &mut self,
        user: impl Into<String>,
        password: impl Into<String>,
    ) -> &mut Self {
        self.basic_auth = Some(Credentials {
            user: user.into().into(),
            password: password.into().into(),
        });
        self
    }

    /// Sets the `Origin` header of a client's request. Only browsers must send one. Defaults to
    /// none.
    pub fn origin(&mut self, origin: impl Into<String>) -> &mut Self {
        self.origin = Some(origin.into());
        self
    }

    /// Sets the `User-Agent` header of a client's request; empty for none. Defaults to
    /// `rtcbot-websocket/` and its version.
    pub fn user_agent(&mut self, user_agent: impl Into<String>) -> &mut Self {
        self.user_agent = user_agent.into();
        self
    }

    /// Sets how many redirects (status 301, 302, 303, 307, 308) a client follows. Defaults to 0: a
    /// redirect is [`Error::Refused`], as one without a `Location` or with several different ones
    /// always is.
    ///
    /// A redirect from `wss` to `ws` is not followed. On another host or port, the server is sent
    /// only the settings [`subprotocol`](Self::subprotocol), [`origin`](Self::origin) and
    /// [`user_agent`](Self::user_agent): all other headers and the URL's user and password are left
    /// out. (A token among the subprotocols is sent.)
    pub fn max_redirects(&mut self, redirects: usize) -> &mut Self {
        self.max_redirects = redirects;
        self
    }

    /// Sets the proxy that a client connects through: `http://[user:password@]host:port`
    /// (`CONNECT`), `socks5://…` (this side resolves the server's name) or `socks5h://…` (the proxy
    /// does). Not for Unix sockets. Defaults to none.
    pub fn proxy(&mut self, url: impl Into<String>) -> &mut Self {
        self.proxy = Some(url.into());
        self
    }

    /// Sets whether a client looks for a proxy in the environment, if [`proxy`](Self::proxy) sets
    /// none: `http_proxy` for `ws` URLs, `https_proxy` or `HTTPS_PROXY` for `wss`, `all_proxy` or
    /// `ALL_PROXY` for both, unless `no_proxy` or `NO_PROXY` lists the server. (Not `HTTP_PROXY`,
    /// which in a CGI program is a header of a request.) A [link-local
    /// address](crate::Websocket::connect) is connected to directly if `no_proxy` lists it, with or
    /// without its network interface; it cannot be reached through a proxy. Defaults to `false`.
    pub fn proxy_from_env(&mut self, look: bool) -> &mut Self {
        self.proxy_from_env = look;
        self
    }

    /// Allows the pages of another site to connect to this server. Browsers send the site in the
    /// `Origin` header: for example `https://robot.example`, or `https://robot.example:8443`. May
    /// be called more than once.
    ///
    /// Browsers let every page connect to every WebSocket, with the user's cookies, so the server
    /// must check which page connects. By default only pages from the server itself may connect:
    /// the origin's host and port are those of the request's `Host` header. On a server with TLS,
    /// the page must have come over `https`, too; a server without TLS accepts both, since a proxy
    /// in front of it may have TLS. Other pages are answered 403. Programs other than browsers need
    /// not send an origin; then it is not checked.
    ///
    /// The owner of a name can make it lead to any address, also to one that only the user's
    /// browser reaches (DNS rebinding). The default cannot tell such a page from the server's own.
    /// A server on `localhost` or in a private network allows its origins here, and adds
    /// `allow_origin_if(|_| false)`: then no others may connect.
    pub fn allow_origin(&mut self, origin: impl Into<String>) -> &mut Self {
        self.origins.allow(origin.into());
        self
    }

    /// Lets a function decide, on the reader thread, which origins may connect: those that
    /// [`allow_origin`](Self::allow_origin) does not allow, and the server's own pages. `|_| true`
    /// lets every page connect: then authenticate the client in another way.
    pub fn allow_origin_if(
        &mut self,
        f: impl Fn(&str) -> bool + Send + Sync + 'static,
    ) -> &mut Self {
        self.origins.allow_if(f);
        self
    }

    /// Returns the headers of a client's request in addition to those of the handshake itself.
    fn request_headers(&self) -> Result<Vec<(HeaderName, HeaderValue)>> {
        let mut headers = self.checked_headers()?;
        if let Some(credentials) = &self.basic_auth {
            let value = authorization(credentials).ok_or_else(|| Error::InvalidOption {
                setting: "basic_auth",
                reason: "the user has a colon in it, which HTTP cannot say".into(),
            })?;
            let renewed = self.renewed_headers.iter();
            let mut renewed = renewed.map(|(name, _)| name.as_str());
            if headers
                .iter()
                .any(|(name, _)| name == header::AUTHORIZATION)
                || renewed.any(|name| name.eq_ignore_ascii_case("authorization"))
            {
                return Err(Error::InvalidOption {
                    setting: "basic_auth",
                    reason: "there is an Authorization header as well".into(),
                });
            }
            headers.push((header::AUTHORIZATION, value));
        }
        let mut set = |setting, name: HeaderName, value: &str| {
            let parsed = HeaderValue::from_str(value);
            let parsed = parsed.map_err(|_| Error::InvalidOption {
                setting,
                reason: "it has a character that HTTP does not allow in a header".into(),
            })?;
            if headers.iter().all(|(given, _)| *given != name) {
                headers.push((name, parsed));
            }
            Ok::<(), Error>(())
        };
        if let Some(origin) = &self.origin {
            set("origin", header::ORIGIN, origin)?;
        }
        if !self.user_agent.is_empty() {
            set("user_agent", header::USER_AGENT, &self.user_agent)?;
        }
        if !self.subprotocols.is_empty() {
            for (index, name) in self.subprotocols.iter().enumerate() {
                // A header's name is an HTTP token as well. The error has the number and not the
                // text, which may be a secret.
                HeaderName::from_bytes(name.as_bytes()).map_err(|_| Error::InvalidOption {
                    setting: "subprotocol",
                    reason: format!("number {} is not an HTTP token", index + 1),
                })?;
            }
            let all = self.subprotocols.join(", ");
            set("subprotocol", header::SEC_WEBSOCKET_PROTOCOL, &all)?;
        }
        Ok(headers)
    }

    /// Returns the headers of a server's response in addition to those of the handshake itself.
    pub(crate) fn response_headers(&self) -> Result<Vec<(HeaderName, HeaderValue)>> {
        self.checked_headers()
    }

    fn renewed_headers(&self) -> Result<Vec<(HeaderName, HeaderSource)>> {
        let headers = self.renewed_headers.iter();
        headers
            .map(|(name, source)| Ok((checked_name(name)?, source.clone())))
            .collect()
    }

    fn checked_headers(&self) -> Result<Vec<(HeaderName, HeaderValue)>> {
        let mut headers = Vec::new();
        for (name, value) in &self.headers {
            let parsed = checked_name(name)?;
            let value = HeaderValue::from_str(value);
            let mut value = value.map_err(|error| bad_header(name, error.to_string()))?;
            // Only the program knows which of its headers are secrets.
            value.set_sensitive(true);
            headers.push((parsed, value));
        }
        Ok(headers)
    }
}

/// TLS for clients, with the feature `native-tls`. A server's TLS is set where it
/// [listens](crate::Server::bind_tls). By default the server's certificate must be for the URL's
/// host, and signed by one that the system trusts. It must contain the host among its alternative
/// names; a certificate without these is accepted if the TLS library (as OpenSSL does) uses its
/// common name.
#[cfg(feature = "native-tls")]
impl Options {
    /// Trusts one or more certificates, in PEM, in addition to the system's. May be called more
    /// than once.
    ///
    /// ```no_run
    /// use rtcbot_websocket::Options;
    ///
    /// let ws = Options::new()
    ///     .root_certificate_pem(std::fs::read("workshop-ca.pem")?)
    ///     .connect("wss://robot.local/drive")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn root_certificate_pem(&mut self, pem: impl Into<Vec<u8>>) -> &mut Self {
        self.tls.add_pem(pem.into());
        self
    }

    /// Trusts a certificate, in DER, in addition to the system's. May be called more than once.
    pub fn root_certificate_der(&mut self, der: impl Into<Vec<u8>>) -> &mut Self {
        self.tls.add_der(der.into());
        self
    }

    /// Sets the certificate and key that this client presents to a server that asks for them:
    /// `native_tls::Identity::from_pkcs8` reads PEM, `from_pkcs12` reads PKCS#12. Defaults to none.
    pub fn client_identity(&mut self, identity: native_tls::Identity) -> &mut Self {
        self.tls.set_identity(identity);
        self
    }

    /// Sets the oldest version of TLS that is accepted. Defaults to TLS 1.2.
    pub fn min_tls_version(&mut self, version: native_tls::Protocol) -> &mut Self {
        self.tls.set_min_protocol(version);
        self
    }

    /// Sets whether a server is trusted **without any proof** of its identity: then whoever can
    /// answer in its place can read and change everything. Defaults to `false`.
    pub fn danger_accept_invalid_certs(&mut self, accept: bool) -> &mut Self {
        self.tls.accept_invalid_certs(accept);
        self
    }

    /// Sets a ready-made connector, for settings that are not here. The other TLS settings are then
    /// ignored.
    pub fn tls_connector(&mut self, connector: native_tls::TlsConnector) -> &mut Self {
        self.tls.set_connector(connector);
        self
    }
}

/// Leaves out what may be secret: of headers it shows only the names, of a proxy only that there is
/// one.
impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.headers.iter().map(|(name, _)| name);
        let renewed = self.renewed_headers.iter().map(|(name, _)| name);
        let names: Vec<_> = names.chain(renewed).collect();
        let mut debug = f.debug_struct("Options");
        debug
            .field("json", &self.json)
            .field("connect_timeout", &self.connect_timeout)
            .field("close_timeout", &self.close_timeout)
            .field("linger", &self.linger)
            .field("ping_interval", &self.ping_interval)
            .field("ping_timeout", &self.ping_timeout)
            .field("max_message_size", &self.max_message_size)
            .field("max_frame_size", &self.max_frame_size)
            .field("send_queue", &self.send_queue)
            .field("receive_queue", &self.receive_queue)
            .field("receive_queue_bytes", &self.receive_queue_bytes)
            .field("read_buffer", &self.read_buffer)
            .field("nodelay", &self.nodelay)
            .field("paused", &self.paused)
            .field("reconnect", &self.reconnect)
            .field("headers", &names)
            // Programs put tokens there if there is no other place.
            .field("subprotocols", &self.subprotocols.len())
            .field("basic_auth", &self.basic_auth.is_some())
            .field("origin", &self.origin)
            .field("user_agent", &self.user_agent)
            .field("max_redirects", &self.max_redirects)
            .field("proxy", &self.proxy.is_some())
            .field("proxy_from_env", &self.proxy_from_env)
            .field("origins", &self.origins);
        #[cfg(feature = "native-tls")]
        debug.field("tls", &self.tls);
        debug.finish()
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
    Error::InvalidOption {
        setting: "header",
        reason: format!("{name:?}: {why}"),
    }
}

fn is_of_the_handshake(name: &HeaderName) -> bool {
    [header::HOST, header::CONNECTION, header::UPGRADE].contains(name)
        || name.as_str().starts_with("sec-websocket-")
}
