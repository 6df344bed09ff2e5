//! TLS: a session that two threads share, full duplex.
//!
//! A TLS session cannot be divided: reading and writing both need all of it. So both halves share
//! it behind a lock, and **no operation on it ever waits**. The session's socket gives what has
//! arrived, and takes everything that is written: it keeps what the system has no room for. The
//! halves wait with poll(2), without the lock.
//!
//! A TLS read may have to write: the answer to a renegotiation (TLS 1.2) or to a KeyUpdate (TLS
//! 1.3). OpenSSL fails there when it has a record half written, with an error that ends the
//! connection. It never has one here, since its writes always succeed. The half that comes first
//! sends what is kept.
//!
//! A TLS write may have to read, during a renegotiation. **Only reads read**: otherwise a writer
//! could take bytes that the reader waits for. Such a write waits until the reader has made
//! progress.

mod handshake;
mod session;
mod wire;

pub(crate) use self::handshake::{Accepting, connect, try_out};
pub(crate) use self::session::Tls;
pub(crate) use self::wire::Wire;
