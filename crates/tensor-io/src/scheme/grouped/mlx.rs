//! Finding the tensors of MLX's layers.
//!
//! `config.json` has `quantization`: group size, bits and mode, and under the names of single layers other ones, or false.

use super::{Grouped, Groups, Offset, Packing};
use crate::scheme::label::{Label, MlxSettings};
use crate::scheme::parts::{find, need};
use crate::scheme::scaled::{Codes, Factor, Scaled};
use crate::scheme::{PackedLayer, Store, stream};
use crate::{Checkpoint, ElementType, Result, TensorInfo};

/// The layer whose codes this tensor is: words with scales beside them.
pub(in crate::scheme) fn is_codes<'n>(checkpoint: &Checkpoint, info: &'n TensorInfo) -> Option<&'n str> {
    let prefix = info.name.strip_suffix(".weight").filter(|_| info.element_type == ElementType::U32)?;
    find(checkpoint, prefix, ".scales").map(|_| prefix)
}

/// Reads the layer of this prefix.
pub(in crate::scheme) fn read(
    checkpoint: &Checkpoint,
    prefix: &str,
    label: Option<&Label>,
) -> Result<PackedLayer> {
    use ElementType::{BF16, F16, F32, U8, U32};
    let weight = need(checkpoint, prefix, ".weight")?.of(&[U32])?;
    let scales = need(checkpoint, prefix, ".scales")?;
    let biases = find(checkpoint, prefix, ".biases");
    if weight.info.shape.len() == 3 {
        let what = "holds several experts in one tensor, which is not read of MLX; take the model unquantized or as GGUF";
        return Err(weight.unsupported(what));
    }
    let [rows, words] = weight.matrix()?;
    let [_, groups] = scales.matrix()?;
    scales.shaped(&[rows, groups])?;
    let Some(&MlxSettings { bits, group_size, ref mode }) =
        label.and_then(|l| l.mlx.as_ref()).map(|m| m.of(prefix))
    else {
        let what = "is of MLX, and config.json has no \"quantization\" with bits and group_size that says how; it may be \
                    incomplete";
        return Err(weight.malformed(what));
    };
    let columns = groups.checked_mul(group_size);
    let fits = |columns: &usize| {
        stream::words(*columns, bits) == Some(words) && columns * bits as usize == words * 32
    };
    let Some(columns) = columns.filter(fits) else {
        let what = format!(
            "has rows of {words} words in {groups} groups, which do not fit {bits} bits in groups of {group_size}, as \
             config.json says"
        );
        return Err(weight.malformed(what));
    };
    let name = format!("{prefix}.weight");
    if mode.as_str() == "affine" {
        let biases = need(checkpoint, prefix, ".biases")?.of(&[F32, F16, BF16])?.shaped(&[rows, groups])?;
        let scales = scales.of(&[F32, F16, BF16])?;
        let grouped = Grouped {
            bits,
            rows,
            columns,
            packing: Packing::Stream,
            groups: Groups::Consecutive(group_size),
            codes: weight.index,
            scales: scales.index,
            offsets: biases.index,
            offset: Offset::Bias,
        };
        let parts = [weight, scales, biases];
        return Ok(PackedLayer::new(name, rows, columns, parts, Store::Grouped(grouped)));
    }
    // Names and values of the modes were checked where the configuration was read.
    let (codes, scale_type) = match mode.as_str() {
        "mxfp4" => (Codes::Float4, U8),
        "nvfp4" => (Codes::Float4, ElementType::F8E4M3),
        _ => (Codes::Float8(ElementType::F8E4M3), U8),
    };
    if let Some(biases) = biases {
        return Err(biases.malformed(format!("belongs to a layer in the mode {mode}, which has no biases")));
    }
    let scales = scales.of(&[U8])?;
    let scaled = Scaled {
        codes,
        rows,
        columns,
        block: [1, group_size],
        weight: weight.index,
        scales: scales.index,
        scale_type,
        factor: Factor::None,
        first: 0,
        step: 1,
    };
    Ok(PackedLayer::new(name, rows, columns, [weight, scales], Store::Scaled(scaled)))
}
