//! Sweeps of refinement, as launches.

use std::ops::Range;

use super::args::{AlongArgs, Mask, Product, RefineArgs, SweepArgs};
use super::launch::{Refine, Shape};
use super::plan::{List, Piece};
use super::{ColumnLoop, Grid, LINE};
use crate::Result;

impl ColumnLoop<'_> {
    /// One sweep of refinement.
    ///
    /// # Errors
    /// The card is lost.
    pub fn refine(&mut self) -> Result<()> {
        let plan = self.plan;
        for (piece, list) in plan.pieces.iter().zip(self.schedule.pieces.clone()) {
            match self.grid {
                Grid::Gptq { top, .. } => self.refine_piece(piece, &list, top)?,
                Grid::Blocks(_) => self.sweep_piece(piece, &list)?,
            }
        }
        Ok(())
    }

    /// The gradient of a piece, `g_i = Σ_{j >= i} U_ij r_j`.
    fn gradient(&self, positions: &Range<usize>) -> Product {
        let Range { start, end } = *positions;
        let residual = self.line(self.at.residual, start);
        let gradient = self.pointer(self.at.gradient).address();
        let shape = (end - start, self.columns() - start);
        Product {
            add: 0,
            mask: Mask::FromDiagonal as u32,
            ..self.product(self.factor_at(start, start), self.columns(), shape, residual, gradient)
        }
    }

    /// Lines at `from` times a piece's square.
    fn by_square(&self, piece: &Piece, from: u64, to: u64) -> Product {
        let size = piece.positions.len();
        Product { add: 0, ..self.product(self.square(piece), size, (size, size), from, to) }
    }

    fn square(&self, piece: &Piece) -> u64 {
        self.factor.squares.pointer().at(4 * piece.square).address()
    }

    /// Adds the changes of a piece to the residuals: `r_j += Σ_{i <= j} changes_i U_ij`.
    fn update(&self, positions: &Range<usize>) -> Result<()> {
        let start = positions.start;
        let (residual, changes) =
            (self.line(self.at.residual, start), self.pointer(self.at.errors).address());
        let shape = (self.columns() - start, positions.len());
        let update = Product {
            mask: Mask::ToDiagonal as u32,
            ..self.product(self.factor_at(start, start), self.columns(), shape, changes, residual)
        };
        // SAFETY: the factor has these rows and columns, there is a line of changes for each position, and a residual for
        // each from `start` on.
        unsafe { self.kernels.multiply(&self.stream, &[update]) }
    }

    /// A piece of GPTQ's codes.
    fn refine_piece(&mut self, piece: &Piece, groups: &List, span: f32) -> Result<()> {
        let Refine::Gptq(kernel) = &self.kernels.refine else { return Ok(()) };
        let levels = self.line(self.at.levels, piece.positions.start);
        let products = self.pointer(self.at.along_h).address();
        let both = [self.gradient(&piece.positions), self.by_square(piece, levels, products)];
        // SAFETY: the factor has these rows and columns, the square is `[size][size]`, and the lines are those of the
        // piece; gradients and products have room for a piece.
        unsafe { self.kernels.multiply(&self.stream, &both[..1 + usize::from(piece.whole)])? };
        let arguments = RefineArgs {
            square: self.square(piece),
            gradient: self.pointer(self.at.gradient).address(),
            products: if piece.whole { products } else { 0 },
            levels,
            changes: self.pointer(self.at.errors).address(),
            groups: self.list(groups),
            scales: self.pointer(self.at.scales).address(),
            lows: self.pointer(self.at.lows).address(),
            span,
            width: self.width as u32,
            size: piece.positions.len() as u32,
            count: groups.len() as u32,
        };
        // SAFETY: as above; the groups are in the list.
        unsafe { kernel.run(&self.stream, self.by_lines(), &arguments)? };
        self.update(&piece.positions)
    }

    /// A block of a block type.
    fn sweep_piece(&mut self, piece: &Piece, groups: &List) -> Result<()> {
        let Refine::Blocks { along: along_kernel, sweep, buffers, .. } = &self.kernels.refine else {
            return Ok(());
        };
        let size = piece.positions.len();
        let levels = self.line(self.at.levels, piece.positions.start);
        let [along, below, along_h, below_h] =
            [self.at.along, self.at.below, self.at.along_h, self.at.below_h]
                .map(|at| self.pointer(at).address());
        let offsets = matches!(self.grid, Grid::Blocks(blocks) if blocks.kind.has_offset_codes());
        let gradient = self.gradient(&piece.positions);
        let (products, count) = if self.grid.shares() {
            let arguments = AlongArgs {
                levels,
                groups: self.list(groups),
                parameters: self.parameters(),
                along,
                below: if offsets { below } else { 0 },
                width: self.width as u32,
                count: groups.len() as u32,
            };
            let shape = Shape::plain([self.width / LINE, size.div_ceil(32), 1], 256);
            // SAFETY: the lines are those of the piece, which has room for as many.
            unsafe { along_kernel.run(&self.stream, shape, &arguments)? };
            let own = [self.by_square(piece, along, along_h), self.by_square(piece, below, below_h)];
            ([gradient, own[0], own[1]], 2 + usize::from(offsets))
        } else {
            let own = self.by_square(piece, levels, along_h);
            ([gradient, own, own], 2)
        };
        // SAFETY: as for `refine_piece`.
        unsafe { self.kernels.multiply(&self.stream, &products[..count])? };
        let arguments = SweepArgs {
            square: self.square(piece),
            gradient: self.pointer(self.at.gradient).address(),
            levels,
            changes: self.pointer(self.at.errors).address(),
            along,
            below,
            along_h,
            below_h,
            groups: self.list(groups),
            parameters: self.parameters(),
            kind: self.grid.args(),
            width: self.width as u32,
            size: size as u32,
            count: groups.len() as u32,
            buffers: *buffers as u32,
        };
        // SAFETY: as above; the groups are in the list.
        unsafe { sweep.run(&self.stream, self.by_lines(), &arguments)? };
        self.update(&piece.positions)
    }
}
