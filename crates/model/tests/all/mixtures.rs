//! Mixtures of experts: which layers are one, and what configurations of either format say of the choice.

use std::fs;

use crate::common::{edit, fixture};
use quern_model::architecture::{GroupRank, Scores};
use quern_model::{Config, Contents, Packed, View};
use quern_tensor_io::gguf::Writer;
use quern_tensor_io::{Checkpoint, Metadata, Value};
use serde_json::json;

fn of_hf(config: &serde_json::Value) -> Result<Config, String> {
    let dir = tempfile::TempDir::new().unwrap();
    let file = dir.path().join("config.json");
    fs::write(&file, config.to_string()).unwrap();
    Config::from_config_json(&file).map_err(|e| e.to_string())
}

fn of_gguf(name: &str, entries: &[(&str, Value)]) -> Result<Config, String> {
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", name);
    for (key, value) in [
        ("block_count", 6),
        ("context_length", 256),
        ("embedding_length", 64),
        ("feed_forward_length", 128),
        ("attention.head_count", 4),
        ("vocab_size", 100),
        ("expert_count", 8),
        ("expert_used_count", 2),
    ] {
        metadata.set(format!("{name}.{key}"), Value::U32(value));
    }
    metadata.set(format!("{name}.attention.layer_norm_rms_epsilon"), Value::F32(1e-6));
    for (key, value) in entries {
        metadata.set(format!("{name}.{key}"), value.clone());
    }
    let dir = tempfile::TempDir::new().unwrap();
    let file = dir.path().join("some.gguf");
    Writer::create(&file, &metadata, &[], false).unwrap().finish().unwrap();
    Config::from_checkpoint(&Checkpoint::open(&file).unwrap()).map_err(|e| e.to_string())
}

/// Sparse layers as a string of `x`, others as `.`.
fn shown(config: &Config) -> String {
    (0..config.layers).map(|layer| if config.is_sparse(layer) { 'x' } else { '.' }).collect()
}

#[test]
fn some_layers_may_have_one_network() {
    let qwen = |more: serde_json::Value| {
        let mut config = json!({ "model_type": "qwen3_moe", "num_hidden_layers": 6 });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        shown(&of_hf(&config).unwrap())
    };
    assert_eq!(qwen(json!({})), "xxxxxx");
    assert_eq!(qwen(json!({ "decoder_sparse_step": 2 })), ".x.x.x");
    assert_eq!(qwen(json!({ "mlp_only_layers": [0, 3, 99] })), ".xx.xx");
    assert_eq!(qwen(json!({ "mlp_only_layers": [5], "decoder_sparse_step": 3 })), "..x...");
    let glm = json!({ "model_type": "glm4_moe", "head_dim": 128, "num_hidden_layers": 5, "first_k_dense_replace": 2 });
    assert_eq!(shown(&of_hf(&glm).unwrap()), "..xxx");
    let ernie = |start, end, step| {
        let config = json!({ "model_type": "ernie4_5_moe", "num_hidden_layers": 6, "moe_layer_start_index": start,
                             "moe_layer_end_index": end, "moe_layer_interval": step });
        shown(&of_hf(&config).unwrap())
    };
    assert_eq!([ernie(1, -1, 1), ernie(2, 4, 1), ernie(1, 5, 2)], [".xxxxx", "..xxx.", ".x.x.x"]);
    let message = of_hf(&json!({ "model_type": "qwen3_moe", "mlp_only_layers": ["x"] })).unwrap_err();
    assert!(message.contains("mlp_only_layers"), "{message}");
}

#[test]
fn gguf_says_which_layers_and_how_experts_are_chosen() {
    let config = of_gguf(
        "ernie4_5-moe",
        &[
            ("leading_dense_block_count", Value::U32(2)),
            ("interleave_moe_layer_step", Value::U32(2)),
            ("expert_shared_count", Value::U32(2)),
            ("expert_feed_forward_length", Value::U32(32)),
        ],
    )
    .unwrap();
    let experts = config.experts.unwrap();
    assert_eq!(
        (shown(&config).as_str(), experts.scores, experts.normalized),
        ("...x.x", Scores::Softmax, true)
    );
    assert_eq!(experts.shared.map(|shared| (shared.ffn_size, shared.gated)), Some((64, false)));
    // No tensor has biases for the choice.
    assert!(!experts.choice_bias);

    let glm = |more: &[(&str, Value)]| of_gguf("glm4moe", more);
    let experts = glm(&[]).unwrap().experts.unwrap();
    assert_eq!((experts.scores, experts.normalized, experts.scale), (Scores::Sigmoid, false, 1.0));
    let config = glm(&[
        ("expert_gating_func", Value::U32(1)),
        ("expert_weights_norm", Value::Bool(true)),
        ("expert_weights_scale", Value::F32(2.5)),
        ("expert_group_count", Value::U32(4)),
        ("expert_group_used_count", Value::U32(2)),
        ("nextn_predict_layers", Value::U32(1)),
        ("leading_dense_block_count", Value::U32(1)),
    ])
    .unwrap();
    let experts = config.experts.unwrap();
    assert_eq!((experts.scores, experts.normalized, experts.scale), (Scores::Softmax, true, 2.5));
    let groups = experts.groups.unwrap();
    assert_eq!((groups.count, groups.used, groups.rank), (4, 2, GroupRank::Largest));
    assert_eq!(shown(&config), ".xxxx");
    for (key, value, what) in [
        ("expert_gating_func", Value::U32(3), "expert_gating_func"),
        ("expert_group_count", Value::U32(3), "8 experts cannot be divided into 3 groups"),
        ("expert_weights_scale", Value::F32(-1.0), "expert_weights_scale"),
    ] {
        let message = glm(&[("expert_group_used_count", Value::U32(1)), (key, value)]).unwrap_err();
        assert!(message.contains(what), "{message}");
    }
    let message = of_hf(
        &json!({ "model_type": "glm4_moe", "head_dim": 128, "n_routed_experts": 8, "num_experts_per_tok": 6,
                                 "n_group": 4, "topk_group": 2 }),
    );
    assert!(message.unwrap_err().contains("6 experts cannot be chosen from 2 of 4 groups of 8"));
}

/// The folder of a tiny model with another configuration.
fn changed(name: &str, changes: serde_json::Value) -> tempfile::TempDir {
    let dir = tempfile::TempDir::new().unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        fs::copy(fixture("architectures").join(name).join(file), dir.path().join(file)).unwrap();
    }
    edit(&dir.path().join("config.json"), changes);
    dir
}

#[test]
fn what_gguf_has_no_key_for_is_refused() {
    for name in ["qwen2_moe", "olmoe"] {
        let dir = changed(name, json!({ "norm_topk_prob": true }));
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        let message = View::gguf(&checkpoint, Packed::Refused).unwrap_err().to_string();
        let keeps = message.contains("keep the model as safetensors");
        assert!(message.contains("norm_topk_prob") && keeps, "{message}");
    }
}

#[test]
fn layers_that_predict_further_tokens_are_left_out() {
    // The second layer is taken for one of them.
    let dir = changed("glm4_moe", json!({ "num_hidden_layers": 1, "num_nextn_predict_layers": 1 }));
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let contents = Contents::read(&checkpoint).unwrap();
    contents.require_sound().unwrap();
    let note = contents.note().unwrap();
    assert!(note.contains("28 tensors of multi-token prediction layers"), "{note}");
}
