//! Types whose values are points of a grid (`block/grid.rs`): a block's 32 or 64 indices are put together in
//! registers, points are gathered 64 values at a time, and signs are given to the activations.

// Loops count 64-value parts and index several things by them.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;

use quern_tensor_io::decode::grid::{IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS};

use super::large::{EVEN_BYTES, add_16s, add_32s, constant, load_sums, load64, spread16};
use super::{AHEAD, vnni};
use crate::activations::Row;
use crate::block::grid::{IQ1_EIGHTS, iq1_m_d};

/// Four parts of 64 magnitudes and their signs.
type Signed = ([__m512i; 4], [u64; 4]);

/// Shifts 0, `step`, 2 `step`, 3 `step`, repeated.
const fn fields(step: u16, count: usize) -> [u16; 32] {
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
    unsafe fn load32(p: *const u8) -> __m256i {
        // SAFETY: promised.
        unsafe { _mm256_loadu_si256(p.cast()) }
    }

    /// # Safety
    /// 32 bytes are readable.
    #[inline]
    unsafe fn load_signs(p: *const u8) -> [u64; 4] {
        // SAFETY: promised.
        unsafe { p.cast::<[u64; 4]>().read_unaligned() }
    }

    /// Points of eight values.
    ///
    /// # Safety
    /// The 32 indices of 16 bits are below the grid's length.
    #[inline]
    unsafe fn eights(grid: &[[u8; 8]], index: __m512i) -> [__m512i; 4] {
        let index = [
            _mm512_castsi512_si128(index),
            _mm512_extracti32x4_epi32::<1>(index),
            _mm512_extracti32x4_epi32::<2>(index),
            _mm512_extracti32x4_epi32::<3>(index),
        ];
        // SAFETY: within the grid, as promised.
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
            // SAFETY: within the grid, as promised.
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
    ///
    /// # Safety
    /// 8 bytes are readable.
    #[inline]
    unsafe fn odd_nibbles(p: *const u8) -> __m256i {
        // SAFETY: promised.
        let x = unsafe { _mm_loadl_epi64(p.cast()) };
        let x = _mm_and_si128(_mm_unpacklo_epi8(x, _mm_srli_epi16::<4>(x)), _mm_set1_epi8(15));
        _mm256_cvtepu8_epi16(odd(x))
    }

    #[inline]
    unsafe fn iq2_xxs_points(b: *const u8) -> Signed {
        let fields = _mm512_set1_epi64(i64::from_le_bytes([32, 39, 46, 53, 0, 0, 0, 0]));
        // SAFETY: within the block's 66 bytes; indices of 8 bits, a grid of 256.
        unsafe {
            let x = load64(b.add(2));
            let signs = _mm512_cvtepi64_epi32(_mm512_multishift_epi64_epi8(fields, x));
            (eights(&IQ2_XXS, _mm512_cvtepu8_epi16(_mm512_cvtepi64_epi32(x))), signs7(signs))
        }
    }

    #[inline]
    unsafe fn iq2_xxs_scales(b: *const u8) -> __m128i {
        // SAFETY: within the block's 66 bytes.
        odd(_mm512_cvtepi64_epi8(_mm512_srli_epi64::<60>(unsafe { load64(b.add(2)) })))
    }

    #[inline]
    unsafe fn iq2_xs_points(b: *const u8) -> Signed {
        // SAFETY: within the block's 74 bytes; indices of 9 bits, a grid of 512.
        unsafe {
            let x = load64(b.add(2));
            let index = _mm512_and_si512(x, _mm512_set1_epi16(511));
            (eights(&IQ2_XS, index), signs7(_mm512_cvtepi16_epi8(_mm512_srli_epi16::<9>(x))))
        }
    }

    #[inline]
    unsafe fn iq2_xs_scales(b: *const u8) -> __m256i {
        // SAFETY: within the block's 74 bytes.
        unsafe { odd_nibbles(b.add(66)) }
    }

    #[inline]
    unsafe fn iq2_s_points(b: *const u8) -> Signed {
        const PICK: [u16; 32] = spread16(0, 4, 1);
        const SHIFT: [u16; 32] = fields(2, 4);
        // SAFETY: within the block's 82 bytes; indices of 10 bits, a grid of 1024.
        unsafe {
            let high = _mm512_castsi128_si512(_mm_loadl_epi64(b.add(66).cast()));
            let high = _mm512_maskz_permutexvar_epi8(EVEN_BYTES, constant(&PICK), high);
            let high = _mm512_srlv_epi16(high, constant(&SHIFT));
            let high = _mm512_slli_epi16::<8>(_mm512_and_si512(high, _mm512_set1_epi16(3)));
            let index = _mm512_or_si512(high, _mm512_cvtepu8_epi16(load32(b.add(2))));
            (eights(&IQ2_S, index), load_signs(b.add(34)))
        }
    }

    #[inline]
    unsafe fn iq2_s_scales(b: *const u8) -> __m256i {
        // SAFETY: within the block's 82 bytes.
        unsafe { odd_nibbles(b.add(74)) }
    }

    #[inline]
    unsafe fn iq3_xxs_points(b: *const u8) -> Signed {
        let fields = _mm256_set1_epi64x(i64::from_le_bytes([0, 7, 14, 21, 32, 39, 46, 53]));
        // SAFETY: within the block's 98 bytes; indices of 8 bits, a grid of 256.
        unsafe {
            let signs = _mm256_multishift_epi64_epi8(fields, load32(b.add(66)));
            (fours(&IQ3_XXS, load64(b.add(2)), [0; 4]), signs7(signs))
        }
    }

    #[inline]
    unsafe fn iq3_xxs_scales(b: *const u8) -> __m128i {
        // SAFETY: within the block's 98 bytes.
        odd(_mm256_cvtepi32_epi8(_mm256_srli_epi32::<28>(unsafe { load32(b.add(66)) })))
    }

    #[inline]
    unsafe fn iq3_s_points(b: *const u8) -> Signed {
        // SAFETY: within the block's 110 bytes; indices of 9 bits, a grid of 512.
        unsafe {
            let high = b.add(66).cast::<[u16; 4]>().read_unaligned();
            (fours(&IQ3_S, load64(b.add(2)), high), load_signs(b.add(74)))
        }
    }

    #[inline]
    unsafe fn iq3_s_scales(b: *const u8) -> __m128i {
        // SAFETY: within the block's 110 bytes.
        let x = _mm_cvtsi32_si128(unsafe { b.add(106).cast::<i32>().read_unaligned() });
        odd(_mm_and_si128(_mm_unpacklo_epi8(x, _mm_srli_epi16::<4>(x)), _mm_set1_epi8(15)))
    }

    /// Eight times the grid's values and one: 0, 8 or 16.
    #[inline]
    unsafe fn iq1_s_points(b: *const u8) -> [__m512i; 4] {
        const PICK: [u16; 32] = spread16(0, 4, 1);
        const SHIFT: [u16; 32] = fields(3, 4);
        // SAFETY: within the block's 50 bytes; indices of 11 bits, a grid of 2048.
        unsafe {
            let high = _mm512_castsi128_si512(_mm_loadu_si128(b.add(34).cast()));
            let high = _mm512_srlv_epi16(_mm512_permutexvar_epi16(constant(&PICK), high), constant(&SHIFT));
            let high = _mm512_slli_epi16::<8>(_mm512_and_si512(high, _mm512_set1_epi16(7)));
            eights(&IQ1_EIGHTS, _mm512_or_si512(high, _mm512_cvtepu8_epi16(load32(b.add(2)))))
        }
    }

    /// The values and 9: `8 (grid + 1)`, and 2 where points are shifted up.
    #[inline]
    unsafe fn iq1_m_parts(b: *const u8) -> [__m512i; 4] {
        const PICK: [u16; 32] = spread16(0, 2, 1);
        const SHIFT: [u16; 32] = fields(4, 2);
        // SAFETY: within the block's 56 bytes; indices of 11 bits, a grid of 2048.
        unsafe {
            let high = _mm512_castsi128_si512(_mm_loadu_si128(b.add(32).cast()));
            let high = _mm512_maskz_permutexvar_epi8(EVEN_BYTES, constant(&PICK), high);
            let high = _mm512_srlv_epi16(high, constant(&SHIFT));
            let up = _mm512_testn_epi16_mask(high, _mm512_set1_epi16(8));
            let high = _mm512_slli_epi16::<8>(_mm512_and_si512(high, _mm512_set1_epi16(7)));
            let index = _mm512_or_si512(high, _mm512_cvtepu8_epi16(load32(b)));
            let mut codes = eights(&IQ1_EIGHTS, index);
            for z in 0..4 {
                let up = (up >> (8 * z)) as u8;
                codes[z] = _mm512_mask_add_epi64(codes[z], up, codes[z], _mm512_set1_epi8(2));
            }
            codes
        }
    }

    #[inline]
    unsafe fn iq1_s_block(b: *const u8, c: *const u8, s: *const i16) -> __m512i {
        const TWICE: [u16; 32] = spread16(0, 2, 1);
        // SAFETY: all within the block's 50 bytes, its 256 codes and 16 sums.
        unsafe {
            let head = _mm_loadu_si128(b.add(34).cast());
            let scales = _mm_and_si128(_mm_srli_epi16::<12>(head), _mm_set1_epi16(7));
            let scales = _mm_or_si128(_mm_add_epi16(scales, scales), _mm_set1_epi16(1));
            let points = iq1_s_points(b);
            let bytes = _mm_cvtepi16_epi8(scales);
            let mut acc = _mm512_setzero_si512();
            for z in 0..4 {
                acc = add_32s(acc, z, points[z], load64(c.add(64 * z)), bytes);
            }
            // The sums times 8, for which the points are too large, and one more or less for the shift.
            let up = !_mm_movepi16_mask(head);
            let weights = _mm_add_epi16(_mm_slli_epi16::<3>(scales), scales);
            let weights = _mm_mask_sub_epi16(weights, up, weights, _mm_add_epi16(scales, scales));
            let twice = _mm512_castsi512_si256(constant(&TWICE));
            let weights = _mm256_permutexvar_epi16(twice, _mm256_castsi128_si256(weights));
            let zero = _mm256_dpwssd_epi32(_mm256_setzero_si256(), weights, load_sums(s));
            _mm512_sub_epi32(acc, _mm512_zextsi256_si512(zero))
        }
    }

    #[inline]
    unsafe fn iq1_m_block(b: *const u8, c: *const u8, s: *const i16) -> __m512i {
        const PICK: [u16; 32] = spread16(0, 4, 1);
        const SHIFT: [u16; 32] = fields(3, 4);
        // SAFETY: all within the block's 56 bytes, its 256 codes and 16 sums.
        unsafe {
            let (pick, shift) = (constant(&PICK), constant(&SHIFT));
            let head = _mm256_castsi128_si256(_mm_loadl_epi64(b.add(48).cast()));
            let head = _mm256_permutexvar_epi16(_mm512_castsi512_si256(pick), head);
            let scales = _mm256_srlv_epi16(head, _mm512_castsi512_si256(shift));
            let scales = _mm256_and_si256(scales, _mm256_set1_epi16(7));
            let scales = _mm256_or_si256(_mm256_add_epi16(scales, scales), _mm256_set1_epi16(1));
            let codes = iq1_m_parts(b);
            let mut acc = _mm512_setzero_si512();
            for z in 0..4 {
                acc = add_16s(acc, z, codes[z], load64(c.add(64 * z)), scales);
            }
            let nines = _mm256_add_epi16(_mm256_slli_epi16::<3>(scales), scales);
            let zero = _mm256_dpwssd_epi32(_mm256_setzero_si256(), nines, load_sums(s));
            _mm512_sub_epi32(acc, _mm512_zextsi256_si512(zero))
        }
    }

    /// Stores a block's codes.
    #[inline]
    fn store(parts: [__m512i; 4], codes: &mut [u8; 256]) {
        for (part, codes) in parts.into_iter().zip(codes.as_chunks_mut::<64>().0) {
            // SAFETY: 64 codes.
            unsafe { _mm512_storeu_si512(codes.as_mut_ptr().cast(), part) };
        }
    }

    /// A block's codes.
    pub(super) fn iq1_s_codes(block: &[u8], codes: &mut [u8; 256]) {
        assert!(block.len() == 50);
        // SAFETY: a whole block.
        let (mut parts, head) = unsafe { (iq1_s_points(block.as_ptr()), block.as_ptr().add(34)) };
        // SAFETY: the last 16 bytes of the block.
        let up = !_mm_movepi16_mask(unsafe { _mm_loadu_si128(head.cast()) });
        for z in 0..4 {
            // Two bits to 32 bytes, four words of 64 bits, each.
            let up = (up >> (2 * z) & 1) * 15 + (up >> (2 * z + 1) & 1) * 240;
            parts[z] = _mm512_mask_add_epi64(parts[z], up, parts[z], _mm512_set1_epi8(2));
        }
        store(parts, codes);
    }

    /// A block's codes.
    pub(super) fn iq1_m_codes(block: &[u8], codes: &mut [u8; 256]) {
        assert!(block.len() == 56);
        // SAFETY: a whole block.
        store(unsafe { iq1_m_parts(block.as_ptr()) }, codes);
    }
}

macro_rules! signed {
    ($($codes:ident, $block:ident: $points:ident, $scales:ident, $add:ident, $bytes:literal bytes, zero $zero:literal;)*) => { vnni! { $(
        #[inline]
        unsafe fn $block(b: *const u8, c: *const u8, _: *const i16) -> __m512i {
            // SAFETY: a whole block and its 256 codes.
            unsafe {
                let ((points, signs), scales) = ($points(b), $scales(b));
                let mut acc = _mm512_setzero_si512();
                for z in 0..4 {
                    let c = load64(c.add(64 * z));
                    let c = _mm512_mask_sub_epi8(c, signs[z], _mm512_setzero_si512(), c);
                    acc = $add(acc, z, points[z], c, scales);
                }
                acc
            }
        }

        /// A block's codes.
        pub(super) fn $codes(block: &[u8], codes: &mut [u8; 256]) {
            assert!(block.len() == $bytes);
            // SAFETY: a whole block.
            let (mut points, signs) = unsafe { $points(block.as_ptr()) };
            for z in 0..4 {
                let zero = _mm512_set1_epi8($zero);
                points[z] = _mm512_mask_sub_epi8(_mm512_add_epi8(points[z], zero), signs[z], zero, points[z]);
            }
            store(points, codes);
        }
    )* } };
}

signed! {
    iq2_xxs_codes, iq2_xxs_block: iq2_xxs_points, iq2_xxs_scales, add_32s, 66 bytes, zero 43;
    iq2_xs_codes, iq2_xs_block: iq2_xs_points, iq2_xs_scales, add_16s, 74 bytes, zero 43;
    iq2_s_codes, iq2_s_block: iq2_s_points, iq2_s_scales, add_16s, 82 bytes, zero 43;
    iq3_xxs_codes, iq3_xxs_block: iq3_xxs_points, iq3_xxs_scales, add_32s, 98 bytes, zero 62;
    iq3_s_codes, iq3_s_block: iq3_s_points, iq3_s_scales, add_32s, 110 bytes, zero 15;
}

vnni! {
    #[inline]
    unsafe fn half(b: *const u8) -> f32 {
        // SAFETY: the block's first 2 bytes.
        let bits = unsafe { b.cast::<u16>().read_unaligned() };
        _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(bits.into())))
    }

    #[inline]
    unsafe fn iq1_m_scale(b: *const u8) -> f32 {
        // SAFETY: within the block's 56 bytes.
        iq1_m_d(unsafe { b.add(48).cast::<[u8; 8]>().read_unaligned() })
    }
}

macro_rules! rows {
    ($($name:ident: $block:ident, $bytes:literal bytes, d $d:ident, unit $unit:literal;)*) => { vnni! { $(
        /// `y[r]` = weight row r times the activations.
        pub(super) fn $name(weights: &[u8], x: Row, y: &mut [f32]) {
            let blocks = x.d.len();
            assert_eq!(weights.len(), y.len() * blocks * $bytes);
            assert!(x.codes.len() == blocks * 256 && x.sums.len() == blocks * 16);
            for (row, y) in weights.chunks_exact((blocks * $bytes).max(1)).zip(y) {
                let mut sum = _mm512_setzero_ps();
                for (i, &xd) in x.d.iter().enumerate() {
                    // SAFETY: block i of the row, codes and sums, whose lengths are checked above; a
                    // prefetch may point anywhere.
                    unsafe {
                        let b = row.as_ptr().add(i * $bytes);
                        for line in (0..$bytes).step_by(64) {
                            _mm_prefetch::<_MM_HINT_T0>(b.wrapping_add(AHEAD + line).cast());
                        }
                        let (c, s) = (x.codes.as_ptr().add(i * 256), x.sums.as_ptr().add(i * 16));
                        let acc = _mm512_cvtepi32_ps($block(b, c.cast(), s));
                        sum = _mm512_fmadd_ps(acc, _mm512_set1_ps($d(b) * xd), sum);
                    }
                }
                *y = _mm512_reduce_add_ps(sum) * $unit;
            }
        }
    )* } };
}

rows! {
    iq2_xxs: iq2_xxs_block, 66 bytes, d half, unit 0.125;
    iq2_xs: iq2_xs_block, 74 bytes, d half, unit 0.125;
    iq2_s: iq2_s_block, 82 bytes, d half, unit 0.125;
    iq3_xxs: iq3_xxs_block, 98 bytes, d half, unit 0.25;
    iq3_s: iq3_s_block, 110 bytes, d half, unit 1.0;
    iq1_s: iq1_s_block, 50 bytes, d half, unit 0.125;
    iq1_m: iq1_m_block, 56 bytes, d iq1_m_scale, unit 0.125;
}
