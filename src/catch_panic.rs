//! Catches panics of code that does not belong to this crate.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Calls the program's code. Returns the text of a panic in it.
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
            // The value of the panic has a destructor, which is the program's code too.
            if let Err(another) = catch_unwind(AssertUnwindSafe(move || drop(panic))) {
                std::mem::forget(another);
            }
            "(no text)".to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_with_any_value_has_a_text() {
        assert_eq!(catch_panic(|| 1), Ok(1));
        assert_eq!(
            catch_panic(|| panic!("static")),
            Err::<(), _>("static".into())
        );
        let odd = catch_panic(|| std::panic::panic_any(7));
        assert_eq!(odd, Err::<(), _>("(no text)".into()));
    }
}
