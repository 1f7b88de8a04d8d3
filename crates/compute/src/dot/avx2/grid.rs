//! Types whose values are points of a grid (`block/grid.rs`): points are loaded one by one, the signs of 32
//! values applied at once.

use std::arch::x86_64::*;

use quern_tensor_io::decode::grid::{IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS, SIGNS};
use quern_tensor_io::layout::grid::{Tail, nibble};
use quern_tensor_io::layout::{self, IQ1M, IQ1S, IQ2S, IQ2XS, IQ2XXS, IQ3S, IQ3XXS};

use super::{avx2, bits, half, load32, pairs, total};
use crate::activations::Row;
use crate::block::grid::{IQ1_EIGHTS, constants};
use crate::dot::prefetch::Prefetch;

/// The signs of 32 values.
#[inline(always)]
fn tail_signs(tail: Tail) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|l| SIGNS[tail.signs(l)]))
}

/// Bytes 4 g .. of signs.
#[inline(always)]
fn whole_signs(signs: &[u8; 32], g: usize) -> u32 {
    u32::from_le_bytes(signs.as_chunks().0[g])
}

/// 16 scales, each for 16 values, from those of 16 or 32 (`run` 1 or 2).
#[inline(always)]
fn odd(run: usize, code: impl Fn(usize) -> u8) -> [i16; 16] {
    std::array::from_fn(|j| 2 * i16::from(code(j / run)) + 1)
}

avx2! {
    #[inline]
    fn points(points: [[u8; 8]; 4]) -> __m256i {
        let [a, b, c, d] = points.map(i64::from_le_bytes);
        _mm256_setr_epi64x(a, b, c, d)
    }

    #[inline]
    fn small_points(points: [[u8; 4]; 8]) -> __m256i {
        let [a, b, c, d, e, f, g, h] = points.map(i32::from_le_bytes);
        _mm256_setr_epi32(a, b, c, d, e, f, g, h)
    }

    #[inline]
    fn signed(x: __m256i, signs: u32) -> __m256i {
        let negative = bits(signs as i32);
        _mm256_sub_epi8(_mm256_xor_si256(x, negative), negative)
    }

    #[inline]
    fn iq2_xxs_values(b: &IQ2XXS, g: usize) -> __m256i {
        let part = &b.qs[g];
        let x = points(std::array::from_fn(|l| IQ2_XXS[usize::from(part.index[l])]));
        signed(x, tail_signs(part.tail))
    }

    #[inline]
    fn iq2_xs_values(b: &IQ2XS, g: usize) -> __m256i {
        let codes: [u16; 4] = std::array::from_fn(|l| b.qs[4 * g + l].get());
        let x = points(codes.map(|c| IQ2_XS[usize::from(c & 511)]));
        signed(x, u32::from_le_bytes(codes.map(|c| SIGNS[usize::from(c >> 9)])))
    }

    #[inline]
    fn iq2_s_values(b: &IQ2S, g: usize) -> __m256i {
        let index = |l: usize| usize::from(b.qs[4 * g + l]) | usize::from(b.qh[g] >> (2 * l) & 3) << 8;
        signed(points(std::array::from_fn(|l| IQ2_S[index(l)])), whole_signs(&b.signs, g))
    }

    #[inline]
    fn iq3_xxs_values(b: &IQ3XXS, g: usize) -> __m256i {
        let x = small_points(std::array::from_fn(|k| IQ3_XXS[usize::from(b.qs[8 * g + k])]));
        signed(x, tail_signs(b.tails[g]))
    }

    #[inline]
    fn iq3_s_values(b: &IQ3S, g: usize) -> __m256i {
        let index = |k: usize| usize::from(b.qs[8 * g + k]) | usize::from(b.qh[g] >> k & 1) << 8;
        signed(small_points(std::array::from_fn(|k| IQ3_S[index(k)])), whole_signs(&b.signs, g))
    }

    #[inline]
    fn iq1_s_values(b: &IQ1S, g: usize) -> __m256i {
        let high = b.qh[g].get();
        let index = |l: usize| usize::from(b.qs[4 * g + l]) | usize::from(high >> (3 * l) & 7) << 8;
        let shift = _mm256_set1_epi8(if high >> 15 != 0 { 9 } else { 7 });
        _mm256_sub_epi8(points(std::array::from_fn(|l| IQ1_EIGHTS[index(l)])), shift)
    }

    #[inline]
    fn iq1_m_values(b: &IQ1M, g: usize) -> __m256i {
        let high: [u8; 4] = std::array::from_fn(|l| nibble(&b.qh, 4 * g + l));
        let index = |l: usize| usize::from(b.qs[4 * g + l]) | usize::from(high[l] & 7) << 8;
        let shift = points(high.map(|h| [if h & 8 != 0 { 9 } else { 7 }; 8]));
        _mm256_sub_epi8(points(std::array::from_fn(|l| IQ1_EIGHTS[index(l)])), shift)
    }
}

macro_rules! types {
    ($($name:ident, $codes:ident: $values:ident, $block:ident, |$b:ident| d $d:expr, scales $scales:expr;)*) => { avx2! { $(
        /// `y[r]` = weight row r times the activations.
        pub(super) fn $name(weights: &[u8], x: Row, y: &mut [f32]) {
            const BYTES: usize = size_of::<$block>();
            let blocks = x.d.len();
            assert_eq!(weights.len(), y.len() * blocks * BYTES);
            let ahead = Prefetch::of(BYTES, 256);
            for (row, y) in weights.chunks_exact((blocks * BYTES).max(1)).zip(y) {
                let mut sum = _mm256_setzero_ps();
                let codes = x.codes.as_chunks::<256>().0;
                for ($b, (codes, xd)) in layout::blocks::<$block>(row).iter().zip(codes.iter().zip(x.d)) {
                    ahead.fetch(std::ptr::from_ref($b).cast(), BYTES);
                    let scales: [i16; 16] = $scales;
                    let mut acc = _mm256_setzero_si256();
                    for g in 0..8 {
                        // SAFETY: 32 of 256 codes.
                        let c = unsafe { load32(codes.as_ptr().add(32 * g).cast()) };
                        let (low, high) = (scales[2 * g], scales[2 * g + 1]);
                        let scale = _mm256_set_m128i(_mm_set1_epi16(high), _mm_set1_epi16(low));
                        acc = _mm256_add_epi32(acc, _mm256_madd_epi16(pairs($values($b, g), c), scale));
                    }
                    sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(acc), _mm256_set1_ps(half($d) * xd), sum);
                }
                *y = total(sum) * const { constants(<$block as layout::Block>::ELEMENT_TYPE).unwrap().unit };
            }
        }

        /// A block's codes.
        pub(super) fn $codes(block: &[u8], codes: &mut [u8; 256]) {
            let Some(block) = layout::blocks::<$block>(block).first() else { return };
            let zero = const { constants(<$block as layout::Block>::ELEMENT_TYPE).unwrap().zero } as i8;
            for (g, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                let x = _mm256_add_epi8($values(block, g), _mm256_set1_epi8(zero));
                // SAFETY: 32 codes.
                unsafe { _mm256_storeu_si256(codes.as_mut_ptr().cast(), x) };
            }
        }
    )* } };
}

types! {
    iq2_xxs, iq2_xxs_codes: iq2_xxs_values, IQ2XXS, |b| d b.d, scales odd(2, |j| b.qs[j].tail.scale());
    iq2_xs, iq2_xs_codes: iq2_xs_values, IQ2XS, |b| d b.d, scales odd(1, |j| nibble(&b.scales, j));
    iq2_s, iq2_s_codes: iq2_s_values, IQ2S, |b| d b.d, scales odd(1, |j| nibble(&b.scales, j));
    iq3_xxs, iq3_xxs_codes: iq3_xxs_values, IQ3XXS, |b| d b.d, scales odd(2, |j| b.tails[j].scale());
    iq3_s, iq3_s_codes: iq3_s_values, IQ3S, |b| d b.d, scales odd(2, |j| nibble(&b.scales, j));
    iq1_s, iq1_s_codes: iq1_s_values, IQ1S, |b| d b.d, scales odd(2, |j| b.scale(j));
    iq1_m, iq1_m_codes: iq1_m_values, IQ1M, |b| d b.d(), scales odd(1, |j| b.scale(j));
}
