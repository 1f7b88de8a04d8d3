//! Configuration that single families state in ways that a table of keys cannot describe.

use quern_tensor_io::{Error, Metadata, Result};
use serde_json::{Map, Value, json};

use crate::architecture::{Block, Field, Scores, Sliding};
use crate::json::Object;

use super::from_hf::Reader;
use super::to_hf::shortest;
use super::{
    Config, QueryGrowth, RopeScaling, StateMixer, States, hunyuan, indexer, limit, llama4, rotation,
};

/// Completes a configuration read from `config.json`.
pub(super) fn from_hf(reader: &Reader<'_>, config: &mut Config) -> Result<()> {
    let root = reader.root;
    sliding(reader, config)?;
    config.unrotated_layers = rotation::unrotated(reader, config)?;
    rotation::base(reader, config)?;
    match config.architecture.name {
        // A parallel block has only one norm.
        "stablelm" | "phi2" | "cohere2" => config.second_norm = config.block != Block::Parallel,
        "smollm3" => all_global(root)?,
        "afmoe" if !root.bool("mup_enabled")?.unwrap_or(false) => {
            let what = format!("{}: afmoe models without it are not supported", root.name("mup_enabled"));
            return Err(Error::unsupported(root.file(), what));
        }
        "gpt-oss" => usual_yarn(root, config)?,
        "cwm" => usual_llama3(root, config)?,
        "falcon" => falcon(root, config)?,
        "minicpm3" => {
            let layers = (config.layers as f64).sqrt();
            let depth = match root.is_null("scale_depth") {
                true => layers,
                false => root.f64("scale_depth")?.unwrap_or(1.4),
            };
            config.residual_multiplier = (depth / layers) as f32;
            config.logit_divisor = match root.is_null("dim_model_base") {
                true => 1.0,
                false => {
                    let base = root.size("dim_model_base", limit::HIDDEN)?.unwrap_or(256);
                    config.hidden_size as f32 / base as f32
                }
            };
        }
        "hunyuan-dense" => hunyuan::stretched(root, config)?,
        "hunyuan-moe" => {
            hunyuan::stretched(root, config)?;
            hunyuan::experts(reader, config)?;
        }
        "gemma3n" => super::gemma3n::from_hf(reader, config)?,
        "gemma4" => super::gemma4::from_hf(reader, config)?,
        "minicpm" => {
            let depth = reader.number(Field::ResidualMultiplier)?.unwrap_or(1.0);
            config.residual_multiplier = (depth / (config.layers as f64).sqrt()) as f32;
            config.logit_divisor = config.hidden_size as f32 / config.logit_divisor;
        }
        "mistral3" => config.query_growth = query_growth(reader)?,
        "llama4" => llama4::from_hf(reader, config)?,
        "lfm2" => config.ffn_size = lfm2_width(reader, config.ffn_size)?,
        // llama.cpp wants them, whatever config.json says.
        "qwen35" | "qwen35moe" => drop(config.rope_sections.get_or_insert([11, 11, 10, 0])),
        _ => {}
    }
    Ok(())
}

/// Completes a configuration read from GGUF metadata by the tensors that are there.
pub(super) fn from_gguf(has: impl Fn(&str) -> bool, config: &mut Config) {
    match config.architecture.name {
        "falcon-h1" => {
            let normed = has("blk.0.ssm_norm.weight");
            if let Some(States { mixer: StateMixer::Mamba2(mamba), .. }) = &mut config.states {
                mamba.norm = normed;
            }
        }
        "stablelm" => {
            // A block with this norm is sequential, as in llama.cpp: its converter writes that blocks are parallel
            // where config.json has no key for it. A sequential block without the norm is incomplete.
            if has("blk.0.ffn_norm.weight") {
                config.block = Block::Sequential;
            }
            config.second_norm = config.block != Block::Parallel;
        }
        "phi2" | "cohere2" => config.second_norm = false,
        "minicpm3" => {
            let constants = minicpm3(config);
            (config.embedding_multiplier, config.residual_multiplier, config.logit_divisor) = constants;
        }
        "falcon" => config.second_norm = has("blk.0.attn_norm_2.weight"),
        _ => {}
    }
    // llama.cpp's default: the head's size, except for the two models of this depth.
    let largest = match config.architecture.name {
        "gemma2" => 46,
        "gemma3" => 62,
        _ => return,
    };
    config.query_scalar.get_or_insert(usual_query_scalar(config, largest));
}

/// What embeddings and additions are multiplied by, and logits divided, in all GGUF files of MiniCPM3: llama.cpp has the
/// constants of the published model.
pub(crate) fn minicpm3(config: &Config) -> (f32, f32, f32) {
    let depth = 1.4 / (config.layers as f64).sqrt();
    (12.0, depth as f32, config.hidden_size as f32 / 256.0)
}

fn usual_query_scalar(config: &Config, largest: usize) -> f32 {
    match config.layers == largest {
        true => config.hidden_size as f32 / config.heads as f32,
        false => config.head_dim as f32,
    }
}

/// The query scalar where a reader of GGUF would use another one by default.
pub(crate) fn unusual_query_scalar(config: &Config) -> Option<f32> {
    let largest = if config.architecture.name == "gemma2" { 46 } else { 62 };
    config.query_scalar.filter(|&s| s != usual_query_scalar(config, largest))
}

/// The `n` of a window that limits all layers but each `n`-th, if it does.
pub(crate) fn window_pattern(config: &Config) -> Option<usize> {
    (1..=config.layers + 1).find(|&n| all_but_every(n, config.layers) == config.sliding_layers)
}

/// The same, where a reader of GGUF would use another one by default.
pub(crate) fn unusual_window_pattern(config: &Config) -> Option<usize> {
    let usual = config.sliding_layers == config.usual_sliding_layers();
    if usual { None } else { window_pattern(config) }
}

/// Adds to a `config.json` what no table of keys says.
pub(super) fn to_hf(config: &Config, metadata: &Metadata, out: &mut Map<String, Value>) {
    let mut set = |key: &str, value: Value| drop(out.insert(key.to_owned(), value));
    match config.architecture.name {
        // Only Mistral's class of the two has a window.
        "llama" if config.sliding_window.is_some() && config.experts.is_none() => {
            set("architectures", json!(["MistralForCausalLM"]));
            set("model_type", json!("mistral"));
            set("sliding_window", json!(config.sliding_window));
        }
        "olmo2" if config.sliding_window.is_some() => {
            set("architectures", json!(["Olmo3ForCausalLM"]));
            set("model_type", json!("olmo3"));
            set("sliding_window", json!(config.sliding_window));
            set("layer_types", layer_types(config));
            // transformers takes `rope_theta` for the layers without a window alone.
            if let Some(local) = config.rope.local_theta {
                let of = |theta| json!({ "rope_type": "default", "rope_theta": shortest(theta) });
                let both = json!({ "full_attention": of(config.rope.theta), "sliding_attention": of(local) });
                set("rope_parameters", both);
            }
        }
        "granitehybrid" => {
            let inner = config.mamba2().map_or(0, |mamba| mamba.inner());
            set("mamba_expand", json!(inner / config.hidden_size.max(1)));
            set("mamba_conv_bias", json!(true));
            set("position_embedding_type", json!("nope"));
            if config.experts.is_none() {
                set("intermediate_size", json!(config.ffn_size));
                set("num_local_experts", json!(0));
                set("num_experts_per_tok", json!(0));
            }
        }
        "falcon-h1" => {
            if let Some(mamba) = config.mamba2() {
                set("mamba_d_ssm", json!(mamba.inner()));
                set("mamba_rms_norm", json!(mamba.norm));
            }
            set("mamba_norm_before_gate", json!(false));
        }
        "mamba2" => {
            let inner = config.mamba2().map_or(0, |mamba| mamba.inner());
            set("expand", json!(inner / config.hidden_size.max(1)));
            set("use_conv_bias", json!(true));
        }
        "nemotron_h_moe" => set("n_shared_experts", json!(1)),
        "lfm2" => set("block_auto_adjust_ff_dim", json!(false)),
        // Only transformers 5 has such models; the sections count for images alone.
        "qwen35" | "qwen35moe" => {
            let sections = config.rope_sections.map(|sections| sections[..3].to_vec());
            let rope = json!({
                "rope_type": "default",
                "rope_theta": shortest(config.rope.theta),
                "partial_rotary_factor": config.rope.dimensions as f64 / config.head_dim as f64,
                "mrope_interleaved": true,
                "mrope_section": sections,
            });
            set("rope_parameters", rope);
        }
        "deepseek2" | "deepseek32" | "glm-dsa" => {
            indexer::to_hf(config, &mut set);
            let words = match config.experts.map(|experts| (experts.scores, experts.groups)) {
                Some((Scores::Sigmoid, _)) => Some(("sigmoid", "noaux_tc")),
                Some((Scores::Softmax, Some(_))) => Some(("softmax", "group_limited_greedy")),
                Some((Scores::Softmax, None)) => Some(("softmax", "greedy")),
                Some((Scores::SparseMixer { .. }, _)) | None => None,
            };
            if let Some((scores, method)) = words {
                set("scoring_func", json!(scores));
                set("topk_method", json!(method));
            }
        }
        "minicpm3" => {
            let rounded = |value: f64| json!((value * 1e6).round() / 1e6);
            set(
                "scale_depth",
                rounded(f64::from(config.residual_multiplier) * (config.layers as f64).sqrt()),
            );
            let base = config.hidden_size as f32 / config.logit_divisor;
            set("dim_model_base", json!(base.round() as usize));
        }
        "granite_swa" => {
            set("layer_types", layer_types(config));
            let base = |&unrotated: &bool| if unrotated { json!(0.0) } else { json!(config.rope.theta) };
            set("layer_rope_theta", config.unrotated_layers.iter().map(base).collect());
        }
        "smollm3" => {
            let rotated = |&unrotated: &bool| u8::from(!unrotated);
            set("no_rope_layers", config.unrotated_layers.iter().map(rotated).collect());
        }
        "minicpm" => {
            let residual = shortest(config.residual_multiplier).as_f64().unwrap_or(1.0);
            set("scale_depth", json!(residual * (config.layers as f64).sqrt()));
            set("dim_model_base", shortest(config.hidden_size as f32 / config.logit_divisor));
        }
        // The text model by itself: a release without its towers is no model of the multimodal class.
        "qwen2vl" => {
            set("architectures", json!(["Qwen2ForCausalLM"]));
            set("model_type", json!("qwen2"));
        }
        "qwen3vlmoe" => {
            set("architectures", json!(["Qwen3MoeForCausalLM"]));
            set("model_type", json!("qwen3_moe"));
            set("norm_topk_prob", json!(true));
        }
        "granitemoe" => match config.experts.and_then(|experts| experts.shared) {
            Some(_) => {
                set("architectures", json!(["GraniteMoeSharedForCausalLM"]));
                set("model_type", json!("granitemoeshared"));
            }
            None => drop(out.remove("shared_intermediate_size")),
        },
        "qwen3vl" => {
            set("architectures", json!(["Qwen3ForCausalLM"]));
            set("model_type", json!("qwen3"));
        }
        "mistral3" => match config.query_growth {
            None => {
                set("architectures", json!(["MistralForCausalLM"]));
                set("model_type", json!("mistral"));
                set("sliding_window", json!(config.sliding_window));
            }
            Some(QueryGrowth { beta, .. }) => {
                if let Some(scaling) = out.get_mut("rope_scaling") {
                    scaling["llama_4_scaling_beta"] =
                        json!(beta.to_string().parse::<f64>().unwrap_or_default());
                }
            }
        },
        "hunyuan-moe" => hunyuan::to_hf(config, out),
        "phi2" if config.head_dim * config.heads != config.hidden_size => {
            set("head_dim", json!(config.head_dim));
        }
        "gemma3n" => super::gemma3n::to_hf(config, out),
        "gemma4" => super::gemma4::to_hf(config, out),
        "afmoe" => {
            set("mup_enabled", json!(true));
            set("layer_types", layer_types(config));
        }
        "gemma" => set("hidden_activation", json!(config.activation.hf_name())),
        "gpt-oss" => {
            set("hidden_act", json!("silu"));
            set("layer_types", layer_types(config));
        }
        "gemma2" | "gemma3" | "cohere2" | "exaone4" | "exaone-moe" => {
            set("layer_types", layer_types(config));
        }
        "falcon" => {
            let grouped = config.second_norm || (config.kv_heads != 1 && config.kv_heads != config.heads);
            set("new_decoder_architecture", json!(grouped));
            set("multi_query", json!(config.kv_heads == 1));
            set("parallel_attn", json!(true));
            set("alibi", json!(false));
            if grouped {
                set("num_ln_in_parallel_attn", json!(if config.second_norm { 2 } else { 1 }));
            }
        }
        "phimoe" => {
            set("lm_head_bias", json!(true));
            if let super::RopeScaling::Long { original_context, .. } = config.rope.scaling
                && let Some(Value::Object(scaling)) = out.get_mut("rope_scaling")
            {
                let scale = scaling.remove("attention_factor").unwrap_or_else(|| json!(1.0));
                scaling.insert("short_mscale".to_owned(), scale.clone());
                scaling.insert("long_mscale".to_owned(), scale);
                scaling.insert("original_max_position_embeddings".to_owned(), json!(original_context));
            }
        }
        "phi3" => {
            if let super::RopeScaling::Long { original_context, .. } = config.rope.scaling {
                set("original_max_position_embeddings", json!(original_context));
            } else if let Some(n) = metadata.u64("phi3.rope.scaling.original_context_length") {
                set("original_max_position_embeddings", json!(n));
            }
        }
        _ => {}
    }
}

/// The width of LFM2's network, which is computed from what is said of it.
fn lfm2_width(reader: &Reader<'_>, said: usize) -> Result<usize> {
    let root = reader.root;
    if !root.bool("block_auto_adjust_ff_dim")?.unwrap_or(true) {
        return Ok(said);
    }
    let multiplier = root.f64("block_ffn_dim_multiplier")?.unwrap_or(1.0);
    let multiple = root.size("block_multiple_of", limit::HIDDEN)?.unwrap_or(256);
    let width = (multiplier * (2 * said / 3) as f64) as usize;
    match width.div_ceil(multiple) * multiple {
        0 => Err(root.error("block_ffn_dim_multiplier", "the network has no width")),
        width if width <= limit::HIDDEN => Ok(width),
        width => Err(root.error("block_ffn_dim_multiplier", format!("a width of {width} is too large"))),
    }
}

/// Which layers a window limits: as `layer_types` lists them where the family reads that list, or by the
/// architecture's rule.
fn sliding(reader: &Reader<'_>, config: &mut Config) -> Result<()> {
    let root = reader.root;
    if !reader.flag(Field::UseSlidingWindow, true)? {
        config.sliding_window = None;
    }
    config.sliding_layers = config.usual_sliding_layers();
    if config.architecture.sliding == Sliding::All {
        return Ok(());
    }
    if let Some(types) = root.array("layer_types")? {
        if types.len() != config.layers {
            let what = format!("{} entries for {} layers", types.len(), config.layers);
            return Err(root.error("layer_types", what));
        }
        let limits = if config.architecture.chunked { "chunked_attention" } else { "sliding_attention" };
        for (limited, kind) in config.sliding_layers.iter_mut().zip(types) {
            *limited = match kind.as_str() {
                Some(kind) if kind == limits && config.sliding_window.is_none() => {
                    let what = match config.architecture.chunked {
                        true => "chunked_attention without a size of chunks",
                        false => "sliding_attention without a sliding window",
                    };
                    return Err(root.error("layer_types", what));
                }
                Some(kind) if kind == limits => true,
                Some("full_attention") => false,
                _ => {
                    return Err(
                        root.error("layer_types", format!("{kind} is not a kind of layer that quern knows"))
                    );
                }
            };
        }
        return Ok(());
    }
    if config.sliding_window.is_none() {
        return Ok(());
    }
    if config.architecture.sliding == Sliding::FromLayer {
        let usual = if config.architecture.name == "qwen2vl" { 80 } else { 28 };
        let from = root.u64("max_window_layers")?.unwrap_or(usual);
        for (layer, limited) in config.sliding_layers.iter_mut().enumerate() {
            *limited = layer as u64 >= from;
        }
    } else if matches!(config.architecture.name, "gemma3" | "cohere2" | "exaone4" | "exaone-moe")
        && let Some(pattern) = root.size("sliding_window_pattern", limit::LAYERS)?
    {
        config.sliding_layers = all_but_every(pattern, config.layers);
    }
    Ok(())
}

/// `llama_4_scaling_beta`, beside the constants of YaRN: required by Ministral 3, unknown to Mistral.
fn query_growth(reader: &Reader<'_>) -> Result<Option<QueryGrowth>> {
    const KEY: &str = "llama_4_scaling_beta";
    let root = reader.root;
    if !reader.architecture.hf_model_types.contains(&"ministral3") {
        return Ok(None);
    }
    let object = match root.object("rope_scaling")? {
        Some(object) => Some(object),
        None => root.object("rope_parameters")?,
    };
    let Some(object) = object else { return Err(root.missing("rope_parameters")) };
    let Some(beta) = object.f64(KEY)? else { return Err(object.missing(KEY)) };
    let context = object.size("original_max_position_embeddings", limit::CONTEXT)?;
    let context = context.ok_or_else(|| object.missing("original_max_position_embeddings"))?;
    Ok((beta != 0.0).then_some(QueryGrowth { beta: beta as f32, context, offset: 0, unrotated: false }))
}

/// Every layer but each `n`-th is limited.
pub(super) fn all_but_every(n: usize, layers: usize) -> Vec<bool> {
    (1..=layers).map(|layer| !layer.is_multiple_of(n)).collect()
}

/// The kinds of layer by their names in `layer_types`.
fn layer_types(config: &Config) -> Value {
    let kind = |&limited: &bool| if limited { "sliding_attention" } else { "full_attention" };
    config.sliding_layers.iter().map(kind).collect()
}

/// SmolLM3's configuration may list layers with a sliding window, which no published model has, nor llama.cpp.
fn all_global(root: &Object<'_>) -> Result<()> {
    let types = root.array("layer_types")?.unwrap_or_default();
    match types.iter().find(|kind| kind.as_str() != Some("full_attention")) {
        Some(kind) => {
            let what = format!("{}: smollm3 models with {kind} are not supported", root.name("layer_types"));
            Err(Error::unsupported(root.file(), what))
        }
        None => Ok(()),
    }
}

/// gpt-oss scales its rope where `config.json` says nothing of it.
fn usual_yarn(root: &Object<'_>, config: &mut Config) -> Result<()> {
    if root.object("rope_scaling")?.is_none() && root.object("rope_parameters")?.is_none() {
        config.rope.scaling = RopeScaling::Yarn {
            factor: 32.0,
            original_context: 4096,
            attention_factor: None,
            beta_fast: 32.0,
            beta_slow: 1.0,
            truncate: false,
        };
    }
    Ok(())
}

/// CWM too, as Llama 3.1 does.
fn usual_llama3(root: &Object<'_>, config: &mut Config) -> Result<()> {
    if root.object("rope_scaling")?.is_none() && root.object("rope_parameters")?.is_none() {
        let scaling = RopeScaling::Llama3 { factor: 16.0, low: 1.0, high: 4.0, original_context: 8192 };
        config.rope.factors = scaling.llama3_factors(config.rope.theta, config.rope.dimensions);
        config.rope.scaling = scaling;
    }
    Ok(())
}

fn falcon(root: &Object<'_>, config: &mut Config) -> Result<()> {
    let flag = |key: &str, otherwise: bool| -> Result<bool> { Ok(root.bool(key)?.unwrap_or(otherwise)) };
    let grouped = flag("new_decoder_architecture", false)?;
    if !grouped {
        config.kv_heads = if flag("multi_query", true)? { 1 } else { config.heads };
    }
    let norms = root.u64("num_ln_in_parallel_attn")?.unwrap_or(2);
    config.second_norm = grouped && norms == 2;
    Ok(())
}
