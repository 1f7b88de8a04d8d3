//! Headers alone: how few bytes are read, and that the checks are those of complete files.

use std::fs;
use std::path::{Path, PathBuf};

use quern_hub::{Headers, Remote, Result};
use quern_tensor_io::scheme::Packing;
use quern_tensor_io::{Checkpoint, ElementType, Metadata, StringArray, TensorPlan, Value, gguf, safetensors};
use serde_json::json;

use crate::Place;
use crate::fake_hub::{FakeHub, Repo, Response};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

fn headers(place: &Place, name: &str) -> Result<Headers> {
    place.hub().headers(&name.parse().unwrap()).map(|remote| match remote {
        Remote::Headers(headers) => headers,
        Remote::Cached(path) => panic!("in the cache: {}", path.display()),
    })
}

/// The parts of a checkpoint that its headers show.
fn listing(checkpoint: &Checkpoint) -> Vec<(String, ElementType, Vec<usize>, u64, usize)> {
    let tensors = checkpoint.tensors().iter();
    tensors.map(|t| (t.name.clone(), t.element_type, t.shape.clone(), t.offset, t.file)).collect()
}

/// A safetensors file of these tensors, all f16.
fn shard(tensors: &[(&str, usize)]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    let plan = |&(name, rows): &(&str, usize)| TensorPlan {
        name: name.to_owned(),
        element_type: ElementType::F16,
        shape: vec![rows, 1024],
    };
    let plans: Vec<_> = tensors.iter().map(plan).collect();
    let mut writer = safetensors::Writer::create(&path, &Metadata::new(), &plans, false).unwrap();
    for &(_, rows) in tensors {
        writer.write(&vec![1; rows * 2048]).unwrap();
    }
    writer.finish().unwrap();
    fs::read(path).unwrap()
}

#[test]
fn of_a_sharded_model_a_few_kilobytes_are_enough() {
    let dir = tempfile::tempdir().unwrap();
    let mut map = serde_json::Map::new();
    let mut repo = Repo::new("org/big").small("config.json", r#"{"model_type":"llama"}"#);
    for number in 1..=6 {
        let names: Vec<_> = (0..10).map(|i| format!("model.layers.{number}.{i}.weight")).collect();
        let file = format!("model-{number:05}-of-00006.safetensors");
        let tensors: Vec<_> = names.iter().map(|n| (n.as_str(), 50)).collect();
        let bytes = shard(&tensors);
        names.iter().for_each(|n| drop(map.insert(n.clone(), file.clone().into())));
        fs::write(dir.path().join(&file), &bytes).unwrap();
        repo = repo.large(&file, bytes);
    }
    let index = json!({"metadata": {}, "weight_map": map}).to_string();
    fs::write(dir.path().join("model.safetensors.index.json"), &index).unwrap();
    let server = FakeHub::new(repo.small("model.safetensors.index.json", index));
    let place = Place::new(&server);

    let remote = headers(&place, "org/big").unwrap();
    let (here, there) = (Checkpoint::open(dir.path()).unwrap(), remote.open().unwrap());
    assert_eq!(listing(&there), listing(&here));
    assert_eq!(there.file_size(), here.file_size());
    assert!(here.has_data() && !there.has_data());
    // Commit, tree, index and config (two each for the redirect), six shards with their redirects.
    assert_eq!((remote.requests, server.requests().len()), (2 + 2 + 2 + 12, 18));
    assert!(remote.bytes < 6 * (16 << 10) + 20_000, "{} of {}", remote.bytes, here.file_size());
    assert!(here.file_size() > 6_000_000 && server.sent() < 300_000, "{}", server.sent());
    assert!(!place.settings.cache.exists(), "nothing is downloaded");
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let file = fs::metadata(&there.files()[0]).unwrap();
        assert!(file.blocks() * 512 < 200_000, "a hole takes no disk space: {} blocks", file.blocks());
    }
    let folder = there.directory().to_path_buf();
    drop(remote);
    assert!(!folder.exists());
}

#[test]
fn a_long_header_takes_a_second_request() {
    let names: Vec<_> = (0..1000).map(|i| format!("model.layers.{i}.self_attn.q_proj.weight")).collect();
    let tensors: Vec<_> = names.iter().map(|n| (n.as_str(), 1)).collect();
    let server = FakeHub::new(Repo::new("o/n").large("model.safetensors", shard(&tensors)));
    let remote = headers(&Place::new(&server), "o/n").unwrap();
    assert_eq!(remote.open().unwrap().tensors().len(), 1000);
    assert_eq!(remote.requests, 2 + 4);
}

/// A GGUF file with a vocabulary of a few MiB, one large tensor, and rope's divisors.
fn gguf_file() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m-Q4_K_M.gguf");
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", "llama");
    let tokens: StringArray = (0..200_000).map(|i| format!("token-{i}")).collect();
    metadata.set("tokenizer.ggml.tokens", Value::Array(quern_tensor_io::Array::String(tokens)));
    metadata.set("general.name", "the end");
    let plan = |name: &str, shape: &[usize]| TensorPlan {
        name: name.to_owned(),
        element_type: ElementType::F32,
        shape: shape.to_vec(),
    };
    let plans = [plan("token_embd.weight", &[2000, 1024]), plan("rope_freqs.weight", &[64])];
    let mut writer = gguf::Writer::create(&path, &metadata, &plans, false).unwrap();
    writer.write(&vec![1; 2000 * 4096]).unwrap();
    writer.write(&[1.5f32.to_le_bytes(); 64].concat()).unwrap();
    writer.finish().unwrap();
    (dir, path)
}

#[test]
fn of_a_gguf_file_as_much_as_the_parser_needs() {
    let (_dir, path) = gguf_file();
    let bytes = fs::read(&path).unwrap();
    let server = FakeHub::new(Repo::new("o/g").large("m-Q4_K_M.gguf", bytes.clone()));
    let place = Place::new(&server);
    let remote = headers(&place, "o/g").unwrap();
    let (here, there) = (Checkpoint::open(&path).unwrap(), remote.open().unwrap());
    assert_eq!(listing(&there), listing(&here));
    assert_eq!(there.metadata(), here.metadata());
    let rope = "rope_freqs.weight";
    assert_eq!(there.tensor(rope).unwrap().data, here.tensor(rope).unwrap().data);
    // 3.8 MB of header: 1 + 1 + 2 MiB, and the divisors, each with its redirect.
    assert_eq!(remote.requests, 2 + 2 * 4);
    assert!(remote.bytes < (4 << 20) + 10_000 && bytes.len() > 11_000_000, "{}", remote.bytes);
}

#[test]
fn splits_are_read_together() {
    // Two splits of an empty model: the parts must name each other.
    let dir = tempfile::tempdir().unwrap();
    let mut repo = Repo::new("o/g");
    for number in 0..2u16 {
        let file = format!("m-{:05}-of-00002.gguf", number + 1);
        let mut metadata = Metadata::new();
        metadata.set("general.architecture", "llama");
        metadata.set("split.no", Value::U16(number));
        metadata.set("split.count", Value::U16(2));
        metadata.set("split.tensors.count", Value::I32(2));
        let name = format!("blk.{number}.attn_q.weight");
        let plans = [TensorPlan { name, element_type: ElementType::F32, shape: vec![64, 64] }];
        let path = dir.path().join(&file);
        let mut writer = gguf::Writer::create(&path, &metadata, &plans, false).unwrap();
        writer.write(&[0; 64 * 64 * 4]).unwrap();
        writer.finish().unwrap();
        repo = repo.large(&file, fs::read(&path).unwrap());
    }
    let server = FakeHub::new(repo);
    let there = headers(&Place::new(&server), "o/g").unwrap();
    assert_eq!(there.open().unwrap().tensors().len(), 2);
}

#[test]
fn packed_layers_are_found_from_configuration_and_shapes() {
    for name in [
        "gptq-4bit-g128",
        "gptq-3bit-g64",
        "gptq-4bit-g32-desc-act-v2",
        "awq-4bit-g64",
        "bnb-nf4",
        "bnb-int8",
        "compressed-tensors",
    ] {
        let folder = fixture("packed").join(name);
        let here = Checkpoint::open(&folder).unwrap();
        let here = Packing::read(&here).unwrap().unwrap();
        let server = FakeHub::new(Repo::new("o/packed").folder(&folder));
        let remote = headers(&Place::new(&server), "o/packed").unwrap();
        let there = remote.open().unwrap();
        let there = Packing::read(&there).unwrap().unwrap();
        assert_eq!(there.scheme(), here.scheme(), "{name}");
        // Of compressed-tensors' layers `weight_shape` says the columns. Among these of all kinds, two have shapes
        // that another kind could have too.
        let known =
            |name: &str| !["model.layers.7.up_proj.weight", "model.layers.12.up_proj.weight"].contains(&name);
        let sizes = |p: &Packing| -> Vec<_> {
            let layers = p.layers().iter().filter(|l| known(&l.name));
            layers.map(|l| (l.name.clone(), l.bytes, l.rows * l.columns, l.parts.clone())).collect()
        };
        assert_eq!(sizes(&there), sizes(&here), "{name}");
        assert!(there.notes().iter().any(|n| n.contains("headers alone")), "{:?}", there.notes());
    }
}

#[test]
fn a_server_that_ignores_ranges_is_not_read_to_the_end() {
    let bytes = shard(&[("a", 4000)]);
    let server = FakeHub::hooked(Repo::new("o/n").large("model.safetensors", bytes.clone()), move |r| {
        r.at_storage.then(|| Response::new(200, bytes.clone()))
    });
    let remote = headers(&Place::new(&server), "o/n").unwrap();
    assert_eq!(remote.open().unwrap().tensors().len(), 1);
    assert!(remote.bytes < 100_000, "{}", remote.bytes);
}

#[test]
fn bad_headers_are_refused_as_in_files() {
    let refused = |file: &str, bytes: Vec<u8>| {
        let server = FakeHub::new(Repo::new("o/n").large(file, bytes));
        let place = Place::new(&server);
        match headers(&place, "o/n") {
            Err(e) => e.to_string(),
            Ok(headers) => headers.open().unwrap_err().to_string(),
        }
    };
    let mut cut = shard(&[("a", 100)]);
    cut.truncate(cut.len() - 1);
    let error = refused("model.safetensors", cut);
    assert!(error.contains("cut short") && error.starts_with("o/n/model.safetensors"), "{error}");
    let error = refused("model.safetensors", vec![255; 100_000]);
    assert!(error.contains("the header claims"), "{error}");
    let error = refused("m.gguf", b"GGML of old, and more".repeat(1000));
    assert!(error.contains("not a GGUF file") && error.starts_with("o/n/m.gguf"), "{error}");
    for name in fs::read_dir(fixture("hostile")).unwrap() {
        let path = name.unwrap().path();
        let (true, Ok(bytes)) = (path.extension().is_some_and(|e| e == "gguf"), fs::read(&path)) else {
            continue;
        };
        if let Err(local) = Checkpoint::open(&path) {
            let remote = refused("m.gguf", bytes);
            assert!(remote.contains(&local.kind.to_string()), "{}: {remote}, not {local}", path.display());
        }
    }
}

#[test]
fn another_range_or_length_is_refused() {
    let bytes = shard(&[("a", 100)]);
    let repo = || Repo::new("o/n").large("model.safetensors", shard(&[("a", 100)]));
    for range in ["bytes 8-16383/204880", "bytes 0-16383/99", "nonsense"] {
        let bytes = bytes.clone();
        let server = FakeHub::hooked(repo(), move |r| {
            r.at_storage.then(|| Response::new(206, &bytes[..16384]).with("Content-Range", range))
        });
        let error = headers(&Place::new(&server), "o/n").unwrap_err().to_string();
        assert!(error.contains("but the server sends others"), "{error}");
    }
    let server =
        FakeHub::hooked(Repo::new("o/n").small("config.json", "{}").large("model.safetensors", bytes), |r| {
            r.target.contains("resolve-cache").then(|| Response::new(200, "[]"))
        });
    let error = headers(&Place::new(&server), "o/n").unwrap_err().to_string();
    assert!(error.contains("o/n/config.json") && error.contains("git blob id"), "{error}");
}

#[test]
fn what_is_complete_in_the_cache_is_inspected_there() {
    let index = json!({"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}).to_string();
    let repo = Repo::new("o/n")
        .small("model.safetensors.index.json", index)
        .large("a.safetensors", shard(&[("a", 1)]))
        .large("b.safetensors", shard(&[("b", 2)]));
    let server = FakeHub::new(repo);
    let place = Place::new(&server);
    let pulled = place.pull("o/n").unwrap();
    let asked = server.file_requests().len();
    let found = |name: &str| place.hub().headers(&name.parse().unwrap()).unwrap();
    assert!(matches!(found("o/n"), Remote::Cached(path) if Some(&path) == pulled.model.as_ref()));
    assert_eq!(server.file_requests().len(), asked);
    fs::remove_file(pulled.folder.join("b.safetensors")).unwrap();
    assert!(matches!(found("o/n"), Remote::Headers(_)));
}

#[test]
fn what_has_no_header_of_its_own_is_to_be_pulled() {
    let server = FakeHub::new(Repo::new("o/n").small("config.json", "{}").large("pytorch_model.bin", "PK"));
    let mut place = Place::new(&server);
    let error = headers(&place, "o/n").unwrap_err().to_string();
    assert!(error.contains("PyTorch") && error.contains("pull it"), "{error}");
    place.settings.offline = true;
    assert!(headers(&place, "o/n").unwrap_err().to_string().contains("not complete in the cache"));
}
