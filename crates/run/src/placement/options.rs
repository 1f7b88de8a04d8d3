//! What a user may ask of placement: which devices compute, how many layers GPUs hold, how much memory may be used.

use std::collections::BTreeMap;
use std::fmt;

/// Which devices compute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// All cards that can be used, and the CPU for what they do not hold; the CPU alone where there is no card.
    #[default]
    Auto,
    /// The CPU alone.
    Cpu,
    /// This card, or all of them; it is an error if there is none.
    Cuda(Option<usize>),
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(None) => f.write_str("cuda"),
            Self::Cuda(Some(index)) => write!(f, "cuda:{index}"),
        }
    }
}

/// How many layers GPUs hold.
///
/// Layers are counted as llama.cpp counts them for `-ngl`: the head is the last layer, the last block the one before
/// it, and so on. A model of 32 blocks has 33 layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GpuLayers {
    /// As many as fit.
    #[default]
    Auto,
    /// All of them; it is an error if they do not fit.
    All,
    /// So many, the last ones; it is an error if they do not fit. More than there are means all of them.
    Last(usize),
}

/// Limits on memory, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryLimits {
    /// What the process may have resident.
    pub ram: Option<u64>,
    /// What quern may allocate on a card, by the card's number. If any card is listed, those that are not listed
    /// are not used (as in accelerate's `max_memory`).
    pub cards: BTreeMap<usize, u64>,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlacementOptions {
    /// Which devices compute.
    pub device: DeviceChoice,
    /// How many layers GPUs hold.
    pub gpu_layers: GpuLayers,
    /// How much memory may be used.
    pub memory: MemoryLimits,
}
