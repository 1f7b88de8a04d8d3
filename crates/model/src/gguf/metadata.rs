//! The metadata llama.cpp's converter writes, key by key, type by type, in its order.
//!
//! Left out on purpose: the guesses it makes from names beyond the title (`general.basename`, `finetune`,
//! `version`), and of the model card everything but licence, tags and languages. `general.size_label` is always
//! counted, never taken from the name.

use std::path::Path;

use quern_tensor_io::{Checkpoint, Container, Error, Metadata, Result, Value};

use crate::architecture::World;
use crate::config::RopeScaling;
use crate::json::{Json, Object};
use crate::tokenizer::Source;
use crate::{Config, TensorRole as Role};

use super::{card, name, tokenizer};

/// A GGUF checkpoint's metadata, less what describes its splits.
pub(super) fn own_metadata(checkpoint: &Checkpoint) -> Metadata {
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
pub fn gguf_metadata(checkpoint: &Checkpoint, config: &Config) -> Result<Metadata> {
    if checkpoint.container() == Container::Gguf {
        return Ok(own_metadata(checkpoint));
    }
    let directory = checkpoint.directory();
    // The vocabulary is filled up to the embedding's size; make sure that the file backs that size.
    let embedding = config.tensor_name(World::HuggingFace, Role::TokenEmbedding, None).unwrap_or_default();
    match checkpoint.tensor(&embedding) {
        Some(tensor) if tensor.info.shape.first() == Some(&config.vocab_size) => {}
        Some(tensor) => {
            let what = format!("{:?} has not the config's {} rows", tensor.info.shape, config.vocab_size);
            return Err(Error::malformed(checkpoint.path(), what).with_tensor(embedding));
        }
        None => {
            return Err(Error::malformed(checkpoint.path(), "the tensor is missing").with_tensor(embedding));
        }
    }
    let json = Json::read(&directory.join("config.json"))?;
    let source = Source::read(directory, Some(config.vocab_size))?;

    let mut out = Metadata::new();
    out.set("general.architecture", config.architecture.name);
    out.set("general.type", "model");
    sampling(directory, &mut out)?;
    out.set("general.name", name::title(directory).as_str());
    out.set("general.size_label", name::size_label(parameters(checkpoint, config)).as_str());
    card::read(directory, &mut out)?;
    model(config, &json.root(), &mut out);
    tokenizer::write(source, config.architecture.name, &mut out);
    Ok(out)
}

/// Values in the tensors the GGUF file will have.
fn parameters(checkpoint: &Checkpoint, config: &Config) -> u64 {
    let factors = config.rope.factors.as_ref().map_or(0, Vec::len) as u64;
    let expected = config.expected_tensors(World::HuggingFace);
    let present = expected.iter().filter_map(|e| checkpoint.tensor(&e.name));
    present.map(|t| t.info.elements() as u64).sum::<u64>() + factors
}

/// Sampling parameters the publisher recommends, from `generation_config.json`.
fn sampling(directory: &Path, out: &mut Metadata) -> Result<()> {
    let Some(json) = Json::read_optional(&directory.join("generation_config.json"))? else { return Ok(()) };
    let root = json.root();
    // In the converter's order; top_k stands first.
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

fn model(config: &Config, json: &Object<'_>, out: &mut Metadata) {
    let prefix = config.architecture.name;
    let mut set = |key: &str, value: Value| out.set(format!("{prefix}.{key}"), value);
    let size = |v: usize| Value::U32(v as u32); // all sizes were checked against limits far below 2^32
    set("block_count", size(config.layers));
    set("context_length", size(config.context_length));
    set("embedding_length", size(config.hidden_size));
    set("feed_forward_length", size(config.ffn_size));
    set("attention.head_count", size(config.heads));
    set("attention.head_count_kv", size(config.kv_heads));
    match config.rope.scaling {
        // Llama 3's goes into the tensor rope_freqs.weight.
        RopeScaling::None | RopeScaling::Llama3 { .. } => {}
        RopeScaling::Linear { factor } => {
            set("rope.scaling.type", "linear".into());
            set("rope.scaling.factor", Value::F32(factor));
        }
        RopeScaling::Yarn { factor, original_context, attention_factor, beta_fast, beta_slow } => {
            set("rope.scaling.type", "yarn".into());
            set("rope.scaling.factor", Value::F32(factor));
            set("rope.scaling.original_context_length", size(original_context));
            if let Some(v) = attention_factor {
                set("rope.scaling.yarn_attn_factor", Value::F32(v));
            }
            set("rope.scaling.yarn_beta_fast", Value::F32(beta_fast));
            set("rope.scaling.yarn_beta_slow", Value::F32(beta_slow));
        }
    }
    set("rope.freq_base", Value::F32(config.rope.theta));
    set("attention.layer_norm_rms_epsilon", Value::F32(config.norm_epsilon));
    if json.get("head_dim").is_some() {
        set("attention.key_length", size(config.head_dim));
        set("attention.value_length", size(config.head_dim));
    }
    set("vocab_size", size(config.vocab_size));
    set("rope.dimension_count", size(config.rope.dimensions));
}
