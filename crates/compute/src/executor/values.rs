//! Vectors between operations: f32, `[tokens][width]`, in the memory of one device.

use std::ops::Range;

use super::Device;
#[cfg(feature = "cuda")]
use crate::Error;
use crate::Result;
#[cfg(feature = "cuda")]
use crate::cuda;

/// Memory for vectors on one device. Grows only.
#[derive(Debug)]
pub enum Buffer {
    /// In RAM.
    Host(Vec<f32>),
    /// In a GPU's memory.
    #[cfg(feature = "cuda")]
    Cuda(cuda::Buffer),
}

impl Buffer {
    /// An empty one.
    pub fn new(device: &Device) -> Self {
        match device {
            Device::Cpu(_) => Self::Host(Vec::new()),
            #[cfg(feature = "cuda")]
            Device::Cuda(card) => Self::Cuda(cuda::Buffer::empty(card)),
        }
    }

    /// Makes room for `length` values. What it held may be lost.
    ///
    /// # Errors
    /// [`Error::Cuda`] if the GPU has no memory for it.
    pub fn reserve(&mut self, length: usize) -> Result<()> {
        match self {
            Self::Host(values) => {
                if values.len() < length {
                    // Not resized: this memory is zero without being written.
                    *values = vec![0.0; length];
                }
                Ok(())
            }
            #[cfg(feature = "cuda")]
            Self::Cuda(buffer) => buffer.reserve(length),
        }
    }

    /// How many values it has room for.
    pub fn len(&self) -> usize {
        self.all().len()
    }

    /// Whether it has room for none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first `length` values.
    ///
    /// # Panics
    /// If it has fewer.
    pub fn front(&self, length: usize) -> Values<'_> {
        self.all().slice(0..length)
    }

    /// The first `length` values, to be written.
    ///
    /// # Panics
    /// If it has fewer.
    pub fn front_mut(&mut self, length: usize) -> ValuesMut<'_> {
        match self {
            Self::Host(values) => ValuesMut::Host(&mut values[..length]),
            #[cfg(feature = "cuda")]
            Self::Cuda(buffer) => ValuesMut::Cuda(buffer.values().slice(0..length)),
        }
    }

    fn all(&self) -> Values<'_> {
        match self {
            Self::Host(values) => Values::Host(values),
            #[cfg(feature = "cuda")]
            Self::Cuda(buffer) => Values::Cuda(buffer.values()),
        }
    }
}

/// Vectors to be read.
#[derive(Clone, Copy, Debug)]
pub enum Values<'a> {
    /// In RAM.
    Host(&'a [f32]),
    /// In a GPU's memory.
    #[cfg(feature = "cuda")]
    Cuda(cuda::Values<'a>),
}

/// Vectors to be written.
#[derive(Debug)]
pub enum ValuesMut<'a> {
    /// In RAM.
    Host(&'a mut [f32]),
    /// In a GPU's memory.
    #[cfg(feature = "cuda")]
    Cuda(cuda::Values<'a>),
}

impl<'a> From<&'a [f32]> for Values<'a> {
    fn from(values: &'a [f32]) -> Self {
        Self::Host(values)
    }
}

impl<'a> Values<'a> {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Host(values) => values.len(),
            #[cfg(feature = "cuda")]
            Self::Cuda(values) => values.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Some of them.
    ///
    /// # Panics
    /// If the range ends beyond them.
    pub fn slice(self, range: Range<usize>) -> Self {
        match self {
            Self::Host(values) => Self::Host(&values[range]),
            #[cfg(feature = "cuda")]
            Self::Cuda(values) => Self::Cuda(values.slice(range)),
        }
    }

    /// The values in RAM.
    ///
    /// # Errors
    /// [`Error::Device`] if they are on a GPU.
    pub fn host(self) -> Result<&'a [f32]> {
        match self {
            Self::Host(values) => Ok(values),
            #[cfg(feature = "cuda")]
            Self::Cuda(_) => Err(Error::Device),
        }
    }

    /// The values on a GPU.
    #[cfg(feature = "cuda")]
    pub(crate) fn cuda(self) -> Result<cuda::Values<'a>> {
        match self {
            Self::Host(_) => Err(Error::Device),
            Self::Cuda(values) => Ok(values),
        }
    }
}

impl<'a> ValuesMut<'a> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.as_values().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same, for a shorter time.
    pub fn reborrow(&mut self) -> ValuesMut<'_> {
        match self {
            Self::Host(values) => ValuesMut::Host(values),
            #[cfg(feature = "cuda")]
            Self::Cuda(values) => ValuesMut::Cuda(*values),
        }
    }

    /// The same, to be read.
    pub fn as_values(&self) -> Values<'_> {
        match self {
            Self::Host(values) => Values::Host(values),
            #[cfg(feature = "cuda")]
            Self::Cuda(values) => Values::Cuda(*values),
        }
    }

    /// Some of them.
    ///
    /// # Panics
    /// If the range ends beyond them.
    pub fn slice(self, range: Range<usize>) -> Self {
        match self {
            Self::Host(values) => Self::Host(&mut values[range]),
            #[cfg(feature = "cuda")]
            Self::Cuda(values) => Self::Cuda(values.slice(range)),
        }
    }

    /// Those before `at`, and the others.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn split_at(self, at: usize) -> (Self, Self) {
        match self {
            Self::Host(values) => {
                let (front, back) = values.split_at_mut(at);
                (Self::Host(front), Self::Host(back))
            }
            #[cfg(feature = "cuda")]
            Self::Cuda(values) => {
                (Self::Cuda(values.slice(0..at)), Self::Cuda(values.slice(at..values.len())))
            }
        }
    }

    /// The values in RAM.
    ///
    /// # Errors
    /// [`Error::Device`] if they are on a GPU.
    pub fn host(self) -> Result<&'a mut [f32]> {
        match self {
            Self::Host(values) => Ok(values),
            #[cfg(feature = "cuda")]
            Self::Cuda(_) => Err(Error::Device),
        }
    }

    /// The values on a GPU.
    #[cfg(feature = "cuda")]
    pub(crate) fn cuda(self) -> Result<cuda::Values<'a>> {
        match self {
            Self::Host(_) => Err(Error::Device),
            Self::Cuda(values) => Ok(values),
        }
    }
}
