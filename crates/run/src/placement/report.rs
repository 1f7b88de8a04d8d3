//! What is reported of a placement: planned (before anything is loaded) or reached (after a run).
//!
//! ```text
//! parameters, bytes on disk
//! each device   layers; bytes of weights, cache, buffers; memory before and after loading, and at its peak
//! each transfer from RAM or disk: bytes per token, the rate reached, the time they cost
//! ```

use std::time::Duration;

use serde::Serialize;

use super::plan::{Capacity, Location, Plan, Shortage, Usage};
use super::sizes::Sizes;
use crate::memory::{Resident, peak_memory_bytes, resident};

/// A placement and what it took.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlacementReport {
    /// Numbers in all tensors of the forward pass; a tied head counts once.
    pub parameters: u64,
    /// Bytes of the tensor files.
    pub file_size: u64,
    /// Positions that keys and values are kept for.
    pub context: usize,
    /// Most tokens that are computed together.
    pub batch: usize,
    /// Layers on GPUs, counted as `--ngl` counts them: the last blocks and the head.
    pub gpu_layers: usize,
    /// Layers there are: blocks and the head.
    pub layers: usize,
    /// GPUs in their order, the CPU with its RAM, and the disk if layers are read from it for every token.
    pub devices: Vec<DeviceReport>,
    /// What is moved for every token.
    pub transfers: Vec<Transfer>,
    /// Why not all layers are on GPUs, where as many as fit are.
    pub shortage: Option<Shortage>,
}

/// One device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DeviceReport {
    /// `cuda:0`, `cpu` or `disk`.
    pub device: String,
    /// The card's name.
    pub name: Option<String>,
    /// First and last block of each run of consecutive blocks that are there.
    pub blocks: Vec<[usize; 2]>,
    /// Whether the head is there.
    pub head: bool,
    /// Bytes of weights.
    pub weights_bytes: u64,
    /// Bytes of keys and values at the full context.
    pub cache_bytes: u64,
    /// Bytes of buffers.
    pub scratch_bytes: u64,
    /// Bytes that may be used; `None` without a bound.
    pub available_bytes: Option<u64>,
    /// Bytes in use before loading: on a card by everybody, of RAM by this process. `None` where nobody measured.
    pub memory_before_bytes: Option<u64>,
    /// Bytes in use when the model was loaded, counted in the same way.
    pub memory_after_bytes: Option<u64>,
    /// The most that were in use, counted in the same way.
    pub memory_peak_bytes: Option<u64>,
}

/// Where bytes are moved from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// RAM, read by the CPU, which computes the layers that are not on GPUs.
    Cpu,
    /// RAM, to a GPU, which computes batches of those layers.
    Ram,
    /// The file, to RAM.
    Disk,
}

/// What is moved for every token generated.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Transfer {
    /// Where from.
    pub from: Source,
    /// Bytes for each token, on average.
    pub bytes_per_token: u64,
    /// The rate while bytes were moved; `None` where nobody measured.
    pub bytes_per_second: Option<f64>,
    /// Seconds that a token waited for them, on average: the part that no computation covered. `None` where nobody
    /// measured.
    pub seconds_per_token: Option<f64>,
}

impl Transfer {
    /// What was moved while `tokens` tokens were generated. `busy` is the time in which bytes were moved, `waited`
    /// the part of it in which nothing was computed.
    pub fn measured(from: Source, bytes: u64, busy: Duration, waited: Duration, tokens: usize) -> Self {
        let count = tokens.max(1);
        Self {
            from,
            bytes_per_token: bytes / count as u64,
            bytes_per_second: Some(bytes as f64 / busy.as_secs_f64().max(1e-9)),
            seconds_per_token: Some(waited.as_secs_f64() / count as f64),
        }
    }
}

impl PlacementReport {
    /// The report on a plan, nothing of it measured.
    pub fn planned(sizes: &Sizes, capacity: &Capacity, plan: &Plan) -> Self {
        let disk = plan.on(Location::Disk).map(|usage| Transfer {
            from: Source::Disk,
            bytes_per_token: usage.read_per_token,
            bytes_per_second: None,
            seconds_per_token: None,
        });
        Self {
            parameters: sizes.parameters,
            file_size: sizes.file_size,
            context: plan.session.context,
            batch: plan.session.batch,
            gpu_layers: plan.gpu_units(),
            layers: plan.units.len(),
            devices: plan.usage.iter().map(|usage| device(capacity, plan, usage)).collect(),
            transfers: disk.into_iter().collect(),
            shortage: plan.shortage,
        }
    }

    /// The device of this name, to add what was measured.
    pub fn device_mut(&mut self, device: &str) -> Option<&mut DeviceReport> {
        self.devices.iter_mut().find(|report| report.device == device)
    }

    /// Adds what this process had resident: before loading, when the model was loaded, and at most up to now.
    pub fn with_process_memory(mut self, before: Option<Resident>, after: Option<Resident>) -> Self {
        if let Some(cpu) = self.device_mut(CPU) {
            let total = |resident: Resident| resident.own + resident.mapped;
            cpu.memory_before_bytes = before.map(total);
            cpu.memory_after_bytes = after.or_else(resident).map(total);
            cpu.memory_peak_bytes = peak_memory_bytes();
        }
        self
    }

    /// Whether anything but the CPU and its RAM takes part.
    pub fn is_split(&self) -> bool {
        self.devices.iter().any(|report| report.device != CPU)
    }
}

const CPU: &str = "cpu";

fn device(capacity: &Capacity, plan: &Plan, usage: &Usage) -> DeviceReport {
    let (device, name) = match usage.location {
        Location::Gpu(gpu) => match capacity.gpus.get(gpu) {
            Some(card) => (format!("cuda:{}", card.index), Some(card.name.clone())),
            None => (format!("cuda:{gpu}"), None),
        },
        Location::Ram => (CPU.to_owned(), None),
        Location::Disk => ("disk".to_owned(), None),
    };
    DeviceReport {
        device,
        name,
        blocks: plan
            .blocks_on(usage.location)
            .into_iter()
            .map(|range| [range.start, range.end - 1])
            .collect(),
        head: usage.head,
        weights_bytes: usage.weights,
        cache_bytes: usage.cache,
        scratch_bytes: usage.scratch,
        available_bytes: usage.room,
        ..DeviceReport::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_gives_its_rate_and_what_it_costs_a_token() {
        let (busy, waited) = (Duration::from_millis(500), Duration::from_millis(100));
        let transfer = Transfer::measured(Source::Ram, 10_000_000_000, busy, waited, 20);
        assert_eq!(transfer.bytes_per_token, 500_000_000);
        assert_eq!((transfer.bytes_per_second, transfer.seconds_per_token), (Some(2e10), Some(0.005)));
        let json = serde_json::to_value(transfer).unwrap();
        assert_eq!(json["from"], "ram");
        for key in ["bytes_per_token", "bytes_per_second", "seconds_per_token"] {
            assert!(json[key].is_number(), "{key}: {json}");
        }
    }
}
