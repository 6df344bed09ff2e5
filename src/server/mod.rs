//! The server: listens, reads request heads, and returns requests.

mod accept_loop;
mod handle;
mod listener;
mod registry;

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use percent_encoding::{AsciiSet, CONTROLS, percent_encode};

use self::accept_loop::AcceptLoop;
pub use self::handle::ServerHandle;
use self::handle::ServerState;
use self::listener::Listener;
use crate::error::{Error, Result};
use crate::net::host::Endpoint;
#[cfg(feature = "native-tls")]
use crate::net::tls;
use crate::panics::Guarded;
use crate::thread::spawn;
use crate::websocket::Request;

/// A listening socket, and an iterator over the requests to it.
///
/// The iterator waits for new connections, for their TLS handshakes and for their request heads at
/// the same time, so slow and silent clients do not delay others. It needs no thread of its own.
/// The iterator ends only after a [shutdown](ServerHandle::shutdown).
///
/// [`serve`](Self::serve) runs a thread for each request instead.
///
/// # Examples
///
/// ```no_run
/// use rtcbot_websocket::{Server, Websocket};
///
/// for request in Server::bind("127.0.0.1:8080")? {
///     if !request.is_websocket() {
///         // An error concerns this client only: it has disconnected.
///         let _ = request.respond(404, "this server only has a WebSocket");
///         continue;
///     }
///     let ws = Websocket::accept(request);
///     // An echo: the connection is its own sink, and stays open without a handle here.
///     ws.subscribe_to(ws.clone());
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Strangers
///
/// The server itself answers these clients:
///
/// | client | answer |
/// | --- | --- |
/// | no head within [`handshake_timeout`](Self::handshake_timeout) | 408 |
/// | a head of more than 16 KiB or 100 headers | 431; 414 if the first line is too long |
/// | not HTTP | 400 |
/// | HTTP on a TLS port | 400, without TLS |
/// | more connections than [`max_connections`](Self::max_connections) | 503 |
/// | an incomplete head, when its slot is needed | 503; none during a TLS handshake |
///
/// At most 1024 clients without a complete head wait, in all servers of the process together, and
/// at most a quarter of the descriptors that were left when the server was made. When another
/// client connects, or no descriptor is left to accept it, the client that has waited longest is
/// closed. So silent clients do not exclude others, unless strangers open that many connections
/// during the handshake of a client. If no descriptor is left and no such client waits, accepting
/// pauses, which is logged, until there is one.
///
/// [`Websocket::accept`](crate::Websocket::accept) rejects these requests:
///
/// | request | status |
/// | --- | --- |
/// | a method other than `GET` | 405 |
/// | no `Connection: Upgrade` | 426 |
/// | no `Upgrade: websocket`, or one with another protocol beside it | 426 |
/// | a `Sec-WebSocket-Version` other than 13 | 426 |
/// | HTTP/1.0 | 400 |
/// | `GET *` | 400 |
/// | a missing, repeated or invalid `Host` | 400 |
/// | a `Sec-WebSocket-Key` that is not 16 bytes in Base64 | 400 |
/// | an invalid `Content-Length` | 400 |
/// | a body | 413 |
/// | an `Expect` other than `100-continue` | 417 |
/// | a page that [may not connect](crate::Options::allow_origin) | 403 |
///
/// `Expect: 100-continue` is answered with 100 before the 101.
///
/// Dropping the server stops listening. Connections that were accepted are not affected. In a
/// forked child, dropping it does nothing.
#[must_use = "a server accepts connections only while it is asked for requests"]
pub struct Server {
    control: Arc<ServerState>,
    local_addr: Option<SocketAddr>,
    accept_loop: AcceptLoop,
}

/// Constructors and settings.
impl Server {
    /// Listens on an address.
    ///
    /// Port 0 is any free port; [`local_addr`](Self::local_addr) returns it.
    ///
    /// # Errors
    ///
    /// An [`io::Error`], for example that the address is in use. Its text then names the address,
    /// which has a host and a port, as `127.0.0.1:8080` has.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::Server;
    ///
    /// let server = Server::bind("127.0.0.1:0")?;
    /// assert_ne!(server.local_addr().unwrap().port(), 0);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "listen")]
    pub fn bind(address: impl ToSocketAddrs) -> io::Result<Server> {
        Self::with(Listener::tcp(address)?)
    }

    /// Listens on the path of a Unix socket, which clients reach as `ws+unix:PATH`.
    ///
    /// The file is removed when listening ends. A file of a server that no longer exists is
    /// replaced. Users with write permission for the file may connect. If other processes make
    /// sockets in the same folder, this call waits for them, for at most a second.
    ///
    /// # Errors
    ///
    /// The operating system's error, for example that another server listens there. Its text names
    /// the path.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Server, Websocket};
    ///
    /// let path = std::env::temp_dir().join(format!("robot-{}", std::process::id()));
    /// let mut server = Server::bind_unix(&path)?;
    /// let ws = Websocket::connect(server.url())?;
    /// let robot = Websocket::accept(server.next().unwrap());
    /// ws.wait_ready()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn bind_unix(path: impl AsRef<Path>) -> io::Result<Server> {
        Self::with(Listener::unix(path.as_ref())?)
    }

    /// Serves on an existing listener, for example one that systemd passes to the process.
    ///
    /// # Errors
    ///
    /// The operating system's error.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::Server;
    ///
    /// let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// let server = Server::from_listener(listener)?;
    /// # drop(server);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn from_listener(listener: TcpListener) -> io::Result<Server> {
        Self::with(Listener::Tcp(listener))
    }

    /// Serves on an existing Unix socket. Its file is not removed.
    ///
    /// # Errors
    ///
    /// The operating system's error.
    pub fn from_unix_listener(listener: UnixListener) -> io::Result<Server> {
        Self::with(Listener::Unix(None, listener))
    }

    fn with(listener: Listener) -> io::Result<Server> {
        listener.prepare()?;
        let local_addr = listener.local_addr();
        let url = match (local_addr, listener.path()) {
            (Some(address), _) => format!("ws://{}", Endpoint::from(address)),
            (None, Some(path)) => unix_url(&path),
            (None, None) => "ws+unix:".to_owned(),
        };
        let control = ServerState::new(listener)?;
        Ok(Server {
            accept_loop: AcceptLoop::new(url, control.clone()),
            control,
            local_addr,
        })
    }

    /// Enables TLS (`wss://`) for all connections to this server. Needs the feature `native-tls`.
    ///
    /// The identity is the server's certificate and key. `native_tls::Identity::from_pkcs8` reads
    /// both from PEM: the certificate, followed by its intermediate certificates, and the key as
    /// PKCS#8 (`BEGIN PRIVATE KEY`; `openssl pkcs8 -topk8 -nocrypt -in key.pem` converts other
    /// formats). `from_pkcs12` reads PKCS#12. The certificate must be valid for the hosts or
    /// addresses that clients use.
    ///
    /// With OpenSSL, servers negotiate up to TLS 1.2, a limit of native-tls; clients of this crate
    /// negotiate up to TLS 1.3. To offer TLS 1.3, use a reverse proxy, and serve it on a [Unix
    /// socket](Self::bind_unix).
    ///
    /// # Errors
    ///
    /// The TLS library's error for the identity, for example that the key does not belong to the
    /// certificate.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use rtcbot_websocket::{Server, native_tls::Identity};
    ///
    /// let (cert, key) = (std::fs::read("cert.pem")?, std::fs::read("key.pem")?);
    /// let identity = Identity::from_pkcs8(&cert, &key)?;
    /// let server = Server::bind("0.0.0.0:8443")?.tls(identity)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "bind_tls")]
    #[cfg(feature = "native-tls")]
    pub fn tls(self, identity: native_tls::Identity) -> io::Result<Server> {
        let acceptor = native_tls::TlsAcceptor::new(identity).map_err(io::Error::other)?;
        tls::try_out(&acceptor)?;
        Ok(self.tls_acceptor(acceptor))
    }

    /// Enables TLS with a ready-made acceptor. Needs the feature `native-tls`.
    #[cfg(feature = "native-tls")]
    pub fn tls_acceptor(mut self, acceptor: native_tls::TlsAcceptor) -> Server {
        self.accept_loop.acceptor.tls = Some(acceptor);
        let url = &mut self.accept_loop.url;
        if let Some(rest) = url.strip_prefix("ws") {
            *url = format!("wss{rest}");
        }
        self
    }

    /// Sets the time limit for a client's TLS handshake and request head together.
    ///
    /// At the limit, the client receives status 408; during a TLS handshake, the connection is
    /// closed.
    ///
    /// Defaults to 10 seconds.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::Server;
    /// use std::time::Duration;
    ///
    /// let server = Server::bind("127.0.0.1:0")?
    ///     .handshake_timeout(Duration::from_secs(2))
    ///     .max_connections(100);
    /// # drop(server);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn handshake_timeout(mut self, timeout: Duration) -> Server {
        self.accept_loop.handshake_timeout = timeout;
        self
    }

    /// Sets the maximum number of connections at the same time.
    ///
    /// At the limit, a request receives status 503. A connection counts from the end of its
    /// request's head until it has ended: also while the program has not taken the request yet,
    /// while a handler runs, and while a response is sent. A connection without a complete head
    /// [does not count](Self#strangers).
    ///
    /// Defaults to what the system's limits allow when the server is made, for all servers of the
    /// process together. The limits are those on threads (of the user, the system and the control
    /// group), memory maps, address space and descriptors. A quarter of what is left of each is
    /// reserved for the program, and at least the needs of 16 threads, and 16 descriptors. A
    /// connection counts as 4 threads and one descriptor. The number is logged at `info`, with the
    /// limit that determines it.
    ///
    /// With the defaults of Linux, the number is about 500, from `ulimit -n 1024`, and about 3000,
    /// from memory maps, if that limit is raised. On other systems only the limit on descriptors is
    /// known, and the number is at most 500.
    ///
    /// The limits are not read again. Set a number if other programs use the same limits later, or
    /// if a connection needs more, for example with
    /// [`subscribe_concurrent`](crate::Websocket::subscribe_concurrent). `docs/scaling.md` lists
    /// what a connection needs.
    ///
    /// [`handshake_timeout`](Self::handshake_timeout) has an example.
    pub fn max_connections(mut self, connections: usize) -> Server {
        self.accept_loop.max_connections = Some(connections);
        self
    }

    /// Returns the address on which the server listens, or `None` for a Unix socket.
    ///
    /// [`bind`](Self::bind) has an example.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.local_addr
    }

    /// Returns the URL for clients on this machine, such as `ws://127.0.0.1:8080`.
    ///
    /// The URL of a link-local address contains the number of the network interface, as in
    /// `ws://[fe80::1%2]:8080`. Other machines have other numbers.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Server, Websocket};
    ///
    /// let mut server = Server::bind("127.0.0.1:0")?;
    /// let ws = Websocket::connect(server.url())?;
    /// let robot = Websocket::accept(server.next().unwrap());
    /// ws.wait_ready()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn url(&self) -> &str {
        &self.accept_loop.url
    }
}

/// Requests. [`handle`](Self::handle) reaches the connections, and shuts the server down.
impl Server {
    /// Waits for the next request, for at most `timeout`.
    ///
    /// # Errors
    ///
    /// - [`Error::Timeout`] when the time is over.
    /// - [`Error::Ended`] after a [shutdown](ServerHandle::shutdown).
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Error, Server};
    /// use std::time::Duration;
    ///
    /// let mut server = Server::bind("127.0.0.1:0")?;
    /// let timeout = Duration::from_millis(10);
    /// assert!(matches!(server.next_timeout(timeout), Err(Error::Timeout)));
    /// server.handle().shutdown(Duration::from_secs(5))?;
    /// assert!(matches!(server.next_timeout(timeout), Err(Error::Ended)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "accept_timeout")]
    #[doc(alias = "recv_timeout")]
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Request> {
        let deadline = Instant::now().checked_add(timeout);
        self.next_or_end(deadline)
    }

    /// Waits for the end of a shutdown before it returns `Error::Ended`. A loop over the requests
    /// is often the whole of `main`, and must not end the process when the shutdown begins.
    fn next_or_end(&mut self, deadline: Option<Instant>) -> Result<Request> {
        let next = self.accept_loop.next(deadline);
        next.ok_or_else(|| match self.control.has_shut_down(deadline) {
            true => Error::Ended,
            false => Error::Timeout,
        })
    }

    /// Calls `handler` with every request, each on its own thread, until the server is [shut
    /// down](ServerHandle::shutdown).
    ///
    /// Returns after the shutdown, when all handlers have returned or the shutdown's time limit has
    /// passed. A panic in a handler affects only its own connection, which is closed with code 1011
    /// if the handler owned it. If no thread can be spawned, the client receives status 503.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use rtcbot_websocket::{Server, Websocket};
    ///
    /// Server::bind("127.0.0.1:8080")?.serve(|request| {
    ///     let ws = Websocket::accept(request);
    ///     while let Ok(message) = ws.get() {
    ///         let _ = ws.put(message);
    ///     }
    /// });
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "run")]
    pub fn serve(mut self, handler: impl Fn(Request) + Send + Sync + 'static) {
        let handler = Arc::new(Guarded::new(handler));
        // A shutdown waits for this thread too: it is counted until after the last handler is.
        let serving = self.control.handler();
        serving.is_here();
        let mut refused = false;
        while let Some(request) = self.accept_loop.next(None) {
            let (handler, running) = (handler.clone(), self.control.handler());
            let request = Arc::new(Mutex::new(Some(request)));
            let taken = request.clone();
            let spawned = spawn("ws-serve", move || {
                running.is_here();
                let request = taken.lock().take();
                if let Some(request) = request {
                    handler(request);
                }
                drop(running);
            });
            let were_refused = std::mem::replace(&mut refused, spawned.is_err());
            if let Err(error) = spawned {
                // A series of failures is logged once.
                if !were_refused {
                    crate::logging::error!("{}: cannot start a thread: {error}", self.url());
                }
                let request = request.lock().take();
                let _ = request.map(|request| request.respond(503, "too busy"));
            }
        }
        drop(serving);
        self.control.wait_for_handlers();
    }

    /// Returns a handle for other threads, and for use while this thread is in a loop over the
    /// requests.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::Server;
    /// use std::time::Duration;
    ///
    /// let server = Server::bind("127.0.0.1:0")?;
    /// let handle = server.handle();
    /// let serving = std::thread::spawn(move || server.serve(|request| drop(request)));
    /// handle.shutdown(Duration::from_secs(5))?;
    /// serving.join().unwrap();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn handle(&self) -> ServerHandle {
        ServerHandle {
            control: self.control.clone(),
        }
    }
}

/// Waits for each request, and ends after a [shutdown](ServerHandle::shutdown).
impl Iterator for Server {
    type Item = Request;

    fn next(&mut self) -> Option<Request> {
        self.next_or_end(None).ok()
    }
}

/// Returns a client's URL for a path. A colon would end the path, so it is escaped.
fn unix_url(path: &Path) -> String {
    const ESCAPED: &AsciiSet = &CONTROLS.add(b' ').add(b'#').add(b'%').add(b':');
    let path = path.as_os_str().as_bytes();
    format!("ws+unix:{}", percent_encode(path, ESCAPED))
}

impl Drop for Server {
    fn drop(&mut self) {
        if !self.control.process.is_current() {
            // The server belongs to the parent: see the destructor of `Websocket`'s handle.
            return std::mem::forget(self.control.clone());
        }
        self.control.stop_listening();
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("url", &self.url())
            .finish_non_exhaustive()
    }
}
