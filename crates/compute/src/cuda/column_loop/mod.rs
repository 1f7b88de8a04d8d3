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
mod grid;
mod launch;
mod layout;
mod plan;
mod results;
mod shifted;
mod staging;
mod steps;
mod sweeps;

use super::{Card, Memory, Pointer, Stream};
use crate::error::same;
use crate::{Error, Pool, Result};

use args::TakeRowsArgs;
pub use grid::{Blocks, BlocksKind, Grid};
use launch::{Kernels, Shape};
use layout::Layout;
use plan::Schedule;
pub use plan::{Piece, Plan, Unit};
pub use results::Numbers;
pub use shifted::ShiftSums;
use staging::Staging;

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
    staging: Staging<'a>,
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

/// Positions of a block on this card.
fn block_of(card: &Card) -> usize {
    let largest = args::round_bytes(128).max(args::make_up_bytes(128));
    if card.info().shared_memory >= largest as usize { 128 } else { 64 }
}

impl<'a> ColumnLoop<'a> {
    /// Bytes that a loop over `rows` rows takes on a card, nearly.
    pub fn bytes(plan: &Plan, grid: Grid, rows: usize) -> usize {
        let width = rows.next_multiple_of(LINE);
        let schedule = plan.schedule(128, grid.shares());
        Layout::new(plan, &schedule, grid, rows, width, 128).end
    }

    /// Takes rows of weights, `[rows][columns]`, to the factor's card; `pool` helps with copies.
    ///
    /// # Errors
    /// Things that do not fit together, or too little memory.
    pub fn new(
        pool: &'a Pool,
        factor: Factor<'a>,
        plan: &'a Plan,
        grid: Grid,
        weights: &[f32],
    ) -> Result<Self> {
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
        plan.check_grid(grid)?;
        let block = block_of(card);
        let width = rows.next_multiple_of(LINE).max(LINE);
        let schedule = plan.schedule(block, grid.shares());
        let at = Layout::new(plan, &schedule, grid, rows, width, block);
        let stream = Stream::new(card)?;
        let staging = Staging::of(card, pool)?;
        let memory = Memory::new(card, at.end)?;
        let kernels = Kernels::new(card, grid, block, plan.largest_piece())?;
        let started = false;
        let mut made = Self {
            stream,
            staging,
            kernels,
            factor,
            plan,
            schedule,
            grid,
            rows,
            width,
            block,
            memory,
            at,
            started,
        };
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
        self.upload_rows(weights)?;
        self.lines_from_rows(self.at.levels, self.at.weights)?;
        self.stream.fill(&self.memory, self.at.residual, 4 * columns * self.width, 0)?;
        self.stream.fill(&self.memory, self.at.scales, self.at.places - self.at.scales, 0)?;
        Ok(())
    }

    /// What the layer should make up for, `[rows][columns]` as the weights: residuals begin with it.
    ///
    /// # Errors
    /// Another length than the weights', or a lost card.
    pub fn start_from(&mut self, target: &[f32]) -> Result<()> {
        same("column loop: values of the target", self.rows * self.plan.order.len(), target.len())?;
        self.upload_rows(target)?;
        self.lines_from_rows(self.at.levels, self.at.residual)?;
        self.start()
    }

    /// Rows to where the levels will be.
    fn upload_rows(&mut self, rows: &[f32]) -> Result<()> {
        let bytes = zerocopy::IntoBytes::as_bytes(rows);
        self.staging.upload(&self.stream, (&self.memory, self.at.levels), bytes)
    }

    fn lines_from_rows(&mut self, from: usize, to: usize) -> Result<()> {
        let arguments = TakeRowsArgs {
            from: self.pointer(from).address(),
            to: self.pointer(to).address(),
            places: self.pointer(self.at.places).address(),
            alive: self.pointer(self.at.diagonal).address(),
            rows: self.rows as u32,
            columns: self.plan.order.len() as u32,
            width: self.width as u32,
            scale: 1.0,
        };
        // SAFETY: rows and lines have these lengths, and every column has a place below `columns`.
        unsafe { self.kernels.take_rows.run(&self.stream, self.by_squares(), &arguments) }
    }

    /// A block of threads for every 32 columns of 32 rows.
    fn by_squares(&self) -> Shape {
        Shape::plain([self.plan.order.len().div_ceil(32), self.width.div_ceil(32), 1], 256)
    }

    fn pointer(&self, at: usize) -> Pointer {
        self.memory.pointer().at(at)
    }

    /// Line `position` of lines that begin at `at`.
    fn line(&self, at: usize, position: usize) -> u64 {
        self.pointer(at + 4 * position * self.width).address()
    }
}
