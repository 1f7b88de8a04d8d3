//! Sixteen f32 lanes: the same arithmetic on sixteen independent values at once.
//!
//! Loops over `[f32; 16]` are not always vectorised. Here every operation is a fixed instruction
//! (on one 512-bit register, a pair of 256-bit ones, or in plain Rust), and each lane computes exactly
//! what scalar Rust computes for it, bit for bit. Write a computation once as a [`LaneOp`], generic over
//! [`Lanes`], with `#[inline(always)]` all the way down, and run it with [`dispatch`].
//!
//! A value of a `Lanes` type is the proof that the CPU has the instructions: only `dispatch` makes one.

use std::ops::{Add, Div, Mul, Sub};

use super::Level;

mod portable;
#[cfg(target_arch = "x86_64")]
mod x86_avx2;
#[cfg(target_arch = "x86_64")]
mod x86_avx512;

/// Number of lanes.
pub const LANES: usize = 16;

/// Operations on sixteen lanes. Comparisons with NaN are false.
pub trait Lanes: Copy {
    /// Sixteen f32 values.
    type F: Copy
        + Add<Output = Self::F>
        + Sub<Output = Self::F>
        + Mul<Output = Self::F>
        + Div<Output = Self::F>;
    /// Sixteen truth values.
    type M: Copy;
    /// Sixteen table indices, 0..16.
    type I: Copy;

    /// The same value in each lane.
    fn splat(self, x: f32) -> Self::F;
    /// Reads sixteen values.
    fn load(self, x: &[f32; LANES]) -> Self::F;
    /// Reads sixteen bytes as numbers.
    fn load_bytes(self, x: &[u8; LANES]) -> Self::F;
    /// Writes sixteen values.
    fn store(self, x: Self::F, out: &mut [f32; LANES]);
    /// `a < b`.
    fn less(self, a: Self::F, b: Self::F) -> Self::M;
    /// `a == b`.
    fn equal(self, a: Self::F, b: Self::F) -> Self::M;
    /// Both.
    fn both(self, a: Self::M, b: Self::M) -> Self::M;
    /// The first but not the second.
    fn but_not(self, a: Self::M, b: Self::M) -> Self::M;
    /// Whether any lane is true.
    fn any(self, m: Self::M) -> bool;
    /// `yes` where `m`, else `no`.
    fn select(self, m: Self::M, yes: Self::F, no: Self::F) -> Self::F;
    /// `a < b ? a : b`, as C writes it.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a > b ? a : b`, as C writes it.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// Magnitude.
    fn abs(self, x: Self::F) -> Self::F;
    /// The magnitude of `magnitude` (not negative) with the sign of `sign`.
    fn with_sign(self, magnitude: Self::F, sign: Self::F) -> Self::F;
    /// Square root, correctly rounded.
    fn sqrt(self, x: Self::F) -> Self::F;
    /// The low 23 bits as a whole number added to 2^23: bits `(x & 0x7fffff) | 0x4b000000`.
    fn mantissa(self, x: Self::F) -> Self::F;
    /// Low bytes of the values with their fraction cut off; what does not fit i32, and NaN, gives 0.
    fn store_bytes(self, x: Self::F, out: &mut [u8; LANES]);
    /// Writes the values as f16, ties to even.
    fn store_f16(self, x: Self::F, out: &mut [u16; LANES]);
    /// The low bytes of whole numbers (as i32) as numbers 0..256.
    fn low_byte(self, x: Self::F) -> Self::F;
    /// How many of the ascending `edges` (the first 15 count) each lane is not below; 15 for NaN.
    fn steps_reached(self, edges: &[f32; LANES], x: Self::F) -> Self::I;
    /// The table's values at these indices.
    fn take(self, table: &[f32; LANES], index: Self::I) -> Self::F;
    /// Writes the indices as bytes.
    fn store_index(self, index: Self::I, out: &mut [u8; LANES]);
    /// Rows become columns: lane `i` of result `j` is lane `j` of row `i`.
    fn transpose(self, rows: [Self::F; LANES]) -> [Self::F; LANES];

    /// Nearest whole number, ties to even, for |x| < 2^22; beyond that, what the low 23 bits of `x + 1.5 * 2^23`
    /// say, less 2^22.
    #[inline(always)]
    fn nearest(self, x: Self::F) -> Self::F {
        let magic = self.splat(12_582_912.0);
        self.mantissa(x + magic) - magic
    }
}

/// A computation on lanes: implement [`LaneOp::call`] with `#[inline(always)]`, and so everything it calls.
pub trait LaneOp {
    /// What it returns.
    type Output;
    /// The computation.
    fn call<S: Lanes>(self, s: S) -> Self::Output;
}

/// Runs `op` with the lanes of `level`, or of the CPU's best level if that is lower.
#[inline]
pub fn dispatch<O: LaneOp>(level: Level, op: O) -> O::Output {
    match dispatch_wide(level, op) {
        Ok(output) => output,
        Err(op) => op.call(portable::Portable),
    }
}

/// Like [`dispatch`] where `level` has registers for the lanes; otherwise returns `op`. For callers that
/// have a plain version of their own: lanes in plain Rust are slow to compile and several times the code.
#[inline]
pub fn dispatch_wide<O: LaneOp>(level: Level, op: O) -> Result<O::Output, O> {
    match level.here() {
        Level::Scalar => Err(op),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `level` is at most what the CPU was found to have.
        Level::Avx2 | Level::AvxVnni => Ok(unsafe { x86_avx2::run(op) }),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Level::Avx512 | Level::Avx512Vnni | Level::Amx => Ok(unsafe { x86_avx512::run(op) }),
        #[cfg(not(target_arch = "x86_64"))]
        Level::Avx2 | Level::AvxVnni | Level::Avx512 | Level::Avx512Vnni | Level::Amx => Err(op),
    }
}

#[cfg(test)]
mod tests;
