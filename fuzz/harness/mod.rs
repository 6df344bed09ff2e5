//! Fuzz targets. Each one takes any bytes as the input of a peer or a user, and panics if an
//! invariant does not hold.
//!
//! `fuzz_targets/` runs them with libFuzzer. `cargo test` runs the same functions as property
//! tests, with a few hundred inputs each, or for `RTCBOT_FUZZ_SECONDS`.

mod blocks;
#[cfg(feature = "deflate")]
mod deflate;
#[cfg(feature = "deflate")]
mod extensions;
mod frames;
mod head;
mod inflate;
mod json;
mod meaning;
mod peer;
mod session;
mod settings;
#[cfg(test)]
mod tests;

#[cfg(feature = "deflate")]
pub use deflate::deflate;
pub use frames::{frames_from_a_client, frames_from_a_server};
pub use head::{request_head, response_head};
pub use json::json;
pub use session::session;
pub use settings::settings;
