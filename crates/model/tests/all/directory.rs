//! A quantized checkpoint directory: configuration and companions of the source, whole or not at all.

use std::fs;
use std::path::Path;

use crate::common::{fixture, open};
use quern_model::hugging_face::{Directory, DirectoryOptions, edited_config};
use quern_tensor_io::{Checkpoint, ElementType, Remedy, Result, TensorPlan};
use serde_json::{Value, json};

fn options(names: &[&str]) -> DirectoryOptions {
    let plan =
        |name: &&str| TensorPlan { name: (*name).into(), element_type: ElementType::U8, shape: vec![4] };
    DirectoryOptions { tensors: names.iter().map(plan).collect(), ..DirectoryOptions::default() }
}

/// A directory with the source's configuration, as quantized.
fn create(out: &Path, source: &Checkpoint, options: DirectoryOptions) -> Result<Directory> {
    let config = edited_config(source.directory(), Some(&json!({"quant_method": "test"})), None)?;
    Directory::create(out, source, DirectoryOptions { config, ..options })
}

fn demo() -> Checkpoint {
    open("bookworm-4m")
}

/// Names in a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A small model in `folder` with these other files beside it.
fn model(folder: &Path, config: &str, others: &[&str]) -> Checkpoint {
    let mut tensors = Vec::from(60u64.to_le_bytes());
    tensors.extend(br#"{"a.weight":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#);
    tensors.extend([0; 4]);
    fs::write(folder.join("model.safetensors"), tensors).unwrap();
    fs::write(folder.join("config.json"), config).unwrap();
    others.iter().for_each(|name| fs::write(folder.join(name), format!("the {name}")).unwrap());
    Checkpoint::open(&folder.join("model.safetensors")).unwrap()
}

fn refusal(out: &Path, source: &Checkpoint, options: DirectoryOptions) -> String {
    create(out, source, options).unwrap_err().to_string()
}

#[test]
fn the_demo_model_keeps_its_tokenizer_and_configuration() {
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("out");
    let mut wanted = options(&["a.weight", "b.weight"]);
    wanted.extra_files.push(("quantize_config.json".into(), b"{}".to_vec()));
    let mut directory = create(&out, &demo(), wanted).unwrap();
    directory.write(&[1; 4]).unwrap();
    directory.write(&[2; 3]).unwrap();
    assert!(!out.exists());
    directory.write(&[2]).unwrap();
    let bytes = directory.finish().unwrap();
    assert_eq!(bytes, fs::metadata(out.join("model.safetensors")).unwrap().len());
    assert_eq!(names(scratch.path()), ["out"]);

    let mut expected = names(&fixture("bookworm-4m"));
    expected.push("quantize_config.json".into());
    expected.sort();
    assert_eq!(names(&out), expected);
    let same = |name: &str| {
        assert_eq!(fs::read(out.join(name)).unwrap(), fs::read(fixture("bookworm-4m").join(name)).unwrap());
    };
    same("tokenizer.json");
    same("tokenizer.model");
    let read = |folder: &Path| -> Value {
        serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap()
    };
    let mut config = read(&fixture("bookworm-4m"));
    config["quantization_config"] = json!({"quant_method": "test"});
    let written = read(&out);
    // as text: the order of the keys too
    assert_eq!(written.to_string(), config.to_string());
    assert_eq!(Checkpoint::open(&out).unwrap().tensor("b.weight").unwrap().data, [2; 4]);
}

#[test]
fn an_older_quantization_is_replaced_in_its_place_and_weights_stay_behind() {
    let scratch = tempfile::tempdir().unwrap();
    let (from, out) = (scratch.path().join("from"), scratch.path().join("out"));
    fs::create_dir_all(from.join("onnx")).unwrap();
    let others = [
        "LICENSE",
        "vocab.json",
        "chat_template.jinja",
        "quantize_config.json",
        ".gitattributes",
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
        "other.GGUF",
        "spiece.model",
    ];
    let source = model(&from, r#"{"z": 0.5, "quantization_config": {"bits": 4}, "a": "é"}"#, &others);
    let mut options = options(&["a.weight"]);
    options.extra_files.push(("vocab.json".into(), b"ours".to_vec()));
    let mut directory = create(&out, &source, options).unwrap();
    directory.write(&[0; 4]).unwrap();
    directory.finish().unwrap();
    assert_eq!(
        names(&out),
        ["LICENSE", "chat_template.jinja", "config.json", "model.safetensors", "spiece.model", "vocab.json"]
    );
    assert_eq!(fs::read_to_string(out.join("LICENSE")).unwrap(), "the LICENSE");
    assert_eq!(fs::read_to_string(out.join("vocab.json")).unwrap(), "ours");
    let config: Value = serde_json::from_slice(&fs::read(out.join("config.json")).unwrap()).unwrap();
    assert_eq!(config.to_string(), r#"{"z":0.5,"quantization_config":{"quant_method":"test"},"a":"é"}"#);
}

#[test]
fn an_unfinished_directory_leaves_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("out");
    let mut directory = create(&out, &demo(), options(&["a.weight"])).unwrap();
    directory.write(&[0; 3]).unwrap();
    let error = directory.finish().unwrap_err().to_string();
    assert!(error.starts_with(out.join("model.safetensors").to_str().unwrap()), "{error}");
    assert!(error.contains("3 of its 4 bytes"), "{error}");
    assert!(names(scratch.path()).is_empty());
}

#[test]
fn the_model_being_read_is_never_replaced() {
    let scratch = tempfile::tempdir().unwrap();
    let from = scratch.path().join("from");
    fs::create_dir(&from).unwrap();
    let source = model(&from, "{}", &[]);
    let force = || DirectoryOptions { force: true, ..options(&["a.weight"]) };
    let before = names(&from);
    for out in [from.clone(), from.join("."), scratch.path().join("from/../from"), scratch.path().into()] {
        let error = refusal(&out, &source, force());
        assert!(error.contains("the model being read is stored there"), "{}: {error}", out.display());
    }
    assert_eq!(names(&from), before);
    #[cfg(unix)]
    {
        // as in the Hub's cache: the files are links to files elsewhere
        let cache = scratch.path().join("cache");
        fs::create_dir(&cache).unwrap();
        for name in ["config.json", "model.safetensors"] {
            std::os::unix::fs::symlink(from.join(name), cache.join(name)).unwrap();
        }
        let source = Checkpoint::open(&cache).unwrap();
        let error = refusal(&from, &source, force());
        assert!(error.contains("of the model being read leads there"), "{error}");
        let mut directory = create(&scratch.path().join("out"), &source, force()).unwrap();
        directory.write(&[0; 4]).unwrap();
        directory.finish().unwrap();
        assert!(!scratch.path().join("out/config.json").is_symlink());
    }
}

#[test]
fn impossible_requests_are_refused_before_anything_is_written() {
    let scratch = tempfile::tempdir().unwrap();
    let (from, out) = (scratch.path().join("from"), scratch.path().join("out"));
    fs::create_dir(&from).unwrap();
    for (config, what) in [("[]", "must be a JSON object"), ("{", "not a configuration"), ("", "EOF")] {
        let error = refusal(&out, &model(&from, config, &[]), options(&["a.weight"]));
        assert!(error.contains("config.json") && error.contains(what), "{error}");
    }
    fs::remove_file(from.join("config.json")).unwrap();
    let source = Checkpoint::open(&from).unwrap();
    let error = refusal(&out, &source, options(&["a.weight"]));
    assert!(error.contains("there is no config.json beside the weights"), "{error}");
    for name in ["", "..", "a/b", "config.json", "model.safetensors"] {
        let extra_files = vec![(name.to_owned(), Vec::new())];
        let error = refusal(&out, &demo(), DirectoryOptions { extra_files, ..options(&["a.weight"]) });
        assert!(error.contains("no name for a file beside the weights"), "{name:?}: {error}");
    }
    let error = refusal(&out, &demo(), options(&["a.weight", "a.weight"]));
    assert!(error.starts_with(out.to_str().unwrap()) && error.contains("planned twice"), "{error}");
    fs::create_dir(&out).unwrap();
    let error = create(&out, &demo(), options(&["a.weight"])).unwrap_err();
    assert!(error.to_string().contains("already exists"), "{error}");
    assert_eq!(error.remedy(), Some(Remedy::ReplaceOutput));
    assert_eq!(names(scratch.path()), ["from", "out"]);
}
