//! The metadata llama.cpp's converter writes, key by key, type by type, in its order.
//!
//! Left out on purpose: what it guesses from names beyond the title (`general.basename`, `finetune`,
//! `version`), and of the model card everything but licence, tags and languages. `general.size_label` is always
//! counted, never taken from the name.

use std::path::Path;

use quern_tensor_io::scheme::Packing;
use quern_tensor_io::{Array, Checkpoint, Container, Error, Metadata, Result, Value, decode};

use crate::architecture::{Block, GgufKey};
use crate::config::{
    RopeScaling, XIELU, indexer, llama4, mixers, unusual_query_scalar, unusual_window_pattern, yarn_mscale,
};
use crate::contents::{Contents, Place};
use crate::json::Json;
use crate::tokenizer::Source;
use crate::{Config, TensorRole as Role};

use super::mixture::Entry;
use super::{card, limits, mixture, name, tokenizer};

/// A GGUF checkpoint's metadata, less what describes its splits.
pub(crate) fn own_metadata(checkpoint: &Checkpoint) -> Metadata {
    let mut metadata = checkpoint.metadata().clone();
    for key in ["split.no", "split.count", "split.tensors.count"] {
        metadata.remove(key);
    }
    metadata
}

/// The metadata llama.cpp's converter would write for `checkpoint`; a GGUF checkpoint's own are copied, less
/// those that describe its splits.
///
/// `general.quantization_version` and `general.file_type` are not set: the writer of the tensors appends them,
/// as llama-quantize does (both u32).
/// Beside it what a user should know: rules of the tokenizer that llama.cpp has no name for and the like.
pub fn gguf_metadata(checkpoint: &Checkpoint, config: &Config) -> Result<(Metadata, Vec<String>)> {
    if checkpoint.container() == Container::Gguf {
        return Ok((own_metadata(checkpoint), Vec::new()));
    }
    metadata_of(&Contents::matched(checkpoint, config.clone(), Packing::read(checkpoint)?))
}

/// The same for a Hugging Face checkpoint whose contents were read before.
pub(crate) fn metadata_of(contents: &Contents<'_>) -> Result<(Metadata, Vec<String>)> {
    let (checkpoint, config) = (contents.checkpoint(), contents.config());
    if let Some(reason) = config.architecture.no_gguf {
        return Err(Error::unsupported(checkpoint.path(), reason));
    }
    let directory = checkpoint.directory();
    // The vocabulary is padded to the embedding's size; make sure that the file backs that size.
    if !contents.tensors().iter().any(|t| t.expected.role == Role::TokenEmbedding) {
        contents.require_sound()?;
    }
    let mut notes = limits::check(checkpoint.path(), config)?;
    let source = Source::read(directory, Some(config.vocab_size))?;

    // GGUF has rope factors in a tensor.
    let factors = config.rope.factors.as_ref().map_or(0, Vec::len) as u64;
    let mut out = Metadata::new();
    out.set("general.architecture", config.architecture.name);
    out.set("general.type", "model");
    sampling(directory, &mut out)?;
    out.set("general.name", name::title(directory).as_str());
    out.set("general.size_label", name::size_label(contents.parameters() + factors).as_str());
    card::read(directory, &mut out)?;
    model(config, &mut out);
    xielu(contents, &mut out)?;
    notes.extend(tokenizer::write(source, config.architecture.name, &mut out));
    Ok((out, notes))
}

/// xIELU's parameters, which are tensors of Hugging Face's checkpoints.
fn xielu(contents: &Contents<'_>, out: &mut Metadata) -> Result<()> {
    let (checkpoint, config) = (contents.checkpoint(), contents.config());
    if !config.architecture.gguf_keys.contains(&GgufKey::Xielu) {
        return Ok(());
    }
    for (key, role) in XIELU {
        let mut values = vec![0.0; config.layers];
        for held in contents.tensors().iter().filter(|t| t.expected.role == role) {
            let (Place::Plain(span), Some(layer)) = (held.place, held.expected.layer) else { continue };
            let info = span.info(checkpoint);
            if !decode::to_f32(info.element_type, span.data(checkpoint), &mut values[layer..=layer]) {
                let what = format!("its element type {} cannot be read as a number", info.element_type);
                return Err(Error::unsupported(checkpoint.file_of(info), what).with_tensor(&info.name));
            }
        }
        out.set(key, Value::Array(Array::F32(values)));
    }
    Ok(())
}

/// Architecture and sizes alone.
pub(crate) fn sizes(config: &Config) -> Metadata {
    let mut out = Metadata::new();
    out.set("general.architecture", config.architecture.name);
    model(config, &mut out);
    out
}

/// Sampling parameters the publisher recommends, from `generation_config.json`.
fn sampling(directory: &Path, out: &mut Metadata) -> Result<()> {
    let Some(json) = Json::read_optional(&directory.join("generation_config.json"))? else { return Ok(()) };
    let root = json.root();
    // In the converter's order; top_k is first.
    if let Some(v) = root.u64("top_k")? {
        let v = i32::try_from(v).map_err(|_| root.error("top_k", format!("{v} is too large")))?;
        out.set("general.sampling.top_k", Value::I32(v));
    }
    let mut float = |from: &str, to: &str| -> Result<()> {
        if let Some(v) = root.f64(from)? {
            out.set(format!("general.sampling.{to}"), Value::F32(v as f32));
        }
        Ok(())
    };
    float("top_p", "top_p")?;
    float("min_p", "min_p")?;
    float("temperature", "temp")
}

fn model(config: &Config, out: &mut Metadata) {
    let prefix = config.architecture.name;
    let mut set = |key: &str, value: Value| out.set(format!("{prefix}.{key}"), value);
    let size = |v: usize| Value::U32(v as u32); // all sizes were checked against limits far below 2^32
    let rope = &config.rope;
    let window = config.sliding_window.filter(|_| config.sliding_layers.contains(&true));
    for &key in config.architecture.gguf_keys {
        match key {
            GgufKey::BlockCount => set("block_count", size(config.layers)),
            GgufKey::ContextLength => set("context_length", size(config.context_length)),
            GgufKey::EmbeddingLength => set("embedding_length", size(config.hidden_size)),
            GgufKey::FeedForwardLength if config.shared_ffn_doubled || config.streams > 1 => {
                let widths = (0..config.layers).map(|layer| config.ffn_of(layer) as i32).collect();
                set("feed_forward_length", Value::Array(Array::I32(widths)));
            }
            GgufKey::FeedForwardLength => set("feed_forward_length", size(config.ffn_size)),
            GgufKey::HeadCount => set("attention.head_count", size(config.heads)),
            GgufKey::HeadCountKv
                if config.windowed_heads.is_some_and(|heads| heads.count != config.kv_heads) =>
            {
                let counts = (0..config.layers).map(|layer| config.key_heads(layer).0 as i32).collect();
                set("attention.head_count_kv", Value::Array(Array::I32(counts)));
            }
            GgufKey::HeadCountKv => set("attention.head_count_kv", size(config.kv_heads)),
            GgufKey::RopeFreqBase => set("rope.freq_base", Value::F32(rope.theta)),
            GgufKey::RopeFreqBaseUnlessUsual if rope.theta == 10_000.0 => {}
            GgufKey::RopeFreqBaseUnlessUsual => set("rope.freq_base", Value::F32(rope.theta)),
            GgufKey::RopeFreqBaseSwa => {
                if let Some(theta) = rope.local_theta {
                    set("rope.freq_base_swa", Value::F32(theta));
                }
            }
            GgufKey::RopeScaling => {
                let elsewhere = [GgufKey::YarnLogMultiplier, GgufKey::YarnScoreMultiplier];
                let by_multiplier = elsewhere.iter().any(|key| config.architecture.gguf_keys.contains(key));
                // Files of these say all constants of YaRN, and the converter writes those that are said.
                let said = matches!(prefix, "gpt-oss" | "deepseek2" | "deepseek32");
                rope_scaling(&rope.scaling, by_multiplier, said, &mut set);
            }
            GgufKey::RopeSections => {
                if let Some(sections) = config.rope_sections {
                    let sections = sections.iter().map(|&n| n as i32).collect();
                    set("rope.dimension_sections", Value::Array(Array::I32(sections)));
                }
            }
            GgufKey::DeepstackLayers => set("n_deepstack_layers", Value::U32(config.deepstack_layers)),
            GgufKey::Llama4 => llama4::to_gguf(config, &mut set),
            GgufKey::QueryGrowth => {
                if let Some(growth) = config.query_growth {
                    set("attention.temperature_scale", Value::F32(growth.beta));
                }
            }
            GgufKey::YarnLogMultiplier => {
                if let Some(multiplier) = log_multiplier(&rope.scaling) {
                    set("rope.scaling.yarn_log_multiplier", Value::F32(multiplier));
                }
            }
            GgufKey::YarnScoreMultiplier => {
                if let Some(mscale) = config.latent.and_then(|latent| latent.mscale) {
                    set("rope.scaling.yarn_log_multiplier", Value::F32((0.1 * mscale) as f32));
                }
            }
            GgufKey::HeadCountKvOne => set("attention.head_count_kv", size(1)),
            GgufKey::DenseLayersAlone => {
                set("leading_dense_block_count", size(config.layers));
                set("expert_feed_forward_length", size(config.ffn_size));
                set("expert_shared_count", size(0));
            }
            GgufKey::LatentRanks => {
                if let Some(latent) = config.latent {
                    if let Some(rank) = latent.query_rank {
                        set("attention.q_lora_rank", size(rank));
                    }
                    set("attention.kv_lora_rank", size(latent.rank));
                }
            }
            GgufKey::LatentLengths => {
                if let Some(latent) = config.latent {
                    set("attention.key_length", size(latent.cached()));
                    set("attention.value_length", size(latent.rank));
                    set("attention.key_length_mla", size(latent.head_dim()));
                    set("attention.value_length_mla", size(latent.value_dim));
                }
            }
            GgufKey::Indexer => indexer::to_gguf(config, &mut set),
            GgufKey::KeyLength => set("attention.key_length", size(config.head_dim)),
            GgufKey::RopeDimensionCount => set("rope.dimension_count", size(rope.dimensions)),
            GgufKey::OriginalContextLength => {
                let original = match rope.scaling {
                    RopeScaling::Long { original_context, .. } => original_context,
                    RopeScaling::None
                    | RopeScaling::Linear { .. }
                    | RopeScaling::Dynamic { .. }
                    | RopeScaling::Llama3 { .. }
                    | RopeScaling::Yarn { .. } => config.context_length,
                };
                set("rope.scaling.original_context_length", size(original));
            }
            GgufKey::RopeAttentionFactor => {
                if matches!(rope.scaling, RopeScaling::Long { .. }) {
                    let factor = rope.scaling.attention_factor(config.context_length);
                    set("rope.scaling.attn_factor", Value::F32(factor as f32));
                }
            }
            GgufKey::RmsEpsilon | GgufKey::LayerNormEpsilon => {
                let (own, name) = config.architecture.gguf_epsilon();
                if key == own {
                    set(name, Value::F32(config.norm_epsilon));
                }
            }
            GgufKey::ExpertCount => mixture::write(Entry::Count, config, &mut set),
            GgufKey::ExpertUsedCount => mixture::write(Entry::Used, config, &mut set),
            GgufKey::ExpertFeedForwardLength => mixture::write(Entry::Width, config, &mut set),
            GgufKey::MoeLatentSize => mixture::write(Entry::Latent, config, &mut set),
            GgufKey::ExpertWeightsNormOff => mixture::write(Entry::NormOff, config, &mut set),
            GgufKey::ExpertWeightsNorm => mixture::write(Entry::Norm, config, &mut set),
            GgufKey::ExpertWeightsNormOn => mixture::write(Entry::NormOn, config, &mut set),
            GgufKey::ExpertWeightsScale => mixture::write(Entry::Scale, config, &mut set),
            GgufKey::ExpertWeightsScaleUnlessOne => mixture::write(Entry::ScaleUnlessOne, config, &mut set),
            GgufKey::ExpertGatingFunc => mixture::write(Entry::Gating, config, &mut set),
            GgufKey::ExpertSharedCount => mixture::write(Entry::SharedCount, config, &mut set),
            GgufKey::ExpertSharedFeedForwardLength => mixture::write(Entry::SharedWidth, config, &mut set),
            GgufKey::ExpertGroups => mixture::write(Entry::Groups, config, &mut set),
            GgufKey::LeadingDenseBlockCount => mixture::write(Entry::LeadingDense, config, &mut set),
            GgufKey::InterleaveMoeLayerStep => mixture::write(Entry::Interleave, config, &mut set),
            GgufKey::KeyValueLengthIfGiven if !config.head_dim_given => {}
            GgufKey::KeyValueLengthUnlessUsual if config.head_dim * config.heads == config.hidden_size => {}
            GgufKey::KeyValueLength | GgufKey::KeyValueLengthIfGiven | GgufKey::KeyValueLengthUnlessUsual => {
                set("attention.key_length", size(config.head_dim));
                set("attention.value_length", size(config.head_dim));
            }
            GgufKey::ClampKqv => {
                if let Some(limit) = config.qkv_limit {
                    set("attention.clamp_kqv", Value::F32(limit));
                }
            }
            GgufKey::VocabSize => set("vocab_size", size(config.vocab_size)),
            GgufKey::UseParallelResidual => {
                set("use_parallel_residual", Value::Bool(config.block == Block::Parallel));
            }
            GgufKey::AttentionSoftcap => {
                if let Some(cap) = config.attention_softcap {
                    set("attn_logit_softcapping", Value::F32(cap));
                }
            }
            GgufKey::FinalSoftcap => {
                if let Some(cap) = config.final_softcap {
                    set("final_logit_softcapping", Value::F32(cap));
                }
            }
            GgufKey::SlidingWindow => {
                if let Some(window) = window {
                    set("attention.sliding_window", size(window));
                }
            }
            GgufKey::SlidingWindowPattern => {
                if let Some(every) = unusual_window_pattern(config) {
                    set("attention.sliding_window_pattern", size(every));
                }
            }
            GgufKey::SlidingWindowLayers => {
                if window.is_some() {
                    let layers = Array::Bool(config.sliding_layers.clone());
                    set("attention.sliding_window_pattern", Value::Array(layers));
                }
            }
            GgufKey::RotatedLayers => {
                if config.unrotated_layers.contains(&true) {
                    let layers = (0..config.layers).map(|layer| config.rotates(layer)).collect();
                    set("attention.rope_pattern", Value::Array(Array::Bool(layers)));
                }
            }
            GgufKey::Multipliers => {
                set("attention.scale", Value::F32(config.attention_scale(0)));
                set("embedding_scale", Value::F32(config.embedding_multiplier));
                set("residual_scale", Value::F32(config.residual_multiplier));
                set("logit_scale", Value::F32(config.logit_divisor));
            }
            GgufKey::StretchedRope => {
                if config.rope_stretched {
                    set("rope.scaling.type", "none".into());
                    set("rope.scaling.factor", Value::F32(1.0));
                    set("rope.scaling.original_context_length", size(config.context_length));
                }
            }
            // Of a checkpoint's tensors: `metadata_of`.
            GgufKey::Xielu => {}
            GgufKey::Streams => {
                set("altup.active_idx", size(0));
                set("altup.num_inputs", size(config.streams));
            }
            GgufKey::Cutoffs => {
                set("activation_sparsity_scale", Value::Array(Array::F32(config.cutoffs.clone())));
            }
            GgufKey::SharedKvLayers => set("attention.shared_kv_layers", size(config.shared_kv_layers)),
            GgufKey::PerLayerLength => {
                let length = config.per_layer.map_or(0, |per_layer| per_layer.size);
                set("embedding_length_per_layer_input", size(length));
            }
            GgufKey::WindowedHeads => {
                if let Some(heads) = config.windowed_heads {
                    set("attention.key_length_swa", size(heads.size));
                    set("attention.value_length_swa", size(heads.size));
                    set("rope.dimension_count_swa", size(heads.size));
                }
            }
            GgufKey::MultipliersButAttention => {
                set("embedding_scale", Value::F32(config.embedding_multiplier));
                set("residual_scale", Value::F32(config.residual_multiplier));
                set("logit_scale", Value::F32(config.logit_divisor));
            }
            GgufKey::RmsEpsilonToo => {
                set("attention.layer_norm_rms_epsilon", Value::F32(config.norm_epsilon));
            }
            GgufKey::RopeScalingNoneUnlessScaled => {
                if matches!(rope.scaling, RopeScaling::None) {
                    set("rope.scaling.type", "none".into());
                }
            }
            GgufKey::LogitScale => set("logit_scale", Value::F32(config.logit_multiplier)),
            GgufKey::NoSpeculativeLayers => set("nextn_predict_layers", size(0)),
            GgufKey::RopeScalingNone => set("rope.scaling.type", "none".into()),
            GgufKey::SlidingWindowOrZero => {
                set("attention.sliding_window", size(window.unwrap_or(0)));
            }
            GgufKey::AttentionScale => {
                if unusual_query_scalar(config).is_some() {
                    set("attention.scale", Value::F32(config.attention_scale(0)));
                }
            }
            GgufKey::ExpertSharedCountOne => set("expert_shared_count", size(1)),
            GgufKey::NoAttention => {
                set("feed_forward_length", size(0));
                set("attention.head_count", size(0));
            }
            GgufKey::NoExperts => {
                set("expert_count", size(0));
                set("expert_used_count", size(0));
                set("expert_shared_feed_forward_length", size(config.ffn_size));
            }
            GgufKey::RopeNotFinetuned => set("rope.scaling.finetuned", Value::Bool(false)),
            GgufKey::RopeFinetuned => set("rope.scaling.finetuned", Value::Bool(true)),
            GgufKey::NemotronH => {
                set("attention.layer_norm_epsilon", Value::F32(config.norm_epsilon));
                set("rope.dimension_count", size(config.hidden_size / config.heads.max(1)));
                set("rope.scaling.finetuned", Value::Bool(false));
            }
            GgufKey::DeltaNet
            | GgufKey::ShortConv
            | GgufKey::Mamba2
            | GgufKey::HeadCountKvLayers
            | GgufKey::FeedForwardLengthLayers => {
                mixers::to_gguf(config, key, &mut set);
            }
            GgufKey::TensorDataLayout => set("tensor_data_layout", "jploski".into()),
        }
    }
}

/// The `m` for which `mscale(1) / mscale(m)` is YaRN's attention factor; `None` where that is the usual one.
fn log_multiplier(scaling: &RopeScaling) -> Option<f32> {
    let &RopeScaling::Yarn { factor, attention_factor: Some(own), .. } = scaling else { return None };
    let growth = yarn_mscale(factor.into(), 1.0) - 1.0;
    (growth > 0.0).then(|| (((1.0 + growth) / f64::from(own) - 1.0) / growth) as f32)
}

/// The constants of a scaled rope. With `by_multiplier` the attention factor is written elsewhere.
fn rope_scaling(
    scaling: &RopeScaling,
    by_multiplier: bool,
    with_usual: bool,
    set: &mut impl FnMut(&str, Value),
) {
    match *scaling {
        // Llama 3's goes into the tensor rope_freqs.weight, Phi-3's into rope_factors_long and _short; what GGUF
        // cannot say is refused or noted before.
        RopeScaling::None
        | RopeScaling::Dynamic { .. }
        | RopeScaling::Llama3 { .. }
        | RopeScaling::Long { .. } => {}
        RopeScaling::Linear { factor } => {
            set("rope.scaling.type", "linear".into());
            set("rope.scaling.factor", Value::F32(factor));
        }
        RopeScaling::Yarn {
            factor,
            original_context,
            attention_factor,
            beta_fast,
            beta_slow,
            truncate: _,
        } => {
            set("rope.scaling.type", "yarn".into());
            set("rope.scaling.factor", Value::F32(factor));
            set("rope.scaling.original_context_length", Value::U32(original_context as u32));
            if let Some(v) = attention_factor.filter(|_| !by_multiplier) {
                // The converter writes the whole of it; the loader reads what it multiplies the usual value with.
                set("rope.scaling.yarn_attn_factor", Value::F32(v));
                let part = f64::from(v) / yarn_mscale(factor.into(), 1.0);
                set("rope.scaling.attn_factor", Value::F32(part as f32));
            }
            // Left out where readers take the same by themselves.
            if beta_fast != 32.0 || with_usual {
                set("rope.scaling.yarn_beta_fast", Value::F32(beta_fast));
            }
            if beta_slow != 1.0 || with_usual {
                set("rope.scaling.yarn_beta_slow", Value::F32(beta_slow));
            }
        }
    }
}
