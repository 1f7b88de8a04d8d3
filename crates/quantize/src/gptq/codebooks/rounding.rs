//! The loop over groups: scales of a block by its encoder on the weights as they are now, then one group of eight
//! columns after the other, its errors going to all columns that follow.

use std::ops::Range;

use quern_compute::simd::lanes::{LANES, LaneOp, Lanes, dispatch};

use super::Points;
use super::kinds::{BLOCK, GROUP, Kind};
use super::nearest::{Triangle, nearest};
use super::pack;
use crate::encode::encode_rows_at;
use crate::gptq::order::Unit;
use crate::gptq::parameters::{lane, lane_mut};
use crate::gptq::tile::{Problem, Tile, add, current, inverse};

/// Quantizes a tile.
pub(super) fn solve(points: &Points<'_>, tile: &mut Tile, problem: &Problem<'_>, factor: &[f32]) {
    let (width, columns) = (tile.width, problem.root.len());
    let mut errors = vec![0f32; BLOCK * width];
    for unit in problem.units {
        choose(points, tile, problem, unit);
        for (positions, number) in &problem.groups[unit.groups.clone()] {
            for first in positions.clone().step_by(GROUP) {
                let group = first..first + GROUP;
                let here = group.start * width..group.end * width;
                let within = first - unit.positions.start;
                let done = within * width..(within + GROUP) * width;
                let triangle = Triangle::new(
                    |i, j| factor[(first + j) * columns + first + i],
                    |j| problem.weights[first + j] > 0.0,
                );
                let line = tile.parameters.line(*number);
                let op = Round {
                    kind: points.kind,
                    triangle: &triangle,
                    scales: &tile.parameters.scales[line],
                    weights: &tile.weights[here.clone()],
                    residual: &mut tile.residual[here.clone()],
                    levels: &mut tile.levels[here.clone()],
                    errors: &mut errors[done.clone()],
                };
                dispatch(problem.level, op);
                let rest = &mut tile.residual[here.end..];
                add(problem, factor, group.end..unit.positions.end, &group, &errors[done], rest, width);
            }
        }
        let rest = &mut tile.residual[unit.positions.end * width..];
        add(problem, factor, unit.positions.end..columns, &unit.positions, &errors, rest, width);
    }
}

/// The scales of a block, by its encoder.
fn choose(points: &Points<'_>, tile: &mut Tile, problem: &Problem<'_>, unit: &Unit) {
    let (width, kind) = (tile.width, points.kind);
    let Range { start, end } = unit.positions;
    let values = current(problem, &tile.weights, &tile.residual, &unit.positions, width);
    // Columns in their own order, a row after the other.
    let (mut rows, mut importance) = (vec![0f32; width * BLOCK], vec![0f32; BLOCK]);
    for (i, &column) in points.order[start..end].iter().enumerate() {
        let column = column as usize % BLOCK;
        importance[column] = problem.weights[start + i];
        for (row, value) in rows.chunks_exact_mut(BLOCK).zip(&values[i * width..]) {
            row[column] = *value;
        }
    }
    let mut bytes = vec![0u8; width * kind.element_type.block_bytes()];
    encode_rows_at(problem.level, kind.element_type, BLOCK, &rows, Some(&importance), &mut bytes)
        .expect("whole blocks of a type that has an encoder");
    let p = &mut tile.parameters;
    pack::scales(kind.element_type, &bytes, |row, d, codes| {
        p.unit_scales[unit.number * width + row] = d;
        for (sub, code) in codes[..BLOCK / kind.sub].iter().enumerate() {
            let at = (unit.number * (BLOCK / kind.sub) + sub) * width + row;
            p.scale_codes[at] = f32::from(2 * code + 1);
            p.scales[at] = d * p.scale_codes[at];
        }
    });
}

/// The levels of a group, errors and residuals. Slices begin with the group.
struct Round<'a> {
    kind: &'a Kind,
    triangle: &'a Triangle,
    scales: &'a [f32],
    weights: &'a [f32],
    residual: &'a mut [f32],
    levels: &'a mut [f32],
    errors: &'a mut [f32],
}

impl LaneOp for Round<'_> {
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
            // The weights that would make up for all errors so far.
            let mut before = [zero; GROUP];
            for j in 0..GROUP {
                let mut sum = load(self.residual, j);
                for (&entry, &known) in triangle.entries[j][..j].iter().zip(&before) {
                    sum = sum + s.splat(entry) * known;
                }
                before[j] = zero - sum * s.splat(triangle.inverses[j]);
            }
            let targets = std::array::from_fn(|j| (load(self.weights, j) - before[j]) * inverse);
            let levels = nearest(s, self.kind, triangle, targets);
            let mut errors = [zero; GROUP];
            for j in 0..GROUP {
                let at = j * width + first;
                // What a dead column becomes does not matter.
                let alive = s.splat(if triangle.weights[j] > 0.0 { 1.0 } else { 0.0 });
                errors[j] = (load(self.weights, j) - scale * levels[j]) * alive;
                let mut sum = load(self.residual, j) * alive;
                for (i, error) in errors.iter().enumerate().take(j + 1) {
                    sum = sum + s.splat(triangle.entries[j][i]) * *error;
                }
                s.store(levels[j], lane_mut(self.levels, at));
                s.store(errors[j], lane_mut(self.errors, at));
                s.store(sum, lane_mut(self.residual, at));
            }
        }
    }
}
