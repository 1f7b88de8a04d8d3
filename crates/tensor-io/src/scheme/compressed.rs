//! compressed-tensors (llm-compressor): the configuration, and layers of the format `pack-quantized`: integer codes in
//! signed layout. Those of the other formats are in [`super::scaled`].
//!
//! ```text
//! P.weight_packed      i32[out, in b/32]     codes along a row, stored plus 2^(b-1)
//! P.weight_scale       float[out, groups]    groups of consecutive columns; one for all of a row: "channel"
//! P.weight_shape       i64[2]                out, in
//! P.weight_zero_point  i32[out b/32, groups] packed down the outputs; only where not symmetric
//! P.weight_g_idx       i32[in]               group of each column; only with actorder "group", all -1 for none
//!
//! W = (q - zero) scale;  stored codes and zero points both have 2^(b-1) added, which cancels out
//! ```
//!
//! Codes are the dense bit stream of [`super::stream`]. Older releases began a new word where a code would have
//! spanned two, which is another layout for 3, 5, 6 and 7 bits; the width of a row and the number of bits in the
//! configuration show which one it is. If the configuration states no bits, the layout is the dense one.

use std::path::Path;

use serde_json::{Map, Value};

use super::affine::{Affine, Groups, Layout};
use super::label::{self, ADVICE, Label};
use super::parts::{Part, find, need};
use super::{PackedLayer, Store, gptq, stream};
use crate::{Checkpoint, ElementType, Error, Result};

/// What a group of layers has in common, as the configuration says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rule {
    pub bits: u32,
    /// Columns that share a scale; `None` for all of a row.
    pub group_size: Option<usize>,
    pub symmetric: bool,
}

/// What a `quantization_config` says.
#[derive(Debug, Default)]
pub(super) struct Rules {
    /// Of layers of packed integers.
    pub rules: Vec<Rule>,
    /// Outputs and inputs that share a scale.
    pub block: Option<[usize; 2]>,
    /// Activations were meant to be quantized too.
    pub activations: bool,
}

/// Formats of packed integers, or of no layers at all.
const PACKED: [&str; 4] = ["pack-quantized", "mixed-precision", "dense", "fakequant"];

/// Formats of codes with scales beside them, whose tensors say all but the size of blocks.
const SCALED: [&str; 6] = [
    "float-quantized",
    "naive-quantized",
    "int-quantized",
    "nvfp4-pack-quantized",
    "mxfp4-pack-quantized",
    "mxfp8-quantized",
];

/// Reads a `quantization_config`.
///
/// # Errors
/// Formats and kinds of weights that are not read, by name.
pub(super) fn rules(file: &Path, config: &Map<String, Value>) -> Result<Rules> {
    let unsupported =
        |what: &str| Error::unsupported(file, format!("{what}, which quern does not read; {ADVICE}"));
    let text = |object: &Map<String, Value>, key: &str| {
        object.get(key).and_then(Value::as_str).map(|s| s.chars().take(60).collect::<String>())
    };
    let readable = |format: &str| PACKED.contains(&format) || SCALED.contains(&format);
    let refused = |format: String| unsupported(&format!("compressed-tensors in the format {format:?}"));
    if let Some(format) = text(config, "format").filter(|f| !readable(f)) {
        return Err(refused(format));
    }
    if let Some(Value::Object(sparsity)) = config.get("sparsity_config")
        && let Some(format) = text(sparsity, "format").filter(|f| f != "dense")
    {
        return Err(unsupported(&format!("compressed-tensors with the sparsity format {format:?}")));
    }
    let transforms =
        config.get("transform_config").and_then(|t| t.get("config_groups")).and_then(Value::as_object);
    if transforms.is_some_and(|t| !t.is_empty()) {
        return Err(unsupported("weights rotated by a transform_config, to be undone when the model runs"));
    }
    let mut found = Rules::default();
    let Some(groups) = config.get("config_groups") else { return Ok(found) };
    let Some(groups) = groups.as_object() else {
        return Err(Error::malformed(file, "the quantization's config_groups must be an object"));
    };
    // A group may also be the name of a preset with the layers it is for: then the tensors decide.
    for (name, group) in groups.iter().filter_map(|(name, group)| Some((name, group.as_object()?))) {
        if let Some(format) = text(group, "format").filter(|f| !readable(f)) {
            return Err(refused(format));
        }
        found.activations |= group.get("input_activations").is_some_and(|v| !v.is_null());
        let Some(weights) = group.get("weights").and_then(Value::as_object) else { continue };
        let name: String = name.chars().take(60).collect();
        let bits = weights.get("num_bits").map_or(Some(8), Value::as_u64);
        let kind = text(weights, "type").unwrap_or_else(|| "int".to_owned());
        let strategy = text(weights, "strategy");
        let scaled = match (kind.as_str(), bits) {
            ("float", Some(4 | 8)) => true,
            ("int", _) => text(group, "format")
                .or_else(|| text(config, "format"))
                .is_some_and(|format| SCALED.contains(&format.as_str())),
            _ => {
                let bits = bits.map(|b| b.to_string()).unwrap_or_default();
                return Err(unsupported(&format!("{name}: weights of {bits}-bit {kind:?}")));
            }
        };
        if scaled {
            if let Some(size) = weights.get("block_structure").filter(|v| !v.is_null()) {
                found.block = Some(label::block_size(file, size)?);
            }
            continue;
        }
        let Some(bits @ 1..=8) = bits else {
            return Err(Error::malformed(file, format!("{name}: num_bits must be a number from 1 to 8")));
        };
        if let Some(strategy) = strategy.filter(|s| !["group", "channel"].contains(&s.as_str())) {
            return Err(unsupported(&format!("{name}: weights by the strategy {strategy:?}")));
        }
        let group_size = match weights.get("group_size") {
            None | Some(Value::Null) => None,
            Some(size) => match size.as_i64() {
                Some(-1) => None,
                Some(size @ 1..=0x7fff_ffff) => Some(size as usize),
                _ => {
                    let what = format!("{name}: group_size must be a number of columns, or -1 for all");
                    return Err(Error::malformed(file, what));
                }
            },
        };
        found.rules.push(Rule {
            bits: bits as u32,
            group_size,
            symmetric: weights.get("symmetric").and_then(Value::as_bool).unwrap_or(true),
        });
    }
    Ok(found)
}

/// Reads the layer of this prefix.
pub(super) fn read(checkpoint: &Checkpoint, prefix: &str, label: Option<&Label>) -> Result<PackedLayer> {
    let packed = need(checkpoint, prefix, ".weight_packed")?;
    let packed = packed.of(&[ElementType::I32])?;
    if packed.info.shape.len() == 3 {
        return Err(
            packed.unsupported(format!("holds several experts in one tensor, which is not read; {ADVICE}"))
        );
    }
    let scales = need(checkpoint, prefix, ".weight_scale")?.of(&gptq::SCALES)?;
    let shape = need(checkpoint, prefix, ".weight_shape")?;
    let zeros = find(checkpoint, prefix, ".weight_zero_point");
    let g_idx = find(checkpoint, prefix, ".weight_g_idx");

    let [rows, width] = packed.matrix()?;
    let rules = label.map_or(&[][..], |l| &l.compressed);
    let [_, group_count] = scales.matrix()?;
    let columns = match checkpoint.has_data() {
        true => columns(shape, rows)?,
        false => columns_from_headers(packed, group_count, zeros, g_idx, rules)?,
    };
    let (bits, padded) = bits(packed, columns, width, rules)?;
    scales.shaped(&[rows, group_count])?;
    let listed = g_idx.filter(|_| checkpoint.has_data());
    let listed = listed.map(|part| group_numbers(part, columns, group_count)).transpose()?.flatten();
    let size = group_size(scales, columns, group_count, bits, rules)?;
    let groups = match listed {
        Some(listed) if listed.iter().enumerate().any(|(k, &g)| g as usize != k / size) => {
            Groups::Listed(listed)
        }
        _ => Groups::Even(size),
    };
    if let Some(zeros) = zeros {
        let words = Layout::words(rows, bits, padded).unwrap_or(usize::MAX);
        zeros.of(&[ElementType::I32])?.shaped(&[words, group_count])?;
    }
    let affine = Affine {
        layout: Layout::Rows { bits, padded },
        rows,
        columns,
        group_count,
        groups,
        qweight: packed.index,
        qzeros: zeros.map_or(packed.index, |z| z.index),
        scales: scales.index,
        zero: zeros.is_none().then_some(1 << (bits - 1)),
    };
    let parts = [Some(packed), Some(scales), Some(shape), zeros, g_idx];
    Ok(PackedLayer::new(
        format!("{prefix}.weight"),
        rows,
        columns,
        parts.into_iter().flatten(),
        Store::Affine(affine),
    ))
}

/// The columns that `weight_shape` says.
fn columns(shape: Part, rows: usize) -> Result<usize> {
    let shape = shape.of(&[ElementType::I64, ElementType::I32])?.shaped(&[2])?;
    let data = shape.data();
    let numbers: Vec<i64> = match shape.info.element_type {
        ElementType::I64 => data.as_chunks().0.iter().map(|&b| i64::from_le_bytes(b)).collect(),
        _ => data.as_chunks().0.iter().map(|&b| i64::from(i32::from_le_bytes(b))).collect(),
    };
    match numbers[..] {
        [outputs, columns] if usize::try_from(outputs) == Ok(rows) && columns > 0 => Ok(columns as usize),
        _ => Err(shape.malformed(format!("says {numbers:?}; weight_packed has {rows} rows"))),
    }
}

/// The columns, where `weight_shape` is not there to say them: as many as the first rule that fits gives.
fn columns_from_headers(
    packed: Part,
    groups: usize,
    zeros: Option<Part>,
    g_idx: Option<Part>,
    rules: &[Rule],
) -> Result<usize> {
    let [rows, width] = packed.matrix()?;
    let zero_words = zeros.map(|z| z.info.shape.first().copied().unwrap_or_default());
    let fitting = |rule: &Rule| {
        let most = width.checked_mul(32)? / rule.bits as usize;
        let columns = rule.group_size.map_or(Some(most), |size| groups.checked_mul(size))?;
        let fits = |padded| {
            let zeros_fit =
                zero_words.is_none_or(|words| Layout::words(rows, rule.bits, padded) == Some(words));
            zeros_fit && Layout::words(columns, rule.bits, padded) == Some(width)
        };
        let one = rule.symmetric == zeros.is_none() && (rule.group_size.is_some() || groups == 1);
        one.then_some(columns).filter(|_| fits(false) || fits(true))
    };
    let listed = g_idx.map(|part| part.info.elements());
    listed.or_else(|| rules.iter().find_map(fitting)).ok_or_else(|| {
        packed.malformed(format!(
            "has rows of {width} words in {groups} groups, which fit nothing in config.json"
        ))
    })
}

/// Bits per code, and whether words are padded, from the width of a row of words.
fn bits(packed: Part, columns: usize, width: usize, rules: &[Rule]) -> Result<(u32, bool)> {
    let allowed = |bits: &u32| rules.is_empty() || rules.iter().any(|r| r.bits == *bits);
    let fits = |padded| {
        let mut fitting =
            (1..=8).filter(allowed).filter(|&b| Layout::words(columns, b, padded) == Some(width));
        (fitting.next(), fitting.next())
    };
    // A row of few columns can fit several numbers of bits; one of 32 and more cannot.
    match (fits(false), fits(true)) {
        ((Some(bits), None), _) => Ok((bits, false)),
        ((None, _), (Some(bits), None)) => Ok((bits, true)),
        ((None, _), (None, _)) => {
            let stated: Vec<_> = rules.iter().map(|r| r.bits.to_string()).collect();
            let stated = if stated.is_empty() { "1 to 8".into() } else { stated.join(" or ") };
            Err(packed.malformed(format!(
                "has rows of {width} words, which {columns} codes of {stated} bits do not take"
            )))
        }
        _ => Err(packed.malformed("the number of bits is ambiguous; state it in config.json")),
    }
}

/// Columns that share a scale.
fn group_size(scales: Part, columns: usize, groups: usize, bits: u32, rules: &[Rule]) -> Result<usize> {
    let stated = rules.iter().filter(|r| r.bits == bits).map(|r| r.group_size.unwrap_or(columns));
    let fitting = |size: &usize| columns.div_ceil(*size) == groups;
    if let Some(size) = stated.clone().find(fitting) {
        return Ok(size.min(columns));
    }
    match stated.map(|size| size.to_string()).collect::<Vec<_>>() {
        stated if !stated.is_empty() => Err(scales.malformed(format!(
            "has {groups} groups for {columns} columns; config.json says groups of {}",
            stated.join(" or ")
        ))),
        _ if columns.is_multiple_of(groups) => Ok(columns / groups),
        _ => {
            Err(scales
                .malformed(format!("has {groups} groups, which {columns} columns cannot be divided into")))
        }
    }
}

/// The group numbers, unless they are all -1: not set.
fn group_numbers(part: Part, columns: usize, groups: usize) -> Result<Option<Vec<u32>>> {
    let part = part.of(&[ElementType::I32])?.shaped(&[columns])?;
    match part.data().as_chunks().0.iter().all(|&b| i32::from_le_bytes(b) == -1) {
        true => Ok(None),
        false => gptq::group_numbers(part, groups).map(Some),
    }
}

impl Layout {
    /// Words that `codes` codes take in a row: a dense stream, or whole codes in each word.
    pub fn words(codes: usize, bits: u32, padded: bool) -> Option<usize> {
        match padded {
            false => stream::words(codes, bits),
            true => Some(codes.div_ceil((32 / bits) as usize)),
        }
    }
}
