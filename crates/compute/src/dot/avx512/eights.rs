//! Blocks of 32 with codes that are not negative, eight at a time: as `avx2::small`, whose order of values they share, with
//! products that are added in one instruction.

use std::arch::x86_64::*;

use quern_tensor_io::layout::{Q4_0, Q4_1, Q5_0, Q5_1, U32};

use super::vnni;
use crate::activations::Row;
use crate::dot::avx2::small::{Offset, activations, arrange, nibbles, one_half, rows_of_eights, two_halves};
use crate::dot::avx2::{prefetch, total};

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
}
