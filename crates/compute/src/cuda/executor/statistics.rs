//! Statistics of logits, row by row, and of inputs, column by column: only the statistics are copied to RAM.

use super::super::args::{ColumnsArgs, KlArgs, StatisticsArgs};
use super::{Executor, Geometry};
use crate::error::same;
use crate::executor::{RowLikelihood, Values};
use crate::{Error, Result};

/// Threads of a block, which has one row.
const BLOCK: u32 = 512;

impl Executor {
    /// As [`crate::Executor::likelihood`].
    ///
    /// # Errors
    /// Lengths and devices that do not fit.
    pub fn likelihood(
        &mut self,
        logits: Values<'_>,
        vocabulary: usize,
        targets: &[u32],
    ) -> Result<Vec<RowLikelihood>> {
        let logits = self.own(logits)?;
        RowLikelihood::check(logits.len(), vocabulary, targets)?;
        let rows = targets.len();
        if rows == 0 {
            return Ok(Vec::new());
        }
        // [rows] each: f64 sums, then 4 bytes of targets, of their logits, of the largest's indices.
        let [at_target, at_logit, at_largest, end] = [8, 12, 16, 20].map(|bytes| bytes * rows);
        let start = self.workspace.statistics.of(&self.stream, end)?;
        let memory = self.workspace.statistics.memory().ok_or(Error::Device)?;
        let bytes: Vec<u8> = targets.iter().flat_map(|target| target.to_le_bytes()).collect();
        self.stream.upload(memory, at_target, &bytes)?;
        let arguments = StatisticsArgs {
            logits: logits.pointer().address(),
            target: start.at(at_target).address(),
            log_sum_exp: start.address(),
            target_logit: start.at(at_logit).address(),
            largest: start.at(at_largest).address(),
            stride: vocabulary as i64,
            rows: rows as i32,
            vocab: vocabulary as i32,
        };
        // SAFETY: the logits are one row for each target, the targets are within a row, and there is room for the results.
        unsafe { self.launch("statistics", "statistics_rows", geometry(rows), &arguments)? };
        let read = self.statistics(end)?;
        let rows = doubles(&read[..at_target]).zip(words(&read[at_logit..at_largest]));
        let rows = rows.zip(words(&read[at_largest..]));
        Ok(rows
            .map(|((log_sum_exp, logit), largest)| RowLikelihood {
                log_sum_exp,
                target_logit: f32::from_bits(logit),
                largest,
            })
            .collect())
    }

    /// As [`crate::Executor::divergence`].
    ///
    /// # Errors
    /// Lengths and devices that do not fit.
    pub fn divergence(
        &mut self,
        reference: Values<'_>,
        logits: Values<'_>,
        vocabulary: usize,
    ) -> Result<Vec<f64>> {
        let (reference, logits) = (self.own(reference)?, self.own(logits)?);
        let rows = logits.len() / vocabulary.max(1);
        same("divergence: whole rows", rows * vocabulary, logits.len())?;
        same("divergence: logits of the reference", logits.len(), reference.len())?;
        if rows == 0 {
            return Ok(Vec::new());
        }
        let arguments = KlArgs {
            reference: reference.pointer().address(),
            logits: logits.pointer().address(),
            divergence: self.workspace.statistics.of(&self.stream, 8 * rows)?.address(),
            reference_stride: vocabulary as i64,
            stride: vocabulary as i64,
            rows: rows as i32,
            vocab: vocabulary as i32,
        };
        // SAFETY: both are the same number of whole rows, and there is room for the results.
        unsafe { self.launch("statistics", "statistics_kl", geometry(rows), &arguments)? };
        Ok(doubles(&self.statistics(8 * rows)?).collect())
    }

    /// As [`crate::Executor::column_squares`].
    ///
    /// # Errors
    /// Lengths and devices that do not fit.
    pub fn column_squares(&mut self, x: Values<'_>, columns: usize, sums: &mut Vec<f64>) -> Result<()> {
        let x = self.own(x)?;
        let rows = x.len() / columns.max(1);
        same("column_squares: whole rows", rows * columns, x.len())?;
        sums.clear();
        if rows == 0 {
            sums.resize(columns, 0.0);
            return Ok(());
        }
        let arguments = ColumnsArgs {
            x: x.pointer().address(),
            sums: self.workspace.statistics.of(&self.stream, 8 * columns)?.address(),
            rows: rows as i32,
            columns: columns as i32,
        };
        let geometry = Geometry { grid: [(columns as u32).div_ceil(32), 1, 1], block: 1024, shared: 0 };
        // SAFETY: these are whole rows, and there is room for the sums.
        unsafe { self.launch("statistics", "statistics_columns", geometry, &arguments)? };
        sums.extend(doubles(&self.statistics(8 * columns)?));
        Ok(())
    }

    /// Values on this card.
    pub(super) fn own<'v>(&self, values: Values<'v>) -> Result<super::super::Values<'v>> {
        let values = values.cuda()?;
        match values.place() {
            Some((memory, _)) if memory.card() != &self.card => Err(Error::Device),
            Some(_) | None => Ok(values),
        }
    }

    /// The first bytes of the results, when they are computed.
    fn statistics(&self, bytes: usize) -> Result<Vec<u8>> {
        let mut read = vec![0; bytes];
        let memory = self.workspace.statistics.memory().ok_or(Error::Device)?;
        self.stream.download(&mut read, memory, 0)?;
        Ok(read)
    }
}

/// One block for each row.
fn geometry(rows: usize) -> Geometry {
    Geometry { block: BLOCK, ..Geometry::rows([rows as u32, 1, 1]) }
}

fn doubles(bytes: &[u8]) -> impl Iterator<Item = f64> {
    bytes.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes))
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes))
}
