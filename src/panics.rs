//! Calls user code and catches its panics.
//!
//! User code is callbacks, sinks, transports, functions in settings, the logger, and the
//! destructors of all of these. It may panic where no one else catches the panic.

use std::any::Any;
use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Calls user code and logs a panic in it.
pub(crate) fn log_panic(f: impl FnOnce()) {
    if let Err(text) = catch_panic(f) {
        crate::logging::error!("a callback panicked: {text}");
    }
}

/// Drops a value that belongs to the user or may own such a value. Logs a panic.
pub(crate) fn drop_caught(what: impl Sized) {
    log_panic(|| drop(what));
}

/// Calls user code. Returns the text of a panic in it.
pub(crate) fn catch_panic<R>(f: impl FnOnce() -> R) -> Result<R, String> {
    catch_unwind(AssertUnwindSafe(f)).map_err(text_of)
}

fn text_of(panic: Box<dyn Any + Send>) -> String {
    let text = match panic.downcast::<&str>() {
        Ok(text) => return (*text).to_owned(),
        Err(panic) => panic.downcast::<String>(),
    };
    match text {
        Ok(text) => *text,
        Err(panic) => {
            // The destructor of the panic's payload is user code as well.
            if let Err(another) = catch_unwind(AssertUnwindSafe(move || drop(panic))) {
                std::mem::forget(another);
            }
            "(no text)".to_owned()
        }
    }
}

/// The cause of an I/O error that stands for a panic: the code that panicked, and the panic's text.
#[derive(Debug)]
pub(crate) struct Panicked(pub(crate) String);

impl Panicked {
    pub(crate) fn is_cause_of(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|cause| cause.is::<Panicked>())
    }
}

impl fmt::Display for Panicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Panicked {}

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

    #[test]
    fn a_panic_with_any_payload_has_a_text() {
        assert_eq!(catch_panic(|| 1), Ok(1));
        assert_eq!(
            catch_panic(|| panic!("static")),
            Err::<(), _>("static".into())
        );
        let odd = catch_panic(|| std::panic::panic_any(7));
        assert_eq!(odd, Err::<(), _>("(no text)".into()));
    }
}
