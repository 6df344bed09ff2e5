//! What this crate logs. The logger is the program's, and may panic: that must not end what logs.

use std::fmt;

use log::{Level, Record};

use crate::catch_panic::catch_panic;

/// Logs at a level, with the module that it is called in as the target, as `log`'s own macros do.
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

/// The text is put together in here, which may call the user's code as well: an error may be one of
/// theirs.
pub(crate) fn write(
    level: Level,
    (module, file, line): (&'static str, &'static str, u32),
    text: fmt::Arguments<'_>,
) {
    // There is nobody to tell of it.
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
