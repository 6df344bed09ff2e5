//! How other WebSocket libraries have hung, leaked memory and lost messages.
//!
//! Above each test is the report that it comes from. `docs/deadlocks.md` lists all of them. Each
//! test was seen to fail when the fault of its report was put into this crate.

mod callbacks;
mod closing;
mod connecting;
mod duplex;
mod page;
#[path = "../testkit/mod.rs"]
mod testkit;
mod waits;

use std::net::Shutdown;
use std::thread;
use std::time::Duration;

use rtcbot_websocket::{Error, Options, Side, Websocket};
use testkit::DEADLINE;
use testkit::wire::Raw;

/// A wait of this length counts as a wait for ever.
const HOUR: Duration = Duration::from_secs(3600);

fn disconnected<T>() -> Result<T, crossbeam_channel::RecvTimeoutError> {
    Err(crossbeam_channel::RecvTimeoutError::Disconnected)
}

/// How a connection ends.
#[derive(Debug, Clone, Copy)]
enum End {
    Close,
    PeerCloses,
    Cut,
    /// The peer answers no ping.
    Silence,
}

const ENDS: [End; 4] = [End::Close, End::PeerCloses, End::Cut, End::Silence];

impl End {
    fn options(self, options: Options) -> Options {
        let tick = match self {
            End::Silence => Some(Duration::from_millis(50)),
            _ => None,
        };
        options.ping_interval(tick).ping_timeout(tick)
    }

    /// Ends the connection, while the peer reads as long as it has to.
    fn come(self, client: &Websocket, mut raw: Raw) {
        match self {
            End::Close => {
                let client = client.clone();
                let closing = thread::spawn(move || client.close());
                raw.pump();
                closing.join().unwrap().unwrap();
            }
            End::PeerCloses => {
                raw.close(None).unwrap();
                raw.pump();
            }
            End::Cut => raw.socket.shutdown(Shutdown::Both).unwrap(),
            End::Silence => drop(client.wait_closed_timeout(DEADLINE)),
        }
    }

    fn is(self, reason: &Error) -> bool {
        match (self, reason) {
            (End::Close, Error::Closed(close)) => close.by == Side::Local,
            (End::PeerCloses, Error::Closed(close)) => close.by == Side::Peer,
            (End::Cut, Error::Lost(_)) | (End::Silence, Error::PingTimeout { .. }) => true,
            _ => false,
        }
    }

    #[track_caller]
    fn check(self, reason: &Error) {
        assert!(self.is(reason), "{self:?}: {reason:?}");
    }

    /// For those who are told only of failures.
    #[track_caller]
    fn check_failure(self, failure: Option<Error>) {
        match (self, failure) {
            (End::Close | End::PeerCloses, None) => {}
            (_, Some(failure)) => self.check(&failure),
            (_, None) => panic!("{self:?}: no failure"),
        }
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
