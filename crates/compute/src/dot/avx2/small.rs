//! Blocks of 32, eight at a time: their scales come in one register, and two blocks' codes in another.
//!
//! ```text
//! register       128 bits of block a      128 bits of block b       (a even, b = a + 1)
//! codes, low     values 0 .. 16           values 0 .. 16
//! codes, high    values 16 .. 32          values 16 .. 32
//! products       4 sums of 8              4 sums of 8
//! scales         of blocks 0, 2, 4, 6     of blocks 1, 3, 5, 7
//! ```
//!
//! A pair's scales are then a permutation within 128 bits. The activations are arranged likewise ([`Eight`](crate::activations::Eight)).
//! Codes are multiplied as they are stored, and the zero point is taken off eight blocks at once, in f32: for q4_0 that
//! leaves 8 instructions a block, where taking blocks one by one with signed values takes 20.

use std::arch::x86_64::*;

use quern_tensor_io::layout::{FP4, IQ4NL, MXFP4, NF4, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, U32};

use super::{avx2, load32, look_up, pairs, total};
use crate::activations::Row;
use crate::block::tables;
use crate::dot::prefetch::Prefetch;

/// Moves the first `KEEP` bytes of two blocks, `BYTES` apart in 32 bytes, to place `pair` of their halves, `WIDTH` wide.
const fn gather(bytes: usize, keep: usize, width: usize, pair: usize) -> [u8; 32] {
    let mut out = [0x80; 32];
    let mut k = 0;
    while k < keep {
        out[pair * width + k] = k as u8;
        out[16 + pair * width + k] = (bytes - 16 + k) as u8;
        k += 1;
    }
    out
}

avx2! {
    /// 16 bytes of two blocks each.
    ///
    /// # Safety
    /// 16 bytes are readable at both.
    #[inline]
    unsafe fn both(a: *const u8, b: *const u8) -> __m256i {
        // SAFETY: guaranteed by the caller.
        // As `vlddqu`, which the compiler does not take for two loads of 8 bytes.
        unsafe {
            let a = _mm256_castsi128_si256(_mm_lddqu_si128(a.cast()));
            _mm256_inserti128_si256::<1>(a, _mm_loadu_si128(b.cast()))
        }
    }

    /// The 32 low and the 32 high nibbles of two blocks.
    #[inline]
    pub(in crate::dot) fn nibbles(a: &[u8; 16], b: &[u8; 16]) -> [__m256i; 2] {
        // SAFETY: 16 bytes each.
        let x = unsafe { both(a.as_ptr(), b.as_ptr()) };
        let mask = _mm256_set1_epi8(15);
        [_mm256_and_si256(x, mask), _mm256_and_si256(_mm256_srli_epi16::<4>(x), mask)]
    }

    /// The fifth bits of two blocks' codes, as 16.
    #[inline]
    fn fifth(a: U32, b: U32) -> [__m256i; 2] {
        let word = _mm256_set_m128i(_mm_set1_epi32(b.get() as i32), _mm_set1_epi32(a.get() as i32));
        let bit = _mm256_set1_epi64x(i64::from_le_bytes([1, 2, 4, 8, 16, 32, 64, 128]));
        [0i64, 2].map(|byte| {
            let byte = _mm256_broadcastsi128_si256(_mm_set_epi64x((byte + 1) * 0x0101_0101_0101_0101, byte * 0x0101_0101_0101_0101));
            let set = _mm256_cmpeq_epi8(_mm256_and_si256(_mm256_shuffle_epi8(word, byte), bit), bit);
            _mm256_and_si256(set, _mm256_set1_epi8(16))
        })
    }

    #[inline]
    fn five_bits(a: (&[u8; 16], U32), b: (&[u8; 16], U32)) -> [__m256i; 2] {
        let (low, high) = (nibbles(a.0, b.0), fifth(a.1, b.1));
        [_mm256_or_si256(low[0], high[0]), _mm256_or_si256(low[1], high[1])]
    }

    /// The activations of a pair.
    #[inline]
    pub(in crate::dot) fn activations(x: &[i8; 64]) -> [__m256i; 2] {
        // SAFETY: 64 bytes.
        unsafe { [load32(x.as_ptr().cast()), load32(x.as_ptr().add(32).cast())] }
    }

    /// Products of codes up to 31: four of them fit 16 bits.
    #[inline]
    fn unsigned(codes: [__m256i; 2], x: &[i8; 64]) -> __m256i {
        let x = activations(x);
        let sum = _mm256_add_epi16(_mm256_maddubs_epi16(codes[0], x[0]), _mm256_maddubs_epi16(codes[1], x[1]));
        _mm256_madd_epi16(sum, _mm256_set1_epi16(1))
    }

    /// Products of signed values.
    #[inline]
    fn signed(values: [__m256i; 2], x: &[i8; 64]) -> __m256i {
        let (x, one) = (activations(x), _mm256_set1_epi16(1));
        let low = _mm256_madd_epi16(pairs(values[0], x[0]), one);
        _mm256_add_epi32(low, _mm256_madd_epi16(pairs(values[1], x[1]), one))
    }

    /// Products of the entries of a table.
    #[inline]
    fn looked_up(table: &[i8; 16], a: &[u8; 16], b: &[u8; 16], x: &[i8; 64]) -> __m256i {
        let codes = nibbles(a, b);
        signed([look_up(table, codes[0]), look_up(table, codes[1])], x)
    }

    #[inline]
    fn q4_0_products(a: &Q4_0, b: &Q4_0, x: &[i8; 64]) -> __m256i {
        unsigned(nibbles(&a.qs, &b.qs), x)
    }

    #[inline]
    fn q4_1_products(a: &Q4_1, b: &Q4_1, x: &[i8; 64]) -> __m256i {
        unsigned(nibbles(&a.qs, &b.qs), x)
    }

    #[inline]
    fn q5_0_products(a: &Q5_0, b: &Q5_0, x: &[i8; 64]) -> __m256i {
        unsigned(five_bits((&a.qs, a.qh), (&b.qs, b.qh)), x)
    }

    #[inline]
    fn q5_1_products(a: &Q5_1, b: &Q5_1, x: &[i8; 64]) -> __m256i {
        unsigned(five_bits((&a.qs, a.qh), (&b.qs, b.qh)), x)
    }

    /// The 32 codes of two blocks, in halves.
    #[inline]
    pub(in crate::dot) fn whole_bytes(a: &Q8_0, b: &Q8_0) -> [__m256i; 2] {
        let (a, b) = (a.qs.as_ptr().cast::<u8>(), b.qs.as_ptr().cast::<u8>());
        // SAFETY: 32 codes each.
        unsafe { [both(a, b), both(a.add(16), b.add(16))] }
    }

    #[inline]
    fn q8_0_products(a: &Q8_0, b: &Q8_0, x: &[i8; 64]) -> __m256i {
        signed(whole_bytes(a, b), x)
    }

    #[inline]
    fn iq4_nl_products(a: &IQ4NL, b: &IQ4NL, x: &[i8; 64]) -> __m256i {
        looked_up(&tables::IQ4, &a.qs, &b.qs, x)
    }

    #[inline]
    fn mxfp4_products(a: &MXFP4, b: &MXFP4, x: &[i8; 64]) -> __m256i {
        looked_up(&tables::MXFP4, &a.qs, &b.qs, x)
    }

    #[inline]
    fn nf4_products(a: &NF4, b: &NF4, x: &[i8; 64]) -> __m256i {
        looked_up(&tables::NF4, &a.qs, &b.qs, x)
    }

    #[inline]
    fn fp4_products(a: &FP4, b: &FP4, x: &[i8; 64]) -> __m256i {
        looked_up(&tables::FP4, &a.qs, &b.qs, x)
    }

    /// The first bytes of eight blocks of less than 31 bytes, `KEEP` of them at every `WIDTH` bytes.
    ///
    /// # Safety
    /// Eight blocks are readable.
    #[inline]
    unsafe fn firsts<B, const KEEP: usize, const WIDTH: usize>(b: *const B) -> __m256i {
        const { assert!(size_of::<B>() >= 16 && size_of::<B>() - 16 + KEEP <= 16) }
        // SAFETY: two blocks have at least 32 bytes.
        unsafe {
            let two = |pair: usize, pick: [u8; 32]| {
                _mm256_shuffle_epi8(load32(b.add(2 * pair).cast()), load32(pick.as_ptr()))
            };
            let first = two(0, const { gather(size_of::<B>(), KEEP, WIDTH, 0) });
            let second = two(1, const { gather(size_of::<B>(), KEEP, WIDTH, 1) });
            let third = two(2, const { gather(size_of::<B>(), KEEP, WIDTH, 2) });
            let fourth = two(3, const { gather(size_of::<B>(), KEEP, WIDTH, 3) });
            _mm256_or_si256(_mm256_or_si256(first, second), _mm256_or_si256(third, fourth))
        }
    }

    /// Four f16 at the bottom of each 128 bits.
    #[inline]
    fn halves(x: __m256i) -> __m256 {
        _mm256_cvtph_ps(_mm256_castsi256_si128(_mm256_permute4x64_epi64::<0b1000>(x)))
    }

    /// Scales, and offsets where there are any, of eight blocks that begin with an f16.
    ///
    /// # Safety
    /// Eight blocks are readable.
    #[inline]
    pub(in crate::dot) unsafe fn one_half<B>(b: *const B) -> (__m256, __m256) {
        // SAFETY: guaranteed by the caller.
        (halves(unsafe { firsts::<B, 2, 2>(b) }), _mm256_setzero_ps())
    }

    /// The same of blocks that begin with two.
    #[inline]
    pub(in crate::dot) unsafe fn two_halves<B>(b: *const B) -> (__m256, __m256) {
        // SAFETY: guaranteed by the caller.
        let x = unsafe { firsts::<B, 4, 4>(b) };
        let order = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15));
        let x = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_shuffle_epi8(x, order));
        (_mm256_cvtph_ps(_mm256_castsi256_si128(x)), _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(x)))
    }

    /// The same of q8_0, whose blocks are too long.
    #[inline]
    pub(in crate::dot) unsafe fn q8_0_scales(b: *const Q8_0) -> (__m256, __m256) {
        // SAFETY: guaranteed by the caller.
        let d = |i: usize| unsafe { (*b.add(i)).d.bits() as i16 };
        let d = _mm_setr_epi16(d(0), d(2), d(4), d(6), d(1), d(3), d(5), d(7));
        (_mm256_cvtph_ps(d), _mm256_setzero_ps())
    }

    #[inline]
    pub(in crate::dot) unsafe fn nf4_scales(b: *const NF4) -> (__m256, __m256) {
        // SAFETY: guaranteed by the caller.
        let (d, none) = unsafe { one_half(b) };
        (_mm256_mul_ps(d, _mm256_set1_ps(tables::NF4_STEP)), none)
    }

    #[inline]
    pub(in crate::dot) unsafe fn fp4_scales(b: *const FP4) -> (__m256, __m256) {
        // SAFETY: guaranteed by the caller.
        let (d, none) = unsafe { one_half(b) };
        (_mm256_mul_ps(d, _mm256_set1_ps(tables::FP4_STEP)), none)
    }

    /// The same of mxfp4: 2^(e - 128).
    #[inline]
    pub(in crate::dot) unsafe fn mxfp4_scales(b: *const MXFP4) -> (__m256, __m256) {
        // SAFETY: guaranteed by the caller.
        let e = unsafe { firsts::<MXFP4, 1, 4>(b) };
        let normal = _mm256_slli_epi32::<23>(_mm256_sub_epi32(e, _mm256_set1_epi32(1)));
        let tiny = _mm256_sllv_epi32(_mm256_set1_epi32(0x0020_0000), e);
        let is_tiny = _mm256_cmpgt_epi32(_mm256_set1_epi32(2), e);
        (_mm256_castsi256_ps(_mm256_blendv_epi8(normal, tiny, is_tiny)), _mm256_setzero_ps())
    }
}

/// What the sums of the activations are multiplied with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::dot) enum Offset {
    /// Nothing: values are signed.
    None,
    /// The scale, times this code of a value of 0.
    Zero(i16),
    /// The offset stored in each block.
    Stored,
}

/// The kernels of a level whose features the macro `$level` adds to functions.
macro_rules! rows_of_eights {
    ($level:ident; $($name:ident: $products:ident, $block:ident, scales $scales:ident, offset $offset:expr;)*) => { $level! { $(
        /// `y[r]` = weight row r times the activations.
        pub(in crate::dot) fn $name(weights: &[u8], x: Row, y: &mut [f32]) {
            const BYTES: usize = size_of::<$block>();
            let blocks = x.d.len();
            assert_eq!(weights.len(), y.len() * blocks * BYTES);
            assert!(x.codes.len() == blocks * 32 && x.sums.len() == blocks * 2);
            assert_eq!(x.eights.len(), blocks.div_ceil(8));
            let (whole, rest) = x.eights.split_at(blocks / 8);
            let mut last = [0; 8 * BYTES];
            let ahead = Prefetch::of(BYTES, 32);
            for (row, y) in weights.chunks_exact((blocks * BYTES).max(1)).zip(y) {
                let (first, left) = row.as_chunks::<{ 8 * BYTES }>();
                if !left.is_empty() {
                    last[..left.len()].copy_from_slice(left);
                }
                let mut sums = [_mm256_setzero_ps(); 4];
                let mut offset = _mm256_setzero_ps();
                for (weights, eights) in [(first, whole), (std::slice::from_ref(&last), rest)] {
                    for (weights, x) in weights.iter().zip(eights) {
                        let b = weights.as_ptr().cast::<$block>();
                        ahead.fetch(b.cast(), 8 * BYTES);
                        // SAFETY: eight blocks, which have no alignment.
                        let (scale, stored) = unsafe { $scales(b) };
                        // SAFETY: eight numbers each.
                        let (d, of_codes) = unsafe { (_mm256_load_ps(x.d.as_ptr()), _mm256_load_ps(x.sums.as_ptr())) };
                        offset = match $offset {
                            Offset::None => offset,
                            Offset::Zero(_) => _mm256_fmadd_ps(scale, of_codes, offset),
                            Offset::Stored => _mm256_fmadd_ps(stored, of_codes, offset),
                        };
                        let scale = _mm256_mul_ps(scale, d);
                        let products = |pair: usize| {
                            // SAFETY: two of the eight blocks.
                            let (a, b) = unsafe { (&*b.add(2 * pair), &*b.add(2 * pair + 1)) };
                            _mm256_cvtepi32_ps($products(a, b, &x.codes[pair]))
                        };
                        sums[0] = _mm256_fmadd_ps(products(0), _mm256_permute_ps::<0x00>(scale), sums[0]);
                        sums[1] = _mm256_fmadd_ps(products(1), _mm256_permute_ps::<0x55>(scale), sums[1]);
                        sums[2] = _mm256_fmadd_ps(products(2), _mm256_permute_ps::<0xaa>(scale), sums[2]);
                        sums[3] = _mm256_fmadd_ps(products(3), _mm256_permute_ps::<0xff>(scale), sums[3]);
                    }
                }
                let sum = _mm256_add_ps(_mm256_add_ps(sums[0], sums[1]), _mm256_add_ps(sums[2], sums[3]));
                *y = total(match $offset {
                    Offset::None => sum,
                    Offset::Zero(zero) => _mm256_fnmadd_ps(offset, _mm256_set1_ps(zero.into()), sum),
                    Offset::Stored => _mm256_add_ps(sum, offset),
                });
            }
        }
    )* } };
}
pub(in crate::dot) use rows_of_eights;

rows_of_eights! {
    avx2;
    q4_0: q4_0_products, Q4_0, scales one_half, offset Offset::Zero(8);
    q4_1: q4_1_products, Q4_1, scales two_halves, offset Offset::Stored;
    q5_0: q5_0_products, Q5_0, scales one_half, offset Offset::Zero(16);
    q5_1: q5_1_products, Q5_1, scales two_halves, offset Offset::Stored;
    q8_0: q8_0_products, Q8_0, scales q8_0_scales, offset Offset::None;
    iq4_nl: iq4_nl_products, IQ4NL, scales one_half, offset Offset::None;
    mxfp4: mxfp4_products, MXFP4, scales mxfp4_scales, offset Offset::None;
    nf4: nf4_products, NF4, scales nf4_scales, offset Offset::None;
    fp4: fp4_products, FP4, scales fp4_scales, offset Offset::None;
}
