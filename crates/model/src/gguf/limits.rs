//! What GGUF metadata cannot express of a configuration: refused by name, so that no file computes something else
//! than its source; or noted, where the file computes the same within the context length it states.

use std::path::Path;

use quern_tensor_io::{Error, Result};

use super::mixture;
use crate::Config;
use crate::architecture::{Activation, GgufKey, Presence};
use crate::config::{RopeScaling, llama4, minicpm3, window_pattern};

/// What a user should know of the file to be made.
///
/// # Errors
/// A setting that changes the numbers and has no key in GGUF for this architecture, or none that llama.cpp reads.
pub(super) fn check(file: &Path, config: &Config) -> Result<Vec<String>> {
    let architecture = config.architecture;
    let refused = |what: String| {
        let name = architecture.name;
        let what = format!(
            "GGUF files of {name} models have no key for {what}, and would compute something else; keep the \
             model as safetensors"
        );
        Err(Error::unsupported(file, what))
    };
    let mut notes = Vec::new();
    let written = |key: GgufKey| architecture.gguf_keys.contains(&key);
    let has_tensor = |presence: Presence| architecture.tensors.iter().any(|t| t.presence == presence);
    match config.rope.scaling {
        RopeScaling::None => {}
        RopeScaling::Dynamic { factor } => notes.push(format!(
            "rope scaling \"dynamic\" (factor {factor}) has no key in GGUF; within the trained context of {} \
             positions it changes nothing",
            config.context_length
        )),
        RopeScaling::Yarn { truncate: true, .. } if architecture.name == "gpt-oss" => {
            return refused("\"truncate\": true of yarn rope scaling".into());
        }
        RopeScaling::Yarn { truncate: false, .. } if architecture.name != "gpt-oss" => {
            return refused("\"truncate\": false of yarn rope scaling".into());
        }
        RopeScaling::Linear { .. } | RopeScaling::Yarn { .. } => {
            if !written(GgufKey::RopeScaling) {
                return refused("how rope is scaled (\"rope_scaling\")".into());
            }
        }
        RopeScaling::Llama3 { .. } => {
            if !has_tensor(Presence::RopeFactors) {
                return refused("rope scaling \"llama3\"".into());
            }
        }
        RopeScaling::Long { original_context, .. } => {
            let factor = config.rope.scaling.attention_factor(config.context_length);
            if !written(GgufKey::RopeAttentionFactor)
                && (factor != 1.0 || original_context != config.context_length)
            {
                return refused("the context or the attention factor of rope scaling \"longrope\"".into());
            }
            if !has_tensor(Presence::LongRope) {
                return refused("rope scaling \"longrope\"".into());
            }
        }
    }
    if let (Some(latent), &RopeScaling::Yarn { attention_factor, .. }) = (config.latent, &config.rope.scaling)
        && (attention_factor != Some(1.0)
            || latent.mscale.is_none()
            || !written(GgufKey::YarnScoreMultiplier))
    {
        return refused("\"mscale\" that is not \"mscale_all_dim\"".into());
    }
    if let Some(window) = config.sliding_window.filter(|_| config.sliding_layers.contains(&true)) {
        let any = written(GgufKey::SlidingWindow)
            || written(GgufKey::SlidingWindowOrZero)
            || written(GgufKey::Llama4);
        if !any {
            return refused(format!("\"sliding_window\": {window}"));
        }
        let usual = config.usual_sliding_layers() == config.sliding_layers;
        let periodic = written(GgufKey::SlidingWindowPattern) && window_pattern(config).is_some();
        if !(usual || periodic || written(GgufKey::SlidingWindowLayers)) {
            return refused("which layers a sliding window limits (\"layer_types\")".into());
        }
    }
    if config.unrotated_layers != config.usual_unrotated_layers() && !written(GgufKey::RotatedLayers) {
        return refused("which layers do not rotate queries and keys (\"no_rope_layers\")".into());
    }
    if let Some(what) = mixture::without_key(config) {
        return refused(what);
    }
    if architecture.name == "llama4" {
        match llama4::gguf_limits(config) {
            Ok(note) => notes.extend(note),
            Err(what) => return refused(what),
        }
    }
    if architecture.name == "minicpm3" {
        let own = (config.embedding_multiplier, config.residual_multiplier, config.logit_divisor);
        if own != minicpm3(config) {
            return refused("\"scale_emb\", \"scale_depth\" and \"dim_model_base\"".into());
        }
        if config.latent.is_some_and(|latent| latent.value_dim * config.heads != config.hidden_size) {
            return refused("\"v_head_dim\"".into());
        }
    }
    if config.multipliers.is_some() && config.tied_embeddings {
        // The head would be the embedding with its multiplier.
        let [own, head] = [config.embedding_multiplier, config.logit_multiplier];
        if own != head {
            return refused("\"lm_head_multiplier\" of a head that is the embedding".into());
        }
    }
    if config.scaled_by_layer {
        return refused("\"scale_attn_by_inverse_layer_idx\": true".into());
    }
    if config.query_scalar.is_some_and(|scalar| scalar != config.head_dim as f32)
        && !written(GgufKey::AttentionScale)
    {
        return refused("\"scale_attn_weights\": false".into());
    }
    let (usual, own) = (architecture.activations[0], config.activation);
    let nearly_gelu = |activation| matches!(activation, Activation::Gelu | Activation::GeluTanh);
    if own != usual && nearly_gelu(own) && nearly_gelu(usual) {
        // Published files of such models are read so; the two differ by less than a thousandth.
        notes.push(format!(
            "GGUF has no key for the activation; readers of {} files compute {}, the source says {}",
            architecture.name,
            usual.hf_name(),
            own.hf_name()
        ));
    } else if own != usual {
        return refused(format!("the activation {:?}", own.hf_name()));
    }
    Ok(notes)
}
