//! Llama and what follows it to the letter: Llama 1 to 3.3, Mistral, TinyLlama, Yi, SmolLM.

use crate::architecture::{
    Activation, Architecture, Block, Dim, Norm, Position, Presence, RopeStyle, RowOrder, TensorRole as Role,
    TensorTemplate,
};

const fn tensor(
    role: Role,
    hf: &'static str,
    gguf: &'static str,
    shape: &'static [Dim],
    presence: Presence,
    rows: RowOrder,
) -> TensorTemplate {
    TensorTemplate { role, hf: Some(hf), gguf, shape, presence, rows }
}

use Dim::{Ffn, Hidden, KeyValue, Query, RopeHalf, Vocab};
use Presence::{Always, AttentionBias, FfnBias, UnlessTied};
use RowOrder::{KeyHeads, QueryHeads, Same};

/// Llama: RMS norm, rotary positions, grouped-query attention, SwiGLU.
#[rustfmt::skip]
pub static LLAMA: Architecture = Architecture {
    name: "llama",
    hf_architectures: &["LlamaForCausalLM", "LLaMAForCausalLM", "MistralForCausalLM"],
    hf_model_types: &["llama", "mistral"],
    norm: Norm::Rms,
    position: Position::Rotary,
    gguf_rope_style: RopeStyle::Interleaved,
    block: Block::Sequential,
    activations: &[Activation::Silu],
    gated: true,
    tensors: &[
        tensor(Role::TokenEmbedding, "model.embed_tokens.weight", "token_embd.weight", &[Vocab, Hidden], Always, Same),
        tensor(Role::OutputNorm, "model.norm.weight", "output_norm.weight", &[Hidden], Always, Same),
        tensor(Role::Output, "lm_head.weight", "output.weight", &[Vocab, Hidden], UnlessTied, Same),
        TensorTemplate { role: Role::RopeFactors, hf: None, gguf: "rope_freqs.weight", shape: &[RopeHalf], presence: Presence::RopeFactors, rows: Same },
        tensor(Role::AttentionNorm, "model.layers.{layer}.input_layernorm.weight", "blk.{layer}.attn_norm.weight", &[Hidden], Always, Same),
        tensor(Role::AttentionQ, "model.layers.{layer}.self_attn.q_proj.weight", "blk.{layer}.attn_q.weight", &[Query, Hidden], Always, QueryHeads),
        tensor(Role::AttentionK, "model.layers.{layer}.self_attn.k_proj.weight", "blk.{layer}.attn_k.weight", &[KeyValue, Hidden], Always, KeyHeads),
        tensor(Role::AttentionV, "model.layers.{layer}.self_attn.v_proj.weight", "blk.{layer}.attn_v.weight", &[KeyValue, Hidden], Always, Same),
        tensor(Role::AttentionOutput, "model.layers.{layer}.self_attn.o_proj.weight", "blk.{layer}.attn_output.weight", &[Hidden, Query], Always, Same),
        tensor(Role::AttentionQBias, "model.layers.{layer}.self_attn.q_proj.bias", "blk.{layer}.attn_q.bias", &[Query], AttentionBias, QueryHeads),
        tensor(Role::AttentionKBias, "model.layers.{layer}.self_attn.k_proj.bias", "blk.{layer}.attn_k.bias", &[KeyValue], AttentionBias, KeyHeads),
        tensor(Role::AttentionVBias, "model.layers.{layer}.self_attn.v_proj.bias", "blk.{layer}.attn_v.bias", &[KeyValue], AttentionBias, Same),
        tensor(Role::AttentionOutputBias, "model.layers.{layer}.self_attn.o_proj.bias", "blk.{layer}.attn_output.bias", &[Hidden], AttentionBias, Same),
        tensor(Role::FfnNorm, "model.layers.{layer}.post_attention_layernorm.weight", "blk.{layer}.ffn_norm.weight", &[Hidden], Always, Same),
        tensor(Role::FfnGate, "model.layers.{layer}.mlp.gate_proj.weight", "blk.{layer}.ffn_gate.weight", &[Ffn, Hidden], Always, Same),
        tensor(Role::FfnUp, "model.layers.{layer}.mlp.up_proj.weight", "blk.{layer}.ffn_up.weight", &[Ffn, Hidden], Always, Same),
        tensor(Role::FfnDown, "model.layers.{layer}.mlp.down_proj.weight", "blk.{layer}.ffn_down.weight", &[Hidden, Ffn], Always, Same),
        tensor(Role::FfnGateBias, "model.layers.{layer}.mlp.gate_proj.bias", "blk.{layer}.ffn_gate.bias", &[Ffn], FfnBias, Same),
        tensor(Role::FfnUpBias, "model.layers.{layer}.mlp.up_proj.bias", "blk.{layer}.ffn_up.bias", &[Ffn], FfnBias, Same),
        tensor(Role::FfnDownBias, "model.layers.{layer}.mlp.down_proj.bias", "blk.{layer}.ffn_down.bias", &[Hidden], FfnBias, Same),
    ],
};
