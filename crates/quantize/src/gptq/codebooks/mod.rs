//! Error feedback for the types with codebooks (iq2, iq3): the column loop by groups of eight columns.
//!
//! ```text
//! for each block of a row, the important ones first
//!   scales                  those of the type's encoder, on the weights as they are now, errors of earlier columns
//!                           counted in
//!   for each group          the point of the codebook and signs that leave least of its residuals; its errors go to
//!                           all columns that follow
//! sweeps over all blocks    scales, then points, each the best for the rest under the whole Hessian
//! ```

mod kinds;
mod nearest;
pub(super) mod pack;
mod plan;
mod refine;
mod rounding;

use quern_compute::simd::Level;

use super::format::{Format, Parameters};
use super::levels::{Levels, Whole};
use super::refine::{Fit, Squares};
use super::tile::{Problem, Tile};
pub(super) use kinds::{BLOCK, Kind};

/// A type with a codebook, and the order of columns.
pub(super) struct Points<'a> {
    pub kind: &'a Kind,
    pub order: &'a [u32],
}

impl Format for Points<'_> {
    /// Not used: single columns are not rounded.
    fn levels(&self) -> Levels {
        Levels::Whole(Whole { span: 0.0 })
    }

    /// Scales are chosen with the block.
    fn choose(&self, _: Level, _: usize, _: usize, _: &[f32], _: &[f32], _: &mut Parameters) {}

    fn refit(&self, fit: &mut Fit<'_>) {
        refine::refit(self.kind, fit);
    }

    fn solve(&self, tile: &mut Tile, problem: &Problem<'_>, started: bool) {
        if let Some(factor) = problem.factor {
            rounding::solve(self, tile, &Problem { started, ..*problem }, factor);
        }
    }

    fn refine(&self, tile: &mut Tile, problem: &Problem<'_>, factor: &[f32], squares: &Squares) {
        refine::refine(self, tile, problem, factor, squares);
    }
}
