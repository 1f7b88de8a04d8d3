//! The metadata of mixtures of experts, and what of them has no key.

use quern_tensor_io::Value;

use crate::Config;
use crate::architecture::{GgufKey, Scores};

/// An entry, or a group of entries, about experts: as the [`GgufKey`] of that name.
#[derive(Clone, Copy, Debug)]
pub(super) enum Entry {
    Count,
    Used,
    Width,
    Latent,
    NormOff,
    Norm,
    NormOn,
    Scale,
    ScaleUnlessOne,
    Gating,
    SharedCount,
    SharedWidth,
    Groups,
    LeadingDense,
    Interleave,
}

/// Sets one of them, where the model has experts.
pub(super) fn write(entry: Entry, config: &Config, set: &mut impl FnMut(&str, Value)) {
    let Some(experts) = &config.experts else { return };
    let size = |v: usize| Value::U32(v as u32); // all sizes were checked against limits far below 2^32
    let shared = experts.shared.map(|shared| shared.ffn_size);
    match entry {
        Entry::Count => set("expert_count", size(experts.count)),
        Entry::Used => set("expert_used_count", size(experts.used)),
        Entry::Width => set("expert_feed_forward_length", size(experts.ffn_size)),
        Entry::Latent => {
            if let Some(width) = experts.latent {
                set("moe_latent_size", size(width));
            }
        }
        Entry::NormOff if experts.normalized => {}
        Entry::NormOn if !experts.normalized => {}
        Entry::Norm | Entry::NormOff | Entry::NormOn => {
            set("expert_weights_norm", Value::Bool(experts.normalized));
        }
        Entry::ScaleUnlessOne if experts.scale == 1.0 => {}
        Entry::Scale | Entry::ScaleUnlessOne => {
            set("expert_weights_scale", Value::F32(experts.scale));
        }
        Entry::Gating => match experts.scores {
            Scores::Softmax => set("expert_gating_func", Value::U32(1)),
            Scores::Sigmoid => set("expert_gating_func", Value::U32(2)),
            // The family's readers have no key for it.
            Scores::SparseMixer { .. } => {}
        },
        Entry::SharedCount => set("expert_shared_count", size(experts.shared_count())),
        Entry::SharedWidth => {
            if let Some(width) = shared {
                set("expert_shared_feed_forward_length", size(width));
            }
        }
        Entry::Groups => {
            let (count, used) = experts.groups.map_or((1, 1), |groups| (groups.count, groups.used));
            set("expert_group_count", size(count));
            set("expert_group_used_count", size(used));
        }
        Entry::LeadingDense => {
            if let Some((first, _)) = config.sparse_rule() {
                set("leading_dense_block_count", size(first));
            }
        }
        Entry::Interleave => {
            if let Some((_, step)) = config.sparse_rule() {
                set("interleave_moe_layer_step", size(step));
            }
        }
    }
}

/// What of a mixture changes the numbers and has no key in files of this family.
pub(super) fn without_key(config: &Config) -> Option<String> {
    let experts = config.experts?;
    let (rules, keys) = (config.architecture.mixture, config.architecture.gguf_keys);
    let written = |all: &[GgufKey]| keys.iter().any(|key| all.contains(key));
    let norm = [GgufKey::ExpertWeightsNorm, GgufKey::ExpertWeightsNormOff, GgufKey::ExpertWeightsNormOn];
    if experts.normalized != rules.normalized && !written(&norm) {
        return Some(format!("\"norm_topk_prob\": {}", experts.normalized));
    }
    let scale = [GgufKey::ExpertWeightsScale, GgufKey::ExpertWeightsScaleUnlessOne];
    if experts.scale != 1.0 && !written(&scale) {
        return Some(format!("\"routed_scaling_factor\": {}", experts.scale));
    }
    if experts.scores != rules.scores && !written(&[GgufKey::ExpertGatingFunc]) {
        return Some("how experts are scored (\"scoring_func\", \"router_jitter_noise\")".to_owned());
    }
    if experts.groups.is_some() && !written(&[GgufKey::ExpertGroups]) {
        return Some("groups of experts (\"n_group\")".to_owned());
    }
    let leading = written(&[GgufKey::LeadingDenseBlockCount]);
    let stepped = written(&[GgufKey::InterleaveMoeLayerStep]);
    let said = match config.sparse_rule() {
        // The layers that are networks are mixtures.
        _ if config.has_single_layers() => true,
        None => false,
        Some((first, step)) => (first == 0 || leading) && (step == 1 || stepped),
    };
    let keys = "\"mlp_only_layers\", \"decoder_sparse_step\"";
    (!said).then(|| format!("which layers are no mixtures of experts ({keys})"))
}
