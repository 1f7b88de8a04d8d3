//! Weights as the matrix unit takes them: signed bytes, scales multiplied in.

use super::Kind;
use crate::gemm::{Form, Q3_ZERO, Tile};
use crate::simd::{Level, Op, dispatch};

/// One word, 4 values, of each of 16 weight rows.
type Words = [u32; 16];

/// 16 weight rows, 256 columns.
#[derive(Clone)]
#[repr(C, align(64))]
pub(super) struct Planes {
    /// Codes, or the low 7 bits of codes times scales.
    pub low: [Words; 64],
    /// The other bits.
    pub high: [Words; 64],
    /// Minima of each 16 values, times 4, for each of the four parts of a sum; then, in the second step, minima once.
    pub minima: [Words; 32],
    /// One scale, or one for each 32 values.
    pub scale: [[f32; 16]; 8],
    /// What minima are multiplied by in the first; or one offset for each 32 values.
    pub offset: [[f32; 16]; 8],
}

impl Planes {
    pub const ZERO: Planes = Planes {
        low: [[0; 16]; 64],
        high: [[0; 16]; 64],
        minima: [[0; 16]; 32],
        scale: [[0.0; 16]; 8],
        offset: [[0.0; 16]; 8],
    };

    /// From an unpacked tile.
    pub fn fill(&mut self, level: Level, form: Form, kind: Kind, tile: &Tile) {
        match kind {
            Kind::Whole { minima } => {
                dispatch(level, Signed { zero: form.zero, codes: &tile.codes, out: &mut self.low });
                self.scale[0] = tile.scale[0];
                if form.zero == Q3_ZERO {
                    // 252 - 124 does not fit a signed byte, its negative does.
                    self.scale[0].iter_mut().for_each(|d| *d = -*d);
                }
                if minima {
                    self.minima(tile, 1);
                }
            }
            Kind::Split { minima } => {
                let (low, high) = (&mut self.low, &mut self.high);
                let (zero, each) = (form.zero, form.sub / 4);
                dispatch(level, Split { zero, each, codes: &tile.codes, steps: &tile.steps, low, high });
                self.scale[0] = tile.d;
                if minima {
                    self.minima(tile, 2);
                }
            }
            Kind::Of32 { offsets } => {
                dispatch(level, Signed { zero: form.zero, codes: &tile.codes, out: &mut self.low });
                self.scale.copy_from_slice(&tile.scale[..8]);
                if offsets {
                    self.offset.copy_from_slice(&tile.offset[..8]);
                }
            }
        }
    }

    /// Lays out the minima, each of which is for `each` times 16 values.
    fn minima(&mut self, tile: &Tile, each: usize) {
        self.offset[0] = tile.dmin;
        for j in 0..16 {
            let minima = &tile.minima[j / each];
            for row in 0..16 {
                self.minima[j][row] = minima[row] * 0x0404_0404;
            }
        }
        for step in 0..4 {
            for row in 0..16 {
                let minimum = |j: usize| tile.minima[(4 * step + j) / each][row] << (8 * j);
                self.minima[16 + step][row] = minimum(0) | minimum(1) | minimum(2) | minimum(3);
            }
        }
    }
}

/// Takes the zero point off: `code - zero` as a signed byte, or for q3_K `zero - code`.
struct Signed<'a> {
    zero: i32,
    codes: &'a [Words; 64],
    out: &'a mut [Words; 64],
}

impl Op for Signed<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        use zerocopy::IntoBytes;
        let (zero, codes, out) = (self.zero as u8, self.codes.as_bytes(), self.out.as_mut_bytes());
        if self.zero == Q3_ZERO {
            out.iter_mut().zip(codes).for_each(|(out, code)| *out = zero.wrapping_sub(*code));
        } else {
            out.iter_mut().zip(codes).for_each(|(out, code)| *out = code.wrapping_sub(zero));
        }
    }
}

/// Multiplies by integer scales, one for `each` words of 4 values, and cuts the products in two.
struct Split<'a> {
    zero: i32,
    each: usize,
    codes: &'a [Words; 64],
    steps: &'a [Words; 16],
    low: &'a mut [Words; 64],
    high: &'a mut [Words; 64],
}

impl Op for Split<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        use zerocopy::IntoBytes;
        for j in 0..64 / self.each {
            let mut scale = [0i16; 64];
            for i in 0..64 {
                scale[i] = self.steps[j][i / 4] as i16;
            }
            let zero = self.zero as i16;
            for step in j * self.each..(j + 1) * self.each {
                let codes = self.codes[step].as_bytes();
                let (low, high) = (self.low[step].as_mut_bytes(), self.high[step].as_mut_bytes());
                for i in 0..64 {
                    let product = (i16::from(codes[i]) - zero) * scale[i];
                    low[i] = (product & 127) as u8;
                    high[i] = (product >> 7) as u8;
                }
            }
        }
    }
}
