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

/// The tensors of a safetensors file, to be changed and written again.
pub struct Tensors(pub Vec<(String, &'static str, Vec<usize>, Vec<u8>)>);

impl Tensors {
    /// Reads `model.safetensors` of a directory.
    pub fn read(directory: &Path) -> Self {
        let bytes = std::fs::read(directory.join("model.safetensors")).expect("weights");
        let header = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize + 8;
        let json: serde_json::Value = serde_json::from_slice(&bytes[8..header]).expect("a header");
        let entry = |(name, entry): (&String, &serde_json::Value)| {
            let number = |v: &serde_json::Value| v.as_u64().expect("a number") as usize;
            let list =
                |key: &str| entry[key].as_array().expect("a list").iter().map(number).collect::<Vec<_>>();
            let (shape, at) = (list("shape"), list("data_offsets"));
            let types = ["F16", "F32", "BF16", "F8_E4M3", "I32", "U8", "I8", "I64", "BOOL"];
            let kind = types.into_iter().find(|&t| entry["dtype"] == t).expect("a known type");
            (name.clone(), kind, shape, bytes[header + at[0]..header + at[1]].to_vec())
        };
        let entries = json.as_object().expect("an object").iter().filter(|(name, _)| *name != "__metadata__");
        Self(entries.map(entry).collect())
    }

    /// Writes them as `model.safetensors` of a directory.
    pub fn write(&self, directory: &Path) {
        let (mut header, mut at) = (serde_json::Map::new(), 0);
        for (name, kind, shape, data) in &self.0 {
            let offsets = [at, at + data.len()];
            header.insert(
                name.clone(),
                serde_json::json!({ "dtype": kind, "shape": shape, "data_offsets": offsets }),
            );
            at += data.len();
        }
        let header = serde_json::Value::Object(header).to_string();
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend(self.0.iter().flat_map(|(_, _, _, data)| data));
        std::fs::write(directory.join("model.safetensors"), bytes).expect("write");
    }

    /// Renames every tensor.
    pub fn rename(mut self, name: impl Fn(&str) -> String) -> Self {
        self.0.iter_mut().for_each(|t| t.0 = name(&t.0));
        self
    }

    /// Adds a tensor.
    pub fn add(&mut self, name: &str, kind: &'static str, shape: &[usize], data: Vec<u8>) {
        self.0.push((name.to_owned(), kind, shape.to_vec(), data));
    }
}

/// A copy of a tiny model of `fixtures/architectures`, to be changed.
pub fn tiny_copy(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("temporary directory");
    let from = fixture("architectures").join(name);
    for file in listing(&from) {
        if !["gguf.json", "logits.safetensors", "tokenize.json"].contains(&file.as_str()) {
            std::fs::write(dir.path().join(&file), std::fs::read(from.join(&file)).expect("fixture"))
                .expect("copy");
        }
    }
    dir
}

/// The small model, as a directory.
pub fn model() -> String {
    fixture("bookworm-4m").display().to_string()
}

/// The small model as a GGUF file.
pub fn q4() -> String {
    fixture("bookworm-4m-Q4_K_M.gguf").display().to_string()
}

/// What a command that succeeds prints as JSON.
pub fn json(args: &[&str]) -> serde_json::Value {
    serde_json::from_str(&stdout(&quern(args))).unwrap()
}
