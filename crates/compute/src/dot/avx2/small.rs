//! Blocks of 32.

use std::arch::x86_64::*;

use quern_tensor_io::layout::{self, FP4, IQ4NL, MXFP4, NF4, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, U32};

use super::{avx2, bits, half, iq4, load32, look_up, nibbles, pairs, total};
use crate::activations::Row;
use crate::block::{e8m0_half, tables};

avx2! {
    /// Bit i of the word as byte i: 16 where it is set.
    #[inline]
    fn fifth(qh: U32) -> __m256i {
        _mm256_and_si256(bits(qh.get() as i32), _mm256_set1_epi8(16))
    }

    #[inline]
    fn q4_0_values(b: &Q4_0) -> __m256i {
        _mm256_sub_epi8(nibbles(&b.qs), _mm256_set1_epi8(8))
    }

    #[inline]
    fn q4_1_values(b: &Q4_1) -> __m256i {
        nibbles(&b.qs)
    }

    #[inline]
    fn q5_0_values(b: &Q5_0) -> __m256i {
        _mm256_sub_epi8(_mm256_or_si256(nibbles(&b.qs), fifth(b.qh)), _mm256_set1_epi8(16))
    }

    #[inline]
    fn q5_1_values(b: &Q5_1) -> __m256i {
        _mm256_or_si256(nibbles(&b.qs), fifth(b.qh))
    }

    #[inline]
    fn q8_0_values(b: &Q8_0) -> __m256i {
        // SAFETY: 32 codes.
        unsafe { load32(b.qs.as_ptr().cast()) }
    }

    #[inline]
    fn iq4_nl_values(b: &IQ4NL) -> __m256i {
        iq4(nibbles(&b.qs))
    }

    #[inline]
    fn mxfp4_values(b: &MXFP4) -> __m256i {
        look_up(&tables::MXFP4, nibbles(&b.qs))
    }

    #[inline]
    fn nf4_values(b: &NF4) -> __m256i {
        look_up(&tables::NF4, nibbles(&b.qs))
    }

    #[inline]
    fn fp4_values(b: &FP4) -> __m256i {
        look_up(&tables::FP4, nibbles(&b.qs))
    }
}

macro_rules! rows {
    ($($name:ident: $values:ident, $block:ident, scale |$b:ident| $scale:expr $(, offset $offset:ident)?;)*) => { avx2! { $(
        /// `y[r]` = weight row r times the activations.
        pub(super) fn $name(weights: &[u8], x: Row, y: &mut [f32]) {
            let blocks = x.d.len();
            assert_eq!(weights.len(), y.len() * blocks * size_of::<$block>());
            assert!(x.codes.len() == blocks * 32 && x.sums.len() == blocks * 2);
            for (row, y) in weights.chunks_exact((blocks * size_of::<$block>()).max(1)).zip(y) {
                let mut sum = _mm256_setzero_ps();
                #[allow(unused_mut)]
                let mut offset = 0f32;
                let sums = x.d.iter().zip(x.sums.as_chunks::<2>().0);
                for (i, ($b, (&d, _s))) in layout::blocks::<$block>(row).iter().zip(sums).enumerate() {
                    // SAFETY: 32 codes, of which there are as many as checked above.
                    let c = unsafe { load32(x.codes.as_ptr().add(i * 32).cast()) };
                    let dot = _mm256_madd_epi16(pairs($values($b), c), _mm256_set1_epi16(1));
                    sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), _mm256_set1_ps($scale * d), sum);
                    $( offset += half($b.$offset) * d * (i32::from(_s[0]) + i32::from(_s[1])) as f32; )?
                }
                *y = total(sum) + offset;
            }
        }
    )* } };
}

rows! {
    q4_0: q4_0_values, Q4_0, scale |b| half(b.d);
    q4_1: q4_1_values, Q4_1, scale |b| half(b.d), offset m;
    q5_0: q5_0_values, Q5_0, scale |b| half(b.d);
    q5_1: q5_1_values, Q5_1, scale |b| half(b.d), offset m;
    q8_0: q8_0_values, Q8_0, scale |b| half(b.d);
    iq4_nl: iq4_nl_values, IQ4NL, scale |b| half(b.d);
    mxfp4: mxfp4_values, MXFP4, scale |b| e8m0_half(b.e);
    nf4: nf4_values, NF4, scale |b| half(b.d) * tables::NF4_STEP;
    fp4: fp4_values, FP4, scale |b| half(b.d) * tables::FP4_STEP;
}
