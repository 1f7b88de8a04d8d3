//! Some rows of a layer, side by side: the column loop.
//!
//! Everything is `[position in the order][row of the tile]`, so each step works on a lane per row with one
//! element of the factor for all. Sums of a column run over the columns before it in order, whatever the blocks:
//!
//! ```text
//! 16 columns    one after the other, each looking back at those of the 16 before it
//! 128 columns   after each 16, their errors go to the rest of the block
//! all           after each block, its errors go to all later columns: a matrix product, nearly all of the work
//! ```
//!
//! A block ends where a group ends or begins, or at 128 columns.

use std::ops::Range;

use quern_compute::simd::Level;
use quern_compute::simd::lanes::{LANES, LaneOp, Lanes, dispatch};
use quern_compute::{Product, multiply_add};

use super::parameters::{Choose, Grid, lane, lane_mut, steps};

/// Columns of a block.
const BLOCK: usize = 128;
/// Columns that look back one at a time.
pub(super) const SHORT: usize = 16;
/// Rows of the factor multiplied at a time: with 128 columns they fit into the L2 cache.
const FACTOR_ROWS: usize = 256;

/// What all tiles of a layer share.
pub(super) struct Problem<'a> {
    pub level: Level,
    pub grid: Grid,
    /// `Uᵀ` in the lower triangle of `[columns][columns]`; `None`: columns do not see each other.
    pub factor: Option<&'a [f32]>,
    /// `U_jj`
    pub root: &'a [f32],
    /// What an error in each column costs when a scale is chosen.
    pub weights: &'a [f32],
    /// Turns of each group and its number on disk.
    pub groups: &'a [(Range<usize>, usize)],
}

/// Rows being quantized.
pub(super) struct Tile {
    /// Rows side by side, a multiple of 16.
    pub width: usize,
    /// The weights, `[columns][width]`.
    pub weights: Vec<f32>,
    /// Before a column is rounded: what earlier errors sum up to there. After it: its residual `r_j`.
    pub residual: Vec<f32>,
    /// Codes less zero points, `[columns][width]`.
    pub steps: Vec<f32>,
    /// `[groups][width]`, groups as numbered on disk.
    pub scales: Vec<f32>,
    /// As `scales`.
    pub zeros: Vec<f32>,
}

impl Tile {
    /// All zeros.
    pub fn new(width: usize, columns: usize, groups: usize) -> Self {
        Self {
            width,
            weights: vec![0.0; columns * width],
            residual: vec![0.0; columns * width],
            steps: vec![0.0; columns * width],
            scales: vec![0.0; groups * width],
            zeros: vec![0.0; groups * width],
        }
    }

    /// Quantizes `weights`; fills all else.
    pub fn solve(&mut self, problem: &Problem) {
        self.residual.fill(0.0);
        let mut errors = Vec::new();
        let mut next = 0;
        while next < problem.groups.len() {
            // As many whole groups as fit into a block; or one group in several blocks.
            let start = problem.groups[next].0.start;
            let fit = problem.groups[next..]
                .iter()
                .take_while(|(positions, _)| positions.end - start <= BLOCK)
                .count();
            let here = &problem.groups[next..next + fit.max(1)];
            next += here.len();
            let end = here[here.len() - 1].0.end;
            if fit == 0 {
                self.choose(problem, &here[0]);
            }
            for first in (start..end).step_by(BLOCK) {
                let block = first..end.min(first + BLOCK);
                errors.resize(block.len() * self.width, 0.0);
                for group in here {
                    if fit > 0 {
                        self.choose(problem, group);
                    }
                    let positions = group.0.start.max(block.start)..group.0.end.min(block.end);
                    self.round(problem, positions, group.1, &block, &mut errors);
                }
                self.pass_on(problem, &block, &errors);
            }
        }
    }

    /// Half the square of each row's residual, added to `losses`.
    pub fn losses(&self, losses: &mut [f64]) {
        for residual in self.residual.chunks_exact(self.width) {
            for (loss, r) in losses.iter_mut().zip(residual) {
                *loss += 0.5 * f64::from(*r) * f64::from(*r);
            }
        }
    }

    /// Chooses the parameters of the group that is rounded next, from what its weights are now.
    fn choose(&mut self, problem: &Problem, (positions, number): &(Range<usize>, usize)) {
        let width = self.width;
        let here = positions.start * width..positions.end * width;
        let current = match problem.factor {
            Some(factor) if positions.start > 0 => Some(self.current(problem, factor, positions)),
            _ => None,
        };
        let parameters = number * width..(number + 1) * width;
        dispatch(
            problem.level,
            Choose {
                grid: problem.grid,
                values: current.as_deref().unwrap_or(&self.weights[here]),
                weights: &problem.weights[positions.clone()],
                scales: &mut self.scales[parameters.clone()],
                zeros: &mut self.zeros[parameters],
            },
        );
    }

    /// The weights at `positions` that would make up for all errors so far.
    fn current(&self, problem: &Problem, factor: &[f32], positions: &Range<usize>) -> Vec<f32> {
        let width = self.width;
        let here = positions.start * width..positions.end * width;
        let mut residual = self.residual[here.clone()].to_vec();
        let mut errors = vec![0.0; residual.len()];
        for first in positions.clone().step_by(SHORT) {
            let short = first..positions.end.min(first + SHORT);
            dispatch(
                problem.level,
                MakeUp {
                    problem,
                    factor,
                    width,
                    start: positions.start,
                    positions: short.clone(),
                    residual: &residual,
                    errors: &mut errors,
                },
            );
            let done = (short.start - positions.start) * width..(short.end - positions.start) * width;
            let rest = &mut residual[done.end..];
            add(problem, factor, short.end..positions.end, &short, &errors[done], rest, width);
        }
        self.weights[here].iter().zip(&errors).map(|(weight, error)| weight - error).collect()
    }

    /// Rounds `positions`, of one group, and passes their errors on within the block.
    fn round(
        &mut self,
        problem: &Problem,
        positions: Range<usize>,
        group: usize,
        block: &Range<usize>,
        errors: &mut [f32],
    ) {
        let width = self.width;
        for first in positions.clone().step_by(SHORT) {
            let short = first..positions.end.min(first + SHORT);
            let here = short.start * width..short.end * width;
            let done = (short.start - block.start) * width..(short.end - block.start) * width;
            let op = Round {
                problem,
                width,
                positions: short.clone(),
                scales: &self.scales[group * width..][..width],
                zeros: &self.zeros[group * width..][..width],
                weights: &self.weights[here.clone()],
                residual: &mut self.residual[here.clone()],
                steps: &mut self.steps[here],
                errors: &mut errors[done.clone()],
            };
            dispatch(problem.level, op);
            if let Some(factor) = problem.factor {
                let rest = &mut self.residual[short.end * width..];
                add(problem, factor, short.end..block.end, &short, &errors[done], rest, width);
            }
        }
    }

    /// Passes a block's errors on to all later columns.
    fn pass_on(&mut self, problem: &Problem, block: &Range<usize>, errors: &[f32]) {
        let columns = problem.root.len();
        if let Some(factor) = problem.factor {
            let rest = &mut self.residual[block.end * self.width..];
            add(problem, factor, block.end..columns, block, errors, rest, self.width);
        }
    }
}

/// `residual[j] += Σ errors[i] U_ij` for `j` in `to`, `i` in `from`.
pub(super) fn add(
    problem: &Problem,
    factor: &[f32],
    to: Range<usize>,
    from: &Range<usize>,
    errors: &[f32],
    residual: &mut [f32],
    width: usize,
) {
    let columns = problem.root.len();
    for first in to.clone().step_by(FACTOR_ROWS) {
        let rows = FACTOR_ROWS.min(to.end - first);
        let product = Product {
            rows,
            depth: from.len(),
            width,
            a: &factor[first * columns + from.start..],
            a_stride: columns,
            b: errors,
            c: &mut residual[(first - to.start) * width..],
            c_stride: width,
        };
        multiply_add(problem.level, product);
    }
}

/// A few columns, one after the other: what they would have to be.
struct MakeUp<'a> {
    problem: &'a Problem<'a>,
    factor: &'a [f32],
    width: usize,
    /// The position at which `residual` and `errors` begin.
    start: usize,
    positions: Range<usize>,
    residual: &'a [f32],
    errors: &'a mut [f32],
}

impl LaneOp for MakeUp<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Lanes>(self, s: S) {
        let (width, columns) = (self.width, self.problem.root.len());
        for j in self.positions.clone() {
            let minus = s.splat(-1.0 / self.problem.root[j]);
            let row = &self.factor[j * columns + self.positions.start..j * columns + j];
            for first in (0..width).step_by(LANES) {
                let mut sum = s.load(lane(self.residual, (j - self.start) * width + first));
                for (i, &u) in row.iter().enumerate() {
                    let error = lane(self.errors, (self.positions.start + i - self.start) * width + first);
                    sum = sum + s.splat(u) * s.load(error);
                }
                s.store(sum * minus, lane_mut(self.errors, (j - self.start) * width + first));
            }
        }
    }
}

/// A few columns of one group, one after the other: their codes, errors and residuals. Slices begin with `positions`.
struct Round<'a> {
    problem: &'a Problem<'a>,
    width: usize,
    positions: Range<usize>,
    scales: &'a [f32],
    zeros: &'a [f32],
    weights: &'a [f32],
    residual: &'a mut [f32],
    steps: &'a mut [f32],
    errors: &'a mut [f32],
}

impl LaneOp for Round<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Lanes>(self, s: S) {
        let (width, columns) = (self.width, self.problem.root.len());
        for j in 0..self.positions.len() {
            let position = self.positions.start + j;
            let root = self.problem.root[position];
            let row = match self.problem.factor {
                Some(factor) => &factor[position * columns + self.positions.start..][..j],
                None => &[],
            };
            for first in (0..width).step_by(LANES) {
                let at = j * width + first;
                let mut sum = s.load(lane(self.residual, at));
                for (i, &u) in row.iter().enumerate() {
                    sum = sum + s.splat(u) * s.load(lane(self.errors, i * width + first));
                }
                let scale = s.load(lane(self.scales, first));
                let zero = s.load(lane(self.zeros, first));
                let (low, high) = (s.splat(0.0) - zero, s.splat(self.problem.grid.top) - zero);
                let weight = s.load(lane(self.weights, at));
                let wanted = match row_exists(self.problem, root) {
                    true => weight + sum * s.splat(1.0 / root),
                    false => weight,
                };
                let steps = steps(s, wanted, s.splat(1.0) / scale, low, high);
                let error = weight - scale * steps;
                s.store(error, lane_mut(self.errors, at));
                s.store(sum + error * s.splat(root), lane_mut(self.residual, at));
                s.store(steps, lane_mut(self.steps, at));
            }
        }
    }
}

/// Whether earlier errors count: not when rounding to nearest, where a root may be 0.
#[inline(always)]
fn row_exists(problem: &Problem, root: f32) -> bool {
    problem.factor.is_some() && root > 0.0
}
