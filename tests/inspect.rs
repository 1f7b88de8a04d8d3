//! `quern inspect`.

use std::fs;

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
        findings.contains("model.layers.9.mlp.up_proj.weight") && findings.contains("not part of"),
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
