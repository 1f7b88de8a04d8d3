//! How the columns of a layer are rounded.

use super::args::KindArgs;

/// What weights become.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Grid {
    /// GPTQ's codes: whole numbers with a zero point.
    Gptq {
        /// The largest code.
        top: f32,
        /// The zero point is in the middle.
        symmetric: bool,
        /// Scales are searched.
        search: bool,
    },
    /// A block type: groups of 16, 32 or 256 positions, each unit a block.
    Blocks(Blocks),
}

/// The numbers of a block type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Blocks {
    /// How levels and parameters are stored.
    pub kind: BlocksKind,
    /// The lowest level.
    pub low: f32,
    /// The highest level.
    pub high: f32,
    /// The smallest whole number of a scale.
    pub code_low: f32,
    /// The largest.
    pub code_high: f32,
    /// The largest whole number of an offset.
    pub offset_high: f32,
}

/// What a block type's levels are (whole numbers or the values of a table), then how its scales are stored (f16, whole
/// numbers under an f16 of the block, powers of two), then its offsets, if it has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlocksKind {
    /// Whole numbers, f16.
    WholeHalf,
    /// Whole numbers, f16, f16.
    WholeHalfHalf,
    /// Whole numbers, whole numbers.
    WholeCodes,
    /// Whole numbers, whole numbers, whole numbers (not above 0 as offsets).
    WholeCodesCodes,
    /// The table of `iq4_nl`, f16.
    Iq4Half,
    /// The table of `iq4_xs`, whole numbers.
    Iq4Codes,
    /// Twice the values of E2M1, powers of two.
    E2m1Power,
}

impl BlocksKind {
    /// The end of its modules' names.
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Self::WholeHalf => "whole_half",
            Self::WholeHalfHalf => "whole_half_half",
            Self::WholeCodes => "whole_codes",
            Self::WholeCodesCodes => "whole_codes_codes",
            Self::Iq4Half => "table_half",
            Self::Iq4Codes => "table_codes",
            Self::E2m1Power => "table_power",
        }
    }

    /// Whether groups share an f16.
    pub(super) fn shares(self) -> bool {
        matches!(self, Self::WholeCodes | Self::WholeCodesCodes | Self::Iq4Codes)
    }

    /// Whether offsets are whole numbers.
    pub(super) fn has_offset_codes(self) -> bool {
        self == Self::WholeCodesCodes
    }
}

impl Grid {
    pub(super) fn is_blocks(self) -> bool {
        matches!(self, Self::Blocks(_))
    }

    /// Whether groups share parameters.
    pub(super) fn shares(self) -> bool {
        matches!(self, Self::Blocks(blocks) if blocks.kind.shares())
    }

    pub(super) fn args(self) -> KindArgs {
        match self {
            Self::Gptq { top, symmetric, search } => {
                KindArgs { top, symmetric: symmetric.into(), search: search.into(), ..KindArgs::default() }
            }
            Self::Blocks(Blocks { kind: _, low, high, code_low, code_high, offset_high }) => {
                KindArgs { low, high, code_low, code_high, offset_high, ..KindArgs::default() }
            }
        }
    }
}
