//! Finding the tensors of a layer of scaled codes.

use super::{Codes, Factor, Scaled};
use crate::scheme::label::{ADVICE, Label, Method};
use crate::scheme::parts::{Part, find, need};
use crate::scheme::{PackedLayer, Store};
use crate::{Checkpoint, ElementType, Result, TensorInfo};

/// Where scales may be, after the layer's name.
const SCALES: [&str; 2] = [".weight_scale_inv", ".weight_scale"];

/// Scales and zero points of activations, which are not quantized here: after the layer's name.
const ACTIVATIONS: [&str; 5] =
    [".input_scale", ".input_global_scale", ".activation_scale", ".input_scale_ub", ".input_zero_point"];

/// Columns that share a scale in NVFP4 and in the MX formats.
const NVFP4_GROUP: usize = 16;
const MX_GROUP: usize = 32;

/// The block that DeepSeek's format has where the configuration does not state one.
const USUAL_BLOCK: usize = 128;

/// The layer whose codes this tensor is, and the method that stores such layers where no configuration says one.
pub(in crate::scheme) fn layer<'n>(
    checkpoint: &Checkpoint,
    info: &'n TensorInfo,
) -> Option<(&'n str, Method)> {
    if let Some(prefix) = info.name.strip_suffix(".weight_packed") {
        return (info.element_type == ElementType::U8).then_some((prefix, Method::CompressedTensors));
    }
    let prefix = info.name.strip_suffix(".weight")?;
    let has = |end: &str| find(checkpoint, prefix, end).is_some();
    let method = match info.element_type {
        ElementType::F8E4M3 | ElementType::F8E5M2 if SCALES.iter().any(|end| has(end)) => Method::Fp8,
        ElementType::I8 if has(".weight_scale") => Method::CompressedTensors,
        ElementType::U8 if has(".weight_scale") && has(".weight_scale_2") => Method::ModelOpt,
        _ => return None,
    };
    Some((prefix, method))
}

/// What the weight of these scales is, if it is of a kind that no layer here has.
pub(in crate::scheme) fn scales_of_another_kind(
    checkpoint: &Checkpoint,
    scales: &TensorInfo,
) -> Option<ElementType> {
    let prefix = SCALES.iter().find_map(|end| scales.name.strip_suffix(end))?;
    let weight = find(checkpoint, prefix, ".weight")?;
    let packed = find(checkpoint, prefix, ".weight_packed").is_some();
    (!packed && layer(checkpoint, weight.info).is_none()).then_some(weight.info.element_type)
}

/// Reads the layer of this prefix.
pub(in crate::scheme) fn read(
    checkpoint: &Checkpoint,
    prefix: &str,
    label: Option<&Label>,
) -> Result<PackedLayer> {
    let weight = match find(checkpoint, prefix, ".weight_packed") {
        Some(weight) => weight,
        None => need(checkpoint, prefix, ".weight")?,
    };
    if weight.info.shape.len() == 3 {
        let what = format!("holds several experts in one tensor, which is not read; {ADVICE}");
        return Err(weight.unsupported(what));
    }
    let [rows, width] = weight.matrix()?;
    let codes = match weight.info.element_type {
        ElementType::I8 => Codes::Int8,
        ElementType::U8 => Codes::Float4,
        other => Codes::Float8(other),
    };
    let columns = match codes {
        Codes::Float4 => {
            width.checked_mul(2).ok_or_else(|| weight.malformed("has rows that are too long"))?
        }
        Codes::Float8(_) | Codes::Int8 => width,
    };
    let found: Vec<_> = SCALES.iter().filter_map(|end| find(checkpoint, prefix, end)).collect();
    let scales = match found[..] {
        [one] => one,
        [first, ..] => return Err(first.malformed("the weight also has a weight_scale; which one counts?")),
        [] => need(checkpoint, prefix, ".weight_scale")?,
    };
    let block = block(scales, codes, [rows, columns], label)?;
    let (factor, factor_parts) = factor(checkpoint, prefix, codes, scales)?;
    let zero = find(checkpoint, prefix, ".weight_zero_point");
    if let Some(zero) = zero.filter(|z| checkpoint.has_data() && z.data().iter().any(|b| *b != 0)) {
        let what = format!("holds zero points, which layers of this kind are not read with; {ADVICE}");
        return Err(zero.unsupported(what));
    }
    let scaled = Scaled {
        codes,
        rows,
        columns,
        block,
        weight: weight.index,
        scales: scales.index,
        scale_type: scales.info.element_type,
        factor,
        first: 0,
        step: 1,
    };
    let activations = ACTIVATIONS.iter().filter_map(|end| find(checkpoint, prefix, end));
    let parts = [weight, scales].into_iter().chain(factor_parts).chain(zero).chain(activations);
    Ok(PackedLayer::new(format!("{prefix}.weight"), rows, columns, parts, Store::Scaled(scaled)))
}

/// Whether this tensor is a scale of activations.
pub(in crate::scheme) fn is_of_activations(name: &str) -> bool {
    ACTIVATIONS.iter().any(|end| name.ends_with(end))
        || name.ends_with("_activation_scale")
        || name.ends_with("_input_scale")
}

/// Outputs and inputs that share a scale.
fn block(
    scales: Part,
    codes: Codes,
    [rows, columns]: [usize; 2],
    label: Option<&Label>,
) -> Result<[usize; 2]> {
    use ElementType::{BF16, F8E4M3, F16, F32, U8};
    let types: &[ElementType] = match codes {
        Codes::Float8(_) => &[F32, BF16, F16, U8],
        Codes::Int8 => &[F32, BF16, F16],
        Codes::Float4 => &[F8E4M3, U8],
    };
    let kind = scales.of(types)?.info.element_type;
    if codes == Codes::Float4 {
        let group = if kind == U8 { MX_GROUP } else { NVFP4_GROUP };
        if !columns.is_multiple_of(group) {
            let what = format!("belongs to {columns} columns, which are not whole groups of {group}");
            return Err(scales.malformed(what));
        }
        scales.shaped(&[rows, columns / group])?;
        return Ok([1, group]);
    }
    let [down, across] = match *scales.info.shape {
        [] | [1] | [1, 1] => return Ok([rows, columns]),
        [outputs] if outputs == rows => return Ok([1, columns]),
        [down, across] if (1..=rows).contains(&down) && (1..=columns).contains(&across) => [down, across],
        _ => {
            let what = format!(
                "has shape {:?}, which is neither one scale, nor one for each of {rows} outputs, nor a grid of blocks \
                 of {rows} x {columns}",
                scales.info.shape
            );
            return Err(scales.malformed(what));
        }
    };
    // The last blocks may be partial, so that a grid alone does not show their size.
    let fits = |size: usize, length: usize, count: usize| length.div_ceil(size.max(1)) == count;
    let grid = |[m, n]: [usize; 2]| fits(m, rows, down) && fits(n, columns, across);
    let even = || {
        (rows.is_multiple_of(down) && columns.is_multiple_of(across))
            .then_some([rows / down, columns / across])
    };
    let stated = label.and_then(|l| l.block).filter(|b| grid(*b));
    stated.or_else(even).or_else(|| Some([USUAL_BLOCK; 2]).filter(|b| grid(*b))).ok_or_else(|| {
        scales.malformed(format!(
            "has shape {:?}, into which a weight of {rows} x {columns} cannot be divided",
            scales.info.shape
        ))
    })
}

/// The factor of all scales, and its tensor.
fn factor<'a>(
    checkpoint: &'a Checkpoint,
    prefix: &str,
    codes: Codes,
    scales: Part,
) -> Result<(Factor, Option<Part<'a>>)> {
    let over = find(checkpoint, prefix, ".weight_global_scale");
    let times = find(checkpoint, prefix, ".weight_scale_2");
    let (part, make): (_, fn(f32) -> Factor) = match (over, times) {
        (None, None) if codes == Codes::Float4 && scales.info.element_type == ElementType::F8E4M3 => {
            // Without it every weight would be off by the same large factor.
            return need(checkpoint, prefix, ".weight_global_scale").map(|part| (Factor::None, Some(part)));
        }
        (None, None) => return Ok((Factor::None, None)),
        (Some(part), None) => (part, Factor::Over),
        (None, Some(part)) => (part, Factor::Times),
        (Some(part), Some(_)) => {
            return Err(part.malformed("the weight also has a weight_scale_2; which one counts?"));
        }
    };
    let part = part.of(&[ElementType::F32])?;
    if part.info.elements() != 1 {
        return Err(part.malformed(format!("has shape {:?}, expected one number", part.info.shape)));
    }
    if !checkpoint.has_data() {
        return Ok((make(1.0), Some(part)));
    }
    match part.data().as_chunks().0 {
        [bytes] if f32::from_le_bytes(*bytes).is_normal() => {
            Ok((make(f32::from_le_bytes(*bytes)), Some(part)))
        }
        _ => Err(part.malformed("is not a number that scales can be multiplied with or divided by")),
    }
}
