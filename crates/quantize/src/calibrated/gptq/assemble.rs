//! Putting the output of a job together: packed modules in place of their weights, everything else as the source
//! has it.

use std::collections::BTreeMap;
use std::path::Path;

use quern_model::View;
use quern_model::hugging_face::{Directory, DirectoryOptions, text_model_config};
use quern_tensor_io::{Checkpoint, TensorPlan};
use serde_json::Value;

use super::report::{ModuleReport, csv};
use super::{Error, GptqPlan, Options, config};
use crate::calibrated::state::{BlockRecord, State};

/// A tensor of the output.
enum OutputTensor<'a> {
    /// One of a packed module, in a file of the unfinished run.
    Packed(&'a Checkpoint, usize),
    /// As the source has it: its number in the view.
    Source(usize),
}

/// What the output is made of: the source, and the packed modules of all blocks.
pub(super) struct Assembly<'a> {
    pub(super) checkpoint: &'a Checkpoint,
    pub(super) plan: &'a GptqPlan,
    pub(super) options: &'a Options,
    pub(super) state: &'a State,
    pub(super) records: &'a [BlockRecord<ModuleReport>],
}

impl Assembly<'_> {
    /// Writes the output with this quantization configuration; the bytes of its tensor files.
    pub(super) fn write(&self, output: &Path, config: &Value) -> Result<u64, Error> {
        let &Self { checkpoint, plan, options, state, records } = self;
        let mut groups = Vec::new();
        for (layer, record) in records.iter().enumerate() {
            for &group in record.groups.keys() {
                groups.push(Checkpoint::open(&state.group_file(layer, group))?);
            }
        }
        let view = View::stored(checkpoint)?;
        let tensors = in_order(&view, &groups);
        let modules: Vec<_> = records.iter().flat_map(|r| r.modules.iter().cloned()).collect();
        let directory_options = DirectoryOptions {
            tensors: tensors.iter().map(|tensor| tensor.plan(&view)).collect(),
            config: text_model_config(checkpoint.directory(), Some(config))?,
            extra_files: vec![
                ("quantize_config.json".to_owned(), config::to_bytes(config)),
                ("quant_log.csv".to_owned(), csv(&modules).into_bytes()),
            ],
            force: options.calibration.force,
            inputs: options.calibration.inputs.clone(),
            shard_bytes: options.shard_bytes,
            ..DirectoryOptions::default()
        };
        let mut directory = Directory::create(output, checkpoint, directory_options)?;
        for tensor in tensors {
            let (from, data) = match tensor {
                OutputTensor::Packed(from, index) => (from, from.data(&from.tensors()[index])),
                // Experts of which all are in one tensor, with those of other roles in between.
                OutputTensor::Source(number) if view.contiguous(number).is_none() => {
                    let tensor = &view.tensors()[number];
                    let mut bytes = vec![0; tensor.rows() * tensor.row_bytes];
                    view.read(number, 0..tensor.rows(), &mut bytes);
                    directory.write(&bytes)?;
                    continue;
                }
                OutputTensor::Source(number) => (checkpoint, view.require_contiguous(number)?),
            };
            directory.write(data)?;
            from.release(data.as_ptr_range());
        }
        let quantized: Vec<_> = records.iter().flat_map(|r| &r.modules).collect();
        let count = quantized.len() as f64;
        let figures = [
            ("bits_per_weight", plan.bits_per_weight()),
            ("tensor_bytes", plan.output_bytes as f64),
            ("modules", count),
            ("modules_rounded_to_nearest", quantized.iter().filter(|m| m.fallback.is_some()).count() as f64),
            ("mean_loss", quantized.iter().map(|m| m.loss).sum::<f64>() / count.max(1.0)),
        ];
        let provenance = options.provenance.clone().map(|p| p.with_figures(figures));
        Ok(directory.finish_with(provenance)?)
    }
}

/// In the source's order and by the architecture's names, packed modules in place of their weights.
fn in_order<'a>(view: &View<'_>, groups: &'a [Checkpoint]) -> Vec<OutputTensor<'a>> {
    let mut packed: BTreeMap<&str, Vec<OutputTensor<'a>>> = BTreeMap::new();
    for group in groups {
        for (index, info) in group.tensors().iter().enumerate() {
            let module = info.name.rsplit_once('.').map_or("", |(module, _)| module);
            packed.entry(module).or_default().push(OutputTensor::Packed(group, index));
        }
    }
    let mut tensors = Vec::new();
    for number in view.file_order() {
        let name = view.tensors()[number].name.as_str();
        match name.strip_suffix(".weight").and_then(|module| packed.remove(module)) {
            Some(module) => tensors.extend(module),
            None => tensors.push(OutputTensor::Source(number)),
        }
    }
    tensors
}

impl OutputTensor<'_> {
    fn plan(&self, view: &View<'_>) -> TensorPlan {
        match *self {
            Self::Packed(from, index) => {
                let info = &from.tensors()[index];
                TensorPlan {
                    name: info.name.clone(),
                    element_type: info.element_type,
                    shape: info.shape.clone(),
                }
            }
            Self::Source(number) => {
                let tensor = &view.tensors()[number];
                TensorPlan {
                    name: tensor.name.clone(),
                    element_type: tensor.element_type,
                    shape: tensor.shape.clone(),
                }
            }
        }
    }
}
