//! Pieces: some rows of one tensor, the unit of work of one thread.

use std::ops::Range;

use quern_model::ViewTensor;
use quern_tensor_io::scheme::Repacked;
use quern_tensor_io::{ElementType, Error, Remedy, Result, pipeline};

use crate::cast;
use crate::plan::{Content, ConvertPlan, ConvertRow, about};

/// Bytes of a piece that is made, unless one row has more: small enough for a core's own cache.
const BYTES: usize = 256 << 10;
/// Bytes of a piece that is written from the map.
const MAPPED_BYTES: usize = 4 << 20;
/// Outputs of a packed layer that share their reads.
const PACKED_ROWS: usize = 256;

/// What a piece is made from: rows of the tensor; of the small tensors of packed layers all.
pub(crate) type Work = Range<usize>;
/// Some rows of one tensor, that of the plan's row of the same number.
pub(crate) type Piece<'p> = pipeline::Piece<'p, Work>;

/// All pieces of a plan, in the order of the output.
pub(crate) fn pieces<'p>(plan: &'p ConvertPlan<'_>) -> impl Iterator<Item = Piece<'p>> {
    plan.rows().iter().enumerate().flat_map(move |(number, row)| of_row(plan, number, row))
}

fn of_row<'p>(
    plan: &'p ConvertPlan<'_>,
    number: usize,
    row: &'p ConvertRow,
) -> impl Iterator<Item = Piece<'p>> {
    let bytes = row.bytes as usize;
    let height: usize = row.shape.iter().rev().skip(1).product();
    // An empty tensor has no pieces.
    let height = if bytes == 0 { 0 } else { height };
    let row_bytes = bytes / height.max(1);
    let (mapped, step) = match row.content {
        Content::View(index) => {
            let tensor = &plan.view.tensors()[index];
            let mapped = plan.view.contiguous(index).filter(|_| tensor.element_type == row.to);
            let step = match mapped {
                Some(_) => (MAPPED_BYTES / row_bytes.max(1)).max(1),
                None => step(plan, tensor, row_bytes),
            };
            (mapped, step)
        }
        Content::Packed { layer, part } => {
            let bits = plan.packing.as_ref().map_or(8, |p| p.layers()[layer].bits());
            let step = plan.code_format().and_then(|format| format.step(bits, part));
            (None, step.map_or(height, |step| (BYTES * 4 / row_bytes.max(1) / step).max(1) * step))
        }
    };
    let mut at = 0;
    std::iter::from_fn(move || {
        if at >= height {
            return None;
        }
        let rows = at..height.min(at + step.max(1));
        at = rows.end;
        let bytes = rows.len() * row_bytes;
        Some(match mapped {
            Some(data) => Piece::mapped(number, &data[rows.start * row_bytes..][..bytes]),
            None => Piece::made(number, bytes, bytes, rows),
        })
    })
}

/// Rows of a tensor of the view that a thread takes at once.
pub(crate) fn step(plan: &ConvertPlan<'_>, tensor: &ViewTensor, row_bytes: usize) -> usize {
    let few = (BYTES / row_bytes.max(1)).max(1);
    if tensor.together > 1 {
        return few.next_multiple_of(tensor.together);
    }
    if tensor.packed {
        return few.next_multiple_of(PACKED_ROWS);
    }
    // Blocks that had to be transposed are decoded anew for every piece.
    let block = |name: &String| plan.source().tensor(name).is_some_and(|t| t.info.element_type.is_block());
    match tensor.sources.iter().any(block) && !tensor.element_type.is_block() {
        true => tensor.rows(),
        false => few,
    }
}

/// Makes the bytes of rows of tensor number `tensor`. `scratch` is a thread's own; `packed` are the tensors of the
/// piece's layer, where it is of one.
pub(crate) fn make(
    plan: &ConvertPlan<'_>,
    tensor: usize,
    rows: &Range<usize>,
    packed: Option<&Repacked<'_>>,
    scratch: &mut Vec<f32>,
    out: &mut [u8],
) -> Result<()> {
    let row = &plan.rows()[tensor];
    let index = match row.content {
        Content::View(index) => index,
        Content::Packed { part, .. } => {
            if let Some(packed) = packed {
                packed.write(part, rows.clone(), out);
            }
            return Ok(());
        }
    };
    let tensor = &plan.view.tensors()[index];
    if tensor.element_type == row.to {
        plan.view.read(index, rows.clone(), out);
        return Ok(());
    }
    scratch.resize(rows.len() * tensor.columns(), 0.0);
    if !plan.view.decode(index, rows.clone(), scratch) {
        let what = format!("{} cannot be decoded", tensor.element_type);
        let error = Error::unsupported(plan.source().path(), what);
        return Err(about(&plan.view, tensor, error));
    }
    // What f32 holds as well stays as it is, be it NaN.
    if row.to != ElementType::F32
        && let Some(at) = cast::unfit(row.to, scratch)
    {
        return Err(unfit(plan, row, tensor, rows.start, at, scratch[at]));
    }
    cast::write(row.to, scratch, out);
    Ok(())
}

fn unfit(
    plan: &ConvertPlan<'_>,
    row: &ConvertRow,
    tensor: &ViewTensor,
    first: usize,
    at: usize,
    value: f32,
) -> Error {
    let columns = tensor.columns().max(1);
    let (number, column) = (first + at / columns, at % columns);
    let (what, remedy) = match value.is_finite() {
        true => {
            let wider: &[_] = match row.to {
                ElementType::F16 => &[ElementType::BF16, ElementType::F32],
                _ => &[ElementType::F32],
            };
            (format!("{value} is too large for {}", row.to), Remedy::ChooseDtype(wider))
        }
        false => (format!("the value is {value}, the model is damaged"), Remedy::KeepDtype),
    };
    let what = format!("row {number}, column {column}: {what}");
    about(&plan.view, tensor, Error::refused(plan.source().path(), what).with_remedy(remedy))
}
