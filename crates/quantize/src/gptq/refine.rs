//! After the column loop: better scales for the codes chosen, better codes for these scales, under the whole Hessian.
//!
//! With `D = w - q`, residual `r = D U` and gradient `g = D H = r Uᵀ`, group by group:
//!
//! ```text
//! scale    codes less zero point t fixed: s += (t · g) / (t H tᵀ), rounded to f16, kept if the error falls
//! codes    one column after the other: t_i += g_i / (s H_ii), rounded; g follows
//! ```
//!
//! Both need only the group's own square of `H`; then the changes of `D` go into `r`. No step makes the error
//! larger. A sweep costs about two times the column loop.

use std::ops::Range;

use quern_compute::simd::lanes::{LANES, LaneOp, Lanes, dispatch};
use quern_compute::{Product, multiply_add};

use super::parameters::{half, lane, lane_mut, whole};
use super::tile::{Problem, SHORT, Tile, add};

/// Depth of a product: a piece of the residuals that stays in the L1 cache.
const DEPTH: usize = 128;

/// Squares of `H` on its diagonal, for each group, or each piece of a group of more than 128 columns.
#[derive(Clone, Debug, Default)]
pub(super) struct Squares {
    pub pieces: Vec<Piece>,
    pub values: Vec<f32>,
}

/// Neighbouring positions of one group.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub positions: Range<usize>,
    pub group: usize,
    /// Whether this is the whole group.
    pub whole: bool,
    /// Where its square begins.
    pub square: usize,
}

impl Tile {
    /// One sweep over all groups.
    pub fn refine(&mut self, problem: &Problem, factor: &[f32], squares: &Squares) {
        let (width, columns) = (self.width, problem.root.len());
        let (mut gradient, mut changes, mut products) = (Vec::new(), Vec::new(), Vec::new());
        let mut triangle = Vec::new();
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
            multiply(
                problem,
                size,
                size,
                &triangle,
                size,
                &self.residual[start * width..],
                &mut gradient,
                width,
            );
            for first in (end..columns).step_by(DEPTH) {
                let depth = DEPTH.min(columns - first);
                let a = &factor[start * columns + first..];
                multiply(
                    problem,
                    size,
                    depth,
                    a,
                    columns,
                    &self.residual[first * width..],
                    &mut gradient,
                    width,
                );
            }
            let here = start * width..end * width;
            let parameters = piece.group * width..(piece.group + 1) * width;
            if piece.whole {
                products.clear();
                products.resize(size * width, 0f32);
                multiply(problem, size, size, square, size, &self.steps[here.clone()], &mut products, width);
                let op = Refit {
                    size,
                    steps: &self.steps[here.clone()],
                    products: &products,
                    gradient: &mut gradient,
                    changes: &mut changes,
                    scales: &mut self.scales[parameters.clone()],
                };
                dispatch(problem.level, op);
            }
            for first in (0..size).step_by(SHORT) {
                let short = first..size.min(first + SHORT);
                products.clear();
                products.resize(short.len() * width, 0f32);
                let op = Descend {
                    top: problem.grid.top,
                    square,
                    size,
                    columns: short.clone(),
                    steps: &mut self.steps[here.clone()],
                    gradient: &gradient,
                    changes: &mut changes,
                    latest: &mut products,
                    scales: &self.scales[parameters.clone()],
                    zeros: &self.zeros[parameters.clone()],
                };
                dispatch(problem.level, op);
                let rest = size - short.end;
                if rest > 0 {
                    let a = &square[short.end * size + short.start..];
                    multiply(
                        problem,
                        rest,
                        short.len(),
                        a,
                        size,
                        &products,
                        &mut gradient[short.end * width..],
                        width,
                    );
                }
            }
            // r_j += Σ_{i <= j} changes_i U_ij
            triangle.clear();
            for j in start..end {
                triangle.extend_from_slice(&factor[j * columns + start..=j * columns + j]);
                triangle.resize((j - start + 1) * size, 0.0);
            }
            let residual = &mut self.residual[start * width..];
            multiply(problem, size, size, &triangle, size, &changes, residual, width);
            let rest = &mut self.residual[end * width..];
            add(problem, factor, end..columns, &piece.positions, &changes, rest, width);
        }
    }
}

#[allow(clippy::too_many_arguments)]
fn multiply(
    problem: &Problem,
    rows: usize,
    depth: usize,
    a: &[f32],
    a_stride: usize,
    b: &[f32],
    c: &mut [f32],
    width: usize,
) {
    multiply_add(problem.level, Product { rows, depth, width, a, a_stride, b, c, c_stride: width });
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

struct Descend<'a> {
    top: f32,
    square: &'a [f32],
    size: usize,
    columns: Range<usize>,
    steps: &'a mut [f32],
    gradient: &'a [f32],
    changes: &'a mut [f32],
    /// Changes of these columns alone.
    latest: &'a mut [f32],
    scales: &'a [f32],
    zeros: &'a [f32],
}

impl LaneOp for Descend<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Lanes>(self, s: S) {
        let width = self.scales.len();
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
                let zero = s.load(lane(self.zeros, first));
                let (low, high) = (s.splat(0.0) - zero, s.splat(self.top) - zero);
                let old = s.load(lane(self.steps, at));
                let new = whole(s, old + g * inverse / scale, low, high);
                let change = scale * (old - new);
                s.store(new, lane_mut(self.steps, at));
                s.store(change, lane_mut(self.latest, (i - self.columns.start) * width + first));
                let changed = s.load(lane(self.changes, at)) + change;
                s.store(changed, lane_mut(self.changes, at));
            }
        }
    }
}
