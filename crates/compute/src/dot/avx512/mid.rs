//! Blocks of 64 and 128: 64 values at a time, two groups of the activations. The values of a group,
//! its scale and the zero point's part of the integer sums, are spread over lanes once for all weight rows.

use std::arch::x86_64::*;

use quern_tensor_io::layout::{F16, NVFP4, Q1_0, Q2_0};

use super::bits::{constant, load64, multishift, multishift_words, spread8, spread16};
use super::vnni;
use crate::activations::Row;
use crate::block::tables;
use crate::dot::prefetch::Prefetch;

vnni! {
    /// # Safety
    /// `z` is 0 or 1.
    #[inline]
    unsafe fn q1_0_codes(b: &Q1_0, z: usize) -> __m512i {
        // SAFETY: within the block's 16 bytes of codes.
        let set = unsafe { b.qs.as_ptr().add(8 * z).cast::<u64>().read_unaligned() };
        _mm512_maskz_set1_epi8(set, 2)
    }

    #[inline]
    fn q2_0_codes(b: &Q2_0, _: usize) -> __m512i {
        static PICK: [u8; 64] = spread8(4);
        // Byte i, equal within each group of four, shifted right by 2 (i % 4).
        static SHIFT: [u8; 64] = {
            let mut control = multishift(0, 0);
            let mut i = 0;
            while i < 64 {
                control[i] += 2 * (i % 4) as u8;
                i += 1;
            }
            control
        };
        // SAFETY: 16 bytes.
        let x = _mm512_castsi128_si512(unsafe { _mm_loadu_si128(b.qs.as_ptr().cast()) });
        let x = _mm512_multishift_epi64_epi8(constant(&SHIFT), _mm512_permutexvar_epi8(constant(&PICK), x));
        _mm512_and_si512(x, _mm512_set1_epi8(3))
    }

    #[inline]
    fn nvfp4_codes(b: &NVFP4, _: usize) -> __m512i {
        static SHIFT: [u8; 64] = multishift_words([0, 4, 0, 4, 0, 4, 0, 4]);
        // SAFETY: 32 bytes.
        let x = _mm512_castsi256_si512(unsafe { _mm256_loadu_si256(b.qs.as_ptr().cast()) });
        let x = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 0, 1, 1, 2, 2, 3, 3), x);
        let q = _mm512_and_si512(_mm512_multishift_epi64_epi8(constant(&SHIFT), x), _mm512_set1_epi8(15));
        // SAFETY: 16 bytes.
        let table = unsafe { _mm_loadu_si128(tables::MXFP4.as_ptr().cast()) };
        _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_add_epi8(table, _mm_set1_epi8(12))), q)
    }

    #[inline]
    fn one_scale(d: F16) -> __m512 {
        _mm512_cvtph_ps(_mm256_set1_epi16(d.bits() as i16))
    }

    /// Four UE4M3 scales, four lanes each. Without its sign bit UE4M3 is the top of an f16 whose exponents
    /// are 8 lower; half of it is 2^7 times that, and the activations' scales have the 2^7.
    #[inline]
    fn nvfp4_scales(d: [u8; 4]) -> __m512 {
        const PICK: [u16; 32] = spread16(0, 4, 1);
        let x = _mm256_set1_epi32(i32::from_le_bytes(d));
        let pick = _mm512_castsi512_si256(constant(&PICK));
        let x = _mm256_maskz_permutexvar_epi8(0x5555_5555, pick, x);
        let number = _mm256_cmpneq_epi16_mask(x, _mm256_set1_epi16(0x7f));
        let x = _mm256_maskz_and_epi32(!0, x, _mm256_set1_epi16(0x7f));
        _mm512_cvtph_ps(_mm256_maskz_slli_epi16::<7>(number, x))
    }
}

/// A lane for each 4 of 64 values.
#[repr(align(64))]
#[derive(Clone, Copy)]
struct Lanes<T>([T; 16]);

/// What the integer sums of 64 values start from: the zero point's part, in one lane of each 16 values.
fn starts(zero: i32, x: &Row) -> Vec<Lanes<i32>> {
    let part = |s: &[i16; 4]| {
        Lanes(std::array::from_fn(|i| if i % 4 == 0 { -zero * i32::from(s[i / 4]) } else { 0 }))
    };
    x.sums.as_chunks().0.iter().map(part).collect()
}

/// The scales of each 64 values, times `unit`.
fn scales(unit: f32, x: &Row) -> Vec<Lanes<f32>> {
    let pairs = x.d.as_chunks::<2>().0.iter();
    pairs.map(|d| Lanes(std::array::from_fn(|i| d[i / 8] * unit))).collect()
}

macro_rules! rows {
    ($($name:ident: $codes:ident, $parts:literal parts in $block:ident, zero $zero:literal,
        scale $scale:ident, unit $unit:literal;)*) => { vnni! { $(
        /// `y[r]` = weight row r times the activations.
        pub(super) fn $name(weights: &[u8], x: Row, y: &mut [f32]) {
            const BYTES: usize = size_of::<$block>();
            let blocks = x.d.len() / (2 * $parts);
            assert_eq!(weights.len(), y.len() * blocks * BYTES);
            assert!(x.d.len() == blocks * 2 * $parts && x.codes.len() == x.d.len() * 32);
            assert!(x.sums.len() == x.d.len() * 2);
            let (starts, scales) = (starts($zero, &x), scales($unit, &x));
            let ahead = Prefetch::of(BYTES, 64 * $parts);
            for (row, y) in weights.chunks_exact((blocks * BYTES).max(1)).zip(y) {
                let block = |i: usize, sum: &mut __m512| {
                    // SAFETY: block i of the row, its codes, starts and scales, of which there are as many
                    // as checked above.
                    unsafe {
                        let b = row.as_ptr().cast::<$block>().add(i);
                        ahead.fetch(b.cast(), BYTES);
                        let b = &*b;
                        let mut terms = _mm512_setzero_ps();
                        for z in 0..$parts {
                            let at = i * $parts + z;
                            let start = load64(starts.as_ptr().add(at).cast());
                            let c = load64(x.codes.as_ptr().add(at * 64).cast());
                            let dot = _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(start, $codes(b, z), c));
                            let xd = _mm512_load_ps(scales.as_ptr().add(at).cast());
                            terms = _mm512_fmadd_ps(dot, xd, terms);
                        }
                        *sum = _mm512_fmadd_ps(terms, $scale(b.d), *sum);
                    }
                };
                // Several sums: one would wait four cycles for itself at every block.
                let mut sums = [_mm512_setzero_ps(); 4];
                let whole = blocks / 4 * 4;
                for first in (0..whole).step_by(4) {
                    for (k, sum) in sums.iter_mut().enumerate() {
                        block(first + k, sum);
                    }
                }
                for i in whole..blocks {
                    block(i, &mut sums[0]);
                }
                let (a, b) = (_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3]));
                *y = _mm512_reduce_add_ps(_mm512_add_ps(a, b));
            }
        }
    )* } };
}

rows! {
    q1_0: q1_0_codes, 2 parts in Q1_0, zero 1, scale one_scale, unit 1.0;
    q2_0: q2_0_codes, 1 parts in Q2_0, zero 1, scale one_scale, unit 1.0;
    nvfp4: nvfp4_codes, 1 parts in NVFP4, zero 12, scale nvfp4_scales, unit 128.0;
}
