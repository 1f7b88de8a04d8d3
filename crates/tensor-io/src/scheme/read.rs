//! Which layers of a checkpoint are packed, and by which method.

use std::collections::HashSet;

use super::bitsandbytes::{four_bit_weight, int8_layer, read_four_bit, read_int8};
use super::label::{self, ADVICE, Label, Method};
use super::{PackedLayer, Packing, Scheme, Store, affine, compressed, four_bit, gptq};
use crate::{Checkpoint, ElementType, Error, Result, TensorInfo};

/// Tensors that mark a method quern does not read, by the ends of their names.
const OTHERS: [(&str, &str); 6] = [
    (".q_invperm", "EXL2 (exllamav2)"),
    (".trellis", "EXL3 (exllamav3)"),
    (".W_q", "HQQ"),
    (".weight_scale_inv", "fp8 with block scales"),
    (".weight_scale", "scaled fp8 or int8 (compressed-tensors, modelopt)"),
    (".q_scale_max", "EXL2 (exllamav2)"),
];

/// Tensors that belong to a packed layer and mean nothing alone, by the ends of their names.
const PIECES: [&str; 19] = [
    ".qzeros",
    ".g_idx",
    ".scales",
    ".weight.absmax",
    ".weight.quant_map",
    ".weight.nested_absmax",
    ".weight.nested_quant_map",
    ".weight_absmax",
    ".weight_quant_map",
    ".weight_nested_absmax",
    ".weight_nested_quant_map",
    ".weight_format",
    ".SCB",
    ".weight_scb",
    ".weight_packed",
    ".weight_scale",
    ".weight_shape",
    ".weight_zero_point",
    ".weight_g_idx",
];

pub(super) fn read(checkpoint: &Checkpoint) -> Result<Option<Packing>> {
    let label = label::read(checkpoint)?;
    refuse_others(checkpoint)?;
    let label = label.as_ref();
    let mut layers = Vec::new();
    let mut methods = HashSet::new();
    for info in checkpoint.tensors() {
        let (method, layer) = if let Some(prefix) = info.name.strip_suffix(".qweight") {
            let awq =
                label.map_or_else(|| gptq::looks_like_awq(checkpoint, prefix), |l| l.method == Method::Awq);
            match awq {
                true => (Method::Awq, gptq::read_awq(checkpoint, prefix, label)?),
                false => (Method::Gptq, gptq::read(checkpoint, prefix, label)?),
            }
        } else if let Some(prefix) = info.name.strip_suffix(".weight_packed") {
            (Method::CompressedTensors, compressed::read(checkpoint, prefix, label)?)
        } else if let Some(weight) = four_bit_weight(&info.name) {
            (Method::BitsAndBytes, read_four_bit(checkpoint, weight, label)?)
        } else if let Some(prefix) = int8_layer(&info.name) {
            (Method::BitsAndBytes, read_int8(checkpoint, prefix)?)
        } else {
            continue;
        };
        if let Some(label) = label.filter(|l| l.method != method) {
            let what = format!(
                "belongs to a {} layer, but {} says {}",
                method.name(),
                label.file.display(),
                label.method.name()
            );
            return Err(fault(checkpoint, info, what));
        }
        methods.insert(method.name());
        layers.push(layer);
    }
    if methods.len() > 1 {
        let what = "holds layers of several quantization methods, and no configuration says which is meant";
        return Err(Error::malformed(checkpoint.path(), what));
    }
    layers.sort_by_key(|l| l.parts.iter().min().copied());
    let quantized = !layers.is_empty() || label.is_some();
    check_names(checkpoint, &layers, quantized)?;
    let Some(scheme) = scheme(&layers, label) else { return Ok(None) };
    let mut notes = notes(&scheme, &layers, label);
    if !checkpoint.has_data() {
        notes.push(
            "headers alone were read: zero points, group order and the like are as the configuration says"
                .into(),
        );
    }
    Ok(Some(Packing::new(scheme, layers, notes)))
}

fn fault(checkpoint: &Checkpoint, info: &TensorInfo, what: impl Into<String>) -> Error {
    Error::malformed(checkpoint.file_of(info), what).with_tensor(&info.name)
}

/// Refuses tensors of methods that are not read: their codes would be read as weights.
fn refuse_others(checkpoint: &Checkpoint) -> Result<()> {
    for info in checkpoint.tensors() {
        let other = OTHERS.iter().find(|(end, _)| info.name.ends_with(end)).map(|o| o.1);
        let packed = |prefix: &str| {
            [".weight_packed", ".weight_shape"]
                .iter()
                .any(|p| checkpoint.index_of(&format!("{prefix}{p}")).is_some())
        };
        let other = other.filter(|_| !info.name.strip_suffix(".weight_scale").is_some_and(packed));
        let marlin = || {
            let prefix = info.name.strip_suffix(".B")?;
            checkpoint.index_of(&format!("{prefix}.s")).map(|_| "gptq in Marlin's layout")
        };
        // Words with scales beside, without GPTQ's names.
        let mlx = || {
            let prefix =
                info.name.strip_suffix(".weight").filter(|_| info.element_type == ElementType::U32)?;
            checkpoint.index_of(&format!("{prefix}.scales")).map(|_| "MLX")
        };
        if let Some(method) = other.or_else(marlin).or_else(mlx) {
            let what =
                format!("belongs to a layer quantized with {method}, which quern does not read; {ADVICE}");
            return Err(Error::unsupported(checkpoint.file_of(info), what).with_tensor(&info.name));
        }
    }
    Ok(())
}

/// Each layer once, not also unquantized, and no piece left over. Without any sign of a quantization,
/// `scales` may be anything.
fn check_names(checkpoint: &Checkpoint, layers: &[PackedLayer], quantized: bool) -> Result<()> {
    let mut names = HashSet::new();
    let parts: HashSet<usize> = layers.iter().flat_map(|l| l.parts.iter().copied()).collect();
    for layer in layers {
        let plain = checkpoint.index_of(&layer.name).filter(|i| !layer.parts.contains(i));
        if !names.insert(&layer.name) || plain.is_some() {
            let info = &checkpoint.tensors()[plain.unwrap_or(layer.parts[0])];
            return Err(fault(checkpoint, info, format!("the weight {} is there twice", layer.name)));
        }
    }
    let tensors = checkpoint.tensors().iter().enumerate();
    let piece = |name: &str| PIECES.iter().any(|p| name.ends_with(p) && (quantized || *p != ".scales"));
    match tensors.into_iter().find(|(i, t)| !parts.contains(i) && piece(&t.name)) {
        None => Ok(()),
        Some((_, stray)) => {
            let what =
                "is part of a quantized layer that lacks other tensors; the download may be incomplete";
            Err(fault(checkpoint, stray, what))
        }
    }
}

/// The scheme as most tensors show it, the configuration where they do not.
fn scheme(layers: &[PackedLayer], label: Option<&Label>) -> Option<Scheme> {
    let all = |test: &dyn Fn(&affine::Affine) -> bool| {
        layers.iter().all(|l| matches!(&l.store, Store::Affine(a) if test(a)))
    };
    let stated = |columns: usize, groups: &affine::Groups, count: usize| {
        label.and_then(|l| l.group_size).unwrap_or(match groups {
            _ if count == 1 => None,
            affine::Groups::Even(size) => Some(*size),
            affine::Groups::Listed(_) => Some(columns.div_ceil(count)),
        })
    };
    Some(match layers.first().map(|l| &l.store) {
        Some(Store::Affine(first)) => {
            let group_size = stated(first.columns, &first.groups, first.group_count);
            let bits = label.and_then(|l| l.bits).unwrap_or(first.bits());
            match first.layout {
                affine::Layout::Awq => Scheme::Awq { bits, group_size },
                affine::Layout::Rows { .. } => Scheme::CompressedTensors {
                    bits: first.bits(),
                    group_size: match first.groups {
                        _ if first.group_count == 1 => None,
                        affine::Groups::Even(size) => Some(size),
                        affine::Groups::Listed(_) => Some(first.columns.div_ceil(first.group_count)),
                    },
                    symmetric: all(&|a| a.symmetric()),
                    act_order: !all(&|a| matches!(a.groups, affine::Groups::Even(_))),
                },
                affine::Layout::Gptq { .. } => Scheme::Gptq {
                    bits,
                    group_size,
                    act_order: label.is_some_and(|l| l.desc_act)
                        || !all(&|a| matches!(a.groups, affine::Groups::Even(_))),
                    symmetric: all(&|a| a.symmetric()),
                    v2: all(&|a| matches!(a.layout, affine::Layout::Gptq { v2: true, .. })),
                },
            }
        }
        Some(Store::FourBit(first)) => {
            let double_quantized = matches!(first.absmax, four_bit::Absmax::Nested { .. });
            let block_size = first.block_size;
            match first.nf4 {
                true => Scheme::Nf4 { block_size, double_quantized },
                false => Scheme::Fp4 { block_size, double_quantized },
            }
        }
        Some(Store::Int8(_)) => Scheme::Int8,
        None => match label?.method {
            Method::Gptq => Scheme::Gptq {
                bits: label?.bits.unwrap_or(4),
                group_size: label?.group_size.unwrap_or(Some(128)),
                act_order: label?.desc_act,
                symmetric: label?.symmetric.unwrap_or(true),
                v2: label?.v2.unwrap_or(false),
            },
            Method::Awq => Scheme::Awq { bits: 4, group_size: label?.group_size.unwrap_or(Some(128)) },
            Method::CompressedTensors => {
                let rule = label?.compressed.first();
                Scheme::CompressedTensors {
                    bits: rule.map_or(4, |r| r.bits),
                    group_size: rule.map_or(Some(128), |r| r.group_size),
                    symmetric: rule.is_none_or(|r| r.symmetric),
                    act_order: false,
                }
            }
            Method::BitsAndBytes => match label?.four_bit.as_deref() {
                Some("nf4") => Scheme::Nf4 { block_size: 64, double_quantized: false },
                Some(_) => Scheme::Fp4 { block_size: 64, double_quantized: false },
                None => Scheme::Int8,
            },
        },
    })
}

fn notes(scheme: &Scheme, layers: &[PackedLayer], label: Option<&Label>) -> Vec<String> {
    let mut notes = Vec::new();
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
        if label.is_some_and(|l| l.compressed.iter().any(|r| r.activations)) {
            notes.push("made to run with quantized activations too, which are not quantized here".into());
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
    let other = layouts.iter().filter(|(_, v2)| *v2 != labelled).count();
    if other > 0 {
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
