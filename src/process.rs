//! The process that owns an object.
//!
//! A forked child has a copy of everything but the threads. An object that the child drops must not
//! end a resource of the parent, and must not wait: the threads that it would wait for, and those
//! that may hold a lock, are in the parent.

/// The process that an object belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OwnerProcess(u32);

impl OwnerProcess {
    /// Returns this process. This takes a system call.
    pub(crate) fn current() -> Self {
        OwnerProcess(std::process::id())
    }

    /// Returns whether this is the same process, and not a child of it.
    pub(crate) fn is_current(self) -> bool {
        self == OwnerProcess::current()
    }
}
