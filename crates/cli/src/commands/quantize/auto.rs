//! To a GGUF file whose types are chosen by measurement, or named by a recipe file.

use std::path::Path;

use anyhow::bail;
use quern_model::provenance::CalibrationText;
use quern_model::{FileType, View};
use quern_quantize::auto::{Chosen, MeasureOptions, Target, candidates, choose, measure};
use quern_quantize::calibration::{self, NamedText, SampleOptions};
use quern_quantize::imatrix::{self, Imatrix};
use quern_quantize::job::Options;
use quern_quantize::recipe::Recipe;
use quern_tensor_io::output::{Inputs, OutputFile};

use super::super::{Outcome, load, record};
use super::calibrated;
use super::gguf::{self, job_options, packed};
use super::types::{Measured, Types};
use crate::progress::{Bar, Unit};
use crate::{args, format, messages};

/// Samples and their length where nobody says otherwise.
const SAMPLES: u32 = 128;
const CONTEXT: usize = 512;

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
    let (from_file, imatrix) = match args.gguf.imatrix.as_deref() {
        Some(path) => (true, Imatrix::open(path)?),
        None => {
            let bar = Bar::new(Unit::Chunks(context), "measuring the inputs of the layers");
            let collected = imatrix::collect_samples(&model, &samples.sequences, true, &bar)?;
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
    let options = Options {
        imatrix: Some(imatrix.clone()).filter(|_| !args.gguf.calibrate),
        calibrated: args.gguf.calibrate,
        // Its length counts for the size of the file.
        provenance: record::provenance(&args.provenance, checkpoint, Some(text.clone()), None)
            .map(|p| p.with_figures(figures(target, 0.123_456))),
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
            factor: &|_| 1.0,
            level: options.level,
        },
        &bar,
    )?;
    drop(bar);
    let Chosen { mut recipe, divergence, rows } = choose(&view, &options, &sensitivity, target)?;
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
