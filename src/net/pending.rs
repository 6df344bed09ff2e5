//! An accepted connection before its request: TLS handshake, request head, or rejection. No call
//! blocks.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use http::header::{self, HeaderValue};
use http::{Method, StatusCode};
use rustix::event::PollFlags;

use super::handshake::MAX_HEAD;
use super::handshake::server::{parse_request, plain, too_long};
use super::http_response;
use super::socket::Socket;
#[cfg(feature = "native-tls")]
use super::tls::{CLIENT, Handshake, Tls, Wire};
use super::transport::Transport;
use crate::capacity::{Taken, WAITING};

/// The time for which bytes of a rejected client are still read, and their maximum number. Closing
/// a socket with unread bytes would reset the connection, and the client might not see the
/// response.
const DRAIN_TIME: Duration = Duration::from_secs(1);
const MAX_UNREAD: usize = 64 << 10;

/// How the connections of a listener start: with TLS or without.
#[derive(Clone, Default)]
pub(crate) struct Acceptor {
    #[cfg(feature = "native-tls")]
    pub(crate) tls: Option<native_tls::TlsAcceptor>,
}

/// A connection that has not sent its whole request. Its owner polls it for
/// [`events`](Self::events) and then calls [`go_on`](Self::go_on).
pub(crate) struct PendingRequest {
    client: Client,
    stage: PendingStage,
}

/// The part of the state that all stages have.
struct Client {
    socket: Socket,
    deadline: Instant,
    _waiting: Taken,
}

enum PendingStage {
    /// No byte has arrived.
    #[cfg(feature = "native-tls")]
    Hello(native_tls::TlsAcceptor),
    #[cfg(feature = "native-tls")]
    Handshake(native_tls::MidHandshakeTlsStream<Wire>),
    /// These bytes of the head have arrived.
    Head(PendingStream, Vec<u8>),
    /// The client was rejected. At most this many bytes are still read.
    Draining(PendingStream, usize),
}

enum PendingStream {
    Plain(Socket),
    #[cfg(feature = "native-tls")]
    Tls(Box<Tls>),
}

/// The result of one step.
pub(crate) enum Step {
    Wait(PendingRequest),
    Complete(Box<Complete>),
    Gone,
}

/// A connection whose request head is complete. Its owner accepts or rejects it.
pub(crate) struct Complete {
    client: Client,
    head: http::Request<()>,
    rest: Vec<u8>,
    stream: PendingStream,
}

impl Complete {
    /// Returns the request's head, its connection, and the bytes that followed the head.
    pub(crate) fn into_parts(self) -> (http::Request<()>, Box<dyn Transport>, Vec<u8>) {
        (self.head, self.stream.into_transport(), self.rest)
    }

    pub(crate) fn refuse(self, status: StatusCode) -> Step {
        self.client.refuse(self.stream, status)
    }
}

impl PendingRequest {
    /// Starts with a connection that was just accepted.
    pub(crate) fn new(socket: Socket, acceptor: &Acceptor, deadline: Instant) -> Self {
        PendingRequest {
            stage: acceptor.first_stage(&socket),
            client: Client {
                socket,
                deadline,
                _waiting: WAITING.take(),
            },
        }
    }

    /// Returns the events to poll for.
    pub(crate) fn events(&self) -> PollFlags {
        match &self.stage {
            #[cfg(feature = "native-tls")]
            PendingStage::Handshake(handshake) => handshake.get_ref().events(),
            #[cfg(feature = "native-tls")]
            PendingStage::Hello(_) => PollFlags::IN,
            PendingStage::Head(stream, _) | PendingStage::Draining(stream, _) => stream.events(),
        }
    }

    /// Returns the time at which the client is too late and has to be [refused](Self::refuse).
    pub(crate) fn deadline(&self) -> Instant {
        self.client.deadline
    }

    #[cfg(any(test, fuzzing))]
    pub(crate) fn is_refused(&self) -> bool {
        matches!(self.stage, PendingStage::Draining(..))
    }

    /// Reads what has arrived and advances as far as possible without waiting.
    pub(crate) fn go_on(self) -> Step {
        let client = self.client;
        match self.stage {
            #[cfg(feature = "native-tls")]
            PendingStage::Hello(acceptor) => client.hello(acceptor),
            #[cfg(feature = "native-tls")]
            PendingStage::Handshake(handshake) => client.tls(Handshake::go_on(handshake, CLIENT)),
            PendingStage::Head(stream, bytes) => client.read_head(stream, bytes),
            PendingStage::Draining(stream, left) => client.discard(stream, left),
        }
    }

    /// Ends the connection. A client that speaks HTTP already receives this status.
    pub(crate) fn refuse(self, status: StatusCode) -> Step {
        match self.stage {
            PendingStage::Head(stream, _) => self.client.refuse(stream, status),
            _ => Step::Gone,
        }
    }
}

impl Acceptor {
    fn first_stage(&self, socket: &Socket) -> PendingStage {
        #[cfg(feature = "native-tls")]
        if let Some(acceptor) = &self.tls {
            return PendingStage::Hello(acceptor.clone());
        }
        PendingStage::Head(PendingStream::Plain(socket.clone()), Vec::new())
    }
}

impl Client {
    fn name(&self) -> String {
        match self.socket.peer_addr() {
            Some(address) => address.to_string(),
            None => "a Unix socket".to_owned(),
        }
    }

    fn wait_in(self, stage: PendingStage) -> Step {
        let client = self;
        Step::Wait(PendingRequest { client, stage })
    }

    fn disconnect(self, reason: &dyn std::fmt::Display) -> Step {
        crate::logging::debug!("{}: ended without a request: {reason}", self.name());
        Step::Gone
    }

    /// Looks at the first byte. A TLS handshake begins with a byte that no HTTP request begins
    /// with, so a client that sends HTTP to a TLS port receives an HTTP response.
    #[cfg(feature = "native-tls")]
    fn hello(self, acceptor: native_tls::TlsAcceptor) -> Step {
        let mut first = [0];
        match self.socket.peek_now(&mut first) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.wait_in(PendingStage::Hello(acceptor))
            }
            Err(error) => self.disconnect(&error),
            Ok(0) => self.disconnect(&"it sent nothing"),
            Ok(_) if first[0].is_ascii_uppercase() => {
                let stream = PendingStream::Plain(self.socket.clone());
                let text = "this port speaks TLS: use wss:// or https://\n";
                self.refuse_with(stream, StatusCode::BAD_REQUEST, text)
            }
            Ok(_) => {
                let handshake = Handshake::accept(&acceptor, self.socket.clone());
                self.tls(handshake)
            }
        }
    }

    #[cfg(feature = "native-tls")]
    fn tls(self, handshake: Handshake) -> Step {
        match handshake {
            Handshake::InProgress(handshake) => self.wait_in(PendingStage::Handshake(handshake)),
            Handshake::Done(tls) => self.read_head(PendingStream::Tls(Box::new(tls)), Vec::new()),
            Handshake::Failed(error) => self.disconnect(&error),
        }
    }

    fn read_head(self, mut stream: PendingStream, mut bytes: Vec<u8>) -> Step {
        let mut chunk = [0; 4096];
        loop {
            match stream.read_now(&mut chunk) {
                Ok(0) => return self.disconnect(&"it ended the connection"),
                Ok(n) => bytes.extend_from_slice(&chunk[..n]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return self.wait_in(PendingStage::Head(stream, bytes));
                }
                Err(error) => return self.disconnect(&error),
            }
            match parse_request(&bytes) {
                Ok(Some((head, length))) if length <= MAX_HEAD => {
                    return Step::Complete(Box::new(Complete {
                        client: self,
                        head,
                        rest: bytes.split_off(length),
                        stream,
                    }));
                }
                Ok(None) if bytes.len() <= MAX_HEAD => {}
                Ok(_) => {
                    let status = too_long(&bytes[..MAX_HEAD]);
                    return self.refuse(stream, status);
                }
                Err(status) => return self.refuse(stream, status),
            }
        }
    }

    /// Sends a response of a few bytes, which fits into the empty send buffer, and then discards
    /// what the client sends for a while.
    fn refuse(self, stream: PendingStream, status: StatusCode) -> Step {
        self.refuse_with(stream, status, &format!("{status}\n"))
    }

    fn refuse_with(mut self, mut stream: PendingStream, status: StatusCode, text: &str) -> Step {
        crate::logging::debug!("{}: refused with {status}", self.name());
        let mut response = plain(status);
        if status == StatusCode::SERVICE_UNAVAILABLE {
            let seconds = HeaderValue::from_static("10");
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        let kind = HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        let response = response.map(|()| text);
        let bytes = http_response::to_bytes(response, &Method::GET);
        if let Err(error) = stream.send_last(&bytes) {
            return self.disconnect(&error);
        }
        self.deadline = Instant::now() + DRAIN_TIME;
        self.discard(stream, MAX_UNREAD)
    }

    fn discard(self, mut stream: PendingStream, mut left: usize) -> Step {
        let mut chunk = [0; 4096];
        while left > 0 {
            match stream.read_now(&mut chunk) {
                Ok(0) => break,
                Ok(n) => left = left.saturating_sub(n),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return self.wait_in(PendingStage::Draining(stream, left));
                }
                Err(_) => break,
            }
        }
        Step::Gone
    }
}

impl PendingStream {
    fn read_now(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            PendingStream::Plain(socket) => socket.recv_now(buffer),
            #[cfg(feature = "native-tls")]
            PendingStream::Tls(tls) => tls.read_now(buffer),
        }
    }

    fn events(&self) -> PollFlags {
        match self {
            PendingStream::Plain(_) => PollFlags::IN,
            // The last bytes of the handshake may not have been sent yet.
            #[cfg(feature = "native-tls")]
            PendingStream::Tls(tls) => tls.0.get_ref().events(),
        }
    }

    /// Sends the last bytes and ends the write half.
    fn send_last(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            PendingStream::Plain(socket) => {
                socket.send_now(bytes)?;
                socket.shutdown_write()
            }
            #[cfg(feature = "native-tls")]
            PendingStream::Tls(tls) => tls.send_last(bytes),
        }
    }

    fn into_transport(self) -> Box<dyn Transport> {
        match self {
            PendingStream::Plain(socket) => Box::new(socket),
            #[cfg(feature = "native-tls")]
            PendingStream::Tls(tls) => tls,
        }
    }
}

impl AsFd for PendingRequest {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.client.socket.as_fd()
    }
}
