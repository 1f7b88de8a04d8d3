//! Which tensors may be quantized at all ([`is_quantizable`]), and what kind of tensor each is.

pub use quern_model::gguf::is_quantizable;

/// The kinds of tensor that the mix rules distinguish.
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
    fn layers_are_read_from_names() {
        assert_eq!(layer("blk.17.attn_q.weight"), Some(17));
        for none in ["blk.attn", "blk..x", "blk.-1.x", "xblk.1.x", "output.weight", "blk.7"] {
            assert_eq!(layer(none), None, "{none}");
        }
    }
}
