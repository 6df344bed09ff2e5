//! One message to many connections.

use std::borrow::Borrow;

use super::handle::Websocket;
use super::shared::Shared;
use crate::message::Message;

/// Puts a message to all these connections, as [`put_nowait`](Websocket::put_nowait) does. Never
/// waits, so a slow peer does not delay others.
///
/// The message is serialised once. If connections compress without [context
/// takeover](crate::Deflate#broadcasts), it is compressed once as well.
///
/// Returns the connections that miss it because their send queue is full: ignore this, or close
/// them. Connections that are closing are not included.
///
/// A peer that does not read misses nothing until its queue is full, which may take hours, and
/// receives all of it later. If only the newest message counts, call
/// [`put_latest`](Websocket::put_latest) for each connection, or set a shorter
/// [`send_queue`](crate::Options::send_queue).
///
/// The connections may be clients, or accepted from any servers. All connections of one server are
/// reached by [`ServerHandle::broadcast`](crate::ServerHandle::broadcast).
///
/// # Examples
///
/// ```
/// use rtcbot_websocket::{Websocket, broadcast, json};
///
/// let pairs = [Websocket::pair(), Websocket::pair(), Websocket::pair()];
/// let viewers = pairs.iter().map(|(viewer, _)| viewer);
/// for slow in broadcast(viewers, json!({"battery": 0.8})) {
///     println!("{} misses the state", slow.name());
/// }
/// for (_, peer) in &pairs {
///     assert_eq!(peer.get()?, json!({"battery": 0.8}));
/// }
/// # Ok::<(), rtcbot_websocket::Error>(())
/// ```
pub fn broadcast<C: Borrow<Websocket>>(
    connections: impl IntoIterator<Item = C>,
    message: impl Into<Message>,
) -> Vec<Websocket> {
    // Collected, so that none is dropped before the message is put to all: dropping the last handle
    // waits until the connection is closed.
    let connections: Vec<C> = connections.into_iter().collect();
    let missed = put_to_all(
        connections.iter(),
        |c| (*c).borrow().shared(),
        message.into(),
    );
    missed.into_iter().map(|c| c.borrow().clone()).collect()
}

/// Puts a message to all connections. Returns those whose send queue is full.
pub(crate) fn put_to_all<C>(
    connections: impl IntoIterator<Item = C>,
    shared: impl Fn(&C) -> &Shared,
    message: Message,
) -> Vec<C> {
    // The message is serialised once for all connections.
    let (message, _value) = message.without_value();
    let message = message.compressed_once();
    let mut as_json = None;
    let misses = |connection: &C| {
        let shared = shared(connection);
        let message = match shared.options.json {
            true => as_json.get_or_insert_with(|| message.quoted()),
            false => &message,
        };
        let put = shared.send_queue.put_nowait(message.clone());
        put.is_err_and(|error| error.is_full())
    };
    connections.into_iter().filter(misses).collect()
}
