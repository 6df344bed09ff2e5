//! TLS handshakes, for both roles.

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

/// Performs a client's TLS handshake. The server's certificate must be valid for `host`.
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

/// Performs a handshake between the acceptor and a local client. Only a handshake finds out that a
/// key does not belong to its certificate, and that must not happen to the first client.
pub(crate) fn try_out(acceptor: &TlsAcceptor) -> io::Result<()> {
    let connector = TlsConnector::builder()
        .danger_accept_invalid_certs(true)
        .danger_accept_invalid_hostnames(true)
        .build()
        .map_err(io::Error::other)?;
    let (client, server) = UnixStream::pair()?;
    let mut client = connector.connect("localhost", Wire::new(client.into()));
    let mut server = Accepting::start(acceptor, server.into());
    // Each side needs a few turns. The limit is a safety margin.
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
    Err(try_out_failed(&"the handshake does not end"))
}

fn try_out_failed(why: &dyn std::fmt::Display) -> io::Error {
    io::Error::other(format!(
        "a TLS handshake with this identity fails; does the key belong to the certificate? \
         ({why}) If they are for other clients than this TLS library's own, \
         use Server::tls_acceptor"
    ))
}

fn established(mut stream: TlsStream<Wire>) -> Tls {
    stream.get_mut().is_established = true;
    Tls(stream)
}

fn failed(host: &str, error: native_tls::Error) -> Error {
    // A broken connection is not a failure to agree on TLS.
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

/// A server's TLS handshake. It does not wait.
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
