//! Weights as the matrix unit takes them: signed bytes, scales multiplied in.

// Loops count halves and rows and index several things by them.
#![allow(clippy::needless_range_loop)]

use zerocopy::IntoBytes;

use super::Kind;
use crate::gemm::{Form, Q3_ZERO, Tile};
use crate::simd::{Level, Op, dispatch};

/// One word, 4 values, of each of 16 weight rows.
type Words = [u32; 16];

/// 16 weight rows, 256 columns.
#[derive(Clone)]
#[repr(C, align(64))]
pub(crate) struct Planes {
    /// Codes, or the low 7 bits of codes times scales.
    pub low: [Words; 64],
    /// The other bits.
    pub high: [Words; 64],
    /// Minima of each 16 values as bf16, once for each of the two parts of a sum.
    pub minima: [Words; 16],
    /// What sums are multiplied by.
    pub d: [f32; 16],
    /// What sums of minima are multiplied by.
    pub dmin: [f32; 16],
}

impl Planes {
    pub const ZERO: Planes = Planes {
        low: [[0; 16]; 64],
        high: [[0; 16]; 64],
        minima: [[0; 16]; 16],
        d: [0.0; 16],
        dmin: [0.0; 16],
    };

    /// From an unpacked tile.
    pub fn fill(&mut self, level: Level, form: Form, kind: Kind, tile: &Tile) {
        match kind {
            Kind::Whole { minima } => {
                signed(level, form.zero, &tile.codes, &mut self.low);
                self.d = tile.scale[0];
                if form.zero == Q3_ZERO {
                    // 252 - 124 does not fit a signed byte, its negative does.
                    self.d.iter_mut().for_each(|d| *d = -*d);
                }
                if minima {
                    self.minima(tile, 1);
                }
            }
            Kind::Split { minima } => {
                split(level, form.zero, form.sub / 4, tile, &mut self.low, &mut self.high);
                self.d = tile.d;
                if minima {
                    self.minima(tile, 2);
                }
            }
        }
    }

    /// Lays out the minima, each of which is for `each` times 16 values: integers of up to 6 bits, so that bf16 holds them.
    fn minima(&mut self, tile: &Tile, each: usize) {
        self.dmin = tile.dmin;
        for (j, words) in self.minima.iter_mut().enumerate() {
            for (word, &minimum) in words.iter_mut().zip(&tile.minima[j / each]) {
                *word = ((minimum as i32 as f32).to_bits() >> 16) * 0x0001_0001;
            }
        }
    }
}

/// Takes the zero point off: `code - zero` as a signed byte, or for q3_K `zero - code`.
fn signed(level: Level, zero: i32, codes: &[Words; 64], out: &mut [Words; 64]) {
    /// As bytes: the compiler makes vectors of it.
    struct Signed<'a>(i32, &'a [u8], &'a mut [u8]);
    impl Op for Signed<'_> {
        type Output = ();

        #[inline(always)]
        fn call(self) {
            let Self(zero, codes, out) = self;
            let (negative, zero) = (zero == Q3_ZERO, zero as u8);
            if negative {
                out.iter_mut().zip(codes).for_each(|(out, code)| *out = zero.wrapping_sub(*code));
            } else {
                out.iter_mut().zip(codes).for_each(|(out, code)| *out = code.wrapping_sub(zero));
            }
        }
    }
    dispatch(level, Signed(zero, codes.as_bytes(), out.as_mut_bytes()));
}

/// Multiplies by integer scales, one for `each` words of 4 values, and cuts the products in two: 7 bits, and the rest.
fn split(level: Level, zero: i32, each: usize, tile: &Tile, low: &mut [Words; 64], high: &mut [Words; 64]) {
    assert!(each == 4 || each == 8);
    #[cfg(target_arch = "x86_64")]
    if level.here() >= Level::Avx512 {
        // SAFETY: the CPU has the level.
        return unsafe { split_avx512(zero, each, tile, low, high) };
    }
    let _ = level;
    for step in 0..64 {
        for row in 0..16 {
            let codes = tile.codes[step][row].to_le_bytes();
            let scale = tile.steps[step / each][row] as i32;
            let products = codes.map(|code| (i32::from(code) - zero) * scale);
            low[step][row] = u32::from_le_bytes(products.map(|p| (p & 127) as u8));
            high[step][row] = u32::from_le_bytes(products.map(|p| (p >> 7) as u8));
        }
    }
}

/// The same: the bytes of a word, two at a time, in halves of 16 bits.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512dq,avx512vl")]
fn split_avx512(zero: i32, each: usize, tile: &Tile, low: &mut [Words; 64], high: &mut [Words; 64]) {
    use std::arch::x86_64::*;
    // SAFETY: 16 words.
    let load = |x: &Words| unsafe { _mm512_loadu_si512(x.as_ptr().cast()) };
    let zeros = _mm512_set1_epi16(zero as i16);
    let (bytes, seven) = (_mm512_set1_epi16(255), _mm512_set1_epi16(127));
    for (j, scale) in tile.steps.iter().enumerate().take(64 / each) {
        let scale = load(scale);
        // The low half of each word in both halves.
        let scale = _mm512_or_si512(
            _mm512_slli_epi32::<16>(scale),
            _mm512_and_si512(scale, _mm512_set1_epi32(0xffff)),
        );
        for step in j * each..(j + 1) * each {
            let codes = load(&tile.codes[step]);
            let product = |codes| _mm512_mullo_epi16(_mm512_sub_epi16(codes, zeros), scale);
            let even = product(_mm512_and_si512(codes, bytes));
            let odd = product(_mm512_srli_epi16::<8>(codes));
            // (even & 127) | (odd & 127) << 8, and the same of what is left of 7 bits.
            let lower = _mm512_or_si512(
                _mm512_and_si512(even, seven),
                _mm512_slli_epi16::<8>(_mm512_and_si512(odd, seven)),
            );
            let upper = _mm512_or_si512(
                _mm512_and_si512(_mm512_srai_epi16::<7>(even), bytes),
                _mm512_slli_epi16::<8>(_mm512_srai_epi16::<7>(odd)),
            );
            // SAFETY: 16 words each.
            unsafe {
                _mm512_storeu_si512(low[step].as_mut_ptr().cast(), lower);
                _mm512_storeu_si512(high[step].as_mut_ptr().cast(), upper);
            }
        }
    }
}
