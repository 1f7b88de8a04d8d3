//! The column loop and the sweeps, as launches.

use std::ops::Range;

use super::args::{ChooseArgs, GridArgs, MakeUpArgs, Mask, Product, RefineArgs, RoundArgs};
use super::launch::Shape;
use super::plan::{List, Piece, Step};
use super::{ColumnLoop, Grid, LINE};
use crate::Result;

impl ColumnLoop<'_> {
    /// Rounds all columns.
    ///
    /// # Errors
    /// The card is lost.
    pub fn solve(&mut self) -> Result<()> {
        for step in std::mem::take(&mut self.schedule.steps) {
            match step {
                Step::Choose { positions, number } => self.choose(&positions, number)?,
                Step::Round { positions, groups } => {
                    self.round(&positions, &groups)?;
                    self.pass_on(&positions, positions.end..self.columns(), self.line(self.at.residual, positions.end))?;
                }
            }
        }
        Ok(())
    }

    /// One sweep of refinement.
    ///
    /// # Errors
    /// The card is lost.
    pub fn refine(&mut self) -> Result<()> {
        let plan = self.plan;
        for (piece, list) in plan.pieces.iter().zip(self.schedule.pieces.clone()) {
            self.refine_piece(piece, &list)?;
        }
        Ok(())
    }

    fn columns(&self) -> usize {
        self.plan.order.len()
    }

    /// Address of an element of the factor.
    fn factor_at(&self, row: usize, column: usize) -> u64 {
        self.factor.factor.pointer().at(4 * (row * self.columns() + column)).address()
    }

    fn grid_args(&self) -> GridArgs {
        let Grid::Gptq { top, symmetric, search } = self.grid;
        GridArgs { top, symmetric: symmetric.into(), search: search.into() }
    }

    /// A block of threads for every 32 rows.
    fn by_lines(&self) -> Shape {
        Shape::plain([self.width / LINE, 1, 1], 256)
    }

    fn product(&self, a: u64, a_stride: usize, (rows, depth): (usize, usize), b: u64, c: u64) -> Product {
        Product {
            a,
            b,
            c,
            rows: rows as u32,
            depth: depth as u32,
            a_stride: a_stride as u32,
            width: self.width as u32,
            add: 1,
            mask: Mask::None as u32,
            ..Product::default()
        }
    }

    /// Adds what the errors at `from` mean for the positions `to`, whose lines begin at `lines`.
    fn pass_on(&self, from: &Range<usize>, to: Range<usize>, lines: u64) -> Result<()> {
        let errors = self.pointer(self.at.errors).address();
        let factor = self.factor_at(from.start, to.start);
        let product = self.product(factor, self.columns(), (to.len(), from.len()), errors, lines);
        // SAFETY: the factor has these rows and columns, the errors `from.len()` lines, and `lines` are `to.len()`.
        unsafe { self.kernels.multiply(&self.stream, &[product]) }
    }

    /// Chooses the parameters of a group that is larger than a block.
    fn choose(&mut self, positions: &Range<usize>, number: usize) -> Result<()> {
        let mut values = self.line(self.at.weights, positions.start);
        if positions.start > 0 || self.started {
            values = self.pointer(self.at.values).address();
            self.current(positions)?;
        }
        let arguments = ChooseArgs {
            values,
            diagonal: self.pointer(self.at.diagonal + 4 * positions.start).address(),
            scales: self.line(self.at.scales, number),
            lows: self.line(self.at.lows, number),
            grid: self.grid_args(),
            width: self.width as u32,
            size: positions.len() as u32,
            spare: 0,
        };
        // SAFETY: the lines are those of the group.
        unsafe { self.kernels.choose.run(&self.stream, self.by_lines(), &arguments) }
    }

    /// The weights at `positions` that would make up for all errors so far, among the `values`.
    fn current(&mut self, positions: &Range<usize>) -> Result<()> {
        let from = (&self.memory, self.at.residual + 4 * positions.start * self.width);
        self.stream.copy((&self.memory, self.at.values), from, 4 * positions.len() * self.width)?;
        for first in positions.clone().step_by(self.block) {
            let block = first..positions.end.min(first + self.block);
            let arguments = MakeUpArgs {
                factor: self.factor_at(first, first),
                weights: self.line(self.at.weights, first),
                values: self.line(self.at.values, first - positions.start),
                errors: self.pointer(self.at.errors).address(),
                columns: self.columns() as u32,
                width: self.width as u32,
                size: block.len() as u32,
                spare: 0,
            };
            // SAFETY: the lines are those of the block.
            unsafe { self.kernels.make_up.run(&self.stream, self.by_lines(), &arguments)? };
            let rest = self.line(self.at.values, block.end - positions.start);
            self.pass_on(&block, block.end..positions.end, rest)?;
        }
        Ok(())
    }

    fn round(&mut self, positions: &Range<usize>, groups: &List) -> Result<()> {
        let first = positions.start;
        let arguments = RoundArgs {
            factor: self.factor_at(first, first),
            weights: self.line(self.at.weights, first),
            residual: self.line(self.at.residual, first),
            levels: self.line(self.at.levels, first),
            errors: self.pointer(self.at.errors).address(),
            diagonal: self.pointer(self.at.diagonal + 4 * first).address(),
            groups: self.pointer(self.at.lists + 16 * groups.start).address(),
            scales: self.pointer(self.at.scales).address(),
            lows: self.pointer(self.at.lows).address(),
            offsets: 0,
            grid: self.grid_args(),
            columns: self.columns() as u32,
            width: self.width as u32,
            size: positions.len() as u32,
            count: groups.len() as u32,
            started: (self.started || first > 0).into(),
        };
        // SAFETY: the lines are those of the block, its groups are in the list.
        unsafe { self.kernels.round.run(&self.stream, self.by_lines(), &arguments) }
    }

    fn refine_piece(&mut self, piece: &Piece, groups: &List) -> Result<()> {
        let Range { start, end } = piece.positions;
        let (size, columns) = (end - start, self.columns());
        let square = self.factor.squares.pointer().at(4 * piece.square).address();
        let [gradient, products, changes] =
            [self.at.gradient, self.at.products, self.at.errors].map(|at| self.pointer(at).address());
        let residual = self.line(self.at.residual, start);
        let levels = self.line(self.at.levels, start);
        // g_i = Σ_{j >= i} U_ij r_j
        let shape = (size, columns - start);
        let gradients = Product {
            add: 0,
            mask: Mask::FromDiagonal as u32,
            ..self.product(self.factor_at(start, start), columns, shape, residual, gradient)
        };
        let own = Product { add: 0, ..self.product(square, size, (size, size), levels, products) };
        let both = [gradients, own];
        // SAFETY: the factor has these rows and columns, the square is `[size][size]`, and the lines are those of the
        // piece; gradients and products have room for a piece.
        unsafe { self.kernels.multiply(&self.stream, &both[..1 + usize::from(piece.whole)])? };
        let Grid::Gptq { top, .. } = self.grid;
        let arguments = RefineArgs {
            square,
            gradient,
            products: if piece.whole { products } else { 0 },
            levels,
            changes,
            groups: self.pointer(self.at.lists + 16 * groups.start).address(),
            scales: self.pointer(self.at.scales).address(),
            lows: self.pointer(self.at.lows).address(),
            span: top,
            width: self.width as u32,
            size: size as u32,
            count: groups.len() as u32,
        };
        // SAFETY: as above; the groups are in the list.
        unsafe { self.kernels.refine.run(&self.stream, self.by_lines(), &arguments)? };
        // r_j += Σ_{i <= j} changes_i U_ij
        let shape = (columns - start, size);
        let update = Product {
            mask: Mask::ToDiagonal as u32,
            ..self.product(self.factor_at(start, start), columns, shape, changes, residual)
        };
        // SAFETY: as above.
        unsafe { self.kernels.multiply(&self.stream, &[update]) }
    }
}
