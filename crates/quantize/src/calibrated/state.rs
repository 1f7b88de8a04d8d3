//! What a run keeps on disk so that it can be continued after it was stopped.
//!
//! ```text
//! .NAME.gptq-unfinished/            beside the output NAME, gone when that is complete; gguf-unfinished for a GGUF file
//!   job.json                        what is being done; another job does not continue it
//!   quantize_config.json            of GPTQ: so that the files below can be read as the checkpoint they are part of
//!   embedding.safetensors           the token embedding, of a GGUF file; with embedding.record as a block has one
//!   block-0003-1.safetensors        quantized layers of one group that shares its input
//!   block-0003.record               the block is finished: SHA-256 of what follows, then as JSON reports, sums for the
//!                                   importance matrix, SHA-256 of the files of its groups; what follows the blocks
//!                                   counts as one more block
//!   hidden-0004.safetensors         the residual stream before block 4, with its SHA-256; written once a minute
//! ```
//!
//! Each file appears whole or not at all. What is damaged on the disk all the same is found by its checksum when the run
//! is continued: the block and those after it are done again, and the run says so.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, UNIX_EPOCH};

use quern_tensor_io::output::{OutputFile, discard, is_at};
use quern_tensor_io::{
    Checkpoint, ElementType, Error, Metadata, Remedy, Result, TensorPlan, safetensors, small,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::Calibration;
use super::digest::file_digest;
use crate::calibration::hex;

/// How often the residual stream is written: it is large, and lost seconds are not worth much.
pub(super) const HIDDEN_EVERY: Duration = Duration::from_secs(60);
/// The same where GPUs compute: a finished block takes them about a second to run again.
pub(super) const HIDDEN_EVERY_ON_GPUS: Duration = Duration::from_secs(300);

/// The record of the token embedding.
const EMBEDDING_RECORD: &str = "embedding.record";
/// The key of the residual stream's SHA-256 in the metadata of its file.
const HIDDEN_DIGEST: &str = "sha256";
/// Bytes of a SHA-256 in hexadecimal digits.
const DIGEST: usize = 64;
/// The largest record of a block or of the job: some hundred bytes for each of its matrices.
const LARGEST: u64 = 64 << 20;

/// A finished block.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct BlockRecord<R> {
    pub modules: Vec<R>,
    /// What was measured of the inputs, where it is wanted.
    pub squares: Vec<Squares>,
    /// Groups of the block that have a file, with the SHA-256 of it.
    pub groups: BTreeMap<usize, String>,
}

impl<R> Default for BlockRecord<R> {
    fn default() -> Self {
        Self { modules: Vec::new(), squares: Vec::new(), groups: BTreeMap::new() }
    }
}

/// Sums of squares of the inputs of a layer.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Squares {
    /// GGUF name of the layer's tensor.
    pub tensor: String,
    /// Which expert of the tensor it is.
    pub expert: Option<usize>,
    /// One sum a column.
    pub sums: Vec<f32>,
    /// Over so many tokens.
    pub tokens: u64,
}

/// What a run is, so that no other one is continued in its place.
pub(super) struct Identity<'a> {
    /// The output: part of the folder's name.
    pub kind: &'a str,
    /// Everything that decides about the result.
    pub fingerprint: Value,
    /// Blocks that will be finished.
    pub blocks: usize,
    /// Discard an unfinished run.
    pub restart: bool,
    /// Files that belong into the folder, by name.
    pub files: &'a [(&'a str, Vec<u8>)],
}

/// An unfinished run, new or continued.
#[derive(Debug)]
pub(super) struct Opened<R> {
    pub state: State,
    /// The finished blocks at its beginning.
    pub finished: Vec<BlockRecord<R>>,
    /// What was found damaged and is done again.
    pub damage: Option<String>,
}

/// The folder of an unfinished run.
#[derive(Debug)]
pub(super) struct State {
    folder: PathBuf,
    last_hidden: Instant,
    /// Held while the run lives: a second one with the same output would spoil the files.
    _lock: File,
}

impl State {
    /// Opens the folder for `output`, made anew if there is none.
    ///
    /// # Errors
    /// The folder belongs to another job (unless `restart`) or to a run that is still going on.
    pub fn open<R: DeserializeOwned>(output: &Path, identity: &Identity<'_>) -> Result<Opened<R>> {
        let folder = folder(output, identity.kind);
        let fail = |e: std::io::Error| Error::new(&folder, e);
        let job = serde_json::to_vec_pretty(&identity.fingerprint).unwrap_or_default();
        let file = folder.join("job.json");
        let lock = lock(&folder)?;
        let same = small::read(&file, LARGEST).is_ok_and(|found| found == job);
        if !same {
            if file.exists() && !identity.restart {
                let what =
                    "it holds an unfinished run with other options, another model or other calibration text";
                return Err(Error::refused(&folder, what).with_remedy(Remedy::RestartJob));
            }
            for entry in fs::read_dir(&folder).map_err(fail)? {
                let path = entry.map_err(fail)?.path();
                if path.file_name().is_some_and(|n| n != "lock") {
                    fs::remove_file(&path).map_err(|e| Error::new(&path, e))?;
                }
            }
            for (name, data) in identity.files {
                write(&folder.join(name), data)?;
            }
            write(&file, &job)?;
        } else if identity.restart {
            let path = folder.join(EMBEDDING_RECORD);
            match fs::remove_file(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::new(&path, e)),
                _ => {}
            }
        }
        let state = Self { folder, last_hidden: Instant::now(), _lock: lock };
        let (mut finished, mut damage) = (Vec::new(), None);
        for layer in 0..if same && !identity.restart { identity.blocks } else { 0 } {
            match state.block(layer) {
                Ok(None) => break,
                Ok(Some(record)) => finished.push(record),
                Err(file) => {
                    damage = Some(format!(
                        "{}: this file of the unfinished run is damaged; block {layer} and those after it were done \
                         again",
                        file.display()
                    ));
                    break;
                }
            }
        }
        Ok(Opened { state, finished, damage })
    }

    /// The record of a block, if it is finished.
    ///
    /// # Errors
    /// The file that is damaged.
    fn block<R: DeserializeOwned>(&self, layer: usize) -> Result<Option<BlockRecord<R>>, PathBuf> {
        Self::record(self.record_file(layer), |group| self.group_file(layer, group))
    }

    /// The record of the token embedding, if it is finished.
    ///
    /// # Errors
    /// The file that is damaged.
    pub fn embedding<R: DeserializeOwned>(&self) -> Result<Option<BlockRecord<R>>, PathBuf> {
        Self::record(self.folder.join(EMBEDDING_RECORD), |_| self.embedding_file())
    }

    /// The file of the token embedding.
    pub fn embedding_file(&self) -> PathBuf {
        self.folder.join("embedding.safetensors")
    }

    /// Marks the token embedding as finished: its file is the record's only group.
    pub fn finish_embedding<R: Serialize>(&self, mut record: BlockRecord<R>) -> Result<()> {
        let file = self.embedding_file();
        record.groups.insert(0, file_digest(&file).map_err(|e| Error::new(&file, e))?);
        keep(&self.folder.join(EMBEDDING_RECORD), &record)
    }

    /// A record with its files checked.
    fn record<R: DeserializeOwned>(
        path: PathBuf,
        group_file: impl Fn(usize) -> PathBuf,
    ) -> Result<Option<BlockRecord<R>>, PathBuf> {
        let text = match small::read_optional(&path, LARGEST) {
            Ok(None) => return Ok(None),
            Err(_) => return Err(path),
            Ok(Some(text)) => text,
        };
        let (digest, json) = text.split_at_checked(DIGEST).ok_or_else(|| path.clone())?;
        if digest != hex(Sha256::new_with_prefix(json)).as_bytes() {
            return Err(path);
        }
        let record: BlockRecord<R> = serde_json::from_slice(json).map_err(|_| path)?;
        for (&group, expected) in &record.groups {
            let path = group_file(group);
            if file_digest(&path).ok().as_ref() != Some(expected) {
                return Err(path);
            }
        }
        Ok(Some(record))
    }

    /// Bytes that an unfinished run for `output` has written already.
    pub fn kept(output: &Path, kind: &str) -> u64 {
        let Some(files) = fs::read_dir(folder(output, kind)).ok() else { return 0 };
        files.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len())).sum()
    }

    /// The file of the quantized layers of a group.
    pub fn group_file(&self, layer: usize, group: usize) -> PathBuf {
        self.folder.join(format!("block-{layer:04}-{group}.safetensors"))
    }

    /// Marks a block as finished.
    pub fn finish_block<R: Serialize>(&self, layer: usize, record: &BlockRecord<R>) -> Result<()> {
        keep(&self.record_file(layer), record)
    }

    /// Whether the last time residual streams were kept is long enough ago.
    pub fn wants_hidden(&self, every: Duration) -> bool {
        self.last_hidden.elapsed() >= every
    }

    /// Writes the residual streams before block `layer`, one after the other.
    pub fn keep_hidden(&mut self, layer: usize, hidden: &[&[f32]]) -> Result<()> {
        let path = self.hidden_file(layer);
        let values = hidden.iter().map(|stream| stream.len()).sum();
        let plan = TensorPlan { name: "hidden".into(), element_type: ElementType::F32, shape: vec![values] };
        let mut bytes = Vec::with_capacity(1 << 20);
        let mut pieces = |each: &mut dyn FnMut(&[u8]) -> Result<()>| {
            hidden.iter().flat_map(|stream| stream.chunks(1 << 18)).try_for_each(|values| {
                bytes.clear();
                bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
                each(&bytes)
            })
        };
        let mut digest = Sha256::new();
        pieces(&mut |bytes| {
            digest.update(bytes);
            Ok(())
        })?;
        let mut metadata = Metadata::new();
        metadata.set(HIDDEN_DIGEST, hex(digest).as_str());
        let mut writer = safetensors::Writer::create(&path, &metadata, &[plan], true)?;
        pieces(&mut |bytes| writer.write(bytes))?;
        writer.finish()?;
        for older in 0..layer {
            let _ = fs::remove_file(self.hidden_file(older));
        }
        self.last_hidden = Instant::now();
        Ok(())
    }

    /// The newest residual stream of `length` values not behind block `layer`, with its block. One that is damaged
    /// counts as none: an older one, or none, gives the same in longer time.
    pub fn hidden(&self, layer: usize, length: usize) -> Option<(usize, Vec<f32>)> {
        (1..=layer).rev().find_map(|layer| {
            let checkpoint = Checkpoint::open(&self.hidden_file(layer)).ok()?;
            let tensor = checkpoint.tensor("hidden").filter(|t| t.info.elements() == length)?;
            let digest = hex(Sha256::new_with_prefix(tensor.data));
            if checkpoint.metadata().str(HIDDEN_DIGEST) != Some(digest.as_str()) {
                return None;
            }
            let values = tensor.data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            Some((layer, values))
        })
    }

    fn record_file(&self, layer: usize) -> PathBuf {
        self.folder.join(format!("block-{layer:04}.record"))
    }

    fn hidden_file(&self, layer: usize) -> PathBuf {
        self.folder.join(format!("hidden-{layer:04}.safetensors"))
    }

    /// Removes the folder: the output is complete.
    pub fn remove(self) -> Result<()> {
        discard(&self.folder)
    }
}

/// Starts the file of a group, which will hold these tensors.
pub(super) fn group_writer(path: &Path, tensors: &[TensorPlan]) -> Result<safetensors::Writer> {
    let mut metadata = Metadata::new();
    metadata.set("format", quern_tensor_io::Value::String("pt".into()));
    safetensors::Writer::create(path, &metadata, tensors, true)
}

/// Takes the lock of the folder, which is made if there is none.
fn lock(folder: &Path) -> Result<File> {
    let (path, fail) = (folder.join("lock"), |e: std::io::Error| Error::new(folder, e));
    loop {
        fs::create_dir_all(folder).map_err(fail)?;
        let lock = match File::options().create(true).truncate(false).write(true).open(&path) {
            // The run that had the folder has just removed it.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            opened => opened.map_err(fail)?,
        };
        if let Err(fs::TryLockError::WouldBlock) = lock.try_lock() {
            let what = "another run is working on this output; wait for it, or choose another name";
            return Err(Error::refused(folder, what));
        }
        if is_at(&lock, &path) {
            return Ok(lock);
        }
    }
}

/// The folder of the unfinished run for `output`, which is kept when the run is stopped.
pub(super) fn folder(output: &Path, kind: &str) -> PathBuf {
    let name = output.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    output.with_file_name(format!(".{name}.{kind}-unfinished"))
}

/// Writes a record, behind its SHA-256.
fn keep<R: Serialize>(path: &Path, record: &BlockRecord<R>) -> Result<()> {
    let json = serde_json::to_vec(record).unwrap_or_default();
    let mut text = hex(Sha256::new_with_prefix(&json)).into_bytes();
    text.extend(json);
    write(path, &text)
}

fn write(path: &Path, data: &[u8]) -> Result<()> {
    let mut file = OutputFile::create(path, true)?;
    file.write_all(data).map_err(|e| Error::new(path, e))?;
    file.commit()
}

/// Everything that decides about the result: the model, its calibration, and what becomes of each of its layers.
pub(super) fn fingerprint(checkpoint: &Checkpoint, modules: Vec<Value>, calibration: &Calibration) -> Value {
    let files = checkpoint.files().iter().map(|file| {
        let metadata = fs::metadata(file).ok();
        let size = metadata.as_ref().map_or(0, fs::Metadata::len);
        let modified = metadata.and_then(|m| m.modified().ok()?.duration_since(UNIX_EPOCH).ok());
        let name = file.canonicalize().unwrap_or_else(|_| file.clone());
        json!([name, size, modified.map_or(0, |d| d.as_nanos() as u64)])
    });
    json!({
        "quern": env!("CARGO_PKG_VERSION"),
        "files": files.collect::<Vec<_>>(),
        "modules": modules,
        "samples": calibration.samples.hash(),
        "imatrix": calibration.imatrix.is_some(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_residual_stream_counts_as_none() {
        let folder = tempfile::tempdir().unwrap();
        let long_ago = Instant::now().checked_sub(2 * HIDDEN_EVERY).unwrap();
        let lock = lock(folder.path()).unwrap();
        let mut state = State { folder: folder.path().to_path_buf(), last_hidden: long_ago, _lock: lock };
        let values: Vec<f32> = (0..300_000).map(|i| i as f32).collect();
        state.keep_hidden(3, &[&values[..1000], &values[1000..]]).unwrap();
        assert!(state.hidden(2, values.len()).is_none());
        assert_eq!(state.hidden(5, values.len()), Some((3, values.clone())));
        let file = state.hidden_file(3);
        let mut bytes = fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&file, bytes).unwrap();
        assert!(state.hidden(5, values.len()).is_none());
    }
}
