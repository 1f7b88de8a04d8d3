//! Lanes in plain Rust: the meaning of every operation.

use std::ops::{Add, Div, Mul, Sub};

use super::{LANES, Lanes};

/// Lanes without vector instructions of our choosing.
#[derive(Clone, Copy)]
pub(super) struct Portable;

/// Sixteen values.
#[derive(Clone, Copy)]
pub(super) struct Values([f32; LANES]);

macro_rules! operators {
    ($($trait:ident $method:ident $op:tt;)*) => { $(
        impl $trait for Values {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                let mut out = self.0;
                for (a, b) in out.iter_mut().zip(other.0) {
                    *a $op b;
                }
                Self(out)
            }
        }
    )* };
}
operators! { Add add +=; Sub sub -=; Mul mul *=; Div div /=; }

#[inline(always)]
fn zip<T, U: Copy, R: Copy + Default>(a: [T; LANES], b: [U; LANES], f: impl Fn(T, U) -> R) -> [R; LANES] {
    let mut out = [R::default(); LANES];
    for ((o, a), b) in out.iter_mut().zip(a).zip(b) {
        *o = f(a, b);
    }
    out
}

impl Lanes for Portable {
    type F = Values;
    type M = [bool; LANES];
    type I = [u8; LANES];

    #[inline(always)]
    fn splat(self, x: f32) -> Values {
        Values([x; LANES])
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Values {
        Values(*x)
    }
    #[inline(always)]
    fn load_bytes(self, x: &[u8; LANES]) -> Values {
        Values(x.map(f32::from))
    }
    #[inline(always)]
    fn store(self, x: Values, out: &mut [f32; LANES]) {
        *out = x.0;
    }
    #[inline(always)]
    fn less(self, a: Values, b: Values) -> Self::M {
        zip(a.0, b.0, |a, b| a < b)
    }
    #[inline(always)]
    fn equal(self, a: Values, b: Values) -> Self::M {
        zip(a.0, b.0, |a, b| a == b)
    }
    #[inline(always)]
    fn both(self, a: Self::M, b: Self::M) -> Self::M {
        zip(a, b, |a, b| a & b)
    }
    #[inline(always)]
    fn but_not(self, a: Self::M, b: Self::M) -> Self::M {
        zip(a, b, |a, b| a & !b)
    }
    #[inline(always)]
    fn any(self, m: Self::M) -> bool {
        m.contains(&true)
    }
    #[inline(always)]
    fn select(self, m: Self::M, yes: Values, no: Values) -> Values {
        let mut out = no.0;
        for ((o, m), yes) in out.iter_mut().zip(m).zip(yes.0) {
            *o = if m { yes } else { *o };
        }
        Values(out)
    }
    #[inline(always)]
    fn min(self, a: Values, b: Values) -> Values {
        Values(zip(a.0, b.0, |a, b| if a < b { a } else { b }))
    }
    #[inline(always)]
    fn max(self, a: Values, b: Values) -> Values {
        Values(zip(a.0, b.0, |a, b| if a > b { a } else { b }))
    }
    #[inline(always)]
    fn abs(self, x: Values) -> Values {
        Values(x.0.map(f32::abs))
    }
    #[inline(always)]
    fn with_sign(self, magnitude: Values, sign: Values) -> Values {
        Values(zip(magnitude.0, sign.0, f32::copysign))
    }
    #[inline(always)]
    fn sqrt(self, x: Values) -> Values {
        Values(x.0.map(f32::sqrt))
    }
    #[inline(always)]
    fn mantissa(self, x: Values) -> Values {
        Values(x.0.map(|x| f32::from_bits((x.to_bits() & 0x007f_ffff) | 0x4b00_0000)))
    }
    #[inline(always)]
    fn store_bytes(self, x: Values, out: &mut [u8; LANES]) {
        for (o, x) in out.iter_mut().zip(x.0) {
            let fits = (-2_147_483_648.0..2_147_483_648.0).contains(&x);
            *o = if fits { x as i32 as u8 } else { 0 };
        }
    }
    #[inline(always)]
    fn store_f16(self, x: Values, out: &mut [u16; LANES]) {
        *out = x.0.map(|x| half::f16::from_f32(x).to_bits());
    }
    #[inline(always)]
    fn low_byte(self, x: Values) -> Values {
        let mut bytes = [0; LANES];
        self.store_bytes(x, &mut bytes);
        Values(bytes.map(f32::from))
    }
    #[inline(always)]
    fn steps_reached(self, edges: &[f32; LANES], x: Values) -> Self::I {
        let mut out = [0; LANES];
        for &edge in &edges[..15] {
            for (o, x) in out.iter_mut().zip(x.0) {
                // `!(x < edge)` rather than `x >= edge`: NaN reaches every step.
                *o += u8::from(!matches!(x.partial_cmp(&edge), Some(std::cmp::Ordering::Less)));
            }
        }
        out
    }
    #[inline(always)]
    fn take(self, table: &[f32; LANES], index: Self::I) -> Values {
        Values(index.map(|i| table[usize::from(i & 15)]))
    }
    #[inline(always)]
    fn store_index(self, index: Self::I, out: &mut [u8; LANES]) {
        *out = index;
    }
    #[inline(always)]
    fn transpose(self, rows: [Values; LANES]) -> [Values; LANES] {
        std::array::from_fn(|j| Values(std::array::from_fn(|i| rows[i].0[j])))
    }
}
