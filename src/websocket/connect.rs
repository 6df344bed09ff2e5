//! Connects a client: `Websocket::connect`, and what the reader thread does for it, from the URL to
//! the handshake.

use std::sync::Arc;
use std::time::Instant;

use http::Request as HttpRequest;
use tungstenite::protocol::Role;
use url::Host;

use super::handle::Websocket;
use super::opened::{Opened, info, install, once, split};
use super::reader_thread;
use super::shared::Shared;
use crate::deadline::deadline_after;
use crate::error::{Error, Result};
use crate::net::connect_request::ConnectRequest;
use crate::net::dial::{Cancel, addresses, connect, connect_unix};
use crate::net::handshake::Failure;
use crate::net::handshake::client;
use crate::net::host::Endpoint;
use crate::net::panic_guard::guard;
use crate::net::proxy::Proxy;
use crate::net::socket::Socket;
use crate::net::target::{Place, Target};
use crate::net::transport::Transport;
use crate::options::Options;

/// Connecting to a URL, as a client.
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
}

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
        let open = move |shared: &Shared| as_client(shared, request.clone());
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
        let open = once(move |shared: &Shared| over(shared, transport, &request));
        reader_thread::start(shared.clone(), ends, None, open);
        Ok(Websocket::new(shared))
    }
}

/// Connects, and follows as many redirects as the settings allow.
fn as_client(shared: &Shared, mut connect_request: ConnectRequest) -> Result<Opened> {
    let mut request = connect_request.renewed_request()?;
    let deadline = deadline_after(shared.options.connect_timeout);
    let mut redirects = shared.options.max_redirects;
    loop {
        let attempt = dial(shared, &connect_request, request, redirects > 0, deadline);
        let error = match attempt {
            Ok(opened) => return Ok(opened),
            Err(failure) => error_of(shared, failure),
        };
        let next = match &error {
            Error::Refused { response } if redirects > 0 => connect_request.redirected(response),
            _ => None,
        };
        match next {
            None => return Err(error),
            Some(next) => connect_request = next?,
        }
        let name = &connect_request.target.name;
        crate::logging::debug!("{}: redirected to {name}", shared.name);
        request = connect_request.renewed_request()?;
        redirects -= 1;
    }
}

/// Opens a connection over an existing transport.
fn over(
    shared: &Shared,
    transport: Box<dyn Transport>,
    connect_request: &ConnectRequest,
) -> Result<Opened> {
    let request = connect_request.renewed_request()?;
    let deadline = deadline_after(shared.options.connect_timeout);
    let opened = handshake(shared, transport, request, false, deadline);
    opened.map_err(|failure| error_of(shared, failure))
}

fn error_of(shared: &Shared, failure: Failure) -> Error {
    match failure {
        Failure::Failed(error) => error,
        Failure::TimedOut(stage) => Error::ConnectTimeout {
            target: shared.name.clone(),
            after: shared.options.connect_timeout,
            stage,
        },
    }
}

/// Makes one attempt to connect.
fn dial(
    shared: &Shared,
    connect_request: &ConnectRequest,
    request: HttpRequest<()>,
    follows_redirects: bool,
    deadline: Instant,
) -> Result<Opened, Failure> {
    let cancel = Cancel::new().map_err(|error| Error::Connect {
        address: shared.name.clone(),
        error: Arc::new(error),
    })?;
    install(shared, cancel.clone())?;
    let socket = connected_socket(shared, connect_request, deadline, &cancel)?;
    install(shared, Arc::new(socket.clone()))?;
    let transport = encrypt(shared, &connect_request.target, socket, deadline)?;
    handshake(shared, transport, request, follows_redirects, deadline)
}

/// Connects to the host, through a proxy if one is set.
fn connected_socket(
    shared: &Shared,
    connect_request: &ConnectRequest,
    deadline: Instant,
    cancel: &Cancel,
) -> Result<Socket, Failure> {
    let endpoint = match &connect_request.target.place {
        Place::Unix(path) => return Ok(connect_unix(path, deadline, cancel)?.into()),
        Place::Host(endpoint) => endpoint,
    };
    match connect_request.proxy(endpoint)? {
        None => Ok(connect(endpoint, deadline, cancel)?.into()),
        Some(proxy) => connect_through(shared, &proxy, endpoint, deadline, cancel),
    }
}

/// Connects to the host through a proxy.
fn connect_through(
    shared: &Shared,
    proxy: &Proxy,
    endpoint: &Endpoint,
    deadline: Instant,
    cancel: &Cancel,
) -> Result<Socket, Failure> {
    let Endpoint { host, zone, port } = endpoint;
    if let Some(zone) = zone {
        let reason = format!(
            "a proxy cannot use the network interface {zone:?} of this machine: \
             connect to this address without a proxy"
        );
        return Err(proxy.failed(reason, false));
    }
    let stream = connect(&proxy.endpoint, deadline, cancel).map_err(|failure| match failure {
        Failure::Failed(error @ (Error::Connect { .. } | Error::Resolve { .. })) => {
            proxy.failed(error.to_string(), true)
        }
        other => other,
    })?;
    let resolved = match host {
        Host::Domain(_) if !proxy.resolves_names() => {
            let addresses = addresses(endpoint, deadline, cancel)?;
            addresses.first().map(|address| match address.ip() {
                std::net::IpAddr::V4(ip) => Host::Ipv4(ip),
                std::net::IpAddr::V6(ip) => Host::Ipv6(ip),
            })
        }
        _ => None,
    };
    let socket = Socket::from(stream);
    // A close must end the exchange with the proxy.
    install(shared, Arc::new(socket.clone()))?;
    proxy.tunnel(&socket, resolved.as_ref().unwrap_or(host), *port, deadline)?;
    Ok(socket)
}

/// Performs the TLS handshake if the target is encrypted.
#[cfg(feature = "native-tls")]
fn encrypt(
    shared: &Shared,
    target: &Target,
    socket: Socket,
    deadline: Instant,
) -> Result<Box<dyn Transport>, Failure> {
    if !target.encrypted {
        return Ok(Box::new(socket));
    }
    let host = match &target.place {
        Place::Unix(_) => "localhost".to_owned(),
        Place::Host(endpoint) => match &endpoint.host {
            // A name is sent without a trailing dot (RFC 6066, section 3). Names in certificates
            // have none.
            Host::Domain(name) => name.strip_suffix('.').unwrap_or(name).to_owned(),
            Host::Ipv4(ip) => ip.to_string(),
            Host::Ipv6(ip) => ip.to_string(),
        },
    };
    let connector = shared.options.tls.connector(&host)?;
    let tls = crate::net::tls::connect(&connector, &host, socket, deadline)?;
    Ok(Box::new(tls))
}

#[cfg(not(feature = "native-tls"))]
fn encrypt(
    _: &Shared,
    _: &Target,
    socket: Socket,
    _: Instant,
) -> Result<Box<dyn Transport>, Failure> {
    // The target is not encrypted: `Target::parse` rejects targets that are.
    Ok(Box::new(socket))
}

/// Performs the opening handshake of the WebSocket.
fn handshake(
    shared: &Shared,
    transport: Box<dyn Transport>,
    request: HttpRequest<()>,
    follows_redirects: bool,
    deadline: Instant,
) -> Result<Opened, Failure> {
    let (mut halves, addresses) = split(shared, transport)?;
    let deflate = shared.options.deflate.as_ref();
    let answer = client::ask(&mut halves, &request, deflate, follows_redirects, deadline)?;
    Ok(Opened {
        info: info(addresses, request, answer.response),
        halves,
        rest: answer.rest,
        role: Role::Client,
        agreed: answer.agreed,
    })
}
