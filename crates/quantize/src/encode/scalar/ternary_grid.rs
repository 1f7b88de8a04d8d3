//! iq1: values -1, 0, 1 from a grid, all shifted by 1/8 up or down, 3-bit scales.
//!
//! A sub-block is sorted; every split into low, middle and high is tried with every shift, scored by how much
//! of the weighted energy it explains. The groups of the winner that are not on the grid then take the nearest
//! of the points around.

use quern_tensor_io::decode::iq1::SHIFT;
use quern_tensor_io::layout::{F16, IQ1M, IQ1S};

use super::super_blocks::{energy, importance};
use crate::encode::codebook::{self, Codebook, Found};
use crate::encode::levels;
use crate::encode::pack_grid;

/// The three values, by level, shifted up.
pub(crate) const UP: [f32; 3] = [SHIFT - 1.0, SHIFT, SHIFT + 1.0];
/// The three values, by level, shifted down.
pub(crate) const DOWN: [f32; 3] = [-SHIFT - 1.0, -SHIFT, -SHIFT + 1.0];

/// Sub-blocks of `iq1_s` whose largest magnitude is below are zero.
pub(crate) const TINY_S: f32 = 1e-12;
/// The same of `iq1_m`.
pub(crate) const TINY_M: f32 = 1e-7;

/// Where the sorted values are split (`low` values of level 0, up to `middle` of level 1), and how the two
/// halves are shifted. `iq1_s` shifts both by the same amount.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Split {
    pub scale: f32,
    pub low: usize,
    pub middle: usize,
    pub down: [bool; 2],
}

/// What becomes of a sub-block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SubBlock {
    pub scale: f32,
    pub index: [u16; 4],
    pub down: [bool; 2],
}

impl SubBlock {
    /// Of a sub-block that counts as zero.
    pub const NONE: Self = Self { scale: 0.0, index: [0; 4], down: [false; 2] };
}

pub(super) fn iq1_s(x: &[f32; 256], qw: Option<&[f32]>) -> IQ1S {
    let sigma2 = 2.0 * energy(x) / 256.0;
    let mut subs = [SubBlock::NONE; 8];
    for (j, (sub, x)) in subs.iter_mut().zip(x.as_chunks::<32>().0).enumerate() {
        let w = weights(x, qw.map(|qw| &qw[32 * j..32 * (j + 1)]), sigma2);
        if magnitude(x) >= TINY_S || magnitude(x).is_nan() {
            let order = sorted(x);
            if let Some(split) = split_s(x, &w, &order) {
                *sub = to_grid(x, &w, &order, split, look_up);
            }
        }
    }
    finish_s(&subs, sigma2)
}

pub(super) fn iq1_m(x: &[f32; 256], qw: Option<&[f32]>) -> IQ1M {
    let sigma2 = 2.0 * energy(x) / 256.0;
    let mut subs = [SubBlock::NONE; 16];
    let mut w = [0.0; 256];
    for (j, sub) in subs.iter_mut().enumerate() {
        let x = &x.as_chunks::<16>().0[j];
        let w = &mut w.as_chunks_mut::<16>().0[j];
        *w = weights(x, qw.map(|qw| &qw[16 * j..16 * (j + 1)]), sigma2);
        if magnitude(x) >= TINY_M || magnitude(x).is_nan() {
            let order = sorted(x);
            if let Some(split) = split_m(x, w, &order) {
                *sub = to_grid(x, w, &order, split, look_up);
            }
        }
    }
    finish_m(x, &w, &subs, sigma2)
}

/// Importance weights, or x^2.
fn weights<const N: usize>(x: &[f32; N], qw: Option<&[f32]>, sigma2: f32) -> [f32; N] {
    let mut w = x.map(|x| x * x);
    if let Some(qw) = qw {
        importance(x, qw, sigma2, &mut w);
    }
    w
}

/// Largest magnitude.
fn magnitude(x: &[f32]) -> f32 {
    x[1..].iter().fold(x[0].abs(), |max, x| if max > x.abs() { max } else { x.abs() })
}

/// Places of the values in ascending order, equals in order of place.
#[inline(always)]
pub(crate) fn sorted<const N: usize>(x: &[f32; N]) -> [u8; N] {
    let mut keys: [u64; N] = std::array::from_fn(|i| {
        // -0 + 0 is 0: the two zeros are equals.
        let bits = (x[i] + 0.0).to_bits();
        // As whole numbers, bits are in the order of the values once those of negative numbers are inverted.
        let ascending = if bits >> 31 == 0 { bits | 1 << 31 } else { !bits };
        u64::from(ascending) << 8 | i as u64
    });
    keys.sort_unstable();
    keys.map(|key| key as u8)
}

/// The best split of a sub-block of `iq1_s`. `None` without weight.
fn split_s(x: &[f32; 32], w: &[f32; 32], order: &[u8; 32]) -> Option<Split> {
    let (mut sum_x, mut sum_w) = ([0.0f32; 33], [0.0f32; 33]);
    for (j, &i) in order.iter().enumerate() {
        let i = usize::from(i);
        sum_x[j + 1] = sum_x[j] + w[i] * x[i];
        sum_w[j + 1] = sum_w[j] + w[i];
    }
    let mut best = -f32::MAX;
    let mut found = None;
    for low in 0..=32 {
        for middle in low..=32 {
            let parts = |sum: &[f32; 33]| [sum[low] - sum[0], sum[middle] - sum[low], sum[32] - sum[middle]];
            let ([x0, x1, x2], [w0, w1, w2]) = (parts(&sum_x), parts(&sum_w));
            for (v, down) in [(UP, false), (DOWN, true)] {
                let sum_qx = x0 * v[0] + x1 * v[1] + x2 * v[2];
                let sum_q2 = w0 * v[0] * v[0] + w1 * v[1] * v[1] + w2 * v[2] * v[2];
                if sum_q2 > 0.0 && sum_qx * sum_qx > best * sum_q2 {
                    let scale = sum_qx / sum_q2;
                    best = scale * sum_qx;
                    found = Some(Split { scale, low, middle, down: [down; 2] });
                }
            }
        }
    }
    found
}

/// The best split of a sub-block of `iq1_m`, whose two halves are shifted each for itself. `None` without
/// weight.
fn split_m(x: &[f32; 16], w: &[f32; 16], order: &[u8; 16]) -> Option<Split> {
    let (mut sum_x, mut sum_w) = ([[0.0f32; 17]; 2], [[0.0f32; 17]; 2]);
    for (j, &i) in order.iter().enumerate() {
        let i = usize::from(i);
        let half = i / 8;
        for h in 0..2 {
            (sum_x[h][j + 1], sum_w[h][j + 1]) = (sum_x[h][j], sum_w[h][j]);
        }
        sum_x[half][j + 1] += w[i] * x[i];
        sum_w[half][j + 1] += w[i];
    }
    let mut best = -f32::MAX;
    let mut found = None;
    for low in 0..=16 {
        for middle in low..=16 {
            // Neighbouring levels are one apart, so a half sums to its total times the highest value, less
            // what the two splits take off.
            let half = |h: usize, v: [f32; 3]| {
                let sum_qx = sum_x[h][16] * v[2] - (sum_x[h][low] + sum_x[h][middle]);
                let sum_q2 = sum_w[h][16] * v[2] * v[2]
                    + sum_w[h][low] * (v[0] * v[0] - v[1] * v[1])
                    + sum_w[h][middle] * (v[1] * v[1] - v[2] * v[2]);
                (sum_qx, sum_q2)
            };
            let halves = [[half(0, UP), half(0, DOWN)], [half(1, UP), half(1, DOWN)]];
            for down in [[false, false], [false, true], [true, false], [true, true]] {
                let (first, second) = (halves[0][usize::from(down[0])], halves[1][usize::from(down[1])]);
                let (sum_qx, sum_q2) = (first.0 + second.0, first.1 + second.1);
                if sum_q2 > 0.0 && sum_qx * sum_qx > best * sum_q2 {
                    let scale = sum_qx / sum_q2;
                    best = scale * sum_qx;
                    found = Some(Split { scale, low, middle, down });
                }
            }
        }
    }
    found
}

/// Makes points of the grid of a split, and fits the scale to them if any had to be searched for. `look_up`
/// gives the point for packed levels, and whether it had to: for values, weights, the scale and how levels are
/// shifted.
#[inline(always)]
pub(crate) fn to_grid<const N: usize>(
    x: &[f32; N],
    w: &[f32; N],
    order: &[u8; N],
    split: Split,
    look_up: impl Fn(usize, &[f32; 8], &[f32; 8], f32, bool) -> (u16, bool),
) -> SubBlock {
    let Split { mut scale, low, middle, mut down } = split;
    let mut level = [0u8; N];
    for (place, &i) in order.iter().enumerate() {
        level[usize::from(i)] = u8::from(place >= low) + u8::from(place >= middle);
    }
    if scale < 0.0 {
        level = level.map(|l| 2 - l);
        scale = -scale;
        down = down.map(|d| !d);
    }
    let mut index = [0; 4];
    let mut searched = false;
    let groups = level.as_chunks::<8>().0.iter().zip(x.as_chunks::<8>().0).zip(w.as_chunks::<8>().0);
    for (k, ((level, x), w)) in groups.clone().enumerate() {
        let off;
        (index[k], off) = look_up(Codebook::<8>::pack(level), x, w, scale, down[k * 16 / N]);
        searched |= off;
    }
    if searched {
        let (mut sum_qx, mut sum_q2) = (0.0, 0.0);
        for (k, ((_, x), w)) in groups.enumerate() {
            for ((x, w), q) in x.iter().zip(w).zip(point(index[k], down[k * 16 / N])) {
                sum_qx += w * q * x;
                sum_q2 += w * q * q;
            }
        }
        if sum_qx > 0.0 && sum_q2 > 0.0 {
            scale = sum_qx / sum_q2;
        }
    }
    SubBlock { scale, index, down }
}

/// The values of a point of the grid.
#[inline(always)]
fn point(index: u16, down: bool) -> [f32; 8] {
    let values = if down { DOWN } else { UP };
    codebook::iq1().points[usize::from(index)].map(|odd| values[odd as usize / 2])
}

/// The point for packed levels: the first of the candidates with the smallest error.
fn look_up(code: usize, x: &[f32; 8], w: &[f32; 8], scale: f32, down: bool) -> (u16, bool) {
    let near = match codebook::iq1().find(code) {
        Found::On(index) => return (index, false),
        Found::Off(near) => near,
    };
    let (mut best, mut chosen) = (f32::MAX, near[0]);
    for &index in near {
        let error = point(index, down).iter().zip(x).zip(w).fold(0.0f32, |sum, ((&q, &x), &w)| {
            let diff = scale * q - x;
            sum + w * diff * diff
        });
        if error < best {
            (best, chosen) = (error, index);
        }
    }
    (chosen, true)
}

/// The block, from its sub-blocks.
pub(crate) fn finish_s(subs: &[SubBlock; 8], sigma2: f32) -> IQ1S {
    let (d, codes) = levels::ternary_grid(&subs.map(|sub| sub.scale), sigma2);
    let mut index = [0; 32];
    for (index, sub) in index.as_chunks_mut().0.iter_mut().zip(subs) {
        *index = sub.index;
    }
    // Without any scale nothing else is written.
    let down = subs.map(|sub| d != 0.0 && sub.down[0]);
    pack_grid::iq1_s(F16::from_f32(d * 1.125), &index, &codes, &down)
}

/// The block, from its sub-blocks. With the codes of the scales known, `d` is fitted once more.
pub(crate) fn finish_m(x: &[f32; 256], w: &[f32; 256], subs: &[SubBlock; 16], sigma2: f32) -> IQ1M {
    let (mut d, codes) = levels::ternary_grid(&subs.map(|sub| sub.scale), sigma2);
    let (mut index, mut down) = ([0; 32], [false; 32]);
    for (j, sub) in subs.iter().enumerate() {
        for half in 0..2 {
            index[2 * j + half] = sub.index[half];
            down[2 * j + half] = d != 0.0 && sub.down[half];
        }
    }
    if d != 0.0 {
        let (mut sum_qx, mut sum_q2) = (0.0, 0.0);
        let groups = x.as_chunks::<8>().0.iter().zip(w.as_chunks::<8>().0);
        for (k, (x, w)) in groups.enumerate() {
            let times = f32::from(2 * codes[k / 2] + 1);
            for ((x, w), q) in x.iter().zip(w).zip(point(index[k], down[k])) {
                let q = q * times;
                sum_qx += w * q * x;
                sum_q2 += w * q * q;
            }
        }
        if sum_q2 > 0.0 && !d.is_nan() {
            d = sum_qx / sum_q2;
        }
    }
    pack_grid::iq1_m(F16::from_f32(d * 1.1125), &index, &codes, &down)
}
