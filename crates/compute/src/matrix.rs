//! Weights as they are in the memory map.

use quern_tensor_io::{ElementType, decode};

use crate::{Error, Result, Scales};

/// `rows` rows of `columns` values of one element type, one row after the other, each a whole number of
/// blocks. No alignment is guaranteed. The numbers may have [`Scales`] beside them.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    element_type: ElementType,
    rows: usize,
    columns: usize,
    row_bytes: usize,
    data: &'a [u8],
    scales: Option<&'a Scales>,
}

impl<'a> Matrix<'a> {
    /// Checks that `data` is exactly `rows` rows of `columns` values and that kernels exist for the type.
    pub fn new(element_type: ElementType, rows: usize, columns: usize, data: &'a [u8]) -> Result<Self> {
        if !supports(element_type) {
            return Err(Error::Unsupported { element_type });
        }
        let shape = Error::Shape { element_type, rows, columns, bytes: data.len() };
        let Some(row_bytes) = element_type.row_bytes(columns) else { return Err(shape) };
        if columns == 0 || row_bytes.checked_mul(rows) != Some(data.len()) {
            return Err(shape);
        }
        Ok(Self { element_type, rows, columns, row_bytes, data, scales: None })
    }

    /// The same numbers, times these scales.
    ///
    /// # Errors
    /// [`Error::Lengths`] if the scales are of another shape; block types may have one scale a row.
    pub fn with_scales(self, scales: &'a Scales) -> Result<Self> {
        let known = crate::block::is_known(self.element_type);
        if !scales.fit(self.rows, self.columns) || known && !scales.by_row() {
            let what = "scales: of the matrix's shape, one a row in block types";
            let expected = self.rows.saturating_mul(self.columns);
            return Err(Error::Lengths { what, expected, found: scales.bytes() / 4 });
        }
        Ok(Self { scales: Some(scales), ..self })
    }

    /// A matrix that [`Matrix::new`] accepts, not checked again.
    pub(crate) fn checked(element_type: ElementType, rows: usize, columns: usize, data: &'a [u8]) -> Self {
        debug_assert!(Self::new(element_type, rows, columns, data).is_ok());
        let row_bytes = data.len().checked_div(rows).unwrap_or(0);
        Self { element_type, rows, columns, row_bytes, data, scales: None }
    }

    /// How the numbers are stored.
    pub fn element_type(&self) -> ElementType {
        self.element_type
    }

    /// Number of rows: outputs of a linear layer.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Values in a row: inputs of a linear layer.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Bytes of one row.
    pub fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// All bytes.
    pub fn data(&self) -> &'a [u8] {
        self.data
    }

    /// What the numbers are multiplied with, if they are.
    pub fn scales(&self) -> Option<&'a Scales> {
        self.scales
    }

    /// The bytes of one row.
    ///
    /// # Panics
    /// If `row` is not below [`Matrix::rows`].
    pub fn row(&self, row: usize) -> &'a [u8] {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        &self.data[row * self.row_bytes..][..self.row_bytes]
    }
}

/// Whether [`crate::matmul`] can multiply by weights of this type.
pub fn supports(element_type: ElementType) -> bool {
    use ElementType as T;
    crate::block::is_known(element_type)
        || matches!(element_type, T::F32 | T::F16 | T::BF16)
        || decode::can_decode(element_type)
}

/// Decodes one row into `out` (`columns` values): an embedding look-up.
pub fn get_row(matrix: &Matrix, row: usize, out: &mut [f32]) -> Result<()> {
    if row >= matrix.rows || out.len() != matrix.columns {
        return Err(Error::Lengths {
            what: "get_row: row below the number of rows, out of one row's length",
            expected: matrix.columns,
            found: out.len(),
        });
    }
    match decode::to_f32(matrix.element_type, matrix.row(row), out) {
        true => {
            if let Some(scales) = matrix.scales {
                scales.apply(row, 0, out);
            }
            Ok(())
        }
        false => Err(Error::Unsupported { element_type: matrix.element_type }),
    }
}
