//! The numbers of messages and bytes that a `Websocket` has transferred, and of those that are
//! queued.

use std::sync::atomic::{AtomicU64, Ordering};

use super::control_frames::Latency;
use super::session::Session;
use super::shared::Shared;

/// The numbers of messages and bytes that a [`Websocket`](crate::Websocket) has transferred, and of
/// those that are queued.
///
/// [`Websocket::stats`](crate::Websocket::stats) returns it. If the `Websocket`
/// [reconnects](crate::Options::reconnect), the numbers cover all of its connections.
///
/// The numbers are read one after the other while the connection continues, so they may differ from
/// each other by a few messages.
///
/// # Examples
///
/// ```
/// use rtcbot_websocket::Websocket;
///
/// let (robot, operator) = Websocket::pair();
/// robot.put_nowait("hello")?;
/// operator.get()?;
/// assert_eq!(operator.stats().messages_in, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// The number of messages received.
    pub messages_in: u64,
    /// The number of messages written to the socket.
    pub messages_out: u64,
    /// The number of bytes received: frames with their heads, without TLS and the handshake.
    pub bytes_in: u64,
    /// The number of bytes written, counted in the same way.
    pub bytes_out: u64,
    /// The number of messages that were put, or taken from a source, and are not written yet. It
    /// may differ by up to 128 messages that are being written.
    pub send_queue: usize,
    /// The part of [`Options::send_queue`](crate::Options::send_queue) that is in use, in bytes:
    /// the payload, and 64 bytes for each message. Messages that are being written are not
    /// included: up to 128 KiB, and one message that is longer.
    pub send_queue_bytes: usize,
    /// The number of messages that the slowest consumer has not taken yet.
    ///
    /// This is the length of the longest queue: of a subscription, of all callbacks (each message
    /// counts once for each callback), or of the messages kept before the first subscription.
    /// Messages of a lost connection that are queued behind these are included. Up to 128 messages
    /// that the reader is delivering are not.
    ///
    /// After the end, it is the number of messages that are queued for callbacks or kept.
    pub receive_queue: usize,
    /// The number of received messages that were dropped. A message that two subscriptions drop
    /// counts twice. The reasons are:
    ///
    /// - A queue's policy.
    /// - A sink that was full and does not wait.
    /// - No thread could be started for callbacks.
    /// - Too many messages arrived before the first subscription.
    /// - A consumer did not take them in time: during [`close`](crate::Websocket::close), or within
    ///   [`close_timeout`](crate::Options::close_timeout) of the end.
    /// - Too many messages of lost connections were [kept](crate::Options::reconnect).
    pub dropped: u64,
    /// The number of messages that had been written when a connection ended, and that the peer may
    /// not have received: no pong arrived for a ping sent after them, and the closing handshake of
    /// this side did not complete.
    ///
    /// It is an upper bound over all connections, and more exact with a shorter
    /// [`ping_interval`](crate::Options::ping_interval). When
    /// [`on_event`](crate::Websocket::on_event) reports the loss of a connection, it includes that
    /// connection.
    pub unconfirmed: u64,
    /// The number of messages that were accepted and never written, because the connection ended
    /// for good. It is 0 until then.
    pub unsent: u64,
    /// The number of messages that were accepted and never written, because a newer one replaced
    /// them: see [`put_latest`](crate::Websocket::put_latest).
    pub replaced: u64,
    /// The number of connections after the first.
    pub reconnects: u64,
    /// The round-trip time, measured by the pings that the peer has answered on this connection:
    /// those of [`Options::ping_interval`](crate::Options::ping_interval) and of
    /// [`ping`](crate::Websocket::ping).
    ///
    /// `None` before the first pong (by default, the first ping is sent 20 seconds after the
    /// connection is ready; `ping` sends one immediately), and when the connection has been lost or
    /// has ended.
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
            replaced: shared.send_queue.consumer().replaced(),
            reconnects: connections.saturating_sub(1),
            latency: shared.send_queue.latency(),
        }
    }
}
