//! What the column loop found, back in RAM.

use std::ops::Range;

use super::super::CudaResult;
use super::args::{CodesArgs, LossesArgs};
use super::launch::Shape;
use super::{ColumnLoop, Grid, LINE};
use crate::Result;

/// Numbers of groups or units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbers {
    /// Scales of groups.
    Scales,
    /// Lowest levels of groups: of GPTQ, zero points negated.
    Lows,
    /// Offsets of groups.
    Offsets,
    /// Whole numbers of the scales of groups; of powers of two, the exponents.
    ScaleCodes,
    /// Whole numbers of the offsets of groups.
    OffsetCodes,
    /// f16s that the scales of a unit's groups share.
    UnitScales,
    /// The same for offsets.
    UnitOffsets,
}

impl ColumnLoop<'_> {
    /// The codes of all rows, `[rows][columns]`, columns in the layer's own order: level less the lowest level of the
    /// group. The weights are lost.
    ///
    /// # Errors
    /// The card is lost.
    pub fn codes(&mut self) -> Result<Vec<u8>> {
        let columns = self.plan.order.len();
        let (lows, shift) = match self.grid {
            Grid::Gptq { .. } => (self.pointer(self.at.lows).address(), 0.0),
            Grid::Blocks(blocks) => (0, -blocks.low),
        };
        let arguments = CodesArgs {
            levels: self.pointer(self.at.levels).address(),
            lows,
            places: self.pointer(self.at.places).address(),
            group: self.pointer(self.at.group_of).address(),
            codes: self.pointer(self.at.weights).address(),
            rows: self.rows as u32,
            columns: columns as u32,
            width: self.width as u32,
            shift,
        };
        let shape = Shape::plain([columns.div_ceil(128), self.rows.div_ceil(32), 1], 256);
        // SAFETY: lines have these lengths, groups of columns are among the groups, codes fit where the weights were.
        unsafe { self.kernels.codes.run(&self.stream, shape, &arguments)? };
        Ok(self.read(self.at.weights..self.at.weights + self.rows * columns)?)
    }

    /// These numbers of all groups or units, `[groups or units][rows]`; none where the format has none.
    ///
    /// # Errors
    /// The card is lost.
    pub fn numbers(&self, numbers: Numbers) -> Result<Vec<f32>> {
        let (at, blocks) = match numbers {
            Numbers::Scales => (self.at.scales, true),
            Numbers::Lows => (self.at.lows, true),
            Numbers::Offsets => (self.at.offsets, self.grid.is_blocks()),
            Numbers::ScaleCodes => (self.at.scale_codes, self.grid.is_blocks()),
            Numbers::OffsetCodes => (self.at.offset_codes, self.grid.is_blocks()),
            Numbers::UnitScales => (self.at.unit_scales, self.grid.shares()),
            Numbers::UnitOffsets => (self.at.unit_offsets, self.grid.shares()),
        };
        let count = match numbers {
            _ if !blocks => 0,
            Numbers::UnitScales | Numbers::UnitOffsets => self.plan.units.len(),
            Numbers::Scales
            | Numbers::Lows
            | Numbers::Offsets
            | Numbers::ScaleCodes
            | Numbers::OffsetCodes => self.plan.groups.len(),
        };
        let bytes = self.read(at..at + 4 * count * self.width)?;
        let lines = bytes.chunks_exact(4 * self.width).map(|line| &line[..4 * self.rows]);
        Ok(lines.flat_map(|line| line.as_chunks().0).map(|bytes| f32::from_le_bytes(*bytes)).collect())
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
}
