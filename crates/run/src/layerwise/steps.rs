//! The phases of a block for one sequence of one stream, on the CPU.

use std::ops::Range;

use quern_compute::{Executor, Input, KvCache, KvType, Values, ValuesMut};

use crate::forward::{AttentionBuffers, KvTarget, Phases, cache_shape};
use crate::rope::RotaryAngles;
use crate::weights::Block;
use crate::{Model, Result};

use super::stream::{Parts, Stream};

/// What computes, with memory for one sequence.
#[derive(Debug)]
pub(super) struct Steps<'m> {
    model: &'m Model,
    pub(super) executor: Executor,
    cache: KvCache,
    angles: RotaryAngles,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    qkv: Vec<f32>,
    projected: Vec<f32>,
}

impl<'m> Steps<'m> {
    /// For sequences of at most `longest` tokens.
    pub(super) fn new(model: &'m Model, longest: usize) -> Result<Self> {
        let config = &model.config;
        let (query, key) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let buffer = |width: usize| vec![0f32; longest * width];
        let mut angles = RotaryAngles::default();
        model.rotation.fill(&model.pool, 0, longest, &mut angles);
        let cpu = model.cpu();
        Ok(Self {
            model,
            executor: Executor::new(&cpu)?,
            cache: KvCache::new(&cpu, cache_shape(config, 1, longest, KvType::F32))?,
            angles,
            q: buffer(query),
            k: buffer(key),
            v: buffer(key),
            qkv: buffer(if model.fused_qkv() { query + 2 * key } else { 0 }),
            projected: buffer(config.hidden_size),
        })
    }

    fn phases<'p>(&'p mut self, block: &'p Block) -> Phases<'p, 'p> {
        Phases { model: self.model, block, executor: &mut self.executor, observer: None }
    }

    /// The input of Q, K and V, written to `normed`.
    pub(super) fn attention_input(&mut self, block: &Block, x: &[f32], normed: &mut [f32]) -> Result<()> {
        self.phases(block).attention_input(x.into(), ValuesMut::Host(normed))
    }

    /// From the residual stream to the inputs of the output projection.
    pub(super) fn attend(
        &mut self,
        (layer, block): (usize, &Block),
        stream: &mut Stream,
        tokens: &Range<usize>,
    ) -> Result<()> {
        let Self { model, executor, cache, angles, q, k, v, qkv, .. } = self;
        let config = &model.config;
        let [cos, sin, local_cos, local_sin] = angles.tables();
        let windowed = config.window(layer).is_some() && angles.has_local();
        let (cos, sin) = if windowed { (local_cos, local_sin) } else { (cos, sin) };
        let values = tokens.len() * model.rotation.pairs();
        let angles = (Values::Host(&cos[..values]), Values::Host(&sin[..values]));
        let target = KvTarget { cache, slot: 0, layer, first: 0, angles, remote: None };
        let buffers = AttentionBuffers {
            q: ValuesMut::Host(q),
            k: ValuesMut::Host(k),
            v: ValuesMut::Host(v),
            qkv: ValuesMut::Host(qkv),
        };
        let mut phases = Phases { model, block, executor, observer: None };
        let Parts { hidden, inputs, .. } = stream.parts(config.heads * config.head_dim, tokens);
        phases.attend(Values::Host(hidden), 0, target, buffers, ValuesMut::Host(inputs))
    }

    /// The network's inputs where they are computed before attention's result is added: in parallel blocks.
    pub(super) fn before_project(
        &mut self,
        block: &Block,
        stream: &mut Stream,
        tokens: &Range<usize>,
    ) -> Result<()> {
        let Parts { hidden, network, .. } = stream.parts(1, tokens);
        self.phases(block).before_project(Values::Host(hidden), ValuesMut::Host(network))
    }

    /// Adds the output projection of attention's result to the residual stream.
    pub(super) fn project(
        &mut self,
        block: &Block,
        stream: &mut Stream,
        tokens: &Range<usize>,
    ) -> Result<()> {
        let Self { model, executor, projected, .. } = self;
        let config = &model.config;
        let Parts { hidden, inputs, .. } = stream.parts(config.heads * config.head_dim, tokens);
        let projected = &mut projected[..hidden.len()];
        let mut phases = Phases { model, block, executor, observer: None };
        phases.project(Values::Host(inputs), ValuesMut::Host(projected), ValuesMut::Host(hidden))
    }

    /// The network's inputs, once attention's result was added; those of a parallel block are there already.
    pub(super) fn network_input(
        &mut self,
        block: &Block,
        stream: &mut Stream,
        tokens: &Range<usize>,
    ) -> Result<()> {
        let Parts { hidden, network, .. } = stream.parts(1, tokens);
        self.phases(block).normed_input(Values::Host(hidden), ValuesMut::Host(network))
    }

    /// From the network's inputs to those of the down projection.
    pub(super) fn widen(&mut self, block: &Block, stream: &mut Stream, tokens: &Range<usize>) -> Result<()> {
        let width = self.model.config.ffn_size;
        let Parts { network, inputs, .. } = stream.parts(width, tokens);
        let input = Input::Values(Values::Host(network));
        self.phases(block).widen(input, ValuesMut::Host(inputs))
    }

    /// Adds the down projection to the residual stream.
    pub(super) fn narrow(&mut self, block: &Block, stream: &mut Stream, tokens: &Range<usize>) -> Result<()> {
        let Self { model, executor, projected, .. } = self;
        let Parts { hidden, inputs, .. } = stream.parts(model.config.ffn_size, tokens);
        let projected = &mut projected[..hidden.len()];
        let mut phases = Phases { model, block, executor, observer: None };
        phases.narrow(Values::Host(inputs), ValuesMut::Host(projected), ValuesMut::Host(hidden))
    }
}
