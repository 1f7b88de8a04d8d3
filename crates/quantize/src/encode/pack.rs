//! Packing codes and scales into blocks, whose layouts are `quern_tensor_io::layout`'s.
//!
//! Codes come unsigned, one per byte, in element order. "Half" is 128 elements of a 256-value super-block.

use quern_tensor_io::layout::scales::{Scales6, ScalesMinima6};
use quern_tensor_io::layout::{
    Block, F16, IQ4XS, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, TQ1_0, TQ2_0,
};

/// Blocks of 32 codes under a scale: `q4_0`, `q5_0`.
pub(crate) trait Symmetric32: Block {
    /// Half the number of codes.
    const LIMIT: i32;
    /// Packs.
    fn pack(d: F16, codes: &[u8; 32]) -> Self;
}

/// Blocks of 32 codes under a scale and a minimum: `q4_1`, `q5_1`.
pub(crate) trait Affine32: Block {
    /// The largest code.
    const MAX_CODE: i32;
    /// Packs.
    fn pack(d: F16, m: F16, codes: &[u8; 32]) -> Self;
}

impl Symmetric32 for Q4_0 {
    const LIMIT: i32 = 8;

    #[inline(always)]
    fn pack(d: F16, codes: &[u8; 32]) -> Self {
        Self { d, qs: nibbles_32(codes) }
    }
}

impl Symmetric32 for Q5_0 {
    const LIMIT: i32 = 16;

    #[inline(always)]
    fn pack(d: F16, codes: &[u8; 32]) -> Self {
        Self { d, qh: fifth_bits(codes).into(), qs: nibbles_32(codes) }
    }
}

impl Affine32 for Q4_1 {
    const MAX_CODE: i32 = 15;

    #[inline(always)]
    fn pack(d: F16, m: F16, codes: &[u8; 32]) -> Self {
        Self { d, m, qs: nibbles_32(codes) }
    }
}

impl Affine32 for Q5_1 {
    const MAX_CODE: i32 = 31;

    #[inline(always)]
    fn pack(d: F16, m: F16, codes: &[u8; 32]) -> Self {
        Self { d, m, qh: fifth_bits(codes).into(), qs: nibbles_32(codes) }
    }
}

/// Two codes a byte: byte j = element j | element j+16 << 4.
#[inline(always)]
pub(crate) fn nibbles_32(codes: &[u8; 32]) -> [u8; 16] {
    std::array::from_fn(|j| (codes[j] & 15) | codes[j + 16] << 4)
}

/// Bit j = fifth bit of element j.
#[inline(always)]
fn fifth_bits(codes: &[u8; 32]) -> u32 {
    // Eight bytes at a time: the multiplication carries the low bit of byte k to bit 56 + k.
    codes.as_chunks::<8>().0.iter().enumerate().fold(0, |bits, (k, &eight)| {
        let low_bits = (u64::from_le_bytes(eight) >> 4) & 0x0101_0101_0101_0101;
        bits | ((low_bits.wrapping_mul(0x0102_0408_1020_4080) >> 56) as u32) << (8 * k)
    })
}

/// Two bits an element, in strides of 32 within each half.
#[inline(always)]
fn two_bits(codes: &[u8; 256]) -> [u8; 64] {
    let mut out = [0; 64];
    for (half, out) in codes.chunks_exact(128).zip(out.chunks_exact_mut(32)) {
        for (l, o) in out.iter_mut().enumerate() {
            *o = (half[l] & 3) | (half[l + 32] & 3) << 2 | (half[l + 64] & 3) << 4 | half[l + 96] << 6;
        }
    }
    out
}

/// Low nibbles in pairs 32 apart within each 64.
#[inline(always)]
fn nibbles_64(codes: &[u8; 256]) -> [u8; 128] {
    let mut out = [0; 128];
    for (pair, out) in codes.chunks_exact(64).zip(out.chunks_exact_mut(32)) {
        for (l, o) in out.iter_mut().enumerate() {
            *o = (pair[l] & 15) | pair[l + 32] << 4;
        }
    }
    out
}

/// Bit `from` of the codes: bit k of byte l is that of element 32 k + l.
#[inline(always)]
fn single_bits(codes: &[u8; 256], from: u32) -> [u8; 32] {
    std::array::from_fn(|l| (0..8).fold(0, |bits, k| bits | (codes[32 * k + l] >> from & 1) << k))
}

/// `q2_K`: `scales` already hold scale and minimum.
pub(crate) fn q2_k(codes: &[u8; 256], scales: [u8; 16], d: F16, dmin: F16) -> Q2K {
    Q2K { scales, qs: two_bits(codes), d, dmin }
}

/// `q3_K`: scales 0..64 (32 added), codes 0..8 (4 added).
pub(crate) fn q3_k(codes: &[u8; 256], scales: &[u8; 16], d: F16) -> Q3K {
    Q3K { hmask: single_bits(codes, 2), qs: two_bits(codes), scales: Scales6::pack(scales), d }
}

/// `q4_K`.
pub(crate) fn q4_k(codes: &[u8; 256], scales: ScalesMinima6, d: F16, dmin: F16) -> Q4K {
    Q4K { d, dmin, scales, qs: nibbles_64(codes) }
}

/// `q5_K`.
pub(crate) fn q5_k(codes: &[u8; 256], scales: ScalesMinima6, d: F16, dmin: F16) -> Q5K {
    Q5K { d, dmin, scales, qh: single_bits(codes, 4), qs: nibbles_64(codes) }
}

/// `q6_K`: codes 0..64 (32 added).
pub(crate) fn q6_k(codes: &[u8; 256], scales: [i8; 16], d: F16) -> Q6K {
    let (mut low, mut high) = ([0; 128], [0; 64]);
    let halves = low.as_chunks_mut::<64>().0.iter_mut().zip(high.as_chunks_mut::<32>().0);
    for ((ql, qh), codes) in halves.zip(codes.as_chunks::<128>().0) {
        for l in 0..32 {
            ql[l] = (codes[l] & 15) | codes[l + 64] << 4;
            ql[l + 32] = (codes[l + 32] & 15) | codes[l + 96] << 4;
            qh[l] =
                codes[l] >> 4 | codes[l + 32] >> 4 << 2 | codes[l + 64] >> 4 << 4 | codes[l + 96] >> 4 << 6;
        }
    }
    Q6K { ql: low, qh: high, scales, d }
}

/// `iq4_xs`: scales 0..64 (32 added).
pub(crate) fn iq4_xs(codes: &[u8; 256], scales: &[u8; 8], d: F16) -> IQ4XS {
    let mut block = IQ4XS { d, ..IQ4XS::ZERO };
    block.set_scales(scales);
    for (codes, out) in codes.as_chunks::<32>().0.iter().zip(block.qs.as_chunks_mut::<16>().0) {
        *out = nibbles_32(codes);
    }
    block
}

/// `tq2_0`.
#[inline(always)]
pub(crate) fn tq2_0(codes: &[u8; 256], d: F16) -> TQ2_0 {
    TQ2_0 { qs: two_bits(codes), d }
}

/// Base-3 digits to a byte read back by repeated multiplication with 3: ceil(value * 256 / 243).
#[inline(always)]
fn trit_byte(value: u8) -> u8 {
    (u16::from(value) * 256).div_ceil(243) as u8
}

/// `tq1_0`: trits 0, 1, 2; in the last bytes, which hold four, the fifth is 0. The first is most significant.
#[inline(always)]
pub(crate) fn tq1_0(codes: &[u8; 256], d: F16) -> TQ1_0 {
    let digits = |start: usize, stride: usize, count: usize| {
        (0..count).fold(0u8, |q, n| q.wrapping_mul(3).wrapping_add(codes[start + n * stride]))
    };
    let mut block = TQ1_0 { d, ..TQ1_0::ZERO };
    for (m, o) in block.qs[..32].iter_mut().enumerate() {
        *o = trit_byte(digits(m, 32, 5));
    }
    for (m, o) in block.qs[32..].iter_mut().enumerate() {
        *o = trit_byte(digits(160 + m, 16, 5));
    }
    for (m, o) in block.qh.iter_mut().enumerate() {
        *o = trit_byte(digits(240 + m, 4, 4).wrapping_mul(3));
    }
    block
}
