//! The system's errors when no descriptor is left.

use std::io;

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

/// Adds the limit that was reached to an error about descriptors or memory. Other errors stay
/// unchanged.
pub(crate) fn with_descriptor_limit(error: io::Error) -> io::Error {
    let text = match Errno::from_io_error(&error) {
        Some(Errno::MFILE) => {
            // The descriptors are not counted, because that needs a descriptor.
            let all = match getrlimit(Resource::Nofile).current {
                Some(max) => format!("all {max} descriptors"),
                None => "all the descriptors".to_owned(),
            };
            format!("this process has {all} that RLIMIT_NOFILE allows (ulimit -n)")
        }
        Some(Errno::NFILE) => {
            "this system has all open files that fs.file-max allows (sysctl)".to_owned()
        }
        Some(Errno::NOBUFS | Errno::NOMEM) => {
            "the system is out of memory, or its control group is (memory.max)".to_owned()
        }
        _ => return error,
    };
    io::Error::new(error.kind(), format!("{error}: {text}"))
}

/// Returns whether the operation may succeed after a descriptor or some memory is released.
pub(crate) fn lacks_descriptors(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_keeps_its_kind_and_text() {
        for (errno, word) in [
            (Errno::MFILE, "RLIMIT_NOFILE"),
            (Errno::NFILE, "fs.file-max"),
            (Errno::NOBUFS, "memory"),
        ] {
            let before = io::Error::from(errno);
            let after = with_descriptor_limit(io::Error::from(errno));
            assert_eq!(after.kind(), before.kind());
            let text = after.to_string();
            assert!(
                text.starts_with(&format!("{before}: ")) && text.contains(word),
                "{text}"
            );
        }
        let refused = with_descriptor_limit(Errno::CONNREFUSED.into());
        assert_eq!(Errno::from_io_error(&refused), Some(Errno::CONNREFUSED));
    }
}
