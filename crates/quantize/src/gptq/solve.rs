//! A layer, cut into tiles of rows: rows do not see each other.

use std::sync::Mutex;

use half::f16;
use quern_compute::Pool;

use super::format::Gptq;
use super::order::Plan;
use super::parameters::Grid;
use super::refine::Squares;
use super::tile::{Problem, Tile};
use crate::finite::first_beyond;

use super::{Order, Prepared, Settings, Solution, SolveError, card, check_shape};

/// Rows of a tile.
pub(super) const WIDTH: usize = 64;
/// Sweeps of refinement, if scales are searched: a third one gains half a percent.
const SWEEPS: usize = 2;

/// Quantizes a layer (`[rows][columns]`) with the Hessian of its input: on the card that has its factor, if one does, with
/// the same codes and scales as on a CPU with AVX-512. The result does not depend on the number of threads.
///
/// # Errors
/// [`SolveError::Lengths`] and [`SolveError::Shape`] if things do not fit together, [`SolveError::Settings`] if
/// `prepared` was prepared with other settings, [`SolveError::Weight`], [`SolveError::Compute`] if the card fails.
pub fn solve(
    pool: &Pool,
    weights: &[f32],
    rows: usize,
    prepared: &Prepared,
    settings: &Settings,
) -> Result<Solution, SolveError> {
    let columns = prepared.columns();
    check(pool, weights, rows, columns, settings)?;
    let ours = &prepared.settings;
    if (ours.group_size, ours.order) != (settings.group_size, settings.order) {
        let message = "the Hessian was prepared for another group size or order of columns";
        return Err(SolveError::Settings(message.into()));
    }
    if let Some(factored) = &prepared.card {
        let refine = if settings.search { SWEEPS } else { 0 };
        return card::solve(pool, weights, rows, prepared, factored, settings, refine);
    }
    let root: Vec<f32> = (0..columns).map(|i| prepared.factor[i * columns + i]).collect();
    let problem = Problem {
        level: pool.level(),
        format: &format(settings),
        factor: Some(&prepared.factor),
        root: &root,
        weights: &prepared.diagonal,
        groups: &prepared.plan.groups,
        units: &prepared.plan.units,
        started: false,
    };
    let layer = Layer {
        weights,
        target: None,
        rows,
        plan: &prepared.plan,
        alive: &prepared.diagonal,
        refine: settings.search.then_some((&prepared.squares, SWEEPS)),
    };
    let mut solution = run(pool, &layer, settings, &problem);
    solution.loss /= prepared.tokens().max(1) as f64;
    Ok(solution)
}

/// Rounds a layer (`[rows][columns]`) with the same scales and codes as [`solve`], but each weight by itself.
/// `diagonal`: what an error in each column costs; equal if `None`. Groups are of neighbouring columns, whatever
/// the order set.
///
/// # Errors
/// As [`solve`].
pub fn round_to_nearest(
    pool: &Pool,
    weights: &[f32],
    rows: usize,
    columns: usize,
    diagonal: Option<&[f32]>,
    settings: &Settings,
) -> Result<Solution, SolveError> {
    check(pool, weights, rows, columns, settings)?;
    let ones = vec![1.0; columns];
    let diagonal = diagonal.unwrap_or(&ones);
    if diagonal.len() != columns {
        return Err(SolveError::Lengths {
            what: "values of the diagonal",
            expected: columns,
            found: diagonal.len(),
        });
    }
    if let Some(column) = diagonal.iter().position(|d| !(d.is_finite() && *d >= 0.0)) {
        return Err(SolveError::Input { column, value: diagonal[column] });
    }
    let plan = Plan::new(diagonal, &Settings { order: Order::Natural, ..settings.clone() });
    let root: Vec<f32> = diagonal.iter().map(|d| d.sqrt()).collect();
    let problem = Problem {
        level: pool.level(),
        format: &format(settings),
        factor: None,
        root: &root,
        weights: diagonal,
        groups: &plan.groups,
        units: &plan.units,
        started: false,
    };
    let layer = Layer { weights, target: None, rows, plan: &plan, alive: &ones, refine: None };
    Ok(run(pool, &layer, settings, &problem))
}

fn format(settings: &Settings) -> Gptq {
    Gptq(Grid { top: settings.top() as f32, symmetric: settings.symmetric, search: settings.search })
}

fn check(
    pool: &Pool,
    weights: &[f32],
    rows: usize,
    columns: usize,
    settings: &Settings,
) -> Result<(), SolveError> {
    check_shape(rows, columns, settings)?;
    let expected = rows.saturating_mul(columns);
    if weights.len() != expected {
        return Err(SolveError::Lengths { what: "weights", expected, found: weights.len() });
    }
    // With a larger one, the scale of its group would not be finite as f16.
    let limit = f16::MAX.to_f32() * settings.top() as f32 / 2.0;
    match first_beyond(pool, weights, limit) {
        Some(i) => Err(SolveError::Weight { row: i / columns, column: i % columns, value: weights[i] }),
        None => Ok(()),
    }
}

/// A layer to be cut into tiles.
pub(super) struct Layer<'a> {
    /// `[rows][columns]`
    pub weights: &'a [f32],
    /// What it should make up for, as `weights`: `M` of [`super::Shift`].
    pub target: Option<&'a [f32]>,
    pub rows: usize,
    pub plan: &'a Plan,
    /// Columns, in the plan's order, for which it is 0 get weights of 0.
    pub alive: &'a [f32],
    /// The squares for refinement, and how many sweeps.
    pub refine: Option<(&'a Squares, usize)>,
}

/// Solves all tiles of a layer, and gives each with its number of rows to `take`, whose results come in order.
pub(super) fn tiles<R: Send>(
    pool: &Pool,
    layer: &Layer,
    problem: &Problem,
    take: impl Fn(&Tile, usize) -> R + Sync,
) -> Vec<R> {
    let &Layer { weights, target, rows, plan, alive, refine } = layer;
    let (columns, groups, units) = (plan.order.len(), plan.groups.len(), plan.units.len());
    let results: Vec<Mutex<Option<R>>> = (0..rows.div_ceil(WIDTH)).map(|_| Mutex::new(None)).collect();
    // A worker that is done hands its memory to the next tile.
    let spare = Mutex::new(Vec::<Tile>::new());
    pool.run(results.len(), |t| {
        let tile = lock(&spare).pop();
        let used = WIDTH.min(rows - t * WIDTH);
        let width = used.next_multiple_of(16);
        let mut tile = match tile {
            Some(tile) if tile.width == width => tile,
            _ => Tile::new(width, columns, groups, units),
        };
        let fill = |lines: &mut [f32], rows: &[f32]| {
            let rows = &rows[t * WIDTH * columns..][..used * columns];
            for ((line, &column), &alive) in lines.chunks_exact_mut(width).zip(&plan.order).zip(alive) {
                line.fill(0.0);
                if alive > 0.0 {
                    for (to, row) in line.iter_mut().zip(rows.chunks_exact(columns)) {
                        *to = row[column as usize];
                    }
                }
            }
        };
        fill(&mut tile.weights, weights);
        match (target, problem.factor) {
            (Some(target), Some(factor)) => {
                fill(&mut tile.residual, target);
                tile.start_from(problem, factor);
            }
            _ => tile.residual.fill(0.0),
        }
        problem.format.solve(&mut tile, problem, target.is_some());
        if let (Some(factor), Some((squares, sweeps))) = (problem.factor, refine) {
            for _ in 0..sweeps {
                problem.format.refine(&mut tile, problem, factor, squares);
            }
        }
        *lock(&results[t]) = Some(take(&tile, used));
        lock(&spare).push(tile);
    });
    let done =
        |result: Mutex<Option<R>>| result.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    results.into_iter().filter_map(done).collect()
}

/// What GPTQ takes from a tile.
struct Part {
    codes: Vec<u8>,
    losses: Vec<f64>,
    /// `[groups][width]`
    scales: Vec<f32>,
    zeros: Vec<f32>,
}

fn run(pool: &Pool, layer: &Layer, settings: &Settings, problem: &Problem) -> Solution {
    let &Layer { rows, plan, .. } = layer;
    let (columns, groups) = (plan.order.len(), plan.groups.len());
    let parts = tiles(pool, layer, problem, |tile, used| {
        let width = tile.width;
        let zeros: Vec<f32> = tile.parameters.lows.iter().map(|low| -low).collect();
        let mut codes = vec![0u8; used * columns];
        for (line, &column) in tile.levels.chunks_exact(width).zip(&plan.order) {
            let zeros = &zeros[plan.g_idx[column as usize] as usize * width..][..width];
            for (row, (level, zero)) in codes.chunks_exact_mut(columns).zip(line.iter().zip(zeros)) {
                row[column as usize] = (level + zero) as u8;
            }
        }
        let mut losses = vec![0f64; used];
        tile.losses(&mut losses);
        Part { codes, losses, scales: tile.parameters.scales.clone(), zeros }
    });
    let mut codes = Vec::with_capacity(rows * columns);
    let mut scales = vec![f16::ZERO; groups * rows];
    let mut zeros = vec![0u8; groups * rows];
    let mut losses = Vec::with_capacity(rows);
    for (t, part) in parts.into_iter().enumerate() {
        let used = part.losses.len();
        let width = used.next_multiple_of(16);
        for g in 0..groups {
            for l in 0..used {
                scales[g * rows + t * WIDTH + l] = f16::from_f32(part.scales[g * width + l]);
                zeros[g * rows + t * WIDTH + l] = part.zeros[g * width + l] as u8;
            }
        }
        codes.extend(part.codes);
        losses.extend(part.losses);
    }
    Solution {
        rows,
        columns,
        groups,
        bits: settings.bits,
        codes,
        scales,
        zeros,
        g_idx: plan.g_idx.clone(),
        loss: losses.iter().sum(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
