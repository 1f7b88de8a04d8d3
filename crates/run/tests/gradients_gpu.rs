//! Gradients on a GPU against those of the CPU, for every architecture that has them. Skipped, and said so, where there is no
//! NVIDIA card.

#![allow(missing_docs)]

mod common;

use std::collections::BTreeMap;

use common::collect::sequences;
use common::{fixture, load};
use quern_compute::Device;
use quern_run::{
    GradientObserver, Gradients, LinearGradient, LinearInfo, Loss, Model, ObserverError, Target,
    gradients_memory,
};

fn card() -> Option<Device> {
    match quern_compute::gpus() {
        Ok(gpus) if !gpus.is_empty() => Some(Device::gpu(0).unwrap()),
        Ok(_) => {
            eprintln!("skipped: no NVIDIA card");
            None
        }
        Err(error) => {
            assert!(std::env::var_os("QUERN_TEST_CUDA").is_none(), "{error}");
            eprintln!("skipped: no NVIDIA card ({error})");
            None
        }
    }
}

/// All inputs and gradients in the order in which they were shown.
#[derive(Default)]
struct Collected {
    shown: BTreeMap<String, Vec<f32>>,
    /// Only this layer and this block's residual stream.
    only: Option<(&'static str, usize)>,
}

impl GradientObserver for Collected {
    fn linear(&mut self, g: &LinearGradient<'_>) -> Result<(), ObserverError> {
        let mut add = |what: &str, values: &[f32]| {
            self.shown.entry(format!("{} {what}", g.linear.name)).or_default().extend_from_slice(values);
        };
        add("inputs", g.inputs);
        add("gradients", g.gradients);
        Ok(())
    }

    fn wants(&self, linear: &LinearInfo<'_>) -> bool {
        self.only.is_none_or(|(name, _)| linear.name == name)
    }

    fn residual(&mut self, layer: usize, gradients: &[f32]) -> Result<(), ObserverError> {
        self.shown.insert(format!("residual {layer}"), gradients.to_vec());
        Ok(())
    }

    fn wants_residual(&self, layer: usize) -> bool {
        self.only.is_none_or(|(_, wanted)| layer == wanted)
    }
}

fn on(
    model: &Model,
    device: &Device,
    texts: &[Vec<u32>],
    target: Target,
) -> (Loss, BTreeMap<String, Vec<f32>>) {
    let mut seen = Collected::default();
    let loss = Gradients::on(model, device, texts).unwrap().run(target, &mut seen).unwrap();
    (loss, seen.shown)
}

/// The distance of `found` from `expected` as a share of the length of `expected`.
fn distance(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let pairs = found.iter().zip(expected).map(|(&a, &b)| (f64::from(a), f64::from(b)));
    let (error, size) = pairs.fold((0.0, 0.0), |(e, s), (a, b)| (e + (a - b) * (a - b), s + b * b));
    if size > 0.0 { (error / size).sqrt() } else { error.sqrt() }
}

const MODELS: [&str; 22] = [
    "llama",
    "llama3",
    "llama-yarn",
    "mistral",
    "qwen2",
    "qwen3",
    "phi",
    "phi3",
    "opt",
    "opt-350m",
    "gemma",
    "gemma2",
    "gemma3",
    "falcon",
    "falcon-7b",
    "gpt2",
    "gpt_neox",
    "stablelm",
    "stablelm-parallel",
    "starcoder2",
    "arcee",
    "nemotron",
];

#[test]
fn a_gpu_has_the_gradients_of_the_cpu() {
    let Some(device) = card() else { return };
    let mut failed = Vec::new();
    for name in MODELS {
        let model = load(&fixture("architectures").join(name).join("model.safetensors"), 2);
        let texts = sequences(&model);
        let (expected_loss, expected) = on(&model, &model.cpu(), &texts, Target::Text);
        let (loss, found) = on(&model, &device, &texts, Target::Text);
        assert_eq!(loss.tokens, expected_loss.tokens);
        let off = (loss.nats - expected_loss.nats).abs() / expected_loss.nats;
        assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        let worst = found.iter().map(|(key, values)| (distance(values, &expected[key]), key));
        let (far, at) = worst.max_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
        println!("{name}: loss {off:.1e}, {at} {far:.1e}");
        // Products of the forward pass read f16. ReLU's slope is a step: some numbers are on its other side.
        let bound = if name.starts_with("opt") { 0.1 } else { 1e-2 };
        if off.is_nan() || off > 1e-3 || far.is_nan() || far > bound {
            failed.push(format!("{name}: loss {off:.1e}, {at} {far:.1e}"));
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}

/// Long sequences, drawn targets, parts that are run together, and what is not wanted.
#[test]
fn a_gpu_takes_long_sequences_in_batches() {
    let Some(device) = card() else { return };
    let model = load(&fixture("architectures").join("mistral").join("model.safetensors"), 2);
    let longest = model.config().context_length.min(600);
    let token = |i: usize| (i * 131 % model.vocabulary()) as u32;
    let texts: Vec<Vec<u32>> =
        (0..8).map(|s| (0..longest - s).map(|i| token(i + s * 77)).collect()).collect();
    let (expected_loss, expected) = on(&model, &model.cpu(), &texts, Target::Text);
    let (loss, found) = on(&model, &device, &texts, Target::Text);
    assert!((loss.nats - expected_loss.nats).abs() < 1e-3 * expected_loss.nats);
    let far = distance(&found["residual 0"], &expected["residual 0"]);
    assert!(far < 1e-2, "{far}");

    // A token in some hundreds is drawn otherwise than on the CPU, where the sum of the probabilities passes by what was
    // drawn; on the same GPU it is the same one every time.
    let drawn = Target::Drawn { seed: 3 };
    let ((loss, found), again) = (on(&model, &device, &texts, drawn), on(&model, &device, &texts, drawn));
    assert!(again.0 == loss && again.1 == found, "the same every time");

    let mut only =
        Collected { only: Some(("model.layers.1.mlp.down_proj.weight", 0)), ..Collected::default() };
    let mut run = Gradients::on(&model, &device, &texts).unwrap();
    run.run_parts(&[(8, 3)], &mut only).unwrap();
    assert_eq!(only.shown.len(), 3, "{:?}", only.shown.keys());
    assert!(only.shown.iter().all(|(key, values)| found[key] == *values), "the part is the whole");
    let tokens: usize = texts.iter().map(Vec::len).sum();
    assert!(gradients_memory(&model, tokens as u64, longest as u64) > 0);
}
