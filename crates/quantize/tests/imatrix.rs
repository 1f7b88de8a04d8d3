//! Importance matrices in both formats, sound and hostile.

mod common;

use std::path::{Path, PathBuf};

use common::{fixture, imatrix};
use quern_quantize::imatrix::Imatrix;
use quern_tensor_io::{Array, ElementType as E, Metadata, TensorPlan, Value, gguf};

fn write(folder: &Path, bytes: &[u8]) -> PathBuf {
    let path = folder.join("imatrix.dat");
    std::fs::write(&path, bytes).unwrap();
    path
}

fn number(n: i32) -> [u8; 4] {
    n.to_le_bytes()
}

/// A legacy file.
fn legacy(entries: &[(&str, i32, &[f32])], chunks: i32, dataset: &str) -> Vec<u8> {
    let mut bytes = number(entries.len() as i32).to_vec();
    for (name, calls, values) in entries {
        bytes.extend(number(name.len() as i32));
        bytes.extend(name.as_bytes());
        bytes.extend(number(*calls));
        bytes.extend(number(values.len() as i32));
        values.iter().for_each(|v| bytes.extend(v.to_le_bytes()));
    }
    bytes.extend(number(chunks));
    bytes.extend(number(dataset.len() as i32));
    bytes.extend(dataset.as_bytes());
    bytes
}

#[test]
fn llama_imatrix_s_file_is_read() {
    let imatrix = imatrix();
    assert_eq!((imatrix.len(), imatrix.chunks()), (28, 64));
    assert_eq!(imatrix.datasets(), ["calibration.txt"]);
    assert_eq!(imatrix.get("blk.3.ffn_down.weight").unwrap().len(), 768);
    assert_eq!(imatrix.get("blk.3.attn_q.weight").unwrap().len(), 256);
    assert_eq!(imatrix.get("token_embd.weight"), None);
    // queries, keys and values see the same inputs
    assert_eq!(imatrix.get("blk.0.attn_q.weight"), imatrix.get("blk.0.attn_v.weight"));
}

#[test]
fn a_legacy_twin_says_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let modern = imatrix();
    // 64 calls: a power of two, so that multiplying and dividing again loses nothing
    let sums: Vec<(&str, Vec<f32>)> =
        modern.names().map(|n| (n, modern.get(n).unwrap().iter().map(|m| m * 64.0).collect())).collect();
    let entries: Vec<(&str, i32, &[f32])> = sums.iter().map(|(n, s)| (*n, 64, s.as_slice())).collect();
    let path = write(folder.path(), &legacy(&entries, 64, "calibration.txt"));
    let twin = Imatrix::open(&path).unwrap();
    assert_eq!((twin.len(), twin.chunks(), twin.datasets()), (28, 64, modern.datasets()));
    for name in modern.names() {
        assert_eq!(twin.get(name), modern.get(name), "{name}");
    }
    assert_eq!(twin.file(), path);
}

#[test]
fn old_files_without_a_tail_and_without_calls_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let mut bytes = legacy(&[("a.weight", 0, &[2.0, 4.0]), ("b.weight", 3, &[6.0])], 0, "");
    bytes.truncate(bytes.len() - 8);
    let imatrix = Imatrix::open(&write(folder.path(), &bytes)).unwrap();
    assert_eq!(imatrix.get("a.weight"), Some(&[2.0, 4.0][..]));
    assert_eq!(imatrix.get("b.weight"), Some(&[2.0][..]));
    assert_eq!((imatrix.chunks(), imatrix.datasets().len()), (0, 0));
}

/// The complaint about these bytes.
fn complaint(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let error = Imatrix::open(&write(folder.path(), bytes)).unwrap_err().to_string();
    assert!(error.contains("imatrix.dat"), "names the file: {error}");
    error
}

#[test]
fn every_truncation_of_a_legacy_file_is_an_error() {
    let whole = legacy(&[("a.weight", 2, &[2.0, 4.0]), ("b.weight", 2, &[6.0])], 7, "text");
    let tail = whole.len() - 4 - 4 - "text".len();
    for length in (0..whole.len()).filter(|&n| n != tail) {
        complaint(&whole[..length]);
    }
}

#[test]
fn hostile_legacy_files_are_refused_without_large_allocations() {
    let mut huge_name = number(1).to_vec();
    huge_name.extend(number(i32::MAX));
    let mut huge_values = number(1).to_vec();
    huge_values.extend([&number(1)[..], b"a", &number(1), &number(i32::MAX)].concat());
    let mut not_utf8 = legacy(&[("ab", 1, &[1.0])], 1, "");
    not_utf8[8] = 0xff;
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (vec![], "bytes"),
        (number(0).to_vec(), "no entries"),
        (number(-1).to_vec(), "-1"),
        (number(i32::MAX).to_vec(), "left"),
        (huge_name, "left"),
        (huge_values, "left"),
        (not_utf8, "UTF-8"),
        (legacy(&[("a", 1, &[f32::NAN])], 1, ""), "NaN"),
        (legacy(&[("a", 1, &[1.0, f32::INFINITY])], 1, ""), "inf"),
        (legacy(&[("a", 1, &[-1.0])], 1, ""), "-1"),
        (legacy(&[("a", 1, &[])], 1, ""), "no values"),
        (legacy(&[("a", 1, &[1.0]), ("a", 1, &[1.0])], 1, ""), "two entries"),
        (legacy(&[("a", 1, &[1.0])], -5, ""), "-5"),
        (b"this is no importance matrix at all".to_vec(), "not an importance matrix"),
    ];
    for (bytes, part) in cases {
        let error = complaint(&bytes);
        assert!(error.contains(part), "expected {part:?} in {error:?}");
    }
}

#[test]
fn folders_and_missing_files_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    assert!(Imatrix::open(folder.path()).unwrap_err().to_string().contains("regular file"));
    assert!(Imatrix::open(&folder.path().join("nowhere")).is_err());
}

/// Names, shapes and values of tensors; f16 zeros where the values are absent.
type Tensors<'a> = &'a [(&'a str, &'a [usize], Option<&'a [f32]>)];

/// A GGUF file of these tensors.
fn modern(folder: &Path, kind: &str, tensors: Tensors<'_>) -> PathBuf {
    let path = folder.join("imatrix.gguf");
    let mut metadata = Metadata::new();
    metadata.set("general.type", kind);
    metadata.set("imatrix.datasets", Value::Array(Array::String(["one", "two"].into_iter().collect())));
    metadata.set("imatrix.chunk_count", Value::U32(9));
    let plans: Vec<TensorPlan> = tensors
        .iter()
        .map(|(name, shape, values)| TensorPlan {
            name: (*name).into(),
            element_type: if values.is_some() { E::F32 } else { E::F16 },
            shape: shape.to_vec(),
        })
        .collect();
    let mut writer = gguf::Writer::create(&path, &metadata, &plans, true).unwrap();
    for (plan, (_, _, values)) in plans.iter().zip(tensors) {
        let bytes: Vec<u8> = match values {
            Some(values) => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            None => vec![0; plan.bytes().unwrap()],
        };
        writer.write(&bytes).unwrap();
    }
    writer.finish().unwrap();
    path
}

#[test]
fn experts_are_divided_by_their_own_counts() {
    let folder = tempfile::tempdir().unwrap();
    let path = modern(
        folder.path(),
        "imatrix",
        &[
            ("e.weight.in_sum2", &[3, 2], Some(&[2.0, 4.0, 5.0, 6.0, 9.0, 12.0])),
            ("e.weight.counts", &[3, 1], Some(&[2.0, 0.0, 3.0])),
        ],
    );
    let imatrix = Imatrix::open(&path).unwrap();
    // the second expert was never routed to
    assert_eq!(imatrix.get("e.weight"), Some(&[1.0, 2.0, 1.0, 1.0, 3.0, 4.0][..]));
    assert_eq!((imatrix.chunks(), imatrix.datasets().len()), (9, 2));
}

#[test]
fn hostile_gguf_files_are_refused() {
    let one: Option<&[f32]> = Some(&[1.0]);
    let cases: [(&str, Tensors<'_>, &str); 10] = [
        ("model", &[("a.in_sum2", &[1], one), ("a.counts", &[1], one)], "general.type"),
        ("imatrix", &[], "no entries"),
        ("imatrix", &[("a.in_sum2", &[1], one)], "counts"),
        ("imatrix", &[("a.counts", &[1], one)], "in_sum2"),
        ("imatrix", &[("a.weight", &[1], one)], "in_sum2"),
        ("imatrix", &[("a.in_sum2", &[3], Some(&[1.0; 3])), ("a.counts", &[2], Some(&[1.0; 2]))], "divide"),
        ("imatrix", &[("a.in_sum2", &[1], None), ("a.counts", &[1], one)], "f16"),
        ("imatrix", &[("a.in_sum2", &[1], one), ("a.counts", &[1], Some(&[f32::NAN]))], "NaN"),
        ("imatrix", &[("a.in_sum2", &[1], Some(&[f32::NAN])), ("a.counts", &[1], one)], "NaN"),
        ("imatrix", &[("a.in_sum2", &[1], Some(&[1e30])), ("a.counts", &[1], Some(&[1e-30]))], "inf"),
    ];
    for (kind, tensors, part) in cases {
        let folder = tempfile::tempdir().unwrap();
        let error = Imatrix::open(&modern(folder.path(), kind, tensors)).unwrap_err().to_string();
        assert!(error.contains(part), "expected {part:?} in {error:?}");
        assert!(error.contains("imatrix.gguf"), "{error}");
    }
}

#[test]
fn a_truncated_gguf_file_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let whole = std::fs::read(fixture("golden/bookworm-4m.imatrix.gguf")).unwrap();
    for length in [3, 4, 20, 500, 4000, whole.len() / 2, whole.len() - 64] {
        let path = write(folder.path(), &whole[..length]);
        assert!(Imatrix::open(&path).is_err(), "{length}");
    }
}
