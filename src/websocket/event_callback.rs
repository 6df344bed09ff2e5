//! A callback for an event of a `Websocket` that may occur more than once.

use parking_lot::Mutex;

type Callback<T> = Box<dyn FnMut(T) + Send>;

/// A callback that only the dispatch thread calls, so that it is always here when it is called.
pub(crate) struct EventCallback<T> {
    /// Held to take the callback out, or to put it back. The callback is not called under it.
    callback: Mutex<Option<Callback<T>>>,
}

impl<T> EventCallback<T> {
    pub(crate) fn new(f: impl FnMut(T) + Send + 'static) -> Self {
        EventCallback {
            callback: Mutex::new(Some(Box::new(f))),
        }
    }

    /// Calls the callback. The caller has to catch a panic in it. After a panic, the callback can
    /// be called again.
    pub(crate) fn call(&self, value: T) {
        let callback = self.callback.lock().take();
        let mut taken = TakenCallback {
            owner: self,
            callback,
        };
        if let Some(f) = &mut taken.callback {
            f(value);
        }
    }
}

/// A callback that is being called. Dropping this puts the callback back.
struct TakenCallback<'a, T> {
    owner: &'a EventCallback<T>,
    callback: Option<Callback<T>>,
}

impl<T> Drop for TakenCallback<'_, T> {
    fn drop(&mut self) {
        *self.owner.callback.lock() = self.callback.take();
    }
}
