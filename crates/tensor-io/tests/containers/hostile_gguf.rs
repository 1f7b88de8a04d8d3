//! Each case breaks one rule of GGUF; the reader must say which.

use quern_tensor_io::{Checkpoint, ElementType};

use super::bytes::*;
use super::{Scratch, assert_content_refused};

/// Name of the case (as ggml's test-gguf has it, where it does), the file, what the message must say.
pub type Case = (&'static str, Vec<u8>, &'static [&'static str]);

pub fn cases() -> Vec<Case> {
    let mut cases = header_cases();
    cases.extend(metadata_cases());
    cases.extend(tensor_cases());
    cases.extend(data_cases());
    cases
}

fn header_cases() -> Vec<Case> {
    vec![
        ("empty", vec![], &["ends within the magic"]),
        ("bad-magic", b"FUGG\x03\0\0\0\0\0\0\0".to_vec(), &["not a GGUF file", "FUGG", "at byte 0"]),
        ("older-format", b"tjgg\x03\0\0\0\0\0\0\0".to_vec(), &["before GGUF", "convert the original"]),
        ("version-0", Gguf::version(0, 0, 0).0, &["version 0"]),
        ("version-1", Gguf::version(1, 0, 0).0, &["version 1", "convert the original"]),
        ("version-future", Gguf::version(4, 0, 0).0, &["version 4", "reads versions 2 and 3"]),
        (
            "big-endian",
            Gguf::version(3u32.swap_bytes(), 0, 0).0,
            &["big-endian", "convert it to little endian"],
        ),
        (
            "header-cut-in-the-counts",
            Gguf::new(0, 0).0[..20].to_vec(),
            &["ends within the counts", "8 bytes needed"],
        ),
        (
            "n-tensors-negative",
            Gguf::new(u64::MAX, 0).0,
            &["tensor count 18446744073709551615", "hold only 0"],
        ),
        ("n-kv-negative", Gguf::new(0, u64::MAX).0, &["metadata count 18446744073709551615", "hold only 0"]),
        ("n-tensors-2-36", Gguf::new(1 << 36, 0).0, &["tensor count 68719476736"]),
        ("n-kv-2-36", Gguf::new(0, 1 << 36).0, &["metadata count 68719476736"]),
        ("n-kv-one-too-many", Gguf::new(0, 2).entry("key", 1).0, &["metadata count 2"]),
    ]
}

fn metadata_cases() -> Vec<Case> {
    let one = || Gguf::new(0, 1);
    // Room for what the counts claim, so that the case meets the rule it is meant to break.
    let slack = &[0; 64];
    let array = |kind: u32, n: u64| one().string("key").u32(ARRAY).u32(kind).u64(n);
    let mut nested = array(ARRAY, 1);
    for _ in 0..1_000_000 {
        nested = nested.u32(ARRAY).u64(1);
    }
    vec![
        (
            "bad-key-size",
            one().u64(u64::MAX).bytes(slack).0,
            &["a key claims 18446744073709551615 bytes", "entry 0 of 1"],
        ),
        ("key-2-63", one().u64((1 << 63) + 1).bytes(slack).0, &["a key claims 9223372036854775809 bytes"]),
        ("key-past-the-end", one().u64(65).bytes(slack).0, &["a key claims 65 bytes, 64 are left"]),
        ("empty-key", one().string("").u32(U32).u32(1).bytes(slack).0, &["empty key"]),
        ("key-not-utf-8", one().u64(2).bytes(b"a\xff").u32(U32).u32(1).0, &["not valid UTF-8", "at byte 33"]),
        (
            "bad-type",
            one().string("key").u32(77).bytes(slack).0,
            &["metadata key \"key\"", "unknown value type 77"],
        ),
        (
            "duplicate-key",
            Gguf::new(0, 2).entry("key", 1).entry("key", 2).0,
            &["metadata key \"key\" appears twice"],
        ),
        ("bad-bool", one().string("key").u32(BOOL).bytes(&[2]).0, &["metadata key \"key\"", "a bool is 2"]),
        ("bad-bool-in-array", array(BOOL, 2).bytes(&[1, 9]).0, &["metadata key \"key\"", "a bool is 9"]),
        ("value-cut", one().string("key").u32(12).u32(0).0, &["metadata key \"key\"", "ends within an f64"]),
        (
            "string-2-30",
            one().string("key").u32(STRING).u64(1 << 31).0,
            &["metadata key \"key\"", "2147483648 bytes"],
        ),
        (
            "string-u64-max",
            one().string("key").u32(STRING).u64(u64::MAX).0,
            &["a string claims 18446744073709551615"],
        ),
        (
            "string-not-utf-8",
            one().string("key").u32(STRING).u64(1).bytes(b"\xc3").0,
            &["not valid UTF-8", "at byte 47"],
        ),
        (
            "array-u8-u64-max",
            array(U8, u64::MAX).bytes(slack).0,
            &["an array claims 18446744073709551615 elements"],
        ),
        (
            "array-u32-u64-max",
            array(U32, u64::MAX).bytes(slack).0,
            &["an array claims 18446744073709551615 elements"],
        ),
        (
            "array-f32-size-wraps",
            array(F32, 1 << 62).bytes(slack).0,
            &["an array claims 4611686018427387904 elements"],
        ),
        (
            "array-past-the-end",
            array(F32, 17).bytes(slack).0,
            &["an array claims 17 elements", "64 bytes are left"],
        ),
        ("array-of-strings-too-long", array(STRING, 9).bytes(slack).0, &["an array claims 9 elements"]),
        ("array-of-arrays", array(ARRAY, 2).bytes(slack).0, &["an array of arrays"]),
        ("array-nested-deep", nested.0, &["an array of arrays"]),
        ("array-of-unknown", array(77, 1).bytes(slack).0, &["unknown array element type 77"]),
        (
            // "ab" and the two halves of a three-byte character: together they would be fine.
            "character-across-tokens",
            array(STRING, 3).string("ab").u64(2).bytes(b"\xe2\x96").u64(1).bytes(b"\x81").0,
            &["metadata key \"key\"", "element 1", "not valid UTF-8", "at byte 69"],
        ),
        (
            "token-not-utf-8",
            array(STRING, 2).string("fine").u64(3).bytes(b"\xe2\x96x").0,
            &["metadata key \"key\"", "element 1", "not valid UTF-8", "at byte 71"],
        ),
    ]
}

fn tensor_cases() -> Vec<Case> {
    let one = || Gguf::new(1, 0);
    let shaped = |dimensions: &[u64], kind: u32| one().tensor("w", dimensions, kind, 0).data(32, 64).0;
    let long = "x".repeat(64);
    vec![
        (
            "bad-name-size",
            one().u64(u64::MAX).bytes(&[0; 64]).0,
            &["tensor 0 of 1", "claims 18446744073709551615"],
        ),
        (
            "name-64-bytes",
            one().tensor(&long, &[1], T_F32, 0).data(32, 4).0,
            &["its name has 64 bytes, ggml allows 63"],
        ),
        ("name-empty", one().tensor("", &[1], T_F32, 0).data(32, 4).0, &["its name is empty"]),
        (
            "name-not-utf-8",
            one().u64(1).bytes(b"\xff").bytes(&[0; 64]).0,
            &["tensor 0 of 1", "not valid UTF-8"],
        ),
        (
            "duplicate-name",
            Gguf::new(2, 0).tensor("w", &[8], T_F32, 0).tensor("w", &[8], T_F32, 32).data(32, 64).0,
            &["tensor \"w\"", "two tensors have this name"],
        ),
        ("n-dims-5", shaped(&[1, 1, 1, 1, 1], T_F32), &["tensor \"w\"", "5 dimensions, at most 4"]),
        ("n-dims-u32-max", one().string("w").u32(u32::MAX).bytes(&[0; 64]).0, &["4294967295 dimensions"]),
        ("dim-negative", shaped(&[u64::MAX], T_F32), &["tensor \"w\"", "dimension -1 is out of range"]),
        ("ne-too-big", shaped(&[1 << 33, 1 << 33], T_F32), &["tensor \"w\"", "overflows"]),
        ("ne-too-big-beside-a-zero", shaped(&[1 << 40, 1 << 40, 0], T_F32), &["tensor \"w\"", "overflows"]),
        ("nbytes-too-big", shaped(&[1 << 62], T_F32), &["tensor \"w\"", "overflows"]),
        (
            "nbytes-wraps-to-little",
            shaped(&[4, (1 << 30) - 1, (1 << 30) + 1], T_F32),
            &["tensor \"w\"", "overflows"],
        ),
        ("type-removed", shaped(&[32], 4), &["tensor \"w\"", "unknown element type id 4"]),
        ("type-unknown", shaped(&[32], 1000), &["tensor \"w\"", "unknown element type id 1000"]),
        ("row-not-whole-blocks", shaped(&[33], T_Q4_0), &["tensor \"w\"", "rows of 33 values", "packs 32"]),
        (
            "row-not-whole-blocks-2d",
            shaped(&[32, 8], T_Q4_K),
            &["tensor \"w\"", "rows of 32 values", "packs 256"],
        ),
        ("scalar-of-blocks", shaped(&[], T_Q4_0), &["tensor \"w\"", "rows of 1 values"]),
    ]
}

fn data_cases() -> Vec<Case> {
    let at = |offset: u64| Gguf::new(1, 0).tensor("w", &[8], T_F32, offset).data(32, 64).0;
    let two = |offset: u64| {
        Gguf::new(2, 0).tensor("v", &[8], T_F32, 0).tensor("w", &[8], T_F32, offset).data(32, 128).0
    };
    let aligned = |value: u32| Gguf::new(0, 1).entry("general.alignment", value).0;
    let huge = (1u64 << 61) - 8;
    vec![
        ("alignment-0", aligned(0), &["general.alignment is 0", "power of two"]),
        ("alignment-7", aligned(7), &["general.alignment is 7", "power of two"]),
        ("alignment-13", aligned(13), &["general.alignment is 13", "power of two"]),
        (
            "alignment-string",
            Gguf::new(0, 1).string("general.alignment").u32(STRING).string("32").0,
            &["general.alignment must be a u32"],
        ),
        (
            "alignment-u64",
            Gguf::new(0, 1).string("general.alignment").u32(10).u64(32).0,
            &["general.alignment must be a u32"],
        ),
        (
            "inconsistent-alignment",
            Gguf::new(2, 1)
                .entry("general.alignment", 64)
                .tensor("v", &[8], T_F32, 0)
                .tensor("w", &[8], T_F32, 32)
                .data(64, 128)
                .0,
            &["tensor \"w\"", "offset 32, expected 64"],
        ),
        ("first-offset-not-0", at(32), &["tensor \"w\"", "offset 32, expected 0"]),
        ("offset-past-the-end", at(1 << 40), &["tensor \"w\"", "expected 0"]),
        ("offset-u64-max", at(u64::MAX), &["tensor \"w\"", "offset 18446744073709551615"]),
        ("offset-unaligned", two(36), &["tensor \"w\"", "offset 36, expected 32"]),
        ("overlap", two(0), &["tensor \"w\"", "offset 0, expected 32"]),
        ("gap", two(64), &["tensor \"w\"", "offset 64, expected 32"]),
        (
            "not-enough-data",
            Gguf::new(1, 0).tensor("w", &[8], T_F32, 0).data(32, 31).0,
            &["tensor \"w\"", "ends at byte 96", "the file has 95", "cut short"],
        ),
        ("no-data", Gguf::new(1, 0).tensor("w", &[8], T_F32, 0).0, &["tensor \"w\"", "cut short"]),
        (
            "padded-size-overflows",
            Gguf::new(1, 0).tensor("w", &[huge + 7], T_F32, 0).data(32, 64).0,
            &["tensor \"w\"", "the sizes of the tensors overflow"],
        ),
        (
            "size-too-large-for-the-file",
            Gguf::new(1, 0).tensor("w", &[huge], T_F32, 0).data(32, 64).0,
            &["tensor \"w\"", "cut short"],
        ),
    ]
}

#[test]
fn every_broken_rule_is_named() {
    for (name, content, what) in cases() {
        println!("{name}");
        assert_content_refused("hostile.gguf", &content, what);
    }
}

#[test]
fn every_truncation_is_refused() {
    let sound = sound_gguf();
    let scratch = Scratch::in_memory();
    Checkpoint::open(&scratch.file("whole.gguf", &sound)).unwrap();
    for length in 0..sound.len() {
        let path = scratch.file("cut.gguf", &sound[..length]);
        let error = Checkpoint::open(&path).expect_err(&format!("cut to {length} bytes")).to_string();
        assert!(error.starts_with(path.to_str().unwrap()), "{error}");
    }
}

#[test]
fn unusual_but_sound_files_open() {
    let scratch = Scratch::in_memory();
    let open = |content: Vec<u8>| Checkpoint::open(&scratch.file("odd.gguf", content)).unwrap();

    let mut trailing = sound_gguf();
    trailing.extend_from_slice(&[7; 100]);
    assert_eq!(open(trailing).tensors().len(), 2);

    let mut version_2 = sound_gguf();
    version_2[4] = 2;
    let model = open(version_2);
    assert_eq!(model.tensor("norm.weight").unwrap().data, &(64..76).collect::<Vec<u8>>()[..]);
    assert_eq!(model.tensors()[0].shape, [2, 32]);

    let alignment_1 = Gguf::new(2, 1)
        .entry("general.alignment", 1)
        .tensor("v", &[1], 24, 0)
        .tensor("w", &[2], 24, 1)
        .data(1, 3)
        .0;
    assert_eq!(open(alignment_1).tensor("w").unwrap().data, [1, 2]);

    // Zero elements, at the very end of a file that lacks the padding.
    let nothing = Gguf::new(1, 0).tensor("w", &[0, 5], T_F32, 0).0;
    let model = open(nothing);
    assert!(model.tensor("w").unwrap().data.is_empty());
    assert_eq!((model.tensors()[0].elements(), model.tensors()[0].rows()), (0, 5));

    let scalar = Gguf::new(1, 0).tensor("w", &[], T_F32, 0).data(32, 4).0;
    let model = open(scalar);
    assert_eq!((model.tensors()[0].elements(), model.tensors()[0].columns()), (1, 1));

    let name = "x".repeat(63);
    assert!(open(Gguf::new(1, 0).tensor(&name, &[1], T_F32, 0).data(32, 4).0).tensor(&name).is_some());

    let only_metadata = Gguf::new(0, 1).entry("key", 5).0;
    let model = open(only_metadata);
    assert_eq!(model.metadata().u64("key"), Some(5));
    assert!(model.tensors().is_empty());
}

#[test]
fn every_type_of_value_and_tensor_is_read() {
    let mut file = Gguf::new(0, 12);
    for (id, size) in
        [(0, 1), (1, 1), (2, 2), (3, 2), (4, 4), (5, 4), (6, 4), (7, 1), (10, 8), (11, 8), (12, 8)]
    {
        let mut value = vec![0; size];
        value[0] = 1;
        file = file.string(&format!("key {id}")).u32(id).bytes(&value);
    }
    let file = file.string("s").u32(STRING).string("text").0;
    let scratch = Scratch::in_memory();
    let model = Checkpoint::open(&scratch.file("values.gguf", file)).unwrap();
    let integers = [0, 1, 2, 3, 4, 5, 10, 11];
    assert!(integers.iter().all(|id| model.metadata().u64(&format!("key {id}")) == Some(1)));
    assert_eq!(model.metadata().bool("key 7"), Some(true));
    assert_eq!(model.metadata().f64("key 12"), Some(f64::from_bits(1)));
    assert_eq!(model.metadata().str("s"), Some("text"));

    for &t in ElementType::ALL {
        let Some(id) = t.ggml_id() else { continue };
        let (columns, bytes) = (t.block_elements() as u64, t.block_bytes());
        let file = Gguf::new(1, 0).tensor("w", &[columns], id, 0).data(32, bytes).0;
        let model = Checkpoint::open(&scratch.file("type.gguf", file)).unwrap();
        assert_eq!(model.tensor("w").unwrap().info.element_type, t);
        assert_eq!(model.tensor("w").unwrap().data.len(), bytes);
    }
}
