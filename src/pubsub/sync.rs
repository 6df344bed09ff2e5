//! The synchronization primitives of a channel. `model` replaces this module by shuttle's.

use std::convert::Infallible;
use std::time::Instant;

use crossbeam_channel::{Receiver, RecvTimeoutError};

pub(super) use std::sync::atomic::AtomicBool;

pub(super) use parking_lot::{Mutex, MutexGuard};

/// Waits until the channel is disconnected. Returns `false` if that does not happen before the
/// deadline.
pub(super) fn wait_until_disconnected(
    channel: &Receiver<Infallible>,
    deadline: Option<Instant>,
) -> bool {
    match deadline {
        None => channel.recv().is_err(),
        Some(deadline) => channel.recv_deadline(deadline) != Err(RecvTimeoutError::Timeout),
    }
}
