//! Fixtures and made-up model directories for the tests.
#![allow(dead_code)] // each test file uses a part

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use quern_model::{Config, Convention};
use quern_tensor_io::Checkpoint;
use tempfile::TempDir;

/// A path below `fixtures/`.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

/// Opens a fixture.
pub fn open(name: &str) -> Checkpoint {
    Checkpoint::open(&fixture(name)).unwrap()
}

/// A directory with copies of the named files of a fixture.
pub fn copy_of(name: &str, files: &[&str]) -> TempDir {
    let dir = TempDir::new().unwrap();
    for file in files {
        // Not fs::copy: the fixtures may be read-only, the copies must not be.
        fs::write(dir.path().join(file), fs::read(fixture(name).join(file)).unwrap()).unwrap();
    }
    dir
}

/// Tensors for a safetensors file: name, element type, shape; all zeros, not stored (the file is sparse).
pub fn write_safetensors(path: &Path, tensors: &[(String, &str, Vec<usize>)]) {
    let mut header = serde_json::Map::new();
    let mut end = 0;
    for (name, kind, shape) in tensors {
        let size = match *kind {
            "F32" | "I32" | "U32" => 4,
            _ => 2,
        };
        let bytes = shape.iter().product::<usize>() * size;
        let entry = serde_json::json!({ "dtype": kind, "shape": shape, "data_offsets": [end, end + bytes] });
        header.insert(name.clone(), entry);
        end += bytes;
    }
    let header = serde_json::to_string(&header).unwrap();
    let mut file = File::create(path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len((8 + header.len() + end) as u64).unwrap();
}

/// Writes `model.safetensors` with every tensor the directory's `config.json` demands.
pub fn write_weights(dir: &Path) {
    let config = Config::from_config_json(&dir.join("config.json")).unwrap();
    let expected = config.expected_tensors(Convention::HuggingFace).into_iter().filter(|e| !e.optional);
    let tensors: Vec<_> = expected.map(|e| (e.name, "F16", e.shape)).collect();
    write_safetensors(&dir.join("model.safetensors"), &tensors);
}

/// Changes a JSON file: sets (or with null removes) keys of its object.
pub fn edit(file: &Path, changes: serde_json::Value) {
    let text = fs::read_to_string(file).unwrap_or_else(|_| "{}".into());
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    for (key, value) in changes.as_object().unwrap() {
        match value.is_null() {
            true => json.as_object_mut().unwrap().remove(key),
            false => json.as_object_mut().unwrap().insert(key.clone(), value.clone()),
        };
    }
    fs::write(file, json.to_string()).unwrap();
}
