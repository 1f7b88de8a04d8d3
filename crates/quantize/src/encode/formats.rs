//! What distinguishes the affine types from each other.

use super::scalar::search::Steps;

/// Constants of an affine search.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AffineFormat {
    /// Largest code.
    pub max_code: i32,
    /// Largest second-level code.
    pub max_scale: i32,
    /// Candidates without importance.
    pub plain: Steps,
    /// Whether the error without importance is |diff| instead of diff^2.
    pub absolute_error: bool,
    /// Weights without importance: |x|, or that plus the root mean square of the sub-block.
    pub add_mean: bool,
    /// sigma^2 of the importance weights is this times the mean square of the super-block.
    pub energy_factor: f32,
}

impl AffineFormat {
    /// Candidates with importance, the same for all types.
    pub const WEIGHTED: Steps = Steps { first: -0.9, step: 0.05, last: 36 };
}

/// `q2_K`.
pub(crate) const Q2_K: AffineFormat = AffineFormat {
    max_code: 3,
    max_scale: 15,
    plain: Steps { first: -0.5, step: 0.1, last: 15 },
    absolute_error: true,
    add_mean: false,
    energy_factor: 1.0,
};

/// `q4_K`.
pub(crate) const Q4_K: AffineFormat = AffineFormat {
    max_code: 15,
    max_scale: 63,
    plain: Steps { first: -1.0, step: 0.1, last: 20 },
    absolute_error: false,
    add_mean: true,
    energy_factor: 2.0,
};

/// `q5_K`.
pub(crate) const Q5_K: AffineFormat =
    AffineFormat { max_code: 31, plain: Steps { first: -0.5, step: 0.1, last: 15 }, ..Q4_K };
