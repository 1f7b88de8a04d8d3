//! Quantization that runs the model, for every architecture: GPTQ, importance matrices, loading in another type.
//! With 8 bits a result must stay near the original: rows or columns in a wrong order would not.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::common::fixture;
use quern_model::{Config, Packed, View};
use quern_quantize::calibrated::gptq::{self as job, Options};
use quern_quantize::calibrated::{Calibration, gguf};
use quern_quantize::calibration::{SampleOptions, TextSource, samples};
use quern_quantize::gptq::Settings;
use quern_quantize::imatrix::{CollectOptions, Imatrix, collect};
use quern_quantize::load_in::{LoadScheme, Loader};
use quern_quantize::recipe::FileType;
use quern_quantize::{bitsandbytes, rounded};
use quern_run::{KvType, LoadIn, LoadOptions, Model, SessionOptions, Wanted};
use quern_tensor_io::scheme::Packing;
use quern_tensor_io::{Checkpoint, NoProgress};

fn folders() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(fixture("architectures")).unwrap().map(|e| e.unwrap().path());
    let mut folders: Vec<PathBuf> = entries.filter(|p| p.is_dir()).collect();
    folders.sort();
    assert!(folders.len() >= 16);
    folders
}

fn text() -> String {
    std::fs::read_to_string(fixture("text").join("calibration.txt")).unwrap()
}

/// The weights: the folders also hold the reference's logits.
fn open(folder: &Path) -> Arc<Checkpoint> {
    Arc::new(Checkpoint::open(&folder.join("model.safetensors")).unwrap())
}

fn load(checkpoint: Arc<Checkpoint>, load_in: Option<&dyn LoadIn>) -> Model {
    let path = checkpoint.path().to_path_buf();
    Model::load(checkpoint, LoadOptions { threads: 2, load_in, ..LoadOptions::default() })
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn logits(model: &Model) -> Vec<f32> {
    let options = SessionOptions { context: 64, batch: 64, kv: KvType::F32 };
    let mut session = model.session(options).unwrap();
    let tokens: Vec<u32> = (0..24).map(|i| 20 + i * 7 % 200).collect();
    session.forward(&tokens, Wanted::All).unwrap().to_vec()
}

/// Norm of the difference over the norm.
fn error(found: &[f32], wanted: &[f32]) -> f64 {
    let square = |x: f32| f64::from(x) * f64::from(x);
    let difference: f64 = found.iter().zip(wanted).map(|(a, b)| square(a - b)).sum();
    (difference / wanted.iter().map(|&x| square(x)).sum::<f64>()).sqrt()
}

/// How far logits are, by [`error`]; of mixtures, how far the rows of half of the tokens are at most: rounding sends some
/// tokens to other experts, and their rows are then quite others, whereas a fault moves the rows of all.
fn typical(model: &Model, found: &[f32], wanted: &[f32]) -> f64 {
    if model.config().experts.is_none() {
        return error(found, wanted);
    }
    let vocabulary = model.vocabulary();
    let rows = found.chunks_exact(vocabulary).zip(wanted.chunks_exact(vocabulary));
    let mut errors: Vec<f64> = rows.map(|(found, wanted)| error(found, wanted)).collect();
    errors.sort_by(f64::total_cmp);
    errors[errors.len() / 2]
}

/// How many times the usual distance a model may have. Delta nets divide by small lengths: transformers' own logits of
/// these models move by 0.07 when their weights are rounded to q8_0, those of Llama's by 0.03.
fn sensitivity(model: &Model) -> f64 {
    if model.config().states.is_some() { 2.0 } else { 1.0 }
}

#[test]
fn gptq_of_eight_bits_stays_near_the_original() {
    let scratch = tempfile::tempdir().unwrap();
    for folder in folders() {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let model = load(open(&folder), None);
        let settings = Settings { bits: 8, group_size: Some(16), ..Settings::default() };
        let sample_options = SampleOptions { samples: 8, context: 64 };
        let samples = samples(model.tokenizer().unwrap(), TextSource::Text(text()), sample_options).unwrap();
        let options = Options::new(settings, samples);
        let plan = job::plan(&model, &options).unwrap_or_else(|e| panic!("{name}: {e}"));
        let out = scratch.path().join(&name);
        let report =
            job::run(&model, &plan, &options, &out, &NoProgress).unwrap_or_else(|e| panic!("{name}: {e}"));
        let made = Checkpoint::open(&out).unwrap();
        let packing = Packing::read(&made).unwrap().unwrap();
        // What chooses positions is left as it is.
        let linears = (0..model.config().layers).flat_map(|layer| model.linears(layer));
        let linears = linears.filter(|linear| !linear.name.contains(".indexer.")).count();
        assert_eq!((packing.layers().len(), report.modules.len()), (linears, linears), "{name}");
        // Of a multimodal release the text model by itself, whose class other readers load.
        let config = std::fs::read_to_string(out.join("config.json")).unwrap();
        assert!(
            !config.contains("vision") && !config.contains("ForConditionalGeneration"),
            "{name}: {config}"
        );
        let error = typical(&model, &logits(&load(Arc::new(made), None)), &logits(&model));
        assert!(error < 0.05 * sensitivity(&model), "{name}: {error}");
    }
}

/// The rows that are continued with are in the running model's order: what later layers see is then what GPTQ's job
/// measures on the same text, whose rows are never moved.
#[test]
fn calibrated_gguf_files_stay_near_the_original() {
    let scratch = tempfile::tempdir().unwrap();
    let mut ratios = Vec::new();
    let known = |folder: &PathBuf| {
        let config = Config::from_config_json(&folder.join("config.json")).unwrap();
        config.architecture.no_gguf.is_none()
    };
    for folder in folders().into_iter().filter(known) {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let path = |of: &str| scratch.path().join(format!("{name}.{of}"));
        let model = load(open(&folder), None);
        let sample_options = SampleOptions { samples: 8, context: 64 };
        let samples = samples(model.tokenizer().unwrap(), TextSource::Text(text()), sample_options).unwrap();
        let settings = Settings { bits: 8, group_size: Some(16), ..Settings::default() };
        let mut gptq = Options::new(settings, samples.clone());
        gptq.calibration.imatrix = Some(path("gptq-imatrix"));
        let plan = job::plan(&model, &gptq).unwrap();
        job::run(&model, &plan, &gptq, &path("gptq"), &NoProgress).unwrap();
        let view = View::gguf(model.checkpoint(), Packed::Refused).unwrap();
        let original = logits(&model);
        let far = |path: &Path| {
            typical(&model, &logits(&load(Arc::new(Checkpoint::open(path).unwrap()), None)), &original)
        };
        for file_type in [FileType::Q8_0, FileType::Q4_0] {
            let mut calibration = Calibration::new(samples.clone());
            calibration.force = true;
            calibration.imatrix = Some(path("imatrix"));
            let quantize = crate::common::options(file_type);
            let plan = gguf::plan(&model, &view, gguf::Options::new(quantize, calibration))
                .unwrap_or_else(|e| panic!("{name}: {e}"));
            gguf::run(&model, &plan, &path("gguf"), &NoProgress).unwrap_or_else(|e| panic!("{name}: {e}"));
            if file_type == FileType::Q8_0 {
                let error = far(&path("gguf"));
                // A wrong row order gives about 1; layers that make up for earlier ones, up to 0.053.
                assert!(error < 0.1 * sensitivity(&model), "{name}: {error}");
                let imatrix = |of: &str| Imatrix::open(&path(of)).unwrap();
                same_importance(&name, &imatrix("imatrix"), &imatrix("gptq-imatrix"));
            }
        }
        crate::common::quantize(model.checkpoint(), crate::common::options(FileType::Q4_0), &path("plain"))
            .unwrap();
        ratios.push(far(&path("gguf")) / far(&path("plain")));
    }
    // Of a single random model of this size the figure says little.
    let mean = ratios.iter().sum::<f64>() / ratios.len() as f64;
    assert!(mean < 0.95, "{mean} {ratios:?}");
}

fn same_importance(name: &str, found: &Imatrix, wanted: &Imatrix) {
    assert_eq!(found.names().collect::<Vec<_>>(), wanted.names().collect::<Vec<_>>(), "{name}");
    for tensor in wanted.names() {
        let error = error(found.get(tensor).unwrap(), wanted.get(tensor).unwrap());
        assert!(error < 0.1, "{name} {tensor}: {error}");
    }
}

#[test]
fn models_load_in_other_types() {
    for folder in folders() {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let checkpoint = open(&folder);
        let model = load(checkpoint.clone(), None);
        let plain = logits(&model);
        for (scheme, bound) in [("q8_0", 0.1), ("f32", 1e-3)] {
            let loader = Loader::new(&checkpoint, LoadScheme::from_name(scheme).unwrap())
                .unwrap_or_else(|e| panic!("{name}: {e}"));
            let error = typical(&model, &logits(&load(checkpoint.clone(), Some(&loader))), &plain);
            assert!(error < bound * sensitivity(&model), "{name} in {scheme}: {error}");
        }
    }
}

/// Layers of 8 bits by rounding, in checkpoints that hold everything else as the source does.
#[test]
fn layers_rounded_to_eight_bits_stay_near_the_original() {
    let scratch = tempfile::tempdir().unwrap();
    // GPT-2 has no linear layers that these formats have a place for.
    for folder in folders().into_iter().filter(|f| !f.ends_with("gpt2")) {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let checkpoint = open(&folder);
        let model = load(checkpoint.clone(), None);
        let plain = logits(&model);
        let out = |kind: &str| scratch.path().join(format!("{name}.{kind}"));
        let int8 =
            bitsandbytes::Options { threads: 2, ..bitsandbytes::Options::new(bitsandbytes::Kind::Int8) };
        let float8 = rounded::Options { threads: 2, ..rounded::Options::new(rounded::Kind::Float8) };
        bitsandbytes::quantize(&checkpoint, &out("int8"), int8, &NoProgress)
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        rounded::quantize(&checkpoint, &out("float8"), float8, &NoProgress)
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        for (kind, bound) in [("int8", 0.1), ("float8", 0.2)] {
            let made = Arc::new(Checkpoint::open(&out(kind)).unwrap());
            let error = typical(&model, &logits(&load(made, None)), &plain);
            assert!(error < bound * sensitivity(&model), "{name} in {kind}: {error}");
        }
    }
}

#[test]
fn importance_is_measured_of_every_matrix_in_the_blocks() {
    for folder in folders() {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let checkpoint = open(&folder);
        let model = load(checkpoint.clone(), None);
        let options = CollectOptions { context: 64, chunks: Some(4), ..CollectOptions::default() };
        let measured = collect(&model, &text(), options, &NoProgress).unwrap();
        let view = View::gguf_without_tokenizer(&checkpoint).unwrap();
        let matrix = |t: &&quern_model::ViewTensor| {
            t.layer.is_some()
                && t.shape.len() >= 2
                && t.name.ends_with(".weight")
                && !t.name.contains("norm")
                && !t.name.contains("conv1d")
                && !t.name.contains("shortconv.conv")
                && !t.name.contains("gate_inp")
                // Never quantized.
                && !t.name.contains("altup")
                && !t.name.contains("laurel")
                && t.name.ends_with(".weight")
        };
        let mut wanted: Vec<&str> = view.tensors().iter().filter(matrix).map(|t| t.name.as_str()).collect();
        wanted.sort_unstable();
        let found: Vec<&str> = measured.sums.iter().map(|e| e.name).collect();
        assert_eq!(found, wanted, "{name}");
        for entry in measured.sums.iter() {
            let tensor = view.tensors().iter().find(|t| t.name == entry.name).unwrap();
            let experts = if tensor.shape.len() == 3 { tensor.shape[0] } else { 1 };
            assert_eq!(entry.tokens.len(), experts, "{name} {}", entry.name);
            assert_eq!(entry.squares.len(), experts * tensor.columns(), "{name} {}", entry.name);
            let used = model.config().experts.map_or(1, |e| e.used);
            // Every head of latent attention sees all tokens.
            let heads = ["attn_k_b.weight", "attn_v_b.weight"].iter().any(|end| entry.name.ends_with(end));
            let used = if heads { experts } else { used };
            let seen = if experts > 1 { 256 * used as u64 } else { 256 };
            assert_eq!(entry.tokens.iter().sum::<u64>(), seen, "{name} {}", entry.name);
        }
    }
}
