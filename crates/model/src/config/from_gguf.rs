//! GGUF metadata (`llama.block_count` and its like). A missing key means what llama.cpp's loader takes in its place;
//! a key that the loader demands must be there.

use std::path::Path;

use quern_tensor_io::{Array, Checkpoint, ElementType, Error, Metadata, Result, Value};

use crate::architecture::{
    Architecture, Block, Convention, GgufKey, Position, TensorRole as Role, Unrotated,
};
use crate::architectures;
use crate::identify::class;

use super::gguf_keys::Keys;
use super::rope::yarn_mscale;
use super::{
    Config, QueryGrowth, Rope, RopeScaling, indexer, latent, layers as by_layer, limit, llama4, mixers,
    mixture, quirks,
};
use super::{gemma3n, gemma4, rotation};

/// How many of the blocks predict further tokens.
const NEXTN: &str = "nextn_predict_layers";

pub(super) fn read(file: &Path, metadata: &Metadata, checkpoint: &Checkpoint) -> Result<Config> {
    let name = metadata
        .str("general.architecture")
        .ok_or_else(|| Error::malformed(file, "the metadata key \"general.architecture\" is missing"))?;
    let with_experts = metadata.u64(&format!("{name}.expert_count")).is_some_and(|n| n > 0);
    let stated = checkpoint.stated_architecture().and_then(architectures::named);
    let family = stated.map_or(name, |family| family.name);
    let architecture =
        architectures::from_gguf_name(family, with_experts).ok_or_else(|| class::unknown(file, name))?;
    let architecture = latent::of_scores(architecture, metadata);
    let keys = Keys { file, prefix: name, family: architecture.name, metadata };
    if with_experts != architecture.has_experts {
        let what = match with_experts {
            true => format!("{name} models with experts are not supported"),
            false => {
                format!("a {name} model needs experts, but {} is missing", keys.name("expert_count"))
            }
        };
        return Err(Error::unsupported(file, what));
    }

    let hidden_size = keys.need("embedding_length", limit::HIDDEN)?;
    let heads = mixers::heads_of(&keys, architecture)?;
    let latent =
        latent::from_gguf(&keys, architecture, checkpoint.tensor("blk.0.attn_kv_b.weight").is_some())?;
    let given = keys.size("attention.key_length", limit::HIDDEN)?.filter(|_| latent.is_none());
    let head_dim = match given {
        Some(given) => given,
        None if latent.is_some() => latent.map_or(0, |latent| latent.head_dim()),
        None if hidden_size.is_multiple_of(heads) => hidden_size / heads,
        None => {
            return Err(keys.error("attention.head_count", format!("{heads} does not divide {hidden_size}")));
        }
    };
    let value_length = keys.size("attention.value_length", limit::HIDDEN)?.filter(|_| latent.is_none());
    if let Some(value) = value_length.filter(|&v| v != head_dim) {
        let what = format!("values of length {value} under keys of length {head_dim} are not supported");
        return Err(Error::unsupported(file, what));
    }
    let tokens = metadata.strings("tokenizer.ggml.tokens").map(|t| t.len()).filter(|&n| n > 0);
    let vocab_size = match keys.size("vocab_size", limit::VOCAB)?.or(tokens) {
        Some(size) => size,
        None => return Err(keys.missing("vocab_size")),
    };
    let all_layers = keys.need("block_count", limit::LAYERS)?;
    let speculative_layers = match keys.metadata.get(&keys.name(NEXTN)) {
        None => 0,
        Some(value) => match value.as_u64().filter(|&n| n < all_layers as u64) {
            Some(n) => n as usize,
            None => return Err(keys.error(NEXTN, format!("less than {all_layers} layers are expected"))),
        },
    };
    let layers = all_layers - speculative_layers;
    let context_length = keys.need("context_length", limit::CONTEXT)?;
    let ffn_size = match keys.layers("feed_forward_length", limit::HIDDEN)? {
        Some(sizes) => sizes[0],
        None => mixers::ffn_size(&keys, architecture, (hidden_size, layers))?,
    };
    let dimensions = match architecture.position {
        // Files of models that rotate nothing say this for nothing.
        Position::Rotary if architecture.unrotated == Unrotated::All => head_dim,
        Position::Rotary => keys.size("rope.dimension_count", limit::HIDDEN)?.unwrap_or(head_dim),
        Position::Learned { .. } => 0,
    };
    let (_, epsilon) = architecture.gguf_epsilon();
    let experts = match with_experts {
        false => None,
        true => Some(mixture::from_gguf(&keys, architecture, ffn_size)?),
    };
    let block = match keys.flag("use_parallel_residual")? {
        Some(true) => Block::Parallel,
        Some(false) => Block::Sequential,
        None => architecture.block,
    };
    if architecture.name == "gptneox" && keys.flag("use_parallel_residual")?.is_none() {
        return Err(keys.missing("use_parallel_residual"));
    }
    let sliding_window = window(&keys, architecture)?;

    let multiplied = architecture.gguf_keys.contains(&GgufKey::Multipliers)
        || architecture.gguf_keys.contains(&GgufKey::MultipliersButAttention);
    let scale = keys.f32("attention.scale")?.filter(|&s| s > 0.0);
    // Zero stands for none.
    let factor = |key: &str| match multiplied {
        true => Ok(keys.positive(key)?.unwrap_or(1.0)),
        false => Ok(1.0),
    };

    let mut config = Config {
        architecture,
        convention: Convention::Gguf,
        vocab_size,
        hidden_size,
        embedding_size: hidden_size,
        layers,
        heads,
        kv_heads: match (latent, keys.layers("attention.head_count_kv", limit::HEADS)?) {
            // One head in the cache, of which every head's keys and values are made.
            (Some(_), _) => heads,
            (None, Some(counts)) => counts[0],
            (None, None) => mixers::kv_heads(&keys, architecture, (heads, layers))?,
        },
        head_dim,
        head_dim_given: given.is_some(),
        ffn_size,
        context_length,
        norm_epsilon: keys.f32(epsilon)?.ok_or_else(|| keys.missing(epsilon))?,
        rope: Rope {
            theta: keys.f32("rope.freq_base")?.unwrap_or(10_000.0),
            dimensions,
            scaling: scaling(&keys)?,
            factors: None,
            local_theta: match architecture.name {
                "gemma3" | "gemma3n" | "gemma4" => Some(keys.f32("rope.freq_base_swa")?.unwrap_or(10_000.0)),
                // OLMo 3: the base of all layers, unless the file says otherwise, and no scaling.
                "olmo2" if sliding_window.is_some() => match keys.f32("rope.freq_base_swa")? {
                    Some(theta) => Some(theta),
                    None => Some(keys.f32("rope.freq_base")?.unwrap_or(10_000.0)),
                },
                _ => None,
            },
        },
        rope_style: architecture.gguf_rope_style,
        rope_stretched: false,
        sliding_window,
        sliding_layers: Vec::new(),
        block,
        tied_embeddings: false,
        qkv_bias: false,
        output_bias: false,
        mlp_bias: false,
        qk_norm: false,
        second_norm: true,
        final_norm: true,
        attention_softcap: keys.of_gemma2("attn_logit_softcapping", 50.0)?,
        final_softcap: keys.of_gemma2("final_logit_softcapping", 30.0)?,
        query_scalar: scale.filter(|_| !multiplied).map(query_scalar),
        attention_multiplier: scale.filter(|_| multiplied),
        embedding_multiplier: factor("embedding_scale")?,
        residual_multiplier: factor("residual_scale")?,
        logit_divisor: factor("logit_scale")?,
        logit_multiplier: match architecture.gguf_keys.contains(&GgufKey::LogitScale) {
            true => keys.positive("logit_scale")?.unwrap_or(1.0),
            false => 1.0,
        },
        multipliers: None,
        unrotated_layers: Vec::new(),
        query_growth: None,
        qkv_limit: match architecture.gguf_keys.contains(&GgufKey::ClampKqv) {
            true => keys.positive("attention.clamp_kqv")?,
            false => None,
        },
        scaled_by_layer: false,
        latent,
        indexer: indexer::from_gguf(&keys, architecture, (layers, checkpoint))?,
        windowed_heads: None,
        shared_kv_layers: 0,
        shared_ffn_doubled: false,
        keys_as_values: false,
        per_layer: None,
        xielu: Vec::new(),
        streams: 1,
        laurel_rank: 0,
        cutoffs: Vec::new(),
        experts,
        states: None,
        sparse_layers: Vec::new(),
        // Readers of GGUF take it from the architecture; no key says it.
        activation: architecture.activations[0],
        dtype: None,
        rope_sections: rope_sections(&keys, architecture)?,
        deepstack_layers: deepstack_layers(&keys, architecture)?,
        speculative_layers,
        multimodal: false,
        quantization: None,
    };
    config.states = mixers::from_gguf(&keys, &config)?;
    config.sparse_layers = mixture::sparse_layers_of_gguf(&keys, &config)?;
    config.sliding_layers = sliding_layers(&keys, &config)?;
    if architecture.gguf_keys.contains(&GgufKey::Xielu) {
        config.xielu = by_layer::xielu(&keys, config.layers)?;
    }
    if architecture.name == "gemma3n" {
        gemma3n::from_gguf(&keys, checkpoint, &mut config)?;
    }
    if architecture.name == "gemma4" {
        gemma4::from_gguf(&keys, checkpoint, &mut config)?;
    }
    if architecture.name == "glm4" && keys.metadata.get(&keys.name("rope.dimension_sections")).is_some() {
        let what = "it is the text model of GLM-4.1V with rows of queries and keys in an order that quern does not \
                    read; take the original checkpoint";
        return Err(Error::unsupported(file, what));
    }
    config.unrotated_layers = rotation::unrotated_of_gguf(&keys, &config)?;
    config.query_growth = query_growth(&keys, &config)?;
    // Hugging Face's config states these; in GGUF the presence of the tensors shows them.
    let has = |role, layer| {
        let name = config.tensor_name(Convention::Gguf, role, layer);
        name.is_some_and(|n| checkpoint.tensor(&n).is_some())
    };
    // Not every layer has attention.
    let first = (0..layers).find(|&layer| config.has_attention(layer)).unwrap_or(0);
    let any = |roles: &[Role]| roles.iter().any(|&role| has(role, Some(first)) || has(role, Some(0)));
    let tied = !has(Role::Output, None);
    let qkv_bias =
        any(&[Role::AttentionQBias, Role::AttentionKBias, Role::AttentionVBias, Role::AttentionQkvBias]);
    let output_bias = any(&[Role::AttentionOutputBias]);
    let mlp_bias = any(&[Role::FfnGateBias, Role::FfnUpBias, Role::FfnDownBias]);
    let qk_norm = any(&[Role::AttentionQNorm, Role::AttentionKNorm]);
    (config.tied_embeddings, config.qk_norm) = (tied, qk_norm);
    (config.qkv_bias, config.output_bias, config.mlp_bias) = (qkv_bias, output_bias, mlp_bias);
    let in_layer = |role, layer| {
        let name = config.tensor_name(Convention::Gguf, role, Some(layer));
        name.is_some_and(|n| checkpoint.tensor(&n).is_some())
    };
    let bias = config
        .sparse_layers
        .iter()
        .position(|&sparse| sparse)
        .is_some_and(|first| in_layer(Role::ChoiceBias, first));
    mixture::complete(bias, &mut config);
    if architecture.name == "llama4" {
        llama4::from_gguf(&keys, &mut config)?;
    }
    quirks::from_gguf(|name| checkpoint.tensor(name).is_some(), &mut config);
    config.rope.factors = factors(&config, file, checkpoint, Role::RopeFactors)?;
    long_factors(&mut config, &keys, checkpoint)?;
    attention_factor(&config, &keys)?;
    config.checked(file)
}

/// How queries grow, of families whose files may say so: from the context that YaRN begins with.
fn query_growth(keys: &Keys<'_>, config: &Config) -> Result<Option<QueryGrowth>> {
    const KEY: &str = "attention.temperature_scale";
    if !config.architecture.gguf_keys.contains(&GgufKey::QueryGrowth) {
        return Ok(None);
    }
    let Some(beta) = keys.positive(KEY)? else { return Ok(None) };
    let context = match config.rope.scaling {
        RopeScaling::Yarn { original_context, .. } => original_context,
        RopeScaling::None
        | RopeScaling::Linear { .. }
        | RopeScaling::Dynamic { .. }
        | RopeScaling::Llama3 { .. }
        | RopeScaling::Long { .. } => config.context_length,
    };
    Ok(Some(QueryGrowth { beta, context, offset: 0, unrotated: false }))
}

/// The sections of M-RoPE, of families that have them.
fn rope_sections(keys: &Keys<'_>, architecture: &Architecture) -> Result<Option<[u32; 4]>> {
    const KEY: &str = "rope.dimension_sections";
    if !architecture.gguf_keys.contains(&GgufKey::RopeSections) {
        return Ok(None);
    }
    let wrong = || keys.error(KEY, "four whole numbers are expected");
    match keys.metadata.get(&keys.name(KEY)) {
        None => Ok(None),
        Some(Value::Array(Array::I32(list))) => {
            let values: Vec<u32> = list.iter().filter_map(|&v| u32::try_from(v).ok()).collect();
            values.try_into().map(Some).map_err(|_| wrong())
        }
        Some(Value::Array(Array::U32(list))) => list.clone().try_into().map(Some).map_err(|_| wrong()),
        Some(_) => Err(wrong()),
    }
}

/// The layers that a tower adds to, of families that have such.
fn deepstack_layers(keys: &Keys<'_>, architecture: &Architecture) -> Result<u32> {
    const KEY: &str = "n_deepstack_layers";
    if !architecture.gguf_keys.contains(&GgufKey::DeepstackLayers) {
        return Ok(0);
    }
    match keys.metadata.get(&keys.name(KEY)) {
        None => Ok(0),
        Some(value) => match value.as_u64().filter(|&n| n <= limit::LAYERS as u64) {
            Some(n) => Ok(n as u32),
            None => Err(keys.error(KEY, "a number of layers is expected")),
        },
    }
}

/// The sliding window, of families where llama.cpp's converter writes one.
fn window(keys: &Keys<'_>, architecture: &Architecture) -> Result<Option<usize>> {
    const KEY: &str = "attention.sliding_window";
    let written = [GgufKey::SlidingWindow, GgufKey::SlidingWindowOrZero];
    if !architecture.gguf_keys.iter().any(|key| written.contains(key)) {
        return Ok(None);
    }
    match keys.metadata.get(&keys.name(KEY)) {
        None if architecture.name == "gemma2" => Ok(Some(4096)),
        // Zero stands for no window (Phi-4).
        Some(value) if value.as_u64() == Some(0) => Ok(None),
        _ => keys.size(KEY, limit::CONTEXT),
    }
}

/// Which layers the window limits: as the file says, in one number or layer by layer, or by the architecture's
/// rule.
fn sliding_layers(keys: &Keys<'_>, config: &Config) -> Result<Vec<bool>> {
    const KEY: &str = "attention.sliding_window_pattern";
    let written = [GgufKey::SlidingWindowPattern, GgufKey::SlidingWindowLayers];
    let own = config.architecture.gguf_keys.iter().any(|key| written.contains(key));
    if !own || config.sliding_window.is_none() {
        return Ok(config.usual_sliding_layers());
    }
    match keys.metadata.get(&keys.name(KEY)) {
        None => Ok(config.usual_sliding_layers()),
        Some(Value::Array(Array::Bool(layers))) if layers.len() == config.layers => Ok(layers.clone()),
        Some(Value::Array(_)) => {
            Err(keys.error(KEY, format!("a flag for each of the {} layers is expected", config.layers)))
        }
        Some(_) => match keys.size(KEY, limit::LAYERS)? {
            Some(every) => Ok(quirks::all_but_every(every, config.layers)),
            None => Ok(config.usual_sliding_layers()),
        },
    }
}

/// Refuses a factor of queries and keys that has no place in the configuration.
fn attention_factor(config: &Config, keys: &Keys<'_>) -> Result<()> {
    const KEY: &str = "rope.scaling.attn_factor";
    match config.rope.scaling {
        RopeScaling::Yarn { .. } | RopeScaling::Long { .. } => Ok(()),
        RopeScaling::None
        | RopeScaling::Linear { .. }
        | RopeScaling::Dynamic { .. }
        | RopeScaling::Llama3 { .. } => match keys.f32(KEY)? {
            None | Some(1.0) => Ok(()),
            Some(v) => Err(Error::unsupported(
                keys.file,
                format!("{}: {v} is not supported without yarn or long factors", keys.name(KEY)),
            )),
        },
    }
}

/// Phi-3's two sets of factors, which are tensors.
fn long_factors(config: &mut Config, keys: &Keys<'_>, checkpoint: &Checkpoint) -> Result<()> {
    let long = factors(config, keys.file, checkpoint, Role::RopeFactorsLong)?;
    let short = factors(config, keys.file, checkpoint, Role::RopeFactorsShort)?;
    let Some((long, short)) = long.zip(short) else { return Ok(()) };
    let original_context = keys.size("rope.scaling.original_context_length", limit::CONTEXT)?;
    config.rope.scaling = RopeScaling::Long {
        short,
        long,
        original_context: original_context.unwrap_or(config.context_length),
        attention_factor: keys.f32("rope.scaling.attn_factor")?.filter(|&f| f > 0.0),
    };
    Ok(())
}

/// Attention scores are multiplied by `1 / sqrt(scalar)`; whole scalars come back whole.
fn query_scalar(scale: f32) -> f32 {
    let scalar = (1.0 / (f64::from(scale) * f64::from(scale))) as f32;
    match (scalar.round() - scalar).abs() < scalar * 1e-6 {
        true => scalar.round(),
        false => scalar,
    }
}

fn scaling(keys: &Keys<'_>) -> Result<RopeScaling> {
    // Zero stands for no factor, and no factor for one.
    let factor = match keys.positive("rope.scaling.factor")? {
        Some(factor) => Some(factor),
        None => keys.positive("rope.scale_linear")?,
    };
    let kind = match keys.metadata.get(&keys.name("rope.scaling.type")) {
        Some(value) => {
            value.as_str().ok_or_else(|| keys.error("rope.scaling.type", "a string is expected"))?
        }
        None => "linear",
    };
    match (kind, factor) {
        ("none", _) | ("linear", None | Some(1.0)) => Ok(RopeScaling::None),
        ("linear", Some(factor)) => Ok(RopeScaling::Linear { factor }),
        ("yarn", factor) => yarn(keys, factor.unwrap_or(1.0)),
        // The factors are tensors.
        ("longrope", _) => Ok(RopeScaling::None),
        (other, _) => {
            let what = format!("rope scaling {other:?} is not supported (none, linear, yarn, longrope are)");
            Err(Error::unsupported(keys.file, what))
        }
    }
}

/// What multiplies queries and keys is written twice: `attn_factor`, which llama.cpp's loader reads, times the
/// usual value; `yarn_attn_factor`, which its converter writes, the value itself.
fn yarn(keys: &Keys<'_>, factor: f32) -> Result<RopeScaling> {
    let usual = yarn_mscale(factor.into(), 1.0);
    let whole = keys.positive("rope.scaling.yarn_attn_factor")?;
    let part = keys.positive("rope.scaling.attn_factor")?.map(|part| (f64::from(part) * usual) as f32);
    let attention_factor = match (part, whole) {
        (Some(part), Some(whole)) if (part - whole).abs() > 1e-5 * whole => Some(part),
        (part, whole) => whole.or(part),
    };
    // Mistral 3's files say it in another way; its loader multiplies it with what is written besides.
    let attention_factor = match keys.positive("rope.scaling.yarn_log_multiplier")? {
        Some(multiplier) if keys.family == "mistral3" => {
            let own = usual / yarn_mscale(factor.into(), multiplier.into());
            let more = keys.positive("rope.scaling.attn_factor")?.map_or(1.0, f64::from);
            Some((own * more) as f32)
        }
        // DeepSeek V2's say what scores are multiplied with; queries and keys are then not lengthened.
        Some(_) if keys.metadata.get(&keys.name("attention.kv_lora_rank")).is_some() => Some(1.0),
        _ => attention_factor,
    };
    let original_context = match keys.size("rope.scaling.original_context_length", limit::CONTEXT)? {
        Some(context) => context,
        None => keys.need("context_length", limit::CONTEXT)?,
    };
    Ok(RopeScaling::Yarn {
        factor,
        original_context,
        attention_factor,
        beta_fast: keys.positive("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
        beta_slow: keys.positive("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
        // Files of gpt-oss do not say that its bounds are not rounded to whole dimensions.
        truncate: keys.prefix != "gpt-oss",
    })
}

/// The divisors of a tensor such as `rope_freqs.weight`, if the file has it.
fn factors(config: &Config, file: &Path, checkpoint: &Checkpoint, role: Role) -> Result<Option<Vec<f32>>> {
    let Some(name) = config.tensor_name(Convention::Gguf, role, None) else { return Ok(None) };
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
