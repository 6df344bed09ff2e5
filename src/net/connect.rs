//! From a URL to a TCP connection: names, addresses, and several attempts at once.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select};
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, sockopt::socket_error};
use url::{Host, Url};

use super::handshake::Failure;
use super::transport::Cut;
use crate::error::{Error, Result};

/// How long one attempt has before the next address is tried beside it (RFC 8305, section 5).
const HEAD_START: Duration = Duration::from_millis(250);

/// A URL that can work, as a `ws://` URL without a fragment.
pub(crate) fn parse_url(text: &str) -> Result<Url> {
    let invalid = |reason: String| Error::InvalidUrl {
        url: text.to_owned(),
        reason,
    };
    if !text.contains("://") {
        return Err(invalid(format!("it has no scheme: write ws://{text}")));
    }
    let mut url = Url::parse(text).map_err(|error| invalid(error.to_string()))?;
    let scheme = match url.scheme() {
        "ws" | "http" => "ws",
        "wss" | "https" => {
            return Err(invalid(format!(
                "this version of rtcbot-websocket has no TLS: \"{}\" URLs cannot be used",
                url.scheme()
            )));
        }
        other => {
            return Err(invalid(format!(
                "the scheme is \"{other}\", not \"ws\" or \"http\""
            )));
        }
    };
    // Both are what the WHATWG calls special schemes, for which this succeeds.
    if url.set_scheme(scheme).is_err() || url.host().is_none() {
        return Err(invalid("it names no host".into()));
    }
    if url.port() == Some(0) {
        return Err(invalid("port 0 cannot be connected to".into()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Error::InvalidUrl {
            // Not to be found in a log.
            url: url.host_str().unwrap_or_default().to_owned(),
            reason: "this version takes no user and password from a URL".into(),
        });
    }
    url.set_fragment(None);
    Ok(url)
}

/// Stops an attempt to connect, whatever it is waiting for.
pub(crate) struct Cancel {
    /// Dropped to disconnect `cancelled`.
    alive: Mutex<Option<Sender<Infallible>>>,
    cancelled: Receiver<Infallible>,
    /// Shut down to make `woken` readable.
    waker: UnixStream,
    woken: UnixStream,
}

impl Cancel {
    pub(crate) fn new() -> io::Result<Arc<Self>> {
        let (alive, cancelled) = bounded(0);
        let (waker, woken) = UnixStream::pair()?;
        Ok(Arc::new(Cancel {
            alive: Mutex::new(Some(alive)),
            cancelled,
            waker,
            woken,
        }))
    }

    fn is_cancelled(&self) -> bool {
        self.alive.lock().is_none()
    }
}

impl Cut for Cancel {
    fn cut(&self) {
        drop(self.alive.lock().take());
        let _ = self.waker.shutdown(std::net::Shutdown::Both);
    }
}

fn cancelled() -> Failure {
    Failure::Failed(Error::lost(io::ErrorKind::Interrupted.into()))
}

/// Connects to the URL's host: all of its addresses, within the deadline.
pub(crate) fn connect(url: &Url, deadline: Instant, cancel: &Cancel) -> Result<TcpStream, Failure> {
    let port = url.port_or_known_default().unwrap_or(80);
    let addresses = match url.host() {
        Some(Host::Ipv4(ip)) => vec![SocketAddr::new(IpAddr::V4(ip), port)],
        Some(Host::Ipv6(ip)) => vec![SocketAddr::new(IpAddr::V6(ip), port)],
        Some(Host::Domain(name)) => resolve(name, port, deadline, cancel)?,
        None => Vec::new(),
    };
    race(&interleave(addresses), deadline, cancel)
}

/// Looks the name up on a thread of its own, since the system's resolver cannot be interrupted.
/// When it is no longer waited for, that thread ends with the look-up.
fn resolve(
    name: &str,
    port: u16,
    deadline: Instant,
    cancel: &Cancel,
) -> Result<Vec<SocketAddr>, Failure> {
    let (sender, found) = bounded(1);
    let host = name.to_owned();
    thread::Builder::new()
        .name("ws-resolve".into())
        .spawn(move || {
            let addresses = (host.as_str(), port).to_socket_addrs();
            let _ = sender.send(addresses.map(Iterator::collect::<Vec<_>>));
        })
        .map_err(|error| Error::Thread(Arc::new(error)))?;

    let left = deadline.saturating_duration_since(Instant::now());
    let found = select! {
        recv(found) -> found => found,
        recv(cancel.cancelled) -> _ => return Err(cancelled()),
        default(left) => return Err(Failure::TimedOut("the look-up of the host's name")),
    };
    let unresolved = |source: io::Error| Error::Resolve {
        host: name.to_owned(),
        error: Arc::new(source),
    };
    match found {
        Ok(Ok(addresses)) if !addresses.is_empty() => Ok(addresses),
        Ok(Ok(_)) => Err(unresolved(io::Error::other("it has no address")).into()),
        Ok(Err(error)) => Err(unresolved(error).into()),
        Err(_) => Err(unresolved(io::Error::other("the look-up panicked")).into()),
    }
}

/// IPv6 and IPv4 by turns, beginning with what the resolver put first (RFC 8305, section 4).
fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let Some(first) = addresses.first() else {
        return addresses;
    };
    let first_is_v6 = first.is_ipv6();
    let (a, b): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|address| address.is_ipv6() == first_is_v6);
    let (mut a, mut b) = (a.into_iter(), b.into_iter());
    let mut mixed = Vec::new();
    loop {
        let pair = [a.next(), b.next()];
        if pair == [None, None] {
            return mixed;
        }
        mixed.extend(pair.into_iter().flatten());
    }
}

/// Tries the addresses, each a little later than the one before; the first to answer wins.
fn race(
    addresses: &[SocketAddr],
    deadline: Instant,
    cancel: &Cancel,
) -> Result<TcpStream, Failure> {
    let mut waiting = addresses.iter();
    let mut running: Vec<TcpStream> = Vec::new();
    let mut next_start = Instant::now();
    let mut last_error = io::Error::other("the host has no address");
    loop {
        let now = Instant::now();
        if cancel.is_cancelled() {
            return Err(cancelled());
        }
        if now >= deadline {
            return Err(Failure::TimedOut("a TCP connection"));
        }
        if running.is_empty() || now >= next_start {
            if let Some(address) = waiting.next() {
                match start(address) {
                    Ok(stream) => running.push(stream),
                    Err(error) => last_error = error,
                }
                next_start = now + HEAD_START;
                continue;
            }
            if running.is_empty() {
                return Err(Failure::Failed(Error::Connect {
                    address: list(addresses),
                    error: Arc::new(last_error),
                }));
            }
        }
        let until = match waiting.len() {
            0 => deadline,
            _ => deadline.min(next_start),
        };
        let Some(index) = wait_for_one(&running, until - now, cancel)? else {
            continue;
        };
        let stream = running.swap_remove(index);
        match socket_error(&stream).map_err(io::Error::from) {
            // On this machine an attempt at a free port may happen to come from that very port.
            Ok(Ok(())) if stream.local_addr().ok() == stream.peer_addr().ok() => {
                last_error = io::ErrorKind::ConnectionRefused.into();
            }
            Ok(Ok(())) => return Ok(stream),
            Ok(Err(error)) => last_error = error.into(),
            Err(error) => last_error = error,
        }
    }
}

/// Begins to connect and does not wait.
fn start(address: &SocketAddr) -> io::Result<TcpStream> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = rustix::net::socket(family, SocketType::STREAM, None)?;
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&socket, true)?;
    match rustix::net::connect(&socket, address) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(TcpStream::from(socket)),
        Err(error) => Err(error.into()),
    }
}

/// Waits until one of the attempts has come to an end; `None` when the time is over or it was cancelled.
fn wait_for_one(
    running: &[TcpStream],
    timeout: Duration,
    cancel: &Cancel,
) -> Result<Option<usize>, Failure> {
    let mut fds = Vec::with_capacity(running.len() + 1);
    fds.push(PollFd::from_borrowed_fd(
        cancel.woken.as_fd(),
        PollFlags::IN,
    ));
    let attempts = running.iter();
    fds.extend(attempts.map(|stream| PollFd::from_borrowed_fd(stream.as_fd(), PollFlags::OUT)));
    let timeout = Timespec::try_from(timeout).ok();
    match poll(&mut fds, timeout.as_ref()) {
        Ok(_) => {}
        Err(Errno::INTR) => return Ok(None),
        Err(error) => return Err(Error::lost(error.into()).into()),
    }
    Ok(fds[1..].iter().position(|fd| !fd.revents().is_empty()))
}

fn list(addresses: &[SocketAddr]) -> String {
    let addresses = addresses.iter().map(SocketAddr::to_string);
    addresses.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn urls_that_cannot_work_are_refused_with_the_reason() {
        for (url, word) in [
            ("ws://", "host"),
            ("//x", "scheme"),
            ("ftp://x", "scheme"),
            ("ws://x:70000", "port"),
            ("ws://x:0", "port"),
            ("wss://x", "TLS"),
            ("", "scheme"),
            ("ws://me:secret@x", "password"),
            ("localhost:8080", "ws://localhost:8080"),
        ] {
            let error = parse_url(url).unwrap_err().to_string();
            assert!(error.contains(word), "{url}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn http_is_read_as_ws_and_a_fragment_is_not_sent() {
        assert_eq!(parse_url("http://x/a#b").unwrap().as_str(), "ws://x/a");
        assert_eq!(parse_url("ws://[::1]:80").unwrap().as_str(), "ws://[::1]/");
    }

    #[test]
    fn an_address_that_refuses_does_not_keep_the_next_from_being_tried() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let good = listener.local_addr().unwrap();
        let refusing = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let cancel = Cancel::new().unwrap();
        let stream = race(&[refusing, good], soon(), &cancel).ok().unwrap();
        assert_eq!(stream.peer_addr().unwrap(), good);
    }

    #[test]
    fn when_all_refuse_the_error_names_them() {
        let refusing = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let cancel = Cancel::new().unwrap();
        match race(&[refusing], soon(), &cancel) {
            Err(Failure::Failed(Error::Connect { address, error })) => {
                assert_eq!(address, refusing.to_string());
                assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
            }
            _ => panic!(),
        }
    }

    #[test]
    fn families_take_turns() {
        let parse = |list: &[&str]| list.iter().map(|a| a.parse().unwrap()).collect::<Vec<_>>();
        let mixed = interleave(parse(&["[::1]:1", "[::2]:1", "1.1.1.1:1", "[::3]:1"]));
        assert_eq!(
            mixed,
            parse(&["[::1]:1", "1.1.1.1:1", "[::2]:1", "[::3]:1"])
        );
    }

    #[test]
    fn a_cancelled_attempt_ends_without_waiting_for_the_network() {
        // A listener whose backlog is full does not answer.
        let cancel = Cancel::new().unwrap();
        cancel.cut();
        let silent = "127.0.0.1:9".parse().unwrap();
        assert!(race(&[silent], soon(), &cancel).is_err());
        let url = parse_url("ws://localhost:9").unwrap();
        assert!(connect(&url, soon(), &cancel).is_err());
    }
}
