//! What distinguishes the formats that the column loop rounds to: how the parameters of a group are chosen, which
//! levels its codes stand for, and how the parameters are fitted again.

use std::ops::Range;

use quern_compute::simd::Level;
use quern_compute::simd::lanes::dispatch;

use super::levels::{Levels, Whole};
use super::order::Unit;
use super::parameters::{Choose, Grid};
use super::refine::{Fit, Squares};
use super::tile::{Problem, Tile};

/// A format whose grid is fixed once the parameters of its groups are: a weight becomes
/// `scale * level + offset`.
pub(super) trait Format: Sync {
    /// The levels.
    fn levels(&self) -> Levels;

    /// Whether groups share parameters, so that [`Format::begin`] has something to do.
    fn has_units(&self) -> bool {
        false
    }

    /// Chooses what the groups of a unit share. `values`: the unit's weights as they are now, `[columns][width]`.
    fn begin(
        &self,
        _problem: &Problem,
        _unit: &Unit,
        _groups: &[(Range<usize>, usize)],
        _values: &[f32],
        _parameters: &mut Parameters,
    ) {
    }

    /// Chooses the parameters of group `group` of unit `unit`. `values`: its weights as they are now,
    /// `[columns][width]`; `weights`: what an error in each column costs.
    fn choose(
        &self,
        level: Level,
        unit: usize,
        group: usize,
        values: &[f32],
        weights: &[f32],
        parameters: &mut Parameters,
    );

    /// Fits the parameters of a unit to the levels chosen.
    fn refit(&self, fit: &mut Fit<'_>);

    /// [`Tile::solve`]; formats that round several columns together have their own.
    fn solve(&self, tile: &mut Tile, problem: &Problem, started: bool) {
        tile.solve(problem, started);
    }

    /// [`Tile::refine`]; likewise.
    fn refine(&self, tile: &mut Tile, problem: &Problem, factor: &[f32], squares: &Squares) {
        tile.refine(problem, factor, squares);
    }
}

/// The parameters of all groups of a tile, each `[groups][width]` or `[units][width]`, numbered as on disk.
#[derive(Debug)]
pub(super) struct Parameters {
    pub width: usize,
    /// Scale of a level.
    pub scales: Vec<f32>,
    /// The lowest level, where levels are whole numbers.
    pub lows: Vec<f32>,
    /// What is added.
    pub offsets: Vec<f32>,
    /// Block types whose scales are whole numbers under a shared scale: those numbers.
    pub scale_codes: Vec<f32>,
    /// The same for offsets.
    pub offset_codes: Vec<f32>,
    /// The shared scales, by unit.
    pub unit_scales: Vec<f32>,
    /// The shared scales of offsets, by unit.
    pub unit_offsets: Vec<f32>,
}

impl Parameters {
    /// All zeros.
    pub fn new(width: usize, groups: usize, units: usize) -> Self {
        let zeros = |lines: usize| vec![0.0; lines * width];
        Self {
            width,
            scales: zeros(groups),
            lows: zeros(groups),
            offsets: zeros(groups),
            scale_codes: zeros(groups),
            offset_codes: zeros(groups),
            unit_scales: zeros(units),
            unit_offsets: zeros(units),
        }
    }

    /// The values of one group or unit in an array.
    pub fn line(&self, number: usize) -> Range<usize> {
        number * self.width..(number + 1) * self.width
    }
}

/// GPTQ's codes: whole numbers, with a zero point for each group.
pub(super) struct Gptq(pub Grid);

impl Format for Gptq {
    fn levels(&self) -> Levels {
        Levels::Whole(Whole { span: self.0.top })
    }

    fn choose(
        &self,
        level: Level,
        _: usize,
        group: usize,
        values: &[f32],
        weights: &[f32],
        parameters: &mut Parameters,
    ) {
        let line = parameters.line(group);
        let Parameters { scales, lows, .. } = parameters;
        let choose = Choose {
            grid: self.0,
            values,
            weights,
            scales: &mut scales[line.clone()],
            lows: &mut lows[line],
        };
        dispatch(level, choose);
    }

    fn refit(&self, fit: &mut Fit<'_>) {
        fit.scale();
    }
}
