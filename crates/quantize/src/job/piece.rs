//! Pieces: whole rows of one tensor and one expert, the unit of work of one thread.

use std::ops::Range;

use quern_tensor_io::{decode, pipeline};

use super::made::Made;
use super::plan::{QuantizePlan, QuantizeRow, matrices};
use super::{Error, bad_block};
use crate::encode::{encode_rows_at, encode_rows_on_grid};
use crate::finite::all_finite;

/// Values a piece holds, unless one row is longer: 256 KiB of f32, which stays in a core's own cache.
const VALUES: usize = 64 * 1024;

/// Some rows of one tensor, counted over all dimensions but the innermost.
pub(super) type Piece<'m> = pipeline::Piece<'m, Range<usize>>;

/// All pieces of a plan, in the order of the output.
pub(super) fn pieces<'a>(plan: &'a QuantizePlan<'_>) -> impl Iterator<Item = Piece<'a>> {
    plan.rows().iter().enumerate().flat_map(move |(tensor, row)| of_tensor(plan, tensor, row))
}

fn of_tensor<'a>(
    plan: &'a QuantizePlan<'_>,
    tensor: usize,
    row: &'a QuantizeRow,
) -> impl Iterator<Item = Piece<'a>> {
    let source = &plan.view.tensors()[row.index];
    let (total, columns) = (source.rows(), source.columns());
    // an empty tensor has no pieces
    let total = if row.bytes == 0 { 0 } else { total };
    let row_bytes = row.bytes as usize / total.max(1);
    let source_row_bytes = source.row_bytes;
    let per_matrix = rows_per_matrix(&row.shape).max(1);
    let step = (VALUES / columns.max(1)).max(1);
    let mut at = 0;
    std::iter::from_fn(move || {
        if at >= total {
            return None;
        }
        let end = (at + step).min((at / per_matrix + 1) * per_matrix).min(total);
        let count = end - at;
        let rows = at..end;
        at = end;
        Some(Piece::made(tensor, count * row_bytes, count * source_row_bytes, rows))
    })
}

/// Rows that share one vector of importances.
pub(crate) fn rows_per_matrix(shape: &[usize]) -> usize {
    match shape {
        [] | [_] => 1,
        [.., rows, _] => *rows,
    }
}

/// Writes `rows` of tensor number `tensor` of the plan as `out`, which has room for exactly them. `values` is scratch.
pub(super) fn encode(
    (plan, made): (&QuantizePlan<'_>, &dyn Made),
    tensor: usize,
    rows: &Range<usize>,
    values: &mut Vec<f32>,
    out: &mut [u8],
) -> Result<(), Error> {
    if let Some(bytes) = made.rows(tensor, rows) {
        out.copy_from_slice(bytes);
        return Ok(());
    }
    let row = &plan.rows()[tensor];
    if row.from == row.to {
        plan.view.read(row.index, rows.clone(), out);
        return match bad_block(row.to, out) {
            None => Ok(()),
            Some(block) => Err(corrupt(row, rows.start, block, out)),
        };
    }
    let source = &plan.view.tensors()[row.index];
    let columns = source.columns();
    values.resize(rows.len() * columns, 0.0);
    if !plan.view.decode(row.index, rows.clone(), values) {
        return Err(Error::Undecodable { tensor: row.name.clone(), element_type: row.from, to: row.to });
    }
    check_finite(row, rows.start, values)?;
    let weights = made.importance(tensor).or_else(|| weights(plan, row, columns, rows.start));
    let level = plan.options.level;
    let done = match plan.grid(row) {
        None => encode_rows_at(level, row.to, columns, values, weights, out),
        Some(found) => {
            encode_rows_on_grid(level, (found.grid, row.from), row.to, columns, values, weights, out)
        }
    };
    done.map_err(|source| Error::Encode { tensor: row.name.clone(), source })?;
    check_made(row, rows.start, out)
}

/// Refuses blocks of a tensor that were made of finite values, from row `first` on, and overflow.
pub(crate) fn check_made(row: &QuantizeRow, first: usize, made: &[u8]) -> Result<(), Error> {
    let Some(block) = bad_block(row.to, made) else { return Ok(()) };
    let (number, column) = place(row, first, block);
    Err(Error::Overflow { tensor: row.name.clone(), row: number, column, element_type: row.to })
}

/// Refuses values of rows from `first` on that are not finite.
pub(crate) fn check_finite(row: &QuantizeRow, first: usize, values: &[f32]) -> Result<(), Error> {
    if all_finite(values) {
        return Ok(());
    }
    let columns = row.shape.last().copied().unwrap_or(1).max(1);
    let at = values.iter().position(|v| !v.is_finite()).unwrap_or_default();
    let (number, column) = (first + at / columns, at % columns);
    Err(Error::NotFinite { tensor: row.name.clone(), row: number, column, value: values[at] })
}

/// The importances of the columns, for the expert that `first_row` belongs to.
fn weights<'a>(
    plan: &'a QuantizePlan<'_>,
    row: &QuantizeRow,
    columns: usize,
    first_row: usize,
) -> Option<&'a [f32]> {
    if !row.weighted {
        return None;
    }
    let entry = plan.options.imatrix.as_ref()?.get(&row.name)?;
    let expert = first_row / rows_per_matrix(&row.shape).max(1) % matrices(&row.shape);
    entry.get(expert * columns..(expert + 1) * columns)
}

/// Row and first column of block `block` of a piece that begins with row `first`.
fn place(row: &QuantizeRow, first: usize, block: usize) -> (usize, usize) {
    let columns = row.shape.last().copied().unwrap_or(1).max(1);
    let value = block * row.to.block_elements();
    (first + value / columns, value % columns)
}

/// The error for a broken block or value among bytes that were copied.
fn corrupt(row: &QuantizeRow, first: usize, block: usize, copied: &[u8]) -> Error {
    let (number, column) = place(row, first, block);
    let tensor = row.name.clone();
    let mut value = [0.0];
    let size = row.to.block_bytes();
    let plain = row.to.is_float() && decode::to_f32(row.to, &copied[block * size..][..size], &mut value);
    if plain {
        return Error::NotFinite { tensor, row: number, column, value: value[0] };
    }
    Error::CorruptSource { tensor, row: number, column, element_type: row.to }
}
