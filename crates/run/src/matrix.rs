//! Vectors that are stored one after the other, seen as the rows of a matrix.

use ndarray::ArrayView2;

const WHOLE_ROWS: &str = "the length is that of whole rows";

/// As many rows of `columns` values as `values` holds.
pub(crate) fn rows_of(values: &[f32], columns: usize) -> ArrayView2<'_, f32> {
    let rows = values.len().checked_div(columns).unwrap_or(0);
    ArrayView2::from_shape((rows, columns), &values[..rows * columns]).expect(WHOLE_ROWS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_taken_from_the_front() {
        let values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0];
        assert_eq!(rows_of(&values, 3).row(1).to_vec(), [4.0, 5.0, 6.0]);
        assert_eq!(rows_of(&values, 3).dim(), (2, 3));
        assert_eq!(rows_of(&values, 0).dim(), (0, 0));
    }
}
