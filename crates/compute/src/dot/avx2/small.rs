//! Blocks of 32.

use std::arch::x86_64::*;

use super::{avx2, bits, half, iq4, load32, look_up, nibbles, pairs, total};
use crate::activations::Row;
use crate::block::{e8m0_half, tables};

avx2! {
    /// Bit i of the word at `p` as byte i: 16 where it is set.
    ///
    /// # Safety
    /// 4 bytes are readable.
    #[inline]
    unsafe fn fifth(p: *const u8) -> __m256i {
        // SAFETY: promised.
        let set = bits(unsafe { p.cast::<i32>().read_unaligned() });
        _mm256_and_si256(set, _mm256_set1_epi8(16))
    }

    #[inline]
    unsafe fn q4_0_values(b: *const u8) -> __m256i {
        // SAFETY: within the block's 18 bytes.
        _mm256_sub_epi8(unsafe { nibbles(b.add(2)) }, _mm256_set1_epi8(8))
    }

    #[inline]
    unsafe fn q4_1_values(b: *const u8) -> __m256i {
        // SAFETY: within the block's 20 bytes.
        unsafe { nibbles(b.add(4)) }
    }

    #[inline]
    unsafe fn q5_0_values(b: *const u8) -> __m256i {
        // SAFETY: within the block's 22 bytes.
        let codes = unsafe { _mm256_or_si256(nibbles(b.add(6)), fifth(b.add(2))) };
        _mm256_sub_epi8(codes, _mm256_set1_epi8(16))
    }

    #[inline]
    unsafe fn q5_1_values(b: *const u8) -> __m256i {
        // SAFETY: within the block's 24 bytes.
        unsafe { _mm256_or_si256(nibbles(b.add(8)), fifth(b.add(4))) }
    }

    #[inline]
    unsafe fn q8_0_values(b: *const u8) -> __m256i {
        // SAFETY: within the block's 34 bytes.
        unsafe { load32(b.add(2)) }
    }

    #[inline]
    unsafe fn iq4_nl_values(b: *const u8) -> __m256i {
        // SAFETY: within the block's 18 bytes.
        iq4(unsafe { nibbles(b.add(2)) })
    }

    #[inline]
    unsafe fn mxfp4_values(b: *const u8) -> __m256i {
        // SAFETY: within the block's 17 bytes.
        look_up(&tables::MXFP4, unsafe { nibbles(b.add(1)) })
    }

    #[inline]
    unsafe fn nf4_values(b: *const u8) -> __m256i {
        // SAFETY: within the block's 18 bytes.
        look_up(&tables::NF4, unsafe { nibbles(b.add(2)) })
    }

    #[inline]
    unsafe fn fp4_values(b: *const u8) -> __m256i {
        // SAFETY: within the block's 18 bytes.
        look_up(&tables::FP4, unsafe { nibbles(b.add(2)) })
    }

    #[inline]
    unsafe fn nf4_scale(b: *const u8) -> f32 {
        // SAFETY: the block's first bytes.
        unsafe { half(b) * tables::NF4_STEP }
    }

    #[inline]
    unsafe fn fp4_scale(b: *const u8) -> f32 {
        // SAFETY: the block's first bytes.
        unsafe { half(b) * tables::FP4_STEP }
    }

    #[inline]
    unsafe fn exponent(b: *const u8) -> f32 {
        // SAFETY: the block's first byte.
        e8m0_half(unsafe { *b })
    }
}

macro_rules! rows {
    ($($name:ident: $values:ident, $bytes:literal bytes, scale $scale:ident, offset $offset:literal;)*) => { avx2! { $(
        /// `y[r]` = weight row r times the activations.
        pub(super) fn $name(weights: &[u8], x: Row, y: &mut [f32]) {
            let blocks = x.d.len();
            assert_eq!(weights.len(), y.len() * blocks * $bytes);
            assert!(x.codes.len() == blocks * 32 && x.sums.len() == blocks * 2);
            for (row, y) in weights.chunks_exact((blocks * $bytes).max(1)).zip(y) {
                let (mut sum, mut offset) = (_mm256_setzero_ps(), 0f32);
                for (i, (&d, s)) in x.d.iter().zip(x.sums.as_chunks::<2>().0).enumerate() {
                    // SAFETY: block i of the row and of the codes, whose lengths are checked above.
                    unsafe {
                        let b = row.as_ptr().add(i * $bytes);
                        let p = pairs($values(b), load32(x.codes.as_ptr().add(i * 32).cast()));
                        let dot = _mm256_cvtepi32_ps(_mm256_madd_epi16(p, _mm256_set1_epi16(1)));
                        sum = _mm256_fmadd_ps(dot, _mm256_set1_ps($scale(b) * d), sum);
                        if $offset {
                            offset += half(b.add(2)) * d * (i32::from(s[0]) + i32::from(s[1])) as f32;
                        }
                    }
                }
                *y = total(sum) + offset;
            }
        }
    )* } };
}

rows! {
    q4_0: q4_0_values, 18 bytes, scale half, offset false;
    q4_1: q4_1_values, 20 bytes, scale half, offset true;
    q5_0: q5_0_values, 22 bytes, scale half, offset false;
    q5_1: q5_1_values, 24 bytes, scale half, offset true;
    q8_0: q8_0_values, 34 bytes, scale half, offset false;
    iq4_nl: iq4_nl_values, 18 bytes, scale half, offset false;
    mxfp4: mxfp4_values, 17 bytes, scale exponent, offset false;
    nf4: nf4_values, 18 bytes, scale nf4_scale, offset false;
    fp4: fp4_values, 18 bytes, scale fp4_scale, offset false;
}
