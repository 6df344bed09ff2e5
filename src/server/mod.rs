//! Listens, reads request heads, hands out requests.

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
use self::handle::Control;
pub use self::handle::ServerHandle;
use self::listener::Listener;
use crate::error::Result;
use crate::message::Message;
use crate::net::host::Endpoint;
#[cfg(feature = "native-tls")]
use crate::net::tls;
use crate::panics::Guarded;
use crate::thread::spawn;
use crate::websocket::{Request, Websocket};

/// A listening socket and an iterator of the requests that come in on it.
///
/// ```no_run
/// use rtcbot_websocket::{Server, Websocket};
///
/// for request in Server::bind("127.0.0.1:8080")? {
///     if !request.is_websocket() {
///         // An error here is that one client's: it has gone.
///         let _ = request.respond(404, "there is only a WebSocket here");
///         continue;
///     }
///     let ws = Websocket::accept(request);
///     // Send everything back. The connection feeds itself, and lives on without a handle here.
///     ws.subscribe_to(ws.clone());
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// For a thread for each connection instead of a loop, see [`serve`](Self::serve).
///
/// # Strangers
///
/// The server needs no thread: the iterator itself waits for new connections, for their TLS
/// handshakes and for their heads, all at once, so slow and silent clients never hold up the next.
/// Nobody ends the iterator but [`shutdown`](Self::shutdown). These it answers by itself:
///
/// | client | answer |
/// | --- | --- |
/// | no head within [`handshake_timeout`](Self::handshake_timeout) | 408 |
/// | a head of more than 16 KiB or 100 headers | 431; 414, if it is the first line that is too long |
/// | not HTTP | 400 |
/// | HTTP on a TLS port | 400, without TLS |
/// | more connections than [`max_connections`](Self::max_connections) | 503 |
/// | no complete head yet, when another client needs its room | 503; none within a TLS handshake |
///
/// A client that has sent no complete head has no claim to its connection. At most 1024 of them
/// wait, in all servers of the process together, and no more than a quarter of the descriptors that
/// were left when the server was made. When another comes, or the system has no descriptor left to
/// accept it with, the one that has waited longest is ended. So the next client is heard, however
/// many are silent, unless strangers open that many connections in the time that it needs for its
/// handshake.
///
/// A request that is not a proper one for a WebSocket, [`Websocket::accept`] answers:
///
/// | request | answer |
/// | --- | --- |
/// | another method than `GET` | 405 |
/// | no `Connection: Upgrade`; no `Upgrade: websocket`, or one that names another protocol beside it | 426 |
/// | another `Sec-WebSocket-Version` than 13 | 426 |
/// | HTTP/1.0; `GET *`; a `Host` that is none, or not one; a `Sec-WebSocket-Key` that is not 16 bytes in Base64; a `Content-Length` that is no length | 400 |
/// | a body | 413 |
/// | an `Expect` other than `100-continue` (which is answered 100 before the 101) | 417 |
/// | a page that [may not connect](crate::Options::allow_origin) | 403 |
///
/// When the system has no descriptor left and no such client waits, accepting pauses, which is
/// logged, until there is one.
///
/// Dropping the server stops listening. Connections that were accepted are not affected. In a
/// forked child, dropping it does nothing.
pub struct Server {
    control: Arc<Control>,
    local_addr: Option<SocketAddr>,
    accept_loop: AcceptLoop,
}

/// Listening.
impl Server {
    /// Listens on an address; port 0 is any free port, which [`local_addr`](Self::local_addr)
    /// tells.
    ///
    /// # Errors
    ///
    /// What the operating system says, for example that the address is in use.
    pub fn bind(address: impl ToSocketAddrs) -> io::Result<Server> {
        Self::with(Listener::tcp(address)?)
    }

    /// Listens on an address, with TLS: `wss://`. Needs the feature `native-tls`.
    ///
    /// The identity is the server's certificate and key. `native_tls::Identity::from_pkcs8` reads
    /// them from PEM: the certificate, with those that vouch for it behind it, and the key as
    /// PKCS#8 (`BEGIN PRIVATE KEY`; others are turned into that by `openssl pkcs8 -topk8 -nocrypt
    /// -in key.pem`). `from_pkcs12` reads PKCS#12. The certificate has to name the hosts or
    /// addresses that clients use.
    ///
    /// ```no_run
    /// use rtcbot_websocket::{Server, native_tls::Identity};
    ///
    /// let identity = Identity::from_pkcs8(&std::fs::read("cert.pem")?, &std::fs::read("key.pem")?)?;
    /// let server = Server::bind_tls("0.0.0.0:8443", identity)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// With OpenSSL, native-tls's servers speak TLS 1.2 and no later version; clients of this crate
    /// speak TLS 1.3 as well. Whoever has to offer 1.3 puts a reverse proxy in front, and serves
    /// that on a [Unix socket](Self::bind_unix).
    ///
    /// # Errors
    ///
    /// What the operating system says of the address, or the TLS library of the identity, such as
    /// that the key does not belong to the certificate.
    #[cfg(feature = "native-tls")]
    pub fn bind_tls(
        address: impl ToSocketAddrs,
        identity: native_tls::Identity,
    ) -> io::Result<Server> {
        Self::bind(address)?.tls(identity)
    }

    /// Listens on the path of a Unix socket, which clients reach as `ws+unix:PATH`. The file is
    /// removed when listening ends; one that was left there by a server that is no more is
    /// replaced.
    ///
    /// Whoever may write to the file may connect. While others make sockets in the same folder,
    /// this waits for them, for a second at the most.
    ///
    /// # Errors
    ///
    /// What the operating system says, for example that another server listens there.
    pub fn bind_unix(path: impl AsRef<Path>) -> io::Result<Server> {
        Self::with(Listener::unix(path.as_ref())?)
    }

    /// Serves on a listener that was made elsewhere.
    ///
    /// # Errors
    ///
    /// What the operating system says about it.
    pub fn from_listener(listener: TcpListener) -> io::Result<Server> {
        Self::with(Listener::Tcp(listener))
    }

    /// Serves on a Unix socket that was made elsewhere; its file is not removed.
    ///
    /// # Errors
    ///
    /// What the operating system says about it.
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
        let control = Control::new(listener)?;
        Ok(Server {
            accept_loop: AcceptLoop::new(url, control.clone()),
            control,
            local_addr,
        })
    }

    /// Has every connection use TLS, on whatever listener. See [`bind_tls`](Self::bind_tls). Needs
    /// the feature `native-tls`.
    ///
    /// # Errors
    ///
    /// What the TLS library says of the identity.
    #[cfg(feature = "native-tls")]
    pub fn tls(self, identity: native_tls::Identity) -> io::Result<Server> {
        let acceptor = native_tls::TlsAcceptor::new(identity).map_err(io::Error::other)?;
        tls::try_out(&acceptor)?;
        Ok(self.tls_acceptor(acceptor))
    }

    /// As [`tls`](Self::tls), with a ready-made acceptor. Needs the feature `native-tls`.
    #[cfg(feature = "native-tls")]
    pub fn tls_acceptor(mut self, acceptor: native_tls::TlsAcceptor) -> Server {
        self.accept_loop.acceptor.tls = Some(acceptor);
        let url = &mut self.accept_loop.url;
        if let Some(rest) = url.strip_prefix("ws") {
            *url = format!("wss{rest}");
        }
        self
    }

    /// How long a client may take for its TLS handshake and its request's head together. Defaults
    /// to 10 seconds.
    pub fn handshake_timeout(mut self, timeout: Duration) -> Server {
        self.accept_loop.handshake_timeout = timeout;
        self
    }

    /// Sets how many connections there may be at a time. A request beyond that is answered 503.
    ///
    /// A connection counts from when its request's head is complete until it has ended: also while
    /// the program has not asked for the request yet, while a handler runs, and while a response is
    /// sent. One that has sent no complete head [does not count](Self#strangers).
    ///
    /// Defaults to as many as there is room for when the server is made, in all servers of the
    /// process together. The limits of the system are read for that: threads (of the user, the
    /// system and the control group), memory maps, address space and descriptors. Of what is left
    /// of each, a quarter is for the program itself, and no less than 16 threads need, and 16
    /// descriptors. A connection is taken to need 4 threads and a descriptor. The number is logged
    /// at `info`, with the limit that it comes from. With what Linux sets by itself it is about
    /// 500, from `ulimit -n 1024`, and about 3000, from memory maps, when that is raised. On other
    /// systems than Linux only the limit on descriptors is known, and it is 500 at the most.
    ///
    /// The limits are not read again. Set a number where other programs take from the same limits
    /// later, or where a connection needs more, for example with
    /// [`subscribe_concurrent`](Websocket::subscribe_concurrent); `docs/scaling.md` says what it
    /// needs of each.
    pub fn max_connections(mut self, connections: usize) -> Server {
        self.accept_loop.max_connections = Some(connections);
        self
    }

    /// The address it listens on; `None` for a Unix socket.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.local_addr
    }

    /// The URL that a client on this machine connects to, such as `ws://127.0.0.1:8080`. One for a
    /// link-local address has the number of the network interface in it, such as
    /// `ws://[fe80::1%2]:8080`; another machine has other numbers.
    pub fn url(&self) -> &str {
        &self.accept_loop.url
    }
}

/// Serving.
impl Server {
    /// Waits for the next request, for at most `timeout`; `None` when the time is over, or the
    /// server has been shut down.
    pub fn next_timeout(&mut self, timeout: Duration) -> Option<Request> {
        let deadline = Instant::now().checked_add(timeout);
        self.next_or_end(deadline)
    }

    /// A loop over the requests often is all of `main`: it ends when the shutdown does, and not
    /// when that begins.
    fn next_or_end(&mut self, deadline: Option<Instant>) -> Option<Request> {
        let next = self.accept_loop.next(deadline);
        if next.is_none() {
            self.control.wait_for_shutdown(deadline);
        }
        next
    }

    /// Calls `handler` with every request, each on a thread of its own, until the server is [shut
    /// down](ServerHandle::shutdown). For people who want no loop.
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
    ///
    /// Returns when the server has been shut down, and the handlers have returned or the time that
    /// the shutdown was given is over. A handler that panics ends nothing else; a connection that
    /// it drops is closed with code 1011. When there is no thread to be had, the client is answered
    /// 503.
    pub fn serve(mut self, handler: impl Fn(Request) + Send + Sync + 'static) {
        let handler = Arc::new(Guarded::new(handler));
        // A shutdown waits for this, too: each handler is counted before this one no longer is.
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
                // A crowd of clients is one line in the log.
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

    /// A handle for other threads, and for after the server has gone into a loop.
    pub fn handle(&self) -> ServerHandle {
        ServerHandle {
            control: self.control.clone(),
        }
    }

    /// See [`ServerHandle::connections`].
    pub fn connections(&self) -> Vec<Websocket> {
        self.handle().connections()
    }

    /// See [`ServerHandle::broadcast`].
    pub fn broadcast(&self, message: impl Into<Message>) -> Vec<Websocket> {
        self.handle().broadcast(message)
    }

    /// See [`ServerHandle::shutdown`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn shutdown(&self, timeout: Duration) -> Result<()> {
        self.handle().shutdown(timeout)
    }
}

/// Waits for each request; ends when the server has been [shut down](ServerHandle::shutdown).
impl Iterator for Server {
    type Item = Request;

    fn next(&mut self) -> Option<Request> {
        self.next_or_end(None)
    }
}

/// A client's URL for a path, in which a colon is the path's end.
fn unix_url(path: &Path) -> String {
    const NOT_AS_IT_IS: &AsciiSet = &CONTROLS.add(b' ').add(b'#').add(b'%').add(b':');
    let path = path.as_os_str().as_bytes();
    format!("ws+unix:{}", percent_encode(path, NOT_AS_IT_IS))
}

impl Drop for Server {
    fn drop(&mut self) {
        if !self.control.process.is_current() {
            // It is the parent's: see `Websocket`'s.
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
