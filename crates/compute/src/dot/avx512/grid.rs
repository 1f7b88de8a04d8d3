//! Types whose values are points of a grid (`block/grid.rs`): a block's 32 or 64 indices are put together in
//! registers, points are gathered 64 values at a time, and signs are given to the activations.

// Loops count 64-value parts and index several things by them.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;

use quern_tensor_io::decode::grid::{IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS};
use quern_tensor_io::layout::{self, F16, IQ1M, IQ1S, IQ2S, IQ2XS, IQ2XXS, IQ3S, IQ3XXS};

use super::bits::{EVEN_BYTES, add_16s, add_32s, constant, load64, spread16};
use super::iq1::{iq1_m_block, iq1_s_block};
pub(super) use super::iq1::{iq1_m_codes, iq1_s_codes};
use super::vnni;
use crate::activations::Row;
use crate::block::grid::constants;
use crate::block::view;
use crate::dot::prefetch::Prefetch;

/// Four parts of 64 magnitudes and their signs.
type Signed = ([__m512i; 4], [u64; 4]);

/// Shifts 0, `step`, 2 `step`, 3 `step`, repeated.
pub(super) const fn fields(step: u16, count: usize) -> [u16; 32] {
    let mut shift = [0; 32];
    let mut i = 0;
    while i < 32 {
        shift[i] = step * (i % count) as u16;
        i += 1;
    }
    shift
}

vnni! {
    /// # Safety
    /// 32 bytes are readable.
    #[inline]
    pub(super) unsafe fn load32(p: *const u8) -> __m256i {
        // SAFETY: guaranteed by the caller.
        unsafe { _mm256_loadu_si256(p.cast()) }
    }

    #[inline]
    fn load_signs(signs: &[u8; 32]) -> [u64; 4] {
        // SAFETY: 32 bytes.
        unsafe { signs.as_ptr().cast::<[u64; 4]>().read_unaligned() }
    }

    /// Points of eight values.
    ///
    /// # Safety
    /// The 32 indices of 16 bits are below the grid's length.
    #[inline]
    pub(super) unsafe fn eights(grid: &[[u8; 8]], index: __m512i) -> [__m512i; 4] {
        let index = [
            _mm512_castsi512_si128(index),
            _mm512_extracti32x4_epi32::<1>(index),
            _mm512_extracti32x4_epi32::<2>(index),
            _mm512_extracti32x4_epi32::<3>(index),
        ];
        // SAFETY: within the grid, as the caller guarantees.
        index.map(|i| unsafe { _mm512_i32gather_epi64::<8>(_mm256_cvtepu16_epi32(i), grid.as_ptr().cast()) })
    }

    /// Points of four values, their indices 64 bytes and, where they have nine bits, one bit each of `high`.
    ///
    /// # Safety
    /// The indices are below the grid's length.
    #[inline]
    unsafe fn fours(grid: &[[u8; 4]], low: __m512i, high: [u16; 4]) -> [__m512i; 4] {
        let low = [
            _mm512_castsi512_si128(low),
            _mm512_extracti32x4_epi32::<1>(low),
            _mm512_extracti32x4_epi32::<2>(low),
            _mm512_extracti32x4_epi32::<3>(low),
        ];
        std::array::from_fn(|z| {
            let index = _mm512_cvtepu8_epi32(low[z]);
            let index = _mm512_mask_or_epi32(index, high[z], index, _mm512_set1_epi32(256));
            // SAFETY: within the grid, as the caller guarantees.
            unsafe { _mm512_i32gather_epi32::<4>(index, grid.as_ptr().cast()) }
        })
    }

    /// 32 bytes of signs from their low seven bits: the eighth makes their number even.
    #[inline]
    fn signs7(x: __m256i) -> [u64; 4] {
        // Bit 7 where a nibble has an odd number of ones.
        let odd = _mm_setr_epi8(
            0, -128, -128, 0, -128, 0, 0, -128, -128, 0, 0, -128, 0, -128, -128, 0);
        let odd = _mm256_broadcastsi128_si256(odd);
        let x = _mm256_and_si256(x, _mm256_set1_epi8(127));
        let nibble = _mm256_set1_epi8(15);
        let low = _mm256_shuffle_epi8(odd, _mm256_and_si256(x, nibble));
        let high = _mm256_shuffle_epi8(odd, _mm256_and_si256(_mm256_srli_epi16::<4>(x), nibble));
        let x = _mm256_xor_si256(_mm256_xor_si256(low, high), x);
        // SAFETY: both are 32 bytes without padding, all bit patterns valid.
        unsafe { std::mem::transmute(x) }
    }

    /// `2 x + 1` in bytes; `x` below 64.
    #[inline]
    fn odd(x: __m128i) -> __m128i {
        _mm_or_si128(_mm_add_epi8(x, x), _mm_set1_epi8(1))
    }

    /// The 16 scales of eight bytes, low nibbles first, in 16 bits.
    #[inline]
    fn odd_nibbles(x: &[u8; 8]) -> __m256i {
        // SAFETY: 8 bytes.
        let x = unsafe { _mm_loadl_epi64(x.as_ptr().cast()) };
        let x = _mm_and_si128(_mm_unpacklo_epi8(x, _mm_srli_epi16::<4>(x)), _mm_set1_epi8(15));
        _mm256_cvtepu8_epi16(odd(x))
    }

    #[inline]
    fn iq2_xxs_points(b: &IQ2XXS) -> Signed {
        let fields = _mm512_set1_epi64(i64::from_le_bytes([32, 39, 46, 53, 0, 0, 0, 0]));
        // SAFETY: within the block; indices of 8 bits, a grid of 256.
        unsafe {
            let x = load64(b.qs.as_ptr().cast());
            let signs = _mm512_cvtepi64_epi32(_mm512_multishift_epi64_epi8(fields, x));
            (eights(&IQ2_XXS, _mm512_cvtepu8_epi16(_mm512_cvtepi64_epi32(x))), signs7(signs))
        }
    }

    #[inline]
    fn iq2_xxs_scales(b: &IQ2XXS) -> __m128i {
        // SAFETY: within the block.
        odd(_mm512_cvtepi64_epi8(_mm512_srli_epi64::<60>(unsafe { load64(b.qs.as_ptr().cast()) })))
    }

    #[inline]
    fn iq2_xs_points(b: &IQ2XS) -> Signed {
        // SAFETY: within the block; indices of 9 bits, a grid of 512.
        unsafe {
            let x = load64(b.qs.as_ptr().cast());
            let index = _mm512_and_si512(x, _mm512_set1_epi16(511));
            (eights(&IQ2_XS, index), signs7(_mm512_cvtepi16_epi8(_mm512_srli_epi16::<9>(x))))
        }
    }

    #[inline]
    fn iq2_xs_scales(b: &IQ2XS) -> __m256i {
        odd_nibbles(&b.scales)
    }

    #[inline]
    fn iq2_s_points(b: &IQ2S) -> Signed {
        const PICK: [u16; 32] = spread16(0, 4, 1);
        const SHIFT: [u16; 32] = fields(2, 4);
        // SAFETY: within the block; indices of 10 bits, a grid of 1024.
        unsafe {
            let high = _mm512_castsi128_si512(_mm_loadl_epi64(b.qh.as_ptr().cast()));
            let high = _mm512_maskz_permutexvar_epi8(EVEN_BYTES, constant(&PICK), high);
            let high = _mm512_srlv_epi16(high, constant(&SHIFT));
            let high = _mm512_slli_epi16::<8>(_mm512_and_si512(high, _mm512_set1_epi16(3)));
            let index = _mm512_or_si512(high, _mm512_cvtepu8_epi16(load32(b.qs.as_ptr())));
            (eights(&IQ2_S, index), load_signs(&b.signs))
        }
    }

    #[inline]
    fn iq2_s_scales(b: &IQ2S) -> __m256i {
        odd_nibbles(&b.scales)
    }

    #[inline]
    fn iq3_xxs_points(b: &IQ3XXS) -> Signed {
        let fields = _mm256_set1_epi64x(i64::from_le_bytes([0, 7, 14, 21, 32, 39, 46, 53]));
        // SAFETY: within the block; indices of 8 bits, a grid of 256.
        unsafe {
            let signs = _mm256_multishift_epi64_epi8(fields, load32(b.tails.as_ptr().cast()));
            (fours(&IQ3_XXS, load64(b.qs.as_ptr()), [0; 4]), signs7(signs))
        }
    }

    #[inline]
    fn iq3_xxs_scales(b: &IQ3XXS) -> __m128i {
        // SAFETY: within the block.
        odd(_mm256_cvtepi32_epi8(_mm256_srli_epi32::<28>(unsafe { load32(b.tails.as_ptr().cast()) })))
    }

    #[inline]
    fn iq3_s_points(b: &IQ3S) -> Signed {
        // SAFETY: within the block; indices of 9 bits, a grid of 512.
        unsafe {
            let high = b.qh.as_ptr().cast::<[u16; 4]>().read_unaligned();
            (fours(&IQ3_S, load64(b.qs.as_ptr()), high), load_signs(&b.signs))
        }
    }

    #[inline]
    fn iq3_s_scales(b: &IQ3S) -> __m128i {
        let x = _mm_cvtsi32_si128(i32::from_le_bytes(b.scales));
        odd(_mm_and_si128(_mm_unpacklo_epi8(x, _mm_srli_epi16::<4>(x)), _mm_set1_epi8(15)))
    }

    /// Stores a block's codes.
    #[inline]
    pub(super) fn store(parts: [__m512i; 4], codes: &mut [u8; 256]) {
        for (part, codes) in parts.into_iter().zip(codes.as_chunks_mut::<64>().0) {
            // SAFETY: 64 codes.
            unsafe { _mm512_storeu_si512(codes.as_mut_ptr().cast(), part) };
        }
    }
}

macro_rules! signed {
    ($($codes:ident, $integers:ident: $points:ident, $scales:ident, $add:ident, $block:ident;)*) => { vnni! { $(
        #[inline]
        unsafe fn $integers(b: &$block, c: *const u8, _: *const i16) -> __m512i {
            let ((points, signs), scales) = ($points(b), $scales(b));
            let mut acc = _mm512_setzero_si512();
            for z in 0..4 {
                // SAFETY: of the block's 256 codes.
                let c = unsafe { load64(c.add(64 * z)) };
                let c = _mm512_mask_sub_epi8(c, signs[z], _mm512_setzero_si512(), c);
                acc = $add(acc, z, points[z], c, scales);
            }
            acc
        }

        /// A block's codes.
        pub(super) fn $codes(block: &[u8], codes: &mut [u8; 256]) {
            let (mut points, signs) = $points(view(block));
            let zero = const { constants(<$block as layout::Block>::ELEMENT_TYPE).unwrap().zero };
            let zero = _mm512_set1_epi8(zero as i8);
            for z in 0..4 {
                points[z] = _mm512_mask_sub_epi8(_mm512_add_epi8(points[z], zero), signs[z], zero, points[z]);
            }
            store(points, codes);
        }
    )* } };
}

signed! {
    iq2_xxs_codes, iq2_xxs_block: iq2_xxs_points, iq2_xxs_scales, add_32s, IQ2XXS;
    iq2_xs_codes, iq2_xs_block: iq2_xs_points, iq2_xs_scales, add_16s, IQ2XS;
    iq2_s_codes, iq2_s_block: iq2_s_points, iq2_s_scales, add_16s, IQ2S;
    iq3_xxs_codes, iq3_xxs_block: iq3_xxs_points, iq3_xxs_scales, add_32s, IQ3XXS;
    iq3_s_codes, iq3_s_block: iq3_s_points, iq3_s_scales, add_32s, IQ3S;
}

vnni! {
    #[inline]
    fn half(d: F16) -> f32 {
        _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(d.bits().into())))
    }
}

macro_rules! rows {
    ($($name:ident: $integers:ident, $block:ident, |$b:ident| d $d:expr;)*) => { vnni! { $(
        /// `y[r]` = weight row r times the activations.
        pub(super) fn $name(weights: &[u8], x: Row, y: &mut [f32]) {
            const BYTES: usize = size_of::<$block>();
            let blocks = x.d.len();
            assert_eq!(weights.len(), y.len() * blocks * BYTES);
            assert!(x.codes.len() == blocks * 256 && x.sums.len() == blocks * 16);
            let ahead = Prefetch::of(BYTES, 256);
            for (row, y) in weights.chunks_exact((blocks * BYTES).max(1)).zip(y) {
                let mut sum = _mm512_setzero_ps();
                for (i, &xd) in x.d.iter().enumerate() {
                    // SAFETY: block i of the row, codes and sums, whose lengths are checked above.
                    unsafe {
                        let b = row.as_ptr().cast::<$block>().add(i);
                        ahead.fetch(b.cast(), BYTES);
                        let $b = &*b;
                        let (c, s) = (x.codes.as_ptr().add(i * 256), x.sums.as_ptr().add(i * 16));
                        let acc = _mm512_cvtepi32_ps($integers($b, c.cast(), s));
                        sum = _mm512_fmadd_ps(acc, _mm512_set1_ps(half($d) * xd), sum);
                    }
                }
                let unit = const { constants(<$block as layout::Block>::ELEMENT_TYPE).unwrap().unit };
                *y = _mm512_reduce_add_ps(sum) * unit;
            }
        }
    )* } };
}

rows! {
    iq2_xxs: iq2_xxs_block, IQ2XXS, |b| d b.d;
    iq2_xs: iq2_xs_block, IQ2XS, |b| d b.d;
    iq2_s: iq2_s_block, IQ2S, |b| d b.d;
    iq3_xxs: iq3_xxs_block, IQ3XXS, |b| d b.d;
    iq3_s: iq3_s_block, IQ3S, |b| d b.d;
    iq1_s: iq1_s_block, IQ1S, |b| d b.d;
    iq1_m: iq1_m_block, IQ1M, |b| d b.d();
}
