//! Vectors that are stored one after the other, seen as the rows of a matrix; and back.

use std::ops::Range;

use ndarray::{ArrayView2, ArrayViewMut2, s};

const WHOLE_ROWS: &str = "the length is that of whole rows";
const ROW_ORDER: &str = "the matrix is stored row after row";

/// As many rows of `columns` values as `values` holds.
pub(crate) fn rows_of(values: &[f32], columns: usize) -> ArrayView2<'_, f32> {
    let rows = values.len().checked_div(columns).unwrap_or(0);
    ArrayView2::from_shape((rows, columns), &values[..rows * columns]).expect(WHOLE_ROWS)
}

/// The same, to be written.
pub(crate) fn rows_of_mut(values: &mut [f32], columns: usize) -> ArrayViewMut2<'_, f32> {
    let rows = values.len().checked_div(columns).unwrap_or(0);
    ArrayViewMut2::from_shape((rows, columns), &mut values[..rows * columns]).expect(WHOLE_ROWS)
}

/// The values of some rows of a matrix that is stored row after row, as the kernels take them.
pub(crate) fn values_of<'a>(matrix: ArrayView2<'a, f32>, rows: &Range<usize>) -> &'a [f32] {
    matrix.slice_move(s![rows.clone(), ..]).to_slice().expect(ROW_ORDER)
}

/// The same, to be written.
pub(crate) fn values_of_mut<'a>(matrix: ArrayViewMut2<'a, f32>, rows: &Range<usize>) -> &'a mut [f32] {
    matrix.slice_move(s![rows.clone(), ..]).into_slice().expect(ROW_ORDER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_and_go() {
        let mut values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0];
        assert_eq!(rows_of(&values, 3).row(1).to_vec(), [4.0, 5.0, 6.0]);
        assert_eq!(values_of(rows_of(&values, 3), &(1..2)), [4.0, 5.0, 6.0]);
        values_of_mut(rows_of_mut(&mut values, 2), &(1..3)).fill(0.0);
        assert_eq!(values, [1.0, 2.0, 0.0, 0.0, 0.0, 0.0, 7.0]);
        assert_eq!(rows_of(&values, 0).dim(), (0, 0));
        assert!(values_of(rows_of(&[], 4), &(0..0)).is_empty());
    }
}
