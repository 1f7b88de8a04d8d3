//! iq2 and iq3 in lanes: see `scalar::grids`, step by step the same.
//!
//! Sixteen blocks go side by side through all that is arithmetic. Where a group is off the grid, its lane
//! looks among its candidates alone, sixteen candidates side by side.

use quern_compute::simd::lanes::{LANES, Lanes};
use quern_tensor_io::layout;

use super::super::codebook::{self, Codebook, FoundTiles};
use super::super::formats::{self, Again, GridFormat, PlainWeights};
use super::super::levels;
use super::super::pack_grid::{self, Grids};
use super::batch::{Batch, BlockEncoder};
use super::nearest;
use super::search::{self, Rounding};
use super::super_blocks::{energy, importance, squares};
use super::tile::{Aligned, Tile};

/// `iq2_xxs`.
#[derive(Clone, Copy)]
pub(super) struct Iq2Xxs;
/// `iq2_xs`.
#[derive(Clone, Copy)]
pub(super) struct Iq2Xs;
/// `iq2_s`.
#[derive(Clone, Copy)]
pub(super) struct Iq2S;
/// `iq3_xxs`.
#[derive(Clone, Copy)]
pub(super) struct Iq3Xxs;
/// `iq3_s`.
#[derive(Clone, Copy)]
pub(super) struct Iq3S;

macro_rules! encoder {
    ($type:ty, $block:ident, $sub:literal, $width:literal, $format:ident, $name:ident) => {
        impl BlockEncoder<256> for $type {
            type Block = layout::$block;

            #[inline(always)]
            fn encode<S: Lanes>(self, s: S, batch: &mut Batch<256>, out: &mut [Self::Block]) {
                let grids = blocks::<S, $sub, $width>(s, &formats::$format, codebook::$name(), batch);
                for (out, grids) in out.iter_mut().zip(&grids) {
                    *out = pack_grid::$name(grids);
                }
            }
        }
    };
}
encoder!(Iq2Xxs, IQ2XXS, 32, 8, IQ2_XXS, iq2_xxs);
encoder!(Iq2Xs, IQ2XS, 16, 8, IQ2_XS, iq2_xs);
encoder!(Iq2S, IQ2S, 16, 8, IQ2_S, iq2_s);
encoder!(Iq3Xxs, IQ3XXS, 32, 4, IQ3_XXS, iq3_xxs);
encoder!(Iq3S, IQ3S, 32, 4, IQ3_S, iq3_s);

/// Sixteen super-blocks up to packing.
#[inline(always)]
fn blocks<S: Lanes, const N: usize, const W: usize>(
    s: S,
    format: &GridFormat,
    book: &Codebook<W>,
    batch: &Batch<256>,
) -> [Grids; LANES] {
    let mut grids = [Grids::ZERO; LANES];
    let mut scales = [[0.0; 16]; LANES];
    let sigma2 = s.splat(format.energy_factor) * energy(s, &batch.x) / s.splat(256.0);
    let mut w = Aligned([[0.0; LANES]; N]);
    let mut sub_block = SubBlock::<S, N>::new(s);
    for (sub, x) in batch.x.as_chunks::<N>().0.iter().enumerate() {
        if batch.weighted {
            importance(s, x, &batch.qw.as_chunks::<N>().0[sub], sigma2, &mut w);
        } else if format.plain == PlainWeights::RaisedSquares {
            for (w, x) in w.iter_mut().zip(x) {
                let x = s.load(x);
                s.store(s.splat(0.25) * sigma2 + x * x, w);
            }
        } else {
            squares(s, x, &mut w);
        }
        let mut signs = [[0; LANES]; 4];
        sub_block.fill(s, format, x, &w, &mut signs);
        let scale = sub_block.search(s, format, book);
        let mut found = [0.0; LANES];
        s.store(scale, &mut found);
        for (lane, grids) in grids.iter_mut().enumerate() {
            if !sub_block.live[lane] {
                continue;
            }
            let flip = if found[lane] < 0.0 { 0xff } else { 0 };
            scales[lane][sub] = found[lane].abs();
            for (o, signs) in grids.signs[sub * (N / 8)..][..N / 8].iter_mut().zip(&signs) {
                *o = signs[lane] ^ flip;
            }
            for (o, index) in grids.index[sub * (N / W)..][..N / W].iter_mut().zip(&sub_block.index) {
                *o = index[lane] & !OFF;
            }
        }
    }
    let mut squares = [0.0; LANES];
    s.store(sigma2, &mut squares);
    for ((grids, scales), sigma2) in grids.iter_mut().zip(&scales).zip(squares) {
        levels::grid(format, &scales[..256 / N], sigma2, grids);
    }
    grids
}

/// Set in the index of a point that had to be searched for.
const OFF: u16 = 0x8000;

/// Most candidates of any format.
const CANDIDATES: usize = 31;

/// One sub-block of each lane.
#[repr(C, align(64))]
struct SubBlock<S: Lanes, const N: usize> {
    /// Magnitudes.
    x: Tile<N>,
    /// Weights.
    w: Tile<N>,
    /// Weights times magnitudes.
    wx: Tile<N>,
    /// Magnitudes lane by lane.
    x_rows: [[f32; N]; LANES],
    /// Roots of the weights lane by lane.
    root_rows: [[f32; N]; LANES],
    /// The points tried for each candidate, and in the last place those of the second look.
    tried: [[[u16; LANES]; 8]; CANDIDATES + 1],
    /// The points found.
    index: [[u16; LANES]; 8],
    /// Which lanes do not count as zero.
    live: [bool; LANES],
    max: S::F,
}

impl<S: Lanes, const N: usize> SubBlock<S, N> {
    #[inline(always)]
    fn new(s: S) -> Self {
        let zero = [[0.0; LANES]; N];
        Self {
            x: zero,
            w: zero,
            wx: zero,
            x_rows: [[0.0; N]; LANES],
            root_rows: [[0.0; N]; LANES],
            tried: [[[0; LANES]; 8]; CANDIDATES + 1],
            index: [[0; LANES]; 8],
            live: [false; LANES],
            max: s.splat(0.0),
        }
    }

    /// Takes in values and weights; writes the signs, a byte for eight values.
    #[inline(always)]
    fn fill(&mut self, s: S, format: &GridFormat, x: &Tile<N>, w: &Tile<N>, signs: &mut [[u8; LANES]; 4]) {
        let (none, one) = (s.splat(0.0), s.splat(1.0));
        for k in 0..N / 8 {
            let (mut odd, mut least, mut place) = (none, none, none);
            for i in 0..8 {
                let (x, w) = (s.load(&x[8 * k + i]), s.load(&w[8 * k + i]));
                odd = s.select(s.less(x, none), one - odd, odd);
                let cost = w * x * x;
                let less = s.less(cost, least);
                let first = i == 0;
                least = if first { cost } else { s.select(less, cost, least) };
                place = if first { none } else { s.select(less, s.splat(i as f32), place) };
            }
            let mut bits = none;
            for i in 0..8 {
                let at = 8 * k + i;
                let (x, w) = (s.load(&x[at]), s.load(&w[at]));
                let bit = s.splat((1 << i) as f32);
                let mut sign = s.select(s.less(x, none), bit, none);
                let mut magnitude = s.abs(x);
                if format.even_signs {
                    let flips = s.both(s.equal(odd, one), s.equal(place, s.splat(i as f32)));
                    sign = s.select(flips, bit - sign, sign);
                    magnitude = s.select(flips, none - magnitude, magnitude);
                }
                bits = bits + sign;
                s.store(magnitude, &mut self.x[at]);
                s.store(w, &mut self.w[at]);
                s.store(w * magnitude, &mut self.wx[at]);
            }
            s.store_bytes(bits, &mut signs[k]);
        }
        self.max = s.load(&self.x[0]);
        for x in &self.x[1..] {
            self.max = s.max(self.max, s.load(x));
        }
        for at in 0..N / LANES {
            let (mut x, mut roots) = ([none; LANES], [none; LANES]);
            for i in 0..LANES {
                x[i] = s.load(&self.x[at * LANES + i]);
                roots[i] = s.sqrt(s.load(&self.w[at * LANES + i]));
            }
            let (x, roots) = (s.transpose(x), s.transpose(roots));
            for lane in 0..LANES {
                s.store(x[lane], &mut self.x_rows[lane].as_chunks_mut().0[at]);
                s.store(roots[lane], &mut self.root_rows[lane].as_chunks_mut().0[at]);
            }
        }
    }

    /// Finds scale (with the sign it came out with) and points.
    #[inline(always)]
    fn search<const W: usize>(&mut self, s: S, format: &GridFormat, book: &Codebook<W>) -> S::F {
        let (none, one) = (s.splat(0.0), s.splat(1.0));
        let largest = (2 * Codebook::<W>::LEVELS - 1) as f32;
        let tiny = s.less(self.max, s.splat(format.tiny));
        let mut dead = s.select(tiny, one, none);
        let (mut scale, top) = if format.searched {
            let (mut x, mut w) = ([none; N], [none; N]);
            for i in 0..N {
                (x[i], w[i]) = (s.load(&self.x[i]), s.load(&self.w[i]));
            }
            let scale = search::positive(s, &x, &w, Codebook::<W>::LEVELS + 1, &mut [none; N]);
            let top = scale * s.splat(Codebook::<W>::LEVELS as f32);
            dead = s.select(s.less(none, top), dead, s.select(s.equal(top, top), one, dead));
            (scale, top)
        } else {
            (self.max / s.splat(largest), self.max)
        };
        let mut flags = [0.0; LANES];
        s.store(dead, &mut flags);
        self.live = flags.map(|dead| dead == 0.0);

        let mut best = none;
        let mut chosen = s.splat(-1.0);
        for (candidate, step) in (-format.last..=format.last).enumerate() {
            let inverse = s.splat(largest + step as f32 * format.step) / top;
            let needed = self.live;
            self.look_up(s, book, inverse, one / inverse, candidate, |_, lane| needed[lane]);
            let (sum_qx, sum_q2) = self.sums(s, book, candidate);
            let better = s.both(s.less(none, sum_q2), s.less(best * sum_q2, sum_qx * sum_qx));
            let fitted = sum_qx / sum_q2;
            scale = s.select(better, fitted, scale);
            best = s.select(better, fitted * sum_qx, best);
            chosen = s.select(better, s.splat(candidate as f32), chosen);
        }
        let mut winner = [0.0; LANES];
        s.store(chosen, &mut winner);
        let mut positive = [0.0; LANES];
        s.store(s.select(s.less(none, scale), one, none), &mut positive);
        let mut again = [0.0f32; LANES];
        let none_found = if format.again == Again::AllIfAny { OFF } else { 0 };
        for lane in 0..LANES {
            let mut off = false;
            for k in 0..N / W {
                let index =
                    if winner[lane] < 0.0 { none_found } else { self.tried[winner[lane] as usize][k][lane] };
                self.index[k][lane] = index;
                off |= index & OFF != 0;
            }
            let looks = self.live[lane] && positive[lane] != 0.0 && (off || format.again == Again::Always);
            again[lane] = if looks { 1.0 } else { 0.0 };
        }
        let looks = s.equal(s.load(&again), one);
        if s.any(looks) {
            let last = CANDIDATES;
            self.tried[last] = self.index;
            let index = self.index;
            let all = format.again != Again::OffGrid;
            let needed = |k: usize, lane: usize| again[lane] != 0.0 && (all || index[k][lane] & OFF != 0);
            self.look_up(s, book, one / scale, scale, last, needed);
            let (sum_qx, sum_q2) = self.sums(s, book, last);
            self.index = self.tried[last];
            scale = s.select(s.both(looks, s.less(none, sum_q2)), sum_qx / sum_q2, scale);
        }
        scale
    }

    /// Points for all groups under a scale, those `needed`, into `tried[candidate]`.
    #[inline(always)]
    fn look_up<const W: usize>(
        &mut self,
        s: S,
        book: &Codebook<W>,
        inverse: S::F,
        scale: S::F,
        candidate: usize,
        needed: impl Fn(usize, usize) -> bool,
    ) {
        let rounding = Rounding::new(s, 0, Codebook::<W>::LEVELS - 1);
        let (half, one) = (s.splat(0.5), s.splat(1.0));
        let mut scales = [0.0; LANES];
        s.store(scale, &mut scales);
        for k in 0..N / W {
            let mut packed = s.splat(0.0);
            for i in 0..W {
                let level = rounding.code(s, half * (inverse * s.load(&self.x[W * k + i]) - one));
                packed = packed + level * s.splat((1 << (i * Codebook::<W>::BITS)) as f32);
            }
            let mut codes = [0.0; LANES];
            s.store(packed, &mut codes);
            for lane in 0..LANES {
                if !needed(k, lane) {
                    continue;
                }
                self.tried[candidate][k][lane] = match book.find_tiles(codes[lane] as usize) {
                    FoundTiles::On(index) => index,
                    FoundTiles::Off(near, tiles) => {
                        let x = &self.x_rows[lane].as_chunks::<W>().0[k];
                        let roots = &self.root_rows[lane].as_chunks::<W>().0[k];
                        OFF | nearest::point(s, near, tiles, x, roots, scales[lane], |q| q)
                    }
                };
            }
        }
    }

    /// Sums of w x q and w q^2 for the points of a candidate.
    #[inline(always)]
    fn sums<const W: usize>(&self, s: S, book: &Codebook<W>, candidate: usize) -> (S::F, S::F) {
        let (mut sum_qx, mut sum_q2) = (s.splat(0.0), s.splat(0.0));
        for at in 0..N / LANES {
            let mut rows = [s.splat(0.0); LANES];
            for (lane, row) in rows.iter_mut().enumerate() {
                let mut points = [0.0; LANES];
                for (part, points) in points.as_chunks_mut::<W>().0.iter_mut().enumerate() {
                    let index = self.tried[candidate][at * (LANES / W) + part][lane] & !OFF;
                    *points = book.points[usize::from(index)];
                }
                *row = s.load(&points);
            }
            for (i, q) in s.transpose(rows).into_iter().enumerate() {
                let (w, wx) = (s.load(&self.w[at * LANES + i]), s.load(&self.wx[at * LANES + i]));
                sum_qx = sum_qx + wx * q;
                sum_q2 = sum_q2 + w * q * q;
            }
        }
        (sum_qx, sum_q2)
    }
}
