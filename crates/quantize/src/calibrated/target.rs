//! What differs between the outputs of a calibrated job while the blocks are worked on.

use std::path::Path;

use quern_compute::Pool;
use quern_run::{LinearInfo, Model, Replacement};
use quern_tensor_io::Progress;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::inputs::Inputs;
use super::state::State;
use super::{Calibration, Error};

/// Layers with one input that are to be quantized.
pub(super) struct Group<'a> {
    /// The block; the number of blocks for what follows them.
    pub block: usize,
    /// The layers, in the order of the computation; at least one.
    pub layers: Vec<LinearInfo<'a>>,
    /// What was collected of their inputs; no tokens for an expert that none chose.
    pub inputs: Inputs,
}

/// What a group is worked on with.
#[derive(Clone, Copy)]
pub(super) struct Work<'a> {
    pub pool: &'a Pool,
    pub progress: &'a dyn Progress,
    pub calibration: &'a Calibration,
    /// The file that keeps the group, or what is made before the blocks, to be written whole.
    pub file: &'a Path,
}

/// One of the outputs.
pub(super) trait Target {
    /// What is reported of a layer. Records of finished blocks hold them.
    type Report: Serialize + DeserializeOwned;

    /// Whether this layer is quantized.
    ///
    /// # Errors
    /// The layer is not in the plan.
    fn wants(&self, layer: &LinearInfo<'_>) -> Result<bool, Error>;

    /// The order in which the output has the columns of a layer, where it is not the running model's: column `i` of the
    /// output is the model's column `order[i]`. What is collected of its inputs is then in the output's order.
    fn column_order(&self, layer: &LinearInfo<'_>) -> Option<Vec<u32>> {
        let _ = layer;
        None
    }

    /// Whether the unquantized model is run beside the one that is quantized, for what layers should make up for.
    fn follows_the_original(&self) -> bool {
        false
    }

    /// Makes what does not depend on the blocks, or takes it over from the unfinished run. Returns what was found damaged
    /// and was done again.
    ///
    /// # Errors
    /// What cannot be made; a file that cannot be written.
    fn before(&self, model: &Model, state: &State, work: Work<'_>) -> Result<Option<String>, Error> {
        let _ = (model, state, work);
        Ok(None)
    }

    /// Solves the layers of a group and writes them to their file, a safetensors file. Progress counts layers.
    ///
    /// # Errors
    /// A layer that cannot be solved; a file that cannot be written.
    fn solve(&self, group: Group<'_>, work: Work<'_>) -> Result<Vec<Self::Report>, Error>;

    /// The weights to continue with, from the file of a group: what a reader of the output will compute with. `None`
    /// for layers that stay as they are.
    ///
    /// # Errors
    /// A file that cannot be read.
    fn read_back(
        &self,
        file: &Path,
        layers: &[LinearInfo<'_>],
        pool: &Pool,
    ) -> Result<Vec<Option<Replacement>>, Error>;
}
