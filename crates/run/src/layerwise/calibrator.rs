//! What a caller does between the groups of linear layers of a block: sees their inputs, replaces their weights.

use quern_model::TensorRole;
use quern_tensor_io::ElementType;

use crate::observer::describe;
use crate::weights::{Linear, Weight};
use crate::{Error, LinearInfo, Observer, ObserverError, Result};

/// A weight to continue with.
#[derive(Clone, Debug)]
pub struct Replacement {
    /// How its numbers are stored.
    pub element_type: ElementType,
    /// Rows of that type, as many and as long as those of the layer.
    pub data: Vec<u8>,
    /// Column `j` of the data is column `permutation[j]` of the layer; `None` for the layer's own order.
    pub permutation: Option<Vec<u32>>,
}

/// A norm in front of a group of linear layers, as it is computed with.
#[derive(Clone, Copy, Debug)]
pub struct NormInfo<'a> {
    /// What the weight is for. With the block it names the tensor:
    /// [`Config::tensor_name`](quern_model::Config::tensor_name).
    pub role: TensorRole,
    /// The block, or `None` for the norm in front of the head.
    pub layer: Option<usize>,
    /// What the normalized numbers are multiplied with. Where Hugging Face stores the weight minus one (Gemma), one is
    /// added.
    pub weight: &'a [f32],
    /// What is added afterwards.
    pub bias: Option<&'a [f32]>,
}

/// A norm with its outputs for the tokens of one sequence.
#[derive(Clone, Copy, Debug)]
pub struct NormGroup<'a> {
    /// The norm.
    pub norm: NormInfo<'a>,
    /// Its outputs with its weight and bias, `[tokens][hidden]`: inputs of the linear layers behind it.
    pub values: &'a [f32],
    /// The outputs of the model's own norm in the unquantized model, where those are kept.
    pub reference: Option<&'a [f32]>,
}

/// Observes the inputs of each group of a block's linear layers, then replaces the weights of the group.
///
/// A group is observed once for each sequence, in order; a mixture's experts once, with the tokens of all sequences,
/// or never if no token chose the expert.
pub trait Calibrator: Observer {
    /// All inputs of the group were observed. Returns one replacement for each layer, or `None` to keep it.
    ///
    /// # Errors
    /// Any: the run stops, and its error is [`Error::Observer`] with this one.
    fn replace(&mut self, linears: &[LinearInfo<'_>]) -> Result<Vec<Option<Replacement>>, ObserverError>;

    /// Whether [`Calibrator::observe_norm`] and [`Calibrator::replace_norm`] are called. They are for norms of the
    /// residual stream in front of linear layers, each before the group of layers that reads it is observed.
    fn refits_norms(&self) -> bool {
        false
    }

    /// Sees the outputs of a norm for one sequence.
    ///
    /// # Errors
    /// As [`Calibrator::replace`].
    fn observe_norm(&mut self, norm: &NormGroup<'_>) -> Result<(), ObserverError> {
        let _ = norm;
        Ok(())
    }

    /// The outputs of a norm were observed for all sequences. Returns the weight to continue with, as
    /// [`NormInfo::weight`], or `None` to keep it.
    ///
    /// # Errors
    /// As [`Calibrator::replace`].
    fn replace_norm(&mut self, norm: &NormInfo<'_>) -> Result<Option<Vec<f32>>, ObserverError> {
        let _ = norm;
        Ok(None)
    }
}

/// Replaces the weights of a group by those that `calibrator` gives.
pub(super) fn replace(calibrator: &mut dyn Calibrator, linears: &mut [&mut Linear]) -> Result<()> {
    let current: Vec<&Linear> = linears.iter().map(|linear| &**linear).collect();
    let replacements = calibrator.replace(&describe(&current)).map_err(Error::Observer)?;
    for (linear, replacement) in linears.iter_mut().zip(replacements) {
        if let Some(Replacement { element_type, data, permutation }) = replacement {
            let (rows, columns) = (linear.op.weight.rows(), linear.op.weight.columns());
            // Refuses data of another shape here, and not in the middle of the pass.
            let weight = Weight::owned(element_type, rows, columns, data)?;
            linear.replace(weight, permutation.map(Into::into));
        }
    }
    Ok(())
}
