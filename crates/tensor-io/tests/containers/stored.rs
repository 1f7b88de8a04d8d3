//! A few hostile files kept in fixtures/hostile, for tests above this crate and for trying by hand.
//!
//! They are made here: `cargo test -p quern-tensor-io --test containers store_hostile_files -- --ignored`.

use std::fs;
use std::path::PathBuf;

use super::{assert_refused, hostile_gguf, hostile_safetensors};

const GGUF: [&str; 9] = [
    "big-endian",
    "n-tensors-2-36",
    "bad-type",
    "array-u32-u64-max",
    "token-not-utf-8",
    "alignment-0",
    "ne-too-big",
    "overlap",
    "not-enough-data",
];
const SAFETENSORS: [&str; 5] =
    ["header-u64-max", "duplicate-name", "shape-overflows", "hole", "offsets-past-the-end"];

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/hostile")
}

/// File name, content, and what the refusal says.
fn files() -> Vec<(String, Vec<u8>, &'static [&'static str])> {
    let gguf = hostile_gguf::cases().into_iter().filter(|c| GGUF.contains(&c.0));
    let safetensors = hostile_safetensors::cases().into_iter().filter(|c| SAFETENSORS.contains(&c.0));
    gguf.map(|c| (format!("{}.gguf", c.0), c.1, c.2))
        .chain(safetensors.map(|c| (format!("{}.safetensors", c.0), c.1, c.2)))
        .collect()
}

#[test]
fn stored_hostile_files_are_refused() {
    let files = files();
    assert_eq!(files.len(), GGUF.len() + SAFETENSORS.len());
    let readme = fs::read_to_string(folder().join("README.md")).unwrap();
    for (name, content, what) in files {
        let path = folder().join(&name);
        assert!(
            fs::read(&path).unwrap() == content,
            "{name} is not what this test makes; store the files again"
        );
        assert!(readme.contains(&name), "{name} is not in the README");
        assert_refused(&path, what);
    }
}

#[test]
#[ignore = "writes fixtures/hostile"]
fn store_hostile_files() {
    fs::create_dir_all(folder()).unwrap();
    let mut readme = String::from(
        "# Hostile files\n\nEach breaks one rule of its format and must be refused with a message that says so. Made by\n\
         `cargo test -p quern-tensor-io --test containers store_hostile_files -- --ignored`;\n\
         crates/tensor-io/tests/containers holds many more that are never stored.\n\n| file | the refusal says |\n|---|---|\n",
    );
    for (name, content, what) in files() {
        fs::write(folder().join(&name), content).unwrap();
        readme += &format!("| {name} | {} |\n", what.join(" ... "));
    }
    fs::write(folder().join("README.md"), readme).unwrap();
}
