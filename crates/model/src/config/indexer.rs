//! The indexer of sparse attention (DeepSeek V3.2, GLM-5): small heads that choose the positions which latent attention
//! reads.

use quern_tensor_io::{Array, Checkpoint, Error, Result, Value};
use serde_json::{Value as Json, json};

use crate::architecture::{Architecture, Field, RopeStyle};
use crate::json::Object;

use super::from_hf::Reader;
use super::gguf_keys::Keys;
use super::{Config, Latent, limit};

/// Which layers have an indexer, where a family lets others use the choice of an earlier one.
const TYPES: &str = "indexer_types";
/// The same as letters, and by a distance from layer to layer.
const PATTERN: &str = "index_topk_pattern";
const EVERY: &str = "index_topk_freq";
const FROM: &str = "index_skip_topk_offset";

/// An indexer's sizes, and which layers have one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Indexer {
    /// Heads of its queries.
    pub heads: usize,
    /// Numbers of a query and a key.
    pub head_dim: usize,
    /// Positions that attention reads, at most.
    pub top_k: usize,
    /// How the first numbers of its queries and keys are paired for rotation.
    pub rope_style: RopeStyle,
    /// The layers that have one; the others read the positions that the last one before them chose.
    pub own: Vec<bool>,
}

impl Indexer {
    /// Whether this layer has one.
    pub fn has(&self, layer: usize) -> bool {
        self.own.get(layer).copied().unwrap_or(false)
    }

    /// Its number among those of all layers.
    pub fn slot(&self, layer: usize) -> usize {
        self.own.iter().take(layer).filter(|&&own| own).count()
    }

    /// How many layers have one.
    pub fn layers(&self) -> usize {
        self.slot(self.own.len())
    }

    /// Whether some layers have none.
    pub fn is_shared(&self) -> bool {
        self.own.contains(&false)
    }

    /// What is wrong with the sizes.
    pub(super) fn impossible(&self, latent: Option<&Latent>) -> Option<String> {
        if !self.has(0) {
            return Some("the first layer has no indexer, and no layer before it chooses positions".into());
        }
        let Some(latent) = latent else { return Some("an indexer without latent attention".into()) };
        if latent.query_rank.is_none() {
            return Some("an indexer's queries are made of those of few numbers, and there are none".into());
        }
        (self.head_dim < latent.rope_dim).then(|| {
            format!(
                "{} numbers of an indexer's heads, of which {} are rotated",
                self.head_dim, latent.rope_dim
            )
        })
    }
}

/// As `config.json` says it; `None` for a family without.
pub(super) fn from_hf(reader: &Reader<'_>, layers: usize) -> Result<Option<Indexer>> {
    if !reader.has(Field::IndexerTopK) {
        return Ok(None);
    }
    let architecture = reader.architecture;
    Ok(Some(Indexer {
        heads: reader.need(Field::IndexerHeads, limit::HEADS)?,
        head_dim: reader.need(Field::IndexerHeadDim, limit::HIDDEN)?,
        top_k: reader.need(Field::IndexerTopK, limit::CONTEXT)?,
        rope_style: architecture.indexer_rope_style,
        own: if shares(architecture) { own_of_hf(reader.root, layers)? } else { vec![true; layers] },
    }))
}

/// Whether layers of this family may read what an earlier one chose.
fn shares(architecture: &Architecture) -> bool {
    architecture.name == "glm-dsa"
}

fn own_of_hf(root: &Object<'_>, layers: usize) -> Result<Vec<bool>> {
    let count = |key: &str, found: usize| match found >= layers {
        true => Ok(()),
        false => Err(root.error(key, format!("{found} entries for {layers} layers"))),
    };
    let word = |key: &'static str, entry: &Json| match entry.as_str() {
        Some("full") => Ok(true),
        Some("shared") => Ok(false),
        _ => Err(root.error(key, format!("{entry} is neither \"full\" nor \"shared\""))),
    };
    let listed = |key: &'static str, list: &[Json]| -> Result<Vec<bool>> {
        count(key, list.len())?;
        list.iter().take(layers).map(|entry| word(key, entry)).collect()
    };
    if let Some(list) = root.array(TYPES)? {
        return listed(TYPES, list);
    }
    match root.get(PATTERN) {
        Some(Json::Array(list)) => return listed(PATTERN, list),
        Some(_) => {
            let letters = root.str(PATTERN)?.unwrap_or_default();
            count(PATTERN, letters.chars().count())?;
            let letter = |letter| match letter {
                'F' => Ok(true),
                'S' => Ok(false),
                other => Err(root.error(PATTERN, format!("{other:?} is neither F nor S"))),
            };
            return letters.chars().take(layers).map(letter).collect();
        }
        None => {}
    }
    let every = root.u64(EVERY)?.unwrap_or(1).max(1) as usize;
    let from = root.u64(FROM)?.unwrap_or(2) as usize;
    Ok((0..layers).map(|layer| (layer + 1).saturating_sub(from).is_multiple_of(every)).collect())
}

/// As GGUF metadata says it; `None` for a family without.
pub(super) fn from_gguf(
    keys: &Keys<'_>,
    architecture: &'static Architecture,
    (layers, checkpoint): (usize, &Checkpoint),
) -> Result<Option<Indexer>> {
    if !architecture.hf_keys.iter().any(|key| key.field == Field::IndexerTopK) {
        return Ok(None);
    }
    const KEY: &str = "attention.indexer.types";
    let own = match keys.metadata.get(&keys.name(KEY)) {
        Some(Value::Array(Array::Bool(own))) if own.len() >= layers => own[..layers].to_vec(),
        Some(_) => {
            return Err(keys.error(KEY, format!("true or false for each of {layers} layers is expected")));
        }
        // The first files do not say it: those that have its tensors.
        None => {
            let has = |layer: usize| checkpoint.tensor(&format!("blk.{layer}.indexer.proj.weight")).is_some();
            (0..layers).map(|layer| !shares(architecture) || layer == 0 || has(layer)).collect()
        }
    };
    Ok(Some(Indexer {
        heads: keys.need("attention.indexer.head_count", limit::HEADS)?,
        head_dim: keys.need("attention.indexer.key_length", limit::HIDDEN)?,
        top_k: keys.need("attention.indexer.top_k", limit::CONTEXT)?,
        rope_style: architecture.indexer_rope_style,
        own,
    }))
}

/// The keys of GGUF metadata.
pub(crate) fn to_gguf(config: &Config, set: &mut impl FnMut(&str, Value)) {
    let Some(indexer) = &config.indexer else { return };
    for (key, size) in
        [("head_count", indexer.heads), ("key_length", indexer.head_dim), ("top_k", indexer.top_k)]
    {
        set(&format!("attention.indexer.{key}"), Value::U32(size as u32));
    }
    if indexer.is_shared() {
        set("attention.indexer.types", Value::Array(Array::Bool(indexer.own.clone())));
    }
}

/// What `config.json` has beside the sizes.
pub(super) fn to_hf(config: &Config, mut set: impl FnMut(&str, Json)) {
    if let Some(indexer) = config.indexer.as_ref().filter(|indexer| indexer.is_shared()) {
        let word = |&own: &bool| if own { "full" } else { "shared" };
        set(TYPES, json!(indexer.own.iter().map(word).collect::<Vec<_>>()));
    }
}

/// [`Indexer::impossible`] as an error of `file`.
pub(super) fn check(config: &Config, file: &std::path::Path) -> Result<()> {
    match config.indexer.as_ref().and_then(|indexer| indexer.impossible(config.latent.as_ref())) {
        Some(what) => Err(Error::malformed(file, what)),
        None => Ok(()),
    }
}
