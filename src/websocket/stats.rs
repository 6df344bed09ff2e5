//! Counts what has gone through a `Websocket`, and what waits in it.

use std::sync::atomic::{AtomicU64, Ordering};

use super::control::Latency;
use super::session::Session;
use super::shared::Shared;

/// Counts what has gone through a [`Websocket`](crate::Websocket) so far, and what waits in it now;
/// returned by [`Websocket::stats`](crate::Websocket::stats). The numbers include all connections
/// of a `Websocket` that [reconnects](crate::Options::reconnect).
///
/// The numbers are read one after the other while the connection goes on, so they may differ by the
/// latest messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Messages that were received.
    pub messages_in: u64,
    /// Messages that were written to the socket.
    pub messages_out: u64,
    /// Bytes that were received: frames with their headers, without TLS and without the handshake.
    pub bytes_in: u64,
    /// Bytes that were written, counted in the same way.
    pub bytes_out: u64,
    /// Messages that were put, or taken from a source, and are not written yet. Up to 128 messages
    /// that are just being written may be counted or not.
    pub send_queue: usize,
    /// How much of [`Options::send_queue`](crate::Options::send_queue) is in use: bytes of payload,
    /// and 64 for each message.
    pub send_queue_bytes: usize,
    /// How many messages the slowest consumer has yet to take.
    ///
    /// These are the messages in the longest queue of a subscription, the messages that wait for
    /// callbacks (once for each callback), or the messages that are kept before anything has
    /// subscribed; and behind them those of a lost connection. Up to 128 messages that the reader
    /// is just handing out are not counted. After the end, only messages that wait for callbacks or
    /// are kept count.
    pub receive_queue: usize,
    /// Messages that were received and dropped. A message that is dropped by two subscriptions
    /// counts twice.
    ///
    /// The reason may be the policy of a queue, a full sink that does not wait, callbacks without a
    /// thread, too many messages before anything had subscribed, or a subscriber that did not take
    /// them in time: during [`close`](crate::Websocket::close), within
    /// [`close_timeout`](crate::Options::close_timeout) of the end, or because too many were
    /// [kept](crate::Options::reconnect) of lost connections.
    pub dropped: u64,
    /// Messages that had been written when a connection ended and that the peer may not have
    /// received: no pong has arrived for a ping behind them, and the closing handshake of this side
    /// was not completed.
    ///
    /// This is an upper bound over all connections; it is the closer, the shorter
    /// [`ping_interval`](crate::Options::ping_interval) is. It includes a connection when
    /// [`on_disconnect`](crate::Websocket::on_disconnect) is called for it.
    pub unconfirmed: u64,
    /// Messages that were accepted and never written. 0 until the connection has ended for good.
    pub unsent: u64,
    /// How many connections there were after the first.
    pub reconnects: u64,
    /// The round-trip time: see [`Websocket::latency`](crate::Websocket::latency).
    pub latency: Option<Latency>,
}

impl Stats {
    pub(super) fn of(shared: &Shared) -> Stats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (received, sent) = (&shared.received, shared.send_queue.sent());
        let connections = shared.lifecycle.look(Session::connections);
        let (queued, send_queue_bytes) = shared.send_queue.consumer().backlog();
        Stats {
            messages_in: read(&received.messages),
            messages_out: read(&sent.messages),
            bytes_in: read(&received.bytes),
            bytes_out: read(&sent.bytes),
            send_queue: queued + usize::try_from(read(&sent.in_writer)).unwrap_or(usize::MAX),
            send_queue_bytes,
            receive_queue: shared.producer.backlog(),
            dropped: shared.producer.dropped(),
            unconfirmed: read(&sent.unconfirmed),
            unsent: read(&sent.unsent),
            reconnects: connections.saturating_sub(1),
            latency: shared.send_queue.latency(),
        }
    }
}
