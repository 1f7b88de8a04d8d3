//! What an output says of itself: provenance before the job, evaluation and model card after it.

use std::path::{Path, PathBuf};

use quern_model::card::{self, Card, CardScheme, FrontMatter};
use quern_model::provenance::{
    self, CalibrationText, Evaluation, HashedFile, Origin, Provenance, Step, Tool,
};
use quern_quantize::calibration::{self, NamedText};
use quern_run::PerplexityOptions;
use quern_tensor_io::output::{Existing, Inputs, OutputFile, require_space};
use quern_tensor_io::{Checkpoint, Container, small};
use serde_json::Value;

use super::perplexity::Measurement;
use crate::{args, messages, model, remedy};

/// The most bytes of a model card, which is kept beside the new one.
const CARD: u64 = 16 << 20;

/// How the output of this command is made from `source`: the source's own record and one step more. `None` where none
/// is wanted.
pub fn provenance(
    wanted: &args::NoProvenance,
    source: &Checkpoint,
    calibration: Option<CalibrationText>,
    imatrix: Option<HashedFile>,
) -> Option<Provenance> {
    if wanted.no_provenance {
        return None;
    }
    let (before, note) = Provenance::of(source);
    if let Some(note) = note {
        messages::note(note);
    }
    let step = Step {
        source: Origin::of(source),
        tool: Tool::quern(),
        command: args::this_command(),
        calibration,
        imatrix,
        ..Step::default()
    };
    Some(before.unwrap_or_default().then(step))
}

/// Says in a dry run what the output would be refused for.
pub fn warn_of_space(output: Option<&Path>, bytes: u64) {
    if let Some(Err(error)) = output.map(|output| require_space(output, bytes, "the output")) {
        messages::warning(remedy::described(&error.into()));
    }
}

/// The files that a command reads beside its model: what each is, and where, if it was given and is not standard input.
pub fn inputs<'a>(files: impl IntoIterator<Item = (&'static str, Option<&'a Path>)>) -> Inputs {
    let mut inputs = Inputs::default();
    for (what, file) in files {
        if let Some(file) = file.filter(|file| *file != Path::new("-")) {
            inputs.add_file(what, file);
        }
    }
    inputs
}

/// What is done with an output once it is complete.
#[derive(Default)]
pub struct After {
    card: bool,
    force: bool,
    /// What the card may not replace.
    inputs: Inputs,
    threads: usize,
    /// What the output is compared over, and on which devices.
    text: Option<(NamedText, args::Devices)>,
}

/// What was done.
#[derive(Default)]
pub struct Done {
    card: Option<PathBuf>,
    evaluation: Option<Evaluation>,
}

impl After {
    /// Reads the text and refuses what would be refused, before any work. `output` is a GGUF file: its card's place is
    /// beside it.
    pub fn new(
        card: &args::CardOptions,
        evaluate: Option<(&Path, args::Devices)>,
        inputs: Inputs,
        output: Option<&Path>,
        gguf: bool,
        force: bool,
        threads: usize,
    ) -> anyhow::Result<Self> {
        if let Some(output) = output.filter(|_| card.card && gguf) {
            // Dropped, nothing of it remains.
            drop(OutputFile::create(&output.with_file_name(card::FILE), inputs.unless_read(force))?);
        }
        let text = match evaluate {
            Some((path, devices)) => Some((calibration::open(Some(path))?, devices)),
            None => None,
        };
        Ok(Self { card: card.card, force, inputs, threads, text })
    }

    /// As the arguments of `quern quantize` say.
    pub fn of(args: &args::Quantize, inputs: Inputs, gguf: bool) -> anyhow::Result<Self> {
        let output = args.output.as_deref().filter(|_| !args.dry_run);
        let evaluate = args.evaluate.as_deref().filter(|_| !args.dry_run);
        let evaluate = evaluate.map(|path| (path, args.device.devices()));
        Self::new(&args.card, evaluate, inputs, output, gguf, args.force, args.threads.count())
    }

    /// Compares the output with `original`, and writes the card. `output` is the file or folder to open; `vllm` says
    /// whether vLLM reads it.
    pub fn finish(self, original: &Checkpoint, output: &Path, vllm: bool) -> anyhow::Result<Done> {
        let mut done = Done::default();
        if !self.card && self.text.is_none() {
            return Ok(done);
        }
        let front = FrontMatter::of(original);
        if let Some(text) = self.text {
            done.evaluation = Some(evaluate(text, original.path(), output, self.threads)?);
        }
        let written = model::open_file(output)?;
        let mut provenance = Provenance::of(&written).0.unwrap_or_default();
        if let Some(step) = provenance.steps.last_mut() {
            step.evaluation = done.evaluation.clone();
            if done.evaluation.is_some() && output.is_dir() {
                replace(&output.join(provenance::FILE), &provenance.to_file())?;
            }
        }
        if self.card {
            done.card = Some(write_card(
                &written,
                original,
                &provenance,
                front,
                vllm,
                self.inputs.unless_read(self.force),
            )?);
        }
        Ok(done)
    }
}

impl Done {
    /// Adds it to a command's JSON.
    pub fn add_to(&self, result: &mut Value) -> anyhow::Result<()> {
        if let Some(evaluation) = &self.evaluation {
            result["evaluation"] = serde_json::to_value(evaluation)?;
        }
        if let Some(card) = &self.card {
            result["card"] = serde_json::to_value(card)?;
        }
        Ok(())
    }

    /// In words.
    pub fn text(&self) -> String {
        let mut out = String::new();
        if let Some(e) = &self.evaluation {
            out += &format!(
                "perplexity {:.4}, of the source {:.4}; KL divergence {:.6}; same first token {:.2} % (over {} tokens)\n",
                e.perplexity,
                e.source_perplexity,
                e.kl_mean,
                100.0 * e.top1_agreement,
                e.tokens
            );
        }
        if let Some(card) = &self.card {
            out += &format!("{}: model card\n", card.display());
        }
        out
    }
}

fn evaluate(
    (text, devices): (NamedText, args::Devices),
    source: &Path,
    output: &Path,
    threads: usize,
) -> anyhow::Result<Evaluation> {
    let options = PerplexityOptions::default();
    let measurement = Measurement {
        model: output,
        load_in: None,
        reference: Some(source),
        context: options.context,
        chunks: options.chunks,
        placement: &args::Placement { devices, kv: options.kv, dry_run: false },
        threads,
    };
    let NamedText { source, name, sha256 } = text;
    let (report, _) = measurement.measure(&source.into_text())?;
    let against = report.against.as_ref();
    Ok(Evaluation {
        text: HashedFile { name, sha256 },
        context: report.context as u64,
        tokens: report.tokens as u64,
        source_perplexity: against.map_or(0.0, |a| a.reference_perplexity),
        perplexity: report.perplexity,
        kl_mean: against.map_or(0.0, |a| a.kl_mean),
        top1_agreement: against.map_or(0.0, |a| a.top1_agreement),
    })
}

/// Writes the card of an output that was opened again.
fn write_card(
    written: &Checkpoint,
    original: &Checkpoint,
    provenance: &Provenance,
    source: FrontMatter,
    vllm: bool,
    existing: Existing<'_>,
) -> anyhow::Result<PathBuf> {
    let gguf = written.container() == Container::Gguf;
    let folder = match written.directory() {
        folder if folder.as_os_str().is_empty() => Path::new("."),
        folder => folder,
    };
    let place = folder.join(card::FILE);
    // Copied with the source's other small files; but what is there now may be the card of another run.
    let source_card = original.directory().join(card::FILE);
    let has_source_card =
        !gguf && original.container() != Container::Gguf && place.is_file() && source_card.is_file();
    if has_source_card {
        replace(&folder.join(card::SOURCE_FILE), &small::read(&source_card, CARD)?)?;
    }
    let summary = quern_inspect::summarize(written);
    let scheme = match (&summary.quantization, summary.scheme.as_str()) {
        (Some(q), "gptq") => CardScheme::Gptq { bits: q.bits },
        (Some(q), name @ "compressed-tensors") => CardScheme::Compressed(format!("{name} {}-bit", q.bits)),
        (_, name @ "fp8") => CardScheme::Compressed(name.to_owned()),
        (_, "awq") => CardScheme::Awq,
        (_, name @ ("nf4" | "fp4" | "int8")) => CardScheme::Bitsandbytes(name.to_owned()),
        (_, name) => CardScheme::Type(name.to_owned()),
    };
    let named = if gguf { written.path() } else { folder };
    let name = named.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    // vLLM's kernels have 4 and 8 bits.
    let vllm = vllm && !matches!(scheme, CardScheme::Gptq { bits: 2 | 3 });
    let card = Card {
        name,
        gguf,
        scheme,
        architecture: summary.sizes.architecture.clone(),
        parameters: summary.parameters,
        bits_per_weight: summary.bits_per_weight,
        file_size: summary.file_size,
        context_length: summary.sizes.context_length,
        types: summary.types.iter().map(|t| (t.element_type.to_owned(), t.tensors, t.bytes)).collect(),
        chat: summary.chat_template.is_some(),
        provenance,
        source,
        has_source_card,
        vllm,
    };
    // In a directory it replaces the source's, which has another name there now.
    let mut file = OutputFile::create(&place, if gguf { existing } else { true.into() })?;
    file.append(card.to_text().as_bytes())?;
    file.commit()?;
    Ok(place)
}

/// Replaces a small file of the output.
fn replace(path: &Path, data: &[u8]) -> anyhow::Result<()> {
    let mut file = OutputFile::create(path, true)?;
    file.append(data)?;
    Ok(file.commit()?)
}
