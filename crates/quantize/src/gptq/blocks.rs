//! A layer solved on the grid of a GGUF block type.

use std::sync::{Mutex, PoisonError};

use quern_compute::Pool;
use quern_compute::parallel::{part_of, share};
use quern_tensor_io::ElementType;

use super::{Hessian, Order, Prepared, Settings, SolveError};
use crate::encode::{EncodeError, encode_rows_at};

/// A layer in blocks.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockSolution {
    /// Rows of blocks.
    pub bytes: Vec<u8>,
    /// Half the mean square error of the output over the calibration tokens, summed over rows.
    pub loss: f64,
}

/// Whether error feedback knows this block type (others are encoded with the Hessian's diagonal as importance).
pub fn has_feedback(element_type: ElementType) -> bool {
    use ElementType as T;
    matches!(
        element_type,
        T::Q4_0
            | T::Q4_1
            | T::Q5_0
            | T::Q5_1
            | T::Q8_0
            | T::Q2K
            | T::Q3K
            | T::Q4K
            | T::Q5K
            | T::Q6K
            | T::IQ4NL
    )
}

impl Prepared {
    /// Orders, damps and factors for a block type; as [`Prepared::new`] for GPTQ settings.
    pub fn for_blocks(
        pool: &Pool,
        hessian: Hessian,
        element_type: ElementType,
        damp: f64,
    ) -> Result<Self, SolveError> {
        let group = Some(element_type.block_elements());
        let settings = Settings { damp, order: Order::Natural, group_size: group, ..Settings::default() };
        Self::new(pool, hessian, &settings)
    }
}

/// Encodes a layer (`[rows][columns]`) as `element_type`.
pub fn solve_blocks(
    pool: &Pool,
    weights: &[f32],
    rows: usize,
    prepared: &Prepared,
    element_type: ElementType,
) -> Result<BlockSolution, SolveError> {
    let columns = prepared.columns();
    let importance: Vec<f32> =
        prepared.diagonal.iter().map(|d| d / prepared.tokens().max(1) as f32).collect();
    let row_bytes = element_type.row_bytes(columns).unwrap_or(0);
    let mut bytes = vec![0u8; rows * row_bytes];
    let step = part_of(pool, weights.len(), columns) / columns;
    let failure: Mutex<Option<EncodeError>> = Mutex::new(None);
    let parts = weights.chunks(step * columns).zip(bytes.chunks_mut(step * row_bytes));
    share(pool, parts, |(weights, out)| {
        if let Err(e) = encode_rows_at(pool.level(), element_type, columns, weights, Some(&importance), out) {
            *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(e);
        }
    });
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(e) => Err(SolveError::Settings(e.to_string())),
        None => Ok(BlockSolution { bytes, loss: 0.0 }),
    }
}
