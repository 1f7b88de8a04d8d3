//! The block types whose grid is fixed once their scales are: what the column loop must know of each.

use quern_tensor_io::ElementType;

use crate::gptq::levels::{E2M1_LEVELS, IQ4_LEVELS, Levels, Whole};

/// How the scale of a group is stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::gptq) enum Scale {
    /// As f16, a group being a block.
    Half,
    /// A whole number from `low` to `high` under an f16 of the block.
    Codes { low: f32, high: f32 },
    /// A power of two (E8M0), a group being a block.
    PowerOfTwo,
}

/// How the offset of a group is stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::gptq) enum Offset {
    /// There is none.
    None,
    /// As f16.
    Half,
    /// Not above 0: a whole number up to `high` under an f16 of the block, negated.
    Codes { high: f32 },
}

/// A block type.
#[derive(Clone, Copy, Debug)]
pub(in crate::gptq) struct Kind {
    pub element_type: ElementType,
    /// Columns of a block.
    pub block: usize,
    /// Columns that share a scale.
    pub group: usize,
    pub levels: Levels,
    /// The lowest level.
    pub low: f32,
    /// The highest level.
    pub high: f32,
    pub scale: Scale,
    pub offset: Offset,
}

impl Kind {
    /// What the column loop must know; `None` for types without a fixed grid.
    pub fn of(element_type: ElementType) -> Option<Self> {
        use ElementType as T;
        let half = (Scale::Half, Offset::None);
        let affine = (Scale::Half, Offset::Half);
        let six_bit = (Scale::Codes { low: 0.0, high: 63.0 }, Offset::Codes { high: 63.0 });
        let signed = (Scale::Codes { low: -32.0, high: 31.0 }, Offset::None);
        let (block, group, (low, high), (scale, offset)) = match element_type {
            T::Q4_0 => (32, 32, (-8.0, 7.0), half),
            T::Q5_0 => (32, 32, (-16.0, 15.0), half),
            T::Q8_0 => (32, 32, (-127.0, 127.0), half),
            T::Q4_1 => (32, 32, (0.0, 15.0), affine),
            T::Q5_1 => (32, 32, (0.0, 31.0), affine),
            T::Q2K => {
                let codes = (Scale::Codes { low: 0.0, high: 15.0 }, Offset::Codes { high: 15.0 });
                (256, 16, (0.0, 3.0), codes)
            }
            T::Q3K => (256, 16, (-4.0, 3.0), signed),
            T::Q4K => (256, 32, (0.0, 15.0), six_bit),
            T::Q5K => (256, 32, (0.0, 31.0), six_bit),
            T::Q6K => {
                let scale = Scale::Codes { low: -128.0, high: 127.0 };
                (256, 16, (-32.0, 31.0), (scale, Offset::None))
            }
            T::TQ1_0 | T::TQ2_0 => (256, 256, (-1.0, 1.0), half),
            T::IQ4NL => (32, 32, (-127.0, 113.0), half),
            T::IQ4XS => (256, 32, (-127.0, 113.0), signed),
            T::MXFP4 => (32, 32, (-12.0, 12.0), (Scale::PowerOfTwo, Offset::None)),
            _ => return None,
        };
        let levels = match element_type {
            T::IQ4NL | T::IQ4XS => Levels::Table(&IQ4_LEVELS),
            T::MXFP4 => Levels::Table(&E2M1_LEVELS),
            _ => Levels::Whole(Whole { span: high - low }),
        };
        Some(Self { element_type, block, group, levels, low, high, scale, offset })
    }

    /// Whether groups of a block share an f16.
    pub fn has_codes(&self) -> bool {
        matches!(self.scale, Scale::Codes { .. })
    }

    /// Groups of a block.
    pub fn groups(&self) -> usize {
        self.block / self.group
    }
}
