//! Finding the tensors of torchao's layers, as transformers 5 and torchao write the parts of a tensor subclass into
//! safetensors: `X._weight_qdata`, `X._weight_scale` and so on. The header's metadata has the subclass and its settings;
//! types and shapes of the parts say the same.
//!
//! | subclass | qdata | scale | |
//! |---|---|---|---|
//! | `Int8Tensor`, `IntxUnpackedToInt8Tensor` | `i8[out, in]` | `[out, in/group]` | zero points beside |
//! | `Float8Tensor` | `f8[out, in]` | `[out, in/group]`, `[1, 1]` | |
//!
//! `Int4Tensor` and the others pack codes for single kernels and are refused by name.

use super::{Grouped, Groups, Offset, Packing};
use crate::scheme::parts::{find, need};
use crate::scheme::scaled::{Codes, Factor, Scaled};
use crate::scheme::{PackedLayer, Store};
use crate::{Checkpoint, ElementType, Result};

/// Reads the layer of this prefix.
pub(in crate::scheme) fn read(checkpoint: &Checkpoint, prefix: &str) -> Result<PackedLayer> {
    use ElementType::{BF16, F8E4M3, F8E5M2, F16, F32, I8};
    let weight = need(checkpoint, prefix, "._weight_qdata")?;
    let name = format!("{prefix}.weight");
    if let Some(scale) = find(checkpoint, prefix, "._weight_act_pre_scale") {
        return Err(scale.unsupported("scales what the layer reads, which is not read of torchao"));
    }
    let codes = match weight.info.element_type {
        I8 => Codes::Int8,
        kind @ (F8E4M3 | F8E5M2) => Codes::Float8(kind),
        _ => {
            let subclass = subclass(checkpoint, &name);
            let what = format!(
                "is of torchao's {subclass}, which packs codes for one kind of kernel and is not read; quern reads \
                 Int8Tensor, IntxUnpackedToInt8Tensor and Float8Tensor"
            );
            return Err(weight.unsupported(what));
        }
    };
    let [rows, columns] = weight.matrix()?;
    let scales = need(checkpoint, prefix, "._weight_scale")?.of(&[F32, F16, BF16])?;
    let block = match *scales.info.shape {
        [] | [1] | [1, 1] => [rows, columns],
        [down, across]
            if down > 0 && across > 0 && rows.is_multiple_of(down) && columns.is_multiple_of(across) =>
        {
            [rows / down, columns / across]
        }
        _ => {
            let what =
                format!("has shape {:?}, which does not divide {rows} x {columns} codes", scales.info.shape);
            return Err(scales.malformed(what));
        }
    };
    let zeros = find(checkpoint, prefix, "._weight_zero_point");
    let parts = [Some(weight), Some(scales), zeros].into_iter().flatten();
    let counts = |zero: &crate::scheme::parts::Part| {
        checkpoint.has_data() && zero.data().iter().any(|byte| *byte != 0)
    };
    let Some(zeros) = zeros.filter(counts) else {
        let scaled = Scaled {
            codes,
            rows,
            columns,
            block,
            weight: weight.index,
            scales: scales.index,
            scale_type: scales.info.element_type,
            factor: Factor::None,
            first: 0,
            step: 1,
        };
        return Ok(PackedLayer::new(name, rows, columns, parts, Store::Scaled(scaled)));
    };
    let zeros = zeros.of(&[I8, F32, F16, BF16])?.shaped(&scales.info.shape)?;
    if codes != Codes::Int8 || block[0] != 1 {
        return Err(zeros.unsupported("holds zero points of codes that are read without such"));
    }
    let grouped = Grouped {
        bits: 8,
        rows,
        columns,
        packing: Packing::Bytes,
        groups: Groups::Consecutive(block[1]),
        codes: weight.index,
        scales: scales.index,
        offsets: zeros.index,
        offset: Offset::Zero,
    };
    Ok(PackedLayer::new(name, rows, columns, parts, Store::Grouped(grouped)))
}

/// The subclass that the header's metadata names.
fn subclass(checkpoint: &Checkpoint, name: &str) -> String {
    let text = checkpoint.metadata().get(name).and_then(|value| value.as_str());
    let json = text.and_then(|text| serde_json::from_str::<serde_json::Value>(text).ok());
    let kind = json.as_ref().and_then(|json| json.get("_type")?.as_str()).unwrap_or("packed tensors");
    kind.chars().take(60).collect()
}
