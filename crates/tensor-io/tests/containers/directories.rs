//! Folders appear whole under their name, or not at all; models in shards are read back by their index.

use std::fs;
use std::path::Path;

use quern_tensor_io::output::OutputDirectory;
use quern_tensor_io::safetensors::ShardedWriter;
use quern_tensor_io::{Checkpoint, ElementType, Error, Metadata, TensorPlan, Value};

use super::Scratch;

#[track_caller]
fn assert_says<T: std::fmt::Debug>(result: Result<T, Error>, path: &Path, what: &[&str]) {
    let error = result.unwrap_err();
    let text =
        error.remedy.as_ref().map_or_else(|| error.to_string(), |remedy| format!("{error}; {remedy:?}"));
    assert!(text.starts_with(path.to_str().unwrap()), "names no file: {text}");
    what.iter().for_each(|part| assert!(text.contains(part), "{part:?} is not in: {text}"));
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn visible(folder: &Path) -> Vec<String> {
    names(folder).into_iter().filter(|n| !n.starts_with('.')).collect()
}

#[test]
fn a_committed_folder_is_whole_and_alone() {
    let scratch = Scratch::new();
    let path = scratch.path().join("out");
    let output = OutputDirectory::create(&path, false).unwrap();
    output.write("one", b"1").unwrap();
    fs::write(output.building().join("two"), b"2").unwrap();
    // what a killed process would leave: told by its name, and no model to any reader
    assert!(visible(scratch.path()).is_empty());
    let hidden = names(scratch.path()).pop().unwrap();
    assert!(hidden.starts_with(".out.") && hidden.ends_with(".part"), "{hidden}");
    output.commit().unwrap();
    assert_eq!(scratch.names(), ["out"]);
    assert_eq!(names(&path), ["one", "two"]);
    assert_eq!(fs::read(path.join("one")).unwrap(), b"1");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let plain = scratch.path().join("plain");
        fs::create_dir(&plain).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), mode(&plain));
    }
}

#[test]
fn a_dropped_folder_leaves_nothing() {
    let scratch = Scratch::new();
    let output = OutputDirectory::create(&scratch.path().join("out"), false).unwrap();
    output.write("config.json", b"{}").unwrap();
    drop(output);
    assert!(scratch.names().is_empty());
}

#[test]
fn errors_name_the_file_as_it_would_have_been_called() {
    let scratch = Scratch::new();
    let path = scratch.path().join("out");
    let output = OutputDirectory::create(&path, false).unwrap();
    output.write("one", b"1").unwrap();
    assert_says(output.write("one", b"1"), &path.join("one"), &["already exists"]);
    assert_says(output.write("no/such", b"1"), &path.join("no/such"), &["does not exist"]);
    let elsewhere = Error::refused("/elsewhere", "what");
    assert_eq!(output.named(elsewhere).file, Path::new("/elsewhere"));
}

#[test]
fn an_existing_model_is_replaced_only_by_force_and_only_when_complete() {
    let scratch = Scratch::new();
    let path = scratch.path().join("out");
    for old in ["config.json", "model-00001-of-00002.safetensors"] {
        fs::create_dir(&path).unwrap();
        fs::write(path.join(old), "old").unwrap();
        fs::write(path.join("notes.txt"), "old").unwrap();
        assert_says(OutputDirectory::create(&path, false), &path, &["already exists", "; ReplaceOutput"]);
        let output = OutputDirectory::create(&path, true).unwrap();
        output.write("new", b"new").unwrap();
        assert_eq!(names(&path), [old, "notes.txt"]);
        drop(output);
        assert_eq!(names(&path), [old, "notes.txt"]);
        let output = OutputDirectory::create(&path, true).unwrap();
        output.write("new", b"new").unwrap();
        output.commit().unwrap();
        assert_eq!(names(&path), ["new"]);
        assert_eq!(scratch.names(), ["out"]);
        fs::remove_dir_all(&path).unwrap();
    }
    fs::create_dir(&path).unwrap();
    assert_says(OutputDirectory::create(&path, false), &path, &["already exists"]);
    OutputDirectory::create(&path, true).unwrap().commit().unwrap();
    assert_eq!(scratch.names(), ["out"]);
}

#[test]
fn what_is_no_model_is_never_replaced() {
    let scratch = Scratch::new();
    let path = scratch.path().join("out");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("thesis.tex"), "").unwrap();
    assert_says(OutputDirectory::create(&path, true), &path, &["holds no model", "remove it yourself"]);
    fs::write(path.join("config.json"), "").unwrap();
    fs::create_dir(path.join("src")).unwrap();
    assert_says(OutputDirectory::create(&path, true), &path, &["holds another one (src)", "yourself"]);
    let file = scratch.file("file", "text");
    assert_says(OutputDirectory::create(&file, true), &file, &["this is a file"]);
    #[cfg(unix)]
    for leads_to in ["out", "nowhere"] {
        let link = scratch.path().join(format!("to_{leads_to}"));
        std::os::unix::fs::symlink(leads_to, &link).unwrap();
        assert_says(OutputDirectory::create(&link, true), &link, &["this is a link"]);
        fs::remove_file(link).unwrap();
    }
    let nowhere = scratch.path().join("no/such/out");
    assert_says(OutputDirectory::create(&nowhere, true), &nowhere, &["does not exist; create it first"]);
    assert_says(OutputDirectory::create(Path::new(".."), true), Path::new(".."), &["not a folder name"]);
    assert_eq!(scratch.names(), ["file", "out"]);
    assert_eq!(names(&path), ["config.json", "src", "thesis.tex"]);
}

#[test]
fn a_folder_that_appeared_or_changed_meanwhile_stays() {
    let scratch = Scratch::new();
    let path = scratch.path().join("out");
    let output = OutputDirectory::create(&path, false).unwrap();
    fs::create_dir(&path).unwrap();
    assert_says(output.commit(), &path, &["already exists"]);
    let output = OutputDirectory::create(&path, true).unwrap();
    fs::write(path.join("somebody else's"), "").unwrap();
    assert_says(output.commit(), &path, &["holds no model"]);
    assert_eq!(names(&path), ["somebody else's"]);
    assert_eq!(scratch.names(), ["out"]);
}

fn plan(name: &str, shape: &[usize]) -> TensorPlan {
    TensorPlan { name: name.into(), element_type: ElementType::U8, shape: shape.into() }
}

fn pt() -> Metadata {
    let mut metadata = Metadata::new();
    metadata.set("format", Value::String("pt".into()));
    metadata
}

/// Two quantized layers, an empty tensor and a plain one; every byte of a tensor is its number.
fn layers() -> Vec<TensorPlan> {
    vec![
        plan("embed.weight", &[10]),
        plan("a.up.weight", &[8]),
        plan("a.up.weight.absmax", &[4]),
        plan("a.up.bias", &[0]),
        plan("a.down.qweight", &[2, 4]),
        plan("a.down.scales", &[4]),
        plan("norm.weight", &[3]),
        plan("nothing.weight", &[0, 7]),
    ]
}

/// Writes [`layers`] in pieces of at most five bytes; returns the folder's files.
fn write(folder: &Path, shard_bytes: u64) -> Vec<String> {
    fs::create_dir(folder).unwrap();
    let mut writer = ShardedWriter::create(folder, &pt(), layers(), shard_bytes).unwrap();
    for (i, tensor) in layers().iter().enumerate() {
        let data = vec![i as u8; tensor.bytes().unwrap()];
        data.chunks(5).for_each(|piece| writer.write(piece).unwrap());
    }
    let bytes = writer.finish().unwrap();
    let files = names(folder);
    let weights = files.iter().filter(|n| n.ends_with(".safetensors"));
    let on_disk: u64 = weights.map(|n| fs::metadata(folder.join(n)).unwrap().len()).sum();
    assert_eq!(bytes, on_disk);
    files
}

fn assert_reads_back(folder: &Path) {
    let model = Checkpoint::open(folder).unwrap();
    assert_eq!(model.tensors().len(), layers().len());
    assert_eq!(model.metadata().iter().count(), 1);
    for (i, tensor) in layers().iter().enumerate() {
        let found = model.tensor(&tensor.name).unwrap();
        assert_eq!(found.info.shape, tensor.shape);
        assert_eq!(found.data, vec![i as u8; found.info.elements()]);
    }
}

#[test]
fn what_fits_one_file_is_one_file() {
    let scratch = Scratch::new();
    let folder = scratch.path().join("one");
    assert_eq!(write(&folder, 37), ["model.safetensors"]);
    assert_reads_back(&folder);
}

#[test]
fn shards_are_listed_by_an_index_and_keep_modules_whole() {
    let scratch = Scratch::new();
    let folder = scratch.path().join("some");
    let files = write(&folder, 22);
    assert_eq!(
        files,
        [
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json"
        ]
    );
    assert_reads_back(&folder);
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.join("model.safetensors.index.json")).unwrap()).unwrap();
    assert_eq!(index["metadata"]["total_size"], 37);
    let map = index["weight_map"].as_object().unwrap();
    assert_eq!(map.len(), layers().len());
    assert!(map.keys().is_sorted());
    assert_eq!(map["a.up.weight"], "model-00001-of-00002.safetensors");
    assert_eq!(map["a.down.qweight"], "model-00002-of-00002.safetensors");

    // smaller than any module: one each, parts still together
    let folder = scratch.path().join("most");
    assert_eq!(write(&folder, 1).len(), 5);
    assert_reads_back(&folder);
    let model = Checkpoint::open(&folder).unwrap();
    let file = |name: &str| model.tensor(name).unwrap().info.file;
    assert_eq!(file("a.up.weight"), file("a.up.weight.absmax"));
    assert_eq!(file("a.up.weight"), file("a.up.bias"));
    assert_eq!(file("a.down.qweight"), file("a.down.scales"));
    assert_ne!(file("a.up.weight"), file("a.down.scales"));
}

#[test]
fn shards_must_be_complete_and_plans_sound() {
    let scratch = Scratch::new();
    let two = || vec![plan("a.x", &[4]), plan("b.x", &[4])];
    let start = |shard_bytes| ShardedWriter::create(scratch.path(), &pt(), two(), shard_bytes).unwrap();
    let mut writer = start(1);
    assert_says(writer.write(&[0; 5]), scratch.path(), &["00001-of-00002", "tensor \"a.x\"", "only 4"]);
    drop(writer);
    let mut writer = start(1);
    writer.write(&[0; 4]).unwrap();
    assert_says(writer.finish(), scratch.path(), &["00002-of-00002", "tensor \"b.x\"", "0 of its 4 bytes"]);
    fs::remove_file(scratch.path().join("model-00001-of-00002.safetensors")).unwrap();
    assert!(scratch.names().is_empty());
    let mut writer = start(8);
    writer.write(&[0; 4]).unwrap();
    writer.write(&[0; 4]).unwrap();
    assert_says(writer.write(&[0]), scratch.path(), &["1 bytes more than all planned tensors"]);
    fs::remove_file(scratch.path().join("model.safetensors")).unwrap();

    let refused = |tensors| ShardedWriter::create(scratch.path(), &pt(), tensors, 1);
    assert_says(refused(vec![plan("a", &[1]), plan("a", &[1])]), scratch.path(), &["planned twice"]);
    let block = TensorPlan { element_type: ElementType::Q4_0, ..plan("b.q", &[32]) };
    let in_second = scratch.path().join("model-00002-of-00002.safetensors");
    assert_says(refused(vec![plan("a", &[1]), block]), &in_second, &["no element type q4_0"]);
    assert!(scratch.names().is_empty());
}

#[test]
fn a_tensor_may_end_before_its_planned_length() {
    let scratch = Scratch::new();
    for (name, shard_bytes, files) in [("one", 2000, 1), ("two", 12, 3)] {
        let folder = scratch.path().join(name);
        fs::create_dir(&folder).unwrap();
        let plans = vec![plan("a.text", &[1000]), plan("a.x", &[4]), plan("b.text", &[7]), plan("b.x", &[2])];
        let mut writer = ShardedWriter::create(&folder, &pt(), plans, shard_bytes).unwrap();
        writer.write(b"short").unwrap();
        writer.end_tensor("a.x").unwrap(); // not its turn
        writer.end_tensor("a.text").unwrap();
        writer.write(&[1; 4]).unwrap();
        writer.write(b"as long").unwrap();
        writer.end_tensor("b.text").unwrap(); // complete: the next one is untouched
        writer.write(&[2; 2]).unwrap();
        writer.finish().unwrap();
        assert_eq!(names(&folder).len(), files);
        let model = Checkpoint::open(&folder).unwrap();
        let data = |name: &str| model.tensor(name).unwrap().data;
        assert_eq!((data("a.text"), data("a.x")), (&b"short"[..], &[1; 4][..]));
        assert_eq!((data("b.text"), data("b.x")), (&b"as long"[..], &[2; 2][..]));
        if files > 1 {
            let index = fs::read(folder.join("model.safetensors.index.json")).unwrap();
            let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
            assert_eq!(index["metadata"]["total_size"], 18);
        }
    }
    let matrix = vec![plan("m.x", &[4, 4])];
    let mut writer = ShardedWriter::create(scratch.path(), &pt(), matrix, 1000).unwrap();
    writer.write(&[0; 5]).unwrap();
    assert_says(writer.end_tensor("m.x"), scratch.path(), &["tensor \"m.x\"", "5 bytes make no tensor"]);
}
