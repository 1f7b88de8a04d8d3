//! iq1: points of eight values, all shifted up or down by 1/8.

// Loops count 64-value parts and index several things by them.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;

use quern_tensor_io::layout::{IQ1M, IQ1S};

use super::bits::{EVEN_BYTES, add_16s, add_32s, constant, load_sums, load64, spread16};
use super::grid::{eights, fields, load32, store};
use super::vnni;
use crate::block::grid::IQ1_EIGHTS;
use crate::block::view;

vnni! {
    /// Eight times the grid's values and one: 0, 8 or 16.
    #[inline]
    fn iq1_s_points(b: &IQ1S) -> [__m512i; 4] {
        const PICK: [u16; 32] = spread16(0, 4, 1);
        const SHIFT: [u16; 32] = fields(3, 4);
        // SAFETY: within the block; indices of 11 bits, a grid of 2048.
        unsafe {
            let high = _mm512_castsi128_si512(_mm_loadu_si128(b.qh.as_ptr().cast()));
            let high = _mm512_srlv_epi16(_mm512_permutexvar_epi16(constant(&PICK), high), constant(&SHIFT));
            let high = _mm512_slli_epi16::<8>(_mm512_and_si512(high, _mm512_set1_epi16(7)));
            eights(&IQ1_EIGHTS, _mm512_or_si512(high, _mm512_cvtepu8_epi16(load32(b.qs.as_ptr()))))
        }
    }

    /// The values and 9: `8 (grid + 1)`, and 2 where points are shifted up.
    #[inline]
    fn iq1_m_parts(b: &IQ1M) -> [__m512i; 4] {
        const PICK: [u16; 32] = spread16(0, 2, 1);
        const SHIFT: [u16; 32] = fields(4, 2);
        // SAFETY: within the block; indices of 11 bits, a grid of 2048.
        unsafe {
            let high = _mm512_castsi128_si512(_mm_loadu_si128(b.qh.as_ptr().cast()));
            let high = _mm512_maskz_permutexvar_epi8(EVEN_BYTES, constant(&PICK), high);
            let high = _mm512_srlv_epi16(high, constant(&SHIFT));
            let up = _mm512_testn_epi16_mask(high, _mm512_set1_epi16(8));
            let high = _mm512_slli_epi16::<8>(_mm512_and_si512(high, _mm512_set1_epi16(7)));
            let index = _mm512_or_si512(high, _mm512_cvtepu8_epi16(load32(b.qs.as_ptr())));
            let mut codes = eights(&IQ1_EIGHTS, index);
            for z in 0..4 {
                let up = (up >> (8 * z)) as u8;
                codes[z] = _mm512_mask_add_epi64(codes[z], up, codes[z], _mm512_set1_epi8(2));
            }
            codes
        }
    }

    #[inline]
    pub(super) unsafe fn iq1_s_block(b: &IQ1S, c: *const u8, s: *const i16) -> __m512i {
        const TWICE: [u16; 32] = spread16(0, 2, 1);
        // SAFETY: all within the block, its 256 codes and 16 sums.
        unsafe {
            let head = _mm_loadu_si128(b.qh.as_ptr().cast());
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
    pub(super) unsafe fn iq1_m_block(b: &IQ1M, c: *const u8, s: *const i16) -> __m512i {
        const PICK: [u16; 32] = spread16(0, 4, 1);
        const SHIFT: [u16; 32] = fields(3, 4);
        // SAFETY: all within the block, its 256 codes and 16 sums.
        unsafe {
            let (pick, shift) = (constant(&PICK), constant(&SHIFT));
            let head = _mm256_castsi128_si256(_mm_loadl_epi64(b.scales.as_ptr().cast()));
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

    /// A block's codes.
    pub(super) fn iq1_s_codes(block: &[u8], codes: &mut [u8; 256]) {
        let b = view::<IQ1S>(block);
        let mut parts = iq1_s_points(b);
        // SAFETY: 16 bytes.
        let up = !_mm_movepi16_mask(unsafe { _mm_loadu_si128(b.qh.as_ptr().cast()) });
        for z in 0..4 {
            // Two bits to 32 bytes, four words of 64 bits, each.
            let up = (up >> (2 * z) & 1) * 15 + (up >> (2 * z + 1) & 1) * 240;
            parts[z] = _mm512_mask_add_epi64(parts[z], up, parts[z], _mm512_set1_epi8(2));
        }
        store(parts, codes);
    }

    /// A block's codes.
    pub(super) fn iq1_m_codes(block: &[u8], codes: &mut [u8; 256]) {
        store(iq1_m_parts(view(block)), codes);
    }
}
