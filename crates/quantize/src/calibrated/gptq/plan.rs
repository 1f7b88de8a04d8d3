//! What a job will do, known before any work is done: shapes are checked for all modules up front.

use quern_model::contents::already_quantized;
use quern_run::{LinearInfo, Model};
use quern_tensor_io::scheme::CodeFormat;
use quern_tensor_io::{Container, Error as FileError, Remedy};

use super::readers::{ReaderNote, reader_notes};
use super::rules::Verdict;
use super::{Error, Options};
use crate::calibrated::Place;
use crate::calibrated::needs::{Largest, memory, unfinished};
use crate::calibrated::place::{place, ram};
use crate::gptq::{Order, Settings, SolveError, check_shape};
use crate::linears::chooses_positions;

/// What becomes of one module.
#[derive(Clone, Debug)]
pub struct GptqModule {
    /// Name of its weight in the checkpoint.
    pub weight: String,
    /// Its name: that of the weight without `.weight`.
    pub name: String,
    /// Its block.
    pub layer: usize,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub columns: usize,
    /// How it is quantized; `None` if a rule leaves it as it is.
    pub settings: Option<Settings>,
}

/// All modules, in the order they are worked on.
#[derive(Clone, Debug)]
pub struct GptqPlan {
    /// The modules.
    pub modules: Vec<GptqModule>,
    /// Number of blocks.
    pub layers: usize,
    /// Where it is computed.
    pub place: Place,
    /// About how much memory the job takes beside the mapped model (`needs`).
    pub memory_bytes: u64,
    /// Bytes of the output's tensors.
    pub output_bytes: u64,
    /// Bytes on the disk before the unfinished run is removed: its packed modules and residual streams, and the output.
    pub disk_bytes: u64,
    /// Weights of the model.
    pub parameters: u64,
    /// Readers that refuse the result, or read something else from it.
    pub readers: Vec<ReaderNote>,
}

/// Plans a job.
///
/// # Errors
/// A model that is a GGUF file or quantized already; a module whose shape does not fit its bits and group size;
/// rules that leave nothing to do.
pub fn plan(model: &Model, options: &Options) -> Result<GptqPlan, Error> {
    let checkpoint = model.checkpoint();
    if checkpoint.container() == Container::Gguf {
        let what = "a GGUF file, but GPTQ works on Hugging Face checkpoints";
        return Err(FileError::unsupported(checkpoint.path(), what)
            .with_remedy(Remedy::ConvertToSafetensors)
            .into());
    }
    let config = model.config();
    if let Some(method) = &config.quantization {
        return Err(already_quantized(checkpoint.path(), method).into());
    }
    let mut modules = Vec::new();
    let mut replaced = 0;
    for layer in 0..config.layers {
        for linear in model.linears(layer) {
            let name = linear.name.strip_suffix(".weight").unwrap_or(linear.name).to_owned();
            let (rows, columns) = (linear.rows, linear.columns);
            let settings = match options.rules.of(&name, &options.settings) {
                // What chooses positions is left as it is, as routers are.
                _ if chooses_positions(linear.role) => None,
                Verdict::Skip => None,
                Verdict::Quantize(settings) => {
                    check_shape(rows, columns, &settings)
                        .and_then(|()| check_packing(columns, &settings, options))
                        .map_err(|why| Error::Module { module: name.clone(), why })?;
                    Some(settings)
                }
            };
            if settings.is_some() {
                replaced += stored_bytes(model, &linear);
            }
            let weight = linear.name.to_owned();
            modules.push(GptqModule { weight, name, layer, rows, columns, settings });
        }
    }
    if modules.iter().all(|m| m.settings.is_none()) {
        return Err(Error::Nothing);
    }
    let packed = modules.iter().map(|module| packed_bytes(module, options.packing)).sum::<u64>();
    let output = output_bytes(model, replaced, packed);
    let largest = largest(&modules);
    let place = place(model, &options.calibration, largest);
    let readers = reader_notes(&modules, options);
    Ok(GptqPlan {
        layers: config.layers,
        memory_bytes: match &place {
            Place::Cpu { .. } => memory(model, &options.calibration, largest),
            Place::Gpus { .. } => ram(model, &options.calibration, largest, &place),
        },
        place,
        output_bytes: output,
        disk_bytes: unfinished(model, &options.calibration, packed, 1) + output,
        parameters: model.parameters(),
        readers,
        modules,
    })
}

/// Whether modules with these settings can be written as asked.
fn check_packing(columns: usize, settings: &Settings, options: &Options) -> Result<(), SolveError> {
    let refused = |what: String| Err(SolveError::Settings(what));
    let name = options.packing.name();
    match options.packing {
        CodeFormat::Gptq(_) => return Ok(()),
        CodeFormat::CompressedTensors => {}
        CodeFormat::Awq if settings.bits != 4 => {
            return refused(format!(
                "{} bits, and {name} has 4: choose 4 bits, or the packing gptq",
                settings.bits
            ));
        }
        CodeFormat::Awq if settings.group_size != options.settings.group_size => {
            return refused(format!("{name} has one group size for all modules: give it that of the others"));
        }
        CodeFormat::Awq => {}
    }
    if settings.order == Order::Activation {
        let what = "groups in the order of activations (desc_act), which its readers do not take: leave it out, or \
                    choose the packing gptq";
        return refused(format!("{name} with {what}"));
    }
    match settings.group_size {
        Some(size) if !columns.is_multiple_of(size) => refused(format!(
            "its {columns} columns are not whole groups of {size}, which {name} expects: choose a group size that \
             divides them, or the packing gptq"
        )),
        Some(_) | None => Ok(()),
    }
}

/// Bytes of the tensors of a module; none if it stays as it is.
fn packed_bytes(module: &GptqModule, packing: CodeFormat) -> u64 {
    let Some(Settings { bits, group_size, symmetric, .. }) = &module.settings else { return 0 };
    let (rows, columns, bits) = (module.rows as u64, module.columns as u64, u64::from(*bits));
    let groups = group_size.map_or(1, |size| columns.div_ceil(size.max(1) as u64));
    let (codes, zeros, scales) = (rows * columns * bits / 8, groups * rows * bits / 8, 2 * groups * rows);
    match packing {
        CodeFormat::Gptq(_) => codes + zeros + scales + 4 * columns,
        CodeFormat::CompressedTensors => codes + scales + 16 + if *symmetric { 0 } else { zeros },
        CodeFormat::Awq => codes + zeros + scales,
    }
}

/// Bytes of a module's weight in the checkpoint: a tensor of its own, or its part of one of all experts.
fn stored_bytes(model: &Model, linear: &LinearInfo<'_>) -> u64 {
    if let Some(tensor) = model.checkpoint().tensor(linear.name) {
        return tensor.info.bytes as u64;
    }
    let row = linear.matrix().ok().and_then(|matrix| matrix.element_type().row_bytes(linear.columns));
    row.map_or(0, |bytes| (bytes * linear.rows) as u64)
}

/// Bytes of the output's tensors: those of the source, less so many, and the packed modules.
fn output_bytes(model: &Model, replaced: u64, packed: u64) -> u64 {
    let checkpoint = model.checkpoint();
    let all = checkpoint.tensors().iter().map(|t| t.bytes as u64).sum::<u64>();
    all.saturating_sub(replaced) + packed
}

fn largest(modules: &[GptqModule]) -> Largest {
    let most = |size: fn(&GptqModule) -> usize| modules.iter().map(size).max().unwrap_or(0);
    Largest { columns: most(|m| m.columns), weights: most(|m| m.rows * m.columns), hessians: 2, streams: 1 }
}

impl GptqPlan {
    /// Bits per weight over all tensors of the output.
    pub fn bits_per_weight(&self) -> f64 {
        self.output_bytes as f64 * 8.0 / self.parameters.max(1) as f64
    }

    /// Whether any module has zero points that only `gptq_v2` can hold.
    pub fn needs_v2(&self) -> bool {
        self.modules.iter().filter_map(|m| m.settings.as_ref()).any(|s| !s.symmetric)
    }
}
