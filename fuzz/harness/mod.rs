//! Fuzz targets: each makes of any bytes what a peer or a user could come with, and panics if something
//! does not hold that has to.
//!
//! `fuzz_targets/` runs them with libFuzzer; `cargo test` runs the same functions as property tests, a few
//! hundred inputs each, or as many as there is time for with `RTCBOT_FUZZ_SECONDS`. They are compiled
//! for nothing else.

mod closing;
mod frames;
mod head;
mod json;
mod meaning;
mod peer;
mod settings;
#[cfg(test)]
mod tests;

pub use closing::closing;
pub use frames::{frames_from_a_client, frames_from_a_server};
pub use head::{request_head, response_head};
pub use json::json;
pub use settings::settings;
