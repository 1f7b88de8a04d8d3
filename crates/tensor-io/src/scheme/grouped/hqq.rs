//! Finding the tensors of HQQ's layers.
//!
//! `HQQLinear` writes what it knows of a layer as tensors beside the codes: `nbits`, `group_size`, `axis`, `shape`, and
//! texts as their bytes (`packing`). Files without these are not read, since codes can then mean several things.

use super::{Grouped, Groups, Offset, Packing};
use crate::scheme::parts::{Part, find, need};
use crate::scheme::{PackedLayer, Store};
use crate::{Checkpoint, ElementType, Result};

/// What else `HQQLinear` writes, after the layer's name.
const OTHERS: [&str; 12] = [
    ".packing",
    ".unpack_view_dtype",
    ".view_as_float",
    ".quant_scale",
    ".quant_zero",
    ".compute_dtype",
    ".offload_meta",
    ".encoded_state_dict",
    ".stores_quant_config",
    ".channel_wise",
    ".optimize",
    ".round_zero",
];

/// Codes of HQQ's words, by bits: codes in a word, bytes of a word, and the name of the packing.
fn words(bits: u32) -> Option<(usize, usize, &'static str)> {
    match bits {
        8 => Some((1, 1, "8bit_u8")),
        4 => Some((2, 1, "4bit_u8")),
        3 => Some((10, 4, "3bit_32")),
        2 => Some((4, 1, "2bit_u8")),
        1 => Some((8, 1, "1bit_u8")),
        _ => None,
    }
}

/// Reads the layer of this prefix.
pub(in crate::scheme) fn read(checkpoint: &Checkpoint, prefix: &str) -> Result<PackedLayer> {
    use ElementType::{BF16, F16, F32, I32, U8};
    let weight = need(checkpoint, prefix, ".W_q")?.of(&[U8, I32])?;
    let [lines, width] = weight.matrix()?;
    let shape = need(checkpoint, prefix, ".shape")?;
    let [bits, group_size, axis] =
        [".nbits", ".group_size", ".axis"].map(|end| need(checkpoint, prefix, end));
    let (bits, group_size, axis) = (bits?, group_size?, axis?);
    if !checkpoint.has_data() {
        let what =
            "is of HQQ, whose layers say in their data how large they are; headers alone do not show it";
        return Err(weight.unsupported(what));
    }
    for end in [".quant_scale", ".quant_zero", ".view_as_float"] {
        if let Some(part) = find(checkpoint, prefix, end).filter(|part| part.data().iter().any(|b| *b != 0)) {
            let what = "says that scales or zero points are quantized themselves, or codes stored as floats: such layers of HQQ \
                        are not read";
            return Err(part.unsupported(what));
        }
    }
    let number = |part: Part| match integers(part)[..] {
        [value] => Ok(value),
        _ => Err(part.malformed(format!("has shape {:?}, expected one number", part.info.shape))),
    };
    let Some((per_word, word, packing)) = u32::try_from(number(bits)?).ok().and_then(words) else {
        let what = format!("says {} bits; layers of HQQ are read of 1, 2, 3, 4 and 8", number(bits)?);
        return Err(bits.unsupported(what));
    };
    let (rows, columns) = match integers(shape)[..] {
        [rows @ 1..=0x7fff_ffff, columns @ 1..=0x7fff_ffff] => (rows as usize, columns as usize),
        _ => return Err(shape.malformed("must be two numbers, outputs and inputs")),
    };
    let group_size = match number(group_size)? {
        size @ 1..=0x7fff_ffff => size as usize,
        size => return Err(group_size_error(group_size, size)),
    };
    let weights = rows * columns;
    if !weights.is_multiple_of(group_size) {
        return Err(
            shape.malformed(format!("is {rows} x {columns}, not whole groups of {group_size} weights"))
        );
    }
    let count = weights / group_size;
    // The weight in groups, as it was quantized.
    let (height, groups, scales_shape) = match number(axis)? {
        1 => (count, Groups::Consecutive(group_size), [count, 1]),
        0 => (group_size, Groups::Strided(count), [1, count]),
        other => return Err(axis.malformed(format!("is {other}; groups are along the axis 0 or 1"))),
    };
    if let Some(part) = find(checkpoint, prefix, ".packing").filter(|part| part.info.element_type == U8)
        && part.data() != packing.as_bytes()
    {
        let said: String = String::from_utf8_lossy(part.data()).chars().take(20).collect();
        return Err(part.unsupported(format!("says codes are packed as {said:?}; {packing} is what is read")));
    }
    let across = weights / height;
    let slab = height.div_ceil(per_word);
    if weight.info.element_type.block_bytes() != word || [lines, width] != [slab, across] {
        let what = format!(
            "is {} {:?}; {rows} x {columns} weights in groups of {group_size} take {packing} of {slab} x {across}",
            weight.info.element_type, weight.info.shape
        );
        return Err(weight.malformed(what));
    }
    let floats = |end| need(checkpoint, prefix, end)?.of(&[F32, F16, BF16])?.shaped(&scales_shape);
    let (scales, zeros) = (floats(".scale")?, floats(".zero")?);
    let grouped = Grouped {
        bits: (8 * word / per_word) as u32,
        rows,
        columns,
        packing: Packing::Slabs { height: slab, width: across, word },
        groups,
        codes: weight.index,
        scales: scales.index,
        offsets: zeros.index,
        offset: Offset::Zero,
    };
    let others = OTHERS.iter().filter_map(|end| find(checkpoint, prefix, end));
    let parts = [weight, scales, zeros, shape, bits, group_size_part(checkpoint, prefix)?, axis];
    let parts = parts.into_iter().chain(others);
    Ok(PackedLayer::new(format!("{prefix}.weight"), rows, columns, parts, Store::Grouped(grouped)))
}

fn group_size_part<'a>(checkpoint: &'a Checkpoint, prefix: &str) -> Result<Part<'a>> {
    need(checkpoint, prefix, ".group_size")
}

fn group_size_error(part: Part, size: i64) -> crate::Error {
    part.unsupported(format!("says {size}; groups must have a size, all of a row (none) are not read"))
}

/// The integers in a small tensor.
fn integers(part: Part) -> Vec<i64> {
    let data = part.data();
    match part.info.element_type {
        ElementType::I64 => data.as_chunks().0.iter().take(4).map(|b| i64::from_le_bytes(*b)).collect(),
        ElementType::I32 => {
            data.as_chunks().0.iter().take(4).map(|b| i64::from(i32::from_le_bytes(*b))).collect()
        }
        _ => Vec::new(),
    }
}
