//! The program's functions that the reader thread calls.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::hidden::Hidden;
use crate::message::Message;
use crate::panics::{Guarded, catch_panic};

type ReconnectIf = dyn Fn(&Error) -> bool + Send + Sync;
type Greeting = dyn Fn() -> Vec<Message> + Send + Sync;

/// Functions that one may own the `Websocket` that they are for, so that the reader thread owns
/// them, and not the settings that the `Websocket` keeps.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hooks {
    reconnect_if: Option<Hidden<Arc<Guarded<Box<ReconnectIf>>>>>,
    greeting: Option<Hidden<Arc<Guarded<Box<Greeting>>>>>,
}

impl Hooks {
    pub(crate) fn set_reconnect_if(&mut self, f: impl Fn(&Error) -> bool + Send + Sync + 'static) {
        self.reconnect_if = Some(Hidden(Arc::new(Guarded::new(Box::new(f)))));
    }

    pub(crate) fn set_greeting(&mut self, f: impl Fn() -> Vec<Message> + Send + Sync + 'static) {
        self.greeting = Some(Hidden(Arc::new(Guarded::new(Box::new(f)))));
    }

    /// Returns whether the program decides when a client connects again.
    pub(crate) fn decides_to_reconnect(&self) -> bool {
        self.reconnect_if.is_some()
    }

    /// Returns whether the program wants another connection after one that ended for this reason.
    pub(crate) fn wants_to_reconnect(&self, reason: &Error) -> bool {
        let Some(Hidden(f)) = &self.reconnect_if else {
            return reason.is_transient();
        };
        catch_panic(|| f(reason)).unwrap_or_else(|text| {
            crate::logging::error!("the function of reconnect_if panicked: {text}");
            reason.is_transient()
        })
    }

    /// Returns the messages that a connection begins with.
    ///
    /// # Errors
    ///
    /// [`Error::Internal`] if the function panics.
    pub(crate) fn greeting(&self) -> Result<Vec<Message>> {
        let Some(Hidden(f)) = &self.greeting else {
            return Ok(Vec::new());
        };
        catch_panic(|| f())
            .map_err(|text| Error::Internal(format!("the function of greeting panicked: {text}")))
    }
}
