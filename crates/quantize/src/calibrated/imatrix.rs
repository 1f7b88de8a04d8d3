//! The importance matrix of the calibration text, as a by-product.

use std::path::Path;

use quern_run::Model;

use super::state::BlockRecord;
use super::{Calibration, Error};
use crate::imatrix::{Accumulator, Format, WriteOptions};

/// Writes the importance matrix that the blocks' records hold.
pub(super) fn write<R>(
    path: &Path,
    model: &Model,
    calibration: &Calibration,
    blocks: &[BlockRecord<R>],
) -> Result<(), Error> {
    let experts = model.config().experts.map_or(1, |experts| experts.count);
    let mut accumulator = Accumulator::new();
    for squares in blocks.iter().flat_map(|block| &block.squares) {
        let place = squares.expert.map_or((0, 1), |expert| (expert, experts));
        accumulator
            .add_expert(&squares.tensor, place, &squares.sums, squares.tokens)
            .map_err(Error::Imatrix)?;
    }
    let context = calibration.samples.sequences.iter().map(Vec::len).max().unwrap_or(0);
    let options = WriteOptions {
        datasets: vec![calibration.dataset.clone()],
        chunk_size: u32::try_from(context).unwrap_or(u32::MAX),
        provenance: calibration.imatrix_provenance.clone(),
        force: calibration.force,
        inputs: calibration.inputs.clone().with_model(model.checkpoint()),
        format: Format::Gguf,
    };
    accumulator.write(path, &options)?;
    Ok(())
}
