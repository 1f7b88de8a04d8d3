//! Block encoders: f32 rows in, ggml block bytes out, bit for bit what llama-quantize writes on x86-64.
//!
//! Finding good scales is a search that scores dozens of candidates per sub-block with float sums, and the
//! order of those sums decides between near-equal candidates. So no sum may be reordered or fused. For speed,
//! sixteen blocks, which are independent, are searched at once, one in each SIMD lane, each lane keeping its own
//! sequential order (`lanes`). `scalar` holds the same encoders one value after another: the specification, the
//! reference of the tests, and what runs on CPUs without AVX2. Weights that were trained for `q4_0` or `q4_1` are another
//! matter: [`encode_rows_on_grid`].

use quern_compute::simd::{Level, Op, dispatch};
use quern_tensor_io::ElementType;

pub(crate) use numeric::mxfp4_scale;
pub(crate) use table::{E2M1_DOUBLED, IQ4};

pub(crate) mod codebook;
mod formats;
mod lanes;
pub(crate) mod lattice;
mod levels;
mod numeric;
pub(crate) mod pack;
pub(crate) mod pack_grid;
mod scalar;
mod table;
#[cfg(test)]
mod tests;

pub use lattice::{Grid, encode_rows_on_grid};

/// Why rows could not be encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// There is no encoder for the type.
    #[error("quern has no encoder for {0}")]
    Unsupported(ElementType),
    /// Rows are not whole blocks.
    #[error("rows of {columns} values are not whole {element_type} blocks of {block}")]
    PartialBlock {
        /// The type asked for.
        element_type: ElementType,
        /// Values per row.
        columns: usize,
        /// Values per block.
        block: usize,
    },
    /// A slice has the wrong length.
    #[error("{what}: {found} given, {expected} needed")]
    Length {
        /// Which slice.
        what: &'static str,
        /// Its length.
        found: usize,
        /// What it should be.
        expected: usize,
    },
    /// The type cannot be encoded without importance weights.
    #[error("{0} needs an importance matrix")]
    NeedsWeights(ElementType),
}

/// Whether [`encode_rows_at`] knows this type.
pub fn can_encode(element_type: ElementType) -> bool {
    use ElementType as T;
    let plain = matches!(element_type, T::F32 | T::F16 | T::BF16);
    // Q8_1 and Q8_K are for activations, NF4 and FP4 exist in memory only.
    plain || element_type.is_block() && !matches!(element_type, T::Q8_1 | T::Q8K | T::NF4 | T::FP4)
}

/// Whether the type cannot be encoded without importance weights: its definition has no other.
pub fn needs_weights(element_type: ElementType) -> bool {
    matches!(element_type, ElementType::IQ2XXS | ElementType::IQ2XS | ElementType::IQ1S)
}

/// Whether the type is useless without importance weights, though some can be encoded: llama-quantize refuses
/// to make them for the layers of a model (`token_embd` and `output` are up to the user).
pub fn wants_weights(element_type: ElementType) -> bool {
    use ElementType as T;
    needs_weights(element_type) || matches!(element_type, T::IQ2S | T::IQ3XXS | T::IQ1M)
}

/// Encodes rows of `columns` f32 values as `element_type`, on the calling thread, with the instructions of `level` (or
/// the CPU's best, if that is lower). Rows are independent. The bytes are the same at every level: at
/// [`Level::Scalar`] the specification runs, one value after another.
///
/// `weights` is the importance of each column (squared activations, mean), the same for every row; types that
/// have no use for it ignore it. Give many rows at a time (a few thousand values at least): blocks are taken
/// sixteen at once, across rows, and only the last sixteen may run half empty. `out` receives exactly
/// `element_type.row_bytes(columns)` bytes per row. Values must be finite (the caller checks: bytes for NaN are
/// unspecified, though nothing panics).
///
/// # Errors
/// If the type has no encoder, rows are not whole blocks, or a slice has the wrong length.
pub fn encode_rows_at(
    level: Level,
    element_type: ElementType,
    columns: usize,
    rows: &[f32],
    weights: Option<&[f32]>,
    out: &mut [u8],
) -> Result<(), EncodeError> {
    check(element_type, columns, rows, weights, out)?;
    if rows.is_empty() || lanes::encode_rows(level, element_type, columns, rows, weights, out) {
        return Ok(());
    }
    match element_type {
        ElementType::BF16 | ElementType::F32 => dispatch(level, Plain { element_type, rows, out }),
        ElementType::F16 => {
            for (out, &x) in out.as_chunks_mut().0.iter_mut().zip(rows) {
                *out = half::f16::from_f32(x).to_le_bytes();
            }
        }
        _ => {
            let bytes = out.len() / (rows.len() / columns);
            for (x, out) in rows.chunks_exact(columns).zip(out.chunks_exact_mut(bytes)) {
                scalar::encode_row(element_type, x, weights, out);
            }
        }
    }
    Ok(())
}

/// bf16 and f32: loops that the compiler vectorises by itself.
struct Plain<'a> {
    element_type: ElementType,
    rows: &'a [f32],
    out: &'a mut [u8],
}

impl Op for Plain<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        if self.element_type == ElementType::BF16 {
            for (out, &x) in self.out.as_chunks_mut().0.iter_mut().zip(self.rows) {
                *out = numeric::bf16_bits(x).to_le_bytes();
            }
        } else {
            for (out, x) in self.out.as_chunks_mut().0.iter_mut().zip(self.rows) {
                *out = x.to_le_bytes();
            }
        }
    }
}

fn check(
    element_type: ElementType,
    columns: usize,
    rows: &[f32],
    weights: Option<&[f32]>,
    out: &[u8],
) -> Result<(), EncodeError> {
    if !can_encode(element_type) {
        return Err(EncodeError::Unsupported(element_type));
    }
    let block = element_type.block_elements();
    let Some(row_bytes) = element_type.row_bytes(columns) else {
        return Err(EncodeError::PartialBlock { element_type, columns, block });
    };
    let length = |what, found, expected| {
        if found == expected { Ok(()) } else { Err(EncodeError::Length { what, found, expected }) }
    };
    let count = rows.len().checked_div(columns).unwrap_or(0);
    length("values in whole rows", rows.len(), count * columns)?;
    if let Some(weights) = weights {
        length("importance weights", weights.len(), columns)?;
    } else if needs_weights(element_type) {
        return Err(EncodeError::NeedsWeights(element_type));
    }
    length("bytes of output", out.len(), count * row_bytes)
}
