//! The identity of a `Websocket`.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// Identifies a [`Websocket`](crate::Websocket) within the process, for example as a map's key.
///
/// [`Websocket::id`](crate::Websocket::id) returns it. It stays the same when the `Websocket`
/// [reconnects](crate::Options::reconnect), and no other `Websocket` of the process ever has it. A
/// later `Websocket` has a greater id. It keeps nothing open.
///
/// # Examples
///
/// ```
/// use rtcbot_websocket::Websocket;
/// use std::collections::HashMap;
///
/// let (robot, operator) = Websocket::pair();
/// let mut positions = HashMap::new();
/// positions.insert(robot.id(), (1.5, 2.0));
/// assert!(positions.contains_key(&robot.clone().id()));
/// assert!(!positions.contains_key(&operator.id()));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(u64);

impl ConnectionId {
    pub(super) fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        ConnectionId(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// Writes a number.
impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
