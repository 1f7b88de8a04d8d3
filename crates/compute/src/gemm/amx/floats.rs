//! Weights of float types on the matrix unit, which multiplies pairs of bf16 and adds in f32.
//!
//! A number of f32 is the sum of three bf16: the upper 8 bits of its significand, the next 8, and the last 8. The
//! products of the parts, but for those that are below 2^-24 of the whole, add up to what f32 would give: 3 for weights
//! that are one part (bf16, f8), 5 for two (f16), 6 for three.

use super::unit::Hardware;
use super::{BLOCK_ROWS, FROM, Unit};
use crate::gemm::floats::Widened;
use crate::gemm::{DEPTH, TASK_ROWS, store};
use crate::matmul::Shared;
use crate::simd::{Level, Op, dispatch};
use crate::{Matrix, Pool};
use quern_tensor_io::ElementType;

/// Steps of 32 columns in 256.
const STEPS: usize = DEPTH / 32;
/// Bytes of a tile.
const TILE: usize = 1024;

/// Sums of a product, in the order of [`super::Sums`].
#[repr(C, align(64))]
pub(super) struct FloatSums(pub(super) [[[f32; 16]; BLOCK_ROWS]; 4]);

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
                dispatch(level, CutRow { values: &values, row, block });
            }
        });
    }
}

struct CutRow<'a> {
    values: &'a [f32; DEPTH],
    row: usize,
    block: &'a mut Block,
}

impl Op for CutRow<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let [first, second, third] = &mut self.block.0;
        for (step, values) in self.values.as_chunks::<32>().0.iter().enumerate() {
            let (first, second) = (&mut first[step][self.row], &mut second[step][self.row]);
            let third = &mut third[step][self.row];
            for i in 0..32 {
                let (upper, rest) = cut(values[i]);
                first[i] = (upper >> 16) as u16;
                let (upper, rest) = cut(rest);
                second[i] = (upper >> 16) as u16;
                third[i] = (rest.to_bits() >> 16) as u16;
            }
        }
    }
}

/// Cuts a tile of `[256][32]` numbers into the planes of its two halves.
struct CutTile<'a, const PARTS: usize> {
    tile: &'a [f32],
    planes: &'a mut [Planes; 2],
}

impl<const PARTS: usize> Op for CutTile<'_, PARTS> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let rows = self.tile.as_chunks::<TASK_ROWS>().0;
        for (pair, rows) in rows.as_chunks::<2>().0.iter().enumerate() {
            for half in 0..2 {
                let mut values = [[0f32; 16]; 2];
                values[0].copy_from_slice(&rows[0][16 * half..][..16]);
                values[1].copy_from_slice(&rows[1][16 * half..][..16]);
                for part in 0..PARTS {
                    let out = &mut self.planes[half].0[part][pair / 16][pair % 16];
                    for lane in 0..16 {
                        let (even, rest) = cut(values[0][lane]);
                        values[0][lane] = rest;
                        let (odd, rest) = cut(values[1][lane]);
                        values[1][lane] = rest;
                        out[lane] = even >> 16 | odd;
                    }
                }
            }
        }
    }
}

struct Add<'a> {
    exact: &'a FloatSums,
    sums: &'a mut [f32],
}

impl Op for Add<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for (row, sums) in self.sums.as_chunks_mut::<TASK_ROWS>().0.iter_mut().enumerate() {
            for half in 0..2 {
                let exact = &self.exact.0[row / BLOCK_ROWS * 2 + half][row % BLOCK_ROWS];
                for lane in 0..16 {
                    sums[16 * half + lane] += exact[lane];
                }
            }
        }
    }
}

/// Multiplies 32 weight rows from `first` on (or as many as there are) with all activations. `y` is the output
/// `[n][rows]`; only these rows are written.
///
/// # Safety
/// Nobody else uses these rows of `y`.
pub(crate) unsafe fn floats(
    level: Level,
    w: &Matrix,
    first: usize,
    rows: &FloatRows,
    n: usize,
    y: &Shared,
) {
    let Some(unit) = Hardware::new(64) else { return };
    // SAFETY: guaranteed by the caller.
    unsafe { floats_on(&unit, level, w, first, rows, n, y) };
}

/// The same on any unit.
///
/// # Safety
/// Nobody else uses these rows of `y`.
pub(super) unsafe fn floats_on<U: Unit>(
    unit: &U,
    level: Level,
    w: &Matrix,
    first: usize,
    rows: &FloatRows,
    n: usize,
    y: &Shared,
) {
    let parts = parts(w);
    let mut widened = Widened::new();
    let mut planes = vec![Planes([[[[0; 16]; 16]; STEPS]; 3]); 2];
    let Some(planes) = planes.first_chunk_mut::<2>() else { return };
    let mut exact = FloatSums([[[0.0; 16]; BLOCK_ROWS]; 4]);
    let mut sums = vec![0f32; n.next_multiple_of(BLOCK_ROWS) * TASK_ROWS];
    for depth in 0..w.columns().div_ceil(DEPTH) {
        let columns = DEPTH.min(w.columns() - depth * DEPTH);
        widened.fill(level, w, first, depth * DEPTH, columns);
        let tile = widened.tile();
        match parts {
            1 => dispatch(level, CutTile::<1> { tile, planes }),
            2 => dispatch(level, CutTile::<2> { tile, planes }),
            _ => dispatch(level, CutTile::<3> { tile, planes }),
        }
        // The smallest products first.
        let products = (0..parts).rev().flat_map(|j| (0..3 - j).rev().map(move |i| (i, j)));
        let tile = |part: usize, step: usize| (part * STEPS + step) * TILE;
        let steps: Vec<[usize; 2]> = products
            .flat_map(|(i, j)| (0..columns.div_ceil(32)).map(move |step| [tile(i, step), tile(j, step)]))
            .collect();
        let b = [0, 1].map(|half: usize| planes[half].0.as_ptr().cast());
        let blocks = &rows.blocks[depth * rows.groups..][..rows.groups];
        for (blocks, sums) in blocks.chunks(2).zip(sums.chunks_mut(2 * BLOCK_ROWS * TASK_ROWS)) {
            let a: [*const u8; 2] = [&blocks[0], &blocks[blocks.len() - 1]].map(|b| b.0.as_ptr().cast());
            // SAFETY: tiles of blocks and planes.
            unsafe { unit.product_of_floats(&a[..blocks.len()], b, &steps, &mut exact) };
            dispatch(level, Add { exact: &exact, sums });
        }
    }
    // SAFETY: guaranteed by the caller.
    unsafe { store(w, first, &sums, n, y) };
}
