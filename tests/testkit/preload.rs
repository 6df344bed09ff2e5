//! C libraries that a child process loads before all others, with `LD_PRELOAD`.
#![allow(dead_code)] // Each test file uses its own part.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Returns the library that the C compiler makes of this file in `tests/`, or `None` where there is
/// no C compiler. A process has one library.
pub fn library(source: &str) -> Option<&'static Path> {
    static LIBRARY: OnceLock<Option<PathBuf>> = OnceLock::new();
    LIBRARY.get_or_init(|| build(source)).as_deref()
}

fn build(source: &str) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(source);
    let library = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join(source.file_name().unwrap())
        .with_extension("so");
    let own = library.with_extension(std::process::id().to_string());
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-O1", "-pthread", "-o"])
        .args([&own, &source])
        .arg("-ldl");
    match cc.output() {
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        Err(error) => panic!("cc: {error}"),
        Ok(output) => {
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{errors}");
        }
    }
    // Another process of this test may be about to load it.
    std::fs::rename(own, &library).unwrap();
    Some(library)
}
