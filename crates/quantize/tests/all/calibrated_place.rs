//! Where a calibrated job computes: decided beforehand, by what the GPUs have room for.

use std::path::Path;
use std::sync::Arc;

use crate::common::fixture;
use quern_model::{Packed, View};
use quern_quantize::auto;
use quern_quantize::calibrated::gptq::{self, Options};
use quern_quantize::calibrated::{Calibration, Place, gguf};
use quern_quantize::calibration::{SampleOptions, TextSource, samples};
use quern_quantize::gptq::Settings;
use quern_quantize::job;
use quern_quantize::recipe::FileType;
use quern_run::placement::GpuRoom;
use quern_run::{LoadOptions, Model};
use quern_tensor_io::Checkpoint;

const MIB: u64 = 1 << 20;

fn model(path: &Path) -> Model {
    let checkpoint = Arc::new(Checkpoint::open(path).unwrap());
    Model::load(checkpoint, LoadOptions { threads: 2, ..LoadOptions::default() }).unwrap()
}

fn gpu(index: usize, room: u64) -> GpuRoom {
    GpuRoom { index, name: format!("Card {index}"), total: room, free: room, room, limited: false }
}

fn calibration(model: &Model, count: usize, rooms: &[u64]) -> Calibration {
    let text = std::fs::read_to_string(fixture("text").join("calibration.txt")).unwrap();
    let wanted = SampleOptions { samples: count, context: 128 };
    let samples = samples(model.tokenizer().unwrap(), TextSource::Text(text), wanted).unwrap();
    let gpus = rooms.iter().enumerate().map(|(index, &room)| gpu(index, room)).collect();
    Calibration { gpus, ..Calibration::new(samples) }
}

fn place(model: &Model, count: usize, rooms: &[u64]) -> (Place, u64) {
    let calibration = calibration(model, count, rooms);
    let options = Options {
        calibration: calibration.clone(),
        ..Options::new(Settings::default(), calibration.samples)
    };
    let options =
        Options { settings: Settings { group_size: Some(32), ..options.settings.clone() }, ..options };
    let plan = gptq::plan(model, &options).unwrap();
    (plan.place, plan.memory_bytes)
}

fn used(place: &Place) -> (Vec<usize>, bool) {
    match place {
        Place::Cpu { .. } => (Vec::new(), false),
        Place::Gpus { gpus, wait, .. } => (gpus.iter().map(|(index, _)| *index).collect(), *wait),
    }
}

#[test]
fn what_fits_is_kept_on_the_gpu_and_the_rest_waits_or_is_done_by_the_cpu() {
    let model = model(&fixture("bookworm-4m"));
    let (cpu, on_cpu) = place(&model, 128, &[]);
    assert_eq!(cpu, Place::Cpu { why: None });
    let (all, with_gpu) = place(&model, 128, &[1024 * MIB]);
    assert_eq!(used(&all), (vec![0], false));
    assert!(all.gpu_bytes() > 0 && with_gpu > 0 && on_cpu > 0);
    // One byte less than everything: the residual streams wait in RAM, which takes less there and more here.
    let (waits, while_waiting) = place(&model, 128, &[all.gpu_bytes() - 1]);
    assert_eq!(used(&waits), (vec![0], true));
    assert!(waits.gpu_bytes() < all.gpu_bytes() && while_waiting > with_gpu);
    assert!(waits.sentence().contains("in RAM"), "{}", waits.sentence());
    // Too little even for one sample.
    let (none, _) = place(&model, 128, &[waits.gpu_bytes() - 1]);
    assert_eq!(used(&none), (vec![], false));
    let sentence = none.sentence();
    assert!(
        sentence.contains("CPU") && sentence.contains("Card 0") && sentence.contains("GiB"),
        "{sentence}"
    );
}

#[test]
fn several_gpus_share_the_samples() {
    let model = model(&fixture("bookworm-4m"));
    let (one, _) = place(&model, 128, &[1024 * MIB]);
    let (two, _) = place(&model, 128, &[1024 * MIB, 1024 * MIB]);
    assert_eq!(used(&two), (vec![0, 1], false));
    assert!(two.gpu_bytes() < one.gpu_bytes());
    // Of one sample nothing is left for the second.
    assert_eq!(used(&place(&model, 1, &[1024 * MIB, 1024 * MIB]).0), (vec![0], false));
    // The smaller of two decides.
    assert!(used(&place(&model, 128, &[1024 * MIB, two.gpu_bytes() - 1]).0).1);
}

#[test]
fn a_mixture_needs_all_tokens_on_one_gpu() {
    let model = model(&fixture("architectures").join("mixtral"));
    let view = View::gguf(model.checkpoint(), Packed::Refused).unwrap();
    let plan = |rooms: &[u64]| {
        let calibration = calibration(&model, 8, rooms);
        let options = gguf::Options::new(job::Options::new(FileType::Q4_0), calibration);
        gguf::plan(&model, &view, options).unwrap().place().clone()
    };
    let all = plan(&[1024 * MIB, 1024 * MIB]);
    assert_eq!(used(&all), (vec![0], false));
    assert!(matches!(plan(&[all.gpu_bytes() - 1]), Place::Cpu { why: Some(_) }));
}

#[test]
fn types_are_measured_on_a_gpu_that_has_the_memory() {
    let model = model(&fixture("bookworm-4m"));
    let sequences = calibration(&model, 8, &[]).samples.sequences;
    let place = |rooms: &[u64]| {
        let gpus: Vec<_> = rooms.iter().enumerate().map(|(index, &room)| gpu(index, room)).collect();
        auto::place(&model, &sequences, &gpus)
    };
    assert_eq!(place(&[]), Place::Cpu { why: None });
    // One, however many there are.
    let roomy = place(&[4096 * MIB, 4096 * MIB]);
    assert_eq!(used(&roomy), (vec![0], false));
    let bytes = roomy.gpu_bytes();
    assert_eq!(used(&place(&[bytes])), (vec![0], false));
    assert!(place(&[bytes / 8]).sentence().contains("measuring takes"), "{}", place(&[bytes / 8]).sentence());
}
