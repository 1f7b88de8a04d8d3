//! Small vectors computed for a view, and the facts about a tensor that all views need.

use quern_tensor_io::{Checkpoint, ElementType, Error, ErrorKind, Result, TensorInfo, decode};

use crate::architecture::Layout;
use crate::config::ExpectedTensor;
use crate::contents::{Place, Span};

use super::ViewTensor;
use super::order::RowOrder;

/// A tensor of a view that is one of the architecture's, its rows stored as `element_type`.
pub(super) fn tensor_of(
    want: &ExpectedTensor,
    element_type: ElementType,
    sources: Vec<String>,
) -> ViewTensor {
    ViewTensor {
        name: want.name.clone(),
        shape: want.shape.clone(),
        element_type,
        sources,
        role: Some(want.role),
        layer: want.layer,
        part: want.part,
        layout: Layout::Same,
        place: None,
        row_bytes: row_bytes(element_type, &want.shape),
        packed: false,
        changed: None,
        together: 1,
    }
}

/// A tensor of a view without a known role: only what the file says of it.
pub(super) fn tensor_as_it_is(info: &TensorInfo, index: usize) -> ViewTensor {
    ViewTensor {
        name: info.name.clone(),
        shape: info.shape.clone(),
        element_type: info.element_type,
        sources: vec![info.name.clone()],
        role: None,
        layer: None,
        part: None,
        layout: Layout::Same,
        place: Some(Place::Plain(Span { tensor: index, start: 0, bytes: info.bytes })),
        row_bytes: row_bytes(info.element_type, &info.shape),
        packed: false,
        changed: None,
        together: 1,
    }
}

/// A small vector in another order, value by value.
pub(super) fn reordered(info: &TensorInfo, data: &[u8], order: &RowOrder) -> Vec<u8> {
    let size = info.element_type.block_bytes();
    let values = (0..info.elements()).map(|i| order.source(i));
    values.flat_map(|i| &data[i * size..(i + 1) * size]).copied().collect()
}

/// A small vector plus a number, in f32.
pub(super) fn shifted(checkpoint: &Checkpoint, info: &TensorInfo, by: f32) -> Result<Vec<u8>> {
    let mut values = vec![0.0; info.elements()];
    if !decode::to_f32(info.element_type, checkpoint.data(info), &mut values) {
        return Err(undecodable(checkpoint, info));
    }
    Ok(values.iter().flat_map(|v| (v + by).to_le_bytes()).collect())
}

/// The error for a type without decoder.
pub(super) fn undecodable(checkpoint: &Checkpoint, info: &TensorInfo) -> Error {
    let what = format!("its element type {} cannot be decoded", info.element_type);
    Error::new(checkpoint.file_of(info), ErrorKind::Unsupported(what)).with_tensor(&info.name)
}

/// Bytes of a row of this type, which was checked to have whole blocks.
pub(super) fn row_bytes(element_type: ElementType, shape: &[usize]) -> usize {
    element_type.row_bytes(shape.last().copied().unwrap_or(1)).unwrap_or_default()
}
