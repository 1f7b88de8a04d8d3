//! Files that torch.save wrote read as torch reads them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use quern_tensor_io::{Checkpoint, Container, ElementType};

use super::pytorch_bytes::*;
use super::{Scratch, assert_refused};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/pytorch")
}

/// The tensors of `path` are those that torch finds, which lie under `name` in the safetensors file.
#[track_caller]
fn assert_as_torch(path: &Path, name: &str) -> Checkpoint {
    let expected = Checkpoint::open(&fixtures().join("expected.safetensors")).unwrap();
    let model = Checkpoint::open(path).unwrap();
    assert_eq!(model.container(), Container::PyTorch);
    assert_eq!(model.metadata().len(), 0);
    let prefix = format!("{name}/");
    let wanted: BTreeSet<_> =
        expected.tensors().iter().filter_map(|t| t.name.strip_prefix(&prefix)).collect();
    let found: BTreeSet<_> = model.tensors().iter().map(|t| t.name.as_str()).collect();
    assert_eq!(found, wanted, "{name}");
    assert_eq!(model.tensors().len(), found.len());
    for info in model.tensors() {
        let theirs = expected.tensor(&format!("{prefix}{}", info.name)).unwrap();
        let which = format!("{name} {}", info.name);
        assert_eq!(
            (&info.shape, info.element_type),
            (&theirs.info.shape, theirs.info.element_type),
            "{which}"
        );
        assert_eq!(info.bytes, theirs.data.len(), "{which}");
        assert_eq!(model.data(info), theirs.data, "{which}");
        model.release(model.data(info).as_ptr_range());
        assert_eq!(model.data(info), theirs.data, "{which}, released");
        assert!(model.file_of(info).starts_with(path));
    }
    model
}

#[test]
fn every_format_of_torch_save() {
    for name in
        ["zip", "zip-protocol-4", "zip-protocol-5", "legacy", "legacy-protocol-4", "bfloat16", "types"]
    {
        let path = fixtures().join(format!("{name}.bin"));
        let model = assert_as_torch(&path, name);
        assert_eq!(model.files(), std::slice::from_ref(&path));
        assert_eq!(model.file_size(), std::fs::metadata(&path).unwrap().len());
        if name == "types" {
            let kinds: BTreeSet<_> = model.tensors().iter().map(|t| t.element_type).collect();
            assert_eq!(kinds.len(), 15);
            continue;
        }
        // The state dict's order, and tied weights that are the same bytes.
        assert_eq!(model.tensors()[1].name, "model.layers.0.mlp.up_proj.weight");
        let [first, last] = ["model.embed_tokens.weight", "lm_head.weight"].map(|n| model.tensor(n).unwrap());
        assert_eq!(first.data.as_ptr(), last.data.as_ptr(), "{name}");
    }
}

#[test]
fn views_of_a_storage() {
    for name in ["views", "legacy-views"] {
        let model = assert_as_torch(&fixtures().join(format!("{name}.bin")), name);
        let whole = model.tensor("whole").unwrap().data.as_ptr_range();
        let within = |n: &str| whole.contains(&model.tensor(n).unwrap().data.as_ptr());
        assert!(
            ["row", "rows", "expanded_in_place"].iter().all(|n| within(n)),
            "{name}: copied without need"
        );
        assert!(!["transposed", "columns", "every_other", "diagonal"].iter().any(|n| within(n)));
        // A copy is made once.
        let data = |n: &str| model.tensor(n).unwrap().data.as_ptr();
        assert_eq!(data("transposed"), data("transposed"));
    }
}

#[test]
fn state_dicts_within_others() {
    for name in ["nested", "legacy-nested", "parameters"] {
        assert_as_torch(&fixtures().join(format!("{name}.bin")), name);
    }
}

#[test]
fn shards() {
    let folder = fixtures().join("sharded");
    let model = assert_as_torch(&folder, "sharded");
    assert_eq!(model.files().len(), 2);
    assert_eq!(model.tensor("model.norm.weight").unwrap().info.file, 1);
    let index = Checkpoint::open(&folder.join("pytorch_model.bin.index.json")).unwrap();
    assert_eq!(index.tensors().len(), model.tensors().len());
    let one = Checkpoint::open(&folder.join("pytorch_model-00001-of-00002.bin")).unwrap();
    assert_eq!((one.container(), one.tensors().len()), (Container::PyTorch, 1));
}

#[test]
fn what_is_no_state_dict_is_refused_by_name() {
    let refused = |name: &str, what: &[&str]| assert_refused(&fixtures().join("refused").join(name), what);
    refused(
        "expanded.bin",
        &["tensor \"weight\"", "expanded view: 12 values out of a storage of 3", "contiguous()"],
    );
    refused("complex.bin", &["tensor \"weight\"", "ComplexFloat\"", "does not read"]);
    refused("sparse.bin", &["torch._utils._rebuild_sparse_tensor", "state_dict()"]);
    refused("module.bin", &["torch.nn.modules.linear.Linear", "state_dict()"]);
    refused("tensor.bin", &["no state dict", "state_dict()"]);
    refused("no-tensors.bin", &["no tensors"]);
    refused("torchscript.bin", &["TorchScript", "state_dict()"]);
}

/// Fills a folder, opens it, and returns the names of the files found.
fn found(files: &[(&str, &[u8])]) -> Result<Vec<String>, String> {
    let scratch = Scratch::new();
    files.iter().for_each(|(name, content)| drop(scratch.file(name, content)));
    let model = Checkpoint::open(scratch.path()).map_err(|e| e.to_string())?;
    Ok(model.files().iter().map(|p| p.file_name().unwrap().to_str().unwrap().to_owned()).collect())
}

#[test]
fn folders() {
    let torch = &sound_archive()[..];
    let old = &sound_legacy()[..];
    let safe = &super::bytes::shard(&["a"])[..];
    let gguf = &super::bytes::sound_gguf()[..];
    let training: Vec<_> =
        ["training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state_0.pth", "scaler.pt"]
            .iter()
            .map(|n| (*n, torch))
            .collect();
    let beside = |files: &[(&'static str, &[u8])]| -> Result<Vec<String>, String> {
        let files: Vec<_> = files.iter().map(|(n, c)| (*n, *c)).chain(training.iter().copied()).collect();
        found(&files)
    };
    assert_eq!(beside(&[("pytorch_model.bin", torch)]).unwrap(), ["pytorch_model.bin"]);
    assert_eq!(beside(&[("pytorch_model.bin", old)]).unwrap(), ["pytorch_model.bin"]);
    assert_eq!(
        beside(&[("consolidated.00.pth", old), ("tokenizer.bin", b"x")]).unwrap(),
        ["consolidated.00.pth"]
    );
    assert_eq!(
        beside(&[("pytorch_model.bin", torch), ("adapter_model.bin", torch)]).unwrap(),
        ["pytorch_model.bin"]
    );
    // Anything else wins, as in transformers.
    assert_eq!(
        beside(&[("pytorch_model.bin", torch), ("model.safetensors", safe)]).unwrap(),
        ["model.safetensors"]
    );
    assert_eq!(beside(&[("pytorch_model.bin", torch), ("q.gguf", gguf)]).unwrap(), ["q.gguf"]);

    let text = beside(&[]).unwrap_err();
    assert!(text.contains("no model in this folder") && text.contains("pytorch_model.bin"), "{text}");
    let text = beside(&[("a.pt", torch), ("b.bin", torch)]).unwrap_err();
    assert!(text.contains("(a.pt, b.bin)") && text.contains("give the path"), "{text}");
    let text = beside(&[("m-00001-of-00002.bin", torch), ("m-00002-of-00002.bin", torch)]).unwrap_err();
    assert!(text.contains("pytorch_model.bin.index.json beside them"), "{text}");

    let one = &archive(dict(&[("a", row("0", 1))]), &[4])[..];
    let two = &archive(dict(&[("b", row("0", 1))]), &[4])[..];
    let index = br#"{"weight_map":{"a":"m-1.bin","b":"m-2.bin"}}"#;
    for name in ["pytorch_model.bin.index.json", "m.bin.index.json"] {
        let files = [("m-1.bin", one), ("m-2.bin", two), (name, &index[..])];
        assert_eq!(beside(&files).unwrap(), ["m-1.bin", "m-2.bin"]);
    }
    let mixed = br#"{"weight_map":{"a":"m-1.bin","b":"m-2.safetensors"}}"#;
    let files = [("m-1.bin", one), ("m-2.safetensors", safe), ("pytorch_model.bin.index.json", &mixed[..])];
    let scratch = Scratch::new();
    files.iter().for_each(|(name, content)| drop(scratch.file(name, content)));
    assert_refused(&scratch.path().join("pytorch_model.bin.index.json"), &["both safetensors and PyTorch"]);
    let wrong = br#"{"weight_map":{"a":"m-1.bin","c":"m-2.bin"}}"#;
    let files = [("m-1.bin", one), ("m-2.bin", two), ("pytorch_model.bin.index.json", &wrong[..])];
    let text = beside(&files).unwrap_err();
    assert!(text.contains("tensor \"c\"") && text.contains("does not hold it"), "{text}");
}

/// Blobs of the Hub's cache carry no extension.
#[test]
fn content_tells_without_an_extension() {
    let scratch = Scratch::new();
    for content in [sound_archive(), sound_legacy()] {
        let model = Checkpoint::open(&scratch.file("0123abcd", content)).unwrap();
        assert_eq!(model.container(), Container::PyTorch);
        let names: Vec<_> = model.tensors().iter().map(|t| t.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(model.tensor("a").unwrap().data, (0..16).collect::<Vec<u8>>());
        assert_eq!(model.tensor("b").unwrap().data, [0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11]);
    }
    let text = Checkpoint::open(&scratch.file("a.bin", "ggjt")).unwrap_err().to_string();
    assert!(text.contains("a.bin") && text.contains("not a file of torch.save"), "{text}");
}

#[test]
fn archives_beyond_the_limits_of_zip() {
    let scratch = Scratch::new();
    let mut entries = entries(sound_pickle(), &[16, 12]);
    entries.iter_mut().step_by(2).for_each(|e| e.wide = true);
    let end = End { wide: Some(0), comment: b"PK\x05\x06 within a comment".to_vec(), ..End::default() };
    let model = Checkpoint::open(&scratch.file("wide.pt", zip(&entries, &end))).unwrap();
    assert_eq!(model.tensor("a").unwrap().data, (0..16).collect::<Vec<u8>>());
    assert_eq!(model.tensors()[0].element_type, ElementType::F32);
}

/// Things Python's older picklers wrote: text as bytes, ordered dicts from pairs, views of storages.
#[test]
fn old_ways() {
    let scratch = Scratch::new();
    let pair = |p: Pickle, name: &[u8]| {
        p.bytes(b"](U").bytes(&[name.len() as u8]).bytes(name).tensor(&row("0", 4)).bytes(b"ea")
    };
    let pickle = Pickle::new().global("collections", "OrderedDict").bytes(b"(]");
    let pickle = pair(pair(pickle, b"one"), b"two").bytes(b"tR").stop();
    let model = Checkpoint::open(&scratch.file("pairs.pt", archive(pickle, &[16]))).unwrap();
    assert_eq!(model.tensors().iter().map(|t| &t.name).collect::<Vec<_>>(), ["one", "two"]);

    let pickle = Pickle::new().bytes(b"}").text("v").global("torch._utils", "_rebuild_tensor").bytes(b"((");
    let pickle = pickle.text("storage").global("torch", "ShortStorage").text("0").text("cpu").int(6);
    let pickle =
        pickle.bytes(b"(").text("1").int(2).int(3).bytes(b"ttQ").int(1).ints(&[2]).ints(&[1]).bytes(b"tRs");
    let model = Checkpoint::open(&scratch.file("view.pt", legacy(pickle.stop(), &[("0", 6, 12)]))).unwrap();
    assert_eq!(model.tensor("v").unwrap().data, [6, 7, 8, 9]);
}
