//! `config.json` of Hugging Face transformers, old style and new.

use std::path::Path;

use quern_tensor_io::{ElementType, Error, Result};
use serde_json::Value;

use crate::architecture::{Activation, Architecture, Block, Field, HfKey, RopeStyle, Silence, World};
use crate::architectures;
use crate::identify::class;
use crate::json::{Json, Object};

use super::{Config, Experts, hf_rope, limit, quirks};

/// A `config.json` under the keys of one architecture.
pub(super) struct Reader<'a> {
    pub root: &'a Object<'a>,
    pub architecture: &'static Architecture,
}

impl Reader<'_> {
    /// The entry of a field, and the key of its several that is there.
    fn key(&self, field: Field) -> Option<(&'static HfKey, Option<&'static str>)> {
        let key = self.architecture.hf_keys.iter().find(|k| k.field == field)?;
        Some((key, key.names.iter().copied().find(|name| self.root.get(name).is_some())))
    }

    fn required(&self, key: &HfKey) -> Error {
        self.root.missing(key.names.first().copied().unwrap_or_default())
    }

    /// A size, at most `max`.
    fn size(&self, field: Field, max: usize) -> Result<Option<usize>> {
        match self.key(field) {
            None => Ok(None),
            Some((_, Some(name))) => self.root.size(name, max),
            Some((key, None)) => match key.silence {
                Silence::Required => Err(self.required(key)),
                Silence::Number(n) => Ok(Some(n as usize)),
                Silence::Times(factor, other) => Ok(self.size(other, max)?.map(|size| size * factor)),
                _ => Ok(None),
            },
        }
    }

    fn need(&self, field: Field, max: usize) -> Result<usize> {
        let name = || self.key(field).map_or("", |(key, _)| key.names.first().copied().unwrap_or_default());
        self.size(field, max)?.ok_or_else(|| self.root.missing(name()))
    }

    /// A finite number.
    pub fn number(&self, field: Field) -> Result<Option<f64>> {
        match self.key(field) {
            None => Ok(None),
            Some((_, Some(name))) => self.root.f64(name),
            Some((key, None)) => match key.silence {
                Silence::Required => Err(self.required(key)),
                Silence::Number(n) => Ok(Some(n)),
                _ => Ok(None),
            },
        }
    }

    /// A flag; `otherwise` where the family has no such thing.
    fn flag(&self, field: Field, otherwise: bool) -> Result<bool> {
        match self.key(field) {
            None => Ok(otherwise),
            Some((_, Some(name))) => Ok(self.root.bool(name)?.unwrap_or(otherwise)),
            Some((key, None)) => match key.silence {
                Silence::Required => Err(self.required(key)),
                Silence::Flag(flag) => Ok(flag),
                _ => Ok(otherwise),
            },
        }
    }

    fn activation(&self) -> Result<Activation> {
        let Some((key, name)) = self.key(Field::Activation) else { return Ok(Activation::Silu) };
        let word = match (name, key.silence) {
            (Some(name), _) => self.root.str(name)?.unwrap_or_default(),
            (None, Silence::Word(word)) => word,
            (None, _) => return Err(self.required(key)),
        };
        let name = name.unwrap_or("hidden_act");
        Activation::from_hf(word)
            .ok_or_else(|| Error::unsupported(self.root.file(), format!("{name} {word:?} is not supported")))
    }
}

pub(super) fn read(file: &Path) -> Result<Config> {
    if !file.is_file() {
        let what = "there is no config.json beside the weights, so the architecture is unknown; download it from \
                    where the weights come from";
        return Err(Error::malformed(file, what));
    }
    let json = Json::read(file)?;
    let root = json.root();
    let architecture = architecture(&root)?;
    let reader = Reader { root: &root, architecture };
    for &flag in architecture.hf_refused {
        if root.bool(flag)? == Some(true) {
            let what = format!("{} models with {flag} on are not supported", architecture.name);
            return Err(Error::unsupported(file, what));
        }
    }

    let hidden_size = reader.need(Field::Hidden, limit::HIDDEN)?;
    let heads = reader.need(Field::Heads, limit::HEADS)?;
    let given = reader.size(Field::HeadDim, limit::HIDDEN)?;
    let head_dim = match given {
        Some(given) => given,
        None if hidden_size.is_multiple_of(heads) => hidden_size / heads,
        None => {
            let what = format!(
                "{heads} heads do not divide the hidden size {hidden_size}, and head_dim is not given"
            );
            let key = reader.key(Field::Heads).and_then(|(key, name)| name.or(key.names.first().copied()));
            return Err(root.error(key.unwrap_or("num_attention_heads"), what));
        }
    };
    let context_length = reader.need(Field::Context, limit::CONTEXT)?;
    let ffn_size = reader.need(Field::Ffn, limit::HIDDEN)?;
    let experts = match reader.size(Field::Experts, limit::EXPERTS)? {
        None => None,
        Some(count) => Some(Experts {
            count,
            used: reader.need(Field::ExpertsUsed, limit::EXPERTS)?,
            ffn_size: reader.size(Field::ExpertFfn, limit::HIDDEN)?.unwrap_or(ffn_size),
            normalized: reader.flag(Field::NormTopk, true)?,
        }),
    };
    let block = match (reader.flag(Field::ParallelBlock, false)?, reader.flag(Field::NormBefore, true)?) {
        (true, _) => Block::Parallel,
        (false, true) => Block::Sequential,
        (false, false) => Block::PostNorm,
    };
    let positive = |field| -> Result<Option<f32>> { Ok(reader.number(field)?.map(|v| v as f32)) };
    let mut config = Config {
        architecture,
        world: World::HuggingFace,
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
        rope: hf_rope::read(&reader, head_dim, context_length)?,
        rope_style: RopeStyle::HalfSplit,
        sliding_window: reader.size(Field::SlidingWindow, limit::CONTEXT)?,
        sliding_layers: Vec::new(),
        block,
        tied_embeddings: root.bool("tie_word_embeddings")?.unwrap_or(architecture.tied_by_default),
        qkv_bias: reader.flag(Field::QkvBias, false)?,
        output_bias: reader.flag(Field::OutputBias, false)?,
        mlp_bias: reader.flag(Field::MlpBias, false)?,
        qk_norm: reader.flag(Field::QkNorm, false)?,
        second_norm: true,
        final_norm: !reader.flag(Field::NoFinalNorm, false)? && block != Block::PostNorm,
        attention_softcap: positive(Field::AttentionSoftcap)?,
        final_softcap: positive(Field::FinalSoftcap)?,
        query_scalar: positive(Field::QueryScalar)?,
        experts,
        activation: reader.activation()?,
        dtype: dtype(&root)?,
        quantization: quantization(&root)?,
    };
    quirks::from_hf(&root, &mut config)?;
    config.checked(file)
}

fn architecture(root: &Object<'_>) -> Result<&'static Architecture> {
    let listed = root.array("architectures")?.unwrap_or(&[]);
    let names: Vec<&str> = listed.iter().filter_map(Value::as_str).collect();
    let model_type = root.str("model_type")?;
    // The class decides: a `model_type` of llama also serves classes that are no language models.
    let with_head = names.iter().find_map(|name| architectures::from_hf_architecture(name));
    let found = match names.first() {
        Some(_) if with_head.is_none() && class::is_multimodal(root) => None,
        Some(_) => with_head.or_else(|| names.iter().find_map(|name| class::family(name))),
        None => model_type.and_then(architectures::from_hf_model_type),
    };
    found.ok_or_else(|| match names.first().copied().or(model_type) {
        Some(name) => class::refusal(root, name),
        None => root.missing("architectures"),
    })
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
