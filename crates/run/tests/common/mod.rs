//! What the tests share: the bookworm models in `fixtures/` and the logits transformers computed.

#![allow(missing_docs, dead_code)] // each test binary uses its own part

pub mod collect;

use std::path::{Path, PathBuf};

use quern_run::{
    GenerateOptions, KvType, LoadOptions, Model, SamplingOptions, SessionOptions, Wanted,
    generate_from_tokens,
};
use quern_tensor_io::Checkpoint;

pub fn fixture(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures")).join(name)
}

/// Whether a model's queries grow with their positions, which GPUs do not compute beyond the original context.
pub fn grows(folder: &Path) -> bool {
    std::fs::read_to_string(folder.join("config.json"))
        .is_ok_and(|config| config.contains("llama_4_scaling_beta"))
}

pub fn load(path: &Path, threads: usize) -> Model {
    Model::open(path, LoadOptions { threads, ..LoadOptions::default() }).unwrap()
}

/// Two relative errors of `got` against `expected`, both over rows of `columns`: the largest difference
/// over the largest value, and the worst row's L2 norm of the difference over its L2 norm.
pub fn relative_errors(got: &[f32], expected: &[f32], columns: usize) -> (f64, f64) {
    assert_eq!(got.len(), expected.len());
    let pairs = || got.iter().zip(expected).map(|(&a, &b)| (f64::from(a), f64::from(b)));
    let highest = pairs().map(|(_, b)| b.abs()).fold(0.0, f64::max);
    // A NaN on our side must not slip through max().
    let largest =
        pairs().map(|(a, b)| if a.is_finite() { (a - b).abs() } else { f64::INFINITY }).fold(0.0, f64::max);
    let rows = got.chunks(columns).zip(expected.chunks(columns)).map(|(a, b)| {
        let square = |v: f64| v * v;
        let difference: f64 = a.iter().zip(b).map(|(&a, &b)| square(f64::from(a) - f64::from(b))).sum();
        let norm: f64 = b.iter().map(|&b| square(f64::from(b))).sum();
        (difference / norm).sqrt()
    });
    (largest / highest, rows.fold(0.0, f64::max))
}

/// One prompt of a `*.logits.safetensors` file: float32 logits of transformers.
pub struct Golden {
    pub input_ids: Vec<u32>,
    pub greedy_ids: Vec<u32>,
    /// One row for each of the last positions, or for all.
    pub logits: Vec<f32>,
}

/// The prompts of such a file.
pub fn golden(path: &Path) -> Vec<Golden> {
    let file = Checkpoint::open(path).unwrap();
    let ids = |name: String| {
        let data = file.tensor(&name).unwrap().data;
        data.as_chunks().0.iter().map(|&b| i64::from_le_bytes(b) as u32).collect()
    };
    let floats = |name: String| {
        let data = file.tensor(&name).unwrap().data;
        data.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
    };
    (0..)
        .take_while(|n| file.tensor(&format!("prompt{n}.input_ids")).is_some())
        .map(|n| Golden {
            input_ids: ids(format!("prompt{n}.input_ids")),
            greedy_ids: ids(format!("prompt{n}.greedy_ids")),
            logits: floats(format!("prompt{n}.logits")),
        })
        .collect()
}

/// Checks the logits of the last positions and the greedy tokens of a model against a reference file.
///
/// Rounding keys and values to 11 bits is not float32: `f16` is the bound for that. The models of random weights
/// have logits so near each other that it can change their greedy text, which is then compared in float32 only.
pub fn agrees_with_transformers(name: &str, model: &Model, reference: &Path, f16: f64, random: bool) {
    for (n, golden) in golden(reference).iter().enumerate() {
        for kv in [KvType::F32, KvType::F16] {
            let context = model.config().context_length.min(256);
            let options = SessionOptions { context, kv, ..SessionOptions::default() };
            let mut session = model.session(options).unwrap();
            let logits = session.forward(&golden.input_ids, Wanted::All).unwrap();
            let rows = golden.logits.len() / model.vocabulary();
            assert!(
                rows >= golden.input_ids.len().min(8) && rows <= golden.input_ids.len(),
                "{name}: {rows}"
            );
            let logits = &logits[logits.len() - golden.logits.len()..];
            let (largest, row) = relative_errors(logits, &golden.logits, model.vocabulary());
            eprintln!("{name}, prompt {n}, {kv:?}: largest difference {largest:.2e}, worst row {row:.2e}");
            let bound = if kv == KvType::F32 { 1e-4 } else { f16 };
            assert!(largest < bound && row < bound, "{name}, prompt {n}, {kv:?}: {largest:e}, {row:e}");

            if random && kv != KvType::F32 {
                continue;
            }
            let options = GenerateOptions {
                limit: Some(golden.greedy_ids.len()),
                context: Some(context),
                kv,
                sampling: SamplingOptions::greedy(),
                ignore_end: true,
                ..GenerateOptions::default()
            };
            let mut streamed = String::new();
            let report =
                generate_from_tokens(model, &golden.input_ids, &options, &mut |t: &str| streamed.push_str(t))
                    .unwrap();
            assert_eq!(report.tokens, golden.greedy_ids, "{name}, prompt {n}, {kv:?}");
            assert_eq!(report.text, streamed);
        }
    }
}
