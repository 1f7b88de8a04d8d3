//! Containers: what is written comes back, what is broken is refused with a reason, outputs are whole or absent.

mod bytes;
mod directories;
mod folders;
mod gguf_matrix;
mod hostile_gguf;
mod hostile_pytorch;
mod hostile_pytorch_files;
mod hostile_safetensors;
mod memory;
mod mutations;
mod outputs;
mod pytorch;
mod pytorch_bytes;
mod round_trips;
mod splits;
mod stored;

use std::fs;
use std::path::{Path, PathBuf};

use quern_tensor_io::Checkpoint;

/// A folder that lives as long as the test.
struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// In memory where the system has such a place: for tests that write thousands of files and ask nothing
    /// of the disk.
    fn in_memory() -> Self {
        match tempfile::tempdir_in("/dev/shm") {
            Ok(folder) => Self(folder),
            Err(_) => Self::new(),
        }
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path()).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// Opens `path`, which must fail with a message that begins with the file's name and holds every one of
/// `what`.
#[track_caller]
fn assert_refused(path: &Path, what: &[&str]) {
    let text = match Checkpoint::open(path) {
        Ok(_) => panic!("{} was accepted; expected: {what:?}", path.display()),
        Err(e) => e.to_string(),
    };
    let folder = if path.is_dir() { path } else { path.parent().unwrap() };
    assert!(text.starts_with(folder.to_str().unwrap()), "names no file: {text}");
    for part in what {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

/// Opens `content` as a file of this name, which must fail as in [`assert_refused`] and name that file.
#[track_caller]
fn assert_content_refused(name: &str, content: &[u8], what: &[&str]) {
    let scratch = Scratch::new();
    let path = scratch.file(name, content);
    let mut all = vec![path.to_str().unwrap()];
    all.extend_from_slice(what);
    assert_refused(&path, &all);
}

/// Asks for more than the memory test allows; see `memory.rs`.
#[test]
#[ignore = "meant to fail, in the process that memory.rs starts"]
fn memory_limit_probe() {
    assert!(Vec::<u8>::with_capacity(std::hint::black_box(1 << 30)).capacity() >= 1 << 30);
}
