//! GGUF's tensors as Hugging Face has them.

use std::collections::HashMap;

use quern_tensor_io::{Checkpoint, ElementType, Error, Metadata, Result, TensorInfo, decode};

use crate::architecture::{Convention, Layout, TensorRole as Role};
use crate::config::{Config, ExpectedTensor};
use crate::contents::{Contents, Place};

use super::data::{Data, Part};
use super::order::RowOrder;
use super::values::{reordered, shifted, tensor_of, undecodable};
use super::{Packed, View, ViewTensor, fused};

/// A GGUF checkpoint, translated.
pub(super) fn of_gguf(checkpoint: &Checkpoint, packed: Packed) -> Result<View<'_>> {
    let contents = Contents::read(checkpoint)?;
    contents.require_sound()?;
    let notes = contents.note().into_iter().collect();
    let (config, _, held) = contents.into_parts();
    let by_role: HashMap<(Role, Option<usize>), Place> =
        held.iter().map(|t| ((t.expected.role, t.expected.layer), t.place)).collect();
    let mut tensors = Vec::new();
    let mut data = Vec::new();
    for want in config.expected_tensors(Convention::HuggingFace) {
        if let Some((_, _, which)) = fused::woven(&config, want.role) {
            if which == 0 && want.part == Some(0) {
                let source =
                    |role, expert| expert_of_stack(checkpoint, *by_role.get(&(role, want.layer))?, expert);
                let Some((tensor, one)) = fused::fused(&config, &want, source) else {
                    let what =
                        "the experts of this layer are of several types, or of one that cannot be decoded";
                    return Err(Error::unsupported(checkpoint.path(), what).with_tensor(&want.name));
                };
                let released = match &one {
                    Data::Fused(fused) if packed == Packed::Exact => fused.as_released(&tensor),
                    _ => None,
                };
                for (tensor, one) in released.map_or_else(|| vec![(tensor, one)], Vec::from) {
                    tensors.push(tensor);
                    data.push(one);
                }
            }
            continue;
        }
        let Some(Place::Plain(span)) = by_role.get(&(want.role, want.layer)) else { continue };
        let (tensor, one) = translate(checkpoint, &config, &want, span.info(checkpoint))?;
        tensors.push(tensor);
        data.push(one);
    }
    let (config, metadata) = (Some(config), Metadata::new());
    Ok(View {
        checkpoint,
        convention: Convention::HuggingFace,
        config,
        packing: None,
        metadata,
        notes,
        tensors,
        data,
    })
}

/// The rows of one expert in a stack of all.
fn expert_of_stack(checkpoint: &Checkpoint, place: Place, expert: usize) -> Option<fused::Source<'_>> {
    let Place::Plain(span) = place else { return None };
    let (info, data) = (span.info(checkpoint), span.data(checkpoint));
    let bytes = data.len() / info.shape.first().copied().unwrap_or(1).max(1);
    let data = data.get(expert * bytes..(expert + 1) * bytes)?;
    Some((Part::Bytes(data), info.element_type, info.name.clone()))
}

fn translate<'a>(
    checkpoint: &'a Checkpoint,
    config: &Config,
    want: &ExpectedTensor,
    info: &'a TensorInfo,
) -> Result<(ViewTensor, Data<'a>)> {
    let layout = want.template.layout;
    let data = checkpoint.data(info);
    let order = RowOrder::to_hugging_face(layout, config);
    let mut element_type = info.element_type;
    let mut changed = None;
    let one = match (layout, want.part) {
        (Layout::PlusOne, _) => {
            element_type = ElementType::F32;
            changed = Some("less one");
            Data::Owned(shifted(checkpoint, info, -1.0)?)
        }
        (Layout::Transposed, _) => {
            if element_type.is_block() {
                if !decode::can_decode(element_type) {
                    return Err(undecodable(checkpoint, info));
                }
                element_type = ElementType::F32;
            }
            Data::Transposed { data, stored: info.element_type }
        }
        (_, Some(part)) => {
            let parts = info.shape.first().copied().unwrap_or(1).max(1);
            let bytes = data.len() / parts;
            Data::plain(&data[part * bytes..(part + 1) * bytes])
        }
        (_, None) if order.is_some() && info.shape.len() == 1 => {
            if element_type.is_block() {
                let what = "a vector of blocks cannot be reordered";
                return Err(Error::unsupported(checkpoint.file_of(info), what).with_tensor(&info.name));
            }
            Data::Owned(order.map(|order| reordered(info, data, &order)).unwrap_or_default())
        }
        (_, None) => Data::Rows { parts: vec![Part::Bytes(data)], order },
    };
    let tensor = ViewTensor { changed, layout, ..tensor_of(want, element_type, vec![info.name.clone()]) };
    Ok((tensor, one))
}
