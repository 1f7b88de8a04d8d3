//! Sums of products over calibration tokens: what observers of a layer's inputs add up.

use super::{Executor, Half, Values, ValuesMut};
use crate::Result;

impl Executor {
    /// Adds the products of the columns of `x` (`[tokens][columns]`) to the lower triangle, diagonal included, of `sum`
    /// (`[columns][columns]`): `sum[i][j] += Σ x[t][i] x[t][j]` for `j <= i`. The CPU computes as [`crate::gram()`]. A GPU
    /// splits each number into two of bf16 for its tensor cores, and drops the product of the two low parts; it sums up to
    /// 1024 tokens before it adds to `sum`. Below compute capability 8.0 it computes in f32, with the bits of the CPU.
    ///
    /// # Errors
    /// Lengths and devices that do not fit; [`Error::Cuda`](crate::Error::Cuda) if the GPU has no memory left for the split
    /// numbers of 2048 tokens.
    pub fn gram(&mut self, x: Values<'_>, columns: usize, sum: ValuesMut<'_>) -> Result<()> {
        match &mut self.half {
            Half::Cpu(cpu) => cpu.gram(x, columns, sum),
            #[cfg(feature = "cuda")]
            Half::Cuda(cuda) => cuda.gram(x, columns, sum),
        }
    }

    /// Adds the products of the columns of `a` with those of `b`, `[tokens][columns]` each with their number of columns, to
    /// `sum` (`[columns of a][columns of b]`): `sum[i][j] += Σ a[t][i] b[t][j]`. The CPU computes as [`crate::cross()`], a GPU
    /// as [`Executor::gram`] does there.
    ///
    /// # Errors
    /// As [`Executor::gram`]; on the CPU columns of `b` that are no multiple of 16.
    pub fn cross(
        &mut self,
        a: (Values<'_>, usize),
        b: (Values<'_>, usize),
        sum: ValuesMut<'_>,
    ) -> Result<()> {
        match &mut self.half {
            Half::Cpu(cpu) => cpu.cross(a, b, sum),
            #[cfg(feature = "cuda")]
            Half::Cuda(cuda) => cuda.cross(a, b, sum),
        }
    }

    /// `out = a - b`, of equal lengths.
    ///
    /// # Errors
    /// Lengths and devices that do not fit.
    pub fn subtract(&mut self, a: Values<'_>, b: Values<'_>, out: ValuesMut<'_>) -> Result<()> {
        match &mut self.half {
            Half::Cpu(cpu) => cpu.subtract(a, b, out),
            #[cfg(feature = "cuda")]
            Half::Cuda(cuda) => cuda.subtract(a, b, out),
        }
    }
}
