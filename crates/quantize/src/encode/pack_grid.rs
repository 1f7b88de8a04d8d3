//! Packing the types with codebooks: as `pack`.

use quern_tensor_io::layout::grid::{IndicesTail, Tail};
use quern_tensor_io::layout::{Block, F16, IQ1M, IQ1S, IQ2S, IQ2XS, IQ2XXS, IQ3S, IQ3XXS};

/// Codes and scales of a super-block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grids {
    /// Scale of the scales.
    pub d: F16,
    /// 4-bit scales, one per sub-block of 16 or 32.
    pub scales: [u8; 16],
    /// Indices of the points: 32 of eight values, or 64 of four.
    pub index: [u16; 64],
    /// Signs of eight values; the top bit is not stored where signs are even.
    pub signs: [u8; 32],
}

impl Grids {
    pub const ZERO: Self = Self { d: F16::ZERO, scales: [0; 16], index: [0; 64], signs: [0; 32] };

    /// Four signs and a scale.
    fn tail(&self, sub: usize) -> Tail {
        Tail::new(self.signs.as_chunks().0[sub], self.scales[sub])
    }

    /// Scales in nibbles.
    fn nibbles<const N: usize>(&self) -> [u8; N] {
        std::array::from_fn(|i| self.scales[2 * i] | self.scales[2 * i + 1] << 4)
    }

    /// The low bytes of the indices.
    fn low<const N: usize>(&self) -> [u8; N] {
        std::array::from_fn(|i| self.index[i] as u8)
    }

    /// The upper bits of the indices, `N` indices a byte.
    fn high<const N: usize>(&self) -> [u8; 8] {
        std::array::from_fn(|i| {
            let index = &self.index.as_chunks::<N>().0[i];
            index.iter().rev().fold(0, |bits, &index| bits << (8 / N) | (index >> 8) as u8)
        })
    }
}

pub(crate) fn iq2_xxs(g: &Grids) -> IQ2XXS {
    let part = |sub: usize| IndicesTail {
        index: std::array::from_fn(|l| g.index[4 * sub + l] as u8),
        tail: g.tail(sub),
    };
    IQ2XXS { d: g.d, qs: std::array::from_fn(part) }
}

pub(crate) fn iq2_xs(g: &Grids) -> IQ2XS {
    let qs = std::array::from_fn(|l| (g.index[l] | u16::from(g.signs[l]) << 9).into());
    IQ2XS { d: g.d, qs, scales: g.nibbles() }
}

pub(crate) fn iq2_s(g: &Grids) -> IQ2S {
    IQ2S { d: g.d, qs: g.low(), signs: g.signs, qh: g.high::<4>(), scales: g.nibbles() }
}

pub(crate) fn iq3_xxs(g: &Grids) -> IQ3XXS {
    IQ3XXS { d: g.d, qs: g.low(), tails: std::array::from_fn(|sub| g.tail(sub)) }
}

pub(crate) fn iq3_s(g: &Grids) -> IQ3S {
    IQ3S { d: g.d, qs: g.low(), qh: g.high::<8>(), signs: g.signs, scales: g.nibbles() }
}

/// `scale` has 3 bits; `down` has the sub-blocks that are shifted down.
pub(crate) fn iq1_s(d: F16, index: &[u16; 32], scale: &[u8; 8], down: &[bool; 8]) -> IQ1S {
    let high = |sub: usize| {
        let index = &index.as_chunks::<4>().0[sub];
        let high = index.iter().rev().fold(0, |bits, &index| bits << 3 | index >> 8);
        (high | u16::from(scale[sub]) << 12 | u16::from(down[sub]) << 15).into()
    };
    IQ1S { d, qs: index.map(|index| index as u8), qh: std::array::from_fn(high) }
}

/// `scale` has 3 bits; `down` has the groups of eight that are shifted down.
pub(crate) fn iq1_m(d: F16, index: &[u16; 32], scale: &[u8; 16], down: &[bool; 32]) -> IQ1M {
    let nibble = |l: usize| (index[l] >> 8) as u8 | u8::from(down[l]) << 3;
    let qh = std::array::from_fn(|i| nibble(2 * i) | nibble(2 * i + 1) << 4);
    let mut block = IQ1M { qs: index.map(|index| index as u8), qh, ..IQ1M::ZERO };
    block.set_scales(scale, d);
    block
}
