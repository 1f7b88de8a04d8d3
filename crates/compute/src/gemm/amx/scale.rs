//! Scales the matrix unit's exact sums and adds them up as floats.

use super::planes::Planes;
use super::rows::Block;
use super::{BLOCK_ROWS, Sums};
use crate::gemm::TASK_ROWS;
use crate::simd::{Level, Op, dispatch};

/// Adds `dx * (d * (low + 128 * high) + dmin * minima)` to `sums` (`[16 or 32][32]`).
pub(super) fn of256(
    level: Level,
    weights: &[Planes; 2],
    blocks: &[Block],
    low: &Sums,
    high: Option<&Sums>,
    minima: Option<&Sums>,
    sums: &mut [f32],
) {
    match (high, minima) {
        (None, None) => dispatch(level, Of256 { weights, blocks, low, high: [low; 0], minima: [low; 0], sums }),
        (None, Some(m)) => dispatch(level, Of256 { weights, blocks, low, high: [low; 0], minima: [m], sums }),
        (Some(h), None) => dispatch(level, Of256 { weights, blocks, low, high: [h], minima: [low; 0], sums }),
        (Some(h), Some(m)) => dispatch(level, Of256 { weights, blocks, low, high: [h], minima: [m], sums }),
    }
}

struct Of256<'a, const HIGH: usize, const MINIMA: usize> {
    weights: &'a [Planes; 2],
    blocks: &'a [Block],
    low: &'a Sums,
    high: [&'a Sums; HIGH],
    minima: [&'a Sums; MINIMA],
    sums: &'a mut [f32],
}

impl<const HIGH: usize, const MINIMA: usize> Op for Of256<'_, HIGH, MINIMA> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let rows = self.sums.as_chunks_mut::<TASK_ROWS>().0;
        for (i, (block, rows)) in self.blocks.iter().zip(rows.chunks_exact_mut(BLOCK_ROWS)).enumerate() {
            for half in 0..2 {
                let at = 2 * i + half;
                let (d, dmin) = (self.weights[half].scale[0], self.weights[half].offset[0]);
                for (row, sums) in rows.iter_mut().enumerate() {
                    let low = self.low.0[at][row];
                    let dx = block.d[0][row];
                    let mut value = [0f32; 16];
                    for lane in 0..16 {
                        let mut exact = low[lane];
                        if HIGH == 1 {
                            exact += self.high[0].0[at][row][lane] << 7;
                        }
                        value[lane] = d[lane] * exact as f32;
                    }
                    if MINIMA == 1 {
                        let minima = self.minima[0].0[at][row];
                        for lane in 0..16 {
                            value[lane] = (minima[lane] as f32).mul_add(dmin[lane], value[lane]);
                        }
                    }
                    let sums = &mut sums[16 * half..16 * half + 16];
                    for lane in 0..16 {
                        sums[lane] = value[lane].mul_add(dx, sums[lane]);
                    }
                }
            }
        }
    }
}

/// Adds sub-block `j`, of 32 values, to `sums`: `exact * (scale * d)`, and `offset * (sum of the activations)`.
pub(super) fn of32(
    level: Level,
    weights: &[Planes; 2],
    blocks: &[Block],
    j: usize,
    exact: &Sums,
    offsets: bool,
    sums: &mut [f32],
) {
    if offsets {
        dispatch(level, Of32::<true> { weights, blocks, j, exact, sums });
    } else {
        dispatch(level, Of32::<false> { weights, blocks, j, exact, sums });
    }
}

struct Of32<'a, const OFFSETS: bool> {
    weights: &'a [Planes; 2],
    blocks: &'a [Block],
    j: usize,
    exact: &'a Sums,
    sums: &'a mut [f32],
}

impl<const OFFSETS: bool> Op for Of32<'_, OFFSETS> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let j = self.j;
        let rows = self.sums.as_chunks_mut::<TASK_ROWS>().0;
        for (i, (block, rows)) in self.blocks.iter().zip(rows.chunks_exact_mut(BLOCK_ROWS)).enumerate() {
            for half in 0..2 {
                let exact = &self.exact.0[2 * i + half];
                let (scale, offset) = (self.weights[half].scale[j], self.weights[half].offset[j]);
                for (row, sums) in rows.iter_mut().enumerate() {
                    let (exact, d, sum) = (exact[row], block.d[j][row], block.sums[j][row]);
                    let sums = &mut sums[16 * half..16 * half + 16];
                    for lane in 0..16 {
                        sums[lane] = (exact[lane] as f32).mul_add(scale[lane] * d, sums[lane]);
                    }
                    if OFFSETS {
                        for lane in 0..16 {
                            sums[lane] = offset[lane].mul_add(sum, sums[lane]);
                        }
                    }
                }
            }
        }
    }
}
