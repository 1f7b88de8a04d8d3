//! Outputs appear whole under their name, or not at all.

use std::fs;
use std::io::Write;
use std::path::Path;

use quern_tensor_io::output::OutputFile;
use quern_tensor_io::{Array, ElementType, Error, Metadata, TensorPlan, Value, gguf, safetensors};

use super::Scratch;

fn plan(name: &str, element_type: ElementType, shape: &[usize]) -> TensorPlan {
    TensorPlan { name: name.into(), element_type, shape: shape.into() }
}

#[track_caller]
fn assert_says<T: std::fmt::Debug>(result: Result<T, Error>, path: &Path, what: &[&str]) {
    let error = result.unwrap_err();
    let text =
        error.remedy.as_ref().map_or_else(|| error.to_string(), |remedy| format!("{error}; {remedy:?}"));
    assert!(text.starts_with(path.to_str().unwrap()), "names no file: {text}");
    what.iter().for_each(|part| assert!(text.contains(part), "{part:?} is not in: {text}"));
}

#[test]
fn a_committed_file_is_whole_and_alone() {
    let scratch = Scratch::new();
    let path = scratch.path().join("out");
    let mut output = OutputFile::create(&path, false).unwrap();
    assert!(!path.exists());
    output.write_all(b"one ").unwrap();
    output.append(b"two").unwrap();
    assert!(!path.exists());
    output.commit().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"one two");
    assert_eq!(scratch.names(), ["out"]);
}

#[cfg(unix)]
#[test]
fn permissions_are_those_of_any_new_file() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = Scratch::new();
    let plain = scratch.file("plain", "");
    let ours = scratch.path().join("ours");
    OutputFile::create(&ours, false).unwrap().commit().unwrap();
    let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&ours), mode(&plain));
}

#[test]
fn a_dropped_file_leaves_nothing() {
    let scratch = Scratch::new();
    let mut output = OutputFile::create(&scratch.path().join("out"), false).unwrap();
    output.write_all(&vec![1; 1 << 20]).unwrap();
    // Whether anything is visible meanwhile depends on the file system (see `temporary`), but never this.
    assert!(!scratch.path().join("out").exists());
    drop(output);
    assert!(scratch.names().is_empty());

    let tensors = [plan("a", ElementType::F32, &[1000])];
    let path = scratch.path().join("out");
    let mut writer = gguf::Writer::create(&path, &Metadata::new(), &tensors, false).unwrap();
    writer.write(&[0; 400]).unwrap();
    drop(writer);
    assert!(scratch.names().is_empty());
}

#[test]
fn existing_files_are_replaced_only_by_force_and_only_when_complete() {
    let scratch = Scratch::new();
    let path = scratch.file("out", "old");
    assert_says(OutputFile::create(&path, false), &path, &["already exists", "; ReplaceOutput"]);
    let mut output = OutputFile::create(&path, true).unwrap();
    output.append(b"new").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"old");
    drop(output);
    assert_eq!(fs::read(&path).unwrap(), b"old");
    let mut output = OutputFile::create(&path, true).unwrap();
    output.append(b"new").unwrap();
    output.commit().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"new");
}

#[test]
fn a_file_that_appeared_meanwhile_is_not_overwritten() {
    let scratch = Scratch::new();
    let path = scratch.path().join("out");
    let output = OutputFile::create(&path, false).unwrap();
    scratch.file("out", "somebody else's");
    assert_says(output.commit(), &path, &["already exists"]);
    assert_eq!(fs::read(&path).unwrap(), b"somebody else's");
    assert_eq!(scratch.names(), ["out"]);
}

#[test]
fn impossible_targets_are_refused_at_once() {
    let scratch = Scratch::new();
    let path = scratch.path().join("no/such/folder/out");
    assert_says(OutputFile::create(&path, true), &path, &["the folder", "does not exist", "create it first"]);
    assert_says(OutputFile::create(scratch.path(), true), scratch.path(), &["this is a folder"]);
    assert_says(OutputFile::create(Path::new(".."), true), Path::new(".."), &["not a file name"]);
    #[cfg(unix)]
    {
        let null = Path::new("/dev/null");
        assert_says(OutputFile::create(null, true), null, &["a device or pipe"]);
        let link = scratch.path().join("dangling");
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        assert_says(OutputFile::create(&link, false), &link, &["already exists"]);
    }
    assert!(scratch.names().iter().all(|n| n == "dangling"));
}

/// What either writer must refuse: nothing may remain.
#[test]
fn impossible_plans_are_refused() {
    let scratch = Scratch::new();
    let path = scratch.path().join("out");
    let f32s = |name: &str, shape: &[usize]| vec![plan(name, ElementType::F32, shape)];
    let cases: Vec<(Vec<TensorPlan>, &[&str])> = vec![
        (f32s("", &[1]), &["needs a name"]),
        ([f32s("a", &[1]), f32s("a", &[2])].concat(), &["tensor \"a\"", "planned twice"]),
        (f32s("a", &[1 << 40, 1 << 40]), &["tensor \"a\"", "overflows"]),
        (vec![plan("a", ElementType::Q4K, &[2, 100])], &["tensor \"a\"", "rows of 100 values", "packs 256"]),
        ([f32s("a", &[1 << 60]), f32s("b", &[1 << 60])].concat(), &["tensor \"b\"", "overflow"]),
    ];
    for (tensors, what) in &cases {
        assert_says(gguf::Writer::create(&path, &Metadata::new(), tensors, false), &path, what);
        assert!(gguf::Writer::file_size(&Metadata::new(), tensors).is_err());
        if tensors[0].element_type == ElementType::F32 {
            assert_says(safetensors::Writer::create(&path, &Metadata::new(), tensors, false), &path, what);
        }
    }
    let gguf_only: [(Vec<TensorPlan>, &[&str]); 3] = [
        (f32s(&"x".repeat(64), &[1]), &["has 64 bytes, GGUF allows 63"]),
        (f32s("a", &[1; 5]), &["tensor \"a\"", "more than 4 dimensions"]),
        (vec![plan("a", ElementType::U8, &[1])], &["tensor \"a\"", "no element type u8"]),
    ];
    for (tensors, what) in &gguf_only {
        assert_says(gguf::Writer::create(&path, &Metadata::new(), tensors, false), &path, what);
    }
    let q4 = [plan("a", ElementType::Q4_0, &[32])];
    assert_says(
        safetensors::Writer::create(&path, &Metadata::new(), &q4, false),
        &path,
        &["no element type q4_0"],
    );
    let reserved = f32s("__metadata__", &[1]);
    assert_says(safetensors::Writer::create(&path, &Metadata::new(), &reserved, false), &path, &["reserved"]);
    assert!(scratch.names().is_empty());
}

#[test]
fn impossible_metadata_is_refused() {
    let scratch = Scratch::new();
    let path = scratch.path().join("out");
    let with = |key: &str, value: Value| {
        let mut metadata = Metadata::new();
        metadata.set(key, value);
        metadata
    };
    for (metadata, what) in [
        (with("", Value::U8(1)), "a metadata key is empty"),
        (with("general.alignment", Value::U32(0)), "general.alignment is 0"),
        (with("general.alignment", Value::U32(24)), "general.alignment is 24"),
        (with("general.alignment", Value::U64(32)), "general.alignment must be a u32"),
    ] {
        assert_says(gguf::Writer::create(&path, &metadata, &[], false), &path, &[what]);
    }
    let array = with("a", Value::Array(Array::U8(vec![1])));
    assert_says(safetensors::Writer::create(&path, &array, &[], false), &path, &["\"a\" is not a string"]);
    assert!(scratch.names().is_empty());
}

#[test]
fn data_must_be_as_long_as_planned() {
    let scratch = Scratch::new();
    let path = scratch.path().join("out");
    let tensors = [
        plan("a", ElementType::F32, &[2]),
        plan("none", ElementType::F32, &[0]),
        plan("b", ElementType::F32, &[1]),
    ];
    let start = || gguf::Writer::create(&path, &Metadata::new(), &tensors, false).unwrap();

    let mut writer = start();
    writer.write(&[0; 5]).unwrap();
    assert_says(writer.write(&[0; 4]), &path, &["tensor \"a\"", "4 bytes given, but only 3 of its 8"]);
    assert_says(writer.finish(), &path, &["tensor \"a\"", "5 of its 8 bytes", "not complete"]);

    let mut writer = start();
    writer.write(&[0; 8]).unwrap();
    assert_says(writer.finish(), &path, &["tensor \"b\"", "0 of its 4 bytes"]);

    let mut writer = start();
    writer.write(&[0; 8]).unwrap();
    writer.write(&[0; 4]).unwrap();
    writer.write(&[]).unwrap();
    assert_says(writer.write(&[0]), &path, &["1 bytes more than all planned tensors"]);
    assert!(!path.exists());
    assert_eq!(writer.finish().unwrap(), fs::metadata(&path).unwrap().len());
}
