//! TLS: a session that two threads share, full duplex.
//!
//! Reading and writing both need the whole of a TLS session, so both halves share it behind a lock.
//! **No operation on the session waits**: its socket returns the bytes that have arrived, and
//! accepts all bytes that are written, keeping those that the system does not accept. The halves
//! wait with poll(2), without the lock.
//!
//! A TLS read may have to write: the reply to a renegotiation (TLS 1.2) or to a KeyUpdate (TLS
//! 1.3). If OpenSSL has written half a record at that time, it fails with an error that ends the
//! connection. Here it never has, because its writes always succeed. The next half that runs sends
//! the bytes that were kept.
//!
//! A TLS write may have to read, during a renegotiation. **Only the reader reads**: otherwise a
//! writer could take bytes that the reader waits for. Such a write waits until the reader has made
//! progress.

mod handshake;
mod session;
mod wire;

pub(crate) use self::handshake::{CLIENT, Handshake, connect, try_out};
pub(crate) use self::session::Tls;
pub(crate) use self::wire::Wire;
