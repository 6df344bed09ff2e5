//! Iterating over the messages of a `Websocket`.

use super::handle::Websocket;
use crate::message::Message;

/// An iterator over the messages of a [`Websocket`]: `for message in &ws`.
///
/// It takes from the default subscription, as [`get`](Websocket::get) does. It waits for each
/// message, and ends when `get` returns an error, usually after the end of the connection.
#[derive(Debug)]
pub struct Messages<'a> {
    ws: &'a Websocket,
}

impl Iterator for Messages<'_> {
    type Item = Message;

    fn next(&mut self) -> Option<Message> {
        self.ws.get().ok()
    }
}

/// Iterates over the messages of the default subscription.
///
/// The loop waits for each message and ends with the connection, after all messages that are
/// queued. [`state`](Websocket::state) then returns why the connection has ended. A
/// program that leaves the loop earlier, and takes no more messages, calls
/// [`unsubscribe_default`](Websocket::unsubscribe_default).
///
/// # Examples
///
/// ```
/// use rtcbot_websocket::Websocket;
///
/// let (operator, robot) = Websocket::pair();
/// operator.put_nowait("forward")?;
/// operator.close()?;
/// for order in &robot {
///     assert_eq!(order, "forward");
/// }
/// assert!(robot.error().is_none());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
impl<'a> IntoIterator for &'a Websocket {
    type Item = Message;
    type IntoIter = Messages<'a>;

    fn into_iter(self) -> Messages<'a> {
        Messages { ws: self }
    }
}
