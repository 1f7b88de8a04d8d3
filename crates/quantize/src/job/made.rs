//! Tensors that were made before a job runs: what a calibration gives it.

use std::ops::Range;

use quern_tensor_io::Result;

/// What was made of some tensors, and found of others. Tensors are counted as the plan's rows.
pub(crate) trait Made: Sync {
    /// The bytes of some rows of one matrix of a tensor, if they were made.
    fn rows(&self, tensor: usize, rows: &Range<usize>) -> Option<&[u8]>;

    /// How much each column of a tensor counts that is made now.
    fn importance(&self, tensor: usize) -> Option<&[f32]>;

    /// Whether what was made is as it was, after all of it was read.
    ///
    /// # Errors
    /// A file that was cut or changed.
    fn check(&self) -> Result<()>;

    /// Rows of a tensor were written.
    fn release(&self, tensor: usize, rows: Range<usize>);
}

/// No tensor was made.
pub(super) struct Nothing;

impl Made for Nothing {
    fn rows(&self, _: usize, _: &Range<usize>) -> Option<&[u8]> {
        None
    }

    fn importance(&self, _: usize) -> Option<&[f32]> {
        None
    }

    fn check(&self) -> Result<()> {
        Ok(())
    }

    fn release(&self, _: usize, _: Range<usize>) {}
}
