//! What GPTQ and bitsandbytes are made from: a Hugging Face checkpoint of plain numbers.
//!
//! A GGUF file, or with `--allow-requantize` a model that is quantized already, is first written out as such a
//! checkpoint: `.NAME.decoded`, a hidden folder beside the output. It is removed when the output is done; a run that
//! was stopped finds it again, so that GPTQ can go on where it was.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::{Context, bail};
use quern_convert::{Options, Target};
use quern_model::Config;
use quern_tensor_io::scheme::Packing;
use quern_tensor_io::{Checkpoint, Container, ElementType};

use crate::progress::{Bar, Unit};
use crate::{args, format, model};

/// A checkpoint of plain numbers in Hugging Face's world.
pub struct Source {
    path: PathBuf,
    /// What to remove at the end.
    decoded: Option<Decoded>,
}

struct Decoded {
    folder: PathBuf,
    /// Which model it was made of.
    label: PathBuf,
}

impl Source {
    /// The model of the arguments, written out first if need be.
    pub fn prepare(args: &args::Quantize) -> anyhow::Result<Self> {
        let path = model::path(&args.model)?;
        let checkpoint = quern_model::identify::open(&path)?;
        let quantized = is_quantized(&checkpoint)?;
        if quantized && !args.allow_requantize {
            bail!(
                "{}: the model is quantized already, and quantizing it again loses quality twice; start from the \
                 original weights, or pass --allow-requantize",
                path.display()
            );
        }
        if !quantized && checkpoint.container() != Container::Gguf {
            return Ok(Self { path, decoded: None });
        }
        let Some(output) = args.output.as_deref().filter(|_| !args.dry_run) else {
            bail!(
                "{}: a plan can be made of a Hugging Face checkpoint of plain numbers only; convert the model to \
                 safetensors first, or leave --dry-run out",
                path.display()
            );
        };
        let decoded = Decoded::beside(output)?;
        decoded.write(&checkpoint, quantized, args.threads.count())?;
        Ok(Self { path: decoded.folder.clone(), decoded: Some(decoded) })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The output is done: removes what was written for it.
    pub fn finish(self) -> anyhow::Result<()> {
        let Some(Decoded { folder, label }) = self.decoded else { return Ok(()) };
        for (path, removed) in [(&label, fs::remove_file(&label)), (&folder, fs::remove_dir_all(&folder))] {
            removed.with_context(|| format!("{}: cannot be removed; nothing needs it", path.display()))?;
        }
        Ok(())
    }
}

/// Whether the numbers are no longer those that were published.
fn is_quantized(checkpoint: &Checkpoint) -> anyhow::Result<bool> {
    let blocks = checkpoint.tensors().iter().any(|t| t.element_type.is_block());
    Ok(blocks || Packing::read(checkpoint)?.is_some())
}

impl Decoded {
    fn beside(output: &Path) -> anyhow::Result<Self> {
        let name = output.file_name().context("the output has no name")?.to_string_lossy();
        let folder = output.with_file_name(format!(".{name}.decoded"));
        Ok(Self { label: output.with_file_name(format!(".{name}.decoded.json")), folder })
    }

    /// Writes the numbers of `checkpoint`, unless an earlier run did.
    fn write(&self, checkpoint: &Checkpoint, quantized: bool, threads: usize) -> anyhow::Result<()> {
        let label = label(checkpoint);
        if fs::read_to_string(&self.label).is_ok_and(|found| found == label) && self.folder.is_dir() {
            return Ok(());
        }
        // Decoded numbers have few digits: 16 bits hold them as well as the published ones.
        let dtype = match Config::from_checkpoint(checkpoint).ok().and_then(|c| c.dtype) {
            _ if !quantized => None,
            Some(ElementType::BF16) => Some(ElementType::BF16),
            _ => Some(ElementType::F16),
        };
        let options = Options { dtype, force: true, threads, ..Options::new(Target::Safetensors) };
        let plan = quern_convert::plan(checkpoint, options)?;
        eprintln!(
            "writing the model's numbers to {} first, {}",
            self.folder.display(),
            format::bytes(plan.tensor_bytes())
        );
        let bar = Bar::new(Unit::Bytes);
        quern_convert::run(&plan, &self.folder, &bar)?;
        drop(bar);
        fs::write(&self.label, label).with_context(|| format!("{}: cannot be written", self.label.display()))
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
