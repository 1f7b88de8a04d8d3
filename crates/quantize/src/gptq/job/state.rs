//! What a run keeps on disk so that it can be continued after it was stopped.
//!
//! ```text
//! .NAME.gptq-unfinished/            beside the output NAME, gone when that is complete
//!   job.json                        what is being done; another job does not continue it
//!   quantize_config.json            so that the files below can be read as the checkpoint they are part of
//!   block-0003-1.safetensors        packed modules of one group that shares its input
//!   block-0003.json                 the block is finished: reports, sums for the importance matrix
//!   hidden-0004.safetensors         the residual stream before block 4; written once a minute
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, UNIX_EPOCH};

use quern_tensor_io::output::OutputFile;
use quern_tensor_io::{Checkpoint, ElementType, Error, Metadata, Remedy, Result, TensorPlan, safetensors};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::report::ModuleReport;
use super::{GptqPlan, Options};

/// How often the residual stream is written: it is large, and lost seconds are not worth much.
const HIDDEN_EVERY: Duration = Duration::from_secs(60);

/// A finished block.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct BlockRecord {
    pub modules: Vec<ModuleReport>,
    /// Sums of squares of the inputs by module, where an importance matrix was asked for.
    pub squares: BTreeMap<String, Vec<f32>>,
    /// Groups of the block that have a file.
    pub groups: Vec<usize>,
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
    /// Opens the folder for `output`, made anew if there is none. Returns the finished blocks at its beginning.
    ///
    /// # Errors
    /// The folder belongs to another job (unless `options.restart`) or to a run that is still going on.
    pub fn open(
        output: &Path,
        checkpoint: &Checkpoint,
        plan: &GptqPlan,
        options: &Options,
        config: &[u8],
    ) -> Result<(Self, Vec<BlockRecord>)> {
        let folder = folder(output);
        let fail = |e: std::io::Error| Error::new(&folder, e);
        let job = serde_json::to_vec_pretty(&fingerprint(checkpoint, plan, options)).unwrap_or_default();
        let file = folder.join("job.json");
        fs::create_dir_all(&folder).map_err(fail)?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(folder.join("lock"))
            .map_err(fail)?;
        if let Err(fs::TryLockError::WouldBlock) = lock.try_lock() {
            let what = "another run is working on this output; wait for it, or choose another name";
            return Err(Error::refused(&folder, what));
        }
        let same = fs::read(&file).is_ok_and(|found| found == job);
        if !same {
            if file.exists() && !options.restart {
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
            write(&folder.join("quantize_config.json"), config)?;
            write(&file, &job)?;
        }
        let state = Self { folder, last_hidden: Instant::now(), _lock: lock };
        let finished = (0..plan.layers).map_while(|layer| {
            let record = fs::read(state.folder.join(record_name(layer))).ok()?;
            serde_json::from_slice(&record).ok()
        });
        let finished = if same && !options.restart { finished.collect() } else { Vec::new() };
        Ok((state, finished))
    }

    /// Bytes that an unfinished run for `output` has written already.
    pub fn kept(output: &Path) -> u64 {
        let Some(files) = fs::read_dir(folder(output)).ok() else { return 0 };
        files.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len())).sum()
    }

    /// The file of the packed modules of a group.
    pub fn group_file(&self, layer: usize, group: usize) -> PathBuf {
        self.folder.join(format!("block-{layer:04}-{group}.safetensors"))
    }

    /// Writes the packed modules of a group.
    pub fn write_group(&self, layer: usize, group: usize, tensors: &[(TensorPlan, Vec<u8>)]) -> Result<()> {
        let mut metadata = Metadata::new();
        metadata.set("format", quern_tensor_io::Value::String("pt".into()));
        let plans: Vec<_> = tensors.iter().map(|(plan, _)| plan.clone()).collect();
        let path = self.group_file(layer, group);
        let mut writer = safetensors::Writer::create(&path, &metadata, &plans, true)?;
        for (_, data) in tensors {
            writer.write(data)?;
        }
        writer.finish().map(|_| ())
    }

    /// Marks a block as finished.
    pub fn finish_block(&self, layer: usize, record: &BlockRecord) -> Result<()> {
        write(&self.folder.join(record_name(layer)), &serde_json::to_vec(record).unwrap_or_default())
    }

    /// Writes the residual stream before block `layer`, if the last time is long enough ago.
    pub fn keep_hidden(&mut self, layer: usize, hidden: &[f32]) -> Result<()> {
        if self.last_hidden.elapsed() < HIDDEN_EVERY {
            return Ok(());
        }
        let path = self.hidden_file(layer);
        let plan =
            TensorPlan { name: "hidden".into(), element_type: ElementType::F32, shape: vec![hidden.len()] };
        let mut writer = safetensors::Writer::create(&path, &Metadata::new(), &[plan], true)?;
        let mut bytes = Vec::with_capacity(1 << 20);
        for values in hidden.chunks(1 << 18) {
            bytes.clear();
            bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
            writer.write(&bytes)?;
        }
        writer.finish()?;
        for older in 0..layer {
            let _ = fs::remove_file(self.hidden_file(older));
        }
        self.last_hidden = Instant::now();
        Ok(())
    }

    /// The newest residual stream of `length` values not behind block `layer`, with its block.
    pub fn hidden(&self, layer: usize, length: usize) -> Option<(usize, Vec<f32>)> {
        (1..=layer).rev().find_map(|layer| {
            let checkpoint = Checkpoint::open(&self.hidden_file(layer)).ok()?;
            let tensor = checkpoint.tensor("hidden").filter(|t| t.info.elements() == length)?;
            let values = tensor.data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            Some((layer, values))
        })
    }

    fn hidden_file(&self, layer: usize) -> PathBuf {
        self.folder.join(format!("hidden-{layer:04}.safetensors"))
    }

    /// Removes the folder: the output is complete.
    pub fn remove(self) -> Result<()> {
        fs::remove_dir_all(&self.folder).map_err(|e| Error::new(&self.folder, e))
    }
}

/// The folder of the unfinished run for `output`.
fn folder(output: &Path) -> PathBuf {
    let name = output.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    output.with_file_name(format!(".{name}.gptq-unfinished"))
}

fn record_name(layer: usize) -> String {
    format!("block-{layer:04}.json")
}

fn write(path: &Path, data: &[u8]) -> Result<()> {
    let mut file = OutputFile::create(path, true)?;
    file.write_all(data).map_err(|e| Error::new(path, e))?;
    file.commit()
}

/// Everything that decides about the result.
fn fingerprint(checkpoint: &Checkpoint, plan: &GptqPlan, options: &Options) -> Value {
    let files = checkpoint.files().iter().map(|file| {
        let metadata = fs::metadata(file).ok();
        let size = metadata.as_ref().map_or(0, fs::Metadata::len);
        let modified = metadata.and_then(|m| m.modified().ok()?.duration_since(UNIX_EPOCH).ok());
        let name = file.canonicalize().unwrap_or_else(|_| file.clone());
        json!([name, size, modified.map_or(0, |d| d.as_nanos() as u64)])
    });
    let modules = plan.modules.iter().map(|m| json!([m.name, m.settings.as_ref().map(|s| format!("{s:?}"))]));
    json!({
        "quern": env!("CARGO_PKG_VERSION"),
        "files": files.collect::<Vec<_>>(),
        "modules": modules.collect::<Vec<_>>(),
        "samples": options.samples.hash(),
        "imatrix": options.imatrix.is_some(),
    })
}
