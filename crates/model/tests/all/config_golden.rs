//! What configurations mean that say little or say a thing twice, against what transformers makes of them
//! (`fixtures/golden/config.json`, made by `tools/make_config_golden.py`).

use crate::common::fixture;
use quern_model::Config;
use quern_model::architecture::Activation;
use serde_json::{Value, json};

fn golden() -> Value {
    serde_json::from_slice(&std::fs::read(fixture("golden/config.json")).unwrap()).unwrap()
}

fn read(config: &Value) -> Result<Config, String> {
    let dir = tempfile::TempDir::new().unwrap();
    let file = dir.path().join("config.json");
    std::fs::write(&file, config.to_string()).unwrap();
    Config::from_config_json(&file).map_err(|e| e.to_string())
}

#[test]
fn sizes_and_defaults_are_those_of_transformers() {
    let golden = golden();
    let rows = golden["sizes"].as_array().unwrap();
    assert!(rows.len() > 30);
    for row in rows {
        let (given, means) = (&row["config"], &row["means"]);
        if means.get("error").is_some() {
            continue;
        }
        let config = read(given).unwrap_or_else(|e| panic!("{given}: {e}"));
        let experts = config.experts.map(|e| json!([e.count, e.used]));
        let softcaps = [config.attention_softcap, config.final_softcap];
        let found = json!({
            "vocab": config.vocab_size, "hidden": config.hidden_size, "layers": config.layers,
            "heads": config.heads, "kv_heads": config.kv_heads, "head_dim": config.head_dim,
            "ffn": config.ffn_size, "context": config.context_length,
            "tied": config.tied_embeddings,
            "window": config.sliding_window.filter(|_| config.sliding_layers.contains(&true)),
            "limited": config.sliding_layers, "experts": experts, "softcaps": softcaps,
        });
        for (key, value) in found.as_object().unwrap() {
            assert_eq!(value, &means[key], "{key} of {given}");
        }
        let epsilon = means["epsilon"].as_f64().unwrap() as f32;
        assert_eq!(config.norm_epsilon, epsilon, "{given}");
        let activation = Activation::from_hf(means["activation"].as_str().unwrap());
        assert_eq!(Some(config.activation), activation, "{given}");
    }
}

#[test]
fn keys_that_change_the_numbers_are_refused_by_name() {
    let cases = [
        (
            json!({ "model_type": "opt", "layer_norm_elementwise_affine": false }),
            "layer_norm_elementwise_affine",
        ),
        (json!({ "model_type": "gpt2", "add_cross_attention": true }), "add_cross_attention"),
        (json!({ "model_type": "falcon", "alibi": true }), "alibi"),
        (json!({ "model_type": "falcon", "parallel_attn": false }), "parallel_attn"),
        (json!({ "model_type": "phi", "qk_layernorm": true }), "qk_layernorm"),
        (json!({ "model_type": "gemma", "attention_bias": true }), "attention_bias"),
        (json!({ "model_type": "gemma2", "attention_bias": true }), "attention_bias"),
        (
            json!({ "model_type": "gemma3_text", "use_bidirectional_attention": true }),
            "use_bidirectional_attention",
        ),
        (json!({ "model_type": "starcoder2", "norm_type": "rms_norm" }), "norm_type"),
        (json!({ "model_type": "stablelm", "head_dim": 64 }), "head_dim"),
        (json!({ "model_type": "gpt_neox", "head_dim": 64 }), "head_dim"),
        (json!({ "model_type": "llama", "is_causal": false }), "is_causal"),
        (
            json!({ "model_type": "llama", "per_layer_config": { "1": { "num_key_value_heads": 4 } } }),
            "per_layer_config",
        ),
        (json!({ "model_type": "qwen3", "layer_types": vec!["sliding_attention"; 32] }), "layer_types"),
        (json!({ "model_type": "llama", "hidden_act": "quick_gelu" }), "quick_gelu"),
        (json!({ "model_type": "llama", "hidden_size": null }), "hidden_size"),
        (json!({ "model_type": "llama", "rms_norm_eps": null }), "rms_norm_eps"),
        (
            json!({ "model_type": "llama", "rope_parameters": { "full_attention": { "rope_type": "default" } } }),
            "rope_parameters.full_attention",
        ),
        (
            json!({ "model_type": "gemma3_text", "rope_parameters": {
                "sliding_attention": { "rope_type": "linear", "factor": 2.0 } } }),
            "rope_parameters.sliding_attention.rope_type",
        ),
        (
            json!({ "model_type": "phi3", "rope_scaling": { "type": "linear", "factor": 2.0 } }),
            "rope_scaling.rope_type",
        ),
        (
            json!({ "model_type": "llama", "rope_scaling": { "type": "linear", "factor": 2.0, "long_mscale": 1.2 } }),
            "rope_scaling.long_mscale",
        ),
        (json!({ "model_type": "llama", "rope_scaling": { "type": "proportional" } }), "proportional"),
    ];
    for (given, name) in cases {
        let message = read(&given).map(|c| format!("{c:?}")).expect_err(&given.to_string());
        assert!(message.contains(name) && message.contains("config.json"), "{given}: {message}");
    }
}

#[test]
fn values_that_mean_what_quern_computes_are_accepted() {
    for given in [
        json!({ "model_type": "opt", "layer_norm_elementwise_affine": true, "dropout": 0.3 }),
        json!({ "model_type": "gpt2", "reorder_and_upcast_attn": true, "add_cross_attention": false }),
        json!({ "model_type": "falcon", "alibi": false, "head_dim": 64 }),
        json!({ "model_type": "stablelm", "head_dim": 80, "qk_layernorm": null }),
        json!({ "model_type": "llama", "is_causal": true, "per_layer_config": {}, "pretraining_tp": 2 }),
        json!({ "model_type": "gemma", "hidden_act": "gelu_python_tanh", "attention_bias": null }),
        json!({ "model_type": "starcoder2", "norm_type": "layer_norm", "mlp_type": "default" }),
        json!({ "model_type": "llama", "rope_scaling": { "type": "linear", "factor": 2.0, "long_mscale": 1.0 } }),
    ] {
        read(&given).unwrap_or_else(|e| panic!("{given}: {e}"));
    }
}

#[test]
fn the_first_llamas_have_no_length_or_another_key_for_it() {
    let first = |more: Value| {
        let mut given = json!({ "architectures": ["LLaMAForCausalLM"], "model_type": "llama" });
        given.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        read(&given).unwrap()
    };
    assert_eq!(first(json!({})).context_length, 2048);
    assert_eq!(first(json!({ "max_sequence_length": 1024 })).context_length, 1024);
    let both = json!({ "max_sequence_length": 1024, "max_position_embeddings": 512 });
    assert_eq!(first(both).context_length, 512);
}

#[test]
fn the_scale_of_attention_follows_gpt2s_flags() {
    let read = |more: Value| {
        let mut given = json!({ "model_type": "gpt2", "n_embd": 64, "n_head": 4 });
        given.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        read(&given).unwrap()
    };
    let usual = read(json!({ "scale_attn_weights": true }));
    assert_eq!((usual.attention_scale(3), usual.unusual_attention_scale()), (0.25, None));
    let none = read(json!({ "scale_attn_weights": false }));
    assert_eq!((none.attention_scale(3), none.unusual_attention_scale()), (1.0, Some(1.0)));
    let layered = read(json!({ "scale_attn_by_inverse_layer_idx": true }));
    assert_eq!((layered.attention_scale(0), layered.attention_scale(4)), (0.25, 0.05));
}
