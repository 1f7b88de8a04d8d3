//! Blocks of 256: eight groups of 32 values, each under two scales (equal ones where a scale covers 32).

use std::arch::x86_64::*;

use super::{avx2, half, iq4, load32, nibbles, pairs, total};
use crate::activations::Row;

/// A block's 16 scales and 16 minima, one for each 16 values.
type Scales = ([i16; 16], [i16; 16]);

avx2! {
    /// Bits `2 k` and `2 k + 1` of 32 bytes.
    #[inline]
    fn two_bits(x: __m256i, k: usize) -> __m256i {
        let x = _mm256_srl_epi16(x, _mm_cvtsi32_si128(2 * k as i32));
        _mm256_and_si256(x, _mm256_set1_epi8(3))
    }

    /// Bit `k` of 32 bytes, as `1 << to`.
    #[inline]
    fn one_bit(x: __m256i, k: usize, to: i32) -> __m256i {
        let x = _mm256_srl_epi16(x, _mm_cvtsi32_si128(k as i32));
        let x = _mm256_and_si256(x, _mm256_set1_epi8(1));
        _mm256_sll_epi16(x, _mm_cvtsi32_si128(to))
    }

    /// Values 32 g .. of four-bit codes, 64 values in 32 bytes.
    #[inline]
    unsafe fn nibble_group(p: *const u8, g: usize) -> __m256i {
        // SAFETY: the caller's 128 bytes.
        let x = unsafe { load32(p.add(g / 2 * 32)) };
        let x = if g.is_multiple_of(2) { x } else { _mm256_srli_epi16::<4>(x) };
        _mm256_and_si256(x, _mm256_set1_epi8(15))
    }

    #[inline]
    fn six_bits(s: &[u8]) -> Scales {
        let (mut scales, mut minima) = ([0; 16], [0; 16]);
        for j in 0..8 {
            let (scale, min) = if j < 4 {
                (s[j] & 63, s[j + 4] & 63)
            } else {
                (s[j + 4] & 15 | s[j - 4] >> 6 << 4, s[j + 4] >> 4 | s[j] >> 6 << 4)
            };
            scales[2 * j..2 * j + 2].fill(scale.into());
            minima[2 * j..2 * j + 2].fill(min.into());
        }
        (scales, minima)
    }

    #[inline]
    fn q4_k_scales(b: &[u8; 144]) -> Scales {
        six_bits(&b[4..16])
    }

    #[inline]
    unsafe fn q4_k_values(b: *const u8, g: usize) -> __m256i {
        // SAFETY: within the block's 144 bytes.
        unsafe { nibble_group(b.add(16), g) }
    }

    #[inline]
    fn q5_k_scales(b: &[u8; 176]) -> Scales {
        six_bits(&b[4..16])
    }

    #[inline]
    unsafe fn q5_k_values(b: *const u8, g: usize) -> __m256i {
        // SAFETY: within the block's 176 bytes.
        unsafe { _mm256_or_si256(nibble_group(b.add(48), g), one_bit(load32(b.add(16)), g, 4)) }
    }

    #[inline]
    fn q6_k_scales(b: &[u8; 210]) -> Scales {
        (std::array::from_fn(|j| (b[192 + j] as i8).into()), [0; 16])
    }

    #[inline]
    unsafe fn q6_k_values(b: *const u8, g: usize) -> __m256i {
        // SAFETY: within the block's 210 bytes.
        unsafe {
            let (half, k) = (g / 4, g % 4);
            let low = load32(b.add(64 * half + 32 * (k % 2)));
            let low = if k < 2 { low } else { _mm256_srli_epi16::<4>(low) };
            let low = _mm256_and_si256(low, _mm256_set1_epi8(15));
            let high = two_bits(load32(b.add(128 + 32 * half)), k);
            _mm256_sub_epi8(_mm256_or_si256(low, _mm256_slli_epi16::<4>(high)), _mm256_set1_epi8(32))
        }
    }

    #[inline]
    fn q3_k_scales(b: &[u8; 110]) -> Scales {
        let s = &b[96..108];
        let scale = |j: usize| {
            let low = s[j % 8] >> (j / 8 * 4) & 15;
            let high = s[8 + j % 4] >> (j / 4 * 2) & 3;
            i16::from(low | high << 4) - 32
        };
        (std::array::from_fn(scale), [0; 16])
    }

    #[inline]
    unsafe fn q3_k_values(b: *const u8, g: usize) -> __m256i {
        // SAFETY: within the block's 110 bytes.
        unsafe {
            let low = two_bits(load32(b.add(32 + g / 4 * 32)), g % 4);
            let codes = _mm256_or_si256(low, one_bit(load32(b), g, 2));
            _mm256_sub_epi8(codes, _mm256_set1_epi8(4))
        }
    }

    #[inline]
    fn q2_k_scales(b: &[u8; 84]) -> Scales {
        (std::array::from_fn(|j| (b[j] & 15).into()), std::array::from_fn(|j| (b[j] >> 4).into()))
    }

    #[inline]
    unsafe fn q2_k_values(b: *const u8, g: usize) -> __m256i {
        // SAFETY: within the block's 84 bytes.
        two_bits(unsafe { load32(b.add(16 + g / 4 * 32)) }, g % 4)
    }

    #[inline]
    fn iq4_xs_scales(b: &[u8; 136]) -> Scales {
        let high = u16::from_le_bytes([b[2], b[3]]);
        let scale = |j: usize| {
            let j = j / 2;
            i16::from(b[4 + j / 2] >> (j % 2 * 4) & 15) + (high >> (2 * j) & 3) as i16 * 16 - 32
        };
        (std::array::from_fn(scale), [0; 16])
    }

    #[inline]
    unsafe fn iq4_xs_values(b: *const u8, g: usize) -> __m256i {
        // SAFETY: within the block's 136 bytes.
        iq4(unsafe { nibbles(b.add(8 + 16 * g)) })
    }

    #[inline]
    fn tq1_0_scales(_: &[u8; 54]) -> Scales {
        ([1; 16], [0; 16])
    }

    #[inline]
    unsafe fn tq1_0_values(b: *const u8, g: usize) -> __m256i {
        // SAFETY: the block's 54 bytes.
        let b = unsafe { std::slice::from_raw_parts(b, 54) };
        let trit = |byte: u8, power: u8| ((u16::from(byte.wrapping_mul(power)) * 3) >> 8) as u8;
        const POWERS: [u8; 5] = [1, 3, 9, 27, 81];
        let mut codes = [0u8; 32];
        for (i, code) in codes.iter_mut().enumerate() {
            *code = match 32 * g + i {
                i @ 0..160 => trit(b[i % 32], POWERS[i / 32]),
                i @ 160..240 => trit(b[32 + (i - 160) % 16], POWERS[(i - 160) / 16]),
                i => trit(b[48 + (i - 240) % 4], POWERS[(i - 240) / 4]),
            };
        }
        // SAFETY: 32 bytes.
        _mm256_sub_epi8(unsafe { load32(codes.as_ptr()) }, _mm256_set1_epi8(1))
    }

    #[inline]
    fn tq2_0_scales(_: &[u8; 66]) -> Scales {
        ([1; 16], [0; 16])
    }

    #[inline]
    unsafe fn tq2_0_values(b: *const u8, g: usize) -> __m256i {
        // SAFETY: within the block's 66 bytes.
        let codes = two_bits(unsafe { load32(b.add(g / 4 * 32)) }, g % 4);
        _mm256_sub_epi8(codes, _mm256_set1_epi8(1))
    }
}

macro_rules! rows {
    ($($name:ident: $values:ident, $scales:ident, $bytes:literal bytes, d at $d:literal, minima $min:literal;)*) => { avx2! { $(
        /// `y[r]` = weight row r times the activations.
        pub(super) fn $name(weights: &[u8], x: Row, y: &mut [f32]) {
            let blocks = x.d.len();
            assert_eq!(weights.len(), y.len() * blocks * $bytes);
            assert!(x.codes.len() == blocks * 256 && x.sums.len() == blocks * 16);
            for (row, y) in weights.chunks_exact((blocks * $bytes).max(1)).zip(y) {
                let (mut sum, mut minima) = (_mm256_setzero_ps(), _mm256_setzero_ps());
                for (i, (block, &xd)) in row.as_chunks::<$bytes>().0.iter().zip(x.d).enumerate() {
                    let (scales, mins) = $scales(block);
                    let mut acc = _mm256_setzero_si256();
                    // SAFETY: a whole block, and block i of codes and sums, whose lengths are checked above.
                    unsafe {
                        let b = block.as_ptr();
                        for g in 0..8 {
                            let c = load32(x.codes.as_ptr().add(i * 256 + 32 * g).cast());
                            let v = $values(b, g);
                            // Values that are never negative need no sign.
                            let p = if $min { _mm256_maddubs_epi16(v, c) } else { pairs(v, c) };
                            let (low, high) = (scales[2 * g], scales[2 * g + 1]);
                            let scale = _mm256_set_m128i(_mm_set1_epi16(high), _mm_set1_epi16(low));
                            acc = _mm256_add_epi32(acc, _mm256_madd_epi16(p, scale));
                        }
                        let d = _mm256_set1_ps(half(b.add($d)) * xd);
                        sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(acc), d, sum);
                        if $min {
                            let s = load32(x.sums.as_ptr().add(i * 16).cast());
                            let m = _mm256_madd_epi16(load32(mins.as_ptr().cast()), s);
                            let dmin = _mm256_set1_ps(half(b.add($d + 2)) * xd);
                            minima = _mm256_fmadd_ps(_mm256_cvtepi32_ps(m), dmin, minima);
                        }
                    }
                }
                *y = total(_mm256_sub_ps(sum, minima));
            }
        }
    )* } };
}

rows! {
    q2_k: q2_k_values, q2_k_scales, 84 bytes, d at 80, minima true;
    q3_k: q3_k_values, q3_k_scales, 110 bytes, d at 108, minima false;
    q4_k: q4_k_values, q4_k_scales, 144 bytes, d at 0, minima true;
    q5_k: q5_k_values, q5_k_scales, 176 bytes, d at 0, minima true;
    q6_k: q6_k_values, q6_k_scales, 210 bytes, d at 208, minima false;
    iq4_xs: iq4_xs_values, iq4_xs_scales, 136 bytes, d at 0, minima false;
    tq1_0: tq1_0_values, tq1_0_scales, 54 bytes, d at 52, minima false;
    tq2_0: tq2_0_values, tq2_0_scales, 66 bytes, d at 64, minima false;
}
