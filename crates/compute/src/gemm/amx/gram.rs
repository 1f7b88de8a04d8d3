//! Gram matrices on the matrix unit: numbers in three parts of bf16, as the weights of float types are.
//!
//! The input serves both sides of the product, packed once for each: as activations, 16 columns with their tokens one
//! after the other, and as weights, pairs of tokens of 16 columns. A task is a square of the result; its sums stay in the
//! second-level cache over all tokens that are packed.

// Loops count halves and columns and index several things by them.
#![allow(clippy::needless_range_loop)]

use super::floats::{Block, FloatSums, Planes, cut_row, cut_tile};
use super::unit::Hardware;
use super::{BLOCK_ROWS, Unit};
use crate::Pool;
use crate::gemm::{DEPTH, TASK_ROWS, transpose};
use crate::matmul::Shared;
use crate::simd::Level;

/// Tokens packed at a time: bounds the scratch memory, 12 bytes a number.
const PACKED: usize = 4 * DEPTH;
/// Columns of a task: its sums, and both its packed inputs of 256 tokens, fit the second-level cache.
const SQUARE: usize = 128;
/// From this many columns and tokens on, the unit is faster than vectors.
const FROM: usize = 32;

/// Whether such a matrix is computed on the unit.
pub(crate) fn takes(level: Level, columns: usize, tokens: usize) -> bool {
    level == Level::Amx && columns >= FROM && tokens >= FROM
}

/// As [`crate::gram()`], whose checks are done: `sum[i][j] += Σ x[t][i] x[t][j]` for `j <= i`.
pub(crate) fn gram(pool: &Pool, x: &[f32], columns: usize, sum: &Shared) {
    gram_on(Hardware::new, pool, x, columns, sum);
}

/// The same on any unit, of which each task makes its own.
pub(super) fn gram_on<U: Unit>(
    unit: impl Fn() -> Option<U> + Sync,
    pool: &Pool,
    x: &[f32],
    columns: usize,
    sum: &Shared,
) {
    let pairs = columns.div_ceil(TASK_ROWS);
    let mut packed = Packed::default();
    for x in x.chunks(PACKED * columns) {
        let tokens = x.len() / columns;
        packed.fill(pool, x, columns);
        let packed = &packed;
        let squares = columns.div_ceil(SQUARE);
        pool.run(squares * (squares + 1) / 2, |task| {
            let Some(unit) = unit() else { return };
            let (row, column) = crate::gram::triangle_index(task);
            let of_square = |at: usize| at * SQUARE / TASK_ROWS..pairs.min((at + 1) * SQUARE / TASK_ROWS);
            let mut products = FloatSums([[[0.0; 16]; BLOCK_ROWS]; 4]);
            for depth in 0..tokens.div_ceil(DEPTH) {
                let steps = DEPTH.min(tokens - depth * DEPTH).div_ceil(32);
                for i in of_square(row) {
                    for j in of_square(column) {
                        if j > i {
                            break;
                        }
                        let (blocks, planes) =
                            (&packed.blocks[depth * pairs + i], &packed.planes[depth * pairs + j]);
                        let (a, b) = (blocks.each_ref().map(parts), planes.each_ref().map(parts));
                        // SAFETY: 8 steps of three parts each.
                        unsafe { unit.product_of_floats(a, b, (steps, 3), &mut products) };
                        // SAFETY: this task alone writes its square.
                        unsafe { add(&products, (i * TASK_ROWS, j * TASK_ROWS), columns, sum) };
                    }
                }
            }
        });
    }
}

fn parts<T>(x: &T) -> *const u8 {
    std::ptr::from_ref(x).cast()
}

/// Adds products to the lower triangle, from this row and column on.
///
/// # Safety
/// Nobody else uses these rows and columns of `sum`.
unsafe fn add(products: &FloatSums, (first, column): (usize, usize), columns: usize, sum: &Shared) {
    for row in first..columns.min(first + TASK_ROWS) {
        let width = (row + 1 - column).min(TASK_ROWS).min(columns - column);
        // SAFETY: guaranteed by the caller; rows differ.
        let line = unsafe { sum.slice(row * columns + column, width) };
        let (block, at) = ((row - first) / BLOCK_ROWS, (row - first) % BLOCK_ROWS);
        for half in 0..2 {
            let line = line.chunks_mut(16).nth(half).unwrap_or_default();
            line.iter_mut().zip(&products.0[2 * block + half][at]).for_each(|(sum, product)| *sum += product);
        }
    }
}

/// The input for both sides of the product: `[256 tokens][32 columns]` pieces, `[depth][pair of 16 columns]`.
#[derive(Default)]
struct Packed {
    blocks: Vec<[Block; 2]>,
    planes: Vec<[Planes; 2]>,
}

impl Packed {
    /// Lays out `x` (`[tokens][columns]`); what is missing to whole pieces is zero.
    fn fill(&mut self, pool: &Pool, x: &[f32], columns: usize) {
        let (pairs, tokens, level) = (columns.div_ceil(TASK_ROWS), x.len() / columns, pool.level());
        let pieces = tokens.div_ceil(DEPTH) * pairs;
        self.blocks.resize(pieces, [Block::ZERO; 2]);
        self.planes.resize(pieces, [Planes::ZERO; 2]);
        let places = Places(self.blocks.as_mut_ptr(), self.planes.as_mut_ptr());
        let places = &places;
        pool.run(pieces, |piece| {
            let (depth, pair) = (piece / pairs, piece % pairs);
            // SAFETY: this task alone has this piece, of which there are so many.
            let (blocks, planes) = unsafe { (&mut *places.0.add(piece), &mut *places.1.add(piece)) };
            let width = TASK_ROWS.min(columns - pair * TASK_ROWS);
            let tokens = DEPTH.min(tokens - depth * DEPTH);
            let mut tile = [[0f32; TASK_ROWS]; DEPTH];
            for (t, line) in tile.iter_mut().take(tokens).enumerate() {
                let from = &x[(depth * DEPTH + t) * columns + pair * TASK_ROWS..][..width];
                line[..width].copy_from_slice(from);
            }
            cut_tile(level, &tile, 3, planes);
            for (half, block) in blocks.iter_mut().enumerate() {
                let mut tokens_of = [[0f32; DEPTH]; BLOCK_ROWS];
                for (sixteen, lines) in tile.as_chunks::<16>().0.iter().enumerate() {
                    let lines = lines.each_ref().map(|line| &line[16 * half..][..16]);
                    let out = &mut tokens_of.as_flattened_mut()[16 * sixteen..];
                    transpose::floats(level, &lines, out, DEPTH);
                }
                for (column, values) in tokens_of.iter().enumerate() {
                    cut_row(level, values, column, block);
                }
            }
        });
    }
}

struct Places(*mut [Block; 2], *mut [Planes; 2]);
// SAFETY: each task writes its own pieces.
unsafe impl Sync for Places {}
