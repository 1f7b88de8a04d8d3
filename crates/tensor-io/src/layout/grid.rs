//! Blocks of 256 values that are points of a grid (`decode::grid`): groups of eight values, or of four in iq3.
//!
//! ```text
//! signs (iq2, iq3)   a byte of a group of eight: bit j set = value j is negative; where only seven bits are stored,
//!                    `decode::grid::SIGNS` has the eighth
//! iq1                all values of a point are shifted up or down by 1/8
//! ```

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{F16, U16, U32, layouts};

/// What belongs to 32 values of iq2_xxs and iq3_xxs: four fields of seven bits of signs, above them a scale of four
/// bits.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(transparent)]
pub struct Tail(pub U32);

impl Tail {
    /// From four signs, of which seven bits are stored, and a scale of four bits.
    #[inline]
    pub fn new(signs: [u8; 4], scale: u8) -> Self {
        let signs = signs.iter().rev().fold(0, |bits, &s| bits << 7 | u32::from(s & 127));
        Self((signs | u32::from(scale) << 28).into())
    }

    /// The seven bits of the signs of group `l` of eight values, below 4.
    #[inline(always)]
    pub fn signs(self, l: usize) -> usize {
        (self.0.get() >> (7 * l) & 127) as usize
    }

    /// The scale.
    #[inline(always)]
    pub fn scale(self) -> u8 {
        (self.0.get() >> 28) as u8
    }
}

/// 32 values of iq2_xxs.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct IndicesTail {
    /// Indices of four groups of eight values.
    pub index: [u8; 4],
    /// Signs and scale.
    pub tail: Tail,
}

/// Nibble `j` of bytes, the low nibble of each first: scales of four bits.
#[inline(always)]
pub fn nibble(bytes: &[u8], j: usize) -> u8 {
    bytes[j / 2] >> (j % 2 * 4) & 15
}

layouts! {
    /// `± (d (1/2 + scale) / 4) grid`.
    IQ2XXS {
        /// Scale of the scales.
        d: F16,
        /// Eight times 32 values.
        qs: [IndicesTail; 8],
    }

    /// `± (d (1/2 + scale) / 4) grid`.
    IQ2XS {
        /// Scale of the scales.
        d: F16,
        /// A group of eight values each: index in the low 9 bits, signs in the top 7.
        qs: [U16; 32],
        /// A nibble for 16 values, the low one first.
        scales: [u8; 8],
    }

    /// `± (d (1/2 + scale) / 4) grid`.
    IQ2S {
        /// Scale of the scales.
        d: F16,
        /// The low 8 bits of the index of each group of eight values.
        qs: [u8; 32],
        /// Its signs.
        signs: [u8; 32],
        /// The upper 2 bits of the indices, lowest first: a byte for 32 values.
        qh: [u8; 8],
        /// A nibble for 16 values, the low one first.
        scales: [u8; 8],
    }

    /// `± (d (1/2 + scale) / 2) grid`.
    IQ3XXS {
        /// Scale of the scales.
        d: F16,
        /// The index of each group of four values.
        qs: [u8; 64],
        /// Signs and scale of each 32 values.
        tails: [Tail; 8],
    }

    /// `± (d (1 + 2 scale)) grid`.
    IQ3S {
        /// Scale of the scales.
        d: F16,
        /// The low 8 bits of the index of each group of four values.
        qs: [u8; 64],
        /// The upper bit of the indices: bit k % 8 of byte k / 8.
        qh: [u8; 8],
        /// Signs of each eight values.
        signs: [u8; 32],
        /// A nibble for 32 values, the low one first.
        scales: [u8; 4],
    }

    /// `(d (2 scale + 1)) (grid ± 1/8)`, a scale and a shift for 32 values.
    IQ1S {
        /// Scale of the scales.
        d: F16,
        /// The low 8 bits of the index of each group of eight values.
        qs: [u8; 32],
        /// For 32 values: the upper 3 bits of four indices, lowest first; the scale from bit 12 on; bit 15 shifts
        /// down.
        qh: [U16; 8],
    }

    /// `(d (2 scale + 1)) (grid ± 1/8)`, a scale for 16 values, a shift for eight.
    IQ1M {
        /// The low 8 bits of the index of each group of eight values.
        qs: [u8; 32],
        /// A nibble for a group, the low one first: the upper 3 bits of the index; bit 3 shifts down.
        qh: [u8; 16],
        /// Four scales of 3 bits each, lowest first; above them four bits of `d`, an f16, its lowest bits in the first
        /// word.
        scales: [U16; 4],
    }
}

impl IQ1S {
    /// The scale of 32 values.
    #[inline(always)]
    pub fn scale(&self, sub: usize) -> u8 {
        (self.qh[sub].get() >> 12 & 7) as u8
    }
}

impl IQ1M {
    /// The scale of 16 values.
    #[inline(always)]
    pub fn scale(&self, sub: usize) -> u8 {
        (self.scales[sub / 4].get() >> (sub % 4 * 3) & 7) as u8
    }

    /// The scale of the scales.
    #[inline(always)]
    pub fn d(&self) -> F16 {
        F16::from_bits(self.scales.iter().rev().fold(0, |bits, word| bits << 4 | word.get() >> 12))
    }

    /// Stores scales below 8, and the scale of the scales.
    #[inline]
    pub fn set_scales(&mut self, scales: &[u8; 16], d: F16) {
        for (i, (word, scales)) in self.scales.iter_mut().zip(scales.as_chunks::<4>().0).enumerate() {
            let bits = scales.iter().rev().fold(0, |bits, &scale| bits << 3 | u16::from(scale));
            *word = (bits | (d.bits() >> (4 * i) & 15) << 12).into();
        }
    }
}
