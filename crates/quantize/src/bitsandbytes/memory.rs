//! The same schemes for rows on their way into memory, as the blocks that kernels multiply
//! (`tensor_io::decode::four_bit`, and `q8_0` for int8).

use half::f16;
use quern_compute::simd::Level;
use quern_tensor_io::layout::{self, F16, NF4, Q8_0};

use super::code::Code;
use super::{Kind, four_bit, int8};

/// Values that share a scale: two blocks in memory.
const SHARED: usize = 64;
/// Values of a block in memory.
const BLOCK: usize = 32;

/// Why rows could not be encoded.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InMemoryError {
    /// Rows are not whole blocks.
    #[error("rows of {columns} values are not whole blocks of 32")]
    PartialBlock {
        /// Values per row.
        columns: usize,
    },
    /// A slice does not hold whole rows.
    #[error("{found} {what} given, {expected} needed")]
    Length {
        /// Values or bytes.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many there should be.
        expected: usize,
    },
    /// A value is not finite, or too large for f16, in which scales are kept.
    #[error("row {row}, column {column}: the value is {value}, too large for a scale in f16")]
    Value {
        /// The row, among those given.
        row: usize,
        /// The column.
        column: usize,
        /// The value.
        value: f32,
    },
}

/// Encodes rows of `columns` values as blocks of `kind.in_memory()`.
///
/// 4 bits: the codes bitsandbytes gives blocks of 64 values; both halves carry the block's scale, rounded to
/// f16. (Where 64 does not divide `columns`, a row's last 32 values are a block of their own, while
/// bitsandbytes' would reach into the next row.) int8: LLM.int8()'s codes, the scale rounded to f16.
///
/// # Errors
/// Lengths that do not fit; values that are not finite or beyond f16.
pub fn encode_in_memory(
    level: Level,
    kind: Kind,
    columns: usize,
    rows: &[f32],
    out: &mut [u8],
) -> Result<(), InMemoryError> {
    if columns == 0 || !columns.is_multiple_of(BLOCK) {
        return Err(InMemoryError::PartialBlock { columns });
    }
    let check = |what, found, expected| match found == expected {
        true => Ok(()),
        false => Err(InMemoryError::Length { what, found, expected }),
    };
    let row_bytes = columns / BLOCK * kind.in_memory().block_bytes();
    check("values", rows.len(), rows.len().next_multiple_of(columns))?;
    check("bytes", out.len(), rows.len() / columns * row_bytes)?;
    // the first value that rounds to infinity
    let most = f16::MAX.to_f32() + 16.0;
    let bad = |x: &f32| x.is_nan() || x.abs() >= most;
    // without an early end first, which is a few vector instructions
    if rows.iter().fold(false, |any, x| any | bad(x))
        && let Some(at) = rows.iter().position(bad)
    {
        return Err(InMemoryError::Value { row: at / columns, column: at % columns, value: rows[at] });
    }
    let rows = rows.chunks_exact(columns).zip(out.chunks_exact_mut(row_bytes));
    match Code::new(kind) {
        Some(code) => four_bit_rows(level, &code, columns, rows),
        None => int8_rows(level, columns, rows),
    }
    Ok(())
}

fn four_bit_rows<'a>(
    level: Level,
    code: &Code,
    columns: usize,
    rows: impl Iterator<Item = (&'a [f32], &'a mut [u8])>,
) {
    let mut codes = Vec::new();
    let mut packed = vec![0; columns / 2];
    let mut absmax = vec![0.0; columns.div_ceil(SHARED)];
    let whole = columns / SHARED * SHARED;
    for (row, out) in rows {
        let (shared, alone) = absmax.split_at_mut(whole / SHARED);
        let (first, last) = packed.split_at_mut(whole / 2);
        four_bit::encode(level, code, SHARED, &row[..whole], &mut codes, first, shared);
        four_bit::encode(level, code, BLOCK, &row[whole..], &mut codes, last, alone);
        // FP4 has the same layout.
        let blocks = layout::blocks_mut::<NF4>(out).iter_mut().zip(packed.as_chunks::<16>().0);
        for (i, (out, packed)) in blocks.enumerate() {
            out.d = F16::from_f32(absmax[i / 2]);
            // two adjacent values a byte become value j beside value j + 16
            for (j, pair) in out.qs.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                let (low, high) = (packed[j], packed[j + 8]);
                *pair = [low >> 4 | high & 0xf0, low & 15 | high << 4];
            }
        }
    }
}

fn int8_rows<'a>(level: Level, columns: usize, rows: impl Iterator<Item = (&'a [f32], &'a mut [u8])>) {
    let mut values = vec![0.0; columns];
    let mut codes = vec![0; columns];
    for (row, out) in rows {
        values.copy_from_slice(row);
        int8::through_f16(&mut values);
        let absmax = int8::encode_row(level, &values, &mut codes);
        for (out, codes) in layout::blocks_mut::<Q8_0>(out).iter_mut().zip(codes.as_chunks::<BLOCK>().0) {
            *out = Q8_0 { d: F16::from_f32(absmax / 127.0), qs: codes.map(|code| code as i8) };
        }
    }
}

#[cfg(test)]
mod tests {
    use quern_tensor_io::decode;

    use super::*;

    fn rows(columns: usize) -> Vec<f32> {
        let one = |i: usize| ((i as u32).wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0 - 1.0;
        (0..3 * columns).map(|i| one(i) * 0.1).collect()
    }

    fn encode(kind: Kind, columns: usize, rows: &[f32]) -> Vec<f32> {
        let element_type = kind.in_memory();
        let mut blocks = vec![0; element_type.row_bytes(rows.len()).unwrap()];
        encode_in_memory(Level::best(), kind, columns, rows, &mut blocks).unwrap();
        let mut decoded = vec![0.0; rows.len()];
        assert!(decode::to_f32(element_type, &blocks, &mut decoded));
        decoded
    }

    /// Through bitsandbytes' own layout, the scale rounded.
    #[test]
    fn four_bit_blocks_decode_to_the_values_of_a_file() {
        for kind in [Kind::Nf4, Kind::Fp4] {
            let code = Code::new(kind).unwrap();
            for columns in [64, 96, 32, 256] {
                let rows = rows(columns);
                let decoded = encode(kind, columns, &rows);
                for (row, decoded) in rows.chunks(columns).zip(decoded.chunks(columns)) {
                    for (block, decoded) in row.chunks(64).zip(decoded.chunks(64)) {
                        let absmax = block.iter().fold(0.0f32, |m, x| m.max(x.abs()));
                        let stored = f16::from_f32(absmax).to_f32();
                        for (x, decoded) in block.iter().zip(decoded) {
                            // a block of 32 alone is whole for itself
                            let index = code.nearest(x * (1.0 / absmax));
                            assert_eq!(*decoded, stored * code.values[usize::from(index)], "{kind:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn int8_blocks_share_the_scale_of_their_row() {
        let rows = rows(96);
        let decoded = encode(Kind::Int8, 96, &rows);
        for (row, decoded) in rows.chunks(96).zip(decoded.chunks(96)) {
            let mut row = row.to_vec();
            int8::through_f16(&mut row);
            let absmax = row.iter().fold(0.0f32, |m, x| m.max(x.abs()));
            let step = f16::from_f32(absmax / 127.0).to_f32();
            for (x, decoded) in row.iter().zip(decoded) {
                let code = (x * ((1.0 / absmax) * 127.0)).round_ties_even();
                assert_eq!(*decoded, step * code);
            }
        }
    }

    #[test]
    fn impossible_rows_are_refused() {
        let mut out = vec![0; 36];
        let mut says = |columns, rows: &[f32], what: &str| {
            let error =
                encode_in_memory(Level::best(), Kind::Nf4, columns, rows, &mut out).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        };
        says(0, &[], "not whole blocks");
        says(48, &[0.0; 48], "48 values are not whole blocks of 32");
        says(64, &[0.0; 63], "63 values given, 64 needed");
        says(64, &[0.0; 128], "36 bytes given, 72 needed");
        let mut row = [0.0; 64];
        for value in [f32::NAN, f32::NEG_INFINITY, 65520.0] {
            row[40] = value;
            says(32, &row, "row 1, column 8: the value is");
        }
        row[40] = 65504.0;
        encode_in_memory(Level::best(), Kind::Nf4, 32, &row, &mut out).unwrap();
    }
}
