//! A connection on its way to a request: the TLS handshake, the head, or the refusal. Nothing here waits.

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
use super::tls::{Accepting, Tls, Wire};
use super::transport::Transport;
use crate::capacity::{Taken, WAITING};

/// How long, and for how many bytes, a client that was refused is listened to. To close a socket with
/// bytes unread would reset the connection, and the client might not see why.
const DRAIN_TIME: Duration = Duration::from_secs(1);
const MAX_UNREAD: usize = 64 << 10;

/// How connections come in on a listener.
#[derive(Clone, Default)]
pub(crate) struct Acceptor {
    #[cfg(feature = "native-tls")]
    pub(crate) tls: Option<native_tls::TlsAcceptor>,
}

/// A connection that is not a request yet. It is polled for [`events`](Self::events) and then told
/// to [`go_on`](Self::go_on).
pub(crate) struct PendingRequest {
    client: Client,
    stage: Stage,
}

/// What stays the same from stage to stage.
struct Client {
    socket: Socket,
    deadline: Instant,
    _waiting: Taken,
}

enum Stage {
    /// Nothing has come yet.
    #[cfg(feature = "native-tls")]
    Hello(native_tls::TlsAcceptor),
    #[cfg(feature = "native-tls")]
    Handshake(native_tls::MidHandshakeTlsStream<Wire>),
    /// So much of the head has come.
    Head(Stream, Vec<u8>),
    /// It has been refused; so many bytes are still read.
    Draining(Stream, usize),
}

enum Stream {
    Plain(Socket),
    #[cfg(feature = "native-tls")]
    Tls(Box<Tls>),
}

/// What has become of it.
pub(crate) enum Step {
    Wait(PendingRequest),
    Complete(Box<Complete>),
    Gone,
}

/// A connection whose request's head is complete. It is let in or refused.
pub(crate) struct Complete {
    client: Client,
    head: http::Request<()>,
    rest: Vec<u8>,
    stream: Stream,
}

impl Complete {
    /// Returns the request's head, its connection, and what the client sent directly after the head.
    pub(crate) fn into_parts(self) -> (http::Request<()>, Box<dyn Transport>, Vec<u8>) {
        (self.head, self.stream.into_transport(), self.rest)
    }

    pub(crate) fn refuse(self, status: StatusCode) -> Step {
        self.client.refuse(self.stream, status)
    }
}

impl PendingRequest {
    /// A connection that was just accepted.
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

    /// What to wait for.
    pub(crate) fn events(&self) -> PollFlags {
        match &self.stage {
            #[cfg(feature = "native-tls")]
            Stage::Handshake(handshake) => handshake.get_ref().events(),
            #[cfg(feature = "native-tls")]
            Stage::Hello(_) => PollFlags::IN,
            Stage::Head(stream, _) | Stage::Draining(stream, _) => stream.events(),
        }
    }

    /// By when something has to have become of it.
    pub(crate) fn deadline(&self) -> Instant {
        self.client.deadline
    }

    #[cfg(any(test, fuzzing))]
    pub(crate) fn is_refused(&self) -> bool {
        matches!(self.stage, Stage::Draining(..))
    }

    /// Takes what is there.
    pub(crate) fn go_on(self) -> Step {
        let client = self.client;
        match self.stage {
            #[cfg(feature = "native-tls")]
            Stage::Hello(acceptor) => client.hello(acceptor),
            #[cfg(feature = "native-tls")]
            Stage::Handshake(handshake) => client.tls(Accepting::go_on(handshake)),
            Stage::Head(stream, bytes) => client.read_head(stream, bytes),
            Stage::Draining(stream, left) => client.read_out(stream, left),
        }
    }

    /// Its time is over.
    pub(crate) fn too_late(self) -> Step {
        match self.stage {
            Stage::Head(stream, _) => self.client.refuse(stream, StatusCode::REQUEST_TIMEOUT),
            _ => Step::Gone,
        }
    }

    /// Refuses it now, if it can be told anything.
    pub(crate) fn refuse(self, status: StatusCode) {
        if let Stage::Head(stream, _) = self.stage {
            self.client.refuse(stream, status);
        }
    }
}

impl Acceptor {
    fn first_stage(&self, socket: &Socket) -> Stage {
        #[cfg(feature = "native-tls")]
        if let Some(acceptor) = &self.tls {
            return Stage::Hello(acceptor.clone());
        }
        Stage::Head(Stream::Plain(socket.clone()), Vec::new())
    }
}

impl Client {
    fn name(&self) -> String {
        match self.socket.peer_addr() {
            Some(address) => address.to_string(),
            None => "a Unix socket".to_owned(),
        }
    }

    fn stay(self, stage: Stage) -> Step {
        let client = self;
        Step::Wait(PendingRequest { client, stage })
    }

    fn gone(self, why: &dyn std::fmt::Display) -> Step {
        crate::logging::debug!("{}: gone without a request: {why}", self.name());
        Step::Gone
    }

    /// A TLS handshake begins with a byte that no HTTP request begins with: who talks HTTP to a TLS port
    /// is told so in HTTP.
    #[cfg(feature = "native-tls")]
    fn hello(self, acceptor: native_tls::TlsAcceptor) -> Step {
        let mut first = [0];
        match self.socket.peek_now(&mut first) {
            Err(error) if may_be_repeated(&error) => self.stay(Stage::Hello(acceptor)),
            Err(error) => self.gone(&error),
            Ok(0) => self.gone(&"it said nothing"),
            Ok(_) if first[0].is_ascii_uppercase() => {
                let stream = Stream::Plain(self.socket.clone());
                let text = "this port speaks TLS: use wss:// or https://\n";
                self.refuse_with(stream, StatusCode::BAD_REQUEST, text)
            }
            Ok(_) => {
                let accepting = Accepting::start(&acceptor, self.socket.clone());
                self.tls(accepting)
            }
        }
    }

    #[cfg(feature = "native-tls")]
    fn tls(self, accepting: Accepting) -> Step {
        match accepting {
            Accepting::Under(handshake) => self.stay(Stage::Handshake(handshake)),
            Accepting::Done(tls) => self.read_head(Stream::Tls(Box::new(tls)), Vec::new()),
            Accepting::Failed(error) => self.gone(&error),
        }
    }

    fn read_head(self, mut stream: Stream, mut bytes: Vec<u8>) -> Step {
        let mut chunk = [0; 4096];
        loop {
            match stream.read_now(&mut chunk) {
                Ok(0) => return self.gone(&"it ended the connection"),
                Ok(n) => bytes.extend_from_slice(&chunk[..n]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return self.stay(Stage::Head(stream, bytes));
                }
                Err(error) => return self.gone(&error),
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

    /// Says no, in a few bytes into an empty buffer, and then listens for a while to what is not wanted.
    fn refuse(self, stream: Stream, status: StatusCode) -> Step {
        self.refuse_with(stream, status, &format!("{status}\n"))
    }

    fn refuse_with(mut self, mut stream: Stream, status: StatusCode, text: &str) -> Step {
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
        if let Err(error) = stream.say_goodbye(&bytes) {
            return self.gone(&error);
        }
        self.deadline = Instant::now() + DRAIN_TIME;
        self.read_out(stream, MAX_UNREAD)
    }

    fn read_out(self, mut stream: Stream, mut left: usize) -> Step {
        let mut chunk = [0; 4096];
        while left > 0 {
            match stream.read_now(&mut chunk) {
                Ok(0) => break,
                Ok(n) => left = left.saturating_sub(n),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return self.stay(Stage::Draining(stream, left));
                }
                Err(_) => break,
            }
        }
        Step::Gone
    }
}

impl Stream {
    fn read_now(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.recv_now(buffer),
            #[cfg(feature = "native-tls")]
            Stream::Tls(tls) => tls.read_now(buffer),
        }
    }

    fn events(&self) -> PollFlags {
        match self {
            Stream::Plain(_) => PollFlags::IN,
            // The end of the handshake may have yet to be sent.
            #[cfg(feature = "native-tls")]
            Stream::Tls(tls) => tls.0.get_ref().events(),
        }
    }

    /// The last that is said.
    fn say_goodbye(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Stream::Plain(socket) => {
                socket.send_now(bytes)?;
                socket.shutdown_write()
            }
            #[cfg(feature = "native-tls")]
            Stream::Tls(tls) => tls.say_goodbye(bytes),
        }
    }

    fn into_transport(self) -> Box<dyn Transport> {
        match self {
            Stream::Plain(socket) => Box::new(socket),
            #[cfg(feature = "native-tls")]
            Stream::Tls(tls) => tls,
        }
    }
}

impl AsFd for PendingRequest {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.client.socket.as_fd()
    }
}

#[cfg(feature = "native-tls")]
fn may_be_repeated(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}
