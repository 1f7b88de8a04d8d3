//! Calling quern and finding the fixtures.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A file of `fixtures/`.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

/// The binary under test.
pub fn command() -> Command {
    Command::new(env!("CARGO_BIN_EXE_quern"))
}

/// Runs quern; the arguments are paths or text.
pub fn quern<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Output {
    command().args(args).output().expect("quern starts")
}

/// Standard output of a run that must succeed.
pub fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "failed: {}", stderr(output));
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

/// Standard error of any run.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Standard error of a run that must fail with exit code 1 and leave no panic behind.
pub fn failure(output: &Output) -> String {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.starts_with("error: "), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    text
}

/// Names in a directory, sorted.
pub fn listing(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(directory)
        .expect("directory")
        .map(|e| e.expect("entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
