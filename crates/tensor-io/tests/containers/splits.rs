//! Models in several GGUF files.

use std::fs;

use quern_tensor_io::{Checkpoint, Container};

use super::bytes::*;
use super::{Scratch, assert_refused};

/// Part `number` (from 0) of `count`, with one-byte tensors of these names.
fn part(number: u32, count: u32, total: u32, names: &[&str]) -> Vec<u8> {
    let mut file = Gguf::new(names.len() as u64, 4)
        .entry("split.no", number)
        .entry("split.count", count)
        .entry("split.tensors.count", total)
        .entry("only.in", number);
    for (i, name) in names.iter().enumerate() {
        file = file.tensor(name, &[1], 24, i as u64 * 32);
    }
    file.data(32, names.len() * 32).0
}

fn three() -> Scratch {
    let scratch = Scratch::new();
    scratch.file("m-00001-of-00003.gguf", part(0, 3, 4, &["a", "b"]));
    scratch.file("m-00002-of-00003.gguf", part(1, 3, 4, &["c"]));
    scratch.file("m-00003-of-00003.gguf", part(2, 3, 4, &["d"]));
    scratch
}

#[test]
fn any_part_and_the_folder_lead_to_the_whole() {
    let scratch = three();
    let parts: Vec<_> = (1..=3).map(|i| scratch.path().join(format!("m-{i:05}-of-00003.gguf"))).collect();
    for path in parts.iter().map(|p| p.as_path()).chain([scratch.path()]) {
        let model = Checkpoint::open(path).unwrap();
        assert_eq!(model.container(), Container::Gguf);
        assert_eq!(model.files(), parts);
        assert_eq!(model.directory(), scratch.path());
        assert_eq!(model.metadata().u64("only.in"), Some(0));
        let places: Vec<_> = model.tensors().iter().map(|t| (t.name.as_str(), t.file)).collect();
        assert_eq!(places, [("a", 0), ("b", 0), ("c", 1), ("d", 2)]);
        assert_eq!(model.tensor("b").unwrap().data, [32]);
        assert_eq!(model.tensor("d").unwrap().data, [0]);
    }
}

#[test]
fn missing_parts_are_named() {
    let scratch = three();
    fs::remove_file(scratch.path().join("m-00001-of-00003.gguf")).unwrap();
    fs::remove_file(scratch.path().join("m-00003-of-00003.gguf")).unwrap();
    let what = ["2 of 3 parts missing", "m-00001-of-00003.gguf, m-00003-of-00003.gguf", "in the same folder"];
    assert_refused(&scratch.path().join("m-00002-of-00003.gguf"), &what);
    assert_refused(scratch.path(), &what);
}

#[test]
fn parts_must_belong_together() {
    let second = "m-00002-of-00003.gguf";
    let cases: [(&str, Vec<u8>, &[&str]); 7] = [
        (second, part(2, 3, 4, &["c"]), &[second, "split.no is 2, expected 1"]),
        (second, part(1, 2, 4, &["c"]), &[second, "split.count is 2, expected 3"]),
        (second, part(1, 3, 4, &["a"]), &[second, "tensor \"a\"", "also in", "m-00001-of-00003.gguf"]),
        (second, part(1, 3, 4, &[]), &["split.tensors.count is 4, expected 3"]),
        (second, Gguf::new(0, 0).0, &[second, "split.count is missing"]),
        (second, part(1, 3, 4, &["c"])[..60].to_vec(), &[second]),
        ("m-00001-of-00003.gguf", Gguf::new(0, 0).0, &["named part 1 of 3", "lacks split.count"]),
    ];
    for (name, content, what) in cases {
        let scratch = three();
        scratch.file(name, content);
        assert_refused(&scratch.path().join("m-00001-of-00003.gguf"), what);
    }
}

#[test]
fn a_part_under_another_name_says_how_to_name_it() {
    let scratch = Scratch::new();
    let path = scratch.file("renamed.gguf", part(0, 3, 4, &["a"]));
    assert_refused(&path, &["one of 3 parts", "rename the parts to NAME-00001-of-00003.gguf"]);
    let path = scratch.file("m-00001-of-00002.gguf", part(0, 3, 4, &["a"]));
    assert_refused(&path, &["one of 3 parts", "rename"]);
    let negative = Gguf::new(0, 1).string("split.count").u32(5).u32(u32::MAX).0;
    assert_refused(
        &scratch.file("negative.gguf", negative),
        &["split.count must be an integer that is not negative"],
    );
}

#[test]
fn a_single_part_is_a_whole_model() {
    let scratch = Scratch::new();
    let path = scratch.file("m-00001-of-00001.gguf", part(0, 1, 1, &["a"]));
    assert_eq!(Checkpoint::open(&path).unwrap().tensors().len(), 1);
    // gguf-split --merge leaves a count of zero behind.
    let path = scratch.file("merged.gguf", part(0, 0, 1, &["a"]));
    assert_eq!(Checkpoint::open(&path).unwrap().tensors().len(), 1);
}
