//! GPTQ's column loop on a card: the algorithm of quern-quantize's `gptq`, with the same arithmetic in f32, bit for bit as
//! the CPU's AVX-512 does it.
//!
//! ```text
//! take      rows of weights become lines, [position in the order][row]: a thread is a row
//! solve     block by block of 128 positions: scales are searched and columns rounded by one launch (`gptq_round`), then the
//!           errors of the block go to all later columns by a matrix product in f32 (`gptq_product`)
//! refine    piece by piece: the gradient, a product; a better scale and better levels (`gptq_refine`); another product
//! codes, parameters, loss
//! ```
//!
//! Everything waits in one allocation, three times the layer's weights in f32. Nothing depends on timing.

mod args;
mod launch;
mod plan;
mod steps;

use std::ops::Range;

use super::{Card, CudaResult, Memory, Pointer, Stream};
use crate::error::same;
use crate::{Error, Result};

use args::{CodesArgs, LossesArgs, TakeRowsArgs};
use launch::{Kernels, Shape};
pub use plan::{Piece, Plan, Unit};
use plan::Schedule;

/// How the columns of a layer are rounded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Grid {
    /// GPTQ's codes: whole numbers with a zero point.
    Gptq {
        /// The largest code.
        top: f32,
        /// The zero point is in the middle.
        symmetric: bool,
        /// Scales are searched.
        search: bool,
    },
}

/// The factor of a Hessian and the squares on its diagonal, on a card.
#[derive(Clone, Copy, Debug)]
pub struct Factor<'a> {
    /// `[columns][columns]`: `Uᵀ` in the lower triangle, and mirrored above.
    pub factor: &'a Memory,
    /// The squares of the damped Hessian, one for each [`Piece`].
    pub squares: &'a Memory,
}

/// Rows of a layer being quantized on a card.
#[derive(Debug)]
pub struct ColumnLoop<'a> {
    stream: Stream,
    kernels: Kernels,
    factor: Factor<'a>,
    plan: &'a Plan,
    schedule: Schedule,
    grid: Grid,
    rows: usize,
    /// Rows side by side, a multiple of 32.
    width: usize,
    /// Positions of a block.
    block: usize,
    memory: Memory,
    at: Layout,
    /// Residuals begin with something else than 0.
    started: bool,
}

/// Rows side by side are a multiple of so many.
const LINE: usize = 32;

/// Where things are in the memory, in bytes.
#[derive(Clone, Debug, Default)]
struct Layout {
    /// `[columns][width]` each.
    weights: usize,
    residual: usize,
    levels: usize,
    /// `[block][width]` each.
    errors: usize,
    gradient: usize,
    products: usize,
    /// Weights of the group that is chosen, `[largest][width]`.
    values: usize,
    /// `[groups][width]` each.
    scales: usize,
    lows: usize,
    /// u32 by column, f32 by position, u32 by column.
    places: usize,
    diagonal: usize,
    group_of: usize,
    lists: usize,
    end: usize,
}

impl Layout {
    fn new(plan: &Plan, schedule: &Schedule, rows: usize, width: usize, block: usize) -> Self {
        let mut end = 0;
        let mut place = |bytes: usize| {
            let at = end;
            end += bytes.next_multiple_of(256);
            at
        };
        let (columns, groups) = (plan.order.len(), plan.groups.len());
        let lines = |count: usize| 4 * count * width;
        let mut layout = Self {
            weights: place(lines(columns).max(4 * rows * columns)),
            residual: place(lines(columns)),
            levels: place(lines(columns)),
            errors: place(lines(block).max(8 * width)),
            gradient: place(lines(block)),
            products: place(lines(block)),
            values: place(lines(schedule.largest)),
            scales: place(lines(groups)),
            lows: place(lines(groups)),
            places: place(4 * columns),
            diagonal: place(4 * columns),
            group_of: place(4 * columns),
            lists: place(16 * schedule.lists.len()),
            end: 0,
        };
        layout.end = end;
        layout
    }
}

/// Positions of a block on this card.
fn block_of(card: &Card) -> usize {
    let largest = args::round_bytes(128).max(args::refine_bytes(128)).max(args::make_up_bytes(128));
    if card.info().shared_memory >= largest as usize { 128 } else { 64 }
}

impl<'a> ColumnLoop<'a> {
    /// Positions that a [`Piece`] may have on this card.
    pub fn largest_piece(card: &Card) -> usize {
        block_of(card)
    }

    /// Bytes that a loop over `rows` rows takes on a card, nearly.
    pub fn bytes(plan: &Plan, rows: usize) -> usize {
        let width = rows.next_multiple_of(LINE);
        let schedule = plan.schedule(128);
        Layout::new(plan, &schedule, rows, width, 128).end
    }

    /// Takes rows of weights, `[rows][columns]`, to the factor's card.
    ///
    /// # Errors
    /// Things that do not fit together, or too little memory.
    pub fn new(factor: Factor<'a>, plan: &'a Plan, grid: Grid, weights: &[f32]) -> Result<Self> {
        plan.check()?;
        let card = factor.factor.card();
        if factor.squares.card() != card {
            return Err(Error::Device);
        }
        let columns = plan.order.len();
        same("column loop: the factor", 4 * columns * columns, factor.factor.bytes())?;
        if factor.squares.bytes() < 4 * plan.squares() {
            let (expected, found) = (plan.squares(), factor.squares.bytes() / 4);
            return Err(Error::Lengths { what: "column loop: the squares", expected, found });
        }
        let rows = weights.len() / columns.max(1);
        same("column loop: whole rows", rows * columns, weights.len())?;
        let block = block_of(card);
        let largest = plan.pieces.iter().map(|piece| piece.positions.len()).max().unwrap_or(0);
        if largest > block {
            return Err(Error::Lengths { what: "column loop: positions of a piece", expected: block, found: largest });
        }
        let width = rows.next_multiple_of(LINE).max(LINE);
        let schedule = plan.schedule(block);
        let at = Layout::new(plan, &schedule, rows, width, block);
        let stream = Stream::new(card)?;
        let memory = Memory::new(card, at.end)?;
        let kernels = Kernels::new(card, block)?;
        let started = false;
        let mut made =
            Self { stream, kernels, factor, plan, schedule, grid, rows, width, block, memory, at, started };
        made.upload_plan()?;
        made.take(weights)?;
        Ok(made)
    }

    fn upload_plan(&mut self) -> Result<()> {
        let mut places = vec![0u32; self.plan.order.len()];
        for (position, &column) in self.plan.order.iter().enumerate() {
            places[column as usize] = position as u32;
        }
        let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
        let diagonal: Vec<u32> = self.plan.diagonal.iter().map(|d| d.to_bits()).collect();
        let all = [
            (self.at.places, words(&places)),
            (self.at.diagonal, words(&diagonal)),
            (self.at.group_of, words(&self.plan.group_of)),
            (self.at.lists, words(self.schedule.lists.as_flattened())),
        ];
        for (at, bytes) in all {
            self.stream.upload(&self.memory, at, &bytes)?;
        }
        Ok(())
    }

    /// Rows become lines; they are uploaded to where the levels will be.
    fn take(&mut self, weights: &[f32]) -> Result<()> {
        let columns = self.plan.order.len();
        self.stream.fill(&self.memory, self.at.weights, 4 * columns * self.width, 0)?;
        self.stream.upload(&self.memory, self.at.levels, zerocopy::IntoBytes::as_bytes(weights))?;
        self.lines_from_rows(self.at.levels, self.at.weights)?;
        self.stream.fill(&self.memory, self.at.residual, 4 * columns * self.width, 0)?;
        Ok(())
    }

    fn lines_from_rows(&mut self, from: usize, to: usize) -> Result<()> {
        let columns = self.plan.order.len();
        let arguments = TakeRowsArgs {
            from: self.pointer(from).address(),
            to: self.pointer(to).address(),
            places: self.pointer(self.at.places).address(),
            alive: self.pointer(self.at.diagonal).address(),
            rows: self.rows as u32,
            columns: columns as u32,
            width: self.width as u32,
            first: 0,
        };
        let shape = Shape::plain([columns.div_ceil(32), self.rows.div_ceil(32), 1], 256);
        // SAFETY: rows and lines have these lengths, and every column has a place below `columns`.
        unsafe { self.kernels.take_rows.run(&self.stream, shape, &arguments) }
    }

    /// The codes of all rows, `[rows][columns]`, columns in the layer's own order: level less the lowest level of the
    /// group. The weights are lost.
    ///
    /// # Errors
    /// The card is lost.
    pub fn codes(&mut self) -> Result<Vec<u8>> {
        let columns = self.plan.order.len();
        let arguments = CodesArgs {
            levels: self.pointer(self.at.levels).address(),
            lows: self.pointer(self.at.lows).address(),
            places: self.pointer(self.at.places).address(),
            group: self.pointer(self.at.group_of).address(),
            codes: self.pointer(self.at.weights).address(),
            rows: self.rows as u32,
            columns: columns as u32,
            width: self.width as u32,
            shift: 0.0,
        };
        let shape = Shape::plain([columns.div_ceil(128), self.rows.div_ceil(32), 1], 256);
        // SAFETY: lines have these lengths, groups of columns are among the groups, codes fit where the weights were.
        unsafe { self.kernels.codes.run(&self.stream, shape, &arguments)? };
        let mut codes = vec![0; self.rows * columns];
        self.stream.download(&mut codes, &self.memory, self.at.weights)?;
        Ok(codes)
    }

    /// The scales of all groups, `[groups][rows]`.
    ///
    /// # Errors
    /// The card is lost.
    pub fn scales(&self) -> Result<Vec<f32>> {
        self.parameters(self.at.scales)
    }

    /// The lowest levels of all groups, `[groups][rows]`.
    ///
    /// # Errors
    /// The card is lost.
    pub fn lows(&self) -> Result<Vec<f32>> {
        self.parameters(self.at.lows)
    }

    fn parameters(&self, at: usize) -> Result<Vec<f32>> {
        let lines = self.read(at..at + 4 * self.plan.groups.len() * self.width)?;
        let values = lines.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
        let values: Vec<f32> = values.collect();
        Ok(values.chunks_exact(self.width).flat_map(|line| &line[..self.rows]).copied().collect())
    }

    /// Half the square of all residuals.
    ///
    /// # Errors
    /// The card is lost.
    pub fn loss(&mut self) -> Result<f64> {
        let arguments = LossesArgs {
            residual: self.pointer(self.at.residual).address(),
            losses: self.pointer(self.at.errors).address(),
            columns: self.plan.order.len() as u32,
            width: self.width as u32,
        };
        let shape = Shape::plain([self.width / LINE, 1, 1], 256);
        // SAFETY: lines have these lengths, and f64 for each row fit where the errors were.
        unsafe { self.kernels.losses.run(&self.stream, shape, &arguments)? };
        let bytes = self.read(self.at.errors..self.at.errors + 8 * self.rows)?;
        Ok(bytes.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).sum())
    }

    /// Waits until all is done.
    ///
    /// # Errors
    /// The card is lost.
    pub fn synchronize(&self) -> Result<()> {
        Ok(self.stream.synchronize()?)
    }

    fn read(&self, range: Range<usize>) -> CudaResult<Vec<u8>> {
        let mut bytes = vec![0; range.len()];
        self.stream.download(&mut bytes, &self.memory, range.start)?;
        Ok(bytes)
    }

    fn pointer(&self, at: usize) -> Pointer {
        self.memory.pointer().at(at)
    }

    /// Line `position` of lines that begin at `at`.
    fn line(&self, at: usize, position: usize) -> u64 {
        self.pointer(at + 4 * position * self.width).address()
    }
}
