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
//! layers whose turn comes next (`[tokens][heads * head_dim]` or `[tokens][ffn]`) and of the network, in f32.

use std::error::Error as StdError;

use quern_compute::{Matrix, ops};
use quern_model::TensorRole;
use quern_tensor_io::ElementType;

use crate::cache::Cache;
use crate::forward::{
    AttentionBuffers, LinearScratch, Phases, Place, activation, apply, choose, embed, gather, scatter, wide,
};
use crate::rope::Turns;
use crate::weights::{Block, Experts, Ffn, Linear, Weight};
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
    turns: Turns,
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
    qkv: Vec<f32>,
    projected: Vec<f32>,
    up: Vec<f32>,
    /// Inputs of the network, of all sequences.
    network: Vec<f32>,
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
        let mut linears = LinearScratch::default();
        let mut rest = hidden.as_mut_slice();
        for sequence in sequences {
            let (own, behind) = rest.split_at_mut(sequence.len() * config.hidden_size);
            embed(model, &mut linears, sequence, 0, own)?;
            rest = behind;
        }
        let (query, key) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let buffer = |width: usize| vec![0f32; longest * width];
        let batch = Buffers {
            normed: buffer(config.hidden_size),
            q: buffer(query),
            k: buffer(key),
            v: buffer(key),
            qkv: buffer(if model.fused_qkv() { query + 2 * key } else { 0 }),
            projected: buffer(config.hidden_size),
            up: buffer(2 * wide(config)),
            network: vec![0f32; total * config.hidden_size],
        };
        let mut turns = Turns::default();
        model.rotation.fill(0, longest, &mut turns);
        Ok(Self {
            model,
            lengths,
            hidden,
            inputs: vec![0f32; total * query.max(wide(config)).max(config.hidden_size)],
            cache: Cache::of_layers(config, 1, longest, KvType::F32)?,
            turns,
            linears,
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
        let width = config.hidden_size;
        let query = config.heads * config.head_dim;
        let original = &model.weights.blocks[layer];
        model.placement.enter(layer, self.tokens());
        let mut block = original.clone();
        let Self { lengths, hidden, inputs, cache, turns, linears, batch, .. } = self;
        let (cos, sin) = turns.of(config.window(layer).is_some());
        let pairs = model.rotation.pairs();

        // Inputs of Q, K and V.
        let phases = Phases { model, block: original, observer: None };
        for (start, n) in sequences(lengths) {
            let normed = &mut batch.normed[..n * width];
            phases.attention_input(&hidden[start * width..][..n * width], normed);
            offer(model, layer, stages, &original.qkv.linears(), normed)?;
        }
        replace(model, layer, stages, &mut block.qkv.linears_mut())?;

        // Attention, and the inputs of the output projection.
        for (start, n) in sequences(lengths) {
            let mut phases = Phases { model, block: &block, observer: None };
            let angles = (&cos[..n * pairs], &sin[..n * pairs]);
            let place = Place { cache, slot: 0, layer, first: 0, angles };
            let buffers = AttentionBuffers {
                normed: &mut batch.normed[..n * width],
                q: &mut batch.q,
                k: &mut batch.k,
                v: &mut batch.v,
                qkv: &mut batch.qkv,
            };
            let attended = &mut inputs[start * query..][..n * query];
            phases.attend(linears, &hidden[start * width..][..n * width], 0, place, buffers, attended)?;
            offer(model, layer, stages, &[&original.attention_output], attended)?;
        }
        replace(model, layer, stages, &mut [&mut block.attention_output])?;

        // The output projection, and the inputs of the network, which take the place of its own.
        let mut from = std::mem::take(inputs);
        let mut normed = std::mem::take(&mut batch.network);
        for (start, n) in sequences(lengths) {
            let mut phases = Phases { model, block: &block, observer: None };
            let x = &mut hidden[start * width..][..n * width];
            let normed = &mut normed[start * width..][..n * width];
            let projected = &mut batch.projected[..n * width];
            phases.project(linears, &from[start * query..][..n * query], projected, x, normed)?;
        }
        let done = match &original.ffn {
            Ffn::Dense { .. } => self.dense(layer, &mut block, &normed, &mut from, stages),
            Ffn::Experts(experts) => self.experts(layer, &block, experts, &normed, &mut from, stages),
        };
        (self.inputs, self.batch.network) = (from, normed);
        model.placement.leave(layer);
        done
    }

    /// The network of a block: `normed` is its input, `wide` has room for that of the down projection.
    fn dense(
        &mut self,
        layer: usize,
        block: &mut Block,
        normed: &[f32],
        wide: &mut [f32],
        stages: &mut dyn Stages,
    ) -> Result<(), LayerwiseError> {
        let model = self.model;
        let (width, ffn) = (model.config.hidden_size, model.config.ffn_size);
        let Self { lengths, hidden, linears, batch, .. } = self;
        let Ffn::Dense { widen: original, down: original_down } = &model.weights.blocks[layer].ffn else {
            return Ok(());
        };
        for (start, n) in sequences(lengths) {
            offer(model, layer, stages, &original.linears(), &normed[start * width..][..n * width])?;
        }
        if let Ffn::Dense { widen, .. } = &mut block.ffn {
            replace(model, layer, stages, &mut widen.linears_mut())?;
        }
        for (start, n) in sequences(lengths) {
            let mut phases = Phases { model, block, observer: None };
            let wide = &mut wide[start * ffn..][..n * ffn];
            let normed = &normed[start * width..][..n * width];
            phases.widen(linears, normed, &mut batch.up[..2 * n * ffn], wide)?;
            offer(model, layer, stages, &[original_down], wide)?;
        }
        if let Ffn::Dense { down, .. } = &mut block.ffn {
            replace(model, layer, stages, &mut [down])?;
        }
        for (start, n) in sequences(lengths) {
            let mut phases = Phases { model, block, observer: None };
            let x = &mut hidden[start * width..][..n * width];
            phases.narrow(linears, &wide[start * ffn..][..n * ffn], &mut batch.projected[..n * width], x)?;
        }
        Ok(())
    }

    /// The experts of a block, one after the other, each over the tokens that chose it. An expert that none
    /// chose is offered nothing before it is to be replaced.
    fn experts(
        &mut self,
        layer: usize,
        block: &Block,
        experts: &Experts,
        normed: &[f32],
        made: &mut [f32],
        stages: &mut dyn Stages,
    ) -> Result<(), LayerwiseError> {
        let model = self.model;
        let config = &model.config;
        let Some(mixture) = config.experts else { return Ok(()) };
        let (width, ffn, act) = (config.hidden_size, mixture.ffn_size, activation(config));
        let Self { lengths, hidden, linears, .. } = self;
        let tokens: usize = lengths.iter().sum();
        let mut logits = vec![0.0; tokens * mixture.count];
        apply(model, linears, [&experts.router], normed, [&mut logits])?;
        let made = &mut made[..tokens * width];
        made.fill(0.0);
        let (mut input, mut up, mut out) = (Vec::new(), Vec::new(), Vec::new());
        for (expert, choices) in experts.experts.iter().zip(choose(model.pool.level(), &mixture, &mut logits))
        {
            let mut own = expert.clone();
            gather(normed, width, &choices, &mut input);
            if !choices.is_empty() {
                offer(model, layer, stages, &[&expert.gate, &expert.up], &input)?;
            }
            replace(model, layer, stages, &mut [&mut own.gate, &mut own.up])?;
            let mut gate = vec![0.0; choices.len() * ffn];
            up.resize(gate.len(), 0.0);
            out.resize(input.len(), 0.0);
            if !choices.is_empty() {
                let outputs = [gate.as_mut_slice(), up.as_mut_slice()];
                apply(model, linears, [&own.gate, &own.up], &input, outputs)?;
                ops::activate_mul(model.pool.level(), act, &mut gate, &up);
                offer(model, layer, stages, &[&expert.down], &gate)?;
            }
            replace(model, layer, stages, &mut [&mut own.down])?;
            if !choices.is_empty() {
                apply(model, linears, [&own.down], &gate, [out.as_mut_slice()])?;
                scatter(&out, width, &choices, made);
            }
        }
        let phases = Phases { model, block, observer: None };
        for (start, n) in sequences(lengths) {
            let span = start * width..(start + n) * width;
            phases.finish(&mut made[span.clone()], &mut hidden[span]);
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
