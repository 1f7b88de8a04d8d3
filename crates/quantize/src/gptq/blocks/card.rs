//! Block types on an NVIDIA card: the column loop and the sweeps there, the bytes of blocks from what it found here.

use std::sync::{Mutex, PoisonError};

use quern_compute::Pool;
use quern_compute::cuda::column_loop::{Blocks, BlocksKind, ColumnLoop, Grid, Numbers};

use super::kinds::{Kind, Offset, Scale};
use super::{BlockSolution, SWEEPS, pack};
use crate::gptq::card::{Factored, plan_of, strip};
use crate::gptq::format::Parameters;
use crate::gptq::levels::{IQ4_LEVELS, Levels};
use crate::gptq::order::Plan;
use crate::gptq::solve::WIDTH;
use crate::gptq::tile::Tile;
use crate::gptq::{Prepared, SolveError};

/// The numbers of a kind as the card takes them.
fn grid_of(kind: &Kind) -> Grid {
    let (code_low, code_high) = match kind.scale {
        Scale::Codes { low, high } => (low, high),
        Scale::Half | Scale::PowerOfTwo => (0.0, 0.0),
    };
    let offset_high = match kind.offset {
        Offset::Codes { high } => high,
        Offset::None | Offset::Half => 0.0,
    };
    let iq4 = matches!(kind.levels, Levels::Table(table) if std::ptr::eq(table, &raw const IQ4_LEVELS));
    let blocks_kind = match (kind.scale, kind.offset) {
        (Scale::Half, Offset::None) if iq4 => BlocksKind::Iq4Half,
        (Scale::Half, Offset::None) => BlocksKind::WholeHalf,
        (Scale::Half, Offset::Half | Offset::Codes { .. }) => BlocksKind::WholeHalfHalf,
        (Scale::Codes { .. }, Offset::None) if iq4 => BlocksKind::Iq4Codes,
        (Scale::Codes { .. }, Offset::None) => BlocksKind::WholeCodes,
        (Scale::Codes { .. }, Offset::Half | Offset::Codes { .. }) => BlocksKind::WholeCodesCodes,
        (Scale::PowerOfTwo, _) => BlocksKind::E2m1Power,
    };
    Grid::Blocks(Blocks {
        kind: blocks_kind,
        low: kind.low,
        high: kind.high,
        code_low,
        code_high,
        offset_high,
    })
}

/// What the card found for some rows.
struct Found {
    rows: usize,
    /// Levels less the lowest, `[rows][columns]`.
    codes: Vec<u8>,
    /// `[groups or units][rows]` each, those of [`Parameters`].
    numbers: [Vec<f32>; 5],
}

/// As [`super::solve_blocks`], whose arguments were checked.
pub(super) fn solve(
    pool: &Pool,
    (weights, target): (&[f32], Option<&[f32]>),
    rows: usize,
    prepared: &Prepared,
    factored: &Factored,
    kind: &Kind,
) -> Result<BlockSolution, SolveError> {
    let (plan, grid) = (plan_of(prepared), grid_of(kind));
    let columns = plan.order.len();
    let strip = strip(factored, &plan, grid, rows)?;
    let mut solution = BlockSolution { bytes: Vec::new(), loss: 0.0 };
    for first in (0..rows).step_by(strip) {
        let count = strip.min(rows - first);
        let here = first * columns..(first + count) * columns;
        let mut there = ColumnLoop::new(factored.as_factor(), &plan, grid, &weights[here.clone()])?;
        if let Some(target) = target {
            there.start_from(&target[here])?;
        }
        there.solve()?;
        for _ in 0..SWEEPS {
            there.refine()?;
        }
        solution.loss += there.loss()?;
        let numbers = |numbers| there.numbers(numbers);
        let numbers = match kind.has_codes() {
            true => [
                Vec::new(),
                numbers(Numbers::ScaleCodes)?,
                numbers(Numbers::OffsetCodes)?,
                numbers(Numbers::UnitScales)?,
                numbers(Numbers::UnitOffsets)?,
            ],
            false => [
                numbers(Numbers::Scales)?,
                numbers(Numbers::ScaleCodes)?,
                numbers(Numbers::Offsets)?,
                Vec::new(),
                Vec::new(),
            ],
        };
        let found = Found { rows: count, codes: there.codes()?, numbers };
        for bytes in found.pack(pool, kind, &prepared.plan) {
            solution.bytes.extend(bytes);
        }
    }
    solution.loss /= prepared.tokens().max(1) as f64;
    Ok(solution)
}

impl Found {
    /// The bytes of all rows, a tile at a time.
    fn pack(&self, pool: &Pool, kind: &Kind, plan: &Plan) -> Vec<Vec<u8>> {
        let parts: Vec<Mutex<Vec<u8>>> =
            (0..self.rows.div_ceil(WIDTH)).map(|_| Mutex::new(Vec::new())).collect();
        pool.run(parts.len(), |t| {
            let tile = self.tile(kind, plan, t * WIDTH);
            let bytes = pack::rows(kind, plan, &tile, tile.width);
            *parts[t].lock().unwrap_or_else(PoisonError::into_inner) = bytes;
        });
        let done = |part: Mutex<Vec<u8>>| part.into_inner().unwrap_or_else(PoisonError::into_inner);
        parts.into_iter().map(done).collect()
    }

    /// The tile that begins with row `first`, as wide as it has rows.
    fn tile(&self, kind: &Kind, plan: &Plan, first: usize) -> Tile {
        let columns = plan.order.len();
        let width = WIDTH.min(self.rows - first);
        let mut levels = vec![0f32; columns * width];
        for (line, &column) in levels.chunks_exact_mut(width).zip(&plan.order) {
            for (row, level) in line.iter_mut().enumerate() {
                *level = f32::from(self.codes[(first + row) * columns + column as usize]) + kind.low;
            }
        }
        let lines = |values: &Vec<f32>| -> Vec<f32> {
            let lines = values.chunks_exact(self.rows).flat_map(|line| &line[first..first + width]);
            lines.copied().collect()
        };
        let [scales, scale_codes, offsets, unit_scales, unit_offsets] = &self.numbers;
        let (offsets, offset_codes) = match kind.has_codes() {
            true => (Vec::new(), lines(offsets)),
            false => (lines(offsets), Vec::new()),
        };
        let mut parameters = Parameters::new(width, plan.groups.len(), plan.units.len());
        let fill = |to: &mut Vec<f32>, from: Vec<f32>| {
            if !from.is_empty() {
                *to = from;
            }
        };
        fill(&mut parameters.scales, lines(scales));
        fill(&mut parameters.offsets, offsets);
        fill(&mut parameters.scale_codes, lines(scale_codes));
        fill(&mut parameters.offset_codes, offset_codes);
        fill(&mut parameters.unit_scales, lines(unit_scales));
        fill(&mut parameters.unit_offsets, lines(unit_offsets));
        Tile { width, weights: Vec::new(), residual: Vec::new(), levels, parameters }
    }
}
