//! iq2 and iq3: magnitudes from a grid, signs beside them, 4-bit scales.
//!
//! A sub-block of `N` values (32, or 16) has one scale. Each candidate scale rounds the magnitudes to levels;
//! a group of `W` whose levels are not a point of the grid takes the nearest of the points around (weights
//! under the root: the sum of `sqrt(w) diff^2`). The candidate that explains most of the weighted energy wins,
//! as in the symmetric search.

use quern_tensor_io::layout::{IQ2S, IQ2XS, IQ2XXS, IQ3S, IQ3XXS};

use super::search;
use super::super_blocks::{energy, importance};
use crate::encode::codebook::{self, Codebook, Found};
use crate::encode::formats::{Again, GridFormat, IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS, PlainWeights};
use crate::encode::levels;
use crate::encode::numeric::nearest;
use crate::encode::pack_grid::{self, Grids};

pub(super) fn iq2_xxs(x: &[f32; 256], qw: Option<&[f32]>) -> IQ2XXS {
    pack_grid::iq2_xxs(&block::<32, 8>(&IQ2_XXS, codebook::iq2_xxs(), x, qw))
}

pub(super) fn iq2_xs(x: &[f32; 256], qw: Option<&[f32]>) -> IQ2XS {
    pack_grid::iq2_xs(&block::<16, 8>(&IQ2_XS, codebook::iq2_xs(), x, qw))
}

pub(super) fn iq2_s(x: &[f32; 256], qw: Option<&[f32]>) -> IQ2S {
    pack_grid::iq2_s(&block::<16, 8>(&IQ2_S, codebook::iq2_s(), x, qw))
}

pub(super) fn iq3_xxs(x: &[f32; 256], qw: Option<&[f32]>) -> IQ3XXS {
    pack_grid::iq3_xxs(&block::<32, 4>(&IQ3_XXS, codebook::iq3_xxs(), x, qw))
}

pub(super) fn iq3_s(x: &[f32; 256], qw: Option<&[f32]>) -> IQ3S {
    pack_grid::iq3_s(&block::<32, 4>(&IQ3_S, codebook::iq3_s(), x, qw))
}

/// A super-block up to packing.
fn block<const N: usize, const W: usize>(
    format: &GridFormat,
    book: &Codebook<W>,
    x: &[f32; 256],
    qw: Option<&[f32]>,
) -> Grids {
    let mut grids = Grids::ZERO;
    let sigma2 = format.energy_factor * energy(x) / 256.0;
    let mut scales = [0.0f32; 16];
    for (sub, x) in x.as_chunks::<N>().0.iter().enumerate() {
        let mut w = [0.0; N];
        match (qw, format.plain) {
            (Some(qw), _) => importance(x, &qw[N * sub..N * (sub + 1)], sigma2, &mut w),
            (None, PlainWeights::RaisedSquares) => w = x.map(|x| 0.25 * sigma2 + x * x),
            (None, _) => w = x.map(|x| x * x),
        }
        let (magnitudes, signs) = magnitudes(format, x, &w);
        let index = &mut grids.index[sub * (N / W)..][..N / W];
        let signs_out = &mut grids.signs[sub * (N / 8)..][..N / 8];
        if let Some((scale, flip)) = sub_block::<N, W>(format, book, &magnitudes, &w, index) {
            signs_out.iter_mut().zip(signs).for_each(|(o, s)| *o = if flip { !s } else { s });
            scales[sub] = scale;
        }
    }
    levels::grid(format, &scales[..256 / N], sigma2, &mut grids);
    grids
}

/// Magnitudes and signs (a byte for eight values). With even signs one magnitude may be negative.
fn magnitudes<const N: usize>(format: &GridFormat, x: &[f32; N], w: &[f32; N]) -> ([f32; N], [u8; 4]) {
    let mut magnitudes = [0.0; N];
    let mut signs = [0; 4];
    let groups =
        magnitudes.as_chunks_mut::<8>().0.iter_mut().zip(x.as_chunks::<8>().0).zip(w.as_chunks::<8>().0);
    for (((magnitudes, x), w), signs) in groups.zip(&mut signs) {
        for (i, (m, &x)) in magnitudes.iter_mut().zip(x).enumerate() {
            *m = if x >= 0.0 { x } else { -x };
            *signs |= u8::from(x < 0.0) << i;
        }
        if format.even_signs && signs.count_ones() % 2 == 1 {
            let cost = |i: usize| w[i] * x[i] * x[i];
            let least = (1..8).fold(0, |least, i| if cost(i) < cost(least) { i } else { least });
            magnitudes[least] = -magnitudes[least];
            *signs ^= 1 << least;
        }
    }
    (magnitudes, signs)
}

/// Scale of a sub-block, and whether all its signs must change; `index` receives the points. `None` if it
/// counts as zero.
fn sub_block<const N: usize, const W: usize>(
    format: &GridFormat,
    book: &Codebook<W>,
    x: &[f32; N],
    w: &[f32; N],
    index: &mut [u16],
) -> Option<(f32, bool)> {
    let max = x[1..].iter().fold(x[0], |max, &x| if max > x { max } else { x });
    if max < format.tiny {
        return None;
    }
    let largest = (2 * Codebook::<W>::LEVELS - 1) as f32;
    let (mut scale, top) = if format.searched {
        let scale = search::positive(x, w, Codebook::<W>::LEVELS + 1, &mut [0; N]);
        let top = scale * Codebook::<W>::LEVELS as f32;
        if top <= 0.0 {
            return None;
        }
        (scale, top)
    } else {
        (max / largest, max)
    };
    let roots = w.map(f32::sqrt);
    let mut best = 0.0;
    let mut off = [format.again == Again::AllIfAny; 8];
    for step in -format.last..=format.last {
        let inverse = (largest + step as f32 * format.step) / top;
        let (mut tried, mut tried_off) = ([0; 8], [false; 8]);
        for k in 0..N / W {
            (tried[k], tried_off[k]) = look_up(book, group(x, k), group(&roots, k), inverse, 1.0 / inverse);
        }
        let (sum_qx, sum_q2) = sums(book, x, w, &tried);
        if sum_q2 > 0.0 && sum_qx * sum_qx > best * sum_q2 {
            scale = sum_qx / sum_q2;
            best = scale * sum_qx;
            index.copy_from_slice(&tried[..N / W]);
            off = tried_off;
        }
    }
    let any = format.again == Again::Always || off[..N / W].contains(&true);
    if any && scale > 0.0 {
        for k in 0..N / W {
            if off[k] || format.again != Again::OffGrid {
                index[k] = look_up(book, group(x, k), group(&roots, k), 1.0 / scale, scale).0;
            }
        }
        let (sum_qx, sum_q2) = sums(book, x, w, index);
        if sum_q2 > 0.0 {
            scale = sum_qx / sum_q2;
        }
    }
    Some((scale.abs(), scale < 0.0))
}

fn group<const N: usize, const W: usize>(values: &[f32; N], k: usize) -> &[f32; W] {
    &values.as_chunks::<W>().0[k]
}

/// The point for a group under a scale, and whether it had to be searched for.
fn look_up<const W: usize>(
    book: &Codebook<W>,
    x: &[f32; W],
    roots: &[f32; W],
    inverse: f32,
    scale: f32,
) -> (u16, bool) {
    let level = |x: f32| nearest(0.5 * (inverse * x - 1.0)).clamp(0, Codebook::<W>::LEVELS - 1) as u8;
    match book.find(Codebook::pack(&x.map(level))) {
        Found::On(index) => (index, false),
        Found::Off(near) => (nearest_point(book, near, x, roots, scale), true),
    }
}

/// The first of the candidates with the smallest error.
fn nearest_point<const W: usize>(
    book: &Codebook<W>,
    near: &[u16],
    x: &[f32; W],
    roots: &[f32; W],
    scale: f32,
) -> u16 {
    let (mut best, mut chosen) = (f32::MAX, near[0]);
    for &index in near {
        let point = &book.points[usize::from(index)];
        let error = point.iter().zip(x).zip(roots).fold(0.0f32, |sum, ((&q, &x), &w)| {
            let diff = scale * q - x;
            sum + w * diff * diff
        });
        if error < best {
            (best, chosen) = (error, index);
        }
    }
    chosen
}

/// Sums of w x q and w q^2 over a sub-block.
fn sums<const N: usize, const W: usize>(
    book: &Codebook<W>,
    x: &[f32; N],
    w: &[f32; N],
    index: &[u16],
) -> (f32, f32) {
    let (mut sum_qx, mut sum_q2) = (0.0, 0.0);
    for ((x, w), &index) in x.as_chunks::<W>().0.iter().zip(w.as_chunks::<W>().0).zip(index) {
        for ((&x, &w), &q) in x.iter().zip(w).zip(&book.points[usize::from(index)]) {
            sum_qx += w * x * q;
            sum_q2 += w * q * q;
        }
    }
    (sum_qx, sum_q2)
}
