//! TLS handshakes, for both roles.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Instant;

use native_tls::{HandshakeError, MidHandshakeTlsStream, TlsAcceptor, TlsConnector, TlsStream};

use super::session::Tls;
use super::wire::{NOT_TLS, Wire};
use crate::error::Error;
use crate::net::handshake::Failure;
use crate::net::socket::Socket;

/// The client, as errors call it.
pub(crate) const CLIENT: &str = "the client";

/// Performs a client's TLS handshake. The server's certificate must be valid for `host`.
pub(crate) fn connect(
    connector: &TlsConnector,
    host: &str,
    socket: Socket,
    deadline: Instant,
) -> Result<Tls, Failure> {
    let mut handshake = Handshake::connect(connector, host, socket);
    loop {
        match handshake {
            Handshake::Done(tls) => return Ok(tls),
            Handshake::Failed(error) => return Err(error.into()),
            Handshake::InProgress(unfinished) => {
                if Instant::now() >= deadline {
                    return Err(Failure::TimedOut("the TLS handshake"));
                }
                let wire = unfinished.get_ref();
                let waited = wire.socket.wait(wire.events(), Some(deadline));
                waited.map_err(Error::lost)?;
                handshake = Handshake::go_on(unfinished, host);
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
    let mut client = Handshake::connect(&connector, "localhost", client.into());
    let mut server = Handshake::accept(acceptor, server.into());
    // Each side needs a few turns. The limit is a safety margin.
    for _ in 0..20 {
        server = match server {
            Handshake::Done(_) => return Ok(()),
            Handshake::Failed(error) => return Err(try_out_failed(&error)),
            Handshake::InProgress(unfinished) => Handshake::go_on(unfinished, CLIENT),
        };
        if let Handshake::InProgress(unfinished) = client {
            client = Handshake::go_on(unfinished, "localhost");
        }
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

fn failed(host: &str, error: native_tls::Error) -> Error {
    // A broken connection is not a failure to agree on TLS.
    let first: &(dyn std::error::Error + 'static) = &error;
    let mut causes = std::iter::successors(Some(first), |error| error.source());
    if let Some(error) = causes.find_map(|error| error.downcast_ref::<io::Error>()) {
        if error.kind() == io::ErrorKind::InvalidData {
            return not_tls(host);
        }
        let text = format!("in the TLS handshake with {host}: {error}");
        return Error::lost(io::Error::new(error.kind(), text));
    }
    Error::Tls {
        peer: host.to_owned(),
        error: Arc::new(error),
    }
}

/// Returns the error for a peer that does not speak TLS.
fn not_tls(peer: &str) -> Error {
    let mut text = NOT_TLS.to_owned();
    if peer != CLIENT {
        text.push_str("; does the server speak TLS? If not, use ws://");
    }
    Error::Tls {
        peer: peer.to_owned(),
        error: Box::<dyn std::error::Error + Send + Sync>::from(text).into(),
    }
}

/// A TLS handshake of either role. It does not wait.
pub(crate) enum Handshake {
    Done(Tls),
    InProgress(MidHandshakeTlsStream<Wire>),
    Failed(Error),
}

impl Handshake {
    fn connect(connector: &TlsConnector, host: &str, socket: Socket) -> Self {
        Self::step(connector.connect(host, Wire::new(socket)), host)
    }

    pub(crate) fn accept(acceptor: &TlsAcceptor, socket: Socket) -> Self {
        Self::step(acceptor.accept(Wire::new(socket)), CLIENT)
    }

    pub(crate) fn go_on(mut handshake: MidHandshakeTlsStream<Wire>, peer: &str) -> Self {
        match handshake.get_mut().begin() {
            Ok(()) => Self::step(handshake.handshake(), peer),
            Err(error) => Handshake::Failed(Error::lost(error)),
        }
    }

    fn step(result: Result<TlsStream<Wire>, HandshakeError<Wire>>, peer: &str) -> Self {
        match result {
            Ok(mut stream) => {
                stream.get_mut().is_established = true;
                Handshake::Done(Tls(stream))
            }
            Err(HandshakeError::WouldBlock(handshake)) => Handshake::InProgress(handshake),
            Err(HandshakeError::Failure(error)) => Handshake::Failed(failed(peer, error)),
        }
    }
}
