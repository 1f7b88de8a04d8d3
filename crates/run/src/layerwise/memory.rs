//! What [`Layerwise`](super::Layerwise) takes on a GPU.

use quern_compute::bytes_of_linear;
use quern_model::architecture::Block as BlockKind;

use crate::Model;
use crate::forward::{GPU_ROWS, widths};
use crate::placement::latent_buffers;
use crate::weights::{Block, convolved, state_sizes};

use super::stream::inputs_width;

/// Bytes on one GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerwiseMemory {
    /// The residual streams of all tokens, with what is kept beside them.
    pub streams: u64,
    /// Everything else: a block with its replaced weights, one sequence's numbers, keys and values.
    pub work: u64,
    /// The streams of one sequence, where those of all wait in RAM.
    pub one: u64,
}

impl LayerwiseMemory {
    /// For so many tokens in all and in the longest sequence, and one stream or two.
    pub fn new(model: &Model, tokens: u64, longest: u64, streams: u64) -> Self {
        let config = &model.config;
        let wide = |n: usize| n as u64;
        let (query, key) = (wide(config.heads * config.head_dim), wide(config.kv_heads * config.head_dim));
        let hidden = wide(config.hidden_size);
        let mixture = model.is_mixture();
        let kept = 1 + u64::from(config.block == BlockKind::Parallel || mixture) + u64::from(mixture);
        let views = 1 + 2 * u64::from(streams > 1);
        let pairs = 4 * wide(model.rotation.pairs());
        // What mixers compute in, and with it what kernels keep of it; states of all layers.
        let apart = if config.latent.is_some() { widths(config).into_iter().sum() } else { 0 };
        let mixers = wide(model.weights.mixer_scratch() + apart + 2 * convolved(config));
        let states = 4 * wide(state_sizes(config).0) + latent_buffers(config);
        let sequence = streams * (hidden + wide(inputs_width(model)))
            + (1 + views) * hidden.max(wide(config.embedding_size))
            + query
            + 4 * key
            + mixers
            + pairs;
        // Inputs of products in f16, and results that are not stored as they are.
        let kernels = 2 * wide(inputs_width(model)) + 4 * 2 * wide(config.ffn_size) + 4 * hidden;
        // An expert's input, what it makes, and what is inside it; router's outputs and choices of all tokens.
        let experts = config.experts.map_or((0, 0), |e| {
            let rows = tokens.min(wide(GPU_ROWS));
            let shared = e.shared.map_or(0, |shared| shared.ffn_size);
            let row = 2 * hidden + 3 * wide(e.ffn_size.max(shared));
            (4 * rows * row, 4 * tokens * wide(e.count + 6 * e.used))
        });
        let block = model.weights.blocks.iter().map(Block::gpu_bytes).max().unwrap_or(0);
        let head = model.weights.embedding_out.as_ref().map_or(0, |l| bytes_of_linear(&l.op));
        Self {
            streams: 4 * streams * kept * hidden * tokens + experts.1,
            // Replaced weights are at most as large as those they replace; two pieces of 32 MiB on their way.
            work: experts.0
                + longest * (4 * sequence + kernels)
                + 2 * wide(block)
                + wide(head)
                + states
                + (64 << 20),
            one: 4 * streams * kept * hidden * longest,
        }
    }
}
