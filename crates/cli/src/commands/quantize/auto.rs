//! To a GGUF file whose types are chosen by measurement, or named by a recipe file.

use std::path::Path;

use anyhow::bail;
use quern_model::provenance::CalibrationText;
use quern_model::{FileType, View};
use quern_quantize::auto::{
    Chosen, MeasureOptions, Target, candidates, choose, feedback_factor, measure, place,
};
use quern_quantize::calibrated::Place;
use quern_quantize::calibration::{self, NamedText, SampleOptions};
use quern_quantize::imatrix::{self, Imatrix};
use quern_quantize::job::Options;
use quern_quantize::recipe::Recipe;
use quern_tensor_io::output::{Inputs, OutputFile};

use super::super::{Outcome, load, placement, record};
use super::calibrated;
use super::gguf::{self, hashed, job_options, packed};
use super::types::{Measured, Types};
use crate::progress::{Bar, Unit};
use crate::{args, format, messages};

/// Samples and their length where nobody says otherwise.
const SAMPLES: u32 = 128;
const CONTEXT: usize = 512;
/// A divergence that takes as many letters as any.
const LONGEST: f64 = 0.000_123_456;
/// Bytes of metadata that depend on how the samples of a calibration are recorded, at most.
const CALIBRATION_ROOM: u64 = 64;

/// With the types of a recipe file.
pub fn with_recipe(args: &args::Quantize, path: &Path) -> Outcome {
    let recipe = Recipe::open(path)?;
    let types = Types {
        name: "recipe".to_owned(),
        file_type: recipe.file_type(),
        recipe: Some(recipe),
        measured: None,
    };
    quantize(args, &types)
}

/// With types chosen for `target`.
pub fn run(args: &args::Quantize, target: Target) -> Outcome {
    let types = chosen(args, target)?;
    quantize(args, &types)
}

fn quantize(args: &args::Quantize, types: &Types) -> Outcome {
    match args.gguf.calibrate {
        true => calibrated::run(args, types),
        false => gguf::run(args, types),
    }
}

/// Measures the model and chooses.
fn chosen(args: &args::Quantize, target: Target) -> anyhow::Result<Types> {
    let given = &args.calibration;
    if args.gguf.calibrate && given.calibration.as_deref() == Some(Path::new("-")) {
        bail!(
            "--to auto with --calibrate reads the calibration text twice, which standard input cannot give; write it to a file"
        );
    }
    let model = load(&args.model, args.threads.count())?;
    let checkpoint = model.checkpoint();
    let view = View::gguf(checkpoint, packed(args))?;
    let inputs = record::inputs([
        ("the calibration text", given.calibration.as_deref()),
        ("the importance matrix", args.gguf.imatrix.as_deref()),
        ("the text to evaluate with", args.evaluate.as_deref()),
    ]);
    let inputs = inputs.with_model(checkpoint);
    // What would be refused at the end is refused now.
    for path in args.output.iter().filter(|_| !args.dry_run).chain(&args.auto.save_recipe) {
        drop(OutputFile::create(path, inputs.unless_read(args.force))?);
    }
    let NamedText { source, name, sha256 } = calibration::open(given.calibration.as_deref())?;
    let context = given.context.map_or(model.config().context_length.min(CONTEXT), |n| n as usize);
    let options = SampleOptions { samples: given.samples.unwrap_or(SAMPLES) as usize, context };
    let samples = calibration::samples(model.tokenizer()?, source, options)?;
    let text = CalibrationText {
        name: name.clone(),
        sha256,
        samples: samples.sequences.len() as u64,
        context: context as u64,
    };
    let place = place(&model, &samples.sequences, &placement::calibration_gpus(&args.device)?);
    let on_gpu = place.gpu_bytes() > 0;
    if !matches!(place, Place::Cpu { why: None }) {
        messages::info(format_args!("measuring {}", place.sentence()));
    }
    let (from_file, imatrix) = match args.gguf.imatrix.as_deref() {
        Some(path) => (true, Imatrix::open(path)?),
        None => {
            let unit = if on_gpu { Unit::Layers } else { Unit::Chunks(context) };
            let bar = Bar::new(unit, "measuring the inputs of the layers");
            let collected = imatrix::collect_samples(&model, &samples.sequences, true, &place, &bar)?;
            (false, Imatrix::measured(&name, &collected)?)
        }
    };
    let open = |name: &str, columns: usize| {
        let end = matches!(name, "token_embd.weight" | "output.weight");
        let entry = imatrix.get(name).is_some_and(|entry| entry.len().is_multiple_of(columns.max(1)));
        candidates(columns, entry, end)
    };
    let bits = match target {
        Target::BitsPerWeight(bits) => bits,
        Target::Size(bytes) => bytes as f64 * 8.0 / model.parameters().max(1) as f64,
    };
    let options = job_options(args, &Types::of(FileType::Q4KM));
    // The length of the provenance counts for the size of the file.
    let of_file = if from_file && !args.gguf.calibrate { hashed(args, &imatrix)? } else { None };
    let within = match target {
        // What is recorded of a calibration may be a few letters longer.
        Target::Size(bytes) if args.gguf.calibrate => Target::Size(bytes.saturating_sub(CALIBRATION_ROOM)),
        Target::Size(_) | Target::BitsPerWeight(_) => target,
    };
    let options = Options {
        imatrix: Some(imatrix.clone()).filter(|_| !args.gguf.calibrate),
        calibrated: args.gguf.calibrate,
        provenance: record::provenance(&args.provenance, checkpoint, Some(text.clone()), of_file)
            .map(|p| p.with_figures(figures(target, LONGEST))),
        ..options
    };
    let bar = Bar::new(Unit::Layers, "measuring the sensitivity of the tensors");
    let sensitivity = measure(
        &model,
        &MeasureOptions {
            sequences: &samples.sequences,
            imatrix: Some(&imatrix),
            types: &open,
            bits,
            factor: &|tensor, to| match args.gguf.calibrate && tensor != "token_embd.weight" {
                true => feedback_factor(to),
                false => 1.0,
            },
            level: options.level,
            place: &place,
        },
        &bar,
    )?;
    drop(bar);
    let Chosen { mut recipe, divergence, rows } = choose(&view, &options, &sensitivity, within)?;
    recipe.comments = comments(target, divergence);
    if let Some(path) = &args.auto.save_recipe {
        save(path, &recipe, &inputs, args.force)?;
    }
    let file_type = recipe.file_type();
    let measured = Measured {
        imatrix: (!from_file).then_some(imatrix),
        text,
        figures: figures(target, divergence).to_vec(),
        divergences: rows.into_iter().map(|row| (row.name, row.divergence)).collect(),
        divergence,
    };
    Ok(Types { name: "auto".to_owned(), file_type, recipe: Some(recipe), measured: Some(measured) })
}

/// What is recorded of the choice.
fn figures(target: Target, divergence: f64) -> [(&'static str, f64); 2] {
    let target = match target {
        Target::BitsPerWeight(bits) => ("target_bits_per_weight", bits),
        Target::Size(bytes) => ("target_bytes", bytes as f64),
    };
    [target, ("predicted_kl_mean", divergence)]
}

/// What a recipe says of itself.
fn comments(target: Target, divergence: f64) -> Vec<String> {
    let target = match target {
        Target::BitsPerWeight(bits) => format!("{bits} bits per weight"),
        Target::Size(bytes) => format!("{} ({bytes} bytes)", format::bytes(bytes)),
    };
    vec![
        "types of the tensors of a GGUF file, chosen by measurement".to_owned(),
        format!("made by quern {}: {}", env!("CARGO_PKG_VERSION"), args::this_command()),
        format!("target: {target} at most; predicted mean KL divergence {divergence:.5}"),
    ]
}

fn save(path: &Path, recipe: &Recipe, inputs: &Inputs, force: bool) -> anyhow::Result<()> {
    let mut file = OutputFile::create(path, inputs.unless_read(force))?;
    file.append(recipe.to_string().as_bytes())?;
    file.commit()?;
    messages::info(format_args!("{}: recipe written", path.display()));
    Ok(())
}
