//! Opens a `Websocket`: to a URL, over a stream, for a request, or in memory.

use std::os::unix::net::UnixStream;

use tungstenite::protocol::Role;

use super::handle::Websocket;
use super::opened::given_up;
use super::request::Request;
use super::session::Session;
use super::shared::Shared;
use super::{accept, connect, reader_thread};
use crate::descriptors::with_descriptor_limit;
use crate::error::{Error, Result};
use crate::net::panic_guard::guard;
use crate::net::transport::Transport;
use crate::options::Options;

/// Constructors.
impl Websocket {
    /// Connects to a server: RTCBot's `Websocket(url)`.
    ///
    /// Returns immediately. The reader thread resolves the name, connects, and performs the
    /// handshakes within [`connect_timeout`](Options::connect_timeout) (10 seconds by default).
    /// Meanwhile every method can be used. [`Options`] has other settings than the defaults.
    ///
    /// | URL | transport |
    /// | --- | --- |
    /// | `ws://host[:port]/path?query`, `http://…` | TCP; port 80 by default |
    /// | `wss://…`, `https://…` | TLS; port 443 by default; needs the feature `native-tls` |
    /// | `ws+unix:/path/of/socket[:/path?query]` | a Unix socket, as in the npm package `ws` |
    /// | `wss+unix:…` | TLS over a Unix socket; the certificate must be for `localhost` |
    ///
    /// In the path of a Unix socket, write a colon as `%3A`. A user and password in the URL
    /// (`wss://user:password@host/`) are sent as Basic authentication.
    ///
    /// A link-local address needs the name or number of the network interface:
    /// `ws://[fe80::1%eth0]:8080/`, or `ws://[fe80::1%25eth0]:8080/` as in RFC 6874. (As there,
    /// `%251` is number 1.) The interface is not sent to the server, and a certificate for `wss` is
    /// for the address alone. A proxy cannot use the interface either, so such an address through a
    /// proxy is an [`Error::Proxy`]. An interface that does not exist is an [`Error::Resolve`]; a
    /// client that [reconnects](Options::reconnect) tries again.
    ///
    /// The server's response may have any form that HTTP/1.1 allows. Up to 64 KiB of interim
    /// responses (1xx) before it are skipped, and folded lines are joined. Redirects are [not
    /// followed by default](Options::max_redirects).
    ///
    /// # Errors
    ///
    /// [`Error::InvalidUrl`] if the URL cannot work. Errors that occur while connecting are
    /// reported by [`get`](Self::get), [`wait_ready`](Self::wait_ready) and [`error`](Self::error).
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Server, Websocket};
    ///
    /// let mut server = Server::bind("127.0.0.1:0")?;
    /// let ws = Websocket::connect(server.url())?;
    /// let robot = Websocket::accept(server.next().unwrap());
    /// ws.put_nowait("forward")?;
    /// assert_eq!(robot.get()?, "forward");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn connect(url: impl AsRef<str>) -> Result<Websocket> {
        Options::new().connect(url)
    }

    /// Accepts a request as a WebSocket: RTCBot's `Websocket(request)`.
    ///
    /// Returns immediately; the reader thread sends the handshake's response. A request that is not
    /// a valid WebSocket upgrade is rejected with an HTTP status (see
    /// [`Server`](crate::Server#strangers)), and this `Websocket` ends with [`Error::Handshake`].
    /// [`Options`] has other settings than the defaults.
    ///
    /// To refuse a client, use [`Request::respond`]. Or accept the request and call
    /// [`close_with`](Self::close_with); that waits for the client's reply, so do it on another
    /// thread than that of the accept loop.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use rtcbot_websocket::{Server, Websocket};
    ///
    /// for request in Server::bind("127.0.0.1:8080")? {
    ///     let ws = Websocket::accept(request);
    ///     ws.subscribe_to(ws.clone()); // an echo
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn accept(request: Request) -> Websocket {
        Options::new().accept(request)
    }

    /// Returns two connected `Websocket`s in memory, to test a control loop without a network.
    ///
    /// Each is the other's peer. The first has the client's role.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Websocket, json};
    ///
    /// let (operator, robot) = Websocket::pair();
    /// operator.put_nowait(json!({"speed": 1}))?;
    /// assert_eq!(robot.get()?, json!({"speed": 1}));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn pair() -> (Websocket, Websocket) {
        Options::new().pair()
    }
}

/// Constructors of connections.
impl Options {
    /// Connects to a server with these settings.
    ///
    /// Returns immediately; see [`Websocket::connect`].
    ///
    /// # Errors
    ///
    /// - [`Error::InvalidUrl`] if the URL cannot work.
    /// - [`Error::InvalidOption`] if a header, subprotocol, proxy, back-off or root certificate
    ///   cannot work.
    ///
    /// Errors of the network are reported by `wait_ready`, `get`, `error` and similar methods.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use rtcbot_websocket::Options;
    ///
    /// let ws = Options::new().json(false).connect("ws://robot.local:8080/ws")?;
    /// ws.wait_ready()?;
    /// # Ok::<(), rtcbot_websocket::Error>(())
    /// ```
    pub fn connect(&self, url: impl AsRef<str>) -> Result<Websocket> {
        let request = self.connect_request(url.as_ref())?;
        let name = request.target.name.clone();
        let (shared, ends) = Shared::new(name, Role::Client, self.for_client());
        let open = move |shared: &Shared| connect::as_client(shared, request.clone());
        reader_thread::start(shared.clone(), ends, None, open);
        Ok(Websocket::new(shared))
    }

    /// Connects over an existing stream, such as one that another program handed over, or a
    /// [`Transport`] of your own.
    ///
    /// Returns immediately. The URL is only used for the handshake: the stream is not connected to
    /// it, and no proxy or redirect is followed. TLS is not added: for a `wss` URL, the stream must
    /// be encrypted, as a `native_tls::TlsStream<TcpStream>` is.
    ///
    /// # Errors
    ///
    /// - The errors of [`connect`](Self::connect).
    /// - [`Error::InvalidUrl`] for a `wss` URL over a stream that is not encrypted.
    /// - [`Error::InvalidOption`] if [`reconnect`](Self::reconnect) is set.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use rtcbot_websocket::Options;
    /// use std::net::TcpStream;
    ///
    /// let stream = TcpStream::connect("10.0.0.7:8080")?;
    /// let ws = Options::new().connect_over(stream, "ws://robot.local/drive")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn connect_over(
        &self,
        transport: impl Transport,
        url: impl AsRef<str>,
    ) -> Result<Websocket> {
        if self.reconnect.is_some() {
            return Err(Error::InvalidOption {
                setting: "reconnect",
                reason: "an existing stream cannot be connected again".into(),
            });
        }
        let transport = guard(transport);
        let request = self.connect_request(url.as_ref())?;
        let name = request.target.name.clone();
        if request.target.encrypted && !transport.is_encrypted() {
            return Err(Error::InvalidUrl {
                url: name,
                reason: "the stream is not encrypted; perform the TLS handshake first".into(),
            });
        }
        let (shared, ends) = Shared::new(name, Role::Client, self.for_client());
        let open = once(move |shared: &Shared| connect::over(shared, transport, &request));
        reader_thread::start(shared.clone(), ends, None, open);
        Ok(Websocket::new(shared))
    }

    /// Accepts a request as a WebSocket with these settings.
    ///
    /// Returns immediately; see [`Websocket::accept`].
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use rtcbot_websocket::{Options, Server};
    ///
    /// for request in Server::bind("127.0.0.1:8080")? {
    ///     let ws = Options::new().max_message_size(16 << 10).accept(request);
    ///     ws.subscribe_to(ws.clone());
    /// }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn accept(&self, request: Request) -> Websocket {
        let name = match request.peer_addr() {
            Some(address) => format!("connection from {address}"),
            None => "connection from a Unix socket".to_owned(),
        };
        let (shared, ends) = Shared::new(name, Role::Server, self.for_server());
        let slot = request.slot.clone();
        let ws = Websocket::new(shared.clone());
        // Before the client receives the response, because from then on it expects broadcasts.
        if let Some(slot) = &slot {
            slot.register(&ws);
        }
        let open = once(move |shared: &Shared| accept::as_server(shared, request));
        reader_thread::start(shared, ends, slot, open);
        ws
    }

    /// Returns two connected `Websocket`s in memory, both with these settings.
    ///
    /// See [`Websocket::pair`]. [`reconnect`](Self::reconnect) has no effect on them. Each has a
    /// descriptor. If the system has none left, both have failed with [`Error::Lost`].
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::Options;
    ///
    /// let (robot, operator) = Options::new().json(false).pair();
    /// robot.put_nowait("[1]")?;
    /// assert_eq!(operator.get()?, "[1]"); // text, although it is JSON
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn pair(&self) -> (Websocket, Websocket) {
        let (client, server) = match UnixStream::pair() {
            Ok((client, server)) => (Ok(client), Ok(server)),
            Err(error) => {
                let error = Error::lost(with_descriptor_limit(error));
                (Err(error.clone()), Err(error))
            }
        };
        let start = |name: &str, role, end: Result<UnixStream>| {
            let (shared, ends) = Shared::new(name.to_owned(), role, self.for_pair());
            let open = once(move |shared: &Shared| accept::in_memory(shared, end?, role));
            reader_thread::start(shared.clone(), ends, None, open);
            // Waits only for the start of a thread, because there is no handshake.
            shared.wait(None, Session::has_been_ready);
            Websocket::new(shared)
        };
        (
            start("client in memory", Role::Client, client),
            start("server in memory", Role::Server, server),
        )
    }
}

/// Returns an opening function that opens one connection. It is called once, because only clients
/// that have a URL reconnect.
fn once<T>(open: impl FnOnce(&Shared) -> Result<T>) -> impl FnMut(&Shared) -> Result<T> {
    let mut open = Some(open);
    move |shared| match open.take() {
        Some(open) => open(shared),
        None => Err(given_up()),
    }
}
