//! Packing the types with codebooks: as `pack`, the one place that knows where each bit lies.
//!
//! ```text
//! iq2_xxs  d qs[64]              per 32 elements 8 bytes: 4 indices, then u32: 4 signs of 7 bits, scale at bit 28
//! iq2_xs   d qs[64] scales[8]    u16: index | signs << 9; scales: a nibble per 16 elements
//! iq2_s    d qs[32] signs[32] qh[8] scales[8]
//!                                index: 8 bits in qs, 2 in qh (four groups a byte); scales as iq2_xs
//! iq3_xxs  d qs[64] tails[32]    qs = index; per 32 elements a u32: 4 signs of 7 bits, scale at bit 28
//! iq3_s    d qs[64] qh[8] signs[32] scales[4]
//!                                index: 8 bits in qs, 1 in qh; scales: a nibble per 32 elements
//! iq1_s    d qs[32] qh[16]       index: 8 bits in qs; per 32 elements a u16: 3 bits of each of four indices,
//!                                scale (3 bits) at bit 12, bit 15 = shifted down
//! iq1_m    qs[32] qh[16] scales[8]
//!                                nibble of qh: 3 bits of the index, bit 3 = shifted down; u16 of scales: four
//!                                scales of 3 bits, and at bit 12 four bits of d (f16), lowest first
//! ```

/// Codes and scales of a super-block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grids {
    /// f16.
    pub d: [u8; 2],
    /// 4-bit scales, one per sub-block of 16 or 32.
    pub scales: [u8; 16],
    /// Indices of the points: 32 of eight values, or 64 of four.
    pub index: [u16; 64],
    /// Signs of eight values; the top bit is not stored where signs are even.
    pub signs: [u8; 32],
}

impl Grids {
    pub const ZERO: Self = Self { d: [0; 2], scales: [0; 16], index: [0; 64], signs: [0; 32] };

    /// Seven bits of four signs and a scale.
    fn tail(&self, sub: usize) -> [u8; 4] {
        let signs =
            self.signs[4 * sub..][..4].iter().rev().fold(0, |bits, &s| bits << 7 | u32::from(s & 127));
        (signs | u32::from(self.scales[sub]) << 28).to_le_bytes()
    }

    /// Scales in nibbles.
    fn nibbles(&self, out: &mut [u8]) {
        for (o, pair) in out.iter_mut().zip(self.scales.as_chunks::<2>().0) {
            *o = pair[0] | pair[1] << 4;
        }
    }

    /// The low bytes of the indices.
    fn low(&self, out: &mut [u8]) {
        out.iter_mut().zip(&self.index).for_each(|(o, &index)| *o = index as u8);
    }
}

pub(crate) fn iq2_xxs(g: &Grids, out: &mut [u8]) {
    out[..2].copy_from_slice(&g.d);
    for (sub, out) in out[2..66].as_chunks_mut::<8>().0.iter_mut().enumerate() {
        out[..4].iter_mut().zip(&g.index[4 * sub..]).for_each(|(o, &index)| *o = index as u8);
        out[4..].copy_from_slice(&g.tail(sub));
    }
}

pub(crate) fn iq2_xs(g: &Grids, out: &mut [u8]) {
    out[..2].copy_from_slice(&g.d);
    for (out, (index, signs)) in out[2..66].as_chunks_mut().0.iter_mut().zip(g.index.iter().zip(&g.signs)) {
        *out = (index | u16::from(*signs) << 9).to_le_bytes();
    }
    g.nibbles(&mut out[66..74]);
}

pub(crate) fn iq2_s(g: &Grids, out: &mut [u8]) {
    out[..2].copy_from_slice(&g.d);
    g.low(&mut out[2..34]);
    out[34..66].copy_from_slice(&g.signs);
    for (o, index) in out[66..74].iter_mut().zip(g.index.as_chunks::<4>().0) {
        *o = index.iter().rev().fold(0, |bits, &index| bits << 2 | (index >> 8) as u8);
    }
    g.nibbles(&mut out[74..82]);
}

pub(crate) fn iq3_xxs(g: &Grids, out: &mut [u8]) {
    out[..2].copy_from_slice(&g.d);
    g.low(&mut out[2..66]);
    for (sub, out) in out[66..98].as_chunks_mut::<4>().0.iter_mut().enumerate() {
        *out = g.tail(sub);
    }
}

pub(crate) fn iq3_s(g: &Grids, out: &mut [u8]) {
    out[..2].copy_from_slice(&g.d);
    g.low(&mut out[2..66]);
    for (o, index) in out[66..74].iter_mut().zip(g.index.as_chunks::<8>().0) {
        *o = index.iter().rev().fold(0, |bits, &index| bits << 1 | (index >> 8) as u8);
    }
    out[74..106].copy_from_slice(&g.signs);
    g.nibbles(&mut out[106..110]);
}

/// `scale` has 3 bits, `down` tells which sub-blocks are shifted down.
pub(crate) fn iq1_s(d: [u8; 2], index: &[u16; 32], scale: &[u8; 8], down: &[bool; 8], out: &mut [u8]) {
    out[..2].copy_from_slice(&d);
    for (o, &index) in out[2..34].iter_mut().zip(index) {
        *o = index as u8;
    }
    for (sub, (out, index)) in
        out[34..50].as_chunks_mut().0.iter_mut().zip(index.as_chunks::<4>().0).enumerate()
    {
        let high = index.iter().rev().fold(0, |bits, &index| bits << 3 | index >> 8);
        *out = (high | u16::from(scale[sub]) << 12 | u16::from(down[sub]) << 15).to_le_bytes();
    }
}

/// `scale` has 3 bits, `down` tells which groups of eight are shifted down; `d` is an f16.
pub(crate) fn iq1_m(d: u16, index: &[u16; 32], scale: &[u8; 16], down: &[bool; 32], out: &mut [u8]) {
    for (o, &index) in out[..32].iter_mut().zip(index) {
        *o = index as u8;
    }
    let pairs = index.as_chunks::<2>().0.iter().zip(down.as_chunks::<2>().0);
    for (o, (index, down)) in out[32..48].iter_mut().zip(pairs) {
        let nibble = |i: usize| (index[i] >> 8) as u8 | u8::from(down[i]) << 3;
        *o = nibble(0) | nibble(1) << 4;
    }
    for (i, (out, scale)) in
        out[48..56].as_chunks_mut().0.iter_mut().zip(scale.as_chunks::<4>().0).enumerate()
    {
        let scales = scale.iter().rev().fold(0, |bits, &scale| bits << 3 | u16::from(scale));
        *out = (scales | (d >> (4 * i) & 15) << 12).to_le_bytes();
    }
}
