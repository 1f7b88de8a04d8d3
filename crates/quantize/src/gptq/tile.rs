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

use std::borrow::Cow;
use std::ops::Range;

use quern_compute::simd::Level;
use quern_compute::simd::lanes::{LANES, LaneOp, Lanes, dispatch};
use quern_compute::{Product, multiply_add};

use super::format::{Format, Parameters};
use super::levels::{LevelSet, Levels};
use super::order::Unit;
use super::parameters::{lane, lane_mut};

/// Columns of a block.
const BLOCK: usize = 128;
/// Columns that look back one at a time.
pub(super) const SHORT: usize = 16;
/// Rows of the factor multiplied at a time: with 128 columns they fit into the L2 cache.
const FACTOR_ROWS: usize = 256;

/// What all tiles of a layer share.
#[derive(Clone, Copy)]
pub(super) struct Problem<'a> {
    pub level: Level,
    pub format: &'a dyn Format,
    /// `Uᵀ` in the lower triangle of `[columns][columns]`; `None`: columns do not see each other.
    pub factor: Option<&'a [f32]>,
    /// `U_jj`
    pub root: &'a [f32],
    /// What an error in each column costs when a scale is chosen.
    pub weights: &'a [f32],
    /// Positions of each group and its number on disk.
    pub groups: &'a [(Range<usize>, usize)],
    /// Groups whose parameters are chosen together.
    pub units: &'a [Unit],
    /// Whether residuals begin with something else than 0.
    pub started: bool,
}

/// Rows being quantized.
pub(super) struct Tile {
    /// Rows side by side, a multiple of 16.
    pub width: usize,
    /// The weights, `[columns][width]`.
    pub weights: Vec<f32>,
    /// Before a column is rounded: what earlier errors sum up to there. After it: its residual `r_j`.
    pub residual: Vec<f32>,
    /// Levels, `[columns][width]`: a weight becomes `scale * level + offset` of its group.
    pub levels: Vec<f32>,
    /// Scales, offsets and what they are made of.
    pub parameters: Parameters,
}

impl Tile {
    /// All zeros.
    pub fn new(width: usize, columns: usize, groups: usize, units: usize) -> Self {
        Self {
            width,
            weights: vec![0.0; columns * width],
            residual: vec![0.0; columns * width],
            levels: vec![0.0; columns * width],
            parameters: Parameters::new(width, groups, units),
        }
    }

    /// From the `M` of [`super::Shift`] in `residual` to the residuals that the column loop begins with.
    pub fn start_from(&mut self, problem: &Problem, factor: &[f32]) {
        let (width, columns) = (self.width, problem.root.len());
        let mut minus = vec![0f32; SHORT * width];
        for start in (0..columns).step_by(SHORT).rev() {
            let size = SHORT.min(columns - start);
            // Y_j = (M_j - Σ_{i>j} Y_i U_ji) / U_jj, the last column first.
            for j in (0..size).rev() {
                let row = &factor[(start + j) * columns + start..][..size];
                let inverse = 1.0 / problem.root[start + j];
                for l in 0..width {
                    let mut y = self.residual[(start + j) * width + l];
                    for i in j + 1..size {
                        y += row[i] * minus[i * width + l];
                    }
                    y *= inverse;
                    self.residual[(start + j) * width + l] = y;
                    minus[j * width + l] = -y;
                }
            }
            // Row i of the factor holds U_ij from the diagonal on.
            for first in (0..start).step_by(FACTOR_ROWS) {
                let product = Product {
                    rows: FACTOR_ROWS.min(start - first),
                    depth: size,
                    width,
                    a: &factor[first * columns + start..],
                    a_stride: columns,
                    b: &minus,
                    c: &mut self.residual[first * width..],
                    c_stride: width,
                };
                multiply_add(problem.level, product);
            }
        }
    }

    /// Quantizes `weights`, with what `residual` begins with; fills all else. `started`: it is not 0.
    pub fn solve(&mut self, problem: &Problem, started: bool) {
        let problem = &Problem { started, ..*problem };
        let mut errors = Vec::new();
        let mut next = 0;
        while next < problem.units.len() {
            // As many whole units as fit into a block; or one unit in several blocks.
            let start = problem.units[next].positions.start;
            let fit =
                problem.units[next..].iter().take_while(|unit| unit.positions.end - start <= BLOCK).count();
            let here = &problem.units[next..next + fit.max(1)];
            next += here.len();
            let end = here[here.len() - 1].positions.end;
            for first in (start..end).step_by(BLOCK) {
                let block = first..end.min(first + BLOCK);
                errors.resize(block.len() * self.width, 0.0);
                for unit in here {
                    if unit.positions.start >= block.start {
                        self.begin(problem, unit);
                    }
                    for group in &problem.groups[unit.groups.clone()] {
                        let positions = group.0.start.max(block.start)..group.0.end.min(block.end);
                        if positions.is_empty() {
                            continue;
                        }
                        if group.0.start >= block.start {
                            self.choose(problem, unit, group);
                        }
                        self.round(problem, positions, group.1, &block, &mut errors);
                    }
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

    /// Chooses what the groups of a unit share, from what its weights are now.
    fn begin(&mut self, problem: &Problem, unit: &Unit) {
        if !problem.format.has_units() {
            return;
        }
        let current = current(problem, &self.weights, &self.residual, &unit.positions, self.width);
        let groups = &problem.groups[unit.groups.clone()];
        problem.format.begin(problem, unit, groups, &current, &mut self.parameters);
    }

    /// Chooses the parameters of the group that is rounded next, from what its weights are now.
    fn choose(&mut self, problem: &Problem, unit: &Unit, (positions, number): &(Range<usize>, usize)) {
        let current = current(problem, &self.weights, &self.residual, positions, self.width);
        let weights = &problem.weights[positions.clone()];
        problem.format.choose(problem.level, unit.number, *number, &current, weights, &mut self.parameters);
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
            let line = group * width..(group + 1) * width;
            let op = Round {
                problem,
                width,
                positions: short.clone(),
                scales: &self.parameters.scales[line.clone()],
                lows: &self.parameters.lows[line.clone()],
                offsets: &self.parameters.offsets[line],
                weights: &self.weights[here.clone()],
                residual: &mut self.residual[here.clone()],
                levels: &mut self.levels[here],
                errors: &mut errors[done.clone()],
                set: (),
            };
            match problem.format.levels() {
                Levels::Whole(set) => dispatch(problem.level, op.with(set)),
                Levels::Table(set) => dispatch(problem.level, op.with(set)),
            }
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

/// The weights at `positions` that would make up for all errors so far.
pub(super) fn current<'a>(
    problem: &Problem,
    weights: &'a [f32],
    residual: &[f32],
    positions: &Range<usize>,
    width: usize,
) -> Cow<'a, [f32]> {
    let here = positions.start * width..positions.end * width;
    let factor = match problem.factor {
        Some(factor) if positions.start > 0 || problem.started => factor,
        _ => return Cow::Borrowed(&weights[here]),
    };
    let mut residual = residual[here.clone()].to_vec();
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
    Cow::Owned(weights[here].iter().zip(&errors).map(|(weight, error)| weight - error).collect())
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

/// A few columns of one group, one after the other: their levels, errors and residuals. Slices begin with `positions`.
struct Round<'a, L> {
    problem: &'a Problem<'a>,
    width: usize,
    positions: Range<usize>,
    scales: &'a [f32],
    lows: &'a [f32],
    offsets: &'a [f32],
    weights: &'a [f32],
    residual: &'a mut [f32],
    levels: &'a mut [f32],
    errors: &'a mut [f32],
    set: L,
}

impl<'a> Round<'a, ()> {
    fn with<L>(self, set: L) -> Round<'a, L> {
        let Self {
            problem, width, positions, scales, lows, offsets, weights, residual, levels, errors, ..
        } = self;
        Round { problem, width, positions, scales, lows, offsets, weights, residual, levels, errors, set }
    }
}

impl<L: LevelSet> LaneOp for Round<'_, L> {
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
                let offset = s.load(lane(self.offsets, first));
                let weight = s.load(lane(self.weights, at));
                let wanted = match row_exists(self.problem, root) {
                    true => weight + sum * s.splat(1.0 / root),
                    false => weight,
                };
                let wanted = (wanted - offset) * inverse(s, scale);
                let level = self.set.nearest(s, wanted, s.load(lane(self.lows, first)));
                let error = weight - offset - scale * level;
                s.store(error, lane_mut(self.errors, at));
                s.store(sum + error * s.splat(root), lane_mut(self.residual, at));
                s.store(level, lane_mut(self.levels, at));
            }
        }
    }
}

/// `1 / scale`, 0 for 0.
#[inline(always)]
pub(super) fn inverse<S: Lanes>(s: S, scale: S::F) -> S::F {
    let zero = s.splat(0.0);
    s.select(s.equal(scale, zero), zero, s.splat(1.0) / scale)
}

/// Whether earlier errors count: not when rounding to nearest, where a root may be 0.
#[inline(always)]
fn row_exists(problem: &Problem, root: f32) -> bool {
    problem.factor.is_some() && root > 0.0
}
