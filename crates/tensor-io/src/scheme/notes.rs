//! What a user should know of packed layers: labels that contradict the tensors, kinds of layers beside each other.

use super::label::Label;
use super::{PackedLayer, Scheme, Store, affine, read, scaled};
use crate::Checkpoint;

/// The notes, in the order of their weight.
pub(super) fn notes(
    checkpoint: &Checkpoint,
    scheme: &Scheme,
    layers: &[PackedLayer],
    label: Option<&Label>,
) -> Vec<String> {
    let mut notes = Vec::new();
    notes.extend(label.and_then(|l| l.note.clone()));
    if *scheme == Scheme::Mixed {
        notes.push(kinds_note(layers, label.map(|l| l.method.name())));
    }
    let of_activations = |part: &usize| scaled::is_of_activations(&checkpoint.tensors()[*part].name);
    let with_scales = layers.iter().filter(|l| l.parts.iter().any(of_activations)).count();
    if with_scales > 0 {
        notes.push(format!(
            "the scales of activations (input_scale) of {with_scales} of {} layers are left out: activations are not \
             quantized here",
            layers.len()
        ));
    } else if label.is_some_and(|l| l.activations) {
        notes.push("made to run with quantized activations too, which are not quantized here".into());
    }
    if layers.is_empty() {
        let method = label.map_or("quantized", |l| l.method.name());
        notes.push(format!(
            "the configuration says {method}, but no layer is quantized: all weights are plain"
        ));
    }
    if let Scheme::CompressedTensors { bits, .. } = scheme {
        let mixed = layers.iter().filter(|l| l.bits() != *bits).count();
        if mixed > 0 {
            notes.push(format!("{mixed} of {} layers have another number of bits than {bits}", layers.len()));
        }
    }
    let Scheme::Gptq { bits, symmetric, .. } = scheme else { return notes };
    if !layers.is_empty() && label.is_none() {
        notes.push(
            "no configuration says how the layers are quantized: it is inferred from the tensors".into(),
        );
    }
    let layouts: Vec<_> = layers
        .iter()
        .filter_map(|l| match &l.store {
            Store::Affine(a) => Some((a.bits(), matches!(a.layout, affine::Layout::Gptq { v2: true, .. }))),
            _ => None,
        })
        .collect();
    let labelled = label.and_then(|l| l.v2).unwrap_or(false);
    // Zero points of symmetric layers are read as they are; what AutoRound calls a packing is no such claim.
    let claims = label.is_none_or(|l| l.note.is_none());
    let other = layouts.iter().filter(|(_, v2)| *v2 != labelled).count();
    if other > 0 && claims {
        let name = |v2| if v2 { "gptq_v2" } else { "gptq" };
        notes.push(format!(
            "labelled {}, but {other} of {} layers hold zero points as {} stores them, and are read so",
            name(labelled),
            layers.len(),
            name(!labelled)
        ));
    }
    let mixed = layouts.iter().filter(|(b, _)| b != bits).count();
    if mixed > 0 {
        notes.push(format!("{mixed} of {} layers have another number of bits than {bits}", layers.len()));
    }
    if !layers.is_empty() && label.and_then(|l| l.symmetric) == Some(true) && !symmetric {
        notes.push(
            "labelled symmetric, but not all zero points are in the middle; they are used as they are".into(),
        );
    }
    notes
}

/// How many layers are of which kind.
fn kinds_note(layers: &[PackedLayer], method: Option<&str>) -> String {
    let mut counts: Vec<(String, usize)> = Vec::new();
    for layer in layers {
        let kind = match read::scheme_of(layer, method) {
            Some(scheme) => scheme.with_bits(layer.bits()),
            None => format!("{} bits packed in words", layer.bits()),
        };
        match counts.iter_mut().find(|(found, _)| *found == kind) {
            Some((_, count)) => *count += 1,
            None => counts.push((kind, 1)),
        }
    }
    let counts: Vec<_> = counts.iter().map(|(kind, count)| format!("{count} of {kind}")).collect();
    format!("layers are quantized in several ways: {}", counts.join(", "))
}
