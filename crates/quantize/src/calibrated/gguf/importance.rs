//! How much each column counts, for tensors that are encoded without error feedback.

use quern_compute::Result;
use quern_tensor_io::ElementType;

use crate::encode::needs_weights;
use crate::gptq::Hessian;

/// Share of the mean importance that a column has at least: a block whose columns all count nothing has no best scale.
const FLOOR: f32 = 1e-6;

/// Of a linear layer's columns: the mean square of each input, or of what takes its place. `None` if no token was seen, where the type can be
/// encoded without.
///
/// # Errors
/// A GPU that has the sums is lost.
pub(super) fn of_inputs(hessian: &Hessian, element_type: ElementType) -> Result<Option<Vec<f32>>> {
    let tokens = hessian.tokens() as f32;
    let sums = hessian.diagonal()?;
    let mean = sums.iter().sum::<f32>() / (tokens * sums.len() as f32);
    if tokens == 0.0 || mean <= 0.0 || !mean.is_finite() {
        return Ok(even(sums.len(), element_type));
    }
    Ok(Some(sums.iter().map(|sum| (sum / tokens).max(FLOOR * mean)).collect()))
}

/// The same for all columns, where the type cannot be encoded without any.
pub(super) fn even(columns: usize, element_type: ElementType) -> Option<Vec<f32>> {
    needs_weights(element_type).then(|| vec![1.0; columns])
}
