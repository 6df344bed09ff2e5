//! Log records. The logger belongs to the program and may panic, which must not end the caller.

use std::fmt;

use log::{Level, Record};

use crate::catch_panic::catch_panic;

/// Logs at a level. The target is the calling module, as with `log`'s own macros.
macro_rules! log_at {
    ($level:expr, $($text:tt)+) => {{
        let level = $level;
        if level <= log::STATIC_MAX_LEVEL && level <= log::max_level() {
            let place = (module_path!(), file!(), line!());
            $crate::logging::write(level, place, format_args!($($text)+));
        }
    }};
}

macro_rules! log_error {
    ($($text:tt)+) => { $crate::logging::at!(log::Level::Error, $($text)+) };
}

macro_rules! log_warn {
    ($($text:tt)+) => { $crate::logging::at!(log::Level::Warn, $($text)+) };
}

macro_rules! log_info {
    ($($text:tt)+) => { $crate::logging::at!(log::Level::Info, $($text)+) };
}

macro_rules! log_debug {
    ($($text:tt)+) => { $crate::logging::at!(log::Level::Debug, $($text)+) };
}

// Only TLS uses it.
#[cfg(feature = "native-tls")]
macro_rules! log_trace {
    ($($text:tt)+) => { $crate::logging::at!(log::Level::Trace, $($text)+) };
}

pub(crate) use log_at as at;
pub(crate) use log_debug as debug;
pub(crate) use log_error as error;
pub(crate) use log_info as info;
#[cfg(feature = "native-tls")]
pub(crate) use log_trace as trace;
pub(crate) use log_warn as warn;

/// Formatting is inside the guard as well, because it may call user code: an error type may be the
/// user's.
pub(crate) fn write(
    level: Level,
    (module, file, line): (&'static str, &'static str, u32),
    text: fmt::Arguments<'_>,
) {
    // A panic of the logger cannot be logged.
    let _ = catch_panic(|| {
        let record = Record::builder()
            .level(level)
            .target(module)
            .module_path_static(Some(module))
            .file_static(Some(file))
            .line(Some(line))
            .args(text)
            .build();
        log::logger().log(&record);
    });
}
