//! What has gone through a `Websocket`, and what waits in it.

use std::sync::atomic::{AtomicU64, Ordering};

use super::control::Latency;
use super::shared::Shared;

/// What has gone through a [`Websocket`](crate::Websocket) so far, and what waits in it now: see
/// [`Websocket::stats`](crate::Websocket::stats). Where it [reconnects](crate::Options::reconnect), all
/// its connections together.
///
/// The numbers are read one after the other while the connection goes on, so they need not fit together to the
/// last message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Messages that came in.
    pub messages_in: u64,
    /// Messages that were written to the socket.
    pub messages_out: u64,
    /// Bytes that came in: frames with their heads, before TLS is added; not the handshake.
    pub bytes_in: u64,
    /// Bytes that were written, counted in the same way.
    pub bytes_out: u64,
    /// Messages that were put, or taken from a source, and are not written yet; give or take some that
    /// are just being written (64 at most).
    pub send_queue: usize,
    /// How much of [`Options::send_queue`](crate::Options::send_queue) is in use: bytes of payload, and
    /// 64 for each message.
    pub send_queue_bytes: usize,
    /// How many messages the slowest consumer has yet to take: those in the longest queue of a
    /// subscription, those that wait for callbacks (once for each), or before anything has subscribed, those that
    /// are kept; and those behind them, of a connection that was lost. Not those that the reader has in
    /// its hands (128 at most). After the end, those that wait for callbacks or are kept.
    pub receive_queue: usize,
    /// Messages that came in and were dropped: by the policy of a queue, for a sink that was full
    /// and does not wait, for callbacks that got no thread, since too many came before anything had
    /// subscribed, or for who had not taken them in time: during
    /// [`close`](crate::Websocket::close), within [`close_timeout`](crate::Options::close_timeout)
    /// of the end, or as far as too much was [kept](crate::Options::reconnect) of connections that
    /// were lost. One that is dropped by two subscriptions counts twice.
    pub dropped: u64,
    /// Messages that had been written when a connection ended and that the peer may not have taken: no
    /// pong has come for a ping behind them, and the closing handshake of this side was not completed.
    ///
    /// It is an upper bound, over all connections, as close as [`ping_interval`](crate::Options::ping_interval)
    /// is short. When [`on_disconnect`](crate::Websocket::on_disconnect) is called, that connection is counted.
    pub unconfirmed: u64,
    /// Messages that were accepted and never written, since the connection ended for good. 0 until then.
    pub unsent: u64,
    /// How many connections there were after the first.
    pub reconnects: u64,
    /// How long the way to the peer and back takes: see [`Websocket::latency`](crate::Websocket::latency).
    pub latency: Option<Latency>,
}

impl Stats {
    pub(super) fn of(shared: &Shared) -> Stats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (received, sent) = (&shared.received, shared.send_queue.sent());
        let (queued, send_queue_bytes) = shared.send_queue.consumer().backlog();
        Stats {
            messages_in: read(&received.messages),
            messages_out: read(&sent.messages),
            bytes_in: read(&received.bytes),
            bytes_out: read(&sent.bytes),
            send_queue: queued + usize::try_from(read(&sent.in_hand)).unwrap_or(usize::MAX),
            send_queue_bytes,
            receive_queue: shared.producer.backlog(),
            dropped: shared.producer.dropped(),
            unconfirmed: read(&sent.unconfirmed),
            unsent: read(&sent.unsent),
            reconnects: read(&received.connections).saturating_sub(1),
            latency: shared.send_queue.latency(),
        }
    }
}
