//! Why a layer could not be quantized.

/// Why a layer could not be quantized. The caller knows the layer's name.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SolveError {
    /// Settings that no layer can have.
    #[error("{0}")]
    Settings(String),
    /// Codes of this width do not fill whole words.
    #[error(
        "{rows} rows of {columns} columns do not fill whole 32-bit words with {bits}-bit codes (both numbers \
         must be multiples of {multiple}): choose another number of bits, or leave the layer unquantized"
    )]
    Shape {
        /// Outputs of the layer.
        rows: usize,
        /// Inputs of the layer.
        columns: usize,
        /// Bits of a code.
        bits: u32,
        /// What rows and columns must be multiples of.
        multiple: usize,
    },
    /// Two things that should belong together do not.
    #[error("{what}: expected {expected}, found {found}")]
    Lengths {
        /// Which.
        what: &'static str,
        /// What it should be.
        expected: usize,
        /// What it is.
        found: usize,
    },
    /// A weight is NaN, infinite, or too large for an f16 scale.
    #[error("row {row}, column {column}: the weight is {value}, which no f16 scale can represent")]
    Weight {
        /// The row.
        row: usize,
        /// The column.
        column: usize,
        /// The weight.
        value: f32,
    },
    /// The calibration inputs were not finite.
    #[error(
        "the calibration inputs of column {column} are not finite (their sum of squares is {value}); the model \
         overflows on this text: calibrate with another text, or in a model with finite activations"
    )]
    Input {
        /// The column.
        column: usize,
        /// Its sum of squares, or the sum of products with another column.
        value: f32,
    },
    /// No input but zeros was seen.
    #[error("no calibration token reached this layer ({tokens} tokens, all inputs zero): use more text")]
    NoData {
        /// Tokens seen.
        tokens: u64,
    },
    /// A device that computes: a GPU, mostly.
    #[error(transparent)]
    Compute(#[from] quern_compute::Error),
    /// The Hessian cannot be factored with any damping.
    #[error(
        "the Hessian ({columns} columns, {tokens} tokens) is not positive definite even with a damping of 1; use \
         more calibration text"
    )]
    NotPositiveDefinite {
        /// Columns of the layer.
        columns: usize,
        /// Tokens seen.
        tokens: u64,
    },
}
