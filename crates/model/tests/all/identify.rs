//! Files and folders that are no model: each is named for what it is, with what to do.

use std::fs;
use std::path::Path;

use crate::common::{copy_of, edit, fixture, write_safetensors};
use quern_model::identify::{self, Identity};
use quern_tensor_io::gguf::Writer;
use quern_tensor_io::{ElementType, Metadata, TensorPlan};
use serde_json::json;
use tempfile::TempDir;

/// What opening `path` says, less the path.
fn refusal(path: &Path) -> String {
    let error = identify::open(path).expect_err("no model").to_string();
    assert_eq!(error.matches(&path.display().to_string()).count(), 1, "{error}");
    error
}

fn assert_refused(path: &Path, words: &[&str]) {
    let error = refusal(path);
    for word in words {
        assert!(error.contains(word), "{error}\nlacks {word:?}");
    }
}

/// A GGUF file with these entries of text, and tensors of these names.
fn gguf(path: &Path, entries: &[(&str, &str)], tensors: &[&str]) {
    let mut metadata = Metadata::new();
    entries.iter().for_each(|(key, value)| metadata.set(*key, *value));
    let plan: Vec<_> = tensors
        .iter()
        .map(|name| TensorPlan { name: (*name).to_owned(), element_type: ElementType::F32, shape: vec![8] })
        .collect();
    let mut writer = Writer::create(path, &metadata, &plan, true).unwrap();
    tensors.iter().for_each(|_| writer.write(&[0; 32]).unwrap());
    writer.finish().unwrap();
}

fn folder(files: &[(&str, &str)]) -> TempDir {
    let dir = TempDir::new().unwrap();
    for (name, text) in files {
        fs::create_dir_all(dir.path().join(name).parent().unwrap()).unwrap();
        fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

fn names(list: &[&str]) -> Vec<(String, &'static str, Vec<usize>)> {
    list.iter().map(|name| ((*name).to_owned(), "F32", vec![2, 2])).collect()
}

const LORA: &str = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
const POINTER: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 13476851840\n";

#[test]
fn models_are_opened() {
    for name in ["bookworm-4m", "bookworm-4m-Q4_K_M.gguf"] {
        assert!(identify::open(&fixture(name)).is_ok(), "{name}");
    }
    for entry in fs::read_dir(fixture("architectures")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            assert!(identify::open(&path).is_ok(), "{path:?}");
        }
    }
}

#[test]
fn adapters_name_their_base() {
    let dir = TempDir::new().unwrap();
    write_safetensors(&dir.path().join("adapter_model.safetensors"), &names(&[LORA]));
    assert_refused(dir.path(), &["a LoRA adapter for a base model that it does not name", "merge it"]);
    let config = json!({ "peft_type": "IA3", "base_model_name_or_path": "org/base" });
    fs::write(dir.path().join("adapter_config.json"), config.to_string()).unwrap();
    assert_refused(dir.path(), &["an IA3 adapter for the model org/base, not a whole model", "merge it"]);
    assert_refused(&dir.path().join("adapter_model.safetensors"), &["adapter for the model org/base"]);
    // The configuration alone.
    fs::remove_file(dir.path().join("adapter_model.safetensors")).unwrap();
    assert_refused(dir.path(), &["adapter for the model org/base"]);
    // mlx-lm's.
    let dir = folder(&[("adapter_config.json", r#"{"fine_tune_type": "lora", "model": "org/mlx"}"#)]);
    write_safetensors(
        &dir.path().join("adapters.safetensors"),
        &names(&["model.layers.0.mlp.up_proj.lora_a"]),
    );
    assert_refused(dir.path(), &["a LoRA adapter for the model org/mlx"]);
    // A model with its adapter beside the weights.
    let whole = names(&["model.embed_tokens.weight", "model.layers.0.mlp.up_proj.base_layer.weight", LORA]);
    let dir = TempDir::new().unwrap();
    write_safetensors(&dir.path().join("model.safetensors"), &whole);
    assert_refused(dir.path(), &["has not been merged"]);
}

#[test]
fn gguf_files_that_are_no_model_say_what_they_are() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("x.gguf");
    let llama = ("general.architecture", "llama");
    for (entries, tensors, words) in [
        (
            vec![
                llama,
                ("general.type", "adapter"),
                ("general.base_model.0.repo_url", "https://huggingface.co/o/n"),
            ],
            &["a"][..],
            &["a LoRA adapter for the model o/n"][..],
        ),
        (vec![llama], &["blk.0.attn_q.weight.lora_a"], &["a LoRA adapter"]),
        (vec![("general.architecture", "clip")], &["v.patch_embd.weight"], &["projector", "language model"]),
        (vec![("general.type", "mmproj")], &["a"], &["projector"]),
        (vec![("general.type", "imatrix")], &["blk.0.ffn_up.weight.in_sum2"], &["an importance matrix"]),
        (vec![("general.architecture", "controlvector")], &["direction.1"], &["a control vector"]),
        (vec![("general.type", "dataset")], &["a"], &["of the type \"dataset\""]),
        (vec![llama], &[], &["holds no tensors", "vocabulary"]),
        (
            vec![llama],
            &["blk.0.ffn_gate.3.weight"],
            &["before experts were stacked (before April 2024)", "newer"],
        ),
    ] {
        gguf(&path, &entries, tensors);
        assert_refused(&path, words);
        assert!(identify::open_any(&path).is_ok());
    }
    gguf(&path, &[llama, ("general.type", "model")], &["blk.0.ffn_gate.weight"]);
    assert!(identify::open(&path).is_ok());
}

#[test]
fn quantizations_that_are_not_read_are_named() {
    let dir = copy_of("bookworm-4m", &["config.json"]);
    let (config, weights) = (dir.path().join("config.json"), dir.path().join("model.safetensors"));
    write_safetensors(&weights, &names(&["model.layers.0.mlp.up_proj.weight"]));
    assert!(identify::open(dir.path()).is_ok());
    for method in ["exl2", "quanto", "aqlm"] {
        edit(&config, json!({ "quantization_config": { "quant_method": method } }));
        assert_refused(dir.path(), &[&format!("quantized with {method}, which quern does not read")]);
    }
    for method in [
        "gptq",
        "awq",
        "bitsandbytes",
        "compressed-tensors",
        "fp8",
        "fbgemm_fp8",
        "modelopt",
        "mxfp4",
        "auto-round",
        "hqq",
        "torchao",
    ] {
        edit(&config, json!({ "quantization_config": { "quant_method": method } }));
        assert!(identify::open(dir.path()).is_ok(), "{method}");
    }
    edit(&config, json!({ "quantization_config": null }));
    write_safetensors(&weights, &names(&["model.layers.0.mlp.up_proj.trellis"]));
    assert_refused(dir.path(), &["quantized with EXL3"]);
}

#[test]
fn other_layouts_of_hugging_faces_files_are_named() {
    let dir = TempDir::new().unwrap();
    write_safetensors(
        &dir.path().join("consolidated.safetensors"),
        &names(&["tok_embeddings.weight", "layers.0.attention.wq.weight"]),
    );
    assert_refused(dir.path(), &["original layout of Meta's and Mistral's releases"]);
}

#[test]
fn pointers_and_pages_in_place_of_files_are_named() {
    let page = "<!DOCTYPE html><html><body>Sign in</body></html>";
    for (file, text, words) in [
        (
            "model.safetensors",
            POINTER,
            ["a Git LFS pointer, not the file of 13476851840 bytes itself", "git lfs pull"],
        ),
        ("m.gguf", POINTER, ["a Git LFS pointer", "git lfs pull"]),
        ("pytorch_model.bin", POINTER, ["a Git LFS pointer", "git lfs pull"]),
        ("other.bin", POINTER, ["a Git LFS pointer", "git lfs pull"]),
        ("m.gguf", page, ["a web page (HTML)", "download the file itself"]),
        ("model.safetensors", page, ["a web page (HTML)", "download the file itself"]),
        ("m.gguf", "Entry not found", ["an answer of a server (\"Entry not found\")", "download it again"]),
        ("m.gguf", "", ["the file is empty", "download"]),
        ("ggml-model-q4_0.bin", "tjgg\u{1}\0\0\0", ["before GGUF", "download a GGUF file"]),
    ] {
        let dir = folder(&[(file, text)]);
        assert_refused(&dir.path().join(file), &words);
        let error = identify::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains(file) && words.iter().all(|word| error.contains(word)), "{error}");
    }
    // Beside sound weights.
    for file in ["config.json", "tokenizer.json", "tokenizer.model", "generation_config.json"] {
        let dir = copy_of("bookworm-4m", &["config.json", "tokenizer.json", "model.safetensors"]);
        fs::write(dir.path().join(file), POINTER).unwrap();
        let error = identify::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("{file}: this is a Git LFS pointer")), "{error}");
    }
}

#[test]
fn files_that_lie_beside_weights_lead_to_the_folder() {
    for (file, what) in [
        ("config.json", "the model's configuration"),
        ("tokenizer.json", "the model's tokenizer"),
        ("tokenizer.model", "the model's tokenizer"),
        ("README.md", "a text file"),
    ] {
        let dir = folder(&[(file, "{}")]);
        assert_refused(&dir.path().join(file), &[what, "give the folder that holds the model"]);
    }
    // An index whose shards are not there says so.
    let index = r#"{"weight_map":{"a":"model-00001-of-00001.safetensors"}}"#;
    let dir = folder(&[("model.safetensors.index.json", index)]);
    assert_refused(
        &dir.path().join("model.safetensors.index.json"),
        &["1 of 1 shards are missing", "download"],
    );
}

#[test]
fn formats_of_other_programs_and_archives_are_named() {
    for (file, text, words) in [
        ("model.onnx", "\u{8}\u{7}", ["an ONNX model", "take the safetensors"]),
        ("tf_model.h5", "x", ["TensorFlow or Keras", "take the safetensors"]),
        ("flax_model.msgpack", "x", ["a Flax checkpoint", "take the safetensors"]),
        ("m.nemo", "x", ["a NeMo archive", "convert it"]),
        ("m.zip", "PK\u{3}\u{4}", ["a zip archive", "unpack it"]),
        ("m.tar", "x", ["a tar archive", "unpack it"]),
        ("m.gguf.part", "xxxx", ["an unfinished download", "finish it"]),
    ] {
        let dir = folder(&[(file, text), ("config.json", "{}")]);
        assert_refused(&dir.path().join(file), &words);
        let error = identify::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains(file) && words.iter().all(|word| error.contains(word)), "{error}");
    }
}

#[test]
fn folders_without_a_model_say_what_they_hold() {
    let error = identify::open(Path::new("/nowhere/at all")).unwrap_err().to_string();
    assert!(
        error.contains("no such file or directory; a model is a folder, a file or a name on the Hub"),
        "{error}"
    );
    assert_refused(folder(&[]).path(), &["this folder is empty"]);
    assert_refused(
        folder(&[("config.json", "{}")]).path(),
        &["no model in this folder", "only config.json", "download"],
    );
    assert_refused(folder(&[("model_index.json", "{}")]).path(), &["diffusers", "language models only"]);
    assert_refused(
        folder(&[("modules.json", "[]"), ("0_Transformer/model.safetensors", "x")]).path(),
        &["not in this folder but in 0_Transformer"],
    );
    assert_refused(
        folder(&[("a/model.safetensors", "x"), ("b/m.gguf", "x")]).path(),
        &["in folders inside it (a, b)"],
    );
    let cache =
        folder(&[("models--org--name/blobs/x", "x"), ("models--org--name/snapshots/1/config.json", "{}")]);
    assert_refused(&cache.path().join("models--org--name"), &["the Hub's cache", "the name org/name"]);
    assert_refused(
        folder(&[("__0_0.distcp", "x"), (".metadata", "x")]).path(),
        &["a distributed checkpoint"],
    );
    assert_refused(
        folder(&[("zero_to_fp32.py", ""), ("latest", "x")]).path(),
        &["zero_to_fp32.py of DeepSpeed"],
    );
}

#[test]
fn several_models_are_listed_unless_they_are_one_thing() {
    let dir = TempDir::new().unwrap();
    for name in ["a.gguf", "b.gguf"] {
        gguf(&dir.path().join(name), &[("general.architecture", "llama")], &["t"]);
    }
    assert_refused(dir.path(), &["more than one model in this folder (a.gguf, b.gguf)"]);
    // A pointer is no choice, but a model beside it is.
    assert_refused(
        folder(&[("a.gguf", POINTER), ("b.gguf", POINTER)]).path().join("a.gguf").as_path(),
        &["LFS"],
    );
    let error =
        identify::open(folder(&[("a.gguf", POINTER), ("b.gguf", POINTER)]).path()).unwrap_err().to_string();
    assert!(error.contains("a.gguf: this is a Git LFS pointer"), "{error}");
}

#[test]
fn every_identity_has_a_name_and_a_remedy() {
    let all = [
        Identity::Projector,
        Identity::Vocabulary,
        Identity::WebPage,
        Identity::Foreign { what: "an ONNX model" },
        Identity::Below { folders: vec!["a".into()] },
    ];
    for identity in all {
        let text = identity.to_string();
        assert!(text.contains("; ") && !text.ends_with('.') && !text.contains('\n'), "{text}");
        assert!(identity.name().bytes().all(|b| b.is_ascii_lowercase() || b == b'-'));
    }
}
