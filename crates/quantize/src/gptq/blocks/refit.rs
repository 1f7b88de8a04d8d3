//! Scales and offsets again, for the levels that were chosen, under the whole Hessian.
//!
//! With `g = D H` and `t` a group's levels, a change of scale `a` and of offset `b` changes the error `D H Dᵀ` by
//!
//! ```text
//! -2 (a t·g + b 1·g) + a² tHt + 2 a b tH1 + b² 1H1
//! ```
//!
//! The best pair is known in closed form; what is stored is the best of its neighbours, if it is better than what is
//! there. The same holds for the f16s that the groups of a block share, with `t` times each group's number.

use quern_compute::simd::lanes::{LANES, LaneOp, Lanes, dispatch};

use super::choose::signed_half;
use super::kinds::{Kind, Offset, Scale};
use crate::gptq::parameters::{lane, lane_mut};
use crate::gptq::refine::{Fit, multiply};
use crate::gptq::tile::inverse;

/// Fits all parameters of a block.
pub(super) fn refit(kind: &Kind, fit: &mut Fit<'_>) {
    if kind.scale == Scale::PowerOfTwo {
        return;
    }
    if kind.has_codes() {
        shared(kind, fit);
    }
    for at in 0..fit.groups.len() {
        group(kind, fit, at);
    }
}

/// The f16s that the groups of a block share.
fn shared(kind: &Kind, fit: &mut Fit<'_>) {
    let (size, width) = (fit.size, fit.width);
    let mut along = vec![0f32; size * width];
    let mut below = vec![0f32; if kind.offset == Offset::None { 0 } else { size * width }];
    for (columns, number) in fit.groups {
        let line = fit.parameters.line(*number);
        let codes = &fit.parameters.scale_codes[line.clone()];
        let offset_codes = &fit.parameters.offset_codes[line];
        for i in columns.clone() {
            let levels = &fit.levels[i * width..][..width];
            for ((to, level), code) in along[i * width..][..width].iter_mut().zip(levels).zip(codes) {
                *to = level * code;
            }
            if !below.is_empty() {
                for (to, code) in below[i * width..][..width].iter_mut().zip(offset_codes) {
                    *to = -code;
                }
            }
        }
    }
    let square = (fit.square, size);
    let mut along_h = vec![0f32; size * width];
    multiply(fit.level, (size, size), square, &along, &mut along_h, width);
    let mut below_h = vec![0f32; below.len()];
    if !below.is_empty() {
        multiply(fit.level, (size, size), square, &below, &mut below_h, width);
    }
    let line = fit.parameters.line(fit.unit);
    dispatch(
        fit.level,
        Shared {
            along: &along,
            below: &below,
            along_h: &along_h,
            below_h: &below_h,
            gradient: fit.gradient,
            changes: fit.changes,
            scales: &mut fit.parameters.unit_scales[line.clone()],
            offsets: &mut fit.parameters.unit_offsets[line],
        },
    );
    for (_, number) in fit.groups {
        for lane in 0..width {
            let (group, unit) = (number * width + lane, fit.unit * width + lane);
            let p = &mut *fit.parameters;
            p.scales[group] = p.unit_scales[unit] * p.scale_codes[group];
            p.offsets[group] = -(p.unit_offsets[unit] * p.offset_codes[group]);
        }
    }
}

/// One group's own numbers.
fn group(kind: &Kind, fit: &mut Fit<'_>, at: usize) {
    let (size, width) = (fit.size, fit.width);
    let (columns, number) = &fit.groups[at];
    let (start, count) = (columns.start, columns.len());
    let own = (&fit.square[start * size + start..], size);
    let here = start * width..columns.end * width;
    let levels = &fit.levels[here.clone()];
    let mut levels_h = vec![0f32; count * width];
    multiply(fit.level, (count, count), own, levels, &mut levels_h, width);
    // H 1, the same for all rows.
    let ones_h: Vec<f32> =
        columns.clone().map(|i| fit.square[i * size..][columns.clone()].iter().sum()).collect();
    let line = fit.parameters.line(*number);
    let unit = fit.parameters.line(fit.unit);
    let mut latest = vec![0f32; count * width];
    let parameters = &mut *fit.parameters;
    dispatch(
        fit.level,
        Group {
            kind,
            levels,
            levels_h: &levels_h,
            ones_h: &ones_h,
            gradient: &fit.gradient[here.clone()],
            latest: &mut latest,
            unit_scales: &parameters.unit_scales[unit.clone()],
            unit_offsets: &parameters.unit_offsets[unit],
            scales: &mut parameters.scales[line.clone()],
            offsets: &mut parameters.offsets[line.clone()],
            scale_codes: &mut parameters.scale_codes[line.clone()],
            offset_codes: &mut parameters.offset_codes[line],
        },
    );
    for (change, latest) in fit.changes[here].iter_mut().zip(&latest) {
        *change += latest;
    }
    multiply(fit.level, (size, count), (&fit.square[start..], size), &latest, fit.gradient, width);
}

/// A quadratic form in two changes.
#[derive(Clone, Copy)]
struct Form<F> {
    /// `t·g`, `1·g`
    along: (F, F),
    tt: F,
    t1: F,
    one: F,
}

impl<F> Form<F> {
    /// The change of the error for changes `a` and `b`.
    #[inline(always)]
    fn of<S: Lanes<F = F>>(&self, s: S, a: F, b: F) -> F
    where
        F: Copy
            + std::ops::Add<Output = F>
            + std::ops::Sub<Output = F>
            + std::ops::Mul<Output = F>
            + std::ops::Div<Output = F>,
    {
        let two = s.splat(2.0);
        a * a * self.tt + two * a * b * self.t1 + b * b * self.one
            - two * (a * self.along.0 + b * self.along.1)
    }

    /// The changes that make it least; `both`: otherwise the second is 0.
    #[inline(always)]
    fn least<S: Lanes<F = F>>(&self, s: S, both: bool) -> (F, F)
    where
        F: Copy
            + std::ops::Add<Output = F>
            + std::ops::Sub<Output = F>
            + std::ops::Mul<Output = F>
            + std::ops::Div<Output = F>,
    {
        let zero = s.splat(0.0);
        let alone = s.select(s.less(zero, self.tt), self.along.0 / self.tt, zero);
        if !both {
            return (alone, zero);
        }
        let product = self.tt * self.one;
        let determinant = product - self.t1 * self.t1;
        // Levels that are all alike say nothing about the scale.
        let solved = s.less(product * s.splat(1e-5), determinant);
        let a = (self.along.0 * self.one - self.along.1 * self.t1) / determinant;
        let b = (self.along.1 * self.tt - self.along.0 * self.t1) / determinant;
        (s.select(solved, a, alone), s.select(solved, b, zero))
    }
}

struct Shared<'a> {
    along: &'a [f32],
    below: &'a [f32],
    along_h: &'a [f32],
    below_h: &'a [f32],
    gradient: &'a mut [f32],
    changes: &'a mut [f32],
    scales: &'a mut [f32],
    offsets: &'a mut [f32],
}

impl LaneOp for Shared<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Lanes>(self, s: S) {
        let width = self.scales.len();
        let size = self.along.len() / width;
        let both = !self.below.is_empty();
        let zero = s.splat(0.0);
        for first in (0..width).step_by(LANES) {
            let mut form = Form { along: (zero, zero), tt: zero, t1: zero, one: zero };
            for i in 0..size {
                let at = i * width + first;
                let (t, g) = (s.load(lane(self.along, at)), s.load(lane(self.gradient, at)));
                form.along.0 = form.along.0 + t * g;
                form.tt = form.tt + t * s.load(lane(self.along_h, at));
                if both {
                    let m = s.load(lane(self.below, at));
                    form.along.1 = form.along.1 + m * g;
                    form.t1 = form.t1 + m * s.load(lane(self.along_h, at));
                    form.one = form.one + m * s.load(lane(self.below_h, at));
                }
            }
            let (a, b) = form.least(s, both);
            let scale = s.load(lane(self.scales, first));
            let offset = s.load(lane(self.offsets, first));
            let new_scale = signed_half(s, scale + a);
            let new_offset = if both { s.max(signed_half(s, offset + b), zero) } else { offset };
            let (a, b) = (new_scale - scale, new_offset - offset);
            let better = s.less(form.of(s, a, b), zero);
            let (a, b) = (s.select(better, a, zero), s.select(better, b, zero));
            s.store(signed_half(s, scale + a), lane_mut(self.scales, first));
            s.store(signed_half(s, offset + b), lane_mut(self.offsets, first));
            for i in 0..size {
                let at = i * width + first;
                let mut change = a * s.load(lane(self.along, at));
                let mut step = a * s.load(lane(self.along_h, at));
                if both {
                    change = change + b * s.load(lane(self.below, at));
                    step = step + b * s.load(lane(self.below_h, at));
                }
                s.store(s.load(lane(self.changes, at)) - change, lane_mut(self.changes, at));
                s.store(s.load(lane(self.gradient, at)) - step, lane_mut(self.gradient, at));
            }
        }
    }
}

struct Group<'a> {
    kind: &'a Kind,
    levels: &'a [f32],
    levels_h: &'a [f32],
    ones_h: &'a [f32],
    gradient: &'a [f32],
    /// What is added to `D`.
    latest: &'a mut [f32],
    unit_scales: &'a [f32],
    unit_offsets: &'a [f32],
    scales: &'a mut [f32],
    offsets: &'a mut [f32],
    scale_codes: &'a mut [f32],
    offset_codes: &'a mut [f32],
}

impl LaneOp for Group<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Lanes>(mut self, s: S) {
        let width = self.scales.len();
        let both = self.kind.offset != Offset::None;
        let zero = s.splat(0.0);
        let one = s.splat(self.ones_h.iter().sum());
        for first in (0..width).step_by(LANES) {
            let mut form = Form { along: (zero, zero), tt: zero, t1: zero, one };
            for (i, &ones) in self.ones_h.iter().enumerate() {
                let at = i * width + first;
                let (t, g) = (s.load(lane(self.levels, at)), s.load(lane(self.gradient, at)));
                form.along.0 = form.along.0 + t * g;
                form.along.1 = form.along.1 + g;
                form.tt = form.tt + t * s.load(lane(self.levels_h, at));
                form.t1 = form.t1 + t * s.splat(ones);
            }
            let (a, b) = match self.kind.scale {
                Scale::Codes { low, high } => self.codes(s, first, &form, (low, high)),
                Scale::Half | Scale::PowerOfTwo => self.halves(s, first, &form, both),
            };
            for i in 0..self.ones_h.len() {
                let at = i * width + first;
                let change = a * s.load(lane(self.levels, at)) + b;
                s.store(zero - change, lane_mut(self.latest, at));
            }
        }
    }
}

impl Group<'_> {
    /// Scale and offset as f16; their changes.
    #[inline(always)]
    fn halves<S: Lanes>(&mut self, s: S, first: usize, form: &Form<S::F>, both: bool) -> (S::F, S::F) {
        let zero = s.splat(0.0);
        let (a, b) = form.least(s, both);
        let scale = s.load(lane(self.scales, first));
        let offset = s.load(lane(self.offsets, first));
        let (mut best, mut least) = ((zero, zero), zero);
        let alone = form.least(s, false).0;
        for (a, b) in [(a, b), (alone, zero)] {
            let a = signed_half(s, scale + a) - scale;
            let b = if both { signed_half(s, offset + b) - offset } else { zero };
            let change = form.of(s, a, b);
            let better = s.less(change, least);
            least = s.select(better, change, least);
            best = (s.select(better, a, best.0), s.select(better, b, best.1));
        }
        // Exactly what is stored, whatever the sum rounds to.
        s.store(signed_half(s, scale + best.0), lane_mut(self.scales, first));
        s.store(signed_half(s, offset + best.1), lane_mut(self.offsets, first));
        best
    }

    /// Scale and offset as whole numbers under the block's; their changes.
    #[inline(always)]
    fn codes<S: Lanes>(
        &mut self,
        s: S,
        first: usize,
        form: &Form<S::F>,
        (low, high): (f32, f32),
    ) -> (S::F, S::F) {
        let zero = s.splat(0.0);
        let top = match self.kind.offset {
            Offset::Codes { high } => Some(high),
            Offset::None | Offset::Half => None,
        };
        let clamp = |x: S::F, low: f32, high: f32| s.min(s.max(x, s.splat(low)), s.splat(high));
        let (a, _) = form.least(s, top.is_some());
        let unit = s.load(lane(self.unit_scales, first));
        let unit_offset = s.load(lane(self.unit_offsets, first));
        let (scale, offset) = (s.load(lane(self.scales, first)), s.load(lane(self.offsets, first)));
        let old = s.load(lane(self.scale_codes, first));
        let old_offset = s.load(lane(self.offset_codes, first));
        let middle = s.nearest(clamp((scale + a) * inverse(s, unit), low, high));
        let (mut best, mut best_codes, mut least) = ((zero, zero), (old, old_offset), zero);
        let by_one: &[f32] = if top.is_some() { &[0.0, -1.0, 1.0] } else { &[0.0] };
        for &by in &[0.0, -1.0, 1.0] {
            let code = clamp(middle + s.splat(by), low, high);
            let a = unit * code - scale;
            // The best offset for this scale.
            let wanted = offset + (form.along.1 - a * form.t1) / form.one;
            let middle = s.nearest(clamp((zero - wanted) * inverse(s, unit_offset), 0.0, top.unwrap_or(0.0)));
            for &by in by_one {
                let (offset_code, b) = match top {
                    Some(top) => {
                        let code = clamp(middle + s.splat(by), 0.0, top);
                        (code, zero - unit_offset * code - offset)
                    }
                    None => (old_offset, zero),
                };
                let change = form.of(s, a, b);
                let better = s.less(change, least);
                least = s.select(better, change, least);
                best = (s.select(better, a, best.0), s.select(better, b, best.1));
                best_codes =
                    (s.select(better, code, best_codes.0), s.select(better, offset_code, best_codes.1));
            }
        }
        s.store(best_codes.0, lane_mut(self.scale_codes, first));
        s.store(best_codes.1, lane_mut(self.offset_codes, first));
        s.store(unit * best_codes.0, lane_mut(self.scales, first));
        s.store(zero - unit_offset * best_codes.1, lane_mut(self.offsets, first));
        best
    }
}
