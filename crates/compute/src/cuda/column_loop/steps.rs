//! The column loop, as launches.

use std::ops::Range;

use super::args::{
    BeginArgs, ChooseArgs, MakeUpArgs, Mask, ParametersArgs, Product, RoundArgs, SharedArgs, StartArgs,
};
use super::launch::{Refine, Shape};
use super::plan::{List, Step};
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
                Step::Begin { unit, groups } => self.begin(unit, &groups)?,
                Step::Choose { positions, number, unit } => self.choose(&positions, number, unit)?,
                Step::Round { positions, groups } => {
                    self.round(&positions, &groups)?;
                    self.pass_on(
                        &positions,
                        positions.end..self.columns(),
                        self.line(self.at.residual, positions.end),
                    )?;
                }
            }
        }
        Ok(())
    }

    /// From what the layer should make up for, in `residual`, to the residuals that the loop begins with.
    pub(super) fn start(&mut self) -> Result<()> {
        let minus = self.pointer(self.at.errors).address();
        for first in (0..self.columns()).step_by(self.block).rev() {
            let size = self.block.min(self.columns() - first);
            let arguments = StartArgs {
                factor: self.factor_at(first, first),
                residual: self.line(self.at.residual, first),
                minus,
                columns: self.columns() as u32,
                width: self.width as u32,
                size: size as u32,
                spare: 0,
            };
            // SAFETY: the lines are those of the block.
            unsafe { self.kernels.start.run(&self.stream, self.by_lines(), &arguments)? };
            // M_i -= Σ_j Y_j U_ij, the last 16 columns first.
            let residual = self.pointer(self.at.residual).address();
            let product = Product {
                reverse: 1,
                ..self.product(self.factor_at(first, 0), self.columns(), (first, size), minus, residual)
            };
            // SAFETY: the factor has these rows and columns, and `minus` as many lines.
            unsafe { self.kernels.multiply(&self.stream, &[product])? };
        }
        self.started = true;
        Ok(())
    }

    pub(super) fn columns(&self) -> usize {
        self.plan.order.len()
    }

    /// Address of an element of the factor.
    pub(super) fn factor_at(&self, row: usize, column: usize) -> u64 {
        self.factor.factor.pointer().at(4 * (row * self.columns() + column)).address()
    }

    pub(super) fn parameters(&self) -> ParametersArgs {
        let at = |offset: usize| self.pointer(offset).address();
        ParametersArgs {
            scales: at(self.at.scales),
            lows: at(self.at.lows),
            offsets: at(self.at.offsets),
            scale_codes: at(self.at.scale_codes),
            offset_codes: at(self.at.offset_codes),
            unit_scales: at(self.at.unit_scales),
            unit_offsets: at(self.at.unit_offsets),
        }
    }

    /// Address of some groups.
    pub(super) fn list(&self, groups: &List) -> u64 {
        self.pointer(self.at.lists + 16 * groups.start).address()
    }

    /// Address of the diagonal from a position on.
    fn diagonal(&self, position: usize) -> u64 {
        self.pointer(self.at.diagonal + 4 * position).address()
    }

    /// A block of threads for every 32 rows.
    pub(super) fn by_lines(&self) -> Shape {
        Shape::plain([self.width / LINE, 1, 1], 256)
    }

    pub(super) fn product(
        &self,
        a: u64,
        a_stride: usize,
        (rows, depth): (usize, usize),
        b: u64,
        c: u64,
    ) -> Product {
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

    /// Chooses what the groups of a unit share.
    fn begin(&mut self, unit: usize, groups: &List) -> Result<()> {
        let Refine::Blocks { .. } = self.kernels.refine else { return Ok(()) };
        let unit = self.plan.units[unit].clone();
        let values = self.current(&unit.positions)?;
        let curvature = self.pointer(self.at.along_h).address();
        let begin_args = BeginArgs {
            values,
            diagonal: self.diagonal(unit.positions.start),
            groups: self.list(groups),
            curvature,
            parameters: self.parameters(),
            kind: self.grid.args(),
            width: self.width as u32,
            spare: 0,
        };
        let shared_args = SharedArgs {
            diagonal: begin_args.diagonal,
            groups: begin_args.groups,
            curvature,
            parameters: begin_args.parameters,
            kind: begin_args.kind,
            width: self.width as u32,
            count: groups.len() as u32,
            unit: unit.number as u32,
            spare: 0,
        };
        let offsets = matches!(self.grid, Grid::Blocks(blocks) if blocks.kind.has_offset_codes());
        let lines = self.width / LINE;
        let Refine::Blocks { begin, shared, .. } = &self.kernels.refine else { return Ok(()) };
        // SAFETY: the lines are those of the unit, the groups are in the list, at most 16 of them.
        unsafe {
            begin.run(&self.stream, Shape::plain([lines, groups.len(), 1], 256), &begin_args)?;
            shared.run(&self.stream, Shape::plain([lines, 1 + usize::from(offsets), 1], 256), &shared_args)
        }
    }

    /// Chooses the parameters of a group that is larger than a block.
    fn choose(&mut self, positions: &Range<usize>, number: usize, unit: usize) -> Result<()> {
        let arguments = ChooseArgs {
            values: self.current(positions)?,
            diagonal: self.diagonal(positions.start),
            parameters: self.parameters(),
            kind: self.grid.args(),
            width: self.width as u32,
            size: positions.len() as u32,
            group: number as u32,
            unit: unit as u32,
        };
        // SAFETY: the lines are those of the group.
        unsafe { self.kernels.choose.run(&self.stream, self.by_lines(), &arguments) }
    }

    /// Address of the weights at `positions` that would make up for all errors so far.
    fn current(&mut self, positions: &Range<usize>) -> Result<u64> {
        if positions.start == 0 && !self.started {
            return Ok(self.pointer(self.at.weights).address());
        }
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
        Ok(self.pointer(self.at.values).address())
    }

    fn round(&mut self, positions: &Range<usize>, groups: &List) -> Result<()> {
        let first = positions.start;
        let arguments = RoundArgs {
            factor: self.factor_at(first, first),
            weights: self.line(self.at.weights, first),
            residual: self.line(self.at.residual, first),
            levels: self.line(self.at.levels, first),
            errors: self.pointer(self.at.errors).address(),
            diagonal: self.diagonal(first),
            groups: self.list(groups),
            parameters: self.parameters(),
            kind: self.grid.args(),
            columns: self.columns() as u32,
            width: self.width as u32,
            size: positions.len() as u32,
            count: groups.len() as u32,
            started: (self.started || first > 0).into(),
        };
        // SAFETY: the lines are those of the block, its groups are in the list.
        unsafe { self.kernels.round.run(&self.stream, self.by_lines(), &arguments) }
    }
}
