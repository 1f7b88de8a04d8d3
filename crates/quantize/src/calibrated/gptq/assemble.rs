//! Putting the output of a job together: packed modules in place of their weights, everything else as the source
//! has it.

use std::collections::BTreeMap;
use std::path::Path;

use quern_compute::Pool;
use quern_compute::parallel::share;
use quern_model::View;
use quern_model::hugging_face::{Directory, DirectoryOptions, plain_modules, text_model_config};
use quern_tensor_io::scheme::{
    AffineLayer, CodeFormat, Inexact, PackedLayer, Packing, awq_config, compressed_tensors_config,
    compressed_weights,
};
use quern_tensor_io::{Checkpoint, Error as FileError, TensorPlan};
use serde_json::Value;

use super::report::{ModuleReport, csv};
use super::{Error, GptqPlan, Options, config};
use crate::calibrated::state::{BlockRecord, State};

/// A tensor of the output.
enum OutputTensor<'a> {
    /// One of a packed module, in a file of the unfinished run.
    Packed(&'a Checkpoint, usize),
    /// One of a module that is packed anew: its number among the module's tensors, and what it will be.
    Repacked(&'a Checkpoint, &'a PackedLayer, usize, TensorPlan),
    /// As the source has it: its number in the view.
    Source(usize),
}

/// Bytes of a repacked tensor that a thread makes at once.
const PART_BYTES: usize = 1 << 20;

/// What the output is made of: the source, and the packed modules of all blocks.
pub(super) struct Assembly<'a> {
    pub(super) checkpoint: &'a Checkpoint,
    pub(super) plan: &'a GptqPlan,
    pub(super) options: &'a Options,
    pub(super) pool: &'a Pool,
    pub(super) state: &'a State,
    pub(super) records: &'a [BlockRecord<ModuleReport>],
}

impl Assembly<'_> {
    /// Writes the output with this quantization configuration; the bytes of its tensor files.
    pub(super) fn write(&self, output: &Path, config: &Value) -> Result<u64, Error> {
        let &Self { checkpoint, plan, options, pool, state, records } = self;
        let mut groups = Vec::new();
        for (layer, record) in records.iter().enumerate() {
            for &group in record.groups.keys() {
                groups.push(Checkpoint::open(&state.group_file(layer, group))?);
            }
        }
        let modules: Vec<_> = records.iter().flat_map(|r| r.modules.iter().cloned()).collect();
        let view = View::stored(checkpoint)?;
        let packings = match options.packing {
            CodeFormat::Gptq(_) => Vec::new(),
            CodeFormat::CompressedTensors | CodeFormat::Awq => {
                groups.iter().map(packing).collect::<Result<Vec<_>, _>>()?
            }
        };
        let (tensors, own);
        let (config, files) = match options.packing {
            CodeFormat::Gptq(_) => {
                tensors = in_order(&view, packed(&groups));
                (config, vec![("quantize_config.json".to_owned(), config::to_bytes(config))])
            }
            CodeFormat::CompressedTensors | CodeFormat::Awq => {
                let layers =
                    || packings.iter().zip(&groups).flat_map(|(p, g)| p.layers().iter().map(move |l| (g, l)));
                tensors = in_order(&view, repacked(layers(), options.packing)?);
                let layers: Vec<_> = layers().filter_map(|(group, layer)| layer.affine(group)).collect();
                own = label(&layers, &tensors, &view, options.packing);
                (&own, Vec::new())
            }
        };
        let log = ("quant_log.csv".to_owned(), csv(&modules).into_bytes());
        let directory_options = DirectoryOptions {
            tensors: tensors.iter().map(|tensor| tensor.plan(&view)).collect(),
            config: text_model_config(checkpoint.directory(), Some(config))?,
            extra_files: files.into_iter().chain([log]).collect(),
            force: options.calibration.force,
            inputs: options.calibration.inputs.clone(),
            shard_bytes: options.shard_bytes,
            ..DirectoryOptions::default()
        };
        let mut directory = Directory::create(output, checkpoint, directory_options)?;
        for tensor in &tensors {
            let (from, data) = match *tensor {
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
                OutputTensor::Repacked(group, layer, part, ref plan) => {
                    directory.write(&made(group, layer, part, plan, options.packing, pool)?)?;
                    continue;
                }
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

/// The packed modules of a file of the unfinished run.
fn packing(group: &Checkpoint) -> Result<Packing, Error> {
    let found = Packing::read(group)?;
    let missing = || FileError::malformed(group.path(), "a file of the unfinished run is no GPTQ file");
    Ok(found.ok_or_else(missing)?)
}

/// The tensors of packed modules, by module.
type Modules<'a> = BTreeMap<String, Vec<OutputTensor<'a>>>;

/// As the files of the unfinished run have them.
fn packed(groups: &[Checkpoint]) -> Modules<'_> {
    let mut packed = Modules::new();
    for group in groups {
        for (index, info) in group.tensors().iter().enumerate() {
            let module = info.name.rsplit_once('.').map_or("", |(module, _)| module);
            packed.entry(module.to_owned()).or_default().push(OutputTensor::Packed(group, index));
        }
    }
    packed
}

/// In the tensors of another format.
fn repacked<'a>(
    layers: impl Iterator<Item = (&'a Checkpoint, &'a PackedLayer)>,
    format: CodeFormat,
) -> Result<Modules<'a>, Error> {
    let mut modules = Modules::new();
    for (group, layer) in layers {
        let plans = layer.repacked(group, format).map_err(|why| inexact(group, &why))?.plan();
        let tensors = plans.into_iter().enumerate();
        let tensors = tensors.map(|(part, plan)| OutputTensor::Repacked(group, layer, part, plan));
        modules.insert(module(&layer.name).to_owned(), tensors.collect());
    }
    Ok(modules)
}

fn inexact(group: &Checkpoint, why: &Inexact) -> FileError {
    FileError::unsupported(group.path(), why.to_string())
}

/// The bytes of a tensor that is packed anew.
fn made(
    group: &Checkpoint,
    layer: &PackedLayer,
    part: usize,
    plan: &TensorPlan,
    format: CodeFormat,
    pool: &Pool,
) -> Result<Vec<u8>, Error> {
    let tensors = layer.repacked(group, format).map_err(|why| inexact(group, &why))?;
    let mut out = vec![0; plan.bytes().unwrap_or_default()];
    let height = plan.shape.first().copied().unwrap_or(1);
    let row_bytes = out.len() / height.max(1);
    let Some(step) = format.step(layer.bits(), part) else {
        tensors.write(part, 0..height, &mut out);
        return Ok(out);
    };
    let step = (PART_BYTES / row_bytes.max(1) / step).max(1) * step;
    share(pool, out.chunks_mut((step * row_bytes).max(1)).enumerate(), |(number, out)| {
        let first = number * step;
        tensors.write(part, first..height.min(first + step), out);
    });
    Ok(out)
}

/// The quantization configuration of a packing other than GPTQ's.
fn label(
    layers: &[AffineLayer<'_>],
    tensors: &[OutputTensor<'_>],
    view: &View<'_>,
    format: CodeFormat,
) -> Value {
    let plain = tensors.iter().filter_map(|tensor| match tensor {
        OutputTensor::Source(number) => Some(&view.tensors()[*number]),
        OutputTensor::Packed(..) | OutputTensor::Repacked(..) => None,
    });
    let plain = plain_modules(plain);
    let weights = compressed_weights(layers);
    match format {
        CodeFormat::Awq => {
            let group_size = weights.first().and_then(|weights| weights.group_size());
            awq_config(group_size, &plain)
        }
        CodeFormat::Gptq(_) | CodeFormat::CompressedTensors => {
            let modules = layers.iter().map(|layer| module(&layer.layer().name)).zip(weights);
            compressed_tensors_config(modules, plain)
        }
    }
}

/// The module whose weight has this name.
fn module(name: &str) -> &str {
    name.strip_suffix(".weight").unwrap_or(name)
}

/// In the source's order and by the architecture's names, packed modules in place of their weights.
fn in_order<'a>(view: &View<'_>, mut packed: Modules<'a>) -> Vec<OutputTensor<'a>> {
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
            Self::Repacked(_, _, _, ref plan) => plan.clone(),
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
