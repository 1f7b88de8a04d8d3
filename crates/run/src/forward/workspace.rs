//! What one device needs to run its part of a model's layers for one text.

use quern_compute::{Buffer, CacheShape, Chosen, Device, Executor, KvCache, KvType, Values};
use quern_model::Config;
use quern_model::config::KeyHeads;

use crate::rope::RotaryAngles;
use crate::weights::state_sizes;
use crate::{Model, Result};

use super::mixers::{States, widths};
use super::phases::Seen;

/// Memory on one device, kept from pass to pass. Each buffer is `[tokens][width]`.
#[derive(Debug)]
pub(crate) struct Workspace {
    pub(crate) executor: Executor,
    /// Keys and values of the layers on this device.
    pub(crate) cache: KvCache,
    /// Keys of indexers, where a text may have more positions than attention reads; and what they have chosen.
    pub(crate) index: Option<KvCache>,
    pub(crate) chosen: Chosen,
    /// What layers with a state keep.
    pub(crate) states: States,
    pub(crate) x: Buffer,
    pub(crate) normed: Buffer,
    pub(crate) q: Buffer,
    pub(crate) k: Buffer,
    pub(crate) v: Buffer,
    pub(crate) qkv: Buffer,
    pub(crate) attended: Buffer,
    /// What mixers other than plain attention compute in.
    pub(crate) scratch: Buffer,
    pub(crate) projected: Buffer,
    pub(crate) wide: Buffer,
    /// Numbers of shared experts' routers, one for each token, on a GPU.
    pub(crate) gates: Buffer,
    /// The tokens' embeddings, and what they add in a layer, where they do.
    pub(crate) embeds: Buffer,
    pub(crate) own: Buffer,
    pub(crate) gated: Buffer,
    /// A block's input, where there are several streams.
    pub(crate) input: Buffer,
    pub(crate) logits: Buffer,
    pub(crate) angles: Angles,
    /// What only observers need.
    pub(crate) seen: Seen,
    /// Whether queries, keys and values are computed into one memory.
    pub(crate) joined: bool,
}

/// Cosines and sines of one pass, of all layers and of those under a window.
#[derive(Debug)]
pub(crate) struct Angles {
    tables: [Buffer; 4],
    has_local: bool,
}

impl Angles {
    /// None yet.
    pub(crate) fn new(device: &Device) -> Self {
        Self { tables: [0; 4].map(|_| Buffer::new(device)), has_local: false }
    }

    /// Takes those of a pass.
    pub(crate) fn set(&mut self, executor: &mut Executor, angles: &RotaryAngles) -> Result<()> {
        self.has_local = angles.has_local();
        for (buffer, values) in self.tables.iter_mut().zip(angles.tables()) {
            if !values.is_empty() {
                buffer.reserve(values.len())?;
                executor.upload(values, buffer.front_mut(values.len()))?;
            }
        }
        Ok(())
    }

    /// Cosines and sines, this many values each, for a layer; `windowed` if a sliding window limits it.
    pub(crate) fn of(&self, windowed: bool, values: usize) -> (Values<'_>, Values<'_>) {
        let [cos, sin, local_cos, local_sin] = &self.tables;
        match windowed && self.has_local {
            true => (local_cos.front(values), local_sin.front(values)),
            false => (cos.front(values), sin.front(values)),
        }
    }
}

impl Workspace {
    /// For a device that has keys and values of `layers` layers.
    pub(crate) fn new(
        model: &Model,
        device: &Device,
        layers: usize,
        context: usize,
        kv: KvType,
    ) -> Result<Self> {
        let shape = cache_shape(&model.config, layers, context, kv);
        let buffer = || Buffer::new(device);
        let executor = Executor::new(device)?;
        let joins = executor.joins_heads() && joins_heads(&model.config);
        Ok(Self {
            // Layers in RAM whose attention is computed elsewhere send all three there.
            joined: model.fused_qkv() || joins || model.placement.has_remote(),
            executor,
            cache: KvCache::new(device, shape)?,
            index: index_shape(&model.config, context, kv)
                .map(|shape| KvCache::new(device, shape))
                .transpose()?,
            chosen: Chosen::default(),
            states: States::new(model, device)?,
            x: buffer(),
            normed: buffer(),
            q: buffer(),
            k: buffer(),
            v: buffer(),
            qkv: buffer(),
            attended: buffer(),
            scratch: buffer(),
            projected: buffer(),
            wide: buffer(),
            gates: buffer(),
            embeds: buffer(),
            own: buffer(),
            gated: buffer(),
            input: buffer(),
            logits: buffer(),
            seen: Seen::new(device),
            angles: Angles::new(device),
        })
    }

    /// Room for `n` tokens. Grows only; a shorter batch uses the front.
    pub(crate) fn reserve(&mut self, model: &Model, n: usize) -> Result<()> {
        let config = &model.config;
        let (query, key) = config.widest_heads();
        if let Some(per_layer) = config.per_layer {
            self.embeds.reserve(n * config.hidden_size)?;
            self.own.reserve(n * per_layer.size)?;
            self.gated.reserve(n * per_layer.size)?;
        }
        self.x.reserve(n * config.stream_width())?;
        self.normed.reserve(n * config.hidden_size)?;
        if config.streams > 1 {
            self.input.reserve(n * config.hidden_size)?;
        }
        self.projected.reserve(n * config.hidden_size.max(config.embedding_size))?;
        self.attended.reserve(n * model.weights.mixed_width())?;
        self.scratch.reserve(n * model.weights.mixer_scratch())?;
        if self.joined {
            self.qkv.reserve(n * (query + 2 * key))?;
        }
        if !self.joined || config.qk_norm_whole() {
            for (buffer, width) in [&mut self.q, &mut self.k, &mut self.v].into_iter().zip(widths(config)) {
                buffer.reserve(n * width)?;
            }
        }
        self.wide.reserve(n * wide(config))?;
        let gated = config.experts.and_then(|experts| experts.shared).is_some_and(|shared| shared.gated);
        if gated && self.executor.pool().is_none() {
            self.gates.reserve(n)?;
        }
        for buffer in &mut self.angles.tables {
            buffer.reserve(n * model.rotation.pairs())?;
        }
        Ok(())
    }

    /// Room for logits on a GPU; on the CPU they are written where they are wanted.
    pub(crate) fn reserve_logits(&mut self, values: usize) -> Result<()> {
        match self.executor.pool() {
            Some(_) => Ok(()),
            None => Ok(self.logits.reserve(values)?),
        }
    }

    /// Takes the cosines and sines of a pass.
    pub(crate) fn set_angles(&mut self, angles: &RotaryAngles) -> Result<()> {
        self.angles.set(&mut self.executor, angles)
    }

    /// Bytes in RAM that batches of `n` tokens take: these buffers, those of the kernels, and the experts'.
    pub(crate) fn bytes(model: &Model, n: usize) -> u64 {
        let config = &model.config;
        let (query, key) = config.widest_heads();
        let streams = if config.streams > 1 { config.stream_width() + 3 * config.hidden_size } else { 0 };
        let per_layer = streams + config.per_layer.map_or(0, |own| config.hidden_size + 2 * own.size);
        let qkv = if model.fused_qkv() { query + 2 * key } else { 0 };
        // Beside the buffers above, the executor's: an input normalized, and results that are not stored as they are.
        let mixed = model.weights.mixed_width();
        let apart: usize = widths(config).iter().sum();
        let own = per_layer + 5 * config.hidden_size + apart + mixed + qkv + 3 * wide(config);
        // Beside a dense network two more vectors wait.
        let waiting = if config.has_dense_beside() { 4 } else { 2 };
        let latent = config.experts.and_then(|e| e.latent).unwrap_or(0);
        let inner = 2 * (wide(config) + latent) + waiting * config.hidden_size;
        let experts = config.experts.map_or(0, |e| e.count + inner);
        let pairs = 4 * model.rotation.pairs();
        let floats = (own + experts + pairs + state_sizes(config).1) as u64 * n as u64;
        4 * floats + Self::kernels(model, n)
    }

    /// Bytes that kernels take for `n` tokens, at most: inputs in 8 bits, in two layouts and groupings, or
    /// permuted; attention's tiles in each thread.
    pub(crate) fn kernels(model: &Model, n: usize) -> u64 {
        let config = &model.config;
        let columns = wide(config).max(config.hidden_size).max(model.weights.mixed_width());
        8 * columns as u64 * n as u64 + ((1 << 20) * model.threads() as u64)
    }
}

/// Whether queries, keys and values can be computed into one memory: norms over all queries or all keys are of rows that
/// follow each other, and latent attention has others in their place.
pub(crate) fn joins_heads(config: &Config) -> bool {
    !config.qk_norm_whole() && config.latent.is_none()
}

/// The size of a cache for some layers of a model.
pub(crate) fn cache_shape(config: &Config, layers: usize, context: usize, kv: KvType) -> CacheShape {
    if let Some(latent) = &config.latent {
        return CacheShape { layers, kv_heads: 1, head_dim: latent.cached(), context, kv, keys_only: true };
    }
    let row = |dim: usize| if kv == KvType::Q8_0 { dim.next_multiple_of(32) } else { dim };
    // Layers whose heads differ have room for the larger.
    let own = KeyHeads { count: config.kv_heads, size: config.head_dim };
    let all = [Some(own), config.windowed_heads].into_iter().flatten();
    let largest = all.max_by_key(|heads| heads.count * row(heads.size)).unwrap_or(own);
    let (kv_heads, head_dim) = (largest.count, largest.size);
    CacheShape { layers, kv_heads, head_dim, context, kv, keys_only: false }
}

/// The size of the cache of indexers' keys; none where a text cannot have more positions than attention reads.
pub(crate) fn index_shape(config: &Config, context: usize, kv: KvType) -> Option<CacheShape> {
    let own = config.indexer.as_ref().filter(|own| context > own.top_k)?;
    let (layers, head_dim) = (own.layers(), own.head_dim);
    Some(CacheShape { layers, kv_heads: 1, head_dim, context, kv, keys_only: true })
}

/// The largest width inside a feed-forward network or an expert.
pub(crate) fn wide(config: &Config) -> usize {
    config.widest()
}
