//! A callback for something that happens to a `Websocket`, perhaps more than once.

use parking_lot::Mutex;

type Callback<T> = Box<dyn FnMut(T) + Send>;

/// Called on the dispatch thread alone, so that it is in here whenever its time comes.
pub(crate) struct EventCallback<T> {
    /// Held to take the callback out, or to put it back: it is not called under it.
    callback: Mutex<Option<Callback<T>>>,
}

impl<T> EventCallback<T> {
    pub(crate) fn new(f: impl FnMut(T) + Send + 'static) -> Self {
        EventCallback {
            callback: Mutex::new(Some(Box::new(f))),
        }
    }

    /// Calls it; a panic in it is its caller's to catch, and does not keep it from being called again.
    pub(crate) fn call(&self, value: T) {
        let taken = self.callback.lock().take();
        let mut out = Out {
            listener: self,
            callback: taken,
        };
        if let Some(f) = &mut out.callback {
            f(value);
        }
    }
}

/// A callback that is being called; it goes back when this is dropped.
struct Out<'a, T> {
    listener: &'a EventCallback<T>,
    callback: Option<Callback<T>>,
}

impl<T> Drop for Out<'_, T> {
    fn drop(&mut self) {
        *self.listener.callback.lock() = self.callback.take();
    }
}
