//! Sums of products of columns: packed as pairs of bf16 for the tensor cores, or in f32 where these have no bf16.

use super::super::sums_args::{GramArgs, PackArgs, ProductsArgs, SubtractArgs};
use super::super::{Generation, Pointer};
use super::{Executor, Geometry};
use crate::error::same;
use crate::executor::{Values, ValuesMut};
use crate::{Error, Result};

/// Tokens packed at a time: bounds the memory for them.
const TOKENS: usize = 2048;
/// Tokens of a launch in f32, summed from zero, as on the CPU.
const TOKENS_F32: usize = 256;
/// Rows of a block's tile of sums.
const TILE_ROWS: usize = 128;
/// Strips that packed inputs are cut into, in columns; a block's tile has whole strips.
const STRIP: usize = 64;

/// A kernel of packed products.
#[derive(Clone, Copy)]
struct Kernel {
    name: &'static str,
    block: u32,
    /// Dynamic shared memory.
    shared: u32,
    /// Columns of a block's tile.
    columns: usize,
}

/// For compute capability 8.0 and later.
const ANY: Kernel = Kernel { name: "gram_products", block: 128, shared: 96 << 10, columns: 128 };
/// For 9.0: wide tiles read less, narrow ones leave fewer multiprocessors without work at the end.
const HOPPER: [Kernel; 2] = [
    Kernel { name: "gram_products_256", block: 384, shared: 193 << 10, columns: 256 },
    Kernel { name: "gram_products_128", block: 384, shared: 193 << 10, columns: 128 },
];

/// An input: rows of `columns` values.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub first: Pointer,
    pub columns: usize,
}

/// Where sums are added: `[rows][columns]`.
#[derive(Clone, Copy)]
pub(super) struct Sum {
    pub first: Pointer,
    pub rows: usize,
    pub columns: usize,
    /// Only the lower triangle.
    pub triangle: bool,
}

impl Rows {
    /// Those from this one on.
    fn from(self, row: usize) -> Self {
        Self { first: self.first.at(4 * row * self.columns), ..self }
    }
}

/// Where each part of so many rows begins, and how many it has, at most `step`.
fn parts(rows: usize, step: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..rows).step_by(step).map(move |from| (from, step.min(rows - from)))
}

/// A packed input.
#[derive(Clone, Copy)]
struct Packed {
    first: Pointer,
    /// Bytes of a plane.
    plane: usize,
}

impl Executor {
    /// As [`crate::Executor::gram`].
    ///
    /// # Errors
    /// Lengths and devices that do not fit.
    pub fn gram(&mut self, x: Values<'_>, columns: usize, sum: ValuesMut<'_>) -> Result<()> {
        let (x, sum) = (self.own(x)?, self.own(Values::Cuda(sum.cuda()?))?);
        same("gram: the sum", columns.saturating_mul(columns), sum.len())?;
        let tokens = x.len() / columns.max(1);
        same("gram: whole rows of the input", tokens * columns, x.len())?;
        let rows = Rows { first: x.pointer(), columns };
        self.products(
            rows,
            None,
            tokens,
            Sum { first: sum.pointer(), rows: columns, columns, triangle: true },
        )
    }

    /// As [`crate::Executor::cross`].
    ///
    /// # Errors
    /// Lengths and devices that do not fit.
    pub fn cross(
        &mut self,
        (a, a_columns): (Values<'_>, usize),
        (b, b_columns): (Values<'_>, usize),
        sum: ValuesMut<'_>,
    ) -> Result<()> {
        let (a, b, sum) = (self.own(a)?, self.own(b)?, self.own(Values::Cuda(sum.cuda()?))?);
        same("cross: the sum", a_columns.saturating_mul(b_columns), sum.len())?;
        let tokens = a.len() / a_columns.max(1);
        same("cross: whole rows of a", tokens * a_columns, a.len())?;
        same("cross: rows of b", tokens * b_columns, b.len())?;
        let [a, b] =
            [(a, a_columns), (b, b_columns)].map(|(x, columns)| Rows { first: x.pointer(), columns });
        let sum = Sum { first: sum.pointer(), rows: a_columns, columns: b_columns, triangle: false };
        self.products(a, Some(b), tokens, sum)
    }

    /// As [`crate::Executor::subtract`].
    ///
    /// # Errors
    /// Lengths and devices that do not fit.
    pub fn subtract(&mut self, a: Values<'_>, b: Values<'_>, out: ValuesMut<'_>) -> Result<()> {
        let (a, b, out) = (self.own(a)?, self.own(b)?, self.own(Values::Cuda(out.cuda()?))?);
        same("subtract: second", a.len(), b.len())?;
        same("subtract: output", a.len(), out.len())?;
        if a.is_empty() {
            return Ok(());
        }
        let arguments = SubtractArgs {
            a: a.pointer().address(),
            b: b.pointer().address(),
            out: out.pointer().address(),
            length: a.len() as u64,
        };
        let blocks = a.len().div_ceil(1024).min(1 << 16) as u32;
        // SAFETY: all three have this length.
        unsafe { self.launch("gram", "sums_subtract", Geometry::rows([blocks, 1, 1]), &arguments) }
    }

    /// `sum += aᵀ b`; without `b`, `a` is both.
    pub(super) fn products(&mut self, a: Rows, b: Option<Rows>, tokens: usize, sum: Sum) -> Result<()> {
        if self.generation()? < Generation::Ampere {
            return self.plain_products(a, b.unwrap_or(a), tokens, sum);
        }
        for (from, count) in parts(tokens, TOKENS) {
            self.packed_products(a.from(from), b.map(|b| b.from(from)), count, sum)?;
        }
        Ok(())
    }

    /// The same in f32.
    pub(super) fn plain_products(&mut self, a: Rows, b: Rows, tokens: usize, sum: Sum) -> Result<()> {
        let tiles = sum.rows.div_ceil(128) * sum.columns.div_ceil(128);
        let geometry = Geometry::rows([blocks(tiles)?, 1, 1]);
        for (from, count) in parts(if tiles > 0 { tokens } else { 0 }, TOKENS_F32) {
            let arguments = ProductsArgs {
                a: a.from(from).first.address(),
                b: b.from(from).first.address(),
                sum: sum.first.address(),
                rows: sum.rows as u32,
                columns: sum.columns as u32,
                depth: count as u32,
                a_stride: a.columns as u32,
                b_stride: b.columns as u32,
                stride: sum.columns as u32,
                triangle: sum.triangle.into(),
                sign: 1.0,
                stop: 0,
            };
            // SAFETY: inputs are this many rows, and the sum is of their columns.
            unsafe { self.launch("gram", "gram_f32", geometry, &arguments)? };
        }
        Ok(())
    }

    fn packed_products(&mut self, a: Rows, b: Option<Rows>, tokens: usize, sum: Sum) -> Result<()> {
        if sum.rows == 0 || sum.columns == 0 {
            return Ok(());
        }
        let padded = tokens.next_multiple_of(32);
        let kernel = self.kernel(sum)?;
        let plane = |columns: usize| columns.next_multiple_of(kernel.columns) * padded * 2;
        let (a_plane, b_plane) = (plane(a.columns), b.map_or(0, |b| plane(b.columns)));
        let first = self.workspace.packed.of(&self.stream, 2 * (a_plane + b_plane))?;
        let a_packed = Packed { first, plane: a_plane };
        self.pack(a, tokens, padded, a_packed)?;
        let b_packed = match b {
            Some(b) => {
                let packed = Packed { first: first.at(2 * a_plane), plane: b_plane };
                self.pack(b, tokens, padded, packed)?;
                packed
            }
            None => a_packed,
        };
        let arguments = GramArgs {
            a: a_packed.first.address(),
            b: b_packed.first.address(),
            sum: sum.first.address(),
            a_plane: a_packed.plane as u64,
            b_plane: b_packed.plane as u64,
            rows: sum.rows as u32,
            columns: sum.columns as u32,
            padded_tokens: padded as u32,
            triangle: sum.triangle.into(),
        };
        let tiles = sum.rows.div_ceil(TILE_ROWS) * sum.columns.div_ceil(kernel.columns);
        let Kernel { block, shared, .. } = kernel;
        let geometry = Geometry { grid: [blocks(tiles)?, 1, 1], block, shared };
        // SAFETY: both inputs are packed, zeros behind them up to whole tiles, and the sum is of their columns.
        unsafe { self.launch("gram", kernel.name, geometry, &arguments) }
    }

    /// The kernel that is done first.
    fn kernel(&self, sum: Sum) -> Result<Kernel> {
        if self.generation()? < Generation::Hopper {
            return Ok(ANY);
        }
        let multiprocessors = self.card.info().multiprocessors.max(1);
        // Rounds of tiles, each as long as a tile is wide; wide ones take a seventh less for it (measured).
        let time = |kernel: &Kernel| {
            let rounds = tiles(sum, kernel.columns).div_ceil(multiprocessors);
            rounds * kernel.columns * if kernel.columns == 256 { 6 } else { 7 }
        };
        Ok(HOPPER.into_iter().min_by_key(time).unwrap_or(ANY))
    }

    fn pack(&mut self, x: Rows, tokens: usize, padded: usize, to: Packed) -> Result<()> {
        let arguments = PackArgs {
            x: x.first.address(),
            packed: to.first.address(),
            plane: to.plane as u64,
            tokens: tokens as u32,
            columns: x.columns as u32,
            padded_tokens: padded as u32,
        };
        let strips = to.plane / (STRIP * padded * 2);
        let geometry = Geometry::rows([strips as u32, (padded / 32) as u32, 1]);
        // SAFETY: the input is this many rows, and there is room for two planes of whole strips.
        unsafe { self.launch("gram", "gram_pack", geometry, &arguments) }
    }
}

/// Tiles that have sums to be computed.
fn tiles(sum: Sum, columns: usize) -> usize {
    let all = sum.columns.div_ceil(columns);
    let of_row =
        |row: usize| if sum.triangle { ((row + 1) * TILE_ROWS).div_ceil(columns).min(all) } else { all };
    (0..sum.rows.div_ceil(TILE_ROWS)).map(of_row).sum()
}

/// Blocks of a grid, which has as many tiles.
fn blocks(tiles: usize) -> Result<u32> {
    // Sums of so many tiles exceed every card's memory.
    i32::try_from(tiles).map(i32::cast_unsigned).map_err(|_| Error::Device)
}
