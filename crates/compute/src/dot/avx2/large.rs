//! Blocks of 256: eight groups of 32 values, each under two scales (equal ones where a scale covers 32).

use std::arch::x86_64::*;

use quern_tensor_io::layout::scales::ScalesMinima6;
use quern_tensor_io::layout::{self, IQ4XS, Q2K, Q3K, Q4K, Q5K, Q6K, TQ1_0, TQ2_0};

use super::{avx2, half, iq4, load32, nibbles, pairs, total};
use crate::activations::Row;

/// A block's 16 scales and 16 minima, one for each 16 values.
type Scales = ([i16; 16], [i16; 16]);

// What gives values takes the group of 32 values it gives: `g`, below 8.
avx2! {
    /// Bits `2 k` and `2 k + 1` of 32 bytes.
    #[inline]
    fn two_bits(x: __m256i, k: usize) -> __m256i {
        let x = _mm256_srl_epi16(x, _mm_cvtsi32_si128(2 * k as i32));
        _mm256_and_si256(x, _mm256_set1_epi8(3))
    }

    /// Bit `k` of 32 bytes, as `1 << to`.
    #[inline]
    fn one_bit(x: &[u8; 32], k: usize, to: i32) -> __m256i {
        // SAFETY: 32 bytes.
        let x = _mm256_srl_epi16(unsafe { load32(x.as_ptr()) }, _mm_cvtsi32_si128(k as i32));
        let x = _mm256_and_si256(x, _mm256_set1_epi8(1));
        _mm256_sll_epi16(x, _mm_cvtsi32_si128(to))
    }

    /// Values 32 g .. of four-bit codes, 64 values in 32 bytes.
    ///
    /// # Safety
    /// `g` is below 8.
    #[inline]
    unsafe fn nibble_group(qs: &[u8; 128], g: usize) -> __m256i {
        // SAFETY: within the 128 bytes.
        let x = unsafe { load32(qs.as_ptr().add(g / 2 * 32)) };
        let x = if g.is_multiple_of(2) { x } else { _mm256_srli_epi16::<4>(x) };
        _mm256_and_si256(x, _mm256_set1_epi8(15))
    }

    /// Values of products that are never negative need no sign.
    #[inline]
    fn unsigned_pairs(v: __m256i, c: __m256i) -> __m256i {
        _mm256_maddubs_epi16(v, c)
    }

    #[inline]
    fn six_bits(packed: &ScalesMinima6) -> Scales {
        let (scales, minima) = packed.unpack();
        (std::array::from_fn(|j| scales[j / 2].into()), std::array::from_fn(|j| minima[j / 2].into()))
    }

    #[inline]
    fn q4_k_scales(b: &Q4K) -> Scales {
        six_bits(&b.scales)
    }

    #[inline]
    unsafe fn q4_k_values(b: &Q4K, g: usize) -> __m256i {
        // SAFETY: a group of the block.
        unsafe { nibble_group(&b.qs, g) }
    }

    #[inline]
    fn q5_k_scales(b: &Q5K) -> Scales {
        six_bits(&b.scales)
    }

    #[inline]
    unsafe fn q5_k_values(b: &Q5K, g: usize) -> __m256i {
        // SAFETY: a group of the block.
        _mm256_or_si256(unsafe { nibble_group(&b.qs, g) }, one_bit(&b.qh, g, 4))
    }

    #[inline]
    fn q6_k_scales(b: &Q6K) -> Scales {
        (b.scales.map(i16::from), [0; 16])
    }

    #[inline]
    unsafe fn q6_k_values(b: &Q6K, g: usize) -> __m256i {
        let (half, k) = (g / 4, g % 4);
        // SAFETY: within the block's 128 and 64 bytes.
        let (low, high) = unsafe {
            (load32(b.ql.as_ptr().add(64 * half + 32 * (k % 2))), load32(b.qh.as_ptr().add(32 * half)))
        };
        let low = if k < 2 { low } else { _mm256_srli_epi16::<4>(low) };
        let low = _mm256_and_si256(low, _mm256_set1_epi8(15));
        let high = _mm256_slli_epi16::<4>(two_bits(high, k));
        _mm256_sub_epi8(_mm256_or_si256(low, high), _mm256_set1_epi8(32))
    }

    #[inline]
    fn q3_k_scales(b: &Q3K) -> Scales {
        (b.scales.unpack().map(i16::from), [0; 16])
    }

    #[inline]
    unsafe fn q3_k_values(b: &Q3K, g: usize) -> __m256i {
        // SAFETY: within the block's 64 bytes of codes.
        let low = two_bits(unsafe { load32(b.qs.as_ptr().add(g / 4 * 32)) }, g % 4);
        _mm256_sub_epi8(_mm256_or_si256(low, one_bit(&b.hmask, g, 2)), _mm256_set1_epi8(4))
    }

    #[inline]
    fn q2_k_scales(b: &Q2K) -> Scales {
        (b.scales.map(|s| (s & 15).into()), b.scales.map(|s| (s >> 4).into()))
    }

    #[inline]
    unsafe fn q2_k_values(b: &Q2K, g: usize) -> __m256i {
        // SAFETY: within the block's 64 bytes of codes.
        two_bits(unsafe { load32(b.qs.as_ptr().add(g / 4 * 32)) }, g % 4)
    }

    #[inline]
    fn iq4_xs_scales(b: &IQ4XS) -> Scales {
        let scales = b.scales();
        (std::array::from_fn(|j| scales[j / 2].into()), [0; 16])
    }

    #[inline]
    fn iq4_xs_values(b: &IQ4XS, g: usize) -> __m256i {
        iq4(nibbles(&b.qs.as_chunks().0[g]))
    }

    #[inline]
    fn tq1_0_scales(_: &TQ1_0) -> Scales {
        ([1; 16], [0; 16])
    }

    #[inline]
    fn tq1_0_values(b: &TQ1_0, g: usize) -> __m256i {
        let trit = |byte: u8, power: u8| ((u16::from(byte.wrapping_mul(power)) * 3) >> 8) as u8;
        const POWERS: [u8; 5] = [1, 3, 9, 27, 81];
        let mut codes = [0u8; 32];
        for (i, code) in codes.iter_mut().enumerate() {
            *code = match 32 * g + i {
                i @ 0..160 => trit(b.qs[i % 32], POWERS[i / 32]),
                i @ 160..240 => trit(b.qs[32 + (i - 160) % 16], POWERS[(i - 160) / 16]),
                i @ 240.. => trit(b.qh[(i - 240) % 4], POWERS[(i - 240) / 4]),
            };
        }
        // SAFETY: 32 bytes.
        _mm256_sub_epi8(unsafe { load32(codes.as_ptr()) }, _mm256_set1_epi8(1))
    }

    #[inline]
    fn tq2_0_scales(_: &TQ2_0) -> Scales {
        ([1; 16], [0; 16])
    }

    #[inline]
    unsafe fn tq2_0_values(b: &TQ2_0, g: usize) -> __m256i {
        // SAFETY: within the block's 64 bytes of codes.
        let codes = two_bits(unsafe { load32(b.qs.as_ptr().add(g / 4 * 32)) }, g % 4);
        _mm256_sub_epi8(codes, _mm256_set1_epi8(1))
    }
}

macro_rules! rows {
    ($($name:ident: $values:ident, $scales:ident, $block:ident, products $pairs:ident $(, minima $dmin:ident)?;)*) => { avx2! { $(
        /// `y[r]` = weight row r times the activations.
        pub(super) fn $name(weights: &[u8], x: Row, y: &mut [f32]) {
            let blocks = x.d.len();
            assert_eq!(weights.len(), y.len() * blocks * size_of::<$block>());
            assert!(x.codes.len() == blocks * 256 && x.sums.len() == blocks * 16);
            for (row, y) in weights.chunks_exact((blocks * size_of::<$block>()).max(1)).zip(y) {
                let mut sum = _mm256_setzero_ps();
                #[allow(unused_mut)]
                let mut minima = _mm256_setzero_ps();
                for (i, (b, &xd)) in layout::blocks::<$block>(row).iter().zip(x.d).enumerate() {
                    let (scales, _mins) = $scales(b);
                    let mut acc = _mm256_setzero_si256();
                    // SAFETY: groups of a block, and block i of codes and sums, whose lengths are checked above.
                    unsafe {
                        for g in 0..8 {
                            let c = load32(x.codes.as_ptr().add(i * 256 + 32 * g).cast());
                            let p = $pairs($values(b, g), c);
                            let (low, high) = (scales[2 * g], scales[2 * g + 1]);
                            let scale = _mm256_set_m128i(_mm_set1_epi16(high), _mm_set1_epi16(low));
                            acc = _mm256_add_epi32(acc, _mm256_madd_epi16(p, scale));
                        }
                        let d = _mm256_set1_ps(half(b.d) * xd);
                        sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(acc), d, sum);
                        $(
                            let s = load32(x.sums.as_ptr().add(i * 16).cast());
                            let m = _mm256_madd_epi16(load32(_mins.as_ptr().cast()), s);
                            let dmin = _mm256_set1_ps(half(b.$dmin) * xd);
                            minima = _mm256_fmadd_ps(_mm256_cvtepi32_ps(m), dmin, minima);
                        )?
                    }
                }
                *y = total(_mm256_sub_ps(sum, minima));
            }
        }
    )* } };
}

rows! {
    q2_k: q2_k_values, q2_k_scales, Q2K, products unsigned_pairs, minima dmin;
    q3_k: q3_k_values, q3_k_scales, Q3K, products pairs;
    q4_k: q4_k_values, q4_k_scales, Q4K, products unsigned_pairs, minima dmin;
    q5_k: q5_k_values, q5_k_scales, Q5K, products unsigned_pairs, minima dmin;
    q6_k: q6_k_values, q6_k_scales, Q6K, products pairs;
    iq4_xs: iq4_xs_values, iq4_xs_scales, IQ4XS, products pairs;
    tq1_0: tq1_0_values, tq1_0_scales, TQ1_0, products pairs;
    tq2_0: tq2_0_values, tq2_0_scales, TQ2_0, products pairs;
}
