//! Rows encoded on all threads by the ordinary encoders.

use std::sync::{Mutex, PoisonError};

use quern_compute::Pool;
use quern_compute::parallel::{part_of, share};
use quern_tensor_io::ElementType;

use crate::encode::{EncodeError, encode_rows_at};

/// The blocks of rows of `columns` values, each column weighted by its importance.
pub(super) fn encode(
    pool: &Pool,
    element_type: ElementType,
    columns: usize,
    values: &[f32],
    importance: Option<&[f32]>,
) -> Result<Vec<u8>, EncodeError> {
    let columns = columns.max(1);
    let Some(row_bytes) = element_type.row_bytes(columns).filter(|bytes| *bytes > 0) else {
        let block = element_type.block_elements();
        return Err(EncodeError::PartialBlock { element_type, columns, block });
    };
    let mut out = vec![0u8; values.len() / columns * row_bytes];
    let rows = (part_of(pool, values.len(), columns) / columns).max(1);
    let failure: Mutex<Option<EncodeError>> = Mutex::new(None);
    let parts = values.chunks(rows * columns).zip(out.chunks_mut(rows * row_bytes));
    share(pool, parts, |(values, out)| {
        if let Err(e) = encode_rows_at(pool.level(), element_type, columns, values, importance, out) {
            *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(e);
        }
    });
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(out),
    }
}
