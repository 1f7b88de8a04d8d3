//! GPUs there are.

use super::Device;
use crate::Result;

/// The largest heads that the kernels of GPUs take, in values; they must be even.
pub const MOST_GPU_HEAD: usize = 256;
/// The most experts of a block that they choose among.
pub const MOST_GPU_EXPERTS: usize = 1024;

/// The most positions that their causal convolutions see.
pub const MOST_GPU_TAPS: usize = 8;
/// The most rows of a state, which are the numbers of a key of a delta net or of `b` of Mamba-2.
pub const MOST_GPU_STATE: usize = 256;
/// The most numbers of a position that their latent attention takes.
pub const MOST_GPU_LATENT: usize = 576;
/// The most numbers of its latent vector.
pub const MOST_GPU_LATENT_RANK: usize = 512;
/// Numbers of queries that it lets take up the keys' matrices at a time, at most.
pub const MOST_GPU_ABSORBED: usize = 16 << 20;

/// A GPU, as its driver describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// The driver's number of it.
    pub index: usize,
    /// The product's name.
    pub name: String,
    /// Compute capability, as `(9, 0)`.
    pub capability: (i32, i32),
    /// Bytes that are free now, other processes' use counted.
    pub free: u64,
    /// Bytes that it has.
    pub total: u64,
    /// CUDA version that the driver supports, as `(12, 4)`.
    pub driver: (i32, i32),
}

/// The GPUs that can be used.
///
/// # Errors
/// [`Error::Cuda`](crate::Error::Cuda): no driver, one that is too old, no card; or this program was built without
/// support for GPUs.
pub fn gpus() -> Result<Vec<Gpu>> {
    #[cfg(feature = "cuda")]
    {
        use crate::cuda::{Card, OLDEST_CAPABILITY, cards};
        let usable = cards()?.into_iter().filter(|info| info.capability >= OLDEST_CAPABILITY);
        usable
            .map(|info| {
                let (free, total) = Card::open(info.index)?.free_and_total()?;
                let capability = (info.capability.major, info.capability.minor);
                let driver = (info.driver.major, info.driver.minor);
                Ok(Gpu { index: info.index, name: info.name.to_string(), capability, free, total, driver })
            })
            .collect()
    }
    #[cfg(not(feature = "cuda"))]
    Err(crate::Error::NoGpuSupport)
}

impl Device {
    /// GPU `index`.
    ///
    /// # Errors
    /// As [`gpus`]; no such GPU, or it cannot be used.
    pub fn gpu(index: usize) -> Result<Self> {
        #[cfg(feature = "cuda")]
        return Ok(Self::Cuda(crate::cuda::Card::open(index)?));
        #[cfg(not(feature = "cuda"))]
        {
            let _ = index;
            Err(crate::Error::NoGpuSupport)
        }
    }

    /// Whether it is a GPU.
    pub fn is_gpu(&self) -> bool {
        match self {
            Self::Cpu(_) => false,
            #[cfg(feature = "cuda")]
            Self::Cuda(_) => true,
        }
    }

    /// The driver's number of it; `None` for the CPU.
    pub fn gpu_index(&self) -> Option<usize> {
        match self {
            Self::Cpu(_) => None,
            #[cfg(feature = "cuda")]
            Self::Cuda(card) => Some(card.info().index),
        }
    }

    /// The product's name; `None` for the CPU.
    pub fn gpu_name(&self) -> Option<&str> {
        match self {
            Self::Cpu(_) => None,
            #[cfg(feature = "cuda")]
            Self::Cuda(card) => Some(&card.info().name),
        }
    }

    /// Bytes a second that its memory delivers, measured now with a copy of some hundred MiB within it, which takes a
    /// tenth of a second: bytes read plus bytes written. `None` for the CPU, and where the driver takes no times.
    ///
    /// # Errors
    /// [`Error::Cuda`](crate::Error::Cuda) if it has no memory left for that, or is lost.
    pub fn bandwidth(&self) -> Result<Option<f64>> {
        match self {
            Self::Cpu(_) => Ok(None),
            #[cfg(feature = "cuda")]
            Self::Cuda(card) => Ok(card.bandwidth()?),
        }
    }

    /// Bytes allocated by this process on it now and at most so far; `None` for the CPU.
    pub fn memory_use(&self) -> Option<(u64, u64)> {
        match self {
            Self::Cpu(_) => None,
            #[cfg(feature = "cuda")]
            Self::Cuda(card) => {
                let used = card.memory_use();
                Some((used.current, used.peak))
            }
        }
    }

    /// Bytes free on it now and in all; `None` for the CPU.
    ///
    /// # Errors
    /// [`Error::Cuda`](crate::Error::Cuda) if it is lost.
    pub fn free_and_total(&self) -> Result<Option<(u64, u64)>> {
        match self {
            Self::Cpu(_) => Ok(None),
            #[cfg(feature = "cuda")]
            Self::Cuda(card) => Ok(Some(card.free_and_total()?)),
        }
    }
}
