//! The cards of this machine, and which of them are used.

use quern_tensor_io::Remedy;

use super::options::{DeviceChoice, GpuLayers, PlacementOptions};

/// The oldest compute capability that the kernels support.
pub const OLDEST_CAPABILITY: (u32, u32) = (7, 5);

/// Left free on every card for what is not counted: the driver's own memory, fragments between allocations.
const RESERVE: u64 = 512 << 20;

/// A card, as its driver describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Its number (`cuda:0`).
    pub index: usize,
    /// Its name.
    pub name: String,
    /// Bytes of its memory that are free.
    pub free: u64,
    /// Bytes of its memory.
    pub total: u64,
    /// Its compute capability, major and minor number.
    pub compute_capability: (u32, u32),
    /// The CUDA version that its driver supports, major and minor number.
    pub driver: (u32, u32),
}

/// Why no card can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoCuda {
    /// quern was built without it.
    #[error("this build of quern has no CUDA support")]
    NotBuilt,
    /// The driver's library cannot be loaded.
    #[error("the NVIDIA driver is not installed or cannot be loaded ({0})")]
    NoDriver(String),
    /// The driver is older than the kernels need.
    #[error("the NVIDIA driver supports CUDA {found}, and quern needs {needed} or newer: update the driver")]
    OldDriver {
        /// The version it supports.
        found: String,
        /// The version that is needed.
        needed: String,
    },
    /// The driver is there, and no card.
    #[error("the NVIDIA driver finds no card")]
    NoCard,
    /// Anything else that the driver or a card says.
    #[error("{0}")]
    Unusable(String),
}

/// Devices were asked for that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// No card can be used.
    #[error("there is no CUDA device: {0}")]
    NoCuda(NoCuda),
    /// There is no card of this number.
    #[error("there is no device {index}{}", listed(.there))]
    NoSuchCard {
        /// The number asked for.
        index: usize,
        /// The cards there are, as [`DeviceError::NotInUse::in_use`]; or why there are none.
        there: Result<Vec<(usize, String)>, NoCuda>,
    },
    /// The card is older than the kernels support.
    #[error(
        "device {index} ({name}) has compute capability {}.{}, and quern needs {}.{} or newer",
        .capability.0, .capability.1, OLDEST_CAPABILITY.0, OLDEST_CAPABILITY.1
    )]
    OldCard {
        /// Its number.
        index: usize,
        /// Its name.
        name: String,
        /// Its compute capability.
        capability: (u32, u32),
    },
    /// A limit was given for a card that is not used.
    #[error("there is a limit on the memory of device {index}, and {}", used(.in_use))]
    NotInUse {
        /// The number of the limit.
        index: usize,
        /// Numbers and names of the cards in use.
        in_use: Vec<(usize, String)>,
    },
}

/// Not as a source: the text has its words already.
impl From<NoCuda> for DeviceError {
    fn from(reason: NoCuda) -> Self {
        Self::NoCuda(reason)
    }
}

fn names(cards: &[(usize, String)]) -> String {
    cards.iter().map(|(index, name)| format!("{index} ({name})")).collect::<Vec<_>>().join(", ")
}

fn listed(there: &Result<Vec<(usize, String)>, NoCuda>) -> String {
    match there {
        Ok(cards) if cards.is_empty() => format!(": {}", NoCuda::NoCard),
        Ok(cards) => format!(": the devices are {}", names(cards)),
        Err(reason) => format!(": {reason}"),
    }
}

fn used(cards: &[(usize, String)]) -> String {
    match cards.is_empty() {
        true => "only the CPU is used".to_owned(),
        false => format!("the devices in use are {}", names(cards)),
    }
}

impl DeviceError {
    /// What mends it.
    pub fn remedy(&self) -> Option<Remedy> {
        match self {
            Self::NoCuda(_) | Self::OldCard { .. } => Some(Remedy::UseCpu),
            Self::NoSuchCard { .. } | Self::NotInUse { .. } => None,
        }
    }
}

/// A card that is used, and how much of its memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuRoom {
    /// Its number.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// Bytes of its memory.
    pub total: u64,
    /// Bytes of it that are free.
    pub free: u64,
    /// Bytes that quern may allocate.
    pub room: u64,
    /// Whether a limit of the user's decides that, not what is free.
    pub limited: bool,
}

impl GpuRoom {
    /// What may be allocated on `card` under a limit.
    pub fn new(card: &DeviceInfo, limit: Option<u64>) -> Self {
        let free = card.free.saturating_sub(RESERVE);
        Self {
            index: card.index,
            name: card.name.clone(),
            total: card.total,
            free: card.free,
            room: limit.map_or(free, |limit| limit.min(free)),
            limited: limit.is_some_and(|limit| limit < free),
        }
    }
}

/// The cards of this machine in the driver's order, with what is free on each now, counted after quern has made its
/// context there.
///
/// # Errors
/// Why there is none.
pub fn cards() -> Result<Vec<DeviceInfo>, NoCuda> {
    let gpus = match quern_compute::gpus() {
        Ok(gpus) => gpus,
        Err(quern_compute::Error::NoGpuSupport) => return Err(NoCuda::NotBuilt),
        Err(error) => return Err(NoCuda::Unusable(error.to_string())),
    };
    let info = |gpu: quern_compute::Gpu| DeviceInfo {
        index: gpu.index,
        name: gpu.name,
        free: gpu.free,
        total: gpu.total,
        compute_capability: (gpu.capability.0.max(0) as u32, gpu.capability.1.max(0) as u32),
        driver: (gpu.driver.0.max(0) as u32, gpu.driver.1.max(0) as u32),
    };
    Ok(gpus.into_iter().map(info).collect())
}

impl PlacementOptions {
    /// The cards to use of those there are (what [`cards`] gives); none if the CPU computes alone.
    ///
    /// # Errors
    /// A card that was asked for is not there or cannot be used; a limit is on a card that is not used.
    pub fn choose(&self, cards: Result<Vec<DeviceInfo>, NoCuda>) -> Result<Vec<GpuRoom>, DeviceError> {
        let usable = |card: &DeviceInfo| card.compute_capability >= OLDEST_CAPABILITY;
        let named =
            |cards: &[DeviceInfo]| cards.iter().map(|c| (c.index, c.name.clone())).collect::<Vec<_>>();
        let too_old = |card: &DeviceInfo| DeviceError::OldCard {
            index: card.index,
            name: card.name.clone(),
            capability: card.compute_capability,
        };
        let there = cards.as_deref().map(named).map_err(Clone::clone);
        let mut chosen = match self.device {
            DeviceChoice::Cpu => Vec::new(),
            DeviceChoice::Auto if self.gpu_layers == GpuLayers::Last(0) => Vec::new(),
            DeviceChoice::Auto => cards.unwrap_or_default().into_iter().filter(usable).collect(),
            DeviceChoice::Cuda(None) => {
                let all = cards?;
                let Some(first) = all.first() else { return Err(NoCuda::NoCard.into()) };
                let refusal = too_old(first);
                let usable: Vec<_> = all.into_iter().filter(usable).collect();
                if usable.is_empty() {
                    return Err(refusal);
                }
                usable
            }
            DeviceChoice::Cuda(Some(index)) => {
                let card = cards?.into_iter().find(|card| card.index == index);
                let card = card.ok_or_else(|| DeviceError::NoSuchCard { index, there: there.clone() })?;
                if !usable(&card) {
                    return Err(too_old(&card));
                }
                vec![card]
            }
        };
        let limits = &self.memory.cards;
        if let Some(&index) = limits.keys().find(|&&index| chosen.iter().all(|card| card.index != index)) {
            let is_there = there.as_ref().is_ok_and(|cards| cards.iter().any(|card| card.0 == index));
            return Err(match is_there || self.device == DeviceChoice::Cpu {
                true => DeviceError::NotInUse { index, in_use: named(&chosen) },
                false => DeviceError::NoSuchCard { index, there },
            });
        }
        chosen.retain(|card| limits.is_empty() || limits.contains_key(&card.index));
        Ok(chosen.iter().map(|card| GpuRoom::new(card, limits.get(&card.index).copied())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::MemoryLimits;

    const GIB: u64 = 1 << 30;

    fn card(index: usize, name: &str, capability: (u32, u32)) -> DeviceInfo {
        let name = name.to_owned();
        DeviceInfo {
            index,
            name,
            free: 20 * GIB,
            total: 24 * GIB,
            compute_capability: capability,
            driver: (12, 4),
        }
    }

    fn two() -> Result<Vec<DeviceInfo>, NoCuda> {
        Ok(vec![card(0, "H100", (9, 0)), card(1, "P100", (6, 0))])
    }

    fn choose(
        device: DeviceChoice,
        limits: &[(usize, u64)],
        cards: Result<Vec<DeviceInfo>, NoCuda>,
    ) -> Result<Vec<usize>, String> {
        let memory = MemoryLimits { ram: None, cards: limits.iter().copied().collect() };
        let options = PlacementOptions { device, memory, ..PlacementOptions::default() };
        let chosen = options.choose(cards).map_err(|e| e.to_string())?;
        Ok(chosen.iter().map(|gpu| gpu.index).collect())
    }

    #[test]
    fn auto_takes_what_is_there_and_falls_back_to_the_cpu() {
        use DeviceChoice::{Auto, Cpu, Cuda};
        assert_eq!(choose(Auto, &[], two()), Ok(vec![0]));
        assert_eq!(choose(Auto, &[], Err(NoCuda::NoDriver("libcuda.so.1".into()))), Ok(vec![]));
        assert_eq!(choose(Auto, &[], Ok(vec![card(0, "P100", (6, 0))])), Ok(vec![]));
        assert_eq!(choose(Cpu, &[], two()), Ok(vec![]));
        assert_eq!(choose(Cuda(None), &[], two()), Ok(vec![0]));
        assert_eq!(choose(Cuda(Some(0)), &[], two()), Ok(vec![0]));
        let none = PlacementOptions { gpu_layers: GpuLayers::Last(0), ..PlacementOptions::default() };
        assert_eq!(none.choose(two()), Ok(vec![]));
    }

    #[test]
    fn what_was_asked_for_and_is_not_there_is_named() {
        use DeviceChoice::{Auto, Cpu, Cuda};
        let error = |device, limits: &[(usize, u64)], cards| choose(device, limits, cards).unwrap_err();
        let missing = || Err(NoCuda::NoDriver("libcuda.so.1 is not there".into()));
        assert!(error(Cuda(None), &[], missing()).contains("driver is not installed"));
        assert!(error(Cuda(Some(0)), &[], missing()).contains("libcuda.so.1"));
        assert!(error(Cuda(None), &[], Ok(vec![])).contains("finds no card"));
        let old = error(Cuda(Some(1)), &[], two());
        assert_eq!(old, "device 1 (P100) has compute capability 6.0, and quern needs 7.5 or newer");
        assert!(error(Cuda(None), &[], Ok(vec![card(3, "P100", (6, 0))])).starts_with("device 3 (P100)"));
        let absent = error(Cuda(Some(2)), &[], two());
        assert_eq!(absent, "there is no device 2: the devices are 0 (H100), 1 (P100)");
        assert_eq!(
            error(Auto, &[(4, GIB)], two()),
            "there is no device 4: the devices are 0 (H100), 1 (P100)"
        );
        assert!(error(Auto, &[(0, GIB)], missing()).starts_with("there is no device 0: the NVIDIA driver"));
        assert!(error(Cpu, &[(0, GIB)], two()).ends_with("only the CPU is used"));
        assert!(error(Auto, &[(1, GIB)], two()).ends_with("the devices in use are 0 (H100)"));
    }

    #[test]
    fn a_limit_chooses_cards_and_cannot_exceed_what_is_free() {
        let cards = || Ok(vec![card(0, "A", (8, 0)), card(1, "B", (8, 0)), card(2, "C", (8, 0))]);
        assert_eq!(choose(DeviceChoice::Auto, &[(2, GIB), (0, GIB)], cards()), Ok(vec![0, 2]));
        let device = card(0, "A", (8, 0));
        let (free, tight, wide) = (
            GpuRoom::new(&device, None),
            GpuRoom::new(&device, Some(GIB)),
            GpuRoom::new(&device, Some(1 << 40)),
        );
        assert_eq!((free.room, free.limited), (20 * GIB - RESERVE, false));
        assert_eq!((tight.room, tight.limited), (GIB, true));
        assert_eq!((wide.room, wide.limited), (free.room, false));
    }
}
