//! The same test over `ws` and over `wss`.

use std::fmt;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::{Deref, DerefMut};
use std::thread;

use rtcbot_websocket::{Options, Server, Websocket};

#[cfg(feature = "native-tls")]
use super::tls::{Pki, pki};
use super::{DEADLINE, within};
#[cfg(feature = "native-tls")]
use rtcbot_websocket::native_tls::TlsAcceptor;

/// The kind of connections.
pub enum Wire {
    Ws,
    #[cfg(feature = "native-tls")]
    Wss(Box<Tls>),
}

/// Made once, since it takes time.
#[cfg(feature = "native-tls")]
pub struct Tls {
    pki: Pki,
    /// Its clones share the certificates of the system that have been read.
    options: Options,
    acceptor: TlsAcceptor,
}

fn each() -> Vec<Wire> {
    vec![
        Wire::Ws,
        #[cfg(feature = "native-tls")]
        Wire::wss(),
    ]
}

/// Runs `test` over each kind. Panics if it does not return.
#[track_caller]
pub fn over_each(test: impl Fn(&Wire) + Copy + Send + 'static) {
    for wire in each() {
        // Shown when it fails.
        eprintln!("over {wire}");
        within(5 * DEADLINE, move || test(&wire));
    }
}

/// As [`over_each`], for a long test: over all kinds at the same time.
#[track_caller]
pub fn over_each_at_once(test: impl Fn(&Wire) + Copy + Send + 'static) {
    within(5 * DEADLINE, move || {
        let running = each().into_iter().map(|wire| {
            let name = wire.to_string();
            (name, thread::spawn(move || test(&wire)))
        });
        for (name, running) in running.collect::<Vec<_>>() {
            assert!(running.join().is_ok(), "over {name}");
        }
    });
}

impl fmt::Display for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Wire::Ws => "ws",
            #[cfg(feature = "native-tls")]
            Wire::Wss(_) => "wss",
        })
    }
}

impl Wire {
    #[cfg(feature = "native-tls")]
    fn wss() -> Self {
        let pki = pki();
        Wire::Wss(Box::new(Tls {
            options: pki.options(),
            acceptor: TlsAcceptor::new(pki.identity.clone()).unwrap(),
            pki,
        }))
    }

    /// For clients and servers that trust each other. A loaded machine may need longer to connect
    /// and to close than a user would wait.
    pub fn options(&self) -> Options {
        match self {
            Wire::Ws => Options::new(),
            #[cfg(feature = "native-tls")]
            Wire::Wss(tls) => tls.options.clone(),
        }
        .connect_timeout(DEADLINE)
        .close_timeout(DEADLINE)
    }

    pub fn server(&self) -> Server {
        match self {
            Wire::Ws => Server::bind((super::own_address(), 0)).unwrap(),
            #[cfg(feature = "native-tls")]
            Wire::Wss(tls) => tls.pki.server(),
        }
    }

    /// A client and the server's end of the same connection, both ready.
    pub fn pair(&self, change: impl Fn(Options) -> Options) -> (Websocket, Websocket) {
        let options = change(self.options());
        super::pair_over(&mut self.server(), &options, &options)
    }

    /// A raw server that has not accepted a client yet, and its URL.
    pub fn listen(&self) -> (TcpListener, String) {
        let listener = TcpListener::bind((super::own_address(), 0)).unwrap();
        let url = format!("{self}://{}/", listener.local_addr().unwrap());
        (listener, url)
    }

    /// Accepts the next client, with the TLS handshake if there is one. Also returns the socket.
    pub fn accept_bytes(&self, listener: &TcpListener) -> (Box<dyn Stream>, TcpStream) {
        let (socket, _) = listener.accept().unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket.set_nodelay(true).unwrap();
        let stream = socket.try_clone().unwrap();
        let stream: Box<dyn Stream> = match self {
            Wire::Ws => Box::new(stream),
            #[cfg(feature = "native-tls")]
            Wire::Wss(tls) => Box::new(tls.acceptor.accept(stream).unwrap()),
        };
        (stream, socket)
    }

    /// Accepts the next client, with all handshakes.
    pub fn accept(&self, listener: &TcpListener) -> Raw {
        let (stream, socket) = self.accept_bytes(listener);
        let codec = tungstenite::accept(stream).unwrap();
        Raw { codec, socket }
    }

    /// A client of this crate and a raw server.
    pub fn client_and_raw(&self, change: impl Fn(Options) -> Options) -> (Websocket, Raw) {
        let options = change(self.options());
        let (listener, url) = self.listen();
        let client = options.connect(url).unwrap();
        let raw = self.accept(&listener);
        client.wait_ready_timeout(DEADLINE).unwrap();
        (client, raw)
    }
}

pub trait Stream: Read + Write + Send {}

impl<S: Read + Write + Send> Stream for S {}

/// A blocking tungstenite server. It answers only while the test reads.
pub struct Raw {
    codec: tungstenite::WebSocket<Box<dyn Stream>>,
    /// The socket, under TLS or not.
    pub socket: TcpStream,
}

impl Raw {
    /// Reads until the end; answers pings and a Close frame.
    pub fn pump(mut self) {
        super::pump(&mut self.codec);
    }
}

impl Deref for Raw {
    type Target = tungstenite::WebSocket<Box<dyn Stream>>;

    fn deref(&self) -> &Self::Target {
        &self.codec
    }
}

impl DerefMut for Raw {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.codec
    }
}
