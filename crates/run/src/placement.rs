//! Controls which of the mapped weights are in memory while a model runs.
//!
//! A pass reads the units of a model one after the other, the same way every time:
//!
//! ```text
//! rows of the embedding | block 0 | block 1 | … | block L-1 | head
//!                        <---- kept ---->  <---- streamed ---->
//! ```
//!
//! Without a bound all units stay in memory once they were read, and in the first pass a helper thread requests each
//! unit while the one before is computed. Under a bound as many units as fit, from the first on, are kept; the pages
//! of the others are released right after the computation, and the helper requests the next of them one unit ahead.
//! The set to keep is fixed because passes are a cycle: the least recently used unit is the one needed next.
//!
//! The bound counts everything resident: heap, keys and values, scratch memory, the program's own pages. All but
//! the weights is measured before each pass (`RssAnon`); weights are counted as if whole units were resident.
//! Reading ahead fills only the system's file cache, which is not the process's memory.

mod ahead;
mod devices;
mod made;
mod options;
mod plan;
mod report;
mod residency;
mod sizes;
mod spread;
mod traffic;
mod unit;
mod work;

pub(crate) use made::check_made;
pub(crate) use residency::{Mover, Segment, reside};
pub(crate) use work::Work;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quern_compute::Device;
use quern_tensor_io::{Checkpoint, Remedy};

use crate::memory::{Resident, available_memory, resident};
use crate::weights::Weights;
use crate::{Error, Result};

use ahead::Ahead;
use traffic::Traffic;
use unit::{Tables, Unit};

pub use devices::{DeviceError, DeviceInfo, GpuRoom, NoCuda, OLDEST_CAPABILITY, cards};
pub use options::{DeviceChoice, GpuLayers, MemoryLimits, PlacementOptions};
pub use plan::{Capacity, Location, NoFit, Plan, RamRoom, Session, Shortage, Usage};
pub use report::{DeviceReport, PlacementReport, Source, Transfer};
pub(crate) use sizes::latent_buffers;
pub use sizes::{Made, ScratchSizes, SizeOptions, Sizes, UnitSize, device_bytes};

/// Left for what is not counted: pages around those touched, stacks, the kernel's own imprecision.
const MARGIN: u64 = 12 << 20;
/// Pages that the system maps around a touched one, at most.
const AROUND: u64 = 64 << 10;
/// A model is bound by the system's memory if it takes more than this share of what is free.
const SHARE: f64 = 0.9;

/// A bound on resident memory.
#[derive(Clone, Copy, Debug)]
struct Bound {
    bytes: u64,
    /// By the user, and not by what the system has.
    asked: bool,
    /// Mapped pages that are not weights: the program, file headers.
    other: u64,
}

/// How a model's weights are placed under its bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Bytes the process may have resident.
    pub bound: u64,
    /// Whether the user set the bound; else it is what the system has free.
    pub asked: bool,
    /// Bytes of mapped weights that a pass reads.
    pub weights: u64,
    /// Bytes of them that are read from the file again in every pass: for every token generated, and for
    /// every batch of a prompt. 0 if all stay.
    pub streamed: u64,
}

/// Memory of a session beside the weights, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Needs {
    /// Tokens of a batch.
    pub tokens: usize,
    pub keys_and_values: u64,
    pub buffers: u64,
}

/// The weights of one model.
#[derive(Debug)]
pub(crate) struct Placement {
    resident: residency::Resident,
    checkpoint: Arc<Checkpoint>,
    /// Blocks in order, then the head.
    units: Vec<Unit>,
    tables: Tables,
    bound: Option<Bound>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// So many units, from the first on, are kept.
    kept: usize,
    /// Units that were used and not released.
    resident: Vec<bool>,
    /// The unit last requested, until it is used.
    asked_for: Option<usize>,
    ahead: Option<Ahead>,
    /// What single tokens read.
    traffic: Traffic,
}

impl Placement {
    /// `limit`: bytes the process may have resident; `None` for what the system has.
    pub fn new(
        checkpoint: &Arc<Checkpoint>,
        weights: &Weights,
        at: residency::Resident,
        limit: Option<u64>,
    ) -> Self {
        let units = unit::units(checkpoint, weights);
        let tables = Tables::new(checkpoint, weights);
        let total: u64 = units.iter().map(Unit::bytes).sum::<u64>() + tables.bytes();
        let bound = bound(total, limit, available_memory(), || {
            // Loading has touched pages around the small vectors it decoded.
            units.iter().for_each(|unit| unit.release(checkpoint));
            tables.release(checkpoint);
            resident().unwrap_or(Resident { own: 0, mapped: 0 })
        });
        let state = State {
            kept: if bound.is_some() { 0 } else { units.len() },
            resident: vec![false; units.len()],
            asked_for: None,
            ahead: None,
            traffic: Traffic::new(units.len()),
        };
        Self { resident: at, checkpoint: checkpoint.clone(), units, tables, bound, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The devices in use, with the number of layers whose keys and values each has.
    pub fn devices(&self) -> impl Iterator<Item = (&Device, usize)> {
        self.resident.devices.iter().map(|(device, layers)| (device, *layers))
    }

    /// All layers, in order.
    pub fn segments(&self) -> &[Segment] {
        &self.resident.segments
    }

    /// Which of [`Placement::devices`] has the head.
    pub fn head(&self) -> usize {
        // The head is in the last segment.
        self.resident.segments.last().map_or(0, |segment| segment.workspace)
    }

    /// The place of a layer in the cache of its device.
    pub fn slot(&self, layer: usize) -> usize {
        self.resident.slots[layer]
    }

    /// Whether a GPU has keys and values of layers that are in RAM.
    pub fn has_remote(&self) -> bool {
        self.resident.segments.iter().any(|segment| segment.remote.is_some())
    }

    /// Layers whose keys and values are in RAM.
    pub fn layers_cached_in_ram(&self) -> usize {
        self.devices().filter(|(device, _)| !device.is_gpu()).map(|(_, layers)| layers).sum()
    }

    /// Layers whose weights are not on a GPU.
    pub fn off_gpu(&self) -> impl Iterator<Item = usize> {
        let residency::Resident { devices, segments, .. } = &self.resident;
        let in_ram = segments.iter().filter(|segment| !devices[segment.workspace].0.is_gpu());
        in_ram.flat_map(|segment| segment.layers.clone())
    }

    /// Whether there is a bound.
    pub fn bounded(&self) -> bool {
        self.bound.is_some()
    }

    /// Bytes of the largest unit from `from` on, or of the rows that `tokens` tokens look up, if that is more:
    /// what must fit beside the units kept.
    fn window(&self, from: usize, tokens: usize) -> u64 {
        let units = self.units[from..].iter().map(Unit::bytes).max().unwrap_or(0);
        units.max(self.tables.touched_by(tokens))
    }

    /// The number of units that can be kept in `room` bytes.
    fn fitting(&self, room: u64, tokens: usize) -> usize {
        let units: Vec<u64> = self.units.iter().map(Unit::bytes).collect();
        plan::kept(&units, self.tables.touched_by(tokens), room).unwrap_or(0)
    }

    /// The placement for a session with these needs.
    ///
    /// # Errors
    /// [`Error::Memory`] with the numbers if not even one unit at a time fits.
    pub fn plan(&self, needs: Needs) -> Result<Option<MemoryPlan>> {
        let Some(bound) = self.bound else { return Ok(None) };
        let own = resident().map_or(0, |r| r.own);
        let kept = self.fitting(self.room(bound, own, needs)?, needs.tokens);
        let bytes = |units: &[Unit]| units.iter().map(Unit::bytes).sum::<u64>();
        Ok(Some(MemoryPlan {
            bound: bound.bytes,
            asked: bound.asked,
            weights: bytes(&self.units),
            streamed: bytes(&self.units[kept..]),
        }))
    }

    /// Bytes that are neither weights nor a session's.
    fn rest(&self, bound: Bound, own: u64) -> u64 {
        // Around every unit some pages of its neighbours may be mapped.
        own.saturating_add(bound.other + MARGIN + AROUND * self.units.len() as u64)
    }

    /// Bytes for weights beside everything else.
    fn room(&self, bound: Bound, own: u64, needs: Needs) -> Result<u64> {
        let rest = self.rest(bound, own);
        let window = self.window(0, needs.tokens);
        let other = rest.saturating_add(needs.keys_and_values).saturating_add(needs.buffers);
        let room = bound.bytes.saturating_sub(other);
        if room >= window {
            return Ok(room);
        }
        let mib = |bytes: u64| format!("{:.0} MiB", (bytes as f64 / f64::from(1 << 20)).ceil());
        let what = format!(
            "{} of memory {} too little: the largest layer takes {}, keys and values {}, buffers {}, \
             everything else {}, together {}",
            mib(bound.bytes),
            if bound.asked { "to be used is" } else { "that the system has free is" },
            mib(window),
            mib(needs.keys_and_values),
            mib(needs.buffers),
            mib(rest),
            mib(other.saturating_add(window)),
        );
        let remedy = if bound.asked { Remedy::RaiseMemory } else { Remedy::FreeMemory };
        Err(Error::Memory { what, remedy })
    }

    /// Begins a pass of this many tokens: finds how many units can be kept beside what the process has taken by
    /// now and `growth` bytes that it is about to take, and releases the units that no longer fit.
    ///
    /// # Errors
    /// As [`Placement::plan`].
    pub fn begin(&self, tokens: usize, growth: u64) -> Result<()> {
        let Some(bound) = self.bound else { return Ok(()) };
        let own = resident().map_or(0, |r| r.own);
        let room = self.room(bound, own, Needs { tokens, keys_and_values: 0, buffers: growth })?;
        let mut state = self.state();
        let before = std::mem::replace(&mut state.kept, self.fitting(room, tokens));
        for unit in state.kept..before {
            self.release(&mut state, unit);
        }
        Ok(())
    }

    fn release(&self, state: &mut State, unit: usize) {
        self.units[unit].release(&self.checkpoint);
        state.resident[unit] = false;
    }

    /// The embedding's rows were read.
    pub fn embedded(&self) {
        // A kept head may be the same tensor.
        let kept = self.tables.tied && self.state().kept == self.units.len();
        if self.bounded() && !kept {
            self.tables.release(&self.checkpoint);
        }
    }

    /// Unit `unit` is about to be used by `tokens` tokens: requests the next one that is not in memory.
    pub fn enter(&self, unit: usize, tokens: usize) {
        let mut state = self.state();
        state.traffic.enter(tokens);
        let State { kept, resident, asked_for, ahead, .. } = &mut *state;
        let mut ask = |unit: usize| {
            let ahead = ahead.get_or_insert_with(|| Ahead::start(self.checkpoint.clone()));
            ahead.ask(self.units[unit].spans(tokens));
        };
        let fresh = !std::mem::replace(&mut resident[unit], true);
        if *asked_for == Some(unit) {
            *asked_for = None;
        } else if fresh {
            ask(unit);
        }
        let absent = |&next: &usize| next >= *kept || !resident[next];
        // Cyclic: the first unit of the next pass follows the last.
        let next = (unit + 1..self.units.len()).find(absent).or_else(|| (*kept..unit).next());
        if next.is_some() && next != *asked_for {
            *asked_for = next;
            next.into_iter().for_each(ask);
        }
    }

    /// Unit `unit` was used.
    pub fn leave(&self, unit: usize) {
        let mut state = self.state();
        let bytes = self.units[unit].read_by_a_token();
        let on_disk = unit >= state.kept;
        state.traffic.leave(unit, bytes, on_disk);
        if unit >= state.kept {
            self.release(&mut state, unit);
        }
    }

    /// Weights of units in RAM were moved to a GPU for this many tokens.
    pub fn moved(&self, bytes: u64, time: Duration, tokens: usize) {
        self.state().traffic.moved(bytes, time, tokens);
    }

    /// What was read and moved so far, for tokens that were generated and for batches.
    pub fn transfers(&self) -> Vec<Transfer> {
        // Without a GPU and with everything in RAM there is nothing to be told from.
        let split = self.resident.devices.iter().any(|(device, _)| device.is_gpu());
        self.state().traffic.transfers(split)
    }

    /// Releases everything: another model is to run within the same bound.
    pub fn give_back(&self) {
        if self.bounded() {
            let mut state = self.state();
            (0..self.units.len()).for_each(|unit| self.release(&mut state, unit));
        }
    }
}

/// The bound for a model of `total` mapped bytes: the limit asked for, or what the system has, where that is
/// less than the model. `settled` gives what is resident before any weight is.
fn bound(
    total: u64,
    limit: Option<u64>,
    available: Option<u64>,
    settled: impl FnOnce() -> Resident,
) -> Option<Bound> {
    if let Some(bytes) = limit {
        return Some(Bound { bytes, asked: true, other: settled().mapped });
    }
    let available = (available? as f64 * SHARE) as u64;
    if total <= available {
        return None;
    }
    let Resident { own, mapped } = settled();
    Some(Bound { bytes: available.saturating_add(own).saturating_add(mapped), asked: false, other: mapped })
}

/// RAM for a model that is not loaded yet, under a limit or what the system has free; `units` is the number of its
/// blocks and its head.
pub fn ram_room(limit: Option<u64>, units: usize) -> Option<RamRoom> {
    let Resident { own, mapped } = resident().unwrap_or(Resident { own: 0, mapped: 0 });
    let other = own + mapped + MARGIN;
    let room = match limit {
        Some(bound) => RamRoom { bound, other, asked: true },
        None => {
            let available = (available_memory()? as f64 * SHARE) as u64;
            RamRoom { bound: available.saturating_add(other), other, asked: false }
        }
    };
    Some(room.with_units(units))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_comes_from_the_user_or_from_a_system_too_small() {
        let settled = || Resident { own: 5, mapped: 7 };
        assert!(bound(90, None, Some(100), settled).is_none());
        assert!(bound(90, None, None, settled).is_none());
        let system = bound(91, None, Some(100), settled).unwrap();
        assert_eq!((system.bytes, system.asked, system.other), (90 + 12, false, 7));
        let user = bound(1, Some(1000), Some(1 << 40), settled).unwrap();
        assert_eq!((user.bytes, user.asked, user.other), (1000, true, 7));
    }
}
