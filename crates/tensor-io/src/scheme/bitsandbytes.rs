//! bitsandbytes: NF4, FP4 and LLM.int8().
//!
//! ```text
//! K                    4-bit codes of the weight K, flattened: the first value in the high nibble; blocks of
//!                      values that share a scale continue across row ends. U8, or the same bytes under the name
//!                      of a float type
//! K.absmax             a scale a block: f32 - or u8, "double quantized":
//! K.nested_absmax      f32 a block of 256 scales, scale = nested_quant_map[u8] * nested_absmax + nested_offset
//! K.nested_quant_map   f32[256]
//! K.quant_map          f32[16], the table of the type
//! K.quant_state.bitsandbytes__nf4 (or fp4)   JSON: block sizes, the shape, nested_offset
//!
//! P.weight  i8[out, in]     P.SCB  f32[out], the largest magnitude of a row     W = q SCB / 127
//! P.weight_format           0: row by row
//! ```
//!
//! GPT-QModel writes the same under other names: `P.weight_absmax`, `P.weight_scb` and so on.

use serde_json::{Map, Value};

use super::four_bit::{Absmax, FourBit};
use super::int8::Int8;
use super::label::Label;
use super::parts::{Part, find, need};
use super::{PackedLayer, Store};
use crate::decode::four_bit;
use crate::{Checkpoint, ElementType, Result};

/// What marks a weight as 4-bit: the state's name after the weight's.
const STATES: [&str; 3] =
    [".quant_state.bitsandbytes__nf4", ".quant_state.bitsandbytes__fp4", "_quant_state"];

/// What marks a layer as int8, after the layer's name.
const SCALES: [&str; 2] = [".SCB", ".weight_scb"];

/// The weight whose 4-bit state this tensor is.
pub(super) fn four_bit_weight(name: &str) -> Option<&str> {
    if let Some((weight, _)) = name.split_once(".quant_state.bitsandbytes__") {
        return Some(weight);
    }
    name.strip_suffix("_quant_state").filter(|weight| weight.ends_with(".weight"))
}

/// The layer whose int8 scales this tensor is.
pub(super) fn int8_layer(name: &str) -> Option<&str> {
    SCALES.iter().find_map(|s| name.strip_suffix(s))
}

/// Reads the 4-bit weight of this name.
pub(super) fn read_four_bit(
    checkpoint: &Checkpoint,
    weight: &str,
    label: Option<&Label>,
) -> Result<PackedLayer> {
    let states: Vec<_> = STATES.iter().filter_map(|s| Some((*s, find(checkpoint, weight, s)?))).collect();
    let (suffix, state) = match states[..] {
        [one] => one,
        [(_, first), ..] => return Err(first.malformed("the weight has more than one quant_state")),
        [] => {
            let what = "is of a type that is not read; quern reads bitsandbytes' nf4 and fp4";
            let stray = checkpoint.tensors().iter().find(|t| four_bit_weight(&t.name) == Some(weight));
            let name = stray.and_then(|t| t.name.strip_prefix(weight)).unwrap_or_default();
            return Err(need(checkpoint, weight, name)?.unsupported(what));
        }
    };
    let state_values = match checkpoint.has_data() {
        true => State::read(state)?,
        false => State::from_headers(checkpoint, weight, suffix, label)?,
    };
    if let Some(kind) = suffix.strip_prefix(".quant_state.bitsandbytes__")
        && kind != state_values.kind
    {
        return Err(
            state.malformed(format!("says the type is {:?}, its name says {kind:?}", state_values.kind))
        );
    }
    let join = if suffix.starts_with('.') { "." } else { "_" };
    let part = |name: &str| need(checkpoint, weight, &format!("{join}{name}"));

    let State { nf4, block_size, rows, columns, nested, .. } = state_values;
    let Some(count) = rows.checked_mul(columns) else {
        return Err(state.malformed("says a shape that is too large"));
    };
    let float_named = [ElementType::U8, ElementType::F16, ElementType::BF16, ElementType::F32];
    let codes = need(checkpoint, weight, "")?.of(&float_named)?;
    if codes.info.bytes != count.div_ceil(2) {
        return Err(codes.malformed(format!(
            "has {} bytes; {rows} x {columns} 4-bit values take {}",
            codes.info.bytes,
            count.div_ceil(2)
        )));
    }
    let table = part("quant_map")?.of(&[ElementType::F32])?.shaped(&[16])?;
    let expected = if nf4 { &four_bit::NF4 } else { &four_bit::FP4 };
    let differs = |(found, expected): (&[u8; 4], &f32)| (f32::from_le_bytes(*found) - expected).abs() > 1e-6;
    let nan = |b: &[u8; 4]| f32::from_le_bytes(*b).is_nan();
    let found = table.data().as_chunks().0;
    if !checkpoint.has_data() {
        // nothing to compare
    } else if found.iter().any(nan) || found.iter().zip(expected).any(differs) {
        let kind = if nf4 { "nf4" } else { "fp4" };
        return Err(table.malformed(format!("is not the table of {kind}: the codes have another meaning")));
    }

    let blocks = count.div_ceil(block_size);
    let absmax = part("absmax")?;
    let mut parts = vec![codes, state, table, absmax];
    let absmax = match nested {
        None => {
            absmax.of(&[ElementType::F32])?.shaped(&[blocks])?;
            Absmax::Plain { absmax: absmax.index }
        }
        Some(Nested { block_size, offset }) => {
            absmax.of(&[ElementType::U8])?.shaped(&[blocks])?;
            let outer =
                part("nested_absmax")?.of(&[ElementType::F32])?.shaped(&[blocks.div_ceil(block_size)])?;
            let map = part("nested_quant_map")?.of(&[ElementType::F32])?.shaped(&[256])?;
            parts.extend([outer, map]);
            let (absmax, outer, map) = (absmax.index, outer.index, map.index);
            Absmax::Nested { absmax, outer, map, block_size, offset }
        }
    };
    let store = FourBit { nf4, block_size, columns, codes: codes.index, absmax };
    Ok(PackedLayer::new(weight.to_owned(), rows, columns, parts, Store::FourBit(store)))
}

/// Reads the int8 layer of this prefix.
pub(super) fn read_int8(checkpoint: &Checkpoint, prefix: &str) -> Result<PackedLayer> {
    let weight = need(checkpoint, prefix, ".weight")?.of(&[ElementType::I8])?;
    let [rows, columns] = weight.matrix()?;
    let mut scales = SCALES.iter().filter_map(|s| find(checkpoint, prefix, s));
    let Some(scale) = scales.next() else { return Err(weight.malformed("has no row scales")) };
    if let Some(second) = scales.next() {
        return Err(second.malformed("the layer has its row scales twice"));
    }
    scale.of(&[ElementType::F32])?.shaped(&[rows])?;
    let format = find(checkpoint, prefix, ".weight_format");
    if let Some(format) = format {
        let format = format.of(&[ElementType::U8])?;
        match format.data() {
            _ if !checkpoint.has_data() => {}
            [0] => {}
            [other] => {
                let what = format!(
                    "is {other}, an arrangement for old GPUs; load the model with bitsandbytes 0.45 or later and save \
                     it again, which makes it 0"
                );
                return Err(format.unsupported(what));
            }
            _ => return Err(format.malformed("must be a single number")),
        }
    }
    let parts = [Some(weight), Some(scale), format].into_iter().flatten();
    let store = Int8 { columns, weight: weight.index, scale: scale.index };
    Ok(PackedLayer::new(format!("{prefix}.weight"), rows, columns, parts, Store::Int8(store)))
}

/// What the JSON of a quant_state says.
struct State {
    kind: String,
    nf4: bool,
    block_size: usize,
    rows: usize,
    columns: usize,
    nested: Option<Nested>,
}

/// How scales are quantized.
struct Nested {
    block_size: usize,
    offset: f32,
}

impl State {
    /// What names and shapes say where the state's own text is not there. The shape is in that text only: the
    /// layer is given as one row.
    fn from_headers(
        checkpoint: &Checkpoint,
        weight: &str,
        suffix: &str,
        label: Option<&Label>,
    ) -> Result<Self> {
        let join = if suffix.starts_with('.') { "." } else { "_" };
        let count = need(checkpoint, weight, "")?.info.bytes.saturating_mul(2);
        let absmax = need(checkpoint, weight, &format!("{join}absmax"))?;
        let outer = find(checkpoint, weight, &format!("{join}nested_absmax"));
        let of_label = || label.and_then(|l| l.four_bit.clone()).unwrap_or_else(|| "nf4".to_owned());
        let kind = suffix.strip_prefix(".quant_state.bitsandbytes__").map_or_else(of_label, str::to_owned);
        // Blocks are of 2^n values; only the last one may be shorter.
        let block = |values: usize, blocks: &Part| match blocks.info.elements() {
            0 => Err(blocks.malformed("holds nothing")),
            n => Ok(values.div_ceil(n).next_power_of_two()),
        };
        let nested = outer.map(|o| block(absmax.info.elements(), &o)).transpose()?;
        Ok(Self {
            nf4: kind == "nf4",
            kind,
            block_size: block(count, &absmax)?,
            rows: 1,
            columns: count,
            nested: nested.map(|block_size| Nested { block_size, offset: 0.0 }),
        })
    }

    fn read(part: Part) -> Result<Self> {
        const KEYS: [&str; 7] = [
            "quant_type",
            "blocksize",
            "dtype",
            "shape",
            "nested_blocksize",
            "nested_dtype",
            "nested_offset",
        ];
        let part = part.of(&[ElementType::U8])?;
        let json: Map<String, Value> = serde_json::from_slice(part.data())
            .map_err(|e| part.malformed(format!("is not a JSON object: {e}")))?;
        if let Some(key) = json.keys().find(|k| !KEYS.contains(&k.as_str())) {
            let key: String = key.chars().take(60).collect();
            return Err(part.malformed(format!("has a key {key:?} that bitsandbytes does not know")));
        }
        let bad = |key: &str, expected: &str| {
            let found =
                json.get(key).map_or("missing".to_owned(), |v| v.to_string().chars().take(60).collect());
            part.malformed(format!("{key} must be {expected}, it is {found}"))
        };
        let size = |key: &str| {
            let value = json.get(key).and_then(Value::as_u64).and_then(|v| usize::try_from(v).ok());
            let fits = |v: &usize| v.is_power_of_two() && (32..=4096).contains(v);
            value.filter(fits).ok_or_else(|| bad(key, "a power of two from 32 to 4096"))
        };
        let kind = json.get("quant_type").and_then(Value::as_str);
        let nf4 = match kind {
            Some("nf4") => true,
            Some("fp4") => false,
            _ => return Err(bad("quant_type", "\"nf4\" or \"fp4\"")),
        };
        let dtypes = ["float16", "bfloat16", "float32"];
        if !json.get("dtype").and_then(Value::as_str).is_some_and(|d| dtypes.contains(&d)) {
            return Err(bad("dtype", "float16, bfloat16 or float32"));
        }
        let shape = json.get("shape").and_then(Value::as_array).map(Vec::as_slice);
        let shape: Option<Vec<_>> =
            shape.and_then(|s| s.iter().map(|d| usize::try_from(d.as_u64()?).ok()).collect());
        let Some([rows, columns]) = shape.as_deref().filter(|s| s.iter().all(|&d| d > 0)) else {
            return Err(bad("shape", "[outputs, inputs]"));
        };
        let nested = match json.keys().any(|k| k.starts_with("nested_")) {
            false => None,
            true => {
                if json.get("nested_dtype").and_then(Value::as_str) != Some("float32") {
                    return Err(bad("nested_dtype", "\"float32\""));
                }
                let offset = json.get("nested_offset").and_then(Value::as_f64).map(|v| v as f32);
                let Some(offset) = offset.filter(|v| v.is_finite()) else {
                    return Err(bad("nested_offset", "a finite number"));
                };
                Some(Nested { block_size: size("nested_blocksize")?, offset })
            }
        };
        let kind = kind.unwrap_or_default().to_owned();
        Ok(Self { kind, nf4, block_size: size("blocksize")?, rows: *rows, columns: *columns, nested })
    }
}
