//! Checkpoints under the names and in the layout they are stored in.

use std::collections::{HashMap, HashSet};

use quern_tensor_io::scheme::Packing;
use quern_tensor_io::{Checkpoint, ElementType, Metadata, Result};

use crate::Config;
use crate::architecture::{Convention, Layout};
use crate::contents::{Contents, HeldTensor, Place};
use crate::gguf::own_metadata;

use super::data::{Data, Part};
use super::values::{row_bytes, tensor_as_it_is, tensor_of};
use super::{Packed, View, ViewTensor};

/// What the architecture has, by its own names.
pub(super) fn described(contents: Contents<'_>) -> View<'_> {
    let checkpoint = contents.checkpoint();
    let convention = contents.config().convention;
    let mut notes: Vec<String> = contents.note().into_iter().collect();
    let (config, packing, held) = contents.into_parts();
    let (mut tensors, mut data) = (Vec::with_capacity(held.len()), Vec::with_capacity(held.len()));
    for HeldTensor { expected, place } in held {
        let (tensor, one) = match place {
            Place::Plain(span) => {
                let info = span.info(checkpoint);
                let tensor = tensor_of(&expected, info.element_type, vec![info.name.clone()]);
                (tensor, Data::plain(span.data(checkpoint)))
            }
            Place::Packed(number) | Place::PackedRows { layer: number, .. } => {
                let Some(layer) = packing.as_ref().and_then(|p| p.layers().get(number)) else { continue };
                let mut tensor = tensor_of(&expected, ElementType::F32, vec![layer.name.clone()]);
                let whole = matches!(place, Place::Packed(_));
                if whole && tensor.rows() != layer.rows {
                    tensor.shape = vec![layer.rows, layer.columns];
                }
                tensor.row_bytes = row_bytes(ElementType::F32, &tensor.shape);
                tensor.packed = true;
                let first = if let Place::PackedRows { first, .. } = place { first } else { 0 };
                let part = Part::Packed { layer: number, first, form: None };
                (tensor, Data::Rows { parts: vec![part], order: None })
            }
        };
        let layout = match (convention, place) {
            (Convention::Gguf, _) => Layout::Same,
            // Packed layers are stored the usual way round.
            (_, Place::Packed(_) | Place::PackedRows { .. })
                if expected.template.layout == Layout::Transposed =>
            {
                Layout::Same
            }
            (Convention::HuggingFace, _) => expected.template.layout,
        };
        tensors.push(ViewTensor { place: Some(place), layout, ..tensor });
        data.push(one);
    }
    notes.extend(packing.iter().flat_map(|p| p.notes().to_vec()));
    View {
        checkpoint,
        convention,
        config: Some(config),
        packing,
        metadata: Metadata::new(),
        notes,
        tensors,
        data,
    }
}

/// A GGUF checkpoint tensor by tensor, in llama-quantize's order: as it is, or with the weights that have a factor beside
/// them decoded.
pub(super) fn gguf(checkpoint: &Checkpoint, packed: Packed) -> Result<View<'_>> {
    let packing = match packed {
        Packed::Exact => None,
        Packed::Decoded | Packed::Refused => Packing::read(checkpoint)?,
    };
    let layers = packing.iter().flat_map(Packing::layers).enumerate();
    let by_part: HashMap<usize, usize> =
        layers.flat_map(|(n, l)| l.parts.iter().map(move |&p| (p, n))).collect();
    let mut all = Vec::with_capacity(checkpoint.tensors().len());
    for (index, info) in checkpoint.tensors().iter().enumerate() {
        let layer = super::gguf::layer_of(&info.name);
        let mut tensor = ViewTensor { layer, ..tensor_as_it_is(info, index) };
        let number = by_part.get(&index).copied();
        let name = number.and_then(|n| packing.as_ref().map(|p| p.layers()[n].name.as_str()));
        match (number, name) {
            (Some(number), Some(name)) if name == info.name => {
                tensor.element_type = ElementType::F32;
                tensor.row_bytes = row_bytes(ElementType::F32, &tensor.shape);
                (tensor.place, tensor.packed) = (Some(Place::Packed(number)), true);
                let part = Part::Packed { layer: number, first: 0, form: None };
                all.push((tensor, Data::Rows { parts: vec![part], order: None }));
            }
            // The factor itself.
            (Some(_), _) => {}
            (None, _) => all.push((tensor, Data::plain(checkpoint.data(info)))),
        }
    }
    // Tensors are copied and re-typed without knowing the architecture; if it is known, problems are reported.
    let mut notes = Vec::new();
    let (config, packing) = match Config::from_checkpoint(checkpoint) {
        Ok(config) => {
            let packing = match packing {
                Some(packing) => Some(packing),
                None => Packing::read(checkpoint)?,
            };
            let contents = Contents::matched(checkpoint, config, packing);
            if let Err(e) = contents.require_sound() {
                notes.push(format!("this model cannot be run: {e}"));
            }
            let (config, packing, _) = contents.into_parts();
            (Some(config), packing)
        }
        Err(_) => (None, packing),
    };
    Ok(super::gguf::sorted(checkpoint, config, packing, own_metadata(checkpoint), notes, all))
}

/// A Hugging Face checkpoint tensor by tensor in file order, packed layers decoded.
pub(super) fn hugging_face(checkpoint: &Checkpoint, packed: Packed) -> Result<View<'_>> {
    let packing = match packed {
        Packed::Refused => None,
        Packed::Decoded | Packed::Exact => Packing::read(checkpoint)?,
    };
    let mut tensors = Vec::new();
    let mut data = Vec::new();
    let layers = packing.iter().flat_map(Packing::layers).enumerate();
    let by_part: HashMap<usize, usize> =
        layers.flat_map(|(n, l)| l.parts.iter().map(move |&p| (p, n))).collect();
    let mut done = HashSet::new();
    for (index, info) in checkpoint.tensors().iter().enumerate() {
        let layer = by_part.get(&index).and_then(|&n| packing.as_ref().map(|p| (n, &p.layers()[n])));
        match layer {
            Some((number, _)) if !done.insert(number) => {}
            Some((number, layer)) => {
                let shape = vec![layer.rows, layer.columns];
                tensors.push(ViewTensor {
                    name: layer.name.clone(),
                    row_bytes: row_bytes(ElementType::F32, &shape),
                    shape,
                    element_type: ElementType::F32,
                    sources: layer.parts.iter().map(|&p| checkpoint.tensors()[p].name.clone()).collect(),
                    place: Some(Place::Packed(number)),
                    packed: true,
                    ..tensor_as_it_is(info, index)
                });
                let part = Part::Packed { layer: number, first: 0, form: None };
                data.push(Data::Rows { parts: vec![part], order: None });
            }
            None => {
                tensors.push(tensor_as_it_is(info, index));
                data.push(Data::plain(checkpoint.data(info)));
            }
        }
    }
    let mut notes: Vec<String> = packing.iter().flat_map(|p| p.notes().to_vec()).collect();
    let config = Config::from_checkpoint(checkpoint).ok();
    let (config, packing) = match config {
        None => (None, packing),
        Some(config) => {
            let contents = Contents::matched(checkpoint, config, packing);
            if let (Err(e), Packed::Decoded | Packed::Exact) = (contents.require_sound(), packed) {
                notes.push(format!("this model cannot be run: {e}"));
            }
            let (config, packing, _) = contents.into_parts();
            (Some(config), packing)
        }
    };
    let convention = Convention::HuggingFace;
    Ok(View { checkpoint, convention, config, packing, metadata: Metadata::new(), notes, tensors, data })
}
