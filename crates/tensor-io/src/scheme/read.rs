//! Which layers of a checkpoint are packed, and by which method.

use std::collections::HashSet;

use super::bitsandbytes::{four_bit_weight, int8_layer, read_four_bit, read_int8};
use super::label::{self, ADVICE, Label, Method};
use super::scaled::{self, Codes, stacked};
use super::{
    PackedLayer, Packing, Scaling, Scheme, Store, affine, beside, compressed, four_bit, gptq, grouped, notes,
};
use crate::{Checkpoint, ElementType, Error, Result, TensorInfo};

/// Tensors that mark a method quern does not read, by the ends of their names.
const OTHERS: [(&str, &str); 6] = [
    (".q_invperm", "EXL2 (exllamav2)"),
    (".trellis", "EXL3 (exllamav3)"),
    (".scale_q", "HQQ, its scales quantized too"),
    (".w_bf16_to_fp8_scale", "AutoRound for FP8 activations, in two steps of scales"),
    (".q_scale_max", "EXL2 (exllamav2)"),
    (".pre_quant_scale", "AWQ of ModelOpt, which also scales what the layer reads"),
];

/// Tensors that belong to a packed layer and mean nothing alone, by the ends of their names.
const PIECES: [&str; 31] = [
    "_proj_scale_inv",
    "_proj_scale",
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
    ".weight_scale_inv",
    ".weight_scale_2",
    ".weight_global_scale",
    "_proj_blocks",
    "_proj_scales",
    ".W_q",
    ".biases",
    "._weight_qdata",
    "._weight_scale",
    "._weight_zero_point",
];

/// The weights of a GGUF file that have a factor beside them.
pub(super) fn read_gguf(checkpoint: &Checkpoint) -> Result<Option<Packing>> {
    let mut layers = Vec::new();
    let names = [checkpoint.stated_architecture(), checkpoint.metadata().str("general.architecture")];
    let called: Vec<&str> = names.into_iter().flatten().collect();
    for info in checkpoint.tensors() {
        if let Some(prefix) = beside::layer_of(&called, &info.name)
            && let Some(layer) = beside::read(checkpoint, prefix)?
        {
            layers.push(layer);
        }
    }
    if layers.is_empty() {
        return Ok(None);
    }
    layers.sort_by_key(|l| l.parts.iter().min().copied());
    let with_inputs = |l: &&PackedLayer| {
        l.parts.iter().any(|&part| checkpoint.tensors()[part].name.ends_with(".input_scale"))
    };
    let inputs = layers.iter().filter(with_inputs).count();
    let mut notes = Vec::new();
    if inputs > 0 {
        notes.push(format!(
            "the scales of activations (input_scale) of {inputs} of {} layers are left out: activations are not \
             quantized here",
            layers.len()
        ));
    }
    let is_nvfp4 = |l: &PackedLayer| l.in_file_type() == Some(ElementType::NVFP4);
    let scheme = if layers.iter().all(is_nvfp4) { Scheme::Nvfp4 } else { Scheme::Mixed };
    Ok(Some(Packing::new(scheme, Some("gguf"), layers, notes)))
}

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
        } else if let Some(prefix) = stacked::stack(checkpoint, info) {
            let mut experts = stacked::read(checkpoint, prefix)?.into_iter();
            let Some(first) = experts.next() else { continue };
            layers.extend(experts);
            (Method::Mxfp4, first)
        } else if let Some(prefix) = grouped::is_mlx(checkpoint, info) {
            (Method::Mlx, grouped::read_mlx(checkpoint, prefix, label)?)
        } else if let Some(prefix) = info.name.strip_suffix(".W_q") {
            (Method::Hqq, grouped::read_hqq(checkpoint, prefix)?)
        } else if let Some(prefix) = info.name.strip_suffix("._weight_qdata") {
            (Method::TorchAo, grouped::read_torchao(checkpoint, prefix)?)
        } else if scaled::is_stack(checkpoint, info) {
            let method = label.map(|l| l.method).filter(|m| m.has_scaled_layers()).unwrap_or(Method::Fp8);
            (method, scaled::read_stack(checkpoint, &info.name, label)?)
        } else if let Some((prefix, usual)) = scaled::layer(checkpoint, info) {
            let method = label.map(|l| l.method).filter(|m| m.has_scaled_layers()).unwrap_or(usual);
            (method, scaled::read(checkpoint, prefix, label)?)
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
    check_floats(checkpoint, &layers, label)?;
    let Some(scheme) = scheme(checkpoint, &layers, label) else { return Ok(None) };
    let mut notes = notes::notes(checkpoint, &scheme, &layers, label);
    if !checkpoint.has_data() {
        notes.push(
            "headers alone were read: zero points, group order and the like are as the configuration says"
                .into(),
        );
    }
    let only = if methods.len() == 1 { methods.into_iter().next() } else { None };
    Ok(Some(Packing::new(scheme, label.map(|l| l.method.name()).or(only), layers, notes)))
}

fn fault(checkpoint: &Checkpoint, info: &TensorInfo, what: impl Into<String>) -> Error {
    Error::malformed(checkpoint.file_of(info), what).with_tensor(&info.name)
}

/// Refuses tensors of methods that are not read: their codes would be read as weights.
fn refuse_others(checkpoint: &Checkpoint) -> Result<()> {
    for info in checkpoint.tensors() {
        let other = OTHERS.iter().find(|(end, _)| info.name.ends_with(end)).map(|o| o.1);
        if let Some(kind) = scaled::scales_of_another_kind(checkpoint, info) {
            let what = format!(
                "scales a weight of {kind}, and quern reads such layers of f8_e4m3, f8_e5m2, i8 and NVFP4; {ADVICE}"
            );
            return Err(Error::unsupported(checkpoint.file_of(info), what).with_tensor(&info.name));
        }
        let marlin = || {
            let prefix = info.name.strip_suffix(".B")?;
            checkpoint.index_of(&format!("{prefix}.s")).map(|_| "gptq in Marlin's layout")
        };
        if let Some(method) = other.or_else(marlin) {
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

/// Where the configuration says that layers have scales, floats of 8 bits without one would be read as weights.
fn check_floats(checkpoint: &Checkpoint, layers: &[PackedLayer], label: Option<&Label>) -> Result<()> {
    if !label.is_some_and(|l| l.method.has_scaled_layers()) {
        return Ok(());
    }
    let parts: HashSet<usize> = layers.iter().flat_map(|l| l.parts.iter().copied()).collect();
    let alone = |(index, info): &(usize, &TensorInfo)| {
        matches!(info.element_type, ElementType::F8E4M3 | ElementType::F8E5M2)
            && info.shape.len() > 1
            && !parts.contains(index)
    };
    match checkpoint.tensors().iter().enumerate().find(alone) {
        None => Ok(()),
        Some((_, info)) => {
            let what = "is of 8-bit floats without a scale (weight_scale_inv or weight_scale), though the \
                        configuration says that there is one; the download may be incomplete";
            Err(fault(checkpoint, info, what))
        }
    }
}

/// What the codes and scales of such a layer are called.
fn scaled_scheme(layer: &scaled::Scaled) -> Scheme {
    let scales = match layer.block {
        [rows, columns] if rows >= layer.rows && columns >= layer.columns => Scaling::Tensor,
        [1, columns] if columns >= layer.columns => Scaling::Output,
        [rows, columns] => Scaling::Block { rows, columns },
    };
    match layer.codes {
        Codes::Float8(_) => Scheme::Fp8 { scales },
        Codes::Int8 => {
            Scheme::CompressedTensors { bits: 8, group_size: None, symmetric: true, act_order: false }
        }
        Codes::Float4 => match layer.is_mxfp4() {
            true => Scheme::Mxfp4,
            false => Scheme::Nvfp4,
        },
    }
}

/// The scheme of one layer of this method.
pub(super) fn scheme_of(layer: &PackedLayer, method: Option<&str>) -> Option<Scheme> {
    match &layer.store {
        Store::Scaled(scaled) if method == Some("torchao") && scaled.codes == Codes::Int8 => {
            Some(Scheme::TorchAo)
        }
        Store::Scaled(scaled) => Some(scaled_scheme(scaled)),
        Store::Grouped(grouped) => Some(grouped.scheme()),
        Store::Beside(layer) => (layer.element_type == ElementType::NVFP4).then_some(Scheme::Nvfp4),
        Store::Affine(_) | Store::FourBit(_) | Store::Int8(_) => None,
    }
}

/// The scheme as most tensors show it, the configuration where they do not.
fn scheme(checkpoint: &Checkpoint, layers: &[PackedLayer], label: Option<&Label>) -> Option<Scheme> {
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
    // Layers of one name are of one kind, whatever their scales.
    let method = label.map(|l| l.method).or_else(|| {
        let bytes = layers.iter().any(|l| checkpoint.tensors()[l.parts[0]].name.ends_with("._weight_qdata"));
        bytes.then_some(Method::TorchAo)
    });
    let method = method.map(Method::name);
    let kinds: HashSet<_> = layers.iter().map(|l| scheme_of(l, method).map(|s| s.name())).collect();
    if kinds.len() > 1 {
        return Some(Scheme::Mixed);
    }
    Some(match layers.first().map(|l| &l.store) {
        Some(Store::Scaled(_) | Store::Grouped(_) | Store::Beside(_)) => scheme_of(layers.first()?, method)?,
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
            Method::Fp8 | Method::FbgemmFp8 | Method::ModelOpt => {
                let [rows, columns] = label?.block.unwrap_or([1, usize::MAX]);
                let scales = if rows == 1 { Scaling::Output } else { Scaling::Block { rows, columns } };
                Scheme::Fp8 { scales }
            }
            Method::Mxfp4 => Scheme::Mxfp4,
            Method::Mlx => {
                let settings = label?.mlx.as_ref()?.of("");
                Scheme::Mlx { bits: settings.bits, group_size: settings.group_size }
            }
            Method::Hqq => Scheme::Hqq { bits: 4, group_size: 64 },
            Method::TorchAo => Scheme::TorchAo,
            Method::BitsAndBytes => match label?.four_bit.as_deref() {
                Some("nf4") => Scheme::Nf4 { block_size: 64, double_quantized: false },
                Some(_) => Scheme::Fp4 { block_size: 64, double_quantized: false },
                None => Scheme::Int8,
            },
        },
    })
}
