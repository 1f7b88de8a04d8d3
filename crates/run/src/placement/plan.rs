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
//! prompt. Keys and values are where their block is computed: on its GPU, or in RAM.

use std::ops::Range;

use quern_tensor_io::Remedy;
use serde::Serialize;

use super::devices::GpuRoom;
use super::options::GpuLayers;
use super::sizes::{Sizes, UnitSize};
use super::spread::Rooms;

/// Units that a GPU has room for beside its own while others are in RAM or on disk: one is computed with while the next
/// is copied.
const STAGED_UNITS: u64 = 2;
/// Smaller batches read the weights so often that memory is better spent on them.
const SMALLEST_BATCH: usize = 32;
/// Pages that the system maps around a unit's ends.
pub(super) const ENDS: u64 = 2 * super::AROUND;

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
}

/// What does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoFit {
    /// The layers asked for are more than GPUs can hold.
    #[error(
        "{layers} layers (from {} on) do not fit on the GPU{}: they take {}, and {} can be used; {}",
        unit(*.first, *.blocks), if *.gpus > 1 { "s" } else { "" }, mib(*.needed), mib(*.room), fit(*.fitting)
    )]
    Gpu {
        /// So many were to be there.
        layers: usize,
        /// The first of them: the number of a block, or the number of blocks for the head.
        first: usize,
        /// The number of blocks.
        blocks: usize,
        /// Bytes that one GPU would need: weights, keys and values, buffers.
        needed: u64,
        /// Bytes that may be used on all of them.
        room: u64,
        /// Number of GPUs.
        gpus: usize,
        /// So many fit.
        fitting: usize,
    },
    /// RAM is too small for even one unit at a time.
    #[error(
        "{} of memory {} too little: the largest layer takes {}, weights made while loading {}, keys and values {}, \
         buffers {}, everything else {}",
        mib(*.bound), if *.asked { "to be used is" } else { "that the system has free is" },
        mib(*.window), mib(*.made), mib(*.cache), mib(*.scratch), mib(*.other)
    )]
    Ram {
        /// Bytes that may be used.
        bound: u64,
        /// By the user.
        asked: bool,
        /// Bytes of the largest unit.
        window: u64,
        /// Bytes of weights that are made while loading and must stay.
        made: u64,
        /// Bytes of keys and values.
        cache: u64,
        /// Bytes of buffers.
        scratch: u64,
        /// Bytes of the rest of the process.
        other: u64,
    },
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

/// A unit in words.
fn unit(number: usize, blocks: usize) -> String {
    if number < blocks { format!("block {number}") } else { "the head".to_owned() }
}

/// So many layers fit, in words.
fn fit(layers: usize) -> String {
    match layers {
        0 => "not even the last one fits".to_owned(),
        1 => "only the last one fits".to_owned(),
        _ => format!("the last {layers} fit"),
    }
}

impl NoFit {
    /// What mends it.
    pub fn remedy(&self) -> Remedy {
        match *self {
            Self::Gpu { fitting, .. } => Remedy::FewerGpuLayers { fitting },
            Self::Ram { asked: true, .. } => Remedy::RaiseMemory,
            Self::Ram { asked: false, .. } => Remedy::FreeMemory,
        }
    }
}

impl From<NoFit> for crate::Error {
    fn from(error: NoFit) -> Self {
        Self::Memory { what: error.to_string(), remedy: error.remedy() }
    }
}

impl Plan {
    /// Places a model of these sizes.
    ///
    /// # Errors
    /// [`NoFit`] if the layers asked for do not fit on GPUs, or RAM cannot hold even one unit at a time.
    pub fn new(sizes: &Sizes, capacity: &Capacity, session: Session) -> Result<Self, NoFit> {
        let planner = Planner { sizes, capacity, session };
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
        Ok(Self { units, usage, shortage, session })
    }

    /// As [`Plan::new`], with smaller batches where otherwise it would not fit: a batch of 32 is the smallest that
    /// memory is saved on.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn fitting(sizes: &Sizes, capacity: &Capacity, mut session: Session) -> Result<Self, NoFit> {
        loop {
            match Self::new(sizes, capacity, session) {
                Err(_) if session.batch > SMALLEST_BATCH => {
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

struct Planner<'a> {
    sizes: &'a Sizes,
    capacity: &'a Capacity,
    session: Session,
}

impl Planner<'_> {
    /// Bytes of keys and values of these units.
    fn cache(&self, units: Range<usize>) -> u64 {
        let blocks = units.end.min(self.sizes.blocks()).saturating_sub(units.start) as u64;
        blocks * self.sizes.layer_cache(self.session.context)
    }

    /// Bytes of logits, where the head is.
    fn logits(&self) -> u64 {
        self.sizes.logits_row.saturating_mul(self.session.rows as u64)
    }

    /// Bytes that a unit takes on a GPU, keys and values and a head's logits included.
    fn on_gpu(&self, unit: usize) -> u64 {
        let head = unit == self.sizes.blocks();
        let beside = if head { self.logits() } else { self.cache(unit..unit + 1) };
        self.sizes.units[unit].gpu.saturating_add(beside)
    }

    /// Bytes on the first GPU for copies of the units before `first`.
    fn staging(&self, first: usize) -> u64 {
        let largest = self.sizes.units[..first].iter().map(|unit| unit.gpu).max().unwrap_or(0);
        STAGED_UNITS * largest
    }

    /// The last `count` units over GPUs; `None` if they do not fit.
    fn spread(&self, count: usize) -> Option<Vec<(usize, Range<usize>)>> {
        let first = self.sizes.units.len() - count;
        let units: Vec<u64> = (first..self.sizes.units.len()).map(|unit| self.on_gpu(unit)).collect();
        let rooms: Vec<u64> = self.capacity.gpus.iter().map(|gpu| gpu.room).collect();
        let each = self.sizes.scratch.on_gpu(self.session.batch);
        let ranges = Rooms { rooms: &rooms, each, first: self.staging(first) }.spread(&units)?;
        Some(ranges.into_iter().map(|(gpu, range)| (gpu, range.start + first..range.end + first)).collect())
    }

    /// The units of each GPU.
    fn gpus(&self) -> Result<Vec<(usize, Range<usize>)>, NoFit> {
        if self.capacity.gpus.is_empty() {
            return Ok(Vec::new());
        }
        let all = self.sizes.units.len();
        let most = |count: usize| (0..=count).rev().find_map(|n| self.spread(n).map(|ranges| (n, ranges)));
        let asked = match self.session.gpu_layers {
            GpuLayers::Auto => return Ok(most(all).map(|(_, ranges)| ranges).unwrap_or_default()),
            GpuLayers::All => all,
            GpuLayers::Last(count) => count.min(all),
        };
        match most(asked) {
            Some((count, ranges)) if count == asked => Ok(ranges),
            found => {
                let Shortage { needed_bytes: needed, room_bytes: room } = self.shortage(asked);
                let (first, blocks) = (all - asked, self.sizes.blocks());
                let (gpus, fitting) = (self.capacity.gpus.len(), found.map_or(0, |(count, _)| count));
                Err(NoFit::Gpu { layers: asked, first, blocks, needed, room, gpus, fitting })
            }
        }
    }

    /// What the last `count` units need on one GPU, and what there is.
    fn shortage(&self, count: usize) -> Shortage {
        let first = self.sizes.units.len() - count;
        let units: u64 = (first..self.sizes.units.len()).map(|unit| self.on_gpu(unit)).sum();
        Shortage {
            needed_bytes: units + self.staging(first) + self.sizes.scratch.on_gpu(self.session.batch),
            room_bytes: self.capacity.gpus.iter().map(|gpu| gpu.room).sum(),
        }
    }

    /// Bytes of the embedding's tables that a batch makes resident.
    fn rows(&self) -> u64 {
        let row = self.sizes.embedding_row.saturating_add(super::AROUND);
        row.saturating_mul(self.session.batch as u64).min(self.sizes.embedding.mapped)
    }

    /// Mapped bytes of the units before `first`, as a bound counts them.
    fn mapped(&self, first: usize) -> Vec<u64> {
        let bytes = |unit: &UnitSize| if unit.mapped > 0 { unit.mapped + ENDS } else { 0 };
        self.sizes.units[..first].iter().map(bytes).collect()
    }

    /// Bytes of weights in RAM that were made while loading, with the units before `first`.
    fn made(&self, first: usize) -> u64 {
        self.sizes.embedding.made + self.sizes.units[..first].iter().map(|unit| unit.made).sum::<u64>()
    }

    fn ram_scratch(&self, first: usize) -> u64 {
        let logits = if first == self.sizes.units.len() { self.logits() } else { 0 };
        self.sizes.scratch.in_ram(self.session.batch) + logits
    }

    /// How many of the units before `first` are kept in RAM, from the first on.
    fn kept(&self, first: usize) -> Result<usize, NoFit> {
        let Some(RamRoom { bound, other, asked }) = self.capacity.ram else { return Ok(first) };
        let mapped = self.mapped(first);
        let total = mapped.iter().sum::<u64>() + self.sizes.embedding.mapped;
        if !asked && total.saturating_add(self.made(first)) <= bound.saturating_sub(other) {
            return Ok(first);
        }
        let (made, cache, scratch) = (self.made(first), self.cache(0..first), self.ram_scratch(first));
        let taken = [made, cache, scratch, other].into_iter().fold(0, u64::saturating_add);
        let room = bound.checked_sub(taken);
        room.and_then(|room| kept(&mapped, self.rows(), room)).ok_or_else(|| {
            let window = mapped.iter().copied().max().unwrap_or(0).max(self.rows());
            NoFit::Ram { bound, asked, window, made, cache, scratch, other }
        })
    }

    /// What each device holds.
    fn usage(&self, units: &[Location], ranges: &[(usize, Range<usize>)]) -> Vec<Usage> {
        let sizes = self.sizes;
        let on = |location: Location| (0..units.len()).filter(move |&unit| units[unit] == location);
        let usage = |location: Location, room: Option<u64>| Usage {
            location,
            blocks: on(location).filter(|&unit| unit < sizes.blocks()).count(),
            head: units.last() == Some(&location),
            weights: 0,
            cache: on(location).map(|unit| self.cache(unit..unit + 1)).sum(),
            scratch: 0,
            read_per_token: on(location).map(|unit| sizes.units[unit].touched).sum(),
            room,
        };
        let first = ranges.first().map_or(units.len(), |(_, range)| range.start);
        let mut all: Vec<Usage> = Vec::new();
        for (number, (gpu, range)) in ranges.iter().enumerate() {
            let location = Location::Gpu(*gpu);
            let own = usage(location, self.capacity.gpus.get(*gpu).map(|gpu| gpu.room));
            let staging = if number == 0 { self.staging(first) } else { 0 };
            let logits = if own.head { self.logits() } else { 0 };
            let weights = sizes.units[range.clone()].iter().map(|unit| unit.gpu).sum();
            let scratch = sizes.scratch.on_gpu(self.session.batch) + staging + logits;
            all.push(Usage { weights, scratch, ..own });
        }
        let streamed: Vec<usize> = on(Location::Disk).collect();
        let own = usage(Location::Ram, self.capacity.ram.map(|ram| ram.bound));
        let mapped: u64 = on(Location::Ram).map(|unit| sizes.units[unit].mapped).sum();
        // A tied head is the same bytes as the table of the embedding.
        let shared = sizes.tied && first == units.len();
        let table = if shared { 0 } else { sizes.embedding.mapped };
        let window = streamed.iter().map(|&unit| sizes.units[unit].mapped).max().unwrap_or(0);
        let weights = mapped + table + self.made(first);
        let cache = self.cache(0..first);
        all.push(Usage { weights, cache, scratch: self.ram_scratch(first) + window, ..own });
        if !streamed.is_empty() {
            let weights = streamed.iter().map(|&unit| sizes.units[unit].mapped).sum();
            all.push(Usage { weights, cache: 0, ..usage(Location::Disk, None) });
        }
        all
    }
}

#[cfg(test)]
mod tests;
