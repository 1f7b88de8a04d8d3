//! What a path means: which file of a folder, and what is refused before it is read.

use std::path::Path;

use quern_tensor_io::{Checkpoint, Container, Error, ErrorKind};

use super::bytes::*;
use super::{Scratch, assert_refused};

const INDEX: &str =
    r#"{"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}}"#;

/// Fills a folder, opens it, and returns the names of the files found.
fn found(files: &[(&str, Vec<u8>)]) -> Result<Vec<String>, Error> {
    let scratch = Scratch::new();
    files.iter().for_each(|(name, content)| drop(scratch.file(name, content)));
    let model = Checkpoint::open(scratch.path())?;
    assert_eq!(model.directory(), scratch.path());
    Ok(model.files().iter().map(|p| p.file_name().unwrap().to_str().unwrap().to_owned()).collect())
}

fn refusal(files: &[(&str, Vec<u8>)]) -> String {
    found(files).unwrap_err().to_string()
}

#[test]
fn a_folder_with_one_model_needs_no_more_words() {
    let one = || shard(&["a"]);
    let other = || ("config.json", b"{}".to_vec());
    assert_eq!(found(&[other(), ("model.safetensors", one())]).unwrap(), ["model.safetensors"]);
    assert_eq!(found(&[other(), ("any.safetensors", one())]).unwrap(), ["any.safetensors"]);
    assert_eq!(found(&[other(), ("any.gguf", sound_gguf())]).unwrap(), ["any.gguf"]);
    // Extra safetensors beside the canonical name, and unfinished outputs, do not count.
    let files =
        [("model.safetensors", one()), ("consolidated.safetensors", one()), (".x.gguf", vec![]), other()];
    assert_eq!(found(&files).unwrap(), ["model.safetensors"]);
    let shards = [
        ("model-00001-of-00002.safetensors", one()),
        ("model-00002-of-00002.safetensors", shard(&["b"])),
        ("consolidated.safetensors", one()),
        ("model.safetensors.index.json", INDEX.into()),
    ];
    assert_eq!(
        found(&shards).unwrap(),
        ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    );
    let only = r#"{"weight_map":{"a":"model.safetensors"}}"#;
    let files = [("model.safetensors", one()), ("model.safetensors.index.json", only.into())];
    assert_eq!(found(&files).unwrap(), ["model.safetensors"]);
}

/// The names AutoGPTQ gives.
#[test]
fn a_model_of_another_name_may_have_shards() {
    let name = |end: &str| format!("gptq_model-4bit-128g{end}");
    let [first, second] = ["-00001-of-00002.safetensors", "-00002-of-00002.safetensors"].map(name);
    let index = name(".safetensors.index.json");
    let map = format!(r#"{{"weight_map":{{"a":"{first}","b":"{second}"}}}}"#).into_bytes();
    let mut files = vec![
        (first.as_str(), shard(&["a"])),
        (second.as_str(), shard(&["b"])),
        (index.as_str(), map),
        ("quantize_config.json", b"{}".to_vec()),
    ];
    assert_eq!(found(&files).unwrap(), [first.clone(), second.clone()]);
    // An adapter beside it is no second model.
    files.push(("adapter_model.safetensors", shard(&["c"])));
    assert_eq!(found(&files).unwrap(), [first.clone(), second.clone()]);
    files.push(("other.safetensors", shard(&["c"])));
    let text = refusal(&files);
    assert!(text.contains(&format!("({index}, other.safetensors)")), "{text}");
    files.truncate(2);
    assert!(refusal(&files).contains("shards without their index"));
    let single = name(".safetensors");
    assert_eq!(found(&[(&single, shard(&["a"]))]).unwrap(), [single]);
}

#[test]
fn a_folder_with_several_models_lists_them() {
    let one = || shard(&["a"]);
    let choose = "give the path of the one you mean";
    let text = refusal(&[("model.safetensors", one()), ("q4.gguf", sound_gguf())]);
    assert!(text.contains("(model.safetensors, q4.gguf)") && text.contains(choose), "{text}");
    let text = refusal(&[("a.gguf", sound_gguf()), ("b.gguf", sound_gguf())]);
    assert!(text.contains("(a.gguf, b.gguf)") && text.contains(choose), "{text}");
    let text = refusal(&[("model.safetensors", one()), ("model.safetensors.index.json", INDEX.into())]);
    assert!(
        text.contains("(model.safetensors.index.json, model.safetensors)") && text.contains(choose),
        "{text}"
    );
    let text =
        refusal(&[("x-00001-of-00002.gguf", vec![]), ("x-00002-of-00002.gguf", vec![]), ("y.gguf", vec![])]);
    assert!(text.contains("(x-00001-of-00002.gguf, y.gguf)"), "{text}");
    let text = refusal(&[("m-00001-of-00002.safetensors", one()), ("m-00002-of-00002.safetensors", one())]);
    assert!(
        text.contains("shards without their index") && text.contains("model.safetensors.index.json"),
        "{text}"
    );
}

/// A GGUF file with these entries of text and this number of tensors.
fn gguf(entries: &[(&str, &str)], tensors: u64) -> Vec<u8> {
    let mut file = Gguf::new(tensors, entries.len() as u64);
    for (key, value) in entries {
        file = file.string(key).u32(STRING).string(value);
    }
    for i in 0..tensors {
        file = file.tensor(&format!("t{i}"), &[8], T_F32, 32 * i);
    }
    file.data(32, 32 * tensors as usize).0
}

/// Projectors, adapters and importance matrices come with a model; alone they are what the folder holds.
#[test]
fn companions_of_a_model_are_passed_over() {
    let model = || gguf(&[("general.architecture", "llama"), ("general.type", "model")], 1);
    let companions = [
        ("mmproj.gguf", gguf(&[("general.architecture", "clip")], 1)),
        ("lora.gguf", gguf(&[("general.architecture", "llama"), ("general.type", "adapter")], 1)),
        ("importance.gguf", gguf(&[("general.type", "imatrix")], 1)),
        ("vocabulary.gguf", gguf(&[("general.architecture", "llama")], 0)),
        ("adapter_model.safetensors", shard(&["a"])),
    ];
    let mut files = vec![("q4.gguf", model())];
    files.extend(companions.clone());
    assert_eq!(found(&files).unwrap(), ["q4.gguf"]);
    files[0] = ("any.safetensors", shard(&["a"]));
    assert_eq!(found(&files).unwrap(), ["any.safetensors"]);
    files.push(("q4.gguf", model()));
    assert!(refusal(&files).contains("(any.safetensors, q4.gguf)"), "{}", refusal(&files));
    for companion in companions {
        assert_eq!(found(std::slice::from_ref(&companion)).unwrap(), [companion.0]);
    }
    // Unless the first of several parts, which may be without tensors.
    let part = |number: u32, tensors: u64| {
        let file = Gguf::new(tensors, 3).entry("split.count", 2).entry("split.no", number);
        let file = file.entry("split.tensors.count", 1);
        match tensors {
            0 => file.data(32, 0).0,
            _ => file.tensor("t", &[8], T_F32, 0).data(32, 32).0,
        }
    };
    let files = [
        ("m-00001-of-00002.gguf", part(0, 0)),
        ("m-00002-of-00002.gguf", part(1, 1)),
        ("mmproj.gguf", gguf(&[("general.type", "mmproj")], 1)),
    ];
    assert_eq!(found(&files).unwrap(), ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]);
}

#[test]
fn what_is_not_a_model_is_refused_with_advice() {
    let text = refusal(&[("config.json", b"{}".to_vec())]);
    assert!(text.contains("no model in this folder"), "{text}");
    let text = refusal(&[("pytorch_model.bin", b"PK".to_vec())]);
    assert!(text.contains("pytorch_model.bin") && text.contains("not a file of torch.save"), "{text}");

    let scratch = Scratch::new();
    assert_refused(&scratch.path().join("absent.gguf"), &["absent.gguf", "No such file"]);
    assert_refused(&scratch.file("a.bin", "PK"), &["a.bin", "not a file of torch.save"]);
    assert_refused(&scratch.file("notes.txt", "hello"), &["notes.txt", "neither GGUF nor safetensors"]);
    assert_refused(&scratch.file("empty", ""), &["empty", "neither GGUF nor safetensors"]);
    let error = Checkpoint::open(&scratch.path().join("absent")).unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Io(ref e) if e.kind() == std::io::ErrorKind::NotFound));
}

#[test]
fn content_counts_more_than_the_extension() {
    let scratch = Scratch::new();
    let blob = scratch.file("0123abcd", sound_gguf());
    assert_eq!(Checkpoint::open(&blob).unwrap().container(), Container::Gguf);
    let blob = scratch.file("4567abcd", sound_safetensors());
    assert_eq!(Checkpoint::open(&blob).unwrap().container(), Container::Safetensors);
    let wrong = scratch.file("x.safetensors", sound_gguf());
    assert_eq!(Checkpoint::open(&wrong).unwrap().container(), Container::Gguf);
}

#[cfg(unix)]
#[test]
fn devices_and_pipes_are_never_opened() {
    assert_refused(Path::new("/dev/zero"), &["not a regular file"]);
    let scratch = Scratch::new();
    let pipe = scratch.path().join("pipe.gguf");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    assert_refused(&pipe, &["pipe.gguf", "not a regular file"]);
    assert_refused(scratch.path(), &["pipe.gguf", "not a regular file"]);
}

#[cfg(unix)]
#[test]
fn links_of_the_hubs_cache_are_followed() {
    let scratch = Scratch::new();
    let blob = scratch.file("blob", shard(&["a"]));
    let snapshot = scratch.path().join("snapshot");
    std::fs::create_dir(&snapshot).unwrap();
    std::os::unix::fs::symlink(&blob, snapshot.join("model.safetensors")).unwrap();
    let model = Checkpoint::open(&snapshot).unwrap();
    assert_eq!((model.directory(), model.tensors().len()), (snapshot.as_path(), 1));
    assert_eq!(Checkpoint::open(&snapshot.join("model.safetensors")).unwrap().directory(), snapshot);
}

#[test]
fn a_checkpoint_can_be_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Checkpoint>();
    let scratch = Scratch::new();
    let model = Checkpoint::open(&scratch.file("m.gguf", sound_gguf())).unwrap();
    std::thread::scope(|s| {
        let readers: Vec<_> =
            (0..4).map(|_| s.spawn(|| model.tensor("norm.weight").unwrap().data[0])).collect();
        readers.into_iter().for_each(|r| assert_eq!(r.join().unwrap(), 64));
    });
}
