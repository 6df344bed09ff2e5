//! A connection's slot in the registry of its server.

use super::handle::Websocket;

/// A slot that a server assigns to each request. It is free again when its last reference is
/// dropped: when the connection has ended, or the request was answered.
pub(crate) trait Slot: Send + Sync {
    /// Adds the connection to the server's registry. Closes it if the server is shutting down.
    fn register(&self, connection: &Websocket);

    /// Tells the server that the connection has ended. The slot may stay in use to answer a client
    /// that was refused.
    fn connection_ended(&self);
}
