//! Types whose values are points of a grid (`block/grid.rs`): points are loaded one by one, the signs of 32
//! values applied at once.

use std::arch::x86_64::*;

use quern_tensor_io::decode::grid::{IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS, SIGNS};

use super::{avx2, bits, load32, pairs, total};
use crate::activations::Row;
use crate::block::grid::{IQ1_EIGHTS, iq1_m_d};
use crate::float::f16_to_f32;

#[inline(always)]
fn word(b: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([b[at], b[at + 1]])
}

#[inline(always)]
fn tail(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

/// Signs of 32 values from four fields of seven bits.
#[inline(always)]
fn signs7(fields: [u32; 4]) -> u32 {
    u32::from_le_bytes(fields.map(|f| SIGNS[(f & 127) as usize]))
}

#[inline(always)]
fn tail_signs(tail: u32) -> u32 {
    signs7([tail, tail >> 7, tail >> 14, tail >> 21])
}

/// Nibble j of the bytes from `at` on.
#[inline(always)]
fn nibble(b: &[u8], at: usize, j: usize) -> u8 {
    b[at + j / 2] >> (j % 2 * 4) & 15
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
    fn iq2_xxs_values(b: &[u8; 66], g: usize) -> __m256i {
        let at = 2 + 8 * g;
        let x = points(std::array::from_fn(|l| IQ2_XXS[usize::from(b[at + l])]));
        signed(x, tail_signs(tail(b, at + 4)))
    }

    #[inline]
    fn iq2_xs_values(b: &[u8; 74], g: usize) -> __m256i {
        let codes: [u16; 4] = std::array::from_fn(|l| word(b, 2 + 8 * g + 2 * l));
        let x = points(codes.map(|c| IQ2_XS[usize::from(c & 511)]));
        signed(x, signs7(codes.map(|c| u32::from(c >> 9))))
    }

    #[inline]
    fn iq2_s_values(b: &[u8; 82], g: usize) -> __m256i {
        let index = |l: usize| usize::from(b[2 + 4 * g + l]) | usize::from(b[66 + g] >> (2 * l) & 3) << 8;
        signed(points(std::array::from_fn(|l| IQ2_S[index(l)])), tail(b, 34 + 4 * g))
    }

    #[inline]
    fn iq3_xxs_values(b: &[u8; 98], g: usize) -> __m256i {
        let x = small_points(std::array::from_fn(|k| IQ3_XXS[usize::from(b[2 + 8 * g + k])]));
        signed(x, tail_signs(tail(b, 66 + 4 * g)))
    }

    #[inline]
    fn iq3_s_values(b: &[u8; 110], g: usize) -> __m256i {
        let index = |k: usize| usize::from(b[2 + 8 * g + k]) | usize::from(b[66 + g] >> k & 1) << 8;
        signed(small_points(std::array::from_fn(|k| IQ3_S[index(k)])), tail(b, 74 + 4 * g))
    }

    #[inline]
    fn iq1_s_values(b: &[u8; 50], g: usize) -> __m256i {
        let high = word(b, 34 + 2 * g);
        let index = |l: usize| usize::from(b[2 + 4 * g + l]) | usize::from(high >> (3 * l) & 7) << 8;
        let shift = _mm256_set1_epi8(if high >> 15 != 0 { 9 } else { 7 });
        _mm256_sub_epi8(points(std::array::from_fn(|l| IQ1_EIGHTS[index(l)])), shift)
    }

    #[inline]
    fn iq1_m_values(b: &[u8; 56], g: usize) -> __m256i {
        let high: [u8; 4] = std::array::from_fn(|l| nibble(b, 32 + 2 * g, l));
        let index = |l: usize| usize::from(b[4 * g + l]) | usize::from(high[l] & 7) << 8;
        let shift = points(high.map(|h| [if h & 8 != 0 { 9 } else { 7 }; 8]));
        _mm256_sub_epi8(points(std::array::from_fn(|l| IQ1_EIGHTS[index(l)])), shift)
    }
}

macro_rules! types {
    ($($name:ident, $codes:ident: $values:ident, $bytes:literal bytes, zero $zero:literal, unit $unit:literal,
        d $d:expr, scales $scales:expr;)*) => { avx2! { $(
        /// `y[r]` = weight row r times the activations.
        pub(super) fn $name(weights: &[u8], x: Row, y: &mut [f32]) {
            let blocks = x.d.len();
            assert_eq!(weights.len(), y.len() * blocks * $bytes);
            let (d, scales): (fn(&[u8; $bytes]) -> f32, fn(&[u8; $bytes]) -> [i16; 16]) = ($d, $scales);
            for (row, y) in weights.chunks_exact((blocks * $bytes).max(1)).zip(y) {
                let mut sum = _mm256_setzero_ps();
                let codes = x.codes.as_chunks::<256>().0;
                for (b, (codes, xd)) in row.as_chunks::<$bytes>().0.iter().zip(codes.iter().zip(x.d)) {
                    let scales = scales(b);
                    let mut acc = _mm256_setzero_si256();
                    for g in 0..8 {
                        // SAFETY: 32 of 256 codes.
                        let c = unsafe { load32(codes.as_ptr().add(32 * g).cast()) };
                        let (low, high) = (scales[2 * g], scales[2 * g + 1]);
                        let scale = _mm256_set_m128i(_mm_set1_epi16(high), _mm_set1_epi16(low));
                        acc = _mm256_add_epi32(acc, _mm256_madd_epi16(pairs($values(b, g), c), scale));
                    }
                    sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(acc), _mm256_set1_ps(d(b) * xd), sum);
                }
                *y = total(sum) * $unit;
            }
        }

        /// A block's codes.
        pub(super) fn $codes(block: &[u8], codes: &mut [u8; 256]) {
            let Some(block) = block.first_chunk() else { return };
            for (g, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                let x = _mm256_add_epi8($values(block, g), _mm256_set1_epi8($zero));
                // SAFETY: 32 codes.
                unsafe { _mm256_storeu_si256(codes.as_mut_ptr().cast(), x) };
            }
        }
    )* } };
}

types! {
    iq2_xxs, iq2_xxs_codes: iq2_xxs_values, 66 bytes, zero 43, unit 0.125,
        d |b| f16_to_f32(word(b, 0)), scales |b| odd(2, |j| b[9 + 8 * j] >> 4);
    iq2_xs, iq2_xs_codes: iq2_xs_values, 74 bytes, zero 43, unit 0.125,
        d |b| f16_to_f32(word(b, 0)), scales |b| odd(1, |j| nibble(b, 66, j));
    iq2_s, iq2_s_codes: iq2_s_values, 82 bytes, zero 43, unit 0.125,
        d |b| f16_to_f32(word(b, 0)), scales |b| odd(1, |j| nibble(b, 74, j));
    iq3_xxs, iq3_xxs_codes: iq3_xxs_values, 98 bytes, zero 62, unit 0.25,
        d |b| f16_to_f32(word(b, 0)), scales |b| odd(2, |j| b[69 + 4 * j] >> 4);
    iq3_s, iq3_s_codes: iq3_s_values, 110 bytes, zero 15, unit 1.0,
        d |b| f16_to_f32(word(b, 0)), scales |b| odd(2, |j| nibble(b, 106, j));
    iq1_s, iq1_s_codes: iq1_s_values, 50 bytes, zero 9, unit 0.125,
        d |b| f16_to_f32(word(b, 0)), scales |b| odd(2, |j| b[35 + 2 * j] >> 4 & 7);
    iq1_m, iq1_m_codes: iq1_m_values, 56 bytes, zero 9, unit 0.125,
        d |b| iq1_m_d(std::array::from_fn(|i| b[48 + i])),
        scales |b| odd(1, |j| (word(b, 48 + j / 4 * 2) >> (j % 4 * 3) & 7) as u8);
}
