//! Scales beside a matrix: factors of its numbers, by block of rows and columns.
//!
//! ```text
//! W[r, c] = number[r, c] values[r / block rows][c / block columns]
//! ```
//!
//! FP8 weights have them (one, one an output, or one for each 128 x 128), and so have NVFP4 weights (one). They stay
//! apart, so that the numbers are used as the file has them.

use crate::Result;

/// Factors of the numbers of a matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct Scales {
    values: Vec<f32>,
    /// Rows and columns that share one; the last block of either may have fewer.
    block: [usize; 2],
    /// How many a row has.
    across: usize,
}

impl Scales {
    /// Factors `[rows / block rows][columns / block columns]`, both rounded up, for a matrix of `rows` and `columns`.
    ///
    /// # Errors
    /// [`Error::Lengths`](crate::Error::Lengths) if there are more or fewer.
    pub fn new(values: Vec<f32>, [rows, columns]: [usize; 2], block: [usize; 2]) -> Result<Self> {
        let block = block.map(|size| size.max(1));
        let across = columns.div_ceil(block[1]).max(1);
        let expected = rows.div_ceil(block[0]).saturating_mul(across);
        crate::error::same("scales: one for each block", expected, values.len())?;
        Ok(Self { values, block, across })
    }

    /// One factor of all numbers.
    pub fn uniform(factor: f32) -> Self {
        Self { values: vec![factor], block: [usize::MAX; 2], across: 1 }
    }

    /// Columns that share a scale.
    pub fn block_columns(&self) -> usize {
        self.block[1]
    }

    /// The scales of a row, one for each block of columns.
    ///
    /// # Panics
    /// If the matrix has no such row.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row / self.block[0] * self.across..][..self.across]
    }

    /// Whether a row has one scale.
    pub(crate) fn by_row(&self) -> bool {
        self.across == 1
    }

    /// Bytes that they take.
    pub fn bytes(&self) -> usize {
        4 * self.values.len()
    }

    /// Multiplies consecutive numbers of a row, from column `first` on, by their scales.
    pub(crate) fn apply(&self, row: usize, first: usize, numbers: &mut [f32]) {
        let scales = self.row(row);
        let mut at = first;
        let mut rest = numbers;
        while !rest.is_empty() {
            let block = at / self.block[1];
            let left = self.block[1] - at % self.block[1];
            let (now, after) = rest.split_at_mut(left.min(rest.len()));
            let scale = scales[block];
            now.iter_mut().for_each(|v| *v *= scale);
            at += now.len();
            rest = after;
        }
    }

    /// Whether they are those of a matrix of this shape.
    pub(crate) fn fit(&self, rows: usize, columns: usize) -> bool {
        let down = rows.div_ceil(self.block[0]);
        columns.div_ceil(self.block[1]) == self.across
            && down.saturating_mul(self.across) == self.values.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_may_be_partial() {
        let scales = Scales::new(vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [3, 5], [2, 2]).unwrap();
        let mut numbers = [1.0; 5];
        scales.apply(1, 0, &mut numbers);
        assert_eq!(numbers, [1.0, 1.0, 2.0, 2.0, 3.0]);
        let mut numbers = [1.0; 2];
        scales.apply(2, 3, &mut numbers);
        assert_eq!(numbers, [5.0, 6.0]);
        assert!(scales.fit(4, 6) && !scales.fit(5, 6) && !scales.fit(3, 7));
        assert!(Scales::new(vec![1.0; 5], [3, 5], [2, 2]).is_err());
        let one = Scales::uniform(0.5);
        assert!(one.fit(7, 9) && one.by_row() && one.row(6) == [0.5]);
    }
}
