//! Moves parameters to the device that computes with them.

use std::sync::Arc;

use super::{Device, Executor, Linear, Norm, Permutation, Vector};
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::{Pool, Result};

/// Moves parameters from RAM to one device. On the CPU they stay where they are.
#[derive(Debug)]
pub struct Uploader {
    half: Half,
    pool: Arc<Pool>,
}

#[derive(Debug)]
enum Half {
    Cpu,
    #[cfg(feature = "cuda")]
    Cuda(Box<cuda::Loader>),
}

impl Uploader {
    /// For `device`; what is read is read by the threads of `pool`.
    ///
    /// # Errors
    /// [`Error::Cuda`](crate::Error::Cuda) if there is no memory for the transfers.
    pub fn new(device: &Device, pool: &Arc<Pool>) -> Result<Self> {
        let half = match device {
            Device::Cpu(_) => Half::Cpu,
            #[cfg(feature = "cuda")]
            Device::Cuda(card) => Half::Cuda(Box::new(cuda::Loader::new(card, pool)?)),
        };
        Ok(Self { half, pool: pool.clone() })
    }

    /// The threads that prepare what is moved.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Allocates memory for the parameters that follow, `bytes` in all, each rounded as [`bytes_of_linear`] and
    /// [`bytes_of_norm`] say.
    ///
    /// # Errors
    /// [`Error::Cuda`](crate::Error::Cuda) with the amounts if the GPU has too little memory.
    pub fn begin(&mut self, bytes: usize) -> Result<()> {
        match &mut self.half {
            Half::Cpu => {
                let _ = bytes;
                Ok(())
            }
            #[cfg(feature = "cuda")]
            Half::Cuda(loader) => loader.begin(bytes),
        }
    }

    /// Memory on the device for parameters that come and go ([`Uploader::begin_in`]).
    ///
    /// # Errors
    /// [`Error::Cuda`](crate::Error::Cuda) with the amounts if the GPU has too little memory.
    pub fn room(&self, bytes: usize) -> Result<Room> {
        match &self.half {
            Half::Cpu => {
                let _ = bytes;
                Ok(Room::default())
            }
            #[cfg(feature = "cuda")]
            Half::Cuda(loader) => {
                let memory = Arc::new(cuda::Memory::new(loader.card(), bytes)?);
                Ok(Room { place: Some((memory, cuda::Event::new(loader.card())?)) })
            }
        }
    }

    /// Puts the parameters that follow into `room`, in place of those it held, once what used them is done
    /// ([`Room::used_by`]).
    ///
    /// # Errors
    /// [`Error::Cuda`](crate::Error::Cuda) if the GPU is lost.
    pub fn begin_in(&mut self, room: &Room) -> Result<()> {
        match &mut self.half {
            Half::Cpu => {
                let _ = room;
                Ok(())
            }
            #[cfg(feature = "cuda")]
            Half::Cuda(loader) => {
                let (memory, used) = room.place.as_ref().ok_or(crate::Error::Device)?;
                loader.begin_in(memory, used)
            }
        }
    }

    /// Lets what `executor` does from now on wait for the parameters that were moved before.
    ///
    /// # Errors
    /// [`Error::Cuda`](crate::Error::Cuda) if the GPU is lost.
    pub fn before(&mut self, executor: &Executor) -> Result<()> {
        match &mut self.half {
            Half::Cpu => {
                let _ = executor;
                Ok(())
            }
            #[cfg(feature = "cuda")]
            Half::Cuda(loader) => executor.cuda_half()?.wait(loader.arrived()?),
        }
    }

    /// This layer on the device.
    ///
    /// # Errors
    /// [`Error::Cuda`](crate::Error::Cuda) if the GPU has no memory for it.
    pub fn linear(&mut self, linear: &Linear) -> Result<Linear> {
        match &mut self.half {
            Half::Cpu => Ok(linear.clone()),
            #[cfg(feature = "cuda")]
            Half::Cuda(loader) => linear.upload(loader),
        }
    }

    /// Layers that are alike, without order of columns, in one matrix; their biases, if they have any, in one vector.
    pub(super) fn stack_alike(&mut self, linears: &[&Linear]) -> Result<Vec<Linear>> {
        match &mut self.half {
            Half::Cpu => Ok(linears.iter().map(|&linear| linear.clone()).collect()),
            #[cfg(feature = "cuda")]
            Half::Cuda(loader) => {
                let matrices = linears.iter().map(|l| l.weight.matrix()).collect::<Result<Vec<_>>>()?;
                let moved = loader.stack(&matrices)?;
                let biases = linears.iter().filter_map(|l| l.bias.as_ref()).map(Vector::host);
                let biases = loader.stack_floats(&biases.collect::<Result<Vec<_>>>()?)?;
                let mut biases = biases.into_iter().map(Vector::Cuda);
                let linear = |(matrix, l): (cuda::Matrix, &&Linear)| Linear {
                    weight: l.weight.moved(matrix),
                    bias: l.bias.as_ref().and_then(|_| biases.next()),
                    permutation: None,
                };
                Ok(moved.into_iter().zip(linears).map(linear).collect())
            }
        }
    }

    /// This norm on the device.
    ///
    /// # Errors
    /// As [`Uploader::linear`].
    pub fn norm(&mut self, norm: &Norm) -> Result<Norm> {
        match &mut self.half {
            Half::Cpu => Ok(norm.clone()),
            #[cfg(feature = "cuda")]
            Half::Cuda(loader) => norm.upload(loader),
        }
    }

    /// This vector on the device.
    ///
    /// # Errors
    /// As [`Uploader::linear`].
    pub fn vector(&mut self, vector: &Vector) -> Result<Vector> {
        match &mut self.half {
            Half::Cpu => Ok(vector.clone()),
            #[cfg(feature = "cuda")]
            Half::Cuda(loader) => vector.upload(loader),
        }
    }

    /// This order on the device.
    ///
    /// # Errors
    /// As [`Uploader::linear`].
    pub fn order(&mut self, order: &Permutation) -> Result<Permutation> {
        match &mut self.half {
            Half::Cpu => Ok(order.clone()),
            #[cfg(feature = "cuda")]
            Half::Cuda(loader) => order.upload(loader),
        }
    }

    /// Waits until everything has arrived.
    ///
    /// # Errors
    /// [`Error::Cuda`](crate::Error::Cuda) if the GPU is lost.
    pub fn finish(&mut self) -> Result<()> {
        match &mut self.half {
            Half::Cpu => Ok(()),
            #[cfg(feature = "cuda")]
            Half::Cuda(loader) => loader.finish(),
        }
    }
}

/// Memory for parameters that come and go.
#[derive(Debug, Default)]
pub struct Room {
    /// With an event behind the last work that used it.
    #[cfg(feature = "cuda")]
    place: Option<(Arc<cuda::Memory>, cuda::Event)>,
}

impl Room {
    /// All that uses the parameters in it was given to `executor`.
    ///
    /// # Errors
    /// [`Error::Cuda`](crate::Error::Cuda) if the GPU is lost.
    pub fn used_by(&self, executor: &Executor) -> Result<()> {
        #[cfg(feature = "cuda")]
        if let Some((_, used)) = &self.place {
            return executor.cuda_half()?.record(used);
        }
        let _ = executor;
        Ok(())
    }
}

/// Bytes that a vector of `length` numbers takes on a GPU.
pub fn bytes_of_vector(length: usize) -> usize {
    rounded(4 * length)
}

fn rounded(bytes: usize) -> usize {
    #[cfg(feature = "cuda")]
    return cuda::Loader::rounded(bytes);
    #[cfg(not(feature = "cuda"))]
    bytes
}

/// Bytes that a layer takes on a GPU.
pub fn bytes_of_linear(linear: &Linear) -> usize {
    let weight = &linear.weight;
    let matrix = bytes_of_matrix(weight.device_type(), weight.rows(), weight.columns());
    let order = linear.permutation.as_ref().map_or(0, |_| bytes_of_vector(weight.columns()));
    matrix + order + linear.bias.as_ref().map_or(0, |bias| bytes_of_vector(bias.len()))
}

/// Bytes that a norm takes on a GPU.
pub fn bytes_of_norm(norm: &Norm) -> usize {
    bytes_of_vector(norm.weight.len()) + norm.bias.as_ref().map_or(0, |bias| bytes_of_vector(bias.len()))
}

/// Bytes that a matrix takes on a GPU.
pub fn bytes_of_matrix(element_type: quern_tensor_io::ElementType, rows: usize, columns: usize) -> usize {
    #[cfg(feature = "cuda")]
    return rounded(cuda::Matrix::bytes_of(element_type, rows, columns));
    #[cfg(not(feature = "cuda"))]
    rounded(element_type.row_bytes(columns).unwrap_or(0) * rows)
}
