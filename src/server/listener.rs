//! Where connections come in: a TCP port, or the path of a Unix socket.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use super::BACKLOG;
use crate::net::socket::Socket;

pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, Option<File>),
}

/// The file of a Unix socket that was made here; it is removed with the listener.
pub(crate) struct File {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Listener {
    /// Listens on a path. A file that a server left there which is no more is replaced.
    pub(crate) fn unix(path: &Path) -> io::Result<Self> {
        let listener = match UnixListener::bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_left_over(path) => {
                fs::remove_file(path)?;
                UnixListener::bind(path)?
            }
            other => other?,
        };
        rustix::net::listen(&listener, BACKLOG)?;
        let metadata = fs::symlink_metadata(path)?;
        let file = File {
            path: fs::canonicalize(path)?,
            device: metadata.dev(),
            inode: metadata.ino(),
        };
        Ok(Listener::Unix(listener, Some(file)))
    }

    /// Makes accepting not wait.
    pub(crate) fn prepare(&self) -> io::Result<()> {
        match self {
            Listener::Tcp(listener) => listener.set_nonblocking(true),
            Listener::Unix(listener, _) => listener.set_nonblocking(true),
        }
    }

    pub(crate) fn accept(&self) -> io::Result<Socket> {
        match self {
            Listener::Tcp(listener) => Ok(listener.accept()?.0.into()),
            Listener::Unix(listener, _) => Ok(listener.accept()?.0.into()),
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
            Listener::Unix(_, Some(file)) => Some(file.path.clone()),
            Listener::Unix(listener, None) => {
                let address = listener.local_addr().ok()?;
                address.as_pathname().map(Path::to_owned)
            }
        }
    }
}

/// Whether it is a socket that nobody listens on.
fn is_left_over(path: &Path) -> bool {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|data| data.file_type().is_socket());
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    is_socket && UnixStream::connect(path).is_err_and(refused)
}

impl Drop for File {
    fn drop(&mut self) {
        // Another server may have taken the place.
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
            Listener::Unix(listener, _) => listener.as_fd(),
        }
    }
}
