//! What GGUF metadata means where it is silent, as llama.cpp's loader has it; and what of a `config.json` it says,
//! or cannot.

use std::fs;

use crate::common::{edit, fixture};
use quern_model::{Config, Packed, RopeScaling, View};
use quern_tensor_io::gguf::Writer;
use quern_tensor_io::{Array, Checkpoint, Metadata, Value};
use serde_json::json;

/// The configuration of a GGUF file without tensors.
fn read(name: &str, entries: &[(&str, Value)]) -> Result<Config, String> {
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", name);
    for (key, value) in [
        ("block_count", 7),
        ("context_length", 256),
        ("embedding_length", 64),
        ("feed_forward_length", 128),
        ("attention.head_count", 4),
        ("vocab_size", 100),
    ] {
        metadata.set(format!("{name}.{key}"), Value::U32(value));
    }
    for (key, value) in entries {
        metadata.set(format!("{name}.{key}"), value.clone());
    }
    of(&metadata)
}

fn of(metadata: &Metadata) -> Result<Config, String> {
    let dir = tempfile::TempDir::new().unwrap();
    let file = dir.path().join("some.gguf");
    Writer::create(&file, metadata, &[], false).unwrap().finish().unwrap();
    Config::from_checkpoint(&Checkpoint::open(&file).unwrap()).map_err(|e| e.to_string())
}

/// Most families' epsilon.
fn rms() -> (&'static str, Value) {
    ("attention.layer_norm_rms_epsilon", Value::F32(1e-6))
}

#[test]
fn a_missing_key_means_what_llama_cpps_loader_takes() {
    let llama = read("llama", &[rms()]).unwrap();
    assert_eq!((llama.kv_heads, llama.head_dim, llama.rope.dimensions), (4, 16, 16));
    assert_eq!((llama.rope.theta, llama.sliding_window), (10_000.0, None));

    let gemma2 = read("gemma2", &[rms()]).unwrap();
    assert_eq!((gemma2.attention_softcap, gemma2.final_softcap), (Some(50.0), Some(30.0)));
    assert_eq!(gemma2.sliding_window, Some(4096));
    assert_eq!(gemma2.sliding_layers, [true, false, true, false, true, false, true]);

    let gemma3 = read("gemma3", &[rms(), ("attention.sliding_window", Value::U32(8))]).unwrap();
    assert_eq!((gemma3.rope.theta, gemma3.rope.local_theta), (10_000.0, Some(10_000.0)));
    assert_eq!((gemma3.attention_softcap, gemma3.final_softcap), (None, None));
    assert_eq!(gemma3.sliding_layers, [true, true, true, true, true, false, true]);

    let experts = [("expert_count", Value::U32(8)), ("expert_used_count", Value::U32(2)), rms()];
    assert_eq!(read("qwen3moe", &experts).unwrap().experts.unwrap().ffn_size, 64);
    assert_eq!(read("llama", &experts).unwrap().experts.unwrap().ffn_size, 128);

    let epsilon = ("attention.layer_norm_epsilon", Value::F32(1e-5));
    let message = read("gptneox", &[epsilon]).unwrap_err();
    assert!(message.contains("gptneox.use_parallel_residual"), "{message}");
    let message = read("phi2", &[]).unwrap_err();
    assert!(message.contains("phi2.attention.layer_norm_epsilon"), "{message}");
}

#[test]
fn which_layers_a_window_limits_may_be_given() {
    let window = ("attention.sliding_window", Value::U32(8));
    let pattern =
        |value: Value| read("gemma3", &[rms(), window.clone(), ("attention.sliding_window_pattern", value)]);
    assert_eq!(pattern(Value::U32(3)).unwrap().sliding_layers, [true, true, false, true, true, false, true]);
    let flags = vec![false, true, false, false, true, true, true];
    let found = pattern(Value::Array(Array::Bool(flags.clone()))).unwrap();
    assert_eq!(found.sliding_layers, flags);
    let message = pattern(Value::Array(Array::Bool(vec![true]))).unwrap_err();
    assert!(message.contains("attention.sliding_window_pattern"), "{message}");
}

#[test]
fn which_layers_rotate_may_be_given() {
    let pattern = |name: &str, value: Value| {
        read(name, &[rms(), ("attention.sliding_window", Value::U32(8)), ("attention.rope_pattern", value)])
    };
    let flags = vec![false, true, true, true, false, true, true];
    let found = pattern("granite_swa", Value::Array(Array::Bool(flags.clone()))).unwrap();
    assert_eq!((0..7).map(|layer| found.rotates(layer)).collect::<Vec<_>>(), flags);
    for broken in [Value::Array(Array::Bool(vec![true])), Value::U32(1)] {
        let message = pattern("granite_swa", broken.clone()).unwrap_err();
        assert!(message.contains("attention.rope_pattern") && message.contains("7 layers"), "{message}");
        // Other families have no such key.
        assert!(pattern("granite", broken).unwrap().rotates(0));
    }
    assert!(read("granite_swa", &[rms()]).unwrap().rotates(0));
}

#[test]
fn rope_scaling_is_read_as_llama_cpp_computes_it() {
    let read = |entries: &[(&str, Value)]| {
        let all: Vec<(&str, Value)> = entries.iter().cloned().chain([rms()]).collect();
        read("llama", &all).unwrap().rope.scaling
    };
    let kind = |kind: &str| ("rope.scaling.type", Value::from(kind));
    let factor = |factor: f32| ("rope.scaling.factor", Value::F32(factor));
    let part = |part: f32| ("rope.scaling.attn_factor", Value::F32(part));
    let whole = |whole: f32| ("rope.scaling.yarn_attn_factor", Value::F32(whole));
    // A factor alone is linear; no factor is none.
    assert_eq!(read(&[factor(4.0)]), RopeScaling::Linear { factor: 4.0 });
    assert_eq!(read(&[kind("linear")]), RopeScaling::None);
    assert_eq!(read(&[kind("none"), factor(4.0)]), RopeScaling::None);
    // attn_factor multiplies the usual 0.1 ln(4) + 1 = 1.138629; yarn_attn_factor is the whole.
    let yarn = |more: &[(&'static str, Value)]| {
        let mut entries = vec![kind("yarn"), factor(4.0)];
        entries.extend(more.iter().cloned());
        read(&entries).attention_factor(256)
    };
    assert!((yarn(&[]) - 1.138_629_436).abs() < 1e-6);
    assert!((yarn(&[part(1.0)]) - 1.138_629_436).abs() < 1e-6);
    assert!((yarn(&[part(0.5)]) - 0.569_314_718).abs() < 1e-6);
    assert!((yarn(&[whole(0.75)]) - 0.75).abs() < 1e-6);
    assert!((yarn(&[part(0.5), whole(0.75)]) - 0.569_314_718).abs() < 1e-6);
}

/// A tiny model with changes to its `config.json`, as GGUF would have it: metadata and notes.
fn converted(name: &str, changes: serde_json::Value) -> Result<(Metadata, Vec<String>), String> {
    let dir = tempfile::TempDir::new().unwrap();
    for entry in fs::read_dir(fixture("architectures").join(name)).unwrap() {
        let entry = entry.unwrap();
        fs::write(dir.path().join(entry.file_name()), fs::read(entry.path()).unwrap()).unwrap();
    }
    fs::remove_file(dir.path().join("logits.safetensors")).unwrap();
    edit(&dir.path().join("config.json"), changes);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let view = View::gguf(&checkpoint, Packed::Refused).map_err(|e| e.to_string())?;
    Ok((view.metadata().clone(), view.notes().to_vec()))
}

#[test]
fn what_gguf_can_say_is_written_and_read_back() {
    let yarn = json!({ "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64,
        "mscale": 1.0, "mscale_all_dim": 0.5, "beta_fast": 16.0 });
    for name in ["llama", "falcon", "stablelm", "gpt_neox", "phi", "qwen2", "starcoder2", "gemma"] {
        let changes = json!({ "rope_scaling": yarn, "rope_parameters": null });
        let (metadata, _) = converted(name, changes).unwrap_or_else(|e| panic!("{name}: {e}"));
        let found = of(&metadata).unwrap_or_else(|e| panic!("{name}: {e}")).rope.scaling;
        let RopeScaling::Yarn { factor, original_context, beta_fast, .. } = found else {
            panic!("{found:?}")
        };
        assert_eq!((factor, original_context, beta_fast), (4.0, 64, 16.0), "{name}");
        // (0.1 ln(4) + 1) / (0.05 ln(4) + 1), what transformers computes.
        assert!((found.attention_factor(256) - 1.064_821_47).abs() < 1e-6, "{name}: {found:?}");
    }
    let (metadata, _) =
        converted("gemma3", json!({ "sliding_window_pattern": 3, "layer_types": null })).unwrap();
    assert_eq!(metadata.u64("gemma3.attention.sliding_window_pattern"), Some(3));
    assert_eq!(of(&metadata).unwrap().sliding_layers, [true, true, false, true, true, false, true]);
    let (metadata, _) = converted("gemma3", json!({})).unwrap();
    assert_eq!(metadata.u64("gemma3.attention.sliding_window_pattern"), None);
}

#[test]
fn what_gguf_cannot_say_is_refused_by_name_or_noted() {
    let llama3 = json!({ "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64 });
    let irregular = [
        "full_attention",
        "sliding_attention",
        "sliding_attention",
        "full_attention",
        "full_attention",
        "sliding_attention",
        "full_attention",
    ];
    let cases = [
        ("qwen2", json!({ "rope_scaling": llama3, "rope_parameters": null }), "llama3"),
        (
            "llama",
            json!({ "rope_parameters": { "rope_type": "yarn", "factor": 2.0, "truncate": false } }),
            "truncate",
        ),
        ("gpt2", json!({ "scale_attn_by_inverse_layer_idx": true }), "scale_attn_by_inverse_layer_idx"),
        ("gpt2", json!({ "scale_attn_weights": false }), "scale_attn_weights"),
        ("gpt2", json!({ "activation_function": "relu" }), "\"relu\""),
        ("gemma3", json!({ "layer_types": irregular }), "layer_types"),
        (
            "qwen2",
            json!({ "use_sliding_window": true, "sliding_window": 16, "max_window_layers": 0, "layer_types": null }),
            "sliding_window",
        ),
    ];
    for (name, changes, key) in cases {
        let message = converted(name, changes.clone()).map(|_| ()).expect_err(&changes.to_string());
        assert!(message.contains(key) && message.contains("have no key"), "{changes}: {message}");
    }
    let (_, notes) = converted("gpt_neox", json!({ "hidden_act": "gelu_fast" })).unwrap();
    assert!(notes.iter().any(|n| n.contains("no key for the activation")), "{notes:?}");
    let dynamic = json!({ "rope_parameters": { "rope_type": "dynamic", "factor": 2.0 } });
    let (metadata, notes) = converted("llama", dynamic).unwrap();
    assert!(notes.iter().any(|n| n.contains("\"dynamic\" (factor 2)")), "{notes:?}");
    assert_eq!(of(&metadata).unwrap().rope.scaling, RopeScaling::None);
    let (_, notes) = converted("llama", json!({})).unwrap();
    assert!(notes.is_empty(), "{notes:?}");
}
