//! The synchronization primitives of a channel. `model` replaces this module by shuttle's.

pub(super) use std::sync::atomic::AtomicUsize;

pub(super) use parking_lot::{Mutex, MutexGuard};
