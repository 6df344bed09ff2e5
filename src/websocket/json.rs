//! Values of the program's types as JSON messages.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::handle::Websocket;
use super::session::Session;
use crate::error::{Close, Error, PutError, Result, Side};
use crate::message::Message;

/// Sending and receiving values of your own types, as JSON.
impl Websocket {
    /// Queues a value for sending, as JSON, without waiting.
    ///
    /// It is [`Message::json`] and [`put_nowait`](Self::put_nowait) in one call. The value is not
    /// returned if it is not accepted.
    ///
    /// # Errors
    ///
    /// - [`Error::Json`] if the value's own `Serialize` fails, or if the keys of a map are not
    ///   strings.
    /// - [`Error::Full`] if [`send_queue`](crate::Options::send_queue) bytes are queued.
    /// - The reason, if the connection is closing or has ended.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::Websocket;
    ///
    /// #[derive(serde::Serialize, serde::Deserialize, PartialEq, Debug)]
    /// struct Order { motor: u8, speed: f32 }
    ///
    /// let (operator, robot) = Websocket::pair();
    /// operator.put_json(&Order { motor: 1, speed: 0.5 })?;
    /// assert_eq!(robot.get_as::<Order>()?, Order { motor: 1, speed: 0.5 });
    /// # Ok::<(), rtcbot_websocket::Error>(())
    /// ```
    pub fn put_json<T: Serialize + ?Sized>(&self, value: &T) -> Result<()> {
        self.put_nowait(Message::json(value)?)
            .map_err(|error| match error {
                PutError::Full(_) => Error::Full,
                PutError::Closed(_) => self.why_closed(),
            })
    }

    fn why_closed(&self) -> Error {
        let reason = self.shared().lifecycle.look(Session::why_closed);
        // Without a reason, another thread is closing the connection at this moment.
        reason.unwrap_or(Error::Closed(Close {
            by: Side::Local,
            frame: None,
            unsent: 0,
        }))
    }

    /// Takes the next message of the default subscription as a value of type `T`, and waits until
    /// there is one.
    ///
    /// It is [`get`](Self::get) and [`Message::decode`] in one call. A message that does not fit
    /// `T` is taken as well.
    ///
    /// # Errors
    ///
    /// - [`Error::Json`] if the message is not JSON, or does not fit `T`. The connection is not
    ///   affected.
    /// - The errors of [`get`](Self::get).
    ///
    /// [`put_json`](Self::put_json) has an example.
    pub fn get_as<T: DeserializeOwned>(&self) -> Result<T> {
        self.get()?.decode()
    }
}
