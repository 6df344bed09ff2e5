//! Calls user code and catches its panics.
//!
//! User code is callbacks, sinks, transports, functions in settings, the logger, and the
//! destructors of all of these. It may panic where no one else catches the panic.

use std::io;
use std::ops::{Deref, DerefMut};

pub(crate) use crate::catch_panic::catch_panic;

/// Calls user code and logs a panic in it.
#[inline]
pub(crate) fn log_panic(f: impl FnOnce()) {
    if let Err(text) = catch_panic(f) {
        crate::logging::error!("a callback panicked: {text}");
    }
}

/// Drops a value that belongs to the user or may own such a value. Logs a panic.
#[inline]
pub(crate) fn drop_caught(what: impl Sized) {
    log_panic(|| drop(what));
}

/// As [`drop_caught`], for each of the values: one destructor that panics prevents no other.
pub(crate) fn drop_each<T>(values: impl IntoIterator<Item = T>) {
    values.into_iter().for_each(drop_caught);
}

/// As the cause of an I/O error: what has panicked, and with which text.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Panicked(pub(crate) String);

impl Panicked {
    pub(crate) fn is_cause_of(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|cause| cause.is::<Panicked>())
    }
}

/// A value of the user's whose destructor may panic wherever it is dropped.
pub(crate) struct Guarded<T>(Option<T>);

impl<T> Guarded<T> {
    pub(crate) fn new(value: T) -> Self {
        Guarded(Some(value))
    }

    pub(crate) fn into_inner(mut self) -> T {
        self.0.take().expect(THERE)
    }
}

impl<T> Drop for Guarded<T> {
    fn drop(&mut self) {
        drop_caught(self.0.take());
    }
}

const THERE: &str = "the value is present until it is dropped";

impl<T> Deref for Guarded<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect(THERE)
    }
}

impl<T> DerefMut for Guarded<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().expect(THERE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            std::panic::panic_any(Bomb);
        }
    }

    #[test]
    fn a_panicking_destructor_is_caught_even_during_a_panic() {
        drop(Guarded::new(Bomb));
        let panic = catch_panic(|| {
            let _bomb = Guarded::new(Bomb);
            panic!("the first {}", "panic");
        });
        assert_eq!(panic, Err("the first panic".to_owned()));
    }
}
