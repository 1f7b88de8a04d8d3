//! Whole jobs on the demo model: every byte as llama-quantize writes it, from either container, with any
//! number of threads.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::common::{altered, demo, imatrix, options, quantize, reference, sha256};
use quern_model::{Packed, View};
use quern_quantize::job::{self, Error, Options, Warning};
use quern_quantize::recipe::{FileType, Override};
use quern_tensor_io::{Checkpoint, ElementType as E, Metadata, Progress, Remedy};

fn metadata_without(metadata: &Metadata, keys: &[&str]) -> Metadata {
    let mut metadata = metadata.clone();
    for key in keys {
        metadata.remove(key);
    }
    metadata
}

#[test]
fn every_tensor_of_every_file_type_has_llama_quantize_s_bytes() {
    let source = demo();
    let imatrix = imatrix();
    let folder = tempfile::tempdir().unwrap();
    let mut checked = 0;
    for (key, entry) in reference() {
        let (file_type, with) = key.split_once('/').unwrap();
        let file_type = FileType::from_name(file_type).expect(file_type);
        let expected = entry["tensors"].as_object().expect("tensors");
        let type_of = |row: &serde_json::Value| E::from_name(row[0].as_str().unwrap()).expect("a type");
        let mut options = options(file_type);
        options.imatrix = (with == "imatrix").then(|| imatrix.clone());
        let output = folder.path().join("out.gguf");
        options.force = true;
        quantize(&source, options, &output).unwrap_or_else(|e| panic!("{key}: {e}"));

        let result = Checkpoint::open(&output).unwrap();
        assert_eq!(result.metadata().u64("general.file_type"), file_type.id().map(u64::from), "{key}");
        assert_eq!(result.metadata().u64("general.quantization_version"), Some(2));
        assert_eq!(result.tensors().len(), expected.len(), "{key}");
        for info in result.tensors() {
            let row = &expected[&info.name];
            assert_eq!(info.element_type, type_of(row), "{key} {}", info.name);
            assert_eq!(sha256(result.data(info)), row[1].as_str().unwrap(), "{key} {}", info.name);
            checked += 1;
        }
    }
    assert_eq!(checked, 53 * 38, "{checked} tensors: the reference has 53 runs");
}

#[test]
fn threads_do_not_change_a_byte() {
    let source = demo();
    let folder = tempfile::tempdir().unwrap();
    for file_type in [FileType::Q4KM, FileType::Q8_0, FileType::IQ4XS, FileType::BF16] {
        let file = |threads: usize| {
            let output = folder.path().join(format!("{file_type}-{threads}.gguf"));
            let options = Options { threads, imatrix: Some(imatrix()), ..Options::new(file_type) };
            quantize(&source, options, &output).unwrap();
            std::fs::read(output).unwrap()
        };
        let one = file(1);
        assert!(one == file(2), "{file_type}");
        assert!(one == file(5), "{file_type}");
    }
}

#[test]
fn a_gguf_source_gives_the_same_file() {
    let source = demo();
    let folder = tempfile::tempdir().unwrap();
    let f16 = folder.path().join("f16.gguf");
    quantize(&source, options(FileType::F16), &f16).unwrap();
    let f16 = Checkpoint::open(&f16).unwrap();
    for file_type in [FileType::Q4KM, FileType::Q5_0, FileType::TQ2_0] {
        let (direct, indirect) = (folder.path().join("direct"), folder.path().join("indirect"));
        quantize(&source, Options { force: true, ..options(file_type) }, &direct).unwrap();
        quantize(&f16, Options { force: true, ..options(file_type) }, &indirect).unwrap();
        assert!(std::fs::read(direct).unwrap() == std::fs::read(indirect).unwrap(), "{file_type}");
    }
}

#[test]
fn copying_changes_the_container_only() {
    let source = demo();
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy.gguf");
    quantize(&source, options(FileType::Copy), &copy).unwrap();
    let f16 = folder.path().join("f16.gguf");
    quantize(&source, options(FileType::F16), &f16).unwrap();
    assert!(std::fs::read(&copy).unwrap() == std::fs::read(f16).unwrap(), "an f16 source is copied as F16");

    // a copy of a quantized file is allowed and is the file itself
    let quantized = folder.path().join("q.gguf");
    let options_with = Options { imatrix: Some(imatrix()), ..options(FileType::Q4KM) };
    quantize(&source, options_with, &quantized).unwrap();
    let again = folder.path().join("again.gguf");
    quantize(&Checkpoint::open(&quantized).unwrap(), options(FileType::Copy), &again).unwrap();
    let (a, b) = (Checkpoint::open(&quantized).unwrap(), Checkpoint::open(&again).unwrap());
    for info in a.tensors() {
        assert_eq!(b.tensor(&info.name).unwrap().info.element_type, info.element_type);
        assert!(b.tensor(&info.name).unwrap().data == a.data(info), "{}", info.name);
    }
    let keys = ["general.file_type", "general.quantization_version"];
    assert_eq!(metadata_without(a.metadata(), &keys), metadata_without(b.metadata(), &keys));
    assert_eq!(b.metadata().u64("general.file_type"), Some(15));
}

#[test]
fn plain_types_round_as_they_should() {
    let folder = tempfile::tempdir().unwrap();
    let source = altered(folder.path(), |_, values| {
        values[0] = 1.0 + 1.0 / 256.0; // halfway between two bf16 numbers: to the even one, which is 1
        E::F32
    });
    let output = folder.path().join("bf16.gguf");
    quantize(&source, options(FileType::BF16), &output).unwrap();
    let result = Checkpoint::open(&output).unwrap();
    let tensor = result.tensor("blk.2.ffn_down.weight").unwrap();
    assert_eq!(tensor.info.element_type, E::BF16);
    assert_eq!(tensor.data[..2], [0x80, 0x3f]);
    let norm = result.tensor("blk.2.ffn_norm.weight").unwrap();
    assert_eq!(norm.info.element_type, E::F32);
    assert_eq!(norm.data[..4], (1.0_f32 + 1.0 / 256.0).to_le_bytes());
}

#[test]
fn what_is_quantized_is_quantized_again_only_on_request() {
    let folder = tempfile::tempdir().unwrap();
    let q8 = folder.path().join("q8.gguf");
    quantize(&demo(), options(FileType::Q8_0), &q8).unwrap();
    let q8 = Checkpoint::open(&q8).unwrap();
    let output = folder.path().join("q4.gguf");
    let error = quantize(&q8, options(FileType::Q4_0), &output).unwrap_err();
    let Error::File(file) = &error else { panic!("{error}") };
    assert!(file.to_string().contains("already quantized with q8_0"), "{error}");
    assert_eq!(error.remedy(), Some(Remedy::AllowRequantize));
    assert!(!output.exists());
    quantize(&q8, Options { allow_requantize: true, ..options(FileType::Q4_0) }, &output).unwrap();
    let result = Checkpoint::open(&output).unwrap();
    assert_eq!(result.tensor("blk.0.attn_q.weight").unwrap().info.element_type, E::Q4_0);
}

#[derive(Default)]
struct Counter {
    total: AtomicU64,
    done: AtomicU64,
    steps: Mutex<Vec<String>>,
}

impl Progress for Counter {
    fn total(&self, units: u64) {
        self.total.fetch_add(units, Ordering::Relaxed);
    }

    fn advance(&self, units: u64) {
        self.done.fetch_add(units, Ordering::Relaxed);
    }

    fn step(&self, what: &str) {
        self.steps.lock().unwrap().push(what.to_owned());
    }
}

#[test]
fn the_plan_tells_what_the_job_does() {
    let source = demo();
    let view = View::gguf(&source, Packed::Refused).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.gguf");
    let mut wishes = options(FileType::Q4KM);
    wishes.overrides = vec![Override::parse(r"blk\.[01]\.attn_q=q8_0").unwrap()];
    wishes.imatrix = Some(imatrix());
    let plan = job::plan(&view, wishes).unwrap();
    assert_eq!(plan.warnings(), [], "the demo model and its matrix fit");
    assert_eq!(plan.source_bytes(), source.tensors().iter().map(|t| t.bytes as u64).sum::<u64>());
    let progress = Counter::default();
    let report = job::run(&plan, &output, &progress).unwrap();
    assert_eq!(progress.total.into_inner(), plan.source_bytes());
    assert_eq!(progress.done.into_inner(), plan.source_bytes());
    let names: Vec<String> = plan.rows().iter().map(|r| r.name.clone()).collect();
    assert_eq!(progress.steps.into_inner().unwrap(), names);

    assert_eq!(report.file_size, plan.file_size());
    assert_eq!(report.file_size, std::fs::metadata(&output).unwrap().len());
    assert_eq!((report.tensors, report.tensor_bytes), (38, plan.tensor_bytes()));
    let result = Checkpoint::open(&output).unwrap();
    assert_eq!(result.metadata(), plan.metadata());
    for (info, row) in result.tensors().iter().zip(plan.rows()) {
        assert_eq!((&info.name, info.element_type, info.bytes as u64), (&row.name, row.to, row.bytes));
        assert_eq!(info.shape, row.shape);
    }
    assert_eq!(result.tensor("blk.1.attn_q.weight").unwrap().info.element_type, E::Q8_0);
    let parameters: usize = source.tensors().iter().map(|t| t.elements()).sum();
    assert_eq!(plan.parameters(), parameters as u64);
    let bits = plan.tensor_bytes() as f64 * 8.0 / parameters as f64;
    assert!((plan.bits_per_weight() - bits).abs() < 1e-9);

    let metadata = result.metadata();
    assert!(metadata.str("quantize.imatrix.file").unwrap().ends_with("bookworm-4m.imatrix.gguf"));
    assert_eq!(metadata.str("quantize.imatrix.dataset"), Some("calibration.txt"));
    assert_eq!(metadata.u64("quantize.imatrix.entries_count"), Some(28));
    assert_eq!(metadata.u64("quantize.imatrix.chunks_count"), Some(64));
}

#[test]
fn a_dry_run_warns_of_what_will_not_run() {
    let source = demo();
    let view = View::gguf(&source, Packed::Refused).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.gguf");

    let plan = job::plan(&view, options(FileType::Q2KS)).unwrap();
    assert!(plan.file_size() > 0);
    assert!(matches!(plan.warnings(), [Warning::NeedsImatrix { tensors }] if tensors.len() == 28));
    let error = job::run(&plan, &output, &quern_tensor_io::NoProgress).unwrap_err();
    assert!(matches!(error, Error::NeedsImatrix { element_type: E::Q2K, .. }), "{error}");
    assert!(crate::common::names(folder.path()).is_empty());
}
