//! What the tests share: the bookworm models in `fixtures/` and the logits transformers computed.

#![allow(missing_docs)]

use std::path::PathBuf;

use quern_run::{LoadOptions, Model};
use quern_tensor_io::Checkpoint;

pub fn fixture(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures")).join(name)
}

pub fn load(name: &str, threads: usize) -> Model {
    Model::open(&fixture(name), LoadOptions { threads: threads }).unwrap()
}

/// One prompt of a `*.logits.safetensors` file: float32 logits of transformers.
pub struct Golden {
    pub input_ids: Vec<u32>,
    pub greedy_ids: Vec<u32>,
    /// One row per position.
    pub logits: Vec<f32>,
}

pub fn golden(path: &std::path::Path) -> Vec<Golden> {
    let file = Checkpoint::open(path).unwrap();
    let ids = |name: String| {
        let data = file.tensor(&name).unwrap().data;
        data.as_chunks().0.iter().map(|&b| i64::from_le_bytes(b) as u32).collect()
    };
    let floats = |name: String| {
        let data = file.tensor(&name).unwrap().data;
        data.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
    };
    (0..2)
        .map(|n| Golden {
            input_ids: ids(format!("prompt{n}.input_ids")),
            greedy_ids: ids(format!("prompt{n}.greedy_ids")),
            logits: floats(format!("prompt{n}.logits")),
        })
        .collect()
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
