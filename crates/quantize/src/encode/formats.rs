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

/// What distinguishes the types with a grid of magnitudes (iq2, iq3) from each other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GridFormat {
    /// Whether only seven of eight signs are stored, their number being even: where it is odd, the value that
    /// matters least changes its sign.
    pub even_signs: bool,
    /// sigma^2 of the importance weights is this times the mean square of the super-block.
    pub energy_factor: f32,
    /// Weights without importance.
    pub plain: PlainWeights,
    /// Sub-blocks whose largest magnitude is below count as zero.
    pub tiny: f32,
    /// Candidates: `-last..=last` times `step` is added to the largest point (2 levels - 1).
    pub last: i32,
    /// See `last`.
    pub step: f32,
    /// Whether the candidates are around the scale of a positive search, not around the largest value.
    pub searched: bool,
    /// Which groups are looked up again with the scale that won.
    pub again: Again,
    /// Factor on the stored `d`.
    pub stretch: f32,
    /// Whether codes of a block without any scale are wiped, too.
    pub wipe: bool,
}

/// Weights where there is no importance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PlainWeights {
    /// The type is not encoded without.
    None,
    /// x^2.
    Squares,
    /// x^2 plus a quarter of sigma^2.
    RaisedSquares,
}

/// Which groups are looked up again with the scale that won.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Again {
    /// All.
    Always,
    /// Those that were off the grid.
    OffGrid,
    /// All, if one was off the grid, or no candidate was any good.
    AllIfAny,
}

/// `iq2_xxs`.
pub(crate) const IQ2_XXS: GridFormat = GridFormat {
    even_signs: true,
    energy_factor: 1.0,
    plain: PlainWeights::None,
    tiny: 1e-15,
    last: 6,
    step: 0.1,
    searched: true,
    again: Again::Always,
    stretch: 1.0,
    wipe: true,
};

/// `iq2_xs`.
pub(crate) const IQ2_XS: GridFormat =
    GridFormat { last: 9, searched: false, again: Again::OffGrid, ..IQ2_XXS };

/// `iq2_s`.
pub(crate) const IQ2_S: GridFormat = GridFormat {
    even_signs: false,
    energy_factor: 2.0,
    plain: PlainWeights::RaisedSquares,
    tiny: 1e-8,
    stretch: 0.9875,
    wipe: false,
    ..IQ2_XS
};

/// `iq3_xxs`.
pub(crate) const IQ3_XXS: GridFormat = GridFormat {
    energy_factor: 2.0,
    plain: PlainWeights::Squares,
    tiny: 1e-8,
    last: 15,
    step: 0.2,
    stretch: 1.0125,
    ..IQ2_XS
};

/// `iq3_s`. Only zeros are tiny.
pub(crate) const IQ3_S: GridFormat = GridFormat {
    even_signs: false,
    tiny: f32::from_bits(1),
    last: 9,
    again: Again::AllIfAny,
    stretch: 1.033,
    wipe: false,
    ..IQ3_XXS
};
