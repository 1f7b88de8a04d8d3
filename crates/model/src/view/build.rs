//! What both directions share: looking at one tensor of the source.

use std::collections::HashSet;

use quern_tensor_io::scheme::Packing;
use quern_tensor_io::{Checkpoint, ElementType, Error, ErrorKind, Result, TensorInfo, decode};

use crate::Config;
use crate::architecture::World;
use crate::config::ExpectedTensor;

use super::is_redundant;
use super::order::RowOrder;

/// Where a tensor that the source should have was found.
#[derive(Clone, Copy)]
pub(super) enum Found<'a> {
    /// As itself.
    Plain(&'a TensorInfo),
    /// As packed layer number so.
    Packed(usize),
}

/// Finds `want` in the source, checked against its shape; `None` if a tensor that may be missing is.
pub(super) fn find<'a>(
    checkpoint: &'a Checkpoint,
    packing: Option<&Packing>,
    config: &Config,
    want: &ExpectedTensor,
) -> Result<Option<Found<'a>>> {
    if let Some(packing) = packing
        && let Some(number) = packing.layers().iter().position(|l| l.name == want.name)
    {
        let layer = &packing.layers()[number];
        let shape = [layer.rows, layer.columns];
        // GPT-2's transposed matrices are turned before they are packed.
        let turned = || want.shape.iter().rev().eq(&shape);
        if want.shape != shape
            && !(turned() && want.template.layout == crate::architecture::Layout::Transposed)
        {
            let what = format!("the packed layer is {shape:?}, the config demands {:?}", want.shape);
            return Err(Error::malformed(checkpoint.path(), what).with_tensor(&want.name));
        }
        return Ok(Some(Found::Packed(number)));
    }
    let Some(tensor) = checkpoint.tensor(&want.name) else {
        if want.optional {
            return Ok(None);
        }
        let what = format!("the tensor is missing ({})", config.architecture.name);
        return Err(Error::malformed(checkpoint.path(), what).with_tensor(&want.name));
    };
    let info = tensor.info;
    let bad = |what: String| Err(Error::malformed(checkpoint.file_of(info), what).with_tensor(&info.name));
    if info.shape != want.shape {
        return bad(format!("the shape is {:?}, the config demands {:?}", info.shape, want.shape));
    }
    if config.world == World::HuggingFace && !info.element_type.is_float() {
        return bad(format!("a floating-point type is expected, not {}", info.element_type));
    }
    if info.element_type.row_bytes(info.columns()).is_none() {
        return bad("the row has no whole blocks".into());
    }
    Ok(Some(Found::Plain(info)))
}

/// Refuses a tensor that no part of the architecture is.
pub(super) fn refuse_unexpected(
    checkpoint: &Checkpoint,
    packing: Option<&Packing>,
    config: &Config,
    expected: &[ExpectedTensor],
) -> Result<()> {
    let known: HashSet<&str> = expected.iter().map(|e| e.name.as_str()).collect();
    let layers = packing.into_iter().flat_map(Packing::layers);
    let parts: HashSet<usize> = layers.flat_map(|l| l.parts.iter().copied()).collect();
    let ignored = |name: &str| config.world == World::HuggingFace && is_redundant(name);
    let unknown = |(index, t): &(usize, &TensorInfo)| {
        !known.contains(t.name.as_str()) && !parts.contains(index) && !ignored(&t.name)
    };
    match checkpoint.tensors().iter().enumerate().find(unknown) {
        None => Ok(()),
        Some((_, info)) => {
            let what = format!(
                "a {} model of {} layers has no such tensor",
                config.architecture.name, config.layers
            );
            Err(Error::malformed(checkpoint.file_of(info), what).with_tensor(&info.name))
        }
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
