//! Files and folders that are no model quern reads: every command names them for what they are, once, with the file
//! and what to do; and harmless faults are noted, not refused.

use std::fs;
use std::path::Path;

use quern_tensor_io::gguf::Writer;
use quern_tensor_io::{Checkpoint, ElementType, Metadata, TensorPlan, Value, safetensors};
use serde_json::json;
use tempfile::TempDir;

use crate::common::{edit, fixture, listing, model_copy, quern, stderr, stdout};

/// Every command that needs a model, on `model`.
fn commands(model: &str, out: &str, text: &str) -> Vec<Vec<String>> {
    let all: [&[&str]; 12] = [
        &["run", model, "-p", "the", "-n", "1"],
        &["inspect", model, "--check"],
        &["convert", model, "--to", "gguf", "-o", out],
        &["convert", model, "--to", "safetensors", "-o", out],
        &["quantize", model, "--to", "q8_0", "-o", out],
        &["quantize", model, "--to", "q4_k_m", "-o", out],
        &["quantize", model, "--to", "nf4", "-o", out],
        &["quantize", model, "--to", "int8", "-o", out],
        &["quantize", model, "--to", "gptq", "-o", out],
        &["imatrix", model, "--text", text, "-o", out],
        &["perplexity", model, "--text", text],
        &["run", model, "-p", "the", "-n", "1", "--load-in", "q4_k"],
    ];
    all.iter().map(|args| args.iter().map(|arg| (*arg).to_owned()).collect()).collect()
}

/// Each command must fail and say these words once, with nothing written.
fn assert_named(model: &Path, words: &[&str]) {
    let out = TempDir::new().unwrap();
    let output = out.path().join("out");
    let text = fixture("text/validation.txt");
    for args in commands(model.to_str().unwrap(), output.to_str().unwrap(), text.to_str().unwrap()) {
        let result = quern(&args);
        let said = stderr(&result) + &String::from_utf8_lossy(&result.stdout);
        assert_eq!(result.status.code(), Some(1), "{args:?}: {said}");
        for word in words {
            assert_eq!(said.matches(word).count(), 1, "{args:?}: {word:?} in {said}");
        }
        assert!(!said.contains("--pure") && !said.contains("panicked"), "{args:?}: {said}");
        assert_eq!(listing(out.path()), Vec::<String>::new(), "{args:?}");
    }
}

/// A GGUF file with these entries of text, and tensors of these names.
fn gguf(path: &Path, entries: &[(&str, &str)], tensors: &[&str]) {
    let mut metadata = Metadata::new();
    entries.iter().for_each(|(key, value)| metadata.set(*key, *value));
    let plan =
        |name: &&str| TensorPlan { name: (*name).to_owned(), element_type: ElementType::F32, shape: vec![8] };
    let plan: Vec<_> = tensors.iter().map(plan).collect();
    let mut writer = Writer::create(path, &metadata, &plan, false).unwrap();
    tensors.iter().for_each(|_| writer.write(&[0; 32]).unwrap());
    writer.finish().unwrap();
}

/// A safetensors file with these tensors of zeros.
fn weights(path: &Path, tensors: &[(&str, ElementType, Vec<usize>)]) {
    let plan: Vec<_> = tensors
        .iter()
        .map(|(name, element_type, shape)| TensorPlan {
            name: (*name).to_owned(),
            element_type: *element_type,
            shape: shape.clone(),
        })
        .collect();
    let mut writer = safetensors::Writer::create(path, &Metadata::new(), &plan, false).unwrap();
    for tensor in &plan {
        writer.write(&vec![0; tensor.shape.iter().product::<usize>() * 4]).unwrap();
    }
    writer.finish().unwrap();
}

/// The demo model as GGUF with one more entry.
fn with_entry(dir: &Path, key: &str, value: Value) -> std::path::PathBuf {
    let source = Checkpoint::open(&fixture("bookworm-4m-Q4_K_M.gguf")).unwrap();
    let mut metadata = source.metadata().clone();
    metadata.set(key, value);
    let plan = source.tensors().iter().map(|t| TensorPlan {
        name: t.name.clone(),
        element_type: t.element_type,
        shape: t.shape.clone(),
    });
    let path = dir.join(format!("{}.gguf", key.rsplit('.').next().unwrap()));
    let mut writer = Writer::create(&path, &metadata, &plan.collect::<Vec<_>>(), false).unwrap();
    source.tensors().iter().for_each(|t| writer.write(source.data(t)).unwrap());
    writer.finish().unwrap();
    path
}

#[test]
fn adapters_name_their_base_model() {
    let dir = TempDir::new().unwrap();
    let name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
    weights(&dir.path().join("adapter_model.safetensors"), &[(name, ElementType::F32, vec![8, 8])]);
    let config = json!({ "peft_type": "LORA", "base_model_name_or_path": "org/base" });
    fs::write(dir.path().join("adapter_config.json"), config.to_string()).unwrap();
    assert_named(dir.path(), &["a LoRA adapter for the model org/base", "merge it into its base model"]);
    let text = stdout(&quern(["inspect", dir.path().to_str().unwrap()]));
    assert!(
        text.contains("a LoRA adapter for the model org/base") && !text.contains("config.json"),
        "{text}"
    );
    let report = stdout(&quern(["inspect", dir.path().to_str().unwrap(), "--json"]));
    assert_eq!(serde_json::from_str::<serde_json::Value>(&report).unwrap()["kind"], "adapter");
}

#[test]
fn gguf_files_that_are_no_model_are_named() {
    let dir = TempDir::new().unwrap();
    let llama = ("general.architecture", "llama");
    for (file, entries, tensors, words) in [
        (
            "lora.gguf",
            vec![llama, ("general.type", "adapter")],
            &["blk.0.attn_q.weight.lora_a"][..],
            "a LoRA adapter for",
        ),
        (
            "mmproj.gguf",
            vec![("general.architecture", "clip")],
            &["v.patch_embd.weight"],
            "a multimodal projector",
        ),
        (
            "imatrix.gguf",
            vec![("general.type", "imatrix")],
            &["output.weight.in_sum2"],
            "an importance matrix, not a model",
        ),
        ("vocabulary.gguf", vec![llama], &[], "holds no tensors"),
        (
            "mixtral.gguf",
            vec![llama],
            &["blk.0.ffn_up.1.weight"],
            "before experts were stacked (before April 2024)",
        ),
    ] {
        let path = dir.path().join(file);
        gguf(&path, &entries, tensors);
        assert_named(&path, &[words, &format!("{}: this ", path.display())]);
    }
    // Beside a model the others are ignored.
    fs::remove_file(dir.path().join("mixtral.gguf")).unwrap();
    fs::copy(fixture("bookworm-4m-Q4_K_M.gguf"), dir.path().join("model-Q4_K_M.gguf")).unwrap();
    stdout(&quern(["run", dir.path().to_str().unwrap(), "-p", "the", "-n", "1"]));
}

#[test]
fn a_gguf_file_without_sizes_is_named_with_its_file() {
    let dir = TempDir::new().unwrap();
    let (path, out) = (dir.path().join("odd.gguf"), dir.path().join("out.gguf"));
    gguf(&path, &[("general.architecture", "unheard-of")], &["a.weight"]);
    let result = quern(["quantize", path.to_str().unwrap(), "--to", "q4_k_m", "-o", out.to_str().unwrap()]);
    let error = crate::common::failure(&result);
    assert!(error.contains("odd.gguf: the metadata key \"unheard-of.block_count\" is missing"), "{error}");
    assert!(!error.contains("--pure"), "{error}");
}

#[test]
fn quantizations_that_are_not_read_are_named() {
    let module = |end: &str| format!("model.layers.0.mlp.up_proj.{end}");
    for (keys, words) in [
        (
            "\"quantization_config\": {\"quant_method\": \"aqlm\"},",
            "quantized with aqlm, which quern does not read",
        ),
        (
            "\"quantization_config\": {\"quant_method\": \"quanto\"},",
            "quantized with quanto, which quern does not read",
        ),
    ] {
        let dir = model_copy();
        edit(dir.path(), "config.json", &[("{", &format!("{{{keys}"))]);
        fs::remove_file(dir.path().join("model.safetensors")).unwrap();
        let [weight, scales] = [module("weight"), module("scales")];
        weights(
            &dir.path().join("model.safetensors"),
            &[(&weight, ElementType::F32, vec![8, 8]), (&scales, ElementType::F32, vec![8, 1])],
        );
        assert_named(dir.path(), &[words]);
    }
}

#[test]
fn pointers_and_other_files_in_place_of_a_model_are_named() {
    let dir = TempDir::new().unwrap();
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 13476\n";
    for (file, text, words) in [
        ("model.safetensors", pointer, "a Git LFS pointer, not the file of 13476 bytes"),
        ("page.gguf", "<!DOCTYPE html><html>", "a web page (HTML)"),
        ("config.json", "{}", "the model's configuration, not the weights; give the folder"),
        ("model.onnx", "x", "an ONNX model, which quern does not read"),
        ("old.bin", "tjgg\u{1}\0\0\0", "from before GGUF"),
    ] {
        let path = dir.path().join(file);
        fs::write(&path, text).unwrap();
        assert_named(&path, &[words, path.to_str().unwrap()]);
    }
    let model = model_copy();
    fs::write(model.path().join("tokenizer.json"), pointer).unwrap();
    assert_named(model.path(), &["tokenizer.json: this is a Git LFS pointer"]);
    assert_named(TempDir::new().unwrap().path(), &["this folder is empty"]);
    let missing = dir.path().join("not-there");
    assert_named(
        &missing,
        &[&format!("error: {}: no such file or directory; a model is a folder", missing.display())],
    );
}

#[test]
fn classes_around_a_language_model_are_named() {
    let dir = model_copy();
    edit(dir.path(), "config.json", &[("LlamaForCausalLM", "LlamaForSequenceClassification")]);
    let model = dir.path().to_str().unwrap();
    let error = crate::common::failure(&quern(["run", model, "-p", "x"]));
    assert!(error.contains("a llama model with a classification head in place"), "{error}");
    let vision = json!({
        "architectures": ["PaliGemmaForConditionalGeneration"], "model_type": "paligemma",
        "text_config": { "model_type": "gemma" }, "vision_config": {},
    });
    fs::write(dir.path().join("config.json"), vision.to_string()).unwrap();
    let error = crate::common::failure(&quern(["run", model, "-p", "x"]));
    assert!(
        error.contains("its language model is gemma, which quern knows; the vision part is not"),
        "{error}"
    );
    assert!(error.len() < 600 && !error.contains("StableLm"), "{error}");
}

#[test]
fn a_model_saved_without_its_head_is_its_family() {
    let dir = model_copy();
    edit(dir.path(), "config.json", &[("LlamaForCausalLM", "LlamaModel")]);
    let run = |model: &str| stdout(&quern(["run", model, "-p", "the", "-n", "4", "--temp", "0"]));
    let expected = run(fixture("bookworm-4m").to_str().unwrap());
    assert_eq!(run(dir.path().to_str().unwrap()), expected);
}

#[test]
fn the_known_architectures_are_listed_on_request() {
    let text = stdout(&quern(["inspect", "--architectures"]));
    for word in ["GPTNeoXForCausalLM", "gptneox", "gpt_neox", "Mixtral", "stablelm_epoch"] {
        assert!(text.contains(word), "{word} in {text}");
    }
    let list: serde_json::Value =
        serde_json::from_str(&stdout(&quern(["inspect", "--architectures", "--json"]))).unwrap();
    let opt = list.as_array().unwrap().iter().find(|a| a["family"] == "OPT").unwrap();
    assert_eq!((&opt["gguf"], &opt["model_types"]), (&serde_json::Value::Null, &json!(["opt"])));
    assert_eq!(quern(["inspect"]).status.code(), Some(2));
    assert_eq!(quern(["inspect", "x", "--architectures"]).status.code(), Some(2));
}

#[test]
fn special_tokens_that_do_not_exist_are_noted_and_left_out() {
    let dir = TempDir::new().unwrap();
    let expected = stdout(&quern([
        "run",
        fixture("bookworm-4m-Q4_K_M.gguf").to_str().unwrap(),
        "-p",
        "the",
        "-n",
        "4",
        "--temp",
        "0",
    ]));
    for (key, value) in [
        ("tokenizer.ggml.padding_token_id", Value::U32(4096)),
        ("tokenizer.ggml.bos_token_id", Value::U32(99_999)),
        ("tokenizer.ggml.eos_token_id", Value::I32(-7)),
        ("tokenizer.ggml.mask_token_id", Value::String("[MASK]".into())),
    ] {
        let path = with_entry(dir.path(), key, value);
        let result = quern(["run", path.to_str().unwrap(), "-p", "the", "-n", "4", "--temp", "0"]);
        assert_eq!(stdout(&result), expected);
        let said = stderr(&result);
        let note = format!("note: {key}: ");
        assert_eq!(said.matches(&note).count(), 1, "{said}");
        assert!(said.contains("is not the id of one of the 4096 tokens and is ignored"), "{said}");
        let text = stdout(&quern(["inspect", path.to_str().unwrap(), "--check"]));
        assert_eq!(text.matches(key).count(), 1, "{text}");
        // The folder made of it does not have the id.
        let out = dir.path().join(key);
        let result =
            quern(["convert", path.to_str().unwrap(), "--to", "safetensors", "-o", out.to_str().unwrap()]);
        assert!(stderr(&result).contains(&note) && result.status.success(), "{}", stderr(&result));
        let config = fs::read_to_string(out.join("config.json")).unwrap();
        assert!(
            !config.contains("4096,\n  \"pad")
                && !config.contains("99999")
                && !config.contains("pad_token_id"),
            "{config}"
        );
    }
}

#[test]
fn one_bad_end_of_text_in_a_list_is_noted() {
    let dir = model_copy();
    let (model, out) = (dir.path().to_str().unwrap(), TempDir::new().unwrap());
    let out = out.path().join("out.gguf");
    fs::write(dir.path().join("generation_config.json"), r#"{"eos_token_id": [2, 99999]}"#).unwrap();
    edit(dir.path(), "config.json", &[("{", "{\"pad_token_id\": -1, \"sep_token_id\": 5000,")]);
    let result = quern(["run", model, "-p", "the", "-n", "4", "--temp", "0"]);
    let said = stderr(&result);
    assert!(result.status.success(), "{said}");
    assert_eq!(
        said.matches("note: generation_config.json: eos_token_id: 99999 is not the id").count(),
        1,
        "{said}"
    );
    assert_eq!(said.matches("note: config.json: sep_token_id: 5000 is not the id").count(), 1, "{said}");
    assert!(!said.contains("pad_token_id"), "{said}");
    let result = quern(["convert", model, "--to", "gguf", "-o", out.to_str().unwrap()]);
    assert!(stderr(&result).contains("eos_token_id: 99999"), "{}", stderr(&result));
    assert!(result.status.success());
    let made = Checkpoint::open(&out).unwrap();
    assert_eq!(made.metadata().u64("tokenizer.ggml.eos_token_id"), Some(2));
    assert!(made.metadata().get("tokenizer.ggml.seperator_token_id").is_none());
}
