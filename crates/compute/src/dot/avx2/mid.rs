//! Blocks of 64 and 128: groups of 32 values, each under its own scale of the activations.

use std::arch::x86_64::*;

use quern_tensor_io::layout::{self, NVFP4, Q1_0, Q2_0};

use super::{avx2, bits, half, load32, look_up, pairs, total};
use crate::activations::Row;
use crate::block::tables;
use crate::dot::prefetch::Prefetch;

avx2! {
    /// # Safety
    /// `g` is below 4, as are the groups of a block.
    #[inline]
    unsafe fn q1_0_values(b: &Q1_0, g: usize) -> __m256i {
        // SAFETY: within the block's 16 bytes of codes.
        let set = bits(unsafe { b.qs.as_ptr().add(4 * g).cast::<i32>().read_unaligned() });
        _mm256_sub_epi8(_mm256_and_si256(set, _mm256_set1_epi8(2)), _mm256_set1_epi8(1))
    }

    /// # Safety
    /// `g` is below 2.
    #[inline]
    unsafe fn q2_0_values(b: &Q2_0, g: usize) -> __m256i {
        // SAFETY: within the block's 16 bytes of codes.
        let x = unsafe { _mm_loadl_epi64(b.qs.as_ptr().add(8 * g).cast()) };
        // Fields 0 and 1 of every byte side by side, then 2 and 3, then all four.
        let low = _mm_unpacklo_epi8(x, _mm_srli_epi16::<2>(x));
        let high = _mm_unpacklo_epi8(_mm_srli_epi16::<4>(x), _mm_srli_epi16::<6>(x));
        let codes = _mm256_set_m128i(_mm_unpackhi_epi16(low, high), _mm_unpacklo_epi16(low, high));
        _mm256_sub_epi8(_mm256_and_si256(codes, _mm256_set1_epi8(3)), _mm256_set1_epi8(1))
    }

    /// # Safety
    /// `g` is below 2.
    #[inline]
    unsafe fn nvfp4_values(b: &NVFP4, g: usize) -> __m256i {
        // SAFETY: within the block's 32 bytes of codes.
        let x = unsafe { _mm_loadu_si128(b.qs.as_ptr().add(2 * g).cast()) };
        let high = _mm_srli_epi16::<4>(x);
        let codes = _mm256_set_m128i(_mm_unpackhi_epi64(x, high), _mm_unpacklo_epi64(x, high));
        look_up(&tables::MXFP4, _mm256_and_si256(codes, _mm256_set1_epi8(15)))
    }


    /// Two UE4M3 scales, four lanes each. Without its sign bit UE4M3 is the top of an f16 whose exponents
    /// are 8 lower; half of it is 2^7 times that.
    #[inline]
    fn nvfp4_scales(b: &NVFP4, g: usize) -> __m256 {
        let [x, y] = [b.d[2 * g], b.d[2 * g + 1]].map(|c| if c == 0x7f { 0 } else { i16::from(c & 0x7f) << 7 });
        let bits = _mm_setr_epi16(x, x, x, x, y, y, y, y);
        _mm256_mul_ps(_mm256_cvtph_ps(bits), _mm256_set1_ps(128.0))
    }
}

macro_rules! rows {
    ($($name:ident: $values:ident, $groups:literal groups in $block:ident, scale |$b:ident, $g:ident| $scale:expr;)*) => { avx2! { $(
        /// `y[r]` = weight row r times the activations.
        pub(super) fn $name(weights: &[u8], x: Row, y: &mut [f32]) {
            const BYTES: usize = size_of::<$block>();
            let blocks = x.d.len() / $groups;
            assert_eq!(weights.len(), y.len() * blocks * BYTES);
            assert!(x.d.len() == blocks * $groups && x.codes.len() == x.d.len() * 32);
            let ahead = Prefetch::of(BYTES, 32 * $groups);
            for (row, y) in weights.chunks_exact((blocks * BYTES).max(1)).zip(y) {
                let mut sum = _mm256_setzero_ps();
                let scales = x.d.as_chunks::<$groups>().0;
                for (i, ($b, d)) in layout::blocks::<$block>(row).iter().zip(scales).enumerate() {
                    ahead.fetch(std::ptr::from_ref($b).cast(), BYTES);
                    for ($g, &d) in d.iter().enumerate() {
                        // SAFETY: a group of the block, and 32 codes, of which there are as many as checked above.
                        let (v, c) = unsafe {
                            let c = load32(x.codes.as_ptr().add((i * $groups + $g) * 32).cast());
                            ($values($b, $g), c)
                        };
                        let dot = _mm256_madd_epi16(pairs(v, c), _mm256_set1_epi16(1));
                        let scale = _mm256_mul_ps($scale, _mm256_set1_ps(d));
                        sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), scale, sum);
                    }
                }
                *y = total(sum);
            }
        }
    )* } };
}

rows! {
    q1_0: q1_0_values, 4 groups in Q1_0, scale |b, g| _mm256_set1_ps(half(b.d));
    q2_0: q2_0_values, 2 groups in Q2_0, scale |b, g| _mm256_set1_ps(half(b.d));
    nvfp4: nvfp4_values, 2 groups in NVFP4, scale |b, g| nvfp4_scales(b, g);
}
