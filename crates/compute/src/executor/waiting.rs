//! Vectors that wait in RAM while a device computes with others.

use std::ops::Range;

use super::{Device, Executor, Half, Values, ValuesMut};
use crate::Result;
#[cfg(feature = "cuda")]
use crate::cuda;

/// f32 vectors in RAM: for a GPU in page-locked memory, so that copies take the whole rate of the bus and are queued.
#[derive(Debug)]
pub struct Waiting {
    half: WaitingHalf,
}

#[derive(Debug)]
enum WaitingHalf {
    Cpu(Vec<f32>),
    #[cfg(feature = "cuda")]
    Cuda(cuda::Waiting),
}

impl Waiting {
    /// `length` zeros for this device.
    ///
    /// # Errors
    /// [`Error::Cuda`](crate::Error::Cuda) if the system cannot lock so much memory.
    pub fn new(device: &Device, length: usize) -> Result<Self> {
        let half = match device {
            Device::Cpu(_) => WaitingHalf::Cpu(vec![0.0; length]),
            #[cfg(feature = "cuda")]
            Device::Cuda(card) => WaitingHalf::Cuda(cuda::Waiting::new(card, length)?),
        };
        Ok(Self { half })
    }

    /// The vectors; what was queued for them is waited for.
    ///
    /// # Errors
    /// [`Error::Cuda`](crate::Error::Cuda) if the GPU is lost.
    pub fn values(&self) -> Result<&[f32]> {
        match &self.half {
            WaitingHalf::Cpu(values) => Ok(values),
            #[cfg(feature = "cuda")]
            WaitingHalf::Cuda(waiting) => waiting.values(),
        }
    }

    /// The vectors, to be written; what was queued for them is waited for.
    ///
    /// # Errors
    /// As [`Waiting::values`].
    pub fn values_mut(&mut self) -> Result<&mut [f32]> {
        match &mut self.half {
            WaitingHalf::Cpu(values) => Ok(values),
            #[cfg(feature = "cuda")]
            WaitingHalf::Cuda(waiting) => waiting.values_mut(),
        }
    }
}

impl Executor {
    /// Brings some of the vectors to the device. On a GPU the copy is queued.
    ///
    /// # Errors
    /// Lengths and devices that do not fit; [`Error::Cuda`](crate::Error::Cuda) if the GPU is lost.
    pub fn bring(&mut self, from: &Waiting, range: Range<usize>, to: ValuesMut<'_>) -> Result<()> {
        match (&mut self.half, &from.half) {
            (Half::Cpu(cpu), WaitingHalf::Cpu(values)) => cpu.upload(&values[range], to),
            #[cfg(feature = "cuda")]
            (Half::Cuda(cuda), WaitingHalf::Cuda(waiting)) => cuda.bring(waiting, range, to),
            #[cfg(feature = "cuda")]
            (Half::Cpu(_), WaitingHalf::Cuda(_)) | (Half::Cuda(_), WaitingHalf::Cpu(_)) => {
                Err(crate::Error::Device)
            }
        }
    }

    /// Takes vectors back. On a GPU the copy is queued.
    ///
    /// # Errors
    /// As [`Executor::bring`].
    pub fn take_back(&mut self, from: Values<'_>, to: &mut Waiting, range: Range<usize>) -> Result<()> {
        match (&mut self.half, &mut to.half) {
            (Half::Cpu(cpu), WaitingHalf::Cpu(values)) => cpu.download(from, &mut values[range]),
            #[cfg(feature = "cuda")]
            (Half::Cuda(cuda), WaitingHalf::Cuda(waiting)) => cuda.take_back(from, waiting, range),
            #[cfg(feature = "cuda")]
            (Half::Cpu(_), WaitingHalf::Cuda(_)) | (Half::Cuda(_), WaitingHalf::Cpu(_)) => {
                Err(crate::Error::Device)
            }
        }
    }
}
