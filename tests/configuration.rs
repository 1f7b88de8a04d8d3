//! Keys of `config.json` that change the numbers, end to end: the figures of transformers 5.24, in `run`, in a GGUF
//! file made of the model and in the model made of that file; refusals by name; what `inspect` shows.

use std::path::Path;

use serde_json::{Value, json};

use crate::common::{failure, fixture, model_copy, quern, stderr, stdout};

const PROMPT: &str = "It was the best of times, it was the worst of";

/// The demo model with these keys in place of its own on rope.
fn with(changes: Value) -> tempfile::TempDir {
    let dir = model_copy();
    change(dir.path(), |config| {
        config.remove("rope_parameters");
        config.extend(changes.as_object().unwrap().clone());
    });
    dir
}

fn change(folder: &Path, by: impl FnOnce(&mut serde_json::Map<String, Value>)) {
    let file = folder.join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    by(config.as_object_mut().unwrap());
    std::fs::write(file, config.to_string()).unwrap();
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Text and log-probability of the likeliest token behind the prompt.
fn first(model: &Path) -> (String, f64) {
    let args = [
        "run",
        path(model),
        "-p",
        PROMPT,
        "-n",
        "1",
        "--temp",
        "0",
        "--logprobs",
        "1",
        "--kv",
        "f32",
        "--json",
    ];
    let out: Value = serde_json::from_str(&stdout(&quern(args))).unwrap();
    let token = &out["logprobs"][0];
    (token["text"].as_str().unwrap().to_owned(), token["logprob"].as_f64().unwrap())
}

fn near(found: &(String, f64), text: &str, logprob: f64, what: &str) {
    assert!(found.0 == text && (found.1 - logprob).abs() < 1e-3, "{what}: {found:?}, not {text:?} {logprob}");
}

/// Figures of transformers 5.24 (`AutoModelForCausalLM` in float32, `log_softmax` of the last position's logits).
#[test]
fn rope_scaling_counts_in_every_format() {
    let yarn = |more: Value| {
        let mut yarn = json!({ "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256 });
        yarn.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({ "rope_theta": 10000.0, "rope_scaling": yarn })
    };
    let theta = json!({ "rope_scaling": { "rope_type": "default", "rope_theta": 500_000.0 } });
    let cases = [
        ("plain", yarn(json!({})), -0.986),
        ("both scales", yarn(json!({ "mscale": 1.0, "mscale_all_dim": 1.0 })), -0.825),
        ("scales that differ", yarn(json!({ "mscale": 1.0, "mscale_all_dim": 0.5 })), -0.881),
        ("one scale alone", yarn(json!({ "mscale": 2.0 })), -0.986),
        ("theta", theta, -0.862),
    ];
    let made = tempfile::tempdir().unwrap();
    for (name, changes, expected) in cases {
        let dir = with(changes);
        near(&first(dir.path()), " all", expected, name);
        let file = made.path().join(format!("{name}.gguf"));
        stdout(&quern(["convert", path(dir.path()), "--to", "gguf", "-o", path(&file)]));
        near(&first(&file), " all", expected, name);
        let back = made.path().join(name);
        stdout(&quern(["convert", path(&file), "--to", "safetensors", "-o", path(&back)]));
        near(&first(&back), " all", expected, name);
    }

    let dir = with(yarn(json!({ "truncate": false })));
    near(&first(dir.path()), " all", -0.960, "not truncated");
    let file = made.path().join("truncate.gguf");
    let message = failure(&quern(["convert", path(dir.path()), "--to", "gguf", "-o", path(&file)]));
    assert!(message.contains("\"truncate\": false") && !file.exists(), "{message}");
}

#[test]
fn attention_that_is_not_scaled_counts_and_gguf_cannot_say_it() {
    let dir = tempfile::tempdir().unwrap();
    for name in crate::common::listing(&fixture("architectures/gpt2")) {
        std::fs::write(
            dir.path().join(&name),
            std::fs::read(fixture("architectures/gpt2").join(&name)).unwrap(),
        )
        .unwrap();
    }
    change(dir.path(), |config| drop(config.insert("scale_attn_weights".into(), json!(false))));
    near(&first(dir.path()), " I", -2.117, "scale_attn_weights");
    let file = dir.path().join("out.gguf");
    let message = failure(&quern(["convert", path(dir.path()), "--to", "gguf", "-o", path(&file)]));
    assert!(message.contains("scale_attn_weights") && !file.exists(), "{message}");
    let text = stdout(&quern(["inspect", path(dir.path())]));
    assert!(text.contains("attention scale 1\n") && !text.contains("rope"), "{text}");
}

/// Within the trained context, dynamic scaling changes nothing; beyond it quern does not run, and says why.
#[test]
fn dynamic_rope_runs_within_the_trained_context() {
    let dynamic = json!({ "rope_theta": 10000.0, "rope_scaling": { "type": "dynamic", "factor": 2.0 } });
    let (dir, plain) = (with(dynamic), with(json!({ "rope_theta": 10000.0 })));
    assert_eq!(first(dir.path()), first(plain.path()));
    let long = ["run", path(dir.path()), "-p", PROMPT, "-n", "1", "--context", "2048"];
    let message = failure(&quern(long));
    assert!(message.contains("1024") && message.contains("dynamic"), "{message}");
    let file = dir.path().join("out.gguf");
    let done = quern(["convert", path(dir.path()), "--to", "gguf", "-o", path(&file)]);
    assert!(
        done.status.success() && stderr(&done).contains("\"dynamic\" (factor 2) has no key in GGUF"),
        "{}",
        stderr(&done)
    );
    near(&first(&file), " all", first(plain.path()).1, "dynamic in GGUF");
}

/// The first Llama conversions have another key for the context, or none.
#[test]
fn the_first_llama_conversions_run() {
    let old =
        json!({ "architectures": ["LLaMAForCausalLM"], "max_sequence_length": 1024, "pad_token_id": -1 });
    for (changes, context) in [(old, 1024), (json!({}), 2048)] {
        let dir = with(changes);
        change(dir.path(), |config| drop(config.remove("max_position_embeddings")));
        near(&first(dir.path()), &first(&fixture("bookworm-4m")).0, first(&fixture("bookworm-4m")).1, "old");
        let out: Value =
            serde_json::from_str(&stdout(&quern(["inspect", path(dir.path()), "--json"]))).unwrap();
        assert_eq!(out["context_length"], context);
    }
}

#[test]
fn inspect_shows_what_scales_and_limits_attention() {
    let yarn = json!({ "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256,
        "mscale": 1.0, "mscale_all_dim": 1.0, "truncate": false });
    let dir = with(json!({ "rope_scaling": yarn }));
    let text = stdout(&quern(["inspect", path(dir.path())]));
    let row = "rope            64 dimensions, yarn scaling: factor 4, original context 256, attention factor 1, \
               beta_fast 32, beta_slow 1, not truncated\n";
    assert!(text.contains(row), "{text}");
    let out: Value = serde_json::from_str(&stdout(&quern(["inspect", path(dir.path()), "--json"]))).unwrap();
    assert_eq!(
        out["rope"],
        json!({ "base": 10000.0, "local_base": null, "dimensions": 64, "scaling": {
            "type": "yarn", "factor": 4.0, "original_context": 256, "attention_factor": 1.0,
            "beta_fast": 32.0, "beta_slow": 1.0, "truncate": false } })
    );

    let gemma = fixture("architectures/gemma3");
    let text = stdout(&quern(["inspect", path(&gemma)]));
    for row in
        ["base 10000 under the sliding window, linear scaling: factor 8", "4 positions in 6 layers: 0-4, 6\n"]
    {
        assert!(text.contains(row), "{row} in {text}");
    }
    let text = stdout(&quern(["inspect", path(&fixture("architectures/gemma2"))]));
    assert!(
        text.contains("soft caps") && text.contains("on attention scores, ") && text.contains("on logits"),
        "{text}"
    );
}
