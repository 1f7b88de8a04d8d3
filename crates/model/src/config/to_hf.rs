//! A configuration as `config.json`, in the older spelling that every version of transformers reads.

use quern_tensor_io::{ElementType, Metadata};
use serde_json::{Map, Value, json};

use crate::architecture::{Activation, Block, Field, Position, Scores, Silence, Unrotated};

use super::{Config, Rope, RopeScaling, llama4, mixers, mixture, quirks};

/// `config.json` of a model read from a GGUF file with this metadata, its weights stored as `dtype`.
pub(crate) fn config_json(config: &Config, metadata: &Metadata, dtype: ElementType) -> Map<String, Value> {
    let architecture = config.architecture;
    let mut out = Map::new();
    let mut set = |key: &str, value: Value| drop(out.insert(key.to_owned(), value));
    set("architectures", json!(architecture.hf_architectures[..1]));
    set("model_type", json!(architecture.hf_model_types[0]));
    for key in architecture.hf_keys {
        if let (Some(name), Some(value)) = (key.written, field(config, key.field)) {
            set(name, value);
        }
    }
    if architecture.position == Position::Rotary
        && let Some(mut scaling) = scaling(&config.rope, config.context_length)
    {
        if let Some(mscale) = config.latent.and_then(|latent| latent.mscale) {
            scaling["mscale_all_dim"] = json!(mscale);
            // Both the same is how such files say that queries and keys are not lengthened.
            if matches!(config.rope.scaling, RopeScaling::Yarn { attention_factor: Some(1.0), .. }) {
                scaling["mscale"] = json!(mscale);
                scaling.as_object_mut().and_then(|map| map.remove("attention_factor"));
            }
        }
        set("rope_scaling", scaling);
    }
    set("tie_word_embeddings", json!(config.tied_embeddings));
    for (kind, key) in [("bos", "bos"), ("eos", "eos"), ("padding", "pad")] {
        if let Some(id) = token_id(metadata, kind) {
            set(&format!("{key}_token_id"), json!(id));
        }
    }
    set("torch_dtype", json!(dtype_name(dtype)));
    set("use_cache", json!(true));
    mixers::to_hf(config, &mut out);
    mixture::to_hf(config, &mut out);
    quirks::to_hf(config, metadata, &mut out);
    if config.architecture.name == "llama4" {
        llama4::to_hf(config, &mut out);
    }
    out
}

/// The id of a special token, if there is such a token: files name others too (`padding_token_id` 32000 of 32000).
fn token_id(metadata: &Metadata, kind: &str) -> Option<u64> {
    let id = metadata.u64(&format!("tokenizer.ggml.{kind}_token_id"))?;
    let tokens = metadata.strings("tokenizer.ggml.tokens").map(|tokens| tokens.len() as u64);
    tokens.is_none_or(|tokens| id < tokens).then_some(id)
}

/// `generation_config.json` of such a model: ends of text, and sampling as the publisher recommends it.
pub(crate) fn generation_config_json(metadata: &Metadata) -> Map<String, Value> {
    let mut out = Map::new();
    for (kind, key) in [("bos", "bos"), ("padding", "pad")] {
        if let Some(id) = token_id(metadata, kind) {
            out.insert(format!("{key}_token_id"), json!(id));
        }
    }
    let mut ends: Vec<u64> = Vec::new();
    for kind in ["eos", "eot", "eom"] {
        let id = token_id(metadata, kind);
        ends.extend(id.filter(|id| !ends.contains(id)));
    }
    match ends.as_slice() {
        [] => {}
        [one] => drop(out.insert("eos_token_id".into(), json!(one))),
        several => drop(out.insert("eos_token_id".into(), json!(several))),
    }
    if let Some(k) = metadata.u64("general.sampling.top_k") {
        out.insert("top_k".into(), json!(k));
    }
    for (from, to) in [("top_p", "top_p"), ("min_p", "min_p"), ("temp", "temperature")] {
        if let Some(v) = metadata.get(&format!("general.sampling.{from}")).and_then(|v| v.as_f64()) {
            out.insert(to.into(), shortest(v as f32));
        }
    }
    let sampled = ["top_k", "top_p", "min_p", "temperature"].iter().any(|key| out.contains_key(*key));
    if sampled {
        out.insert("do_sample".into(), json!(true));
    }
    out
}

/// What `config.json` calls an element type.
pub(crate) fn dtype_name(dtype: ElementType) -> &'static str {
    match dtype {
        ElementType::F16 => "float16",
        ElementType::BF16 => "bfloat16",
        _ => "float32",
    }
}

/// An f32 with the fewest digits that identify it, not those of an f64: `1e-5`.
pub(super) fn shortest(value: f32) -> Value {
    json!(value.to_string().parse::<f64>().unwrap_or_else(|_| f64::from(value)))
}

/// The activation under the name in this family's files: several names mean nearly the same function, and
/// transformers computes each slightly differently.
fn activation(config: &Config) -> &'static str {
    let keys = config.architecture.hf_keys.iter();
    let own = keys.filter(|key| key.field == Field::Activation).find_map(|key| match key.silence {
        Silence::Word(word) => Some(word),
        _ => None,
    });
    own.filter(|word| Activation::from_hf(word) == Some(config.activation))
        .unwrap_or(config.activation.hf_name())
}

fn field(config: &Config, field: Field) -> Option<Value> {
    let experts = config.experts.as_ref();
    Some(match field {
        Field::Vocab => json!(config.vocab_size),
        Field::Hidden => json!(config.hidden_size),
        Field::Embedding => json!(config.embedding_size),
        Field::Layers => json!(config.layers),
        Field::Heads => json!(config.heads),
        Field::KvHeads => json!(config.kv_heads),
        Field::HeadDim => json!(config.head_dim),
        Field::Ffn => json!(config.ffn_size),
        Field::Context => json!(config.context_length),
        Field::NormEpsilon => shortest(config.norm_epsilon),
        Field::Activation => json!(activation(config)),
        Field::RopeTheta => shortest(config.rope.theta),
        Field::LocalRopeTheta => shortest(config.rope.local_theta?),
        Field::PartialRotary => json!(config.rope.dimensions as f64 / config.head_dim as f64),
        Field::RotaryDimensions => json!(config.rope.dimensions),
        Field::SlidingWindow => config.sliding_window.map_or(Value::Null, |w| json!(w)),
        Field::Tied => json!(config.tied_embeddings),
        Field::QkvBias => json!(config.qkv_bias),
        Field::OutputBias => json!(config.output_bias),
        Field::MlpBias => json!(config.mlp_bias),
        Field::ParallelBlock => json!(config.block == Block::Parallel),
        Field::NormBefore => json!(config.block != Block::PostNorm),
        Field::QkNorm => json!(config.qk_norm),
        Field::NoFinalNorm => json!(!config.final_norm && config.block != Block::PostNorm),
        Field::AttentionSoftcap => config.attention_softcap.map_or(Value::Null, shortest),
        Field::FinalSoftcap => config.final_softcap.map_or(Value::Null, shortest),
        // transformers takes a whole number only.
        Field::QueryScalar => match config.query_scalar.unwrap_or(config.head_dim as f32) {
            scalar if scalar.fract() == 0.0 => json!(scalar as u64),
            scalar => shortest(scalar),
        },
        Field::ScaledAttention => json!(config.query_scalar != Some(1.0)),
        Field::QkvLimit => config.qkv_limit.map_or(Value::Null, shortest),
        Field::ScaledByLayer => json!(config.scaled_by_layer),
        Field::AttentionMultiplier => shortest(config.attention_scale(0)),
        Field::EmbeddingMultiplier => shortest(config.embedding_multiplier),
        Field::ResidualMultiplier => shortest(config.residual_multiplier),
        Field::ConvTaps => json!(config.states.as_ref()?.mixer.taps()),
        Field::DeltaKeyHeads => json!(config.delta_net()?.key_heads),
        Field::DeltaValueHeads => json!(config.delta_net()?.value_heads),
        Field::DeltaKeyDim => json!(config.delta_net()?.key_dim),
        Field::DeltaValueDim => json!(config.delta_net()?.value_dim),
        Field::MambaHeads => json!(config.mamba2()?.heads),
        Field::MambaHeadDim => json!(config.mamba2()?.head_dim),
        Field::MambaGroups => json!(config.mamba2()?.groups),
        Field::MambaState => json!(config.mamba2()?.state),
        Field::StateConvBias => json!(config.mamba2()?.conv_bias),
        Field::LogitDivisor => shortest(config.logit_divisor),
        Field::LogitMultiplier => shortest(config.logit_multiplier),
        Field::UnrotatedInterval => match config.architecture.unrotated {
            Unrotated::Every(n) => json!(n),
            Unrotated::None | Unrotated::All | Unrotated::Unwindowed | Unrotated::WithoutBase => return None,
        },
        Field::UseSlidingWindow => json!(config.sliding_window.is_some()),
        Field::Experts => json!(experts?.count),
        Field::ExpertsUsed => json!(experts?.used),
        Field::ExpertFfn => json!(experts?.ffn_size),
        Field::ExpertLatent => experts?.latent.map_or(Value::Null, |width| json!(width)),
        Field::NormTopk => json!(experts?.normalized),
        Field::QueryRank => config.latent?.query_rank.map_or(Value::Null, |rank| json!(rank)),
        Field::LatentRank => json!(config.latent?.rank),
        Field::LatentRopeDim => json!(config.latent?.rope_dim),
        Field::LatentNopeDim => json!(config.latent?.nope_dim),
        Field::LatentValueDim => json!(config.latent?.value_dim),
        Field::IndexerHeads => json!(config.indexer.as_ref()?.heads),
        Field::IndexerHeadDim => json!(config.indexer.as_ref()?.head_dim),
        Field::IndexerTopK => json!(config.indexer.as_ref()?.top_k),
        Field::RouterJitter => match experts?.scores {
            Scores::SparseMixer { jitter } => shortest(jitter),
            Scores::Softmax | Scores::Sigmoid => return None,
        },
        Field::ExpertScale => shortest(experts?.scale),
        Field::SharedFfn => json!(experts?.shared.map_or(0, |shared| shared.ffn_size)),
        Field::SharedExperts => json!(experts?.shared_count()),
        Field::ExpertGroups => json!(experts?.groups.map_or(1, |groups| groups.count)),
        Field::ExpertGroupsUsed => json!(experts?.groups.map_or(1, |groups| groups.used)),
        Field::DenseLayers => json!(config.sparse_rule()?.0),
        Field::SparseStep => {
            json!(config.sparse_rule().filter(|&(first, _)| first == 0).map_or(1, |(_, step)| step))
        }
    })
}

/// `rope_scaling`; `None` if rope is not scaled.
fn scaling(rope: &Rope, context: usize) -> Option<Value> {
    Some(match &rope.scaling {
        RopeScaling::None => return rope.factors.as_ref().map(|factors| of_factors(rope, factors, context)),
        RopeScaling::Linear { factor } => json!({ "rope_type": "linear", "factor": shortest(*factor) }),
        RopeScaling::Dynamic { factor } => json!({ "rope_type": "dynamic", "factor": shortest(*factor) }),
        &RopeScaling::Llama3 { factor, low, high, original_context } => {
            llama3(factor, low, high, original_context)
        }
        &RopeScaling::Yarn { factor, original_context, attention_factor, beta_fast, beta_slow, truncate } => {
            let mut out = json!({
                "rope_type": "yarn",
                "factor": shortest(factor),
                "original_max_position_embeddings": original_context,
                "beta_fast": shortest(beta_fast),
                "beta_slow": shortest(beta_slow),
            });
            if let Some(factor) = attention_factor {
                out["attention_factor"] = shortest(factor);
            }
            if !truncate {
                out["truncate"] = json!(false);
            }
            out
        }
        RopeScaling::Long { short, long, attention_factor, .. } => {
            let list = |factors: &[f32]| -> Value { factors.iter().map(|&f| shortest(f)).collect() };
            let mut out = json!({
                "type": "longrope",
                "rope_type": "longrope",
                "short_factor": list(short),
                "long_factor": list(long),
            });
            if let Some(factor) = attention_factor {
                out["attention_factor"] = shortest(*factor);
            }
            out
        }
    })
}

fn llama3(factor: f32, low: f32, high: f32, original_context: usize) -> Value {
    json!({
        "rope_type": "llama3",
        "factor": shortest(factor),
        "low_freq_factor": shortest(low),
        "high_freq_factor": shortest(high),
        "original_max_position_embeddings": original_context,
    })
}

/// Finds Llama 3's parameters behind the factors of a GGUF file. The three of them that are no divisor count
/// by their ratios only, so the lower one is taken for 1. Factors that no such parameters give are written out
/// as those of LongRoPE, which transformers applies to any model.
fn of_factors(rope: &Rope, factors: &[f32], context: usize) -> Value {
    for scaling in candidates(rope, factors) {
        let found = scaling.llama3_factors(rope.theta, rope.dimensions).unwrap_or_default();
        let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 2e-6 * b.abs();
        if found.len() == factors.len()
            && found.iter().zip(factors).all(near)
            && let RopeScaling::Llama3 { factor, low, high, original_context } = scaling
        {
            return llama3(factor, low, high, original_context);
        }
    }
    let list: Value = factors.iter().map(|&f| shortest(f)).collect();
    json!({
        "rope_type": "longrope",
        "short_factor": list,
        "long_factor": list,
        "factor": 1.0,
        "attention_factor": 1.0,
        "original_max_position_embeddings": context,
    })
}

fn candidates(rope: &Rope, factors: &[f32]) -> Vec<RopeScaling> {
    let factor = factors.iter().copied().fold(1.0, f32::max);
    let with =
        |high: f32, original_context: usize| RopeScaling::Llama3 { factor, low: 1.0, high, original_context };
    // Llama 3.1 to 3.3 all have these, and Llama 4 those.
    let mut all = vec![with(4.0, 8192), with(1.0, 8192)];
    // Between the two bounds smooth = a / wavelength + b, a = original / (high - low), b = -low / (high - low).
    let smooth: Vec<(f64, f64)> = factors
        .iter()
        .enumerate()
        .filter(|&(_, &f)| f > 1.0 && f < factor)
        .map(|(i, &f)| {
            let turns = f64::from(rope.theta).powf(-2.0 * i as f64 / rope.dimensions as f64);
            let (f, factor) = (f64::from(f), f64::from(factor));
            (turns / (2.0 * std::f64::consts::PI), (1.0 / f - 1.0 / factor) / (1.0 - 1.0 / factor))
        })
        .collect();
    if let [first, .., last] = smooth.as_slice() {
        let a = (first.1 - last.1) / (first.0 - last.0);
        let b = first.1 - a * first.0;
        let high = 1.0 - 1.0 / b;
        all.push(with(high as f32, (a * (high - 1.0)).round().max(1.0) as usize));
        // Bounds are round numbers as a rule.
        let high = (high * 4.0).round() / 4.0;
        all.push(with(high as f32, (a * (high - 1.0)).round().max(1.0) as usize));
    }
    // With one value between the bounds, or none, usual bounds and contexts must do.
    for exponent in 3..18 {
        for high in [2.0, 4.0, 8.0, 16.0, 32.0] {
            all.push(with(high, 1 << exponent));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama3_parameters_are_found_behind_their_factors() {
        let parameters = [
            (8.0, 1.0, 4.0, 8192, 500_000.0, 128),
            (32.0, 1.0, 4.0, 8192, 500_000.0, 64),
            (16.0, 1.0, 1.0, 8192, 500_000.0, 128),
            (4.0, 1.0, 2.5, 3000, 10_000.0, 128),
            (8.0, 2.0, 8.0, 64, 10_000.0, 16),
            (2.0, 1.0, 4.0, 32, 10_000.0, 16),
        ];
        for (factor, low, high, original_context, theta, dimensions) in parameters {
            let scaling = RopeScaling::Llama3 { factor, low, high, original_context };
            let factors = scaling.llama3_factors(theta, dimensions).unwrap();
            let rope =
                Rope { theta, dimensions, scaling: RopeScaling::None, factors: None, local_theta: None };
            let found = of_factors(&rope, &factors, 131_072);
            assert_eq!(found["rope_type"], "llama3", "{factor} {low} {high} {original_context}: {found}");
            if low == 1.0 {
                assert_eq!(found["original_max_position_embeddings"], original_context, "{found}");
                assert_eq!(found["high_freq_factor"], high, "{found}");
            }
        }
    }

    #[test]
    fn other_factors_are_written_out() {
        let factors = vec![1.0, 3.0, 2.0, 5.0];
        let rope = Rope {
            theta: 10_000.0,
            dimensions: 8,
            scaling: RopeScaling::None,
            factors: None,
            local_theta: None,
        };
        let found = of_factors(&rope, &factors, 4096);
        assert_eq!(found["rope_type"], "longrope");
        assert_eq!(found["short_factor"], json!([1.0, 3.0, 2.0, 5.0]));
    }

    #[test]
    fn numbers_are_written_as_short_as_they_were() {
        assert_eq!(shortest(1e-5).to_string(), "0.00001");
        assert_eq!(shortest(0.1).to_string(), "0.1");
    }
}
