//! Connects two `Websocket`s of this process over Unix sockets: `Websocket::pair`.

use std::os::unix::net::UnixStream;

use http::{Request, StatusCode};
use tungstenite::protocol::Role;

use super::handle::Websocket;
use super::opened::{Opened, info, once, split};
use super::reader_thread;
use super::session::Session;
use super::shared::Shared;
use crate::descriptors::with_descriptor_limit;
use crate::error::{Error, Result};
use crate::options::Options;

/// Two connected sockets, for tests.
impl Websocket {
    /// Returns two connected `Websocket`s, to test a control loop without a network.
    ///
    /// Each is the other's peer. The first has the client's role.
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::{Websocket, json};
    ///
    /// let (operator, robot) = Websocket::pair();
    /// operator.put_nowait(json!({"speed": 1}))?;
    /// assert_eq!(robot.get()?, json!({"speed": 1}));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn pair() -> (Websocket, Websocket) {
        Options::new().pair()
    }
}

impl Options {
    /// Returns two connected `Websocket`s, both with these settings.
    ///
    /// See [`Websocket::pair`]. [`reconnect`](Self::reconnect) has no effect on them. Each has a
    /// descriptor. If the system has none left, both have failed with [`Error::Lost`].
    ///
    /// # Examples
    ///
    /// ```
    /// use rtcbot_websocket::Options;
    ///
    /// let (robot, operator) = Options::new().json(false).pair();
    /// robot.put_nowait("[1]")?;
    /// assert_eq!(operator.get()?, "[1]"); // text, although it is JSON
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn pair(&self) -> (Websocket, Websocket) {
        let (client, server) = match UnixStream::pair() {
            Ok((client, server)) => (Ok(client), Ok(server)),
            Err(error) => {
                let error = Error::lost(with_descriptor_limit(error));
                (Err(error.clone()), Err(error))
            }
        };
        let start = |name: &str, role, end: Result<UnixStream>| {
            let (shared, ends) = Shared::new(name.to_owned(), role, self.for_pair());
            let open = once(move |shared: &Shared| in_memory(shared, end?, role));
            reader_thread::start(shared.clone(), ends, None, open);
            // Waits only for the start of a thread, because there is no handshake.
            shared.wait(None, Session::has_been_ready);
            Websocket::new(shared)
        };
        (
            start("client in memory", Role::Client, client),
            start("server in memory", Role::Server, server),
        )
    }
}

/// Opens one end of a pair. It has no handshake.
fn in_memory(shared: &Shared, end: UnixStream, role: Role) -> Result<Opened> {
    let (halves, addresses) = split(shared, Box::new(end))?;
    let mut response = http::Response::new(());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    Ok(Opened {
        info: info(addresses, Request::new(()), response),
        halves,
        rest: Vec::new(),
        role,
        agreed: None,
    })
}
