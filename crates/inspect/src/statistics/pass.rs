//! The pass over the values: pieces are measured by all threads and joined in the order of the tensors.
//!
//! ```text
//! tensors ──> pieces of about a million values ──> a batch, measured by the pool ──> joined in order ──> next batch
//! ```
//!
//! Pieces depend on shapes alone and are joined one after the other, so the number of threads changes no figure. Memory
//! is that of a batch: some hundred kilobytes and a row of channels for each piece.

use std::ops::Range;

use quern_model::View;
use quern_tensor_io::{Progress, decode};
use rayon::prelude::*;

use super::channels::Axis;
use super::values::Values;

/// Values of a piece, about.
const PIECE: usize = 1 << 20;
/// Values that are decoded at a time, about: they stay in the cache.
const SLAB: usize = 1 << 14;
/// Packed layers are decoded faster in so many rows.
const PACKED_ROWS: usize = 256;

/// A tensor of a view that is to be measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    /// Its number in the view.
    pub tensor: usize,
    /// Where the input channels are, if they are to be measured.
    pub input: Option<Axis>,
    /// Bytes in the files.
    pub bytes: u64,
}

/// Part of a target: some rows, or some values of one long row.
#[derive(Clone, Debug)]
struct Piece {
    target: usize,
    rows: Range<usize>,
    /// Of the row, if there is only one.
    values: Option<Range<usize>>,
    /// Bytes in the files, about.
    bytes: u64,
    /// The last of its tensor.
    last: bool,
}

/// Measures the targets and hands over each one's number and values, `None` for a type that has no decoder. Progress is
/// in bytes of the files, the total of which the caller sets.
pub(super) fn measure(
    view: &View<'_>,
    targets: &[Target],
    progress: &dyn Progress,
    mut done: impl FnMut(usize, Option<Values>),
) {
    let mut pieces = (0..targets.len()).flat_map(|number| pieces(view, targets, number));
    let mut current: Option<Values> = None;
    loop {
        let batch: Vec<Piece> = pieces.by_ref().take(2 * rayon::current_num_threads()).collect();
        let Some(first) = batch.first() else { break };
        progress.step(&view.tensors()[targets[first.target].tensor].name);
        let measured: Vec<Option<Values>> = batch
            .par_iter()
            .map(|piece| {
                let values = measure_piece(view, &targets[piece.target], piece);
                progress.advance(piece.bytes);
                values
            })
            .collect();
        for (piece, values) in batch.iter().zip(measured) {
            let target = &targets[piece.target];
            if let Some(values) = values {
                let tensor = &view.tensors()[target.tensor];
                let empty = || Values::new(target.input, tensor.rows(), tensor.columns());
                current.get_or_insert_with(empty).merge(&values, piece.rows.start);
            }
            view.release(target.tensor, piece.rows.clone());
            if piece.last {
                done(piece.target, current.take());
            }
        }
    }
}

/// Cuts a tensor into pieces, of which there is one at least.
fn pieces(view: &View<'_>, targets: &[Target], number: usize) -> Vec<Piece> {
    let target = &targets[number];
    let tensor = &view.tensors()[target.tensor];
    let (rows, columns) = (tensor.rows(), tensor.columns());
    let long = rows == 1 && columns > PIECE && view.contiguous(target.tensor).is_some();
    let (units, step) = match long {
        // Whole blocks of every type.
        true => (columns, PIECE),
        false => {
            let step = (PIECE / columns.max(1)).max(1);
            (rows, if tensor.packed { step.next_multiple_of(PACKED_ROWS) } else { step })
        }
    };
    let share = |at: usize| (u128::from(target.bytes) * at as u128 / units.max(1) as u128) as u64;
    let piece = |start: usize| {
        let end = units.min(start + step);
        Piece {
            target: number,
            rows: if long { 0..1 } else { start..end },
            values: long.then_some(start..end),
            bytes: share(end) - share(start),
            last: end == units,
        }
    };
    (0..units.max(1)).step_by(step).map(piece).collect()
}

fn measure_piece(view: &View<'_>, target: &Target, piece: &Piece) -> Option<Values> {
    let tensor = &view.tensors()[target.tensor];
    if !tensor.packed && !decode::can_decode(tensor.element_type) {
        return None;
    }
    let mut values = Values::new(target.input, piece.rows.len(), tensor.columns());
    let mut decoded = Vec::new();
    if let (Some(range), Some(data)) = (&piece.values, view.contiguous(target.tensor)) {
        let block = tensor.element_type.block_elements();
        for start in range.clone().step_by(SLAB) {
            let end = range.end.min(start + SLAB);
            decoded.clear();
            decoded.resize(end - start, 0.0);
            let bytes = start / block * tensor.element_type.block_bytes()
                ..end / block * tensor.element_type.block_bytes();
            if !decode::to_f32(tensor.element_type, data.get(bytes)?, &mut decoded) {
                return None;
            }
            values.record(0, decoded.len(), &mut decoded);
        }
        return Some(values);
    }
    let columns = tensor.columns();
    let step = if tensor.packed { PACKED_ROWS } else { (SLAB / columns.max(1)).max(1) };
    for start in piece.rows.clone().step_by(step) {
        let rows = start..piece.rows.end.min(start + step);
        decoded.clear();
        decoded.resize(rows.len() * columns, 0.0);
        if !view.decode(target.tensor, rows, &mut decoded) {
            return None;
        }
        values.record(start - piece.rows.start, columns, &mut decoded);
    }
    Some(values)
}
