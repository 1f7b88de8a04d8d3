//! What gradients take on a GPU.

use quern_compute::bytes_of_linear;

use crate::weights::Block;
use crate::{LayerwiseMemory, Model};

use super::BATCH;
use super::loss::LOGITS;

/// Bytes on a GPU for gradients of so many tokens in all and in the longest sequence: the larger of what the forward pass
/// takes and what the way back does.
pub fn gradients_memory(model: &Model, tokens: u64, longest: u64) -> u64 {
    let config = &model.config;
    let wide = |n: usize| n as u64;
    let forward = LayerwiseMemory::new(model, tokens, longest, 1);
    let (query, key) = (wide(config.heads * config.head_dim), wide(config.kv_heads * config.head_dim));
    let (hidden, ffn, vocabulary) =
        (wide(config.hidden_size), wide(config.ffn_size), wide(config.vocab_size));
    let batch = longest.max(wide(BATCH)).min(tokens.max(1));
    // Kept and computed backward, each a little longer than needed where memory is used again.
    let activations = batch * (12 * hidden + 6 * ffn + 6 * query + 8 * key);
    // Gradients transposed, and both factors of a product as two numbers of bf16.
    let widest = hidden.max(ffn).max(2 * query + key);
    let packed = 2 * batch * widest + 2 * wide(BATCH) * widest;
    let block = model.weights.blocks.iter().map(Block::gpu_bytes).max().unwrap_or(0);
    let numbers =
        |block: &Block| block.linears().iter().map(|l| l.op.weight.rows() * l.op.weight.columns()).sum();
    let plain: usize = model.weights.blocks.iter().map(numbers).max().unwrap_or(0);
    let back = 4 * (activations + packed) + wide(block) + 4 * wide(plain);
    // The head as it is and in f32; logits, their gradients transposed and as two numbers of bf16.
    let head = &model.weights.output.op;
    let rows = (wide(LOGITS) / vocabulary.max(1)).clamp(16, 2048).min(tokens.max(1));
    let head = wide(bytes_of_linear(head))
        + 4 * wide(head.weight.rows()) * wide(head.weight.columns())
        + 4 * rows * (2 * vocabulary + 4 * hidden)
        + 4 * (2 * wide(BATCH) * hidden);
    // Gradients of all tokens; unit vectors and what a layer makes of them; pieces of weights on their way.
    let rest = 4 * tokens * hidden + (256 << 20) + 2 * (64 << 20);
    (forward.streams + forward.work).max(back.max(head) + rest)
}
