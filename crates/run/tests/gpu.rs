//! The GPU against the CPU: logits of every architecture in `fixtures/`. Skipped, and said so, where there
//! is no NVIDIA card.

#![allow(missing_docs)]

mod common;

use std::path::{Path, PathBuf};

use common::fixture;
use quern_model::Config;
use quern_run::placement::{GpuLayers, GpuRoom, cards};
use quern_run::{KvType, LoadIn, LoadOptions, Model, Placing, SessionOptions, Wanted};
use quern_tensor_io::ElementType;

/// Whether there is a card.
fn card() -> bool {
    match quern_compute::gpus() {
        Ok(gpus) if !gpus.is_empty() => true,
        Ok(_) => {
            eprintln!("skipped: no NVIDIA card");
            false
        }
        Err(error) => {
            eprintln!("skipped: no NVIDIA card ({error})");
            false
        }
    }
}

fn open(path: &Path, layers: Option<GpuLayers>) -> Model {
    let cards = if layers.is_some() { cards().unwrap() } else { Vec::new() };
    let gpus: Vec<GpuRoom> = cards.iter().take(1).map(|card| GpuRoom::new(card, None)).collect();
    let session =
        |config: &Config| SessionOptions { context: config.context_length.min(96), ..Default::default() };
    let placing = layers.map(|layers| Placing { gpus: &gpus, layers, session: &session, rows: 64 });
    let options = LoadOptions { threads: 2, placing, ..LoadOptions::default() };
    Model::open(path, options).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Logits of a prompt, then of single tokens, each row apart.
fn logits(model: &Model, kv: KvType) -> Vec<Vec<f32>> {
    let vocabulary = model.vocabulary();
    let context = model.config().context_length.min(96);
    let tokens: Vec<u32> = (0..context as u32).map(|i| (i * 7919 + 13) % vocabulary as u32).collect();
    let options = SessionOptions { context, batch: 24, kv };
    let mut session = model.session(options).unwrap();
    let (prompt, rest) = tokens.split_at(41.min(context / 2));
    let mut rows: Vec<Vec<f32>> = Vec::new();
    let mut add = |values: &[f32]| rows.extend(values.chunks_exact(vocabulary).map(<[f32]>::to_vec));
    add(session.forward(prompt, Wanted::All).unwrap());
    for token in &rest[..rest.len().min(8)] {
        add(session.forward(&[*token], Wanted::Last).unwrap());
    }
    add(session.forward(&rest[8.min(rest.len() - 1)..][..3.min(rest.len() - 8)], Wanted::Last).unwrap());
    // Again from a shorter text: recorded passes serve other positions.
    session.truncate(10);
    for token in &rest[..3] {
        add(session.forward(&[*token], Wanted::Last).unwrap());
    }
    rows
}

/// The largest of `|a - b| / |b|` over rows, each less its mean.
fn distance(found: &[Vec<f32>], expected: &[Vec<f32>]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let row = |(a, b): (&Vec<f32>, &Vec<f32>)| {
        let mean = |x: &[f32]| x.iter().map(|&v| f64::from(v)).sum::<f64>() / x.len() as f64;
        let (ma, mb) = (mean(a), mean(b));
        let pairs = || a.iter().zip(b).map(|(&a, &b)| (f64::from(a) - ma, f64::from(b) - mb));
        let error: f64 = pairs().map(|(a, b)| (a - b) * (a - b)).sum();
        let size: f64 = pairs().map(|(_, b)| b * b).sum();
        // NaN counts as infinitely far.
        let distance = (error / size.max(1e-30)).sqrt();
        if distance.is_nan() { f64::INFINITY } else { distance }
    };
    found.iter().zip(expected).map(row).fold(0.0, f64::max)
}

/// Compares, and returns what was wrong.
fn compare(path: &Path, layers: GpuLayers, kv: KvType, most: f64) -> Option<String> {
    let expected = logits(&open(path, None), kv);
    let found = logits(&open(path, Some(layers)), kv);
    let distance = distance(&found, &expected);
    let name = path.strip_prefix(fixture("")).unwrap_or(path).display().to_string();
    eprintln!("{name} {}: {distance:.2e}", kv.name());
    (distance > most).then(|| format!("{name} with {} keys and values: {distance:.2e}", kv.name()))
}

fn folders(of: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(fixture(of)).unwrap().map(|e| e.unwrap().path());
    let mut folders: Vec<PathBuf> = entries.filter(|path| path.is_dir()).collect();
    folders.sort();
    folders
}

#[test]
fn every_architecture_gives_the_logits_of_the_cpu() {
    if !card() {
        return;
    }
    let mut wrong = Vec::new();
    for folder in folders("architectures") {
        wrong.extend(compare(&folder, GpuLayers::All, KvType::F16, 1e-2));
        wrong.extend(compare(&folder, GpuLayers::All, KvType::F32, 1e-2));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Gives all matrices as f32: what a model computes without rounding activations to 8 bits.
#[derive(Debug)]
struct Exact;

impl LoadIn for Exact {
    fn target(&self, _: &str) -> Option<ElementType> {
        Some(ElementType::F32)
    }

    fn encode(&self, _: &str, _: ElementType, _: usize, rows: &[f32], out: &mut [u8]) -> Result<(), String> {
        for (out, value) in out.chunks_exact_mut(4).zip(rows) {
            out.copy_from_slice(&value.to_le_bytes());
        }
        Ok(())
    }
}

/// The GPU must be within 1e-2 of the exact logits, or about as near to them as the CPU, which rounds more: activations of
/// quantized weights, and keys and values where they are kept in 8 bits.
fn compare_with_exact(path: &Path, layers: GpuLayers, kv: KvType) -> Option<String> {
    let options = LoadOptions { threads: 2, load_in: Some(&Exact), ..LoadOptions::default() };
    let exact = logits(&Model::open(path, options).unwrap(), KvType::F32);
    let cpu = distance(&logits(&open(path, None), kv), &exact);
    let gpu = distance(&logits(&open(path, Some(layers)), kv), &exact);
    let name = path.strip_prefix(fixture("")).unwrap_or(path).display().to_string();
    eprintln!("{name} {} {layers:?}: GPU {gpu:.2e}, CPU {cpu:.2e} from exact", kv.name());
    (gpu > 1.25 * cpu.max(8e-3)).then(|| format!("{name} {}: GPU {gpu:.2e}, CPU {cpu:.2e}", kv.name()))
}

#[test]
fn real_models_are_as_near_to_exact_logits_as_on_the_cpu() {
    if !card() {
        return;
    }
    let mut wrong = Vec::new();
    for model in ["bookworm-4m", "bookworm-4m-Q4_K_M.gguf"] {
        for kv in KvType::ALL {
            for layers in [GpuLayers::All, GpuLayers::Last(3)] {
                wrong.extend(compare_with_exact(&fixture(model), layers, kv));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn layers_in_ram_give_the_logits_of_the_cpu() {
    if !card() {
        return;
    }
    let mut wrong = Vec::new();
    for folder in folders("architectures") {
        wrong.extend(compare(&folder, GpuLayers::Last(2), KvType::F16, 1e-2));
        wrong.extend(compare(&folder, GpuLayers::Last(1), KvType::F32, 1e-2));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
