//! A model run block by block over many sequences, so that its weights can be changed on the way: how
//! calibrated quantization (GPTQ) walks through a model.
//!
//! In each block, for each group of linear layers that share an input, in the order of the computation:
//!
//! ```text
//! every batch of inputs  ->  Stages::input      collects what it needs (Hessians)
//! all were seen          ->  Stages::replace    gives the weights to go on with
//! the layers run, once, with the new weights; what follows sees their outputs
//! ```
//!
//! so each linear layer runs once in all. Memory: the residual stream of all tokens, and the inputs of the
//! layers whose turn comes next (`[tokens][heads * head_dim]` or `[tokens][ffn]`), in f32.

use std::error::Error as StdError;

use quern_compute::Matrix;
use quern_model::TensorRole;
use quern_tensor_io::ElementType;

use crate::cache::Cache;
use crate::forward::{AttentionBuffers, LinearScratch, Phases, Place, embed};
use crate::weights::{Block, Linear, Weight};
use crate::{Error, KvType, Model, Result};

/// One linear layer, as it is in the model.
#[derive(Clone, Copy, Debug)]
pub struct LinearInfo<'a> {
    /// Name of its weight in the checkpoint.
    pub name: &'a str,
    /// What it is for.
    pub role: TensorRole,
    /// The block.
    pub layer: usize,
    /// The weight, `[outputs][inputs]`.
    pub matrix: Matrix<'a>,
}

/// A weight to go on with.
#[derive(Clone, Debug)]
pub struct Replacement {
    /// How its numbers are stored.
    pub element_type: ElementType,
    /// Rows of that type, as many and as long as those of the layer.
    pub data: Vec<u8>,
    /// Column `j` of the data is column `permutation[j]` of the layer; `None` for the layer's own order.
    pub permutation: Option<Vec<u32>>,
}

/// What is done at the joints of a block.
pub trait Stages {
    /// Some of the inputs of a group of layers that share them: whole vectors, `values` is
    /// `[tokens][columns]`. Batches come in the order of the sequences.
    ///
    /// # Errors
    /// Any; the run stops with it.
    fn input(
        &mut self,
        layers: &[LinearInfo<'_>],
        values: &[f32],
    ) -> Result<(), Box<dyn StdError + Send + Sync>>;

    /// All inputs of the group were seen. Returns one replacement for each layer, or `None` to keep it.
    ///
    /// # Errors
    /// Any; the run stops with it.
    fn replace(
        &mut self,
        layers: &[LinearInfo<'_>],
    ) -> Result<Vec<Option<Replacement>>, Box<dyn StdError + Send + Sync>>;
}

/// Why a block could not be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayerwiseError {
    /// The forward pass failed.
    #[error(transparent)]
    Run(#[from] Error),
    /// [`Stages`] stopped it.
    #[error(transparent)]
    Stages(Box<dyn StdError + Send + Sync>),
}

impl From<quern_compute::Error> for LayerwiseError {
    fn from(error: quern_compute::Error) -> Self {
        Self::Run(error.into())
    }
}

/// Many sequences on their way through a model.
#[derive(Debug)]
pub struct Layerwise<'m> {
    model: &'m Model,
    /// Lengths of the sequences.
    lengths: Vec<usize>,
    /// The residual stream, `[all tokens][hidden]`.
    hidden: Vec<f32>,
    /// Inputs of the layers whose turn is next, `[all tokens][width]`.
    inputs: Vec<f32>,
    cache: Cache,
    cos: Vec<f32>,
    sin: Vec<f32>,
    linears: LinearScratch,
    batch: Buffers,
}

/// Memory for one sequence.
#[derive(Debug, Default)]
struct Buffers {
    normed: Vec<f32>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    projected: Vec<f32>,
    up: Vec<f32>,
}

impl<'m> Layerwise<'m> {
    /// Looks up the embeddings of `sequences`, each a text of its own that begins at position 0.
    ///
    /// # Errors
    /// No sequence, an empty one or one beyond what the model was trained for, a token outside the vocabulary.
    pub fn new(model: &'m Model, sequences: &[Vec<u32>]) -> Result<Self> {
        let lengths: Vec<usize> = sequences.iter().map(Vec::len).collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        model.check_context(longest)?;
        if lengths.contains(&0) {
            return Err(Error::Option("an empty sequence cannot be run".into()));
        }
        let vocabulary = model.vocabulary();
        if let Some(&token) = sequences.iter().flatten().find(|&&t| t as usize >= vocabulary) {
            return Err(Error::Token { token, vocabulary });
        }
        let config = &model.config;
        let total: usize = lengths.iter().sum();
        let mut hidden = vec![0f32; total * config.hidden_size];
        let mut rest = hidden.as_mut_slice();
        for sequence in sequences {
            let (own, behind) = rest.split_at_mut(sequence.len() * config.hidden_size);
            embed(model, sequence, own)?;
            rest = behind;
        }
        let (query, key) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let buffer = |width: usize| vec![0f32; longest * width];
        let batch = Buffers {
            normed: buffer(config.hidden_size),
            q: buffer(query),
            k: buffer(key),
            v: buffer(key),
            projected: buffer(config.hidden_size),
            up: buffer(config.ffn_size),
        };
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        model.angles.fill(0, longest, &mut cos, &mut sin);
        Ok(Self {
            model,
            lengths,
            hidden,
            inputs: vec![0f32; total * query.max(config.ffn_size)],
            cache: Cache::of_layers(config, 1, longest, KvType::F32)?,
            cos,
            sin,
            linears: LinearScratch::default(),
            batch,
        })
    }

    /// Number of blocks.
    pub fn layers(&self) -> usize {
        self.model.config.layers
    }

    /// All tokens.
    pub fn tokens(&self) -> usize {
        self.lengths.iter().sum()
    }

    /// The residual stream, `[tokens][hidden]`: what the next block receives.
    pub fn hidden(&self) -> &[f32] {
        &self.hidden
    }

    /// Sets the residual stream to what [`Layerwise::hidden`] once returned: goes on where another run was.
    ///
    /// # Panics
    /// If it has another length.
    pub fn set_hidden(&mut self, hidden: &[f32]) {
        self.hidden.copy_from_slice(hidden);
    }

    /// Runs block `layer` over all sequences, stopping at its joints.
    ///
    /// # Errors
    /// Those of the forward pass and of `stages`. The residual stream is then of no use any more.
    ///
    /// # Panics
    /// If there is no such block.
    pub fn block(&mut self, layer: usize, stages: &mut dyn Stages) -> Result<(), LayerwiseError> {
        let model = self.model;
        let config = &model.config;
        let (width, ffn) = (config.hidden_size, config.ffn_size);
        let query = config.heads * config.head_dim;
        let original = &model.weights.blocks[layer];
        let mut block = original.clone();
        let Self { lengths, hidden, inputs, cache, cos, sin, linears, batch, .. } = self;
        let pairs = model.angles.pairs();

        // Inputs of Q, K and V.
        let phases = Phases { model, block: original, observer: None };
        for (start, n) in sequences(lengths) {
            let normed = &mut batch.normed[..n * width];
            phases.attention_input(&hidden[start * width..][..n * width], normed);
            offer(model, layer, stages, &[&original.q, &original.k, &original.v], normed)?;
        }
        let Block { q, k, v, .. } = &mut block;
        replace(model, layer, stages, &mut [q, k, v])?;

        // Attention, and the inputs of the output projection.
        for (start, n) in sequences(lengths) {
            let mut phases = Phases { model, block: &block, observer: None };
            let place = Place { cache, layer: 0, first: 0, angles: (&cos[..n * pairs], &sin[..n * pairs]) };
            let buffers = AttentionBuffers {
                normed: &mut batch.normed[..n * width],
                q: &mut batch.q,
                k: &mut batch.k,
                v: &mut batch.v,
            };
            let attended = &mut inputs[start * query..][..n * query];
            phases.attend(linears, &hidden[start * width..][..n * width], 0, place, buffers, attended)?;
            offer(model, layer, stages, &[&original.attention_output], attended)?;
        }
        replace(model, layer, stages, &mut [&mut block.attention_output])?;

        // The output projection, and the inputs of gate and up.
        for (start, n) in sequences(lengths) {
            let mut phases = Phases { model, block: &block, observer: None };
            let x = &mut hidden[start * width..][..n * width];
            let (projected, normed) = (&mut batch.projected[..n * width], &mut batch.normed[..n * width]);
            phases.project(linears, &inputs[start * query..][..n * query], projected, x, normed)?;
            offer(model, layer, stages, &[&original.gate, &original.up], normed)?;
        }
        let Block { gate, up, .. } = &mut block;
        replace(model, layer, stages, &mut [gate, up])?;

        // Gate and up, and the inputs of down.
        for (start, n) in sequences(lengths) {
            let mut phases = Phases { model, block: &block, observer: None };
            let normed = &mut batch.normed[..n * width];
            phases.ffn_input(&hidden[start * width..][..n * width], normed);
            let wide = &mut inputs[start * ffn..][..n * ffn];
            phases.widen(linears, normed, &mut batch.up[..n * ffn], wide)?;
            offer(model, layer, stages, &[&original.down], wide)?;
        }
        replace(model, layer, stages, &mut [&mut block.down])?;

        for (start, n) in sequences(lengths) {
            let mut phases = Phases { model, block: &block, observer: None };
            let x = &mut hidden[start * width..][..n * width];
            let wide = &inputs[start * ffn..][..n * ffn];
            phases.narrow(linears, wide, &mut batch.projected[..n * width], x)?;
        }
        Ok(())
    }
}

impl Model {
    /// Names, roles and weights of a block's linear layers, in the order of the computation.
    ///
    /// # Errors
    /// As the forward pass.
    ///
    /// # Panics
    /// If there is no such block.
    pub fn linears(&self, layer: usize) -> Result<Vec<LinearInfo<'_>>> {
        let block = &self.weights.blocks[layer];
        block.linears().into_iter().map(|l| info(self, layer, l)).collect()
    }
}

/// First token and length of every sequence.
fn sequences(lengths: &[usize]) -> impl Iterator<Item = (usize, usize)> + '_ {
    lengths.iter().scan(0, |start, &n| {
        let own = (*start, n);
        *start += n;
        Some(own)
    })
}

fn info<'a>(model: &'a Model, layer: usize, linear: &'a Linear) -> Result<LinearInfo<'a>> {
    let matrix = linear.weight.matrix(&model.checkpoint)?;
    Ok(LinearInfo { name: &linear.name, role: linear.role, layer, matrix })
}

fn offer(
    model: &Model,
    layer: usize,
    stages: &mut dyn Stages,
    linears: &[&Linear],
    values: &[f32],
) -> Result<(), LayerwiseError> {
    let infos = linears.iter().map(|l| info(model, layer, l)).collect::<Result<Vec<_>>>()?;
    stages.input(&infos, values).map_err(LayerwiseError::Stages)
}

fn replace(
    model: &Model,
    layer: usize,
    stages: &mut dyn Stages,
    linears: &mut [&mut Linear],
) -> Result<(), LayerwiseError> {
    let infos = linears.iter().map(|l| info(model, layer, l)).collect::<Result<Vec<_>>>()?;
    let replacements = stages.replace(&infos).map_err(LayerwiseError::Stages)?;
    for (linear, replacement) in linears.iter_mut().zip(replacements) {
        if let Some(Replacement { element_type, data, permutation }) = replacement {
            let (rows, columns) = (linear.weight.rows, linear.weight.columns);
            linear.weight = Weight::owned(element_type, rows, columns, data);
            linear.permutation = permutation.map(Into::into);
            // Refuses data of another shape here, by name, and not in the middle of the pass.
            linear.weight.matrix(&model.checkpoint)?;
        }
    }
    Ok(())
}
