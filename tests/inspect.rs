//! `quern inspect`.

use std::fs;

use quern_tensor_io::{Checkpoint, Metadata, TensorPlan, safetensors};

use crate::common::{edit, fixture, model_copy, quern, stderr, stdout};

fn json(args: &[&str]) -> serde_json::Value {
    serde_json::from_str(&stdout(&quern(args))).unwrap()
}

#[test]
fn the_json_has_the_keys_scripts_rely_on() {
    let model = fixture("bookworm-4m");
    let v = json(&["inspect", model.to_str().unwrap(), "--json"]);
    assert_eq!(v["container"], "safetensors");
    assert_eq!(v["scheme"], "f16");
    assert_eq!(v["architecture"], "llama");
    assert_eq!(v["parameters"], 4_196_608);
    assert_eq!(v["bits_per_weight"], 16.0);
    assert_eq!(v["file_size"], fs::metadata(model.join("model.safetensors")).unwrap().len());
    assert_eq!(v["tensors"].as_array().unwrap().len(), 38);
    assert_eq!(v["context_length"], 1024);
    assert_eq!(v["tokenizer"]["special"]["bos"], serde_json::json!([1, "<s>"]));

    let gguf = fixture("bookworm-4m-Q4_K_M.gguf");
    let v = json(&["inspect", gguf.to_str().unwrap(), "--json", "--metadata", "--check"]);
    assert_eq!(v["container"], "gguf");
    assert_eq!(v["scheme"], "q4_k_m");
    assert_eq!(v["parameters"], 4_196_608);
    assert!(
        v["metadata"]
            .as_array()
            .unwrap()
            .iter()
            .any(|m| m["key"] == "llama.block_count" && m["value"] == "4")
    );
    assert_eq!(v["check"]["findings"], serde_json::json!([]));
    assert_eq!(v["check"]["values_checked"], 4_196_608);
}

#[test]
fn the_text_says_what_the_model_is() {
    let text = stdout(&quern(["inspect", fixture("bookworm-4m").to_str().unwrap(), "--tensors"]));
    for part in [
        "llama",
        "4.20 M",
        "4 layers, hidden size 256",
        "1024 positions",
        "bos 1 \"<s>\"",
        "model.norm.weight",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

/// A copy of the demo model whose safetensors file was changed by `change`.
fn altered(change: impl FnOnce(&mut Vec<u8>)) -> tempfile::TempDir {
    let dir = model_copy();
    let file = dir.path().join("model.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    change(&mut bytes);
    fs::write(&file, bytes).unwrap();
    dir
}

#[test]
fn check_finds_a_value_that_is_not_finite() {
    let dir = altered(|bytes| {
        let at = bytes.len() - 2;
        bytes[at..].copy_from_slice(&0x7e00u16.to_le_bytes());
    });
    let output = quern(["inspect", dir.path().to_str().unwrap(), "--check"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("not finite") && text.contains("1 problem"), "{text}");
}

#[test]
fn check_finds_tensors_that_do_not_belong_or_are_missing() {
    let dir = altered(|bytes| {
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize + 8;
        let text = String::from_utf8(bytes[8..header].to_vec()).unwrap();
        bytes[8..header]
            .copy_from_slice(text.replace("layers.3.mlp.up_proj", "layers.9.mlp.up_proj").as_bytes());
    });
    let output = quern(["inspect", dir.path().to_str().unwrap(), "--check", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let v: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = v["check"]["findings"].to_string();
    assert!(
        findings.contains("model.layers.3.mlp.up_proj.weight") && findings.contains("missing"),
        "{findings}"
    );
    assert!(
        findings.contains("model.layers.9.mlp.up_proj.weight") && findings.contains("num_hidden_layers"),
        "{findings}"
    );
}

#[test]
fn a_model_quern_cannot_run_is_still_described() {
    let dir = model_copy();
    edit(dir.path(), "config.json", &[("LlamaForCausalLM", "GrainForCausalLM"), ("\"llama\"", "\"grain\"")]);
    edit(
        dir.path(),
        "tokenizer.json",
        &[("\"pre_tokenizer\": null", "\"pre_tokenizer\": {\"type\": \"ByteLevel\"}")],
    );
    fs::remove_file(dir.path().join("tokenizer.model")).unwrap();
    let v = json(&["inspect", dir.path().to_str().unwrap(), "--json"]);
    assert_eq!(v["architecture"], "GrainForCausalLM");
    assert_eq!((&v["layers"], &v["heads"], &v["kv_heads"]), (&4.into(), &4.into(), &2.into()));
    assert_eq!(v["rope_theta"], 10000.0);
    assert_eq!(v["tokenizer"]["vocab_size"], 4096);
    assert_eq!(v["tokenizer"]["special"]["eos"], serde_json::json!([2, "</s>"]));
    assert!(v["notes"].to_string().contains("not supported"), "{v}");

    let vocabulary = fixture("vocab/ggml-vocab-phi-3.gguf");
    let v = json(&["inspect", vocabulary.to_str().unwrap(), "--json"]);
    assert_eq!(v["architecture"], "phi3");
    assert_eq!(v["tokenizer"]["kind"], "SentencePiece BPE");
    assert_eq!(v["vocab_size"], 32064);
    assert!(v["chat_template"].as_str().unwrap().starts_with("{{ bos_token }}"));
}

#[test]
fn a_packed_checkpoint_counts_the_weights_it_stands_for() {
    let dir = model_copy();
    let quantized = "{\"quantization_config\": {\"quant_method\": \"gptq\", \"bits\": 4},";
    edit(dir.path(), "config.json", &[("{", quantized)]);
    let v = json(&["inspect", dir.path().to_str().unwrap(), "--json"]);
    assert_eq!(v["scheme"], "gptq");
    assert_eq!(v["parameters"], 4_196_608);
}

/// A model of one layer that other tools quantized, with the embedding of the demo model; `keep` says which
/// of the layer's tensors.
pub fn packed(name: &str, keep: impl Fn(&str) -> bool) -> tempfile::TempDir {
    let dir = model_copy();
    let layer = Checkpoint::open(&fixture("packed").join(name)).unwrap();
    let demo = Checkpoint::open(&fixture("bookworm-4m")).unwrap();
    let outside = ["model.embed_tokens.weight", "model.norm.weight"].map(|n| demo.tensor(n).unwrap());
    let inside = layer.tensors().iter().map(|t| layer.tensor(&t.name).unwrap());
    let tensors: Vec<_> = outside.into_iter().chain(inside.filter(|t| keep(&t.info.name))).collect();
    let plan = |t: &quern_tensor_io::Tensor| TensorPlan {
        name: t.info.name.clone(),
        element_type: t.info.element_type,
        shape: t.info.shape.clone(),
    };
    let plans: Vec<_> = tensors.iter().map(plan).collect();
    let file = dir.path().join("model.safetensors");
    let mut writer = safetensors::Writer::create(&file, &Metadata::new(), &plans, true).unwrap();
    tensors.iter().for_each(|t| writer.write(t.data).unwrap());
    writer.finish().unwrap();
    for config in ["config.json", "quantize_config.json"] {
        if let Ok(text) = fs::read(fixture("packed").join(name).join(config)) {
            fs::write(dir.path().join(config), text).unwrap();
        }
    }
    dir
}

/// Weights of the demo model's embedding and last norm, and of one layer.
const ONE_LAYER: u64 = 4096 * 256 + 256 + 2 * 256 + 3 * 768 * 256 + 2 * 256 * 256 + 2 * 128 * 256;

#[test]
fn packed_layers_are_seen_as_the_weights_they_stand_for() {
    for (name, scheme, line, bits) in [
        ("gptq-4bit-g128", "gptq", "gptq 4-bit, group 128, symmetric", 4.25),
        ("gptq-3bit-g64", "gptq", "gptq 3-bit, group 64, symmetric", 3.390625),
        (
            "gptq-4bit-g32-desc-act-v2",
            "gptq",
            "gptq 4-bit, group 32, asymmetric, act-order, v2 zero points",
            4.71875,
        ),
        ("awq-4bit-g64", "awq", "awq 4-bit, group 64", 4.3125),
        ("bnb-nf4", "nf4", "nf4, block 64, double quantized", 4.21644),
        ("bnb-int8", "int8", "int8", 8.10424),
    ] {
        let dir = packed(name, |_| true);
        let path = dir.path().to_str().unwrap();
        let v = json(&["inspect", path, "--json", "--check"]);
        assert_eq!(v["scheme"], scheme);
        assert_eq!(v["quantization"]["layers"], 7);
        assert_eq!(v["parameters"], ONE_LAYER, "{name}");
        assert_eq!(v["notes"], serde_json::json!([]));
        let found = v["quantization"]["bits_per_weight"].as_f64().unwrap();
        assert!((found - bits).abs() < 1e-4, "{name}: {found}");
        assert_eq!(v["check"]["findings"], serde_json::json!([]), "{name}");
        assert_eq!(v["check"]["values_checked"], ONE_LAYER, "{name}");
        assert_eq!(v["check"]["tensors_checked"], v["tensors"].as_array().unwrap().len());
        let text = stdout(&quern(["inspect", path]));
        assert!(text.contains(&format!(" {line}, ")), "{line} in {text}");
    }
    let v = json(&["inspect", packed("gptq-4bit-g128", |_| true).path().to_str().unwrap(), "--json"]);
    let q = &v["quantization"];
    assert_eq!((&q["method"], &q["bits"], &q["group_size"]), (&"gptq".into(), &4.into(), &128.into()));
    assert_eq!(
        (&q["symmetric"], &q["act_order"], &q["format"]),
        (&true.into(), &false.into(), &"gptq".into())
    );
    assert!(q.get("block_size").is_none());
}

#[test]
fn check_finds_what_is_wrong_with_packed_layers() {
    // A layer that is not there at all, then one without its scales.
    let dir = packed("gptq-4bit-g128", |name| !name.contains("up_proj"));
    let output = quern(["inspect", dir.path().to_str().unwrap(), "--check"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("mlp.up_proj.weight: it is missing") && text.contains("1 problem"), "{text}");
    let dir = packed("gptq-4bit-g128", |name| !name.contains("up_proj.scales"));
    let output = quern(["inspect", dir.path().to_str().unwrap(), "--check"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("up_proj.scales") && text.contains("1 problem"), "{text}");

    // A scale that is not a number.
    for (name, tensor) in [("gptq-4bit-g128", "mlp.down_proj.scales"), ("bnb-int8", "mlp.down_proj.SCB")] {
        let dir = packed(name, |_| true);
        let file = dir.path().join("model.safetensors");
        let opened = Checkpoint::open(dir.path()).unwrap();
        let info = opened.tensor(&format!("model.layers.0.{tensor}")).unwrap().info.clone();
        drop(opened);
        let mut bytes = fs::read(&file).unwrap();
        let at = info.offset as usize + 5 * info.element_type.block_bytes();
        bytes[at..at + info.element_type.block_bytes()].fill(0xff);
        fs::write(&file, bytes).unwrap();
        let output = quern(["inspect", dir.path().to_str().unwrap(), "--check"]);
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("down_proj.weight: has") && text.contains("row 5, column 0"), "{text}");
    }
}

#[test]
fn a_method_quern_does_not_read_is_named_once() {
    let dir = packed("gptq-4bit-g128", |_| true);
    fs::remove_file(dir.path().join("quantize_config.json")).unwrap();
    edit(dir.path(), "config.json", &[("\"quant_method\": \"gptq\"", "\"quant_method\": \"quip\"")]);
    edit(dir.path(), "config.json", &[("\"method\": \"gptq\",", "")]);
    let output = quern(["inspect", dir.path().to_str().unwrap(), "--json", "--check"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let v: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(v["scheme"], "quip");
    assert!(v["notes"].to_string().contains("quantized with quip, which quern does not read"), "{v}");
    assert_eq!(v["check"]["findings"].as_array().unwrap().len(), 1, "{v}");
}
