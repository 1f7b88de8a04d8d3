//! Scale and zero point of a group, sixteen rows at a time.
//!
//! Symmetric: range ±amax, zero point in the middle. Otherwise: from the smaller of minimum and 0 to the larger
//! of maximum and 0. Scales are rounded to f16 before anything is rounded with them, and are
//! never 0.
//!
//! The search shrinks the range in steps and keeps the scale with the smallest `Σ h_j (w_j - ŵ_j)²` over the
//! group's columns, `h` the diagonal of the Hessian. Symmetric codes reach from -2^(b-1) to 2^(b-1) - 1, so scales
//! of both signs are tried: a negative one has the further end above zero (q4_0 does the same). Asymmetric:
//! zero points one off are tried.

use quern_compute::simd::lanes::{LANES, LaneOp, Lanes};

/// Smallest f16 above 0.
const TINY: f32 = 1.0 / (1 << 24) as f32;
/// Smallest normal f16: the scale of a group of zeros.
const NORMAL: f32 = 1.0 / (1 << 14) as f32;
const LARGEST: f32 = 65504.0;

/// Ranges tried, as shares of the full one; the full one comes first.
const SHRINK: [f32; 28] = shrink();

const fn shrink() -> [f32; 28] {
    let mut all = [1.0; 28];
    let mut i = 1;
    while i < 28 {
        // 1.08 1.06 1.04 1.02 0.98 … 0.52
        let step = if i <= 4 { i - 1 } else { i };
        all[i] = 1.08 - 0.02 * step as f32;
        i += 1;
    }
    all
}

/// How codes are made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grid {
    /// The largest code.
    pub top: f32,
    pub symmetric: bool,
    pub search: bool,
}

/// Chooses scale and zero point for each row of a group.
pub(super) struct Choose<'a> {
    pub grid: Grid,
    /// `[columns of the group][width]`
    pub values: &'a [f32],
    /// What an error in each column costs.
    pub weights: &'a [f32],
    /// `[width]`
    pub scales: &'a mut [f32],
    /// The lowest levels, zero points negated: `[width]`
    pub lows: &'a mut [f32],
}

impl LaneOp for Choose<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Lanes>(self, s: S) {
        let width = self.scales.len();
        for first in (0..width).step_by(LANES) {
            let group =
                Group { grid: self.grid, values: &self.values[first..], weights: self.weights, width };
            let (scale, zero) = group.choose(s);
            s.store(scale, lane_mut(self.scales, first));
            s.store(s.splat(0.0) - zero, lane_mut(self.lows, first));
        }
    }
}

/// Sixteen rows of a group.
#[derive(Clone, Copy)]
struct Group<'a> {
    grid: Grid,
    values: &'a [f32],
    weights: &'a [f32],
    width: usize,
}

impl Group<'_> {
    #[inline(always)]
    fn choose<S: Lanes>(self, s: S) -> (S::F, S::F) {
        let (mut low, mut high) = (s.splat(0.0), s.splat(0.0));
        for j in 0..self.weights.len() {
            let x = s.load(lane(self.values, j * self.width));
            low = s.min(x, low);
            high = s.max(x, high);
        }
        let top = s.splat(self.grid.top);
        let middle = s.splat((self.grid.top + 1.0) / 2.0);
        let range = match self.grid.symmetric {
            true => {
                let largest = s.max(s.splat(0.0) - low, high);
                largest + largest
            }
            false => high - low,
        };
        let empty = s.equal(range, s.splat(0.0));
        let zero_of = |scale: S::F| match self.grid.symmetric {
            true => middle,
            // Clamped first: whole numbers stay whole, and `nearest` needs small ones.
            false => s.nearest(s.min(s.max((s.splat(0.0) - low) / scale, s.splat(0.0)), top)),
        };
        let mut best_scale = s.select(empty, s.splat(NORMAL), half(s, range / top));
        let mut best_zero = zero_of(best_scale);
        if !self.grid.search {
            return (best_scale, best_zero);
        }
        let zero = best_zero;
        let mut least = self.error(s, best_scale, zero);
        // Codes reach one step further down than up: a negative scale reverses that.
        let signs: &[f32] = if self.grid.symmetric { &[1.0, -1.0] } else { &[1.0] };
        for &sign in signs {
            for &share in &SHRINK {
                let size = s.select(empty, s.splat(NORMAL), half(s, range / top * s.splat(share)));
                let scale = size * s.splat(sign);
                let error = self.error(s, scale, zero);
                let better = s.less(error, least);
                least = s.select(better, error, least);
                best_scale = s.select(better, scale, best_scale);
            }
        }
        if !self.grid.symmetric {
            // The other whole number beside the ideal zero point, and one more.
            for offset in [-1.0, 1.0] {
                let zero = s.min(s.max(zero + s.splat(offset), s.splat(0.0)), top);
                for &share in &SHRINK {
                    let scale = s.select(empty, s.splat(NORMAL), half(s, range / top * s.splat(share)));
                    let error = self.error(s, scale, zero);
                    let better = s.less(error, least);
                    least = s.select(better, error, least);
                    best_scale = s.select(better, scale, best_scale);
                    best_zero = s.select(better, zero, best_zero);
                }
            }
        }
        (best_scale, best_zero)
    }

    /// What rounding with this scale and zero point costs.
    #[inline(always)]
    fn error<S: Lanes>(self, s: S, scale: S::F, zero: S::F) -> S::F {
        let inverse = s.splat(1.0) / scale;
        let (low, high) = (s.splat(0.0) - zero, s.splat(self.grid.top) - zero);
        let mut sum = s.splat(0.0);
        for (j, &weight) in self.weights.iter().enumerate() {
            let x = s.load(lane(self.values, j * self.width));
            let error = x - scale * steps(s, x, inverse, low, high);
            sum = sum + s.splat(weight) * error * error;
        }
        sum
    }
}

/// Code less zero point of `x`: the nearest whole number of scales in `low..=high` (whole numbers).
#[inline(always)]
pub(super) fn steps<S: Lanes>(s: S, x: S::F, inverse: S::F, low: S::F, high: S::F) -> S::F {
    whole(s, x * inverse, low, high)
}

/// The nearest whole number to `x` in `low..=high` (whole numbers below 2^22), ties to even.
#[inline(always)]
pub(super) fn whole<S: Lanes>(s: S, x: S::F, low: S::F, high: S::F) -> S::F {
    // Clamped first: adding 1.5 * 2^23 to so small a number leaves no fraction.
    let magic = s.splat(12_582_912.0);
    (s.min(s.max(x, low), high) + magic) - magic
}

/// A scale that f16 holds exactly, next to `x >= 0`, and above 0.
#[inline(always)]
pub(super) fn half<S: Lanes>(s: S, x: S::F) -> S::F {
    // Splitting as Veltkamp does leaves 24 - 13 bits, rounded to nearest.
    let x = s.min(x, s.splat(LARGEST));
    let wide = x * s.splat(8193.0);
    let normal = wide - (wide - x);
    // Next to 0.75, f32 steps by 2^-24, as subnormal f16 do.
    let subnormal = (x + s.splat(0.75)) - s.splat(0.75);
    let rounded = s.select(s.less(x, s.splat(NORMAL)), subnormal, normal);
    s.min(s.max(rounded, s.splat(TINY)), s.splat(LARGEST))
}

/// Sixteen values from `first`.
#[inline(always)]
pub(super) fn lane(values: &[f32], first: usize) -> &[f32; LANES] {
    values[first..].first_chunk().expect("whole lanes")
}

/// Sixteen values from `first`.
#[inline(always)]
pub(super) fn lane_mut(values: &mut [f32], first: usize) -> &mut [f32; LANES] {
    values[first..].first_chunk_mut().expect("whole lanes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;
    use quern_compute::simd::Level;
    use quern_compute::simd::lanes::dispatch;

    struct Half<'a>(&'a [f32; LANES], &'a mut [f32; LANES]);

    impl LaneOp for Half<'_> {
        type Output = ();
        #[inline(always)]
        fn call<S: Lanes>(self, s: S) {
            s.store(half(s, s.load(self.0)), self.1);
        }
    }

    #[test]
    fn scales_are_exact_halves_next_to_what_was_asked_for() {
        let mut x = 1e-9f32;
        while x < 1e6 {
            let asked = std::array::from_fn(|i| x * (1.0 + i as f32 / 16.1));
            for level in Level::available() {
                let mut got = [0.0; LANES];
                dispatch(level, Half(&asked, &mut got));
                for (&asked, &got) in asked.iter().zip(&got) {
                    assert_eq!(f16::from_f32(got).to_f32(), got, "{asked} {level:?}");
                    let nearest = f16::from_f32(asked.min(LARGEST)).to_f32().max(TINY);
                    let error = (nearest - asked.min(LARGEST)).abs();
                    assert!((got - asked.min(LARGEST)).abs() <= error, "{asked} {got} {nearest}");
                }
            }
            x *= 1.37;
        }
    }

    #[test]
    fn the_full_range_is_tried_first() {
        assert_eq!(SHRINK[0], 1.0);
        assert!(SHRINK[1..].is_sorted_by(|a, b| a > b));
        assert!((SHRINK[27] - 0.54).abs() < 1e-6 && (SHRINK[1] - 1.08).abs() < 1e-6);
    }
}
