//! GGUF's tensors as Hugging Face has them.

use std::collections::{HashMap, HashSet};

use quern_tensor_io::scheme::Packing;
use quern_tensor_io::{Checkpoint, ElementType, Error, Metadata, Result, decode};

use crate::architecture::{Layout, TensorRole as Role, World};
use crate::config::{Config, ExpectedTensor};

use super::build::{Found, find, refuse_unexpected, reordered, row_bytes, shifted, undecodable};
use super::data::{Data, Part};
use super::order::RowOrder;
use super::{Packed, View, ViewTensor};

/// A Hugging Face checkpoint as it is, packed layers decoded.
pub(super) fn of_hugging_face(checkpoint: &Checkpoint, packed: Packed) -> Result<View<'_>> {
    let packing = match packed {
        Packed::Refused => None,
        _ => Packing::read(checkpoint)?,
    };
    let mut tensors = Vec::new();
    let mut data = Vec::new();
    let layers = packing.iter().flat_map(Packing::layers).enumerate();
    let by_part: HashMap<usize, usize> =
        layers.flat_map(|(n, l)| l.parts.iter().map(move |&p| (p, n))).collect();
    let mut done = HashSet::new();
    for (index, info) in checkpoint.tensors().iter().enumerate() {
        let layer = by_part.get(&index).and_then(|&n| packing.as_ref().map(|p| (n, &p.layers()[n])));
        let (name, shape, element_type, one) = match layer {
            Some((number, _)) if !done.insert(number) => continue,
            Some((number, layer)) => {
                let part = Part::Packed { layer: number, form: None };
                let rows = Data::Rows { parts: vec![part], order: None };
                (&layer.name, vec![layer.rows, layer.columns], ElementType::F32, rows)
            }
            None => (&info.name, info.shape.clone(), info.element_type, Data::plain(checkpoint.data(info))),
        };
        let sources = match layer {
            Some((_, layer)) => layer.parts.iter().map(|&p| checkpoint.tensors()[p].name.clone()).collect(),
            None => vec![info.name.clone()],
        };
        tensors.push(ViewTensor {
            name: name.clone(),
            row_bytes: row_bytes(element_type, &shape),
            shape,
            element_type,
            sources,
            role: None,
            layer: None,
            packed: layer.is_some(),
            changed: None,
        });
        data.push(one);
    }
    let notes = packing.iter().flat_map(|p| p.notes().to_vec()).collect();
    let config = Config::from_checkpoint(checkpoint).ok();
    let metadata = Metadata::new();
    Ok(View { checkpoint, world: World::HuggingFace, config, packing, metadata, notes, tensors, data })
}

/// A GGUF checkpoint, translated.
pub(super) fn of_gguf(checkpoint: &Checkpoint) -> Result<View<'_>> {
    let config = Config::from_checkpoint(checkpoint)?;
    let here = config.expected_tensors(World::Gguf);
    refuse_unexpected(checkpoint, None, &config, &here)?;
    let by_role: HashMap<(Role, Option<usize>), &ExpectedTensor> =
        here.iter().map(|e| ((e.role, e.layer), e)).collect();
    let mut tensors = Vec::new();
    let mut data = Vec::new();
    for want in config.expected_tensors(World::HuggingFace) {
        let Some(source) = by_role.get(&(want.role, want.layer)) else { continue };
        let Some(found) = find(checkpoint, None, &config, source)? else { continue };
        let Found::Plain(info) = found else { continue };
        let (tensor, one) = translate(checkpoint, &config, &want, info)?;
        tensors.push(tensor);
        data.push(one);
    }
    let notes = Vec::new();
    let (config, metadata) = (Some(config), Metadata::new());
    Ok(View { checkpoint, world: World::HuggingFace, config, packing: None, metadata, notes, tensors, data })
}

fn translate<'a>(
    checkpoint: &'a Checkpoint,
    config: &Config,
    want: &ExpectedTensor,
    info: &'a quern_tensor_io::TensorInfo,
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
    let tensor = ViewTensor {
        name: want.name.clone(),
        row_bytes: row_bytes(element_type, &want.shape),
        shape: want.shape.clone(),
        element_type,
        sources: vec![info.name.clone()],
        role: Some(want.role),
        layer: want.layer,
        packed: false,
        changed,
    };
    Ok((tensor, one))
}
