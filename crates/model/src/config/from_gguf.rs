//! GGUF metadata (`llama.block_count` and its like).

use std::path::Path;

use quern_tensor_io::{Checkpoint, ElementType, Error, Metadata, Result};

use crate::architecture::{Activation, TensorRole, World};
use crate::architectures;

use super::{Config, Rope, RopeScaling, limit, unknown_architecture};

/// Metadata under one architecture's prefix.
struct Keys<'a> {
    file: &'a Path,
    prefix: &'static str,
    metadata: &'a Metadata,
}

impl Keys<'_> {
    fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.prefix)
    }

    fn error(&self, key: &str, what: impl std::fmt::Display) -> Error {
        Error::malformed(self.file, format!("{}: {what}", self.name(key)))
    }

    fn missing(&self, key: &str) -> Error {
        Error::malformed(self.file, format!("the metadata key {:?} is missing", self.name(key)))
    }

    fn size(&self, key: &str, max: usize) -> Result<Option<usize>> {
        let Some(value) = self.metadata.get(&self.name(key)) else { return Ok(None) };
        match value.as_u64() {
            Some(v) if v >= 1 && v <= max as u64 => Ok(Some(v as usize)),
            Some(v) => Err(self.error(key, format!("{v} is not between 1 and {max}"))),
            None => Err(self.error(key, "a whole number is expected")),
        }
    }

    fn need(&self, key: &str, max: usize) -> Result<usize> {
        self.size(key, max)?.ok_or_else(|| self.missing(key))
    }

    fn f32(&self, key: &str) -> Result<Option<f32>> {
        let Some(value) = self.metadata.get(&self.name(key)) else { return Ok(None) };
        match value.as_f64().filter(|v| v.is_finite()) {
            Some(v) => Ok(Some(v as f32)),
            None => Err(self.error(key, "a finite number is expected")),
        }
    }
}

pub(super) fn read(file: &Path, metadata: &Metadata, checkpoint: &Checkpoint) -> Result<Config> {
    let name = metadata
        .str("general.architecture")
        .ok_or_else(|| Error::malformed(file, "the metadata key \"general.architecture\" is missing"))?;
    let architecture = architectures::from_gguf_name(name).ok_or_else(|| unknown_architecture(file, name))?;
    let keys = Keys { file, prefix: architecture.name, metadata };

    if let Some(experts) = keys.metadata.u64(&keys.name("expert_count")).filter(|&n| n > 0) {
        let what = format!("a mixture of {experts} experts is not supported yet");
        return Err(Error::unsupported(file, what));
    }
    let hidden_size = keys.need("embedding_length", limit::HIDDEN)?;
    let heads = keys.need("attention.head_count", limit::HEADS)?;
    let head_dim = match keys.size("attention.key_length", limit::HIDDEN)? {
        Some(given) => given,
        None if hidden_size.is_multiple_of(heads) => hidden_size / heads,
        None => {
            return Err(keys.error("attention.head_count", format!("{heads} does not divide {hidden_size}")));
        }
    };
    if let Some(value) = keys.size("attention.value_length", limit::HIDDEN)?.filter(|&v| v != head_dim) {
        let what = format!("values of length {value} under keys of length {head_dim} are not supported");
        return Err(Error::unsupported(file, what));
    }
    let tokens = metadata.strings("tokenizer.ggml.tokens").map(|t| t.len()).filter(|&n| n > 0);
    let vocab_size = match keys.size("vocab_size", limit::VOCAB)?.or(tokens) {
        Some(size) => size,
        None => return Err(keys.missing("vocab_size")),
    };
    let dimensions = keys.size("rope.dimension_count", limit::HIDDEN)?.unwrap_or(head_dim);

    let mut config = Config {
        architecture,
        world: World::Gguf,
        vocab_size,
        hidden_size,
        layers: keys.need("block_count", limit::LAYERS)?,
        heads,
        kv_heads: keys.size("attention.head_count_kv", limit::HEADS)?.unwrap_or(heads),
        head_dim,
        ffn_size: keys.need("feed_forward_length", limit::HIDDEN)?,
        context_length: keys.need("context_length", limit::CONTEXT)?,
        norm_epsilon: keys
            .f32("attention.layer_norm_rms_epsilon")?
            .ok_or_else(|| keys.missing("attention.layer_norm_rms_epsilon"))?,
        rope: Rope {
            theta: keys.f32("rope.freq_base")?.unwrap_or(10_000.0),
            dimensions,
            scaling: scaling(&keys)?,
            factors: None,
        },
        rope_style: architecture.gguf_rope_style,
        sliding_window: keys.size("attention.sliding_window", limit::CONTEXT)?,
        tied_embeddings: false,
        attention_bias: false,
        mlp_bias: false,
        activation: Activation::Silu,
        dtype: None,
        quantization: None,
    };
    // What HF's config says, GGUF says by the tensors that are there.
    let has = |role, layer| {
        let name = config.tensor_name(World::Gguf, role, layer);
        name.is_some_and(|n| checkpoint.tensor(&n).is_some())
    };
    let tied = !has(TensorRole::Output, None);
    let any = |roles: &[TensorRole]| roles.iter().any(|&role| has(role, Some(0)));
    let attention_bias = any(&[
        TensorRole::AttentionQBias,
        TensorRole::AttentionKBias,
        TensorRole::AttentionVBias,
        TensorRole::AttentionOutputBias,
    ]);
    let mlp_bias = any(&[TensorRole::FfnGateBias, TensorRole::FfnUpBias, TensorRole::FfnDownBias]);
    (config.tied_embeddings, config.attention_bias, config.mlp_bias) = (tied, attention_bias, mlp_bias);
    config.rope.factors = factors(&config, file, checkpoint)?;
    config.checked(file)
}

fn scaling(keys: &Keys<'_>) -> Result<RopeScaling> {
    let positive = |key: &str| match keys.f32(key)? {
        Some(v) if v <= 0.0 => Err(keys.error(key, format!("{v} is not positive"))),
        v => Ok(v),
    };
    let factor = positive("rope.scaling.factor")?.or(positive("rope.scale_linear")?);
    let kind = match keys.metadata.get(&keys.name("rope.scaling.type")) {
        Some(value) => {
            value.as_str().ok_or_else(|| keys.error("rope.scaling.type", "a string is expected"))?
        }
        // Files from before the key existed: a factor alone means linear.
        None if factor.is_some_and(|f| f != 1.0) => "linear",
        None => "none",
    };
    let factor = || factor.ok_or_else(|| keys.missing("rope.scaling.factor"));
    match kind {
        "none" => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear { factor: factor()? }),
        "yarn" => Ok(RopeScaling::Yarn {
            factor: factor()?,
            original_context: match keys.size("rope.scaling.original_context_length", limit::CONTEXT)? {
                Some(context) => context,
                None => keys.need("context_length", limit::CONTEXT)?,
            },
            attention_factor: positive("rope.scaling.yarn_attn_factor")?
                .or(positive("rope.scaling.attn_factor")?),
            beta_fast: positive("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
            beta_slow: positive("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
        }),
        other => {
            let what = format!("rope scaling {other:?} is not supported (none, linear, yarn are)");
            Err(Error::unsupported(keys.file, what))
        }
    }
}

/// The divisors of `rope_freqs.weight`, if the file has it.
fn factors(config: &Config, file: &Path, checkpoint: &Checkpoint) -> Result<Option<Vec<f32>>> {
    let Some(name) = config.tensor_name(World::Gguf, TensorRole::RopeFactors, None) else { return Ok(None) };
    let Some(tensor) = checkpoint.tensor(&name) else { return Ok(None) };
    let bad = |what: String| Err(Error::malformed(file, what).with_tensor(&name));
    if tensor.info.element_type != ElementType::F32 {
        return bad(format!("f32 is expected, not {}", tensor.info.element_type));
    }
    let (len, expected) = (tensor.info.elements(), config.rope.dimensions / 2);
    if len != expected {
        return bad(format!("{len} values for {expected} pairs of dimensions"));
    }
    let values = tensor.data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    let factors: Vec<f32> = values.collect();
    match factors.iter().position(|f| !(f.is_finite() && *f > 0.0)) {
        Some(i) => bad(format!("value {i} is {}, not finite and positive", factors[i])),
        None => Ok(Some(factors)),
    }
}
