//! Error feedback on the grids of GGUF's block types: GPTQ's column loop with the scales of blocks.
//!
//! ```text
//! for each block of a row, the important ones first
//!   the f16s its groups share        searched on the weights as they are now, errors of earlier columns counted in
//!   for each group (sub-block)       its scale and offset in the file's precision, searched the same way
//!     for each column                its code; the error goes to all columns that follow
//! sweeps over all blocks             shared f16s, then scales and offsets, then codes, each the best for the rest
//!                                    under the whole Hessian
//! ```
//!
//! Layouts are untouched: a file is read by every reader of its type.

mod card;
mod choose;
mod kinds;
mod pack;
mod refit;
mod rounding;

use std::ops::Range;

use quern_compute::Pool;
use quern_compute::simd::Level;
use quern_compute::simd::lanes::dispatch;
use quern_tensor_io::ElementType;
use quern_tensor_io::decode::mxfp4::half_scale;

use super::codebooks::{self, Points};
use super::format::{Format, Parameters};
use super::levels::{LevelSet, Levels};
use super::order::Unit;
use super::refine::Fit;
use super::solve::{Layer, tiles};
use super::tile::Problem;
use super::{Hessian, Prepared, Settings, ShiftOfRows, SolveError};
use crate::encode::mxfp4_scale;
use card::Start;
use choose::{Affine, Codes, Group, MOVES, SHARES, Symmetric, TERNARY_SHARES};
use kinds::{Kind, Offset, Scale};
use rounding::{Rounding, check, rounding_of};

/// Sweeps of refinement.
const SWEEPS: usize = 4;

/// A layer as blocks.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockSolution {
    /// Rows of blocks, in the order of the weights.
    pub bytes: Vec<u8>,
    /// Half the mean square error of the output over the calibration tokens, summed over rows, with the damping
    /// counted in.
    pub loss: f64,
}

/// Whether the column loop knows the grid of this type, or its codebook.
pub fn has_feedback(element_type: ElementType) -> bool {
    Rounding::of(element_type).is_some()
}

impl Prepared {
    /// Orders, damps and factors for [`solve_blocks`] with this type, as [`Prepared::new`] does for GPTQ.
    ///
    /// # Errors
    /// As [`Prepared::new`]; [`SolveError::Settings`] for a type without a grid and for columns that are not whole
    /// blocks.
    pub fn for_blocks(
        pool: &Pool,
        hessian: Hessian,
        element_type: ElementType,
        damp: f64,
    ) -> Result<Self, SolveError> {
        let plan = rounding_of(element_type, hessian.columns())?.plan(&hessian.diagonal()?);
        Self::with_plan(pool, hessian, plan, &Settings { damp, ..Settings::default() })
    }
}

/// As [`solve_blocks`], with what the layer should make up for: on a card without its leaving the card.
///
/// # Errors
/// As [`solve_blocks`].
pub fn solve_shifted_blocks(
    pool: &Pool,
    weights: &[f32],
    rows: usize,
    prepared: &Prepared,
    element_type: ElementType,
    shift: Option<ShiftOfRows<'_>>,
) -> Result<BlockSolution, SolveError> {
    let Some(part) = shift else { return solve_blocks(pool, weights, rows, prepared, element_type, None) };
    let rounding = check(pool, weights, rows, prepared, element_type)?;
    let there = part.shift.on_card();
    if let (Some(factored), Rounding::Grid(kind), Some(sums)) = (&prepared.card, &rounding, there)
        && *sums.card() == factored.card
    {
        let start = Start::Sums { sums, first: part.first, inputs: part.inputs, drift: part.drift };
        return card::solve(pool, (weights, start), rows, prepared, factored, kind);
    }
    let target = part.shift.target(pool, weights, part.first, part.inputs, part.drift)?;
    solve_blocks(pool, weights, rows, prepared, element_type, Some(&target))
}

/// Quantizes a layer (`[rows][columns]`) as blocks of `element_type`, with the Hessian of its input: on the card that has its
/// factor, if one does, with the same bytes as on a CPU with AVX-512; types with a codebook on the CPU always. The result
/// does not depend on the number of threads.
///
/// # Errors
/// [`SolveError::Lengths`] if things do not fit together, [`SolveError::Settings`] if `prepared` was prepared for
/// blocks of another structure, [`SolveError::Weight`], [`SolveError::Compute`] if the card fails.
pub fn solve_blocks(
    pool: &Pool,
    weights: &[f32],
    rows: usize,
    prepared: &Prepared,
    element_type: ElementType,
    target: Option<&[f32]>,
) -> Result<BlockSolution, SolveError> {
    let rounding = check(pool, weights, rows, prepared, element_type)?;
    let on_host;
    let prepared = match (&prepared.card, &rounding) {
        (None, _) => prepared,
        (Some(factored), Rounding::Grid(kind)) => {
            let start = target.map_or(Start::Zero, Start::Target);
            return card::solve(pool, (weights, start), rows, prepared, factored, kind);
        }
        // Columns that are rounded together are the CPU's.
        (Some(_), Rounding::Codebook(_)) => {
            on_host = prepared.to_host()?;
            &on_host
        }
    };
    let (columns, plan) = (prepared.columns(), &prepared.plan);
    let points;
    let format: &dyn Format = match &rounding {
        Rounding::Grid(kind) => kind,
        Rounding::Codebook(kind) => {
            points = Points { kind, order: &plan.order };
            &points
        }
    };
    let root: Vec<f32> = (0..columns).map(|i| prepared.factor[i * columns + i]).collect();
    let problem = Problem {
        level: pool.level(),
        format,
        factor: Some(&prepared.factor),
        root: &root,
        weights: &prepared.diagonal,
        groups: &plan.groups,
        units: &plan.units,
        started: false,
    };
    let layer = Layer {
        weights,
        target,
        rows,
        plan,
        alive: &prepared.diagonal,
        refine: Some((&prepared.squares, SWEEPS)),
    };
    let parts = tiles(pool, &layer, &problem, |tile, used| {
        let mut losses = vec![0f64; used];
        tile.losses(&mut losses);
        let bytes = match &rounding {
            Rounding::Grid(kind) => pack::rows(kind, plan, tile, used),
            Rounding::Codebook(kind) => codebooks::pack::rows(kind, plan, tile, used),
        };
        (bytes, losses)
    });
    let mut solution = BlockSolution { bytes: Vec::new(), loss: 0.0 };
    for (bytes, losses) in parts {
        solution.bytes.extend(bytes);
        solution.loss += losses.iter().sum::<f64>();
    }
    solution.loss /= prepared.tokens().max(1) as f64;
    Ok(solution)
}

impl Format for Kind {
    fn levels(&self) -> Levels {
        self.levels
    }

    fn has_units(&self) -> bool {
        self.has_codes()
    }

    fn begin(
        &self,
        problem: &Problem,
        unit: &Unit,
        groups: &[(Range<usize>, usize)],
        values: &[f32],
        parameters: &mut Parameters,
    ) {
        let width = parameters.width;
        let start = unit.positions.start;
        // What each group would like, `[groups][width]`.
        let mut curvature = vec![0f32; groups.len() * width];
        for ((positions, number), curvature) in groups.iter().zip(curvature.chunks_exact_mut(width)) {
            let values = &values[(positions.start - start) * width..(positions.end - start) * width];
            let weights = &problem.weights[positions.clone()];
            self.search(problem.level, *number, values, weights, parameters, curvature);
        }
        let mut wanted = [0f32; 16];
        let mut cost = [0f32; 16];
        let count = groups.len();
        for lane in 0..width {
            for (i, (_, number)) in groups.iter().enumerate() {
                wanted[i] = parameters.scales[number * width + lane];
                cost[i] = curvature[i * width + lane];
            }
            if let Scale::Codes { low, high } = self.scale {
                parameters.unit_scales[unit.number * width + lane] =
                    choose::shared(&wanted[..count], &cost[..count], low, high);
            }
            if let Offset::Codes { high } = self.offset {
                for (i, (positions, number)) in groups.iter().enumerate() {
                    wanted[i] = -parameters.offsets[number * width + lane];
                    cost[i] = problem.weights[positions.clone()].iter().sum();
                }
                parameters.unit_offsets[unit.number * width + lane] =
                    choose::shared(&wanted[..count], &cost[..count], 0.0, high);
            }
        }
    }

    fn choose(
        &self,
        level: Level,
        unit: usize,
        group: usize,
        values: &[f32],
        weights: &[f32],
        parameters: &mut Parameters,
    ) {
        let mut curvature = vec![0f32; parameters.width];
        self.search(level, group, values, weights, parameters, &mut curvature);
        let Scale::Codes { low, high } = self.scale else { return };
        let (line, unit) = (parameters.line(group), parameters.line(unit));
        let width = parameters.width;
        let p = parameters;
        macro_rules! codes {
            ($set:expr) => {
                Codes {
                    group: self.group(*$set, values, weights, width),
                    range: (low, high),
                    offset_high: match self.offset {
                        Offset::Codes { high } => Some(high),
                        Offset::None | Offset::Half => None,
                    },
                    unit_scales: &p.unit_scales[unit.clone()],
                    unit_offsets: &p.unit_offsets[unit],
                    scales: &mut p.scales[line.clone()],
                    offsets: &mut p.offsets[line.clone()],
                    scale_codes: &mut p.scale_codes[line.clone()],
                    offset_codes: &mut p.offset_codes[line],
                }
            };
        }
        match &self.levels {
            Levels::Whole(set) => dispatch(level, codes!(set)),
            Levels::Table(set) => dispatch(level, codes!(set)),
        }
    }

    fn refit(&self, fit: &mut Fit<'_>) {
        refit::refit(self, fit);
    }
}

impl Kind {
    fn group<'a, L: LevelSet>(
        &self,
        set: L,
        values: &'a [f32],
        weights: &'a [f32],
        width: usize,
    ) -> Group<'a, L> {
        let halves = self.scale == Scale::Half;
        Group { set, low: self.low, high: self.high, halves, values, weights, width }
    }

    /// The best scale and offset of a group: final where they are f16, otherwise what its numbers are chosen from.
    fn search(
        &self,
        level: Level,
        number: usize,
        values: &[f32],
        weights: &[f32],
        parameters: &mut Parameters,
        curvature: &mut [f32],
    ) {
        let (line, width) = (parameters.line(number), parameters.width);
        let Parameters { scales, lows, offsets, scale_codes, .. } = parameters;
        lows[line.clone()].fill(self.low);
        let (scales, offsets) = (&mut scales[line.clone()], &mut offsets[line.clone()]);
        if self.scale == Scale::PowerOfTwo {
            return self.powers(values, weights, scales, &mut scale_codes[line]);
        }
        if self.offset == Offset::None {
            let shares = if self.high - self.low == 2.0 { &TERNARY_SHARES } else { &SHARES };
            match self.levels {
                Levels::Whole(set) => {
                    let group = self.group(set, values, weights, width);
                    dispatch(level, Symmetric { group, shares, scales, curvature });
                }
                Levels::Table(set) => {
                    let group = self.group(set, values, weights, width);
                    dispatch(level, Symmetric { group, shares, scales, curvature });
                }
            }
        } else if let Levels::Whole(set) = self.levels {
            let group = self.group(set, values, weights, width);
            let below_zero = matches!(self.offset, Offset::Codes { .. });
            dispatch(level, Affine { group, below_zero, moves: &MOVES, scales, offsets, curvature });
        }
    }

    /// The best of a few powers of two for each row.
    fn powers(&self, values: &[f32], weights: &[f32], scales: &mut [f32], codes: &mut [f32]) {
        let Levels::Table(table) = self.levels else { return };
        let width = scales.len();
        for lane in 0..width {
            let column = |j: usize| values[j * width + lane];
            let largest = (0..weights.len()).fold(0.0f32, |largest, j| largest.max(column(j).abs()));
            let (middle, _) = mxfp4_scale(largest);
            let mut least = f32::INFINITY;
            for e in [middle, middle.saturating_add(1).min(254), middle.saturating_sub(1)] {
                let scale = half_scale(e);
                let mut error = 0f32;
                for (j, weight) in weights.iter().enumerate() {
                    let x = column(j) / scale;
                    let at = table.edges[..15].iter().take_while(|edge| x >= **edge).count();
                    let miss = column(j) - scale * table.values[at];
                    error += weight * miss * miss;
                }
                if error < least {
                    (least, scales[lane], codes[lane]) = (error, scale, f32::from(e));
                }
            }
        }
    }
}
