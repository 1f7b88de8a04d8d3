//! What happens to the groups of layers of a block as the calibration text reaches them.

use quern_compute::{Executor, Pool, Values};
use quern_model::Config;
use quern_run::{Calibrator, LinearGroup, LinearInfo, Observer, ObserverError, Replacement};
use quern_tensor_io::Progress;

use super::digest::FileDigest;
use super::inputs::{Collected, Inputs};
use super::state::{BlockRecord, Squares, State};
use super::target::{Group, Target, Work};
use super::{Calibration, Error};
use crate::imatrix::in_order;

/// A block that is being quantized, or what follows the blocks.
pub(super) struct Quantize<'a, T: Target> {
    pub target: &'a T,
    pub config: &'a Config,
    pub pool: &'a Pool,
    pub calibration: &'a Calibration,
    pub state: &'a State,
    pub progress: &'a dyn Progress,
    /// Its number.
    pub block: usize,
    /// The group that comes next.
    pub group: usize,
    /// What was collected of that group's inputs.
    pub inputs: Collected,
    pub record: BlockRecord<T::Report>,
    /// Digests of groups' files, computed beside the work on the next groups.
    pub digests: Vec<(usize, FileDigest)>,
}

impl<T: Target> Quantize<'_, T> {
    /// The record, once the block was run.
    ///
    /// # Errors
    /// A group's file cannot be read.
    pub fn finish(mut self) -> Result<BlockRecord<T::Report>, Error> {
        for (number, digest) in self.digests.drain(..) {
            self.record.groups.insert(number, digest.wait()?);
        }
        Ok(self.record)
    }

    /// Whether the sums of squares of this layer's inputs are recorded.
    fn measures(&self, layer: &LinearInfo<'_>) -> bool {
        layer.layer.is_some() && self.calibration.imatrix.is_some()
    }

    /// Records the sums of squares of a group's inputs.
    fn measure(&mut self, layers: &[LinearInfo<'_>], inputs: &Inputs) -> Result<(), Error> {
        let measured: Vec<_> = layers.iter().filter(|layer| self.measures(layer)).collect();
        if measured.is_empty() {
            return Ok(());
        }
        let (sums, tokens) = (inputs.hessian.diagonal()?, inputs.hessian.tokens());
        for layer in measured {
            for tensor in self.config.gguf_names(layer.role, layer.layer) {
                // Importance is of the columns as GGUF has them.
                let order = match self.target.column_order(layer) {
                    Some(_) => None,
                    None => self.config.gguf_column_order(layer.role),
                };
                let sums = order.map_or_else(|| sums.clone(), |order| in_order(&sums, &order));
                let expert = layer.expert;
                self.record.squares.push(Squares { tensor, expert, sums, tokens });
            }
        }
        Ok(())
    }
}

impl<T: Target> Observer for Quantize<'_, T> {
    fn observe(&mut self, executor: &mut Executor, group: &LinearGroup<'_>) -> Result<(), ObserverError> {
        let mut wanted = false;
        for layer in group.linears {
            wanted |= self.measures(layer) || self.target.wants(layer)?;
        }
        if !wanted {
            return Ok(());
        }
        match group.linears.first().and_then(|layer| self.target.column_order(layer)) {
            None => self.inputs.add(executor, group)?,
            Some(order) => {
                let columns = |values: Values<'_>| -> quern_compute::Result<Vec<f32>> {
                    let rows = values.host()?.chunks_exact(group.columns.max(1));
                    Ok(rows.flat_map(|row| in_order(row, &order)).collect())
                };
                let values = columns(group.values)?;
                let reference = group.reference.map(columns).transpose()?;
                let (values, reference) = (Values::Host(&values), reference.as_deref().map(Values::Host));
                self.inputs.add(executor, &LinearGroup { values, reference, ..*group })?;
            }
        }
        Ok(())
    }
}

impl<T: Target> Calibrator for Quantize<'_, T> {
    fn replace(&mut self, layers: &[LinearInfo<'_>]) -> Result<Vec<Option<Replacement>>, ObserverError> {
        let number = self.group;
        self.group += 1;
        let mut wanted = Vec::new();
        for layer in layers {
            if self.target.wants(layer)? {
                wanted.push(*layer);
            }
        }
        let inputs = match self.inputs.take()? {
            Some(inputs) => inputs,
            // An expert that no token chose: rounded without a Hessian, and named in the report.
            None if !wanted.is_empty() => Inputs::new(layers[0].columns),
            None => return Ok(vec![None; layers.len()]),
        };
        self.measure(layers, &inputs)?;
        if wanted.is_empty() {
            return Ok(vec![None; layers.len()]);
        }
        let file = self.state.group_file(self.block, number);
        let &mut Self { pool, progress, calibration, .. } = self;
        let group = Group { block: self.block, layers: wanted, inputs };
        let work = Work { pool, progress, calibration, file: &file };
        self.record.modules.extend(self.target.solve(group, work)?);
        self.digests.push((number, FileDigest::of(file.clone())));
        Ok(self.target.read_back(&file, layers, pool)?)
    }
}

/// A block that was finished before: its quantized weights are read back.
pub(super) struct Replay<'a, T: Target> {
    pub target: &'a T,
    pub pool: &'a Pool,
    pub state: &'a State,
    pub record: &'a BlockRecord<T::Report>,
    pub block: usize,
    pub group: usize,
}

impl<T: Target> Observer for Replay<'_, T> {
    fn observe(&mut self, _: &mut Executor, _: &LinearGroup<'_>) -> Result<(), ObserverError> {
        Ok(())
    }
}

impl<T: Target> Calibrator for Replay<'_, T> {
    fn replace(&mut self, layers: &[LinearInfo<'_>]) -> Result<Vec<Option<Replacement>>, ObserverError> {
        let group = self.group;
        self.group += 1;
        if !self.record.groups.contains_key(&group) {
            return Ok(vec![None; layers.len()]);
        }
        Ok(self.target.read_back(&self.state.group_file(self.block, group), layers, self.pool)?)
    }
}
