//! Where a model is measured: on a GPU if that has the memory for it, otherwise on the CPU. Known before it begins.

use quern_run::placement::GpuRoom;
use quern_run::{LayerwiseMemory, Model, probe_memory};

use super::sensitivity::Effort;
use crate::calibrated::Place;

/// Chooses for the samples of a calibration text, of the GPUs that may be used: one computes, for what is measured of a
/// tensor is a few sequences. The samples' inputs are measured in the same place.
pub fn place(model: &Model, sequences: &[Vec<u32>], gpus: &[GpuRoom]) -> Place {
    let Some(gpu) = gpus.first() else { return Place::Cpu { why: None } };
    if let Some(why) = model.beyond_gpus() {
        return Place::Cpu { why: Some(why) };
    }
    let Ok(effort) = Effort::new(model, sequences) else { return Place::Cpu { why: None } };
    let count = |sequences: &[Vec<u32>]| {
        let lengths = || sequences.iter().map(|sequence| sequence.len() as u64);
        (lengths().sum::<u64>(), lengths().max().unwrap_or(0))
    };
    let (tokens, longest) = count(&effort.sequences);
    let probe = probe_memory(model, tokens, longest, tokens / effort.stride.max(1) as u64 + 1);
    let (tokens, longest) = count(sequences);
    let LayerwiseMemory { streams, work, one } = LayerwiseMemory::new(model, tokens, longest, 1);
    let placed = |wait: bool, bytes: u64| {
        let gpus = vec![(gpu.index, gpu.name.clone())];
        (bytes <= gpu.room).then_some(Place::Gpus { gpus, wait, bytes })
    };
    let all = placed(false, probe.max(streams + work));
    let waits = || if model.is_mixture() { None } else { placed(true, probe.max(one + work)) };
    all.or_else(waits).unwrap_or_else(|| {
        let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        Place::Cpu {
            why: Some(format!(
                "measuring takes {:.1} GiB on a GPU, and {} has room for {:.1} GiB",
                gib(probe.max(one + work)),
                gpu.name,
                gib(gpu.room)
            )),
        }
    })
}
