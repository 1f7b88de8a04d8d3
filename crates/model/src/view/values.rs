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

/// The decay of a state from its logarithm, or, `back`, the logarithm; value by value in another order, in f32.
pub(super) fn decays(
    checkpoint: &Checkpoint,
    info: &TensorInfo,
    order: Option<&RowOrder>,
    back: bool,
) -> Result<Vec<u8>> {
    let mut values = vec![0f32; info.elements()];
    if !decode::to_f32(info.element_type, checkpoint.data(info), &mut values) {
        return Err(undecodable(checkpoint, info));
    }
    let of = |v: f32| if back { logarithm(v) } else { -v.exp() };
    let value = |i: usize| of(values[order.map_or(i, |order| order.source(i))]);
    Ok((0..values.len()).flat_map(|i| value(i).to_le_bytes()).collect())
}

/// The logarithm of a decay: the shortest one, of bf16's or f16's precision, that gives just this decay again; in f32 if
/// none does.
fn logarithm(decay: f32) -> f32 {
    let exact = (-f64::from(decay)).ln() as f32;
    let rounded =
        |bits: u32| f32::from_bits((exact.to_bits().saturating_add(1 << (bits - 1))) >> bits << bits);
    [16, 13].into_iter().map(rounded).find(|short| -short.exp() == decay).unwrap_or(exact)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithms_of_published_precision_come_back() {
        for x in (-2000..2000).map(|i| i as f32 / 256.0) {
            let short = f32::from_bits(x.to_bits() >> 16 << 16);
            let half = f32::from_bits(x.to_bits() >> 13 << 13);
            assert_eq!(logarithm(-short.exp()), short);
            assert_eq!(logarithm(-half.exp()), half);
        }
        let x = 0.123_456_79f32;
        assert!((logarithm(-x.exp()) - x).abs() < 1e-6);
    }
}
