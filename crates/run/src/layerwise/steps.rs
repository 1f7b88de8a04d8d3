//! The phases of a block for one sequence of one stream, on one device.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;

use quern_compute::{
    Buffer, CacheShape, Chosen, Device, Executor, Input, KvCache, KvType, PassKey, Values, ValuesMut,
};

use crate::forward::{
    Angles, AttentionBuffers, IndexRoom, KvTarget, MixerRoom, Phases, StateRoom, States, cache_shape, embed,
    index_shape, joins_heads, per_layer_own, streams, widths,
};
use crate::rope::RotaryAngles;
use crate::weights::{Block, Mixer, Shown};
use crate::{Error, Model, Result};

use super::stream::{Parts, Stream};

/// What computes, with memory for one sequence.
#[derive(Debug)]
pub(super) struct Steps<'m> {
    model: &'m Model,
    pub(super) executor: Executor,
    longest: usize,
    cache: KvCache,
    states: States,
    /// What mixers other than plain attention compute in.
    scratch: Buffer,
    /// Keys and values that later layers share, by their layer, sequence and stream.
    kept: HashMap<(usize, usize, usize), KvCache>,
    /// Keys of a layer's indexer, where sequences have more positions than attention reads.
    index: Option<KvCache>,
    /// The positions that were chosen for a sequence of a stream, where later layers read the same.
    chosen: HashMap<(usize, usize), Chosen>,
    kv: KvType,
    angles: Angles,
    /// Each apart, where they are computed so.
    q: Buffer,
    k: Buffer,
    v: Buffer,
    /// All together, where they are computed so.
    qkv: Buffer,
    projected: Buffer,
}

impl<'m> Steps<'m> {
    /// For sequences of at most `longest` tokens.
    pub(super) fn new(model: &'m Model, device: &Device, longest: usize) -> Result<Self> {
        let config = &model.config;
        let (query, key) = config.widest_heads();
        let buffer = |width: usize| -> Result<Buffer> {
            let mut buffer = Buffer::new(device);
            buffer.reserve(longest * width)?;
            Ok(buffer)
        };
        let mut executor = Executor::new(device)?;
        let joined = model.fused_qkv() || (executor.joins_heads() && joins_heads(config));
        let (apart, together) = if joined { (0, 1) } else { (1, 0) };
        // A GPU's fast kernels read keys and values in f16: they are as precise as what its products read.
        let kv = if executor.pool().is_some() { KvType::F32 } else { KvType::F16 };
        let mut tables = RotaryAngles::default();
        model.rotation.fill(&model.pool, 0, longest, &mut tables);
        let mut angles = Angles::new(device);
        executor.begin(whole(longest))?;
        angles.set(&mut executor, &tables)?;
        executor.end(None)?;
        Ok(Self {
            model,
            longest,
            cache: KvCache::new(device, cache_shape(config, 1, longest, kv))?,
            states: States::new(model, device)?,
            scratch: buffer(model.weights.mixer_scratch())?,
            kept: HashMap::new(),
            index: index_shape(config, longest, kv)
                .map(|shape| KvCache::new(device, CacheShape { layers: 1, ..shape }))
                .transpose()?,
            chosen: HashMap::new(),
            kv,
            angles,
            q: buffer(apart * widths(config)[0])?,
            k: buffer(apart * widths(config)[1])?,
            v: buffer(apart * widths(config)[2])?,
            qkv: buffer(together * (query + 2 * key))?,
            projected: buffer(config.hidden_size)?,
            executor,
        })
    }

    /// Begins work on sequences: all that follows is queued on a GPU.
    pub(super) fn begin(&mut self) -> Result<()> {
        self.executor.begin(whole(self.longest))?;
        Ok(())
    }

    /// Waits for it.
    pub(super) fn end(&mut self) -> Result<()> {
        Ok(self.executor.end(None)?)
    }

    fn phases<'p>(&'p mut self, block: &'p Block) -> Phases<'p, 'p> {
        Phases { model: self.model, block, executor: &mut self.executor, observer: None }
    }

    /// The mixer's input, written to `normed`.
    pub(super) fn mixer_input(&mut self, block: &Block, x: Values<'_>, normed: ValuesMut<'_>) -> Result<()> {
        self.phases(block).mixer_input(x, normed)
    }

    /// The inputs of a layer within the mixer, which reads the residual stream `x`.
    pub(super) fn inputs_within(
        &mut self,
        (which, layer, block): (Shown, usize, &Block),
        x: Values<'_>,
        out: ValuesMut<'_>,
    ) -> Result<()> {
        let Self { model, executor, q, k, v, qkv, states, scratch, .. } = self;
        let memory = AttentionBuffers { q: all(q), k: all(k), v: all(v), qkv: all(qkv) };
        let mut phases = Phases { model, block, executor, observer: None };
        match &block.mixer {
            Mixer::Attention(_)
            | Mixer::DeltaNet(_)
            | Mixer::ShortConv(_)
            | Mixer::Mamba2(_)
            | Mixer::Network(_)
            | Mixer::None => Ok(()),
            Mixer::Beside(both) => {
                let mut states = StateRoom { state: states.of(layer), scratch: all(scratch) };
                // Each sequence begins here.
                phases.executor.clear(states.state.reborrow())?;
                phases.beside_state(both, (x, 0), states, out.host()?)
            }
            Mixer::Latent(latent) => phases.latent_inputs(latent, which, x, memory, out),
        }
    }

    /// From the residual stream to the inputs of the mixer's output layer.
    pub(super) fn mix(
        &mut self,
        (layer, block): (usize, &Block),
        stream: &mut Stream,
        tokens: &Range<usize>,
    ) -> Result<()> {
        let Self { model, executor, cache, kept, longest, kv, angles, q, k, v, qkv, states, scratch, .. } =
            self;
        let (indexes, chosen) = (&mut self.index, &mut self.chosen);
        let config = &model.config;
        let windowed = config.window(layer).is_some();
        let angles = angles.of(windowed, tokens.len() * model.rotation.pairs_of(windowed));
        let place = |layer| (layer, tokens.start, stream.number);
        let cache = match config.kv_source(layer) {
            Some(source) => kept.get_mut(&place(source)).ok_or_else(|| {
                let what = "later layers share keys and values of earlier ones, which were computed before this run \
                            was stopped: start it anew";
                Error::Option(what.into())
            })?,
            None if config.lends_keys(layer) => match kept.entry(place(layer)) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => {
                    let shape = cache_shape(config, 1, tokens.len().min(*longest), *kv);
                    entry.insert(KvCache::new(&executor.device(), shape)?)
                }
            },
            None => cache,
        };
        let target = KvTarget { cache, slot: 0, layer, first: 0, angles, remote: None };
        let buffers = AttentionBuffers { q: all(q), k: all(k), v: all(v), qkv: all(qkv) };
        let mut phases = Phases { model, block, executor, observer: None };
        let sequence = (tokens.start, stream.number);
        let Parts { hidden, inputs, .. } = stream.parts(block.mixer.width(), tokens);
        let states = StateRoom { state: states.of(layer), scratch: all(scratch) };
        let chosen = match &config.indexer {
            Some(own) if own.has(layer) => chosen.entry(sequence).or_default(),
            Some(_) => chosen.get_mut(&sequence).ok_or_else(|| {
                let what = "later layers read the positions that earlier ones chose, which were computed before this run \
                            was stopped: start it anew";
                Error::Option(what.into())
            })?,
            None => &mut Chosen::default(),
        };
        let index = indexes.as_mut().map(|cache| IndexRoom { cache, slot: 0, chosen });
        phases.mix(hidden.as_values(), 0, MixerRoom { target, buffers, states, index }, inputs)
    }

    /// The network's inputs where they are computed before the mixer's result is added: in parallel blocks.
    pub(super) fn before_project(
        &mut self,
        block: &Block,
        stream: &mut Stream,
        tokens: &Range<usize>,
    ) -> Result<()> {
        let Parts { hidden, network, .. } = stream.parts(1, tokens);
        self.phases(block).before_project(hidden.as_values(), network)
    }

    /// Adds the output of the mixer to the residual stream.
    pub(super) fn project(
        &mut self,
        block: &Block,
        stream: &mut Stream,
        tokens: &Range<usize>,
    ) -> Result<()> {
        let Self { model, executor, projected, .. } = self;
        let Parts { hidden, inputs, .. } = stream.parts(block.mixer.width(), tokens);
        let projected = projected.front_mut(hidden.len());
        let mut phases = Phases { model, block, executor, observer: None };
        phases.project(inputs.as_values(), projected, hidden)
    }

    /// The network's inputs, once the mixer's result was added; those of a parallel block are there already.
    pub(super) fn network_input(
        &mut self,
        block: &Block,
        stream: &mut Stream,
        tokens: &Range<usize>,
    ) -> Result<()> {
        let Parts { hidden, network, .. } = stream.parts(1, tokens);
        self.phases(block).normed_input(hidden.as_values(), network)
    }

    /// From the network's inputs to those of the down projection.
    pub(super) fn widen(&mut self, block: &Block, stream: &mut Stream, tokens: &Range<usize>) -> Result<()> {
        let Parts { network, inputs, .. } = stream.parts(block.ffn_width(), tokens);
        self.phases(block).widen(Input::Values(network.as_values()), inputs)
    }

    /// Adds the down projection to the residual stream.
    pub(super) fn narrow(&mut self, block: &Block, stream: &mut Stream, tokens: &Range<usize>) -> Result<()> {
        let Self { model, executor, projected, .. } = self;
        let Parts { hidden, inputs, .. } = stream.parts(block.ffn_width(), tokens);
        let projected = projected.front_mut(hidden.len());
        let mut phases = Phases { model, block, executor, observer: None };
        phases.narrow(inputs.as_values(), projected, hidden)
    }
}

impl Steps<'_> {
    /// What the dense network makes beside experts, where its inputs were.
    pub(super) fn dense_beside(
        &mut self,
        block: &Block,
        stream: &mut Stream,
        tokens: &Range<usize>,
    ) -> Result<()> {
        let Some(own) = &block.beside else { return Ok(()) };
        let Parts { network, inputs, .. } = stream.parts(block.ffn_width(), tokens);
        self.phases(block).dense_beside(own, inputs.as_values(), network)
    }

    /// Mixes the streams in front of a block.
    pub(super) fn predict(
        &mut self,
        block: &Block,
        stream: &mut Stream,
        tokens: &Range<usize>,
    ) -> Result<()> {
        let Some(own) = &block.streams else { return Ok(()) };
        let [all, before, _] = stream.all_of(tokens);
        let (all, before) = (all.host()?, before.host()?);
        streams::predict(&mut self.executor, own, all)?;
        before.copy_from_slice(&all[..before.len()]);
        Ok(())
    }

    /// The second way beside attention.
    pub(super) fn laurel(&mut self, block: &Block, stream: &mut Stream, tokens: &Range<usize>) -> Result<()> {
        if block.streams.is_none() {
            return Ok(());
        }
        let [all, before, _] = stream.all_of(tokens);
        let (all, before) = (all.host()?, before.host()?);
        streams::laurel(&mut self.executor, block, before, &mut all[..before.len()])
    }

    /// Brings what a block changed to all streams; what the gate of what tokens add receives is left where the network's
    /// inputs were.
    pub(super) fn correct(
        &mut self,
        block: &Block,
        stream: &mut Stream,
        tokens: &Range<usize>,
    ) -> Result<()> {
        let Some(own) = &block.streams else { return Ok(()) };
        let [all, before, network] = stream.all_of(tokens);
        let (all, before) = (all.host()?, before.host()?);
        streams::correct(&mut self.executor, own, before, all)?;
        streams::scaled(own, &all[..before.len()], network.host()?);
        Ok(())
    }

    /// The inputs of the last projection of what tokens add in a layer.
    pub(super) fn gate_own(
        &mut self,
        (layer, block): (usize, &Block),
        stream: &mut Stream,
        (tokens, text): (&Range<usize>, &[u32]),
    ) -> Result<()> {
        let Some(weights) = &block.per_layer else { return Ok(()) };
        let Self { model, executor, .. } = self;
        let mut embeds = vec![0.0; text.len() * model.config.hidden_size];
        embed(model, text, 0, &mut embeds)?;
        let size = weights.gate.op.weight.rows();
        let mut own = vec![0.0; text.len() * size];
        let to = ValuesMut::Host(&mut own);
        per_layer_own(model, executor, (layer, weights), text, embeds[..].into(), to)?;
        let Parts { hidden, network, inputs } = stream.parts(size, tokens);
        let x = if block.streams.is_some() { network } else { hidden };
        self.phases(block).gate_own(x.as_values(), own[..].into(), inputs)
    }

    /// Adds what tokens add in a layer to the residual stream.
    pub(super) fn add_own(
        &mut self,
        block: &Block,
        stream: &mut Stream,
        tokens: &Range<usize>,
    ) -> Result<()> {
        let Some(weights) = &block.per_layer else { return Ok(()) };
        let Self { model, executor, projected, .. } = self;
        let size = weights.gate.op.weight.rows();
        let mut projected = projected.front_mut(tokens.len() * model.config.hidden_size);
        let mut phases = Phases { model, block, executor, observer: None };
        if block.streams.is_some() {
            phases.make_own(stream.inputs_of(size, tokens), projected.reborrow())?;
            let [all, ..] = stream.all_of(tokens);
            streams::add_to_others(projected.host()?, all.host()?);
            return Ok(());
        }
        let Parts { hidden, inputs, .. } = stream.parts(size, tokens);
        phases.add_own(inputs.as_values(), projected, hidden)
    }

    /// Multiplies the residual stream with the factor behind the block.
    pub(super) fn scale(&mut self, block: &Block, stream: &mut Stream, tokens: &Range<usize>) -> Result<()> {
        let Parts { hidden, .. } = stream.parts(1, tokens);
        self.phases(block).scale(hidden)
    }
}

/// A pass over one sequence from its first position on.
fn whole(tokens: usize) -> PassKey {
    PassKey { segment: 0, tokens, first: 0, keep: 0, recordable: false }
}

/// All of a buffer, to be written.
fn all(buffer: &mut Buffer) -> ValuesMut<'_> {
    let length = buffer.len();
    buffer.front_mut(length)
}
