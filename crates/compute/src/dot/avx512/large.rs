//! Blocks of 256. Each block function returns the integers of `block.rs`, spread over lanes: the products
//! of codes and activations under their sub-block scales with the zero point taken off, and the minima's.
//!
//! `vpmaddubsw` multiplies codes and activations (two products of at most 63 * 127 fit 16 bits), `vpdpwssd`
//! multiplies by the scales and adds up, in 32 bits.

// Loops count 64-value parts and index several things by them.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;
use std::mem::offset_of;

use quern_tensor_io::layout::{IQ4XS, Q2K, Q3K, Q4K, Q5K, Q6K, TQ1_0, TQ2_0};

use super::bits::{
    OR_AND, add_16s, add_32s, constant, load_sums, load64, multishift, multishift_words, pick16, spread32,
    take_zero, twice32,
};
use super::vnni;
use crate::activations::Row;
use crate::block::tables;
use crate::dot::prefetch::Prefetch;

// Fields that are loaded together with those beside them.
const _: () = assert!(offset_of!(Q4K, scales) == 4 && offset_of!(Q5K, scales) == 4);
const _: () = assert!(offset_of!(Q4K, dmin) == 2 && offset_of!(Q5K, dmin) == 2);
const _: () = assert!(offset_of!(Q2K, dmin) == offset_of!(Q2K, d) + 2);
const _: () = assert!(offset_of!(Q3K, d) == offset_of!(Q3K, scales) + 12);
const _: () = assert!(
    offset_of!(IQ4XS, d) == 0 && offset_of!(IQ4XS, scales_h) == 2 && offset_of!(IQ4XS, scales_l) == 4
);

vnni! {
    /// The first bytes of a block.
    #[inline]
    fn head<B>(b: &B) -> __m128i {
        const { assert!(size_of::<B>() >= 16) }
        // SAFETY: 16 bytes at least.
        unsafe { _mm_loadu_si128(std::ptr::from_ref(b).cast()) }
    }

    /// Values 64 z .. 64 z + 64 of four-bit codes: 32 bytes, low nibbles then high ones.
    ///
    /// # Safety
    /// `z` is below 4.
    #[inline]
    unsafe fn nibbles(qs: &[u8; 128], z: usize) -> __m512i {
        static SHIFT: [u8; 64] = multishift(0, 4);
        // SAFETY: within the 128 bytes.
        let x = _mm512_multishift_epi64_epi8(constant(&SHIFT), unsafe { twice32(qs.as_ptr().add(32 * z)) });
        _mm512_and_si512(x, _mm512_set1_epi8(15))
    }

    /// Values 64 z .. 64 z + 64 of two-bit codes: each half of the block has 32 bytes, bits 2k of which are
    /// values 32 k ...
    ///
    /// # Safety
    /// `z` is below 4.
    #[inline]
    unsafe fn crumbs(qs: &[u8; 64], z: usize) -> __m512i {
        static SHIFT: [[u8; 64]; 2] = [multishift(0, 2), multishift(4, 6)];
        // SAFETY: within the 64 bytes.
        let x = unsafe { twice32(qs.as_ptr().add(z / 2 * 32)) };
        let x = _mm512_multishift_epi64_epi8(constant(&SHIFT[z % 2]), x);
        _mm512_and_si512(x, _mm512_set1_epi8(3))
    }

    /// The 16 bytes `d dmin scales[12]` of q4_K and q5_K to 8 scales and 8 minima: `layout::scales::minima6` in
    /// this level's instructions.
    #[inline]
    fn scales_6bit(head: __m128i) -> __m128i {
        let x = _mm_shuffle_epi8(head, _mm_setr_epi8(4, 5, 6, 7, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15));
        let low = _mm_multishift_epi64_epi8(
            _mm_setr_epi8(0, 8, 16, 24, 32, 40, 48, 56, 0, 8, 16, 24, 36, 44, 52, 60), x);
        let high = _mm_multishift_epi64_epi8(
            _mm_setr_epi8(0, 0, 0, 0, 2, 10, 18, 26, 0, 0, 0, 0, 2, 10, 18, 26), x);
        let low = _mm_and_si128(low, _mm_set1_epi64x(0x0f0f_0f0f_3f3f_3f3f));
        _mm_ternarylogic_epi64::<OR_AND>(low, high, _mm_set1_epi64x(0x3030_3030_0000_0000))
    }

    /// The minima in bytes 8..16, twice each (sums are of 16 values), times the sums.
    ///
    /// # Safety
    /// 16 sums are readable.
    #[inline]
    unsafe fn minima_6bit(scales: __m128i, s: *const i16) -> __m256i {
        const PICK: [u16; 32] = pick16(8, 2, 1);
        let pick = _mm512_castsi512_si256(constant(&PICK));
        let m = _mm256_permutexvar_epi8(pick, _mm256_zextsi128_si256(scales));
        // SAFETY: guaranteed by the caller.
        _mm256_dpwssd_epi32(_mm256_setzero_si256(), m, unsafe { load_sums(s) })
    }

    #[inline]
    unsafe fn q4_k_block(b: &Q4K, c: *const u8, s: *const i16) -> (__m512i, __m256i) {
        // SAFETY: all within the block, its 256 codes and 16 sums.
        unsafe {
            let scales = scales_6bit(head(b));
            let mut acc = _mm512_setzero_si512();
            for z in 0..4 {
                acc = add_32s(acc, z, nibbles(&b.qs, z), load64(c.add(64 * z)), scales);
            }
            (acc, minima_6bit(scales, s))
        }
    }

    #[inline]
    unsafe fn q5_k_block(b: &Q5K, c: *const u8, s: *const i16) -> (__m512i, __m256i) {
        static FIFTH: [[u8; 64]; 4] =
            [multishift(-4, -3), multishift(-2, -1), multishift(0, 1), multishift(2, 3)];
        // SAFETY: all within the block, its 256 codes and 16 sums.
        unsafe {
            let scales = scales_6bit(head(b));
            let high = twice32(b.qh.as_ptr());
            let mut acc = _mm512_setzero_si512();
            for z in 0..4 {
                let fifth = _mm512_multishift_epi64_epi8(constant(&FIFTH[z]), high);
                let low = nibbles(&b.qs, z);
                let codes = _mm512_ternarylogic_epi64::<OR_AND>(low, fifth, _mm512_set1_epi8(16));
                acc = add_32s(acc, z, codes, load64(c.add(64 * z)), scales);
            }
            (acc, minima_6bit(scales, s))
        }
    }

    #[inline]
    unsafe fn q6_k_block(b: &Q6K, c: *const u8, s: *const i16) -> (__m512i, __m256i) {
        static HIGH: [[u8; 64]; 2] = [multishift(-4, -2), multishift(0, 2)];
        // SAFETY: all within the block, its 256 codes and 16 sums.
        unsafe {
            let scales = _mm256_cvtepi8_epi16(_mm_loadu_si128(b.scales.as_ptr().cast()));
            let mut acc = _mm512_setzero_si512();
            for half in 0..2 {
                let low = load64(b.ql.as_ptr().add(64 * half));
                let high = twice32(b.qh.as_ptr().add(32 * half));
                for t in 0..2 {
                    let z = 2 * half + t;
                    let low = if t == 0 { low } else { _mm512_srli_epi16::<4>(low) };
                    let low = _mm512_and_si512(low, _mm512_set1_epi8(15));
                    let high = _mm512_multishift_epi64_epi8(constant(&HIGH[t]), high);
                    let codes = _mm512_ternarylogic_epi64::<OR_AND>(low, high, _mm512_set1_epi8(0x30));
                    acc = add_16s(acc, z, codes, load64(c.add(64 * z)), scales);
                }
            }
            (take_zero::<5>(acc, scales, s), _mm256_setzero_si256())
        }
    }

    #[inline]
    unsafe fn q3_k_block(b: &Q3K, c: *const u8, s: *const i16) -> (__m512i, __m256i) {
        static THIRD: [[u8; 64]; 4] =
            [multishift(-2, -1), multishift(0, 1), multishift(2, 3), multishift(4, 5)];
        // SAFETY: all within the block, its 256 codes and 16 sums.
        unsafe {
            // `layout::scales::scales6` in this level's instructions: from byte 2 on the packed scales, then d.
            let packed = std::ptr::from_ref(b).cast::<u8>().add(offset_of!(Q3K, scales) - 2);
            let packed = _mm_loadu_si128(packed.cast());
            let low = _mm_shuffle_epi8(packed, _mm_setr_epi8(2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5, 6, 7, 8, 9));
            let low = _mm_multishift_epi64_epi8(
                _mm_setr_epi8(0, 8, 16, 24, 32, 40, 48, 56, 4, 12, 20, 28, 36, 44, 52, 60), low);
            let top = _mm_shuffle_epi8(
                packed, _mm_setr_epi8(10, 11, 12, 13, 10, 11, 12, 13, 10, 11, 12, 13, 10, 11, 12, 13));
            let top = _mm_multishift_epi64_epi8(
                _mm_setr_epi8(60, 4, 12, 20, 30, 38, 46, 54, 0, 8, 16, 24, 34, 42, 50, 58), top);
            let low = _mm_and_si128(low, _mm_set1_epi8(15));
            let scales = _mm_ternarylogic_epi64::<OR_AND>(low, top, _mm_set1_epi8(0x30));
            let scales = _mm256_cvtepi8_epi16(_mm_sub_epi8(scales, _mm_set1_epi8(32)));
            let high = twice32(b.hmask.as_ptr());
            let mut acc = _mm512_setzero_si512();
            for z in 0..4 {
                let third = _mm512_multishift_epi64_epi8(constant(&THIRD[z]), high);
                let low = crumbs(&b.qs, z);
                let codes = _mm512_ternarylogic_epi64::<OR_AND>(low, third, _mm512_set1_epi8(4));
                acc = add_16s(acc, z, codes, load64(c.add(64 * z)), scales);
            }
            (take_zero::<2>(acc, scales, s), _mm256_setzero_si256())
        }
    }

    #[inline]
    unsafe fn q2_k_block(b: &Q2K, c: *const u8, s: *const i16) -> (__m512i, __m256i) {
        // SAFETY: all within the block, its 256 codes and 16 sums.
        unsafe {
            let packed = _mm_loadu_si128(b.scales.as_ptr().cast());
            let nibble = _mm_set1_epi8(15);
            let scales = _mm256_cvtepu8_epi16(_mm_and_si128(packed, nibble));
            let minima = _mm256_cvtepu8_epi16(_mm_and_si128(_mm_srli_epi16::<4>(packed), nibble));
            let mut acc = _mm512_setzero_si512();
            for z in 0..4 {
                acc = add_16s(acc, z, crumbs(&b.qs, z), load64(c.add(64 * z)), scales);
            }
            (acc, _mm256_dpwssd_epi32(_mm256_setzero_si256(), minima, load_sums(s)))
        }
    }

    #[inline]
    unsafe fn iq4_xs_block(b: &IQ4XS, c: *const u8, s: *const i16) -> (__m512i, __m256i) {
        static PICK: [[u32; 16]; 4] =
            [spread32(0, 8, 2), spread32(4, 8, 2), spread32(8, 8, 2), spread32(12, 8, 2)];
        static SHIFT: [u8; 64] = multishift_words([0, 0, 4, 4, 0, 0, 4, 4]);
        // SAFETY: all within the block, its 256 codes and 16 sums.
        unsafe {
            // The first 8 bytes are d, scales_h, scales_l; each scale twice.
            let head = _mm_broadcastq_epi64(head(b));
            let low = _mm_multishift_epi64_epi8(
                _mm_setr_epi8(32, 32, 36, 36, 40, 40, 44, 44, 48, 48, 52, 52, 56, 56, 60, 60), head);
            let high = _mm_multishift_epi64_epi8(
                _mm_setr_epi8(12, 12, 14, 14, 16, 16, 18, 18, 20, 20, 22, 22, 24, 24, 26, 26), head);
            let low = _mm_and_si128(low, _mm_set1_epi8(15));
            let scales = _mm_ternarylogic_epi64::<OR_AND>(low, high, _mm_set1_epi8(0x30));
            let scales = _mm_sub_epi8(scales, _mm_set1_epi8(32));
            let wide = _mm512_cvtepi8_epi32(scales);
            let table = _mm_xor_si128(_mm_loadu_si128(tables::IQ4.as_ptr().cast()), _mm_set1_epi8(-128));
            let table = _mm512_broadcast_i32x4(table);
            let mut acc = _mm512_setzero_si512();
            for z in 0..4 {
                let q = _mm512_castsi256_si512(_mm256_loadu_si256(b.qs.as_ptr().add(32 * z).cast()));
                let q = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 1, 0, 1, 2, 3, 2, 3), q);
                let q = _mm512_and_si512(_mm512_multishift_epi64_epi8(constant(&SHIFT), q), _mm512_set1_epi8(15));
                let codes = _mm512_shuffle_epi8(table, q);
                let dot = _mm512_dpbusd_epi32(_mm512_setzero_si512(), codes, load64(c.add(64 * z)));
                let scale = _mm512_permutexvar_epi32(constant(&PICK[z]), wide);
                acc = _mm512_add_epi32(acc, _mm512_mullo_epi32(dot, scale));
            }
            (take_zero::<7>(acc, _mm256_cvtepi8_epi16(scales), s), _mm256_setzero_si256())
        }
    }

    /// Ternary codes: one scale, zero point 1.
    #[inline]
    unsafe fn ternary(codes: [__m512i; 4], c: *const u8, s: *const i16) -> (__m512i, __m256i) {
        // SAFETY: all within the block's 256 codes and 16 sums.
        unsafe {
            let mut acc = _mm512_setzero_si512();
            for (z, codes) in codes.into_iter().enumerate() {
                acc = _mm512_dpbusd_epi32(acc, codes, load64(c.add(64 * z)));
            }
            (take_zero::<0>(acc, _mm256_set1_epi16(1), s), _mm256_setzero_si256())
        }
    }

    #[inline]
    unsafe fn tq2_0_block(b: &TQ2_0, c: *const u8, s: *const i16) -> (__m512i, __m256i) {
        // SAFETY: all within the block, its 256 codes and 16 sums.
        unsafe { ternary([crumbs(&b.qs, 0), crumbs(&b.qs, 1), crumbs(&b.qs, 2), crumbs(&b.qs, 3)], c, s) }
    }

    #[inline]
    unsafe fn tq1_0_block(b: &TQ1_0, c: *const u8, s: *const i16) -> (__m512i, __m256i) {
        let mut codes = [0u8; 256];
        let trit = |byte: u8, power: u8| ((u16::from(byte.wrapping_mul(power)) * 3) >> 8) as u8;
        for (t, power) in [1u8, 3, 9, 27, 81].into_iter().enumerate() {
            (0..32).for_each(|i| codes[32 * t + i] = trit(b.qs[i], power));
            (0..16).for_each(|i| codes[160 + 16 * t + i] = trit(b.qs[32 + i], power));
        }
        for (t, power) in [1u8, 3, 9, 27].into_iter().enumerate() {
            (0..4).for_each(|i| codes[240 + 4 * t + i] = trit(b.qh[i], power));
        }
        // SAFETY: all within 256 codes and 16 sums.
        unsafe {
            let p = codes.as_ptr();
            ternary([load64(p), load64(p.add(64)), load64(p.add(128)), load64(p.add(192))], c, s)
        }
    }

    /// The two halves at `p` (d and dmin, or d twice) times the activations' scale.
    ///
    /// # Safety
    /// 4 bytes are readable, or 2 if not `MIN`.
    #[inline]
    unsafe fn scale<const MIN: bool>(p: *const u8, xd: f32) -> __m128 {
        // SAFETY: guaranteed by the caller.
        let bits = unsafe {
            if MIN { p.cast::<i32>().read_unaligned() } else { p.cast::<u16>().read_unaligned().into() }
        };
        _mm_mul_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(bits)), _mm_set1_ps(xd))
    }
}

macro_rules! rows {
    ($($name:ident: $integers:ident, $block:ident, minima $min:literal;)*) => { vnni! { $(
        /// `y[r]` = weight row r times the activations.
        pub(super) fn $name(weights: &[u8], x: Row, y: &mut [f32]) {
            const BYTES: usize = size_of::<$block>();
            let blocks = x.d.len();
            assert_eq!(weights.len(), y.len() * blocks * BYTES);
            assert!(x.codes.len() == blocks * 256 && x.sums.len() == blocks * 16);
            let ahead = Prefetch::of(BYTES, 256);
            for (row, y) in weights.chunks_exact((blocks * BYTES).max(1)).zip(y) {
                let mut sum = _mm512_setzero_ps();
                let mut minima = _mm256_setzero_ps();
                for i in 0..blocks {
                    // SAFETY: block i of the row, codes and sums, whose lengths are checked above.
                    unsafe {
                        let b = row.as_ptr().cast::<$block>().add(i);
                        let (c, s) = (x.codes.as_ptr().add(i * 256), x.sums.as_ptr().add(i * 16));
                        ahead.fetch(b.cast(), BYTES);
                        let (acc, min) = $integers(&*b, c.cast(), s);
                        let d = scale::<$min>(b.cast::<u8>().add(offset_of!($block, d)), *x.d.get_unchecked(i));
                        sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc), _mm512_broadcastss_ps(d), sum);
                        if $min {
                            let dmin = _mm256_broadcastss_ps(_mm_movehdup_ps(d));
                            minima = _mm256_fmadd_ps(_mm256_cvtepi32_ps(min), dmin, minima);
                        }
                    }
                }
                let minima = _mm512_zextps256_ps512(minima);
                *y = _mm512_reduce_add_ps(_mm512_sub_ps(sum, minima));
            }
        }
    )* } };
}

rows! {
    q2_k: q2_k_block, Q2K, minima true;
    q3_k: q3_k_block, Q3K, minima false;
    q4_k: q4_k_block, Q4K, minima true;
    q5_k: q5_k_block, Q5K, minima true;
    q6_k: q6_k_block, Q6K, minima false;
    iq4_xs: iq4_xs_block, IQ4XS, minima false;
    tq1_0: tq1_0_block, TQ1_0, minima false;
    tq2_0: tq2_0_block, TQ2_0, minima false;
}
