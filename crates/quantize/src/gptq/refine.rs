//! After the column loop: better scales for the codes chosen, better codes for these scales, under the whole Hessian.
//!
//! With `D = w - q`, residual `r = D U` and gradient `g = D H = r Uᵀ`, group by group:
//!
//! ```text
//! scale    levels t fixed: s += (t · g) / (t H tᵀ), rounded to f16, kept if the error falls
//! levels   one column after the other: t_i += g_i / (s H_ii), rounded; g follows
//! ```
//!
//! Both need only the group's own square of `H`; then the changes of `D` go into `r`. No step makes the error
//! larger. A sweep costs about two times the column loop.

use std::ops::Range;

use quern_compute::simd::Level;
use quern_compute::simd::lanes::{LANES, LaneOp, Lanes, dispatch};
use quern_compute::{Product, multiply_add};

use super::format::Parameters;
use super::levels::{LevelSet, Levels};
use super::parameters::{half, lane, lane_mut};
use super::tile::{Problem, SHORT, Tile, add};

/// Depth of a product: a piece of the residuals that stays in the L1 cache.
const DEPTH: usize = 128;

/// Squares of `H` on its diagonal, for each unit, or each piece of a unit that is larger than
/// [`super::order::Plan::piece`].
#[derive(Clone, Debug, Default)]
pub(super) struct Squares {
    pub pieces: Vec<Piece>,
    pub values: Vec<f32>,
}

/// Neighbouring positions of one unit.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub positions: Range<usize>,
    /// Which unit of the plan.
    pub unit: usize,
    /// Whether this is the whole unit.
    pub whole: bool,
    /// Where its square begins.
    pub square: usize,
}

/// A whole unit whose parameters are fitted to its levels. `D` is the error of the weights, [`Fit::gradient`] is
/// `D H`; who changes a parameter says so in [`Fit::changes`] and brings the gradient up to date.
pub(super) struct Fit<'a> {
    pub level: Level,
    /// Rows side by side.
    pub width: usize,
    /// Number of the unit on disk.
    pub unit: usize,
    /// Its groups: columns, counted within the unit, and number on disk.
    pub groups: &'a [(Range<usize>, usize)],
    /// Columns.
    pub size: usize,
    /// Its square of `H`, `[size][size]`.
    pub square: &'a [f32],
    /// `[size][width]`
    pub levels: &'a [f32],
    /// `[size][width]`
    pub gradient: &'a mut [f32],
    /// What was added to `D`, `[size][width]`.
    pub changes: &'a mut [f32],
    pub parameters: &'a mut Parameters,
}

impl Tile {
    /// One sweep over all units.
    pub fn refine(&mut self, problem: &Problem, factor: &[f32], squares: &Squares) {
        let (width, columns) = (self.width, problem.root.len());
        let (mut gradient, mut changes, mut latest) = (Vec::new(), Vec::new(), Vec::new());
        let (mut triangle, mut groups) = (Vec::new(), Vec::new());
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
            let level = problem.level;
            let residual = &self.residual[start * width..];
            multiply(level, (size, size), (&triangle, size), residual, &mut gradient, width);
            for first in (end..columns).step_by(DEPTH) {
                let depth = DEPTH.min(columns - first);
                let a = (&factor[start * columns + first..], columns);
                multiply(level, (size, depth), a, &self.residual[first * width..], &mut gradient, width);
            }
            let here = start * width..end * width;
            let unit = &problem.units[piece.unit];
            groups.clear();
            groups.extend(problem.groups[unit.groups.clone()].iter().filter_map(|(positions, number)| {
                let within = positions.start.max(start)..positions.end.min(end);
                (!within.is_empty()).then(|| (within.start - start..within.end - start, *number))
            }));
            if piece.whole {
                problem.format.refit(&mut Fit {
                    level,
                    width,
                    unit: unit.number,
                    groups: &groups,
                    size,
                    square,
                    levels: &self.levels[here.clone()],
                    gradient: &mut gradient,
                    changes: &mut changes,
                    parameters: &mut self.parameters,
                });
            }
            for (columns, number) in &groups {
                for first in columns.clone().step_by(SHORT) {
                    let short = first..columns.end.min(first + SHORT);
                    latest.clear();
                    latest.resize(short.len() * width, 0f32);
                    let line = self.parameters.line(*number);
                    let op = Descend {
                        square,
                        size,
                        columns: short.clone(),
                        levels: &mut self.levels[here.clone()],
                        gradient: &gradient,
                        changes: &mut changes,
                        latest: &mut latest,
                        scales: &self.parameters.scales[line.clone()],
                        lows: &self.parameters.lows[line],
                        set: (),
                    };
                    match problem.format.levels() {
                        Levels::Whole(set) => dispatch(level, op.with(set)),
                        Levels::Table(set) => dispatch(level, op.with(set)),
                    }
                    let rest = size - short.end;
                    if rest > 0 {
                        let a = (&square[short.end * size + short.start..], size);
                        let gradient = &mut gradient[short.end * width..];
                        multiply(level, (rest, short.len()), a, &latest, gradient, width);
                    }
                }
            }
            // r_j += Σ_{i <= j} changes_i U_ij
            triangle.clear();
            for j in start..end {
                triangle.extend_from_slice(&factor[j * columns + start..=j * columns + j]);
                triangle.resize((j - start + 1) * size, 0.0);
            }
            let residual = &mut self.residual[start * width..];
            multiply(level, (size, size), (&triangle, size), &changes, residual, width);
            let rest = &mut self.residual[end * width..];
            add(problem, factor, end..columns, &piece.positions, &changes, rest, width);
        }
    }
}

/// `c += a b`, with `a` `[rows][depth]` of rows that are `stride` apart, and lines of `width`.
pub(super) fn multiply(
    level: Level,
    (rows, depth): (usize, usize),
    (a, a_stride): (&[f32], usize),
    b: &[f32],
    c: &mut [f32],
    width: usize,
) {
    multiply_add(level, Product { rows, depth, width, a, a_stride, b, c, c_stride: width });
}

impl Fit<'_> {
    /// The scale of a unit that is one group, as f16.
    pub fn scale(&mut self) {
        let (size, width) = (self.size, self.width);
        let mut products = vec![0f32; size * width];
        multiply(self.level, (size, size), (self.square, size), self.levels, &mut products, width);
        let line = self.parameters.line(self.groups[0].1);
        let op = Refit {
            size,
            steps: self.levels,
            products: &products,
            gradient: self.gradient,
            changes: self.changes,
            scales: &mut self.parameters.scales[line],
        };
        dispatch(self.level, op);
    }
}

struct Refit<'a> {
    size: usize,
    steps: &'a [f32],
    /// `t H`
    products: &'a [f32],
    gradient: &'a mut [f32],
    changes: &'a mut [f32],
    scales: &'a mut [f32],
}

impl LaneOp for Refit<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Lanes>(self, s: S) {
        let width = self.scales.len();
        let zero = s.splat(0.0);
        for first in (0..width).step_by(LANES) {
            let (mut along, mut square) = (zero, zero);
            for i in 0..self.size {
                let t = s.load(lane(self.steps, i * width + first));
                along = along + t * s.load(lane(self.gradient, i * width + first));
                square = square + t * s.load(lane(self.products, i * width + first));
            }
            let scale = s.load(lane(self.scales, first));
            let wanted = scale + s.select(s.less(zero, square), along / square, zero);
            let rounded = s.with_sign(half(s, s.abs(wanted)), wanted);
            let change = rounded - scale;
            // The error changes by change² (t H t) - 2 change (t g).
            let better = s.less(change * change * square, (change + change) * along);
            let change = s.select(better, change, zero);
            s.store(scale + change, lane_mut(self.scales, first));
            for i in 0..self.size {
                let at = i * width + first;
                let t = s.load(lane(self.steps, at));
                s.store(zero - change * t, lane_mut(self.changes, at));
                let g = s.load(lane(self.gradient, at)) - change * s.load(lane(self.products, at));
                s.store(g, lane_mut(self.gradient, at));
            }
        }
    }
}

struct Descend<'a, L> {
    square: &'a [f32],
    size: usize,
    columns: Range<usize>,
    levels: &'a mut [f32],
    gradient: &'a [f32],
    changes: &'a mut [f32],
    /// Changes of these columns alone.
    latest: &'a mut [f32],
    scales: &'a [f32],
    lows: &'a [f32],
    set: L,
}

impl<'a> Descend<'a, ()> {
    fn with<L>(self, set: L) -> Descend<'a, L> {
        let Self { square, size, columns, levels, gradient, changes, latest, scales, lows, .. } = self;
        Descend { square, size, columns, levels, gradient, changes, latest, scales, lows, set }
    }
}

impl<L: LevelSet> LaneOp for Descend<'_, L> {
    type Output = ();

    #[inline(always)]
    fn call<S: Lanes>(self, s: S) {
        let width = self.scales.len();
        let zero = s.splat(0.0);
        for i in self.columns.clone() {
            let row = &self.square[i * self.size..][..self.size];
            let inverse = s.splat(1.0 / row[i]);
            for first in (0..width).step_by(LANES) {
                let at = i * width + first;
                let mut g = s.load(lane(self.gradient, at));
                for (k, &h) in row[self.columns.start..i].iter().enumerate() {
                    g = g + s.splat(h) * s.load(lane(self.latest, k * width + first));
                }
                let scale = s.load(lane(self.scales, first));
                let old = s.load(lane(self.levels, at));
                let step = s.select(s.equal(scale, zero), zero, g * inverse / scale);
                let new = self.set.nearest(s, old + step, s.load(lane(self.lows, first)));
                let change = scale * (old - new);
                s.store(new, lane_mut(self.levels, at));
                s.store(change, lane_mut(self.latest, (i - self.columns.start) * width + first));
                let changed = s.load(lane(self.changes, at)) + change;
                s.store(changed, lane_mut(self.changes, at));
            }
        }
    }
}
