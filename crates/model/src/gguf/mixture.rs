//! The metadata of mixtures of experts, and what of them has no key.

use quern_tensor_io::Value;

use crate::Config;
use crate::architecture::{GgufKey, Scores};
use crate::config::Experts;

/// Sets one key, which is about experts.
pub(super) fn write(key: GgufKey, config: &Config, experts: &Experts, set: &mut impl FnMut(&str, Value)) {
    let size = |v: usize| Value::U32(v as u32); // all sizes were checked against limits far below 2^32
    let shared = experts.shared.map(|shared| shared.ffn_size);
    match key {
        GgufKey::ExpertCount => set("expert_count", size(experts.count)),
        GgufKey::ExpertUsedCount => set("expert_used_count", size(experts.used)),
        GgufKey::ExpertFeedForwardLength => set("expert_feed_forward_length", size(experts.ffn_size)),
        GgufKey::ExpertWeightsNormOff if experts.normalized => {}
        GgufKey::ExpertWeightsNorm | GgufKey::ExpertWeightsNormOff => {
            set("expert_weights_norm", Value::Bool(experts.normalized));
        }
        GgufKey::ExpertWeightsScaleUnlessOne if experts.scale == 1.0 => {}
        GgufKey::ExpertWeightsScale | GgufKey::ExpertWeightsScaleUnlessOne => {
            set("expert_weights_scale", Value::F32(experts.scale));
        }
        GgufKey::ExpertGatingFunc => match experts.scores {
            Scores::Softmax => set("expert_gating_func", Value::U32(1)),
            Scores::Sigmoid => set("expert_gating_func", Value::U32(2)),
            // The family's readers have no key for it.
            Scores::SparseMixer { .. } => {}
        },
        GgufKey::ExpertSharedCount => set("expert_shared_count", size(experts.shared_count())),
        GgufKey::ExpertSharedFeedForwardLength => {
            if let Some(width) = shared {
                set("expert_shared_feed_forward_length", size(width));
            }
        }
        GgufKey::ExpertGroups => {
            let (count, used) = experts.groups.map_or((1, 1), |groups| (groups.count, groups.used));
            set("expert_group_count", size(count));
            set("expert_group_used_count", size(used));
        }
        GgufKey::LeadingDenseBlockCount => {
            if let Some((first, _)) = config.sparse_rule() {
                set("leading_dense_block_count", size(first));
            }
        }
        GgufKey::InterleaveMoeLayerStep => {
            if let Some((_, step)) = config.sparse_rule() {
                set("interleave_moe_layer_step", size(step));
            }
        }
        // The caller passes keys about experts alone.
        _ => {}
    }
}

/// What of a mixture changes the numbers and has no key in files of this family.
pub(super) fn without_key(config: &Config) -> Option<String> {
    let experts = config.experts?;
    let (rules, keys) = (config.architecture.mixture, config.architecture.gguf_keys);
    let written = |all: &[GgufKey]| keys.iter().any(|key| all.contains(key));
    let norm = [GgufKey::ExpertWeightsNorm, GgufKey::ExpertWeightsNormOff];
    if experts.normalized != rules.normalized && !written(&norm) {
        return Some(format!("\"norm_topk_prob\": {}", experts.normalized));
    }
    let scale = [GgufKey::ExpertWeightsScale, GgufKey::ExpertWeightsScaleUnlessOne];
    if experts.scale != 1.0 && !written(&scale) {
        return Some(format!("\"routed_scaling_factor\": {}", experts.scale));
    }
    if experts.scores != rules.scores && !written(&[GgufKey::ExpertGatingFunc]) {
        return Some("how experts are scored (\"scoring_func\")".to_owned());
    }
    if experts.groups.is_some() && !written(&[GgufKey::ExpertGroups]) {
        return Some("groups of experts (\"n_group\")".to_owned());
    }
    let leading = written(&[GgufKey::LeadingDenseBlockCount]);
    let stepped = written(&[GgufKey::InterleaveMoeLayerStep]);
    let said = match config.sparse_rule() {
        None => false,
        Some((first, step)) => (first == 0 || leading) && (step == 1 || stepped),
    };
    let keys = "\"mlp_only_layers\", \"decoder_sparse_step\"";
    (!said).then(|| format!("which layers are no mixtures of experts ({keys})"))
}
