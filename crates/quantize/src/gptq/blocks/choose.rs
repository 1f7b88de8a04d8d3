//! Scales and offsets of groups, before their columns are rounded: a search for the smallest
//! `Σ h_j (w_j - ŵ_j)²`, `h` the diagonal of the Hessian, sixteen rows at a time.
//!
//! ```text
//! scale alone        shares of the range, both signs; then least squares for the levels found, twice
//! scale and offset   both ends of the range moved inwards; then least squares for both, twice
//! ```
//!
//! Types with whole numbers under a shared f16 take that f16 for the whole block first, from the scales that
//! its groups would like; then, group by group, the numbers around the best.

use quern_compute::simd::lanes::{LANES, LaneOp, Lanes};

use crate::gptq::levels::LevelSet;
use crate::gptq::parameters::{half, lane, lane_mut};
use crate::gptq::tile::inverse;

/// Shares of the full range that are tried as scale, for symmetric grids.
pub(super) const SHARES: [f32; 30] = {
    let mut shares = [0.0; 30];
    let mut i = 0;
    while i < 30 {
        // 1.08 1.06 … 0.50
        shares[i] = 1.08 - 0.02 * i as f32;
        i += 1;
    }
    shares
};

/// The same for grids of three levels.
pub(super) const TERNARY_SHARES: [f32; 30] = {
    let mut shares = [0.0; 30];
    let mut i = 0;
    while i < 30 {
        shares[i] = 1.0 - 0.03 * i as f32;
        i += 1;
    }
    shares
};

/// How far an end of the range is moved inwards, as a share of the range, for affine grids.
pub(super) const MOVES: [f32; 8] = [0.0, -0.02, 0.025, 0.05, 0.08, 0.12, 0.16, 0.22];

/// Rounds of least squares after a search.
const ROUNDS: usize = 2;

/// The group being searched.
#[derive(Clone, Copy)]
pub(super) struct Group<'a, L> {
    pub set: L,
    pub low: f32,
    pub high: f32,
    /// Scales are f16.
    pub halves: bool,
    /// `[columns][width]`
    pub values: &'a [f32],
    /// What an error in each column costs.
    pub weights: &'a [f32],
    pub width: usize,
}

impl<L: LevelSet> Group<'_, L> {
    /// What rounding with this scale and offset costs.
    #[inline(always)]
    pub fn error<S: Lanes>(&self, s: S, first: usize, scale: S::F, offset: S::F) -> S::F {
        let (inverse, low) = (inverse(s, scale), s.splat(self.low));
        let mut sum = s.splat(0.0);
        for (j, &weight) in self.weights.iter().enumerate() {
            let x = s.load(lane(self.values, j * self.width + first)) - offset;
            let error = x - scale * self.set.nearest(s, x * inverse, low);
            sum = sum + s.splat(weight) * error * error;
        }
        sum
    }

    /// A scale as it is stored.
    #[inline(always)]
    fn stored<S: Lanes>(&self, s: S, scale: S::F) -> S::F {
        if self.halves { signed_half(s, scale) } else { scale }
    }
}

/// The f16 nearest to `x`, with its sign; 0 stays 0.
#[inline(always)]
pub(super) fn signed_half<S: Lanes>(s: S, x: S::F) -> S::F {
    let zero = s.splat(0.0);
    s.select(s.equal(x, zero), zero, s.with_sign(half(s, s.abs(x)), x))
}

/// Finds the scale of a group without offset, and `Σ h t²` for its levels.
pub(super) struct Symmetric<'a, L> {
    pub group: Group<'a, L>,
    pub shares: &'a [f32],
    /// `[width]`
    pub scales: &'a mut [f32],
    /// `[width]`
    pub curvature: &'a mut [f32],
}

impl<L: LevelSet> LaneOp for Symmetric<'_, L> {
    type Output = ();

    #[inline(always)]
    fn call<S: Lanes>(self, s: S) {
        let group = self.group;
        let zero = s.splat(0.0);
        let reach = s.splat(2.0 / (group.high - group.low));
        for first in (0..group.width).step_by(LANES) {
            let mut largest = zero;
            for j in 0..group.weights.len() {
                largest = s.max(s.abs(s.load(lane(group.values, j * group.width + first))), largest);
            }
            let (mut best, mut least) = (zero, s.splat(f32::INFINITY));
            for sign in [1.0, -1.0] {
                for &share in self.shares {
                    let scale = group.stored(s, largest * reach * s.splat(share * sign));
                    let error = group.error(s, first, scale, zero);
                    let better = s.less(error, least);
                    least = s.select(better, error, least);
                    best = s.select(better, scale, best);
                }
            }
            let mut curvature = zero;
            for round in 0..=ROUNDS {
                let (inverse, low) = (inverse(s, best), s.splat(group.low));
                let (mut along, mut square) = (zero, zero);
                for (j, &weight) in group.weights.iter().enumerate() {
                    let x = s.load(lane(group.values, j * group.width + first));
                    let t = group.set.nearest(s, x * inverse, low);
                    let weighted = s.splat(weight) * t;
                    along = along + weighted * x;
                    square = square + weighted * t;
                }
                curvature = square;
                if round == ROUNDS {
                    break;
                }
                let scale = group.stored(s, s.select(s.less(zero, square), along / square, best));
                let error = group.error(s, first, scale, zero);
                let better = s.less(error, least);
                least = s.select(better, error, least);
                best = s.select(better, scale, best);
            }
            s.store(best, lane_mut(self.scales, first));
            s.store(curvature, lane_mut(self.curvature, first));
        }
    }
}

/// Finds scale and offset of a group, and `Σ h t²` for its levels.
pub(super) struct Affine<'a, L> {
    pub group: Group<'a, L>,
    /// Offsets are not above 0.
    pub below_zero: bool,
    pub moves: &'a [f32],
    /// `[width]`
    pub scales: &'a mut [f32],
    /// `[width]`
    pub offsets: &'a mut [f32],
    /// `[width]`
    pub curvature: &'a mut [f32],
}

impl<L: LevelSet> LaneOp for Affine<'_, L> {
    type Output = ();

    #[inline(always)]
    fn call<S: Lanes>(self, s: S) {
        let group = self.group;
        let zero = s.splat(0.0);
        let reach = s.splat(1.0 / (group.high - group.low));
        let bounded = |offset: S::F| if self.below_zero { s.min(offset, zero) } else { offset };
        for first in (0..group.width).step_by(LANES) {
            let (mut low, mut high) = (s.splat(f32::INFINITY), s.splat(f32::NEG_INFINITY));
            for j in 0..group.weights.len() {
                let x = s.load(lane(group.values, j * group.width + first));
                low = s.min(x, low);
                high = s.max(x, high);
            }
            let low = bounded(low);
            let range = high - low;
            let (mut best_scale, mut best_offset, mut least) = (zero, zero, s.splat(f32::INFINITY));
            for &below in self.moves {
                for &above in self.moves {
                    let offset = bounded(low + range * s.splat(below));
                    let offset = if group.halves { signed_half(s, offset) } else { offset };
                    let end = high - range * s.splat(above);
                    let scale = group.stored(s, s.max((end - offset) * reach, zero));
                    let error = group.error(s, first, scale, offset);
                    let better = s.less(error, least);
                    least = s.select(better, error, least);
                    best_scale = s.select(better, scale, best_scale);
                    best_offset = s.select(better, offset, best_offset);
                }
            }
            let mut curvature = zero;
            for round in 0..=ROUNDS {
                let (inverse, lowest) = (inverse(s, best_scale), s.splat(group.low));
                let (mut xt, mut tt, mut x1, mut t1, mut one) = (zero, zero, zero, zero, zero);
                for (j, &weight) in group.weights.iter().enumerate() {
                    let x = s.load(lane(group.values, j * group.width + first));
                    let t = group.set.nearest(s, (x - best_offset) * inverse, lowest);
                    let weight = s.splat(weight);
                    xt = xt + weight * x * t;
                    tt = tt + weight * t * t;
                    x1 = x1 + weight * x;
                    t1 = t1 + weight * t;
                    one = one + weight;
                }
                curvature = tt;
                if round == ROUNDS {
                    break;
                }
                let determinant = tt * one - t1 * t1;
                let solved = s.less(zero, determinant);
                let scale = (xt * one - x1 * t1) / determinant;
                let offset = (x1 * tt - xt * t1) / determinant;
                // Beyond the bound: the best scale for an offset of 0.
                let beyond = if self.below_zero { s.less(zero, offset) } else { s.less(zero, zero) };
                let alone = s.select(s.less(zero, tt), xt / tt, best_scale);
                let scale = s.select(beyond, alone, scale);
                let offset = s.select(beyond, zero, offset);
                let scale = group.stored(s, s.max(s.select(solved, scale, best_scale), zero));
                let offset = s.select(solved, offset, best_offset);
                let offset = if group.halves { signed_half(s, offset) } else { offset };
                let error = group.error(s, first, scale, offset);
                let better = s.less(error, least);
                least = s.select(better, error, least);
                best_scale = s.select(better, scale, best_scale);
                best_offset = s.select(better, offset, best_offset);
            }
            s.store(best_scale, lane_mut(self.scales, first));
            s.store(best_offset, lane_mut(self.offsets, first));
            s.store(curvature, lane_mut(self.curvature, first));
        }
    }
}

/// Chooses the whole numbers of a group's scale and offset around what the search found, under the shared f16s.
pub(super) struct Codes<'a, L> {
    pub group: Group<'a, L>,
    /// The smallest and the largest number of a scale.
    pub range: (f32, f32),
    /// The largest number of an offset; `None`: there is no offset.
    pub offset_high: Option<f32>,
    /// Of the block, `[width]`.
    pub unit_scales: &'a [f32],
    /// Of the block, `[width]`.
    pub unit_offsets: &'a [f32],
    /// In: what was found. Out: what it becomes. `[width]`
    pub scales: &'a mut [f32],
    /// As `scales`.
    pub offsets: &'a mut [f32],
    /// `[width]`
    pub scale_codes: &'a mut [f32],
    /// `[width]`
    pub offset_codes: &'a mut [f32],
}

impl<L: LevelSet> LaneOp for Codes<'_, L> {
    type Output = ();

    #[inline(always)]
    fn call<S: Lanes>(self, s: S) {
        let group = self.group;
        let zero = s.splat(0.0);
        let (low, high) = (s.splat(self.range.0), s.splat(self.range.1));
        let clamp = |x: S::F, low: S::F, high: S::F| s.min(s.max(x, low), high);
        for first in (0..group.width).step_by(LANES) {
            let unit = s.load(lane(self.unit_scales, first));
            let unit_offset = s.load(lane(self.unit_offsets, first));
            let wanted = s.load(lane(self.scales, first)) * inverse(s, unit);
            let middle = s.nearest(clamp(wanted, low, high));
            let wanted = (zero - s.load(lane(self.offsets, first))) * inverse(s, unit_offset);
            let top = s.splat(self.offset_high.unwrap_or(0.0));
            let middle_offset = s.nearest(clamp(wanted, zero, top));
            let (mut best, mut best_offset, mut least) = (middle, middle_offset, s.splat(f32::INFINITY));
            let beside: &[f32] = if self.offset_high.is_some() { &[0.0, -1.0, 1.0] } else { &[0.0] };
            for &by in &[0.0, -1.0, 1.0, -2.0, 2.0, -3.0, 3.0] {
                for &by_offset in beside {
                    let code = clamp(middle + s.splat(by), low, high);
                    let offset_code = clamp(middle_offset + s.splat(by_offset), zero, top);
                    let error = group.error(s, first, unit * code, zero - unit_offset * offset_code);
                    let better = s.less(error, least);
                    least = s.select(better, error, least);
                    best = s.select(better, code, best);
                    best_offset = s.select(better, offset_code, best_offset);
                }
            }
            s.store(best, lane_mut(self.scale_codes, first));
            s.store(best_offset, lane_mut(self.offset_codes, first));
            s.store(unit * best, lane_mut(self.scales, first));
            s.store(zero - unit_offset * best_offset, lane_mut(self.offsets, first));
        }
    }
}

/// The f16 under which whole numbers from `low` to `high` come closest to `wanted`, under weights `cost`.
pub(super) fn shared(wanted: &[f32], cost: &[f32], low: f32, high: f32) -> f32 {
    let largest = wanted.iter().fold(0.0f32, |largest, w| largest.max(w.abs()));
    if !(largest > 0.0 && largest.is_finite()) {
        return 0.0;
    }
    let code = |w: f32, d: f32| (w / d).round_ties_even().clamp(low, high);
    let error = |d: f32| -> f32 {
        wanted.iter().zip(cost).map(|(&w, &c)| c * (w - d * code(w, d)) * (w - d * code(w, d))).sum()
    };
    let stored = |d: f32| half::f16::from_f32(d).to_f32();
    let (mut best, mut least) = (0.0, f32::INFINITY);
    let signs: &[f32] = if low < 0.0 { &[1.0, -1.0] } else { &[1.0] };
    for &sign in signs {
        for step in 0..24 {
            let mut d = stored(sign * largest / (high * (1.08 - 0.02 * step as f32)));
            for _ in 0..2 {
                if d == 0.0 || !d.is_finite() {
                    break;
                }
                let e = error(d);
                if e < least {
                    (best, least) = (d, e);
                }
                let (along, square) = wanted.iter().zip(cost).fold((0.0f32, 0.0f32), |(a, s), (&w, &c)| {
                    let k = code(w, d);
                    (a + c * w * k, s + c * k * k)
                });
                d = if square > 0.0 { stored(along / square) } else { 0.0 };
            }
        }
    }
    best
}
