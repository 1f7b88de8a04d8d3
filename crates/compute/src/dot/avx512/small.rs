//! Blocks of 32, eight at a time: as `avx2::small`, whose order of values they share, with products that are added in one
//! instruction. Entries of tables are multiplied without a sign too, their zero point added.

use std::arch::x86_64::*;

use quern_tensor_io::layout::{FP4, IQ4NL, MXFP4, NF4, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, U32};

use super::vnni;
use crate::activations::Row;
use crate::block::tables;
use crate::dot::avx2::small::{
    Offset, activations, fp4_scales, mxfp4_scales, nf4_scales, nibbles, one_half, q8_0_scales,
    rows_of_eights, two_halves, whole_bytes,
};
use crate::dot::avx2::total;
use crate::dot::prefetch::Prefetch;

vnni! {
    /// Products of a pair's codes, low and high, in sums of 8.
    #[inline]
    fn products([low, high]: [__m256i; 2], x: &[i8; 64]) -> __m256i {
        let x = activations(x);
        _mm256_dpbusd_epi32(_mm256_dpbusd_epi32(_mm256_setzero_si256(), low, x[0]), high, x[1])
    }

    /// Codes of five bits: bit i of a word is the fifth bit of code i.
    #[inline]
    fn five_bits(a: (&[u8; 16], U32), b: (&[u8; 16], U32)) -> [__m256i; 2] {
        let ([low, high], (a, b), sixteen) = (nibbles(a.0, b.0), (a.1.get(), b.1.get()), _mm256_set1_epi8(16));
        [
            _mm256_mask_add_epi8(low, a & 0xffff | b << 16, low, sixteen),
            _mm256_mask_add_epi8(high, a >> 16 | b & 0xffff_0000, high, sixteen),
        ]
    }

    /// Products of signed values: the value's sign goes to the activation.
    #[inline]
    fn signed([low, high]: [__m256i; 2], x: &[i8; 64]) -> __m256i {
        let x = activations(x);
        let low = _mm256_dpbusd_epi32(
            _mm256_setzero_si256(), _mm256_abs_epi8(low), _mm256_sign_epi8(x[0], low));
        _mm256_dpbusd_epi32(low, _mm256_abs_epi8(high), _mm256_sign_epi8(x[1], high))
    }

    #[inline]
    fn q8_0_products(a: &Q8_0, b: &Q8_0, x: &[i8; 64]) -> __m256i {
        signed(whole_bytes(a, b), x)
    }

    /// Products of entries of a table plus `zero`, none of which is negative.
    #[inline]
    fn looked_up(table: &[i8; 16], zero: i8, a: &[u8; 16], b: &[u8; 16], x: &[i8; 64]) -> __m256i {
        // SAFETY: 16 bytes.
        let table = unsafe { _mm_loadu_si128(table.as_ptr().cast()) };
        let table = _mm256_broadcastsi128_si256(_mm_add_epi8(table, _mm_set1_epi8(zero)));
        let [low, high] = nibbles(a, b);
        products([_mm256_shuffle_epi8(table, low), _mm256_shuffle_epi8(table, high)], x)
    }

    #[inline]
    fn iq4_nl_products(a: &IQ4NL, b: &IQ4NL, x: &[i8; 64]) -> __m256i {
        looked_up(&tables::IQ4, -128, &a.qs, &b.qs, x)
    }

    #[inline]
    fn mxfp4_products(a: &MXFP4, b: &MXFP4, x: &[i8; 64]) -> __m256i {
        looked_up(&tables::MXFP4, 12, &a.qs, &b.qs, x)
    }

    #[inline]
    fn nf4_products(a: &NF4, b: &NF4, x: &[i8; 64]) -> __m256i {
        looked_up(&tables::NF4, -128, &a.qs, &b.qs, x)
    }

    #[inline]
    fn fp4_products(a: &FP4, b: &FP4, x: &[i8; 64]) -> __m256i {
        looked_up(&tables::FP4, -128, &a.qs, &b.qs, x)
    }

    #[inline]
    fn q4_0_products(a: &Q4_0, b: &Q4_0, x: &[i8; 64]) -> __m256i {
        products(nibbles(&a.qs, &b.qs), x)
    }

    #[inline]
    fn q4_1_products(a: &Q4_1, b: &Q4_1, x: &[i8; 64]) -> __m256i {
        products(nibbles(&a.qs, &b.qs), x)
    }

    #[inline]
    fn q5_0_products(a: &Q5_0, b: &Q5_0, x: &[i8; 64]) -> __m256i {
        products(five_bits((&a.qs, a.qh), (&b.qs, b.qh)), x)
    }

    #[inline]
    fn q5_1_products(a: &Q5_1, b: &Q5_1, x: &[i8; 64]) -> __m256i {
        products(five_bits((&a.qs, a.qh), (&b.qs, b.qh)), x)
    }
}

rows_of_eights! {
    vnni;
    q4_0: q4_0_products, Q4_0, scales one_half, offset Offset::Zero(8);
    q4_1: q4_1_products, Q4_1, scales two_halves, offset Offset::Stored;
    q5_0: q5_0_products, Q5_0, scales one_half, offset Offset::Zero(16);
    q5_1: q5_1_products, Q5_1, scales two_halves, offset Offset::Stored;
    iq4_nl: iq4_nl_products, IQ4NL, scales one_half, offset Offset::Zero(128);
    mxfp4: mxfp4_products, MXFP4, scales mxfp4_scales, offset Offset::Zero(12);
    nf4: nf4_products, NF4, scales nf4_scales, offset Offset::Zero(128);
    fp4: fp4_products, FP4, scales fp4_scales, offset Offset::Zero(128);
    q8_0: q8_0_products, Q8_0, scales q8_0_scales, offset Offset::None;
}
