//! The socket of a server: a TCP port, or the path of a Unix socket.

use std::fmt::Display;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix};

use crate::descriptors::with_descriptor_limit;
use crate::net::dial::socket;
use crate::net::socket::Socket;
use crate::process::OwnerProcess;

/// The maximum number of connections that wait to be accepted. The system may allow fewer. std
/// requests 128, and a client that exceeds the limit tries again only after a second.
const BACKLOG: i32 = 4096;

pub(crate) enum Listener {
    Tcp(TcpListener),
    /// The file is dropped first, while the socket still listens, so that no other server finds a
    /// file without a listener and replaces it.
    Unix(Option<File>, UnixListener),
}

/// The file of a Unix socket that this process made. Dropping this removes the file.
pub(crate) struct File {
    path: PathBuf,
    device: u64,
    inode: u64,
    process: OwnerProcess,
}

impl Listener {
    pub(crate) fn tcp(address: impl ToSocketAddrs) -> io::Result<Self> {
        let addresses: Vec<_> = address.to_socket_addrs()?.collect();
        let listener = TcpListener::bind(&*addresses).map_err(with_descriptor_limit);
        let listener = listener.map_err(|error| {
            let names: Vec<_> = addresses.iter().map(SocketAddr::to_string).collect();
            match names.is_empty() {
                true => error,
                false => named(&names.join(", "), &error),
            }
        })?;
        rustix::net::listen(&listener, BACKLOG)?;
        Ok(Listener::Tcp(listener))
    }

    /// Listens on a path. Replaces the file of a server that no longer exists.
    pub(crate) fn unix(path: &Path) -> io::Result<Self> {
        Self::at_path(path).map_err(|error| named(&path.display(), &error))
    }

    fn at_path(path: &Path) -> io::Result<Self> {
        let lock = lock_folder_of(path);
        let listener = match UnixListener::bind(path).map_err(with_descriptor_limit) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_left_over(path) => {
                fs::remove_file(path)?;
                UnixListener::bind(path)?
            }
            other => other?,
        };
        drop(lock);
        rustix::net::listen(&listener, BACKLOG)?;
        let metadata = fs::symlink_metadata(path)?;
        let file = File {
            path: fs::canonicalize(path)?,
            device: metadata.dev(),
            inode: metadata.ino(),
            process: OwnerProcess::current(),
        };
        Ok(Listener::Unix(Some(file), listener))
    }

    /// Makes the listener non-blocking.
    pub(crate) fn prepare(&self) -> io::Result<()> {
        Ok(rustix::io::ioctl_fionbio(self, true)?)
    }

    pub(crate) fn accept(&self) -> io::Result<Socket> {
        match self {
            Listener::Tcp(listener) => Ok(listener.accept()?.0.into()),
            Listener::Unix(_, listener) => Ok(listener.accept()?.0.into()),
        }
    }

    pub(crate) fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Listener::Tcp(listener) => listener.local_addr().ok(),
            Listener::Unix(..) => None,
        }
    }

    pub(crate) fn path(&self) -> Option<PathBuf> {
        match self {
            Listener::Tcp(_) => None,
            Listener::Unix(Some(file), _) => Some(file.path.clone()),
            Listener::Unix(None, listener) => {
                let address = listener.local_addr().ok()?;
                address.as_pathname().map(Path::to_owned)
            }
        }
    }
}

/// Returns the error with the address or path that it is about.
fn named(place: &dyn Display, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot listen on {place}: {error}"))
}

/// Returns whether the path is a socket without a listener.
fn is_left_over(path: &Path) -> bool {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|data| data.file_type().is_socket());
    match (socket(AddressFamily::UNIX), SocketAddrUnix::new(path)) {
        // This does not wait: if the backlog is full, the error is another one, and the server
        // exists.
        (Ok(socket), Ok(address)) if is_socket => {
            rustix::net::connect(&socket, &address) == Err(Errno::CONNREFUSED)
        }
        _ => false,
    }
}

/// Locks the folder of a path until the lock is dropped, so that no other server makes a socket in
/// it. Otherwise two servers that both find an abandoned socket could remove each other's.
///
/// Waits up to a second for another program's lock. Returns `None` after that, or if the file
/// system has no locks.
fn lock_folder_of(path: &Path) -> Option<fs::File> {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let folder = fs::File::open(folder).ok()?;
    for _ in 0..200 {
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Some(folder),
            Err(Errno::WOULDBLOCK) => thread::sleep(Duration::from_millis(5)),
            Err(_) => return None,
        }
    }
    None
}

impl Drop for File {
    fn drop(&mut self) {
        if !self.process.is_current() {
            return;
        }
        // Another server may have replaced the file.
        let found = fs::symlink_metadata(&self.path);
        if found.is_ok_and(|data| (data.dev(), data.ino()) == (self.device, self.inode)) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Listener::Tcp(listener) => listener.as_fd(),
            Listener::Unix(_, listener) => listener.as_fd(),
        }
    }
}
