//! Errors of NVIDIA cards and their driver: one sentence each, with a typed remedy.

use std::fmt;
use std::sync::Arc;

use quern_tensor_io::Remedy;

/// Result of everything that a card is asked to do.
pub type CudaResult<T, E = CudaError> = std::result::Result<T, E>;

/// A version or a compute capability, as `12.4`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// Before the point.
    pub major: i32,
    /// After the point.
    pub minor: i32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Which card an error is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CardName {
    /// The driver's number of the card.
    pub index: usize,
    /// The product's name.
    pub name: Arc<str>,
}

impl fmt::Display for CardName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "card {} ({})", self.index, self.name)
    }
}

/// An error code of the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    /// The number.
    pub value: i32,
    /// The constant's name, as `CUDA_ERROR_INVALID_VALUE`; empty if the driver does not know it.
    pub name: &'static str,
    /// The driver's explanation; empty if it has none.
    pub meaning: &'static str,
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.name, self.meaning) {
            ("", _) => write!(f, "CUDA error {}", self.value),
            (name, "") => f.write_str(name),
            (name, meaning) => write!(f, "{name}: {meaning}"),
        }
    }
}

/// Memory that could not be had: the caller knows what it was for, and adds it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// Memory of a card.
    #[error(
        "{} could not be allocated on {card}: {} of its {} are free",
        amount(*.asked), amount(*.free), amount(*.total)
    )]
    Card {
        /// The card.
        card: CardName,
        /// Bytes asked for.
        asked: u64,
        /// Bytes that were free right after the refusal.
        free: u64,
        /// Bytes that the card has.
        total: u64,
    },
    /// What the driver itself needs on a card, some hundreds of MiB, to begin with.
    #[error("{card} has too little free memory to be used at all")]
    Context {
        /// The card.
        card: CardName,
    },
    /// Page-locked memory of the host.
    #[error("{} of RAM could not be locked for transfers to {card}", amount(*.asked))]
    Pinned {
        /// The card whose driver refused.
        card: CardName,
        /// Bytes asked for.
        asked: u64,
    },
}

/// Bytes in the unit that suits them.
pub(super) fn amount(bytes: u64) -> String {
    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;
    match bytes {
        0..KIB => format!("{bytes} bytes"),
        KIB..MIB => format!("{:.1} KiB", bytes as f64 / KIB as f64),
        MIB..GIB => format!("{:.1} MiB", bytes as f64 / MIB as f64),
        GIB.. => format!("{:.2} GiB", bytes as f64 / GIB as f64),
    }
}

/// What went wrong with a card or its driver.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CudaError {
    /// The driver's library cannot be loaded.
    #[error("no NVIDIA driver was found ({} is missing)", library())]
    NoDriver,
    /// The driver is older than the kernels.
    #[error("the NVIDIA driver supports CUDA {found}, but CUDA {needed} or later is needed")]
    DriverTooOld {
        /// What the driver supports.
        found: Version,
        /// What is needed.
        needed: Version,
    },
    /// There is a driver but no card, or none that this process may use.
    #[error("the NVIDIA driver finds no card")]
    NoCard,
    /// A card of this number does not exist.
    #[error("there is no NVIDIA card {index}: the driver finds {count}, counted from 0")]
    NoSuchCard {
        /// The number asked for.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// The card's architecture is older than the kernels.
    #[error("{card} has compute capability {found}, but {needed} or later is needed")]
    CardTooOld {
        /// The card.
        card: CardName,
        /// What it has.
        found: Version,
        /// What is needed.
        needed: Version,
    },
    /// Another process has the card for itself, or its compute mode admits no process.
    #[error("{card} cannot be used: {}", if *.exclusive { "another process uses it exclusively" }
        else { "its compute mode admits no programs" })]
    Unavailable {
        /// The card.
        card: CardName,
        /// Whether its compute mode is exclusive (otherwise prohibited or unknown).
        exclusive: bool,
    },
    /// The card or this process's context on it failed: nothing can be computed on it any more.
    #[error("{card} stopped working during {call} ({code}); this process can no longer use it")]
    Lost {
        /// The card.
        card: CardName,
        /// The call that reported it.
        call: &'static str,
        /// The code it returned.
        code: Code,
    },
    /// Memory that could not be had.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The driver does not compile the PTX of a module.
    #[error("the driver cannot compile the kernels {module} for {card} ({code}){}", details(.log))]
    Module {
        /// The module's name.
        module: String,
        /// The card.
        card: CardName,
        /// The code returned.
        code: Code,
        /// The compiler's log.
        log: String,
    },
    /// There is no such kernel in this build.
    #[error("this build has no kernel {kernel} in {module} for compute capability {capability}")]
    NoKernel {
        /// The module's name.
        module: String,
        /// The entry point.
        kernel: String,
        /// The card's compute capability.
        capability: Version,
    },
    /// Size of the arguments given to a kernel.
    #[error("kernel {kernel} takes {expected} bytes of arguments, {found} were given")]
    Arguments {
        /// The entry point.
        kernel: String,
        /// Bytes that its parameters take.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// The driver refuses a launch.
    #[error(
        "kernel {kernel} cannot be launched with {grid:?} blocks of {block:?} threads and {shared} bytes of shared memory ({code})"
    )]
    Launch {
        /// The entry point.
        kernel: String,
        /// Blocks.
        grid: [u32; 3],
        /// Threads of a block.
        block: [u32; 3],
        /// Bytes of dynamic shared memory.
        shared: u32,
        /// The code returned.
        code: Code,
    },
    /// A copy leaves its memory.
    #[error("{bytes} bytes from {offset} on do not fit in {size} bytes of memory on {card}")]
    Bounds {
        /// The card.
        card: CardName,
        /// First byte.
        offset: usize,
        /// Bytes to be copied.
        bytes: usize,
        /// Bytes of the allocation.
        size: usize,
    },
    /// A stream, memory or kernel of one card is used with another card's.
    #[error("{what} belongs to {found}, not to {expected}")]
    OtherCard {
        /// What was given.
        what: &'static str,
        /// The card it belongs to.
        found: CardName,
        /// The card it should belong to.
        expected: CardName,
    },
    /// Any other failure.
    #[error("the NVIDIA driver failed in {call} ({code})")]
    Call {
        /// The driver's function.
        call: &'static str,
        /// The code it returned.
        code: Code,
    },
}

/// Name of the driver's library.
fn library() -> &'static str {
    if cfg!(windows) { "nvcuda.dll" } else { "libcuda.so.1" }
}

/// A log as the end of a sentence: its lines in one.
fn details(log: &str) -> String {
    let lines: Vec<&str> = log.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() { String::new() } else { format!(": {}", lines.join("; ")) }
}

impl CudaError {
    /// What mends it.
    pub fn remedy(&self) -> Option<Remedy> {
        match self {
            Self::NoDriver => Some(Remedy::InstallNvidiaDriver),
            Self::DriverTooOld { .. } => Some(Remedy::UpdateNvidiaDriver),
            Self::NoCard
            | Self::CardTooOld { .. }
            | Self::Unavailable { .. }
            | Self::Lost { .. }
            | Self::Memory(MemoryError::Context { .. }) => Some(Remedy::UseCpu),
            Self::Memory(MemoryError::Card { .. }) => Some(Remedy::LessOnCard),
            Self::Memory(MemoryError::Pinned { .. }) => Some(Remedy::FreeMemory),
            Self::Module { .. } => Some(Remedy::UpdateNvidiaDriver),
            Self::NoSuchCard { .. }
            | Self::NoKernel { .. }
            | Self::Arguments { .. }
            | Self::Launch { .. }
            | Self::Bounds { .. }
            | Self::OtherCard { .. }
            | Self::Call { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card() -> CardName {
        CardName { index: 0, name: "NVIDIA H100".into() }
    }

    #[test]
    fn amounts_have_the_unit_that_suits_them() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1536, "1.5 KiB"),
            (5 << 20, "5.0 MiB"),
            ((3 << 30) + (1 << 29), "3.50 GiB"),
        ] {
            assert_eq!(amount(bytes), text);
        }
    }

    #[test]
    fn sentences_name_card_and_amounts() {
        let memory = MemoryError::Card { card: card(), asked: 3 << 30, free: 1 << 30, total: 80 << 30 };
        let error = CudaError::from(memory);
        assert_eq!(
            error.to_string(),
            "3.00 GiB could not be allocated on card 0 (NVIDIA H100): 1.00 GiB of its 80.00 GiB are free"
        );
        assert_eq!(error.remedy(), Some(Remedy::LessOnCard));
        let found = Version { major: 11, minor: 8 };
        let old = CudaError::DriverTooOld { found, needed: super::super::driver::OLDEST };
        assert_eq!(old.to_string(), "the NVIDIA driver supports CUDA 11.8, but CUDA 12.4 or later is needed");
        let code = Code { value: 218, name: "CUDA_ERROR_INVALID_PTX", meaning: "" };
        let log = "ptxas error : one\n\n  two\n".to_owned();
        let module = CudaError::Module { module: "m".into(), card: card(), code, log };
        assert_eq!(
            module.to_string(),
            "the driver cannot compile the kernels m for card 0 (NVIDIA H100) (CUDA_ERROR_INVALID_PTX): ptxas error : one; two"
        );
    }
}
