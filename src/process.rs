//! Which process something was made in.
//!
//! A forked child has a copy of everything but the threads. What it drops must not end what belongs to its
//! parent, and must wait for nobody: the threads that it would wait for, and those that may hold a lock, are in
//! the parent.

/// The process that something belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OwnerProcess(u32);

impl OwnerProcess {
    /// This process; it takes a system call to find out.
    pub(crate) fn current() -> Self {
        OwnerProcess(std::process::id())
    }

    /// Whether this is that process, and not a child of it.
    pub(crate) fn is_current(self) -> bool {
        self == OwnerProcess::current()
    }
}
