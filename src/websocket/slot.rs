//! A connection's place among those of its server.

use super::handle::Websocket;

/// What a server gives along with a request. The place is free again when the last reference to it
/// is dropped: when the connection has ended, or the request was answered.
pub(crate) trait Slot: Send + Sync {
    /// Makes the connection known to the server. Closes it if the server is shutting down.
    fn register(&self, connection: &Websocket);

    /// Tells the server that the connection has ended. The place may be needed for longer, to
    /// answer a client that was refused.
    fn connection_ended(&self);
}
