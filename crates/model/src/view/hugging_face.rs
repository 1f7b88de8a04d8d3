//! GGUF's tensors as Hugging Face has them.

use std::collections::HashMap;

use quern_tensor_io::{Checkpoint, ElementType, Error, Metadata, Result, TensorInfo, decode};

use crate::architecture::{Convention, Layout, TensorRole as Role};
use crate::config::{Config, ExpectedTensor, XIELU};
use crate::contents::{Contents, Place};

use super::data::{Data, Part};
use super::order::RowOrder;
use super::values::{reordered, shifted, tensor_of, undecodable};
use super::{View, ViewTensor};

/// A GGUF checkpoint, translated.
pub(super) fn of_gguf(checkpoint: &Checkpoint) -> Result<View<'_>> {
    let contents = Contents::read(checkpoint)?;
    contents.require_sound()?;
    let notes = contents.note().into_iter().collect();
    let (config, _, held) = contents.into_parts();
    let by_role: HashMap<(Role, Option<usize>), Place> =
        held.iter().map(|t| ((t.expected.role, t.expected.layer), t.place)).collect();
    let mut tensors = Vec::new();
    let mut data = Vec::new();
    for want in config.expected_tensors(Convention::HuggingFace) {
        let Some(Place::Plain(span)) = by_role.get(&(want.role, want.layer)) else {
            if let Some((tensor, one)) = from_metadata(&config, &want) {
                tensors.push(tensor);
                data.push(one);
            }
            continue;
        };
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

/// A number that GGUF has in its metadata.
fn from_metadata(config: &Config, want: &ExpectedTensor) -> Option<(ViewTensor, Data<'static>)> {
    let at = XIELU.iter().position(|(_, role)| *role == want.role)?;
    let value = config.xielu.get(want.layer?)?[at];
    let tensor = tensor_of(want, ElementType::F32, Vec::new());
    Some((tensor, Data::Owned(value.to_le_bytes().to_vec())))
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
