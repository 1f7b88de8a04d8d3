//! All tensors of a checkpoint, whether the architecture knows them or not: the view of comparisons.

use std::collections::HashSet;

use quern_tensor_io::{Checkpoint, ElementType, Metadata, Result, scheme::Packing};

use crate::contents::{Contents, Place};

use super::data::{Data, Part};
use super::gguf::{self, Whole};
use super::values::{row_bytes, tensor_as_it_is};
use super::{Packed, View, ViewTensor, stored};

pub(super) fn as_stored(contents: Contents<'_>) -> View<'_> {
    let problems = problems(&contents);
    let mut view = stored::described(contents);
    view.notes.extend(problems);
    let used = used(&view.tensors);
    for (tensor, data) in rest(view.checkpoint, view.packing.as_ref(), &used) {
        view.tensors.push(tensor);
        view.data.push(data);
    }
    view
}

pub(super) fn as_gguf(contents: Contents<'_>, packed: Packed) -> Result<View<'_>> {
    let mut all = gguf::translated(&contents, packed, Whole::Optional)?;
    let used = used(all.iter().map(|(tensor, _)| tensor));
    let checkpoint = contents.checkpoint();
    all.extend(rest(checkpoint, contents.packing(), &used));
    let mut notes: Vec<String> = contents.note().into_iter().collect();
    notes.extend(contents.packing().iter().flat_map(|p| p.notes().to_vec()));
    notes.extend(problems(&contents));
    let (config, packing, _) = contents.into_parts();
    Ok(gguf::sorted(checkpoint, Some(config), packing, Metadata::new(), notes, all))
}

fn problems(contents: &Contents<'_>) -> Option<String> {
    contents.require_sound().err().map(|e| format!("this model cannot be run: {e}"))
}

/// The tensors and packed layers of the file that a view has, by name.
fn used<'t>(tensors: impl IntoIterator<Item = &'t ViewTensor>) -> HashSet<String> {
    tensors.into_iter().flat_map(|tensor| tensor.sources.iter().cloned()).collect()
}

/// The tensors and packed layers that are not used, as the file has them.
fn rest<'a>(
    checkpoint: &'a Checkpoint,
    packing: Option<&Packing>,
    used: &HashSet<String>,
) -> Vec<(ViewTensor, Data<'a>)> {
    let layers = packing.map_or(&[] as &[_], Packing::layers);
    let parts: HashSet<usize> = layers.iter().flat_map(|l| l.parts.iter().copied()).collect();
    let plain = checkpoint.tensors().iter().enumerate();
    let plain = plain.filter(|(index, info)| !parts.contains(index) && !used.contains(&info.name));
    let plain = plain.map(|(index, info)| (tensor_as_it_is(info, index), Data::plain(checkpoint.data(info))));
    let packed = layers.iter().enumerate().filter(|(_, layer)| !used.contains(&layer.name));
    let packed = packed.filter_map(|(number, layer)| {
        let first = *layer.parts.first()?;
        let shape = vec![layer.rows, layer.columns];
        let tensor = ViewTensor {
            name: layer.name.clone(),
            row_bytes: row_bytes(ElementType::F32, &shape),
            shape,
            element_type: ElementType::F32,
            sources: vec![layer.name.clone()],
            place: Some(Place::Packed(number)),
            packed: true,
            ..tensor_as_it_is(&checkpoint.tensors()[first], first)
        };
        let part = Part::Packed { layer: number, first: 0, form: None };
        Some((tensor, Data::Rows { parts: vec![part], order: None }))
    });
    plain.chain(packed).collect()
}
