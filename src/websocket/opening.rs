//! Opens a `Websocket`: to a URL, over a stream, for a request, or in memory.

use std::os::unix::net::UnixStream;

use tungstenite::protocol::Role;

use super::handle::Websocket;
use super::opened::given_up;
use super::request::Request;
use super::session::Session;
use super::shared::Shared;
use super::{accept, connect, reader_thread};
use crate::descriptors::of_descriptors;
use crate::error::{Error, Result};
use crate::net::panic_guard::guard;
use crate::net::transport::Transport;
use crate::options::Options;

/// Opening.
impl Websocket {
    /// Connects to a server: RTCBot's `Websocket(url)`.
    ///
    /// | URL | |
    /// | --- | --- |
    /// | `ws://host[:port]/path?query`, `http://…` | over TCP, port 80 by default |
    /// | `wss://…`, `https://…` | over TLS, port 443 by default; needs the feature `native-tls`, which is on by default |
    /// | `ws+unix:/path/of/socket[:/path?query]` | over a Unix socket, written as the npm package `ws` does; a colon in the socket's path is `%3A` |
    /// | `wss+unix:…` | over TLS over a Unix socket; the certificate is for `localhost` |
    ///
    /// A link-local address needs the name or number of the network interface that leads to it:
    /// `ws://[fe80::1%eth0]:8080/`, or `ws://[fe80::1%25eth0]:8080/`, as RFC 6874 writes it.
    /// (`%251` is number 1, as there.) The server is not told it, and the certificate for `wss` is
    /// for the address alone. No proxy can be told it either: through one, such an address is an
    /// [`Error::Proxy`]. An interface that does not exist is an [`Error::Resolve`], after which a
    /// client that [reconnects](Options::reconnect) tries again.
    ///
    /// A user and password in the URL (`wss://user:password@host/`) are sent as Basic
    /// authentication.
    ///
    /// Returns at once. Name look-up, TCP connection and handshakes are done by the reader thread
    /// within [`connect_timeout`](Options::connect_timeout); meanwhile everything can be used. For
    /// other settings than the defaults, see [`Options`].
    ///
    /// The server's answer may be written in every way that HTTP/1.1 has for it: interim responses
    /// (1xx) before it are skipped, up to 64 KiB of them, and lines that are folded are put
    /// together. A redirect is [not followed by default](Options::max_redirects).
    ///
    /// # Errors
    ///
    /// [`Error::InvalidUrl`] for a URL that cannot work. What goes wrong later, `get`, `wait_ready`
    /// and [`error`](Self::error) tell.
    pub fn connect(url: impl AsRef<str>) -> Result<Websocket> {
        Options::new().connect(url)
    }

    /// Completes an incoming connection: RTCBot's `Websocket(request)`.
    ///
    /// Returns at once; the reader thread answers the handshake. If the request is not one for a
    /// WebSocket, the client gets the HTTP status that says so (see
    /// [`Server`](crate::Server#strangers)), and this `Websocket` has failed with
    /// [`Error::Handshake`]. For other settings than the defaults, see [`Options`].
    ///
    /// To refuse a client, answer the request with [`Request::respond`], or accept it and
    /// [`close_with`](Self::close_with) a code; that waits for the client's answer, so an accept
    /// loop leaves it to a thread.
    pub fn accept(request: Request) -> Websocket {
        Options::new().accept(request)
    }

    /// Two connected `Websocket`s in memory, for testing a control loop without a network. Each is
    /// the other's peer; the first has the client's role.
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

/// Opening.
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
    pub fn accept(&self, mut request: Request) -> Websocket {
        let name = match request.peer_addr() {
            Some(address) => format!("connection from {address}"),
            None => "connection from a Unix socket".to_owned(),
        };
        let (shared, ends) = Shared::new(name, Role::Server, self.for_server());
        let slot = request.slot.take();
        let ws = Websocket::new(shared.clone());
        // Before the client knows that it is connected: from then on it expects broadcasts.
        if let Some(slot) = &slot {
            slot.register(&ws);
        }
        let for_refusal = slot.clone();
        let open = once(move |shared: &Shared| accept::as_server(shared, request, for_refusal));
        reader_thread::start(shared, ends, slot, open);
        ws
    }

    /// Returns two connected `Websocket`s in memory, both with these settings.
    ///
    /// See [`Websocket::pair`]. Each has a descriptor. If the system has none left, both have failed
    /// with [`Error::Lost`].
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
                let error = Error::lost(of_descriptors(error));
                (Err(error.clone()), Err(error))
            }
        };
        let start = |name: &str, role, end: Result<UnixStream>| {
            let (shared, ends) = Shared::new(name.to_owned(), role, self.for_pair());
            let open = once(move |shared: &Shared| accept::in_memory(shared, end?, role));
            reader_thread::start(shared.clone(), ends, None, open);
            // Takes as long as a thread needs to start: there is no handshake.
            shared.wait(None, Session::has_been_ready);
            Websocket::new(shared)
        };
        (
            start("client in memory", Role::Client, client),
            start("server in memory", Role::Server, server),
        )
    }
}

/// Turns what opens one connection into what opens connections. It is called once: only clients
/// that were given a URL reconnect.
fn once<T>(open: impl FnOnce(&Shared) -> Result<T>) -> impl FnMut(&Shared) -> Result<T> {
    let mut open = Some(open);
    move |shared| match open.take() {
        Some(open) => open(shared),
        None => Err(given_up()),
    }
}
