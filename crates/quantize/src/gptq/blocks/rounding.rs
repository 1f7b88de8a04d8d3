//! How the columns of a block type are rounded: one by one on a grid, or several together to points of a codebook.

use quern_compute::Pool;
use quern_tensor_io::ElementType;

use crate::finite::first_beyond;

use super::kinds::Kind;
use crate::gptq::codebooks;
use crate::gptq::order::Plan;
use crate::gptq::{Prepared, SolveError};

/// How the columns of a type are rounded.
pub(super) enum Rounding {
    /// One by one, on a grid.
    Grid(Kind),
    /// Several together, to points of a codebook.
    Codebook(codebooks::Kind),
}

impl Rounding {
    pub fn of(element_type: ElementType) -> Option<Self> {
        let codebook = || codebooks::Kind::of(element_type).map(Self::Codebook);
        Kind::of(element_type).map(Self::Grid).or_else(codebook)
    }

    /// Columns of a block, and of those that share a scale.
    pub fn structure(&self) -> (usize, usize) {
        match self {
            Self::Grid(kind) => (kind.block, kind.group),
            Self::Codebook(kind) => (codebooks::BLOCK, kind.sub),
        }
    }

    pub fn plan(&self, diagonal: &[f32]) -> Plan {
        match self {
            Self::Grid(kind) => Plan::blocks(diagonal, kind.block, kind.group, true),
            Self::Codebook(kind) => Plan::codebooks(diagonal, kind),
        }
    }
}

/// How the columns of a type are rounded, if so many are whole blocks of it.
pub(super) fn rounding_of(element_type: ElementType, columns: usize) -> Result<Rounding, SolveError> {
    let unsupported = || SolveError::Settings(format!("{element_type} has no grid for error feedback"));
    let rounding = Rounding::of(element_type).ok_or_else(unsupported)?;
    if columns == 0 || !columns.is_multiple_of(rounding.structure().0) {
        let message = format!("rows of {columns} values are not whole blocks of {element_type}");
        return Err(SolveError::Settings(message));
    }
    Ok(rounding)
}

/// How the columns of a type are rounded, if that and the weights fit what was prepared.
pub(super) fn check(
    pool: &Pool,
    weights: &[f32],
    rows: usize,
    prepared: &Prepared,
    element_type: ElementType,
) -> Result<Rounding, SolveError> {
    let columns = prepared.columns();
    let rounding = rounding_of(element_type, columns)?;
    let plan = &prepared.plan;
    let (block, group) = rounding.structure();
    if (plan.units.len(), plan.groups.len()) != (columns / block, columns / group) {
        let message = "the Hessian was prepared for blocks of another structure";
        return Err(SolveError::Settings(message.into()));
    }
    let expected = rows.saturating_mul(columns);
    if weights.len() != expected {
        return Err(SolveError::Lengths { what: "weights", expected, found: weights.len() });
    }
    match first_beyond(pool, weights, f32::MAX) {
        Some(i) => Err(SolveError::Weight { row: i / columns, column: i % columns, value: weights[i] }),
        None => Ok(rounding),
    }
}
