//! Importance matrices measured on a GPU against the CPU's. Skipped, and said so, where there is no NVIDIA card.

#![allow(missing_docs)]

mod common;

use std::path::Path;

use common::fixture;
use quern_model::Config;
use quern_quantize::imatrix::{CollectOptions, Collected, collect};
use quern_run::placement::{GpuLayers, GpuRoom, cards};
use quern_run::{KvType, LoadOptions, Model, Placing};
use quern_tensor_io::NoProgress;

/// Whether there is a card.
fn card() -> bool {
    match cards() {
        Ok(cards) if !cards.is_empty() => true,
        Ok(_) => {
            eprintln!("skipped: no NVIDIA card");
            false
        }
        Err(error) => {
            assert!(std::env::var_os("QUERN_TEST_CUDA").is_none(), "{error}");
            eprintln!("skipped: no NVIDIA card ({error})");
            false
        }
    }
}

fn measure(path: &Path, layers: Option<GpuLayers>, options: CollectOptions) -> Collected {
    let cards = if layers.is_some() { cards().unwrap() } else { Vec::new() };
    let gpus: Vec<GpuRoom> = cards.iter().take(1).map(|card| GpuRoom::new(card, None)).collect();
    let session = |_: &Config| options.session();
    let placing =
        layers.map(|layers| Placing { gpus: &gpus, layers, session: &session, rows: options.rows() });
    let model = Model::open(path, LoadOptions { threads: 2, placing, ..LoadOptions::default() }).unwrap();
    assert_eq!(model.uses_gpu(), layers.is_some());
    let text = std::fs::read_to_string(fixture("text/calibration.txt")).unwrap();
    collect(&model, &text, options, &NoProgress).unwrap()
}

/// The largest relative error of a sum, and of the length of an entry. Names and counts must be the same.
fn distance(found: &Collected, expected: &Collected) -> (f64, f64) {
    assert_eq!(
        (found.chunks, found.tokens, found.sums.len()),
        (expected.chunks, expected.tokens, expected.sums.len())
    );
    let (mut one, mut all) = (0f64, 0f64);
    for (a, b) in found.sums.iter().zip(expected.sums.iter()) {
        assert_eq!((a.name, a.tokens, a.squares.len()), (b.name, b.tokens, b.squares.len()));
        let pairs = || a.squares.iter().zip(b.squares);
        one = pairs().map(|(a, b)| (a - b).abs() / b.max(1e-30)).fold(one, f64::max);
        let length = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
        all = all.max(length(&mut pairs().map(|(a, b)| a - b)) / length(&mut b.squares.iter().copied()));
    }
    (one, all)
}

#[test]
fn sums_on_a_gpu_are_within_a_thousandth_of_those_of_the_cpu() {
    if !card() {
        return;
    }
    let model = fixture("bookworm-4m");
    let options = CollectOptions { chunks: Some(24), process_output: true, ..CollectOptions::default() };
    let expected = measure(&model, None, options);
    for layers in [GpuLayers::All, GpuLayers::Last(3)] {
        for kv in [KvType::F32, KvType::F16] {
            let options = CollectOptions { kv, ..options };
            let found = measure(&model, Some(layers), options);
            let (one, all) = distance(&found, &expected);
            eprintln!("{layers:?} {}: {one:.2e} of a sum, {all:.2e} of an entry", kv.name());
            assert!(one < 1e-3 && all < 1e-3, "{layers:?} {}: {one:.2e}, {all:.2e}", kv.name());
            // The same bytes for every run.
            assert_eq!(distance(&measure(&model, Some(layers), options), &found), (0.0, 0.0));
        }
    }
}

#[test]
fn experts_are_counted_on_a_gpu_as_on_the_cpu() {
    if !card() {
        return;
    }
    for name in ["mixtral", "qwen3_moe"] {
        let model = fixture("architectures").join(name);
        let options = CollectOptions { context: 64, chunks: Some(8), ..CollectOptions::default() };
        let (expected, found) =
            (measure(&model, None, options), measure(&model, Some(GpuLayers::All), options));
        let mut moved = 0;
        for (a, b) in found.sums.iter().zip(expected.sums.iter()) {
            assert_eq!((a.name, a.squares.len(), a.tokens.len()), (b.name, b.squares.len(), b.tokens.len()));
            // A token may choose another of two experts that are as good: the sums are those of one token more or less.
            assert_eq!(a.tokens.iter().sum::<u64>(), b.tokens.iter().sum::<u64>(), "{}", a.name);
            moved += a.tokens.iter().zip(b.tokens).map(|(a, b)| a.abs_diff(*b)).sum::<u64>();
            let columns = a.squares.len() / a.tokens.len();
            let entries =
                a.squares.chunks(columns).zip(b.squares.chunks(columns)).zip(a.tokens.iter().zip(b.tokens));
            for ((a, b), _) in entries.filter(|(_, (a, b))| a == b && **a > 0) {
                let (sum, other) = (a.iter().sum::<f64>(), b.iter().sum::<f64>());
                assert!((sum - other).abs() < 2e-3 * other, "{name}: {sum} for {other}");
            }
        }
        // Three matrices each, one token more and one less: at most three of some thousand choices.
        eprintln!("{name}: {moved} counts differ");
        assert!(moved <= 18, "{name}: {moved}");
    }
}
