//! The arithmetic of a plan: what units take on each device, and how many of them fit.

use std::ops::Range;

use super::{Capacity, Location, NoFit, RamRoom, Session, Shortage, Usage, kept};
use crate::placement::options::GpuLayers;
use crate::placement::sizes::{Sizes, UnitSize};
use crate::placement::spread::Rooms;

/// Units that a GPU has room for beside its own while others are in RAM or on disk: one is computed with while the next
/// is copied.
const STAGED_UNITS: u64 = 2;
/// Pages that the system maps around a unit's ends.
pub(super) const ENDS: u64 = 2 * crate::placement::AROUND;

/// One model, one machine, one session.
pub(super) struct Planner<'a> {
    pub sizes: &'a Sizes,
    pub capacity: &'a Capacity,
    pub session: Session,
    /// Whether the first GPU in use has keys and values of blocks that are not on GPUs.
    pub remote: bool,
}

impl<'a> Planner<'a> {
    /// Keys and values of all blocks go to GPUs if they leave most of the memory there to weights, and the layers asked
    /// for fit beside them.
    pub fn new(sizes: &'a Sizes, capacity: &'a Capacity, session: Session) -> Self {
        let mut planner = Self { sizes, capacity, session, remote: true };
        let largest = capacity.gpus.iter().map(|gpu| gpu.room).max().unwrap_or(0);
        planner.remote = !sizes.cache_stays
            && match session.gpu_layers {
                GpuLayers::Auto | GpuLayers::All => {
                    planner.cache(0..sizes.blocks()).saturating_mul(4) <= largest
                }
                GpuLayers::Last(count) => planner.spread(count.min(sizes.units.len())).is_some(),
            };
        planner
    }
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

    /// Bytes on the first GPU for copies of the units before `first`, and for their keys and values.
    fn staging(&self, first: usize) -> u64 {
        let largest = self.sizes.units[..first].iter().map(|unit| unit.gpu).max().unwrap_or(0);
        (STAGED_UNITS * largest).saturating_add(self.remote_cache(first))
    }

    /// Bytes of keys and values on the first GPU in use of units before `first`.
    fn remote_cache(&self, first: usize) -> u64 {
        if self.remote && first < self.sizes.units.len() { self.cache(0..first) } else { 0 }
    }

    /// Bytes of keys and values in RAM of units before `first`.
    fn ram_cache(&self, first: usize) -> u64 {
        self.cache(0..first) - self.remote_cache(first)
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
    pub fn gpus(&self) -> Result<Vec<(usize, Range<usize>)>, NoFit> {
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
    pub fn shortage(&self, count: usize) -> Shortage {
        let first = self.sizes.units.len() - count;
        let units: u64 = (first..self.sizes.units.len()).map(|unit| self.on_gpu(unit)).sum();
        Shortage {
            needed_bytes: units + self.staging(first) + self.sizes.scratch.on_gpu(self.session.batch),
            room_bytes: self.capacity.gpus.iter().map(|gpu| gpu.room).sum(),
        }
    }

    /// Bytes of the embedding's tables that a batch makes resident.
    fn rows(&self) -> u64 {
        let row = self.sizes.embedding_row.saturating_add(crate::placement::AROUND);
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
    pub fn kept(&self, first: usize) -> Result<usize, NoFit> {
        let Some(RamRoom { bound, other, asked }) = self.capacity.ram else { return Ok(first) };
        let mapped = self.mapped(first);
        let total = mapped.iter().sum::<u64>() + self.sizes.embedding.mapped;
        if !asked && total.saturating_add(self.made(first)) <= bound.saturating_sub(other) {
            return Ok(first);
        }
        let (made, cache, scratch) = (self.made(first), self.ram_cache(first), self.ram_scratch(first));
        let taken = [made, cache, scratch, other].into_iter().fold(0, u64::saturating_add);
        let room = bound.checked_sub(taken);
        room.and_then(|room| kept(&mapped, self.rows(), room)).ok_or_else(|| {
            let window = mapped.iter().copied().max().unwrap_or(0).max(self.rows());
            NoFit::Ram { bound, asked, window, made, cache, scratch, other }
        })
    }

    /// What each device holds.
    pub fn usage(&self, units: &[Location], ranges: &[(usize, Range<usize>)]) -> Vec<Usage> {
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
            let (staging, beside) = match number {
                0 => (self.staging(first), self.remote_cache(first)),
                _ => (0, 0),
            };
            let logits = if own.head { self.logits() } else { 0 };
            let weights = sizes.units[range.clone()].iter().map(|unit| unit.gpu).sum();
            let scratch = sizes.scratch.on_gpu(self.session.batch) + (staging - beside) + logits;
            all.push(Usage { weights, scratch, cache: own.cache + beside, ..own });
        }
        let streamed: Vec<usize> = on(Location::Disk).collect();
        let own = usage(Location::Ram, self.capacity.ram.map(|ram| ram.bound));
        let mapped: u64 = on(Location::Ram).map(|unit| sizes.units[unit].mapped).sum();
        // A tied head is the same bytes as the table of the embedding.
        let shared = sizes.tied && first == units.len();
        let table = if shared { 0 } else { sizes.embedding.mapped };
        let window = streamed.iter().map(|&unit| sizes.units[unit].mapped).max().unwrap_or(0);
        let weights = mapped + table + self.made(first);
        let cache = self.ram_cache(first);
        all.push(Usage { weights, cache, scratch: self.ram_scratch(first) + window, ..own });
        if !streamed.is_empty() {
            let weights = streamed.iter().map(|&unit| sizes.units[unit].mapped).sum();
            all.push(Usage { weights, cache: 0, ..usage(Location::Disk, None) });
        }
        all
    }
}
