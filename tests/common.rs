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

/// A copy of the demo model in a folder of its own, to be damaged.
pub fn model_copy() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("temporary directory");
    for name in listing(&fixture("bookworm-4m")) {
        let from = fixture("bookworm-4m").join(&name);
        // Contents only: the fixture may be read-only.
        std::fs::write(dir.path().join(&name), std::fs::read(from).expect("fixture")).expect("copy");
    }
    dir
}

/// Replaces text in a file of `directory`; there must be something to replace.
pub fn edit(directory: &Path, file: &str, changes: &[(&str, &str)]) {
    let path = directory.join(file);
    let mut text = std::fs::read_to_string(&path).expect("text");
    for (from, to) in changes {
        assert!(text.contains(from), "{file} has no {from}");
        text = text.replacen(from, to, 1);
    }
    std::fs::write(path, text).expect("write");
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
