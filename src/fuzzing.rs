//! What the fuzz targets use of the crate's inside, and the targets themselves.
//!
//! The harness is in `fuzz/harness`. It is compiled for tests and for fuzzing only, and imports
//! nothing but this page and the public API. `tests/fuzz` links to it: Cargo packages no folder
//! that has a `Cargo.toml` of its own, as `fuzz` has, and packages a link as the files behind it.

pub(crate) use crate::backoff::Schedule;
#[cfg(feature = "deflate")]
pub(crate) use crate::net::deflate::{Agreed, Deflater, InflateReader, InvalidData};
#[cfg(feature = "deflate")]
pub(crate) use crate::net::frame_reader::{FrameReader, StreamEnd};
pub(crate) use crate::net::handshake::client::{self, redirects_to};
pub(crate) use crate::net::handshake::server::{self, HandshakeConfig, parse_request, too_long};
pub(crate) use crate::net::handshake::{Failure, MAX_HEAD, MAX_HEADERS, subprotocols};
pub(crate) use crate::net::http_response;
pub(crate) use crate::net::origin::Origins;
pub(crate) use crate::net::pending::{Acceptor, PendingRequest, Step};
pub(crate) use crate::net::proxy::Proxy;
pub(crate) use crate::net::socket::Socket;
pub(crate) use crate::net::target::{Place, Target};
pub(crate) use crate::pubsub::Hold;
pub(crate) use crate::websocket::session::{
    Action, Input, PeerClose, Phase, ReconnectPolicy, Session,
};
pub(crate) use tungstenite::protocol::Role;

/// What the harness shares with the tests.
#[path = "../tests/testkit"]
#[allow(unreachable_pub)] // There, `pub` stands for what the test files use.
pub(crate) mod testkit {
    pub mod decisions;
    mod direction;
    pub mod faults;
    pub mod frames;
    pub mod script;
    pub mod transport;
}

#[path = "../tests/fuzz/harness/mod.rs"]
mod harness;

#[cfg(feature = "deflate")]
pub use harness::deflate;
pub use harness::{
    frames_from_a_client, frames_from_a_server, json, request_head, response_head, session,
    settings,
};
