//! Importance matrices in both formats, sound and hostile.

use std::path::{Path, PathBuf};

use crate::common::{fixture, imatrix};
use quern_quantize::imatrix::{
    Accumulator, AddError, CollectError, CollectOptions, Collected, Format, Imatrix, WriteOptions, collect,
};
use quern_run::{LoadOptions, Model};
use quern_tensor_io::output::Inputs;
use quern_tensor_io::{
    Array, Checkpoint, ElementType as E, Metadata, NoProgress, Remedy, TensorPlan, Value, decode, gguf,
};

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
        (number(i32::MAX).to_vec(), "2147483647 entries"),
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

/// The beginning of the text that the reference was made from.
fn text() -> String {
    std::fs::read_to_string(fixture("text/calibration.txt")).unwrap()
}

fn measure(model: &Path, threads: usize, options: CollectOptions) -> Result<Collected, CollectError> {
    let model = Model::open(model, LoadOptions { threads, ..LoadOptions::default() }).unwrap();
    collect(&model, &text(), options, &NoProgress)
}

fn options(format: Format) -> WriteOptions {
    WriteOptions {
        format,
        datasets: vec!["calibration.txt".into()],
        chunk_size: 512,
        provenance: None,
        force: false,
        inputs: Inputs::default(),
    }
}

#[test]
fn the_sums_are_llama_imatrix_s() {
    let folder = tempfile::tempdir().unwrap();
    let ours = folder.path().join("ours.gguf");
    let chunks = CollectOptions { chunks: Some(64), ..CollectOptions::default() };
    let measured = measure(&fixture("bookworm-4m"), 2, chunks).unwrap();
    assert_eq!((measured.chunks, measured.tokens), (64, 64 * 512));
    let size = measured.sums.write(&ours, &options(Format::Gguf)).unwrap();
    assert_eq!(size, std::fs::metadata(&ours).unwrap().len());

    let theirs = Checkpoint::open(&fixture("golden/bookworm-4m.imatrix.gguf")).unwrap();
    let ours = Checkpoint::open(&ours).unwrap();
    assert_eq!(ours.file_size(), theirs.file_size());
    let metadata = |c: &Checkpoint| c.metadata().iter().map(|(k, v)| (k.into(), v.clone())).collect();
    let (mine, golden): (Vec<(String, Value)>, Vec<_>) = (metadata(&ours), metadata(&theirs));
    assert_eq!(mine, golden);
    assert_eq!(ours.tensors().len(), 56);
    for (ours_info, theirs_info) in ours.tensors().iter().zip(theirs.tensors()) {
        assert_eq!((&ours_info.name, &ours_info.shape), (&theirs_info.name, &theirs_info.shape));
        let values = |c: &Checkpoint, info: &quern_tensor_io::TensorInfo| {
            let mut out = vec![0.0f32; info.elements()];
            assert!(decode::to_f32(info.element_type, c.data(info), &mut out));
            out
        };
        let (a, b) = (values(&ours, ours_info), values(&theirs, theirs_info));
        for (i, (a, b)) in a.iter().zip(&b).enumerate() {
            assert!((a - b).abs() <= 1e-3 * b, "{} [{i}]: {a}, llama-imatrix has {b}", ours_info.name);
        }
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let some = CollectOptions {
        context: 100,
        chunks: Some(3),
        from_chunk: 1,
        process_output: true,
        ..CollectOptions::default()
    };
    let [one, three] = [1, 3].map(|threads| measure(&fixture("bookworm-4m"), threads, some).unwrap());
    let all = |c: &Collected| {
        c.sums.iter().map(|e| (e.name.to_owned(), e.squares.to_vec(), e.tokens.to_vec())).collect::<Vec<_>>()
    };
    assert_eq!(all(&one), all(&three));
    // the head is the embedding and has no entry
    assert_eq!(one.sums.len(), 28);
    assert!(one.sums.iter().all(|e| e.tokens == [300]));
}

#[test]
fn a_gguf_file_with_a_head_of_its_own_is_measured_under_the_same_names() {
    let folder = tempfile::tempdir().unwrap();
    let source = crate::common::altered(folder.path(), |_, _| E::F16);
    let view = quern_model::View::gguf(&source, quern_model::Packed::Refused).unwrap();
    let path = folder.path().join("f16.gguf");
    let mut plans = Vec::new();
    let mut data: Vec<Vec<u8>> = Vec::new();
    for (index, tensor) in view.tensors().iter().enumerate() {
        let mut bytes = vec![0; tensor.rows() * tensor.row_bytes];
        view.read(index, 0..tensor.rows(), &mut bytes);
        plans.push(TensorPlan {
            name: tensor.name.clone(),
            element_type: tensor.element_type,
            shape: tensor.shape.clone(),
        });
        data.push(bytes);
    }
    let embedding = plans.iter().position(|p| p.name == "token_embd.weight").unwrap();
    plans.push(TensorPlan { name: "output.weight".into(), ..plans[embedding].clone() });
    data.push(data[embedding].clone());
    let mut writer = gguf::Writer::create(&path, view.metadata(), &plans, false).unwrap();
    data.iter().for_each(|bytes| writer.write(bytes).unwrap());
    writer.finish().unwrap();

    let some = CollectOptions { context: 128, chunks: Some(2), ..CollectOptions::default() };
    let tied = measure(&fixture("bookworm-4m"), 2, some).unwrap();
    let plain = measure(&path, 2, some).unwrap();
    let headed = measure(&path, 2, CollectOptions { process_output: true, ..some }).unwrap();
    assert_eq!((tied.sums.len(), plain.sums.len(), headed.sums.len()), (28, 28, 29));
    let head = headed.sums.iter().find(|e| e.name == "output.weight").unwrap();
    assert_eq!((head.squares.len(), head.tokens), (256, [256].as_slice()));
    for (tied, plain) in tied.sums.iter().zip(plain.sums.iter()) {
        let ((name, a), (other, b)) = ((tied.name, tied.squares), (plain.name, plain.squares));
        assert_eq!(name, other);
        assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-4 * b), "{name}");
    }
}

#[test]
fn chunks_left_out_and_chunks_taken_add_up() {
    let take = |from_chunk, chunks| {
        let some =
            CollectOptions { context: 64, chunks: Some(chunks), from_chunk, ..CollectOptions::default() };
        measure(&fixture("bookworm-4m"), 2, some).unwrap().sums
    };
    let (all, first, rest) = (take(0, 3), take(0, 1), take(1, 2));
    for (all, (first, rest)) in all.iter().zip(first.iter().zip(rest.iter())) {
        let (all, first, rest) = (all.squares, first.squares, rest.squares);
        assert!(all.iter().zip(first.iter().zip(rest)).all(|(a, (b, c))| (a - b - c).abs() <= 1e-9 * a));
    }
}

#[test]
fn both_formats_say_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let mut sums = Accumulator::new();
    // 700 tokens are two calls of 512, and one whole chunk
    sums.add("blk.1.b.weight", &[1400.0f32, 0.0, 70.0], 700).unwrap();
    sums.add("blk.1.a.weight", &[512.0f64], 256).unwrap();
    sums.add("blk.1.a.weight", &[512.0f64], 256).unwrap();
    let read = |name: &str, format| {
        let path = folder.path().join(name);
        sums.write(&path, &options(format)).unwrap();
        let again = sums.write(&path, &options(format)).unwrap_err();
        assert_eq!(again.remedy(), Some(Remedy::ReplaceOutput), "{again}");
        sums.write(&path, &WriteOptions { force: true, ..options(format) }).unwrap();
        Imatrix::open(&path).unwrap()
    };
    for imatrix in [read("i.gguf", Format::Gguf), read("i.dat", Format::Dat)] {
        assert_eq!(imatrix.names().collect::<Vec<_>>(), ["blk.1.a.weight", "blk.1.b.weight"]);
        assert_eq!(imatrix.get("blk.1.a.weight"), Some(&[2.0][..]));
        assert_eq!(imatrix.get("blk.1.b.weight"), Some(&[2.0, 0.0, 0.1][..]));
        assert_eq!((imatrix.chunks(), imatrix.datasets()), (1, &["calibration.txt".to_owned()][..]));
    }
    let bytes = std::fs::read(folder.path().join("i.dat")).unwrap();
    let twin = legacy(
        &[("blk.1.a.weight", 1, &[2.0]), ("blk.1.b.weight", 2, &[4.0, 0.0, 0.2])],
        1,
        "calibration.txt",
    );
    assert_eq!(bytes, twin);
}

#[test]
fn sums_that_cannot_be_are_refused() {
    let mut sums = Accumulator::new();
    sums.add("a.weight", &[1.0f32, 2.0], 1).unwrap();
    let columns = sums.add("a.weight", &[1.0f32], 1).unwrap_err();
    assert_eq!(columns, AddError::Columns { tensor: "a.weight".into(), found: 1, expected: 2 });
    for bad in [f32::NAN, f32::INFINITY, -1.0] {
        let error = sums.add("a.weight", &[1.0, bad], 1).unwrap_err();
        assert!(matches!(&error, AddError::NotFinite { column: 1, .. }), "{error}");
    }
    let entry = sums.iter().next().unwrap();
    assert_eq!((entry.name, entry.squares, entry.tokens), ("a.weight", &[1.0, 2.0][..], &[1][..]));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("none.gguf");
    assert!(Accumulator::new().write(&path, &options(Format::Gguf)).is_err());
    assert!(!path.exists());
}

#[test]
fn a_model_that_computes_nan_is_named_by_its_layer() {
    let folder = tempfile::tempdir().unwrap();
    crate::common::altered(folder.path(), |name, values| {
        if name == "model.layers.2.mlp.up_proj.weight" {
            values[5] = f32::NAN;
        }
        E::F16
    });
    let some = CollectOptions { context: 64, chunks: Some(1), ..CollectOptions::default() };
    let error = measure(folder.path(), 2, some).unwrap_err().to_string();
    assert!(error.contains("blk.2.ffn_down.weight"), "{error}");
    assert!(error.contains("column 0"), "{error}");
}

#[test]
fn impossible_measurements_are_refused() {
    let with = |context, chunks, from_chunk| {
        let options = CollectOptions { context, chunks, from_chunk, ..CollectOptions::default() };
        measure(&fixture("bookworm-4m"), 1, options).unwrap_err().to_string()
    };
    assert!(with(0, None, 0).contains("at least 1"));
    assert!(with(64, Some(0), 0).contains("at least 1"));
    assert!(with(512, None, 1000).contains("1000 are left out"));
    assert!(with(1 << 20, None, 0).contains("trained for"));
}
