//! The scale searches of `scalar::search`, sixteen blocks at once. Each lane does exactly what the scalar
//! search does for its block, every branch a selection; see there for what the searches mean.
//!
//! Codes are a function of the candidate that won, so candidates are remembered, not codes: a search returns
//! a `…Codes` value that writes them afterwards, which the K types only need where a stored scale became zero.

use quern_compute::simd::lanes::{LANES, Lanes};

use super::super::numeric::{ROUNDING_MAGIC, ZERO_BLOCK};
use super::super::scalar::search::Steps;
use super::tile::Aligned;

/// Value of largest magnitude with its sign, first of equals, and that magnitude.
#[inline(always)]
pub(super) fn extreme<S: Lanes>(s: S, x: &[[f32; LANES]]) -> (S::F, S::F) {
    let (mut value, mut magnitude) = (s.splat(0.0), s.splat(0.0));
    for x in x {
        let x = s.load(x);
        let ax = s.abs(x);
        value = s.select(s.less(magnitude, ax), x, value);
        magnitude = s.max(ax, magnitude);
    }
    (value, magnitude)
}

/// Rounds to a code between two limits.
#[derive(Clone, Copy)]
pub(super) struct Rounding<S: Lanes> {
    magic: S::F,
    low: S::F,
    high: S::F,
}

impl<S: Lanes> Rounding<S> {
    /// Codes `low..=high`.
    #[inline(always)]
    pub fn new(s: S, low: i32, high: i32) -> Self {
        // The limits carry the magic number, so that clamping comes before it is taken off.
        let magic = s.splat(ROUNDING_MAGIC);
        Self { magic, low: s.splat(low as f32) + magic, high: s.splat(high as f32) + magic }
    }

    /// The nearest code.
    #[inline(always)]
    pub fn code(&self, s: S, x: S::F) -> S::F {
        s.max(self.low, s.min(self.high, s.mantissa(x + self.magic))) - self.magic
    }
}

/// Result of [`symmetric`] and [`descent`].
#[derive(Clone, Copy)]
pub(super) struct Symmetric<S: Lanes> {
    /// The scale.
    pub scale: S::F,
    inverse: S::F,
    zero: S::M,
}

impl<S: Lanes> Symmetric<S> {
    /// The result for blocks of zeros.
    #[inline(always)]
    pub fn none(s: S) -> Self {
        let none = s.splat(0.0);
        Self { scale: none, inverse: none, zero: s.equal(none, none) }
    }

    /// Writes codes with `limit` added.
    #[inline(always)]
    pub fn codes(&self, s: S, x: &[[f32; LANES]], limit: i32, codes: &mut [[f32; LANES]]) {
        let rounding = Rounding::new(s, -limit, limit - 1);
        let (offset, none) = (s.splat(limit as f32), s.splat(0.0));
        for (c, x) in codes.iter_mut().zip(x) {
            let code = rounding.code(s, self.inverse * s.load(x)) + offset;
            s.store(s.select(self.zero, none, code), c);
        }
    }
}

/// See [`scalar::search::symmetric`](super::super::scalar::search::symmetric). `w` gives the weight of value `i`.
#[inline(always)]
pub(super) fn symmetric<S: Lanes, const N: usize>(
    s: S,
    x: &[[f32; LANES]; N],
    w: &[[f32; LANES]; N],
    limit: i32,
) -> Symmetric<S> {
    let (extreme, magnitude) = extreme(s, x);
    let none = s.splat(0.0);
    let rounding = Rounding::new(s, -limit, limit - 1);
    let mut wx = Aligned([[0.0; LANES]; N]);
    for i in 0..N {
        s.store(s.load(&w[i]) * s.load(&x[i]), &mut wx[i]);
    }
    let mut inverse = s.splat(-(limit as f32)) / extreme;
    let (mut scale, mut best) = (none, none);
    for step in -10..=9 {
        // Step -10 stands for the first candidate, 0 for none.
        if step == 0 {
            continue;
        }
        let first = step == -10;
        let offset = if first { 0.0 } else { 0.1 * step as f32 };
        let candidate = s.splat(-(limit as f32 + offset)) / extreme;
        let (mut lx, mut l2) = (none, none);
        for i in 0..N {
            let l = rounding.code(s, candidate * s.load(&x[i]));
            lx = lx + s.load(&wx[i]) * l;
            l2 = l2 + s.load(&w[i]) * l * l;
        }
        let new = lx / l2;
        if first {
            scale = s.select(s.equal(l2, none), none, new);
            best = scale * lx;
        } else {
            let better = s.both(s.less(none, l2), s.less(best * l2, lx * lx));
            scale = s.select(better, new, scale);
            best = s.select(better, new * lx, best);
            inverse = s.select(better, candidate, inverse);
        }
    }
    let zero = s.less(magnitude, s.splat(ZERO_BLOCK));
    Symmetric { scale: s.select(zero, none, scale), inverse, zero }
}

/// See [`scalar::search::descent`](super::super::scalar::search::descent). Writes codes with `limit` added.
#[inline(always)]
pub(super) fn descent<S: Lanes, const N: usize>(
    s: S,
    x: &[[f32; LANES]; N],
    limit: i32,
    codes: &mut [[f32; LANES]; N],
) -> S::F {
    let (extreme, magnitude) = extreme(s, x);
    let none = s.splat(0.0);
    let rounding = Rounding::new(s, -limit, limit - 1);
    let inverse = s.splat(-(limit as f32)) / extreme;
    let (mut lx, mut l2) = (none, none);
    for (c, x) in codes.iter_mut().zip(x) {
        let x = s.load(x);
        let l = rounding.code(s, inverse * x);
        s.store(l, c);
        let w = x * x;
        lx = lx + w * x * l;
        l2 = l2 + w * l * l;
    }
    // A lane in which nothing changed stays as it is in further rounds: they only repeat it.
    for _ in 0..5 {
        let mut changed = false;
        for (c, x) in codes.iter_mut().zip(x) {
            let (x, old) = (s.load(x), s.load(c));
            let w = x * x;
            let wx = w * x;
            let (rest_lx, rest_l2) = (lx - wx * old, l2 - w * old * old);
            let new = rounding.code(s, x * rest_l2 / rest_lx);
            let (new_lx, new_l2) = (rest_lx + wx * new, rest_l2 + w * new * new);
            let moves = s.but_not(s.less(none, rest_lx), s.equal(new, old));
            let better = s.less(lx * lx * new_l2, new_lx * new_lx * l2);
            let moves = s.both(moves, s.both(s.less(none, new_l2), better));
            changed |= s.any(moves);
            s.store(s.select(moves, new, old), c);
            lx = s.select(moves, new_lx, lx);
            l2 = s.select(moves, new_l2, l2);
        }
        if !changed {
            break;
        }
    }
    let zero = s.less(magnitude, s.splat(ZERO_BLOCK));
    let offset = s.splat(limit as f32);
    for c in codes {
        s.store(s.select(zero, none, s.load(c) + offset), c);
    }
    let scale = s.select(s.less(none, l2), lx / l2, none);
    s.select(zero, none, scale)
}

/// Result of [`affine`].
#[derive(Clone, Copy)]
pub(super) struct Affine<S: Lanes> {
    /// The scale.
    pub scale: S::F,
    /// What is subtracted, not negative.
    pub min: S::F,
    inverse: S::F,
    base: S::F,
    live: S::M,
}

impl<S: Lanes> Affine<S> {
    /// The result for blocks of zeros.
    #[inline(always)]
    pub fn none(s: S) -> Self {
        let none = s.splat(0.0);
        Self { scale: none, min: none, inverse: none, base: none, live: s.less(none, none) }
    }

    /// Writes codes.
    #[inline(always)]
    pub fn codes(&self, s: S, x: &[[f32; LANES]], max_code: i32, codes: &mut [[f32; LANES]]) {
        let rounding = Rounding::new(s, 0, max_code);
        for (c, x) in codes.iter_mut().zip(x) {
            let code = rounding.code(s, self.inverse * (s.load(x) - self.base));
            s.store(s.select(self.live, code, s.splat(0.0)), c);
        }
    }
}

/// See [`scalar::search::affine`](super::super::scalar::search::affine).
#[inline(always)]
pub(super) fn affine<S: Lanes, const N: usize>(
    s: S,
    x: &[[f32; LANES]; N],
    w: &[[f32; LANES]; N],
    max_code: i32,
    steps: Steps,
    absolute: bool,
) -> Affine<S> {
    let none = s.splat(0.0);
    let (mut min, mut max) = (s.load(&x[0]), s.load(&x[0]));
    let mut sum_w = s.load(&w[0]);
    let mut sum_x = sum_w * min;
    for (x, w) in x.iter().zip(w).skip(1) {
        let (x, w) = (s.load(x), s.load(w));
        min = s.min(x, min);
        max = s.max(x, max);
        sum_w = sum_w + w;
        sum_x = sum_x + w * x;
    }
    min = s.select(s.less(none, min), none, min);
    let live = s.less(min, max);

    let rounding = Rounding::new(s, 0, max_code);
    let mut base = min;
    let mut inverse = s.splat(max_code as f32) / (max - min);
    let mut scale = s.splat(1.0) / inverse;
    let mut best = none;
    let mut tried = Aligned([[0.0; LANES]; N]);
    for (t, (x, w)) in tried.iter_mut().zip(x.iter().zip(w)) {
        let x = s.load(x);
        let l = rounding.code(s, inverse * (x - min));
        s.store(l, t);
        best = best + weighted_error(s, scale * l + min - x, s.load(w), absolute);
    }
    for step in 0..=steps.last {
        let factor = steps.first + steps.step * step as f32 + max_code as f32;
        let candidate = s.splat(factor) / (max - min);
        let (mut sum_l, mut sum_l2, mut sum_xl) = (none, none, none);
        for (t, (x, w)) in tried.iter_mut().zip(x.iter().zip(w)) {
            let x = s.load(x);
            let l = rounding.code(s, candidate * (x - min));
            s.store(l, t);
            let wl = s.load(w) * l;
            sum_l = sum_l + wl;
            sum_l2 = sum_l2 + wl * l;
            sum_xl = sum_xl + wl * x;
        }
        let determinant = sum_w * sum_l2 - sum_l * sum_l;
        let new_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
        let new_min = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
        let above = s.less(none, new_min);
        let new_min = s.select(above, none, new_min);
        let new_scale = s.select(above, sum_xl / sum_l2, new_scale);
        let mut error = none;
        for (t, (x, w)) in tried.iter().zip(x.iter().zip(w)) {
            let diff = new_scale * s.load(t) + new_min - s.load(x);
            error = error + weighted_error(s, diff, s.load(w), absolute);
        }
        let better = s.both(s.both(live, s.less(none, determinant)), s.less(error, best));
        best = s.select(better, error, best);
        inverse = s.select(better, candidate, inverse);
        base = s.select(better, min, base);
        scale = s.select(better, new_scale, scale);
        min = s.select(better, new_min, min);
    }
    Affine { scale: s.select(live, scale, none), min: s.splat(-0.0) - min, inverse, base, live }
}

#[inline(always)]
fn weighted_error<S: Lanes>(s: S, diff: S::F, w: S::F, absolute: bool) -> S::F {
    w * if absolute { s.abs(diff) } else { diff * diff }
}

/// See [`scalar::search::positive`](super::super::scalar::search::positive). Writes codes as bytes hold them.
#[inline(always)]
pub(super) fn positive<S: Lanes, const N: usize>(
    s: S,
    x: &[S::F; N],
    w: &[S::F; N],
    max_code: i32,
    codes: &mut [S::F; N],
) -> S::F {
    let none = s.splat(0.0);
    let top = s.splat(max_code as f32);
    let mut max = none;
    for &x in x {
        max = s.max(max, x);
    }
    let mut chosen = top / max;
    let scale = s.splat(1.0) / chosen;
    let mut best = none;
    for (&x, &w) in x.iter().zip(w) {
        let diff = x - scale * s.low_byte(s.nearest(chosen * x));
        best = best + w * diff * diff;
    }
    for step in -4..=4 {
        if step == 0 {
            continue;
        }
        let inverse = s.splat(0.1 * step as f32 + max_code as f32) / max;
        let scale = s.splat(1.0) / inverse;
        let mut error = none;
        for (&x, &w) in x.iter().zip(w) {
            let diff = x - scale * s.min(top, s.nearest(inverse * x));
            error = error + w * diff * diff;
        }
        let better = s.less(error, best);
        best = s.select(better, error, best);
        chosen = s.select(better, inverse, chosen);
    }
    let (mut lx, mut l2) = (none, none);
    for ((c, &x), &w) in codes.iter_mut().zip(x).zip(w) {
        let l = s.min(top, s.nearest(chosen * x));
        *c = s.low_byte(l);
        lx = lx + w * x * l;
        l2 = l2 + w * l * l;
    }
    for _ in 0..5 {
        let mut changed = false;
        for ((c, &x), &w) in codes.iter_mut().zip(x).zip(w) {
            let wx = w * x;
            let (rest_lx, rest_l2) = (lx - wx * *c, l2 - w * *c * *c);
            let new = s.min(top, s.nearest(x * rest_l2 / rest_lx));
            let (new_lx, new_l2) = (rest_lx + wx * new, rest_l2 + w * new * new);
            let moves = s.both(s.less(none, rest_lx), s.less(none, rest_l2));
            let better = s.less(lx * lx * new_l2, new_lx * new_lx * l2);
            let moves = s.both(s.but_not(moves, s.equal(new, *c)), better);
            changed |= s.any(moves);
            *c = s.select(moves, s.low_byte(new), *c);
            lx = s.select(moves, new_lx, lx);
            l2 = s.select(moves, new_l2, l2);
        }
        if !changed {
            break;
        }
    }
    let zero = s.less(max, s.splat(ZERO_BLOCK));
    for c in codes {
        *c = s.select(zero, none, *c);
    }
    let scale = s.select(s.less(none, l2), lx / l2, none);
    s.select(zero, none, scale)
}
