//! `config.json` of Hugging Face transformers, old style and new: every key that transformers' modelling code of a
//! family reads is applied, or refused by name where its value means something quern does not compute.

use std::path::Path;

use quern_tensor_io::{ElementType, Error, Result, small};
use serde_json::Value;

use crate::architecture::{Accepted, Activation, Architecture, Block, Convention, Field, HfLimit, Silence};
use crate::architectures;
use crate::identify::class;
use crate::json::{Json, Object};

use super::{
    Config, gemma3n, hf_rope, indexer, latent, limit, mixers, mixture, multimodal, multipliers, quirks,
};

/// A `config.json` under the keys of one architecture.
pub(super) struct Reader<'a> {
    pub root: &'a Object<'a>,
    pub architecture: &'static Architecture,
}

/// What the file says of a field.
enum Said {
    /// Under this key.
    Key(&'static str),
    /// Nothing, or null: what that means, and the key's usual name.
    Silent(Silence, &'static str),
}

/// Keys that transformers reads for every family.
const LIMITS: [HfLimit; 2] = [
    HfLimit { key: "is_causal", accepted: Accepted::Flag(true) },
    HfLimit { key: "per_layer_config", accepted: Accepted::Empty },
];

impl Reader<'_> {
    /// Whether the family has such a field.
    pub fn has(&self, field: Field) -> bool {
        self.architecture.hf_keys.iter().any(|key| key.field == field)
    }

    /// Where the file says what a field is; `None` if the family has no such thing.
    fn said(&self, field: Field) -> Option<Said> {
        let key = self.architecture.hf_keys.iter().find(|key| key.field == field)?;
        if let Some(&name) = key.names.iter().find(|name| self.root.get(name).is_some()) {
            return Some(Said::Key(name));
        }
        let null = key.names.iter().any(|name| self.root.is_null(name));
        let usual = key.written.or(key.names.first().copied()).unwrap_or_default();
        Some(Said::Silent(if null { key.null } else { key.silence }, usual))
    }

    /// A size, at most `max`.
    pub fn size(&self, field: Field, max: usize) -> Result<Option<usize>> {
        match self.said(field) {
            None => Ok(None),
            Some(Said::Key(name)) if self.architecture.name == "hunyuan-moe" => self.of_all_layers(name, max),
            Some(Said::Key(name)) => self.root.size(name, max),
            Some(Said::Silent(silence, name)) => match silence {
                Silence::Required => Err(self.root.missing(name)),
                Silence::Number(n) => Ok(Some(n as usize)),
                Silence::Times(factor, other) => Ok(self.size(other, max)?.map(|size| size * factor)),
                Silence::Nothing | Silence::Flag(_) | Silence::Word(_) => Ok(None),
            },
        }
    }

    /// A size that the file may state for each layer, if it is the same for all.
    pub(super) fn of_all_layers(&self, name: &str, max: usize) -> Result<Option<usize>> {
        let Some(Value::Array(list)) = self.root.get(name) else { return self.root.size(name, max) };
        let size = list.first().and_then(crate::json::as_u64).and_then(|size| usize::try_from(size).ok());
        let same = list.iter().all(|other| Some(other) == list.first());
        match size.filter(|size| same && (1..=max).contains(size)) {
            Some(size) => Ok(Some(size)),
            None => {
                let what = format!(
                    "{}: {} models whose layers differ in it are not supported",
                    self.root.name(name),
                    self.architecture.name
                );
                Err(Error::unsupported(self.root.file(), what))
            }
        }
    }

    /// A number of things, at most `max`, which may be 0.
    pub fn count(&self, field: Field, max: usize) -> Result<Option<usize>> {
        let zero = |name| Ok::<_, Error>(self.root.u64(name)? == Some(0));
        match self.said(field) {
            Some(Said::Key(name)) if zero(name)? => Ok(Some(0)),
            _ => self.size(field, max),
        }
    }

    /// A size that must be there.
    pub(super) fn need(&self, field: Field, max: usize) -> Result<usize> {
        self.size(field, max)?.ok_or_else(|| self.root.missing(self.name(field)))
    }

    /// The key that says it, or would.
    fn name(&self, field: Field) -> &'static str {
        match self.said(field) {
            Some(Said::Key(name) | Said::Silent(_, name)) => name,
            None => "",
        }
    }

    /// A finite number.
    pub fn number(&self, field: Field) -> Result<Option<f64>> {
        match self.said(field) {
            None => Ok(None),
            Some(Said::Key(name)) => self.root.f64(name),
            Some(Said::Silent(silence, name)) => match silence {
                Silence::Required => Err(self.root.missing(name)),
                Silence::Number(n) => Ok(Some(n)),
                Silence::Nothing | Silence::Flag(_) | Silence::Word(_) | Silence::Times(..) => Ok(None),
            },
        }
    }

    /// A flag; `otherwise` where the family has no such thing.
    pub fn flag(&self, field: Field, otherwise: bool) -> Result<bool> {
        match self.said(field) {
            None => Ok(otherwise),
            Some(Said::Key(name)) => Ok(self.root.bool(name)?.unwrap_or(otherwise)),
            Some(Said::Silent(silence, name)) => match silence {
                Silence::Required => Err(self.root.missing(name)),
                Silence::Flag(flag) => Ok(flag),
                Silence::Nothing | Silence::Number(_) | Silence::Word(_) | Silence::Times(..) => {
                    Ok(otherwise)
                }
            },
        }
    }

    fn activation(&self) -> Result<Activation> {
        let (name, word) = match self.said(Field::Activation) {
            None => return Ok(self.architecture.activations[0]),
            Some(Said::Key(name)) => (name, self.root.str(name)?.unwrap_or_default()),
            Some(Said::Silent(Silence::Word(word), name)) => (name, word),
            Some(Said::Silent(_, name)) => return Err(self.root.missing(name)),
        };
        let word = match (self.architecture.name, word) {
            // The first files use this name and mean the approximation.
            ("gemma", "gelu") => "gelu_pytorch_tanh",
            (_, word) => word,
        };
        Activation::from_hf(word)
            .ok_or_else(|| Error::unsupported(self.root.file(), format!("{name} {word:?} is not supported")))
    }

    /// Refuses the values of keys that quern computes for others only.
    fn check_limits(&self, hidden: usize, heads: usize) -> Result<()> {
        let root = self.root;
        // Gemma 4 states sizes of its own there, which are read.
        let own = |limit: &&HfLimit| !(limit.key == "per_layer_config" && self.architecture.name == "gemma4");
        for limit in LIMITS.iter().filter(own).chain(self.architecture.hf_limits) {
            let Some(value) = root.get(limit.key) else { continue };
            let fits = match limit.accepted {
                Accepted::Flag(flag) => root.bool(limit.key)? == Some(flag),
                Accepted::Number(number) => root.f64(limit.key)? == Some(number),
                Accepted::Words(words) => root.str(limit.key)?.is_some_and(|word| words.contains(&word)),
                Accepted::Empty => match value {
                    Value::Array(list) => list.is_empty(),
                    Value::Object(map) => map.is_empty(),
                    _ => false,
                },
                Accepted::HiddenPerHead => {
                    root.size(limit.key, limit::HIDDEN)?.is_some_and(|size| size * heads == hidden)
                }
            };
            if !fits {
                let what = format!(
                    "{}: {} models with {} are not supported",
                    root.name(limit.key),
                    self.architecture.name,
                    crate::json::shown(value)
                );
                return Err(Error::unsupported(root.file(), what));
            }
        }
        Ok(())
    }
}

/// `stated`: the family that a user says it is, whatever class the file names.
pub(super) fn read(file: &Path, stated: Option<&'static Architecture>) -> Result<Config> {
    if small::absent(file) {
        let what = "there is no config.json beside the weights, so the architecture is unknown; download it from \
                    where the weights come from";
        return Err(Error::malformed(file, what));
    }
    let json = Json::read(file)?;
    let whole = json.root();
    let (architecture, root) = match (stated, class::inside(&whole)?) {
        (Some(family), _) => (family, class::text_config(&whole)?.unwrap_or_else(|| whole.clone())),
        (None, Some(found)) => found,
        (None, None) => (architecture(&whole)?, whole.clone()),
    };
    let architecture = mixers::variant(architecture, &root)?;
    let reader = Reader { root: &root, architecture };

    let hidden_size = reader.need(Field::Hidden, limit::HIDDEN)?;
    let heads = reader.need(Field::Heads, limit::HEADS)?;
    reader.check_limits(hidden_size, heads)?;
    let given = reader.size(Field::HeadDim, limit::HIDDEN)?;
    let latent = latent::from_hf(&reader, hidden_size, heads)?;
    let head_dim = match given {
        Some(given) => given,
        None if latent.is_some() => latent.map_or(0, |latent| latent.head_dim()),
        None if hidden_size.is_multiple_of(heads) => hidden_size / heads,
        None => {
            let what = format!(
                "{heads} heads do not divide the hidden size {hidden_size}, and head_dim is not given"
            );
            return Err(root.error(reader.name(Field::Heads), what));
        }
    };
    let context_length = reader.need(Field::Context, limit::CONTEXT)?;
    let ffn_size = match gemma3n::network(&reader)? {
        Some(size) => size,
        None => reader.need(Field::Ffn, limit::HIDDEN)?,
    };
    let experts = mixture::from_hf(&reader, ffn_size)?;
    let block = match (reader.flag(Field::ParallelBlock, false)?, reader.flag(Field::NormBefore, true)?) {
        (true, _) => Block::Parallel,
        (false, true) if architecture.block == Block::OutputNorm => Block::OutputNorm,
        (false, true) => Block::Sequential,
        (false, false) => Block::PostNorm,
    };
    let positive = |field| -> Result<Option<f32>> { Ok(reader.number(field)?.map(|v| v as f32)) };
    let query_scalar = match reader.flag(Field::ScaledAttention, true)? {
        true => positive(Field::QueryScalar)?,
        false => Some(1.0),
    };
    let mut config = Config {
        architecture,
        convention: Convention::HuggingFace,
        vocab_size: reader.need(Field::Vocab, limit::VOCAB)?,
        hidden_size,
        embedding_size: reader.size(Field::Embedding, limit::HIDDEN)?.unwrap_or(hidden_size),
        layers: reader.need(Field::Layers, limit::LAYERS)?,
        heads,
        kv_heads: reader.size(Field::KvHeads, limit::HEADS)?.unwrap_or(heads),
        head_dim,
        head_dim_given: given.is_some(),
        ffn_size,
        context_length,
        norm_epsilon: reader.number(Field::NormEpsilon)?.unwrap_or_default() as f32,
        rope: hf_rope::read(&reader, latent.map_or(head_dim, |l| l.rope_dim), context_length)?,
        rope_style: architecture.hf_rope_style,
        rope_stretched: false,
        sliding_window: reader.size(Field::SlidingWindow, limit::CONTEXT)?,
        sliding_layers: Vec::new(),
        block,
        tied_embeddings: tied(&whole, &root)?.unwrap_or(architecture.tied_by_default),
        qkv_bias: reader.flag(Field::QkvBias, false)?,
        output_bias: reader.flag(Field::OutputBias, false)?,
        mlp_bias: reader.flag(Field::MlpBias, false)?,
        qk_norm: reader.flag(Field::QkNorm, false)?,
        second_norm: true,
        final_norm: !reader.flag(Field::NoFinalNorm, false)? && block != Block::PostNorm,
        attention_softcap: positive(Field::AttentionSoftcap)?,
        final_softcap: positive(Field::FinalSoftcap)?,
        query_scalar,
        attention_multiplier: positive(Field::AttentionMultiplier)?,
        embedding_multiplier: positive(Field::EmbeddingMultiplier)?.unwrap_or(1.0),
        residual_multiplier: positive(Field::ResidualMultiplier)?.unwrap_or(1.0),
        logit_divisor: positive(Field::LogitDivisor)?.unwrap_or(1.0),
        logit_multiplier: positive(Field::LogitMultiplier)?.unwrap_or(1.0),
        multipliers: multipliers::from_hf(&root, architecture.hybrid)?,
        unrotated_layers: Vec::new(),
        query_growth: None,
        qkv_limit: positive(Field::QkvLimit)?,
        scaled_by_layer: reader.flag(Field::ScaledByLayer, false)?,
        latent,
        indexer: None,
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
        activation: reader.activation()?,
        dtype: dtype(&whole)?.or(dtype(&root)?),
        rope_sections: None,
        deepstack_layers: multimodal::deepstack_layers(&whole, architecture)?,
        speculative_layers: speculative_layers(&root)?,
        multimodal: class::is_multimodal(&whole),
        quantization: quantization(&whole)?.or(quantization(&root)?),
    };
    config.rope_sections = multimodal::rope_sections(&root, architecture, config.rope.dimensions)?;
    config.states = mixers::from_hf(&reader, &config)?;
    if let Some(states) = &config.states {
        config.layers = states.layers.len();
    }
    config.sparse_layers = mixture::sparse_layers_of_hf(&reader, &config)?;
    latent::complete(&reader, &mut config)?;
    config.indexer = indexer::from_hf(&reader, config.layers)?;
    quirks::from_hf(&reader, &mut config)?;
    config.checked(file)
}

/// Families whose files transformers 5 saves with Llama's class, which computes them, and a `model_type` of their own.
const AS_LLAMA: [&str; 3] = ["exaone", "internlm3", "iquestcoder"];

fn architecture(root: &Object<'_>) -> Result<&'static Architecture> {
    let listed = root.array("architectures")?.unwrap_or(&[]);
    let names: Vec<&str> = listed.iter().filter_map(Value::as_str).collect();
    let model_type = root.str("model_type")?;
    // The class decides: a `model_type` of llama also serves classes that are no language models.
    let with_head = names.iter().find_map(|name| architectures::from_hf_architecture(name));
    let with_head = match model_type.filter(|kind| AS_LLAMA.contains(kind)) {
        Some(kind) if with_head.is_some_and(|family| family.name == architectures::LLAMA.name) => {
            architectures::from_hf_model_type(kind)
        }
        _ => with_head,
    };
    let found = match names.first() {
        Some(_) if with_head.is_none() && class::has_text_config(root) => None,
        Some(_) => with_head.or_else(|| names.iter().find_map(|name| class::family(name))),
        None if class::has_text_config(root) => None,
        None => model_type.and_then(architectures::from_hf_model_type),
    };
    found.ok_or_else(|| match names.first().copied().or(model_type) {
        Some(name) => class::refusal(root, name),
        None => root.missing("architectures"),
    })
}

/// Whether the head is the embedding: as the whole configuration says, or the text model's in it.
fn tied(whole: &Object<'_>, text: &Object<'_>) -> Result<Option<bool>> {
    const KEY: &str = "tie_word_embeddings";
    let around = class::around_text(whole)?;
    let around = around.map_or(Ok(None), |around| around.bool(KEY))?;
    Ok(whole.bool(KEY)?.or(around).or(text.bool(KEY)?))
}

/// Layers that predict further tokens, which releases hold behind the model's own (GLM-4.5, DeepSeek V3).
fn speculative_layers(root: &Object<'_>) -> Result<usize> {
    let count = root.u64("num_nextn_predict_layers")?.unwrap_or(0);
    Ok(usize::try_from(count).unwrap_or(limit::LAYERS).min(limit::LAYERS))
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
