//! A model in one or several safetensors files: what transformers' `save_pretrained` writes.
//!
//! ```text
//! all fits in one file      model.safetensors
//! else                      model-00001-of-0000N.safetensors …, each about the given size at most, and
//!                           model.safetensors.index.json: {"metadata": {"total_size": bytes of all tensors},
//!                                                          "weight_map": {"name": "file", …}}
//! ```
//!
//! Tensors of one module (`P.qweight`, `P.scales`; `P.weight`, `P.weight.absmax`) that follow each other stay
//! in one file: older readers look for all parts of a quantized layer in the file that holds the first.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};

use super::Writer;
use crate::output::OutputFile;
use crate::{Error, Metadata, Result, TensorPlan, plan};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Writes tensors in the planned order, each in as many pieces as the caller likes, to as many files as it
/// takes. One file is open at a time.
#[derive(Debug)]
pub struct ShardedWriter {
    folder: PathBuf,
    metadata: Metadata,
    shards: VecDeque<Shard>,
    /// The file being written, and the bytes of tensors it waits for.
    current: Option<(Writer, u64)>,
    /// The file of each tensor, if there are several files, and the bytes of all tensors.
    weight_map: Option<BTreeMap<String, String>>,
    total_size: u64,
    written: u64,
}

#[derive(Debug)]
struct Shard {
    file: String,
    tensors: Vec<TensorPlan>,
    bytes: u64,
}

impl ShardedWriter {
    /// Starts the files of `tensors` in `folder`. A file takes tensors of at most `shard_bytes` together,
    /// unless a module alone is larger. `metadata` is written to every file.
    ///
    /// # Errors
    /// Whatever [`Writer::create`] refuses, for any of the files.
    pub fn create(
        folder: &Path,
        metadata: &Metadata,
        tensors: Vec<TensorPlan>,
        shard_bytes: u64,
    ) -> Result<Self> {
        let sizes = plan::check(folder, &tensors)?;
        let shards = split(tensors, &sizes, shard_bytes);
        for shard in &shards {
            Writer::file_size(metadata, &shard.tensors)
                .map_err(|e| Error { file: folder.join(&shard.file), ..e })?;
        }
        let weight_map = (shards.len() > 1).then(|| weight_map(&shards));
        let total_size = shards.iter().map(|s| s.bytes).sum();
        let mut writer = Self {
            folder: folder.to_path_buf(),
            metadata: metadata.clone(),
            shards: shards.into(),
            current: None,
            weight_map,
            total_size,
            written: 0,
        };
        writer.advance()?;
        Ok(writer)
    }

    /// Appends bytes to the current tensor; moves on to the next when it is full. Bytes beyond the
    /// tensor's declared size are an error: one call cannot span two tensors.
    pub fn write(&mut self, data: &[u8]) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        let Some((writer, missing)) = &mut self.current else {
            let what = format!("{} bytes more than all planned tensors take", data.len());
            return Err(Error::refused(&self.folder, what));
        };
        writer.write(data)?;
        *missing -= data.len() as u64;
        self.advance()
    }

    /// Ends the tensor `name` with what it has so far, as [`Writer::end_tensor`].
    pub fn end_tensor(&mut self, name: &str) -> Result<()> {
        let Some((writer, missing)) = &mut self.current else { return Ok(()) };
        let short = writer.end_tensor(name)?;
        *missing -= short;
        self.total_size -= short;
        self.advance()
    }

    /// Checks that every tensor is complete, writes the index. Returns the bytes of all tensor files.
    pub fn finish(mut self) -> Result<u64> {
        if let Some((writer, _)) = self.current.take() {
            // which names the tensor that is not complete
            writer.finish()?;
            return Err(Error::refused(&self.folder, "the model is not complete"));
        }
        if let Some(weight_map) = &self.weight_map {
            let index = serde_json::json!({
                "metadata": { "total_size": self.total_size },
                "weight_map": weight_map,
            });
            let mut file = OutputFile::create(&self.folder.join(INDEX), false)?;
            file.append(format!("{index:#}\n").as_bytes())?;
            file.commit()?;
        }
        Ok(self.written)
    }

    /// Commits a file that has all its tensors and starts the next.
    fn advance(&mut self) -> Result<()> {
        loop {
            match self.current.take() {
                Some((writer, 0)) => self.written += writer.finish()?,
                waiting @ Some(_) => {
                    self.current = waiting;
                    return Ok(());
                }
                None => {}
            }
            let Some(shard) = self.shards.pop_front() else { return Ok(()) };
            let path = self.folder.join(&shard.file);
            let writer = Writer::create(&path, &self.metadata, &shard.tensors, false)?;
            self.current = Some((writer, shard.bytes));
        }
    }
}

/// Fills files with whole modules, in order.
fn split(tensors: Vec<TensorPlan>, sizes: &[u64], shard_bytes: u64) -> Vec<Shard> {
    let mut bounds = Vec::new(); // ends of the files
    let (mut at, mut bytes) = (0, 0u64);
    for module in tensors.chunk_by(|a, b| module(&a.name) == module(&b.name)) {
        let more = sizes[at..at + module.len()].iter().fold(0u64, |sum, &s| sum.saturating_add(s));
        if bytes > 0 && more > 0 && bytes.saturating_add(more) > shard_bytes {
            bounds.push(at);
            bytes = 0;
        }
        bytes = bytes.saturating_add(more);
        at += module.len();
    }
    bounds.push(at);
    let count = bounds.len();
    let mut tensors = tensors.into_iter();
    let mut begin = 0;
    let shards = bounds.into_iter().enumerate().map(|(i, end)| {
        let file = match count {
            1 => SINGLE.to_owned(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", i + 1),
        };
        let bytes = sizes[begin..end].iter().fold(0u64, |sum, &s| sum.saturating_add(s));
        let tensors = tensors.by_ref().take(end - begin).collect();
        begin = end;
        Shard { file, tensors, bytes }
    });
    shards.collect()
}

/// The module a tensor belongs to: its name without the last part, `weight` and what follows it being one.
fn module(name: &str) -> &str {
    match name.split_once(".weight.") {
        Some((module, _)) => module,
        None => name.rsplit_once('.').map_or(name, |(module, _)| module),
    }
}

fn weight_map(shards: &[Shard]) -> BTreeMap<String, String> {
    let files = shards.iter().flat_map(|s| s.tensors.iter().map(|t| (t.name.clone(), s.file.clone())));
    files.collect()
}
