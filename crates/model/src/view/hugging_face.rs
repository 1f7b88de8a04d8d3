//! GGUF's tensors as Hugging Face has them.

use quern_tensor_io::scheme::{PackedLayer, Packing};
use quern_tensor_io::{Checkpoint, ElementType, Error, Metadata, Result, TensorInfo, decode};

use crate::architecture::{Convention, Layout, TensorRole as Role};
use crate::config::{Config, ExpectedTensor, XIELU};
use crate::contents::{Contents, Place};

use super::data::{Data, Part};
use super::joined::{Joined, Places};
use super::latent::Both;
use super::order::RowOrder;
use super::values::{decays, reordered, shifted, tensor_of, undecodable};
use super::{Packed, View, ViewTensor, fused};

/// The contents of a GGUF checkpoint, translated.
pub(super) fn of_gguf(contents: Contents<'_>, packed: Packed) -> Result<View<'_>> {
    let checkpoint = contents.checkpoint();
    contents.require_sound()?;
    let notes = contents.note().into_iter().collect();
    let (config, packing, held) = contents.into_parts();
    let by_role: Places = held.iter().map(|t| ((t.expected.role, t.expected.layer), t.place)).collect();
    let mut tensors = Vec::new();
    let mut data = Vec::new();
    for want in config.expected_tensors(Convention::HuggingFace) {
        if let Some((_, _, which)) = fused::woven(&config, want.role) {
            if which == 0 && want.part == Some(0) {
                let source = |role, expert| {
                    expert_of_stack(
                        (checkpoint, packing.as_ref()),
                        *by_role.get(&(role, want.layer))?,
                        &want,
                        expert,
                    )
                };
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
        if let Some((_, which)) = fused::grouped(&config, want.role) {
            if which == 0 {
                let source = |role, head| {
                    let place = *by_role.get(&(role, want.layer))?;
                    head_of((checkpoint, packing.as_ref()), place, config.head_dim, head)
                };
                let Some((tensor, one)) = fused::heads(&config, &want, source) else {
                    let what = "queries, keys and values belong in one tensor and are of several types; convert the file \
                                to one type first";
                    return Err(Error::unsupported(checkpoint.path(), what).with_tensor(&want.name));
                };
                tensors.push(tensor);
                data.push(one);
            }
            continue;
        }
        if let Some((_, _, which)) = fused::below(&config, want.role)
            && by_role.contains_key(&(want.role, want.layer))
        {
            if which == 0 && want.part.is_none_or(|part| part == 0) {
                let source = |role, expert| {
                    let (place, of) = (*by_role.get(&(role, want.layer))?, (checkpoint, packing.as_ref()));
                    match expert {
                        Some(expert) => expert_of_stack(of, place, &want, expert),
                        None => whole(of, place),
                    }
                };
                let Some((tensor, one)) = fused::stack(&config, &want, source) else {
                    let what = "the matrices that belong in one tensor are of several types; convert the file to one \
                                type first";
                    return Err(Error::unsupported(checkpoint.path(), what).with_tensor(&want.name));
                };
                tensors.push(tensor);
                data.push(one);
            }
            continue;
        }
        let held = |role| match by_role.get(&(role, want.layer)) {
            Some(Place::Plain(span)) => Some(span.info(checkpoint)),
            Some(Place::Packed(_) | Place::PackedRows { .. } | Place::Woven(_)) | None => None,
        };
        if let (Role::AttentionKvUp, Some(keys), Some(values)) =
            (want.role, held(Role::AttentionKUp), held(Role::AttentionVUp))
        {
            if let Some((tensor, one)) = Both::tensor(checkpoint, &config, &want, (keys, values))? {
                tensors.push(tensor);
                data.push(one);
            }
            continue;
        }
        if let Some((tensor, one)) = Joined::tensor((checkpoint, packing.as_ref()), &config, &want, &by_role)?
        {
            tensors.push(tensor);
            data.push(one);
            continue;
        }
        let (tensor, one) = match by_role.get(&(want.role, want.layer)) {
            None => match from_metadata(&config, &want) {
                Some(made) => made,
                None => continue,
            },
            Some(Place::Plain(span)) => translate(checkpoint, &config, &want, span.info(checkpoint))?,
            // Of Hugging Face's files alone.
            Some(Place::Woven(_)) => continue,
            Some(Place::Packed(number) | Place::PackedRows { layer: number, .. }) => {
                let Some(layer) = packing.as_ref().and_then(|p| p.layers().get(*number)) else { continue };
                decoded(checkpoint, &config, &want, *number, layer)?
            }
        };
        tensors.push(tensor);
        data.push(one);
    }
    let (config, metadata) = (Some(config), Metadata::new());
    Ok(View {
        checkpoint,
        convention: Convention::HuggingFace,
        config,
        packing,
        metadata,
        notes,
        tensors,
        data,
    })
}

/// The rows of one head of a matrix.
fn head_of<'a>(
    (checkpoint, packing): (&'a Checkpoint, Option<&Packing>),
    place: Place,
    rows: usize,
    head: usize,
) -> Option<fused::Source<'a>> {
    match place {
        Place::Plain(span) => {
            let (info, data) = (span.info(checkpoint), span.data(checkpoint));
            let bytes = rows * info.element_type.row_bytes(info.columns())?;
            Some((
                Part::Bytes(data.get(head * bytes..(head + 1) * bytes)?),
                info.element_type,
                info.name.clone(),
            ))
        }
        Place::Packed(layer) => {
            let name = packing?.layers().get(layer)?.name.clone();
            Some((Part::Packed { layer, first: head * rows, form: None }, ElementType::F32, name))
        }
        // Of Hugging Face's files alone.
        Place::Woven(_) | Place::PackedRows { .. } => None,
    }
}

/// All rows of a tensor.
fn whole<'a>(
    (checkpoint, packing): (&'a Checkpoint, Option<&Packing>),
    place: Place,
) -> Option<fused::Source<'a>> {
    match place {
        Place::Plain(span) => {
            let info = span.info(checkpoint);
            Some((Part::Bytes(span.data(checkpoint)), info.element_type, info.name.clone()))
        }
        Place::Packed(layer) => {
            let name = packing?.layers().get(layer)?.name.clone();
            Some((Part::Packed { layer, first: 0, form: None }, ElementType::F32, name))
        }
        // Of Hugging Face's files alone.
        Place::Woven(_) | Place::PackedRows { .. } => None,
    }
}

/// The rows of one expert in a stack of all.
fn expert_of_stack<'a>(
    (checkpoint, packing): (&'a Checkpoint, Option<&Packing>),
    place: Place,
    want: &ExpectedTensor,
    expert: usize,
) -> Option<fused::Source<'a>> {
    match place {
        Place::Plain(span) => {
            let (info, data) = (span.info(checkpoint), span.data(checkpoint));
            let bytes = data.len() / info.shape.first().copied().unwrap_or(1).max(1);
            let data = data.get(expert * bytes..(expert + 1) * bytes)?;
            Some((Part::Bytes(data), info.element_type, info.name.clone()))
        }
        // A stack that has a factor beside it.
        Place::Packed(layer) => {
            let (held, rows) = (packing?.layers().get(layer)?, *want.shape.first()?);
            let first = expert * rows;
            let fits = first + rows <= held.rows;
            fits.then(|| (Part::Packed { layer, first, form: None }, ElementType::F32, held.name.clone()))
        }
        // Of Hugging Face's files alone.
        Place::Woven(_) | Place::PackedRows { .. } => None,
    }
}

/// A weight that has a factor beside it, decoded to f32.
fn decoded<'a>(
    checkpoint: &Checkpoint,
    config: &Config,
    want: &ExpectedTensor,
    number: usize,
    layer: &PackedLayer,
) -> Result<(ViewTensor, Data<'a>)> {
    let layout = want.template.layout;
    if matches!(layout, Layout::PlusOne | Layout::Transposed | Layout::DeltaDecay) {
        let what =
            "has a scale beside it, and the model's own files have it in another layout, which is not read";
        return Err(Error::unsupported(checkpoint.path(), what).with_tensor(&layer.name));
    }
    let height = want.shape.iter().rev().skip(1).product::<usize>();
    let first = want.part.map_or(0, |part| part * height);
    if layer.columns != want.shape.last().copied().unwrap_or(1) || first + height > layer.rows {
        let what = format!("is {} x {}, which does not fit {:?}", layer.rows, layer.columns, want.shape);
        return Err(Error::malformed(checkpoint.path(), what).with_tensor(&layer.name));
    }
    let part = Part::Packed { layer: number, first, form: None };
    let one = match RowOrder::columns_to_hugging_face(layout, config) {
        Some(order) => Data::Columns { part, stored: ElementType::F32, order },
        None => Data::Rows { parts: vec![part], order: RowOrder::to_hugging_face(want.template, config) },
    };
    let tensor = tensor_of(want, ElementType::F32, vec![layer.name.clone()]);
    Ok((ViewTensor { packed: true, layout, ..tensor }, one))
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
    let order = RowOrder::to_hugging_face(want.template, config);
    let columns = RowOrder::columns_to_hugging_face(layout, config);
    let mut element_type = info.element_type;
    let mut changed = None;
    let one = match (layout, want.part) {
        (Layout::PlusOne, _) => {
            element_type = ElementType::F32;
            changed = Some("less one");
            Data::Owned(shifted(checkpoint, info, -1.0)?)
        }
        (Layout::DeltaDecay | Layout::FlatDecay, _) => {
            element_type = ElementType::F32;
            changed = Some("as its logarithm");
            Data::Owned(decays(checkpoint, info, order.as_ref(), true)?)
        }
        (Layout::DeltaColumns, _) if columns.is_some() => {
            if element_type.is_block() {
                if !decode::can_decode(element_type) {
                    return Err(undecodable(checkpoint, info));
                }
                element_type = ElementType::F32;
            }
            match columns {
                Some(order) => Data::Columns { part: Part::Bytes(data), stored: info.element_type, order },
                None => Data::plain(data),
            }
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
