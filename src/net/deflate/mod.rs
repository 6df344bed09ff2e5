//! Compressed messages: permessage-deflate (RFC 7692).
//!
//! The codec knows nothing of it:
//!
//! * [`Deflate`] has the settings. From these, it makes a client's offer and a server's answer
//!   ([`negotiation`], [`extension`]). The result is what both sides have [`Agreed`] on.
//! * [`InflateReader`] is a layer between the transport and the codec. It gives the codec plain
//!   frames, so that the codec checks the order of frames, the UTF-8 of text, and the size of
//!   messages while they are inflated.
//! * [`Deflater`] compresses the payload of a message. The frames that it is sent in are raw ones
//!   for the codec; the first has the bit RSV1 set.
//!
//! This module knows no threads, no queues and no `Websocket`.

mod deflater;
mod direction;
mod extension;
mod inflate_reader;
mod negotiation;
mod settings;
mod spares;
#[cfg(test)]
mod tests;

pub(crate) use deflater::Deflater;
pub(crate) use inflate_reader::{InflateReader, InvalidData};
pub(crate) use negotiation::{Agreed, Refused};
pub use settings::Deflate;
