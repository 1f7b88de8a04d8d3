//! Multi-head latent attention (DeepSeek V2): keys and values of all heads are made of one vector a position.

use quern_tensor_io::{Error, Metadata, Result};

use crate::architecture::{Architecture, Field, Scores, TensorRole};
use crate::architectures;

use super::from_hf::Reader;
use super::gguf_keys::Keys;
use super::rope::yarn_mscale;
use super::{Config, RopeScaling, limit, mixture};

/// The sizes of latent attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Latent {
    /// Width between the two projections of queries; `None` where one matrix makes them.
    pub query_rank: Option<usize>,
    /// Numbers of the vector that keys and values are made of.
    pub rank: usize,
    /// Numbers of a query and a key that are rotated, the last ones; those of a key are the same for all heads.
    pub rope_dim: usize,
    /// Numbers in front of them.
    pub nope_dim: usize,
    /// Numbers of a value.
    pub value_dim: usize,
    /// `mscale_all_dim` of YaRN: scores are multiplied by the square of what it gives.
    pub mscale: Option<f64>,
    /// A GGUF file of this model has keys' and values' projections in one matrix, as Hugging Face has.
    pub joined_in_gguf: bool,
}

impl Latent {
    /// Numbers of a query and a key.
    pub fn head_dim(&self) -> usize {
        self.nope_dim + self.rope_dim
    }

    /// Numbers of a position in the cache.
    pub fn cached(&self) -> usize {
        self.rank + self.rope_dim
    }

    /// What YaRN multiplies attention scores with.
    pub(super) fn score_factor(&self, scaling: &RopeScaling) -> f32 {
        match (scaling, self.mscale) {
            (&RopeScaling::Yarn { factor, .. }, Some(mscale)) => {
                yarn_mscale(factor.into(), mscale).powi(2) as f32
            }
            (RopeScaling::Yarn { .. }, None)
            | (
                RopeScaling::None
                | RopeScaling::Linear { .. }
                | RopeScaling::Dynamic { .. }
                | RopeScaling::Llama3 { .. }
                | RopeScaling::Long { .. },
                _,
            ) => 1.0,
        }
    }
}

/// Whether llama.cpp's converter writes keys' and values' projections of this family into one matrix.
fn joined(architecture: &Architecture) -> bool {
    !architecture.tensors.iter().any(|t| t.role == TensorRole::AttentionKUp)
}

/// As `config.json` says it; `None` for a family without.
pub(super) fn from_hf(reader: &Reader<'_>, hidden: usize, heads: usize) -> Result<Option<Latent>> {
    if !reader.has(Field::LatentRank) {
        return Ok(None);
    }
    let need = |field| reader.need(field, limit::HIDDEN);
    let value_dim = match reader.size(Field::LatentValueDim, limit::HIDDEN)? {
        Some(size) => size,
        // MiniCPM3, where the key is null.
        None if hidden.is_multiple_of(heads) => hidden / heads,
        None => return Err(reader.root.missing("v_head_dim")),
    };
    Ok(Some(Latent {
        query_rank: reader.size(Field::QueryRank, limit::HIDDEN)?,
        rank: need(Field::LatentRank)?,
        rope_dim: need(Field::LatentRopeDim)?,
        nope_dim: need(Field::LatentNopeDim)?,
        value_dim,
        mscale: None,
        joined_in_gguf: joined(reader.architecture),
    }))
}

/// Completes it by what is said beside the constants of YaRN, once those were read.
pub(super) fn complete(reader: &Reader<'_>, config: &mut Config) -> Result<()> {
    const KEY: &str = "mscale_all_dim";
    let Some(latent) = &mut config.latent else { return Ok(()) };
    let root = reader.root;
    if config.kv_heads != config.heads {
        let what =
            format!("{} key-value heads for {} heads of latent attention", config.kv_heads, config.heads);
        return Err(root.error("num_key_value_heads", what));
    }
    // DeepSeek V2 may have groups that it does not use.
    let greedy = root.str("topk_method")?.unwrap_or("greedy") == "greedy";
    if let Some(experts) =
        config.experts.as_mut().filter(|experts| greedy && experts.scores == Scores::Softmax)
    {
        experts.groups = None;
    }
    // GLM-4.7-Flash may list the kinds of its networks.
    if let Some(kinds) = root.array("mlp_layer_types")?.filter(|_| config.experts.is_some()) {
        config.sparse_layers = mixture::sparse_by_kind(root, kinds, config.layers)?;
    }
    let object = match root.object("rope_scaling")?.filter(|object| object.entries().next().is_some()) {
        Some(object) => Some(object),
        None => root.object("rope_parameters")?,
    };
    let Some(object) = object else { return Ok(()) };
    let Some(mscale) = object.f64(KEY)?.filter(|&mscale| mscale != 0.0) else { return Ok(()) };
    match config.rope.scaling {
        RopeScaling::Yarn { .. } if (1e-6..=1e6).contains(&mscale) => latent.mscale = Some(mscale),
        RopeScaling::Yarn { .. } => {
            return Err(object.error(KEY, format!("{mscale} is not between 1e-6 and 1e6")));
        }
        RopeScaling::None => {}
        RopeScaling::Linear { .. }
        | RopeScaling::Dynamic { .. }
        | RopeScaling::Llama3 { .. }
        | RopeScaling::Long { .. } => {
            let what = format!("{}: scores are scaled so beside yarn alone", object.name(KEY));
            return Err(Error::unsupported(root.file(), what));
        }
    }
    Ok(())
}

/// The class of a mixture of this GGUF name whose scores are those that the file says: DeepSeek V2's are a softmax, V3's
/// sigmoids.
pub(super) fn of_scores(found: &'static Architecture, metadata: &Metadata) -> &'static Architecture {
    if !std::ptr::eq(found, &architectures::DEEPSEEK_V2) {
        return found;
    }
    let number = |key: &str| metadata.u64(&format!("deepseek2.{key}"));
    let vocabulary = number("vocab_size")
        .or_else(|| metadata.strings("tokenizer.ggml.tokens").map(|tokens| tokens.len() as u64));
    let sigmoid = match number("expert_gating_func") {
        // Files of GLM-4.7-Flash do not say it.
        None | Some(0) => vocabulary == Some(154_880) && matches!(number("block_count"), Some(47 | 48)),
        Some(function) => function == 2,
    };
    if sigmoid { &architectures::DEEPSEEK_V3 } else { found }
}

/// As GGUF metadata says it; `None` for a family without. `has_joined`: the file has keys' and values' projections in
/// one matrix.
pub(super) fn from_gguf(
    keys: &Keys<'_>,
    architecture: &Architecture,
    has_joined: bool,
) -> Result<Option<Latent>> {
    let of_family = |t: &crate::architecture::TensorTemplate| t.role == TensorRole::AttentionKvDown;
    if !architecture.tensors.iter().any(of_family) {
        return Ok(None);
    }
    let rank = keys.need("attention.kv_lora_rank", limit::HIDDEN)?;
    let rope_dim = keys.need("rope.dimension_count", limit::HIDDEN)?;
    // Files with both in one matrix have the sizes of heads where others have those of the cache.
    let length = |name: &str| -> Result<Option<usize>> {
        match keys.size(&format!("attention.{name}_mla"), limit::HIDDEN)? {
            Some(size) => Ok(Some(size)),
            None => keys.size(&format!("attention.{name}"), limit::HIDDEN),
        }
    };
    let head = length("key_length")?.ok_or_else(|| keys.missing("attention.key_length"))?;
    let Some(nope_dim) = head.checked_sub(rope_dim).filter(|&size| size > 0) else {
        let what = format!("{head} numbers of a key, of which {rope_dim} are rotated");
        return Err(keys.error("attention.key_length", what));
    };
    let value_dim = match length("value_length")? {
        Some(size) => size,
        None => {
            let (hidden, heads) = (
                keys.need("embedding_length", limit::HIDDEN)?,
                keys.need("attention.head_count", limit::HEADS)?,
            );
            (hidden / heads).max(1)
        }
    };
    let mscale = keys.positive("rope.scaling.yarn_log_multiplier")?.map(|multiplier| {
        // A tenth of it was written, in f32.
        let mscale = f64::from(multiplier) * 10.0;
        let rounded = (mscale * 1e5).round() / 1e5;
        if (rounded - mscale).abs() <= 1e-6 * mscale { rounded } else { mscale }
    });
    Ok(Some(Latent {
        query_rank: keys.size("attention.q_lora_rank", limit::HIDDEN)?,
        rank,
        rope_dim,
        nope_dim,
        value_dim,
        mscale,
        joined_in_gguf: has_joined,
    }))
}
