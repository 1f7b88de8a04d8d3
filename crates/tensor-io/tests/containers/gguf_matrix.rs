//! The cases that ggml's own test of its reader makes by hand (`test-gguf`), under ggml's names, and the published
//! weaknesses of its parser, each under its number: what of it quern accepts and what it says of the rest.

use quern_tensor_io::{Checkpoint, ElementType};

use super::bytes::*;
use super::{Scratch, assert_content_refused};

/// Whether a case opens, or what the message must say.
enum Expected {
    Opens,
    Refused(&'static [&'static str]),
}

use Expected::{Opens, Refused};

/// Adds an entry of every value type but arrays, and one array of each type. There are [`ENTRIES`] of them.
fn with_entries(mut file: Gguf) -> Gguf {
    const SIZES: [(u32, usize); 11] =
        [(0, 1), (1, 1), (2, 2), (3, 2), (4, 4), (5, 4), (6, 4), (7, 1), (10, 8), (11, 8), (12, 8)];
    for (id, size) in SIZES {
        file = file.string(&format!("my_key_{id}")).u32(id).bytes(&[vec![1], vec![0; size - 1]].concat());
        file = file.string(&format!("my_array_{id}")).u32(ARRAY).u32(id).u64(2).bytes(&vec![0; 2 * size]);
    }
    let file = file.string("my_key_8").u32(STRING).string("text");
    file.string("my_array_8").u32(ARRAY).u32(STRING).u64(2).string("").string("longer")
}

const ENTRIES: u64 = 24;

/// A tensor of the case: name, type, shape (innermost dimension first).
type Sketch = (&'static str, ElementType, Vec<u64>);

fn sketches() -> Vec<Sketch> {
    vec![
        ("my_tensor_0", ElementType::F32, vec![7]),
        ("my_tensor_1", ElementType::Q4_0, vec![64, 3]),
        ("my_tensor_2", ElementType::I8, vec![5, 1, 2]),
        ("my_tensor_3", ElementType::Q6K, vec![256, 2, 1, 3]),
        ("my_tensor_4", ElementType::F16, vec![1]),
    ]
}

fn size(kind: ElementType, shape: &[u64]) -> u64 {
    shape.iter().product::<u64>() / kind.block_elements() as u64 * kind.block_bytes() as u64
}

/// A file of all entries, these tensors and their data. `alignment` is the file's, with a key for it unless it is 32;
/// offsets follow from `offsets_by`.
fn file(tensors: &[Sketch], alignment: u64, offsets_by: u64) -> Vec<u8> {
    let key = u64::from(alignment != 32);
    let mut file = with_entries(Gguf::new(tensors.len() as u64, ENTRIES + key));
    if key == 1 {
        file = file.entry("general.alignment", alignment as u32);
    }
    let mut offset = 0u64;
    for (name, kind, shape) in tensors {
        file = file.tensor(name, shape, kind.ggml_id().unwrap(), offset);
        offset = (offset + size(*kind, shape)).next_multiple_of(offsets_by);
    }
    file.data(alignment as usize, offset as usize).0
}

/// [`file`] with one tensor changed.
fn changed(change: impl Fn(&mut Sketch)) -> Vec<u8> {
    let mut tensors = sketches();
    change(&mut tensors[1]);
    let mut file = with_entries(Gguf::new(tensors.len() as u64, ENTRIES));
    for (name, kind, shape) in &tensors {
        file = file.tensor(name, shape, kind.ggml_id().unwrap(), 0);
    }
    file.data(32, 4096).0
}

fn header_and_entries() -> Vec<(&'static str, Vec<u8>, Expected)> {
    let entries = |n: u64| with_entries(Gguf::new(0, n));
    let one = |file: Gguf| file.bytes(&[0; 64]).0;
    vec![
        (
            "HEADER_BAD_MAGIC",
            [b"FUGG", &Gguf::new(0, 0).0[4..]].concat(),
            Refused(&["not a GGUF file", "FUGG"]),
        ),
        ("HEADER_BAD_VERSION_0", Gguf::version(0, 0, 0).0, Refused(&["version 0 does not exist"])),
        ("HEADER_BAD_VERSION_1", Gguf::version(1, 0, 0).0, Refused(&["version 1 is obsolete", "convert"])),
        (
            "HEADER_BAD_VERSION_FUTURE",
            Gguf::version(4, 0, 0).0,
            Refused(&["version 4", "reads versions 2 and 3"]),
        ),
        (
            "HEADER_BAD_N_TENSORS",
            one(Gguf::new(u64::MAX, 0)),
            Refused(&["tensor count 18446744073709551615"]),
        ),
        ("HEADER_BAD_N_KV", one(Gguf::new(0, u64::MAX)), Refused(&["metadata count 18446744073709551615"])),
        ("HEADER_EMPTY", Gguf::new(0, 0).0, Opens),
        (
            "KV_BAD_KEY_SIZE",
            one(Gguf::new(0, 1).u64(u64::MAX)),
            Refused(&["a key claims 18446744073709551615 bytes"]),
        ),
        (
            "KV_EMPTY_KEY",
            one(Gguf::new(0, 1).string("").u32(U8)),
            Refused(&["entry 0 of 1 has an empty key"]),
        ),
        (
            "KV_BAD_TYPE",
            one(Gguf::new(0, 1).string("my_key_0").u32(13)),
            Refused(&["my_key_0", "value type 13"]),
        ),
        (
            "KV_BAD_TYPE of an array",
            one(Gguf::new(0, 1).string("my_key_0").u32(ARRAY).u32(13).u64(1)),
            Refused(&["my_key_0", "array element type 13"]),
        ),
        (
            "KV_BAD_VALUE_SIZE",
            one(Gguf::new(0, 1).string("my_key_0").u32(ARRAY).u32(F32).u64(1 << 40)),
            Refused(&["my_key_0", "an array claims 1099511627776 elements"]),
        ),
        ("KV_DUPLICATE_KEY", entries(ENTRIES + 1).entry("my_key_0", 1).0, Refused(&["my_key_0", "twice"])),
        (
            "KV_BAD_ALIGN",
            entries(ENTRIES + 1).entry("general.alignment", 13).0,
            Refused(&["13", "a power of two"]),
        ),
        (
            "KV_WRONG_TYPE_ALIGN",
            entries(ENTRIES + 1).string("general.alignment").u32(5).u32(32).0,
            Refused(&["general.alignment must be a u32"]),
        ),
        ("KV_SUCCESS", entries(ENTRIES).0, Opens),
    ]
}

fn tensors_and_data() -> Vec<(&'static str, Vec<u8>, Expected)> {
    const LONG: &str = "my_tensor_with_a_name_that_has_more_than_the_sixty_three_bytes_of_ggml";
    let mut short = file(&sketches(), 32, 32);
    short.truncate(short.len() - 33);
    let named = |text| -> Expected { Refused(text) };
    vec![
        ("TENSORS_BAD_NAME_SIZE", changed(|t| t.0 = LONG), named(&[LONG, "ggml allows 63"])),
        (
            "TENSORS_BAD_N_DIMS",
            changed(|t| t.2 = vec![32, 1, 1, 1, 1]),
            named(&["my_tensor_1", "5 dimensions"]),
        ),
        (
            "TENSORS_BAD_SHAPE",
            changed(|t| t.2 = vec![32, u64::MAX]),
            named(&["my_tensor_1", "-1 is out of range"]),
        ),
        ("TENSORS_ZERO_DIM", file(&[("my_tensor_0", ElementType::F32, vec![4, 0])], 32, 32), Opens),
        (
            "TENSORS_NE_TOO_BIG",
            changed(|t| *t = ("my_tensor_1", ElementType::I8, vec![1 << 32, 1 << 32, 1])),
            named(&["my_tensor_1", "overflows"]),
        ),
        (
            "TENSORS_NBYTES_TOO_BIG",
            changed(|t| *t = ("my_tensor_1", ElementType::I64, vec![1 << 30, 1 << 30, 2])),
            named(&["my_tensor_1", "overflows"]),
        ),
        (
            "TENSORS_BAD_TYPE",
            Gguf::new(1, 0).tensor("my_tensor_0", &[32], 9999, 0).data(32, 64).0,
            named(&["my_tensor_0", "unknown element type id 9999"]),
        ),
        (
            "TENSORS_BAD_OFFSET",
            Gguf::new(1, 0).tensor("my_tensor_0", &[8], T_F32, 7).data(32, 64).0,
            named(&["my_tensor_0", "offset 7, expected 0"]),
        ),
        ("TENSORS_DUPLICATE_NAME", changed(|t| t.0 = "my_tensor_0"), named(&["my_tensor_0", "two tensors"])),
        ("TENSORS_BAD_ALIGN", with_alignment(13), named(&["general.alignment is 13"])),
        (
            "TENSORS_INCONSISTENT_ALIGN",
            file(&sketches(), 32, 1),
            named(&["my_tensor_1", "offset 28, expected 32"]),
        ),
        ("TENSORS_SUCCESS", file(&sketches(), 32, 32), Opens),
        ("TENSORS_CUSTOM_ALIGN", file(&sketches(), 1, 1), Opens),
        ("DATA_NOT_ENOUGH_DATA", short, named(&["my_tensor_4", "cut short"])),
        ("DATA_BAD_ALIGN", with_alignment(0), named(&["general.alignment is 0"])),
        ("DATA_INCONSISTENT_ALIGN", file(&sketches(), 64, 32), named(&["my_tensor_1", "expected 64"])),
        ("DATA_MEM_SIZE_OVERFLOW", two_of((1 << 63) - 64), named(&["my_tensor_0", "cut short"])),
        ("DATA_SUCCESS", file(&sketches(), 64, 64), Opens),
        ("DATA_CUSTOM_ALIGN", file(&sketches(), 1 << 12, 1 << 12), Opens),
    ]
}

fn with_alignment(alignment: u32) -> Vec<u8> {
    let file = Gguf::new(1, 1).entry("general.alignment", alignment);
    file.tensor("my_tensor_0", &[8], T_F32, 0).data(32, 64).0
}

/// Two tensors of so many bytes each: their sum passes 2^64 if they are large.
fn two_of(bytes: u64) -> Vec<u8> {
    let i8_id = ElementType::I8.ggml_id().unwrap();
    let file = Gguf::new(2, 0).tensor("my_tensor_0", &[bytes], i8_id, 0);
    file.tensor("my_tensor_1", &[bytes], i8_id, bytes).data(32, 64).0
}

#[test]
fn every_case_of_ggmls_test_is_met() {
    let scratch = Scratch::in_memory();
    for (name, content, expected) in header_and_entries().into_iter().chain(tensors_and_data()) {
        println!("{name}");
        match expected {
            Refused(what) => assert_content_refused("case.gguf", &content, what),
            Opens => {
                let path = scratch.file("case.gguf", &content);
                let model = Checkpoint::open(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
                assert!(model.tensors().iter().all(|t| model.data(t).len() == t.bytes), "{name}");
            }
        }
    }
}

/// An array whose length times the size of an element passes 2^64: too little memory, too many bytes read.
#[test]
fn cve_2024_21825_length_of_an_array() {
    let array = |kind: u32, n: u64| Gguf::new(0, 1).string("k").u32(ARRAY).u32(kind).u64(n).bytes(&[0; 64]).0;
    for (kind, n) in [(F32, (1 << 62) + 1), (10, (1 << 61) + 1), (STRING, (1 << 60) + 1), (U8, u64::MAX)] {
        assert_content_refused("cve.gguf", &array(kind, n), &["metadata key \"k\"", "an array claims"]);
    }
}

/// A string of 2^64 - 1 bytes: one more for the closing zero is none.
#[test]
fn cve_2024_23496_length_of_a_string() {
    let value = Gguf::new(0, 1).string("k").u32(STRING).u64(u64::MAX).bytes(&[0; 64]).0;
    assert_content_refused("cve.gguf", &value, &["a string claims 18446744073709551615 bytes"]);
    let key = Gguf::new(0, 1).u64(u64::MAX).bytes(&[0; 64]).0;
    assert_content_refused("cve.gguf", &key, &["a key claims 18446744073709551615 bytes"]);
    let name = Gguf::new(1, 0).u64(u64::MAX).bytes(&[0; 64]).0;
    assert_content_refused("cve.gguf", &name, &["a tensor's name claims 18446744073709551615 bytes"]);
}

/// More dimensions than there is room for.
#[test]
fn cve_2024_21802_number_of_dimensions() {
    for dimensions in [5, 8, 1 << 16, u32::MAX] {
        let file = Gguf::new(1, 0).string("w").u32(dimensions).bytes(&[0; 256]).0;
        let what = format!("{dimensions} dimensions, at most 4");
        assert_content_refused("cve.gguf", &file, &["tensor \"w\"", &what]);
    }
}

/// A number of tensors whose memory is more than 2^64 bytes.
#[test]
fn cve_2024_21836_number_of_tensors() {
    for count in [u64::MAX, (1 << 63) + 1, (1u64 << 61) + 1, u64::MAX / 368 + 2] {
        let file = Gguf::new(count, 0).bytes(&[0; 256]).0;
        assert_content_refused("cve.gguf", &file, &[&format!("tensor count {count}"), "can hold only"]);
    }
}

/// A number of entries whose memory is more than 2^64 bytes.
#[test]
fn cve_2024_23605_number_of_entries() {
    for count in [u64::MAX, (1 << 63) + 1, (1 << 60) + 1, u64::MAX / 48 + 2] {
        let file = Gguf::new(0, count).bytes(&[0; 256]).0;
        assert_content_refused("cve.gguf", &file, &[&format!("metadata count {count}"), "can hold only"]);
    }
}

/// Tensors whose sizes together pass 2^64.
#[test]
fn cve_2025_53630_sum_of_the_sizes() {
    for bytes in [(1 << 63) - 64, 1 << 62, (1u64 << 63) - 32] {
        assert_content_refused("cve.gguf", &two_of(bytes), &["tensor \"my_tensor_0\""]);
    }
    // The first fits, so that only the sum is wrong.
    let (small, i8_id) = (64, ElementType::I8.ggml_id().unwrap());
    let file = Gguf::new(2, 0).tensor("v", &[small], i8_id, 0).tensor("w", &[(1 << 63) - 64], i8_id, small);
    assert_content_refused("cve.gguf", &file.data(32, 128).0, &["tensor \"w\"", "overflow"]);
}

/// The sum of the sizes and of what the descriptions of the tensors take passes 2^64, though neither does.
#[test]
fn cve_2026_27940_sizes_and_descriptions() {
    let i8_id = ElementType::I8.ggml_id().unwrap();
    for short in [32u64, 64, 352, 4096, 1 << 20] {
        let bytes = (1u64 << 63) - short;
        let file = Gguf::new(1, 0).tensor("w", &[bytes], i8_id, 0).data(32, 64).0;
        assert_content_refused("cve.gguf", &file, &["tensor \"w\""]);
    }
}

/// A shape whose number of values is below 2^63, but not that of its bytes.
#[test]
fn cve_2026_33298_bytes_of_a_shape() {
    let f32_of = |shape: &[u64]| Gguf::new(1, 0).tensor("w", shape, T_F32, 0).data(32, 64).0;
    // 2^62 + 4 values of 4 bytes are 16 bytes modulo 2^64.
    for shape in [&[(1 << 62) + 4][..], &[1 << 20, 1 << 21, 1 << 21], &[4, (1 << 30) - 1, (1 << 30) + 1]] {
        assert_content_refused("cve.gguf", &f32_of(shape), &["tensor \"w\"", "overflows"]);
    }
    let blocks = Gguf::new(1, 0).tensor("w", &[256, 1 << 54], T_Q4_K, 0).data(32, 64).0;
    assert_content_refused("cve.gguf", &blocks, &["tensor \"w\"", "cut short"]);
}

/// A shape that is larger than the data in the file, as in Ollama: what follows the file in memory was read.
#[test]
fn cve_2026_7482_shape_larger_than_the_data() {
    let file = |columns: u64| Gguf::new(1, 0).tensor("w", &[columns], T_F32, 0).data(32, 64).0;
    assert_content_refused("cve.gguf", &file(17), &["tensor \"w\"", "cut short"]);
    assert_content_refused("cve.gguf", &file(1 << 40), &["tensor \"w\"", "cut short"]);
    Checkpoint::open(&Scratch::in_memory().file("whole.gguf", file(16))).unwrap();
}

/// A size that becomes 0 when it is rounded up to the alignment (llama.cpp's issue 26978).
#[test]
fn sizes_that_wrap_when_they_are_padded() {
    let i8_id = ElementType::I8.ggml_id().unwrap();
    for alignment in [32u32, 1 << 16, 1 << 31] {
        let file = Gguf::new(2, 1).entry("general.alignment", alignment);
        let file = file.tensor("v", &[(1 << 63) - 1], i8_id, 0).tensor("w", &[1], i8_id, 0).data(32, 64).0;
        assert_content_refused("cve.gguf", &file, &["tensor \"v\"", "overflow"]);
    }
}
