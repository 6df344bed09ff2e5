//! TCP connections to a host: names, addresses, and overlapping attempts (RFC 8305).

use std::io;
use std::net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, sockopt::socket_error};
use url::Host;

use super::handshake::Failure;
use super::host::Endpoint;
use super::socket::wait_for;
use super::transport::ShutdownHandle;
use crate::descriptors::with_descriptor_limit;
use crate::error::{Error, Result};
use crate::thread::spawn_with;

/// The time after which an attempt at the next address starts in parallel (RFC 8305, section 5).
const HEAD_START: Duration = Duration::from_millis(250);

/// The pause before the next attempt at a Unix socket whose backlog was full.
const TRY_AGAIN: Duration = Duration::from_millis(10);

/// Cancels an attempt to connect, whatever it waits for.
pub(crate) struct Cancel {
    /// Shut down to make `woken` readable.
    waker: UnixStream,
    woken: UnixStream,
}

impl Cancel {
    pub(crate) fn new() -> io::Result<Arc<Self>> {
        let (waker, woken) = UnixStream::pair().map_err(with_descriptor_limit)?;
        Ok(Arc::new(Cancel { waker, woken }))
    }

    /// Waits until one of the descriptors has one of `events`, and returns its index. Returns
    /// `None` at the end of the time, and sometimes before.
    ///
    /// # Errors
    ///
    /// A failure after a cancellation, which ends the wait.
    fn wait<F: AsFd>(
        &self,
        descriptors: &[F],
        events: PollFlags,
        until: Instant,
    ) -> Result<Option<usize>, Failure> {
        let mut fds = vec![PollFd::new(&self.woken, PollFlags::IN)];
        fds.extend(descriptors.iter().map(|fd| PollFd::new(fd, events)));
        wait_for(&mut fds, Some(until)).map_err(Error::lost)?;
        match fds.iter().position(|fd| !fd.revents().is_empty()) {
            Some(0) => Err(Error::lost(io::ErrorKind::Interrupted.into()).into()),
            ready => Ok(ready.map(|index| index - 1)),
        }
    }
}

impl ShutdownHandle for Cancel {
    fn shutdown(&self) {
        let _ = self.waker.shutdown(Shutdown::Both);
    }
}

/// Connects to the first address of the host that answers before the deadline.
pub(crate) fn connect(
    endpoint: &Endpoint,
    deadline: Instant,
    cancel: &Cancel,
) -> Result<TcpStream, Failure> {
    let addresses = addresses(endpoint, deadline, cancel)?;
    race(&interleave(&addresses), deadline, cancel)
}

/// Returns a host's addresses in the order of the system's resolver.
pub(crate) fn addresses(
    endpoint: &Endpoint,
    deadline: Instant,
    cancel: &Cancel,
) -> Result<Vec<SocketAddr>, Failure> {
    let port = endpoint.port;
    let (name, zone) = match (&endpoint.host, endpoint.zone.clone()) {
        (Host::Ipv4(ip), _) => return Ok(vec![SocketAddr::new(IpAddr::V4(*ip), port)]),
        (Host::Ipv6(ip), None) => return Ok(vec![SocketAddr::new(IpAddr::V6(*ip), port)]),
        // The system's resolver knows the names and numbers of interfaces (RFC 4007, section 11).
        (Host::Ipv6(ip), Some(zone)) => (format!("{ip}%{zone}"), Some(zone)),
        (Host::Domain(name), _) => (name.clone(), None),
    };
    let place = (name.clone(), port);
    let look_up = move || match (place.to_socket_addrs(), zone) {
        (Ok(addresses), _) => Ok(addresses.collect()),
        (Err(_), Some(zone)) => {
            let unknown = format!("this machine has no network interface {zone:?}");
            Err(io::Error::new(io::ErrorKind::NotFound, unknown))
        }
        (Err(error), None) => Err(error),
    };
    resolve(&name, look_up, deadline, cancel)
}

/// Connects to a Unix socket. If the server's backlog is full, this tries again, because poll(2)
/// cannot wait for it.
pub(crate) fn connect_unix(
    path: &Path,
    deadline: Instant,
    cancel: &Cancel,
) -> Result<UnixStream, Failure> {
    let failed = |error: io::Error| {
        Failure::Failed(Error::Connect {
            address: path.display().to_string(),
            error: Arc::new(error),
        })
    };
    // `Target` has rejected paths that do not fit into an address.
    let address = SocketAddrUnix::new(path).map_err(|error| failed(error.into()))?;
    let socket = socket(AddressFamily::UNIX).map_err(failed)?;
    loop {
        if Instant::now() >= deadline {
            return Err(Failure::TimedOut("the Unix socket's server"));
        }
        match rustix::net::connect(&socket, &address) {
            Ok(()) => return Ok(UnixStream::from(socket)),
            Err(Errno::AGAIN | Errno::INTR) => {
                let until = deadline.min(Instant::now() + TRY_AGAIN);
                cancel.wait::<OwnedFd>(&[], PollFlags::IN, until)?;
            }
            Err(error) => return Err(failed(error.into())),
        }
    }
}

/// Looks the name up on a separate thread, because the system's resolver cannot be interrupted.
/// After a cancellation or a time-out, the thread ends with the look-up.
fn resolve(
    name: &str,
    look_up: impl FnOnce() -> io::Result<Vec<SocketAddr>> + Send + 'static,
    deadline: Instant,
    cancel: &Cancel,
) -> Result<Vec<SocketAddr>, Failure> {
    let unresolved = |source: io::Error| Error::Resolve {
        host: name.to_owned(),
        error: Arc::new(source),
    };
    let (done, running) =
        UnixStream::pair().map_err(|error| unresolved(with_descriptor_limit(error)))?;
    let thread = spawn_with("ws-resolve", None, move || {
        let found = look_up();
        // Makes `running` readable. Dropping it is not enough if a forked child has a copy.
        let _ = done.shutdown(Shutdown::Both);
        found
    })
    .map_err(|error| Error::Thread(Arc::new(error)))?;

    // The look-up ends the wait, or a cancellation, or the deadline.
    let running = [running];
    while cancel.wait(&running, PollFlags::IN, deadline)?.is_none() {
        if Instant::now() >= deadline {
            return Err(Failure::TimedOut("the look-up of the host's name"));
        }
    }
    // The thread has nothing left to do.
    match thread.join() {
        Ok(found) => Ok(found.map_err(unresolved)?),
        Err(_) => Err(unresolved(io::Error::other("the look-up panicked")).into()),
    }
}

/// Alternates between IPv6 and IPv4, beginning with the resolver's first family (RFC 8305, section
/// 4).
fn interleave(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (a, b): (Vec<_>, Vec<_>) = addresses
        .iter()
        .copied()
        .partition(|address| address.is_ipv6() == first_is_v6);
    let pairs = (0..addresses.len()).flat_map(|index| [a.get(index), b.get(index)]);
    pairs.flatten().copied().collect()
}

/// Tries the addresses, each a little later than the previous one. Returns the first connection.
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
                let all: Vec<_> = addresses.iter().map(SocketAddr::to_string).collect();
                return Err(Failure::Failed(Error::Connect {
                    address: all.join(", "),
                    error: Arc::new(last_error),
                }));
            }
        }
        let until = match waiting.len() {
            0 => deadline,
            _ => deadline.min(next_start),
        };
        let Some(index) = cancel.wait(&running, PollFlags::OUT, until)? else {
            continue;
        };
        let stream = running.swap_remove(index);
        match socket_error(&stream).map_err(io::Error::from) {
            // On this machine, an attempt at a free port may connect from that very port to itself.
            Ok(Ok(())) if stream.local_addr().ok() == stream.peer_addr().ok() => {
                last_error = io::ErrorKind::ConnectionRefused.into();
            }
            Ok(Ok(())) => return Ok(stream),
            Ok(Err(error)) => last_error = error.into(),
            Err(error) => last_error = error,
        }
    }
}

/// Starts to connect without waiting.
fn start(address: &SocketAddr) -> io::Result<TcpStream> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = socket(family)?;
    match rustix::net::connect(&socket, address) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(TcpStream::from(socket)),
        Err(Errno::INVAL) if needs_zone(address) => {
            let text = "a link-local address needs its network interface, as in [fe80::1%eth0]";
            Err(io::Error::new(io::ErrorKind::InvalidInput, text))
        }
        Err(error) => Err(error.into()),
    }
}

/// Returns whether the address is link-local and has no network interface.
fn needs_zone(address: &SocketAddr) -> bool {
    matches!(address, SocketAddr::V6(v6) if v6.scope_id() == 0
        && Ipv6Addr::is_unicast_link_local(v6.ip()))
}

/// Returns a non-blocking socket.
#[cfg(not(target_vendor = "apple"))]
pub(crate) fn socket(family: AddressFamily) -> io::Result<OwnedFd> {
    use rustix::net::{SocketFlags, socket_with};
    // One call, so that a program that another thread starts does not inherit the socket.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None);
    socket.map_err(|error| with_descriptor_limit(error.into()))
}

/// Returns a non-blocking socket.
#[cfg(target_vendor = "apple")]
pub(crate) fn socket(family: AddressFamily) -> io::Result<OwnedFd> {
    let socket = rustix::net::socket(family, SocketType::STREAM, None);
    let socket = socket.map_err(|error| with_descriptor_limit(error.into()))?;
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&socket, true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::bounded;
    use std::net::TcpListener;
    use std::thread;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn the_next_address_is_tried_after_a_refusal() {
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
    fn the_error_names_all_addresses_that_refused() {
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
    fn address_families_alternate() {
        let parse = |list: &[&str]| list.iter().map(|a| a.parse().unwrap()).collect::<Vec<_>>();
        let mixed = interleave(&parse(&["[::1]:1", "[::2]:1", "1.1.1.1:1", "[::3]:1"]));
        assert_eq!(
            mixed,
            parse(&["[::1]:1", "1.1.1.1:1", "[::2]:1", "[::3]:1"])
        );
    }

    // The part of IXWebSocket 151 that otherwise shows only with a slow name server.
    #[test]
    fn a_running_look_up_is_cancelled_immediately() {
        let cancel = Cancel::new().unwrap();
        let (begun, under_way) = bounded(0);
        let (_never, answer) = bounded::<()>(0);
        let look_up = move || {
            begun.send(()).unwrap();
            let _ = answer.recv();
            Ok(Vec::new())
        };
        let resolved = thread::scope(|scope| {
            let resolving = scope.spawn(|| resolve("robot.local", look_up, soon(), &cancel));
            under_way.recv().unwrap();
            cancel.shutdown();
            resolving.join().unwrap()
        });
        assert!(matches!(resolved, Err(Failure::Failed(Error::Lost(_)))));
    }

    #[test]
    fn a_slow_look_up_ends_at_the_deadline() {
        let cancel = Cancel::new().unwrap();
        let (_never, answer) = bounded::<()>(0);
        let look_up = move || {
            let _ = answer.recv();
            Ok(Vec::new())
        };
        let deadline = Instant::now() + Duration::from_millis(50);
        let resolved = resolve("robot.local", look_up, deadline, &cancel);
        let stage = match resolved {
            Err(Failure::TimedOut(stage)) => stage,
            _ => panic!("it did not time out"),
        };
        assert_eq!(stage, "the look-up of the host's name");
        assert!(Instant::now() < soon());
    }

    #[test]
    fn a_cancelled_attempt_ends_without_waiting_for_the_network() {
        // A listener whose backlog is full does not answer.
        let cancel = Cancel::new().unwrap();
        cancel.shutdown();
        let silent = "127.0.0.1:9".parse().unwrap();
        assert!(race(&[silent], soon(), &cancel).is_err());
        let endpoint = Endpoint {
            host: Host::Domain("localhost".to_owned()),
            zone: None,
            port: 9,
        };
        assert!(connect(&endpoint, soon(), &cancel).is_err());
    }
}
