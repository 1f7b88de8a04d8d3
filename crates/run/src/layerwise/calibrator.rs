//! What a caller does between the groups of linear layers of a block: sees their inputs, replaces their weights.

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
}

/// What `calibrator` gives for a group, for each of these layers.
pub(super) fn replacements(
    calibrator: &mut dyn Calibrator,
    own: &[&Linear],
) -> Result<Vec<Option<Replacement>>> {
    calibrator.replace(&describe(own)).map_err(Error::Observer)
}

/// `linear` in RAM with another weight.
pub(super) fn replaced(linear: &Linear, replacement: Replacement) -> Result<Linear> {
    let Replacement { element_type, data, permutation } = replacement;
    let (rows, columns) = (linear.op.weight.rows(), linear.op.weight.columns());
    // Refuses data of another shape here, and not in the middle of the pass.
    let weight = Weight::owned(element_type, rows, columns, data)?;
    let mut linear = linear.clone();
    linear.replace(weight, permutation.map(Into::into));
    Ok(linear)
}
