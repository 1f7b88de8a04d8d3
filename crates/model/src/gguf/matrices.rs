//! Which tensors of a GGUF file are matrices, to be stored in the file's type, and which are kept in f32.
//!
//! The rules are those of llama-quantize and llama.cpp's converter: matrices have at least two dimensions and a
//! name that ends in `weight`; the name parts below mark tensors that are small, sensitive or not matrices in a
//! product.

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

/// Tensors that llama.cpp's converter stores in the file's type, though llama-quantize keeps them.
const STORED_PARTS: &[&str] = &[
    "per_layer_model_proj.weight",
    "altup_proj.weight",
    "altup_unembd_proj.weight",
    "altup_router.weight",
    "laurel_l.weight",
    "laurel_r.weight",
];

/// Tensors that it stores in f32, though llama-quantize quantizes them: what an indexer's heads are weighted with.
const FLOAT_PARTS: &[&str] = &[".indexer.proj.weight"];

/// Whether a converter stores a tensor of this name and shape in the file's type, not in f32.
pub fn is_stored_as_matrix(name: &str, shape: &[usize]) -> bool {
    let float = FLOAT_PARTS.iter().any(|part| name.ends_with(part));
    (is_quantizable(name, shape) && !float)
        || (dimensions(shape) >= 2 && STORED_PARTS.iter().any(|part| name.ends_with(part)))
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
}
