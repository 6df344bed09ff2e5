//! Accepts connections and reads their request heads, for all connections on one thread.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use http::StatusCode;
use rustix::event::{PollFd, PollFlags};

use super::handle::{Borrowed, ServerState};
use crate::capacity::{CONNECTIONS, Capacity, WAITING};
use crate::deadline::deadline_after;
use crate::descriptors::{lacks_descriptors, with_descriptor_limit};
use crate::net::pending::{Acceptor, PendingRequest, Step};
use crate::net::socket::{Socket, wait_for};
use crate::websocket::Request;

/// The default time limit for a client's TLS handshake and request head.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The maximum number of connections accepted before the pending ones are checked again.
const ACCEPTS: usize = 16;

/// The time for which accepting pauses when the system has no descriptor left.
const NO_DESCRIPTORS: Duration = Duration::from_millis(100);

/// The connections whose requests have not been returned yet, and their settings.
pub(super) struct AcceptLoop {
    control: Arc<ServerState>,
    pub(super) url: String,
    pub(super) acceptor: Acceptor,
    pub(super) handshake_timeout: Duration,
    pub(super) max_connections: Option<usize>,
    capacity: Capacity,
    /// Connections without a complete head, and refused ones that are still read from.
    pending: Vec<PendingRequest>,
    /// Complete requests that have not been returned yet.
    complete: VecDeque<Request>,
    /// The end of a pause in accepting, because the system has no descriptor left.
    paused_until: Option<Instant>,
    /// Whether the log says that no descriptor is left.
    logged_pause: bool,
    /// Whether the log says that there are too many connections.
    logged_full: bool,
}

/// The events that ended a wait.
struct Events {
    /// Whether a connection can be accepted.
    acceptable: bool,
    /// For each pending connection, whether it can make progress.
    ready: Vec<bool>,
}

impl AcceptLoop {
    pub(super) fn new(url: String, control: Arc<ServerState>) -> Self {
        let capacity = Capacity::now();
        let Capacity {
            connections, why, ..
        } = &capacity;
        crate::logging::info!("{url}: there is room for {connections} connections: {why}");
        AcceptLoop {
            control,
            url,
            acceptor: Acceptor::default(),
            handshake_timeout: HANDSHAKE_TIMEOUT,
            max_connections: None,
            capacity,
            pending: Vec::new(),
            complete: VecDeque::new(),
            paused_until: None,
            logged_pause: false,
            logged_full: false,
        }
    }

    /// Waits for the next request. Returns `None` if the deadline has passed or the server is shut
    /// down.
    pub(super) fn next(&mut self, deadline: Option<Instant>) -> Option<Request> {
        let control = self.control.clone();
        loop {
            let Some(borrowed) = control.borrow_listener() else {
                self.reject_all();
                return None;
            };
            if let Some(request) = self.complete.pop_front() {
                return Some(request);
            }
            let events = self.wait(&borrowed, deadline);
            let now = Instant::now();
            match events {
                Ok(events) => {
                    self.step_those(|index, _| events.ready[index], PendingRequest::go_on);
                    // This comes after reading, so that a head that arrived in time is not refused
                    // because the program called this method late.
                    let is_late = |_, pending: &PendingRequest| pending.deadline() <= now;
                    self.step_those(is_late, |late| late.refuse(StatusCode::REQUEST_TIMEOUT));
                    if events.acceptable {
                        self.accept_some(&borrowed);
                    }
                }
                Err(error) => {
                    crate::logging::error!("{}: cannot wait for connections: {error}", self.url);
                    self.paused_until = Some(now + NO_DESCRIPTORS);
                    thread::sleep(NO_DESCRIPTORS);
                }
            }
            if self.complete.is_empty() && deadline.is_some_and(|deadline| now >= deadline) {
                return None;
            }
        }
    }

    /// Waits for an event, or for the earliest of all deadlines.
    fn wait(&mut self, borrowed: &Borrowed<'_>, deadline: Option<Instant>) -> io::Result<Events> {
        let now = Instant::now();
        self.paused_until = self.paused_until.filter(|until| *until > now);
        let listening = match self.paused_until {
            None => PollFlags::IN,
            Some(_) => PollFlags::empty(),
        };
        let mut fds = Vec::with_capacity(2 + self.pending.len());
        fds.push(PollFd::new(&self.control.woken, PollFlags::IN));
        fds.push(PollFd::new(borrowed.listener(), listening));
        let pending = self.pending.iter();
        fds.extend(pending.map(|pending| PollFd::new(pending, pending.events())));

        let deadlines = self.pending.iter().map(PendingRequest::deadline);
        let until = deadlines.chain(deadline).chain(self.paused_until).min();
        wait_for(&mut fds, until)?;
        let mut happened = fds.iter().map(|fd| !fd.revents().is_empty()).skip(1);
        Ok(Events {
            acceptable: happened.next().unwrap_or_default(),
            ready: happened.collect(),
        })
    }

    /// Accepts the connections that wait, at most [`ACCEPTS`] of them.
    fn accept_some(&mut self, borrowed: &Borrowed<'_>) {
        for _ in 0..ACCEPTS {
            match borrowed.listener().accept() {
                Ok(socket) => {
                    if std::mem::take(&mut self.logged_pause) {
                        crate::logging::info!("{}: connections are accepted again", self.url);
                    }
                    self.start(socket);
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return,
                    // The client has disconnected, or a signal arrived.
                    io::ErrorKind::ConnectionAborted
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::Interrupted => {}
                    _ if lacks_descriptors(&error) && self.make_room() => {}
                    _ => {
                        if !std::mem::replace(&mut self.logged_pause, true) {
                            let error = with_descriptor_limit(error);
                            crate::logging::error!(
                                "{}: no connections are accepted: {error}",
                                self.url
                            );
                        }
                        self.paused_until = Some(Instant::now() + NO_DESCRIPTORS);
                        return;
                    }
                },
            }
        }
    }

    /// Begins to read from a new connection.
    fn start(&mut self, socket: Socket) {
        let deadline = deadline_after(self.handshake_timeout);
        let step = PendingRequest::new(socket, &self.acceptor, deadline).go_on();
        self.follow(step);
        // One client may always wait, even if other servers of this process use up the limit.
        if self.pending.len() > 1 && WAITING.now() > self.capacity.waiting {
            self.make_room();
        }
    }

    /// Ends the pending connection with the earliest deadline: a refused one, or the oldest one
    /// without a complete head. Returns whether there was one.
    fn make_room(&mut self) -> bool {
        loop {
            let all = 0..self.pending.len();
            let Some(first) = all.min_by_key(|index| self.pending[*index].deadline()) else {
                return false;
            };
            // Its head may have arrived by now.
            match self.pending.swap_remove(first).go_on() {
                Step::Wait(pending) => {
                    crate::logging::debug!("{}: a connection is ended to make room", self.url);
                    pending.refuse(StatusCode::SERVICE_UNAVAILABLE);
                    return true;
                }
                Step::Gone => return true,
                complete => self.follow(complete),
            }
        }
    }

    /// Returns whether another request may take a slot.
    fn has_slot(&self) -> bool {
        match self.max_connections {
            Some(max) => self.control.registry.len() < max,
            None => CONNECTIONS.now() < self.capacity.connections,
        }
    }

    /// Calls `step` for those pending connections that `is_due` chooses.
    fn step_those(
        &mut self,
        is_due: impl Fn(usize, &PendingRequest) -> bool,
        step: fn(PendingRequest) -> Step,
    ) {
        // Backwards, because removing a connection moves only those that were checked already.
        for index in (0..self.pending.len()).rev() {
            if is_due(index, &self.pending[index]) {
                let step = step(self.pending.swap_remove(index));
                self.follow(step);
            }
        }
    }

    /// Keeps a connection that is pending, and takes the request of one that is complete.
    fn follow(&mut self, step: Step) {
        match step {
            Step::Wait(pending) => self.pending.push(pending),
            Step::Complete(complete) if self.has_slot() => {
                let slot = Some(self.control.registry.acquire());
                let (head, transport, rest) = complete.into_parts();
                self.complete.push_back(Request {
                    head,
                    transport,
                    rest,
                    slot,
                });
            }
            Step::Complete(complete) => {
                // This is logged once, so that strangers cannot fill the log.
                if !std::mem::replace(&mut self.logged_full, true) {
                    let many = self.control.registry.len();
                    crate::logging::warn!("{}: {many} connections; more are refused", self.url);
                }
                self.follow(complete.refuse(StatusCode::SERVICE_UNAVAILABLE));
            }
            Step::Gone => {}
        }
    }

    /// Answers all clients with status 503, because the server is shutting down.
    fn reject_all(&mut self) {
        for request in self.complete.drain(..) {
            let _ = request.respond(503, "shutting down");
        }
        for pending in self.pending.drain(..) {
            pending.refuse(StatusCode::SERVICE_UNAVAILABLE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::listener::Listener;
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    /// Returns a server on a Unix socket. Bytes that were sent to it have arrived when the send
    /// returns.
    fn server(name: &str) -> AcceptLoop {
        let path = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
        let listener = Listener::unix(&path).unwrap();
        listener.prepare().unwrap();
        AcceptLoop::new(name.to_owned(), ServerState::new(listener).unwrap())
    }

    fn accept(server: &mut AcceptLoop) -> UnixStream {
        let control = server.control.clone();
        let borrowed = control.borrow_listener().unwrap();
        let stream = UnixStream::connect(borrowed.listener().path().unwrap()).unwrap();
        server.accept_some(&borrowed);
        stream
    }

    #[test]
    fn a_client_that_would_be_ended_is_accepted_if_its_head_has_arrived() {
        let mut server = server("late-heads");
        let mut first = accept(&mut server);
        let mut second = accept(&mut server);
        first.write_all(b"GET /first HTTP/1.1\r\n\r\n").unwrap();
        server.capacity.waiting = 0;
        let _third = accept(&mut server);
        assert_eq!(server.complete.len(), 1);
        assert_eq!(server.complete[0].path(), "/first");
        // The second client was ended instead.
        assert_eq!(server.pending.len(), 1);
        let mut answer = String::new();
        second.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    }

    #[test]
    fn one_client_may_wait_even_if_other_servers_use_up_the_limit() {
        let mut server = server("one-waits");
        server.capacity.waiting = 0;
        let _streams = [(); 5].map(|()| {
            let stream = accept(&mut server);
            assert_eq!(server.pending.len(), 1);
            stream
        });
    }
}
