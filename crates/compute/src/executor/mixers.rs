//! Mixers other than attention over keys and values: their parameters, arguments and operations.

use super::upload::bytes_of_vector;
use super::{Executor, Half, Norm, Permutation, Uploader, Values, ValuesMut, Vector, bytes_of_norm};
use crate::Result;
use crate::states::{DeltaShape, ScanShape, conv_state};

/// A causal convolution of each channel by itself.
#[derive(Clone, Debug)]
pub struct Convolution {
    /// `[taps][channels]`, the last tap the token's own.
    pub weight: Vector,
    /// Added to each channel.
    pub bias: Option<Vector>,
    /// Number of channels.
    pub channels: usize,
}

/// Parameters of a gated delta net.
#[derive(Clone, Debug)]
pub struct DeltaParameters {
    /// Its heads.
    pub shape: DeltaShape,
    /// Of queries, keys and values.
    pub conv: Convolution,
    /// How fast each head's state decays, less than zero.
    pub rates: Vector,
    /// Added to what decides about the decay.
    pub time_bias: Vector,
    /// Of each head's results.
    pub norm: Norm,
    /// Where in a token's row, as the projections compute it, each number of [`DeltaRows::Joined`] is; `None` where the
    /// row is that already. For GPUs.
    pub order: Option<Permutation>,
}

/// Parameters of Mamba-2.
#[derive(Clone, Debug)]
pub struct ScanParameters {
    /// Its heads.
    pub shape: ScanShape,
    /// Of inputs, `b` and `c`.
    pub conv: Convolution,
    /// Added to the steps.
    pub time_bias: Vector,
    /// The least and the largest step.
    pub limits: (f32, f32),
    /// How fast each head's state decays, less than zero.
    pub rates: Vector,
    /// What each head's input is multiplied with beside the state.
    pub skips: Vector,
    /// Of gated results, group by group, where they are normalized.
    pub norm: Option<Norm>,
    /// What gates, inputs, `b`, `c` and steps are multiplied with first. The CPU alone does so.
    pub factors: Option<[f32; 5]>,
}

/// Queries and gates that one projection computes head by head, `[tokens]` of each head's query and gate, and then of what
/// is kept as it is (keys and values).
#[derive(Debug)]
pub struct SplitGates<'a> {
    /// What is taken apart.
    pub both: Values<'a>,
    /// Numbers of a head.
    pub head_dim: usize,
    /// Heads.
    pub heads: usize,
    /// Numbers of a token that are kept.
    pub rest: usize,
    /// Queries and what is kept, `[tokens][heads * head_dim + rest]`.
    pub out: ValuesMut<'a>,
    /// Gates, `[tokens][heads * head_dim]`.
    pub gates: ValuesMut<'a>,
}

/// A gated convolution, `out = c * convolution(b * u)`.
#[derive(Debug)]
pub struct GatedConvolution<'a> {
    /// The convolution.
    pub conv: &'a Convolution,
    /// `b`, `c` and `u` of each token, `[tokens][3][channels]`.
    pub rows: Values<'a>,
    /// What the tokens before left, [`Convolution::state`].
    pub state: ValuesMut<'a>,
    /// `[tokens][channels]`, to compute in.
    pub scratch: ValuesMut<'a>,
    /// Tokens from the first on without a result.
    pub skip: usize,
    /// `[tokens - skip][channels]`.
    pub out: ValuesMut<'a>,
}

/// What the projections of a delta net computed; overwritten.
#[derive(Debug)]
pub enum DeltaRows<'a> {
    /// In a memory of their own each: what the CPU takes.
    Separate {
        /// Queries, keys and values.
        qkv: ValuesMut<'a>,
        /// Gates of the results.
        gate: ValuesMut<'a>,
        /// What decides how much of a token each head learns.
        beta: ValuesMut<'a>,
        /// What decides how much of its state each head keeps.
        alpha: ValuesMut<'a>,
    },
    /// All of a token side by side, in this order or as [`DeltaParameters::order`] has them: what a GPU takes.
    Joined(Values<'a>),
}

/// Arguments of a gated delta net.
#[derive(Debug)]
pub struct DeltaNet<'a> {
    /// Its parameters.
    pub parameters: &'a DeltaParameters,
    /// What it reads.
    pub rows: DeltaRows<'a>,
    /// What the tokens before left: the convolution's, then the delta rule's.
    pub state: ValuesMut<'a>,
    /// `[tokens][values]`, to compute in.
    pub scratch: ValuesMut<'a>,
    /// Tokens from the first on without a result.
    pub skip: usize,
    /// `[tokens - skip][values]`.
    pub out: ValuesMut<'a>,
}

/// Arguments of Mamba-2.
#[derive(Debug)]
pub struct Mamba2<'a> {
    /// Its parameters.
    pub parameters: &'a ScanParameters,
    /// What the projection computed: gate, what is convolved, and steps of each token.
    pub rows: Values<'a>,
    /// What the tokens before left: the convolution's, then the scan's.
    pub state: ValuesMut<'a>,
    /// [`ScanParameters::scratch`] for each token, to compute in.
    pub scratch: ValuesMut<'a>,
    /// Tokens from the first on without a result.
    pub skip: usize,
    /// `[tokens - skip][heads * head_dim]`.
    pub out: ValuesMut<'a>,
}

impl Convolution {
    /// Inputs that a result is made of.
    pub fn taps(&self) -> usize {
        self.weight.len() / self.channels.max(1)
    }

    /// Values of its state.
    pub fn state(&self) -> usize {
        conv_state(self.channels, self.taps())
    }

    /// Numbers in its vectors.
    pub fn values(&self) -> usize {
        self.weight.len() + self.bias.as_ref().map_or(0, Vector::len)
    }

    /// Bytes that it takes on a GPU.
    pub fn gpu_bytes(&self) -> usize {
        bytes_of_vector(self.weight.len()) + self.bias.as_ref().map_or(0, |bias| bytes_of_vector(bias.len()))
    }

    /// The same on a device.
    ///
    /// # Errors
    /// As [`Uploader::linear`].
    pub fn upload(&self, uploader: &mut Uploader) -> Result<Self> {
        Ok(Self {
            weight: uploader.vector(&self.weight)?,
            bias: self.bias.as_ref().map(|bias| uploader.vector(bias)).transpose()?,
            channels: self.channels,
        })
    }
}

impl DeltaParameters {
    /// Numbers of a token that the projections compute.
    pub fn row(&self) -> usize {
        self.shape.width() + self.shape.values() + 2 * self.shape.value_heads
    }

    /// Values of the convolution's state and of the delta rule's.
    pub fn state(&self) -> usize {
        self.conv.state() + self.shape.state()
    }

    /// Numbers in its vectors.
    pub fn values(&self) -> usize {
        self.conv.values() + self.rates.len() + self.time_bias.len() + self.norm.weight.len()
    }

    /// Bytes that it takes on a GPU.
    pub fn gpu_bytes(&self) -> usize {
        let vectors = bytes_of_vector(self.rates.len()) + bytes_of_vector(self.time_bias.len());
        let order = if self.order.is_some() { bytes_of_vector(self.row()) } else { 0 };
        self.conv.gpu_bytes() + vectors + order + bytes_of_norm(&self.norm)
    }

    /// The same on a device.
    ///
    /// # Errors
    /// As [`Uploader::linear`].
    pub fn upload(&self, uploader: &mut Uploader) -> Result<Self> {
        Ok(Self {
            shape: self.shape,
            conv: self.conv.upload(uploader)?,
            rates: uploader.vector(&self.rates)?,
            time_bias: uploader.vector(&self.time_bias)?,
            norm: uploader.norm(&self.norm)?,
            order: self.order.as_ref().map(|order| uploader.order(order)).transpose()?,
        })
    }
}

impl ScanParameters {
    /// Values of the convolution's state and of the scan's.
    pub fn state(&self) -> usize {
        self.conv.state() + self.shape.states()
    }

    /// Numbers of a token that the projection computes.
    pub fn row(&self) -> usize {
        self.shape.inner() + self.shape.width() + self.shape.heads
    }

    /// Numbers of a token to compute in: the parts of a row, and the results.
    pub fn scratch(&self) -> usize {
        self.row() + self.shape.inner()
    }

    /// Numbers in its vectors.
    pub fn values(&self) -> usize {
        let vectors = [&self.time_bias, &self.rates, &self.skips];
        let norm = self.norm.as_ref().map_or(0, |norm| norm.weight.len());
        self.conv.values() + norm + vectors.into_iter().map(Vector::len).sum::<usize>()
    }

    /// Bytes that it takes on a GPU.
    pub fn gpu_bytes(&self) -> usize {
        let vectors = [&self.time_bias, &self.rates, &self.skips];
        self.conv.gpu_bytes()
            + vectors.into_iter().map(|vector| bytes_of_vector(vector.len())).sum::<usize>()
            + self.norm.as_ref().map_or(0, bytes_of_norm)
    }

    /// The same on a device.
    ///
    /// # Errors
    /// As [`Uploader::linear`].
    pub fn upload(&self, uploader: &mut Uploader) -> Result<Self> {
        Ok(Self {
            conv: self.conv.upload(uploader)?,
            time_bias: uploader.vector(&self.time_bias)?,
            rates: uploader.vector(&self.rates)?,
            skips: uploader.vector(&self.skips)?,
            norm: self.norm.as_ref().map(|norm| uploader.norm(norm)).transpose()?,
            ..*self
        })
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
    /// Takes queries and gates apart.
    ///
    /// # Errors
    /// Lengths and devices that do not fit.
    pub fn split_gates(&mut self, split: SplitGates<'_>) -> Result<()> {
        dispatch!(self, half => half.split_gates(split))
    }

    /// `x *= 1 / (1 + e^-gate)`, element by element.
    ///
    /// # Errors
    /// Lengths and devices that do not fit.
    pub fn sigmoid_gate(&mut self, x: ValuesMut<'_>, gate: Values<'_>) -> Result<()> {
        dispatch!(self, half => half.sigmoid_gate(x, gate))
    }

    /// A gated convolution over few positions.
    ///
    /// # Errors
    /// Lengths and devices that do not fit.
    pub fn gated_convolution(&mut self, convolution: GatedConvolution<'_>) -> Result<()> {
        dispatch!(self, half => half.gated_convolution(convolution))
    }

    /// A gated delta net, from what its projections computed to the input of its output layer.
    ///
    /// # Errors
    /// Lengths and devices that do not fit, and rows that are not as the device takes them.
    pub fn delta_net(&mut self, net: DeltaNet<'_>) -> Result<()> {
        dispatch!(self, half => half.delta_net(net))
    }

    /// Mamba-2, from what its projection computed to the input of its output layer.
    ///
    /// # Errors
    /// Lengths and devices that do not fit.
    pub fn mamba2(&mut self, mamba: Mamba2<'_>) -> Result<()> {
        dispatch!(self, half => half.mamba2(mamba))
    }

    /// `x = norm(x)` for the first numbers of rows, each of `stride` numbers; the others stay as they are.
    ///
    /// # Errors
    /// Lengths and devices that do not fit.
    pub fn norm_fronts(&mut self, norm: &Norm, x: ValuesMut<'_>, stride: usize) -> Result<()> {
        dispatch!(self, half => half.norm_fronts(norm, x, stride))
    }

    /// Copies the first `width` numbers of rows that begin `stride` numbers apart; the last row may be shorter than that.
    ///
    /// # Errors
    /// Lengths and devices that do not fit.
    pub fn copy_fronts(
        &mut self,
        from: Values<'_>,
        stride: usize,
        to: ValuesMut<'_>,
        width: usize,
    ) -> Result<()> {
        let rows = to.len() / width.max(1);
        crate::error::same("fronts: whole rows", rows * width, to.len())?;
        let needed = rows.saturating_sub(1) * stride + if rows > 0 { width } else { 0 };
        if needed > from.len() || width > stride {
            let what = "fronts: numbers to copy from";
            return Err(crate::Error::Lengths { what, expected: needed, found: from.len() });
        }
        if rows == 0 {
            return Ok(());
        }
        dispatch!(self, half => half.copy_fronts(from, stride, to, width))
    }

    /// Copies numbers from RAM to this device between passes, and waits for it.
    ///
    /// # Errors
    /// Lengths and devices that do not fit.
    pub fn put(&mut self, from: &[f32], to: ValuesMut<'_>) -> Result<()> {
        crate::error::same("put: length", to.len(), from.len())?;
        match &mut self.half {
            Half::Cpu(cpu) => cpu.upload(from, to),
            #[cfg(feature = "cuda")]
            Half::Cuda(cuda) => cuda.put(from, to),
        }
    }
}
