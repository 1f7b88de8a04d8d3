//! The cache of keys and values of all positions so far, on one device. Its layout is the device's own.

use super::{Device, cpu};
#[cfg(feature = "cuda")]
use crate::Error;
use crate::Result;
#[cfg(feature = "cuda")]
use crate::cuda;

/// How keys and values are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum KvType {
    /// 16-bit floats: half the memory, and what llama.cpp does. Moves logits by some 1e-4 of their size.
    #[default]
    F16,
    /// 32-bit floats, for comparison with references computed in float32.
    F32,
    /// Blocks of 32 numbers along a head with 8-bit codes and one scale: 17/32 of f16's memory. Moves
    /// logits by some 1e-2 of their size, perplexity by less than 0.1 %.
    Q8_0,
}

impl KvType {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::F16, Self::Q8_0, Self::F32];

    /// The name that `--kv` takes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::F32 => "f32",
            Self::Q8_0 => "q8_0",
        }
    }

    /// The one of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kv| kv.name() == name)
    }
}

/// Size of a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheShape {
    /// Layers it is for.
    pub layers: usize,
    /// Key and value heads of each.
    pub kv_heads: usize,
    /// Values in a head.
    pub head_dim: usize,
    /// Positions there is room for.
    pub context: usize,
    /// How numbers are stored.
    pub kv: KvType,
    /// There are no values: they are made of the keys (latent attention).
    pub keys_only: bool,
}

impl CacheShape {
    /// Bytes of keys and values together that one position takes in all layers; the largest number if that is more.
    pub fn position_bytes(&self) -> usize {
        let both = if self.keys_only { 1 } else { 2 };
        let numbers = both * self.layers * self.kv_heads * cpu::row(self.kv, self.head_dim);
        cpu::bytes(self.kv, numbers).unwrap_or(usize::MAX)
    }
}

/// A cache.
#[derive(Debug)]
pub struct KvCache {
    half: Half,
}

#[derive(Debug)]
enum Half {
    Cpu(cpu::Cache),
    #[cfg(feature = "cuda")]
    Cuda(cuda::Cache),
}

impl KvCache {
    /// A cache on `device`.
    ///
    /// # Errors
    /// [`Error::CacheMemory`] if the system cannot allocate it; [`Error::Cuda`] if the GPU cannot.
    pub fn new(device: &Device, shape: CacheShape) -> Result<Self> {
        let half = match device {
            Device::Cpu(_) => Half::Cpu(cpu::Cache::new(shape)?),
            #[cfg(feature = "cuda")]
            Device::Cuda(card) => Half::Cuda(cuda::Cache::new(card, shape)?),
        };
        Ok(Self { half })
    }

    /// Makes all of it resident: what is counted cannot grow.
    pub fn touch(&mut self) {
        match &mut self.half {
            Half::Cpu(cache) => cache.touch(),
            #[cfg(feature = "cuda")]
            Half::Cuda(_) => {}
        }
    }

    pub(super) fn cpu(&mut self) -> Result<&mut cpu::Cache> {
        match &mut self.half {
            Half::Cpu(cache) => Ok(cache),
            #[cfg(feature = "cuda")]
            Half::Cuda(_) => Err(Error::Device),
        }
    }

    #[cfg(feature = "cuda")]
    pub(crate) fn cuda(&mut self) -> Result<&mut cuda::Cache> {
        match &mut self.half {
            Half::Cpu(_) => Err(Error::Device),
            Half::Cuda(cache) => Ok(cache),
        }
    }
}
