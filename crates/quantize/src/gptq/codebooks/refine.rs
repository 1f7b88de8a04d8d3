//! Better scales and points under the whole Hessian, as [`crate::gptq::refine`]: block by block its `d`, the codes of
//! its scales, then the points of its groups. No step makes the error larger.

use std::ops::Range;

use quern_compute::simd::lanes::{LANES, LaneOp, Lanes, dispatch};

use super::Points;
use super::kinds::{GROUP, Kind, TOP};
use super::nearest::{Triangle, error, nearest};
use crate::gptq::parameters::{half, lane, lane_mut};
use crate::gptq::refine::{Fit, Squares, multiply};
use crate::gptq::tile::{Problem, Tile, add, inverse};

/// Depth of a product: a piece of the residuals that stays in the L1 cache.
const DEPTH: usize = 128;

/// One sweep over all blocks.
pub(super) fn refine(
    points: &Points<'_>,
    tile: &mut Tile,
    problem: &Problem<'_>,
    factor: &[f32],
    squares: &Squares,
) {
    let (width, columns, level) = (tile.width, problem.root.len(), problem.level);
    let (mut gradient, mut changes, mut triangle) = (Vec::new(), Vec::new(), Vec::new());
    let mut latest = vec![0f32; GROUP * width];
    let mut groups = Vec::new();
    for piece in &squares.pieces {
        let Range { start, end } = piece.positions;
        let size = piece.positions.len();
        let square = &squares.values[piece.square..][..size * size];
        gradient.clear();
        gradient.resize(size * width, 0f32);
        changes.clear();
        changes.resize(size * width, 0f32);
        // g_i = Σ_{j >= i} U_ij r_j: row i of the factor holds U_ij from the diagonal on.
        triangle.clear();
        for i in start..end {
            triangle.resize((i - start) * (size + 1), 0.0);
            triangle.extend_from_slice(&factor[i * columns + i..i * columns + end]);
        }
        let residual = &tile.residual[start * width..];
        multiply(level, (size, size), (&triangle, size), residual, &mut gradient, width);
        for first in (end..columns).step_by(DEPTH) {
            let depth = DEPTH.min(columns - first);
            let a = (&factor[start * columns + first..], columns);
            multiply(level, (size, depth), a, &tile.residual[first * width..], &mut gradient, width);
        }
        let here = start * width..end * width;
        let unit = &problem.units[piece.unit];
        groups.clear();
        groups.extend(
            problem.groups[unit.groups.clone()]
                .iter()
                .map(|(positions, number)| (positions.start - start..positions.end - start, *number)),
        );
        let levels = &mut tile.levels[here];
        refit(
            points.kind,
            &mut Fit {
                level,
                width,
                unit: unit.number,
                groups: &groups,
                size,
                square,
                levels,
                gradient: &mut gradient,
                changes: &mut changes,
                parameters: &mut tile.parameters,
            },
        );
        for (positions, number) in &groups {
            let line = tile.parameters.line(*number);
            for first in positions.clone().step_by(GROUP) {
                let own = Triangle::of_square(
                    |i, j| square[(first + i) * size + first + j],
                    |j| problem.weights[start + first + j] > 0.0,
                );
                let here = first * width..(first + GROUP) * width;
                let op = Descend {
                    kind: points.kind,
                    triangle: &own,
                    scales: &tile.parameters.scales[line.clone()],
                    gradient: &gradient[here.clone()],
                    levels: &mut levels[here.clone()],
                    changes: &mut changes[here.clone()],
                    latest: &mut latest,
                };
                dispatch(level, op);
                let rest = size - first - GROUP;
                if rest > 0 {
                    let a = (&square[(first + GROUP) * size + first..], size);
                    multiply(level, (rest, GROUP), a, &latest, &mut gradient[here.end..], width);
                }
            }
        }
        // r_j += Σ_{i <= j} changes_i U_ij
        triangle.clear();
        for j in start..end {
            triangle.extend_from_slice(&factor[j * columns + start..=j * columns + j]);
            triangle.resize((j - start + 1) * size, 0.0);
        }
        let residual = &mut tile.residual[start * width..];
        multiply(level, (size, size), (&triangle, size), &changes, residual, width);
        let rest = &mut tile.residual[end * width..];
        add(problem, factor, end..columns, &piece.positions, &changes, rest, width);
    }
}

/// Fits `d` and the codes of scales to the levels.
pub(super) fn refit(kind: &Kind, fit: &mut Fit<'_>) {
    let (size, width) = (fit.size, fit.width);
    let mut steps = vec![0f32; size * width];
    for (positions, number) in fit.groups {
        let codes = &fit.parameters.scale_codes[fit.parameters.line(*number)];
        let here = positions.start * width..positions.end * width;
        let lines = steps[here.clone()].chunks_exact_mut(width).zip(fit.levels[here].chunks_exact(width));
        for (steps, levels) in lines {
            for ((step, level), code) in steps.iter_mut().zip(levels).zip(codes) {
                *step = level * code;
            }
        }
    }
    let mut products = vec![0f32; size * width];
    multiply(fit.level, (size, size), (fit.square, size), &steps, &mut products, width);
    let mut latest = vec![0f32; size * width];
    let unit = fit.parameters.line(fit.unit);
    dispatch(
        fit.level,
        Scale {
            steps: &steps,
            products: &products,
            gradient: fit.gradient,
            latest: &mut latest,
            units: None,
            scales: &mut fit.parameters.unit_scales[unit.clone()],
            codes: &mut [],
        },
    );
    take(fit, 0..size, &latest);
    for (_, number) in fit.groups {
        let p = &mut *fit.parameters;
        for (scale, unit) in (number * width..).zip(unit.clone()).take(width) {
            p.scales[scale] = p.unit_scales[unit] * p.scale_codes[scale];
        }
    }
    for (positions, number) in fit.groups {
        let count = positions.len();
        debug_assert_eq!(count, kind.sub);
        let here = positions.start * width..positions.end * width;
        let steps = &fit.levels[here.clone()];
        let products = &mut products[..count * width];
        products.fill(0.0);
        let own = (&fit.square[positions.start * size + positions.start..], size);
        multiply(fit.level, (count, count), own, steps, products, width);
        let line = fit.parameters.line(*number);
        let p = &mut *fit.parameters;
        dispatch(
            fit.level,
            Scale {
                steps,
                products,
                gradient: &fit.gradient[here],
                latest: &mut latest[..count * width],
                units: Some(&p.unit_scales[unit.clone()]),
                scales: &mut p.scales[line.clone()],
                codes: &mut p.scale_codes[line],
            },
        );
        take(fit, positions.clone(), &latest[..count * width]);
    }
}

/// Counts in what was added to `D` at some positions.
fn take(fit: &mut Fit<'_>, positions: Range<usize>, latest: &[f32]) {
    let (size, width) = (fit.size, fit.width);
    for (change, latest) in fit.changes[positions.start * width..].iter_mut().zip(latest) {
        *change += latest;
    }
    let a = (&fit.square[positions.start..], size);
    multiply(fit.level, (size, positions.len()), a, latest, fit.gradient, width);
}

/// One scale for each row: `d`, or that of a sub-block.
struct Scale<'a> {
    /// What it is multiplied with.
    steps: &'a [f32],
    /// The same times `H`.
    products: &'a [f32],
    gradient: &'a [f32],
    /// What is added to `D`.
    latest: &'a mut [f32],
    /// Of a sub-block: `d`.
    units: Option<&'a [f32]>,
    scales: &'a mut [f32],
    /// Of a sub-block: `2 c + 1`.
    codes: &'a mut [f32],
}

impl LaneOp for Scale<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Lanes>(self, s: S) {
        let width = self.scales.len();
        let count = self.steps.len() / width;
        let zero = s.splat(0.0);
        for first in (0..width).step_by(LANES) {
            let (mut along, mut square) = (zero, zero);
            for i in 0..count {
                let t = s.load(lane(self.steps, i * width + first));
                along = along + t * s.load(lane(self.gradient, i * width + first));
                square = square + t * s.load(lane(self.products, i * width + first));
            }
            let scale = s.load(lane(self.scales, first));
            let wanted = scale + s.select(s.less(zero, square), along / square, zero);
            let new = match self.units {
                None => s.select(s.less(zero, wanted), half(s, wanted), scale),
                Some(units) => {
                    let unit = s.load(lane(units, first));
                    let code = (wanted * inverse(s, unit) - s.splat(1.0)) * s.splat(0.5);
                    let code = s.nearest(s.min(s.max(code, zero), s.splat(TOP)));
                    unit * (code + code + s.splat(1.0))
                }
            };
            let change = new - scale;
            // The error changes by change² (t H t) - 2 change (t g).
            let better = s.less(change * change * square, (change + change) * along);
            let change = s.select(better, change, zero);
            let new = s.select(better, new, scale);
            s.store(new, lane_mut(self.scales, first));
            if let Some(units) = self.units {
                let code = s.nearest(new * inverse(s, s.load(lane(units, first))));
                let old = s.load(lane(self.codes, first));
                s.store(s.select(better, code, old), lane_mut(self.codes, first));
            }
            for i in 0..count {
                let t = s.load(lane(self.steps, i * width + first));
                s.store(zero - change * t, lane_mut(self.latest, i * width + first));
            }
        }
    }
}

/// Better levels of a group. Slices begin with it.
struct Descend<'a> {
    kind: &'a Kind,
    /// Of the group's square of `H`.
    triangle: &'a Triangle,
    scales: &'a [f32],
    gradient: &'a [f32],
    levels: &'a mut [f32],
    changes: &'a mut [f32],
    /// Changes of this group alone.
    latest: &'a mut [f32],
}

impl LaneOp for Descend<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Lanes>(self, s: S) {
        let width = self.scales.len();
        let zero = s.splat(0.0);
        let triangle = self.triangle;
        for first in (0..width).step_by(LANES) {
            let scale = s.load(lane(self.scales, first));
            let inverse = inverse(s, scale);
            let load = |values: &[f32], j: usize| s.load(lane(values, j * width + first));
            // x H = g, in two steps: y Uᵀ = g, x U = y.
            let mut x = [zero; GROUP];
            for i in (0..GROUP).rev() {
                let mut sum = load(self.gradient, i);
                for (j, &known) in x.iter().enumerate().skip(i + 1) {
                    sum = sum - s.splat(triangle.entries[j][i]) * known;
                }
                x[i] = sum * s.splat(triangle.inverses[i]);
            }
            for j in 0..GROUP {
                let mut sum = x[j];
                for (&entry, &known) in triangle.entries[j][..j].iter().zip(&x) {
                    sum = sum - s.splat(entry) * known;
                }
                x[j] = sum * s.splat(triangle.inverses[j]);
            }
            let old: [S::F; GROUP] = std::array::from_fn(|j| load(self.levels, j));
            let targets = std::array::from_fn(|j| old[j] + x[j] * inverse);
            let new = nearest(s, self.kind, triangle, targets);
            let better = s.less(error(s, triangle, targets, &new), error(s, triangle, targets, &old));
            for j in 0..GROUP {
                let at = j * width + first;
                let alive = s.splat(if triangle.weights[j] > 0.0 { 1.0 } else { 0.0 });
                let level = s.select(better, new[j], old[j]);
                let change = scale * (old[j] - level) * alive;
                s.store(level, lane_mut(self.levels, at));
                s.store(change, lane_mut(self.latest, at));
                let changed = load(self.changes, j) + change;
                s.store(changed, lane_mut(self.changes, at));
            }
        }
    }
}
