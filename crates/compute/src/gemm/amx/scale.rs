//! Scales the matrix unit's exact sums and adds them up as floats.

// Loops count halves and rows and index several things by them.
#![allow(clippy::needless_range_loop)]

use super::BLOCK_ROWS;
use super::planes::Planes;
use super::rows::Block;
use crate::gemm::TASK_ROWS;
use crate::simd::Level;

/// `[16 activation rows][16 weight rows]`.
type Tile<T> = [[T; 16]; BLOCK_ROWS];

/// Exact sums of 16 activation rows with two weight tiles: of low planes, of high planes, of minima.
#[derive(Clone, Copy)]
pub(super) struct Exact<'a> {
    pub low: &'a [Tile<i32>],
    pub high: Option<&'a [Tile<i32>]>,
    pub minima: Option<&'a [Tile<f32>]>,
}

/// Activation rows that [`quarter`] scales.
const QUARTER: usize = BLOCK_ROWS / 4;

/// Adds `dx * (d * (low + 128 * high) + dmin * minima)` to `sums` (`[16][32]`), or sets them if these are the first: for
/// one quarter of the activation rows.
pub(super) fn quarter(
    level: Level,
    first: bool,
    weights: &[Planes; 2],
    block: &Block,
    exact: Exact<'_>,
    quarter: usize,
    sums: &mut [f32],
) {
    let rows = sums.as_chunks_mut::<TASK_ROWS>().0.as_chunks_mut::<QUARTER>().0;
    let Some(rows) = rows.get_mut(quarter) else { return };
    let Exact { low, high, minima } = exact;
    assert!(low.len() == 2 && high.is_none_or(|h| h.len() == 2) && minima.is_none_or(|m| m.len() == 2));
    #[cfg(target_arch = "x86_64")]
    if level.here() >= Level::Avx512 {
        // SAFETY: the CPU has the level.
        return unsafe {
            match (high, minima) {
                (None, None) => {
                    x86::quarter::<false, false>(first, weights, block, quarter, [low; 2], &[], rows)
                }
                (None, Some(m)) => {
                    x86::quarter::<false, true>(first, weights, block, quarter, [low; 2], m, rows)
                }
                (Some(h), None) => {
                    x86::quarter::<true, false>(first, weights, block, quarter, [low, h], &[], rows)
                }
                (Some(h), Some(m)) => {
                    x86::quarter::<true, true>(first, weights, block, quarter, [low, h], m, rows)
                }
            }
        };
    }
    let _ = level;
    for (row, sums) in (QUARTER * quarter..).zip(rows) {
        for (at, sum) in sums.iter_mut().enumerate() {
            let (half, lane) = (at / 16, at % 16);
            let whole = low[half][row][lane] + high.map_or(0, |high| high[half][row][lane] << 7);
            let mut value = weights[half].d[lane] * whole as f32;
            if let Some(minima) = minima {
                value = minima[half][row][lane].mul_add(weights[half].dmin[lane], value);
            }
            *sum = value.mul_add(block.d[row], if first { 0.0 } else { *sum });
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Block, Planes, QUARTER, TASK_ROWS, Tile};

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn numbers(x: &[f32; 16]) -> __m512 {
        // SAFETY: 16 values.
        unsafe { _mm512_loadu_ps(x.as_ptr()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn integers(x: &[i32; 16]) -> __m512i {
        // SAFETY: 16 values.
        unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
    }

    #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) fn quarter<const HIGH: bool, const MINIMA: bool>(
        first: bool,
        weights: &[Planes; 2],
        block: &Block,
        quarter: usize,
        [low, high]: [&[Tile<i32>]; 2],
        minima: &[Tile<f32>],
        rows: &mut [[f32; TASK_ROWS]; QUARTER],
    ) {
        // Sums that are set are not read.
        let read = if first { 0 } else { !0 };
        for half in 0..2 {
            let (d, dmin) = (numbers(&weights[half].d), numbers(&weights[half].dmin));
            let (low, high) = (&low[half], &high[half]);
            for (row, sums) in (QUARTER * quarter..).zip(&mut *rows) {
                let mut whole = integers(&low[row]);
                if HIGH {
                    whole = _mm512_add_epi32(whole, _mm512_slli_epi32::<7>(integers(&high[row])));
                }
                let mut value = _mm512_mul_ps(d, _mm512_cvtepi32_ps(whole));
                if MINIMA {
                    value = _mm512_fmadd_ps(numbers(&minima[half][row]), dmin, value);
                }
                let dx = _mm512_set1_ps(block.d[row]);
                let sums = sums.as_chunks_mut::<16>().0[half].as_mut_ptr();
                // SAFETY: 16 values.
                unsafe {
                    let sum = _mm512_maskz_loadu_ps(read, sums);
                    _mm512_storeu_ps(sums, _mm512_fmadd_ps(value, dx, sum));
                }
            }
        }
    }
}
