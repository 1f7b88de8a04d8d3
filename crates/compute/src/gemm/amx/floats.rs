//! Weights of float types on the matrix unit, which multiplies pairs of bf16 and adds in f32.
//!
//! A number of f32 is the sum of three bf16: the upper 8 bits of its significand, the next 8, and the last 8. The
//! products of the parts, but for those that are below 2^-24 of the whole, add up to what f32 would give: 3 for weights
//! that are one part (bf16, f8), 5 for two (f16), 6 for three.

// Loops count halves and rows and index several things by them.
#![allow(clippy::needless_range_loop)]

use super::rows::{SECOND_LEVEL, prefetch};
use super::unit::Hardware;
use super::{BLOCK_ROWS, FROM, Unit};
use crate::gemm::floats::Widened;
use crate::gemm::{DEPTH, Kept, TASK_ROWS, store};
use crate::matmul::Shared;
use crate::simd::Level;
use crate::{Matrix, Pool};
use quern_tensor_io::ElementType;

/// Steps of 32 columns in 256.
const STEPS: usize = DEPTH / 32;

/// Sums of a product, in the order of [`super::Sums`].
#[repr(C, align(64))]
pub(crate) struct FloatSums(pub(super) [[[f32; 16]; BLOCK_ROWS]; 4]);

/// 16 activation rows, 256 columns: three parts in steps of 32 columns.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
struct Block([[[[u16; 32]; BLOCK_ROWS]; STEPS]; 3]);

/// 16 weight rows, 256 columns: up to three parts; a row of a tile is 2 columns of 16 weight rows.
#[derive(Clone)]
#[repr(C, align(64))]
struct Planes([[[[u32; 16]; 16]; STEPS]; 3]);

/// All activations of a product: `[depth][n / 16]` blocks.
#[derive(Debug, Default)]
pub(crate) struct FloatRows {
    blocks: Vec<Block>,
    groups: usize,
}

/// Whether `n` activation rows and weights of this type are multiplied on the unit.
pub(crate) fn takes(level: Level, n: usize) -> bool {
    level == Level::Amx && n >= FROM
}

/// How many bf16 hold a weight.
fn parts(w: &Matrix) -> usize {
    match w.element_type() {
        _ if w.scales().is_some() => 3,
        ElementType::BF16 | ElementType::F8E4M3 | ElementType::F8E5M2 => 1,
        ElementType::F16 => 2,
        _ => 3,
    }
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
        self.blocks.resize(depths * groups, Block([[[[0; 32]; BLOCK_ROWS]; STEPS]; 3]));
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
                cut_row(level, &values, row, block);
            }
        });
    }
}

/// Cuts 256 values of a row of a block in three parts.
fn cut_row(level: Level, values: &[f32; DEPTH], row: usize, block: &mut Block) {
    #[cfg(target_arch = "x86_64")]
    if level.here() >= Level::Avx512 {
        // SAFETY: the CPU has the level.
        return unsafe { x86::cut_row(values, row, block) };
    }
    let _ = level;
    let [first, second, third] = &mut block.0;
    for (at, &value) in values.iter().enumerate() {
        let (step, i) = (at / 32, at % 32);
        let (upper, rest) = cut(value);
        first[step][row][i] = (upper >> 16) as u16;
        let (upper, rest) = cut(rest);
        second[step][row][i] = (upper >> 16) as u16;
        third[step][row][i] = (rest.to_bits() >> 16) as u16;
    }
}

/// Cuts a tile of `[256][32]` numbers into so many planes of its two halves.
fn cut_tile(level: Level, tile: &[[f32; TASK_ROWS]; DEPTH], parts: usize, planes: &mut [Planes; 2]) {
    #[cfg(target_arch = "x86_64")]
    if level.here() >= Level::Avx512 {
        // SAFETY: the CPU has the level.
        return unsafe { x86::cut_tile(tile, parts, planes) };
    }
    let _ = level;
    for (pair, [even, odd]) in tile.as_chunks::<2>().0.iter().enumerate() {
        for (at, (&even, &odd)) in even.iter().zip(odd).enumerate() {
            let mut values = [even, odd];
            for part in 0..parts {
                let cuts = values.map(cut);
                values = cuts.map(|(_, rest)| rest);
                let [(even, _), (odd, _)] = cuts;
                planes[at / 16].0[part][pair / 16][pair % 16][at % 16] = even >> 16 | odd;
            }
        }
    }
}

/// Adds sums of one or two blocks to `sums` (`[16 or 32][32]`).
fn add(level: Level, exact: &FloatSums, sums: &mut [f32]) {
    let rows = sums.as_chunks_mut::<TASK_ROWS>().0;
    assert!(rows.len() <= 2 * BLOCK_ROWS);
    #[cfg(target_arch = "x86_64")]
    if level.here() >= Level::Avx512 {
        // SAFETY: the CPU has the level.
        return unsafe { x86::add(exact, rows) };
    }
    let _ = level;
    for (row, sums) in rows.iter_mut().enumerate() {
        for (at, sum) in sums.iter_mut().enumerate() {
            *sum += exact.0[row / BLOCK_ROWS * 2 + at / 16][row % BLOCK_ROWS][at % 16];
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{BLOCK_ROWS, Block, DEPTH, FloatSums, Planes, TASK_ROWS};

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

    #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) fn cut_row(values: &[f32; DEPTH], row: usize, block: &mut Block) {
        for (at, values) in values.as_chunks::<16>().0.iter().enumerate() {
            let (step, half) = (at / 2, at % 2);
            // SAFETY: 16 values.
            let mut rest = unsafe { _mm512_loadu_ps(values.as_ptr()) };
            for part in &mut block.0 {
                let (upper, left) = cut(rest);
                rest = left;
                let out = &mut part[step][row].as_chunks_mut::<16>().0[half];
                let upper = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(upper));
                // SAFETY: 16 values.
                unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), upper) };
            }
        }
    }

    #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) fn cut_tile(tile: &[[f32; TASK_ROWS]; DEPTH], parts: usize, planes: &mut [Planes; 2]) {
        for (pair, rows) in tile.as_chunks::<2>().0.iter().enumerate() {
            for half in 0..2 {
                let [mut even, mut odd] = rows.each_ref().map(|row| {
                    // SAFETY: 16 values.
                    unsafe { _mm512_loadu_ps(row.as_chunks::<16>().0[half].as_ptr()) }
                });
                for part in planes[half].0.iter_mut().take(parts) {
                    let (even_upper, even_rest) = cut(even);
                    let (odd_upper, odd_rest) = cut(odd);
                    (even, odd) = (even_rest, odd_rest);
                    let both = _mm512_or_si512(_mm512_srli_epi32::<16>(even_upper), odd_upper);
                    let out = &mut part[pair / 16][pair % 16];
                    // SAFETY: 16 words.
                    unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), both) };
                }
            }
        }
    }

    #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) fn add(exact: &FloatSums, rows: &mut [[f32; TASK_ROWS]]) {
        for (i, rows) in rows.chunks_mut(BLOCK_ROWS).enumerate() {
            for half in 0..2 {
                for (sums, exact) in rows.iter_mut().zip(&exact.0[2 * i + half]) {
                    let sums = sums.as_chunks_mut::<16>().0[half].as_mut_ptr();
                    // SAFETY: 16 values each.
                    unsafe {
                        let sum = _mm512_add_ps(_mm512_loadu_ps(sums), _mm512_loadu_ps(exact.as_ptr()));
                        _mm512_storeu_ps(sums, sum);
                    }
                }
            }
        }
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
    let parts = parts(w);
    let pairs = pairs.min((w.rows() - first).div_ceil(TASK_ROWS));
    let mut widened = Widened::new(TASK_ROWS);
    let mut planes = vec![Planes([[[[0; 16]; 16]; STEPS]; 3]); 2];
    let Some(planes) = planes.first_chunk_mut::<2>() else { return };
    let mut exact = FloatSums([[[0.0; 16]; BLOCK_ROWS]; 4]);
    let mut kept = Kept::take();
    let size = n.next_multiple_of(BLOCK_ROWS) * TASK_ROWS;
    let sums = kept.sums(pairs * size);
    for depth in 0..w.columns().div_ceil(DEPTH) {
        let columns = DEPTH.min(w.columns() - depth * DEPTH);
        let blocks = &rows.blocks[depth * rows.groups..][..rows.groups];
        for (pair, sums) in sums.chunks_exact_mut(size).enumerate() {
            widened.fill(level, w, first + pair * TASK_ROWS, depth * DEPTH, columns);
            let Some(tile) = widened.whole(columns) else { return };
            cut_tile(level, tile, parts, planes);
            let b = [0, 1].map(|half: usize| planes[half].0.as_ptr().cast());
            for (step, sums) in sums.chunks_mut(2 * BLOCK_ROWS * TASK_ROWS).enumerate() {
                let here = &blocks[2 * step..blocks.len().min(2 * step + 2)];
                if pair == 0 && pairs > 1 {
                    // Later pairs find them there.
                    let next = blocks.len().min(2 * step + 2)..blocks.len().min(2 * step + 4);
                    prefetch::<SECOND_LEVEL, _>(&blocks[next], 0, 1);
                }
                let a = [&here[0], &here[here.len() - 1]].map(|b| b.0.as_ptr().cast());
                // SAFETY: tiles of blocks and planes.
                unsafe { unit.product_of_floats(a, b, (columns.div_ceil(32), parts), &mut exact) };
                add(level, &exact, sums);
            }
        }
    }
    for (i, sums) in sums.chunks_exact(size).enumerate() {
        // SAFETY: guaranteed by the caller.
        unsafe { store(w, first + i * TASK_ROWS, sums, n, y) };
    }
}
