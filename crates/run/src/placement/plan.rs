//! Decides which layer of a model is on which GPU, in RAM, or streamed from its file: from sizes, capacities and
//! options alone, without a file or a device.
//!
//! A model's units are its blocks in order, then the head:
//!
//! ```text
//! rows of the embedding | block 0 … block k-1 | block k … block g-1 | block g …  block L-1, head
//!         RAM                     RAM           streamed from disk      GPU 0, GPU 1, …
//! ```
//!
//! GPUs hold the last units, as in llama.cpp: as many as fit, or as many as were asked for. Where one GPU does not hold
//! them all, consecutive units are spread over as few GPUs as can. Of the others RAM keeps
//! as many as fit, from the first on; what is left is read from the file again for every token and every batch of the
//! prompt. Keys and values are on the GPU of their block; those of blocks elsewhere are on
//! the first GPU in use, which also computes their attention, or, where they would take too much of its memory, in RAM.

mod no_fit;
mod planner;

use std::ops::Range;

use serde::Serialize;

use super::devices::GpuRoom;
use super::options::GpuLayers;
use super::sizes::{Sizes, UnitSize};

use planner::Planner;

pub use no_fit::NoFit;

/// Smaller batches read the weights so often that memory is better spent on them.
const SMALLEST_BATCH: usize = 32;
/// Where a unit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Location {
    /// On this GPU of [`Capacity::gpus`].
    Gpu(usize),
    /// In RAM.
    Ram,
    /// In the file: read for every pass.
    Disk,
}

/// The memory there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    /// The GPUs to use, in their order.
    pub gpus: Vec<GpuRoom>,
    /// RAM; `None` if nobody knows how much there is, and then everything fits.
    pub ram: Option<RamRoom>,
}

/// RAM that may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RamRoom {
    /// The bound on the process's memory.
    pub bound: u64,
    /// Bytes of it that the process needs for other things than the model and its session.
    pub other: u64,
    /// By the user; else it is what the system has free, and counts only for models larger than that.
    pub asked: bool,
}

impl RamRoom {
    /// The same for a model of so many units: around each of them some pages of its neighbours may be mapped.
    pub fn with_units(self, units: usize) -> Self {
        Self { other: self.other.saturating_add(super::AROUND * units as u64), ..self }
    }
}

/// What the session needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// How many layers GPUs hold.
    pub gpu_layers: GpuLayers,
    /// Positions that keys and values are kept for.
    pub context: usize,
    /// Most tokens that are computed together.
    pub batch: usize,
    /// Most rows of logits that are wanted together.
    pub rows: usize,
}

/// What one device holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The device.
    pub location: Location,
    /// Number of blocks.
    pub blocks: usize,
    /// Whether the head is there.
    pub head: bool,
    /// Bytes of weights: on a GPU in its own form, in RAM with the tables of the embedding.
    pub weights: u64,
    /// Bytes of keys and values at the full context.
    pub cache: u64,
    /// Bytes of buffers; in RAM also what is needed to compute with the largest streamed unit, on a GPU also the
    /// copies of units that are not there.
    pub scratch: u64,
    /// Bytes of weights there that generating one token reads.
    pub read_per_token: u64,
    /// Bytes that may be used; `None` without a bound.
    pub room: Option<u64>,
}

impl Usage {
    /// Bytes of everything.
    pub fn total(&self) -> u64 {
        self.weights.saturating_add(self.cache).saturating_add(self.scratch)
    }
}

/// Why not all layers are on GPUs although they may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Shortage {
    /// Bytes that one GPU with all layers needs.
    pub needed_bytes: u64,
    /// Bytes that may be used on all GPUs together.
    pub room_bytes: u64,
}

/// Where everything is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Of each block in order, then of the head.
    pub units: Vec<Location>,
    /// Every device in use: GPUs in their order, RAM, and the disk if something is streamed.
    pub usage: Vec<Usage>,
    /// Why not all layers are on GPUs; `None` if they are, if fewer were asked for, or if there is no GPU.
    pub shortage: Option<Shortage>,
    /// The session planned for.
    pub session: Session,
    /// Whether the first GPU in use has the keys and values of blocks that are not on GPUs, and computes their
    /// attention.
    pub remote: bool,
}

impl Plan {
    /// Places a model of these sizes.
    ///
    /// # Errors
    /// [`NoFit`] if the layers asked for do not fit on GPUs, or RAM cannot hold even one unit at a time.
    pub fn new(sizes: &Sizes, capacity: &Capacity, session: Session) -> Result<Self, NoFit> {
        let planner = Planner::new(sizes, capacity, session);
        let ranges = planner.gpus()?;
        let on_gpu: usize = ranges.iter().map(|(_, range)| range.len()).sum();
        let first = sizes.units.len() - on_gpu;
        let mut units = vec![Location::Ram; sizes.units.len()];
        for (gpu, range) in &ranges {
            units[range.clone()].fill(Location::Gpu(*gpu));
        }
        let kept = planner.kept(first)?;
        let streamed = |unit: &UnitSize| unit.mapped > 0;
        for (location, _) in
            units[..first].iter_mut().zip(&sizes.units).skip(kept).filter(|(_, u)| streamed(u))
        {
            *location = Location::Disk;
        }
        let may_all = matches!(session.gpu_layers, GpuLayers::Auto) && !capacity.gpus.is_empty();
        let shortage = (may_all && first > 0).then(|| planner.shortage(sizes.units.len()));
        let usage = planner.usage(&units, &ranges);
        let remote = planner.remote && first > 0 && on_gpu > 0;
        Ok(Self { units, usage, shortage, session, remote })
    }

    /// As [`Plan::new`], with smaller batches where RAM is too small otherwise: a batch of 32 is the smallest that
    /// memory is saved on. GPUs get no more layers in this way: they need batches to be fast.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn fitting(sizes: &Sizes, capacity: &Capacity, mut session: Session) -> Result<Self, NoFit> {
        loop {
            match Self::new(sizes, capacity, session) {
                Err(NoFit::Ram { .. }) if session.batch > SMALLEST_BATCH => {
                    session.batch = (session.batch / 2).max(SMALLEST_BATCH);
                }
                done => return done,
            }
        }
    }

    /// Number of units on GPUs: the last ones.
    pub fn gpu_units(&self) -> usize {
        self.units.iter().filter(|unit| matches!(unit, Location::Gpu(_))).count()
    }

    /// What is on one device.
    pub fn on(&self, location: Location) -> Option<&Usage> {
        self.usage.iter().find(|usage| usage.location == location)
    }

    /// The blocks on one device, as ranges of consecutive ones.
    pub fn blocks_on(&self, location: Location) -> Vec<Range<usize>> {
        let blocks = self.units.len().saturating_sub(1);
        let mut ranges: Vec<Range<usize>> = Vec::new();
        for block in (0..blocks).filter(|&block| self.units[block] == location) {
            match ranges.last_mut() {
                Some(last) if last.end == block => last.end += 1,
                _ => ranges.push(block..block + 1),
            }
        }
        ranges
    }
}

/// How many of these units (bytes each, 0 for those that are not mapped) can be kept in `room` bytes, from the first
/// on, so that there is room for the largest of the others, and for `rows` bytes of the embedding; `None` if not even
/// one unit at a time fits.
pub(super) fn kept(units: &[u64], rows: u64, room: u64) -> Option<usize> {
    let before = |count: usize| units[..count].iter().sum::<u64>();
    // All of them need no window but that of the rows.
    if before(units.len()).saturating_add(rows) <= room {
        return Some(units.len());
    }
    let window = |from: usize| units[from..].iter().copied().max().unwrap_or(0).max(rows);
    let fits = |&kept: &usize| before(kept).saturating_add(window(kept)) <= room;
    (0..units.len()).take_while(fits).last()
}

#[cfg(test)]
mod tests;
