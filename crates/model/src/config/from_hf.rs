//! `config.json` of Hugging Face transformers, old style and new.

use std::path::Path;

use quern_tensor_io::{ElementType, Error, Result};
use serde_json::Value;

use crate::architecture::{Activation, Architecture, RopeStyle, World};
use crate::architectures;
use crate::json::{Json, Object};

use super::{Config, Rope, RopeScaling, limit, unknown_architecture};

pub(super) fn read(file: &Path) -> Result<Config> {
    if !file.is_file() {
        let what = "there is no config.json beside the weights, so the architecture is unknown";
        return Err(Error::malformed(file, what));
    }
    let json = Json::read(file)?;
    let root = json.root();
    let architecture = architecture(&root)?;

    let need = |key: &str, max: usize| root.size(key, max)?.ok_or_else(|| root.missing(key));
    let hidden_size = need("hidden_size", limit::HIDDEN)?;
    let heads = need("num_attention_heads", limit::HEADS)?;
    let head_dim = match root.size("head_dim", limit::HIDDEN)? {
        Some(given) => given,
        None if hidden_size.is_multiple_of(heads) => hidden_size / heads,
        None => {
            let what = format!(
                "{heads} heads do not divide the hidden size {hidden_size}, and head_dim is not given"
            );
            return Err(root.error("num_attention_heads", what));
        }
    };
    let context_length = need("max_position_embeddings", limit::CONTEXT)?;
    let rope = rope(&root, head_dim, context_length)?;
    let hidden_act = root.str("hidden_act")?.unwrap_or("silu");
    let activation = Activation::from_hf(hidden_act)
        .ok_or_else(|| Error::unsupported(file, format!("hidden_act {hidden_act:?} is not supported")))?;
    let default_tied = false; // as LlamaConfig and MistralConfig have it

    Config {
        architecture,
        world: World::HuggingFace,
        vocab_size: need("vocab_size", limit::VOCAB)?,
        hidden_size,
        layers: need("num_hidden_layers", limit::LAYERS)?,
        heads,
        kv_heads: root.size("num_key_value_heads", limit::HEADS)?.unwrap_or(heads),
        head_dim,
        ffn_size: need("intermediate_size", limit::HIDDEN)?,
        context_length,
        norm_epsilon: root.f64("rms_norm_eps")?.ok_or_else(|| root.missing("rms_norm_eps"))? as f32,
        rope,
        rope_style: RopeStyle::HalfSplit,
        sliding_window: root.size("sliding_window", limit::CONTEXT)?,
        tied_embeddings: root.bool("tie_word_embeddings")?.unwrap_or(default_tied),
        attention_bias: root.bool("attention_bias")?.unwrap_or(false),
        mlp_bias: root.bool("mlp_bias")?.unwrap_or(false),
        activation,
        dtype: dtype(&root)?,
        quantization: quantization(&root)?,
    }
    .checked(file)
}

fn architecture(root: &Object<'_>) -> Result<&'static Architecture> {
    let listed = root.array("architectures")?.unwrap_or(&[]);
    let names: Vec<&str> = listed.iter().filter_map(Value::as_str).collect();
    let model_type = root.str("model_type")?;
    // The class decides: a `model_type` of llama also serves classes that are no language models.
    let found = match names.first() {
        Some(_) => names.iter().find_map(|name| architectures::from_hf_architecture(name)),
        None => model_type.and_then(architectures::from_hf_model_type),
    };
    found.ok_or_else(|| match names.first().copied().or(model_type) {
        Some(name) => unknown_architecture(root.file(), name),
        None => root.missing("architectures"),
    })
}

fn rope(root: &Object<'_>, head_dim: usize, context_length: usize) -> Result<Rope> {
    let parameters = root.object("rope_parameters")?;
    let scaling_object = match &parameters {
        Some(p) => Some(p.clone()),
        None => root.object("rope_scaling")?,
    };
    let from_parameters = match &parameters {
        Some(p) => p.f64("rope_theta")?,
        None => None,
    };
    let theta = match from_parameters {
        Some(theta) => theta,
        None => root.f64("rope_theta")?.unwrap_or(10_000.0),
    } as f32;
    let scaling = match scaling_object {
        Some(object) => scaling(&object, context_length)?,
        None => RopeScaling::None,
    };
    for object in parameters.iter().chain([root]) {
        if let Some(partial) = object.f64("partial_rotary_factor")?.filter(|&p| p != 1.0) {
            let what = format!(
                "{}: turning a part of {partial} of each head is not supported",
                object.name("partial_rotary_factor")
            );
            return Err(Error::unsupported(root.file(), what));
        }
    }
    let dimensions = head_dim;
    // A head that cannot be turned is refused later with the other checks; nothing to compute for it.
    let factors = scaling.llama3_factors(theta, dimensions);
    if factors.iter().flatten().any(|f| !(f.is_finite() && *f > 0.0)) {
        let what = "the rope scaling gives frequencies that are not finite and positive";
        return Err(Error::malformed(root.file(), what));
    }
    Ok(Rope { theta, dimensions, scaling, factors })
}

fn scaling(object: &Object<'_>, context_length: usize) -> Result<RopeScaling> {
    let kind = match object.str("rope_type")? {
        Some(kind) => kind,
        None => object.str("type")?.unwrap_or("default"),
    };
    let positive = |key: &str| -> Result<Option<f32>> {
        match object.f64(key)? {
            None => Ok(None),
            Some(v) if (1e-6..=1e9).contains(&v) => Ok(Some(v as f32)),
            Some(v) => Err(object.error(key, format!("{v} is not between 1e-6 and 1e9"))),
        }
    };
    let need = |key: &str| positive(key)?.ok_or_else(|| object.missing(key));
    let original_context = object.size("original_max_position_embeddings", limit::CONTEXT)?;
    match kind {
        "default" => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear { factor: need("factor")? }),
        "llama3" => {
            let (low, high) = (need("low_freq_factor")?, need("high_freq_factor")?);
            if high <= low {
                return Err(
                    object.error("high_freq_factor", format!("{high} is not above low_freq_factor {low}"))
                );
            }
            Ok(RopeScaling::Llama3 {
                factor: need("factor")?,
                low,
                high,
                original_context: original_context
                    .ok_or_else(|| object.missing("original_max_position_embeddings"))?,
            })
        }
        "yarn" => Ok(RopeScaling::Yarn {
            factor: need("factor")?,
            original_context: original_context.unwrap_or(context_length),
            attention_factor: positive("attention_factor")?,
            beta_fast: positive("beta_fast")?.unwrap_or(32.0),
            beta_slow: positive("beta_slow")?.unwrap_or(1.0),
        }),
        other => Err(Error::unsupported(
            object.file(),
            format!(
                "{}: rope scaling {other:?} is not supported (default, linear, llama3, yarn are)",
                object.name("rope_type")
            ),
        )),
    }
}

fn dtype(root: &Object<'_>) -> Result<Option<ElementType>> {
    let name = match root.str("dtype")? {
        Some(name) => Some(name),
        None => root.str("torch_dtype")?,
    };
    Ok(match name.map(|n| n.strip_prefix("torch.").unwrap_or(n)) {
        Some("float32") => Some(ElementType::F32),
        Some("float16") => Some(ElementType::F16),
        Some("bfloat16") => Some(ElementType::BF16),
        _ => None,
    })
}

fn quantization(root: &Object<'_>) -> Result<Option<String>> {
    let Some(object) = root.object("quantization_config")? else { return Ok(None) };
    Ok(Some(object.str("quant_method")?.unwrap_or("unknown").to_owned()))
}
