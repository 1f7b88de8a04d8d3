//! Where a calibrated job computes: on GPUs as long as they have the memory, otherwise on the CPU. Known before it begins.
//!
//! ```text
//! on each GPU   the residual streams of its share of the tokens, or of one sequence at a time, the others in RAM
//!               a block's weights, one sequence's activations
//!               a group's Hessian and its factor, what the layers should make up for, rows being solved
//! ```

use quern_compute::Device;
use quern_run::placement::GpuRoom;
use quern_run::{LayerwiseMemory, Model};

use super::needs::{Largest, tokens};
use super::{Calibration, Error};

/// Where a job computes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// On the CPU.
    Cpu {
        /// Why not on the GPUs that it might have used.
        why: Option<String>,
    },
    /// On GPUs, each with sequences of its own.
    Gpus {
        /// Their numbers and names.
        gpus: Vec<(usize, String)>,
        /// Whether the residual streams wait in RAM.
        wait: bool,
        /// Bytes that it takes on each, at most.
        bytes: u64,
    },
}

impl Place {
    /// The devices, opened.
    pub(super) fn devices(&self, model: &Model) -> Result<Vec<Device>, Error> {
        match self {
            Self::Cpu { .. } => Ok(vec![model.cpu()]),
            Self::Gpus { gpus, .. } => {
                let open = |(index, _): &(usize, String)| Device::gpu(*index);
                Ok(gpus.iter().map(open).collect::<Result<_, _>>().map_err(quern_run::Error::from)?)
            }
        }
    }

    /// The one device, or the first of several.
    pub(crate) fn device(&self, model: &Model) -> quern_run::Result<Device> {
        match self {
            Self::Cpu { .. } => Ok(model.cpu()),
            Self::Gpus { gpus, .. } => match gpus.first() {
                Some((index, _)) => Ok(Device::gpu(*index)?),
                None => Ok(model.cpu()),
            },
        }
    }

    /// What is tried next where a GPU has less memory than was expected: the residual streams in RAM, then the CPU.
    pub(super) fn smaller(&self, model: &Model) -> Option<Self> {
        match self {
            Self::Cpu { .. } => None,
            Self::Gpus { gpus, wait: false, bytes } if !model.is_mixture() => {
                Some(Self::Gpus { gpus: gpus.clone(), wait: true, bytes: *bytes })
            }
            Self::Gpus { .. } => Some(Self::Cpu { why: None }),
        }
    }

    /// Whether the residual streams wait in RAM while GPUs compute.
    pub(crate) fn waits(&self) -> bool {
        matches!(self, Self::Gpus { wait: true, .. })
    }

    /// In words.
    pub fn sentence(&self) -> String {
        match self {
            Self::Cpu { why: None } => "on the CPU".to_owned(),
            Self::Cpu { why: Some(why) } => format!("on the CPU ({why})"),
            Self::Gpus { gpus, wait, .. } => {
                let named = gpus.iter().map(|(index, name)| format!("cuda:{index} ({name})"));
                let waits = if *wait { ", the activations of all samples but one in RAM" } else { "" };
                format!("on {}{waits}", named.collect::<Vec<_>>().join(" and "))
            }
        }
    }

    /// Bytes on each GPU.
    pub fn gpu_bytes(&self) -> u64 {
        match self {
            Self::Cpu { .. } => 0,
            Self::Gpus { bytes, .. } => *bytes,
        }
    }
}

/// Chooses for a job whose largest layers are these, of the GPUs that the calibration may use.
pub(super) fn place(model: &Model, calibration: &Calibration, largest: Largest) -> Place {
    let gpus = &calibration.gpus;
    let [first, ..] = &gpus[..] else { return Place::Cpu { why: None } };
    if let Some(why) = model.beyond_gpus() {
        return Place::Cpu { why: Some(why) };
    }
    let sequences = &calibration.samples.sequences;
    let longest = sequences.iter().map(Vec::len).max().unwrap_or(0) as u64;
    let streams = largest.streams as u64;
    let solving = solving(largest);
    let memory = |share: u64| LayerwiseMemory::new(model, share * longest, longest, streams);
    // A mixture's experts take the tokens of all sequences together.
    let most = if model.is_mixture() { 1 } else { gpus.len().min(sequences.len()).max(1) };
    let named = |gpu: &GpuRoom| (gpu.index, gpu.name.clone());
    let share = sequences.len().div_ceil(most) as u64;
    let all = memory(share);
    let room = gpus[..most].iter().map(|gpu| gpu.room).min().unwrap_or(first.room);
    let bytes = all.streams + all.work + solving;
    if bytes <= room {
        return Place::Gpus { gpus: gpus[..most].iter().map(named).collect(), wait: false, bytes };
    }
    let few = all.one + all.work + solving;
    if few <= room && !model.is_mixture() {
        return Place::Gpus { gpus: gpus[..most].iter().map(named).collect(), wait: true, bytes: few };
    }
    let needed = if model.is_mixture() { bytes } else { few };
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let why = format!(
        "calibration takes {:.1} GiB on a GPU, and {} has room for {:.1} GiB: fewer or shorter samples may fit",
        gib(needed),
        first.name,
        gib(room)
    );
    Place::Cpu { why: Some(why) }
}

/// Bytes of a group's sums and of the rows that are solved.
fn solving(largest: Largest) -> u64 {
    let (columns, weights) = (largest.columns as u64, largest.weights as u64);
    // Weights, residuals and levels in f32, codes; what a layer should make up for where the unquantized model is run.
    let rows = weights * (13 + 8 * u64::from(largest.streams > 1));
    4 * largest.hessians as u64 * columns * columns + rows
}

/// Bytes of RAM beside the mapped model of a job that computes on GPUs.
pub(super) fn ram(model: &Model, calibration: &Calibration, largest: Largest, place: &Place) -> u64 {
    let streams = largest.streams as u64;
    let hidden = 4 * streams * tokens(calibration) * model.config().hidden_size as u64;
    // The residual streams once, where they wait or while they are written to the unfinished run; a layer's weights
    // as f32 with their codes, packed and not.
    let copies = if place.waits() { 2 } else { 1 };
    copies * hidden + 7 * largest.weights as u64 + (256 << 20)
}
