//! Blocks of 32 with codes of 8 bits or a table, in two passes over each part of a row (which the first brings into the
//! first-level cache): scales are gathered, eight at a time, and multiplied with the activations'; then a block itself
//! costs little more than its codes: half a dozen instructions, its scale a broadcast from memory.

use std::arch::x86_64::*;

use quern_tensor_io::layout::{FP4, IQ4NL, MXFP4, NF4, Q8_0};

pub(super) use super::eights::{q4_0, q4_1, q5_0, q5_1};
use super::{AHEAD, vnni};
use crate::activations::Row;
use crate::block::tables;

vnni! {
    /// 32 four-bit codes from 16 bytes: low nibbles, then high ones; the upper halves of bytes are anything.
    #[inline]
    fn unmasked_nibbles(x: &[u8; 16]) -> __m256i {
        let shift = _mm256_setr_epi64x(0, 0, 0x0004_0004_0004_0004, 0x0004_0004_0004_0004);
        // SAFETY: 16 bytes.
        let x = unsafe { _mm_loadu_si128(x.as_ptr().cast()) };
        _mm256_srlv_epi16(_mm256_broadcastsi128_si256(x), shift)
    }

    /// Entries of a table, and `zero`. `vpermb` looks at five bits of an index: of 32 entries, twice the
    /// same 16, so that nibbles need not be masked.
    #[inline]
    fn look_up(qs: &[u8; 16], table: &[i8; 16], zero: i8) -> __m256i {
        // SAFETY: 16 bytes.
        let table = unsafe { _mm_loadu_si128(table.as_ptr().cast()) };
        let table = _mm_add_epi8(table, _mm_set1_epi8(zero));
        _mm256_permutexvar_epi8(unmasked_nibbles(qs), _mm256_broadcastsi128_si256(table))
    }

    #[inline]
    fn q8_0_codes(b: &Q8_0) -> __m256i {
        // SAFETY: 32 codes.
        let codes = unsafe { _mm256_loadu_si256(b.qs.as_ptr().cast()) };
        _mm256_xor_si256(codes, _mm256_set1_epi8(-128))
    }

    #[inline]
    fn iq4_nl_codes(b: &IQ4NL) -> __m256i {
        look_up(&b.qs, &tables::IQ4, -128)
    }

    #[inline]
    fn mxfp4_codes(b: &MXFP4) -> __m256i {
        look_up(&b.qs, &tables::MXFP4, 12)
    }

    #[inline]
    fn nf4_codes(b: &NF4) -> __m256i {
        look_up(&b.qs, &tables::NF4, -128)
    }

    #[inline]
    fn fp4_codes(b: &FP4) -> __m256i {
        look_up(&b.qs, &tables::FP4, -128)
    }

    /// The first four bytes of each of eight blocks.
    ///
    /// # Safety
    /// Eight blocks are readable, of four bytes at least.
    #[inline]
    unsafe fn heads<B>(b: *const B) -> __m256i {
        // SAFETY: within the blocks.
        let head = |i: usize| unsafe { b.add(i).cast::<i32>().read_unaligned() };
        _mm256_setr_epi32(head(0), head(1), head(2), head(3), head(4), head(5), head(6), head(7))
    }

    /// The f16 in the low half of each lane.
    #[inline]
    fn halves(x: __m256i) -> __m256 {
        _mm256_cvtph_ps(_mm256_cvtepi32_epi16(x))
    }

    #[inline]
    fn nf4_halves(x: __m256i) -> __m256 {
        _mm256_mul_ps(halves(x), _mm256_set1_ps(tables::NF4_STEP))
    }

    #[inline]
    fn fp4_halves(x: __m256i) -> __m256 {
        _mm256_mul_ps(halves(x), _mm256_set1_ps(tables::FP4_STEP))
    }

    /// The E8M0 byte at the bottom of each lane, as 2^(e - 128).
    #[inline]
    fn exponents(x: __m256i) -> __m256 {
        let e = _mm256_and_si256(x, _mm256_set1_epi32(255));
        let normal = _mm256_slli_epi32::<23>(_mm256_sub_epi32(e, _mm256_set1_epi32(1)));
        let tiny = _mm256_sllv_epi32(_mm256_set1_epi32(0x0020_0000), e);
        let is_tiny = _mm256_cmplt_epi32_mask(e, _mm256_set1_epi32(2));
        _mm256_castsi256_ps(_mm256_mask_mov_epi32(normal, is_tiny, tiny))
    }
}

/// Blocks of a part: so few that memory is never left waiting for the second pass. A multiple of 8.
const PART: usize = 32;

/// What each block's integer sum starts from: the zero point's part, so that it costs nothing.
fn starts(zero: i32, x: &Row) -> Vec<i32> {
    x.sums.as_chunks::<2>().0.iter().map(|s| -zero * (i32::from(s[0]) + i32::from(s[1]))).collect()
}

macro_rules! rows {
    ($($name:ident: $codes:ident, $block:ident, zero $zero:literal, scale $scale:ident;)*) => { vnni! { $(
        /// `y[r]` = weight row r times the activations.
        pub(super) fn $name(weights: &[u8], x: Row, y: &mut [f32]) {
            const BYTES: usize = size_of::<$block>();
            let blocks = x.d.len();
            assert_eq!(weights.len(), y.len() * blocks * BYTES);
            assert!(x.codes.len() == blocks * 32 && x.sums.len() == blocks * 2);
            let start = starts($zero, &x);
            let stride = _mm256_mullo_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(BYTES as i32));
            for (row, y) in weights.chunks_exact((blocks * BYTES).max(1)).zip(y) {
                // Several sums: one would wait four cycles for itself at every block.
                let mut sums = [_mm256_setzero_ps(); 4];
                for part in (0..blocks).step_by(PART) {
                    let end = blocks.min(part + PART);
                    let mut scales = [0f32; PART];
                    for first in (part..end).step_by(8) {
                        let mask = 0xffu8 >> (8 - (end - first).min(8));
                        // SAFETY: heads of blocks of the row, their scales and sums, whose lengths are checked
                        // above; masked lanes are not touched; a prefetch may point anywhere.
                        unsafe {
                            let b = row.as_ptr().cast::<$block>().add(first);
                            let ahead = b.wrapping_byte_add(AHEAD);
                            for line in (0..8 * BYTES).step_by(64) {
                                _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_byte_add(line).cast());
                            }
                            // Gathers are slow on AMD; eight plain loads serve every processor.
                            let heads = match mask {
                                0xff => heads(b),
                                _ => _mm256_mmask_i32gather_epi32::<1>(_mm256_setzero_si256(), mask, stride, b.cast()),
                            };
                            let d = _mm256_mul_ps($scale(heads), _mm256_maskz_loadu_ps(mask, x.d.as_ptr().add(first)));
                            _mm256_storeu_ps(scales.as_mut_ptr().add(first - part), d);
                        }
                    }
                    let whole = part + (end - part) / 4 * 4;
                    for first in (part..whole).step_by(4) {
                        for (k, sum) in sums.iter_mut().enumerate() {
                            // SAFETY: block first + k of the row, codes, starts and scales.
                            unsafe {
                                let i = first + k;
                                let c = _mm256_loadu_si256(x.codes.as_ptr().add(i * 32).cast());
                                let start = _mm256_zextsi128_si256(_mm_cvtsi32_si128(*start.get_unchecked(i)));
                                let codes = $codes(&*row.as_ptr().cast::<$block>().add(i));
                                let dot = _mm256_cvtepi32_ps(_mm256_dpbusd_epi32(start, codes, c));
                                *sum = _mm256_fmadd_ps(dot, _mm256_set1_ps(*scales.get_unchecked(i - part)), *sum);
                            }
                        }
                    }
                    for i in whole..end {
                        // SAFETY: block i of the row, codes, starts and scales.
                        unsafe {
                            let c = _mm256_loadu_si256(x.codes.as_ptr().add(i * 32).cast());
                            let start = _mm256_zextsi128_si256(_mm_cvtsi32_si128(start[i]));
                            let codes = $codes(&*row.as_ptr().cast::<$block>().add(i));
                            let dot = _mm256_cvtepi32_ps(_mm256_dpbusd_epi32(start, codes, c));
                            sums[0] = _mm256_fmadd_ps(dot, _mm256_set1_ps(scales[i - part]), sums[0]);
                        }
                    }
                }
                let sum = _mm256_add_ps(_mm256_add_ps(sums[0], sums[1]), _mm256_add_ps(sums[2], sums[3]));
                *y = _mm512_reduce_add_ps(_mm512_zextps256_ps512(sum));
            }
        }
    )* } };
}

rows! {
    q8_0: q8_0_codes, Q8_0, zero 128, scale halves;
    iq4_nl: iq4_nl_codes, IQ4NL, zero 128, scale halves;
    mxfp4: mxfp4_codes, MXFP4, zero 12, scale exponents;
    nf4: nf4_codes, NF4, zero 128, scale nf4_halves;
    fp4: fp4_codes, FP4, zero 128, scale fp4_halves;
}
