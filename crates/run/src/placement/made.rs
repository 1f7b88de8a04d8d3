//! Weights that are made while loading, and the limit on memory.

use quern_model::contents::Place;
use quern_model::{TensorRole, View, ViewTensor};
use quern_tensor_io::Remedy;

use super::Location;
use crate::load::LoadIn;
use crate::{Error, Result};

/// Refuses weights made while loading (packed layers unpacked, others quantized) that are more than the limit:
/// they cannot be released. Those of `units` (blocks in order, then the head) on GPUs do not stay in RAM.
pub(crate) fn check_made(
    view: &View<'_>,
    load_in: Option<&dyn LoadIn>,
    units: &[Location],
    limit: u64,
) -> Result<()> {
    let stays = |tensor: &&ViewTensor| {
        let unit = match (tensor.layer, tensor.role) {
            (Some(layer), _) => units.get(layer),
            (None, Some(TensorRole::Output)) => units.last(),
            (None, _) => None,
        };
        !matches!(unit, Some(Location::Gpu(_)))
    };
    let made = |tensor: &ViewTensor| {
        let target = load_in.and_then(|l| l.target(&tensor.name));
        match (target, tensor.place) {
            (Some(to), _) if tensor.shape.len() > 1 => {
                to.row_bytes(tensor.columns()).and_then(|bytes| bytes.checked_mul(tensor.rows())).unwrap_or(0)
                    as u64
            }
            // The blocks are as large as what was packed.
            (None, Some(Place::Packed(number) | Place::PackedRows { layer: number, .. })) => {
                let layer = view.packing().and_then(|p| p.layers().get(number));
                let layer = layer.filter(|l| l.in_file_type().is_none());
                let share = |rows: usize| rows.min(tensor.rows()) as u64;
                layer.map_or(0, |l| l.bytes as u64 * share(l.rows) / (l.rows as u64).max(1))
            }
            // As large as in the file, with other values between them there.
            (None, Some(Place::Woven(_))) => (tensor.row_bytes * tensor.rows()) as u64,
            (Some(_) | None, _) => 0,
        }
    };
    let made: u64 = view.tensors().iter().filter(stays).map(made).sum();
    if made <= limit {
        return Ok(());
    }
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let what = format!(
        "{} MiB of memory to be used is too little: {} MiB of weights are unpacked or quantized while loading and \
         must stay",
        mib(limit),
        mib(made)
    );
    Err(Error::Memory { what, remedy: Remedy::RaiseMemoryOrUseGguf })
}
