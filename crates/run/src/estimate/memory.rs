//! The memory of a run at its peak, with a full context and prompts of at least one batch.

use crate::placement::{Location, Plan, Sizes};

/// The program: its own pages, those of its code that a run touches, threads.
const PROGRAM: u64 = 8_500_000;
/// An entry of the vocabulary with its merges, in the tokenizer.
const VOCABULARY_ENTRY: u64 = 220;
/// What the driver keeps in RAM for a GPU that is in use.
const DRIVER_IN_RAM: u64 = 111 << 20;
/// Page-locked memory on the way to a GPU while a model is loaded.
const LOADER: u64 = 67 << 20;
/// Page-locked memory for layers in RAM that batches take to the GPU.
const STAGING: u64 = 105 << 20;
/// Tokens that the CPU computes together at most where a GPU takes larger batches.
const CPU_BATCH: usize = 31;
/// Heaps' law for tokens of English text.
const HEAPS_FACTOR: f64 = 6.0;
const HEAPS_EXPONENT: f64 = 0.65;
/// Bytes that the system maps around a page that is read.
const PAGES_AROUND: f64 = (64 << 10) as f64;
/// What the driver keeps on a GPU for a process that uses it.
pub const GPU_CONTEXT: u64 = 527 << 20;

/// Memory of one device, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceMemory {
    /// Weights.
    pub weights: u64,
    /// Keys and values at the full context.
    pub cache: u64,
    /// Buffers.
    pub scratch: u64,
    /// The program, the tokenizer, the driver, and what loading takes beyond what running does.
    pub other: u64,
}

impl DeviceMemory {
    /// Bytes of everything.
    pub fn total(&self) -> u64 {
        self.weights + self.cache + self.scratch + self.other
    }
}

/// Memory of a run at its peak.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryEstimate {
    /// Resident memory of the process.
    pub ram: DeviceMemory,
    /// On each GPU in use, by its place in [`crate::placement::Capacity::gpus`], the driver's part included.
    pub gpus: Vec<(usize, DeviceMemory)>,
}

impl MemoryEstimate {
    /// Estimates a placement of a model with `vocabulary` tokens.
    pub fn new(sizes: &Sizes, plan: &Plan, vocabulary: usize) -> Self {
        let gpus: Vec<(usize, DeviceMemory)> = plan
            .usage
            .iter()
            .filter_map(|usage| match usage.location {
                Location::Gpu(gpu) => Some((gpu, usage)),
                Location::Ram | Location::Disk => None,
            })
            .map(|(gpu, usage)| {
                let (weights, cache, scratch) = (usage.weights, usage.cache, usage.scratch);
                (gpu, DeviceMemory { weights, cache, scratch, other: GPU_CONTEXT })
            })
            .collect();
        let uses_gpu = !gpus.is_empty();
        let mut ram = DeviceMemory { other: ram_beside(vocabulary, uses_gpu), ..DeviceMemory::default() };
        if let Some(usage) = plan.on(Location::Ram) {
            let batch = if uses_gpu { plan.session.batch.min(CPU_BATCH) } else { plan.session.batch };
            // Beside the buffers of a batch: logits, and room for a unit that is read from the disk.
            let beside = usage.scratch.saturating_sub(sizes.scratch.in_ram(plan.session.batch));
            // The head of a tied model reads the whole table where it is computed here.
            let by_row = !sizes.tied || plan.units.last() != Some(&Location::Ram);
            let unread =
                if by_row { sizes.embedding.mapped - looked_up(sizes, plan.session.context) } else { 0 };
            ram.weights = usage.weights.saturating_sub(unread);
            ram.cache = usage.cache;
            ram.scratch = sizes.scratch.ram_used + sizes.scratch.ram_token_used * batch as u64 + beside;
            if uses_gpu && usage.blocks > 0 {
                ram.scratch += STAGING;
            }
        }
        // On the way to a GPU, the pages of a unit are in RAM too.
        let loading = if uses_gpu { ram.other + LOADER + sizes.largest_source } else { 0 };
        ram.other += loading.saturating_sub(ram.total());
        Self { ram, gpus }
    }
}

/// Bytes of the mapped table of the embedding that are in memory after a text of `context` tokens: the pages around the rows
/// of its different tokens, some of them shared. Texts grow their vocabulary by Heaps' law.
fn looked_up(sizes: &Sizes, context: usize) -> u64 {
    let table = sizes.embedding.mapped;
    let different = HEAPS_FACTOR * (context as f64).powf(HEAPS_EXPONENT);
    let windows = (table as f64 / PAGES_AROUND).max(1.0);
    // Of so many windows of pages, those that hold a row when rows are spread evenly.
    let touched = windows * (1.0 - (-different / windows).exp());
    ((touched * PAGES_AROUND) as u64).min(table)
}

/// Bytes of RAM that a process needs beside the model and its session.
pub fn ram_beside(vocabulary: usize, uses_gpu: bool) -> u64 {
    PROGRAM + VOCABULARY_ENTRY * vocabulary as u64 + if uses_gpu { DRIVER_IN_RAM } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::{Capacity, GpuLayers, GpuRoom, ScratchSizes, Session, UnitSize};

    const MIB: u64 = 1 << 20;

    fn sizes() -> Sizes {
        let unit = UnitSize { mapped: 100 * MIB, made: 0, gpu: 100 * MIB, touched: 100 * MIB };
        let table = UnitSize { mapped: 40 * MIB, ..UnitSize::default() };
        let scratch = ScratchSizes {
            ram: 8 * MIB,
            ram_token: 2000,
            gpu: 32 * MIB,
            gpu_token: 1000,
            ram_used: MIB,
            ram_token_used: 1000,
        };
        Sizes {
            embedding: table,
            embedding_row: 100,
            units: vec![unit; 5],
            reads: vec![Vec::new(); 5],
            largest_source: 300 * MIB,
            cache_position: 1 << 10,
            scratch,
            logits_row: 4000,
            ..Sizes::default()
        }
    }

    fn estimate(room: Option<u64>) -> MemoryEstimate {
        let gpu =
            |room| GpuRoom { index: 0, name: "a".into(), total: room, free: room, room, limited: false };
        let capacity = Capacity { gpus: room.map(gpu).into_iter().collect(), ram: None };
        let session = Session { gpu_layers: GpuLayers::Auto, context: 1024, batch: 512, rows: 1 };
        let sizes = sizes();
        let plan = Plan::new(&sizes, &capacity, session).unwrap();
        MemoryEstimate::new(&sizes, &plan, 1000)
    }

    #[test]
    fn the_cpu_alone_has_weights_cache_and_what_is_used_of_buffers() {
        let found = estimate(None);
        assert!(found.gpus.is_empty());
        let table = looked_up(&sizes(), 1024);
        assert!((20 * MIB..40 * MIB).contains(&table), "{table}");
        assert_eq!((found.ram.weights, found.ram.cache), (500 * MIB + table, 4 * MIB));
        assert_eq!(found.ram.scratch, MIB + 512 * 1000 + 4000);
        assert_eq!(found.ram.other, PROGRAM + 220_000);
    }

    #[test]
    fn loading_to_a_gpu_may_take_more_ram_than_running() {
        let found = estimate(Some(8 << 30));
        let gpu = found.gpus[0].1;
        assert_eq!((gpu.weights, gpu.cache, gpu.other), (500 * MIB, 4 * MIB, GPU_CONTEXT));
        // The table alone stays in RAM, and a unit of the file on its way.
        assert_eq!(found.ram.total(), ram_beside(1000, true) + LOADER + 300 * MIB);
    }

    #[test]
    fn layers_in_ram_need_memory_to_move_them() {
        let found = estimate(Some(460 * MIB));
        let on_gpu = found.gpus[0].1.weights / (100 * MIB);
        assert!((1..5).contains(&on_gpu), "{found:?}");
        assert_eq!(found.ram.weights, (500 - 100 * on_gpu) * MIB + looked_up(&sizes(), 1024));
        assert_eq!(found.ram.scratch, MIB + CPU_BATCH as u64 * 1000 + STAGING);
    }
}
