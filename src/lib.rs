//! WIP
#![forbid(unsafe_code)]

#[cfg(not(unix))]
compile_error!("rtcbot-websocket runs on Unix (Linux, macOS, the BSDs)");

mod error;
mod message;
mod net;
pub mod pubsub;
mod server;
mod websocket;

pub use bytes::Bytes;
pub use crossbeam_channel;
pub use http;
pub use serde_json::{Value, json};
pub use tungstenite::Utf8Bytes;

pub use error::{Close, CloseFrame, Error, PutError, Result, Side};
pub use message::{Json, Message};
pub use net::request::Request;
pub use pubsub::{Patience, Queue, Sink, Source, Subscription, SubscriptionId};
pub use server::Server;
pub use websocket::{Options, Websocket};
