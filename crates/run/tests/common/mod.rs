//! What the tests share: the bookworm models in `fixtures/` and the logits transformers computed.

#![allow(missing_docs, dead_code)] // each test binary uses its own part

use std::path::{Path, PathBuf};

use quern_run::{LoadOptions, Model};

pub fn fixture(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures")).join(name)
}

pub fn load(path: &Path, threads: usize) -> Model {
    Model::open(path, LoadOptions { threads }).unwrap()
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
