//! The files around the weights of a Hugging Face checkpoint: configuration, tokenizer, the directory itself.

mod directory;
mod plain_modules;
mod text_model;
mod tokenizer;

use std::path::Path;

use quern_tensor_io::{ElementType, Error, Metadata, Result};
use serde_json::Value;

use crate::Config;
use crate::config::to_hf;

pub use directory::{Directory, DirectoryOptions, outline};
pub use plain_modules::plain_modules;
pub use text_model::text_model_config;
pub use tokenizer::tokenizer_files;

/// The configuration files of a model read from GGUF, whose weights will be stored as `dtype`: name and content
/// of `config.json` and, where the file says anything that belongs there, `generation_config.json`.
pub fn configuration_files(
    config: &Config,
    metadata: &Metadata,
    dtype: ElementType,
) -> Vec<(String, Vec<u8>)> {
    let text = |value: Value| format!("{value:#}\n").into_bytes();
    let mut files =
        vec![("config.json".to_owned(), text(Value::Object(to_hf::config_json(config, metadata, dtype))))];
    let generation = to_hf::generation_config_json(metadata);
    if !generation.is_empty() {
        files.push(("generation_config.json".to_owned(), text(Value::Object(generation))));
    }
    files
}

/// The text of the `config.json` in a folder, or of that file, with another `quantization_config` (or none) and, if given, another dtype.
///
/// # Errors
/// The file is missing or no JSON object.
pub fn edited_config(
    file: &Path,
    quantization_config: Option<&Value>,
    dtype: Option<ElementType>,
) -> Result<String> {
    let inside = file.join("config.json");
    let mut config = directory::config_object(if file.is_dir() { &inside } else { file })?;
    match quantization_config {
        Some(value) => drop(config.insert("quantization_config".into(), value.clone())),
        None => drop(config.shift_remove("quantization_config")),
    }
    // MLX writes what it did here too, under this name alone if nothing else has it.
    if config.get("quantization").is_some_and(|value| value.get("group_size").is_some()) {
        config.shift_remove("quantization");
    }
    config.shift_remove("compression_config");
    if let Some(dtype) = dtype {
        // Whichever of the two spellings is there; transformers reads both.
        let key = if config.contains_key("dtype") { "dtype" } else { "torch_dtype" };
        config.insert(key.into(), to_hf::dtype_name(dtype).into());
    }
    Ok(format!("{:#}\n", Value::Object(config)))
}

/// The error for a file that belongs into a model's directory and is not there or broken.
pub(crate) fn broken(file: &Path, what: impl Into<String>) -> Error {
    Error::malformed(file, what)
}
