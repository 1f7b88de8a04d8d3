//! Types whose values are points of a grid: iq1, iq2 and iq3, in super-blocks of 256.
//!
//! All have eight values `v` times an odd integer scale: the halves and quarters of the formats are part of
//! `d`, the eighths by which iq1 shifts its points are part of the values.
//!
//! ```text
//! type                d is   v                      zero   scale for
//! iq2_xxs             d/8    +- grid (8, 25, 43)    43     32 values
//! iq2_xs, iq2_s       d/8    +- grid                43     16
//! iq3_xxs             d/4    +- grid (4 .. 62)      62     32
//! iq3_s               d      +- grid (1 .. 15)      15     32
//! iq1_s               d/8    8 grid +- 1 (-9 .. 9)  9      32
//! iq1_m               d/8    8 grid +- 1            9      16
//! ```

use quern_tensor_io::ElementType;
use quern_tensor_io::decode::grid;
use quern_tensor_io::layout::grid::nibble;
use quern_tensor_io::layout::{F16, IQ1M, IQ1S, IQ2S, IQ2XS, IQ2XXS, IQ3S, IQ3XXS};

use super::{Block, view};

/// The constants of a type.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid {
    /// The largest magnitude of a value: what a code of value 0 is.
    pub zero: i32,
    /// What `d` is multiplied with, scales being odd integers.
    pub unit: f32,
    /// Values under one scale.
    pub sub: usize,
}

/// The constants of a type, if it has a grid.
pub(crate) const fn constants(element_type: ElementType) -> Option<Grid> {
    use ElementType as T;
    match element_type {
        T::IQ2XXS => Some(Grid { zero: 43, unit: 0.125, sub: 32 }),
        T::IQ2XS | T::IQ2S => Some(Grid { zero: 43, unit: 0.125, sub: 16 }),
        T::IQ3XXS => Some(Grid { zero: 62, unit: 0.25, sub: 32 }),
        T::IQ3S => Some(Grid { zero: 15, unit: 1.0, sub: 32 }),
        T::IQ1S => Some(Grid { zero: 9, unit: 0.125, sub: 32 }),
        T::IQ1M => Some(Grid { zero: 9, unit: 0.125, sub: 16 }),
        super::code_types!() | super::no_block!() => None,
    }
}

/// iq1's grid, 8 times one more than its values, so that they are unsigned.
pub(crate) static IQ1_EIGHTS: [[u8; 8]; 2048] = {
    let mut grid = [[0; 8]; 2048];
    let mut i = 0;
    while i < 2048 * 8 {
        grid[i / 8][i % 8] = (8 * (grid::IQ1[i / 8][i % 8] + 1)) as u8;
        i += 1;
    }
    grid
};

/// Eight magnitudes with their signs (bit j: value j is negative).
fn signed(point: [u8; 8], signs: u8) -> [i32; 8] {
    std::array::from_fn(|j| i32::from(point[j]) * if signs >> j & 1 != 0 { -1 } else { 1 })
}

/// Two points of four values.
fn eight(a: [u8; 4], b: [u8; 4]) -> [u8; 8] {
    std::array::from_fn(|j| if j < 4 { a[j] } else { b[j - 4] })
}

/// Reads a block of a type that has a grid; `b` is exactly one block's bytes.
///
/// # Panics
/// If the type has none.
pub(super) fn read(element_type: ElementType, b: &[u8], o: &mut Block) {
    use ElementType as T;
    let Some(Grid { zero, unit, sub }) = constants(element_type) else {
        panic!("{element_type} has no grid");
    };
    (o.zero, o.sub) = (zero, sub);
    match element_type {
        T::IQ2XXS => iq2_xxs(view(b), o),
        T::IQ2XS => iq2_xs(view(b), o),
        T::IQ2S => iq2_s(view(b), o),
        T::IQ3XXS => iq3_xxs(view(b), o),
        T::IQ3S => iq3_s(view(b), o),
        T::IQ1S => iq1_s(view(b), o),
        T::IQ1M => iq1_m(view(b), o),
        super::code_types!() | super::no_block!() => {}
    }
    o.d *= unit;
}

/// Fills a block in: `d`, groups of eight values, codes of scales.
fn fill(o: &mut Block, d: F16, group: impl Fn(usize) -> [i32; 8], scale: impl Fn(usize) -> u8) {
    o.d = super::half(d);
    for (l, codes) in o.codes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        *codes = group(l).map(|v| (v + o.zero) as u8);
    }
    for (j, out) in o.scale[..256 / o.sub].iter_mut().enumerate() {
        *out = 2 * i32::from(scale(j)) + 1;
    }
}

fn iq2_xxs(b: &IQ2XXS, o: &mut Block) {
    let group = |l: usize| {
        let part = &b.qs[l / 4];
        signed(grid::IQ2_XXS[usize::from(part.index[l % 4])], grid::SIGNS[part.tail.signs(l % 4)])
    };
    fill(o, b.d, group, |j| b.qs[j].tail.scale());
}

fn iq2_xs(b: &IQ2XS, o: &mut Block) {
    let group = |l: usize| {
        let code = usize::from(b.qs[l].get());
        signed(grid::IQ2_XS[code & 511], grid::SIGNS[code >> 9])
    };
    fill(o, b.d, group, |j| nibble(&b.scales, j));
}

fn iq2_s(b: &IQ2S, o: &mut Block) {
    let group = |l: usize| {
        let high = b.qh[l / 4] >> (l % 4 * 2) & 3;
        signed(grid::IQ2_S[usize::from(b.qs[l]) | usize::from(high) << 8], b.signs[l])
    };
    fill(o, b.d, group, |j| nibble(&b.scales, j));
}

fn iq3_xxs(b: &IQ3XXS, o: &mut Block) {
    let group = |l: usize| {
        let [x, y] = [b.qs[2 * l], b.qs[2 * l + 1]].map(|i| grid::IQ3_XXS[usize::from(i)]);
        signed(eight(x, y), grid::SIGNS[b.tails[l / 4].signs(l % 4)])
    };
    fill(o, b.d, group, |j| b.tails[j].scale());
}

fn iq3_s(b: &IQ3S, o: &mut Block) {
    let group = |l: usize| {
        let [x, y] = [2 * l, 2 * l + 1].map(|k| {
            let high = b.qh[k / 8] >> (k % 8) & 1;
            grid::IQ3_S[usize::from(b.qs[k]) | usize::from(high) << 8]
        });
        signed(eight(x, y), b.signs[l])
    };
    fill(o, b.d, group, |j| nibble(&b.scales, j));
}

/// A point of iq1, times eight, and shifted.
fn ternary(low: u8, high: usize, down: bool) -> [i32; 8] {
    let shift = if down { -1 } else { 1 };
    grid::IQ1[usize::from(low) | high << 8].map(|g| 8 * i32::from(g) + shift)
}

fn iq1_s(b: &IQ1S, o: &mut Block) {
    let group = |l: usize| {
        let high = usize::from(b.qh[l / 4].get());
        ternary(b.qs[l], high >> (l % 4 * 3) & 7, high >> 15 != 0)
    };
    fill(o, b.d, group, |j| b.scale(j));
}

fn iq1_m(b: &IQ1M, o: &mut Block) {
    let group = |l: usize| {
        let high = nibble(&b.qh, l);
        ternary(b.qs[l], usize::from(high & 7), high & 8 != 0)
    };
    fill(o, b.d(), group, |j| b.scale(j));
}
