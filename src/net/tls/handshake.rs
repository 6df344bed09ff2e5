//! TLS handshakes, of both roles.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Instant;

use native_tls::{HandshakeError, MidHandshakeTlsStream, TlsAcceptor, TlsConnector, TlsStream};

use super::session::Tls;
use super::wire::Wire;
use crate::error::Error;
use crate::net::handshake::Failure;
use crate::net::socket::Socket;

/// Carries out a client's TLS handshake. The server's certificate must name `host`.
pub(crate) fn connect(
    connector: &TlsConnector,
    host: &str,
    socket: Socket,
    deadline: Instant,
) -> Result<Tls, Failure> {
    let mut step = connector.connect(host, Wire::new(socket));
    loop {
        match step {
            Ok(stream) => return Ok(established(stream)),
            Err(HandshakeError::Failure(error)) => return Err(failed(host, error).into()),
            Err(HandshakeError::WouldBlock(mut handshake)) => {
                if Instant::now() >= deadline {
                    return Err(Failure::TimedOut("the TLS handshake"));
                }
                let wire = handshake.get_mut();
                let waited = wire.socket.wait(wire.events(), Some(deadline));
                waited.and_then(|()| wire.begin()).map_err(Error::lost)?;
                step = handshake.handshake();
            }
        }
    }
}

/// Carries out a handshake with itself. Only a handshake finds a key that does not belong to its
/// certificate, and the first one should not be a client's.
pub(crate) fn try_out(acceptor: &TlsAcceptor) -> io::Result<()> {
    let connector = TlsConnector::builder()
        .danger_accept_invalid_certs(true)
        .danger_accept_invalid_hostnames(true)
        .build()
        .map_err(io::Error::other)?;
    let (client, server) = UnixStream::pair()?;
    let mut client = connector.connect("localhost", Wire::new(client.into()));
    let mut server = Accepting::start(acceptor, server.into());
    // Each side needs a few turns; there are more than enough.
    for _ in 0..20 {
        server = match server {
            Accepting::Done(_) => return Ok(()),
            Accepting::Failed(error) => return Err(try_out_failed(&error)),
            Accepting::InProgress(handshake) => Accepting::go_on(handshake),
        };
        client = match client {
            Err(HandshakeError::WouldBlock(mut handshake)) => {
                handshake.get_mut().begin()?;
                handshake.handshake()
            }
            other => other,
        };
    }
    Err(try_out_failed(&"it comes to no end"))
}

fn try_out_failed(why: &dyn std::fmt::Display) -> io::Error {
    io::Error::other(format!(
        "no handshake comes about with this identity; does the key belong to the certificate? ({why}) \
         If they are for other clients than this TLS library's own, use Server::tls_acceptor"
    ))
}

fn established(mut stream: TlsStream<Wire>) -> Tls {
    stream.get_mut().is_up = true;
    Tls(stream)
}

fn failed(host: &str, error: native_tls::Error) -> Error {
    // A connection that broke does not mean that the two sides disagree.
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            let text = format!("in the TLS handshake with {host}: {error}");
            return Error::lost(io::Error::new(error.kind(), text));
        }
        cause = error.source();
    }
    Error::Tls {
        peer: host.to_owned(),
        error: Arc::new(error),
    }
}

/// The state of a server's TLS handshake, which does not wait.
pub(crate) enum Accepting {
    Done(Tls),
    InProgress(MidHandshakeTlsStream<Wire>),
    Failed(Error),
}

impl Accepting {
    pub(crate) fn start(acceptor: &TlsAcceptor, socket: Socket) -> Self {
        Self::step(acceptor.accept(Wire::new(socket)))
    }

    pub(crate) fn go_on(mut handshake: MidHandshakeTlsStream<Wire>) -> Self {
        match handshake.get_mut().begin() {
            Ok(()) => Self::step(handshake.handshake()),
            Err(error) => Accepting::Failed(Error::lost(error)),
        }
    }

    fn step(result: Result<TlsStream<Wire>, HandshakeError<Wire>>) -> Self {
        match result {
            Ok(stream) => Accepting::Done(established(stream)),
            Err(HandshakeError::WouldBlock(handshake)) => Accepting::InProgress(handshake),
            Err(HandshakeError::Failure(error)) => Accepting::Failed(failed("the client", error)),
        }
    }
}
