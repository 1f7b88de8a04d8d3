//! Weights of float types on the matrix unit, which multiplies pairs of bf16 and adds in f32.
//!
//! A number of f32 is the sum of three bf16: the upper 8 bits of its significand, the next 8, and the last 8. The
//! products of the parts, but for those that are below 2^-24 of the whole, add up to what f32 would give: 3 for weights
//! that are one part (bf16, f8), 5 for two (f16), 6 for three. Parts that are zero in a whole tile are left out: models
//! that were trained in bf16 have one part in f16 and f32 too.

// Loops count halves and rows and index several things by them.
#![allow(clippy::needless_range_loop)]

use super::unit::Hardware;
use super::{BLOCK_ROWS, FROM, Unit};
use crate::aligned::Aligned;
use crate::gemm::floats::{part_of_row, widen_row};
use crate::gemm::{DEPTH, Kept, TASK_ROWS, store, transpose};
use crate::matmul::Shared;
use crate::simd::Level;
use crate::{Matrix, Pool};
use quern_tensor_io::ElementType;

/// Steps of 32 columns in 256.
const STEPS: usize = DEPTH / 32;

/// The most parts of a number.
const PARTS: usize = 3;

/// 16 activation rows, 256 columns: all parts in steps of 32 columns.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
struct Block([[[[u8; 64]; BLOCK_ROWS]; STEPS]; PARTS]);

impl Block {
    const ZERO: Block = Block([[[[0; 64]; BLOCK_ROWS]; STEPS]; PARTS]);
}

/// 16 weight rows, 256 columns: all parts; a row of a tile is 2 columns of 16 weight rows.
#[repr(C, align(64))]
struct Planes([[[[u32; 16]; 16]; STEPS]; PARTS]);

/// All activations of a product: `[depth][n / 16]` blocks.
#[derive(Debug, Default)]
pub(crate) struct FloatRows {
    blocks: Vec<Block>,
    groups: usize,
}

/// Whether `n` activation rows and weights of a float type are multiplied on the unit.
pub(crate) fn takes(level: Level, n: usize) -> bool {
    level == Level::Amx && n >= FROM
}

/// The upper half of a number, and what it leaves; nothing of an infinity or NaN.
#[inline(always)]
fn cut(x: f32) -> (u32, f32) {
    let upper = x.to_bits() & 0xffff_0000;
    let rest = x - f32::from_bits(upper);
    (upper, if rest.is_finite() { rest } else { 0.0 })
}

struct Slots(*mut Block);
// SAFETY: each task writes its own blocks.
unsafe impl Sync for Slots {}

impl FloatRows {
    /// Lays out `x` (`[n][columns]`); what is missing to whole blocks is zero.
    pub fn fill(&mut self, level: Level, pool: &Pool, x: &[f32], columns: usize, n: usize) {
        let (depths, groups) = (columns.div_ceil(DEPTH), n.div_ceil(BLOCK_ROWS));
        self.blocks.resize(depths * groups, Block::ZERO);
        self.groups = groups;
        let slots = Slots(self.blocks.as_mut_ptr());
        let slots = &slots;
        pool.run(depths * groups, |task| {
            let (depth, i) = (task / groups, task % groups);
            // SAFETY: this task alone has this block, and there are depths * groups.
            let block = unsafe { &mut *slots.0.add(task) };
            let here = DEPTH.min(columns - depth * DEPTH);
            for row in 0..BLOCK_ROWS {
                let mut values = [0f32; DEPTH];
                let at = i * BLOCK_ROWS + row;
                if at < n {
                    values[..here].copy_from_slice(&x[at * columns + depth * DEPTH..][..here]);
                }
                let mut parts = [[0; 2 * DEPTH]; PARTS];
                cut_row(level, &values, &mut parts);
                for (block, part) in block.0.iter_mut().zip(&parts) {
                    block.iter_mut().zip(part.as_chunks().0).for_each(|(step, part)| step[row] = *part);
                }
            }
        });
    }
}

/// The parts of 256 numbers, of bf16.
type Parts = [[u8; 2 * DEPTH]; PARTS];

/// Cuts values in parts: how many have anything but zeros, at least one.
fn cut_row(level: Level, values: &[f32; DEPTH], parts: &mut Parts) -> usize {
    #[cfg(target_arch = "x86_64")]
    if level.here() >= Level::Avx512 {
        // SAFETY: the CPU has the level.
        return unsafe { x86::cut_row(values, parts) };
    }
    let _ = level;
    let (mut rests, mut count) = (*values, 1);
    for (i, part) in parts.iter_mut().enumerate() {
        for (rest, part) in rests.iter_mut().zip(part.as_chunks_mut::<2>().0) {
            let (upper, left) = cut(*rest);
            (*rest, *part) = (left, ((upper >> 16) as u16).to_le_bytes());
            // The sign of a zero is none.
            if upper & 0x7fff_ffff != 0 {
                count = count.max(i + 1);
            }
        }
    }
    count
}

/// 32 weight rows of 256 columns as the unit reads them.
struct Weights {
    /// The parts of each row.
    rows: Box<[Parts; TASK_ROWS]>,
    planes: [Planes; 2],
}

impl Weights {
    fn new() -> Self {
        Self {
            rows: Box::new([[[0; 2 * DEPTH]; PARTS]; TASK_ROWS]),
            planes: [const { Planes([[[[0; 16]; 16]; STEPS]; PARTS]) }; 2],
        }
    }

    /// Reads `depth` columns from `start` on of rows `first ..` (the last row again where there are fewer): how many parts
    /// have anything but zeros, at least one. What lies behind these columns becomes zero.
    fn fill(&mut self, level: Level, w: &Matrix, first: usize, start: usize, depth: usize) -> usize {
        let number = |r: usize| (first + r).min(w.rows() - 1);
        if w.element_type() == ElementType::BF16 && w.scales().is_none() && depth == DEPTH {
            lay_out(level, &mut self.planes, 0, |r| part_of_row(w, number(r), start, depth));
            return 1;
        }
        let (mut wide, mut count) = ([0f32; DEPTH], 1);
        for (r, parts) in self.rows.iter_mut().enumerate() {
            widen_row(level, w, number(r), start, &mut wide[..depth]);
            count = count.max(cut_row(level, &wide, parts));
        }
        for part in 0..count {
            lay_out(level, &mut self.planes, part, |r| &self.rows[r][part]);
        }
        count
    }
}

/// Sets a part of the planes from 32 rows of 256 numbers of bf16.
fn lay_out<'a>(level: Level, planes: &mut [Planes; 2], part: usize, row: impl Fn(usize) -> &'a [u8]) {
    for (half, planes) in planes.iter_mut().enumerate() {
        let rows = std::array::from_fn(|r| row(16 * half + r));
        let out = planes.0[part].as_flattened_mut().as_flattened_mut();
        transpose::words(level, &rows, 0, DEPTH / 2, out, 16);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{DEPTH, Parts};

    /// As [`super::cut`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq")]
    fn cut(x: __m512) -> (__m512i, __m512) {
        let upper = _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0xffff_0000_u32 as i32));
        let rest = _mm512_sub_ps(x, _mm512_castsi512_ps(upper));
        // Infinities and NaN.
        let none = _mm512_fpclass_ps_mask::<0x99>(rest);
        (upper, _mm512_maskz_mov_ps(!none, rest))
    }

    /// The words that are the upper halves of 16 numbers, and of 16 others behind them.
    const UPPER: [u16; 32] = {
        let (mut upper, mut i) = ([0; 32], 0);
        while i < 32 {
            upper[i] = 2 * i as u16 + 1;
            i += 1;
        }
        upper
    };

    #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) fn cut_row(values: &[f32; DEPTH], parts: &mut Parts) -> usize {
        // SAFETY: 32 indices.
        let halves = unsafe { _mm512_loadu_si512(UPPER.as_ptr().cast()) };
        let mut any = [_mm512_setzero_si512(); super::PARTS];
        for (step, values) in values.as_chunks::<32>().0.iter().enumerate() {
            // SAFETY: 16 values each.
            let mut rests = [0, 16].map(|at| unsafe { _mm512_loadu_ps(values.as_ptr().add(at)) });
            for (part, any) in parts.iter_mut().zip(&mut any) {
                let [(a, a_rest), (b, b_rest)] = rests.map(|rest| cut(rest));
                rests = [a_rest, b_rest];
                let upper = _mm512_permutex2var_epi16(a, halves, b);
                *any = _mm512_or_si512(*any, upper);
                let out = &mut part.as_chunks_mut::<64>().0[step];
                // SAFETY: 64 bytes.
                unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), upper) };
            }
        }
        // The sign of a zero is none.
        let count = any.iter().rposition(|&any| _mm512_test_epi16_mask(any, _mm512_set1_epi16(0x7fff)) != 0);
        count.map_or(1, |last| last + 1)
    }
}

/// Multiplies `pairs` times 32 weight rows from `first` on (or as many as there are) with all activations. `y` is the
/// output `[n][rows]`; only these rows are written.
///
/// # Safety
/// Nobody else uses these rows of `y`.
pub(crate) unsafe fn floats(
    level: Level,
    w: &Matrix,
    first: usize,
    pairs: usize,
    rows: &FloatRows,
    n: usize,
    y: &Shared,
) {
    let Some(unit) = Hardware::new() else { return };
    // SAFETY: guaranteed by the caller.
    unsafe { floats_on(&unit, level, w, (first, pairs), rows, n, y) };
}

/// The same on any unit. As for blocks, all activations of 256 columns are multiplied with all weight rows of the task before
/// those of the next columns are.
///
/// # Safety
/// Nobody else uses these rows of `y`.
pub(super) unsafe fn floats_on<U: Unit>(
    unit: &U,
    level: Level,
    w: &Matrix,
    (first, pairs): (usize, usize),
    rows: &FloatRows,
    n: usize,
    y: &Shared,
) {
    let pairs = pairs.min((w.rows() - first).div_ceil(TASK_ROWS));
    let mut weights = Weights::new();
    // For the second block of an odd number of them.
    let mut spare = Aligned::zeros(BLOCK_ROWS * TASK_ROWS);
    let mut kept = Kept::take();
    let size = n.next_multiple_of(BLOCK_ROWS) * TASK_ROWS;
    let sums = kept.sums(pairs * size);
    for depth in 0..w.columns().div_ceil(DEPTH) {
        let columns = DEPTH.min(w.columns() - depth * DEPTH);
        let blocks = &rows.blocks[depth * rows.groups..][..rows.groups];
        for (pair, sums) in sums.chunks_exact_mut(size).enumerate() {
            let parts = weights.fill(level, w, first + pair * TASK_ROWS, depth * DEPTH, columns);
            let b = weights.planes.each_ref().map(|planes| planes.0.as_ptr().cast());
            for (step, sums) in sums.chunks_mut(2 * BLOCK_ROWS * TASK_ROWS).enumerate() {
                let here = &blocks[2 * step..blocks.len().min(2 * step + 2)];
                let a = [&here[0], &here[here.len() - 1]].map(|b| b.0.as_ptr().cast());
                let (first, second) = sums.split_at_mut(BLOCK_ROWS * TASK_ROWS);
                let second = if second.is_empty() { &mut spare[..] } else { second };
                let sums = [first, second].map(|sums| sums.as_mut_ptr());
                // SAFETY: tiles of blocks and planes, and sums of two blocks.
                unsafe { unit.add_product_of_floats(a, b, (columns.div_ceil(32), parts), sums) };
            }
        }
    }
    for (i, sums) in sums.chunks_exact(size).enumerate() {
        // SAFETY: guaranteed by the caller.
        unsafe { store(w, first + i * TASK_ROWS, sums, n, y) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    const SPECIAL: [f32; 8] =
        [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::MAX, f32::MIN, -0.0, 1e-41, f32::MIN_POSITIVE];

    #[test]
    fn every_level_cuts_alike_and_exactly_and_counts_parts() {
        let mut random = Random::new(32);
        let mut values = |bits: u32| -> [f32; DEPTH] {
            std::array::from_fn(|_| f32::from_bits(random.float().to_bits() & (u32::MAX << (24 - bits))))
        };
        let mut special = values(8);
        special[60..68].copy_from_slice(&SPECIAL);
        let mut one = values(8);
        one[255] = 1.0 + 2f32.powi(-10);
        let mut negative_zeros = values(8);
        negative_zeros[3..100].fill(-0.0);
        for (values, expected) in [
            (values(8), 1),
            (negative_zeros, 1),
            ([-0.0; DEPTH], 1),
            (one, 2),
            (values(11), 2),
            (values(24), 3),
            (special, 3),
        ] {
            let all = Level::available().map(|level| {
                let mut parts = [[9; 2 * DEPTH]; PARTS];
                assert_eq!(cut_row(level, &values, &mut parts), expected, "{level:?}");
                parts
            });
            let all: Vec<_> = all.collect();
            assert!(all.windows(2).all(|pair| pair[0] == pair[1]));
            for (at, &value) in values.iter().enumerate() {
                let parts = all[0].each_ref().map(|part| {
                    let bits = u16::from_le_bytes(part.as_chunks().0[at]);
                    f32::from_bits(u32::from(bits) << 16)
                });
                let sum = parts[0] + (parts[1] + parts[2]);
                // The unit takes numbers below the smallest normal one for zero.
                let equal = sum == value || sum.is_nan() && value.is_nan() || value.is_subnormal();
                assert!(equal, "{value:e} {parts:?}");
            }
        }
    }
}
