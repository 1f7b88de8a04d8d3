//! Which tensors may be quantized at all, and what kind of tensor each is.
//!
//! The rules are llama-quantize's: at least two dimensions, a name that ends in `weight`, and none of the
//! name parts below, which mark tensors that are small, sensitive or not matrices in a product.

/// Tensors whose name contains one of these keep their type.
const KEPT_PARTS: &[&str] = &[
    "_norm.weight",
    // routers of mixtures of experts
    "ffn_gate_inp.weight",
    "ffn_gate_tid2eid.weight",
    // Gemma 3n
    "altup",
    "laurel",
    "per_layer_model_proj",
    // convolutions of state-space models
    "ssm_conv1d",
    "shortconv.conv.weight",
    // attention indexers
    "indexer.k_proj.weight",
    "indexer.q_proj.weight",
    // RWKV
    "time_mix_first.weight",
    "time_mix_w0.weight",
    "time_mix_w1.weight",
    "time_mix_w2.weight",
    "time_mix_v0.weight",
    "time_mix_v1.weight",
    "time_mix_v2.weight",
    "time_mix_a0.weight",
    "time_mix_a1.weight",
    "time_mix_a2.weight",
    "time_mix_g1.weight",
    "time_mix_g2.weight",
    "time_mix_decay_w1.weight",
    "time_mix_decay_w2.weight",
    "time_mix_lerp_fused.weight",
    // relative positions (T5)
    "attn_rel_b.weight",
    // vision and audio
    ".position_embd",
    "sam.pos_embd",
    "sam.neck.",
    "sam.net_",
    ".rel_pos",
    ".patch_embd",
    ".patch_merger",
    "a.rvq.codebook",
    "mm.a.code_embd",
];

/// Tensors of exactly these names keep their type.
const KEPT_NAMES: &[&str] = &["position_embd.weight", "token_types.weight"];

/// Number of dimensions as ggml counts them: leading (outermost) dimensions of 1 do not count.
fn dimensions(shape: &[usize]) -> usize {
    shape.len() - shape.iter().take_while(|&&d| d == 1).count().min(shape.len().saturating_sub(1))
}

/// Whether a tensor of this name and shape (outermost dimension first) may be quantized.
pub fn is_quantizable(name: &str, shape: &[usize]) -> bool {
    dimensions(shape) >= 2
        && name.ends_with("weight")
        && !KEPT_NAMES.contains(&name)
        && !KEPT_PARTS.iter().any(|part| name.contains(part))
}

/// The kinds of tensor that the mix rules tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Category {
    /// The output head.
    Output,
    /// Token embeddings.
    Embedding,
    /// Values, or a fused tensor that contains them.
    AttnV,
    /// Keys.
    AttnK,
    /// Queries.
    AttnQ,
    /// The projection out of attention.
    AttnOutput,
    /// The up projection, of experts too.
    FfnUp,
    /// The gate projection, of experts too.
    FfnGate,
    /// The down projection, of experts too.
    FfnDown,
    /// Anything else.
    Other,
}

impl Category {
    /// The category of a GGUF tensor name.
    pub(super) fn of(name: &str) -> Self {
        const PARTS: &[(&str, Category)] = &[
            ("attn_qkv.weight", Category::AttnV),
            ("attn_kv_b.weight", Category::AttnV),
            ("attn_v.weight", Category::AttnV),
            ("attn_k.weight", Category::AttnK),
            ("attn_q.weight", Category::AttnQ),
            ("attn_output.weight", Category::AttnOutput),
            ("ffn_up", Category::FfnUp),
            ("ffn_gate", Category::FfnGate),
            ("ffn_down", Category::FfnDown),
        ];
        match name {
            "output.weight" => Self::Output,
            "token_embd.weight" | "per_layer_token_embd.weight" => Self::Embedding,
            _ => PARTS.iter().find(|(part, _)| name.contains(part)).map_or(Self::Other, |&(_, c)| c),
        }
    }
}

/// The layer in `blk.N.`, if the name starts so.
pub(super) fn layer(name: &str) -> Option<usize> {
    let digits = name.strip_prefix("blk.")?;
    digits[..digits.find('.')?].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matrices_are_quantized_and_the_small_things_kept() {
        for name in
            ["blk.0.attn_q.weight", "output.weight", "token_embd.weight", "blk.3.ffn_down_exps.weight"]
        {
            assert!(is_quantizable(name, &[64, 64]), "{name}");
        }
        for name in [
            "blk.0.attn_norm.weight",
            "blk.0.attn_q.bias",
            "blk.0.ffn_gate_inp.weight",
            "position_embd.weight",
            "v.position_embd.weight",
            "blk.1.time_mix_w2.weight",
            "rope_freqs",
        ] {
            assert!(!is_quantizable(name, &[64, 64]), "{name}");
        }
    }

    #[test]
    fn outer_dimensions_of_one_do_not_count() {
        assert!(!is_quantizable("blk.0.attn_q.weight", &[64]));
        assert!(!is_quantizable("blk.0.attn_q.weight", &[1, 64]));
        assert!(!is_quantizable("blk.0.attn_q.weight", &[1, 1, 64]));
        assert!(!is_quantizable("blk.0.attn_q.weight", &[]));
        assert!(!is_quantizable("blk.0.attn_q.weight", &[1]));
        assert!(is_quantizable("blk.0.attn_q.weight", &[64, 1]));
        assert!(is_quantizable("blk.0.attn_q.weight", &[8, 1, 64]));
    }

    #[test]
    fn layers_are_read_from_names() {
        assert_eq!(layer("blk.17.attn_q.weight"), Some(17));
        for none in ["blk.attn", "blk..x", "blk.-1.x", "xblk.1.x", "output.weight", "blk.7"] {
            assert_eq!(layer(none), None, "{none}");
        }
    }
}
