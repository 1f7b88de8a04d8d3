//! A layer, cut into tiles of rows: rows do not see each other.

use std::sync::Mutex;

use half::f16;
use quern_compute::Pool;

use super::order::Plan;
use super::parameters::Grid;
use super::refine::Squares;
use super::tile::{Problem, Tile};
use super::{Order, Prepared, Settings, Solution, SolveError, check_shape};

/// Rows of a tile.
const WIDTH: usize = 64;
/// Sweeps of refinement, if scales are searched: a third one gains half a percent.
const SWEEPS: usize = 2;

/// Quantizes a layer (`[rows][columns]`) with the Hessian of its input. The result does not depend on the number
/// of threads.
///
/// # Errors
/// [`SolveError::Lengths`] and [`SolveError::Shape`] if things do not fit together, [`SolveError::Settings`] if
/// `prepared` was prepared with other settings, [`SolveError::Weight`].
pub fn solve(
    pool: &Pool,
    weights: &[f32],
    rows: usize,
    prepared: &Prepared,
    settings: &Settings,
) -> Result<Solution, SolveError> {
    let columns = prepared.columns();
    check(weights, rows, columns, settings)?;
    let ours = &prepared.settings;
    if (ours.group_size, ours.order) != (settings.group_size, settings.order) {
        let message = "the Hessian was prepared for another group size or order of columns";
        return Err(SolveError::Settings(message.into()));
    }
    let root: Vec<f32> = (0..columns).map(|i| prepared.factor[i * columns + i]).collect();
    let problem = Problem {
        level: pool.level(),
        grid: grid(settings),
        factor: Some(&prepared.factor),
        root: &root,
        weights: &prepared.diagonal,
        groups: &prepared.plan.groups,
    };
    let mut solution = run(
        pool,
        weights,
        rows,
        settings,
        &problem,
        &prepared.plan,
        &prepared.diagonal,
        Some(&prepared.squares),
    );
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
    check(weights, rows, columns, settings)?;
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
        grid: grid(settings),
        factor: None,
        root: &root,
        weights: diagonal,
        groups: &plan.groups,
    };
    Ok(run(pool, weights, rows, settings, &problem, &plan, &ones, None))
}

fn grid(settings: &Settings) -> Grid {
    Grid { top: settings.top() as f32, symmetric: settings.symmetric, search: settings.search }
}

fn check(weights: &[f32], rows: usize, columns: usize, settings: &Settings) -> Result<(), SolveError> {
    check_shape(rows, columns, settings)?;
    let expected = rows.saturating_mul(columns);
    if weights.len() != expected {
        return Err(SolveError::Lengths { what: "weights", expected, found: weights.len() });
    }
    // With a larger one, the scale of its group would not be finite as f16.
    let limit = f16::MAX.to_f32() * settings.top() as f32 / 2.0;
    match weights.iter().position(|w| w.is_nan() || w.abs() > limit) {
        Some(i) => Err(SolveError::Weight { row: i / columns, column: i % columns, value: weights[i] }),
        None => Ok(()),
    }
}

/// Where the results of a tile go.
struct Part<'a> {
    codes: &'a mut [u8],
    losses: &'a mut [f64],
    /// `[groups][width]`, then the zero points.
    parameters: Vec<f32>,
}

/// Solves all tiles; refines them if there are squares. Columns whose `alive` is 0 get weights of 0.
#[allow(clippy::too_many_arguments)] // what a layer is, once
fn run(
    pool: &Pool,
    weights: &[f32],
    rows: usize,
    settings: &Settings,
    problem: &Problem,
    plan: &Plan,
    alive: &[f32],
    squares: Option<&Squares>,
) -> Solution {
    let (columns, groups) = (plan.order.len(), plan.groups.len());
    let mut codes = vec![0u8; rows * columns];
    let mut losses = vec![0f64; rows];
    let parts: Vec<Mutex<Part>> = codes
        .chunks_mut(WIDTH * columns)
        .zip(losses.chunks_mut(WIDTH))
        .map(|(codes, losses)| Mutex::new(Part { codes, losses, parameters: Vec::new() }))
        .collect();
    // A worker that is done hands its memory to the next tile.
    let spare = Mutex::new(Vec::<Tile>::new());
    pool.run(parts.len(), |t| {
        let tile = lock(&spare).pop();
        let mut part = lock(&parts[t]);
        let used = part.losses.len();
        let width = used.next_multiple_of(16);
        let mut tile = match tile {
            Some(tile) if tile.width == width => tile,
            _ => Tile::new(width, columns, groups),
        };
        let weights = &weights[t * WIDTH * columns..][..used * columns];
        for ((line, &column), &alive) in tile.weights.chunks_exact_mut(width).zip(&plan.order).zip(alive) {
            line.fill(0.0);
            if alive > 0.0 {
                for (to, row) in line.iter_mut().zip(weights.chunks_exact(columns)) {
                    *to = row[column as usize];
                }
            }
        }
        tile.solve(problem);
        if let (true, Some(factor), Some(squares)) = (settings.search, problem.factor, squares) {
            for _ in 0..SWEEPS {
                tile.refine(problem, factor, squares);
            }
        }
        tile.losses(part.losses);
        for (line, &column) in tile.steps.chunks_exact(width).zip(&plan.order) {
            let zeros = &tile.zeros[plan.g_idx[column as usize] as usize * width..][..width];
            for (row, (steps, zero)) in part.codes.chunks_exact_mut(columns).zip(line.iter().zip(zeros)) {
                row[column as usize] = (steps + zero) as u8;
            }
        }
        part.parameters = [&tile.scales[..], &tile.zeros[..]].concat();
        lock(&spare).push(tile);
    });
    let mut scales = vec![f16::ZERO; groups * rows];
    let mut zeros = vec![0u8; groups * rows];
    for (t, part) in parts.into_iter().enumerate() {
        let part = part.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        let used = part.losses.len();
        let width = used.next_multiple_of(16);
        for g in 0..groups {
            for l in 0..used {
                scales[g * rows + t * WIDTH + l] = f16::from_f32(part.parameters[g * width + l]);
                zeros[g * rows + t * WIDTH + l] = part.parameters[(groups + g) * width + l] as u8;
            }
        }
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
