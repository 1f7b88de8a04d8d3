//! GPTQ: rounds the weights of a linear layer one column after the other, each taking up what the columns
//! before it got wrong (Frantar et al., "GPTQ", 2022; the same as Babai's nearest plane algorithm).
//!
//! With `H = Σ x xᵀ` over the calibration inputs, the error of a row is `(w - q) H (w - q)ᵀ`. Let `H = U Uᵀ`,
//! `U` upper triangular: then it is `|r|²` with `r = (w - q) U`, and
//!
//! ```text
//! r_j = (w_j - q_j) U_jj + Σ_{i<j} (w_i - q_i) U_ij
//!                          └ known when column j is rounded
//! ```
//!
//! so column `j` rounds `w_j + Σ_{i<j} (w_i - q_i) U_ij / U_jj`. Papers write this with the upper Cholesky factor
//! of `H⁻¹`; the decisions are the same, nothing needs inverting, and one triangle is all that is kept.
//!
//! - [`Hessian`] sums `x xᵀ`, [`Prepared`] orders, damps and factors it: once for all layers with one input
//! - [`solve`] quantizes a layer, [`round_to_nearest`] does so without calibration
//! - [`Solution`] packs the result as GPTQ checkpoints store it
//!
//! [`crate::calibrated`] quantizes whole models with it.
//!
//! Results do not depend on the number of threads. SIMD levels may differ in the last bits of the sums, and so
//! in a code here and there.

pub mod blocks;
mod card;
mod codebooks;
mod error;
mod format;
mod hessian;
mod levels;
mod order;
mod parameters;
mod prepare;
mod refine;
mod shift;
mod solution;
mod solve;
mod tile;

pub use error::SolveError;
pub use hessian::Hessian;
pub use prepare::Prepared;
pub use shift::{Shift, ShiftOfRows};
pub use solution::Solution;
pub use solve::{round_to_nearest, solve};

/// How a layer is quantized.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Bits per weight: 2, 3, 4 or 8.
    pub bits: u32,
    /// Columns that share a scale; `None`: all (written as -1).
    pub group_size: Option<usize>,
    /// Zero point in the middle of the codes; otherwise each group has its own.
    pub symmetric: bool,
    /// The order in which columns are rounded.
    pub order: Order,
    /// Share of the mean diagonal of the Hessian added to its diagonal, at first: raised if need be.
    pub damp: f64,
    /// Search scales instead of taking those of the range, and refine scales and codes after the column loop.
    pub search: bool,
}

/// In which order columns are rounded: late ones take up the errors of early ones, so the important ones come
/// first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// As they are.
    Natural,
    /// By falling diagonal of the Hessian inside each group, groups by their largest; nothing changes on disk.
    GroupAware,
    /// By falling diagonal of the Hessian; groups are formed in that order (`desc_act`).
    Activation,
}

impl Default for Settings {
    /// 4 bits, symmetric, groups of 128, searched scales, columns ordered inside groups, damping 0.02 (with 0.01
    /// the refined codes fit the calibration text a little too closely).
    fn default() -> Self {
        Self {
            bits: 4,
            group_size: Some(128),
            symmetric: true,
            order: Order::GroupAware,
            damp: 0.02,
            search: true,
        }
    }
}

impl Settings {
    /// The largest code.
    fn top(&self) -> u32 {
        (1 << self.bits) - 1
    }

    fn group(&self, columns: usize) -> usize {
        self.group_size.unwrap_or(columns).min(columns).max(1)
    }

    /// Groups of a layer with this many columns.
    pub fn groups(&self, columns: usize) -> usize {
        columns.div_ceil(self.group(columns))
    }
}

/// Whether a layer of `rows` (outputs) and `columns` (inputs) can be stored with these settings: codes fill whole
/// 32-bit words in both directions.
///
/// # Errors
/// [`SolveError::Settings`] or [`SolveError::Shape`], which says what would fit.
pub fn check_shape(rows: usize, columns: usize, settings: &Settings) -> Result<(), SolveError> {
    let bits = settings.bits;
    if !matches!(bits, 2 | 3 | 4 | 8) {
        return Err(SolveError::Settings(format!("{bits} bits: choose 2, 3, 4 or 8")));
    }
    if settings.group_size == Some(0) {
        return Err(SolveError::Settings(
            "groups of 0 columns: choose 128, 64, 32 or -1 (all columns)".into(),
        ));
    }
    if !(settings.damp.is_finite() && (0.0..=1.0).contains(&settings.damp)) {
        return Err(SolveError::Settings(format!(
            "damping of {}: choose 0 to 1, such as 0.01",
            settings.damp
        )));
    }
    let per_word = match bits {
        3 => 32,
        bits => 32 / bits as usize,
    };
    let fits = |length: usize| length > 0 && length.is_multiple_of(per_word);
    if fits(rows) && fits(columns) {
        return Ok(());
    }
    Err(SolveError::Shape { rows, columns, bits, multiple: per_word })
}
