//! Scales the matrix unit's exact sums and adds them up as floats.

// Loops count halves and rows and index several things by them.
#![allow(clippy::needless_range_loop)]

use super::planes::Planes;
use super::rows::Block;
use super::{BLOCK_ROWS, Sums};
use crate::gemm::TASK_ROWS;
use crate::simd::Level;

/// `[16 activation rows][16 weight rows]`.
type Tile = [[i32; 16]; BLOCK_ROWS];

/// Exact sums of 16 activation rows with two weight tiles: of low planes, of high planes, of minima.
#[derive(Clone, Copy)]
pub(super) struct Exact<'a> {
    pub low: &'a [Tile],
    pub high: Option<&'a [Tile]>,
    pub minima: Option<&'a [Tile]>,
}

/// Adds `dx * (d * (low + 128 * high) + dmin * minima)` to `sums` (`[16][32]`).
pub(super) fn of256(level: Level, weights: &[Planes; 2], block: &Block, exact: Exact<'_>, sums: &mut [f32]) {
    let Some(rows) = sums.as_chunks_mut::<TASK_ROWS>().0.first_chunk_mut::<BLOCK_ROWS>() else { return };
    let Exact { low, high, minima } = exact;
    assert!(low.len() == 2 && high.is_none_or(|h| h.len() == 2) && minima.is_none_or(|m| m.len() == 2));
    #[cfg(target_arch = "x86_64")]
    if level.here() >= Level::Avx512 {
        // SAFETY: the CPU has the level.
        return unsafe {
            match (high, minima) {
                (None, None) => x86::of256::<false, false>(weights, block, [low; 3], rows),
                (None, Some(m)) => x86::of256::<false, true>(weights, block, [low, low, m], rows),
                (Some(h), None) => x86::of256::<true, false>(weights, block, [low, h, low], rows),
                (Some(h), Some(m)) => x86::of256::<true, true>(weights, block, [low, h, m], rows),
            }
        };
    }
    let _ = level;
    for (row, sums) in rows.iter_mut().enumerate() {
        for (at, sum) in sums.iter_mut().enumerate() {
            let (half, lane) = (at / 16, at % 16);
            let whole = low[half][row][lane] + high.map_or(0, |high| high[half][row][lane] << 7);
            let mut value = weights[half].scale[0][lane] * whole as f32;
            if let Some(minima) = minima {
                value = (minima[half][row][lane] as f32).mul_add(weights[half].offset[0][lane], value);
            }
            *sum = value.mul_add(block.d[0][row], *sum);
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
    let rows = sums.as_chunks_mut::<TASK_ROWS>().0;
    assert!(blocks.len() <= 2 && rows.len() == blocks.len() * BLOCK_ROWS && j < 8);
    #[cfg(target_arch = "x86_64")]
    if level.here() >= Level::Avx512 {
        // SAFETY: the CPU has the level.
        return unsafe {
            match offsets {
                false => x86::of32::<false>(weights, blocks, j, exact, rows),
                true => x86::of32::<true>(weights, blocks, j, exact, rows),
            }
        };
    }
    let _ = level;
    for (row, sums) in rows.iter_mut().enumerate() {
        let (i, row) = (row / BLOCK_ROWS, row % BLOCK_ROWS);
        for (at, sum) in sums.iter_mut().enumerate() {
            let (half, lane) = (at / 16, at % 16);
            let exact = exact.0[2 * i + half][row][lane] as f32;
            *sum = exact.mul_add(weights[half].scale[j][lane] * blocks[i].d[j][row], *sum);
            if offsets {
                *sum = weights[half].offset[j][lane].mul_add(blocks[i].sums[j][row], *sum);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{BLOCK_ROWS, Block, Planes, Sums, TASK_ROWS, Tile};

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

    /// The two halves of a row of sums, changed by `f`.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn update(sums: &mut [f32; TASK_ROWS], half: usize, f: impl FnOnce(__m512) -> __m512) {
        let part = &mut sums.as_chunks_mut::<16>().0[half];
        // SAFETY: 16 values.
        unsafe { _mm512_storeu_ps(part.as_mut_ptr(), f(_mm512_loadu_ps(part.as_ptr()))) }
    }

    #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) fn of256<const HIGH: bool, const MINIMA: bool>(
        weights: &[Planes; 2],
        block: &Block,
        [low, high, minima]: [&[Tile]; 3],
        rows: &mut [[f32; TASK_ROWS]; BLOCK_ROWS],
    ) {
        for half in 0..2 {
            let (d, dmin) = (numbers(&weights[half].scale[0]), numbers(&weights[half].offset[0]));
            let (low, high, minima) = (&low[half], &high[half], &minima[half]);
            for row in 0..BLOCK_ROWS {
                let mut whole = integers(&low[row]);
                if HIGH {
                    whole = _mm512_add_epi32(whole, _mm512_slli_epi32::<7>(integers(&high[row])));
                }
                let mut value = _mm512_mul_ps(d, _mm512_cvtepi32_ps(whole));
                if MINIMA {
                    value = _mm512_fmadd_ps(_mm512_cvtepi32_ps(integers(&minima[row])), dmin, value);
                }
                let dx = _mm512_set1_ps(block.d[0][row]);
                update(&mut rows[row], half, |sum| _mm512_fmadd_ps(value, dx, sum));
            }
        }
    }

    #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) fn of32<const OFFSETS: bool>(
        weights: &[Planes; 2],
        blocks: &[Block],
        j: usize,
        exact: &Sums,
        rows: &mut [[f32; TASK_ROWS]],
    ) {
        for (i, (block, rows)) in blocks.iter().zip(rows.chunks_exact_mut(BLOCK_ROWS)).enumerate() {
            let Some(rows) = rows.first_chunk_mut::<BLOCK_ROWS>() else { return };
            let (ds, activations) = (&block.d[j], &block.sums[j]);
            for half in 0..2 {
                let exact = &exact.0[2 * i + half];
                let (scale, offset) = (numbers(&weights[half].scale[j]), numbers(&weights[half].offset[j]));
                for row in 0..BLOCK_ROWS {
                    let value = _mm512_cvtepi32_ps(integers(&exact[row]));
                    let scale = _mm512_mul_ps(scale, _mm512_set1_ps(ds[row]));
                    update(&mut rows[row], half, |sum| {
                        let mut sum = _mm512_fmadd_ps(value, scale, sum);
                        if OFFSETS {
                            sum = _mm512_fmadd_ps(offset, _mm512_set1_ps(activations[row]), sum);
                        }
                        sum
                    });
                }
            }
        }
    }
}
