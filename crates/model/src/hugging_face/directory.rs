//! A Hugging Face checkpoint directory that appears complete or not at all: what `save_pretrained` would write
//! for a model.
//!
//! ```text
//! config.json           as the caller has it: the source's with `quantization_config` set, or a new one
//! model*.safetensors    the planned tensors, in shards with an index where they do not fit one file
//! tokenizer.json, …     every other small file of the source: tokenizer, chat template, licence
//! extra files           what the scheme keeps beside them (quantize_config.json)
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use quern_tensor_io::output::{Inputs, OutputDirectory};
use quern_tensor_io::safetensors::{self, ShardedWriter};
use quern_tensor_io::{Checkpoint, Error, Metadata, Result, TensorPlan, Value as MetadataValue, small};
use serde_json::{Map, Value};

use super::broken;
use crate::provenance::{self, Provenance};

/// A larger file beside the weights is no tokenizer and no licence.
const COMPANION_BYTES: u64 = 256 << 20;

/// What is written by the directory itself, never copied.
const OWN_FILES: [&str; 5] = [
    "config.json",
    "quantize_config.json",
    "quant_config.json",
    "quantization_config.json",
    "hf_quant_config.json",
];

/// Weights of any kind, by the ends of their names.
const WEIGHTS: [&str; 20] = [
    ".safetensors",
    ".index.json",
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".gguf",
    ".ggml",
    ".onnx",
    ".onnx_data",
    ".h5",
    ".msgpack",
    ".npz",
    ".npy",
    ".pkl",
    ".pickle",
    ".tflite",
    ".ot",
    ".dat",
    ".part",
];

/// What a [`Directory`] will hold.
#[derive(Clone, Debug)]
pub struct DirectoryOptions {
    /// The tensors, in the order they are written. Those of one module should follow each other: they then
    /// stay in one file.
    pub tensors: Vec<TensorPlan>,
    /// The text of `config.json`.
    pub config: String,
    /// Name and content of further files; they take precedence over the source's.
    pub extra_files: Vec<(String, Vec<u8>)>,
    /// Whether the source's other small files (tokenizer, chat template, licence) are copied.
    pub companions: bool,
    /// Whether an existing model directory may be replaced.
    pub force: bool,
    /// What the command reads beside the source: never replaced.
    pub inputs: Inputs,
    /// Bytes of tensors in one file at most, unless one module has more.
    pub shard_bytes: u64,
}

impl Default for DirectoryOptions {
    /// No tensors, an empty configuration, the source's companions; shards of 4 GiB.
    fn default() -> Self {
        Self {
            tensors: Vec::new(),
            config: "{}\n".into(),
            extra_files: Vec::new(),
            companions: true,
            force: false,
            inputs: Inputs::default(),
            shard_bytes: 4 << 30,
        }
    }
}

/// A checkpoint directory under construction. Dropped before [`Directory::finish`], nothing remains.
#[derive(Debug)]
pub struct Directory {
    output: OutputDirectory,
    writer: ShardedWriter,
}

impl Directory {
    /// Starts the directory `out` for a model made from `source`: writes everything but the tensors.
    ///
    /// # Errors
    /// `out` exists (without `force`, or with it and is no model directory), or an input is stored there;
    /// the plan cannot be written.
    pub fn create(out: &Path, source: &Checkpoint, options: DirectoryOptions) -> Result<Self> {
        let inputs = options.inputs.with_model(source);
        let mut names = BTreeSet::new();
        for (name, _) in &options.extra_files {
            let plain = Path::new(name).file_name().is_some_and(|n| n == name.as_str());
            if !plain || name == "config.json" || is_weights(name) || !names.insert(name.as_str()) {
                let what = format!("{name:?} is no name for a file beside the weights");
                return Err(Error::refused(out, what));
            }
        }
        let output = OutputDirectory::create(out, inputs.unless_read(options.force))?;
        output.write("config.json", options.config.as_bytes())?;
        for (name, data) in &options.extra_files {
            output.write(name, data)?;
        }
        if options.companions {
            copy_companions(source, &names, |name, data| output.write(name, data))?;
        }
        let writer =
            ShardedWriter::create(output.building(), &metadata(), options.tensors, options.shard_bytes)
                .map_err(|e| output.named(e))?;
        Ok(Self { output, writer })
    }

    /// Appends bytes to the current tensor, in the planned order; one call cannot span two tensors.
    pub fn write(&mut self, data: &[u8]) -> Result<()> {
        self.writer.write(data).map_err(|e| self.output.named(e))
    }

    /// Ends the tensor `name`, of one dimension, with what it has so far: for text whose length is known at the
    /// end only, planned with the most it may take. Does nothing if it is complete.
    pub fn end_tensor(&mut self, name: &str) -> Result<()> {
        self.writer.end_tensor(name).map_err(|e| self.output.named(e))
    }

    /// Checks that every tensor is complete and gives the directory its name. Returns the bytes of the
    /// tensor files.
    pub fn finish(self) -> Result<u64> {
        self.finish_with(None)
    }

    /// The same, with a file [`provenance::FILE`] of this provenance, to which the bytes of the tensor files are added.
    pub fn finish_with(self, provenance: Option<Provenance>) -> Result<u64> {
        let bytes = self.writer.finish().map_err(|e| self.output.named(e))?;
        if let Some(provenance) = provenance {
            let whole = provenance.with_figures([("file_size", bytes as f64)]);
            // The source's own, if it was copied.
            self.output.replace(provenance::FILE, &whole.to_file())?;
        }
        self.output.commit()?;
        Ok(bytes)
    }
}

/// Writes into `folder`, which is there and empty, what the directory would be but for the data of its tensors: for plans,
/// which read shapes and no data. `force`, `inputs` and `shard_bytes` mean nothing here.
///
/// # Errors
/// The plan cannot be written.
pub fn outline(folder: &Path, source: &Checkpoint, options: &DirectoryOptions) -> Result<()> {
    let write = |name: &str, data: &[u8]| {
        let path = folder.join(name);
        fs::write(&path, data).map_err(|e| Error::new(&path, e))
    };
    write("config.json", options.config.as_bytes())?;
    for (name, data) in &options.extra_files {
        write(name, data)?;
    }
    if options.companions {
        let names = options.extra_files.iter().map(|(name, _)| name.as_str()).collect();
        copy_companions(source, &names, write)?;
    }
    safetensors::outline(&folder.join("model.safetensors"), &metadata(), &options.tensors)
}

/// What transformers wants to find in the header.
fn metadata() -> Metadata {
    let mut metadata = Metadata::new();
    metadata.set("format", MetadataValue::String("pt".into()));
    metadata
}

/// The JSON object in a `config.json`.
pub(super) fn config_object(file: &Path) -> Result<Map<String, Value>> {
    let Some(text) = small::read_optional(file, small::CONFIGURATION)? else {
        let what = "there is no config.json beside the weights, and a model directory needs one; \
                    download it from where the weights come from";
        return Err(broken(file, what));
    };
    match small::json(&text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(broken(file, "not a configuration: it must be a JSON object")),
        Err(e) => Err(broken(file, format!("not a configuration: {e}"))),
    }
}

/// Copies the small files that are neither weights nor configurations nor in `names`.
fn copy_companions(
    source: &Checkpoint,
    names: &BTreeSet<&str>,
    mut write: impl FnMut(&str, &[u8]) -> Result<()>,
) -> Result<()> {
    let folder = source.directory();
    for entry in fs::read_dir(folder).map_err(|e| Error::new(folder, e))? {
        let entry = entry.map_err(|e| Error::new(folder, e))?;
        // hidden names, and those that are no text, are nothing a model needs
        let Ok(name) = entry.file_name().into_string() else { continue };
        let path = entry.path();
        // through links: the Hub's cache is made of them
        let small = fs::metadata(&path).is_ok_and(|m| m.is_file() && m.len() <= COMPANION_BYTES);
        let unwanted = name.starts_with('.') || OWN_FILES.contains(&name.as_str()) || is_weights(&name);
        if !small || unwanted || names.contains(name.as_str()) {
            continue;
        }
        let data = small::read(&path, COMPANION_BYTES)?;
        write(&name, &data)?;
    }
    Ok(())
}

fn is_weights(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    WEIGHTS.iter().any(|end| name.ends_with(end))
}
