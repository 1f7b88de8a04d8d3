//! A Hugging Face checkpoint of plain numbers, written for a job that works on such checkpoints only.
//!
//! ```text
//! .NAME.decoded/                   a hidden folder beside the job's output NAME: the model's numbers as safetensors
//!   .made-of.json                  the model it was made of: names, sizes and times of its files
//! .NAME.quern-XXXXXX.part/decoded  the same for a job that begins anew whenever it was stopped
//! .quern-plan.quern-XXXXXX.part/   in the system's folder for temporary files, for a dry run: the same without the numbers
//! ```
//!
//! They are removed when the output is done. A job that was stopped and can go on where it was finds the first again;
//! the other one is removed however the job ends.

use std::env;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use quern_model::Config;
use quern_model::contents::already_quantized;
use quern_model::hugging_face;
use quern_tensor_io::output::{self, ScratchFolder};
use quern_tensor_io::scheme::Packing;
use quern_tensor_io::{Checkpoint, Container, ElementType, Error, Progress, Result, small};

use crate::sink;
use crate::{ConvertPlan, Options, Target};

/// The most bytes of a label: some lines for each file of a model.
const LARGEST_LABEL: u64 = 16 << 20;

/// The plain form of a model that is in GGUF or quantized.
#[derive(Debug)]
pub struct PlainSource<'a> {
    checkpoint: &'a Checkpoint,
    quantized: bool,
    folder: PathBuf,
    /// What it is in, for a job that cannot go on where it was stopped.
    scratch: Option<ScratchFolder>,
    /// The lock on the folder: another job with the same output would remove it.
    lock: Option<File>,
}

/// In the folder: what it was made of.
const LABEL: &str = ".made-of.json";

/// Whether a job that works on Hugging Face checkpoints of plain numbers needs another form of `checkpoint`.
///
/// # Errors
/// The weights are quantized, and that is not allowed; packed layers that cannot be read.
pub fn needs_plain_source(checkpoint: &Checkpoint, allow_requantize: bool) -> Result<bool> {
    match quantized_with(checkpoint)? {
        Some(stored) if !allow_requantize && !stored.as_released => {
            Err(already_quantized(checkpoint.path(), &stored.method))
        }
        Some(_) => Ok(true),
        None => Ok(checkpoint.container() == Container::Gguf),
    }
}

/// How weights are stored that are not plain numbers.
struct Stored {
    method: String,
    /// Models are released so: it is no loss of quality to quantize them.
    as_released: bool,
}

/// How the weights are stored, where they are not plain numbers.
fn quantized_with(checkpoint: &Checkpoint) -> Result<Option<Stored>> {
    if let Some(packing) = Packing::read(checkpoint)? {
        let (method, as_released) = (packing.scheme().name().to_owned(), packing.is_as_released());
        return Ok(Some(Stored { method, as_released }));
    }
    let block = checkpoint.tensors().iter().map(|t| t.element_type).find(|t| t.is_block());
    Ok(block.map(|t| Stored { method: t.name().to_owned(), as_released: false }))
}

impl<'a> PlainSource<'a> {
    /// The plain form of `checkpoint`, beside the job's `output`. Nothing is written yet. With `resumed`, the job can go
    /// on where it was stopped.
    ///
    /// # Errors
    /// An output without a name; packed layers that cannot be read.
    pub fn beside(checkpoint: &'a Checkpoint, output: &Path, resumed: bool) -> Result<Self> {
        let Some(name) = output.file_name() else {
            return Err(Error::refused(output, "not a folder name; give the output a name"));
        };
        let name = name.to_string_lossy();
        let quantized = quantized_with(checkpoint)?.is_some();
        let scratch = if resumed { None } else { Some(ScratchFolder::beside(output)?) };
        let folder = match &scratch {
            Some(scratch) => scratch.path().join("decoded"),
            None => output.with_file_name(format!(".{name}.decoded")),
        };
        Ok(Self { checkpoint, quantized, folder, scratch, lock: None })
    }

    /// Where it is, or will be.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Plans the conversion; `None` if an earlier job left it there, of the same files.
    ///
    /// # Errors
    /// As [`crate::plan()`]; another job uses it.
    pub fn plan(&mut self, threads: usize) -> Result<Option<ConvertPlan<'a>>> {
        if self.folder.is_dir() {
            self.take_lock()?;
        }
        let label = label(self.checkpoint);
        let found = small::text(&self.folder.join(LABEL), LARGEST_LABEL);
        if found.is_ok_and(|found| found == label) {
            return Ok(None);
        }
        plan(self.checkpoint, self.quantized, threads).map(Some)
    }

    /// Writes what was planned. Progress as of [`crate::run()`].
    ///
    /// # Errors
    /// As [`crate::run()`]; another job uses it.
    pub fn write(&mut self, plan: &ConvertPlan<'_>, progress: &dyn Progress) -> Result<()> {
        crate::run(plan, &self.folder, progress)?;
        self.take_lock()?;
        let label_file = self.folder.join(LABEL);
        fs::write(&label_file, label(self.checkpoint)).map_err(|e| Error::new(&label_file, e))
    }

    /// Two jobs with the same output would remove each other's numbers.
    fn take_lock(&mut self) -> Result<()> {
        let lock = File::open(&self.folder).map_err(|e| Error::new(&self.folder, e))?;
        if let Err(TryLockError::WouldBlock) = lock.try_lock() {
            let what = "another run is working on this output; wait for it, or choose another name";
            return Err(Error::refused(&self.folder, what));
        }
        self.lock = Some(lock);
        Ok(())
    }

    /// The output is done: removes what was written for it.
    ///
    /// # Errors
    /// The system refuses.
    pub fn remove(self) -> Result<()> {
        match self.scratch {
            Some(_) => Ok(()),
            None => output::discard(&self.folder),
        }
    }
}

/// The conversion that makes the numbers.
fn plan(checkpoint: &Checkpoint, quantized: bool, threads: usize) -> Result<ConvertPlan<'_>> {
    // Decoded numbers have few digits: 16 bits hold them as well as the published ones. What is not quantized stays as it
    // is where that is bf16, whatever the configuration says.
    let stated = || Config::from_checkpoint(checkpoint).ok().and_then(|c| c.dtype);
    let held = || checkpoint.tensors().iter().any(|t| t.element_type == ElementType::BF16);
    let dtype = match quantized {
        false => None,
        true if held() || stated() == Some(ElementType::BF16) => Some(ElementType::BF16),
        true => Some(ElementType::F16),
    };
    let options = Options { dtype, force: true, threads, ..Options::new(Target::Safetensors) };
    crate::plan(checkpoint, options)
}

/// The plain form of a model without its numbers, for a plan of what would be made from it. It is removed when this is
/// dropped.
#[derive(Debug)]
pub struct PlainOutline<'a> {
    scratch: ScratchFolder,
    plan: ConvertPlan<'a>,
}

impl<'a> PlainOutline<'a> {
    /// Writes it, with a hole in the place of the numbers.
    ///
    /// # Errors
    /// As [`crate::plan()`]; the system refuses.
    pub fn of(checkpoint: &'a Checkpoint, threads: usize) -> Result<Self> {
        let plan = plan(checkpoint, quantized_with(checkpoint)?.is_some(), threads)?;
        let scratch = ScratchFolder::beside(&env::temp_dir().join("quern-plan"))?;
        if let Some(options) = sink::directory(&plan) {
            hugging_face::outline(scratch.path(), checkpoint, &options)?;
        }
        Ok(Self { scratch, plan })
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        self.scratch.path()
    }

    /// How the numbers are made.
    pub fn plan(&self) -> &ConvertPlan<'a> {
        &self.plan
    }
}

/// Names, sizes and times of the model's files.
fn label(checkpoint: &Checkpoint) -> String {
    let file = |path: &PathBuf| {
        let metadata = fs::metadata(path).ok();
        let time = metadata.as_ref().and_then(|m| m.modified().ok()?.duration_since(UNIX_EPOCH).ok());
        let time = time.map(|t| t.as_nanos().to_string());
        serde_json::json!([path, metadata.map(|m| m.len()), time])
    };
    serde_json::Value::Array(checkpoint.files().iter().map(file).collect()).to_string()
}
