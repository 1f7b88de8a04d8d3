//! Multiplies a few activation rows with many weight rows, each weight row read once: for generating text.
//!
//! A kernel multiplies one row of activations with any number of weight rows, `y.len()` of them.

/// Which kernel of a level serves which type: every level has the same names in `small`, `mid`,
/// `large`, `grid` and `float`.
#[cfg(target_arch = "x86_64")]
macro_rules! kernel_tables {
    () => {
        /// The kernel for a block type.
        pub(super) fn kernel(element_type: quern_tensor_io::ElementType) -> Option<$crate::dot::Kernel> {
            use quern_tensor_io::ElementType as T;
            Some(match element_type {
                T::Q4_0 => small::q4_0,
                T::Q4_1 => small::q4_1,
                T::Q5_0 => small::q5_0,
                T::Q5_1 => small::q5_1,
                T::Q8_0 => small::q8_0,
                T::IQ4NL => small::iq4_nl,
                T::MXFP4 => small::mxfp4,
                T::NF4 => small::nf4,
                T::FP4 => small::fp4,
                T::NVFP4 => mid::nvfp4,
                T::Q1_0 => mid::q1_0,
                T::Q2_0 => mid::q2_0,
                T::Q2K => large::q2_k,
                T::Q3K => large::q3_k,
                T::Q4K => large::q4_k,
                T::Q5K => large::q5_k,
                T::Q6K => large::q6_k,
                T::IQ4XS => large::iq4_xs,
                T::TQ1_0 => large::tq1_0,
                T::TQ2_0 => large::tq2_0,
                T::IQ2XXS => grid::iq2_xxs,
                T::IQ2XS => grid::iq2_xs,
                T::IQ2S => grid::iq2_s,
                T::IQ3XXS => grid::iq3_xxs,
                T::IQ3S => grid::iq3_s,
                T::IQ1S => grid::iq1_s,
                T::IQ1M => grid::iq1_m,
                $crate::block::no_block!() => return None,
            })
        }

        /// What unpacks the codes of a grid type's block.
        pub(super) fn grid_codes(
            element_type: quern_tensor_io::ElementType,
        ) -> Option<$crate::dot::GridCodes> {
            use quern_tensor_io::ElementType as T;
            Some(match element_type {
                T::IQ2XXS => grid::iq2_xxs_codes,
                T::IQ2XS => grid::iq2_xs_codes,
                T::IQ2S => grid::iq2_s_codes,
                T::IQ3XXS => grid::iq3_xxs_codes,
                T::IQ3S => grid::iq3_s_codes,
                T::IQ1S => grid::iq1_s_codes,
                T::IQ1M => grid::iq1_m_codes,
                $crate::block::code_types!() | $crate::block::no_block!() => return None,
            })
        }

        /// The kernel for a float type.
        pub(super) fn float_kernel(
            element_type: quern_tensor_io::ElementType,
        ) -> Option<$crate::dot::FloatKernel> {
            use quern_tensor_io::ElementType as T;
            Some(match element_type {
                T::F32 => float::f32,
                T::F16 => float::f16,
                T::BF16 => float::bf16,
                // All other types are decoded first.
                _ => return None,
            })
        }

        /// The kernel for a float type with scales beside it.
        pub(super) fn scaled_kernel(
            element_type: quern_tensor_io::ElementType,
        ) -> Option<$crate::dot::ScaledKernel> {
            use quern_tensor_io::ElementType as T;
            match element_type {
                T::F8E4M3 => Some(f8::e4m3),
                // All other types are decoded first.
                _ => None,
            }
        }
    };
}
#[cfg(target_arch = "x86_64")]
use kernel_tables;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod prefetch;
pub(crate) mod scalar;
#[cfg(test)]
mod tests;

use quern_tensor_io::{ElementType, decode};

use crate::Scales;
use crate::activations::Row;
use crate::block::Block;
use crate::float::{f8_e4m3_to_f32, widen_f16_bytes};
use crate::simd::{Level, Op, dispatch};

/// A kernel of a block type. Safe to call only on a CPU with its level.
type Kernel = unsafe fn(weights: &[u8], x: Row, y: &mut [f32]);
/// Unpacks a block's codes, as `block.rs` has them. Safe to call only on a CPU with its level.
type GridCodes = unsafe fn(block: &[u8], codes: &mut [u8; 256]);
/// A kernel of a float type. Safe to call only on a CPU with its level.
type FloatKernel = unsafe fn(weights: &[u8], x: &[f32], y: &mut [f32]);
/// A kernel of a float type with scales: one row, `block` columns to a scale. Safe to call only on a CPU with its level.
type ScaledKernel = unsafe fn(weights: &[u8], x: &[f32], scales: &[f32], block: usize) -> f32;

/// `y[r]` = row r of `weights` (a block type) times the activations; `weights` holds exactly `y.len()` rows.
pub(crate) fn rows(level: Level, element_type: ElementType, weights: &[u8], x: Row, y: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    {
        let kernel = match level.here() {
            Level::Avx512Vnni | Level::Amx => avx512::kernel(element_type),
            Level::Avx512 | Level::AvxVnni | Level::Avx2 => avx2::kernel(element_type),
            Level::Scalar => None,
        };
        if let Some(kernel) = kernel {
            // SAFETY: the CPU has the level.
            return unsafe { kernel(weights, x, y) };
        }
    }
    let _ = level;
    scalar::rows(element_type, weights, x, y);
}

/// Unpacks the codes of one block each (of a grid type: iq1, iq2, iq3).
pub(crate) fn grid_codes(
    level: Level,
    element_type: ElementType,
    blocks: [&[u8]; 16],
    codes: &mut [[u8; 256]; 16],
) {
    let both = blocks.into_iter().zip(codes);
    #[cfg(target_arch = "x86_64")]
    {
        let unpack = match level.here() {
            Level::Avx512Vnni | Level::Amx => avx512::grid_codes(element_type),
            Level::Avx512 | Level::AvxVnni | Level::Avx2 => avx2::grid_codes(element_type),
            Level::Scalar => None,
        };
        if let Some(unpack) = unpack {
            // SAFETY: the CPU has the level.
            return both.for_each(|(block, codes)| unsafe { unpack(block, codes) });
        }
    }
    let _ = level;
    both.for_each(|(block, codes)| *codes = Block::read(element_type, block).codes);
}

/// Up to so many activations stay in the first-level cache while a row of float weights passes through it. Where there are
/// more, four rows share each that is read: on two threads of Zen 4 with AVX-512, 5632 columns of f16 came at 26 GB/s row by
/// row and at 31 GB/s so (2048 columns: 35 and 30).
#[cfg(target_arch = "x86_64")]
const IN_FIRST_LEVEL: usize = 4096;

/// Rows of weights and where their results go.
#[cfg(target_arch = "x86_64")]
type Rows<'a, T> = (&'a [u8], &'a mut [T]);

/// Divides rows of so many columns of a float type into fours, and those that are multiplied one by one.
#[cfg(target_arch = "x86_64")]
fn rows_in_fours<'a>(
    weights: &'a [u8],
    columns: usize,
    y: &'a mut [f32],
) -> (Rows<'a, [f32; 4]>, Rows<'a, f32>) {
    let row_bytes = weights.len() / y.len().max(1);
    let together = if columns > IN_FIRST_LEVEL { y.len() / 4 * 4 } else { 0 };
    let (fours, rest) = weights.split_at(row_bytes * together);
    let (y_of_fours, y_of_rest) = y.split_at_mut(together);
    ((fours, y_of_fours.as_chunks_mut().0), (rest, y_of_rest))
}

/// `y[r]` = row r of `weights` (a float type, or one only decoded) times `x`, in f32.
pub(crate) fn float_rows(level: Level, element_type: ElementType, weights: &[u8], x: &[f32], y: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    {
        let kernel = match level.here() {
            Level::Avx512Vnni | Level::Amx => avx512::float_kernel(element_type),
            Level::Avx512 | Level::AvxVnni | Level::Avx2 => avx2::float_kernel(element_type),
            Level::Scalar => None,
        };
        if let Some(kernel) = kernel {
            // SAFETY: the CPU has the level.
            return unsafe { kernel(weights, x, y) };
        }
    }
    let row_bytes = weights.len() / y.len().max(1);
    let mut row = vec![0f32; x.len()];
    for (weights, y) in weights.chunks_exact(row_bytes.max(1)).zip(y) {
        widen(level, element_type, weights, &mut row);
        *y = dispatch(level, Dot(&row, x));
    }
}

/// The same with scales beside the weights, whose first row is row `first` of the scales.
pub(crate) fn scaled_rows(
    level: Level,
    element_type: ElementType,
    weights: &[u8],
    (scales, first): (&Scales, usize),
    x: &[f32],
    y: &mut [f32],
) {
    let row_bytes = weights.len() / y.len().max(1);
    let rows = (first..).zip(weights.chunks_exact(row_bytes.max(1)).zip(y));
    #[cfg(target_arch = "x86_64")]
    {
        let kernel = match level.here() {
            Level::Avx512Vnni | Level::Amx => avx512::scaled_kernel(element_type),
            Level::Avx512 | Level::AvxVnni | Level::Avx2 => avx2::scaled_kernel(element_type),
            Level::Scalar => None,
        };
        if let Some(kernel) = kernel {
            let block = scales.block_columns();
            // SAFETY: the CPU has the level.
            rows.for_each(|(row, (weights, y))| *y = unsafe { kernel(weights, x, scales.row(row), block) });
            return;
        }
    }
    let mut wide = vec![0f32; x.len()];
    for (row, (weights, y)) in rows {
        widen(level, element_type, weights, &mut wide);
        scales.apply(row, 0, &mut wide);
        *y = dispatch(level, Dot(&wide, x));
    }
}

/// Weights of a type without kernels of its own to f32.
pub(crate) fn widen(level: Level, element_type: ElementType, weights: &[u8], out: &mut [f32]) {
    struct Wide<'a, const N: usize, F>(&'a [u8], &'a mut [f32], F);
    impl<const N: usize, F: Fn([u8; N]) -> f32> Op for Wide<'_, N, F> {
        type Output = ();
        #[inline(always)]
        fn call(self) {
            for (x, out) in self.0.as_chunks::<N>().0.iter().zip(self.1) {
                *out = (self.2)(*x);
            }
        }
    }
    let f16 = |x| crate::float::f16_to_f32(u16::from_le_bytes(x));
    let bf16 = |x| crate::float::bf16_to_f32(u16::from_le_bytes(x));
    match element_type {
        ElementType::F32 => dispatch(level, Wide(weights, out, f32::from_le_bytes)),
        ElementType::F16 if cfg!(target_endian = "little") => widen_f16_bytes(level, weights, out),
        ElementType::F16 => dispatch(level, Wide(weights, out, f16)),
        ElementType::BF16 => dispatch(level, Wide(weights, out, bf16)),
        ElementType::F8E4M3 => dispatch(level, Wide(weights, out, |[code]: [u8; 1]| f8_e4m3_to_f32(code))),
        _ => {
            let known = decode::to_f32(element_type, weights, out);
            debug_assert!(known, "Matrix::new checked the type and the length");
        }
    }
}

struct Dot<'a>(&'a [f32], &'a [f32]);

impl Op for Dot<'_> {
    type Output = f32;

    #[inline(always)]
    fn call(self) -> f32 {
        let mut lanes = [0f32; 64];
        let (a, b) = (self.0.chunks_exact(64), self.1.chunks_exact(64));
        let rest: f32 = a.remainder().iter().zip(b.remainder()).map(|(a, b)| a * b).sum();
        for (a, b) in a.zip(b) {
            for l in 0..64 {
                lanes[l] += a[l] * b[l];
            }
        }
        lanes.iter().sum::<f32>() + rest
    }
}
