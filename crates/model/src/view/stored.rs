//! Checkpoints under the names and in the layout they are stored in.

use std::collections::{HashMap, HashSet};

use quern_tensor_io::scheme::Packing;
use quern_tensor_io::{Checkpoint, ElementType, Metadata, Result};

use crate::Config;
use crate::architecture::{Convention, Layout};
use crate::config::ExpectedTensor;
use crate::contents::{Contents, HeldTensor, Place};
use crate::gguf::own_metadata;

use super::data::{Data, Part};
use super::values::{row_bytes, tensor_as_it_is, tensor_of};
use super::{Packed, View, ViewTensor, fused};

/// What the architecture has, by its own names.
pub(super) fn described(contents: Contents<'_>) -> View<'_> {
    let (checkpoint, held) = (contents.checkpoint(), contents.tensors());
    let one = |held: &HeldTensor| described_one(checkpoint, contents.packing(), &held.expected, held.place);
    let (tensors, data) = held.iter().map(one).unzip();
    view_of(contents, tensors, data)
}

/// These tensors of the contents as a view in the checkpoint's own format.
pub(super) fn view_of<'a>(contents: Contents<'a>, tensors: Vec<ViewTensor>, data: Vec<Data<'a>>) -> View<'a> {
    let (checkpoint, convention) = (contents.checkpoint(), contents.config().convention);
    let mut notes: Vec<String> = contents.note().into_iter().collect();
    let (config, packing, _) = contents.into_parts();
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

/// A tensor of the architecture, which is in this place.
pub(super) fn described_one<'a>(
    checkpoint: &'a Checkpoint,
    packing: Option<&Packing>,
    expected: &ExpectedTensor,
    place: Place,
) -> (ViewTensor, Data<'a>) {
    let rows = |part| Data::Rows { parts: vec![part], order: None };
    let (tensor, one) = match place {
        Place::Plain(span) => {
            let info = span.info(checkpoint);
            let tensor = tensor_of(expected, info.element_type, vec![info.name.clone()]);
            (tensor, Data::plain(span.data(checkpoint)))
        }
        Place::Woven(woven) => {
            let info = woven.span.info(checkpoint);
            let tensor = tensor_of(expected, info.element_type, vec![info.name.clone()]);
            let (data, stored) = (woven.span.data(checkpoint), info.element_type);
            (tensor, rows(Part::Woven { data, woven, stored }))
        }
        Place::Packed(number) | Place::PackedRows { layer: number, .. } => {
            let layer = packing.and_then(|p| p.layers().get(number));
            let name = layer.map_or_else(String::new, |layer| layer.name.clone());
            let mut tensor = tensor_of(expected, ElementType::F32, vec![name]);
            let whole = matches!(place, Place::Packed(_));
            let first = if let Place::PackedRows { first, .. } = place { first } else { 0 };
            if let Some(layer) = layer.filter(|layer| whole && layer.rows != tensor.rows()) {
                tensor.shape = vec![layer.rows, layer.columns];
            }
            tensor.row_bytes = row_bytes(ElementType::F32, &tensor.shape);
            tensor.packed = true;
            (tensor, rows(Part::Packed { layer: number, first, form: None }))
        }
    };
    let layout = match (expected.convention, place) {
        (Convention::Gguf, _) => Layout::Same,
        // Packed layers are stored the usual way round.
        (_, Place::Packed(_) | Place::PackedRows { .. })
            if expected.template.layout == Layout::Transposed =>
        {
            Layout::Same
        }
        (Convention::HuggingFace, _) => expected.template.layout,
    };
    (ViewTensor { place: Some(place), layout, ..tensor }, one)
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
    let config = Config::from_checkpoint(checkpoint).ok();
    if let (Some(config), Some(_)) = (&config, &packing)
        && config.architecture.hf_woven
    {
        let contents = Contents::matched(checkpoint, config.clone(), packing);
        contents.require_sound()?;
        return Ok(fused::as_files(contents));
    }
    let mut tensors = Vec::new();
    let mut data = Vec::new();
    let layers = packing.iter().flat_map(Packing::layers).enumerate();
    // A tensor may hold several layers.
    let mut by_part: HashMap<usize, Vec<usize>> = HashMap::new();
    for (number, layer) in layers {
        layer.parts.iter().for_each(|&part| by_part.entry(part).or_default().push(number));
    }
    let mut done = HashSet::new();
    for (index, info) in checkpoint.tensors().iter().enumerate() {
        let Some(numbers) = by_part.get(&index) else {
            tensors.push(tensor_as_it_is(info, index));
            data.push(Data::plain(checkpoint.data(info)));
            continue;
        };
        for &number in numbers {
            if let Some(layer) =
                packing.as_ref().and_then(|p| p.layers().get(number)).filter(|_| done.insert(number))
            {
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
        }
    }
    let mut notes: Vec<String> = packing.iter().flat_map(|p| p.notes().to_vec()).collect();
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
