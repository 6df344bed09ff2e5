//! Log records. The logger belongs to the program and may panic, which must not end the caller.

use crate::catch_panic::catch_panic;

macro_rules! log_error {
    ($($text:tt)+) => { $crate::logging::caught(|| log::error!($($text)+)) };
}

macro_rules! log_warn {
    ($($text:tt)+) => { $crate::logging::caught(|| log::warn!($($text)+)) };
}

macro_rules! log_info {
    ($($text:tt)+) => { $crate::logging::caught(|| log::info!($($text)+)) };
}

macro_rules! log_debug {
    ($($text:tt)+) => { $crate::logging::caught(|| log::debug!($($text)+)) };
}

pub(crate) use log_debug as debug;
pub(crate) use log_error as error;
pub(crate) use log_info as info;
pub(crate) use log_warn as warn;

/// Writes a record. A panic of the logger cannot be logged.
pub(crate) fn caught(log: impl FnOnce()) {
    let _ = catch_panic(log);
}
