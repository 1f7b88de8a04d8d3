//! What a job will do, known before any work is done: the plain job's plan, and which layers of the running model its
//! tensors are.

use std::collections::HashMap;

use quern_model::View;
use quern_run::{LinearInfo, Model};
use quern_tensor_io::Container;

use super::{Error, Options, embedding};
use crate::calibrated::needs::{Largest, memory, unfinished};
use crate::calibrated::place::{place, ram};
use crate::calibrated::{Calibration, Place};
use crate::gptq::blocks::has_feedback;
use crate::job::{self, QuantizePlan, QuantizeRow, Warning, matrices};
use crate::linears::chooses_positions;

/// Weights that are solved at once: layers with more are worked on in pieces of rows.
const PIECE: usize = 64 << 20;

/// A linear layer of the running model, as a tensor of the file or one matrix of a stack.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    /// Row of the plain job's plan.
    pub row: usize,
    /// Which matrix of the tensor.
    pub matrix: usize,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub columns: usize,
    /// The name under which its blocks are kept.
    pub key: String,
}

impl Layer {
    /// Rows that are solved at once.
    pub fn step(&self) -> usize {
        // A multiple of what encoders take together.
        (PIECE / self.columns.max(1)).next_multiple_of(16).min(self.rows.max(1))
    }
}

/// A job, ready to run.
#[derive(Debug)]
pub struct GgufPlan<'a> {
    pub(super) quantize: QuantizePlan<'a>,
    pub(super) calibration: Calibration,
    pub(super) damp: f64,
    /// In the order they are worked on.
    pub(super) layers: Vec<Layer>,
    /// The token embedding, if it is rounded for what its errors cost.
    pub(super) embedding: Option<Layer>,
    /// The GPU that computes its gradients; otherwise the CPU.
    pub(super) embedding_on: Option<embedding::OnGpu>,
    /// By name in the running model and expert: one for each tensor of the file that has rows of the layer.
    by_name: HashMap<(String, Option<usize>), Vec<usize>>,
    /// Blocks of the model, and one more if something behind them is calibrated.
    pub(super) blocks: usize,
    place: Place,
    memory_bytes: u64,
    disk_bytes: u64,
}

/// Plans a job: chooses types, sizes and metadata as [`job::plan`] does, and finds the tensors that are linear layers.
/// `view` is the model's checkpoint as GGUF has it.
///
/// # Errors
/// Those of [`job::plan`], and what [`job::run`] would refuse; an importance matrix; no linear layer that gets a block
/// type, unless those are all on a grid that it holds.
pub fn plan<'a>(model: &Model, view: &'a View<'a>, options: Options) -> Result<GgufPlan<'a>, Error> {
    let Options { quantize, calibration, damp } = options;
    if quantize.imatrix.is_some() {
        return Err(Error::HasImatrix);
    }
    let tokens = [("calibration_tokens", calibration.samples.tokens as f64)];
    let quantize = job::Options {
        calibrated: true,
        provenance: quantize.provenance.map(|provenance| provenance.with_figures(tokens)),
        force: calibration.force,
        inputs: calibration.inputs.clone(),
        ..quantize
    };
    let quantize = job::plan(view, quantize)?;
    quantize.check()?;
    let rows: HashMap<&str, usize> =
        quantize.rows().iter().enumerate().map(|(i, r)| (r.name.as_str(), i)).collect();
    let mut linears = Vec::new();
    for layer in 0..model.config().layers {
        linears.extend(model.linears(layer));
    }
    linears.extend(model.head_linears());
    let mut layers = Vec::new();
    let mut by_name: HashMap<_, Vec<usize>> = HashMap::new();
    let (mut largest, mut quantized, mut head, mut exact) = (Largest::default(), 0, false, false);
    let rounded = |linear: &LinearInfo<'_>| is_of_heads(model, linear) || chooses_positions(linear.role);
    for linear in linears.iter().filter(|linear| !rounded(linear)) {
        let names = gguf_names(model, linear);
        if names.is_empty() {
            return Err(without_tensor(linear));
        }
        for name in &names {
            let index = *rows.get(name.as_str()).ok_or_else(|| without_tensor(linear))?;
            let row = &quantize.rows()[index];
            exact |= is_made(row) && quantize.grid(row).is_some();
            // A tied head is the embedding, which is not among the layers.
            if !is_made(row) || quantize.grid(row).is_some() || is_tied(linear) {
                continue;
            }
            head |= linear.layer.is_none();
            let (matrix, columns) = (linear.expert.unwrap_or(0), linear.columns);
            let key = match matrices(&row.shape) {
                1 => row.name.clone(),
                _ => format!("{}.{matrix}", row.name),
            };
            // Of several tensors each has some of the rows.
            let height = match names.len() {
                1 => linear.rows,
                _ => row.shape.first().copied().unwrap_or(linear.rows),
            };
            let layer = Layer { row: index, matrix, rows: height, columns, key };
            largest.columns = largest.columns.max(columns);
            largest.weights = largest.weights.max(layer.step() * columns);
            quantized += row.bytes / matrices(&row.shape).max(1) as u64;
            by_name.entry((linear.name.to_owned(), linear.expert)).or_default().push(layers.len());
            layers.push(layer);
        }
    }
    if layers.is_empty() && !exact {
        return Err(Error::NoBlocks);
    }
    let wanted = |row: &QuantizeRow| is_made(row) && quantize.grid(row).is_none();
    let embedding = embedding::layer(model, quantize.rows(), wanted);
    // Values on a grid need no run of the model, unless its inputs are to be measured.
    let blocks = match layers.is_empty() && calibration.imatrix.is_none() {
        true => 0,
        false => model.config().layers + usize::from(head),
    };
    // Queries, keys and values may have two types: two factors, and a copy of the Hessian while the first is made. The
    // products with the unquantized model's inputs, and those with the drift, which has fewer rows.
    largest.hessians = 5;
    largest.streams = 2;
    let mut place = place(model, &calibration, largest);
    let mut memory_bytes = match &place {
        Place::Cpu { .. } => memory(model, &calibration, largest),
        Place::Gpus { .. } => ram(model, &calibration, largest, &place),
    };
    let mut embedding_on = None;
    if let Some(layer) = &embedding {
        quantized += quantize.rows()[layer.row].bytes;
        let (columns, weights) = (layer.columns as u64, (layer.step() * layer.columns) as u64);
        let sample = embedding::Sample::of(&calibration, layer.columns);
        if let (Place::Gpus { bytes, .. }, Some(gpu)) = (&mut place, calibration.gpus.first()) {
            embedding_on = embedding::OnGpu::of(model, &sample, gpu);
            *bytes = (*bytes).max(embedding_on.as_ref().map_or(0, |on| on.bytes));
        }
        let gradients = embedding_on.as_ref().map_or_else(|| embedding::memory(model, &sample), |on| on.ram);
        // One after the other: gradients, then the factor of their sum with the weights.
        memory_bytes =
            memory_bytes.max(4 * columns * columns + gradients.max(8 * columns * columns + 8 * weights));
    }
    Ok(GgufPlan {
        place,
        memory_bytes,
        disk_bytes: unfinished(model, &calibration, quantized, 2) + quantize.file_size(),
        blocks,
        quantize,
        calibration,
        damp,
        layers,
        embedding,
        embedding_on,
        by_name,
    })
}

/// The names of the tensors in the file that have a layer's rows.
fn gguf_names(model: &Model, linear: &LinearInfo<'_>) -> Vec<String> {
    match model.checkpoint().container() {
        Container::Gguf => vec![linear.name.to_owned()],
        Container::Safetensors | Container::PyTorch => model.config().gguf_names(linear.role, linear.layer),
    }
}

fn without_tensor(linear: &LinearInfo<'_>) -> Error {
    Error::Stage(format!("{}: the GGUF file has no tensor for this layer", linear.name).into())
}

/// Whether the tensor is made of its values, and not copied or written as plain numbers.
fn is_made(row: &QuantizeRow) -> bool {
    row.from != row.to && row.to.is_block()
}

/// Whether the layer makes keys and values of latent attention: GGUF has the matrices of each head, transposed in part,
/// which are rounded to their types without a run of the model.
fn is_of_heads(model: &Model, linear: &LinearInfo<'_>) -> bool {
    use quern_model::TensorRole as R;
    let joined = model.config().latent.is_some_and(|latent| latent.joined_in_gguf);
    !joined && [R::AttentionKvUp, R::AttentionKUp, R::AttentionVUp].contains(&linear.role)
}

/// Whether the layer is a head that is the token embedding.
fn is_tied(linear: &LinearInfo<'_>) -> bool {
    linear.layer.is_none() && linear.role == quern_model::TensorRole::TokenEmbedding
}

impl GgufPlan<'_> {
    /// One row a tensor, in the order they are written.
    pub fn rows(&self) -> &[QuantizeRow] {
        self.quantize.rows()
    }

    /// The plan of the tensors, their types and sizes.
    pub fn tensors(&self) -> &QuantizePlan<'_> {
        &self.quantize
    }

    /// What the user should know.
    pub fn warnings(&self) -> &[Warning] {
        self.quantize.warnings()
    }

    /// What the model is run on.
    pub fn calibration(&self) -> &Calibration {
        &self.calibration
    }

    /// Number of layers that are calibrated, each expert by itself.
    pub fn layers(&self) -> usize {
        self.layers.len()
    }

    /// Whether the token embedding is rounded for what its errors cost.
    pub fn calibrates_embedding(&self) -> bool {
        self.embedding.is_some()
    }

    /// Number of those that are rounded with error feedback.
    pub fn with_feedback(&self) -> usize {
        self.layers.iter().filter(|layer| has_feedback(self.rows()[layer.row].to)).count()
    }

    /// Where it is computed.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// About how much memory the job takes beside the mapped model.
    pub fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// Bytes on the disk before the unfinished run is removed: its blocks and residual streams, and the output.
    pub fn disk_bytes(&self) -> u64 {
        self.disk_bytes
    }

    /// The layers of the plan that a layer of the running model is, those that are calibrated: more than one where the file
    /// has its rows in several tensors.
    pub(super) fn layers_of(&self, linear: &LinearInfo<'_>) -> impl Iterator<Item = &Layer> {
        // Names are few and short: a lookup is nothing beside the layer's work.
        let found = self.by_name.get(&(linear.name.to_owned(), linear.expert));
        found.into_iter().flatten().filter_map(|&index| self.layers.get(index))
    }
}
