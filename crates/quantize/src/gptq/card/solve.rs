//! A layer on a card: all its rows at once, or in strips where the card has too little memory for that.

use half::f16;
use quern_compute::cuda::column_loop::{ColumnLoop, Factor, Grid, Numbers, Piece, Plan, Unit};

use super::Factored;
use crate::gptq::{Prepared, Settings, Solution, SolveError};

impl Factored {
    pub(in crate::gptq) fn as_factor(&self) -> Factor<'_> {
        Factor { factor: &self.factor, squares: &self.squares }
    }
}

/// The plan as the card takes it.
pub(in crate::gptq) fn plan_of(prepared: &Prepared) -> Plan {
    let plan = &prepared.plan;
    let units = plan.units.iter().map(|unit| Unit {
        positions: unit.positions.clone(),
        number: unit.number,
        groups: unit.groups.clone(),
    });
    let pieces = prepared.squares.pieces.iter().map(|piece| Piece {
        positions: piece.positions.clone(),
        unit: piece.unit,
        whole: piece.whole,
        square: piece.square,
    });
    Plan {
        order: plan.order.clone(),
        diagonal: prepared.diagonal.clone(),
        groups: plan.groups.clone(),
        group_of: plan.g_idx.clone(),
        units: units.collect(),
        pieces: pieces.collect(),
    }
}

/// Rows that the card has memory for at a time.
pub(in crate::gptq) fn strip(
    factored: &Factored,
    plan: &Plan,
    grid: Grid,
    rows: usize,
) -> Result<usize, SolveError> {
    let (free, _) = factored.card.free_and_total().map_err(quern_compute::Error::from)?;
    // Some is left for what the driver needs.
    let room = (free as usize / 10 * 9).max(1);
    let pieces = ColumnLoop::bytes(plan, grid, rows).div_ceil(room);
    Ok(rows.div_ceil(pieces.max(1)).next_multiple_of(32).min(rows).max(1))
}

/// As [`crate::gptq::solve()`], whose arguments were checked, with so many sweeps of refinement.
pub(in crate::gptq) fn solve(
    weights: &[f32],
    rows: usize,
    prepared: &Prepared,
    factored: &Factored,
    settings: &Settings,
    sweeps: usize,
) -> Result<Solution, SolveError> {
    let plan = plan_of(prepared);
    let (columns, groups) = (plan.order.len(), plan.groups.len());
    let grid =
        Grid::Gptq { top: settings.top() as f32, symmetric: settings.symmetric, search: settings.search };
    let factor = factored.as_factor();
    let strip = strip(factored, &plan, grid, rows)?;
    let mut solution = Solution {
        rows,
        columns,
        groups,
        bits: settings.bits,
        codes: Vec::new(),
        scales: vec![f16::ZERO; groups * rows],
        zeros: vec![0; groups * rows],
        g_idx: prepared.plan.g_idx.clone(),
        loss: 0.0,
    };
    for first in (0..rows).step_by(strip) {
        let count = strip.min(rows - first);
        let here = &weights[first * columns..][..count * columns];
        let mut columns_here = ColumnLoop::new(factor, &plan, grid, here)?;
        columns_here.solve()?;
        for _ in 0..sweeps {
            columns_here.refine()?;
        }
        solution.loss += columns_here.loss()?;
        let (scales, lows) = (columns_here.numbers(Numbers::Scales)?, columns_here.numbers(Numbers::Lows)?);
        for group in 0..groups {
            let from = group * count..(group + 1) * count;
            let to = group * rows + first..group * rows + first + count;
            for (to, scale) in solution.scales[to.clone()].iter_mut().zip(&scales[from.clone()]) {
                *to = f16::from_f32(*scale);
            }
            for (to, low) in solution.zeros[to].iter_mut().zip(&lows[from]) {
                *to = -low as u8;
            }
        }
        let codes = columns_here.codes()?;
        match first {
            0 if count == rows => solution.codes = codes,
            _ => solution.codes.extend(codes),
        }
    }
    solution.loss /= prepared.tokens().max(1) as f64;
    Ok(solution)
}
