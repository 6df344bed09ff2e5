//! After which ends, and when, a client connects again.

use crate::backoff::Schedule;

/// How a client connects again.
#[derive(Debug, Clone)]
pub(super) struct Reconnect {
    pub(super) schedule: Schedule,
    pub(super) policy: ReconnectPolicy,
}

/// After which ends a client connects again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReconnectPolicy {
    /// After a [transient](crate::Error::is_transient) error.
    Transient,
    /// After every end, until this program closes.
    Always,
    /// The program decides, by the reason for the end.
    Ask,
}
