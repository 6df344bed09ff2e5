//! Listens, reads request heads, hands out requests.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Read};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use http::{Response, StatusCode};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::net::handshake::{MAX_HEAD, parse_request};
use crate::net::request::{Request, respond};

/// How long a client may take to send its request's head.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How many connections are accepted before those that came earlier have their turn.
const ACCEPTS: usize = 16;

/// How long accepting pauses when the system has no descriptor left.
const NO_DESCRIPTORS: Duration = Duration::from_millis(100);

/// A listening socket and an iterator of the requests that come in on it.
///
/// ```no_run
/// use rtcbot_websocket::{Server, Websocket};
///
/// for request in Server::bind("127.0.0.1:8080")? {
///     if !request.is_websocket() {
///         request.respond(404, "there is only a WebSocket here")?;
///         continue;
///     }
///     let ws = Websocket::accept(request);
///     // Send everything back. The connection feeds itself, and lives on without a handle here.
///     ws.subscribe_to(ws.clone());
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// It needs no thread: the iterator itself waits for new connections and for the heads of those
/// that have not sent theirs yet, all at once, so a slow or silent client never holds up the next one. A
/// client that has not sent its head after 10 seconds, or more than 16 KiB or 100 headers, is
/// answered 408, or 431, and forgotten; one that does not send HTTP is answered 400.
///
/// Dropping the server stops listening. Connections that were accepted are not affected.
pub struct Server {
    listener: TcpListener,
    local_addr: SocketAddr,
    /// Connections whose head is not complete.
    pending: Vec<Pending>,
    /// Requests that were complete when another was handed out.
    complete: VecDeque<Request>,
    /// Until when nothing is accepted, for want of descriptors.
    paused_until: Option<Instant>,
}

struct Pending {
    stream: TcpStream,
    peer_addr: SocketAddr,
    bytes: Vec<u8>,
    deadline: Instant,
}

/// What became of a connection whose head is being read.
enum Head {
    Incomplete(Pending),
    Complete(Box<Request>),
    Refused(TcpStream, StatusCode),
    Gone,
}

impl Server {
    /// Listens on an address; port 0 is any free port, which [`local_addr`](Self::local_addr) tells.
    ///
    /// # Errors
    ///
    /// What the operating system says, for example that the address is in use.
    pub fn bind(address: impl ToSocketAddrs) -> io::Result<Server> {
        Self::from_listener(TcpListener::bind(address)?)
    }

    /// Serves on a listener that was made elsewhere.
    ///
    /// # Errors
    ///
    /// What the operating system says about it.
    pub fn from_listener(listener: TcpListener) -> io::Result<Server> {
        listener.set_nonblocking(true)?;
        Ok(Server {
            local_addr: listener.local_addr()?,
            listener,
            pending: Vec::new(),
            complete: VecDeque::new(),
            paused_until: None,
        })
    }

    /// The address it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Waits for the next request, for at most `timeout`; `None` when the time is over.
    pub fn next_timeout(&mut self, timeout: Duration) -> Option<Request> {
        self.next_until(Instant::now().checked_add(timeout))
    }

    fn next_until(&mut self, deadline: Option<Instant>) -> Option<Request> {
        loop {
            if let Some(request) = self.complete.pop_front() {
                return Some(request);
            }
            let readable = self.wait(Instant::now(), deadline);
            let now = Instant::now();
            if let Some(readable) = readable {
                self.read_heads(&readable[1..]);
                // Only now: what has come in time is not refused, however long nobody called this.
                self.refuse_the_late(now);
                if readable[0] {
                    self.accept_some();
                }
            }
            if self.complete.is_empty() && deadline.is_some_and(|deadline| now >= deadline) {
                return None;
            }
        }
    }

    /// Waits until something happens. Says whether there is something to accept, and which of the
    /// pending have something to read; `None` when it cannot be known, as after a signal.
    fn wait(&mut self, now: Instant, deadline: Option<Instant>) -> Option<Vec<bool>> {
        self.paused_until = self.paused_until.filter(|until| *until > now);
        let listening = match self.paused_until {
            None => PollFlags::IN,
            Some(_) => PollFlags::empty(),
        };
        let mut fds = Vec::with_capacity(1 + self.pending.len());
        fds.push(PollFd::from_borrowed_fd(self.listener.as_fd(), listening));
        let pending = self.pending.iter().map(|pending| pending.stream.as_fd());
        fds.extend(pending.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));

        let deadlines = self.pending.iter().map(|pending| pending.deadline);
        let until = deadlines.chain(deadline).chain(self.paused_until).min();
        let timeout = until.map(|until| until.saturating_duration_since(now));
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => Some(fds.iter().map(|fd| !fd.revents().is_empty()).collect()),
            Err(error) => {
                if error != Errno::INTR {
                    log::error!("{}: cannot wait for connections: {error}", self.local_addr);
                    self.paused_until = Some(now + NO_DESCRIPTORS);
                }
                None
            }
        }
    }

    fn accept_some(&mut self) {
        for _ in 0..ACCEPTS {
            match self.listener.accept() {
                Ok((stream, peer_addr)) => {
                    if let Err(error) = stream.set_nonblocking(true) {
                        log::debug!("{peer_addr}: {error}");
                        continue;
                    }
                    self.read_head(Pending {
                        stream,
                        peer_addr,
                        bytes: Vec::new(),
                        deadline: Instant::now() + HANDSHAKE_TIMEOUT,
                    });
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return,
                    // The client has given up already, or a signal came.
                    io::ErrorKind::ConnectionAborted
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::Interrupted => {}
                    _ => {
                        log::error!("{}: cannot accept: {error}", self.local_addr);
                        self.paused_until = Some(Instant::now() + NO_DESCRIPTORS);
                        return;
                    }
                },
            }
        }
    }

    fn read_heads(&mut self, readable: &[bool]) {
        // From the back, so that what is removed does not move what is yet to be looked at.
        for index in (0..readable.len()).rev() {
            if readable[index] {
                let pending = self.pending.swap_remove(index);
                self.read_head(pending);
            }
        }
    }

    fn refuse_the_late(&mut self, now: Instant) {
        for index in (0..self.pending.len()).rev() {
            if self.pending[index].deadline <= now {
                let late = self.pending.swap_remove(index);
                refuse(&late.stream, late.peer_addr, StatusCode::REQUEST_TIMEOUT);
            }
        }
    }

    fn read_head(&mut self, pending: Pending) {
        let peer_addr = pending.peer_addr;
        match pending.read() {
            Head::Incomplete(pending) => self.pending.push(pending),
            Head::Complete(request) => self.complete.push_back(*request),
            Head::Refused(stream, status) => refuse(&stream, peer_addr, status),
            Head::Gone => log::debug!("{peer_addr}: gone without a request"),
        }
    }
}

fn refuse(stream: &TcpStream, peer_addr: SocketAddr, status: StatusCode) {
    log::debug!("{peer_addr}: refused with {status}");
    let mut response = Response::new(());
    *response.status_mut() = status;
    // A few bytes into an empty buffer: this does not wait.
    let _ = respond(stream, response, b"");
}

impl Pending {
    /// Reads what is there.
    fn read(mut self) -> Head {
        let mut chunk = [0; 4096];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return Head::Gone,
                Ok(n) => self.bytes.extend_from_slice(&chunk[..n]),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return Head::Incomplete(self),
                    io::ErrorKind::Interrupted => continue,
                    _ => return Head::Gone,
                },
            }
            match parse_request(&self.bytes) {
                Ok(Some((head, length))) => {
                    return Head::Complete(Box::new(Request {
                        head,
                        rest: self.bytes.split_off(length),
                        stream: self.stream,
                        peer_addr: self.peer_addr,
                    }));
                }
                Ok(None) if self.bytes.len() > MAX_HEAD => {
                    let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
                    return Head::Refused(self.stream, status);
                }
                Ok(None) => {}
                Err(status) => return Head::Refused(self.stream, status),
            }
        }
    }
}

/// Waits for each request; never ends.
impl Iterator for Server {
    type Item = Request;

    fn next(&mut self) -> Option<Request> {
        self.next_until(None)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("local_addr", &self.local_addr)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn server_and_silent_client() -> (Server, TcpStream) {
        let mut server = Server::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(server.local_addr()).unwrap();
        while server.pending.is_empty() {
            assert!(server.next_timeout(Duration::from_millis(1)).is_none());
        }
        (server, stream)
    }

    #[test]
    fn a_head_that_came_in_time_is_not_refused_because_nobody_asked_for_it() {
        let (mut server, mut stream) = server_and_silent_client();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        server.pending[0].deadline = Instant::now();
        assert!(server.next_timeout(Duration::ZERO).is_some());
    }

    #[test]
    fn a_client_that_is_late_is_answered_408() {
        let (mut server, mut stream) = server_and_silent_client();
        server.pending[0].deadline = Instant::now();
        assert!(server.next_timeout(Duration::ZERO).is_none());
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    }
}
