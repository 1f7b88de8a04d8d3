//! Packing codes and scales into block bytes: the one place that knows where each bit lies.
//!
//! Codes come unsigned, one per byte, in element order. "Half" is 128 elements of a 256-value super-block;
//! `d`, `dmin`, `m` are f16. Layouts (bytes in order):
//!
//! ```text
//! q4_0    d qs[16]               qs[j] = elements j | j+16 << 4
//! q4_1    d m qs[16]             as q4_0
//! q5_0    d qh[4] qs[16]         qs as q4_0; bit j of qh (u32) = fifth bit of element j
//! q5_1    d m qh[4] qs[16]
//! q2_K    scales[16] qs[64] d dmin
//!                                scales[j] = scale | min << 4; per half, byte l of 32 holds two bits each of
//!                                elements l, l+32, l+64, l+96
//! q3_K    hmask[32] qs[64] scales[12] d
//!                                bit j/32 of hmask[j%32] = third bit of element j; qs as q2_K; scale j (6 bits):
//!                                low four in byte j%8 (nibble j/8), top two in byte 8+j%4 at bit 2*(j/4)
//! q4_K    d dmin scales[12] qs[128]
//!                                per 64 elements 32 bytes: element l | l+32 << 4; scales see `six_bit_pairs`
//! q5_K    d dmin scales[12] qh[32] qs[128]
//!                                qs as q4_K; qh[l] bit 2k = element 64k+l, bit 2k+1 = element 64k+32+l
//! q6_K    ql[128] qh[64] scales[16] d
//!                                per half: ql[l] = l | l+64 << 4, ql[l+32] = l+32 | l+96 << 4 (low nibbles),
//!                                qh[l] = top two bits of l, l+32, l+64, l+96
//! iq4_xs  d scales_h[2] scales_l[4] qs[128]
//!                                scale j (6 bits): low nibble in nibble j%2 of scales_l[j/2], top two at bit 2j
//!                                of scales_h (u16); per 32 elements 16 bytes as q4_0
//! tq1_0   qs[48] qh[4] d         five trits a byte, see `trits`
//! tq2_0   qs[64] d               qs as q2_K
//! ```

/// Two codes a byte: `out[j]` = element j | element j+16 << 4.
#[inline(always)]
pub(crate) fn nibbles_32(codes: &[u8; 32], out: &mut [u8]) {
    let (low, high) = codes.split_at(16);
    for ((o, &l), &h) in out.iter_mut().zip(low).zip(high) {
        *o = (l & 15) | (h << 4);
    }
}

/// Bit j = fifth bit of element j.
#[inline(always)]
pub(crate) fn fifth_bits(codes: &[u8; 32]) -> u32 {
    // Eight bytes at a time: the multiplication carries the low bit of byte k to bit 56 + k.
    codes.as_chunks::<8>().0.iter().enumerate().fold(0, |bits, (k, &eight)| {
        let low_bits = (u64::from_le_bytes(eight) >> 4) & 0x0101_0101_0101_0101;
        bits | ((low_bits.wrapping_mul(0x0102_0408_1020_4080) >> 56) as u32) << (8 * k)
    })
}

/// Two bits an element, in strides of 32 within each half.
#[inline(always)]
pub(crate) fn two_bits(codes: &[u8; 256], out: &mut [u8]) {
    for (half, out) in codes.chunks_exact(128).zip(out.chunks_exact_mut(32)) {
        for (l, o) in out.iter_mut().enumerate() {
            *o = (half[l] & 3) | (half[l + 32] & 3) << 2 | (half[l + 64] & 3) << 4 | half[l + 96] << 6;
        }
    }
}

/// Low nibbles in pairs 32 apart within each 64.
#[inline(always)]
pub(crate) fn nibbles_64(codes: &[u8; 256], out: &mut [u8]) {
    for (pair, out) in codes.chunks_exact(64).zip(out.chunks_exact_mut(32)) {
        for (l, o) in out.iter_mut().enumerate() {
            *o = (pair[l] & 15) | pair[l + 32] << 4;
        }
    }
}

/// Eight 6-bit scales and minima in 12 bytes: pairs 0..4 whole in the low six bits of bytes j and j+4;
/// pairs 4..8 have their low nibbles in byte j+4 and their top two bits above those of bytes j-4 and j.
pub(crate) fn six_bit_pairs(scales: &[u8; 8], mins: &[u8; 8]) -> [u8; 12] {
    let mut out = [0; 12];
    for j in 0..4 {
        out[j] = scales[j] | (scales[j + 4] >> 4) << 6;
        out[j + 4] = mins[j] | (mins[j + 4] >> 4) << 6;
        out[j + 8] = (scales[j + 4] & 15) | mins[j + 4] << 4;
    }
    out
}

/// `q2_K`: `scales` already hold scale and minimum.
pub(crate) fn q2_k(codes: &[u8; 256], scales: &[u8; 16], d: [u8; 2], dmin: [u8; 2], out: &mut [u8]) {
    out[..16].copy_from_slice(scales);
    two_bits(codes, &mut out[16..80]);
    out[80..82].copy_from_slice(&d);
    out[82..84].copy_from_slice(&dmin);
}

/// `q3_K`: scales 0..64 (32 added), codes 0..8 (4 added).
pub(crate) fn q3_k(codes: &[u8; 256], scales: &[u8; 16], d: [u8; 2], out: &mut [u8]) {
    let (hmask, rest) = out.split_at_mut(32);
    for (l, h) in hmask.iter_mut().enumerate() {
        *h = (0..8).fold(0, |bits, k| bits | (codes[32 * k + l] >> 2 & 1) << k);
    }
    two_bits(codes, &mut rest[..64]);
    for j in 0..8 {
        rest[64 + j] = (scales[j] & 15) | scales[j + 8] << 4;
    }
    for j in 0..4 {
        rest[72 + j] = (0..4).fold(0, |bits, k| bits | (scales[4 * k + j] >> 4 & 3) << (2 * k));
    }
    rest[76..78].copy_from_slice(&d);
}

/// `q4_K`.
pub(crate) fn q4_k(codes: &[u8; 256], scales: &[u8; 12], d: [u8; 2], dmin: [u8; 2], out: &mut [u8]) {
    out[..2].copy_from_slice(&d);
    out[2..4].copy_from_slice(&dmin);
    out[4..16].copy_from_slice(scales);
    nibbles_64(codes, &mut out[16..144]);
}

/// `q5_K`.
pub(crate) fn q5_k(codes: &[u8; 256], scales: &[u8; 12], d: [u8; 2], dmin: [u8; 2], out: &mut [u8]) {
    out[..2].copy_from_slice(&d);
    out[2..4].copy_from_slice(&dmin);
    out[4..16].copy_from_slice(scales);
    for (l, o) in out[16..48].iter_mut().enumerate() {
        *o = (0..8).fold(0, |bits, k| bits | (codes[32 * k + l] >> 4 & 1) << k);
    }
    nibbles_64(codes, &mut out[48..176]);
}

/// `q6_K`: codes 0..64 (32 added), scales signed bytes.
pub(crate) fn q6_k(codes: &[u8; 256], scales: &[u8; 16], d: [u8; 2], out: &mut [u8]) {
    for (half, codes) in codes.chunks_exact(128).enumerate() {
        let (ql, qh) = out.split_at_mut(128);
        let (ql, qh) = (&mut ql[64 * half..][..64], &mut qh[32 * half..][..32]);
        for l in 0..32 {
            ql[l] = (codes[l] & 15) | codes[l + 64] << 4;
            ql[l + 32] = (codes[l + 32] & 15) | codes[l + 96] << 4;
            qh[l] =
                codes[l] >> 4 | codes[l + 32] >> 4 << 2 | codes[l + 64] >> 4 << 4 | codes[l + 96] >> 4 << 6;
        }
    }
    out[192..208].copy_from_slice(scales);
    out[208..210].copy_from_slice(&d);
}

/// `iq4_xs`: scales 0..64 (32 added).
pub(crate) fn iq4_xs(codes: &[u8; 256], scales: &[u8; 8], d: [u8; 2], out: &mut [u8]) {
    out[..2].copy_from_slice(&d);
    let high = scales.iter().enumerate().fold(0u16, |bits, (j, &s)| bits | u16::from(s >> 4) << (2 * j));
    out[2..4].copy_from_slice(&high.to_le_bytes());
    for (o, pair) in out[4..8].iter_mut().zip(scales.chunks_exact(2)) {
        *o = (pair[0] & 15) | pair[1] << 4;
    }
    for (codes, out) in codes.as_chunks::<32>().0.iter().zip(out[8..136].chunks_exact_mut(16)) {
        nibbles_32(codes, out);
    }
}

/// Base-3 digits to a byte read back by repeated multiplication with 3: ceil(value * 256 / 243).
#[inline(always)]
fn trit_byte(value: u8) -> u8 {
    (u16::from(value) * 256).div_ceil(243) as u8
}

/// Trits (0, 1, 2) of a super-block: elements 0..160 five to a byte in strides of 32, 160..240 five to a byte
/// in strides of 16, the last 16 four to a byte in strides of 4 (fifth trit 0). The first is most significant.
#[inline(always)]
pub(crate) fn trits(codes: &[u8; 256], out: &mut [u8]) {
    let digits = |start: usize, stride: usize, count: usize| {
        (0..count).fold(0u8, |q, n| q.wrapping_mul(3).wrapping_add(codes[start + n * stride]))
    };
    for (m, o) in out[..32].iter_mut().enumerate() {
        *o = trit_byte(digits(m, 32, 5));
    }
    for (m, o) in out[32..48].iter_mut().enumerate() {
        *o = trit_byte(digits(160 + m, 16, 5));
    }
    for (m, o) in out[48..52].iter_mut().enumerate() {
        *o = trit_byte(digits(240 + m, 4, 4).wrapping_mul(3));
    }
}
