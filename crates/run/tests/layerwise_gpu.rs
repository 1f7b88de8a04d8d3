//! Blocks run over sequences on a GPU, against the CPU: every architecture in `fixtures/`. Skipped, and said so, where there
//! is no NVIDIA card.

#![allow(missing_docs)]

mod common;

use common::collect::{Collect, Group, coarse, sequences};
use common::{fixture, grows, load, relative_errors};
use quern_compute::Device;
use quern_model::TensorRole;
use quern_run::{Layerwise, LinearInfo, Model, Probe};

/// The first GPU, if there is one.
fn gpu() -> Option<Device> {
    match Device::gpu(0) {
        Ok(gpu) => Some(gpu),
        Err(error) => {
            assert!(std::env::var_os("QUERN_TEST_CUDA").is_none(), "{error}");
            eprintln!("skipped: no NVIDIA card ({error})");
            None
        }
    }
}

/// What observers see in each block and at the head, and the residual streams behind each block, where weights are
/// replaced by coarse ones.
struct Ran {
    groups: Vec<Vec<Group>>,
    streams: Vec<Vec<Vec<f32>>>,
}

fn run(model: &Model, devices: &[Device], wait: bool) -> Ran {
    let mut run = Layerwise::on(model, devices, &sequences(model), true, wait).unwrap();
    let mut ran = Ran { groups: Vec::new(), streams: Vec::new() };
    for layer in 0..model.config().layers {
        let mut collect = Collect { groups: Vec::new(), change: coarse };
        run.block(layer, &mut collect).unwrap();
        ran.groups.push(collect.groups);
        ran.streams.push(run.streams().unwrap().into_iter().map(|stream| stream.into_owned()).collect());
    }
    let mut collect = Collect { groups: Vec::new(), change: coarse };
    run.head(&mut collect).unwrap();
    ran.groups.push(collect.groups);
    ran
}

/// How far values may be apart: products on a GPU take their inputs as f16. Largest difference over the largest value,
/// and over whole vectors.
const NEAR: (f64, f64) = (8e-3, 8e-3);

fn near(what: &str, found: &[f32], expected: &[f32]) {
    let (largest, whole) = relative_errors(found, expected, expected.len());
    assert!(largest <= NEAR.0 && whole <= NEAR.1, "{what}: {largest:e}, {whole:e}");
}

fn names(model: &Model) -> String {
    format!("{:?}", model.config().architecture.name)
}

fn models() -> Vec<(String, Model)> {
    let mut models = vec![("bookworm-4m".to_owned(), load(&fixture("bookworm-4m"), 2))];
    let mut folders: Vec<_> =
        std::fs::read_dir(fixture("architectures")).unwrap().map(|e| e.unwrap()).collect();
    folders.retain(|entry| !grows(&entry.path()));
    folders.sort_by_key(|entry| entry.file_name());
    for folder in folders {
        let file = folder.path().join("model.safetensors");
        if file.is_file() {
            models.push((folder.file_name().to_string_lossy().into_owned(), load(&file, 2)));
        }
    }
    assert!(models.len() > 10);
    models
}

#[test]
fn observers_and_streams_are_those_of_the_cpu() {
    let Some(gpu) = gpu() else { return };
    for (name, model) in models() {
        if let Some(why) = model.beyond_gpus() {
            eprintln!("{name}: {why}");
            continue;
        }
        let expected = run(&model, &[model.cpu()], false);
        let found = run(&model, std::slice::from_ref(&gpu), false);
        for (layer, (found, expected)) in found.groups.iter().zip(&expected.groups).enumerate() {
            // Another rounding may choose other experts for a token.
            if model.is_mixture() && layer > 0 {
                continue;
            }
            assert_eq!(found.len(), expected.len(), "{name}");
            for (found, expected) in found.iter().zip(expected) {
                let what = format!("{name} ({}), block {layer}, {:?}", names(&model), found.names);
                assert_eq!(
                    (&found.names, found.role, found.expert),
                    (&expected.names, expected.role, expected.expert)
                );
                // And so even in the first block, where attention comes before the router.
                if found.expert.is_some() && found.values.len() != expected.values.len() {
                    let tokens = found.values.len().abs_diff(expected.values.len()) / found.columns;
                    assert!(tokens <= 1, "{what}: {tokens} tokens more or fewer");
                    continue;
                }
                near(&what, &found.values, &expected.values);
                assert_eq!(found.reference.is_some(), expected.reference.is_some(), "{what}");
                assert_eq!(found.drift.is_some(), expected.drift.is_some(), "{what}");
                if let (Some(found), Some(expected)) = (&found.reference, &expected.reference) {
                    near(&format!("{what}, reference"), found, expected);
                }
                if let (Some(found), Some(expected)) = (&found.drift, &expected.drift) {
                    // A difference of two streams: as near as those are.
                    let (largest, _) = relative_errors(found, expected, expected.len());
                    assert!(
                        largest <= 0.1 || expected.iter().all(|d| *d == 0.0),
                        "{what}, drift: {largest:e}"
                    );
                }
            }
        }
        let last = expected.streams.len() - 1;
        for (stream, (found, expected)) in found.streams[last].iter().zip(&expected.streams[last]).enumerate()
        {
            let (_, whole) = relative_errors(found, expected, expected.len());
            let most = if model.is_mixture() { 0.1 } else { NEAR.1 };
            assert!(whole <= most, "{name}, stream {stream}: {whole:e}");
        }
    }
}

#[test]
fn streams_that_wait_in_ram_and_several_lanes_change_nothing() {
    let Some(gpu) = gpu() else { return };
    for name in ["bookworm-4m", "phi", "opt-350m", "falcon"] {
        let model = match name {
            "bookworm-4m" => load(&fixture(name), 2),
            _ => load(&fixture("architectures").join(name).join("model.safetensors"), 2),
        };
        let kept = run(&model, std::slice::from_ref(&gpu), false);
        let waiting = run(&model, std::slice::from_ref(&gpu), true);
        assert!(kept.streams == waiting.streams, "{name}: waiting");
        for (kept, waiting) in kept.groups.iter().zip(&waiting.groups) {
            assert!(kept == waiting, "{name}: waiting");
        }
        let two = run(&model, &[gpu.clone(), gpu.clone()], false);
        assert!(kept.streams == two.streams, "{name}: two lanes");
    }
}

#[test]
fn mixtures_are_refused_where_they_cannot_be_computed() {
    let Some(gpu) = gpu() else { return };
    let model = load(&fixture("architectures/mixtral/model.safetensors"), 2);
    let texts = sequences(&model);
    assert!(Layerwise::on(&model, std::slice::from_ref(&gpu), &texts, false, true).is_err());
    assert!(Layerwise::on(&model, &[gpu.clone(), gpu], &texts, false, false).is_err());
}

/// What rounded weights, embeddings and heads do to the predictions, measured on either.
#[test]
fn effects_of_changed_weights_are_those_of_the_cpu() {
    let Some(gpu) = gpu() else { return };
    for name in ["bookworm-4m", "architectures/qwen3", "architectures/gemma2", "architectures/opt-350m"] {
        let path = fixture(name);
        let file = path.join("model.safetensors");
        let model = load(if name.starts_with("arch") { &file } else { &path }, 2);
        let texts = sequences(&model);
        let effects = |device: &Device| {
            let mut probe = Probe::on(&model, device, &texts, 2).unwrap();
            let mut effects = Vec::new();
            loop {
                let change = |linear: &LinearInfo<'_>| match linear.role {
                    TensorRole::FfnDown => coarse(linear),
                    _ => None,
                };
                effects.push(probe.block(&change).unwrap());
                if !probe.next_block().unwrap() {
                    break effects;
                }
            }
        };
        for (found, expected) in effects(&gpu).into_iter().zip(effects(&model.cpu())) {
            let near = |a: f64, b: f64| (a - b).abs() < 0.02 * b.abs() + 1e-7;
            assert!(
                near(found.kl, expected.kl) && near(found.block, expected.block),
                "{name}: {found:?} {expected:?}"
            );
        }
    }
}
