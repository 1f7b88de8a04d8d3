//! Each case breaks one rule of safetensors or of its index; the reader must say which.

use quern_tensor_io::{Checkpoint, ElementType};

use super::bytes::*;
use super::hostile_gguf::Case;
use super::{Scratch, assert_content_refused, assert_refused};

fn entry(dtype: &str, shape: &str, offsets: &str) -> String {
    format!(r#"{{"w":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
}

pub fn cases() -> Vec<Case> {
    let one = |dtype, shape, offsets| safetensors(&entry(dtype, shape, offsets), 16);
    let claims = |n: u64| [&n.to_le_bytes()[..], b"{}"].concat();
    let deep = format!(r#"{{"w":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    let twice = r#"{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#;
    let twice_escaped = twice.replacen("\"w\"", r#""\u0077""#, 1);
    let pair = |second: &str| {
        let header = format!(
            r#"{{"v":{{"dtype":"F32","shape":[2],"data_offsets":[0,8]}},"w":{{"dtype":"F32","shape":[2],"data_offsets":{second}}}}}"#
        );
        safetensors(&header, 16)
    };
    vec![
        ("empty", vec![], &["8 bytes of header length", "has 0"]),
        ("seven-bytes", vec![0; 7], &["8 bytes of header length", "has 7"]),
        ("header-past-the-end", claims(3), &["header claims 3 bytes", "has 2"]),
        ("header-u64-max", claims(u64::MAX), &["header claims 18446744073709551615 bytes"]),
        ("header-over-100-mb", claims(100_000_001), &["header claims 100000001 bytes", "allows 100000000"]),
        ("header-no-object", safetensors("[]", 0), &["does not begin with '{'"]),
        ("header-empty", safetensors("", 0), &["does not begin with '{'"]),
        (
            "header-not-utf-8",
            [&3u64.to_le_bytes()[..], b"{\xff}"].concat(),
            &["not valid UTF-8", "at byte 9"],
        ),
        ("header-no-json", safetensors("{\"w\":", 0), &["the header: "]),
        ("header-two-objects", safetensors("{}{}", 0), &["the header: trailing characters"]),
        ("header-nested-deep", safetensors(&deep, 0), &["the header: "]),
        ("duplicate-name", safetensors(twice, 1), &["\"w\" appears twice"]),
        ("duplicate-name-escaped", safetensors(&twice_escaped, 1), &["\"w\" appears twice"]),
        (
            "duplicate-metadata",
            safetensors(r#"{"__metadata__":{"a":"1","a":"2"}}"#, 0),
            &["__metadata__", "\"a\" appears twice"],
        ),
        (
            "metadata-not-strings",
            safetensors(r#"{"__metadata__":{"a":1}}"#, 0),
            &["__metadata__", "\"a\"", "string"],
        ),
        (
            "no-dtype",
            safetensors(r#"{"w":{"shape":[1],"data_offsets":[0,1]}}"#, 1),
            &["\"w\"", "missing field `dtype`"],
        ),
        (
            "name-empty",
            safetensors(&entry("U8", "[1]", "[0,1]").replace("\"w\"", "\"\""), 1),
            &["its name is empty"],
        ),
        (
            "dtype-unknown",
            one("Q7", "[16]", "[0,16]"),
            &["tensor \"w\"", "\"Q7\" is not one that quern reads"],
        ),
        (
            "dtype-not-read",
            one("F4", "[32]", "[0,16]"),
            &["tensor \"w\"", "\"F4\" is not one that quern reads"],
        ),
        ("shape-negative", one("U8", "[-1]", "[0,16]"), &["\"w\"", "-1"]),
        ("shape-fraction", one("U8", "[1.5]", "[0,16]"), &["\"w\"", "1.5"]),
        ("shape-overflows", one("U8", "[4294967296,4294967296]", "[0,16]"), &["tensor \"w\"", "overflows"]),
        (
            "shape-overflows-beside-a-zero",
            one("U8", "[0,4294967296,4294967296]", "[0,0]"),
            &["tensor \"w\"", "overflows"],
        ),
        ("size-wraps", one("F32", "[4611686018427387908]", "[0,16]"), &["tensor \"w\"", "overflows"]),
        ("offsets-backwards", pair("[16,8]"), &["tensor \"w\"", "begins at offset 16, expected 8"]),
        (
            "offsets-do-not-fit",
            one("F32", "[4]", "[0,15]"),
            &["tensor \"w\"", "do not fit shape [4]", "16 bytes expected"],
        ),
        ("offsets-past-the-end", one("F32", "[5]", "[0,20]"), &["tensor \"w\"", "cut short"]),
        (
            "offsets-u64-max",
            one("U8", "[1]", "[18446744073709551614,18446744073709551615]"),
            &["tensor \"w\"", "expected 0"],
        ),
        ("offsets-three", one("U8", "[1]", "[0,1,2]"), &["\"w\""]),
        ("hole", pair("[9,17]"), &["tensor \"w\"", "begins at offset 9, expected 8"]),
        ("overlap", pair("[4,12]"), &["tensor \"w\"", "begins at offset 4, expected 8"]),
        (
            "trailing-bytes",
            safetensors(&entry("U8", "[16]", "[0,16]"), 17),
            &["1 bytes after the last tensor"],
        ),
    ]
}

#[test]
fn every_broken_rule_is_named() {
    for (name, content, what) in cases() {
        println!("{name}");
        assert_content_refused("hostile.safetensors", &content, what);
    }
}

#[test]
fn every_truncation_is_refused() {
    let sound = sound_safetensors();
    let scratch = Scratch::in_memory();
    Checkpoint::open(&scratch.file("whole.safetensors", &sound)).unwrap();
    for length in 0..sound.len() {
        let path = scratch.file("cut.safetensors", &sound[..length]);
        let error = Checkpoint::open(&path).expect_err(&format!("cut to {length} bytes")).to_string();
        assert!(error.starts_with(path.to_str().unwrap()), "{error}");
    }
}

#[test]
fn unusual_but_sound_files_open() {
    let scratch = Scratch::in_memory();
    let open = |content: Vec<u8>| Checkpoint::open(&scratch.file("odd.safetensors", content)).unwrap();
    assert!(open(safetensors("{}", 0)).tensors().is_empty());
    assert!(open(safetensors("{}      ", 0)).tensors().is_empty());

    let model = open(sound_safetensors());
    assert_eq!(model.metadata().str("format"), Some("pt"));
    assert_eq!(model.tensor("a").unwrap().info.element_type, ElementType::F16);
    assert_eq!(model.tensor("b").unwrap().data, [12, 13, 14, 15]);
    assert_eq!(model.tensor("b").unwrap().info.elements(), 1);

    // The header's order is not the data's, one tensor is empty, fields nobody knows stand beside.
    let header = r#"{"z":{"dtype":"U8","shape":[1],"data_offsets":[2,3]},
        "e":{"dtype":"F64","shape":[0,7],"data_offsets":[2,2]},
        "a":{"dtype":"BF16","shape":[1],"data_offsets":[0,2],"note":"x"}}"#;
    let model = open(safetensors(header, 3));
    let names: Vec<_> = model.tensors().iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["a", "e", "z"]);
    assert_eq!((model.tensor("z").unwrap().data, model.tensor("e").unwrap().data), (&[2][..], &[][..]));
}

fn index(entries: &[(&str, &str)]) -> String {
    let entries: Vec<_> = entries.iter().map(|(t, f)| format!("{t:?}:{f:?}")).collect();
    format!(r#"{{"metadata":{{"total_size":1}},"weight_map":{{{}}}}}"#, entries.join(","))
}

const INDEX: &str = "model.safetensors.index.json";

#[test]
fn shards_open_through_their_index() {
    let scratch = Scratch::in_memory();
    scratch.file("s2.safetensors", shard(&["c"]));
    scratch.file("s1.safetensors", shard(&["a", "b"]));
    let path = scratch
        .file(INDEX, index(&[("c", "s2.safetensors"), ("b", "s1.safetensors"), ("a", "s1.safetensors")]));
    for path in [path.as_path(), scratch.path()] {
        let model = Checkpoint::open(path).unwrap();
        assert_eq!(model.directory(), scratch.path());
        assert_eq!(
            model.files(),
            [scratch.path().join("s1.safetensors"), scratch.path().join("s2.safetensors")]
        );
        let places: Vec<_> = model.tensors().iter().map(|t| (t.name.as_str(), t.file)).collect();
        assert_eq!(places, [("a", 0), ("b", 0), ("c", 1)]);
        assert_eq!(model.tensor("b").unwrap().data, [1]);
    }
}

#[test]
fn an_index_and_its_shards_must_agree() {
    let scratch = Scratch::in_memory();
    scratch.file("s1.safetensors", shard(&["a", "b"]));
    scratch.file("s2.safetensors", shard(&["b", "c"]));
    scratch.file("s3.safetensors", shard(&["d"]));
    let (s1, s2, s3) = ("s1.safetensors", "s2.safetensors", "s3.safetensors");
    let a_b = [("a", s1), ("b", s1)];
    let with = |more: &[(&str, &str)]| index(&[&a_b[..], more].concat());
    let cases: Vec<(String, &[&str])> = vec![
        (with(&[("e", "s9.safetensors")]), &["1 of 2 shards are missing", "s9.safetensors"]),
        (with(&[("e", s1)]), &["tensor \"e\"", "does not hold it"]),
        (with(&[("d", s1), ("c", s3)]), &["it is in s3.safetensors"]),
        (index(&[("a", s1)]), &["tensor \"b\"", "in shard s1.safetensors but not in the index"]),
        (with(&[("c", s2)]), &["tensor \"b\"", "in two shards, s1.safetensors and s2.safetensors"]),
        (with(&[("a", s3)]), &["\"a\" appears twice"]),
        (with(&[("e", "../x.safetensors")]), &["tensor \"e\"", "../x.safetensors", "plain file name"]),
        (with(&[("e", "sub/../../x.safetensors")]), &["tensor \"e\"", "plain file name"]),
        (with(&[("e", "/etc/passwd")]), &["tensor \"e\"", "/etc/passwd", "plain file name"]),
        (with(&[("e", "..\\x")]), &["tensor \"e\"", "plain file name"]),
        (with(&[("e", "a\0b")]).replace("\\0", "\\u0000"), &["tensor \"e\"", "plain file name"]),
        (with(&[("e", "")]), &["tensor \"e\"", "plain file name"]),
        (with(&[("e", ".")]), &["tensor \"e\"", "plain file name"]),
        (r#"{"weight_map":{"a":1}}"#.into(), &["not an index", "\"a\""]),
        ("{}".into(), &["not an index", "missing field `weight_map`"]),
        ("".into(), &["not an index"]),
    ];
    for (text, what) in cases {
        println!("{text}");
        assert_refused(&scratch.file(INDEX, &text), what);
    }
    // A broken shard is named itself.
    scratch.file("s3.safetensors", &shard(&["d"])[..20]);
    assert_refused(&scratch.file(INDEX, with(&[("d", s3)])), &["s3.safetensors", "header claims"]);
}
