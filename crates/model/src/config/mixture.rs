//! Mixtures of experts: which layers are one, how experts are chosen, and the experts that all tokens use.

use quern_tensor_io::{Error, Result};
use serde_json::{Map, Value, json};

use crate::architecture::{Architecture, Field, GgufKey, GroupRank, Scores};
use crate::json::{Object, as_u64};

use super::from_hf::Reader;
use super::gguf_keys::Keys;
use super::{Config, limit};

/// A mixture of experts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Experts {
    /// How many there are.
    pub count: usize,
    /// How many compute for each token.
    pub used: usize,
    /// Width inside one.
    pub ffn_size: usize,
    /// Width of what they read and make, where it is not the residual stream's.
    pub latent: Option<usize>,
    /// How the router's outputs become scores.
    pub scores: Scores,
    /// The chosen ones' weights are made to sum to one.
    pub normalized: bool,
    /// What those weights are then multiplied by.
    pub scale: f32,
    /// Groups of experts, of which some are kept before experts are chosen.
    pub groups: Option<ExpertGroups>,
    /// A bias is added to scores for the choice alone.
    pub choice_bias: bool,
    /// A weight multiplies what an expert reads, not what it makes.
    pub scaled_inputs: bool,
    /// The expert that all tokens use.
    pub shared: Option<SharedExpert>,
}

/// Groups of equally many experts that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertGroups {
    /// How many there are.
    pub count: usize,
    /// From how many a token's experts are chosen.
    pub used: usize,
    /// What they are ordered by.
    pub rank: GroupRank,
}

/// The expert that all tokens use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedExpert {
    /// Width inside it.
    pub ffn_size: usize,
    /// Its result is multiplied with the sigmoid of a number that the token gives.
    pub gated: bool,
}

impl Experts {
    /// Why no token can be computed so, if so.
    pub(super) fn impossible(&self) -> Option<String> {
        let Self { count, used, .. } = *self;
        if used > count {
            return Some(format!("{used} experts cannot be chosen from {count}"));
        }
        if !(self.scale.is_finite() && self.scale > 0.0) {
            return Some(format!("{} is not a valid factor for the weights of experts", self.scale));
        }
        if let Some(groups) = self.groups {
            let ExpertGroups { count: all, used: kept, rank } = groups;
            let least = match rank {
                GroupRank::Largest => 1,
                GroupRank::TwoLargest => 2,
            };
            if all == 0 || !count.is_multiple_of(all) || count / all < least {
                return Some(format!("{count} experts cannot be divided into {all} groups"));
            }
            if kept > all || count / all * kept < used {
                return Some(format!(
                    "{used} experts cannot be chosen from {kept} of {all} groups of {count}"
                ));
            }
        }
        if let Scores::SparseMixer { jitter } = self.scores
            && !(used == 2 && jitter.is_finite() && jitter > 0.0)
        {
            return Some(format!("{used} experts cannot be chosen one after the other with jitter {jitter}"));
        }
        None
    }

    /// The shared expert's width as a number of experts; 0 without one.
    pub(crate) fn shared_count(&self) -> usize {
        self.shared.map_or(0, |shared| shared.ffn_size / self.ffn_size.max(1))
    }

    /// How groups are ordered that belong to such scores.
    fn rank_of(scores: Scores) -> GroupRank {
        match scores {
            Scores::Softmax | Scores::SparseMixer { .. } => GroupRank::Largest,
            Scores::Sigmoid => GroupRank::TwoLargest,
        }
    }

    fn groups(count: Option<usize>, used: Option<usize>, scores: Scores) -> Option<ExpertGroups> {
        let (count, used) = count.zip(used)?;
        (count > 1 && used < count).then_some(ExpertGroups { count, used, rank: Self::rank_of(scores) })
    }
}

impl Config {
    /// Whether this layer is a mixture of experts.
    pub fn is_sparse(&self, layer: usize) -> bool {
        self.experts.is_some() && self.sparse_layers.get(layer).copied().unwrap_or(false)
    }

    /// Whether any layer has one feed-forward network, alone or beside experts.
    pub fn has_dense_layers(&self) -> bool {
        self.has_dense_beside() || (0..self.layers).any(|layer| !self.is_sparse(layer))
    }

    /// Whether layers with experts have a dense network beside them.
    pub fn has_dense_beside(&self) -> bool {
        self.experts.is_some() && self.architecture.mixture.beside
    }

    /// The largest width inside a network of any layer: one for all tokens, a shared expert or one of many.
    pub fn widest(&self) -> usize {
        let Some(experts) = self.experts else { return self.widest_ffn() };
        let shared = experts.shared.map_or(0, |shared| shared.ffn_size);
        let dense = if self.has_dense_layers() { self.widest_ffn() } else { 0 };
        experts.ffn_size.max(shared).max(dense)
    }

    /// `(first, step)`, if mixtures are those layers from `first` on whose number, counted from 1, is a multiple of
    /// `step`: the smallest step, and 0 for `first` where that says the same.
    pub(crate) fn sparse_rule(&self) -> Option<(usize, usize)> {
        let first = (0..self.layers).find(|&layer| self.is_sparse(layer)).unwrap_or(self.layers);
        let fits = |&(first, step): &(usize, usize)| {
            let is = |layer: usize| layer >= first && (layer + 1).is_multiple_of(step);
            (0..self.layers).all(|layer| self.is_sparse(layer) == is(layer))
        };
        (1..=self.layers).flat_map(|step| [(0, step), (first, step)]).find(fits)
    }
}

/// The mixture that a `config.json` describes.
pub(super) fn from_hf(reader: &Reader<'_>, ffn_size: usize) -> Result<Option<Experts>> {
    let Some(count) = reader.size(Field::Experts, limit::EXPERTS)? else { return Ok(None) };
    let rules = reader.architecture.mixture;
    let own = reader.size(Field::ExpertFfn, limit::HIDDEN)?.unwrap_or(ffn_size);
    let shared = match reader.count(Field::SharedFfn, limit::HIDDEN)? {
        Some(width) => Some(width),
        None => reader.count(Field::SharedExperts, limit::EXPERTS)?.map(|experts| experts * own),
    };
    let shared = shared.filter(|&width| width > 0);
    let groups = [Field::ExpertGroups, Field::ExpertGroupsUsed].map(|f| reader.size(f, limit::EXPERTS));
    let [groups, groups_used] = groups;
    let scores = match (rules.scores, reader.number(Field::RouterJitter)?) {
        (Scores::SparseMixer { .. }, Some(jitter)) => Scores::SparseMixer { jitter: jitter as f32 },
        (scores, _) => scores,
    };
    Ok(Some(Experts {
        count,
        used: reader.need(Field::ExpertsUsed, limit::EXPERTS)?,
        ffn_size: own,
        latent: reader.size(Field::ExpertLatent, limit::HIDDEN)?,
        scores,
        normalized: reader.flag(Field::NormTopk, rules.normalized)?,
        scale: reader.number(Field::ExpertScale)?.unwrap_or(1.0) as f32,
        groups: Experts::groups(groups?, groups_used?, scores),
        choice_bias: rules.choice_bias,
        scaled_inputs: rules.scaled_inputs,
        shared: shared.map(|ffn_size| SharedExpert { ffn_size, gated: rules.shared_gated }),
    }))
}

/// The layers that a `config.json` makes mixtures.
pub(super) fn sparse_layers_of_hf(reader: &Reader<'_>, config: &Config) -> Result<Vec<bool>> {
    if config.experts.is_none() {
        return Ok(vec![false; config.layers]);
    }
    // Where each layer is one thing, mixtures are in the network's place.
    if config.has_single_layers() {
        return Ok((0..config.layers).map(|layer| config.is_network(layer)).collect());
    }
    // K-EXAONE's list counts before the number of layers in front.
    if let Some(kinds) = reader.root.array("mlp_layer_types")?
        && reader.architecture.name == "exaone-moe"
    {
        return sparse_by_kind(reader.root, kinds, config.layers);
    }
    let first = reader.count(Field::DenseLayers, limit::LAYERS)?.unwrap_or(0);
    let step = reader.size(Field::SparseStep, limit::LAYERS)?.unwrap_or(1);
    let is = |layer: usize| layer >= first && (layer + 1).is_multiple_of(step);
    let mut layers: Vec<bool> = (0..config.layers).map(is).collect();
    // ERNIE's: -1 for the last.
    if let Some(last) = reader.root.get("moe_layer_end_index").and_then(Value::as_i64)
        && reader.architecture.name == "ernie4_5-moe"
        && last >= 0
    {
        layers.iter_mut().enumerate().for_each(|(layer, sparse)| *sparse &= layer as i64 <= last);
    }
    if reader.has(Field::SparseStep) {
        for layer in listed(reader.root, "mlp_only_layers")?.into_iter().flatten() {
            if let Some(sparse) = layers.get_mut(layer) {
                *sparse = false;
            }
        }
    }
    Ok(layers)
}

/// Which layers `mlp_layer_types` makes mixtures.
pub(super) fn sparse_by_kind(root: &Object<'_>, kinds: &[Value], layers: usize) -> Result<Vec<bool>> {
    const KEY: &str = "mlp_layer_types";
    if kinds.len() != layers {
        return Err(root.error(KEY, format!("{} entries for {layers} layers", kinds.len())));
    }
    let kind = |kind: &Value| match kind.as_str() {
        Some("sparse") => Ok(true),
        Some("dense") => Ok(false),
        _ => Err(root.error(KEY, format!("{kind} is not a kind of layer that quern knows"))),
    };
    kinds.iter().map(kind).collect()
}

/// A list of layers by number.
pub(super) fn listed(root: &Object<'_>, key: &str) -> Result<Option<Vec<usize>>> {
    let Some(list) = root.array(key)? else { return Ok(None) };
    let number = |value: &Value| {
        let number = as_u64(value).and_then(|n| usize::try_from(n).ok());
        number.ok_or_else(|| root.error(key, format!("{value} is not the number of a layer")))
    };
    list.iter().map(number).collect::<Result<_>>().map(Some)
}

/// The mixture that GGUF metadata describe; what tensors show is completed by [`complete`].
pub(super) fn from_gguf(keys: &Keys<'_>, architecture: &Architecture, ffn_size: usize) -> Result<Experts> {
    let rules = architecture.mixture;
    let written = |key: GgufKey| architecture.gguf_keys.contains(&key);
    let used = keys.need("expert_used_count", limit::EXPERTS)?;
    let own = match keys.size("expert_feed_forward_length", limit::HIDDEN)? {
        Some(size) => size,
        // The whole network's width, shared out among the experts that compute.
        None if matches!(architecture.name, "qwen2moe" | "qwen3moe") => (ffn_size / used).max(1),
        None => ffn_size,
    };
    const GATING: &str = "expert_gating_func";
    let scores = match keys.count(GATING, 16)? {
        _ if !written(GgufKey::ExpertGatingFunc) => rules.scores,
        None | Some(0) => rules.scores,
        Some(1) => Scores::Softmax,
        Some(2) => Scores::Sigmoid,
        Some(other) => {
            let what =
                format!("{}: {other} is not supported (1 for softmax, 2 for sigmoid)", keys.name(GATING));
            return Err(Error::unsupported(keys.file, what));
        }
    };
    let normalized = match rules.normalized {
        // Readers of such files never do so.
        false if !written(GgufKey::ExpertWeightsNorm) && !written(GgufKey::ExpertWeightsNormOn) => false,
        usual => keys.flag("expert_weights_norm")?.unwrap_or(usual),
    };
    let scaled = [GgufKey::ExpertWeightsScale, GgufKey::ExpertWeightsScaleUnlessOne];
    let scale = match scaled.into_iter().any(written) {
        // Zero stands for none.
        true => keys.positive("expert_weights_scale")?.unwrap_or(1.0),
        false => 1.0,
    };
    let groups = match written(GgufKey::ExpertGroups) {
        true => Experts::groups(
            keys.size("expert_group_count", limit::EXPERTS)?,
            keys.size("expert_group_used_count", limit::EXPERTS)?,
            scores,
        ),
        false => None,
    };
    let shared = match keys.count("expert_shared_feed_forward_length", limit::HIDDEN)? {
        _ if !written(GgufKey::ExpertSharedFeedForwardLength) => None,
        found => found,
    };
    let shared = match (shared, keys.count("expert_shared_count", limit::EXPERTS)?) {
        (Some(width), _) => Some(width),
        (None, Some(count)) if written(GgufKey::ExpertSharedCount) => Some(count * own),
        (None, _) => None,
    };
    Ok(Experts {
        count: keys.need("expert_count", limit::EXPERTS)?,
        used,
        ffn_size: own,
        latent: match written(GgufKey::MoeLatentSize) {
            true => keys.size("moe_latent_size", limit::HIDDEN)?,
            false => None,
        },
        scores,
        normalized,
        scale,
        groups,
        choice_bias: rules.choice_bias,
        scaled_inputs: rules.scaled_inputs,
        shared: shared
            .filter(|&width| width > 0)
            .map(|ffn_size| SharedExpert { ffn_size, gated: rules.shared_gated }),
    })
}

/// The layers that GGUF metadata make mixtures.
pub(super) fn sparse_layers_of_gguf(keys: &Keys<'_>, config: &Config) -> Result<Vec<bool>> {
    if config.experts.is_none() {
        return Ok(vec![false; config.layers]);
    }
    // Where each layer is one thing, mixtures are in the network's place.
    if config.has_single_layers() {
        return Ok((0..config.layers).map(|layer| config.is_network(layer)).collect());
    }
    let written = |key: GgufKey| config.architecture.gguf_keys.contains(&key);
    let first = match written(GgufKey::LeadingDenseBlockCount) {
        true => keys.count("leading_dense_block_count", limit::LAYERS)?.unwrap_or(0),
        false => 0,
    };
    let step = match written(GgufKey::InterleaveMoeLayerStep) {
        // Zero stands for none.
        true => keys.count("interleave_moe_layer_step", limit::LAYERS)?,
        false => Some(1),
    };
    let is = |layer: usize| match step {
        Some(0) => false,
        step => layer >= first && (layer + 1).is_multiple_of(step.unwrap_or(1)),
    };
    Ok((0..config.layers).map(is).collect())
}

/// Completes a mixture read from GGUF metadata by whether the file has biases for the choice.
pub(super) fn complete(with_bias: bool, config: &mut Config) {
    if let Some(experts) = &mut config.experts {
        experts.choice_bias &= with_bias;
    }
}

/// Adds to a `config.json` which layers are no mixtures, where a list says what numbers cannot.
pub(super) fn to_hf(config: &Config, out: &mut Map<String, Value>) {
    let has = |field| config.architecture.hf_keys.iter().any(|key| key.field == field);
    // Llama 4 lists those that are.
    let listed = config.architecture.name == "llama4";
    if config.experts.is_some() && has(Field::SparseStep) && !has(Field::DenseLayers) && !listed {
        let dense = |&layer: &usize| !config.is_sparse(layer);
        let others: Vec<usize> = match config.sparse_rule() {
            Some((0, _)) => Vec::new(),
            Some(_) | None => (0..config.layers).filter(dense).collect(),
        };
        out.entry("mlp_only_layers").or_insert(json!(others));
    }
}
