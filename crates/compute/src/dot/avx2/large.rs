//! Blocks of 256: eight groups of 32 values, each under two scales (equal ones where a scale covers 32).
//!
//! Codes are multiplied as they are stored where they are not negative: what the zero point takes off is one more
//! product, of all scales with the sums of the activations. All scales of a block are unpacked in one register, from
//! which a group takes its own in one instruction.

use std::arch::x86_64::*;
use std::mem::offset_of;

use quern_tensor_io::layout::{self, IQ4XS, Q2K, Q3K, Q4K, Q5K, Q6K, TQ1_0, TQ2_0};

use super::{avx2, half, iq4, load32, pairs, total};
use crate::activations::Row;
use crate::dot::prefetch::Prefetch;

// Fields that are loaded together.
const _: () = assert!(offset_of!(Q4K, scales) == 4 && offset_of!(Q5K, scales) == 4);

/// A block's scales and minima, 16 bits each.
struct Scales {
    /// Of values 0 .. 16 of groups 0 .. 8, then of their values 16 .. 32.
    by_group: __m256i,
    /// In the order of the values: the scales, of types with a zero point, or the minima, of types with those.
    in_order: __m256i,
}

// What gives values takes the group of 32 values it gives: `G`, below 8.
avx2! {
    /// Left by `by`, or right where that is negative, across bytes.
    #[inline]
    fn shift(x: __m256i, by: i32) -> __m256i {
        if by >= 0 {
            _mm256_sll_epi16(x, _mm_cvtsi32_si128(by))
        } else {
            _mm256_srl_epi16(x, _mm_cvtsi32_si128(-by))
        }
    }

    /// Codes `G` of two bits, four in a byte; 32 bytes hold four groups.
    #[inline]
    fn two_bits<const G: usize>(qs: &[u8; 64]) -> __m256i {
        const { assert!(G < 8) }
        // SAFETY: within the 64 bytes.
        let x = unsafe { load32(qs.as_ptr().add(G / 4 * 32)) };
        _mm256_and_si256(shift(x, -2 * (G as i32 % 4)), _mm256_set1_epi8(3))
    }

    /// Bit `G` of 32 bytes, as bit `to`.
    #[inline]
    fn one_bit<const G: usize>(x: &[u8; 32], to: i32) -> __m256i {
        // SAFETY: 32 bytes.
        let x = shift(unsafe { load32(x.as_ptr()) }, to - G as i32);
        _mm256_and_si256(x, _mm256_set1_epi8(1 << to))
    }

    /// Codes of four bits, 64 values in 32 bytes.
    #[inline]
    fn four_bits<const G: usize>(qs: &[u8; 128]) -> __m256i {
        const { assert!(G < 8) }
        // SAFETY: within the 128 bytes.
        let x = unsafe { load32(qs.as_ptr().add(G / 2 * 32)) };
        _mm256_and_si256(shift(x, -4 * (G as i32 % 2)), _mm256_set1_epi8(15))
    }

    /// Products of codes that are never negative need no sign.
    #[inline]
    fn unsigned_pairs(v: __m256i, c: __m256i) -> __m256i {
        _mm256_maddubs_epi16(v, c)
    }

    /// 16 signed scales.
    #[inline]
    fn sixteen(scales: __m128i) -> Scales {
        let halves = _mm_shuffle_epi8(scales, _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15));
        Scales { by_group: _mm256_cvtepi8_epi16(halves), in_order: _mm256_cvtepi8_epi16(scales) }
    }

    /// `layout::scales::minima6` in this level's instructions, of a block that begins with `d dmin scales[12]`.
    #[inline]
    fn six_bits<B>(b: &B) -> Scales {
        const { assert!(size_of::<B>() >= 16) }
        // SAFETY: 16 bytes at least.
        let x = unsafe { _mm_loadu_si128(std::ptr::from_ref(b).cast()) };
        let low = _mm_shuffle_epi8(x, _mm_setr_epi8(4, 5, 6, 7, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15));
        let low = _mm_srlv_epi32(low, _mm_setr_epi32(0, 0, 0, 4));
        let low = _mm_and_si128(low, _mm_set1_epi64x(0x0f0f_0f0f_3f3f_3f3f));
        let top = _mm_and_si128(_mm_srli_epi16::<2>(x), _mm_set1_epi8(0x30));
        let top = _mm_shuffle_epi8(top, _mm_setr_epi8(-1, -1, -1, -1, 4, 5, 6, 7, -1, -1, -1, -1, 8, 9, 10, 11));
        let both = _mm256_cvtepu8_epi16(_mm_or_si128(low, top));
        let twice = _mm256_setr_epi8(
            0, 1, 0, 1, 2, 3, 2, 3, 4, 5, 4, 5, 6, 7, 6, 7, 8, 9, 8, 9, 10, 11, 10, 11, 12, 13, 12, 13, 14, 15, 14, 15);
        Scales {
            by_group: _mm256_permute4x64_epi64::<0b01_00_01_00>(both),
            in_order: _mm256_shuffle_epi8(_mm256_permute4x64_epi64::<0b11_10_11_10>(both), twice),
        }
    }

    #[inline]
    fn q4_k_values<const G: usize>(b: &Q4K) -> __m256i {
        four_bits::<G>(&b.qs)
    }

    #[inline]
    fn q5_k_values<const G: usize>(b: &Q5K) -> __m256i {
        _mm256_or_si256(four_bits::<G>(&b.qs), one_bit::<G>(&b.qh, 4))
    }

    #[inline]
    fn q6_k_scales(b: &Q6K) -> Scales {
        // SAFETY: 16 bytes.
        sixteen(unsafe { _mm_loadu_si128(b.scales.as_ptr().cast()) })
    }

    #[inline]
    fn q6_k_values<const G: usize>(b: &Q6K) -> __m256i {
        const { assert!(G < 8) }
        let (half, k) = (G / 4, G as i32 % 4);
        // SAFETY: within the block's 128 and 64 bytes.
        let (low, high) = unsafe {
            (load32(b.ql.as_ptr().add(64 * half + 32 * (G % 2))), load32(b.qh.as_ptr().add(32 * half)))
        };
        let low = _mm256_and_si256(shift(low, -4 * (k / 2)), _mm256_set1_epi8(15));
        _mm256_or_si256(low, _mm256_and_si256(shift(high, 4 - 2 * k), _mm256_set1_epi8(0x30)))
    }

    /// `layout::scales::scales6` in this level's instructions.
    #[inline]
    fn q3_k_scales(b: &Q3K) -> Scales {
        // SAFETY: from two bytes before the packed scales on 16 bytes of the block.
        let x = unsafe { _mm_loadu_si128(std::ptr::from_ref(b).cast::<u8>().add(offset_of!(Q3K, scales) - 2).cast()) };
        let low = _mm_shuffle_epi8(x, _mm_setr_epi8(2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5, 6, 7, 8, 9));
        let low = _mm_and_si128(_mm_srlv_epi32(low, _mm_setr_epi32(0, 0, 4, 4)), _mm_set1_epi8(15));
        let top = _mm_shuffle_epi8(x, _mm_setr_epi8(10, 11, 12, 13, 10, 11, 12, 13, 10, 11, 12, 13, 10, 11, 12, 13));
        let top = _mm_srli_epi32::<2>(_mm_sllv_epi32(top, _mm_setr_epi32(6, 4, 2, 0)));
        let stored = _mm_or_si128(low, _mm_and_si128(top, _mm_set1_epi8(0x30)));
        sixteen(_mm_sub_epi8(stored, _mm_set1_epi8(32)))
    }

    #[inline]
    fn q3_k_values<const G: usize>(b: &Q3K) -> __m256i {
        _mm256_or_si256(two_bits::<G>(&b.qs), one_bit::<G>(&b.hmask, 2))
    }

    #[inline]
    fn q2_k_scales(b: &Q2K) -> Scales {
        // SAFETY: 16 bytes.
        let x = unsafe { _mm_loadu_si128(b.scales.as_ptr().cast()) };
        let low = sixteen(_mm_and_si128(x, _mm_set1_epi8(15)));
        let minima = _mm_and_si128(_mm_srli_epi16::<4>(x), _mm_set1_epi8(15));
        Scales { in_order: _mm256_cvtepu8_epi16(minima), ..low }
    }

    #[inline]
    fn q2_k_values<const G: usize>(b: &Q2K) -> __m256i {
        two_bits::<G>(&b.qs)
    }

    /// `IQ4XS::scales` in this level's instructions.
    #[inline]
    fn iq4_xs_scales(b: &IQ4XS) -> Scales {
        let x = _mm_cvtsi32_si128(i32::from_le_bytes(b.scales_l));
        let low = _mm_cvtepu8_epi16(_mm_unpacklo_epi8(x, _mm_srli_epi16::<4>(x)));
        let low = _mm_and_si128(low, _mm_set1_epi16(15));
        // Word j: its two bits moved to the top, then down again.
        let up = _mm_setr_epi16(1 << 14, 1 << 12, 1 << 10, 1 << 8, 1 << 6, 1 << 4, 1 << 2, 1);
        let high = _mm_srli_epi16::<14>(_mm_mullo_epi16(_mm_set1_epi16(b.scales_h.get() as i16), up));
        let scales = _mm_sub_epi16(_mm_or_si128(low, _mm_slli_epi16::<4>(high)), _mm_set1_epi16(32));
        let by_group = _mm256_broadcastsi128_si256(scales);
        Scales { by_group, in_order: by_group }
    }

    #[inline]
    fn iq4_xs_values<const G: usize>(b: &IQ4XS) -> __m256i {
        iq4(super::nibbles(&b.qs.as_chunks().0[G]))
    }

    #[inline]
    fn ones<B>(_: &B) -> Scales {
        Scales { by_group: _mm256_set1_epi16(1), in_order: _mm256_set1_epi16(1) }
    }

    /// One trit of each byte, powers of 3 for two bytes each.
    #[inline]
    fn trits(x: __m256i, powers: __m256i) -> __m256i {
        let low = _mm256_set1_epi16(255);
        // The fraction's low byte times 3: its carry is the trit.
        let trit = |x: __m256i| {
            let fraction = _mm256_and_si256(_mm256_mullo_epi16(x, powers), low);
            _mm256_srli_epi16::<8>(_mm256_mullo_epi16(fraction, _mm256_set1_epi16(3)))
        };
        let (even, odd) = (trit(_mm256_and_si256(x, low)), trit(_mm256_srli_epi16::<8>(x)));
        _mm256_or_si256(even, _mm256_slli_epi16::<8>(odd))
    }

    #[inline]
    fn tq1_0_values<const G: usize>(b: &TQ1_0) -> __m256i {
        const POWERS: [i16; 5] = [1, 3, 9, 27, 81];
        if G < 5 {
            // SAFETY: 32 of 48 bytes.
            return trits(unsafe { load32(b.qs.as_ptr()) }, _mm256_set1_epi16(POWERS[G % 5]));
        }
        // SAFETY: the other 16.
        let x = unsafe { _mm_loadu_si128(b.qs.as_ptr().add(32).cast()) };
        let (low, high) = (POWERS[2 * (G - 5)], POWERS[(2 * (G - 5) + 1) % 5]);
        if G < 7 {
            let powers = _mm256_set_m128i(_mm_set1_epi16(high), _mm_set1_epi16(low));
            return trits(_mm256_broadcastsi128_si256(x), powers);
        }
        let last = _mm_set1_epi32(i32::from_le_bytes(b.qh));
        let powers = _mm256_set_m128i(_mm_setr_epi16(1, 1, 3, 3, 9, 9, 27, 27), _mm_set1_epi16(low));
        trits(_mm256_set_m128i(last, x), powers)
    }

    #[inline]
    fn tq2_0_values<const G: usize>(b: &TQ2_0) -> __m256i {
        two_bits::<G>(&b.qs)
    }

    /// The scales of group `G`, times products in pairs.
    #[inline]
    fn scaled<const G: usize>(products: __m256i, scales: &Scales) -> __m256i {
        let pick = _mm256_set1_epi16(const { ((2 * G) | ((2 * G + 1) << 8)) as i16 });
        _mm256_madd_epi16(products, _mm256_shuffle_epi8(scales.by_group, pick))
    }
}

macro_rules! rows {
    ($($name:ident: $values:ident, $scales:ident, $block:ident, products $pairs:ident $(, zero $zero:literal)? $(, minima $dmin:ident)?;)*) => { avx2! { $(
        /// `y[r]` = weight row r times the activations.
        pub(super) fn $name(weights: &[u8], x: Row, y: &mut [f32]) {
            const BYTES: usize = size_of::<$block>();
            let blocks = x.d.len();
            assert_eq!(weights.len(), y.len() * blocks * BYTES);
            assert!(x.codes.len() == blocks * 256 && x.sums.len() == blocks * 16);
            let ahead = Prefetch::of(BYTES, 256);
            for (row, y) in weights.chunks_exact((blocks * BYTES).max(1)).zip(y) {
                let mut sum = _mm256_setzero_ps();
                #[allow(unused_mut)]
                let mut minima = _mm256_setzero_ps();
                for (i, (b, &xd)) in layout::blocks::<$block>(row).iter().zip(x.d).enumerate() {
                    ahead.fetch(std::ptr::from_ref(b).cast(), BYTES);
                    let scales = $scales(b);
                    // SAFETY: block i of codes and sums, whose lengths are checked above.
                    let (c, _s) = unsafe {
                        (x.codes.as_ptr().add(i * 256).cast::<u8>(), load32(x.sums.as_ptr().add(i * 16).cast()))
                    };
                    macro_rules! group {
                        // SAFETY: a group's 32 codes.
                        ($g:literal) => { scaled::<$g>($pairs($values::<$g>(b), unsafe { load32(c.add(32 * $g)) }), &scales) };
                    }
                    let mut acc = group!(0);
                    acc = _mm256_add_epi32(acc, group!(1));
                    acc = _mm256_add_epi32(acc, group!(2));
                    acc = _mm256_add_epi32(acc, group!(3));
                    acc = _mm256_add_epi32(acc, group!(4));
                    acc = _mm256_add_epi32(acc, group!(5));
                    acc = _mm256_add_epi32(acc, group!(6));
                    acc = _mm256_add_epi32(acc, group!(7));
                    $(
                        let zero = _mm256_mullo_epi32(_mm256_madd_epi16(scales.in_order, _s), _mm256_set1_epi32($zero));
                        acc = _mm256_sub_epi32(acc, zero);
                    )?
                    sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(acc), _mm256_set1_ps(half(b.d) * xd), sum);
                    $(
                        let m = _mm256_madd_epi16(scales.in_order, _s);
                        let dmin = _mm256_set1_ps(half(b.$dmin) * xd);
                        minima = _mm256_fmadd_ps(_mm256_cvtepi32_ps(m), dmin, minima);
                    )?
                }
                *y = total(_mm256_sub_ps(sum, minima));
            }
        }
    )* } };
}

rows! {
    q2_k: q2_k_values, q2_k_scales, Q2K, products unsigned_pairs, minima dmin;
    q3_k: q3_k_values, q3_k_scales, Q3K, products unsigned_pairs, zero 4;
    q4_k: q4_k_values, six_bits, Q4K, products unsigned_pairs, minima dmin;
    q5_k: q5_k_values, six_bits, Q5K, products unsigned_pairs, minima dmin;
    q6_k: q6_k_values, q6_k_scales, Q6K, products unsigned_pairs, zero 32;
    iq4_xs: iq4_xs_values, iq4_xs_scales, IQ4XS, products pairs;
    tq1_0: tq1_0_values, ones, TQ1_0, products unsigned_pairs, zero 1;
    tq2_0: tq2_0_values, ones, TQ2_0, products unsigned_pairs, zero 1;
}
