//! The operations of a forward pass on one device: the CPU's threads or an NVIDIA GPU.
//!
//! An [`Executor`] has the same few coarse operations wherever it computes: a group of linear layers with the norm in
//! front of it and what is done with its results, a norm, attention with rotation and storage of keys and values, the
//! steps of a mixture of experts. Weights ([`Linear`], [`Norm`]), vectors ([`Buffer`], [`Values`]) and the
//! [`KvCache`] belong to the device they were made for; an operation whose arguments are elsewhere fails with
//! [`Error::Device`](crate::Error::Device).
//!
//! ```text
//! executor/cpu     the CPU's half: the kernels of this crate, on a pool of threads
//! cuda             the GPU's half: launches of the kernels in `kernels/`
//! ```

mod cache;
mod cpu;
mod gpu;
mod gradients;
pub mod mixers;
mod mixture;
mod operations;
mod replay;
mod routing;
mod sums;
mod upload;
mod values;
mod waiting;
mod weight;

use std::sync::Arc;

#[cfg(feature = "cuda")]
use crate::cuda;
use crate::ops::Xielu;
use crate::{Pool, Result};

pub use cache::{CacheShape, KvCache, KvType};
pub use gpu::{
    Gpu, MOST_GPU_ABSORBED, MOST_GPU_EXPERTS, MOST_GPU_HEAD, MOST_GPU_LATENT, MOST_GPU_LATENT_RANK,
    MOST_GPU_STATE, MOST_GPU_TAPS, gpus,
};
pub use gradients::{Columns, Recorded, Turn};
pub use mixture::{ExpertLayers, ExpertStacks, Mixture, Rows, bytes_of_stack};
pub use operations::{
    Attend, AttendLatent, Choice, ChoosePositions, Heads, Input, LatentMatrices, Output, Rotate,
    RowLikelihood,
};
pub use replay::{Mode, PassKey};
pub use routing::{GroupRank, Groups, Routing, Scores};
pub use upload::{Room, Uploader, bytes_of_linear, bytes_of_matrix, bytes_of_norm, bytes_of_vector};
pub use values::{Buffer, Values, ValuesMut};
pub use waiting::Waiting;
pub use weight::{Bytes, Linear, Norm, NormKind, Permutation, Vector, Weight};

/// Where operations run.
#[derive(Clone, Debug)]
pub enum Device {
    /// On the CPU, with these threads.
    Cpu(Arc<Pool>),
    /// On a GPU.
    #[cfg(feature = "cuda")]
    Cuda(cuda::Card),
}

/// Runs operations on one device, with the memory they need from call to call.
#[derive(Debug)]
pub struct Executor {
    device: Device,
    half: Half,
}

#[derive(Debug)]
enum Half {
    Cpu(Box<cpu::Executor>),
    #[cfg(feature = "cuda")]
    Cuda(Box<cuda::Executor>),
}

impl Executor {
    /// An executor for `device`.
    ///
    /// # Errors
    /// [`Error::Cuda`](crate::Error::Cuda) if the GPU cannot be used.
    pub fn new(device: &Device) -> Result<Self> {
        let half = match device {
            Device::Cpu(pool) => Half::Cpu(Box::new(cpu::Executor::new(pool))),
            #[cfg(feature = "cuda")]
            Device::Cuda(card) => Half::Cuda(Box::new(cuda::Executor::new(card)?)),
        };
        Ok(Self { device: device.clone(), half })
    }

    /// Where it computes.
    pub fn device(&self) -> Device {
        self.device.clone()
    }

    /// The CPU's threads, if it computes with them.
    pub fn pool(&self) -> Option<&Pool> {
        match &self.half {
            Half::Cpu(cpu) => Some(cpu.pool()),
            #[cfg(feature = "cuda")]
            Half::Cuda(_) => None,
        }
    }

    /// Whether queries, keys and values are best computed into one memory ([`Output::Join`], [`Heads::Joined`]).
    pub fn joins_heads(&self) -> bool {
        self.pool().is_none()
    }

    /// An event behind all that was queued so far; `None` on the CPU, where all is done.
    ///
    /// # Errors
    /// [`Error::Cuda`](crate::Error::Cuda) if the GPU is lost.
    #[cfg(feature = "cuda")]
    pub fn event(&self) -> Result<Option<cuda::Event>> {
        match &self.half {
            Half::Cpu(_) => Ok(None),
            Half::Cuda(cuda) => cuda.event().map(Some),
        }
    }

    /// The GPU's half.
    #[cfg(feature = "cuda")]
    pub(crate) fn cuda_half(&self) -> Result<&cuda::Executor> {
        match &self.half {
            Half::Cpu(_) => Err(crate::Error::Device),
            Half::Cuda(cuda) => Ok(cuda),
        }
    }
}

impl Executor {
    /// Begins a pass at this position. Passes of one token are recorded on a GPU, and replayed when the same comes again.
    ///
    /// # Errors
    /// [`Error::Cuda`](crate::Error::Cuda) if the GPU is lost.
    pub fn begin(&mut self, key: PassKey) -> Result<Mode> {
        match &mut self.half {
            Half::Cpu(_) => {
                let _ = key;
                Ok(Mode::Run)
            }
            #[cfg(feature = "cuda")]
            Half::Cuda(cuda) => cuda.begin(key),
        }
    }

    /// Ends the pass: everything is computed, and `result` is copied to RAM where it is wanted there.
    ///
    /// # Errors
    /// As [`Executor::begin`].
    pub fn end(&mut self, result: Option<(Values<'_>, &mut [f32])>) -> Result<()> {
        match &mut self.half {
            Half::Cpu(cpu) => match result {
                Some((from, to)) => cpu.download(from, to),
                None => Ok(()),
            },
            #[cfg(feature = "cuda")]
            Half::Cuda(cuda) => cuda.end(result),
        }
    }
}

/// Passes an operation to the half that computes.
macro_rules! dispatch {
    ($executor:expr, $half:ident => $call:expr) => {
        match &mut $executor.half {
            Half::Cpu($half) => $call,
            #[cfg(feature = "cuda")]
            Half::Cuda($half) => $call,
        }
    };
}

impl Executor {
    /// Linear layers over the same input, which may first be normalized; `output` says what is done with what they
    /// compute.
    ///
    /// # Errors
    /// Lengths and devices that do not fit.
    pub fn linear<const N: usize>(
        &mut self,
        linears: [&Linear; N],
        input: Input<'_>,
        output: Output<'_, N>,
    ) -> Result<()> {
        dispatch!(self, half => half.linear(linears, input, output))
    }

    /// `out = norm(x)`, row by row.
    ///
    /// # Errors
    /// Lengths and devices that do not fit.
    pub fn norm(&mut self, norm: &Norm, x: Values<'_>, out: ValuesMut<'_>) -> Result<()> {
        dispatch!(self, half => half.norm(norm, x, out))
    }

    /// `x = norm(x)`, row by row.
    ///
    /// # Errors
    /// As [`Executor::norm`].
    pub fn norm_in_place(&mut self, norm: &Norm, x: ValuesMut<'_>) -> Result<()> {
        dispatch!(self, half => half.norm_in_place(norm, x))
    }

    /// `x += y`.
    ///
    /// # Errors
    /// As [`Executor::norm`].
    pub fn add(&mut self, x: ValuesMut<'_>, y: Values<'_>) -> Result<()> {
        dispatch!(self, half => half.add(x, y))
    }

    /// `x += norm(y)`, row by row; `y` may be overwritten.
    ///
    /// # Errors
    /// As [`Executor::norm`].
    pub fn add_normed(&mut self, x: ValuesMut<'_>, norm: &Norm, y: ValuesMut<'_>) -> Result<()> {
        dispatch!(self, half => half.add_normed(x, norm, y))
    }

    /// `to = from`, both on this device.
    ///
    /// # Errors
    /// As [`Executor::norm`].
    pub fn copy(&mut self, from: Values<'_>, to: ValuesMut<'_>) -> Result<()> {
        dispatch!(self, half => half.copy(from, to))
    }

    /// `x = c tanh(x / c)`, for rows of `width` values.
    ///
    /// # Errors
    /// As [`Executor::norm`].
    pub fn softcap(&mut self, x: ValuesMut<'_>, width: usize, cap: f32) -> Result<()> {
        dispatch!(self, half => half.softcap(x, width, cap))
    }

    /// `x = xielu(x)`, for rows of `width` values.
    ///
    /// # Errors
    /// As [`Executor::norm`].
    pub fn xielu(&mut self, x: ValuesMut<'_>, width: usize, function: Xielu) -> Result<()> {
        dispatch!(self, half => half.xielu(x, width, function))
    }

    /// Normalizes heads, rotates queries and keys, stores keys and values, and attends.
    ///
    /// # Errors
    /// Lengths and devices that do not fit, a cache too short.
    pub fn attend(&mut self, cache: &mut KvCache, attend: Attend<'_>) -> Result<()> {
        dispatch!(self, half => half.attend(cache, attend))
    }

    /// Rotates the last numbers of queries and of what is cached, stores latent vectors, and attends over them.
    ///
    /// # Errors
    /// Lengths and devices that do not fit, a cache too short.
    pub fn attend_latent(&mut self, cache: &mut KvCache, attend: AttendLatent<'_>) -> Result<()> {
        dispatch!(self, half => half.attend_latent(cache, attend))
    }

    /// Rotates the first numbers of an indexer's queries and keys, stores the keys, and chooses the positions that each
    /// token's attention reads.
    ///
    /// # Errors
    /// Lengths that do not fit, a cache too short; [`Error::Device`](crate::Error::Device) on a GPU.
    pub fn choose_positions(&mut self, cache: &mut KvCache, choose: ChoosePositions<'_>) -> Result<()> {
        match &mut self.half {
            Half::Cpu(cpu) => cpu.choose_positions(cache, choose),
            #[cfg(feature = "cuda")]
            Half::Cuda(_) => Err(crate::Error::Device),
        }
    }

    /// Chooses experts for each row of the router's outputs, which are overwritten: for each expert the tokens that chose
    /// it, in their order. `bias`, one number for each expert, is added to scores for the choice, not to shares. Waits for
    /// the result.
    ///
    /// # Errors
    /// As [`Executor::norm`]; on a GPU more than [`MOST_GPU_EXPERTS`] experts.
    pub fn route(
        &mut self,
        logits: ValuesMut<'_>,
        routing: Routing,
        bias: Option<&Vector>,
    ) -> Result<Vec<Vec<Choice>>> {
        dispatch!(self, half => half.route(logits, routing, bias))
    }

    /// Copies the rows of `x` that these tokens have, each of `width` values and, if it is `scaled`, multiplied with its
    /// share.
    ///
    /// # Errors
    /// As [`Executor::norm`]; a token that `x` does not have.
    pub fn gather(
        &mut self,
        x: Values<'_>,
        width: usize,
        (choices, scaled): (&[Choice], bool),
        out: ValuesMut<'_>,
    ) -> Result<()> {
        dispatch!(self, half => half.gather(x, width, (choices, scaled), out))
    }

    /// Multiplies each row of `x`, of `width` values, with the sigmoid of its gate.
    ///
    /// # Errors
    /// As [`Executor::norm`].
    pub fn gate_rows(&mut self, x: ValuesMut<'_>, width: usize, gates: Values<'_>) -> Result<()> {
        dispatch!(self, half => half.gate_rows(x, width, gates))
    }

    /// Adds an expert's rows to its tokens', each by its share. No token chose it twice.
    ///
    /// # Errors
    /// As [`Executor::norm`]; a token that `out` does not have, or that is there twice.
    pub fn scatter(
        &mut self,
        rows: Values<'_>,
        width: usize,
        choices: &[Choice],
        out: ValuesMut<'_>,
    ) -> Result<()> {
        dispatch!(self, half => half.scatter(rows, width, choices, out))
    }

    /// For each row of logits, of `vocabulary` values, what it says of its target. Between passes; waits for the result.
    ///
    /// # Errors
    /// As [`Executor::norm`]; a target outside the vocabulary.
    pub fn likelihood(
        &mut self,
        logits: Values<'_>,
        vocabulary: usize,
        targets: &[u32],
    ) -> Result<Vec<RowLikelihood>> {
        dispatch!(self, half => half.likelihood(logits, vocabulary, targets))
    }

    /// Kullback-Leibler divergence of each row of `logits` from that of `reference`, in nats. Both are on this device,
    /// and computed. Waits for the result.
    ///
    /// # Errors
    /// As [`Executor::norm`].
    pub fn divergence(
        &mut self,
        reference: Values<'_>,
        logits: Values<'_>,
        vocabulary: usize,
    ) -> Result<Vec<f64>> {
        dispatch!(self, half => half.divergence(reference, logits, vocabulary))
    }

    /// `sums[j]` = the sum of the squares of column `j` of `x`, rows of `columns` values: added in f32 over 16 rows, then in
    /// f64. The same bits on every device. Waits for the result.
    ///
    /// # Errors
    /// As [`Executor::norm`].
    pub fn column_squares(&mut self, x: Values<'_>, columns: usize, sums: &mut Vec<f64>) -> Result<()> {
        dispatch!(self, half => half.column_squares(x, columns, sums))
    }

    /// A router and the experts that it chooses, on a GPU and without an answer to the CPU where they are stacked and
    /// tokens are at most four. The CPU goes expert by expert ([`Executor::route`]), and so does a GPU where the input of
    /// each is to be seen.
    ///
    /// # Errors
    /// As [`Executor::norm`]; [`Error::Device`](crate::Error::Device) on the CPU.
    pub fn experts(&mut self, mixture: &Mixture<'_>, rows: Rows<'_>) -> Result<()> {
        match &mut self.half {
            Half::Cpu(_) => {
                let _ = (mixture, rows);
                Err(crate::Error::Device)
            }
            #[cfg(feature = "cuda")]
            Half::Cuda(cuda) => cuda.experts(mixture, rows),
        }
    }

    /// `x = 0`.
    ///
    /// # Errors
    /// As [`Executor::norm`].
    pub fn clear(&mut self, x: ValuesMut<'_>) -> Result<()> {
        dispatch!(self, half => half.clear(x))
    }

    /// Lets `write` write vectors that belong on this device: straight to where they belong, or to memory from which they
    /// are copied.
    ///
    /// # Errors
    /// As [`Executor::norm`], and those of `write`.
    pub fn fill<E: From<crate::Error>>(
        &mut self,
        to: ValuesMut<'_>,
        write: impl FnOnce(&mut [f32]) -> Result<(), E>,
    ) -> Result<(), E> {
        dispatch!(self, half => half.fill(to, write))
    }

    /// Copies vectors from RAM to this device.
    ///
    /// # Errors
    /// As [`Executor::norm`].
    pub fn upload(&mut self, from: &[f32], to: ValuesMut<'_>) -> Result<()> {
        dispatch!(self, half => half.upload(from, to))
    }

    /// Copies vectors from this device to RAM, when all operations before are done.
    ///
    /// # Errors
    /// As [`Executor::norm`].
    pub fn download(&mut self, from: Values<'_>, to: &mut [f32]) -> Result<()> {
        dispatch!(self, half => half.download(from, to))
    }
}
